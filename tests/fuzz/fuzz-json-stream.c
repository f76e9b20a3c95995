/* What a QMP client sends, up to the commands: JSON values in a stream that comes in pieces, and
 * their way into the C types of the schema and back. */
#include "monitor/jsonstream.h"
#include "schema/types.h"
#include "tests/fuzz/fuzz.h"

/* Every event's data is a struct of the schema; together they have all kinds of members. */
static void try_types(json_object *value)
{
    for (const QmpEventInfo *e = qmp_events; e->name; e++) {
        g_autofree void *data = e->data ? g_malloc0(e->data->size + 1) : NULL;

        if (!e->data || !qmp_parse_struct(e->data, value, "member", data, NULL))
            continue;
        json_object_put(qmp_build_struct(e->data, data));
        qmp_clear_struct(e->data, data);
    }
    /* Unions, alternates and arrays are in what commands take and give. */
    static const QmpType *const types[] = { &qmp_type_blockdev_options, &qmp_type_chardev_backend,
                                            &qmp_type_schema_info, &qmp_type_cpu_model_info };
    for (size_t i = 0; i < G_N_ELEMENTS(types); i++) {
        void *place = NULL;

        if (!qmp_parse(types[i], value, "member", &place, NULL))
            continue;
        json_object_put(qmp_build(types[i], &place));
        qmp_clear(types[i], &place);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    JsonStream *stream = json_stream_new(4096);
    size_t piece = size ? 1 + data[0] % 64 : 1;

    fuzz_limit_cpu();
    for (size_t at = 0; at < size;) {
        size_t used = 0, n = piece < size - at ? piece : size - at;
        json_object *value = NULL;
        g_autoptr(GError) error = NULL;

        if (json_stream_feed(stream, data + at, n, &used, &value, &error) == JSON_STREAM_VALUE)
            try_types(value);
        json_object_put(value);
        at += used;
    }
    json_stream_free(stream);
    return 0;
}

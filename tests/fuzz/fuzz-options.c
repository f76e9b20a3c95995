/* Text from the command line: key=value lists, JSON, and values of each type. */
#include "src/base/options.h"
#include "tests/fuzz/fuzz.h"

static void try_value(json_object *value)
{
    bool b;
    uint64_t u;
    int64_t i;

    value_to_bool(value, "value", &b, NULL);
    value_to_u64(value, "value", &u, NULL);
    value_to_i64(value, "value", &i, NULL);
    value_to_size(value, "value", &u, NULL);
}

static void try_members(json_object *options)
{
    if (!json_object_is_type(options, json_type_object)) {
        try_value(options);
        return;
    }
    json_object_object_foreach(options, key, value)
    {
        (void)key;
        try_value(value);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    g_autoptr(json_object) options = options_parse(text, size & 1 ? "driver" : NULL, NULL);
    g_autoptr(json_object) json = json_parse((const char *)data, size, NULL);

    fuzz_limit_cpu();
    try_members(options);
    try_members(json);
    return 0;
}

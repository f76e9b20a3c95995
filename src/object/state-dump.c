/* Saved state as JSON, for people and for comparison.  Needs no tables: the stream says what it is. */
#include <string.h>
#include "src/base/options.h"
#include "src/base/util.h"
#include "src/object/state-priv.h"

static bool dump_fields(Cursor c, json_object *out, const char *prefix, unsigned depth,
                        GError **error);

#define DUMP_DEPTH_MAX 32                  /* of structs in structs; tables nest a few times */

static json_object *dump_number(const uint8_t *p, StateKind kind)
{
    uint64_t n = number_decode(p, kind);

    if (kind == STATE_BOOL)
        return json_object_new_boolean(n != 0);
    return state_kind_signed(kind) ? json_object_new_int64(n) : json_object_new_uint64(n);
}

static json_object *dump_numbers(Cursor c, GError **error)
{
    json_object *list;
    uint8_t kind = 0;
    unsigned size;

    cursor_u8(&c, &kind);
    size = state_kind_size(kind);
    if (!size || c.p == c.end || (c.end - c.p) % size) {
        fail(error, ERR_CORRUPT, "numbers of an unknown kind or length");
        return NULL;
    }
    if ((size_t)(c.end - c.p) == size)
        return dump_number(c.p, kind);
    list = json_object_new_array();
    for (; c.p < c.end; c.p += size)
        json_object_array_add(list, dump_number(c.p, kind));
    return list;
}

static json_object *dump_bytes(Cursor c)
{
    GString *hex = g_string_new(NULL);
    json_object *text;

    for (; c.p < c.end; c.p++)
        g_string_append_printf(hex, "%02x", *c.p);
    text = json_object_new_string(hex->str);
    g_string_free(hex, TRUE);
    return text;
}

static json_object *dump_struct(Cursor c, unsigned depth, GError **error)
{
    g_autoptr(json_object) fields = json_object_new_object();
    uint32_t version;

    if (!cursor_u32(&c, &version)) {
        fail(error, ERR_CORRUPT, "a struct without a version");
        return NULL;
    }
    return dump_fields(c, fields, "", depth + 1, error) ? json_object_get(fields) : NULL;
}

static json_object *dump_structs(Cursor c, unsigned depth, GError **error)
{
    g_autoptr(json_object) list = json_object_new_array();

    while (c.p < c.end) {
        json_object *one;
        Record r;

        if (!record_next(&c, &r, "state", error))
            return NULL;
        one = dump_struct(r.payload, depth, error);
        if (!one)
            return NULL;
        json_object_array_add(list, one);
    }
    if (json_object_array_length(list) == 1)
        return json_object_get(json_object_array_get_idx(list, 0));
    return json_object_get(list);
}

static json_object *dump_fn(Cursor c, unsigned depth, GError **error)
{
    g_autoptr(json_object) values = json_object_new_object();

    return dump_fields(c, values, "", depth + 1, error) ? json_object_get(values) : NULL;
}

static json_object *dump_value(const Record *r, unsigned depth, GError **error)
{
    switch (r->kind) {
    case RECORD_NUMBERS: return dump_numbers(r->payload, error);
    case RECORD_BYTES: return dump_bytes(r->payload);
    case RECORD_STRUCTS: return dump_structs(r->payload, depth, error);
    case RECORD_FN: return dump_fn(r->payload, depth, error);
    default:
        fail(error, ERR_CORRUPT, "a part in the place of a field");
        return NULL;
    }
}

/* Adds the fields to @out; a name that is taken (two types of one object) gets @prefix. */
static bool dump_fields(Cursor c, json_object *out, const char *prefix, unsigned depth,
                        GError **error)
{
    if (depth > DUMP_DEPTH_MAX)
        return fail(error, ERR_LIMIT, "structs are nested too deep");
    while (c.p < c.end) {
        g_autofree char *name = NULL;
        json_object *value;
        Record r;

        if (!record_next(&c, &r, "state", error))
            return false;
        value = dump_value(&r, depth, error);
        if (!value)
            return false;
        name = g_strndup(r.name, r.name_length);
        if (json_object_object_get_ex(out, name, NULL)) {
            char *longer = g_strconcat(prefix, ".", name, NULL);

            g_free(name);
            name = longer;
        }
        json_object_object_add(out, name, value);
    }
    return true;
}

static bool dump_object(const Record *object, json_object *out, GError **error)
{
    g_autofree char *id = g_strndup(object->name, object->name_length);
    json_object *fields = json_object_new_object();
    Cursor c = object->payload;
    uint16_t length;

    json_object_object_add(out, id, fields);
    if (c.end - c.p < 2 || c.end - c.p < 2 + (length = ld_le16(c.p)))
        return fail(error, ERR_CORRUPT, "state of '%s' has no type", id);
    for (c.p += 2 + length; c.p < c.end;) {
        g_autofree char *type = NULL;
        uint32_t version;
        Record r;

        if (!record_next(&c, &r, id, error))
            return false;
        type = g_strndup(r.name, r.name_length);
        if (r.kind != RECORD_TABLE || !cursor_u32(&r.payload, &version))
            return fail(error, ERR_CORRUPT, "state of '%s': '%s' is not a part", id, type);
        if (!dump_fields(r.payload, fields, type, 0, error))
            return error_prefix(error, "state of '%s': ", id);
    }
    return true;
}

json_object *state_dump(const uint8_t *data, size_t length, GError **error)
{
    g_autoptr(json_object) out = json_object_new_object();
    Cursor c = { data, length ? data + length : data };

    if (length >= STATE_MAGIC_SIZE && !memcmp(data, STATE_MAGIC, STATE_MAGIC_SIZE))
        c.p += STATE_MAGIC_SIZE;
    while (c.p < c.end) {
        Record r;

        if (!record_next(&c, &r, "state", error))
            return NULL;
        if (r.kind == RECORD_END)
            break;
        if (r.kind != RECORD_OBJECT) {
            fail(error, ERR_CORRUPT, "a part in the place of an object");
            return NULL;
        }
        if (!dump_object(&r, out, error))
            return NULL;
    }
    return json_object_get(out);
}

/* The kinds of properties that every floor shares. */
#include "src/object/property.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "src/base/options.h"
#include "src/base/util.h"
#include "src/object/object.h"

/* ---- helpers for set functions ---- */

char *property_what(const Object *obj, const Property *prop)
{
    while (obj->forwarder)
        obj = obj->forwarder;
    return g_strdup_printf("property '%s' of '%s'", prop->name, obj->type->name);
}

bool property_fail(const Object *obj, const Property *prop, GError **error, ErrorCode code,
                   const char *format, ...)
{
    g_autofree char *what = property_what(obj, prop);
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    return fail(error, code, "%s: %s", what, text);
}

bool property_str(const Object *obj, const Property *prop, json_object *value, const char **ret,
                  GError **error)
{
    if (!json_object_is_type(value, json_type_string))
        return property_fail(obj, prop, error, ERR_WRONG_TYPE, "a string is expected, not %s",
                             json_type_to_name(json_object_get_type(value)));
    *ret = json_object_get_string(value);
    return true;
}

/* ---- bool ---- */

/* The value was refused: says whether its type or its text is to blame. */
static bool refuse(const Object *obj, const Property *prop, json_object *value, const char *wanted,
                   GError **error)
{
    json_type type = json_object_get_type(value);

    if (type == json_type_string)
        return property_fail(obj, prop, error, ERR_INVALID_PARAMETER, "'%s' is not %s",
                             json_object_get_string(value), wanted);
    return property_fail(obj, prop, error, ERR_WRONG_TYPE, "%s is expected, not %s", wanted,
                         json_type_to_name(type));
}

static bool parse_bool(Object *obj, const Property *prop, json_object *value, bool *ret,
                       GError **error)
{
    return value_to_bool(value, "", ret, NULL) ||
           refuse(obj, prop, value, "'on' or 'off'", error);
}

static bool set_bool(Object *obj, const Property *prop, json_object *value, GError **error)
{
    return parse_bool(obj, prop, value, property_ptr(obj, prop), error);
}

static json_object *get_bool(Object *obj, const Property *prop)
{
    return json_object_new_boolean(*(bool *)property_ptr(obj, prop));
}

static void default_bool(Object *obj, const Property *prop)
{
    *(bool *)property_ptr(obj, prop) = prop->def.b;
}

const PropertyKind prop_bool = { "bool", set_bool, get_bool, NULL, default_bool };

/* ---- numbers ---- */

static bool parse_unsigned(Object *obj, const Property *prop, json_object *value, uint64_t kind_max,
                           bool size, uint64_t *ret, GError **error)
{
    bool own_range = prop->min || prop->max;
    uint64_t min = own_range ? prop->min : 0, max = own_range ? prop->max : kind_max, n;
    int64_t negative;

    if (size ? value_to_size(value, "", &n, NULL) : value_to_u64(value, "", &n, NULL)) {
        if (n >= min && n <= max) {
            *ret = n;
            return true;
        }
    } else if (!value_to_i64(value, "", &negative, NULL) || negative >= 0) {
        return refuse(obj, prop, value, size ? "a size" : "a number", error);
    }
    return property_fail(obj, prop, error, ERR_INVALID_PARAMETER,
                         "%s is not between %" G_GUINT64_FORMAT " and %" G_GUINT64_FORMAT,
                         json_object_get_string(value), min, max);
}

static bool parse_signed(Object *obj, const Property *prop, json_object *value, int64_t kind_min,
                         int64_t kind_max, int64_t *ret, GError **error)
{
    bool own_range = prop->min || prop->max;
    int64_t min = own_range ? (int64_t)prop->min : kind_min, n;
    int64_t max = own_range ? (int64_t)prop->max : kind_max;

    if (!value_to_i64(value, "", &n, NULL))
        return refuse(obj, prop, value, "a number", error);
    if (n < min || n > max)
        return property_fail(obj, prop, error, ERR_INVALID_PARAMETER,
                             "%s is not between %" G_GINT64_FORMAT " and %" G_GINT64_FORMAT,
                             json_object_get_string(value), min, max);
    *ret = n;
    return true;
}

#define UNSIGNED_KIND(kind, name, T, kind_max, is_size)                                            \
    static bool set_##kind(Object *obj, const Property *prop, json_object *value, GError **error)  \
    {                                                                                              \
        uint64_t n = 0;                                                                            \
                                                                                                   \
        if (!parse_unsigned(obj, prop, value, kind_max, is_size, &n, error))                       \
            return false;                                                                          \
        *(T *)property_ptr(obj, prop) = n;                                                         \
        return true;                                                                               \
    }                                                                                              \
    static json_object *get_##kind(Object *obj, const Property *prop)                              \
    {                                                                                              \
        return json_object_new_uint64(*(T *)property_ptr(obj, prop));                              \
    }                                                                                              \
    static void default_##kind(Object *obj, const Property *prop)                                  \
    {                                                                                              \
        *(T *)property_ptr(obj, prop) = prop->def.u;                                               \
    }                                                                                              \
    const PropertyKind prop_##kind = { name, set_##kind, get_##kind, NULL, default_##kind }

UNSIGNED_KIND(u8, "uint8", uint8_t, UINT8_MAX, false);
UNSIGNED_KIND(u16, "uint16", uint16_t, UINT16_MAX, false);
UNSIGNED_KIND(u32, "uint32", uint32_t, UINT32_MAX, false);
UNSIGNED_KIND(u64, "uint64", uint64_t, UINT64_MAX, false);
UNSIGNED_KIND(size, "size", uint64_t, UINT64_MAX, true);
UNSIGNED_KIND(size32, "size", uint32_t, UINT32_MAX, true);

#define SIGNED_KIND(kind, name, T, kind_min, kind_max)                                             \
    static bool set_##kind(Object *obj, const Property *prop, json_object *value, GError **error)  \
    {                                                                                              \
        int64_t n = 0;                                                                             \
                                                                                                   \
        if (!parse_signed(obj, prop, value, kind_min, kind_max, &n, error))                        \
            return false;                                                                          \
        *(T *)property_ptr(obj, prop) = n;                                                         \
        return true;                                                                               \
    }                                                                                              \
    static json_object *get_##kind(Object *obj, const Property *prop)                              \
    {                                                                                              \
        return json_object_new_int64(*(T *)property_ptr(obj, prop));                               \
    }                                                                                              \
    static void default_##kind(Object *obj, const Property *prop)                                  \
    {                                                                                              \
        *(T *)property_ptr(obj, prop) = prop->def.i;                                               \
    }                                                                                              \
    const PropertyKind prop_##kind = { name, set_##kind, get_##kind, NULL, default_##kind }

SIGNED_KIND(i32, "int32", int32_t, INT32_MIN, INT32_MAX);
SIGNED_KIND(i64, "int64", int64_t, INT64_MIN, INT64_MAX);

/* ---- single bits ---- */

#define BIT_KIND(kind, T)                                                                          \
    static bool set_##kind(Object *obj, const Property *prop, json_object *value, GError **error)  \
    {                                                                                              \
        T *word = property_ptr(obj, prop), mask = (T)1 << prop->bit;                               \
        bool on = false;                                                                           \
                                                                                                   \
        if (!parse_bool(obj, prop, value, &on, error))                                             \
            return false;                                                                          \
        *word = on ? *word | mask : *word & ~mask;                                                 \
        return true;                                                                               \
    }                                                                                              \
    static json_object *get_##kind(Object *obj, const Property *prop)                              \
    {                                                                                              \
        return json_object_new_boolean(*(T *)property_ptr(obj, prop) >> prop->bit & 1);            \
    }                                                                                              \
    static void default_##kind(Object *obj, const Property *prop)                                  \
    {                                                                                              \
        T *word = property_ptr(obj, prop), mask = (T)1 << prop->bit;                               \
                                                                                                   \
        *word = prop->def.b ? *word | mask : *word & ~mask;                                        \
    }                                                                                              \
    const PropertyKind prop_##kind = { "bool", set_##kind, get_##kind, NULL, default_##kind }

BIT_KIND(bit32, uint32_t);
BIT_KIND(bit64, uint64_t);

/* ---- strings ---- */

static bool set_str(Object *obj, const Property *prop, json_object *value, GError **error)
{
    char **member = property_ptr(obj, prop);
    const char *text;

    if (!property_str(obj, prop, value, &text, error))
        return false;
    g_free(*member);
    *member = g_strdup(text);
    return true;
}

static json_object *get_str(Object *obj, const Property *prop)
{
    const char *text = *(char **)property_ptr(obj, prop);

    return json_object_new_string(text ? text : "");
}

static void release_str(Object *obj, const Property *prop)
{
    g_clear_pointer((char **)property_ptr(obj, prop), g_free);
}

static void default_str(Object *obj, const Property *prop)
{
    *(char **)property_ptr(obj, prop) = g_strdup(prop->def.s);
}

const PropertyKind prop_str = { "string", set_str, get_str, release_str, default_str };

/* ---- enumerations ---- */

static bool parse_word(Object *obj, const Property *prop, json_object *value,
                       const char *const *words, int *ret, GError **error)
{
    g_autofree char *list = NULL;
    const char *text, *near;

    if (!property_str(obj, prop, value, &text, error))
        return false;
    for (int i = 0; words[i]; i++) {
        if (!strcmp(words[i], text)) {
            *ret = i;
            return true;
        }
    }
    list = g_strjoinv(", ", (char **)words);
    property_fail(obj, prop, error, ERR_INVALID_PARAMETER, "'%s' is not one of: %s", text, list);
    near = nearest_word(text, words);
    return near ? error_hint(error, "did you mean '%s'?", near) : false;
}

static bool set_enum(Object *obj, const Property *prop, json_object *value, GError **error)
{
    return parse_word(obj, prop, value, prop->words, property_ptr(obj, prop), error);
}

static json_object *get_enum(Object *obj, const Property *prop)
{
    return json_object_new_string(prop->words[*(int *)property_ptr(obj, prop)]);
}

static void default_enum(Object *obj, const Property *prop)
{
    *(int *)property_ptr(obj, prop) = prop->def.i;
}

const PropertyKind prop_enum = { "enum", set_enum, get_enum, NULL, default_enum };

static const char *const on_off_auto_words[] = { "auto", "on", "off", NULL };

static bool set_on_off_auto(Object *obj, const Property *prop, json_object *value, GError **error)
{
    OnOffAuto *member = property_ptr(obj, prop);
    int n;

    if (json_object_is_type(value, json_type_boolean)) {
        *member = json_object_get_boolean(value) ? ON_OFF_ON : ON_OFF_OFF;
        return true;
    }
    if (!parse_word(obj, prop, value, on_off_auto_words, &n, error))
        return false;
    *member = n;
    return true;
}

static json_object *get_on_off_auto(Object *obj, const Property *prop)
{
    return json_object_new_string(on_off_auto_words[*(OnOffAuto *)property_ptr(obj, prop)]);
}

const PropertyKind prop_on_off_auto = { "OnOffAuto", set_on_off_auto, get_on_off_auto, NULL,
                                        default_enum };

/* ---- links ---- */

/* An id names a user's object or a device; anything else is a path. */
static Object *find_link_target(Object *obj, const char *text)
{
    static const char *const places[] = { "/objects/", "/machine/peripheral/" };

    if (!strchr(text, '/')) {
        for (unsigned i = 0; i < G_N_ELEMENTS(places); i++) {
            g_autofree char *path = g_strconcat(places[i], text, NULL);
            Object *target = object_resolve(obj, path);

            if (target)
                return target;
        }
    }
    return object_resolve(obj, text);
}

static bool set_link(Object *obj, const Property *prop, json_object *value, GError **error)
{
    Object **member = property_ptr(obj, prop), *target = NULL;
    const char *text;

    if (!property_str(obj, prop, value, &text, error))
        return false;
    if (*text) {
        target = find_link_target(obj, text);
        if (!target)
            return property_fail(obj, prop, error, ERR_NOT_FOUND, "there is no object '%s'", text);
        if (prop->link_type && !object_is_a(target, prop->link_type))
            return property_fail(obj, prop, error, ERR_INVALID_PARAMETER,
                                 "'%s' is a '%s', but a '%s' is needed", text, target->type->name,
                                 prop->link_type);
        object_ref(target);
    }
    object_unref(*member);
    *member = target;
    return true;
}

static json_object *get_link(Object *obj, const Property *prop)
{
    Object *target = *(Object **)property_ptr(obj, prop);
    g_autofree char *path = target ? object_path(target) : g_strdup("");

    return json_object_new_string(path);
}

static void release_link(Object *obj, const Property *prop)
{
    g_clear_pointer((Object **)property_ptr(obj, prop), object_unref);
}

const PropertyKind prop_link = { "link", set_link, get_link, release_link, NULL };

/* ---- identifiers ---- */

static bool parse_hex_bytes(const char *text, uint8_t *bytes, unsigned n, const uint8_t *dash_after)
{
    for (unsigned i = 0; i < n; i++) {
        if (!g_ascii_isxdigit(text[0]) || !g_ascii_isxdigit(text[1]))
            return false;
        bytes[i] = g_ascii_xdigit_value(text[0]) << 4 | g_ascii_xdigit_value(text[1]);
        text += 2;
        if (dash_after[i] && *text++ != dash_after[i])
            return false;
    }
    return !*text;
}

bool parse_uuid(const char *text, uint8_t uuid[16], GError **error)
{
    static const uint8_t dashes[16] = { [3] = '-', [5] = '-', [7] = '-', [9] = '-' };
    g_autofree char *made = !strcmp(text, "auto") ? g_uuid_string_random() : NULL;
    uint8_t bytes[16];

    if (!parse_hex_bytes(made ? made : text, bytes, sizeof(bytes), dashes))
        return fail(error, ERR_INVALID_PARAMETER, "'%s' is not a UUID", text);
    memcpy(uuid, bytes, sizeof(bytes));
    return true;
}

static bool set_uuid(Object *obj, const Property *prop, json_object *value, GError **error)
{
    const char *text;

    return property_str(obj, prop, value, &text, error) &&
           parse_uuid(text, property_ptr(obj, prop), error);
}

static json_object *get_uuid(Object *obj, const Property *prop)
{
    const uint8_t *b = property_ptr(obj, prop);
    char text[37];

    snprintf(text, sizeof(text),
             "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
             b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
             b[15]);
    return json_object_new_string(text);
}

static void default_from_text(Object *obj, const Property *prop)
{
    if (prop->def.s) {
        json_object *value = json_object_new_string(prop->def.s);

        prop->kind->set(obj, prop, value, NULL);
        json_object_put(value);
    }
}

const PropertyKind prop_uuid = { "uuid", set_uuid, get_uuid, NULL, default_from_text };

static bool set_mac(Object *obj, const Property *prop, json_object *value, GError **error)
{
    static const uint8_t colons[6] = { ':', ':', ':', ':', ':', 0 };
    static const uint8_t dashes[6] = { '-', '-', '-', '-', '-', 0 };
    uint8_t bytes[6];
    const char *text;

    if (!property_str(obj, prop, value, &text, error))
        return false;
    if (!parse_hex_bytes(text, bytes, sizeof(bytes), colons) &&
        !parse_hex_bytes(text, bytes, sizeof(bytes), dashes))
        return property_fail(obj, prop, error, ERR_INVALID_PARAMETER, "'%s' is not a MAC address",
                             text);
    memcpy(property_ptr(obj, prop), bytes, sizeof(bytes));
    return true;
}

static json_object *get_mac(Object *obj, const Property *prop)
{
    const uint8_t *b = property_ptr(obj, prop);
    char text[18];

    snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4],
             b[5]);
    return json_object_new_string(text);
}

const PropertyKind prop_mac = { "macaddr", set_mac, get_mac, NULL, default_from_text };

/* ---- computed ---- */

static bool set_fn(Object *obj, const Property *prop, json_object *value, GError **error)
{
    return prop->set(obj, prop, value, error);
}

static json_object *get_fn(Object *obj, const Property *prop)
{
    return prop->get ? prop->get(obj, prop) : NULL;
}

const PropertyKind prop_fn = { "any", set_fn, get_fn, NULL, NULL };

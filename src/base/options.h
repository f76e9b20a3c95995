/*
 * Option values.  The command line's `key=value,…` text and JSON text both become one json_object:
 * a value is a JSON value, or a string still to be parsed by whoever knows its type (property
 * setters and options_get_* take both forms).
 *
 * key=value syntax (QEMU's): `,` separates, `,,` is a literal comma, `a.b=c` makes {a:{b:c}},
 * `a.0=x,a.1=y` an array, a first element without `=` is @implied_key's value (if given), a later one
 * without `=` is `key=on` (and `nokey` is `key=off`).
 */
#pragma once
#include <json-c/json.h>
#include "src/base/error.h"

G_DEFINE_AUTOPTR_CLEANUP_FUNC(json_object, json_object_put)

/* A member as text, which lives as long as it; NULL: there is none, or no object. */
static inline const char *json_get_str(json_object *object, const char *key)
{
    json_object *value;
    return json_object_object_get_ex(object, key, &value) ? json_object_get_string(value) : NULL;
}

/* Members of an object that is being made, in the place of what the key had. */
static inline void json_add_str(json_object *object, const char *key, const char *value)
{
    json_object_object_add(object, key, json_object_new_string(value));
}
static inline void json_add_bool(json_object *object, const char *key, bool value)
{
    json_object_object_add(object, key, json_object_new_boolean(value));
}
static inline void json_add_int(json_object *object, const char *key, int64_t value)
{
    json_object_object_add(object, key, json_object_new_int64(value));
}
static inline void json_add_u64(json_object *object, const char *key, uint64_t value)
{
    json_object_object_add(object, key, json_object_new_uint64(value));
}

/* Text that starts with '{' is JSON, anything else key=value.  Returns an object, or NULL. */
json_object *options_parse(const char *text, const char *implied_key, GError **error);

/* Members of a JSON object that are written with dots become what key=value text makes of them. */
bool options_nest(json_object *options, GError **error);

/* JSON, strings also in single quotes: one value, nothing after it; says where it went wrong.  Depth
 * limit 1024, duplicate members refused. */
json_object *json_parse(const char *text, size_t length, GError **error);
/* The same where null may come: *ret is NULL for it. */
bool json_parse_value(const char *text, size_t length, json_object **ret, GError **error);

/* Members with a type.  Absent: *ret is left alone and true is returned.  Strings are parsed
 * ("on"/"off"/"true"/"false"/"yes"/"no"; 0x and decimal; sizes with K M G T suffixes, powers of 1024). */
bool options_get_bool(json_object *options, const char *key, bool *ret, GError **error);
bool options_get_u64(json_object *options, const char *key, uint64_t *ret, GError **error);
bool options_get_i64(json_object *options, const char *key, int64_t *ret, GError **error);
bool options_get_size(json_object *options, const char *key, uint64_t *ret, GError **error);
bool options_get_str(json_object *options, const char *key, const char **ret, GError **error);
/* Index of the word in @words (NULL-ended); the error lists them and the nearest. */
bool options_get_enum(json_object *options, const char *key, const char *const *words, int *ret,
                      GError **error);
/* Like the above, for a bare value.  @what names it in errors: "property 'queue-size'". */
bool value_to_bool(json_object *value, const char *what, bool *ret, GError **error);
bool value_to_u64(json_object *value, const char *what, uint64_t *ret, GError **error);
bool value_to_i64(json_object *value, const char *what, int64_t *ret, GError **error);
bool value_to_size(json_object *value, const char *what, uint64_t *ret, GError **error);
bool value_to_str(json_object *value, const char *what, const char **ret, GError **error);
bool value_to_enum(json_object *value, const char *what, const char *const *words, int *ret,
                   GError **error);

/* Takes a member out of @options: what is left over at the end is unknown.  NULL if absent; the
 * caller owns the reference. */
json_object *options_take(json_object *options, const char *key);
/* False, naming the first member left and the nearest of @known (NULL-ended, may be NULL). */
bool options_check_empty(json_object *options, const char *what, const char *const *known,
                         GError **error);

/* The entry of @words nearest to @word (edit distance), or NULL if none is near. */
const char *nearest_word(const char *word, const char *const *words);

/* Arguments by schema.  Types are SchemaInfo objects, found by their masked names. */
#include "src/tools/ctl-schema.h"
#include <string.h>

struct CtlSchema {
    json_object *info;             /* keeps the rest alive; NULL: nothing is known */
    GHashTable *entries;           /* name to SchemaInfo; commands and types share the names' space */
};

CtlSchema *ctl_schema_new(json_object *info)
{
    CtlSchema *schema = g_new0(CtlSchema, 1);
    schema->entries = g_hash_table_new(g_str_hash, g_str_equal);
    if (!json_object_is_type(info, json_type_array))
        return schema;
    schema->info = json_object_get(info);
    for (size_t i = 0; i < json_object_array_length(info); i++) {
        json_object *entry = json_object_array_get_idx(info, i), *name;
        if (json_object_object_get_ex(entry, "name", &name))
            g_hash_table_insert(schema->entries, (void *)json_object_get_string(name), entry);
    }
    return schema;
}

void ctl_schema_free(CtlSchema *schema)
{
    if (!schema)
        return;
    g_hash_table_unref(schema->entries);
    json_object_put(schema->info);
    g_free(schema);
}

static json_object *find(const CtlSchema *schema, const char *name)
{
    return name ? g_hash_table_lookup(schema->entries, name) : NULL;
}

static bool is_meta(json_object *type, const char *meta)
{
    return !g_strcmp0(json_get_str(type, "meta-type"), meta);
}

static json_object *find_command(const CtlSchema *schema, const char *command)
{
    json_object *entry = find(schema, command);
    return is_meta(entry, "command") ? entry : NULL;
}

/* The object type of a command's arguments. */
static json_object *arguments_of(const CtlSchema *schema, const char *command)
{
    return find(schema, json_get_str(find_command(schema, command), "arg-type"));
}

static json_object *array_member(json_object *object, const char *key)
{
    json_object *array;
    return object && json_object_object_get_ex(object, key, &array) &&
                   json_object_is_type(array, json_type_array)
               ? array
               : NULL;
}

static size_t length_of(json_object *array)
{
    return array ? json_object_array_length(array) : 0;
}

/* Calls fn for each member of an object type, those of its variants too; fn returns true to stop. */
typedef bool MemberFn(json_object *member, bool of_variant, void *opaque);

static bool each_member(const CtlSchema *schema, json_object *type, bool of_variant, MemberFn *fn,
                        void *opaque)
{
    json_object *members = array_member(type, "members");
    for (size_t i = 0; i < length_of(members); i++) {
        if (fn(json_object_array_get_idx(members, i), of_variant, opaque))
            return true;
    }
    json_object *variants = array_member(type, "variants");
    for (size_t i = 0; !of_variant && i < length_of(variants); i++) {
        json_object *variant = json_object_array_get_idx(variants, i);
        if (each_member(schema, find(schema, json_get_str(variant, "type")), true, fn, opaque))
            return true;
    }
    return false;
}

/* Whether @given, as far as it is known, excludes a variant of @type. */
static bool is_other_variant(json_object *type, json_object *variant, json_object *given)
{
    const char *tag = json_get_str(type, "tag");
    const char *chosen = tag && given ? json_get_str(given, tag) : NULL;
    return chosen && g_strcmp0(chosen, json_get_str(variant, "case"));
}

static json_object *given_part(json_object *given, const char *part)
{
    json_object *inner = NULL;
    if (json_object_is_type(given, json_type_object))
        json_object_object_get_ex(given, part, &inner);
    return inner;
}

/* The type at a dotted key inside @type; NULL: not known.  Variants may have members of one name and
 * different types: of those that @given (what is there already, at this place) allows, the first that has
 * all of the key. */
static json_object *resolve(const CtlSchema *schema, json_object *type, json_object *given,
                            char **parts)
{
    if (!*parts)
        return type;
    json_object *inner = given_part(given, *parts), *found = NULL;
    if (is_meta(type, "array"))
        return resolve(schema, find(schema, json_get_str(type, "element-type")), inner, parts + 1);
    json_object *members = array_member(type, "members"), *variants = array_member(type, "variants");
    for (size_t i = 0; i < length_of(members) && !found; i++) {
        json_object *member = json_object_array_get_idx(members, i);
        if (!g_strcmp0(json_get_str(member, "name"), *parts))
            found = resolve(schema, find(schema, json_get_str(member, "type")), inner, parts + 1);
    }
    for (size_t i = 0; i < length_of(variants) && !found; i++) {
        json_object *variant = json_object_array_get_idx(variants, i);
        if (!is_other_variant(type, variant, given))
            found = resolve(schema, find(schema, json_get_str(variant, "type")), given, parts);
    }
    return found;
}

static json_object *type_of_key(const CtlSchema *schema, const char *command, json_object *given,
                                const char *key)
{
    g_auto(GStrv) parts = g_strsplit(key, ".", -1);
    return resolve(schema, arguments_of(schema, command), given, parts);
}

/* --- Values --- */

static bool looks_like_json(const char *text)
{
    return *text == '{' || *text == '[' || *text == '"' || *text == '-' || g_ascii_isdigit(*text) ||
           !strcmp(text, "null");
}

/* Without a type. */
static json_object *natural_value(const char *text)
{
    static const char *const on[] = { "on", "true", NULL }, *const off[] = { "off", "false", NULL };
    json_object *value = NULL;
    if (g_strv_contains(on, text) || g_strv_contains(off, text))
        return json_object_new_boolean(g_strv_contains(on, text));
    if (looks_like_json(text) && json_parse_value(text, strlen(text), &value, NULL))
        return value;
    return json_object_new_string(text);
}

static bool typed_value(json_object *type, const char *key, const char *text, json_object **ret,
                        GError **error)
{
    g_autofree char *what = g_strdup_printf("argument '%s'", key);
    g_autoptr(json_object) raw = json_object_new_string(text);
    const char *json_type = is_meta(type, "builtin") ? json_get_str(type, "json-type") : NULL;
    if (is_meta(type, "enum") || !g_strcmp0(json_type, "string")) {
        *ret = g_steal_pointer(&raw);
        return true;
    }
    if (!g_strcmp0(json_type, "boolean")) {
        bool value = false;
        if (!value_to_bool(raw, what, &value, error))
            return false;
        *ret = json_object_new_boolean(value);
        return true;
    }
    if (!g_strcmp0(json_type, "int")) {
        uint64_t size = 0;
        int64_t value = 0;
        if (*text == '-' ? !value_to_i64(raw, what, &value, error)
                         : !value_to_size(raw, what, &size, error))
            return false;
        *ret = *text == '-' ? json_object_new_int64(value) : json_object_new_uint64(size);
        return true;
    }
    if (is_meta(type, "object") || is_meta(type, "array")) {
        if (!json_parse_value(text, strlen(text), ret, error)) {
            error_prefix(error, "%s: ", what);
            return error_hint(error, "write JSON, or %s.%s=…", key,
                              is_meta(type, "array") ? "0" : "MEMBER");
        }
        return true;
    }
    *ret = natural_value(text);
    return true;
}

/* --- Building the arguments --- */

static json_object *get_part(json_object *at, const char *part)
{
    json_object *value = NULL;
    json_object_object_get_ex(at, part, &value);
    return value;
}

static bool put(json_object *top, const char *key, json_object *value, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(key, ".", -1);
    json_object *at = top;
    for (char **part = parts; *part; part++) {
        json_object *inner = get_part(at, *part);
        if (!**part || (inner && (!part[1] || !json_object_is_type(inner, json_type_object)))) {
            json_object_put(value);
            return fail(error, ERR_INVALID_SYNTAX, "argument '%s' is %s", key,
                        **part ? "given twice" : "not a name");
        }
        if (!part[1]) {
            json_object_object_add(at, *part, value);
        } else if (!inner) {
            inner = json_object_new_object();
            json_object_object_add(at, *part, inner);
        }
        at = inner;
    }
    return true;
}

/* {"0": a, "1": b}, which dotted keys made, to [a, b]. */
static json_object *with_arrays(json_object *value)
{
    if (!json_object_is_type(value, json_type_object))
        return json_object_get(value);
    int count = json_object_object_length(value), next = 0;
    json_object *object = json_object_new_object(), *array = json_object_new_array();
    char name[16];
    json_object_object_foreach(value, key, member)
    {
        json_object_object_add(object, key, with_arrays(member));
    }
    for (json_object *item; next < count; next++) {
        g_snprintf(name, sizeof(name), "%d", next);
        if (!json_object_object_get_ex(object, name, &item))
            break;
        json_object_array_add(array, json_object_get(item));
    }
    bool is_array = count && next == count;
    json_object_put(is_array ? object : array);
    return is_array ? array : object;
}

static bool add_json(json_object *top, const char *word, GError **error)
{
    g_autoptr(json_object) object = json_parse(word, strlen(word), error);
    if (!object)
        return false;
    json_object_object_foreach(object, key, value)
    {
        json_object_object_add(top, key, json_object_get(value));
    }
    return true;
}

static bool unknown_argument(const CtlSchema *schema, const char *command, const char *key,
                             GError **error)
{
    g_auto(GStrv) names = ctl_schema_argument_names(schema, command);
    g_autofree char *usage = ctl_schema_usage(schema, command);
    const char *near = nearest_word(key, (const char *const *)names);
    fail(error, ERR_UNKNOWN_PARAMETER, "'%s' has no argument '%s'", command, key);
    return near ? error_hint(error, "did you mean '%s'?", near)
                : error_hint(error, "its arguments are: %s", *usage ? usage : "none");
}

static bool add_word(const CtlSchema *schema, const char *command, json_object *top,
                     const char *word, GError **error)
{
    if (*word == '{')
        return add_json(top, word, error);
    const char *equals = strchr(word, '=');
    if (!equals || equals == word) {
        fail(error, ERR_INVALID_SYNTAX, "'%s' is not KEY=VALUE", word);
        return false;
    }
    g_autofree char *key = g_strndup(word, (gsize)(equals - word));
    json_object *type = type_of_key(schema, command, top, key), *value = NULL;
    bool dotted = strchr(key, '.') != NULL;
    if (!type && !dotted && arguments_of(schema, command))
        return unknown_argument(schema, command, key, error);
    return typed_value(type, key, equals + 1, &value, error) && put(top, key, value, error);
}

json_object *ctl_schema_arguments(const CtlSchema *schema, const char *command,
                                  const char *const *words, GError **error)
{
    g_autoptr(json_object) top = json_object_new_object();
    for (; *words; words++) {
        if (!add_word(schema, command, top, *words, error))
            return NULL;
    }
    return with_arrays(top);
}

/* --- Names, for completion and help --- */

static int compare_strings(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static char **end_names(GPtrArray *names)
{
    g_ptr_array_sort(names, compare_strings);
    g_ptr_array_add(names, NULL);
    return (char **)g_ptr_array_free(names, FALSE);
}

char **ctl_schema_commands(const CtlSchema *schema)
{
    GPtrArray *names = g_ptr_array_new();
    for (size_t i = 0; i < length_of(schema->info); i++) {
        json_object *entry = json_object_array_get_idx(schema->info, i);
        if (is_meta(entry, "command"))
            g_ptr_array_add(names, g_strdup(json_get_str(entry, "name")));
    }
    return end_names(names);
}

static bool collect_name(json_object *member, bool of_variant, void *opaque)
{
    GPtrArray *names = opaque;
    const char *name = json_get_str(member, "name");
    for (unsigned i = 0; i < names->len; i++) {
        if (!g_strcmp0(names->pdata[i], name))
            return false;
    }
    g_ptr_array_add(names, g_strdup(name));
    return false;
}

char **ctl_schema_argument_names(const CtlSchema *schema, const char *command)
{
    GPtrArray *names = g_ptr_array_new();
    each_member(schema, arguments_of(schema, command), false, collect_name, names);
    return end_names(names);
}

static const char *word_of(json_object *value)
{
    return json_object_is_type(value, json_type_string) ? json_object_get_string(value)
                                                        : json_get_str(value, "name");
}

/* An enum has "members" with names, and "values" with words for older clients. */
static char **enum_words(json_object *type)
{
    json_object *list = array_member(type, "members");
    GPtrArray *words = g_ptr_array_new();
    if (!list)
        list = array_member(type, "values");
    for (size_t i = 0; i < length_of(list); i++)
        g_ptr_array_add(words, g_strdup(word_of(json_object_array_get_idx(list, i))));
    return end_names(words);
}

char **ctl_schema_argument_values(const CtlSchema *schema, const char *command, const char *key)
{
    static const char *const switches[] = { "off", "on", NULL };
    json_object *type = type_of_key(schema, command, NULL, key);
    if (is_meta(type, "enum"))
        return enum_words(type);
    return !g_strcmp0(json_get_str(type, "json-type"), "boolean") ? g_strdupv((char **)switches)
                                                                 : NULL;
}

static char *type_words(const CtlSchema *schema, json_object *type)
{
    if (is_meta(type, "enum")) {
        g_auto(GStrv) words = enum_words(type);
        return g_strv_length(words) <= 6 ? g_strjoinv("|", words) : g_strdup("WORD");
    }
    if (is_meta(type, "builtin"))
        return g_ascii_strup(json_get_str(type, "json-type"), -1);
    return g_strdup(is_meta(type, "array") ? "[…]" : is_meta(type, "object") ? "{…}" : "VALUE");
}

typedef struct Usage {
    const CtlSchema *schema;
    GString *text;
} Usage;

static bool add_usage(json_object *member, bool of_variant, void *opaque)
{
    Usage *usage = opaque;
    bool optional = of_variant || json_object_object_get_ex(member, "default", NULL);
    g_autofree char *words = type_words(usage->schema,
                                        find(usage->schema, json_get_str(member, "type")));
    g_string_append_printf(usage->text, optional ? "%s[%s=%s]" : "%s%s=%s",
                           usage->text->len ? " " : "", json_get_str(member, "name"), words);
    return false;
}

char *ctl_schema_usage(const CtlSchema *schema, const char *command)
{
    if (!find_command(schema, command))
        return NULL;
    Usage usage = { schema, g_string_new(NULL) };
    each_member(schema, arguments_of(schema, command), false, add_usage, &usage);
    return g_string_free(usage.text, FALSE);
}

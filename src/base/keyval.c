/* key=value,… text to a json_object. */
#include <string.h>
#include "src/base/options.h"

enum { ARRAY_MAX = 4096 };

/* Takes text up to an unescaped comma; ",," is one comma.  *p is left after the comma. */
static char *take_value(const char **p)
{
    GString *out = g_string_new(NULL);
    const char *s = *p;
    for (; *s; s++) {
        if (*s == ',') {
            if (s[1] != ',')
                break;
            s++;
        }
        g_string_append_c(out, *s);
    }
    *p = *s ? s + 1 : s;
    return g_string_free(out, FALSE);
}

/* Puts @value, which it takes over, at a dotted path.  Arrays are objects with numbers for names until
 * the end. */
static bool put(json_object *top, const char *key, json_object *value, GError **error)
{
    g_autoptr(json_object) owned = value;
    g_auto(GStrv) parts = g_strsplit(key, ".", -1);
    json_object *at = top;
    for (char **part = parts; *part; part++) {
        if (!**part)
            return fail(error, ERR_INVALID_SYNTAX, "'%s' is not a key", key);
        json_object *next = NULL;
        bool there = json_object_object_get_ex(at, *part, &next);
        bool is_object = there && json_object_is_type(next, json_type_object);
        if (there && is_object != (part[1] != NULL))
            return fail(error, ERR_INVALID_SYNTAX,
                        "Parameters '%s' and '%s.*' exclude each other", *part, *part);
        if (!part[1]) {
            json_object_object_add(at, *part, g_steal_pointer(&owned));
        } else if (!there) {
            next = json_object_new_object();
            json_object_object_add(at, *part, next);
        }
        at = next;
    }
    return true;
}

static bool is_index(const char *name)
{
    return *name && strspn(name, "0123456789") == strlen(name);
}

static json_object *to_array(json_object *object, const char *name, GError **error)
{
    int count = json_object_object_length(object);
    g_autoptr(json_object) array = json_object_new_array();
    for (int i = 0; i < count; i++) {
        char key[16];
        json_object *item;
        g_snprintf(key, sizeof(key), "%d", i);
        if (count > ARRAY_MAX || !json_object_object_get_ex(object, key, &item)) {
            fail(error, ERR_INVALID_SYNTAX, "Parameter '%s.%d' missing", name, i);
            return NULL;
        }
        json_object_array_add(array, json_object_get(item));
    }
    return g_steal_pointer(&array);
}

/* Turns {"0": …, "1": …} into […], innermost first. */
static bool make_arrays(json_object *object, unsigned depth, GError **error)
{
    if (depth > 64)
        return fail(error, ERR_LIMIT, "key=value text is nested too deeply");
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    json_object_object_foreach(object, name, member)
    {
        if (json_object_is_type(member, json_type_object))
            g_ptr_array_add(names, g_strdup(name));
    }
    for (unsigned i = 0; i < names->len; i++) {
        const char *key = names->pdata[i];
        json_object *inner = json_object_object_get(object, key);
        if (!make_arrays(inner, depth + 1, error))
            return false;
        unsigned indices = 0;
        json_object_object_foreach(inner, inner_name, inner_member)
        {
            (void)inner_member;
            indices += is_index(inner_name);
        }
        if (!indices)
            continue;
        if (indices != (unsigned)json_object_object_length(inner))
            return fail(error, ERR_INVALID_SYNTAX, "Parameters '%s.*' used inconsistently", key);
        json_object *array = to_array(inner, key, error);
        if (!array)
            return false;
        json_object_object_add(object, key, array);
    }
    return true;
}

/* One element: "key=value", "key" (on), "nokey" (off), or the first's implied value. */
static bool parse_element(json_object *top, const char **p, const char *implied_key, GError **error)
{
    const char *s = *p;
    size_t length = strcspn(s, "=,");
    if (s[length] != '=' && implied_key) {
        g_autofree char *value = take_value(p);
        return put(top, implied_key, json_object_new_string(value), error);
    }
    if (!length)
        return fail(error, ERR_INVALID_SYNTAX, "Expected parameter before '%s'", s);
    g_autofree char *key = g_strndup(s, length);
    if (s[length] == '=') {
        *p = s + length + 1;
        g_autofree char *value = take_value(p);
        return put(top, key, json_object_new_string(value), error);
    }
    *p = s[length] ? s + length + 1 : s + length;
    bool off = g_str_has_prefix(key, "no") && key[2];
    return put(top, off ? key + 2 : key, json_object_new_string(off ? "off" : "on"), error);
}

json_object *options_parse(const char *text, const char *implied_key, GError **error)
{
    if (*text == '{')
        return json_parse(text, strlen(text), error);
    g_autoptr(json_object) top = json_object_new_object();
    for (const char *p = text; *p; implied_key = NULL) {
        if (!parse_element(top, &p, implied_key, error))
            return NULL;
    }
    if (!make_arrays(top, 0, error))
        return NULL;
    return g_steal_pointer(&top);
}

static bool nest(json_object *object, unsigned depth, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    if (depth > 64)
        return fail(error, ERR_LIMIT, "options are nested too deeply");
    json_object_object_foreach(object, name, member)
    {
        if (json_object_is_type(member, json_type_object) && !nest(member, depth + 1, error))
            return false;
        if (strchr(name, '.'))
            g_ptr_array_add(names, g_strdup(name));
    }
    for (unsigned i = 0; i < names->len; i++)
        if (!put(object, names->pdata[i], options_take(object, names->pdata[i]), error))
            return false;
    return true;
}

bool options_nest(json_object *options, GError **error)
{
    return nest(options, 0, error) && make_arrays(options, 0, error);
}

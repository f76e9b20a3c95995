/* Listings of types and of their properties. */
#include "src/object/describe.h"
#include <string.h>
#include "src/base/options.h"

typedef struct Entry {
    const Property *prop;
    Object *obj;                           /* with defaults; NULL: abstract */
} Entry;

typedef struct Collect {
    GArray *entries;                       /* of Entry */
    Object *obj;
} Collect;

static void collect_property(const Property *prop, void *opaque)
{
    Collect *c = opaque;
    Entry entry = { prop, c->obj };

    for (unsigned i = 0; i < c->entries->len; i++) {
        if (!strcmp(g_array_index(c->entries, Entry, i).prop->name, prop->name))
            return;                        /* the outer object's hides the one it forwards to */
    }
    g_array_append_val(c->entries, entry);
}

static int compare_entries(const void *a, const void *b)
{
    return strcmp(((const Entry *)a)->prop->name, ((const Entry *)b)->prop->name);
}

/* @obj: an object of the type, or NULL if there can be none. */
static GArray *collect_entries(const Type *type, Object *obj)
{
    Collect c = { g_array_new(FALSE, FALSE, sizeof(Entry)), obj };

    if (!obj)
        type_foreach_property(type, collect_property, &c);
    for (; obj; obj = object_forward(obj)) {
        c.obj = obj;
        type_foreach_property(obj->type, collect_property, &c);
    }
    g_array_sort(c.entries, compare_entries);
    return c.entries;
}

static bool is_settable(const Property *prop)
{
    return !prop->read_only && !(prop->kind == &prop_fn && !prop->set);
}

/* What a user gets by saying nothing; NULL: nothing worth telling. */
static json_object *default_of(const Entry *e)
{
    json_object *value;

    if (!e->obj || !is_settable(e->prop) || e->prop->kind == &prop_link ||
        e->prop->kind == &prop_uuid || e->prop->kind == &prop_mac)
        return NULL;
    value = e->prop->kind->get(e->obj, e->prop);
    if (json_object_is_type(value, json_type_string) && !*json_object_get_string(value))
        g_clear_pointer(&value, json_object_put);
    return value;
}

static char *kind_of(const Property *prop)
{
    return prop->kind == &prop_link ? g_strdup_printf("link<%s>", prop->link_type)
                                    : g_strdup(prop->kind->name);
}

json_object *type_list_properties(const Type *type)
{
    g_autoptr(Object) obj = object_new(type);
    g_autoptr(GArray) entries = collect_entries(type, obj);
    json_object *list = json_object_new_array();

    for (unsigned i = 0; i < entries->len; i++) {
        const Entry *e = &g_array_index(entries, Entry, i);
        json_object *item = json_object_new_object(), *value = default_of(e);
        g_autofree char *kind = kind_of(e->prop);

        json_object_object_add(item, "name", json_object_new_string(e->prop->name));
        json_object_object_add(item, "type", json_object_new_string(kind));
        if (e->prop->help)
            json_object_object_add(item, "description", json_object_new_string(e->prop->help));
        if (value)
            json_object_object_add(item, "default-value", value);
        json_object_array_add(list, item);
    }
    return list;
}

static void describe_entry(GString *text, const Entry *e)
{
    g_autoptr(json_object) value = default_of(e);
    g_autofree char *words = e->prop->kind == &prop_enum
                                 ? g_strjoinv("|", (char **)e->prop->words) : NULL;
    g_autofree char *kind = kind_of(e->prop);
    g_autofree char *left = g_strdup_printf("%s=<%s>", e->prop->name, words ? words : kind);

    g_string_append_printf(text, "  %-34s", left);
    if (e->prop->help)
        g_string_append_printf(text, " - %s", e->prop->help);
    if (json_object_is_type(value, json_type_boolean))
        g_string_append_printf(text, " (default: %s)", json_object_get_boolean(value) ? "on"
                                                                                      : "off");
    else if (value)
        g_string_append_printf(text, " (default: %s)", json_object_get_string(value));
    while (text->str[text->len - 1] == ' ')
        g_string_truncate(text, text->len - 1);
    g_string_append_c(text, '\n');
}

char *type_describe(const Type *type)
{
    g_autoptr(Object) obj = object_new(type);
    g_autoptr(GArray) entries = collect_entries(type, obj);
    GString *text = g_string_new(NULL);

    for (unsigned i = 0; i < entries->len; i++) {
        const Entry *e = &g_array_index(entries, Entry, i);

        if (is_settable(e->prop))
            describe_entry(text, e);
    }
    return g_string_free(text, FALSE);
}

/* ---- lists of types ---- */

typedef struct TypeList {
    bool devices;
    GTree *categories;                     /* name → GString of lines */
} TypeList;

static void list_type(const Type *type, void *opaque)
{
    TypeList *list = opaque;
    const char *category = type_category(type), *bus = type_bus(type);
    GString *lines;

    if (!type->user_creatable || type->abstract || type_is_a(type, "device") != list->devices)
        return;
    lines = g_tree_lookup(list->categories, category);
    if (!lines) {
        lines = g_string_new(NULL);
        g_tree_insert(list->categories, (void *)category, lines);
    }
    g_string_append_printf(lines, "name \"%s\"", type->name);
    if (bus)
        g_string_append_printf(lines, ", bus %s", bus);
    if (type->help)
        g_string_append_printf(lines, ", desc \"%s\"", type->help);
    g_string_append_c(lines, '\n');
}

static gboolean put_category(void *category, void *lines, void *text)
{
    if (((GString *)text)->len)
        g_string_append_c(text, '\n');
    g_string_append_printf(text, "%s devices:\n%s", (char *)category, ((GString *)lines)->str);
    return FALSE;
}

static gboolean put_lines(void *category, void *lines, void *text)
{
    g_string_append(text, ((GString *)lines)->str);
    return FALSE;
}

static gboolean free_lines(void *category, void *lines, void *unused)
{
    g_string_free(lines, TRUE);
    return FALSE;
}

char *types_describe(const char *ancestor)
{
    const Type *top = ancestor ? type_find(ancestor) : NULL;
    TypeList list = { top && type_is_a(top, "device"), g_tree_new((GCompareFunc)strcmp) };
    GString *text = g_string_new(NULL);

    type_foreach(ancestor, list_type, &list);
    g_tree_foreach(list.categories, list.devices ? put_category : put_lines, text);
    g_tree_foreach(list.categories, free_lines, NULL);
    g_tree_destroy(list.categories);
    return g_string_free(text, FALSE);
}

static void list_user_object(const Type *type, void *text)
{
    if (type->user_creatable && !type->abstract)
        g_string_append_printf(text, "%-28s %s\n", type->name, type->help);
}

char *user_object_help(const char *option)
{
    g_autoptr(json_object) options = options_parse(option, "qom-type", NULL);
    const char *name = options ? json_get_str(options, "qom-type") : NULL;
    const Type *type = name ? type_find(name) : NULL;
    g_autofree char *properties = NULL;

    if (name && !strcmp(name, "help")) {
        GString *text = g_string_new("Objects:\n");

        type_foreach("user-object", list_user_object, text);
        return g_string_free(text, FALSE);
    }
    if (!type || type->abstract || !type_is_a(type, "user-object") || !json_get_str(options, "help"))
        return NULL;
    properties = type_describe(type);
    return g_strdup_printf("%s: %s\n%s", type->name, type->help, properties);
}

char *type_list_devices(void)
{
    return types_describe("device");
}

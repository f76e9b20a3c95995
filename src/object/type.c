/* The registry of types: filled by constructors before main(), read-only afterwards. */
#include "src/object/type.h"
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include "src/object/object.h"

static GHashTable *registry;               /* name → const Type * */

void type_register(const Type *type)
{
    if (!registry)
        registry = g_hash_table_new(g_str_hash, g_str_equal);
    if (!g_hash_table_insert(registry, (void *)type->name, (void *)type))
        g_error("type '%s' is registered twice", type->name);
}

const Type *type_find(const char *name)
{
    return registry && name ? g_hash_table_lookup(registry, name) : NULL;
}

/* Every type descends from "object", whether it says so or not. */
const Type *type_parent(const Type *type)
{
    if (type->parent) {
        const Type *parent = type_find(type->parent);

        if (!parent)
            g_error("type '%s' has an unknown parent '%s'", type->name, type->parent);
        return parent;
    }
    return strcmp(type->name, "object") ? type_find("object") : NULL;
}

bool type_is_a(const Type *type, const char *ancestor)
{
    for (; type; type = type_parent(type)) {
        if (!strcmp(type->name, ancestor))
            return true;
    }
    return false;
}

size_t type_size(const Type *type)
{
    for (; type; type = type_parent(type)) {
        if (type->size)
            return type->size;
    }
    return sizeof(Object);
}

const void *type_ops(const Type *type)
{
    for (; type; type = type_parent(type)) {
        if (type->ops)
            return type->ops;
    }
    return NULL;
}

const char *type_bus(const Type *type)
{
    for (; type; type = type_parent(type)) {
        if (type->bus_type)
            return type->bus_type;
    }
    return NULL;
}

const char *type_category(const Type *type)
{
    for (; type; type = type_parent(type)) {
        if (type->category)
            return type->category;
    }
    return "Misc";
}

static int compare_names(const void *a, const void *b)
{
    return strcmp((*(const Type *const *)a)->name, (*(const Type *const *)b)->name);
}

void type_foreach(const char *ancestor, void (*fn)(const Type *type, void *opaque), void *opaque)
{
    g_autoptr(GPtrArray) types = g_ptr_array_new();
    GHashTableIter iter;
    void *type;

    if (!registry)
        return;
    g_hash_table_iter_init(&iter, registry);
    while (g_hash_table_iter_next(&iter, NULL, &type)) {
        if (!ancestor || type_is_a(type, ancestor))
            g_ptr_array_add(types, type);
    }
    g_ptr_array_sort(types, compare_names);
    for (unsigned i = 0; i < types->len; i++)
        fn(types->pdata[i], opaque);
}

void type_foreach_property(const Type *type, void (*fn)(const Property *prop, void *opaque),
                           void *opaque)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);

    for (; type; type = type_parent(type)) {
        for (const Property *prop = type->props; prop && prop->name; prop++) {
            if (g_hash_table_add(seen, (void *)prop->name))
                fn(prop, opaque);
        }
    }
}

const Property *type_find_property(const Type *type, const char *name)
{
    for (; type; type = type_parent(type)) {
        for (const Property *prop = type->props; prop && prop->name; prop++) {
            if (!strcmp(prop->name, name))
                return prop;
        }
    }
    return NULL;
}

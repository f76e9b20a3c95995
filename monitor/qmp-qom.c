/* QMP: types, objects and devices. */
#include <string.h>
#include "hw/core/device.h"
#include "schema/commands.h"
#include "src/base/options.h"
#include "src/object/describe.h"

/* Machine types are plain names to -machine, and have a suffix in the list of types. */
#define MACHINE_SUFFIX "-machine"

static char *qom_name(const Type *type)
{
    if (!type->abstract && type_is_a(type, "machine"))
        return g_strconcat(type->name, MACHINE_SUFFIX, NULL);
    return g_strdup(type->name);
}

static const Type *qom_find(const char *name)
{
    const Type *type = type_find(name);
    if (type || !g_str_has_suffix(name, MACHINE_SUFFIX))
        return type;
    g_autofree char *plain = g_strndup(name, strlen(name) - strlen(MACHINE_SUFFIX));
    type = type_find(plain);
    return type && type_is_a(type, "machine") ? type : NULL;
}

/* ---- types ---- */

typedef struct TypeList {
    GPtrArray *list;
    bool abstract;
} TypeList;

static void add_type(const Type *type, void *opaque)
{
    TypeList *types = opaque;
    if (type->abstract && !types->abstract)
        return;
    const Type *parent = type_parent(type);
    QmpObjectTypeInfo *info = g_new0(QmpObjectTypeInfo, 1);
    info->name = qom_name(type);
    info->has_abstract = info->abstract = type->abstract;
    info->parent = parent ? qom_name(parent) : NULL;
    g_ptr_array_add(types->list, info);
}

GPtrArray *qmp_qom_list_types(Vm *vm, const char *implements, bool has_abstract, bool abstract,
                              GError **error)
{
    TypeList types = { qmp_array_new(&qmp_type_object_type_info), has_abstract && abstract };
    if (!implements || type_find(implements))
        type_foreach(implements, add_type, &types);
    return types.list;
}

json_object *qmp_qom_list_properties(Vm *vm, const char *typename, GError **error)
{
    const Type *type = qom_find(typename);
    return type ? type_list_properties(type) : json_object_new_array();
}

json_object *qmp_device_list_properties(Vm *vm, const char *typename, GError **error)
{
    const Type *type = type_find(typename);
    if (!type) {
        fail(error, ERR_DEVICE_NOT_FOUND, "Device '%s' not found", typename);
        return NULL;
    }
    if (type->abstract || !type_is_a(type, "device")) {
        fail(error, ERR_INVALID_PARAMETER, "Parameter 'typename' expects a non-abstract device type");
        return NULL;
    }
    return type_list_properties(type);
}

/* ---- objects ---- */

static Object *resolve(Vm *vm, const char *path, GError **error)
{
    Object *obj = object_resolve(vm->root, path);
    if (!obj)
        fail(error, ERR_DEVICE_NOT_FOUND, "Device '%s' not found", path);
    return obj;
}

static void add_property_info(GPtrArray *list, const char *name, char *type, const char *help)
{
    QmpObjectPropertyInfo *info = g_new0(QmpObjectPropertyInfo, 1);
    info->name = g_strdup(name);
    info->type = type;
    info->description = g_strdup(help);
    g_ptr_array_add(list, info);
}

/* What is listed so far: an inner device that is forwarded to has names that the outer one has, too. */
typedef struct PropertyList {
    GPtrArray *list;
    GHashTable *names;
} PropertyList;

static void add_property(const Property *prop, void *opaque)
{
    PropertyList *properties = opaque;
    if (!g_hash_table_add(properties->names, (void *)prop->name))
        return;
    char *type = prop->link_type ? g_strdup_printf("link<%s>", prop->link_type)
                                 : g_strdup(prop->kind->name);
    add_property_info(properties->list, prop->name, type, prop->help);
}

GPtrArray *qmp_qom_list(Vm *vm, const char *path, GError **error)
{
    Object *obj = resolve(vm, path, error);
    if (!obj)
        return NULL;
    GPtrArray *list = qmp_array_new(&qmp_type_object_property_info);
    g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);
    PropertyList properties = { list, names };
    add_property_info(list, "type", g_strdup("string"), NULL);
    g_hash_table_add(names, (void *)"type");
    for (Object *o = obj; o; o = object_forward(o))
        type_foreach_property(o->type, add_property, &properties);
    for (guint i = 0; obj->children && i < obj->children->len; i++) {
        Object *child = obj->children->pdata[i];
        add_property_info(list, child->name, g_strdup_printf("child<%s>", child->type->name), NULL);
    }
    return list;
}

json_object *qmp_qom_get(Vm *vm, const char *path, const char *property, GError **error)
{
    Object *obj = resolve(vm, path, error);
    if (!obj)
        return NULL;
    if (!strcmp(property, "type"))
        return json_object_new_string(obj->type->name);
    Object *child = object_child(obj, property);
    if (!child)
        return object_get(obj, property, error);
    g_autofree char *child_path = object_path(child);
    return json_object_new_string(child_path);
}

bool qmp_qom_set(Vm *vm, const char *path, const char *property, json_object *value, GError **error)
{
    Object *obj = resolve(vm, path, error);
    return obj && object_set(obj, property, value, error);
}

/* "props" (how clients gave the properties before QEMU 6.0) become members like the others. */
static json_object *flatten_props(json_object *arguments, GError **error)
{
    json_object *props, *flat = json_object_new_object();
    bool nested = json_object_object_get_ex(arguments, "props", &props);
    json_object_object_foreach(arguments, key, value)
    {
        if (!nested || strcmp(key, "props"))
            json_object_object_add(flat, key, json_object_get(value));
    }
    if (!nested)
        return flat;
    if (!json_object_is_type(props, json_type_object)) {
        fail(error, ERR_WRONG_TYPE, "command 'object-add': argument 'props': expected an object");
        json_object_put(flat);
        return NULL;
    }
    json_object_object_foreach(props, name, member)
        json_object_object_add(flat, name, json_object_get(member));
    return flat;
}

bool qmp_object_add(Vm *vm, json_object *arguments, GError **error)
{
    g_autoptr(json_object) options = flatten_props(arguments, error);
    return options && object_create_user(vm->root, options, error);
}

bool qmp_object_del(Vm *vm, const char *id, GError **error)
{
    return object_delete_user(vm->root, id, error);
}

/* ---- devices ---- */

bool qmp_device_add(Vm *vm, json_object *arguments, GError **error)
{
    if (!vm->machine)
        return fail(error, ERR_BAD_STATE, "there is no machine");
    return device_create(vm->machine, arguments, true, error) != NULL;
}

bool qmp_device_del(Vm *vm, const char *id, GError **error)
{
    if (!vm->machine || !device_find(vm->machine, id))
        return fail(error, ERR_DEVICE_NOT_FOUND, "Device '%s' not found", id);
    return device_unplug(vm->machine, id, error);
}

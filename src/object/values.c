/* Setting and reading properties by name. */
#include <string.h>
#include "src/base/options.h"
#include "src/object/object.h"

void object_set_forward(Object *obj, Object *to)
{
    if (obj->forward) {
        obj->forward->forwarder = NULL;
        object_unref(obj->forward);
    }
    obj->forward = to ? object_ref(to) : NULL;
    if (to)
        to->forwarder = obj;
}

Object *object_forward(const Object *obj)
{
    return obj->forward;
}

/* The property and the object that has it: *obj, or one it forwards to. */
static const Property *find_property(Object **obj, const char *name)
{
    for (; *obj; *obj = (*obj)->forward) {
        const Property *prop = type_find_property((*obj)->type, name);

        if (prop)
            return prop;
    }
    return NULL;
}

static void collect_name(const Property *prop, void *names)
{
    g_ptr_array_add(names, (void *)prop->name);
}

static bool fail_unknown(Object *obj, const char *name, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    const char *near;

    for (Object *o = obj; o; o = o->forward)
        type_foreach_property(o->type, collect_name, names);
    g_ptr_array_add(names, NULL);
    fail(error, ERR_UNKNOWN_PARAMETER, "property '%s.%s' not found", obj->type->name, name);
    near = nearest_word(name, (const char *const *)names->pdata);
    return near ? error_hint(error, "did you mean '%s'?", near) : false;
}

static bool check_settable(Object *obj, const Property *prop, GError **error)
{
    if (prop->read_only || (prop->kind == &prop_fn && !prop->set))
        return property_fail(obj, prop, error, ERR_PERMISSION, "it is read-only");
    if (obj->realized && !prop->runtime) {
        property_fail(obj, prop, error, ERR_BAD_STATE, "it cannot be changed now");
        return error_hint(error, "it can only be given when the object is made");
    }
    return true;
}

static void note_set(Object *obj, const Property *prop)
{
    if (!obj->was_set)
        obj->was_set = g_ptr_array_new();
    if (!g_ptr_array_find(obj->was_set, prop, NULL))
        g_ptr_array_add(obj->was_set, (void *)prop);
}

/* Kinds of other floors may say only what is wrong: the sentence must name the property. */
static bool prefix_once(Object *obj, const Property *prop, GError **error)
{
    if (error && *error && !g_str_has_prefix((*error)->message, "property '")) {
        g_autofree char *what = property_what(obj, prop);

        error_prefix(error, "%s: ", what);
    }
    return false;
}

bool object_set(Object *obj, const char *name, json_object *value, GError **error)
{
    Object *owner = obj;
    const Property *prop = find_property(&owner, name);

    if (!prop)
        return fail_unknown(obj, name, error);
    if (!check_settable(owner, prop, error))
        return false;
    if (!prop->kind->set(owner, prop, value, error))
        return prefix_once(owner, prop, error);
    note_set(owner, prop);
    if (owner->realized && prop->changed)
        prop->changed(owner);
    return true;
}

/* Sets and drops the caller's reference of @value. */
static bool set_taken(Object *obj, const char *name, json_object *value, GError **error)
{
    bool ok = object_set(obj, name, value, error);

    json_object_put(value);
    return ok;
}

bool object_set_str(Object *obj, const char *name, const char *value, GError **error)
{
    return set_taken(obj, name, json_object_new_string(value), error);
}

bool object_set_bool(Object *obj, const char *name, bool value, GError **error)
{
    return set_taken(obj, name, json_object_new_boolean(value), error);
}

bool object_set_u64(Object *obj, const char *name, uint64_t value, GError **error)
{
    return set_taken(obj, name, json_object_new_uint64(value), error);
}

/* Straight to the member: @target may be in no tree, so that no path leads to it. */
bool object_set_link(Object *obj, const char *name, Object *target, GError **error)
{
    Object *owner = obj, **member;
    const Property *prop = find_property(&owner, name);

    if (!prop)
        return fail_unknown(obj, name, error);
    if (prop->kind != &prop_link)
        return property_fail(owner, prop, error, ERR_WRONG_TYPE, "it is not a link");
    if (!check_settable(owner, prop, error))
        return false;
    if (target && prop->link_type && !object_is_a(target, prop->link_type))
        return property_fail(owner, prop, error, ERR_INVALID_PARAMETER,
                             "a '%s' was given, but a '%s' is needed", target->type->name,
                             prop->link_type);
    member = property_ptr(owner, prop);
    if (target)
        object_ref(target);
    object_unref(*member);
    *member = target;
    note_set(owner, prop);
    if (owner->realized && prop->changed)
        prop->changed(owner);
    return true;
}

json_object *object_get(Object *obj, const char *name, GError **error)
{
    Object *owner = obj;
    const Property *prop = find_property(&owner, name);

    if (!prop) {
        Object *child = object_child(obj, name);
        g_autofree char *path = child ? object_path(child) : NULL;

        if (child)
            return json_object_new_string(path);
        fail_unknown(obj, name, error);
        return NULL;
    }
    return prop->kind->get(owner, prop);
}

bool object_set_all(Object *obj, json_object *options, GError **error)
{
    json_object_object_foreach(options, key, value)
    {
        if (!object_set(obj, key, value, error))
            return false;
    }
    return true;
}

bool object_was_set(const Object *obj, const char *name)
{
    Object *owner = (Object *)obj;
    const Property *prop = find_property(&owner, name);

    return prop && owner->was_set && g_ptr_array_find(owner->was_set, prop, NULL);
}

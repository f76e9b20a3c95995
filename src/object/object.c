/* Objects: life cycle, the tree, links between its parts. */
#include "src/object/object.h"
#include <string.h>
#include "src/base/options.h"
#include "src/object/object-priv.h"

/* ---- life cycle ---- */

static void apply_default(const Property *prop, void *obj)
{
    if (prop->kind->set_default && !prop->read_only)
        prop->kind->set_default(obj, prop);
}

static void run_init(Object *obj, const Type *type)
{
    if (!type)
        return;
    run_init(obj, type_parent(type));
    if (type->init)
        type->init(obj);
}

Object *object_new(const Type *type)
{
    Object *obj;

    if (!type || type->abstract)
        return NULL;
    obj = g_malloc0(type_size(type));
    obj->type = type;
    obj->refs = 1;
    type_foreach_property(type, apply_default, obj);
    run_init(obj, type);
    return obj;
}

Object *object_new_by_name(const char *type_name, GError **error)
{
    const Type *type = type_find(type_name);

    if (!type) {
        fail(error, ERR_NOT_FOUND, "there is no type '%s'", type_name);
        return NULL;
    }
    if (type->abstract) {
        fail(error, ERR_INVALID_PARAMETER, "type '%s' is abstract", type_name);
        return NULL;
    }
    return object_new(type);
}

void *object_ref(void *obj)
{
    g_atomic_int_inc(&OBJECT(obj)->refs);
    return obj;
}

static void release_property(const Property *prop, void *obj)
{
    if (prop->kind->release)
        prop->kind->release(obj, prop);
}

static void drop_children(Object *obj)
{
    while (obj->children && obj->children->len)
        object_unparent(obj->children->pdata[obj->children->len - 1]);
}

static void finalize(Object *obj)
{
    if (obj->realized)
        object_unrealize(obj);
    object_set_forward(obj, NULL);
    drop_children(obj);
    for (const Type *type = obj->type; type; type = type_parent(type)) {
        if (type->finalize)
            type->finalize(obj);
    }
    drop_children(obj);
    type_foreach_property(obj->type, release_property, obj);
    g_clear_pointer(&obj->children, g_ptr_array_unref);
    g_clear_pointer(&obj->was_set, g_ptr_array_unref);
    g_free(obj->name);
    g_free(obj);
}

void object_unref(void *obj)
{
    if (obj && g_atomic_int_dec_and_test(&OBJECT(obj)->refs))
        finalize(obj);
}

/* ---- the tree ---- */

bool object_add_child(Object *parent, const char *name, Object *child, GError **error)
{
    if (child->parent)
        return fail(error, ERR_EXISTS, "'%s' is already in the object tree", child->name);
    if (object_child(parent, name)) {
        g_autofree char *path = object_path(parent);

        return fail(error, ERR_EXISTS, "there is already an object '%s' under '%s'", name, path);
    }
    if (!parent->children)
        parent->children = g_ptr_array_new();
    g_ptr_array_add(parent->children, object_ref(child));
    g_free(child->name);
    child->name = g_strdup(name);
    child->parent = parent;
    child->context = NULL;
    return true;
}

void object_unparent(Object *obj)
{
    Object *parent = obj->parent;

    if (!parent)
        return;
    g_ptr_array_remove(parent->children, obj);
    obj->parent = NULL;
    object_unref(obj);
}

Object *object_child(const Object *parent, const char *name)
{
    for (unsigned i = 0; parent->children && i < parent->children->len; i++) {
        Object *child = parent->children->pdata[i];

        if (!strcmp(child->name, name))
            return child;
    }
    return NULL;
}

Object *object_container(Object *parent, const char *name)
{
    Object *child = object_child(parent, name);

    if (!child) {
        child = object_new(type_find("container"));
        object_add_child(parent, name, child, NULL);
        object_unref(child);               /* the tree's reference keeps it */
    }
    return child;
}

void object_set_context(Object *obj, Object *near)
{
    obj->context = obj->parent ? NULL : near;
}

Object *object_root(const Object *obj)
{
    while (obj->parent || obj->context)
        obj = obj->parent ? obj->parent : obj->context;
    return (Object *)obj;
}

char *object_path(const Object *obj)
{
    GString *path = g_string_new(NULL);

    for (; obj->parent; obj = obj->parent) {
        g_string_prepend(path, obj->name);
        g_string_prepend_c(path, '/');
    }
    if (!path->len)
        g_string_append_c(path, '/');
    return g_string_free(path, FALSE);
}

static Object *descend(Object *obj, char *const *parts)
{
    for (; obj && *parts; parts++) {
        if (**parts)
            obj = object_child(obj, *parts);
    }
    return obj;
}

typedef struct PartialSearch {
    char **parts;
    Object *found;
    bool ambiguous;
} PartialSearch;

static bool match_partial(Object *obj, void *opaque)
{
    PartialSearch *search = opaque;
    Object *hit = descend(obj, search->parts);

    if (hit) {
        search->ambiguous = search->found && search->found != hit;
        search->found = hit;
    }
    return !search->ambiguous;
}

Object *object_resolve(const Object *any, const char *path)
{
    Object *root = object_root(any);
    g_auto(GStrv) parts = g_strsplit(path, "/", -1);
    PartialSearch search = { parts };

    if (*path == '/')
        return descend(root, parts);
    if (!*path)
        return NULL;
    object_walk(root, match_partial, &search);
    return search.ambiguous ? NULL : search.found;
}

bool object_is_a(const Object *obj, const char *type_name)
{
    return type_is_a(obj->type, type_name);
}

bool object_walk(Object *obj, bool (*fn)(Object *obj, void *opaque), void *opaque)
{
    if (!fn(obj, opaque))
        return false;
    for (unsigned i = 0; obj->children && i < obj->children->len; i++) {
        if (!object_walk(obj->children->pdata[i], fn, opaque))
            return false;
    }
    return true;
}

/* ---- realize, unrealize, reset ---- */

/* Undoes realize of @from and its parents; what is below it was not realized yet. */
static void unrealize_from(Object *obj, const Type *from)
{
    for (const Type *type = from; type; type = type_parent(type)) {
        if (type->unrealize)
            type->unrealize(obj);
    }
}

static bool realize_chain(Object *obj, const Type *type, GError **error)
{
    const Type *parent = type_parent(type);

    if (parent && !realize_chain(obj, parent, error))
        return false;
    if (type->realize && !type->realize(obj, error)) {
        unrealize_from(obj, type);
        return false;
    }
    return true;
}

bool object_realize(Object *obj, GError **error)
{
    if (obj->realized)
        return fail(error, ERR_BAD_STATE, "'%s' is realized already",
                    obj->name ? obj->name : obj->type->name);
    if (!realize_chain(obj, obj->type, error))
        return false;
    for (const Type *type = obj->type; type; type = type_parent(type)) {
        if (type->realize_done && !type->realize_done(obj, error)) {
            unrealize_from(obj, obj->type);
            return false;
        }
    }
    obj->realized = true;
    return true;
}

void object_unrealize(Object *obj)
{
    if (!obj->realized)
        return;
    obj->realized = false;
    unrealize_from(obj, obj->type);
}

static void reset_chain(Object *obj, const Type *type)
{
    if (!type)
        return;
    reset_chain(obj, type_parent(type));
    if (type->reset)
        type->reset(obj);
}

void object_reset(Object *obj)
{
    if (obj->realized)
        reset_chain(obj, obj->type);
}

/* ---- -object ---- */

bool object_id_valid(const char *id)
{
    if (!g_ascii_isalpha(*id))
        return false;
    for (; *id; id++) {
        if (!g_ascii_isalnum(*id) && !strchr("-._", *id))
            return false;
    }
    return true;
}

static bool is_user_object(const Type *type)
{
    return type->user_creatable && !type->abstract && !type_is_a(type, "device");
}

static void collect_user_object(const Type *type, void *names)
{
    if (is_user_object(type))
        g_ptr_array_add(names, (void *)type->name);
}

static const Type *find_user_type(const char *name, GError **error)
{
    const Type *type = type_find(name);
    g_autoptr(GPtrArray) names = NULL;
    const char *near;

    if (type && is_user_object(type))
        return type;
    names = g_ptr_array_new();
    type_foreach(NULL, collect_user_object, names);
    g_ptr_array_add(names, NULL);
    fail(error, ERR_INVALID_PARAMETER, "invalid object type '%s'", name);
    near = nearest_word(name, (const char *const *)names->pdata);
    if (near)
        error_hint(error, "did you mean '%s'?", near);
    return NULL;
}

/* The members that are properties: all but those in @except. */
static json_object *properties_of(json_object *options, const char *const *except)
{
    json_object *props = json_object_new_object();

    json_object_object_foreach(options, key, value)
    {
        if (!g_strv_contains(except, key))
            json_object_object_add(props, key, json_object_get(value));
    }
    return props;
}

static bool take_name(json_object *options, const char *key, const char **ret, GError **error)
{
    *ret = NULL;
    if (!options_get_str(options, key, ret, error))
        return false;
    return *ret ? true : fail(error, ERR_MISSING_PARAMETER, "parameter '%s' is missing", key);
}

Object *object_create_user(Object *root, json_object *options, GError **error)
{
    static const char *const own[] = { "qom-type", "id", NULL };
    g_autoptr(json_object) props = NULL;
    g_autoptr(Object) obj = NULL;
    Object *objects = object_container(root, "objects");
    const char *type_name, *id;
    const Type *type;

    if (!take_name(options, "qom-type", &type_name, error))
        return NULL;
    type = find_user_type(type_name, error);
    if (!type || !take_name(options, "id", &id, error))
        return NULL;
    if (!object_id_valid(id)) {
        fail(error, ERR_INVALID_PARAMETER, "'%s' is not a valid id", id);
        error_hint(error, "an id is a letter followed by letters, digits, '-', '.' and '_'");
        return NULL;
    }
    obj = object_new(type);
    object_set_context(obj, root);
    props = properties_of(options, own);
    if (!object_set_all(obj, props, error))
        return NULL;
    if (object_child(objects, id)) {
        fail(error, ERR_EXISTS, "there is already an object with id '%s'", id);
        return NULL;
    }
    object_add_child(objects, id, obj, NULL);
    if (!object_realize(obj, error)) {
        error_prefix(error, "object '%s': ", id);
        object_unparent(obj);
        return NULL;
    }
    return obj;                            /* the tree's reference; ours ends here */
}

bool object_delete_user(Object *root, const char *id, GError **error)
{
    Object *objects = object_container(root, "objects");
    Object *obj = object_child(objects, id);

    if (!obj)
        return fail(error, ERR_NOT_FOUND, "there is no object '%s'", id);
    /* The tree has one reference; any other is a device or object that still uses it. */
    if (g_atomic_int_get(&obj->refs) > 1)
        return fail(error, ERR_IN_USE, "object '%s' is in use, it cannot be deleted", id);
    object_unrealize(obj);
    object_unparent(obj);
    return true;
}

/* ---- the base types ---- */

static json_object *get_type(Object *obj, const Property *prop)
{
    return json_object_new_string(obj->type->name);
}

static const Property object_props[] = {
    PROP_FN("type", get_type, NULL, .help = "name of the object's type", .read_only = true),
    {}
};

static const Type object_type = {
    .name = "object", .help = "what all objects have", .size = sizeof(Object), .abstract = true,
    .props = object_props,
};
TYPE_REGISTER(object_type)

void object_set_root_owner(Object *root, void *owner)
{
    g_return_if_fail(object_is_a(root, "container"));
    ((Container *)root)->owner = owner;
}

void *object_root_owner(const Object *any)
{
    Object *root = object_root(any);

    return object_is_a(root, "container") ? ((Container *)root)->owner : NULL;
}

/* What -object and object-add make descends from it. */
static const Type user_object_type = {
    .name = "user-object", .parent = "object", .help = "what backends have in common",
    .abstract = true,
};
TYPE_REGISTER(user_object_type)

static void container_finalize(Object *obj)
{
    g_clear_pointer(&((Container *)obj)->event_sinks, g_array_unref);
}

static const Type container_type = {
    .name = "container", .parent = "object", .help = "objects by name", .size = sizeof(Container),
    .finalize = container_finalize,
};
TYPE_REGISTER(container_type)

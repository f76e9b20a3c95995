/*
 * Objects and their tree.  A machine's objects form one tree under a root object: /machine (the
 * board, its devices under peripheral, peripheral-anon and unattached), /objects (-object),
 * /chardevs, /block.  A path names an object; an id is the last part of a path under
 * /machine/peripheral or /objects.  Nothing here is global: two machines are two roots.
 *
 * Thread: the tree belongs to the main thread under the VM lock.  References are atomic.
 */
#pragma once
#include "src/object/type.h"

struct Object {
    const Type *type;
    Object *parent;                        /* NULL: root, or not in a tree yet */
    char *name;                            /* in its parent */
    GPtrArray *children;                   /* of Object, in order of addition; NULL: none */
    gint refs;
    bool realized;
    GPtrArray *was_set;                    /* of const Property: those set from outside; NULL: none */
    Object *forward, *forwarder;           /* object_set_forward: counted; back, not counted */
    Object *context;                       /* object_set_context; not counted */
};

/* A new object with defaults, one reference.  NULL: abstract or unknown type (by name only). */
Object *object_new(const Type *type);
Object *object_new_by_name(const char *type_name, GError **error);
void *object_ref(void *obj);
void object_unref(void *obj);              /* NULL is fine */

/* The tree takes a reference of its own.  False: the name is taken. */
bool object_add_child(Object *parent, const char *name, Object *child, GError **error);
void object_unparent(Object *obj);         /* drops the tree's reference */
Object *object_child(const Object *parent, const char *name);
/* The container child of that name, made if it is not there. */
Object *object_container(Object *parent, const char *name);
Object *object_root(const Object *obj);
/* What the tree stands for (a Vm).  The root is a "container"; NULL: nothing was set. */
void object_set_root_owner(Object *root, void *owner);
void *object_root_owner(const Object *any);
char *object_path(const Object *obj);      /* "/machine/peripheral/disk0"; g_free */
/* An absolute path, or a partial one (an id) that is unique in the tree.  NULL: none. */
Object *object_resolve(const Object *any, const char *path);
/* An object that is in no tree yet looks up links and its root from @near (an object of the tree
 * that it will belong to).  Ends when it gets a parent. */
void object_set_context(Object *obj, Object *near);
bool object_is_a(const Object *obj, const char *type_name);
/* A name that a user may give: a letter, then letters, digits, '-', '.', '_'. */
bool object_id_valid(const char *id);
/* Depth first, the object itself included; fn returns false to stop. */
bool object_walk(Object *obj, bool (*fn)(Object *obj, void *opaque), void *opaque);

/* Properties.  Set: parses, range-checks, and after realize refuses all but .runtime ones. */
bool object_set(Object *obj, const char *name, json_object *value, GError **error);
bool object_set_str(Object *obj, const char *name, const char *value, GError **error);
bool object_set_bool(Object *obj, const char *name, bool value, GError **error);
bool object_set_u64(Object *obj, const char *name, uint64_t value, GError **error);
bool object_set_link(Object *obj, const char *name, Object *target, GError **error);
json_object *object_get(Object *obj, const char *name, GError **error);
/* Every member of @options is a property; the error names the option and the nearest name. */
bool object_set_all(Object *obj, json_object *options, GError **error);
bool object_was_set(const Object *obj, const char *name);
/* An object may forward properties it has not to another one (virtio-pci to its backend). */
void object_set_forward(Object *obj, Object *to);
Object *object_forward(const Object *obj);

/* Realize, unrealize, reset: see type.h. */
bool object_realize(Object *obj, GError **error);
void object_unrealize(Object *obj);
void object_reset(Object *obj);

/* -object and object-add: make, set, put under /objects, realize.  Needs "qom-type" and "id". */
Object *object_create_user(Object *root, json_object *options, GError **error);
bool object_delete_user(Object *root, const char *id, GError **error);

#define OBJECT(ptr) ((Object *)(ptr))
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Object, object_unref)

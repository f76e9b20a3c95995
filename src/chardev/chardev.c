/* Character devices by id: making, finding and deleting them; -chardev options and short forms. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include "src/chardev/chardev-int.h"

/* /chardevs: the container, and what the machine wants to hear of. */
typedef struct CharRegistry {
    Object obj;
    LoopFn *quit;
    void *quit_opaque;
} CharRegistry;

static const Type registry_type = {
    .name = "chardev-container",
    .parent = "object",
    .help = "character devices by id",
    .size = sizeof(CharRegistry),
};
TYPE_REGISTER(registry_type)

static CharRegistry *registry(Object *root)
{
    Object *obj = object_child(root, "chardevs");
    if (!obj) {
        obj = object_new(&registry_type);
        object_add_child(root, "chardevs", obj, NULL);
        object_unref(obj);
    }
    return (CharRegistry *)obj;
}

void chardev_set_quit_hook(Object *root, LoopFn *fn, void *opaque)
{
    registry(root)->quit = fn;
    registry(root)->quit_opaque = opaque;
}

void chardev_quit_requested(Chardev *cd)
{
    CharRegistry *r = registry(object_root(&cd->obj));
    if (r->quit)
        r->quit(r->quit_opaque);
}

/* --- Options --- */

#define DEFINE_TAKE(name, type)                                                                    \
    bool take_##name(json_object *options, const char *key, type *ret, GError **error)             \
    {                                                                                              \
        bool ok = options_get_##name(options, key, ret, error);                                    \
        json_object_object_del(options, key);                                                      \
        return ok;                                                                                 \
    }
DEFINE_TAKE(bool, bool)
DEFINE_TAKE(u64, uint64_t)
DEFINE_TAKE(size, uint64_t)
#undef DEFINE_TAKE

/* Numbers are fine, too: JSON clients write port=4444 as one. */
bool take_str(json_object *options, const char *key, char **ret, GError **error)
{
    g_autoptr(json_object) value = options_take(options, key);
    if (!value)
        return true;
    if (!json_object_is_type(value, json_type_string) && !json_object_is_type(value, json_type_int))
        return fail(error, ERR_WRONG_TYPE, "'%s' must be a string", key);
    *ret = g_strdup(json_object_get_string(value));
    return true;
}

bool need_str(json_object *options, const char *key, char **ret, GError **error)
{
    if (!take_str(options, key, ret, error))
        return false;
    return *ret || fail(error, ERR_MISSING_PARAMETER, "Parameter '%s' is missing", key);
}

bool set_nonblocking(int fd, GError **error)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return fail_errno(error, errno, "cannot make a descriptor non-blocking");
    return true;
}

/* --- Making --- */

static const char *const kinds[] = { "file", "mux", "null", "pipe", "pty", "ringbuf", "socket",
                                     "stdio", "memory", NULL };
static const char *const kinds_elsewhere[] = { "braille", "console", "dbus", "hub", "msmouse",
                                               "parallel", "parport", "serial", "spiceport",
                                               "spicevmc", "testdev", "tty", "udp", "vc",
                                               "wctablet", NULL };

static const Type *kind_type(const char *kind, GError **error)
{
    if (!strcmp(kind, "memory"))
        kind = "ringbuf";
    g_autofree char *name = g_strconcat("chardev-", kind, NULL);
    const Type *type = g_strv_contains(kinds, kind) ? type_find(name) : NULL;
    if (type)
        return type;
    if (g_strv_contains(kinds_elsewhere, kind)) {
        fail(error, ERR_UNSUPPORTED, "chardev backend '%s' is not supported", kind);
    } else {
        fail(error, ERR_INVALID_PARAMETER, "'%s' is not a valid char driver name", kind);
        const char *near = nearest_word(kind, kinds);
        if (near) {
            error_hint(error, "did you mean '%s'?", near);
            return NULL;
        }
    }
    error_hint(error, "the backends are file, mux, null, pipe, pty, ringbuf, socket and stdio");
    return NULL;
}

Chardev *chardev_new(Object *root, const char *id, const char *kind, json_object *options,
                     GError **error)
{
    const Type *type = kind_type(kind, error);
    if (!type)
        return NULL;
    Chardev *cd = (Chardev *)object_new(type);
    cd->obj.name = g_strdup(id);
    cd->options = json_object_get(options);
    object_set_context(&cd->obj, root);
    if (object_realize(&cd->obj, error))
        return cd;
    error_object(error, "/chardevs/%s", id);
    object_unref(cd);
    return NULL;
}

/* Opens one and puts it under /chardevs. */
static Chardev *add_chardev(Object *root, const char *id, const char *kind, json_object *options,
                            GError **error)
{
    Object *parent = &registry(root)->obj;
    if (object_child(parent, id)) {
        fail(error, ERR_EXISTS, "Chardev with id '%s' already exists", id);
        return NULL;
    }
    g_autoptr(Object) obj = (Object *)chardev_new(root, id, kind, options, error);
    if (!obj || !object_add_child(parent, id, obj, error))
        return NULL;
    return (Chardev *)obj;
}

/* mux=on: the device itself is ID-base, and ID is a multiplexer on it. */
static Chardev *add_with_mux(Object *root, const char *id, const char *kind, json_object *options,
                             GError **error)
{
    g_autofree char *base_id = g_strconcat(id, "-base", NULL);
    if (chardev_find(root, id)) {
        fail(error, ERR_EXISTS, "Chardev with id '%s' already exists", id);
        return NULL;
    }
    if (!add_chardev(root, base_id, kind, options, error))
        return NULL;
    g_autoptr(json_object) mux = json_object_new_object();
    json_object_object_add(mux, "chardev", json_object_new_string(base_id));
    Chardev *cd = add_chardev(root, id, "mux", mux, error);
    if (!cd)
        chardev_delete(root, base_id, NULL);
    return cd;
}

static bool check_id(const char *id, GError **error)
{
    bool ok = g_ascii_isalpha(*id);
    for (const char *p = id; ok && *p; p++)
        ok = g_ascii_isalnum(*p) || strchr("-._", *p);
    if (ok)
        return true;
    fail(error, ERR_INVALID_PARAMETER, "'%s' is not an identifier", id);
    return error_hint(error, "an id is a letter, then letters, digits, '-', '.', '_'");
}

static json_object *copy_of(json_object *options)
{
    json_object *copy = NULL;
    json_object_deep_copy(options, &copy, NULL);
    return copy;
}

Chardev *chardev_create(Object *root, json_object *options, GError **error)
{
    g_autoptr(json_object) rest = copy_of(options);
    g_autofree char *id = NULL, *kind = NULL;
    bool mux = false;
    if (!take_str(rest, "id", &id, error) || !take_str(rest, "backend", &kind, error) ||
        !take_bool(rest, "mux", &mux, error))
        return NULL;
    if (!kind || !id) {
        fail(error, ERR_MISSING_PARAMETER, "chardev: %s", kind ? "no id specified"
                                                               : "missing backend");
        return NULL;
    }
    if (!check_id(id, error))
        return NULL;
    Chardev *cd = mux ? add_with_mux(root, id, kind, rest, error)
                      : add_chardev(root, id, kind, rest, error);
    if (!cd)
        error_prefix(error, "chardev '%s': ", id);
    return cd;
}

Chardev *chardev_find(Object *root, const char *id)
{
    Object *parent = object_child(root, "chardevs");
    Object *obj = parent ? object_child(parent, id) : NULL;
    return obj && object_is_a(obj, "chardev") ? (Chardev *)obj : NULL;
}

/* One reference is the tree's; any other is a property or a front end that uses it. */
bool chardev_delete(Object *root, const char *id, GError **error)
{
    Chardev *cd = chardev_find(root, id);
    if (!cd)
        return fail(error, ERR_NOT_FOUND, "Chardev '%s' not found", id);
    if (cd->busy || cd->front_count || g_atomic_int_get(&cd->obj.refs) > 1)
        return fail(error, ERR_IN_USE, "Chardev '%s' is busy", id);
    bool mux = object_is_a(&cd->obj, "chardev-mux");
    object_unparent(&cd->obj);
    g_autofree char *base_id = g_strconcat(id, "-base", NULL);
    return !mux || !chardev_find(root, base_id) || chardev_delete(root, base_id, error);
}

const char *chardev_id(const Chardev *cd)
{
    return cd->obj.name ? cd->obj.name : "";
}

typedef struct NameCall {
    Chardev *cd;
    char *name;
} NameCall;

static void find_name(void *opaque)
{
    NameCall *call = opaque;
    const CharOps *ops = type_ops(call->cd->obj.type);
    call->name = ops->filename ? ops->filename(call->cd)
                               : g_strdup(call->cd->obj.type->name + strlen("chardev-"));
}

char *chardev_filename(const Chardev *cd)
{
    NameCall call = { (Chardev *)cd, NULL };
    loop_call(cd->loop, find_name, &call);
    return call.name;
}

/* --- The property kind --- */

static bool set_chardev(Object *obj, const Property *prop, json_object *value, GError **error)
{
    Chardev **member = property_ptr(obj, prop), *cd = NULL;
    const char *id;
    if (!property_str(obj, prop, value, &id, error))
        return false;
    if (*id) {
        cd = chardev_find(object_root(obj), id);
        if (!cd)
            return property_fail(obj, prop, error, ERR_NOT_FOUND, "can't find chardev '%s'", id);
        if (cd->front_count >= MAX(((const CharOps *)type_ops(cd->obj.type))->max_fronts, 1))
            return property_fail(obj, prop, error, ERR_IN_USE, "chardev '%s' is in use", id);
        object_ref(cd);
    }
    object_unref(*member);
    *member = cd;
    return true;
}

static json_object *get_chardev(Object *obj, const Property *prop)
{
    Chardev *cd = *(Chardev **)property_ptr(obj, prop);
    return json_object_new_string(cd ? chardev_id(cd) : "");
}

static void release_chardev(Object *obj, const Property *prop)
{
    g_clear_pointer((Chardev **)property_ptr(obj, prop), object_unref);
}

const PropertyKind prop_chardev = { "str", set_chardev, get_chardev, release_chardev, NULL };

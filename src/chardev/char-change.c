/* chardev-change: the front end of a character device gets another back end, under the same id. */
#include <string.h>
#include "src/chardev/chardev-int.h"

/* One reference is the tree's, one the front's, one that of its owner. */
static bool may_change(Chardev *cd, GError **error)
{
    const CharFront *front = cd->front_count ? cd->fronts[0] : NULL;
    const char *id = chardev_id(cd);
    if (object_is_a(&cd->obj, "chardev-mux"))
        return fail(error, ERR_UNSUPPORTED, "Chardev '%s' is a multiplexer: these cannot change", id);
    if ((front && !front->slot) || cd->loop != loop_main() || cd->busy ||
        g_atomic_int_get(&cd->obj.refs) > (front ? 3 : 1))
        return fail(error, ERR_UNSUPPORTED, "Chardev '%s': its user does not support a change", id);
    return true;
}

/* To the front end it is as if its peer went, and another came. */
static void move_front(CharFront *front, Chardev *from, Chardev *to)
{
    if (from->connected && front->event)
        front->event(front->opaque, CHAR_CLOSED);
    bool waits = from->want_writable;
    char_front_detach(front);
    object_unref(*front->slot);
    *front->slot = object_ref(to);
    char_front_attach(front, to, NULL);
    to->want_writable |= waits;
    chardev_update(to);
}

Chardev *chardev_change(Object *root, json_object *options, GError **error)
{
    g_autoptr(json_object) rest = NULL;
    g_autofree char *id = NULL, *kind = NULL;
    bool mux = false;
    json_object_deep_copy(options, &rest, NULL);
    if (!need_str(rest, "id", &id, error) || !need_str(rest, "backend", &kind, error) ||
        !take_bool(rest, "mux", &mux, error))
        return NULL;
    Chardev *from = chardev_find(root, id);
    if (!from)
        fail(error, ERR_NOT_FOUND, "Chardev '%s' does not exist", id);
    if (!from || !may_change(from, error))
        return NULL;
    if (mux) {
        fail(error, ERR_UNSUPPORTED, "Chardev '%s' cannot change to a multiplexer", id);
        return NULL;
    }
    g_autoptr(Object) to = (Object *)chardev_new(root, id, kind, rest, error);
    if (!to) {
        error_prefix(error, "chardev '%s' stays as it was: ", id);
        return NULL;
    }
    Object *parent = from->obj.parent;
    if (from->front_count)
        move_front(from->fronts[0], from, (Chardev *)to);
    object_unparent(&from->obj);
    object_add_child(parent, id, to, NULL);
    return (Chardev *)to;
}

Chardev *chardev_change_qmp(Object *root, const char *id, json_object *backend, GError **error)
{
    g_autoptr(json_object) options = chardev_options_of_qmp(id, backend, error);
    return options ? chardev_change(root, options, error) : NULL;
}

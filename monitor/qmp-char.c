/* QMP: character devices. */
#include <string.h>
#include "schema/commands.h"
#include "src/chardev/chardev.h"

static void add_chardev(GPtrArray *list, Chardev *chardev)
{
    QmpChardevInfo *info = g_new0(QmpChardevInfo, 1);
    info->label = g_strdup(chardev_id(chardev));
    info->filename = chardev_filename(chardev);
    info->frontend_open = chardev_frontend_open(chardev);
    g_ptr_array_add(list, info);
}

GPtrArray *qmp_query_chardev(Vm *vm, GError **error)
{
    GPtrArray *list = qmp_array_new(&qmp_type_chardev_info);
    Object *all = object_child(vm->root, "chardevs");
    for (guint i = 0; all && all->children && i < all->children->len; i++) {
        Object *obj = all->children->pdata[i];
        if (object_is_a(obj, "chardev"))
            add_chardev(list, (Chardev *)obj);
    }
    return list;
}

static void add_backend(const Type *type, void *opaque)
{
    if (type->abstract || !g_str_has_prefix(type->name, "chardev-"))
        return;
    QmpChardevBackendInfo *info = g_new0(QmpChardevBackendInfo, 1);
    info->name = g_strdup(type->name + strlen("chardev-"));
    g_ptr_array_add(opaque, info);
}

GPtrArray *qmp_query_chardev_backends(Vm *vm, GError **error)
{
    GPtrArray *list = qmp_array_new(&qmp_type_chardev_backend_info);
    if (type_find("chardev"))
        type_foreach("chardev", add_backend, list);
    return list;
}

/* @chardev: NULL if it was not made. */
static QmpChardevReturn *tell_pty(const Chardev *chardev)
{
    if (!chardev)
        return NULL;
    QmpChardevReturn *result = g_new0(QmpChardevReturn, 1);
    result->pty = g_strdup(chardev_pty_path(chardev));
    return result;
}

QmpChardevReturn *qmp_chardev_add(Vm *vm, json_object *arguments, GError **error)
{
    json_object *id, *backend;
    json_object_object_get_ex(arguments, "id", &id);
    json_object_object_get_ex(arguments, "backend", &backend);
    return tell_pty(chardev_create_qmp(vm->root, json_object_get_string(id), backend, error));
}

QmpChardevReturn *qmp_chardev_change(Vm *vm, json_object *arguments, GError **error)
{
    json_object *id, *backend;
    json_object_object_get_ex(arguments, "id", &id);
    json_object_object_get_ex(arguments, "backend", &backend);
    return tell_pty(chardev_change_qmp(vm->root, json_object_get_string(id), backend, error));
}

bool qmp_chardev_remove(Vm *vm, const char *id, GError **error)
{
    return chardev_delete(vm->root, id, error);
}

static Chardev *find_chardev(Vm *vm, const char *id, GError **error)
{
    Chardev *chardev = chardev_find(vm->root, id);
    if (!chardev)
        fail(error, ERR_NOT_FOUND, "there is no character device '%s'", id);
    return chardev;
}

bool qmp_chardev_send_break(Vm *vm, const char *id, GError **error)
{
    Chardev *chardev = find_chardev(vm, id, error);
    if (chardev)
        chardev_send_break(chardev);
    return chardev != NULL;
}

/* ---- ring buffers ---- */

bool qmp_ringbuf_write(Vm *vm, const char *device, const char *data, bool has_format,
                       QmpDataFormat format, GError **error)
{
    Chardev *chardev = find_chardev(vm, device, error);
    if (!chardev)
        return false;
    if (!has_format || format == QMP_DATA_FORMAT_UTF8)
        return chardev_ringbuf_write(chardev, (const uint8_t *)data, strlen(data), error);
    gsize length;
    g_autofree uint8_t *bytes = g_base64_decode(data, &length);
    return chardev_ringbuf_write(chardev, bytes, length, error);
}

char *qmp_ringbuf_read(Vm *vm, const char *device, int64_t size, bool has_format,
                       QmpDataFormat format, GError **error)
{
    Chardev *chardev = find_chardev(vm, device, error);
    if (!chardev)
        return NULL;
    if (size <= 0) {
        fail(error, ERR_INVALID_PARAMETER, "size must be greater than zero");
        return NULL;
    }
    g_autoptr(GBytes) bytes = chardev_ringbuf_read(chardev, size, error);
    if (!bytes)
        return NULL;
    gsize length;
    const char *data = g_bytes_get_data(bytes, &length);
    if (has_format && format == QMP_DATA_FORMAT_BASE64)
        return g_base64_encode((const guchar *)data, length);
    return g_utf8_make_valid(data ? data : "", length);
}

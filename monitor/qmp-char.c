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

/* ---- chardev-add: QMP's nested form becomes the options of -chardev ---- */

static void put_str(json_object *options, const char *key, const char *value)
{
    if (value)
        json_object_object_add(options, key, json_object_new_string(value));
}

static void put_bool(json_object *options, const char *key, bool has, bool value)
{
    if (has)
        json_object_object_add(options, key, json_object_new_boolean(value));
}

static void put_int(json_object *options, const char *key, bool has, int64_t value)
{
    if (has)
        json_object_object_add(options, key, json_object_new_int64(value));
}

static void put_common(json_object *options, const char *logfile, bool has_logappend, bool logappend)
{
    put_str(options, "logfile", logfile);
    put_bool(options, "logappend", has_logappend, logappend);
}

/* fd: a number, or a name that getfd gave; the chardev looks it up. */
static void put_address(json_object *options, const QmpSocketAddressLegacy *addr)
{
    switch (addr->type) {
    case QMP_SOCKET_ADDRESS_TYPE_INET:
        put_str(options, "host", addr->u.inet->data->host);
        put_str(options, "port", addr->u.inet->data->port);
        break;
    case QMP_SOCKET_ADDRESS_TYPE_UNIX:
        put_str(options, "path", addr->u.q_unix->data->path);
        break;
    default:
        put_str(options, "fd", addr->u.fd->data->str);
    }
}

static bool put_socket(json_object *options, const QmpChardevSocket *socket, GError **error)
{
    if (socket->has_wait && socket->wait)
        return fail(error, ERR_UNSUPPORTED,
                    "wait: a running machine does not wait for a client");
    put_common(options, socket->logfile, socket->has_logappend, socket->logappend);
    put_bool(options, "server", true, !socket->has_server || socket->server);
    if (!socket->has_server || socket->server)
        put_bool(options, "wait", true, false);
    put_bool(options, "nodelay", socket->has_nodelay, socket->nodelay);
    put_int(options, "reconnect", socket->has_reconnect, socket->reconnect);
    put_address(options, socket->addr);
    return true;
}

static bool put_backend(json_object *options, const QmpChardevBackend *backend, GError **error)
{
    const QmpChardevFile *file;
    const QmpChardevHostdev *pipe;
    const QmpChardevRingbuf *ring;
    const QmpChardevCommon *common;
    put_str(options, "backend",
            backend->type == QMP_CHARDEV_BACKEND_KIND_MEMORY
                ? "ringbuf" : qmp_chardev_backend_kind_words[backend->type]);
    switch (backend->type) {
    case QMP_CHARDEV_BACKEND_KIND_SOCKET:
        return put_socket(options, backend->u.socket->data, error);
    case QMP_CHARDEV_BACKEND_KIND_FILE:
        file = backend->u.file->data;
        put_common(options, file->logfile, file->has_logappend, file->logappend);
        put_str(options, "path", file->out);
        put_str(options, "input-path", file->in);
        put_bool(options, "append", file->has_append, file->append);
        return true;
    case QMP_CHARDEV_BACKEND_KIND_PIPE:
        pipe = backend->u.pipe->data;
        put_common(options, pipe->logfile, pipe->has_logappend, pipe->logappend);
        put_str(options, "path", pipe->device);
        return true;
    case QMP_CHARDEV_BACKEND_KIND_RINGBUF:
    case QMP_CHARDEV_BACKEND_KIND_MEMORY:
        ring = backend->u.ringbuf->data;
        put_common(options, ring->logfile, ring->has_logappend, ring->logappend);
        put_int(options, "size", ring->has_size, ring->size);
        return true;
    default:
        common = backend->type == QMP_CHARDEV_BACKEND_KIND_PTY ? backend->u.pty->data
                                                               : backend->u.null->data;
        put_common(options, common->logfile, common->has_logappend, common->logappend);
        return true;
    }
}

QmpChardevReturn *qmp_chardev_add(Vm *vm, const char *id, const QmpChardevBackend *backend,
                                  GError **error)
{
    g_autoptr(json_object) options = json_object_new_object();
    put_str(options, "id", id);
    Chardev *chardev =
        put_backend(options, backend, error) ? chardev_create(vm->root, options, error) : NULL;
    if (!chardev)
        return NULL;
    QmpChardevReturn *result = g_new0(QmpChardevReturn, 1);
    result->pty = g_strdup(chardev_pty_path(chardev));
    return result;
}

bool qmp_chardev_remove(Vm *vm, const char *id, GError **error)
{
    return chardev_delete(vm->root, id, error);
}

/* ---- ring buffers ---- */

static Chardev *find_chardev(Vm *vm, const char *id, GError **error)
{
    Chardev *chardev = chardev_find(vm->root, id);
    if (!chardev)
        fail(error, ERR_NOT_FOUND, "there is no character device '%s'", id);
    return chardev;
}

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

/* QMP: block exports and the NBD server. */
#include "block/export.h"
#include "schema/commands.h"

/* {"type": …, "data": {…}} without its inner object: a SocketAddress. */
static json_object *flat_address(json_object *legacy)
{
    json_object *flat = json_object_new_object(), *value;

    if (json_object_object_get_ex(legacy, "data", &value)) {
        json_object_object_foreach(value, key, member)
            json_object_object_add(flat, key, json_object_get(member));
    }
    if (json_object_object_get_ex(legacy, "type", &value))
        json_object_object_add(flat, "type", json_object_get(value));
    return flat;
}

bool qmp_nbd_server_start(Vm *vm, json_object *arguments, GError **error)
{
    NbdServerOptions options = { 0 };
    uint64_t connections = NBD_MAX_CONNECTIONS, seconds = NBD_HANDSHAKE_SECONDS;
    g_autoptr(json_object) addr = NULL;
    json_object *legacy;

    if (json_object_object_get_ex(arguments, "addr", &legacy))
        options.addr = addr = flat_address(legacy);
    if (!options_get_str(arguments, "tls-creds", &options.tls_creds, error) ||
        !options_get_str(arguments, "tls-authz", &options.tls_authz, error) ||
        !options_get_u64(arguments, "max-connections", &connections, error) ||
        !options_get_u64(arguments, "handshake-max-seconds", &seconds, error))
        return false;
    options.max_connections = connections;
    options.handshake_seconds = seconds;
    return nbd_server_start(block_exports_of(vm->root), &options, error);
}

bool qmp_nbd_server_stop(Vm *vm, GError **error)
{
    return nbd_server_stop(block_exports_of(vm->root), error);
}

bool qmp_block_export_add(Vm *vm, json_object *arguments, GError **error)
{
    return block_export_add(block_exports_of(vm->root), arguments, error);
}

static bool remove_export(Vm *vm, const char *id, bool has_mode, QmpBlockExportRemoveMode mode,
                          GError **error)
{
    return block_export_delete(block_exports_of(vm->root), id,
                               has_mode && mode == QMP_BLOCK_EXPORT_REMOVE_MODE_HARD, error);
}

bool qmp_block_export_del(Vm *vm, const char *id, bool has_mode, QmpBlockExportRemoveMode mode,
                          GError **error)
{
    return remove_export(vm, id, has_mode, mode, error);
}

json_object *qmp_query_block_exports(Vm *vm, GError **error)
{
    return block_exports_query(block_exports_of(vm->root));
}

static void put_text(json_object *options, const char *key, const char *text)
{
    if (text)
        json_object_object_add(options, key, json_object_new_string(text));
}

bool qmp_nbd_server_add(Vm *vm, const char *device, const char *name, const char *description,
                        bool has_writable, bool writable, const char *bitmap, GError **error)
{
    g_autoptr(json_object) options = json_object_new_object();
    BlockNode *drive = block_drive_find(vm->block, device);
    json_object *bitmaps;

    put_text(options, "type", "nbd");
    put_text(options, "id", name ? name : device);
    put_text(options, "name", name ? name : device);
    put_text(options, "node-name", drive ? block_node_name(drive) : device);
    put_text(options, "description", description);
    json_object_object_add(options, "writable", json_object_new_boolean(has_writable && writable));
    if (bitmap) {
        bitmaps = json_object_new_array();
        json_object_array_add(bitmaps, json_object_new_string(bitmap));
        json_object_object_add(options, "bitmaps", bitmaps);
    }
    return block_export_add(block_exports_of(vm->root), options, error);
}

bool qmp_nbd_server_remove(Vm *vm, const char *name, bool has_mode, QmpBlockExportRemoveMode mode,
                           GError **error)
{
    return remove_export(vm, name, has_mode, mode, error);
}

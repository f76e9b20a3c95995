/* Exports: the objects, by id and by name; adding and removing them. */
#include "block/export-int.h"
#include <string.h>
#include "block/chain.h"
#include "block/node.h"
#include "schema/events.h"
#include "src/object/iothread.h"

enum { NAME_MAX_BYTES = 4096 };            /* NBD: the longest string */

struct BlockExports {
    Object obj;
    GPtrArray *list;                       /* of BlockExport; deleted ones until they are gone */
    struct NbdServer *server;              /* NULL: not running */
    bool stopping;
    unsigned closing;                      /* exports that are off the list, but not gone yet */
    CoQueue changed;                       /* of coroutines: an export or a connection has gone */
};

/* ---- the container ---- */

static void exports_init(Object *obj)
{
    BlockExports *exports = (BlockExports *)obj;

    exports->list = g_ptr_array_new();
    co_queue_init(&exports->changed);
}

static void exports_finalize(Object *obj)
{
    g_ptr_array_free(((BlockExports *)obj)->list, TRUE);
}

static const Type exports_type = {
    .name = "block-exports",
    .parent = "object",
    .help = "block nodes that others use over a network",
    .size = sizeof(BlockExports),
    .init = exports_init,
    .finalize = exports_finalize,
};
TYPE_REGISTER(exports_type)

BlockExports *block_exports_of(Object *root)
{
    Object *obj = object_child(root, "exports");

    if (!obj) {
        obj = object_new(&exports_type);
        object_add_child(root, "exports", obj, NULL);
        object_unref(obj);
    }
    return (BlockExports *)obj;
}

static BlockExport *find_id(BlockExports *exports, const char *id)
{
    for (unsigned i = 0; i < exports->list->len; i++) {
        BlockExport *export = exports->list->pdata[i];

        if (!strcmp(export->id, id))
            return export;
    }
    return NULL;
}

BlockExport *block_export_find_name(BlockExports *exports, const char *name)
{
    for (unsigned i = 0; i < exports->list->len; i++) {
        BlockExport *export = exports->list->pdata[i];

        if (!export->deleted && !strcmp(export->name, name))
            return export;
    }
    return NULL;
}

void block_exports_foreach(BlockExports *exports, void (*fn)(BlockExport *export, void *opaque),
                           void *opaque)
{
    for (unsigned i = 0; i < exports->list->len; i++) {
        BlockExport *export = exports->list->pdata[i];

        if (!export->deleted)
            fn(export, opaque);
    }
}

json_object *block_exports_query(BlockExports *exports)
{
    json_object *list = json_object_new_array();

    for (unsigned i = 0; i < exports->list->len; i++) {
        const BlockExport *export = exports->list->pdata[i];
        json_object *info = json_object_new_object();

        json_object_object_add(info, "id", json_object_new_string(export->id));
        json_object_object_add(info, "type", json_object_new_string("nbd"));
        json_object_object_add(info, "node-name", json_object_new_string(
                                   block_node_name(block_user_node(export->user))));
        json_object_object_add(info, "shutting-down", json_object_new_boolean(export->deleted));
        json_object_array_add(list, info);
    }
    return list;
}

/* ---- the end of an export ---- */

static void unref_object(void *obj)
{
    object_unref(obj);
}

static void free_members(BlockExport *export)
{
    for (unsigned i = 0; export->bitmaps && i < export->bitmaps->len; i++)
        block_bitmap_set_flags(export->bitmaps->pdata[i], 0, BLOCK_BITMAP_BUSY);
    block_user_free(export->user);
    if (export->bitmaps)
        g_ptr_array_free(export->bitmaps, TRUE);
    if (export->iothreads)
        g_ptr_array_free(export->iothreads, TRUE);
    g_free(export->id);
    g_free(export->name);
    g_free(export->description);
    g_free(export);
}

/* It may wait, for the image's locks. */
static void co_fn finish(void *opaque)
{
    BlockExport *export = opaque;
    BlockExports *exports = export->exports;
    g_autofree char *id = g_strdup(export->id);

    g_ptr_array_remove(exports->list, export);
    exports->closing++;
    free_members(export);
    exports->closing--;
    event_block_export_deleted(&exports->obj, id);
    co_queue_wake_all(&exports->changed);
    object_unref(exports);
}

BlockExport *block_export_ref(BlockExport *export)
{
    export->refs++;
    return export;
}

void block_export_unref(BlockExport *export)
{
    if (!export || --export->refs)
        return;
    object_ref(export->exports);
    co_start(finish, export);
}

/* No new connections from now on; the old ones are cut. */
static void delete(BlockExport *export)
{
    if (export->deleted)
        return;
    export->deleted = true;
    if (export->exports->server)
        nbd_server_cut(export->exports->server, export);
    block_export_unref(export);
}

bool block_export_delete(BlockExports *exports, const char *id, bool hard, GError **error)
{
    BlockExport *export = find_id(exports, id);

    if (!export) {
        fail(error, ERR_NOT_FOUND, "Export '%s' is not found", id);
        return error_object(error, "%s", id);
    }
    if (export->deleted) {
        fail(error, ERR_BAD_STATE, "Export '%s' is already shutting down", id);
        return error_object(error, "%s", id);
    }
    if (!hard && export->refs > 1) {
        fail(error, ERR_IN_USE, "export '%s' still in use", id);
        error_hint(error, "use mode='hard' to force client disconnect");
        return error_object(error, "%s", id);
    }
    delete(export);
    return true;
}

/* ---- a new export ---- */

Loop *block_export_next_loop(BlockExport *export)
{
    if (!export->iothreads->len)
        return loop_main();
    return iothread_loop(export->iothreads->pdata[export->next_loop++ % export->iothreads->len]);
}

static bool take_text(json_object *options, const char *key, char **ret, GError **error)
{
    g_autoptr(json_object) value = options_take(options, key);
    const char *text;

    if (!value)
        return true;
    if (!value_to_str(value, key, &text, error))
        return false;
    *ret = g_strdup(text);
    return true;
}

static bool take_flag(json_object *options, const char *key, bool *ret, GError **error)
{
    g_autoptr(json_object) value = options_take(options, key);

    return !value || value_to_bool(value, key, ret, error);
}

static bool add_iothread(BlockExport *export, json_object *value, GError **error)
{
    Object *root = object_root(&export->exports->obj);
    Object *objects = object_container(root, "objects"), *obj;
    const char *id;

    if (!value_to_str(value, "iothread", &id, error))
        return false;
    obj = object_child(objects, id);
    if (!obj || !object_is_a(obj, "iothread")) {
        fail(error, ERR_NOT_FOUND, "iothread \"%s\" not found", id);
        return error_object(error, "%s", id);
    }
    g_ptr_array_add(export->iothreads, object_ref(obj));
    return true;
}

/* One name, or an array of them among which connections are dealt out. */
static bool take_iothreads(BlockExport *export, json_object *options, GError **error)
{
    g_autoptr(json_object) value = options_take(options, "iothread");
    bool fixed;

    if (!take_flag(options, "fixed-iothread", &fixed, error))
        return false;                      /* ours never move */
    if (!value)
        return true;
    if (!json_object_is_type(value, json_type_array))
        return add_iothread(export, value, error);
    for (size_t i = 0; i < json_object_array_length(value); i++) {
        if (!add_iothread(export, json_object_array_get_idx(value, i), error))
            return false;
    }
    return true;
}

/* A bitmap of the node, or of an image below it that the node shows. */
static BlockBitmap *find_bitmap(BlockNode *node, const char *name)
{
    BlockBitmap *bitmap = NULL;

    while (node && !(bitmap = block_bitmap_find(node, name)))
        node = node->driver->is_filter ? block_node_file(node) : block_node_below(node);
    return bitmap;
}

static bool add_bitmap(BlockExport *export, BlockNode *top, json_object *value, GError **error)
{
    BlockNode *node = top;
    const char *name = NULL, *node_name = NULL;
    BlockBitmap *bitmap;

    if (json_object_is_type(value, json_type_object)) {
        if (!options_get_str(value, "node", &node_name, error) ||
            !options_get_str(value, "name", &name, error))
            return false;
        node = node_name ? block_node_find(top->graph, node_name) : NULL;
        if (!node || !name)
            return fail(error, ERR_NOT_FOUND, "Failed to find node with node-name='%s'",
                        node_name ? node_name : "");
    } else if (!value_to_str(value, "bitmaps", &name, error)) {
        return false;
    }
    bitmap = find_bitmap(node, name);
    if (!bitmap) {
        fail(error, ERR_NOT_FOUND, "Bitmap '%s' is not found", name);
        return error_object(error, "%s", name);
    }
    if (!block_bitmap_check(bitmap, BLOCK_BITMAP_BUSY | BLOCK_BITMAP_INCONSISTENT, error))
        return false;
    /* Bits that change while a client reads them are good for nothing. */
    if (!export->writable && !block_node_read_only(top) &&
        block_bitmap_flags(bitmap) & BLOCK_BITMAP_RECORDING)
        return fail(error, ERR_INVALID_PARAMETER,
                    "Enabled bitmap '%s' incompatible with readonly export", name);
    block_bitmap_set_flags(bitmap, BLOCK_BITMAP_BUSY, 0);
    g_ptr_array_add(export->bitmaps, bitmap);
    return true;
}

static bool take_bitmaps(BlockExport *export, BlockNode *node, json_object *options, GError **error)
{
    g_autoptr(json_object) list = options_take(options, "bitmaps");

    if (!list)
        return true;
    if (!json_object_is_type(list, json_type_array))
        return fail(error, ERR_WRONG_TYPE, "'bitmaps' must be an array");
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        if (!add_bitmap(export, node, json_object_array_get_idx(list, i), error))
            return false;
    }
    return true;
}

static bool check_names(BlockExports *exports, BlockExport *export, GError **error)
{
    if (!export->id || !object_id_valid(export->id))
        return fail(error, ERR_INVALID_PARAMETER, "Invalid block export id");
    if (find_id(exports, export->id)) {
        fail(error, ERR_EXISTS, "Block export id '%s' is already in use", export->id);
        return error_object(error, "%s", export->id);
    }
    if (strlen(export->name) > NAME_MAX_BYTES)
        return fail(error, ERR_LIMIT, "export name '%.20s…' too long", export->name);
    if (export->description && strlen(export->description) > NAME_MAX_BYTES)
        return fail(error, ERR_LIMIT, "description '%.20s…' too long", export->description);
    if (block_export_find_name(exports, export->name)) {
        fail(error, ERR_EXISTS, "NBD server already has export named '%s'", export->name);
        return error_object(error, "%s", export->name);
    }
    return true;
}

static bool attach(BlockExport *export, BlockNode *node, GError **error)
{
    g_autofree char *who = g_strdup_printf("export '%s'", export->id);

    if (export->writable && block_node_read_only(node)) {
        fail(error, ERR_PERMISSION, "Cannot export read-only node as writable");
        return error_object(error, "%s", block_node_name(node));
    }
    export->user = block_user_new(node, who,
                                  BLOCK_PERM_READ | (export->writable ? BLOCK_PERM_WRITE : 0),
                                  BLOCK_PERM_ALL, error);
    return export->user != NULL;
}

/* Takes everything out of @options. */
static bool setup(BlockExports *exports, BlockExport *export, json_object *options, GError **error)
{
    g_autofree char *type = NULL, *node_name = NULL;
    bool writethrough = false;
    BlockNode *node;

    if (!take_text(options, "type", &type, error) ||
        !take_text(options, "id", &export->id, error) ||
        !take_text(options, "node-name", &node_name, error) ||
        !take_text(options, "name", &export->name, error) ||
        !take_text(options, "description", &export->description, error) ||
        !take_flag(options, "writable", &export->writable, error) ||
        !take_flag(options, "writethrough", &writethrough, error) ||
        !take_flag(options, "allocation-depth", &export->depth_context, error) ||
        !take_flag(options, "multi-conn", &export->multi_conn, error) ||
        !take_iothreads(export, options, error))
        return false;
    if (g_strcmp0(type, "nbd"))
        return fail(error, ERR_UNSUPPORTED, "No such export type: '%s'", type ? type : "");
    node = node_name ? block_node_find(block_graph_of(&exports->obj), node_name) : NULL;
    if (!node) {
        fail(error, ERR_NOT_FOUND, "Cannot find device='%s' nor node-name='%s'",
             node_name ? node_name : "", node_name ? node_name : "");
        return error_object(error, "%s", node_name ? node_name : "");
    }
    if (!export->name)
        export->name = g_strdup(node_name);
    if (!check_names(exports, export, error) || !attach(export, node, error) ||
        !take_bitmaps(export, node, options, error))
        return false;
    if (writethrough)
        block_user_set_write_cache(export->user, false);
    return options_check_empty(options, "block-export-add", NULL, error);
}

static bool check_server(const BlockExports *exports, GError **error)
{
    return (exports->server && !exports->stopping) ||
           fail(error, ERR_BAD_STATE, "NBD server not running");
}

bool block_export_add(BlockExports *exports, json_object *options, GError **error)
{
    g_autoptr(json_object) rest = NULL;
    BlockExport *export;

    if (!check_server(exports, error))
        return false;
    if (json_object_deep_copy(options, &rest, NULL) < 0)
        return fail(error, ERR_LIMIT, "the options are too large");
    export = g_new0(BlockExport, 1);
    export->exports = exports;
    export->refs = 1;
    export->multi_conn = true;
    export->bitmaps = g_ptr_array_new();
    export->iothreads = g_ptr_array_new_with_free_func(unref_object);
    /* Attaching may have waited: the names may be taken by now, or the server gone. */
    if (!setup(exports, export, rest, error) || !check_names(exports, export, error) ||
        !check_server(exports, error)) {
        free_members(export);
        return false;
    }
    g_ptr_array_add(exports->list, export);
    return true;
}

/* ---- the server ---- */

bool nbd_server_running(const BlockExports *exports)
{
    return exports->server != NULL;
}

bool nbd_server_start(BlockExports *exports, const NbdServerOptions *options, GError **error)
{
    if (exports->server)
        return fail(error, ERR_BAD_STATE, "NBD server already running");
    exports->server = nbd_server_new(exports, options, error);
    return exports->server != NULL;
}

bool nbd_server_add_address(BlockExports *exports, json_object *addr, GError **error)
{
    return nbd_server_listen_at(exports->server, addr, error);
}

bool nbd_server_add_socket(BlockExports *exports, int fd, GError **error)
{
    return nbd_server_listen(exports->server, fd, error);
}

void nbd_server_serve(BlockExports *exports, int fd)
{
    nbd_server_take(exports->server, fd, true);
}

static bool is_idle(const BlockExports *exports)
{
    return !exports->list->len && !exports->closing && !nbd_server_connections(exports->server);
}

static void co_fn wait_idle(void *opaque)
{
    BlockExports *exports = opaque;

    while (!is_idle(exports))
        co_queue_wait(&exports->changed, NULL);
}

void block_exports_connection_gone(BlockExports *exports)
{
    co_queue_wake_all(&exports->changed);
}

bool nbd_server_stop(BlockExports *exports, GError **error)
{
    if (!check_server(exports, error))
        return false;
    exports->stopping = true;
    nbd_server_close_sockets(exports->server);
    for (unsigned i = exports->list->len; i-- > 0;) {
        if (i < exports->list->len)        /* more than one may go at once */
            delete(exports->list->pdata[i]);
    }
    nbd_server_cut(exports->server, NULL);
    co_run_sync(wait_idle, exports);
    g_clear_pointer(&exports->server, nbd_server_free);
    exports->stopping = false;
    return true;
}

void block_exports_close(Object *root)
{
    BlockExports *exports = (BlockExports *)object_child(root, "exports");

    if (exports && exports->server)
        nbd_server_stop(exports, NULL);
}

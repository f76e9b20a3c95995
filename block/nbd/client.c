/*
 * nbd: a disk that an NBD server has.
 *
 * What the server cannot do is done as well as it goes without: no flush means that nothing is
 * volatile, no zeroes that zeroes are written.
 */
#include <errno.h>
#include <libnbd.h>
#include <stdlib.h>
#include "block/iov.h"
#include "block/nbd/client-int.h"
#include "block/nbd/libnbd-lazy.h"
#include "block/nbd/proto.h"
#include "src/base/fdset.h"
#include "src/base/util.h"

static const char *const client_options[] = {
    "server", "path", "host", "port", "export", "tls-creds", "tls-hostname", "tls-system",
    "reconnect-delay", "open-timeout", "x-dirty-bitmap", NULL
};

/* ---- options ---- */

static bool take_text(json_object *options, const char *key, char **ret, GError **error)
{
    g_autoptr(json_object) value = options_take(options, key);
    const char *text;

    if (!value)
        return true;
    if (!value_to_str(value, key, &text, error))
        return false;
    g_free(*ret);
    *ret = g_strdup(text);
    return true;
}

static bool take_seconds(json_object *options, const char *key, int64_t *ret_ns, GError **error)
{
    g_autoptr(json_object) value = options_take(options, key);
    uint64_t seconds;

    if (!value)
        return true;
    if (!value_to_u64(value, key, &seconds, error))
        return false;
    if (seconds > UINT32_MAX)
        return fail(error, ERR_INVALID_PARAMETER, "%s is too large", key);
    *ret_ns = seconds * INT64_C(1000000000);
    return true;
}

static bool take_flag(json_object *options, const char *key, bool *ret, GError **error)
{
    g_autoptr(json_object) value = options_take(options, key);

    return !value || value_to_bool(value, key, ret, error);
}

/* The members of a SocketAddress; or the old options path, host and port. */
static bool take_address(NbdTarget *t, json_object *options, GError **error)
{
    static const char *const known[] = { "type", "path", "host", "port", "str", NULL };
    g_autoptr(json_object) server = options_take(options, "server");
    json_object *from = server ? server : options;
    g_autofree char *type = NULL, *fd = NULL;

    if (server && !json_object_is_type(server, json_type_object))
        return fail(error, ERR_WRONG_TYPE, "nbd: 'server' must be an object");
    if ((server && !take_text(from, "type", &type, error)) ||
        !take_text(from, "path", &t->path, error) || !take_text(from, "host", &t->host, error) ||
        !take_text(from, "port", &t->port, error) ||
        (server && !take_text(from, "str", &fd, error)) ||
        (server && !options_check_empty(server, "nbd: server", known, error)))
        return false;
    if (!type)
        type = g_strdup(t->path ? "unix" : t->host ? "inet" : "");
    if (!strcmp(type, "unix") && t->path && !t->host) {
        t->kind = NBD_AT_UNIX;
        return true;
    }
    if (!strcmp(type, "inet") && t->host && !t->path) {
        t->kind = NBD_AT_TCP;
        if (!t->port)
            t->port = g_strdup_printf("%d", NBD_DEFAULT_PORT);
        return true;
    }
    if (!strcmp(type, "fd") && fd) {
        t->kind = NBD_AT_FD;
        t->fd = fd_name_take(fd, error);
        return t->fd >= 0;
    }
    fail(error, ERR_MISSING_PARAMETER, "nbd: 'server' must say where the server is");
    return error_hint(error, "server.type=unix with server.path=, or server.type=inet with "
                             "server.host= and server.port=");
}

static bool take_options(NbdClient *client, json_object *options, GError **error)
{
    NbdTarget *t = &client->target;
    g_autofree char *creds = NULL;
    Object *root = object_root((Object *)block_node_graph(client->node));

    t->export = g_strdup("");
    if (!take_address(t, options, error) || !take_text(options, "export", &t->export, error) ||
        !take_text(options, "tls-creds", &creds, error) ||
        !take_text(options, "tls-hostname", &t->hostname, error) ||
        !take_flag(options, "tls-system", &t->tls, error) ||
        !take_text(options, "x-dirty-bitmap", &t->bitmap, error) ||
        !take_seconds(options, "reconnect-delay", &client->reconnect_ns, error) ||
        !take_seconds(options, "open-timeout", &client->open_ns, error))
        return false;
    if (strlen(t->export) > NBD_STRING_MAX)
        return fail(error, ERR_LIMIT, "nbd: export name too long");
    if (creds) {
        t->keys = tls_creds_keys(root, creds, TLS_CLIENT, error);
        if (!t->keys)
            return false;
    }
    return !t->hostname || t->keys ||
           fail(error, ERR_INVALID_PARAMETER, "tls-hostname requires tls-creds");
}

/* ---- opening and closing ---- */

static void free_client(NbdClient *client)
{
    NbdTarget *t = &client->target;

    if (t->fd >= 0)
        close(t->fd);
    tls_keys_unref(t->keys);
    g_free(t->path);
    g_free(t->host);
    g_free(t->port);
    g_free(t->export);
    g_free(t->bitmap);
    g_free(t->hostname);
    pthread_mutex_destroy(&client->lock);
}

static bool co_fn client_open(BlockNode *node, json_object *options, GError **error)
{
    NbdClient *client = block_node_state(node);
    g_autofree char *uri = NULL;
    bool connected;

    client->node = node;
    client->target.fd = -1;
    pthread_mutex_init(&client->lock, NULL);
    if (!libnbd_load(error) || !take_options(client, options, error)) {
        free_client(client);
        return false;
    }
    connected = nbd_client_connect(client, error);
    if (client->target.fd >= 0)
        close(client->target.fd);
    client->target.fd = -1;                /* the connection has a copy */
    if (!connected) {
        free_client(client);
        return false;
    }
    uri = nbd_target_uri(&client->target);
    block_node_set_filename(node, uri);
    if (client->target.bitmap && !client->info.map)
        fail(error, ERR_NOT_FOUND, "nbd: '%s' has no metadata context '%s'", uri,
             client->target.bitmap);
    else if (!client->info.read_only || block_node_demote(node, EACCES, error))
        return true;
    nbd_client_disconnect(client);
    free_client(client);
    return false;
}

static void co_fn client_close(BlockNode *node)
{
    NbdClient *client = block_node_state(node);

    nbd_client_disconnect(client);
    free_client(client);
}

static int64_t client_get_size(BlockNode *node)
{
    NbdClient *client = block_node_state(node);

    return client->info.size > INT64_MAX ? -EFBIG : (int64_t)client->info.size;
}

static void client_limits(BlockNode *node, BlockLimits *limits)
{
    const NbdServerInfo *info = &((NbdClient *)block_node_state(node))->info;
    uint64_t most = ALIGN_DOWN((uint64_t)INT32_MAX, info->min_block);

    limits->request_alignment = info->min_block;
    limits->max_transfer = ALIGN_DOWN((uint64_t)info->max_block, info->min_block);
    limits->max_discard = most;
    limits->max_write_zeroes = most;
    limits->optimal_io = info->best_block;
    limits->can_discard = info->trim;
    limits->can_write_zeroes = info->zero;
}

/* ---- requests ---- */

static int co_fn client_co_read(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                                uint64_t bytes)
{
    NbdOp op = { .verb = NBD_READ, .buffer = iov[0].iov_base, .offset = offset, .bytes = bytes };
    int ret;

    if (iovcnt == 1)
        return nbd_client_run(block_node_state(node), &op);
    if (posix_memalign(&op.buffer, 4096, bytes))
        return -ENOMEM;
    ret = nbd_client_run(block_node_state(node), &op);
    if (ret == 0)
        iov_from_buffer(iov, iovcnt, 0, op.buffer, bytes);
    free(op.buffer);
    return ret;
}

static int co_fn client_co_flush(BlockNode *node)
{
    NbdClient *client = block_node_state(node);
    NbdOp op = { .verb = NBD_FLUSH };

    return client->info.flush ? nbd_client_run(client, &op) : 0;
}

static uint32_t fua_flag(const NbdClient *client, unsigned flags)
{
    return flags & BLOCK_FUA && client->info.fua ? LIBNBD_CMD_FLAG_FUA : 0;
}

/* After a write: what FUA could not do. */
static int co_fn settle(BlockNode *node, unsigned flags, int ret)
{
    NbdClient *client = block_node_state(node);

    return ret == 0 && flags & BLOCK_FUA && !client->info.fua ? client_co_flush(node) : ret;
}

static int co_fn client_co_write(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                 int iovcnt, uint64_t bytes, unsigned flags)
{
    NbdClient *client = block_node_state(node);
    NbdOp op = { .verb = NBD_WRITE, .buffer = iov[0].iov_base, .offset = offset, .bytes = bytes,
                 .flags = fua_flag(client, flags) };
    void *bounce = NULL;
    int ret;

    if (iovcnt > 1) {
        if (posix_memalign(&bounce, 4096, bytes))
            return -ENOMEM;
        iov_to_buffer(iov, iovcnt, 0, bounce, bytes);
        op.buffer = bounce;
    }
    ret = nbd_client_run(client, &op);
    free(bounce);
    return settle(node, flags, ret);
}

static int co_fn client_co_zero(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    NbdClient *client = block_node_state(node);
    NbdOp op = { .verb = NBD_ZERO, .offset = offset, .bytes = bytes };

    if (!client->info.zero || (flags & BLOCK_NO_FALLBACK && !client->info.fast_zero))
        return -ENOTSUP;
    if (!(flags & BLOCK_MAY_UNMAP))
        op.flags |= LIBNBD_CMD_FLAG_NO_HOLE;
    if (flags & BLOCK_NO_FALLBACK)
        op.flags |= LIBNBD_CMD_FLAG_FAST_ZERO;
    return nbd_client_run(client, &op);
}

static int co_fn client_co_discard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    NbdClient *client = block_node_state(node);
    NbdOp op = { .verb = NBD_TRIM, .offset = offset, .bytes = bytes };

    return client->info.trim ? nbd_client_run(client, &op) : 0;
}

static int co_fn client_co_map(BlockNode *node, uint64_t offset, uint64_t bytes, BlockMap *map)
{
    NbdClient *client = block_node_state(node);
    uint64_t align = client->info.min_block;
    uint64_t end = MIN(ALIGN_UP(offset + bytes, align), client->info.size);
    NbdOp op = { .verb = NBD_MAP, .offset = ALIGN_DOWN(offset, align) };
    int ret;

    *map = (BlockMap){ .bytes = bytes, .host_offset = offset, .host_node = node,
                       .flags = BLOCK_MAP_OFFSET_VALID | BLOCK_MAP_ALLOCATED | BLOCK_MAP_DATA };
    if (!client->info.map)
        return 0;
    op.bytes = MIN(end - op.offset, ALIGN_DOWN((uint64_t)INT32_MAX, align));
    ret = nbd_client_run(client, &op);
    if (ret < 0)
        return ret;
    if (op.map_bytes <= offset - op.offset)
        return -EIO;                       /* the server tells nothing, or nonsense */
    map->bytes = MIN(op.map_bytes - (offset - op.offset), bytes);
    if (op.map_flags & NBD_STATE_HOLE)
        map->flags &= ~BLOCK_MAP_DATA;
    if (op.map_flags & NBD_STATE_ZERO)
        map->flags |= BLOCK_MAP_ZERO;
    return 0;
}

static const BlockDriver nbd_driver = {
    .name = "nbd",
    .help = "a disk of an NBD server",
    .size = sizeof(NbdClient),
    .options = client_options,
    .is_protocol = true,
    .write_flags = BLOCK_FUA,
    .open = client_open,
    .close = client_close,
    .get_size = client_get_size,
    .limits = client_limits,
    .co_read = client_co_read,
    .co_write = client_co_write,
    .co_flush = client_co_flush,
    .co_zero = client_co_zero,
    .co_discard = client_co_discard,
    .co_map = client_co_map,
    .uri_schemes = nbd_uri_schemes,
    .parse_uri = nbd_parse_uri,
};
BLOCK_DRIVER(nbd_driver)

/* The NBD server: its sockets, and the life of its connections.  Main thread. */
#include <errno.h>
#include <glib-unix.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>
#include "block/nbd/server-int.h"
#include "src/base/fdset.h"
#include "src/base/trace.h"
#include "src/base/util.h"
#include "src/chardev/char-addr.h"
#include "src/sandbox/authz.h"

enum { SEND_BUFFER_BYTES = 2 << 20, RETRY_NS = 200000000 };

typedef struct NbdListener {
    NbdServer *server;
    int fd;
    LoopFd *watch;
} NbdListener;

/* ---- connections ---- */

static void watch_listeners(NbdServer *server);

static void tell_clients(NbdServer *server, int change)
{
    server->clients += change;
    if (server->on_client)
        server->on_client(server->clients, server->opaque);
}

static void conn_free(NbdConn *conn)
{
    NbdServer *server = conn->server;
    bool served = conn->loop != NULL;

    TRACE(nbd_disconnected, "connection %p", (void *)conn);
    loop_timer_cancel(&conn->deadline);
    nbd_conn_free_buffers(conn);
    nbd_socket_clear(&conn->socket);
    g_array_free(conn->contexts, TRUE);
    g_byte_array_free(conn->payload, TRUE);
    g_ptr_array_remove(server->connections, conn);
    watch_listeners(server);
    block_export_unref(conn->context_export);
    block_export_unref(conn->export);
    g_free(conn);
    if (served)
        tell_clients(server, -1);
    block_exports_connection_gone(server->exports);
}

static void gone(void *opaque)
{
    conn_free(opaque);
}

void nbd_server_gone(NbdConn *conn)
{
    loop_post(loop_main(), gone, conn);
}

static void co_fn greet(void *opaque)
{
    NbdConn *conn = opaque;
    bool chosen = nbd_negotiate(conn);

    loop_timer_cancel(&conn->deadline);
    nbd_socket_detach(&conn->socket);
    if (!chosen || conn->export->deleted) {
        nbd_server_gone(conn);
        return;
    }
    TRACE(nbd_connected, "connection %p: export '%s'", (void *)conn, conn->export->name);
    conn->loop = block_export_next_loop(conn->export);
    tell_clients(conn->server, 1);
    nbd_conn_transmit(conn);
}

static void too_late(void *opaque)
{
    NbdConn *conn = opaque;

    TRACE(nbd_handshake_late, "connection %p", (void *)conn);
    nbd_socket_shutdown(&conn->socket);
}

void nbd_server_take(NbdServer *server, int fd, bool own)
{
    NbdConn *conn = g_new0(NbdConn, 1);
    int on = 1, bytes = SEND_BUFFER_BYTES;

    /* Fails on unix sockets, which send at once anyway. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    /* Past the host's net.core.wmem_max, if we may: each time it is full, somebody must be woken. */
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) < 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    conn->server = server;
    conn->own = own;
    conn->min_block = 1;
    conn->contexts = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    conn->payload = g_byte_array_new();
    nbd_socket_init(&conn->socket, fd);
    nbd_socket_attach(&conn->socket, loop_main());
    g_ptr_array_add(server->connections, conn);
    loop_timer_init(&conn->deadline, loop_main(), too_late, conn);
    if (server->handshake_ns)
        loop_timer_set(&conn->deadline, loop_clock_ns() + server->handshake_ns);
    co_start(greet, conn);
}

void nbd_server_cut(NbdServer *server, BlockExport *export)
{
    for (unsigned i = 0; i < server->connections->len; i++) {
        NbdConn *conn = server->connections->pdata[i];

        if (!export || conn->export == export || conn->context_export == export)
            nbd_socket_shutdown(&conn->socket);
    }
}

unsigned nbd_server_connections(const NbdServer *server)
{
    return server->connections->len;
}

/* ---- listening ---- */

/* A full house lets the others wait before the door. */
static void watch_listeners(NbdServer *server)
{
    bool full = server->max_connections &&
                server->connections->len >= server->max_connections;

    for (unsigned i = 0; i < server->listeners->len; i++) {
        NbdListener *listener = server->listeners->pdata[i];

        loop_fd_set_events(listener->watch, full ? 0 : G_IO_IN);
    }
}

static void accept_again(void *opaque)
{
    watch_listeners(opaque);
}

static void on_connection(void *opaque, unsigned events)
{
    NbdListener *listener = opaque;
    NbdServer *server = listener->server;
    int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)) {
        for (unsigned i = 0; i < server->listeners->len; i++)
            loop_fd_set_events(((NbdListener *)server->listeners->pdata[i])->watch, 0);
        loop_timer_set(&server->retry, loop_clock_ns() + RETRY_NS);
    }
    if (fd < 0)
        return;                            /* else: the client has gone already */
    nbd_server_take(server, fd, false);
    watch_listeners(server);
}


bool nbd_server_listen(NbdServer *server, int fd, GError **error)
{
    NbdListener *listener;

    if (!char_addr_is_listening(fd)) {
        close(fd);
        return fail(error, ERR_INVALID_PARAMETER, "descriptor %d is no listening socket", fd);
    }
    /* A client that goes away before accept must not stop us there. */
    if (!g_unix_set_fd_nonblocking(fd, TRUE, NULL)) {
        close(fd);
        return fail(error, ERR_HOST, "descriptor %d cannot be made non-blocking", fd);
    }
    listener = g_new0(NbdListener, 1);
    listener->server = server;
    listener->fd = fd;
    listener->watch = loop_add_fd(loop_main(), fd, G_IO_IN, on_connection, listener);
    g_ptr_array_add(server->listeners, listener);
    watch_listeners(server);
    return true;
}

/* ---- addresses ---- */

static bool take_text(json_object *addr, const char *key, char **ret, GError **error)
{
    const char *text = NULL;

    if (!options_get_str(addr, key, &text, error))
        return false;
    if (!text)
        return fail(error, ERR_MISSING_PARAMETER, "Parameter 'addr.%s' is missing", key);
    *ret = g_strdup(text);
    return true;
}

static bool take_family(json_object *addr, int *family, GError **error)
{
    bool v4 = false, v6 = false;

    if (!options_get_bool(addr, "ipv4", &v4, error) || !options_get_bool(addr, "ipv6", &v6, error))
        return false;
    *family = v4 == v6 ? AF_UNSPEC : v4 ? AF_INET : AF_INET6;
    return true;
}

/* A SocketAddress: its members beside "type". */
static bool parse_address(json_object *addr, CharAddr *ret, GError **error)
{
    static const char *const words[] = { "inet", "unix", "fd", NULL };
    int kind = -1;

    *ret = (CharAddr){ .tight = true };
    if (!options_get_enum(addr, "type", words, &kind, error))
        return false;
    switch (kind) {
    case 0:
        ret->kind = CHAR_ADDR_TCP;
        return take_text(addr, "host", &ret->host, error) &&
               take_text(addr, "port", &ret->port, error) &&
               take_family(addr, &ret->family, error);
    case 1:
        ret->kind = CHAR_ADDR_UNIX;
        return take_text(addr, "path", &ret->path, error) &&
               options_get_bool(addr, "abstract", &ret->abstract, error) &&
               options_get_bool(addr, "tight", &ret->tight, error);
    case 2:
        ret->kind = CHAR_ADDR_FD;
        return take_text(addr, "str", &ret->fd, error);
    default:
        return fail(error, ERR_MISSING_PARAMETER, "Parameter 'addr.type' is missing");
    }
}

bool nbd_server_listen_at(NbdServer *server, json_object *addr, GError **error)
{
    CharAddr where;
    int fd = -1;

    if (parse_address(addr, &where, error))
        fd = where.kind == CHAR_ADDR_FD ? fd_name_take(where.fd, error)
                                        : char_addr_listen(&where, error);
    if (fd >= 0 && where.kind == CHAR_ADDR_UNIX && !where.abstract)
        server->unlink_path = g_strdup(where.path);
    char_addr_clear(&where);
    return fd >= 0 && nbd_server_listen(server, fd, error);
}

/* ---- the server ---- */

/* A list of clients is of use only where it is known who a client is. */
static bool check_authz(Object *root, const NbdServerOptions *options, const TlsKeys *keys, GError **error)
{
    if (!keys) {
        fail(error, ERR_INVALID_PARAMETER, "tls-authz is not permitted without tls-creds");
        return error_hint(error, "who a client is, is known from its certificate or its key");
    }
    if (!tls_keys_is_psk(keys) && !tls_keys_verify_peer(keys)) {
        fail(error, ERR_INVALID_PARAMETER, "tls-authz: with verify-peer=off of '%s' nobody knows who a client is",
             options->tls_creds);
        return error_hint(error, "object '%s' needs verify-peer=on", options->tls_creds);
    }
    return authz_exists(root, options->tls_authz, error);
}

NbdServer *nbd_server_new(BlockExports *exports, const NbdServerOptions *options, GError **error)
{
    Object *root = object_root((Object *)exports);
    NbdServer *server;
    TlsKeys *keys = NULL;

    if (options->tls_creds) {
        keys = tls_creds_keys(root, options->tls_creds, TLS_SERVER, error);
        if (!keys)
            return NULL;
    }
    if (options->tls_authz && !check_authz(root, options, keys, error)) {
        tls_keys_unref(keys);
        return NULL;
    }
    server = g_new0(NbdServer, 1);
    server->exports = exports;
    server->keys = keys;
    server->authz = g_strdup(options->tls_authz);
    server->listeners = g_ptr_array_new_with_free_func(g_free);
    server->connections = g_ptr_array_new();
    loop_timer_init(&server->retry, loop_main(), accept_again, server);
    server->max_connections = options->max_connections;
    server->handshake_ns = options->handshake_seconds * INT64_C(1000000000);
    server->on_client = options->on_client;
    server->opaque = options->opaque;
    if (!options->addr || nbd_server_listen_at(server, options->addr, error))
        return server;
    nbd_server_free(server);
    return NULL;
}

void nbd_server_close_sockets(NbdServer *server)
{
    for (unsigned i = 0; i < server->listeners->len; i++) {
        NbdListener *listener = server->listeners->pdata[i];

        loop_fd_remove(listener->watch);
        close(listener->fd);
    }
    g_ptr_array_set_size(server->listeners, 0);
    if (server->unlink_path)
        unlink(server->unlink_path);
    g_clear_pointer(&server->unlink_path, g_free);
}

void nbd_server_free(NbdServer *server)
{
    nbd_server_close_sockets(server);
    loop_timer_cancel(&server->retry);
    g_ptr_array_free(server->listeners, TRUE);
    g_ptr_array_free(server->connections, TRUE);
    tls_keys_unref(server->keys);
    g_free(server->authz);
    g_free(server);
}

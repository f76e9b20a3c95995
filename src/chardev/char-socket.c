/*
 * socket: a unix or TCP socket, listening (server=on) or connecting.  A server serves one peer at a
 * time and listens again when it has gone, or hands every connection to a chardev of its own
 * (chardev_listen_many).  A client may connect again (reconnect=).
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include "src/base/coroutine.h"
#include "src/base/fdset.h"
#include "src/base/util.h"
#include "src/chardev/char-addr.h"
#include "src/chardev/chardev-int.h"

enum { FDS_MAX = 16, FIRST_CONNECT_MS = 30000 };

typedef struct CharSocket {
    Chardev cd;
    CharAddr addr;
    bool server, nodelay;
    int64_t reconnect_ns;          /* 0: a client does not come back */
    char *text;                    /* "unix:/path,server=on" */
    char *peer;                    /* of a TCP connection */

    int listen_fd;                 /* -1: none */
    LoopFd *listen_watch;          /* NULL: a peer is served */
    dev_t path_dev;                /* of the unix socket we made, to be removed again */
    ino_t path_ino;
    void (*accept)(Chardev *connection, void *opaque);   /* chardev_listen_many */
    void *accept_opaque;

    int connecting_fd;             /* -1: none */
    LoopFd *connect_watch;
    struct Attempt *attempt;       /* under way in a worker; NULL: none */
    LoopTimer retry;

    int fds[FDS_MAX];              /* passed by the peer, not taken yet; oldest first */
    unsigned fd_count;
} CharSocket;

static void drop_passed_fds(CharSocket *s)
{
    for (unsigned i = 0; i < s->fd_count; i++)
        close(s->fds[i]);
    s->fd_count = 0;
}

/* --- A connection --- */

static void use_connection(CharSocket *s, int fd)
{
    int on = 1;
    set_nonblocking(fd, NULL);
    if (s->nodelay)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    s->cd.in_fd = s->cd.out_fd = fd;
    if (!char_addr_is_unix(fd))
        s->peer = char_addr_of_socket(fd, true);
    chardev_set_connected(&s->cd, true);
}

static void update_listening(CharSocket *s);

static void socket_hang_up(Chardev *cd)
{
    CharSocket *s = (CharSocket *)cd;
    chardev_close_fds(cd);
    drop_passed_fds(s);
    g_clear_pointer(&s->peer, g_free);
    update_listening(s);
    if (s->reconnect_ns)
        loop_timer_set(&s->retry, loop_clock_ns() + s->reconnect_ns);
    chardev_set_connected(cd, false);
}

/* Keeps what fits of the descriptors that came along. */
static void keep_passed_fds(CharSocket *s, struct msghdr *msg)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        unsigned count = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (unsigned i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (s->fd_count < FDS_MAX)
                s->fds[s->fd_count++] = fd;
            else
                close(fd);
        }
    }
}

static ssize_t socket_read(Chardev *cd, uint8_t *data, size_t size)
{
    union {
        char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec iov = { data, size };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
                          .msg_controllen = sizeof(control.bytes) };
    ssize_t n = recvmsg(cd->in_fd, &msg, MSG_CMSG_CLOEXEC);
    if (n >= 0)
        keep_passed_fds((CharSocket *)cd, &msg);
    return n;
}

static ssize_t socket_write(Chardev *cd, const uint8_t *data, size_t size)
{
    ssize_t n = send(cd->out_fd, data, size, MSG_NOSIGNAL);
    return n < 0 ? -errno : n;
}

int char_front_take_fd(CharFront *front)
{
    Chardev *cd = front->chardev;
    if (!cd || !object_is_a(&cd->obj, "chardev-socket"))
        return -1;
    CharSocket *s = (CharSocket *)cd;
    if (!s->fd_count)
        return -1;
    int fd = s->fds[0];
    memmove(s->fds, s->fds + 1, --s->fd_count * sizeof(int));
    return fd;
}

/* --- The server --- */

/* A connection of chardev_listen_many: an object of its own, not in the tree. */
static void hand_over(CharSocket *s, int fd)
{
    CharSocket *connection = (CharSocket *)object_new(s->cd.obj.type);
    connection->cd.obj.name = g_strdup(chardev_id(&s->cd));
    object_set_context(&connection->cd.obj, object_root(&s->cd.obj));
    connection->nodelay = s->nodelay;
    connection->text = g_strdup(s->text);
    chardev_move(&connection->cd, s->cd.loop);
    use_connection(connection, fd);
    s->accept(&connection->cd, s->accept_opaque);
}

static void on_client(void *opaque, unsigned events)
{
    CharSocket *s = object_ref(opaque);
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
        if (s->accept)
            hand_over(s, fd);
        else
            use_connection(s, fd);
    }
    update_listening(s);
    object_unref(s);
}

static void update_listening(CharSocket *s)
{
    bool listens = s->listen_fd >= 0 && (s->accept || s->cd.in_fd < 0);
    if (!listens)
        loop_fd_remove(g_steal_pointer(&s->listen_watch));
    else if (!s->listen_watch)
        s->listen_watch = loop_add_fd(s->cd.loop, s->listen_fd, G_IO_IN, on_client, s);
}

/* wait=on: start-up goes on when a client is there.  The usual signals end the program meanwhile,
 * even if the main loop, which is not running yet, is to hear of them later. */
static bool wait_for_client(CharSocket *s, GError **error)
{
    static const int ending[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
    struct pollfd listening = { .fd = s->listen_fd, .events = POLLIN };
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    for (unsigned i = 0; i < G_N_ELEMENTS(ending); i++)
        sigdelset(&mask, ending[i]);
    info_report("waiting for connection on: %s", s->text);
    for (;;) {
        if (ppoll(&listening, 1, NULL, &mask) < 0 && errno != EINTR)
            return fail_errno(error, errno, "cannot wait for a connection");
        int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            use_connection(s, fd);
            return true;
        }
    }
}

static bool open_server(CharSocket *s, bool wait, GError **error)
{
    struct stat st;
    if (s->listen_fd < 0)
        s->listen_fd = char_addr_listen(&s->addr, error);
    if (s->listen_fd < 0 || !set_nonblocking(s->listen_fd, error))
        return false;
    if (s->addr.kind == CHAR_ADDR_UNIX && !s->addr.abstract && stat(s->addr.path, &st) == 0) {
        s->path_dev = st.st_dev;
        s->path_ino = st.st_ino;
    }
    g_autofree char *own = s->addr.kind == CHAR_ADDR_UNIX ? char_addr_text(&s->addr)
                                                          : char_addr_of_socket(s->listen_fd, false);
    s->text = g_strconcat(own, ",server=on", NULL);
    if (wait && !wait_for_client(s, error))
        return false;
    update_listening(s);
    return true;
}

typedef struct ListenCall {
    CharSocket *socket;
    int fd;                        /* of who came while we waited; -1: nobody */
} ListenCall;

static void begin_listening(void *opaque)
{
    ListenCall *call = opaque;
    if (call->fd >= 0)
        hand_over(call->socket, call->fd);
    update_listening(call->socket);
}

bool chardev_listen_many(Chardev *listener, Loop *loop,
                         void (*accept)(Chardev *connection, void *opaque), void *opaque,
                         GError **error)
{
    CharSocket *s = (CharSocket *)listener;
    if (!object_is_a(&listener->obj, "chardev-socket") || s->listen_fd < 0)
        return fail(error, ERR_UNSUPPORTED, "chardev '%s' is not a listening socket",
                    chardev_id(listener));
    if (s->accept || listener->front_count)
        return fail(error, ERR_IN_USE, "chardev '%s' is already in use", chardev_id(listener));
    s->accept = accept;
    s->accept_opaque = opaque;
    listener->busy = true;
    ListenCall call = { s, -1 };
    if (listener->in_fd >= 0) {
        call.fd = fcntl(listener->in_fd, F_DUPFD_CLOEXEC, 0);
        chardev_close_fds(listener);
        chardev_set_connected(listener, false);
    }
    loop_fd_remove(g_steal_pointer(&s->listen_watch));
    chardev_move(listener, loop);
    loop_call(loop, begin_listening, &call);
    return true;
}

static void end_listening(void *opaque)
{
    CharSocket *s = opaque;
    loop_fd_remove(g_steal_pointer(&s->listen_watch));
    s->accept = NULL;
    chardev_move(&s->cd, loop_main());
}

void chardev_listen_end(Chardev *listener)
{
    loop_call(listener->loop, end_listening, listener);
}

/* --- The client --- */

static int socket_error(int fd)
{
    int err = 0;
    socklen_t length = sizeof(err);
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &length) ? errno : err;
}

static void retry_later(CharSocket *s)
{
    loop_timer_set(&s->retry, loop_clock_ns() + s->reconnect_ns);
}

static void on_connected(void *opaque, unsigned events)
{
    CharSocket *s = opaque;
    int fd = steal_fd(&s->connecting_fd);
    loop_fd_remove(g_steal_pointer(&s->connect_watch));
    if (socket_error(fd) == 0) {
        use_connection(s, fd);
        return;
    }
    close(fd);
    retry_later(s);
}

/* An attempt of a client that comes back; it outlives the client if that is removed meanwhile. */
typedef struct Attempt {
    CharSocket *client;            /* NULL: nobody wants it any more */
    CharAddr addr;
    bool in_progress;
} Attempt;

static int do_connect(void *opaque)
{
    Attempt *attempt = opaque;
    return char_addr_connect(&attempt->addr, &attempt->in_progress, NULL);
}

static void attempt_done(CharSocket *s, int fd, bool in_progress)
{
    if (fd < 0) {
        retry_later(s);
    } else if (in_progress) {
        s->connecting_fd = fd;
        s->connect_watch = loop_add_fd(loop_main(), fd, G_IO_OUT, on_connected, s);
    } else {
        use_connection(s, fd);
    }
}

/* A worker looks the name up: the servers of names may be far away, or dead. */
static void co_fn attempt_run(void *opaque)
{
    Attempt *attempt = opaque;
    auto_fd fd = co_worker_call(do_connect, attempt);
    if (attempt->client) {
        attempt->client->attempt = NULL;
        attempt_done(attempt->client, steal_fd(&fd), attempt->in_progress);
    }
    char_addr_clear(&attempt->addr);
    g_free(attempt);
}

static void try_connect(void *opaque)
{
    CharSocket *s = opaque;
    bool in_progress = false;
    if (s->addr.kind == CHAR_ADDR_UNIX) {
        int fd = char_addr_connect(&s->addr, &in_progress, NULL);
        attempt_done(s, fd, in_progress);
        return;
    }
    s->attempt = g_new0(Attempt, 1);
    s->attempt->client = s;
    char_addr_copy(&s->attempt->addr, &s->addr);
    co_start(attempt_run, s->attempt);
}

/* The first connection, which start-up or chardev-add needs: a worker waits for it. */
typedef struct FirstConnection {
    const CharAddr *addr;
    GError **error;
    int fd;
} FirstConnection;

/* 0, or -1 with an error. */
static int do_connect_first(void *opaque)
{
    FirstConnection *first = opaque;
    const CharAddr *addr = first->addr;
    bool in_progress = false;
    auto_fd fd = char_addr_connect(addr, &in_progress, first->error);
    if (fd < 0)
        return -1;
    if (in_progress) {
        struct pollfd connecting = { .fd = fd, .events = POLLOUT };
        int r = poll(&connecting, 1, FIRST_CONNECT_MS);
        int err = r == 0 ? ETIMEDOUT : r < 0 ? errno : socket_error(fd);
        if (err) {
            fail_errno(first->error, err, "Failed to connect to '%s:%s'", addr->host, addr->port);
            return -1;
        }
    }
    first->fd = steal_fd(&fd);
    return 0;
}

static void co_fn connect_first(void *opaque)
{
    co_worker_call(do_connect_first, opaque);
}

static bool connect_now(CharSocket *s, GError **error)
{
    FirstConnection first = { &s->addr, error, -1 };
    co_run_sync(connect_first, &first);
    if (first.fd < 0)
        return false;
    use_connection(s, first.fd);
    return true;
}

/* fd=: a socket that is connected already, or listens. */
static bool adopt_fd(CharSocket *s, bool wait, GError **error)
{
    auto_fd fd = fd_name_take(s->addr.fd, error);
    struct stat st;
    if (fd < 0)
        return false;
    if (fstat(fd, &st) || !S_ISSOCK(st.st_mode))
        return fail(error, ERR_INVALID_PARAMETER, "file descriptor '%s' is not a socket",
                    s->addr.fd);
    bool listening = char_addr_is_listening(fd);
    if (s->server != listening) {
        fail(error, ERR_INVALID_PARAMETER, "file descriptor '%s' is %s socket", s->addr.fd,
             listening ? "a listening" : "not a listening");
        return error_hint(error, listening ? "add server=on" : "use server=off");
    }
    if (listening) {
        s->listen_fd = steal_fd(&fd);
        return open_server(s, wait, error);
    }
    s->text = char_addr_of_socket(fd, false);
    use_connection(s, steal_fd(&fd));
    return true;
}

/* --- Options --- */

static const char *const socket_options[] = {
    "path", "abstract", "tight",     "host",         "port",    "ipv4",      "ipv6", "fd", "server",
    "wait", "nodelay",  "reconnect", "reconnect-ms", "logfile", "logappend", "mux",  NULL
};

static bool refuse_unsupported(json_object *options, GError **error)
{
    static const char *const flags[] = { "telnet", "tn3270", "websocket" };
    static const char *const texts[] = { "tls-creds", "tls-authz" };
    for (unsigned i = 0; i < G_N_ELEMENTS(flags); i++) {
        bool on = false;
        if (!take_bool(options, flags[i], &on, error))
            return false;
        if (on)
            return fail(error, ERR_UNSUPPORTED, "socket chardev: '%s' is not supported", flags[i]);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(texts); i++) {
        if (json_object_object_get_ex(options, texts[i], NULL))
            return fail(error, ERR_UNSUPPORTED, "socket chardev: '%s' is not supported", texts[i]);
    }
    return true;
}

static bool take_reconnect(CharSocket *s, json_object *options, GError **error)
{
    uint64_t seconds = 0, ms = 0;
    if (!take_u64(options, "reconnect", &seconds, error) ||
        !take_u64(options, "reconnect-ms", &ms, error))
        return false;
    if (seconds > INT32_MAX || ms > INT32_MAX)
        return fail(error, ERR_INVALID_PARAMETER, "Parameter 'reconnect' is too large");
    s->reconnect_ns = seconds ? (int64_t)seconds * 1000000000 : (int64_t)ms * 1000000;
    if (s->reconnect_ns && (s->server || s->addr.kind == CHAR_ADDR_FD))
        return fail(error, ERR_INVALID_PARAMETER,
                    "'reconnect' option is incompatible with %s", s->server ? "'server'" : "'fd'");
    return true;
}

/* "nodelay" without a value arrives as delay=off. */
static bool take_nodelay(CharSocket *s, json_object *options, GError **error)
{
    bool delay = true;
    if (!take_bool(options, "delay", &delay, error))
        return false;
    s->nodelay = !delay;
    return take_bool(options, "nodelay", &s->nodelay, error);
}

static bool socket_open(Chardev *cd, json_object *options, GError **error)
{
    CharSocket *s = (CharSocket *)cd;
    bool wait_given = json_object_object_get_ex(options, "wait", NULL), wait = true;
    if (!refuse_unsupported(options, error) || !char_addr_take(&s->addr, options, error) ||
        !take_bool(options, "server", &s->server, error) ||
        !take_bool(options, "wait", &wait, error) || !take_nodelay(s, options, error) ||
        !take_reconnect(s, options, error))
        return false;
    if (wait_given && wait && !s->server)
        return fail(error, ERR_INVALID_PARAMETER,
                    "'wait' option is incompatible with socket in client connect mode");
    if (json_object_object_length(options)) /* unknown ones: before anybody is waited for */
        return true;
    if (s->addr.kind == CHAR_ADDR_FD)
        return adopt_fd(s, wait, error);
    if (s->server)
        return open_server(s, wait, error);
    s->text = char_addr_text(&s->addr);
    if (!s->reconnect_ns)
        return connect_now(s, error);
    try_connect(s);
    return true;
}

static char *socket_filename(Chardev *cd)
{
    CharSocket *s = (CharSocket *)cd;
    if (!cd->connected)
        return g_strdup_printf("disconnected:%s", s->text);
    return s->peer ? g_strdup_printf("%s <-> %s", s->text, s->peer) : g_strdup(s->text);
}

static void socket_init(Object *obj)
{
    CharSocket *s = (CharSocket *)obj;
    s->listen_fd = s->connecting_fd = -1;
    loop_timer_init(&s->retry, loop_main(), try_connect, s);
}

static void remove_path(CharSocket *s)
{
    struct stat st;
    if (s->path_ino && stat(s->addr.path, &st) == 0 && st.st_dev == s->path_dev &&
        st.st_ino == s->path_ino)
        unlink(s->addr.path);
}

static void socket_finalize(Object *obj)
{
    CharSocket *s = (CharSocket *)obj;
    loop_timer_cancel(&s->retry);
    if (s->attempt)
        s->attempt->client = NULL;
    loop_fd_remove(s->listen_watch);
    loop_fd_remove(s->connect_watch);
    if (s->connecting_fd >= 0)
        close(s->connecting_fd);
    if (s->listen_fd >= 0) {
        remove_path(s);
        close(s->listen_fd);
    }
    drop_passed_fds(s);
    char_addr_clear(&s->addr);
    g_free(s->text);
    g_free(s->peer);
}

/* A connection can; listening and connecting again are the main loop's. */
static bool socket_any_loop(Chardev *cd)
{
    CharSocket *s = (CharSocket *)cd;
    return s->listen_fd < 0 && !s->reconnect_ns;
}

static const CharOps socket_ops = {
    .open = socket_open, .read = socket_read, .write = socket_write, .hang_up = socket_hang_up,
    .filename = socket_filename, .options = socket_options, .any_loop = socket_any_loop,
};
static const Type socket_type = {
    .name = "chardev-socket", .parent = "chardev", .help = "a unix or TCP socket",
    .size = sizeof(CharSocket), .ops = &socket_ops, .init = socket_init,
    .finalize = socket_finalize,
};
TYPE_REGISTER(socket_type)

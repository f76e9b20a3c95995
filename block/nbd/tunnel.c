/* TLS between a server and libnbd, in a thread. */
#include "block/nbd/tunnel.h"
#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "block/nbd/proto.h"
#include "src/base/loop.h"
#include "src/base/util.h"
#include "src/sandbox/tls-session.h"

enum { WAY_BYTES = 64 << 10, GREETING_BYTES = 18, CLIENT_FLAGS_BYTES = 4, REPLY_TEXT_MAX = 4096 };
#define GOODBYE_NS INT64_C(1000000000)

/* One direction: bytes that were read, and wait to be written. */
typedef struct Way {
    uint8_t data[WAY_BYTES];
    size_t start, end;
} Way;

struct NbdTunnel {
    int server_fd, local_fd;               /* local: of the pair whose other end libnbd has */
    TlsSession *tls;
    pthread_t thread;
    size_t swallow;                        /* bytes of libnbd's that the server has had from us already */
    int64_t goodbye_ns;                    /* libnbd has gone: until when the rest may be sent; 0: it is there */
    Way up, down;                          /* to the server; to libnbd */
};

bool nbd_require_tls(struct nbd_handle *nbd, const TlsKeys *keys)
{
    if (nbd_set_tls(nbd, LIBNBD_TLS_REQUIRE) < 0)
        return false;
    if (tls_keys_is_psk(keys)) {
        g_autofree char *path = g_build_filename(tls_keys_dir(keys), "keys.psk", NULL);

        return nbd_set_tls_psk_file(nbd, path) == 0 &&
               nbd_set_tls_username(nbd, tls_keys_username(keys)) == 0;
    }
    return nbd_set_tls_certificates(nbd, tls_keys_dir(keys)) == 0 &&
           nbd_set_tls_verify_peer(nbd, tls_keys_verify_peer(keys)) == 0;
}

bool nbd_tunnel_needed(const TlsKeys *keys, const char *host, const char *hostname)
{
    if (tls_keys_priority(keys) || tls_keys_has_password(keys))
        return true;
    if (tls_keys_is_psk(keys) || !tls_keys_verify_peer(keys))
        return false;                      /* nobody looks at names */
    return !host || (hostname && strcmp(host, hostname));
}

/* ---- the beginning, with the server ---- */

static bool wait_for(int fd, short events, int64_t end_ns, GError **error)
{
    struct pollfd poller = { .fd = fd, .events = events };
    int64_t left = end_ns - loop_clock_ns();

    if (left <= 0)
        return fail(error, ERR_TIMEOUT, "no answer in time");
    poll(&poller, 1, (int)MIN(left / 1000000 + 1, 60000));
    return true;
}

/* Not a byte more: what follows may belong to TLS. */
static bool read_exactly(int fd, void *data, size_t bytes, int64_t end_ns, GError **error)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = recv(fd, (char *)data + done, bytes - done, MSG_DONTWAIT);

        if (n == 0)
            return fail(error, ERR_HOST, "the server has closed the connection");
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return fail_errno(error, errno, "reading from the server");
        if (n < 0 && !wait_for(fd, POLLIN, end_ns, error))
            return false;
        done += MAX(n, 0);
    }
    return true;
}

/* A few bytes, which a socket always has room for at the beginning. */
static bool send_all(int fd, const void *data, size_t bytes, GError **error)
{
    ssize_t n = send(fd, data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);

    return n == (ssize_t)bytes ||
           (n < 0 ? fail_errno(error, errno, "writing to the server")
                  : fail(error, ERR_HOST, "the server does not read"));
}

/* "Newstyle negotiation": @greeting is what the server said; of its flags those are left that libnbd and we
 * answer in the same way. */
static bool greet(int fd, uint8_t *greeting, int64_t end_ns, GError **error)
{
    uint8_t answer[CLIENT_FLAGS_BYTES] = { 0 };
    unsigned flags;

    if (!read_exactly(fd, greeting, GREETING_BYTES, end_ns, error))
        return false;
    flags = ld_be16(greeting + 16) & (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    if (ld_be64(greeting) != NBD_MAGIC_INIT || ld_be64(greeting + 8) != NBD_MAGIC_OPTION ||
        !(flags & NBD_FLAG_FIXED_NEWSTYLE))
        return fail(error, ERR_UNSUPPORTED, "the server does not speak what TLS needs (fixed newstyle)");
    st_be16(greeting + 16, flags);
    st_be32(answer, flags);
    return send_all(fd, answer, sizeof(answer), error);
}

/* "NBD_OPT_STARTTLS" */
static bool ask_for_tls(int fd, int64_t end_ns, GError **error)
{
    uint8_t ask[NBD_OPTION_HEAD] = { 0 }, head[NBD_OPTION_REPLY_HEAD];
    char text[REPLY_TEXT_MAX + 1] = "";
    uint32_t bytes;

    st_be64(ask, NBD_MAGIC_OPTION);
    st_be32(ask + 8, NBD_OPT_STARTTLS);
    if (!send_all(fd, ask, sizeof(ask), error) || !read_exactly(fd, head, sizeof(head), end_ns, error))
        return false;
    bytes = ld_be32(head + 16);
    if (ld_be64(head) != NBD_MAGIC_REPLY || ld_be32(head + 8) != NBD_OPT_STARTTLS || bytes > REPLY_TEXT_MAX)
        return fail(error, ERR_CORRUPT, "the server's answer is no answer to what was asked");
    if (!read_exactly(fd, text, bytes, end_ns, error))
        return false;
    if (ld_be32(head + 12) == NBD_REP_ACK && !bytes)
        return true;
    return fail(error, ERR_UNSUPPORTED, "the server does not do TLS%s%s", *text ? ": " : "",
                g_utf8_validate(text, -1, NULL) ? text : "?");
}

static bool shake_hands(NbdTunnel *t, int64_t end_ns, GError **error)
{
    bool write = false;
    int ret;

    while ((ret = tls_session_handshake(t->tls, &write, error)) == -EAGAIN) {
        if (!wait_for(t->server_fd, write ? POLLOUT : POLLIN, end_ns, error))
            return false;
    }
    return ret == 0;
}

/* ---- passing on ---- */

typedef enum Step { NOTHING, SOME, END } Step;

static Step step_of(ssize_t n)
{
    return n > 0 ? SOME : n == -EAGAIN || n == -EINTR ? NOTHING : END;
}

static Step filled(Way *way, ssize_t n)
{
    way->start = 0;
    way->end = MAX(n, 0);
    return step_of(n);
}

/* libnbd answers a greeting that the server has had an answer to. */
static Step read_local(NbdTunnel *t)
{
    ssize_t n = recv(t->local_fd, t->up.data, WAY_BYTES, MSG_DONTWAIT);
    Step step = filled(&t->up, n < 0 ? -errno : n);

    t->up.start = MIN(t->swallow, t->up.end);
    t->swallow -= t->up.start;
    return step;
}

static Step move_up(NbdTunnel *t)
{
    ssize_t n;

    if (t->up.start == t->up.end)
        return read_local(t);
    n = tls_session_write(t->tls, t->up.data + t->up.start, t->up.end - t->up.start);
    t->up.start += MAX(n, 0);
    return step_of(n);
}

static Step move_down(NbdTunnel *t)
{
    ssize_t n;

    if (t->down.start == t->down.end)
        return filled(&t->down, tls_session_read(t->tls, t->down.data, WAY_BYTES));
    n = send(t->local_fd, t->down.data + t->down.start, t->down.end - t->down.start,
             MSG_DONTWAIT | MSG_NOSIGNAL);
    t->down.start += MAX(n, 0);
    return step_of(n < 0 ? -errno : n);
}

/* Until one of the two ways can go on.  A descriptor from which nothing is wanted is left out: its end would
 * wake us again and again; but for libnbd's, whose end is looked for once. */
static void sleep_till_ready(NbdTunnel *t)
{
    bool up = t->up.start < t->up.end, down = t->down.start < t->down.end, gone = t->goodbye_ns != 0;
    struct pollfd fds[] = {
        { t->local_fd, (up ? 0 : POLLIN) | (down && !gone ? POLLOUT : 0), 0 },
        { t->server_fd, (down || gone ? 0 : POLLIN) | (up ? POLLOUT : 0), 0 },
    };

    if (gone)
        fds[0].fd = -1;
    if (!fds[1].events)
        fds[1].fd = -1;
    poll(fds, G_N_ELEMENTS(fds), gone ? 100 : -1);
    if (fds[0].revents & (POLLHUP | POLLERR))
        t->goodbye_ns = loop_clock_ns() + GOODBYE_NS;
}

static void *run(void *opaque)
{
    NbdTunnel *t = opaque;

    for (;;) {
        Step up = move_up(t);
        Step down = t->goodbye_ns ? NOTHING : move_down(t);

        if (up == END || down == END || (t->goodbye_ns && loop_clock_ns() > t->goodbye_ns))
            break;
        if (up == NOTHING && down == NOTHING)
            sleep_till_ready(t);
    }
    shutdown(t->local_fd, SHUT_RDWR);      /* libnbd sees that the server has gone */
    shutdown(t->server_fd, SHUT_RDWR);
    return NULL;
}

/* ---- its life ---- */

static bool start_thread(NbdTunnel *t, GError **error)
{
    sigset_t all, old;
    int err;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    err = pthread_create(&t->thread, NULL, run, t);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return !err || fail_errno(error, err, "cannot start a thread for TLS");
}

static bool begin(NbdTunnel *t, TlsKeys *keys, const char *hostname, int64_t end_ns, GError **error)
{
    uint8_t greeting[GREETING_BYTES];

    if (!greet(t->server_fd, greeting, end_ns, error) || !ask_for_tls(t->server_fd, end_ns, error))
        return false;
    t->tls = tls_session_new(keys, t->server_fd, hostname, error);
    t->swallow = CLIENT_FLAGS_BYTES;
    return t->tls && shake_hands(t, end_ns, error) &&
           send_all(t->local_fd, greeting, sizeof(greeting), error) && start_thread(t, error);
}

static void release(NbdTunnel *t)
{
    tls_session_free(t->tls);
    close(t->server_fd);
    if (t->local_fd >= 0)
        close(t->local_fd);
    g_free(t);
}

NbdTunnel *nbd_tunnel_new(int server_fd, TlsKeys *keys, const char *hostname, int64_t end_ns, int *ret_fd,
                          GError **error)
{
    NbdTunnel *t = g_new0(NbdTunnel, 1);
    int pair[2] = { -1, -1 };

    t->server_fd = server_fd;
    t->local_fd = -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        fail_errno(error, errno, "cannot make a pair of sockets");
    } else {
        t->local_fd = pair[0];
        if (begin(t, keys, hostname, end_ns, error)) {
            *ret_fd = pair[1];
            return t;
        }
        close(pair[1]);
    }
    release(t);
    return NULL;
}

void nbd_tunnel_cut(NbdTunnel *t)
{
    if (t)
        shutdown(t->server_fd, SHUT_RDWR);
}

void nbd_tunnel_free(NbdTunnel *t)
{
    if (!t)
        return;
    pthread_join(t->thread, NULL);
    release(t);
}

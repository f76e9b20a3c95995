/* Sockets for coroutines. */
#include "block/nbd/socket.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "src/base/util.h"

enum { BUFFER_BYTES = 256 << 10, CIPHER_BYTES = 16 << 10, DIRECT_MIN = 16 << 10, IOV_MOST = 512 };

void nbd_socket_init(NbdSocket *s, int fd)
{
    *s = (NbdSocket){ .fd = fd };
}

void nbd_socket_clear(NbdSocket *s)
{
    tls_session_free(s->tls);
    close(s->fd);
    free(s->buffer);
    g_free(s->cipher);
    *s = (NbdSocket){ .fd = -1 };
}

/* ---- waiting ---- */

static void want(NbdSocket *s)
{
    loop_fd_set_events(s->watch, (s->reader ? G_IO_IN : 0) | (s->writer ? G_IO_OUT : 0));
}

/* The reader may end the connection: it is resumed last. */
static void on_ready(void *opaque, unsigned events)
{
    NbdSocket *s = opaque;
    bool broken = events & (G_IO_ERR | G_IO_HUP);
    Coroutine *reader = broken || events & G_IO_IN ? g_steal_pointer(&s->reader) : NULL;
    Coroutine *writer = broken || events & G_IO_OUT ? g_steal_pointer(&s->writer) : NULL;

    want(s);
    if (writer)
        co_wake(writer);
    if (reader)
        co_enter(reader);
}

static void co_fn wait_for(NbdSocket *s, Coroutine **place)
{
    *place = co_self();
    want(s);
    while (*place)
        co_yield();
}

void nbd_socket_attach(NbdSocket *s, Loop *loop)
{
    s->loop = loop;
    s->watch = loop_add_fd(loop, s->fd, 0, on_ready, s);
    s->ring = !s->tls && loop != loop_main() && loop_uring_ok(loop, NULL);
    if (!s->buffer)
        s->buffer = aligned_alloc(4096, BUFFER_BYTES);
}

void nbd_socket_detach(NbdSocket *s)
{
    g_clear_pointer(&s->watch, loop_fd_remove);
    s->loop = NULL;
}

void nbd_socket_shutdown(NbdSocket *s)
{
    shutdown(s->fd, SHUT_RDWR);
}

/* ---- reading ---- */

static void received(LoopCqe *cqe, int res)
{
    NbdSocket *s = container_of(cqe, NbdSocket, receive);
    Coroutine *co = g_steal_pointer(&s->receiver);

    loop_count_io(s->loop, 1);
    s->received = res;
    s->receiving = false;
    co_enter(co);
}

static ssize_t co_fn receive_by_ring(NbdSocket *s, void *data, size_t bytes, int flags)
{
    struct io_uring_sqe *sqe;

    s->receive.fn = received;
    s->receiver = co_self();
    s->receiving = true;
    sqe = loop_uring_sqe(s->loop, &s->receive);
    io_uring_prep_recv(sqe, s->fd, data, bytes, flags);
    loop_count_io(s->loop, -1);            /* it waits for the peer */
    while (s->receiving)
        co_yield();
    return s->received;
}

static ssize_t co_fn receive_by_poll(NbdSocket *s, void *data, size_t bytes)
{
    for (;;) {
        ssize_t n = s->tls ? tls_session_read(s->tls, data, bytes)
                           : recv(s->fd, data, bytes, MSG_DONTWAIT);

        if (n < 0 && !s->tls)
            n = -errno;
        if (n != -EAGAIN && n != -EINTR)
            return n;
        if (n == -EAGAIN)
            wait_for(s, &s->reader);
    }
}

/* At least one byte, @bytes if @all and it is cheap.  The end is an error, too. */
static ssize_t co_fn receive(NbdSocket *s, void *data, size_t bytes, bool all)
{
    ssize_t n;

    if (s->ring) {
        do {
            n = receive_by_ring(s, data, bytes, all ? MSG_WAITALL : 0);
        } while (n == -EINTR);
    } else {
        n = receive_by_poll(s, data, bytes);
    }
    return n ? n : -ECONNRESET;
}

/* The long rest of a payload goes straight to its place; all else through the buffer, as much at
 * once as has arrived. */
int co_fn nbd_socket_read(NbdSocket *s, void *data, size_t bytes)
{
    uint8_t *to = data;

    while (bytes) {
        size_t there = MIN(bytes, s->end - s->start);
        ssize_t n;

        if (!s->buffer)
            return -ENOMEM;
        memcpy(to, s->buffer + s->start, there);
        s->start += there;
        to += there;
        bytes -= there;
        if (!bytes)
            break;
        if (bytes >= DIRECT_MIN) {
            n = receive(s, to, bytes, true);
            to += MAX(n, 0);
            bytes -= MAX(n, 0);
        } else {
            n = receive(s, s->buffer, BUFFER_BYTES, false);
            s->start = 0;
            s->end = MAX(n, 0);
        }
        if (n < 0)
            return n;
    }
    return 0;
}

int co_fn nbd_socket_skip(NbdSocket *s, uint64_t bytes)
{
    uint8_t waste[4096];
    int ret = 0;

    while (ret == 0 && bytes) {
        size_t n = MIN(bytes, sizeof(waste));

        ret = nbd_socket_read(s, waste, n);
        bytes -= n;
    }
    return ret;
}

/* ---- writing ---- */

/* Leaves out the first @bytes of the vector. */
static void advance(struct iovec **iov, int *iovcnt, size_t bytes)
{
    while (*iovcnt && bytes >= (*iov)->iov_len) {
        bytes -= (*iov)->iov_len;
        (*iov)++;
        (*iovcnt)--;
    }
    if (bytes) {
        (*iov)->iov_base = (char *)(*iov)->iov_base + bytes;
        (*iov)->iov_len -= bytes;
    }
}

static int co_fn write_plain(NbdSocket *s, struct iovec *iov, int iovcnt)
{
    while (iovcnt) {
        struct msghdr message = { .msg_iov = iov, .msg_iovlen = MIN(iovcnt, IOV_MOST) };
        ssize_t n = sendmsg(s->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n >= 0)
            advance(&iov, &iovcnt, n);
        else if (errno == EAGAIN)
            wait_for(s, &s->writer);
        else if (errno != EINTR)
            return -errno;
    }
    return 0;
}

/* Records of TLS hold 16 KiB: small parts are gathered, so that a reply's head and data share one
 * of them. */
static size_t gather(uint8_t *to, struct iovec **iov, int *iovcnt)
{
    size_t n = 0;

    while (*iovcnt && n < CIPHER_BYTES) {
        size_t part = MIN((*iov)->iov_len, CIPHER_BYTES - n);

        memcpy(to + n, (*iov)->iov_base, part);
        n += part;
        advance(iov, iovcnt, part);
    }
    return n;
}

static int co_fn write_tls(NbdSocket *s, struct iovec *iov, int iovcnt)
{
    if (!s->cipher)
        s->cipher = g_malloc(CIPHER_BYTES);
    while (iovcnt) {
        size_t bytes = gather(s->cipher, &iov, &iovcnt), done = 0;

        while (done < bytes) {
            ssize_t n = tls_session_write(s->tls, s->cipher + done, bytes - done);

            if (n == -EAGAIN)
                wait_for(s, &s->writer);
            else if (n < 0)
                return n;
            else
                done += n;
        }
    }
    return 0;
}

int co_fn nbd_socket_write(NbdSocket *s, struct iovec *iov, int iovcnt)
{
    return s->tls ? write_tls(s, iov, iovcnt) : write_plain(s, iov, iovcnt);
}

/* ---- TLS ---- */

bool co_fn nbd_socket_start_tls(NbdSocket *s, TlsKeys *keys, GError **error)
{
    bool write = false;
    int ret;

    s->tls = tls_session_new(keys, s->fd, NULL, error);
    if (!s->tls)
        return false;
    s->ring = false;
    while ((ret = tls_session_handshake(s->tls, &write, error)) == -EAGAIN)
        wait_for(s, write ? &s->writer : &s->reader);
    return ret == 0;
}

/* What it sends meanwhile is left aside: closing a socket that has unread bytes would take the alert away
 * from the client. */
void co_fn nbd_socket_refuse(NbdSocket *s)
{
    enum { PATIENCE_BYTES = 64 << 10 };
    uint8_t waste[4096];
    ssize_t n = 0;

    tls_session_refuse(s->tls);
    shutdown(s->fd, SHUT_WR);
    for (size_t bytes = 0; bytes < PATIENCE_BYTES; bytes += MAX(n, 0)) {
        n = recv(s->fd, waste, sizeof(waste), MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
            wait_for(s, &s->reader);
        else if (n == 0 || (n < 0 && errno != EINTR))
            return;
    }
}

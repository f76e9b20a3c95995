/*
 * A socket as coroutines see it: one of them may read while another writes.  Plain or TLS.
 *
 * A socket belongs to the loop that it is attached to; only nbd_socket_shutdown may be called from
 * anywhere.  Reading goes through the loop's io_uring where the loop has one and there is no TLS:
 * then waiting for data and getting it is one step; else through readiness of the descriptor.
 */
#pragma once
#include <sys/uio.h>
#include "src/base/coroutine.h"
#include "src/sandbox/tls-session.h"

typedef struct NbdSocket {
    int fd;
    TlsSession *tls;                       /* NULL: plain */
    Loop *loop;                            /* NULL: not attached */
    LoopFd *watch;
    Coroutine *reader, *writer;            /* those that wait for the descriptor */
    bool ring;
    LoopCqe receive;                       /* in the ring while `receiving` */
    bool receiving;
    Coroutine *receiver;
    int received;                          /* its result */
    uint8_t *buffer;                       /* bytes read ahead: start to end */
    size_t start, end;
    uint8_t *cipher;                       /* TLS: bytes to be sent, gathered */
} NbdSocket;

void nbd_socket_init(NbdSocket *s, int fd);    /* owns @fd; neither read nor written yet */
void nbd_socket_clear(NbdSocket *s);           /* detached; closes */
/* In @loop's thread; no coroutine waits.  Bytes read ahead stay. */
void nbd_socket_attach(NbdSocket *s, Loop *loop);
void nbd_socket_detach(NbdSocket *s);
/* Ends reading (after what has arrived) and writing on both sides.  Any thread. */
void nbd_socket_shutdown(NbdSocket *s);

/* Exactly @bytes: 0; -ECONNRESET: the peer has ended before; -errno. */
int co_fn nbd_socket_read(NbdSocket *s, void *data, size_t bytes);
int co_fn nbd_socket_skip(NbdSocket *s, uint64_t bytes);
/* Whether @bytes are there without waiting. */
static inline bool nbd_socket_has(const NbdSocket *s, size_t bytes)
{
    return s->end - s->start >= bytes;
}
/* All of @iov, which is changed on the way: 0 or -errno. */
int co_fn nbd_socket_write(NbdSocket *s, struct iovec *iov, int iovcnt);
/* The server's side of a TLS handshake; what was read ahead must be empty. */
bool co_fn nbd_socket_start_tls(NbdSocket *s, TlsKeys *keys, GError **error);
/* Tells a client that was known by TLS that it may not come in, and waits for it to have read that: for
 * its end of the connection, or nbd_socket_shutdown. */
void co_fn nbd_socket_refuse(NbdSocket *s);

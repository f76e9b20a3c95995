/*
 * Transmission: one coroutine reads requests, each of which runs in a coroutine of its own, and one
 * sends what they have to say.  Replies that are there in one turn of the loop leave in one call.
 *
 * A client can make us hold no more than IN_FLIGHT_MAX requests and BYTES_MAX of payload: then
 * nothing more is read from it until replies have left.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "block/nbd/server-int.h"
#include "src/base/trace.h"
#include "src/base/util.h"

enum { IN_FLIGHT_MAX = 128, SEND_IOV = 256 };
enum { POOL_SHIFT_MIN = 12, POOL_SHIFT_MAX = 20 };       /* buffers of 4 KiB to 1 MiB are kept */
#define POOL_BYTES_MAX (4 * MiB)
#define BYTES_MAX (32 * MiB)
/* Reads that the page cache answers at once are sent before the next ones are begun: few buffers are
 * in use then, and the processor's cache holds them.  So many bytes are begun in one turn of the loop,
 * and none while so many wait to be sent. */
#define READ_WINDOW MiB

/* ---- buffers ---- */

/* The beginning of a buffer that waits to be used again. */
typedef struct NbdBuffer {
    struct NbdBuffer *next;
} NbdBuffer;

static unsigned pool_of(size_t bytes)
{
    unsigned shift = POOL_SHIFT_MIN;

    while (bytes > (size_t)1 << shift)
        shift++;
    return shift;
}

void *nbd_conn_buffer(NbdConn *conn, size_t bytes, size_t *ret_bytes)
{
    unsigned shift = pool_of(bytes);
    NbdBuffer *buffer;
    void *memory;

    if (shift > POOL_SHIFT_MAX) {
        *ret_bytes = ALIGN_UP(bytes, 4096);
        return posix_memalign(&memory, 4096, *ret_bytes) ? NULL : memory;
    }
    *ret_bytes = (size_t)1 << shift;
    buffer = conn->free_buffers[shift - POOL_SHIFT_MIN];
    if (!buffer)
        return posix_memalign(&memory, 4096, *ret_bytes) ? NULL : memory;
    conn->free_buffers[shift - POOL_SHIFT_MIN] = buffer->next;
    conn->free_bytes -= *ret_bytes;
    return buffer;
}

static void put_buffer(NbdConn *conn, void *memory, size_t bytes)
{
    unsigned shift = pool_of(bytes);
    NbdBuffer *buffer = memory;

    if (shift > POOL_SHIFT_MAX || conn->free_bytes + bytes > POOL_BYTES_MAX) {
        free(memory);
        return;
    }
    buffer->next = conn->free_buffers[shift - POOL_SHIFT_MIN];
    conn->free_buffers[shift - POOL_SHIFT_MIN] = buffer;
    conn->free_bytes += bytes;
}

void nbd_conn_free_buffers(NbdConn *conn)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(conn->free_buffers); i++) {
        while (conn->free_buffers[i]) {
            NbdBuffer *buffer = conn->free_buffers[i];

            conn->free_buffers[i] = buffer->next;
            free(buffer);
        }
    }
    while (conn->free_requests) {
        NbdRequest *req = conn->free_requests;

        conn->free_requests = req->next;
        g_free(req);
    }
}

/* ---- requests ---- */

static NbdRequest *request_new(NbdConn *conn)
{
    NbdRequest *req = conn->free_requests;

    if (req)
        conn->free_requests = req->next;
    else
        req = g_new(NbdRequest, 1);
    req->conn = conn;
    req->next = NULL;
    req->buffer = NULL;
    req->buffer_bytes = 0;
    req->ready_bytes = 0;
    req->iovcnt = 0;
    req->more = NULL;
    req->more_iov = NULL;
    conn->in_flight++;
    return req;
}

static void resume_reader(NbdConn *conn)
{
    if (!conn->reader_waits)
        return;
    conn->reader_waits = false;
    co_wake(conn->reader);
}

static void request_free(NbdRequest *req)
{
    NbdConn *conn = req->conn;

    if (req->buffer)
        put_buffer(conn, req->buffer, req->buffer_bytes);
    conn->bytes_in_flight -= req->buffer_bytes;
    conn->bytes_ready -= req->ready_bytes;
    g_free(req->more);
    g_free(req->more_iov);
    req->next = conn->free_requests;
    conn->free_requests = req;
    conn->in_flight--;
    resume_reader(conn);
}

/* ---- sending ---- */

static size_t request_head(const NbdConn *conn)
{
    return conn->extended ? NBD_EXTENDED_REQUEST_HEAD : NBD_REQUEST_HEAD;
}

void nbd_conn_reply(NbdRequest *req)
{
    NbdConn *conn = req->conn;
    /* Nothing else that could share the call. */
    bool last = conn->in_flight == 1 && !nbd_socket_has(&conn->socket, request_head(conn));

    req->next = NULL;
    req->ready_bytes = req->buffer_bytes;
    conn->bytes_ready += req->ready_bytes;
    *conn->replies_tail = req;
    conn->replies_tail = &req->next;
    if (!conn->sender_waits)
        return;
    conn->sender_waits = false;
    if (last)
        co_enter(conn->sender);
    else
        co_wake(conn->sender);
}

/* Takes replies off the queue, as many as one call sends; they stay linked. */
static NbdRequest *take_batch(NbdConn *conn, struct iovec *iov, int *ret_iovcnt)
{
    NbdRequest *first = conn->replies, **link = &conn->replies;
    int n = 0;

    while (*link) {
        NbdRequest *req = *link;
        const struct iovec *parts = req->more_iov ? req->more_iov : req->iov;

        if (n && n + req->iovcnt > SEND_IOV)
            break;
        for (int i = 0; i < req->iovcnt; i++)
            iov[n++] = parts[i];
        link = &req->next;
    }
    conn->replies = *link;
    *link = NULL;
    if (!conn->replies)
        conn->replies_tail = &conn->replies;
    *ret_iovcnt = n;
    return first;
}

static void co_fn send_batch(NbdConn *conn)
{
    struct iovec iov[SEND_IOV];
    int iovcnt = 0, ret = 0;
    NbdRequest *req = take_batch(conn, iov, &iovcnt);

    if (!conn->broken)
        ret = nbd_socket_write(&conn->socket, iov, iovcnt);
    if (ret < 0) {                         /* the reader sees the end, too */
        conn->broken = true;
        nbd_socket_shutdown(&conn->socket);
    }
    while (req) {
        NbdRequest *next = req->next;

        request_free(req);
        req = next;
    }
}

static void co_fn send_replies(void *opaque)
{
    NbdConn *conn = opaque;

    while (conn->replies || !conn->ended || conn->in_flight) {
        if (conn->replies) {
            send_batch(conn);
            continue;
        }
        conn->sender_waits = true;
        while (conn->sender_waits)
            co_yield();
    }
    conn->sender = NULL;
    if (conn->reader)
        co_wake(conn->reader);
}

/* ---- reading ---- */

static void co_fn wait_for_room(NbdConn *conn, uint64_t bytes)
{
    while (conn->in_flight >= IN_FLIGHT_MAX ||
           (conn->bytes_in_flight && conn->bytes_in_flight + bytes > BYTES_MAX)) {
        conn->reader_waits = true;
        while (conn->reader_waits)
            co_yield();
    }
}

/* The head of a request; false: it is none. */
static bool parse(NbdRequest *req, const uint8_t *head)
{
    bool extended = req->conn->extended;

    if (ld_be32(head) != (extended ? NBD_MAGIC_EXTENDED_REQUEST : NBD_MAGIC_REQUEST)) {
        TRACE(nbd_bad_magic, "export '%s': %#x", req->conn->export->name, ld_be32(head));
        return false;
    }
    req->flags = ld_be16(head + 4);
    req->type = ld_be16(head + 6);
    memcpy(&req->cookie, head + 8, sizeof(req->cookie));  /* the client's own: sent back as it is */
    req->offset = ld_be64(head + 16);
    req->length = extended ? ld_be64(head + 24) : ld_be32(head + 24);
    req->payload = 0;
    if (req->type == NBD_CMD_WRITE) {
        req->payload = req->length;
    } else if (extended && req->flags & NBD_CMD_FLAG_PAYLOAD_LEN) {
        req->payload = req->length;
        req->length = 0;                   /* the payload may tell */
    }
    return true;
}

/* Reads what a request brings along.  One that is refused is answered after its payload has been
 * passed over.  0, or -errno: the connection is lost.  *ret_run: there is something to do. */
static int co_fn read_payload(NbdRequest *req, uint32_t refused, bool *ret_run)
{
    NbdConn *conn = req->conn;
    size_t bytes;
    int ret;

    *ret_run = false;
    if (req->payload > NBD_PAYLOAD_MAX)
        return -EPROTO;                    /* nobody waits for the end of so much */
    wait_for_room(conn, req->payload);
    req->buffer = refused ? NULL : nbd_conn_buffer(conn, MAX(req->payload, 1), &bytes);
    if (!req->buffer) {
        ret = nbd_socket_skip(&conn->socket, req->payload);
        if (ret == 0)
            nbd_request_fail(req, refused ? refused : NBD_ENOMEM, "request refused");
        return ret;
    }
    req->buffer_bytes = bytes;
    conn->bytes_in_flight += bytes;
    *ret_run = true;
    return nbd_socket_read(&conn->socket, req->buffer, req->payload);
}

/* Before a read of so many bytes is begun. */
static void co_fn pace_reads(NbdConn *conn, uint64_t bytes)
{
    wait_for_room(conn, bytes);
    if (conn->batch >= READ_WINDOW) {       /* let those go to the host, and see what comes back */
        conn->batch = 0;
        co_wake(co_self());
        co_yield();
    }
    conn->batch += bytes;
    while (conn->bytes_ready >= READ_WINDOW) {
        conn->reader_waits = true;
        while (conn->reader_waits)
            co_yield();
    }
}

/* False: the connection ends. */
static bool co_fn read_request(NbdConn *conn)
{
    uint8_t head[NBD_EXTENDED_REQUEST_HEAD];
    size_t bytes = request_head(conn);
    bool run = true;
    uint32_t refused;
    NbdRequest *req;

    if (nbd_socket_read(&conn->socket, head, bytes) < 0)
        return false;
    wait_for_room(conn, 0);
    req = request_new(conn);
    if (!parse(req, head) || req->type == NBD_CMD_DISC) {
        request_free(req);
        return false;
    }
    refused = nbd_request_check(req);
    if (req->payload || req->type == NBD_CMD_WRITE) {
        if (read_payload(req, refused, &run) < 0) {
            request_free(req);
            return false;
        }
    } else if (refused) {
        nbd_request_fail(req, refused, "request refused");
        run = false;
    } else if (req->type == NBD_CMD_READ) {
        pace_reads(conn, req->length);
    }
    if (run)
        co_start(nbd_request_run, req);
    return true;
}

static void co_fn serve(void *opaque)
{
    NbdConn *conn = opaque;

    conn->reader = co_self();
    conn->sender = co_new(send_replies, conn);
    co_enter(conn->sender);
    while (!conn->broken && read_request(conn))
        continue;
    /* Requests run to their end; their replies leave if the client still listens. */
    conn->ended = true;
    if (conn->sender_waits) {
        conn->sender_waits = false;
        co_wake(conn->sender);
    }
    while (conn->sender)
        co_yield();
    nbd_socket_shutdown(&conn->socket);
    nbd_socket_detach(&conn->socket);
    nbd_server_gone(conn);
}

static void begin(void *opaque)
{
    NbdConn *conn = opaque;

    nbd_socket_attach(&conn->socket, conn->loop);
    conn->replies_tail = &conn->replies;
    co_start(serve, conn);
}

void nbd_conn_transmit(NbdConn *conn)
{
    loop_post(conn->loop, begin, conn);
}

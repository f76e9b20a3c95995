/*
 * The NBD server's parts: server.c (sockets, connections), negotiate.c (the handshake, in the main
 * loop), conn.c (transmission, in the loop of the export), request.c (commands), contexts.c
 * (metadata).
 */
#pragma once
#include "block/export-int.h"
#include "block/nbd/proto.h"
#include "block/nbd/socket.h"

typedef struct NbdServer {
    BlockExports *exports;
    GPtrArray *listeners;                  /* of NbdListener */
    char *unlink_path;                     /* of a unix socket that we made; NULL: none */
    TlsKeys *keys;                         /* NULL: no TLS */
    char *authz;                           /* id of the object that says who may come in; NULL: anybody */
    unsigned max_connections;              /* 0: no limit */
    int64_t handshake_ns;                  /* 0: no limit */
    GPtrArray *connections;                /* of NbdConn */
    LoopTimer retry;                       /* to accept again, after descriptors ran out */
    unsigned clients;                      /* those past their handshake */
    void (*on_client)(unsigned clients, void *opaque);
    void *opaque;
} NbdServer;

/* The metadata contexts: these, then one for each bitmap of the export. */
enum { NBD_CONTEXT_ID_ALLOCATION, NBD_CONTEXT_ID_DEPTH, NBD_CONTEXT_ID_BITMAPS };

typedef struct NbdRequest NbdRequest;

/* A connection.  The main thread's until the handshake is over, then its loop's; freed by the main
 * thread. */
typedef struct NbdConn {
    NbdServer *server;
    NbdSocket socket;
    LoopTimer deadline;                    /* of the handshake */
    BlockExport *export;                   /* counted; NULL: in its handshake */
    Loop *loop;                            /* where it is served */
    bool own;                              /* the other end is this process's, or the kernel's */
    bool no_zeroes, structured;            /* as negotiated */
    bool extended;                         /* the same: extended headers; `structured` is set, too */
    GArray *contexts;                      /* of uint32_t: ids that the client has chosen */
    BlockExport *context_export;           /* counted: whose; NULL: none chosen */
    uint32_t min_block;                    /* what a client that asked must keep to; 1: none did */
    uint64_t size;                         /* bytes, as the client was told */

    /* Transmission; the loop's. */
    Coroutine *reader, *sender;
    bool reader_waits, sender_waits;       /* for requests to end; for replies */
    bool ended;                            /* the reader has seen the end */
    bool broken;                           /* nothing can be sent any more */
    unsigned in_flight;                    /* requests not yet freed */
    uint64_t bytes_in_flight;              /* of their buffers */
    uint64_t bytes_ready;                  /* of those whose answer waits to be sent */
    uint64_t batch;                        /* bytes of reads begun without a look at the loop */
    NbdRequest *replies, **replies_tail;   /* to be sent */
    NbdRequest *free_requests;
    struct NbdBuffer *free_buffers[16];    /* by size */
    size_t free_bytes;
    GByteArray *payload;                   /* of an option */
    uint64_t data_start, data_end;         /* known to be no hole, so that reads need not ask */
} NbdConn;

enum { NBD_REQUEST_IOV = 4, NBD_REQUEST_HEAD_MAX = 64 };

/* A command and its answer. */
struct NbdRequest {
    NbdConn *conn;
    NbdRequest *next;
    uint64_t cookie, offset;
    uint64_t length;                       /* of the area */
    uint64_t payload;                      /* bytes that come along: of a write, those of the area */
    uint16_t type, flags;
    void *buffer;                          /* of the payload; NULL: none */
    size_t buffer_bytes;
    size_t ready_bytes;                    /* of them, once the answer waits to be sent */
    uint8_t head[NBD_REQUEST_HEAD_MAX];    /* what a short answer needs beside the buffer */
    struct iovec iov[NBD_REQUEST_IOV];     /* the answer */
    int iovcnt;
    uint8_t *more;                         /* heads of a longer one; NULL: none; g_free */
    struct iovec *more_iov;                /* instead of iov */
};

/* negotiate.c: false: the connection ends.  True: export, structured, … are set. */
bool co_fn nbd_negotiate(NbdConn *conn);

/* conn.c: from the main thread, after the handshake, whose coroutine has ended. */
void nbd_conn_transmit(NbdConn *conn);
void *nbd_conn_buffer(NbdConn *conn, size_t bytes, size_t *ret_bytes);   /* NULL: no memory */
void nbd_conn_free_buffers(NbdConn *conn);
void nbd_conn_reply(NbdRequest *req);      /* the answer is in the request: sends it, frees it */

/* server.c: from any thread: the connection has ended and waits to be freed. */
void nbd_server_gone(NbdConn *conn);

/* request.c: runs in a coroutine of its own; answers. */
void co_fn nbd_request_run(void *req);
/* What is wrong with a request, before its payload is read: 0, or an error of the protocol. */
uint32_t nbd_request_check(const NbdRequest *req);
void nbd_request_fail(NbdRequest *req, uint32_t error, const char *text);

/* contexts.c */
char *nbd_context_name(const BlockExport *export, uint32_t id);          /* g_free */
/* Appends the ids that a query of LIST (or SET) names. */
void nbd_context_match(const BlockExport *export, const char *query, bool list, GArray *ids);
/* Extents of one context, as pairs of big-endian numbers (length, flags) of 32 bits, or 64 if @wide.  How
 * many, or -errno. */
int co_fn nbd_context_status(BlockExport *export, uint32_t id, uint64_t offset, uint64_t bytes,
                             bool one, bool wide, GByteArray *extents);

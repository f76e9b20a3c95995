/* What an export is, for block/export.c and the server in block/nbd/. */
#pragma once
#include "block/bitmap.h"
#include "block/export.h"

struct BlockExport {
    BlockExports *exports;
    unsigned refs;                         /* main thread: the list's, and one of each connection */
    bool deleted;                          /* no new connection; goes with the last one */
    char *id, *name, *description;         /* description: NULL: none */
    BlockUser *user;
    bool writable, multi_conn;
    bool depth_context;                    /* qemu:allocation-depth is offered */
    GPtrArray *bitmaps;                    /* of BlockBitmap, in order of their contexts */
    GPtrArray *iothreads;                  /* of Object, counted; empty: the main loop */
    unsigned next_loop;
};

BlockExport *block_export_ref(BlockExport *export);
void block_export_unref(BlockExport *export);
/* The loop for the next connection: each in turn. */
Loop *block_export_next_loop(BlockExport *export);
void block_exports_foreach(BlockExports *exports, void (*fn)(BlockExport *export, void *opaque),
                           void *opaque);
void block_exports_connection_gone(BlockExports *exports);

/* block/nbd/server.c */
struct NbdServer *nbd_server_new(BlockExports *exports, const NbdServerOptions *options,
                                 GError **error);
bool nbd_server_listen_at(struct NbdServer *server, json_object *addr, GError **error);
bool nbd_server_listen(struct NbdServer *server, int fd, GError **error);
/* A connection; owns it.  @own: its other end is this process's: no TLS is asked for. */
void nbd_server_take(struct NbdServer *server, int fd, bool own);
/* Cuts the connections of @export (NULL: all, those in their handshake, too). */
void nbd_server_cut(struct NbdServer *server, BlockExport *export);
void nbd_server_close_sockets(struct NbdServer *server);
unsigned nbd_server_connections(const struct NbdServer *server);
void nbd_server_free(struct NbdServer *server);          /* no connection is left */

/*
 * Exports: nodes of a graph that others use over a network.  The one kind is NBD.
 *
 * A tree of objects has one BlockExports (object /exports, made when first asked for): the exports
 * by id, and the NBD server that offers them.  An export can only be added while the server runs.
 *
 * Threads: main thread, VM lock.  Connections of an export are served by its loops: the iothreads
 * that it names, else the main loop.
 */
#pragma once
#include "block/block.h"

typedef struct BlockExports BlockExports;
typedef struct BlockExport BlockExport;
struct NbdServer;

BlockExports *block_exports_of(Object *root);
/* Everything: exports go, connections are cut, the server stops; waits for it.  Before the graph
 * closes.  Does nothing where there never was an export. */
void block_exports_close(Object *root);

/* block-export-add.  @options: BlockExportOptions.  The server must run. */
bool block_export_add(BlockExports *exports, json_object *options, GError **error);
/* block-export-del.  Without @hard it is refused while a client is connected.  Clients are cut; the
 * export has gone when BLOCK_EXPORT_DELETED comes, which may be before this returns. */
bool block_export_delete(BlockExports *exports, const char *id, bool hard, GError **error);
BlockExport *block_export_find_name(BlockExports *exports, const char *name);
json_object *block_exports_query(BlockExports *exports);  /* array of BlockExportInfo */

typedef struct NbdServerOptions {
    json_object *addr;                     /* SocketAddress; NULL: only nbd_server_add_socket's */
    const char *tls_creds, *tls_authz;     /* ids of objects; NULL: none */
    unsigned max_connections;              /* 0: no limit */
    unsigned handshake_seconds;            /* 0: no limit */
    void (*on_client)(unsigned clients, void *opaque);   /* how many are past their handshake, when
                                                            that changes; NULL: nobody asks */
    void *opaque;
} NbdServerOptions;
enum { NBD_MAX_CONNECTIONS = 100, NBD_HANDSHAKE_SECONDS = 10 };   /* what QMP's defaults are */

/* nbd-server-start, nbd-server-stop. */
bool nbd_server_start(BlockExports *exports, const NbdServerOptions *options, GError **error);
/* Another place to listen at: a SocketAddress. */
bool nbd_server_add_address(BlockExports *exports, json_object *addr, GError **error);
/* A listening socket that somebody else made; owned from now on. */
bool nbd_server_add_socket(BlockExports *exports, int fd, GError **error);
/* Removes all exports, too; waits until the last connection is gone. */
bool nbd_server_stop(BlockExports *exports, GError **error);
bool nbd_server_running(const BlockExports *exports);
/* Serves one connection that is there already, whose other end this process has made (for the kernel, for
 * tests): it needs no TLS.  Owns @fd. */
void nbd_server_serve(BlockExports *exports, int fd);

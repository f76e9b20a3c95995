/*
 * The NBD client's parts: client.c (the driver), client-link.c (connections), client-uri.c (names).
 *
 * A link is one connection: a handle of libnbd and the loop that works it.  A handle belongs to one
 * thread at a time, so requests of other loops are posted to the link's.  Where the server allows
 * several connections, each loop gets a link of its own.
 */
#pragma once
#include <pthread.h>
#include "block/driver.h"
#include "block/nbd/tunnel.h"
#include "src/sandbox/tls-creds.h"

struct nbd_handle;
typedef struct NbdLink NbdLink;
typedef struct NbdClient NbdClient;

enum { NBD_LINKS_MAX = 16 };

/* Where the server is, and as whom to come.  Does not change once the node is open. */
typedef struct NbdTarget {
    enum { NBD_AT_UNIX, NBD_AT_TCP, NBD_AT_FD } kind;
    char *path, *host, *port;              /* those of its kind */
    int fd;                                /* for the first connection; -1: used up */
    char *export, *bitmap;                 /* bitmap: a context instead of base:allocation; or NULL */
    TlsKeys *keys;                         /* NULL: none */
    char *hostname;                        /* whom the server's certificate must name; NULL: the host */
    bool tls;                              /* nbds: with the host's authorities if there are no keys */
} NbdTarget;

/* What the server says of the export. */
typedef struct NbdServerInfo {
    uint64_t size;
    uint32_t min_block, best_block, max_block;
    bool read_only, flush, fua, trim, zero, fast_zero, multi_conn, map;
} NbdServerInfo;

struct NbdLink {
    NbdClient *client;
    Loop *loop;                            /* who works the handle; NULL: nobody yet.  client->lock */
    struct nbd_handle *nbd;                /* the loop's; NULL: not connected */
    NbdTunnel *tunnel;                     /* to which it is connected; NULL: to the server itself */
    bool connected;                        /* atomic */
    bool unusable;                         /* never was connected, and cannot be.  client->lock */
    LoopFd *watch;                         /* the loop's */
    CoMutex connecting;                    /* held by who connects again; guards what follows */
    bool busy;                             /* atomic: somebody connects */
    int64_t lost_ns, retry_ns;             /* when it was lost; when to try again.  Atomic */
};

struct NbdClient {
    BlockNode *node;
    NbdTarget target;
    NbdServerInfo info;
    int64_t reconnect_ns, open_ns;         /* how long requests wait for a server that went; how long
                                              opening does */
    pthread_mutex_t lock;
    NbdLink *links[NBD_LINKS_MAX];         /* lock */
    unsigned link_count;                   /* lock */
};

typedef enum NbdVerb { NBD_READ, NBD_WRITE, NBD_FLUSH, NBD_ZERO, NBD_TRIM, NBD_MAP } NbdVerb;
typedef struct NbdOp {
    NbdVerb verb;
    void *buffer;
    uint64_t offset, bytes;
    uint32_t flags;                        /* LIBNBD_CMD_FLAG_… */
    uint64_t map_bytes;                    /* NBD_MAP: of the first extent */
    uint32_t map_flags;
    /* client-link.c's */
    NbdLink *link;
    Coroutine *co;
    LoopBh finish;
    int result;
    bool done;
} NbdOp;

/* client-link.c */
/* The first connection; fills in client->info.  Waits. */
bool co_fn nbd_client_connect(NbdClient *client, GError **error);
/* 0 or -errno; a connection that is lost is made anew for as long as reconnect-delay says. */
int co_fn nbd_client_run(NbdClient *client, NbdOp *op);
void co_fn nbd_client_disconnect(NbdClient *client);     /* nothing is in flight */

/* client-uri.c */
extern const char *const nbd_uri_schemes[];
json_object *nbd_parse_uri(const char *uri, GError **error);
char *nbd_target_uri(const NbdTarget *target);           /* g_free */

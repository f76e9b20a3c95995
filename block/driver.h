/*
 * What a block driver is: one table in one file.  The verbs are coroutines; an absent verb has the
 * meaning given here; in a filter it is its file child's (except co_write: read-only, and
 * co_copy_range).  Reads do not even pass a filter without a co_read.
 */
#pragma once
#include "block/block.h"

typedef struct BlockImageVerbs BlockImageVerbs;   /* block/image.h */

/* Block status: what `bytes` from an offset on are. */
enum {
    BLOCK_MAP_DATA = 1,                    /* to be read */
    BLOCK_MAP_ZERO = 2,                    /* reads as zeroes */
    BLOCK_MAP_OFFSET_VALID = 4,            /* host_offset and host_node tell where the bytes are */
    BLOCK_MAP_ALLOCATED = 8,               /* this image says what they are, not its backing file */
    BLOCK_MAP_COMPRESSED = 16
};
typedef struct BlockMap {
    uint64_t bytes;                        /* alike, from the offset asked for */
    unsigned flags;
    uint64_t host_offset;                  /* in host_node */
    BlockNode *host_node;                  /* the node that holds them: the lowest one that says so */
} BlockMap;

/* What an open node is to become. */
typedef struct BlockReopen {
    json_object *options;                  /* the driver's own, as open gets them: what it can change it
                                              takes out; NULL: they stay */
    bool read_only, direct, no_flush;      /* block_node_read_only() etc. say what it is now */
    bool auto_read_only;                   /* prepare may set read_only if the image cannot be written */
    void *state;                           /* the driver's, from prepare to commit or abort */
} BlockReopen;

typedef struct BlockDriver {
    const char *name, *help;
    size_t size;                           /* of the driver's own state, zeroed */
    const char *const *options;            /* members it takes beside the common ones; NULL-ended */
    bool is_protocol;                      /* bottom of the graph: no child node of its own */
    bool is_filter;                        /* shows its file child's data; the child does the alignment,
                                              bouncing and splitting of requests */
    bool is_format;                        /* decides itself what its bytes are: the end of a row of
                                              filters (block/chain.h), also where is_filter is set */
    bool internal;                         /* jobs make such nodes; nobody else is told of it */
    bool aligns;                           /* a filter that has limits of its own all the same */
    bool grows;                            /* a write past the end makes the node longer */
    unsigned write_flags;                  /* BlockReqFlags that co_write honours; the core flushes
                                              after a write for a BLOCK_FUA that is not among them */
    /* open, close, set_perm and refresh run in coroutines of the main loop.  They make no system call
     * that may have to wait for storage, but have it made (co_worker_call), and may do I/O on their
     * children.  What is no coroutine answers from memory. */
    /* Opens with @options, from which it takes (options_take) what it knows.  Children:
     * block_node_open_child. */
    bool co_fn (*open)(BlockNode *node, json_object *options, GError **error);
    void co_fn (*close)(BlockNode *node);
    /* Asks the system anew for what allocated_size and image_info tell.  Absent: nothing to ask. */
    void co_fn (*refresh)(BlockNode *node);
    int64_t (*get_size)(BlockNode *node);  /* bytes or -errno; absent: the file child's */
    void (*limits)(BlockNode *node, BlockLimits *limits);   /* adjusts; absent: as the file child */
    int co_fn (*co_read)(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                         uint64_t bytes);
    int co_fn (*co_write)(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                          uint64_t bytes, unsigned flags);  /* absent: read-only driver */
    int co_fn (*co_flush)(BlockNode *node);                 /* absent: nothing is volatile */
    int co_fn (*co_zero)(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags);
                                                            /* absent or -ENOTSUP: zeroes are written */
    int co_fn (*co_discard)(BlockNode *node, uint64_t offset, uint64_t bytes);
                                                            /* absent: nothing happens */
    /* Copies from the protocol node @from, in the host.  Absent or -ENOTSUP: by reading and writing. */
    int co_fn (*co_copy_range)(BlockNode *node, uint64_t offset, BlockNode *from,
                               uint64_t from_offset, uint64_t bytes);
    /* Data, zero or hole.  Absent: all data. */
    int co_fn (*co_map)(BlockNode *node, uint64_t offset, uint64_t bytes, BlockMap *map);
    int co_fn (*co_resize)(BlockNode *node, uint64_t bytes, GError **error);
    /* Somebody needs to write to a node that was demoted: opens the image for writing after all, or says
     * why it cannot.  Absent: a filter follows its file child, others stay read-only. */
    bool co_fn (*promote)(BlockNode *node, GError **error);
    /* Image locks.  One call at a time for a node; what was set before stays when it fails. */
    bool co_fn (*set_perm)(BlockNode *node, unsigned perm, unsigned shared, GError **error);
    /* What the child @key is asked for when @node's users ask for *perm and *shared; adjusts them.
     * Absent: the same. */
    void (*child_perm)(BlockNode *node, const char *key, unsigned *perm, unsigned *shared);
    int64_t (*allocated_size)(BlockNode *node);             /* bytes on the host; absent: unknown */
    void (*image_info)(BlockNode *node, json_object *info); /* adds members to ImageInfo */
    /* Requests that the driver itself holds back (not those below it) are let go until @begin is false:
     * somebody waits for all to end.  Main thread; counts.  Absent: it holds none back. */
    void (*drain)(BlockNode *node, bool begin);
    void (*describe)(BlockNode *node, json_object *info);   /* adds members to BlockDeviceInfo */
    json_object *(*stats)(BlockNode *node);                 /* BlockStats' driver-specific */
    void (*probe_sizes)(const BlockNode *node, BlockSizes *sizes);   /* absent: as the file child */
    /* The graph changes at run time: the child @key (block_node_child) is another node now, or there is
     * none.  Nothing of @node is in flight.  For drivers that keep pointers to their children. */
    void (*child_changed)(BlockNode *node, const char *key);
    bool has_backing;                      /* may have a child "backing", or lose or change it */
    /* Other options for an open node, in two steps: a change of several nodes is made as a whole.  After
     * abort all is as before.  A node's children are prepared after it, and committed or aborted before
     * it: the driver may do I/O on them in all three.  Nothing of @node is in flight.  Absent: only what
     * is the core's own (discard, detect-zeroes, read-only of nodes with a file child) can change. */
    bool co_fn (*reopen_prepare)(BlockNode *node, BlockReopen *reopen, GError **error);
    void co_fn (*reopen_commit)(BlockNode *node, BlockReopen *reopen);
    void co_fn (*reopen_abort)(BlockNode *node, BlockReopen *reopen);
    const BlockImageVerbs *image;          /* creating, checking, snapshots, …; NULL: none of them */
    /* Names that are not paths: "nbd" and "nbd+unix" for nbd://…; NULL-ended, may be NULL. */
    const char *const *uri_schemes;
    json_object *(*parse_uri)(const char *uri, GError **error);   /* to the node's options */
} BlockDriver;

void block_driver_register(const BlockDriver *driver);
#define BLOCK_DRIVER(driver)                                                                       \
    static void __attribute__((constructor)) register_##driver(void)                               \
    {                                                                                              \
        block_driver_register(&(driver));                                                          \
    }
const BlockDriver *block_driver_find(const char *name);
/* The same, with an error that tells a driver of QEMU's which is not there from a misspelt word. */
const BlockDriver *block_driver_get(const char *name, GError **error);
void block_driver_foreach(void (*fn)(const BlockDriver *driver, void *opaque), void *opaque);

void *block_node_state(BlockNode *node);   /* the driver's own */
BlockGraph *block_node_graph(const BlockNode *node);
void block_node_set_filename(BlockNode *node, const char *filename);
/* Something was written since the last flush. */
bool block_node_is_dirty(BlockNode *node);
/* A write past its end makes it longer, and what is between reads as zeroes; a filter does what its
 * child does. */
bool block_node_grows(const BlockNode *node);
/* In open: the image cannot be written although read-only is off.  False, with an error, unless
 * auto-read-only allows it, until somebody needs to write; @why: positive errno. */
bool block_node_demote(BlockNode *node, int why, GError **error);
/* The driver's get_size has another answer than before (a snapshot was gone back to), or in open has
 * its answer: the node and those above take it over.  Main thread. */
void block_node_refresh_size(BlockNode *node);
/* The node's bytes are its file child's, so that plain reads and writes may skip it.  In open, or while
 * nothing of the node and of those above it is in flight. */
void block_node_set_transparent(BlockNode *node, bool on);
/* The size of the disk is going to change: false, with an error, if a user does not allow it. */
bool block_node_may_resize(const BlockNode *node, GError **error);
bool block_node_cache_direct(const BlockNode *node);
bool block_node_no_flush(const BlockNode *node);
bool block_node_force_share(const BlockNode *node);

/* In open.  A child given by @options' member @key: a node name, or options of a node to open.  The child
 * is held with the permissions that @node's own users need. */
BlockNode *co_fn block_node_open_child(BlockNode *node, json_object *options, const char *key,
                                       bool required, GError **error);
BlockNode *block_node_child(const BlockNode *node, const char *key);
BlockNode *block_node_file(const BlockNode *node);      /* its child "file"; NULL: none */

/* I/O on a child: checked against its size, aligned, split to its limits. */
int co_fn block_node_co_read(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                             uint64_t bytes);
int co_fn block_node_co_write(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                              uint64_t bytes, unsigned flags);
int co_fn block_node_co_flush(BlockNode *node);
int co_fn block_node_co_zero(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags);
int co_fn block_node_co_discard(BlockNode *node, uint64_t offset, uint64_t bytes);
int co_fn block_node_co_resize(BlockNode *node, uint64_t bytes, GError **error);

int co_fn block_node_co_copy_range(BlockNode *node, uint64_t offset, BlockNode *from,
                                   uint64_t from_offset, uint64_t bytes);
int co_fn block_node_co_map(BlockNode *node, uint64_t offset, uint64_t bytes, BlockMap *map);

/* AIO engines: async reads and writes on a descriptor, in the current loop.  block/aio.h. */

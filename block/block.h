/*
 * The block layer as its users (devices, jobs, exports, tools) see it.
 *
 * A machine has one BlockGraph (object /block): nodes with names, each an opened driver with
 * children (`file`, `backing`, …).  A user attaches to a node through a BlockUser, which says what
 * it does with it (permissions) and keeps its statistics.
 *
 * Threads: opening, closing and changing the graph happens in the main thread under the VM lock.
 * What of it may have to wait for storage says "waits": in a coroutine it yields, elsewhere it runs
 * the main loop meanwhile.  No system call on storage is made in the main thread.
 * I/O may be done from a coroutine of any loop, on any node; drivers use the current loop's AIO
 * engine, so that no lock is taken on the way of a request.
 */
#pragma once
#include <sys/uio.h>
#include "src/base/coroutine.h"
#include "src/base/options.h"
#include "src/object/object.h"

typedef struct BlockGraph BlockGraph;      /* type "block-graph", object /block */
typedef struct BlockNode BlockNode;
typedef struct BlockUser BlockUser;

/* Permissions: what a user does itself, and what it lets others do meanwhile. */
typedef enum BlockPerm {
    BLOCK_PERM_READ = 1,                   /* reads that must be consistent */
    BLOCK_PERM_WRITE = 2,
    BLOCK_PERM_WRITE_SAME = 4,             /* writes that do not change what is read */
    BLOCK_PERM_RESIZE = 8,
    BLOCK_PERM_ALL = 15
} BlockPerm;

typedef enum BlockReqFlags {
    BLOCK_FUA = 1,                         /* on stable storage when it completes */
    BLOCK_MAY_UNMAP = 2,                   /* zero: the space may be freed */
    BLOCK_NO_FALLBACK = 4,                 /* zero: -ENOTSUP rather than writing zeroes */
    BLOCK_COMPRESSED = 8                   /* write: whole clusters, kept compressed; -ENOTSUP where
                                              the format cannot */
} BlockReqFlags;

/* The graph of a machine; made by vm.c, tests and tools. */
BlockGraph *block_graph_new(Object *root, GError **error);
BlockGraph *block_graph_of(const Object *any);
/* The guest's clock, which snapshots note: @clock_ns is called in the main thread.  Without one: 0. */
void block_graph_set_clock(BlockGraph *graph, int64_t (*clock_ns)(void *opaque), void *opaque);
/* Closes every node, and waits for what else is under way; users must be gone. */
void block_graph_close(BlockGraph *graph);

/* Opens a node (and the nodes its options define).  @options: a BlockdevOptions object; members
 * not known to the driver are refused by name.  Named nodes live until blockdev-del; nodes defined
 * inline as children live with their parent.  Waits. */
BlockNode *block_node_open(BlockGraph *graph, json_object *options, GError **error);
/* Waits until the node is flushed and closed. */
bool block_node_delete(BlockGraph *graph, const char *node_name, GError **error);
BlockNode *block_node_find(BlockGraph *graph, const char *node_name);
/* -drive's text: key=value, where `file=PATH` and `file.OPTION=…` may stand side by side. */
json_object *block_drive_parse(const char *text, GError **error);
/* -drive: file=, if=, format=, cache=, aio=, id=, …; makes nodes and a name for -device drive=.
 * *ret_iface gets if= ("none", "virtio", …) so that the caller can add a device.  Waits. */
BlockNode *block_drive_open(BlockGraph *graph, json_object *options, const char **ret_iface,
                            GError **error);
/* What a -drive said beside its node; NULL: the node is not the top of a drive.  Devices take
 * from it what their own properties leave open. */
typedef struct BlockDrive {
    const char *id;                        /* "disk0", or made up: "virtio0" */
    const char *iface;                     /* if= */
    const char *serial;                    /* NULL: none */
    bool is_cdrom;
    int index, bus, unit;                  /* -1: not given */
    int on_read_error, on_write_error;     /* BlockOnError; -1: not given */
    const struct ThrottleConfig *limits;   /* NULL: none */
    const char *throttle_group;            /* whose they are */
} BlockDrive;
const BlockDrive *block_node_drive(const BlockNode *node);
BlockNode *block_drive_find(BlockGraph *graph, const char *id);
void block_graph_foreach(BlockGraph *graph, void (*fn)(BlockNode *node, void *opaque), void *opaque);

const char *block_node_name(const BlockNode *node);
const char *block_node_driver(const BlockNode *node);
const char *block_node_filename(const BlockNode *node);
int64_t block_node_size(const BlockNode *node);          /* bytes, or -errno */
bool block_node_read_only(const BlockNode *node);
json_object *block_node_describe(BlockNode *node);       /* QMP BlockDeviceInfo */
json_object *block_node_options(const BlockNode *node);  /* as opened; borrowed */
/* ImageInfo: virtual-size, actual-size, format, filename, …  From memory, as the descriptions are:
 * see block_node_refresh. */
json_object *block_node_image_info(BlockNode *node, GError **error);
/* block_resize: refused if a user does not share BLOCK_PERM_RESIZE or the driver cannot.  Waits. */
bool block_node_resize(BlockNode *node, uint64_t bytes, GError **error);

/* A write to the node that ends past this offset is told of by BLOCK_WRITE_THRESHOLD, once; 0: none is.
 * Waits. */
bool block_set_write_threshold(BlockGraph *graph, const char *node_name, uint64_t bytes,
                               GError **error);

/* Asks the system anew for what is told of a node (of all nodes).  Waits, but not for long: storage
 * that does not answer soon leaves what is known from before, and is asked on. */
void block_node_refresh(BlockNode *node);
void block_graph_refresh(BlockGraph *graph);
/* The whole answers of query-block, query-blockstats and query-named-block-nodes.  From memory. */
json_object *block_query_block(BlockGraph *graph);
json_object *block_query_blockstats(BlockGraph *graph, bool query_nodes);
json_object *block_query_named_nodes(BlockGraph *graph);

/* A property kind: the member is a BlockNode *, set by node name or -drive id ("drive"). */
extern const PropertyKind prop_block_node;

/* Users.  @name for messages: "virtio-blk device '/machine/peripheral/disk0'".  Both wait, for image
 * locks. */
BlockUser *block_user_new(BlockNode *node, const char *name, unsigned perm, unsigned shared,
                          GError **error);
void block_user_free(BlockUser *user);                   /* drains first */
BlockNode *block_user_node(const BlockUser *user);
/* *@place follows the user's node when the graph changes; NULL: no more. */
void block_user_keep(BlockUser *user, BlockNode **place);
/* Calls when the node's size has changed.  Main thread. */
void block_user_on_resize(BlockUser *user, LoopFn *fn, void *opaque);
void block_user_drain(BlockUser *user);                  /* waits until nothing is in flight */
/* While quiesced, new requests of the user's coroutines wait.  Counts; on: waits. */
void block_user_quiesce(BlockUser *user, bool on);

/* Requests.  Offsets and sizes in bytes, any alignment (the core aligns what the node cannot);
 * past the end: -EIO.  Return 0 or -errno. */
int co_fn block_co_read(BlockUser *user, uint64_t offset, const struct iovec *iov, int iovcnt,
                        uint64_t bytes);
int co_fn block_co_write(BlockUser *user, uint64_t offset, const struct iovec *iov, int iovcnt,
                         uint64_t bytes, unsigned flags);
int co_fn block_co_zero(BlockUser *user, uint64_t offset, uint64_t bytes, unsigned flags);
int co_fn block_co_discard(BlockUser *user, uint64_t offset, uint64_t bytes);
int co_fn block_co_flush(BlockUser *user);
/* The host itself copies, or lets two files share blocks.  -ENOTSUP where it cannot: then nothing, or a
 * part from the start, is copied. */
int co_fn block_co_copy_range(BlockUser *from, uint64_t from_offset, BlockUser *to,
                              uint64_t to_offset, uint64_t bytes);

/*
 * Adjacent requests of a guest, done as one.  That counts as @n, of which n - 1 were merged.  If it fails
 * nothing is counted, and nothing but some of the bytes may have changed: the caller does them each by
 * itself then, to find out which it was.
 */
int co_fn block_co_read_merged(BlockUser *user, uint64_t offset, const struct iovec *iov, int iovcnt,
                               uint64_t bytes, unsigned n);
int co_fn block_co_write_merged(BlockUser *user, uint64_t offset, const struct iovec *iov, int iovcnt,
                                uint64_t bytes, unsigned n);
/* The most bytes that those may have; 0: none, as each request is to keep the user's limits by itself.
 * They may have BLOCK_MERGE_IOV parts in memory.  Any thread; when it has changed meanwhile they fail. */
enum { BLOCK_MERGE_BYTES = 256 << 10, BLOCK_MERGE_IOV = 128 };
uint64_t block_user_merge_max(const BlockUser *user);

/* Limits a device tells its driver. */
typedef struct BlockLimits {
    uint32_t request_alignment;            /* bytes; the core bounces what is not */
    uint32_t buffer_alignment;             /* of memory, for O_DIRECT */
    uint32_t optimal_io, discard_granularity, write_zeroes_granularity;
    uint32_t max_iov;
    uint64_t max_transfer, max_discard, max_write_zeroes;   /* bytes; 0: no limit */
    bool can_discard, can_write_zeroes;
} BlockLimits;
BlockLimits block_node_limits(const BlockNode *node);
bool block_node_write_cache(const BlockNode *node);      /* a volatile cache: flushes matter */

/* Statistics, as query-blockstats: counted in per-thread cells, no lock. */
typedef enum BlockAcct { BLOCK_ACCT_READ, BLOCK_ACCT_WRITE, BLOCK_ACCT_FLUSH, BLOCK_ACCT_UNMAP,
                         BLOCK_ACCT_ZERO, BLOCK_ACCT__COUNT } BlockAcct;
typedef struct BlockStats {
    struct { uint64_t bytes, operations, failed, invalid, total_time_ns, merged; } of[BLOCK_ACCT__COUNT];
    uint64_t wr_highest_offset;
} BlockStats;
BlockStats block_user_stats(const BlockUser *user);
void block_user_account_invalid(BlockUser *user, BlockAcct what);

/*
 * Limits of bytes and requests a second for a user's reads, writes and zero requests, in a group that
 * users may share (block/throttle-group.h).  @config: nothing set: no limits any more.  Main thread;
 * waits.
 */
typedef struct ThrottleConfig ThrottleConfig;
bool block_user_set_throttle(BlockUser *user, const char *group, const ThrottleConfig *config,
                             GError **error);
/*
 * How long requests take: counts between boundaries (ns, ascending) for reads, writes or flushes.
 * @n 0: no histogram any more.  Main thread; waits.
 */
bool block_user_set_histogram(BlockUser *user, BlockAcct what, const uint64_t *boundaries, unsigned n,
                              GError **error);

/* The users of all nodes, for query-block and query-blockstats. */
void block_graph_foreach_user(BlockGraph *graph, void (*fn)(BlockUser *user, void *opaque),
                              void *opaque);
const char *block_user_name(const BlockUser *user);
void block_user_set_device(BlockUser *user, Object *device);   /* qdev: its path */
Object *block_user_device(const BlockUser *user);

/* Off: every write is on stable storage when it completes (cache=writethrough).  The default is
 * what the node says; a guest that turns its write cache off calls this, in any thread. */
void block_user_set_write_cache(BlockUser *user, bool on);
bool block_user_write_cache(const BlockUser *user);

/* What to do when a request fails (werror=, rerror=). */
typedef enum BlockOnError { BLOCK_ON_ERROR_REPORT, BLOCK_ON_ERROR_IGNORE, BLOCK_ON_ERROR_ENOSPC,
                            BLOCK_ON_ERROR_STOP } BlockOnError;
extern const char *const block_on_error_words[];         /* "report", "ignore", "enospc", "stop" */
/* A device's own rerror=/werror= (-1: as the drive says; without one: report, enospc).  rerror=enospc
 * is refused.  Main thread, before I/O. */
bool block_user_set_on_error(BlockUser *user, int on_read_error, int on_write_error,
                             GError **error);
typedef enum BlockErrorAction { BLOCK_ERROR_REPORT, BLOCK_ERROR_IGNORE,
                                BLOCK_ERROR_STOP } BlockErrorAction;
/* Decides for a failed request (@err: positive errno), keeps query-block's io-status, and emits
 * BLOCK_IO_ERROR.  On STOP the device keeps the request, asks its machine to stop (MACHINE_STOP), and
 * issues it again when the machine runs.  Any thread. */
BlockErrorAction block_user_error_action(BlockUser *user, bool is_read, int err);
void block_user_reset_io_status(BlockUser *user);        /* on device reset */
void block_graph_reset_io_status(BlockGraph *graph);     /* of all users: on cont */

/* logical_block_size, physical_block_size: what a device shows when its properties leave them 0. */
typedef struct BlockSizes {
    uint32_t logical, physical;            /* bytes; powers of two */
} BlockSizes;
BlockSizes block_node_probe_sizes(const BlockNode *node);

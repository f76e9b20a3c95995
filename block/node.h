/*
 * The structs of nodes, edges and users: private to the core of the block layer (graph.c, perm.c,
 * io.c, rmw.c, user.c, query.c, drive.c).  Drivers see block/driver.h.
 *
 * Owner of every member without a remark: the main thread, under the VM lock; the data path only
 * reads it, and it changes only while the users above are quiesced or before the first one is there.
 */
#pragma once
#include <pthread.h>
#include "block/bitmap.h"
#include "block/cells.h"
#include "block/driver.h"

/* One use of a node: by a node above (its child @key), or by a user. */
typedef struct BlockEdge {
    const char *key;                       /* "file", "backing"; interned; NULL: a user's */
    BlockNode *parent;                     /* exactly one of parent and user */
    BlockUser *user;
    BlockNode *child;
    unsigned perm, shared;
    bool relaxed;                          /* asks for nothing: a job that holds the child sees to it that
                                              what the parent reads stays (block_edge_relax) */
} BlockEdge;

typedef enum BlockDetectZeroes { BLOCK_DETECT_OFF, BLOCK_DETECT_ON, BLOCK_DETECT_UNMAP }
    BlockDetectZeroes;

/* The common options, parsed. */
/* Nodes on top of each other: requests recurse through the graph on a coroutine's stack. */
enum { BLOCK_DEPTH_MAX = 200 };

typedef struct BlockNodeConfig {
    unsigned nesting;                      /* how many nodes' options it is defined in */
    bool read_only, auto_read_only;
    bool direct, no_flush, force_share;
    bool discard;                          /* discard=unmap */
    BlockDetectZeroes detect_zeroes;
} BlockNodeConfig;

/* What a write request waits for, or makes others wait for (rmw.c). */
typedef struct BlockWrite {
    uint64_t start, end;                   /* aligned outward */
    bool tracked, serialising;
    struct BlockWrite *prev, *next;        /* in order of arrival */
    GSList *waiters;                       /* of Coroutine: resumed when this one is done */
} BlockWrite;

/* A thread's counters of a node. */
typedef struct BlockNodeCell {
    gint writing;                          /* atomic: writes in flight that are not tracked */
    uint64_t written;                      /* writes, zeroes and discards completed */
} BlockNodeCell;

struct BlockNode {
    BlockGraph *graph;
    const BlockDriver *driver;
    void *state;

    /* What the data path reads: */
    gint64 size;                           /* atomic; bytes */
    uint64_t align_mask, memory_mask;      /* of offsets and lengths; of buffers */
    uint64_t max_transfer;                 /* UINT64_MAX: no limit */
    int max_iov;
    BlockNode *read_target, *write_target; /* where plain reads and writes may go at once: filters
                                              that add nothing are skipped */
    BlockNode *filtered;                   /* a filter's file child: whose verbs it has where its driver
                                              has none; NULL: no filter */
    BlockNodeConfig config;
    bool transparent;                      /* its bytes are its file child's */
    bool ordered;                          /* writes count themselves: align_mask, or a job orders them */
    bool track_reads;                      /* reads are put into the list of writes (rmw.c) */
    BlockBitmap *bitmaps;                  /* the first; writes mark them */
    uint64_t write_threshold;              /* atomic: a write past it is told of, once; 0: none is */

    /* What the data path writes: */
    BlockCells cells;                      /* of BlockNodeCell */
    uint64_t wr_highest_offset;            /* atomic */
    uint64_t flushed;                      /* atomic: `written` of all threads at the last good flush */
    gint rmw_mode;                         /* atomic: read-modify-writes under way or waiting */
    pthread_mutex_t track_lock;           /* as all locks here: TSan does not see GMutex */
    BlockWrite *track_first, *track_last;  /* under track_lock */
    GSList *mode_waiters;                  /* under track_lock: of Coroutine */

    char *name, *filename;
    json_object *options;                  /* as opened */
    bool auto_named, listed, monitor_owned;
    bool demoted;                          /* read-only until somebody needs to write */
    bool implicit;                         /* a job's filter, which queries of disks do not show */
    bool broken_flush;                     /* atomic */
    unsigned refs;                         /* edges from above, and one of the monitor or drive */
    unsigned orderings;                    /* block_node_order */
    unsigned depth;                        /* nodes on the longest way down, itself included */
    GPtrArray *children;                   /* of BlockEdge, owned */
    GPtrArray *parents;                    /* of BlockEdge */
    unsigned perm, shared;                 /* of all parents together */
    CoMutex perm_lock;                     /* while the driver is told of them */
    unsigned pins;                         /* coroutines that need it: it is not closed meanwhile */
    CoQueue unpinned;                      /* of coroutines */
    enum { REFRESH_NONE, REFRESH_BEGUN, REFRESH_LATE } refresh;    /* refresh.c */
    BlockLimits limits;
    BlockDrive *drive;
    bool restricted;                       /* its format was guessed: raw.  A write must not give it
                                              another one's signature */
    bool write_cache;                      /* cache.writeback of a drive; true without one */
};

struct BlockGraph {
    Object obj;
    GPtrArray *nodes;                      /* of BlockNode, in order of making */
    GPtrArray *users;                      /* of BlockUser */
    GPtrArray *jobs;                       /* of BlockJob */
    CoMutex change_lock;                   /* one transaction at a time */
    unsigned next_name;
    unsigned under_way;                    /* openings and closings */
    CoQueue settled;                       /* of coroutines: one of them has ended */
    CoQueue refreshed;                     /* of coroutines: a node has been */
    int64_t (*clock_ns)(void *opaque);     /* the guest's; NULL: there is none */
    void *clock_opaque;
};

/* A thread's counters of a user. */
typedef struct BlockHistogram {
    unsigned n;                            /* boundaries; there is one bin more */
    uint64_t boundaries[63];               /* ns */
    BlockCells cells;                      /* of uint64_t [n + 1] */
} BlockHistogram;

typedef struct BlockUserCell {
    gint in_flight;                        /* atomic */
    uint64_t last_ns;
    struct { uint64_t bytes, operations, failed, invalid, total_time_ns, merged; } of[BLOCK_ACCT__COUNT];
} BlockUserCell;

struct BlockUser {
    BlockNode *node;
    BlockGraph *graph;
    BlockEdge edge;
    BlockCells cells;                      /* of BlockUserCell */
    gint quiesced;                         /* atomic; a count */
    gint write_cache;                      /* atomic */
    uint64_t merge_max;                    /* atomic */
    pthread_mutex_t wait_lock;
    GSList *waiters;                       /* under wait_lock: of Coroutine, while quiesced */
    char *name;
    Object *device;                        /* counted */
    char *qdev;                            /* what it is called; set with it, read by any thread */
    LoopFn *on_resize;
    void *on_resize_opaque;
    BlockNode **kept;                      /* block_user_keep */
    const void *owner;                     /* a job, for its own users; NULL */
    BlockOnError on_error[2];              /* [is_read] */
    struct ThrottleMember *throttle;       /* NULL: no limits; changes while quiesced, as the next */
    BlockHistogram *histograms[BLOCK_ACCT__COUNT];   /* NULL: none */
    gint io_status;                        /* atomic: 0 ok, 1 failed, 2 nospace */
};

/* graph.c */
BlockNode *co_fn block_node_open_with(BlockGraph *graph, json_object *options,
                                      const BlockNodeConfig *above, GError **error);
/* block_image_add_temporary between block_graph_begin and block_graph_end (temporary.c). */
BlockNode *co_fn block_node_add_temporary(BlockGraph *graph, BlockNode *below, const char *name,
                                          GError **error);
/* Drops a reference; closes at the last, and waits for that. */
void block_node_release(BlockNode *node);
/* Between these two a graph is not closed. */
void block_graph_begin(BlockGraph *graph);
void block_graph_end(BlockGraph *graph);
/* A pinned node is not closed, though it may be out of the graph. */
void block_node_pin(BlockNode *node);
void block_node_unpin(BlockNode *node);
void block_node_refresh_limits(BlockNode *node);
/* change.c: what the node and those above it are (limits, size, depth), after it or one below changed. */
void block_node_update(BlockNode *node);
/* Finds out again where plain requests of the node, and of those above it, may go at once.  Their
 * users are quiesced, or the node has none. */
void block_node_route(BlockNode *node);
int64_t block_node_ask_size(BlockNode *node);           /* what it says now; -errno */

/* options.c: takes the common options out of @options. */
bool block_options_common(json_object *options, const BlockNodeConfig *above,
                          BlockNodeConfig *config, GError **error);
extern const char *const block_detect_zeroes_words[];
extern const char *const block_common_options[];

/* perm.c: all of them wait, and have changed the edge when they begin to. */
bool block_edge_attach(BlockEdge *edge, unsigned perm, unsigned shared, GError **error);
void block_edge_detach(BlockEdge *edge);
bool block_edge_set_perm(BlockEdge *edge, unsigned perm, unsigned shared, GError **error);
/* These edges, all of one child, get another child; the caller moves the references.  On failure all
 * is as it was. */
bool block_edges_move(GPtrArray *edges, BlockNode *to, GError **error);
bool block_edge_relax(BlockEdge *edge, bool on, GError **error);
char *block_perm_words(unsigned perm);     /* "read, write"; g_free */
/* What uses the node: "user 'X'" or "node 'Y' (its 'file')"; g_free. */
char *block_edge_describe(const BlockEdge *edge);

/* bitmap.c */
void block_node_mark(BlockNode *node, uint64_t offset, uint64_t bytes);
void block_node_grow_bitmaps(BlockNode *node, uint64_t bytes);     /* any thread */
void block_node_resize_bitmaps(BlockNode *node, uint64_t bytes);   /* while nothing is written */
void block_node_free_bitmaps(BlockNode *node);
/* Takes a bitmap off its node without forgetting it, and puts it back; as block_bitmap_free. */
void block_bitmap_detach(BlockBitmap *bitmap);
void block_bitmap_attach(BlockBitmap *bitmap);

/* bitmap-actions.c: BlockDirtyInfo of those with names; NULL: there are none. */
json_object *block_node_describe_bitmaps(BlockNode *node);

/* write-threshold.c.  A write that ends there is about to be made.  Any thread. */
void block_node_check_threshold(BlockNode *node, uint64_t end);

/* rmw.c */
bool block_write_enter_fast(BlockNode *node, BlockNodeCell *cell);
void co_fn block_write_enter(BlockNode *node, BlockWrite *write, uint64_t offset, uint64_t bytes,
                             bool serialising);
/* For work that others shall not wait for before it begins: as above, serialising. */
void co_fn block_write_enter_free(BlockNode *node, BlockWrite *write, uint64_t offset, uint64_t bytes);
void block_write_leave(BlockNode *node, BlockNodeCell *cell, BlockWrite *write);

/* user-limits.c */
void block_user_find_merge_max(BlockUser *user);   /* its limits, or those of its node, have changed */
void block_user_histogram_add(BlockHistogram *histogram, int64_t ns);
void block_user_describe_throttle(BlockUser *user, json_object *info);      /* @user: may be NULL */
void block_user_describe_histograms(BlockUser *user, json_object *stats);
void block_user_clear_limits(BlockUser *user);

/* user.c */
unsigned block_user_in_flight(BlockUser *user);
int64_t block_user_last_ns(const BlockUser *user);    /* when the last request ended; 0: none did */
char *block_user_qdev(const BlockUser *user);           /* g_free */

/* The caller holds the range of a write or zero request (block_write_enter, serialising). */
#define BLOCK_HELD (1u << 31)

static inline BlockNodeCell *block_node_cell(BlockNode *node)
{
    return block_cells_mine(&node->cells, sizeof(BlockNodeCell));
}

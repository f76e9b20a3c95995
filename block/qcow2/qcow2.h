/*
 * The qcow2 driver's own header: what an opened image is in memory, and what the driver's files do for
 * each other.  docs/qcow2.md tells the format as we write it, and the order of writes.
 *
 * How the parts stand to each other:
 *
 *   gate.c        every request passes it; an exclusive operation (snapshot, resize, check) waits there
 *                 until it is alone.  It also tells when all requests that could still use a host
 *                 cluster are over.
 *   cache.c       slices (parts of a cluster) of L2 tables and of refcount blocks, by host offset
 *   checkpoint.c  writes what is dirty, in the order that makes a crash harmless
 *   refcount.c    refcounts, the blocks and the table that hold them
 *   alloc.c       finds free clusters; free.c gives them back when nobody can see them any more
 *   touched.c     what changes while a scrub looks at the image
 *   checksums.c   whether tables are what they were, where the image has checksums
 *   l2.c, map.c   the way from a guest offset to a host offset
 *   io.c, cow.c, zero.c, compress.c   the data path
 *   header.c, header-write.c, create.c, resize.c, amend.c, info.c   the image as a whole
 *
 * Errors: functions return 0 or -errno; those with a GError ** set it with every failure (NULL: not
 * wanted).  Offsets and sizes are bytes; "guest" offsets are of the disk, "host" ones of the file.
 *
 * Locks, in the order they are taken: gate, the journal's, ranges (range.c), l1_lock, alloc_lock,
 * flush_lock, the checksums' (all of coroutines, may be held over a wait), then a cache shard or one of
 * the small mutexes (never held over a wait, one at a time).
 */
#pragma once
#include <pthread.h>
#include "block/cells.h"
#include "block/debug.h"
#include "block/driver.h"
#include "block/image.h"
#include "src/base/util.h"

/* On disk.  Section names are those of the qcow2 specification. */

#define QCOW2_MAGIC 0x514649fbu
enum { QCOW2_CLUSTER_BITS_MIN = 9, QCOW2_CLUSTER_BITS_MAX = 21, QCOW2_REFCOUNT_ORDER_MAX = 6 };
enum { QCOW2_V2_HEADER = 72, QCOW2_V3_HEADER = 104, QCOW2_HEADER_MAX = 112 };
#define QCOW2_L1_BYTES_MAX (32 * MiB)
#define QCOW2_REFTABLE_BYTES_MAX (8 * MiB)
enum { QCOW2_SNAPSHOTS_MAX = 65536 };

/* "Header": incompatible, compatible and autoclear features. */
#define QCOW2_INCOMPAT_DIRTY (1ull << 0)
#define QCOW2_INCOMPAT_CORRUPT (1ull << 1)
#define QCOW2_INCOMPAT_DATA_FILE (1ull << 2)
#define QCOW2_INCOMPAT_COMPRESSION (1ull << 3)
#define QCOW2_INCOMPAT_EXTENDED_L2 (1ull << 4)
#define QCOW2_INCOMPAT_KNOWN 0x1full
#define QCOW2_COMPAT_LAZY_REFCOUNTS (1ull << 0)
#define QCOW2_AUTOCLEAR_BITMAPS (1ull << 0)
#define QCOW2_AUTOCLEAR_DATA_FILE_RAW (1ull << 1)
#define QCOW2_AUTOCLEAR_JOURNAL (1ull << 56)  /* our own: journal.h */
#define QCOW2_AUTOCLEAR_CHECKSUMS (1ull << 57)   /* our own: checksums.h */

/* "Header extensions". */
enum { QCOW2_EXT_END = 0, QCOW2_EXT_FEATURE_NAMES = 0x6803f857, QCOW2_EXT_BITMAPS = 0x23852875,
       QCOW2_EXT_CRYPTO = 0x0537be77, QCOW2_EXT_DATA_FILE = 0x44415441 };
#define QCOW2_EXT_BACKING_FORMAT 0xe2792acau
#define QCOW2_EXT_JOURNAL 0x76626a31       /* our own: journal.h */
#define QCOW2_EXT_CHECKSUMS 0x7673756d     /* our own: checksums.h */
#define QCOW2_EXT_GAP 0x76676170           /* our own: means nothing (header-write.c) */
enum { QCOW2_FEATURE_BYTES = 48, QCOW2_BACKING_NAME_MAX = 1023 };

enum { QCOW2_CRYPT_NONE, QCOW2_CRYPT_AES, QCOW2_CRYPT_LUKS };
enum { QCOW2_COMPRESSION_ZLIB, QCOW2_COMPRESSION_ZSTD };

/* "L1 table entry", "L2 table entry", "Refcount table entry". */
#define QCOW2_OFFSET_MASK 0x00fffffffffffe00ull
#define QCOW2_REFTABLE_OFFSET_MASK 0xfffffffffffffe00ull
#define QCOW2_COPIED (1ull << 63)          /* refcount is exactly 1 */
#define QCOW2_COMPRESSED (1ull << 62)
#define QCOW2_ZERO (1ull << 0)             /* standard L2 entries of version 3 */
#define QCOW2_L1_RESERVED 0x7f000000000001ffull
#define QCOW2_L2_RESERVED 0x3f000000000001feull
enum { QCOW2_SUBCLUSTERS = 32 };           /* of a cluster with an extended L2 entry */

typedef struct Qcow2Extension {
    uint32_t type;
    uint32_t length;
    uint8_t *data;                         /* owned */
} Qcow2Extension;

/* The header, in host byte order; version 2 images have version 3's defaults. */
typedef struct Qcow2Header {
    uint32_t version, cluster_bits, crypt_method, l1_size, refcount_table_clusters, nb_snapshots;
    uint64_t size, l1_table_offset, refcount_table_offset, snapshots_offset;
    uint64_t incompatible, compatible, autoclear;
    uint32_t refcount_order, header_length;
    uint8_t compression_type;
    char *backing_file, *backing_format, *data_file;   /* owned; NULL: none */
    /* Those that we do not make ourselves at each write (backing format, data file name, feature
     * names), in their order on disk: unknown ones are kept. */
    GArray *extensions;                    /* of Qcow2Extension */
    uint8_t *unknown_fields;               /* of a longer header; owned */
    uint32_t unknown_fields_length;
} Qcow2Header;

typedef struct Qcow2Snapshot {             /* "Snapshots" */
    uint64_t l1_table_offset;
    uint32_t l1_size;
    char *id, *name;                       /* owned */
    uint64_t disk_size, vm_state_size, date_sec, date_nsec, vm_clock_nsec, icount;
    uint8_t *extra_data;                   /* past the fields we know; owned */
    uint32_t extra_data_length;
} Qcow2Snapshot;

/* A coroutine that waits for something under a small mutex (wait.c): its record is on its stack, in a
 * list of what it waits for.  Prepared under the mutex, waited for without it. */
typedef struct Qcow2Waiter Qcow2Waiter;
struct Qcow2Waiter {
    Qcow2Waiter *next;
    Coroutine *co;
    LoopBh bh;
    bool woken;                            /* the coroutine's thread */
};
void qcow2_waiter_add(Qcow2Waiter **list, Qcow2Waiter *waiter);
void co_fn qcow2_wait(Qcow2Waiter *waiter);
void qcow2_wake(Qcow2Waiter *list);        /* all of them, in order of arrival; any thread */

/* Metadata in the cache (cache.c). */

typedef struct Qcow2Slice Qcow2Slice;
struct Qcow2Slice {                        /* under its shard's lock */
    uint64_t offset;                       /* host; the key */
    uint8_t *data;
    Qcow2Slice *next;                      /* in its bucket */
    Qcow2Slice *newer, *older;             /* order of eviction */
    Qcow2Slice *next_dirty;
    bool loading, dirty, writing, used;
    Qcow2Waiter *waiters;                  /* while loading */
};

typedef struct Qcow2Shard {
    pthread_mutex_t lock;
    Qcow2Slice **buckets;
    Qcow2Slice *newest, *oldest, *first_dirty;
    unsigned count, limit, bucket_mask;
} Qcow2Shard;

enum { QCOW2_SHARDS = 16 };
typedef struct Qcow2Cache {
    struct Qcow2 *s;
    const char *what;                      /* "L2 table", "refcount block" */
    unsigned slice_bits;                   /* a slice has 1 << slice_bits bytes */
    unsigned n_shards;                     /* a power of two */
    gint dirty;                            /* atomic: slices dirty or being written */
    gint count;                            /* atomic: slices in memory */
    unsigned limit;                        /* slices */
    Qcow2Shard shards[QCOW2_SHARDS];
} Qcow2Cache;

/* The gate (gate.c). */

typedef enum Qcow2Pass {                   /* what a request that has passed the gate counts as */
    QCOW2_PASS_EPOCH_0, QCOW2_PASS_EPOCH_1,   /* may use host clusters that it looked up */
    QCOW2_PASS_UPKEEP,                        /* flush and the like: keeps no host offsets */
    QCOW2_PASS__COUNT
} Qcow2Pass;

typedef struct Qcow2Cell {
    gint passes[QCOW2_PASS__COUNT];        /* atomic */
} Qcow2Cell;

typedef struct Qcow2Ticket {               /* of one request */
    Qcow2Cell *cell;
    Qcow2Pass pass;
} Qcow2Ticket;

/* Guest clusters whose mapping a request is changing (range.c). */
typedef struct Qcow2Range {
    uint64_t first, end;                   /* guest clusters */
    struct Qcow2Range *next;
    Qcow2Waiter *waiters;
} Qcow2Range;

/* Why clusters were freed: decides whether the file's space is given back (pass-discard-*). */
typedef enum Qcow2Discard { QCOW2_DISCARD_NEVER, QCOW2_DISCARD_ALWAYS, QCOW2_DISCARD_REQUEST,
                            QCOW2_DISCARD_SNAPSHOT, QCOW2_DISCARD_OTHER,
                            QCOW2_DISCARD__COUNT } Qcow2Discard;

/* overlap-check: structures that no write for something else may touch (overlap.c). */
enum { QCOW2_OL_MAIN_HEADER = 1, QCOW2_OL_ACTIVE_L1 = 2, QCOW2_OL_ACTIVE_L2 = 4,
       QCOW2_OL_REFCOUNT_TABLE = 8, QCOW2_OL_REFCOUNT_BLOCK = 16, QCOW2_OL_SNAPSHOT_TABLE = 32,
       QCOW2_OL_INACTIVE_L1 = 64, QCOW2_OL_INACTIVE_L2 = 128, QCOW2_OL_BITMAP_DIRECTORY = 256,
       QCOW2_OL_ALL = 511 };

/*
 * The hook for encryption (crypto.c fills it in when the image is encrypted): whole sectors of 512
 * bytes, in place.  @offset: the host offset of the data for LUKS, the guest offset for the old AES
 * method.  Called in worker threads, several at once.  0 or -errno.
 */
typedef struct Qcow2Crypto {
    int (*encrypt)(void *opaque, uint64_t offset, uint8_t *data, size_t bytes);
    int (*decrypt)(void *opaque, uint64_t offset, uint8_t *data, size_t bytes);
    void (*free)(void *opaque);
    void *opaque;
    bool by_guest_offset;
} Qcow2Crypto;

typedef struct Qcow2Frees Qcow2Frees;      /* free.c */
typedef struct Qcow2Overlap Qcow2Overlap;  /* overlap.c */
typedef struct Qcow2Touched Qcow2Touched;  /* touched.c */
typedef struct Qcow2Journal Qcow2Journal;  /* journal.h */
typedef struct Qcow2Sums Qcow2Sums;        /* checksums.h */

typedef struct Qcow2 {
    BlockNode *node, *file;
    BlockNode *data_file;                  /* where data clusters are: file, or the external file */

    /* Constant while the image is open, or changed under the exclusive gate. */
    Qcow2Header header;
    unsigned cluster_bits;
    uint64_t cluster_size;
    bool extended_l2, has_data_file, data_file_raw, writable;
    bool for_check;                        /* opened to be checked: nothing is written unless it is repaired */
    unsigned l2_entry_bytes, l2_bits;      /* entries in an L2 table: 1 << l2_bits */
    unsigned subcluster_bits;              /* as cluster_bits without extended L2 */
    unsigned refcount_bits;
    uint64_t refcount_max;
    unsigned refblock_bits;                /* entries in a refcount block: 1 << refblock_bits */
    uint64_t *l1;                          /* header.l1_size entries; atomic, host byte order */
    GArray *snapshots;                     /* of Qcow2Snapshot */
    uint64_t snapshot_table_bytes;         /* on disk */
    Qcow2Crypto crypto;
    json_object *crypto_info;              /* for ImageInfo; owned; NULL: not encrypted */
    bool discard_passes[QCOW2_DISCARD__COUNT], discard_no_unref;
    unsigned overlap_mask;
    bool file_grows;                       /* writes past the file's end make it longer, with zeroes */
    uint64_t bitmaps_offset, bitmaps_length;   /* "Bitmaps extension": the directory; 0: none */

    /* Caches. */
    Qcow2Cache l2_cache, refcount_cache;
    uint64_t cache_clean_seconds;
    LoopTimer clean_timer;

    /* The gate. */
    BlockCells cells;                      /* of Qcow2Cell */
    gint epoch;                            /* atomic */
    gint exclusive;                        /* atomic: somebody is, or waits to be, alone */
    pthread_mutex_t gate_mutex;
    Qcow2Waiter *exclusive_waiter, *gate_waiters;   /* gate_mutex */
    CoMutex exclusive_lock;                /* one at a time */
    gint exclusive_turns;                  /* atomic: how often somebody was alone */

    pthread_mutex_t range_mutex;
    Qcow2Range *ranges;                    /* range_mutex */

    /* L1 and refcount table: entries change under table_mutex, as do the dirty marks. */
    CoMutex l1_lock;                       /* making an L2 table */
    pthread_mutex_t table_mutex;
    GHashTable *l1_dirty, *reftable_dirty; /* of parts, as the checkpoint writes them */
    gint tables_dirty;                     /* atomic: parts dirty or being written */

    CoMutex alloc_lock;                    /* refcounts and what follows */
    uint64_t *reftable;                    /* host byte order; also under table_mutex to change */
    uint64_t reftable_size;                /* entries */
    uint64_t busy_first, busy_end;         /* host clusters whose counts are just being changed: not to
                                              be taken for refcount blocks; busy_end 0: none */
    bool reftable_grows;                   /* has entries in memory that the one on disk lacks */
    uint64_t free_hint;                    /* no cluster before it is free */
    uint64_t fresh;                        /* host offset: the file was never written from here on;
                                              atomic: read without the lock, too */
    uint64_t byte_offset;                  /* next free byte of a cluster for compressed data; 0: none */

    CoMutex flush_lock;                    /* one checkpoint at a time */
    Qcow2Frees *frees;
    Qcow2Overlap *overlap;
    Qcow2Journal *journal;                 /* changes under the exclusive gate; NULL: none */
    Qcow2Sums *sums;                       /* changes under the exclusive gate; NULL: none */
    Qcow2Touched *touched;                 /* changes under the exclusive gate; NULL: nobody asks */
    gint scrubbing;                        /* atomic: a scrub is under way */

    CoMutex grow_lock;                     /* making a file longer that does not grow by itself */
    gint corrupt;                          /* atomic: no more writing */
    gint autoclear_done;                   /* atomic */
    pthread_mutex_t warn_mutex;
    int64_t warned_ns;                     /* warn_mutex */
} Qcow2;

static inline Qcow2 *qcow2_of(BlockNode *node)
{
    return block_node_state(node);
}
static inline uint64_t qcow2_clusters(const Qcow2 *s, uint64_t bytes)   /* rounded up */
{
    return (bytes >> s->cluster_bits) + ((bytes & (s->cluster_size - 1)) != 0);
}
static inline uint64_t qcow2_offset_in_cluster(const Qcow2 *s, uint64_t offset)
{
    return offset & (s->cluster_size - 1);
}
/* The backing node as the graph has it now: it changes while requests stand still. */
static inline BlockNode *qcow2_backing(const Qcow2 *s)
{
    return block_node_child(s->node, "backing");
}
/* Guest bytes that one L2 table covers: 1 << this. */
static inline unsigned qcow2_l2_cover_bits(const Qcow2 *s)
{
    return s->cluster_bits + s->l2_bits;
}

static inline void qcow2_set_refcount_order(Qcow2 *s, unsigned order)
{
    s->header.refcount_order = order;
    s->refcount_bits = 1u << order;
    s->refcount_max = order == 6 ? INT64_MAX : (1ull << s->refcount_bits) - 1;
    s->refblock_bits = s->cluster_bits + 3 - order;
}

/* gate.c.  A request enters and leaves; what it looked up in L2 tables is good in between. */
Qcow2Ticket co_fn qcow2_enter(Qcow2 *s);
Qcow2Ticket co_fn qcow2_enter_upkeep(Qcow2 *s);
void qcow2_leave(Qcow2 *s, Qcow2Ticket *ticket);
/* Waits until no request is under way, and keeps new ones away.  Not inside a request. */
void co_fn qcow2_exclusive_begin(Qcow2 *s);
void qcow2_exclusive_end(Qcow2 *s);
/* The same in parts: nobody else can be alone from reserve to release; requests stand still between
 * close and open. */
void co_fn qcow2_exclusive_reserve(Qcow2 *s);
void co_fn qcow2_gate_close(Qcow2 *s);
void qcow2_gate_open(Qcow2 *s);
void qcow2_exclusive_release(Qcow2 *s);
/* Starts a new epoch if the one before the present one has ended; true: all requests that
 * entered before epoch @since + 1 began are over. */
bool qcow2_epoch_passed(Qcow2 *s, int since);

/* range.c.  Keeps others from changing the mapping of guest clusters [first, end). */
void co_fn qcow2_range_lock(Qcow2 *s, Qcow2Range *range, uint64_t first, uint64_t end);
void qcow2_range_unlock(Qcow2 *s, Qcow2Range *range);

/* Host I/O on metadata.  @what: "L1 table": for the message, which tells the offset, too.  Reads past
 * the end of the file give zeroes.  Writing checks for overlaps first: @own has the QCOW2_OL_ kinds
 * that the write is meant for (0: a new cluster). */
int co_fn qcow2_meta_read(Qcow2 *s, uint64_t offset, void *buffer, uint64_t bytes, const char *what,
                          GError **error);
int co_fn qcow2_meta_write(Qcow2 *s, uint64_t offset, const void *buffer, uint64_t bytes,
                           const char *what, unsigned own, GError **error);
int co_fn qcow2_meta_writev(Qcow2 *s, uint64_t offset, const struct iovec *iov, int iovcnt,
                            uint64_t bytes, const char *what, unsigned own, GError **error);
int co_fn qcow2_flush_file(Qcow2 *s, GError **error);   /* of `file`: a barrier between writes */
/* Host I/O on data, in data_file; no encryption. */
int co_fn qcow2_data_read(Qcow2 *s, uint64_t offset, const struct iovec *iov, int iovcnt,
                          uint64_t bytes);
int co_fn qcow2_data_write(Qcow2 *s, uint64_t offset, const struct iovec *iov, int iovcnt,
                           uint64_t bytes, unsigned flags);
/* Makes host bytes read as zeroes. */
int co_fn qcow2_host_zero(Qcow2 *s, BlockNode *file, uint64_t offset, uint64_t bytes);
/* Memory that suits O_DIRECT; free(); NULL: none left. */
void *qcow2_memory(Qcow2 *s, uint64_t bytes);

/* Corruption: no more writes to the image from now on, the corrupt bit set in the header, the event
 * BLOCK_IMAGE_CORRUPTED, a message.  @fatal false (reads of read-only images): message and event
 * only.  @offset, @size: where; UINT64_MAX, 0: nowhere.  Returns -EIO. */
int co_fn qcow2_corruption(Qcow2 *s, bool fatal, uint64_t offset, uint64_t size, const char *format,
                           ...) G_GNUC_PRINTF(5, 6);
/* -EIO if the image may not be written: corrupt; -EPERM: read-only. */
int qcow2_may_write(Qcow2 *s);

/* group.c.  Coroutines of the calling one's loop that work for it, at most @max at once.  Each ends by
 * qcow2_group_done; wait returns the first failure. */
typedef struct Qcow2Group {
    unsigned running, max;
    int ret;
    Coroutine *waiter;
} Qcow2Group;
void co_fn qcow2_group_start(Qcow2Group *group, CoroutineFn *fn, void *opaque);
void qcow2_group_done(Qcow2Group *group, int ret);
int co_fn qcow2_group_wait(Qcow2Group *group);

/* cache.c.  Slices of metadata clusters.  get: waits for loading; returns with the slice's shard
 * locked, so do little until put.  NULL: failed, *ret_err is -errno.  @error may be NULL. */
void qcow2_cache_init(Qcow2Cache *cache, Qcow2 *s, const char *what, uint64_t slice_bytes,
                      uint64_t bytes);
void qcow2_cache_free(Qcow2Cache *cache);  /* dirty ones are lost */
Qcow2Slice *co_fn qcow2_cache_get(Qcow2Cache *cache, uint64_t offset, int *ret_err);
Qcow2Slice *qcow2_cache_try(Qcow2Cache *cache, uint64_t offset);   /* NULL: not in memory */
void qcow2_cache_put(Qcow2Cache *cache, Qcow2Slice *slice, bool dirty);
/* Forgets clean and dirty slices of [offset, offset + bytes): it has another meaning now. */
void qcow2_cache_drop(Qcow2Cache *cache, uint64_t offset, uint64_t bytes);
/* Under the exclusive gate, after a checkpoint: forgets all, so that tables may be read and written
 * with qcow2_meta_read and _write. */
void qcow2_caches_forget(Qcow2 *s);
void qcow2_cache_clean(Qcow2Cache *cache); /* forgets clean slices not used since the last time */
/* Dirty slices' copies for writing; those slices count as being written until qcow2_cache_written. */
typedef struct Qcow2Copy {
    uint64_t offset, bytes;                /* host */
    uint8_t *data;
    bool written;
} Qcow2Copy;
GArray *qcow2_cache_copy_dirty(Qcow2Cache *cache);      /* of Qcow2Copy, by offset */
void qcow2_cache_written(Qcow2Cache *cache, GArray *copies);   /* those not written are dirty again */

/* checkpoint.c.  All metadata changed so far, and the data it points to, on stable storage; then what
 * it freed is on its way to be reused.  Holds no lock when called. */
int co_fn qcow2_checkpoint(Qcow2 *s);
/* The refcounts alone (and the blocks and table they are in), with the flush after them. */
int co_fn qcow2_write_refcounts(Qcow2 *s);
void qcow2_mark_l1(Qcow2 *s, uint64_t index, uint64_t value);          /* sets and marks dirty */
void qcow2_mark_reftable(Qcow2 *s, uint64_t index, uint64_t value);
/* Between requests: checkpoint and frees if too much waits in memory. */
bool qcow2_pressure(Qcow2 *s);
void co_fn qcow2_relieve(Qcow2 *s);

/* The file was written, or is about to be, up to @offset.  Under alloc_lock. */
static inline void qcow2_not_fresh(Qcow2 *s, uint64_t offset)
{
    if (offset > s->fresh)
        __atomic_store_n(&s->fresh, offset, __ATOMIC_RELAXED);
}

/* refcount.c.  Under alloc_lock, unless said otherwise.  @cluster: host cluster index. */
int co_fn qcow2_refcount_get(Qcow2 *s, uint64_t cluster, uint64_t *ret);
/* Adds @delta (±) to each cluster that the host bytes touch; on failure none is changed.  Clusters
 * that become 0 are free at once: for what was in an L2 table use qcow2_free_later. */
int co_fn qcow2_refcount_add(Qcow2 *s, uint64_t offset, uint64_t bytes, int64_t delta,
                             GError **error);
uint64_t qcow2_refcount_read(const Qcow2 *s, const uint8_t *block, uint64_t index);
void qcow2_refcount_write(const Qcow2 *s, uint8_t *block, uint64_t index, uint64_t value);

/* alloc.c.  Take alloc_lock themselves.  Refcounts are raised in memory; a checkpoint, or
 * qcow2_write_refcounts, makes them stable.  Host offset, or -errno. */
int64_t co_fn qcow2_alloc_clusters(Qcow2 *s, uint64_t n, GError **error);   /* in a row */
/* Up to @want clusters in a row; *ret_n: how many.  *ret_fresh: they read as zeroes. */
int64_t co_fn qcow2_alloc_run(Qcow2 *s, uint64_t want, uint64_t *ret_n, bool *ret_fresh);
/* Bytes for compressed data: shares clusters. */
int64_t co_fn qcow2_alloc_bytes(Qcow2 *s, uint64_t bytes);
/* What nobody ever could see (an allocation that came to nothing). */
void co_fn qcow2_free_now(Qcow2 *s, uint64_t offset, uint64_t bytes);

/* The first free cluster from @cluster on.  Under alloc_lock. */
int co_fn qcow2_next_free(Qcow2 *s, uint64_t cluster, uint64_t *ret);

/* free.c.  Drops a reference to each cluster that the bytes touch, once what pointed there is
 * off stable storage (a checkpoint) and no request uses them any more.  Any lock may be held. */
void qcow2_free_later(Qcow2 *s, uint64_t offset, uint64_t bytes, Qcow2Discard kind);
/* Does what is due; waits for no request. */
void co_fn qcow2_reap(Qcow2 *s);
unsigned qcow2_frees_waiting(Qcow2 *s);    /* for a checkpoint */
/* For the checkpoint: what was freed so far; stable: it is off the disk; else it is put back. */
GArray *qcow2_frees_take(Qcow2 *s);
void qcow2_frees_give(Qcow2 *s, GArray *runs, bool stable);
void qcow2_frees_init(Qcow2 *s);
void qcow2_frees_free(Qcow2 *s);
void qcow2_frees_forget(Qcow2 *s);         /* what waits is never given back: a leak */
/* open.c.  Under the exclusive gate: the L1 and the refcount table are what the disk says, whatever was
 * to be written. */
int co_fn qcow2_tables_reread(Qcow2 *s, GError **error);
/* Under the exclusive gate: checkpoint and all frees. */
int co_fn qcow2_settle(Qcow2 *s);
/* Under the exclusive gate: all that waits to be freed counts as touched. */
void qcow2_frees_touch(Qcow2 *s);

/* touched.c.  Host clusters whose references or counts have changed since qcow2_touched_begin, of the
 * first @clusters.  begin and end under the exclusive gate: what happened before is over, and what
 * comes later is noted.  False: no memory. */
bool qcow2_touched_begin(Qcow2 *s, uint64_t clusters);
void qcow2_touched_end(Qcow2 *s);
void qcow2_touched_note(Qcow2 *s, uint64_t offset, uint64_t bytes);
bool qcow2_is_touched(const Qcow2 *s, uint64_t cluster);
static inline void qcow2_touch(Qcow2 *s, uint64_t offset, uint64_t bytes)
{
    if (G_UNLIKELY(s->touched))
        qcow2_touched_note(s, offset, bytes);
}

/* overlap.c.  0: the write is allowed; else the corruption is reported: -EIO. */
int co_fn qcow2_check_overlap(Qcow2 *s, unsigned own, uint64_t offset, uint64_t bytes);
void qcow2_overlap_add(Qcow2 *s, unsigned kind, uint64_t offset, uint64_t bytes);
void qcow2_overlap_remove(Qcow2 *s, unsigned kind, uint64_t offset, uint64_t bytes);
/* A look without a wait: false: certainly no overlap. */
bool qcow2_overlap_hit(Qcow2 *s, uint64_t offset, uint64_t bytes);
void qcow2_overlap_init(Qcow2 *s);         /* from the tables in memory */
/* In open or under the exclusive gate: the snapshots' L2 tables, where they are wanted, are those that their L1
 * tables name.  On failure those that can be found. */
int co_fn qcow2_overlap_snapshots(Qcow2 *s, GError **error);
void qcow2_overlap_free(Qcow2 *s);

/* header.c, header-write.c */
int co_fn qcow2_header_read(Qcow2 *s, GError **error);
/* Writes a part of the header's first sector, and flushes.  If that fails the header is on stable storage as it
 * was; where that cannot be had either, the image is not written any more. */
int co_fn qcow2_header_put(Qcow2 *s, uint64_t offset, const void *data, uint64_t bytes,
                           GError **error);
/* The same with all of it: fields, extensions, feature names, backing name.  A power cut leaves one of the
 * two.  -ENOSPC: the cluster has no room for it, or for the way to it. */
int co_fn qcow2_header_write(Qcow2 *s, GError **error);
/* The same for names, which no request looks at, with the gate open: requests are held for one write at a time
 * only.  The caller is between qcow2_exclusive_reserve and _release. */
int co_fn qcow2_header_write_names(Qcow2 *s, GError **error);
/* Nobody knows what the header says: writing on by what is in memory could destroy what it names. */
void qcow2_header_give_up(Qcow2 *s);
void qcow2_header_clear(Qcow2Header *header);
GArray *qcow2_extensions_new(void);        /* of Qcow2Extension, freed with it */
/* Whether the first sector has room for @more bytes beside the extensions of bitmaps and their journal; not
 * in version 2, which has no autoclear bits there. */
bool qcow2_first_sector_has_room(const Qcow2 *s, uint64_t more);
/* An extension's data, or NULL; set replaces it (NULL: removes), header_write stores it. */
const Qcow2Extension *qcow2_extension(const Qcow2 *s, uint32_t type);
void qcow2_extension_set(Qcow2 *s, uint32_t type, const void *data, uint32_t length);
/* Sets and clears bits of incompatible_features on disk, with a flush. */
int co_fn qcow2_set_incompatible(Qcow2 *s, uint64_t set, uint64_t clear, GError **error);
int co_fn qcow2_set_autoclear(Qcow2 *s, uint64_t set, uint64_t clear, GError **error);

/* map.c.  What guest bytes are. */
typedef enum Qcow2Kind { QCOW2_UNALLOCATED, QCOW2_ZERO_PLAIN, QCOW2_ZERO_ALLOC, QCOW2_NORMAL,
                         QCOW2_KIND_COMPRESSED, QCOW2_INVALID } Qcow2Kind;
typedef struct Qcow2Extent {
    Qcow2Kind kind;
    uint64_t bytes;                        /* alike (and in a row on the host), from the guest offset */
    uint64_t host;                         /* of the first byte: NORMAL, ZERO_ALLOC */
    uint64_t entry;                        /* of the first cluster: COMPRESSED */
    bool copied;                           /* the host cluster is ours alone */
} Qcow2Extent;
int co_fn qcow2_map(Qcow2 *s, uint64_t guest, uint64_t bytes, Qcow2Extent *extent);
/* A compressed entry's data: where, and at most how many bytes. */
void qcow2_compressed_place(const Qcow2 *s, uint64_t entry, uint64_t *ret_offset,
                            uint64_t *ret_bytes);

/* What a subcluster (the whole cluster where there are none) is by its entry. */
Qcow2Kind qcow2_kind(const Qcow2 *s, uint64_t entry, uint64_t bitmap, unsigned subcluster);
/* The host offset in a standard or extended entry; false: it has none. */
bool qcow2_entry_host(const Qcow2 *s, uint64_t entry, uint64_t *ret_host);

/* l2.c */
/* Entries in a slice, and which of them @guest's is. */
static inline uint64_t qcow2_slice_entries(const Qcow2 *s)
{
    return (1ull << s->l2_cache.slice_bits) / s->l2_entry_bytes;
}
static inline uint64_t qcow2_slice_index(const Qcow2 *s, uint64_t guest)
{
    return (guest >> s->cluster_bits) & (qcow2_slice_entries(s) - 1);
}
/* The L2 slice for @guest in the table at @table. */
static inline uint64_t qcow2_slice_offset(const Qcow2 *s, uint64_t table, uint64_t guest)
{
    uint64_t index = (guest >> s->cluster_bits) & ((1ull << s->l2_bits) - 1);

    return table + (index * s->l2_entry_bytes >> s->l2_cache.slice_bits << s->l2_cache.slice_bits);
}
/* Guest bytes that a slice covers: 1 << this. */
static inline unsigned qcow2_slice_cover_bits(const Qcow2 *s)
{
    return s->cluster_bits + s->l2_cache.slice_bits - (s->l2_entry_bytes == 16 ? 4 : 3);
}
/* An L1 entry's table: 0: none.  -EIO: it is corrupt. */
int co_fn qcow2_l1_table(Qcow2 *s, uint64_t index, uint64_t *ret_table, bool *ret_copied);
/* The L2 slice for @guest, to be changed: makes or copies the table if needed.  Shard locked. */
Qcow2Slice *co_fn qcow2_l2_for_write(Qcow2 *s, uint64_t guest, int *ret_err);
uint64_t qcow2_l2_entry(const Qcow2 *s, const Qcow2Slice *slice, uint64_t guest);
uint64_t qcow2_l2_bitmap(const Qcow2 *s, const Qcow2Slice *slice, uint64_t guest);
void qcow2_l2_set(const Qcow2 *s, Qcow2Slice *slice, uint64_t guest, uint64_t entry,
                  uint64_t bitmap);
/* Drops what an entry refers to. */
void qcow2_free_entry(Qcow2 *s, uint64_t entry, Qcow2Discard kind);
/* L1 of at least @entries; under the exclusive gate. */
int co_fn qcow2_grow_l1(Qcow2 *s, uint64_t entries, GError **error);

/* io.c.  The disk's bytes, also past its end (VM state lies there), as far as L1 reaches; the caller
 * has passed the gate, or is alone. */
int co_fn qcow2_guest_read(Qcow2 *s, uint64_t guest, const struct iovec *iov, int iovcnt,
                           uint64_t bytes);
int co_fn qcow2_guest_write(Qcow2 *s, uint64_t guest, const struct iovec *iov, int iovcnt,
                            uint64_t bytes);
int co_fn qcow2_guest_discard(Qcow2 *s, uint64_t guest, uint64_t bytes, Qcow2Discard kind,
                              bool unref);

/*
 * Whole images: what is done to one beside reading and writing its bytes.  A format fills in a
 * BlockImageVerbs table beside its BlockDriver; an absent verb is refused with an error that names
 * the driver.  The functions here are what the image tool, QMP commands and jobs call.
 *
 * Threads: co_ functions run in a coroutine of the main loop unless said otherwise; the graph does
 * not change meanwhile, and whoever calls holds a BlockUser on the node with the permissions that
 * the work needs (check with fix, snapshots and amend: BLOCK_PERM_WRITE, nobody else writing).
 */
#pragma once
#include "block/driver.h"

/* Creation.  Options of a format as `-o` spells them ("cluster_size"); over QMP they are spelled
 * with dashes ("cluster-size", BlockdevCreateOptions), which is also what co_create gets. */
typedef enum BlockCreateKind { BLOCK_CREATE_BOOL, BLOCK_CREATE_SIZE, BLOCK_CREATE_NUMBER,
                               BLOCK_CREATE_STRING } BlockCreateKind;
typedef struct BlockCreateOption {
    const char *name;                      /* "cluster_size"; NULL ends a table */
    BlockCreateKind kind;
    const char *fallback;                  /* what it is when not given, as text; NULL: nothing */
    const char *help;
    bool amendable;                        /* `amend -o` takes it, too */
    const char *qmp_name;                  /* where it is not name with dashes ("version": "compat") */
} BlockCreateOption;

/* What check found, and mended. */
enum { BLOCK_FIX_LEAKS = 1, BLOCK_FIX_ERRORS = 2 };
typedef struct BlockCheck {
    uint64_t check_errors;                 /* places that could not be read */
    uint64_t corruptions, leaks;           /* found, and still there at the end */
    uint64_t corruptions_fixed, leaks_fixed;
    uint64_t total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
    uint64_t image_end_offset;             /* bytes; 0: the format does not say */
    /* One line for a person for each thing found ("ERROR cluster 5 refcount=0 reference=1"). */
    void (*report)(const char *line, void *opaque);
    void *opaque;
} BlockCheck;

/* A check while the image is in use; and what its plan for a repair says, done.  The numbers are of host
 * clusters, unless said otherwise; those of the last walk when the scrub has ended. */
typedef struct BlockScrub BlockScrub;
struct BlockScrub {
    json_object *apply;                    /* BlockScrubPlan to be carried out; NULL: look only */
    /* Between two steps, the last of which read so many bytes: may wait.  False: the scrub ends. */
    bool co_fn (*pace)(BlockScrub *scrub, uint64_t bytes);
    void *opaque;
    uint64_t done, total;                  /* bytes of metadata */
    uint64_t cluster_size;                 /* bytes */
    uint64_t live;                         /* referred to */
    uint64_t reusable;                     /* free, but in the file */
    uint64_t leaked;                       /* count higher than references */
    uint64_t changing;                     /* changed meanwhile: nothing is known of them */
    uint64_t errors, unreadable;           /* entries, counts, flags; tables */
    uint64_t applied, refused;             /* acts */
    json_object *findings;                 /* array of BlockScrubFinding; owned */
    json_object *plan;                     /* BlockScrubPlan; owned */
    uint64_t findings_left_out, acts_left_out;          /* beyond what is kept */
};
void block_scrub_clear(BlockScrub *scrub);
json_object *block_scrub_info(const BlockScrub *scrub);     /* BlockScrubInfo */

/* Bytes that a new image of a driver needs for a disk (measure). */
typedef struct BlockMeasure {
    uint64_t required, fully_allocated;    /* bytes */
    uint64_t bitmaps;                      /* bytes for the source's persistent bitmaps */
    bool has_bitmaps;
} BlockMeasure;

/* Space for bytes that are not written yet: preallocation=. */
typedef enum BlockPrealloc { BLOCK_PREALLOC_OFF, BLOCK_PREALLOC_METADATA, BLOCK_PREALLOC_FALLOC,
                             BLOCK_PREALLOC_FULL } BlockPrealloc;
extern const char *const block_prealloc_words[];        /* "off", "metadata", "falloc", "full" */

typedef struct BlockSnapshot {
    char *id, *name;                       /* owned; id: what the format calls it ("1") */
    uint64_t vm_state_size, disk_size;     /* bytes */
    uint64_t date_sec, date_nsec;          /* when it was taken, Unix time */
    uint64_t vm_clock_nsec;                /* how long the guest had run */
    uint64_t icount;                       /* UINT64_MAX: none */
} BlockSnapshot;
void block_snapshot_free(BlockSnapshot *snapshot);
json_object *block_snapshot_describe(const BlockSnapshot *snapshot);   /* QMP's SnapshotInfo */

struct BlockImageVerbs {
    const BlockCreateOption *create_options;
    const BlockCreateOption *amend_options;             /* that only amend takes; NULL: none */
    /* @options: BlockdevCreateOptions of this driver, checked against create_options' kinds; `file`
     * names a node that is open for writing (formats), or is `filename` (protocols). */
    int co_fn (*co_create)(BlockGraph *graph, json_object *options, GError **error);
    /* Protocols: the file is gone from its storage; the node that shows it is only good for closing. */
    int co_fn (*co_delete)(BlockNode *node, GError **error);
    /* Takes space for a range that reads as zeroes, as after growing. */
    int co_fn (*co_preallocate)(BlockNode *node, uint64_t offset, uint64_t bytes, BlockPrealloc how,
                                GError **error);
    /* @source: NULL: an empty disk of the size in @options. */
    int co_fn (*co_measure)(json_object *options, BlockNode *source, BlockMeasure *measure,
                            GError **error);
    int co_fn (*co_check)(BlockNode *node, BlockCheck *check, unsigned fix, GError **error);
    int co_fn (*co_scrub)(BlockNode *node, BlockScrub *scrub, GError **error);
    int co_fn (*co_amend)(BlockNode *node, json_object *options, bool force, GError **error);
    /* Writes another backing file's name into the image; NULL: none.  The graph stays as it is. */
    int co_fn (*co_set_backing)(BlockNode *node, const char *filename, const char *format,
                                GError **error);
    /* All that the image has above its backing file becomes unallocated. */
    int co_fn (*co_make_empty)(BlockNode *node, GError **error);

    /* Internal snapshots; found by id, else by name. */
    GPtrArray *(*snapshots)(BlockNode *node);           /* of BlockSnapshot; owned by the caller */
    int co_fn (*co_snapshot_create)(BlockNode *node, BlockSnapshot *snapshot, GError **error);
    int co_fn (*co_snapshot_goto)(BlockNode *node, const char *id_or_name, GError **error);
    int co_fn (*co_snapshot_delete)(BlockNode *node, const char *id_or_name, GError **error);
    /* The node shows a snapshot from now on; it must be read-only. */
    int co_fn (*co_snapshot_load)(BlockNode *node, const char *id_or_name, GError **error);
    /* The VM state area that the next snapshot takes along. */
    int co_fn (*co_read_vmstate)(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                 int iovcnt, uint64_t bytes);
    int co_fn (*co_write_vmstate)(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                  int iovcnt, uint64_t bytes);

    /* Persistent dirty bitmaps (block/bitmap.h).  They are read when the image is opened and stored
     * when it is closed, becomes read-only, or is handed to another process. */
    bool (*can_store_bitmap)(BlockNode *node, const char *name, uint32_t granularity,
                             GError **error);
    int co_fn (*co_remove_bitmap)(BlockNode *node, const char *name, GError **error);
    /* What was changed in bitmaps other than by writes to the node is to survive a crash, too. */
    int co_fn (*co_sync_bitmaps)(BlockNode *node, GError **error);
};

/*
 * Makes an image file as `create` does: a file of that name, then the format in it.  @options: as -o
 * spells them, those of the format and of the protocol side by side, "size" among them; without it a
 * backing file's is taken.  "data_file" is made, too, and reaches co_create as the name of an open
 * node.  A file that was made is removed if the format fails.  Waits.
 */
bool block_image_create(BlockGraph *graph, const char *format, const char *filename,
                        json_object *options, GError **error);
/* The same from BlockdevCreateOptions ("driver" and its members): blockdev-create. */
int co_fn block_co_create(BlockGraph *graph, json_object *options, GError **error);
/* The same for a format's node that is open for writing, if a tool or command resizes it. */
int co_fn block_co_preallocate(BlockNode *node, uint64_t offset, uint64_t bytes, BlockPrealloc how,
                               GError **error);
/* Opens an image by its name; @format: NULL: looked for in its first bytes.  @options: further members
 * for the format's node ("read-only", "cache", …; "backing": null, "x-check", "x-header-only", which
 * are left out where the format does not know them); may be NULL.  The caller owns a reference
 * (block_node_put).  Waits. */
BlockNode *block_image_open(BlockGraph *graph, const char *filename, const char *format,
                            json_object *options, GError **error);
/* The same with the protocol's node given by its options, as block_filename_options makes them. */
BlockNode *block_image_open_on(BlockGraph *graph, json_object *protocol, const char *format,
                               json_object *options, GError **error);
/* The same by the options of the node, as --image-opts and "json:{…}" give them: without a driver,
 * the first bytes of its file tell; a file may be a name, or have one and no driver.  @format, if
 * given, goes before its driver; other members before those of @options. */
BlockNode *block_image_open_as(BlockGraph *graph, json_object *whole, const char *format,
                               json_object *options, GError **error);
/* An overlay on @below for a while (QEMU's snapshot=on): what is written goes into a file in $TMPDIR
 * (else /var/tmp) that has no name any more.  @name: of its node; NULL: made up.  Takes the caller's
 * reference of @below over, also when it fails; the caller owns the result.  Waits. */
BlockNode *block_image_add_temporary(BlockGraph *graph, BlockNode *below, const char *name,
                                     GError **error);
void block_node_put(BlockNode *node);      /* NULL is fine; waits */
/* The format by the first bytes; fails for one that is not in this build. */
const char *co_fn block_node_probe_format(BlockNode *file, GError **error);

/* -o's words as BlockdevCreateOptions' members; unknown ones are refused by name. */
json_object *block_create_options_parse(const char *format, json_object *options, GError **error);

/* The same for amend. */
json_object *block_amend_options_parse(const char *format, json_object *options, GError **error);

int co_fn block_co_measure(const char *format, json_object *options, BlockNode *source,
                           BlockMeasure *measure, GError **error);
int co_fn block_co_check(BlockNode *node, BlockCheck *check, unsigned fix, GError **error);
int co_fn block_co_scrub(BlockNode *node, BlockScrub *scrub, GError **error);
int co_fn block_co_amend(BlockNode *node, json_object *options, bool force, GError **error);
/* After a change of bitmaps that is no write: if there are persistent ones, they are stored.  A failure
 * is told, and costs them after a crash. */
void co_fn block_co_sync_bitmaps(BlockNode *node);
int co_fn block_co_set_backing(BlockNode *node, const char *filename, const char *format,
                               GError **error);
int co_fn block_co_make_empty(BlockNode *node, GError **error);
GPtrArray *block_snapshots(BlockNode *node);            /* empty where the driver has none */
/* The first of them with that id and name; NULL: any.  Borrowed; NULL: there is none. */
const BlockSnapshot *block_snapshot_find(const GPtrArray *all, const char *id, const char *name);
bool block_node_has_snapshots(BlockNode *node);         /* whether the driver, or what it filters, can */
int co_fn block_co_snapshot_create(BlockNode *node, BlockSnapshot *snapshot, GError **error);
int co_fn block_co_snapshot_goto(BlockNode *node, const char *id_or_name, GError **error);
int co_fn block_co_snapshot_delete(BlockNode *node, const char *id_or_name, GError **error);
int co_fn block_co_snapshot_load(BlockNode *node, const char *id_or_name, GError **error);
int co_fn block_co_read_vmstate(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                                uint64_t bytes);
int co_fn block_co_write_vmstate(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                 int iovcnt, uint64_t bytes);

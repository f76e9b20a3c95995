/*
 * The filter above a mirror's source (mirror-filter.h).
 *
 * The job reads a piece while nobody waits, and holds its range only while it writes it to the target
 * (in the filter's list of writes).  A guest's write that comes in between goes to both sides; what it
 * wrote is put into what the job has read, too (a patch), so that the job does not take it back.
 */
#include "block/jobs/mirror-filter.h"
#include "block/change.h"
#include "block/iov.h"
#include "block/jobs/copy.h"
#include "block/node.h"
#include "src/base/util.h"
#include <errno.h>
#include <string.h>

typedef struct Patch {
    uint64_t offset, bytes;
    uint8_t data[];
} Patch;

/* What the job is about to read, or has read and not written yet. */
typedef struct Piece {
    uint64_t offset, bytes;
    GSList *patches;                       /* of Patch, the newest first */
    struct Piece *next;
} Piece;

typedef struct MirrorFilter {
    BlockNode *file, *target;              /* target: held by the job; NULL: not active */
    BlockBitmap *dirty;
    gint failure;                          /* atomic; -errno */
    pthread_mutex_t lock;                  /* for the rest */
    Piece *pieces;
    unsigned marked;                       /* how often block_mirror_filter_mark was called */
} MirrorFilter;

static const char *const mirror_filter_options[] = { "file", NULL };

static bool co_fn mirror_filter_open(BlockNode *node, json_object *options, GError **error)
{
    MirrorFilter *filter = block_node_state(node);

    filter->file = block_node_open_child(node, options, "file", true, error);
    if (!filter->file)
        return false;
    pthread_mutex_init(&filter->lock, NULL);
    block_node_set_transparent(node, true);
    return true;
}

static void co_fn mirror_filter_close(BlockNode *node)
{
    pthread_mutex_destroy(&((MirrorFilter *)block_node_state(node))->lock);
}

static void mirror_filter_child_changed(BlockNode *node, const char *key)
{
    ((MirrorFilter *)block_node_state(node))->file = block_node_file(node);
}

void block_mirror_filter_activate(BlockNode *node, BlockNode *target, BlockBitmap *dirty)
{
    MirrorFilter *filter = block_node_state(node);

    filter->target = target;
    filter->dirty = dirty;
    block_node_set_transparent(node, !target);
}

int block_mirror_filter_failure(BlockNode *node)
{
    MirrorFilter *filter = block_node_state(node);

    return __atomic_exchange_n(&filter->failure, 0, __ATOMIC_SEQ_CST);
}

/* The job's side. */

void block_mirror_filter_mark(BlockNode *node, BlockBitmap *dirty, uint64_t offset, uint64_t bytes)
{
    MirrorFilter *filter = block_node_state(node);

    pthread_mutex_lock(&filter->lock);
    block_bitmap_mark(dirty, offset, bytes);
    filter->marked++;
    pthread_mutex_unlock(&filter->lock);
}

static void add_piece(MirrorFilter *filter, Piece *piece)
{
    pthread_mutex_lock(&filter->lock);
    piece->next = filter->pieces;
    filter->pieces = piece;
    pthread_mutex_unlock(&filter->lock);
}

/* No write to it is under way any more, or nothing was read. */
static GSList *remove_piece(MirrorFilter *filter, Piece *piece)
{
    Piece **at = &filter->pieces;

    pthread_mutex_lock(&filter->lock);
    while (*at != piece)
        at = &(*at)->next;
    *at = piece->next;
    pthread_mutex_unlock(&filter->lock);
    return g_slist_reverse(piece->patches);
}

/* They are of a longer piece, if less was read than was asked for. */
static void apply(BlockCopy *copy, const GSList *patches)
{
    for (; patches; patches = patches->next) {
        const Patch *patch = patches->data;
        uint64_t at = patch->offset - copy->offset;

        if (at < copy->bytes)
            memcpy(copy->data + at, patch->data, MIN(patch->bytes, copy->bytes - at));
    }
}

static int co_fn write_piece(BlockNode *node, const BlockMirrorCopy *what, BlockCopy *copy,
                             const GSList *patches)
{
    if (copy->kind != BLOCK_COPY_DATA && patches) {
        block_mirror_filter_mark(node, what->dirty, copy->offset, copy->bytes);
        return 0;                          /* no zeroes any more: later, then */
    }
    apply(copy, patches);
    return block_copy_write(copy, what->target, copy->offset, copy->bytes, what->flags);
}

int co_fn block_mirror_filter_copy(BlockNode *node, const BlockMirrorCopy *what, uint64_t offset,
                                   uint64_t *bytes, bool *ret_is_read)
{
    MirrorFilter *filter = block_node_state(node);
    Piece piece = { .offset = offset, .bytes = *bytes };
    BlockRange *range = NULL;
    GSList *patches;
    BlockCopy copy;
    int ret;

    add_piece(filter, &piece);
    *ret_is_read = true;
    ret = block_copy_read(what->source, offset, *bytes, 1, &copy);
    *bytes = copy.bytes;
    if (ret == 0)
        range = block_range_lock(node, offset, copy.bytes, true);
    patches = remove_piece(filter, &piece);
    if (ret == 0) {
        *ret_is_read = false;
        ret = write_piece(node, what, &copy, patches);
        block_range_unlock(range);
    }
    g_slist_free_full(patches, g_free);
    block_copy_clear(&copy);
    return ret;
}

/* A guest's write, or flush, to both sides. */
typedef struct Both {
    enum { WRITE, ZERO, DISCARD, FLUSH } what;
    uint64_t offset, bytes;
    const struct iovec *iov;
    int iovcnt;
    unsigned flags;
} Both;

static int co_fn do_one(BlockNode *node, const Both *w)
{
    switch (w->what) {
    case WRITE:
        return block_node_co_write(node, w->offset, w->iov, w->iovcnt, w->bytes, w->flags);
    case ZERO:
        return block_node_co_zero(node, w->offset, w->bytes, w->flags);
    case DISCARD:
        return block_node_co_discard(node, w->offset, w->bytes);
    case FLUSH:
        return block_node_co_flush(node);
    }
    return -EINVAL;
}

typedef struct TargetRun {
    BlockNode *target;
    const Both *w;
    int ret;
    bool done;
    Coroutine *waiter;
} TargetRun;

static void co_fn target_run(void *opaque)
{
    TargetRun *run = opaque;

    run->ret = do_one(run->target, run->w);
    run->done = true;
    if (run->waiter)
        co_wake(run->waiter);
}

/* Side by side.  What the target refuses is the job's trouble, not the guest's. */
static int co_fn do_both(MirrorFilter *filter, const Both *w, bool *ret_copied)
{
    TargetRun run = { .target = filter->target, .w = w };
    gint ok = 0;
    int ret;

    co_start(target_run, &run);
    ret = do_one(filter->file, w);
    run.waiter = co_self();
    while (!run.done)
        co_yield();
    *ret_copied = ret == 0 && run.ret == 0;
    if (run.ret < 0)
        __atomic_compare_exchange_n(&filter->failure, &ok, run.ret, false, __ATOMIC_SEQ_CST,
                                    __ATOMIC_SEQ_CST);
    return ret;
}

/* Under the lock. */
static void patch(Piece *piece, const Both *w)
{
    uint64_t start = MAX(piece->offset, w->offset);
    uint64_t end = MIN(piece->offset + piece->bytes, w->offset + w->bytes);
    Patch *new;

    if (start >= end)
        return;
    new = g_malloc0(sizeof(Patch) + (end - start));
    new->offset = start;
    new->bytes = end - start;
    if (w->what == WRITE)
        iov_to_buffer(w->iov, w->iovcnt, start - w->offset, new->data, new->bytes);
    piece->patches = g_slist_prepend(piece->patches, new);
}

static void patch_pieces(MirrorFilter *filter, const Both *w)
{
    pthread_mutex_lock(&filter->lock);
    for (Piece *piece = filter->pieces; piece; piece = piece->next)
        patch(piece, w);
    pthread_mutex_unlock(&filter->lock);
}

/* Of a write's granules those at both ends are alike on both sides after it only if they were before. */
typedef struct Ends {
    uint64_t start, end;                   /* granules */
    bool head_clean, tail_clean;
    unsigned marked;
} Ends;

static bool is_clean(const MirrorFilter *filter, uint64_t start, uint64_t end)
{
    uint64_t dirty;

    return !block_bitmap_next_dirty(filter->dirty, start, end, &dirty);
}

static Ends look_at_ends(MirrorFilter *filter, const Both *w)
{
    uint64_t granule = block_bitmap_granularity(filter->dirty);
    uint64_t start = ALIGN_DOWN(w->offset, granule), end = ALIGN_UP(w->offset + w->bytes, granule);
    Ends ends;

    pthread_mutex_lock(&filter->lock);
    ends = (Ends){ start, end, is_clean(filter, start, start + granule),
                   is_clean(filter, end - granule, end), filter->marked };
    pthread_mutex_unlock(&filter->lock);
    return ends;
}

/* What the write to the source has marked is unmarked again. */
static void unmark(MirrorFilter *filter, const Both *w, const Ends *ends)
{
    uint64_t granule = block_bitmap_granularity(filter->dirty);
    uint64_t start = ends->start, end = ends->end;

    if (!ends->head_clean && start < w->offset)
        start += granule;
    if (!ends->tail_clean && end > w->offset + w->bytes)
        end -= granule;
    pthread_mutex_lock(&filter->lock);
    if (start < end && filter->marked == ends->marked)
        block_bitmap_clear(filter->dirty, start, end - start);
    pthread_mutex_unlock(&filter->lock);
}

/* A discard's content afterwards is whatever each side likes: what it touched is copied. */
static int co_fn both_in_turn(BlockNode *node, const Both *w)
{
    MirrorFilter *filter = block_node_state(node);
    Ends ends = look_at_ends(filter, w);
    bool copied = false;
    int ret;

    if (w->what == DISCARD) {
        ret = do_one(filter->file, w);
    } else {
        ret = do_both(filter, w, &copied);
        patch_pieces(filter, w);
    }
    if (copied)
        unmark(filter, w, &ends);
    else
        block_mirror_filter_mark(node, filter->dirty, w->offset, w->bytes);
    return ret;
}

static int co_fn both(BlockNode *node, const Both *w)
{
    MirrorFilter *filter = block_node_state(node);
    BlockWrite track;
    int ret;

    if (!filter->target)
        return do_one(filter->file, w);
    block_write_enter(node, &track, w->offset, w->bytes, true);
    ret = both_in_turn(node, w);
    block_write_leave(node, NULL, &track);
    return ret;
}

static int co_fn mirror_filter_co_write(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                        int iovcnt, uint64_t bytes, unsigned flags)
{
    return both(node, &(Both){ WRITE, offset, bytes, iov, iovcnt, flags });
}

static int co_fn mirror_filter_co_zero(BlockNode *node, uint64_t offset, uint64_t bytes,
                                       unsigned flags)
{
    return both(node, &(Both){ ZERO, offset, bytes, NULL, 0, flags });
}

static int co_fn mirror_filter_co_discard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    return both(node, &(Both){ DISCARD, offset, bytes, NULL, 0, 0 });
}

/* Once the target takes the source's place, it must hold what the guest has flushed before. */
static int co_fn mirror_filter_co_flush(BlockNode *node)
{
    MirrorFilter *filter = block_node_state(node);
    bool copied;

    return filter->target ? do_both(filter, &(Both){ .what = FLUSH }, &copied)
                          : block_node_co_flush(filter->file);
}

const BlockDriver block_mirror_filter_driver = {
    .name = "mirror-top",
    .help = "what a mirror job puts above its source",
    .size = sizeof(MirrorFilter),
    .options = mirror_filter_options,
    .is_filter = true,
    .internal = true,
    .write_flags = BLOCK_FUA,
    .open = mirror_filter_open,
    .close = mirror_filter_close,
    .child_changed = mirror_filter_child_changed,
    .co_write = mirror_filter_co_write,
    .co_zero = mirror_filter_co_zero,
    .co_discard = mirror_filter_co_discard,
    .co_flush = mirror_filter_co_flush,
};
BLOCK_DRIVER(block_mirror_filter_driver)

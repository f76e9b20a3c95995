/* The filter above a mirror's source (mirror-filter.h). */
#include "block/jobs/mirror-filter.h"
#include "block/node.h"
#include "src/base/util.h"
#include <errno.h>

typedef struct MirrorFilter {
    BlockNode *file, *target;              /* target: held by the job; NULL: not active */
    BlockBitmap *dirty;
    gint failure;                          /* atomic; -errno */
} MirrorFilter;

static const char *const mirror_filter_options[] = { "file", NULL };

static bool co_fn mirror_filter_open(BlockNode *node, json_object *options, GError **error)
{
    MirrorFilter *filter = block_node_state(node);

    filter->file = block_node_open_child(node, options, "file", true, error);
    if (!filter->file)
        return false;
    block_node_set_transparent(node);
    return true;
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
    node->transparent = !target;
    block_node_route(node);
}

int block_mirror_filter_failure(BlockNode *node)
{
    MirrorFilter *filter = block_node_state(node);

    return __atomic_exchange_n(&filter->failure, 0, __ATOMIC_SEQ_CST);
}

static int co_fn mirror_filter_co_read(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                       int iovcnt, uint64_t bytes)
{
    MirrorFilter *filter = block_node_state(node);

    return block_node_co_read(filter->file, offset, iov, iovcnt, bytes);
}

/* A write to both sides. */
typedef struct Both {
    enum { WRITE, ZERO, DISCARD } what;
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
    }
    return -EINVAL;
}

/* Whether the granules at both ends were clean, so that this write leaves them alike on
 * both sides. */
static bool was_clean(const MirrorFilter *filter, uint64_t start, uint64_t end)
{
    uint64_t dirty;

    return !block_bitmap_next_dirty(filter->dirty, start, end, &dirty);
}

/*
 * The source first: what it marks in the bitmap is unmarked only when the target has it, too.  A
 * write that the target refuses stays marked, and is the job's trouble, not the guest's.  A
 * discard's content afterwards is whatever each side likes: what it touched is copied.
 */
static int co_fn do_both(MirrorFilter *filter, const Both *w)
{
    uint64_t granule = block_bitmap_granularity(filter->dirty);
    uint64_t start = ALIGN_DOWN(w->offset, granule), end = ALIGN_UP(w->offset + w->bytes, granule);
    bool head_clean = was_clean(filter, start, start + granule);
    bool tail_clean = was_clean(filter, end - granule, end);
    int ret = do_one(filter->file, w), target_ret;
    gint ok = 0;

    if (ret < 0 || w->what == DISCARD)
        return ret;
    target_ret = do_one(filter->target, w);
    if (target_ret < 0) {
        __atomic_compare_exchange_n(&filter->failure, &ok, target_ret, false, __ATOMIC_SEQ_CST,
                                    __ATOMIC_SEQ_CST);
        return ret;
    }
    if (!head_clean && start < w->offset)
        start += granule;
    if (!tail_clean && end > w->offset + w->bytes)
        end -= granule;
    if (start < end)
        block_bitmap_clear(filter->dirty, start, end - start);
    return ret;
}

static int co_fn both(BlockNode *node, const Both *w)
{
    MirrorFilter *filter = block_node_state(node);
    uint64_t granule, start;
    BlockWrite track;
    int ret;

    if (!filter->target)
        return do_one(filter->file, w);
    granule = block_bitmap_granularity(filter->dirty);
    start = ALIGN_DOWN(w->offset, granule);
    block_write_enter(node, &track, start, ALIGN_UP(w->offset + w->bytes, granule) - start, true);
    ret = do_both(filter, w);
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

static int co_fn mirror_filter_co_flush(BlockNode *node)
{
    MirrorFilter *filter = block_node_state(node);

    return block_node_co_flush(filter->file);
}

static int co_fn mirror_filter_co_map(BlockNode *node, uint64_t offset, uint64_t bytes,
                                      BlockMap *map)
{
    MirrorFilter *filter = block_node_state(node);

    return block_node_co_map(filter->file, offset, bytes, map);
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
    .child_changed = mirror_filter_child_changed,
    .co_read = mirror_filter_co_read,
    .co_write = mirror_filter_co_write,
    .co_zero = mirror_filter_co_zero,
    .co_discard = mirror_filter_co_discard,
    .co_flush = mirror_filter_co_flush,
    .co_map = mirror_filter_co_map,
};
BLOCK_DRIVER(block_mirror_filter_driver)

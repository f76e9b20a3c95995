/*
 * copy-before-write.
 *
 * One bit for each cluster says that it is still to be copied.  Who copies some reads them, holds their
 * range (in the filter's own list of writes, as serialising), looks at the bits again, writes what is
 * still to be copied to the target, and clears the bits.  A guest's write copies what it is about to
 * change itself; if the job is at it, too, it waits for the job's one write, and a write to a copied
 * cluster waits for nothing.  Data that was read while the guest changed it is not written: the guest
 * had cleared the bits before.  Reads of the frozen disk are in the list, too: a cluster is not
 * changed while it is read from the source.
 */
#include "block/jobs/cbw.h"
#include "block/change.h"
#include "block/iov.h"
#include "block/jobs/copy.h"
#include "block/node.h"
#include "src/base/util.h"
#include <errno.h>
#include <string.h>

typedef struct Cbw {
    BlockNode *file, *target;
    BlockBitmap *todo, *access;            /* access: what may be read; NULL: all */
    uint64_t cluster;
    unsigned write_flags;
    bool break_snapshot;                   /* on-cbw-error: a failed copy is the snapshot's */
    bool ordered;                          /* the target is read while it is copied to */
    gint broken;                           /* atomic; -errno: the frozen disk is lost */
} Cbw;

static const char *const cbw_options[] = { "file", "target", "bitmap", "on-cbw-error", NULL };
static const char *const on_error_words[] = { "break-guest-write", "break-snapshot", NULL };

/* Opening. */

static BlockBitmap *find_bitmap(BlockNode *node, json_object *value, GError **error)
{
    const char *node_name = "", *name = "";
    BlockBitmap *bitmap;
    BlockNode *of;

    if (!options_get_str(value, "node", &node_name, error) ||
        !options_get_str(value, "name", &name, error))
        return NULL;
    of = block_node_lookup(node->graph, node_name, node_name, error);
    bitmap = of ? block_bitmap_find(of, name) : NULL;
    if (of && !bitmap)
        fail(error, ERR_NOT_FOUND, "Dirty bitmap '%s' not found", name);
    return bitmap;
}

static bool make_bitmap(BlockNode *node, BlockBitmap **bitmap, const BlockBitmap *from,
                        GError **error)
{
    Cbw *cbw = block_node_state(node);

    /* The core knows the size when open has succeeded; a bitmap needs it now. */
    node->size = block_node_size(cbw->file);
    *bitmap = block_bitmap_new(node, NULL, cbw->cluster, error);
    if (!*bitmap)
        return false;
    block_bitmap_set_flags(*bitmap, 0, BLOCK_BITMAP_RECORDING);
    if (from)
        return block_bitmap_merge(*bitmap, from, error);
    block_bitmap_mark(*bitmap, 0, UINT64_MAX);
    return true;
}

static bool parse(BlockNode *node, json_object *options, const BlockBitmap **from, GError **error)
{
    g_autoptr(json_object) bitmap = options_take(options, "bitmap");
    Cbw *cbw = block_node_state(node);
    int on_error = 0;

    if (!options_get_enum(options, "on-cbw-error", on_error_words, &on_error, error))
        return false;
    json_object_object_del(options, "on-cbw-error");
    cbw->break_snapshot = on_error;
    if (bitmap) {
        *from = find_bitmap(node, bitmap, error);
        return *from && block_bitmap_check(*from, BLOCK_BITMAP_INCONSISTENT, error);
    }
    return true;
}

/* The target is built on the source: who reads the target sees the old data there, or in the source
 * as long as it was not copied.  Such reads and our copies wait for each other. */
static void co_fn order_target(BlockNode *node, bool on)
{
    Cbw *cbw = block_node_state(node);
    BlockQuiesce *quiesce = block_quiesce(node->graph, cbw->target, NULL);

    block_node_order(cbw->target, true, on);
    block_resume(quiesce);
    cbw->ordered = on;
}

static bool co_fn cbw_open(BlockNode *node, json_object *options, GError **error)
{
    Cbw *cbw = block_node_state(node);
    const BlockBitmap *from = NULL;

    if (!parse(node, options, &from, error))
        return false;
    cbw->file = block_node_open_child(node, options, "file", true, error);
    cbw->target = cbw->file ? block_node_open_child(node, options, "target", true, error) : NULL;
    if (!cbw->target)
        return false;
    if (block_node_size(cbw->target) < block_node_size(cbw->file))
        return fail(error, ERR_INVALID_PARAMETER, "Source and target image have different sizes");
    cbw->cluster = MAX(64 * KiB, block_node_cluster_size(cbw->target));
    if (!make_bitmap(node, &cbw->todo, from, error) ||
        (from && !make_bitmap(node, &cbw->access, from, error)))
        return false;
    if (block_node_reaches(cbw->target, cbw->file))
        order_target(node, true);
    return true;
}

static void co_fn cbw_close(BlockNode *node)
{
    if (((Cbw *)block_node_state(node))->ordered)
        order_target(node, false);
}

static void cbw_child_perm(BlockNode *node, const char *key, unsigned *perm, unsigned *shared)
{
    if (!strcmp(key, "target")) {
        *perm = BLOCK_PERM_WRITE;          /* shared: what is written may be in its backing chain */
        *shared = BLOCK_PERM_ALL & ~BLOCK_PERM_RESIZE;
        return;
    }
    *perm |= BLOCK_PERM_READ;
    if (node->parents->len)
        *shared &= ~(BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE);
}

static void cbw_child_changed(BlockNode *node, const char *key)
{
    Cbw *cbw = block_node_state(node);

    cbw->file = block_node_file(node);
    cbw->target = block_node_child(node, "target");
}

/* Copying. */

BlockBitmap *block_cbw_todo(BlockNode *filter)
{
    return ((Cbw *)block_node_state(filter))->todo;
}

uint64_t block_cbw_cluster(BlockNode *filter)
{
    return ((Cbw *)block_node_state(filter))->cluster;
}

void block_cbw_set_flags(BlockNode *filter, unsigned write_flags)
{
    ((Cbw *)block_node_state(filter))->write_flags = write_flags;
}

static int co_fn write_area(Cbw *cbw, const BlockCopy *copy, uint64_t offset, uint64_t bytes)
{
    unsigned flags = cbw->write_flags | BLOCK_MAY_UNMAP;
    BlockRange *range = NULL;
    int ret;

    if (cbw->ordered) {
        range = block_range_lock(cbw->target, offset, bytes, false);
        flags |= BLOCK_HELD;
    }
    ret = block_copy_write(copy, cbw->target, offset, bytes, flags);
    if (range)
        block_range_unlock(range);
    return ret;
}

/* Writes what of the piece nobody else has copied since it was read: one area for each time that the
 * range is held. */
static int co_fn write_piece(BlockNode *filter, const BlockCopy *copy, bool patient)
{
    Cbw *cbw = block_node_state(filter);
    uint64_t at = copy->offset, end = copy->offset + copy->bytes, bytes;
    int ret = 0;

    while (ret == 0 && block_bitmap_next_area(cbw->todo, at, end, UINT64_MAX, &at, &bytes)) {
        BlockRange *range = block_range_lock(filter, at, bytes, patient);

        if (block_bitmap_next_area(cbw->todo, at, at + bytes, UINT64_MAX, &at, &bytes)) {
            ret = write_area(cbw, copy, at, bytes);
            if (ret == 0)
                block_bitmap_clear(cbw->todo, at, bytes);
        }
        block_range_unlock(range);
        at += bytes;
    }
    return ret;
}

static int co_fn copy_range(BlockNode *filter, uint64_t offset, uint64_t bytes, bool patient,
                            bool *ret_is_read)
{
    Cbw *cbw = block_node_state(filter);
    uint64_t end = MIN(ALIGN_UP(offset + bytes, cbw->cluster), (uint64_t)block_node_size(filter));
    uint64_t chunk = MAX(cbw->cluster, BLOCK_COPY_CHUNK), at = ALIGN_DOWN(offset, cbw->cluster), n;
    int ret = 0;

    while (ret == 0 && block_bitmap_next_area(cbw->todo, at, end, chunk, &at, &n)) {
        BlockCopy copy;

        *ret_is_read = true;
        ret = block_copy_read(cbw->file, at, n, cbw->cluster, &copy);
        if (ret == 0) {
            *ret_is_read = false;
            ret = write_piece(filter, &copy, patient);
        }
        at += copy.bytes;
        block_copy_clear(&copy);
    }
    return ret;
}

int co_fn block_cbw_copy(BlockNode *filter, uint64_t offset, uint64_t bytes, bool *ret_is_read)
{
    return copy_range(filter, offset, bytes, true, ret_is_read);
}

/* The guest's requests. */

static int co_fn before_write(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    Cbw *cbw = block_node_state(node);
    bool is_read;
    gint ok = 0;
    int ret;

    if (__atomic_load_n(&cbw->broken, __ATOMIC_RELAXED))
        return 0;
    ret = copy_range(node, offset, bytes, false, &is_read);
    if (ret < 0 && cbw->break_snapshot) {
        __atomic_compare_exchange_n(&cbw->broken, &ok, ret, false, __ATOMIC_SEQ_CST,
                                    __ATOMIC_SEQ_CST);
        ret = 0;
    }
    return ret;
}

static int co_fn cbw_co_write(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                              uint64_t bytes, unsigned flags)
{
    Cbw *cbw = block_node_state(node);
    int ret = before_write(node, offset, bytes);

    return ret < 0 ? ret : block_node_co_write(cbw->file, offset, iov, iovcnt, bytes, flags);
}

static int co_fn cbw_co_zero(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    Cbw *cbw = block_node_state(node);
    int ret = before_write(node, offset, bytes);

    return ret < 0 ? ret : block_node_co_zero(cbw->file, offset, bytes, flags);
}

static int co_fn cbw_co_discard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    Cbw *cbw = block_node_state(node);
    int ret = before_write(node, offset, bytes);

    return ret < 0 ? ret : block_node_co_discard(cbw->file, offset, bytes);
}

/* What is cut off could not be copied any more. */
static int co_fn cbw_co_resize(BlockNode *node, uint64_t bytes, GError **error)
{
    fail(error, ERR_UNSUPPORTED, "'%s' keeps a disk of a fixed size: it cannot be resized", node->name);
    return -ENOTSUP;
}

/* The frozen disk. */

/* Where its next bytes are: not copied ones in the source. */
static BlockNode *frozen_part(const Cbw *cbw, uint64_t offset, uint64_t end, uint64_t *ret_bytes)
{
    bool in_source = block_bitmap_get(cbw->todo, offset);
    uint64_t stop = end;

    if (in_source)
        block_bitmap_next_zero(cbw->todo, offset, end, &stop);
    else
        block_bitmap_next_dirty(cbw->todo, offset, end, &stop);
    *ret_bytes = stop - offset;
    return in_source ? cbw->file : cbw->target;
}

static int check_access(const Cbw *cbw, uint64_t offset, uint64_t bytes)
{
    uint64_t missing;

    if (cbw->access && block_bitmap_next_zero(cbw->access, offset, offset + bytes, &missing))
        return -EACCES;
    return __atomic_load_n(&cbw->broken, __ATOMIC_SEQ_CST) ? -EACCES : 0;
}

int co_fn block_cbw_read(BlockNode *filter, uint64_t offset, const struct iovec *iov, int iovcnt,
                         uint64_t bytes)
{
    g_autofree struct iovec *part = g_new(struct iovec, MAX(iovcnt, 1));
    Cbw *cbw = block_node_state(filter);
    BlockWrite track;
    int ret = check_access(cbw, offset, bytes);

    if (ret < 0)
        return ret;
    block_write_enter(filter, &track, offset, bytes, false);
    for (uint64_t done = 0, n; ret == 0 && done < bytes; done += n) {
        BlockNode *from = frozen_part(cbw, offset + done, offset + bytes, &n);
        int parts = iov_slice(part, iovcnt, iov, iovcnt, done, &n);

        ret = block_node_co_read(from, offset + done, part, parts, n);
    }
    block_write_leave(filter, NULL, &track);
    return ret < 0 ? ret : check_access(cbw, offset, bytes);
}

int co_fn block_cbw_map(BlockNode *filter, uint64_t offset, uint64_t bytes, BlockMap *map)
{
    Cbw *cbw = block_node_state(filter);
    BlockWrite track;
    BlockNode *from;
    uint64_t n;
    int ret = check_access(cbw, offset, bytes);

    if (ret < 0)
        return ret;
    block_write_enter(filter, &track, offset, bytes, false);
    from = frozen_part(cbw, offset, offset + bytes, &n);
    ret = block_node_co_map(from, offset, n, map);
    block_write_leave(filter, NULL, &track);
    map->flags &= ~BLOCK_MAP_OFFSET_VALID;
    return ret;
}

const BlockDriver block_cbw_driver = {
    .name = "copy-before-write",
    .help = "keeps what is overwritten in another node",
    .size = sizeof(Cbw),
    .options = cbw_options,
    .is_filter = true,
    .write_flags = BLOCK_FUA,
    .open = cbw_open,
    .close = cbw_close,
    .child_perm = cbw_child_perm,
    .child_changed = cbw_child_changed,
    .co_write = cbw_co_write,
    .co_zero = cbw_co_zero,
    .co_discard = cbw_co_discard,
    .co_resize = cbw_co_resize,
};
BLOCK_DRIVER(block_cbw_driver)

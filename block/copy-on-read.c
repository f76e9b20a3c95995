/*
 * copy-on-read: what is read from a backing file is written into the image above it, so that the next
 * read finds it there.  `bottom` is the lowest node whose data is copied.
 *
 * A copy is a read and a write of the same range while others' writes to it wait (block_range_lock): what
 * is written is what is there, whoever wrote it last.
 */
#include "block/chain.h"
#include "block/change.h"
#include "block/iov.h"
#include "block/node.h"
#include "src/base/util.h"
#include <errno.h>
#include <stdlib.h>

#define COPY_MAX (1 * MiB)

typedef struct Cor {
    BlockNode *bottom;                     /* pinned; NULL: the whole chain is copied */
    BlockNode *ordered;                    /* the child whose ranges are locked */
} Cor;

static const char *const cor_options[] = { "file", "bottom", NULL };

/* Ranges of the child can be locked from now on. */
static void order_child(BlockNode *node, bool on)
{
    Cor *cor = block_node_state(node);
    BlockNode *file = block_node_file(node);
    BlockQuiesce *quiesce;

    if (!file || block_node_read_only(node))
        return;
    quiesce = block_quiesce(block_node_graph(node), file, NULL);
    block_node_order(file, false, on);
    block_resume(quiesce);
    cor->ordered = on ? file : NULL;
}

static bool find_bottom(BlockNode *node, const char *name, GError **error)
{
    Cor *cor = block_node_state(node);
    BlockNode *file = block_node_file(node);
    BlockNode *bottom = block_node_find(block_node_graph(node), name);

    if (!bottom)
        return fail(error, ERR_NOT_FOUND, "Bottom node '%s' not found", name);
    if (bottom != file && !block_node_is_above(file, bottom))
        return fail(error, ERR_INVALID_PARAMETER, "Bottom node '%s' is not below '%s'", name,
                    block_node_name(file));
    if (block_node_skip_filters(bottom) != bottom)
        return fail(error, ERR_INVALID_PARAMETER, "Bottom node '%s' is a filter", name);
    cor->bottom = bottom;
    return true;
}

static bool co_fn cor_open(BlockNode *node, json_object *options, GError **error)
{
    Cor *cor = block_node_state(node);
    g_autoptr(json_object) bottom = options_take(options, "bottom");

    if (!block_node_open_child(node, options, "file", true, error))
        return false;
    if (bottom && !find_bottom(node, json_object_get_string(bottom), error))
        return false;
    if (cor->bottom)
        block_node_pin(cor->bottom);
    order_child(node, true);
    return true;
}

static void co_fn cor_close(BlockNode *node)
{
    Cor *cor = block_node_state(node);

    if (cor->ordered == block_node_file(node))
        order_child(node, false);
    if (cor->bottom)
        block_node_unpin(cor->bottom);
}

static void cor_child_changed(BlockNode *node, const char *key)
{
    Cor *cor = block_node_state(node);
    BlockNode *file = block_node_file(node);

    if (!file || file == cor->ordered || block_node_read_only(node))
        return;
    block_node_order(file, false, true);   /* nothing is in flight now */
    cor->ordered = file;
}

static void cor_child_perm(BlockNode *node, const char *key, unsigned *perm, unsigned *shared)
{
    if (!block_node_read_only(node))
        *perm |= BLOCK_PERM_READ | BLOCK_PERM_WRITE_SAME;
}

/* How many bytes from @offset are alike: to be copied (*ret_copy), or not. */
static int co_fn look(BlockNode *node, uint64_t offset, uint64_t *bytes, bool *ret_copy)
{
    Cor *cor = block_node_state(node);
    BlockNode *top = block_node_skip_filters(block_node_file(node)), *below;
    BlockMap map;
    int ret = block_node_co_map(top, offset, *bytes, &map);

    if (ret < 0)
        return ret;
    *bytes = map.bytes;
    *ret_copy = !(map.flags & BLOCK_MAP_ALLOCATED) && cor->ordered;
    below = block_node_below(top);
    if (!*ret_copy || !cor->bottom)
        return 0;
    if (top == cor->bottom || !below) {
        *ret_copy = false;
        return 0;
    }
    ret = block_co_map_above(below, block_node_below(cor->bottom), offset, *bytes, &map, NULL);
    *bytes = map.bytes;
    *ret_copy = ret == 0 && map.flags & BLOCK_MAP_ALLOCATED;
    return ret;
}

/* Under the range's lock. */
static int co_fn copy_range(BlockNode *file, uint64_t start, uint8_t *buffer, uint64_t bytes)
{
    struct iovec iov = { buffer, bytes };
    int ret = block_node_co_read(file, start, &iov, 1, bytes);

    if (ret < 0)
        return ret;
    if (iov_is_zero(&iov, 1, bytes))
        return block_node_co_zero(file, start, bytes, BLOCK_HELD);
    return block_node_co_write(file, start, &iov, 1, bytes, BLOCK_HELD);
}

/* Reads whole clusters, writes them into the image, and gives the caller its part. */
static int co_fn read_and_copy(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                               uint64_t at, uint64_t bytes)
{
    BlockNode *file = block_node_file(node);
    BlockLimits limits = block_node_limits(file);
    uint64_t align = MAX(MAX(limits.write_zeroes_granularity, limits.request_alignment), 512);
    uint64_t start = ALIGN_DOWN(offset, align);
    uint64_t end = MIN(ALIGN_UP(offset + bytes, align), (uint64_t)block_node_size(file));
    BlockRange *range;
    void *buffer = NULL;
    int ret;

    if (posix_memalign(&buffer, 4096, end - start))
        return -ENOMEM;
    range = block_range_lock(file, start, end - start, false);
    ret = copy_range(file, start, buffer, end - start);
    block_range_unlock(range);
    if (ret == 0)
        iov_from_buffer(iov, iovcnt, at, (uint8_t *)buffer + (offset - start), bytes);
    free(buffer);
    return ret;
}

static int co_fn read_plain(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                            uint64_t at, uint64_t bytes)
{
    g_autofree struct iovec *part = g_new(struct iovec, iovcnt);
    uint64_t n = bytes;
    int parts = iov_slice(part, iovcnt, iov, iovcnt, at, &n);

    return block_node_co_read(block_node_file(node), offset, part, parts, n);
}

static int co_fn cor_co_read(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                             uint64_t bytes)
{
    int ret = 0;

    for (uint64_t done = 0, n; ret == 0 && done < bytes; done += n) {
        bool copy;

        n = MIN(bytes - done, COPY_MAX);
        ret = look(node, offset + done, &n, &copy);
        if (ret < 0)
            break;
        ret = copy ? read_and_copy(node, offset + done, iov, iovcnt, done, n)
                   : read_plain(node, offset + done, iov, iovcnt, done, n);
    }
    return ret;
}

static int co_fn cor_co_write(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                              uint64_t bytes, unsigned flags)
{
    return block_node_co_write(block_node_file(node), offset, iov, iovcnt, bytes, flags);
}

static const BlockDriver cor_driver = {
    .name = "copy-on-read",
    .help = "writes what is read from a backing file into the image",
    .size = sizeof(Cor),
    .options = cor_options,
    .is_filter = true,
    .write_flags = BLOCK_FUA | BLOCK_COMPRESSED,
    .open = cor_open,
    .close = cor_close,
    .child_changed = cor_child_changed,
    .child_perm = cor_child_perm,
    .co_read = cor_co_read,
    .co_write = cor_co_write,
};
BLOCK_DRIVER(cor_driver)

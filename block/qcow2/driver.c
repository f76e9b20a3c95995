/* The driver: the verbs of requests, each of which passes the gate. */
#include "block/qcow2/image.h"
#include "block/qcow2/io.h"
#include "block/qcow2/journal.h"
#include "block/qcow2/options.h"
#include <errno.h>

static int64_t qcow2_get_size(BlockNode *node)
{
    return qcow2_of(node)->header.size;
}

/* Data goes to the file as it comes, so that its alignment is the file's; our own cutting is by
 * clusters. */
static void qcow2_limits(BlockNode *node, BlockLimits *limits)
{
    Qcow2 *s = qcow2_of(node);
    BlockLimits data = block_node_limits(s->data_file);

    limits->request_alignment = MAX(limits->request_alignment, data.request_alignment);
    limits->buffer_alignment = MAX(limits->buffer_alignment, data.buffer_alignment);
    if (s->crypto.encrypt)
        limits->request_alignment = MAX(limits->request_alignment, 512);
    limits->max_transfer = limits->max_discard = limits->max_write_zeroes = 0;
    limits->max_iov = 0;
    limits->discard_granularity = s->cluster_size;
    limits->write_zeroes_granularity = 1u << s->subcluster_bits;
    limits->can_discard = limits->can_write_zeroes = true;
}

static int co_fn qcow2_co_read(BlockNode *node, uint64_t offset, const struct iovec *iov,
                               int iovcnt, uint64_t bytes)
{
    Qcow2 *s = qcow2_of(node);
    Qcow2Ticket ticket = qcow2_enter(s);
    int ret = qcow2_guest_read(s, offset, iov, iovcnt, bytes);

    qcow2_leave(s, &ticket);
    return ret;
}

/* After a request that changed the mapping, and outside it. */
static void co_fn finish(Qcow2 *s, Qcow2Ticket *ticket)
{
    qcow2_leave(s, ticket);
    if (G_UNLIKELY(qcow2_pressure(s)))
        qcow2_relieve(s);
}

static int co_fn qcow2_co_write(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                int iovcnt, uint64_t bytes, unsigned flags)
{
    Qcow2 *s = qcow2_of(node);
    Qcow2Ticket ticket = qcow2_enter(s);
    int ret = qcow2_may_write(s);

    if (G_LIKELY(ret == 0))
        ret = qcow2_journal_cover(s, offset, bytes);
    if (G_LIKELY(ret == 0))
        ret = flags & BLOCK_COMPRESSED ? qcow2_write_compressed(s, offset, iov, iovcnt, bytes)
                                       : qcow2_guest_write(s, offset, iov, iovcnt, bytes);
    finish(s, &ticket);
    return ret;
}

static int co_fn qcow2_co_zero(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    Qcow2 *s = qcow2_of(node);
    Qcow2Ticket ticket = qcow2_enter(s);
    int ret = qcow2_may_write(s);

    if (ret == 0)
        ret = qcow2_journal_cover(s, offset, bytes);
    if (ret == 0)
        ret = qcow2_guest_zero(s, offset, bytes, flags);
    finish(s, &ticket);
    return ret;
}

static int co_fn qcow2_co_discard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    Qcow2 *s = qcow2_of(node);
    Qcow2Ticket ticket = qcow2_enter(s);
    int ret = qcow2_may_write(s);

    if (ret == 0)
        ret = qcow2_journal_cover(s, offset, bytes);
    if (ret == 0)
        ret = qcow2_guest_discard(s, offset, bytes, QCOW2_DISCARD_REQUEST, false);
    finish(s, &ticket);
    return ret;
}

static int co_fn qcow2_co_flush(BlockNode *node)
{
    Qcow2 *s = qcow2_of(node);
    Qcow2Ticket ticket = qcow2_enter_upkeep(s);
    int ret;

    block_debug_event(s->file, "flush_to_os");
    ret = s->writable ? qcow2_checkpoint(s) : 0;
    if (ret == 0)
        qcow2_reap(s);
    qcow2_leave(s, &ticket);
    return ret;
}

/* Map. */

static void fill_map(Qcow2 *s, const Qcow2Extent *extent, BlockMap *map)
{
    *map = (BlockMap){ .bytes = extent->bytes };
    switch (extent->kind) {
    case QCOW2_NORMAL:
        map->flags = BLOCK_MAP_DATA | BLOCK_MAP_ALLOCATED;
        if (!s->crypto.decrypt) {
            map->flags |= BLOCK_MAP_OFFSET_VALID;
            map->host_offset = extent->host;
            map->host_node = s->data_file;
        }
        break;
    case QCOW2_KIND_COMPRESSED:
        map->flags = BLOCK_MAP_DATA | BLOCK_MAP_ALLOCATED | BLOCK_MAP_COMPRESSED;
        break;
    case QCOW2_ZERO_ALLOC:
        map->flags = BLOCK_MAP_ZERO | BLOCK_MAP_ALLOCATED | BLOCK_MAP_OFFSET_VALID;
        map->host_offset = extent->host;
        map->host_node = s->data_file;
        break;
    case QCOW2_ZERO_PLAIN:
        map->flags = BLOCK_MAP_ZERO | BLOCK_MAP_ALLOCATED;
        break;
    default:
        map->flags = qcow2_backing(s) ? 0 : BLOCK_MAP_ZERO;
    }
}

static bool continues(const Qcow2Extent *extent, const Qcow2Extent *next)
{
    bool has_place = extent->kind == QCOW2_NORMAL || extent->kind == QCOW2_ZERO_ALLOC;

    return next->kind == extent->kind && (!has_place || next->host == extent->host + extent->bytes);
}

/* Until what is there changes: over many slices, but only where there are any. */
static int co_fn map_far(Qcow2 *s, uint64_t offset, uint64_t bytes, Qcow2Extent *extent)
{
    Qcow2Extent next;
    int ret = qcow2_map(s, offset, bytes, extent);

    while (ret == 0 && extent->bytes < bytes) {
        ret = qcow2_map(s, offset + extent->bytes, bytes - extent->bytes, &next);
        if (ret < 0 || !continues(extent, &next))
            break;
        extent->bytes += next.bytes;
    }
    return ret;
}

static int co_fn qcow2_co_map(BlockNode *node, uint64_t offset, uint64_t bytes, BlockMap *map)
{
    Qcow2 *s = qcow2_of(node);
    Qcow2Ticket ticket = qcow2_enter(s);
    Qcow2Extent extent;
    int ret = map_far(s, offset, bytes, &extent);

    if (ret == 0)
        fill_map(s, &extent, map);
    qcow2_leave(s, &ticket);
    return ret;
}

static const BlockDriver qcow2_driver = {
    .name = "qcow2",
    .help = "QEMU's copy-on-write image, versions 2 and 3",
    .size = sizeof(Qcow2),
    .options = qcow2_option_names,
    .is_format = true,
    .write_flags = BLOCK_COMPRESSED,
    .open = qcow2_open,
    .close = qcow2_close,
    .get_size = qcow2_get_size,
    .limits = qcow2_limits,
    .co_read = qcow2_co_read,
    .co_write = qcow2_co_write,
    .co_flush = qcow2_co_flush,
    .co_zero = qcow2_co_zero,
    .co_discard = qcow2_co_discard,
    .co_map = qcow2_co_map,
    .co_resize = qcow2_co_resize,
    .child_perm = qcow2_child_perm,
    .child_changed = qcow2_child_changed,
    .has_backing = true,
    .reopen_prepare = qcow2_reopen_prepare,
    .reopen_commit = qcow2_reopen_commit,
    .reopen_abort = qcow2_reopen_abort,
    .image_info = qcow2_image_info,
    .describe = qcow2_describe,
    .image = &qcow2_image_verbs,
};
BLOCK_DRIVER(qcow2_driver)

/*
 * The way of a request through a node: bounds, alignment, splitting, fallbacks.
 *
 * A request that fits the node's limits goes to the driver at once, without allocation or lock.
 * One that does not is cut into pieces which do; what is not aligned goes through a bounce buffer,
 * and an unaligned write reads what surrounds it first (rmw.c keeps others away meanwhile).
 */
#include "block/node.h"
#include <errno.h>
#include "block/iov.h"
#include "block/probe.h"
#include "src/base/util.h"
#include <string.h>
#include <sys/mman.h>

#define BOUNCE_MAX (1 * MiB)
#define ZERO_BUFFER_SIZE (1 * MiB)

static bool in_bounds(const BlockNode *node, uint64_t offset, uint64_t bytes)
{
    uint64_t size = __atomic_load_n(&node->size, __ATOMIC_ACQUIRE);

    return offset <= size && bytes <= size - offset;
}

/* True if the driver takes the request as it is. */
static inline bool fits(const BlockNode *node, uint64_t offset, const struct iovec *iov,
                        int iovcnt, uint64_t bytes)
{
    uint64_t total = 0;

    if ((offset | bytes) & node->align_mask || bytes > node->max_transfer ||
        iovcnt > node->max_iov)
        return false;
    for (int i = 0; i < iovcnt; i++) {
        if ((uintptr_t)iov[i].iov_base & node->memory_mask || iov[i].iov_len & node->align_mask)
            return false;
        total += iov[i].iov_len;
    }
    return total == bytes;
}

static inline int co_fn read_driver(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                    int iovcnt, uint64_t bytes)
{
    return G_LIKELY(node->driver->co_read != NULL)
               ? node->driver->co_read(node, offset, iov, iovcnt, bytes)
               : block_node_co_read(node->filtered, offset, iov, iovcnt, bytes);
}

/* What does not fit: through a buffer, or in pieces. */

static uint64_t bounce_size(const BlockNode *node, uint64_t bytes)
{
    uint64_t limit = ALIGN_DOWN(MIN(node->max_transfer, BOUNCE_MAX), node->align_mask + 1);

    return MIN(bytes, MAX(limit, node->align_mask + 1));
}

static void *bounce_new(const BlockNode *node, uint64_t bytes)
{
    void *buffer = NULL;

    if (posix_memalign(&buffer, MAX(MAX(node->memory_mask, node->align_mask) + 1, 64), bytes))
        return NULL;
    return buffer;
}

/* Fills the parts of the block buffer at @at that the request does not cover. */
static int co_fn read_edges(BlockNode *node, uint64_t at, uint8_t *buffer, uint64_t n,
                            uint64_t from, uint64_t to)
{
    uint64_t align = node->align_mask + 1;
    bool head = from > at, tail = to < at + n;
    uint64_t last = at + n - align;
    struct iovec first_block = { buffer, align }, last_block = { buffer + n - align, align };
    int ret = 0;

    if (head)
        ret = read_driver(node, at, &first_block, 1, align);
    if (ret == 0 && tail && !(head && last == at))
        ret = read_driver(node, last, &last_block, 1, align);
    return ret;
}

/* Through a buffer, by the blocks that cover the range: what the request has of them is copied out of
 * it, or into it. */
static int co_fn transfer_bounced(BlockNode *node, bool write, uint64_t offset,
                                  const struct iovec *iov, int iovcnt, uint64_t bytes,
                                  unsigned flags)
{
    uint64_t start = ALIGN_DOWN(offset, node->align_mask + 1);
    uint64_t end = ALIGN_UP(offset + bytes, node->align_mask + 1);
    uint64_t room = bounce_size(node, end - start);
    uint8_t *buffer = bounce_new(node, room);
    int ret = buffer ? 0 : -ENOMEM;

    for (uint64_t at = start; ret == 0 && at < end; at += room) {
        uint64_t n = MIN(room, end - at);
        uint64_t from = MAX(at, offset), to = MIN(at + n, offset + bytes);
        struct iovec piece = { buffer, n };

        ret = write ? read_edges(node, at, buffer, n, from, to)
                    : read_driver(node, at, &piece, 1, n);
        if (ret < 0)
            break;
        if (write) {
            iov_to_buffer(iov, iovcnt, from - offset, buffer + (from - at), to - from);
            ret = node->driver->co_write(node, at, &piece, 1, n, flags);
        } else {
            iov_from_buffer(iov, iovcnt, from - offset, buffer + (from - at), to - from);
        }
    }
    free(buffer);
    return ret;
}

/*
 * The next piece of a request whose offset and length are aligned: aligned itself, and within
 * max_transfer and max_iov.  Where max_iov parts hold less than one block, more of them (to be
 * bounced).  @part has room for all parts.
 */
static int next_piece(const BlockNode *node, struct iovec *part, const struct iovec *iov,
                      int iovcnt, uint64_t done, uint64_t left, uint64_t *ret_bytes)
{
    uint64_t align = node->align_mask + 1;
    uint64_t most = MIN(left, MAX(ALIGN_DOWN(node->max_transfer, align), align));

    *ret_bytes = most;
    iov_slice(part, node->max_iov, iov, iovcnt, done, ret_bytes);
    *ret_bytes = ALIGN_DOWN(*ret_bytes, align);
    if (!*ret_bytes)
        *ret_bytes = bounce_size(node, most);
    return iov_slice(part, iovcnt, iov, iovcnt, done, ret_bytes);
}

/* Read. */

static int co_fn read_pieces(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                             uint64_t bytes)
{
    g_autofree struct iovec *part = NULL;
    uint64_t done = 0, n;
    int ret = 0;

    if (iov_size(iov, iovcnt) < bytes)
        return -EINVAL;
    if ((offset | bytes) & node->align_mask)
        return transfer_bounced(node, false, offset, iov, iovcnt, bytes, 0);
    part = g_new(struct iovec, iovcnt);
    while (ret == 0 && done < bytes) {
        int parts = next_piece(node, part, iov, iovcnt, done, bytes - done, &n);

        if (fits(node, offset + done, part, parts, n))
            ret = read_driver(node, offset + done, part, parts, n);
        else
            ret = transfer_bounced(node, false, offset + done, part, parts, n, 0);
        done += n;
    }
    return ret;
}

/* A job's writes to the same range wait until this read is over. */
static int co_fn read_tracked(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                              uint64_t bytes)
{
    BlockWrite track;
    int ret;

    block_write_enter(node, &track, offset, bytes, false);
    if (fits(node, offset, iov, iovcnt, bytes))
        ret = read_driver(node, offset, iov, iovcnt, bytes);
    else
        ret = read_pieces(node, offset, iov, iovcnt, bytes);
    block_write_leave(node, NULL, &track);
    return ret;
}

int co_fn block_node_co_read(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                             uint64_t bytes)
{
    if (G_UNLIKELY(!in_bounds(node, offset, bytes)))
        return -EIO;
    if (G_UNLIKELY(!bytes))
        return 0;
    node = node->read_target;
    if (G_UNLIKELY(node->track_reads))
        return read_tracked(node, offset, iov, iovcnt, bytes);
    if (G_LIKELY(fits(node, offset, iov, iovcnt, bytes)))
        return node->driver->co_read(node, offset, iov, iovcnt, bytes);
    return read_pieces(node, offset, iov, iovcnt, bytes);
}

/* Write. */

static void raise_u64(uint64_t *counter, uint64_t value)
{
    uint64_t old = __atomic_load_n(counter, __ATOMIC_RELAXED);

    while (old < value &&
           !__atomic_compare_exchange_n(counter, &old, value, true, __ATOMIC_RELEASE,
                                        __ATOMIC_RELAXED))
        ;
}

static void grow(BlockNode *node, uint64_t size)
{
    block_node_grow_bitmaps(node, size);
    raise_u64((uint64_t *)&node->size, size);
}

/* Also a write that failed may have changed something, and marks the bitmaps. */
static inline void wrote(BlockNode *node, BlockNodeCell *cell, uint64_t offset, uint64_t bytes,
                         int ret)
{
    uint64_t end = offset + bytes;

    if (G_LIKELY(ret == 0)) {
        block_cell_add(&cell->written, 1);
        raise_u64(&node->wr_highest_offset, end);
        if (G_UNLIKELY(end > (uint64_t)block_node_size(node)) && block_node_grows(node))
            grow(node, end);
    }
    if (G_UNLIKELY(node->bitmaps != NULL))
        block_node_mark(node, offset, bytes);
}

/*
 * A write whose ends are not aligned.  A node whose size is no multiple of its alignment would become
 * longer by the padding of its last block: that is cut off again.
 */
static int co_fn write_unaligned(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                 int iovcnt, uint64_t bytes, unsigned flags, bool held)
{
    uint64_t padded_end = ALIGN_UP(offset + bytes, node->align_mask + 1);
    uint64_t size = MAX((uint64_t)block_node_size(node), offset + bytes);
    BlockWrite write;
    int ret;

    if (!held)
        block_write_enter(node, &write, offset, bytes, true);
    ret = transfer_bounced(node, true, offset, iov, iovcnt, bytes, flags);
    if (ret == 0 && padded_end > size && node->driver->co_resize)
        ret = node->driver->co_resize(node, size, NULL);
    if (!held)
        block_write_leave(node, NULL, &write);
    return ret;
}

static int co_fn write_pieces(BlockNode *node, uint64_t offset, const struct iovec *iov,
                              int iovcnt, uint64_t bytes, unsigned flags)
{
    g_autofree struct iovec *part = NULL;
    uint64_t done = 0, n;
    int ret = 0;

    if (iov_size(iov, iovcnt) < bytes)
        return -EINVAL;
    part = g_new(struct iovec, iovcnt);
    while (ret == 0 && done < bytes) {
        int parts = next_piece(node, part, iov, iovcnt, done, bytes - done, &n);

        if (fits(node, offset + done, part, parts, n))
            ret = node->driver->co_write(node, offset + done, part, parts, n, flags);
        else
            ret = transfer_bounced(node, true, offset + done, part, parts, n, flags);
        done += n;
    }
    return ret;
}

/* Offset and length are aligned, or the node does not care. */
static int co_fn write_tracked(BlockNode *node, BlockNodeCell *cell, uint64_t offset,
                               const struct iovec *iov, int iovcnt, uint64_t bytes, unsigned flags,
                               bool held)
{
    bool ordered = node->ordered && !held;
    bool tracked = ordered && !block_write_enter_fast(node, cell);
    BlockWrite write;
    int ret;

    if (G_UNLIKELY(tracked))
        block_write_enter(node, &write, offset, bytes, false);
    if (G_LIKELY(fits(node, offset, iov, iovcnt, bytes)))
        ret = node->driver->co_write(node, offset, iov, iovcnt, bytes, flags);
    else
        ret = write_pieces(node, offset, iov, iovcnt, bytes, flags);
    if (ordered)
        block_write_leave(node, cell, tracked ? &write : NULL);
    return ret;
}

static inline void check_threshold(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    if (G_UNLIKELY(__atomic_load_n(&node->write_threshold, __ATOMIC_RELAXED)))
        block_node_check_threshold(node, offset + bytes);
}

/* A plain write on the node itself; bounds are checked. */
static int co_fn write_node(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                            uint64_t bytes, unsigned flags)
{
    BlockNodeCell *cell = block_node_cell(node);
    unsigned flush = flags & BLOCK_FUA & ~node->driver->write_flags;
    bool held = flags & BLOCK_HELD;
    int ret;

    if (G_UNLIKELY(!node->driver->co_write))
        return -EPERM;
    check_threshold(node, offset, bytes);
    flags &= node->driver->write_flags;
    if (G_LIKELY(!((offset | bytes) & node->align_mask)))
        ret = write_tracked(node, cell, offset, iov, iovcnt, bytes, flags, held);
    else if (iov_size(iov, iovcnt) < bytes)
        ret = -EINVAL;
    else
        ret = write_unaligned(node, offset, iov, iovcnt, bytes, flags, held);
    wrote(node, cell, offset, bytes, ret);
    if (ret == 0 && G_UNLIKELY(flush))
        ret = block_node_co_flush(node);
    return ret;
}

/* A guest must not turn an image that was taken for raw into one of another format. */
static bool forges_format(uint64_t offset, const struct iovec *iov, int iovcnt, uint64_t bytes)
{
    uint8_t data[BLOCK_PROBE_SIZE] = { 0 };

    if (offset >= sizeof(data))
        return false;
    iov_to_buffer(iov, iovcnt, 0, data + offset, MIN(sizeof(data) - offset, bytes));
    return strcmp(block_probe_format(data, sizeof(data)), "raw") != 0;
}

int co_fn block_node_co_write(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                              uint64_t bytes, unsigned flags)
{
    if (G_UNLIKELY(node->config.read_only))
        return -EPERM;
    if (G_UNLIKELY(!in_bounds(node, offset, bytes)) &&
        (!block_node_grows(node) || bytes > INT64_MAX || offset > INT64_MAX - bytes))
        return -EIO;
    if (G_UNLIKELY(!bytes))
        return 0;
    node = node->write_target;
    if (G_UNLIKELY(node->restricted) && forges_format(offset, iov, iovcnt, bytes))
        return -EPERM;
    if (G_UNLIKELY(node->config.detect_zeroes != BLOCK_DETECT_OFF) &&
        iov_is_zero(iov, iovcnt, bytes)) {
        unsigned unmap = node->config.detect_zeroes == BLOCK_DETECT_UNMAP ? BLOCK_MAY_UNMAP : 0;

        return block_node_co_zero(node, offset, bytes, (flags & (BLOCK_FUA | BLOCK_HELD)) | unmap);
    }
    return write_node(node, offset, iov, iovcnt, bytes, flags);
}

/* Zero. */

/* Memory that reads as zeroes and costs none: an anonymous read-only mapping is the zero page. */
static void *zero_buffer(void)
{
    static gsize once;

    if (g_once_init_enter(&once)) {
        void *map = mmap(NULL, ZERO_BUFFER_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        g_once_init_leave(&once, map == MAP_FAILED ? 1 : (gsize)map);
    }
    return once == 1 ? NULL : (void *)once;
}

static int co_fn write_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    struct iovec iov = { zero_buffer(), 0 };
    int ret = iov.iov_base ? 0 : -ENOMEM;

    while (ret == 0 && bytes) {
        uint64_t head = offset & node->align_mask;

        iov.iov_len = MIN(bytes, ZERO_BUFFER_SIZE - head);
        ret = write_node(node, offset, &iov, 1, iov.iov_len, flags);
        offset += iov.iov_len;
        bytes -= iov.iov_len;
    }
    return ret;
}

static int co_fn zero_piece(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    return node->driver->co_zero ? node->driver->co_zero(node, offset, bytes, flags)
                                 : block_node_co_zero(node->filtered, offset, bytes, flags);
}

/* The driver's own verb, for the part of the range that its alignment lets it do. */
static int co_fn zero_driver(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    uint64_t most = node->limits.max_write_zeroes ? node->limits.max_write_zeroes : UINT64_MAX;
    BlockNodeCell *cell = block_node_cell(node);
    bool ordered = node->ordered && !(flags & BLOCK_HELD);
    bool tracked = ordered && !block_write_enter_fast(node, cell);
    BlockWrite write;
    int ret = 0;

    check_threshold(node, offset, bytes);
    if (tracked)
        block_write_enter(node, &write, offset, bytes, false);
    for (uint64_t done = 0; ret == 0 && done < bytes;) {
        uint64_t n = MIN(bytes - done, most);

        ret = zero_piece(node, offset + done, n, flags & ~(BLOCK_FUA | BLOCK_HELD));
        done += n;
    }
    if (ordered)
        block_write_leave(node, cell, tracked ? &write : NULL);
    wrote(node, cell, offset, bytes, ret);
    return ret;
}

static int co_fn zero_or_write(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    int ret = -ENOTSUP;

    if (!bytes)
        return 0;
    if (node->driver->co_zero || node->filtered)
        ret = zero_driver(node, offset, bytes, flags);
    if (ret == -ENOTSUP && !(flags & BLOCK_NO_FALLBACK))
        ret = write_zeroes(node, offset, bytes, flags & BLOCK_HELD);
    return ret;
}

int co_fn block_node_co_zero(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    uint64_t mask = node->align_mask, first, last;
    unsigned held = flags & BLOCK_HELD;
    int ret;

    if (node->config.read_only)
        return -EPERM;
    if (!in_bounds(node, offset, bytes) &&
        (!block_node_grows(node) || bytes > INT64_MAX || offset > INT64_MAX - bytes))
        return -EIO;
    if (!bytes)
        return 0;
    if (!node->config.discard)
        flags &= ~BLOCK_MAY_UNMAP;
    /* Unaligned ends are written. */
    first = ALIGN_UP(offset, mask + 1);
    last = ALIGN_DOWN(offset + bytes, mask + 1);
    if (first >= last)
        ret = flags & BLOCK_NO_FALLBACK ? -ENOTSUP : write_zeroes(node, offset, bytes, held);
    else
        ret = zero_or_write(node, first, last - first, flags);
    if (ret == 0 && first < last && first > offset)
        ret = write_zeroes(node, offset, first - offset, held);
    if (ret == 0 && first < last && last < offset + bytes)
        ret = write_zeroes(node, last, offset + bytes - last, held);
    if (ret == 0 && flags & BLOCK_FUA)
        ret = block_node_co_flush(node);
    return ret;
}

/* Discard: advice, so that what cannot be freed is left. */

static int co_fn discard_piece(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    return node->driver->co_discard ? node->driver->co_discard(node, offset, bytes)
                                    : block_node_co_discard(node->filtered, offset, bytes);
}

int co_fn block_node_co_discard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    uint64_t most = node->limits.max_discard ? node->limits.max_discard : UINT64_MAX;
    uint64_t first = ALIGN_UP(offset, node->align_mask + 1), last, at;
    BlockNodeCell *cell;
    BlockWrite write;
    bool tracked;
    int ret = 0;

    if (node->config.read_only)
        return -EPERM;
    if (!in_bounds(node, offset, bytes))
        return -EIO;
    last = ALIGN_DOWN(offset + bytes, node->align_mask + 1);
    if (!node->config.discard || !(node->driver->co_discard || node->filtered) || first >= last)
        return 0;
    cell = block_node_cell(node);
    tracked = node->ordered && !block_write_enter_fast(node, cell);
    if (tracked)
        block_write_enter(node, &write, first, last - first, false);
    for (at = first; ret == 0 && at < last;) {
        uint64_t n = MIN(last - at, most);

        ret = discard_piece(node, at, n);
        at += n;
    }
    if (node->ordered)
        block_write_leave(node, cell, tracked ? &write : NULL);
    block_cell_add(&cell->written, 1);
    if (G_UNLIKELY(node->bitmaps != NULL))
        block_node_mark(node, first, last - first);
    return ret == -ENOTSUP ? 0 : ret;
}

/* Flush. */

static uint64_t written_so_far(BlockNode *node)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < BLOCK_SLOTS; i++) {
        BlockNodeCell *cell = __atomic_load_n(&node->cells.of[i], __ATOMIC_ACQUIRE);

        if (cell)
            n += __atomic_load_n(&cell->written, __ATOMIC_ACQUIRE);
    }
    return n;
}

bool block_node_is_dirty(BlockNode *node)
{
    return written_so_far(node) != __atomic_load_n(&node->flushed, __ATOMIC_ACQUIRE);
}

/*
 * At the bottom of the graph a flush after which nothing was written is left out: what it would make
 * stable is stable already.  After a failed flush nothing is known any more, and each is made.
 */
int co_fn block_node_co_flush(BlockNode *node)
{
    uint64_t written;
    int ret;

    if (node->config.no_flush || node->config.read_only)
        return 0;
    if (!node->driver->co_flush)
        return node->filtered ? block_node_co_flush(node->filtered) : 0;
    if (!node->driver->is_protocol)
        return node->driver->co_flush(node);
    written = written_so_far(node);
    if (written == __atomic_load_n(&node->flushed, __ATOMIC_ACQUIRE) &&
        !__atomic_load_n(&node->broken_flush, __ATOMIC_ACQUIRE))
        return 0;
    ret = node->driver->co_flush(node);
    if (ret < 0)
        __atomic_store_n(&node->broken_flush, true, __ATOMIC_RELEASE);
    else
        raise_u64(&node->flushed, written);
    return ret;
}

/* Copying in the host. */

int co_fn block_node_co_copy_range(BlockNode *node, uint64_t offset, BlockNode *from,
                                   uint64_t from_offset, uint64_t bytes)
{
    int ret;

    if (node->config.read_only)
        return -EPERM;
    if (!in_bounds(node, offset, bytes) || !in_bounds(from, from_offset, bytes))
        return -EIO;
    if (!node->driver->co_copy_range || (offset | from_offset | bytes) & node->align_mask)
        return -ENOTSUP;
    check_threshold(node, offset, bytes);
    ret = node->driver->co_copy_range(node, offset, from, from_offset, bytes);
    wrote(node, block_node_cell(node), offset, bytes, ret);
    return ret;
}

/* Map and resize. */

int co_fn block_node_co_map(BlockNode *node, uint64_t offset, uint64_t bytes, BlockMap *map)
{
    if (!in_bounds(node, offset, bytes) || !bytes)
        return -EIO;
    if (node->driver->co_map)
        return node->driver->co_map(node, offset, bytes, map);
    if (node->filtered)
        return block_node_co_map(node->filtered, offset, bytes, map);
    *map = (BlockMap){ .bytes = bytes, .flags = BLOCK_MAP_DATA | BLOCK_MAP_ALLOCATED };
    return 0;
}

static int co_fn resize_driver(BlockNode *node, uint64_t bytes, GError **error)
{
    return node->driver->co_resize ? node->driver->co_resize(node, bytes, error)
                                   : block_node_co_resize(node->filtered, bytes, error);
}

int co_fn block_node_co_resize(BlockNode *node, uint64_t bytes, GError **error)
{
    int ret;

    if (!node->driver->co_resize && !node->filtered) {
        fail(error, ERR_UNSUPPORTED, "block driver '%s' cannot change the size of an image",
             node->driver->name);
        return -ENOTSUP;
    }
    if (node->config.read_only) {
        fail(error, ERR_PERMISSION, "Block node '%s' is read-only", node->name);
        return -EPERM;
    }
    ret = resize_driver(node, bytes, error);
    if (ret == 0) {
        __atomic_store_n(&node->size, (gint64)bytes, __ATOMIC_RELEASE);
        block_node_resize_bitmaps(node, bytes);
    }
    return ret;
}

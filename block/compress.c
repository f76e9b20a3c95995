/* compress: a filter that has all that is written kept compressed, whole clusters at a time. */
#include "block/driver.h"
#include "block/image.h"
#include "block/iov.h"
#include "src/base/util.h"

typedef struct Compress {
    uint32_t cluster;                      /* bytes; what is smaller is read, changed and written */
} Compress;

static const char *const compress_options[] = { "file", NULL };

static uint32_t cluster_size(BlockNode *node)
{
    g_autoptr(json_object) info = block_node_image_info(node, NULL);
    json_object *value;

    return info && json_object_object_get_ex(info, "cluster-size", &value)
               ? json_object_get_int64(value)
               : 0;
}

static bool co_fn compress_open(BlockNode *node, json_object *options, GError **error)
{
    Compress *c = block_node_state(node);
    BlockNode *file = block_node_open_child(node, options, "file", true, error);
    const BlockDriver *driver = file ? block_driver_find(block_node_driver(file)) : NULL;

    if (!file)
        return false;
    c->cluster = cluster_size(file);
    if (driver->write_flags & BLOCK_COMPRESSED && is_power_of_2(c->cluster))
        return true;
    fail(error, ERR_UNSUPPORTED, "Compression is not supported under %s", driver->name);
    return error_object(error, "%s", block_node_name(file));
}

static void compress_limits(BlockNode *node, BlockLimits *limits)
{
    Compress *c = block_node_state(node);

    limits->request_alignment = c->cluster;
    limits->write_zeroes_granularity = MAX(limits->write_zeroes_granularity, c->cluster);
    limits->max_transfer = 0;
}

/* The last cluster may reach past the end of the disk. */
static uint64_t inside(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    uint64_t size = block_node_size(node);

    return offset < size ? MIN(bytes, size - offset) : 0;
}

static int co_fn compress_co_read(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                  int iovcnt, uint64_t bytes)
{
    uint64_t n = inside(node, offset, bytes);
    g_autofree struct iovec *part = n < bytes ? g_new(struct iovec, iovcnt) : NULL;

    if (!part)
        return block_node_co_read(block_node_file(node), offset, iov, iovcnt, bytes);
    iov_zero(iov, iovcnt, n, bytes - n);
    iovcnt = iov_slice(part, iovcnt, iov, iovcnt, 0, &n);
    return block_node_co_read(block_node_file(node), offset, part, iovcnt, n);
}

static int co_fn write_cluster(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                               uint64_t at, uint64_t bytes, unsigned flags)
{
    g_autofree struct iovec *part = g_new(struct iovec, iovcnt);
    int parts = iov_slice(part, iovcnt, iov, iovcnt, at, &bytes);

    return block_node_co_write(block_node_file(node), offset, part, parts, bytes,
                               flags | BLOCK_COMPRESSED);
}

static int co_fn compress_co_write(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                   int iovcnt, uint64_t bytes, unsigned flags)
{
    Compress *c = block_node_state(node);
    uint64_t left = inside(node, offset, bytes);
    int ret = 0;

    for (uint64_t done = 0, n; ret == 0 && done < left; done += n) {
        n = MIN(left - done, c->cluster);
        ret = write_cluster(node, offset + done, iov, iovcnt, done, n, flags);
    }
    return ret;
}

static int co_fn compress_co_zero(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    return block_node_co_zero(block_node_file(node), offset, inside(node, offset, bytes), flags);
}

static int co_fn compress_co_discard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    return block_node_co_discard(block_node_file(node), offset, inside(node, offset, bytes));
}

/* After a write that reached past the end, the core asks for the size that there is. */
static int co_fn compress_co_resize(BlockNode *node, uint64_t bytes, GError **error)
{
    BlockNode *file = block_node_file(node);

    return bytes == (uint64_t)block_node_size(file) ? 0 : block_node_co_resize(file, bytes, error);
}

static const BlockDriver compress_driver = {
    .name = "compress",
    .help = "compresses what is written",
    .size = sizeof(Compress),
    .options = compress_options,
    .is_filter = true,
    .aligns = true,
    .write_flags = BLOCK_FUA,
    .open = compress_open,
    .limits = compress_limits,
    .co_read = compress_co_read,
    .co_write = compress_co_write,
    .co_zero = compress_co_zero,
    .co_discard = compress_co_discard,
    .co_resize = compress_co_resize,
};
BLOCK_DRIVER(compress_driver)

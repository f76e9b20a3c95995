/*
 * null-co, null-aio: a disk of any size that keeps nothing, for measuring what is above it.  Reads
 * leave the buffer alone (the answer is undefined) unless read-zeroes is on.
 */
#include "block/driver.h"
#include "block/iov.h"
#include "src/base/util.h"

typedef struct Null {
    uint64_t size, latency_ns;
    bool read_zeroes;
} Null;

static const char *const null_options[] = { "size", "latency-ns", "read-zeroes", NULL };

static bool co_fn null_open(BlockNode *node, json_object *options, GError **error)
{
    Null *null = block_node_state(node);

    null->size = 1 * GiB;
    if (!options_get_size(options, "size", &null->size, error) ||
        !options_get_u64(options, "latency-ns", &null->latency_ns, error) ||
        !options_get_bool(options, "read-zeroes", &null->read_zeroes, error))
        return false;
    if (null->latency_ns > INT64_MAX)
        return fail(error, ERR_INVALID_PARAMETER, "latency-ns is invalid");
    if (null->size > INT64_MAX)
        return fail(error, ERR_INVALID_PARAMETER, "size is too large");
    for (const char *const *name = null_options; *name; name++)
        json_object_object_del(options, *name);
    block_node_set_filename(node, null->read_zeroes ? "null-co://,read-zeroes=on" : "null-co://");
    return true;
}

static int64_t null_get_size(BlockNode *node)
{
    return ((Null *)block_node_state(node))->size;
}

static int co_fn null_wait(Null *null)
{
    if (null->latency_ns)
        co_sleep_ns(null->latency_ns);
    return 0;
}

static int co_fn null_co_read(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                              uint64_t bytes)
{
    Null *null = block_node_state(node);

    if (null->read_zeroes)
        iov_zero(iov, iovcnt, 0, bytes);
    return null_wait(null);
}

static int co_fn null_co_write(BlockNode *node, uint64_t offset, const struct iovec *iov,
                               int iovcnt, uint64_t bytes, unsigned flags)
{
    return null_wait(block_node_state(node));
}

static int co_fn null_co_zero(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    return null_wait(block_node_state(node));
}

static int co_fn null_co_flush(BlockNode *node)
{
    return null_wait(block_node_state(node));
}

static int co_fn null_co_map(BlockNode *node, uint64_t offset, uint64_t bytes, BlockMap *map)
{
    Null *null = block_node_state(node);

    *map = (BlockMap){ .bytes = bytes, .host_offset = offset, .host_node = node,
                       .flags = BLOCK_MAP_OFFSET_VALID | BLOCK_MAP_ALLOCATED |
                                (null->read_zeroes ? BLOCK_MAP_ZERO : BLOCK_MAP_DATA) };
    return 0;
}

static int co_fn null_co_resize(BlockNode *node, uint64_t bytes, GError **error)
{
    ((Null *)block_node_state(node))->size = bytes;
    return 0;
}

static int64_t null_allocated_size(BlockNode *node)
{
    return 0;
}

#define NULL_DRIVER(name_, help_)                                                                  \
    {                                                                                              \
        .name = name_, .help = help_, .size = sizeof(Null), .options = null_options,               \
        .is_protocol = true, .write_flags = BLOCK_FUA, .open = null_open,                          \
        .get_size = null_get_size, .co_read = null_co_read, .co_write = null_co_write,             \
        .co_zero = null_co_zero, .co_flush = null_co_flush, .co_map = null_co_map,                 \
        .co_resize = null_co_resize, .allocated_size = null_allocated_size,                        \
    }

static const BlockDriver null_co_driver = NULL_DRIVER("null-co", "a disk that keeps nothing");
static const BlockDriver null_aio_driver = NULL_DRIVER("null-aio", "another name of null-co");
BLOCK_DRIVER(null_co_driver)
BLOCK_DRIVER(null_aio_driver)

/*
 * A disk of 1 MiB for the device target ("fuzz-disk"): it keeps nothing; what it does with a
 * request follows from its stripe of 64 KiB.
 */
#include <errno.h>
#include "block/driver.h"
#include "src/base/util.h"

enum { STRIPE = 64 * 1024, SLOW_NS = 200000 };

static bool disk_open(BlockNode *node, json_object *options, GError **error)
{
    return true;
}

static int64_t disk_get_size(BlockNode *node)
{
    return 1 * MiB;
}

/* 2, 3: after a while; 3, 5: an error; 4: no space. */
static int co_fn answer(uint64_t offset)
{
    unsigned stripe = offset / STRIPE % 8;

    if (stripe == 2 || stripe == 3)
        co_sleep_ns(SLOW_NS);
    return stripe == 3 || stripe == 5 ? -EIO : stripe == 4 ? -ENOSPC : 0;
}

static int co_fn disk_co_read(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                              uint64_t bytes)
{
    return answer(offset);
}

static int co_fn disk_co_write(BlockNode *node, uint64_t offset, const struct iovec *iov,
                               int iovcnt, uint64_t bytes, unsigned flags)
{
    return answer(offset);
}

static int co_fn disk_co_zero(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    return answer(offset);
}

static int co_fn disk_co_discard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    return answer(offset);
}

static int co_fn disk_co_flush(BlockNode *node)
{
    co_sleep_ns(SLOW_NS);
    return 0;
}

static const BlockDriver disk_driver = {
    .name = "fuzz-disk", .help = "a disk with slow and bad stripes", .is_protocol = true,
    .open = disk_open, .get_size = disk_get_size, .co_read = disk_co_read,
    .co_write = disk_co_write, .co_zero = disk_co_zero, .co_discard = disk_co_discard,
    .co_flush = disk_co_flush,
};
BLOCK_DRIVER(disk_driver)

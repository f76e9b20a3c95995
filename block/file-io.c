/* The verbs of the file and host_device drivers. */
#include "block/file-int.h"
#include "src/base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>

int co_fn file_co_read(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                       uint64_t bytes)
{
    FileNode *file = block_node_state(node);

    return aio_co_read(&file->aio, offset, iov, iovcnt, bytes);
}

int co_fn file_co_write(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                        uint64_t bytes, unsigned flags)
{
    FileNode *file = block_node_state(node);
    bool dsync = flags & BLOCK_FUA && !block_node_no_flush(node);

    return aio_co_write(&file->aio, offset, iov, iovcnt, bytes, dsync);
}

int co_fn file_co_flush(BlockNode *node)
{
    FileNode *file = block_node_state(node);

    return aio_co_fdatasync(&file->aio);
}

/* Not there, rather than failed. */
static bool is_missing(int err)
{
    return err == EOPNOTSUPP || err == ENOSYS || err == ENOTTY || err == ENODEV;
}

static bool known_missing(const bool *flag)
{
    return __atomic_load_n(flag, __ATOMIC_RELAXED);
}

static int co_fn try_fallocate(FileNode *file, int mode, uint64_t offset, uint64_t bytes,
                               bool *missing)
{
    int ret = aio_co_fallocate(&file->aio, mode, offset, bytes);

    if (ret < 0 && is_missing(-ret)) {
        __atomic_store_n(missing, true, __ATOMIC_RELAXED);
        return -ENOTSUP;
    }
    /* A device takes whole sectors only. */
    return ret == -EINVAL && file->is_device ? -ENOTSUP : ret;
}

/* On devices, too, fallocate does this (and keeps the page cache right): since Linux 4.9. */
int co_fn file_co_zero(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    FileNode *file = block_node_state(node);
    bool inside = offset + bytes <= (uint64_t)block_node_size(node);
    int ret = -ENOTSUP;

    if (flags & BLOCK_MAY_UNMAP && inside && !known_missing(&file->no_punch))
        ret = try_fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes,
                            &file->no_punch);
    if (ret == -ENOTSUP && !known_missing(&file->no_zero_range))
        ret = try_fallocate(file, FALLOC_FL_ZERO_RANGE, offset, bytes, &file->no_zero_range);
    return ret;
}

typedef struct DiscardCall {
    int fd;
    uint64_t range[2];
} DiscardCall;

static int do_blkdiscard(void *arg)
{
    DiscardCall *call = arg;

    return ioctl(call->fd, BLKDISCARD, call->range) < 0 ? -errno : 0;
}

static int co_fn discard(FileNode *file, uint64_t offset, uint64_t bytes)
{
    DiscardCall call = { file->aio.fd, { offset, bytes } };

    return file->is_device ? co_worker_call(do_blkdiscard, &call)
                           : aio_co_fallocate(&file->aio,
                                              FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                                              bytes);
}

int co_fn file_co_discard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    FileNode *file = block_node_state(node);
    int ret;

    if (known_missing(&file->no_discard))
        return -ENOTSUP;
    ret = discard(file, offset, bytes);
    if (ret == 0) {
        __atomic_fetch_add(&file->discards_ok, 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&file->discard_bytes, bytes, __ATOMIC_RELAXED);
        return 0;
    }
    __atomic_fetch_add(&file->discards_failed, 1, __ATOMIC_RELAXED);
    if (!is_missing(-ret))
        return ret;
    __atomic_store_n(&file->no_discard, true, __ATOMIC_RELAXED);
    return -ENOTSUP;
}

/* Map. */

typedef struct MapCall {
    int fd;
    off_t offset, data, hole;              /* out: where the next of each starts */
} MapCall;

static int do_map(void *arg)
{
    MapCall *call = arg;

    call->data = lseek(call->fd, call->offset, SEEK_DATA);
    if (call->data < 0)
        return -errno;                     /* ENXIO: nothing but a hole up to the end */
    call->hole = lseek(call->fd, call->offset, SEEK_HOLE);
    return call->hole < 0 ? -errno : 0;
}

int co_fn file_co_map(BlockNode *node, uint64_t offset, uint64_t bytes, BlockMap *map)
{
    FileNode *file = block_node_state(node);
    MapCall call = { .fd = file->aio.fd, .offset = offset };
    int ret = file->is_regular ? co_worker_call(do_map, &call) : -ENOTSUP;
    bool is_hole = ret == -ENXIO || (ret == 0 && call.data > (off_t)offset);
    uint64_t until = offset + bytes;

    if (ret == 0)
        until = MIN(until, (uint64_t)(is_hole ? call.data : call.hole));
    *map = (BlockMap){ .bytes = MAX(until, offset + 1) - offset, .host_offset = offset,
                       .host_node = node,
                       .flags = BLOCK_MAP_OFFSET_VALID | BLOCK_MAP_ALLOCATED |
                                (is_hole ? BLOCK_MAP_ZERO : BLOCK_MAP_DATA) };
    return 0;
}

/* Copying in the host. */

typedef struct CopyCall {
    int from, to;
    loff_t from_offset, to_offset;
    uint64_t bytes;
} CopyCall;

static int do_copy_range(void *arg)
{
    CopyCall *call = arg;

    while (call->bytes) {
        ssize_t n = copy_file_range(call->from, &call->from_offset, call->to, &call->to_offset,
                                    MIN(call->bytes, SSIZE_MAX), 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n && errno != EXDEV && errno != EINVAL && !is_missing(errno) ? -errno : -ENOTSUP;
        call->bytes -= n;
    }
    return 0;
}

int co_fn file_co_copy_range(BlockNode *node, uint64_t offset, BlockNode *from,
                             uint64_t from_offset, uint64_t bytes)
{
    FileNode *file = block_node_state(node), *other = block_node_state(from);
    CopyCall call = { .to = file->aio.fd, .from_offset = from_offset, .to_offset = offset,
                      .bytes = bytes };

    if (strcmp(block_node_driver(from), "file") || !file->is_regular)
        return -ENOTSUP;
    call.from = other->aio.fd;
    return co_worker_call(do_copy_range, &call);
}

/* Resize. */

typedef struct ResizeCall {
    int fd;
    uint64_t bytes;
} ResizeCall;

static int do_resize(void *arg)
{
    ResizeCall *call = arg;

    return ftruncate(call->fd, call->bytes) < 0 ? -errno : 0;
}

/* Less of a device than there is, or what it has become, is a size it can have. */
static int do_check_length(void *arg)
{
    ResizeCall *call = arg;
    int64_t length = file_length(call->fd);

    return length >= 0 && call->bytes <= (uint64_t)length ? 0 : -EINVAL;
}

int co_fn file_co_resize(BlockNode *node, uint64_t bytes, GError **error)
{
    FileNode *file = block_node_state(node);
    ResizeCall call = { file->aio.fd, bytes };
    int ret = co_worker_call(file->is_regular ? do_resize : do_check_length, &call);

    if (ret < 0 && !file->is_regular)
        fail(error, ERR_INVALID_PARAMETER, "Cannot grow device files");
    else if (ret < 0)
        fail_errno(error, -ret, "Failed to resize the file '%s'", block_node_filename(node));
    return ret;
}

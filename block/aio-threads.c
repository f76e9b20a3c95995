/* The engine that works everywhere: system calls of worker threads. */
#include "block/aio.h"
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

typedef struct RwCall {
    int fd, iovcnt, rw_flags;
    bool write;
    uint64_t offset;
    const struct iovec *iov;
    int64_t result;
} RwCall;

static int do_rw(void *arg)
{
    RwCall *call = arg;
    ssize_t n = call->write
                    ? pwritev2(call->fd, call->iov, call->iovcnt, call->offset, call->rw_flags)
                    : preadv2(call->fd, call->iov, call->iovcnt, call->offset, call->rw_flags);

    call->result = n < 0 ? -errno : n;
    return 0;
}

static int64_t co_fn threads_rw(const AioFile *file, bool write, uint64_t offset,
                                const struct iovec *iov, int iovcnt, int rw_flags)
{
    RwCall call = { .fd = file->fd, .iov = iov, .iovcnt = iovcnt, .rw_flags = rw_flags,
                    .write = write, .offset = offset };

    co_worker_call(do_rw, &call);
    return call.result;
}

static int do_fdatasync(void *arg)
{
    return fdatasync(*(const int *)arg) < 0 ? -errno : 0;
}

static int co_fn threads_fdatasync(const AioFile *file)
{
    int fd = file->fd;

    return co_worker_call(do_fdatasync, &fd);
}

typedef struct FallocateCall {
    int fd, mode;
    uint64_t offset, bytes;
} FallocateCall;

static int do_fallocate(void *arg)
{
    FallocateCall *call = arg;
    int ret;

    do
        ret = fallocate(call->fd, call->mode, call->offset, call->bytes);
    while (ret < 0 && errno == EINTR);
    return ret < 0 ? -errno : 0;
}

static int co_fn threads_fallocate(const AioFile *file, int mode, uint64_t offset, uint64_t bytes)
{
    FallocateCall call = { file->fd, mode, offset, bytes };

    return co_worker_call(do_fallocate, &call);
}

const AioEngine aio_threads = { .co_rw = threads_rw, .co_fdatasync = threads_fdatasync,
                                .co_fallocate = threads_fallocate };

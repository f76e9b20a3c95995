/* Requests on a descriptor, whole, by whichever engine. */
#include "block/aio.h"
#include "block/iov.h"
#include <errno.h>

const char *const aio_words[] = { "threads", "native", "io_uring", NULL };

static const AioEngine *const engines[] = {
    [AIO_THREADS] = &aio_threads, [AIO_NATIVE] = &aio_native, [AIO_URING] = &aio_uring
};

bool aio_available(AioKind kind, GError **error)
{
    switch (kind) {
    case AIO_URING:
        return aio_uring_available(error);
    case AIO_NATIVE:
        return aio_native_available(error);
    case AIO_THREADS:
        break;
    }
    return true;
}

static int co_fn transfer_rest(const AioFile *file, bool write, uint64_t offset,
                               const struct iovec *iov, int iovcnt, uint64_t bytes, int rw_flags,
                               int64_t n)
{
    g_autofree struct iovec *rest = g_new(struct iovec, iovcnt);
    /* A queue that was full, or an engine that cannot: a worker thread waits instead. */
    const AioEngine *engine = n == -EAGAIN || n == -EOPNOTSUPP ? &aio_threads
                                                               : engines[file->kind];
    uint64_t done = MAX(n, 0);

    for (;;) {
        uint64_t left = bytes - done;
        int parts = iov_slice(rest, iovcnt, iov, iovcnt, done, &left);

        n = engine->co_rw(file, write, offset + done, rest, parts, rw_flags);
        if (n == -EINTR)
            continue;
        if (n < 0)
            return n;
        if (n == 0)
            break;
        done += n;
        if (done >= bytes)
            return 0;
    }
    if (write)
        return -EIO;                       /* a write that makes no progress and gives no reason */
    iov_zero(iov, iovcnt, done, bytes - done);
    return 0;
}

static inline int co_fn transfer(const AioFile *file, bool write, uint64_t offset,
                                 const struct iovec *iov, int iovcnt, uint64_t bytes, int rw_flags)
{
    bool lane = write && !rw_flags && aio_has_lane(file, bytes);
    int64_t n = lane ? aio_lane_write(file, offset, iov, iovcnt)
                     : engines[file->kind]->co_rw(file, write, offset, iov, iovcnt, rw_flags);

    if (G_LIKELY(n == (int64_t)bytes))
        return 0;
    if (n < 0 && n != -EAGAIN && n != -EINTR && n != -EOPNOTSUPP)
        return n;
    return transfer_rest(file, write, offset, iov, iovcnt, bytes, rw_flags, n);
}

int co_fn aio_co_read(const AioFile *file, uint64_t offset, const struct iovec *iov, int iovcnt,
                      uint64_t bytes)
{
    return transfer(file, false, offset, iov, iovcnt, bytes, 0);
}

int co_fn aio_co_write(const AioFile *file, uint64_t offset, const struct iovec *iov, int iovcnt,
                       uint64_t bytes, bool dsync)
{
    return transfer(file, true, offset, iov, iovcnt, bytes, dsync ? RWF_DSYNC : 0);
}

int co_fn aio_co_fdatasync(const AioFile *file)
{
    return engines[file->kind]->co_fdatasync(file);
}

int co_fn aio_co_fallocate(const AioFile *file, int mode, uint64_t offset, uint64_t bytes)
{
    return engines[file->kind]->co_fallocate(file, mode, offset, bytes);
}

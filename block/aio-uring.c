/* io_uring, on the ring of the coroutine's loop: the loop submits once a turn. */
#include "block/aio.h"
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Asks without making a ring: where io_uring is there and allowed, the missing parameters are what
 * the call complains of.  A ring costs memory and time, and is made by the loop that first needs it. */
bool aio_uring_available(GError **error)
{
    if (syscall(__NR_io_uring_setup, 1, NULL) >= 0 || errno == EFAULT)
        return true;
    fail_errno(error, errno, "aio=io_uring is not available");
    return error_hint(error, "see sysctl kernel.io_uring_disabled, and seccomp filters of "
                             "containers; aio=threads works everywhere");
}

typedef struct UringRequest {
    LoopCqe cqe;
    Coroutine *co;
    int result;
    bool done;
} UringRequest;

static void uring_done(LoopCqe *cqe, int result)
{
    UringRequest *request = (UringRequest *)cqe;

    request->result = result;
    request->done = true;
    co_enter(request->co);
}

static struct io_uring_sqe *uring_begin(UringRequest *request)
{
    request->cqe.fn = uring_done;
    request->done = false;
    request->co = co_self();
    return loop_uring_sqe(loop_current(), &request->cqe);
}

static int co_fn uring_wait(UringRequest *request)
{
    do
        co_yield();
    while (G_UNLIKELY(!request->done));    /* somebody else's wake */
    return request->result;
}

/* The node was opened for io_uring, but this loop could not get a ring (RLIMIT_MEMLOCK, …). */
static bool no_ring(const AioFile *file)
{
    if (G_LIKELY(loop_uring_ok(loop_current(), NULL)))
        return false;
    aio_fall_back(file);
    return true;
}

static int64_t co_fn uring_rw(const AioFile *file, bool write, uint64_t offset,
                              const struct iovec *iov, int iovcnt, int rw_flags)
{
    UringRequest request;
    struct io_uring_sqe *sqe;

    if (no_ring(file))
        return aio_threads.co_rw(file, write, offset, iov, iovcnt, rw_flags);
    sqe = uring_begin(&request);
    /* The plain forms save the kernel copying the vector in. */
    if (iovcnt == 1 && iov->iov_len <= INT_MAX) {
        if (write)
            io_uring_prep_write(sqe, file->fd, iov->iov_base, iov->iov_len, offset);
        else
            io_uring_prep_read(sqe, file->fd, iov->iov_base, iov->iov_len, offset);
    } else if (write) {
        io_uring_prep_writev(sqe, file->fd, iov, iovcnt, offset);
    } else {
        io_uring_prep_readv(sqe, file->fd, iov, iovcnt, offset);
    }
    sqe->rw_flags = rw_flags;
    return uring_wait(&request);
}

static int co_fn uring_fdatasync(const AioFile *file)
{
    UringRequest request;

    if (no_ring(file))
        return aio_threads.co_fdatasync(file);
    io_uring_prep_fsync(uring_begin(&request), file->fd, IORING_FSYNC_DATASYNC);
    return uring_wait(&request);
}

static int co_fn uring_fallocate(const AioFile *file, int mode, uint64_t offset, uint64_t bytes)
{
    UringRequest request;

    if (no_ring(file))
        return aio_threads.co_fallocate(file, mode, offset, bytes);
    io_uring_prep_fallocate(uring_begin(&request), file->fd, mode, offset, bytes);
    return uring_wait(&request);
}

const AioEngine aio_uring = { .co_rw = uring_rw, .co_fdatasync = uring_fdatasync,
                              .co_fallocate = uring_fallocate };

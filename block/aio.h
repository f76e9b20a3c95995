/*
 * AIO engines: asynchronous I/O on a descriptor, in the calling coroutine's loop.
 *
 *   io_uring  entries go into the loop's own ring and are submitted once a turn of the loop
 *   native    Linux AIO; submitted once a turn of the loop, completed by an eventfd; needs O_DIRECT
 *   threads   each request is a system call of a worker thread; works everywhere
 *
 * An engine has no state in the node, so a node works from any number of loops at once.  Small
 * writes into the page cache go by a lane of the file instead (aio-lane.c), in patient loops and if
 * nobody asked for an engine.
 */
#pragma once
#include <sys/uio.h>
#include "src/base/coroutine.h"
#include "src/base/error.h"
#include "src/base/sched.h"

typedef enum AioKind { AIO_THREADS, AIO_NATIVE, AIO_URING } AioKind;
extern const char *const aio_words[];      /* "threads", "native", "io_uring" */

typedef struct AioLaneWrite AioLaneWrite;
typedef enum AioLaneUse { AIO_LANE_ASK, AIO_LANE_ALWAYS, AIO_LANE_NEVER } AioLaneUse;

/* All zero at first. */
typedef struct AioLane {
    AioLaneWrite *newest;                  /* atomic: those that wait, as aio-lane.c has it */
    AioLaneUse use;                        /* atomic: what the file system needs */
    bool slow;                             /* atomic: the last write that a loop did itself was */
    int64_t here_again_ns;                 /* atomic: until then no loop writes itself */
    WorkerJob job;
} AioLane;

typedef struct AioFile {
    int fd;
    AioKind kind;
    AioLane *lane;                         /* of a regular file in the page cache; NULL: none */
    unsigned max_batch;                    /* submit at the latest when so many wait; 0: a default */
    bool fell_back;                        /* atomic: some loop could not have the engine; its requests
                                              are worker threads' */
} AioFile;

static inline void aio_fall_back(const AioFile *file)
{
    __atomic_store_n((bool *)&file->fell_back, true, __ATOMIC_RELAXED);
}

/* Whether this host has the engine.  Main thread. */
bool aio_available(AioKind kind, GError **error);
bool aio_native_available(GError **error);
bool aio_uring_available(GError **error);

/* One system call's worth: bytes done, or -errno.  @rw_flags: RWF_DSYNC. */
typedef struct AioEngine {
    int64_t co_fn (*co_rw)(const AioFile *file, bool write, uint64_t offset,
                           const struct iovec *iov, int iovcnt, int rw_flags);
    int co_fn (*co_fdatasync)(const AioFile *file);
    int co_fn (*co_fallocate)(const AioFile *file, int mode, uint64_t offset, uint64_t bytes);
} AioEngine;
extern const AioEngine aio_threads, aio_native, aio_uring;

/* The same for a write through the file's lane. */
enum { AIO_LANE_BYTES = 64 << 10 };        /* larger ones gain nothing by it */
int64_t co_fn aio_lane_write(const AioFile *file, uint64_t offset, const struct iovec *iov,
                             int iovcnt);
static inline bool aio_has_lane(const AioFile *file, uint64_t bytes)
{
    return file->lane && bytes <= AIO_LANE_BYTES && loop_is_patient(loop_current()) &&
           __atomic_load_n(&file->lane->use, __ATOMIC_RELAXED) != AIO_LANE_NEVER && !sched_on();
}

/* The whole request: short transfers are continued; a read past the end gives zeroes.  0, -errno. */
int co_fn aio_co_read(const AioFile *file, uint64_t offset, const struct iovec *iov, int iovcnt,
                      uint64_t bytes);
int co_fn aio_co_write(const AioFile *file, uint64_t offset, const struct iovec *iov, int iovcnt,
                       uint64_t bytes, bool dsync);
int co_fn aio_co_fdatasync(const AioFile *file);
int co_fn aio_co_fallocate(const AioFile *file, int mode, uint64_t offset, uint64_t bytes);

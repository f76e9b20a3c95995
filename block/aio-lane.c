/*
 * Small writes into the page cache, of loops that serve remote clients only (loop_set_patient).  Most
 * file systems refuse to do these without waiting (for a journal, for room in the cache), so that
 * io_uring gives each to a kernel thread: waking it, and being woken by it, takes longer than the
 * copy.  Such a loop writes itself while that is quick.  Else one worker thread takes all that a
 * file's loops have for it and tells of them together.  Nothing is lost by going one after another:
 * the inode's lock lets nobody write beside another anyway.
 *
 * Other loops never wait for the file system: what a guest asks of another disk must go on.
 *
 * File systems that can write without waiting are left to io_uring, which does it in the loop.
 */
#include "block/aio.h"
#include "src/base/util.h"
#include <errno.h>

/* After TELL_NS what is done is told of, though the batch has not ended.  A loop does not write
 * itself for PAUSE times as long as it was held up: by one write for STALL_NS, or by two in
 * succession for SLOW_NS each (one may have lost its processor to others). */
enum { TELL_NS = 200000, SLOW_NS = 100000, STALL_NS = 10000000, PAUSE = 50 };

/*
 * A lane is a stack of writes, the newest first, and says who empties it.  LANE_IDLE: nobody; who
 * changes that starts a worker.  LANE_EMPTY: a worker, which has taken all there was and will look
 * again.  One of the two also ends the stack.
 */
#define LANE_IDLE NULL
#define LANE_EMPTY ((AioLaneWrite *)1)

struct AioLaneWrite {
    AioLaneWrite *next;
    int fd, iovcnt;
    const struct iovec *iov;
    uint64_t offset;
    int64_t result;
    bool done;                             /* the coroutine's thread */
    Coroutine *co;
    LoopBh finish;                         /* in the coroutine's loop */
};

/* All there is, the oldest first; NULL: nothing, and the lane is idle and may be gone. */
static AioLaneWrite *take_all(AioLane *lane)
{
    AioLaneWrite *write = LANE_EMPTY, *oldest = NULL, *next;

    if (__atomic_compare_exchange_n(&lane->newest, &write, LANE_IDLE, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_RELAXED))
        return NULL;
    write = __atomic_exchange_n(&lane->newest, LANE_EMPTY, __ATOMIC_ACQ_REL);
    for (; write != LANE_IDLE && write != LANE_EMPTY; write = next) {
        next = write->next;
        write->next = oldest;
        oldest = write;
    }
    return oldest;
}

/* Tells the loops, each once.  The records are their coroutines' then. */
static void tell(AioLaneWrite *list)
{
    while (list) {
        AioLaneWrite *others = NULL, **tail = &others, *next = list->next;
        LoopBh *last = &list->finish;

        for (AioLaneWrite *write = next; write; write = next) {
            next = write->next;
            if (write->finish.loop == last->loop) {
                last = last->next = &write->finish;
            } else {
                *tail = write;
                tail = &write->next;
            }
        }
        *tail = NULL;
        last->next = NULL;
        loop_bh_schedule_list(&list->finish);
        list = others;
    }
}

static void do_write(AioLaneWrite *write)
{
    ssize_t n = pwritev(write->fd, write->iov, write->iovcnt, write->offset);

    write->result = n < 0 ? -errno : n;
}

/* The lane is let go before its last writes are told of: whoever waits for those may free it. */
static void empty_lane(WorkerJob *job)
{
    AioLane *lane = container_of(job, AioLane, job);
    AioLaneWrite *list = take_all(lane);

    while (list) {
        AioLaneWrite *done = list, *write = list;
        int64_t began = loop_clock_ns();

        for (do_write(write); write->next; do_write(write)) {
            AioLaneWrite *last = write;

            write = write->next;
            if (loop_clock_ns() - began < TELL_NS)
                continue;
            last->next = NULL;
            tell(done);
            done = write;
            began = loop_clock_ns();
        }
        list = take_all(lane);
        tell(done);
    }
}

static void finish(void *opaque)
{
    AioLaneWrite *write = opaque;

    write->done = true;
    co_enter(write->co);
}

/* True if nobody empties the lane.  The record may be done with as soon as it is in. */
static bool add(AioLane *lane, AioLaneWrite *write)
{
    AioLaneWrite *before = __atomic_load_n(&lane->newest, __ATOMIC_RELAXED);

    do
        write->next = before;
    while (!__atomic_compare_exchange_n(&lane->newest, &before, write, true, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED));
    return before == LANE_IDLE;
}

/*
 * In the loop itself, while that is quick: no thread is woken.  What can hold such a write up is a
 * cache full of dirty pages (200 ms at a time), a journal that is being committed, a page that has to
 * be read first.  Then the worker writes for a time in proportion, so that other requests of the
 * loop's clients lose no more than a fiftieth of their time by it.
 */
static bool write_here(AioLane *lane, AioLaneWrite *write)
{
    int64_t began, took;
    bool slow;

    if (__atomic_load_n(&lane->newest, __ATOMIC_RELAXED) != LANE_IDLE)
        return false;
    began = loop_clock_ns();
    if (began < __atomic_load_n(&lane->here_again_ns, __ATOMIC_RELAXED))
        return false;
    do_write(write);
    took = loop_clock_ns() - began;
    slow = took >= SLOW_NS;
    if (took >= STALL_NS || (slow && __atomic_load_n(&lane->slow, __ATOMIC_RELAXED)))
        __atomic_store_n(&lane->here_again_ns, began + took * PAUSE, __ATOMIC_RELAXED);
    __atomic_store_n(&lane->slow, slow, __ATOMIC_RELAXED);
    return true;
}

/* Once for each file: can it be written without waiting? */
static bool ask(AioLane *lane, const AioLaneWrite *write, int64_t *ret)
{
    ssize_t n = pwritev2(write->fd, write->iov, write->iovcnt, write->offset, RWF_NOWAIT);
    bool can = n >= 0 || errno != EOPNOTSUPP;

    *ret = n < 0 ? -errno : n;
    __atomic_store_n(&lane->use, can ? AIO_LANE_NEVER : AIO_LANE_ALWAYS, __ATOMIC_RELAXED);
    return can;
}

int64_t co_fn aio_lane_write(const AioFile *file, uint64_t offset, const struct iovec *iov,
                             int iovcnt)
{
    AioLane *lane = file->lane;
    AioLaneWrite write = { .fd = file->fd, .iov = iov, .iovcnt = iovcnt, .offset = offset,
                           .co = co_self() };
    int64_t n;

    if (__atomic_load_n(&lane->use, __ATOMIC_RELAXED) == AIO_LANE_ASK && ask(lane, &write, &n))
        return n;
    if (write_here(lane, &write))
        return write.result;
    loop_bh_init(&write.finish, co_loop(write.co), finish, &write);
    loop_count_io(co_loop(write.co), 1);
    if (add(lane, &write) && !worker_post(&lane->job, empty_lane))
        empty_lane(&lane->job);            /* no thread to be had: as co_worker_call does */
    while (!write.done)
        co_yield();
    loop_count_io(co_loop(write.co), -1);
    return write.result;
}

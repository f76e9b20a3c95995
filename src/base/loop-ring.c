/*
 * io_uring.  An own loop waits in io_uring_enter, one system call a turn that also submits what the
 * turn has prepared; descriptors are one-shot polls, armed again in the same call.  The main loop has
 * a ring only when somebody asks for it, and waits for its descriptor.  Where the host has no
 * io_uring (old kernel, kernel.io_uring_disabled, seccomp), an own loop waits in ppoll.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "src/base/error.h"
#include "src/base/loop-int.h"
#include "src/base/util.h"

enum { RING_ENTRIES = 256, RING_COMPLETIONS = 1024, POLL_FIRST_NS = 4000, SETTLE_MS = 100 };

/* Newer kernels defer completion work to the submitter's own waits, which saves interrupts; each
 * older one refuses a flag it does not know with EINVAL.  A ring of an own loop starts disabled: the
 * thread that enables it is the one that submits. */
static int try_create(Loop *loop, unsigned flags)
{
    struct io_uring_params params = { .flags = flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
                                      .cq_entries = RING_COMPLETIONS };
    return io_uring_queue_init_params(RING_ENTRIES, &loop->ring, &params);
}

void ring_create(Loop *loop)
{
    const unsigned own = IORING_SETUP_R_DISABLED;
    const unsigned tries[] = {
        own | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        own | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        own,
    };
    int r = -EINVAL;
    if (loop->is_main) {
        r = try_create(loop, IORING_SETUP_COOP_TASKRUN);
        if (r == -EINVAL)
            r = try_create(loop, 0);
    } else {
        for (unsigned i = 0; i < G_N_ELEMENTS(tries) && r == -EINVAL; i++)
            r = try_create(loop, tries[i]);
    }
    if (r < 0) {
        loop->ring_errno = -r;
        loop->ring_state = RING_FAILED;
        return;
    }
    io_uring_ring_dontfork(&loop->ring);
    loop->ring_state = loop->is_main ? RING_ON : RING_DISABLED;
    if (loop->is_main)
        loop_main_watch_ring(loop);
}

void ring_destroy(Loop *loop)
{
    if (loop->ring_state == RING_ON || loop->ring_state == RING_DISABLED)
        io_uring_queue_exit(&loop->ring);
    loop->ring_state = RING_FAILED;
    while (loop->poll_reqs.head) {
        PollReq *req = loop->poll_reqs.head->data;
        g_queue_unlink(&loop->poll_reqs, &req->link);
        if (req->watch)
            req->watch->req = NULL;
        g_free(req);
    }
    for (GList *l = loop->fds.head; l; l = l->next) {
        LoopFd *watch = l->data;
        g_clear_pointer(&watch->req, g_free);
    }
}

static bool ring_ready(Loop *loop)
{
    if (G_LIKELY(loop->ring_state == RING_ON))
        return true;
    if (loop->ring_state != RING_DISABLED)
        return false;
    /* liburing 2.3 declares io_uring_enable_rings and does not export it. */
    if (syscall(__NR_io_uring_register, loop->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0)) {
        loop->ring_errno = errno;
        io_uring_queue_exit(&loop->ring);
        loop->ring_state = RING_FAILED;
        return false;
    }
    loop->ring_state = RING_ON;
    return true;
}

bool loop_uring_ok(Loop *loop, GError **error)
{
    if (loop->ring_state == RING_UNTRIED)
        ring_create(loop);
    if (loop->ring_state != RING_FAILED)
        return true;
    fail_errno(error, loop->ring_errno, "io_uring is not available");
    return error_hint(error, "see sysctl kernel.io_uring_disabled, and seccomp filters of "
                             "containers");
}

/* --- Completions --- */

unsigned ring_completions(Loop *loop)
{
    unsigned count = loop->stash->len;
    if (loop->ring_state != RING_ON)
        return count;
    /* With deferred work the completion is posted only when we ask for it. */
    if (!io_uring_cq_ready(&loop->ring) &&
        (IO_URING_READ_ONCE(*loop->ring.sq.kflags) &
         (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)))
        io_uring_get_events(&loop->ring);
    return count + io_uring_cq_ready(&loop->ring);
}

/* Takes all out of the ring, to make room in it or to draw from them. */
static void stash_completions(Loop *loop)
{
    struct io_uring_cqe *entry;
    while (io_uring_peek_cqe(&loop->ring, &entry) == 0) {
        Completion c = { io_uring_cqe_get_data(entry), entry->res };
        io_uring_cqe_seen(&loop->ring, entry);
        g_array_append_val(loop->stash, c);
    }
}

static bool take_completion(Loop *loop, unsigned index, Completion *ret)
{
    struct io_uring_cqe *entry;
    if (sched_on() && loop->ring_state == RING_ON)
        stash_completions(loop);
    if (loop->stash->len) {
        if (index >= loop->stash->len)
            return false;
        *ret = g_array_index(loop->stash, Completion, index);
        g_array_remove_index(loop->stash, index);
        return true;
    }
    if (loop->ring_state != RING_ON || io_uring_peek_cqe(&loop->ring, &entry) != 0)
        return false;
    *ret = (Completion){ io_uring_cqe_get_data(entry), entry->res };
    io_uring_cqe_seen(&loop->ring, entry);
    return true;
}

static void wake_done(LoopCqe *cqe, int res)
{
    container_of(cqe, Loop, wake_cqe)->wake_armed = false;
}

static void poll_done(LoopCqe *cqe, int res);

bool ring_complete_one(Loop *loop, unsigned index)
{
    Completion c;
    if (!take_completion(loop, index, &c))
        return false;
    if (!c.cqe) /* of a poll's cancellation */
        return true;
    if (c.cqe->fn != wake_done && c.cqe->fn != poll_done)
        loop->in_flight--;
    c.cqe->fn(c.cqe, c.res);
    return true;
}

/* --- Submission --- */

static struct io_uring_sqe *get_sqe(Loop *loop)
{
    struct io_uring_sqe *sqe;
    while (!(sqe = io_uring_get_sqe(&loop->ring))) {
        /* Full.  EBUSY and EAGAIN: completions must be taken out before more goes in. */
        int r = io_uring_submit(&loop->ring);
        if (r == -EBUSY || r == -EAGAIN)
            stash_completions(loop);
        else if (r < 0 && r != -EINTR)
            g_error("loop '%s': io_uring_submit: %s", loop->name, g_strerror(-r));
    }
    return sqe;
}

struct io_uring_sqe *loop_uring_sqe(Loop *loop, LoopCqe *cqe)
{
    bool usable = loop_uring_ok(loop, NULL) && ring_ready(loop);
    g_assert(usable);
    if (loop->batch_max && io_uring_sq_ready(&loop->ring) >= loop->batch_max)
        io_uring_submit(&loop->ring);
    struct io_uring_sqe *sqe = get_sqe(loop);
    io_uring_sqe_set_data(sqe, cqe);
    loop->in_flight++;
    return sqe;
}

void loop_set_batch(Loop *loop, unsigned max)
{
    loop->batch_max = max;
}

void ring_submit(Loop *loop)
{
    if (loop->ring_state == RING_ON && io_uring_sq_ready(&loop->ring))
        io_uring_submit(&loop->ring);
}

void loop_uring_flush(Loop *loop)
{
    ring_submit(loop);
}

static struct __kernel_timespec to_timespec(int64_t ns)
{
    return (struct __kernel_timespec){ .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };
}

void ring_settle(Loop *loop)
{
    struct io_uring_cqe *entry;
    struct __kernel_timespec ts = to_timespec(SETTLE_MS * INT64_C(1000000));
    if (loop->ring_state != RING_ON || !loop->in_flight)
        return;
    stash_completions(loop);
    unsigned told = 0;
    for (unsigned i = 0; i < loop->stash->len; i++) {
        LoopCqe *cqe = g_array_index(loop->stash, Completion, i).cqe;
        told += cqe && cqe->fn != wake_done && cqe->fn != poll_done;
    }
    if (told < loop->in_flight)
        io_uring_submit_and_wait_timeout(&loop->ring, &entry, loop->in_flight - told, &ts, NULL);
    stash_completions(loop);
}

/* --- Descriptors of own loops --- */

static void poll_done(LoopCqe *cqe, int res)
{
    PollReq *req = (PollReq *)cqe;
    LoopFd *watch = req->watch;
    g_queue_unlink(&req->loop->poll_reqs, &req->link);
    if (!watch) {
        g_free(req);
        return;
    }
    watch->armed = false;
    loop_fd_queue(watch, &watch->loop->unarmed);
    unsigned ready = res < 0 ? G_IO_ERR : (unsigned)res;
    if (ready)
        watch->fn(watch->opaque, ready);
}

static void arm(LoopFd *watch)
{
    Loop *loop = watch->loop;
    if (!watch->req) {
        watch->req = g_new0(PollReq, 1);
        *watch->req = (PollReq){ .cqe.fn = poll_done, .loop = loop, .watch = watch };
        watch->req->link.data = watch->req;
    }
    struct io_uring_sqe *sqe = get_sqe(loop);
    io_uring_prep_poll_add(sqe, watch->fd, watch->events);
    io_uring_sqe_set_data(sqe, &watch->req->cqe);
    g_queue_push_tail_link(&loop->poll_reqs, &watch->req->link);
    watch->armed = true;
    loop_fd_queue(watch, NULL);
}

/* The request in flight holds the file: it is taken back at once, so that the caller's close has
 * its effect now. */
void ring_unwatch(LoopFd *watch)
{
    Loop *loop = watch->loop;
    PollReq *req = g_steal_pointer(&watch->req);
    if (!req)
        return;
    if (!watch->armed) {
        g_free(req);
        return;
    }
    watch->armed = false;
    req->watch = NULL;
    struct io_uring_sqe *sqe = get_sqe(loop);
    io_uring_prep_poll_remove(sqe, (uintptr_t)&req->cqe);
    io_uring_sqe_set_data(sqe, NULL);
    io_uring_submit_and_get_events(&loop->ring);
}

/* --- Waiting --- */

static void arm_all(Loop *loop)
{
    while (loop->unarmed.head)
        arm(loop->unarmed.head->data);
    if (!loop->wake_armed) {
        struct io_uring_sqe *sqe = get_sqe(loop);
        io_uring_prep_read(sqe, loop->wake_fd, &loop->wake_value, sizeof(loop->wake_value), 0);
        io_uring_sqe_set_data(sqe, &loop->wake_cqe);
        loop->wake_cqe.fn = wake_done;
        loop->wake_armed = true;
    }
}

/* One call: submits what is there and sleeps until a completion or the timeout (-1: none). */
static void submit_and_sleep(Loop *loop, int64_t timeout_ns)
{
    struct io_uring_cqe *entry;
    struct __kernel_timespec ts = to_timespec(timeout_ns);
    __atomic_store_n(&loop->waiting, 1, __ATOMIC_SEQ_CST);
    if (loop_has_work(loop)) {
        __atomic_store_n(&loop->waiting, 0, __ATOMIC_SEQ_CST);
        ring_submit(loop);
        return;
    }
    if (timeout_ns < 0)
        io_uring_submit_and_wait(&loop->ring, 1);
    else
        io_uring_submit_and_wait_timeout(&loop->ring, &entry, 1, &ts, NULL);
    __atomic_store_n(&loop->waiting, 0, __ATOMIC_SEQ_CST);
}

/* The fall-back without io_uring. */
static void poll_and_sleep(Loop *loop, int64_t timeout_ns)
{
    unsigned count = loop->fds.length + 1;
    g_autofree struct pollfd *fds = g_new0(struct pollfd, count);
    unsigned i = 0;
    while (loop->unarmed.head) /* all that is asked for is polled; see run_fd */
        loop_fd_queue(loop->unarmed.head->data, NULL);
    for (GList *l = loop->fds.head; l; l = l->next) {
        LoopFd *watch = l->data;
        fds[i++] = (struct pollfd){ .fd = watch->events ? watch->fd : -1,
                                    .events = (short)watch->events };
    }
    fds[i] = (struct pollfd){ .fd = loop->wake_fd, .events = POLLIN };
    struct timespec ts = { .tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000 };
    __atomic_store_n(&loop->waiting, 1, __ATOMIC_SEQ_CST);
    if (loop_has_work(loop))
        ts = (struct timespec){ 0 }, timeout_ns = 0;
    int r = ppoll(fds, count, timeout_ns < 0 ? NULL : &ts, NULL);
    __atomic_store_n(&loop->waiting, 0, __ATOMIC_SEQ_CST);
    if (r <= 0)
        return;
    if (fds[i].revents && read(loop->wake_fd, &loop->wake_value, sizeof(loop->wake_value)) < 0)
        loop->wake_value = 0;
    i = 0;
    for (GList *l = loop->fds.head; l; l = l->next, i++) {
        LoopFd *watch = l->data;
        if (fds[i].revents) {
            watch->ready = (unsigned)fds[i].revents;
            loop_fd_queue(watch, &loop->ready_fds);
        }
    }
}

/* --- Busy polling, for as long as sleeps have lately been short --- */

LoopPoll *loop_add_poll(Loop *loop, bool (*fn)(void *opaque), void *opaque)
{
    LoopPoll *poll = g_new(LoopPoll, 1);
    *poll = (LoopPoll){ .loop = loop, .fn = fn, .opaque = opaque };
    g_ptr_array_add(loop->polls, poll);
    return poll;
}

void loop_poll_remove(LoopPoll *poll)
{
    if (!poll)
        return;
    g_ptr_array_remove(poll->loop->polls, poll);
    g_free(poll);
}

void loop_poll_set_edges(LoopPoll *poll, void (*begin)(void *opaque), bool (*end)(void *opaque))
{
    poll->begin = begin;
    poll->end = end;
}

void loop_set_poll_params(Loop *loop, LoopPollParams params)
{
    loop->poll_params = params;
    memset(loop->polling, 0, sizeof(loop->polling));
}

void loop_count_io(Loop *loop, int change)
{
    loop->other_io += change;
}

/* Hooks may remove themselves or others: the array is read anew at each step, here and below. */
static void begin_polling(Loop *loop)
{
    for (unsigned i = 0; i < loop->polls->len; i++) {
        LoopPoll *poll = loop->polls->pdata[i];
        if (poll->begun || !poll->begin)
            continue;
        poll->begun = true;
        poll->begin(poll->opaque);
    }
}

static bool end_polling(Loop *loop)
{
    bool found = false;
    for (unsigned i = 0; i < loop->polls->len; i++) {
        LoopPoll *poll = loop->polls->pdata[i];
        if (!poll->begun)
            continue;
        poll->begun = false;
        found |= poll->end(poll->opaque);
    }
    return found;
}

static bool call_hooks(Loop *loop)
{
    bool found = false;
    for (unsigned i = 0; i < loop->polls->len; i++) {
        LoopPoll *poll = loop->polls->pdata[i];
        found |= poll->fn(poll->opaque);
    }
    return found;
}

static bool busy_poll(Loop *loop, int64_t end)
{
    ring_submit(loop);
    begin_polling(loop);
    do {
        if (call_hooks(loop))
            return true;
        if (loop_has_work(loop))
            return false;
        __builtin_ia32_pause();
    } while (loop_clock_ns() < end);
    return false;
}

/* A completion that the hardware takes tens of microseconds for is worth more polling than a kick
 * that may never come: the sleep and the wake-up would double it, and cost as much CPU. */
static int64_t poll_limit(const Loop *loop, WaitKind kind)
{
    const LoopPollParams *p = &loop->poll_params;
    return kind == WAIT_IO && p->max_ns ? MAX(p->max_ns, p->io_max_ns) : p->max_ns;
}

/*
 * @ns: from the turn's begin until something was there.  After a sleep that holds the time to wake up,
 * too (WAKE_NS): what looks a little too long may be in reach of polling, so it is tried.  When more
 * than a third of the polls are in vain, polling rests for PAUSE_TURNS sleeps, and for twice as many
 * each time that it comes to nothing again: whoever is waited for may need this very processor.  One
 * long wait says that the users are idle, which ends polling at once; of a request it says nothing
 * about the next.
 */
static void adapt(Loop *loop, WaitKind kind, int64_t ns)
{
    enum { WAKE_NS = 30000, MISS = 2, MISSES_MAX = 16, PAUSE_TURNS = 256, PAUSE_MAX = 8192 };
    Polling *p = &loop->polling[kind];
    int64_t limit = poll_limit(loop, kind);
    bool in_reach = ns <= limit + WAKE_NS;

    if (ns <= p->ns) {
        if (p->misses)
            p->misses--;
        else if (p->next_pause)
            p->next_pause--;
    } else if (!in_reach && (kind == WAIT_USER || !p->ns)) {
        p->ns = loop->poll_params.shrink > 0 ? p->ns / loop->poll_params.shrink : 0;
    } else if (p->pause) {
        p->pause--;
    } else if (in_reach && p->ns < limit) {
        int64_t factor = loop->poll_params.grow > 0 ? loop->poll_params.grow : 2;
        bool small = p->ns < limit / factor;
        p->ns = MIN(!p->ns ? POLL_FIRST_NS : small ? p->ns * factor : limit, limit);
    } else if ((p->misses += MISS) >= MISSES_MAX) {
        unsigned pause = CLAMP(p->next_pause, PAUSE_TURNS, PAUSE_MAX);

        *p = (Polling){ .pause = pause, .next_pause = 2 * pause };
    }
}

bool ring_wait(Loop *loop, bool may_block)
{
    bool ring = ring_ready(loop), found = false;
    if (ring)
        arm_all(loop);
    if (sched_on())
        ring_settle(loop);
    int64_t timeout = may_block && !loop_has_work(loop) ? loop_timeout_ns(loop) : 0;
    bool adaptive = timeout != 0 && loop->poll_params.max_ns > 0;
    WaitKind kind = (int)loop->in_flight + loop->other_io > 0 ? WAIT_IO : WAIT_USER;
    int64_t start = adaptive ? loop_clock_ns() : 0, poll_ns = loop->polling[kind].ns;
    if (timeout > 0)
        poll_ns = MIN(poll_ns, timeout);
    if (adaptive && poll_ns > 0 && busy_poll(loop, start + poll_ns)) {
        found = true;
        timeout = 0;
    } else if (timeout != 0 && !loop_has_work(loop) && end_polling(loop)) {
        found = true;
        timeout = 0;
    }
    /* The time that submitting takes, a disk's doorbell, is no part of a wait that polling has ended. */
    if (found && adaptive) {
        adapt(loop, kind, loop_clock_ns() - start);
        adaptive = false;
    }
    if (!ring)
        poll_and_sleep(loop, timeout);
    else if (timeout != 0)
        submit_and_sleep(loop, timeout);
    else if (io_uring_sq_ready(&loop->ring))
        io_uring_submit_and_get_events(&loop->ring);
    if (adaptive)
        adapt(loop, kind, loop_clock_ns() - start);
    return found;
}

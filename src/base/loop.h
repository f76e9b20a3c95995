/*
 * Event loops.  Every thread that waits has one Loop: the main thread's is built on GLib's default
 * main context (so that GLib sources and ours run together), an iothread's on an io_uring that also
 * polls descriptors.  Callbacks of a loop run in its thread, one at a time.
 *
 * The main loop drops the VM lock while it waits and holds it while it dispatches (loop_set_vm_lock).
 * An iothread never takes the VM lock: what needs it is posted to the main loop.
 */
#pragma once
#include <glib.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>
#include "src/base/vmlock.h"

typedef struct Loop Loop;
typedef void LoopFn(void *opaque);

Loop *loop_main(void);     /* made on first use, by the main thread */
Loop *loop_current(void);  /* the calling thread's; NULL in a thread without one (vCPU, worker) */
bool loop_is_current(const Loop *loop);

/* A loop of its own, for an iothread or a test.  The thread that calls loop_run owns it. */
Loop *loop_new(const char *name, GError **error);
void loop_free(Loop *loop);            /* must not be running; frees what is still registered */
void loop_run(Loop *loop);             /* until loop_quit */
void loop_quit(Loop *loop);            /* any thread */
bool loop_iterate(Loop *loop, bool may_block);  /* owner only; true if something was dispatched */

/* Runs the calling thread's loop until *done is true (set by a callback or, with loop_kick, from
 * another thread).  For start-up and tools; callbacks may nest it, guest data paths must not. */
void loop_wait(bool *done);
void loop_kick(Loop *loop);            /* any thread: makes loop_iterate return */

void loop_set_vm_lock(Loop *main_loop, VmLock *lock);   /* main loop only; NULL: none */

/* A loop that may wait for the host's file system for a moment, as it serves remote clients only: no
 * guest's device, no monitor.  Off at first.  Owner only. */
void loop_set_patient(Loop *loop, bool patient);
bool loop_is_patient(const Loop *loop);

/* Deferred work.  loop_post: any thread, in order of posting, never blocks.
 * loop_call: runs fn in the loop's thread and waits for it; at once if it is the current one. */
void loop_post(Loop *loop, LoopFn *fn, void *opaque);
void loop_call(Loop *loop, LoopFn *fn, void *opaque);

/* A bottom half: a callback that is scheduled any number of times and runs once.  Embedded. */
typedef struct LoopBh {
    Loop *loop;
    LoopFn *fn;
    void *opaque;
    bool scheduled;         /* atomic */
    struct LoopBh *next;
} LoopBh;
void loop_bh_init(LoopBh *bh, Loop *loop, LoopFn *fn, void *opaque);
void loop_bh_schedule(LoopBh *bh);     /* any thread */
/* All of a list at once, with one wake: linked by `next` in the order in which they shall run, of one
 * loop, none of them scheduled.  Any thread. */
void loop_bh_schedule_list(LoopBh *first);
void loop_bh_cancel(LoopBh *bh);       /* owner only */

/* Descriptors.  @events: G_IO_IN | G_IO_OUT.  The callback gets what is ready (with G_IO_ERR,
 * G_IO_HUP).  Owner's thread only, as is everything below. */
typedef struct LoopFd LoopFd;
typedef void LoopFdFn(void *opaque, unsigned events);
LoopFd *loop_add_fd(Loop *loop, int fd, unsigned events, LoopFdFn *fn, void *opaque);
void loop_fd_set_events(LoopFd *watch, unsigned events);
void loop_fd_remove(LoopFd *watch);    /* also from inside its callback */

/* A busy-poll hook of an iothread: called while the loop polls before it sleeps (poll-max-ns);
 * returns true if it found work (and did it).  Used by virtqueues.  Completions of the ring, and
 * posted work, need no hook. */
typedef struct LoopPoll LoopPoll;
LoopPoll *loop_add_poll(Loop *loop, bool (*fn)(void *opaque), void *opaque);
void loop_poll_remove(LoopPoll *poll);
/* @begin: from now on the hook is called whenever the loop waits; @end: not any more, the loop is about
 * to sleep.  @end returns true if it found (and did) work.  They alternate; neither is called for a
 * hook that is removed. */
void loop_poll_set_edges(LoopPoll *poll, void (*begin)(void *opaque), bool (*end)(void *opaque));
typedef struct LoopPollParams {
    int64_t max_ns, grow, shrink;      /* 0: never poll; factors, 0: default */
    int64_t io_max_ns;                 /* instead of a shorter max_ns while requests are in flight */
} LoopPollParams;
void loop_set_poll_params(Loop *loop, LoopPollParams params);
/* Requests in flight besides those of loop_uring_sqe: @change more (an AIO context's); or fewer: an
 * entry that waits for a client, not for a disk, is none. */
void loop_count_io(Loop *loop, int change);

/* Timers, on CLOCK_MONOTONIC in ns.  Embedded; re-arming moves it; a fired timer is idle. */
typedef struct LoopTimer {
    Loop *loop;
    LoopFn *fn;
    void *opaque;
    int64_t expire_ns;                 /* -1: idle */
    unsigned heap_index;
} LoopTimer;
int64_t loop_clock_ns(void);
void loop_timer_init(LoopTimer *timer, Loop *loop, LoopFn *fn, void *opaque);
void loop_timer_set(LoopTimer *timer, int64_t expire_ns);
void loop_timer_cancel(LoopTimer *timer);

/* Data of the loop's own, by the address of something of its user: an engine's state, for instance.
 * loop_free calls @free last, when descriptors and timers of the loop are gone. */
void *loop_get_data(Loop *loop, const void *key);      /* NULL: none */
void loop_set_data(Loop *loop, const void *key, void *data, void (*free)(void *data));

/* io_uring.  An entry prepared here is submitted with all others of this turn of the loop in one
 * system call (or at once by loop_uring_flush); its completion calls cqe->fn.  loop_uring_ok says
 * whether the host has io_uring at all (probed once, lazily; block/ falls back when it has not).
 * An entry asked for while the queue is full submits what is there first; it never fails. */
typedef struct LoopCqe LoopCqe;
struct LoopCqe {
    void (*fn)(LoopCqe *cqe, int res); /* res: as io_uring's */
};
bool loop_uring_ok(Loop *loop, GError **error);
struct io_uring_sqe *loop_uring_sqe(Loop *loop, LoopCqe *cqe);
void loop_uring_flush(Loop *loop);
/* Submits early when @max entries wait (aio-max-batch); 0: only a full queue does. */
void loop_set_batch(Loop *loop, unsigned max);

/*
 * Coroutines: functions marked co_fn may wait (co_yield) without blocking their loop.  A coroutine
 * belongs to the loop in which it was entered first and is always resumed there.  Stacks are
 * pooled per thread; the switch is assembler, with annotations for ASan and TSan.
 */
#pragma once
#include <pthread.h>
#include "src/base/loop.h"

#define co_fn  /* may yield: call it from a coroutine only */

typedef struct Coroutine Coroutine;
typedef void co_fn CoroutineFn(void *opaque);

Coroutine *co_new(CoroutineFn *fn, void *opaque);
void co_enter(Coroutine *co);          /* runs it, in the calling thread, until it yields or ends */
void co_fn co_yield(void);             /* back to whoever entered; a wake resumes it */
Coroutine *co_self(void);              /* NULL outside a coroutine */
static inline void co_start(CoroutineFn *fn, void *opaque)
{
    co_enter(co_new(fn, opaque));
}
Loop *co_loop(const Coroutine *co);

/* Resume a coroutine that has yielded or is about to: in its loop, soon, once.  Any thread. */
void co_wake(Coroutine *co);

/* Runs fn in a coroutine of the calling thread's loop and waits for its end (loop_wait); in a
 * coroutine, just calls it.  For functions that may wait wherever they are called: at start-up, in
 * tools, in QMP handlers. */
void co_run_sync(CoroutineFn *fn, void *opaque);

void co_fn co_sleep_ns(int64_t ns);
void co_fn co_pause(void);             /* until the loop's next turn: others run meanwhile */

/* A mutex between coroutines of any loops.  Fair.  Zero-initialised is unlocked. */
typedef struct CoMutex {
    pthread_mutex_t guard;             /* held for a few instructions only; not GLib's, for
                                          ThreadSanitizer */
    bool locked;
    GQueue waiters;                    /* in order of arrival */
    Coroutine *holder;
} CoMutex;
void co_mutex_init(CoMutex *mutex);
void co_fn co_mutex_lock(CoMutex *mutex);
void co_mutex_unlock(CoMutex *mutex);

/* A queue of coroutines waiting for a condition that @mutex guards (NULL: one loop only). */
typedef struct CoQueue {
    pthread_mutex_t guard;
    GQueue waiters;
} CoQueue;
void co_queue_init(CoQueue *queue);
void co_fn co_queue_wait(CoQueue *queue, CoMutex *mutex);
bool co_queue_wake_one(CoQueue *queue);   /* false: nobody waited */
void co_queue_wake_all(CoQueue *queue);

/* A blocking call, done by a worker thread of a process-wide pool; yields until it returns.
 * Returns fn's value.  The pool has at most CO_WORKER_MAX threads, made when needed. */
enum { CO_WORKER_MAX = 64 };
int co_fn co_worker_call(int (*fn)(void *arg), void *arg);

/* The same for work that belongs to no coroutine.  The record is embedded and must stay until @fn is
 * called, which may free it.  False: there is no thread and none can be made; @fn is not called.  Any
 * thread; never blocks. */
typedef struct WorkerJob {
    void (*fn)(struct WorkerJob *job);
    GList link;                        /* the pool's */
} WorkerJob;
bool worker_post(WorkerJob *job, void (*fn)(WorkerJob *job));

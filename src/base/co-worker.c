/*
 * Workers: threads for system calls that block.  Threads are made while calls wait, and end when
 * they have been idle for a while.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include "src/base/co-int.h"
#include "src/base/sched.h"

enum { IDLE_S = 10 };

typedef struct WorkerCall {
    int (*fn)(void *arg);
    void *arg;
    int result;
    bool done;                     /* the coroutine's thread */
    Coroutine *co;
    LoopBh finish;                 /* in the coroutine's loop */
    GList link;
} WorkerCall;

/* Not GLib's: ThreadSanitizer sees these. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static GQueue calls = G_QUEUE_INIT;    /* mutex: of WorkerCall */
static unsigned threads, idle;         /* mutex */

static void finish(void *opaque)
{
    WorkerCall *call = opaque;
    call->done = true;
    co_resume(call->co);
}

/* The record is the coroutine's again, and not touched here, once its finish is scheduled. */
static void perform(WorkerCall *call)
{
    call->result = call->fn(call->arg);
    loop_bh_schedule(&call->finish);
}

/* Under the mutex.  NULL: nothing came for a long time. */
static GList *next_call(void)
{
    struct timespec end;
    bool late = false;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += IDLE_S;
    idle++;
    while (!calls.head && !late)
        late = pthread_cond_clockwait(&cond, &mutex, CLOCK_MONOTONIC, &end) == ETIMEDOUT;
    idle--;
    return g_queue_pop_head_link(&calls);
}

static void *worker(void *opaque)
{
    GList *link;
    pthread_mutex_lock(&mutex);
    while ((link = next_call())) {
        pthread_mutex_unlock(&mutex);
        perform(link->data);
        pthread_mutex_lock(&mutex);
    }
    threads--;
    pthread_mutex_unlock(&mutex);
    return NULL;
}

/* Signals are the main thread's business. */
static bool start_thread(void)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    GThread *thread = g_thread_try_new("worker", worker, NULL, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (thread)
        g_thread_unref(thread);
    return thread != NULL;
}

/* False: there is no thread, and none can be made. */
static bool enqueue(WorkerCall *call)
{
    pthread_mutex_lock(&mutex);
    g_queue_push_tail_link(&calls, &call->link);
    if (calls.length > idle && threads < CO_WORKER_MAX && start_thread())
        threads++;
    bool ok = threads > 0;
    if (!ok)
        g_queue_unlink(&calls, &call->link);
    pthread_cond_signal(&cond);
    pthread_mutex_unlock(&mutex);
    return ok;
}

static void perform_drawn(void *opaque)
{
    WorkerCall *call = opaque;
    call->result = call->fn(call->arg);
    finish(call);
}

int co_fn co_worker_call(int (*fn)(void *arg), void *arg)
{
    WorkerCall call = { .fn = fn, .arg = arg, .co = co_self(), .link.data = &call };
    bool drawn = sched_on(); /* done in this thread, at a place in the order that the seed gives */
    loop_bh_init(&call.finish, co_loop(call.co), drawn ? perform_drawn : finish, &call);
    if (drawn)
        loop_bh_schedule(&call.finish);
    else if (!enqueue(&call))
        return fn(arg);
    while (!call.done)
        co_yield();
    return call.result;
}

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

/* Not GLib's: ThreadSanitizer sees these. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static GQueue jobs = G_QUEUE_INIT;     /* mutex: of WorkerJob */
static unsigned threads, idle;         /* mutex */

/* Under the mutex.  NULL: nothing came for a long time. */
static GList *next_job(void)
{
    struct timespec end;
    bool late = false;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += IDLE_S;
    idle++;
    while (!jobs.head && !late)
        late = pthread_cond_clockwait(&cond, &mutex, CLOCK_MONOTONIC, &end) == ETIMEDOUT;
    idle--;
    return g_queue_pop_head_link(&jobs);
}

static void *worker(void *opaque)
{
    GList *link;
    pthread_mutex_lock(&mutex);
    while ((link = next_job())) {
        WorkerJob *job = link->data;
        pthread_mutex_unlock(&mutex);
        job->fn(job);
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

bool worker_post(WorkerJob *job, void (*fn)(WorkerJob *job))
{
    job->fn = fn;
    job->link = (GList){ .data = job };
    pthread_mutex_lock(&mutex);
    g_queue_push_tail_link(&jobs, &job->link);
    if (jobs.length > idle && threads < CO_WORKER_MAX && start_thread())
        threads++;
    bool ok = threads > 0;
    if (!ok)
        g_queue_unlink(&jobs, &job->link);
    pthread_mutex_unlock(&mutex);
    pthread_cond_signal(&cond);        /* whoever wakes finds the mutex free */
    return ok;
}

/* --- Calls of coroutines --- */

typedef struct WorkerCall {
    WorkerJob job;                 /* first */
    int (*fn)(void *arg);
    void *arg;
    int result;
    bool done;                     /* the coroutine's thread */
    Coroutine *co;
    LoopBh finish;                 /* in the coroutine's loop */
} WorkerCall;

static void finish(void *opaque)
{
    WorkerCall *call = opaque;
    call->done = true;
    co_resume(call->co);
}

/* The record is the coroutine's again, and not touched here, once its finish is scheduled. */
static void perform(WorkerJob *job)
{
    WorkerCall *call = (WorkerCall *)job;
    call->result = call->fn(call->arg);
    loop_bh_schedule(&call->finish);
}

static void perform_drawn(void *opaque)
{
    WorkerCall *call = opaque;
    call->result = call->fn(call->arg);
    finish(call);
}

int co_fn co_worker_call(int (*fn)(void *arg), void *arg)
{
    WorkerCall call = { .fn = fn, .arg = arg, .co = co_self() };
    bool drawn = sched_on(); /* done in this thread, at a place in the order that the seed gives */
    loop_bh_init(&call.finish, co_loop(call.co), drawn ? perform_drawn : finish, &call);
    if (drawn)
        loop_bh_schedule(&call.finish);
    else if (!worker_post(&call.job, perform))
        return fn(arg);
    while (!call.done)
        co_yield();
    return call.result;
}

/* Mutexes and queues of coroutines.  A waiter's record is on its own stack: nothing is allocated. */
#include "src/base/co-int.h"

/* A turn is given by a bottom half in the waiter's own loop.  So a waiter cannot go on, and its record
 * cannot vanish, while another thread still handles it. */
typedef struct Waiter {
    GList link;                    /* data: this waiter */
    Coroutine *co;
    LoopBh bh;
    bool woken;                    /* it is its turn; its own thread */
} Waiter;

static void take_turn(void *opaque)
{
    Waiter *waiter = opaque;
    waiter->woken = true;
    co_resume(waiter->co);
}

static void waiter_init(Waiter *waiter)
{
    *waiter = (Waiter){ .co = co_self(), .link.data = waiter };
    loop_bh_init(&waiter->bh, co_loop(waiter->co), take_turn, waiter);
}

static void wait_for_turn(Waiter *waiter)
{
    while (!waiter->woken)
        co_yield();
}

static void give_turn(GList *link)
{
    Waiter *waiter = link->data;
    loop_bh_schedule(&waiter->bh);
}

void co_mutex_init(CoMutex *mutex)
{
    *mutex = (CoMutex){ .guard = PTHREAD_MUTEX_INITIALIZER, .waiters = G_QUEUE_INIT };
}

void co_fn co_mutex_lock(CoMutex *mutex)
{
    Waiter waiter;
    waiter_init(&waiter);
    pthread_mutex_lock(&mutex->guard);
    bool free = !mutex->locked;
    if (free) {
        mutex->locked = true;
        mutex->holder = waiter.co;
    } else {
        g_queue_push_tail_link(&mutex->waiters, &waiter.link);
    }
    pthread_mutex_unlock(&mutex->guard);
    if (!free)
        wait_for_turn(&waiter);
}

/* Hands it to who has waited longest, so that no newcomer overtakes. */
void co_mutex_unlock(CoMutex *mutex)
{
    pthread_mutex_lock(&mutex->guard);
    GList *next = g_queue_pop_head_link(&mutex->waiters);
    mutex->locked = next != NULL;
    mutex->holder = next ? ((Waiter *)next->data)->co : NULL;
    pthread_mutex_unlock(&mutex->guard);
    if (next)
        give_turn(next);
}

void co_queue_init(CoQueue *queue)
{
    *queue = (CoQueue){ .guard = PTHREAD_MUTEX_INITIALIZER, .waiters = G_QUEUE_INIT };
}

void co_fn co_queue_wait(CoQueue *queue, CoMutex *mutex)
{
    Waiter waiter;
    waiter_init(&waiter);
    pthread_mutex_lock(&queue->guard);
    g_queue_push_tail_link(&queue->waiters, &waiter.link);
    pthread_mutex_unlock(&queue->guard);
    if (mutex)
        co_mutex_unlock(mutex);
    wait_for_turn(&waiter);
    if (mutex)
        co_mutex_lock(mutex);
}

bool co_queue_wake_one(CoQueue *queue)
{
    pthread_mutex_lock(&queue->guard);
    GList *next = g_queue_pop_head_link(&queue->waiters);
    pthread_mutex_unlock(&queue->guard);
    if (next)
        give_turn(next);
    return next != NULL;
}

/* Who waits now, not who comes back to wait meanwhile. */
void co_queue_wake_all(CoQueue *queue)
{
    pthread_mutex_lock(&queue->guard);
    unsigned count = queue->waiters.length;
    pthread_mutex_unlock(&queue->guard);
    while (count-- && co_queue_wake_one(queue))
        continue;
}

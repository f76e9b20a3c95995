/*
 * Ranges of guest clusters whose mapping is being changed.  A request that changes one waits for those
 * before it that overlap; who comes later waits for it.  Reads, and writes into clusters that
 * are there already, do not come here.
 */
#include "block/qcow2/qcow2.h"

static Qcow2Range *overlapping(Qcow2 *s, const Qcow2Range *range)
{
    for (Qcow2Range *other = s->ranges; other; other = other->next)
        if (other->first < range->end && range->first < other->end)
            return other;
    return NULL;
}

void co_fn qcow2_range_lock(Qcow2 *s, Qcow2Range *range, uint64_t first, uint64_t end)
{
    Qcow2Waiter waiter;
    Qcow2Range *other;

    *range = (Qcow2Range){ .first = first, .end = end };
    pthread_mutex_lock(&s->range_mutex);
    while ((other = overlapping(s, range))) {
        qcow2_waiter_add(&other->waiters, &waiter);
        pthread_mutex_unlock(&s->range_mutex);
        qcow2_wait(&waiter);
        pthread_mutex_lock(&s->range_mutex);
    }
    range->next = s->ranges;
    s->ranges = range;
    pthread_mutex_unlock(&s->range_mutex);
}

void qcow2_range_unlock(Qcow2 *s, Qcow2Range *range)
{
    Qcow2Waiter *waiters;
    Qcow2Range **link;

    pthread_mutex_lock(&s->range_mutex);
    for (link = &s->ranges; *link != range; link = &(*link)->next)
        ;
    *link = range->next;
    waiters = g_steal_pointer(&range->waiters);
    pthread_mutex_unlock(&s->range_mutex);
    qcow2_wake(waiters);
}

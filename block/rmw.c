/*
 * Order between writes of one node where a read-modify-write is in play.
 *
 * A node whose requests must be aligned (O_DIRECT) turns an unaligned write into reading the
 * surrounding block, changing it, and writing it back.  Another write to the same block in between
 * would be lost.  Such requests are rare, so that the others must not pay for them:
 *
 *  - As long as no read-modify-write is under way (rmw_mode is 0), a write only counts itself in its
 *    thread's cell ("fast"), without a lock.
 *  - A read-modify-write raises rmw_mode: from then on writes go through a list under a lock
 *    ("tracked").  It waits until the fast ones that were there before are done.
 *  - In the list, a request waits for the earlier ones that it overlaps, if one of the two is a
 *    read-modify-write.  Only earlier ones: so there is no circle, and nobody starves.
 *  - A job that locks a range (block_range_lock, patient) is in nobody's way as long as it waits itself: it
 *    enters the list when it overlaps nothing there, so that others wait for its one request only.
 *
 * The increment of the cell and the look at rmw_mode (and the other way round) are sequentially
 * consistent: either the writer sees the mode, or the read-modify-write sees the writer.
 */
#include "block/node.h"
#include "src/base/util.h"

/* The writer is counted, and may go on, unless false. */
bool block_write_enter_fast(BlockNode *node, BlockNodeCell *cell)
{
    __atomic_fetch_add(&cell->writing, 1, __ATOMIC_SEQ_CST);
    if (G_LIKELY(!__atomic_load_n(&node->rmw_mode, __ATOMIC_SEQ_CST)))
        return true;
    block_write_leave(node, cell, NULL);
    return false;
}

static unsigned fast_writers(BlockNode *node)
{
    unsigned n = 0;

    for (unsigned i = 0; i < BLOCK_SLOTS; i++) {
        BlockNodeCell *cell = __atomic_load_n(&node->cells.of[i], __ATOMIC_ACQUIRE);

        if (cell)
            n += __atomic_load_n(&cell->writing, __ATOMIC_SEQ_CST);
    }
    return n;
}

static void wake_all(GSList *waiters)
{
    while (waiters) {
        Coroutine *co = waiters->data;

        waiters = g_slist_delete_link(waiters, waiters);
        co_wake(co);
    }
}

static void co_fn wait_for_fast_writers(BlockNode *node)
{
    for (;;) {
        pthread_mutex_lock(&node->track_lock);
        if (!fast_writers(node)) {
            pthread_mutex_unlock(&node->track_lock);
            return;
        }
        node->mode_waiters = g_slist_prepend(node->mode_waiters, co_self());
        pthread_mutex_unlock(&node->track_lock);
        co_yield();
    }
}

static BlockWrite *earlier_conflict(const BlockWrite *write)
{
    for (BlockWrite *other = write->prev; other; other = other->prev)
        if ((write->serialising || other->serialising) && other->start < write->end &&
            write->start < other->end)
            return other;
    return NULL;
}

static void init(const BlockNode *node, BlockWrite *write, uint64_t offset, uint64_t bytes,
                 bool serialising)
{
    uint64_t align = node->align_mask + 1;

    *write = (BlockWrite){ .start = ALIGN_DOWN(offset, align),
                           .end = ALIGN_UP(offset + bytes, align),
                           .tracked = true, .serialising = serialising };
}

/* Under the lock. */
static void append(BlockNode *node, BlockWrite *write)
{
    write->prev = node->track_last;
    *(write->prev ? &write->prev->next : &node->track_first) = write;
    node->track_last = write;
}

/* Under the lock, which is dropped meanwhile. */
static void co_fn wait_for(BlockNode *node, BlockWrite *other)
{
    other->waiters = g_slist_append(other->waiters, co_self());
    pthread_mutex_unlock(&node->track_lock);
    co_yield();
    pthread_mutex_lock(&node->track_lock);
}

/* Under the lock, which is dropped meanwhile. */
static void co_fn wait_for_turn(BlockNode *node, const BlockWrite *write)
{
    BlockWrite *other;

    while ((other = earlier_conflict(write)))
        wait_for(node, other);
}

/* Puts the request in the list and waits for its turn. */
void co_fn block_write_enter(BlockNode *node, BlockWrite *write, uint64_t offset, uint64_t bytes,
                             bool serialising)
{
    init(node, write, offset, bytes, serialising);
    pthread_mutex_lock(&node->track_lock);
    if (serialising)
        __atomic_fetch_add(&node->rmw_mode, 1, __ATOMIC_SEQ_CST);
    append(node, write);
    wait_for_turn(node, write);
    pthread_mutex_unlock(&node->track_lock);
    if (serialising)
        wait_for_fast_writers(node);
}

/* A guest that is always at the place must not keep a job from it for ever. */
enum { STEPS_BACK = 64 };

/* Waits outside the list, but no longer than others have come before it so often. */
void co_fn block_write_enter_free(BlockNode *node, BlockWrite *write, uint64_t offset, uint64_t bytes)
{
    BlockWrite *other;

    init(node, write, offset, bytes, true);
    __atomic_fetch_add(&node->rmw_mode, 1, __ATOMIC_SEQ_CST);
    wait_for_fast_writers(node);           /* from now on all are in the list */
    pthread_mutex_lock(&node->track_lock);
    for (unsigned n = 0; n < STEPS_BACK; n++) {
        write->prev = node->track_last;
        other = earlier_conflict(write);
        if (!other)
            break;
        wait_for(node, other);
    }
    append(node, write);
    wait_for_turn(node, write);
    pthread_mutex_unlock(&node->track_lock);
}

static void leave_list(BlockNode *node, BlockWrite *write)
{
    GSList *waiters;

    pthread_mutex_lock(&node->track_lock);
    *(write->prev ? &write->prev->next : &node->track_first) = write->next;
    *(write->next ? &write->next->prev : &node->track_last) = write->prev;
    waiters = g_steal_pointer(&write->waiters);
    if (write->serialising)
        __atomic_fetch_sub(&node->rmw_mode, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&node->track_lock);
    wake_all(waiters);
}

/* @write: as given to block_write_enter; NULL: a fast writer. */
void block_write_leave(BlockNode *node, BlockNodeCell *cell, BlockWrite *write)
{
    GSList *waiters;

    if (write) {
        leave_list(node, write);
        return;
    }
    __atomic_fetch_sub(&cell->writing, 1, __ATOMIC_SEQ_CST);
    if (G_LIKELY(!__atomic_load_n(&node->rmw_mode, __ATOMIC_SEQ_CST)))
        return;
    pthread_mutex_lock(&node->track_lock);
    waiters = g_steal_pointer(&node->mode_waiters);
    pthread_mutex_unlock(&node->track_lock);
    wake_all(waiters);
}

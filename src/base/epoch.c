/*
 * Each thread that reads has a slot with the epoch in which it entered, 0 outside.  A writer that
 * has unpublished something starts a new epoch E; it may be freed when no slot holds one below E.
 *
 * Why a reader is never missed: it stores its slot before it loads the pointer, the writer stores
 * the pointer before it looks at the slots, and all four are sequentially consistent.  So either
 * the writer sees the slot, or the reader sees the new pointer.
 */
#include "src/base/epoch.h"
#include <glib.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct ReaderSlot {
    uint64_t epoch;                        /* atomic; 0: not reading */
    unsigned depth;                        /* its own thread only */
    struct ReaderSlot *next;
} ReaderSlot;

typedef struct Deferred {
    uint64_t epoch;
    void (*fn)(void *arg);
    void *arg;
} Deferred;

/* guards slots and deferred; of a kind that ThreadSanitizer understands */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static ReaderSlot *slots;
static GQueue deferred = G_QUEUE_INIT;     /* of Deferred, oldest first */
static uint64_t current_epoch = 1;         /* atomic */

static void remove_slot(void *opaque)
{
    ReaderSlot *slot = opaque;

    pthread_mutex_lock(&lock);
    for (ReaderSlot **link = &slots; *link; link = &(*link)->next) {
        if (*link == slot) {
            *link = slot->next;
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    g_free(slot);
}

static GPrivate slot_key = G_PRIVATE_INIT(remove_slot);   /* for its destructor */
static __thread ReaderSlot *my_slot;

static ReaderSlot *add_slot(void)
{
    my_slot = g_new0(ReaderSlot, 1);
    g_private_set(&slot_key, my_slot);
    pthread_mutex_lock(&lock);
    my_slot->next = slots;
    slots = my_slot;
    pthread_mutex_unlock(&lock);
    return my_slot;
}

void epoch_enter(void)
{
    ReaderSlot *slot = my_slot ? my_slot : add_slot();

    if (slot->depth++ == 0)
        __atomic_store_n(&slot->epoch, __atomic_load_n(&current_epoch, __ATOMIC_SEQ_CST),
                         __ATOMIC_SEQ_CST);
}

void epoch_exit(void)
{
    if (--my_slot->depth == 0)
        __atomic_store_n(&my_slot->epoch, 0, __ATOMIC_RELEASE);
}

/* The oldest epoch that is still read.  Lock held. */
static uint64_t oldest_reader(void)
{
    uint64_t oldest = UINT64_MAX;

    for (ReaderSlot *slot = slots; slot; slot = slot->next) {
        uint64_t epoch = __atomic_load_n(&slot->epoch, __ATOMIC_SEQ_CST);

        if (epoch && epoch < oldest)
            oldest = epoch;
    }
    return oldest;
}

/* Takes one entry that nobody can see any more. */
static Deferred *take_ready(void)
{
    Deferred *head;

    pthread_mutex_lock(&lock);
    head = g_queue_peek_head(&deferred);
    if (head && head->epoch <= oldest_reader())
        g_queue_pop_head(&deferred);
    else
        head = NULL;
    pthread_mutex_unlock(&lock);
    return head;
}

/* The callbacks run without the lock: they may defer more. */
static void run_ready(void)
{
    Deferred *entry;

    while ((entry = take_ready())) {
        entry->fn(entry->arg);
        g_free(entry);
    }
}

void epoch_defer(void (*fn)(void *arg), void *arg)
{
    Deferred *entry = g_new(Deferred, 1);

    entry->fn = fn;
    entry->arg = arg;
    pthread_mutex_lock(&lock);
    entry->epoch = __atomic_add_fetch(&current_epoch, 1, __ATOMIC_SEQ_CST);
    g_queue_push_tail(&deferred, entry);
    pthread_mutex_unlock(&lock);
    run_ready();
}

void epoch_flush(void)
{
    uint64_t target = __atomic_add_fetch(&current_epoch, 1, __ATOMIC_SEQ_CST);
    bool busy;

    do {
        pthread_mutex_lock(&lock);
        busy = oldest_reader() < target;
        pthread_mutex_unlock(&lock);
        if (busy)
            g_thread_yield();
    } while (busy);
    run_ready();
}

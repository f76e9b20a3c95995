/* Slot numbers of threads, and the cells that they index. */
#include "block/cells.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_LINE 64

__thread unsigned block_slot_plus_1;

static pthread_mutex_t slots_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t slots_taken;               /* bit n: slot n; under slots_lock */

static void slot_give_back(void *slot_plus_1)
{
    unsigned slot = GPOINTER_TO_UINT(slot_plus_1) - 1;

    if (slot == BLOCK_SLOT_SHARED)
        return;
    pthread_mutex_lock(&slots_lock);
    slots_taken &= ~(1ull << slot);
    pthread_mutex_unlock(&slots_lock);
    block_slot_plus_1 = 0;
}

static GPrivate slot_key = G_PRIVATE_INIT(slot_give_back);

unsigned block_slot_take(void)
{
    unsigned slot;

    pthread_mutex_lock(&slots_lock);
    slot = ~slots_taken ? __builtin_ctzll(~slots_taken) : BLOCK_SLOT_SHARED;
    slot = MIN(slot, BLOCK_SLOT_SHARED);
    if (slot != BLOCK_SLOT_SHARED)
        slots_taken |= 1ull << slot;
    pthread_mutex_unlock(&slots_lock);
    block_slot_plus_1 = slot + 1;
    g_private_set(&slot_key, GUINT_TO_POINTER(slot + 1));
    return slot;
}

void *block_cells_make(BlockCells *cells, unsigned slot, size_t size)
{
    size_t room = (size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    void *cell = aligned_alloc(CACHE_LINE, room);
    void *other = NULL;

    if (!cell)
        g_error("out of memory");
    memset(cell, 0, room);
    /* Only the shared slot can be made by two threads at once. */
    if (__atomic_compare_exchange_n(&cells->of[slot], &other, cell, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE))
        return cell;
    free(cell);
    return other;
}

void block_cells_clear(BlockCells *cells)
{
    for (unsigned i = 0; i < BLOCK_SLOTS; i++)
        free(cells->of[i]);
    memset(cells, 0, sizeof(*cells));
}

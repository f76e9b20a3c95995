/*
 * Counters without a lock: each thread has a slot number, and an object that counts has one cell for
 * each slot, made when the thread first touches it.  Only its thread writes a cell, readers add all
 * cells up.  Threads beyond BLOCK_SLOTS - 1 share the last slot, where writers use atomic additions.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define BLOCK_SLOTS 64
#define BLOCK_SLOT_SHARED (BLOCK_SLOTS - 1)

/* The calling thread's slot; given back when the thread ends. */
unsigned block_slot_take(void);
extern __thread unsigned block_slot_plus_1;
static inline unsigned block_slot(void)
{
    return G_LIKELY(block_slot_plus_1) ? block_slot_plus_1 - 1 : block_slot_take();
}

typedef struct BlockCells {
    void *of[BLOCK_SLOTS];         /* atomic pointers */
} BlockCells;
void *block_cells_make(BlockCells *cells, unsigned slot, size_t size);
void block_cells_clear(BlockCells *cells);

/* The calling thread's cell: @size bytes, zeroed at first, a cache line of its own. */
static inline void *block_cells_mine(BlockCells *cells, size_t size)
{
    unsigned slot = block_slot();
    void *cell = __atomic_load_n(&cells->of[slot], __ATOMIC_ACQUIRE);

    return G_LIKELY(cell) ? cell : block_cells_make(cells, slot, size);
}

static inline void block_cell_add(uint64_t *counter, uint64_t n)
{
    if (G_LIKELY(block_slot() != BLOCK_SLOT_SHARED))
        __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n,
                         __ATOMIC_RELAXED);
    else
        __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

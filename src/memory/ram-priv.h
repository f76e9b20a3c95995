/* How a RAM block is mapped; for ram.c and the backends. */
#pragma once
#include "src/memory/ram.h"

typedef struct RamMapping {
    const char *name;
    uint64_t size;
    int fd;                                /* -1: anonymous; taken over, also on failure */
    uint64_t fd_offset;
    uint64_t align;                        /* of the host address; 0: what suits the size */
    uint64_t page_size;                    /* of the memory: that of hugetlb; 0: the host's */
    bool shared, readonly, noreserve;
} RamMapping;

RamBlock *ram_block_map(const RamMapping *how, GError **error);
uint64_t ram_block_page_size(const RamBlock *block);

/* The base of memory backends, for the files that define them. */
#pragma once
#include "src/memory/ram-priv.h"

#define HOST_NODES_MAX 1024

struct MemoryBackend {
    Object obj;
    uint64_t size;
    bool share, prealloc, merge, dump, reserve, canonical_path;
    uint32_t prealloc_threads;
    int policy;
    uint64_t host_nodes[HOST_NODES_MAX / 64];   /* bit mask */
    RamBlock *block;                            /* made by the leaf's realize */
    bool claimed;
};
#define MEMORY_BACKEND(ptr) ((MemoryBackend *)(ptr))

char *memory_backend_block_name(const MemoryBackend *b);    /* g_free */

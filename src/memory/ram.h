/*
 * Guest RAM: blocks of host memory that a guest sees, and which of their pages were written.
 * A block comes from a memory backend object (memory-backend-ram, -memfd, -file) or is made by a
 * device (ROM, video RAM).
 */
#pragma once
#include "src/object/object.h"

typedef struct RamBlock RamBlock;
typedef struct MemoryBackend MemoryBackend;   /* type "memory-backend"; src/memory/backend.c */

#define RAM_PAGE_BITS 12
#define RAM_PAGE_SIZE (1u << RAM_PAGE_BITS)

/* Anonymous memory, for ROMs and tests.  @size is rounded up to a page. */
RamBlock *ram_block_new(const char *name, uint64_t size, GError **error);
RamBlock *ram_block_new_fd(const char *name, uint64_t size, int fd, uint64_t fd_offset, bool shared,
                           GError **error);                 /* takes over fd */
RamBlock *ram_block_ref(RamBlock *block);
void ram_block_unref(RamBlock *block);
void *ram_block_host(const RamBlock *block);
uint64_t ram_block_size(const RamBlock *block);
const char *ram_block_name(const RamBlock *block);
int ram_block_fd(const RamBlock *block);                    /* -1: anonymous */

/* Dirty pages, one bitmap for each client; set from any thread, without a lock. */
typedef enum DirtyClient { DIRTY_MIGRATION, DIRTY_VGA, DIRTY__COUNT } DirtyClient;
void ram_dirty_enable(RamBlock *block, DirtyClient client, bool on);  /* VM lock; on: starts all clean */
bool ram_dirty_enabled(const RamBlock *block);
void ram_dirty_set(RamBlock *block, uint64_t offset, uint64_t length); /* all clients; cheap when off */
/* Moves the bits of a range to @out (one bit a page, zeroed by the caller) and returns how many. */
uint64_t ram_dirty_take(RamBlock *block, DirtyClient client, uint64_t offset, uint64_t length,
                        unsigned long *out);

/* The backend's block (after realize); a backend is mapped by one machine at a time. */
RamBlock *memory_backend_block(MemoryBackend *backend);
bool memory_backend_claim(MemoryBackend *backend, GError **error);  /* false: in use */
void memory_backend_release(MemoryBackend *backend);

/* Blocks of guest RAM and the bitmaps of their dirty pages. */
#include "src/memory/ram.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include "src/base/util.h"
#include "src/memory/ram-priv.h"

#define BITS_PER_WORD (8 * sizeof(unsigned long))
#define GUARD_SIZE (4 * KiB)
#define THP_SIZE (2 * MiB)                 /* x86-64's transparent huge page */

struct RamBlock {
    gint refs;
    char *name;
    uint8_t *host;
    uint64_t size, page_size;
    int fd;
    /* Dirty logging.  A bitmap is made when its client comes first and lives as long as the block,
     * so that a thread may set bits while the client goes. */
    unsigned dirty_clients;                /* atomic mask of DirtyClient */
    unsigned long *dirty[DIRTY__COUNT];    /* words are atomic */
};

/* ---- mapping ---- */

/*
 * A free stretch of address space, aligned: reserved larger, the ends given back.  A page behind it
 * stays reserved: an access that runs past the end of the guest's memory hits nothing of ours.
 */
static void *reserve_aligned(uint64_t size, uint64_t align)
{
    uint8_t *base = mmap(NULL, size + align + GUARD_SIZE, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint8_t *start, *end;

    if (base == MAP_FAILED)
        return MAP_FAILED;
    start = (uint8_t *)ALIGN_UP((uintptr_t)base, align);
    end = start + size + GUARD_SIZE;
    if (start > base)
        munmap(base, start - base);
    if (end < base + size + align + GUARD_SIZE)
        munmap(end, base + size + align + GUARD_SIZE - end);
    return start;
}

static void *map_memory(const RamMapping *how, uint64_t size, uint64_t align)
{
    int prot = how->readonly ? PROT_READ : PROT_READ | PROT_WRITE;
    int flags = MAP_FIXED | (how->shared ? MAP_SHARED : MAP_PRIVATE) |
                (how->fd < 0 ? MAP_ANONYMOUS : 0) | (how->noreserve ? MAP_NORESERVE : 0);
    void *where = reserve_aligned(size, align), *host;

    if (where == MAP_FAILED)
        return MAP_FAILED;
    host = mmap(where, size, prot, flags, how->fd, how->fd < 0 ? 0 : how->fd_offset);
    if (host == MAP_FAILED) {
        int err = errno;

        munmap(where, size + GUARD_SIZE);
        errno = err;
    }
    return host;
}

RamBlock *ram_block_map(const RamMapping *how, GError **error)
{
    uint64_t host_page = sysconf(_SC_PAGESIZE);
    uint64_t page = MAX(how->page_size, host_page);
    uint64_t align = how->align ? how->align : how->size >= THP_SIZE ? MAX(THP_SIZE, page) : page;
    uint64_t size = ALIGN_UP(how->size, page);
    RamBlock *block;
    void *host;

    if (!how->size || how->size > INT64_MAX - align - page - GUARD_SIZE) {
        fail(error, ERR_INVALID_PARAMETER, "guest RAM '%s': %" G_GUINT64_FORMAT
             " bytes cannot be mapped", how->name, how->size);
        if (how->fd >= 0)
            close(how->fd);
        return NULL;
    }
    host = map_memory(how, size, align);
    if (host == MAP_FAILED) {
        fail_errno(error, errno, "cannot map %" G_GUINT64_FORMAT " bytes of guest RAM for '%s'",
                   size, how->name);
        if (how->fd >= 0)
            close(how->fd);
        return NULL;
    }
    block = g_new0(RamBlock, 1);
    block->refs = 1;
    block->name = g_strdup(how->name);
    block->host = host;
    block->size = size;
    block->page_size = page;
    block->fd = how->fd;
    return block;
}

RamBlock *ram_block_new(const char *name, uint64_t size, GError **error)
{
    return ram_block_map(&(RamMapping){ .name = name, .size = size, .fd = -1 }, error);
}

RamBlock *ram_block_new_fd(const char *name, uint64_t size, int fd, uint64_t fd_offset, bool shared,
                           GError **error)
{
    return ram_block_map(&(RamMapping){ .name = name, .size = size, .fd = fd,
                                        .fd_offset = fd_offset, .shared = shared }, error);
}

RamBlock *ram_block_ref(RamBlock *block)
{
    g_atomic_int_inc(&block->refs);
    return block;
}

void ram_block_unref(RamBlock *block)
{
    if (!block || !g_atomic_int_dec_and_test(&block->refs))
        return;
    munmap(block->host, block->size + GUARD_SIZE);
    if (block->fd >= 0)
        close(block->fd);
    for (unsigned i = 0; i < DIRTY__COUNT; i++)
        g_free(block->dirty[i]);
    g_free(block->name);
    g_free(block);
}

void *ram_block_host(const RamBlock *block)
{
    return block->host;
}

uint64_t ram_block_size(const RamBlock *block)
{
    return block->size;
}

uint64_t ram_block_page_size(const RamBlock *block)
{
    return block->page_size;
}

const char *ram_block_name(const RamBlock *block)
{
    return block->name;
}

int ram_block_fd(const RamBlock *block)
{
    return block->fd;
}

/* ---- dirty pages ---- */

static uint64_t page_count(const RamBlock *block)
{
    return (block->size + RAM_PAGE_SIZE - 1) >> RAM_PAGE_BITS;
}

void ram_dirty_enable(RamBlock *block, DirtyClient client, bool on)
{
    uint64_t words = (page_count(block) + BITS_PER_WORD - 1) / BITS_PER_WORD;

    if (!on) {
        __atomic_fetch_and(&block->dirty_clients, ~(1u << client), __ATOMIC_RELEASE);
        return;
    }
    if (!block->dirty[client]) {
        __atomic_store_n(&block->dirty[client], g_new0(unsigned long, words), __ATOMIC_RELEASE);
    } else {
        for (uint64_t i = 0; i < words; i++)
            __atomic_store_n(&block->dirty[client][i], 0, __ATOMIC_RELAXED);
    }
    __atomic_fetch_or(&block->dirty_clients, 1u << client, __ATOMIC_RELEASE);
}

bool ram_dirty_enabled(const RamBlock *block)
{
    return __atomic_load_n(&block->dirty_clients, __ATOMIC_RELAXED) != 0;
}

/* The bits first … last of word @word, as a mask. */
static unsigned long word_mask(uint64_t word, uint64_t first, uint64_t last)
{
    unsigned long mask = ~0ul;

    if (word == first / BITS_PER_WORD)
        mask &= ~0ul << first % BITS_PER_WORD;
    if (word == last / BITS_PER_WORD)
        mask &= ~0ul >> (BITS_PER_WORD - 1 - last % BITS_PER_WORD);
    return mask;
}

static void set_bits(unsigned long *map, uint64_t first, uint64_t last)
{
    for (uint64_t word = first / BITS_PER_WORD; word <= last / BITS_PER_WORD; word++) {
        unsigned long mask = word_mask(word, first, last);

        /* Most pages are dirty already: a plain load keeps the line shared. */
        if ((__atomic_load_n(&map[word], __ATOMIC_RELAXED) & mask) != mask)
            __atomic_fetch_or(&map[word], mask, __ATOMIC_RELEASE);
    }
}

void ram_dirty_set(RamBlock *block, uint64_t offset, uint64_t length)
{
    unsigned clients = __atomic_load_n(&block->dirty_clients, __ATOMIC_ACQUIRE);

    if (G_LIKELY(!clients) || !length || offset >= block->size)
        return;
    length = MIN(length, block->size - offset);
    for (unsigned i = 0; i < DIRTY__COUNT; i++) {
        if (clients >> i & 1)
            set_bits(__atomic_load_n(&block->dirty[i], __ATOMIC_ACQUIRE), offset >> RAM_PAGE_BITS,
                     (offset + length - 1) >> RAM_PAGE_BITS);
    }
}

uint64_t ram_dirty_take(RamBlock *block, DirtyClient client, uint64_t offset, uint64_t length,
                        unsigned long *out)
{
    unsigned long *map = __atomic_load_n(&block->dirty[client], __ATOMIC_ACQUIRE);
    uint64_t first = offset >> RAM_PAGE_BITS, last, taken = 0;

    if (!map || !length || offset >= block->size)
        return 0;
    last = (offset + MIN(length, block->size - offset) - 1) >> RAM_PAGE_BITS;
    for (uint64_t word = first / BITS_PER_WORD; word <= last / BITS_PER_WORD; word++) {
        unsigned long mask = word_mask(word, first, last), bits;

        if (!(__atomic_load_n(&map[word], __ATOMIC_RELAXED) & mask))
            continue;
        bits = __atomic_fetch_and(&map[word], ~mask, __ATOMIC_ACQ_REL) & mask;
        taken += __builtin_popcountl(bits);
        for (; bits; bits &= bits - 1) {
            uint64_t bit = word * BITS_PER_WORD + __builtin_ctzl(bits) - first;

            out[bit / BITS_PER_WORD] |= 1ul << bit % BITS_PER_WORD;
        }
    }
    return taken;
}

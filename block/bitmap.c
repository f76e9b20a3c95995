/*
 * Dirty bitmaps.
 *
 * The bits are atomic words in chunks of 4 KiB, found through a directory; a chunk is made when the
 * first of its bits is set, so that a bitmap of a large disk costs what was written of it.  Looking
 * a chunk up takes no lock.  Making one, and growing the directory, does; a directory that was
 * outgrown is kept until the bitmap goes, as others may be reading it.
 */
#include "block/node.h"
#include "src/base/util.h"
#include <inttypes.h>
#include <string.h>

#define CHUNK_BITS 32768ull
#define CHUNK_WORDS (CHUNK_BITS / 64)
#define CHUNKS_MAX (1ull << 25)            /* a directory of 256 MiB */

typedef struct Directory {
    uint64_t chunks;
    struct Directory *old;                 /* the one that this one replaced */
    uint64_t *of[];                        /* atomic */
} Directory;

struct BlockBitmap {
    BlockNode *node;
    char *name;
    unsigned shift;                        /* log2 of the granularity */
    unsigned flags;                        /* atomic; BlockBitmapFlags */
    uint64_t size;                         /* atomic; bytes of disk */
    uint64_t marked;                       /* atomic; bits that are set */
    Directory *directory;                  /* atomic */
    pthread_mutex_t lock;                  /* making chunks, growing the directory */
    BlockBitmap *next;                     /* of the node; changes while its users are quiesced */
};

/* The directory. */

static uint64_t bits_of(const BlockBitmap *bitmap, uint64_t bytes)
{
    return (bytes >> bitmap->shift) + !!(bytes & ((1ull << bitmap->shift) - 1));
}

static Directory *directory_new(uint64_t chunks)
{
    Directory *directory = g_malloc0(sizeof(*directory) + chunks * sizeof(directory->of[0]));

    directory->chunks = chunks;
    return directory;
}

/* Under the lock. */
static void grow_directory(BlockBitmap *bitmap, uint64_t chunks)
{
    Directory *old = bitmap->directory, *directory;

    if (chunks <= old->chunks)
        return;
    directory = directory_new(MAX(chunks, MIN(old->chunks * 2, CHUNKS_MAX)));
    memcpy(directory->of, old->of, old->chunks * sizeof(old->of[0]));
    directory->old = old;
    __atomic_store_n(&bitmap->directory, directory, __ATOMIC_RELEASE);
}

static uint64_t *find_chunk(const BlockBitmap *bitmap, uint64_t bit)
{
    const Directory *directory = __atomic_load_n(&bitmap->directory, __ATOMIC_ACQUIRE);
    uint64_t i = bit / CHUNK_BITS;

    return i < directory->chunks ? __atomic_load_n(&directory->of[i], __ATOMIC_ACQUIRE) : NULL;
}

static uint64_t *make_chunk(BlockBitmap *bitmap, uint64_t bit)
{
    uint64_t i = bit / CHUNK_BITS, *chunk;

    pthread_mutex_lock(&bitmap->lock);
    grow_directory(bitmap, i + 1);
    chunk = bitmap->directory->of[i];
    if (!chunk) {
        chunk = g_new0(uint64_t, CHUNK_WORDS);
        __atomic_store_n(&bitmap->directory->of[i], chunk, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&bitmap->lock);
    return chunk;
}

static uint64_t *find_word(const BlockBitmap *bitmap, uint64_t bit)
{
    uint64_t *chunk = find_chunk(bitmap, bit);

    return chunk ? &chunk[bit % CHUNK_BITS / 64] : NULL;
}

static uint64_t word_at(const BlockBitmap *bitmap, uint64_t bit)
{
    const uint64_t *word = find_word(bitmap, bit);

    return word ? __atomic_load_n(word, __ATOMIC_SEQ_CST) : 0;
}

/* The bits of a word from @first on, below @end. */
static uint64_t word_mask(uint64_t first, uint64_t end)
{
    uint64_t base = ALIGN_DOWN(first, 64);
    uint64_t mask = ~0ull << (first - base);

    return end - base >= 64 ? mask : mask & ((1ull << (end - base)) - 1);
}

/* Making and freeing. */

static bool check_granularity(uint32_t granularity, GError **error)
{
    if (granularity < BLOCK_BITMAP_GRANULARITY_MIN || granularity & (granularity - 1))
        return fail(error, ERR_INVALID_PARAMETER,
                    "Granularity must be power of 2 and at least 512");
    return true;
}

static bool check_name(BlockNode *node, const char *name, GError **error)
{
    if (!*name)
        return fail(error, ERR_INVALID_PARAMETER, "Bitmap name cannot be empty");
    if (strlen(name) > BLOCK_BITMAP_NAME_MAX)
        return fail(error, ERR_LIMIT, "Bitmap name too long: %s", name);
    if (block_bitmap_find(node, name)) {
        fail(error, ERR_EXISTS, "Bitmap already exists: %s", name);
        return error_object(error, "%s", name);
    }
    return true;
}

static void append(BlockNode *node, BlockBitmap *bitmap)
{
    BlockBitmap **at = &node->bitmaps;

    while (*at)
        at = &(*at)->next;
    *at = bitmap;
}

BlockBitmap *block_bitmap_new(BlockNode *node, const char *name, uint32_t granularity,
                              GError **error)
{
    uint64_t size = block_node_size(node), chunks;
    BlockBitmap *bitmap;

    if (!granularity)
        granularity = BLOCK_BITMAP_GRANULARITY_DEFAULT;
    if (!check_granularity(granularity, error) || (name && !check_name(node, name, error)))
        return NULL;
    chunks = size / granularity / CHUNK_BITS + 1;
    if (chunks > CHUNKS_MAX) {
        fail(error, ERR_LIMIT, "a bitmap of granularity %" PRIu32 " for %" PRIu64 " bytes is too "
                               "large", granularity, size);
        error_hint(error, "choose a larger granularity");
        return NULL;
    }
    bitmap = g_new0(BlockBitmap, 1);
    bitmap->node = node;
    bitmap->name = g_strdup(name);
    bitmap->shift = __builtin_ctz(granularity);
    bitmap->size = size;
    bitmap->flags = BLOCK_BITMAP_RECORDING;
    bitmap->directory = directory_new(chunks);
    pthread_mutex_init(&bitmap->lock, NULL);
    append(node, bitmap);
    block_node_route(node);
    return bitmap;
}

void block_bitmap_detach(BlockBitmap *bitmap)
{
    BlockBitmap **at = &bitmap->node->bitmaps;

    while (*at && *at != bitmap)
        at = &(*at)->next;
    if (*at)
        *at = bitmap->next;
    bitmap->next = NULL;
    block_node_route(bitmap->node);
}

void block_bitmap_attach(BlockBitmap *bitmap)
{
    append(bitmap->node, bitmap);
    block_node_route(bitmap->node);
}

static void bitmap_free(BlockBitmap *bitmap)
{
    Directory *directory = bitmap->directory;

    for (uint64_t i = 0; i < directory->chunks; i++)
        g_free(directory->of[i]);
    while (directory) {
        Directory *old = directory->old;

        g_free(directory);
        directory = old;
    }
    pthread_mutex_destroy(&bitmap->lock);
    g_free(bitmap->name);
    g_free(bitmap);
}

void block_bitmap_free(BlockBitmap *bitmap)
{
    if (!bitmap)
        return;
    block_bitmap_detach(bitmap);
    bitmap_free(bitmap);
}

void block_node_free_bitmaps(BlockNode *node)
{
    while (node->bitmaps) {
        BlockBitmap *bitmap = node->bitmaps;

        node->bitmaps = bitmap->next;
        bitmap_free(bitmap);
    }
}

BlockBitmap *block_bitmap_find(BlockNode *node, const char *name)
{
    BlockBitmap *bitmap = node->bitmaps;

    while (bitmap && g_strcmp0(bitmap->name, name))
        bitmap = bitmap->next;
    return name ? bitmap : NULL;
}

BlockBitmap *block_bitmap_next(BlockNode *node, BlockBitmap *bitmap)
{
    return bitmap ? bitmap->next : node->bitmaps;
}

/* Small members. */

const char *block_bitmap_name(const BlockBitmap *bitmap)
{
    return bitmap->name;
}

BlockNode *block_bitmap_node(const BlockBitmap *bitmap)
{
    return bitmap->node;
}

uint32_t block_bitmap_granularity(const BlockBitmap *bitmap)
{
    return 1u << bitmap->shift;
}

uint64_t block_bitmap_size(const BlockBitmap *bitmap)
{
    return __atomic_load_n(&bitmap->size, __ATOMIC_ACQUIRE);
}

unsigned block_bitmap_flags(const BlockBitmap *bitmap)
{
    return __atomic_load_n(&bitmap->flags, __ATOMIC_ACQUIRE);
}

void block_bitmap_set_flags(BlockBitmap *bitmap, unsigned set, unsigned clear)
{
    __atomic_fetch_and(&bitmap->flags, ~clear, __ATOMIC_ACQ_REL);
    __atomic_fetch_or(&bitmap->flags, set, __ATOMIC_ACQ_REL);
}

bool block_bitmap_check(const BlockBitmap *bitmap, unsigned refuse, GError **error)
{
    const char *name = bitmap->name ? bitmap->name : "";
    unsigned flags = block_bitmap_flags(bitmap) & refuse;

    if (flags & BLOCK_BITMAP_BUSY)
        fail(error, ERR_IN_USE, "Bitmap '%s' is currently in use by another operation and cannot "
                                "be used", name);
    else if (flags & BLOCK_BITMAP_READ_ONLY)
        fail(error, ERR_PERMISSION, "Bitmap '%s' is readonly and cannot be modified", name);
    else if (flags & BLOCK_BITMAP_INCONSISTENT) {
        fail(error, ERR_CORRUPT, "Bitmap '%s' is inconsistent and cannot be used", name);
        error_hint(error, "remove it with block-dirty-bitmap-remove");
    } else if (flags) {
        fail(error, ERR_BAD_STATE, "Bitmap '%s' is not in a state to be used", name);
    }
    return flags ? error_object(error, "%s", name) : true;
}

/* Setting and clearing. */

/* Bits are looked at before they are set: a bit that is set already costs no write to its line.
 * The fence keeps that look behind the write of the data that it stands for, so that somebody who
 * takes the bit and reads the data afterwards finds it. */
static void set_bits(BlockBitmap *bitmap, uint64_t first, uint64_t end)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    for (uint64_t bit = first; bit < end; bit = ALIGN_DOWN(bit, 64) + 64) {
        uint64_t *word = find_word(bitmap, bit), mask = word_mask(bit, end), old;

        if (!word)
            word = &make_chunk(bitmap, bit)[bit % CHUNK_BITS / 64];
        if ((__atomic_load_n(word, __ATOMIC_SEQ_CST) & mask) == mask)
            continue;
        old = __atomic_fetch_or(word, mask, __ATOMIC_SEQ_CST);
        __atomic_fetch_add(&bitmap->marked, __builtin_popcountll(mask & ~old), __ATOMIC_RELAXED);
    }
}

/* True if one was set. */
static bool clear_bits(BlockBitmap *bitmap, uint64_t first, uint64_t end)
{
    bool any = false;

    for (uint64_t bit = first; bit < end; bit = ALIGN_DOWN(bit, 64) + 64) {
        uint64_t *chunk = find_chunk(bitmap, bit), mask = word_mask(bit, end), old;

        if (!chunk) {                      /* on to the last word of what is not there */
            bit = MAX(bit, ALIGN_DOWN(bit, CHUNK_BITS) + CHUNK_BITS - 64);
            continue;
        }
        old = __atomic_fetch_and(&chunk[bit % CHUNK_BITS / 64], ~mask, __ATOMIC_SEQ_CST) & mask;
        if (!old)
            continue;
        any = true;
        __atomic_fetch_sub(&bitmap->marked, __builtin_popcountll(old), __ATOMIC_RELAXED);
    }
    return any;
}

void block_bitmap_mark(BlockBitmap *bitmap, uint64_t offset, uint64_t bytes)
{
    uint64_t size = block_bitmap_size(bitmap);

    if (offset >= size || !bytes)
        return;
    set_bits(bitmap, offset >> bitmap->shift, bits_of(bitmap, offset + MIN(bytes, size - offset)));
}

/* Granules that the range covers wholly; the last one of the disk may be shorter. */
static bool clear_covered(BlockBitmap *bitmap, uint64_t offset, uint64_t bytes)
{
    uint64_t size = block_bitmap_size(bitmap), end;

    if (offset >= size)
        return false;
    end = offset + MIN(bytes, size - offset);
    return clear_bits(bitmap, bits_of(bitmap, offset),
                      end == size ? bits_of(bitmap, end) : end >> bitmap->shift);
}

void block_bitmap_clear(BlockBitmap *bitmap, uint64_t offset, uint64_t bytes)
{
    clear_covered(bitmap, offset, bytes);
}

bool block_bitmap_take(BlockBitmap *bitmap, uint64_t offset, uint64_t bytes)
{
    return clear_covered(bitmap, offset, bytes);
}

void block_node_mark(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    for (BlockBitmap *bitmap = node->bitmaps; bitmap; bitmap = bitmap->next)
        if (block_bitmap_flags(bitmap) & BLOCK_BITMAP_RECORDING)
            block_bitmap_mark(bitmap, offset, bytes);
}

static void resize(BlockBitmap *bitmap, uint64_t bytes)
{
    uint64_t old = __atomic_exchange_n(&bitmap->size, bytes, __ATOMIC_ACQ_REL);

    if (bytes < old)
        clear_bits(bitmap, bits_of(bitmap, bytes), bits_of(bitmap, old));
}

void block_node_grow_bitmaps(BlockNode *node, uint64_t bytes)
{
    for (BlockBitmap *bitmap = node->bitmaps; bitmap; bitmap = bitmap->next) {
        uint64_t old = block_bitmap_size(bitmap);

        while (old < bytes &&
               !__atomic_compare_exchange_n(&bitmap->size, &old, bytes, true, __ATOMIC_ACQ_REL,
                                            __ATOMIC_ACQUIRE))
            ;
    }
}

void block_node_resize_bitmaps(BlockNode *node, uint64_t bytes)
{
    for (BlockBitmap *bitmap = node->bitmaps; bitmap; bitmap = bitmap->next)
        resize(bitmap, bytes);
}

/* Looking. */

bool block_bitmap_get(const BlockBitmap *bitmap, uint64_t offset)
{
    uint64_t bit = offset >> bitmap->shift;

    return word_at(bitmap, bit) >> (bit & 63) & 1;
}

uint64_t block_bitmap_count(const BlockBitmap *bitmap)
{
    return __atomic_load_n(&bitmap->marked, __ATOMIC_RELAXED) << bitmap->shift;
}

/* The first bit from @bit on that is set (or clear); @end: none. */
static uint64_t next_bit(const BlockBitmap *bitmap, uint64_t bit, uint64_t end, bool set)
{
    while (bit < end) {
        uint64_t *chunk = find_chunk(bitmap, bit), word;

        if (!chunk) {
            if (!set)
                return bit;
            bit = ALIGN_DOWN(bit, CHUNK_BITS) + CHUNK_BITS;
            continue;
        }
        word = __atomic_load_n(&chunk[bit % CHUNK_BITS / 64], __ATOMIC_SEQ_CST);
        word = (set ? word : ~word) & word_mask(bit, end);
        if (word)
            return ALIGN_DOWN(bit, 64) + __builtin_ctzll(word);
        bit = ALIGN_DOWN(bit, 64) + 64;
    }
    return end;
}

static bool next_byte(const BlockBitmap *bitmap, uint64_t offset, uint64_t end, bool set,
                      uint64_t *ret_offset)
{
    uint64_t last, bit;

    end = MIN(end, block_bitmap_size(bitmap));
    if (offset >= end)
        return false;
    last = bits_of(bitmap, end);
    bit = next_bit(bitmap, offset >> bitmap->shift, last, set);
    if (bit == last)
        return false;
    *ret_offset = MAX(offset, bit << bitmap->shift);
    return true;
}

bool block_bitmap_next_dirty(const BlockBitmap *bitmap, uint64_t offset, uint64_t end,
                             uint64_t *ret_offset)
{
    return next_byte(bitmap, offset, end, true, ret_offset);
}

bool block_bitmap_next_zero(const BlockBitmap *bitmap, uint64_t offset, uint64_t end,
                            uint64_t *ret_offset)
{
    return next_byte(bitmap, offset, end, false, ret_offset);
}

bool block_bitmap_next_area(const BlockBitmap *bitmap, uint64_t offset, uint64_t end, uint64_t max,
                            uint64_t *ret_offset, uint64_t *ret_bytes)
{
    uint64_t start, stop;

    end = MIN(end, block_bitmap_size(bitmap));
    if (!next_byte(bitmap, offset, end, true, &start))
        return false;
    end = start + MIN(max, end - start);
    *ret_offset = start;
    *ret_bytes = (next_byte(bitmap, start, end, false, &stop) ? stop : end) - start;
    return true;
}

/* Bits by the word. */

static void merge_words(BlockBitmap *to, const BlockBitmap *from)
{
    uint64_t end = bits_of(from, block_bitmap_size(from));

    for (uint64_t bit = next_bit(from, 0, end, true); bit < end;
         bit = next_bit(from, bit, end, true)) {
        uint64_t stop = next_bit(from, bit, end, false);

        set_bits(to, bit, stop);
        bit = stop;
    }
}

bool block_bitmap_merge(BlockBitmap *to, const BlockBitmap *from, GError **error)
{
    uint64_t size = block_bitmap_size(to), at = 0, bytes;

    if (size != block_bitmap_size(from))
        return fail(error, ERR_INVALID_PARAMETER,
                    "Bitmaps are of different sizes (destination size is %" PRIu64 ", source size "
                    "is %" PRIu64 ") and can't be merged", size, block_bitmap_size(from));
    if (to == from)
        return true;
    if (to->shift == from->shift) {
        merge_words(to, from);
        return true;
    }
    for (; block_bitmap_next_area(from, at, size, UINT64_MAX, &at, &bytes); at += bytes)
        block_bitmap_mark(to, at, bytes);
    return true;
}

static uint64_t end_bit(const BlockBitmap *bitmap, uint64_t offset, uint64_t bytes)
{
    uint64_t size = block_bitmap_size(bitmap);

    return offset >= size ? 0 : bits_of(bitmap, offset + MIN(bytes, size - offset));
}

void block_bitmap_export_bits(const BlockBitmap *bitmap, uint64_t offset, uint64_t bytes,
                              uint8_t *bits)
{
    uint64_t end = end_bit(bitmap, offset, bytes);

    for (uint64_t bit = offset >> bitmap->shift; bit < end; bit += 64) {
        uint64_t n = MIN(64, end - bit);
        uint64_t word = GUINT64_TO_LE(word_at(bitmap, bit) & word_mask(bit, bit + n));

        memcpy(bits, &word, (n + 7) / 8);
        bits += 8;
    }
}

void block_bitmap_import_bits(BlockBitmap *bitmap, uint64_t offset, uint64_t bytes,
                              const uint8_t *bits)
{
    uint64_t end = end_bit(bitmap, offset, bytes);

    for (uint64_t bit = offset >> bitmap->shift; bit < end; bit += 64) {
        uint64_t n = MIN(64, end - bit), mask = word_mask(bit, bit + n), word = 0, *at, old;

        memcpy(&word, bits, (n + 7) / 8);
        bits += 8;
        word = GUINT64_FROM_LE(word) & mask;
        at = find_word(bitmap, bit);
        if (!at && !word)
            continue;
        if (!at)
            at = &make_chunk(bitmap, bit)[bit % CHUNK_BITS / 64];
        old = __atomic_fetch_and(at, ~(mask & ~word), __ATOMIC_SEQ_CST) & mask & ~word;
        __atomic_fetch_sub(&bitmap->marked, __builtin_popcountll(old), __ATOMIC_RELAXED);
        old = ~__atomic_fetch_or(at, word, __ATOMIC_SEQ_CST) & word;
        __atomic_fetch_add(&bitmap->marked, __builtin_popcountll(old), __ATOMIC_RELAXED);
    }
}

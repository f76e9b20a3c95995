/*
 * Dirty bitmaps: which parts of a node were written since a bitmap was made or cleared.  Kept per
 * node; one bit stands for `granularity` bytes.  A write marks after it has changed the data and before it
 * completes; too much may be marked, never too little.
 *
 * Threads: bitmaps are made, freed and changed in kind in the main thread while the node's users are
 * quiesced or the bitmap is new; marking (block_bitmap_mark, from the data path) and looking may be
 * done in any thread: bits are atomic words.
 */
#pragma once
#include "block/block.h"

typedef struct BlockBitmap BlockBitmap;

enum { BLOCK_BITMAP_GRANULARITY_MIN = 512, BLOCK_BITMAP_GRANULARITY_DEFAULT = 65536 };
#define BLOCK_BITMAP_GRANULARITY_MAX (1u << 31)
enum { BLOCK_BITMAP_NAME_MAX = 1023 };     /* bytes */

/* @name: NULL: a bitmap of a job's own, which is not listed.  @granularity: bytes, a power of two;
 * 0: the default.  Enabled, not persistent, nothing marked. */
BlockBitmap *block_bitmap_new(BlockNode *node, const char *name, uint32_t granularity,
                              GError **error);
void block_bitmap_free(BlockBitmap *bitmap);            /* forgets it; a stored one stays in the image */
BlockBitmap *block_bitmap_find(BlockNode *node, const char *name);
/* In order of making; NULL: the first. */
BlockBitmap *block_bitmap_next(BlockNode *node, BlockBitmap *bitmap);

const char *block_bitmap_name(const BlockBitmap *bitmap);
BlockNode *block_bitmap_node(const BlockBitmap *bitmap);
uint32_t block_bitmap_granularity(const BlockBitmap *bitmap);
uint64_t block_bitmap_size(const BlockBitmap *bitmap);  /* bytes of disk that it covers */

typedef enum BlockBitmapFlags {
    BLOCK_BITMAP_RECORDING = 1,            /* enabled: writes mark it */
    BLOCK_BITMAP_PERSISTENT = 2,           /* stored in the image */
    BLOCK_BITMAP_BUSY = 4,                 /* a job or export uses it: not to be changed by a user */
    BLOCK_BITMAP_INCONSISTENT = 8,         /* was not stored before a crash: only to be removed */
    BLOCK_BITMAP_READ_ONLY = 16            /* the image is */
} BlockBitmapFlags;
unsigned block_bitmap_flags(const BlockBitmap *bitmap);
void block_bitmap_set_flags(BlockBitmap *bitmap, unsigned set, unsigned clear);
/* Whether a user may do with it what needs it not to be in one of the states @refuse; the error is
 * QEMU's sentence. */
bool block_bitmap_check(const BlockBitmap *bitmap, unsigned refuse, GError **error);

void block_bitmap_mark(BlockBitmap *bitmap, uint64_t offset, uint64_t bytes);
void block_bitmap_clear(BlockBitmap *bitmap, uint64_t offset, uint64_t bytes);
bool block_bitmap_get(const BlockBitmap *bitmap, uint64_t offset);
uint64_t block_bitmap_count(const BlockBitmap *bitmap); /* marked bytes */
/* The first marked (or unmarked) byte at or after @offset and before @end; false: none. */
bool block_bitmap_next_dirty(const BlockBitmap *bitmap, uint64_t offset, uint64_t end,
                             uint64_t *ret_offset);
bool block_bitmap_next_zero(const BlockBitmap *bitmap, uint64_t offset, uint64_t end,
                            uint64_t *ret_offset);
/* The first marked area from @offset on, at most @max bytes long. */
bool block_bitmap_next_area(const BlockBitmap *bitmap, uint64_t offset, uint64_t end, uint64_t max,
                            uint64_t *ret_offset, uint64_t *ret_bytes);
/* Takes the bits of an area and clears them, so that none that is marked meanwhile is lost. */
bool block_bitmap_take(BlockBitmap *bitmap, uint64_t offset, uint64_t bytes);
/* @to gets what @from has marked, too; granularities may differ. */
bool block_bitmap_merge(BlockBitmap *to, const BlockBitmap *from, GError **error);

/* The bits as the qcow2 specification ("Bitmap data") and the NBD and migration formats have them:
 * little-endian, bit 0 of byte 0 is the first granule.  @offset: of the disk; a multiple of
 * 64 granules. */
void block_bitmap_export_bits(const BlockBitmap *bitmap, uint64_t offset, uint64_t bytes,
                              uint8_t *bits);
void block_bitmap_import_bits(BlockBitmap *bitmap, uint64_t offset, uint64_t bytes,
                              const uint8_t *bits);

/*
 * The filter above a mirror's source.  While it is active, a guest's writes and flushes go to both sides,
 * and are ordered with the job's copies of the same range; otherwise requests skip it.
 */
#pragma once
#include "block/bitmap.h"
#include "block/driver.h"

extern const BlockDriver block_mirror_filter_driver;

/* @dirty: of the source; what it marks is still to be copied.  @target NULL: not active.  Quiesced. */
void block_mirror_filter_activate(BlockNode *filter, BlockNode *target, BlockBitmap *dirty);
/* -errno of the first write to the target that failed since it was asked last; 0: none did. */
int block_mirror_filter_failure(BlockNode *filter);

/* What a job copies: @dirty's bits of it are taken already. */
typedef struct BlockMirrorCopy {
    BlockNode *source, *target;
    BlockBitmap *dirty;
    unsigned flags;                        /* BlockReqFlags */
} BlockMirrorCopy;
/* Copies the first piece of the range; *bytes: its length.  A guest's write to it waits while it is
 * written.  *ret_is_read tells which side failed.  0, or -errno. */
int co_fn block_mirror_filter_copy(BlockNode *filter, const BlockMirrorCopy *what, uint64_t offset,
                                   uint64_t *bytes, bool *ret_is_read);
/* The range is to be copied, whatever a write that is under way thinks of it. */
void block_mirror_filter_mark(BlockNode *filter, BlockBitmap *dirty, uint64_t offset, uint64_t bytes);

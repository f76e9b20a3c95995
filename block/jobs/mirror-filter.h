/*
 * The filter above a mirror's source.  While it is active, a guest's writes go to both sides, and
 * are ordered with the job's copies of the same range; otherwise requests skip it.
 */
#pragma once
#include "block/bitmap.h"
#include "block/driver.h"

extern const BlockDriver block_mirror_filter_driver;

/* @dirty: of the source; what it marks is still to be copied.  Quiesced. */
void block_mirror_filter_activate(BlockNode *filter, BlockNode *target, BlockBitmap *dirty);
/* -errno of the first write to the target that failed since it was asked last; 0: none did. */
int block_mirror_filter_failure(BlockNode *filter);

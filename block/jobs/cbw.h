/*
 * copy-before-write: a filter whose target gets what a write is about to change, so that target and
 * source together hold the disk as it was when the filter was put in place.  snapshot-access shows
 * that.
 *
 * Threads: copying and reading in coroutines of any loop; the rest as driver.h.
 */
#pragma once
#include "block/bitmap.h"
#include "block/driver.h"

extern const BlockDriver block_cbw_driver;

/* What is not copied yet.  Clearing bits says that the target does not need them. */
BlockBitmap *block_cbw_todo(BlockNode *filter);
uint64_t block_cbw_cluster(BlockNode *filter);       /* bytes that are copied at once, at least */
void block_cbw_set_flags(BlockNode *filter, unsigned write_flags); /* BLOCK_COMPRESSED; at first */
/* Copies, for a job, what of the range is not copied yet.  0, or -errno. */
int co_fn block_cbw_copy(BlockNode *filter, uint64_t offset, uint64_t bytes, bool *ret_is_read);
/* Reads the disk as it was.  -EACCES where the filter's bitmap left it out, or copying failed. */
int co_fn block_cbw_read(BlockNode *filter, uint64_t offset, const struct iovec *iov, int iovcnt,
                         uint64_t bytes);
int co_fn block_cbw_map(BlockNode *filter, uint64_t offset, uint64_t bytes, BlockMap *map);

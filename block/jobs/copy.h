/*
 * What jobs have in common: finding out what there is to copy, and moving it.
 *
 * A job copies a piece in two steps.  It reads while nobody waits; then it holds the piece's range, looks
 * again what of it is still wanted, and writes that.  So a guest's request waits for one write of the job
 * at most, of BLOCK_COPY_CHUNK bytes or a cluster of the target.
 */
#pragma once
#include "block/bitmap.h"
#include "block/job.h"

enum { BLOCK_COPY_CHUNK = 1 << 20 };       /* bytes that a guest's write may have to wait for */

/* A piece of a disk, alike from end to end. */
typedef struct BlockCopy {
    uint64_t offset, bytes;
    enum { BLOCK_COPY_NOTHING, BLOCK_COPY_ZERO, BLOCK_COPY_DATA } kind; /* nothing: past the end */
    uint8_t *data;
} BlockCopy;
/* The first piece of the range: zeroes of any length, or at most a chunk of data.  It is a multiple of
 * @grain bytes, or ends where the range does.  0, or -errno.  After both: block_copy_clear. */
int co_fn block_copy_read(BlockNode *source, uint64_t offset, uint64_t bytes, uint64_t grain,
                          BlockCopy *copy);
/* Writes that part of it as @flags say (BLOCK_HELD, BLOCK_COMPRESSED, BLOCK_MAY_UNMAP). */
int co_fn block_copy_write(const BlockCopy *copy, BlockNode *target, uint64_t offset, uint64_t bytes,
                           unsigned flags);
void block_copy_clear(BlockCopy *copy);

/* Copies a range of which nobody else writes.  *ret_is_read tells which side failed.  0, or -errno. */
int co_fn block_copy(BlockNode *source, BlockNode *target, uint64_t offset, uint64_t bytes,
                     unsigned flags, bool *ret_is_read);
/* What a format allocates at once; 0: it does not say. */
uint64_t block_node_cluster_size(BlockNode *node);

/* Marks what @top has above @base (NULL: what its whole chain has) in @bitmap; @clear: unmarks the rest
 * instead.  @user is the job's, of @top.  False without an error: the job is to end. */
bool co_fn block_job_find_allocated(BlockJob *job, BlockUser *user, BlockNode *top, BlockNode *base,
                                    BlockBitmap *bitmap, bool clear, GError **error);

/* on-source-error=, on-target-error= and such: an index of block_on_error_words; "auto"
 * is report. */
bool block_job_get_on_error(json_object *options, const char *key, BlockOnError *policy,
                            GError **error);
/* What becomes of a failed chunk: true: it is to be tried again, after the job's next pause point
 * or, where the error is ignored (*ret_ignored), after BLOCK_JOB_RETRY_NS; false: the job fails with
 * *error. */
#define BLOCK_JOB_RETRY_NS 100000000
bool co_fn block_job_chunk_failed(BlockJob *job, BlockOnError policy, bool is_read, int ret,
                                  bool *ret_ignored, GError **error);

/* What jobs have in common: moving a chunk from one node to another. */
#pragma once
#include "block/job.h"

enum { BLOCK_COPY_CHUNK = 1 << 20 };       /* bytes that a guest's write may have to wait for */

/* Copies data as data and zeroes as zeroes.  @flags: those of the writes (BLOCK_HELD,
 * BLOCK_COMPRESSED, BLOCK_MAY_UNMAP).  *ret_is_read tells which side failed.  0, or -errno. */
int co_fn block_copy(BlockNode *source, BlockNode *target, uint64_t offset, uint64_t bytes,
                     unsigned flags, bool *ret_is_read);
/* What a format allocates at once; 0: it does not say. */
uint64_t block_node_cluster_size(BlockNode *node);

/* on-source-error=, on-target-error= and such: an index of block_on_error_words; "auto"
 * is report. */
bool block_job_get_on_error(json_object *options, const char *key, BlockOnError *policy,
                            GError **error);
/* What becomes of a failed chunk: true: try again (after a pause) or leave it out (*ret_skip);
 * false: the job fails with *error. */
bool co_fn block_job_chunk_failed(BlockJob *job, BlockOnError policy, bool is_read, int ret,
                                  bool *ret_skip, GError **error);

/* What the jobs on chains of backing files share. */
#pragma once
#include "block/job.h"

/* What block-commit and block-stream take alike. */
typedef struct BlockChainArgs {
    BlockNode *device;                     /* borrowed */
    const char *backing_name;              /* NULL: not given */
    BlockOnError on_error;
    BlockJobConfig config;
} BlockChainArgs;
bool block_chain_args(BlockGraph *graph, json_object *data, BlockChainArgs *args, GError **error);

/* @image, which shows the same with both, gets another backing node (NULL: none), and its header the name
 * (@name: NULL: the backing node's own).  All or nothing.  Its users go on meanwhile: they are held for
 * the change of the graph only.  @release (may be NULL) is called then. */
bool co_fn block_change_backing(BlockJob *job, BlockNode *image, BlockNode *backing, const char *name,
                                void co_fn (*release)(BlockJob *job), GError **error);
/*
 * Between @top and @base, a job will write to @base what @top shows anyway.  What is in between
 * reads something else from then on: nobody but the chain itself may use it, or @base, which the
 * job's user gets @perm on.  Quiesced.
 */
bool co_fn block_chain_claim(BlockJob *job, BlockNode *top, BlockNode *base, GError **error);
/* When the job's users are gone. */
void co_fn block_chain_release(BlockNode *top, BlockNode *base);
/* The node of @top's chain with that name or file name; the errors are QEMU's sentences. */
BlockNode *block_chain_find(BlockNode *top, const char *node_name, const char *filename,
                            GError **error);

bool block_commit(BlockGraph *graph, json_object *data, GError **error);       /* block-commit */
bool block_stream(BlockGraph *graph, json_object *data, GError **error);       /* block-stream */
bool block_change_backing_file(BlockGraph *graph, json_object *data, GError **error);
bool block_create_job(BlockGraph *graph, json_object *data, GError **error);   /* blockdev-create */
bool block_amend_job(BlockGraph *graph, json_object *data, GError **error);    /* x-blockdev-amend */

/* What a commit of the active image shares with a mirror: the copy goes to a node of the chain. */
#pragma once
#include "block/job.h"

typedef enum BlockMirrorSync { BLOCK_MIRROR_TOP, BLOCK_MIRROR_FULL, BLOCK_MIRROR_NONE }
    BlockMirrorSync;

typedef struct BlockMirrorArgs {
    BlockNode *source, *target;
    BlockMirrorSync sync;
    BlockNode *base;                       /* what the source has above it is copied: TOP */
    bool blocking;                         /* copy-mode=write-blocking */
    uint32_t granularity;                  /* 0: the default */
    uint64_t buffer;                       /* bytes under way at once; 0: the default */
    bool unmap;
    const char *replaces, *filter_name;    /* NULL: the source; none */
    BlockOnError on_source_error, on_target_error;
    bool is_commit;                        /* the target is below the source, and takes its place */
} BlockMirrorArgs;

/* The caller holds the nodes.  Waits. */
bool block_mirror_launch(const BlockMirrorArgs *args, const BlockJobConfig *config, GError **error);
/* blockdev-mirror, by its QMP arguments.  Waits. */
bool block_mirror(BlockGraph *graph, json_object *data, GError **error);

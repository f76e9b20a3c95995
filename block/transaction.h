/*
 * Transactions: several changes of images and of the graph at one point in time, all of them or
 * none. The requests of all users wait meanwhile.
 *
 * Threads: the main thread; waits.
 */
#pragma once
#include "block/job.h"

typedef struct BlockAction BlockAction;

/* A kind of action.  prepare does it as far as it can be undone; when all of a transaction are
 * prepared they commit, in their order; if one fails those before it abort, in the opposite order.
 * clean comes last, for each that was prepared. */
typedef struct BlockActionType {
    const char *name;                      /* QMP's: "blockdev-snapshot" */
    size_t size;                           /* of its struct, whose first member is a BlockAction */
    bool co_fn (*prepare)(BlockAction *action, GError **error);
    void co_fn (*commit)(BlockAction *action);
    void co_fn (*abort)(BlockAction *action);
    void co_fn (*clean)(BlockAction *action);
} BlockActionType;

struct BlockAction {
    const BlockActionType *type;
    BlockGraph *graph;
    json_object *data;                     /* the action's arguments, of the right types */
    BlockJobGroup *group;                  /* for its jobs; NULL: each for itself */
};

/* @actions: an array of objects with "type" and "data".  @grouped: their jobs complete together. */
bool block_transaction(BlockGraph *graph, json_object *actions, bool grouped, GError **error);
/* A transaction of one. */
bool block_action(BlockGraph *graph, const char *type, json_object *data, GError **error);

extern const BlockActionType block_bitmap_add_action, block_bitmap_remove_action,
    block_bitmap_clear_action, block_bitmap_enable_action, block_bitmap_disable_action,
    block_bitmap_merge_action, block_backup_action, block_snapshot_action,
    block_snapshot_sync_action, block_internal_snapshot_action;

/* blockdev-snapshot-delete-internal-sync: what was deleted (SnapshotInfo), or NULL.  Waits. */
json_object *block_internal_snapshot_delete(BlockGraph *graph, const char *device, const char *id,
                                            const char *name, GError **error);

/* blockdev-snapshot, blockdev-snapshot-sync: a disk goes on in an overlay, and what it was stays
 * below it, as actions. */
#include "block/chain.h"
#include "block/image.h"
#include "block/node.h"
#include "block/transaction.h"
#include <string.h>

typedef struct SnapshotAction {
    BlockAction action;
    BlockNode *node, *overlay;             /* held */
} SnapshotAction;

static bool check_overlay(BlockNode *overlay, GError **error)
{
    if (overlay->parents->len) {
        g_autofree char *who = block_edge_describe(overlay->parents->pdata[0]);

        fail(error, ERR_IN_USE, "The overlay is already in use");
        return error_hint(error, "by %s", who);
    }
    if (!overlay->driver->has_backing)
        return fail(error, ERR_UNSUPPORTED, "The overlay does not support backing images");
    if (block_node_child(overlay, "backing"))
        return fail(error, ERR_IN_USE, "The overlay already has a backing image");
    return true;
}

static bool co_fn put_on_top(SnapshotAction *a, GError **error)
{
    if (!check_overlay(a->overlay, error) ||
        !block_node_set_child(a->overlay, "backing", a->node, error))
        return false;
    if (block_node_replace(a->node, a->overlay, NULL, error))
        return true;
    block_node_set_child(a->overlay, "backing", NULL, NULL);
    return false;
}

static void co_fn take_down(BlockAction *action)
{
    SnapshotAction *a = (SnapshotAction *)action;

    block_node_replace(a->overlay, a->node, NULL, NULL);
    block_node_set_child(a->overlay, "backing", NULL, NULL);
}

static void co_fn let_go(BlockAction *action)
{
    SnapshotAction *a = (SnapshotAction *)action;

    block_node_put(a->node);
    block_node_put(a->overlay);
}

static bool co_fn snapshot_prepare(BlockAction *action, GError **error)
{
    SnapshotAction *a = (SnapshotAction *)action;
    const char *node = NULL, *overlay = NULL;

    if (!options_get_str(action->data, "node", &node, error) ||
        !options_get_str(action->data, "overlay", &overlay, error))
        return false;
    a->node = block_node_lookup(action->graph, node, node, error);
    a->overlay = a->node ? block_node_lookup(action->graph, overlay, overlay, error) : NULL;
    if (!a->overlay)
        return false;
    block_node_get(a->node);
    block_node_get(a->overlay);
    if (put_on_top(a, error))
        return true;
    let_go(action);
    return false;
}

const BlockActionType block_snapshot_action = {
    .name = "blockdev-snapshot",
    .size = sizeof(SnapshotAction),
    .prepare = snapshot_prepare,
    .abort = take_down,
    .clean = let_go,
};

/* The same with an image that is made for it. */

typedef struct SyncArgs {
    const char *device, *node_name, *file, *format, *name, *mode;
} SyncArgs;

static bool parse_sync(json_object *data, SyncArgs *args, GError **error)
{
    *args = (SyncArgs){ .format = "qcow2", .mode = "absolute-paths" };
    if (!options_get_str(data, "device", &args->device, error) ||
        !options_get_str(data, "node-name", &args->node_name, error) ||
        !options_get_str(data, "snapshot-file", &args->file, error) ||
        !options_get_str(data, "format", &args->format, error) ||
        !options_get_str(data, "snapshot-node-name", &args->name, error) ||
        !options_get_str(data, "mode", &args->mode, error))
        return false;
    if (args->node_name && !args->name)
        return fail(error, ERR_MISSING_PARAMETER, "New overlay node-name missing");
    return true;
}

static bool create_overlay(SnapshotAction *a, const SyncArgs *args, GError **error)
{
    g_autoptr(json_object) options = json_object_new_object();
    BlockNode *below = block_node_skip_filters(a->node);

    if (!strcmp(args->mode, "existing"))
        return true;
    json_object_object_add(options, "size", json_object_new_int64(block_node_size(a->node)));
    json_add_str(options, "backing_file", block_node_filename(below));
    json_add_str(options, "backing_fmt", below->driver->name);
    return block_image_create(a->action.graph, args->format, args->file, options, error);
}

static bool co_fn open_overlay(SnapshotAction *a, const SyncArgs *args, GError **error)
{
    g_autoptr(json_object) options = json_object_new_object();

    if (args->name)
        json_add_str(options, "node-name", args->name);
    json_object_object_add(options, "backing", NULL);
    a->overlay = block_image_open(a->action.graph, args->file, args->format, options, error);
    return a->overlay != NULL;
}

static bool co_fn sync_prepare(BlockAction *action, GError **error)
{
    SnapshotAction *a = (SnapshotAction *)action;
    SyncArgs args;

    if (!parse_sync(action->data, &args, error))
        return false;
    a->node = block_node_lookup(action->graph, args.device, args.node_name ? args.node_name
                                                                           : args.device, error);
    if (!a->node)
        return false;
    block_node_get(a->node);
    if (create_overlay(a, &args, error) && open_overlay(a, &args, error) && put_on_top(a, error))
        return true;
    let_go(action);
    return false;
}

const BlockActionType block_snapshot_sync_action = {
    .name = "blockdev-snapshot-sync",
    .size = sizeof(SnapshotAction),
    .prepare = sync_prepare,
    .abort = take_down,
    .clean = let_go,
};

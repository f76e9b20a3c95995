/* blockdev-snapshot-internal-sync, an action, and blockdev-snapshot-delete-internal-sync: snapshots that
 * a format keeps in the image itself. */
#include "block/image.h"
#include "block/node.h"
#include "block/transaction.h"
#include "src/base/util.h"
#include <string.h>

/* Who changes an image's snapshots: what its users read stays. */
typedef struct Holder {
    BlockNode *node;                       /* held */
    BlockUser *user;
} Holder;

static bool check_jobs(BlockNode *node, const char *device, GError **error)
{
    for (BlockJob *job = NULL; (job = block_job_next(node->graph, job));)
        for (unsigned i = 0; i < job->users->len; i++) {
            BlockNode *used = block_user_node(job->users->pdata[i]);

            if (!block_node_reaches(used, node) && !block_node_reaches(node, used))
                continue;
            fail(error, ERR_IN_USE, "Node '%s' is busy: block device is in use by block job: %s",
                 node->name, job->type->name);
            return error_object(error, "%s", device);
        }
    return true;
}

static bool find_node(BlockGraph *graph, const char *device, Holder *holder, GError **error)
{
    holder->node = block_node_lookup(graph, device, device, error);
    if (!holder->node)
        return false;
    block_node_get(holder->node);
    return true;
}

/* The image is to be changed. */
static bool co_fn hold(Holder *holder, const char *device, GError **error)
{
    BlockNode *node = holder->node;

    if (!check_jobs(node, device, error))
        return false;
    if (node->config.read_only && !node->demoted) {
        fail(error, ERR_PERMISSION, "Device '%s' is read only", device);
        return error_object(error, "%s", device);
    }
    holder->user = block_user_new(node, "internal snapshot", BLOCK_PERM_WRITE_SAME, BLOCK_PERM_ALL,
                                  error);
    return holder->user != NULL;
}

static void co_fn let_go(Holder *holder)
{
    if (holder->user)
        block_user_free(holder->user);
    block_node_put(holder->node);
}

/* Taking one. */

typedef struct TakeAction {
    BlockAction action;
    Holder holder;
    char *id;                              /* what the image calls the new one */
} TakeAction;

static bool check_name(const TakeAction *a, const char *device, const char *name, GError **error)
{
    g_autoptr(GPtrArray) all = block_snapshots(a->holder.node);

    if (!block_node_has_snapshots(a->holder.node)) {
        fail(error, ERR_UNSUPPORTED, "Block format '%s' used by device '%s' does not support internal "
                                     "snapshots", a->holder.node->driver->name, device);
        return error_object(error, "%s", device);
    }
    if (!*name)
        return fail(error, ERR_INVALID_PARAMETER, "Name is empty");
    if (!block_snapshot_find(all, NULL, name))
        return true;
    fail(error, ERR_EXISTS, "Snapshot with name '%s' already exists on device '%s'", name, device);
    return error_object(error, "%s", name);
}

static bool co_fn take(TakeAction *a, const char *device, const char *name, GError **error)
{
    BlockGraph *graph = a->action.graph;
    int64_t now_us = g_get_real_time();
    BlockSnapshot snapshot = { .name = (char *)name, .icount = UINT64_MAX,
                               .date_sec = now_us / 1000000, .date_nsec = now_us % 1000000 * 1000 };

    if (graph->clock_ns)
        snapshot.vm_clock_nsec = graph->clock_ns(graph->clock_opaque);
    if (block_co_snapshot_create(a->holder.node, &snapshot, error) < 0)
        return error_prefix(error, "Failed to create snapshot '%s' on device '%s': ", name, device);
    a->id = snapshot.id;
    return true;
}

static bool co_fn take_prepare(BlockAction *action, GError **error)
{
    TakeAction *a = (TakeAction *)action;
    const char *device = "", *name = "";

    if (!options_get_str(action->data, "device", &device, error) ||
        !options_get_str(action->data, "name", &name, error) ||
        !find_node(action->graph, device, &a->holder, error))
        return false;
    if (check_name(a, device, name, error) && hold(&a->holder, device, error) &&
        take(a, device, name, error))
        return true;
    let_go(&a->holder);
    return false;
}

static void co_fn take_abort(BlockAction *action)
{
    TakeAction *a = (TakeAction *)action;
    g_autoptr(GError) error = NULL;

    if (block_co_snapshot_delete(a->holder.node, a->id, &error) < 0)
        warn_report("snapshot '%s' of an undone transaction stays in the image of node '%s': %s", a->id,
                    a->holder.node->name, error ? error->message : "");
}

static void co_fn take_clean(BlockAction *action)
{
    TakeAction *a = (TakeAction *)action;

    let_go(&a->holder);
    g_free(a->id);
}

const BlockActionType block_internal_snapshot_action = {
    .name = "blockdev-snapshot-internal-sync",
    .size = sizeof(TakeAction),
    .prepare = take_prepare,
    .abort = take_abort,
    .clean = take_clean,
};

/* Deleting one. */

typedef struct DeleteArgs {
    BlockGraph *graph;
    const char *device, *id, *name;        /* id or name may be NULL */
    json_object *info;                     /* what was deleted */
} DeleteArgs;

static bool co_fn delete_from(Holder *holder, DeleteArgs *args, GError **error)
{
    g_autoptr(GPtrArray) all = block_snapshots(holder->node);
    const BlockSnapshot *snapshot = block_snapshot_find(all, args->id, args->name);

    if (!snapshot) {
        fail(error, ERR_NOT_FOUND, "Snapshot with id '%s' and name '%s' does not exist on device '%s'",
             args->id ? args->id : "null", args->name ? args->name : "null", args->device);
        return error_object(error, "%s", args->device);
    }
    if (!hold(holder, args->device, error) ||
        block_co_snapshot_delete(holder->node, snapshot->id, error) < 0)
        return false;
    args->info = block_snapshot_describe(snapshot);
    return true;
}

static bool co_fn delete(void *opaque, GError **error)
{
    DeleteArgs *args = opaque;
    Holder holder = { 0 };
    bool ok = find_node(args->graph, args->device, &holder, error);

    if (!ok)
        return false;
    ok = delete_from(&holder, args, error);
    let_go(&holder);
    return ok;
}

json_object *block_internal_snapshot_delete(BlockGraph *graph, const char *device, const char *id,
                                            const char *name, GError **error)
{
    DeleteArgs args = { graph, device, id, name, NULL };

    if (!id && !name) {
        fail(error, ERR_MISSING_PARAMETER, "Name or id must be provided");
        return NULL;
    }
    block_change(graph, NULL, delete, &args, error);
    return args.info;
}

/* Transactions. */
#include "block/transaction.h"
#include "block/node.h"
#include <string.h>

static bool co_fn refuse_prepare(BlockAction *action, GError **error)
{
    return fail(error, ERR_GENERIC, "Transaction aborted using Abort action");
}

static const BlockActionType abort_action = {
    .name = "abort",
    .size = sizeof(BlockAction),
    .prepare = refuse_prepare,
};

static const BlockActionType *const action_types[] = {
    &abort_action,
    &block_backup_action,
    &block_bitmap_add_action,
    &block_bitmap_clear_action,
    &block_bitmap_disable_action,
    &block_bitmap_enable_action,
    &block_bitmap_merge_action,
    &block_bitmap_remove_action,
    &block_internal_snapshot_action,
    &block_snapshot_action,
    &block_snapshot_sync_action,
};

static const BlockActionType *find_type(const char *name, GError **error)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(action_types); i++)
        if (!strcmp(action_types[i]->name, name))
            return action_types[i];
    fail(error, ERR_UNSUPPORTED, "action '%s' is not in this build", name);
    return NULL;
}

typedef struct Transaction {
    BlockGraph *graph;
    BlockJobGroup *group;
    GPtrArray *actions;                    /* of BlockAction, prepared */
    json_object *list;
    GError **error;
    bool ok;
} Transaction;

static bool co_fn prepare_one(Transaction *t, json_object *entry, GError **error)
{
    json_object *data = NULL;
    const BlockActionType *type;
    const char *name = "";
    BlockAction *action;

    if (!options_get_str(entry, "type", &name, error))
        return false;
    type = find_type(name, error);
    if (!type)
        return false;
    json_object_object_get_ex(entry, "data", &data);
    action = g_malloc0(type->size);
    action->type = type;
    action->graph = t->graph;
    action->group = t->group;
    action->data = json_object_get(data);
    if (type->prepare(action, error)) {
        g_ptr_array_add(t->actions, action);
        return true;
    }
    json_object_put(action->data);
    g_free(action);
    return false;
}

static bool co_fn prepare_all(Transaction *t)
{
    for (size_t i = 0; i < json_object_array_length(t->list); i++)
        if (!prepare_one(t, json_object_array_get_idx(t->list, i), t->error))
            return false;
    return true;
}

static void co_fn transaction_run(void *opaque)
{
    Transaction *t = opaque;
    BlockQuiesce *quiesce;

    co_mutex_lock(&t->graph->change_lock);
    quiesce = block_quiesce(t->graph, NULL, NULL);
    t->ok = prepare_all(t);
    for (unsigned i = 0; t->ok && i < t->actions->len; i++) {
        BlockAction *action = t->actions->pdata[i];

        if (action->type->commit)
            action->type->commit(action);
    }
    for (unsigned i = t->actions->len; !t->ok && i-- > 0;) {
        BlockAction *action = t->actions->pdata[i];

        if (action->type->abort)
            action->type->abort(action);
    }
    for (unsigned i = 0; i < t->actions->len; i++) {
        BlockAction *action = t->actions->pdata[i];

        if (action->type->clean)
            action->type->clean(action);
        json_object_put(action->data);
        g_free(action);
    }
    block_resume(quiesce);
    co_mutex_unlock(&t->graph->change_lock);
}

bool block_transaction(BlockGraph *graph, json_object *actions, bool grouped, GError **error)
{
    Transaction t = { .graph = graph, .group = grouped ? block_job_group_new() : NULL,
                      .actions = g_ptr_array_new(), .list = actions, .error = error };

    block_graph_begin(graph);
    co_run_sync(transaction_run, &t);
    block_graph_end(graph);
    g_ptr_array_free(t.actions, TRUE);
    if (t.group)
        block_job_group_unref(t.group);
    return t.ok;
}

bool block_action(BlockGraph *graph, const char *type, json_object *data, GError **error)
{
    g_autoptr(json_object) list = json_object_new_array(), entry = json_object_new_object();

    json_object_object_add(entry, "type", json_object_new_string(type));
    json_object_object_add(entry, "data", json_object_get(data));
    json_object_array_add(list, json_object_get(entry));
    return block_transaction(graph, list, false, error);
}

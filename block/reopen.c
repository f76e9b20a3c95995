/*
 * Other options for open nodes: read-only, caching, the drivers' own, and other nodes below them.
 * Every node is prepared first, from the top down; then all are changed from the bottom up, or none.
 */
#include "block/change.h"
#include "block/node.h"
#include <string.h>

#define WRITING (BLOCK_PERM_WRITE | BLOCK_PERM_WRITE_SAME | BLOCK_PERM_RESIZE)

typedef struct Reopen {
    BlockNode *node;                       /* held */
    BlockReopen with;
    BlockNodeConfig config, old;           /* as it is to be, and was */
    bool demoted, was_demoted;
    json_object *options;                  /* as given; NULL: those it has stay */
    json_object *rest;                     /* what of them nobody has taken yet */
    bool change_child;
    const char *key;                       /* of the child that is to be another one */
    BlockNode *child, *old_child;          /* held; NULL: none */
    bool prepared, child_changed;
} Reopen;

static void reopen_free(Reopen *r)
{
    json_object_put(r->options);
    json_object_put(r->rest);
    block_node_put(r->child);
    block_node_put(r->old_child);
    block_node_put(r->node);
    g_free(r);
}

static Reopen *reopen_new(BlockNode *node)
{
    Reopen *r = g_new0(Reopen, 1);

    r->node = block_node_get(node);
    r->config = r->old = node->config;
    r->was_demoted = node->demoted;
    return r;
}

static Reopen *find(const GPtrArray *all, const BlockNode *node)
{
    for (unsigned i = 0; i < all->len; i++) {
        Reopen *r = all->pdata[i];

        if (r->node == node)
            return r;
    }
    return NULL;
}

/* Preparing. */

static bool will_be_read_only(const GPtrArray *all, const BlockNode *node)
{
    const Reopen *r = find(all, node);

    return r ? r->config.read_only : node->config.read_only;
}

/* Who becomes read-only, too, writes no more. */
static bool check_writers(const GPtrArray *all, const Reopen *r, GError **error)
{
    for (unsigned i = 0; r->config.read_only && i < r->node->parents->len; i++) {
        const BlockEdge *edge = r->node->parents->pdata[i];
        g_autofree char *who = NULL;

        if (!(edge->perm & WRITING) || (edge->parent && will_be_read_only(all, edge->parent)))
            continue;
        who = block_edge_describe(edge);
        fail(error, ERR_IN_USE, "Cannot make block node '%s' read-only: it is written to by %s",
             r->node->name, who);
        return error_object(error, "%s", r->node->name);
    }
    return true;
}

/* Drivers that know nothing of it, and filters: those with a file below have nothing to change
 * for themselves. */
static bool check_plain(const GPtrArray *all, const Reopen *r, GError **error)
{
    const BlockNodeConfig *now = &r->old;
    BlockNode *file = block_node_file(r->node);
    bool same = r->config.read_only == now->read_only && r->config.direct == now->direct &&
                r->config.no_flush == now->no_flush;

    if (same || (file && (r->config.read_only || !will_be_read_only(all, file))))
        return true;
    fail(error, ERR_UNSUPPORTED, "block driver '%s' cannot change read-only or caching of the open "
                                 "node '%s'", r->node->driver->name, r->node->name);
    return error_object(error, "%s", r->node->name);
}

/* What the driver did not take must be what it was. */
static bool check_same(const Reopen *r, GError **error)
{
    json_object_object_foreach(r->rest, key, value) {
        json_object *old = NULL;

        if (json_object_object_get_ex(r->node->options, key, &old) &&
            (json_object_equal(old, value) ||
             !g_strcmp0(json_object_get_string(old), json_object_get_string(value))))
            continue;
        fail(error, ERR_INVALID_PARAMETER, "Cannot change the option '%s'", key);
        return error_object(error, "%s", r->node->name);
    }
    return r->config.force_share == r->old.force_share ||
           fail(error, ERR_INVALID_PARAMETER, "Cannot change the option 'force-share'");
}

/* Nobody flushes what a read-only node has written, or asks what became of it. */
static bool co_fn flush(BlockNode *node, GError **error)
{
    int ret = node->config.read_only ? 0 : block_node_co_flush(node);

    return ret == 0 || fail_errno(error, -ret, "flushing node '%s' failed", node->name);
}

static bool co_fn prepare(const GPtrArray *all, Reopen *r, GError **error)
{
    const BlockDriver *driver = r->node->driver;

    r->with = (BlockReopen){ .read_only = r->config.read_only, .direct = r->config.direct,
                             .no_flush = r->config.no_flush, .options = r->rest,
                             .auto_read_only = r->config.auto_read_only };
    if (!check_writers(all, r, error) ||
        ((!driver->reopen_prepare || driver->is_filter) && !check_plain(all, r, error)) ||
        !flush(r->node, error))
        return false;
    if (driver->reopen_prepare && !driver->reopen_prepare(r->node, &r->with, error))
        return false;
    r->prepared = true;
    r->demoted = r->with.read_only && !r->config.read_only;
    r->config.read_only = r->with.read_only;
    return !r->rest || check_same(r, error);
}

/* The children are asked again for what the node needs of them. */
static bool co_fn ask_children(BlockNode *node, GError **error)
{
    for (unsigned i = 0; i < node->children->len; i++) {
        BlockEdge *edge = node->children->pdata[i];

        if (!block_edge_relax(edge, edge->relaxed, error))
            return false;
    }
    return true;
}

/* Committing: what can fail comes first. */

static bool co_fn apply(Reopen *r, GError **error)
{
    BlockNode *node = r->node;

    if (r->change_child) {
        r->old_child = block_node_child(node, r->key);
        if (r->old_child)
            block_node_get(r->old_child);
        if (!block_node_set_child(node, r->key, r->child, error))
            return false;
        r->child_changed = true;
    }
    node->demoted = r->demoted;
    if (r->config.read_only || !r->old.read_only)
        return true;
    node->config.read_only = false;
    return ask_children(node, error);
}

static void co_fn commit(Reopen *r)
{
    BlockNode *node = r->node;

    if (node->driver->reopen_commit && r->prepared)
        node->driver->reopen_commit(node, &r->with);
    node->config = r->config;
    if (!r->old.read_only && r->config.read_only)
        ask_children(node, NULL);
    if (r->options) {
        json_object_put(node->options);
        node->options = json_object_get(r->options);
    }
    block_node_update(node);
    block_node_route(node);
}

static void co_fn take_back(Reopen *r)
{
    bool asked = r->node->config.read_only != r->old.read_only;

    if (r->child_changed)
        block_node_set_child(r->node, r->key, r->old_child, NULL);
    r->node->config = r->old;
    r->node->demoted = r->was_demoted;
    if (asked)
        ask_children(r->node, NULL);
    if (r->prepared && r->node->driver->reopen_abort)
        r->node->driver->reopen_abort(r->node, &r->with);
}

static int compare_depth(gconstpointer a, gconstpointer b)
{
    const Reopen *x = *(Reopen *const *)a, *y = *(Reopen *const *)b;

    return x->node->depth < y->node->depth ? 1 : x->node->depth > y->node->depth ? -1 : 0;
}

/* @all: of Reopen. */
static bool co_fn change_all(GPtrArray *all, GError **error)
{
    bool ok = true;

    g_ptr_array_sort(all, compare_depth);
    for (unsigned i = 0; ok && i < all->len; i++)
        ok = prepare(all, all->pdata[i], error);
    for (unsigned i = all->len; ok && i-- > 0;)
        ok = apply(all->pdata[i], error);
    for (unsigned i = all->len; ok && i-- > 0;)
        commit(all->pdata[i]);
    for (unsigned i = all->len; !ok && i-- > 0;)
        take_back(all->pdata[i]);
    return ok;
}

/* One node's read-only. */

typedef struct ReadOnlyRun {
    BlockNode *node;
    bool read_only, ok;
    GError **error;
} ReadOnlyRun;

static void co_fn read_only_run(void *opaque)
{
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func((GDestroyNotify)reopen_free);
    ReadOnlyRun *run = opaque;
    Reopen *r = reopen_new(run->node);

    r->config.read_only = run->read_only;
    g_ptr_array_add(all, r);
    run->ok = change_all(all, run->error);
}

bool block_node_set_read_only(BlockNode *node, bool read_only, GError **error)
{
    ReadOnlyRun run = { node, read_only, true, error };

    if (node->config.read_only != read_only)
        co_run_sync(read_only_run, &run);
    return run.ok;
}

/* blockdev-reopen. */

static bool take_node(GPtrArray *all, BlockNode *node, json_object *options,
                      const BlockNodeConfig *above, GError **error);

/* A child whose options stand in its parent's: they are its own, and those it inherits. */
static bool take_inline(GPtrArray *all, Reopen *r, BlockEdge *edge, json_object *value,
                        GError **error)
{
    if (!edge || edge->child->monitor_owned)
        return fail(error, ERR_INVALID_PARAMETER, "'%s' of node '%s' must be a node name",
                    edge ? edge->key : "child", r->node->name);
    return take_node(all, edge->child, value, &r->config, error);
}

static bool may_change(const BlockNode *node, const char *key)
{
    return !strcmp(key, "backing") ? node->driver->has_backing
                                   : node->driver->is_filter && !strcmp(key, "file");
}

static bool take_child(GPtrArray *all, Reopen *r, BlockEdge *edge, json_object *value, const char *key,
                       GError **error)
{
    const char *name = json_object_get_string(value);

    if (value && !json_object_is_type(value, json_type_string))
        return take_inline(all, r, edge, value, error);
    if (edge ? value && !strcmp(edge->child->name, name) : !value)
        return true;
    if (!may_change(r->node, key))
        return fail(error, ERR_INVALID_PARAMETER, "Cannot change the option '%s'", key);
    r->change_child = true;
    r->key = g_intern_string(key);
    if (value && !(r->child = block_node_lookup(r->node->graph, NULL, name, error)))
        return false;
    if (r->child)
        block_node_get(r->child);
    return true;
}

static bool take_children(GPtrArray *all, Reopen *r, GError **error)
{
    static const char *const keys[] = { "file", "backing", "data-file", "target" };

    for (unsigned i = 0; i < G_N_ELEMENTS(keys); i++) {
        json_object *value = NULL;
        BlockEdge *edge = NULL;

        for (unsigned n = 0; n < r->node->children->len; n++)
            if (!strcmp(((BlockEdge *)r->node->children->pdata[n])->key, keys[i]))
                edge = r->node->children->pdata[n];
        if (!json_object_object_get_ex(r->rest, keys[i], &value)) {
            if (edge)
                return fail(error, ERR_MISSING_PARAMETER, "Option '%s' must be specified for node "
                                                          "'%s'", keys[i], r->node->name);
            continue;
        }
        if (!take_child(all, r, edge, value, keys[i], error))
            return false;
        json_object_object_del(r->rest, keys[i]);
    }
    return true;
}

/* A word that the options may say again, but not change. */
static bool take_same(Reopen *r, const char *key, const char *now, GError **error)
{
    const char *given = NULL;

    if (!options_get_str(r->rest, key, &given, error))
        return false;
    if (given && strcmp(given, now))
        return fail(error, ERR_INVALID_PARAMETER, "Cannot change the option '%s'", key);
    json_object_object_del(r->rest, key);
    return true;
}

static bool take_node(GPtrArray *all, BlockNode *node, json_object *options,
                      const BlockNodeConfig *above, GError **error)
{
    Reopen *r;

    if (find(all, node))
        return fail(error, ERR_INVALID_PARAMETER, "Node '%s' is given twice", node->name);
    r = reopen_new(node);
    g_ptr_array_add(all, r);
    r->options = json_object_get(options);
    json_object_deep_copy(options, &r->rest, NULL);
    return take_same(r, "node-name", node->name, error) &&
           take_same(r, "driver", node->driver->name, error) &&
           block_options_common(r->rest, above, &r->config, error) && take_children(all, r, error);
}

typedef struct ReopenList {
    BlockGraph *graph;
    json_object *list;
} ReopenList;

static bool take_entry(GPtrArray *all, BlockGraph *graph, json_object *options, GError **error)
{
    const char *name = NULL;
    BlockNode *node;

    if (!options_get_str(options, "node-name", &name, error))
        return false;
    if (!name)
        return fail(error, ERR_MISSING_PARAMETER, "node-name not specified");
    node = block_node_find(graph, name);
    if (node)
        return take_node(all, node, options, NULL, error);
    fail(error, ERR_NOT_FOUND, "Failed to find node with node-name='%s'", name);
    return error_object(error, "%s", name);
}

static bool co_fn reopen(void *opaque, GError **error)
{
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func((GDestroyNotify)reopen_free);
    const ReopenList *run = opaque;

    for (size_t i = 0; i < json_object_array_length(run->list); i++)
        if (!take_entry(all, run->graph, json_object_array_get_idx(run->list, i), error))
            return false;
    return change_all(all, error);
}

bool block_reopen(BlockGraph *graph, json_object *list, GError **error)
{
    ReopenList run = { graph, list };

    return block_change(graph, NULL, reopen, &run, error);
}

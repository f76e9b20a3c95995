/*
 * Other options for open nodes: read-only, caching, the drivers' own, and other nodes below them.
 * Every node is prepared first; then all are changed, or none.
 */
#include "block/change.h"
#include "block/node.h"
#include <string.h>

#define WRITING (BLOCK_PERM_WRITE | BLOCK_PERM_WRITE_SAME | BLOCK_PERM_RESIZE)

typedef struct Reopen {
    BlockNode *node;
    BlockReopen with;
    BlockNodeConfig config;                /* as it is to be */
    json_object *options;                  /* as given; NULL: those it has stay */
    json_object *rest;                     /* what of them nobody has taken yet */
    bool change_child;
    const char *key;                       /* of the child that is to be another one */
    BlockNode *child, *old_child;          /* held; NULL: none */
    bool child_changed, prepared;
} Reopen;

/* Preparing. */

static bool check_writers(const Reopen *r, GError **error)
{
    if (!r->config.read_only || !(r->node->perm & WRITING))
        return true;
    fail(error, ERR_IN_USE, "Cannot make block node '%s' read-only: it is written to",
         r->node->name);
    return error_object(error, "%s", r->node->name);
}

/* Drivers that know nothing of it: those with a file below have nothing to change
 * for themselves. */
static bool check_plain(const Reopen *r, GError **error)
{
    const BlockNodeConfig *now = &r->node->config;
    BlockNode *file = block_node_file(r->node);
    bool same = r->config.read_only == now->read_only && r->config.direct == now->direct &&
                r->config.no_flush == now->no_flush;

    if (same || (file && (r->config.read_only || !file->config.read_only)))
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
    return true;
}

static bool co_fn prepare(Reopen *r, GError **error)
{
    const BlockDriver *driver = r->node->driver;

    r->with.read_only = r->config.read_only;
    r->with.direct = r->config.direct;
    r->with.no_flush = r->config.no_flush;
    r->with.options = r->rest;
    if (!check_writers(r, error) || (!driver->reopen_prepare && !check_plain(r, error)))
        return false;
    if (driver->reopen_prepare && !driver->reopen_prepare(r->node, &r->with, error))
        return false;
    r->prepared = true;
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
    BlockNodeConfig old = r->node->config;

    if (r->change_child) {
        r->old_child = block_node_child(r->node, r->key);
        if (r->old_child)
            block_node_get(r->old_child);
        if (!block_node_set_child(r->node, r->key, r->child, error))
            return false;
        r->child_changed = true;
    }
    if (old.read_only == r->config.read_only || r->config.read_only)
        return true;
    r->node->config.read_only = false;
    if (ask_children(r->node, error))
        return true;
    r->node->config = old;
    ask_children(r->node, NULL);
    return false;
}

static void co_fn commit(Reopen *r)
{
    bool was_writable = !r->node->config.read_only;

    if (r->node->driver->reopen_commit && r->prepared)
        r->node->driver->reopen_commit(r->node, &r->with);
    r->node->config = r->config;
    if (was_writable && r->config.read_only)
        ask_children(r->node, NULL);
    if (r->options) {
        json_object_put(r->node->options);
        r->node->options = json_object_get(r->options);
    }
    block_node_refresh_limits(r->node);
    block_node_route(r->node);
}

static void co_fn take_back(Reopen *r, bool was_read_only)
{
    if (r->child_changed)
        block_node_set_child(r->node, r->key, r->old_child, NULL);
    if (r->node->config.read_only != was_read_only) {
        r->node->config.read_only = was_read_only;
        ask_children(r->node, NULL);
    }
    if (r->prepared && r->node->driver->reopen_abort)
        r->node->driver->reopen_abort(r->node, &r->with);
}

static void clear(Reopen *r)
{
    json_object_put(r->options);
    json_object_put(r->rest);
    block_node_put(r->child);
    block_node_put(r->old_child);
    block_node_put(r->node);
}

static bool co_fn change_all(GArray *all, GError **error)
{
    g_autofree bool *was_read_only = g_new(bool, all->len);
    bool ok = true;

    for (unsigned i = 0; i < all->len; i++)
        was_read_only[i] = g_array_index(all, Reopen, i).node->config.read_only;
    for (unsigned i = 0; ok && i < all->len; i++)
        ok = prepare(&g_array_index(all, Reopen, i), error);
    for (unsigned i = 0; ok && i < all->len; i++)
        ok = apply(&g_array_index(all, Reopen, i), error);
    for (unsigned i = 0; ok && i < all->len; i++)
        commit(&g_array_index(all, Reopen, i));
    for (unsigned i = all->len; !ok && i-- > 0;)
        take_back(&g_array_index(all, Reopen, i), was_read_only[i]);
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
    ReadOnlyRun *run = opaque;
    g_autoptr(GArray) all = g_array_new(false, true, sizeof(Reopen));
    Reopen r = { .node = block_node_get(run->node), .config = run->node->config };

    r.config.read_only = run->read_only;
    g_array_append_val(all, r);
    run->ok = change_all(all, run->error);
    clear(&g_array_index(all, Reopen, 0));
}

bool block_node_set_read_only(BlockNode *node, bool read_only, GError **error)
{
    ReadOnlyRun run = { node, read_only, true, error };

    if (node->config.read_only != read_only)
        co_run_sync(read_only_run, &run);
    return run.ok;
}

/* blockdev-reopen. */

static bool take_child(Reopen *r, BlockEdge *edge, json_object *value, const char *key,
                       GError **error)
{
    bool may = !strcmp(key, "backing") ? r->node->driver->has_backing
                                       : r->node->driver->is_filter && !strcmp(key, "file");
    const char *name = json_object_get_string(value);

    if (value && !json_object_is_type(value, json_type_string)) {
        if (edge && !edge->child->monitor_owned)
            return true;                   /* defined in place, and stays */
        return fail(error, ERR_INVALID_PARAMETER, "'%s' of node '%s' must be a node name", key,
                    r->node->name);
    }
    if (edge && value && !strcmp(edge->child->name, name))
        return true;
    if (!edge && !value)
        return true;
    if (!may)
        return fail(error, ERR_INVALID_PARAMETER, "Cannot change the option '%s'", key);
    r->change_child = true;
    r->key = g_intern_string(key);
    if (value && !(r->child = block_node_lookup(r->node->graph, NULL, name, error)))
        return false;
    if (r->child)
        block_node_get(r->child);
    return true;
}

static bool take_children(Reopen *r, GError **error)
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
        if (!take_child(r, edge, value, keys[i], error))
            return false;
        json_object_object_del(r->rest, keys[i]);
    }
    return true;
}

static bool parse(BlockGraph *graph, json_object *options, Reopen *r, GError **error)
{
    const char *name = NULL, *driver = NULL;

    *r = (Reopen){ 0 };
    if (!options_get_str(options, "node-name", &name, error) ||
        !options_get_str(options, "driver", &driver, error))
        return false;
    if (!name)
        return fail(error, ERR_MISSING_PARAMETER, "node-name not specified");
    r->node = block_node_find(graph, name);
    if (!r->node) {
        fail(error, ERR_NOT_FOUND, "Failed to find node with node-name='%s'", name);
        return error_object(error, "%s", name);
    }
    block_node_get(r->node);
    r->options = json_object_get(options);
    json_object_deep_copy(options, &r->rest, NULL);
    if (driver && strcmp(driver, r->node->driver->name))
        return fail(error, ERR_INVALID_PARAMETER, "Cannot change the option 'driver'");
    json_object_object_del(r->rest, "node-name");
    json_object_object_del(r->rest, "driver");
    return block_options_common(r->rest, NULL, &r->config, error) && take_children(r, error);
}

typedef struct ReopenList {
    BlockGraph *graph;
    json_object *list;
} ReopenList;

static bool co_fn reopen(void *opaque, GError **error)
{
    g_autoptr(GArray) all = g_array_new(false, true, sizeof(Reopen));
    const ReopenList *run = opaque;
    bool ok = true;

    for (size_t i = 0; ok && i < json_object_array_length(run->list); i++) {
        Reopen r;

        ok = parse(run->graph, json_object_array_get_idx(run->list, i), &r, error);
        g_array_append_val(all, r);
    }
    ok = ok && change_all(all, error);
    for (unsigned i = 0; i < all->len; i++)
        clear(&g_array_index(all, Reopen, i));
    return ok;
}

bool block_reopen(BlockGraph *graph, json_object *list, GError **error)
{
    ReopenList run = { graph, list };

    return block_change(graph, NULL, reopen, &run, error);
}

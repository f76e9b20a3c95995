/* Changes of the graph while it is in use. */
#include "block/change.h"
#include "block/chain.h"
#include "block/node.h"
#include <errno.h>
#include <string.h>

/* Quiescing. */

struct BlockQuiesce {
    BlockGraph *graph;
    GPtrArray *users;                      /* of BlockUser */
};

bool block_node_reaches(const BlockNode *node, const BlockNode *below)
{
    if (node == below)
        return true;
    for (unsigned i = 0; i < node->children->len; i++)
        if (block_node_reaches(((BlockEdge *)node->children->pdata[i])->child, below))
            return true;
    return false;
}

static bool user_reaches(const BlockUser *user, const BlockNode *node)
{
    const GPtrArray *users = user->graph->users;

    if (block_node_reaches(user->node, node))
        return true;
    for (unsigned i = 0; user->owner && i < users->len; i++) {
        const BlockUser *other = users->pdata[i];

        if (other->owner == user->owner && block_node_reaches(other->node, node))
            return true;
    }
    return false;
}

BlockQuiesce *block_quiesce(BlockGraph *graph, BlockNode *node, const void *owner)
{
    BlockQuiesce *quiesce = g_new(BlockQuiesce, 1);

    *quiesce = (BlockQuiesce){ graph, g_ptr_array_new() };
    /* Waiting lets others run, who may bring and free users: each time from the start. */
    for (unsigned i = 0; i < graph->users->len; i++) {
        BlockUser *user = graph->users->pdata[i];

        if (g_ptr_array_find(quiesce->users, user, NULL) || (owner && user->owner == owner) ||
            (node && !user_reaches(user, node)))
            continue;
        g_ptr_array_add(quiesce->users, user);
        block_user_quiesce(user, true);
        i = UINT_MAX;
    }
    return quiesce;
}

void block_resume(BlockQuiesce *quiesce)
{
    for (unsigned i = 0; i < quiesce->users->len; i++)
        if (g_ptr_array_find(quiesce->graph->users, quiesce->users->pdata[i], NULL))
            block_user_quiesce(quiesce->users->pdata[i], false);
    g_ptr_array_free(quiesce->users, TRUE);
    g_free(quiesce);
}

typedef struct ChangeRun {
    BlockGraph *graph;
    BlockNode *node;
    bool co_fn (*fn)(void *opaque, GError **error);
    void *opaque;
    GError **error;
    bool ok;
} ChangeRun;

static void co_fn change_run(void *opaque)
{
    ChangeRun *run = opaque;
    BlockQuiesce *quiesce;

    co_mutex_lock(&run->graph->change_lock);
    quiesce = block_quiesce(run->graph, run->node, NULL);
    run->ok = run->fn(run->opaque, run->error);
    block_resume(quiesce);
    co_mutex_unlock(&run->graph->change_lock);
}

bool block_change(BlockGraph *graph, BlockNode *node,
                  bool co_fn (*fn)(void *opaque, GError **error), void *opaque, GError **error)
{
    ChangeRun run = { graph, node, fn, opaque, error, false };

    block_graph_begin(graph);
    co_run_sync(change_run, &run);
    block_graph_end(graph);
    return run.ok;
}

void block_user_set_owner(BlockUser *user, const void *owner)
{
    user->owner = owner;
}

/* What the nodes above are, after one below has changed. */

static void update_node(BlockNode *node)
{
    int64_t size;

    block_node_refresh_limits(node);
    size = block_node_ask_size(node);
    if (size >= 0 && size != block_node_size(node)) {
        __atomic_store_n(&node->size, size, __ATOMIC_RELEASE);
        block_node_resize_bitmaps(node, size);
    }
    node->depth = 1;
    for (unsigned i = 0; i < node->children->len; i++)
        node->depth = MAX(node->depth, ((BlockEdge *)node->children->pdata[i])->child->depth + 1);
}

static void update_above(BlockNode *node)
{
    for (unsigned i = 0; i < node->parents->len; i++) {
        BlockNode *parent = ((BlockEdge *)node->parents->pdata[i])->parent;

        if (!parent)
            continue;
        update_node(parent);
        update_above(parent);
    }
}

void block_node_update(BlockNode *node)
{
    update_node(node);
    update_above(node);
}

static void tell_changed(BlockEdge *edge)
{
    if (edge->user) {
        edge->user->node = edge->child;
        block_user_find_merge_max(edge->user);
        if (edge->user->kept)
            *edge->user->kept = edge->child;
    } else if (edge->parent->driver->child_changed) {
        edge->parent->driver->child_changed(edge->parent, edge->key);
    }
}

/* Users whose disk has another size now. */
typedef struct Sizes {
    GPtrArray *users;
    GArray *sizes;
} Sizes;

static Sizes note_sizes(BlockGraph *graph)
{
    Sizes sizes = { g_ptr_array_new(), g_array_new(false, false, sizeof(int64_t)) };

    for (unsigned i = 0; i < graph->users->len; i++) {
        BlockUser *user = graph->users->pdata[i];
        int64_t size = block_node_size(user->node);

        g_ptr_array_add(sizes.users, user);
        g_array_append_val(sizes.sizes, size);
    }
    return sizes;
}

static void tell_sizes(BlockGraph *graph, Sizes sizes)
{
    for (unsigned i = 0; i < sizes.users->len; i++) {
        BlockUser *user = sizes.users->pdata[i];

        if (g_ptr_array_find(graph->users, user, NULL) && user->on_resize &&
            block_node_size(user->node) != g_array_index(sizes.sizes, int64_t, i))
            user->on_resize(user->on_resize_opaque);
    }
    g_ptr_array_free(sizes.users, TRUE);
    g_array_free(sizes.sizes, TRUE);
}

/* Replacing. */

/* The id of a drive goes along, and with it the reference that the drive holds. */
static void move_drive(BlockNode *from, BlockNode *to)
{
    if (!from->drive || to->drive)
        return;
    to->drive = g_steal_pointer(&from->drive);
    to->write_cache = from->write_cache;
    if (!to->monitor_owned) {
        to->monitor_owned = true;
        to->refs++;
    }
    from->monitor_owned = false;
    from->refs--;                          /* not the last: the caller has one */
}

static GPtrArray *edges_to_move(BlockNode *from, BlockNode *to, const void *owner)
{
    GPtrArray *edges = g_ptr_array_new();

    for (unsigned i = 0; i < from->parents->len; i++) {
        BlockEdge *edge = from->parents->pdata[i];

        if (edge->user ? owner && edge->user->owner == owner
                       : block_node_reaches(to, edge->parent))
            continue;
        g_ptr_array_add(edges, edge);
    }
    return edges;
}

bool block_node_replace(BlockNode *from, BlockNode *to, const void *owner, GError **error)
{
    g_autoptr(GPtrArray) edges = edges_to_move(from, to, owner);
    Sizes sizes;

    from->refs++;
    if (!block_edges_move(edges, to, error)) {
        block_node_release(from);
        return false;
    }
    sizes = note_sizes(from->graph);
    to->refs += edges->len;
    from->refs -= edges->len;
    for (unsigned i = 0; i < edges->len; i++)
        tell_changed(edges->pdata[i]);
    move_drive(from, to);
    update_above(to);
    block_node_route(to);
    tell_sizes(from->graph, sizes);
    block_node_release(from);
    return true;
}

/* Children. */

static BlockEdge *find_edge(const BlockNode *node, const char *key)
{
    for (unsigned i = 0; i < node->children->len; i++) {
        BlockEdge *edge = node->children->pdata[i];

        if (!strcmp(edge->key, key))
            return edge;
    }
    return NULL;
}

static bool add_child(BlockNode *node, const char *key, BlockNode *child, GError **error)
{
    unsigned perm = node->perm, shared = node->shared;
    BlockEdge *edge = g_new0(BlockEdge, 1);

    edge->key = g_intern_string(key);
    edge->parent = node;
    edge->child = child;
    if (node->driver->child_perm)
        node->driver->child_perm(node, key, &perm, &shared);
    if (!block_edge_attach(edge, perm, shared, error)) {
        g_free(edge);
        return false;
    }
    g_ptr_array_add(node->children, edge);
    return true;
}

static bool move_child(BlockEdge *edge, BlockNode *child, BlockNode **ret_old, GError **error)
{
    g_autoptr(GPtrArray) edges = g_ptr_array_new();
    BlockNode *old = edge->child;

    g_ptr_array_add(edges, edge);
    if (!block_edges_move(edges, child, error))
        return false;
    child->refs++;
    *ret_old = old;
    return true;
}

static bool check_child(BlockNode *node, const char *key, BlockNode *child, GError **error)
{
    if (block_node_reaches(child, node))
        return fail(error, ERR_INVALID_PARAMETER, "Making '%s' a %s child of '%s' would create a "
                                                  "cycle", child->name, key, node->name);
    if (child->depth >= BLOCK_DEPTH_MAX)
        return fail(error, ERR_LIMIT, "more than %d block nodes on top of each other", BLOCK_DEPTH_MAX);
    return true;
}

bool block_node_set_child(BlockNode *node, const char *key, BlockNode *child, GError **error)
{
    BlockEdge *edge = find_edge(node, key);
    BlockNode *old = NULL;
    Sizes sizes;

    if (child == (edge ? edge->child : NULL))
        return true;
    if (child && (!check_child(node, key, child, error) ||
                  !(edge ? move_child(edge, child, &old, error)
                         : add_child(node, key, child, error))))
        return false;
    if (!child) {
        old = edge->child;
        old->refs++;
        g_ptr_array_remove(node->children, edge);
        block_edge_detach(edge);
        g_free(edge);
    }
    sizes = note_sizes(node->graph);
    if (node->driver->child_changed)
        node->driver->child_changed(node, key);
    block_node_update(node);
    block_node_route(node);
    tell_sizes(node->graph, sizes);
    if (old)
        block_node_release(old);
    return true;
}

/* Filters. */

typedef struct FilterRun {
    BlockGraph *graph;
    json_object *options;
    GError **error;
    BlockNode *node;
} FilterRun;

static void co_fn filter_run(void *opaque)
{
    FilterRun *run = opaque;

    run->node = block_node_open_with(run->graph, run->options, NULL, run->error);
}

BlockNode *block_node_insert_filter(BlockNode *below, json_object *options, const void *owner,
                                    GError **error)
{
    FilterRun run = { below->graph, options, error, NULL };

    json_object_object_add(options, "file", json_object_new_string(below->name));
    co_run_sync(filter_run, &run);
    if (!run.node)
        return NULL;
    if (!block_node_replace(below, run.node, owner, error)) {
        block_node_release(run.node);
        return NULL;
    }
    return run.node;
}

bool block_node_remove_filter(BlockNode *filter, GError **error)
{
    return block_node_replace(filter, block_node_file(filter), NULL, error);
}

BlockNode *block_node_get(BlockNode *node)
{
    node->refs++;
    return node;
}

/* Ranges. */

struct BlockRange {
    BlockNode *node;
    BlockWrite write;
};

void block_node_order(BlockNode *node, bool reads, bool on)
{
    node->orderings += on ? 1 : -1;
    node->ordered = node->align_mask || node->orderings;
    node->track_reads = node->orderings && (on ? node->track_reads || reads : node->track_reads);
    block_node_route(node);
}

BlockRange *co_fn block_range_lock(BlockNode *node, uint64_t offset, uint64_t bytes, bool patient)
{
    BlockRange *range = g_new(BlockRange, 1);

    range->node = node;
    if (patient)
        block_write_enter_free(node, &range->write, offset, bytes);
    else
        block_write_enter(node, &range->write, offset, bytes, true);
    return range;
}

void block_range_unlock(BlockRange *range)
{
    block_write_leave(range->node, NULL, &range->write);
    g_free(range);
}

/* Looking up. */

BlockNode *block_node_lookup(BlockGraph *graph, const char *device, const char *node_name,
                             GError **error)
{
    BlockNode *node = device ? block_drive_find(graph, device) : NULL;

    if (!node && node_name)
        node = block_node_find(graph, node_name);
    if (node)
        return node;
    fail(error, ERR_NOT_FOUND, "Cannot find device='%s' nor node-name='%s'", device ? device : "",
         node_name ? node_name : "");
    error_object(error, "%s", node_name ? node_name : device ? device : "");
    return NULL;
}

/*
 * Changing a node's size: the driver does it, then every node above takes its new size over and the
 * users there are told.
 */
#include "block/change.h"
#include "block/node.h"
#include <string.h>

static void tell_parents(BlockNode *node)
{
    for (unsigned i = 0; i < node->parents->len; i++) {
        BlockEdge *edge = node->parents->pdata[i];

        if (edge->user) {
            if (edge->user->on_resize)
                edge->user->on_resize(edge->user->on_resize_opaque);
            continue;
        }
        if (edge->parent->driver->get_size || !strcmp(edge->key, "file")) {
            BlockNode *parent = edge->parent;
            int64_t size = parent->driver->get_size ? parent->driver->get_size(parent)
                                                    : block_node_size(node);

            if (size >= 0 && size != block_node_size(parent)) {
                __atomic_store_n(&parent->size, size, __ATOMIC_RELEASE);
                block_node_resize_bitmaps(parent, size);
                tell_parents(parent);
            }
        }
    }
}

void block_node_refresh_size(BlockNode *node)
{
    int64_t size = node->driver->get_size ? node->driver->get_size(node)
                                          : block_node_size(block_node_file(node));

    if (size < 0 || size == block_node_size(node))
        return;
    __atomic_store_n(&node->size, size, __ATOMIC_RELEASE);
    block_node_resize_bitmaps(node, size);
    tell_parents(node);
}

bool block_node_may_resize(const BlockNode *node, GError **error)
{
    for (unsigned i = 0; i < node->parents->len; i++) {
        const BlockEdge *edge = node->parents->pdata[i];
        g_autofree char *who = NULL;

        if (edge->shared & BLOCK_PERM_RESIZE)
            continue;
        who = block_edge_describe(edge);
        return fail(error, ERR_IN_USE, "The size of node '%s' cannot change: %s does not allow it",
                    node->name, who);
    }
    return true;
}

typedef struct ResizeRun {
    BlockNode *node;
    uint64_t bytes;
    GError **error;
    int ret;
} ResizeRun;

static void co_fn resize_run(void *opaque)
{
    ResizeRun *run = opaque;

    run->ret = block_node_co_resize(run->node, run->bytes, run->error);
    if (run->ret == 0)
        block_co_sync_bitmaps(run->node);
}

/* All nodes below have new sizes, too, and others may be built on them. */
static void tell_from_bottom(BlockNode *node)
{
    for (unsigned i = 0; i < node->children->len; i++)
        tell_from_bottom(((BlockEdge *)node->children->pdata[i])->child);
    tell_parents(node);
}

static bool resize(BlockNode *node, uint64_t bytes, GError **error)
{
    ResizeRun run = { .node = node, .bytes = bytes, .error = error };
    g_autofree char *name = g_strdup_printf("resizing of node '%s'", node->name);
    BlockQuiesce *quiesce;
    BlockUser *user;

    if (bytes > INT64_MAX)
        return fail(error, ERR_INVALID_PARAMETER, "a size of %" G_GUINT64_FORMAT " is too large",
                    bytes);
    /* For as long as it lasts; says who does not allow it. */
    user = block_user_new(node, name, BLOCK_PERM_RESIZE, BLOCK_PERM_ALL, error);
    if (!user)
        return false;
    /* A request that is under way past the new end would make the file longer again. */
    quiesce = block_quiesce(node->graph, NULL, NULL);
    co_run_sync(resize_run, &run);
    if (run.ret == 0)
        tell_from_bottom(node);
    block_resume(quiesce);
    block_user_free(user);
    return run.ret == 0;
}

bool block_node_resize(BlockNode *node, uint64_t bytes, GError **error)
{
    BlockGraph *graph = node->graph;
    bool ok;

    block_graph_begin(graph);
    ok = resize(node, bytes, error);
    block_graph_end(graph);
    return ok;
}

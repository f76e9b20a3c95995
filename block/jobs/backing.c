/* What the jobs on chains of backing files share; change-backing-file. */
#include "block/jobs/backing.h"
#include "block/chain.h"
#include "block/node.h"
#include <string.h>

bool co_fn block_change_backing(BlockNode *image, BlockNode *backing, const char *name,
                                GError **error)
{
    BlockNode *old = block_node_child(image, "backing"), *shown = backing;
    bool was_read_only = image->config.read_only, ok;
    const char *format = NULL;

    if (shown) {
        shown = block_node_skip_filters(shown);
        format = shown->driver->name;
        name = name ? name : block_node_filename(shown);
    }
    if (!block_node_set_read_only(image, false, error))
        return false;
    if (old)
        block_node_get(old);
    ok = block_node_set_child(image, "backing", backing, error);
    if (ok && block_co_set_backing(image, name, name ? format : NULL, error) < 0) {
        block_node_set_child(image, "backing", old, NULL);
        ok = false;
    }
    block_node_put(old);
    block_node_set_read_only(image, was_read_only, NULL);
    return ok;
}

static BlockEdge *edge_below(BlockNode *node)
{
    BlockNode *below = block_node_below(node);

    for (unsigned i = 0; i < node->children->len; i++) {
        BlockEdge *edge = node->children->pdata[i];

        if (edge->child == below && (!strcmp(edge->key, "file") || !strcmp(edge->key, "backing")))
            return edge;
    }
    return NULL;
}

bool co_fn block_chain_claim(BlockJob *job, BlockNode *top, BlockNode *base, GError **error)
{
    for (BlockNode *node = top; node && node != base; node = block_node_below(node)) {
        BlockEdge *edge = edge_below(node);

        if (edge && !block_edge_relax(edge, true, error))
            return false;
        if (node != top && !block_job_use(job, node, BLOCK_PERM_READ,
                                          BLOCK_PERM_ALL & ~BLOCK_PERM_READ, error))
            return false;
    }
    return true;
}

void co_fn block_chain_release(BlockNode *top, BlockNode *base)
{
    for (BlockNode *node = top; node && node != base; node = block_node_below(node)) {
        BlockEdge *edge = edge_below(node);
        g_autoptr(GError) error = NULL;

        if (edge && !block_edge_relax(edge, false, &error))
            warn_report("node '%s': %s", node->name, error->message);
    }
}

BlockNode *block_chain_find(BlockNode *top, const char *node_name, const char *filename,
                            GError **error)
{
    for (BlockNode *node = top; node; node = block_node_below(node))
        if (node_name ? !strcmp(node->name, node_name)
                      : !strcmp(block_node_filename(node), filename) && !node->implicit)
            return node;
    fail(error, ERR_NOT_FOUND, "'%s' is not in this backing file chain",
         node_name ? node_name : filename);
    return NULL;
}

typedef struct NameRun {
    BlockNode *image;
    const char *name;
    GError **error;
    bool ok;
} NameRun;

static void co_fn name_run(void *opaque)
{
    NameRun *run = opaque;
    BlockQuiesce *quiesce;
    bool was_read_only;

    co_mutex_lock(&run->image->graph->change_lock);
    quiesce = block_quiesce(run->image->graph, run->image, NULL);
    was_read_only = run->image->config.read_only;
    if (block_node_set_read_only(run->image, false, run->error)) {
        BlockNode *backing = block_node_backing(run->image);

        run->ok = block_co_set_backing(run->image, run->name,
                                       backing ? backing->driver->name : NULL, run->error) == 0;
        block_node_set_read_only(run->image, was_read_only, NULL);
    }
    block_resume(quiesce);
    co_mutex_unlock(&run->image->graph->change_lock);
}

bool block_change_backing_file(BlockGraph *graph, json_object *data, GError **error)
{
    const char *device = NULL, *image = NULL, *name = NULL;
    NameRun run = { .error = error };
    BlockNode *top;

    if (!options_get_str(data, "device", &device, error) ||
        !options_get_str(data, "image-node-name", &image, error) ||
        !options_get_str(data, "backing-file", &name, error))
        return false;
    top = block_node_lookup(graph, device, device, error);
    run.image = top ? block_chain_find(top, image, NULL, error) : NULL;
    if (!run.image)
        return false;
    if (!block_node_backing(run.image))
        return fail(error, ERR_INVALID_PARAMETER, "not allowing backing file change on an image "
                                                  "without a backing file");
    run.name = name;
    block_node_get(run.image);
    co_run_sync(name_run, &run);
    block_node_put(run.image);
    return run.ok;
}

/* What the jobs on chains of backing files share; change-backing-file. */
#include "block/jobs/backing.h"
#include "block/chain.h"
#include "block/jobs/copy.h"
#include "block/node.h"
#include <string.h>

static bool co_fn set_read_only(BlockJob *job, BlockNode *image, bool read_only, GError **error)
{
    BlockQuiesce *quiesce;
    bool ok;

    if (image->config.read_only == read_only)
        return true;
    quiesce = block_quiesce(job->graph, image, job);
    ok = block_node_set_read_only(image, read_only, error);
    block_resume(quiesce);
    return ok;
}

/* The data that the image took over is stable before it names another backing file: after a crash it
 * would have neither. */
static bool co_fn name_backing(BlockNode *image, const char *name, const char *format, GError **error)
{
    int ret = block_node_co_flush(image);

    if (ret < 0)
        return fail_errno(error, -ret, "flushing '%s' failed", image->name);
    return block_co_set_backing(image, name, name ? format : NULL, error) == 0;
}

static bool co_fn change_child(BlockJob *job, BlockNode *image, BlockNode *backing,
                               void co_fn (*release)(BlockJob *job), GError **error)
{
    BlockQuiesce *quiesce = block_quiesce(job->graph, image, job);
    bool ok;

    if (release)
        release(job);
    ok = block_node_set_child(image, "backing", backing, error);
    block_resume(quiesce);
    return ok;
}

static bool co_fn change_backing(BlockJob *job, BlockNode *image, BlockNode *backing, const char *name,
                                 void co_fn (*release)(BlockJob *job), GError **error)
{
    BlockNode *shown = backing ? block_node_skip_filters(backing) : NULL;
    g_autoptr(json_object) before = block_node_image_info(image, NULL);

    if (shown && !name)
        name = block_node_filename(shown);
    if (!name_backing(image, name, shown ? shown->driver->name : NULL, error))
        return false;
    if (change_child(job, image, backing, release, error))
        return true;
    name_backing(image, json_get_str(before, "backing-filename"),
                 json_get_str(before, "backing-filename-format"), NULL);
    return false;
}

bool co_fn block_change_backing(BlockJob *job, BlockNode *image, BlockNode *backing, const char *name,
                                void co_fn (*release)(BlockJob *job), GError **error)
{
    bool was_read_only = image->config.read_only, ok;

    co_mutex_lock(&job->graph->change_lock);
    ok = set_read_only(job, image, false, error) &&
         change_backing(job, image, backing, name, release, error);
    set_read_only(job, image, was_read_only, NULL);
    co_mutex_unlock(&job->graph->change_lock);
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

bool block_chain_args(BlockGraph *graph, json_object *data, BlockChainArgs *args, GError **error)
{
    const char *device = NULL;

    *args = (BlockChainArgs){ 0 };
    if (!options_get_str(data, "device", &device, error) ||
        !options_get_str(data, "backing-file", &args->backing_name, error) ||
        !block_job_get_on_error(data, "on-error", &args->on_error, error) ||
        !block_job_config(data, block_drive_find(graph, device) ? device : NULL, &args->config,
                          error))
        return false;
    args->device = block_node_lookup(graph, device, device, error);
    return args->device != NULL;
}

typedef struct NewName {
    BlockNode *image;
    const char *name;
} NewName;

static bool co_fn set_name(void *opaque, GError **error)
{
    NewName *new = opaque;
    bool was_read_only = new->image->config.read_only, ok;
    BlockNode *backing = block_node_backing(new->image);

    if (!block_node_set_read_only(new->image, false, error))
        return false;
    ok = block_co_set_backing(new->image, new->name, backing ? backing->driver->name : NULL,
                              error) == 0;
    block_node_set_read_only(new->image, was_read_only, NULL);
    return ok;
}

bool block_change_backing_file(BlockGraph *graph, json_object *data, GError **error)
{
    const char *device = NULL, *image = NULL, *name = NULL;
    NewName new = { 0 };
    BlockNode *top;
    bool ok;

    if (!options_get_str(data, "device", &device, error) ||
        !options_get_str(data, "image-node-name", &image, error) ||
        !options_get_str(data, "backing-file", &name, error))
        return false;
    top = block_node_lookup(graph, device, device, error);
    new.image = top ? block_chain_find(top, image, NULL, error) : NULL;
    if (!new.image)
        return false;
    if (!block_node_backing(new.image))
        return fail(error, ERR_INVALID_PARAMETER, "not allowing backing file change on an image "
                                                  "without a backing file");
    new.name = name;
    block_node_get(new.image);
    ok = block_change(graph, new.image, set_name, &new, error);
    block_node_put(new.image);
    return ok;
}

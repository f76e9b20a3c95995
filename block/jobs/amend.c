/* x-blockdev-amend: changing an image's key slots as a job. */
#include "block/driver.h"
#include "block/image.h"
#include "block/jobs/backing.h"
#include "block/node.h"
#include <string.h>

typedef struct Amend {
    BlockJob job;
    BlockNode *node;                       /* held */
    BlockUser *user;
    json_object *options;                  /* without "driver" */
    bool force;
} Amend;

static bool co_fn amend_run(BlockJob *job, GError **error)
{
    Amend *a = (Amend *)job;
    int ret;

    job->total = 1;
    block_user_begin(a->user);
    ret = block_co_amend(a->node, a->options, a->force, error);
    block_user_end(a->user);
    job->done = ret == 0;
    return ret == 0;
}

static void co_fn amend_clean(BlockJob *job)
{
    Amend *a = (Amend *)job;

    block_job_free_users(job);
    block_node_put(a->node);
    json_object_put(a->options);
}

static const BlockJobType amend_type = {
    .name = "amend",
    .size = sizeof(Amend),
    .run = amend_run,
    .clean = amend_clean,
};

/* Starting. */

typedef struct AmendArgs {
    BlockNode *node;
    json_object *options;                  /* without "driver" */
    bool force;
} AmendArgs;

static bool parse(BlockGraph *graph, json_object *data, AmendArgs *args, const char **id,
                  GError **error)
{
    const char *name = NULL, *driver = NULL;
    json_object *options = NULL;

    json_object_object_get_ex(data, "options", &options);
    if (!options_get_str(data, "job-id", id, error) ||
        !options_get_str(data, "node-name", &name, error) ||
        !options_get_bool(data, "force", &args->force, error) ||
        !options_get_str(options, "driver", &driver, error))
        return false;
    args->node = block_node_lookup(graph, NULL, name, error);
    if (!args->node)
        return false;
    if (strcmp(args->node->driver->name, driver))
        return fail(error, ERR_INVALID_PARAMETER,
                    "x-blockdev-amend doesn't support changing the block driver");
    if (!args->node->driver->image || !args->node->driver->image->co_amend)
        return fail(error, ERR_UNSUPPORTED, "Driver does not support x-blockdev-amend");
    if (block_node_read_only(args->node))
        return fail(error, ERR_PERMISSION, "Node '%s' is read-only", name);
    json_object_deep_copy(options, &args->options, NULL);
    json_object_object_del(args->options, "driver");
    return true;
}

static bool co_fn set_up(BlockJob *job, const void *opaque, GError **error)
{
    const AmendArgs *args = opaque;
    Amend *a = (Amend *)job;

    a->node = block_node_get(args->node);
    a->options = json_object_get(args->options);
    a->force = args->force;
    a->user = block_job_use(job, a->node, 0, BLOCK_PERM_ALL, error);
    return a->user != NULL;
}

bool block_amend_job(BlockGraph *graph, json_object *data, GError **error)
{
    /* It stays until it is dismissed: what went wrong is asked for afterwards. */
    BlockJobConfig config = { .auto_finalize = true, .auto_dismiss = false };
    AmendArgs args = { NULL };
    bool ok = parse(graph, data, &args, &config.id, error) &&
              block_job_launch_beside(&amend_type, graph, &config, set_up, &args, error);

    json_object_put(args.options);
    return ok;
}

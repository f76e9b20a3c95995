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

    while (job->users->len)
        block_user_free(g_ptr_array_steal_index(job->users, job->users->len - 1));
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

typedef struct AmendStart {
    BlockGraph *graph;
    BlockNode *node;
    BlockJobConfig config;
    json_object *options;
    bool force;
    GError **error;
    BlockJob *job;
} AmendStart;

static bool parse(json_object *data, AmendStart *start, GError **error)
{
    const char *name = NULL, *driver = NULL;
    json_object *options = NULL;

    json_object_object_get_ex(data, "options", &options);
    if (!options_get_str(data, "job-id", &start->config.id, error) ||
        !options_get_str(data, "node-name", &name, error) ||
        !options_get_bool(data, "force", &start->force, error) ||
        !options_get_str(options, "driver", &driver, error))
        return false;
    start->node = block_node_lookup(start->graph, NULL, name, error);
    if (!start->node)
        return false;
    if (strcmp(start->node->driver->name, driver))
        return fail(error, ERR_INVALID_PARAMETER,
                    "x-blockdev-amend doesn't support changing the block driver");
    if (!start->node->driver->image || !start->node->driver->image->co_amend)
        return fail(error, ERR_UNSUPPORTED, "Driver does not support x-blockdev-amend");
    if (block_node_read_only(start->node))
        return fail(error, ERR_PERMISSION, "Node '%s' is read-only", name);
    json_object_deep_copy(options, &start->options, NULL);
    json_object_object_del(start->options, "driver");
    return true;
}

static void co_fn start_run(void *opaque)
{
    AmendStart *start = opaque;
    BlockJob *job;
    Amend *a;

    co_mutex_lock(&start->graph->change_lock);
    job = block_job_new(&amend_type, start->graph, &start->config, NULL, start->error);
    a = (Amend *)job;
    if (job) {
        a->node = block_node_get(start->node);
        a->options = json_object_get(start->options);
        a->force = start->force;
        a->user = block_job_use(job, a->node, 0, BLOCK_PERM_ALL, start->error);
        if (a->user)
            start->job = job;
        else
            block_job_abandon(job);
    }
    co_mutex_unlock(&start->graph->change_lock);
}

bool block_amend_job(BlockGraph *graph, json_object *data, GError **error)
{
    /* It stays until it is dismissed: what went wrong is asked for afterwards. */
    AmendStart start = { .graph = graph, .error = error,
                         .config = { .auto_finalize = true, .auto_dismiss = false } };

    if (!parse(data, &start, error))
        return false;
    co_run_sync(start_run, &start);
    json_object_put(start.options);
    if (start.job)
        block_job_start(start.job);
    return start.job != NULL;
}

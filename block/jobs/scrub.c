/*
 * block-scrub.  The format does the work, in steps (BlockImageVerbs.co_scrub); between two of them
 * the job waits as its speed asks, is paused or cancelled, and lets the graph change.
 */
#include "block/jobs/scrub.h"
#include "block/chain.h"
#include "block/driver.h"
#include "block/node.h"
#include "src/object/event.h"

typedef struct Scrub {
    BlockJob job;
    BlockNode *node;                       /* held */
    BlockUser *user;
    BlockScrub scrub;
    json_object *plan;                     /* to be applied; NULL: none */
} Scrub;

static void show_progress(Scrub *s)
{
    s->job.done = s->scrub.done;
    s->job.total = s->scrub.total;
}

static bool co_fn pace(BlockScrub *scrub, uint64_t bytes)
{
    Scrub *s = scrub->opaque;
    bool ok;

    show_progress(s);
    block_user_end(s->user);
    ok = block_job_limit(&s->job, bytes);
    block_user_begin(s->user);
    return ok && !s->job.cancelled;
}

static void emit_result(Scrub *s)
{
    json_object *data = json_object_new_object();

    json_object_object_add(data, "device", json_object_new_string(s->job.id));
    json_object_object_add(data, "node-name", json_object_new_string(block_node_name(s->node)));
    json_object_object_add(data, "result", block_scrub_info(&s->scrub));
    event_emit((Object *)s->job.graph, "BLOCK_SCRUB_COMPLETED", data);
}

static bool co_fn scrub_run(BlockJob *job, GError **error)
{
    Scrub *s = (Scrub *)job;
    int ret;

    s->scrub.pace = pace;
    s->scrub.opaque = s;
    s->scrub.apply = json_object_get(s->plan);
    block_user_begin(s->user);
    ret = block_co_scrub(s->node, &s->scrub, error);
    block_user_end(s->user);
    show_progress(s);
    if (ret < 0)
        return false;
    job->done = job->total;
    emit_result(s);
    return !s->scrub.refused ||
           fail(error, ERR_BAD_STATE,
                "%" G_GUINT64_FORMAT " acts of the plan were refused, as the image "
                "is not as they say; %" G_GUINT64_FORMAT " were done",
                s->scrub.refused, s->scrub.applied);
}

/* What was found stays until the job is gone. */
static void co_fn scrub_clean(BlockJob *job)
{
    Scrub *s = (Scrub *)job;

    block_job_free_users(job);
    block_node_put(s->node);
    s->node = NULL;
}

static void scrub_free(BlockJob *job)
{
    Scrub *s = (Scrub *)job;

    block_scrub_clear(&s->scrub);
    json_object_put(s->plan);
}

static void scrub_describe(BlockJob *job, json_object *info)
{
    json_object_object_add(info, "scrub", block_scrub_info(&((Scrub *)job)->scrub));
}

static const BlockJobType scrub_type = {
    .name = "scrub",
    .size = sizeof(Scrub),
    .is_block = true,
    .run = scrub_run,
    .clean = scrub_clean,
    .free = scrub_free,
    .describe = scrub_describe,
};

/* Starting. */

static bool parse(json_object *data, BlockJobConfig *config, const char *fallback,
                  json_object **ret_plan, GError **error)
{
    static const char *const modes[] = { "check", "apply", NULL };
    int mode = 0;

    if (!options_get_enum(data, "mode", modes, &mode, error) ||
        !block_job_config(data, fallback, config, error))
        return false;
    /* It stays until it is dismissed: what it found is asked for afterwards. */
    if (!json_object_object_get_ex(data, "auto-dismiss", NULL))
        config->auto_dismiss = false;
    if (!json_object_object_get_ex(data, "plan", ret_plan))
        *ret_plan = NULL;
    if (mode == 1 && !*ret_plan)
        return fail(error, ERR_MISSING_PARAMETER, "'mode' apply needs a 'plan'");
    if (mode == 0 && *ret_plan)
        return fail(error, ERR_INVALID_PARAMETER, "a 'plan' is for 'mode' apply");
    return true;
}

typedef struct ScrubArgs {
    BlockNode *node;
    json_object *plan;
} ScrubArgs;

static bool co_fn set_up(BlockJob *job, const void *opaque, GError **error)
{
    const ScrubArgs *args = opaque;
    Scrub *s = (Scrub *)job;

    s->node = block_node_get(args->node);
    s->plan = json_object_get(args->plan);
    s->user = block_job_use(job, s->node, 0, BLOCK_PERM_ALL & ~BLOCK_PERM_RESIZE, error);
    return s->user != NULL;
}

bool block_scrub(BlockGraph *graph, json_object *data, GError **error)
{
    const char *name = NULL;
    BlockJobConfig config;
    ScrubArgs args = { NULL };
    BlockNode *device;

    if (!options_get_str(data, "device", &name, error) ||
        !parse(data, &config, block_drive_find(graph, name) ? name : NULL, &args.plan, error))
        return false;
    device = block_node_lookup(graph, name, name, error);
    if (!device)
        return false;
    args.node = block_node_skip_filters(device);
    if (!args.node->driver->image || !args.node->driver->image->co_scrub)
        return fail(error, ERR_UNSUPPORTED, "block driver '%s' cannot be scrubbed",
                    args.node->driver->name);
    return block_job_launch_beside(&scrub_type, graph, &config, set_up, &args, error);
}

json_object *block_scrub_result(BlockGraph *graph, const char *id, GError **error)
{
    BlockJob *job = block_job_find(graph, id);
    const BlockScrub *scrub;
    json_object *result, *plan;

    if (!job || job->type != &scrub_type) {
        fail(error, ERR_NOT_FOUND, "there is no scrub with id '%s'", id);
        error_object(error, "%s", id);
        return NULL;
    }
    scrub = &((Scrub *)job)->scrub;
    result = block_scrub_info(scrub);
    plan = scrub->plan ? json_object_get(scrub->plan) : NULL;
    if (!plan || !json_object_object_get_ex(plan, "acts", NULL)) {
        json_object_put(plan);
        plan = json_object_new_object();
        json_object_object_add(plan, "cluster-size", json_object_new_uint64(scrub->cluster_size));
        json_object_object_add(plan, "acts", json_object_new_array());
    }
    json_object_object_add(result, "findings", scrub->findings ? json_object_get(scrub->findings)
                                                               : json_object_new_array());
    json_object_object_add(result, "findings-left-out",
                           json_object_new_uint64(scrub->findings_left_out));
    json_object_object_add(result, "plan", plan);
    json_object_object_add(result, "acts-left-out", json_object_new_uint64(scrub->acts_left_out));
    return result;
}

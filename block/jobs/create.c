/* blockdev-create: making an image as a job. */
#include "block/image.h"
#include "block/jobs/backing.h"

typedef struct Create {
    BlockJob job;
    json_object *options;                  /* BlockdevCreateOptions */
} Create;

static bool co_fn create_run(BlockJob *job, GError **error)
{
    int ret;

    job->total = 1;
    ret = block_co_create(job->graph, ((Create *)job)->options, error);
    job->done = ret == 0;
    return ret == 0;
}

static void co_fn create_clean(BlockJob *job)
{
    json_object_put(((Create *)job)->options);
}

static const BlockJobType create_type = {
    .name = "create",
    .size = sizeof(Create),
    .run = create_run,
    .clean = create_clean,
};

bool block_create_job(BlockGraph *graph, json_object *data, GError **error)
{
    /* It stays until it is dismissed: what went wrong is asked for afterwards. */
    BlockJobConfig config = { .auto_finalize = true, .auto_dismiss = false };
    json_object *options = NULL;
    BlockJob *job;

    if (!options_get_str(data, "job-id", &config.id, error))
        return false;
    json_object_object_get_ex(data, "options", &options);
    job = block_job_new(&create_type, graph, &config, NULL, error);
    if (!job)
        return false;
    ((Create *)job)->options = json_object_get(options);
    block_job_start(job);
    return true;
}

/*
 * block-commit: what images above a base have goes into the base.  For the active image it is a
 * mirror into the base, whose place it takes; for others a copy, after which the image above them
 * has the base as its backing file.
 */
#include "block/bitmap.h"
#include "block/chain.h"
#include "block/jobs/backing.h"
#include "block/jobs/copy.h"
#include "block/jobs/mirror.h"
#include "block/node.h"
#include "src/base/util.h"
#include <errno.h>
#include <string.h>

enum { WORKERS = 8 };

typedef struct Commit {
    BlockJob job;
    BlockNode *overlay, *top, *base;       /* held */
    BlockUser *user;
    bool base_was_read_only, claimed;
    char *backing_name;
    BlockOnError on_error;
    BlockJobTasks tasks;
    BlockBitmap *todo;                     /* of the top node, for the job alone */
    bool failing;                          /* so that chunks are to be tried again */
    GError *error;
} Commit;

typedef struct Chunk {
    Commit *c;
    uint64_t offset, bytes;
} Chunk;

static void co_fn copy_chunk(void *opaque)
{
    g_autofree Chunk *chunk = opaque;
    Commit *c = chunk->c;
    bool is_read = true, ignored;
    int ret;

    block_user_begin(c->user);
    ret = block_copy(c->top, c->base, chunk->offset, chunk->bytes, BLOCK_MAY_UNMAP, &is_read);
    block_user_end(c->user);
    if (ret < 0 && !c->error &&
        block_job_chunk_failed(&c->job, c->on_error, is_read, ret, &ignored, &c->error))
        c->failing = true;                 /* what it lacks must not be dropped: it stays marked */
    if (ret == 0) {
        block_bitmap_clear(c->todo, chunk->offset, chunk->bytes);
        c->job.done += chunk->bytes;
    }
}

/* What the images have that goes into the base. */
static bool co_fn find_allocated(Commit *c)
{
    if (!block_job_find_allocated(&c->job, c->user, c->top, c->base, c->todo, false, &c->error))
        return false;
    c->job.total = block_bitmap_count(c->todo);
    return true;
}

static void co_fn copy_pass(Commit *c)
{
    uint64_t at = 0, bytes;

    while (!c->error &&
           block_bitmap_next_area(c->todo, at, UINT64_MAX, BLOCK_COPY_CHUNK, &at, &bytes) &&
           block_job_limit(&c->job, bytes)) {
        Chunk *chunk = g_new(Chunk, 1);

        *chunk = (Chunk){ c, at, bytes };
        block_job_task(&c->tasks, copy_chunk, chunk);
        at += bytes;
    }
    block_job_tasks_wait(&c->tasks);
}

static bool co_fn grow_base(Commit *c)
{
    uint64_t size = block_node_size(c->top);
    int ret = 0;

    if (size <= (uint64_t)block_node_size(c->base))
        return true;
    block_user_begin(c->user);
    ret = block_node_co_resize(c->base, size, &c->error);
    block_user_end(c->user);
    return ret == 0;
}

static bool co_fn commit_run(BlockJob *job, GError **error)
{
    Commit *c = (Commit *)job;
    bool ok = grow_base(c) && find_allocated(c);
    int ret = 0;

    while (ok && !c->error && block_job_pause_point(job) && block_bitmap_count(c->todo)) {
        if (c->failing)
            block_job_sleep(job, BLOCK_JOB_RETRY_NS);
        c->failing = false;
        copy_pass(c);
    }
    ok = ok && !c->error && !job->cancelled;
    if (ok) {
        block_user_begin(c->user);
        ret = block_node_co_flush(c->base);
        block_user_end(c->user);
    }
    if (ret < 0)
        ok = fail_errno(&c->error, -ret, "flushing the base failed");
    if (c->error)
        g_propagate_error(error, g_steal_pointer(&c->error));
    return ok;
}

/* The users of the chain go first: they do not let others read the base. */
static void co_fn end_claim(BlockJob *job)
{
    Commit *c = (Commit *)job;

    block_job_free_users(job);
    if (c->claimed)
        block_chain_release(c->top, c->base);
    c->claimed = false;
}

static bool co_fn commit_prepare(BlockJob *job, GError **error)
{
    Commit *c = (Commit *)job;

    return block_change_backing(job, c->overlay, c->base, c->backing_name, end_claim, error);
}

static void co_fn commit_clean(BlockJob *job)
{
    Commit *c = (Commit *)job;
    BlockQuiesce *quiesce = block_quiesce(job->graph, c->base, job);

    end_claim(job);
    if (c->base_was_read_only)
        block_node_set_read_only(c->base, true, NULL);
    block_bitmap_free(c->todo);
    block_resume(quiesce);
    block_node_put(c->overlay);
    block_node_put(c->top);
    block_node_put(c->base);
    g_clear_error(&c->error);
    g_free(c->backing_name);
}

static const BlockJobType commit_type = {
    .name = "commit",
    .size = sizeof(Commit),
    .is_block = true,
    .run = commit_run,
    .prepare = commit_prepare,
    .clean = commit_clean,
};

/* Starting. */

typedef struct CommitArgs {
    BlockChainArgs common;
    BlockNode *overlay, *top, *base;
} CommitArgs;

static bool co_fn set_up(BlockJob *job, const void *opaque, GError **error)
{
    const CommitArgs *args = opaque;
    Commit *c = (Commit *)job;

    c->overlay = block_node_get(args->overlay);
    c->top = block_node_get(args->top);
    c->base = block_node_get(args->base);
    c->on_error = args->common.on_error;
    c->backing_name = g_strdup(args->common.backing_name);
    block_job_tasks_init(&c->tasks, WORKERS);
    c->base_was_read_only = c->base->config.read_only;
    if (!block_node_set_read_only(c->base, false, error))
        return false;
    c->claimed = true;
    if (!block_chain_claim(job, c->top, c->base, error) ||
        !block_job_use(job, c->base, BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE, 0, error))
        return false;
    c->user = block_job_use(job, c->top, BLOCK_PERM_READ, BLOCK_PERM_READ | BLOCK_PERM_WRITE_SAME,
                            error);
    if (!c->user)
        return false;
    c->todo = block_bitmap_new(c->top, NULL, 0, error);
    if (c->todo)
        block_bitmap_set_flags(c->todo, 0, BLOCK_BITMAP_RECORDING);
    return c->todo != NULL;
}

static bool start_active(const CommitArgs *args, GError **error)
{
    BlockOnError on_error = args->common.on_error;
    BlockMirrorArgs mirror = { .source = args->top, .target = args->base, .sync = BLOCK_MIRROR_TOP,
                               .base = args->base, .unmap = true, .is_commit = true,
                               .on_source_error = on_error, .on_target_error = on_error };

    if (args->common.backing_name)
        return fail(error, ERR_INVALID_PARAMETER, "'backing-file' specified, but 'top' is the active "
                                                  "layer");
    return block_mirror_launch(&mirror, &args->common.config, error);
}

static BlockNode *lowest(BlockNode *node)
{
    while (block_node_below(node))
        node = block_node_below(node);
    return node;
}

static bool find_nodes(CommitArgs *args, json_object *data, GError **error)
{
    BlockNode *device = args->common.device;
    const char *top_node = NULL, *base_node = NULL, *top = NULL, *base = NULL;

    if (!options_get_str(data, "top-node", &top_node, error) ||
        !options_get_str(data, "base-node", &base_node, error) ||
        !options_get_str(data, "top", &top, error) || !options_get_str(data, "base", &base, error))
        return false;
    if (top_node && top)
        return fail(error, ERR_INVALID_PARAMETER, "'top-node' and 'top' are mutually exclusive");
    if (base_node && base)
        return fail(error, ERR_INVALID_PARAMETER, "'base-node' and 'base' are mutually exclusive");
    args->top = top_node || top ? block_chain_find(device, top_node, top, error)
                               : block_node_skip_filters(device);
    if (!args->top)
        return false;
    args->base = base_node || base ? block_chain_find(args->top, base_node, base, error)
                                  : lowest(args->top);
    if (!args->base)
        return false;
    if (args->top == args->base)
        return fail(error, ERR_INVALID_PARAMETER, "cannot commit an image into itself");
    for (BlockNode *node = device; node && node != args->top; node = block_node_below(node))
        if (node->driver->has_backing)
            args->overlay = node;
    return true;
}

bool block_commit(BlockGraph *graph, json_object *data, GError **error)
{
    CommitArgs args = { 0 };
    bool ok;

    if (!block_chain_args(graph, data, &args.common, error) || !find_nodes(&args, data, error))
        return false;
    block_node_get(args.top);              /* setting up waits */
    block_node_get(args.base);
    if (args.overlay)
        block_node_get(args.overlay);
    ok = args.overlay ? block_job_launch(&commit_type, args.base, &args.common.config, set_up, &args,
                                         error)
                      : start_active(&args, error);
    block_node_put(args.top);
    block_node_put(args.base);
    block_node_put(args.overlay);
    return ok;
}

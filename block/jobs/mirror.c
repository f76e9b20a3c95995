/*
 * blockdev-mirror, and the commit of an active image: a copy that follows its source, until it
 * takes the source's place or is left as it is then.
 *
 * A bitmap of the source says what is still to be copied.  A chunk's bits are taken before it is
 * read, so that a write in between marks it again.
 *
 * At the end the guest's writes go to both sides until nothing is left and all of it is stable, so that
 * changing places takes no copying: a request waits for those that are under way then, no more.
 */
#include "block/jobs/mirror.h"
#include "block/bitmap.h"
#include "block/chain.h"
#include "block/jobs/backing.h"
#include "block/jobs/copy.h"
#include "block/jobs/mirror-filter.h"
#include "block/node.h"
#include "src/base/util.h"
#include <errno.h>
#include <string.h>

#define BUFFER_DEFAULT (16 * MiB)
#define LITTLE BLOCK_COPY_CHUNK            /* left over: the end may begin */
#define IDLE_NS 100000000
enum { TRIES = 8 };

typedef struct Mirror {
    BlockJob job;
    BlockNode *source, *target, *filter, *base, *replaces;
    BlockUser *user, *target_user;
    BlockMirrorSync sync;
    BlockBitmap *dirty;
    bool blocking, unmap, should_complete, pivot, pivoted;
    bool failing;                          /* so that chunks are to be tried again */
    bool claimed, target_was_read_only;    /* of a commit */
    BlockOnError on_source_error, on_target_error;
    uint64_t chunk, under_way;             /* bytes */
    BlockJobTasks tasks;
    BlockQuiesce *quiesce;                 /* from prepare to the end */
    GError *error;
} Mirror;

/* Copying. */

typedef struct Chunk {
    Mirror *m;
    uint64_t offset, bytes;
} Chunk;

static int co_fn copy_range(Mirror *m, uint64_t offset, uint64_t bytes, bool *ret_is_read)
{
    BlockMirrorCopy what = { m->source, m->target, m->dirty, m->unmap ? BLOCK_MAY_UNMAP : 0 };
    int ret = 0;

    if (!block_bitmap_take(m->dirty, offset, bytes))
        return 0;
    for (uint64_t done = 0, n; ret == 0 && done < bytes; done += n) {
        n = bytes - done;
        ret = block_mirror_filter_copy(m->filter, &what, offset + done, &n, ret_is_read);
    }
    if (ret < 0)
        block_mirror_filter_mark(m->filter, m->dirty, offset, bytes);
    return ret;
}

/* It is marked again.  A copy that lacks something never takes the source's place. */
static void co_fn chunk_failed(Mirror *m, bool is_read, int ret)
{
    BlockOnError policy = is_read ? m->on_source_error : m->on_target_error;
    bool ignored;

    if (m->error)
        return;
    m->failing = true;
    block_job_chunk_failed(&m->job, policy, is_read, ret, &ignored, &m->error);
    block_job_kick(&m->job);
}

static void co_fn copy_chunk(void *opaque)
{
    g_autofree Chunk *chunk = opaque;
    Mirror *m = chunk->m;
    bool is_read = true;
    int ret;

    block_user_begin(m->user);
    ret = copy_range(m, chunk->offset, chunk->bytes, &is_read);
    block_user_end(m->user);
    if (ret < 0)
        chunk_failed(m, is_read, ret);
    else
        m->job.done += chunk->bytes;
    m->under_way -= chunk->bytes;
}

static void start_chunk(Mirror *m, uint64_t offset, uint64_t bytes)
{
    Chunk *chunk = g_new(Chunk, 1);

    *chunk = (Chunk){ m, offset, bytes };
    m->under_way += bytes;
    block_job_task(&m->tasks, copy_chunk, chunk);
}

static void update_progress(Mirror *m)
{
    m->job.total = m->job.done + m->under_way + block_bitmap_count(m->dirty);
}

/* One way through the bitmap. */
static void co_fn copy_pass(Mirror *m)
{
    uint64_t at = 0, bytes;

    m->failing = false;
    while (!m->error &&
           block_bitmap_next_area(m->dirty, at, UINT64_MAX, m->chunk, &at, &bytes) &&
           block_job_limit(&m->job, bytes)) {
        start_chunk(m, at, bytes);
        at += bytes;
        update_progress(m);
    }
    block_job_tasks_wait(&m->tasks);
    update_progress(m);
}

/* Where to begin. */

static bool co_fn mark_first(Mirror *m, GError **error)
{
    if (m->sync == BLOCK_MIRROR_TOP)
        return block_job_find_allocated(&m->job, m->user, m->source, m->base, m->dirty, false, error);
    if (m->sync == BLOCK_MIRROR_FULL)
        block_bitmap_mark(m->dirty, 0, UINT64_MAX);
    return true;
}

static void check_filter(Mirror *m)
{
    int ret = block_mirror_filter_failure(m->filter);
    bool ignored;

    if (ret < 0 && !m->error)
        block_job_chunk_failed(&m->job, m->on_target_error, false, ret, &ignored, &m->error);
}

/* Until it is told to complete, and little is left.  A guest that writes all the time would never
 * leave nothing: it is ready when the end would take no longer than a chunk. */
static void co_fn follow(Mirror *m)
{
    copy_pass(m);
    while (!m->error && block_job_pause_point(&m->job)) {
        uint64_t left = block_bitmap_count(m->dirty);

        check_filter(m);
        if (left <= LITTLE && !m->failing && m->job.status == BLOCK_JOB_RUNNING)
            block_job_ready(&m->job);
        if (m->should_complete && left <= LITTLE && !m->failing)
            return;
        if (m->failing)
            block_job_sleep(&m->job, BLOCK_JOB_RETRY_NS);
        if (left)
            copy_pass(m);
        else
            block_job_sleep(&m->job, IDLE_NS);
        update_progress(m);
    }
}

/* A base may be shorter than what is committed into it. */
static bool co_fn grow_target(Mirror *m, GError **error)
{
    uint64_t size = block_node_size(m->source);
    int ret;

    if (!m->claimed || (uint64_t)block_node_size(m->target) >= size)
        return true;
    block_user_begin(m->user);
    ret = block_node_co_resize(m->target, size, error);
    block_user_end(m->user);
    return ret == 0;
}

/* From now on what the guest writes is no more work to be done. */
static void co_fn write_both(Mirror *m)
{
    BlockQuiesce *quiesce = block_quiesce(m->job.graph, m->source, m);

    block_mirror_filter_activate(m->filter, m->target, m->dirty);
    block_resume(quiesce);
    co_pause();                            /* who was held goes first */
}

static bool co_fn mirror_run(BlockJob *job, GError **error)
{
    Mirror *m = (Mirror *)job;

    if (!grow_target(m, error) || !mark_first(m, error))
        return false;
    /* Not earlier: a write that found a granule clean and ends after that was marked would unmark it. */
    if (m->blocking)
        write_both(m);
    update_progress(m);
    follow(m);
    if (m->error)
        g_propagate_error(error, g_steal_pointer(&m->error));
    return !job->cancelled && !*error;
}

/* The end. */

static bool co_fn flush_target(Mirror *m, GError **error)
{
    int ret;

    block_user_begin(m->user);
    ret = block_node_co_flush(m->target);
    block_user_end(m->user);
    return ret == 0 || fail_errno(error, -ret, "flushing the target failed");
}

/* Copies what is left, and makes it stable. */
static bool co_fn copy_rest(Mirror *m, GError **error)
{
    while (!m->error && !m->job.cancelled && block_bitmap_count(m->dirty))
        copy_pass(m);
    check_filter(m);
    if (m->error) {
        g_propagate_error(error, g_steal_pointer(&m->error));
        return false;
    }
    if (m->job.cancelled)
        return fail(error, ERR_GENERIC, "%s", g_strerror(ECANCELED));
    return flush_target(m, error);
}

/* Until both sides are alike, and nobody writes: then the users above are held.  A guest that discards
 * all the time has to wait in the end. */
static bool co_fn meet(Mirror *m, GError **error)
{
    for (unsigned tries = 0; tries < TRIES; tries++) {
        if (!copy_rest(m, error))
            return false;
        m->quiesce = block_quiesce(m->job.graph, m->source, m);
        check_filter(m);
        if (!block_bitmap_count(m->dirty) && !m->error)
            return true;
        if (tries < TRIES - 1)
            block_resume(g_steal_pointer(&m->quiesce));
    }
    return copy_rest(m, error);
}

/* The target stays as it is now. */
static bool co_fn leave_copy(Mirror *m, GError **error)
{
    block_mirror_filter_activate(m->filter, NULL, NULL);
    block_resume(g_steal_pointer(&m->quiesce));
    return flush_target(m, error);
}

static void drop_target_user(Mirror *m)
{
    g_ptr_array_remove(m->job.users, m->target_user);
    block_user_free(g_steal_pointer(&m->target_user));
}

static bool co_fn mirror_prepare(BlockJob *job, GError **error)
{
    Mirror *m = (Mirror *)job;

    /* Nobody can resume it now, and a guest that waits cannot wait for that. */
    m->on_source_error = m->on_target_error = BLOCK_ON_ERROR_REPORT;
    job->speed = 0;
    while (!m->error && !job->cancelled && block_bitmap_count(m->dirty) > LITTLE)
        copy_pass(m);                      /* what was written while it was pending */
    if (!m->blocking)
        write_both(m);
    if (!meet(m, error))
        return false;
    if (!m->pivot)
        return leave_copy(m, error);
    drop_target_user(m);
    m->pivoted = block_node_replace(m->replaces ? m->replaces : m->filter, m->target, job, error);
    return m->pivoted;
}

static void co_fn mirror_abort(BlockJob *job)
{
    Mirror *m = (Mirror *)job;

    /* Another of the group failed; nothing was written since. */
    if (m->pivoted &&
        !block_node_replace(m->target, m->replaces ? m->replaces : m->filter, job, NULL))
        warn_report("mirror job '%s': its target stays in the place of its source", job->id);
    m->pivoted = false;
}

/* The chain below is its nodes' own again. */
static void co_fn end_commit(Mirror *m)
{
    if (m->claimed)
        block_chain_release(m->source, m->target);
    if (m->target_was_read_only && !m->pivoted)
        block_node_set_read_only(m->target, true, NULL);
}

static void co_fn mirror_clean(BlockJob *job)
{
    Mirror *m = (Mirror *)job;

    if (!m->quiesce)
        m->quiesce = block_quiesce(job->graph, m->source, job);
    if (m->filter) {
        block_mirror_filter_activate(m->filter, NULL, NULL);
        if (!m->pivoted || m->replaces)
            block_node_remove_filter(m->filter, NULL);
    }
    block_bitmap_free(m->dirty);
    block_job_free_users(job);
    end_commit(m);
    block_resume(m->quiesce);
    block_node_put(m->filter);
    block_node_put(m->source);
    block_node_put(m->target);
    block_node_put(m->replaces);
    block_node_put(m->base);
    g_clear_error(&m->error);
}

static bool mirror_complete(BlockJob *job, GError **error)
{
    Mirror *m = (Mirror *)job;

    m->should_complete = m->pivot = true;
    return true;
}

static bool mirror_finish_early(BlockJob *job)
{
    Mirror *m = (Mirror *)job;

    if (job->status != BLOCK_JOB_READY && job->status != BLOCK_JOB_STANDBY)
        return false;
    m->should_complete = true;
    m->pivot = false;
    return true;
}

static void mirror_describe(BlockJob *job, json_object *info)
{
    Mirror *m = (Mirror *)job;

    json_object_object_add(info, "actively-synced",
                           json_object_new_boolean(m->blocking && m->dirty &&
                                                   !block_bitmap_count(m->dirty)));
}

#define MIRROR_TYPE(name_)                                                                         \
    {                                                                                              \
        .name = name_, .size = sizeof(Mirror), .is_block = true, .run = mirror_run,                \
        .prepare = mirror_prepare, .abort = mirror_abort, .clean = mirror_clean,                   \
        .complete = mirror_complete, .finish_early = mirror_finish_early,                          \
        .describe = mirror_describe,                                                               \
    }
static const BlockJobType mirror_type = MIRROR_TYPE("mirror");
static const BlockJobType commit_type = MIRROR_TYPE("commit");

/* Starting. */

static bool co_fn insert_filter(Mirror *m, const BlockMirrorArgs *args, GError **error)
{
    g_autoptr(json_object) options = json_object_new_object();

    json_object_object_add(options, "driver",
                           json_object_new_string(block_mirror_filter_driver.name));
    if (args->filter_name)
        json_object_object_add(options, "node-name", json_object_new_string(args->filter_name));
    m->filter = block_node_insert_filter(m->source, options, m, error);
    if (!m->filter)
        return false;
    m->filter->implicit = !args->filter_name;
    return true;
}

static bool find_replaced(Mirror *m, const BlockMirrorArgs *args, GError **error)
{
    if (!args->replaces || !strcmp(args->replaces, m->source->name))
        return true;
    m->replaces = block_node_lookup(m->job.graph, NULL, args->replaces, error);
    if (!m->replaces)
        return false;
    block_node_get(m->replaces);
    if (!block_node_reaches(m->replaces, m->source))
        return fail(error, ERR_INVALID_PARAMETER, "Node '%s' is not above '%s': it cannot be "
                                                  "replaced by its copy", args->replaces,
                    m->source->name);
    return true;
}

static bool co_fn begin_commit(Mirror *m, GError **error)
{
    m->target_was_read_only = block_node_read_only(m->target);
    m->claimed = true;
    return block_node_set_read_only(m->target, false, error) &&
           block_chain_claim(&m->job, m->source, m->target, error);
}

static bool co_fn set_up(BlockJob *job, const void *opaque, GError **error)
{
    const BlockMirrorArgs *args = opaque;
    Mirror *m = (Mirror *)job;
    uint64_t buffer = args->buffer ? args->buffer : BUFFER_DEFAULT;
    unsigned perm = BLOCK_PERM_WRITE | (args->is_commit ? BLOCK_PERM_RESIZE : 0);
    unsigned target_shared = args->is_commit ? 0 : BLOCK_PERM_READ | BLOCK_PERM_WRITE_SAME;

    m->source = block_node_get(args->source);
    m->target = block_node_get(args->target);
    m->base = args->base ? block_node_get(args->base) : NULL;
    m->sync = args->sync;
    m->blocking = args->blocking;
    m->unmap = args->unmap;
    m->on_source_error = args->on_source_error;
    m->on_target_error = args->on_target_error;
    m->user = block_job_use(job, m->source, BLOCK_PERM_READ,
                            BLOCK_PERM_ALL & ~BLOCK_PERM_RESIZE, error);
    if (!m->user || (args->is_commit && !begin_commit(m, error)))
        return false;
    m->target_user = block_job_use(job, m->target, perm, target_shared, error);
    if (!m->target_user || !find_replaced(m, args, error) || !insert_filter(m, args, error))
        return false;
    m->dirty = block_bitmap_new(m->source, NULL, args->granularity, error);
    if (!m->dirty)
        return false;
    m->chunk = MAX(block_bitmap_granularity(m->dirty), BLOCK_COPY_CHUNK);
    block_job_tasks_init(&m->tasks, CLAMP(buffer / m->chunk, 1, 16));
    return true;
}

bool block_mirror_launch(const BlockMirrorArgs *args, const BlockJobConfig *config, GError **error)
{
    return block_job_launch(args->is_commit ? &commit_type : &mirror_type, args->source, config, set_up,
                            args, error);
}

/* blockdev-mirror. */

static const char *const sync_words[] = { "top", "full", "none", NULL };
static const char *const copy_mode_words[] = { "background", "write-blocking", NULL };

static bool get_sizes(json_object *data, BlockMirrorArgs *args, GError **error)
{
    uint64_t granularity = 0;
    int64_t buffer = 0;

    if (!options_get_u64(data, "granularity", &granularity, error) ||
        !options_get_i64(data, "buf-size", &buffer, error))
        return false;
    if (granularity && (granularity < 512 || granularity > 64 * MiB))
        return fail(error, ERR_INVALID_PARAMETER,
                    "Parameter 'granularity' expects a value in range [512B, 64MB]");
    if (granularity & (granularity - 1))
        return fail(error, ERR_INVALID_PARAMETER, "Parameter 'granularity' expects a power of 2");
    if (buffer < 0)
        return fail(error, ERR_INVALID_PARAMETER, "Invalid parameter 'buf-size'");
    args->granularity = granularity;
    args->buffer = buffer;
    return true;
}

static bool check_nodes(BlockMirrorArgs *args, GError **error)
{
    if (args->source == args->target)
        return fail(error, ERR_INVALID_PARAMETER, "Can't mirror node into itself");
    if (block_node_reaches(args->source, args->target))
        return fail(error, ERR_INVALID_PARAMETER, "Node '%s' is below '%s': use block-commit",
                    args->target->name, args->source->name);
    if (block_node_size(args->source) != block_node_size(args->target))
        return fail(error, ERR_INVALID_PARAMETER, "Source and target image have different sizes");
    return true;
}

bool block_mirror(BlockGraph *graph, json_object *data, GError **error)
{
    BlockMirrorArgs args = { .unmap = true };
    const char *device = NULL, *target = NULL;
    int sync = BLOCK_MIRROR_FULL, copy_mode = 0;
    BlockJobConfig config;
    bool ok;

    if (!options_get_str(data, "device", &device, error) ||
        !options_get_str(data, "target", &target, error) ||
        !options_get_str(data, "replaces", &args.replaces, error) ||
        !options_get_str(data, "filter-node-name", &args.filter_name, error) ||
        !options_get_enum(data, "sync", sync_words, &sync, error) ||
        !options_get_enum(data, "copy-mode", copy_mode_words, &copy_mode, error) ||
        !options_get_bool(data, "unmap", &args.unmap, error) || !get_sizes(data, &args, error) ||
        !block_job_get_on_error(data, "on-source-error", &args.on_source_error, error) ||
        !block_job_get_on_error(data, "on-target-error", &args.on_target_error, error) ||
        !block_job_config(data, block_drive_find(graph, device) ? device : NULL, &config, error))
        return false;
    args.source = block_node_lookup(graph, device, device, error);
    args.target = args.source ? block_node_lookup(graph, target, target, error) : NULL;
    if (!args.target || !check_nodes(&args, error))
        return false;
    args.sync = sync;
    args.blocking = copy_mode;
    args.base = sync == BLOCK_MIRROR_TOP ? block_node_backing(args.source) : NULL;
    block_node_get(args.source);           /* setting up waits */
    block_node_get(args.target);
    ok = block_mirror_launch(&args, &config, error);
    block_node_put(args.source);
    block_node_put(args.target);
    return ok;
}

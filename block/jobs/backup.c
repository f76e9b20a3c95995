/*
 * blockdev-backup: a copy of a disk as it is when the job starts.
 *
 * A copy-before-write filter above the source sees to it that nothing is lost that the guest
 * overwrites; the job copies the rest.
 */
#include "block/chain.h"
#include "block/jobs/cbw.h"
#include "block/jobs/copy.h"
#include "block/node.h"
#include "block/transaction.h"
#include "src/base/util.h"
#include <errno.h>
#include <string.h>

enum { WORKERS = 8, WORKERS_MAX = 64 };

typedef enum Sync { SYNC_TOP, SYNC_FULL, SYNC_NONE, SYNC_INCREMENTAL, SYNC_BITMAP } Sync;
static const char *const sync_words[] = { "top", "full", "none", "incremental", "bitmap", NULL };
typedef enum BitmapMode { MODE_ON_SUCCESS, MODE_NEVER, MODE_ALWAYS } BitmapMode;
static const char *const mode_words[] = { "on-success", "never", "always", NULL };

typedef struct Backup {
    BlockJob job;
    BlockNode *source, *target, *filter;
    BlockUser *user;
    Sync sync;
    BlockBitmap *bitmap, *since;           /* since: what was written since the start */
    BitmapMode mode;
    BlockOnError on_source_error, on_target_error;
    uint64_t all;                          /* bytes marked at the start */
    uint64_t chunk;                        /* bytes of a piece */
    BlockJobTasks tasks;
    GError *error;                         /* the first that a chunk met */
    bool failing;                          /* so that chunks are to be tried again */
} Backup;

/* The work. */

typedef struct Chunk {
    Backup *b;
    uint64_t offset, bytes;
} Chunk;

static void update_progress(Backup *b)
{
    b->job.done = b->all - MIN(b->all, block_bitmap_count(block_cbw_todo(b->filter)));
}

static void co_fn copy_chunk(void *opaque)
{
    g_autofree Chunk *chunk = opaque;
    Backup *b = chunk->b;
    bool is_read = true, ignored;
    int ret;

    block_user_begin(b->user);
    ret = block_cbw_copy(b->filter, chunk->offset, chunk->bytes, &is_read);
    block_user_end(b->user);
    if (ret < 0 && !b->error &&
        block_job_chunk_failed(&b->job, is_read ? b->on_source_error : b->on_target_error, is_read,
                               ret, &ignored, &b->error))
        b->failing = true;
    update_progress(b);
}

/* Copies everything that is marked, in rounds: what failed and is to be tried again
 * stays marked. */
static bool co_fn copy_all(Backup *b)
{
    BlockBitmap *todo = block_cbw_todo(b->filter);
    uint64_t at = 0, bytes;

    while (!b->error && block_job_pause_point(&b->job)) {
        Chunk *chunk;

        if (!block_bitmap_next_area(todo, at, UINT64_MAX, b->chunk, &at, &bytes)) {
            block_job_tasks_wait(&b->tasks);
            if (!block_bitmap_count(todo))
                return !b->error;
            if (b->failing)
                block_job_sleep(&b->job, BLOCK_JOB_RETRY_NS);
            b->failing = false;
            at = 0;
            continue;
        }
        if (!block_job_limit(&b->job, bytes))
            break;
        chunk = g_new(Chunk, 1);
        *chunk = (Chunk){ b, at, bytes };
        block_job_task(&b->tasks, copy_chunk, chunk);
        at += bytes;
    }
    block_job_tasks_wait(&b->tasks);
    return false;
}

/* sync=top: what the top image does not have is not copied. */
static bool co_fn leave_out_unallocated(Backup *b)
{
    BlockNode *image = block_node_skip_filters(b->source);
    BlockBitmap *todo = block_cbw_todo(b->filter);

    if (!block_job_find_allocated(&b->job, b->user, image, block_node_below(image), todo, true,
                                  &b->error))
        return false;
    b->job.total = b->all = block_bitmap_count(todo);
    return true;
}

static bool co_fn backup_run(BlockJob *job, GError **error)
{
    Backup *b = (Backup *)job;
    bool ok = b->sync != SYNC_TOP || leave_out_unallocated(b);
    int ret = 0;

    while (ok && b->sync == SYNC_NONE && block_job_pause_point(job)) {
        block_job_sleep(job, 1000000000);
        update_progress(b);
    }
    ok = ok && b->sync != SYNC_NONE && copy_all(b);
    if (ok) {
        block_user_begin(b->user);
        ret = block_node_co_flush(b->target);
        block_user_end(b->user);
    }
    if (ret < 0)
        ok = fail_errno(&b->error, -ret, "flushing the target failed");
    if (b->error)
        g_propagate_error(error, g_steal_pointer(&b->error));
    return ok;
}

/* The bitmap at the end: what the copy does not have.  True: it is to be stored. */
static bool settle_bitmap(Backup *b, bool ok)
{
    if (!b->bitmap)
        return false;
    block_bitmap_set_flags(b->bitmap, 0, BLOCK_BITMAP_BUSY);
    if (b->mode != MODE_ALWAYS && !(ok && b->mode == MODE_ON_SUCCESS))
        return false;
    block_bitmap_clear(b->bitmap, 0, UINT64_MAX);
    block_bitmap_merge(b->bitmap, b->since, NULL);
    if (!ok)
        block_bitmap_merge(b->bitmap, block_cbw_todo(b->filter), NULL);
    return block_bitmap_flags(b->bitmap) & BLOCK_BITMAP_PERSISTENT;
}

static void co_fn backup_end(Backup *b, bool ok)
{
    BlockQuiesce *quiesce;
    bool store;

    if (!b->filter)
        return;
    quiesce = block_quiesce(b->job.graph, b->source, NULL);
    store = settle_bitmap(b, ok);
    block_bitmap_free(b->since);
    if (!block_node_remove_filter(b->filter, NULL))
        warn_report("backup job '%s': its filter stays", b->job.id);
    block_resume(quiesce);
    if (store) {                           /* after a crash before that, too much is dirty */
        block_user_begin(b->user);
        block_co_sync_bitmaps(b->source);
        block_user_end(b->user);
    }
    block_node_put(b->filter);
}

static void co_fn backup_commit(BlockJob *job)
{
    backup_end((Backup *)job, true);
}

static void co_fn backup_abort(BlockJob *job)
{
    backup_end((Backup *)job, false);
}

static const BlockJobType backup_type = {
    .name = "backup",
    .size = sizeof(Backup),
    .is_block = true,
    .run = backup_run,
    .commit = backup_commit,
    .abort = backup_abort,
};

/* Starting, as an action; everything stands still. */

typedef struct BackupAction {
    BlockAction action;
    BlockJob *job;
} BackupAction;

typedef struct BackupArgs {
    const char *device, *target, *bitmap, *filter_name;
    int sync, mode;
    bool compress;
    int64_t workers, max_chunk;            /* max_chunk: 0: no other limit than ours */
    BlockOnError on_source_error, on_target_error;
    BlockNode *source_node, *target_node;
} BackupArgs;

static bool parse_perf(json_object *data, BackupArgs *args, GError **error)
{
    bool copy_range = false;
    json_object *perf;

    args->workers = WORKERS;
    if (!json_object_object_get_ex(data, "x-perf", &perf))
        return true;
    if (!options_get_bool(perf, "use-copy-range", &copy_range, error) ||
        !options_get_i64(perf, "max-workers", &args->workers, error) ||
        !options_get_i64(perf, "max-chunk", &args->max_chunk, error))
        return false;
    if (copy_range)
        return fail(error, ERR_UNSUPPORTED, "x-perf: 'use-copy-range' is not supported: a backup reads "
                                            "and writes");
    if (args->workers < 1)
        return fail(error, ERR_INVALID_PARAMETER, "max-workers must be greater than zero");
    return args->max_chunk >= 0 ||
           fail(error, ERR_INVALID_PARAMETER,
                "max-chunk must be zero (which means no limit) or positive");
}

static bool parse(json_object *data, BackupArgs *args, GError **error)
{
    *args = (BackupArgs){ .sync = -1, .mode = -1 };
    return options_get_str(data, "device", &args->device, error) &&
           options_get_str(data, "target", &args->target, error) &&
           options_get_str(data, "bitmap", &args->bitmap, error) &&
           options_get_str(data, "filter-node-name", &args->filter_name, error) &&
           options_get_enum(data, "sync", sync_words, &args->sync, error) &&
           options_get_enum(data, "bitmap-mode", mode_words, &args->mode, error) &&
           options_get_bool(data, "compress", &args->compress, error) && parse_perf(data, args, error) &&
           block_job_get_on_error(data, "on-source-error", &args->on_source_error, error) &&
           block_job_get_on_error(data, "on-target-error", &args->on_target_error, error);
}

static bool check_bitmap_args(BackupArgs *args, GError **error)
{
    bool needs = args->sync == SYNC_INCREMENTAL || args->sync == SYNC_BITMAP;

    if (args->sync == SYNC_INCREMENTAL && args->mode > MODE_ON_SUCCESS)
        return fail(error, ERR_INVALID_PARAMETER, "Bitmap sync mode must be 'on-success' when using "
                                                  "sync mode 'incremental'");
    if (args->sync == SYNC_INCREMENTAL)
        args->mode = MODE_ON_SUCCESS;
    if (needs && !args->bitmap)
        return fail(error, ERR_INVALID_PARAMETER,
                    "must provide a valid bitmap name for '%s' sync mode", sync_words[args->sync]);
    if (args->bitmap && args->mode < 0)
        return fail(error, ERR_INVALID_PARAMETER,
                    "Bitmap sync mode must be given when providing a bitmap");
    if (!args->bitmap && args->mode >= 0)
        return fail(error, ERR_INVALID_PARAMETER,
                    "Cannot specify bitmap sync mode without a bitmap");
    if (args->bitmap && args->sync == SYNC_NONE)
        return fail(error, ERR_INVALID_PARAMETER,
                    "Bitmap sync mode is not supported with sync mode 'none'");
    return true;
}

static bool check_nodes(BlockGraph *graph, BackupArgs *args, GError **error)
{
    args->source_node = block_node_lookup(graph, args->device, args->device, error);
    args->target_node = args->source_node
                            ? block_node_lookup(graph, args->target, args->target, error) : NULL;
    if (!args->target_node)
        return false;
    if (args->source_node == args->target_node)
        return fail(error, ERR_INVALID_PARAMETER, "Source and target cannot be the same");
    if (block_node_size(args->source_node) != block_node_size(args->target_node))
        return fail(error, ERR_INVALID_PARAMETER, "Source and target image have different sizes");
    if (block_node_reaches(args->source_node, args->target_node))
        return fail(error, ERR_INVALID_PARAMETER, "Node '%s' is below '%s': it cannot be its backup",
                    args->target_node->name, args->source_node->name);
    return true;
}

static bool take_bitmap(Backup *b, const BackupArgs *args, GError **error)
{
    BlockBitmap *bitmap = block_bitmap_find(b->source, args->bitmap);

    if (!bitmap)
        return fail(error, ERR_NOT_FOUND, "Bitmap '%s' could not be found", args->bitmap);
    if (!block_bitmap_check(bitmap, BLOCK_BITMAP_BUSY | BLOCK_BITMAP_INCONSISTENT |
                            (args->mode == MODE_NEVER ? 0 : BLOCK_BITMAP_READ_ONLY), error))
        return false;
    b->since = block_bitmap_new(b->source, NULL, block_bitmap_granularity(bitmap), error);
    if (!b->since)
        return false;
    b->bitmap = bitmap;
    block_bitmap_set_flags(bitmap, BLOCK_BITMAP_BUSY, 0);
    return true;
}

static bool co_fn insert_filter(Backup *b, const BackupArgs *args, GError **error)
{
    g_autoptr(json_object) options = json_object_new_object();

    json_object_object_add(options, "driver", json_object_new_string(block_cbw_driver.name));
    json_object_object_add(options, "target", json_object_new_string(b->target->name));
    if (args->filter_name)
        json_object_object_add(options, "node-name", json_object_new_string(args->filter_name));
    b->filter = block_node_insert_filter(b->source, options, b, error);
    if (!b->filter)
        return false;
    b->filter->implicit = !args->filter_name;
    block_cbw_set_flags(b->filter, args->compress ? BLOCK_COMPRESSED : 0);
    return true;
}

static bool choose_chunk(Backup *b, uint64_t limit, GError **error)
{
    uint64_t cluster = block_cbw_cluster(b->filter);

    if (limit && limit < cluster)
        return fail(error, ERR_INVALID_PARAMETER,
                    "Required max-chunk (%" G_GUINT64_FORMAT ") is less than backup cluster size (%"
                    G_GUINT64_FORMAT ")", limit, cluster);
    b->chunk = MAX(cluster, BLOCK_COPY_CHUNK);
    if (limit)
        b->chunk = MIN(b->chunk, ALIGN_DOWN(limit, cluster));
    return true;
}

static void mark_what_to_copy(Backup *b)
{
    BlockBitmap *todo = block_cbw_todo(b->filter);

    if (b->sync == SYNC_INCREMENTAL || b->sync == SYNC_BITMAP) {
        block_bitmap_clear(todo, 0, UINT64_MAX);
        block_bitmap_merge(todo, b->bitmap, NULL);
    }
    b->job.total = b->all = MIN(block_bitmap_count(todo), (uint64_t)block_node_size(b->source));
}

static bool co_fn set_up(Backup *b, const BackupArgs *args, GError **error)
{
    b->source = args->source_node;
    b->target = args->target_node;
    b->sync = args->sync;
    b->mode = args->mode;
    b->on_source_error = args->on_source_error;
    b->on_target_error = args->on_target_error;
    block_job_tasks_init(&b->tasks, MIN(args->workers, WORKERS_MAX));
    if (!insert_filter(b, args, error) || !choose_chunk(b, args->max_chunk, error))
        return false;
    b->user = block_job_use(&b->job, b->filter, 0, BLOCK_PERM_ALL & ~BLOCK_PERM_RESIZE, error);
    if (!b->user || (args->bitmap && !take_bitmap(b, args, error)))
        return false;
    mark_what_to_copy(b);
    return true;
}

static bool co_fn backup_prepare(BlockAction *action, GError **error)
{
    BackupAction *a = (BackupAction *)action;
    BlockJobConfig config;
    BackupArgs args;

    if (!parse(action->data, &args, error) || !check_bitmap_args(&args, error) ||
        !check_nodes(action->graph, &args, error) ||
        !block_job_config(action->data,
                          block_drive_find(action->graph, args.device) ? args.device : NULL,
                          &config, error))
        return false;
    a->job = block_job_new(&backup_type, action->graph, &config, action->group, error);
    if (!a->job)
        return false;
    if (set_up((Backup *)a->job, &args, error))
        return true;
    block_job_abandon(a->job);
    return false;
}

static void co_fn start_job(BlockAction *action)
{
    block_job_start(((BackupAction *)action)->job);
}

static void co_fn abandon_job(BlockAction *action)
{
    block_job_abandon(((BackupAction *)action)->job);
}

const BlockActionType block_backup_action = {
    .name = "blockdev-backup",
    .size = sizeof(BackupAction),
    .prepare = backup_prepare,
    .commit = start_job,
    .abort = abandon_job,
};

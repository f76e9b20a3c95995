/*
 * block-stream: what the images below one have, down to a base, goes into the image itself, which
 * needs them no more then.  What the image lacks is read, and written while its range is held and only
 * where the image still lacks it: a guest's write is not overwritten with what was there before.
 */
#include "block/chain.h"
#include "block/jobs/backing.h"
#include "block/jobs/copy.h"
#include "block/node.h"
#include "src/base/util.h"
#include <errno.h>
#include <string.h>

enum { WORKERS = 8 };

typedef struct Stream {
    BlockJob job;
    BlockNode *image, *base;               /* held; base: the first that stays; NULL: none */
    BlockUser *user;
    bool ordered;
    char *backing_name;
    BlockOnError on_error;
    BlockJobTasks tasks;
    GError *error;
} Stream;

typedef struct Chunk {
    Stream *s;
    uint64_t offset, bytes;
} Chunk;

/* What of the piece the image still does not have: one part for each time that the range is held. */
static int co_fn write_piece(Stream *s, const BlockCopy *copy)
{
    uint64_t at = copy->offset, end = copy->offset + copy->bytes;
    int ret = 0;

    while (ret == 0 && at < end) {
        BlockRange *range = block_range_lock(s->image, at, end - at, true);
        BlockMap own = { 0 };

        ret = block_node_co_map(s->image, at, end - at, &own);
        if (ret == 0 && !(own.flags & BLOCK_MAP_ALLOCATED))
            ret = block_copy_write(copy, s->image, at, own.bytes, BLOCK_HELD);
        block_range_unlock(range);
        at += own.bytes;
    }
    return ret;
}

static int co_fn copy_piece(Stream *s, uint64_t offset, uint64_t *bytes, bool *ret_is_read)
{
    BlockCopy copy;
    int ret;

    *ret_is_read = true;
    ret = block_copy_read(s->image, offset, *bytes, 1, &copy);
    *bytes = copy.bytes;
    if (ret == 0) {
        *ret_is_read = false;
        ret = write_piece(s, &copy);
    }
    block_copy_clear(&copy);
    return ret;
}

/* What of the range the image does not have itself. */
static int co_fn populate(Stream *s, uint64_t offset, uint64_t bytes, bool *ret_is_read)
{
    int ret = 0;

    while (ret == 0 && bytes) {
        BlockMap map = { .bytes = bytes };

        *ret_is_read = true;
        ret = block_node_co_map(s->image, offset, bytes, &map);
        if (ret == 0 && !(map.flags & BLOCK_MAP_ALLOCATED)) {
            ret = block_co_map_above(s->image, s->base, offset, map.bytes, &map, NULL);
            if (ret == 0 && map.flags & BLOCK_MAP_ALLOCATED)
                ret = copy_piece(s, offset, &map.bytes, ret_is_read);
        }
        offset += map.bytes;
        bytes -= MIN(bytes, map.bytes);
    }
    return ret;
}

static void co_fn copy_chunk(void *opaque)
{
    g_autofree Chunk *chunk = opaque;
    Stream *s = chunk->s;
    bool is_read = true, skip = false;
    int ret;

    do {
        block_user_begin(s->user);
        ret = populate(s, chunk->offset, chunk->bytes, &is_read);
        block_user_end(s->user);
        if (ret == 0 || s->error ||
            !block_job_chunk_failed(&s->job, s->on_error, is_read, ret, &skip, &s->error))
            break;
    } while (!skip && block_job_pause_point(&s->job));
    /* An image that still lacks something must not lose what has it. */
    if (skip && !s->error)
        fail_errno(&s->error, -ret, "a part of the image could not be copied");
    s->job.done += chunk->bytes;
}

static bool co_fn stream_run(BlockJob *job, GError **error)
{
    Stream *s = (Stream *)job;
    uint64_t size = block_node_size(s->image), n;
    int ret = 0;

    job->total = size;
    for (uint64_t at = 0; at < size && !s->error && block_job_pause_point(job); at += n) {
        BlockMap map = { .bytes = size - at };
        Chunk *chunk;

        block_user_begin(s->user);
        ret = block_co_map_above(s->image, s->base, at, size - at, &map, NULL);
        if (ret == 0 && map.flags & BLOCK_MAP_ALLOCATED) {
            BlockMap own = { .bytes = map.bytes };

            if (block_node_co_map(s->image, at, map.bytes, &own) == 0 &&
                own.flags & BLOCK_MAP_ALLOCATED)
                map = (BlockMap){ .bytes = own.bytes };
        }
        block_user_end(s->user);
        if (ret < 0 || map.flags & BLOCK_MAP_ALLOCATED) {
            n = MIN(size - at, ret < 0 ? BLOCK_COPY_CHUNK : MIN(map.bytes, BLOCK_COPY_CHUNK));
            if (!block_job_limit(job, n))
                break;
            chunk = g_new(Chunk, 1);
            *chunk = (Chunk){ s, at, n };
            block_job_task(&s->tasks, copy_chunk, chunk);
        } else {
            n = MAX(map.bytes, 1);
            job->done += n;
        }
    }
    block_job_tasks_wait(&s->tasks);
    if (s->error) {
        g_propagate_error(error, g_steal_pointer(&s->error));
        return false;
    }
    return !job->cancelled;
}

static void co_fn stop_ordering(Stream *s)
{
    if (s->ordered)
        block_node_order(s->image, false, false);
    s->ordered = false;
}

static bool co_fn stream_prepare(BlockJob *job, GError **error)
{
    Stream *s = (Stream *)job;

    return block_change_backing(job, s->image, s->base, s->base ? s->backing_name : NULL, NULL, error);
}

static void co_fn stream_clean(BlockJob *job)
{
    Stream *s = (Stream *)job;
    BlockQuiesce *quiesce = block_quiesce(job->graph, s->image, job);

    stop_ordering(s);
    block_resume(quiesce);
    block_job_free_users(job);
    block_node_put(s->image);
    block_node_put(s->base);
    g_clear_error(&s->error);
    g_free(s->backing_name);
}

static const BlockJobType stream_type = {
    .name = "stream",
    .size = sizeof(Stream),
    .is_block = true,
    .run = stream_run,
    .prepare = stream_prepare,
    .clean = stream_clean,
};

/* Starting. */

typedef struct StreamArgs {
    BlockChainArgs common;
    BlockNode *image, *base;
} StreamArgs;

static bool co_fn set_up(BlockJob *job, const void *opaque, GError **error)
{
    unsigned shared = BLOCK_PERM_ALL & ~(BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE);
    const StreamArgs *args = opaque;
    Stream *s = (Stream *)job;

    s->image = block_node_get(args->image);
    s->base = args->base ? block_node_get(args->base) : NULL;
    s->backing_name = g_strdup(args->common.backing_name);
    s->on_error = args->common.on_error;
    block_job_tasks_init(&s->tasks, WORKERS);
    s->user = block_job_use(job, s->image, BLOCK_PERM_READ | BLOCK_PERM_WRITE_SAME,
                            BLOCK_PERM_ALL & ~BLOCK_PERM_RESIZE, error);
    for (BlockNode *node = block_node_below(s->image); s->user && node && node != s->base;
         node = block_node_below(node))
        if (!block_job_use(job, node, BLOCK_PERM_READ, shared, error))
            return false;
    if (!s->user)
        return false;
    block_node_order(s->image, false, true);
    s->ordered = true;
    return true;
}

static bool find_base(StreamArgs *args, json_object *data, GError **error)
{
    const char *base = NULL, *base_node = NULL, *bottom = NULL;
    BlockNode *node;

    if (!options_get_str(data, "base", &base, error) ||
        !options_get_str(data, "base-node", &base_node, error) ||
        !options_get_str(data, "bottom", &bottom, error))
        return false;
    if (!!base + !!base_node + !!bottom > 1)
        return fail(error, ERR_INVALID_PARAMETER, "'base', 'base-node' and 'bottom' cannot be "
                                                  "specified at the same time");
    if (bottom) {
        node = block_chain_find(args->image, bottom, NULL, error);
        args->base = node ? block_node_below(node) : NULL;
        return node != NULL;
    }
    if (base || base_node)
        args->base = block_chain_find(args->image, base_node, base, error);
    if ((base || base_node) && !args->base)
        return false;
    if (args->base == args->image)
        return fail(error, ERR_INVALID_PARAMETER, "cannot stream an image into itself");
    if (!args->base && args->common.backing_name)
        return fail(error, ERR_INVALID_PARAMETER, "backing file specified, but streaming the entire "
                                                  "chain");
    return true;
}

bool block_stream(BlockGraph *graph, json_object *data, GError **error)
{
    StreamArgs args = { 0 };
    bool ok;

    if (!block_chain_args(graph, data, &args.common, error))
        return false;
    args.image = block_node_skip_filters(args.common.device);
    if (!find_base(&args, data, error))
        return false;
    block_node_get(args.image);            /* setting up waits */
    if (args.base)
        block_node_get(args.base);
    ok = block_job_launch(&stream_type, args.image, &args.common.config, set_up, &args, error);
    block_node_put(args.base);
    block_node_put(args.image);
    return ok;
}

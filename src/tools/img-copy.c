/* See img-copy.h. */
#include "src/tools/img-copy.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "src/base/util.h"

/* Enough under way to hide a disk's latency; with more, the buffers no longer fit into the caches, and
 * clearing their fresh pages shows. */
#define CHUNK (1 * MiB)
#define ZEROES_MAX (1 * GiB)               /* in one request */
#define SECTOR 512
enum { WORKERS = 4, COMPRESSING_WORKERS = 32 };

typedef enum Kind { KIND_DATA, KIND_ZERO, KIND_BACKING } Kind;

typedef struct Chunk {
    uint64_t sequence;                     /* of those that may be written */
    uint64_t at, bytes;                    /* of the target */
    Kind kind;
    const ImgCopySource *source;
    uint64_t source_at;
} Chunk;

typedef struct Copy {
    ImgCopy *c;
    Img *img;
    uint64_t total, chunk_bytes, align;
    uint64_t target_backing_size;

    /* The plan: under the lock. */
    CoMutex plan;
    uint64_t next, sequence;
    uint64_t until;                        /* what is known reaches so far */
    Kind kind;

    uint64_t turn;                         /* the sequence number that may be written now */
    CoQueue turns;
    int64_t began_ns;
    uint64_t written;                      /* for the rate */
    unsigned running;
    bool done;
    int ret;                               /* the first error */
    GError **error;
} Copy;

uint64_t img_cluster_size(BlockNode *node)
{
    g_autoptr(json_object) info = block_node_image_info(node, NULL);
    json_object *value;

    return info && json_object_object_get_ex(info, "cluster-size", &value)
               ? json_object_get_int64(value)
               : 0;
}

static bool is_zero(const uint8_t *data, uint64_t bytes)
{
    /* Most data differs from zero in its first words; what does not is compared with itself. */
    if (bytes < 16 || ((const uint64_t *)data)[0] | ((const uint64_t *)data)[1])
        return false;
    return !memcmp(data, data + 16, bytes - 16);
}

uint64_t img_zero_run(const uint8_t *data, uint64_t bytes, uint64_t step, bool *ret_zeroes)
{
    uint64_t n = MIN(step, bytes);

    *ret_zeroes = is_zero(data, n);
    while (n < bytes && is_zero(data + n, MIN(step, bytes - n)) == *ret_zeroes)
        n += MIN(step, bytes - n);
    return n;
}

static void copy_failed(Copy *copy, int ret, const char *what, uint64_t at)
{
    if (copy->ret)
        return;
    copy->ret = ret;
    fail_errno(copy->error, -ret, "error while %s at byte %" PRIu64, what, at);
}

/* ---- the plan ---- */

static const ImgCopySource *source_at(const Copy *copy, uint64_t at, uint64_t *ret_offset)
{
    const ImgCopySource *source = copy->c->sources;

    while (at >= source->bytes) {
        at -= source->bytes;
        source++;
    }
    *ret_offset = at;
    return source;
}

static Kind kind_of(const Copy *copy, unsigned flags, uint64_t at)
{
    bool backing = copy->c->target_has_backing;

    if (flags & BLOCK_MAP_ZERO)
        return backing && !(flags & BLOCK_MAP_ALLOCATED) && at >= copy->target_backing_size
                   ? KIND_BACKING
                   : KIND_ZERO;
    if (flags & BLOCK_MAP_DATA)
        return KIND_DATA;
    return backing ? KIND_BACKING : KIND_DATA;
}

/* The target's clusters are written whole: what has data in it is data. */
static void align_plan(Copy *copy)
{
    uint64_t cluster_end = MIN(ALIGN_DOWN(copy->next, copy->align) + copy->align, copy->total);

    if (copy->kind != KIND_DATA && copy->until < copy->total)
        copy->until = ALIGN_DOWN(copy->until, copy->align);
    if (copy->until <= copy->next) {
        copy->kind = KIND_DATA;
        copy->until = cluster_end;
    }
    if (copy->kind == KIND_DATA)
        copy->until = MIN(ALIGN_UP(copy->until, copy->align), copy->total);
}

/* Under the plan's lock. */
static bool co_fn look_ahead(Copy *copy)
{
    uint64_t offset, left;
    const ImgCopySource *source = source_at(copy, copy->next, &offset);
    BlockMap map;
    int ret;

    left = source->bytes - offset;
    ret = block_co_map_above(source->image.node, copy->c->base, source->start + offset, left, &map,
                             NULL);
    if (ret < 0 && copy->c->salvage) {
        map = (BlockMap){ .bytes = MIN(left, copy->chunk_bytes), .flags = BLOCK_MAP_DATA };
    } else if (ret < 0) {
        copy_failed(copy, ret, "reading block status", copy->next);
        return false;
    }
    copy->kind = kind_of(copy, map.flags, copy->next);
    copy->until = copy->next + MIN(map.bytes, left);
    align_plan(copy);
    return true;
}

/* False: nothing is left, or something has failed. */
static bool co_fn take_chunk(Copy *copy, Chunk *chunk)
{
    uint64_t end, most;
    bool ok;

    co_mutex_lock(&copy->plan);
    ok = !copy->ret && copy->next < copy->total &&
         (copy->next < copy->until || look_ahead(copy));
    if (ok) {
        most = copy->kind == KIND_DATA ? copy->chunk_bytes : ZEROES_MAX;
        end = copy->until;
        if (end - copy->next > most)
            end = ALIGN_DOWN(copy->next + most, copy->align);
        *chunk = (Chunk){ .at = copy->next, .bytes = end - copy->next, .kind = copy->kind,
                          .sequence = copy->sequence++ };
        chunk->source = source_at(copy, copy->next, &chunk->source_at);
        copy->next = end;
    }
    co_mutex_unlock(&copy->plan);
    return ok;
}

/* ---- reading ---- */

static int co_fn read_source(const ImgCopySource *source, uint64_t at, uint8_t *buffer, uint64_t n)
{
    struct iovec iov = { buffer, n };

    return block_co_read(source->image.user, source->start + at, &iov, 1, n);
}

/* Sector by sector: what cannot be read is zeroes in the copy. */
static void co_fn salvage(const ImgCopySource *source, uint64_t at, uint8_t *buffer, uint64_t n)
{
    for (uint64_t done = 0; done < n; done += SECTOR) {
        uint64_t part = MIN(SECTOR, n - done);
        int ret = read_source(source, at + done, buffer + done, part);

        if (ret < 0) {
            warn_report("error while reading offset %" PRIu64 ": %s", at + done, g_strerror(-ret));
            memset(buffer + done, 0, part);
        }
    }
}

/* A cluster may go on in the next source. */
static int co_fn read_chunk(Copy *copy, const Chunk *chunk, uint8_t *buffer)
{
    const ImgCopySource *source = chunk->source;
    uint64_t at = chunk->source_at, left = chunk->bytes;
    int ret = 0;

    while (ret == 0 && left) {
        uint64_t n = MIN(left, source->bytes - at);

        ret = read_source(source, at, buffer, n);
        if (ret < 0 && copy->c->salvage) {
            salvage(source, at, buffer, n);
            ret = 0;
        }
        buffer += n;
        left -= n;
        source++;
        at = 0;
    }
    if (ret < 0)
        copy_failed(copy, ret, "reading", chunk->at);
    return ret;
}

/* ---- writing ---- */

/* A chunk may be written when all before it have begun to be: an image is laid out in the order of
 * the disk then, without waiting for one write after the other. */
static void co_fn wait_for_turn(Copy *copy, const Chunk *chunk)
{
    if (copy->c->out_of_order || copy->c->compressed)
        return;
    while (copy->turn != chunk->sequence && !copy->ret)
        co_queue_wait(&copy->turns, NULL);
    copy->turn = MAX(copy->turn, chunk->sequence + 1);
    co_queue_wake_all(&copy->turns);
}

static void co_fn keep_rate(Copy *copy, uint64_t n)
{
    int64_t due;

    if (!copy->c->rate)
        return;
    copy->written += n;
    due = copy->began_ns + (int64_t)(copy->written * 1e9 / copy->c->rate);
    if (due > loop_clock_ns())
        co_sleep_ns(due - loop_clock_ns());
}

static int co_fn write_zeroes(Copy *copy, uint64_t at, uint64_t n)
{
    if (copy->c->target_is_zero)
        return 0;
    return block_co_zero(copy->c->target.user, at, n, BLOCK_MAY_UNMAP);
}

static int co_fn write_data(Copy *copy, uint64_t at, uint8_t *buffer, uint64_t n)
{
    struct iovec iov = { buffer, n };

    return block_co_write(copy->c->target.user, at, &iov, 1, n,
                          copy->c->compressed ? BLOCK_COMPRESSED : 0);
}

static int co_fn write_runs(Copy *copy, uint64_t at, uint8_t *buffer, uint64_t bytes)
{
    uint64_t step = copy->c->compressed ? copy->align : MAX(copy->c->zero_bytes, copy->align);
    uint64_t done = 0, n;
    int ret = 0;

    while (ret == 0 && done < bytes) {
        bool zeroes = false;

        /* Steps are counted from the start of the disk. */
        n = MIN(bytes - done, step - (at + done) % step);
        if (copy->c->zero_bytes && n == step)
            n = img_zero_run(buffer + done, bytes - done, step, &zeroes);
        else if (copy->c->zero_bytes)
            n = img_zero_run(buffer + done, n, step, &zeroes);
        if (copy->c->compressed && !zeroes)
            n = MIN(n, step - (at + done) % step);
        ret = zeroes ? write_zeroes(copy, at + done, n)
                     : write_data(copy, at + done, buffer + done, n);
        keep_rate(copy, n);
        done += n;
    }
    return ret;
}

static int co_fn copy_data(Copy *copy, const Chunk *chunk, uint8_t *buffer)
{
    int ret = read_chunk(copy, chunk, buffer);

    if (ret < 0)
        return ret;
    wait_for_turn(copy, chunk);
    ret = copy->ret ? copy->ret : write_runs(copy, chunk->at, buffer, chunk->bytes);
    if (ret < 0)
        copy_failed(copy, ret, "writing", chunk->at);
    return ret;
}

/* The host copies between two files itself, or lets them share the blocks. */
static bool co_fn offload(Copy *copy, const Chunk *chunk)
{
    const ImgCopySource *source = chunk->source;
    int ret;

    if (!copy->c->offload || chunk->kind != KIND_DATA ||
        chunk->bytes > source->bytes - chunk->source_at)
        return false;
    wait_for_turn(copy, chunk);
    ret = block_co_copy_range(source->image.user, source->start + chunk->source_at,
                              copy->c->target.user, chunk->at, chunk->bytes);
    if (ret == 0)
        return true;
    copy->c->offload = false;              /* from here on by hand */
    return false;
}

static int co_fn copy_zeroes(Copy *copy, const Chunk *chunk)
{
    int ret;

    wait_for_turn(copy, chunk);
    if (copy->ret || chunk->kind == KIND_BACKING)
        return copy->ret;
    ret = write_zeroes(copy, chunk->at, chunk->bytes);
    if (ret < 0)
        copy_failed(copy, ret, "writing", chunk->at);
    return ret;
}

/* -S 0: zeroes are data like any other. */
static int co_fn copy_zeroes_as_data(Copy *copy, const Chunk *chunk, uint8_t *buffer)
{
    int ret = 0;

    memset(buffer, 0, MIN(chunk->bytes, copy->chunk_bytes));
    wait_for_turn(copy, chunk);
    for (uint64_t done = 0; ret == 0 && done < chunk->bytes; done += copy->chunk_bytes)
        ret =
            write_runs(copy, chunk->at + done, buffer, MIN(chunk->bytes - done, copy->chunk_bytes));
    if (ret < 0)
        copy_failed(copy, ret, "writing", chunk->at);
    return ret;
}

/* ---- workers ---- */

static void co_fn copy_chunk(Copy *copy, const Chunk *chunk, uint8_t *buffer)
{
    if (offload(copy, chunk))
        ;
    else if (chunk->kind == KIND_DATA)
        copy_data(copy, chunk, buffer);
    else if (chunk->kind == KIND_ZERO && !copy->c->zero_bytes)
        copy_zeroes_as_data(copy, chunk, buffer);
    else
        copy_zeroes(copy, chunk);
    img_progress_add(copy->img, chunk->bytes);
}

static void co_fn copy_worker(void *opaque)
{
    Copy *copy = opaque;
    void *buffer = NULL;
    Chunk chunk;

    if (posix_memalign(&buffer, 4096, copy->chunk_bytes))
        copy_failed(copy, -ENOMEM, "getting memory", 0);
    while (!copy->ret && take_chunk(copy, &chunk))
        copy_chunk(copy, &chunk, buffer);
    free(buffer);
    co_queue_wake_all(&copy->turns);       /* those behind a failed one wait in vain */
    if (!--copy->running)
        copy->done = true;
}

static void plan(Copy *copy)
{
    ImgCopy *c = copy->c;
    uint64_t cluster = img_cluster_size(c->target.node);
    BlockLimits limits = block_node_limits(c->target.node);

    for (unsigned i = 0; i < c->n_sources; i++)
        copy->total += c->sources[i].bytes;
    copy->align = MAX(MAX(limits.write_zeroes_granularity, limits.request_alignment), SECTOR);
    if (c->compressed)
        copy->align = MAX(cluster, 4096);
    copy->chunk_bytes = c->compressed ? copy->align : ALIGN_UP(CHUNK, copy->align);
    if (!c->workers)
        c->workers = c->compressed ? COMPRESSING_WORKERS : WORKERS;
    if (c->target_has_backing && block_node_backing(c->target.node))
        copy->target_backing_size = block_node_size(block_node_backing(c->target.node));
    co_mutex_init(&copy->plan);
    co_queue_init(&copy->turns);
    copy->began_ns = loop_clock_ns();
}

bool img_copy(Img *img, ImgCopy *c, GError **error)
{
    Copy copy = { .c = c, .img = img, .error = error };

    plan(&copy);
    img_progress_begin(img, copy.total);
    copy.running = c->workers;
    for (unsigned i = 0; i < c->workers; i++)
        co_start(copy_worker, &copy);
    loop_wait(&copy.done);
    if (!copy.ret)
        img_progress_end(img);
    return copy.ret == 0;
}

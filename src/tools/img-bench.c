/*
 * bench: how many requests a second an image takes.  They are made by coroutines of a loop of its
 * own, as a guest's are in an iothread.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "src/base/util.h"
#include "src/tools/img.h"

typedef struct Bench {
    Img *img;
    ImgImage image;
    uint64_t count, depth, bytes, step, size, flush_interval, pattern;
    uint64_t first;
    bool write, no_drain;
    Loop *loop;

    /* The loop's own: */
    uint64_t offset, begun, ended, started, running;
    CoQueue drained;
    bool flushing;
    uint8_t *buffers;

    int ret;
    const char *failed_at;
    bool done;                             /* the main loop's */
} Bench;

static void bench_failed(Bench *b, int ret, const char *what)
{
    if (!b->ret) {
        b->ret = ret;
        b->failed_at = what;
    }
}

static uint64_t next_offset(Bench *b)
{
    uint64_t at = b->offset;

    b->offset += b->step;
    if (b->offset + b->bytes > b->size)
        b->offset = b->size ? b->offset % b->size : 0;
    if (b->offset + b->bytes > b->size)
        b->offset = 0;
    return at;
}

/* Each so many requests; the others stand still meanwhile, unless --no-drain. */
static void co_fn flush(Bench *b)
{
    int ret;

    b->flushing = !b->no_drain;
    ret = block_co_flush(b->image.user);
    if (ret < 0)
        bench_failed(b, ret, "flush");
    b->flushing = false;
    co_queue_wake_all(&b->drained);
}

static void co_fn bench_worker(void *opaque)
{
    Bench *b = opaque;
    uint8_t *buffer = b->buffers + b->bytes * b->started++;
    struct iovec iov = { buffer, b->bytes };

    while (!b->ret && b->begun < b->count) {
        uint64_t at = next_offset(b);
        int ret;

        b->begun++;
        ret = b->write ? block_co_write(b->image.user, at, &iov, 1, b->bytes, 0)
                       : block_co_read(b->image.user, at, &iov, 1, b->bytes);
        if (ret < 0)
            bench_failed(b, ret, b->write ? "write" : "read");
        b->ended++;
        if (b->flush_interval && b->ended % b->flush_interval == 0)
            flush(b);
        while (b->flushing)
            co_queue_wait(&b->drained, NULL);
    }
    if (!--b->running)
        loop_quit(b->loop);
}

static void start_workers(void *opaque)
{
    Bench *b = opaque;

    uint64_t n = MIN(b->depth, b->count);

    b->running = n;                        /* the first may end before the last begins */
    for (uint64_t i = 0; i < n; i++)
        co_start(bench_worker, b);
}

static void finished(void *opaque)
{
    ((Bench *)opaque)->done = true;
}

static void *bench_thread(void *opaque)
{
    Bench *b = opaque;

    loop_run(b->loop);
    loop_post(loop_main(), finished, b);
    return NULL;
}

static bool run_loop(Bench *b, GError **error)
{
    GThread *thread;

    b->loop = loop_new("bench", error);
    if (!b->loop)
        return false;
    loop_set_patient(b->loop, true);        /* nobody else is served by it */
    co_queue_init(&b->drained);
    loop_post(b->loop, start_workers, b);
    thread = g_thread_new("bench", bench_thread, b);
    loop_wait(&b->done);
    g_thread_join(thread);
    loop_free(b->loop);
    if (b->ret < 0)
        return fail_errno(error, -b->ret, "Failed request: %s", b->failed_at);
    return true;
}

static bool measure(Bench *b, GError **error)
{
    int64_t start_ns;
    bool ok;

    if (posix_memalign((void **)&b->buffers, 4096, b->depth * b->bytes))
        return fail(error, ERR_LIMIT, "no memory for %" PRIu64 " buffers of %" PRIu64 " bytes",
                    b->depth, b->bytes);
    memset(b->buffers, b->pattern, b->depth * b->bytes);
    start_ns = loop_clock_ns();
    ok = run_loop(b, error);
    if (ok)
        img_print(b->img, "Run completed in %3.3f seconds.\n", (loop_clock_ns() - start_ns) / 1e9);
    free(b->buffers);
    return ok;
}

static bool number(Bench *b, int key, const char *what, uint64_t low, uint64_t high, uint64_t *ret,
                   GError **error)
{
    if (!img_size_value(b->img, key, what, ret, error))
        return false;
    return (*ret >= low && *ret <= high) ||
           fail(error, ERR_INVALID_PARAMETER, "Invalid %s specified", what);
}

static bool parse(Bench *b, GError **error)
{
    b->count = 75000;
    b->depth = 64;
    b->bytes = 4096;
    b->write = img_has(b->img, 'w');
    b->no_drain = img_has(b->img, IMG_NO_DRAIN);
    if (!number(b, 'c', "request count", 1, INT_MAX, &b->count, error) ||
        !number(b, 'd', "queue depth", 1, 4096, &b->depth, error) ||
        !number(b, 's', "buffer size", 1, INT_MAX, &b->bytes, error) ||
        !number(b, 'S', "step size", 0, INT64_MAX, &b->step, error) ||
        !number(b, 'o', "offset", 0, INT64_MAX, &b->first, error) ||
        !number(b, IMG_PATTERN, "pattern byte", 0, 255, &b->pattern, error) ||
        !number(b, IMG_FLUSH_INTERVAL, "flush interval", 0, INT_MAX, &b->flush_interval, error))
        return false;
    if (!b->step)
        b->step = b->bytes;
    if (!b->write && (b->flush_interval || img_has(b->img, IMG_PATTERN)))
        return fail(error, ERR_INVALID_PARAMETER,
                    "--flush-interval and --pattern are only available in write tests");
    if (b->flush_interval && b->flush_interval < b->depth)
        return fail(error, ERR_INVALID_PARAMETER, "Flush interval can't be smaller than depth");
    b->offset = b->first;
    return true;
}

static void print_plan(const Bench *b)
{
    img_print(b->img, "Sending %" PRIu64 " %s requests, %" PRIu64 " bytes each, %" PRIu64
              " in parallel (starting at offset %" PRIu64 ", step size %" PRIu64 ")\n", b->count,
              b->write ? "write" : "read", b->bytes, b->depth, b->first, b->step);
    if (b->flush_interval)
        img_print(b->img, "Sending flush every %" PRIu64 " %srequests\n", b->flush_interval,
                  b->no_drain ? "" : "in-flight ");
}

static int run_bench(Img *img, GError **error)
{
    Bench b = { .img = img };
    ImgOpen how = { .name = img->operands[0], .format = img_value(img, 'f'),
                    .cache = img_value(img, 't'), .aio = img_value(img, 'i'),
                    .flags = (img_has(img, 'w') ? IMG_WRITE : 0) |
                             (img_has(img, 'U') ? IMG_FORCE_SHARE : 0) |
                             (img_has(img, IMG_IMAGE_OPTS) ? IMG_IS_OPTIONS : 0) };
    bool ok = false;

    if (img_has(img, 'n'))
        how.aio = "native";
    if (!parse(&b, error) || !img_open(img, &how, &b.image, error))
        return 1;
    b.size = block_node_size(b.image.node);
    if (b.first + b.bytes > b.size) {
        fail(error, ERR_INVALID_PARAMETER, "the image is too small for one request");
    } else {
        print_plan(&b);
        ok = measure(&b, error) && img_finish(&b.image, error);
    }
    img_close(&b.image);
    return !ok;
}

static const ImgOption bench_options[] = {
    IMG_COMMON, IMG_SOURCE, IMG_SHARE, IMG_CACHE,
    { 'c', "count", "N", "requests (75000)" },
    { 'd', "depth", "N", "of them under way at once (64)" },
    { 's', "buffer-size", "SIZE", "of a request (4096)" },
    { 'S', "step-size", "SIZE", "from one request to the next (as -s)" },
    { 'o', "offset", "OFFSET", "of the first (0)" },
    { 'w', "write", NULL, "write; reads without it" },
    { 'i', "aio", "AIO", "threads, native or io_uring" },
    { 'n', "native", NULL, "another way to say -i native" },
    { IMG_PATTERN, "pattern", "BYTE", "what is written" },
    { IMG_FLUSH_INTERVAL, "flush-interval", "N", "flush after each N requests" },
    { IMG_NO_DRAIN, "no-drain", NULL, "go on with requests while a flush is under way" },
    { 0 }
};
const ImgCommand img_bench = {
    .name = "bench",
    .operands = "FILENAME",
    .help = "Measure how many requests a second an image takes",
    .run = run_bench,
    .options = bench_options,
    .min = 1,
    .max = 1,
};

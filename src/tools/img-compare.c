/*
 * compare: two images, chunk by chunk, many chunks under way at once.  What is told is the first
 * difference on the disk, though a later one may be found before it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "src/base/util.h"
#include "src/tools/img-copy.h"

#define CHUNK (1 * MiB)                    /* as in img-copy.c */
#define ZEROES_MAX (1 * GiB)
#define SECTOR 512
enum { WORKERS = 4 };
enum { SAME = 0, DIFFERENT = 1, FAILED = 2, CANNOT_OPEN = 2, READ_FAILED = 4, STATUS_FAILED = 3 };
#define KINDS (BLOCK_MAP_DATA | BLOCK_MAP_ZERO | BLOCK_MAP_ALLOCATED)

typedef struct Compare {
    Img *img;
    ImgImage image[2];
    uint64_t size[2], total;               /* total: of the longer one */
    bool strict;

    CoMutex plan;                          /* for what follows */
    uint64_t next;
    BlockMap known[2];                     /* bytes: what is left of it from next on; 0: nothing */

    uint64_t different_at;                 /* the lowest found; UINT64_MAX: none */
    bool status_differs;                   /* there it is how, not what */
    unsigned running;
    bool done;
    int status;
    GError **error;
} Compare;

typedef struct Chunk {
    uint64_t at, bytes;
    bool reads[2];                         /* else: zeroes, or past the end */
} Chunk;

static void found(Compare *c, uint64_t at, bool status)
{
    if (at < c->different_at) {
        c->different_at = at;
        c->status_differs = status;
    }
}

static void compare_failed(Compare *c, int status, int ret, const char *what, unsigned which,
                           uint64_t at)
{
    if (c->status > DIFFERENT)
        return;
    c->status = status;
    fail_errno(c->error, -ret, "Error while %s offset %" PRIu64 " of %s", what, at,
               c->img->operands[which]);
}

/* ---- the plan ---- */

/* An extent of one image may be as long as many of the other's: it is asked for once. */
static int co_fn map_one(Compare *c, unsigned which, uint64_t bytes)
{
    BlockMap *map = &c->known[which];
    int ret;

    if (map->bytes)
        return 0;
    if (c->next >= c->size[which]) {
        *map = (BlockMap){ .bytes = bytes, .flags = BLOCK_MAP_ZERO };
        return 0;
    }
    ret = block_co_map_above(c->image[which].node, NULL, c->next,
                             MIN(bytes, c->size[which] - c->next), map, NULL);
    if (ret < 0)
        compare_failed(c, STATUS_FAILED, ret, "reading the status at", which, c->next);
    return ret;
}

static bool co_fn take_chunk(Compare *c, Chunk *chunk)
{
    BlockMap *map = c->known;
    uint64_t left;
    bool ok;

    co_mutex_lock(&c->plan);
    left = c->total - c->next;
    ok = c->status <= DIFFERENT && c->next < c->total && c->next < c->different_at &&
         map_one(c, 0, left) == 0 && map_one(c, 1, left) == 0;
    if (ok) {
        *chunk = (Chunk){ .at = c->next, .bytes = MIN(map[0].bytes, map[1].bytes) };
        for (unsigned i = 0; i < 2; i++)
            chunk->reads[i] = !(map[i].flags & BLOCK_MAP_ZERO);
        if (c->strict && (map[0].flags & KINDS) != (map[1].flags & KINDS))
            found(c, c->next, true);
        chunk->bytes = MIN(chunk->bytes, chunk->reads[0] || chunk->reads[1] ? CHUNK : ZEROES_MAX);
        c->next += chunk->bytes;
        map[0].bytes -= chunk->bytes;
        map[1].bytes -= chunk->bytes;
    }
    co_mutex_unlock(&c->plan);
    return ok;
}

/* ---- a chunk ---- */

static bool co_fn read_one(Compare *c, unsigned which, const Chunk *chunk, void *buffer)
{
    struct iovec iov = { buffer, chunk->bytes };
    int ret = block_co_read(c->image[which].user, chunk->at, &iov, 1, chunk->bytes);

    if (ret < 0)
        compare_failed(c, READ_FAILED, ret, "reading", which, chunk->at);
    return ret == 0;
}

/* The first sector that differs, from the start of the buffers. */
static uint64_t first_difference(const uint8_t *a, const uint8_t *b, uint64_t bytes)
{
    uint64_t at = 0;

    if (!memcmp(a, b, bytes))
        return bytes;
    while (!memcmp(a + at, b + at, MIN(SECTOR, bytes - at)))
        at += SECTOR;
    return at;
}

static uint64_t first_not_zero(const uint8_t *data, uint64_t bytes)
{
    bool zeroes;
    uint64_t n = img_zero_run(data, bytes, bytes, &zeroes);

    if (!zeroes)
        n = img_zero_run(data, bytes, SECTOR, &zeroes);
    return zeroes ? n : 0;
}

static void co_fn compare_chunk(Compare *c, const Chunk *chunk, uint8_t *const buffers[2])
{
    uint64_t same = chunk->bytes;

    for (unsigned i = 0; i < 2; i++)
        if (chunk->reads[i] && !read_one(c, i, chunk, buffers[i]))
            return;
    if (chunk->reads[0] && chunk->reads[1])
        same = first_difference(buffers[0], buffers[1], chunk->bytes);
    else if (chunk->reads[0] || chunk->reads[1])
        same = first_not_zero(buffers[chunk->reads[1]], chunk->bytes);
    if (same < chunk->bytes)
        found(c, chunk->at + same, false);
}

static void co_fn compare_worker(void *opaque)
{
    Compare *c = opaque;
    void *memory = NULL;
    Chunk chunk;

    if (posix_memalign(&memory, 4096, 2 * CHUNK))
        compare_failed(c, FAILED, -ENOMEM, "getting memory for", 0, 0);
    while (memory && take_chunk(c, &chunk)) {
        uint8_t *buffers[2] = { memory, (uint8_t *)memory + CHUNK };

        compare_chunk(c, &chunk, buffers);
        img_progress_add(c->img, chunk.bytes);
    }
    free(memory);
    if (!--c->running)
        c->done = true;
}

/* ---- the command ---- */

static int tell(Compare *c)
{
    if (c->status > DIFFERENT)
        return c->status;
    img_progress_end(c->img);
    if (c->size[0] != c->size[1] && c->different_at >= MIN(c->size[0], c->size[1]))
        img_print(c->img, "Warning: Image size mismatch!\n");
    if (c->different_at == UINT64_MAX) {
        img_print(c->img, "Images are identical.\n");
        return SAME;
    }
    img_print(c->img, c->status_differs ? "Strict mode: Offset %" PRIu64 " block status mismatch!\n"
                                        : "Content mismatch at offset %" PRIu64 "!\n",
              c->different_at);
    return DIFFERENT;
}

static int compare(Compare *c)
{
    for (unsigned i = 0; i < 2; i++)
        c->size[i] = block_node_size(c->image[i].node);
    c->total = MAX(c->size[0], c->size[1]);
    if (c->strict && c->size[0] != c->size[1]) {
        img_print(c->img, "Strict mode: Image size mismatch!\n");
        return DIFFERENT;
    }
    img_progress_begin(c->img, c->total);
    co_mutex_init(&c->plan);
    c->running = WORKERS;
    for (unsigned i = 0; i < WORKERS; i++)
        co_start(compare_worker, c);
    loop_wait(&c->done);
    return tell(c);
}

static bool open_image(Compare *c, unsigned which, GError **error)
{
    Img *img = c->img;
    ImgOpen how = { .name = img->operands[which], .format = img_value(img, which ? 'F' : 'f'),
                    .cache = img_value(img, 'T'),
                    .flags = (img_has(img, 'U') ? IMG_FORCE_SHARE : 0) |
                             (img_has(img, IMG_IMAGE_OPTS) ? IMG_IS_OPTIONS : 0) };

    return img_open(img, &how, &c->image[which], error);
}

static int run_compare(Img *img, GError **error)
{
    Compare c = { .img = img, .strict = img_has(img, 's'), .different_at = UINT64_MAX,
                  .error = error };
    int status = CANNOT_OPEN;

    if (open_image(&c, 0, error) && open_image(&c, 1, error))
        status = compare(&c);
    img_close(&c.image[0]);
    img_close(&c.image[1]);
    return status;
}

static const ImgOption compare_options[] = {
    IMG_COMMON, IMG_SHARE, IMG_SOURCE_CACHE, IMG_PROGRESS,
    { 'f', "a-format", "FMT", "the first image's format" },
    { 'F', "b-format", "FMT", "the second image's format" },
    { IMG_IMAGE_OPTS, "image-opts", NULL, "both names are lists of block options" },
    { 's', "strict", NULL, "sizes and what is allocated must be the same, too" },
    { 0 }
};
const ImgCommand img_compare = {
    .name = "compare", .operands = "FILENAME1 FILENAME2",
    .help = "Tell whether two images have the same content",
    .run = run_compare, .options = compare_options, .min = 2, .max = 2,
    .details = "An image that is longer has the same content if the rest of it reads as zeroes.\n",
};

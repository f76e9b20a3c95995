/* commit and rebase: images and what is below them. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "src/base/util.h"
#include "src/tools/img-copy.h"

/* ---- commit ---- */

typedef struct Link {                      /* an image of the chain */
    char *name, *format;
    bool is_options;                       /* name is what --image-opts says */
    ImgImage image;
} Link;

typedef struct Commit {
    Img *img;
    GPtrArray *chain;                      /* of Link: from the top to the base */
    GError **error;
    int ret;
} Commit;

static void link_free(gpointer data)
{
    Link *link = data;

    img_close(&link->image);
    g_free(link->name);
    g_free(link->format);
    g_free(link);
}

/* The image's own name for what is below it, without opening that. */
static bool look_below(Img *img, const Link *link, Link **ret_below, GError **error)
{
    ImgOpen how = { .name = link->name, .format = link->format,
                    .flags = IMG_NO_BACKING | IMG_FORCE_SHARE |
                             (link->is_options ? IMG_IS_OPTIONS : 0) };
    g_autoptr(json_object) info = NULL;
    ImgImage image;

    *ret_below = NULL;
    if (!img_open(img, &how, &image, error))
        return false;
    info = block_node_image_info(image.node, error);
    img_close(&image);
    if (!info)
        return false;
    if (json_get_str(info, "full-backing-filename")) {
        *ret_below = g_new0(Link, 1);
        (*ret_below)->name = g_strdup(json_get_str(info, "full-backing-filename"));
        (*ret_below)->format = g_strdup(json_get_str(info, "backing-filename-format"));
    }
    return true;
}

/* -b may name an image in another way than the one above it does. */
static bool is_same(const char *one, const char *other)
{
    g_autofree char *a = realpath(one, NULL), *b = realpath(other, NULL);

    return !strcmp(one, other) || (a && b && !strcmp(a, b));
}

/* From the top down to the image that -b names, or to the next one. */
static bool find_chain(Commit *c, GError **error)
{
    const char *base = img_value(c->img, 'b');
    Link *top = g_new0(Link, 1), *below;

    top->name = g_strdup(c->img->operands[0]);
    top->format = g_strdup(img_value(c->img, 'f'));
    top->is_options = img_has(c->img, IMG_IMAGE_OPTS);
    g_ptr_array_add(c->chain, top);
    do {
        if (!look_below(c->img, c->chain->pdata[c->chain->len - 1], &below, error))
            return false;
        if (!below)
            return base && c->chain->len > 1
                       ? fail(error, ERR_NOT_FOUND,
                              "Did not find '%s' in the backing chain of '%s'", base, top->name)
                       : fail(error, ERR_INVALID_PARAMETER, "Image does not have a backing file");
        g_ptr_array_add(c->chain, below);
    } while (base && !is_same(base, below->name) && c->chain->len < 200);
    return true;
}

/* The base is written, which a chain that an image opens by itself is not: it is put together here.
 */
static bool open_chain(Commit *c, GError **error)
{
    const char *below = NULL;

    for (unsigned i = c->chain->len; i-- > 0;) {
        Link *link = c->chain->pdata[i];
        bool written = i == 0 || i == c->chain->len - 1;
        g_autoptr(json_object) more = json_object_new_object();
        ImgOpen how = { .name = link->name, .format = link->format, .more = more,
                        .cache = img_value(c->img, 't'),
                        .flags = IMG_SHARE_WRITES | (written ? IMG_WRITE : 0) |
                                 (link->is_options ? IMG_IS_OPTIONS : 0) };

        if (below)
            json_object_object_add(more, "backing", json_object_new_string(below));
        if (!img_open(c->img, &how, &link->image, error))
            return false;
        below = block_node_name(link->image.node);
    }
    return true;
}

static void co_fn make_empty(void *opaque)
{
    Commit *c = opaque;
    Link *top = c->chain->pdata[0];

    c->ret = block_co_make_empty(top->image.node, c->error);
}

static bool copy_down(Commit *c, GError **error)
{
    Link *top = c->chain->pdata[0], *base = c->chain->pdata[c->chain->len - 1];
    uint64_t size = block_node_size(top->image.node);
    ImgCopySource source = { .image = top->image, .bytes = size };
    ImgCopy copy = { .sources = &source, .n_sources = 1, .target = base->image,
                     .zero_bytes = 65536, .target_has_backing = true, .base = base->image.node };

    if (!img_size_value(c->img, 'r', "Rate limit", &copy.rate, error))
        return false;
    if (size > (uint64_t)block_node_size(base->image.node) &&
        !block_node_resize(base->image.node, size, error))
        return false;
    return img_copy(c->img, &copy, error);
}

static bool commit(Commit *c, GError **error)
{
    bool keep = img_has(c->img, 'd') || img_has(c->img, 'b');
    Link *top, *base;

    if (!find_chain(c, error) || !open_chain(c, error) || !copy_down(c, error))
        return false;
    top = c->chain->pdata[0];
    base = c->chain->pdata[c->chain->len - 1];
    if (!img_flush(&base->image, error))   /* before it is gone above */
        return false;
    if (!keep)
        co_run_sync(make_empty, c);
    return c->ret == 0 && img_finish(&top->image, error);
}

static int run_commit(Img *img, GError **error)
{
    Commit c = { .img = img, .chain = g_ptr_array_new_with_free_func(link_free), .error = error };
    bool ok = commit(&c, error);

    g_ptr_array_free(c.chain, TRUE);
    if (ok)
        img_print(img, "Image committed.\n");
    return !ok;
}

static const ImgOption commit_options[] = {
    IMG_COMMON, IMG_SOURCE, IMG_CACHE, IMG_PROGRESS,
    { 'b', "base", "BASE", "write into this image of the chain; the top is left as it is" },
    { 'd', "drop", NULL, "do not empty the image: it is to be deleted" },
    { 'r', "rate-limit", "RATE", "bytes a second at most" },
    { 0 }
};
const ImgCommand img_commit = {
    .name = "commit", .operands = "FILENAME",
    .help = "Write what an image has into its backing file",
    .run = run_commit, .options = commit_options, .min = 1, .max = 1,
};

/* ---- rebase ---- */

#define CHUNK (2 * MiB)

typedef struct Rebase {
    Img *img;
    ImgImage top, base;                    /* base: the new one; no node: there will be none */
    BlockUser *old;                        /* of the old one; NULL: there was none */
    uint64_t size, step;
    GError **error;
    int ret;
} Rebase;

/* What a backing file shows: zeroes past its end, or where there is none. */
static int co_fn read_below(BlockUser *user, uint64_t at, uint8_t *buffer, uint64_t n)
{
    uint64_t size = user ? block_node_size(block_user_node(user)) : 0;
    uint64_t inside = at < size ? MIN(n, size - at) : 0;
    struct iovec iov = { buffer, inside };

    memset(buffer + inside, 0, n - inside);
    return inside ? block_co_read(user, at, &iov, 1, inside) : 0;
}

/* How many bytes are alike: hidden by the top, or (*ret_hidden false) shown from below. */
static int co_fn next_part(Rebase *r, uint64_t at, uint64_t *ret_bytes, bool *ret_hidden)
{
    BlockNode *old = r->old ? block_user_node(r->old) : NULL;
    BlockMap map;
    int ret = block_co_map_above(r->top.node, old, at, r->size - at, &map, NULL);

    if (ret < 0)
        return ret;
    *ret_hidden = map.flags & BLOCK_MAP_ALLOCATED;
    *ret_bytes = *ret_hidden ? map.bytes : MIN(map.bytes, CHUNK);
    return 0;
}

static int co_fn keep(Rebase *r, uint64_t at, uint8_t *data, uint64_t n)
{
    struct iovec iov = { data, n };
    bool zeroes;

    if (img_zero_run(data, n, n, &zeroes) == n && zeroes)
        return block_co_zero(r->top.user, at, n, 0);
    return block_co_write(r->top.user, at, &iov, 1, n, 0);
}

/* Where old and new differ, what was shown is written into the top. */
static int co_fn keep_differences(Rebase *r, uint64_t at, uint64_t bytes, uint8_t *a, uint8_t *b)
{
    int ret = read_below(r->old, at, a, bytes);

    if (ret == 0)
        ret = read_below(r->base.user, at, b, bytes);
    for (uint64_t done = 0, n; ret == 0 && done < bytes; done += n) {
        n = MIN(bytes - done, r->step - (at + done) % r->step);
        if (memcmp(a + done, b + done, n))
            ret = keep(r, at + done, a + done, n);
    }
    return ret;
}

static void co_fn rebase_run(void *opaque)
{
    Rebase *r = opaque;
    g_autofree uint8_t *a = g_malloc(CHUNK), *b = g_malloc(CHUNK);
    uint64_t n;
    bool hidden;

    for (uint64_t at = 0; at < r->size && r->ret == 0; at += n) {
        r->ret = next_part(r, at, &n, &hidden);
        if (r->ret < 0)
            break;
        if (!hidden)
            r->ret = keep_differences(r, at, n, a, b);
        img_progress_add(r->img, n);
    }
    if (r->ret < 0)
        fail_errno(r->error, -r->ret, "error while copying from the old backing file");
}

static void co_fn set_backing(void *opaque)
{
    Rebase *r = opaque;
    const char *name = img_value(r->img, 'b');

    r->ret = block_co_set_backing(r->top.node, *name ? name : NULL,
                                  *name ? img_value(r->img, 'F') : NULL, r->error);
    if (r->ret < 0)
        error_prefix(r->error, "Could not change the backing file to '%s': ", name);
}

/* The new backing file's name counts from the folder of the image. */
static bool open_base(Rebase *r, GError **error)
{
    Img *img = r->img;
    g_autofree char *path = block_filename_resolve(img_value(img, 'b'),
                                                   block_node_filename(r->top.node));
    ImgOpen how = { .name = path, .format = img_value(img, 'F'), .cache = img_value(img, 'T'),
                    .flags = img_has(img, 'U') ? IMG_FORCE_SHARE : 0 };

    return !*img_value(img, 'b') || img_open(img, &how, &r->base, error) ||
           error_prefix(error, "Could not open new backing file: ");
}

static bool open_old(Rebase *r, GError **error)
{
    BlockNode *old = block_node_backing(r->top.node);

    if (old)
        r->old = block_user_new(old, "vireo-img rebase", BLOCK_PERM_READ,
                                BLOCK_PERM_ALL & ~(BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE), error);
    return r->old || !old;
}

static bool copy_differences(Rebase *r, GError **error)
{
    if (!open_old(r, error) || !open_base(r, error))
        return false;
    r->size = block_node_size(r->top.node);
    r->step = MAX(img_cluster_size(r->top.node), 4096);
    img_progress_begin(r->img, r->size);
    co_run_sync(rebase_run, r);
    if (r->ret == 0)
        img_progress_end(r->img);
    return r->ret == 0;
}

static bool rebase(Rebase *r, GError **error)
{
    Img *img = r->img;
    const char *format = img_value(img, 'F');
    bool unsafe = img_has(img, 'u');

    if (format && !block_driver_find(format))
        return fail(error, ERR_INVALID_PARAMETER, "Invalid format name: '%s'", format);
    if (!img_open_given(img, img->operands[0], IMG_WRITE | (unsafe ? IMG_NO_BACKING : 0), &r->top,
                        error))
        return false;
    if (*img_value(img, 'b') && !format)
        return fail(error, ERR_MISSING_PARAMETER,
                    "Could not change the backing file to '%s': backing "
                    "format must be specified",
                    img_value(img, 'b'));
    if (!unsafe && !copy_differences(r, error))
        return false;
    if (!img_flush(&r->top, error))        /* before what it was taken from is out of sight */
        return false;
    co_run_sync(set_backing, r);
    return r->ret == 0;
}

static int run_rebase(Img *img, GError **error)
{
    Rebase r = { .img = img, .error = error };
    bool ok;

    if (!img_has(img, 'b'))
        return img_usage(error, "Must specify backing file (-b) or use simple rebase mode (-u)");
    ok = rebase(&r, error);
    block_user_free(r.old);
    img_close(&r.base);
    if (ok)
        ok = img_finish(&r.top, error);
    img_close(&r.top);
    return !ok;
}

static const ImgOption rebase_options[] = {
    IMG_COMMON, IMG_SOURCE, IMG_SHARE, IMG_CACHE, IMG_SOURCE_CACHE, IMG_PROGRESS,
    { 'b', "backing", "FILE", "the new backing file; '': none" },
    { 'F', "backing-format", "FMT", "its format" },
    { 'u', "backing-unsafe", NULL,
      "change the name only: the new one has the same content, or the old one is gone" },
    { 0 }
};
const ImgCommand img_rebase = {
    .name = "rebase",
    .operands = "FILENAME",
    .help = "Give an image another backing file",
    .run = run_rebase,
    .options = rebase_options,
    .min = 1,
    .max = 1,
    .details =
        "Without -u the image shows the same content afterwards: where the old and the new backing "
        "file differ,\nthe old one's data is copied into the image.\n",
};

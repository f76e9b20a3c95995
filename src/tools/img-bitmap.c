/* bitmap: an image's persistent dirty bitmaps. */
#include <string.h>
#include "block/bitmap.h"
#include "src/base/util.h"
#include "src/tools/img.h"

typedef struct Action {
    Img *img;
    ImgImage image, source;                /* source: of -b; no node: the image itself */
    const char *name;
    uint64_t granularity;
    GError **error;
    int ret;
} Action;

static BlockBitmap *find(BlockNode *node, const char *name, GError **error)
{
    BlockBitmap *bitmap = block_bitmap_find(node, name);

    if (!bitmap) {
        fail(error, ERR_NOT_FOUND, "Dirty bitmap '%s' not found", name);
        error_object(error, "%s", name);
    }
    return bitmap;
}

static const BlockImageVerbs *bitmap_verbs(BlockNode *node, GError **error)
{
    const BlockDriver *driver = block_driver_find(block_node_driver(node));

    if (driver->image && driver->image->can_store_bitmap)
        return driver->image;
    fail(error, ERR_UNSUPPORTED, "Cannot store dirty bitmaps in %s", driver->name);
    return NULL;
}

static bool do_add(Action *a, const char *value, GError **error)
{
    const BlockImageVerbs *verbs = bitmap_verbs(a->image.node, error);
    uint32_t granularity = a->granularity ? a->granularity : BLOCK_BITMAP_GRANULARITY_DEFAULT;
    BlockBitmap *bitmap;

    if (!verbs || !verbs->can_store_bitmap(a->image.node, a->name, granularity, error))
        return false;
    bitmap = block_bitmap_new(a->image.node, a->name, granularity, error);
    if (bitmap)
        block_bitmap_set_flags(bitmap, BLOCK_BITMAP_PERSISTENT, 0);
    return bitmap != NULL;
}

static void co_fn remove_stored(void *opaque)
{
    Action *a = opaque;
    const BlockImageVerbs *verbs = bitmap_verbs(a->image.node, a->error);

    a->ret = verbs && verbs->co_remove_bitmap
                 ? verbs->co_remove_bitmap(a->image.node, a->name, a->error)
                 : 0;
}

static bool do_remove(Action *a, const char *value, GError **error)
{
    BlockBitmap *bitmap = find(a->image.node, a->name, error);

    if (!bitmap || !block_bitmap_check(bitmap, BLOCK_BITMAP_BUSY | BLOCK_BITMAP_READ_ONLY, error))
        return false;
    if (block_bitmap_flags(bitmap) & BLOCK_BITMAP_PERSISTENT)
        co_run_sync(remove_stored, a);
    if (a->ret < 0)
        return false;
    bitmap = block_bitmap_find(a->image.node, a->name);    /* the driver may have forgotten it */
    if (bitmap)
        block_bitmap_free(bitmap);
    return true;
}

static bool usable(BlockBitmap *bitmap, GError **error)
{
    return bitmap && block_bitmap_check(bitmap, BLOCK_BITMAP_BUSY | BLOCK_BITMAP_READ_ONLY |
                                        BLOCK_BITMAP_INCONSISTENT, error);
}

static bool do_clear(Action *a, const char *value, GError **error)
{
    BlockBitmap *bitmap = find(a->image.node, a->name, error);

    if (!usable(bitmap, error))
        return false;
    block_bitmap_clear(bitmap, 0, block_bitmap_size(bitmap));
    return true;
}

static bool do_enable(Action *a, const char *value, GError **error)
{
    BlockBitmap *bitmap = find(a->image.node, a->name, error);

    if (!usable(bitmap, error))
        return false;
    block_bitmap_set_flags(bitmap, BLOCK_BITMAP_RECORDING, 0);
    return true;
}

static bool do_disable(Action *a, const char *value, GError **error)
{
    BlockBitmap *bitmap = find(a->image.node, a->name, error);

    if (!usable(bitmap, error))
        return false;
    block_bitmap_set_flags(bitmap, 0, BLOCK_BITMAP_RECORDING);
    return true;
}

static bool do_merge(Action *a, const char *value, GError **error)
{
    BlockNode *from = a->source.node ? a->source.node : a->image.node;
    BlockBitmap *bitmap = find(a->image.node, a->name, error), *source;

    if (!usable(bitmap, error))
        return false;
    source = find(from, value, error);
    return source && block_bitmap_check(source, BLOCK_BITMAP_INCONSISTENT, error) &&
           block_bitmap_merge(bitmap, source, error);
}

static const struct {
    int key;
    const char *word;
    bool (*fn)(Action *a, const char *value, GError **error);
} actions[] = {
    { IMG_ADD, "add", do_add },          { IMG_REMOVE, "remove", do_remove },
    { IMG_CLEAR, "clear", do_clear },    { IMG_ENABLE, "enable", do_enable },
    { IMG_DISABLE, "disable", do_disable }, { IMG_MERGE, "merge", do_merge },
};

static bool act(Action *a, const ImgGiven *given, GError **error)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(actions); i++) {
        if (actions[i].key == given->key && !actions[i].fn(a, given->value, error))
            return error_prefix(error, "Operation %s on bitmap %s failed: ", actions[i].word,
                                a->name);
    }
    return true;
}

/* In the order of the command line. */
static bool act_all(Action *a, GError **error)
{
    for (unsigned i = 0; i < a->img->given->len; i++)
        if (!act(a, &g_array_index(a->img->given, ImgGiven, i), error))
            return false;
    return true;
}

static bool check_given(Action *a, GError **error)
{
    const Img *img = a->img;
    bool any = false;

    for (unsigned i = 0; i < G_N_ELEMENTS(actions); i++)
        any |= img_has(img, actions[i].key);
    if (!any)
        return fail(error, ERR_MISSING_PARAMETER, "Need at least one of --add, --remove, --clear, "
                                                  "--enable, --disable, or --merge");
    if (img_has(img, 'g') && !img_has(img, IMG_ADD))
        return fail(error, ERR_INVALID_PARAMETER, "granularity only supported with --add");
    if (img_has(img, 'b') && !img_has(img, IMG_MERGE))
        return fail(error, ERR_INVALID_PARAMETER, "Merge bitmap source file only supported with "
                                                  "--merge");
    if (img_has(img, 'F') && !img_has(img, 'b'))
        return fail(error, ERR_INVALID_PARAMETER, "-F only supported with -b");
    if (!img_size_value(img, 'g', "Granularity", &a->granularity, error))
        return false;
    if (a->granularity > BLOCK_BITMAP_GRANULARITY_MAX)
        return fail(error, ERR_INVALID_PARAMETER, "Granularity is too large");
    return true;
}

static bool open_images(Action *a, GError **error)
{
    Img *img = a->img;
    ImgOpen how = { .name = img_value(img, 'b'), .format = img_value(img, 'F'),
                    .flags = IMG_NO_BACKING };

    if (how.name && !img_open(img, &how, &a->source, error))
        return false;
    return img_open_given(img, img->operands[0], IMG_WRITE | IMG_RESIZE | IMG_NO_BACKING, &a->image,
                          error);
}

static int run_bitmap(Img *img, GError **error)
{
    Action a = { .img = img, .name = img->operands[1], .error = error };
    bool ok = check_given(&a, error) && open_images(&a, error) && act_all(&a, error) &&
              img_finish(&a.image, error);

    img_close(&a.image);
    img_close(&a.source);
    return !ok;
}

static const ImgOption bitmap_options[] = {
    IMG_COMMON, IMG_SOURCE,
    { IMG_ADD, "add", NULL, "make the bitmap" },
    { IMG_REMOVE, "remove", NULL, "remove it" },
    { IMG_CLEAR, "clear", NULL, "nothing is marked any more" },
    { IMG_ENABLE, "enable", NULL, "writes mark it from now on" },
    { IMG_DISABLE, "disable", NULL, "writes do not mark it any more" },
    { IMG_MERGE, "merge", "SOURCE", "what another bitmap has marked is marked, too" },
    { 'g', "granularity", "SIZE", "of --add: the bytes that a bit stands for (64k)" },
    { 'b', "source-file", "FILE", "of --merge: the image that has SOURCE" },
    { 'F', "source-format", "FMT", "its format" },
    { 0 }
};
const ImgCommand img_bitmap = {
    .name = "bitmap", .operands = "FILENAME BITMAP", .help = "Change an image's dirty bitmaps",
    .run = run_bitmap, .options = bitmap_options, .min = 2, .max = 2,
    .details = "Several actions are done in their order on the command line.\n",
};

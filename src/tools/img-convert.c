/* convert and dd: the content of images in a new one. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "block/bitmap.h"
#include "src/base/util.h"
#include "src/tools/img-copy.h"

enum { ZERO_BYTES_MAX = 16 << 20 };        /* of -S */

typedef struct Convert {
    Img *img;
    ImgCopy copy;
    const BlockDriver *format;             /* of the target; NULL: it exists and says itself */
    json_object *words;                    /* -o */
    bool exists;                           /* -n */
    uint64_t total;
    GError **error;
    bool ok;
} Convert;

/* ---- sources ---- */

static bool add_source(Convert *v, const char *name, GError **error)
{
    ImgCopySource *source = &v->copy.sources[v->copy.n_sources];
    const char *snapshot = img_value(v->img, 'l');

    if (!img_open_given(v->img, name, 0, &source->image, error))
        return false;
    v->copy.n_sources++;
    if (snapshot && !img_load_snapshot(&source->image, snapshot, error))
        return false;
    source->bytes = block_node_size(source->image.node);
    v->total += source->bytes;
    return true;
}

static bool can_have_bitmaps(BlockNode *node)
{
    const BlockDriver *driver = block_driver_find(block_node_driver(node));

    return driver->image && driver->image->can_store_bitmap;
}

static bool open_sources(Convert *v, GError **error)
{
    Img *img = v->img;

    if (img_has(img, 'l') && img->n_operands > 2)
        return fail(error, ERR_INVALID_PARAMETER,
                    "No support for concatenating multiple snapshot");
    v->copy.sources = g_new0(ImgCopySource, img->n_operands);
    if (img_has(img, IMG_BITMAPS) && img->n_operands > 2)
        return fail(error, ERR_INVALID_PARAMETER,
                    "Copying bitmaps only possible with single source");
    for (unsigned i = 0; i + 1 < img->n_operands; i++)
        if (!add_source(v, img->operands[i], error))
            return false;
    if (img_has(img, IMG_BITMAPS) && !can_have_bitmaps(v->copy.sources[0].image.node))
        return fail(error, ERR_UNSUPPORTED, "Source lacks bitmap support");
    return true;
}

/* ---- the target ---- */

static void put_str(json_object *options, const char *key, const char *value)
{
    if (value)
        json_object_object_add(options, key, json_object_new_string(value));
}

static bool check_format(const Convert *v, GError **error)
{
    const BlockDriver *driver = v->format;

    if (v->copy.compressed && !(driver->write_flags & BLOCK_COMPRESSED))
        return fail(error, ERR_UNSUPPORTED, "Compression not supported for this file format");
    return true;
}

static bool create_target(Convert *v, const char *name, GError **error)
{
    const char *backing = NULL, *backing_format = NULL;

    put_str(v->words, "backing_file", img_value(v->img, 'B'));
    put_str(v->words, "backing_fmt", img_value(v->img, 'F'));
    if (!options_get_str(v->words, "backing_file", &backing, error) ||
        !options_get_str(v->words, "backing_fmt", &backing_format, error))
        return false;
    if (backing && !backing_format)
        return fail(error, ERR_MISSING_PARAMETER, "backing format must be specified");
    if (backing && v->copy.n_sources > 1)
        return fail(error, ERR_INVALID_PARAMETER,
                    "Having a backing file for the target makes no sense when concatenating "
                    "multiple input images");
    v->copy.target_has_backing = backing != NULL;
    v->copy.base = backing ? block_node_backing(v->copy.sources[0].image.node) : NULL;
    if (!json_object_object_get_ex(v->words, "size", NULL))
        json_object_object_add(v->words, "size", json_object_new_uint64(v->total));
    return block_image_create(v->img->graph, v->format->name, name, v->words, error) ||
           error_prefix(error, "%s: error while converting %s: ", name, v->format->name);
}

/* A new encrypted image is opened with the secret that it was made with. */
static json_object *secrets_of(json_object *words)
{
    json_object *encrypt, *secret, *options, *inner;

    if (json_object_object_get_ex(words, "key-secret", &secret)) { /* luks itself */
        options = json_object_new_object();
        json_object_object_add(options, "key-secret", json_object_get(secret));
        return options;
    }
    if (!json_object_object_get_ex(words, "encrypt", &encrypt) ||
        !json_object_object_get_ex(encrypt, "key-secret", &secret))
        return NULL;
    options = json_object_new_object();
    inner = json_object_new_object();
    json_object_object_add(inner, "key-secret", json_object_get(secret));
    json_object_object_get_ex(encrypt, "format", &encrypt);
    put_str(inner, "format", encrypt ? json_object_get_string(encrypt) : NULL);
    json_object_object_add(options, "encrypt", inner);
    return options;
}

static bool open_target(Convert *v, const char *name, GError **error)
{
    g_autoptr(json_object) more = secrets_of(v->words);
    ImgOpen how = { .name = name, .format = v->format ? v->format->name : NULL, .more = more,
                    .cache = img_value(v->img, 't') ?: "unsafe", .flags = IMG_WRITE | IMG_RESIZE };

    if (img_has(v->img, IMG_TARGET_IMAGE_OPTS)) {
        how.flags |= IMG_IS_OPTIONS;
        how.format = NULL;
    }
    if (!img_open(v->img, &how, &v->copy.target, error))
        return false;
    v->format = block_driver_find(block_node_driver(v->copy.target.node));
    if (!check_format(v, error))
        return false;
    if ((uint64_t)block_node_size(v->copy.target.node) < v->total)
        return fail(error, ERR_NO_SPACE, "output file is smaller than input file");
    return true;
}

/* A file that was just made has nothing in it; what was there already may say so, or be cleared. */
static void co_fn find_zeroes(void *opaque)
{
    Convert *v = opaque;
    ImgImage *target = &v->copy.target;
    uint64_t size = block_node_size(target->node);
    BlockMap map;

    if (!size || (block_co_map_above(target->node, NULL, 0, size, &map, NULL) == 0 &&
                  map.flags & BLOCK_MAP_ZERO && map.bytes == size))
        v->copy.target_is_zero = true;
    else if (v->exists && block_co_zero(target->user, 0, size,
                                        BLOCK_MAY_UNMAP | BLOCK_NO_FALLBACK) == 0)
        v->copy.target_is_zero = true;
}

static bool target_protocol_makes_files(BlockNode *node)
{
    while (block_node_child(node, "file"))
        node = block_node_child(node, "file");
    return !strcmp(block_node_driver(node), "file");
}

/* What was never written reads as zeroes; but where it is encrypted and has its place, it is noise. */
static bool new_image_is_zero(const Convert *v)
{
    return target_protocol_makes_files(v->copy.target.node) &&
           !json_object_object_get_ex(v->words, "encrypt", NULL) &&
           !json_object_object_get_ex(v->words, "key-secret", NULL);
}

static void prepare_zeroes(Convert *v)
{
    ImgCopy *c = &v->copy;

    if (c->target_has_backing)
        return;
    if (img_has(v->img, IMG_TARGET_IS_ZERO) ||
        (!v->exists && new_image_is_zero(v)))
        c->target_is_zero = true;
    else
        co_run_sync(find_zeroes, v);
}

/* ---- bitmaps ---- */

static bool copy_bitmap(Convert *v, BlockBitmap *from, GError **error)
{
    BlockNode *to = v->copy.target.node;
    const char *name = block_bitmap_name(from);
    uint32_t granularity = block_bitmap_granularity(from);
    const BlockImageVerbs *verbs = v->format->image;
    unsigned recording = block_bitmap_flags(from) & BLOCK_BITMAP_RECORDING;
    BlockBitmap *bitmap;

    if (!verbs || !verbs->can_store_bitmap)
        return fail(error, ERR_UNSUPPORTED, "Format driver '%s' does not support bitmaps",
                    v->format->name);
    if (!verbs->can_store_bitmap(to, name, granularity, error))
        return error_prefix(error, "Failed to create bitmap %s: ", name);
    bitmap = block_bitmap_new(to, name, granularity, error);
    if (!bitmap || !block_bitmap_merge(bitmap, from, error))
        return error_prefix(error, "Failed to populate bitmap %s: ", name);
    block_bitmap_set_flags(bitmap, BLOCK_BITMAP_PERSISTENT | recording,
                           recording ? 0 : BLOCK_BITMAP_RECORDING);
    return true;
}

static bool copy_bitmaps(Convert *v, GError **error)
{
    BlockNode *source = v->copy.sources[0].image.node;

    for (BlockBitmap *b = block_bitmap_next(source, NULL); b; b = block_bitmap_next(source, b)) {
        unsigned flags = block_bitmap_flags(b);

        if (!(flags & BLOCK_BITMAP_PERSISTENT) || !block_bitmap_name(b))
            continue;
        if (flags & BLOCK_BITMAP_INCONSISTENT) {
            if (!img_has(v->img, IMG_SKIP_BROKEN_BITMAPS)) {
                fail(error, ERR_CORRUPT, "Cannot copy inconsistent bitmap '%s'",
                     block_bitmap_name(b));
                return error_hint(error, "Try --skip-broken-bitmaps, or use 'vireo-img bitmap "
                                         "--remove'");
            }
            warn_report("Skipping inconsistent bitmap '%s'", block_bitmap_name(b));
        } else if (!copy_bitmap(v, b, error)) {
            return false;
        }
    }
    return true;
}

/* ---- the command ---- */

static bool parse_numbers(Convert *v, GError **error)
{
    Img *img = v->img;
    uint64_t workers = 0;

    v->copy.zero_bytes = 4096;
    if (!img_size_value(img, 'S', "Sparse size", &v->copy.zero_bytes, error) ||
        !img_size_value(img, 'r', "Rate limit", &v->copy.rate, error) ||
        !img_size_value(img, 'm', "Number of coroutines", &workers, error))
        return false;
    if (v->copy.zero_bytes % 512 || v->copy.zero_bytes > ZERO_BYTES_MAX)
        return fail(error, ERR_INVALID_PARAMETER,
                    "Invalid buffer size for sparse output specified. "
                    "Valid sizes are multiples of 512 up to 16777216. Select 0 to disable sparse "
                    "detection (fully allocates output).");
    if (img_has(img, 'm') && (workers < 1 || workers > 64))
        return fail(
            error, ERR_INVALID_PARAMETER,
            "Invalid number of coroutines. Allowed number of coroutines is between 1 and 64");
    v->copy.workers = workers;
    return true;
}

static bool check_compression(const Convert *v, GError **error)
{
    const char *preallocation = NULL;

    if (!v->copy.compressed)
        return true;
    if (!options_get_str(v->words, "preallocation", &preallocation, error))
        return false;
    if (json_object_object_get_ex(v->words, "encrypt", NULL))
        return fail(error, ERR_INVALID_PARAMETER,
                    "Compression and encryption not supported at the same time");
    if (preallocation && strcmp(preallocation, "off"))
        return fail(error, ERR_INVALID_PARAMETER,
                    "Compression and preallocation not supported at the same time");
    return true;
}

static bool check_combinations(const Convert *v, GError **error)
{
    const Img *img = v->img;
    static const char text[] = "%s cannot be used with %s";
    const struct {
        int one, other;
        const char *first, *second;
    } wrong[] = {
        { 'c', 'C', "Compression", "copy offloading (-C)" },
        { 'S', 'C', "-S", "copy offloading (-C)" },
        { IMG_SALVAGE, 'C', "--salvage", "copy offloading (-C)" },
        { 'n', 'B', "-B", "-n" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(wrong); i++)
        if (img_has(img, wrong[i].one) && img_has(img, wrong[i].other))
            return fail(error, ERR_INVALID_PARAMETER, text, wrong[i].first, wrong[i].second);
    if (img_has(img, IMG_TARGET_IS_ZERO) && !v->exists)
        return fail(error, ERR_INVALID_PARAMETER, "--target-is-zero requires use of -n flag");
    if (img_has(img, IMG_TARGET_IMAGE_OPTS) && !v->exists)
        return fail(error, ERR_INVALID_PARAMETER, "--target-image-opts requires use of -n flag");
    if (img_has(img, IMG_TARGET_IMAGE_OPTS) && img_has(img, 'O'))
        return fail(error, ERR_INVALID_PARAMETER,
                    "--target-image-opts and -O are mutually exclusive");
    if (img_has(img, IMG_SKIP_BROKEN_BITMAPS) && !img_has(img, IMG_BITMAPS))
        return fail(error, ERR_INVALID_PARAMETER,
                    "Use of --skip-broken-bitmaps requires --bitmaps");
    if (v->exists && img_has(img, 'o'))
        return fail(error, ERR_INVALID_PARAMETER,
                    "-o has no effect when skipping image creation");
    return check_compression(v, error);
}

static bool choose_format(Convert *v, GError **error)
{
    const char *name = img_value(v->img, 'O');

    if (img_has(v->img, IMG_TARGET_IMAGE_OPTS))
        return true;                       /* they tell */
    v->format = block_driver_get(name ?: "raw", error);
    return v->format && check_format(v, error);
}

static bool convert(Convert *v, GError **error)
{
    const char *name = v->img->operands[v->img->n_operands - 1];

    if (!parse_numbers(v, error) || !check_combinations(v, error) || !choose_format(v, error) ||
        !open_sources(v, error) || (!v->exists && !create_target(v, name, error)) ||
        !open_target(v, name, error))
        return false;
    prepare_zeroes(v);
    if (!img_copy(v->img, &v->copy, error))
        return false;
    if (img_has(v->img, IMG_BITMAPS) && !copy_bitmaps(v, error))
        return false;
    return img_finish(&v->copy.target, error);
}

static void close_all(Convert *v)
{
    img_close(&v->copy.target);
    for (unsigned i = 0; i < v->copy.n_sources; i++)
        img_close(&v->copy.sources[i].image);
    g_free(v->copy.sources);
    json_object_put(v->words);
}

static int help_with_options(const Img *img, GError **error)
{
    const char *format = img_value(img, 'O') ?: "raw";

    if (!block_driver_get(format, error))
        return 1;
    img_print_create_options(format, img->n_operands ? img->operands[img->n_operands - 1] : NULL);
    return 0;
}

static int run_convert(Img *img, GError **error)
{
    Convert v = { .img = img, .exists = img_has(img, 'n'),
                  .copy = { .compressed = img_has(img, 'c'), .out_of_order = img_has(img, 'W'),
                            .offload = img_has(img, 'C'), .salvage = img_has(img, IMG_SALVAGE) } };
    bool help, ok;

    v.words = img_create_words(img, &help, error);
    if (help)
        return help_with_options(img, error);
    if (!v.words)
        return 1;
    if (img->n_operands < 2)
        return img_usage(error, "Must specify image file name");
    ok = convert(&v, error);
    close_all(&v);
    return !ok;
}

static const ImgOption convert_options[] = {
    IMG_COMMON,
    IMG_SOURCE,
    IMG_SHARE,
    IMG_CACHE,
    IMG_SOURCE_CACHE,
    IMG_PROGRESS,
    { 'O', "target-format", "FMT", "the new image's format; raw without it" },
    { 'o', "options", "OPTIONS", "its options, as for create; -o help lists them" },
    { 'B', "backing", "FILE", "its backing file: what that has is not copied" },
    { 'F', "backing-format", "FMT", "the backing file's format" },
    { 'l', "snapshot", "SNAPSHOT", "copy this internal snapshot" },
    { 'c', "compress", NULL, "compress" },
    { 'n', "no-create", NULL, "write into an image that is there" },
    { IMG_TARGET_IMAGE_OPTS, "target-image-opts", NULL,
      "the target is a list of block options; needs -n" },
    { IMG_TARGET_IS_ZERO, "target-is-zero", NULL,
      "the image that is there reads as zeroes; needs -n" },
    { 'S', "sparse-size", "SIZE", "shorter runs of zeroes are written (4k); 0: all are" },
    { 'm', "parallel", "N", "chunks under way at once (1 to 64)" },
    { 'W', "out-of-order", NULL, "do not write in the order of the disk" },
    { 'C', "copy-range-offloading", NULL,
      "let the host copy between files, or share their blocks" },
    { 'r', "rate-limit", "RATE", "bytes a second at most" },
    { IMG_BITMAPS, "bitmaps", NULL, "copy persistent bitmaps, too" },
    { IMG_SKIP_BROKEN_BITMAPS, "skip-broken-bitmaps", NULL, "leave out inconsistent ones" },
    { IMG_SALVAGE, "salvage", NULL,
      "go on where the source cannot be read: zeroes are there then" },
    { 0 }
};
const ImgCommand img_convert = {
    .name = "convert", .operands = "FILENAME... TARGET",
    .help = "Copy images, one after the other, into a new one",
    .run = run_convert, .options = convert_options, .min = 0, .max = UINT_MAX,
};

/* ---- dd ---- */

typedef struct Dd {
    const char *input, *output;
    uint64_t bs, count, skip;
    bool has_count;
} Dd;

static bool parse_dd(const Img *img, Dd *d, GError **error)
{
    *d = (Dd){ .bs = 512 };
    for (unsigned i = 0; i < img->n_operands; i++) {
        const char *word = img->operands[i], *value = strchr(word, '=');
        g_autofree char *key = value ? g_strndup(word, value++ - word) : NULL;

        if (!key)
            return fail(error, ERR_INVALID_PARAMETER, "unrecognized operand %s", word);
        if (!strcmp(key, "if")) {
            d->input = value;
        } else if (!strcmp(key, "of")) {
            d->output = value;
        } else if (!strcmp(key, "bs") || !strcmp(key, "count") || !strcmp(key, "skip")) {
            uint64_t *number = *key == 'b' ? &d->bs : *key == 'c' ? &d->count : &d->skip;

            if (!img_parse_size(value, key, number, error))
                return false;
            d->has_count |= *key == 'c';
        } else {
            return fail(error, ERR_INVALID_PARAMETER, "unrecognized operand %s", word);
        }
    }
    if (!d->input || !d->output)
        return fail(error, ERR_MISSING_PARAMETER, "Must specify both input and output files");
    if (!d->bs || d->bs > INT_MAX)
        return fail(error, ERR_INVALID_PARAMETER, "Invalid number: 'bs'");
    return true;
}

/* The window of the input: skip blocks, then count. */
static bool choose_window(const Dd *d, Convert *v, GError **error)
{
    ImgCopySource *source = v->copy.sources;
    uint64_t size = source->bytes;

    if (d->skip > INT64_MAX / d->bs || d->skip * d->bs > size)
        return fail(error, ERR_INVALID_PARAMETER, "%s: cannot skip to specified offset", d->input);
    source->start = d->skip * d->bs;
    source->bytes = size - source->start;
    if (d->has_count && d->count <= source->bytes / d->bs)
        source->bytes = d->count * d->bs;
    v->total = source->bytes;
    return true;
}

static int run_dd(Img *img, GError **error)
{
    Convert v = { .img = img, .copy.zero_bytes = 4096 };
    bool ok;
    Dd d;

    v.words = json_object_new_object();
    v.copy.sources = g_new0(ImgCopySource, 1);
    ok = parse_dd(img, &d, error) && choose_format(&v, error) && add_source(&v, d.input, error) &&
         choose_window(&d, &v, error) && create_target(&v, d.output, error) &&
         open_target(&v, d.output, error);
    if (ok) {
        prepare_zeroes(&v);
        ok = img_copy(img, &v.copy, error) && img_finish(&v.copy.target, error);
    }
    close_all(&v);
    return !ok;
}

static const ImgOption dd_options[] = {
    IMG_COMMON, IMG_SOURCE, IMG_SHARE,
    { 'O', "target-format", "FMT", "the output's format; raw without it" },
    { 0 }
};
const ImgCommand img_dd = {
    .name = "dd", .operands = "[bs=SIZE] [count=BLOCKS] [skip=BLOCKS] if=FILE of=FILE",
    .help = "Copy a part of an image into a new one",
    .run = run_dd, .options = dd_options, .min = 0, .max = UINT_MAX,
};

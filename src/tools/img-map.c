/* map and measure: what is where in an image, and how much space it takes. */
#include <inttypes.h>
#include "src/base/util.h"
#include "src/tools/img.h"

/* map */

typedef struct MapEntry {
    uint64_t start, length, offset;
    unsigned flags, depth;
    const char *filename;                  /* the node's that holds the data */
} MapEntry;

typedef struct Map {
    Img *img;
    ImgImage image;
    uint64_t start, end;
    unsigned printed;
    GError **error;
    bool ok;
} Map;

static bool print_human(Map *m, const MapEntry *e, GError **error)
{
    if (!(e->flags & BLOCK_MAP_DATA) || e->flags & BLOCK_MAP_ZERO)
        return true;
    if (!(e->flags & BLOCK_MAP_OFFSET_VALID))
        return fail(error, ERR_UNSUPPORTED,
                    "File contains external, encrypted or compressed clusters.");
    printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", e->start, e->length, e->offset,
           e->filename ?: "");
    return true;
}

static void print_json_entry(Map *m, const MapEntry *e)
{
    static const char *const words[] = { "false", "true" };

    printf("%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64 ", \"depth\": %u, \"present\": %s, "
           "\"zero\": %s, \"data\": %s", m->printed++ ? ",\n" : "", e->start, e->length, e->depth,
           words[!!(e->flags & BLOCK_MAP_ALLOCATED)], words[!!(e->flags & BLOCK_MAP_ZERO)],
           words[!!(e->flags & BLOCK_MAP_DATA)]);
    if (e->flags & BLOCK_MAP_OFFSET_VALID)
        printf(", \"offset\": %" PRIu64, e->offset);
    printf("}");
}

static bool print_entry(Map *m, const MapEntry *e)
{
    if (!m->img->json)
        return print_human(m, e, m->error);
    print_json_entry(m, e);
    return true;
}

/* How far down the images are that say something of @at: past the end of a backing file it is the
 * image above it that shows zeroes, without having them. */
static void correct_depth(const Map *m, uint64_t at, MapEntry *e)
{
    BlockNode *node = block_node_skip_filters(m->image.node);

    for (unsigned i = 0; node && i < e->depth; i++) {
        node = block_node_backing(node);
        if (node && at >= (uint64_t)block_node_size(node)) {
            e->depth = i;
            e->flags &= ~BLOCK_MAP_ALLOCATED;
        }
    }
}

static int co_fn look(Map *m, uint64_t at, MapEntry *e)
{
    BlockMap map;
    unsigned depth = 0;
    int ret = block_co_map_above(m->image.node, NULL, at, m->end - at, &map, &depth);

    if (ret < 0)
        return ret;
    *e = (MapEntry){ .start = at,
                     .length = map.bytes,
                     .flags = map.flags,
                     .offset = map.host_offset,
                     .depth = depth };
    correct_depth(m, at, e);
    if (map.flags & BLOCK_MAP_OFFSET_VALID && map.host_node)
        e->filename = block_node_filename(map.host_node);
    return 0;
}

static bool joins(const MapEntry *a, const MapEntry *b)
{
    return a->flags == b->flags && a->depth == b->depth && a->filename == b->filename &&
           (!(a->flags & BLOCK_MAP_OFFSET_VALID) || a->offset + a->length == b->offset);
}

static void co_fn map_run(void *opaque)
{
    Map *m = opaque;
    MapEntry now = { 0 }, next;

    for (uint64_t at = m->start; at < m->end; at += next.length) {
        int ret = look(m, at, &next);

        if (ret < 0) {
            fail_errno(m->error, -ret, "Failed to read image metadata");
            return;
        }
        if (now.length && joins(&now, &next)) {
            now.length += next.length;
            continue;
        }
        if (now.length && !print_entry(m, &now))
            return;
        now = next;
    }
    m->ok = !now.length || print_entry(m, &now);
}

static int run_map(Img *img, GError **error)
{
    Map m = { .img = img, .error = error };
    uint64_t most = UINT64_MAX, size;

    if (!img_size_value(img, 's', "Start offset", &m.start, error) ||
        !img_size_value(img, 'l', "Maximum length", &most, error) ||
        !img_open_given(img, img->operands[0], 0, &m.image, error))
        return 1;
    size = block_node_size(m.image.node);
    m.end = m.start > size ? m.start : m.start + MIN(most, size - m.start);
    printf(img->json ? "[" : "%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    co_run_sync(map_run, &m);
    if (img->json && m.ok)
        printf("]\n");
    img_close(&m.image);
    return !m.ok;
}

static const ImgOption map_options[] = {
    IMG_COMMON, IMG_SOURCE, IMG_SHARE, IMG_JSON,
    { 's', "start-offset", "OFFSET", "begin there" },
    { 'l', "max-length", "LENGTH", "tell of so many bytes at most" },
    { 0 }
};
const ImgCommand img_map = {
    .name = "map",
    .operands = "FILENAME",
    .help = "Tell which parts of an image hold data, and where",
    .run = run_map,
    .options = map_options,
    .min = 1,
    .max = 1,
};

/* measure */

typedef struct Measure {
    const char *format;
    json_object *options;
    BlockNode *source;
    BlockMeasure result;
    GError **error;
    int ret;
} Measure;

static void co_fn measure_run(void *opaque)
{
    Measure *m = opaque;

    m->ret = block_co_measure(m->format, m->options, m->source, &m->result, m->error);
}

static void print_measure(const Img *img, const BlockMeasure *m)
{
    g_autoptr(json_object) obj = NULL;

    if (!img->json) {
        printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n", m->required,
               m->fully_allocated);
        if (m->has_bitmaps)
            printf("bitmaps size: %" PRIu64 "\n", m->bitmaps);
        return;
    }
    obj = json_object_new_object();
    if (m->has_bitmaps)
        json_object_object_add(obj, "bitmaps", json_object_new_uint64(m->bitmaps));
    json_object_object_add(obj, "required", json_object_new_uint64(m->required));
    json_object_object_add(obj, "fully-allocated", json_object_new_uint64(m->fully_allocated));
    img_print_json(obj);
}

static bool measure_source(Img *img, ImgImage *source, GError **error)
{
    if (!img->n_operands)
        return true;
    return img_open_given(img, img->operands[0], 0, source, error) &&
           (!img_has(img, 'l') || img_load_snapshot(source, img_value(img, 'l'), error));
}

static bool measure_it(Img *img, json_object *words, GError **error)
{
    Measure m = { .format = img_value(img, 'O') ?: "raw", .error = error };
    ImgImage source = { 0 };
    bool ok = false;

    if (measure_source(img, &source, error)) {
        m.source = source.node;
        m.options = block_create_options_parse(m.format, words, error);
    }
    if (m.options) {
        co_run_sync(measure_run, &m);
        ok = m.ret == 0;
    }
    if (ok)
        print_measure(img, &m.result);
    json_object_put(m.options);
    img_close(&source);
    return ok;
}

static int run_measure(Img *img, GError **error)
{
    g_autoptr(json_object) words = NULL;
    uint64_t size;
    bool help;

    if (!img_has(img, IMG_SIZE) == !img->n_operands)
        return img_usage(error, "Either --size N or one filename must be specified.");
    words = img_create_words(img, &help, error);
    if (help)
        img_print_create_options(img_value(img, 'O') ?: "raw", "");
    if (!words)
        return !help;
    if (img_has(img, IMG_SIZE)) {
        if (!img_size_value(img, IMG_SIZE, "Image size", &size, error))
            return 1;
        json_object_object_add(words, "size", json_object_new_uint64(ALIGN_UP(size, 512)));
    }
    return !measure_it(img, words, error);
}

static const ImgOption measure_options[] = {
    IMG_COMMON, IMG_SOURCE, IMG_SHARE, IMG_JSON,
    { 'O', "target-format", "FMT", "the format of the image to be; raw without it" },
    { 'o', "options", "OPTIONS", "its options, as for create" },
    { 'l', "snapshot", "SNAPSHOT", "measure this internal snapshot of the image" },
    { IMG_SIZE, "size", "SIZE", "of an empty disk, without an image" },
    { 0 }
};
const ImgCommand img_measure = {
    .name = "measure", .operands = "[FILENAME]",
    .help = "Tell how much space a new image with the same content would need",
    .run = run_measure, .options = measure_options, .min = 0, .max = 1,
};

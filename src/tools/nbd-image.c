/* What vireo-nbd serves: the image, as the options have it. */
#include <string.h>
#include "block/chain.h"
#include "block/image.h"
#include "src/base/options.h"
#include "src/tools/nbd.h"

static void put_text(json_object *options, const char *key, const char *text)
{
    if (text)
        json_object_object_add(options, key, json_object_new_string(text));
}

static bool put_cache(const NbdOptions *o, json_object *options, GError **error)
{
    static const char *const modes[] = { "none", "writeback", "writethrough", "directsync",
                                         "unsafe", NULL };
    const char *mode = o->cache ? o->cache : "writeback";
    json_object *cache;

    if (!g_strv_contains(modes, mode))
        return fail(error, ERR_INVALID_PARAMETER, "Invalid cache mode '%s'", mode);
    cache = json_object_new_object();
    json_add_bool(cache, "direct", !strcmp(mode, "none") || !strcmp(mode, "directsync"));
    json_add_bool(cache, "no-flush", !strcmp(mode, "unsafe"));
    json_object_object_add(options, "cache", cache);
    return true;
}

bool nbd_image_writethrough(const NbdOptions *o)
{
    return o->cache && (!strcmp(o->cache, "writethrough") || !strcmp(o->cache, "directsync"));
}

static BlockNode *open_by_options(const NbdOptions *o, BlockGraph *graph, json_object *common,
                                  GError **error)
{
    g_autoptr(json_object) options = options_parse(o->file, "driver", error);

    if (!options)
        return NULL;
    return block_image_open_as(graph, options, NULL, common, error);
}

static BlockNode *co_fn open_by_name(const NbdOptions *o, BlockGraph *graph, json_object *common,
                                     GError **error)
{
    g_autoptr(json_object) protocol = block_filename_options(o->file, NULL, error);

    if (!protocol)
        return NULL;
    if (o->aio && !g_strcmp0(json_get_str(block_options_protocol(protocol), "driver"), "nbd"))
        return fail(error, ERR_INVALID_PARAMETER, "--aio is for files"), NULL;
    put_text(block_options_protocol(protocol), "aio", o->aio);
    return block_image_open_on(graph, protocol, o->format, common, error);
}

/* ---- --load-snapshot ---- */

/* "snapshot.id=ID,snapshot.name=NAME", either or both: the id of the one that is meant; g_free. */
static char *find_snapshot(BlockNode *node, const char *param, GError **error)
{
    g_autoptr(json_object) options = options_parse(param, NULL, error);
    g_autoptr(json_object) members = options ? options_take(options, "snapshot") : NULL;
    g_autoptr(json_object) id_value = members ? options_take(members, "id") : NULL;
    g_autoptr(json_object) name_value = members ? options_take(members, "name") : NULL;
    g_autoptr(GPtrArray) all = NULL;
    const BlockSnapshot *found;
    const char *id = NULL, *name = NULL;

    if (!options || !options_check_empty(options, "--load-snapshot", NULL, error) ||
        (members && !options_check_empty(members, "--load-snapshot", NULL, error)) ||
        (id_value && !value_to_str(id_value, "snapshot.id", &id, error)) ||
        (name_value && !value_to_str(name_value, "snapshot.name", &name, error)))
        return NULL;
    all = block_snapshots(node);
    found = id || name ? block_snapshot_find(all, id, name) : NULL;
    if (found)
        return g_strdup(found->id);
    fail(error, ERR_NOT_FOUND, "there is no snapshot with %s", param);
    return NULL;
}

static bool co_fn show_snapshot(BlockNode *node, const char *param, GError **error)
{
    g_autofree char *id = g_str_has_prefix(param, "snapshot.") ? find_snapshot(node, param, error)
                                                               : g_strdup(param);

    return id && block_co_snapshot_load(node, id, error) >= 0;
}

/* ---- opening ---- */

/* A window into it, from the offset to the end. */
static bool open_window(NbdImage *image, const NbdOptions *o, BlockGraph *graph, GError **error)
{
    g_autoptr(json_object) window = json_object_new_object();
    uint64_t size = block_node_size(image->top);

    if (o->offset >= size)
        return fail(error, ERR_INVALID_PARAMETER, "Offset (%" PRIu64 ") has to be smaller than the "
                    "image size (%" PRIu64 ")", o->offset, size);
    put_text(window, "driver", "raw");
    put_text(window, "node-name", "window");
    put_text(window, "file", image->name);
    json_add_bool(window, "read-only", o->read_only);
    put_text(window, "discard", "unmap");
    json_object_object_add(window, "offset", json_object_new_int64(o->offset));
    g_free(image->name);
    image->name = g_strdup("window");
    return block_node_open(graph, window, error) != NULL;
}

static bool co_fn open_image(NbdImage *image, const NbdOptions *o, BlockGraph *graph, GError **error)
{
    g_autoptr(json_object) common = json_object_new_object();

    put_text(common, "node-name", "image");
    json_add_bool(common, "read-only", o->read_only || o->temporary);
    put_text(common, "discard", o->discard ? o->discard : "unmap");
    put_text(common, "detect-zeroes", o->detect_zeroes);
    if (!put_cache(o, common, error))
        return false;
    image->top = o->image_opts ? open_by_options(o, graph, common, error)
                               : open_by_name(o, graph, common, error);
    if (!image->top)
        return error_prefix(error, "Failed to open '%s': ", o->file);
    if (o->snapshot && !show_snapshot(image->top, o->snapshot, error))
        return error_prefix(error, "Failed to load snapshot: ");
    if (o->temporary && !o->read_only) {
        image->top = block_image_add_temporary(graph, image->top, "overlay", error);
        if (!image->top)
            return false;
    }
    image->name = g_strdup(block_node_name(image->top));
    return !o->offset || open_window(image, o, graph, error);
}

typedef struct Opening {
    NbdImage *image;
    const NbdOptions *options;
    BlockGraph *graph;
    GError **error;
    bool ok;
} Opening;

static void co_fn open_run(void *opaque)
{
    Opening *o = opaque;

    o->ok = open_image(o->image, o->options, o->graph, o->error);
}

bool nbd_image_open(NbdImage *image, const NbdOptions *o, BlockGraph *graph, GError **error)
{
    Opening opening = { image, o, graph, error, false };

    co_run_sync(open_run, &opening);
    return opening.ok;
}

void nbd_image_close(NbdImage *image)
{
    block_node_put(image->top);
    g_free(image->name);
    *image = (NbdImage){ 0 };
}

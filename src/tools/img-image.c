/* How the commands open images. */
#include <errno.h>
#include <string.h>
#include "src/tools/img.h"

static const char *const cache_words[] = { "none", "off", "writeback", "writethrough", "directsync",
                                           "unsafe", NULL };
enum { CACHE_NONE, CACHE_OFF, CACHE_WRITEBACK, CACHE_WRITETHROUGH, CACHE_DIRECTSYNC, CACHE_UNSAFE };

static bool parse_cache(const ImgOpen *how, int *mode, GError **error)
{
    *mode = CACHE_WRITEBACK;
    for (unsigned i = 0; how->cache && cache_words[i]; i++) {
        if (!strcmp(cache_words[i], how->cache)) {
            *mode = i;
            return true;
        }
    }
    if (!how->cache)
        return true;
    return fail(error, ERR_INVALID_PARAMETER, "Invalid %scache option: %s",
                how->flags & IMG_WRITE ? "" : "source ", how->cache);
}

/* What every node takes, unless the user's own options say it. */
static void put_common(json_object *options, const ImgOpen *how, int mode)
{
    bool read_only = !(how->flags & IMG_WRITE);
    json_object *cache;

    if (!json_object_object_get_ex(options, "cache", NULL)) {
        cache = json_object_new_object();
        json_add_bool(cache, "direct",
                      mode == CACHE_NONE || mode == CACHE_OFF || mode == CACHE_DIRECTSYNC);
        json_add_bool(cache, "no-flush", mode == CACHE_UNSAFE);
        json_object_object_add(options, "cache", cache);
    }
    if (!json_object_object_get_ex(options, "read-only", NULL))
        json_add_bool(options, "read-only", read_only);
    if (how->flags & IMG_FORCE_SHARE)
        json_add_bool(options, "force-share", true);
    if (!json_object_object_get_ex(options, "discard", NULL))
        json_object_object_add(options, "discard", json_object_new_string("unmap"));
    if (how->flags & IMG_REPAIR)
        json_add_bool(options, "x-check", true);
    if (how->flags & IMG_HEADER_ONLY)
        json_add_bool(options, "x-header-only", true);
    if (how->flags & IMG_NO_BACKING && !json_object_object_get_ex(options, "backing", NULL))
        json_object_object_add(options, "backing", NULL);
}

typedef struct Opening {
    Img *img;
    const ImgOpen *how;
    json_object *common;                   /* what the format's node takes beside what was said */
    GError **error;
    BlockNode *node;
} Opening;

static void put_aio(json_object *options, const char *aio)
{
    json_object *protocol = block_options_protocol(options);
    const char *driver = json_get_str(protocol, "driver");

    if (aio && (!g_strcmp0(driver, "file") || !g_strcmp0(driver, "host_device")))
        json_add_str(protocol, "aio", aio);
}

/* --image-opts, or a name that begins with "json:". */
static void co_fn open_whole(Opening *open, json_object *whole)
{
    if (!block_options_complete(whole, open->error))
        return;
    put_aio(whole, open->how->aio);
    open->node = block_image_open_as(open->img->graph, whole, open->how->format, open->common,
                                     open->error);
}

static void co_fn open_run(void *opaque)
{
    Opening *open = opaque;
    const ImgOpen *how = open->how;
    g_autoptr(json_object) said = NULL;

    if (how->flags & IMG_IS_OPTIONS)
        said = options_parse(how->name, NULL, open->error);
    else
        said = block_filename_options(how->name, NULL, open->error);
    if (!said)
        return;
    if (how->flags & IMG_IS_OPTIONS || g_str_has_prefix(how->name, "json:")) {
        open_whole(open, said);
        return;
    }
    put_aio(said, how->aio);
    open->node = block_image_open_on(open->img->graph, said, how->format, open->common,
                                     open->error);
}

static BlockNode *open_node(Img *img, const ImgOpen *how, int mode, GError **error)
{
    g_autoptr(json_object) common = NULL;
    Opening open = { .img = img, .how = how, .error = error };

    if (how->more)
        json_object_deep_copy(how->more, &common, NULL);
    else
        common = json_object_new_object();
    put_common(common, how, mode);
    open.common = common;
    co_run_sync(open_run, &open);
    return open.node;
}

/* Guessing is dangerous where the guest wrote the first bytes itself. */
static void warn_of_guess(const ImgOpen *how, const ImgImage *image)
{
    if (how->format || how->flags & IMG_IS_OPTIONS || !(how->flags & IMG_WRITE) ||
        strcmp(block_node_driver(image->node), "raw"))
        return;
    warn_report("'%s' is taken for a raw image: no format was given.  A guest could have written "
                "another format's header there; -f raw says that it is raw", how->name);
}

bool img_open(Img *img, const ImgOpen *how, ImgImage *image, GError **error)
{
    unsigned perm = BLOCK_PERM_READ, shared = BLOCK_PERM_ALL;
    g_autofree char *who = g_strdup_printf("vireo-img %s", img->command->name);
    int mode;

    *image = (ImgImage){ 0 };
    if (how->flags & IMG_IS_OPTIONS && how->format) {
        img_usage(error, "--image-opts and --format are mutually exclusive");
        return false;
    }
    if (!parse_cache(how, &mode, error))
        return false;
    image->node = open_node(img, how, mode, error);
    if (!image->node)
        return error_prefix(error, "Could not open '%s': ", how->name);
    if (how->flags & IMG_WRITE)
        perm |= BLOCK_PERM_WRITE;
    if (how->flags & IMG_RESIZE)
        perm |= BLOCK_PERM_RESIZE;
    if (!(how->flags & (IMG_FORCE_SHARE | IMG_SHARE_WRITES)))
        shared &= ~(BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE);
    warn_of_guess(how, image);
    image->user = block_user_new(image->node, who, perm, shared, error);
    if (!image->user) {
        img_close(image);
        return error_prefix(error, "Could not open '%s': ", how->name);
    }
    if (mode == CACHE_WRITETHROUGH || mode == CACHE_DIRECTSYNC)
        block_user_set_write_cache(image->user, false);
    return true;
}

bool img_open_given(Img *img, const char *name, unsigned flags, ImgImage *image, GError **error)
{
    ImgOpen how = { .name = name, .format = img_value(img, 'f'), .flags = flags,
                    .cache = img_value(img, flags & IMG_WRITE ? 't' : 'T') };

    if (img_has(img, IMG_IMAGE_OPTS))
        how.flags |= IMG_IS_OPTIONS;
    if (img_has(img, 'U') && !(flags & IMG_WRITE))
        how.flags |= IMG_FORCE_SHARE;
    return img_open(img, &how, image, error);
}

void img_close(ImgImage *image)
{
    block_user_free(image->user);
    block_node_put(image->node);
    *image = (ImgImage){ 0 };
}

typedef struct Flush {
    BlockUser *user;
    int ret;
} Flush;

static void co_fn run_flush(void *opaque)
{
    Flush *flush = opaque;

    flush->ret = block_co_flush(flush->user);
}

bool img_flush(ImgImage *image, GError **error)
{
    Flush flush = { image->user, 0 };

    if (image->user && !block_node_read_only(image->node))
        co_run_sync(run_flush, &flush);
    return flush.ret == 0 || fail_errno(error, -flush.ret, "Could not flush '%s'",
                                        block_node_filename(image->node));
}

bool img_finish(ImgImage *image, GError **error)
{
    bool ok = img_flush(image, error);

    img_close(image);
    return ok;
}

/* Internal snapshots. */

typedef struct SnapshotLoad {
    ImgImage *image;
    const char *name;
    GError **error;
    int ret;
} SnapshotLoad;

static void co_fn run_load(void *opaque)
{
    SnapshotLoad *load = opaque;

    load->ret = block_co_snapshot_load(load->image->node, load->name, load->error);
}

bool img_load_snapshot(ImgImage *image, const char *param, GError **error)
{
    SnapshotLoad load = { image, param, error, 0 };
    g_autoptr(GPtrArray) all = block_snapshots(image->node);
    g_autoptr(json_object) options = NULL, inner = NULL;
    const char *id = NULL, *name = NULL;
    const BlockSnapshot *found;

    if (g_str_has_prefix(param, "snapshot.")) {
        options = options_parse(param, NULL, error);
        inner = options ? options_take(options, "snapshot") : NULL;
        if (!inner || !options_get_str(inner, "id", &id, error) ||
            !options_get_str(inner, "name", &name, error))
            return error_prefix(error, "-l: ");
        if (!id && !name)
            return fail(error, ERR_MISSING_PARAMETER, "-l: a snapshot's id or name is needed");
        found = block_snapshot_find(all, id, name);
        if (!found)
            return fail(error, ERR_NOT_FOUND, "Failed to load snapshot: Can't find snapshot");
        load.name = found->id;
    }
    co_run_sync(run_load, &load);
    return load.ret == 0 || error_prefix(error, "Failed to load snapshot: ");
}

/*
 * raw: the bytes of the file child as they are, or a window of them (offset=, size=).
 *
 * Without a window it adds nothing, and the core lets plain requests skip it.
 */
#include "block/image.h"
#include "src/base/util.h"
#include <errno.h>

typedef struct Window {
    uint64_t offset, size;
    bool has_offset, has_size;
} Window;

typedef struct Raw {
    BlockNode *file;
    Window window;
} Raw;

static const char *const raw_options[] = { "file", "offset", "size", NULL };

static bool take_window(json_object *options, Window *window, GError **error)
{
    *window = (Window){ .has_offset = json_object_object_get_ex(options, "offset", NULL),
                        .has_size = json_object_object_get_ex(options, "size", NULL) };
    if (!options_get_size(options, "offset", &window->offset, error) ||
        !options_get_size(options, "size", &window->size, error))
        return false;
    json_object_object_del(options, "offset");
    json_object_object_del(options, "size");
    return true;
}

static bool check_window(const BlockNode *file, const Window *window, GError **error)
{
    uint64_t file_size = block_node_size(file);

    if (window->offset > file_size)
        return fail(error, ERR_INVALID_PARAMETER,
                    "raw: offset (%" G_GUINT64_FORMAT ") is past the end of '%s' (%" G_GUINT64_FORMAT
                    " bytes)", window->offset, block_node_filename(file), file_size);
    if (window->has_size && window->size > file_size - window->offset)
        return fail(error, ERR_INVALID_PARAMETER,
                    "raw: offset (%" G_GUINT64_FORMAT ") and size (%" G_GUINT64_FORMAT
                    ") go past the end of '%s' (%" G_GUINT64_FORMAT " bytes)",
                    window->offset, window->size, block_node_filename(file), file_size);
    if (window->has_size && window->size % 512)
        return fail(error, ERR_INVALID_PARAMETER, "raw: size must be a multiple of 512");
    return true;
}

static bool is_whole(const Window *window)
{
    return !window->has_offset && !window->has_size;
}

static bool co_fn raw_open(BlockNode *node, json_object *options, GError **error)
{
    Raw *raw = block_node_state(node);

    if (!take_window(options, &raw->window, error))
        return false;
    raw->file = block_node_open_child(node, options, "file", true, error);
    if (!raw->file || !check_window(raw->file, &raw->window, error))
        return false;
    /* A medium that turned out to be read-only may make us so, too. */
    if (block_node_read_only(raw->file) && !block_node_read_only(node))
        block_node_demote(node, EROFS, NULL);
    block_node_set_transparent(node, is_whole(&raw->window));
    return true;
}

static uint64_t size_of(const BlockNode *file, const Window *window)
{
    uint64_t size = block_node_size(file);

    if (size < window->offset)
        return 0;
    return window->has_size ? MIN(window->size, size - window->offset) : size - window->offset;
}

/* Another window: a disk of another size is a change that its users must allow. */
static bool co_fn raw_reopen_prepare(BlockNode *node, BlockReopen *reopen, GError **error)
{
    Raw *raw = block_node_state(node);
    Window window;

    if (!reopen->options)
        return true;
    if (!take_window(reopen->options, &window, error) || !check_window(raw->file, &window, error))
        return false;
    if (size_of(raw->file, &window) != (uint64_t)block_node_size(node) &&
        !block_node_may_resize(node, error))
        return false;
    reopen->state = g_memdup2(&window, sizeof(window));
    return true;
}

static void co_fn raw_reopen_commit(BlockNode *node, BlockReopen *reopen)
{
    Raw *raw = block_node_state(node);

    if (!reopen->state)
        return;
    raw->window = *(Window *)reopen->state;
    g_free(reopen->state);
    block_node_set_transparent(node, is_whole(&raw->window));
    block_node_refresh_size(node);
}

static void co_fn raw_reopen_abort(BlockNode *node, BlockReopen *reopen)
{
    g_free(reopen->state);
}

static int64_t raw_get_size(BlockNode *node)
{
    Raw *raw = block_node_state(node);
    int64_t size = block_node_size(raw->file);

    return size < 0 ? size : (int64_t)size_of(raw->file, &raw->window);
}

static int co_fn raw_co_read(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                             uint64_t bytes)
{
    Raw *raw = block_node_state(node);

    return block_node_co_read(raw->file, raw->window.offset + offset, iov, iovcnt, bytes);
}

static int co_fn raw_co_write(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                              uint64_t bytes, unsigned flags)
{
    Raw *raw = block_node_state(node);

    return block_node_co_write(raw->file, raw->window.offset + offset, iov, iovcnt, bytes, flags);
}

static int co_fn raw_co_zero(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    Raw *raw = block_node_state(node);

    return block_node_co_zero(raw->file, raw->window.offset + offset, bytes, flags);
}

static int co_fn raw_co_discard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    Raw *raw = block_node_state(node);

    return block_node_co_discard(raw->file, raw->window.offset + offset, bytes);
}

static int co_fn raw_co_map(BlockNode *node, uint64_t offset, uint64_t bytes, BlockMap *map)
{
    Raw *raw = block_node_state(node);

    return block_node_co_map(raw->file, raw->window.offset + offset, bytes, map);
}

static int co_fn raw_co_copy_range(BlockNode *node, uint64_t offset, BlockNode *from,
                                   uint64_t from_offset, uint64_t bytes)
{
    Raw *raw = block_node_state(node);

    return block_node_co_copy_range(raw->file, raw->window.offset + offset, from, from_offset, bytes);
}

static int co_fn raw_co_resize(BlockNode *node, uint64_t bytes, GError **error)
{
    Raw *raw = block_node_state(node);

    if (raw->window.has_size) {
        fail(error, ERR_UNSUPPORTED, "Cannot resize fixed-size raw disks");
        return -ENOTSUP;
    }
    if (bytes > INT64_MAX - raw->window.offset) {
        fail(error, ERR_LIMIT, "Disk size too large for the chosen offset");
        return -EINVAL;
    }
    return block_node_co_resize(raw->file, raw->window.offset + bytes, error);
}

/* Whole images. */

static const BlockCreateOption raw_create_options[] = {
    { "size", BLOCK_CREATE_SIZE, NULL, "Virtual disk size" },
    { NULL }
};

/* The file is the image: nothing to write, only to be as long as it should. */
static int co_fn raw_co_create(BlockGraph *graph, json_object *options, GError **error)
{
    const char *name = NULL;
    BlockUser *user;
    BlockNode *file;
    uint64_t size = 0;
    int ret;

    if (!options_get_str(options, "file", &name, error) ||
        !options_get_size(options, "size", &size, error))
        return -EINVAL;
    file = name ? block_node_find(graph, name) : NULL;
    if (!file) {
        fail(error, ERR_NOT_FOUND, "raw: 'file' must be the name of a node");
        return -EINVAL;
    }
    user = block_user_new(file, "creation of a raw image", BLOCK_PERM_RESIZE, BLOCK_PERM_ALL, error);
    if (!user)
        return -EPERM;
    ret = block_node_co_resize(file, size, error);
    block_user_free(user);
    return ret;
}

static int co_fn raw_co_preallocate(BlockNode *node, uint64_t offset, uint64_t bytes,
                                    BlockPrealloc how, GError **error)
{
    Raw *raw = block_node_state(node);

    return block_co_preallocate(raw->file, raw->window.offset + offset, bytes, how, error);
}

static int co_fn raw_co_measure(json_object *options, BlockNode *source, BlockMeasure *measure,
                                GError **error)
{
    uint64_t size = 0;

    if (!options_get_size(options, "size", &size, error))
        return -EINVAL;
    if (source)
        size = block_node_size(source);
    measure->required = measure->fully_allocated = ALIGN_UP(size, 512);
    return 0;
}

static const BlockImageVerbs raw_image_verbs = {
    .create_options = raw_create_options,
    .co_create = raw_co_create,
    .co_preallocate = raw_co_preallocate,
    .co_measure = raw_co_measure,
};

static void raw_child_changed(BlockNode *node, const char *key)
{
    ((Raw *)block_node_state(node))->file = block_node_file(node);
}

static const BlockDriver raw_driver = {
    .name = "raw",
    .help = "the bytes of a file or device as they are",
    .size = sizeof(Raw),
    .options = raw_options,
    .is_filter = true,
    .is_format = true,
    .write_flags = BLOCK_FUA,
    .open = raw_open,
    .get_size = raw_get_size,
    .co_read = raw_co_read,
    .co_write = raw_co_write,
    .co_zero = raw_co_zero,
    .co_discard = raw_co_discard,
    .co_map = raw_co_map,
    .co_copy_range = raw_co_copy_range,
    .co_resize = raw_co_resize,
    .child_changed = raw_child_changed,
    .reopen_prepare = raw_reopen_prepare,
    .reopen_commit = raw_reopen_commit,
    .reopen_abort = raw_reopen_abort,
    .image = &raw_image_verbs,
};
BLOCK_DRIVER(raw_driver)

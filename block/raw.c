/*
 * raw: the bytes of the file child as they are, or a window of them (offset=, size=).
 *
 * Without a window it adds nothing, and the core lets plain requests skip it.
 */
#include "block/image.h"
#include "src/base/util.h"
#include <errno.h>

typedef struct Raw {
    BlockNode *file;
    uint64_t offset, size;
    bool has_size;
} Raw;

static const char *const raw_options[] = { "file", "offset", "size", NULL };

static bool check_window(Raw *raw, GError **error)
{
    uint64_t file_size = block_node_size(raw->file);

    if (raw->offset > file_size)
        return fail(error, ERR_INVALID_PARAMETER,
                    "raw: offset (%" G_GUINT64_FORMAT ") is past the end of '%s' (%" G_GUINT64_FORMAT
                    " bytes)", raw->offset, block_node_filename(raw->file), file_size);
    if (raw->has_size && raw->size > file_size - raw->offset)
        return fail(error, ERR_INVALID_PARAMETER,
                    "raw: offset (%" G_GUINT64_FORMAT ") and size (%" G_GUINT64_FORMAT
                    ") go past the end of '%s' (%" G_GUINT64_FORMAT " bytes)",
                    raw->offset, raw->size, block_node_filename(raw->file), file_size);
    if (raw->has_size && raw->size % 512)
        return fail(error, ERR_INVALID_PARAMETER, "raw: size must be a multiple of 512");
    return true;
}

static bool co_fn raw_open(BlockNode *node, json_object *options, GError **error)
{
    Raw *raw = block_node_state(node);
    bool has_offset = json_object_object_get_ex(options, "offset", NULL);

    raw->has_size = json_object_object_get_ex(options, "size", NULL);
    if (!options_get_size(options, "offset", &raw->offset, error) ||
        !options_get_size(options, "size", &raw->size, error))
        return false;
    json_object_object_del(options, "offset");
    json_object_object_del(options, "size");
    raw->file = block_node_open_child(node, options, "file", true, error);
    if (!raw->file || !check_window(raw, error))
        return false;
    /* A medium that turned out to be read-only may make us so, too. */
    if (block_node_read_only(raw->file) && !block_node_read_only(node))
        block_node_demote(node, EROFS, NULL);
    if (!has_offset && !raw->has_size)
        block_node_set_transparent(node);
    return true;
}

static int64_t raw_get_size(BlockNode *node)
{
    Raw *raw = block_node_state(node);
    int64_t size = block_node_size(raw->file);

    if (size < 0)
        return size;
    if (size < raw->offset)
        return 0;
    return raw->has_size ? MIN(raw->size, size - raw->offset) : size - raw->offset;
}

static int co_fn raw_co_read(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                             uint64_t bytes)
{
    Raw *raw = block_node_state(node);

    return block_node_co_read(raw->file, raw->offset + offset, iov, iovcnt, bytes);
}

static int co_fn raw_co_write(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                              uint64_t bytes, unsigned flags)
{
    Raw *raw = block_node_state(node);

    return block_node_co_write(raw->file, raw->offset + offset, iov, iovcnt, bytes, flags);
}

static int co_fn raw_co_zero(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    Raw *raw = block_node_state(node);

    return block_node_co_zero(raw->file, raw->offset + offset, bytes, flags);
}

static int co_fn raw_co_discard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    Raw *raw = block_node_state(node);

    return block_node_co_discard(raw->file, raw->offset + offset, bytes);
}

static int co_fn raw_co_map(BlockNode *node, uint64_t offset, uint64_t bytes, BlockMap *map)
{
    Raw *raw = block_node_state(node);

    return block_node_co_map(raw->file, raw->offset + offset, bytes, map);
}

static int co_fn raw_co_copy_range(BlockNode *node, uint64_t offset, BlockNode *from,
                                   uint64_t from_offset, uint64_t bytes)
{
    Raw *raw = block_node_state(node);

    return block_node_co_copy_range(raw->file, raw->offset + offset, from, from_offset, bytes);
}

static int co_fn raw_co_resize(BlockNode *node, uint64_t bytes, GError **error)
{
    Raw *raw = block_node_state(node);

    if (raw->has_size) {
        fail(error, ERR_UNSUPPORTED, "Cannot resize fixed-size raw disks");
        return -ENOTSUP;
    }
    if (bytes > INT64_MAX - raw->offset) {
        fail(error, ERR_LIMIT, "Disk size too large for the chosen offset");
        return -EINVAL;
    }
    return block_node_co_resize(raw->file, raw->offset + bytes, error);
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

    return block_co_preallocate(raw->file, raw->offset + offset, bytes, how, error);
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
    .image = &raw_image_verbs,
};
BLOCK_DRIVER(raw_driver)

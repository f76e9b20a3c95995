/* Opening an image by its name: the protocol's node first, to look what is in it, then the format. */
#include "block/chain.h"
#include "block/image.h"
#include "block/node.h"
#include "block/probe.h"

const char *co_fn block_node_probe_format(BlockNode *file, GError **error)
{
    uint8_t data[BLOCK_PROBE_SIZE] = { 0 };
    struct iovec iov = { data, MIN(sizeof(data), (uint64_t)block_node_size(file)) };
    int ret = block_node_co_read(file, 0, &iov, 1, iov.iov_len);
    const char *format;

    if (ret < 0) {
        fail_errno(error, -ret, "Could not read image '%s' for determining its format",
                   block_node_filename(file));
        return NULL;
    }
    format = block_probe_format(data, sizeof(data));
    if (!strcmp(format, "raw") || block_driver_find(format))
        return format;
    fail(error, ERR_UNSUPPORTED, "'%s' has the format %s, which is not in this build",
         block_node_filename(file), format);
    error_object(error, "%s", block_node_filename(file));
    error_hint(error, "convert it with qemu-img convert -O raw, or write format=raw to give the "
                      "guest its bytes as they are");
    return NULL;
}

typedef struct ImageOpen {
    BlockGraph *graph;
    const char *filename, *format;
    json_object *protocol;                 /* NULL: by the name */
    bool whole;                            /* protocol has the options of all of it */
    json_object *options;
    GError **error;
    BlockNode *node;
} ImageOpen;

/* What tools say to any image, and only some drivers know. */
static void drop_unknown(json_object *top, const char *format)
{
    static const char *const names[] = { "backing", "x-check", "x-header-only", NULL };
    const BlockDriver *driver = block_driver_find(format);

    for (unsigned i = 0; driver && names[i]; i++) {
        json_object *value;

        if (json_object_object_get_ex(top, names[i], &value) && (i || !value) &&
            !(driver->options && g_strv_contains(driver->options, names[i])))
            json_object_object_del(top, names[i]);
    }
}

/* Takes @top over member by member. */
static BlockNode *co_fn open_on_protocol(const ImageOpen *open, json_object *protocol,
                                         const char *format, json_object *top)
{
    g_autoptr(json_object) common = NULL;
    BlockNode *file, *node = NULL;
    BlockNodeConfig above;

    json_object_deep_copy(top, &common, NULL);
    if (!block_options_common(common, NULL, &above, open->error))
        return NULL;
    file = block_node_open_with(open->graph, protocol, &above, open->error);
    if (!file)
        return NULL;
    if (!format)
        format = block_node_probe_format(file, open->error);
    if (format) {
        drop_unknown(top, format);
        json_add_str(top, "driver", format);
        json_add_str(top, "file", file->name);
        node = block_node_open_with(open->graph, top, NULL, open->error);
    }
    block_node_release(file);              /* the format's node holds it */
    return node;
}

/* @whole says what the image is, and all that it says goes before @top. */
static BlockNode *co_fn open_whole(const ImageOpen *open, json_object *whole, json_object *top)
{
    g_autoptr(json_object) file = NULL, protocol = NULL, driver = NULL;
    const BlockDriver *known;
    const char *name;

    json_object_object_foreach(whole, key, value)
        json_object_object_add(top, key, json_object_get(value));
    if (open->format)
        json_add_str(top, "driver", open->format);
    if (!block_options_complete(top, open->error))
        return NULL;
    driver = json_object_get(json_object_object_get(top, "driver"));
    file = options_take(top, "file");
    if (!driver && !file)
        return fail(open->error, ERR_MISSING_PARAMETER,
                    "Must specify either 'driver' or 'file'"), NULL;
    name = driver ? json_object_get_string(driver) : NULL;
    known = name ? block_driver_get(name, open->error) : NULL;
    if (name && !known)
        return NULL;
    if (file && !(known && known->is_protocol)) {
        protocol = block_file_options(file, open->error);
        return protocol ? open_on_protocol(open, protocol, name, top) : NULL;
    }
    drop_unknown(top, name);
    if (file)
        json_object_object_add(top, "file", json_object_get(file));
    return block_node_open_with(open->graph, top, NULL, open->error);
}

static void co_fn open_run(void *opaque)
{
    ImageOpen *open = opaque;
    g_autoptr(json_object) protocol = NULL, top = NULL;

    protocol = open->protocol ? json_object_get(open->protocol)
                              : block_filename_options(open->filename, NULL, open->error);
    if (!protocol)
        return;
    if (!open->options) {
        top = json_object_new_object();
    } else if (json_object_deep_copy(open->options, &top, NULL) < 0) {
        fail(open->error, ERR_LIMIT, "the options of an image are too large");
        return;
    }
    block_graph_begin(open->graph);
    open->node = open->whole || block_options_say_format(protocol)
                     ? open_whole(open, protocol, top)
                     : open_on_protocol(open, protocol, open->format, top);
    block_graph_end(open->graph);
}

BlockNode *block_image_open_on(BlockGraph *graph, json_object *protocol, const char *format,
                               json_object *options, GError **error)
{
    ImageOpen open = { .graph = graph, .format = format, .protocol = protocol,
                       .options = options, .error = error };

    co_run_sync(open_run, &open);
    return open.node;
}

BlockNode *block_image_open(BlockGraph *graph, const char *filename, const char *format,
                            json_object *options, GError **error)
{
    ImageOpen open = { .graph = graph, .filename = filename, .format = format,
                       .options = options, .error = error };

    co_run_sync(open_run, &open);
    return open.node;
}

BlockNode *block_image_open_as(BlockGraph *graph, json_object *whole, const char *format,
                               json_object *options, GError **error)
{
    ImageOpen open = { .graph = graph, .format = format, .protocol = whole, .whole = true,
                       .options = options, .error = error };

    co_run_sync(open_run, &open);
    return open.node;
}

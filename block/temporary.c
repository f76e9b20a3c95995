/* Overlays for a while: what is written goes into a file that nobody sees, gone at the end. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include "block/image.h"
#include "block/node.h"

static int make_file(void *path)
{
    int fd = mkstemp(path);

    if (fd < 0)
        return -errno;
    close(fd);
    return 0;
}

static int remove_file(void *path)
{
    return unlink(path) < 0 ? -errno : 0;
}

static json_object *overlay_options(const char *path, const char *backing, const char *name)
{
    json_object *options = json_object_new_object(), *file = json_object_new_object();
    json_object *cache = json_object_new_object();

    json_add_str(file, "driver", "file");
    json_add_str(file, "filename", path);
    json_object_object_add(cache, "no-flush", json_object_new_boolean(true));
    json_add_str(options, "driver", "qcow2");
    json_add_str(options, "discard", "unmap");
    json_add_str(options, "backing", backing);
    if (name)
        json_add_str(options, "node-name", name);
    json_object_object_add(options, "cache", cache);
    json_object_object_add(options, "file", file);
    return options;
}

BlockNode *co_fn block_node_add_temporary(BlockGraph *graph, BlockNode *below, const char *name,
                                          GError **error)
{
    g_autofree char *path = g_build_filename(g_getenv("TMPDIR") ?: "/var/tmp", "vireo.XXXXXX", NULL);
    g_autoptr(json_object) words = json_object_new_object(), options = NULL;
    int ret = co_worker_call(make_file, path);
    BlockNode *node = NULL;

    if (ret < 0) {
        block_node_release(below);
        fail_errno(error, -ret, "Could not get temporary filename '%s'", path);
        return NULL;
    }
    json_object_object_add(words, "size", json_object_new_int64(block_node_size(below)));
    options = overlay_options(path, below->name, name);
    if (block_image_create(graph, "qcow2", path, words, error))
        node = block_node_open_with(graph, options, NULL, error);
    block_node_release(below);             /* the overlay holds it */
    co_worker_call(remove_file, path);
    return node;
}

typedef struct Overlay {
    BlockGraph *graph;
    BlockNode *below;
    const char *name;
    GError **error;
    BlockNode *node;
} Overlay;

static void co_fn overlay_run(void *opaque)
{
    Overlay *o = opaque;

    block_graph_begin(o->graph);
    o->node = block_node_add_temporary(o->graph, o->below, o->name, o->error);
    block_graph_end(o->graph);
}

BlockNode *block_image_add_temporary(BlockGraph *graph, BlockNode *below, const char *name,
                                     GError **error)
{
    Overlay overlay = { graph, below, name, error, NULL };

    co_run_sync(overlay_run, &overlay);
    return overlay.node;
}

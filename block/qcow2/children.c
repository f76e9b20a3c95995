/* The nodes below an image: its file, its external data file, its backing file. */
#include "block/qcow2/options.h"
#include "block/chain.h"
#include <string.h>

enum { CHAIN_MAX = 200 };

/* Permissions: metadata is written when nobody above writes, and must not change behind our back. */
static void storage_perm(BlockNode *node, unsigned *perm, unsigned *shared)
{
    *perm |= BLOCK_PERM_READ;
    if (!block_node_read_only(node))
        *perm |= BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE;
    *shared &= ~(BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE);
}

void qcow2_child_perm(BlockNode *node, const char *key, unsigned *perm, unsigned *shared)
{
    if (strcmp(key, "backing")) {
        storage_perm(node, perm, shared);
        return;
    }
    *perm &= BLOCK_PERM_READ;
    *shared = (*shared & BLOCK_PERM_WRITE ? BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE : 0) |
              BLOCK_PERM_READ | BLOCK_PERM_WRITE_SAME;
}

void qcow2_child_changed(BlockNode *node, const char *key)
{
    Qcow2 *s = qcow2_of(node);

    s->file = block_node_child(node, "file");
    s->data_file = s->has_data_file ? block_node_child(node, "data-file") : s->file;
}

/* The external data file: as the options say, else as the header names it. */
bool co_fn qcow2_open_data_file(Qcow2 *s, json_object *options, GError **error)
{
    bool given = json_object_object_get_ex(options, "data-file", NULL);

    s->data_file = s->file;
    if (!s->has_data_file)
        return !given || fail(error, ERR_INVALID_PARAMETER,
                              "'data-file' can only be set for images with an external data file");
    if (!given && !s->header.data_file)
        return fail(error, ERR_MISSING_PARAMETER, "'data-file' is required for this image");
    if (!given) {
        json_object *file = block_filename_options(s->header.data_file,
                                                   block_node_filename(s->file), error);

        if (!file)
            return error_prefix(error, "Could not open the data file: ");
        json_object_object_add(options, "data-file", file);
    }
    s->data_file = block_node_open_child(s->node, options, "data-file", true, error);
    return s->data_file || error_prefix(error, "Could not open the data file: ");
}

/* The backing file by the header. */

static bool is_protocol(json_object *options)
{
    const char *name = json_object_get_string(json_object_object_get(options, "driver"));
    const BlockDriver *driver = name ? block_driver_find(name) : NULL;

    return driver && driver->is_protocol;
}

/* A known format's node on @protocol. */
static json_object *format_options(const char *format, json_object *protocol, uint64_t depth)
{
    json_object *options = json_object_new_object();

    json_add_str(options, "driver", format);
    json_object_object_add(options, "file", json_object_get(protocol));
    if (!strcmp(format, "qcow2"))
        json_object_object_add(options, "x-chain-depth", json_object_new_int64(depth + 1));
    return options;
}

static json_object *co_fn probed_options(Qcow2 *s, json_object *protocol, uint64_t depth,
                                         GError **error)
{
    g_autoptr(json_object) common = json_object_new_object();
    BlockNode *probe;
    const char *format;

    json_object_object_add(common, "read-only", json_object_new_boolean(true));
    if (block_node_force_share(s->node))
        json_object_object_add(common, "force-share", json_object_new_boolean(true));
    probe = block_image_open_on(block_node_graph(s->node), protocol, "raw", common, error);
    if (!probe)
        return NULL;
    format = block_node_probe_format(block_node_file(probe), error);
    block_node_put(probe);
    return format ? format_options(format, protocol, depth) : NULL;
}

static json_object *co_fn header_backing(Qcow2 *s, uint64_t depth, GError **error)
{
    g_autoptr(json_object) protocol = NULL;

    if (depth >= CHAIN_MAX) {
        fail(error, ERR_LIMIT, "more than %d backing files, or one that backs itself", CHAIN_MAX);
        return NULL;
    }
    protocol = block_filename_options(s->header.backing_file, block_node_filename(s->file), error);
    if (!protocol)
        return NULL;
    if (!is_protocol(protocol))            /* json: says all of it */
        return g_steal_pointer(&protocol);
    if (s->header.backing_format)
        return format_options(s->header.backing_format, protocol, depth);
    return probed_options(s, protocol, depth, error);
}

static json_object *co_fn backing_value(Qcow2 *s, json_object *options, uint64_t depth,
                                        GError **error)
{
    json_object *value = options_take(options, "backing");

    if (!value)
        value = header_backing(s, depth, error);
    if (json_object_is_type(value, json_type_object) &&
        !json_object_object_get_ex(value, "read-only", NULL))
        json_object_object_add(value, "read-only", json_object_new_boolean(true));
    return value;
}

typedef struct BackingOpen {
    Qcow2 *s;
    json_object *options;
    uint64_t depth;
    GError **error;
    bool ok;
    Qcow2Group *group;
} BackingOpen;

/* In a coroutine of its own: chains are longer than stacks are deep. */
static void co_fn open_backing(void *opaque)
{
    BackingOpen *open = opaque;
    json_object *value = backing_value(open->s, open->options, open->depth, open->error);

    if (value) {
        json_object_object_add(open->options, "backing", value);
        open->ok = block_node_open_child(open->s->node, open->options, "backing", true,
                                         open->error);
    }
    qcow2_group_done(open->group, 0);
}

/* backing=null, or an empty name: none. */
static bool says_none(json_object *options)
{
    json_object *value;

    if (!json_object_object_get_ex(options, "backing", &value))
        return false;
    return !value || (json_object_is_type(value, json_type_string) &&
                      !*json_object_get_string(value));
}

bool co_fn qcow2_open_backing(Qcow2 *s, json_object *options, uint64_t depth, GError **error)
{
    Qcow2Group group = { .max = 1 };
    BackingOpen open = { s, options, depth, error, false, &group };

    if (says_none(options)) {
        json_object_object_del(options, "backing");
        return true;
    }
    if (!json_object_object_get_ex(options, "backing", NULL) && !s->header.backing_file)
        return true;
    if (s->data_file_raw) {
        json_object_object_del(options, "backing");
        return fail(error, ERR_INVALID_PARAMETER,
                    "a raw external data file and a backing file exclude each other");
    }
    qcow2_group_start(&group, open_backing, &open);
    qcow2_group_wait(&group);
    return open.ok || error_prefix(error, "Could not open backing file: ");
}

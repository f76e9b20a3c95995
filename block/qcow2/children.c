/* The nodes below an image: its file, its external data file, its backing file. */
#include "block/qcow2/options.h"
#include "block/chain.h"
#include <string.h>

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

#define PREFIX "Could not open backing file: "

/* What is in the file of @options, by its first bytes. */
static const char *co_fn probe(Qcow2 *s, json_object *options, GError **error)
{
    g_autoptr(json_object) common = json_object_new_object();
    BlockNode *node;
    const char *format;

    json_add_bool(common, "read-only", true);
    if (block_node_force_share(s->node))
        json_add_bool(common, "force-share", true);
    node = block_image_open_on(block_node_graph(s->node), block_options_protocol(options), "raw",
                               common, error);
    if (!node)
        return NULL;
    format = block_node_probe_format(block_node_file(node), error);
    block_node_put(node);
    return format;
}

static json_object *co_fn header_backing(Qcow2 *s, GError **error)
{
    g_autoptr(json_object) named = block_filename_options(s->header.backing_file,
                                                          block_node_filename(s->file), error);
    g_autoptr(json_object) options = NULL;
    const char *format = s->header.backing_format;

    if (!named)
        return NULL;
    if (block_options_say_format(named) && json_object_object_get_ex(named, "driver", NULL))
        return g_steal_pointer(&named);
    if (!format)
        format = probe(s, named, error);
    if (!format)
        return NULL;
    if (block_options_say_format(named)) { /* json: without the format */
        options = g_steal_pointer(&named);
    } else {
        options = json_object_new_object();
        json_object_object_add(options, "file", g_steal_pointer(&named));
    }
    json_add_str(options, "driver", format);
    return g_steal_pointer(&options);
}

/* Options for the backing file that leave out which file it is, or its format: the header tells. */
static json_object *co_fn complete_by_header(Qcow2 *s, json_object *given, GError **error)
{
    const char *name = json_get_str(given, "driver");
    const BlockDriver *driver = name ? block_driver_find(name) : NULL;
    json_object *options;

    if (!s->header.backing_file || (name && !(driver && driver->is_format)) ||
        (name && json_object_object_get_ex(given, "file", NULL)))
        return given;
    options = header_backing(s, error);
    if (options) {
        json_object_object_foreach(given, key, value)
            json_object_object_add(options, key, json_object_get(value));
    }
    json_object_put(given);
    return options;
}

static json_object *co_fn backing_value(Qcow2 *s, json_object *options, GError **error)
{
    json_object *value = options_take(options, "backing");

    if (!value)
        value = header_backing(s, error);
    else if (json_object_is_type(value, json_type_object))
        value = complete_by_header(s, value, error);
    if (json_object_is_type(value, json_type_object) &&
        !json_object_object_get_ex(value, "read-only", NULL))
        json_object_object_add(value, "read-only", json_object_new_boolean(true));
    return value;
}

typedef struct BackingOpen {
    Qcow2 *s;
    json_object *options;
    GError **error;
    bool ok;
    Qcow2Group *group;
} BackingOpen;

/* In a coroutine of its own: chains are longer than stacks are deep. */
static void co_fn open_backing(void *opaque)
{
    BackingOpen *open = opaque;
    json_object *value = backing_value(open->s, open->options, open->error);

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

bool co_fn qcow2_open_backing(Qcow2 *s, json_object *options, GError **error)
{
    Qcow2Group group = { .max = 1 };
    BackingOpen open = { s, options, error, false, &group };

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
    if (!open.ok && !(error && *error && g_str_has_prefix((*error)->message, PREFIX)))
        error_prefix(error, PREFIX);       /* once, however far down it was */
    return open.ok;
}

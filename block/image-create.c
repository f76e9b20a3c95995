/*
 * Creating images: a file of the protocol, then a format in it.
 *
 * -o's words are those of the format's table and of the protocol's side by side.  A driver's co_create
 * gets them as BlockdevCreateOptions' members: with dashes, typed, nested where a name has dots.
 */
#include "block/chain.h"
#include "block/image.h"
#include "block/node.h"
#include "src/base/util.h"
#include <errno.h>
#include <string.h>

#define SECTOR 512

/* From words to members. */

/* "a": {"b": c} becomes "a.b": c. */
static void flatten(json_object *flat, const char *above, json_object *options)
{
    json_object_object_foreach(options, key, value)
    {
        g_autofree char *name = above ? g_strconcat(above, ".", key, NULL) : g_strdup(key);

        if (json_object_is_type(value, json_type_object))
            flatten(flat, name, value);
        else
            json_object_object_add(flat, name, json_object_get(value));
    }
}

static json_object *flat_copy(json_object *options)
{
    json_object *flat = json_object_new_object();

    if (options)
        flatten(flat, NULL, options);
    return flat;
}

static char *qmp_name(const BlockCreateOption *option)
{
    return option->qmp_name ? g_strdup(option->qmp_name)
                            : g_strdelimit(g_strdup(option->name), "_", '-');
}

static bool convert(const BlockCreateOption *option, json_object *value, json_object **ret,
                    GError **error)
{
    g_autofree char *what = g_strdup_printf("Parameter '%s'", option->name);
    const char *text;
    uint64_t number;
    bool on;

    switch (option->kind) {
    case BLOCK_CREATE_BOOL:
        if (!value_to_bool(value, what, &on, error))
            return false;
        *ret = json_object_new_boolean(on);
        return true;
    case BLOCK_CREATE_SIZE:
        if (!value_to_size(value, what, &number, error))
            return false;
        *ret = json_object_new_uint64(number);
        return true;
    case BLOCK_CREATE_NUMBER:
        if (!value_to_u64(value, what, &number, error))
            return false;
        *ret = json_object_new_uint64(number);
        return true;
    case BLOCK_CREATE_STRING:
        break;
    }
    if (!value_to_str(value, what, &text, error))
        return false;
    *ret = json_object_new_string(text);
    return true;
}

/* @path: "a.b" sets member b of the member a. */
static void put_path(json_object *members, const char *path, json_object *value)
{
    const char *dot;

    while ((dot = strchr(path, '.'))) {
        g_autofree char *key = g_strndup(path, dot - path);
        json_object *inner;

        if (!json_object_object_get_ex(members, key, &inner)) {
            inner = json_object_new_object();
            json_object_object_add(members, key, inner);
        }
        members = inner;
        path = dot + 1;
    }
    json_object_object_add(members, path, value);
}

/* Moves what a table has from @flat to @members. */
static bool take_from(const BlockCreateOption *option, json_object *flat, json_object *members,
                      GError **error)
{
    for (; option && option->name; option++) {
        g_autoptr(json_object) value = options_take(flat, option->name);
        g_autofree char *path = qmp_name(option);
        json_object *member;

        if (!value)
            continue;
        if (!convert(option, value, &member, error))
            return false;
        put_path(members, path, member);
    }
    return true;
}

/* Moves what @driver knows from @flat to @members. */
static bool take_known(const BlockDriver *driver, json_object *flat, json_object *members,
                       GError **error)
{
    return !driver->image || take_from(driver->image->create_options, flat, members, error);
}

static void add_names(GPtrArray *names, const BlockDriver *driver)
{
    const BlockCreateOption *option =
        driver && driver->image ? driver->image->create_options : NULL;

    for (; option && option->name; option++)
        g_ptr_array_add(names, (gpointer)option->name);
}

/* What is left in @flat nobody knows. */
static bool check_rest(json_object *flat, const BlockDriver *format, const BlockDriver *protocol,
                       GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    const char *near;

    add_names(names, format);
    add_names(names, protocol);
    g_ptr_array_add(names, NULL);
    json_object_object_foreach(flat, key, value)
    {
        (void)value;
        near = nearest_word(key, (const char *const *)names->pdata);
        fail(error, ERR_UNKNOWN_PARAMETER, "Invalid parameter '%s'", key);
        return near ? error_hint(error, "did you mean '%s'?", near)
                    : error_hint(error, "-o help lists what format '%s' takes", format->name);
    }
    return true;
}

static const BlockDriver *creatable(const char *name, GError **error)
{
    const BlockDriver *driver = block_driver_get(name, error);

    if (driver && driver->image && driver->image->co_create)
        return driver;
    if (driver)
        fail(error, ERR_UNSUPPORTED, "Format driver '%s' does not support image creation", name);
    return NULL;
}

static json_object *parse_words(const char *format, json_object *options, bool amend, GError **error)
{
    const BlockDriver *driver = block_driver_get(format, error);
    g_autoptr(json_object) flat = NULL, members = NULL;

    if (!driver)
        return NULL;
    flat = flat_copy(options);
    members = json_object_new_object();
    json_object_object_add(members, "driver", json_object_new_string(format));
    if (!take_known(driver, flat, members, error) ||
        (amend && driver->image &&
         !take_from(driver->image->amend_options, flat, members, error)) ||
        !check_rest(flat, driver, NULL, error))
        return NULL;
    return g_steal_pointer(&members);
}

json_object *block_create_options_parse(const char *format, json_object *options, GError **error)
{
    return parse_words(format, options, false, error);
}

json_object *block_amend_options_parse(const char *format, json_object *options, GError **error)
{
    return parse_words(format, options, true, error);
}

/* blockdev-create. */

static const BlockCreateOption *find_by_qmp_name(const BlockDriver *driver, const char *path)
{
    const BlockCreateOption *option = driver->image->create_options;

    for (; option && option->name; option++) {
        g_autofree char *name = qmp_name(option);

        if (!strcmp(name, path))
            return option;
    }
    return NULL;
}

static bool check_members(const BlockDriver *driver, const char *above, json_object *options,
                          json_object *checked, GError **error)
{
    const char *target = driver->is_protocol ? "filename" : "file";

    json_object_object_foreach(options, key, value)
    {
        g_autofree char *path = above ? g_strconcat(above, ".", key, NULL) : g_strdup(key);
        const BlockCreateOption *option = find_by_qmp_name(driver, path);
        json_object *member;

        if (!above && (!strcmp(key, "driver") || !strcmp(key, target))) {
            json_object_object_add(checked, key, json_object_get(value));
        } else if (option && json_object_is_type(value, json_type_object)) {
            put_path(checked, path, json_object_get(value));   /* a node's options */
        } else if (option) {
            if (!convert(option, value, &member, error))
                return false;
            put_path(checked, path, member);
        } else if (json_object_is_type(value, json_type_object)) {
            if (!check_members(driver, path, value, checked, error))
                return false;
        } else {
            fail(error, ERR_UNKNOWN_PARAMETER, "Parameter '%s' is unexpected", path);
            return error_object(error, "%s", path);
        }
    }
    return true;
}

int co_fn block_co_create(BlockGraph *graph, json_object *options, GError **error)
{
    g_autoptr(json_object) checked = json_object_new_object();
    const BlockDriver *driver;
    const char *name = NULL;

    if (!options_get_str(options, "driver", &name, error))
        return -EINVAL;
    if (!name) {
        fail(error, ERR_MISSING_PARAMETER, "Parameter 'driver' is missing");
        return -EINVAL;
    }
    driver = creatable(name, error);
    if (!driver || !check_members(driver, NULL, options, checked, error))
        return -EINVAL;
    return driver->image->co_create(graph, checked, error);
}

/* A file for the image. */

typedef struct Creation {
    BlockGraph *graph;
    const BlockDriver *format, *protocol;
    const char *filename;
    json_object *where;                    /* the options of the protocol's node */
    json_object *members, *below;          /* for co_create of the format, and of the protocol */
    BlockNode *file, *data_file;
    bool made;                             /* the file is new: to be removed on failure */
    GError **error;
    json_object *words;                    /* flat */
    bool ok;
} Creation;

/* A protocol that cannot make files uses what is there, if it is large enough. */
static int co_fn reuse(BlockNode *node, BlockUser *user, json_object *below, GError **error)
{
    uint64_t size = 0, have;
    int ret;

    if (!options_get_u64(below, "size", &size, error))
        return -EINVAL;
    have = block_node_size(node);
    ret = size > have ? block_node_co_resize(node, size, NULL) : 0;
    if (ret < 0) {
        fail(error, ERR_NO_SPACE, "Image is too small: needs %" G_GUINT64_FORMAT " bytes, has %"
             G_GUINT64_FORMAT, size, have);
        return ret;
    }
    /* An old format's signature would be found there. */
    ret = block_co_zero(user, 0, MIN(SECTOR, MAX(size, have)), BLOCK_MAY_UNMAP);
    if (ret < 0)
        fail_errno(error, -ret, "cannot clear the first sector of '%s'", block_node_filename(node));
    return ret;
}

static BlockNode *co_fn open_protocol(BlockGraph *graph, json_object *where, GError **error)
{
    g_autoptr(json_object) options = NULL;

    if (json_object_deep_copy(where, &options, NULL) < 0) {
        fail(error, ERR_LIMIT, "the options of a file are too large");
        return NULL;
    }
    json_object_object_add(options, "read-only", json_object_new_boolean(false));
    json_object_object_add(options, "discard", json_object_new_string("unmap"));
    return block_node_open_with(graph, options, NULL, error);
}

static int co_fn reuse_file(Creation *c)
{
    BlockNode *node = open_protocol(c->graph, c->where, c->error);
    const char *preallocation = NULL;
    BlockUser *user;
    int ret = -EIO;

    if (!node)
        return ret;
    options_get_str(c->below, "preallocation", &preallocation, NULL);
    user = block_user_new(node, "image creation", BLOCK_PERM_READ | BLOCK_PERM_WRITE |
                          BLOCK_PERM_RESIZE, BLOCK_PERM_ALL, c->error);
    if (preallocation && strcmp(preallocation, "off"))
        fail(c->error, ERR_UNSUPPORTED, "Unsupported preallocation mode '%s'", preallocation);
    else if (user)
        ret = reuse(node, user, c->below, c->error);
    block_user_free(user);
    block_node_release(node);
    return ret;
}

static bool co_fn create_file(Creation *c)
{
    if (!c->protocol->image || !c->protocol->image->co_create)
        return reuse_file(c) == 0;
    c->made = c->protocol->image->co_create(c->graph, c->below, c->error) == 0;
    return c->made;
}

/* Where the image goes: the protocol's options, to which the file's own are added. */
static bool co_fn choose_place(Creation *c, GError **error)
{
    const char *driver = NULL;

    c->where = block_filename_options(c->filename, NULL, error);
    if (!c->where || !options_get_str(c->where, "driver", &driver, error))
        return false;
    c->protocol = driver ? block_driver_get(driver, error) : NULL;
    if (!c->protocol)
        return driver ? false
                      : fail(error, ERR_MISSING_PARAMETER, "'%s' names no driver", c->filename);
    if (!c->protocol->is_protocol)
        return fail(error, ERR_INVALID_PARAMETER, "'%s' is not the name of a file", c->filename);
    json_object_deep_copy(c->where, &c->below, NULL);
    return true;
}

/* An image is whole sectors.  raw has no options of its own: the protocol takes them all. */
static bool split_options(Creation *c, json_object *flat, uint64_t size, GError **error)
{
    json_object *raw = c->format->is_filter ? c->below : c->members;

    if (size > INT64_MAX - SECTOR)
        return fail(error, ERR_LIMIT, "an image of %" G_GUINT64_FORMAT " bytes is too large", size);
    json_object_object_del(flat, "size");
    if (!c->format->is_filter && !take_known(c->format, flat, c->members, error))
        return false;
    if (!take_known(c->protocol, flat, c->below, error) ||
        !check_rest(flat, c->format, c->protocol, error))
        return false;
    if (!json_object_object_get_ex(c->below, "size", NULL))
        json_object_object_add(c->below, "size", json_object_new_uint64(0));
    json_object_object_add(raw, "size", json_object_new_uint64(ALIGN_UP(size, SECTOR)));
    return true;
}

/* A backing file's name counts from the folder of the image. */
static bool co_fn size_of_backing(Creation *c, json_object *flat, uint64_t *size, GError **error)
{
    const char *backing = NULL, *format = NULL;
    g_autoptr(json_object) options = NULL, where = NULL;
    BlockNode *node;

    if (!options_get_str(flat, "backing_file", &backing, error) ||
        !options_get_str(flat, "backing_fmt", &format, error))
        return false;
    if (!backing)
        return fail(error, ERR_MISSING_PARAMETER, "Image creation needs a size parameter");
    where = block_filename_options(backing, c->filename, error);
    options = json_object_new_object();
    json_object_object_add(options, "read-only", json_object_new_boolean(true));
    json_object_object_add(options, "force-share", json_object_new_boolean(true));
    node = where ? block_image_open_on(c->graph, where, format, options, error) : NULL;
    if (!node)
        return error_hint(error, "Could not open backing image.");
    *size = block_node_size(node);
    block_node_release(node);
    return true;
}

/* The data file is the format's second file, named among its options. */
static bool co_fn make_data_file(Creation *c, GError **error)
{
    Creation data = { .graph = c->graph, .format = c->format, .error = error };
    const char *filename = NULL;
    bool ok = false;

    if (!options_get_str(c->members, "data-file", &filename, error))
        return false;
    if (!filename)
        return true;
    data.filename = filename;
    if (choose_place(&data, error)) {
        json_object_object_add(data.below, "size", json_object_new_uint64(0));
        ok = create_file(&data);
    }
    if (ok)
        c->data_file = open_protocol(c->graph, data.where, error);
    json_object_put(data.where);
    json_object_put(data.below);
    if (!c->data_file)
        return false;
    json_object_object_add(c->members, "data-file", json_object_new_string(c->data_file->name));
    return true;
}

static bool co_fn make_format(Creation *c, GError **error)
{
    c->file = open_protocol(c->graph, c->where, error);
    if (!c->file || !make_data_file(c, error))
        return false;
    json_object_object_add(c->members, "driver", json_object_new_string(c->format->name));
    json_object_object_add(c->members, "file", json_object_new_string(c->file->name));
    return c->format->image->co_create(c->graph, c->members, error) == 0;
}

static bool co_fn create(Creation *c, json_object *flat, GError **error)
{
    uint64_t size = UINT64_MAX;
    bool ok;

    if (!choose_place(c, error) || !options_get_size(flat, "size", &size, error) ||
        (size == UINT64_MAX && !size_of_backing(c, flat, &size, error)) ||
        !split_options(c, flat, size, error))
        return false;
    if (!create_file(c))
        return false;
    if (c->format->is_filter)
        return true;
    ok = make_format(c, error);
    if (!ok && c->made && c->file && c->protocol->image->co_delete)
        c->protocol->image->co_delete(c->file, NULL);
    return ok;
}

static void co_fn create_run(void *opaque)
{
    Creation *c = opaque;

    block_graph_begin(c->graph);
    c->ok = create(c, c->words, c->error);
    block_node_put(c->data_file);
    block_node_put(c->file);
    block_graph_end(c->graph);
}

bool block_image_create(BlockGraph *graph, const char *format, const char *filename,
                        json_object *options, GError **error)
{
    Creation c = { .graph = graph, .filename = filename, .error = error };

    c.format = creatable(format, error);
    if (!c.format)
        return false;
    c.words = flat_copy(options);
    c.members = json_object_new_object();
    co_run_sync(create_run, &c);
    json_object_put(c.words);
    json_object_put(c.where);
    json_object_put(c.members);
    json_object_put(c.below);
    return c.ok;
}

/* create, resize and amend. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "src/tools/img.h"

/* Commas divide the values of several -o as they divide options: at an end they would be lost. */
static bool is_list(const char *text)
{
    size_t n = strlen(text), commas = 0;

    while (commas < n && text[n - 1 - commas] == ',')
        commas++;
    return n && text[0] != ',' && commas % 2 == 0;
}

static bool asks_for_help(const char *text)
{
    g_auto(GStrv) elements = g_strsplit(text, ",", -1);

    return g_strv_contains((const char *const *)elements, "help") ||
           g_strv_contains((const char *const *)elements, "?");
}

json_object *img_create_words(const Img *img, bool *ret_help, GError **error)
{
    g_autofree char *text = img_values(img, 'o');

    *ret_help = false;
    for (unsigned i = 0; i < img->given->len; i++) {
        const ImgGiven *given = &g_array_index(img->given, ImgGiven, i);

        if (given->key != 'o')
            continue;
        if (!is_list(given->value))
            return fail(error, ERR_INVALID_PARAMETER, "Invalid option list: %s", given->value),
                   NULL;
        *ret_help |= asks_for_help(given->value);
    }
    if (*ret_help)
        return NULL;
    return text ? options_parse(text, NULL, error) : json_object_new_object();
}

static void put_str(json_object *options, const char *key, const char *value)
{
    if (value)
        json_object_object_add(options, key, json_object_new_string(value));
}

static const BlockCreateOption *find_option(const BlockDriver *driver, const char *name)
{
    const BlockCreateOption *o = driver && driver->image ? driver->image->create_options : NULL;

    for (; o && o->name; o++)
        if (!strcmp(o->name, name))
            return o;
    return NULL;
}

/* create */

/* A word by its name with dots. */
static json_object *find_word(json_object *words, const char *name)
{
    const char *dot = strchr(name, '.');
    g_autofree char *first = dot ? g_strndup(name, dot - name) : g_strdup(name);
    json_object *value = json_object_object_get(words, first);

    if (!dot || !json_object_is_type(value, json_type_object))
        return dot ? NULL : value;
    return find_word(value, dot + 1);
}

static bool print_word(const Img *img, const BlockCreateOption *o, json_object *words,
                       GError **error)
{
    json_object *value = find_word(words, o->name);
    g_autofree char *what = g_strdup_printf("Parameter '%s'", o->name);
    uint64_t number = 0;
    bool on;

    if (!value) {
        if (o->fallback)
            img_print(img, " %s=%s", o->name, o->fallback);
        return true;
    }
    if (o->kind == BLOCK_CREATE_BOOL && !value_to_bool(value, what, &on, error))
        return false;
    if ((o->kind == BLOCK_CREATE_SIZE && !value_to_size(value, what, &number, error)) ||
        (o->kind == BLOCK_CREATE_NUMBER && !value_to_u64(value, what, &number, error)))
        return false;
    if (o->kind == BLOCK_CREATE_SIZE || o->kind == BLOCK_CREATE_NUMBER)
        img_print(img, " %s=%" PRIu64, o->name, number);
    else
        img_print(img, " %s=%s", o->name, json_object_get_string(value));
    return true;
}

/* "fmt=qcow2 size=1024 …": what was said, and what else the format takes by itself. */
static bool print_formatting(const Img *img, const char *filename, const BlockDriver *driver,
                             json_object *words, GError **error)
{
    const BlockCreateOption *o = driver->image->create_options;

    img_print(img, "Formatting '%s', fmt=%s", filename, driver->name);
    for (; o && o->name; o++)
        if (!print_word(img, o, words, error))
            return false;
    for (o = block_driver_find("file")->image->create_options; o->name; o++)
        if (!find_option(driver, o->name) && !print_word(img, o, words, error))
            return false;
    img_print(img, "\n");
    return true;
}

/* The size of the backing file, which must be there unless -u is given. */
static bool look_at_backing(Img *img, const char *filename, const char *backing, const char *format,
                            uint64_t *size, GError **error)
{
    g_autofree char *path = block_filename_resolve(backing, filename);
    ImgOpen how = { .name = path, .format = format, .flags = IMG_FORCE_SHARE };
    ImgImage image;

    if (!strcmp(path, filename))
        return fail(error, ERR_INVALID_PARAMETER, "Error: Trying to create an image with the same "
                                                  "filename as the backing file");
    if (!img_has(img, 'u')) {
        if (!img_open(img, &how, &image, error))
            return error_hint(error, "Could not open backing image.");
        if (*size == UINT64_MAX)
            *size = block_node_size(image.node);
        if (!format) {
            fail(error, ERR_MISSING_PARAMETER, "Backing file specified without backing format");
            error_hint(error, "Detected format of %s.", block_node_driver(image.node));
        }
        img_close(&image);
        return format != NULL;
    }
    return format || fail(error, ERR_MISSING_PARAMETER,
                          "Backing file specified without backing format");
}

static bool check_backing(Img *img, const BlockDriver *driver, const char *filename,
                          json_object *words, uint64_t *size, GError **error)
{
    const char *backing = NULL, *format = NULL;

    if (!options_get_str(words, "backing_file", &backing, error) ||
        !options_get_str(words, "backing_fmt", &format, error))
        return false;
    if (backing && !find_option(driver, "backing_file"))
        return fail(error, ERR_UNSUPPORTED, "Backing file not supported for file format '%s'",
                    driver->name);
    if (format && !block_driver_find(format))
        return fail(error, ERR_INVALID_PARAMETER, "Unknown backing file format '%s'", format);
    if (backing && !look_at_backing(img, filename, backing, format, size, error))
        return false;
    return *size != UINT64_MAX ||
           fail(error, ERR_MISSING_PARAMETER, "Image creation needs a size parameter");
}

/* Before anything is said to be under way.  A name with dots is nested, and checked when it is
 * used. */
static bool check_words(const BlockDriver *driver, json_object *words, GError **error)
{
    json_object_object_foreach(words, key, value)
    {
        if (!json_object_is_type(value, json_type_object) && !find_option(driver, key) &&
            !find_option(block_driver_find("file"), key))
            return fail(error, ERR_UNKNOWN_PARAMETER, "Invalid parameter '%s'", key) ||
                   error_hint(error, "-o help lists what format '%s' takes", driver->name);
    }
    return true;
}

static bool create_image(Img *img, const BlockDriver *driver, json_object *words, GError **error)
{
    const char *filename = img->operands[0];
    uint64_t size = UINT64_MAX;

    if (!driver->image || !driver->image->co_create)
        return fail(error, ERR_UNSUPPORTED, "Format driver '%s' does not support image creation",
                    driver->name);
    if (!check_words(driver, words, error))
        return false;
    if (img->n_operands > 1 && json_object_object_get_ex(words, "size", NULL))
        return fail(error, ERR_INVALID_PARAMETER, "The image size must be specified only once");
    put_str(words, "backing_file", img_value(img, 'b'));
    put_str(words, "backing_fmt", img_value(img, 'F'));
    if (img->n_operands > 1 ? !img_parse_size(img->operands[1], "Image size", &size, error)
                            : !options_get_size(words, "size", &size, error))
        return false;
    if (!check_backing(img, driver, filename, words, &size, error))
        return false;
    json_object_object_add(words, "size", json_object_new_uint64(size));
    return print_formatting(img, filename, driver, words, error) &&
           block_image_create(img->graph, driver->name, filename, words, error);
}

static int run_create(Img *img, GError **error)
{
    const char *format = img_value(img, 'f') ?: "raw";
    const BlockDriver *driver = block_driver_find(format);
    g_autoptr(json_object) words = NULL;
    bool help;

    if (!driver) {
        block_driver_get(format, error);
        return img->n_operands ? error_prefix(error, "%s: ", img->operands[0]) || 1 : 1;
    }
    words = img_create_words(img, &help, error);
    if (help)
        return img_print_create_options(format, img->n_operands ? img->operands[0] : NULL), 0;
    if (!words)
        return 1;
    if (!img->n_operands)
        return img_usage(error, "Expecting image file name");
    if (create_image(img, driver, words, error))
        return 0;
    error_prefix(error, "%s: ", img->operands[0]);
    return 1;
}

static const ImgOption create_options[] = {
    IMG_COMMON,
    { 'f', "format", "FMT", "the new image's format; raw without it" },
    { 'b', "backing", "FILE", "the backing file, whose content shows where the image has none" },
    { 'F', "backing-format", "FMT", "the backing file's format; to be said with -b" },
    { 'u', "backing-unsafe", NULL, "do not open the backing file; a size is needed then" },
    { 'o', "options", "OPTIONS", "options of the format; -o help lists them" },
    { 0 }
};
const ImgCommand img_create = {
    .name = "create", .operands = "FILENAME [SIZE]", .help = "Make a new image",
    .run = run_create, .options = create_options, .min = 0, .max = 2,
};

/* resize */

typedef struct Resize {
    ImgImage image;
    uint64_t from, to;
    BlockPrealloc how;
    GError **error;
    int ret;
} Resize;

static void co_fn preallocate(void *opaque)
{
    Resize *r = opaque;

    r->ret = block_co_preallocate(r->image.node, r->from, r->to - r->from, r->how, r->error);
}

/* "+10M", "-10M", or a size. */
static bool new_size(const char *text, uint64_t now, uint64_t *ret, GError **error)
{
    char sign = *text == '+' || *text == '-' ? *text++ : 0;
    uint64_t size;

    if (!img_parse_size(text, "Image size", &size, error))
        return false;
    if (sign == '-' && size > now)
        return fail(error, ERR_INVALID_PARAMETER, "New image size must be positive");
    if (sign == '+' && size > INT64_MAX - now)
        return fail(error, ERR_LIMIT, "Image size must be less than 8 EiB");
    *ret = sign == '+' ? now + size : sign == '-' ? now - size : size;
    return *ret > 0 || fail(error, ERR_INVALID_PARAMETER, "New image size must be positive");
}

static bool may_shrink(const Img *img, const Resize *r, GError **error)
{
    if (r->to >= r->from)
        return true;
    if (r->how != BLOCK_PREALLOC_OFF)
        return fail(error, ERR_INVALID_PARAMETER,
                    "Preallocation can only be used for growing images");
    if (img_has(img, IMG_SHRINK))
        return true;
    warn_report("Shrinking an image will delete all data beyond the shrunken image's end. Before "
                "performing such an operation, make sure there is no important data there.");
    return fail(error, ERR_INVALID_PARAMETER,
                "Use the --shrink option to perform a shrink operation.");
}

static bool resize_image(Img *img, Resize *r, const char *size, GError **error)
{
    int64_t now = block_node_size(r->image.node);
    BlockNode *node = r->image.node;

    r->from = MAX(now, 0);
    if (!new_size(size, r->from, &r->to, error) || !may_shrink(img, r, error))
        return false;
    block_user_free(r->image.user);        /* resizing has a user of its own */
    r->image.user = NULL;
    if (!block_node_resize(node, r->to, error))
        return false;
    if (r->how == BLOCK_PREALLOC_OFF || r->to <= r->from)
        return true;
    r->image.user = block_user_new(node, "preallocation", BLOCK_PERM_READ | BLOCK_PERM_WRITE |
                                   BLOCK_PERM_RESIZE, BLOCK_PERM_READ, error);
    if (!r->image.user)
        return false;
    co_run_sync(preallocate, r);
    return r->ret == 0;
}

static bool parse_preallocation(const Img *img, BlockPrealloc *ret, GError **error)
{
    const char *word = img_value(img, IMG_PREALLOCATION);

    for (unsigned i = 0; word && block_prealloc_words[i]; i++) {
        if (!strcmp(word, block_prealloc_words[i])) {
            *ret = i;
            return true;
        }
    }
    return !word || fail(error, ERR_INVALID_PARAMETER, "Invalid preallocation mode '%s'", word);
}

static int run_resize(Img *img, GError **error)
{
    Resize r = { .error = error };
    bool ok;

    if (!parse_preallocation(img, &r.how, error) ||
        !img_open_given(img, img->operands[0], IMG_WRITE | IMG_RESIZE, &r.image, error))
        return 1;
    ok = resize_image(img, &r, img->n_operands > 1 ? img->operands[1] : "", error);
    if (ok && r.image.user)
        ok = img_finish(&r.image, error);
    img_close(&r.image);
    if (ok)
        img_print(img, "Image resized.\n");
    return !ok;
}

static const ImgOption resize_options[] = {
    IMG_COMMON, IMG_SOURCE,
    { IMG_PREALLOCATION, "preallocation", "MODE",
      "off, metadata, falloc or full: space for the new part" },
    { IMG_SHRINK, "shrink", NULL, "yes, the image is to become smaller" },
    { 0 }
};
const ImgCommand img_resize = {
    .name = "resize",
    .operands = "FILENAME [+|-]SIZE",
    .help = "Change the size of an image's disk",
    .run = run_resize,
    .options = resize_options,
    .min = 2,
    .max = 2,
    .size_last = true,
};

/* amend */

typedef struct Amend {
    ImgImage image;
    json_object *options;
    bool force;
    GError **error;
    int ret;
} Amend;

static void co_fn amend(void *opaque)
{
    Amend *a = opaque;

    a->ret = block_co_amend(a->image.node, a->options, a->force, a->error);
}

static bool is_for_amend(const BlockDriver *driver, const char *name)
{
    const BlockCreateOption *o = driver->image->amend_options;

    while (o && o->name && strcmp(o->name, name))
        o++;
    return o && o->name;
}

static bool check_amendable(const BlockDriver *driver, json_object *words, GError **error)
{
    json_object_object_foreach(words, key, value)
    {
        const BlockCreateOption *o = find_option(driver, key);

        if (!o && is_for_amend(driver, key))
            continue;
        /* A name with dots is nested, and checked by the driver. */
        if (json_object_is_type(value, json_type_object))
            continue;
        if (!o)
            return fail(error, ERR_UNKNOWN_PARAMETER, "Invalid parameter '%s'", key);
        if (!o->amendable)
            return fail(error, ERR_UNSUPPORTED, "Changing '%s' of an image is not supported", key);
    }
    return true;
}

static bool amend_image(Img *img, Amend *a, json_object *words, GError **error)
{
    const char *format = block_node_driver(a->image.node);
    const BlockDriver *driver = block_driver_find(format);

    if (!driver->image || !driver->image->co_amend)
        return fail(error, ERR_UNSUPPORTED, "Format driver '%s' does not support option amendment",
                    format);
    if (!check_amendable(driver, words, error))
        return false;
    a->options = block_amend_options_parse(format, words, error);
    if (!a->options)
        return false;
    img_progress_begin(img, 1);
    co_run_sync(amend, a);
    json_object_put(a->options);
    if (a->ret == 0)
        img_progress_end(img);
    return a->ret == 0;
}

static int amend_help(const char *format, GError **error)
{
    const BlockDriver *driver = block_driver_get(format, error);

    if (!driver)
        return 1;
    if (!driver->image || !driver->image->co_amend)
        return !fail(error, ERR_UNSUPPORTED, "Format driver '%s' does not support option amendment",
                     format);
    img_print_amend_options(format);
    return 0;
}

static int run_amend(Img *img, GError **error)
{
    Amend a = { .force = img_has(img, IMG_FORCE), .error = error };
    g_autoptr(json_object) words = NULL;
    bool help, ok;

    words = img_create_words(img, &help, error);
    if (help && img_value(img, 'f'))
        return amend_help(img_value(img, 'f'), error);
    if (!words && !help)
        return 1;
    if (!img_has(img, 'o'))
        return img_usage(error, "Must specify options (-o)");
    if (!img->n_operands)
        return img_usage(error, "Expecting one image file name");
    if (!img_open_given(img, img->operands[0], IMG_WRITE | IMG_RESIZE, &a.image, error))
        return 1;
    ok = help ? amend_help(block_node_driver(a.image.node), error) == 0
              : amend_image(img, &a, words, error) && img_finish(&a.image, error);
    img_close(&a.image);
    return !ok;
}

static const ImgOption amend_options[] = {
    IMG_COMMON, IMG_SOURCE, IMG_CACHE, IMG_PROGRESS,
    { 'o', "options", "OPTIONS", "what is to change; -o help with -f lists what a format takes" },
    { IMG_FORCE, "force", NULL, "allow what may lose data: the last key slot, for instance" },
    { 0 }
};
const ImgCommand img_amend = {
    .name = "amend", .operands = "FILENAME", .help = "Change an image's options",
    .run = run_amend, .options = amend_options, .min = 0, .max = 1,
};

/* From the name of an image to the options of the node that holds it. */
#include "block/chain.h"
#include <string.h>
#include <sys/stat.h>

enum { NESTING_MAX = 64 };

static int do_stat_device(void *filename)
{
    struct stat st;

    return !stat(filename, &st) && (S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode));
}

static bool co_fn is_device(const char *filename)
{
    return co_worker_call(do_stat_device, (char *)filename);
}

/* How long the "PROTOCOL" of "PROTOCOL:…" is; 0: a path.  "./a:b" and "/a:b" are paths. */
static size_t scheme_length(const char *filename)
{
    size_t n = strspn(filename, G_CSET_a_2_z G_CSET_A_2_Z G_CSET_DIGITS "+-._");

    return filename[n] == ':' ? n : 0;
}

typedef struct SchemeSearch {
    const char *name;
    const BlockDriver *found;
} SchemeSearch;

static void look_for_scheme(const BlockDriver *driver, void *opaque)
{
    SchemeSearch *search = opaque;

    if (driver->uri_schemes && g_strv_contains(driver->uri_schemes, search->name))
        search->found = driver;
}

/* "host_device:PATH", "null-co://". */
static json_object *options_of_prefix(const char *filename, size_t scheme)
{
    static const char *const others[] = { "null-co", "null-aio", NULL };
    g_autofree char *name = g_strndup(filename, scheme);
    bool is_device = !strcmp(name, "host_device");
    json_object *options;

    if (!is_device && !(g_strv_contains(others, name) && !strcmp(filename + scheme, "://")))
        return NULL;
    options = json_object_new_object();
    json_add_str(options, "driver", name);
    if (is_device)
        json_add_str(options, "filename", filename + scheme + 1);
    return options;
}

static json_object *options_of_uri(const char *filename, size_t scheme, GError **error)
{
    g_autofree char *name = g_strndup(filename, scheme);
    SchemeSearch search = { name, NULL };

    block_driver_foreach(look_for_scheme, &search);
    if (search.found)
        return search.found->parse_uri(filename, error);
    fail(error, ERR_UNSUPPORTED, "'%s': the protocol '%s' is not in this build", filename, name);
    error_hint(error, "if it is the name of a file, write file:%s or ./%s", filename, filename);
    return NULL;
}

/* Children that have a file's name, and leave it to that which driver it is. */
static bool co_fn complete_children(json_object *options, unsigned depth, GError **error)
{
    static const char *const keys[] = { "file", "data-file", "image", "log", NULL };
    json_object *backing;

    if (depth > NESTING_MAX)
        return fail(error, ERR_LIMIT, "options are nested too deeply");
    for (unsigned i = 0; keys[i]; i++) {
        g_autoptr(json_object) named = NULL;
        json_object *value;

        if (!json_object_object_get_ex(options, keys[i], &value) ||
            !json_object_is_type(value, json_type_object))
            continue;
        if (!complete_children(value, depth + 1, error))
            return false;
        named = block_file_options(value, error);
        if (!named)
            return false;
        json_object_object_add(options, keys[i], g_steal_pointer(&named));
    }
    backing = json_object_object_get(options, "backing");
    return !json_object_is_type(backing, json_type_object) ||
           complete_children(backing, depth + 1, error);
}

bool co_fn block_options_complete(json_object *options, GError **error)
{
    return complete_children(options, 0, error);
}

bool block_options_say_format(json_object *options)
{
    const char *name = json_get_str(options, "driver");
    const BlockDriver *driver = name ? block_driver_find(name) : NULL;

    return !driver || !(driver->is_protocol || driver->uri_schemes);
}

json_object *block_options_protocol(json_object *options)
{
    json_object *file;

    return block_options_say_format(options) &&
                   json_object_object_get_ex(options, "file", &file) &&
                   json_object_is_type(file, json_type_object)
               ? file
               : options;
}

json_object *co_fn block_file_options(json_object *file, GError **error)
{
    json_object *options;

    if (!json_object_is_type(file, json_type_object))
        return block_filename_options(json_object_get_string(file), NULL, error);
    if (json_object_object_get_ex(file, "driver", NULL) || !json_get_str(file, "filename"))
        return json_object_get(file);
    options = block_filename_options(json_get_str(file, "filename"), NULL, error);
    if (!options)
        return NULL;
    json_object_object_foreach(file, key, value)
    {
        if (strcmp(key, "filename"))
            json_object_object_add(options, key, json_object_get(value));
    }
    return options;
}

static json_object *co_fn options_of_json(const char *text, GError **error)
{
    g_autoptr(json_object) options = json_parse(text, strlen(text), error);
    const char *driver;

    if (!options)
        return NULL;
    if (!json_object_is_type(options, json_type_object)) {
        fail(error, ERR_WRONG_TYPE, "json: needs an object");
        return NULL;
    }
    if (!options_nest(options, error) || !block_options_complete(options, error))
        return NULL;
    driver = json_get_str(options, "driver");
    if (driver && !block_driver_get(driver, error))
        return NULL;
    if (!driver && !json_object_object_get_ex(options, "file", NULL)) {
        fail(error, ERR_MISSING_PARAMETER, "json: must specify either 'driver' or 'file'");
        return NULL;
    }
    return g_steal_pointer(&options);
}

char *block_filename_resolve(const char *filename, const char *relative_to)
{
    g_autofree char *folder = NULL;

    if (!relative_to || g_path_is_absolute(filename) || scheme_length(filename) ||
        scheme_length(relative_to))
        return g_strdup(filename);
    folder = g_path_get_dirname(relative_to);
    return strcmp(folder, ".") ? g_build_filename(folder, filename, NULL) : g_strdup(filename);
}

json_object *co_fn block_filename_options(const char *filename, const char *relative_to,
                                          GError **error)
{
    size_t scheme = scheme_length(filename);
    g_autofree char *path = NULL;
    json_object *options;

    if (g_str_has_prefix(filename, "json:"))
        return options_of_json(filename + strlen("json:"), error);
    options = scheme ? options_of_prefix(filename, scheme) : NULL;
    if (options)
        return options;
    if (scheme && !g_str_has_prefix(filename, "file:"))
        return options_of_uri(filename, scheme, error);
    path = block_filename_resolve(filename + (scheme ? scheme + 1 : 0), relative_to);
    options = json_object_new_object();
    json_add_str(options, "driver", is_device(path) ? "host_device" : "file");
    json_add_str(options, "filename", path);
    return options;
}

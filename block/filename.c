/* From the name of an image to the options of the node that holds it. */
#include "block/chain.h"
#include <string.h>
#include <sys/stat.h>

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
    size_t n = strspn(filename, G_CSET_a_2_z G_CSET_A_2_Z G_CSET_DIGITS "+-.");

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

static json_object *options_of_json(const char *text, GError **error)
{
    json_object *options = json_parse(text, strlen(text), error);

    if (!options || json_object_is_type(options, json_type_object))
        return options;
    fail(error, ERR_WRONG_TYPE, "json: needs an object");
    json_object_put(options);
    return NULL;
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
    if (scheme && !g_str_has_prefix(filename, "file:"))
        return options_of_uri(filename, scheme, error);
    path = block_filename_resolve(filename + (scheme ? scheme + 1 : 0), relative_to);
    options = json_object_new_object();
    json_add_str(options, "driver", is_device(path) ? "host_device" : "file");
    json_add_str(options, "filename", path);
    return options;
}

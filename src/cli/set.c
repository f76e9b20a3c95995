/*
 * -set GROUP.ID.ARG=VALUE: one more parameter of an option that stands before it, or another value of one
 * that it has: -device virtio-blk-pci,id=d,… -set device.d.serial=X.
 */
#include <string.h>
#include "src/base/options.h"
#include "src/cli/options.h"

static json_object *find_id(const GPtrArray *options, const char *id)
{
    for (unsigned i = options->len; i-- > 0;) {
        if (!g_strcmp0(json_get_str(options->pdata[i], "id"), id))
            return options->pdata[i];
    }
    return NULL;
}

/* Members of @more replace those of @into; objects are merged. */
static void merge_deep(json_object *into, json_object *more)
{
    json_object_object_foreach(more, key, value) {
        json_object *before = NULL;

        json_object_object_get_ex(into, key, &before);
        if (json_object_is_type(before, json_type_object) && json_object_is_type(value, json_type_object))
            merge_deep(before, value);
        else
            json_object_object_add(into, key, json_object_get(value));
    }
}

/* Those of an option that were given so far; NULL: its members have no ids. */
static const GPtrArray *find_group(const Config *c, const char *name, GError **error)
{
    const struct {
        const char *name;
        const GPtrArray *options;
    } groups[] = {
        { "device", c->devices }, { "drive", c->drives }, { "chardev", c->chardevs },
        { "object", c->objects }, { "mon", c->mons },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(groups); i++) {
        if (!strcmp(groups[i].name, name))
            return groups[i].options;
    }
    fail(error, ERR_NOT_FOUND, "there is no group of options '%s' whose members have ids", name);
    error_hint(error, "there are: device, drive, chardev, object, mon");
    return NULL;
}

/* A value may hold commas: there is but one. */
static json_object *parse_argument(const CliOption *option, const char *key, const char *value,
                                   GError **error)
{
    g_auto(GStrv) parts = g_strsplit(value, ",", -1);
    g_autofree char *escaped = g_strjoinv(",,", parts);
    g_autofree char *text = g_strdup_printf("%s=%s", key, escaped);

    return cli_parse_value(option, text, NULL, error);
}

bool cli_set(Config *config, const char *text, GError **error)
{
    const char *equals = strchr(text, '=');
    g_autofree char *names = equals ? g_strndup(text, equals - text) : NULL;
    g_auto(GStrv) parts = equals ? g_strsplit(names, ".", 3) : NULL;

    if (!equals || g_strv_length(parts) != 3 || !*parts[1] || !*parts[2] || strchr(parts[2], ',')) {
        fail(error, ERR_INVALID_SYNTAX, "it is not GROUP.ID.ARG=VALUE");
        return error_hint(error, "for example: -set device.disk0.serial=A1");
    }
    const GPtrArray *group = find_group(config, parts[0], error);
    json_object *options = group ? find_id(group, parts[1]) : NULL;

    if (!group)
        return false;
    if (!options) {
        fail(error, ERR_NOT_FOUND, "there is no %s \"%s\" defined", parts[0], parts[1]);
        return error_hint(error, "-set comes after the -%s that it changes", parts[0]);
    }
    const CliOption *option = cli_option_find(parts[0]);
    g_autoptr(json_object) more = parse_argument(option, parts[2], equals + 1, error);

    if (!more || !cli_check(option, more, error))
        return false;
    merge_deep(options, more);
    return true;
}

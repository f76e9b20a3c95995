/*
 * -readconfig: options from a file in QEMU's form.
 *
 *     # comment
 *     [device "disk0"]
 *       driver = "virtio-blk-pci"
 *       drive = "root"
 *     [machine]
 *       type = "q35"
 *
 * A section is one use of the key=value option of its name; the quoted word is its id.  Every value
 * is a string in quotes; there are no escapes.
 */
#include <string.h>
#include "src/base/options.h"
#include "src/cli/options.h"

typedef struct Section {
    const CliOption *option;               /* NULL: before the first section */
    json_object *opts;
} Section;

static bool finish_section(Config *config, Section *s, GError **error)
{
    g_autoptr(json_object) opts = g_steal_pointer(&s->opts);

    if (!s->option)
        return true;
    if (!s->option->opts(config, opts, error))
        return error_prefix(error, "[%s]: ", s->option->name);
    return true;
}

/* [NAME] or [NAME "ID"] */
static bool begin_section(Section *s, char *line, GError **error)
{
    char *end = strrchr(line, ']'), *quote = strchr(line, '"');

    if (!end || end[1])
        return fail(error, ERR_INVALID_SYNTAX, "']' is missing at the end of '%s'", line);
    *end = '\0';
    if (quote) {
        char *last = strrchr(quote + 1, '"');

        if (!last || last[1])
            return fail(error, ERR_INVALID_SYNTAX, "the id of '%s]' has no closing quote", line);
        *last = '\0';
        *quote++ = '\0';
    }
    const char *name = g_strstrip(line + 1);

    s->option = cli_option_find(name);
    if (!s->option || !s->option->opts)
        return fail(error, ERR_UNKNOWN_PARAMETER, "there is no section [%s]", name);
    s->opts = json_object_new_object();
    if (quote)
        json_object_object_add(s->opts, "id", json_object_new_string(quote));
    return true;
}

static bool add_value(Section *s, char *line, GError **error)
{
    char *equals = strchr(line, '=');

    if (!equals)
        return fail(error, ERR_INVALID_SYNTAX, "'%s' is not KEY = \"VALUE\"", line);
    if (!s->option)
        return fail(error, ERR_INVALID_SYNTAX, "'%s' stands before the first [section]", line);
    *equals = '\0';

    char *key = g_strstrip(line), *value = g_strstrip(equals + 1);
    size_t length = strlen(value);

    if (length < 2 || value[0] != '"' || value[length - 1] != '"')
        return fail(error, ERR_INVALID_SYNTAX, "the value of '%s' is not in double quotes", key);
    value[length - 1] = '\0';
    json_object_object_add(s->opts, key, json_object_new_string(value + 1));
    return true;
}

bool cli_read_config(Config *config, const char *path, GError **error)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    Section section = { 0 };
    bool ok = true;

    if (!g_file_get_contents(path, &text, NULL, error))
        return false;
    lines = g_strsplit(text, "\n", -1);
    for (unsigned i = 0; lines[i] && ok; i++) {
        char *line = g_strstrip(lines[i]);

        if (!*line || *line == '#')
            continue;
        if (*line == '[')
            ok = finish_section(config, &section, error) && begin_section(&section, line, error);
        else
            ok = add_value(&section, line, error);
        if (!ok)
            error_prefix(error, "%s:%u: ", path, i + 1);
    }
    if (ok)
        ok = finish_section(config, &section, error) ||
             error_prefix(error, "%s: ", path);
    json_object_put(section.opts);
    return ok;
}

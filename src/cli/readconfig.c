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
 * is a string in quotes; there are no escapes.  Keys may be dotted, as on the command line.
 */
#include <string.h>
#include "src/base/options.h"
#include "src/cli/options.h"

typedef struct Section {
    const CliOption *option;               /* NULL: before the first section */
    GString *text;                         /* as the command line has it: key=value,key=value */
    char *origin;                          /* "FILE:LINE", for errors that are found later */
} Section;

static void append_value(Section *s, const char *key, const char *value)
{
    g_auto(GStrv) parts = g_strsplit(value, ",", -1);
    g_autofree char *escaped = g_strjoinv(",,", parts);

    g_string_append_printf(s->text, "%s%s=%s", s->text->len ? "," : "", key, escaped);
}

static bool finish_section(Config *config, Section *s, GError **error)
{
    const CliOption *option = g_steal_pointer(&s->option);
    g_autoptr(json_object) opts = NULL;

    if (!option)
        return true;
    opts = cli_parse_value(option, s->text->str, NULL, error);
    if (!opts)
        return error_prefix(error, "[%s]: ", option->name);
    config_set_origin(config, opts, s->origin);
    return cli_apply(config, option, opts, error) || error_prefix(error, "[%s]: ", option->name);
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
    g_string_truncate(s->text, 0);
    if (quote)
        append_value(s, "id", quote);
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

    if (!*key || strchr(key, ','))
        return fail(error, ERR_INVALID_SYNTAX, "'%s' is no name of a parameter", key);
    if (length < 2 || value[0] != '"' || value[length - 1] != '"')
        return fail(error, ERR_INVALID_SYNTAX, "the value of '%s' is not in double quotes", key);
    value[length - 1] = '\0';
    append_value(s, key, value + 1);
    return true;
}

static bool take_line(Config *config, Section *s, char *line, GError **error)
{
    if (!*line || *line == '#')
        return true;
    if (*line == '[')
        return finish_section(config, s, error) && begin_section(s, line, error);
    return add_value(s, line, error);
}

static bool take_lines(Config *config, const char *path, char **lines, GError **error)
{
    Section section = { .text = g_string_new(NULL), .origin = g_strdup(path) };
    bool ok = true;

    for (unsigned i = 0; lines[i] && ok; i++) {
        char *line = g_strstrip(lines[i]);

        ok = take_line(config, &section, line, error) ||
             error_prefix(error, "%s:%u: ", path, i + 1);
        if (*line == '[') {
            g_free(section.origin);
            section.origin = g_strdup_printf("%s:%u", path, i + 1);
        }
    }
    ok = ok && (finish_section(config, &section, error) || error_prefix(error, "%s: ", path));
    g_string_free(section.text, TRUE);
    g_free(section.origin);
    return ok;
}

bool cli_read_config(Config *config, const char *path, GError **error)
{
    g_autofree char *text = NULL;
    size_t length;

    if (!g_file_get_contents(path, &text, &length, error))
        return false;
    if (strlen(text) != length)
        return fail(error, ERR_INVALID_SYNTAX, "'%s' is not a text file", path);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    return take_lines(config, path, lines, error);
}

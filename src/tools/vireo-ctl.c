/* vireo-ctl: a QMP client for people. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "src/base/manpage.h"
#include "src/tools/ctl.h"

static const char *const synopses[] = {
    "[OPTION]… SOCKET [COMMAND [KEY=VALUE]…]",
    "[OPTION]… SOCKET help [COMMAND]",
    "[OPTION]… SOCKET events [--follow] [PATTERN]",
};

static const struct {
    const char *name, *value, *help;
} options[] = {
    { "--json", NULL, "results as JSON, one line each (the default in a pipe)" },
    { "--pretty", NULL, "results as indented JSON" },
    { "--table", NULL, "tables and lists (the default on a terminal)" },
    { "--timeout", "SECS", "give up when an answer takes longer" },
    { "--help", NULL, "this text" },
    { "--man-page", NULL, "the manual page, as troff" },
    { "--version", NULL, "the version" },
};

static const char description[] =
    "Runs a QMP command of the machine behind SOCKET (a path, or HOST:PORT) and shows its result.\n"
    "Without COMMAND: a prompt, or a command from each line of standard input.\n";
static const char arguments_text[] =
    "KEY may be dotted (backend.type=pty, list.0=x); VALUE has the type that the command asks for.\n"
    "An argument that begins with '{' is JSON.  'events' waits for one event whose name matches\n"
    "PATTERN (*, ?); with --follow it shows them until interrupted.\n";
static const char status_text[] =
    "0 done, 1 the command failed, 2 wrong usage, 3 no connection.\n";

static void print_usage(FILE *out)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(synopses); i++)
        fprintf(out, "%s vireo-ctl %s\n", i ? "      " : "Usage:", synopses[i]);
    fprintf(out, "\n%s\n", description);
    for (unsigned i = 0; i < G_N_ELEMENTS(options); i++) {
        g_autofree char *left = g_strconcat(options[i].name, options[i].value ? "=" : "",
                                            options[i].value, NULL);

        fprintf(out, "  %-16s %s\n", left, options[i].help);
    }
    fprintf(out, "\n%s\nExit status: %s", arguments_text, status_text);
}

static void print_man_page(void)
{
    man_page("vireo-ctl", "control a virtual machine over its QMP socket");
    man_section("SYNOPSIS");
    for (unsigned i = 0; i < G_N_ELEMENTS(synopses); i++)
        man_synopsis("vireo-ctl", synopses[i]);
    man_section("DESCRIPTION");
    man_paragraph(description);
    man_paragraph(arguments_text);
    man_section("OPTIONS");
    for (unsigned i = 0; i < G_N_ELEMENTS(options); i++)
        man_option(0, options[i].name, options[i].value, options[i].help);
    man_section("EXIT STATUS");
    man_paragraph(status_text);
}

static int usage_error(const char *text, const char *word)
{
    g_autoptr(GError) error = NULL;
    fail(&error, ERR_INVALID_PARAMETER, "%s '%s'", text, word);
    error_hint(&error, "vireo-ctl --help tells more");
    error_report(error);
    return CTL_USAGE;
}

CtlSchema *ctl_get_schema(Ctl *ctl)
{
    if (!ctl->schema) {
        g_autoptr(json_object) info = NULL;
        qmp_execute(ctl->qmp, "query-qmp-schema", NULL, &info, NULL);
        ctl->schema = ctl_schema_new(info);
    }
    return ctl->schema;
}

static int run_help(Ctl *ctl, const char *const *words)
{
    CtlSchema *schema = ctl_get_schema(ctl);
    g_auto(GStrv) commands = ctl_schema_commands(schema);
    for (char **name = commands; *name; name++) {
        g_autofree char *arguments = ctl_schema_usage(schema, *name);
        if (!words[0] || !strcmp(words[0], *name))
            printf("%s%s%s\n", *name, *arguments ? " " : "", arguments);
    }
    if (!words[0] || g_strv_contains((const char *const *)commands, words[0]))
        return CTL_OK;
    const char *near = nearest_word(words[0], (const char *const *)commands);
    g_autoptr(GError) error = NULL;
    fail(&error, ERR_COMMAND_NOT_FOUND, "there is no command '%s'", words[0]);
    if (near)
        error_hint(&error, "did you mean '%s'?", near);
    error_report(error);
    return CTL_FAILED;
}

/* --- events --- */

typedef struct Events {
    Ctl *ctl;
    const char *pattern;
    unsigned seen, wanted;         /* wanted: 0: no end */
} Events;

static void show_event(json_object *event, void *opaque)
{
    Events *e = opaque;
    json_object *name = NULL;
    json_object_object_get_ex(event, "event", &name);
    if ((e->wanted && e->seen >= e->wanted) ||
        !g_pattern_match_simple(e->pattern, name ? json_object_get_string(name) : ""))
        return;
    e->seen++;
    ctl_print_event(stdout, event, e->ctl->format);
}

static int run_events(Ctl *ctl, const char *const *words)
{
    Events events = { ctl, "*", 0, 1 };
    g_autoptr(GError) error = NULL;
    bool pattern = false;
    for (; *words; words++) {
        if (!strcmp(*words, "--follow"))
            events.wanted = 0;
        else if (**words == '-' || pattern)
            return usage_error("events: unexpected", *words);
        else
            events.pattern = *words, pattern = true;
    }
    qmp_on_event(ctl->qmp, show_event, &events);
    bool ok = true;
    while (ok && (!events.wanted || events.seen < events.wanted))
        ok = qmp_wait(ctl->qmp, &error);
    qmp_on_event(ctl->qmp, NULL, NULL);
    if (ok || (!events.wanted && error_get_code(error) == ERR_IO))
        return CTL_OK; /* following ends with the machine */
    error_report(error);
    return CTL_CONNECTION;
}

/* --- commands --- */

static int report(const Ctl *ctl, const char *command, GError *error, int status)
{
    g_autoptr(GError) own = error;
    error_prefix(&own, "%s: ", command);
    error_report(own);
    return status;
}

/* Where the monitor does not say what is near, the schema may. */
static void hint_command(Ctl *ctl, const char *command, GError **error)
{
    if (error_get_code(*error) != ERR_COMMAND_NOT_FOUND || error_get_hint(*error))
        return;
    g_auto(GStrv) commands = ctl_schema_commands(ctl_get_schema(ctl));
    const char *near = nearest_word(command, (const char *const *)commands);
    if (near)
        error_hint(error, "did you mean '%s'?", near);
}

static bool is_nothing(json_object *result)
{
    return json_object_is_type(result, json_type_object) && !json_object_object_length(result);
}

int ctl_run(Ctl *ctl, const char *const *words)
{
    const char *command = words[0];
    GError *error = NULL;
    g_autoptr(json_object) result = NULL;
    json_object *arguments = NULL;
    if (!strcmp(command, "help"))
        return run_help(ctl, words + 1);
    if (!strcmp(command, "events"))
        return run_events(ctl, words + 1);
    if (words[1]) {
        arguments = ctl_schema_arguments(ctl_get_schema(ctl), command, words + 1, &error);
        if (!arguments)
            return report(ctl, command, error, CTL_USAGE);
    }
    if (!qmp_execute(ctl->qmp, command, arguments, &result, &error)) {
        bool failed = qmp_failed(ctl->qmp);
        if (failed)
            hint_command(ctl, command, &error);
        return report(ctl, command, error, failed ? CTL_FAILED : CTL_CONNECTION);
    }
    if (ctl->format != CTL_TABLE || !is_nothing(result))
        ctl_print_result(stdout, result, ctl->format, ctl->columns);
    return CTL_OK;
}

/* --- the program --- */

static unsigned terminal_columns(void)
{
    struct winsize size;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

/* "--timeout=5" and "--timeout 5".  False: not this option, or it has no good value (*status). */
static bool take_timeout(char ***argv, double *timeout, int *status)
{
    const char *word = **argv, *value = NULL;
    char *end;
    if (g_str_has_prefix(word, "--timeout="))
        value = strchr(word, '=') + 1;
    else if (strcmp(word, "--timeout"))
        return false;
    else if ((*argv)[1])
        value = *++*argv;
    *timeout = value ? g_ascii_strtod(value, &end) : 0;
    if (!value || end == value || *end || !(*timeout > 0 && *timeout < 1e9))
        *status = usage_error("--timeout wants a number of seconds, not", value ? value : "");
    return true;
}

/* Returns what follows the options; *status is set if the program is to end. */
static char **take_options(char **argv, Ctl *ctl, double *timeout, int *status)
{
    for (; *argv && g_str_has_prefix(*argv, "-") && *status < 0; argv++) {
        if (!strcmp(*argv, "--json")) {
            ctl->format = CTL_JSON;
        } else if (!strcmp(*argv, "--pretty")) {
            ctl->format = CTL_PRETTY;
        } else if (!strcmp(*argv, "--table")) {
            ctl->format = CTL_TABLE;
        } else if (!strcmp(*argv, "--help") || !strcmp(*argv, "-h")) {
            print_usage(stdout);
            *status = CTL_OK;
        } else if (!strcmp(*argv, "--man-page")) {
            print_man_page();
            *status = CTL_OK;
        } else if (!strcmp(*argv, "--version")) {
            puts("vireo-ctl " VIREO_VERSION);
            *status = CTL_OK;
        } else if (!take_timeout(&argv, timeout, status)) {
            *status = usage_error("unknown option", *argv);
        }
    }
    return argv;
}

int main(int argc, char **argv)
{
    Ctl ctl = { .format = isatty(STDOUT_FILENO) ? CTL_TABLE : CTL_JSON,
                .columns = terminal_columns() };
    double timeout = 0;
    int status = -1;
    GError *error = NULL;
    g_set_prgname("vireo-ctl");
    argv = take_options(argv + 1, &ctl, &timeout, &status);
    if (status >= 0)
        return status;
    if (!argv[0]) {
        print_usage(stderr);
        return CTL_USAGE;
    }
    const char *socket = *argv++;
    argv = take_options(argv, &ctl, &timeout, &status);
    if (status >= 0)
        return status;
    ctl.qmp = qmp_open(socket, timeout, &error);
    if (!ctl.qmp) {
        error_report(error);
        g_error_free(error);
        return CTL_CONNECTION;
    }
    status = argv[0] ? ctl_run(&ctl, (const char *const *)argv) : ctl_prompt(&ctl);
    qmp_close(ctl.qmp);
    ctl_schema_free(ctl.schema);
    return status;
}

/* The prompt: readline with completion from the schema, if it was there when we were built. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "src/tools/ctl.h"
#ifdef HAVE_READLINE
#include <readline/history.h>
#include <readline/readline.h>
#endif

static bool wants_to_leave(const char *word)
{
    return !strcmp(word, "exit") || !strcmp(word, "bye");
}

/* Returns the line's status; *leave: it asked for the end. */
static int run_line(Ctl *ctl, const char *line, bool *leave)
{
    g_auto(GStrv) words = NULL;
    GError *error = NULL;
    int count;
    line += strspn(line, " \t");
    if (!*line || *line == '#')
        return CTL_OK;
    if (!g_shell_parse_argv(line, &count, &words, &error)) {
        error_report(error);
        g_error_free(error);
        return CTL_USAGE;
    }
    *leave = wants_to_leave(words[0]);
    return *leave ? CTL_OK : ctl_run(ctl, (const char *const *)words);
}

/* Commands from a file or a pipe: all of them, and the last failure's status. */
static int run_lines(Ctl *ctl, FILE *in)
{
    char *line = NULL;
    size_t size = 0;
    int status = CTL_OK;
    bool leave = false;
    while (!leave && status != CTL_CONNECTION && getline(&line, &size, in) >= 0) {
        line[strcspn(line, "\n")] = '\0';
        int one = run_line(ctl, line, &leave);
        status = one != CTL_OK ? one : status;
    }
    free(line);
    return status;
}

#ifdef HAVE_READLINE
/* readline's callbacks have no argument of ours: the one prompt of the process. */
static struct {
    Ctl *ctl;
    bool leave;
    int status;
    char **words;                  /* what is being completed; g_strfreev */
} prompt;

static char *next_match(const char *text, int state)
{
    static unsigned next;
    if (!state)
        next = 0;
    while (prompt.words && prompt.words[next]) {
        const char *word = prompt.words[next++];
        if (g_str_has_prefix(word, text))
            return strdup(word);
    }
    return NULL;
}

static char **add_words(char **names, const char *const *more)
{
    GPtrArray *all = g_ptr_array_new();
    for (char **name = names; name && *name; name++)
        g_ptr_array_add(all, g_strdup(*name));
    for (; more && *more; more++)
        g_ptr_array_add(all, g_strdup(*more));
    g_ptr_array_add(all, NULL);
    g_strfreev(names);
    return (char **)g_ptr_array_free(all, FALSE);
}

/* "key=" before each word. */
static char **with_affixes(char **words, const char *before, const char *after)
{
    for (char **word = words; word && *word; word++) {
        char *joined = g_strconcat(before, *word, after, NULL);
        g_free(*word);
        *word = joined;
    }
    return words;
}

static char **candidates(const char *text, const char *line, int start)
{
    static const char *const own[] = { "events", "exit", "help", NULL };
    CtlSchema *schema = prompt.ctl->schema;
    const char *first = line + strspn(line, " \t");
    size_t length = strcspn(first, " \t");
    if (start <= first - line)
        return add_words(ctl_schema_commands(schema), own);
    g_autofree char *command = g_strndup(first, length);
    if (!strcmp(command, "help"))
        return ctl_schema_commands(schema);
    const char *equals = strchr(text, '=');
    if (!equals) {
        rl_completion_append_character = '\0';
        return with_affixes(ctl_schema_argument_names(schema, command), "", "=");
    }
    g_autofree char *key = g_strndup(text, (gsize)(equals - text));
    g_autofree char *before = g_strconcat(key, "=", NULL);
    return with_affixes(ctl_schema_argument_values(schema, command, key), before, "");
}

static char **complete(const char *text, int start, int end)
{
    rl_attempted_completion_over = 1; /* no file names */
    g_strfreev(prompt.words);
    prompt.words = candidates(text, rl_line_buffer, start);
    return rl_completion_matches(text, next_match);
}

/* While a command runs there is no line. */
static void print_event(json_object *event, void *opaque)
{
    Ctl *ctl = opaque;
    ctl_print_event(stdout, event, ctl->format);
}

static void on_line(char *line)
{
    if (!line) {
        putchar('\n');
        prompt.leave = true;
        return;
    }
    if (*line)
        add_history(line);
    rl_callback_handler_remove(); /* the command has the terminal as it was */
    qmp_on_event(prompt.ctl->qmp, print_event, prompt.ctl);
    prompt.status = run_line(prompt.ctl, line, &prompt.leave);
    qmp_on_event(prompt.ctl->qmp, NULL, NULL);
    prompt.leave |= prompt.status == CTL_CONNECTION;
    free(line);
    if (!prompt.leave)
        rl_callback_handler_install("vireo> ", on_line);
}

/* Above the line that is being typed. */
static void show_event(json_object *event, void *opaque)
{
    Ctl *ctl = opaque;
    rl_clear_visible_line();
    ctl_print_event(stdout, event, ctl->format);
    rl_on_new_line();
    rl_redisplay();
}

static int run_prompt(Ctl *ctl)
{
    g_autoptr(GError) error = NULL;
    prompt.ctl = ctl;
    ctl_get_schema(ctl);
    rl_attempted_completion_function = complete;
    rl_completer_word_break_characters = (char *)" \t";
    rl_callback_handler_install("vireo> ", on_line);
    while (!prompt.leave) {
        struct pollfd fds[] = { { STDIN_FILENO, POLLIN, 0 }, { qmp_fd(ctl->qmp), POLLIN, 0 } };
        if (poll(fds, 2, -1) < 0)
            continue; /* a signal: readline has seen it */
        qmp_on_event(ctl->qmp, show_event, ctl);
        bool alive = !fds[1].revents || qmp_poll(ctl->qmp, &error);
        qmp_on_event(ctl->qmp, NULL, NULL);
        if (!alive) {
            putchar('\n');
            error_report(error);
            prompt.status = CTL_CONNECTION;
            break;
        }
        if (fds[0].revents)
            rl_callback_read_char();
    }
    rl_callback_handler_remove();
    g_strfreev(prompt.words);
    return prompt.status;
}
#else
static int run_prompt(Ctl *ctl)
{
    return run_lines(ctl, stdin);
}
#endif

int ctl_prompt(Ctl *ctl)
{
    return isatty(STDIN_FILENO) ? run_prompt(ctl) : run_lines(ctl, stdin);
}

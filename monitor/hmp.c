#include "monitor/hmp.h"
#include <stdarg.h>
#include <string.h>
#include "monitor/lineedit.h"
#include "monitor/output.h"
#include "src/base/options.h"

#define PROMPT "(vireo) "
#define OUTPUT_MAX (4u * 1024 * 1024)      /* unread text: what comes above it is dropped */

struct HmpSession {
    Vm *vm;
    CharFront front;
    MonitorOutput out;
    LineEdit *edit;
    LoopBh show;                           /* the banner or the prompt, when we have the terminal */
    bool connected, greeted, closed;
    bool ending;                           /* the peer sends no more: it gets what is written already */
    int cpu;                               /* that commands look at */
    unsigned entered;                      /* our functions on the stack: not freed meanwhile */
};

/* ---- running a line ---- */

const HmpCommand *hmp_find(const HmpCommand *table, const char *name)
{
    for (; table->name; table++) {
        if (!strcmp(table->name, name) || !g_strcmp0(table->alias, name))
            return table;
    }
    return NULL;
}

void hmp_print(Hmp *h, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_string_append_vprintf(h->out, format, args);
    va_end(args);
}

bool hmp_number(const char *word, uint64_t *ret, GError **error)
{
    g_autoptr(json_object) value = json_object_new_string(word);
    return value_to_size(value, "number", ret, error);
}

static void print_error(Hmp *h, const GError *error)
{
    hmp_print(h, "Error: %s\n", error->message);
    if (error_get_hint(error))
        hmp_print(h, "Hint: %s\n", error_get_hint(error));
}

static void unknown_command(Hmp *h, const HmpCommand *table, const char *prefix, const char *word)
{
    g_autoptr(GPtrArray) names = hmp_complete_names(table);
    g_ptr_array_add(names, NULL);
    const char *near = nearest_word(word, (const char *const *)names->pdata);
    hmp_print(h, "unknown command: '%s%s'\n", prefix, word);
    if (near)
        hmp_print(h, "Hint: did you mean '%s%s'?\n", prefix, near);
}

/* @prefix: "info " for the second table. */
static void run_words(Hmp *h, const HmpCommand *table, const char *prefix, char **words)
{
    g_autoptr(GError) error = NULL;
    const HmpCommand *command = hmp_find(table, words[0]);
    if (!command) {
        unknown_command(h, table, prefix, words[0]);
        return;
    }
    h->words = words + 1;
    h->count = g_strv_length(h->words);
    if (h->count < command->min || h->count > command->max) {
        hmp_print(h, "usage: %s%s %s\n", prefix, command->name, command->arguments);
        return;
    }
    command->run(h, &error);
    if (error)
        print_error(h, error);
}

/* "x/4xb 0" is "x /4xb 0". */
static char *space_format(const char *line)
{
    size_t word = strcspn(line, " \t\"'/");
    return word && line[word] == '/' ? g_strdup_printf("%.*s %s", (int)word, line, line + word)
                                     : g_strdup(line);
}

/* Words are split at spaces, with the shell's quotes. */
static void run_line(Hmp *h, const char *line)
{
    g_auto(GStrv) words = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *stripped = g_strstrip(g_strdup(line)), *text = space_format(stripped);
    if (!*text || *text == '#')
        return;
    if (!g_shell_parse_argv(text, NULL, &words, &error)) {
        hmp_print(h, "Error: a quotation mark or a backslash at the end stands alone\n");
        return;
    }
    h->rest = text + strcspn(text, " \t");
    h->rest += strspn(h->rest, " \t");
    run_words(h, hmp_commands, "", words);
}

static char *run(Vm *vm, const char *line, int cpu, HmpSession *session)
{
    Hmp h = { .vm = vm, .out = g_string_new(NULL), .cpu = cpu, .session = session };
    run_line(&h, line);
    return g_string_free(h.out, FALSE);
}

char *hmp_run(Vm *vm, const char *line, int cpu)
{
    g_autofree char *text = run(vm, line, cpu, NULL);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    return g_strjoinv("\r\n", lines);    /* as clients of QMP know it */
}

void hmp_info_run(Hmp *h, GError **error)
{
    if (h->count) {
        run_words(h, hmp_info, "info ", h->words);
        return;
    }
    for (const HmpCommand *info = hmp_info; info->name; info++)
        hmp_print(h, "info %s %s -- %s\n", info->name, info->arguments, info->help);
}

/* ---- the session ---- */

static void session_free(HmpSession *s)
{
    line_edit_free(s->edit);
    monitor_output_clear(&s->out);
    g_free(s);
}

static void session_leave(HmpSession *s)
{
    if (!--s->entered && s->closed)
        session_free(s);
}

static void session_print(void *opaque, const char *text, size_t length)
{
    HmpSession *s = opaque;
    if (!s->connected || monitor_output_pending(&s->out) > OUTPUT_MAX)
        return;
    monitor_output_write(&s->out, text, length);
}

static void session_line(void *opaque, const char *line)
{
    HmpSession *s = opaque;
    g_autofree char *text = run(s->vm, line, s->cpu, s);
    for (const char *from = text; *from;) {
        const char *end = strchrnul(from, '\n');
        session_print(s, from, end - from);
        session_print(s, "\r\n", *end ? 2 : 0);
        from = *end ? end + 1 : end;
    }
    if (s->connected)
        line_edit_prompt(s->edit);
}

GPtrArray *hmp_complete_names(const HmpCommand *table)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    for (; table->name; table++)
        g_ptr_array_add(names, g_strdup(table->name));
    return names;
}

static GPtrArray *candidates(Vm *vm, char **words, unsigned count)
{
    if (!count)
        return hmp_complete_names(hmp_commands);
    const HmpCommand *command = hmp_find(hmp_commands, words[0]);
    return command && command->complete ? command->complete(vm, count - 1) : NULL;
}

/* Those of the candidates that begin with @word. */
static GPtrArray *session_complete(void *opaque, const char *line, const char *word)
{
    HmpSession *s = opaque;
    g_autofree char *before = g_strndup(line, word - line);
    g_auto(GStrv) words = g_strsplit_set(g_strstrip(before), " ", -1);
    unsigned count = *before ? g_strv_length(words) : 0;
    GPtrArray *all = candidates(s->vm, words, count);
    for (guint i = all ? all->len : 0; i-- > 0;) {
        if (!g_str_has_prefix(all->pdata[i], word))
            g_ptr_array_remove_index(all, i);
    }
    return all;
}

void hmp_session_set_cpu(HmpSession *s, int cpu)
{
    s->cpu = cpu;
}

const GPtrArray *hmp_session_history(const HmpSession *s)
{
    return line_edit_history(s->edit);
}

/* Later than the event that gave us the terminal: on a mux the front end that is attached next takes
 * it away at once, and the monitor is first heard of when it is looked at (Ctrl-A C). */
static void show(void *opaque)
{
    static const char text[] = "Vireo " VIREO_VERSION " monitor - type 'help' for more information\r\n";
    HmpSession *s = opaque;
    if (!s->greeted)
        session_print(s, text, strlen(text));
    s->greeted = true;
    line_edit_prompt(s->edit);
    monitor_output_flush(&s->out);
}

static size_t can_receive(void *opaque)
{
    HmpSession *s = opaque;
    return monitor_output_pending(&s->out) < OUTPUT_MAX ? 4096 : 0;
}

static void receive(void *opaque, const uint8_t *data, size_t length)
{
    HmpSession *s = opaque;
    s->entered++;
    line_edit_feed(s->edit, (const char *)data, length);
    if (!s->closed)
        monitor_output_flush(&s->out);
    session_leave(s);
}

static void writable(void *opaque)
{
    HmpSession *s = opaque;
    s->entered++;
    monitor_output_flush(&s->out);
    if (s->ending && !monitor_output_pending(&s->out))
        char_front_hang_up(&s->front);
    if (!s->closed)
        char_front_accept_input(&s->front);
    session_leave(s);
}

static bool input_ended(void *opaque)
{
    HmpSession *s = opaque;
    s->ending = monitor_output_pending(&s->out) > 0;
    return s->ending;
}

static void on_char_event(void *opaque, CharEvent event)
{
    HmpSession *s = opaque;
    switch (event) {
    case CHAR_OPENED:
    case CHAR_MUX_IN:
        s->connected = true;
        loop_bh_schedule(&s->show);
        break;
    case CHAR_MUX_OUT:
        loop_bh_cancel(&s->show);
        break;
    case CHAR_CLOSED:
        s->connected = s->greeted = s->ending = false;
        loop_bh_cancel(&s->show);
        monitor_output_reset(&s->out);
        break;
    case CHAR_BREAK:
        break;
    }
}

HmpSession *hmp_session_new(Vm *vm, Chardev *chr, GError **error)
{
    static const LineEditOps ops = { session_print, session_line, session_complete };
    HmpSession *s = g_new0(HmpSession, 1);
    s->vm = vm;
    s->front = (CharFront){ .can_receive = can_receive, .receive = receive,
                            .event = on_char_event, .input_ended = input_ended,
                            .writable = writable, .opaque = s };
    s->edit = line_edit_new(&ops, PROMPT, s);
    monitor_output_init(&s->out, &s->front);
    loop_bh_init(&s->show, loop_main(), show, s);
    if (!char_front_attach(&s->front, chr, error)) {
        session_free(s);
        return NULL;
    }
    g_ptr_array_add(monitor_set_of(vm)->shells, s);
    char_front_set_open(&s->front, true);
    return s;
}

void hmp_session_close(HmpSession *s)
{
    if (s->closed)
        return;
    monitor_output_flush(&s->out);
    s->closed = true;
    s->connected = false;
    loop_bh_cancel(&s->show);
    g_ptr_array_remove(monitor_set_of(s->vm)->shells, s);
    char_front_detach(&s->front);
    if (!s->entered)
        session_free(s);
}

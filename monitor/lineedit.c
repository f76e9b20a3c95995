#include "monitor/lineedit.h"
#include <stdbool.h>
#include <string.h>

#define LINE_MAX_BYTES 4096
#define HISTORY_MAX 64

struct LineEdit {
    const LineEditOps *ops;
    void *opaque;
    char *prompt;
    GString *line;
    size_t cursor;                         /* byte in line */
    GPtrArray *history;
    guint at;                              /* entry shown; history->len: the line being typed */
    char *typed;                           /* that line, while history is shown */
    enum { PLAIN, ESCAPE, CSI } state;
    unsigned parameter;                    /* of a CSI sequence */
    bool after_cr;                         /* the LF of a CR LF pair is no line of its own */
};

static void print(LineEdit *e, const char *text)
{
    e->ops->print(e->opaque, text, strlen(text));
}

LineEdit *line_edit_new(const LineEditOps *ops, const char *prompt, void *opaque)
{
    LineEdit *e = g_new0(LineEdit, 1);
    e->ops = ops;
    e->opaque = opaque;
    e->prompt = g_strdup(prompt);
    e->line = g_string_new(NULL);
    e->history = g_ptr_array_new_with_free_func(g_free);
    return e;
}

void line_edit_free(LineEdit *e)
{
    if (!e)
        return;
    g_string_free(e->line, TRUE);
    g_ptr_array_unref(e->history);
    g_free(e->prompt);
    g_free(e->typed);
    g_free(e);
}

const GPtrArray *line_edit_history(const LineEdit *e)
{
    return e->history;
}

/* Characters, not bytes: what follows the first byte of a UTF-8 sequence takes no column. */
static size_t columns(const char *text, size_t length)
{
    size_t n = 0;
    for (size_t i = 0; i < length; i++)
        n += ((unsigned char)text[i] & 0xc0) != 0x80;
    return n;
}

static bool is_tail(const LineEdit *e, size_t i)
{
    return i < e->line->len && ((unsigned char)e->line->str[i] & 0xc0) == 0x80;
}

/* Prompt and line from the left edge, the rest of the row cleared, the cursor at its place. */
static void redraw(LineEdit *e)
{
    size_t back = columns(e->line->str + e->cursor, e->line->len - e->cursor);
    g_autofree char *move = back ? g_strdup_printf("\033[%zuD", back) : g_strdup("");
    g_autofree char *text =
        g_strdup_printf("\r%s%s\033[K%s", e->prompt, e->line->str, move);
    print(e, text);
}

void line_edit_prompt(LineEdit *e)
{
    print(e, e->prompt);
    if (e->line->len)
        redraw(e);
}

static void insert(LineEdit *e, const char *text, size_t length)
{
    if (e->line->len + length > LINE_MAX_BYTES)
        return;
    g_string_insert_len(e->line, e->cursor, text, length);
    e->cursor += length;
    if (e->cursor == e->line->len)
        e->ops->print(e->opaque, text, length);
    else
        redraw(e);
}

static void erase(LineEdit *e, size_t from, size_t to)
{
    g_string_erase(e->line, from, to - from);
    e->cursor = from;
    redraw(e);
}

static size_t left_of(const LineEdit *e)
{
    size_t i = e->cursor;
    while (i > 0 && is_tail(e, --i))
        ;
    return i;
}

static size_t right_of(const LineEdit *e)
{
    size_t i = e->cursor < e->line->len ? e->cursor + 1 : e->cursor;
    while (is_tail(e, i))
        i++;
    return i;
}

static size_t word_start(const LineEdit *e)
{
    size_t i = e->cursor;
    while (i > 0 && e->line->str[i - 1] == ' ')
        i--;
    while (i > 0 && e->line->str[i - 1] != ' ')
        i--;
    return i;
}

static void move_to(LineEdit *e, size_t cursor)
{
    e->cursor = cursor;
    redraw(e);
}

static void set_line(LineEdit *e, const char *text)
{
    g_string_assign(e->line, text);
    move_to(e, e->line->len);
}

static void show_history(LineEdit *e, int step)
{
    if ((step < 0 && !e->at) || (step > 0 && e->at >= e->history->len))
        return;
    if (e->at == e->history->len) {
        g_free(e->typed);
        e->typed = g_strdup(e->line->str);
    }
    e->at += step;
    set_line(e, e->at == e->history->len ? e->typed : e->history->pdata[e->at]);
}

static void remember(LineEdit *e, const char *line)
{
    const char *last = e->history->len ? e->history->pdata[e->history->len - 1] : "";
    if (*line && strcmp(line, last))
        g_ptr_array_add(e->history, g_strdup(line));
    if (e->history->len > HISTORY_MAX)
        g_ptr_array_remove_index(e->history, 0);
    e->at = e->history->len;
}

static void finish_line(LineEdit *e)
{
    g_autofree char *line = g_strdup(e->line->str);
    print(e, "\r\n");
    g_string_truncate(e->line, 0);
    e->cursor = 0;
    remember(e, line);
    e->ops->line(e->opaque, line);
}

static size_t common_prefix(const GPtrArray *words)
{
    size_t n = strlen(words->pdata[0]);
    for (guint i = 1; i < words->len; i++) {
        size_t k = 0;
        while (k < n && ((char *)words->pdata[i])[k] == ((char *)words->pdata[0])[k])
            k++;
        n = k;
    }
    return n;
}

static void list_words(LineEdit *e, const GPtrArray *words)
{
    print(e, "\r\n");
    for (guint i = 0; i < words->len; i++) {
        print(e, words->pdata[i]);
        print(e, "  ");
    }
    print(e, "\r\n");
    redraw(e);
}

/* One candidate: the word becomes it.  Several: as far as they agree, or their list. */
static void complete(LineEdit *e)
{
    size_t start = e->cursor;
    while (start > 0 && e->line->str[start - 1] != ' ')
        start--;
    g_autofree char *line = g_strndup(e->line->str, e->cursor);
    const char *word = line + start;
    g_autoptr(GPtrArray) words =
        e->ops->complete ? e->ops->complete(e->opaque, line, word) : NULL;
    if (!words || !words->len)
        return;
    size_t have = strlen(word), common = common_prefix(words);
    if (common > have)
        insert(e, (char *)words->pdata[0] + have, common - have);
    if (words->len == 1)
        insert(e, " ", 1);
    else if (common <= have)
        list_words(e, words);
}

static void control(LineEdit *e, char c)
{
    switch (c) {
    case 'A' - '@':
        return move_to(e, 0);
    case 'B' - '@':
        return move_to(e, left_of(e));
    case 'C' - '@':
        print(e, "^C\r\n");
        g_string_truncate(e->line, 0);
        e->cursor = 0;
        e->at = e->history->len;
        return line_edit_prompt(e);
    case 'D' - '@':
        return erase(e, e->cursor, right_of(e));
    case 'E' - '@':
        return move_to(e, e->line->len);
    case 'F' - '@':
        return move_to(e, right_of(e));
    case '\b':
    case 0x7f:
        return erase(e, left_of(e), e->cursor);
    case '\t':
        return complete(e);
    case 'K' - '@':
        return erase(e, e->cursor, e->line->len);
    case 'L' - '@':
        print(e, "\033[H\033[2J");
        return redraw(e);
    case 'N' - '@':
        return show_history(e, 1);
    case 'P' - '@':
        return show_history(e, -1);
    case 'U' - '@':
        g_string_erase(e->line, 0, e->cursor);
        return move_to(e, 0);
    case 'W' - '@':
        return erase(e, word_start(e), e->cursor);
    case '\033':
        e->state = ESCAPE;
    }
}

/* The final byte of a sequence ESC [ N byte. */
static void sequence(LineEdit *e, char c)
{
    switch (c) {
    case 'A':
        return show_history(e, -1);
    case 'B':
        return show_history(e, 1);
    case 'C':
        return move_to(e, right_of(e));
    case 'D':
        return move_to(e, left_of(e));
    case 'F':
        return move_to(e, e->line->len);
    case 'H':
        return move_to(e, 0);
    case '~':
        if (e->parameter == 3)
            erase(e, e->cursor, right_of(e));
        else if (e->parameter == 1 || e->parameter == 4)
            move_to(e, e->parameter == 1 ? 0 : e->line->len);
    }
}

static void feed_byte(LineEdit *e, char c)
{
    bool after_cr = e->after_cr;
    e->after_cr = false;
    if (e->state == ESCAPE) {
        e->state = c == '[' || c == 'O' ? CSI : PLAIN;
        e->parameter = 0;
    } else if (e->state == CSI) {
        if (g_ascii_isdigit(c)) {
            e->parameter = e->parameter * 10 % 1000 + (c - '0');
        } else if (c != ';') {
            e->state = PLAIN;
            sequence(e, c);
        }
    } else if (c == '\r' || c == '\n') {
        if (c == '\n' && after_cr)
            return;
        e->after_cr = c == '\r';
        finish_line(e);
    } else if ((unsigned char)c < 0x20 || c == 0x7f) {
        control(e, c);
    } else {
        insert(e, &c, 1);
    }
}

void line_edit_feed(LineEdit *e, const char *data, size_t length)
{
    for (size_t i = 0; i < length; i++)
        feed_byte(e, data[i]);
}

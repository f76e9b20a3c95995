/* The line editor: what is typed, what is run, what is shown. */
#include <string.h>
#include "monitor/lineedit.h"
#include "tests/test.h"

typedef struct Terminal {
    GString *shown, *lines;                /* lines: each ended by '|' */
    LineEdit *edit;
} Terminal;

static void on_print(void *opaque, const char *text, size_t length)
{
    Terminal *t = opaque;
    g_string_append_len(t->shown, text, length);
}

static void on_line(void *opaque, const char *line)
{
    Terminal *t = opaque;
    g_string_append_printf(t->lines, "%s|", line);
}

static GPtrArray *on_complete(void *opaque, const char *line, const char *word)
{
    static const char *const words[] = { "stop", "system_reset", "system_powerdown", NULL };
    GPtrArray *found = g_ptr_array_new_with_free_func(g_free);
    for (int i = 0; words[i]; i++) {
        if (g_str_has_prefix(words[i], word))
            g_ptr_array_add(found, g_strdup(words[i]));
    }
    return found;
}

static void terminal_open(Terminal *t)
{
    static const LineEditOps ops = { on_print, on_line, on_complete };
    *t = (Terminal){ g_string_new(NULL), g_string_new(NULL), NULL };
    t->edit = line_edit_new(&ops, "> ", t);
}

static void terminal_close(Terminal *t)
{
    line_edit_free(t->edit);
    g_string_free(t->shown, TRUE);
    g_string_free(t->lines, TRUE);
}

static void check_lines(const char *keys, const char *lines)
{
    Terminal t;
    terminal_open(&t);
    line_edit_feed(t.edit, keys, strlen(keys));
    ck_assert_str_eq(t.lines->str, lines);
    terminal_close(&t);
}

START_TEST(typing)
{
    check_lines("stop\r", "stop|");
    check_lines("a\nb\r\nc\r\r", "a|b|c||");
    check_lines("abc\x7f\x08x\r", "ax|");
    check_lines("b\x01" "a\x05" "c\r", "abc|");
    check_lines("acd\x02\x02" "b\x06\x7f\r", "abd|");
    check_lines("one two three\x17\x17x\r", "one x|");
    check_lines("abcdef\x02\x02\x0b\r", "abcd|");
    check_lines("abcdef\x02\x02\x15\r", "ef|");
    check_lines("typo\x03right\r", "right|");
    check_lines("h\xc3\xa4\x7f" "e\r", "he|");
}
END_TEST

START_TEST(cursor_keys)
{
    check_lines("bc\033[D\033[Da\033[C\033[3~\r", "ab|");
    check_lines("b\033[Ha\033[Fc\r", "abc|");
    check_lines("b\033OHa\r", "ab|");
    check_lines("x\033[5~\033[1;2Qy\r", "xy|");
}
END_TEST

START_TEST(history)
{
    check_lines("one\rtwo\r\033[A\033[A\r", "one|two|one|");
    check_lines("one\rtwo\r\x10\x10\x0e\r", "one|two|two|");
    check_lines("one\rxy\033[A\033[Bz\r", "one|xyz|");
    check_lines("\033[A\033[Bx\r", "x|");
}
END_TEST

START_TEST(completion)
{
    check_lines("st\t\r", "stop |");
    check_lines("sy\treset\r", "system_reset|");
    check_lines("sy\tr\t\r", "system_reset |");
    check_lines("q\t\r", "q|");
    Terminal t;
    terminal_open(&t);
    line_edit_feed(t.edit, "system_\t", 8);
    ck_assert_ptr_nonnull(strstr(t.shown->str, "system_reset  system_powerdown"));
    terminal_close(&t);
}
END_TEST

START_TEST(a_line_has_an_end)
{
    Terminal t;
    terminal_open(&t);
    for (int i = 0; i < 10000; i++)
        line_edit_feed(t.edit, "x", 1);
    line_edit_feed(t.edit, "\r", 1);
    ck_assert_uint_eq(t.lines->len, 4096 + 1);
    terminal_close(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, typing);
    tcase_add_test(tc, cursor_keys);
    tcase_add_test(tc, history);
    tcase_add_test(tc, completion);
    tcase_add_test(tc, a_line_has_an_end);
}

int main(void)
{
    return run_tests("lineedit", add_tests);
}

/* Manual pages. */
#include "src/base/manpage.h"
#include <glib.h>
#include <stdbool.h>
#include <stdio.h>

/* A '-' or a backslash would be read as troff's own; a '.' at the start of a line, too.  What is not
 * ASCII is named by its code point. */
static void put(const char *text)
{
    for (bool start = true; *text; text = g_utf8_next_char(text)) {
        gunichar c = g_utf8_get_char(text);

        if (start && (c == '.' || c == '\''))
            printf("\\&");
        if (c >= 128)
            printf("\\[u%04X]", c);
        else
            printf("%s%c", c == '-' || c == '\\' ? "\\" : "", (char)c);
        start = c == '\n';
    }
}

void man_page(const char *program, const char *what)
{
    g_autofree char *title = g_ascii_strup(program, -1);

    printf(".TH ");
    put(title);
    printf(" 1 \"\" \"vireo %s\" \"User Commands\"\n", VIREO_VERSION);
    man_section("NAME");
    put(program);
    printf(" \\- ");
    put(what);
    printf("\n");
}

void man_synopsis(const char *program, const char *arguments)
{
    printf(".PP\n.B ");
    put(program);
    printf("\n");
    put(arguments);
    printf("\n");
}

void man_section(const char *title)
{
    printf(".SH ");
    put(title);
    printf("\n");
}

void man_subsection(const char *title)
{
    printf(".SS ");
    put(title);
    printf("\n");
}

void man_paragraph(const char *text)
{
    printf(".PP\n");
    put(text);
    printf("\n");
}

void man_option(int letter, const char *name, const char *value, const char *help)
{
    printf(".TP\n");
    if (letter)
        printf("\\fB\\-%c\\fR%s", letter, name ? ", " : "");
    if (name) {
        printf("\\fB");
        put(name);
        printf("\\fR");
    }
    if (value) {
        printf(" \\fI");
        put(value);
        printf("\\fR");
    }
    printf("\n");
    put(help);
    printf("\n");
}

void man_indent(void)
{
    printf(".RS\n");
}

void man_unindent(void)
{
    printf(".RE\n");
}

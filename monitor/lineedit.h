/*
 * A small line editor for a terminal at the other end of a byte stream: echo, cursor keys, the usual
 * control keys, history, completion.  It knows nothing of where the bytes come from.
 *
 *     Ctrl-A/E line begin/end   Ctrl-B/F, arrows   Ctrl-D/Delete   Ctrl-K/U/W kill   Ctrl-L redraw
 *     Ctrl-P/N, arrows history  Tab completion     Ctrl-C drops the line
 */
#pragma once
#include <glib.h>
#include <stddef.h>

typedef struct LineEdit LineEdit;

typedef struct LineEditOps {
    void (*print)(void *opaque, const char *text, size_t length);   /* to the terminal */
    void (*line)(void *opaque, const char *line);                   /* Enter was pressed */
    /* The words that @word, the last one of @line, may become: GPtrArray of char *, or NULL. */
    GPtrArray *(*complete)(void *opaque, const char *line, const char *word);
} LineEditOps;

LineEdit *line_edit_new(const LineEditOps *ops, const char *prompt, void *opaque);
void line_edit_free(LineEdit *edit);
void line_edit_feed(LineEdit *edit, const char *data, size_t length);
void line_edit_prompt(LineEdit *edit);      /* shows the prompt and the line being typed */
const GPtrArray *line_edit_history(const LineEdit *edit);   /* of char *, oldest first */

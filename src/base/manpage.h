/* Manual pages as troff, on standard output: made by the programs from the tables that they parse
 * with.  Text is plain: what troff would take for its own is escaped. */
#pragma once

void man_page(const char *program, const char *what);   /* .TH and NAME; section 1 */
void man_synopsis(const char *program, const char *arguments);
void man_section(const char *title);
void man_subsection(const char *title);
void man_paragraph(const char *text);
/* An option: "-l, --load-snapshot VALUE", and what it does.  @letter: 0: none; @name: with its dashes,
 * NULL: none; @value: NULL: it takes none. */
void man_option(int letter, const char *name, const char *value, const char *help);
/* What follows is a part of the last option, until man_unindent. */
void man_indent(void);
void man_unindent(void);

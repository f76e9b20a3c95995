/*
 * The monitor for people: a table of commands, each of which calls a QMP handler or describes
 * something.  hmp.c has the session and runs lines; hmp-commands.c and hmp-info.c have the tables.
 */
#pragma once
#include "monitor/client.h"

/* One line being run. */
typedef struct Hmp {
    Vm *vm;
    GString *out;                          /* what it prints */
    int cpu;                               /* CPU that commands look at */
    HmpSession *session;                   /* NULL: human-monitor-command */
    char **words;                          /* the command's arguments; NULL-ended */
    unsigned count;
    const char *rest;                      /* them as they were written */
} Hmp;

typedef struct HmpCommand {
    const char *name, *alias;              /* NULL name: end of the table */
    const char *arguments;                 /* for help: "NAME on|off" */
    const char *help;
    unsigned min, max;                     /* words it takes */
    void (*run)(Hmp *h, GError **error);   /* prints to h->out */
    /* What its word number @n may be; NULL: nothing is known. */
    GPtrArray *(*complete)(Vm *vm, unsigned n);
} HmpCommand;
extern const HmpCommand hmp_commands[], hmp_info[];

const HmpCommand *hmp_find(const HmpCommand *table, const char *name);
void hmp_print(Hmp *h, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* "0x10", "16", "4k": an argument that is a number. */
bool hmp_number(const char *word, uint64_t *ret, GError **error);
/* "0x1000+4*8", "$rip", "'A'": of registers, the CPU's that commands look at. */
bool hmp_expression(Hmp *h, const char *text, uint64_t *ret, GError **error);
void hmp_session_set_cpu(HmpSession *session, int cpu);      /* an index that there is */
const GPtrArray *hmp_session_history(const HmpSession *session);
void hmp_info_run(Hmp *h, GError **error);
/* hmp-memory.c: commands of the names that they have here, but i (port_read), o (port_write) and print. */
void hmp_x(Hmp *h, GError **error);
void hmp_xp(Hmp *h, GError **error);
void hmp_memsave(Hmp *h, GError **error);
void hmp_pmemsave(Hmp *h, GError **error);
void hmp_sum(Hmp *h, GError **error);
void hmp_port_read(Hmp *h, GError **error);
void hmp_port_write(Hmp *h, GError **error);
void hmp_print_value(Hmp *h, GError **error);
void hmp_cpu(Hmp *h, GError **error);
GPtrArray *hmp_complete_names(const HmpCommand *table);

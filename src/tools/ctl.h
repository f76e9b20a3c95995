/* vireo-ctl: what its program and its prompt share. */
#pragma once
#include "src/tools/ctl-output.h"
#include "src/tools/ctl-qmp.h"
#include "src/tools/ctl-schema.h"

enum { CTL_OK, CTL_FAILED, CTL_USAGE, CTL_CONNECTION };   /* exit statuses */

typedef struct Ctl {
    Qmp *qmp;
    CtlSchema *schema;             /* NULL until it is needed */
    CtlFormat format;
    unsigned columns;
} Ctl;

/* Runs one command line: COMMAND [KEY=VALUE…], help [COMMAND], or events [--follow] [PATTERN].
 * Reports errors on stderr; returns an exit status. */
int ctl_run(Ctl *ctl, const char *const *words);
/* Asks for the schema if that was not done; an empty one if the monitor has none. */
CtlSchema *ctl_get_schema(Ctl *ctl);
/* The prompt: until end of input, or quit.  Returns an exit status. */
int ctl_prompt(Ctl *ctl);

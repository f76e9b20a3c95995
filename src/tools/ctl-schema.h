/* What vireo-ctl knows of commands and their arguments, from query-qmp-schema. */
#pragma once
#include <json-c/json.h>
#include "src/base/options.h"

typedef struct CtlSchema CtlSchema;

/* @info: query-qmp-schema's result; NULL: nothing is known. */
CtlSchema *ctl_schema_new(json_object *info);
void ctl_schema_free(CtlSchema *schema);

/* "key=value" arguments (dotted keys make objects, and arrays by number; an argument that begins
 * with '{' is JSON) to a command's arguments.  A value has the type that the command asks for; where
 * that is not known, JSON if it looks so, on and off are booleans, and anything else is text. */
json_object *ctl_schema_arguments(const CtlSchema *schema, const char *command,
                                  const char *const *words, GError **error);

/* Sorted names, NULL-ended; g_strfreev. */
char **ctl_schema_commands(const CtlSchema *schema);
char **ctl_schema_argument_names(const CtlSchema *schema, const char *command);
/* The words an argument takes, if they are known; NULL else. */
char **ctl_schema_argument_values(const CtlSchema *schema, const char *command, const char *key);
/* "NAME=TYPE [NAME=TYPE]": a line for help; NULL: no such command. */
char *ctl_schema_usage(const CtlSchema *schema, const char *command);

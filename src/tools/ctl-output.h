/* How vireo-ctl shows results: for people on a terminal, as JSON elsewhere. */
#pragma once
#include <json-c/json.h>
#include <stdio.h>

typedef enum CtlFormat { CTL_TABLE, CTL_JSON, CTL_PRETTY } CtlFormat;

/* @columns: the terminal's width, beyond which a table becomes a list of blocks; 0: no limit. */
void ctl_print_result(FILE *out, json_object *result, CtlFormat format, unsigned columns);
void ctl_print_event(FILE *out, json_object *event, CtlFormat format);

/* The connection of vireo-ctl to a QMP socket: one request at a time, and events between. */
#pragma once
#include <json-c/json.h>
#include <stdbool.h>
#include "src/base/options.h"

typedef struct Qmp Qmp;
typedef void QmpEventFn(json_object *event, void *opaque);

/* @address: a path, unix:PATH, or [tcp:]HOST:PORT.  Connects and negotiates.  @timeout_s: the longest
 * that any step may take; 0: for ever. */
Qmp *qmp_open(const char *address, double timeout_s, GError **error);
void qmp_close(Qmp *qmp);
int qmp_fd(const Qmp *qmp);
void qmp_on_event(Qmp *qmp, QmpEventFn *fn, void *opaque);

/* Takes over @arguments (NULL: none).  *ret: the result, the caller's.  False with error->domain
 * VIREO_ERROR and, if the command failed, qmp_failed: the monitor's own words, code and hint. */
bool qmp_execute(Qmp *qmp, const char *command, json_object *arguments, json_object **ret,
                 GError **error);
bool qmp_failed(const Qmp *qmp);       /* the last error came from the command, not the connection */
/* Waits for one message at most; events go to the callback.  False: the connection has ended. */
bool qmp_wait(Qmp *qmp, GError **error);
/* Handles what has arrived, without waiting. */
bool qmp_poll(Qmp *qmp, GError **error);

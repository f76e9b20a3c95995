/*
 * From a QMP command to its handler and back.  The generator writes qmp_commands[] and the
 * prototypes of the handlers (schema/commands.h); a handler is a C function with typed arguments:
 *
 *     QmpStatusInfo *qmp_query_status(Vm *vm, GError **error);
 *     bool qmp_stop(Vm *vm, GError **error);
 *
 * A command that is about the session it came from ("client": true in the schema) gets a
 * MonitorClient * instead of the Vm *.
 */
#pragma once
#include "monitor/schema/marshal.h"
#include "src/vm.h"

typedef struct MonitorClient MonitorClient;    /* one session; monitor/server.c */

typedef struct QmpCommand {
    const char *name;                      /* NULL: end of the table */
    const QmpType *data, *returns;         /* NULL: none */
    const char *const *features;
    bool raw_data;                         /* the handler gets the JSON, checked against @data */
    bool raw_returns;                      /* the handler returns JSON */
    bool oob;                              /* may be sent with exec-oob: the handler may be called in any
                                              thread, without the VM lock, and does not wait */
    bool preconfig;
    bool coroutine;                        /* runs in a coroutine: may wait without holding up others */
    /* @data: the parsed arguments; @ret: place of the result.  False: @error is set. */
    bool (*call)(MonitorClient *client, void *data, void *ret, GError **error);
} QmpCommand;
extern const QmpCommand qmp_commands[];    /* sorted by name */

const QmpCommand *qmp_command_find(const char *name);
/* Runs a command.  @arguments NULL: none.  False: @error is set.  *ret gets a new reference ({} if
 * the command returns nothing). */
bool qmp_dispatch(MonitorClient *client, const QmpCommand *command, json_object *arguments,
                  json_object **ret, GError **error);
/* What query-qmp-schema returns: SchemaInfo of all commands, events and the types they use. */
json_object *qmp_introspect(void);

Vm *monitor_client_vm(MonitorClient *client);

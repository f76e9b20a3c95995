/* Inside the monitor: the set of a machine's monitors, and one QMP session. */
#pragma once
#include <pthread.h>
#include "monitor/dispatch.h"
#include "monitor/monitor.h"

typedef struct HmpSession HmpSession;
typedef struct EventThrottle EventThrottle;

/* What a machine's monitors have in common; vm->monitors.  The main thread's, but for @clients. */
typedef struct MonitorSet {
    Vm *vm;
    pthread_mutex_t lock;                  /* for clients; taken before a client's own */
    GPtrArray *clients;                    /* of MonitorClient: connected QMP sessions.  Any thread adds,
                                              the main thread removes */
    GPtrArray *shells;                     /* of HmpSession */
    GPtrArray *listeners;                  /* what accept() needs of each listening socket */
    EventThrottle *throttle;
    Loop *io_loop;                         /* of monitor_start_thread; NULL: the main loop does it all */
    GThread *io_thread;
    unsigned migration_capabilities;       /* mask of QmpMigrationCapability */
    json_object *(*describe_options)(void);
} MonitorSet;
MonitorSet *monitor_set_of(Vm *vm);        /* made at first use */

/* A QMP session on a chardev. */
MonitorClient *monitor_client_new(Vm *vm, Chardev *chr, bool pretty, GError **error);
/* The same on one connection of a listening socket, with which it ends; takes over the reference.  In the
 * connection's loop. */
void monitor_client_accept(MonitorSet *set, Chardev *connection, bool pretty);
void monitor_client_close(MonitorClient *client);
/* An event, written once for all clients: the object without its last brace, plain and pretty (NULL:
 * no client is).  Queued, or dropped if the client has not negotiated yet. */
typedef struct MonitorEvent {
    GBytes *text[2];
} MonitorEvent;
void monitor_client_event(MonitorClient *client, const MonitorEvent *event);
bool monitor_client_is_pretty(const MonitorClient *client);
int monitor_json_style(bool pretty);       /* flags for json-c */
bool monitor_client_negotiate(MonitorClient *client, bool oob, GError **error);   /* qmp_capabilities */
/* In a command's handler: the descriptor that was sent along with the command, or last before it; -1: there
 * is none.  Of what was sent before that, what nobody has taken is closed. */
int monitor_client_take_fd(MonitorClient *client);

/* A session with a person (monitor/hmp.c). */
HmpSession *hmp_session_new(Vm *vm, Chardev *chr, GError **error);
void hmp_session_close(HmpSession *session);
/* Runs one line, with CPU number @cpu where it matters; returns its text.  g_free. */
char *hmp_run(Vm *vm, const char *line, int cpu);

#include "monitor/monitor.h"
#include <string.h>
#include "monitor/client.h"
#include "monitor/throttle.h"
#include "src/object/event.h"

/* {"event", "data", "timestamp"}; each client adds its sequence number. */
static void broadcast(const QmpEventInfo *event, json_object *data, void *opaque)
{
    MonitorSet *set = opaque;
    int64_t now = g_get_real_time();
    json_object *stamp = json_object_new_object();
    json_object_object_add(stamp, "seconds", json_object_new_int64(now / G_USEC_PER_SEC));
    json_object_object_add(stamp, "microseconds", json_object_new_int64(now % G_USEC_PER_SEC));
    json_object *message = json_object_new_object();
    json_object_object_add(message, "timestamp", stamp);
    json_object_object_add(message, "event", json_object_new_string(event->name));
    if (event->data)
        json_object_object_add(message, "data", json_object_get(data));
    for (guint i = set->clients->len; i-- > 0;)
        monitor_client_event(set->clients->pdata[i], message);
    json_object_put(message);
}

static const QmpEventInfo *find_event(const char *name)
{
    for (const QmpEventInfo *event = qmp_events; event->name; event++) {
        if (!strcmp(event->name, name))
            return event;
    }
    return NULL;
}

static void on_event(const char *name, json_object *data, void *opaque)
{
    MonitorSet *set = opaque;
    const QmpEventInfo *event = find_event(name);
    if (event)
        event_throttle_put(set->throttle, event, data);
}

/* Each connection of a listening socket is a session of its own. */
typedef struct Listener {
    Vm *vm;
    bool pretty;
    Chardev *chardev;                      /* busy: chardev-remove does not take it away */
} Listener;

static void listener_free(void *opaque)
{
    Listener *listener = opaque;
    object_unparent(OBJECT(listener->chardev));
    g_free(listener);
}

MonitorSet *monitor_set_of(Vm *vm)
{
    if (vm->monitors)
        return vm->monitors;
    MonitorSet *set = g_new0(MonitorSet, 1);
    set->vm = vm;
    set->clients = g_ptr_array_new();
    set->shells = g_ptr_array_new();
    set->listeners = g_ptr_array_new_with_free_func(listener_free);
    set->throttle = event_throttle_new(broadcast, set);
    event_sink_add(vm->root, on_event, set);
    vm->monitors = set;
    return set;
}

static void accepted(Chardev *connection, void *opaque)
{
    Listener *listener = opaque;
    g_autoptr(GError) error = NULL;
    if (!monitor_client_new(listener->vm, connection, listener->pretty, true, &error))
        error_report(error);
}

bool monitor_add_qmp(Vm *vm, Chardev *chr, bool pretty, GError **error)
{
    g_autoptr(GError) single = NULL;
    Listener *listener = g_new(Listener, 1);
    *listener = (Listener){ vm, pretty, chr };
    if (chardev_listen_many(chr, accepted, listener, &single)) {
        g_ptr_array_add(monitor_set_of(vm)->listeners, listener);
        return true;
    }
    g_free(listener);
    if (error_get_code(single) != ERR_UNSUPPORTED) {
        g_propagate_error(error, g_steal_pointer(&single));
        return false;
    }
    return monitor_client_new(vm, chr, pretty, false, error) != NULL;
}

bool monitor_add_hmp(Vm *vm, Chardev *chr, GError **error)
{
    return hmp_session_new(vm, chr, error) != NULL;
}

void monitor_cleanup(Vm *vm)
{
    MonitorSet *set = vm->monitors;
    if (!set)
        return;
    event_sink_remove(vm->root, on_event, set);
    g_ptr_array_unref(set->listeners);
    while (set->clients->len)
        monitor_client_close(set->clients->pdata[set->clients->len - 1]);
    while (set->shells->len)
        hmp_session_close(set->shells->pdata[set->shells->len - 1]);
    event_throttle_free(set->throttle);
    g_ptr_array_unref(set->clients);
    g_ptr_array_unref(set->shells);
    json_object_put(set->command_line_options);
    g_clear_pointer(&vm->monitors, g_free);
}

void monitor_set_command_line_options(Vm *vm, json_object *options)
{
    MonitorSet *set = monitor_set_of(vm);
    json_object_put(set->command_line_options);
    set->command_line_options = options;
}

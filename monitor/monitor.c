#include "monitor/monitor.h"
#include <signal.h>
#include <string.h>
#include "monitor/client.h"
#include "monitor/throttle.h"
#include "src/object/event.h"

int monitor_json_style(bool pretty)
{
    return JSON_C_TO_STRING_NOSLASHESCAPE |
           (pretty ? JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED : 0);
}

/* Clients add members of their own: without the last brace, and the space before it. */
static GBytes *open_text(json_object *message, bool pretty)
{
    size_t length;
    const char *text = json_object_to_json_string_length(message, monitor_json_style(pretty),
                                                         &length);
    length--;
    while (g_ascii_isspace(text[length - 1]))
        length--;
    return g_bytes_new(text, length);
}

static void tell_clients(MonitorSet *set, json_object *message)
{
    MonitorEvent event = { { NULL, NULL } };
    pthread_mutex_lock(&set->lock);
    for (guint i = set->clients->len; i-- > 0;) {
        bool pretty = monitor_client_is_pretty(set->clients->pdata[i]);
        if (!event.text[pretty])
            event.text[pretty] = open_text(message, pretty);
        monitor_client_event(set->clients->pdata[i], &event);
    }
    pthread_mutex_unlock(&set->lock);
    g_clear_pointer(&event.text[false], g_bytes_unref);
    g_clear_pointer(&event.text[true], g_bytes_unref);
}

/* {"event", "data", "timestamp"}; each client adds its sequence number. */
static void broadcast(const QmpEventInfo *event, json_object *data, void *opaque)
{
    int64_t now = g_get_real_time();
    json_object *stamp = json_object_new_object();
    json_object_object_add(stamp, "seconds", json_object_new_int64(now / G_USEC_PER_SEC));
    json_object_object_add(stamp, "microseconds", json_object_new_int64(now % G_USEC_PER_SEC));
    json_object *message = json_object_new_object();
    json_object_object_add(message, "timestamp", stamp);
    json_object_object_add(message, "event", json_object_new_string(event->name));
    if (event->data)
        json_object_object_add(message, "data", json_object_get(data));
    tell_clients(opaque, message);
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
    MonitorSet *set;
    bool pretty;
    Chardev *chardev;                      /* busy: chardev-remove does not take it away */
} Listener;

static void listener_free(void *opaque)
{
    Listener *listener = opaque;
    chardev_listen_end(listener->chardev);
    object_unparent(OBJECT(listener->chardev));
    g_free(listener);
}

MonitorSet *monitor_set_of(Vm *vm)
{
    if (vm->monitors)
        return vm->monitors;
    MonitorSet *set = g_new0(MonitorSet, 1);
    set->vm = vm;
    pthread_mutex_init(&set->lock, NULL);
    set->clients = g_ptr_array_new();
    set->shells = g_ptr_array_new();
    set->listeners = g_ptr_array_new_with_free_func(listener_free);
    set->throttle = event_throttle_new(broadcast, set);
    event_sink_add(vm->root, on_event, set);
    vm->monitors = set;
    return set;
}

/* In the I/O loop: a client is served from its first byte, whatever the main loop is busy with. */
static void accepted(Chardev *connection, void *opaque)
{
    Listener *listener = opaque;
    monitor_client_accept(listener->set, connection, listener->pretty);
}

bool monitor_add_qmp(Vm *vm, Chardev *chr, bool pretty, GError **error)
{
    g_autoptr(GError) single = NULL;
    MonitorSet *set = monitor_set_of(vm);
    Listener *listener = g_new(Listener, 1);
    *listener = (Listener){ set, pretty, chr };
    if (chardev_listen_many(chr, set->io_loop ? set->io_loop : loop_main(), accepted, listener,
                            &single)) {
        g_ptr_array_add(set->listeners, listener);
        return true;
    }
    g_free(listener);
    if (error_get_code(single) != ERR_UNSUPPORTED) {
        g_propagate_error(error, g_steal_pointer(&single));
        return false;
    }
    return monitor_client_new(vm, chr, pretty, error) != NULL;
}

static void *run_io(void *opaque)
{
    MonitorSet *set = opaque;
    sigset_t all;
    sigfillset(&all);                      /* signals are the main thread's business */
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    loop_run(set->io_loop);
    return NULL;
}

bool monitor_start_thread(Vm *vm, GError **error)
{
    MonitorSet *set = monitor_set_of(vm);
    g_autoptr(GError) cause = NULL;
    set->io_loop = loop_new("monitor", error);
    if (!set->io_loop)
        return false;
    set->io_thread = g_thread_try_new("monitor", run_io, set, &cause);
    if (set->io_thread)
        return true;
    g_clear_pointer(&set->io_loop, loop_free);
    return fail(error, ERR_HOST, "cannot start the monitors' thread: %s", cause->message);
}

static void stop_thread(MonitorSet *set)
{
    if (!set->io_thread)
        return;
    loop_quit(set->io_loop);
    g_thread_join(set->io_thread);
    loop_free(set->io_loop);
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
    stop_thread(set);
    event_throttle_free(set->throttle);
    g_ptr_array_unref(set->clients);
    g_ptr_array_unref(set->shells);
    pthread_mutex_destroy(&set->lock);
    g_clear_pointer(&vm->monitors, g_free);
}

void monitor_set_command_line_options(Vm *vm, json_object *(*describe)(void))
{
    monitor_set_of(vm)->describe_options = describe;
}

/* Delivery of events to the sinks of a machine's tree. */
#include "src/object/event.h"
#include "src/base/loop.h"
#include "src/object/object-priv.h"

typedef struct SinkEntry {
    EventSink *fn;
    void *opaque;
} SinkEntry;

typedef struct PendingEvent {
    Object *root;                          /* counted */
    char *name;
    json_object *data;
} PendingEvent;

static Container *sinks_of(Object *root)
{
    return object_is_a(root, "container") ? (Container *)root : NULL;
}

/* A sink may add or remove sinks: it is called from a copy. */
static void deliver(Object *root, const char *name, json_object *data)
{
    Container *container = sinks_of(root);
    g_autoptr(GArray) sinks = NULL;

    if (!container || !container->event_sinks)
        return;
    sinks = g_array_copy(container->event_sinks);
    for (unsigned i = 0; i < sinks->len; i++) {
        SinkEntry *sink = &g_array_index(sinks, SinkEntry, i);

        sink->fn(name, data, sink->opaque);
    }
}

static void deliver_pending(void *opaque)
{
    PendingEvent *event = opaque;

    deliver(event->root, event->name, event->data);
    object_unref(event->root);
    json_object_put(event->data);
    g_free(event->name);
    g_free(event);
}

void event_emit(Object *source, const char *name, json_object *data)
{
    Object *root = object_root(source);
    Loop *current = loop_current();
    PendingEvent *event;

    if (current && current == loop_main()) {
        deliver(root, name, data);
        json_object_put(data);
        return;
    }
    event = g_new0(PendingEvent, 1);
    event->root = object_ref(root);
    event->name = g_strdup(name);
    event->data = data;
    loop_post(loop_main(), deliver_pending, event);
}

void event_sink_add(Object *root, EventSink *sink, void *opaque)
{
    Container *container = sinks_of(root);
    SinkEntry entry = { sink, opaque };

    g_return_if_fail(container);
    if (!container->event_sinks)
        container->event_sinks = g_array_new(FALSE, FALSE, sizeof(SinkEntry));
    g_array_append_val(container->event_sinks, entry);
}

void event_sink_remove(Object *root, EventSink *sink, void *opaque)
{
    Container *container = sinks_of(root);
    GArray *sinks = container ? container->event_sinks : NULL;

    for (unsigned i = 0; sinks && i < sinks->len; i++) {
        SinkEntry *entry = &g_array_index(sinks, SinkEntry, i);

        if (entry->fn == sink && entry->opaque == opaque) {
            g_array_remove_index(sinks, i);
            return;
        }
    }
}

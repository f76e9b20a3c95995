/*
 * Events: what happened in a machine, for its monitors.  The typed emitters (event_shutdown(…)) are
 * generated from monitor/schema into schema/events.h and end here.  Any floor may emit.
 */
#pragma once
#include "src/object/object.h"

typedef void EventSink(const char *name, json_object *data, void *opaque);

/* Delivers to every sink of the root of @source's tree, in the main thread (posted when called
 * from another one).  Takes over @data (NULL: none).  Any thread. */
void event_emit(Object *source, const char *name, json_object *data);
/* Main thread. */
void event_sink_add(Object *root, EventSink *sink, void *opaque);
void event_sink_remove(Object *root, EventSink *sink, void *opaque);

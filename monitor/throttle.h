/*
 * Events that may come thick and fast (the schema's "rate-ms") are thinned out before they reach the
 * monitors: the first one passes at once, of those that follow within the time only the last one
 * does, at its end.
 */
#pragma once
#include <json-c/json.h>
#include "monitor/schema/marshal.h"

typedef struct EventThrottle EventThrottle;
typedef void EventPass(const QmpEventInfo *event, json_object *data, void *opaque);

EventThrottle *event_throttle_new(EventPass *pass, void *opaque);
void event_throttle_free(EventThrottle *throttle);     /* what waits is dropped */
/* Calls pass now, later, or (replaced by a later one) never.  @data NULL: none; not taken over. */
void event_throttle_put(EventThrottle *throttle, const QmpEventInfo *event, json_object *data);

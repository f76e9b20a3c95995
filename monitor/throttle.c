#include "monitor/throttle.h"
#include <glib.h>
#include "src/base/loop.h"

struct EventThrottle {
    EventPass *pass;
    void *opaque;
    GHashTable *slots;                     /* "EVENT key": Slot */
};

/* One event, or one value of its key: counting down since it was last passed on. */
typedef struct Slot {
    EventThrottle *owner;
    const char *key;                       /* the table's */
    const QmpEventInfo *event;
    LoopTimer timer;
    bool waiting;                          /* data is to be passed when the timer fires */
    json_object *data;
} Slot;

static void slot_free(void *opaque)
{
    Slot *slot = opaque;
    loop_timer_cancel(&slot->timer);
    json_object_put(slot->data);
    g_free(slot);
}

EventThrottle *event_throttle_new(EventPass *pass, void *opaque)
{
    EventThrottle *t = g_new0(EventThrottle, 1);
    t->pass = pass;
    t->opaque = opaque;
    t->slots = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, slot_free);
    return t;
}

void event_throttle_free(EventThrottle *t)
{
    if (!t)
        return;
    g_hash_table_unref(t->slots);
    g_free(t);
}

static char *slot_key(const QmpEventInfo *event, json_object *data)
{
    json_object *value = NULL;
    if (event->rate_key)
        json_object_object_get_ex(data, event->rate_key, &value);
    return g_strdup_printf("%s %s", event->name, value ? json_object_get_string(value) : "");
}

static void start_timer(Slot *slot)
{
    loop_timer_set(&slot->timer, loop_clock_ns() + slot->event->rate_ms * 1000000ll);
}

/* The time is over: pass on what came last, or forget the slot if nothing did. */
static void slot_due(void *opaque)
{
    Slot *slot = opaque;
    EventThrottle *t = slot->owner;
    if (!slot->waiting) {
        g_hash_table_remove(t->slots, slot->key);
        return;
    }
    json_object *data = g_steal_pointer(&slot->data);
    slot->waiting = false;
    start_timer(slot);
    t->pass(slot->event, data, t->opaque);
    json_object_put(data);
}

void event_throttle_put(EventThrottle *t, const QmpEventInfo *event, json_object *data)
{
    if (!event->rate_ms) {
        t->pass(event, data, t->opaque);
        return;
    }
    g_autofree char *key = slot_key(event, data);
    Slot *slot = g_hash_table_lookup(t->slots, key);
    if (slot) {
        json_object_put(slot->data);
        slot->data = json_object_get(data);
        slot->waiting = true;
        return;
    }
    slot = g_new0(Slot, 1);
    slot->owner = t;
    slot->event = event;
    loop_timer_init(&slot->timer, loop_main(), slot_due, slot);
    slot->key = key;
    g_hash_table_insert(t->slots, g_steal_pointer(&key), slot);
    start_timer(slot);
    t->pass(event, data, t->opaque);
}

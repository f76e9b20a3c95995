/*
 * Trace events.  TRACE(virtio_kick, "dev %s queue %u", id, n) at the place it tells of both defines
 * and uses the event: a predicted branch when it is off.  `-trace PATTERN`, `-trace help`, and QMP's
 * trace-event-set-state switch events by name or pattern (*, ?).  Lines go to the log (-D FILE,
 * stderr): "SECONDS.MICROS THREAD NAME TEXT".
 */
#pragma once
#include <glib.h>
#include <stdbool.h>

typedef struct TracePoint {
    const char *name, *format;
    bool enabled;
} TracePoint;

#define TRACE(event, fmt, ...)                                                                     \
    do {                                                                                           \
        static TracePoint trace_point_ = { #event, fmt, false };                                   \
        static TracePoint *const trace_entry_                                                      \
            __attribute__((used, section("trace_points"))) = &trace_point_;                        \
        if (G_UNLIKELY(__atomic_load_n(&trace_point_.enabled, __ATOMIC_RELAXED)))                  \
            trace_write(&trace_point_, fmt, ##__VA_ARGS__);                                        \
    } while (0)

void trace_write(const TracePoint *point, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* Sets every event whose name matches; returns how many did.  Any thread. */
unsigned trace_set(const char *pattern, bool enabled);
/* Calls fn for each distinct name that matches (an event used at two places counts as on when both are). */
void trace_foreach(const char *pattern, void (*fn)(const char *name, bool enabled, void *opaque),
                   void *opaque);
bool trace_open_log(const char *path, GError **error);   /* -D; NULL: stderr */

/* -d CATEGORY,…: broader classes of log lines. */
typedef enum LogMask { LOG_GUEST_ERRORS = 1, LOG_UNIMP = 2, LOG_CPU_RESET = 4 } LogMask;
bool log_set_mask(const char *list, GError **error);     /* "help" is the caller's */
bool log_on(LogMask mask);
void log_write(LogMask mask, const char *format, ...) G_GNUC_PRINTF(2, 3);

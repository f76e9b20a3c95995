/*
 * Trace events and the log.  Trace points are collected by the linker: each leaves a pointer to
 * itself in the section trace_points, whose bounds the linker knows under these names.  A program
 * without any has no such section; the symbols are weak, and NULL then.
 */
#include "src/base/trace.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include "src/base/error.h"

extern TracePoint *const __start_trace_points[] __attribute__((weak));
extern TracePoint *const __stop_trace_points[] __attribute__((weak));

static GMutex log_mutex;
static FILE *log_file;          /* log_mutex; NULL: stderr */
static gint log_mask;           /* atomic; of LogMask */

static void log_line(const char *name, const char *text)
{
    struct timespec now;
    char thread[16] = "?";
    clock_gettime(CLOCK_REALTIME, &now);
    prctl(PR_GET_NAME, thread);
    g_mutex_lock(&log_mutex);
    FILE *out = log_file ? log_file : stderr;
    fprintf(out, "%lld.%06ld %s %s %s\n", (long long)now.tv_sec, now.tv_nsec / 1000, thread, name,
            text);
    fflush(out);
    g_mutex_unlock(&log_mutex);
}

void trace_write(const TracePoint *point, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    log_line(point->name, text);
}

unsigned trace_set(const char *pattern, bool enabled)
{
    unsigned count = 0;
    for (TracePoint *const *p = __start_trace_points; p < __stop_trace_points; p++) {
        if (!g_pattern_match_simple(pattern, (*p)->name))
            continue;
        __atomic_store_n(&(*p)->enabled, enabled, __ATOMIC_RELAXED);
        count++;
    }
    return count;
}

static int compare_names(gconstpointer a, gconstpointer b)
{
    const TracePoint *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

void trace_foreach(const char *pattern, void (*fn)(const char *name, bool enabled, void *opaque),
                   void *opaque)
{
    g_autoptr(GPtrArray) points = g_ptr_array_new();
    for (TracePoint *const *p = __start_trace_points; p < __stop_trace_points; p++) {
        if (g_pattern_match_simple(pattern, (*p)->name))
            g_ptr_array_add(points, *p);
    }
    g_ptr_array_sort(points, compare_names);
    for (unsigned i = 0; i < points->len;) {
        const TracePoint *first = points->pdata[i];
        bool enabled = true;
        for (; i < points->len; i++) {
            const TracePoint *point = points->pdata[i];
            if (strcmp(point->name, first->name))
                break;
            enabled &= __atomic_load_n(&point->enabled, __ATOMIC_RELAXED);
        }
        fn(first->name, enabled, opaque);
    }
}

bool trace_open_log(const char *path, GError **error)
{
    FILE *file = NULL;
    if (path) {
        file = fopen(path, "ae");
        if (!file)
            return fail_errno(error, errno, "cannot open log file '%s'", path);
    }
    g_mutex_lock(&log_mutex);
    FILE *old = log_file;
    log_file = file;
    g_mutex_unlock(&log_mutex);
    if (old)
        fclose(old);
    return true;
}

static const struct {
    const char *name;
    LogMask mask;
} log_categories[] = {
    { "guest_errors", LOG_GUEST_ERRORS },
    { "unimp", LOG_UNIMP },
    { "cpu_reset", LOG_CPU_RESET },
};

static const char *mask_name(LogMask mask)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(log_categories); i++) {
        if (log_categories[i].mask & mask)
            return log_categories[i].name;
    }
    return "log";
}

bool log_set_mask(const char *list, GError **error)
{
    g_auto(GStrv) words = g_strsplit(list, ",", -1);
    int mask = 0;
    for (char **word = words; *word; word++) {
        int bit = 0;
        for (unsigned i = 0; i < G_N_ELEMENTS(log_categories); i++) {
            if (!strcmp(*word, log_categories[i].name) || !strcmp(*word, "all"))
                bit |= log_categories[i].mask;
        }
        if (g_str_has_prefix(*word, "trace:") && trace_set(*word + 6, true))
            continue;
        if (!bit && strcmp(*word, "none")) {
            fail(error, ERR_INVALID_PARAMETER, "unknown log category '%s'", *word);
            return error_hint(error, "the categories are guest_errors, unimp, cpu_reset, "
                                     "trace:PATTERN, all and none");
        }
        mask |= bit;
    }
    g_atomic_int_set(&log_mask, mask);
    return true;
}

bool log_on(LogMask mask)
{
    return g_atomic_int_get(&log_mask) & mask;
}

void log_write(LogMask mask, const char *format, ...)
{
    if (!log_on(mask))
        return;
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    log_line(mask_name(mask), text);
}

/*
 * A guest can make thousands of mistakes a second.  Each place in the code (known by its format
 * text) may log a few of them in each second; places that share a slot share the allowance.
 */
enum { PLACES = 256, LINES_PER_SECOND = 5 };

static bool place_may_log(const char *format)
{
    static struct {
        time_t second;
        unsigned count;
    } places[PLACES];             /* log_mutex */
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    unsigned slot = g_direct_hash(format) * 2654435761u >> 24;
    g_mutex_lock(&log_mutex);
    if (places[slot].second != now.tv_sec) {
        places[slot].second = now.tv_sec;
        places[slot].count = 0;
    }
    bool may = places[slot].count++ < LINES_PER_SECOND;
    g_mutex_unlock(&log_mutex);
    return may;
}

void guest_error(const char *who, const char *format, ...)
{
    if (G_LIKELY(!log_on(LOG_GUEST_ERRORS)) || !place_may_log(format))
        return;
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_autofree char *line = g_strdup_printf("%s: %s", who, text);
    log_line("guest-error", line);
}

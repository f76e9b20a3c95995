/* What the user is told on stderr, one line a message. */
#include <stdio.h>
#include "src/base/error.h"

static gint timestamps;   /* atomic; -msg timestamp=on */

void report_set_timestamp(bool on)
{
    g_atomic_int_set(&timestamps, on);
}

static const char *program(void)
{
    const char *name = g_get_prgname();
    return name ? name : "vireo";
}

/* One write a line, so that the lines of several threads do not mix. */
static void report(const char *kind, const char *text)
{
    g_autofree char *stamp = NULL;
    if (g_atomic_int_get(&timestamps)) {
        g_autoptr(GDateTime) now = g_date_time_new_now_utc();
        g_autofree char *seconds = g_date_time_format(now, "%Y-%m-%dT%H:%M:%S");
        stamp = g_strdup_printf("%s.%06dZ ", seconds, g_date_time_get_microsecond(now));
    }
    fflush(stdout);
    fprintf(stderr, "%s%s: %s%s\n", stamp ? stamp : "", program(), kind, text);
}

void error_report(const GError *error)
{
    report("", error->message);
    const char *hint = error_get_hint(error);
    if (hint)
        report("hint: ", hint);
}

static void report_valist(const char *kind, const char *format, va_list args)
{
    g_autofree char *text = g_strdup_vprintf(format, args);
    report(kind, text);
}

void warn_report(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    report_valist("warning: ", format, args);
    va_end(args);
}

void info_report(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    report_valist("info: ", format, args);
    va_end(args);
}

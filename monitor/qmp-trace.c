/* QMP: trace events. */
#include <string.h>
#include "schema/commands.h"
#include "src/base/trace.h"

static void add_event(const char *name, bool enabled, void *opaque)
{
    QmpTraceEventInfo *info = g_new0(QmpTraceEventInfo, 1);
    info->name = g_strdup(name);
    info->state = enabled ? QMP_TRACE_EVENT_STATE_ENABLED : QMP_TRACE_EVENT_STATE_DISABLED;
    g_ptr_array_add(opaque, info);
}

static bool unknown_event(const char *name, GError **error)
{
    fail(error, ERR_NOT_FOUND, "no trace event is named '%s'", name);
    return error_hint(error, "names may have * and ?; the name '*' stands for all");
}

GPtrArray *qmp_trace_event_get_state(Vm *vm, const char *name, GError **error)
{
    GPtrArray *list = qmp_array_new(&qmp_type_trace_event_info);
    trace_foreach(name, add_event, list);
    if (list->len || strpbrk(name, "*?"))
        return list;
    g_ptr_array_unref(list);
    unknown_event(name, error);
    return NULL;
}

bool qmp_trace_event_set_state(Vm *vm, const char *name, bool enable, bool has_ignore_unavailable,
                               bool ignore_unavailable, GError **error)
{
    if (trace_set(name, enable) || strpbrk(name, "*?") ||
        (has_ignore_unavailable && ignore_unavailable))
        return true;
    return unknown_event(name, error);
}

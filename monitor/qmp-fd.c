/* QMP: descriptors that clients pass. */
#include <inttypes.h>
#include <unistd.h>
#include "monitor/client.h"
#include "schema/commands.h"
#include "src/base/fdset.h"

static bool take_fd(MonitorClient *client, int *ret, GError **error)
{
    *ret = monitor_client_take_fd(client);
    if (*ret >= 0)
        return true;
    fail(error, ERR_MISSING_PARAMETER, "No file descriptor supplied via SCM_RIGHTS");
    return error_hint(error, "send it in the message that carries the command");
}

bool qmp_getfd(MonitorClient *client, const char *fdname, GError **error)
{
    int fd;
    return take_fd(client, &fd, error) && fd_name_put(fdname, fd, error);
}

bool qmp_closefd(Vm *vm, const char *fdname, GError **error)
{
    if (g_ascii_isdigit(*fdname))
        return fail(error, ERR_NOT_FOUND, "File descriptor named '%s' not found", fdname);
    int fd = fd_name_take(fdname, error);
    if (fd < 0)
        return false;
    close(fd);
    return true;
}

QmpAddfdInfo *qmp_add_fd(MonitorClient *client, bool has_fdset_id, int64_t fdset_id,
                         const char *opaque, GError **error)
{
    int fd;
    if (has_fdset_id && fdset_id < 0) {
        fail(error, ERR_INVALID_PARAMETER, "fdset-id must not be negative");
        return NULL;
    }
    if (!take_fd(client, &fd, error) ||
        !fdset_add(fd, has_fdset_id ? fdset_id : -1, opaque, &fdset_id, error))
        return NULL;
    QmpAddfdInfo *info = g_new0(QmpAddfdInfo, 1);
    info->fdset_id = fdset_id;
    info->fd = fd;
    return info;
}

bool qmp_remove_fd(Vm *vm, int64_t fdset_id, bool has_fd, int64_t fd, GError **error)
{
    if (has_fd && (fd < 0 || fd > G_MAXINT))
        return fail(error, ERR_NOT_FOUND, "there is no descriptor %" PRId64 " in set %" PRId64, fd,
                    fdset_id);
    return fdset_remove(fdset_id, has_fd ? fd : -1, error);
}

json_object *qmp_query_fdsets(Vm *vm, GError **error)
{
    return fdset_query();
}

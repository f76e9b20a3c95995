#include "monitor/dispatch.h"
#include <stdlib.h>
#include <string.h>
#include "schema/commands.h"

static size_t command_count(void)
{
    size_t n = 0;
    while (qmp_commands[n].name)
        n++;
    return n;
}

static int compare_name(const void *key, const void *row)
{
    return strcmp(key, ((const QmpCommand *)row)->name);
}

const QmpCommand *qmp_command_find(const char *name)
{
    return bsearch(name, qmp_commands, command_count(), sizeof(qmp_commands[0]), compare_name);
}

/* Room for any result: a pointer. */
static json_object *build_result(const QmpCommand *command, void *result)
{
    if (!command->returns)
        return json_object_new_object();
    if (command->raw_returns)
        return result;
    json_object *json = qmp_build(command->returns, &result);
    qmp_clear(command->returns, &result);
    return json;
}

/* A command without arguments takes an empty object, too. */
static bool check_no_arguments(json_object *arguments, GError **error)
{
    static const QmpMember none[] = { {} };
    static const QmpType empty = { .name = "empty", .kind = QMP_KIND_STRUCT, .members = none };
    char unused;
    return qmp_parse_struct(&empty, arguments, "argument", &unused, error);
}

static bool call(MonitorClient *client, const QmpCommand *command, json_object *arguments,
                 json_object **ret, GError **error)
{
    void *result = NULL;
    g_autofree void *data = command->data ? g_malloc0(command->data->size) : NULL;
    bool ok = command->data
                  ? qmp_parse_struct(command->data, arguments, "argument", data, error)
                  : check_no_arguments(arguments, error);
    if (!ok)
        return error_prefix(error, "command '%s': ", command->name);
    ok = command->call(client, command->raw_data ? (void *)arguments : data, &result, error);
    if (command->data)
        qmp_clear_struct(command->data, data);
    if (ok)
        *ret = build_result(command, result);
    return ok;
}

bool qmp_dispatch(MonitorClient *client, const QmpCommand *command, json_object *arguments,
                  json_object **ret, GError **error)
{
    json_object *empty = arguments ? NULL : json_object_new_object();
    bool ok = call(client, command, arguments ? arguments : empty, ret, error);
    json_object_put(empty);
    return ok;
}

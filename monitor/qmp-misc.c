/* QMP: the session, what there is (schema, commands, options), and the run state. */
#include <string.h>
#include "monitor/client.h"
#include "schema/commands.h"

/* The protocol is QEMU's of this version: clients look at it before they look at commands. */
#define PROTOCOL_MAJOR 7
#define PROTOCOL_MINOR 2
#define PROTOCOL_MICRO 0

bool qmp_qmp_capabilities(MonitorClient *client, GArray *enable, GError **error)
{
    return monitor_client_negotiate(client, enable && enable->len, error);
}

QmpVersionInfo *qmp_query_version(Vm *vm, GError **error)
{
    QmpVersionInfo *info = g_new0(QmpVersionInfo, 1);
    info->qemu = g_new0(QmpVersionTriple, 1);
    *info->qemu = (QmpVersionTriple){ PROTOCOL_MAJOR, PROTOCOL_MINOR, PROTOCOL_MICRO };
    info->package = g_strdup("vireo-" VIREO_VERSION);
    return info;
}

GPtrArray *qmp_query_commands(Vm *vm, GError **error)
{
    GPtrArray *list = qmp_array_new(&qmp_type_command_info);
    for (const QmpCommand *command = qmp_commands; command->name; command++) {
        QmpCommandInfo *info = g_new0(QmpCommandInfo, 1);
        info->name = g_strdup(command->name);
        g_ptr_array_add(list, info);
    }
    return list;
}

json_object *qmp_query_qmp_schema(Vm *vm, GError **error)
{
    return qmp_introspect();
}

static bool is_option(json_object *entry, const char *name)
{
    json_object *option;
    return json_object_object_get_ex(entry, "option", &option) &&
           !strcmp(json_object_get_string(option), name);
}

json_object *qmp_query_command_line_options(Vm *vm, const char *option, GError **error)
{
    MonitorSet *set = monitor_set_of(vm);
    g_autoptr(json_object) all = set->describe_options ? set->describe_options()
                                                       : json_object_new_array();
    if (!option)
        return g_steal_pointer(&all);
    for (size_t i = 0; i < json_object_array_length(all); i++) {
        json_object *entry = json_object_array_get_idx(all, i);
        if (is_option(entry, option)) {
            json_object *list = json_object_new_array();
            json_object_array_add(list, json_object_get(entry));
            return list;
        }
    }
    fail(error, ERR_UNKNOWN_PARAMETER, "there is no option '%s' with parameters", option);
    return NULL;
}

char *qmp_human_monitor_command(Vm *vm, const char *command_line, bool has_cpu_index,
                                int64_t cpu_index, GError **error)
{
    if (has_cpu_index && (cpu_index < 0 || !vm->kvm || cpu_index >= kvm_vcpu_count(vm->kvm))) {
        fail(error, ERR_INVALID_PARAMETER, "cpu-index: there is no CPU %" PRId64, cpu_index);
        return NULL;
    }
    return hmp_run(vm, command_line, has_cpu_index ? cpu_index : 0);
}

/* ---- run state ---- */

QmpStatusInfo *qmp_query_status(Vm *vm, GError **error)
{
    QmpStatusInfo *info = g_new0(QmpStatusInfo, 1);
    RunState state = vm_state(vm);
    info->running = state == RUN_STATE_RUNNING;
    info->status = (QmpRunState)state;          /* the same words in the same order */
    return info;
}

bool qmp_quit(Vm *vm, GError **error)
{
    vm_quit(vm, 0, false, QMP_SHUTDOWN_CAUSE_HOST_QMP_QUIT);
    return true;
}

bool qmp_stop(Vm *vm, GError **error)
{
    vm_stop(vm, RUN_STATE_PAUSED);
    return true;
}

bool qmp_cont(Vm *vm, GError **error)
{
    return vm_start(vm, error);
}

bool qmp_system_reset(Vm *vm, GError **error)
{
    vm_reset(vm);
    return true;
}

bool qmp_system_powerdown(Vm *vm, GError **error)
{
    return vm_powerdown(vm, error);
}

bool qmp_inject_nmi(Vm *vm, GError **error)
{
    unsigned count = vm->kvm ? kvm_vcpu_count(vm->kvm) : 0;
    if (!count)
        return fail(error, ERR_UNSUPPORTED, "the machine has no CPUs");
    for (unsigned i = 0; i < count; i++)
        kvm_inject_nmi(vm->kvm, i);
    return true;
}

bool qmp_set_action(Vm *vm, bool has_reboot, QmpRebootAction reboot, bool has_shutdown,
                    QmpShutdownAction shutdown, bool has_panic, QmpPanicAction panic,
                    bool has_watchdog, QmpWatchdogAction watchdog, GError **error)
{
    if (has_reboot)
        vm->actions.reboot = reboot == QMP_REBOOT_ACTION_SHUTDOWN ? REBOOT_SHUTDOWN : REBOOT_RESET;
    if (has_shutdown)
        vm->actions.shutdown =
            shutdown == QMP_SHUTDOWN_ACTION_PAUSE ? SHUTDOWN_PAUSE : SHUTDOWN_POWEROFF;
    if (has_panic)
        vm->actions.panic = panic == QMP_PANIC_ACTION_PAUSE          ? PANIC_PAUSE
                            : panic == QMP_PANIC_ACTION_SHUTDOWN     ? PANIC_SHUTDOWN
                            : panic == QMP_PANIC_ACTION_EXIT_FAILURE ? PANIC_EXIT_FAILURE
                                                                     : PANIC_NONE;
    if (has_watchdog)
        vm->actions.watchdog = watchdog;
    return true;
}

bool qmp_watchdog_set_action(Vm *vm, QmpWatchdogAction action, GError **error)
{
    vm->actions.watchdog = action;
    return true;
}

/* ---- migration: what there is of it ---- */

GPtrArray *qmp_query_migrate_capabilities(Vm *vm, GError **error)
{
    GPtrArray *list = qmp_array_new(&qmp_type_migration_capability_status);
    for (int i = 0; i < QMP_MIGRATION_CAPABILITY__COUNT; i++) {
        QmpMigrationCapabilityStatus *status = g_new0(QmpMigrationCapabilityStatus, 1);
        status->capability = i;
        status->state = monitor_set_of(vm)->migration_capabilities & (1u << i);
        g_ptr_array_add(list, status);
    }
    return list;
}

bool qmp_migrate_set_capabilities(Vm *vm, GPtrArray *capabilities, GError **error)
{
    unsigned *mask = &monitor_set_of(vm)->migration_capabilities;
    for (guint i = 0; i < capabilities->len; i++) {
        const QmpMigrationCapabilityStatus *status = capabilities->pdata[i];
        if (status->state)
            *mask |= 1u << status->capability;
        else
            *mask &= ~(1u << status->capability);
    }
    return true;
}

QmpMigrationInfo *qmp_query_migrate(Vm *vm, GError **error)
{
    return g_new0(QmpMigrationInfo, 1);
}

/* QMP: the machine, its CPUs, its memory and its PCI devices. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>
#include "hw/pci/pci.h"
#include "schema/commands.h"
#include "src/base/util.h"
#include "src/object/iothread.h"

QmpNameInfo *qmp_query_name(Vm *vm, GError **error)
{
    QmpNameInfo *info = g_new0(QmpNameInfo, 1);
    info->name = g_strdup(vm->name);
    return info;
}

QmpUuidInfo *qmp_query_uuid(Vm *vm, GError **error)
{
    const uint8_t *u = vm->uuid;
    QmpUuidInfo *info = g_new0(QmpUuidInfo, 1);
    info->UUID = g_strdup_printf(
        "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1], u[2],
        u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
    return info;
}

QmpKvmInfo *qmp_query_kvm(Vm *vm, GError **error)
{
    QmpKvmInfo *info = g_new0(QmpKvmInfo, 1);
    info->enabled = vm->kvm != NULL;
    info->present = true;
    return info;
}

QmpTargetInfo *qmp_query_target(Vm *vm, GError **error)
{
    QmpTargetInfo *info = g_new0(QmpTargetInfo, 1);
    info->arch = QMP_SYS_EMU_TARGET_X86_64;
    return info;
}

/* ---- machine types ---- */

static void add_machine(const Type *type, void *opaque)
{
    const MachineOps *ops = type_ops(type);
    if (type->abstract || !ops)
        return;
    QmpMachineInfo *info = g_new0(QmpMachineInfo, 1);
    info->name = g_strdup(type->name);
    info->alias = g_strdup(ops->alias);
    info->has_is_default = info->is_default = ops->is_default;
    info->cpu_max = MAX(ops->max_cpus, 1);
    info->default_ram_id = g_strdup(ops->default_ram_id);
    if (ops->default_cpu)
        info->default_cpu_type = g_strdup_printf("%s-x86_64-cpu", ops->default_cpu);
    info->acpi = type_find_property(type, "acpi") != NULL;
    g_ptr_array_add(opaque, info);
}

GPtrArray *qmp_query_machines(Vm *vm, GError **error)
{
    GPtrArray *list = qmp_array_new(&qmp_type_machine_info);
    type_foreach("machine", add_machine, list);
    return list;
}

QmpCurrentMachineParams *qmp_query_current_machine(Vm *vm, GError **error)
{
    return g_new0(QmpCurrentMachineParams, 1);  /* no wake-up: nothing sleeps */
}

/* ---- CPUs ---- */

static QmpCpuInstanceProperties *cpu_place(const SmpTopology *smp, unsigned index)
{
    unsigned threads = MAX(smp->threads, 1), cores = MAX(smp->cores, 1), dies = MAX(smp->dies, 1);
    QmpCpuInstanceProperties *props = g_new0(QmpCpuInstanceProperties, 1);
    props->has_thread_id = props->has_core_id = props->has_socket_id = true;
    props->thread_id = index % threads;
    props->core_id = index / threads % cores;
    props->has_die_id = dies > 1;
    props->die_id = index / threads / cores % dies;
    props->socket_id = index / threads / cores / dies;
    return props;
}

static unsigned cpu_count(const Vm *vm)
{
    return vm->kvm ? kvm_vcpu_count(vm->kvm) : 0;
}

GPtrArray *qmp_query_cpus_fast(Vm *vm, GError **error)
{
    GPtrArray *list = qmp_array_new(&qmp_type_cpu_info_fast);
    for (unsigned i = 0; i < cpu_count(vm); i++) {
        const Vcpu *vcpu = kvm_vcpu(vm->kvm, i);
        QmpCpuInfoFast *info = g_new0(QmpCpuInfoFast, 1);
        info->cpu_index = i;
        info->qom_path = object_path(vcpu_object(vcpu));
        info->thread_id = vcpu_thread_id(vcpu);
        info->props = cpu_place(&vm->machine->smp, i);
        info->target = QMP_SYS_EMU_TARGET_X86_64;
        g_ptr_array_add(list, info);
    }
    return list;
}

GPtrArray *qmp_query_hotpluggable_cpus(Vm *vm, GError **error)
{
    GPtrArray *list = qmp_array_new(&qmp_type_hotpluggable_cpu);
    for (unsigned i = cpu_count(vm); i-- > 0;) {
        Object *obj = vcpu_object(kvm_vcpu(vm->kvm, i));
        QmpHotpluggableCPU *info = g_new0(QmpHotpluggableCPU, 1);
        info->type = g_strdup(obj->type->name);
        info->vcpus_count = 1;
        info->props = cpu_place(&vm->machine->smp, i);
        info->qom_path = object_path(obj);
        g_ptr_array_add(list, info);
    }
    return list;
}

json_object *qmp_query_cpu_definitions(Vm *vm, GError **error)
{
    return cpu_model_definitions(vm->kvm);
}

json_object *qmp_query_cpu_model_expansion(Vm *vm, QmpCpuModelExpansionType type,
                                           const QmpCpuModelInfo *model, GError **error)
{
    return cpu_model_expand(vm->kvm, model->name, model->props,
                            type == QMP_CPU_MODEL_EXPANSION_TYPE_FULL, error);
}

GPtrArray *qmp_query_tpm_models(Vm *vm, GError **error)
{
    return qmp_array_new(&qmp_type_str);
}

GPtrArray *qmp_query_tpm_types(Vm *vm, GError **error)
{
    return qmp_array_new(&qmp_type_str);
}

/* ---- iothreads ---- */

static bool add_iothread(Object *obj, void *opaque)
{
    if (!object_is_a(obj, "iothread"))
        return true;
    LoopPollParams poll = iothread_poll_params(obj);
    QmpIOThreadInfo *info = g_new0(QmpIOThreadInfo, 1);
    info->id = g_strdup(obj->name);
    info->thread_id = iothread_thread_id(obj);
    info->poll_max_ns = poll.max_ns;
    info->poll_grow = poll.grow;
    info->poll_shrink = poll.shrink;
    info->aio_max_batch = iothread_aio_max_batch(obj);
    g_ptr_array_add(opaque, info);
    return true;
}

GPtrArray *qmp_query_iothreads(Vm *vm, GError **error)
{
    GPtrArray *list = qmp_array_new(&qmp_type_io_thread_info);
    object_walk(object_container(vm->root, "objects"), add_iothread, list);
    return list;
}

/* ---- memory ---- */

QmpMemoryInfo *qmp_query_memory_size_summary(Vm *vm, GError **error)
{
    QmpMemoryInfo *info = g_new0(QmpMemoryInfo, 1);
    info->base_memory = vm->machine ? vm->machine->ram_size : 0;
    info->has_plugged_memory = true;
    return info;
}

GPtrArray *qmp_query_memory_devices(Vm *vm, GError **error)
{
    return qmp_array_new(&qmp_type_memory_device_info);
}

/* ---- PCI ---- */

json_object *qmp_query_pci(Vm *vm, GError **error)
{
    json_object *list = json_object_new_array();
    Bus *bus = vm->machine ? vm->machine->main_bus : NULL;
    if (bus && object_is_a(OBJECT(bus), "pci-bus"))
        json_object_array_add(list, pci_describe((PciBus *)bus));
    return list;
}

/*
 * From a command line to a machine: the phases of the table at the end, in its order.  Each does one
 * kind of option and can count on those before it.
 */
#include "src/setup.h"
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include "hw/core/device.h"
#include "monitor/monitor.h"
#include "src/base/fdset.h"
#include "src/base/options.h"
#include "src/base/trace.h"
#include "src/base/util.h"
#include "src/chardev/chardev.h"
#include "src/cli/options.h"

#define RAM_UNIT (8 * KiB)                 /* -m is rounded up to it, as QEMU does */

/* ---- phases: the process ---- */

static bool setup_log(Vm *vm, const Config *c, GError **error)
{
    report_set_timestamp(c->timestamps);
    if (c->log_file && !trace_open_log(c->log_file, error))
        return error_prefix(error, "-D %s: ", c->log_file);
    if (c->log_mask && !log_set_mask(c->log_mask, error))
        return error_prefix(error, "-d %s: ", c->log_mask);
    for (unsigned i = 0; i < c->traces->len; i++) {
        const char *pattern = g_ptr_array_index(c->traces, i);

        if (!trace_set(pattern, true)) {
            fail(error, ERR_NOT_FOUND, "-trace %s: no event has such a name", pattern);
            return error_hint(error, "-trace help lists them");
        }
    }
    return true;
}

static bool setup_fd_sets(Vm *vm, const Config *c, GError **error)
{
    for (unsigned i = 0; i < c->add_fds->len; i++) {
        json_object *opts = g_ptr_array_index(c->add_fds, i);
        uint64_t fd = UINT64_MAX, set = UINT64_MAX;
        const char *opaque = NULL;
        int copy;

        if (!options_get_u64(opts, "fd", &fd, error) || !options_get_u64(opts, "set", &set, error) ||
            !options_get_str(opts, "opaque", &opaque, error))
            return error_prefix(error, "-add-fd: ");
        if (fd > INT_MAX || set > INT64_MAX)
            return fail(error, ERR_MISSING_PARAMETER, "-add-fd: fd= and set= are needed");
        if (fd <= STDERR_FILENO)
            return fail(error, ERR_INVALID_PARAMETER,
                        "-add-fd: fd=%" PRIu64 " is standard input or output; pass another", fd);
        copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (copy < 0)
            return fail_errno(error, errno, "-add-fd fd=%" PRIu64, fd);
        if (!fdset_add(copy, set, opaque, NULL, error))
            return error_prefix(error, "-add-fd: ");
    }
    return true;
}

static bool set_action(json_object *opts, const char *key, const char *const *words, int *value,
                       GError **error)
{
    return options_get_enum(opts, key, words, value, error) || error_prefix(error, "-action: ");
}

static bool setup_identity(Vm *vm, const Config *c, GError **error)
{
    int reboot = REBOOT_RESET, shutdown = SHUTDOWN_POWEROFF, panic = PANIC_SHUTDOWN;

    vm->name = g_strdup(c->name);
    if (c->uuid && !parse_uuid(c->uuid, vm->uuid, error))
        return error_prefix(error, "-uuid: ");
    if (!c->actions)
        return true;
    if (!set_action(c->actions, "reboot", reboot_action_words, &reboot, error) ||
        !set_action(c->actions, "shutdown", shutdown_action_words, &shutdown, error) ||
        !set_action(c->actions, "panic", panic_action_words, &panic, error) ||
        !set_action(c->actions, "watchdog", watchdog_action_words, &vm->actions.watchdog, error))
        return false;
    vm->actions.reboot = reboot;
    vm->actions.shutdown = shutdown;
    vm->actions.panic = panic;
    return true;
}

static bool setup_overcommit(Vm *vm, const Config *c, GError **error)
{
    bool mem_lock = false, cpu_pm = false;

    if (!c->overcommit)
        return true;
    if (!options_get_bool(c->overcommit, "mem-lock", &mem_lock, error) ||
        !options_get_bool(c->overcommit, "cpu-pm", &cpu_pm, error))
        return error_prefix(error, "-overcommit: ");
    if (cpu_pm)
        return fail(error, ERR_UNSUPPORTED, "-overcommit cpu-pm=on is not offered");
    if (mem_lock && mlockall(MCL_CURRENT | MCL_FUTURE) < 0) {
        fail_errno(error, errno, "-overcommit mem-lock=on: cannot lock the process's memory");
        return error_hint(error, "raise RLIMIT_MEMLOCK (ulimit -l)");
    }
    return true;
}

/* ---- phases: backends ---- */

static bool setup_chardevs(Vm *vm, const Config *c, GError **error)
{
    for (unsigned i = 0; i < c->chardevs->len; i++) {
        if (!chardev_create(vm->root, g_ptr_array_index(c->chardevs, i), error))
            return config_blame(c, g_ptr_array_index(c->chardevs, i), error);
    }
    return true;
}

static bool setup_objects(Vm *vm, const Config *c, GError **error)
{
    for (unsigned i = 0; i < c->objects->len; i++) {
        if (!object_create_user(vm->root, g_ptr_array_index(c->objects, i), error))
            return config_blame(c, g_ptr_array_index(c->objects, i), error);
    }
    return true;
}

static bool setup_blockdevs(Vm *vm, const Config *c, GError **error)
{
    for (unsigned i = 0; i < c->blockdevs->len; i++) {
        json_object *opts = g_ptr_array_index(c->blockdevs, i);

        if (!json_object_object_get_ex(opts, "node-name", NULL))
            fail(error, ERR_MISSING_PARAMETER, "'node-name' is needed");
        else if (block_node_open(vm->block, opts, error))
            continue;
        return config_blame(c, opts, error);
    }
    return true;
}

/* ---- phases: the machine ---- */

static const char *machine_option(const Config *c, const char *key)
{
    json_object *value;

    return c->machine && json_object_object_get_ex(c->machine, key, &value)
               ? json_object_get_string(value)
               : NULL;
}

static void look_at_machine(const Type *type, void *opaque)
{
    const char **name = opaque;
    const MachineOps *ops = type_ops(type);

    if (!type->abstract && ops && ops->is_default && !*name)
        *name = type->name;
}

static const char *machine_type_name(const Config *c)
{
    const char *name = machine_option(c, "type");

    if (!name)
        type_foreach("machine", look_at_machine, &name);
    return name;
}

static bool parse_irqchip(const char *word, KvmIrqchip *ret, GError **error)
{
    *ret = KVM_IRQCHIP_ON;
    if (!word || !strcmp(word, "on"))
        return true;
    if (!strcmp(word, "split"))
        *ret = KVM_IRQCHIP_SPLIT;
    else if (!strcmp(word, "off"))
        return fail(error, ERR_UNSUPPORTED,
                    "kernel-irqchip=off: the interrupt controller of the vCPUs is KVM's");
    else
        return fail(error, ERR_INVALID_PARAMETER, "kernel-irqchip must be on, split or off, not '%s'",
                    word);
    return true;
}

/* The machine 'none' serves to ask what this build can do: it starts without KVM, too. */
static bool setup_accel(Vm *vm, const Config *c, GError **error)
{
    const char *list = machine_option(c, "accel") ?: "kvm";
    g_auto(GStrv) names = g_strsplit(list, ":", -1);
    bool optional = !g_strcmp0(machine_type_name(c), "none");
    g_autoptr(GError) why = NULL;
    KvmIrqchip irqchip;

    if (!parse_irqchip(machine_option(c, "kernel-irqchip"), &irqchip, error))
        return error_prefix(error, "-machine: ");
    for (unsigned i = 0; names[i] && !vm->kvm; i++) {
        g_clear_error(&why);
        if (strcmp(names[i], "kvm"))
            fail(&why, ERR_UNSUPPORTED, "-accel %s: the only accelerator is kvm", names[i]);
        else
            vm->kvm = kvm_new(irqchip, &vm->kvm_env, &why);
    }
    if (vm->kvm || (optional && strstr(list, "kvm")))
        return true;
    g_propagate_error(error, g_steal_pointer(&why));
    return false;
}

/* What other phases take from -machine. */
static bool is_ours(const char *key)
{
    static const char *const ours[] = { "type", "accel", "kernel-irqchip", NULL };

    return g_strv_contains(ours, key);
}

static bool set_machine_properties(Machine *m, const Config *c, GError **error)
{
    if (!c->machine)
        return true;
    json_object_object_foreach(c->machine, key, value) {
        if (!is_ours(key) && !object_set(OBJECT(m), key, value, error))
            return error_prefix(error, "-machine: ");
    }
    return true;
}

/* Of a start date: what the RTC can be away from the host's clock, with years to run on. */
enum { RTC_FIRST_YEAR = 1970, RTC_LAST_YEAR = 2150 };

static bool parse_date(const char *text, int64_t *ret_offset, GError **error)
{
    g_autoptr(GTimeZone) utc = g_time_zone_new_utc();
    g_autofree char *full = strchr(text, 'T') ? g_strdup(text) : g_strdup_printf("%sT00:00:00", text);
    g_autoptr(GDateTime) date = g_date_time_new_from_iso8601(full, utc);

    if (!date) {
        fail(error, ERR_INVALID_PARAMETER, "base=%s is not a date", text);
        return error_hint(error, "write utc, localtime, or for example 2026-01-31T12:00:00");
    }
    int year = g_date_time_get_year(date);
    if (year < RTC_FIRST_YEAR || year > RTC_LAST_YEAR)
        return fail(error, ERR_INVALID_PARAMETER, "base=%s: the clock has years from %d to %d", text,
                    RTC_FIRST_YEAR, RTC_LAST_YEAR);
    *ret_offset = g_date_time_to_unix(date) - time(NULL);
    return true;
}

static bool set_rtc(Machine *m, const Config *c, GError **error)
{
    static const char *const clocks[] = { "host", "rt", "vm", NULL };
    static const char *const fixes[] = { "none", "slew", NULL };
    const char *base = "utc";
    int clock = 0, fix = 0;

    m->rtc.utc = true;
    if (!c->rtc)
        return true;
    if (!options_get_str(c->rtc, "base", &base, error) ||
        !options_get_enum(c->rtc, "clock", clocks, &clock, error) ||
        !options_get_enum(c->rtc, "driftfix", fixes, &fix, error))
        return false;
    m->rtc.utc = strcmp(base, "localtime");
    m->rtc.clock_vm = clock == 2;
    m->rtc.driftfix_slew = fix == 1;
    return !m->rtc.utc || !strcmp(base, "utc") || parse_date(base, &m->rtc.offset_s, error);
}

static bool set_boot(Machine *m, const Config *c, GError **error)
{
    const char *order = NULL, *once = NULL;

    if (c->boot && (!options_get_str(c->boot, "order", &order, error) ||
                    !options_get_str(c->boot, "once", &once, error)))
        return error_prefix(error, "-boot: ");
    m->boot_order = g_strdup(once ?: order);
    m->kernel = g_strdup(c->kernel);
    m->initrd = g_strdup(c->initrd);
    m->append = g_strdup(c->append);
    m->firmware = g_strdup(c->firmware);
    if (!m->kernel && (m->initrd || m->append))
        return fail(error, ERR_MISSING_PARAMETER, "-%s needs -kernel",
                    m->initrd ? "initrd" : "append");
    return true;
}

static bool setup_machine(Vm *vm, const Config *c, GError **error)
{
    Machine *m;

    vm->machine = machine_new(vm->root, machine_type_name(c), &vm->lock, &vm->machine_env,
                              vm->kvm ? kvm_intr(vm->kvm) : NULL, error);
    if (!vm->machine)
        return error_prefix(error, "-machine: ");
    m = vm->machine;
    for (unsigned i = 0; i < c->globals->len; i++) {
        if (!machine_add_global(m, g_ptr_array_index(c->globals, i), error))
            return error_prefix(error, "-global: ");
    }
    m->smp = c->smp.cpus ? c->smp : (SmpTopology){ 1, 1, 1, 1, 1, 1 };
    memcpy(m->uuid, vm->uuid, sizeof(m->uuid));
    if (m->smp.max_cpus > m->smp.cpus)
        return fail(error, ERR_UNSUPPORTED,
                    "-smp: maxcpus=%u, but vCPUs cannot be added to a running machine; leave it out",
                    m->smp.max_cpus);
    if (!set_rtc(m, c, error))
        return error_prefix(error, "-rtc: ");
    return set_boot(m, c, error) && set_machine_properties(m, c, error);
}

/* Bytes of -m.  A number without a suffix is MiB. */
static bool parse_memory(const Config *c, uint64_t *ret, GError **error)
{
    json_object *value;
    uint64_t number;

    if (!json_object_object_get_ex(c->memory, "size", &value))
        return true;
    if (!value_to_u64(value, "size", &number, NULL))
        return options_get_size(c->memory, "size", ret, error);
    if (number > UINT64_MAX / MiB)
        return fail(error, ERR_INVALID_PARAMETER, "%" PRIu64 " MiB are too much", number);
    *ret = number * MiB;
    return true;
}

static bool memory_size(const Config *c, uint64_t *ret, GError **error)
{
    uint64_t most = 0;

    *ret = 128 * MiB;
    if (!c->memory)
        return true;
    if (!parse_memory(c, ret, error) || !options_get_size(c->memory, "maxmem", &most, error))
        return false;
    if (*ret == 0 || *ret > UINT64_MAX - RAM_UNIT)
        return fail(error, ERR_INVALID_PARAMETER,
                    *ret ? "no machine has so much memory" : "a machine needs memory");
    if (most && most < *ret)
        return fail(error, ERR_INVALID_PARAMETER, "maxmem is less than the memory there is");
    if (most > *ret || json_object_object_get_ex(c->memory, "slots", NULL))
        return fail(error, ERR_UNSUPPORTED,
                    "slots, maxmem: memory cannot be added to a running machine; leave them out");
    *ret = ALIGN_UP(*ret, RAM_UNIT);
    return true;
}

/* Memory that -m alone does not describe: -mem-path and -mem-prealloc make a backend object. */
static Object *make_memory_backend(Vm *vm, const Config *c, const char *id, uint64_t size,
                                   GError **error)
{
    g_autoptr(json_object) opts = json_object_new_object();

    json_object_object_add(opts, "qom-type", json_object_new_string(
        c->mem_path ? "memory-backend-file" : "memory-backend-ram"));
    json_object_object_add(opts, "id", json_object_new_string(id));
    json_object_object_add(opts, "size", json_object_new_uint64(size));
    if (c->mem_path)
        json_object_object_add(opts, "mem-path", json_object_new_string(c->mem_path));
    if (c->mem_prealloc)
        json_object_object_add(opts, "prealloc", json_object_new_boolean(true));
    return object_create_user(vm->root, opts, error);
}

/* The machine takes its memory from a backend that is named, or makes one of ram_size bytes. */
static bool setup_memory(Vm *vm, const Config *c, GError **error)
{
    Machine *m = vm->machine;
    const MachineOps *ops = type_ops(m->obj.type);
    uint64_t size;
    Object *backend;

    if (!memory_size(c, &size, error))
        return error_prefix(error, "-m: ");
    if (c->memory || (ops->default_cpu && !m->ram_backend))
        m->ram_size = size;
    if (m->ram_backend || !ops->default_ram_id || (!c->mem_path && !c->mem_prealloc))
        return true;
    backend = make_memory_backend(vm, c, ops->default_ram_id, size, error);
    return backend && object_set_link(OBJECT(m), "memory-backend", backend, error);
}

static bool setup_board(Vm *vm, const Config *c, GError **error)
{
    return machine_build(vm->machine, error) &&
           (!vm->kvm ||
            kvm_attach_memory(vm->kvm, vm->machine->memory, vm->machine->io, error));
}

static bool setup_cpus(Vm *vm, const Config *c, GError **error)
{
    Machine *m = vm->machine;
    const MachineOps *ops = type_ops(m->obj.type);
    g_autofree char *text = NULL;

    if (!vm->kvm || !ops->default_cpu)
        return true;
    /* Nobody asked for the default model by name: that the host lacks a bit of it is no news. */
    text = c->cpu ? g_strdup(c->cpu) : g_strdup_printf("%s,check=off", ops->default_cpu);
    if (m->smp.cpus > ops->max_cpus)
        return fail(error, ERR_LIMIT, "-smp: machine '%s' has at most %u CPUs", m->obj.type->name,
                    ops->max_cpus);
    vm->cpu_model = cpu_model_new(vm->kvm, text, error);
    if (!vm->cpu_model)
        return error_prefix(error, "-cpu %s: ", text);
    m->phys_bits = cpu_model_phys_bits(vm->cpu_model);
    m->cpu_type = g_strndup(text, strcspn(text, ","));
    for (unsigned i = 0; i < m->smp.cpus; i++) {
        if (!kvm_vcpu_new(vm->kvm, i, m->cpu_apic_ids[i], &m->smp, vm->cpu_model, error))
            return error_prefix(error, "vCPU %u: ", i);
    }
    return kvm_add_objects(vm->kvm, OBJECT(m), error);
}

/* ---- phases: devices ---- */

static bool add_device(Vm *vm, json_object *opts, GError **error)
{
    return device_create(vm->machine, opts, false, error) != NULL;
}

static bool add_simple_device(Vm *vm, const char *driver, const char *key, const char *value,
                              GError **error)
{
    g_autoptr(json_object) opts = json_object_new_object();

    json_object_object_add(opts, "driver", json_object_new_string(driver));
    json_object_object_add(opts, key, json_object_new_string(value));
    return add_device(vm, opts, error);
}

static bool add_drive(Vm *vm, const Config *c, json_object *opts, GError **error)
{
    const char *iface = NULL;
    BlockNode *node;

    if (c->snapshot && !json_object_object_get_ex(opts, "snapshot", NULL))
        json_object_object_add(opts, "snapshot", json_object_new_string("on"));
    node = block_drive_open(vm->block, opts, &iface, error);
    if (!node)
        return false;
    if (!g_strcmp0(iface, "none"))
        return true;
    if (iface && strcmp(iface, "virtio")) {
        fail(error, ERR_UNSUPPORTED, "if=%s: this machine has no such controller", iface);
        return error_hint(error, "write if=virtio, or if=none and a -device");
    }
    return add_simple_device(vm, "virtio-blk-pci", "drive", block_node_name(node), error);
}

static bool setup_drives(Vm *vm, const Config *c, GError **error)
{
    for (unsigned i = 0; i < c->drives->len; i++) {
        json_object *opts = g_ptr_array_index(c->drives, i);

        if (!add_drive(vm, c, opts, error))
            return config_blame(c, opts, error);
    }
    return true;
}

/* A chardev from a short text; *ret is NULL for "none". */
static bool make_chardev(Vm *vm, const char *id, const char *text, Chardev **ret, GError **error)
{
    GError *why = NULL;

    *ret = chardev_create_compat(vm->root, id, text, &why);
    if (!why)
        return true;
    g_propagate_error(error, why);
    return false;
}

static bool add_serial(Vm *vm, unsigned n, const char *text, const char *driver, const char *prefix,
                       GError **error)
{
    g_autofree char *id = g_strdup_printf("%s%u", prefix, n);
    Chardev *chardev;

    if (!make_chardev(vm, id, text, &chardev, error))
        return false;
    if (chardev && g_str_has_prefix(text, "mon:") && !monitor_add_hmp(vm, chardev, error))
        return false;
    return !chardev || add_simple_device(vm, driver, "chardev", chardev_id(chardev), error);
}

static bool uses_stdio(const GPtrArray *texts)
{
    for (unsigned i = 0; i < texts->len; i++) {
        const char *text = g_ptr_array_index(texts, i);

        if (!strcmp(text, "stdio") || !strcmp(text, "mon:stdio"))
            return true;
    }
    return false;
}

/* Without a display, what nothing else was said about is on the terminal: the first serial port
 * and the monitor. */
static bool wants_default_serial(Vm *vm, const Config *c)
{
    return (c->nographic || !c->no_defaults) && !c->serials->len && !c->daemonize &&
           (c->nographic || !c->display_none) && vm->machine->isa_bus && !uses_stdio(c->qmps) &&
           !uses_stdio(c->qmps_pretty);
}

static bool setup_serials(Vm *vm, const Config *c, GError **error)
{
    const char *text = c->monitors->len ? "stdio" : "mon:stdio";

    for (unsigned i = 0; i < c->serials->len; i++) {
        if (!add_serial(vm, i, g_ptr_array_index(c->serials, i), "isa-serial", "serial", error))
            return error_prefix(error, "-serial: ");
    }
    for (unsigned i = 0; i < c->debugcons->len; i++) {
        if (!add_serial(vm, i, g_ptr_array_index(c->debugcons, i), "isa-debugcon", "debugcon", error))
            return error_prefix(error, "-debugcon: ");
    }
    return !wants_default_serial(vm, c) || uses_stdio(c->monitors) ||
           add_serial(vm, 0, text, "isa-serial", "serial", error);
}

/* A drive that if= has given a device is nobody else's: the -drive is to blame. */
static bool check_drive(const Config *c, json_object *device, GError **error)
{
    const char *id = json_get_str(device, "drive");

    for (unsigned i = 0; id && i < c->drives->len; i++) {
        json_object *opts = g_ptr_array_index(c->drives, i);
        const char *iface = json_get_str(opts, "if");

        if (g_strcmp0(json_get_str(opts, "id"), id) || !g_strcmp0(iface, "none"))
            continue;
        fail(error, ERR_IN_USE, "drive '%s' has a device already, that if=%s made for it", id,
             iface ? iface : "virtio");
        error_hint(error, "with a -device of its own it needs if=none");
        return config_blame(c, opts, error);
    }
    return true;
}

static bool setup_devices(Vm *vm, const Config *c, GError **error)
{
    for (unsigned i = 0; i < c->devices->len; i++) {
        if (!check_drive(c, g_ptr_array_index(c->devices, i), error))
            return false;
        if (!add_device(vm, g_ptr_array_index(c->devices, i), error))
            return config_blame(c, g_ptr_array_index(c->devices, i), error);
    }
    return true;
}

/* ---- phases: monitors ---- */

typedef bool MonitorAdd(Vm *vm, Chardev *chardev, GError **error);

static bool add_qmp(Vm *vm, Chardev *chardev, GError **error)
{
    return monitor_add_qmp(vm, chardev, false, error);
}

static bool add_qmp_pretty(Vm *vm, Chardev *chardev, GError **error)
{
    return monitor_add_qmp(vm, chardev, true, error);
}

static bool add_monitors(Vm *vm, const GPtrArray *texts, const char *prefix, MonitorAdd *add,
                         GError **error)
{
    for (unsigned i = 0; i < texts->len; i++) {
        g_autofree char *id = g_strdup_printf("compat_%s%u", prefix, i);
        Chardev *chardev;

        if (!make_chardev(vm, id, g_ptr_array_index(texts, i), &chardev, error) ||
            (chardev && !add(vm, chardev, error)))
            return error_prefix(error, "-%s: ", prefix);
    }
    return true;
}

static bool add_mon(Vm *vm, json_object *opts, GError **error)
{
    static const char *const modes[] = { "readline", "control", NULL };
    const char *id = NULL;
    Chardev *chardev;
    bool pretty = false;
    int mode = 0;

    if (!options_get_str(opts, "chardev", &id, error) ||
        !options_get_enum(opts, "mode", modes, &mode, error) ||
        !options_get_bool(opts, "pretty", &pretty, error))
        return false;
    if (!id)
        return fail(error, ERR_MISSING_PARAMETER, "chardev= is needed");
    chardev = chardev_find(vm->root, id);
    if (!chardev)
        return fail(error, ERR_NOT_FOUND, "there is no chardev '%s'", id);
    return mode ? monitor_add_qmp(vm, chardev, pretty, error) : monitor_add_hmp(vm, chardev, error);
}

static bool setup_monitors(Vm *vm, const Config *c, GError **error)
{
    monitor_set_command_line_options(vm, cli_describe_options);
    /* A ring and a thread take longer than most of a start: only who has a use for them waits. */
    if ((c->qmps->len || c->qmps_pretty->len || c->mons->len) && !monitor_start_thread(vm, error))
        return false;
    if (!add_monitors(vm, c->monitors, "monitor", monitor_add_hmp, error) ||
        !add_monitors(vm, c->qmps, "qmp", add_qmp, error) ||
        !add_monitors(vm, c->qmps_pretty, "qmp-pretty", add_qmp_pretty, error))
        return false;
    for (unsigned i = 0; i < c->mons->len; i++) {
        if (!add_mon(vm, g_ptr_array_index(c->mons, i), error))
            return config_blame(c, g_ptr_array_index(c->mons, i), error);
    }
    return true;
}

/* ---- the end ---- */

static bool setup_finish(Vm *vm, const Config *c, GError **error)
{
    if (!machine_done(vm->machine, error))
        return false;
    machine_reset(vm->machine);
    return true;
}

bool vm_setup(Vm *vm, const Config *config, GError **error)
{
    static bool (*const phases[])(Vm *vm, const Config *c, GError **error) = {
        setup_log,       setup_fd_sets, setup_identity, setup_overcommit,
        setup_chardevs,  setup_objects, setup_blockdevs,
        setup_accel,     setup_machine, setup_memory,   setup_board, setup_cpus,
        setup_serials,   setup_drives,  setup_devices,
        setup_monitors,  setup_finish,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(phases); i++) {
        if (!phases[i](vm, config, error))
            return false;
    }
    return true;
}

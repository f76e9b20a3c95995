/* `info WHAT` in the monitor for people. */
#include <inttypes.h>
#include <string.h>
#include "hw/core/device.h"
#include "monitor/hmp.h"
#include "schema/commands.h"
#include "src/base/trace.h"

static void info_status(Hmp *h, GError **error)
{
    hmp_print(h, "VM status: %s", vm_running(h->vm) ? "running" : "paused");
    if (!vm_running(h->vm) && h->vm->state != RUN_STATE_PAUSED)
        hmp_print(h, " (%s)", run_state_words[h->vm->state]);
    hmp_print(h, "\n");
}

static void info_version(Hmp *h, GError **error)
{
    hmp_print(h, "vireo " VIREO_VERSION "\n");
}

static void info_name(Hmp *h, GError **error)
{
    if (h->vm->name)
        hmp_print(h, "%s\n", h->vm->name);
}

static void info_uuid(Hmp *h, GError **error)
{
    g_autoptr(QmpUuidInfo) info = qmp_query_uuid(h->vm, error);
    hmp_print(h, "%s\n", info->UUID);
}

static void info_kvm(Hmp *h, GError **error)
{
    hmp_print(h, "kvm support: %s\n", h->vm->kvm ? "enabled" : "disabled");
}

static void info_cpus(Hmp *h, GError **error)
{
    g_autoptr(GPtrArray) list = qmp_query_cpus_fast(h->vm, error);
    for (guint i = 0; i < list->len; i++) {
        const QmpCpuInfoFast *cpu = list->pdata[i];
        hmp_print(h, "%c CPU #%" PRId64 ": thread_id=%" PRId64 "\n",
                  cpu->cpu_index == h->cpu ? '*' : ' ', cpu->cpu_index, cpu->thread_id);
    }
}

static void print_registers(Hmp *h, unsigned n)
{
    g_autofree char *text = vcpu_describe(kvm_vcpu(h->vm->kvm, n));
    hmp_print(h, "%s%s", text, g_str_has_suffix(text, "\n") ? "" : "\n");
}

static void info_registers(Hmp *h, GError **error)
{
    unsigned count = h->vm->kvm ? kvm_vcpu_count(h->vm->kvm) : 0;
    bool all = h->count && !strcmp(h->words[0], "-a");
    uint64_t one = h->cpu;
    if (h->count && !all && !hmp_expression(h, h->words[0], &one, error))
        return;
    if (!count)
        fail(error, ERR_UNSUPPORTED, "the machine has no CPUs");
    else if (!all && one >= count)
        fail(error, ERR_INVALID_PARAMETER, "CPU#%" PRIu64 " not available", one);
    else if (!all)
        print_registers(h, one);
    for (unsigned i = 0; all && i < count; i++)
        print_registers(h, i);
}

/* ---- block ---- */

static void print_disk(Hmp *h, json_object *disk)
{
    json_object *inserted = NULL;
    const char *device = json_get_str(disk, "device"), *qdev = json_get_str(disk, "qdev");
    json_object_object_get_ex(disk, "inserted", &inserted);
    const char *node = json_get_str(inserted, "node-name");
    hmp_print(h, "%s", device && *device ? device : qdev ? qdev : node ? node : "?");
    if (!inserted) {
        hmp_print(h, ": [not inserted]\n");
        return;
    }
    hmp_print(h, " (%s): %s (%s%s)\n", node ? node : "", json_get_str(inserted, "file"),
              json_get_str(inserted, "drv"),
              !g_strcmp0(json_get_str(inserted, "ro"), "true") ? ", read-only" : "");
    if (qdev)
        hmp_print(h, "    Attached to:      %s\n", qdev);
}

static void info_block(Hmp *h, GError **error)
{
    g_autoptr(json_object) list = qmp_query_block(h->vm, error);
    for (size_t i = 0; i < json_object_array_length(list); i++)
        print_disk(h, json_object_array_get_idx(list, i));
}

static void print_stats(Hmp *h, json_object *disk)
{
    static const char *const shown[] = { "rd_bytes", "wr_bytes", "rd_operations", "wr_operations",
                                         "flush_operations", "wr_total_time_ns", "rd_total_time_ns",
                                         "flush_total_time_ns" };
    json_object *stats = NULL;
    const char *device = json_get_str(disk, "device"), *qdev = json_get_str(disk, "qdev");
    json_object_object_get_ex(disk, "stats", &stats);
    hmp_print(h, "%s:", device && *device ? device : qdev ? qdev : json_get_str(disk, "node-name"));
    for (unsigned i = 0; i < G_N_ELEMENTS(shown); i++)
        hmp_print(h, " %s=%s", shown[i], json_get_str(stats, shown[i]));
    hmp_print(h, "\n");
}

static void info_blockstats(Hmp *h, GError **error)
{
    g_autoptr(json_object) list = qmp_query_blockstats(h->vm, false, false, error);
    for (size_t i = 0; i < json_object_array_length(list); i++)
        print_stats(h, json_object_array_get_idx(list, i));
}

/* ---- devices ---- */

static void info_chardev(Hmp *h, GError **error)
{
    g_autoptr(GPtrArray) list = qmp_query_chardev(h->vm, error);
    for (guint i = 0; i < list->len; i++) {
        const QmpChardevInfo *info = list->pdata[i];
        hmp_print(h, "%s: filename=%s\n", info->label, info->filename);
    }
}

static void print_region(Hmp *h, const QmpPciMemoryRegion *region)
{
    bool io = !strcmp(region->type, "io");
    hmp_print(h, "      BAR%" PRId64 ": ", region->bar);
    if (region->address == -1)
        hmp_print(h, "%s of %" PRId64 " bytes, not mapped\n", io ? "I/O" : "memory", region->size);
    else
        hmp_print(h, "%s at 0x%" PRIx64 " [0x%" PRIx64 "]\n",
                  io ? "I/O" : region->mem_type_64 ? "64 bit memory" : "32 bit memory",
                  (uint64_t)region->address, (uint64_t)(region->address + region->size - 1));
}

static void print_pci_device(Hmp *h, const QmpPciDeviceInfo *dev)
{
    const char *desc = dev->class_info->desc;
    hmp_print(h, "  Bus %2" PRId64 ", device %3" PRId64 ", function %" PRId64 ":\n", dev->bus,
              dev->slot, dev->function);
    hmp_print(h, "    %s: PCI device %04" PRIx64 ":%04" PRIx64 "\n", desc ? desc : "Class",
              (uint64_t)dev->id->vendor, (uint64_t)dev->id->device);
    if (dev->irq_pin)
        hmp_print(h, "      IRQ %" PRId64 ", pin %c\n", dev->irq, (char)('A' + dev->irq_pin - 1));
    for (guint i = 0; i < dev->regions->len; i++)
        print_region(h, dev->regions->pdata[i]);
    hmp_print(h, "      id \"%s\"\n", dev->qdev_id);
    GPtrArray *behind = dev->pci_bridge ? dev->pci_bridge->devices : NULL;
    for (guint i = 0; behind && i < behind->len; i++)
        print_pci_device(h, behind->pdata[i]);
}

static void info_pci(Hmp *h, GError **error)
{
    g_autoptr(json_object) reply = qmp_query_pci(h->vm, error);
    g_autoptr(GPtrArray) buses = NULL;
    if (!qmp_parse(&qmp_type_array_pci_info, reply, "bus", &buses, error))
        return;
    for (guint i = 0; i < buses->len; i++) {
        const QmpPciInfo *bus = buses->pdata[i];
        for (guint k = 0; k < bus->devices->len; k++)
            print_pci_device(h, bus->devices->pdata[k]);
    }
}

static void info_qtree(Hmp *h, GError **error)
{
    g_autofree char *text = h->vm->machine ? device_describe_tree(h->vm->machine) : g_strdup("");
    hmp_print(h, "%s", text);
}

static void print_object(Hmp *h, Object *obj, unsigned depth)
{
    hmp_print(h, "%*s/%s (%s)\n", depth * 2, "", obj->parent ? obj->name : "", obj->type->name);
    for (guint i = 0; obj->children && i < obj->children->len; i++)
        print_object(h, obj->children->pdata[i], depth + 1);
}

static void info_qom_tree(Hmp *h, GError **error)
{
    Object *top = h->count ? object_resolve(h->vm->root, h->words[0]) : h->vm->root;
    if (!top)
        fail(error, ERR_DEVICE_NOT_FOUND, "there is no object '%s'", h->words[0]);
    else
        print_object(h, top, 0);
}

static void info_mtree(Hmp *h, GError **error)
{
    bool flat = h->count && !strcmp(h->words[0], "-f");
    if (h->count && !flat) {
        fail(error, ERR_INVALID_PARAMETER, "write info mtree, or info mtree -f");
        return;
    }
    AddressSpace *spaces[] = { h->vm->machine ? h->vm->machine->memory : NULL,
                               h->vm->machine ? h->vm->machine->io : NULL };
    for (unsigned i = 0; i < G_N_ELEMENTS(spaces); i++) {
        if (!spaces[i])
            continue;
        g_autofree char *text = address_space_describe(spaces[i], flat);
        hmp_print(h, "%s\n", text);
    }
}

static void info_iothreads(Hmp *h, GError **error)
{
    g_autoptr(GPtrArray) list = qmp_query_iothreads(h->vm, error);
    for (guint i = 0; i < list->len; i++) {
        const QmpIOThreadInfo *info = list->pdata[i];
        hmp_print(h, "%s:\n  thread_id=%" PRId64 "\n  poll-max-ns=%" PRId64 "\n", info->id,
                  info->thread_id, info->poll_max_ns);
    }
}

static void info_memory(Hmp *h, GError **error)
{
    hmp_print(h, "base memory: %" PRIu64 "\n", h->vm->machine ? h->vm->machine->ram_size : 0);
}

static void print_trace(const char *name, bool enabled, void *opaque)
{
    hmp_print(opaque, "%s : state %d\n", name, enabled);
}

static void info_trace_events(Hmp *h, GError **error)
{
    trace_foreach(h->count ? h->words[0] : "*", print_trace, h);
}

static void info_history(Hmp *h, GError **error)
{
    const GPtrArray *lines = h->session ? hmp_session_history(h->session) : NULL;
    for (guint i = 0; lines && i < lines->len; i++)
        hmp_print(h, "%u: '%s'\n", i, (char *)lines->pdata[i]);
}

const HmpCommand hmp_info[] = {
    { "status", NULL, "", "whether the guest runs", 0, 0, info_status },
    { "version", NULL, "", "the program's version", 0, 0, info_version },
    { "name", NULL, "", "the machine's name", 0, 0, info_name },
    { "uuid", NULL, "", "the machine's UUID", 0, 0, info_uuid },
    { "kvm", NULL, "", "whether KVM runs the guest", 0, 0, info_kvm },
    { "cpus", NULL, "", "the CPUs and their threads", 0, 0, info_cpus },
    { "registers", NULL, "[-a|CPU]", "a CPU's registers; -a: of all", 0, 1, info_registers },
    { "block", NULL, "", "the disks", 0, 0, info_block },
    { "blockstats", NULL, "", "what the disks have done", 0, 0, info_blockstats },
    { "chardev", NULL, "", "the character devices", 0, 0, info_chardev },
    { "pci", NULL, "", "the PCI devices", 0, 0, info_pci },
    { "qtree", NULL, "", "the buses and the devices on them", 0, 0, info_qtree },
    { "qom-tree", NULL, "[PATH]", "the tree of objects", 0, 1, info_qom_tree },
    { "mtree", NULL, "[-f]", "the memory map; -f: as the guest sees it", 0, 1, info_mtree },
    { "iothreads", NULL, "", "the iothreads", 0, 0, info_iothreads },
    { "memory_size_summary", NULL, "", "how much memory the guest has", 0, 0, info_memory },
    { "trace-events", NULL, "[PATTERN]", "the trace events, and which are on", 0, 1,
      info_trace_events },
    { "history", NULL, "", "the lines typed before", 0, 0, info_history },
    {}
};

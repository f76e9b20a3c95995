/*
 * The machine pc-q35-1.0: Intel's 3-series memory controller hub (q35) with the ICH9 south bridge, as
 * QEMU has it.  RAM up to 2.75 GiB is below the ECAM at 0xb0000000; of more, 2 GiB are there and the
 * rest is above 4G.
 */
#include "hw/x86/q35.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "hw/timer/mc146818rtc.h"
#include "hw/x86/i8259.h"
#include "hw/x86/ich9.h"
#include "hw/x86/ioapic.h"
#include "hw/x86/memmap.h"
#include "src/base/options.h"

#define MAX_CPUS 255
#define MAX_ROM_SIZE (16 * MiB)
#define ROM_LOW_SIZE (128 * KiB)            /* what of a ROM's end is seen below 1 MiB */

/* ---- RAM ---- */

static bool split_ram(Q35Machine *q, GError **error)
{
    uint64_t size = q->m.ram_size, limit = RAM_BELOW_4G_MAX;

    if (size > limit)
        limit = RAM_BELOW_4G_SPLIT;
    if (q->max_ram_below_4g) {
        if (q->max_ram_below_4g > RAM_BELOW_4G_MAX || q->max_ram_below_4g % MiB ||
            q->max_ram_below_4g < 2 * MiB)
            return fail(error, ERR_INVALID_PARAMETER,
                        "max-ram-below-4g must be a multiple of 1 MiB from 2 MiB to %u MiB",
                        (unsigned)(RAM_BELOW_4G_MAX / MiB));
        limit = MIN(limit, q->max_ram_below_4g);
    }
    if (size < 2 * MiB || size % (8 * KiB))
        return fail(error, ERR_INVALID_PARAMETER,
                    "a q35 machine needs at least 2 MiB of memory, in units of 8 KiB");
    q->ram_below_4g = MIN(size, limit);
    q->ram_above_4g = size - q->ram_below_4g;
    return true;
}

static void map_ram(Q35Machine *q)
{
    Object *obj = OBJECT(q);
    Region *root = &q->m.memory_root;

    region_init_ram(&q->ram, obj, "pc.ram", q->m.ram, 0, q->m.ram_size);
    region_init_rom(&q->ram_readonly, obj, "pc.ram-readonly", q->m.ram, 0, LOW_1M);
    region_init_alias(&q->low, obj, "ram-below-640k", &q->ram, 0, VGA_BASE);
    region_add(root, 0, &q->low);
    region_init_alias(&q->main, obj, "ram-below-4g", &q->ram, LOW_1M, q->ram_below_4g - LOW_1M);
    region_add(root, LOW_1M, &q->main);
    if (!q->ram_above_4g)
        return;
    region_init_alias(&q->high, obj, "ram-above-4g", &q->ram, q->ram_below_4g, q->ram_above_4g);
    region_add(root, 4 * GiB, &q->high);
}

/* ---- firmware ---- */

static bool read_rom(const char *path, GBytes **ret, GError **error)
{
    g_autofree char *data = NULL;
    GError *cause = NULL;
    gsize size;

    if (!g_file_get_contents(path, &data, &size, &cause)) {
        fail(error, ERR_NOT_FOUND, "cannot read the firmware: %s", cause->message);
        g_error_free(cause);
        return false;
    }
    if (!size || size % RAM_PAGE_SIZE || size > MAX_ROM_SIZE)
        return fail(error, ERR_INVALID_PARAMETER,
                    "firmware '%s' has %zu bytes; it must be a multiple of 4096, up to 16 MiB", path,
                    size);
    *ret = g_bytes_new_take(g_steal_pointer(&data), size);
    return true;
}

static bool map_rom(Q35Machine *q, const uint8_t *data, size_t size, GError **error)
{
    uint64_t low = MIN(size, ROM_LOW_SIZE);

    q->rom_block = ram_block_new("pc.bios", size, error);
    if (!q->rom_block)
        return false;
    memcpy(ram_block_host(q->rom_block), data, size);
    region_init_rom(&q->rom, OBJECT(q), "pc.bios", q->rom_block, 0, size);
    region_add(&q->m.memory_root, 4 * GiB - size, &q->rom);
    region_init_alias(&q->rom_low, OBJECT(q), "isa-bios", &q->rom, size - low, low);
    region_add(&q->m.memory_root, LOW_1M - low, &q->rom_low);
    return true;
}

static bool load_firmware(Q35Machine *q, GError **error)
{
    /* Nothing to start: the reset vector holds cli; hlt; jmp to the hlt. */
    static const uint8_t halt[] = { 0xfa, 0xf4, 0xeb, 0xfd };
    enum { RESET_VECTOR = RAM_PAGE_SIZE - 16 };
    uint8_t page[RAM_PAGE_SIZE] = { 0 };
    g_autoptr(GBytes) rom = NULL;

    if (q->m.kernel)
        return !q->m.firmware ||
               fail(error, ERR_UNSUPPORTED,
                    "-bios with -kernel is not offered: the kernel is started without firmware");
    if (!q->m.firmware) {
        memcpy(page + RESET_VECTOR, halt, sizeof(halt));
        return map_rom(q, page, sizeof(page), error);
    }
    return read_rom(q->m.firmware, &rom, error) &&
           map_rom(q, g_bytes_get_data(rom, NULL), g_bytes_get_size(rom), error);
}

/* ---- devices ---- */

/* Makes a device that is part of the board.  All have names of their own: /machine/unattached is left to
 * the vCPUs, which management tools look for at device[0]. */
static Device *add(Q35Machine *q, const char *type, Bus *bus, const char *name, GError **error)
{
    Device *dev = device_new(&q->m, type, error);

    if (dev && !device_realize(dev, OBJECT(q), name, bus, error)) {
        object_unref(dev);
        return NULL;
    }
    return dev;
}

static bool add_mch(Q35Machine *q, GError **error)
{
    Device *dev = device_new(&q->m, "mch", error);

    if (!dev)
        return false;
    mch_set_ram(PCI_DEVICE(dev), &q->ram, &q->ram_readonly);
    PCI_DEVICE(dev)->devfn = PCI_DEVFN(0, 0);
    if (!device_realize(dev, OBJECT(q->host), "mch", &q->host->bus->bus, error)) {
        object_unref(dev);
        return false;
    }
    q->mch = PCI_DEVICE(dev);
    if (q->m.kernel)                        /* as the first reset leaves it: one memory map less for KVM */
        mch_firmware_setup(q->mch);
    return true;
}

static bool add_lpc(Q35Machine *q, GError **error)
{
    Device *dev = device_new(&q->m, "ICH9-LPC", error);

    if (!dev)
        return false;
    PCI_DEVICE(dev)->devfn = PCI_DEVFN(ICH9_LPC_SLOT, 0);
    PCI_DEVICE(dev)->multifunction = true;
    if (!device_realize(dev, OBJECT(q), "lpc", &q->host->bus->bus, error)) {
        object_unref(dev);
        return false;
    }
    q->lpc = PCI_DEVICE(dev);
    return true;
}

bool q35_has_pic(const Q35Machine *q)
{
    return q->m.intr && q->pic != ON_OFF_OFF;
}

uint64_t q35_address_limit(const Q35Machine *q)
{
    return q->m.phys_bits ? 1ull << q->m.phys_bits : UINT64_MAX;
}

/* The lines of the machine end at PICs and an IOAPIC of ours: ISA line 0 is the IOAPIC's input 2, where
 * the cascade of the PICs leaves a hole. */
static void set_line(void *opaque, unsigned n, bool level)
{
    Q35Machine *q = opaque;

    if (q->pic_device)
        i8259_set_input(q->pic_device, n, level);
    if (n != 2)
        ioapic_set_input(q->ioapic, n ? n : 2, level);
}

static bool add_ioapic(Q35Machine *q, GError **error)
{
    if (q->m.intr && q->m.intr->ops->kernel_ioapic)
        return true;
    q->ioapic = add(q, "ioapic", NULL, "ioapic", error);
    if (!q->ioapic)
        return false;
    for (unsigned n = 0; n < G_N_ELEMENTS(q->m.gsi); n++)
        irq_line_init(&q->m.gsi[n], set_line, q, n);
    return true;
}

static void fill_cmos(Q35Machine *q)
{
    uint64_t ext_kb = MIN(q->ram_below_4g / KiB - 1024, 0xffff);
    uint64_t above_16m = q->ram_below_4g > 16 * MiB ? (q->ram_below_4g - 16 * MiB) / (64 * KiB) : 0;
    uint64_t above_4g = q->ram_above_4g / (64 * KiB);
    struct { uint8_t index, bytes; uint64_t value; } fields[] = {
        { CMOS_BASE_KB, 2, 640 },
        { CMOS_EXT_KB, 2, ext_kb },
        { CMOS_EXT_KB_POST, 2, ext_kb },
        { CMOS_ABOVE_16M_64K, 2, MIN(above_16m, 0xffff) },
        { CMOS_ABOVE_4G_64K, 3, MIN(above_4g, 0xffffff) },
        { CMOS_EQUIPMENT, 1, 0x06 },        /* FPU, PS/2 mouse */
        { CMOS_CPUS_MINUS_1, 1, q->m.smp.cpus - 1 },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(fields); i++)
        for (unsigned byte = 0; byte < fields[i].bytes; byte++)
            rtc_set_cmos(q->rtc, fields[i].index + byte, fields[i].value >> (8 * byte));
}

/* Before the devices whose lines it takes over.  Without a PIC there is no ISA line 0 for a kernel, which
 * complains when its HPET wants one: there it has to be asked for. */
static bool add_hpet(Q35Machine *q, GError **error)
{
    if (!q35_has_pic(q) && !object_was_set(OBJECT(q), "hpet"))
        q->m.hpet = false;
    return !q->m.hpet || add(q, "hpet", NULL, "hpet0", error);
}

/* Beside an IOAPIC of ours; KVM's come with its own. */
static bool add_pic(Q35Machine *q, GError **error)
{
    if (!q->ioapic || !q35_has_pic(q))
        return true;
    q->pic_device = add(q, "isa-i8259", q->m.isa_bus, "i8259", error);
    return q->pic_device;
}

static bool add_pit(Q35Machine *q, GError **error)
{
    bool in_kernel = q->m.intr && q->m.intr->ops->kernel_pic;

    return q->pit == ON_OFF_OFF || !q->m.intr ||
           add(q, in_kernel ? "kvm-pit" : "isa-pit", in_kernel ? NULL : q->m.isa_bus, "i8254", error);
}

static bool add_isa_devices(Q35Machine *q, GError **error)
{
    q->rtc = add(q, "mc146818rtc", q->m.isa_bus, "rtc", error);
    if (!q->rtc)
        return false;
    fill_cmos(q);
    return add_pic(q, error) && add_pit(q, error) &&
           add(q, "i8257", q->m.isa_bus, "dma", error) &&
           add(q, "port92", q->m.isa_bus, "port92", error) &&
           (!q->i8042 || add(q, "i8042", q->m.isa_bus, "ps2-controller", error));
}

/* ---- the machine ---- */

static bool check_options(Q35Machine *q, GError **error)
{
    if (q->m.usb)
        return fail(error, ERR_UNSUPPORTED, "usb=on: this machine has no USB controller of its own");
    if (q->m.dtb)
        return fail(error, ERR_UNSUPPORTED, "-dtb: x86 machines have no device tree");
    if (!q->m.kernel && (q->m.initrd || (q->m.append && *q->m.append)))
        return fail(error, ERR_MISSING_PARAMETER, "-initrd and -append need -kernel");
    if (q->pic == ON_OFF_OFF && q->m.intr && q->m.intr->ops->kernel_pic) {
        fail(error, ERR_UNSUPPORTED, "pic=off: KVM's interrupt controllers have a PIC among them");
        return error_hint(error, "use kernel-irqchip=split");
    }
    if (!q->m.ram)
        return fail(error, ERR_MISSING_PARAMETER, "a q35 machine needs memory");
    return true;
}

static bool q35_build(Machine *m, GError **error)
{
    Q35Machine *q = Q35_MACHINE(m);

    if (!check_options(q, error) || !split_ram(q, error))
        return false;
    for (unsigned i = 0; i < m->smp.max_cpus && i < G_N_ELEMENTS(m->cpu_apic_ids); i++)
        m->cpu_apic_ids[i] = smp_apic_id(&m->smp, i);
    m->acpi = q->acpi != ON_OFF_OFF;
    memory_begin();
    map_ram(q);
    bool ok = load_firmware(q, error) && add_ioapic(q, error) && add_hpet(q, error);
    if (ok)
        q->host = (Q35Host *)add(q, "q35-pcihost", NULL, "q35", error);
    ok = ok && q->host && add_mch(q, error) && add_lpc(q, error) && add_isa_devices(q, error);
    memory_commit();
    return ok;
}

/* What CPUs cannot address is no memory: a guest that believes in it dies of its first use. */
static bool check_cpus_reach(const Q35Machine *q, GError **error)
{
    uint64_t end = q->ram_above_4g ? 4 * GiB + q->ram_above_4g : q->ram_below_4g;

    if (end <= q35_address_limit(q))
        return true;
    fail(error, ERR_LIMIT,
         "memory ends at 0x%" PRIx64 ", but the CPUs have %u bits of physical address", end,
         q->m.phys_bits);
    return error_hint(error, "give the CPUs more (-cpu NAME,host-phys-bits=on) or less memory (-m)");
}

static bool q35_done(Machine *m, GError **error)
{
    return check_cpus_reach(Q35_MACHINE(m), error) &&
           (!m->kernel || q35_prepare_boot(Q35_MACHINE(m), error));
}

static void q35_reset(Machine *m)
{
    if (m->kernel)
        q35_start_boot(Q35_MACHINE(m));
}

static void q35_powerdown(Machine *m)
{
    ich9_lpc_power_button(Q35_MACHINE(m)->lpc);
}

static void q35_unrealize(Object *obj)
{
    Q35Machine *q = Q35_MACHINE(obj);
    Region *regions[] = { &q->rom_low, &q->rom, &q->low, &q->main, &q->high, &q->ram_readonly, &q->ram };

    for (unsigned i = 0; i < G_N_ELEMENTS(regions); i++)
        region_destroy(regions[i]);
    g_clear_pointer(&q->rom_block, ram_block_unref);
    boot_plan_clear(&q->boot);
}

/* ---- properties ---- */

/* Parts of a PC that this machine has not: only "off" (or "auto") is accepted, so that a command line
 * that says so works. */
static bool set_absent(Object *obj, const Property *prop, json_object *value, GError **error)
{
    const char *text = json_object_get_type(value) == json_type_string
                           ? json_object_get_string(value) : NULL;
    bool on = false;

    if (text && !strcmp(text, "auto"))
        return true;
    g_autofree char *what = property_what(obj, prop);
    if (!value_to_bool(value, what, &on, error))
        return false;
    return !on || property_fail(obj, prop, error, ERR_UNSUPPORTED,
                                "this machine has none, the value can only be 'off'");
}

static json_object *get_absent(Object *obj, const Property *prop)
{
    return json_object_new_boolean(false);
}

/* Taken by the accelerator, before there is a machine. */
static bool set_accelerator(Object *obj, const Property *prop, json_object *value, GError **error)
{
    return property_fail(obj, prop, error, ERR_BAD_STATE, "it is chosen on the command line");
}

static json_object *get_accelerator(Object *obj, const Property *prop)
{
    return json_object_new_string("kvm");
}

/* What the guest's clock shows. */
static json_object *get_rtc_time(Object *obj, const Property *prop)
{
    Device *rtc = Q35_MACHINE(obj)->rtc;

    return rtc ? object_get(OBJECT(rtc), "date", NULL) : NULL;
}

static const Property q35_props[] = {
    PROP_FN("accel", get_accelerator, set_accelerator, .help = "accelerator: kvm"),
    PROP_FN("kernel-irqchip", NULL, set_accelerator, .help = "on or split"),
    PROP_OF("acpi", Q35Machine, acpi, prop_on_off_auto, .help = "ACPI tables"),
    PROP("i8042", Q35Machine, i8042, .def.b = true, .help = "keyboard controller"),
    PROP_OF("pic", Q35Machine, pic, prop_on_off_auto,
            .help = "8259 interrupt controllers (off: with kernel-irqchip=split only)"),
    PROP_OF("pit", Q35Machine, pit, prop_on_off_auto, .help = "8254 interval timer"),
    PROP_OF("max-ram-below-4g", Q35Machine, max_ram_below_4g, prop_size,
            .help = "upper limit of RAM below 4 GiB"),
    PROP("hpet", Q35Machine, m.hpet, .def.b = true,
         .help = "high precision event timers (with pic=off: only if asked for)"),
    PROP_FN("graphics", get_absent, set_absent, .help = "the board's graphics: off"),
    PROP_FN("smm", get_absent, set_absent, .help = "system management mode: off"),
    PROP_FN("sata", get_absent, set_absent, .help = "the board's SATA controller: off"),
    PROP_FN("smbus", get_absent, set_absent, .help = "the board's SMBus controller: off"),
    PROP_FN("rtc-time", get_rtc_time, NULL, .read_only = true, .help = "what the guest's clock shows"),
    PROP_FN("vmport", get_absent, set_absent, .help = "VMware's port: off"),
    PROP_FN("nvdimm", get_absent, set_absent, .help = "NVDIMMs: off"),
    {}
};

static const MachineOps q35_ops = {
    .build = q35_build,
    .done = q35_done,
    .reset = q35_reset,
    .powerdown = q35_powerdown,
    .alias = "q35",
    .max_cpus = MAX_CPUS,
    .default_cpu = "qemu64",
    .default_ram_id = "pc.ram",
    .is_default = true,
};

static const Type q35_type = {
    .name = "pc-q35-1.0",
    .parent = "machine",
    .help = "PC with PCI Express (Q35 and ICH9), 2026",
    .size = sizeof(Q35Machine),
    .props = q35_props,
    .ops = &q35_ops,
    .unrealize = q35_unrealize,
};
TYPE_REGISTER(q35_type)

/*
 * Starting a kernel on the q35 board without firmware: the memory map, the ACPI tables, and what
 * firmware would have set up in the chipset; then the kernel by its boot protocol.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include "hw/misc/pvpanic.h"
#include "hw/x86/ich9.h"
#include "hw/x86/memmap.h"
#include "hw/x86/pci-setup.h"
#include "hw/x86/q35.h"
#include "src/base/options.h"
#include "src/base/trace.h"

/* The end of RAM below 4G holds the ACPI tables, its last page the FACS. */
#define ACPI_AREA_SIZE (128 * KiB)
#define ACPI_NVS_SIZE (4 * KiB)
#define MIN_RAM (4 * MiB)
#define RSDP_ADDR 0xf0000
#define EBDA_ADDR 0x9fc00
#define BDA_EBDA_SEGMENT 0x40e              /* BIOS data area */
#define BDA_BASE_KB 0x413
/* BARs above 4G start on a boundary of this size, in a window at least so large (as QEMU's). */
#define PCI_64_ALIGN (1 * GiB)
#define PCI_64_SIZE (32 * GiB)
#define PCI_IO_MIN 0x1000
#define PCI_IO_MAX 0xffff

/* ---- the map ---- */

static void add_entry(E820Entry *list, unsigned *count, uint64_t addr, uint64_t end, uint32_t type)
{
    if (end > addr)
        list[(*count)++] = (E820Entry){ addr, end - addr, type };
}

static unsigned make_e820(const Q35Machine *q, E820Entry list[16])
{
    uint64_t top = q->ram_below_4g, acpi = q->m.acpi ? top - ACPI_AREA_SIZE : top;
    uint64_t nvs = q->m.acpi ? top - ACPI_NVS_SIZE : top;
    unsigned n = 0;

    add_entry(list, &n, 0, EBDA_ADDR, E820_RAM);
    add_entry(list, &n, EBDA_ADDR, VGA_BASE, E820_RESERVED);
    add_entry(list, &n, RSDP_ADDR, LOW_1M, E820_RESERVED);
    add_entry(list, &n, LOW_1M, acpi, E820_RAM);
    add_entry(list, &n, acpi, nvs, E820_ACPI);
    add_entry(list, &n, nvs, top, E820_NVS);
    add_entry(list, &n, ECAM_BASE, ECAM_BASE + (uint64_t)ECAM_SIZE, E820_RESERVED);
    add_entry(list, &n, RCBA_BASE, RCBA_BASE + RCBA_SIZE, E820_RESERVED);
    add_entry(list, &n, 4 * GiB, 4 * GiB + q->ram_above_4g, E820_RAM);
    return n;
}

/* ---- ACPI ---- */

static uint64_t number_of(Object *obj, const char *property)
{
    g_autoptr(json_object) value = object_get(obj, property, NULL);

    return json_object_get_uint64(value);
}

static void add_com_port(AcpiConfig *c, Object *dev)
{
    if (!object_is_a(dev, "isa-serial"))
        return;
    uint64_t index = number_of(dev, "index");
    if (index >= ACPI_COM_PORTS)
        return;
    c->com[index].port = number_of(dev, "iobase");
    c->com[index].irq = number_of(dev, "irq");
}

/* Behind the memory above 4G, as far as the CPUs reach. */
static AcpiRange pci_64_window(const Q35Machine *q)
{
    uint64_t start = ALIGN_UP(4 * GiB + q->ram_above_4g, PCI_64_ALIGN);
    uint64_t end = MIN(start + PCI_64_SIZE, q35_address_limit(q));

    return end > start ? (AcpiRange){ start, end - 1 } : (AcpiRange){ 0 };
}

static AcpiConfig make_acpi_config(const Q35Machine *q)
{
    Machine *m = (Machine *)&q->m;
    AcpiConfig c = {
        .apic_ids = m->cpu_apic_ids,
        .cpus = m->smp.cpus,
        .pic = q35_has_pic(q),
        .hpet = m->hpet,
        .i8042 = q->i8042,
        .rtc = true,
        .pvpanic_port = pvpanic_port(m),
        .pm_base = PM_IO_BASE,
        .ecam_base = ECAM_BASE,
        .pci_32 = { ECAM_BASE + ECAM_SIZE, PCI_HOLE_32_END - 1 },
        .pci_64 = pci_64_window(q),
        .pci_gsi = ich9_pirq_gsi,
        .pci_link = ich9_pirq,
    };

    if (q->ram_below_4g < ECAM_BASE)
        c.pci_below = (AcpiRange){ q->ram_below_4g, ECAM_BASE - 1 };
    for (unsigned i = 0; i < m->isa_bus->devices->len; i++)
        add_com_port(&c, g_ptr_array_index(m->isa_bus->devices, i));
    return c;
}

static bool add_acpi(Q35Machine *q, GError **error)
{
    AcpiConfig config = make_acpi_config(q);
    AcpiPlace place = {
        .tables = q->ram_below_4g - ACPI_AREA_SIZE, .facs = q->ram_below_4g - ACPI_NVS_SIZE,
    };
    uint8_t rsdp[ACPI_RSDP_SIZE], facs[ACPI_FACS_SIZE];
    GByteArray *tables = acpi_build(&config, &place, rsdp, facs);
    guint size = tables->len;

    boot_plan_add(&q->boot, "ACPI tables", place.tables, g_byte_array_free_to_bytes(tables), 0);
    boot_plan_add(&q->boot, "FACS", place.facs, g_bytes_new(facs, sizeof(facs)), 0);
    boot_plan_add(&q->boot, "RSDP", RSDP_ADDR, g_bytes_new(rsdp, sizeof(rsdp)), 0);
    return size <= ACPI_AREA_SIZE - ACPI_NVS_SIZE ||
           fail(error, ERR_LIMIT, "the ACPI tables have %u bytes, more than there is room for", size);
}

/* What kernels look for in the BIOS data area: where base memory and the extended one end. */
static void add_bios_data(Q35Machine *q)
{
    uint8_t ebda[2], base_kb[2];

    st_le16(ebda, EBDA_ADDR >> 4);
    st_le16(base_kb, EBDA_ADDR / KiB);
    boot_plan_add(&q->boot, "BDA", BDA_EBDA_SEGMENT, g_bytes_new(ebda, 2), 0);
    boot_plan_add(&q->boot, "BDA", BDA_BASE_KB, g_bytes_new(base_kb, 2), 0);
}

/* ---- the images ---- */

static GBytes *map_file(const char *option, const char *path, GError **error)
{
    auto_fd fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0) {
        fail_errno(error, errno, "-%s %s", option, path);
        return NULL;
    }
    GMappedFile *file = S_ISREG(st.st_mode) ? g_mapped_file_new_from_fd(fd, FALSE, NULL) : NULL;

    if (!file) {
        fail(error, ERR_NOT_FOUND, "-%s %s: %s", option, path,
             S_ISREG(st.st_mode) ? "it cannot be mapped into memory" : "it is not a regular file");
        return NULL;
    }
    GBytes *bytes = g_mapped_file_get_bytes(file);
    g_mapped_file_unref(file);
    return bytes;
}

bool q35_prepare_boot(Q35Machine *q, GError **error)
{
    g_autoptr(GBytes) kernel = map_file("kernel", q->m.kernel, error), initrd = NULL;
    E820Entry e820[16];
    BootInput in = { .e820 = e820, .cmdline = q->m.append };

    if (!kernel)
        return false;
    if (q->m.initrd && !(initrd = map_file("initrd", q->m.initrd, error)))
        return false;
    if (q->ram_below_4g < MIN_RAM)
        return fail(error, ERR_LIMIT, "a kernel needs at least 4 MiB of memory below 4 GiB");
    in.e820_count = make_e820(q, e820);
    in.kernel = kernel;
    in.initrd = initrd;
    in.rsdp = q->m.acpi ? RSDP_ADDR : 0;
    if (!boot_plan_linux(&in, &q->boot, error))
        return error_prefix(error, "-kernel %s: ", q->m.kernel);
    add_bios_data(q);
    return !q->m.acpi || add_acpi(q, error);
}

/* ---- reset ---- */

static uint8_t pci_irq(unsigned slot, unsigned pin)
{
    return ich9_pirq(slot, pin) & 2 ? 11 : 10;  /* as the PIRQ registers are set */
}

static void setup_chipset(Q35Machine *q)
{
    AcpiConfig c = make_acpi_config(q);
    PciSetup setup = {
        .io = { PCI_IO_MIN, PCI_IO_MAX }, .mem32 = c.pci_32, .mem64 = c.pci_64, .irq = pci_irq,
    };

    mch_firmware_setup(q->mch);
    ich9_lpc_firmware_setup(q->lpc);
    pci_setup(q->host->bus, &setup);
}

static void write_zeros(Machine *m, uint64_t addr, uint64_t size)
{
    static const uint8_t zeros[64 * KiB];

    for (uint64_t part; size; addr += part, size -= part) {
        part = MIN(size, sizeof(zeros));
        address_space_write(m->memory, addr, zeros, part);
    }
}

void q35_start_boot(Q35Machine *q)
{
    setup_chipset(q);
    for (guint i = 0; i < q->boot.blobs->len; i++) {
        const BootBlob *b = &g_array_index(q->boot.blobs, BootBlob, i);
        gsize size;
        const void *data = g_bytes_get_data(b->bytes, &size);
        TRACE(boot_blob, "%s at 0x%" PRIx64 " size 0x%zx", b->name, b->addr, size);
        address_space_write(q->m.memory, b->addr, data, size);
        /* RAM of our own is zero when it is new: its pages need not be touched. */
        if (q->booted || ram_block_fd(q->m.ram) >= 0)
            write_zeros(&q->m, b->addr + size, b->zeros);
    }
    q->booted = true;
    if (q->m.env->set_boot_regs)
        q->m.env->set_boot_regs(&q->m, &q->boot.regs);
}

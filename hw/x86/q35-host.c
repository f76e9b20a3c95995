/*
 * The q35 host bridge's ways to configuration space: ports 0xcf8 and 0xcfc (PCI Local Bus 3.0, 3.2.2.3)
 * and the memory-mapped ECAM (PCI Express Base 5.0, 7.2.2).  The reset control register of the south
 * bridge, port 0xcf9, is here too, as it lies among the bytes of CONFIG_ADDRESS.
 */
#include "hw/x86/ich9.h"
#include "hw/x86/memmap.h"
#include "hw/x86/q35-host.h"
#include "src/base/trace.h"

#define CONFIG_ADDRESS_PORT 0xcf8
#define CONFIG_DATA_PORT 0xcfc
#define CONFIG_ENABLE 0x80000000u

static void write_rst_cnt(Q35Host *s, uint8_t value)
{
    s->rst_cnt = value & (RST_CNT_SYS_RST | RST_CNT_FULL_RST);
    if (value & RST_CNT_RST_CPU)
        machine_request(s->dev.machine, MACHINE_RESET, "reset control register");
}

static uint64_t address_read(void *opaque, uint64_t offset, unsigned size)
{
    Q35Host *s = opaque;

    if (size == 4)
        return s->config_address;
    return CONFIG_ADDRESS_PORT + offset == ICH9_RST_CNT_PORT && size == 1 ? s->rst_cnt
                                                                         : UINT32_MAX;
}

/* Only a doubleword is CONFIG_ADDRESS; other sizes are ordinary ports (3.2.2.3.2). */
static void address_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    Q35Host *s = opaque;

    if (size == 4)
        s->config_address = value;
    else if (CONFIG_ADDRESS_PORT + offset == ICH9_RST_CNT_PORT && size == 1)
        write_rst_cnt(s, value);
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned size)
{
    Q35Host *s = opaque;
    uint32_t a = s->config_address;

    if (!(a & CONFIG_ENABLE))
        return UINT32_MAX;
    return pci_bus_config_read(s->bus, a >> 16, a >> 8, (a & 0xfc) + offset, size);
}

static void data_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    Q35Host *s = opaque;
    uint32_t a = s->config_address;

    if (a & CONFIG_ENABLE)
        pci_bus_config_write(s->bus, a >> 16, a >> 8, (a & 0xfc) + offset, value, size);
}

/* Offset in the window: bus (8 bits), device and function (8), register (12). */
static uint64_t ecam_read(void *opaque, uint64_t offset, unsigned size)
{
    Q35Host *s = opaque;

    return pci_bus_config_read(s->bus, offset >> 20, offset >> 12, offset & 0xfff, size);
}

static void ecam_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    Q35Host *s = opaque;

    pci_bus_config_write(s->bus, offset >> 20, offset >> 12, offset & 0xfff, value, size);
}

static const IoOps address_ops = {
    .read = address_read,
    .write = address_write,
    .guest = { .min = 1, .max = 4 },
    .device = { .min = 1, .max = 4 },
};
static const IoOps data_ops = {
    .read = data_read,
    .write = data_write,
    .guest = { .min = 1, .max = 4 },
    .device = { .min = 1, .max = 4 },
};
static const IoOps ecam_ops = {
    .read = ecam_read,
    .write = ecam_write,
    .guest = { .min = 1, .max = 8 },
    .device = { .min = 1, .max = 4 },
};

void q35_host_map_ecam(Q35Host *s, bool on, uint64_t base, uint64_t size)
{
    TRACE(q35_ecam, "on %d base 0x%" PRIx64 " size 0x%" PRIx64, on, base, size);
    if (region_is_mapped(&s->ecam) && on && s->ecam.offset == base && s->ecam.size == size)
        return;
    memory_begin();
    region_del(&s->ecam);
    if (on) {
        region_set_size(&s->ecam, size);
        region_add(&s->dev.machine->memory_root, base, &s->ecam);
    }
    memory_commit();
}

static void host_reset(Object *obj)
{
    Q35Host *s = (Q35Host *)obj;

    s->config_address = 0;
    s->rst_cnt = 0;
}

static bool host_realize(Object *obj, GError **error)
{
    Q35Host *s = (Q35Host *)obj;
    Machine *m = s->dev.machine;

    s->bus = PCI_BUS(bus_new("pcie-bus", &s->dev, m, "pcie.0", error));
    if (!s->bus)
        return false;
    s->bus->mem = &m->memory_root;
    s->bus->io = &m->io_root;
    m->main_bus = &s->bus->bus;
    region_init_io(&s->address_io, obj, &address_ops, s, "pci-config-address", 4);
    region_add(&m->io_root, CONFIG_ADDRESS_PORT, &s->address_io);
    region_init_io(&s->data_io, obj, &data_ops, s, "pci-config-data", 4);
    region_add(&m->io_root, CONFIG_DATA_PORT, &s->data_io);
    region_init_io(&s->ecam, obj, &ecam_ops, s, "pcie-ecam", ECAM_SIZE);
    return true;
}

static void host_unrealize(Object *obj)
{
    Q35Host *s = (Q35Host *)obj;

    s->dev.machine->main_bus = NULL;
    region_destroy(&s->address_io);
    region_destroy(&s->data_io);
    region_destroy(&s->ecam);
}

static const StateField host_fields[] = {
    FIELD(Q35Host, config_address),
    FIELD(Q35Host, rst_cnt, .max = RST_CNT_SYS_RST | RST_CNT_FULL_RST),
    {}
};
static const StateTable host_state = { .fields = host_fields };

static const Type host_type = {
    .name = "q35-pcihost",
    .parent = "device",
    .help = "q35 PCI Express host bridge",
    .size = sizeof(Q35Host),
    .state = &host_state,
    .realize = host_realize,
    .unrealize = host_unrealize,
    .reset = host_reset,
};
TYPE_REGISTER(host_type)

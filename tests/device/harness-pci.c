/* What firmware and a driver do with PCI devices. */
#include <linux/pci_regs.h>
#include "tests/device/harness-int.h"

PciDevice *find_pci(TestMachine *m, const char *id)
{
    Device *dev = find_device(m, id);

    ck_assert_msg(object_is_a(OBJECT(dev), "pci-device"), "'%s' is no PCI device", id);
    return PCI_DEVICE(dev);
}

/* The size of a memory BAR, its upper half included, from what it reads after all ones (6.2.5.1). */
static uint64_t mem_bar_size(PciDevice *dev, unsigned reg, bool wide)
{
    uint64_t mask;

    pci_config_write(dev, reg, UINT32_MAX, 4);
    mask = pci_config_read(dev, reg, 4) & PCI_BASE_ADDRESS_MEM_MASK;
    if (!wide)
        return (uint32_t)-mask;
    pci_config_write(dev, reg + 4, UINT32_MAX, 4);
    mask |= (uint64_t)pci_config_read(dev, reg + 4, 4) << 32;
    return -mask;
}

static void place_io_bar(TestMachine *m, PciDevice *dev, unsigned reg)
{
    uint32_t size;

    pci_config_write(dev, reg, UINT32_MAX, 4);
    size = -(pci_config_read(dev, reg, 4) & PCI_BASE_ADDRESS_IO_MASK);
    m->next_io_bar = ALIGN_UP(m->next_io_bar, size);
    pci_config_write(dev, reg, m->next_io_bar, 4);
    m->next_io_bar += size;
}

static void place_mem_bar(TestMachine *m, PciDevice *dev, unsigned reg, bool wide)
{
    uint64_t size = mem_bar_size(dev, reg, wide);

    m->next_mem_bar = ALIGN_UP(m->next_mem_bar, size);
    pci_config_write(dev, reg, m->next_mem_bar, 4);
    if (wide)
        pci_config_write(dev, reg + 4, m->next_mem_bar >> 32, 4);
    m->next_mem_bar += size;
}

void pci_set_up(TestMachine *m, PciDevice *dev)
{
    unsigned bars = (dev->config[PCI_HEADER_TYPE] & 0x7f) == PCI_HEADER_TYPE_BRIDGE ? 2 : 6;

    for (unsigned n = 0; n < bars; n++) {
        unsigned reg = PCI_BASE_ADDRESS_0 + 4 * n;
        uint32_t flags = dev->bars[n].flags;

        if (!dev->bars[n].region)
            continue;
        if (flags & PCI_BAR_IO) {
            place_io_bar(m, dev, reg);
        } else {
            place_mem_bar(m, dev, reg, flags & PCI_BAR_MEM64);
            n += !!(flags & PCI_BAR_MEM64);
        }
    }
    pci_config_write(dev, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
}

/* A window takes what was placed between @start and now (PCI-to-PCI Bridge 1.2, 3.2.5). */
static void set_windows(TestMachine *m, PciDevice *bridge, uint64_t mem_start, uint64_t io_start)
{
    m->next_mem_bar = ALIGN_UP(m->next_mem_bar, 1 * MiB);
    m->next_io_bar = ALIGN_UP(m->next_io_bar, 4 * KiB);
    pci_config_write(bridge, PCI_MEMORY_BASE, mem_start >> 16, 2);
    pci_config_write(bridge, PCI_MEMORY_LIMIT, (m->next_mem_bar - 1) >> 16, 2);
    pci_config_write(bridge, PCI_IO_BASE, io_start >> 8, 1);
    pci_config_write(bridge, PCI_IO_LIMIT, (m->next_io_bar - 1) >> 8, 1);
}

void pci_set_up_bus(TestMachine *m, PciBus *bus)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(bus->devices); i++) {
        PciDevice *dev = bus->devices[i];
        uint64_t mem_start, io_start;

        if (!dev)
            continue;
        pci_set_up(m, dev);
        if (!pci_bridge_bus(dev))
            continue;
        mem_start = m->next_mem_bar = ALIGN_UP(m->next_mem_bar, 1 * MiB);
        io_start = m->next_io_bar = ALIGN_UP(m->next_io_bar, 4 * KiB);
        pci_set_up_bus(m, pci_bridge_bus(dev));
        set_windows(m, dev, mem_start, io_start);
    }
}

uint64_t pci_bar(PciDevice *dev, unsigned n)
{
    uint64_t address = pci_bar_address(dev, n);

    ck_assert_msg(address != UINT64_MAX, "BAR %u of '%s' is not mapped", n, dev->dev.obj.name);
    return address;
}

uint8_t pci_find_cap(PciDevice *dev, uint8_t id)
{
    uint8_t at = pci_config_read(dev, PCI_CAPABILITY_LIST, 1);

    for (unsigned steps = 0; at && steps < 64; steps++) {
        if (pci_config_read(dev, at, 1) == id)
            return at;
        at = pci_config_read(dev, at + PCI_CAP_LIST_NEXT, 1);
    }
    return 0;
}

void pci_enable_msix(TestMachine *m, PciDevice *dev, uint32_t first_data)
{
    uint8_t cap = pci_find_cap(dev, PCI_CAP_ID_MSIX);
    uint32_t place, control;
    uint64_t table;

    ck_assert_msg(cap != 0, "'%s' has no MSI-X", dev->dev.obj.name);
    place = pci_config_read(dev, cap + PCI_MSIX_TABLE, 4);
    table = pci_bar(dev, place & PCI_MSIX_TABLE_BIR) + (place & PCI_MSIX_TABLE_OFFSET);
    control = pci_config_read(dev, cap + PCI_MSIX_FLAGS, 2);
    for (unsigned n = 0; n <= (control & PCI_MSIX_FLAGS_QSIZE); n++) {
        uint64_t entry = table + n * PCI_MSIX_ENTRY_SIZE;

        mem_write(m, entry + PCI_MSIX_ENTRY_LOWER_ADDR, 4, 0xfee00000);
        mem_write(m, entry + PCI_MSIX_ENTRY_UPPER_ADDR, 4, 0);
        mem_write(m, entry + PCI_MSIX_ENTRY_DATA, 4, first_data + n);
        mem_write(m, entry + PCI_MSIX_ENTRY_VECTOR_CTRL, 4, 0);
    }
    pci_config_write(dev, cap + PCI_MSIX_FLAGS, control | PCI_MSIX_FLAGS_ENABLE, 2);
}

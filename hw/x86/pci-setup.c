/*
 * Sets up PCI in place of firmware.  Depth first, each window a cursor that only grows: a bridge's
 * windows are what its devices took, so that one pass is enough.
 */
#include "hw/x86/pci-setup.h"
#include "src/base/util.h"

#define BRIDGE_MEM_ALIGN (1 * MiB)
#define BRIDGE_IO_ALIGN (4 * KiB)
/* Room behind a bridge that nothing is behind yet. */
#define BRIDGE_MEM_SPARE (2 * MiB)
/* A 64-bit BAR larger than this goes above 4G. */
#define LARGE_BAR (32 * MiB)

typedef struct Window {
    uint64_t next, end;                     /* end: first address that is not in it */
} Window;

typedef struct Setup {
    const PciSetup *how;
    Window io, mem32, mem64;
    uint8_t last_bus;
    unsigned depth;                         /* bridges above */
} Setup;

static Window window_of(AcpiRange range)
{
    return range.max ? (Window){ range.min, range.max + 1 } : (Window){ 0 };
}

/* 0: no room. */
static uint64_t take(Window *w, uint64_t size, uint64_t align)
{
    uint64_t place = ALIGN_UP(w->next, align);

    if (!w->end || place < w->next || place > w->end || size > w->end - place)
        return 0;
    w->next = place + size;
    return place;
}

static unsigned bar_register(const PciDevice *dev, unsigned n)
{
    if (n < PCI_ROM_BAR)
        return PCI_BASE_ADDRESS_0 + 4 * n;
    return pci_bridge_bus(dev) ? PCI_ROM_ADDRESS1 : PCI_ROM_ADDRESS;
}

static void place_bar(Setup *s, PciDevice *dev, unsigned n, uint16_t *command)
{
    const PciBar *bar = &dev->bars[n];
    uint64_t size = bar->region->size;
    bool io = n != PCI_ROM_BAR && bar->flags & PCI_BAR_IO;
    bool high = n != PCI_ROM_BAR && bar->flags & PCI_BAR_MEM64 && size > LARGE_BAR && s->mem64.end &&
                (!s->depth || bar->flags & PCI_BAR_PREFETCH);
    uint64_t place = take(io ? &s->io : high ? &s->mem64 : &s->mem32, size, size);

    if (!place)
        return;
    pci_config_write(dev, bar_register(dev, n), place, 4);
    if (n != PCI_ROM_BAR && bar->flags & PCI_BAR_MEM64)
        pci_config_write(dev, bar_register(dev, n) + 4, place >> 32, 4);
    if (n != PCI_ROM_BAR)                   /* ROMs get an address, and stay disabled */
        *command |= io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
}

static void setup_bus(Setup *s, PciBus *bus, uint8_t number, unsigned root_slot, unsigned swizzle);

static void set_mem_window(PciDevice *dev, unsigned base_reg, uint64_t base, uint64_t end)
{
    pci_config_write(dev, base_reg, base >> 16, 2);
    pci_config_write(dev, base_reg + 2, (end - 1) >> 16, 2);
}

/* Closed: base above limit. */
static void set_io_window(PciDevice *dev, uint64_t base, uint64_t end)
{
    pci_config_write(dev, PCI_IO_BASE, end > base ? base >> 8 : 0xf0, 1);
    pci_config_write(dev, PCI_IO_LIMIT, end > base ? (end - 1) >> 8 : 0x00, 1);
}

static void setup_bridge(Setup *s, PciDevice *dev, uint8_t primary, unsigned root_slot,
                         unsigned swizzle)
{
    if (s->last_bus == 255)
        return;
    uint8_t secondary = ++s->last_bus;
    pci_config_write(dev, PCI_PRIMARY_BUS, primary, 1);
    pci_config_write(dev, PCI_SECONDARY_BUS, secondary, 1);
    pci_config_write(dev, PCI_SUBORDINATE_BUS, 255, 1);

    uint64_t io = s->io.next = ALIGN_UP(s->io.next, BRIDGE_IO_ALIGN);
    uint64_t mem = s->mem32.next = ALIGN_UP(s->mem32.next, BRIDGE_MEM_ALIGN);
    uint64_t pref = s->mem64.next = ALIGN_UP(s->mem64.next, BRIDGE_MEM_ALIGN);
    s->depth++;
    setup_bus(s, pci_bridge_bus(dev), secondary, root_slot, swizzle);
    s->depth--;
    s->io.next = ALIGN_UP(s->io.next, BRIDGE_IO_ALIGN);
    s->mem32.next = MIN(ALIGN_UP(MAX(s->mem32.next, mem + BRIDGE_MEM_SPARE), BRIDGE_MEM_ALIGN),
                        s->mem32.end);
    s->mem64.next = ALIGN_UP(s->mem64.next, BRIDGE_MEM_ALIGN);

    pci_config_write(dev, PCI_SUBORDINATE_BUS, s->last_bus, 1);
    set_io_window(dev, io, s->io.next);
    set_mem_window(dev, PCI_MEMORY_BASE, mem, s->mem32.next);
    bool has_pref = s->mem64.next > pref;
    set_mem_window(dev, PCI_PREF_MEMORY_BASE, has_pref ? pref : 0xfff00000,
                   has_pref ? s->mem64.next : 1);
    pci_config_write(dev, PCI_PREF_BASE_UPPER32, has_pref ? pref >> 32 : 0, 4);
    pci_config_write(dev, PCI_PREF_LIMIT_UPPER32, has_pref ? (s->mem64.next - 1) >> 32 : 0, 4);
}

/* @root_slot: the root bus's slot that everything here is behind; @swizzle: of the bridges between. */
static void setup_device(Setup *s, PciDevice *dev, uint8_t bus, unsigned root_slot, unsigned swizzle)
{
    uint16_t command = ld_le16(dev->config + PCI_COMMAND);

    for (unsigned n = 0; n < G_N_ELEMENTS(dev->bars); n++)
        if (dev->bars[n].region)
            place_bar(s, dev, n, &command);
    if (pci_bridge_bus(dev)) {
        setup_bridge(s, dev, bus, root_slot, swizzle);
        command |= PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
    }
    if (dev->intx_pin)
        pci_config_write(dev, PCI_INTERRUPT_LINE,
                         s->how->irq(root_slot, (dev->intx_pin - 1 + swizzle) % 4), 1);
    pci_config_write(dev, PCI_COMMAND, command, 2);
}

static void setup_bus(Setup *s, PciBus *bus, uint8_t number, unsigned root_slot, unsigned swizzle)
{
    bool root = number == 0;

    for (unsigned devfn = 0; devfn < G_N_ELEMENTS(bus->devices); devfn++) {
        PciDevice *dev = bus->devices[devfn];
        unsigned slot = PCI_SLOT(devfn);
        if (dev && OBJECT(dev)->realized)
            setup_device(s, dev, number, root ? slot : root_slot, root ? 0 : swizzle + slot);
    }
}

void pci_setup(PciBus *root, const PciSetup *how)
{
    Setup s = {
        .how = how, .io = window_of(how->io), .mem32 = window_of(how->mem32),
        .mem64 = window_of(how->mem64),
    };

    memory_begin();
    setup_bus(&s, root, 0, 0, 0);
    memory_commit();
}

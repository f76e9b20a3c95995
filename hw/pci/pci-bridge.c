/*
 * PCI-to-PCI bridges: a type 1 header, whose windows decide what of the bus behind is reached
 * (PCI-to-PCI Bridge 1.2, 3.2.5).  BARs behind are mapped by address into a container; each window
 * is an alias of that container in the parent's space.
 */
#include <linux/pci_regs.h>
#include "hw/pci/pci-int.h"
#include "src/base/util.h"

bool pci_bridge_window(const PciDevice *dev, PciWindow which, uint64_t *base, uint64_t *limit)
{
    const uint8_t *c = dev->config;

    switch (which) {
    case PCI_WINDOW_IO:
        *base = (uint64_t)(c[PCI_IO_BASE] & 0xf0) << 8;
        *limit = (uint64_t)(c[PCI_IO_LIMIT] & 0xf0) << 8 | 0xfff;
        break;
    case PCI_WINDOW_MEM:
        *base = (uint64_t)(ld_le16(c + PCI_MEMORY_BASE) & 0xfff0) << 16;
        *limit = (uint64_t)(ld_le16(c + PCI_MEMORY_LIMIT) & 0xfff0) << 16 | 0xfffff;
        break;
    case PCI_WINDOW_PREF:
        *base = (uint64_t)(ld_le16(c + PCI_PREF_MEMORY_BASE) & 0xfff0) << 16 |
                (uint64_t)ld_le32(c + PCI_PREF_BASE_UPPER32) << 32;
        *limit = (uint64_t)(ld_le16(c + PCI_PREF_MEMORY_LIMIT) & 0xfff0) << 16 | 0xfffff |
                 (uint64_t)ld_le32(c + PCI_PREF_LIMIT_UPPER32) << 32;
        break;
    }
    /* A window at 0 is one that nobody has set: all three registers are 0 after a reset. */
    return *limit > *base && *base;
}

static void update_window(PciBridge *bridge, PciWindow which, Region *alias, Region *target,
                          Region *space, uint16_t enable)
{
    uint64_t base, limit;
    bool open = space && (ld_le16(bridge->pci.config + PCI_COMMAND) & enable) &&
                pci_bridge_window(&bridge->pci, which, &base, &limit);

    if (open && region_is_mapped(alias) && alias->offset == base &&
        alias->size == limit - base + 1)
        return;
    region_destroy(alias);
    if (!open)
        return;
    region_init_alias(alias, OBJECT(bridge), "pci-window", target, base, limit - base + 1);
    region_add_priority(space, base, alias, -1);
}

void pci_bridge_update_windows(PciBridge *bridge)
{
    PciBus *parent = PCI_BUS(bridge->pci.dev.bus);

    memory_begin();
    update_window(bridge, PCI_WINDOW_IO, &bridge->io_window, &bridge->io, parent->io,
                  PCI_COMMAND_IO);
    update_window(bridge, PCI_WINDOW_MEM, &bridge->mem_window, &bridge->mem, parent->mem,
                  PCI_COMMAND_MEMORY);
    update_window(bridge, PCI_WINDOW_PREF, &bridge->pref_window, &bridge->mem, parent->mem,
                  PCI_COMMAND_MEMORY);
    memory_commit();
}

static void set_masks(PciDevice *dev)
{
    dev->wmask[PCI_PRIMARY_BUS] = 0xff;
    dev->wmask[PCI_SECONDARY_BUS] = 0xff;
    dev->wmask[PCI_SUBORDINATE_BUS] = 0xff;
    dev->wmask[PCI_IO_BASE] = 0xf0;
    dev->wmask[PCI_IO_LIMIT] = 0xf0;
    st_le16(dev->wmask + PCI_MEMORY_BASE, 0xfff0);
    st_le16(dev->wmask + PCI_MEMORY_LIMIT, 0xfff0);
    st_le16(dev->wmask + PCI_PREF_MEMORY_BASE, 0xfff0);
    st_le16(dev->wmask + PCI_PREF_MEMORY_LIMIT, 0xfff0);
    st_le32(dev->wmask + PCI_PREF_BASE_UPPER32, UINT32_MAX);
    st_le32(dev->wmask + PCI_PREF_LIMIT_UPPER32, UINT32_MAX);
    dev->config[PCI_IO_BASE] = dev->config[PCI_IO_LIMIT] = PCI_IO_RANGE_TYPE_16;
    st_le16(dev->config + PCI_PREF_MEMORY_BASE, PCI_PREF_RANGE_TYPE_64);
    st_le16(dev->config + PCI_PREF_MEMORY_LIMIT, PCI_PREF_RANGE_TYPE_64);
    st_le16(dev->w1cmask + PCI_SEC_STATUS,
            PCI_STATUS_PARITY | PCI_STATUS_SIG_TARGET_ABORT | PCI_STATUS_REC_TARGET_ABORT |
                PCI_STATUS_REC_MASTER_ABORT | PCI_STATUS_SIG_SYSTEM_ERROR |
                PCI_STATUS_DETECTED_PARITY);
    st_le16(dev->wmask + PCI_BRIDGE_CONTROL, PCI_BRIDGE_CTL_PARITY | PCI_BRIDGE_CTL_SERR |
                                                 PCI_BRIDGE_CTL_ISA | PCI_BRIDGE_CTL_VGA |
                                                 PCI_BRIDGE_CTL_BUS_RESET);
}

static bool pci_bridge_realize(Object *obj, GError **error)
{
    PciBridge *bridge = PCI_BRIDGE_DEVICE(obj);
    PciDevice *dev = &bridge->pci;
    bool express = pci_ops(dev)->express;
    g_autofree char *name = dev->dev.id ? g_strdup(dev->dev.id)
                                        : g_strdup_printf("pci.%02x", dev->devfn);

    Bus *bus = bus_new(express ? "pcie-bus" : "pci-bus", &dev->dev, dev->dev.machine, name, error);
    if (!bus)
        return false;
    bridge->bus = PCI_BUS(bus);
    bridge->bus->slots = express ? 1 : 32;  /* a link has one device at its other end */
    region_init_container(&bridge->mem, obj, "pci-bridge-mem", UINT64_MAX);
    region_init_container(&bridge->io, obj, "pci-bridge-io", 0x10000);
    bridge->bus->mem = &bridge->mem;
    bridge->bus->io = &bridge->io;
    set_masks(dev);
    return true;
}

static void pci_bridge_unrealize(Object *obj)
{
    PciBridge *bridge = PCI_BRIDGE_DEVICE(obj);

    memory_begin();
    region_destroy(&bridge->io_window);
    region_destroy(&bridge->mem_window);
    region_destroy(&bridge->pref_window);
    region_destroy(&bridge->mem);
    region_destroy(&bridge->io);
    memory_commit();
    if (bridge->bus)
        object_unparent(OBJECT(bridge->bus));
    bridge->bus = NULL;
}

static const Type pci_bridge_type = {
    .name = "pci-bridge-base",
    .parent = "pci-device",
    .help = "PCI-to-PCI bridge",
    .size = sizeof(PciBridge),
    .abstract = true,
    .realize = pci_bridge_realize,
    .unrealize = pci_bridge_unrealize,
};
TYPE_REGISTER(pci_bridge_type)

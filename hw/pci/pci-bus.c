/*
 * PCI buses: slots, the way of a config cycle through bridges (PCI 3.0, 3.2.2.3), and the way of an
 * INTx up to the root (PCI-to-PCI Bridge 1.2, 9.1: the swizzle).
 */
#include <linux/pci_regs.h>
#include "hw/pci/pci-int.h"
#include "src/base/util.h"

static unsigned bus_slots(const PciBus *bus)
{
    return bus->slots ? bus->slots : 32;
}

PciDevice *pci_bus_bridge(const PciBus *bus)
{
    Device *parent = bus->bus.parent;
    return parent && object_is_a(OBJECT(parent), "pci-bridge-base") ? PCI_DEVICE(parent) : NULL;
}

PciBus *pci_bridge_bus(const PciDevice *dev)
{
    return object_is_a(OBJECT(dev), "pci-bridge-base") ? ((const PciBridge *)dev)->bus : NULL;
}

bool pci_bus_is_express(const PciDevice *dev)
{
    return dev->dev.bus && object_is_a(OBJECT(dev->dev.bus), "pcie-bus");
}

/* ---- Slots ---- */

static const char *device_label(const PciDevice *dev)
{
    return dev->dev.id ? dev->dev.id : dev->dev.obj.type->name;
}

static bool slot_empty(const PciBus *bus, unsigned slot)
{
    for (unsigned fn = 0; fn < 8; fn++)
        if (bus->devices[PCI_DEVFN(slot, fn)])
            return false;
    return true;
}

static bool choose_slot(PciBus *bus, PciDevice *dev, GError **error)
{
    for (unsigned slot = 0; slot < bus_slots(bus); slot++) {
        if (bus->slot_reserved[slot] || !slot_empty(bus, slot))
            continue;
        dev->devfn = PCI_DEVFN(slot, 0);
        return true;
    }
    return fail(error, ERR_LIMIT, "bus '%s' has no free slot", bus->bus.obj.name);
}

/* Function 0 tells whether to look for others (6.2.1, Header Type): so it must say multifunction
 * before another one can be in its slot, in whatever order they are plugged. */
static bool check_functions(PciBus *bus, PciDevice *dev, GError **error)
{
    unsigned slot = PCI_SLOT(dev->devfn), fn = PCI_FUNC(dev->devfn);
    const PciDevice *first = bus->devices[PCI_DEVFN(slot, 0)];

    if (fn && first && !first->multifunction) {
        fail(error, ERR_INVALID_PARAMETER,
             "slot 0x%x of bus '%s' has a single function, '%s': function %u cannot be added", slot,
             bus->bus.obj.name, device_label(first), fn);
        return error_hint(error, "set multifunction=on on function 0");
    }
    for (unsigned other = 1; !fn && !dev->multifunction && other < 8; other++) {
        const PciDevice *there = bus->devices[PCI_DEVFN(slot, other)];
        if (there) {
            fail(error, ERR_INVALID_PARAMETER,
                 "slot 0x%x of bus '%s' has function %u already, '%s': function 0 must be "
                 "multifunction", slot, bus->bus.obj.name, other, device_label(there));
            return error_hint(error, "set multifunction=on");
        }
    }
    return true;
}

static bool pci_bus_attach(Bus *b, Device *d, GError **error)
{
    PciBus *bus = PCI_BUS(b);
    PciDevice *dev = PCI_DEVICE(d);

    if (dev->devfn < 0 && !choose_slot(bus, dev, error))
        return false;

    unsigned slot = PCI_SLOT(dev->devfn), fn = PCI_FUNC(dev->devfn);
    if (slot >= bus_slots(bus))
        return fail(error, ERR_INVALID_PARAMETER, "bus '%s' has no slot 0x%x: its last one is 0x%x",
                    b->obj.name, slot, bus_slots(bus) - 1);
    PciDevice *there = bus->devices[dev->devfn];
    if (there && there != dev)
        return fail(error, ERR_IN_USE, "slot 0x%x function %u of bus '%s' is taken by '%s'", slot,
                    fn, b->obj.name, device_label(there));
    if (!check_functions(bus, dev, error))
        return false;
    bus->devices[dev->devfn] = dev;
    if (bus->devices_changed)
        bus->devices_changed(bus);
    return true;
}

static void pci_bus_detach(Bus *b, Device *d)
{
    PciBus *bus = PCI_BUS(b);
    PciDevice *dev = PCI_DEVICE(d);

    if (dev->devfn < 0 || bus->devices[dev->devfn] != dev)
        return;
    bus->devices[dev->devfn] = NULL;
    if (bus->devices_changed)
        bus->devices_changed(bus);
}

static uint8_t bus_number(const PciBus *bus)
{
    PciDevice *bridge = pci_bus_bridge(bus);
    return bridge ? bridge->config[PCI_SECONDARY_BUS] : bus->number;
}

static char *pci_bus_address(Bus *b, Device *d)
{
    PciDevice *dev = PCI_DEVICE(d);

    if (dev->devfn < 0)
        return NULL;
    return g_strdup_printf("0000:%02x:%02x.%x", bus_number(PCI_BUS(b)), PCI_SLOT(dev->devfn),
                           PCI_FUNC(dev->devfn));
}

/* ---- Config cycles ---- */

PciDevice *pci_find(PciBus *bus, uint8_t number, uint8_t devfn)
{
    if (bus_number(bus) == number && (number || !pci_bus_bridge(bus)))
        return bus->off ? NULL : bus->devices[devfn];
    for (unsigned i = 0; i < G_N_ELEMENTS(bus->devices); i++) {
        PciBus *behind = bus->devices[i] ? pci_bridge_bus(bus->devices[i]) : NULL;
        if (!behind)
            continue;
        const uint8_t *config = bus->devices[i]->config;
        /* Secondary 0 is a bridge that nobody has set up. */
        if (config[PCI_SECONDARY_BUS] && config[PCI_SECONDARY_BUS] <= number &&
            number <= config[PCI_SUBORDINATE_BUS])
            return pci_find(behind, number, devfn);
    }
    return NULL;
}

uint32_t pci_bus_config_read(PciBus *root, uint8_t bus, uint8_t devfn, unsigned offset,
                             unsigned size)
{
    PciDevice *dev = pci_find(root, bus, devfn);

    if (!dev || !OBJECT(dev)->realized)
        return UINT32_MAX >> (32 - 8 * size);
    return pci_config_read(dev, offset, size);
}

void pci_bus_config_write(PciBus *root, uint8_t bus, uint8_t devfn, unsigned offset, uint32_t value,
                          unsigned size)
{
    PciDevice *dev = pci_find(root, bus, devfn);

    if (dev && OBJECT(dev)->realized)
        pci_config_write(dev, offset, value, size);
}

void pci_bus_reset_device(PciDevice *dev)
{
    PciBus *behind = pci_bridge_bus(dev);

    object_reset(OBJECT(dev));
    for (unsigned i = 0; behind && i < G_N_ELEMENTS(behind->devices); i++)
        if (behind->devices[i])
            pci_bus_reset_device(behind->devices[i]);
}

/* ---- INTx ---- */

/* One more or one less asserted input of a pin; true if the pin's own level has changed. */
static bool count_intx(PciBus *bus, unsigned pin, bool level)
{
    bus->intx_count[pin] += level ? 1 : -1;
    return bus->intx_count[pin] == (level ? 1 : 0);
}

void pci_bus_set_intx(PciBus *bus, PciDevice *dev, unsigned pin, bool level)
{
    PciDevice *bridge;

    while ((bridge = pci_bus_bridge(bus))) {
        pin = (pin + PCI_SLOT(dev->devfn)) % 4;
        if (!count_intx(bus, pin, level))
            return;
        dev = bridge;
        bus = PCI_BUS(bridge->dev.bus);
    }
    if (bus->set_intx) {
        bus->set_intx(bus, dev, pin, level);
        return;
    }
    pin = (pin + PCI_SLOT(dev->devfn)) % 4;
    if (count_intx(bus, pin, level))
        irq_set(bus->intx[pin], level);
}

/* ---- Hot-plug ---- */

static bool pci_bus_can_hotplug(Bus *b, Device *d, GError **error)
{
    PciBus *bus = PCI_BUS(b);
    PciDevice *dev = PCI_DEVICE(d);

    if (!bus->hotplug) {
        fail(error, ERR_UNSUPPORTED, "devices of bus '%s' cannot come and go while the machine runs",
             b->obj.name);
        return error_hint(error, "those behind a pcie-root-port can: bus=ID of one");
    }
    if (pci_ops(dev)->no_hotplug)
        return fail(error, ERR_UNSUPPORTED, "device '%s' cannot come and go while the machine runs",
                    d->obj.type->name);
    return d->bus || bus->hotplug->takes(bus, dev, error);
}

static void pci_bus_plugged(Bus *b, Device *d)
{
    if (PCI_BUS(b)->hotplug)
        PCI_BUS(b)->hotplug->plugged(PCI_BUS(b), PCI_DEVICE(d));
}

static bool pci_bus_unplug(Bus *b, Device *d, GError **error)
{
    return pci_bus_can_hotplug(b, d, error) &&
           PCI_BUS(b)->hotplug->unplug(PCI_BUS(b), PCI_DEVICE(d), error);
}

static const BusOps pci_bus_ops = {
    .attach = pci_bus_attach, .detach = pci_bus_detach, .can_hotplug = pci_bus_can_hotplug,
    .plugged = pci_bus_plugged, .unplug = pci_bus_unplug, .address = pci_bus_address,
};

static const Type pci_bus_type = {
    .name = "pci-bus", .parent = "bus", .help = "PCI bus", .size = sizeof(PciBus),
    .ops = &pci_bus_ops,
};
TYPE_REGISTER(pci_bus_type)

static const Type pcie_bus_type = {
    .name = "pcie-bus", .parent = "pci-bus", .help = "PCI Express bus",
};
TYPE_REGISTER(pcie_bus_type)

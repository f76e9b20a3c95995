/* What query-pci tells (QMP PciInfo). */
#include <linux/pci_regs.h>
#include "hw/pci/pci-int.h"
#include "src/base/options.h"
#include "src/base/util.h"

/* Names of base class and subclass (PCI Code and ID Assignment), of devices that there are. */
static const char *class_name(uint16_t class)
{
    static const struct {
        uint16_t class;
        const char *name;
    } names[] = {
        { 0x0100, "SCSI controller" },    { 0x0101, "IDE controller" },
        { 0x0106, "SATA controller" },    { 0x0108, "NVMe controller" },
        { 0x0180, "Storage controller" }, { 0x0200, "Ethernet controller" },
        { 0x0300, "VGA controller" },     { 0x0380, "Display controller" },
        { 0x0403, "Audio controller" },   { 0x0600, "Host bridge" },
        { 0x0601, "ISA bridge" },         { 0x0604, "PCI bridge" },
        { 0x0c03, "USB controller" },     { 0x0c05, "SMBus" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++)
        if (names[i].class == class)
            return names[i].name;
    return NULL;
}

static json_object *describe_region(const PciDevice *dev, unsigned n)
{
    const PciBar *bar = &dev->bars[n];
    json_object *o = json_object_new_object();
    bool io = bar->flags & PCI_BAR_IO;

    json_add_int(o, "bar", n);
    json_object_object_add(o, "type", json_object_new_string(io ? "io" : "memory"));
    json_add_int(o, "address", bar->address == UINT64_MAX ? -1 : (int64_t)bar->address);
    json_add_int(o, "size", bar->region->size);
    if (!io) {
        json_object_object_add(o, "prefetch",
                               json_object_new_boolean(bar->flags & PCI_BAR_PREFETCH));
        json_object_object_add(o, "mem_type_64",
                               json_object_new_boolean(bar->flags & PCI_BAR_MEM64));
    }
    return o;
}

static json_object *describe_range(const PciDevice *dev, PciWindow which)
{
    json_object *o = json_object_new_object();
    uint64_t base, limit;

    pci_bridge_window(dev, which, &base, &limit);
    json_add_int(o, "base", base);
    json_add_int(o, "limit", limit);
    return o;
}

static json_object *describe_devices(PciBus *bus, unsigned number);

static json_object *describe_bridge(PciDevice *dev)
{
    json_object *o = json_object_new_object(), *bus = json_object_new_object();
    unsigned secondary = dev->config[PCI_SECONDARY_BUS];

    json_add_int(bus, "number", dev->config[PCI_PRIMARY_BUS]);
    json_add_int(bus, "secondary", secondary);
    json_add_int(bus, "subordinate", dev->config[PCI_SUBORDINATE_BUS]);
    json_object_object_add(bus, "io_range", describe_range(dev, PCI_WINDOW_IO));
    json_object_object_add(bus, "memory_range", describe_range(dev, PCI_WINDOW_MEM));
    json_object_object_add(bus, "prefetchable_range", describe_range(dev, PCI_WINDOW_PREF));
    json_object_object_add(o, "bus", bus);
    if (secondary)
        json_object_object_add(o, "devices", describe_devices(pci_bridge_bus(dev), secondary));
    return o;
}

static json_object *describe_device(PciDevice *dev, unsigned bus_number)
{
    const uint8_t *c = dev->config;
    uint16_t class = ld_le16(c + PCI_CLASS_DEVICE);
    json_object *o = json_object_new_object(), *info = json_object_new_object();
    json_object *id = json_object_new_object(), *regions = json_object_new_array();

    json_add_int(o, "bus", bus_number);
    json_add_int(o, "slot", PCI_SLOT(dev->devfn));
    json_add_int(o, "function", PCI_FUNC(dev->devfn));
    if (class_name(class))
        json_object_object_add(info, "desc", json_object_new_string(class_name(class)));
    json_add_int(info, "class", class);
    json_object_object_add(o, "class_info", info);
    json_add_int(id, "device", ld_le16(c + PCI_DEVICE_ID));
    json_add_int(id, "vendor", ld_le16(c + PCI_VENDOR_ID));
    if (!pci_ops(dev)->bridge) {
        json_add_int(id, "subsystem", ld_le16(c + PCI_SUBSYSTEM_ID));
        json_add_int(id, "subsystem-vendor", ld_le16(c + PCI_SUBSYSTEM_VENDOR_ID));
    }
    json_object_object_add(o, "id", id);
    if (c[PCI_INTERRUPT_PIN])
        json_add_int(o, "irq", c[PCI_INTERRUPT_LINE]);
    json_add_int(o, "irq_pin", c[PCI_INTERRUPT_PIN]);
    json_object_object_add(o, "qdev_id", json_object_new_string(dev->dev.id ? dev->dev.id : ""));
    if (pci_bridge_bus(dev))
        json_object_object_add(o, "pci_bridge", describe_bridge(dev));
    for (unsigned n = 0; n < G_N_ELEMENTS(dev->bars); n++)
        if (dev->bars[n].region)
            json_object_array_add(regions, describe_region(dev, n));
    json_object_object_add(o, "regions", regions);
    return o;
}

static json_object *describe_devices(PciBus *bus, unsigned number)
{
    json_object *devices = json_object_new_array();

    for (unsigned i = 0; i < G_N_ELEMENTS(bus->devices); i++)
        if (bus->devices[i] && OBJECT(bus->devices[i])->realized)
            json_object_array_add(devices, describe_device(bus->devices[i], number));
    return devices;
}

json_object *pci_describe(PciBus *root)
{
    json_object *o = json_object_new_object();

    json_add_int(o, "bus", root->number);
    json_object_object_add(o, "devices", describe_devices(root, root->number));
    return o;
}

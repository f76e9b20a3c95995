/*
 * PCI Express root ports: a bridge on the root bus with a link of one slot behind it (PCIe
 * Base 5.0, 1.3.1 and 7.5).  Ports are what libvirt and firmware expect every PCIe device to be
 * behind.
 */
#include <linux/pci_regs.h>
#include "hw/pci/pcie-slot.h"
#include "src/base/util.h"

/* The ids of QEMU's generic root port, which firmware and guests know. */
enum { PCI_VENDOR_REDHAT = 0x1b36, PCI_DEVICE_ROOT_PORT = 0x000c };
enum { SSVID_CAP_SIZE = 8 };

#define MSIX_BAR_SIZE 0x1000u

typedef struct PcieRootPort {
    PciBridge bridge;
    PcieSlot slot;
    Region msix_bar;
    uint8_t port, chassis;                  /* properties */
    uint16_t slot_number;
    bool hotplug;
} PcieRootPort;

/* Secondary Bus Reset (7.5.1.3.11) resets what is behind while it is set. */
static void root_port_config_written(PciDevice *dev, unsigned offset, unsigned size)
{
    PciBus *bus = pci_bridge_bus(dev);

    pcie_slot_config_written(&((PcieRootPort *)dev)->slot, offset, size);
    if (offset > PCI_BRIDGE_CONTROL || offset + size <= PCI_BRIDGE_CONTROL ||
        !(ld_le16(dev->config + PCI_BRIDGE_CONTROL) & PCI_BRIDGE_CTL_BUS_RESET))
        return;
    for (unsigned i = 0; i < G_N_ELEMENTS(bus->devices); i++)
        if (bus->devices[i])
            pci_bus_reset_device(bus->devices[i]);
}

/* Chassis and slot are what a person finds the card by: no two slots may have the same. */
static bool check_place(const PcieRootPort *p, GError **error)
{
    const PciBus *bus = PCI_BUS(p->bridge.pci.dev.bus);

    for (unsigned i = 0; i < G_N_ELEMENTS(bus->devices); i++) {
        const PcieRootPort *other = (const PcieRootPort *)bus->devices[i];
        if (!other || other == p || !object_is_a(OBJECT(other), "pcie-root-port") ||
            other->chassis != p->chassis || other->slot_number != p->slot_number)
            continue;
        fail(error, ERR_IN_USE, "chassis %u has a slot %u already", p->chassis, p->slot_number);
        return error_hint(error, "chassis= gives each port a number of its own");
    }
    return true;
}

/* For the slot's events. */
static bool add_msix(PcieRootPort *p, GError **error)
{
    PciDevice *dev = &p->bridge.pci;

    region_init_container(&p->msix_bar, OBJECT(p), "pcie-root-port-msix", MSIX_BAR_SIZE);
    if (!pci_msix_init(dev, 1, 0, &p->msix_bar, 0, MSIX_BAR_SIZE / 2, error)) {
        region_destroy(&p->msix_bar);
        return false;
    }
    pci_register_bar(dev, 0, PCI_BAR_MEM, &p->msix_bar);
    return true;
}

static bool root_port_realize(Object *obj, GError **error)
{
    PcieRootPort *p = (PcieRootPort *)obj;
    PciDevice *dev = &p->bridge.pci;
    uint8_t cap, ssvid;

    if (pci_bus_bridge(PCI_BUS(dev->dev.bus)) || !pci_bus_is_express(dev))
        return fail(error, ERR_INVALID_PARAMETER,
                    "a root port goes on the root bus of PCI Express, not on '%s'",
                    dev->dev.bus->obj.name);
    if (!check_place(p, error))
        return false;
    dev->intx_pin = 1;
    cap = pcie_add_capability(dev, PCI_EXP_TYPE_ROOT_PORT, p->port);
    pcie_slot_init(&p->slot, dev, p->bridge.bus, p->slot_number ? p->slot_number : p->chassis,
                   p->hotplug);
    st_le16(dev->wmask + cap + PCI_EXP_RTCTL, PCI_EXP_RTCTL_SECEE | PCI_EXP_RTCTL_SENFEE |
                                                  PCI_EXP_RTCTL_SEFEE | PCI_EXP_RTCTL_PMEIE);
    ssvid = pci_add_capability(dev, PCI_CAP_ID_SSVID, SSVID_CAP_SIZE);
    st_le16(dev->config + ssvid + PCI_SSVID_VENDOR_ID, PCI_VENDOR_REDHAT);
    return !p->hotplug || add_msix(p, error);
}

static void root_port_unrealize(Object *obj)
{
    PcieRootPort *p = (PcieRootPort *)obj;

    pcie_slot_fini(&p->slot);
    pci_msix_uninit(&p->bridge.pci);
    region_destroy(&p->msix_bar);
}

static void root_port_reset(Object *obj)
{
    pcie_slot_reset(&((PcieRootPort *)obj)->slot);
}

static bool root_port_post_load(void *obj, uint32_t version, GError **error)
{
    pcie_slot_state_loaded(&((PcieRootPort *)obj)->slot);
    return true;
}

static const StateField root_port_fields[] = {
    FIELD_STRUCT(PcieRootPort, slot, pcie_slot_state),
    {}
};
static const StateTable root_port_state = { .fields = root_port_fields,
                                            .post_load = root_port_post_load };

static const Property root_port_props[] = {
    PROP("port", PcieRootPort, port, .help = "port number, in the link capabilities"),
    PROP("chassis", PcieRootPort, chassis, .help = "number of the chassis that the slot is in"),
    PROP("slot", PcieRootPort, slot_number, .max = 0x1fff,
         .help = "physical slot number; 0: the chassis"),
    PROP("hotplug", PcieRootPort, hotplug, .def.b = true,
         .help = "what is in the slot may come and go while the guest runs"),
    {}
};

static const PciDeviceOps root_port_ops = {
    .vendor_id = PCI_VENDOR_REDHAT, .device_id = PCI_DEVICE_ROOT_PORT, .class_code = 0x060400,
    .bridge = true, .express = true, .config_written = root_port_config_written,
};

static const Type root_port_type = {
    .name = "pcie-root-port", .parent = "pci-bridge-base", .help = "PCI Express root port",
    .category = "Bridge",
    .size = sizeof(PcieRootPort), .user_creatable = true, .props = root_port_props,
    .state = &root_port_state, .realize = root_port_realize, .unrealize = root_port_unrealize,
    .reset = root_port_reset, .ops = &root_port_ops,
};
TYPE_REGISTER(root_port_type)

/*
 * PCI Express root ports: a bridge on the root bus with a link of one slot behind it (PCIe
 * Base 5.0, 1.3.1 and 7.5).  Ports are what libvirt and firmware expect every PCIe device to be
 * behind.
 */
#include <linux/pci_regs.h>
#include "hw/pci/pci-int.h"
#include "src/base/util.h"

/* The ids of QEMU's generic root port, which firmware and guests know. */
enum { PCI_VENDOR_REDHAT = 0x1b36, PCI_DEVICE_ROOT_PORT = 0x000c };
enum { SSVID_CAP_SIZE = 8 };

typedef struct PcieRootPort {
    PciBridge bridge;
    uint8_t port, chassis;
    uint16_t slot;
} PcieRootPort;

/* What a device on the link changes in the slot and link registers (7.5.3.8, 7.5.3.11). */
static void update_presence(PciBus *bus)
{
    PciDevice *dev = pci_bus_bridge(bus);
    uint8_t *cap = dev->config + dev->exp_cap;
    bool there = bus->devices[0];
    uint16_t slot = ld_le16(cap + PCI_EXP_SLTSTA) & ~PCI_EXP_SLTSTA_PDS;
    uint16_t link = ld_le16(cap + PCI_EXP_LNKSTA) & ~PCI_EXP_LNKSTA_DLLLA;

    st_le16(cap + PCI_EXP_SLTSTA, slot | (there ? PCI_EXP_SLTSTA_PDS : 0));
    st_le16(cap + PCI_EXP_LNKSTA, link | (there ? PCI_EXP_LNKSTA_DLLLA : 0));
}

/* Secondary Bus Reset (7.5.1.3.11) resets what is behind while it is set. */
static void root_port_config_written(PciDevice *dev, unsigned offset, unsigned size)
{
    PciBus *bus = pci_bridge_bus(dev);

    if (offset > PCI_BRIDGE_CONTROL || offset + size <= PCI_BRIDGE_CONTROL ||
        !(ld_le16(dev->config + PCI_BRIDGE_CONTROL) & PCI_BRIDGE_CTL_BUS_RESET))
        return;
    for (unsigned i = 0; i < G_N_ELEMENTS(bus->devices); i++)
        if (bus->devices[i])
            pci_bus_reset_device(bus->devices[i]);
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
    dev->intx_pin = 1;
    cap = pcie_add_capability(dev, PCI_EXP_TYPE_ROOT_PORT, p->port);
    st_le16(dev->config + cap + PCI_EXP_FLAGS,
            ld_le16(dev->config + cap + PCI_EXP_FLAGS) | PCI_EXP_FLAGS_SLOT);
    st_le32(dev->config + cap + PCI_EXP_SLTCAP, (uint32_t)(p->slot ? p->slot : p->chassis) << 19);
    st_le16(dev->wmask + cap + PCI_EXP_RTCTL, PCI_EXP_RTCTL_SECEE | PCI_EXP_RTCTL_SENFEE |
                                                  PCI_EXP_RTCTL_SEFEE | PCI_EXP_RTCTL_PMEIE);
    ssvid = pci_add_capability(dev, PCI_CAP_ID_SSVID, SSVID_CAP_SIZE);
    st_le16(dev->config + ssvid + PCI_SSVID_VENDOR_ID, PCI_VENDOR_REDHAT);
    p->bridge.bus->devices_changed = update_presence;
    return true;
}

static const Property root_port_props[] = {
    PROP("port", PcieRootPort, port, .help = "port number, in the link capabilities"),
    PROP("chassis", PcieRootPort, chassis, .help = "number of the chassis that the slot is in"),
    PROP("slot", PcieRootPort, slot, .max = 0x1fff, .help = "physical slot number; 0: the chassis"),
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
    .realize = root_port_realize, .ops = &root_port_ops,
};
TYPE_REGISTER(root_port_type)

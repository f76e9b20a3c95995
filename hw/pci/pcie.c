/* The PCI Express capability (PCI Express Base 5.0, 7.5.3). */
#include <linux/pci_regs.h>
#include "hw/pci/pci-int.h"
#include "src/base/util.h"

enum { EXP_CAP_SIZE = 0x3c, EXP_CAP_VERSION = 2 };
/* A link of 2.5 GT/s and one lane, as QEMU's ports have by default; nothing really runs at it. */
enum { LINK_SPEED = PCI_EXP_LNKCAP_SLS_2_5GB, LINK_WIDTH = 1 << 4 };

static bool has_link(unsigned type)
{
    return type != PCI_EXP_TYPE_RC_END && type != PCI_EXP_TYPE_RC_EC;
}

uint8_t pcie_add_capability(PciDevice *dev, unsigned type, unsigned port)
{
    uint8_t cap = pci_add_capability(dev, PCI_CAP_ID_EXP, EXP_CAP_SIZE);
    uint8_t *c = dev->config + cap, *w = dev->wmask + cap, *w1c = dev->w1cmask + cap;

    dev->exp_cap = cap;
    st_le16(c + PCI_EXP_FLAGS, EXP_CAP_VERSION | type << 4);
    st_le32(c + PCI_EXP_DEVCAP, PCI_EXP_DEVCAP_RBER);
    /* 7.5.3.4, the defaults: relaxed ordering, no snoop, reads of 512 bytes. */
    st_le16(c + PCI_EXP_DEVCTL, PCI_EXP_DEVCTL_RELAX_EN | PCI_EXP_DEVCTL_NOSNOOP_EN |
                                    PCI_EXP_DEVCTL_READRQ_512B);
    st_le16(w + PCI_EXP_DEVCTL, PCI_EXP_DEVCTL_CERE | PCI_EXP_DEVCTL_NFERE | PCI_EXP_DEVCTL_FERE |
                                    PCI_EXP_DEVCTL_URRE | PCI_EXP_DEVCTL_RELAX_EN |
                                    PCI_EXP_DEVCTL_PAYLOAD | PCI_EXP_DEVCTL_NOSNOOP_EN |
                                    PCI_EXP_DEVCTL_READRQ);
    st_le16(w1c + PCI_EXP_DEVSTA, PCI_EXP_DEVSTA_CED | PCI_EXP_DEVSTA_NFED | PCI_EXP_DEVSTA_FED |
                                      PCI_EXP_DEVSTA_URD);
    if (has_link(type)) {
        st_le32(c + PCI_EXP_LNKCAP, (uint32_t)port << 24 | LINK_SPEED | LINK_WIDTH);
        st_le16(w + PCI_EXP_LNKCTL, PCI_EXP_LNKCTL_RCB | PCI_EXP_LNKCTL_CCC | PCI_EXP_LNKCTL_ES);
        st_le16(c + PCI_EXP_LNKSTA, LINK_SPEED | LINK_WIDTH);
        st_le32(c + PCI_EXP_LNKCAP2, PCI_EXP_LNKCAP2_SLS_2_5GB);
        st_le16(c + PCI_EXP_LNKCTL2, LINK_SPEED);
    }
    return cap;
}

uint8_t pcie_add_endpoint_capability(PciDevice *dev)
{
    bool on_root = !pci_bus_bridge(PCI_BUS(dev->dev.bus));

    return pcie_add_capability(dev, on_root ? PCI_EXP_TYPE_RC_END : PCI_EXP_TYPE_ENDPOINT, 0);
}

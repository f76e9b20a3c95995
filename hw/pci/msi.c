/* MSI (PCI 3.0, 6.8.1): the capability with a 64-bit address and per-vector masks. */
#include <linux/pci_regs.h>
#include "hw/pci/pci-int.h"
#include "src/base/util.h"

enum { MSI_CAP_SIZE = 24 };

static uint8_t *msi_reg(const PciDevice *dev, unsigned offset)
{
    return dev->config + dev->msi_cap + offset;
}

bool pci_msi_init(PciDevice *dev, unsigned vectors, GError **error)
{
    if (!is_power_of_2(vectors) || vectors > 32)
        return fail(error, ERR_INVALID_PARAMETER, "MSI has 1, 2, 4, 8, 16 or 32 vectors, not %u",
                    vectors);
    dev->msi_cap = pci_add_capability(dev, PCI_CAP_ID_MSI, MSI_CAP_SIZE);
    st_le16(msi_reg(dev, PCI_MSI_FLAGS),
            PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT | g_bit_nth_msf(vectors, -1) << 1);
    uint8_t *wmask = dev->wmask + dev->msi_cap;
    st_le16(wmask + PCI_MSI_FLAGS, PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE);
    st_le32(wmask + PCI_MSI_ADDRESS_LO, ~3u);
    st_le32(wmask + PCI_MSI_ADDRESS_HI, UINT32_MAX);
    st_le16(wmask + PCI_MSI_DATA_64, UINT16_MAX);
    st_le32(wmask + PCI_MSI_MASK_64, UINT32_MAX >> (32 - vectors));
    return true;
}

bool pci_msi_enabled(const PciDevice *dev)
{
    return dev->msi_cap && (ld_le16(msi_reg(dev, PCI_MSI_FLAGS)) & PCI_MSI_FLAGS_ENABLE);
}

/* Vectors that the driver has enabled: its choice, limited to what is offered (6.8.1.3). */
static unsigned vectors_enabled(const PciDevice *dev)
{
    uint16_t flags = ld_le16(msi_reg(dev, PCI_MSI_FLAGS));
    unsigned offered = (flags & PCI_MSI_FLAGS_QMASK) >> 1;
    unsigned chosen = (flags & PCI_MSI_FLAGS_QSIZE) >> 4;

    return 1u << MIN(offered, chosen);
}

void pci_msi_notify(PciDevice *dev, unsigned vector)
{
    IntrController *ic = dev->dev.machine->intr;

    if (!pci_msi_enabled(dev))
        return;
    /* More vectors than were granted share what there is (6.8.1.3). */
    unsigned vectors = vectors_enabled(dev);
    vector %= vectors;
    uint32_t pending = ld_le32(msi_reg(dev, PCI_MSI_PENDING_64));
    if (ld_le32(msi_reg(dev, PCI_MSI_MASK_64)) & 1u << vector) {
        st_le32(msi_reg(dev, PCI_MSI_PENDING_64), pending | 1u << vector);
        return;
    }
    st_le32(msi_reg(dev, PCI_MSI_PENDING_64), pending & ~(1u << vector));
    if (!ic || !pci_bus_master(dev))
        return;
    uint16_t data = ld_le16(msi_reg(dev, PCI_MSI_DATA_64));
    ic->ops->send_msi(ic, ld_le64(msi_reg(dev, PCI_MSI_ADDRESS_LO)),
                      (data & ~(vectors - 1)) | vector);
}

void pci_msi_config_changed(PciDevice *dev, unsigned offset, unsigned size)
{
    if (!dev->msi_cap || offset + size <= dev->msi_cap || offset >= dev->msi_cap + MSI_CAP_SIZE)
        return;
    if (!pci_msi_enabled(dev))
        return;
    uint32_t due =
        ld_le32(msi_reg(dev, PCI_MSI_PENDING_64)) & ~ld_le32(msi_reg(dev, PCI_MSI_MASK_64));
    for (unsigned i = 0; i < vectors_enabled(dev); i++)
        if (due & 1u << i)
            pci_msi_notify(dev, i);
}

void pci_msi_reset(PciDevice *dev)
{
    if (dev->msi_cap)
        st_le32(msi_reg(dev, PCI_MSI_PENDING_64), 0);
}

bool pci_msi_is_pending_byte(const PciDevice *dev, unsigned offset)
{
    unsigned at = dev->msi_cap + PCI_MSI_PENDING_64;

    return dev->msi_cap && offset >= at && offset < at + 4;
}

/* What the files of hw/pci share and nobody else needs. */
#pragma once
#include "hw/pci/pci.h"

/* What lets the devices of a bus come and go while the guest runs.  VM lock. */
typedef struct PciHotplugOps {
    bool (*takes)(PciBus *bus, PciDevice *dev, GError **error);     /* before it is attached */
    void (*plugged)(PciBus *bus, PciDevice *dev);                   /* it works: tell the guest */
    bool (*unplug)(PciBus *bus, PciDevice *dev, GError **error);    /* asks the guest */
} PciHotplugOps;

/* Maps each BAR where the command register and the BAR's own bits say. */
void pci_update_mappings(PciDevice *dev);
/* Tells the bus about INTx after a change of level or of Interrupt Disable. */
void pci_update_intx(PciDevice *dev);
void pci_bus_set_intx(PciBus *bus, PciDevice *dev, unsigned pin, bool level);
/* The bridge that a bus is behind; NULL for a root bus. */
PciDevice *pci_bus_bridge(const PciBus *bus);
/* Resets a device and what is behind it. */
void pci_bus_reset_device(PciDevice *dev);
/* Bytes of config space that @dev has. */
unsigned pci_config_size(const PciDevice *dev);
const PciDeviceOps *pci_ops(const PciDevice *dev);

/* After a write to config space at @offset, and after a load. */
void pci_msix_config_changed(PciDevice *dev);
void pci_msix_reset(PciDevice *dev);
void pci_msix_save(void *obj, StateWriter *w);
bool pci_msix_load(void *obj, StateReader *r, GError **error);
void pci_msi_config_changed(PciDevice *dev, unsigned offset, unsigned size);
void pci_msi_reset(PciDevice *dev);
/* Is config byte @offset one of MSI's Pending Bits, which the device itself sets? */
bool pci_msi_is_pending_byte(const PciDevice *dev, unsigned offset);

/* A PCI-to-PCI bridge: a type 1 header, and a bus behind it. */
typedef struct PciBridge {
    PciDevice pci;
    PciBus *bus;
    Region mem, io;                         /* what is behind it, by address */
    Region mem_window, pref_window, io_window;   /* the parts that the parent bus sees of it */
} PciBridge;
#define PCI_BRIDGE_DEVICE(ptr) ((PciBridge *)(ptr))
void pci_bridge_update_windows(PciBridge *bridge);

/* [base, limit] of a window as the registers say; false: the window is closed. */
typedef enum PciWindow { PCI_WINDOW_IO, PCI_WINDOW_MEM, PCI_WINDOW_PREF } PciWindow;
bool pci_bridge_window(const PciDevice *dev, PciWindow which, uint64_t *base, uint64_t *limit);

/*
 * PCI and PCI Express devices and buses (PCI Local Bus 3.0, PCI Express Base).  A PCI device is a
 * Device on a bus of type "pci-bus" (or "pcie-bus").  Its type's ops is a PciDeviceOps.
 */
#pragma once
#include <linux/pci_regs.h>
#include "hw/core/device.h"

#define PCI_CONFIG_SIZE 256
#define PCIE_CONFIG_SIZE 4096
#define PCI_DEVFN(slot, fn) (((slot) << 3) | (fn))
#define PCI_SLOT(devfn) ((devfn) >> 3)
#define PCI_FUNC(devfn) ((devfn)&7)

typedef struct PciDevice PciDevice;
typedef struct PciBus PciBus;
typedef struct PciMsix PciMsix;

typedef struct PciDeviceOps {
    uint16_t vendor_id, device_id, subsystem_vendor_id, subsystem_id;
    uint32_t class_code;                    /* 24 bits: base, sub, interface */
    uint8_t revision;
    bool bridge;                            /* header type 1 */
    bool express; /* has the PCI Express capability and 4 KiB of config space */
    bool no_hotplug;
    /* Before the generic read (the device brings config up to date) and after the generic write;
     * NULL: nothing more. */
    void (*config_reading)(PciDevice *dev, unsigned offset, unsigned size);
    void (*config_written)(PciDevice *dev, unsigned offset, unsigned size);
} PciDeviceOps;

typedef struct PciBar {
    Region *region;
    uint8_t flags;                          /* low bits of the register */
    uint64_t address;                       /* as mapped; UINT64_MAX: not */
} PciBar;
enum { PCI_BAR_IO = 1, PCI_BAR_MEM = 0, PCI_BAR_MEM64 = 4, PCI_BAR_PREFETCH = 8 };
#define PCI_ROM_BAR 6

struct PciDevice {
    Device dev;
    int32_t devfn;                          /* property "addr": "slot[.fn]"; -1: automatic */
    bool multifunction;
    char *romfile;
    uint32_t rombar;
    uint16_t acpi_index;
    uint8_t *config, *wmask, *w1cmask;      /* 4 KiB each if ops->express, else 256 bytes */
    uint8_t *initial; /* config after realize: a reset restores wmask's bits */
    PciBar bars[7];
    uint16_t cap_end;                       /* next free byte for capabilities */
    uint16_t ext_cap_last;                  /* newest extended capability; 0: none */
    uint16_t ext_cap_end;
    uint8_t intx_pin;                       /* 0: none, 1-4: INTA-INTD; set in realize */
    bool intx_level;                        /* as the device wants it */
    bool intx_sent;                         /* as the bus was told: not with Interrupt Disable */
    PciMsix *msix;                          /* NULL: none */
    uint8_t msi_cap, exp_cap;               /* offsets of the capabilities; 0: none */
    RamBlock *rom_ram;
    Region rom;
    void (*msix_changed)(PciDevice *dev, unsigned vector, bool masked);
    /* Bus Master Enable has changed, by the driver or by a reset; NULL: not interested. */
    void (*bus_master_changed)(PciDevice *dev);
};
#define PCI_DEVICE(ptr) ((PciDevice *)(ptr))

struct PciBus {
    Bus bus;
    PciDevice *devices[256];                /* by devfn */
    uint8_t number;                         /* as the guest set it; root: 0 */
    Region *mem, *io;                       /* where BARs are mapped */
    /* Root bus.  set_intx: the pin (0: INTA) of @dev, a device or bridge on this very bus, has
     * changed; several devices may drive one interrupt, so the host bridge counts.  Without it the
     * pins go swizzled ((slot + pin) % 4) and counted to intx[]. */
    IrqLine *intx[4];
    void (*set_intx)(PciBus *bus, PciDevice *dev, unsigned pin, bool level);
    void *opaque;                           /* of set_intx */
    uint16_t intx_count[4];                 /* asserted inputs of each pin after swizzling */
    void (*devices_changed)(PciBus *bus);   /* one was attached or detached; NULL: nobody cares */
    struct PcieSlot *slot;                  /* behind a port: the slot that this bus is; else NULL */
    const struct PciHotplugOps *hotplug;    /* NULL: none while the guest runs */
    bool off;                               /* no power: config cycles find nothing */
    uint8_t slots;                          /* that there are; 0: 32 (a PCIe link has 1) */
    uint8_t slot_reserved[32];              /* not given out automatically */
};
#define PCI_BUS(ptr) ((PciBus *)(ptr))

/* Capabilities, in realize: returns the offset; the header (id and link) is set. */
uint8_t pci_add_capability(PciDevice *dev, uint8_t id, uint8_t size);
uint16_t pci_add_ext_capability(PciDevice *dev, uint16_t id, uint8_t version, uint16_t size);
/* A BAR: size is the region's (a power of two).  In realize. */
void pci_register_bar(PciDevice *dev, unsigned n, uint8_t flags, Region *region);
/* The bus behind a bridge; NULL: @dev is none. */
PciBus *pci_bridge_bus(const PciDevice *dev);
/* The machine's PCI devices as one QMP PciInfo: {"bus": 0, "devices": […]}.  VM lock. */
json_object *pci_describe(PciBus *root);
/* Guest address of a mapped BAR, or UINT64_MAX. */
uint64_t pci_bar_address(const PciDevice *dev, unsigned n);
/* INTx level; needs intx_pin.  VM lock. */
void pci_set_intx(PciDevice *dev, bool level);
/* Where the device's DMA goes; honours bus mastering (NULL while it is off). */
AddressSpace *pci_dma(const PciDevice *dev);
bool pci_bus_master(const PciDevice *dev);
PciDevice *pci_find(PciBus *bus, uint8_t bus_number, uint8_t devfn);   /* below bridges, too */

/* Config space access by the guest (CF8/CFC, ECAM); all ones where nothing is.  Size 1, 2 or 4; an
 * access must not cross a doubleword.  VM lock. */
uint32_t pci_config_read(PciDevice *dev, unsigned offset, unsigned size);
void pci_config_write(PciDevice *dev, unsigned offset, uint32_t value, unsigned size);
uint32_t pci_bus_config_read(PciBus *root, uint8_t bus, uint8_t devfn, unsigned offset,
                             unsigned size);
void pci_bus_config_write(PciBus *root, uint8_t bus, uint8_t devfn, unsigned offset, uint32_t value,
                          unsigned size);

/* MSI-X (PCI 3.0, 6.8.2), table and PBA in BAR @bar at given offsets (@bar_region: a container). */
bool pci_msix_init(PciDevice *dev, unsigned vectors, unsigned bar, Region *bar_region,
                   uint32_t table_offset, uint32_t pba_offset, GError **error);
void pci_msix_uninit(PciDevice *dev);
bool pci_msix_enabled(const PciDevice *dev);
unsigned pci_msix_vectors(const PciDevice *dev);
bool pci_msix_masked(const PciDevice *dev, unsigned vector);     /* or the function is */
void pci_msix_message(const PciDevice *dev, unsigned vector, uint64_t *address, uint32_t *data);
void pci_msix_notify(PciDevice *dev, unsigned vector); /* sends, or sets pending.  VM lock */
void pci_msix_set_pending(PciDevice *dev, unsigned vector);
void pci_msix_clear_pending(PciDevice *dev);             /* of all: nothing of it is sent any more */
/* An eventfd that raises @vector: through KVM's irqfd while the vector is unmasked, else polled by
 * us into the pending bit.  The data plane writes it from any thread. */
bool pci_msix_attach_eventfd(PciDevice *dev, unsigned vector, int fd, GError **error);
void pci_msix_detach_eventfd(PciDevice *dev, unsigned vector);
/* Does KVM listen to the eventfd of an unmasked @vector?  Else it is to be detached: nobody does. */
bool pci_msix_has_irqfd(const PciDevice *dev, unsigned vector);
/* MSI (PCI 3.0, 6.8.1), 64 bits, with masks; @vectors: a power of two up to 32. */
bool pci_msi_init(PciDevice *dev, unsigned vectors, GError **error);
bool pci_msi_enabled(const PciDevice *dev);
void pci_msi_notify(PciDevice *dev, unsigned vector);

/* The PCI Express capability (PCIe, 7.5.3): @type is PCI_EXP_TYPE_*. */
uint8_t pcie_add_capability(PciDevice *dev, unsigned type, unsigned port);
/* Type and link for an endpoint by where it is plugged in. */
uint8_t pcie_add_endpoint_capability(PciDevice *dev);
/* Is the bus of @dev a PCI Express one? */
bool pci_bus_is_express(const PciDevice *dev);

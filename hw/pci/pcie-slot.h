/*
 * The slot behind a PCI Express port, with native hot-plug (PCI Express Base 5.0, 6.7 and 7.5.3.9
 * to 7.5.3.11): attention button, two indicators, power controller, link-active reporting.
 */
#pragma once
#include "hw/pci/pci-int.h"
#include "src/base/loop.h"

typedef struct PcieSlot {
    PciDevice *port;
    PciBus *bus;                            /* the link: its functions are one card */
    bool hotplug;                           /* no: what is in the slot stays there */
    bool unplug_asked;                      /* the card goes when the guest cuts its power */
    bool due;                               /* an enabled event waits; the guest was told */
    LoopBh eject;
} PcieSlot;

/* In the port's realize, when it has its PCI Express capability. */
void pcie_slot_init(PcieSlot *slot, PciDevice *port, PciBus *bus, unsigned number, bool hotplug);
void pcie_slot_fini(PcieSlot *slot);        /* in unrealize; zeroed memory is fine */
void pcie_slot_reset(PcieSlot *slot);       /* after the port's own reset */
/* After each write to the port's config space. */
void pcie_slot_config_written(PcieSlot *slot, unsigned offset, unsigned size);

extern const StateTable pcie_slot_state;
/* After the port's config space. */
void pcie_slot_state_loaded(PcieSlot *slot);

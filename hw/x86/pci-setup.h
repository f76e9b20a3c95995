/*
 * What firmware does to PCI before it starts an operating system: bus numbers, BARs, bridge windows,
 * interrupt lines.  For a machine that is started without firmware; after a reset.
 */
#pragma once
#include "hw/pci/pci.h"
#include "hw/x86/acpi.h"

typedef struct PciSetup {
    AcpiRange io, mem32, mem64;             /* where BARs may go; max 0: nowhere */
    uint8_t (*irq)(unsigned slot, unsigned pin);    /* ISA line of a root bus pin (0: INTA) */
} PciSetup;

/* What does not fit is left unset, as firmware would. */
void pci_setup(PciBus *root, const PciSetup *setup);

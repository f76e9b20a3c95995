/*
 * The q35 host bridge: the ways to PCI configuration space, and the memory controller's device 0
 * ("mch") with the registers that shape the memory map.
 */
#pragma once
#include "hw/pci/pci.h"

#define MCH_PAM_SEGMENTS 13

typedef struct Q35Host {
    Device dev;                             /* type "q35-pcihost" */
    PciBus *bus;                            /* pcie.0; made in realize */
    Region address_io, data_io, ecam;
    uint32_t config_address;                /* CONFIG_ADDRESS; VM lock */
    uint8_t rst_cnt;
} Q35Host;

/* Places the ECAM window (PCIEXBAR). */
void q35_host_map_ecam(Q35Host *host, bool on, uint64_t base, uint64_t size);

/* Device 0.  Before realize: the board's RAM, as one region and (its first MiB) as a read-only one. */
void mch_set_ram(PciDevice *mch, Region *ram, Region *ram_readonly);
/* What firmware would set up: the ECAM at ECAM_BASE, RAM at 0xc0000 to 0xfffff.  After a reset. */
void mch_firmware_setup(PciDevice *mch);

/*
 * ACPI tables (ACPI 6.4) of a q35 board that was started without firmware: what the board has is
 * told by an AcpiConfig, and the tables come out as bytes with the addresses they are made for.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define ACPI_RSDP_SIZE 36
#define ACPI_FACS_SIZE 64
#define ACPI_COM_PORTS 4

typedef struct AcpiRange {
    uint64_t min, max;                      /* both included; max 0: none */
} AcpiRange;

typedef struct AcpiConfig {
    const uint32_t *apic_ids;               /* of the CPUs that are there */
    unsigned cpus;
    bool pic;                               /* dual 8259s, and ISA line 0 at IOAPIC input 2 */
    bool hpet, i8042, rtc;
    struct { uint16_t port; uint8_t irq; } com[ACPI_COM_PORTS];     /* port 0: not there */
    uint16_t pvpanic_port;                  /* 0: none */
    uint16_t pm_base;
    uint64_t ecam_base;                     /* for buses 0 to 255 */
    AcpiRange pci_below, pci_32, pci_64;    /* memory for BARs: below the ECAM, above it, above 4G */
    uint8_t (*pci_gsi)(unsigned slot, unsigned pin);    /* pin 0: INTA */
    uint8_t (*pci_link)(unsigned slot, unsigned pin);   /* PIRQ 0 to 7 (A to H), for PIC mode */
} AcpiConfig;

/* Where the board puts them. */
typedef struct AcpiPlace {
    uint32_t tables, facs;                  /* guest addresses, below 4G; facs: 64-byte aligned */
} AcpiPlace;

/* All tables but RSDP and FACS, to be copied to @place->tables; @rsdp points to them. */
GByteArray *acpi_build(const AcpiConfig *config, const AcpiPlace *place,
                       uint8_t rsdp[ACPI_RSDP_SIZE], uint8_t facs[ACPI_FACS_SIZE]);

/* The DSDT's code, without a table header (dsdt.c). */
GByteArray *acpi_build_dsdt(const AcpiConfig *config);

/* Numbers that the tables and the chipset must agree on. */
enum {
    ACPI_SCI_IRQ = 9,
    ACPI_SMI_PORT = 0xb2, ACPI_SMI_ENABLE = 0x02, ACPI_SMI_DISABLE = 0x03,
    ACPI_S5_SLP_TYP = 0,
};

/* The q35 board: what its files share. */
#pragma once
#include "hw/core/device.h"
#include "hw/x86/acpi.h"
#include "hw/x86/boot.h"
#include "hw/x86/q35-host.h"

typedef struct Q35Machine {
    Machine m;                              /* first: a Q35Machine * is a Machine * */
    bool i8042;                             /* properties */
    int acpi, pic, pit;                     /* OnOffAuto */
    uint64_t max_ram_below_4g;
    uint64_t ram_below_4g, ram_above_4g;    /* bytes */
    Region ram, ram_readonly;               /* all of it; the first MiB again, read-only */
    Region low, main, high;                 /* parts of it in the map: 0, 1 MiB, 4 GiB */
    RamBlock *rom_block;
    Region rom, rom_low;                    /* firmware, and its end below 1 MiB */
    Q35Host *host;
    PciDevice *mch, *lpc;
    Device *rtc;
    Device *ioapic, *pic_device;            /* NULL: in the kernel, or there is none */
    BootPlan boot;                          /* direct kernel boot; blobs NULL: none */
    bool booted;                            /* the plan was carried out before: RAM is not fresh */
} Q35Machine;
#define Q35_MACHINE(ptr) ((Q35Machine *)(ptr))

bool q35_has_pic(const Q35Machine *q);      /* the kernel's or ours */
uint64_t q35_address_limit(const Q35Machine *q);    /* first physical address out of the CPUs' reach */

/* q35-boot.c: without firmware, what is in memory and registers when the guest starts. */
bool q35_prepare_boot(Q35Machine *q, GError **error);
void q35_start_boot(Q35Machine *q);         /* at each reset */

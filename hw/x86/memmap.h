/* The q35 board's map of guest-physical addresses. */
#pragma once
#include "src/base/util.h"

#define VGA_BASE 0xa0000u
#define VGA_SIZE 0x20000u
#define PAM_BASE 0xc0000u                   /* RAM or ROM, as the host bridge's PAM registers say */
#define LOW_1M 0x100000u
/* RAM below 4G ends at the ECAM; a guest with more has 2 GiB there and the rest above 4G. */
#define RAM_BELOW_4G_MAX 0xb0000000u
#define RAM_BELOW_4G_SPLIT 0x80000000u
#define ECAM_BASE 0xb0000000u
#define ECAM_SIZE 0x10000000u               /* 256 buses */
#define PCI_HOLE_32_END 0xfec00000u         /* BARs below 4G end at the IOAPIC */
#define IOAPIC_BASE 0xfec00000u
#define HPET_BASE 0xfed00000u
#define HPET_SIZE 0x400u
#define HPET_BLOCK_ID 0x8086a201u
#define RCBA_BASE 0xfed1c000u
#define RCBA_SIZE 0x4000u
#define LAPIC_BASE 0xfee00000u
#define PM_IO_BASE 0x600u
#define PM_IO_SIZE 0x80u
#define IOAPIC_PINS 24

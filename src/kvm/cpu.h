/* What the accelerator and the board agree on about CPUs. */
#pragma once
#include <stdint.h>

typedef struct SmpTopology {
    unsigned cpus, max_cpus, sockets, dies, cores, threads;   /* cores a die, threads a core */
} SmpTopology;

/* Where a vCPU stands in the topology; numbers count within the level above. */
typedef struct SmpPlace {
    unsigned socket, die, core, thread;
} SmpPlace;
SmpPlace smp_place(const SmpTopology *smp, unsigned index);
/* Its APIC id: the place's numbers side by side, each in as many bits as its level needs, so that
 * software can take the id apart by the widths in CPUID leaves 0xB and 0x1F. */
uint32_t smp_apic_id(const SmpTopology *smp, unsigned index);
/* Bits of an APIC id below the core's, the die's and the socket's number. */
unsigned smp_core_shift(const SmpTopology *smp);
unsigned smp_die_shift(const SmpTopology *smp);
unsigned smp_socket_shift(const SmpTopology *smp);

/* vCPU 0's registers for direct kernel boot; what is not named is as the boot protocol says. */
typedef struct BootRegs {
    enum { BOOT_NONE, BOOT_LONG64, BOOT_PVH32 } mode;   /* BOOT_NONE: starts at the reset vector */
    uint64_t rip, rsp, rsi, rbx, cr3, gdt_base;
    uint32_t gdt_limit;
} BootRegs;

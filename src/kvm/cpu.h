/* What the accelerator and the board agree on about CPUs. */
#pragma once
#include <stdint.h>

typedef struct SmpTopology {
    unsigned cpus, max_cpus, sockets, dies, cores, threads;   /* cores a die, threads a core */
} SmpTopology;

/* vCPU 0's registers for direct kernel boot; what is not named is as the boot protocol says. */
typedef struct BootRegs {
    enum { BOOT_NONE, BOOT_LONG64, BOOT_PVH32 } mode;   /* BOOT_NONE: starts at the reset vector */
    uint64_t rip, rsp, rsi, rbx, cr3, gdt_base;
    uint32_t gdt_limit;
} BootRegs;

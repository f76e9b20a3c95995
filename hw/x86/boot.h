/*
 * Direct kernel boot: from the bytes of a kernel, an initial RAM disk and a command line to a plan of
 * what is to be in guest memory, and the first registers.  Nothing here touches a machine: images are
 * checked before the first byte is used, and tests and fuzzers can feed anything.
 *
 *     bzImage   by the Linux x86 boot protocol's 64-bit entry (2.12 and later; bzimage.c)
 *     vmlinux   by the PVH entry that its ELF note names (elf-pvh.c)
 */
#pragma once
#include <glib.h>
#include <inttypes.h>
#include <stdbool.h>
#include "src/kvm/cpu.h"

typedef struct E820Entry {
    uint64_t addr, size;
    uint32_t type;
} E820Entry;
enum { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3, E820_NVS = 4 };
#define E820_MAX 128                        /* what the zero page holds */

typedef struct BootInput {
    GBytes *kernel;
    GBytes *initrd;                         /* NULL: none */
    const char *cmdline;                    /* NULL: empty */
    const E820Entry *e820;
    unsigned e820_count;
    uint64_t rsdp;                          /* address of the RSDP; 0: none */
} BootInput;

/* Bytes to be put at an address, again at each reset, and zeros to follow them. */
typedef struct BootBlob {
    const char *name;                       /* a literal, for traces and errors */
    uint64_t addr;
    GBytes *bytes;                          /* may be a part of a mapped file */
    uint64_t zeros;
} BootBlob;

typedef struct BootPlan {
    GArray *blobs;                          /* of BootBlob; NULL: none */
    BootRegs regs;
} BootPlan;

void boot_plan_add(BootPlan *plan, const char *name, uint64_t addr, GBytes *bytes, uint64_t zeros);
void boot_plan_clear(BootPlan *plan);       /* zeroed memory is fine */

/* Takes any image that can be booted.  Fills in @plan (which was clear) only on success. */
bool boot_plan_linux(const BootInput *in, BootPlan *plan, GError **error);

/* ---- for the two loaders ---- */

bool bzimage_plan(const BootInput *in, BootPlan *plan, GError **error);
bool pvh_plan(const BootInput *in, BootPlan *plan, GError **error);

/* Low memory that a boot uses, until the kernel has its own. */
enum {
    BOOT_PVH_INFO = 0x6000,                 /* hvm_start_info, module list, memory map */
    BOOT_GDT = 0x6f00,
    BOOT_PARAMS = 0x7000,                   /* the zero page */
    BOOT_STACK_TOP = 0x8ff0,
    BOOT_PML4 = 0x9000,                     /* then one PDPT, four page directories: 4 GiB */
    BOOT_CMDLINE = 0x20000,
    BOOT_CMDLINE_MAX = 0x10000,             /* with its NUL */
};
#define BOOT_KERNEL_MIN 0x100000ull         /* kernels start above the first MiB */

/* True if all of [addr, addr + size) is RAM. */
bool boot_in_ram(const BootInput *in, uint64_t addr, uint64_t size);
/* The highest page-aligned place for @size bytes in RAM within [min, end); 0: none. */
uint64_t boot_find_top(const BootInput *in, uint64_t size, uint64_t min, uint64_t end);
/* Adds the initrd (between the kernel's end and @end) and the command line (at most @cmdline_max
 * bytes without the NUL).  *ret_initrd: its address, 0 if there is none. */
bool boot_add_initrd(const BootInput *in, BootPlan *plan, uint64_t kernel_end, uint64_t end,
                     uint64_t *ret_initrd, GError **error);
bool boot_add_cmdline(const BootInput *in, BootPlan *plan, uint64_t cmdline_max, GError **error);
/* A GDT with a code segment at 0x10 and a data segment at 0x18, flat; sets regs.gdt_*. */
void boot_add_gdt(BootPlan *plan, bool long_mode);

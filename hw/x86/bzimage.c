/*
 * bzImage by the 64-bit boot protocol (Linux, Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"):
 * the kernel is entered in long mode at 0x200 into its protected-mode part, with the zero page's
 * address in RSI.
 */
#include <string.h>
#include "hw/x86/boot.h"
#include "src/base/error.h"
#include "src/base/util.h"

enum {                                      /* setup header; the zero page has it at the same place */
    HDR_SETUP_SECTS = 0x1f1, HDR_BOOT_FLAG = 0x1fe, HDR_JUMP = 0x200, HDR_MAGIC = 0x202,
    HDR_VERSION = 0x206, HDR_TYPE_OF_LOADER = 0x210, HDR_LOADFLAGS = 0x211,
    HDR_RAMDISK_IMAGE = 0x218, HDR_RAMDISK_SIZE = 0x21c, HDR_CMD_LINE_PTR = 0x228,
    HDR_INITRD_ADDR_MAX = 0x22c, HDR_KERNEL_ALIGNMENT = 0x230, HDR_RELOCATABLE = 0x234,
    HDR_XLOADFLAGS = 0x236, HDR_CMDLINE_SIZE = 0x238, HDR_PREF_ADDRESS = 0x258,
    HDR_INIT_SIZE = 0x260, HDR_MIN_END = 0x264,
};
enum {                                      /* zero page only */
    ZP_ACPI_RSDP_ADDR = 0x070, ZP_E820_ENTRIES = 0x1e8, ZP_E820_TABLE = 0x2d0, ZP_SIZE = 4096,
    ZP_E820_ENTRY_SIZE = 20,
};
enum { LOADED_HIGH = 1, XLF_KERNEL_64 = 1, LOADER_UNDEFINED = 0xff };
#define VERSION_64_BIT 0x020c
#define ENTRY_64 0x200
#define SECTOR 512

typedef struct Bzimage {
    const uint8_t *file;
    size_t size;
    uint64_t kernel_offset, kernel_size;    /* protected-mode part in the file */
    uint64_t init_size, alignment, pref_address, initrd_max, cmdline_max;
    bool relocatable;
} Bzimage;

static bool refuse(GError **error, const char *why)
{
    return fail(error, ERR_CORRUPT, "bzImage: %s", why);
}

static bool parse_header(Bzimage *z, GError **error)
{
    const uint8_t *h = z->file;

    if (z->size < HDR_MIN_END)
        return refuse(error, "the file ends within its setup header");
    if (ld_le16(h + HDR_BOOT_FLAG) != 0xaa55)
        return refuse(error, "the boot flag 0xaa55 is missing");
    unsigned version = ld_le16(h + HDR_VERSION);
    if (version < VERSION_64_BIT)
        return fail(error, ERR_UNSUPPORTED,
                    "bzImage: boot protocol %u.%02u, but the 64-bit entry needs 2.12 or later",
                    version >> 8, version & 0xff);
    if (!(ld_le16(h + HDR_XLOADFLAGS) & XLF_KERNEL_64))
        return fail(error, ERR_UNSUPPORTED, "bzImage: a 32-bit kernel, only 64-bit ones are booted");
    if (!(h[HDR_LOADFLAGS] & LOADED_HIGH))
        return fail(error, ERR_UNSUPPORTED, "bzImage: a zImage that is loaded low");

    unsigned sectors = h[HDR_SETUP_SECTS] ? h[HDR_SETUP_SECTS] : 4;
    z->kernel_offset = (sectors + 1) * SECTOR;
    if (z->kernel_offset >= z->size)
        return refuse(error, "the file ends within its real-mode part");
    z->kernel_size = z->size - z->kernel_offset;
    z->init_size = ld_le32(h + HDR_INIT_SIZE);
    z->alignment = ld_le32(h + HDR_KERNEL_ALIGNMENT);
    z->pref_address = ld_le64(h + HDR_PREF_ADDRESS);
    z->initrd_max = ld_le32(h + HDR_INITRD_ADDR_MAX);
    z->cmdline_max = ld_le32(h + HDR_CMDLINE_SIZE);
    z->relocatable = h[HDR_RELOCATABLE];
    if (z->kernel_size <= ENTRY_64)
        return refuse(error, "the file ends before the 64-bit entry");
    if (z->init_size < z->kernel_size)
        z->init_size = z->kernel_size;
    if (z->relocatable && (!is_power_of_2(z->alignment) || z->alignment < 4096))
        return refuse(error, "kernel_alignment is not a power of two of at least 4096");
    if (z->pref_address < BOOT_KERNEL_MIN || z->pref_address > UINT32_MAX)
        return refuse(error, "pref_address is not between 1 MiB and 4 GiB");
    return true;
}

/* Where the kernel asks to be, else the lowest place it fits. */
static bool place_kernel(const BootInput *in, const Bzimage *z, uint64_t *ret, GError **error)
{
    *ret = z->pref_address;
    if (boot_in_ram(in, *ret, z->init_size))
        return true;
    for (unsigned i = 0; z->relocatable && i < in->e820_count; i++) {
        *ret = ALIGN_UP(MAX(in->e820[i].addr, BOOT_KERNEL_MIN), z->alignment);
        if (*ret <= UINT32_MAX - z->init_size && boot_in_ram(in, *ret, z->init_size))
            return true;
    }
    fail(error, ERR_LIMIT, "the kernel needs %" PRIu64 " MiB of memory at 0x%" PRIx64 "%s",
         (uint64_t)((z->init_size + MiB - 1) / MiB), z->pref_address,
         z->relocatable ? " or elsewhere below 4 GiB" : "");
    return error_hint(error, "give the machine more memory (-m)");
}

/* Identity map of the first 4 GiB by 2 MiB pages. */
static void add_page_tables(BootPlan *plan)
{
    enum { TABLE = 4096, PRESENT_RW = 3, LARGE = 0x80, DIRECTORIES = 4 };
    uint8_t *t = g_malloc0((2 + DIRECTORIES) * TABLE);

    st_le64(t, (BOOT_PML4 + TABLE) | PRESENT_RW);
    for (unsigned i = 0; i < DIRECTORIES; i++)
        st_le64(t + TABLE + 8 * i, (BOOT_PML4 + (2 + i) * TABLE) | PRESENT_RW);
    for (uint64_t i = 0; i < DIRECTORIES * 512; i++)
        st_le64(t + 2 * TABLE + 8 * i, i << 21 | LARGE | PRESENT_RW);
    boot_plan_add(plan, "page tables", BOOT_PML4, g_bytes_new_take(t, (2 + DIRECTORIES) * TABLE), 0);
    plan->regs.cr3 = BOOT_PML4;
}

static void add_zero_page(const BootInput *in, BootPlan *plan, const Bzimage *z, uint64_t initrd)
{
    uint8_t *zp = g_malloc0(ZP_SIZE);
    /* The header ends where the byte at 0x201, a jump's displacement, says. */
    size_t header_end = MIN(HDR_MAGIC + z->file[HDR_JUMP + 1], z->size);

    memcpy(zp + HDR_SETUP_SECTS, z->file + HDR_SETUP_SECTS, header_end - HDR_SETUP_SECTS);
    zp[HDR_TYPE_OF_LOADER] = LOADER_UNDEFINED;
    st_le32(zp + HDR_RAMDISK_IMAGE, initrd);
    st_le32(zp + HDR_RAMDISK_SIZE, initrd ? g_bytes_get_size(in->initrd) : 0);
    st_le32(zp + HDR_CMD_LINE_PTR, BOOT_CMDLINE);
    st_le64(zp + ZP_ACPI_RSDP_ADDR, in->rsdp);
    zp[ZP_E820_ENTRIES] = MIN(in->e820_count, E820_MAX);
    for (unsigned i = 0; i < zp[ZP_E820_ENTRIES]; i++) {
        uint8_t *entry = zp + ZP_E820_TABLE + i * ZP_E820_ENTRY_SIZE;
        st_le64(entry, in->e820[i].addr);
        st_le64(entry + 8, in->e820[i].size);
        st_le32(entry + 16, in->e820[i].type);
    }
    boot_plan_add(plan, "zero page", BOOT_PARAMS, g_bytes_new_take(zp, ZP_SIZE), 0);
}

bool bzimage_plan(const BootInput *in, BootPlan *plan, GError **error)
{
    Bzimage z = { 0 };
    uint64_t kernel, initrd;

    z.file = g_bytes_get_data(in->kernel, &z.size);
    if (!parse_header(&z, error) || !place_kernel(in, &z, &kernel, error))
        return false;
    boot_plan_add(plan, "kernel", kernel,
                  g_bytes_new_from_bytes(in->kernel, z.kernel_offset, z.kernel_size), 0);
    /* Not above what ramdisk_image can hold, whatever the kernel allows. */
    if (!boot_add_initrd(in, plan, kernel + z.init_size, MIN(z.initrd_max, UINT32_MAX) + 1, &initrd,
                         error) ||
        !boot_add_cmdline(in, plan, z.cmdline_max, error))
        return false;
    add_zero_page(in, plan, &z, initrd);
    add_page_tables(plan);
    boot_add_gdt(plan, true);
    plan->regs.mode = BOOT_LONG64;
    plan->regs.rip = kernel + ENTRY_64;
    plan->regs.rsi = BOOT_PARAMS;
    plan->regs.rsp = BOOT_STACK_TOP;
    return true;
}

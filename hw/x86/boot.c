/* Direct kernel boot: what both loaders share. */
#include "hw/x86/boot.h"
#include <string.h>
#include "src/base/error.h"
#include "src/base/util.h"

#define PAGE 4096

static void clear_blob(void *blob)
{
    g_bytes_unref(((BootBlob *)blob)->bytes);
}

void boot_plan_add(BootPlan *plan, const char *name, uint64_t addr, GBytes *bytes, uint64_t zeros)
{
    BootBlob blob = { name, addr, bytes, zeros };

    if (!plan->blobs) {
        plan->blobs = g_array_new(FALSE, FALSE, sizeof(BootBlob));
        g_array_set_clear_func(plan->blobs, clear_blob);
    }
    g_array_append_val(plan->blobs, blob);
}

void boot_plan_clear(BootPlan *plan)
{
    g_clear_pointer(&plan->blobs, g_array_unref);
    plan->regs = (BootRegs){ 0 };
}

bool boot_in_ram(const BootInput *in, uint64_t addr, uint64_t size)
{
    for (unsigned i = 0; i < in->e820_count; i++) {
        const E820Entry *e = &in->e820[i];
        if (e->type == E820_RAM && addr >= e->addr && addr - e->addr < e->size &&
            size <= e->size - (addr - e->addr))
            return true;
    }
    return false;
}

uint64_t boot_find_top(const BootInput *in, uint64_t size, uint64_t min, uint64_t end)
{
    uint64_t best = 0;

    for (unsigned i = 0; i < in->e820_count; i++) {
        const E820Entry *e = &in->e820[i];
        uint64_t top = MIN(end, e->addr + e->size), bottom = MAX(min, e->addr);
        if (e->type != E820_RAM || top < bottom || top - bottom < size)
            continue;
        uint64_t place = ALIGN_DOWN(top - size, PAGE);
        if (place >= bottom)
            best = MAX(best, place);
    }
    return best;
}

bool boot_add_initrd(const BootInput *in, BootPlan *plan, uint64_t kernel_end, uint64_t end,
                     uint64_t *ret_initrd, GError **error)
{
    uint64_t size = in->initrd ? g_bytes_get_size(in->initrd) : 0;

    *ret_initrd = 0;
    if (!size)
        return true;
    *ret_initrd = boot_find_top(in, size, kernel_end, end);
    if (!*ret_initrd) {
        fail(error, ERR_LIMIT,
             "the initial RAM disk (%" PRIu64 " MiB) does not fit in memory between the kernel's end "
             "(0x%" PRIx64 ") and 0x%" PRIx64, (uint64_t)((size + MiB - 1) / MiB), kernel_end, end);
        return error_hint(error, "give the machine more memory (-m)");
    }
    boot_plan_add(plan, "initrd", *ret_initrd, g_bytes_ref(in->initrd), 0);
    return true;
}

bool boot_add_cmdline(const BootInput *in, BootPlan *plan, uint64_t cmdline_max, GError **error)
{
    const char *text = in->cmdline ? in->cmdline : "";
    size_t length = strlen(text);

    if (length > MIN(cmdline_max, BOOT_CMDLINE_MAX - 1))
        return fail(error, ERR_LIMIT,
                    "the kernel's command line has %zu characters, and it takes at most %" PRIu64,
                    length, MIN(cmdline_max, BOOT_CMDLINE_MAX - 1));
    boot_plan_add(plan, "cmdline", BOOT_CMDLINE, g_bytes_new(text, length + 1), 0);
    return true;
}

void boot_add_gdt(BootPlan *plan, bool long_mode)
{
    uint8_t gdt[4 * 8] = { 0 };

    st_le64(gdt + 0x10, long_mode ? 0x00af9b000000ffff : 0x00cf9b000000ffff);
    st_le64(gdt + 0x18, 0x00cf93000000ffff);
    boot_plan_add(plan, "GDT", BOOT_GDT, g_bytes_new(gdt, sizeof(gdt)), 0);
    plan->regs.gdt_base = BOOT_GDT;
    plan->regs.gdt_limit = sizeof(gdt) - 1;
}

bool boot_plan_linux(const BootInput *in, BootPlan *plan, GError **error)
{
    size_t size;
    const uint8_t *kernel = g_bytes_get_data(in->kernel, &size);
    BootPlan made = { 0 };
    bool ok;

    if (size >= 4 && !memcmp(kernel, "\177ELF", 4)) {
        ok = pvh_plan(in, &made, error);
    } else if (size >= 0x206 && !memcmp(kernel + 0x202, "HdrS", 4)) {
        ok = bzimage_plan(in, &made, error);
    } else {
        ok = fail(error, ERR_UNSUPPORTED,
                  "not a kernel that can be booted: neither a bzImage nor an ELF file with a PVH entry");
    }
    if (!ok)
        boot_plan_clear(&made);
    else
        *plan = made;
    return ok;
}

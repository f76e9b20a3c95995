/* Kernel images.  The first bytes choose the command line's and the initrd's size. */
#include "hw/x86/boot.h"
#include "src/base/error.h"
#include "src/base/util.h"
#include "tests/fuzz/fuzz.h"

#define RAM_END (128 * MiB)

static const E820Entry e820[] = {
    { 0, 0x9fc00, E820_RAM }, { 0x9fc00, 0x400, E820_RESERVED },
    { 1 * MiB, RAM_END - 1 * MiB, E820_RAM }, { 0xb0000000, 0x10000000, E820_RESERVED },
};

/* What a plan may hold: RAM only, and bytes that are there. */
static void check_plan(const BootPlan *plan, const BootInput *in)
{
    uint8_t sum = 0;

    for (guint i = 0; i < plan->blobs->len; i++) {
        const BootBlob *b = &g_array_index(plan->blobs, BootBlob, i);
        gsize size = b->bytes ? g_bytes_get_size(b->bytes) : 0;
        const uint8_t *p = b->bytes ? g_bytes_get_data(b->bytes, NULL) : NULL;

        if (!boot_in_ram(in, b->addr, size + b->zeros))
            g_error("'%s' lies outside of RAM", b->name);
        for (gsize at = 0; at < size; at++)
            sum += p[at];
    }
    __asm__ volatile("" : : "r"(sum));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Input in = { data, data + size };
    unsigned cmdline_length = take(&in, 1) * 16, initrd_size = take(&in, 1) * 512;
    g_autofree char *cmdline = g_strnfill(cmdline_length, 'c');
    g_autofree uint8_t *initrd = g_malloc0(initrd_size + 1);
    BootInput boot = {
        .kernel = g_bytes_new(in.p, in.end - in.p), .cmdline = cmdline,
        .initrd = initrd_size ? g_bytes_new(initrd, initrd_size) : NULL, .e820 = e820,
        .e820_count = G_N_ELEMENTS(e820), .rsdp = 0xf0000,
    };
    g_autoptr(GError) error = NULL;
    BootPlan plan = { 0 };

    fuzz_limit_cpu();
    if (boot_plan_linux(&boot, &plan, &error))
        check_plan(&plan, &boot);
    boot_plan_clear(&plan);
    g_bytes_unref(boot.kernel);
    g_clear_pointer(&boot.initrd, g_bytes_unref);
    return 0;
}

/* Direct kernel boot from made-up images: what is taken, where it goes, and each refusal. */
#include <elf.h>
#include "hw/x86/boot.h"
#include "src/base/error.h"
#include "src/base/util.h"
#include "tests/test.h"

#define SETUP_SECTS 4
#define REAL_MODE ((SETUP_SECTS + 1) * 512)
#define BZ_SIZE (REAL_MODE + 64 * 1024)
#define PREF 0x1000000u
#define RAM_END (128 * MiB)

static const E820Entry e820[] = {
    { 0, 0x9fc00, E820_RAM }, { 0x9fc00, 0x400, E820_RESERVED },
    { 1 * MiB, RAM_END - 1 * MiB, E820_RAM }, { 0xb0000000, 0x10000000, E820_RESERVED },
};

static BootInput input(const void *kernel, size_t size)
{
    return (BootInput){
        .kernel = g_bytes_new(kernel, size), .cmdline = "console=ttyS0", .e820 = e820,
        .e820_count = G_N_ELEMENTS(e820), .rsdp = 0xf0000,
    };
}

static void clear(BootInput *in)
{
    g_bytes_unref(in->kernel);
    g_clear_pointer(&in->initrd, g_bytes_unref);
}

static const BootBlob *find(const BootPlan *plan, const char *name)
{
    for (guint i = 0; i < plan->blobs->len; i++) {
        const BootBlob *b = &g_array_index(plan->blobs, BootBlob, i);
        if (!strcmp(b->name, name))
            return b;
    }
    ck_abort_msg("the plan has no %s", name);
}

static const uint8_t *bytes(const BootBlob *b)
{
    return g_bytes_get_data(b->bytes, NULL);
}

static void refused(const void *kernel, size_t size, const char *why)
{
    BootInput in = input(kernel, size);
    BootPlan plan = { 0 };
    GError *error = NULL;

    ck_assert(!boot_plan_linux(&in, &plan, &error));
    ck_error(error, why);
    ck_assert_ptr_null(plan.blobs);
    clear(&in);
}

/* ---- bzImage ---- */

static uint8_t *bzimage(void)
{
    uint8_t *z = g_malloc0(BZ_SIZE);

    z[0x1f1] = SETUP_SECTS;
    st_le16(z + 0x1fe, 0xaa55);
    z[0x200] = 0xeb, z[0x201] = 0x66;
    memcpy(z + 0x202, "HdrS", 4);
    st_le16(z + 0x206, 0x020f);
    z[0x211] = 1;
    st_le32(z + 0x22c, 0x7fffffff);
    st_le32(z + 0x230, 0x200000);
    z[0x234] = 1;
    st_le16(z + 0x236, 1);
    st_le32(z + 0x238, 2047);
    st_le64(z + 0x258, PREF);
    st_le32(z + 0x260, 4 * MiB);
    memset(z + REAL_MODE, 0x90, BZ_SIZE - REAL_MODE);
    return z;
}

START_TEST(bzimage_is_planned)
{
    g_autofree uint8_t *z = bzimage();
    g_autofree uint8_t *disk = g_malloc0(3 * MiB + 5);
    BootInput in = input(z, BZ_SIZE);
    BootPlan plan = { 0 };
    GError *error = NULL;

    in.initrd = g_bytes_new(disk, 3 * MiB + 5);
    ck_assert(boot_plan_linux(&in, &plan, &error));
    ck_no_error(error);
    ck_assert_int_eq(plan.regs.mode, BOOT_LONG64);
    ck_assert_uint_eq(plan.regs.rip, PREF + 0x200);
    const BootBlob *kernel = find(&plan, "kernel"), *initrd = find(&plan, "initrd");
    ck_assert_uint_eq(kernel->addr, PREF);
    ck_assert_uint_eq(g_bytes_get_size(kernel->bytes), BZ_SIZE - REAL_MODE);
    ck_assert_uint_eq(initrd->addr % 4096, 0);
    ck_assert_uint_eq(initrd->addr, ALIGN_DOWN(RAM_END - 3 * MiB - 5, 4096));
    const uint8_t *zp = bytes(find(&plan, "zero page"));
    ck_assert_uint_eq(plan.regs.rsi, find(&plan, "zero page")->addr);
    ck_assert_uint_eq(ld_le32(zp + 0x218), initrd->addr);
    ck_assert_uint_eq(ld_le32(zp + 0x21c), 3 * MiB + 5);
    ck_assert_uint_eq(ld_le32(zp + 0x228), find(&plan, "cmdline")->addr);
    ck_assert_str_eq((const char *)bytes(find(&plan, "cmdline")), "console=ttyS0");
    ck_assert_uint_eq(ld_le64(zp + 0x70), 0xf0000);
    ck_assert_uint_eq(zp[0x1e8], G_N_ELEMENTS(e820));
    ck_assert_uint_eq(ld_le64(zp + 0x2d0 + 2 * 20 + 8), RAM_END - 1 * MiB);
    ck_assert_uint_eq(zp[0x210], 0xff);
    boot_plan_clear(&plan);
    clear(&in);
}
END_TEST

START_TEST(bzimage_moves_where_there_is_memory)
{
    static const E820Entry small[] = { { 0, 0x9fc00, E820_RAM }, { MiB, 11 * MiB, E820_RAM } };
    g_autofree uint8_t *z = bzimage();
    BootInput in = input(z, BZ_SIZE);
    BootPlan plan = { 0 };
    GError *error = NULL;

    in.e820 = small;
    in.e820_count = G_N_ELEMENTS(small);
    ck_assert(boot_plan_linux(&in, &plan, &error));
    ck_assert_uint_eq(find(&plan, "kernel")->addr, 2 * MiB);
    boot_plan_clear(&plan);

    z[0x234] = 0;                           /* not relocatable: it has to be where it asks */
    g_bytes_unref(in.kernel);
    in.kernel = g_bytes_new(z, BZ_SIZE);
    ck_assert(!boot_plan_linux(&in, &plan, &error));
    ck_error(error, "needs 4 MiB of memory at 0x1000000");
    clear(&in);
}
END_TEST

START_TEST(bad_bzimages_are_refused)
{
    static const struct { unsigned at, bytes; uint64_t value; const char *why; } cases[] = {
        { 0x1fe, 2, 0, "boot flag" },
        { 0x206, 2, 0x020b, "boot protocol 2.11" },
        { 0x236, 2, 0, "32-bit kernel" },
        { 0x211, 1, 0, "loaded low" },
        { 0x1f1, 1, 255, "within its real-mode part" },
        { 0x230, 4, 0x300000, "kernel_alignment" },
        { 0x230, 4, 0, "kernel_alignment" },
        { 0x258, 8, 0x1000, "pref_address" },
        { 0x258, 8, UINT64_MAX, "pref_address" },
        { 0x260, 4, UINT32_MAX, "MiB of memory" },
        { 0x238, 4, 5, "at most 5" },
        { 0x202, 1, 0, "neither a bzImage nor" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree uint8_t *z = bzimage();
        uint8_t le[8];
        st_le64(le, cases[i].value);
        memcpy(z + cases[i].at, le, cases[i].bytes);
        refused(z, BZ_SIZE, cases[i].why);
    }
    g_autofree uint8_t *z = bzimage();
    refused(z, 0x230, "within its setup header");
    refused(z, REAL_MODE, "within its real-mode part");
    refused(z, REAL_MODE + 0x200, "before the 64-bit entry");
    refused(z, 0, "neither");
}
END_TEST

START_TEST(initrd_that_does_not_fit)
{
    g_autofree uint8_t *z = bzimage(), *disk = g_malloc0(120 * MiB);
    BootInput in = input(z, BZ_SIZE);
    BootPlan plan = { 0 };
    GError *error = NULL;

    in.initrd = g_bytes_new(disk, 120 * MiB);
    ck_assert(!boot_plan_linux(&in, &plan, &error));
    ck_error(error, "initial RAM disk (120 MiB) does not fit");
    clear(&in);
}
END_TEST

START_TEST(cmdline_that_is_too_long)
{
    g_autofree uint8_t *z = bzimage();
    g_autofree char *text = g_strnfill(2048, 'a');
    BootInput in = input(z, BZ_SIZE);
    BootPlan plan = { 0 };
    GError *error = NULL;

    in.cmdline = text;
    ck_assert(!boot_plan_linux(&in, &plan, &error));
    ck_error(error, "2048 characters, and it takes at most 2047");
    text[2047] = 0;
    ck_assert(boot_plan_linux(&in, &plan, &error));
    boot_plan_clear(&plan);
    clear(&in);
}
END_TEST

/* ---- ELF ---- */

#define ELF_SIZE 0x3000
typedef struct Image {
    Elf64_Ehdr head;
    Elf64_Phdr load, note;
    struct { Elf64_Nhdr head; char name[4]; uint32_t entry; } notes[2];
} Image;

static Image *elf(void)
{
    Image *e = g_malloc0(ELF_SIZE);

    memcpy(e->head.e_ident, "\177ELF", 4);
    e->head.e_ident[EI_CLASS] = ELFCLASS64;
    e->head.e_ident[EI_DATA] = ELFDATA2LSB;
    e->head.e_machine = EM_X86_64;
    e->head.e_phoff = offsetof(Image, load);
    e->head.e_phentsize = sizeof(Elf64_Phdr);
    e->head.e_phnum = 2;
    e->load = (Elf64_Phdr){ .p_type = PT_LOAD, .p_offset = 0x1000, .p_paddr = PREF,
                            .p_filesz = 0x2000, .p_memsz = 0x5000 };
    e->note = (Elf64_Phdr){ .p_type = PT_NOTE, .p_offset = offsetof(Image, notes),
                            .p_filesz = sizeof(e->notes) };
    for (unsigned i = 0; i < 2; i++) {
        e->notes[i].head = (Elf64_Nhdr){ 4, 4, i ? 18 : 5 };
        memcpy(e->notes[i].name, i ? "Xen" : "GNU", 4);
        e->notes[i].entry = PREF + 0x40;
    }
    return e;
}

START_TEST(elf_is_planned)
{
    g_autofree Image *e = elf();
    BootInput in = input(e, ELF_SIZE);
    BootPlan plan = { 0 };
    GError *error = NULL;

    in.initrd = g_bytes_new("disk", 4);
    ck_assert(boot_plan_linux(&in, &plan, &error));
    ck_no_error(error);
    ck_assert_int_eq(plan.regs.mode, BOOT_PVH32);
    ck_assert_uint_eq(plan.regs.rip, PREF + 0x40);
    const BootBlob *kernel = find(&plan, "kernel"), *start = find(&plan, "start info");
    ck_assert_uint_eq(kernel->addr, PREF);
    ck_assert_uint_eq(g_bytes_get_size(kernel->bytes), 0x2000);
    ck_assert_uint_eq(kernel->zeros, 0x3000);
    ck_assert_uint_eq(plan.regs.rbx, start->addr);
    const uint8_t *info = bytes(start);
    ck_assert_uint_eq(ld_le32(info), 0x336ec578);
    ck_assert_uint_eq(ld_le32(info + 12), 1);
    ck_assert_uint_eq(ld_le64(info + (ld_le64(info + 16) - start->addr)), find(&plan, "initrd")->addr);
    ck_assert_uint_eq(ld_le64(info + 32), 0xf0000);
    ck_assert_uint_eq(ld_le32(info + 48), G_N_ELEMENTS(e820));
    boot_plan_clear(&plan);
    clear(&in);
}
END_TEST

START_TEST(bad_elfs_are_refused)
{
    g_autofree Image *e = NULL;

#define REFUSED(change, why)                                                                       \
    do {                                                                                           \
        g_free(e);                                                                                 \
        e = elf();                                                                                 \
        change;                                                                                    \
        refused(e, ELF_SIZE, why);                                                                \
    } while (0)
    REFUSED(e->head.e_ident[EI_CLASS] = ELFCLASS32, "not a 64-bit x86");
    REFUSED(e->head.e_machine = EM_AARCH64, "not a 64-bit x86");
    REFUSED(e->head.e_ident[EI_DATA] = ELFDATA2MSB, "little-endian");
    REFUSED(e->head.e_phentsize = 1, "program headers are ill-formed");
    REFUSED(e->head.e_phnum = 0, "program headers are ill-formed");
    REFUSED(e->head.e_phoff = UINT64_MAX - 8, "within its program headers");
    REFUSED(e->notes[1].head.n_type = 17, "no PVH entry");
    REFUSED(e->notes[0].head.n_namesz = UINT32_MAX, "no PVH entry");
    REFUSED(e->notes[0].head.n_descsz = UINT32_MAX, "no PVH entry");
    REFUSED(e->note.p_filesz = 3, "no PVH entry");
    REFUSED(e->note.p_offset = UINT64_MAX, "within its notes");
    REFUSED(e->notes[1].entry = 0x1234, "entry is in no segment");
    REFUSED(e->load.p_filesz = 0x2001, "within a segment");
    REFUSED(e->load.p_offset = UINT64_MAX - 1, "within a segment");
    REFUSED(e->load.p_memsz = 0x1000, "more bytes in the file");
    REFUSED(e->load.p_paddr = 0x1000, "first MiB");
    REFUSED(e->load.p_paddr = RAM_END - 0x1000, "is not all in memory");
    REFUSED(e->load.p_memsz = UINT64_MAX - PREF, "is not all in memory");
#undef REFUSED
    refused(e, 20, "within its header");
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, bzimage_is_planned);
    tcase_add_test(tc, bzimage_moves_where_there_is_memory);
    tcase_add_test(tc, bad_bzimages_are_refused);
    tcase_add_test(tc, initrd_that_does_not_fit);
    tcase_add_test(tc, cmdline_that_is_too_long);
    tcase_add_test(tc, elf_is_planned);
    tcase_add_test(tc, bad_elfs_are_refused);
}

int main(void)
{
    return run_tests("boot-images", add);
}

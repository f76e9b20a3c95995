/*
 * The ACPI tables and the AML builder, judged by iasl: it takes the tables apart, and what it makes of
 * the text again is byte for byte what we built.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "hw/x86/acpi.h"
#include "hw/x86/aml.h"
#include "hw/x86/ich9.h"
#include "hw/x86/memmap.h"
#include "tests/test.h"

#define TABLES 0x7fe0000u
#define FACS 0x7fff000u
#define HEADER 36

static char *dir;

static char *in_dir(const char *name)
{
    return g_build_filename(dir, name, NULL);
}

/* Runs iasl in the folder; its output is checked for complaints. */
static void iasl(const char *arguments)
{
    g_autofree char *command = g_strdup_printf("iasl %s", arguments);
    g_autofree char *out = NULL, *err = NULL;
    const char *argv[] = { "/bin/sh", "-c", command, NULL };
    int status = -1;

    ck_assert(g_spawn_sync(dir, (char **)argv, NULL, 0, NULL, NULL, &out, &err, &status, NULL));
    ck_assert_msg(status == 0 && !strstr(out, "Error ") && !strstr(err, "rror") &&
                      !strstr(err, "nvalid"), "%s:\n%s%s", command, out, err);
    ck_assert_msg(!strstr(out, "Compilation") || strstr(out, " 0 Errors, 0 Warnings"), "%s", out);
}

static void save(const char *name, const uint8_t *data, size_t length)
{
    g_autofree char *path = in_dir(name);

    ck_assert(g_file_set_contents(path, (const char *)data, length, NULL));
}

static uint8_t sum(const uint8_t *data, size_t length)
{
    uint8_t s = 0;

    while (length--)
        s += *data++;
    return s;
}

/* A definition block of that code, with a header, through iasl and back. */
static void round_trip(const uint8_t *code, size_t length)
{
    g_autoptr(GByteArray) table = g_byte_array_new();
    g_autofree char *path = in_dir("t.aml"), *got = NULL;
    gsize got_length;
    uint8_t header[HEADER] = "DSDT\0\0\0\0\2\0TESTS TESTTBL \1\0\0\0INTL\1\0\0\0";

    st_le32(header + 4, HEADER + length);
    g_byte_array_append(table, header, HEADER);
    g_byte_array_append(table, code, length);
    table->data[9] = -sum(table->data, table->len);
    save("t.aml", table->data, table->len);
    iasl("-d t.aml");
    unlink(path);
    iasl("-oa -p t t.dsl");
    ck_assert(g_file_get_contents(path, &got, &got_length, NULL));
    ck_assert_uint_eq(got_length, table->len);
    ck_assert_mem_eq(got + HEADER, code, length);
}

START_TEST(lengths_of_all_sizes)
{
    /* Bodies on both sides of each step of PkgLength's encoding: 63, 4095. */
    static const unsigned sizes[] = { 1, 50, 54, 55, 56, 57, 58, 200, 4080, 4085, 4086, 4087, 4088, 9000 };

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autoptr(Aml) a = aml_new();
        g_autofree char *text = g_strnfill(sizes[i], 'x');
        aml_scope(a, "\\_SB");
        aml_name(a, "TEXT"), aml_string(a, text);
        aml_end(a);
        round_trip(aml_bytes(a)->data, aml_bytes(a)->len);
    }
}
END_TEST

START_TEST(integers_of_all_sizes)
{
    static const uint64_t values[] = {
        0, 1, 2, 0xff, 0x100, 0xffff, 0x10000, 0xffffffff, 0x100000000, UINT64_MAX - 1, UINT64_MAX,
    };
    g_autoptr(Aml) a = aml_new();

    aml_name(a, "LIST"), aml_package(a, G_N_ELEMENTS(values));
    for (unsigned i = 0; i < G_N_ELEMENTS(values); i++)
        aml_int(a, values[i]);
    aml_end(a);
    round_trip(aml_bytes(a)->data, aml_bytes(a)->len);
}
END_TEST

static AcpiConfig some_config(const uint32_t *apic_ids, unsigned cpus)
{
    return (AcpiConfig){
        .apic_ids = apic_ids, .cpus = cpus, .pic = true, .i8042 = true, .rtc = true, .hpet = true,
        .com = { { 0x3f8, 4 }, { 0x2f8, 3 } }, .pvpanic_port = 0x505, .pm_base = PM_IO_BASE,
        .ecam_base = ECAM_BASE, .pci_below = { 0x8000000, ECAM_BASE - 1 },
        .pci_32 = { 0xc0000000, 0xfebfffff }, .pci_64 = { 0x100000000, 0x8ffffffff },
        .pci_gsi = ich9_pirq_gsi, .pci_link = ich9_pirq,
    };
}

START_TEST(dsdt_round_trip)
{
    uint32_t ids[300];

    for (unsigned i = 0; i < G_N_ELEMENTS(ids); i++)
        ids[i] = i;
    for (unsigned variant = 0; variant < 4; variant++) {
        AcpiConfig c = some_config(ids, variant == 3 ? 255 : 2);
        if (variant == 1)
            c.pic = c.i8042 = c.hpet = false;
        if (variant == 2)
            c.pvpanic_port = 0, memset(c.com, 0, sizeof(c.com)), c.pci_below.max = 0;
        g_autoptr(GByteArray) code = acpi_build_dsdt(&c);
        round_trip(code->data, code->len);
    }
}
END_TEST

/* The table at a guest address, checked for its signature, length and checksum. */
static const uint8_t *table_at(const GByteArray *tables, uint64_t addr, const char *signature)
{
    ck_assert_uint_ge(addr, TABLES);
    ck_assert_uint_le(addr + HEADER, TABLES + tables->len);
    const uint8_t *t = tables->data + (addr - TABLES);
    ck_assert_msg(!memcmp(t, signature, 4), "%.4s, not %s", t, signature);
    ck_assert_uint_le(addr + ld_le32(t + 4), TABLES + tables->len);
    ck_assert_uint_eq(sum(t, ld_le32(t + 4)), 0);
    return t;
}

START_TEST(tables_are_found_from_the_rsdp)
{
    static const char *const order[] = { "FACP", "APIC", "MCFG", "HPET", "WAET" };
    static const uint32_t ids[] = { 0, 1, 2, 300 };
    AcpiConfig c = some_config(ids, G_N_ELEMENTS(ids));
    AcpiPlace place = { TABLES, FACS };
    uint8_t rsdp[ACPI_RSDP_SIZE], facs[ACPI_FACS_SIZE];
    g_autoptr(GByteArray) tables = acpi_build(&c, &place, rsdp, facs);

    ck_assert_mem_eq(rsdp, "RSD PTR ", 8);
    ck_assert_uint_eq(sum(rsdp, 20), 0);
    ck_assert_uint_eq(sum(rsdp, sizeof(rsdp)), 0);
    ck_assert_mem_eq(facs, "FACS", 4);
    const uint8_t *xsdt = table_at(tables, ld_le64(rsdp + 24), "XSDT");
    ck_assert_uint_eq(ld_le32(xsdt + 4), HEADER + 8 * G_N_ELEMENTS(order));
    for (unsigned i = 0; i < G_N_ELEMENTS(order); i++) {
        const uint8_t *t = table_at(tables, ld_le64(xsdt + HEADER + 8 * i), order[i]);
        g_autofree char *file = g_strdup_printf("%s.dat", order[i]);
        g_autofree char *arguments = g_strdup_printf("-d %s", file);
        save(file, t, ld_le32(t + 4));
        iasl(arguments);
    }
    const uint8_t *fadt = table_at(tables, ld_le64(xsdt + HEADER), "FACP");
    ck_assert_uint_eq(ld_le32(fadt + 4), 276);
    ck_assert_uint_eq(ld_le32(fadt + 36), FACS);
    ck_assert_uint_eq(ld_le32(fadt + 40), ld_le64(fadt + 140));
    table_at(tables, ld_le32(fadt + 40), "DSDT");
}
END_TEST

static unsigned madt_count(const uint8_t *madt, uint8_t type)
{
    unsigned count = 0;

    for (unsigned at = 44; at < ld_le32(madt + 4); at += madt[at + 1]) {
        ck_assert_uint_gt(madt[at + 1], 1);
        count += madt[at] == type;
    }
    return count;
}

START_TEST(madt_names_every_cpu)
{
    static const uint32_t ids[] = { 0, 254, 255, 300 };
    AcpiConfig c = some_config(ids, G_N_ELEMENTS(ids));
    AcpiPlace place = { TABLES, FACS };
    uint8_t rsdp[ACPI_RSDP_SIZE], facs[ACPI_FACS_SIZE];

    for (unsigned pic = 0; pic < 2; pic++) {
        c.pic = pic;
        g_autoptr(GByteArray) tables = acpi_build(&c, &place, rsdp, facs);
        const uint8_t *xsdt = table_at(tables, ld_le64(rsdp + 24), "XSDT");
        const uint8_t *madt = table_at(tables, ld_le64(xsdt + HEADER + 8), "APIC");
        ck_assert_uint_eq(ld_le32(madt + 40), pic);
        ck_assert_uint_eq(madt_count(madt, 0), 2);  /* LAPIC: ids that fit 8 bits */
        ck_assert_uint_eq(madt_count(madt, 9), 2);  /* x2APIC */
        ck_assert_uint_eq(madt_count(madt, 1), 1);
        ck_assert_uint_eq(madt_count(madt, 2), 5);
    }
}
END_TEST

static void add(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, lengths_of_all_sizes);
    tcase_add_test(tc, integers_of_all_sizes);
    tcase_add_test(tc, dsdt_round_trip);
    tcase_add_test(tc, tables_are_found_from_the_rsdp);
    tcase_add_test(tc, madt_names_every_cpu);
}

int main(void)
{
    g_autofree char *found = g_find_program_in_path("iasl");
    int failed;

    if (!found) {
        printf("skipped: iasl (package acpica-tools) is not installed\n");
        return 77;
    }
    dir = g_dir_make_tmp("vireo-acpi-XXXXXX", NULL);
    failed = run_tests("acpi", add);
    g_autofree char *command = g_strdup_printf("rm -rf '%s'", dir);
    failed |= system(command);
    g_free(dir);
    return failed;
}

/* ACPI tables with fixed layouts: RSDP, XSDT, FADT, FACS, MADT, MCFG, HPET, WAET. */
#include "hw/x86/acpi.h"
#include <string.h>
#include "hw/timer/mc146818rtc.h"
#include "hw/x86/ich9.h"
#include "hw/x86/memmap.h"
#include "src/base/util.h"

#define OEM_ID "VIREO "
#define OEM_TABLE_ID "VIREOPC "
#define HEADER_SIZE 36
#define HEADER_CHECKSUM 9

static uint8_t checksum(const uint8_t *data, size_t length)
{
    uint8_t sum = 0;

    while (length--)
        sum += *data++;
    return -sum;
}

static void put(GByteArray *t, uint64_t value, unsigned bytes)
{
    uint8_t le[8];

    st_le64(le, value);
    g_byte_array_append(t, le, bytes);
}

static void put_zeros(GByteArray *t, unsigned bytes)
{
    while (bytes--)
        put(t, 0, 1);
}

/* ---- tables in one array, each on 16 bytes, with the list for the XSDT ---- */

typedef struct Tables {
    const AcpiConfig *config;
    const AcpiPlace *place;
    GByteArray *bytes;
    uint32_t list[16];                      /* guest addresses, for the XSDT */
    unsigned count;
    uint32_t dsdt;
} Tables;

static guint begin_table(Tables *t, const char *signature, uint8_t revision)
{
    put_zeros(t->bytes, -t->bytes->len & 15);
    guint at = t->bytes->len;
    g_byte_array_append(t->bytes, (const uint8_t *)signature, 4);
    put(t->bytes, 0, 4);                    /* length */
    put(t->bytes, revision, 1);
    put(t->bytes, 0, 1);                    /* checksum */
    g_byte_array_append(t->bytes, (const uint8_t *)OEM_ID OEM_TABLE_ID, 14);
    put(t->bytes, 1, 4);                    /* OEM revision */
    g_byte_array_append(t->bytes, (const uint8_t *)"VIRO", 4);
    put(t->bytes, 1, 4);                    /* creator revision */
    return at;
}

static uint32_t end_table(Tables *t, guint at)
{
    uint8_t *table = t->bytes->data + at;

    st_le32(table + 4, t->bytes->len - at);
    table[HEADER_CHECKSUM] = checksum(table, t->bytes->len - at);
    return t->place->tables + at;
}

static void end_listed_table(Tables *t, guint at)
{
    t->list[t->count++] = end_table(t, at);
}

/* ---- FADT (5.2.9) ---- */

enum {                                      /* fixed feature flags */
    FADT_WBINVD = 1 << 0, FADT_PROC_C1 = 1 << 2, FADT_SLP_BUTTON = 1 << 5, FADT_RTC_S4 = 1 << 7,
    FADT_RESET_REG_SUP = 1 << 10, FADT_USE_PLATFORM_CLOCK = 1 << 15,
};
enum { BOOT_ARCH_LEGACY_DEVICES = 1 << 0, BOOT_ARCH_8042 = 1 << 1 };
enum { GAS_IO = 1 };
enum { PM_PROFILE_DESKTOP = 1 };
#define RESET_VALUE (RST_CNT_SYS_RST | RST_CNT_RST_CPU | RST_CNT_FULL_RST)
#define FADT_REVISION 6

static void put_gas_io(GByteArray *t, uint16_t port, unsigned bytes)
{
    put(t, port ? GAS_IO : 0, 1);
    put(t, port ? 8 * bytes : 0, 1);
    put(t, 0, 1);
    put(t, 0, 1);                           /* access size: undefined, by width */
    put(t, port, 8);
}

static void put_fadt_flags(GByteArray *b, const AcpiConfig *c)
{
    put(b, BOOT_ARCH_LEGACY_DEVICES | (c->i8042 ? BOOT_ARCH_8042 : 0), 2);
    put_zeros(b, 1);
    put(b, FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_RTC_S4 | FADT_RESET_REG_SUP |
               FADT_USE_PLATFORM_CLOCK, 4);
}

static void build_fadt(Tables *t)
{
    const AcpiConfig *c = t->config;
    GByteArray *b = t->bytes;
    guint at = begin_table(t, "FACP", FADT_REVISION);

    put(b, t->place->facs, 4);
    put(b, t->dsdt, 4);
    put_zeros(b, 1);
    put(b, PM_PROFILE_DESKTOP, 1);
    put(b, ACPI_SCI_IRQ, 2);
    put(b, ACPI_SMI_PORT, 4);
    put(b, ACPI_SMI_ENABLE, 1);
    put(b, ACPI_SMI_DISABLE, 1);
    put_zeros(b, 2);                        /* S4BIOS_REQ, PSTATE_CNT */
    put(b, c->pm_base + PM1_STS, 4);        /* PM1a_EVT_BLK */
    put_zeros(b, 4);
    put(b, c->pm_base + PM1_CNT, 4);        /* PM1a_CNT_BLK */
    put_zeros(b, 4 + 4);
    put(b, c->pm_base + PM_TMR, 4);         /* PM_TMR_BLK */
    put(b, c->pm_base + GPE0_STS, 4);       /* GPE0_BLK */
    put_zeros(b, 4);
    put(b, 4, 1);                           /* lengths: PM1_EVT, PM1_CNT, PM2_CNT, PM_TMR, */
    put(b, 2, 1);
    put(b, 0, 1);
    put(b, 4, 1);
    put(b, GPE0_LENGTH, 1);                 /* GPE0, GPE1 */
    put_zeros(b, 1 + 1 + 1);                /* GPE1_BASE, CST_CNT */
    put(b, 0xfff, 2);                       /* no C2, no C3 */
    put(b, 0xfff, 2);
    put_zeros(b, 2 + 2 + 1 + 1 + 1 + 1);    /* flush, duty cycle, RTC alarms */
    put(b, c->rtc ? CMOS_CENTURY : 0, 1);
    put_fadt_flags(b, c);
    put_gas_io(b, ICH9_RST_CNT_PORT, 1);
    put(b, RESET_VALUE, 1);
    put_zeros(b, 2 + 1);                    /* ARM boot flags, minor version */
    put_zeros(b, 8);                        /* X_FIRMWARE_CTRL: the 32-bit one holds */
    put(b, t->dsdt, 8);
    put_gas_io(b, c->pm_base + PM1_STS, 4);
    put_gas_io(b, 0, 0);
    put_gas_io(b, c->pm_base + PM1_CNT, 2);
    put_gas_io(b, 0, 0);
    put_gas_io(b, 0, 0);
    put_gas_io(b, c->pm_base + PM_TMR, 4);
    put_gas_io(b, c->pm_base + GPE0_STS, GPE0_LENGTH);
    put_gas_io(b, 0, 0);
    put_gas_io(b, 0, 0);                    /* sleep control and status: not hardware-reduced */
    put_gas_io(b, 0, 0);
    put_zeros(b, 8);                        /* hypervisor vendor */
    end_listed_table(t, at);
}

/* ---- MADT (5.2.12) ---- */

enum {
    MADT_LAPIC = 0, MADT_IOAPIC = 1, MADT_OVERRIDE = 2, MADT_LAPIC_NMI = 4, MADT_X2APIC = 9,
    MADT_X2APIC_NMI = 10,
};
enum { MADT_PCAT_COMPAT = 1, MADT_ENABLED = 1 };
enum { MPS_LEVEL_HIGH = 0x0d, MPS_CONFORMS = 0 };
#define X2APIC_FIRST_ID 255                 /* ids from here on do not fit a LAPIC entry */

static bool put_cpu(GByteArray *b, uint32_t uid, uint32_t apic_id)
{
    bool x2apic = apic_id >= X2APIC_FIRST_ID;

    put(b, x2apic ? MADT_X2APIC : MADT_LAPIC, 1);
    put(b, x2apic ? 16 : 8, 1);
    if (x2apic) {
        put_zeros(b, 2);
        put(b, apic_id, 4);
        put(b, MADT_ENABLED, 4);
        put(b, uid, 4);
    } else {
        put(b, uid, 1);
        put(b, apic_id, 1);
        put(b, MADT_ENABLED, 4);
    }
    return x2apic;
}

static void put_override(GByteArray *b, uint8_t irq, uint32_t gsi, uint16_t flags)
{
    put(b, MADT_OVERRIDE, 1);
    put(b, 10, 1);
    put(b, 0, 1);                           /* bus: ISA */
    put(b, irq, 1);
    put(b, gsi, 4);
    put(b, flags, 2);
}

/* LINT1 of every CPU is NMI. */
static void put_nmis(GByteArray *b, bool x2apic)
{
    put(b, MADT_LAPIC_NMI, 1);
    put(b, 6, 1);
    put(b, 0xff, 1);
    put(b, MPS_CONFORMS, 2);
    put(b, 1, 1);
    if (!x2apic)
        return;
    put(b, MADT_X2APIC_NMI, 1);
    put(b, 12, 1);
    put(b, MPS_CONFORMS, 2);
    put(b, UINT32_MAX, 4);
    put(b, 1, 1);
    put_zeros(b, 3);
}

static void build_madt(Tables *t)
{
    /* Lines that PIRQs and the SCI may be routed to: level. */
    static const uint8_t level_irqs[] = { 5, 9, 10, 11 };
    GByteArray *b = t->bytes;
    guint at = begin_table(t, "APIC", 5);
    bool x2apic = false;

    put(b, LAPIC_BASE, 4);
    put(b, t->config->pic ? MADT_PCAT_COMPAT : 0, 4);
    for (unsigned i = 0; i < t->config->cpus; i++)
        x2apic |= put_cpu(b, i, t->config->apic_ids[i]);
    put(b, MADT_IOAPIC, 1);
    put(b, 12, 1);
    put(b, 0, 2);                           /* id 0 */
    put(b, IOAPIC_BASE, 4);
    put(b, 0, 4);                           /* first GSI */
    put_override(b, 0, 2, MPS_CONFORMS);
    for (unsigned i = 0; i < G_N_ELEMENTS(level_irqs); i++)
        put_override(b, level_irqs[i], level_irqs[i], MPS_LEVEL_HIGH);
    put_nmis(b, x2apic);
    end_listed_table(t, at);
}

/* ---- the small ones ---- */

/* PCI Firmware 3.2, 4.1.2. */
static void build_mcfg(Tables *t)
{
    guint at = begin_table(t, "MCFG", 1);

    put_zeros(t->bytes, 8);
    put(t->bytes, t->config->ecam_base, 8);
    put(t->bytes, 0, 2);                    /* segment */
    put(t->bytes, 0, 1);                    /* first and last bus */
    put(t->bytes, 255, 1);
    put_zeros(t->bytes, 4);
    end_listed_table(t, at);
}

/* IA-PC HPET 1.0a, 3.2.4. */
static void build_hpet(Tables *t)
{
    guint at = begin_table(t, "HPET", 1);

    put(t->bytes, HPET_BLOCK_ID, 4);
    put(t->bytes, 0, 1);                    /* GAS: memory */
    put_zeros(t->bytes, 3);
    put(t->bytes, HPET_BASE, 8);
    put_zeros(t->bytes, 1 + 2 + 1);         /* number, minimum tick, page protection */
    end_listed_table(t, at);
}

/* Windows ACPI Emulated Devices Table 1.0. */
static void build_waet(Tables *t)
{
    guint at = begin_table(t, "WAET", 1);

    put(t->bytes, 2, 4);                    /* one read of the ACPI timer is enough */
    end_listed_table(t, at);
}

static uint32_t build_xsdt(Tables *t)
{
    guint at = begin_table(t, "XSDT", 1);

    for (unsigned i = 0; i < t->count; i++)
        put(t->bytes, t->list[i], 8);
    return end_table(t, at);
}

static void build_rsdp(uint8_t rsdp[ACPI_RSDP_SIZE], uint32_t xsdt)
{
    memset(rsdp, 0, ACPI_RSDP_SIZE);
    memcpy(rsdp, "RSD PTR ", 8);
    memcpy(rsdp + 9, OEM_ID, 6);
    rsdp[15] = 2;                           /* revision */
    st_le32(rsdp + 20, ACPI_RSDP_SIZE);
    st_le64(rsdp + 24, xsdt);
    rsdp[8] = checksum(rsdp, 20);
    rsdp[32] = checksum(rsdp, ACPI_RSDP_SIZE);
}

static void build_facs(uint8_t facs[ACPI_FACS_SIZE])
{
    memset(facs, 0, ACPI_FACS_SIZE);
    memcpy(facs, "FACS", 4);
    st_le32(facs + 4, ACPI_FACS_SIZE);
    facs[32] = 2;                           /* version */
}

GByteArray *acpi_build(const AcpiConfig *config, const AcpiPlace *place,
                       uint8_t rsdp[ACPI_RSDP_SIZE], uint8_t facs[ACPI_FACS_SIZE])
{
    Tables t = { .config = config, .place = place, .bytes = g_byte_array_new() };
    g_autoptr(GByteArray) code = acpi_build_dsdt(config);

    guint at = begin_table(&t, "DSDT", 2);
    g_byte_array_append(t.bytes, code->data, code->len);
    t.dsdt = end_table(&t, at);
    build_fadt(&t);
    build_madt(&t);
    build_mcfg(&t);
    if (config->hpet)
        build_hpet(&t);
    build_waet(&t);
    build_rsdp(rsdp, build_xsdt(&t));
    build_facs(facs);
    return t.bytes;
}

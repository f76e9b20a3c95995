/* The DSDT: what the board's devices are and which resources they use, in AML. */
#include "hw/x86/acpi.h"
#include "hw/x86/aml.h"
#include "hw/x86/ich9.h"
#include "hw/x86/memmap.h"

#define PCI_SLOTS 32
#define PCI_PINS 4
#define PIRQS 8

/* ---- the host bridge ---- */

/* PCI Firmware 3.2, 4.5: the guest may have all of PCI Express's native features. */
static void add_osc(Aml *a)
{
    static const struct { const char *name; unsigned offset; } words[] = {
        { "CDW2", 4 }, { "CDW3", 8 },
    };

    aml_method(a, "_OSC", 4, true);
    aml_op(a, AML_CREATE_DWORD_FIELD), aml_arg(a, 3), aml_int(a, 0), aml_ref(a, "CDW1");
    aml_if(a), aml_op(a, AML_LEQUAL), aml_arg(a, 0);
    aml_uuid(a, "33db4d5b-1ff7-401c-9657-7441c03dd766");
    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++) {
        aml_op(a, AML_CREATE_DWORD_FIELD), aml_arg(a, 3);
        aml_int(a, words[i].offset), aml_ref(a, words[i].name);
    }
    /* Local0 = CDW3 & 0x1F: hot-plug, SHPC, PME, AER, capability structure */
    aml_op(a, AML_AND), aml_ref(a, "CDW3"), aml_int(a, 0x1f), aml_local(a, 0);
    aml_if(a), aml_op(a, AML_LNOT), aml_op(a, AML_LEQUAL), aml_arg(a, 1), aml_int(a, 1);
    aml_op(a, AML_OR), aml_ref(a, "CDW1"), aml_int(a, 0x08), aml_ref(a, "CDW1"); /* revision */
    aml_end(a);
    aml_if(a), aml_op(a, AML_LNOT), aml_op(a, AML_LEQUAL), aml_ref(a, "CDW3"), aml_local(a, 0);
    aml_op(a, AML_OR), aml_ref(a, "CDW1"), aml_int(a, 0x10), aml_ref(a, "CDW1"); /* masked */
    aml_end(a);
    aml_op(a, AML_STORE), aml_local(a, 0), aml_ref(a, "CDW3");
    aml_end(a);
    aml_else(a);
    aml_op(a, AML_OR), aml_ref(a, "CDW1"), aml_int(a, 0x04), aml_ref(a, "CDW1"); /* UUID */
    aml_end(a);
    aml_op(a, AML_RETURN), aml_arg(a, 3);
    aml_end(a);
}

static void add_host_resources(Aml *a, const AcpiConfig *c)
{
    aml_name(a, "_CRS"), aml_resources(a);
    aml_word_range(a, AML_BUS_NUMBERS, 0, 255);
    aml_io(a, 0xcf8, 0xcf8, 1, 8);
    aml_word_range(a, AML_IO_RANGE, 0, 0x0cf7);
    aml_word_range(a, AML_IO_RANGE, 0x0d00, 0xffff);
    aml_dword_range(a, AML_MEM_CACHED, VGA_BASE, VGA_BASE + VGA_SIZE - 1);
    if (c->pci_below.max)
        aml_dword_range(a, AML_MEM_RANGE, c->pci_below.min, c->pci_below.max);
    aml_dword_range(a, AML_MEM_RANGE, c->pci_32.min, c->pci_32.max);
    if (c->pci_64.max)
        aml_qword_range(a, AML_MEM_CACHED, c->pci_64.min, c->pci_64.max);
    aml_end(a);
}

/* One _PRT: by link devices for the PIC, by GSI for the IOAPIC. */
static void add_prt(Aml *a, const AcpiConfig *c, const char *name, bool by_gsi)
{
    char link[] = "ISA.LNKA";

    aml_name(a, name), aml_package(a, PCI_SLOTS * PCI_PINS);
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
        for (unsigned pin = 0; pin < PCI_PINS; pin++) {
            aml_package(a, 4);
            aml_int(a, slot << 16 | 0xffff), aml_int(a, pin);
            link[7] = 'A' + c->pci_link(slot, pin);
            if (by_gsi)
                aml_int(a, 0), aml_int(a, c->pci_gsi(slot, pin));
            else
                aml_ref(a, link), aml_int(a, 0);
            aml_end(a);
        }
    }
    aml_end(a);
}

static void add_interrupt_routing(Aml *a, const AcpiConfig *c)
{
    add_prt(a, c, "PRTA", true);
    if (c->pic)
        add_prt(a, c, "PRTP", false);
    aml_method(a, "_PRT", 0, false);
    if (c->pic) {
        aml_if(a), aml_op(a, AML_LEQUAL), aml_ref(a, "\\PICF"), aml_int(a, 0);
        aml_op(a, AML_RETURN), aml_ref(a, "PRTP");
        aml_end(a);
    }
    aml_op(a, AML_RETURN), aml_ref(a, "PRTA");
    aml_end(a);
}

/* ---- PCI interrupt links (6.2.13): the LPC bridge's PIRQ registers ---- */

/* IQCR(register) is the _CRS of a link whose register has that value. */
static void add_link_method(Aml *a)
{
    const uint32_t none = 0;

    aml_method(a, "IQCR", 1, true);
    aml_name(a, "PRR0"), aml_resources(a), aml_interrupts(a, &none, 1), aml_end(a);
    aml_op(a, AML_CREATE_DWORD_FIELD), aml_ref(a, "PRR0"), aml_int(a, AML_INTERRUPT_OFFSET);
    aml_ref(a, "PRRI");
    aml_if(a), aml_op(a, AML_LLESS), aml_arg(a, 0), aml_int(a, PIRQ_OFF);
    aml_op(a, AML_STORE), aml_arg(a, 0), aml_ref(a, "PRRI");
    aml_end(a);
    aml_op(a, AML_RETURN), aml_ref(a, "PRR0");
    aml_end(a);
}

static void add_link(Aml *a, unsigned n)
{
    static const uint32_t choices[] = { 5, 10, 11 };
    const char link[] = { 'L', 'N', 'K', 'A' + n, 0 }, reg[] = { 'P', 'R', 'Q', 'A' + n, 0 };

    aml_device(a, link);
    aml_name(a, "_HID"), aml_eisaid(a, "PNP0C0F");
    aml_name(a, "_UID"), aml_int(a, n);
    aml_name(a, "_PRS"), aml_resources(a), aml_interrupts(a, choices, G_N_ELEMENTS(choices));
    aml_end(a);
    aml_method(a, "_STA", 0, false);
    aml_if(a), aml_op(a, AML_AND), aml_ref(a, reg), aml_int(a, PIRQ_OFF), aml_op(a, AML_NO_TARGET);
    aml_op(a, AML_RETURN), aml_int(a, 0x09);
    aml_end(a);
    aml_op(a, AML_RETURN), aml_int(a, 0x0b);
    aml_end(a);
    aml_method(a, "_DIS", 0, false);
    aml_op(a, AML_OR), aml_ref(a, reg), aml_int(a, PIRQ_OFF), aml_ref(a, reg);
    aml_end(a);
    aml_method(a, "_CRS", 0, false);
    aml_op(a, AML_RETURN), aml_ref(a, "IQCR"), aml_ref(a, reg);
    aml_end(a);
    aml_method(a, "_SRS", 1, true);
    aml_op(a, AML_CREATE_DWORD_FIELD), aml_arg(a, 0), aml_int(a, AML_INTERRUPT_OFFSET);
    aml_ref(a, "PRRI");
    aml_op(a, AML_STORE), aml_ref(a, "PRRI"), aml_ref(a, reg);
    aml_end(a);
    aml_end(a);
}

static void add_pirq_fields(Aml *a)
{
    static const char *const names[PIRQS] = {
        "PRQA", "PRQB", "PRQC", "PRQD", "PRQE", "PRQF", "PRQG", "PRQH",
    };

    aml_region(a, "PIRQ", AML_PCI_CONFIG, LPC_PIRQA_ROUT, LPC_PIRQE_ROUT + 4 - LPC_PIRQA_ROUT);
    aml_field(a, "PIRQ", AML_ACC_BYTE);
    for (unsigned n = 0; n < PIRQS; n++) {
        if (n == 4)
            aml_field_bits(a, NULL, 8 * (LPC_PIRQE_ROUT - LPC_PIRQA_ROUT - 4));
        aml_field_bits(a, names[n], 8);
    }
    aml_end(a);
}

/* ---- devices behind the LPC bridge ---- */

static void add_i8042(Aml *a)
{
    aml_device(a, "KBD");
    aml_name(a, "_HID"), aml_eisaid(a, "PNP0303");
    aml_name(a, "_CRS"), aml_resources(a);
    aml_io(a, 0x60, 0x60, 1, 1);
    aml_io(a, 0x64, 0x64, 1, 1);
    aml_irq(a, 1);
    aml_end(a);
    aml_end(a);
    aml_device(a, "MOU");
    aml_name(a, "_HID"), aml_eisaid(a, "PNP0F13");
    aml_name(a, "_CRS"), aml_resources(a), aml_irq(a, 12), aml_end(a);
    aml_end(a);
}

static void add_rtc(Aml *a)
{
    aml_device(a, "RTC");
    aml_name(a, "_HID"), aml_eisaid(a, "PNP0B00");
    aml_name(a, "_CRS"), aml_resources(a);
    aml_io(a, 0x70, 0x70, 1, 8);
    aml_irq(a, 8);
    aml_end(a);
    aml_end(a);
}

static void add_com(Aml *a, unsigned index, uint16_t port, unsigned irq)
{
    const char name[] = { 'C', 'O', 'M', '1' + index, 0 };

    aml_device(a, name);
    aml_name(a, "_HID"), aml_eisaid(a, "PNP0501");
    aml_name(a, "_UID"), aml_int(a, index + 1);
    aml_name(a, "_CRS"), aml_resources(a);
    aml_io(a, port, port, 1, 8);
    aml_irq(a, irq);
    aml_end(a);
    aml_end(a);
}

static void add_pvpanic(Aml *a, uint16_t port)
{
    aml_device(a, "PEVT");
    aml_name(a, "_HID"), aml_string(a, "QEMU0001");
    aml_name(a, "_CRS"), aml_resources(a), aml_io(a, port, port, 1, 1), aml_end(a);
    aml_region(a, "PEOR", AML_SYSTEM_IO, port, 1);
    aml_field(a, "PEOR", AML_ACC_BYTE), aml_field_bits(a, "PEPT", 8), aml_end(a);
    aml_name(a, "_STA"), aml_int(a, 0x0f);
    aml_method(a, "RDPT", 0, false);
    aml_op(a, AML_STORE), aml_ref(a, "PEPT"), aml_local(a, 0);
    aml_op(a, AML_RETURN), aml_local(a, 0);
    aml_end(a);
    aml_method(a, "WRPT", 1, false);
    aml_op(a, AML_STORE), aml_arg(a, 0), aml_ref(a, "PEPT");
    aml_end(a);
    aml_end(a);
}

static void add_lpc(Aml *a, const AcpiConfig *c)
{
    aml_device(a, "ISA");
    aml_name(a, "_ADR"), aml_int(a, ICH9_LPC_SLOT << 16);
    if (c->pic) {
        add_pirq_fields(a);
        add_link_method(a);
        for (unsigned n = 0; n < PIRQS; n++)
            add_link(a, n);
    }
    if (c->i8042)
        add_i8042(a);
    if (c->rtc)
        add_rtc(a);
    for (unsigned i = 0; i < ACPI_COM_PORTS; i++)
        if (c->com[i].port)
            add_com(a, i, c->com[i].port, c->com[i].irq);
    if (c->pvpanic_port)
        add_pvpanic(a, c->pvpanic_port);
    aml_end(a);
}

/* ---- the rest of the board ---- */

/* What is decoded and belongs to no other device: the ECAM, the chipset's own registers. */
static void add_motherboard(Aml *a, const AcpiConfig *c)
{
    aml_device(a, "DRAC");
    aml_name(a, "_HID"), aml_eisaid(a, "PNP0C01");
    aml_name(a, "_CRS"), aml_resources(a);
    aml_memory32(a, true, c->ecam_base, ECAM_SIZE);
    aml_memory32(a, true, RCBA_BASE, RCBA_SIZE);
    aml_io(a, c->pm_base, c->pm_base, 1, PM_IO_SIZE);
    aml_io(a, ACPI_SMI_PORT, ACPI_SMI_PORT, 1, 2);
    aml_end(a);
    aml_end(a);
}

static void add_hpet(Aml *a)
{
    aml_device(a, "HPET");
    aml_name(a, "_HID"), aml_eisaid(a, "PNP0103");
    aml_name(a, "_UID"), aml_int(a, 0);
    aml_name(a, "_CRS"), aml_resources(a), aml_memory32(a, false, HPET_BASE, HPET_SIZE), aml_end(a);
    aml_end(a);
}

static void add_cpus(Aml *a, unsigned cpus)
{
    aml_device(a, "CPUS");
    aml_name(a, "_HID"), aml_string(a, "ACPI0010");
    aml_name(a, "_CID"), aml_eisaid(a, "PNP0A05");
    for (unsigned i = 0; i < cpus; i++) {
        g_autofree char *name = g_strdup_printf("C%03X", i);
        aml_device(a, name);
        aml_name(a, "_HID"), aml_string(a, "ACPI0007");
        aml_name(a, "_UID"), aml_int(a, i);
        aml_end(a);
    }
    aml_end(a);
}

/* PICF: which interrupt controller the guest said it uses; 0: the PIC (5.8.1, _PIC). */
static void add_pic_method(Aml *a)
{
    aml_name(a, "PICF"), aml_int(a, 0);
    aml_method(a, "_PIC", 1, false);
    aml_op(a, AML_STORE), aml_arg(a, 0), aml_ref(a, "PICF");
    aml_end(a);
}

static void add_s5(Aml *a)
{
    aml_name(a, "\\_S5"), aml_package(a, 4);
    aml_int(a, ACPI_S5_SLP_TYP), aml_int(a, ACPI_S5_SLP_TYP), aml_int(a, 0), aml_int(a, 0);
    aml_end(a);
}

GByteArray *acpi_build_dsdt(const AcpiConfig *c)
{
    g_autoptr(Aml) a = aml_new();

    add_pic_method(a);
    aml_scope(a, "\\_SB");
    aml_device(a, "PCI0");
    aml_name(a, "_HID"), aml_eisaid(a, "PNP0A08");
    aml_name(a, "_CID"), aml_eisaid(a, "PNP0A03");
    aml_name(a, "_UID"), aml_int(a, 0);
    add_osc(a);
    add_host_resources(a, c);
    add_lpc(a, c);
    add_interrupt_routing(a, c);
    aml_end(a);
    add_motherboard(a, c);
    if (c->hpet)
        add_hpet(a);
    add_cpus(a, c->cpus);
    aml_end(a);
    add_s5(a);

    GByteArray *code = g_byte_array_new();
    return g_byte_array_append(code, aml_bytes(a)->data, aml_bytes(a)->len);
}

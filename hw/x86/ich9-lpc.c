/*
 * ICH9 LPC interface bridge, D31:F0 (ICH9 data sheet, chapters 10 and 13): the ISA bus, PCI interrupt
 * routing, power management, the SMI command port, and the chipset's memory-mapped registers (RCRB).
 *
 * INTx routing is fixed: slots 0 to 24 are spread over PIRQE to PIRQH, the chipset's own slots 25 to
 * 31 have the reset value of their DnIR register, INTA to PIRQA and so on.
 */
#include "hw/x86/acpi.h"
#include "hw/x86/ich9.h"
#include "hw/x86/isa.h"
#include "hw/x86/memmap.h"
#include "src/base/trace.h"

#define PIRQS 8
#define FIRST_CHIPSET_SLOT 25
#define PIRQ_GSI_BASE 16
#define PMBASE_MASK 0xff80
#define RCBA_MASK 0xffffc000u
enum { GEN_PMCON_1_SMI_LOCK = 1 << 4 };

/* RCRB (10.1): offsets, and what is not zero. */
enum { RCRB_D31IR = 0x3140, RCRB_D25IR = 0x3150, RCRB_GCS = 0x3410 };
enum { DNIR_RESET = 0x3210, GCS_NO_REBOOT = 1 << 5 };

typedef struct Ich9Lpc {
    PciDevice pci;                          /* first: an Ich9Lpc * is a Device * */
    Ich9Pm pm;
    Region rcrb, apm_io;
    uint8_t apm_cnt, apm_sts;               /* ports 0xb2, 0xb3 */
    uint16_t pirq_count[PIRQS];             /* asserted pins of each */
    uint8_t pirq_isa[PIRQS];                /* ISA line that was told of it; 0: none */
    uint8_t disable_s3, disable_s4;         /* properties */
} Ich9Lpc;

static Machine *lpc_machine(const Ich9Lpc *s)
{
    return s->pci.dev.machine;
}

/* ---- PCI interrupts ---- */

uint8_t ich9_pirq(unsigned slot, unsigned pin)
{
    return slot < FIRST_CHIPSET_SLOT ? 4 + (slot + pin) % 4 : pin;
}

uint8_t ich9_pirq_gsi(unsigned slot, unsigned pin)
{
    return PIRQ_GSI_BASE + ich9_pirq(slot, pin);
}

static uint8_t *pirq_rout(const Ich9Lpc *s, unsigned pirq)
{
    return s->pci.config + (pirq < 4 ? LPC_PIRQA_ROUT : LPC_PIRQE_ROUT - 4) + pirq;
}

/* The ISA line of a PIRQ; 0: none.  Lines 0 to 2, 8 and 13 are reserved (13.1.12). */
static uint8_t pirq_to_isa(const Ich9Lpc *s, unsigned pirq)
{
    uint8_t rout = *pirq_rout(s, pirq), irq = rout & 0x0f;

    return rout & PIRQ_OFF || irq < 3 || irq == 8 || irq == 13 ? 0 : irq;
}

/* Several PIRQs may share an ISA line. */
static void update_isa_line(Ich9Lpc *s, uint8_t irq)
{
    bool level = false;

    if (!irq)
        return;
    for (unsigned n = 0; n < PIRQS; n++)
        level |= s->pirq_isa[n] == irq && s->pirq_count[n];
    irq_set(&lpc_machine(s)->gsi[irq], level);
}

static void lpc_set_intx(PciBus *bus, PciDevice *dev, unsigned pin, bool level)
{
    Ich9Lpc *s = bus->opaque;
    unsigned pirq = ich9_pirq(PCI_SLOT(dev->devfn), pin);
    uint16_t before = s->pirq_count[pirq];

    s->pirq_count[pirq] += level ? 1 : -1;
    if (!before == !s->pirq_count[pirq])
        return;
    TRACE(ich9_pirq, "PIRQ%c level %d", 'A' + pirq, level);
    irq_set(&lpc_machine(s)->gsi[PIRQ_GSI_BASE + pirq], level);
    update_isa_line(s, s->pirq_isa[pirq]);
}

static void pirq_routing_changed(Ich9Lpc *s)
{
    for (unsigned n = 0; n < PIRQS; n++) {
        uint8_t before = s->pirq_isa[n];
        s->pirq_isa[n] = pirq_to_isa(s, n);
        if (before == s->pirq_isa[n])
            continue;
        update_isa_line(s, before);
        update_isa_line(s, s->pirq_isa[n]);
    }
}

/* ---- what the configuration registers map ---- */

static void update_pm(Ich9Lpc *s)
{
    static const uint8_t sci_gsis[8] = { 9, 10, 11, 9, 20, 21, 22, 23 };   /* 13.1.9; 3: reserved */
    const uint8_t *config = s->pci.config;
    uint16_t base = ld_le16(config + LPC_PMBASE) & PMBASE_MASK;
    uint8_t control = config[LPC_ACPI_CNTL];
    bool on = control & ACPI_CNTL_ACPI_EN && base;

    memory_begin();
    if (region_is_mapped(&s->pm.io) && (!on || s->pm.io.offset != base))
        region_del(&s->pm.io);
    if (on && !region_is_mapped(&s->pm.io))
        region_add(&lpc_machine(s)->io_root, base, &s->pm.io);
    memory_commit();
    ich9_pm_set_sci(&s->pm, sci_gsis[control & ACPI_CNTL_SCI_SEL]);
}

static void update_rcba(Ich9Lpc *s)
{
    uint32_t rcba = ld_le32(s->pci.config + LPC_RCBA), base = rcba & RCBA_MASK;
    bool on = rcba & 1 && base;

    memory_begin();
    if (region_is_mapped(&s->rcrb) && (!on || s->rcrb.offset != base))
        region_del(&s->rcrb);
    if (on && !region_is_mapped(&s->rcrb))
        region_add_priority(&lpc_machine(s)->memory_root, base, &s->rcrb, 1);
    memory_commit();
}

static bool touches(unsigned offset, unsigned size, unsigned reg, unsigned reg_size)
{
    return offset < reg + reg_size && reg < offset + size;
}

static void lpc_config_written(PciDevice *dev, unsigned offset, unsigned size)
{
    Ich9Lpc *s = (Ich9Lpc *)dev;

    if (touches(offset, size, LPC_PMBASE, 4) || touches(offset, size, LPC_ACPI_CNTL, 1))
        update_pm(s);
    if (touches(offset, size, LPC_RCBA, 4))
        update_rcba(s);
    if (touches(offset, size, LPC_PIRQA_ROUT, 4) || touches(offset, size, LPC_PIRQE_ROUT, 4))
        pirq_routing_changed(s);
    if (dev->config[LPC_GEN_PMCON_1] & GEN_PMCON_1_SMI_LOCK)
        dev->wmask[LPC_GEN_PMCON_1] &= ~GEN_PMCON_1_SMI_LOCK;   /* until the next reset */
}

/* ---- RCRB ---- */

static uint64_t rcrb_read(void *opaque, uint64_t offset, unsigned size)
{
    TRACE(ich9_rcrb_read, "register 0x%x", (unsigned)offset);
    if (offset == RCRB_GCS)
        return GCS_NO_REBOOT;               /* strapped: there is no TCO watchdog */
    /* D31IR to D25IR are words in this order, D30IR is hardwired to 0. */
    if (offset >= RCRB_D31IR && offset <= RCRB_D25IR)
        return DNIR_RESET | (uint32_t)DNIR_RESET << 16;
    return 0;
}

static void rcrb_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    TRACE(ich9_rcrb_write, "register 0x%x value 0x%" PRIx64, (unsigned)offset, value);
    if (offset != RCRB_GCS)
        guest_error("ICH9-LPC", "RCRB register 0x%x cannot be written", (unsigned)offset);
}

static const IoOps rcrb_ops = {
    .read = rcrb_read,
    .write = rcrb_write,
    .guest = { .min = 1, .max = 8 },
    .device = { .min = 4, .max = 4 },
};

/* ---- APM_CNT and APM_STS (13.7.1): the way between ACPI and legacy mode ---- */

static uint64_t apm_read(void *opaque, uint64_t offset, unsigned size)
{
    Ich9Lpc *s = opaque;

    return offset ? s->apm_sts : s->apm_cnt;
}

static void apm_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    Ich9Lpc *s = opaque;

    TRACE(ich9_apm_write, "port 0x%x value 0x%02x", ACPI_SMI_PORT + (unsigned)offset, (unsigned)value);
    if (offset) {
        s->apm_sts = value;
        return;
    }
    s->apm_cnt = value;
    if (value == ACPI_SMI_ENABLE || value == ACPI_SMI_DISABLE)
        ich9_pm_set_acpi_mode(&s->pm, value == ACPI_SMI_ENABLE);
}

static const IoOps apm_ops = {
    .read = apm_read,
    .write = apm_write,
    .guest = { .min = 1, .max = 2 },
    .device = { .min = 1, .max = 1 },
};

/* ---- life ---- */

void ich9_lpc_power_button(PciDevice *lpc)
{
    ich9_pm_power_button(&((Ich9Lpc *)lpc)->pm);
}

void ich9_lpc_firmware_setup(PciDevice *lpc)
{
    static const uint8_t irqs[PIRQS] = { 10, 10, 11, 11, 10, 10, 11, 11 };

    pci_config_write(lpc, LPC_PMBASE, PM_IO_BASE, 4);
    pci_config_write(lpc, LPC_ACPI_CNTL, ACPI_CNTL_ACPI_EN, 1);
    pci_config_write(lpc, LPC_RCBA, RCBA_BASE | 1, 4);
    for (unsigned n = 0; n < PIRQS; n++)
        pci_config_write(lpc, pirq_rout((Ich9Lpc *)lpc, n) - lpc->config, irqs[n], 1);
}

static void lpc_set_masks(PciDevice *dev)
{
    st_le32(dev->config + LPC_PMBASE, 1);   /* I/O space */
    st_le32(dev->wmask + LPC_PMBASE, PMBASE_MASK);
    dev->wmask[LPC_ACPI_CNTL] = ACPI_CNTL_ACPI_EN | ACPI_CNTL_SCI_SEL;
    for (unsigned n = 0; n < PIRQS; n++) {
        unsigned reg = pirq_rout((Ich9Lpc *)dev, n) - dev->config;
        dev->config[reg] = PIRQ_OFF;
        dev->wmask[reg] = PIRQ_OFF | 0x0f;
    }
    st_le16(dev->wmask + LPC_GEN_PMCON_1, GEN_PMCON_1_SMI_LOCK);
    st_le32(dev->wmask + LPC_RCBA, RCBA_MASK | 1);
}

static void lpc_reset(Object *obj)
{
    Ich9Lpc *s = (Ich9Lpc *)obj;

    lpc_set_masks(&s->pci);
    s->pci.config[LPC_ACPI_CNTL] = 0;
    st_le16(s->pci.config + LPC_GEN_PMCON_1, 0);
    st_le32(s->pci.config + LPC_RCBA, 0);
    s->apm_cnt = s->apm_sts = 0;
    ich9_pm_reset(&s->pm);
    update_pm(s);
    update_rcba(s);
    pirq_routing_changed(s);
}

static bool lpc_realize(Object *obj, GError **error)
{
    Ich9Lpc *s = (Ich9Lpc *)obj;
    Machine *m = lpc_machine(s);
    PciBus *root = PCI_BUS(s->pci.dev.bus);

    m->isa_bus = bus_new("isa-bus", &s->pci.dev, m, "isa.0", error);
    if (!m->isa_bus)
        return false;
    lpc_set_masks(&s->pci);
    ich9_pm_init(&s->pm, obj, m);
    region_init_io(&s->rcrb, obj, &rcrb_ops, s, "ich9-rcrb", RCBA_SIZE);
    region_init_io(&s->apm_io, obj, &apm_ops, s, "ich9-apm", 2);
    region_add(&m->io_root, ACPI_SMI_PORT, &s->apm_io);
    root->opaque = s;
    root->set_intx = lpc_set_intx;
    return true;
}

static void lpc_unrealize(Object *obj)
{
    Ich9Lpc *s = (Ich9Lpc *)obj;

    PCI_BUS(s->pci.dev.bus)->set_intx = NULL;
    lpc_machine(s)->isa_bus = NULL;
    ich9_pm_destroy(&s->pm);
    region_destroy(&s->rcrb);
    region_destroy(&s->apm_io);
}

static bool lpc_post_load(void *obj, uint32_t version, GError **error)
{
    Ich9Lpc *s = obj;

    update_pm(s);
    update_rcba(s);
    pirq_routing_changed(s);
    ich9_pm_state_loaded(&s->pm);
    return true;
}

static const StateField lpc_fields[] = {
    FIELD_STRUCT(Ich9Lpc, pm, ich9_pm_state),
    FIELD(Ich9Lpc, apm_cnt),
    FIELD(Ich9Lpc, apm_sts),
    {}
};
static const StateTable lpc_state = { .fields = lpc_fields, .post_load = lpc_post_load };

static const Property lpc_props[] = {
    PROP("disable_s3", Ich9Lpc, disable_s3, .def.u = 1, .min = 1, .max = 1,
         .help = "suspend to RAM is not offered: always 1"),
    PROP("disable_s4", Ich9Lpc, disable_s4, .def.u = 1, .min = 1, .max = 1,
         .help = "hibernation by firmware is not offered: always 1"),
    {}
};

static const PciDeviceOps lpc_ops = {
    .vendor_id = 0x8086,
    .device_id = 0x2918,
    .subsystem_vendor_id = 0x1af4,
    .subsystem_id = 0x1100,
    .class_code = 0x060100,
    .revision = 2,
    .no_hotplug = true,
    .config_written = lpc_config_written,
};

static const Type lpc_type = {
    .name = "ICH9-LPC",
    .parent = "pci-device",
    .help = "ICH9 LPC bridge",
    .size = sizeof(Ich9Lpc),
    .ops = &lpc_ops,
    .props = lpc_props,
    .state = &lpc_state,
    .realize = lpc_realize,
    .unrealize = lpc_unrealize,
    .reset = lpc_reset,
};
TYPE_REGISTER(lpc_type)

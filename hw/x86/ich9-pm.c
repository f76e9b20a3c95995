/*
 * ICH9 ACPI power management: PM1 event and control blocks, the ACPI timer, GPE0, SMI_EN (ICH9 data
 * sheet, 13.8.3; ACPI 6.4, 4.8).
 *
 * All registers but the timer are bytes with two masks: the bits that a write sets, and the ones that
 * a written 1 clears.  There is no system management mode: SMI_EN reads back, and no SMI comes.
 */
#include <string.h>
#include "hw/x86/acpi.h"
#include "hw/x86/ich9.h"
#include "hw/x86/memmap.h"
#include "src/base/trace.h"

enum {                                      /* PM1_STS and PM1_EN */
    TMROF = 1 << 0, GBL = 1 << 5, PWRBTN = 1 << 8, RTC = 1 << 10, PRBTNOR = 1 << 11,
    PCIEXPWAK = 1 << 14, WAK = 1 << 15,
};
enum { PM1_STS_BITS = TMROF | GBL | PWRBTN | RTC | PRBTNOR | PCIEXPWAK | WAK };
enum { PM1_EN_BITS = TMROF | GBL | PWRBTN | RTC };
enum { CNT_SCI_EN = 1 << 0, CNT_BM_RLD = 1 << 1, CNT_SLP_TYP_SHIFT = 10, CNT_SLP_EN = 1 << 13 };
#define CNT_SLP_TYP (7 << CNT_SLP_TYP_SHIFT)
#define SMI_EN_BITS 0x0000e03f              /* GBL, EOS, BIOS, LEGACY_USB, SLP, APMC, MCSMI, TCO … */

#define PM_TIMER_HZ 3579545
#define PM_TIMER_MASK 0xffffff
#define PM_TIMER_HALF 0x800000              /* ticks between two changes of the top bit */
#define NS_PER_S 1000000000ll

static const uint8_t write_mask[PM_REGS_SIZE] = {
    [PM1_EN] = PM1_EN_BITS & 0xff, [PM1_EN + 1] = PM1_EN_BITS >> 8,
    [PM1_CNT] = CNT_SCI_EN | CNT_BM_RLD, [PM1_CNT + 1] = CNT_SLP_TYP >> 8,
    [GPE0_EN ... GPE0_EN + GPE0_LENGTH / 2 - 1] = 0xff,
    [SMI_EN] = SMI_EN_BITS & 0xff, [SMI_EN + 1] = SMI_EN_BITS >> 8,
};
static const uint8_t clear_mask[PM_REGS_SIZE] = {
    [PM1_STS] = PM1_STS_BITS & 0xff, [PM1_STS + 1] = PM1_STS_BITS >> 8,
    [GPE0_STS ... GPE0_STS + GPE0_LENGTH / 2 - 1] = 0xff,
    [SMI_STS ... SMI_STS + 3] = 0xff,
};

static int64_t timer_ticks(int64_t ns)
{
    return (__int128)ns * PM_TIMER_HZ / NS_PER_S;
}

static int64_t ticks_to_ns(int64_t ticks)
{
    return ((__int128)ticks * NS_PER_S + PM_TIMER_HZ - 1) / PM_TIMER_HZ;
}

static uint16_t reg16(const Ich9Pm *pm, unsigned offset)
{
    return ld_le16(pm->regs + offset);
}

static void update_sci(Ich9Pm *pm)
{
    bool level = reg16(pm, PM1_STS) & reg16(pm, PM1_EN) & PM1_EN_BITS;

    for (unsigned i = 0; i < GPE0_LENGTH / 2; i++)
        level |= pm->regs[GPE0_STS + i] & pm->regs[GPE0_EN + i];
    irq_set(&pm->machine->gsi[pm->sci_gsi], level && pm->regs[PM1_CNT] & CNT_SCI_EN);
}

/* Sets TMROF_STS if the top bit has changed, and finds out when it does next. */
static void catch_up_overflow(Ich9Pm *pm)
{
    int64_t now = machine_clock_ns(pm->machine);

    if (now < pm->overflow_ns)
        return;
    if (pm->overflow_ns)
        pm->regs[PM1_STS] |= TMROF;
    pm->overflow_ns = ticks_to_ns((timer_ticks(now) / PM_TIMER_HALF + 1) * PM_TIMER_HALF);
}

static void arm_overflow(Ich9Pm *pm)
{
    if (pm->regs[PM1_EN] & TMROF && !(pm->regs[PM1_STS] & TMROF))
        guest_timer_set(&pm->overflow, pm->overflow_ns);
    else
        guest_timer_cancel(&pm->overflow);
}

static void overflow_fired(void *opaque)
{
    Ich9Pm *pm = opaque;

    catch_up_overflow(pm);
    update_sci(pm);
    arm_overflow(pm);
}

static void sleep_now(Ich9Pm *pm)
{
    unsigned type = (reg16(pm, PM1_CNT) & CNT_SLP_TYP) >> CNT_SLP_TYP_SHIFT;

    TRACE(ich9_pm_sleep, "type %u", type);
    if (type == ACPI_S5_SLP_TYP)
        machine_request(pm->machine, MACHINE_POWEROFF, "ACPI soft-off");
    else
        guest_error("ICH9-LPC", "sleep type %u, which \\_S5 does not name", type);
}

static uint64_t pm_read(void *opaque, uint64_t offset, unsigned size)
{
    Ich9Pm *pm = opaque;

    if (offset >= PM_REGS_SIZE)
        return 0;                           /* TCO: not there (GCS.NO_REBOOT says so) */
    if (offset == PM1_STS)
        catch_up_overflow(pm);
    TRACE(ich9_pm_read, "register 0x%02x value 0x%02x", (unsigned)offset, pm->regs[offset]);
    return pm->regs[offset];
}

static void pm_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    Ich9Pm *pm = opaque;

    TRACE(ich9_pm_write, "register 0x%02x value 0x%02x", (unsigned)offset, (unsigned)value);
    if (offset >= PM_REGS_SIZE)
        return;
    if (offset <= PM1_EN)
        catch_up_overflow(pm);
    uint8_t *reg = &pm->regs[offset];
    *reg = ((*reg & ~write_mask[offset]) | (value & write_mask[offset])) &
           ~(value & clear_mask[offset]);
    update_sci(pm);
    arm_overflow(pm);
    if (offset == PM1_CNT + 1 && value & CNT_SLP_EN >> 8)
        sleep_now(pm);
}

static const IoOps pm_ops = {
    .read = pm_read,
    .write = pm_write,
    .guest = { .min = 1, .max = 4 },
    .device = { .min = 1, .max = 1 },
};

static uint64_t timer_read(void *opaque, uint64_t offset, unsigned size)
{
    Ich9Pm *pm = opaque;

    return timer_ticks(machine_clock_ns(pm->machine)) & PM_TIMER_MASK;
}

static void timer_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    guest_error("ICH9-LPC", "PM_TMR is read-only");
}

static const IoOps timer_ops = {
    .read = timer_read,
    .write = timer_write,
    .guest = { .min = 1, .max = 4 },
    .device = { .min = 4, .max = 4 },
};

void ich9_pm_set_sci(Ich9Pm *pm, unsigned gsi)
{
    if (gsi == pm->sci_gsi)
        return;
    irq_set(&pm->machine->gsi[pm->sci_gsi], false);
    pm->sci_gsi = gsi;
    update_sci(pm);
}

void ich9_pm_set_acpi_mode(Ich9Pm *pm, bool on)
{
    pm->regs[PM1_CNT] = (pm->regs[PM1_CNT] & ~CNT_SCI_EN) | (on ? CNT_SCI_EN : 0);
    update_sci(pm);
}

void ich9_pm_power_button(Ich9Pm *pm)
{
    TRACE(ich9_pm_power_button, "enabled %d", !!(reg16(pm, PM1_EN) & PWRBTN));
    pm->regs[PM1_STS + 1] |= PWRBTN >> 8;
    update_sci(pm);
}

void ich9_pm_reset(Ich9Pm *pm)
{
    memset(pm->regs, 0, sizeof(pm->regs));
    pm->overflow_ns = 0;
    catch_up_overflow(pm);
    guest_timer_cancel(&pm->overflow);
    update_sci(pm);
}

void ich9_pm_state_loaded(Ich9Pm *pm)
{
    for (unsigned i = 0; i < PM_REGS_SIZE; i++)
        pm->regs[i] &= write_mask[i] | clear_mask[i];
    arm_overflow(pm);
    update_sci(pm);
}

void ich9_pm_init(Ich9Pm *pm, Object *owner, Machine *machine)
{
    pm->machine = machine;
    pm->sci_gsi = ACPI_SCI_IRQ;
    guest_timer_init(&pm->overflow, machine, overflow_fired, pm);
    region_init_container(&pm->io, owner, "ich9-pm", PM_IO_SIZE);
    region_init_io(&pm->timer_io, owner, &timer_ops, pm, "ich9-pm-timer", 4);
    region_init_io(&pm->regs_io, owner, &pm_ops, pm, "ich9-pm-regs", PM_IO_SIZE);
    region_add(&pm->io, 0, &pm->regs_io);
    region_add_priority(&pm->io, PM_TMR, &pm->timer_io, 1);
}

void ich9_pm_destroy(Ich9Pm *pm)
{
    if (!pm->machine)
        return;
    guest_timer_destroy(&pm->overflow);
    region_destroy(&pm->io);
    region_destroy(&pm->timer_io);
    region_destroy(&pm->regs_io);
}

static const StateField pm_fields[] = {
    FIELD_BYTES(Ich9Pm, regs),
    FIELD_CLOCK(Ich9Pm, overflow_ns),
    {}
};
const StateTable ich9_pm_state = { .fields = pm_fields };

/*
 * HPET: a 100 MHz counter with three comparators (IA-PC HPET Specification 1.0a).
 *
 * The counter is the guest's clock in units of 10 ns; a comparator is a timer up to its next match.
 * With legacy replacement, comparators 0 and 1 take the places of the PIT and the RTC on the ISA
 * lines 0 and 8: the HPET stands before those lines, and lets the others through when it is off.
 *
 * Departure: a comparator that the counter has passed by less than 1 ms when it is set fires at once.
 * The guest's write may have come that much later than it was meant, and the next match is far away.
 */
#include "hw/core/device.h"
#include "hw/timer/guest-timer.h"
#include "hw/x86/memmap.h"
#include "src/base/trace.h"

enum {                                      /* 2.3.1 */
    REG_ID = 0x000, REG_CONFIG = 0x010, REG_STATUS = 0x020, REG_COUNTER = 0x0f0, REG_TIMER = 0x100,
    TIMER_STRIDE = 0x20, TIMER_CONFIG = 0x00, TIMER_COMPARATOR = 0x08, TIMER_ROUTE = 0x10,
};
enum { CONFIG_ENABLE = 1, CONFIG_LEGACY = 2 };
enum {                                      /* timer configuration, 2.3.8 */
    TN_LEVEL = 1 << 1, TN_ENABLE = 1 << 2, TN_PERIODIC = 1 << 3, TN_PERIODIC_CAP = 1 << 4,
    TN_SIZE_CAP = 1 << 5, TN_SETVAL = 1 << 6, TN_32BIT = 1 << 8, TN_ROUTE_SHIFT = 9,
    TN_ROUTE = 0x1f << TN_ROUTE_SHIFT, TN_FSB = 1 << 14, TN_FSB_CAP = 1 << 15,
};
#define TN_WRITABLE (TN_LEVEL | TN_ENABLE | TN_PERIODIC | TN_SETVAL | TN_32BIT | TN_ROUTE | TN_FSB)
#define TN_ROUTES ((1u << 2) | (1u << 8))   /* IOAPIC inputs that no PCI device shares */

#define TIMERS 3
#define TICK_NS 10
#define PERIOD_FS (TICK_NS * 1000000ull)
#define SLACK_TICKS (1000000 / TICK_NS)
#define MIN_INTERVAL_NS 20000               /* between two interrupts of a periodic timer */
#define LINES 2

typedef struct Hpet Hpet;
typedef struct HpetTimer {
    uint64_t config, comparator, period, route;
    GuestTimer timer;
    Hpet *hpet;
    uint8_t n;
} HpetTimer;

struct Hpet {
    Device dev;                             /* first: an Hpet * is a Device * */
    Region io;
    uint64_t config, status;
    uint64_t halted;                        /* the counter when it last stood still, */
    int64_t start_ns;                       /* and the guest's clock when it began to count from there */
    HpetTimer timers[TIMERS];
    /* ISA lines 0 and 8: what they led to, and what the PIT and the RTC want of them. */
    IrqLine beyond[LINES];
    bool wanted[LINES];
};
static const uint8_t legacy_lines[LINES] = { 0, 8 };

static Machine *hpet_machine(const Hpet *s)
{
    return s->dev.machine;
}

static bool counting(const Hpet *s)
{
    return s->config & CONFIG_ENABLE;
}

static bool legacy(const Hpet *s)
{
    return s->config & CONFIG_LEGACY;
}

static uint64_t counter(const Hpet *s)
{
    if (!counting(s))
        return s->halted;
    return s->halted + (uint64_t)(machine_clock_ns(hpet_machine(s)) - s->start_ns) / TICK_NS;
}

/* ---- interrupts ---- */

static void set_line(Hpet *s, const HpetTimer *t, bool level)
{
    unsigned route = (t->config & TN_ROUTE) >> TN_ROUTE_SHIFT;

    if (legacy(s) && t->n < LINES)
        irq_set(&s->beyond[t->n], level);
    else if (route == 8)
        irq_set(&s->beyond[1], level);
    else if (route == 2)
        irq_set(&s->beyond[0], level);      /* ISA line 0 is the IOAPIC's input 2 */
}

static void interrupt(Hpet *s, HpetTimer *t)
{
    IntrController *intr = hpet_machine(s)->intr;

    TRACE(hpet_interrupt, "timer %u config 0x%" PRIx64, t->n, t->config);
    if (t->config & TN_LEVEL)
        s->status |= 1u << t->n;            /* also while the interrupt is off */
    if (!(t->config & TN_ENABLE))
        return;
    if (t->config & TN_FSB && !(legacy(s) && t->n < LINES)) {
        if (intr)
            intr->ops->send_msi(intr, t->route >> 32, (uint32_t)t->route);
        return;
    }
    set_line(s, t, true);
    if (!(t->config & TN_LEVEL))
        set_line(s, t, false);
}

static void set_legacy_line(void *opaque, unsigned n, bool level)
{
    Hpet *s = opaque;

    s->wanted[n] = level;
    if (!legacy(s))
        irq_set(&s->beyond[n], level);
}

/* ---- comparators ---- */

static uint64_t size_mask(const HpetTimer *t)
{
    return t->config & TN_32BIT ? UINT32_MAX : UINT64_MAX;
}

/* @just_set: the guest has just chosen the comparator (see the departure above). */
static void arm(Hpet *s, HpetTimer *t, bool just_set)
{
    uint64_t now = counter(s), mask = size_mask(t);
    uint64_t ahead = (t->comparator - now) & mask, behind = (now - t->comparator) & mask;
    int64_t now_ns = machine_clock_ns(hpet_machine(s));

    if (!counting(s) || !(t->config & (TN_ENABLE | TN_LEVEL))) {
        guest_timer_cancel(&t->timer);
        return;
    }
    if (just_set && behind <= SLACK_TICKS)
        ahead = 0;
    else if (!ahead)
        ahead = mask;                       /* it has fired: the next match is a whole round away */
    if (ahead > (uint64_t)(INT64_MAX - now_ns) / TICK_NS)
        guest_timer_cancel(&t->timer);
    else
        guest_timer_set(&t->timer, now_ns + (int64_t)ahead * TICK_NS);
}

static void fired(void *opaque)
{
    HpetTimer *t = opaque;
    Hpet *s = t->hpet;
    uint64_t mask = size_mask(t), now = counter(s);

    interrupt(s, t);
    if (!(t->config & TN_PERIODIC) || !t->period) {
        arm(s, t, false);
        return;
    }
    /* Matches that are in the past already are one interrupt. */
    uint64_t behind = (now - t->comparator) & mask;
    if (behind <= mask / 2)
        t->comparator = (t->comparator + (behind / t->period + 1) * t->period) & mask;
    arm(s, t, false);
    int64_t soonest = machine_clock_ns(hpet_machine(s)) + MIN_INTERVAL_NS;
    if (t->timer.expire_ns >= 0 && t->timer.expire_ns < soonest)
        guest_timer_set(&t->timer, soonest);
}

/* ---- registers; all are 64 bits, and a write changes the bits of @mask ---- */

static uint64_t merge(uint64_t old, uint64_t value, uint64_t mask)
{
    return (old & ~mask) | (value & mask);
}

static void write_config(Hpet *s, uint64_t value)
{
    uint64_t before = s->config, now = counter(s);

    s->config = value & (CONFIG_ENABLE | CONFIG_LEGACY);
    uint64_t changed = before ^ s->config;
    if (changed & CONFIG_ENABLE) {
        s->halted = now;
        s->start_ns = machine_clock_ns(hpet_machine(s));
        for (unsigned n = 0; n < TIMERS; n++)
            arm(s, &s->timers[n], false);
    }
    for (unsigned n = 0; changed & CONFIG_LEGACY && n < LINES; n++)
        irq_set(&s->beyond[n], !legacy(s) && s->wanted[n]);
}

static void write_status(Hpet *s, uint64_t value)
{
    uint64_t cleared = s->status & value;

    s->status &= ~value;
    for (unsigned n = 0; n < TIMERS; n++)
        if (cleared >> n & 1 && s->timers[n].config & TN_LEVEL)
            set_line(s, &s->timers[n], false);
}

static void write_timer_config(Hpet *s, HpetTimer *t, uint64_t value)
{
    if (t->config & TN_LEVEL && s->status >> t->n & 1)
        set_line(s, t, false);              /* the line may become another */
    t->config = merge(t->config, value, TN_WRITABLE);
    if (t->config & TN_32BIT) {
        t->comparator &= UINT32_MAX;
        t->period &= UINT32_MAX;
    }
    if (!(t->config & TN_LEVEL))
        s->status &= ~(1ull << t->n);
    else if (t->config & TN_ENABLE && s->status >> t->n & 1)
        set_line(s, t, true);
    arm(s, t, true);
}

/* 2.3.9.2.2: of a periodic timer, the period, and with SETVAL the accumulator too, once. */
static void write_comparator(Hpet *s, HpetTimer *t, uint64_t value, uint64_t mask)
{
    bool periodic = t->config & TN_PERIODIC;

    if (!periodic || t->config & TN_SETVAL)
        t->comparator = merge(t->comparator, value, mask) & size_mask(t);
    if (periodic)
        t->period = merge(t->period, value, mask) & size_mask(t);
    t->config &= ~(uint64_t)TN_SETVAL;
    arm(s, t, true);
}

static uint64_t read_register(const Hpet *s, unsigned reg)
{
    switch (reg) {
    case REG_ID:
        return HPET_BLOCK_ID | PERIOD_FS << 32;
    case REG_CONFIG:
        return s->config;
    case REG_STATUS:
        return s->status;
    case REG_COUNTER:
        return counter(s);
    }
    if (reg < REG_TIMER || reg >= REG_TIMER + TIMERS * TIMER_STRIDE)
        return 0;
    const HpetTimer *t = &s->timers[(reg - REG_TIMER) / TIMER_STRIDE];
    switch (reg % TIMER_STRIDE) {
    case TIMER_CONFIG:
        return t->config;
    case TIMER_COMPARATOR:
        return t->comparator;
    case TIMER_ROUTE:
        return t->route;
    }
    return 0;
}

static void write_register(Hpet *s, unsigned reg, uint64_t value, uint64_t mask)
{
    switch (reg) {
    case REG_CONFIG:
        write_config(s, merge(s->config, value, mask));
        return;
    case REG_STATUS:
        write_status(s, value & mask);
        return;
    case REG_COUNTER:
        if (counting(s))                    /* 2.3.7: only while it is halted */
            guest_error("hpet", "the counter was written while it counts");
        else
            s->halted = merge(s->halted, value, mask);
        return;
    }
    if (reg < REG_TIMER || reg >= REG_TIMER + TIMERS * TIMER_STRIDE)
        return;
    HpetTimer *t = &s->timers[(reg - REG_TIMER) / TIMER_STRIDE];
    switch (reg % TIMER_STRIDE) {
    case TIMER_CONFIG:
        write_timer_config(s, t, merge(t->config, value, mask));
        break;
    case TIMER_COMPARATOR:
        write_comparator(s, t, value, mask);
        break;
    case TIMER_ROUTE:
        t->route = merge(t->route, value, mask);
        break;
    }
}

static uint64_t hpet_read(void *opaque, uint64_t offset, unsigned size)
{
    uint64_t value = read_register(opaque, offset & ~7) >> (offset & 4 ? 32 : 0);

    TRACE(hpet_read, "register 0x%03x size %u value 0x%" PRIx64, (unsigned)offset, size, value);
    return value;
}

static void hpet_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    unsigned shift = offset & 4 ? 32 : 0;
    uint64_t mask = size == 8 ? UINT64_MAX : (uint64_t)UINT32_MAX << shift;

    TRACE(hpet_write, "register 0x%03x size %u value 0x%" PRIx64, (unsigned)offset, size, value);
    write_register(opaque, offset & ~7, value << shift, mask);
}

static const IoOps hpet_ops = {
    .read = hpet_read,
    .write = hpet_write,
    .guest = { .min = 4, .max = 8 },
    .device = { .min = 4, .max = 8 },
};

/* ---- life ---- */

static void hpet_reset(Object *obj)
{
    Hpet *s = (Hpet *)obj;

    write_status(s, UINT64_MAX);
    write_config(s, 0);
    s->halted = 0;
    s->start_ns = 0;
    for (unsigned n = 0; n < TIMERS; n++) {
        HpetTimer *t = &s->timers[n];
        guest_timer_cancel(&t->timer);
        t->config = (uint64_t)TN_ROUTES << 32 | TN_PERIODIC_CAP | TN_SIZE_CAP | TN_FSB_CAP;
        t->comparator = UINT64_MAX;
        t->period = t->route = 0;
    }
}

static bool hpet_realize(Object *obj, GError **error)
{
    Hpet *s = (Hpet *)obj;
    Machine *m = hpet_machine(s);

    for (unsigned n = 0; n < LINES; n++) {
        s->beyond[n] = m->gsi[legacy_lines[n]];
        irq_line_init(&m->gsi[legacy_lines[n]], set_legacy_line, s, n);
    }
    for (unsigned n = 0; n < TIMERS; n++) {
        s->timers[n].hpet = s;
        s->timers[n].n = n;
        guest_timer_init(&s->timers[n].timer, m, fired, &s->timers[n]);
    }
    hpet_reset(obj);
    region_init_io(&s->io, obj, &hpet_ops, s, "hpet", HPET_SIZE);
    region_add(&m->memory_root, HPET_BASE, &s->io);
    return true;
}

static void hpet_unrealize(Object *obj)
{
    Hpet *s = (Hpet *)obj;

    for (unsigned n = 0; n < LINES; n++)
        hpet_machine(s)->gsi[legacy_lines[n]] = s->beyond[n];
    for (unsigned n = 0; n < TIMERS; n++)
        guest_timer_destroy(&s->timers[n].timer);
    region_destroy(&s->io);
}

static bool hpet_post_load(void *obj, uint32_t version, GError **error)
{
    Hpet *s = obj;

    for (unsigned n = 0; n < LINES; n++)
        irq_set(&s->beyond[n], !legacy(s) && s->wanted[n]);
    for (unsigned n = 0; n < TIMERS; n++) {
        HpetTimer *t = &s->timers[n];
        t->config = ((uint64_t)TN_ROUTES << 32 | TN_PERIODIC_CAP | TN_SIZE_CAP | TN_FSB_CAP) |
                    (t->config & TN_WRITABLE);
        t->comparator &= size_mask(t);
        t->period &= size_mask(t);
        arm(s, t, true);
        if (t->config & TN_LEVEL && t->config & TN_ENABLE && s->status >> n & 1)
            set_line(s, t, true);
    }
    return true;
}

static const StateField hpet_timer_fields[] = {
    FIELD(HpetTimer, config),
    FIELD(HpetTimer, comparator),
    FIELD(HpetTimer, period),
    FIELD(HpetTimer, route),
    {}
};
static const StateTable hpet_timer_state = { .fields = hpet_timer_fields };

static const StateField hpet_fields[] = {
    FIELD(Hpet, config, .max = CONFIG_ENABLE | CONFIG_LEGACY),
    FIELD(Hpet, status, .max = (1 << TIMERS) - 1),
    FIELD(Hpet, halted),
    FIELD_CLOCK(Hpet, start_ns),
    FIELD_STRUCTS(Hpet, timers, hpet_timer_state),
    {}
};
static const StateTable hpet_state = { .fields = hpet_fields, .post_load = hpet_post_load };

static const Type hpet_type = {
    .name = "hpet",
    .parent = "device",
    .help = "high precision event timers",
    .size = sizeof(Hpet),
    .state = &hpet_state,
    .realize = hpet_realize,
    .unrealize = hpet_unrealize,
    .reset = hpet_reset,
};
TYPE_REGISTER(hpet_type)

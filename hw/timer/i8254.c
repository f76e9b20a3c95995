/*
 * 82C54 programmable interval timer (Intel data sheet 231244) and port 0x61, NMI_SC (ICH9 data
 * sheet, 13.7.1): counter 0 is ISA line 0, counter 1 was for refresh, counter 2 is the speaker's,
 * whose gate and output are bits of port 0x61.
 *
 * A counter is its initial count and the guest's time at which it was loaded; all else follows.
 *
 * Departures: what a counter does on the next pulse of its clock, it does at once; and line 0 shows
 * the rising edges of counter 0's output only, which are what interrupts.  An edge that comes late is
 * made up for, up to a second.
 */
#include "hw/timer/guest-timer.h"
#include "hw/x86/isa.h"
#include "src/base/trace.h"
#include "src/base/util.h"

#define CLOCK_HZ 1193182u
#define NS_PER_S 1000000000u
#define MIN_INTERVAL_NS 20000               /* between two interrupts, whatever is asked for */
#define MAX_LATE_NS 1000000000ll            /* older edges are lost */
#define REFRESH_NS 15085                    /* of DRAM, on every PC since the AT */

enum { COUNTERS = 3, TICK = 0, SPEAKER = 2, PIT_IRQ = 0 };
enum { PIT_PORT = 0x40, PIT_PORTS = 4, CONTROL = 3, NMI_SC_PORT = 0x61 };
enum {                                      /* control word */
    BCD = 1 << 0, MODE_SHIFT = 1, MODE_MASK = 7, ACCESS_SHIFT = 4, ACCESS_MASK = 3,
    SELECT_SHIFT = 6, SELECT_READ_BACK = 3, READ_BACK_NO_COUNT = 1 << 5, READ_BACK_NO_STATUS = 1 << 4,
};
enum { ACCESS_LATCH, ACCESS_LOW, ACCESS_HIGH, ACCESS_BOTH };
enum { STATUS_OUT = 1 << 7, STATUS_NULL = 1 << 6 };
enum {                                      /* NMI_SC */
    NMI_SC_GATE2 = 1 << 0, NMI_SC_WRITABLE = 0x0f, NMI_SC_REFRESH = 1 << 4, NMI_SC_OUT2 = 1 << 5,
};
typedef enum Mode {
    TERMINAL_COUNT, ONE_SHOT, RATE, SQUARE_WAVE, SOFTWARE_STROBE, HARDWARE_STROBE, MODES
} Mode;
#define COUNT_MAX 0x10000

typedef struct Counter {
    uint8_t mode, access;                   /* Mode; ACCESS_*: 0 before the first control word */
    bool bcd, gate;
    /* What is written: CR, a count to be loaded.  null_count: it is not loaded yet. */
    uint32_t written;
    uint8_t low_byte;                       /* of a count whose high byte has not come */
    bool write_high;
    bool null_count;
    /* What counts: CE.  Not loaded: it stands at `held`. */
    bool loaded, counting;                  /* counting: the gate does not stop it */
    uint32_t count;                         /* as loaded, 1 to COUNT_MAX */
    uint16_t held;
    int64_t start_ns;                       /* guest's time of the load */
    uint64_t elapsed;                       /* clock pulses since, when it was stopped */
    /* Rate and square wave, with null_count: when the new count takes over, and counts from. */
    int64_t switch_ns, next_start_ns;
    /* What is read. */
    bool read_high, latched, status_latched;
    uint16_t latch;
    uint8_t status;
} Counter;

typedef struct Pit {
    IsaDevice isa;                          /* first: a Pit * is a Device * */
    Region io, nmi_sc_io;
    Counter counters[COUNTERS];
    uint8_t nmi_sc;                         /* port 0x61's bits that are written */
    int64_t edge_ns;                        /* counter 0's next rising edge; -1: none */
    GuestTimer timer;
    IrqLine *irq;
} Pit;

static int64_t now_ns(const Pit *s)
{
    return machine_clock_ns(s->isa.dev.machine);
}

/* ---- time; numbers may come from a stream: nothing here overflows ---- */

static int64_t plus(int64_t ns, uint64_t more)
{
    return (int64_t)((uint64_t)ns + more);
}

static uint64_t ticks_of(uint64_t ns)
{
    return (unsigned __int128)ns * CLOCK_HZ / NS_PER_S;
}

/* Rounded up, so that ticks_of of it is @ticks again. */
static uint64_t ns_of(uint64_t ticks)
{
    return ((unsigned __int128)ticks * NS_PER_S + CLOCK_HZ - 1) / CLOCK_HZ;
}

/* ---- a counter at a given time ---- */

static bool periodic(const Counter *c)
{
    return c->mode == RATE || c->mode == SQUARE_WAVE;
}

/* Modes whose gate is a trigger, and does not stop them. */
static bool triggered(const Counter *c)
{
    return c->mode == ONE_SHOT || c->mode == HARDWARE_STROBE;
}

static uint64_t elapsed(const Counter *c, int64_t now)
{
    int64_t ns = (int64_t)((uint64_t)now - (uint64_t)c->start_ns);

    if (!c->counting)
        return c->elapsed;
    return ns > 0 ? ticks_of(ns) : 0;
}

/* Pulses of a square wave's high half; the low one has the rest. */
static uint32_t high_half(uint32_t count)
{
    return (count + 1) / 2;
}

static bool output(const Counter *c, int64_t now)
{
    uint64_t d = elapsed(c, now);

    if (!c->loaded)
        return c->mode != TERMINAL_COUNT;
    switch ((Mode)c->mode) {
    case RATE:
        return !c->counting || d % c->count != c->count - 1;
    case SQUARE_WAVE:
        return !c->counting || d % c->count < high_half(c->count);
    case SOFTWARE_STROBE:
    case HARDWARE_STROBE:
        return d != c->count;
    default:
        return d >= c->count;
    }
}

static uint16_t to_bcd(unsigned n)
{
    return n / 1000 % 10 << 12 | n / 100 % 10 << 8 | n / 10 % 10 << 4 | n % 10;
}

static unsigned from_bcd(unsigned n)
{
    return (n >> 12) * 1000 + (n >> 8 & 15) * 100 + (n >> 4 & 15) * 10 + (n & 15);
}

static uint16_t counter_value(const Counter *c, int64_t now)
{
    uint32_t modulus = c->bcd ? 10000 : COUNT_MAX, value;
    uint64_t d = elapsed(c, now);

    if (!c->loaded)
        return c->held;
    if (c->mode == RATE) {
        value = c->count - d % c->count;
    } else if (c->mode == SQUARE_WAVE) {    /* by two; each half starts from the even count */
        uint32_t at = d % c->count, half = high_half(c->count);
        value = (c->count & ~1u) - 2 * (at < half ? at : at - half);
    } else {
        value = (c->count + modulus - d % modulus) % modulus;
    }
    return c->bcd ? to_bcd(value) : value;
}

/* ---- loading ---- */

static void load(Counter *c, int64_t now)
{
    c->count = c->written;
    c->null_count = false;
    c->loaded = true;
    c->start_ns = now;
    c->elapsed = 0;
    c->counting = c->gate || triggered(c);
}

/* A new count that waits for the end of a period, or of a square wave's half, may be due. */
static void catch_up(Counter *c, int64_t now)
{
    if (!periodic(c) || !c->loaded || !c->counting || !c->null_count || now < c->switch_ns)
        return;
    c->count = c->written;
    c->start_ns = c->next_start_ns;
    c->null_count = false;
}

static void wait_for_period(Counter *c, int64_t now)
{
    uint64_t at = elapsed(c, now), from = at / c->count * c->count;
    uint32_t half = high_half(c->count);
    bool in_high_half = c->mode == SQUARE_WAVE && at - from < half;

    c->switch_ns = plus(c->start_ns, ns_of(from + (in_high_half ? half : c->count)));
    c->next_start_ns = c->switch_ns;
    if (in_high_half)                       /* the new count's low half follows */
        c->next_start_ns = plus(c->switch_ns, -ns_of(high_half(c->written)));
}

static void count_written(Counter *c, uint16_t value, int64_t now)
{
    uint32_t n = c->bcd ? from_bcd(value) : value;

    catch_up(c, now);
    c->written = n ? n : c->bcd ? 10000 : COUNT_MAX;
    c->null_count = true;
    if (triggered(c))
        return;                             /* the gate's next rise loads it */
    if (periodic(c) && c->loaded && c->counting)
        wait_for_period(c, now);
    else
        load(c, now);
}

static void set_gate(Counter *c, bool gate, int64_t now)
{
    bool rises = gate && !c->gate;

    catch_up(c, now);
    if (gate == c->gate)
        return;
    c->gate = gate;
    if (triggered(c) || periodic(c)) {
        if (rises && c->written)
            load(c, now);
    } else if (rises && c->loaded) {
        c->start_ns = plus(now, -ns_of(c->elapsed));
        c->counting = true;
    }
    if (!rises && !triggered(c)) {
        c->elapsed = elapsed(c, now);
        c->counting = false;
    }
}

/* ---- counter 0's interrupts ---- */

/* The first rising edge of the output after @after; -1: none. */
static int64_t next_edge(const Counter *c, int64_t after)
{
    uint64_t ns = (uint64_t)after - (uint64_t)c->start_ns;
    uint64_t d = (int64_t)ns > 0 ? ticks_of(ns) : 0, at = c->count;

    if (!c->loaded || !c->counting)
        return -1;
    if (periodic(c) && c->null_count)       /* the only one before the new count's */
        return c->next_start_ns == c->switch_ns ? c->switch_ns
                                                : plus(c->next_start_ns, ns_of(c->written));
    if (periodic(c))
        at = (d / c->count + 1) * c->count;
    else if (c->mode == SOFTWARE_STROBE || c->mode == HARDWARE_STROBE)
        at++;                               /* low for one pulse */
    if (!periodic(c) && d >= at)
        return -1;
    int64_t edge = plus(c->start_ns, ns_of(at));
    return edge > after ? edge : -1;
}

static void arm(Pit *s, int64_t not_before)
{
    if (s->edge_ns < 0)
        guest_timer_cancel(&s->timer);
    else
        guest_timer_set(&s->timer, MAX(s->edge_ns, not_before));
}

static void pit_fired(void *opaque)
{
    Pit *s = opaque;
    Counter *c = &s->counters[TICK];
    int64_t now = now_ns(s);

    TRACE(pit_tick, "late by %" PRId64 " ns", now - s->edge_ns);
    catch_up(c, s->edge_ns);
    s->edge_ns = next_edge(c, MAX(s->edge_ns, now - MAX_LATE_NS));
    arm(s, now + MIN_INTERVAL_NS);
    irq_pulse(s->irq);
}

/* Counter 0 was programmed anew. */
static void rearm(Pit *s, int64_t now)
{
    s->edge_ns = next_edge(&s->counters[TICK], now);
    arm(s, 0);
}

/* ---- registers ---- */

static void latch_count(Counter *c, int64_t now)
{
    if (c->latched)
        return;                             /* until it is read */
    c->latch = counter_value(c, now);
    c->latched = true;
}

static void latch_status(Counter *c, int64_t now)
{
    if (c->status_latched)
        return;
    c->status = (output(c, now) ? STATUS_OUT : 0) | (c->null_count ? STATUS_NULL : 0) |
                c->access << ACCESS_SHIFT | c->mode << MODE_SHIFT | (c->bcd ? BCD : 0);
    c->status_latched = true;
}

static void write_control_word(Pit *s, unsigned n, uint8_t value, int64_t now)
{
    Counter *c = &s->counters[n];
    uint8_t access = value >> ACCESS_SHIFT & ACCESS_MASK, mode = value >> MODE_SHIFT & MODE_MASK;

    if (access == ACCESS_LATCH) {
        latch_count(c, now);
        return;
    }
    *c = (Counter){
        .mode = mode < MODES ? mode : mode & 3, .access = access, .bcd = value & BCD,
        .gate = c->gate, .null_count = true, .held = counter_value(c, now), .count = c->count,
    };
    if (n == TICK)
        rearm(s, now);
}

static void read_back(Pit *s, uint8_t value, int64_t now)
{
    for (unsigned n = 0; n < COUNTERS; n++) {
        if (!(value >> (n + 1) & 1))
            continue;
        if (!(value & READ_BACK_NO_COUNT))
            latch_count(&s->counters[n], now);
        if (!(value & READ_BACK_NO_STATUS))
            latch_status(&s->counters[n], now);
    }
}

static void write_counter(Pit *s, unsigned n, uint8_t value, int64_t now)
{
    Counter *c = &s->counters[n];

    switch (c->access) {
    case ACCESS_LATCH:
        return;                             /* no control word yet */
    case ACCESS_LOW:
        count_written(c, value, now);
        break;
    case ACCESS_HIGH:
        count_written(c, value << 8, now);
        break;
    case ACCESS_BOTH:
        c->write_high = !c->write_high;
        if (!c->write_high) {
            count_written(c, value << 8 | c->low_byte, now);
            break;
        }
        c->low_byte = value;
        if (c->mode != TERMINAL_COUNT)
            return;
        c->held = counter_value(c, now);    /* the first byte stops it, and its output falls */
        c->loaded = false;
        break;
    }
    if (n == TICK)
        rearm(s, now);
}

static uint8_t read_counter(Pit *s, unsigned n, int64_t now)
{
    Counter *c = &s->counters[n];
    uint16_t value = c->latched ? c->latch : counter_value(c, now);
    bool high = c->access == ACCESS_HIGH || (c->access == ACCESS_BOTH && c->read_high);

    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    if (c->access == ACCESS_BOTH)
        c->read_high = !c->read_high;
    if (!c->read_high)
        c->latched = false;
    return high ? value >> 8 : value;
}

static uint64_t pit_read(void *opaque, uint64_t offset, unsigned size)
{
    Pit *s = opaque;
    int64_t now = now_ns(s);
    uint8_t value = 0xff;                   /* the control word cannot be read */

    if (offset != CONTROL) {
        catch_up(&s->counters[offset], now);
        value = read_counter(s, offset, now);
    }
    TRACE(pit_read, "port %u value 0x%02x", (unsigned)offset, value);
    return value;
}

static void pit_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    Pit *s = opaque;
    int64_t now = now_ns(s);

    TRACE(pit_write, "port %u value 0x%02x", (unsigned)offset, (unsigned)value);
    for (unsigned n = 0; n < COUNTERS; n++)
        catch_up(&s->counters[n], now);
    if (offset != CONTROL)
        write_counter(s, offset, value, now);
    else if (value >> SELECT_SHIFT == SELECT_READ_BACK)
        read_back(s, value, now);
    else
        write_control_word(s, value >> SELECT_SHIFT, value, now);
}

static const IoOps pit_ops = {
    .read = pit_read,
    .write = pit_write,
    .guest = { .min = 1, .max = 2 },
    .device = { .min = 1, .max = 1 },
};

static uint64_t nmi_sc_read(void *opaque, uint64_t offset, unsigned size)
{
    Pit *s = opaque;
    int64_t now = now_ns(s);

    catch_up(&s->counters[SPEAKER], now);
    return s->nmi_sc | (now / REFRESH_NS & 1 ? NMI_SC_REFRESH : 0) |
           (output(&s->counters[SPEAKER], now) ? NMI_SC_OUT2 : 0);
}

/* The speaker itself is silent. */
static void nmi_sc_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    Pit *s = opaque;

    TRACE(pit_nmi_sc, "value 0x%02x", (unsigned)value);
    s->nmi_sc = value & NMI_SC_WRITABLE;
    set_gate(&s->counters[SPEAKER], value & NMI_SC_GATE2, now_ns(s));
}

static const IoOps nmi_sc_ops = {
    .read = nmi_sc_read,
    .write = nmi_sc_write,
    .guest = { .min = 1, .max = 1 },
    .device = { .min = 1, .max = 1 },
};

/* ---- life ---- */

static void pit_reset(Object *obj)
{
    Pit *s = (Pit *)obj;

    for (unsigned n = 0; n < COUNTERS; n++)
        s->counters[n] = (Counter){ .mode = SQUARE_WAVE, .gate = n != SPEAKER, .count = COUNT_MAX };
    s->nmi_sc = 0;
    s->edge_ns = -1;
    guest_timer_cancel(&s->timer);
}

static bool pit_realize(Object *obj, GError **error)
{
    Pit *s = (Pit *)obj;

    if (!isa_get_irq(&s->isa, PIT_IRQ, &s->irq, error))
        return false;
    guest_timer_init(&s->timer, s->isa.dev.machine, pit_fired, s);
    pit_reset(obj);
    region_init_io(&s->io, obj, &pit_ops, s, "pit", PIT_PORTS);
    region_add(isa_io(&s->isa), PIT_PORT, &s->io);
    region_init_io(&s->nmi_sc_io, obj, &nmi_sc_ops, s, "nmi-sc", 1);
    region_add(isa_io(&s->isa), NMI_SC_PORT, &s->nmi_sc_io);
    return true;
}

static void pit_unrealize(Object *obj)
{
    Pit *s = (Pit *)obj;

    guest_timer_destroy(&s->timer);
    region_destroy(&s->io);
    region_destroy(&s->nmi_sc_io);
}

static bool pit_post_load(void *obj, uint32_t version, GError **error)
{
    Pit *s = obj;

    for (unsigned n = 0; n < COUNTERS; n++) {
        Counter *c = &s->counters[n];
        if (c->loaded && c->null_count && !c->written)
            return fail(error, ERR_CORRUPT, "counter %u is to load a count of 0", n);
    }
    arm(s, 0);
    return true;
}

static const StateField counter_fields[] = {
    FIELD(Counter, mode, .max = MODES - 1),
    FIELD(Counter, access, .max = ACCESS_MASK),
    FIELD(Counter, bcd),
    FIELD(Counter, gate),
    FIELD(Counter, written, .max = COUNT_MAX),
    FIELD(Counter, low_byte),
    FIELD(Counter, write_high),
    FIELD(Counter, null_count),
    FIELD(Counter, loaded),
    FIELD(Counter, counting),
    FIELD(Counter, count, .min = 1, .max = COUNT_MAX),
    FIELD(Counter, held),
    FIELD(Counter, start_ns),
    FIELD(Counter, elapsed),
    FIELD(Counter, switch_ns),
    FIELD(Counter, next_start_ns),
    FIELD(Counter, read_high),
    FIELD(Counter, latched),
    FIELD(Counter, status_latched),
    FIELD(Counter, latch),
    FIELD(Counter, status),
    {}
};
static const StateTable counter_state = { .fields = counter_fields };

static const StateField pit_fields[] = {
    FIELD_STRUCTS(Pit, counters, counter_state),
    FIELD(Pit, nmi_sc, .max = NMI_SC_WRITABLE),
    FIELD(Pit, edge_ns),
    {}
};
static const StateTable pit_state = { .fields = pit_fields, .post_load = pit_post_load };

static const Type pit_type = {
    .name = "isa-pit",
    .parent = "isa-device",
    .help = "82C54 interval timer, and port 0x61",
    .size = sizeof(Pit),
    .state = &pit_state,
    .realize = pit_realize,
    .unrealize = pit_unrealize,
    .reset = pit_reset,
};
TYPE_REGISTER(pit_type)

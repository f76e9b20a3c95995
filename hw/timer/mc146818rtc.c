/*
 * MC146818A real-time clock with 128 bytes of CMOS memory (Motorola MC146818A data sheet; the
 * century byte and the PIIX's second half of the memory are the PC's).
 *
 * Nothing ticks.  The time of day is the host's clock plus an offset; the flags of register C follow
 * from how much time has passed since they were last looked at; a timer runs only up to the next
 * interrupt that the guest has enabled.
 *
 * Departure: the 32.768 kHz divider always runs at its nominal rate (DV=010); other rates are not
 * emulated, the two reset values of DV (11x) are.
 */
#include <string.h>
#include <time.h>
#include "hw/timer/guest-timer.h"
#include "hw/timer/mc146818rtc.h"
#include "hw/x86/isa.h"
#include "src/object/event.h"
#include "src/base/trace.h"

enum {
    RTC_SECONDS = 0, RTC_SECONDS_ALARM = 1, RTC_MINUTES = 2, RTC_MINUTES_ALARM = 3, RTC_HOURS = 4,
    RTC_HOURS_ALARM = 5, RTC_DAY_OF_WEEK = 6, RTC_DAY_OF_MONTH = 7, RTC_MONTH = 8, RTC_YEAR = 9,
    RTC_REG_A = 10, RTC_REG_B = 11, RTC_REG_C = 12, RTC_REG_D = 13,
};
enum {
    REG_A_UIP = 0x80, REG_A_DV = 0x70, REG_A_RS = 0x0f,
    DV_RUN = 0x20, DV_RESET = 0x60,         /* DV=11x: the divider is held in reset */
    REG_B_SET = 0x80, REG_B_PIE = 0x40, REG_B_AIE = 0x20, REG_B_UIE = 0x10, REG_B_DM = 0x04,
    REG_B_24H = 0x02,
    REG_C_IRQF = 0x80, REG_C_PF = 0x40, REG_C_AF = 0x20, REG_C_UF = 0x10,
    REG_D_VRT = 0x80,
};
#define NS_PER_S 1000000000ll
#define UIP_NS 244000                       /* UIP is set 244 us before an update (figure 12) */
#define RTC_HZ 32768
#define CMOS_SIZE 128
#define RTC_PORT 0x70
#define RTC_IRQ 8
#define MAX_OWED_TICKS 1000

typedef struct Rtc {
    IsaDevice isa;                          /* first: an Rtc * is a Device * */
    Region io;
    IrqLine *irq;
    int32_t base_year;                      /* properties */
    int lost_tick_policy;
    /* State; VM lock. */
    uint8_t index;
    uint8_t cmos[CMOS_SIZE];                /* time registers are current only while it is stopped */
    int64_t offset_ns;                      /* guest's time of day = clock + offset */
    int64_t start_offset_ns;                /* the one that -rtc base= asked for */
    int64_t seen_s;                         /* last second whose update and alarm are in register C */
    int64_t periodic_ns;                    /* when the next periodic tick is due (guest clock) */
    uint32_t owed;                          /* periodic ticks to be made up for (slew) */
    GuestTimer second_timer, periodic_timer;
} Rtc;
enum { POLICY_DISCARD, POLICY_SLEW };
#define OFFSET_MAX_NS (INT64_MAX / 2)

static Machine *rtc_machine(const Rtc *s)
{
    return s->isa.dev.machine;
}

/* The clock that the time of day follows (-rtc clock=). */
static int64_t rtc_host_ns(const Rtc *s)
{
    if (rtc_machine(s)->rtc.clock_vm)
        return machine_clock_ns(rtc_machine(s));
    return g_get_real_time() * 1000;
}

static int64_t rtc_now_ns(const Rtc *s)
{
    return rtc_host_ns(s) + s->offset_ns;
}

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static bool rtc_counting(const Rtc *s)
{
    return !(s->cmos[RTC_REG_B] & REG_B_SET) && (s->cmos[RTC_REG_A] & REG_A_DV) < DV_RESET;
}

static uint8_t to_register(const Rtc *s, int value)
{
    return s->cmos[RTC_REG_B] & REG_B_DM ? value : value / 10 << 4 | value % 10;
}

/* What the guest wrote is anything; 0xff of an alarm is told apart by the caller. */
static int from_register(const Rtc *s, uint8_t value)
{
    return s->cmos[RTC_REG_B] & REG_B_DM ? value : (value >> 4) * 10 + (value & 0x0f);
}

static uint8_t hour_to_register(const Rtc *s, int hour)
{
    if (s->cmos[RTC_REG_B] & REG_B_24H)
        return to_register(s, hour);
    return to_register(s, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0);
}

static int hour_from_register(const Rtc *s, uint8_t value)
{
    if (s->cmos[RTC_REG_B] & REG_B_24H)
        return from_register(s, value);
    return from_register(s, value & 0x7f) % 12 + (value & 0x80 ? 12 : 0);
}

static void time_to_registers(Rtc *s, int64_t seconds)
{
    time_t t = seconds;
    struct tm tm = { 0 };

    gmtime_r(&t, &tm);
    int year = tm.tm_year + 1900 - s->base_year;
    s->cmos[RTC_SECONDS] = to_register(s, tm.tm_sec);
    s->cmos[RTC_MINUTES] = to_register(s, tm.tm_min);
    s->cmos[RTC_HOURS] = hour_to_register(s, tm.tm_hour);
    s->cmos[RTC_DAY_OF_WEEK] = to_register(s, tm.tm_wday + 1);
    s->cmos[RTC_DAY_OF_MONTH] = to_register(s, tm.tm_mday);
    s->cmos[RTC_MONTH] = to_register(s, tm.tm_mon + 1);
    s->cmos[RTC_YEAR] = to_register(s, year % 100);
    s->cmos[CMOS_CENTURY] = to_register(s, year / 100 % 100);
}

static int64_t time_from_registers(const Rtc *s)
{
    struct tm tm = {
        .tm_sec = from_register(s, s->cmos[RTC_SECONDS]),
        .tm_min = from_register(s, s->cmos[RTC_MINUTES]),
        .tm_hour = hour_from_register(s, s->cmos[RTC_HOURS]),
        .tm_mday = from_register(s, s->cmos[RTC_DAY_OF_MONTH]),
        .tm_mon = from_register(s, s->cmos[RTC_MONTH]) - 1,
        .tm_year = from_register(s, s->cmos[RTC_YEAR]) +
                   from_register(s, s->cmos[CMOS_CENTURY]) * 100 + s->base_year - 1900,
    };
    return timegm(&tm);
}

/* Seconds of the day that the alarm matches next after @after; -1: never. */
static int64_t next_alarm_s(const Rtc *s, int64_t after)
{
    static const uint8_t wild = 0xc0;       /* "don't care": two high bits set */
    uint8_t rs = s->cmos[RTC_SECONDS_ALARM], rm = s->cmos[RTC_MINUTES_ALARM],
            rh = s->cmos[RTC_HOURS_ALARM];
    int sec = rs >= wild ? -1 : from_register(s, rs), min = rm >= wild ? -1 : from_register(s, rm),
        hour = rh >= wild ? -1 : hour_from_register(s, rh);

    if (sec > 59 || min > 59 || hour > 23)
        return -1;
    int64_t t = after + 1;
    for (int steps = 0; steps < 256; steps++) {
        int64_t day_s = t - floor_div(t, 86400) * 86400;
        if (hour >= 0 && day_s / 3600 != hour)
            t += 3600 - day_s % 3600;
        else if (min >= 0 && day_s / 60 % 60 != min)
            t += 60 - day_s % 60;
        else if (sec >= 0 && day_s % 60 != sec)
            t++;
        else
            return t;
    }
    return -1;
}

static void rtc_update_irq(Rtc *s)
{
    uint8_t c = s->cmos[RTC_REG_C], b = s->cmos[RTC_REG_B];
    bool level = c & b & (REG_C_PF | REG_C_AF | REG_C_UF);  /* enables and flags share positions */

    s->cmos[RTC_REG_C] = (c & ~REG_C_IRQF) | (level ? REG_C_IRQF : 0);
    irq_set(s->irq, level);
}

/* Brings UF and AF up to date. */
static void rtc_catch_up(Rtc *s)
{
    int64_t now_s = floor_div(rtc_now_ns(s), NS_PER_S);

    if (!rtc_counting(s) || now_s == s->seen_s)
        return;
    if (now_s > s->seen_s) {
        int64_t alarm = next_alarm_s(s, s->seen_s);
        s->cmos[RTC_REG_C] |= REG_C_UF;
        if (alarm >= 0 && alarm <= now_s)
            s->cmos[RTC_REG_C] |= REG_C_AF;
    }
    s->seen_s = now_s;                      /* the host's clock may have been set back */
}

static void rtc_arm_second_timer(Rtc *s)
{
    uint8_t b = s->cmos[RTC_REG_B];
    int64_t now = rtc_now_ns(s), next_s = -1;

    if (rtc_counting(s) && b & REG_B_UIE)
        next_s = floor_div(now, NS_PER_S) + 1;
    else if (rtc_counting(s) && b & REG_B_AIE)
        next_s = next_alarm_s(s, floor_div(now, NS_PER_S));
    if (next_s < 0)
        guest_timer_cancel(&s->second_timer);
    else
        guest_timer_set(&s->second_timer,
                        machine_clock_ns(rtc_machine(s)) + next_s * NS_PER_S - now);
}

static void rtc_second(void *opaque)
{
    Rtc *s = opaque;

    rtc_catch_up(s);
    rtc_update_irq(s);
    rtc_arm_second_timer(s);
}

/* 0: off.  RS of 1 and 2 stand for 256 and 128 Hz (table 5). */
static int64_t periodic_interval_ns(const Rtc *s)
{
    unsigned rs = s->cmos[RTC_REG_A] & REG_A_RS;

    if (!rs || (s->cmos[RTC_REG_A] & REG_A_DV) >= DV_RESET)
        return 0;
    if (rs <= 2)
        rs += 7;
    return NS_PER_S * (1 << (rs - 1)) / RTC_HZ;
}

/* Brings PF up to date; ticks that the guest was too slow for are dropped, or owed. */
static void rtc_periodic_catch_up(Rtc *s)
{
    int64_t interval = periodic_interval_ns(s), now = machine_clock_ns(rtc_machine(s));

    if (!interval || now < s->periodic_ns)
        return;
    int64_t ticks = (now - s->periodic_ns) / interval + 1;
    s->periodic_ns += ticks * interval;
    if (s->lost_tick_policy == POLICY_SLEW && s->cmos[RTC_REG_B] & REG_B_PIE) {
        int64_t missed = ticks - 1 + !!(s->cmos[RTC_REG_C] & REG_C_PF);
        s->owed = MIN(s->owed + missed, MAX_OWED_TICKS);
    }
    s->cmos[RTC_REG_C] |= REG_C_PF;
}

static void rtc_arm_periodic_timer(Rtc *s)
{
    if (periodic_interval_ns(s) && s->cmos[RTC_REG_B] & REG_B_PIE)
        guest_timer_set(&s->periodic_timer, s->periodic_ns);
    else
        guest_timer_cancel(&s->periodic_timer);
}

static void rtc_periodic(void *opaque)
{
    Rtc *s = opaque;

    rtc_periodic_catch_up(s);
    rtc_update_irq(s);
    rtc_arm_periodic_timer(s);
}

static void rtc_restart_periodic(Rtc *s)
{
    s->periodic_ns = machine_clock_ns(rtc_machine(s)) + periodic_interval_ns(s);
    s->owed = 0;
    rtc_arm_periodic_timer(s);
}

/* RTC_CHANGE tells management how far the guest's clock is from the one it was started with. */
static void rtc_emit_change(Rtc *s, int64_t offset_s)
{
    json_object *data = json_object_new_object();
    g_autofree char *path = object_path(OBJECT(s));

    json_object_object_add(data, "offset", json_object_new_int64(offset_s));
    json_object_object_add(data, "qom-path", json_object_new_string(path));
    event_emit(OBJECT(s), "RTC_CHANGE", data);
}

/* Registers can say years up to 16,665; nanoseconds in 64 bits hold 1906 to 2191. */
static int64_t limit_s(int64_t seconds)
{
    return CLAMP(seconds, -INT64_C(2000000000), INT64_C(7000000000));
}

/* The clock runs on from what is in the registers. */
static void rtc_start_counting(Rtc *s, int64_t seconds, int64_t fraction_ns)
{
    int64_t before = rtc_now_ns(s), set = limit_s(seconds) * NS_PER_S + fraction_ns;

    s->offset_ns = CLAMP(set - rtc_host_ns(s), -OFFSET_MAX_NS, OFFSET_MAX_NS);
    s->seen_s = floor_div(rtc_now_ns(s), NS_PER_S);
    int64_t away_s = floor_div(set - before + NS_PER_S / 2, NS_PER_S);
    if (away_s)
        rtc_emit_change(s, floor_div(s->offset_ns - s->start_offset_ns + NS_PER_S / 2, NS_PER_S));
}

static void rtc_write_reg_a(Rtc *s, uint8_t value)
{
    bool was_counting = rtc_counting(s);

    if (was_counting)
        time_to_registers(s, floor_div(rtc_now_ns(s), NS_PER_S));
    uint8_t old = s->cmos[RTC_REG_A];
    s->cmos[RTC_REG_A] = value & ~REG_A_UIP;
    /* The first update comes half a second after the divider is let go ("divider control"). */
    if (!was_counting && rtc_counting(s))
        rtc_start_counting(s, time_from_registers(s), NS_PER_S / 2);
    if ((old ^ value) & (REG_A_RS | REG_A_DV))
        rtc_restart_periodic(s);
    rtc_arm_second_timer(s);
}

static void rtc_write_reg_b(Rtc *s, uint8_t value)
{
    bool was_counting = rtc_counting(s), periodic = s->cmos[RTC_REG_B] & REG_B_PIE;

    rtc_catch_up(s);
    rtc_periodic_catch_up(s);
    int64_t now = rtc_now_ns(s), now_s = floor_div(now, NS_PER_S);
    /* What the registers hold is in the format that is left. */
    int64_t held_s = was_counting ? now_s : time_from_registers(s);
    if (value & REG_B_SET)
        value &= ~REG_B_UIE;                /* "SET": UIE is cleared with it */
    if (!periodic && value & REG_B_PIE)
        s->cmos[RTC_REG_C] &= ~REG_C_PF;    /* of the time before it was asked for */
    s->cmos[RTC_REG_B] = value;
    if (was_counting || rtc_counting(s))
        time_to_registers(s, held_s);
    if (!was_counting && rtc_counting(s))
        rtc_start_counting(s, held_s, now - now_s * NS_PER_S);
    rtc_update_irq(s);
    rtc_arm_second_timer(s);
    if (periodic != !!(value & REG_B_PIE))
        rtc_restart_periodic(s);
}

static bool is_time_register(unsigned index)
{
    switch (index) {
    case RTC_SECONDS:
    case RTC_MINUTES:
    case RTC_HOURS:
    case RTC_DAY_OF_WEEK:
    case RTC_DAY_OF_MONTH:
    case RTC_MONTH:
    case RTC_YEAR:
    case CMOS_CENTURY:
        return true;
    }
    return false;
}

static void rtc_write_time(Rtc *s, unsigned index, uint8_t value)
{
    int64_t now = rtc_now_ns(s), now_s = floor_div(now, NS_PER_S);

    if (!rtc_counting(s)) {
        s->cmos[index] = value;
        return;
    }
    time_to_registers(s, now_s);            /* set on the fly: the fraction goes on */
    s->cmos[index] = value;
    rtc_start_counting(s, time_from_registers(s), now - now_s * NS_PER_S);
    rtc_arm_second_timer(s);
}

static void rtc_write_register(Rtc *s, unsigned index, uint8_t value)
{
    if (is_time_register(index)) {
        rtc_write_time(s, index, value);
        return;
    }
    switch (index) {
    case RTC_SECONDS_ALARM:
    case RTC_MINUTES_ALARM:
    case RTC_HOURS_ALARM:
        rtc_catch_up(s);
        s->cmos[index] = value;
        rtc_arm_second_timer(s);
        break;
    case RTC_REG_A:
        rtc_write_reg_a(s, value);
        break;
    case RTC_REG_B:
        rtc_write_reg_b(s, value);
        break;
    case RTC_REG_C:
    case RTC_REG_D:
        break;                              /* read-only */
    default:
        s->cmos[index] = value;
    }
}

static uint8_t rtc_read_reg_c(Rtc *s)
{
    rtc_catch_up(s);
    rtc_periodic_catch_up(s);
    rtc_update_irq(s);
    uint8_t value = s->cmos[RTC_REG_C];
    s->cmos[RTC_REG_C] = 0;                 /* reading clears all flags */
    irq_set(s->irq, false);
    if (s->owed && s->cmos[RTC_REG_B] & REG_B_PIE) {
        s->owed--;
        s->cmos[RTC_REG_C] |= REG_C_PF;
        rtc_update_irq(s);
    }
    rtc_arm_second_timer(s);
    return value;
}

static uint8_t rtc_read_register(Rtc *s, unsigned index)
{
    int64_t now = rtc_now_ns(s), now_s = floor_div(now, NS_PER_S);

    if (is_time_register(index) && rtc_counting(s))
        time_to_registers(s, now_s);
    switch (index) {
    case RTC_REG_A:
        return s->cmos[RTC_REG_A] |
               (rtc_counting(s) && now - now_s * NS_PER_S >= NS_PER_S - UIP_NS ? REG_A_UIP : 0);
    case RTC_REG_C:
        return rtc_read_reg_c(s);
    default:
        return s->cmos[index];
    }
}

static uint64_t rtc_read(void *opaque, uint64_t offset, unsigned size)
{
    Rtc *s = opaque;

    if (!offset)
        return 0xff;                        /* the index register is write-only */
    uint8_t value = rtc_read_register(s, s->index);
    TRACE(rtc_read, "register 0x%02x value 0x%02x", s->index, value);
    return value;
}

static void rtc_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    Rtc *s = opaque;

    if (!offset) {
        s->index = value & 0x7f;            /* bit 7 masks NMI, which nothing here raises */
        return;
    }
    TRACE(rtc_write, "register 0x%02x value 0x%02x", s->index, (unsigned)value);
    rtc_write_register(s, s->index, value);
}

static const IoOps rtc_ops = {
    .read = rtc_read,
    .write = rtc_write,
    .guest = { .min = 1, .max = 2 },        /* a word at 0x70 is the index and the data */
    .device = { .min = 1, .max = 1 },
};

void rtc_set_cmos(Device *rtc, unsigned index, uint8_t value)
{
    Rtc *s = (Rtc *)rtc;

    g_return_if_fail(index > RTC_REG_D && index < CMOS_SIZE);
    s->cmos[index] = value;
}

/* What the clock shows at start: UTC, local time or a date (-rtc base=). */
static void rtc_set_start(Rtc *s)
{
    Machine *m = rtc_machine(s);
    int64_t real_s = g_get_real_time() / G_USEC_PER_SEC;

    s->offset_ns = CLAMP(m->rtc.offset_s, -OFFSET_MAX_NS / NS_PER_S, OFFSET_MAX_NS / NS_PER_S) *
                   NS_PER_S;
    if (m->rtc.clock_vm)
        s->offset_ns += real_s * NS_PER_S - rtc_host_ns(s);
    if (!m->rtc.utc) {
        g_autoptr(GDateTime) local = g_date_time_new_from_unix_local(real_s);
        if (local)
            s->offset_ns += g_date_time_get_utc_offset(local) * 1000;
    }
    s->start_offset_ns = s->offset_ns;
    s->seen_s = floor_div(rtc_now_ns(s), NS_PER_S);
}

static void rtc_reset(Object *obj)
{
    Rtc *s = (Rtc *)obj;

    /* RESET clears the enables and flags; the time and the memory are on battery. */
    s->index = 0;
    s->cmos[RTC_REG_B] &= ~(REG_B_PIE | REG_B_AIE | REG_B_UIE | 0x08);
    s->cmos[RTC_REG_C] = 0;
    s->cmos[CMOS_SHUTDOWN_STATUS] = 0;
    s->owed = 0;
    s->seen_s = floor_div(rtc_now_ns(s), NS_PER_S);
    guest_timer_cancel(&s->second_timer);
    guest_timer_cancel(&s->periodic_timer);
    irq_set(s->irq, false);
}

static bool rtc_realize(Object *obj, GError **error)
{
    Rtc *s = (Rtc *)obj;
    Machine *m = rtc_machine(s);

    if (!isa_get_irq(&s->isa, RTC_IRQ, &s->irq, error))
        return false;
    if (m->rtc.driftfix_slew && !object_was_set(obj, "lost_tick_policy"))
        s->lost_tick_policy = POLICY_SLEW;
    s->cmos[RTC_REG_A] = DV_RUN | 6;        /* 1024 Hz, what firmware sets */
    s->cmos[RTC_REG_B] = REG_B_24H;
    s->cmos[RTC_REG_D] = REG_D_VRT;
    guest_timer_init(&s->second_timer, m, rtc_second, s);
    guest_timer_init(&s->periodic_timer, m, rtc_periodic, s);
    rtc_set_start(s);
    region_init_io(&s->io, obj, &rtc_ops, s, "rtc", 2);
    region_add(isa_io(&s->isa), RTC_PORT, &s->io);
    return true;
}

static void rtc_unrealize(Object *obj)
{
    Rtc *s = (Rtc *)obj;

    region_destroy(&s->io);
    guest_timer_destroy(&s->second_timer);
    guest_timer_destroy(&s->periodic_timer);
}

static bool rtc_post_load(void *obj, uint32_t version, GError **error)
{
    Rtc *s = obj;

    if (s->offset_ns > OFFSET_MAX_NS || s->offset_ns < -OFFSET_MAX_NS)
        return fail(error, ERR_CORRUPT, "the clock's offset is out of range");
    rtc_arm_second_timer(s);
    rtc_arm_periodic_timer(s);
    rtc_update_irq(s);
    return true;
}

static const StateField rtc_fields[] = {
    FIELD(Rtc, index, .max = 0x7f),
    FIELD_BYTES(Rtc, cmos),
    FIELD(Rtc, offset_ns),
    FIELD(Rtc, seen_s),
    FIELD_CLOCK(Rtc, periodic_ns),
    FIELD(Rtc, owed, .max = MAX_OWED_TICKS),
    {}
};
static const StateTable rtc_state = {
    .fields = rtc_fields,
    .post_load = rtc_post_load,
};

/* {"tm_sec": …}: what qom-get date gives management tools. */
static json_object *rtc_get_date(Object *obj, const Property *prop)
{
    time_t t = floor_div(rtc_now_ns((Rtc *)obj), NS_PER_S);
    struct tm tm = { 0 };
    json_object *date = json_object_new_object();

    gmtime_r(&t, &tm);
    json_object_object_add(date, "tm_year", json_object_new_int(tm.tm_year));
    json_object_object_add(date, "tm_mon", json_object_new_int(tm.tm_mon));
    json_object_object_add(date, "tm_mday", json_object_new_int(tm.tm_mday));
    json_object_object_add(date, "tm_hour", json_object_new_int(tm.tm_hour));
    json_object_object_add(date, "tm_min", json_object_new_int(tm.tm_min));
    json_object_object_add(date, "tm_sec", json_object_new_int(tm.tm_sec));
    return date;
}

static const char *const policies[] = { "discard", "slew", NULL };
static const Property rtc_props[] = {
    PROP("base_year", Rtc, base_year, .help = "year that century and year 0 stand for"),
    PROP_OF("lost_tick_policy", Rtc, lost_tick_policy, prop_enum, .words = policies,
            .help = "what becomes of periodic interrupts that the guest was too slow for"),
    PROP_FN("date", rtc_get_date, NULL, .read_only = true, .help = "what the clock shows"),
    {}
};

static const Type rtc_type = {
    .name = "mc146818rtc",
    .parent = "isa-device",
    .help = "MC146818A real-time clock and CMOS memory",
    .size = sizeof(Rtc),
    .props = rtc_props,
    .state = &rtc_state,
    .realize = rtc_realize,
    .unrealize = rtc_unrealize,
    .reset = rtc_reset,
};
TYPE_REGISTER(rtc_type)

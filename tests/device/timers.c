/* The real-time clock and the HPET. */
#include <time.h>
#include "tests/device/harness-int.h"

static bool line(TestMachine *m, unsigned gsi)
{
    return m->machine->gsi[gsi].level;
}

static uint8_t cmos(TestMachine *m, uint8_t index)
{
    io_write8(m, 0x70, index);
    return io_read8(m, 0x71);
}

static void cmos_write(TestMachine *m, uint8_t index, uint8_t value)
{
    io_write8(m, 0x70, index);
    io_write8(m, 0x71, value);
}

enum { REG_A = 10, REG_B = 11, REG_C = 12, REG_D = 13 };

/* ---- RTC ---- */

static int bcd(uint8_t value)
{
    return (value >> 4) * 10 + (value & 15);
}

START_TEST(rtc_shows_the_host_time)
{
    TestMachine *m = test_machine_new("");
    time_t before = time(NULL), shown;
    struct tm tm = { 0 };

    do {                                    /* until no second has passed in between */
        before = time(NULL);
        tm.tm_sec = bcd(cmos(m, 0));
        tm.tm_min = bcd(cmos(m, 2));
        tm.tm_hour = bcd(cmos(m, 4));
        tm.tm_mday = bcd(cmos(m, 7));
        tm.tm_mon = bcd(cmos(m, 8)) - 1;
        tm.tm_year = bcd(cmos(m, 9)) + bcd(cmos(m, 0x32)) * 100 - 1900;
        shown = timegm(&tm);
    } while (time(NULL) != before);
    ck_assert_int_ge(shown, before - 1);
    ck_assert_int_le(shown, before);
    ck_assert_uint_eq(cmos(m, REG_D), 0x80);
    ck_assert_uint_eq(cmos(m, REG_A) & 0x7f, 0x26);
    ck_assert_uint_eq(cmos(m, 0x15) | cmos(m, 0x16) << 8, 640);
    test_machine_free(m);
}
END_TEST

/* Stops the clock and sets it to 2030-12-31 23:59:58. */
static void set_new_years_eve(TestMachine *m, uint8_t reg_b)
{
    cmos_write(m, REG_B, 0x82);
    cmos_write(m, 0, 0x58);
    cmos_write(m, 2, 0x59);
    cmos_write(m, 4, 0x23);
    cmos_write(m, 6, 3);
    cmos_write(m, 7, 0x31);
    cmos_write(m, 8, 0x12);
    cmos_write(m, 9, 0x30);
    cmos_write(m, 0x32, 0x20);
    ck_assert_uint_eq(cmos(m, 0), 0x58);    /* stands still */
    cmos_write(m, REG_B, reg_b);
}

static bool is_new_year(void *opaque)
{
    return cmos(opaque, 9) == 0x31;
}

DEVICE_TEST(rtc_can_be_set, "")
{
    run(m);
    set_new_years_eve(m, 0x02);
    expect_event(m, "RTC_CHANGE", NULL);
    ck_assert_uint_eq(cmos(m, 9), 0x30);
    wait_until(m, is_new_year, m);
    ck_assert_uint_eq(cmos(m, 4), 0x00);
    ck_assert_uint_eq(cmos(m, 7), 0x01);
    ck_assert_uint_eq(cmos(m, 8), 0x01);
}

DEVICE_TEST(rtc_in_other_formats, "")
{
    set_new_years_eve(m, 0x02);
    cmos_write(m, REG_B, 0x86);             /* binary, 24 hours, stopped */
    ck_assert_uint_eq(cmos(m, 4), 23);
    ck_assert_uint_eq(cmos(m, 7), 31);
    cmos_write(m, REG_B, 0x04);             /* binary, 12 hours */
    ck_assert_uint_eq(cmos(m, 4), 11 | 0x80);
    cmos_write(m, REG_B, 0x00);             /* BCD, 12 hours */
    ck_assert_uint_eq(cmos(m, 4), 0x11 | 0x80);
}

static bool irq8(void *opaque)
{
    return line(opaque, 8);
}

DEVICE_TEST(rtc_alarm_and_update, "")
{
    run(m);
    set_new_years_eve(m, 0x02);
    cmos(m, REG_C);
    cmos_write(m, 1, 0x59);
    cmos_write(m, 3, 0xff);                 /* any minute, any hour */
    cmos_write(m, 5, 0xff);
    cmos_write(m, REG_B, 0x22);
    ck_assert(!line(m, 8));
    wait_until(m, irq8, m);
    ck_assert_uint_eq(cmos(m, 0), 0x59);
    ck_assert_uint_eq(cmos(m, REG_C) & 0xa0, 0xa0);
    ck_assert(!line(m, 8));
    cmos_write(m, REG_B, 0x12);             /* after each update */
    cmos(m, REG_C);
    wait_until(m, irq8, m);
    ck_assert_uint_eq(cmos(m, REG_C) & 0x90, 0x90);
}

DEVICE_TEST(rtc_periodic, "")
{
    run(m);
    cmos_write(m, REG_A, 0x26);             /* 1024 Hz */
    cmos_write(m, REG_B, 0x42);
    for (unsigned i = 0; i < 5; i++) {
        wait_until(m, irq8, m);
        ck_assert_uint_eq(cmos(m, REG_C) & 0xc0, 0xc0);
        ck_assert(!line(m, 8));
    }
    cmos_write(m, REG_B, 0x02);
    cmos(m, REG_C);
    settle(m);
    ck_assert(!line(m, 8));
}

static bool ticks_are_owed(void *opaque)
{
    TestMachine *m = opaque;

    if (!line(m, 8))
        return false;
    /* Not acknowledged for many periods: each acknowledgement brings the next one at once. */
    int64_t start = machine_clock_ns(m->machine);
    while (machine_clock_ns(m->machine) - start < 20000000)
        ;
    return true;
}

DEVICE_TEST(rtc_slew_makes_up_for_ticks,
            "-global driver=mc146818rtc,property=lost_tick_policy,value=slew")
{
    run(m);
    cmos_write(m, REG_A, 0x26);
    cmos_write(m, REG_B, 0x42);
    wait_until(m, ticks_are_owed, m);
    cmos(m, REG_C);
    for (unsigned i = 0; i < 10; i++) {
        ck_assert(line(m, 8));
        cmos(m, REG_C);
    }
}

DEVICE_TEST(cmos_survives_a_reset, "")
{
    cmos_write(m, 0x40, 0xa5);
    cmos_write(m, REG_B, 0x72);
    reset_machine(m);
    ck_assert_uint_eq(cmos(m, 0x40), 0xa5);
    ck_assert_uint_eq(cmos(m, REG_B), 0x02);
}

DEVICE_TEST(cmos_by_words, "")
{
    io_write16(m, 0x70, 0x5a40);            /* out dx, ax: the index, and then the byte */
    ck_assert_uint_eq(cmos(m, 0x40), 0x5a);
    ck_assert_uint_eq(io_read16(m, 0x70), 0x5aff);
}

/* ---- HPET ---- */

#define HPET 0xfed00000ull
#define T(n) (HPET + 0x100 + 0x20 * (n))

DEVICE_TEST(hpet_says_what_it_is, "-machine q35,hpet=on")
{
    ck_assert_uint_eq(mem_read(m, HPET, 8), 0x009896808086a201);
    ck_assert_uint_eq(mem_read(m, HPET + 4, 4), 10000000);
    mem_write(m, HPET + 0xf0, 8, 0x123456789);
    ck_assert_uint_eq(mem_read(m, HPET + 0xf0, 8), 0x123456789);
    ck_assert_uint_eq(mem_read(m, HPET + 0xf4, 4), 1);
}

START_TEST(hpet_may_be_absent)
{
    TestMachine *m = test_machine_new("-machine q35,hpet=off");

    ck_assert_uint_eq(mem_read(m, HPET, 4), UINT32_MAX);
    test_machine_free(m);
}
END_TEST

static void set_entry(TestMachine *m, unsigned pin, uint32_t low)
{
    mem_write(m, 0xfec00000, 4, 0x10 + 2 * pin);
    mem_write(m, 0xfec00010, 4, low);
}

DEVICE_TEST(hpet_one_shot_in_legacy_mode, "-machine q35,hpet=on")
{
    run(m);
    set_entry(m, 2, 0x41);                  /* edge, vector 0x41 */
    mem_write(m, T(0), 8, 0x104);           /* 32 bits, enabled */
    mem_write(m, HPET + 0x10, 8, 3);        /* counting, legacy replacement */
    mem_write(m, T(0) + 8, 8, mem_read(m, HPET + 0xf0, 4) + 100000);
    wait_msi(m, 0x41);
    settle(m);
    ck_assert_uint_eq(msi_take(m, 0x41), 0);
}

DEVICE_TEST(hpet_periodic, "-machine q35,hpet=on")
{
    run(m);
    set_entry(m, 2, 0x41);
    mem_write(m, HPET + 0x10, 8, 3);
    mem_write(m, T(0), 8, 0x14c);           /* 32 bits, SETVAL, periodic, enabled */
    mem_write(m, T(0) + 8, 4, mem_read(m, HPET + 0xf0, 4) + 50000);
    ck_assert_uint_eq(mem_read(m, T(0), 4) & 0x40, 0);  /* SETVAL is for once */
    mem_write(m, T(0) + 8, 4, 50000);
    for (unsigned i = 0; i < 5; i++)
        wait_msi(m, 0x41);
    mem_write(m, HPET + 0x10, 8, 2);
    uint32_t halted = mem_read(m, HPET + 0xf0, 4);
    msi_take(m, 0x41);
    settle(m);
    ck_assert_uint_eq(msi_take(m, 0x41), 0);
    ck_assert_uint_eq(mem_read(m, HPET + 0xf0, 4), halted);
}

static bool hpet_status(void *opaque)
{
    return mem_read(opaque, HPET + 0x20, 4);
}

DEVICE_TEST(hpet_level_and_messages, "-machine q35,hpet=on")
{
    run(m);
    set_entry(m, 8, 0x8042);                /* level */
    mem_write(m, T(1), 8, 0x1106 | 0);      /* level, enabled, 32 bits, route 8 */
    mem_write(m, HPET + 0x10, 8, 1);
    mem_write(m, T(1) + 8, 8, mem_read(m, HPET + 0xf0, 4) + 1000);
    wait_until(m, hpet_status, m);
    ck_assert_uint_eq(mem_read(m, HPET + 0x20, 4), 2);
    ck_assert_uint_eq(msi_take(m, 0xc042), 1);
    mem_write(m, HPET + 0x20, 4, 2);
    m->intr.eoi(m->intr.eoi_opaque, 0x42);
    ck_assert_uint_eq(msi_take(m, 0xc042), 0);

    mem_write(m, T(2) + 0x10, 8, 0xfee0000000000077);   /* FSB route: data, address */
    mem_write(m, T(2), 8, 0x4104);
    mem_write(m, T(2) + 8, 8, mem_read(m, HPET + 0xf0, 4) + 1000);
    wait_msi(m, 0x77);
}

DEVICE_TEST(hpet_takes_the_rtc_line, "-machine q35,hpet=on")
{
    run(m);
    set_entry(m, 8, 0x43);
    mem_write(m, HPET + 0x10, 8, 3);
    cmos_write(m, REG_A, 0x26);
    cmos_write(m, REG_B, 0x42);
    wait_until(m, irq8, m);
    ck_assert_uint_eq(msi_take(m, 0x43), 0);    /* the RTC's line ends at the HPET */
    mem_write(m, HPET + 0x10, 8, 0);
    wait_msi(m, 0x43);
}

static void add(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, rtc_shows_the_host_time);
    tcase_add_test(tc, rtc_can_be_set);
    tcase_add_test(tc, rtc_in_other_formats);
    tcase_add_test(tc, rtc_alarm_and_update);
    tcase_add_test(tc, rtc_periodic);
    tcase_add_test(tc, rtc_slew_makes_up_for_ticks);
    tcase_add_test(tc, cmos_survives_a_reset);
    tcase_add_test(tc, cmos_by_words);
    tcase_add_test(tc, hpet_says_what_it_is);
    tcase_add_test(tc, hpet_may_be_absent);
    tcase_add_test(tc, hpet_one_shot_in_legacy_mode);
    tcase_add_test(tc, hpet_periodic);
    tcase_add_test(tc, hpet_level_and_messages);
    tcase_add_test(tc, hpet_takes_the_rtc_line);
}

int main(void)
{
    return run_tests("timers", add);
}

/* The 82C54 and port 0x61.  The guest's clock stands still but for pass(), or runs where interrupts
 * are waited for. */
#include "tests/device/harness-int.h"

enum { CONTROL = 0x43, NMI_SC = 0x61, OUT2 = 0x20, GATE2 = 0x01 };
enum { LOW = 1, HIGH = 2, BOTH = 3 };
enum { STATUS_OUT = 0x80, STATUS_NULL = 0x40 };

/* Some pulses of the counters' clock. */
static void pass(TestMachine *m, uint64_t ticks)
{
    static const uint64_t hz = 1193182;

    m->machine->clock_ns += (ticks * 1000000000 + hz - 1) / hz;
}

static void control(TestMachine *m, unsigned n, unsigned access, unsigned mode, bool bcd)
{
    io_write8(m, CONTROL, n << 6 | access << 4 | mode << 1 | bcd);
}

static void write_count(TestMachine *m, unsigned n, uint16_t count)
{
    io_write8(m, 0x40 + n, count);
    io_write8(m, 0x40 + n, count >> 8);
}

static void program(TestMachine *m, unsigned n, unsigned mode, uint16_t count)
{
    control(m, n, BOTH, mode, false);
    write_count(m, n, count);
}

static uint16_t latched(TestMachine *m, unsigned n)
{
    io_write8(m, CONTROL, n << 6);
    uint8_t low = io_read8(m, 0x40 + n);
    return low | io_read8(m, 0x40 + n) << 8;
}

static uint8_t status(TestMachine *m, unsigned n)
{
    io_write8(m, CONTROL, 0xe0 | 2 << n);
    return io_read8(m, 0x40 + n);
}

static bool out(TestMachine *m, unsigned n)
{
    bool level = status(m, n) & STATUS_OUT;

    if (n == 2)
        ck_assert(level == !!(io_read8(m, NMI_SC) & OUT2));
    return level;
}

static void gate2(TestMachine *m, bool level)
{
    io_write8(m, NMI_SC, level ? GATE2 : 0);
}

DEVICE_TEST(terminal_count, "")
{
    control(m, 1, BOTH, 0, false);
    ck_assert_uint_eq(status(m, 1), STATUS_NULL | 0x30);
    write_count(m, 1, 1000);
    ck_assert_uint_eq(status(m, 1), 0x30);
    pass(m, 400);
    ck_assert_uint_eq(latched(m, 1), 600);
    ck_assert(!out(m, 1));
    pass(m, 599);
    ck_assert(!out(m, 1));
    pass(m, 1);
    ck_assert(out(m, 1));
    ck_assert_uint_eq(latched(m, 1), 0);
    pass(m, 2);
    ck_assert_uint_eq(latched(m, 1), 0xfffe);   /* it counts on */
    io_write8(m, 0x41, 5);                      /* the first byte of the next count stops it */
    ck_assert(!out(m, 1));
    pass(m, 10);
    ck_assert_uint_eq(latched(m, 1), 0xfffe);
    io_write8(m, 0x41, 0);
    ck_assert_uint_eq(latched(m, 1), 5);
    pass(m, 5);
    ck_assert(out(m, 1));
}

DEVICE_TEST(terminal_count_waits_for_its_gate, "")
{
    program(m, 2, 0, 100);
    pass(m, 50);
    ck_assert_uint_eq(latched(m, 2), 100);
    gate2(m, true);
    pass(m, 60);
    gate2(m, false);
    pass(m, 1000);
    ck_assert_uint_eq(latched(m, 2), 40);
    ck_assert(!out(m, 2));
    gate2(m, true);
    pass(m, 40);
    ck_assert(out(m, 2));
}

DEVICE_TEST(one_shot, "")
{
    program(m, 2, 1, 100);
    ck_assert_uint_eq(status(m, 2), STATUS_OUT | STATUS_NULL | 0x32);
    pass(m, 500);
    ck_assert(out(m, 2));
    gate2(m, true);
    ck_assert(!out(m, 2));
    pass(m, 60);
    gate2(m, false);                        /* neither stops it */
    write_count(m, 2, 30);                  /* nor does a count, which is for the next trigger */
    pass(m, 39);
    ck_assert(!out(m, 2));
    pass(m, 1);
    ck_assert(out(m, 2));
    gate2(m, true);
    pass(m, 20);
    gate2(m, false);
    gate2(m, true);                         /* again before its end: from the start */
    pass(m, 29);
    ck_assert(!out(m, 2));
    pass(m, 1);
    ck_assert(out(m, 2));
}

DEVICE_TEST(rate_generator, "")
{
    program(m, 1, 2, 10);
    for (unsigned i = 0; i < 25; i++) {
        ck_assert_uint_eq(latched(m, 1), 10 - i % 10);
        ck_assert(out(m, 1) == (i % 10 != 9));
        pass(m, 1);
    }
    /* At 25: a new count is for the next period. */
    write_count(m, 1, 100);
    ck_assert(status(m, 1) & STATUS_NULL);
    pass(m, 4);
    ck_assert_uint_eq(latched(m, 1), 1);
    pass(m, 1);
    ck_assert_uint_eq(latched(m, 1), 100);
    ck_assert(!(status(m, 1) & STATUS_NULL));
    pass(m, 150);
    ck_assert_uint_eq(latched(m, 1), 50);
}

DEVICE_TEST(rate_generator_and_its_gate, "")
{
    gate2(m, true);
    program(m, 2, 2, 10);
    pass(m, 9);
    ck_assert(!out(m, 2));
    gate2(m, false);
    ck_assert(out(m, 2));
    pass(m, 15);
    ck_assert_uint_eq(latched(m, 2), 1);
    gate2(m, true);
    ck_assert_uint_eq(latched(m, 2), 10);
}

static void expect_square(TestMachine *m, unsigned high, unsigned low)
{
    unsigned even = (high + low) & ~1u;

    for (unsigned i = 0; i < 2 * (high + low); i++, pass(m, 1)) {
        unsigned at = i % (high + low);
        ck_assert(out(m, 2) == (at < high));
        ck_assert_uint_eq(latched(m, 2), even - 2 * (at < high ? at : at - high));
    }
}

DEVICE_TEST(square_wave, "")
{
    gate2(m, true);
    program(m, 2, 3, 6);
    expect_square(m, 3, 3);
    program(m, 2, 3, 7);
    expect_square(m, 4, 3);
    program(m, 2, 7, 6);                    /* bit 2 of these modes means nothing */
    expect_square(m, 3, 3);
    pass(m, 1);
    write_count(m, 2, 20);                  /* in the high half: its low half is the new one's */
    pass(m, 2);
    ck_assert(!out(m, 2));
    pass(m, 9);
    ck_assert(!out(m, 2));
    pass(m, 1);
    expect_square(m, 10, 10);
}

DEVICE_TEST(strobes, "")
{
    program(m, 1, 4, 10);
    for (unsigned i = 0; i < 20; i++, pass(m, 1))
        ck_assert(out(m, 1) == (i != 10));
    program(m, 2, 5, 10);
    pass(m, 15);
    ck_assert(out(m, 2));
    gate2(m, true);
    for (unsigned i = 0; i < 20; i++, pass(m, 1))
        ck_assert(out(m, 2) == (i != 10));
}

DEVICE_TEST(bytes_and_latches, "")
{
    control(m, 1, LOW, 2, false);
    io_write8(m, 0x41, 200);
    pass(m, 10);
    ck_assert_uint_eq(io_read8(m, 0x41), 190);
    ck_assert_uint_eq(io_read8(m, 0x41), 190);
    control(m, 1, HIGH, 2, false);
    io_write8(m, 0x41, 0x12);
    pass(m, 1);
    ck_assert_uint_eq(io_read8(m, 0x41), 0x11);
    program(m, 1, 2, 0);                    /* 65536 */
    ck_assert_uint_eq(latched(m, 1), 0);
    pass(m, 0x1234);
    ck_assert_uint_eq(io_read8(m, 0x41), 0xcc);
    ck_assert_uint_eq(io_read8(m, 0x41), 0xed);
    io_write8(m, CONTROL, 1 << 6);          /* latched until it is read */
    pass(m, 0x100);
    io_write8(m, CONTROL, 1 << 6);
    ck_assert_uint_eq(io_read8(m, 0x41), 0xcc);
    pass(m, 0x100);
    ck_assert_uint_eq(io_read8(m, 0x41), 0xed);
    ck_assert_uint_eq(io_read8(m, 0x41), 0xcc);
    ck_assert_uint_eq(io_read8(m, 0x41), 0xeb);
}

/* The low byte comes first. */
static unsigned read_word(TestMachine *m, uint16_t port)
{
    unsigned low = io_read8(m, port);

    return low | io_read8(m, port) << 8;
}

DEVICE_TEST(read_back, "")
{
    program(m, 0, 2, 1000);
    program(m, 1, 2, 500);
    gate2(m, true);
    program(m, 2, 3, 300);
    pass(m, 10);
    io_write8(m, CONTROL, 0xc0 | 0x0e);     /* count and status of all */
    pass(m, 10);
    ck_assert_uint_eq(io_read8(m, 0x40), 0xb4);
    ck_assert_uint_eq(read_word(m, 0x40), 990);
    ck_assert_uint_eq(read_word(m, 0x40), 980);
    ck_assert_uint_eq(io_read8(m, 0x42), 0xb6);
    ck_assert_uint_eq(read_word(m, 0x42), 280);
    ck_assert_uint_eq(io_read8(m, 0x41), 0xb4);
    ck_assert_uint_eq(read_word(m, 0x41), 490);
}

DEVICE_TEST(decimal, "")
{
    control(m, 1, BOTH, 2, true);
    write_count(m, 1, 0x1000);
    pass(m, 1);
    ck_assert_uint_eq(latched(m, 1), 0x0999);
    control(m, 1, BOTH, 0, true);
    write_count(m, 1, 0);                   /* 10000 */
    pass(m, 1);
    ck_assert_uint_eq(latched(m, 1), 0x9999);
}

DEVICE_TEST(port_61, "")
{
    io_write8(m, NMI_SC, 0xff);
    ck_assert_uint_eq(io_read8(m, NMI_SC) & ~0x30, 0x0f);
    bool refresh = io_read8(m, NMI_SC) & 0x10;
    pass(m, 18);
    ck_assert(refresh != !!(io_read8(m, NMI_SC) & 0x10));
    io_write8(m, NMI_SC, 0);
    ck_assert_uint_eq(io_read8(m, NMI_SC) & ~0x30, 0);
}

/* ---- interrupts ---- */

static void set_entry(TestMachine *m, unsigned pin, uint32_t low)
{
    mem_write(m, 0xfec00000, 4, 0x10 + 2 * pin);
    mem_write(m, 0xfec00010, 4, low);
}

DEVICE_TEST(ticks_come_at_their_rate, "-machine q35,hpet=off")
{
    run(m);
    set_entry(m, 2, 0x41);
    int64_t start = machine_clock_ns(m->machine);
    program(m, 0, 2, 1193);                 /* 0.99985 ms */
    for (unsigned i = 0; i < 20; i++)
        wait_msi(m, 0x41);
    ck_assert_int_ge(machine_clock_ns(m->machine) - start, 19000000);
    control(m, 0, BOTH, 2, false);          /* stops it */
    msi_take(m, 0x41);
    settle(m);
    ck_assert_uint_eq(msi_take(m, 0x41), 0);
}

static void busy_ms(TestMachine *m, unsigned ms)
{
    int64_t start = machine_clock_ns(m->machine);

    while (machine_clock_ns(m->machine) - start < ms * 1000000ll)
        ;
}

enum { LATE_PERIOD = 2386 };                /* 2 ms */

/* As many as periods have passed since time 0. */
static bool none_is_owed(void *opaque)
{
    TestMachine *m = opaque;
    uint64_t ticks = machine_clock_ns(m->machine) * 1193182 / 1000000000;

    return m->messages->len + 1 >= ticks / LATE_PERIOD;
}

DEVICE_TEST(late_ticks_are_made_up_for, "-machine q35,hpet=off")
{
    set_entry(m, 2, 0x41);
    m->machine->clock_ns = 0;
    program(m, 0, 3, LATE_PERIOD);
    pass(m, 50 * LATE_PERIOD);
    run(m);
    wait_until(m, none_is_owed, m);
    ck_assert_uint_ge(msi_take(m, 0x41), 49);
}

DEVICE_TEST(one_interrupt_of_a_terminal_count, "-machine q35,hpet=off")
{
    run(m);
    set_entry(m, 2, 0x41);
    program(m, 0, 0, 2000);
    wait_msi(m, 0x41);
    ck_assert(out(m, 0));
    busy_ms(m, 5);
    settle(m);
    ck_assert_uint_eq(msi_take(m, 0x41), 0);
}

DEVICE_TEST(the_hpet_takes_its_line, "-machine q35,hpet=on")
{
    run(m);
    set_entry(m, 2, 0x41);
    mem_write(m, 0xfed00010, 8, 3);         /* legacy replacement */
    program(m, 0, 2, 1193);
    busy_ms(m, 5);
    settle(m);
    ck_assert_uint_eq(msi_take(m, 0x41), 0);
    mem_write(m, 0xfed00010, 8, 0);
    wait_msi(m, 0x41);
}

DEVICE_TEST(state_is_kept, "-machine q35,hpet=off")
{
    TestMachine *other = test_machine_new("-machine q35,hpet=off");
    g_autoptr(GByteArray) state = NULL;
    GError *error = NULL;

    program(m, 0, 2, 1000);
    set_entry(m, 2, 0x41);
    pass(m, 400);
    write_count(m, 0, 2000);
    state = save_state(m);
    ck_assert(load_state(other, state, &error));
    pass(other, 599);
    ck_assert_uint_eq(latched(other, 0), 1);
    pass(other, 1);
    ck_assert_uint_eq(latched(other, 0), 2000);
    run(other);
    wait_msi(other, 0x41);
    wait_msi(other, 0x41);
    test_machine_free(other);
}

static void add(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, terminal_count);
    tcase_add_test(tc, terminal_count_waits_for_its_gate);
    tcase_add_test(tc, one_shot);
    tcase_add_test(tc, rate_generator);
    tcase_add_test(tc, rate_generator_and_its_gate);
    tcase_add_test(tc, square_wave);
    tcase_add_test(tc, strobes);
    tcase_add_test(tc, bytes_and_latches);
    tcase_add_test(tc, read_back);
    tcase_add_test(tc, decimal);
    tcase_add_test(tc, port_61);
    tcase_add_test(tc, ticks_come_at_their_rate);
    tcase_add_test(tc, late_ticks_are_made_up_for);
    tcase_add_test(tc, one_interrupt_of_a_terminal_count);
    tcase_add_test(tc, the_hpet_takes_its_line);
    tcase_add_test(tc, state_is_kept);
}

int main(void)
{
    return run_tests("pit", add);
}

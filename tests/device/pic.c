/* The pair of 8259A interrupt controllers: the test is the CPU that takes its vectors. */
#include "tests/device/harness-int.h"

enum { PIC1 = 0x20, PIC2 = 0xa0, ELCR1 = 0x4d0, ELCR2 = 0x4d1 };
enum { BASE1 = 0x40, BASE2 = 0x70, SPURIOUS1 = BASE1 + 7, SPURIOUS2 = BASE2 + 7 };
enum { EOI = 0x20, READ_IRR = 0x0a, READ_ISR = 0x0b, POLL = 0x0c, SMM_ON = 0x68, SMM_OFF = 0x48 };
enum { AEOI = 0x03, SFNM = 0x11, PLAIN = 0x01 };

/* ICW1 to ICW4 of both, nothing masked. */
static void init(TestMachine *m, uint8_t icw4_master, uint8_t icw4_slave)
{
    io_write8(m, PIC1, 0x11);
    io_write8(m, PIC1 + 1, BASE1);
    io_write8(m, PIC1 + 1, 0x04);
    io_write8(m, PIC1 + 1, icw4_master);
    io_write8(m, PIC2, 0x11);
    io_write8(m, PIC2 + 1, BASE2);
    io_write8(m, PIC2 + 1, 0x02);
    io_write8(m, PIC2 + 1, icw4_slave);
}

static void line(TestMachine *m, unsigned n, bool level)
{
    irq_set(&m->machine->gsi[n], level);
}

static void edge(TestMachine *m, unsigned n)
{
    irq_pulse(&m->machine->gsi[n]);
}

static uint8_t take(TestMachine *m)
{
    return m->intr.acknowledge(m->intr.acknowledge_opaque);
}

static uint8_t read_as(TestMachine *m, uint16_t port, uint8_t ocw3)
{
    io_write8(m, port, ocw3);
    return io_read8(m, port);
}

/* It asks, and gives this vector. */
static void expect_vector(TestMachine *m, uint8_t vector)
{
    ck_assert_msg(m->extint, "no interrupt, where vector 0x%02x was to come", vector);
    ck_assert_uint_eq(take(m), vector);
}

DEVICE_TEST(quiet_until_initialized, "")
{
    edge(m, 1);
    ck_assert(!m->extint);
    io_write8(m, PIC1 + 1, 0xa5);           /* a probe of the mask register */
    ck_assert_uint_eq(io_read8(m, PIC1 + 1), 0xa5);
    io_write8(m, PIC1, 0x11);               /* ICW1 forgets edges and masks, */
    edge(m, 1);
    ck_assert(!m->extint);                  /* and waits for the others */
    io_write8(m, PIC1 + 1, BASE1);
    io_write8(m, PIC1 + 1, 0x04);
    io_write8(m, PIC1 + 1, PLAIN);
    expect_vector(m, BASE1 + 1);
    ck_assert_uint_eq(io_read8(m, PIC1 + 1), 0);
}

DEVICE_TEST(fewer_command_words, "")
{
    io_write8(m, PIC1, 0x12);               /* single, no ICW4 */
    io_write8(m, PIC1 + 1, BASE1 | 7);      /* the low bits are the input's */
    io_write8(m, PIC1 + 1, 0xfe);           /* a mask already */
    edge(m, 1);
    ck_assert(!m->extint);
    edge(m, 0);
    expect_vector(m, BASE1);
}

DEVICE_TEST(edges_and_priorities, "")
{
    init(m, PLAIN, PLAIN);
    edge(m, 5);
    edge(m, 3);
    ck_assert_uint_eq(read_as(m, PIC1, READ_IRR), 0x28);
    expect_vector(m, BASE1 + 3);
    ck_assert_uint_eq(read_as(m, PIC1, READ_ISR), 0x08);
    ck_assert(!m->extint);                  /* 5 is below what is in service */
    edge(m, 3);
    ck_assert(!m->extint);                  /* and so is 3 itself */
    edge(m, 1);
    expect_vector(m, BASE1 + 1);            /* 1 is above */
    io_write8(m, PIC1, EOI);                /* of 1 */
    ck_assert_uint_eq(io_read8(m, PIC1), 0x08);
    ck_assert(!m->extint);
    io_write8(m, PIC1, EOI);
    expect_vector(m, BASE1 + 3);
    io_write8(m, PIC1, 0x60 | 3);           /* specific */
    expect_vector(m, BASE1 + 5);
    io_write8(m, PIC1, EOI);
    ck_assert(!m->extint);
    line(m, 4, true);
    expect_vector(m, BASE1 + 4);
    io_write8(m, PIC1, EOI);
    ck_assert(!m->extint);                  /* a line that stays high is no new edge */
    line(m, 4, false);
}

DEVICE_TEST(masks_keep_requests, "")
{
    init(m, PLAIN, PLAIN);
    io_write8(m, PIC1 + 1, 0x10);
    edge(m, 4);
    ck_assert(!m->extint);
    ck_assert_uint_eq(read_as(m, PIC1, READ_IRR), 0x10);
    io_write8(m, PIC1 + 1, 0);
    expect_vector(m, BASE1 + 4);
}

DEVICE_TEST(levels, "")
{
    init(m, PLAIN, PLAIN);
    io_write8(m, ELCR1, 0xff);
    io_write8(m, ELCR2, 0xff);
    ck_assert_uint_eq(io_read8(m, ELCR1), 0xf8);
    ck_assert_uint_eq(io_read8(m, ELCR2), 0xde);
    line(m, 5, true);
    expect_vector(m, BASE1 + 5);
    ck_assert(!m->extint);
    io_write8(m, PIC1, EOI);
    expect_vector(m, BASE1 + 5);            /* it is still there */
    line(m, 5, false);
    io_write8(m, PIC1, EOI);
    ck_assert(!m->extint);
    line(m, 5, true);                       /* and one that goes away is not asked for */
    line(m, 5, false);
    ck_assert(!m->extint);
    line(m, 6, true);
    io_write8(m, PIC1, 0x11);               /* ICW1 leaves levels */
    ck_assert_uint_eq(read_as(m, PIC1, READ_IRR), 0x40);
}

DEVICE_TEST(cascade, "")
{
    init(m, PLAIN, PLAIN);
    edge(m, 12);
    expect_vector(m, BASE2 + 4);
    ck_assert_uint_eq(read_as(m, PIC1, READ_ISR), 0x04);
    ck_assert_uint_eq(read_as(m, PIC2, READ_ISR), 0x10);
    edge(m, 3);                             /* below the cascade */
    edge(m, 14);                            /* below on the slave */
    edge(m, 9);                             /* above on the slave, but the master is busy with it */
    ck_assert(!m->extint);
    io_write8(m, PIC2, EOI);
    ck_assert(!m->extint);
    io_write8(m, PIC1, EOI);
    expect_vector(m, BASE2 + 1);
    io_write8(m, PIC2, EOI);
    io_write8(m, PIC1, EOI);
    expect_vector(m, BASE2 + 6);
    edge(m, 0);
    expect_vector(m, BASE1);
    io_write8(m, PIC1, EOI);
    io_write8(m, PIC2, EOI);
    io_write8(m, PIC1, EOI);
    expect_vector(m, BASE1 + 3);
}

DEVICE_TEST(special_fully_nested, "")
{
    init(m, SFNM, PLAIN);
    edge(m, 12);
    expect_vector(m, BASE2 + 4);
    edge(m, 3);
    ck_assert(!m->extint);
    edge(m, 9);
    expect_vector(m, BASE2 + 1);            /* the slave interrupts itself, */
    edge(m, 14);
    ck_assert(!m->extint);                  /* by its own priorities */
}

DEVICE_TEST(special_mask_mode, "")
{
    init(m, PLAIN, PLAIN);
    edge(m, 3);
    expect_vector(m, BASE1 + 3);
    io_write8(m, PIC1 + 1, 0x08);
    edge(m, 5);
    ck_assert(!m->extint);
    io_write8(m, PIC1, SMM_ON);
    expect_vector(m, BASE1 + 5);
    io_write8(m, PIC1, EOI);                /* does not see 3, which is masked */
    ck_assert_uint_eq(read_as(m, PIC1, READ_ISR), 0x08);
    io_write8(m, PIC1, EOI);
    ck_assert_uint_eq(io_read8(m, PIC1), 0x08);
    io_write8(m, PIC1, SMM_OFF);
    io_write8(m, PIC1, EOI);
    ck_assert_uint_eq(io_read8(m, PIC1), 0);
}

DEVICE_TEST(automatic_eoi, "")
{
    init(m, AEOI, AEOI);
    edge(m, 3);
    expect_vector(m, BASE1 + 3);
    ck_assert_uint_eq(read_as(m, PIC1, READ_ISR), 0);
    edge(m, 9);
    edge(m, 12);                            /* two of the slave, one after the other */
    expect_vector(m, BASE2 + 1);
    expect_vector(m, BASE2 + 4);
    ck_assert(!m->extint);
    io_write8(m, PIC1, 0x80);               /* rotate in AEOI mode */
    edge(m, 3);
    expect_vector(m, BASE1 + 3);            /* 3 is the lowest now */
    edge(m, 1);
    edge(m, 5);
    expect_vector(m, BASE1 + 5);
    expect_vector(m, BASE1 + 1);
    io_write8(m, PIC1, 0x00);
}

DEVICE_TEST(rotation, "")
{
    init(m, PLAIN, PLAIN);
    io_write8(m, PIC1, 0xc0 | 4);           /* 4 is the lowest, 5 the highest */
    edge(m, 0);
    edge(m, 6);
    expect_vector(m, BASE1 + 6);
    edge(m, 5);
    expect_vector(m, BASE1 + 5);
    io_write8(m, PIC1, 0xa0);               /* EOI of 5, which is the lowest then */
    ck_assert_uint_eq(read_as(m, PIC1, READ_ISR), 0x40);
    io_write8(m, PIC1, 0xe0 | 6);           /* EOI of 6, likewise */
    expect_vector(m, BASE1);
    edge(m, 7);
    expect_vector(m, BASE1 + 7);
}

DEVICE_TEST(poll_mode, "")
{
    init(m, PLAIN, PLAIN);
    ck_assert_uint_eq(read_as(m, PIC1, POLL), 0);
    edge(m, 12);
    ck_assert_uint_eq(read_as(m, PIC1, POLL), 0x82);    /* a poll acknowledges */
    io_write8(m, PIC2, READ_ISR);
    ck_assert_uint_eq(read_as(m, PIC2, POLL), 0x84);
    ck_assert_uint_eq(io_read8(m, PIC2), 0x10);         /* it was for one read */
    ck_assert(!m->extint);
    io_write8(m, PIC2, EOI);
    io_write8(m, PIC1, EOI);
    edge(m, 13);
    io_write8(m, PIC1, POLL);
    ck_assert_uint_eq(io_read8(m, PIC1 + 1), 0x82);     /* of either port */
}

DEVICE_TEST(spurious, "")
{
    init(m, PLAIN, PLAIN);
    ck_assert_uint_eq(take(m), SPURIOUS1);
    ck_assert_uint_eq(read_as(m, PIC1, READ_ISR), 0);
    io_write8(m, ELCR1, 0x20);
    line(m, 5, true);
    ck_assert(m->extint);
    line(m, 5, false);                      /* too late for the CPU */
    ck_assert_uint_eq(take(m), SPURIOUS1);
    io_write8(m, ELCR2, 0x02);
    line(m, 9, true);
    ck_assert(m->extint);
    line(m, 9, false);
    ck_assert_uint_eq(take(m), SPURIOUS2);
    ck_assert_uint_eq(read_as(m, PIC1, READ_ISR), 0x04);    /* the master knows nothing of it */
    ck_assert_uint_eq(read_as(m, PIC2, READ_ISR), 0);
    io_write8(m, PIC1, EOI);
    ck_assert(!m->extint);
}

DEVICE_TEST(state_is_kept, "")
{
    TestMachine *other = test_machine_new("");
    g_autoptr(GByteArray) state = NULL;
    GError *error = NULL;

    init(m, PLAIN, PLAIN);
    edge(m, 3);
    expect_vector(m, BASE1 + 3);
    edge(m, 1);
    edge(m, 12);
    state = save_state(m);
    ck_assert(load_state(other, state, &error));
    expect_vector(other, BASE1 + 1);
    io_write8(other, PIC1, EOI);
    expect_vector(other, BASE2 + 4);
    reset_machine(other);
    ck_assert(!other->extint);
    test_machine_free(other);
}

static bool there(const char *machine, const char *name)
{
    TestMachine *m = test_machine_new(machine);
    bool found = object_child(OBJECT(m->machine), name);

    test_machine_free(m);
    return found;
}

START_TEST(may_be_absent)
{
    ck_assert(there("", "i8259") && there("", "i8254") && there("", "hpet0"));
    ck_assert(!there("-machine q35,pic=off", "i8259"));
    ck_assert(!there("-machine q35,pic=off", "hpet0"));     /* its line 0 is the PIC's */
    ck_assert(there("-machine q35,pic=off,hpet=on", "hpet0"));
    ck_assert(there("-machine q35,pic=off", "i8254"));
    ck_assert(!there("-machine q35,pit=off", "i8254"));
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, quiet_until_initialized);
    tcase_add_test(tc, fewer_command_words);
    tcase_add_test(tc, edges_and_priorities);
    tcase_add_test(tc, masks_keep_requests);
    tcase_add_test(tc, levels);
    tcase_add_test(tc, cascade);
    tcase_add_test(tc, special_fully_nested);
    tcase_add_test(tc, special_mask_mode);
    tcase_add_test(tc, automatic_eoi);
    tcase_add_test(tc, rotation);
    tcase_add_test(tc, poll_mode);
    tcase_add_test(tc, spurious);
    tcase_add_test(tc, state_is_kept);
    tcase_add_test(tc, may_be_absent);
}

int main(void)
{
    return run_tests("pic", add);
}

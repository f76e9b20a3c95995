/* The serial port and the debug console, with a socket as the other end of the line. */
#include <linux/serial_reg.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include "tests/device/harness-int.h"

#define COM1 0x3f8

typedef struct Line {
    TestMachine *m;
    int fd;                                 /* our end */
    GString *got;
    const char *want;
} Line;

static Line open_line(const char *device)
{
    int fds[2];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    g_autofree char *args = g_strdup_printf("-chardev socket,id=c0,fd=%d -device %s,id=dut,chardev=c0",
                                            fds[1], device);
    Line l = { test_machine_new(args), fds[0], g_string_new(""), NULL };
    run(l.m);
    return l;
}

static void close_line(Line *l)
{
    test_machine_free(l->m);
    close(l->fd);
    g_string_free(l->got, TRUE);
}

static uint8_t in(Line *l, unsigned reg)
{
    return io_read8(l->m, COM1 + reg);
}

static void out(Line *l, unsigned reg, uint8_t value)
{
    io_write8(l->m, COM1 + reg, value);
}

static bool irq(Line *l)
{
    return l->m->machine->gsi[4].level;
}

static bool has_come(void *opaque)
{
    Line *l = opaque;
    char part[256];
    ssize_t n;

    while ((n = read(l->fd, part, sizeof(part))) > 0)
        g_string_append_len(l->got, part, n);
    return l->got->len >= strlen(l->want);
}

static void expect_text(Line *l, const char *want)
{
    l->want = want;
    wait_until(l->m, has_come, l);
    ck_assert_str_eq(l->got->str, want);
    g_string_truncate(l->got, 0);
}

static bool data_ready(void *opaque)
{
    return in(opaque, UART_LSR) & UART_LSR_DR;
}

static bool irq_high(void *opaque)
{
    return irq(opaque);
}

START_TEST(bytes_go_both_ways)
{
    Line l = open_line("isa-serial");

    for (const char *p = "hello, world\n"; *p; p++) {
        ck_assert_uint_eq(in(&l, UART_LSR) & UART_LSR_THRE, UART_LSR_THRE);
        out(&l, UART_TX, *p);
    }
    expect_text(&l, "hello, world\n");
    ck_assert_int_eq(write(l.fd, "ab", 2), 2);
    wait_until(l.m, data_ready, &l);
    ck_assert_uint_eq(in(&l, UART_RX), 'a');        /* without FIFO, one at a time */
    wait_until(l.m, data_ready, &l);
    ck_assert_uint_eq(in(&l, UART_RX), 'b');
    ck_assert_uint_eq(in(&l, UART_LSR) & UART_LSR_DR, 0);
    close_line(&l);
}
END_TEST

START_TEST(registers_of_a_16550a)
{
    Line l = open_line("isa-serial");

    ck_assert_uint_eq(in(&l, UART_IIR), 0x01);
    ck_assert_uint_eq(in(&l, UART_LSR), 0x60);
    ck_assert_uint_eq(in(&l, UART_MSR), 0xb0);
    out(&l, UART_SCR, 0x5a);
    ck_assert_uint_eq(in(&l, UART_SCR), 0x5a);
    out(&l, UART_IER, 0xff);
    ck_assert_uint_eq(in(&l, UART_IER), 0x0f);
    out(&l, UART_IER, 0);
    out(&l, UART_LCR, 0x83);
    out(&l, UART_DLL, 0x01);
    out(&l, UART_DLM, 0x02);
    ck_assert_uint_eq(in(&l, UART_DLL), 0x01);
    ck_assert_uint_eq(in(&l, UART_DLM), 0x02);
    out(&l, UART_LCR, 0x03);
    ck_assert_uint_eq(in(&l, UART_IER), 0);
    out(&l, UART_FCR, 0x01);
    ck_assert_uint_eq(in(&l, UART_IIR), 0xc1);      /* both bits: the FIFO works */
    close_line(&l);
}
END_TEST

START_TEST(loopback)
{
    Line l = open_line("isa-serial");

    out(&l, UART_MCR, UART_MCR_LOOP | UART_MCR_RTS | UART_MCR_OUT2);
    ck_assert_uint_eq(in(&l, UART_MSR), UART_MSR_CTS | UART_MSR_DCD);
    out(&l, UART_FCR, 0x01);
    for (unsigned i = 0; i < 17; i++)
        out(&l, UART_TX, i);
    ck_assert_uint_eq(in(&l, UART_LSR) & UART_LSR_OE, UART_LSR_OE);     /* 16 fit */
    ck_assert_uint_eq(in(&l, UART_LSR) & UART_LSR_OE, 0);               /* reading clears it */
    for (unsigned i = 0; i < 16; i++)
        ck_assert_uint_eq(in(&l, UART_RX), i);
    ck_assert_uint_eq(in(&l, UART_LSR) & UART_LSR_DR, 0);
    out(&l, UART_TX, 'x');
    out(&l, UART_FCR, 0x03);                        /* clear the receiver */
    ck_assert_uint_eq(in(&l, UART_LSR) & UART_LSR_DR, 0);
    close_line(&l);
}
END_TEST

/* A driver that looks at LSR and never at IIR gets an edge for each byte that is gone. */
START_TEST(each_byte_sent_is_an_edge)
{
    Line l = open_line("isa-serial");
    mem_write(l.m, 0xfec00000, 4, 0x10 + 2 * 4);    /* the IOAPIC's input 4: edge, vector 0x34 */
    mem_write(l.m, 0xfec00010, 4, 0x34);
    out(&l, UART_IER, UART_IER_THRI);
    ck_assert_uint_eq(msi_take(l.m, 0x34), 1);
    for (unsigned i = 0; i < 3; i++) {
        out(&l, UART_TX, 'a' + i);
        ck_assert(irq(&l));
        ck_assert_uint_eq(msi_take(l.m, 0x34), 1);
    }
    expect_text(&l, "abc");
    close_line(&l);
}
END_TEST

START_TEST(overrun_of_the_one_byte_register)
{
    Line l = open_line("isa-serial");
    out(&l, UART_MCR, UART_MCR_LOOP);
    out(&l, UART_TX, 1);
    out(&l, UART_TX, 2);
    ck_assert_uint_eq(in(&l, UART_LSR) & (UART_LSR_OE | UART_LSR_DR), UART_LSR_OE | UART_LSR_DR);
    ck_assert_uint_eq(in(&l, UART_RX), 2);          /* the older one is lost */
    ck_assert_uint_eq(in(&l, UART_LSR) & (UART_LSR_OE | UART_LSR_DR), 0);
    close_line(&l);
}
END_TEST

START_TEST(interrupts_by_priority)
{
    Line l = open_line("isa-serial");

    out(&l, UART_IER, UART_IER_THRI);
    ck_assert(irq(&l));
    ck_assert_uint_eq(in(&l, UART_IIR), UART_IIR_THRI);
    ck_assert(!irq(&l));                            /* reading IIR was the acknowledgement */
    ck_assert_uint_eq(in(&l, UART_IIR), UART_IIR_NO_INT);
    out(&l, UART_TX, 'x');
    ck_assert(irq(&l));
    out(&l, UART_IER, UART_IER_THRI | UART_IER_RDI);
    ck_assert_int_eq(write(l.fd, "y", 1), 1);
    wait_until(l.m, data_ready, &l);
    ck_assert_uint_eq(in(&l, UART_IIR), UART_IIR_RDI);
    ck_assert_uint_eq(in(&l, UART_RX), 'y');
    ck_assert_uint_eq(in(&l, UART_IIR), UART_IIR_THRI);
    ck_assert(!irq(&l));
    close_line(&l);
}
END_TEST

START_TEST(fifo_trigger_and_timeout)
{
    Line l = open_line("isa-serial");

    out(&l, UART_FCR, 0x81);                        /* FIFO, trigger at 8 */
    out(&l, UART_IER, UART_IER_RDI);
    ck_assert_int_eq(write(l.fd, "abc", 3), 3);
    wait_until(l.m, irq_high, &l);                  /* below the trigger: the timeout tells of it */
    ck_assert_uint_eq(in(&l, UART_IIR), 0xc0 | UART_IIR_RX_TIMEOUT);
    ck_assert_uint_eq(in(&l, UART_RX), 'a');
    ck_assert(!irq(&l));
    ck_assert_uint_eq(in(&l, UART_RX), 'b');
    ck_assert_uint_eq(in(&l, UART_RX), 'c');
    ck_assert_int_eq(write(l.fd, "0123456789abcdefghij", 20), 20);
    wait_until(l.m, irq_high, &l);
    ck_assert_uint_eq(in(&l, UART_IIR), 0xc0 | UART_IIR_RDI);
    for (const char *p = "0123456789abcdefghij"; *p; p++) {
        wait_until(l.m, data_ready, &l);            /* the last ones come when there is room */
        ck_assert_uint_eq(in(&l, UART_RX), *p);
    }
    close_line(&l);
}
END_TEST

static bool transmitter_is_full(Line *l)
{
    return !(in(l, UART_LSR) & UART_LSR_THRE);
}

static bool transmitter_has_room(void *opaque)
{
    return !transmitter_is_full(opaque);
}

START_TEST(slow_reader_holds_the_guest)
{
    Line l = open_line("isa-serial");
    unsigned sent = 0;
    char part[4096];
    ssize_t n;

    /* Nobody reads: the socket fills, then the wire, then THRE stays low.  Nothing is lost. */
    for (unsigned idle = 0; idle < 20; settle(l.m), idle++) {
        while (!transmitter_is_full(&l)) {
            out(&l, UART_TX, sent++ % 251);
            idle = 0;
        }
        g_usleep(1000);
    }
    ck_assert_uint_gt(sent, 1000);
    unsigned got = 0;
    while (got < sent) {
        struct pollfd p = { .fd = l.fd, .events = POLLIN };
        settle(l.m);
        if (poll(&p, 1, 10) <= 0)
            continue;
        n = read(l.fd, part, sizeof(part));
        for (ssize_t i = 0; i < n; i++)
            ck_assert_uint_eq((uint8_t)part[i], got++ % 251);
    }
    wait_until(l.m, transmitter_has_room, &l);
    close_line(&l);
}
END_TEST

START_TEST(stop_and_exit_leave_nothing_behind)
{
    Line l = open_line("isa-serial");

    out(&l, UART_TX, '1');
    stop(l.m);
    expect_text(&l, "1");
    run(l.m);
    out(&l, UART_TX, '2');
    test_machine_free(l.m);
    ck_assert_int_eq(read(l.fd, &(char){ 0 }, 1), 1);
    close(l.fd);
    g_string_free(l.got, TRUE);
}
END_TEST

START_TEST(ports_are_numbered)
{
    TestMachine *m = test_machine_new("-device isa-serial,index=1 -device isa-serial "
                                      "-device isa-serial,iobase=0x300,irq=10");
    GError *error = NULL;

    ck_assert_uint_eq(io_read8(m, 0x3f8 + UART_LSR), 0x60);
    ck_assert_uint_eq(io_read8(m, 0x2f8 + UART_LSR), 0x60);
    ck_assert_uint_eq(io_read8(m, 0x300 + UART_LSR), 0x60);
    test_machine_free(m);
    ck_assert_ptr_null(test_machine_try("-device isa-serial -device isa-serial -device isa-serial "
                                        "-device isa-serial -device isa-serial", &error));
    ck_error(error, "at most 4");
    ck_assert_ptr_null(test_machine_try("-device isa-serial,irq=16", &error));
    ck_error(error, "no ISA interrupt 16");
    ck_assert_ptr_null(test_machine_try("-device isa-serial,iobase=0xfffc", &error));
    ck_error(error, "not an I/O port");
}
END_TEST

START_TEST(debug_console_writes)
{
    Line l = open_line("isa-debugcon,readback=0x5a");

    ck_assert_uint_eq(io_read8(l.m, 0xe9), 0x5a);
    for (const char *p = "from the firmware"; *p; p++)
        io_write8(l.m, 0xe9, *p);
    expect_text(&l, "from the firmware");
    close_line(&l);
}
END_TEST

static void add(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, bytes_go_both_ways);
    tcase_add_test(tc, registers_of_a_16550a);
    tcase_add_test(tc, loopback);
    tcase_add_test(tc, each_byte_sent_is_an_edge);
    tcase_add_test(tc, overrun_of_the_one_byte_register);
    tcase_add_test(tc, interrupts_by_priority);
    tcase_add_test(tc, fifo_trigger_and_timeout);
    tcase_add_test(tc, slow_reader_holds_the_guest);
    tcase_add_test(tc, stop_and_exit_leave_nothing_behind);
    tcase_add_test(tc, ports_are_numbered);
    tcase_add_test(tc, debug_console_writes);
}

int main(void)
{
    return run_tests("serial", add);
}

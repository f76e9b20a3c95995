/* The monitor for people: on a stream of its own, and on a terminal shared with another front end. */
#include "tests/unit/qmp-peer.h"

/* Waits until @text has come; what was before it and itself are forgotten. */
static void expect_text(Peer *p, const char *text)
{
    char *at;
    while (!(at = strstr(p->in->str, text))) {
        if (!peer_read(p))
            turn_loop(p->fd);
    }
    g_string_erase(p->in, 0, at - p->in->str + strlen(text));
}

static Peer *shell_new(Vm *vm)
{
    Chardev *chardev;
    g_autoptr(GError) error = NULL;
    Peer *p = peer_with_chardev(vm, "hmp0", &chardev);
    ck_assert(monitor_add_hmp(vm, chardev, &error));
    expect_text(p, "Vireo " VIREO_VERSION " monitor - type 'help' for more information\r\n(vireo) ");
    return p;
}

START_TEST(a_session)
{
    Vm *vm = new_vm();
    Peer *p = shell_new(vm);
    peer_send(p, "info status\r");
    expect_text(p, "info status\r\nVM status: paused (prelaunch)\r\n(vireo) ");
    peer_send(p, "info stxtus\033[D\033[D\033[D\x7f" "a\r");
    expect_text(p, "VM status: paused (prelaunch)\r\n(vireo) ");
    peer_send(p, "\033[A\r");
    expect_text(p, "VM status: paused (prelaunch)\r\n(vireo) ");
    peer_send(p, "info sta\t\r");
    expect_text(p, "VM status: paused (prelaunch)\r\n(vireo) ");
    peer_send(p, "info history\r");
    expect_text(p, "0: 'info status'\r\n");
    peer_send(p, "bogus\n");
    expect_text(p, "unknown command: 'bogus'\r\n(vireo) ");
    peer_send(p, "info statis\n");
    expect_text(p, "unknown command: 'info statis'\r\nHint: did you mean 'info status'?\r\n(vireo) ");
    peer_send(p, "info status x\n");
    expect_text(p, "usage: info status \r\n(vireo) ");
    peer_send(p, "log \"unimp\n");
    expect_text(p, "Error: a quotation mark or a backslash at the end stands alone\r\n(vireo) ");
    peer_send(p, "object_del nothing\n");
    expect_text(p, "Error: ");
    expect_text(p, "(vireo) ");
    peer_send(p, "q\r");
    while (!vm->quit)
        turn_loop(p->fd);
    peer_close(p);
    free_vm(vm);
}
END_TEST

START_TEST(help_tells_of_every_command)
{
    Vm *vm = new_vm();
    Peer *p = shell_new(vm);
    peer_send(p, "help\r");
    expect_text(p, "stop|s  -- stop the guest\r\n");
    expect_text(p, "device_add DRIVER[,PROPERTY=VALUE…] -- plug in a device, as -device does\r\n");
    expect_text(p, "(vireo) ");
    peer_send(p, "help cont\r");
    expect_text(p, "\r\ncont|c  -- let the guest run\r\n(vireo) ");
    peer_close(p);
    free_vm(vm);
}
END_TEST

START_TEST(memory_is_shown)
{
    Vm *vm = new_vm();
    Peer *p = shell_new(vm);
    peer_send(p, "xp /4xb 0x1000\r");
    expect_text(p, "0000000000001000: Cannot access memory\r\n");
    peer_send(p, "xp/2z 0\r");
    expect_text(p, "Error: bad format 'z'");
    peer_close(p);
    free_vm(vm);
}
END_TEST

static void expect_answer(Peer *p, const char *line, const char *answer)
{
    g_autofree char *typed = g_strdup_printf("%s\r", line);
    g_autofree char *shown = g_strdup_printf("%s\r\n%s\r\n(vireo) ", line, answer);
    peer_send(p, typed);
    expect_text(p, shown);
}

/* As in QEMU's monitor, but for the words of some errors. */
START_TEST(values_are_printed)
{
    static const struct {
        const char *line, *answer;
    } cases[] = {
        { "p 1+2*3", "0x7" },
        { "p/d 4+2&1", "4" },              /* bits bind closer than sums */
        { "p/d 3 & 1 | 4", "5" },
        { "print/d -5", "-5" },
        { "p /u -1", "18446744073709551615" },
        { "p/o 8", "010" },
        { "p 010", "0x8" },
        { "p/d 'A'", "65" },
        { "p/c 65", "'A'" },
        { "p/c 10", "'\\n'" },
        { "p/d (1+2)*(3-1)", "6" },
        { "p/d 7/2*2+7%3", "7" },
        { "p ~5", "0xfffffffffffffffa" },
        { "p 1/(2-2)", "Error: division by zero" },
        { "p 0x1ffffffffffffffff", "Error: number too large" },
        { "p (1", "Error: ')' expected" },
        { "p 1+", "Error: unexpected end of expression" },
        { "p !5", "Error: invalid char '!' in expression" },
        { "p 1 2", "Error: extraneous characters at the end of line: '2'" },
        { "p/i 1", "Error: there is no disassembler\r\nHint: /16xb shows the bytes" },
        { "p $rip", "Error: $rip: there is no CPU 0" },
        { "p", "usage: print [/FORMAT] EXPRESSION" },
        { "cpu 0", "Error: invalid CPU index 0" },
        { "i 0x64", "Error: the machine has no I/O ports" },
        { "o/b 0x64", "usage: o [/FORMAT] PORT VALUE" },
        { "xp 0x1000+4*4", "0000000000001010: Cannot access memory" },
    };
    Vm *vm = new_vm();
    Peer *p = shell_new(vm);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++)
        expect_answer(p, cases[i].line, cases[i].answer);
    g_autofree char *deep = g_strnfill(1000, '(');
    g_autofree char *line = g_strconcat("p ", deep, "\r", NULL);
    peer_send(p, line);
    expect_text(p, "Error: too many brackets or signs in an expression\r\n(vireo) ");
    peer_close(p);
    free_vm(vm);
}
END_TEST

/* A terminal whose other end never reads costs a bounded amount, and the monitor goes on. */
START_TEST(a_terminal_that_nobody_reads)
{
    Vm *vm = new_vm();
    Peer *deaf = shell_new(vm), *other = peer_ready(vm, "mon0");
    for (int idle = 0, turns = 0; idle < 100 && turns < 100000; turns++) {
        ssize_t n = send(deaf->fd, "help\r", 5, MSG_DONTWAIT | MSG_NOSIGNAL);
        bool worked = loop_iterate(loop_main(), false);
        idle = n < 0 && !worked ? idle + 1 : 0;
    }
    peer_send(other, "{\"execute\": \"query-name\"}");
    expect(other, "{\"return\": {}}");
    peer_close(deaf);
    peer_close(other);
    free_vm(vm);
}
END_TEST

/* ---- a terminal shared with a serial port ---- */

static size_t serial_room(void *opaque)
{
    return 100;
}

static void serial_receive(void *opaque, const uint8_t *data, size_t length)
{
    g_string_append_len(opaque, (const char *)data, length);
}

START_TEST(a_shared_terminal)
{
    Vm *vm = new_vm();
    g_autoptr(GError) error = NULL;
    GString *serial = g_string_new(NULL);
    CharFront front = { .can_receive = serial_room, .receive = serial_receive, .opaque = serial };
    int fds[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    g_autofree char *text = g_strdup_printf(
        "{\"backend\": \"socket\", \"id\": \"term\", \"fd\": \"%d\", \"mux\": true}", fds[0]);
    g_autoptr(json_object) options = json_of(text);
    Chardev *mux = chardev_create(vm->root, options, &error);
    ck_assert_msg(mux != NULL, "%s", error ? error->message : "");
    Peer *p = peer_of(fds[1]);
    ck_assert(monitor_add_hmp(vm, mux, &error));
    ck_assert(char_front_attach(&front, mux, &error));
    while (loop_iterate(loop_main(), false))
        ;
    ck_assert(!peer_read(p));              /* nobody has looked at the monitor yet */
    peer_send(p, "login\n\x01" "c");
    expect_text(p, "Vireo " VIREO_VERSION " monitor - type 'help' for more information\r\n(vireo) ");
    ck_assert_str_eq(serial->str, "login\n");
    peer_send(p, "info name\r");
    expect_text(p, "info name\r\n(vireo) ");
    peer_send(p, "\x01" "cpassword");
    while (serial->len < strlen("login\npassword"))
        turn_loop(p->fd);
    ck_assert_str_eq(serial->str, "login\npassword");
    peer_send(p, "\x01" "c");
    expect_text(p, "(vireo) ");
    char_front_detach(&front);
    peer_close(p);
    free_vm(vm);
    g_string_free(serial, TRUE);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, a_session);
    tcase_add_test(tc, help_tells_of_every_command);
    tcase_add_test(tc, memory_is_shown);
    tcase_add_test(tc, values_are_printed);
    tcase_add_test(tc, a_terminal_that_nobody_reads);
    tcase_add_test(tc, a_shared_terminal);
}

int main(void)
{
    return run_tests("hmp", add_tests);
}

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
    tcase_add_test(tc, a_terminal_that_nobody_reads);
    tcase_add_test(tc, a_shared_terminal);
}

int main(void)
{
    return run_tests("hmp", add_tests);
}

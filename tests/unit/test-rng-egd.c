/* rng-egd, with the test as the entropy daemon. */
#include <sys/socket.h>
#include <unistd.h>
#include "hw/virtio/rng.h"
#include "src/base/error.h"
#include "src/base/options.h"
#include "src/chardev/chardev.h"
#include "tests/test.h"

typedef struct Daemon {
    Object *root;
    RngBackend *rng;
    int fd;
} Daemon;

static json_object *options(const char *text, const char *first)
{
    json_object *parsed = options_parse(text, first, NULL);

    ck_assert_ptr_nonnull(parsed);
    return parsed;
}

static Daemon daemon_new(void)
{
    int fds[2];
    g_autoptr(GError) error = NULL;
    Daemon d = { .root = object_new(type_find("container")) };

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    g_autofree char *text = g_strdup_printf("socket,id=c,fd=%d", fds[0]);
    g_autoptr(json_object) chardev = options(text, "backend");
    g_autoptr(json_object) rng = options("rng-egd,id=r,chardev=c", "qom-type");
    ck_assert_ptr_nonnull(chardev_create(d.root, chardev, &error));
    d.rng = (RngBackend *)object_create_user(d.root, rng, &error);
    ck_no_error(error);
    d.fd = fds[1];
    return d;
}

static void daemon_free(Daemon *d)
{
    if (d->fd >= 0)
        close(d->fd);
    object_unref(d->root);
}

static void turn(void)
{
    while (loop_iterate(loop_main(), false))
        ;
}

static void expect_request(Daemon *d, uint8_t count)
{
    uint8_t request[16];

    turn();
    ck_assert_int_eq(recv(d->fd, request, sizeof(request), MSG_DONTWAIT), 2);
    ck_assert_uint_eq(request[0], 2);
    ck_assert_uint_eq(request[1], count);
}

static void set_flag(void *flag)
{
    *(bool *)flag = true;
}

START_TEST(asked_and_answered)
{
    Daemon d = daemon_new();
    uint8_t buffer[1000];
    bool ready = false;

    ck_assert_int_eq(rng_read(d.rng, buffer, 8), 0);
    rng_when_ready(d.rng, set_flag, &ready);
    expect_request(&d, 8);
    ck_assert_int_eq(rng_read(d.rng, buffer, 8), 0);   /* is on its way: not asked again */
    turn();
    ck_assert_int_lt(recv(d.fd, buffer, 2, MSG_DONTWAIT), 0);
    ck_assert_int_eq(write(d.fd, "abcde", 5), 5);
    while (!ready)
        loop_iterate(loop_main(), true);
    ck_assert_int_eq(rng_read(d.rng, buffer, 3), 3);
    ck_assert_mem_eq(buffer, "abc", 3);
    ck_assert_int_eq(rng_read(d.rng, buffer, 8), 2);
    ck_assert_mem_eq(buffer, "de", 2);
    ck_assert_int_eq(write(d.fd, "fgh and more than was asked for", 31), 31);
    turn();
    ck_assert_int_eq(rng_read(d.rng, buffer, 100), 3);
    ck_assert_int_eq(rng_read(d.rng, buffer, 1000), 0);
    expect_request(&d, 255);
    daemon_free(&d);
}
END_TEST

START_TEST(a_daemon_that_goes)
{
    Daemon d = daemon_new();
    uint8_t buffer[8];

    ck_assert_int_eq(rng_read(d.rng, buffer, 8), 0);
    close(d.fd);
    d.fd = -1;
    turn();
    ck_assert_int_eq(rng_read(d.rng, buffer, 8), 0);
    daemon_free(&d);
}
END_TEST

START_TEST(needs_a_chardev)
{
    g_autoptr(json_object) rng = options("rng-egd,id=r", "qom-type");
    Object *root = object_new(type_find("container"));
    GError *error = NULL;

    ck_assert_ptr_null(object_create_user(root, rng, &error));
    ck_error(error, "chardev");
    object_unref(root);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, asked_and_answered);
    tcase_add_test(tc, a_daemon_that_goes);
    tcase_add_test(tc, needs_a_chardev);
}

int main(void)
{
    return run_tests("rng-egd", add_tests);
}

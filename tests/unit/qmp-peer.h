/* A machine's monitor and its clients in one process: the test is the client, and runs the main loop
 * while it waits for an answer. */
#pragma once
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "monitor/monitor.h"
#include "src/base/options.h"
#include "tests/test.h"

typedef struct Peer {
    int fd;
    GString *in;
} Peer;

static inline json_object *json_of(const char *text)
{
    g_autoptr(GError) error = NULL;
    json_object *value = json_parse(text, strlen(text), &error);
    ck_assert_msg(value != NULL, "%s: %s", text, value ? "" : error->message);
    return value;
}

/* The main loop goes one turn; it may wait a little, so that a test does not spin.  A client in a
 * thread of its own (run_client) only waits. */
static inline void turn_loop(int fd)
{
    struct pollfd waiting = { .fd = fd, .events = POLLIN };
    if (!loop_is_current(loop_main()) || !loop_iterate(loop_main(), false))
        poll(&waiting, 1, 1);
}

static inline void client_done(void *done)
{
    *(bool *)done = true;
}

/* run_client: runs the main loop until @client, in a thread of its own, has returned; for tests of
 * commands that do not return to the loop for a while. */
typedef struct ClientRun {
    void (*client)(void *arg);
    void *arg;
    bool done;
} ClientRun;

static inline void *client_thread(void *opaque)
{
    ClientRun *run = opaque;
    run->client(run->arg);
    loop_post(loop_main(), client_done, &run->done);
    return NULL;
}

static inline void run_client(void (*client)(void *arg), void *arg)
{
    ClientRun run = { client, arg, false };
    GThread *thread = g_thread_new("client", client_thread, &run);
    loop_wait(&run.done);
    g_thread_join(thread);
}

/* Whether sessions do their I/O in the monitors' thread, or in the main loop. */
static bool with_thread G_GNUC_UNUSED;

static inline Vm *new_vm(void)
{
    g_autoptr(GError) error = NULL;
    Vm *vm = vm_new(&error);
    ck_assert_msg(vm != NULL, "%s", error ? error->message : "");
    ck_assert(!with_thread || monitor_start_thread(vm, NULL));
    return vm;
}

static inline void free_vm(Vm *vm)
{
    monitor_cleanup(vm);
    while (loop_iterate(loop_main(), false))
        ;
    vm_free(vm);
}

static inline Peer *peer_of(int fd)
{
    Peer *p = g_new0(Peer, 1);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    p->fd = fd;
    p->in = g_string_new(NULL);
    return p;
}

static inline void peer_close(Peer *p)
{
    close(p->fd);
    g_string_free(p->in, TRUE);
    g_free(p);
}

/* A chardev on one end of a socket pair, the peer on the other. */
static inline Peer *peer_with_chardev(Vm *vm, const char *id, Chardev **ret)
{
    int fds[2];
    g_autoptr(GError) error = NULL;
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    g_autofree char *text = g_strdup_printf("{\"backend\": \"socket\", \"id\": \"%s\", \"fd\": \"%d\"}",
                                            id, fds[0]);
    g_autoptr(json_object) options = json_of(text);
    *ret = chardev_create(vm->root, options, &error);
    ck_assert_msg(*ret != NULL, "%s", error ? error->message : "");
    return peer_of(fds[1]);
}

static inline Peer *peer_new(Vm *vm, const char *id)
{
    Chardev *chardev;
    g_autoptr(GError) error = NULL;
    Peer *p = peer_with_chardev(vm, id, &chardev);
    bool ok = monitor_add_qmp(vm, chardev, false, &error);
    ck_assert_msg(ok, "%s", ok ? "" : error->message);
    return p;
}

/* A socket that listens at @path, with a monitor behind it. */
static inline Chardev *listen_at(Vm *vm, const char *path)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = g_strdup_printf("unix:%s,server=on,wait=off", path);
    Chardev *chardev = chardev_create_compat(vm->root, "mon", text, &error);
    ck_assert_msg(chardev != NULL, "%s", error ? error->message : "");
    bool ok = monitor_add_qmp(vm, chardev, false, &error);
    ck_assert_msg(ok, "%s", ok ? "" : error->message);
    return chardev;
}

static inline Peer *peer_connect(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
    while (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        turn_loop(-1);
    return peer_of(fd);
}

static inline bool peer_read(Peer *p)
{
    char data[65536];
    ssize_t n = read(p->fd, data, sizeof(data));
    if (n > 0)
        g_string_append_len(p->in, data, n);
    return n > 0;
}

/* All of @data, with the loop running while the other side does not take it. */
static inline void peer_send_bytes(Peer *p, const char *data, size_t length)
{
    while (length) {
        ssize_t n = send(p->fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == ENOTSOCK)
            n = write(p->fd, data, length);
        if (n > 0) {
            data += n;
            length -= n;
        } else {
            turn_loop(p->fd);
            peer_read(p);
        }
    }
}

static inline void peer_send(Peer *p, const char *text)
{
    peer_send_bytes(p, text, strlen(text));
}

/* The next line, parsed; runs the loop until it is there. */
static inline json_object *peer_next(Peer *p)
{
    char *end;
    while (!(end = memchr(p->in->str, '\n', p->in->len))) {
        if (!peer_read(p))
            turn_loop(p->fd);
    }
    g_autoptr(GError) error = NULL;
    json_object *message = json_parse(p->in->str, end - p->in->str, &error);
    ck_assert_msg(message != NULL, "%s", message ? "" : error->message);
    g_string_erase(p->in, 0, end - p->in->str + 1);
    return message;
}

static inline json_object *get(json_object *object, const char *key)
{
    json_object *value = NULL;
    ck_assert_msg(json_object_object_get_ex(object, key, &value), "no '%s' in %s", key,
                  json_object_to_json_string(object));
    return value;
}

static inline bool has(json_object *object, const char *key)
{
    return json_object_object_get_ex(object, key, NULL);
}

static inline const char *get_str(json_object *object, const char *key)
{
    return json_object_get_string(get(object, key));
}

/* The next message is exactly this one. */
static inline void expect(Peer *p, const char *want)
{
    g_autoptr(json_object) message = peer_next(p);
    g_autoptr(json_object) wanted = json_of(want);
    ck_assert_msg(json_object_equal(message, wanted), "got %s, wanted %s",
                  json_object_to_json_string(message), want);
}

/* The next message is an error of this class, code and text. */
static inline void expect_error(Peer *p, const char *klass, const char *code, const char *desc)
{
    g_autoptr(json_object) message = peer_next(p);
    json_object *error = get(message, "error");
    ck_assert_str_eq(get_str(error, "desc"), desc);
    ck_assert_str_eq(get_str(error, "class"), klass);
    ck_assert_str_eq(get_str(error, "code"), code);
}

static inline void negotiate(Peer *p)
{
    g_autoptr(json_object) greeting = peer_next(p);
    get(greeting, "QMP");
    peer_send(p, "{\"execute\": \"qmp_capabilities\"}\n");
    expect(p, "{\"return\": {}}");
}

static inline Peer *peer_ready(Vm *vm, const char *id)
{
    Peer *p = peer_new(vm, id);
    negotiate(p);
    return p;
}

/* A machine and a client that has negotiated, for each test that wants no more. */
#define QMP_TEST(name)                                                                             \
    static void name##_body(Vm *vm, Peer *p);                                                      \
    START_TEST(name)                                                                               \
    {                                                                                              \
        Vm *vm = new_vm();                                                                         \
        Peer *p = peer_ready(vm, "mon0");                                                          \
        name##_body(vm, p);                                                                        \
        peer_close(p);                                                                             \
        free_vm(vm);                                                                               \
    }                                                                                              \
    END_TEST                                                                                       \
    static void name##_body(Vm *vm, Peer *p)

/* The QMP server, as its clients see it. */
#include "tests/unit/qmp-peer.h"
#include <pthread.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include "schema/events.h"
#include "src/base/fdset.h"

static void ask(Peer *p, const char *command, const char *reply)
{
    peer_send(p, command);
    expect(p, reply);
}

/* ---- negotiation, ids, errors ---- */

START_TEST(greeting_and_negotiation)
{
    Vm *vm = new_vm();
    Peer *p = peer_new(vm, "mon0");
    expect(p, "{\"QMP\": {\"version\": {\"qemu\": {\"major\": 7, \"minor\": 2, \"micro\": 0},"
              " \"package\": \"vireo-" VIREO_VERSION "\"}, \"capabilities\": [\"oob\"]}}");
    peer_send(p, "{\"execute\": \"query-status\"}");
    expect_error(p, "CommandNotFound", "command-not-found",
                 "Expecting capabilities negotiation with 'qmp_capabilities'");
    peer_send(p, "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"ob\"]}}");
    expect_error(p, "GenericError", "invalid-parameter",
                 "command 'qmp_capabilities': argument 'enable[0]': 'ob' is not one of: oob");
    ask(p, "{\"execute\": \"qmp_capabilities\"}", "{\"return\": {}}");
    peer_send(p, "{\"execute\": \"qmp_capabilities\"}");
    expect_error(p, "CommandNotFound", "command-not-found",
                 "Capabilities negotiation is already complete, command ignored");
    ask(p, "{\"execute\": \"query-status\"}",
        "{\"return\": {\"running\": false, \"singlestep\": false, \"status\": \"prelaunch\"}}");
    peer_close(p);
    free_vm(vm);
}
END_TEST

QMP_TEST(ids_come_back)
{
    static const char *const ids[] = { "\"libvirt-7\"", "42", "{\"a\": [1, null]}", "null", "false" };
    for (unsigned i = 0; i < G_N_ELEMENTS(ids); i++) {
        g_autofree char *command =
            g_strdup_printf("{\"execute\": \"query-kvm\", \"id\": %s}\n", ids[i]);
        g_autofree char *reply = g_strdup_printf(
            "{\"return\": {\"enabled\": false, \"present\": true}, \"id\": %s}", ids[i]);
        ask(p, command, reply);
    }
    peer_send(p, "{\"execute\": \"no\", \"id\": 1}");
    g_autoptr(json_object) failed = peer_next(p);
    ck_assert_int_eq(json_object_get_int(get(failed, "id")), 1);
}

START_TEST(errors_are_exact)
{
    static const struct {
        const char *text, *klass, *code, *desc;
    } cases[] = {
        { "{\"execute\": \"fly\"}", "CommandNotFound", "command-not-found",
          "there is no command 'fly'" },
        { "{}", "GenericError", "missing-parameter", "QMP input lacks member 'execute'" },
        { "[1]", "GenericError", "wrong-type", "QMP input must be a JSON object" },
        { "{\"execute\": 1}", "GenericError", "wrong-type",
          "QMP input member 'execute' must be a string" },
        { "{\"execute\": \"stop\", \"arguments\": []}", "GenericError", "wrong-type",
          "QMP input member 'arguments' must be an object" },
        { "{\"execute\": \"stop\", \"extra\": 1}", "GenericError", "unknown-parameter",
          "QMP input member 'extra' is unexpected" },
        { "{\"exec-oob\": \"query-status\"}", "GenericError", "unknown-parameter",
          "QMP input member 'exec-oob' is unexpected" },
        { "{\"execute\": \"stop\", \"arguments\": {\"now\": true}}", "GenericError",
          "unknown-parameter", "command 'stop': unknown argument 'now'" },
        { "{\"execute\": \"qom-get\", \"arguments\": {\"path\": \"/\"}}", "GenericError",
          "missing-parameter", "command 'qom-get': argument 'property' is missing" },
        { "{\"execute\": \"qom-get\", \"arguments\": {\"path\": \"/no\", \"property\": \"x\"}}",
          "DeviceNotFound", "device-not-found", "Device '/no' not found" },
        { "{\"execute\": \"device-list-properties\", \"arguments\": {\"typename\": \"x\"}}",
          "DeviceNotFound", "device-not-found", "Device 'x' not found" },
        { "nonsense\n", "GenericError", "invalid-syntax",
          "Invalid JSON: expected an object, found 'n'" },
        { "{\"execute\": \"stop\"]\n", "GenericError", "invalid-syntax",
          "Invalid JSON: ']' where '}' was expected" },
        { "{\"execute\": \"st\nop\"}\n", "GenericError", "invalid-syntax",
          "Invalid JSON: control character 0x0a in a string" },
    };
    Vm *vm = new_vm();
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *id = g_strdup_printf("mon%u", i);
        Peer *p = peer_ready(vm, id);
        peer_send(p, cases[i].text);
        expect_error(p, cases[i].klass, cases[i].code, cases[i].desc);
        peer_close(p);
    }
    free_vm(vm);
}
END_TEST

QMP_TEST(errors_have_hints)
{
    peer_send(p, "{\"execute\": \"set-action\", \"arguments\": {\"rebot\": \"reset\"}}");
    g_autoptr(json_object) message = peer_next(p);
    ck_assert_str_eq(get_str(get(message, "error"), "hint"), "did you mean 'reboot'?");
}

/* A connection lives on after whatever came over it. */
QMP_TEST(nonsense_does_not_end_a_session)
{
    g_autofree char *brackets = g_strnfill(1 << 20, '[');
    for (int i = 0; i < 100; i++)
        peer_send_bytes(p, brackets, 1 << 20);
    peer_send(p, "\n");
    expect_error(p, "GenericError", "limit", "Invalid JSON: nested deeper than 1024 levels");
    peer_send_bytes(p, "\0\1\2\xff", 4);
    expect_error(p, "GenericError", "invalid-syntax",
                 "Invalid JSON: expected an object, found byte 0x00");
    peer_send(p, "{\"execute\": \xff");
    expect_error(p, "GenericError", "invalid-syntax", "Invalid JSON: the value is not complete");
    ask(p, "{\"execute\": \"query-name\"}", "{\"return\": {}}");
}

/* ---- many commands, many clients ---- */

/* Whichever thread answers them. */
QMP_TEST(replies_come_in_order)
{
    GString *all = g_string_new(NULL);
    for (int i = 0; i < 3000; i++)
        g_string_append_printf(all, "{\"execute\":\"%s\",\"id\":%d}",
                               i % 3 ? "query-name" : "query-status", i);
    peer_send_bytes(p, all->str, all->len);
    for (int i = 0; i < 3000; i++) {
        g_autoptr(json_object) reply = peer_next(p);
        ck_assert_int_eq(json_object_get_int(get(reply, "id")), i);
    }
    g_string_free(all, TRUE);
}

QMP_TEST(one_byte_at_a_time)
{
    const char *text = "{\"execute\": \"query-name\", \"id\": \"slow \\\"typist\"}";
    for (; *text; text++) {
        peer_send_bytes(p, text, 1);
        while (loop_iterate(loop_main(), false))
            ;
    }
    expect(p, "{\"return\": {}, \"id\": \"slow \\\"typist\"}");
}

static char *socket_path(void)
{
    g_autofree char *folder = g_dir_make_tmp("vireo-qmp-XXXXXX", NULL);
    return g_build_filename(folder, "qmp", NULL);
}

static void remove_socket(const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);
    unlink(path);
    rmdir(folder);
}

START_TEST(a_thousand_clients)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    unsigned count = MIN(1000, (files.rlim_cur - 50) / 2);
    g_autofree char *path = socket_path();
    Vm *vm = new_vm();
    g_autoptr(GPtrArray) peers = g_ptr_array_new();
    listen_at(vm, path);
    for (unsigned i = 0; i < count; i++) {
        g_ptr_array_add(peers, peer_connect(path));
        negotiate(peers->pdata[i]);
    }
    event_reset(vm->root, true, QMP_SHUTDOWN_CAUSE_GUEST_RESET);
    for (unsigned i = 0; i < count; i++) {
        g_autoptr(json_object) event = peer_next(peers->pdata[i]);
        ck_assert_str_eq(get_str(event, "event"), "RESET");
        ck_assert_int_eq(json_object_get_int(get(event, "sequence")), 1);
    }
    for (unsigned i = 0; i < count; i += 2)
        peer_close(peers->pdata[i]);
    for (unsigned i = 1; i < count; i += 2) {
        ask(peers->pdata[i], "{\"execute\": \"query-name\"}", "{\"return\": {}}");
        peer_close(peers->pdata[i]);
    }
    free_vm(vm);
    remove_socket(path);
}
END_TEST

/* The connection before leaves nothing to the next one, not even half a message. */
START_TEST(a_new_connection_starts_afresh)
{
    g_autofree char *path = socket_path();
    Vm *vm = new_vm();
    listen_at(vm, path);
    for (int i = 0; i < 3; i++) {
        Peer *p = peer_connect(path);
        g_autoptr(json_object) greeting G_GNUC_UNUSED = peer_next(p);
        event_stop(vm->root);
        peer_send(p, "{\"execute\": \"qmp_capabilities\"}");
        expect(p, "{\"return\": {}}");
        peer_send(p, "{\"execute\": \"query-na");
        while (loop_iterate(loop_main(), false))
            ;
        peer_close(p);
    }
    free_vm(vm);
    remove_socket(path);
}
END_TEST

START_TEST(nobody_answers_after_the_end)
{
    g_autofree char *path = socket_path();
    Vm *vm = new_vm();
    listen_at(vm, path);
    Peer *waiting = peer_connect(path);    /* in the queue of the socket, not taken yet */
    monitor_cleanup(vm);
    while (loop_iterate(loop_main(), false))
        ;
    char data[4096];
    ssize_t n;
    while ((n = recv(waiting->fd, data, sizeof(data), 0)) > 0)
        ck_assert(with_thread);            /* which may have been quick, and greeted it */
    ck_assert(n == 0 || errno == ECONNRESET);
    ck_assert(!g_file_test(path, G_FILE_TEST_EXISTS));
    peer_close(waiting);
    free_vm(vm);
    remove_socket(path);
}
END_TEST

/* ---- events ---- */

START_TEST(events)
{
    Vm *vm = new_vm();
    Peer *p = peer_new(vm, "mon0"), *late = peer_new(vm, "mon1");
    negotiate(p);
    int64_t before = g_get_real_time();
    event_shutdown(vm->root, true, QMP_SHUTDOWN_CAUSE_GUEST_SHUTDOWN);
    event_device_deleted(vm->root, NULL, "/machine/x");
    g_autoptr(json_object) first = peer_next(p), second = peer_next(p);
    ck_assert_str_eq(get_str(first, "event"), "SHUTDOWN");
    ck_assert_str_eq(get_str(get(first, "data"), "reason"), "guest-shutdown");
    ck_assert(json_object_get_boolean(get(get(first, "data"), "guest")));
    json_object *stamp = get(first, "timestamp");
    int64_t at = json_object_get_int64(get(stamp, "seconds")) * G_USEC_PER_SEC +
                 json_object_get_int64(get(stamp, "microseconds"));
    ck_assert_int_ge(at, before);
    ck_assert_int_eq(json_object_get_int(get(first, "sequence")), 1);
    ck_assert(!has(get(second, "data"), "device"));
    ck_assert_int_eq(json_object_get_int(get(second, "sequence")), 2);
    ck_assert(!has(second, "dropped"));
    negotiate(late);                       /* hears nothing of what was before */
    event_stop(vm->root);
    g_autoptr(json_object) third = peer_next(late);
    ck_assert_str_eq(get_str(third, "event"), "STOP");
    ck_assert(!has(third, "data"));
    peer_close(p);
    peer_close(late);
    free_vm(vm);
}
END_TEST

/* A sanitizer keeps freed memory: nothing can be said then. */
#if defined(__SANITIZE_ADDRESS__)
#define MEMORY_TELLS false
#elif defined(__has_feature)
#define MEMORY_TELLS (!__has_feature(address_sanitizer))
#else
#define MEMORY_TELLS true
#endif

static size_t memory_used(void)
{
    size_t pages = 0;
    g_autofree char *text = NULL;
    if (MEMORY_TELLS && g_file_get_contents("/proc/self/statm", &text, NULL, NULL))
        sscanf(text, "%*s %zu", &pages);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* It loses its oldest events, is told so, and costs the others nothing. */
START_TEST(a_client_that_never_reads)
{
    enum { EVENTS = 50000, BURST = 20 };
    Vm *vm = new_vm();
    Peer *deaf = peer_ready(vm, "mon0"), *other = peer_ready(vm, "mon1");
    size_t used = memory_used();
    for (int i = 0; i < EVENTS; i++) {
        for (int n = i % BURST ? 0 : BURST; n; n--)
            event_reset(vm->root, false, QMP_SHUTDOWN_CAUSE_HOST_QMP_SYSTEM_RESET);
        g_autoptr(json_object) event = peer_next(other);
        ck_assert_int_eq(json_object_get_int(get(event, "sequence")), i + 1);
        ck_assert(!has(event, "dropped"));
    }
    ck_assert_uint_lt(memory_used(), used + (16 << 20));
    int sequence = 0, dropped = 0, seen = 0;
    while (sequence < EVENTS) {
        g_autoptr(json_object) event = peer_next(deaf);
        int next = json_object_get_int(get(event, "sequence"));
        int lost = has(event, "dropped") ? json_object_get_int(get(event, "dropped")) : 0;
        ck_assert_int_eq(next, sequence + lost + 1);
        sequence = next;
        dropped += lost;
        seen++;
    }
    ck_assert_int_gt(dropped, 0);
    ck_assert_int_eq(seen + dropped, EVENTS);
    peer_close(deaf);
    peer_close(other);
    free_vm(vm);
}
END_TEST

/* Commands whose replies nobody takes are not even read. */
START_TEST(a_client_that_only_sends)
{
    static const char command[] = "{\"execute\": \"query-qmp-schema\"}\n";
    Vm *vm = new_vm();
    Peer *deaf = peer_ready(vm, "mon0"), *other = peer_ready(vm, "mon1");
    size_t used = memory_used();
    for (int idle = 0, turns = 0; idle < 100 && turns < 100000; turns++) {
        ssize_t n = send(deaf->fd, command, strlen(command), MSG_DONTWAIT | MSG_NOSIGNAL);
        bool worked = loop_iterate(loop_main(), false);
        idle = n < 0 && !worked ? idle + 1 : 0;
    }
    ck_assert_int_lt(send(deaf->fd, command, strlen(command), MSG_DONTWAIT | MSG_NOSIGNAL), 0);
    ck_assert_uint_lt(memory_used(), used + (16 << 20));
    ask(other, "{\"execute\": \"query-name\"}", "{\"return\": {}}");
    peer_close(deaf);
    peer_close(other);
    free_vm(vm);
}
END_TEST

/* The first at once, of those within the second only the last. */
QMP_TEST(noisy_events_are_thinned_out)
{
    for (int i = 0; i < 100; i++)
        event_rtc_change(vm->root, i, "/machine/rtc");
    g_autoptr(json_object) first = peer_next(p), second = peer_next(p);
    ck_assert_int_eq(json_object_get_int(get(get(first, "data"), "offset")), 0);
    ck_assert_int_eq(json_object_get_int(get(get(second, "data"), "offset")), 99);
    ck_assert_int_eq(json_object_get_int(get(second, "sequence")), 2);
}

/* ---- descriptors ---- */

static void send_with_fd(Peer *p, const char *text, int fd)
{
    char control[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec iov = { (void *)text, strlen(text) };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
                          .msg_controllen = sizeof(control) };
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof(int));
    ck_assert_int_eq(sendmsg(p->fd, &msg, 0), (ssize_t)strlen(text));
}

QMP_TEST(descriptors)
{
    peer_send(p, "{\"execute\": \"getfd\", \"arguments\": {\"fdname\": \"x\"}}");
    expect_error(p, "GenericError", "missing-parameter",
                 "No file descriptor supplied via SCM_RIGHTS");
    send_with_fd(p, "{\"execute\": \"getfd\", \"arguments\": {\"fdname\": \"x\"}}", 0);
    expect(p, "{\"return\": {}}");
    ask(p, "{\"execute\": \"closefd\", \"arguments\": {\"fdname\": \"x\"}}", "{\"return\": {}}");
    peer_send(p, "{\"execute\": \"closefd\", \"arguments\": {\"fdname\": \"x\"}}");
    g_autoptr(json_object) gone = peer_next(p);
    ck_assert_str_eq(get_str(get(gone, "error"), "code"), "not-found");
    send_with_fd(p, "{\"execute\": \"add-fd\", \"arguments\": {\"fdset-id\": 3, \"opaque\": \"o\"}}", 0);
    g_autoptr(json_object) added = peer_next(p);
    int fd = json_object_get_int(get(get(added, "return"), "fd"));
    g_autofree char *sets = g_strdup_printf(
        "{\"return\": [{\"fdset-id\": 3, \"fds\": [{\"fd\": %d, \"opaque\": \"o\"}]}]}", fd);
    ask(p, "{\"execute\": \"query-fdsets\"}", sets);
    ask(p, "{\"execute\": \"remove-fd\", \"arguments\": {\"fdset-id\": 3}}", "{\"return\": {}}");
    ask(p, "{\"execute\": \"query-fdsets\"}", "{\"return\": []}");
}

static ino_t inode_of(int fd)
{
    struct stat st;
    ck_assert_int_eq(fstat(fd, &st), 0);
    return st.st_ino;
}

/* What a command left behind that failed before it took its descriptor is not the next one's. */
QMP_TEST(descriptors_of_a_failed_command)
{
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    int other = open("/dev/null", O_RDONLY | O_CLOEXEC);
    send_with_fd(p, "{\"execute\": \"getfd\", \"arguments\": {\"name\": \"x\"}}", ends[1]);
    json_object_put(peer_next(p));
    send_with_fd(p, "{\"execute\": \"getfd\", \"arguments\": {\"fdname\": \"x\"}}", other);
    expect(p, "{\"return\": {}}");
    close(ends[1]);
    int got = fd_name_take("x", NULL);
    ck_assert_int_ge(got, 0);
    ck_assert_uint_eq(inode_of(got), inode_of(other));
    close(got);
    close(other);
    /* Sent before the command that takes it. */
    send_with_fd(p, " ", ends[0]);
    ask(p, "{\"execute\": \"getfd\", \"arguments\": {\"fdname\": \"x\"}}", "{\"return\": {}}");
    got = fd_name_take("x", NULL);
    ck_assert_uint_eq(inode_of(got), inode_of(ends[0]));
    close(ends[0]);
    char byte;
    ck_assert_int_eq(read(got, &byte, 1), 0);      /* the other end is open nowhere any more */
    close(got);
}

/* ---- the end of what is sent ---- */

/* As with "printf … | socat - UNIX:…": whoever sends no more may still read. */
QMP_TEST(commands_are_answered_after_the_last_of_them)
{
    enum { COMMANDS = 40 };                /* more than are read ahead */
    for (unsigned i = 0; i < COMMANDS; i++) {
        g_autofree char *command = g_strdup_printf("{\"execute\": \"query-name\", \"id\": %u}", i);
        peer_send(p, command);
    }
    ck_assert_int_eq(shutdown(p->fd, SHUT_WR), 0);
    for (unsigned i = 0; i < COMMANDS; i++) {
        g_autoptr(json_object) reply = peer_next(p);
        ck_assert_int_eq(json_object_get_int(get(reply, "id")), (int)i);
    }
    char byte;
    while (recv(p->fd, &byte, 1, MSG_DONTWAIT))    /* 0: the connection has ended */
        turn_loop(p->fd);
}

/* ---- out of band ---- */

START_TEST(out_of_band)
{
    Vm *vm = new_vm();
    Peer *p = peer_new(vm, "mon0");
    g_autoptr(json_object) greeting G_GNUC_UNUSED = peer_next(p);
    ask(p, "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}",
        "{\"return\": {}}");
    peer_send(p, "{\"exec-oob\": \"stop\"}");
    expect_error(p, "GenericError", "invalid-parameter", "The command stop does not support OOB");
    peer_send(p, "{\"exec-oob\": \"query-status\", \"execute\": \"stop\"}");
    expect_error(p, "GenericError", "unknown-parameter",
                 "QMP input has both 'execute' and 'exec-oob'");
    peer_send(p, "{\"execute\": \"query-name\", \"id\": 1}{\"execute\": \"query-name\", \"id\": 2}"
                 "{\"exec-oob\": \"query-status\", \"id\": 3}");
    static const int order[] = { 3, 1, 2 };
    for (unsigned i = 0; i < G_N_ELEMENTS(order); i++) {
        g_autoptr(json_object) reply = peer_next(p);
        ck_assert_int_eq(json_object_get_int(get(reply, "id")), order[i]);
    }
    peer_close(p);
    free_vm(vm);
}
END_TEST

typedef struct Waiting {
    Peer *peer, *other;
    char *fifo;                            /* a pmemsave to it waits until it is opened for reading */
} Waiting;

static void waiting_open(Waiting *w, Vm *vm)
{
    g_autoptr(GError) error = NULL;
    w->fifo = socket_path();
    ck_assert_int_eq(mkfifo(w->fifo, 0600), 0);
    vm->machine = machine_new(vm->root, "none", &vm->lock, &vm->machine_env, NULL, &error);
    ck_assert_msg(vm->machine != NULL, "%s", error ? error->message : "");
}

static void send_slow_command(Waiting *w)
{
    g_autofree char *command = g_strdup_printf(
        "{\"execute\": \"pmemsave\", \"id\": \"slow\","
        " \"arguments\": {\"val\": 0, \"size\": 0, \"filename\": \"%s\"}}", w->fifo);
    peer_send(w->peer, command);
}

static void finish_slow_command(Waiting *w)
{
    int fd = open(w->fifo, O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    close(fd);
    remove_socket(w->fifo);
    g_free(w->fifo);
}

/* While a handler waits: its session runs what is out of band, other sessions run everything. */
static void talk_while_it_waits(void *opaque)
{
    Waiting *w = opaque;
    send_slow_command(w);
    peer_send(w->peer, "{\"execute\": \"query-name\", \"id\": \"after\"}");
    ask(w->other, "{\"execute\": \"query-name\"}", "{\"return\": {}}");
    peer_send(w->peer, "{\"exec-oob\": \"query-status\", \"id\": \"oob\"}");
    static const char *const order[] = { "oob", "slow", "after" };
    for (unsigned i = 0; i < G_N_ELEMENTS(order); i++) {
        g_autoptr(json_object) reply = peer_next(w->peer);
        ck_assert_str_eq(get_str(reply, "id"), order[i]);
        ck_assert_msg(has(reply, "return"), "%s", json_object_to_json_string(reply));
        if (!i)
            finish_slow_command(w);
    }
}

START_TEST(a_command_that_waits)
{
    Vm *vm = new_vm();
    Waiting w = { peer_new(vm, "mon0"), peer_ready(vm, "mon1"), NULL };
    g_autoptr(json_object) greeting G_GNUC_UNUSED = peer_next(w.peer);
    ask(w.peer, "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}",
        "{\"return\": {}}");
    waiting_open(&w, vm);
    run_client(talk_while_it_waits, &w);
    peer_close(w.peer);
    peer_close(w.other);
    free_vm(vm);
}
END_TEST

static void leave_while_it_waits(void *opaque)
{
    Waiting *w = opaque;
    send_slow_command(w);
    ask(w->other, "{\"execute\": \"query-name\"}", "{\"return\": {}}");
    peer_close(w->peer);
    for (int i = 0; i < 100; i++)
        ask(w->other, "{\"execute\": \"query-name\"}", "{\"return\": {}}");
    finish_slow_command(w);
    ask(w->other, "{\"execute\": \"query-name\"}", "{\"return\": {}}");
}

START_TEST(a_client_that_leaves_while_its_command_waits)
{
    Vm *vm = new_vm();
    g_autofree char *path = socket_path();
    listen_at(vm, path);
    Waiting w = { peer_connect(path), peer_connect(path), NULL };
    negotiate(w.peer);
    negotiate(w.other);
    waiting_open(&w, vm);
    run_client(leave_while_it_waits, &w);
    peer_close(w.other);
    free_vm(vm);
    remove_socket(path);
}
END_TEST

/* The main loop does nothing else until the client says so. */
typedef struct Stuck {
    Vm *vm;
    Peer *peer, *other;
    char *path;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool is, over;
} Stuck;

static void be_stuck(void *opaque)
{
    Stuck *s = opaque;
    pthread_mutex_lock(&s->mutex);
    s->is = true;
    pthread_cond_broadcast(&s->cond);
    while (!s->over)
        pthread_cond_wait(&s->cond, &s->mutex);
    pthread_mutex_unlock(&s->mutex);
}

static void wait_until_stuck(Stuck *s)
{
    loop_post(loop_main(), be_stuck, s);
    pthread_mutex_lock(&s->mutex);
    while (!s->is)
        pthread_cond_wait(&s->cond, &s->mutex);
    pthread_mutex_unlock(&s->mutex);
}

static void stuck_no_more(Stuck *s)
{
    pthread_mutex_lock(&s->mutex);
    s->over = true;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->mutex);
}

static Stuck *stuck_new(void)
{
    Stuck *s = g_new0(Stuck, 1);
    s->vm = new_vm();
    s->peer = peer_new(s->vm, "mon0");
    s->other = peer_ready(s->vm, "mon1");
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->cond, NULL);
    g_autoptr(json_object) greeting G_GNUC_UNUSED = peer_next(s->peer);
    ask(s->peer, "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}",
        "{\"return\": {}}");
    return s;
}

static void stuck_free(Stuck *s)
{
    peer_close(s->peer);
    peer_close(s->other);
    free_vm(s->vm);
    g_free(s);
}

/* Requests in band wait, in however many messages they come; those out of band do not. */
static void talk_while_stuck(void *opaque)
{
    Stuck *s = opaque;
    wait_until_stuck(s);
    peer_send(s->other, "{\"execute\": \"query-name\", \"id\": \"other\"}");
    peer_send(s->peer, "{\"execute\": \"query-name\", \"id\": 1}{\"execute\": \"query-na");
    peer_send(s->peer, "me\", \"id\": 2}{\"exec-oob\": \"query-status\", \"id\": \"oob\"}");
    expect(s->peer, "{\"return\": {\"running\": false, \"singlestep\": false,"
                    " \"status\": \"prelaunch\"}, \"id\": \"oob\"}");
    peer_send(s->peer, "{\"exec-oob\": \"stop\"}");
    expect_error(s->peer, "GenericError", "invalid-parameter",
                 "The command stop does not support OOB");
    peer_send(s->peer, "{\"exec-oob\": \"query-migrate\", \"id\": 3}");
    expect(s->peer, "{\"return\": {}, \"id\": 3}");
    stuck_no_more(s);
    expect(s->peer, "{\"return\": {}, \"id\": 1}");
    expect(s->peer, "{\"return\": {}, \"id\": 2}");
    expect(s->other, "{\"return\": {}, \"id\": \"other\"}");
}

START_TEST(the_main_loop_is_stuck)
{
    Stuck *s = stuck_new();
    run_client(talk_while_stuck, s);
    stuck_free(s);
}
END_TEST

/* Who comes while it is stuck is greeted, and hears of what happens. */
static void come_while_stuck(void *opaque)
{
    Stuck *s = opaque;
    wait_until_stuck(s);
    Peer *p = peer_connect(s->path);
    g_autoptr(json_object) greeting = peer_next(p);
    get(greeting, "QMP");
    ask(p, "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}",
        "{\"return\": {}}");
    peer_send(p, "{\"execute\": \"query-name\", \"id\": 1}");
    ask(p, "{\"exec-oob\": \"query-migrate\", \"id\": 2}", "{\"return\": {}, \"id\": 2}");
    ask(p, "{\"exec-oob\": \"quit\", \"id\": 3}", "{\"return\": {}, \"id\": 3}");
    peer_close(peer_connect(s->path));
    stuck_no_more(s);
    /* The name's turn and the event's are the main loop's to choose. */
    g_autoptr(json_object) first = peer_next(p), second = peer_next(p);
    json_object *event = has(first, "event") ? first : second;
    ck_assert_str_eq(get_str(event, "event"), "SHUTDOWN");
    ck_assert_int_eq(json_object_get_int(get(event == first ? second : first, "id")), 1);
    peer_close(p);
}

START_TEST(clients_come_while_the_main_loop_is_stuck)
{
    Stuck *s = stuck_new();
    g_autofree char *path = s->path = socket_path();
    Chardev *chardev = listen_at(s->vm, path);
    run_client(come_while_stuck, s);
    g_autofree char *name = chardev_filename(chardev);
    ck_assert_msg(g_str_has_suffix(name, ",server=on"), "%s", name);
    stuck_free(s);
    remove_socket(path);
}
END_TEST

/* A session of a kind of stream: written at @to, read at @from. */
static void talk_out_of_band(Peer *to, Peer *from)
{
    g_autoptr(json_object) greeting = peer_next(from);
    get(greeting, "QMP");
    peer_send(to, "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}\n");
    expect(from, "{\"return\": {}}");
    peer_send(to, "{\"execute\": \"query-name\", \"id\": 1}\n");
    peer_send(to, "{\"exec-oob\": \"query-migrate\", \"id\": 2}\n");
    expect(from, "{\"return\": {}, \"id\": 2}");
}

static void open_terminal_while_stuck(void *opaque)
{
    Stuck *s = opaque;
    wait_until_stuck(s);
    Peer *p = peer_of(open(s->path, O_RDWR | O_NOCTTY | O_CLOEXEC));
    ck_assert_int_ge(p->fd, 0);
    talk_out_of_band(p, p);
    stuck_no_more(s);
    expect(p, "{\"return\": {}, \"id\": 1}");
    peer_close(p);
}

START_TEST(a_terminal_is_opened_while_the_main_loop_is_stuck)
{
    Stuck *s = stuck_new();
    Chardev *chardev = chardev_create_compat(s->vm->root, "pty", "pty", NULL);
    ck_assert(monitor_add_qmp(s->vm, chardev, false, NULL));
    s->path = (char *)chardev_pty_path(chardev);
    run_client(open_terminal_while_stuck, s);
    stuck_free(s);
}
END_TEST

static Peer *fifo_peer(const char *path, const char *suffix)
{
    g_autofree char *name = g_strconcat(path, suffix, NULL);
    int fd = open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    return peer_of(fd);
}

static void use_pipe_while_stuck(void *opaque)
{
    Stuck *s = opaque;
    Peer *to = fifo_peer(s->path, ".in"), *from = fifo_peer(s->path, ".out");
    wait_until_stuck(s);
    talk_out_of_band(to, from);
    stuck_no_more(s);
    expect(from, "{\"return\": {}, \"id\": 1}");
    peer_close(to);
    peer_close(from);
}

START_TEST(a_pipe_is_used_while_the_main_loop_is_stuck)
{
    Stuck *s = stuck_new();
    g_autofree char *path = s->path = socket_path();
    g_autofree char *in = g_strconcat(path, ".in", NULL), *out = g_strconcat(path, ".out", NULL);
    g_autofree char *text = g_strconcat("pipe:", path, NULL);
    ck_assert(mkfifo(in, 0600) == 0 && mkfifo(out, 0600) == 0);
    Chardev *chardev = chardev_create_compat(s->vm->root, "pipe", text, NULL);
    ck_assert(monitor_add_qmp(s->vm, chardev, false, NULL));
    run_client(use_pipe_while_stuck, s);
    stuck_free(s);
    unlink(in);
    unlink(out);
    remove_socket(path);
}
END_TEST

static void quit_while_stuck(void *opaque)
{
    Stuck *s = opaque;
    wait_until_stuck(s);
    peer_send(s->peer, "{\"exec-oob\": \"quit\"}");
    expect(s->peer, "{\"return\": {}}");
    stuck_no_more(s);
    g_autoptr(json_object) event = peer_next(s->peer);
    ck_assert_str_eq(get_str(event, "event"), "SHUTDOWN");
}

START_TEST(quit_while_the_main_loop_is_stuck)
{
    Stuck *s = stuck_new();
    run_client(quit_while_stuck, s);
    ck_assert(s->vm->quit);
    stuck_free(s);
}
END_TEST

QMP_TEST(quit_is_answered)
{
    peer_send(p, "{\"execute\": \"quit\"}");
    g_autoptr(json_object) event = peer_next(p), reply = peer_next(p);
    ck_assert_str_eq(get_str(event, "event"), "SHUTDOWN");
    ck_assert_str_eq(get_str(get(event, "data"), "reason"), "host-qmp-quit");
    ck_assert(has(reply, "return"));
    ck_assert(vm->quit);
}

/* Both ends send by it. */
static gint sends;

ssize_t send(int fd, const void *data, size_t length, int flags)
{
    g_atomic_int_inc(&sends);
    return syscall(SYS_sendto, fd, data, length, flags, NULL, 0);
}

/* Of what is read at once, all that the monitors' thread answers is written at once. */
START_TEST(answers_to_a_batch_come_together)
{
    enum { COMMANDS = 10 };
    Vm *vm = new_vm();
    Peer *p = peer_ready(vm, "mon");
    g_autoptr(GString) batch = g_string_new(NULL);
    for (int i = 0; i < COMMANDS; i++)
        g_string_append(batch, "{\"execute\": \"query-status\"}");
    g_atomic_int_set(&sends, 0);
    peer_send(p, batch->str);
    for (int i = 0; i < COMMANDS; i++)
        json_object_put(peer_next(p));
    ck_assert_int_eq(g_atomic_int_get(&sends), 2);         /* the batch, and its answers */
    peer_close(p);
    free_vm(vm);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 100);
    tcase_add_test(tc, greeting_and_negotiation);
    tcase_add_test(tc, ids_come_back);
    tcase_add_test(tc, errors_are_exact);
    tcase_add_test(tc, errors_have_hints);
    tcase_add_test(tc, nonsense_does_not_end_a_session);
    tcase_add_test(tc, replies_come_in_order);
    tcase_add_test(tc, one_byte_at_a_time);
    tcase_add_test(tc, a_thousand_clients);
    tcase_add_test(tc, a_new_connection_starts_afresh);
    tcase_add_test(tc, nobody_answers_after_the_end);
    tcase_add_test(tc, events);
    tcase_add_test(tc, a_client_that_never_reads);
    tcase_add_test(tc, a_client_that_only_sends);
    tcase_add_test(tc, noisy_events_are_thinned_out);
    tcase_add_test(tc, descriptors);
    tcase_add_test(tc, descriptors_of_a_failed_command);
    tcase_add_test(tc, commands_are_answered_after_the_last_of_them);
    tcase_add_test(tc, out_of_band);
    tcase_add_test(tc, a_command_that_waits);
    tcase_add_test(tc, a_client_that_leaves_while_its_command_waits);
    tcase_add_test(tc, quit_is_answered);
}

static void add_thread_tests(TCase *tc)
{
    add_tests(tc);
    tcase_add_test(tc, answers_to_a_batch_come_together);
    tcase_add_test(tc, the_main_loop_is_stuck);
    tcase_add_test(tc, clients_come_while_the_main_loop_is_stuck);
    tcase_add_test(tc, a_terminal_is_opened_while_the_main_loop_is_stuck);
    tcase_add_test(tc, a_pipe_is_used_while_the_main_loop_is_stuck);
    tcase_add_test(tc, quit_while_the_main_loop_is_stuck);
}

int main(void)
{
    int failed = run_tests("qmp-server", add_tests);
    with_thread = true;
    return run_tests("qmp-server, with a thread", add_thread_tests) | failed;
}

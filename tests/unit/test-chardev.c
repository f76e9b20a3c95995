/* Character devices: each kind, its options, and what happens when peers come, go, or never read. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>
#include "src/base/fdset.h"
#include "src/base/options.h"
#include "src/base/util.h"
#include "src/chardev/chardev.h"
#include "tests/test.h"

/* A front end that logs what it hears. */
typedef struct Front {
    CharFront front;
    GString *in, *events;
    size_t room;
    unsigned writable;
} Front;

static Object *root;
static char *dir;

static void setup(void)
{
    root = object_new_by_name("container", NULL);
    dir = g_dir_make_tmp("vireo-chardev-XXXXXX", NULL);
}

static void teardown(void)
{
    object_unref(root);
    g_autofree char *command = g_strdup_printf("rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
    g_free(dir);
}

static size_t can_receive(void *opaque)
{
    return ((Front *)opaque)->room;
}

static void receive(void *opaque, const uint8_t *data, size_t length)
{
    Front *f = opaque;
    ck_assert_uint_le(length, f->room);
    g_string_append_len(f->in, (const char *)data, (gssize)length);
}

static void event(void *opaque, CharEvent what)
{
    static const char letters[] = "OCBIo"; /* opened, closed, break, mux in, mux out */
    g_string_append_c(((Front *)opaque)->events, letters[what]);
}

static void writable(void *opaque)
{
    ((Front *)opaque)->writable++;
}

static void front_init(Front *f)
{
    *f = (Front){ .in = g_string_new(NULL), .events = g_string_new(NULL), .room = 1 << 16 };
    f->front = (CharFront){ .can_receive = can_receive, .receive = receive, .event = event,
                            .writable = writable, .opaque = f };
}

static void front_drop(Front *f)
{
    char_front_detach(&f->front);
    g_string_free(f->in, TRUE);
    g_string_free(f->events, TRUE);
}

static Chardev *make(const char *format, ...) G_GNUC_PRINTF(1, 2);
static Chardev *make(const char *format, ...)
{
    GError *error = NULL;
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_autoptr(json_object) options = options_parse(text, "backend", NULL);
    Chardev *cd = chardev_create(root, options, &error);
    ck_assert_msg(cd != NULL, "%s: %s", text, error ? error->message : "");
    return cd;
}

static void refuse(const char *text, ErrorCode code, const char *says)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_object) options = options_parse(text, "backend", NULL);
    ck_assert_msg(!chardev_create(root, options, &error), "%s was taken", text);
    ck_assert_msg(strstr(error->message, says) != NULL, "%s: %s", text, error->message);
    ck_assert_int_eq(error_get_code(error), code);
}

static void until(bool (*done)(void *opaque), void *opaque)
{
    while (!done(opaque))
        loop_iterate(loop_main(), true);
}

static void settle(void)
{
    while (loop_iterate(loop_main(), false))
        continue;
}

/* Turns the loop until the text is there. */
static void expect_in(Front *f, const char *text)
{
    while (f->in->len < strlen(text))
        loop_iterate(loop_main(), true);
    ck_assert_str_eq(f->in->str, text);
    g_string_truncate(f->in, 0);
}

static void expect_events(Front *f, const char *text)
{
    while (f->events->len < strlen(text))
        loop_iterate(loop_main(), true);
    ck_assert_str_eq(f->events->str, text);
    g_string_truncate(f->events, 0);
}

static void send_text(Front *f, const char *text)
{
    ck_assert_uint_eq(char_front_write(&f->front, text, strlen(text)), strlen(text));
}

static void expect_read(int fd, const char *text)
{
    char buffer[4096];
    size_t have = 0;
    while (have < strlen(text)) {
        struct pollfd p = { fd, POLLIN, 0 };
        ck_assert_int_ge(poll(&p, 1, 10000), 1);
        ssize_t n = read(fd, buffer + have, sizeof(buffer) - have);
        ck_assert_int_gt(n, 0);
        have += (size_t)n;
    }
    ck_assert_uint_eq(have, strlen(text));
    ck_assert_mem_eq(buffer, text, have);
}

static int connect_unix(const char *path)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_strlcpy(un.sun_path, path, sizeof(un.sun_path));
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    return fd;
}

/* --- null, file, pipe, ringbuf, pty --- */

START_TEST(null_takes_all)
{
    Front f;
    front_init(&f);
    Chardev *cd = make("null,id=n");
    ck_assert(char_front_attach(&f.front, cd, NULL));
    send_text(&f, "into the void");
    ck_assert_str_eq(f.events->str, "O");
    g_autofree char *name = chardev_filename(cd);
    ck_assert_str_eq(name, "null");
    ck_assert_str_eq(chardev_id(cd), "n");
    chardev_send_break(cd);
    ck_assert_str_eq(f.events->str, "OB");
    ck_assert(!chardev_frontend_open(cd));
    char_front_set_open(&f.front, true);
    ck_assert(chardev_frontend_open(cd));
    front_drop(&f);
}
END_TEST

static void expect_file(const char *path, const char *want)
{
    g_autofree char *text = NULL;
    ck_assert(g_file_get_contents(path, &text, NULL, NULL));
    ck_assert_str_eq(text, want);
}

START_TEST(file_writes_and_reads)
{
    Front f;
    front_init(&f);
    g_autofree char *out = g_build_filename(dir, "out", NULL);
    g_autofree char *in = g_build_filename(dir, "in", NULL);
    g_autofree char *log = g_build_filename(dir, "log", NULL);
    g_file_set_contents(in, "typed", -1, NULL);
    g_file_set_contents(out, "old ", -1, NULL);
    ck_assert(char_front_attach(
        &f.front, make("file,id=a,path=%s,append=on,input-path=%s,logfile=%s", out, in, log), NULL));
    send_text(&f, "new");
    expect_in(&f, "typed");
    settle();
    front_drop(&f);
    ck_assert(chardev_delete(root, "a", NULL));
    expect_file(out, "old new");
    expect_file(log, "new");
    make("file,id=b,path=%s", out);
    expect_file(out, "");
}
END_TEST

START_TEST(file_in_an_fd_set)
{
    Front f;
    front_init(&f);
    g_autofree char *out = g_build_filename(dir, "out", NULL);
    ck_assert(fdset_add(open(out, O_WRONLY | O_CREAT, 0600), 3, NULL, NULL, NULL));
    ck_assert(char_front_attach(&f.front, make("file,id=a,path=/dev/fdset/3,append=on"), NULL));
    send_text(&f, "through");
    front_drop(&f);
    expect_file(out, "through");
    fdset_clear();
}
END_TEST

START_TEST(pipe_has_two_ends)
{
    Front f;
    front_init(&f);
    g_autofree char *path = g_build_filename(dir, "p", NULL);
    g_autofree char *in = g_strconcat(path, ".in", NULL), *out = g_strconcat(path, ".out", NULL);
    ck_assert_int_eq(mkfifo(in, 0600), 0);
    ck_assert_int_eq(mkfifo(out, 0600), 0);
    ck_assert(char_front_attach(&f.front, make("pipe,id=p,path=%s", path), NULL));
    int to = open(in, O_WRONLY), from = open(out, O_RDONLY);
    send_text(&f, "out");
    expect_read(from, "out");
    ck_assert_int_eq(write(to, "in", 2), 2);
    expect_in(&f, "in");
    close(to);
    close(from);
    front_drop(&f);
}
END_TEST

START_TEST(ringbuf_wraps)
{
    Front f;
    GError *error = NULL;
    front_init(&f);
    Chardev *cd = make("ringbuf,id=r,size=8");
    ck_assert(char_front_attach(&f.front, cd, NULL));
    send_text(&f, "0123456789");
    g_autoptr(GBytes) some = chardev_ringbuf_read(cd, 3, NULL);
    ck_assert_mem_eq(g_bytes_get_data(some, NULL), "234", 3);
    ck_assert(chardev_ringbuf_write(cd, (const uint8_t *)"ab", 2, NULL));
    g_autoptr(GBytes) rest = chardev_ringbuf_read(cd, 100, NULL);
    ck_assert_uint_eq(g_bytes_get_size(rest), 7);
    ck_assert_mem_eq(g_bytes_get_data(rest, NULL), "56789ab", 7);
    g_autoptr(GBytes) none = chardev_ringbuf_read(cd, 100, NULL);
    ck_assert_uint_eq(g_bytes_get_size(none), 0);
    ck_assert_ptr_null(chardev_ringbuf_read(make("null,id=n"), 1, &error));
    g_clear_error(&error);
    front_drop(&f);
    refuse("ringbuf,id=x,size=100", ERR_INVALID_PARAMETER, "power of two");
    refuse("ringbuf,id=x,size=0", ERR_INVALID_PARAMETER, "power of two");
}
END_TEST

START_TEST(pty_echo)
{
    Front f;
    front_init(&f);
    Chardev *cd = make("pty,id=t");
    ck_assert(char_front_attach(&f.front, cd, NULL));
    send_text(&f, "nobody hears this");
    ck_assert(!char_front_connected(&f.front));
    g_autofree char *name = chardev_filename(cd);
    ck_assert_str_eq(name + 4, chardev_pty_path(cd));
    for (int round = 0; round < 2; round++) {
        int fd = open(chardev_pty_path(cd), O_RDWR | O_NOCTTY);
        ck_assert_int_ge(fd, 0);
        expect_events(&f, "O");
        ck_assert_int_eq(write(fd, "hi\n", 3), 3);
        expect_in(&f, "hi\n");
        send_text(&f, "ho\n");
        expect_read(fd, "ho\n");
        close(fd);
        expect_events(&f, "C");
    }
    front_drop(&f);
}
END_TEST

/* --- sockets --- */

START_TEST(unix_server_serves_one_after_another)
{
    Front f;
    front_init(&f);
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    Chardev *cd = make("socket,id=s,path=%s,server=on,wait=off", path);
    ck_assert(char_front_attach(&f.front, cd, NULL));
    for (int round = 0; round < 3; round++) {
        g_autofree char *before = chardev_filename(cd);
        ck_assert(g_str_has_prefix(before, "disconnected:unix:"));
        send_text(&f, "dropped");
        int fd = connect_unix(path);
        expect_events(&f, "O");
        g_autofree char *now = chardev_filename(cd);
        ck_assert(g_str_has_prefix(now, "unix:") && g_str_has_suffix(now, ",server=on"));
        ck_assert_int_eq(write(fd, "ping", 4), 4);
        expect_in(&f, "ping");
        send_text(&f, "pong");
        expect_read(fd, "pong");
        close(fd);
        expect_events(&f, "C");
    }
    front_drop(&f);
    ck_assert(chardev_delete(root, "s", NULL));
    ck_assert_int_eq(access(path, F_OK), -1);
}
END_TEST

/* What was sent before the peer went is read, also when there was no room for it then. */
START_TEST(nothing_is_lost_at_the_end)
{
    Front f;
    front_init(&f);
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    f.room = 0;
    ck_assert(char_front_attach(&f.front, make("socket,id=s,path=%s,server,nowait", path), NULL));
    int fd = connect_unix(path);
    expect_events(&f, "O");
    ck_assert_int_eq(write(fd, "last words", 10), 10);
    close(fd);
    settle();
    ck_assert_uint_eq(f.in->len, 0);
    ck_assert_str_eq(f.events->str, "");
    f.room = 4;
    char_front_accept_input(&f.front);
    expect_in(&f, "last words");
    expect_events(&f, "C");
    front_drop(&f);
}
END_TEST

static bool is_connected(void *opaque)
{
    return char_front_connected(&((Front *)opaque)->front);
}

START_TEST(client_comes_back)
{
    Front server, client;
    front_init(&server);
    front_init(&client);
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    Chardev *c = make("socket,id=c,path=%s,reconnect-ms=5", path); /* nobody listens yet */
    ck_assert(char_front_attach(&client.front, c, NULL));
    for (int round = 0; round < 2; round++) {
        Chardev *s = make("socket,id=s,path=%s,server=on,wait=off", path);
        ck_assert(char_front_attach(&server.front, s, NULL));
        until(is_connected, &client);
        until(is_connected, &server);
        send_text(&client, "hello");
        expect_in(&server, "hello");
        char_front_detach(&server.front);
        ck_assert(chardev_delete(root, "s", NULL));
        expect_events(&client, "OC");
    }
    front_drop(&client);
    front_drop(&server);
}
END_TEST

START_TEST(tcp_on_any_port)
{
    Front server, client;
    front_init(&server);
    front_init(&client);
    Chardev *s = make("socket,id=s,host=127.0.0.1,port=0,server=on,wait=off,nodelay=on");
    g_autofree char *name = chardev_filename(s);
    int port = 0;
    ck_assert_int_eq(sscanf(name, "disconnected:tcp:127.0.0.1:%d,server=on", &port), 1);
    ck_assert(char_front_attach(&server.front, s, NULL));
    Chardev *c = make("socket,id=c,host=127.0.0.1,port=%d", port);
    ck_assert(char_front_attach(&client.front, c, NULL));
    send_text(&client, "over tcp");
    expect_in(&server, "over tcp");
    g_autofree char *now = chardev_filename(s);
    ck_assert_ptr_nonnull(strstr(now, " <-> tcp:127.0.0.1:"));
    front_drop(&client);
    front_drop(&server);
}
END_TEST

static void send_fds(int fd, const int *fds, unsigned count)
{
    union {
        char bytes[CMSG_SPACE(4 * sizeof(int))];
        struct cmsghdr align;
    } control = { 0 };
    struct iovec iov = { (char *)"x", 1 };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
                          .msg_controllen = CMSG_SPACE(count * sizeof(int)) };
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(c), fds, count * sizeof(int));
    ck_assert_int_eq(sendmsg(fd, &msg, 0), 1);
}

START_TEST(descriptors_come_along)
{
    Front f;
    front_init(&f);
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    int p[2];
    ck_assert(char_front_attach(&f.front, make("socket,id=s,path=%s,server,nowait", path), NULL));
    int fd = connect_unix(path);
    ck_assert_int_eq(pipe(p), 0);
    ck_assert_int_eq(char_front_take_fd(&f.front), -1);
    send_fds(fd, p, 2);
    expect_in(&f, "x");
    int first = char_front_take_fd(&f.front);
    ck_assert_int_ge(first, 0);
    ck_assert_int_eq(write(p[1], "via", 3), 3);
    expect_read(first, "via");
    ck_assert_int_eq(fcntl(first, F_GETFD), FD_CLOEXEC);
    for (int i = 0; i < 40; i++) { /* more than are kept: the rest is closed, nothing breaks */
        send_fds(fd, p, 2);
        expect_in(&f, "x");
    }
    close(fd);
    expect_events(&f, "OC");
    ck_assert_int_eq(char_front_take_fd(&f.front), -1);
    close(first);
    close(p[0]);
    close(p[1]);
    front_drop(&f);
}
END_TEST

START_TEST(inherited_sockets)
{
    Front f;
    front_init(&f);
    int sv[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
    ck_assert(fd_name_put("conn", sv[0], NULL));
    Chardev *cd = make("socket,id=c,fd=conn");
    ck_assert(char_front_attach(&f.front, cd, NULL));
    ck_assert_int_eq(write(sv[1], "hi", 2), 2);
    expect_in(&f, "hi");
    close(sv[1]);
    expect_events(&f, "OC");
    front_drop(&f);

    struct sockaddr_un un = { .sun_family = AF_UNIX };
    g_autofree char *path = g_build_filename(dir, "l", NULL);
    g_strlcpy(un.sun_path, path, sizeof(un.sun_path));
    int listening = socket(AF_UNIX, SOCK_STREAM, 0);
    ck_assert_int_eq(bind(listening, (struct sockaddr *)&un, sizeof(un)), 0);
    ck_assert_int_eq(listen(listening, 1), 0);
    front_init(&f);
    ck_assert(char_front_attach(&f.front, make("socket,id=l,fd=%d,server=on,wait=off", listening),
                                NULL));
    int fd = connect_unix(path);
    expect_events(&f, "O");
    send_text(&f, "hey");
    expect_read(fd, "hey");
    close(fd);
    front_drop(&f);
    refuse("socket,id=x,fd=nosuch", ERR_NOT_FOUND, "named 'nosuch' not found");
}
END_TEST

static void *connect_later(void *opaque)
{
    int fd = -1;
    while (fd < 0) { /* until the other thread listens */
        struct sockaddr_un un = { .sun_family = AF_UNIX };
        g_strlcpy(un.sun_path, opaque, sizeof(un.sun_path));
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&un, sizeof(un))) {
            close(fd);
            fd = -1;
            g_usleep(1000);
        }
    }
    return GINT_TO_POINTER(fd);
}

START_TEST(server_waits_for_its_client)
{
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    GThread *thread = g_thread_new("client", connect_later, path);
    Front f;
    front_init(&f);
    ck_assert(char_front_attach(&f.front, make("socket,id=s,path=%s,server=on", path), NULL));
    ck_assert(char_front_connected(&f.front)); /* before any turn of the loop */
    close(GPOINTER_TO_INT(g_thread_join(thread)));
    front_drop(&f);
}
END_TEST

typedef struct Many {
    Chardev *connections[3];
    Front fronts[3];
    unsigned count;
} Many;

static void on_accept(Chardev *connection, void *opaque)
{
    Many *many = opaque;
    front_init(&many->fronts[many->count]);
    many->connections[many->count] = connection;
    ck_assert(char_front_attach(&many->fronts[many->count++].front, connection, NULL));
}

static Chardev *change(const char *text, GError **error)
{
    g_autoptr(json_object) options = options_parse(text, "backend", NULL);
    return chardev_change(root, options, error);
}

static void refuse_change(const char *text, ErrorCode code, const char *says)
{
    g_autoptr(GError) error = NULL;
    ck_assert_msg(!change(text, &error), "%s was taken", text);
    ck_assert_msg(strstr(error->message, says) != NULL, "%s: %s", text, error->message);
    ck_assert_int_eq(error_get_code(error), code);
}

START_TEST(a_back_end_is_changed)
{
    Front f;
    front_init(&f);
    int fds[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    Chardev *user = object_ref(make("socket,id=c,fd=%d", fds[0]));    /* as a device's property */
    f.front.slot = &user;
    ck_assert(char_front_attach(&f.front, user, NULL));
    char_front_set_open(&f.front, true);
    while (char_front_write(&f.front, "to nobody", 9) == 9)
        ;                                  /* it waits for its peer */
    g_autofree char *out = g_build_filename(dir, "out", NULL);
    refuse_change("null,id=d", ERR_NOT_FOUND, "Chardev 'd' does not exist");
    refuse_change("file,id=c,path=/no/such/folder/x", ERR_NOT_FOUND, "chardev 'c' stays as it was: ");
    refuse_change("null,id=c,mux=on", ERR_UNSUPPORTED, "cannot change to a multiplexer");
    ck_assert_str_eq(f.events->str, "O");
    g_autofree char *text = g_strdup_printf("file,id=c,path=%s", out);
    Chardev *file = change(text, NULL);
    ck_assert_ptr_nonnull(file);
    ck_assert_str_eq(f.events->str, "OCO");
    ck_assert_ptr_eq(user, file);
    ck_assert_ptr_eq(chardev_find(root, "c"), file);
    ck_assert(chardev_frontend_open(file));
    settle();
    ck_assert_uint_eq(f.writable, 1);
    send_text(&f, "to a file");
    expect_file(out, "to a file");
    char drained[4096];
    while (read(fds[1], drained, sizeof(drained)) > 0)
        ;                                  /* to the end: the old one is closed */
    close(fds[1]);
    ck_assert(!chardev_delete(root, "c", NULL));
    front_drop(&f);
    object_unref(user);
    ck_assert(change("null,id=c", NULL));  /* one without a front end */
    ck_assert(chardev_delete(root, "c", NULL));
}
END_TEST

START_TEST(what_cannot_be_changed)
{
    Front f;
    Many many = { .count = 0 };
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    front_init(&f);
    make("ringbuf,id=m,mux=on");
    refuse_change("null,id=m", ERR_UNSUPPORTED, "is a multiplexer");
    refuse_change("null,id=m-base", ERR_UNSUPPORTED, "its user does not support");
    ck_assert(char_front_attach(&f.front, make("null,id=n"), NULL));
    refuse_change("null,id=n", ERR_UNSUPPORTED, "its user does not support");
    ck_assert(chardev_listen_many(make("socket,id=s,path=%s,server=on,wait=off", path), loop_main(),
                                  on_accept, &many, NULL));
    refuse_change("null,id=s", ERR_UNSUPPORTED, "its user does not support");
    front_drop(&f);
}
END_TEST

START_TEST(many_clients_on_one_socket)
{
    Many many = { .count = 0 };
    GError *error = NULL;
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    Chardev *cd = make("socket,id=s,path=%s,server=on,wait=off", path);
    ck_assert(!chardev_listen_many(make("null,id=n"), loop_main(), on_accept, &many,
                                   &error));
    ck_assert_int_eq(error_get_code(error), ERR_UNSUPPORTED);
    g_clear_error(&error);
    ck_assert(chardev_listen_many(cd, loop_main(), on_accept, &many, NULL));
    int fds[3];
    for (int i = 0; i < 3; i++)
        fds[i] = connect_unix(path);
    while (many.count < 3)
        loop_iterate(loop_main(), true);
    for (int i = 0; i < 3; i++) {
        char text[8];
        g_snprintf(text, sizeof(text), "to %d", i);
        send_text(&many.fronts[i], text);
        expect_read(fds[i], text);
        ck_assert_ptr_eq(object_root(OBJECT(many.connections[i])), root);
    }
    close(fds[1]);
    expect_events(&many.fronts[1], "OC");
    ck_assert_str_eq(many.fronts[0].events->str, "O");
    ck_assert_int_eq(write(fds[2], "still here", 10), 10);
    expect_in(&many.fronts[2], "still here");
    ck_assert(!chardev_delete(root, "s", NULL));
    for (int i = 0; i < 3; i++) {
        front_drop(&many.fronts[i]);
        object_unref(many.connections[i]);
    }
    close(fds[0]);
    close(fds[2]);
}
END_TEST

/* A peer that never reads: what is kept for it is bounded, and nobody waits. */
START_TEST(back_pressure_is_bounded)
{
    Front f;
    front_init(&f);
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    g_autofree char *block = g_strnfill(65536, 'b');
    ck_assert(char_front_attach(&f.front, make("socket,id=s,path=%s,server,nowait", path), NULL));
    int fd = connect_unix(path);
    expect_events(&f, "O");
    size_t sent = 0, n;
    while ((n = char_front_write(&f.front, block, 65536)) > 0)
        sent += n;
    ck_assert_uint_lt(sent, 64 << 20);
    settle();
    ck_assert_uint_eq(f.writable, 0);
    int queued = 0;
    while (char_front_write_all(&f.front, block, 65536))
        queued++;
    ck_assert_int_eq(queued, 16); /* 1 MiB */
    sent += (size_t)queued * 65536;
    ck_assert_uint_eq(char_front_write(&f.front, block, 1), 0);
    size_t got = 0;
    while (got < sent) { /* it reads after all: everything comes, then there is room again */
        char buffer[65536];
        ssize_t r = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);
        if (r > 0)
            got += (size_t)r;
        else
            loop_iterate(loop_main(), false);
    }
    ck_assert_uint_eq(got, sent);
    while (!f.writable)
        loop_iterate(loop_main(), true);
    send_text(&f, "again");
    expect_read(fd, "again");
    close(fd);
    front_drop(&f);
}
END_TEST

START_TEST(a_stalled_writer_hears_of_the_end)
{
    Front f;
    front_init(&f);
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    g_autofree char *block = g_strnfill(65536, 'b');
    ck_assert(char_front_attach(&f.front, make("socket,id=s,path=%s,server,nowait", path), NULL));
    int fd = connect_unix(path);
    expect_events(&f, "O");
    while (char_front_write(&f.front, block, 65536) > 0)
        continue;
    close(fd);
    expect_events(&f, "C");
    while (!f.writable)
        loop_iterate(loop_main(), true);
    send_text(&f, "dropped");
    front_drop(&f);
}
END_TEST

START_TEST(input_stops_without_room)
{
    Front f;
    front_init(&f);
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    f.room = 3;
    ck_assert(char_front_attach(&f.front, make("socket,id=s,path=%s,server,nowait", path), NULL));
    int fd = connect_unix(path);
    ck_assert_int_eq(write(fd, "abcdef", 6), 6);
    while (f.in->len < 3)
        loop_iterate(loop_main(), true);
    f.room = 0;
    settle();
    size_t before = f.in->len;
    settle();
    ck_assert_uint_eq(f.in->len, before);
    f.room = 3;
    char_front_accept_input(&f.front);
    expect_in(&f, "abcdef");
    close(fd);
    front_drop(&f);
}
END_TEST

/* --- mux --- */

static void count_quit(void *opaque)
{
    ++*(int *)opaque;
}

START_TEST(mux_has_a_focus)
{
    Front serial, monitor;
    int quits = 0, sv[2];
    front_init(&serial);
    front_init(&monitor);
    chardev_set_quit_hook(root, count_quit, &quits);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
    ck_assert(fd_name_put("conn", sv[0], NULL));
    Chardev *mux = make("socket,id=m,fd=conn,mux=on");
    ck_assert_ptr_nonnull(chardev_find(root, "m-base"));
    ck_assert(char_front_attach(&monitor.front, mux, NULL));
    ck_assert(char_front_attach(&serial.front, mux, NULL));
    expect_events(&monitor, "OIo");
    expect_events(&serial, "OI");
    ck_assert_int_eq(write(sv[1], "to serial\001\001\001cto monitor", 23), 23);
    expect_in(&serial, "to serial\001");
    expect_in(&monitor, "to monitor");
    expect_events(&serial, "o");
    expect_events(&monitor, "I");
    send_text(&serial, "out");
    send_text(&monitor, "put");
    expect_read(sv[1], "output");
    ck_assert_int_eq(write(sv[1], "\001b\001c\001b", 6), 6);
    expect_events(&serial, "IB");
    expect_events(&monitor, "Bo");
    ck_assert_int_eq(write(sv[1], "\001x", 2), 2);
    while (!quits)
        loop_iterate(loop_main(), true);
    expect_read(sv[1], "\r\nquit\r\n");
    /* what a front end does not take does not keep the escape from being seen */
    serial.room = 0;
    ck_assert_int_eq(write(sv[1], "later\001x", 7), 7);
    while (quits < 2)
        loop_iterate(loop_main(), true);
    ck_assert_uint_eq(serial.in->len, 0);
    serial.room = 100;
    char_front_accept_input(&serial.front);
    expect_in(&serial, "later");
    front_drop(&serial);
    ck_assert(!chardev_delete(root, "m", NULL)); /* the monitor is on it */
    front_drop(&monitor);
    ck_assert(chardev_delete(root, "m", NULL));
    ck_assert_ptr_null(chardev_find(root, "m-base"));
    close(sv[1]);
}
END_TEST

START_TEST(mux_passes_back_pressure)
{
    Front f;
    int sv[2];
    front_init(&f);
    g_autofree char *block = g_strnfill(65536, 'b');
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
    ck_assert(fd_name_put("conn", sv[0], NULL));
    ck_assert(char_front_attach(&f.front, make("socket,id=m,fd=conn,mux=on"), NULL));
    size_t sent = 0, got = 0, n;
    while ((n = char_front_write(&f.front, block, 65536)) > 0)
        sent += n;
    settle();
    ck_assert_uint_eq(f.writable, 0);
    while (got < sent) {
        char buffer[65536];
        ssize_t r = recv(sv[1], buffer, sizeof(buffer), MSG_DONTWAIT);
        got += r > 0 ? (size_t)r : 0;
        loop_iterate(loop_main(), false);
    }
    while (!f.writable)
        loop_iterate(loop_main(), true);
    close(sv[1]);
    front_drop(&f);
}
END_TEST

/* --- options and ids --- */

START_TEST(options_are_checked)
{
    refuse("null", ERR_MISSING_PARAMETER, "no id");
    refuse("null,id=1a", ERR_INVALID_PARAMETER, "identifier");
    refuse("sockt,id=x", ERR_INVALID_PARAMETER, "'sockt' is not a valid char driver name");
    refuse("vc,id=x", ERR_UNSUPPORTED, "not supported");
    refuse("null,id=x,path=y", ERR_UNKNOWN_PARAMETER, "'path'");
    refuse("file,id=x", ERR_MISSING_PARAMETER, "'path' is missing");
    refuse("file,id=x,path=/no/such/dir/f", ERR_NOT_FOUND, "/no/such/dir/f");
    refuse("socket,id=x", ERR_INVALID_PARAMETER, "'path', 'host' and 'fd'");
    refuse("socket,id=x,path=/p,host=h", ERR_INVALID_PARAMETER, "only one of");
    refuse("socket,id=x,host=h", ERR_MISSING_PARAMETER, "port");
    refuse("socket,id=x,path=/no/such/socket", ERR_NOT_FOUND, "/no/such/socket");
    refuse("socket,id=x,path=/p,wait=on", ERR_INVALID_PARAMETER, "'wait'");
    refuse("socket,id=x,path=/p,server=on,reconnect=1", ERR_INVALID_PARAMETER, "'reconnect'");
    refuse("socket,id=x,path=/p,server=maybe", ERR_INVALID_PARAMETER, "'server'");
    refuse("socket,id=x,path=/p,server=on,telnet=on", ERR_UNSUPPORTED, "'telnet'");
    refuse("socket,id=x,path=/p,server=on,tls-creds=t", ERR_UNSUPPORTED, "'tls-creds'");
    refuse("socket,id=x,path=/p,server=on,pth=q", ERR_UNKNOWN_PARAMETER, "'pth'");
    g_autofree char *longest = g_strnfill(200, 'p');
    g_autofree char *text = g_strdup_printf("socket,id=x,path=/%s,server=on,wait=off", longest);
    refuse(text, ERR_INVALID_PARAMETER, "too long");
    ck_assert_ptr_null(chardev_find(root, "x"));
    make("null,id=x");
    refuse("null,id=x", ERR_EXISTS, "'x' already exists");
    refuse("null,id=x,mux=on", ERR_EXISTS, "'x' already exists");
    ck_assert(chardev_delete(root, "x", NULL));
    ck_assert(!chardev_delete(root, "x", NULL));
}
END_TEST

START_TEST(one_front_end_each)
{
    Front a, b;
    GError *error = NULL;
    front_init(&a);
    front_init(&b);
    Chardev *cd = make("null,id=n");
    ck_assert(char_front_attach(&a.front, cd, NULL));
    ck_assert(!char_front_attach(&b.front, cd, &error));
    ck_assert_int_eq(error_get_code(error), ERR_IN_USE);
    g_clear_error(&error);
    ck_assert(!chardev_delete(root, "n", NULL));
    char_front_detach(&a.front);
    ck_assert_uint_eq(char_front_write(&a.front, "x", 1), 1); /* attached to nothing: dropped */
    ck_assert(char_front_attach(&b.front, cd, NULL));
    front_drop(&a);
    front_drop(&b);
}
END_TEST

START_TEST(short_forms)
{
    GError *error = NULL;
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    g_autofree char *listen = g_strdup_printf("unix:%s,server,nowait", path);
    g_autofree char *file = g_strdup_printf("file:%s.log", path);
    ck_assert_ptr_nonnull(chardev_create_compat(root, "a", "null", NULL));
    ck_assert_ptr_nonnull(chardev_create_compat(root, "b", listen, NULL));
    ck_assert_ptr_nonnull(chardev_create_compat(root, "c", file, NULL));
    ck_assert_ptr_nonnull(chardev_create_compat(root, "d", "tcp:127.0.0.1:0,server=on,wait=off",
                                                NULL));
    Chardev *mux = chardev_create_compat(root, "e", "mon:null", NULL);
    ck_assert(object_is_a(OBJECT(mux), "chardev-mux"));
    ck_assert_ptr_eq(chardev_create_compat(root, "f", "chardev:a", NULL), chardev_find(root, "a"));
    ck_assert_ptr_null(chardev_create_compat(root, "g", "none", &error));
    ck_assert_ptr_null(error);
    static const char *const bad[] = { "telnet:localhost:1,server", "vc", "nulll", "tcp:nowhere",
                                       "chardev:zz", "udp:1", NULL };
    for (int i = 0; bad[i]; i++) {
        ck_assert_ptr_null(chardev_create_compat(root, "h", bad[i], &error));
        ck_assert_ptr_nonnull(error);
        g_clear_error(&error);
    }
}
END_TEST

static Chardev *make_qmp(const char *id, const char *text, GError **error)
{
    g_autoptr(json_object) backend = json_parse(text, strlen(text), NULL);
    ck_assert_ptr_nonnull(backend);
    return chardev_create_qmp(root, id, backend, error);
}

START_TEST(qmp_form)
{
    GError *error = NULL;
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    g_autofree char *listen = g_strdup_printf("{\"type\":\"socket\",\"data\":{\"addr\":{\"type\":"
                                              "\"unix\",\"data\":{\"path\":\"%s\"}},\"wait\":false}}",
                                              path);
    g_autofree char *file = g_strdup_printf("{\"type\":\"file\",\"data\":{\"out\":\"%s.log\"}}", path);
    Chardev *cd = make_qmp("s", listen, &error);
    ck_assert_ptr_nonnull(cd);
    g_autofree char *name = chardev_filename(cd);
    ck_assert(g_str_has_suffix(name, "/s,server=on"));
    ck_assert_ptr_nonnull(make_qmp("f", file, NULL));
    ck_assert_ptr_nonnull(make_qmp("p", "{\"type\":\"pty\",\"data\":{}}", NULL));
    ck_assert_ptr_nonnull(chardev_pty_path(chardev_find(root, "p")));
    ck_assert_ptr_nonnull(make_qmp("n", "{\"type\":\"null\"}", NULL));
    static const char *const bad[] = {
        "{\"type\":\"socket\",\"data\":{}}",
        "{\"type\":\"socket\",\"data\":{\"addr\":{\"type\":\"vsock\",\"data\":{}}}}",
        ("{\"type\":\"socket\",\"data\":{\"addr\":{\"type\":\"unix\",\"data\":{\"path\":\"/x\"}},"
         "\"wait\":true}}"),
        "{\"type\":\"null\",\"data\":{\"x\":1}}",
        "{\"data\":{}}",
        "{\"type\":\"null\",\"data\":7}",
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        ck_assert_ptr_null(make_qmp("x", bad[i], &error));
        ck_assert_ptr_nonnull(error);
        g_clear_error(&error);
    }
}
END_TEST

START_TEST(stdio_of_a_pipe_and_a_terminal)
{
    Front f;
    int in[2];
    GError *error = NULL;
    front_init(&f);
    /* a terminal for input: raw while it is in use, as found afterwards */
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    ck_assert_int_eq(grantpt(master) | unlockpt(master), 0);
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    struct termios before, during, after;
    ck_assert_int_eq(tcgetattr(slave, &before), 0);
    ck_assert_int_eq(pipe(in), 0);
    fflush(stdout);
    int saved_in = dup(0), saved_out = dup(1);
    dup2(slave, 0);
    dup2(in[1], 1);
    Chardev *cd = make("stdio,id=io,signal=off");
    ck_assert(char_front_attach(&f.front, cd, NULL));
    tcgetattr(slave, &during);
    g_autoptr(json_object) second = options_parse("stdio,id=io2", "backend", NULL);
    Chardev *other = chardev_create(root, second, &error);
    send_text(&f, "shown");
    expect_read(in[0], "shown");
    ck_assert_int_eq(write(master, "k", 1), 1);
    expect_in(&f, "k");
    front_drop(&f);
    ck_assert(chardev_delete(root, "io", NULL));
    tcgetattr(slave, &after);
    dup2(saved_in, 0);
    dup2(saved_out, 1);
    ck_assert_ptr_null(other);
    ck_assert_int_eq(error_get_code(error), ERR_IN_USE);
    g_clear_error(&error);
    ck_assert_uint_eq(during.c_lflag & (ICANON | ECHO | ISIG), 0);
    ck_assert_uint_eq(after.c_lflag, before.c_lflag);
    ck_assert_uint_eq(after.c_iflag, before.c_iflag);
    close(master);
    close(slave);
    close(in[0]);
    close(in[1]);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, null_takes_all);
    tcase_add_test(tc, file_writes_and_reads);
    tcase_add_test(tc, file_in_an_fd_set);
    tcase_add_test(tc, pipe_has_two_ends);
    tcase_add_test(tc, ringbuf_wraps);
    tcase_add_test(tc, pty_echo);
    tcase_add_test(tc, unix_server_serves_one_after_another);
    tcase_add_test(tc, nothing_is_lost_at_the_end);
    tcase_add_test(tc, client_comes_back);
    tcase_add_test(tc, tcp_on_any_port);
    tcase_add_test(tc, descriptors_come_along);
    tcase_add_test(tc, inherited_sockets);
    tcase_add_test(tc, server_waits_for_its_client);
    tcase_add_test(tc, many_clients_on_one_socket);
    tcase_add_test(tc, a_back_end_is_changed);
    tcase_add_test(tc, what_cannot_be_changed);
    tcase_add_test(tc, back_pressure_is_bounded);
    tcase_add_test(tc, a_stalled_writer_hears_of_the_end);
    tcase_add_test(tc, input_stops_without_room);
    tcase_add_test(tc, mux_has_a_focus);
    tcase_add_test(tc, mux_passes_back_pressure);
    tcase_add_test(tc, options_are_checked);
    tcase_add_test(tc, one_front_end_each);
    tcase_add_test(tc, short_forms);
    tcase_add_test(tc, qmp_form);
    tcase_add_test(tc, stdio_of_a_pipe_and_a_terminal);
}

int main(void)
{
    return run_tests("chardev", add);
}

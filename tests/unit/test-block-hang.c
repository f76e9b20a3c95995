/*
 * Storage that does not answer: no system call on it is made in the main thread, and what waits for
 * one holds up nobody else.  The C library's functions are replaced here by ones that look which
 * thread calls them, and that wait as long as the test likes.
 */
#include "tests/unit/qmp-peer.h"
#include "tests/unit/block-util.h"
#include <pthread.h>
#include <stdarg.h>
#include <sys/syscall.h>

/* ---- the storage ---- */

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t opened = PTHREAD_COND_INITIALIZER;
static const char *hung;               /* gate: the call that does not return */
static int stuck;                      /* gate: threads in it */
static const char *in_main;            /* atomic: a call that the main thread made */
static bool is_storage[1024];          /* by descriptor */

static void storage_call(const char *what)
{
    if (gettid() == getpid()) {
        __atomic_store_n(&in_main, what, __ATOMIC_RELAXED);
        return;
    }
    pthread_mutex_lock(&gate);
    stuck++;
    loop_kick(loop_main());
    while (hung && !strcmp(hung, what))
        pthread_cond_wait(&opened, &gate);
    stuck--;
    pthread_mutex_unlock(&gate);
}

static void hang(const char *what)
{
    pthread_mutex_lock(&gate);
    hung = what;
    pthread_cond_broadcast(&opened);
    pthread_mutex_unlock(&gate);
}

static void wait_until_stuck(void)
{
    for (bool yes = false; !yes;) {
        loop_iterate(loop_main(), false);
        pthread_mutex_lock(&gate);
        yes = stuck > 0;
        pthread_mutex_unlock(&gate);
    }
}

static bool known(int fd)
{
    return fd >= 0 && fd < (int)G_N_ELEMENTS(is_storage) && is_storage[fd];
}

int open(const char *path, int flags, ...)
{
    bool ours = g_str_has_suffix(path, ".img");
    va_list args;
    int fd, mode = 0;

    if (flags & O_CREAT) {
        va_start(args, flags);
        mode = va_arg(args, int);
        va_end(args);
    } else if (ours) {
        storage_call("open");
    }
    fd = syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (fd >= 0 && fd < (int)G_N_ELEMENTS(is_storage))
        is_storage[fd] = ours;
    return fd;
}

int fstat(int fd, struct stat *st)
{
    if (known(fd))
        storage_call("fstat");
    return syscall(SYS_fstat, fd, st);
}

int fdatasync(int fd)
{
    storage_call("fdatasync");
    return syscall(SYS_fdatasync, fd);
}

int fcntl(int fd, int command, ...)
{
    va_list args;
    void *arg;

    va_start(args, command);
    arg = va_arg(args, void *);
    va_end(args);
    if (command == F_OFD_SETLK || command == F_OFD_GETLK)
        storage_call("lock");
    return syscall(SYS_fcntl, fd, command, arg);
}

int ftruncate(int fd, off_t length)
{
    if (known(fd))
        storage_call("ftruncate");
    return syscall(SYS_ftruncate, fd, length);
}

#define ck_nothing_in_main() \
    ck_assert_msg(!in_main, "the main thread called %s", in_main ? in_main : "")

/* ---- the graph ---- */

/* An image as a test wants it, made without the functions above being in the way. */
static char *image(const char *name)
{
    char *path = test_file(name, 65536);

    in_main = NULL;
    return path;
}

/* Something that may wait, begun in a coroutine. */
typedef struct Begun {
    BlockGraph *graph;
    json_object *options;
    const char *name;
    GError *error;
    BlockNode *node;
    bool ok, done;
} Begun;

static void co_fn open_it(void *opaque)
{
    Begun *b = opaque;

    b->node = block_node_open(b->graph, b->options, &b->error);
    b->done = true;
}

static void co_fn delete_it(void *opaque)
{
    Begun *b = opaque;

    b->ok = block_node_delete(b->graph, b->name, &b->error);
    b->done = true;
}

static Begun begin_open(BlockGraph *graph, const char *path, const char *name)
{
    g_autofree char *text = g_strdup_printf("driver=file,node-name=%s,filename=%s", name, path);

    return (Begun){ .graph = graph, .options = options_parse(text, "driver", NULL), .name = name };
}

static BlockNode *open_now(BlockGraph *graph, const char *path, const char *name)
{
    GError *error = NULL;
    BlockNode *node = test_open(graph, &error, "driver=file,node-name=%s,filename=%s", name, path);

    assert_no_error(error);
    return node;
}

START_TEST(no_call_is_made_in_the_main_thread)
{
    TestRoot t = test_root();
    g_autofree char *path = image("thread.img");
    GError *error = NULL;
    BlockNode *node = open_now(t.graph, path, "disk");
    BlockUser *user = block_user_new(node, "user", BLOCK_PERM_READ | BLOCK_PERM_WRITE,
                                     BLOCK_PERM_READ | BLOCK_PERM_RESIZE, &error);
    char data[512] = "written";

    assert_no_error(error);
    ck_assert_int_eq(test_request(user, OP_WRITE, 0, data, sizeof(data), 0), 0);
    block_graph_refresh(t.graph);
    json_object_put(block_query_named_nodes(t.graph));
    ck_assert(block_node_resize(node, 131072, &error));
    block_user_free(user);
    ck_assert(block_node_delete(t.graph, "disk", &error));
    ck_nothing_in_main();
    test_root_free(&t);
}
END_TEST

START_TEST(an_opening_that_hangs)
{
    TestRoot t = test_root();
    g_autofree char *dead = image("dead.img"), *good = image("good.img");
    Begun b = begin_open(t.graph, dead, "dead");

    hang("open");
    co_start(open_it, &b);
    wait_until_stuck();
    ck_assert(!b.done && !block_node_find(t.graph, "dead"));
    hang(NULL);
    loop_wait(&b.done);
    ck_assert_ptr_nonnull(b.node);
    ck_assert_ptr_eq(block_node_find(t.graph, "dead"), b.node);
    ck_assert_ptr_nonnull(open_now(t.graph, good, "good"));
    json_object_put(b.options);
    ck_nothing_in_main();
    test_root_free(&t);
}
END_TEST

/* The name is his who is ready first. */
START_TEST(two_openings_of_one_name)
{
    TestRoot t = test_root();
    g_autofree char *dead = image("first.img");
    Begun b = begin_open(t.graph, dead, "disk");

    hang("fstat");
    co_start(open_it, &b);
    wait_until_stuck();
    ck_assert(test_open(t.graph, NULL, "driver=null-co,node-name=disk") != NULL);
    hang(NULL);
    loop_wait(&b.done);
    ck_assert_ptr_null(b.node);
    assert_error(&b.error, "there is a node 'disk' already");
    json_object_put(b.options);
    test_root_free(&t);
}
END_TEST

static int64_t actual_size(BlockGraph *graph)
{
    g_autoptr(json_object) nodes = block_query_named_nodes(graph);
    json_object *node = json_object_array_get_idx(nodes, 0), *size;

    ck_assert(json_object_object_get_ex(json_object_object_get(node, "image"), "actual-size",
                                        &size));
    return json_object_get_int64(size);
}

START_TEST(a_question_that_hangs)
{
    TestRoot t = test_root();
    g_autofree char *path = image("size.img");
    BlockUser *user = test_user(open_now(t.graph, path, "disk"));
    g_autofree char *data = g_malloc(32768);

    memset(data, 1, 32768);
    ck_assert_int_eq(actual_size(t.graph), 0);
    ck_assert_int_eq(test_request(user, OP_WRITE, 0, data, 32768, 0), 0);
    hang("fstat");
    block_graph_refresh(t.graph);          /* gives up after a while */
    ck_assert_int_eq(actual_size(t.graph), 0);
    block_graph_refresh(t.graph);          /* does not ask again */
    hang(NULL);
    while (!actual_size(t.graph))
        loop_iterate(loop_main(), true);
    ck_assert_int_ge(actual_size(t.graph), 32768);
    ck_assert_int_eq(test_request(user, OP_WRITE, 32768, data, 32768, 0), 0);
    while (actual_size(t.graph) < 65536)   /* the old answer may only just have come */
        block_graph_refresh(t.graph);
    block_user_free(user);
    ck_nothing_in_main();
    test_root_free(&t);
}
END_TEST

/* A node that is being asked is deleted: its name is free at once, it is closed later. */
START_TEST(a_node_goes_while_it_is_asked)
{
    TestRoot t = test_root();
    g_autofree char *path = image("asked.img");
    Begun b = { .graph = t.graph, .name = "disk" };

    open_now(t.graph, path, "disk");
    hang("fstat");
    block_graph_refresh(t.graph);
    co_start(delete_it, &b);
    ck_assert(!b.done && !block_node_find(t.graph, "disk"));
    ck_assert(test_open(t.graph, NULL, "driver=null-co,node-name=disk") != NULL);
    hang(NULL);
    loop_wait(&b.done);
    ck_assert(b.ok);
    ck_nothing_in_main();
    test_root_free(&t);
}
END_TEST

static void *let_go(void *unused)
{
    hang(NULL);
    return NULL;
}

START_TEST(a_closing_that_hangs)
{
    TestRoot t = test_root();
    g_autofree char *path = image("close.img");
    BlockUser *user = test_user(open_now(t.graph, path, "disk"));
    Begun b = { .graph = t.graph, .name = "disk" };
    char data[512] = "written";
    GThread *thread;

    ck_assert_int_eq(test_request(user, OP_WRITE, 0, data, sizeof(data), 0), 0);
    block_user_free(user);
    hang("fdatasync");
    co_start(delete_it, &b);
    wait_until_stuck();
    ck_assert(!b.done && !block_node_find(t.graph, "disk"));
    thread = g_thread_new("let go", let_go, NULL);
    test_root_free(&t);                    /* waits for it */
    ck_assert(b.done && b.ok);
    g_thread_join(thread);
    ck_nothing_in_main();
}
END_TEST

/* A lock that is refused leaves the other user's as they are. */
START_TEST(a_lock_that_is_refused)
{
    TestRoot t = test_root();
    g_autofree char *path = image("lock.img");
    BlockNode *node = open_now(t.graph, path, "disk");
    BlockUser *reader, *writer;
    GError *error = NULL;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR);
    struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 201, .l_len = 1 };

    reader = block_user_new(node, "reader", BLOCK_PERM_READ, BLOCK_PERM_ALL, &error);
    assert_no_error(error);
    ck_assert_int_eq(syscall(SYS_fcntl, fd, F_OFD_SETLK, &lock), 0);   /* nobody may write */
    writer = block_user_new(node, "writer", BLOCK_PERM_WRITE, BLOCK_PERM_ALL, &error);
    ck_assert_ptr_null(writer);
    assert_error(&error, "lock");
    close(fd);
    writer = block_user_new(node, "writer", BLOCK_PERM_WRITE, BLOCK_PERM_ALL, &error);
    assert_no_error(error);
    block_user_free(writer);
    block_user_free(reader);
    ck_nothing_in_main();
    test_root_free(&t);
}
END_TEST

/* ---- the monitor ---- */

static Peer *peer_with_oob(Vm *vm, const char *id)
{
    Peer *p = peer_new(vm, id);
    g_autoptr(json_object) greeting G_GNUC_UNUSED = peer_next(p);

    peer_send(p, "{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}");
    expect(p, "{\"return\": {}}");
    return p;
}

static void send_add(Peer *p, const char *path, const char *name)
{
    g_autofree char *text = g_strdup_printf(
        "{\"execute\": \"blockdev-add\", \"id\": \"%s\", \"arguments\": {\"driver\": \"file\","
        " \"node-name\": \"%s\", \"filename\": \"%s\"}}", name, name, path);

    peer_send(p, text);
}

/* The session that waits answers what is out of band, the others answer everything. */
START_TEST(a_monitor_with_a_dead_image)
{
    Vm *vm = new_vm();
    Peer *a = peer_with_oob(vm, "mon0"), *b = peer_ready(vm, "mon1");
    g_autofree char *one = image("one.img");

    hang("open");
    send_add(a, one, "one");
    peer_send(a, "{\"execute\": \"query-name\", \"id\": 2}");
    wait_until_stuck();
    peer_send(b, "{\"execute\": \"query-named-block-nodes\"}");
    expect(b, "{\"return\": []}");
    peer_send(a, "{\"exec-oob\": \"query-status\", \"id\": \"oob\"}");
    expect(a, "{\"return\": {\"running\": false, \"singlestep\": false, \"status\": \"prelaunch\"},"
              " \"id\": \"oob\"}");
    peer_send(b, "{\"execute\": \"blockdev-add\", \"arguments\":"
                 " {\"driver\": \"null-co\", \"node-name\": \"two\"}}");
    expect(b, "{\"return\": {}}");
    hang(NULL);
    expect(a, "{\"return\": {}, \"id\": \"one\"}");
    expect(a, "{\"return\": {}, \"id\": 2}");
    ck_nothing_in_main();
    peer_close(a);
    peer_close(b);
    free_vm(vm);
}
END_TEST

START_TEST(a_session_that_ends_while_its_image_is_opened)
{
    Vm *vm = new_vm();
    Peer *a = peer_ready(vm, "mon0"), *b = peer_ready(vm, "mon1");
    g_autofree char *path = image("left.img");

    hang("open");
    send_add(a, path, "left");
    wait_until_stuck();
    peer_close(a);
    peer_send(b, "{\"execute\": \"query-name\"}");
    expect(b, "{\"return\": {}}");
    hang(NULL);
    while (!block_node_find(vm->block, "left"))
        loop_iterate(loop_main(), true);
    peer_close(b);
    free_vm(vm);
}
END_TEST

/* The machine ends while an image is being opened: the image is closed again. */
START_TEST(a_machine_that_ends_while_its_image_is_opened)
{
    Vm *vm = new_vm();
    Peer *a = peer_ready(vm, "mon0");
    g_autofree char *path = image("late.img");
    GThread *thread;

    hang("open");
    send_add(a, path, "late");
    wait_until_stuck();
    thread = g_thread_new("let go", let_go, NULL);
    free_vm(vm);
    g_thread_join(thread);
    peer_close(a);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 30);
    tcase_add_test(tc, no_call_is_made_in_the_main_thread);
    tcase_add_test(tc, an_opening_that_hangs);
    tcase_add_test(tc, two_openings_of_one_name);
    tcase_add_test(tc, a_question_that_hangs);
    tcase_add_test(tc, a_node_goes_while_it_is_asked);
    tcase_add_test(tc, a_closing_that_hangs);
    tcase_add_test(tc, a_lock_that_is_refused);
    tcase_add_test(tc, a_monitor_with_a_dead_image);
    tcase_add_test(tc, a_session_that_ends_while_its_image_is_opened);
    tcase_add_test(tc, a_machine_that_ends_while_its_image_is_opened);
}

int main(void)
{
    return run_block_tests("block-hang", add_tests);
}

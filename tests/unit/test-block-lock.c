/* Image locks: against ourselves, another process of ours, and QEMU's tools. */
#include "block-util.h"
#include "src/base/fdset.h"
#include <signal.h>
#include <sys/wait.h>

#define DISK_PERM (BLOCK_PERM_READ | BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE)
#define DISK_SHARED (BLOCK_PERM_READ | BLOCK_PERM_WRITE_SAME)

static BlockUser *open_disk(TestRoot *t, const char *path, const char *more, unsigned perm,
                            unsigned shared, GError **error)
{
    BlockNode *node = test_open(t->graph, error, "raw,node-name=disk%u%s,file.driver=file,"
                                "file.filename=%s", g_random_int() % 1000000, more, path);

    return node ? block_user_new(node, "disk", perm, shared, error) : NULL;
}

START_TEST(two_nodes_of_one_file)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("lock.img", 65536);
    GError *error = NULL;
    BlockUser *user = open_disk(&t, path, "", DISK_PERM, DISK_SHARED, &error), *other;

    assert_no_error(error);
    ck_assert_ptr_null(open_disk(&t, path, "", DISK_PERM, DISK_SHARED, &error));
    ck_assert_int_eq(error_get_code(error), ERR_LOCKED);
    assert_error(&error, "this process itself");
    /* What does not conflict may be there. */
    other = open_disk(&t, path, ",read-only=on,force-share=on", BLOCK_PERM_READ, BLOCK_PERM_ALL,
                      &error);
    assert_no_error(error);
    block_user_free(other);
    other = open_disk(&t, path, ",read-only=on", BLOCK_PERM_READ, BLOCK_PERM_ALL, &error);
    assert_no_error(error);
    block_user_free(other);
    ck_assert_ptr_null(open_disk(&t, path, ",read-only=on", BLOCK_PERM_READ, BLOCK_PERM_READ,
                                 &error));
    assert_error(&error, "shared \"write\" lock");
    block_user_free(user);
    user = open_disk(&t, path, "", DISK_PERM, DISK_SHARED, &error);
    assert_no_error(error);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

START_TEST(locking_can_be_off)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("off.img", 65536);
    GError *error = NULL;
    BlockUser *user = open_disk(&t, path, ",file.locking=off", DISK_PERM, DISK_SHARED, &error);
    BlockUser *other;

    assert_no_error(error);
    other = open_disk(&t, path, ",file.locking=on", DISK_PERM, DISK_SHARED, &error);
    assert_no_error(error);
    block_user_free(user);
    block_user_free(other);
    test_root_free(&t);
}
END_TEST

/* Holds the image's lock as a disk would, tells so on @ready, and waits for its end. */
static void hold(const char *path, int ready)
{
    TestRoot t = test_root();
    BlockUser *user = open_disk(&t, path, "", DISK_PERM, DISK_SHARED, NULL);

    if (write(ready, user ? "y" : "n", 1) == 1)
        pause();
    _exit(0);
}

START_TEST(another_process_is_named)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("other.img", 65536), *pid_text = NULL;
    GError *error = NULL;
    int pipes[2];
    char answer = 0;
    pid_t pid;
    BlockUser *user;

    ck_assert_int_eq(pipe(pipes), 0);
    pid = fork();
    if (pid == 0)
        hold(path, pipes[1]);
    ck_assert_int_eq(read(pipes[0], &answer, 1), 1);
    ck_assert_int_eq(answer, 'y');
    ck_assert_ptr_null(open_disk(&t, path, "", DISK_PERM, DISK_SHARED, &error));
    pid_text = g_strdup_printf("process %d (", (int)pid);
    ck_assert_ptr_nonnull(strstr(error_get_hint(error), "force-share"));
    ck_assert_ptr_nonnull(strstr(error->message, "running since"));
    assert_error(&error, pid_text);
    kill(pid, SIGKILL);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    user = open_disk(&t, path, "", DISK_PERM, DISK_SHARED, &error);
    assert_no_error(error);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

/* QEMU. */

static bool have(const char *program)
{
    g_autofree char *path = g_find_program_in_path(program);

    if (!path)
        printf("skipped: no %s\n", program);
    return path != NULL;
}

/* Runs it; *ret_output has what it printed. */
static int run(const char *command, char **ret_output)
{
    g_autofree char *both = g_strdup_printf("(%s) 2>&1", command);
    char *argv[] = { "sh", "-c", both, NULL };
    int status;

    ck_assert(g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, ret_output, NULL,
                           &status, NULL));
    return WEXITSTATUS(status);
}

START_TEST(qemu_sees_our_locks)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("ours.img", 65536);
    g_autofree char *io = g_strdup_printf("qemu-io -f raw -c 'write 0 512' %s", path);
    g_autofree char *shared = g_strdup_printf("qemu-io -U -r -f raw -c 'read 0 512' %s", path);
    g_autofree char *resize = g_strdup_printf("qemu-img resize -f raw %s 1M", path);
    GError *error = NULL;
    BlockUser *user;

    if (have("qemu-io") && have("qemu-img")) {
        char *output;

        user = open_disk(&t, path, "", DISK_PERM, DISK_SHARED, &error);
        assert_no_error(error);
        ck_assert_int_ne(run(io, &output), 0);
        ck_assert_msg(strstr(output, "Failed to get \"write\" lock") != NULL, "%s", output);
        g_free(output);
        ck_assert_int_ne(run(resize, &output), 0);
        ck_assert_msg(strstr(output, "lock") != NULL, "%s", output);
        g_free(output);
        ck_assert_int_eq(run(shared, &output), 0);
        g_free(output);
        block_user_free(user);
        ck_assert_int_eq(run(io, &output), 0);
        g_free(output);
    }
    test_root_free(&t);
}
END_TEST

/* Starts qemu-io with the image open, and waits for its prompt.  *ret_in ends it when closed. */
static GPid start_qemu_io(const char *path, int *ret_in, bool read_only)
{
    char *argv[] = { "qemu-io", "-f", "raw", read_only ? "-r" : "-d", read_only ? "-t" : "unmap",
                     read_only ? "writeback" : (char *)path, read_only ? (char *)path : NULL, NULL };
    char text[256] = "";
    size_t length = 0;
    GPid pid;
    int out;

    ck_assert(g_spawn_async_with_pipes(NULL, argv, NULL,
                                       G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL,
                                       &pid, ret_in, &out, NULL, NULL));
    while (!strstr(text, "qemu-io>")) {
        ssize_t n = read(out, text + length, sizeof(text) - 1 - length);

        ck_assert_int_gt(n, 0);
        length += n;
    }
    return pid;
}

START_TEST(we_see_qemus_locks)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("theirs.img", 65536);
    GError *error = NULL;

    if (have("qemu-io")) {
        int in;
        GPid pid = start_qemu_io(path, &in, false);
        g_autofree char *who = g_strdup_printf("process %d (qemu-io)", (int)pid);
        BlockUser *user;

        ck_assert_ptr_null(open_disk(&t, path, "", DISK_PERM, DISK_SHARED, &error));
        assert_error(&error, who);
        close(in);
        ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
        /* A reader lets others read, and lets nobody write. */
        pid = start_qemu_io(path, &in, true);
        user = open_disk(&t, path, ",read-only=on", BLOCK_PERM_READ, DISK_SHARED, &error);
        assert_no_error(error);
        block_user_free(user);
        close(in);
        ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
        user = open_disk(&t, path, "", DISK_PERM, DISK_SHARED, &error);
        assert_no_error(error);
        block_user_free(user);
    }
    test_root_free(&t);
}
END_TEST

/* An image that could not be written when it was opened, and can be when somebody needs to. */
START_TEST(read_only_until_it_is_written)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("auto.img", 65536);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1 };
    char data[512] = "written after all";
    GError *error = NULL;
    BlockNode *node;
    BlockUser *reader, *writer;

    ck_assert(fdset_add(open(path, O_RDONLY | O_CLOEXEC), 5, NULL, NULL, &error));
    node = test_open(t.graph, &error, "raw,node-name=top,auto-read-only=on,file.driver=file,"
                                      "file.filename=/dev/fdset/5");
    assert_no_error(error);
    ck_assert(block_node_read_only(node));
    reader = block_user_new(node, "reader", BLOCK_PERM_READ, BLOCK_PERM_ALL, &error);
    assert_no_error(error);
    ck_assert_ptr_null(block_user_new(node, "writer", DISK_PERM, BLOCK_PERM_ALL, &error));
    ck_assert_ptr_nonnull(error);
    g_clear_error(&error);
    ck_assert(block_node_read_only(node));
    ck_assert(fdset_add(fcntl(fd, F_DUPFD_CLOEXEC, 0), 5, NULL, NULL, &error));
    writer = block_user_new(node, "writer", DISK_PERM, DISK_SHARED, &error);
    assert_no_error(error);
    ck_assert(!block_node_read_only(node));
    ck_assert_int_eq(test_request(writer, OP_WRITE, 0, data, sizeof(data), 0), 0);
    memset(data, 0, sizeof(data));
    ck_assert_int_eq(test_request(reader, OP_READ, 0, data, sizeof(data), 0), 0);
    ck_assert_str_eq(data, "written after all");
    close(fd);
    fd = open(path, O_RDWR | O_CLOEXEC);
    ck_assert_int_lt(fcntl(fd, F_OFD_SETLK, &lock), 0);    /* "write" is taken */
    close(fd);
    block_user_free(writer);
    block_user_free(reader);
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, two_nodes_of_one_file);
    tcase_add_test(tc, locking_can_be_off);
    tcase_add_test(tc, another_process_is_named);
    tcase_add_test(tc, qemu_sees_our_locks);
    tcase_add_test(tc, we_see_qemus_locks);
    tcase_add_test(tc, read_only_until_it_is_written);
}

int main(void)
{
    return run_block_tests("block-lock", add_tests);
}

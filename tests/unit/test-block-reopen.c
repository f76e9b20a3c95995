/*
 * blockdev-reopen: what of open nodes can change while a guest writes to them, all of a list or nothing;
 * looked at from outside, by the descriptors that the process has.
 */
#include "block-guest.h"
#include "block/image.h"
#include "block/node.h"
#include "qcow2-util.h"
#include "src/base/fdset.h"

enum { SIZE = 24 * 65536 + 4096 * 5 };

/* Flags of the one descriptor that is open for a file (besides @without, or -1). */
static int flags_of(const char *path, int without)
{
    GDir *dir = g_dir_open("/proc/self/fd", 0, NULL);
    int found = -1, count = 0;
    const char *name;
    struct stat want, st;

    ck_assert_int_eq(stat(path, &want), 0);
    while ((name = g_dir_read_name(dir))) {
        int fd = atoi(name);

        if (fd != without && fstat(fd, &st) == 0 && st.st_ino == want.st_ino &&
            st.st_dev == want.st_dev) {
            found = fcntl(fd, F_GETFL);
            count++;
        }
    }
    g_dir_close(dir);
    ck_assert_int_eq(count, 1);
    return found;
}

static bool reopen(TestRoot *t, GError **error, const char *text)
{
    g_autoptr(json_object) list = json_tokener_parse(text);

    ck_assert_ptr_nonnull(list);
    return block_reopen(t->graph, list, error);
}

G_GNUC_PRINTF(2, 3)
static void must_reopen(TestRoot *t, const char *format, ...)
{
    g_autofree char *text = NULL;
    GError *error = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    ck_assert_msg(reopen(t, &error, text), "%s: %s", text, error ? error->message : "");
}

G_GNUC_PRINTF(3, 4)
static void must_not_reopen(TestRoot *t, const char *refusal, const char *format, ...)
{
    g_autofree char *text = NULL;
    GError *error = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    ck_assert_msg(!reopen(t, &error, text), "%s was taken", text);
    assert_error(&error, refusal);
}

#define FILE_NODE "{\"driver\": \"file\", \"node-name\": \"%s\", \"filename\": \"%s\""

static BlockNode *open_file(TestRoot *t, const char *name, const char *path, const char *more)
{
    GError *error = NULL;
    BlockNode *node = test_open(t->graph, &error, FILE_NODE "%s}", name, path, more);

    assert_no_error(error);
    return node;
}

START_TEST(cache_and_engine)
{
    static const char *const turns[] = {
        ", \"cache\": {\"direct\": true}", "", ", \"aio\": \"threads\"",
        ", \"cache\": {\"direct\": true}, \"aio\": \"native\"",
        ", \"cache\": {\"no-flush\": true}, \"aio\": \"threads\"",
    };
    bool is_raw = _i;
    g_autofree char *path = is_raw ? test_file("disk.img", SIZE)
                                   : qcow2_create("disk.qcow2", "cluster_size=4k", SIZE);
    TestRoot t = test_root();
    BlockNode *file = open_file(&t, "f", path, "");
    GError *error = NULL;
    BlockNode *node = test_open(t.graph, &error, "%s,node-name=disk,file=f,discard=unmap",
                                is_raw ? "raw" : "qcow2");
    Guest *g = guest_new(node, 1);

    guest_start(g);
    for (unsigned i = 0; i < G_N_ELEMENTS(turns); i++) {
        bool direct = strstr(turns[i], "direct");

        if (direct && !test_direct_io())
            continue;
        guest_writes(g, 10);
        must_reopen(&t, "[" FILE_NODE "%s}]", "f", path, turns[i]);
        ck_assert_int_eq(!!(flags_of(path, -1) & O_DIRECT), direct);
        ck_assert(block_node_cache_direct(file) == direct);
        ck_assert(block_node_no_flush(file) == !!strstr(turns[i], "no-flush"));
        ck_assert((block_node_limits(file).request_alignment > 1) == direct);
        if (is_raw)                        /* what is above knows it, too */
            ck_assert_uint_eq(block_node_limits(node).request_alignment,
                              block_node_limits(file).request_alignment);
    }
    guest_writes(g, 10);
    guest_stop(g);
    check_disk(node, g->disk, "the disk");
    guest_free(g);
    test_root_free(&t);
}
END_TEST

/* A child that is defined in place inherits what its parent is told now. */
START_TEST(children_in_place)
{
    g_autofree char *path = qcow2_create("disk.qcow2", "", SIZE);
    TestRoot t = test_root();
    BlockUser *user = qcow2_open_user(&t, path, "");

    if (test_direct_io()) {
        must_reopen(&t, "[{\"driver\": \"qcow2\", \"node-name\": \"disk\", \"cache\": {\"direct\": true}, "
                    "\"file\": {\"driver\": \"file\", \"filename\": \"%s\"}}]", path);
        ck_assert_int_eq(flags_of(path, -1) & O_DIRECT, O_DIRECT);
        ck_assert_int_eq(test_request(user, OP_WRITE, 512, (char[512]){ 1 }, 512, 0), 0);
    }
    must_not_reopen(&t, "Cannot change the option 'filename'", "[{\"driver\": \"qcow2\", \"node-name\": "
                    "\"disk\", \"file\": {\"driver\": \"file\", \"filename\": \"%s.x\"}}]", path);
    block_user_free(user);
    must_reopen(&t, "[{\"driver\": \"qcow2\", \"node-name\": \"disk\", \"read-only\": true, "
                "\"file\": {\"driver\": \"file\", \"filename\": \"%s\"}}]", path);
    ck_assert_int_eq(flags_of(path, -1) & O_ACCMODE, O_RDONLY);
    test_root_free(&t);
    qcow2_check_image(path);
}
END_TEST

#define FORMAT_NODE "{\"driver\": \"qcow2\", \"node-name\": \"disk\", \"file\": \"f\""

START_TEST(read_only)
{
    bool top_first = _i;
    g_autofree char *path = qcow2_create("disk.qcow2", "", SIZE);
    TestRoot t = test_root();
    GError *error = NULL;
    char first[512];
    BlockNode *node;
    BlockUser *user;

    open_file(&t, "f", path, "");
    node = test_open(t.graph, &error, FORMAT_NODE "}");
    assert_no_error(error);
    user = test_user(node);
    ck_assert_int_eq(test_request(user, OP_WRITE, 0, (char[512]){ 1, 2, 3 }, 512, 0), 0);
    must_not_reopen(&t, "it is written to by test", "[" FORMAT_NODE ", \"read-only\": true}]");
    must_not_reopen(&t, "it is written to by node 'disk'", "[" FILE_NODE ", \"read-only\": true}]",
                    "f", path);
    ck_assert_int_eq(flags_of(path, -1) & O_ACCMODE, O_RDWR);
    block_user_free(user);

    if (top_first)
        must_reopen(&t, "[" FORMAT_NODE ", \"read-only\": true}, " FILE_NODE ", \"read-only\": true}]",
                    "f", path);
    else
        must_reopen(&t, "[" FILE_NODE ", \"read-only\": true}, " FORMAT_NODE ", \"read-only\": true}]",
                    "f", path);
    ck_assert_int_eq(flags_of(path, -1) & O_ACCMODE, O_RDONLY);
    qcow2_check_image(path);               /* it is whole now */
    ck_assert_ptr_null(block_user_new(node, "a writer", BLOCK_PERM_WRITE, BLOCK_PERM_ALL, &error));
    assert_error(&error, "read-only");
    must_not_reopen(&t, "Block node 'f' is read-only", "[" FORMAT_NODE "}]");
    ck_assert(block_node_read_only(node));

    if (top_first)
        must_reopen(&t, "[" FORMAT_NODE "}, " FILE_NODE "}]", "f", path);
    else
        must_reopen(&t, "[" FILE_NODE "}, " FORMAT_NODE "}]", "f", path);
    ck_assert_int_eq(flags_of(path, -1) & O_ACCMODE, O_RDWR);
    user = test_user(node);
    ck_assert_int_eq(test_request(user, OP_WRITE, 65536, (char[512]){ 4 }, 512, 0), 0);
    ck_assert_int_eq(test_request(user, OP_READ, 0, first, 512, 0), 0);
    ck_assert_mem_eq(first, ((char[512]){ 1, 2, 3 }), 512);
    block_user_free(user);
    test_root_free(&t);
    qcow2_check_image(path);
}
END_TEST

/* The locks are those of the descriptor that is open now, and nothing of another one stays. */
START_TEST(locks_go_along)
{
    g_autofree char *path = test_file("disk.img", SIZE);
    TestRoot t = test_root(), other = test_root();
    BlockNode *node = open_file(&t, "f", path, ""), *same = open_file(&other, "f", path, "");
    GError *error = NULL;
    BlockUser *user = block_user_new(node, "the guest", BLOCK_PERM_WRITE, BLOCK_PERM_READ, &error);

    assert_no_error(error);
    if (test_direct_io())
        must_reopen(&t, "[" FILE_NODE ", \"cache\": {\"direct\": true}}]", "f", path);
    ck_assert_ptr_null(block_user_new(same, "x", BLOCK_PERM_WRITE, BLOCK_PERM_ALL, &error));
    assert_error(&error, "lock");
    block_user_free(user);
    user = block_user_new(same, "x", BLOCK_PERM_WRITE, BLOCK_PERM_READ, &error);
    assert_no_error(error);
    must_reopen(&t, "[" FILE_NODE ", \"read-only\": true}]", "f", path);
    block_user_free(user);
    test_root_free(&other);
    test_root_free(&t);
}
END_TEST

START_TEST(all_or_none)
{
    g_autofree char *path_a = test_file("a.img", SIZE), *path_b = test_file("b.img", SIZE);
    static const struct {
        const char *b, *refusal;
    } bad[] = {
        { ", \"aio\": \"native\"", "aio=native was specified" },
        { ", \"locking\": \"off\"", "Cannot change the option 'locking'" },
        { ", \"read-only\": true", "it is written to by test" },
        { ", \"read-only\": true, \"force-share\": true", "it is written to by test" },
        { ", \"detect-zeroes\": \"unmap\"", "needs discard=unmap" },
        { ", \"drop-cache\": true, \"offset\": 5", "Cannot change the option 'offset'" },
    };
    TestRoot t = test_root();
    BlockNode *a = open_file(&t, "a", path_a, ""), *b = open_file(&t, "b", path_b, "");
    BlockUser *user = test_user(b);

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        must_not_reopen(&t, bad[i].refusal, "[" FILE_NODE ", \"read-only\": true}, " FILE_NODE "%s}]",
                        "a", path_a, "b", path_b, bad[i].b);
        ck_assert(!block_node_read_only(a));
        ck_assert_int_eq(flags_of(path_a, -1) & O_ACCMODE, O_RDWR);
        ck_assert_int_eq(flags_of(path_b, -1) & O_ACCMODE, O_RDWR);
        ck_assert_int_eq(test_request(user, OP_WRITE, 0, (char[512]){ 1 }, 512, 0), 0);
    }
    must_not_reopen(&t, "given twice", "[" FILE_NODE "}, " FILE_NODE "}]", "a", path_a, "a", path_a);
    must_not_reopen(&t, "Failed to find node", "[" FILE_NODE "}]", "c", path_a);
    ck_assert_int_eq(rename(path_b, path_a), 0);
    must_not_reopen(&t, "another file than when it was opened", "[" FILE_NODE ", \"read-only\": true}]",
                    "a", path_a);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

/* Descriptors that were passed: the one that may do what is asked for is taken. */
START_TEST(passed_descriptors)
{
    g_autofree char *path = test_file("disk.img", SIZE), *set = NULL;
    TestRoot t = test_root();
    BlockNode *node;
    BlockUser *user;
    int64_t id;

    ck_assert(fdset_add(open(path, O_RDONLY | O_CLOEXEC), -1, NULL, &id, NULL));
    set = g_strdup_printf("/dev/fdset/%d", (int)id);
    node = open_file(&t, "f", set, ", \"auto-read-only\": true");
    ck_assert(block_node_read_only(node));
    must_reopen(&t, "[" FILE_NODE ", \"auto-read-only\": true}]", "f", set);
    ck_assert(block_node_read_only(node));
    must_not_reopen(&t, "no descriptor open for reading and writing", "[" FILE_NODE "}]", "f", set);
    ck_assert(fdset_add(open(path, O_RDWR | O_CLOEXEC), id, NULL, NULL, NULL));
    must_reopen(&t, "[" FILE_NODE "}]", "f", set);
    ck_assert(!block_node_read_only(node));
    user = test_user(node);
    ck_assert_int_eq(test_request(user, OP_WRITE, 0, (char[512]){ 1 }, 512, 0), 0);
    if (test_direct_io())
        must_reopen(&t, "[" FILE_NODE ", \"cache\": {\"direct\": true}}]", "f", set);
    ck_assert_int_eq(test_request(user, OP_WRITE, 3, (char[512]){ 1 }, 512, 0), 0);
    block_user_free(user);
    must_reopen(&t, "[" FILE_NODE ", \"read-only\": true}]", "f", set);
    ck_assert(block_node_read_only(node));
    test_root_free(&t);
    fdset_clear();
}
END_TEST

START_TEST(options_of_qcow2)
{
    static const char *const turns[] = {
        ", \"l2-cache-size\": 4096, \"l2-cache-entry-size\": 512, \"overlap-check\": \"none\"",
        ", \"cache-size\": 1048576, \"cache-clean-interval\": 1, \"overlap-check\": \"all\"",
        ", \"pass-discard-other\": true, \"discard\": \"unmap\", \"detect-zeroes\": \"unmap\"",
        ", \"lazy-refcounts\": true, \"refcount-cache-size\": 8192, \"cache-clean-interval\": 0", "",
    };
    g_autofree char *path = qcow2_create("disk.qcow2", "cluster_size=4k", SIZE);
    TestRoot t = test_root();
    GError *error = NULL;
    BlockNode *node;
    Guest *g;

    open_file(&t, "f", path, "");
    node = test_open(t.graph, &error, FORMAT_NODE ", \"discard\": \"unmap\"}");
    assert_no_error(error);
    g = guest_new(node, 7);
    guest_start(g);
    for (unsigned i = 0; i < 2 * G_N_ELEMENTS(turns); i++) {
        guest_writes(g, 15);
        must_reopen(&t, "[" FORMAT_NODE "%s}]", turns[i % G_N_ELEMENTS(turns)]);
        ck_assert(node->config.discard == !!strstr(turns[i % G_N_ELEMENTS(turns)], "\"discard\""));
    }
    must_not_reopen(&t, "L2 cache entry size must be", "[" FORMAT_NODE ", \"l2-cache-entry-size\": 8192}]");
    must_not_reopen(&t, "Cannot change the option 'driver'", "[{\"driver\": \"raw\", \"node-name\": "
                    "\"disk\", \"file\": \"f\"}]");
    must_not_reopen(&t, "Option 'file' must be specified", "[{\"driver\": \"qcow2\", \"node-name\": "
                    "\"disk\"}]");
    guest_writes(g, 15);
    guest_stop(g);
    check_disk(node, g->disk, "the disk");
    guest_free(g);
    test_root_free(&t);
    qcow2_check_image(path);
}
END_TEST

#define RAW_NODE "{\"driver\": \"raw\", \"node-name\": \"disk\", \"file\": \"f\""

static void note_resize(void *opaque)
{
    ++*(unsigned *)opaque;
}

static uint8_t byte_at(BlockUser *user, uint64_t offset)
{
    uint8_t data[512];

    ck_assert_int_eq(test_request(user, OP_READ, offset, data, sizeof(data), 0), 0);
    return data[0];
}

/* raw's offset and size: another part of the file, and its users know its size. */
START_TEST(another_window)
{
    g_autofree char *path = test_file("disk.img", 65536);
    uint8_t data[512] = { 0 };
    TestRoot t = test_root();
    GError *error = NULL;
    unsigned resized = 0;
    BlockNode *file = open_file(&t, "f", path, "");
    BlockUser *user = test_user(file);

    for (unsigned i = 0; i < 128; i++) {
        data[0] = i;
        ck_assert_int_eq(test_request(user, OP_WRITE, i * 512, data, 512, 0), 0);
    }
    block_user_free(user);
    user = test_user(test_open(t.graph, &error, "raw,node-name=disk,file=f"));
    assert_no_error(error);
    block_user_on_resize(user, note_resize, &resized);
    must_reopen(&t, "[" RAW_NODE ", \"offset\": 5120, \"size\": 1024}]");
    ck_assert_int_eq(block_node_size(block_user_node(user)), 1024);
    ck_assert_uint_eq(resized, 1);
    ck_assert_uint_eq(byte_at(user, 512), 11);
    ck_assert_int_eq(test_request(user, OP_READ, 1024, data, 512, 0), -EIO);
    must_not_reopen(&t, "past the end", "[" RAW_NODE ", \"offset\": 5120, \"size\": 61440}]");
    must_not_reopen(&t, "multiple of 512", "[" RAW_NODE ", \"size\": 100}]");
    ck_assert_uint_eq(byte_at(user, 0), 10);
    must_reopen(&t, "[" RAW_NODE "}]");
    ck_assert_int_eq(block_node_size(block_user_node(user)), 65536);
    ck_assert_uint_eq(resized, 2);
    ck_assert_uint_eq(byte_at(user, 512), 1);
    block_user_free(user);
    user = block_user_new(block_node_find(t.graph, "disk"), "a job", BLOCK_PERM_READ,
                          BLOCK_PERM_ALL & ~BLOCK_PERM_RESIZE, &error);
    assert_no_error(error);
    must_not_reopen(&t, "a job does not allow it", "[" RAW_NODE ", \"size\": 512}]");
    must_reopen(&t, "[" RAW_NODE ", \"size\": 65536}]");
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, cache_and_engine, 0, 2);
    tcase_add_test(tc, another_window);
    tcase_add_test(tc, children_in_place);
    tcase_add_loop_test(tc, read_only, 0, 2);
    tcase_add_test(tc, locks_go_along);
    tcase_add_test(tc, all_or_none);
    tcase_add_test(tc, passed_descriptors);
    tcase_add_test(tc, options_of_qcow2);
}

int main(void)
{
    return run_block_tests("block-reopen", add_tests);
}

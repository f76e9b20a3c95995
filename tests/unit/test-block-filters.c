/* blkdebug: rules, states, limits.  blklogwrites: what the log holds.  preallocate: where a file ends. */
#include <signal.h>
#include <sys/resource.h>
#include "block-util.h"
#include "block/chain.h"
#include "block/debug.h"
#include "src/base/coroutine.h"
#include "src/base/util.h"

static BlockUser *user_of(BlockNode *node)
{
    return block_user_new(node, "test", BLOCK_PERM_READ | BLOCK_PERM_WRITE, BLOCK_PERM_ALL, NULL);
}

static int request(BlockUser *user, TestOp op, uint64_t offset, uint64_t bytes)
{
    g_autofree char *buffer = g_malloc0(bytes);

    return test_request(user, op, offset, buffer, bytes, 0);
}

#define IMAGE "image.driver=null-co,image.size=1M"

START_TEST(rules_choose_requests)
{
    TestRoot t = test_root();
    GError *error = NULL;
    BlockNode *node = test_open(
        t.graph, &error, "driver=blkdebug,node-name=n," IMAGE
        ",inject-error.0.event=none,inject-error.0.iotype=write,inject-error.0.errno=28"
        ",inject-error.0.sector=8,inject-error.1.event=none,inject-error.1.iotype=flush"
        ",inject-error.1.once=on,inject-error.1.immediately=on");
    BlockUser *user;

    assert_no_error(error);
    user = user_of(node);
    ck_assert_int_eq(request(user, OP_READ, 4096, 512), 0);
    ck_assert_int_eq(request(user, OP_WRITE, 0, 4096), 0);
    ck_assert_int_eq(request(user, OP_WRITE, 4608, 512), 0);
    ck_assert_int_eq(request(user, OP_WRITE, 0, 4608), -ENOSPC);
    ck_assert_int_eq(request(user, OP_WRITE, 4096, 512), -ENOSPC);
    ck_assert_int_eq(request(user, OP_ZERO, 4096, 512), 0);
    ck_assert_int_eq(request(user, OP_FLUSH, 0, 1), -EIO);
    ck_assert_int_eq(request(user, OP_FLUSH, 0, 1), 0);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

START_TEST(events_lead_from_state_to_state)
{
    TestRoot t = test_root();
    g_autofree char *config = g_build_filename(test_dir(), "rules.conf", NULL);
    GError *error = NULL;
    BlockNode *node;
    BlockUser *user;

    ck_assert(g_file_set_contents(config, "# rules\n[set-state]\nevent = \"l2_load\"\nstate = \"1\"\n"
                                  "new_state = \"2\"\n\n[inject-error]\nevent = \"write_aio\"\n"
                                  "state = \"2\"\nerrno = \"5\"\nonce = \"on\"\n", -1, NULL));
    node = test_open(t.graph, &error, "driver=blkdebug,node-name=n,config=%s," IMAGE, config);
    assert_no_error(error);
    user = user_of(node);
    block_debug_event(node, "write_aio");
    ck_assert_int_eq(request(user, OP_WRITE, 0, 512), 0);      /* not in state 2 */
    block_debug_event(node, "l2_load");
    ck_assert_int_eq(request(user, OP_WRITE, 0, 512), 0);      /* its event has not come */
    block_debug_event(node, "write_aio");
    ck_assert_int_eq(request(user, OP_WRITE, 0, 512), -EIO);
    ck_assert_int_eq(request(user, OP_WRITE, 0, 512), 0);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

START_TEST(limits_shape_requests)
{
    TestRoot t = test_root();
    GError *error = NULL;
    g_autofree char *path = test_file("limits", 65536);
    BlockNode *node = test_open(t.graph, &error, "driver=blkdebug,node-name=n,align=4096,"
                                "max-transfer=8192,inject-error.0.event=none,"
                                "inject-error.0.iotype=read,inject-error.0.sector=0,"
                                "image.driver=file,image.filename=%s", path);
    BlockUser *user;
    BlockLimits limits;

    assert_no_error(error);
    limits = block_node_limits(node);
    ck_assert_uint_eq(limits.request_alignment, 4096);
    ck_assert_uint_eq(limits.max_transfer, 8192);
    user = user_of(node);
    ck_assert_int_eq(request(user, OP_READ, 2048, 512), -EIO);   /* the whole block is read */
    ck_assert_int_eq(request(user, OP_READ, 4096, 32768), 0);
    ck_assert_int_eq(request(user, OP_WRITE, 512, 512), -EIO);   /* read first, then changed */
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

START_TEST(wrong_rules_are_refused)
{
    static const struct {
        const char *text, *error;
    } wrong[] = {
        { "inject-error.0.errno=5", "needs an 'event'" },
        { "inject-error.0.event=l2_lod", "l2_load" },
        { "inject-error.0.event=none,inject-error.0.iotype=reed", "read" },
        { "inject-error.0.event=none,inject-error.0.errno=0", "errno" },
        { "inject-error.0.event=none,inject-error.0.often=on", "often" },
        { "set-state.0.event=none,set-state.0.once=on", "once" },
        { "align=3000", "align" },
        { "align=4096,max-transfer=1000", "max-transfer" },
        { "config=/nonexistent", "nonexistent" },
    };
    TestRoot t = test_root();

    for (unsigned i = 0; i < G_N_ELEMENTS(wrong); i++) {
        GError *error = NULL;

        ck_assert_ptr_null(test_open(t.graph, &error, "driver=blkdebug,node-name=n," IMAGE ",%s",
                                     wrong[i].text));
        assert_error(&error, wrong[i].error);
    }
    ck_assert(block_debug_event_known("refblock_alloc_hookup"));
    test_root_free(&t);
}
END_TEST

/* The log, as the kernel's documentation "dm-log-writes" has it. */
START_TEST(writes_are_logged)
{
    TestRoot t = test_root();
    GError *error = NULL;
    g_autofree char *path = test_file("data", 65536), *log = test_file("log", 0), *text = NULL;
    g_autofree char *data = g_malloc(1024);
    const uint8_t *l;
    gsize length;
    BlockNode *node = test_open(t.graph, &error, "driver=blklogwrites,node-name=n,discard=unmap,"
                                "file.driver=file,file.filename=%s,log.driver=file,log.filename=%s",
                                path, log);
    BlockUser *user;

    assert_no_error(error);
    user = user_of(node);
    memset(data, 0x5a, 1024);
    ck_assert_int_eq(test_request(user, OP_WRITE, 2048, data, 1024, 0), 0);
    ck_assert_int_eq(test_request(user, OP_WRITE, 512, data, 512, BLOCK_FUA), 0);
    ck_assert_int_eq(request(user, OP_DISCARD, 8192, 4096), 0);
    ck_assert_int_eq(request(user, OP_FLUSH, 0, 1), 0);
    block_user_free(user);
    test_root_free(&t);

    ck_assert(g_file_get_contents(log, &text, &length, NULL));
    l = (const uint8_t *)text;
    ck_assert_uint_ge(length, 8 * 512);
    ck_assert_uint_eq(ld_le64(l), 0x6a736677736872ull);
    ck_assert_uint_eq(ld_le64(l + 8), 1);
    ck_assert_uint_eq(ld_le64(l + 16), 4);
    ck_assert_uint_eq(ld_le32(l + 24), 512);
    l += 512;                              /* the write */
    ck_assert_uint_eq(ld_le64(l), 4);
    ck_assert_uint_eq(ld_le64(l + 8), 2);
    ck_assert_uint_eq(ld_le64(l + 16), 0);
    ck_assert(all_bytes(l + 512, 1024, 0x5a));
    l += 512 + 1024;                       /* the one with FUA */
    ck_assert_uint_eq(ld_le64(l), 1);
    ck_assert_uint_eq(ld_le64(l + 16), 2);
    l += 1024;                             /* the discard: no data */
    ck_assert_uint_eq(ld_le64(l), 16);
    ck_assert_uint_eq(ld_le64(l + 8), 8);
    ck_assert_uint_eq(ld_le64(l + 16), 4);
    l += 512;                              /* the flush */
    ck_assert_uint_eq(ld_le64(l + 16), 1);
}
END_TEST

START_TEST(a_log_goes_on)
{
    TestRoot t = test_root();
    GError *error = NULL;
    g_autofree char *path = test_file("data2", 65536), *log = test_file("log2", 0), *text = NULL;
    gsize length;

    for (unsigned i = 0; i < 2; i++) {
        BlockNode *node = test_open(t.graph, &error, "driver=blklogwrites,node-name=n,log-append=%s,"
                                    "file.driver=file,file.filename=%s,log.driver=file,"
                                    "log.filename=%s", i ? "on" : "off", path, log);
        BlockUser *user;

        assert_no_error(error);
        user = user_of(node);
        ck_assert_int_eq(request(user, OP_WRITE, 0, 512), 0);
        block_user_free(user);
        ck_assert(block_node_delete(t.graph, "n", &error));
    }
    ck_assert(g_file_get_contents(log, &text, &length, NULL));
    ck_assert_uint_eq(ld_le64(text + 16), 2);
    ck_assert_uint_ge(length, 5 * 512);
    test_root_free(&t);
}
END_TEST

/* ---- preallocate ---- */

#define PREALLOCATE "driver=preallocate,node-name=p,prealloc-size=1M,prealloc-align=64k,"

static uint64_t length_of(const char *path)
{
    struct stat st;

    ck_assert_int_eq(stat(path, &st), 0);
    return st.st_size;
}

static BlockUser *user_with(BlockNode *node, unsigned perm)
{
    GError *error = NULL;
    BlockUser *user = block_user_new(node, "test", perm, BLOCK_PERM_ALL, &error);

    assert_no_error(error);
    return user;
}

/* As a node above writes: also past the end, which users may not. */
typedef struct NodeWrite {
    BlockUser *user;
    uint64_t offset, bytes;
    int byte;                              /* -1: a request for zeroes */
    int ret;
    unsigned *left;                        /* counted down at the end; NULL: nobody counts */
    Coroutine *waiter;                     /* woken by the last one */
} NodeWrite;

static void co_fn node_write(void *opaque)
{
    NodeWrite *w = opaque;
    BlockNode *node = block_user_node(w->user);
    g_autofree uint8_t *buffer = g_malloc(w->bytes);
    struct iovec iov = { buffer, w->bytes };

    memset(buffer, w->byte, w->bytes);
    w->ret = w->byte < 0 ? block_node_co_zero(node, w->offset, w->bytes, 0)
                         : block_node_co_write(node, w->offset, &iov, 1, w->bytes, 0);
    if (w->left && !--*w->left)
        co_wake(w->waiter);
}

static void write_byte(BlockUser *user, uint64_t offset, uint64_t bytes, int value)
{
    NodeWrite w = { user, offset, bytes, value, -1, NULL, NULL };

    co_run_sync(node_write, &w);
    ck_assert_int_eq(w.ret, 0);
}

static void expect_byte(BlockUser *user, uint64_t offset, uint64_t bytes, uint8_t value)
{
    g_autofree uint8_t *buffer = g_malloc(bytes);

    ck_assert_int_eq(test_request(user, OP_READ, offset, buffer, bytes, 0), 0);
    ck_assert(all_bytes(buffer, bytes, value));
}

enum { RESIZER = BLOCK_PERM_READ | BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE };

START_TEST(a_file_is_longer_for_a_while)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("ahead", 1000 * 512);
    GError *error = NULL;
    BlockNode *node = test_open(t.graph, &error, PREALLOCATE "file.driver=file,file.filename=%s", path);
    BlockUser *user;

    assert_no_error(error);
    user = user_with(node, RESIZER);
    write_byte(user, 0, 4096, 1);                        /* inside: nothing happens */
    ck_assert_uint_eq(length_of(path), 1000 * 512);
    write_byte(user, 1000 * 512, 4096, 2);
    ck_assert_uint_eq(length_of(path), ALIGN_UP(1000 * 512 + 4096 + MiB, 64 * KiB));
    ck_assert_int_eq(block_node_size(node), 1000 * 512 + 4096);
    ck_assert_int_eq(test_request(user, OP_READ, 1000 * 512 + 4096, NULL, 512, 0), -EIO);
    write_byte(user, 600 * KiB, 4096, 3);                /* there is room, and what is between is zeroes */
    ck_assert_uint_eq(length_of(path), ALIGN_UP(1000 * 512 + 4096 + MiB, 64 * KiB));
    expect_byte(user, 1000 * 512 + 4096, 600 * KiB - 1000 * 512 - 4096, 0);
    write_byte(user, 4 * MiB, 4096, -1);
    ck_assert_uint_eq(length_of(path), ALIGN_UP(5 * MiB + 4096, 64 * KiB));
    expect_byte(user, 600 * KiB, 4096, 3);
    block_user_free(user);
    ck_assert_uint_eq(length_of(path), 4 * MiB + 4096);  /* the last who writes has gone */
    user = user_with(node, BLOCK_PERM_READ);
    expect_byte(user, 1000 * 512, 4096, 2);
    block_user_free(user);
    test_root_free(&t);
    ck_assert_uint_eq(length_of(path), 4 * MiB + 4096);
}
END_TEST

START_TEST(a_file_that_others_may_lock_is_short)
{
    TestRoot t = test_root(), other = test_root();
    g_autofree char *path = test_file("held", 0);
    GError *error = NULL;
    BlockNode *node = test_open(t.graph, &error, PREALLOCATE "file.driver=file,file.filename=%s", path);
    BlockNode *second;
    BlockUser *user;

    assert_no_error(error);
    user = user_with(node, BLOCK_PERM_READ | BLOCK_PERM_WRITE);   /* who may not resize: as without it */
    write_byte(user, 0, 512, 1);
    ck_assert_uint_eq(length_of(path), 512);
    block_user_free(user);
    user = user_with(node, RESIZER);
    write_byte(user, 512, 512, 1);
    ck_assert_uint_gt(length_of(path), MiB);
    ck_assert_ptr_null(test_open(other.graph, &error, "driver=file,node-name=f,locking=on,filename=%s",
                                 path) ? block_user_new(block_node_find(other.graph, "f"), "other",
                                                        BLOCK_PERM_WRITE, BLOCK_PERM_ALL, &error)
                                       : NULL);
    assert_error(&error, "lock");
    block_user_free(user);
    ck_assert_uint_eq(length_of(path), 1024);
    second = block_node_find(other.graph, "f");          /* and now it is free */
    user = user_with(second, BLOCK_PERM_WRITE);
    block_user_free(user);
    test_root_free(&other);
    test_root_free(&t);
}
END_TEST

START_TEST(resizing_above_preallocation)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("resized", 0);
    GError *error = NULL;
    BlockNode *node = test_open(t.graph, &error, PREALLOCATE "file.driver=file,file.filename=%s", path);
    BlockUser *user;

    assert_no_error(error);
    user = user_with(node, RESIZER);
    write_byte(user, 0, 64 * KiB, 1);
    ck_assert(block_node_resize(node, 4096, &error));
    ck_assert_int_eq(block_node_size(node), 4096);
    ck_assert_uint_eq(length_of(path), 4096);
    ck_assert(block_node_resize(node, 64 * KiB, &error));
    expect_byte(user, 4096, 60 * KiB, 0);
    write_byte(user, 64 * KiB, 4096, 2);
    ck_assert(block_node_resize(node, 512 * KiB, &error));       /* inside the piece */
    ck_assert_uint_eq(length_of(path), 512 * KiB);
    expect_byte(user, 64 * KiB, 4096, 2);
    expect_byte(user, 68 * KiB, 444 * KiB, 0);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

enum { WRITERS = 64, PIECE = 24 << 10 };

static void co_fn write_all(void *opaque)
{
    NodeWrite *writers = opaque;

    for (unsigned i = 0; i < WRITERS; i++)
        writers[i].waiter = co_self();
    for (unsigned i = 0; i < WRITERS; i++)
        co_start(node_write, &writers[i * 37 % WRITERS]);
    while (*writers->left)
        co_yield();
}

/* Many writers past the end at once. */
START_TEST(no_zeroes_over_what_is_written)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("race", 0);
    GError *error = NULL;
    BlockNode *node = test_open(t.graph, &error, "driver=preallocate,node-name=p,prealloc-size=48k,"
                                "prealloc-align=512,file.driver=file,file.aio=threads,file.filename=%s",
                                path);
    BlockUser *user;
    NodeWrite writers[WRITERS];
    unsigned left = WRITERS;

    assert_no_error(error);
    user = user_with(node, RESIZER);
    for (unsigned i = 0; i < WRITERS; i++)
        writers[i] = (NodeWrite){ user, (uint64_t)i * PIECE, PIECE, i + 1, -1, &left, NULL };
    co_run_sync(write_all, writers);
    for (unsigned i = 0; i < WRITERS; i++) {
        ck_assert_int_eq(writers[i].ret, 0);
        expect_byte(user, writers[i].offset, PIECE, i + 1);
    }
    block_user_free(user);
    ck_assert_uint_eq(length_of(path), WRITERS * PIECE);
    test_root_free(&t);
}
END_TEST

/* Where there is no room for a piece there may be for the write; later it is tried again. */
START_TEST(no_room_for_a_piece)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("small", 0);
    struct rlimit old, small;
    GError *error = NULL;
    BlockNode *node = test_open(t.graph, &error, PREALLOCATE "file.driver=file,file.filename=%s", path);
    BlockUser *user;

    assert_no_error(error);
    user = user_with(node, RESIZER);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = (struct rlimit){ 512 * KiB, old.rlim_max };
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    write_byte(user, 0, 4096, 1);
    write_byte(user, 8192, 4096, 2);
    ck_assert_uint_eq(length_of(path), 12288);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
    write_byte(user, 12288, 4096, 3);
    ck_assert_uint_gt(length_of(path), MiB);
    expect_byte(user, 4096, 4096, 0);
    expect_byte(user, 8192, 4096, 2);
    block_user_free(user);
    ck_assert_uint_eq(length_of(path), 16384);
    test_root_free(&t);
}
END_TEST

START_TEST(wrong_preallocation_is_refused)
{
    static const char *const wrong[][2] = {
        { "prealloc-align=0", "multiple" }, { "prealloc-align=1000", "multiple" },
        { "prealloc-size=9E", "" }, { "prealloc=1", "prealloc" },
    };
    TestRoot t = test_root();
    g_autofree char *path = test_file("wrong", 0);

    for (unsigned i = 0; i < G_N_ELEMENTS(wrong); i++) {
        GError *error = NULL;

        ck_assert_ptr_null(test_open(t.graph, &error, "driver=preallocate,node-name=p,%s,"
                                     "file.driver=file,file.filename=%s", wrong[i][0], path));
        assert_error(&error, wrong[i][1]);
    }
    test_root_free(&t);
}
END_TEST

/* A filter that has nothing of its own but what it must. */

static bool co_fn veil_open(BlockNode *node, json_object *options, GError **error)
{
    return block_node_open_child(node, options, "file", true, error) != NULL;
}

static int co_fn veil_write(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                            uint64_t bytes, unsigned flags)
{
    return block_node_co_write(block_node_file(node), offset, iov, iovcnt, bytes, flags);
}

static const char *const veil_options[] = { "file", NULL };
static const BlockDriver veil_driver = {
    .name = "veil", .help = "a filter of a test", .options = veil_options, .is_filter = true,
    .open = veil_open, .co_write = veil_write,
};
BLOCK_DRIVER(veil_driver)

typedef struct MapRun {
    BlockUser *user;
    BlockMap map;
    int ret;
} MapRun;

static void co_fn map_run(void *opaque)
{
    MapRun *run = opaque;

    run->ret = block_co_map(run->user, NULL, 0, 4096, &run->map, NULL);
}

START_TEST(filters_have_the_verbs_of_what_is_below)
{
    TestRoot t = test_root();
    GError *error = NULL;
    BlockNode *node = test_open(
        t.graph, &error, "driver=veil,node-name=n,discard=unmap,file.driver=blkdebug,"
        "file.discard=unmap,file.image.driver=null-co,file.image.size=1M,file.image.read-zeroes=on,"
        "file.inject-error.0.event=none,file.inject-error.0.iotype=read,file.inject-error.0.errno=5,"
        "file.inject-error.1.event=none,file.inject-error.1.iotype=write-zeroes,"
        "file.inject-error.1.errno=28,file.inject-error.2.event=none,"
        "file.inject-error.2.iotype=discard,file.inject-error.2.errno=27,"
        "file.inject-error.3.event=none,file.inject-error.3.iotype=flush,file.inject-error.3.errno=30");
    MapRun run = { 0 };

    assert_no_error(error);
    run.user = user_of(node);
    ck_assert_int_eq(request(run.user, OP_READ, 0, 4096), -EIO);
    ck_assert_int_eq(request(run.user, OP_WRITE, 0, 4096), 0);
    ck_assert_int_eq(request(run.user, OP_ZERO, 0, 4096), -ENOSPC);
    ck_assert_int_eq(request(run.user, OP_DISCARD, 0, 4096), -EFBIG);
    ck_assert_int_eq(request(run.user, OP_FLUSH, 0, 1), -EROFS);
    co_run_sync(map_run, &run);
    ck_assert_int_eq(run.ret, 0);
    ck_assert(run.map.flags & BLOCK_MAP_ZERO);
    ck_assert(block_node_resize(node, 2 * MiB, &error));
    ck_assert_int_eq(block_node_size(block_node_file(node)), 2 * MiB);
    block_user_free(run.user);
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, filters_have_the_verbs_of_what_is_below);
    tcase_add_test(tc, a_file_is_longer_for_a_while);
    tcase_add_test(tc, a_file_that_others_may_lock_is_short);
    tcase_add_test(tc, resizing_above_preallocation);
    tcase_add_test(tc, no_zeroes_over_what_is_written);
    tcase_add_test(tc, no_room_for_a_piece);
    tcase_add_test(tc, wrong_preallocation_is_refused);
    tcase_add_test(tc, rules_choose_requests);
    tcase_add_test(tc, events_lead_from_state_to_state);
    tcase_add_test(tc, limits_shape_requests);
    tcase_add_test(tc, wrong_rules_are_refused);
    tcase_add_test(tc, writes_are_logged);
    tcase_add_test(tc, a_log_goes_on);
}

int main(void)
{
    return run_block_tests("block-filters", add_tests);
}

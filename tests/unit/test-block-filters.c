/* blkdebug: rules, states, limits.  blklogwrites: what the log holds. */
#include "block-util.h"
#include "block/debug.h"
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

static void add_tests(TCase *tc)
{
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

/* The graph: names, options, ownership, permissions, reads through raw. */
#include "block-util.h"

START_TEST(read_write_through_raw)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("a.img", 1 << 20);
    GError *error = NULL;
    char out[4096], in[4096];
    BlockNode *node = test_open(t.graph, &error,
                                "driver=raw,node-name=disk,file.driver=file,file.filename=%s", path);
    BlockUser *user;

    assert_no_error(error);
    ck_assert_int_eq(block_node_size(node), 1 << 20);
    ck_assert_str_eq(block_node_filename(node), path);
    user = block_user_new(node, "test", BLOCK_PERM_READ | BLOCK_PERM_WRITE, BLOCK_PERM_ALL, &error);
    assert_no_error(error);
    memset(out, 0x5a, sizeof(out));
    ck_assert_int_eq(test_request(user, OP_WRITE, 12345, out, sizeof(out), 0), 0);
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    ck_assert_int_eq(test_request(user, OP_READ, 12345, in, sizeof(in), 0), 0);
    ck_assert_mem_eq(in, out, sizeof(in));
    ck_assert_int_eq(test_request(user, OP_READ, (1 << 20) - 1, in, 2, 0), -EIO);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("block-graph");
    TCase *tcase = tcase_create("graph");
    SRunner *runner;
    int failed;

    tcase_add_test(tcase, read_write_through_raw);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    test_dir();                    /* before the forks */
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    test_dir_remove();
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

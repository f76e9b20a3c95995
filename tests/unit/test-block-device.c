/* host_device, on a loop device; skipped where none can be made (not root, no loop driver). */
#include "block-util.h"
#include "src/base/util.h"

#define DEVICE_BYTES (16 * MiB)

static char *loop_device;

/* NULL: none here. */
static char *attach_loop(const char *path)
{
    g_autofree char *command = g_strdup_printf("losetup -b 4096 -f --show '%s'", path);
    char *argv[] = { "sh", "-c", command, NULL }, *output = NULL;
    int status = 1;

    if (!g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDERR_TO_DEV_NULL, NULL,
                      NULL, &output, NULL, &status, NULL) || status) {
        g_free(output);
        return NULL;
    }
    return g_strchomp(output);
}

static void detach_loop(void)
{
    g_autofree char *command = g_strdup_printf("losetup -d %s", loop_device);

    if (system(command))
        fprintf(stderr, "%s failed\n", command);
    g_free(loop_device);
}

static BlockUser *attach(BlockNode *node)
{
    GError *error = NULL;
    BlockUser *user = block_user_new(node, "test", BLOCK_PERM_READ | BLOCK_PERM_WRITE,
                                     BLOCK_PERM_ALL, &error);

    assert_no_error(error);
    return user;
}

static void assert_bytes(BlockUser *user, uint64_t offset, uint64_t bytes, uint8_t value)
{
    g_autofree uint8_t *data = g_malloc(bytes);

    ck_assert_int_eq(test_request(user, OP_READ, offset, data, bytes, 0), 0);
    for (uint64_t i = 0; i < bytes; i++)
        ck_assert_msg(data[i] == value, "byte %" PRIu64 " is %u", offset + i, data[i]);
}

static const struct {
    const char *aio;
    bool direct;
} setups[] = { { "io_uring", true }, { "io_uring", false }, { "threads", true }, { "native", true } };

START_TEST(device_requests)
{
    TestRoot t = test_root();
    GError *error = NULL;
    g_autofree uint8_t *data = g_malloc(1 * MiB);
    BlockNode *node;
    BlockUser *user;

    node = test_open(t.graph, &error, "raw,node-name=d,discard=unmap,cache.direct=%s,"
                     "file.driver=host_device,file.aio=%s,file.filename=%s",
                     setups[_i].direct ? "on" : "off", setups[_i].aio, loop_device);
    assert_no_error(error);
    ck_assert_int_eq(block_node_size(node), DEVICE_BYTES);
    ck_assert_uint_eq(block_node_probe_sizes(node).logical, 4096);
    ck_assert_uint_eq(block_node_limits(node).request_alignment, setups[_i].direct ? 4096 : 1);
    user = attach(node);
    memset(data, 0x31, 1 * MiB);
    ck_assert_int_eq(test_request(user, OP_WRITE, 0, data, 1 * MiB, 0), 0);
    memset(data, 0x32, 1000);
    ck_assert_int_eq(test_request(user, OP_WRITE, 4000, data, 1000, BLOCK_FUA), 0);
    assert_bytes(user, 0, 4000, 0x31);
    assert_bytes(user, 4000, 1000, 0x32);
    assert_bytes(user, 5000, 8192, 0x31);
    ck_assert_int_eq(test_request(user, OP_ZERO, 100, NULL, 20000, 0), 0);
    assert_bytes(user, 0, 100, 0x31);
    assert_bytes(user, 100, 20000, 0);
    assert_bytes(user, 20100, 20000, 0x31);
    ck_assert_int_eq(test_request(user, OP_ZERO, 65536, NULL, 65536, BLOCK_MAY_UNMAP), 0);
    assert_bytes(user, 65536, 65536, 0);
    ck_assert_int_eq(test_request(user, OP_DISCARD, 512 * KiB, NULL, 256 * KiB, 0), 0);
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    ck_assert_int_eq(test_request(user, OP_WRITE, DEVICE_BYTES - 1, data, 2, 0), -EIO);
    block_user_free(user);
    ck_assert(!block_node_resize(node, DEVICE_BYTES * 2, &error));
    assert_error(&error, "Cannot grow device files");
    test_root_free(&t);
}
END_TEST

START_TEST(drives_find_the_driver)
{
    TestRoot t = test_root();
    GError *error = NULL;
    g_autofree char *text = g_strdup_printf("%s,format=raw,if=none,id=x", loop_device);
    BlockNode *node = test_drive(t.graph, NULL, &error, text);

    assert_no_error(error);
    node = block_node_child(node, "file");
    ck_assert_str_eq(block_node_driver(node), "host_device");
    ck_assert_ptr_null(test_open(t.graph, &error, "file,node-name=f,filename=%s", loop_device));
    assert_error(&error, "host_device");
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_loop_test(tc, device_requests, 0, G_N_ELEMENTS(setups));
    tcase_add_test(tc, drives_find_the_driver);
}

int main(void)
{
    g_autofree char *image = test_file("loop.img", DEVICE_BYTES);
    int failed;

    loop_device = attach_loop(image);
    if (!loop_device) {
        printf("skipped: no loop device can be made here\n");
        test_dir_remove();
        return 77;
    }
    failed = run_block_tests("block-device", add_tests);
    detach_loop();
    return failed;
}

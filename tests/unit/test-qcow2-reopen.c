/*
 * A qcow2 node that becomes read-only and writable again (blockdev-reopen): read-only, the image is as if
 * it were closed, to QEMU too; writable, its bitmaps record again and survive a power cut.
 */
#include "qcow2-ram.h"
#include "tests/unit/ram-cut.h"
#include "block/bitmap.h"
#include "block/transaction.h"

enum { DISK_BYTES = 4 << 20, ROUNDS = 4 };

static const char *const kinds[] = {
    "lazy_refcounts=on", "cluster_size=512", "extended_l2=on,cluster_size=16k",
    "cluster_size=4k,refcount_bits=64",
};

static bool try_reopen(TestRoot *t, bool read_only, const char *more, GError **error)
{
    g_autofree char *text = g_strdup_printf("[{\"driver\": \"qcow2\", \"node-name\": \"disk\", \"file\": "
                                            "\"f\", \"discard\": \"unmap\", \"read-only\": %s%s}]",
                                            read_only ? "true" : "false", more);
    g_autoptr(json_object) list = json_tokener_parse(text);

    ck_assert_ptr_nonnull(list);
    return block_reopen(t->graph, list, error);
}

static void reopen(TestRoot *t, bool read_only, const char *more)
{
    GError *error = NULL;
    bool ok = try_reopen(t, read_only, more, &error);

    assert_no_error(error);
    ck_assert(ok);
}

typedef struct Action {
    TestRoot *t;
    const char *type, *data;
    GError *error;
} Action;

static void co_fn action_co(void *opaque)
{
    Action *a = opaque;
    g_autoptr(json_object) options = options_parse(a->data, NULL, NULL);

    block_action(a->t->graph, a->type, options, &a->error);
}

static GError *action(TestRoot *t, const char *type, const char *data)
{
    Action a = { t, type, data, NULL };

    co_run_sync(action_co, &a);
    return a.error;
}

static BlockNode *open_disk(TestRoot *t, const char *file, const char *more)
{
    GError *error = NULL;
    BlockNode *node;

    test_open(t->graph, &error, "%s", file);
    assert_no_error(error);
    node = test_open(t->graph, &error, "driver=qcow2,node-name=disk,file=f,discard=unmap%s", more);
    assert_no_error(error);
    return node;
}

/* The bitmap's flags and whether it is marked, as QEMU tells them; the image's contents. */
static void judge(const char *path, const uint8_t *model)
{
    qcow2_check_image(path);
    qcow2_compare(path, model, DISK_BYTES);
    ck_assert_int_eq(run_command("sh -c \"! qemu-img info -U %s | grep -q in-use && "
                                 "qemu-img info -U %s | grep -q auto\"", path, path), 0);
}

static BlockBitmap *bitmap_of(BlockNode *node)
{
    BlockBitmap *bitmap = block_bitmap_find(node, "b");

    ck_assert_ptr_nonnull(bitmap);
    ck_assert(!(block_bitmap_flags(bitmap) & BLOCK_BITMAP_INCONSISTENT));
    return bitmap;
}

/* With dirty caches, there and back. */
START_TEST(there_and_back)
{
    g_autofree char *path = qcow2_create("reopen.qcow2", kinds[_i], DISK_BYTES);
    g_autofree char *file = g_strdup_printf("driver=file,node-name=f,filename=%s", path);
    g_autofree uint8_t *model = g_malloc0(DISK_BYTES), *data = g_malloc0(65536);
    TestRoot t = test_root();
    DiskModel m = { .bytes = model, .size = DISK_BYTES, .longest = 100000,
                    .rand = g_rand_new_with_seed(_i) };
    BlockNode *node = open_disk(&t, file, "");
    GError *error;
    uint64_t dirty;

    assert_no_error(action(&t, "block-dirty-bitmap-add", "node=disk,name=b,persistent=on"));
    for (unsigned round = 0; round < ROUNDS; round++) {
        m.user = qcow2_attach(node);
        model_run(&m, 40);
        block_user_free(m.user);
        dirty = block_bitmap_count(bitmap_of(node));
        reopen(&t, true, round & 1 ? ", \"l2-cache-size\": 65536" : "");
        judge(path, model);
        ck_assert_uint_eq(block_bitmap_count(bitmap_of(node)), dirty);
        m.user = qcow2_attach(node);
        ck_assert_int_lt(test_request(m.user, OP_WRITE, 0, data, 512, 0), 0);
        ck_assert_int_eq(test_request(m.user, OP_READ, 0, data, 65536, 0), 0);
        ck_assert(!memcmp(data, model, 65536));
        block_user_free(m.user);
        error = action(&t, "block-dirty-bitmap-clear", "node=disk,name=b");
        assert_error(&error, "readonly");
        reopen(&t, false, "");
        ck_assert_uint_eq(block_bitmap_count(bitmap_of(node)), dirty);
        if (round & 1)
            assert_no_error(action(&t, "block-dirty-bitmap-clear", "node=disk,name=b"));
    }
    block_node_delete(t.graph, "disk", NULL);
    block_node_delete(t.graph, "f", NULL);
    judge(path, model);
    g_rand_free(m.rand);
    test_root_free(&t);
}
END_TEST

static void write_64k(BlockNode *node, uint64_t offset)
{
    g_autofree uint8_t *data = g_malloc(65536);
    BlockUser *user = qcow2_attach(node);

    memset(data, 0x5a, 65536);
    ck_assert_int_eq(test_request(user, OP_WRITE, offset, data, 65536, 0), 0);
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    block_user_free(user);
}

static void make_ram_image(TestRoot *t)
{
    BlockNode *node;

    ram_clear();
    ram_create(t, "driver=qcow2,file=mem,size=1M,cluster-size=4096");
    node = open_disk(t, "driver=ram,node-name=f", "");
    assert_no_error(action(t, "block-dirty-bitmap-add", "node=disk,name=b,persistent=on"));
    write_64k(node, 0);
    block_node_delete(t->graph, "disk", NULL);
    block_node_delete(t->graph, "f", NULL);
}

/* The power goes, and the image is opened again. */
static BlockNode *cut(TestRoot *t)
{
    GRand *rand = g_rand_new_with_seed(1);

    ram.fail_at = 1;
    ram.requests = 0;
    ram.fail_with = EIO;
    ram.dead = true;
    block_node_delete(t->graph, "disk", NULL);
    block_node_delete(t->graph, "f", NULL);
    ram_power_cut(rand);
    g_rand_free(rand);
    return open_disk(t, "driver=ram,node-name=f", "");
}

static void assert_dirty(BlockNode *node, uint64_t first, uint64_t second)
{
    BlockBitmap *bitmap = bitmap_of(node);

    ck_assert(block_bitmap_get(bitmap, first));
    ck_assert(block_bitmap_get(bitmap, second));
    ck_assert_uint_eq(block_bitmap_count(bitmap), 2 * 65536);
}

/* An image that was opened read-only; one that was read-only for a while; one where that failed. */
START_TEST(bitmaps_record_where_the_image_is_writable_again)
{
    TestRoot t = test_root();
    BlockNode *node;
    BlockUser *user;
    GError *error = NULL;

    make_ram_image(&t);
    ram_watch();
    node = open_disk(&t, "driver=ram,node-name=f", _i == 0 ? ",read-only=on" : "");
    if (_i == 1)
        reopen(&t, true, "");
    if (_i == 2) {                         /* somebody writes */
        user = qcow2_attach(node);
        ck_assert(!try_reopen(&t, true, "", &error));
        g_clear_error(&error);
        block_user_free(user);
    }
    if (_i == 3) {                         /* the disk does not take what has to be written */
        write_64k(node, 128 * KiB);
        ram.requests = 0;
        ram.fail_what = "write";
        ram.fail_at = 1;
        ram.fail_with = EIO;
        ck_assert(try_reopen(&t, true, "", &error) || error);
        g_clear_error(&error);
        ram.fail_at = 0;
        ram.fail_what = NULL;
    }
    if (_i < 2 || block_node_read_only(node))
        reopen(&t, false, "");
    write_64k(node, 128 * KiB);
    node = cut(&t);
    assert_dirty(node, 0, 128 * KiB);
    block_node_delete(t.graph, "disk", NULL);
    block_node_delete(t.graph, "f", NULL);
    test_root_free(&t);
}
END_TEST

/* After a crash: the journal goes on from there. */
START_TEST(a_crash_is_seen_through_by_who_only_reads)
{
    TestRoot t = test_root();
    GRand *rand = g_rand_new_with_seed(2);
    BlockNode *node;

    make_ram_image(&t);
    ram_watch();
    node = open_disk(&t, "driver=ram,node-name=f", "");
    write_64k(node, 128 * KiB);
    ram.fail_at = 1;
    ram.requests = 0;
    ram.fail_with = EIO;
    ram.dead = true;
    block_node_delete(t.graph, "disk", NULL);
    block_node_delete(t.graph, "f", NULL);
    ram_power_cut(rand);
    node = open_disk(&t, "driver=ram,node-name=f", ",read-only=on");
    assert_dirty(node, 0, 128 * KiB);
    reopen(&t, false, "");
    node = cut(&t);
    assert_dirty(node, 0, 128 * KiB);
    block_node_delete(t.graph, "disk", NULL);
    block_node_delete(t.graph, "f", NULL);
    g_rand_free(rand);
    test_root_free(&t);
}
END_TEST

/* Its refcounts may be too low: it is repaired where it is opened for writing. */
START_TEST(a_dirty_image_does_not_become_writable)
{
    TestRoot t = test_root();
    GError *error = NULL;

    make_ram_image(&t);
    ram.disks[0].data[79] |= 1;
    open_disk(&t, "driver=ram,node-name=f", ",read-only=on");
    ck_assert(!try_reopen(&t, false, "", &error));
    assert_error(&error, "not closed properly");
    block_node_delete(t.graph, "disk", NULL);
    block_node_delete(t.graph, "f", NULL);
    open_disk(&t, "driver=ram,node-name=f", "");
    ck_assert(!(ram.disks[0].data[79] & 1));
    block_node_delete(t.graph, "disk", NULL);
    block_node_delete(t.graph, "f", NULL);
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, there_and_back, 0, G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, bitmaps_record_where_the_image_is_writable_again, 0, 4);
    tcase_add_test(tc, a_crash_is_seen_through_by_who_only_reads);
    tcase_add_test(tc, a_dirty_image_does_not_become_writable);
}

int main(void)
{
    return run_block_tests("qcow2-reopen", add_tests);
}

/*
 * Stored bitmaps: what was marked when an image was closed is marked when it is opened again, by us and as
 * qemu-img and QEMU's NBD server tell it; a bitmap of an image that was not closed is not believed.
 */
#include "qcow2-util.h"
#include "block/bitmap.h"
#include "block/image.h"

#define DISK_BYTES (40 * MiB)

static const struct {
    const char *options;
    unsigned granularity;
} kinds[] = {
    { "", 65536 }, { "cluster_size=512", 512 }, { "cluster_size=4k", 4096 },
    { "extended_l2=on", 1 << 20 }, { "cluster_size=2M", 65536 },
};

static BlockBitmap *add(BlockUser *user, const char *name, unsigned granularity)
{
    BlockNode *node = block_user_node(user);
    const BlockImageVerbs *verbs = block_driver_find("qcow2")->image;
    GError *error = NULL;
    BlockBitmap *bitmap;

    ck_assert(verbs->can_store_bitmap(node, name, granularity, &error));
    bitmap = block_bitmap_new(node, name, granularity, &error);
    assert_no_error(error);
    block_bitmap_set_flags(bitmap, BLOCK_BITMAP_PERSISTENT, 0);
    return bitmap;
}

static void write_at(BlockUser *user, uint64_t offset, uint64_t bytes)
{
    g_autofree char *data = g_malloc0(bytes);

    ck_assert_int_eq(test_request(user, OP_WRITE, offset, data, bytes, 0), 0);
}

/* The same areas marked in both. */
static void compare_areas(BlockBitmap *bitmap, GArray *expected)
{
    uint64_t at = 0, offset, bytes;
    unsigned n = 0;

    while (block_bitmap_next_area(bitmap, at, DISK_BYTES, UINT64_MAX, &offset, &bytes)) {
        ck_assert_uint_lt(n + 1, expected->len);
        ck_assert_uint_eq(offset, g_array_index(expected, uint64_t, n++));
        ck_assert_uint_eq(bytes, g_array_index(expected, uint64_t, n++));
        at = offset + bytes;
    }
    ck_assert_uint_eq(n, expected->len);
}

static GArray *areas_of(BlockBitmap *bitmap)
{
    GArray *areas = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    uint64_t at = 0, offset, bytes;

    while (block_bitmap_next_area(bitmap, at, DISK_BYTES, UINT64_MAX, &offset, &bytes)) {
        g_array_append_val(areas, offset);
        g_array_append_val(areas, bytes);
        at = offset + bytes;
    }
    return areas;
}

START_TEST(bitmaps_survive_closing)
{
    g_autofree char *path = qcow2_create("bitmaps.qcow2", kinds[_i].options, DISK_BYTES);
    g_autoptr(GArray) areas = NULL;
    TestRoot t = test_root();
    BlockUser *user = qcow2_open_user(&t, path, "");
    BlockBitmap *bitmap = add(user, "dirty", kinds[_i].granularity);

    add(user, "all", kinds[_i].granularity);
    block_bitmap_set_flags(add(user, "off", 65536), 0, BLOCK_BITMAP_RECORDING);
    write_at(user, 0, 512);
    write_at(user, 3 * MiB + 100, 70000);
    write_at(user, DISK_BYTES - 512, 512);
    block_bitmap_mark(block_bitmap_find(block_user_node(user), "all"), 0, DISK_BYTES);
    areas = areas_of(bitmap);
    for (int round = 0; round < 3; round++) {
        BlockNode *node;

        qcow2_close_user(&t, user);
        qcow2_check_image(path);
        user = qcow2_open_user(&t, path, "");
        node = block_user_node(user);
        bitmap = block_bitmap_find(node, "dirty");
        ck_assert_ptr_nonnull(bitmap);
        ck_assert_uint_eq(block_bitmap_granularity(bitmap), kinds[_i].granularity);
        ck_assert_uint_eq(block_bitmap_flags(bitmap), BLOCK_BITMAP_PERSISTENT | BLOCK_BITMAP_RECORDING);
        compare_areas(bitmap, areas);
        ck_assert_uint_eq(block_bitmap_count(block_bitmap_find(node, "all")), DISK_BYTES);
        ck_assert_uint_eq(block_bitmap_count(block_bitmap_find(node, "off")), 0);
        ck_assert_uint_eq(block_bitmap_flags(block_bitmap_find(node, "off")), BLOCK_BITMAP_PERSISTENT);
        if (round == 1) {                  /* what is written now is marked, too */
            write_at(user, 20 * MiB, 4096);
            g_clear_pointer(&areas, g_array_unref);
            areas = areas_of(bitmap);
        }
    }
    qcow2_close_user(&t, user);
    ck_assert_int_eq(run_command("sh -c \"qemu-img info %s | grep -A3 'name: dirty' | grep -q "
                                 "'granularity: %u'\"", path, kinds[_i].granularity), 0);
    test_root_free(&t);
}
END_TEST

/* QEMU reads what we have stored, and stores what we then read. */
START_TEST(qemu_agrees)
{
    g_autofree char *path = qcow2_create("theirs.qcow2", kinds[_i].options, DISK_BYTES);
    g_autoptr(GArray) areas = NULL;
    TestRoot t = test_root();
    BlockUser *user = qcow2_open_user(&t, path, "");
    BlockBitmap *bitmap = add(user, "ours", kinds[_i].granularity);

    write_at(user, 5 * MiB, 300000);
    areas = areas_of(bitmap);
    qcow2_close_user(&t, user);
    /* Into a bitmap of theirs, so that all bits went through their hands. */
    ck_assert_int_eq(run_command("qemu-img bitmap --add --merge ours --granularity %u -f qcow2 %s "
                                 "theirs", kinds[_i].granularity, path), 0);
    ck_assert_int_eq(run_command("qemu-img bitmap --remove %s ours", path), 0);
    qcow2_check_image(path);
    user = qcow2_open_user(&t, path, ",read-only=on");
    ck_assert_ptr_null(block_bitmap_find(block_user_node(user), "ours"));
    compare_areas(block_bitmap_find(block_user_node(user), "theirs"), areas);
    qcow2_close_user(&t, user);
    test_root_free(&t);
}
END_TEST

/* A copy of the image as a kill would leave it. */
static void kill_copy(BlockUser *user, const char *path, const char *copy)
{
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    ck_assert_int_eq(run_command("cp %s %s", path, copy), 0);
}

static bool is_inconsistent(BlockUser *user, const char *name)
{
    BlockBitmap *bitmap = block_bitmap_find(block_user_node(user), name);

    ck_assert_ptr_nonnull(bitmap);
    return block_bitmap_flags(bitmap) & BLOCK_BITMAP_INCONSISTENT;
}

START_TEST(an_image_that_was_not_closed)
{
    g_autofree char *path = qcow2_create("killed.qcow2", kinds[_i].options, DISK_BYTES);
    g_autofree char *copy = g_strdup_printf("%s/killed-copy.qcow2", test_dir());
    TestRoot t = test_root();
    BlockUser *user = qcow2_open_user(&t, path, "");
    BlockBitmap *bitmap = add(user, "dirty", kinds[_i].granularity);
    uint64_t dirty;

    write_at(user, 30 * MiB, 512);
    qcow2_close_user(&t, user);
    user = qcow2_open_user(&t, path, "");
    write_at(user, MiB, 4096);
    kill_copy(user, path, copy);
    qcow2_close_user(&t, user);
    /* QEMU takes it for what it is, and finds nothing wrong. */
    qcow2_check_image(copy);
    ck_assert_int_eq(run_command("sh -c \"qemu-img info %s | grep -q in-use\"", copy), 0);
    for (int round = 0; round < 2; round++) {   /* the second time after another kill */
        user = qcow2_open_user(&t, copy, "");
        ck_assert(!is_inconsistent(user, "dirty"));
        bitmap = block_bitmap_find(block_user_node(user), "dirty");
        ck_assert(block_bitmap_get(bitmap, MiB));
        ck_assert(block_bitmap_get(bitmap, 30 * MiB));
        ck_assert_uint_eq(block_bitmap_get(bitmap, 5 * MiB), round);
        dirty = block_bitmap_count(bitmap);
        ck_assert_uint_lt(dirty, 10 * MiB);
        write_at(user, 5 * MiB, 4096);
        kill_copy(user, copy, path);
        qcow2_close_user(&t, user);
        ck_assert_int_eq(run_command("cp %s %s", path, copy), 0);
    }
    user = qcow2_open_user(&t, copy, ",read-only=on");
    ck_assert(!is_inconsistent(user, "dirty"));
    qcow2_close_user(&t, user);
    test_root_free(&t);
}
END_TEST

/* Somebody else has written to it since: what we know of it is not enough. */
START_TEST(an_image_that_qemu_wrote_after_a_kill)
{
    g_autofree char *path = qcow2_create("killed.qcow2", kinds[_i].options, DISK_BYTES);
    g_autofree char *copy = g_strdup_printf("%s/killed-copy.qcow2", test_dir());
    TestRoot t = test_root();
    BlockUser *user = qcow2_open_user(&t, path, "");
    GError *error = NULL;

    add(user, "dirty", kinds[_i].granularity);
    qcow2_close_user(&t, user);
    user = qcow2_open_user(&t, path, "");
    write_at(user, MiB, 4096);
    kill_copy(user, path, copy);
    qcow2_close_user(&t, user);
    ck_assert_int_eq(run_command("qemu-io -f qcow2 -c 'write 7M 4k' %s", copy), 0);
    user = qcow2_open_user(&t, copy, "");
    ck_assert(is_inconsistent(user, "dirty"));
    ck_assert(!block_bitmap_check(block_bitmap_find(block_user_node(user), "dirty"),
                                  BLOCK_BITMAP_INCONSISTENT, &error));
    assert_error(&error, "inconsistent");
    /* It stays so through another kill, beside one that does not. */
    add(user, "new", kinds[_i].granularity);
    qcow2_close_user(&t, user);
    user = qcow2_open_user(&t, copy, "");
    write_at(user, 9 * MiB, 4096);
    kill_copy(user, copy, path);
    qcow2_close_user(&t, user);
    user = qcow2_open_user(&t, path, "");
    ck_assert(is_inconsistent(user, "dirty"));
    ck_assert(!is_inconsistent(user, "new"));
    ck_assert(block_bitmap_get(block_bitmap_find(block_user_node(user), "new"), 9 * MiB));
    qcow2_close_user(&t, user);
    qcow2_check_image(path);
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, bitmaps_survive_closing, 0, G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, qemu_agrees, 0, G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, an_image_that_was_not_closed, 0, G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, an_image_that_qemu_wrote_after_a_kill, 0, G_N_ELEMENTS(kinds));
}

int main(void)
{
    return run_block_tests("qcow2-bitmaps", add_tests);
}

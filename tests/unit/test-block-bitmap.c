/*
 * Dirty bitmaps: against a plain array of bits, with several threads at once, and as writes, zeroes
 * and discards of a node mark them.
 */
#include "block-util.h"
#include "block/bitmap.h"
#include "src/base/util.h"

static BlockNode *open_null(TestRoot *t, const char *name, uint64_t size)
{
    GError *error = NULL;
    BlockNode *node = test_open(t->graph, &error, "null-co,node-name=%s,size=%" PRIu64
                                ",discard=unmap", name, size);

    assert_no_error(error);
    return node;
}

static BlockBitmap *make(BlockNode *node, const char *name, uint32_t granularity)
{
    GError *error = NULL;
    BlockBitmap *bitmap = block_bitmap_new(node, name, granularity, &error);

    assert_no_error(error);
    return bitmap;
}

/* A plain model: one byte a granule. */
enum { GRANULE = 512, GRANULES = 70000, DISK = GRANULES * GRANULE - 100 };

static void model_set(uint8_t *model, uint64_t offset, uint64_t bytes, bool on)
{
    uint64_t end = MIN(offset + bytes, DISK), first = offset / GRANULE, last;

    if (offset >= DISK || !bytes)
        return;
    if (!on)
        first = (offset + GRANULE - 1) / GRANULE;
    last = on || end == DISK ? (end + GRANULE - 1) / GRANULE : end / GRANULE;
    for (uint64_t i = first; i < last; i++)
        model[i] = on;
}

static void compare(const BlockBitmap *bitmap, const uint8_t *model)
{
    uint64_t count = 0, at = 0, bytes, expected = 0;

    for (unsigned i = 0; i < GRANULES; i++)
        count += model[i];
    ck_assert_uint_eq(block_bitmap_count(bitmap), count * GRANULE);
    while (block_bitmap_next_area(bitmap, at, DISK, 3000 * GRANULE, &at, &bytes)) {
        unsigned first = at / GRANULE, last = (at + bytes + GRANULE - 1) / GRANULE;

        for (uint64_t i = expected; i < first; i++)
            if (model[i])
                ck_abort_msg("granule %" PRIu64 " was passed over", i);
        for (unsigned i = first; i < last; i++)
            if (!model[i])
                ck_abort_msg("granule %u is not marked", i);
        expected = last;
        at += bytes;
    }
    for (uint64_t i = expected; i < GRANULES; i++)
        if (model[i])
            ck_abort_msg("granule %" PRIu64 " was passed over", i);
}

START_TEST(agrees_with_a_plain_array)
{
    TestRoot t = test_root();
    BlockNode *node = open_null(&t, "n", DISK);
    BlockBitmap *bitmap = make(node, "b", GRANULE), *copy = make(node, "c", GRANULE);
    g_autofree uint8_t *model = g_malloc0(GRANULES), *bits = g_malloc0(GRANULES / 8 + 8);
    GRand *random = g_rand_new_with_seed(_i);
    uint64_t found;

    for (unsigned round = 0; round < 300; round++) {
        uint64_t offset = g_rand_int_range(random, 0, DISK + 5000);
        uint64_t bytes = g_rand_int_range(random, 0, round % 10 ? 9000 : DISK);
        bool on = g_rand_int(random) % 3;

        if (on)
            block_bitmap_mark(bitmap, offset, bytes);
        else
            block_bitmap_clear(bitmap, offset, bytes);
        model_set(model, offset, bytes, on);
        if (round % 20 == 0)
            compare(bitmap, model);
        offset = MIN(offset, DISK - 1);
        ck_assert_int_eq(block_bitmap_get(bitmap, offset), model[offset / GRANULE]);
        if (block_bitmap_next_zero(bitmap, offset, DISK, &found)) {
            ck_assert_uint_ge(found, offset);
            ck_assert_int_eq(model[found / GRANULE], 0);
        }
    }
    block_bitmap_export_bits(bitmap, 0, DISK, bits);
    for (unsigned i = 0; i < GRANULES; i++)
        if ((bits[i / 8] >> (i % 8) & 1) != model[i])
            ck_abort_msg("bit %u", i);
    block_bitmap_mark(copy, 0, DISK);
    block_bitmap_import_bits(copy, 0, DISK, bits);
    compare(copy, model);
    block_bitmap_clear(copy, 0, DISK);
    ck_assert_uint_eq(block_bitmap_count(copy), 0);
    ck_assert(block_bitmap_merge(copy, bitmap, NULL));
    compare(copy, model);
    ck_assert(block_bitmap_take(copy, 0, DISK) == (block_bitmap_count(bitmap) > 0));
    ck_assert(!block_bitmap_take(copy, 0, DISK));
    g_rand_free(random);
    test_root_free(&t);
}
END_TEST

START_TEST(refuses_what_is_wrong)
{
    TestRoot t = test_root();
    BlockNode *node = open_null(&t, "n", 1 * MiB), *huge = open_null(&t, "h", 1ull << 62);
    g_autofree char *longest = g_strnfill(BLOCK_BITMAP_NAME_MAX + 1, 'x');
    GError *error = NULL;
    BlockBitmap *bitmap = make(node, "b", 0), *other, *small;

    ck_assert_uint_eq(block_bitmap_granularity(bitmap), 65536);
    ck_assert_ptr_null(block_bitmap_new(node, "b", 0, &error));
    assert_error(&error, "Bitmap already exists: b");
    ck_assert_ptr_null(block_bitmap_new(node, "", 0, &error));
    assert_error(&error, "Bitmap name cannot be empty");
    ck_assert_ptr_null(block_bitmap_new(node, longest, 0, &error));
    assert_error(&error, "Bitmap name too long");
    ck_assert_ptr_null(block_bitmap_new(node, "g", 1000, &error));
    assert_error(&error, "Granularity must be power of 2 and at least 512");
    ck_assert_ptr_null(block_bitmap_new(node, "g", 256, &error));
    assert_error(&error, "at least 512");
    ck_assert_ptr_null(block_bitmap_new(huge, "g", 512, &error));
    assert_error(&error, "choose a larger granularity");
    small = make(open_null(&t, "s", 64 * KiB), "b", 0);
    ck_assert(!block_bitmap_merge(bitmap, small, &error));
    assert_error(&error, "different sizes");

    block_bitmap_set_flags(bitmap, BLOCK_BITMAP_BUSY | BLOCK_BITMAP_INCONSISTENT, 0);
    ck_assert(!block_bitmap_check(bitmap, BLOCK_BITMAP_BUSY, &error));
    assert_error(&error, "Bitmap 'b' is currently in use by another operation and cannot be used");
    ck_assert(!block_bitmap_check(bitmap, BLOCK_BITMAP_INCONSISTENT, &error));
    assert_error(&error, "Bitmap 'b' is inconsistent and cannot be used");
    block_bitmap_set_flags(bitmap, BLOCK_BITMAP_READ_ONLY,
                           BLOCK_BITMAP_BUSY | BLOCK_BITMAP_INCONSISTENT);
    ck_assert(block_bitmap_check(bitmap, BLOCK_BITMAP_BUSY, &error));
    ck_assert(!block_bitmap_check(bitmap, BLOCK_BITMAP_READ_ONLY, &error));
    assert_error(&error, "Bitmap 'b' is readonly and cannot be modified");

    other = make(node, "x", 4096);
    ck_assert_ptr_eq(block_bitmap_next(node, NULL), bitmap);
    ck_assert_ptr_eq(block_bitmap_next(node, bitmap), other);
    ck_assert_ptr_null(block_bitmap_next(node, other));
    block_bitmap_free(bitmap);
    ck_assert_ptr_null(block_bitmap_find(node, "b"));
    ck_assert_ptr_eq(block_bitmap_find(node, "x"), other);
    test_root_free(&t);
}
END_TEST

START_TEST(granularities_merge)
{
    TestRoot t = test_root();
    BlockNode *node = open_null(&t, "n", 1 * MiB);
    BlockBitmap *fine = make(node, "fine", 512), *coarse = make(node, "coarse", 65536);
    uint64_t at, bytes;

    block_bitmap_mark(fine, 70000, 1);
    ck_assert_uint_eq(block_bitmap_count(fine), 512);
    ck_assert(block_bitmap_merge(coarse, fine, NULL));
    ck_assert_uint_eq(block_bitmap_count(coarse), 65536);
    ck_assert(block_bitmap_get(coarse, 65536));
    ck_assert(block_bitmap_merge(fine, coarse, NULL));
    ck_assert(block_bitmap_next_area(fine, 0, UINT64_MAX, UINT64_MAX, &at, &bytes));
    ck_assert_uint_eq(at, 65536);
    ck_assert_uint_eq(bytes, 65536);
    test_root_free(&t);
}
END_TEST

/* Every thread marks its own granules, one after the other; all threads together take them. */
enum { THREADS = 4, MARKS = 20000 };

typedef struct Marker {
    BlockBitmap *bitmap;
    unsigned index;
    uint64_t taken;
    bool takes;
} Marker;

static gpointer mark_or_take(gpointer opaque)
{
    Marker *marker = opaque;

    for (unsigned i = 0; i < MARKS; i++) {
        uint64_t offset = ((uint64_t)i * THREADS + marker->index) * GRANULE;

        if (!marker->takes)
            block_bitmap_mark(marker->bitmap, offset, GRANULE);
        else if (block_bitmap_next_dirty(marker->bitmap, 0, UINT64_MAX, &offset))
            marker->taken += block_bitmap_take(marker->bitmap, offset, GRANULE);
    }
    return NULL;
}

START_TEST(threads_lose_nothing)
{
    TestRoot t = test_root();
    BlockNode *node = open_null(&t, "n", (uint64_t)GRANULE * MARKS * THREADS);
    BlockBitmap *bitmap = make(node, "b", GRANULE);
    Marker markers[2 * THREADS];
    GThread *threads[2 * THREADS];
    uint64_t taken = 0;

    for (unsigned i = 0; i < 2 * THREADS; i++) {
        markers[i] = (Marker){ .bitmap = bitmap, .index = i % THREADS, .takes = i >= THREADS };
        threads[i] = g_thread_new("mark", mark_or_take, &markers[i]);
    }
    for (unsigned i = 0; i < 2 * THREADS; i++) {
        g_thread_join(threads[i]);
        taken += markers[i].taken;
    }
    ck_assert_uint_eq(block_bitmap_count(bitmap) / GRANULE + taken, (uint64_t)MARKS * THREADS);
    test_root_free(&t);
}
END_TEST

/* The data path.  The node is one that plain writes skip as long as it has no bitmap. */

static void expect(BlockBitmap *bitmap, uint64_t offset, uint64_t bytes)
{
    uint64_t at, n;

    ck_assert(block_bitmap_next_area(bitmap, 0, UINT64_MAX, UINT64_MAX, &at, &n));
    ck_assert_uint_eq(at, offset);
    ck_assert_uint_eq(n, bytes);
    ck_assert_uint_eq(block_bitmap_count(bitmap), bytes);
    block_bitmap_clear(bitmap, 0, UINT64_MAX);
}

START_TEST(requests_mark)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("marked.img", 1 * MiB), *data = g_malloc0(64 * KiB);
    GError *error = NULL;
    BlockNode *top = test_open(t.graph, &error, "raw,node-name=top,discard=unmap,file.driver=raw,"
                               "file.node-name=mid,file.file.driver=file,file.file.filename=%s",
                               path);
    BlockNode *mid = block_node_find(t.graph, "mid");
    BlockBitmap *bitmap, *below;
    BlockUser *user;

    assert_no_error(error);
    user = block_user_new(top, "test", BLOCK_PERM_ALL, BLOCK_PERM_ALL, &error);
    assert_no_error(error);
    ck_assert_int_eq(test_request(user, OP_WRITE, 0, data, 512, 0), 0);
    bitmap = make(top, "b", 4096);
    below = make(mid, "m", 4096);
    ck_assert_int_eq(test_request(user, OP_READ, 0, data, 64 * KiB, 0), 0);
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    ck_assert_uint_eq(block_bitmap_count(bitmap), 0);
    ck_assert_int_eq(test_request(user, OP_WRITE, 5000, data, 10000, 0), 0);
    expect(bitmap, 4096, 12288);
    expect(below, 4096, 12288);
    ck_assert_int_eq(test_request(user, OP_ZERO, 40960, NULL, 8192, 0), 0);
    expect(bitmap, 40960, 8192);
    expect(below, 40960, 8192);
    ck_assert_int_eq(test_request(user, OP_DISCARD, 65536, NULL, 4096, 0), 0);
    expect(bitmap, 65536, 4096);
    block_bitmap_clear(below, 0, UINT64_MAX);

    block_bitmap_set_flags(bitmap, 0, BLOCK_BITMAP_RECORDING);
    ck_assert_int_eq(test_request(user, OP_WRITE, 0, data, 512, 0), 0);
    ck_assert_uint_eq(block_bitmap_count(bitmap), 0);
    expect(below, 0, 4096);
    block_bitmap_free(bitmap);
    ck_assert_int_eq(test_request(user, OP_WRITE, 0, data, 512, 0), 0);
    expect(below, 0, 4096);

    ck_assert(block_node_resize(top, 2 * MiB, &error));
    ck_assert_uint_eq(block_bitmap_size(below), 2 * MiB);
    ck_assert_int_eq(test_request(user, OP_WRITE, 2 * MiB - 512, data, 512, 0), 0);
    expect(below, 2 * MiB - 4096, 4096);
    ck_assert_int_eq(test_request(user, OP_WRITE, 2 * MiB - 512, data, 512, 0), 0);
    ck_assert(block_node_resize(top, 1 * MiB, &error));
    ck_assert_uint_eq(block_bitmap_count(below), 0);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, agrees_with_a_plain_array, 0, 10);
    tcase_add_test(tc, refuses_what_is_wrong);
    tcase_add_test(tc, granularities_merge);
    tcase_add_test(tc, threads_lose_nothing);
    tcase_add_test(tc, requests_mark);
}

int main(void)
{
    return run_block_tests("block-bitmap", add_tests);
}

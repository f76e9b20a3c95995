/*
 * Images of every kind, made by qemu-img: random requests against a model, then qemu-img's own check
 * and comparison.
 */
#include "qcow2-util.h"

#define DISK_BYTES (6 * MiB + 512)

static const struct {
    const char *options, *open;
    uint64_t longest;
} kinds[] = {
    { "", "", 300000 },
    { "compat=0.10", "", 300000 },
    { "cluster_size=512", "", 40000 },
    { "cluster_size=512,compat=0.10", "", 40000 },
    { "cluster_size=512,refcount_bits=64", "", 40000 },
    { "cluster_size=1k,refcount_bits=1", "", 60000 },
    { "cluster_size=4k,refcount_bits=2", "", 100000 },
    { "cluster_size=4k,refcount_bits=8,lazy_refcounts=on", "", 100000 },
    { "cluster_size=2M", "", 3000000 },
    { "cluster_size=2M,refcount_bits=64", "", 1000000 },
    { "refcount_bits=4", ",l2-cache-size=4k,refcount-cache-size=4k,l2-cache-entry-size=512", 300000 },
    { "refcount_bits=32", ",discard-no-unref=on", 300000 },
    { "extended_l2=on", "", 300000 },
    { "extended_l2=on,cluster_size=16k", "", 100000 },
    { "extended_l2=on,cluster_size=2M", "", 1000000 },
    { "extended_l2=on,cluster_size=128k", ",discard-no-unref=on", 300000 },
    { "preallocation=metadata", "", 300000 },
    { "preallocation=metadata,extended_l2=on", "", 300000 },
    { "preallocation=falloc", ",pass-discard-other=on", 300000 },
    { "", ",cache.direct=on", 300000 },
    { "cluster_size=512", ",cache.direct=on", 40000 },
    { "extended_l2=on", ",cache.direct=on", 300000 },
};

/* Opened again and again; the model is freed. */
static void run_rounds(TestRoot *t, DiskModel *m, const char *path, const char *options)
{
    for (int round = 0; round < 3; round++) {
        m->user = qcow2_open_user(t, path, options);
        model_run(m, 150);
        qcow2_close_user(t, m->user);
        qcow2_check_image(path);
    }
    qcow2_compare(path, m->bytes, m->size);
    g_rand_free(m->rand);
    g_free(m->bytes);
}

START_TEST(requests_match_a_model)
{
    TestRoot t = test_root();
    g_autofree char *path = qcow2_create("kinds.qcow2", kinds[_i].options, DISK_BYTES);
    DiskModel m = { .bytes = g_malloc0(DISK_BYTES), .size = DISK_BYTES, .longest = kinds[_i].longest,
                    .rand = g_rand_new_with_seed(_i + 1) };

    run_rounds(&t, &m, path, kinds[_i].open);
    test_root_free(&t);
}
END_TEST

/* Fills the model with something, and an image with it. */
static void make_base(DiskModel *m, const char *name, const char *format, uint64_t bytes)
{
    g_autofree char *path = g_strdup_printf("%s/%s", test_dir(), name);
    g_autofree char *raw = g_strdup_printf("%s/base.raw", test_dir());

    for (uint64_t at = 0; at < bytes; at += 4096)
        if (g_rand_int_range(m->rand, 0, 3))
            memset(m->bytes + at, g_rand_int_range(m->rand, 1, 256), MIN(4096, bytes - at));
    ck_assert(g_file_set_contents(raw, (const char *)m->bytes, bytes, NULL));
    ck_assert_int_eq(run_command("qemu-img convert -f raw -O %s %s %s", format, raw, path), 0);
}

static const struct {
    const char *base, *options, *open;
    uint64_t base_bytes;
} chains[] = {
    { "qcow2", "", "", DISK_BYTES },
    { "qcow2", "cluster_size=512,", "", DISK_BYTES / 2 / 512 * 512 },
    { "qcow2", "compat=0.10,", "", DISK_BYTES },
    { "raw", "extended_l2=on,", "", DISK_BYTES / 2 / 512 * 512 },
    { "raw", "cluster_size=2M,", "", DISK_BYTES },
    { "qcow2 -c", "extended_l2=on,cluster_size=16k,", "", DISK_BYTES },
    { "qcow2 -c -o compression_type=zstd", "", ",cache.direct=on", DISK_BYTES },
};

START_TEST(backing_files_show_through)
{
    TestRoot t = test_root();
    DiskModel m = { .bytes = g_malloc0(DISK_BYTES), .size = DISK_BYTES, .longest = 200000,
                    .rand = g_rand_new_with_seed(_i + 1) };
    g_autofree char *options = g_strdup_printf("%sbacking_file=base.img,backing_fmt=%.5s",
                                               chains[_i].options, chains[_i].base);
    g_autofree char *path = NULL;

    make_base(&m, "base.img", chains[_i].base, chains[_i].base_bytes);
    g_strchomp(options);
    path = qcow2_create("overlay.qcow2", options, DISK_BYTES);
    run_rounds(&t, &m, path, chains[_i].open);
    test_root_free(&t);
}
END_TEST

/* Several requests at once, each in its own part of every cluster. */
typedef struct Lane {
    DiskModel model;
    unsigned lane;
    int steps, *running;
} Lane;

enum { LANES = 8, LANE_BYTES = 1024 };

static void co_fn lane_run(void *opaque)
{
    Lane *l = opaque;
    DiskModel *m = &l->model;

    for (int i = 0; i < l->steps; i++) {
        uint64_t stripe = LANES * LANE_BYTES;
        uint64_t offset = g_rand_int_range(m->rand, 0, m->size / stripe) * stripe +
                          l->lane * LANE_BYTES;
        uint8_t buffer[LANE_BYTES];
        struct iovec iov = { buffer, sizeof(buffer) };

        if (g_rand_int_range(m->rand, 0, 3)) {
            memset(buffer, g_rand_int_range(m->rand, 0, 256), sizeof(buffer));
            memcpy(m->bytes + offset, buffer, sizeof(buffer));
            ck_assert_int_eq(block_co_write(m->user, offset, &iov, 1, sizeof(buffer), 0), 0);
        } else {
            ck_assert_int_eq(block_co_read(m->user, offset, &iov, 1, sizeof(buffer)), 0);
            ck_assert(!memcmp(buffer, m->bytes + offset, sizeof(buffer)));
        }
        if (!g_rand_int_range(m->rand, 0, 50))
            ck_assert_int_eq(block_co_flush(m->user), 0);
    }
    if (!--*l->running)
        loop_kick(loop_current());
}

static void co_fn lanes_start(void *opaque)
{
    Lane *lanes = opaque;

    for (int i = 0; i < LANES; i++)
        co_start(lane_run, &lanes[i]);
}

START_TEST(neighbours_in_a_cluster_do_not_disturb_each_other)
{
    static const char *const options[] = { "", "extended_l2=on", "cluster_size=8k" };
    TestRoot t = test_root();
    g_autofree char *path = qcow2_create("lanes.qcow2", options[_i], DISK_BYTES);
    g_autofree uint8_t *bytes = g_malloc0(DISK_BYTES);
    BlockUser *user = qcow2_open_user(&t, path, "");
    Lane lanes[LANES];
    int running = LANES;

    for (int i = 0; i < LANES; i++)
        lanes[i] = (Lane){ { .user = user, .bytes = bytes, .size = DISK_BYTES,
                             .rand = g_rand_new_with_seed(i) }, i, 400, &running };
    co_run_sync(lanes_start, lanes);
    while (running)
        loop_iterate(loop_main(), true);
    qcow2_close_user(&t, user);
    qcow2_check_image(path);
    qcow2_compare(path, bytes, DISK_BYTES);
    for (int i = 0; i < LANES; i++)
        g_rand_free(lanes[i].model.rand);
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, requests_match_a_model, 0, G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, backing_files_show_through, 0, G_N_ELEMENTS(chains));
    tcase_add_loop_test(tc, neighbours_in_a_cluster_do_not_disturb_each_other, 0, 3);
}

int main(void)
{
    return run_block_tests("qcow2-io", add_tests);
}

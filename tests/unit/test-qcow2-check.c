/*
 * Check and repair: images damaged in refcounts and tables.  We find as many leaks and corruptions as
 * qemu-img does, and what we have mended qemu-img finds nothing in.
 */
#include "qcow2-util.h"
#include "block/image.h"

#define DISK_BYTES (8 * MiB)

typedef struct CheckRun {
    BlockNode *node;
    BlockCheck check;
    unsigned fix;
    int ret;
    GError *error;
} CheckRun;

static void co_fn check_co(void *opaque)
{
    CheckRun *run = opaque;

    run->ret = block_co_check(run->node, &run->check, run->fix, &run->error);
}

static BlockCheck check_image(const char *path, unsigned fix)
{
    TestRoot t = test_root();
    CheckRun run = { .fix = fix, .ret = -1 };
    GError *error = NULL;
    BlockUser *user;

    run.node = test_open(t.graph, &error, "driver=qcow2,node-name=disk,x-check=on%s,file.driver=file,"
                         "file.filename=%s", fix ? "" : ",read-only=on", path);
    assert_no_error(error);
    user = qcow2_attach(run.node);
    co_run_sync(check_co, &run);
    assert_no_error(run.error);
    ck_assert_int_eq(run.ret, 0);
    block_user_free(user);
    test_root_free(&t);
    return run.check;
}

/* What qemu-img counts. */
static uint64_t qemu_count(const char *json, const char *key)
{
    g_autofree char *word = g_strdup_printf("\"%s\": ", key);
    const char *at = strstr(json, word);

    return at ? g_ascii_strtoull(at + strlen(word), NULL, 10) : 0;
}

static void compare_with_qemu(const char *path, const BlockCheck *check)
{
    g_autofree char *command = g_strdup_printf("qemu-img check -f qcow2 --output=json %s", path);
    g_autofree char *out = NULL, *err = NULL;

    ck_assert(g_spawn_command_line_sync(command, &out, &err, NULL, NULL));
    ck_assert_msg(check->leaks == qemu_count(out, "leaks"), "%" PRIu64 " leaks; qemu-img: %s",
                  check->leaks, out);
    ck_assert_msg(check->corruptions == qemu_count(out, "corruptions"),
                  "%" PRIu64 " corruptions; qemu-img: %s%s", check->corruptions, out, err);
    ck_assert_uint_eq(check->allocated_clusters, qemu_count(out, "allocated-clusters"));
    ck_assert_uint_eq(check->total_clusters, qemu_count(out, "total-clusters"));
    ck_assert_uint_eq(check->fragmented_clusters, qemu_count(out, "fragmented-clusters"));
    ck_assert_uint_eq(check->compressed_clusters, qemu_count(out, "compressed-clusters"));
    ck_assert_uint_eq(check->image_end_offset, qemu_count(out, "image-end-offset"));
}

static const char *const kinds[] = {
    "", "cluster_size=4k", "cluster_size=512", "extended_l2=on,cluster_size=16k", "compat=0.10",
    "cluster_size=4k,refcount_bits=64", "cluster_size=4k,refcount_bits=1",
};

/* With data, and a snapshot where refcounts can count it; the model is the active disk. */
static char *make_image(const char *options, uint8_t *model)
{
    char *path = qcow2_create("check.qcow2", options, DISK_BYTES);
    TestRoot t = test_root();
    DiskModel m = { .bytes = model, .size = DISK_BYTES, .longest = 100000,
                    .rand = g_rand_new_with_seed(7) };

    m.user = qcow2_open_user(&t, path, "");
    model_run(&m, 100);
    qcow2_close_user(&t, m.user);
    if (!strstr(options, "refcount_bits=1"))
        ck_assert_int_eq(run_command("qemu-img snapshot -c one %s", path), 0);
    m.user = qcow2_open_user(&t, path, "");
    model_run(&m, 50);
    qcow2_close_user(&t, m.user);
    g_rand_free(m.rand);
    test_root_free(&t);
    qcow2_check_image(path);
    return path;
}

static uint64_t read_be64(int fd, uint64_t at)
{
    uint8_t data[8];

    ck_assert_int_eq(pread(fd, data, sizeof(data), at), sizeof(data));
    return ld_be64(data);
}

/* Where the first refcount block is, and how long a cluster. */
static uint64_t first_refblock(int fd, uint64_t *ret_cluster)
{
    uint8_t bits[4];

    ck_assert_int_eq(pread(fd, bits, 4, 20), 4);
    *ret_cluster = 1ull << ld_be32(bits);
    return read_be64(fd, read_be64(fd, 48));
}

START_TEST(sound_images_are_sound)
{
    g_autofree uint8_t *model = g_malloc0(DISK_BYTES);
    g_autofree char *path = make_image(kinds[_i], model);
    BlockCheck check = check_image(path, 0);

    ck_assert_uint_eq(check.check_errors + check.corruptions + check.leaks, 0);
    compare_with_qemu(path, &check);
}
END_TEST

static void damage_refcounts(const char *path, GRand *rand, int times)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint64_t cluster, block = first_refblock(fd, &cluster);

    for (int i = 0; i < times; i++) {
        uint8_t value = g_rand_int_range(rand, 0, 4);

        ck_assert_int_eq(pwrite(fd, &value, 1, block + g_rand_int_range(rand, 8, 200)), 1);
    }
    close(fd);
}

START_TEST(damaged_refcounts_are_mended)
{
    g_autofree uint8_t *model = g_malloc0(DISK_BYTES);
    g_autofree char *path = make_image(kinds[_i], model);
    GRand *rand = g_rand_new_with_seed(_i);
    BlockCheck check;

    damage_refcounts(path, rand, 10);
    check = check_image(path, 0);
    compare_with_qemu(path, &check);
    ck_assert_uint_gt(check.corruptions + check.leaks, 0);
    check = check_image(path, BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS);
    ck_assert_uint_eq(check.corruptions + check.leaks, 0);
    ck_assert_uint_gt(check.corruptions_fixed + check.leaks_fixed, 0);
    qcow2_check_image(path);
    qcow2_compare(path, model, DISK_BYTES);
    g_rand_free(rand);
}
END_TEST

/* The table's first entry points nowhere: all that it counted is to be counted anew. */
START_TEST(lost_refcount_blocks_are_made_anew)
{
    static const uint64_t places[] = { 0, 512 + 7, 1ull << 50 };
    g_autofree uint8_t *model = g_malloc0(DISK_BYTES);

    for (unsigned i = 0; i < G_N_ELEMENTS(places); i++) {
        g_autofree char *path = NULL;
        BlockCheck check;
        uint8_t data[8];
        int fd;

        memset(model, 0, DISK_BYTES);
        path = make_image(kinds[_i], model);
        fd = open(path, O_RDWR | O_CLOEXEC);
        st_be64(data, places[i]);
        ck_assert_int_eq(pwrite(fd, data, 8, read_be64(fd, 48)), 8);
        close(fd);
        check = check_image(path, 0);
        ck_assert_uint_gt(check.corruptions, 0);
        check = check_image(path, BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS);
        ck_assert_uint_eq(check.corruptions + check.leaks, 0);
        qcow2_check_image(path);
        qcow2_compare(path, model, DISK_BYTES);
    }
}
END_TEST

/* Leaks only: errors are left, and said. */
START_TEST(leaks_alone)
{
    g_autofree uint8_t *model = g_malloc0(DISK_BYTES);
    g_autofree char *path = make_image("", model);
    uint64_t cluster, block;
    BlockCheck check;
    uint8_t two[2] = { 0, 2 }, none[2] = { 0, 0 };
    int fd = open(path, O_RDWR | O_CLOEXEC);

    block = first_refblock(fd, &cluster);
    ck_assert_int_eq(pwrite(fd, two, 2, block + 2 * 3), 2);         /* the active L1 table's count */
    ck_assert_int_eq(pwrite(fd, none, 2, block + 2 * 0), 2);        /* the header's */
    close(fd);
    check = check_image(path, BLOCK_FIX_LEAKS);
    ck_assert_uint_eq(check.leaks, 0);
    ck_assert_uint_gt(check.corruptions, 0);
    check = check_image(path, BLOCK_FIX_ERRORS);
    ck_assert_uint_eq(check.corruptions, 0);
    qcow2_check_image(path);
}
END_TEST

/* Random bytes over the tables: whatever comes of it is an answer, not a crash; the first cluster and
 * what cannot be read again are left out. */
START_TEST(any_damage_has_an_answer)
{
    g_autofree uint8_t *model = g_malloc0(DISK_BYTES);
    g_autofree char *path = make_image("cluster_size=4k", model);
    GRand *rand = g_rand_new_with_seed(_i + 50);
    TestRoot t = test_root();

    for (int i = 0; i < 10; i++) {
        g_autofree char *noise = g_malloc(64);
        g_autoptr(GError) error = NULL;
        CheckRun run = { .fix = BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS };
        int fd = open(path, O_RDWR | O_CLOEXEC);
        BlockUser *user;

        for (int k = 0; k < 64; k++)
            noise[k] = g_rand_int_range(rand, 0, 256);
        ck_assert_int_eq(pwrite(fd, noise, 64, g_rand_int_range(rand, 512, 65536)), 64);
        close(fd);
        run.node = test_open(t.graph, &error, "driver=qcow2,node-name=disk,x-check=on,"
                             "file.driver=file,file.filename=%s", path);
        if (!run.node)
            break;
        user = qcow2_attach(run.node);
        co_run_sync(check_co, &run);
        g_clear_error(&run.error);
        qcow2_close_user(&t, user);
    }
    g_rand_free(rand);
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, sound_images_are_sound, 0, G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, damaged_refcounts_are_mended, 0, G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, lost_refcount_blocks_are_made_anew, 0, G_N_ELEMENTS(kinds));
    tcase_add_test(tc, leaks_alone);
    tcase_add_loop_test(tc, any_damage_has_an_answer, 0, 20);
}

int main(void)
{
    return run_block_tests("qcow2-check", add_tests);
}

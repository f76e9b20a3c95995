/*
 * Images with checksums, whatever becomes of them: no table is ever called wrong that is not, in any hands,
 * after power cuts, on devices that are full; and QEMU sees nothing of it.
 */
#include "qcow2-checksums.h"
#include "tests/unit/ram-cut.h"
#include "block/change.h"

typedef struct Life {
    TestRoot t;
    const Kind *kind;
    DiskModel model;
    uint8_t *snapshot;                     /* what it shows; NULL: there is none */
    uint64_t snapshot_size;
    GError *error;
} Life;

static void co_fn take_or_drop(Life *life, BlockNode *node)
{
    if (!life->snapshot) {
        snapshot_co(node);
        life->snapshot = g_memdup2(life->model.bytes, life->model.size);
        life->snapshot_size = life->model.size;
        return;
    }
    if (g_rand_boolean(life->model.rand)) {
        ck_assert_int_eq(block_co_snapshot_goto(node, "s", &life->error), 0);
        memcpy(life->model.bytes, life->snapshot, life->snapshot_size);
        life->model.size = life->snapshot_size;
    }
    ck_assert_int_eq(block_co_snapshot_delete(node, "s", &life->error), 0);
    g_clear_pointer(&life->snapshot, g_free);
}

static void co_fn resize(Life *life, BlockNode *node)
{
    uint64_t size = g_rand_int_range(life->model.rand, 1, life->kind->size / 65536 + 1) * 65536;

    ck_assert_int_eq(block_node_co_resize(node, size, &life->error), 0);
    if (size > life->model.size)
        memset(life->model.bytes + life->model.size, 0, size - life->model.size);
    life->model.size = size;
}

static void co_fn change_co(void *opaque)
{
    Life *life = opaque;
    BlockNode *node = block_user_node(life->model.user);

    if (g_rand_boolean(life->model.rand))
        resize(life, node);
    else if (life->kind->snapshot)
        take_or_drop(life, node);
}

static void assert_disk(Life *life)
{
    g_autofree uint8_t *data = g_malloc(life->model.size);

    ck_assert_int_eq(test_request(life->model.user, OP_READ, 0, data, life->model.size, 0), 0);
    ck_assert(!memcmp(data, life->model.bytes, life->model.size));
}

static void live_once(Life *life, unsigned round)
{
    static const char *const options[] = { "", ",l2-cache-entry-size=512", ",cache-size=16k",
                                           ",overlap-check=none" };
    BlockBitmap *bitmap;

    life->model.user = open_image(&life->t, life->kind, options[round % G_N_ELEMENTS(options)]);
    assert_disk(life);
    bitmap = block_bitmap_find(block_user_node(life->model.user), "bitmap");
    if (bitmap)
        block_bitmap_free(bitmap);
    else if (life->kind->bitmap)
        add_bitmap(life->model.user);
    for (unsigned i = 0; i < 3; i++) {
        model_run(&life->model, 15);
        co_run_sync(change_co, life);
        assert_no_error(life->error);
    }
    if (round % 3 == 0) {
        Look look = scrub_node(block_user_node(life->model.user), NULL);

        ck_assert_msg(!look.scrub.errors && !look.scrub.leaked, "%s", look.lines->str);
        look_done(&look);
    }
    qcow2_close_user(&life->t, life->model.user);
    ck_assert(are_stored(at(0)));
    assert_clean(&life->t, life->kind);
    if (round % 3 == 2)
        judge_by_qemu(life->kind);
}

START_TEST(whatever_is_done_they_are_right)
{
    for (unsigned seed = 0; next_seed(&seed, 3);) {
        Life life = { .t = test_root(), .kind = &kinds[_i] };

        life.model = (DiskModel){ .bytes = g_malloc0(kinds[_i].size), .size = kinds[_i].size,
                                  .rand = g_rand_new_with_seed(seed), .longest = 64 * KiB };
        create_image(&life.t, life.kind, ",checksums=on");
        sched_seed(seed);
        for (unsigned round = 0; round < 6; round++)
            live_once(&life, round);
        sched_off();
        g_free(life.snapshot);
        g_free(life.model.bytes);
        g_rand_free(life.model.rand);
        test_root_free(&life.t);
    }
}
END_TEST

/* The power goes, from opening over closing to the next opening: what is stored is right, or does not count. */
static void assert_none_wrong(TestRoot *t, const Kind *kind, unsigned seed, unsigned entry)
{
    Look look = check_image(t, kind, 0);

    /* Counts may be too high, of which flags are not told then (a snapshot that was being taken). */
    ck_assert_msg(!strstr(look.lines->str, "checksum"), "seed %u, entry %u: %.500s", seed, entry,
                  look.lines->str);
    look_done(&look);
}

static void sessions(TestRoot *t, const Kind *kind, GRand *rand)
{
    for (unsigned i = 0; i < 3; i++) {
        BlockUser *user = open_image(t, kind, "");

        for (unsigned k = 0; k < 4; k++) {
            uint64_t offset = g_rand_int_range(rand, 0, kind->size / 4096) * 4096;

            if (k % 2)
                test_request(user, OP_DISCARD, offset, NULL, MIN(65536, kind->size - offset), 0);
            else
                fill(user, offset, MIN(8192, kind->size - offset), k);
        }
        if (i == 1 && kind->snapshot)
            co_run_sync(snapshot_co, block_user_node(user));
        qcow2_close_user(t, user);
    }
}

START_TEST(a_power_cut_leaves_none_that_are_wrong)
{
    enum { CUTS = 30 };
    unsigned stored = 0;

    for (unsigned seed = 0; next_seed(&seed, 6);) {
        GRand *rand = g_rand_new_with_seed(seed);
        TestRoot t = test_root();
        RamReplay *replay;

        create_image(&t, &kinds[_i], ",checksums=on");
        ram_log_start();
        replay = ram_replay_new();
        sched_seed(seed);
        sessions(&t, &kinds[_i], rand);
        sched_off();
        while (ram_replay_step(replay)) {
            if (g_rand_int_range(rand, 0, ram.log->len) >= CUTS)
                continue;
            ram_replay_cut(replay, rand);
            stored += are_stored(at(0));
            ram_log_pause();
            assert_none_wrong(&t, &kinds[_i], seed, replay->at);
            ram_log_resume();
        }
        ram_replay_free(replay);
        ram_log_stop();
        g_rand_free(rand);
        test_root_free(&t);
    }
    ck_assert_uint_gt(stored, 0);
}
END_TEST

/* ---- others ---- */

static BlockUser *open_file(TestRoot *t, const char *path, const char *more)
{
    return qcow2_open_user(t, path, more);
}

/* A program that does not know them writes: they do not count any more, until we close it again. */
START_TEST(qemu_sees_nothing_of_them)
{
    static const Kind kind = { "cluster-size=4096", "", 1 * MiB, true };
    g_autofree uint8_t *data = g_malloc(64 * KiB);
    g_autofree char *path = NULL, *bytes = NULL;
    TestRoot t = test_root();
    BlockUser *user;

    make_image(&t, &kind);
    path = dump("qemu.qcow2");
    qcow2_check_image(path);
    user = open_file(&t, path, "");
    fill(user, 512 * KiB, 64 * KiB, 0x33);
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    ck_assert_int_eq(run_command("cp %s %s.crash", path, path), 0);
    ck_assert_int_eq(run_command("qemu-img check -q -f qcow2 %s.crash", path), 0);
    qcow2_close_user(&t, user);
    qcow2_check_image(path);
    ck_assert_int_eq(run_command("qemu-io -f qcow2 -c \"write -P 0x44 640k 256k\" %s", path), 0);
    qcow2_check_image(path);
    ck_assert(g_file_get_contents(path, &bytes, NULL, NULL));
    ck_assert(!are_stored((const uint8_t *)bytes));
    user = open_file(&t, path, "");
    ck_assert_int_eq(test_request(user, OP_READ, 640 * KiB, data, 64 * KiB, 0), 0);
    ck_assert(all_bytes(data, 64 * KiB, 0x44));
    qcow2_close_user(&t, user);
    qcow2_check_image(path);
    g_free(bytes);
    ck_assert(g_file_get_contents(path, &bytes, NULL, NULL));
    ck_assert(are_stored((const uint8_t *)bytes));
    test_root_free(&t);
}
END_TEST

/* A device that ends where the image does has no room for them; the image is closed all the same. */
START_TEST(where_there_is_no_room_there_are_none)
{
    TestRoot t = test_root();

    for (unsigned spare = 0; spare < 3; spare += 2) {
        g_autofree char *more = NULL;
        GError *error = NULL;
        BlockUser *user;
        BlockNode *node;

        make_image(&t, &kinds[0]);
        ram.disks[0].size = ld_be64(extension(0x7673756d) + 8) + spare * 4096;
        more = g_strdup_printf("driver=qcow2,node-name=disk,file.driver=raw,file.size=%" PRIu64
                               ",file.file.driver=ram", ram.disks[0].size);
        node = test_open(t.graph, &error, "%s", more);
        assert_no_error(error);
        user = qcow2_attach(node);
        fill(user, 0, 64 * KiB, 0x55);
        qcow2_close_user(&t, user);
        ck_assert_int_eq(are_stored(at(0)), spare > 0);
        assert_clean(&t, &kinds[0]);
    }
    test_root_free(&t);
}
END_TEST

typedef struct MeasureRun {
    json_object *options;
    BlockMeasure measure;
    GError *error;
} MeasureRun;

static void co_fn measure_co(void *opaque)
{
    MeasureRun *run = opaque;

    block_co_measure("qcow2", run->options, NULL, &run->measure, &run->error);
}

/* On a device as large as `measure` says, a full image has room for them. */
START_TEST(what_is_measured_is_enough)
{
    const Kind *kind = &kinds[_i];
    g_autofree char *create = g_strdup_printf("size=%" PRIu64 ",%s,checksums=on", kind->size, kind->create);
    g_autofree char *more = NULL;
    MeasureRun run = { .options = options_parse(create, NULL, NULL) };
    TestRoot t = test_root();
    GError *error = NULL;
    BlockUser *user;

    co_run_sync(measure_co, &run);
    assert_no_error(run.error);
    create_image(&t, kind, ",checksums=on");
    ram.disks[0].size = run.measure.fully_allocated;
    more = g_strdup_printf("driver=qcow2,node-name=disk,file.driver=raw,file.size=%" PRIu64
                           ",file.file.driver=ram", run.measure.fully_allocated);
    test_open(t.graph, &error, "%s", more);
    assert_no_error(error);
    user = qcow2_attach(block_node_find(t.graph, "disk"));
    fill(user, 0, kind->size, 0x11);
    qcow2_close_user(&t, user);
    ck_assert(are_stored(at(0)));
    assert_clean(&t, kind);
    json_object_put(run.options);
    test_root_free(&t);
}
END_TEST

/* Read-only the image is as if it were closed. */

static void reopen(TestRoot *t, bool read_only)
{
    g_autofree char *text = g_strdup_printf("[{\"driver\": \"qcow2\", \"node-name\": \"disk\", \"file\": "
                                            "\"f\", \"read-only\": %s}]", read_only ? "true" : "false");
    g_autoptr(json_object) list = json_tokener_parse(text);
    GError *error = NULL;

    ck_assert_msg(block_reopen(t->graph, list, &error), "%s", error ? error->message : "");
}

START_TEST(read_only_and_back)
{
    TestRoot t = test_root();
    GError *error = NULL;
    RamCopy crash;
    BlockUser *user;
    BlockNode *node;

    make_image(&t, &kinds[0]);
    test_open(t.graph, &error, "driver=ram,node-name=f");
    assert_no_error(error);
    node = test_open(t.graph, &error, "driver=qcow2,node-name=disk,file=f");
    assert_no_error(error);
    for (unsigned i = 0; i < 3; i++) {
        user = qcow2_attach(node);
        fill(user, i * 64 * KiB, 64 * KiB, 0x60 + i);
        ck_assert(!are_stored(at(0)));
        block_user_free(user);
        reopen(&t, true);
        ck_assert(are_stored(at(0)));
        reopen(&t, false);
    }
    user = qcow2_attach(node);
    fill(user, 0, 64 * KiB, 0x6f);
    block_user_free(user);
    crash = ram_copy(0);
    block_node_delete(t.graph, "disk", &error);
    assert_no_error(error);
    ck_assert(are_stored(at(0)));
    assert_clean(&t, &kinds[0]);
    judge_by_qemu(&kinds[0]);
    /* Opened read-only, with none that count, and writable then. */
    memcpy(ram.disks[0].data, crash.data, crash.size);
    node = test_open(t.graph, &error, "driver=qcow2,node-name=disk,file=f,read-only=on,"
                     "l2-cache-entry-size=512");
    assert_no_error(error);
    reopen(&t, false);
    user = qcow2_attach(node);
    fill(user, 0, 1 * MiB, 0x70);
    qcow2_close_user(&t, user);
    ck_assert(are_stored(at(0)));
    assert_clean(&t, &kinds[0]);
    g_free(crash.data);
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, whatever_is_done_they_are_right, 0, G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, a_power_cut_leaves_none_that_are_wrong, 0, 5);
    tcase_add_test(tc, qemu_sees_nothing_of_them);
    tcase_add_test(tc, where_there_is_no_room_there_are_none);
    tcase_add_loop_test(tc, what_is_measured_is_enough, 0, 5);
    tcase_add_test(tc, read_only_and_back);
}

int main(void)
{
    return run_block_tests("qcow2-checksums-life", add_tests);
}

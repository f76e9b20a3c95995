/*
 * Checksums of tables: a bit that the storage has changed is found wherever it is, by who reads it, by a
 * check and by a scrub; whatever is done to an image, and whoever writes it in between, no table is
 * ever called wrong that is not; and to QEMU there is nothing to be seen of it.
 */
#include "qcow2-ram.h"
#include "tests/unit/ram-cut.h"
#include "block/bitmap.h"
#include "block/change.h"
#include "src/base/crc32c.h"

typedef struct Kind {
    const char *create, *open;
    uint64_t size;
    bool snapshot, bitmap;
} Kind;

static const Kind kinds[] = {
    { "cluster-size=4096", "", 1 * MiB, true, true },
    { "cluster-size=512", "", 256 * KiB, true, true },
    { "cluster-size=65536,refcount-bits=64", "", 2 * MiB, true, true },
    { "cluster-size=16384,extended-l2=on", "", 1 * MiB, true, true },
    { "cluster-size=4096,refcount-bits=1", "", 1 * MiB, false, true },
    { "cluster-size=2M", "", 2 * MiB, false, false },   /* as much as fits on the disk */
    { "cluster-size=4096,data-file=memdata", ",data-file.driver=ram,data-file.disk=1", 1 * MiB, false,
      true },
};

#define OFFSET_MASK 0x00fffffffffffe00ull
enum { AUTOCLEAR = 88, INCOMPATIBLE = 72, CHECKSUMS = 57 };

static uint8_t *at(uint64_t offset)
{
    return ram.disks[0].data + offset;
}

static bool are_stored(const uint8_t *header)
{
    return ld_be64(header + AUTOCLEAR) >> CHECKSUMS & 1;
}

static uint64_t cluster_bytes(void)
{
    return 1ull << ld_be32(at(20));
}

/* ---- an image with everything ---- */

static void co_fn snapshot_co(void *opaque)
{
    BlockSnapshot snapshot = { .name = (char *)"s", .icount = UINT64_MAX };
    GError *error = NULL;

    ck_assert_int_eq(block_co_snapshot_create(opaque, &snapshot, &error), 0);
    assert_no_error(error);
    g_free(snapshot.id);
}

static void fill(BlockUser *user, uint64_t offset, uint64_t bytes, uint8_t value)
{
    g_autofree uint8_t *data = g_malloc(bytes);

    memset(data, value, bytes);
    ck_assert_int_eq(test_request(user, OP_WRITE, offset, data, bytes, 0), 0);
}

static void create_image(TestRoot *t, const Kind *kind, const char *more)
{
    g_autofree char *options = g_strdup_printf("driver=qcow2,file=mem,size=%" PRIu64 ",%s%s",
                                               kind->size, kind->create, more);

    ram_clear();
    ram_create(t, options);
}

static BlockUser *open_image(TestRoot *t, const Kind *kind, const char *more)
{
    g_autofree char *options = g_strconcat(kind->open, more, NULL);
    GError *error = NULL;
    BlockUser *user = ram_open_image(t, options, &error);

    assert_no_error(error);
    return user;
}

static void add_bitmap(BlockUser *user)
{
    GError *error = NULL;
    BlockBitmap *bitmap = block_bitmap_new(block_user_node(user), "bitmap", 512, &error);

    assert_no_error(error);
    block_bitmap_set_flags(bitmap, BLOCK_BITMAP_PERSISTENT, 0);
    block_bitmap_mark(bitmap, 4096, 4096);
}

static void make_image(TestRoot *t, const Kind *kind)
{
    BlockUser *user;

    create_image(t, kind, ",checksums=on");
    ck_assert(are_stored(at(0)));
    user = open_image(t, kind, "");
    ck_assert(are_stored(at(0)));
    if (kind->bitmap)
        add_bitmap(user);
    fill(user, 0, kind->size / 2, 0x11);
    ck_assert(!are_stored(at(0)));
    if (kind->snapshot)
        co_run_sync(snapshot_co, block_user_node(user));
    fill(user, 0, kind->size / 4, 0x22);
    qcow2_close_user(t, user);
    ck_assert(are_stored(at(0)));
}

/* ---- where tables are ---- */

static uint64_t l1_table(void)
{
    return ld_be64(at(40));
}

static uint64_t refcount_table(void)
{
    return ld_be64(at(48));
}

static uint64_t refcount_block(void)
{
    return ld_be64(at(refcount_table()));
}

static uint64_t l2_table(void)
{
    return ld_be64(at(l1_table())) & OFFSET_MASK;
}

static uint64_t snapshot_table(void)
{
    return ld_be32(at(60)) ? ld_be64(at(64)) : 0;
}

static uint64_t snapshot_l1(void)
{
    return snapshot_table() ? ld_be64(at(snapshot_table())) : 0;
}

static uint64_t snapshot_l2(void)
{
    return snapshot_l1() ? ld_be64(at(snapshot_l1())) & OFFSET_MASK : 0;
}

static const uint8_t *extension(uint32_t type)
{
    uint64_t offset = ld_be32(at(100));

    while (ld_be32(at(offset)) && ld_be32(at(offset)) != type)
        offset += 8 + ALIGN_UP(ld_be32(at(offset + 4)), 8);
    return ld_be32(at(offset)) ? at(offset + 8) : NULL;
}

static uint64_t bitmap_directory(void)
{
    const uint8_t *e = extension(0x23852875);

    return e ? ld_be64(e + 16) : 0;
}

static uint64_t bitmap_table(void)
{
    return bitmap_directory() ? ld_be64(at(bitmap_directory())) : 0;
}

static uint64_t bitmap_bits(void)
{
    return bitmap_table() ? ld_be64(at(bitmap_table())) : 0;
}

static const struct {
    const char *what;
    uint64_t (*table)(void);
    unsigned byte;                         /* of the table: a bit of it changes */
} places[] = {
    { "L1 table", l1_table, 5 },
    { "refcount table", refcount_table, 508 },
    { "refcount block", refcount_block, 0 },
    { "L2 table", l2_table, 29 },
    { "snapshot table", snapshot_table, 19 },
    { "snapshot's L1 table", snapshot_l1, 4 },
    { "L2 table", snapshot_l2, 29 },
    { "bitmap directory", bitmap_directory, 26 },
    { "bitmap table", bitmap_table, 4 },
    { "bitmap", bitmap_bits, 3 },
};

/* ---- looking ---- */

typedef struct Look {
    BlockNode *node;
    BlockCheck check;
    BlockScrub scrub;
    unsigned fix;
    GString *lines;
    GError *error;
    int ret;
} Look;

static void add_line(const char *line, void *opaque)
{
    g_string_append_printf(((Look *)opaque)->lines, "%s\n", line);
}

static void co_fn check_co(void *opaque)
{
    Look *look = opaque;

    look->ret = block_co_check(look->node, &look->check, look->fix, &look->error);
}

static bool co_fn pace(BlockScrub *scrub, uint64_t bytes)
{
    return true;
}

static void co_fn scrub_co(void *opaque)
{
    Look *look = opaque;

    look->ret = block_co_scrub(look->node, &look->scrub, &look->error);
}

static void look_done(Look *look)
{
    block_scrub_clear(&look->scrub);
    g_string_free(look->lines, TRUE);
}

/* As the tool opens images to be checked. */
static Look check_image(TestRoot *t, const Kind *kind, unsigned fix)
{
    BlockUser *user = open_image(t, kind, fix ? ",x-check=on" : ",x-check=on,read-only=on");
    Look look = { .node = block_user_node(user), .fix = fix, .lines = g_string_new(NULL) };

    look.check = (BlockCheck){ .report = add_line, .opaque = &look };
    co_run_sync(check_co, &look);
    assert_no_error(look.error);
    ck_assert_int_eq(look.ret, 0);
    qcow2_close_user(t, user);
    return look;
}

/* @plan: taken over; NULL: look only. */
static Look scrub_node(BlockNode *node, json_object *plan)
{
    Look look = { .node = node, .scrub = { .pace = pace, .apply = plan }, .lines = g_string_new(NULL) };

    co_run_sync(scrub_co, &look);
    assert_no_error(look.error);
    ck_assert_int_eq(look.ret, 0);
    for (size_t i = 0; i < json_object_array_length(look.scrub.findings); i++)
        add_line(json_object_get_string(json_object_object_get(
                     json_object_array_get_idx(look.scrub.findings, i), "message")), &look);
    return look;
}

static void assert_clean(TestRoot *t, const Kind *kind)
{
    Look look = check_image(t, kind, 0);

    ck_assert_msg(!look.check.corruptions && !look.check.leaks && !look.check.check_errors, "%s",
                  look.lines->str);
    look_done(&look);
}

static char *dump(const char *name)
{
    char *path = g_strdup_printf("%s/%s", test_dir(), name);

    ck_assert(g_file_set_contents(path, (const char *)ram.disks[0].data, ram.disks[0].size, NULL));
    return path;
}

/* QEMU finds nothing; the file's last cluster is whole. */
static void judge_by_qemu(const Kind *kind)
{
    g_autofree char *path = dump("judged.qcow2");

    ck_assert_uint_eq(ram.disks[0].size % cluster_bytes(), 0);
    if (!*kind->open)
        qcow2_check_image(path);
}

/* ---- what the storage changes is found ---- */

static void co_fn delete_co(void *opaque)
{
    block_co_snapshot_delete(opaque, "s", NULL);
}

/* Reads, writes, frees.  *opened: it was noticed later than that.  True: it was noticed. */
static bool use_image(TestRoot *t, const Kind *kind, const char *what, uint64_t table, bool *opened)
{
    g_autofree char *text = g_strdup_printf("wrong checksum of the %s at offset 0x%" PRIx64, what, table);
    g_autofree uint8_t *data = g_malloc0(kind->size);
    GError *error = NULL;
    BlockUser *user = ram_open_image(t, kind->open, &error);

    *opened = user != NULL;
    if (user) {
        test_request(user, OP_READ, 0, data, kind->size, 0);
        test_request(user, OP_WRITE, kind->size / 2, data, kind->size / 2, 0);
        test_request(user, OP_DISCARD, 0, NULL, kind->size, 0);
        test_request(user, OP_FLUSH, 0, NULL, 0, 0);
        if (kind->snapshot)
            co_run_sync(delete_co, block_user_node(user));
        qcow2_close_user(t, user);
    } else {
        ck_assert_ptr_nonnull(strstr(error->message, text));
        ck_assert_ptr_nonnull(error_get_hint(error));
        g_clear_error(&error);
    }
    return ld_be64(at(INCOMPATIBLE)) >> 1 & 1;
}

static bool find_it(TestRoot *t, const Kind *kind, unsigned i)
{
    uint64_t table = places[i].table ? places[i].table() : 0;
    g_autofree char *text = NULL;
    GError *error = NULL;
    BlockUser *user;
    bool opened;
    Look look;

    if (!table)
        return false;
    at(table + places[i].byte)[0] ^= 0x10;
    text = g_strdup_printf("ERROR checksum of the %s at offset 0x%" PRIx64 ": the block at 0x%" PRIx64,
                           places[i].what, table, table);
    look = check_image(t, kind, 0);
    ck_assert_msg(strstr(look.lines->str, text) && look.check.corruptions, "%s is not in %.500s", text,
                  look.lines->str);
    look_done(&look);
    user = open_image(t, kind, ",x-check=on,read-only=on");
    look = scrub_node(block_user_node(user), NULL);
    ck_assert_msg(strstr(look.lines->str, text) && look.scrub.errors, "%s is not in %.500s", text,
                  look.lines->str);
    ck_assert_ptr_nonnull(strstr(json_object_to_json_string(look.scrub.plan), "checksum-from"));
    ck_assert_ptr_null(strstr(json_object_to_json_string(look.scrub.plan), "leak"));
    look_done(&look);
    qcow2_close_user(t, user);
    ck_assert_msg(use_image(t, kind, places[i].what, table, &opened), "nobody told of it: %s", text);
    ck_assert_ptr_null(ram_open_image(t, kind->open, &error));
    assert_error(&error, "orrupt");
    if (opened)
        return true;
    /* Nothing was written: what is stored still tells. */
    look = check_image(t, kind, 0);
    ck_assert_msg(strstr(look.lines->str, text), "%s is not in %.500s", text, look.lines->str);
    look_done(&look);
    return true;
}

START_TEST(a_changed_bit_is_found)
{
    const Kind *kind = &kinds[_i];
    TestRoot t = test_root();
    RamCopy image, data;
    unsigned found = 0;

    make_image(&t, kind);
    image = ram_copy(0);
    data = ram_copy(1);
    for (unsigned i = 0; i < G_N_ELEMENTS(places); i++) {
        ram_restore(&image);
        if (data.size)
            memcpy(ram.disks[1].data, data.data, data.size);
        ram.disks[1].size = data.size;
        found += find_it(&t, kind, i);
    }
    ck_assert_uint_eq(found, 4 + (kind->snapshot ? 3 : 0) + (kind->bitmap ? 3 : 0));
    g_free(image.data);
    g_free(data.data);
    test_root_free(&t);
}
END_TEST

/* Two entries of an L2 table change places: all else fits.  So one is mended by taking what is there. */

static void swap_entries(void)
{
    uint64_t first = ld_be64(at(l2_table() + 24)), second = ld_be64(at(l2_table() + 32));

    ck_assert_uint_ne(first, second);
    st_be64(at(l2_table() + 24), second);
    st_be64(at(l2_table() + 32), first);
}

START_TEST(what_looks_sound_is_found_and_mended)
{
    TestRoot t = test_root();
    Look look;

    make_image(&t, &kinds[0]);
    swap_entries();
    look = check_image(&t, &kinds[0], 0);
    ck_assert_uint_eq(look.check.corruptions, 1);
    ck_assert_uint_eq(look.check.leaks + look.check.check_errors, 0);
    look_done(&look);
    /* Who gives back leaks only does not believe it, and what is stored still tells. */
    look = check_image(&t, &kinds[0], BLOCK_FIX_LEAKS);
    ck_assert_uint_eq(look.check.corruptions, 1);
    ck_assert_ptr_nonnull(strstr(look.lines->str, "Nothing is repaired"));
    look_done(&look);
    look = check_image(&t, &kinds[0], BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS);
    ck_assert_uint_eq(look.check.corruptions, 0);
    ck_assert_uint_eq(look.check.corruptions_fixed, 1);
    look_done(&look);
    assert_clean(&t, &kinds[0]);
    swap_entries();
    look = check_image(&t, &kinds[0], 0);
    ck_assert_uint_eq(look.check.corruptions, 1);
    look_done(&look);
    test_root_free(&t);
}
END_TEST

/* The same by a plan, in an image in use: nothing else had to stop. */
START_TEST(a_scrub_finds_it_live_and_its_plan_mends_it)
{
    g_autofree uint8_t *data = g_malloc(4096);
    TestRoot t = test_root();
    json_object *plan = NULL;
    BlockUser *user;
    Look look;

    make_image(&t, &kinds[0]);
    user = open_image(&t, &kinds[0], "");
    swap_entries();
    look = scrub_node(block_user_node(user), NULL);
    ck_assert_uint_eq(look.scrub.errors, 1);
    json_object_deep_copy(look.scrub.plan, &plan, NULL);
    look_done(&look);
    ck_assert_uint_eq(ld_be64(at(INCOMPATIBLE)), 0);
    look = scrub_node(block_user_node(user), plan);
    ck_assert_uint_eq(look.scrub.applied, 1);
    ck_assert_uint_eq(look.scrub.refused, 0);
    plan = NULL;
    json_object_deep_copy(look.scrub.apply, &plan, NULL);
    look_done(&look);
    look = scrub_node(block_user_node(user), plan);
    ck_assert_uint_eq(look.scrub.errors, 0);
    ck_assert_uint_eq(look.scrub.refused, 1);
    look_done(&look);
    ck_assert_int_eq(test_request(user, OP_READ, 12 * KiB, data, 4096, 0), 0);
    qcow2_close_user(&t, user);
    ck_assert(are_stored(at(0)));
    assert_clean(&t, &kinds[0]);
    test_root_free(&t);
}
END_TEST

/* ---- what is sound is never called wrong ---- */

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

/* After a crash what is stored is of no account; what is read from then on is. */
START_TEST(after_a_crash_they_are_taken_anew)
{
    g_autofree uint8_t *data = g_malloc(1 * MiB);
    TestRoot t = test_root();
    BlockUser *user;
    RamCopy crash;
    Look look;

    make_image(&t, &kinds[0]);
    user = open_image(&t, &kinds[0], "");
    fill(user, 0, 64 * KiB, 0x55);
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    crash = ram_copy(0);
    qcow2_close_user(&t, user);
    ram_restore(&crash);
    swap_entries();
    assert_clean(&t, &kinds[0]);
    user = open_image(&t, &kinds[0], "");
    ck_assert_int_eq(test_request(user, OP_READ, 0, data, 1 * MiB, 0), 0);
    qcow2_close_user(&t, user);
    assert_clean(&t, &kinds[0]);
    swap_entries();
    look = check_image(&t, &kinds[0], 0);
    ck_assert_uint_eq(look.check.corruptions, 1);
    look_done(&look);
    g_free(crash.data);
    test_root_free(&t);
}
END_TEST

/* The stored sums themselves are damaged: the image is as good as ever. */
START_TEST(damaged_sums_are_not_used)
{
    TestRoot t = test_root();
    BlockUser *user;

    make_image(&t, &kinds[0]);
    at(ld_be64(extension(0x7673756d) + 8) + 17)[0] ^= 1;
    assert_clean(&t, &kinds[0]);
    user = open_image(&t, &kinds[0], "");
    fill(user, 0, 64 * KiB, 0x55);
    qcow2_close_user(&t, user);
    ck_assert(are_stored(at(0)));
    assert_clean(&t, &kinds[0]);
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

/* ---- on and off ---- */

typedef struct AmendRun {
    BlockNode *node;
    const char *options;
    GError *error;
    int ret;
} AmendRun;

static void co_fn amend_co(void *opaque)
{
    AmendRun *run = opaque;
    g_autoptr(json_object) options = options_parse(run->options, NULL, NULL);

    run->ret = block_co_amend(run->node, options, false, &run->error);
}

static GError *amend(BlockUser *user, const char *options)
{
    AmendRun run = { .node = block_user_node(user), .options = options };

    co_run_sync(amend_co, &run);
    ck_assert_int_eq(run.ret == 0, run.error == NULL);
    return run.error;
}

static bool is_shown(BlockUser *user)
{
    g_autoptr(json_object) info = block_node_image_info(block_user_node(user), NULL);

    return strstr(json_object_to_json_string(info), "checksums") != NULL;
}

START_TEST(on_and_off)
{
    const Kind *kind = &kinds[_i];
    TestRoot t = test_root();
    GError *error = NULL;
    BlockUser *user;
    Look look;

    create_image(&t, kind, "");
    user = open_image(&t, kind, ",l2-cache-entry-size=512");
    fill(user, 0, kind->size / 2, 0x11);
    ck_assert(!is_shown(user));
    error = amend(user, "checksums=on");
    assert_no_error(error);
    ck_assert(is_shown(user));
    fill(user, kind->size / 2, kind->size / 4, 0x22);
    qcow2_close_user(&t, user);
    ck_assert(are_stored(at(0)));
    assert_clean(&t, kind);
    at(l2_table() + 29)[0] ^= 0x10;
    look = check_image(&t, kind, 0);
    ck_assert_ptr_nonnull(strstr(look.lines->str, "ERROR checksum of the L2 table"));
    look_done(&look);
    at(l2_table() + 29)[0] ^= 0x10;
    user = open_image(&t, kind, "");
    error = amend(user, "checksums=off");
    assert_no_error(error);
    ck_assert(!is_shown(user));
    qcow2_close_user(&t, user);
    ck_assert_uint_eq(ld_be64(at(AUTOCLEAR)) >> CHECKSUMS, 0);
    ck_assert_ptr_null(extension(0x7673756d));
    assert_clean(&t, kind);
    judge_by_qemu(kind);
    test_root_free(&t);
}
END_TEST

START_TEST(where_they_are_refused)
{
    static const Kind old = { "cluster-size=4096,version=v2", "", 1 * MiB, false };
    TestRoot t = test_root();
    GError *error = NULL;
    BlockUser *user;
    RamCreate c = { .graph = t.graph };

    create_image(&t, &old, "");
    user = open_image(&t, &old, "");
    error = amend(user, "checksums=on");
    assert_error(&error, "Checksums are only supported with compatibility level 1.1");
    error = amend(user, "version=v3,checksums=on");
    assert_no_error(error);
    error = amend(user, "version=v2");
    assert_error(&error, "has checksums");
    qcow2_close_user(&t, user);
    ck_assert(are_stored(at(0)));
    assert_clean(&t, &old);
    ram_clear();
    test_open(t.graph, &error, "driver=ram,node-name=mem");
    assert_no_error(error);
    c.options = options_parse("driver=qcow2,file=mem,size=1M,version=v2,checksums=on", "driver", NULL);
    co_run_sync(ram_create_run, &c);
    assert_error(&c.error, "Checksums are only supported");
    json_object_put(c.options);
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

START_TEST(the_polynomial)
{
    uint8_t bytes[100];

    ck_assert_uint_eq(crc32c(0, "123456789", 9), 0xe3069283);
    for (unsigned i = 0; i < sizeof(bytes); i++)
        bytes[i] = i * 7 + i / 3;
    for (unsigned n = 0; n < sizeof(bytes); n++) {
        ck_assert_uint_eq(crc32c(0, bytes, n), crc32c_portable(0, bytes, n));
        ck_assert_uint_eq(crc32c(crc32c(0, bytes, n), bytes + n, sizeof(bytes) - n),
                          crc32c_portable(0, bytes, sizeof(bytes)));
    }
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, the_polynomial);
    tcase_add_loop_test(tc, a_changed_bit_is_found, 0, G_N_ELEMENTS(kinds));
    tcase_add_test(tc, what_looks_sound_is_found_and_mended);
    tcase_add_test(tc, a_scrub_finds_it_live_and_its_plan_mends_it);
    tcase_add_loop_test(tc, whatever_is_done_they_are_right, 0, G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, a_power_cut_leaves_none_that_are_wrong, 0, 5);
    tcase_add_test(tc, qemu_sees_nothing_of_them);
    tcase_add_test(tc, after_a_crash_they_are_taken_anew);
    tcase_add_test(tc, damaged_sums_are_not_used);
    tcase_add_test(tc, where_there_is_no_room_there_are_none);
    tcase_add_loop_test(tc, what_is_measured_is_enough, 0, 5);
    tcase_add_loop_test(tc, on_and_off, 0, G_N_ELEMENTS(kinds));
    tcase_add_test(tc, where_they_are_refused);
    tcase_add_test(tc, read_only_and_back);
}

int main(void)
{
    return run_block_tests("qcow2-checksums", add_tests);
}

/*
 * Checksums of tables: a bit that the storage has changed is found wherever it is, by who reads it, by a
 * check and by a scrub; how they are switched on and off.
 */
#include "qcow2-checksums.h"
#include "src/base/crc32c.h"

static uint64_t refcount_table(void)
{
    return ld_be64(at(48));
}

static uint64_t refcount_block(void)
{
    return ld_be64(at(refcount_table()));
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

/* What looks sound is mended by taking what is there. */
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
    tcase_add_test(tc, after_a_crash_they_are_taken_anew);
    tcase_add_test(tc, damaged_sums_are_not_used);
    tcase_add_loop_test(tc, on_and_off, 0, G_N_ELEMENTS(kinds));
    tcase_add_test(tc, where_they_are_refused);
}

int main(void)
{
    return run_block_tests("qcow2-checksums", add_tests);
}

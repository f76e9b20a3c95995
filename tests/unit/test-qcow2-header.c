/*
 * Changes of the header, torn at every sector: what is left names the backing file of before or of after, has
 * all extensions, and opens with the data and the snapshots that were there.
 */
#include "qcow2-ram.h"
#include "tests/unit/ram-cut.h"
#include "block/transaction.h"

#define DISK_BYTES (1 * MiB)
#define JOURNAL_BIT (UINT64_C(1) << 56)    /* of the autoclear features */
enum { DATA_BYTES = 8192, UNKNOWN_TYPE = 0x12345678, UNKNOWN_BYTES = 40, FEATURE_BYTES = 48 };

/* Images made by QEMU, and what is done to them. */

typedef struct Image {
    const char *options;
    unsigned name_bytes;                   /* of the backing file */
    bool snapshot;
} Image;

static const Image images[] = {
    { "cluster_size=65536", 700, true },
    { "cluster_size=65536", 20, false },
    { "cluster_size=65536", 0, false },
    { "cluster_size=4096", 1000, true },
    { "cluster_size=2048", 100, false },
    { "cluster_size=1024", 30, true },
    { "cluster_size=512", 20, false },
    { "cluster_size=65536,compat=0.10", 600, false },
    { "cluster_size=4096,compat=0.10", 600, false },
    { "cluster_size=262144", 1000, false },
};

typedef enum Change {
    ADD_BITMAP, REMOVE_BITMAP, LONGER_NAME, OTHER_NAME, NO_NAME, SNAPSHOT, LAZY, UPGRADE, DOWNGRADE,
    N_CHANGES, ADD_ANOTHER = N_CHANGES
} Change;

static const char *const change_names[] = { "add a bitmap", "remove the bitmap", "a longer name",
                                             "another name", "no backing file", "a snapshot",
                                             "lazy refcounts", "version 3", "version 2" };

/* A further extension, which nobody knows, is put in before the end. */
static void add_unknown_extension(uint8_t *header)
{
    uint64_t name = ld_be64(header + 8), bytes = ld_be32(header + 16);
    uint64_t at = ld_be32(header + 4) < 3 ? 72 : ld_be32(header + 100);

    while (ld_be32(header + at))
        at += 8 + ALIGN_UP(ld_be32(header + at + 4), 8);
    if (name) {
        memmove(header + at + 16 + UNKNOWN_BYTES, header + name, bytes);
        st_be64(header + 8, at + 16 + UNKNOWN_BYTES);
    }
    memset(header + at, 0, 16 + UNKNOWN_BYTES);
    st_be32(header + at, UNKNOWN_TYPE);
    st_be32(header + at + 4, UNKNOWN_BYTES);
    memset(header + at + 8, 0x77, UNKNOWN_BYTES);
}

static GBytes *make_image(const Image *image)
{
    g_autofree char *path = g_strdup_printf("%s/header.qcow2", test_dir());
    g_autofree char *name = g_strnfill(image->name_bytes, 'o');
    g_autofree char *backing = g_strdup_printf("-u -F raw -b %s", name);
    char *data;
    gsize bytes;

    ck_assert_int_eq(run_command("qemu-img create -q -f qcow2 %s -o %s %s 1M",
                                 image->name_bytes ? backing : "", image->options, path), 0);
    ck_assert_int_eq(run_command("qemu-io -c 'write -q -P 0x5a 0 %d' --image-opts "
                                 "driver=qcow2,backing=,file.filename=%s", DATA_BYTES, path), 0);
    if (image->snapshot)
        ck_assert_int_eq(run_command("qemu-img snapshot -c one --image-opts "
                                     "driver=qcow2,backing=,file.filename=%s", path), 0);
    ck_assert(g_file_get_contents(path, &data, &bytes, NULL));
    add_unknown_extension((uint8_t *)data);
    return g_bytes_new_take(data, bytes);
}

/* What a reader finds in a header. */

typedef struct Seen {
    char *name, *format;                   /* NULL: none */
    const uint8_t *features;
    uint64_t feature_bytes;
    bool has_unknown;
} Seen;

static Seen look_at(const uint8_t *header)
{
    uint64_t name = ld_be64(header + 8), size = 1ull << ld_be32(header + 20);
    uint64_t at = ld_be32(header + 4) < 3 ? 72 : ld_be32(header + 100), end = name ? name : size;
    Seen seen = { .name = name ? g_strndup((const char *)header + name, ld_be32(header + 16))
                               : NULL };

    while (at + 8 <= end && ld_be32(header + at)) {
        uint32_t type = ld_be32(header + at), bytes = ld_be32(header + at + 4);

        at += 8;
        ck_assert_uint_le(at + bytes, end);
        if (type == 0xe2792aca)
            seen.format = g_strndup((const char *)header + at, bytes);
        if (type == UNKNOWN_TYPE)
            seen.has_unknown = bytes == UNKNOWN_BYTES && all_bytes(header + at, bytes, 0x77);
        if (type == 0x6803f857) {
            seen.features = header + at;
            seen.feature_bytes = bytes;
        }
        at += ALIGN_UP(bytes, 8);
    }
    return seen;
}

static bool has_feature(const Seen *seen, const uint8_t *feature)
{
    for (uint64_t at = 0; at < seen->feature_bytes; at += FEATURE_BYTES)
        if (!memcmp(seen->features + at, feature, FEATURE_BYTES))
            return true;
    return false;
}

/* A name, and nothing behind it: where clusters are small there are some for a moment. */
static bool is_feature(const uint8_t *feature)
{
    size_t length = strnlen((const char *)feature + 2, FEATURE_BYTES - 2);

    return length > 3 && length < FEATURE_BYTES - 2 &&
           all_bytes(feature + 2 + length, FEATURE_BYTES - 2 - length, 0);
}

static bool agrees(const Seen *a, const Seen *b)
{
    return !g_strcmp0(a->name, b->name) && !g_strcmp0(a->format, b->format);
}

static void seen_clear(Seen *seen)
{
    g_free(seen->name);
    g_free(seen->format);
}

/* A change. */

typedef struct Run {
    TestRoot t;
    BlockUser *user;
    Change change;
    const Image *image;
    uint8_t *before, *after;               /* headers */
    uint64_t header_bytes;
    RamReplay *replay;
    GHashTable *judged;                    /* first sectors that QEMU has seen */
    GError *error;
} Run;

static void co_fn set_name(Run *run, char letter, unsigned bytes)
{
    g_autofree char *name = g_strnfill(bytes, letter);

    block_co_set_backing(block_user_node(run->user), bytes ? name : NULL, bytes ? "raw" : NULL,
                         &run->error);
}

static void co_fn action(Run *run, const char *type, const char *data)
{
    g_autoptr(json_object) options = options_parse(data, NULL, NULL);

    block_action(run->t.graph, type, options, &run->error);
}

static void co_fn amend(Run *run, const char *words)
{
    g_autoptr(json_object) given = options_parse(words, NULL, NULL);
    g_autoptr(json_object) options = block_amend_options_parse("qcow2", given, &run->error);

    if (options)
        block_co_amend(block_user_node(run->user), options, false, &run->error);
}

static void co_fn change(void *opaque)
{
    BlockSnapshot snapshot = { .name = NULL };
    Run *run = opaque;

    switch (run->change) {
    case ADD_BITMAP:
        action(run, "block-dirty-bitmap-add", "node=disk,name=b,persistent=on");
        break;
    case ADD_ANOTHER:
        action(run, "block-dirty-bitmap-add", "node=disk,name=another,persistent=on");
        break;
    case REMOVE_BITMAP:
        action(run, "block-dirty-bitmap-remove", "node=disk,name=b");
        break;
    case LONGER_NAME:
        set_name(run, 'n', MIN(run->image->name_bytes + 100, 1023));
        break;
    case OTHER_NAME:
        set_name(run, 'n', run->image->name_bytes);
        break;
    case NO_NAME:
        set_name(run, 'n', 0);
        break;
    case SNAPSHOT:
        snapshot.name = g_strdup("two");
        block_co_snapshot_create(block_user_node(run->user), &snapshot, &run->error);
        g_free(snapshot.name);
        g_free(snapshot.id);
        break;
    case LAZY:
        amend(run, "lazy_refcounts=on");
        break;
    case UPGRADE:
        amend(run, "compat=1.1");
        break;
    default:
        amend(run, "compat=0.10");
    }
}

static void start(Run *run, const Image *image, GBytes *bytes, Change what)
{
    gsize size;
    const void *data = g_bytes_get_data(bytes, &size);

    *run = (Run){ .t = test_root(), .image = image, .change = what };
    run->judged = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    ram_clear();
    memcpy(ram.disks[0].data, data, size);
    ram.disks[0].size = size;
    run->header_bytes = 1ull << ld_be32(ram.disks[0].data + 20);
    run->user = ram_open_image(&run->t, ",backing=", &run->error);
    assert_no_error(run->error);
    if (what == REMOVE_BITMAP) {
        run->change = ADD_BITMAP;
        co_run_sync(change, run);
        run->change = what;
        g_clear_error(&run->error);
    }
    ck_assert_int_eq(test_request(run->user, OP_FLUSH, 0, NULL, 0, 0), 0);
    run->before = g_memdup2(ram.disks[0].data, run->header_bytes);
    ram_log_start();
    run->replay = ram_replay_new();
}

/* Version 2 has no bitmaps and no lazy refcounts; what has snapshots, or a backing file that is not open,
 * does not become one; two names may be too much for small clusters. */
static void assert_done(Run *run)
{
    bool v2 = strstr(run->image->options, "compat=0.10");
    bool refused = v2 ? run->change == ADD_BITMAP || run->change == REMOVE_BITMAP || run->change == LAZY
                      : run->change == DOWNGRADE && (run->image->snapshot || run->image->name_bytes);

    if (run->header_bytes >= 4096)
        ck_assert_msg(refused == !!run->error, "%s, %s: %s", run->image->options,
                      change_names[run->change], run->error ? run->error->message : "was done");
    g_clear_error(&run->error);
}

/* Closing is no part of it. */
static void end(Run *run)
{
    run->after = g_memdup2(ram.disks[0].data, run->header_bytes);
    ram_log_pause();
    qcow2_close_user(&run->t, run->user);
}

static void run_clear(Run *run)
{
    ram_replay_free(run->replay);
    ram_clear();
    g_hash_table_unref(run->judged);
    g_free(run->before);
    g_free(run->after);
    test_root_free(&run->t);
}

/* Judging what is left. */

static void judge_header(const Run *run, const uint8_t *header, const char *where)
{
    Seen before = look_at(run->before), after = look_at(run->after), now = look_at(header);

    ck_assert_msg(agrees(&now, &before) || agrees(&now, &after), "%s: backing file '%s', '%s'",
                  where, now.name, now.format);
    ck_assert_msg(now.has_unknown, "%s: an extension is lost", where);
    ck_assert_msg(now.features || !before.features || !after.features ||
                      run->header_bytes < 4096, "%s: feature names are lost", where);
    for (uint64_t at = 0; at < now.feature_bytes; at += FEATURE_BYTES)
        ck_assert_msg(has_feature(&before, now.features + at) ||
                          has_feature(&after, now.features + at) ||
                          (run->header_bytes < 4096 && is_feature(now.features + at)),
                      "%s: a feature's name is torn", where);
    seen_clear(&before);
    seen_clear(&after);
    seen_clear(&now);
}

static void judge_by_qemu(Run *run, const uint8_t *header, const char *where)
{
    char *sum = g_compute_checksum_for_data(G_CHECKSUM_MD5, header, 512);
    g_autofree char *path = g_strdup_printf("%s/torn.qcow2", test_dir());

    if (!g_hash_table_add(run->judged, sum))
        return;
    ck_assert(g_file_set_contents(path, (const char *)ram.disks[0].data, ram.disks[0].size, NULL));
    /* Not whether counts are too high: a cut may leave some. */
    ck_assert_msg(run_command("qemu-img check -q -r %s --image-opts "
                              "driver=qcow2,backing=,file.filename=%s",
                              run->change == SNAPSHOT ? "all" : "leaks", path) == 0,
                  "%s: qemu-img check", where);
    ck_assert_msg(run_command("qemu-io -r -c 'read -q -P 0x5a 0 %d' --image-opts "
                              "driver=qcow2,backing=,file.filename=%s", DATA_BYTES, path) == 0,
                  "%s: qemu-io", where);
}

/* What a cut has left between two steps is no obstacle: the next change of bitmaps gets its journal. */
static void assert_journal(Run *run, BlockUser *user, const char *where)
{
    Run next = { .t = run->t, .user = user, .change = ADD_ANOTHER };

    co_run_sync(change, &next);
    assert_no_error(next.error);
    ck_assert_msg(ld_be64(ram.disks[0].data + 88) & JOURNAL_BIT, "%s: no journal", where);
}

static void judge(Run *run, unsigned step, unsigned from, unsigned to)
{
    g_autofree char *where = g_strdup_printf("%s, %s, entry %u, sectors %u to %u",
                                             run->image->options, change_names[run->change], step,
                                             from, to);
    g_autofree uint8_t *data = g_malloc(DATA_BYTES);
    GError *error = NULL;
    BlockUser *user;
    BlockCheck found;

    judge_header(run, ram.disks[0].data, where);
    judge_by_qemu(run, ram.disks[0].data, where);
    user = ram_open_image(&run->t, ",backing=", &error);
    ck_assert_msg(user != NULL, "%s: %s", where, error ? error->message : "");
    ck_assert_int_eq(test_request(user, OP_READ, 0, data, DATA_BYTES, 0), 0);
    ck_assert_msg(all_bytes(data, DATA_BYTES, 0x5a), "%s: data is lost", where);
    if (run->change == SNAPSHOT)           /* counts that were raised already */
        ram_check(block_user_node(user), BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS);
    found = ram_check(block_user_node(user), 0);
    ck_assert_msg(!found.corruptions && !found.check_errors, "%s: corrupt", where);
    if (run->header_bytes >= 65536 && ld_be32(ram.disks[0].data + 4) >= 3)
        assert_journal(run, user, where);
    qcow2_close_user(&run->t, user);
}

/* Those that come first, those that come last, and each alone. */
static void tear(Run *run)
{
    unsigned n = ram_replay_tear(run->replay, 0, 0), at = run->replay->at;

    for (unsigned i = 0; i <= n; i += i < 16 ? 1 : i / 4) {
        ram_replay_tear(run->replay, 0, i);
        judge(run, at, 0, i);
        ram_replay_tear(run->replay, i, n);
        judge(run, at, i, n);
        if (i < n) {
            ram_replay_tear(run->replay, i, i + 1);
            judge(run, at, i, i + 1);
        }
    }
}

/* Before each flush, and at the end: in between, less is left of the same. */
static void tear_everywhere(Run *run)
{
    while (run->replay->at < ram.log->len) {
        if (g_array_index(ram.log, RamEntry, run->replay->at).what == RAM_FLUSHED)
            tear(run);
        ram_replay_step(run->replay);
    }
    tear(run);
}

START_TEST(a_torn_header_is_the_old_or_the_new_one)
{
    const Image *image = &images[_i];
    g_autoptr(GBytes) bytes = make_image(image);

    for (Change what = 0; what < N_CHANGES; what++) {
        Run run;

        start(&run, image, bytes, what);
        co_run_sync(change, &run);
        assert_done(&run);
        end(&run);
        tear_everywhere(&run);
        run_clear(&run);
    }
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, a_torn_header_is_the_old_or_the_new_one, 0, G_N_ELEMENTS(images));
}

int main(void)
{
    return run_block_tests("qcow2-header", add_tests);
}

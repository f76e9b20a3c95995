/*
 * Stored bitmaps and power cuts: whatever is cut off, wherever, each sector that is not what it was
 * when a bitmap was made or cleared is dirty in it, and the bitmap can be used.
 */
#include "qcow2-ram.h"
#include "tests/unit/ram-cut.h"
#include "block/bitmap.h"
#include "block/transaction.h"

enum { WORKERS = 4, STEPS = 12, ROUNDS = 4 };

static const struct {
    const char *create;
    uint64_t size;
    unsigned granularity;
} kinds[] = {
    { "cluster-size=4096", 2 * MiB, 4096 },
    { "cluster-size=512", 512 * KiB, 512 },
    { "cluster-size=16384,extended-l2=on", 4 * MiB, 65536 },
    { "cluster-size=65536,refcount-bits=64", 4 * MiB, 65536 },
};

typedef struct Cut {
    TestRoot t;
    GRand *rand;
    BlockUser *user;
    uint64_t size;
    unsigned running, kind;
    bool done;
    /* What the disk was when "b" was made or cleared: after the verb that was cut off; before. */
    uint8_t *then, *before;
    bool has_bitmap, had_bitmap;
} Cut;

static bool is_cut(void)
{
    return ram.fail_at && ram.requests >= ram.fail_at;
}

/* The guest. */

static void co_fn step(Cut *c)
{
    uint64_t sectors = c->size / 512, first = g_rand_int_range(c->rand, 0, sectors);
    uint64_t n = MIN(g_rand_int_range(c->rand, 1, 40), sectors - first);
    int what = g_rand_int_range(c->rand, 0, 10);
    g_autofree uint8_t *buffer = g_malloc(n * 512);
    struct iovec iov = { buffer, n * 512 };

    memset(buffer, g_rand_int_range(c->rand, 1, 256), n * 512);
    if (what < 6)
        block_co_write(c->user, first * 512, &iov, 1, n * 512, 0);
    else if (what < 8)
        block_co_zero(c->user, first * 512, n * 512, what == 7 ? BLOCK_MAY_UNMAP : 0);
    else if (what == 8)
        block_co_discard(c->user, first * 512, n * 512);
    else
        block_co_flush(c->user);
}

static void co_fn work(void *opaque)
{
    Cut *c = opaque;

    for (int i = 0; i < STEPS && !is_cut(); i++)
        step(c);
    if (!--c->running)
        c->done = true;
}

static void writes(Cut *c)
{
    c->running = WORKERS;
    c->done = false;
    for (unsigned i = 0; i < WORKERS; i++)
        co_start(work, c);
    loop_wait(&c->done);
}

/* Verbs, between writes. */

typedef struct Verb {
    BlockGraph *graph;
    const char *type;
    json_object *data;
    GError *error;
    bool ok;
} Verb;

static void co_fn verb_co(void *opaque)
{
    Verb *v = opaque;

    v->ok = block_action(v->graph, v->type, v->data, &v->error);
}

static bool verb(Cut *c, const char *type, const char *data)
{
    g_autoptr(json_object) options = options_parse(data, NULL, NULL);
    Verb v = { c->t.graph, type, options };

    ck_assert_ptr_nonnull(options);
    co_run_sync(verb_co, &v);
    g_clear_error(&v.error);
    return v.ok;
}

/* What can be read after a cut is of no interest. */
static void note_disk(Cut *c)
{
    memcpy(c->before, c->then, c->size);
    if (!is_cut())
        test_request(c->user, OP_READ, 0, c->then, c->size, 0);
}

static void change_bitmaps(Cut *c)
{
    g_autofree char *add = g_strdup_printf("node=disk,name=b,persistent=on,granularity=%u",
                                           kinds[c->kind].granularity);

    memcpy(c->before, c->then, c->size);
    c->had_bitmap = c->has_bitmap;
    switch (g_rand_int_range(c->rand, 0, 6)) {
    case 0:
    case 1:
        note_disk(c);
        verb(c, "block-dirty-bitmap-clear", "node=disk,name=b");
        break;
    case 2:
        verb(c, "block-dirty-bitmap-remove", "node=disk,name=b");
        note_disk(c);
        c->has_bitmap = verb(c, "block-dirty-bitmap-add", add);
        break;
    case 3:
        verb(c, "block-dirty-bitmap-add", "node=disk,name=other,persistent=on,disabled=on");
        break;
    case 4:
        verb(c, "block-dirty-bitmap-remove", "node=disk,name=other");
        break;
    default:                               /* marks that no write made */
        block_bitmap_mark(block_bitmap_find(block_user_node(c->user), "b"), 0, 4096);
        verb(c, "block-dirty-bitmap-enable", "node=disk,name=b");
    }
}

/* Looking. */

static bool all_dirty(Cut *c, const BlockBitmap *bitmap, const uint8_t *now, const uint8_t *then)
{
    for (uint64_t i = 0; i < c->size / 512; i++)
        if (memcmp(now + i * 512, then + i * 512, 512) && !block_bitmap_get(bitmap, i * 512))
            return false;
    return true;
}

/* @during: the cut fell into a verb. */
static void assert_bitmap(Cut *c, uint64_t seed, bool during)
{
    BlockBitmap *bitmap = block_bitmap_find(block_user_node(c->user), "b");
    g_autofree uint8_t *now = g_malloc0(c->size);

    ck_assert_int_eq(test_request(c->user, OP_READ, 0, now, c->size, 0), 0);
    if (!bitmap) {
        ck_assert_msg(during || !c->has_bitmap, "seed %" PRIu64 ": the bitmap is gone", seed);
        return;
    }
    ck_assert_msg(!(block_bitmap_flags(bitmap) & BLOCK_BITMAP_INCONSISTENT),
                  "seed %" PRIu64 ": the bitmap is inconsistent", seed);
    ck_assert_uint_ne(block_bitmap_flags(bitmap) & BLOCK_BITMAP_RECORDING, 0);
    ck_assert_msg(all_dirty(c, bitmap, now, c->then) ||
                      (during && all_dirty(c, bitmap, now, c->before)),
                  "seed %" PRIu64 ": a sector that was written is not dirty", seed);
}

static void open_again(Cut *c)
{
    GError *error = NULL;

    c->user = ram_open_image(&c->t, "", &error);
    assert_no_error(error);
}

static void cut_init(Cut *c, unsigned kind, uint64_t seed)
{
    g_autofree char *options = g_strdup_printf("driver=qcow2,file=mem,size=%" PRIu64 ",%s",
                                               kinds[kind].size, kinds[kind].create);
    g_autofree char *add = g_strdup_printf("node=disk,name=b,persistent=on,granularity=%u",
                                           kinds[kind].granularity);

    *c = (Cut){ .t = test_root(), .rand = g_rand_new_with_seed(seed), .kind = kind,
                .size = kinds[kind].size };
    c->then = g_malloc0(c->size);
    c->before = g_malloc0(c->size);
    ram_clear();
    ram_create(&c->t, options);
    ram_watch();
    open_again(c);
    writes(c);
    note_disk(c);
    ck_assert(verb(c, "block-dirty-bitmap-add", add));
    c->has_bitmap = true;
}

static void cut_free(Cut *c)
{
    qcow2_close_user(&c->t, c->user);
    test_root_free(&c->t);
    g_rand_free(c->rand);
    g_free(c->then);
    g_free(c->before);
}

/* Some rounds of writes and verbs, cut off; what was found after it is written on, and cut off
 * again. */
static void cut_once(Cut *c, uint64_t seed)
{
    bool during = false;

    sched_seed(seed);
    ram.requests = 0;
    ram.fail_at = g_rand_int_range(c->rand, 1, 500);
    ram.fail_with = EIO;
    ram.dead = true;
    for (int i = 0; i < ROUNDS && !is_cut(); i++) {
        writes(c);
        if (is_cut())
            break;
        change_bitmaps(c);
        during = is_cut();
    }
    if (!is_cut())                         /* a kill: nothing is closed, all requests are over */
        ram.fail_at = ram.requests;
    sched_off();
    qcow2_close_user(&c->t, c->user);
    ram_power_cut(c->rand);
    open_again(c);
    assert_bitmap(c, seed, during);
    c->has_bitmap = block_bitmap_find(block_user_node(c->user), "b") != NULL;
}

START_TEST(nothing_written_is_clean_after_a_cut)
{
    for (unsigned seed = 0; next_seed(&seed, 25);) {
        Cut c;

        cut_init(&c, _i, seed);
        for (int again = 0; again < 3; again++) {
            BlockBitmap *bitmap;

            cut_once(&c, seed);
            bitmap = block_bitmap_find(block_user_node(c.user), "b");
            if (!bitmap)
                break;
            /* What is dirty now says what the disk may differ from; from here on it is known. */
            note_disk(&c);
            ck_assert(verb(&c, "block-dirty-bitmap-clear", "node=disk,name=b"));
            ck_assert_uint_eq(block_bitmap_count(bitmap), 0);
        }
        cut_free(&c);
    }
}
END_TEST

/* Several bitmaps. */

static void add_in_memory(Cut *c, const char *name)
{
    GError *error = NULL;
    BlockBitmap *bitmap = block_bitmap_new(block_user_node(c->user), name, 65536, &error);

    assert_no_error(error);
    block_bitmap_set_flags(bitmap, BLOCK_BITMAP_PERSISTENT, 0);
}

static void several_init(Cut *c, unsigned n)
{
    GError *error = NULL;

    *c = (Cut){ .t = test_root(), .rand = g_rand_new_with_seed(n) };
    ram_clear();
    ram_create(&c->t, "driver=qcow2,file=mem,size=1M,cluster-size=1024");
    c->user = ram_open_image(&c->t, "", &error);
    assert_no_error(error);
    for (unsigned i = 1; i < n; i++) {
        g_autofree char *name = g_strdup_printf("b%u", i);

        add_in_memory(c, name);
    }
    ck_assert(verb(c, "block-dirty-bitmap-add", "node=disk,name=last,persistent=on"));
}

/* A write to the disk's second half, and the power goes.  The image is open again. */
static void write_and_cut(Cut *c)
{
    g_autofree uint8_t *data = g_malloc0(65536);

    ck_assert_int_eq(test_request(c->user, OP_FLUSH, 0, NULL, 0, 0), 0);
    ram_watch();
    ck_assert_int_eq(test_request(c->user, OP_WRITE, 512 * KiB, data, 65536, 0), 0);
    ram.requests = 0;
    ram.fail_at = 1;
    ram.fail_with = EIO;
    ram.dead = true;
    qcow2_close_user(&c->t, c->user);
    ram_power_cut(c->rand);
    open_again(c);
}

static void assert_dirty_half(const BlockBitmap *bitmap)
{
    const char *name = block_bitmap_name(bitmap);

    ck_assert_msg(!(block_bitmap_flags(bitmap) & BLOCK_BITMAP_INCONSISTENT), "'%s' is inconsistent",
                  name);
    ck_assert_msg(block_bitmap_get(bitmap, 512 * KiB) && !block_bitmap_get(bitmap, 0), "'%s' is wrong",
                  name);
}

static void judge_by_qemu(Cut *c, unsigned bitmaps)
{
    g_autofree char *path = g_strdup_printf("%s/several.qcow2", test_dir());

    qcow2_close_user(&c->t, c->user);
    ck_assert(g_file_set_contents(path, (const char *)ram.disks[0].data, ram.disks[0].size, NULL));
    ck_assert_int_eq(run_command("qemu-img check -q -r leaks -f qcow2 %s", path), 0);
    ck_assert_int_eq(run_command("sh -c \"[ \\$(qemu-img info %s | grep -c granularity) = %u ]\"", path,
                                 bitmaps),
                     0);
    open_again(c);
}

START_TEST(all_of_many_bitmaps_survive)
{
    enum { MANY = 300 };
    BlockBitmap *bitmap = NULL;
    unsigned n = 0;
    Cut c;

    several_init(&c, MANY);
    write_and_cut(&c);
    for (; (bitmap = block_bitmap_next(block_user_node(c.user), bitmap)); n++)
        assert_dirty_half(bitmap);
    ck_assert_uint_eq(n, MANY);
    judge_by_qemu(&c, MANY);
    cut_free(&c);
}
END_TEST

/* Where the directory's first bitmap was not stored by whoever had it, the others are as good as ever. */
START_TEST(sound_bitmaps_survive_beside_others)
{
    BlockBitmap *bitmap = NULL;
    unsigned sound = 0, inconsistent = 0;
    uint8_t *header = ram.disks[0].data;
    Cut c;

    several_init(&c, 4);
    qcow2_close_user(&c.t, c.user);
    ck_assert_uint_eq(ld_be32(header + 112), 0x23852875);
    header[ld_be64(header + 112 + 8 + 16) + 15] |= 1;      /* the first entry is in use */
    open_again(&c);
    write_and_cut(&c);
    while ((bitmap = block_bitmap_next(block_user_node(c.user), bitmap))) {
        if (block_bitmap_flags(bitmap) & BLOCK_BITMAP_INCONSISTENT) {
            inconsistent++;
            continue;
        }
        assert_dirty_half(bitmap);
        sound++;
    }
    ck_assert_uint_eq(sound, 3);
    ck_assert_uint_eq(inconsistent, 1);
    judge_by_qemu(&c, 4);
    cut_free(&c);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, nothing_written_is_clean_after_a_cut, 0, G_N_ELEMENTS(kinds));
    tcase_add_test(tc, all_of_many_bitmaps_survive);
    tcase_add_test(tc, sound_bitmaps_survive_beside_others);
}

int main(void)
{
    return run_block_tests("qcow2-journal", add_tests);
}

/*
 * What goes wrong below an image: the power goes, a request fails, or both.
 *
 * After a power cut any of the sectors that were not flushed may be lost, and any of those written may be
 * there.  What was flushed must be there, and the image needs no repair but of leaks.  After an error
 * the image goes on, or says that it does not; it is never worse than after a power cut.
 */
#include "qcow2-ram.h"
#include "tests/unit/ram-cut.h"

enum { STEPS = 14, WORKERS = 4, LANE = 512, BLOCK = 4, CUTS = 24 };
enum { NOTE_ASKED, NOTE_ENDED, NOTE_FLUSHED };
enum { FAILED = 256, HOLES = 512 };        /* added to the value of a note */

static const struct Kind {
    const char *create, *open;
    uint64_t size, cluster;
    bool holes;                            /* a discard spoils what it discards at once */
} kinds[] = {
    { "cluster-size=4096", "", 128 * KiB, 4096 },
    { "cluster-size=512", "", 64 * KiB, 4096 },
    { "cluster-size=16384,extended-l2=on", "", 256 * KiB, 16384 },
    { "cluster-size=1024,refcount-bits=64", "", 64 * KiB, 4096 },
    { "cluster-size=4096,version=v2", "", 128 * KiB, 4096 },
    { "cluster-size=4096,data-file=memdata", ",data-file.driver=ram,data-file.disk=1", 128 * KiB, 4096,
      true },
    { "cluster-size=4096", ",discard-no-unref=on", 128 * KiB, 4096, true },
    { "cluster-size=4096,checksums=on", "", 128 * KiB, 4096 },
    { "cluster-size=512,checksums=on", ",cache-size=8k", 512 * KiB, 4096 },
    /* Caches so small that requests have to write tables, too. */
    { "cluster-size=512", ",cache-size=8k,l2-cache-entry-size=512", 512 * KiB, 4096 },
};
typedef struct Kind Kind;

/* Sets of values that all bytes of a sector may have. */
typedef struct Values {
    uint64_t words[4];
} Values;

static void add_value(Values *set, unsigned value)
{
    set->words[value / 64] |= 1ull << value % 64;
}

static bool has_value(const Values *set, unsigned value)
{
    return set->words[value / 64] >> value % 64 & 1;
}

typedef struct Sector {
    Values now;                            /* as it may read, while nothing is under way */
    Values after;                          /* a power cut */
} Sector;

typedef struct Power {
    const Kind *kind;
    BlockUser *user;
    GRand *rand;
    Sector *sectors;
    unsigned running;
    bool done;
} Power;

/* Several at once, each with sectors of its own: blocks of clusters in the disk's first half, whole
 * clusters in the second. */
typedef struct Worker {
    Power *power;
    unsigned index;
} Worker;

static bool owns(const Kind *kind, unsigned worker, uint64_t sector)
{
    uint64_t unit = sector * LANE < kind->size / 2 ? BLOCK : kind->cluster / LANE;

    return sector / unit % WORKERS == worker;
}

static void choose(Worker *w, uint64_t *ret_first, uint64_t *ret_n)
{
    Power *p = w->power;
    uint64_t sectors = p->kind->size / LANE, wanted = g_rand_int_range(p->rand, 1, 40);

    do
        *ret_first = g_rand_int_range(p->rand, 0, sectors);
    while (!owns(p->kind, w->index, *ret_first));
    for (*ret_n = 1; *ret_n < wanted && *ret_first + *ret_n < sectors; ++*ret_n)
        if (!owns(p->kind, w->index, *ret_first + *ret_n))
            break;
}

/* ---- a run, and what it says of itself ---- */

static void co_fn flush_step(Worker *w)
{
    if (block_co_flush(w->power->user) == 0)
        ram_log_note(NOTE_FLUSHED, w->index, 0, 0);
}

/* The parts of clusters that a discard keeps have one of several values, as after a write that failed. */
static void co_fn change_step(Worker *w, int what)
{
    Power *p = w->power;
    uint8_t value = what < 7 ? g_rand_int_range(p->rand, 1, 221) : 0;
    uint64_t first, n;
    g_autofree uint8_t *buffer = NULL;
    struct iovec iov;
    int ret, more;

    choose(w, &first, &n);
    buffer = g_malloc(n * LANE);
    iov = (struct iovec){ buffer, n * LANE };
    memset(buffer, value, n * LANE);
    more = p->kind->holes && what >= 8 ? HOLES : 0;
    ram_log_note(NOTE_ASKED, first, n, value | more);
    if (what < 7)
        ret = block_co_write(p->user, first * LANE, &iov, 1, n * LANE, 0);
    else if (what < 9)
        ret = block_co_zero(p->user, first * LANE, n * LANE, what == 8 ? BLOCK_MAY_UNMAP : 0);
    else
        ret = block_co_discard(p->user, first * LANE, n * LANE);
    if (ret < 0 || what == 9)
        more |= FAILED;
    ram_log_note(NOTE_ENDED, first, n, value | more);
}

static void co_fn steps(void *opaque)
{
    Worker *w = opaque;

    for (int i = 0; i < STEPS; i++) {
        int what = g_rand_int_range(w->power->rand, 0, 12);

        if (what < 10)
            change_step(w, what);
        else
            flush_step(w);
    }
    if (!--w->power->running)
        w->power->done = true;
}

static void run_steps(Power *p, uint64_t seed)
{
    Worker workers[WORKERS];

    p->running = WORKERS;
    p->done = false;
    sched_seed(seed);
    for (unsigned i = 0; i < WORKERS; i++) {
        workers[i] = (Worker){ p, i };
        co_start(steps, &workers[i]);
    }
    loop_wait(&p->done);
    sched_off();
}

/* ---- what the notes promise ---- */

static void changed(Sector *sector, int note, bool ended)
{
    unsigned value = note & 255;

    if (!ended || note & FAILED) {
        add_value(&sector->after, value);
        if (note & HOLES)
            add_value(&sector->after, 0xdd);
    }
    if (ended && note & FAILED)
        sector->now = sector->after;
    if (ended && !(note & FAILED)) {
        sector->now = (Values){ { 0 } };
        add_value(&sector->now, value);
    }
}

static void take_note(Power *p, const RamEntry *entry)
{
    uint64_t first = 0, end = p->kind->size / LANE;

    if (entry->note[0] != NOTE_FLUSHED) {
        first = entry->note[1];
        end = first + entry->note[2];
    }
    for (uint64_t i = first; i < end; i++) {
        if (entry->note[0] != NOTE_FLUSHED)
            changed(&p->sectors[i], entry->note[3], entry->note[0] == NOTE_ENDED);
        else if (owns(p->kind, entry->note[1], i))
            p->sectors[i].after = p->sectors[i].now;
    }
}

static void assert_sectors(Power *p, uint64_t seed, unsigned at)
{
    g_autofree uint8_t *data = g_malloc(p->kind->size);

    ck_assert_int_eq(test_request(p->user, OP_READ, 0, data, p->kind->size, 0), 0);
    for (uint64_t i = 0; i < p->kind->size; i += LANE)
        if (!has_value(&p->sectors[i / LANE].after, data[i]) ||
            memcmp(data + i, data + i + 1, LANE - 1))
            ck_abort_msg("seed %" PRIu64 ", entry %u: sector %" PRIu64 " has %02x %02x", seed, at,
                         i / LANE, data[i], data[i + LANE - 1]);
}

/* After a crash: no corruption, leaks mended, everything that was promised is there. */
static void assert_sound(Power *p, TestRoot *t, uint64_t seed, unsigned at)
{
    GError *error = NULL;
    BlockCheck check;

    p->user = ram_open_image(t, p->kind->open, &error);
    assert_no_error(error);
    check = ram_check(block_user_node(p->user), BLOCK_FIX_LEAKS);
    if (check.corruptions || check.leaks || check.check_errors)
        ck_abort_msg("seed %" PRIu64 ", entry %u: %" PRIu64 " corruptions, %" PRIu64 " leaks", seed, at,
                     check.corruptions, check.leaks);
    assert_sectors(p, seed, at);
    qcow2_close_user(t, p->user);
}

static void power_init(Power *p, TestRoot *t, const Kind *kind, uint64_t seed)
{
    g_autofree char *options = g_strdup_printf("driver=qcow2,file=mem,size=%" PRIu64 ",%s", kind->size,
                                               kind->create);

    *p = (Power){ .kind = kind, .rand = g_rand_new_with_seed(seed) };
    p->sectors = g_new0(Sector, kind->size / LANE);
    for (uint64_t i = 0; i < kind->size / LANE; i++) {
        add_value(&p->sectors[i].now, 0);
        add_value(&p->sectors[i].after, 0);
    }
    ram_clear();
    ram_create(t, options);
    ram_log_start();
}

static void power_free(Power *p)
{
    ram_log_stop();
    g_rand_free(p->rand);
    g_free(p->sectors);
}

/* From opening to closing; @fail_at: the request that fails once. */
static void run(Power *p, TestRoot *t, uint64_t seed, unsigned fail_at, int fail_with)
{
    GError *error = NULL;

    ram.requests = 0;
    ram.fail_at = fail_at;
    ram.fail_with = fail_with;
    p->user = ram_open_image(t, p->kind->open, &error);
    if (p->user) {
        run_steps(p, seed);
        qcow2_close_user(t, p->user);
    } else {
        ck_assert(error && *error->message);
        g_clear_error(&error);
    }
    ram.fail_at = 0;
}

static void cut_many_times(Power *p, TestRoot *t, RamReplay *replay, uint64_t seed)
{
    unsigned length = ram.log->len;
    const RamEntry *entry;

    while ((entry = ram_replay_step(replay))) {
        if (entry->what == RAM_NOTE)
            take_note(p, entry);
        if (g_rand_int_range(p->rand, 0, length) >= CUTS && replay->at < length)
            continue;
        ram_replay_cut(replay, p->rand);
        ram_log_pause();
        assert_sound(p, t, seed, replay->at);
        ram_log_resume();
    }
}

/* Every other run has a request that fails, too. */
START_TEST(a_power_cut_costs_nothing_that_was_flushed)
{
    for (unsigned seed = 0; next_seed(&seed, 100);) {
        TestRoot t = test_root();
        RamReplay *replay;
        Power p;

        power_init(&p, &t, &kinds[_i], seed);
        replay = ram_replay_new();
        run(&p, &t, seed, seed % 2 ? 0 : g_rand_int_range(p.rand, 1, 200), seed % 4 ? EIO : ENOSPC);
        cut_many_times(&p, &t, replay, seed);
        ram_replay_free(replay);
        power_free(&p);
        test_root_free(&t);
    }
}
END_TEST

/* Each request to the file in turn, until there are no more: reads, writes, flushes, resizes. */
START_TEST(any_single_error_is_survived)
{
    static const int errors[] = { EIO, ENOSPC };
    unsigned at = 1;
    bool fired = true;

    for (; fired && at < 2000; at++) {
        TestRoot t = test_root();
        Power p;

        power_init(&p, &t, &kinds[_i], 7);
        run(&p, &t, 7, at, errors[at % 2]);
        fired = ram.requests >= at;
        for (unsigned i = 0; i < ram.log->len; i++)
            if (g_array_index(ram.log, RamEntry, i).what == RAM_NOTE)
                take_note(&p, &g_array_index(ram.log, RamEntry, i));
        ram_log_stop();
        assert_sound(&p, &t, 7, at);
        power_free(&p);
        test_root_free(&t);
    }
    ck_assert_uint_gt(at, 30);
}
END_TEST

/* All flushes fail, and the cache is so small that requests try one all the same.  What they free then must
 * not become anything else's. */
enum { OLD = 0x11, NEW = 0x22, SLICE = 32 * 1024, SLICES = 16 };

static void write_value(BlockUser *user, uint64_t offset, uint64_t bytes, uint8_t value)
{
    g_autofree uint8_t *data = g_malloc(bytes);

    memset(data, value, bytes);
    ck_assert_int_eq(test_request(user, OP_WRITE, offset, data, bytes, 0), 0);
}

static void replace_without_flushes(BlockUser *user)
{
    ram.fail_at = 1;
    ram.fail_with = EIO;
    ram.fail_what = "flush";
    ram.dead = true;
    for (uint64_t i = 0; i < SLICES; i++)
        ck_assert_int_eq(test_request(user, OP_DISCARD, i * SLICE, NULL, 4096, 0), 0);
    for (uint64_t i = 0; i < SLICES; i++)
        write_value(user, (SLICES + i) * SLICE, 8192, NEW);
    ram.fail_at = 0;
    ram.fail_what = NULL;
    ram.dead = false;
}

static void assert_nothing_mixed(TestRoot *t, unsigned cut)
{
    g_autofree uint8_t *data = g_malloc(SLICES * SLICE);
    GError *error = NULL;
    BlockUser *user = ram_open_image(t, "", &error);
    BlockCheck check;

    assert_no_error(error);
    check = ram_check(block_user_node(user), BLOCK_FIX_LEAKS);
    ck_assert_uint_eq(check.corruptions + check.leaks, 0);
    ck_assert_int_eq(test_request(user, OP_READ, 0, data, SLICES * SLICE, 0), 0);
    for (unsigned i = 0; i < SLICES * SLICE; i++)
        if (data[i] != OLD && (data[i] || i % SLICE >= 4096))
            ck_abort_msg("cut %u: byte %u is %02x", cut, i, data[i]);
    qcow2_close_user(t, user);
}

START_TEST(what_a_failed_checkpoint_freed_is_not_used)
{
    TestRoot t = test_root();
    GRand *rand = g_rand_new_with_seed(1);
    GError *error = NULL;
    RamReplay *replay;
    BlockUser *user;

    ram_clear();
    ram_create(&t, "driver=qcow2,file=mem,size=1M,cluster-size=512");
    user = ram_open_image(&t, ",cache-size=8k,l2-cache-entry-size=512", &error);
    assert_no_error(error);
    write_value(user, 0, SLICES * SLICE, OLD);
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    ram_log_start();
    replay = ram_replay_new();
    replace_without_flushes(user);
    while (ram_replay_step(replay))
        continue;
    ram_log_pause();
    qcow2_close_user(&t, user);
    ram_log_resume();
    for (unsigned cut = 0; cut < 20; cut++) {
        ram_replay_cut(replay, rand);
        ram_log_pause();
        assert_nothing_mixed(&t, cut);
        ram_log_resume();
    }
    ram_replay_free(replay);
    ram_log_stop();
    g_rand_free(rand);
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, a_power_cut_costs_nothing_that_was_flushed, 0, G_N_ELEMENTS(kinds));
    tcase_add_test(tc, what_a_failed_checkpoint_freed_is_not_used);
    tcase_add_loop_test(tc, any_single_error_is_survived, 0, G_N_ELEMENTS(kinds));
}

int main(void)
{
    return run_block_tests("qcow2-power", add_tests);
}

/*
 * Many requests at once on one image, in orders that the seeded scheduler draws: allocation, copy on
 * write, discard, zeroes, compression, flushes, snapshots, resizing.  A failing order is a seed that
 * replays it.
 */
#include "qcow2-ram.h"
#include <malloc.h>

enum { WORKERS = 6, STEPS = 16, ORDERS = 5000 };

typedef struct Kind {
    const char *create, *open;
    uint64_t cluster, size;
} Kind;

static const Kind kinds[] = {
    { "cluster-size=4096", "", 4096, 128 * KiB },
    { "cluster-size=512,checksums=on", "", 512, 48 * KiB },
    { "cluster-size=16384,extended-l2=on,compression-type=zstd", "", 16384, 256 * KiB },
    { "cluster-size=4096,refcount-bits=8,compression-type=zstd,checksums=on", ",discard-no-unref=on", 4096, 128 * KiB },
};

typedef struct Race {
    const Kind *kind;
    BlockUser *user;
    GRand *rand;
    uint8_t *model, *now;
    unsigned running;
    bool done;
} Race;

typedef struct Worker {
    Race *race;
    unsigned index;
} Worker;

static void worker_done(Race *race)
{
    if (!--race->running)
        race->done = true;
}

/* A third of the clusters is everybody's, each with a lane of its own; the others have an owner. */
static void choose(Worker *w, uint64_t *offset, uint64_t *bytes, bool *whole)
{
    const Kind *k = w->race->kind;
    uint64_t cluster = g_rand_int_range(w->race->rand, 0, k->size / k->cluster), lane;

    *whole = cluster % 3 != 0;
    if (*whole) {
        cluster = cluster / (3 * WORKERS) * 3 * WORKERS + 1 + 3 * w->index +
                  g_rand_int_range(w->race->rand, 0, 2);
        *offset = cluster * k->cluster;
        *bytes = k->cluster;
    }
    if (!*whole || *offset + *bytes > k->size) {
        *whole = false;
        lane = k->cluster / 8;
        *offset = cluster % (k->size / k->cluster) / 3 * 3 * k->cluster + w->index * lane;
        *bytes = lane;
    }
}

static void co_fn write_step(Worker *w, uint64_t offset, uint64_t bytes, bool whole)
{
    Race *race = w->race;
    unsigned flags = whole && !g_rand_int_range(race->rand, 0, 4) ? BLOCK_COMPRESSED : 0;
    g_autofree uint8_t *buffer = NULL;
    struct iovec iov;

    if (whole && !flags) {
        uint64_t skip = g_rand_int_range(race->rand, 0, bytes / 2);

        offset += skip;
        bytes = g_rand_int_range(race->rand, 1, bytes - skip + 1);
    }
    buffer = g_malloc(bytes);
    memset(buffer, g_rand_int_range(race->rand, 1, 256), bytes);
    iov = (struct iovec){ buffer, bytes };
    memcpy(race->model + offset, buffer, bytes);
    ck_assert_int_eq(block_co_write(race->user, offset, &iov, 1, bytes, flags), 0);
}

static void co_fn read_step(Worker *w, uint64_t offset, uint64_t bytes)
{
    Race *race = w->race;
    g_autofree uint8_t *buffer = g_malloc(bytes);
    struct iovec iov = { buffer, bytes };

    ck_assert_int_eq(block_co_read(race->user, offset, &iov, 1, bytes), 0);
    ck_assert_msg(!memcmp(buffer, race->model + offset, bytes),
                  "worker %u: read of %" PRIu64 " at %" PRIu64 ": %02x, not %02x", w->index, bytes,
                  offset, buffer[0], race->model[offset]);
}

static void co_fn work(void *opaque)
{
    Worker *w = opaque;
    Race *race = w->race;

    for (int i = 0; i < STEPS; i++) {
        int what = g_rand_int_range(race->rand, 0, 10);
        uint64_t offset, bytes;
        bool whole;

        choose(w, &offset, &bytes, &whole);
        if (what < 3) {
            read_step(w, offset, bytes);
        } else if (what < 7 || !whole) {
            write_step(w, offset, bytes, whole);
        } else {
            memset(race->model + offset, 0, bytes);
            if (what == 7)
                ck_assert_int_eq(block_co_discard(race->user, offset, bytes), 0);
            else
                ck_assert_int_eq(block_co_zero(race->user, offset, bytes,
                                               what == 8 ? BLOCK_MAY_UNMAP : 0), 0);
        }
        if (!g_rand_int_range(race->rand, 0, 6))
            ck_assert_int_eq(block_co_flush(race->user), 0);
    }
    worker_done(race);
}

static void co_fn take_snapshots(void *opaque)
{
    Race *race = opaque;
    BlockNode *node = block_user_node(race->user);

    for (int i = 0; i < 2; i++) {
        BlockSnapshot snapshot = { .name = (char *)"s", .icount = UINT64_MAX };
        GError *error = NULL;

        co_pause();
        ck_assert_int_eq(block_co_snapshot_create(node, &snapshot, &error), 0);
        co_pause();
        ck_assert_int_eq(block_co_snapshot_delete(node, "s", &error), 0);
        assert_no_error(error);
        g_free(snapshot.id);
    }
    worker_done(race);
}

static void co_fn change_sizes(void *opaque)
{
    Race *race = opaque;
    BlockNode *node = block_user_node(race->user);

    for (int i = 1; i < 4; i++) {
        GError *error = NULL;

        co_pause();
        ck_assert_int_eq(block_node_co_resize(node, race->kind->size + i * 9 * 512, &error), 0);
        co_pause();
        ck_assert_int_eq(block_node_co_resize(node, race->kind->size, &error), 0);
        assert_no_error(error);
    }
    worker_done(race);
}

static void run_workers(Race *race)
{
    Worker workers[WORKERS];

    race->running = WORKERS + 2;
    race->done = false;
    for (unsigned i = 0; i < WORKERS; i++) {
        workers[i] = (Worker){ race, i };
        co_start(work, &workers[i]);
    }
    co_start(take_snapshots, race);
    co_start(change_sizes, race);
    loop_wait(&race->done);
}

static void assert_content(Race *race, unsigned seed)
{
    ck_assert_int_eq(test_request(race->user, OP_READ, 0, race->now, race->kind->size, 0), 0);
    if (!memcmp(race->now, race->model, race->kind->size))
        return;
    for (uint64_t i = 0; i < race->kind->size; i++)
        if (race->now[i] != race->model[i])
            ck_abort_msg("seed %u: byte %" PRIu64 " is %02x, not %02x", seed, i,
                         race->now[i], race->model[i]);
}

/* ---- where a race begins ---- */

typedef struct Start {
    const Kind *kind;
    RamCopy file;
    uint8_t *model;
} Start;

/* Compressed clusters, which the first write to each replaces while others read them. */
static void fill(Start *start, BlockUser *user)
{
    uint64_t size = start->kind->cluster;

    for (uint64_t at = 0; at < start->kind->size; at += size) {
        memset(start->model + at, 1 + at / size % 255, size);
        ck_assert_int_eq(test_request(user, OP_WRITE, at, start->model + at, size, BLOCK_COMPRESSED), 0);
    }
}

static Start make_start(const Kind *kind, bool filled)
{
    TestRoot t = test_root();
    g_autofree char *options = g_strdup_printf("driver=qcow2,file=mem,size=%" PRIu64 ",%s",
                                               kind->size, kind->create);
    Start start = { .kind = kind, .model = g_malloc0(kind->size) };
    GError *error = NULL;
    BlockUser *user;

    ram_clear();
    ram_create(&t, options);
    user = ram_open_image(&t, kind->open, &error);
    assert_no_error(error);
    if (filled)
        fill(&start, user);
    qcow2_close_user(&t, user);
    test_root_free(&t);
    start.file = ram_copy(0);
    return start;
}

static void start_free(Start *start)
{
    g_free(start->file.data);
    g_free(start->model);
}

static void race_once(const Start *start, unsigned seed)
{
    const Kind *kind = start->kind;
    TestRoot t = test_root();
    Race race = { .kind = kind, .rand = g_rand_new_with_seed(seed),
                  .model = g_memdup2(start->model, kind->size), .now = g_malloc(kind->size) };
    GError *error = NULL;
    BlockCheck check;

    ram_restore(&start->file);
    race.user = ram_open_image(&t, kind->open, &error);
    assert_no_error(error);
    sched_seed(seed);
    run_workers(&race);
    assert_content(&race, seed);
    check = ram_check(block_user_node(race.user), 0);
    ck_assert_msg(!check.corruptions && !check.leaks && !check.check_errors,
                  "seed %u: %" PRIu64 " corruptions, %" PRIu64 " leaks", seed, check.corruptions,
                  check.leaks);
    qcow2_close_user(&t, race.user);
    race.user = ram_open_image(&t, "", &error);
    assert_content(&race, seed);
    qcow2_close_user(&t, race.user);
    sched_off();                           /* only now: with it no threads are needed to unpack */
    g_free(race.model);
    g_free(race.now);
    g_rand_free(race.rand);
    test_root_free(&t);
}

START_TEST(every_order_keeps_the_data)
{
    Start empty = make_start(&kinds[_i], false), full = make_start(&kinds[_i], true);

    for (unsigned seed = 0; next_seed(&seed, ORDERS);)
        race_once(seed % 4 == 1 ? &full : &empty, seed);
    start_free(&empty);
    start_free(&full);
}
END_TEST

/* The same seed leaves the same file, to the byte; others do not. */
START_TEST(a_seed_is_an_order)
{
    Start start = make_start(&kinds[_i], true);
    RamCopy first, second, other;

    race_once(&start, 1);
    first = ram_copy(0);
    race_once(&start, 2);
    other = ram_copy(0);
    race_once(&start, 1);
    second = ram_copy(0);
    ck_assert_uint_eq(first.size, second.size);
    ck_assert(!memcmp(first.data, second.data, first.size));
    ck_assert(first.size != other.size || memcmp(first.data, other.data, first.size));
    g_free(first.data);
    g_free(second.data);
    g_free(other.data);
    start_free(&start);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, every_order_keeps_the_data, 0, G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, a_seed_is_an_order, 0, G_N_ELEMENTS(kinds));
}

int main(void)
{
    mallopt(M_TRIM_THRESHOLD, 64 << 20);   /* each (un)packing takes much memory and gives it back */
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    return run_tests("qcow2-race", add_tests);
}

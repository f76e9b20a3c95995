/*
 * What goes wrong below an image: a request fails, the disk dies, the power goes.
 *
 * After a power cut any of the sectors that were not flushed may be lost.  What was flushed must be there,
 * and the image needs no repair but of leaks.  After an error the image goes on, or says that it does
 * not; it is never worse than after a power cut.
 */
#include "qcow2-ram.h"

enum { STEPS = 14, WORKERS = 4, LANE = 512, BLOCK = 4 };

static const struct {
    const char *create;
    uint64_t size, cluster;
} kinds[] = {
    { "cluster-size=4096", 128 * KiB, 4096 },
    { "cluster-size=512", 64 * KiB, 4096 },
    { "cluster-size=16384,extended-l2=on", 256 * KiB, 16384 },
    { "cluster-size=1024,refcount-bits=64", 64 * KiB, 4096 },
    { "cluster-size=4096,version=v2", 128 * KiB, 4096 },
};

/* What a sector may hold: what it held at the last flush that succeeded, or anything written to it, or
 * asked for, since. */
typedef struct Sector {
    uint8_t flushed;
    uint8_t since[8];
    uint8_t n;                             /* of `since` */
    bool any;                              /* too many */
} Sector;

typedef struct Power {
    BlockUser *user;
    GRand *rand;
    Sector *sectors;
    uint64_t size, cluster;
    bool failed;                           /* a request has */
    unsigned running;
    bool done;
} Power;

/* Several at once, each with sectors of its own: blocks of clusters in the disk's first half, whole
 * clusters in the second. */
typedef struct Worker {
    Power *power;
    unsigned index;
} Worker;

static bool owns(const Worker *w, uint64_t sector)
{
    const Power *p = w->power;
    uint64_t unit = sector * LANE < p->size / 2 ? BLOCK : p->cluster / LANE;

    return sector / unit % WORKERS == w->index;
}

static void choose(Worker *w, uint64_t *ret_first, uint64_t *ret_n)
{
    Power *p = w->power;
    uint64_t sectors = p->size / LANE, wanted = g_rand_int_range(p->rand, 1, 40);

    do
        *ret_first = g_rand_int_range(p->rand, 0, sectors);
    while (!owns(w, *ret_first));
    for (*ret_n = 1; *ret_n < wanted && *ret_first + *ret_n < sectors; ++*ret_n)
        if (!owns(w, *ret_first + *ret_n))
            break;
}

static void may_be(Power *p, uint64_t offset, uint64_t bytes, uint8_t value)
{
    for (uint64_t i = offset / LANE; i * LANE < offset + bytes; i++) {
        Sector *sector = &p->sectors[i];

        if (sector->n == G_N_ELEMENTS(sector->since))
            sector->any = true;
        else
            sector->since[sector->n++] = value;
    }
}

/* All that the worker asked for has happened, the last of it in each sector. */
static void flushed(Worker *w)
{
    Power *p = w->power;

    for (uint64_t i = 0; i < p->size / LANE; i++) {
        Sector *sector = &p->sectors[i];

        if (!owns(w, i))
            continue;
        if (sector->n && !sector->any)
            sector->flushed = sector->since[sector->n - 1];
        if (!sector->any)
            sector->n = 0;
    }
}

static void co_fn step(Worker *w)
{
    Power *p = w->power;
    uint64_t first, n, offset, bytes;
    int what = g_rand_int_range(p->rand, 0, 12), ret = 0;
    uint8_t value = what < 7 ? g_rand_int_range(p->rand, 1, 256) : 0;
    g_autofree uint8_t *buffer = NULL;
    struct iovec iov;

    choose(w, &first, &n);
    offset = first * LANE;
    bytes = n * LANE;
    buffer = g_malloc(bytes);
    iov = (struct iovec){ buffer, bytes };
    memset(buffer, value, bytes);
    if (what < 10)
        may_be(p, offset, bytes, value);
    if (what < 7)
        ret = block_co_write(p->user, offset, &iov, 1, bytes, 0);
    else if (what < 9)
        ret = block_co_zero(p->user, offset, bytes, what == 8 ? BLOCK_MAY_UNMAP : 0);
    else if (what == 9) {
        /* Parts of clusters keep what they had: one of several things. */
        for (uint64_t i = first; i < first + n; i++)
            p->sectors[i].any = true;
        ret = block_co_discard(p->user, offset, bytes);
    } else {
        ret = block_co_flush(p->user);
        if (ret == 0 && !p->failed)
            flushed(w);
    }
    if (ret < 0)
        p->failed = true;
}

static void co_fn steps(void *opaque)
{
    Worker *w = opaque;

    for (int i = 0; i < STEPS; i++)
        step(w);
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

static void assert_sectors(Power *p, uint64_t seed)
{
    g_autofree uint8_t *data = g_malloc(p->size);

    ck_assert_int_eq(test_request(p->user, OP_READ, 0, data, p->size, 0), 0);
    for (uint64_t i = 0; i < p->size / LANE; i++) {
        const Sector *sector = &p->sectors[i];

        for (unsigned j = 0; !sector->any && j < LANE; j++) {
            uint8_t value = data[i * LANE + j];

            if (value != sector->flushed && !memchr(sector->since, value, sector->n))
                ck_abort_msg("seed %" PRIu64 ": sector %" PRIu64 " has %02x; flushed was %02x", seed,
                             i, value, sector->flushed);
        }
    }
}

static void power_init(Power *p, TestRoot *t, unsigned kind, uint64_t seed)
{
    g_autofree char *options = g_strdup_printf("driver=qcow2,file=mem,size=%" PRIu64 ",%s",
                                               kinds[kind].size, kinds[kind].create);

    *p = (Power){ .rand = g_rand_new_with_seed(seed), .size = kinds[kind].size,
                   .cluster = kinds[kind].cluster };
    p->sectors = g_new0(Sector, p->size / LANE);
    ram_clear();
    ram_create(t, options);
    memcpy(ram.stable, ram.data, ram.size);
    ram.stable_size = ram.size;
    memset(ram.volatile_sectors, 0, sizeof(ram.volatile_sectors));
}

static void power_free(Power *p)
{
    g_rand_free(p->rand);
    g_free(p->sectors);
}

/* After a crash: no corruption, leaks mended, everything that was promised is there. */
static void assert_sound(Power *p, TestRoot *t, uint64_t seed)
{
    GError *error = NULL;
    BlockCheck check;

    p->user = ram_open_image(t, "", &error);
    assert_no_error(error);
    check = ram_check(block_user_node(p->user), BLOCK_FIX_LEAKS);
    ck_assert_msg(!check.corruptions && !check.leaks && !check.check_errors,
                  "seed %" PRIu64 ": %" PRIu64 " corruptions, %" PRIu64 " leaks", seed,
                  check.corruptions, check.leaks);
    assert_sectors(p, seed);
    /* Sectors of which any content is allowed now have one that stays. */
    ck_assert_int_eq(test_request(p->user, OP_FLUSH, 0, NULL, 0, 0), 0);
    qcow2_close_user(t, p->user);
}

START_TEST(a_power_cut_costs_nothing_that_was_flushed)
{
    unsigned n = test_seeds(300);

    for (uint64_t seed = 1; seed <= n; seed++) {
        TestRoot t = test_root();
        GError *error = NULL;
        Power p;

        power_init(&p, &t, _i, seed);
        p.user = ram_open_image(&t, "", &error);
        assert_no_error(error);
        ram.requests = 0;
        ram.fail_at = g_rand_int_range(p.rand, 1, 250);
        ram.fail_with = EIO;
        ram.dead = true;
        run_steps(&p, seed);
        qcow2_close_user(&t, p.user);
        ram_power_cut(p.rand);
        assert_sound(&p, &t, seed);
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
        GError *error = NULL;
        Power p;

        power_init(&p, &t, _i, 7);
        ram.requests = 0;
        ram.fail_at = at;
        ram.fail_with = errors[at % 2];
        p.user = ram_open_image(&t, "", &error);
        if (p.user) {
            run_steps(&p, 7);
            qcow2_close_user(&t, p.user);
        } else {
            ck_assert(error && *error->message);
            g_clear_error(&error);
        }
        fired = ram.requests >= at;
        ram.fail_at = 0;
        assert_sound(&p, &t, at);
        power_free(&p);
        test_root_free(&t);
    }
    ck_assert_uint_gt(at, 30);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qcow2-power");
    TCase *tc = tcase_create("power");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, a_power_cut_costs_nothing_that_was_flushed, 0, G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, any_single_error_is_survived, 0, G_N_ELEMENTS(kinds));
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}

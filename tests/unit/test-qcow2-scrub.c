/*
 * Scrub: it finds what a check finds; while a guest writes it finds what was planted and nothing
 * else; its plan mends an image in use; a plan for another state of the image is refused.
 */
#include "qcow2-ram.h"
#include "block-guest.h"
#include "block/jobs/scrub.h"

typedef struct Kind {
    const char *create;
    uint64_t size;
    bool snapshot;
} Kind;

static const Kind kinds[] = {
    { "cluster-size=4096", 512 * KiB, false },
    { "cluster-size=4096", 512 * KiB, true },
    { "cluster-size=512", 256 * KiB, true },
    { "cluster-size=16384,extended-l2=on", 1 * MiB, true },
    { "cluster-size=65536", 4 * MiB, true },
};

/* Running one. */

typedef struct Run {
    BlockNode *node;
    BlockScrub scrub;
    int ret, pauses;
    bool done;
    GError *error;
    void co_fn (*meanwhile)(struct Run *run);   /* once, after some steps */
} Run;

static bool co_fn pace(BlockScrub *scrub, uint64_t bytes)
{
    Run *run = scrub->opaque;

    for (unsigned n = sched_choose(4) * 3; n; n--)
        co_pause();
    if (run->meanwhile && !--run->pauses) {
        run->meanwhile(run);
        run->meanwhile = NULL;
    }
    return true;
}

static void co_fn run_co(void *opaque)
{
    Run *run = opaque;

    run->ret = block_co_scrub(run->node, &run->scrub, &run->error);
    run->done = true;
}

/* @plan: taken over; NULL: check only. */
static BlockScrub *scrub(Run *run, BlockNode *node, json_object *plan)
{
    run->node = node;
    run->done = false;
    block_scrub_clear(&run->scrub);
    run->scrub = (BlockScrub){ .pace = pace, .opaque = run, .apply = plan };
    co_start(run_co, run);
    loop_wait(&run->done);
    assert_no_error(run->error);
    ck_assert_int_eq(run->ret, 0);
    return &run->scrub;
}

static json_object *plan_of(const BlockScrub *s)
{
    json_object *copy = NULL;

    json_object_deep_copy(s->plan, &copy, NULL);
    return copy;
}

static json_object *acts_of(json_object *plan)
{
    return json_object_object_get(plan, "acts");
}

static uint64_t member(json_object *act, const char *key)
{
    return json_object_get_uint64(json_object_object_get(act, key));
}

/* An act for a cluster, if there is one of that kind. */
static json_object *act_for(json_object *plan, const char *kind, uint64_t cluster)
{
    json_object *acts = acts_of(plan);

    for (size_t i = 0; i < json_object_array_length(acts); i++) {
        json_object *act = json_object_array_get_idx(acts, i);

        if (member(act, "cluster") == cluster &&
            !strcmp(json_object_get_string(json_object_object_get(act, "kind")), kind))
            return act;
    }
    return NULL;
}

/* Damage, on the disk in memory of a closed image; refcounts have 16 bits. */

static uint8_t *count_of(uint64_t cluster, uint64_t size)
{
    uint64_t block = ld_be64(ram.disks[0].data + ld_be64(ram.disks[0].data + 48) + cluster / (size / 2) * 8);

    return block ? ram.disks[0].data + block + cluster % (size / 2) * 2 : NULL;
}

static uint64_t cluster_bytes(void)
{
    return 1ull << ld_be32(ram.disks[0].data + 20);
}

/* A cluster whose count is @value, at random; its count becomes @to. */
static uint64_t plant(GRand *rand, unsigned value, unsigned to)
{
    uint64_t size = cluster_bytes(), n = ram.disks[0].size / size, cluster;
    uint8_t *count;

    do {
        cluster = g_rand_int_range(rand, 1, n);
        count = count_of(cluster, size);
    } while (!count || ld_be16(count) != value);
    st_be16(count, to);
    return cluster * size;
}

/* Clears the flag of the first entry that has one; the host cluster. */
static uint64_t plant_flag(void)
{
    uint64_t table = ld_be64(ram.disks[0].data + ld_be64(ram.disks[0].data + 40)) & 0x00fffffffffffe00ull;
    uint64_t extended = ld_be64(ram.disks[0].data + 72) >> 4 & 1, step = extended ? 16 : 8;

    for (uint64_t at = table; table && at < table + cluster_bytes(); at += step) {
        uint64_t entry = ld_be64(ram.disks[0].data + at);

        if (!(entry >> 63) || entry >> 62 & 1 || !(entry & 0x00fffffffffffe00ull))
            continue;
        st_be64(ram.disks[0].data + at, entry & ~(1ull << 63));
        return entry & 0x00fffffffffffe00ull;
    }
    return 0;
}

/* An image with data. */

static void co_fn snapshot_co(void *opaque)
{
    BlockSnapshot snapshot = { .name = (char *)"s", .icount = UINT64_MAX };
    GError *error = NULL;

    ck_assert_int_eq(block_co_snapshot_create(opaque, &snapshot, &error), 0);
    assert_no_error(error);
    g_free(snapshot.id);
}

static BlockNode *open_node(TestRoot *t)
{
    GError *error = NULL;
    BlockNode *node = test_open(t->graph, &error, "driver=qcow2,node-name=disk,discard=unmap,"
                                "pass-discard-other=on,file.driver=ram");

    assert_no_error(error);
    return node;
}

static void close_node(TestRoot *t)
{
    GError *error = NULL;

    block_node_delete(t->graph, "disk", &error);
    assert_no_error(error);
}

/* The guest's model goes on with the next one that opens the image. */
static Guest *reopen(TestRoot *t, Guest *g, unsigned seed)
{
    g_autofree uint8_t *disk = g_memdup2(g->disk, g->size);

    guest_free(g);
    close_node(t);
    g = guest_new(open_node(t), seed);
    memcpy(g->disk, disk, g->size);
    return g;
}

static Guest *make_image(TestRoot *t, const Kind *kind, unsigned seed)
{
    g_autofree char *options = g_strdup_printf("driver=qcow2,file=mem,size=%" PRIu64 ",%s",
                                               kind->size, kind->create);
    BlockNode *node;
    Guest *g;

    ram_clear();
    ram_create(t, options);
    node = open_node(t);
    g = guest_new(node, seed);
    guest_fill(g, 0, kind->size / 2, 7);
    if (kind->snapshot)
        co_run_sync(snapshot_co, node);
    guest_start(g);
    guest_writes(g, 40);
    guest_stop(g);
    return g;
}

static void assert_clean(BlockNode *node, unsigned seed)
{
    BlockCheck check = ram_check(node, 0);

    ck_assert_msg(!check.corruptions && !check.leaks && !check.check_errors,
                  "seed %u: %" PRIu64 " corruptions, %" PRIu64 " leaks", seed, check.corruptions,
                  check.leaks);
}

/* Nobody else: what a check finds; the plan mends all. */
START_TEST(it_finds_what_a_check_finds)
{
    TestRoot t = test_root();
    GRand *rand = g_rand_new_with_seed(_i);
    Guest *g = make_image(&t, &kinds[_i], _i);
    Run run = { 0 };
    BlockScrub *s = scrub(&run, block_user_node(g->user), NULL);
    BlockCheck check;
    uint64_t low;

    ck_assert_uint_eq(s->leaked + s->errors + s->unreadable + s->changing, 0);
    ck_assert_uint_gt(s->live, 0);
    ck_assert_uint_eq(json_object_array_length(s->findings), 0);
    /* Closed, so that what is changed below it is what is read. */
    g = reopen(&t, g, _i);
    guest_free(g);
    close_node(&t);
    plant(rand, 1, 3);
    low = plant(rand, 1, 0);
    plant_flag();
    g = guest_new(open_node(&t), _i);
    check = ram_check(block_user_node(g->user), 0);
    s = scrub(&run, block_user_node(g->user), NULL);
    ck_assert_uint_eq(s->leaked, check.leaks);
    /* A check also counts the flags that are right when the counts are mended. */
    ck_assert_uint_ge(s->errors, 2);
    ck_assert_uint_le(s->errors, check.corruptions);
    ck_assert_ptr_nonnull(act_for(s->plan, "refcount", low));
    ck_assert_uint_eq(s->changing, 0);
    s = scrub(&run, block_user_node(g->user), plan_of(s));
    ck_assert_uint_eq(s->refused, 0);
    ck_assert_uint_eq(s->applied, json_object_array_length(acts_of(s->plan)));
    assert_clean(block_user_node(g->user), _i);
    block_scrub_clear(&run.scrub);
    guest_free(g);
    close_node(&t);
    g_rand_free(rand);
    test_root_free(&t);
}
END_TEST

/* What was planted is found, and nothing else; the guest's data is what it wrote. */
static void under_a_guest_once(const Kind *kind, unsigned seed)
{
    TestRoot t = test_root();
    GRand *rand = g_rand_new_with_seed(seed);
    Guest *g = make_image(&t, kind, seed);
    g_autofree uint8_t *disk = g_memdup2(g->disk, g->size);
    uint64_t leaks[3], high, flag;
    json_object *acts, *plan;
    Run run = { 0 };
    BlockScrub *s;

    guest_free(g);
    close_node(&t);
    /* The file's end has room for what is planted. */
    ram.disks[0].size += 8 * cluster_bytes();
    for (unsigned i = 0; i < G_N_ELEMENTS(leaks); i++)
        leaks[i] = plant(rand, 0, 1);
    high = plant(rand, 1, 2);
    flag = plant_flag();
    g = guest_new(open_node(&t), seed);
    memcpy(g->disk, disk, g->size);
    guest_start(g);
    guest_writes(g, 5);
    s = scrub(&run, block_user_node(g->user), NULL);
    plan = plan_of(s);
    for (unsigned i = 0; i < G_N_ELEMENTS(leaks); i++)
        ck_assert_msg(act_for(plan, "leak", leaks[i]), "seed %u: leak %u was not found", seed, i);
    acts = acts_of(plan);
    for (size_t i = 0; i < json_object_array_length(acts); i++) {
        json_object *act = json_object_array_get_idx(acts, i);
        uint64_t at = member(act, "cluster");

        ck_assert_msg(at == leaks[0] || at == leaks[1] || at == leaks[2] || at == high ||
                          at == flag,
                      "seed %u: %s", seed, json_object_to_json_string(act));
    }
    s = scrub(&run, block_user_node(g->user), plan);
    ck_assert_uint_ge(s->applied, G_N_ELEMENTS(leaks));
    guest_stop(g);
    ck_assert_uint_eq(test_request(g->user, OP_FLUSH, 0, NULL, 0, 0), 0);
    /* What the guest was just writing to is left for another one. */
    s = scrub(&run, block_user_node(g->user), NULL);
    scrub(&run, block_user_node(g->user), plan_of(s));
    assert_clean(block_user_node(g->user), seed);
    check_disk(block_user_node(g->user), g->disk, "the disk");
    block_scrub_clear(&run.scrub);
    g = reopen(&t, g, seed);
    assert_clean(block_user_node(g->user), seed);
    check_disk(block_user_node(g->user), g->disk, "the disk");
    guest_free(g);
    close_node(&t);
    g_rand_free(rand);
    test_root_free(&t);
}

START_TEST(under_a_guest)
{
    for (unsigned seed = 0; next_seed(&seed, 12);) {
        sched_seed(seed);
        under_a_guest_once(&kinds[_i], seed);
        sched_off();
    }
}
END_TEST

/* A snapshot is taken while it looks: it begins anew, and finds nothing wrong. */
static void co_fn take_snapshot(Run *run)
{
    snapshot_co(run->node);
}

START_TEST(a_snapshot_meanwhile)
{
    for (unsigned seed = 1; seed <= 8; seed++) {
        TestRoot t = test_root();
        Guest *g;
        Run run = { .meanwhile = take_snapshot, .pauses = seed };
        BlockScrub *s;

        sched_seed(seed);
        g = make_image(&t, &kinds[_i], seed);
        guest_start(g);
        s = scrub(&run, block_user_node(g->user), NULL);
        ck_assert_msg(s->leaked + s->errors == 0, "seed %u: %s", seed,
                      json_object_to_json_string(s->findings));
        guest_stop(g);
        block_scrub_clear(&run.scrub);
        guest_free(g);
        close_node(&t);
        test_root_free(&t);
        sched_off();
    }
}
END_TEST

/* A leak that has become somebody's cluster is not given back. */
START_TEST(a_plan_that_does_not_fit_is_refused)
{
    TestRoot t = test_root();
    GRand *rand = g_rand_new_with_seed(3);
    Guest *g = make_image(&t, &kinds[1], 3);
    g_autofree uint8_t *disk = g_memdup2(g->disk, g->size);
    json_object *plan, *wrong;
    Run run = { 0 };
    BlockScrub *s;

    guest_free(g);
    close_node(&t);
    ram.disks[0].size += 8 * cluster_bytes();
    plant(rand, 0, 1);
    g = guest_new(open_node(&t), 3);
    memcpy(g->disk, disk, g->size);
    plan = plan_of(scrub(&run, block_user_node(g->user), NULL));
    wrong = NULL;
    json_object_deep_copy(plan, &wrong, NULL);
    json_object_object_add(json_object_array_get_idx(acts_of(wrong), 0), "refcount-from",
                           json_object_new_int(7));
    s = scrub(&run, block_user_node(g->user), wrong);
    ck_assert_uint_eq(s->applied, 0);
    ck_assert_uint_eq(s->refused, 1);
    ck_assert_uint_eq(s->leaked, 1);
    s = scrub(&run, block_user_node(g->user), json_object_get(plan));
    ck_assert_uint_eq(s->applied, 1);
    /* The same once more: it has been done. */
    s = scrub(&run, block_user_node(g->user), plan);
    ck_assert_uint_eq(s->applied, 0);
    ck_assert_uint_eq(s->refused, 1);
    assert_clean(block_user_node(g->user), 0);
    check_disk(block_user_node(g->user), g->disk, "the disk");
    block_scrub_clear(&run.scrub);
    guest_free(g);
    close_node(&t);
    g_rand_free(rand);
    test_root_free(&t);
}
END_TEST

/* Entries and tables that are wrong are told by table and index. */
START_TEST(wrong_entries_are_told_with_their_place)
{
    TestRoot t = test_root();
    Guest *g = make_image(&t, &kinds[0], 5);
    uint64_t table;
    json_object *finding;
    Run run = { 0 };
    BlockScrub *s;

    guest_free(g);
    close_node(&t);
    table = ld_be64(ram.disks[0].data + ld_be64(ram.disks[0].data + 40)) & 0x00fffffffffffe00ull;
    st_be64(ram.disks[0].data + table + 8 * 3, 1ull << 63 | (table + 512));
    g = guest_new(open_node(&t), 5);
    s = scrub(&run, block_user_node(g->user), NULL);
    ck_assert_uint_ge(s->errors, 1);
    finding = json_object_array_get_idx(s->findings, 0);
    ck_assert_uint_eq(member(finding, "table"), table);
    ck_assert_uint_eq(member(finding, "index"), 3);
    block_scrub_clear(&run.scrub);
    guest_free(g);
    close_node(&t);
    test_root_free(&t);
}
END_TEST

/* The job: speed, pause, cancel, its result and its event. */
START_TEST(the_job)
{
    TestRoot t = test_root();
    Guest *g = make_image(&t, &kinds[2], 9);
    g_autoptr(json_object) options =
        options_parse("device=disk,job-id=s,speed=2048", "driver", NULL);
    g_autoptr(json_object) result = NULL;
    GError *error = NULL;
    BlockJob *job;
    Events e;

    events_on(&e, &t);
    guest_start(g);
    ck_assert(block_scrub(t.graph, options, &error));
    assert_no_error(error);
    job = block_job_find(t.graph, "s");
    ck_assert(!block_scrub(t.graph, options, &error));
    assert_error(&error, "already in use");
    ck_assert(block_job_pause(job, &error));
    wait_event(&e, "JOB_STATUS_CHANGE s paused");
    guest_writes(g, 20);                   /* it keeps nobody waiting */
    ck_assert(block_job_resume(job, &error));
    ck_assert(block_job_set_speed(job, 0, &error));
    wait_event(&e, "JOB_STATUS_CHANGE s concluded");
    ck_assert(seen(&e, "BLOCK_SCRUB_COMPLETED s "));
    ck_assert(seen(&e, "BLOCK_JOB_COMPLETED s "));
    result = block_scrub_result(t.graph, "s", &error);
    ck_assert_uint_gt(member(result, "live"), 10);
    ck_assert_uint_eq(member(result, "leaked") + member(result, "errors"), 0);
    ck_assert(block_job_dismiss(job, &error));
    ck_assert(block_scrub(t.graph, options, &error));
    ck_assert(block_job_cancel(block_job_find(t.graph, "s"), true, &error));
    wait_event(&e, "BLOCK_JOB_CANCELLED s ");
    guest_stop(g);
    ck_assert(block_job_dismiss(block_job_find(t.graph, "s"), &error));
    check_disk(block_user_node(g->user), g->disk, "the disk");
    events_off(&e);
    guest_free(g);
    close_node(&t);
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, it_finds_what_a_check_finds, 0, G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, under_a_guest, 0, G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, a_snapshot_meanwhile, 0, G_N_ELEMENTS(kinds));
    tcase_add_test(tc, a_plan_that_does_not_fit_is_refused);
    tcase_add_test(tc, wrong_entries_are_told_with_their_place);
    tcase_add_test(tc, the_job);
}

int main(void)
{
    return run_block_tests("qcow2-scrub", add_tests);
}

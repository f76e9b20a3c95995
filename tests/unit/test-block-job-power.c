/*
 * Power cuts while a chain of images becomes shorter.  Whatever backing file the header of the top image
 * names after one, the chain that it names shows what it showed before: the name changes only when all
 * that it stands for is stable elsewhere.
 */
#include "qcow2-ram.h"
#include "block/jobs/backing.h"
#include "tests/unit/ram-cut.h"

enum { BYTES = 256 << 10, CLUSTER = 4096, QUIET = BYTES / CLUSTER * 3 / 4, CUTS = 24 };
enum { BASE, MIDDLE, TOP, IMAGES };

static const char *const names[] = { "base", "middle", "top" };

/* Each image has every so many-th cluster. */
static const unsigned every[] = { 1, 3, 5 };

static uint8_t shown(unsigned cluster)
{
    return cluster % every[TOP] == 0 ? 3 : cluster % every[MIDDLE] == 0 ? 2 : 1;
}

static void write_cluster(BlockUser *user, unsigned cluster, uint8_t value)
{
    uint8_t data[CLUSTER];

    memset(data, value, sizeof(data));
    ck_assert_int_eq(test_request(user, OP_WRITE, cluster * CLUSTER, data, CLUSTER, 0), 0);
}

/* @backing NULL: none. */
static BlockNode *open_image(TestRoot *t, unsigned image, const char *backing, bool read_only)
{
    g_autofree char *quoted = backing ? g_strdup_printf("\"%s\"", backing) : g_strdup("null");
    GError *error = NULL;
    BlockNode *node = test_open(t->graph, &error, "{\"driver\": \"qcow2\", \"node-name\": \"%s\", "
                                "\"read-only\": %s, \"backing\": %s, \"file\": {\"driver\": \"ram\", "
                                "\"disk\": %u}}", names[image], read_only ? "true" : "false", quoted,
                                image);

    assert_no_error(error);
    return node;
}

static void make_image(TestRoot *t, unsigned image)
{
    g_autofree char *backing = image == BASE ? g_strdup("")
                                             : g_strdup_printf(",backing-file=%s,backing-fmt=qcow2",
                                                               names[image - 1]);
    g_autofree char *options = g_strdup_printf("driver=qcow2,file=mem,size=%u,cluster-size=%u%s", BYTES,
                                               CLUSTER, backing);
    GError *error = NULL;
    BlockUser *user;

    ram_create_on(t, image, options);
    user = test_user(open_image(t, image, NULL, false));
    for (unsigned i = 0; i < BYTES / CLUSTER; i += every[image])
        write_cluster(user, i, image + 1);
    block_user_free(user);
    block_node_delete(t->graph, names[image], &error);
    assert_no_error(error);
}

/* ---- the job, under a guest that writes to the last quarter of the disk ---- */

typedef struct Writer {
    BlockUser *user;
    GRand *rand;
    bool stop, ended;
} Writer;

static void co_fn writer_run(void *opaque)
{
    static uint8_t data[CLUSTER];
    Writer *w = opaque;
    struct iovec iov = { data, 512 };

    while (!w->stop) {
        uint64_t at = g_rand_int_range(w->rand, QUIET * CLUSTER / 512, BYTES / 512);

        ck_assert_int_eq(block_co_write(w->user, at * 512, &iov, 1, 512, 0), 0);
        if (g_rand_int(w->rand) % 8 == 0)
            ck_assert_int_eq(block_co_flush(w->user), 0);
    }
    w->ended = true;
}

typedef bool StartFn(BlockGraph *graph, json_object *data, GError **error);
static const struct {
    StartFn *start;
    const char *arguments;
} jobs[] = {
    { block_stream, "job-id=j,device=top" },
    { block_stream, "job-id=j,device=top,base-node=base,backing-file=base" },
    { block_commit, "job-id=j,device=top,top-node=middle,base-node=base,backing-file=base" },
};

static void work(unsigned seed, unsigned job)
{
    TestRoot t = test_root();
    g_autoptr(json_object) data = options_parse(jobs[job].arguments, NULL, NULL);
    GError *error = NULL;
    Writer w = { .rand = g_rand_new_with_seed(seed) };

    open_image(&t, BASE, NULL, false);
    open_image(&t, MIDDLE, "base", true);
    w.user = test_user(open_image(&t, TOP, "middle", false));
    sched_seed(seed);
    co_start(writer_run, &w);
    ck_assert(jobs[job].start(t.graph, data, &error));
    while (block_job_find(t.graph, "j"))
        loop_iterate(loop_main(), true);
    w.stop = true;
    loop_wait(&w.ended);
    sched_off();
    block_user_free(w.user);
    g_rand_free(w.rand);
    test_root_free(&t);
}

/* ---- after a cut ---- */

static const char *backing_of(TestRoot *t)
{
    g_autoptr(json_object) info = block_node_image_info(open_image(t, TOP, NULL, true), NULL);
    json_object *name;
    GError *error = NULL;

    block_node_delete(t->graph, "top", &error);
    assert_no_error(error);
    if (!json_object_object_get_ex(info, "backing-filename", &name))
        return NULL;
    return g_intern_string(json_object_get_string(name));
}

static bool assert_shown(unsigned seed, unsigned at)
{
    TestRoot t = test_root();
    const char *backing;
    g_autofree uint8_t *data = g_malloc(BYTES);
    BlockUser *user;

    open_image(&t, BASE, NULL, true);
    open_image(&t, MIDDLE, "base", true);
    backing = backing_of(&t);
    user = block_user_new(open_image(&t, TOP, backing, true), "test", BLOCK_PERM_READ, BLOCK_PERM_ALL,
                          NULL);
    ck_assert_int_eq(test_request(user, OP_READ, 0, data, BYTES, 0), 0);
    for (unsigned i = 0; i < QUIET; i++)
        if (!all_bytes(data + i * CLUSTER, CLUSTER, shown(i)))
            ck_abort_msg("seed %u, entry %u: with the backing file '%s' cluster %u has %02x", seed, at,
                         backing ? backing : "", i, data[i * CLUSTER]);
    block_user_free(user);
    test_root_free(&t);
    return g_strcmp0(backing, "middle") != 0;
}

/* At random, and at each step of the end: from the first header write of the job on. */
static void cut_often(RamReplay *replay, unsigned seed)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    unsigned length = ram.log->len, changed = 0, header = 0;
    const RamEntry *entry;

    while ((entry = ram_replay_step(replay))) {
        header += entry->what == RAM_WRITTEN && entry->disk == TOP && entry->offset == 0;
        if (g_rand_int_range(rand, 0, length) >= CUTS && !(header && length - replay->at < CUTS))
            continue;
        ram_replay_cut(replay, rand);
        ram_log_pause();
        changed += assert_shown(seed, replay->at);
        ram_log_resume();
    }
    ck_assert_uint_gt(changed, 0);
}

START_TEST(a_chain_is_whole_after_a_cut)
{
    for (unsigned seed = 0; next_seed(&seed, 6);) {
        TestRoot t = test_root();
        RamReplay *replay;

        ram_clear();
        for (unsigned i = 0; i < IMAGES; i++)
            make_image(&t, i);
        test_root_free(&t);
        ram_log_start();
        replay = ram_replay_new();
        work(seed, _i);
        cut_often(replay, seed);
        ram_replay_free(replay);
        ram_log_stop();
    }
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, a_chain_is_whole_after_a_cut, 0, G_N_ELEMENTS(jobs));
}

int main(void)
{
    return run_tests("block-job-power", add_tests);
}

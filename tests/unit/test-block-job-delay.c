/*
 * How long a job keeps a guest's request waiting: no longer than one request of its own takes.
 *
 * Time is counted in ticks, by hand: each request of a disk takes UNIT of them, however many there are
 * at once, and a tick passes when nobody has anything left to do.  What a guest's request needs for
 * itself is the time that disks spend on requests of its own coroutine; that includes the copy that
 * copy-before-write makes of what the request is about to change.  The rest it has waited for
 * somebody.  The guest's own requests do not meet: each has a cluster for itself.
 *
 * Where the graph changes, at a job's start and end, requests wait until those that are under way are
 * over: for the longest of the guest's own.
 */
#include "block-guest.h"
#include "block/bitmap.h"
#include "block/jobs/backing.h"
#include "block/jobs/mirror.h"
#include "block/jobs/scrub.h"
#include "tests/unit/qcow2-ram.h"

enum { UNIT = 8, DEPTH = 8, CLUSTER = 65536, BLOCK = 4096, CHUNK = 1 << 20, TICKS_MAX = 20000,
       IMAGE_BYTES = 12 << 20, DISK_BYTES = 48 << 20, CLUSTERS_MAX = DISK_BYTES / CLUSTER };

/* ---- time ---- */

typedef struct Request {
    TestRequest r;
    struct Load *load;
    Coroutine *co;
    unsigned begun, own;                   /* ticks */
    bool met_change;                       /* of the graph, at the job's start or end */
} Request;

typedef struct Wait {
    Coroutine *co;
    unsigned due;
} Wait;

static struct {
    bool on;
    unsigned now;
    GPtrArray *waits;                      /* of Wait */
    GPtrArray *requests;                   /* of Request: the guest's */
    uint64_t largest;                      /* bytes in one request of somebody else */
    unsigned others, most_others;          /* such requests at once */
} ticks;

static Request *own_request(void)
{
    for (unsigned i = 0; i < ticks.requests->len; i++) {
        Request *request = ticks.requests->pdata[i];

        if (request->co == co_self())
            return request;
    }
    return NULL;
}

static void co_fn take_time(uint64_t bytes)
{
    Request *request = ticks.on ? own_request() : NULL;
    Wait wait = { co_self(), ticks.now + UNIT };

    if (!ticks.on)
        return;
    if (request)
        request->own += UNIT;
    else
        ticks.largest = MAX(ticks.largest, bytes);
    ticks.others += !request;
    ticks.most_others = MAX(ticks.most_others, ticks.others);
    g_ptr_array_add(ticks.waits, &wait);
    while (ticks.now < wait.due)
        co_yield();
    g_ptr_array_remove(ticks.waits, &wait);
    ticks.others -= !request;
}

static void settle(void)
{
    while (loop_iterate(loop_main(), false))
        ;
}

static void tick(void)
{
    settle();
    ticks.now++;
    ck_assert_uint_lt(ticks.now, TICKS_MAX);
    for (unsigned i = 0; i < ticks.waits->len; i++) {
        Wait *wait = ticks.waits->pdata[i];

        if (wait->due == ticks.now)
            co_wake(wait->co);
    }
    settle();
}

/* ---- the driver `tick`: a filter whose file is as slow as that ---- */

typedef struct Tick {
    uint64_t stripe;                       /* 0: all data; else data and zeroes in turn */
} Tick;

static bool co_fn tick_open(BlockNode *node, json_object *options, GError **error)
{
    Tick *t = block_node_state(node);

    if (!options_get_size(options, "stripe", &t->stripe, error))
        return false;
    json_object_object_del(options, "stripe");
    return block_node_open_child(node, options, "file", true, error) != NULL;
}

static int co_fn tick_read(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                           uint64_t bytes)
{
    take_time(bytes);
    return block_node_co_read(block_node_file(node), offset, iov, iovcnt, bytes);
}

static int co_fn tick_write(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                            uint64_t bytes, unsigned flags)
{
    take_time(bytes);
    return block_node_co_write(block_node_file(node), offset, iov, iovcnt, bytes, flags);
}

static int co_fn tick_zero(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    take_time(bytes);
    return block_node_co_zero(block_node_file(node), offset, bytes, flags);
}

static int co_fn tick_discard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    take_time(bytes);
    return block_node_co_discard(block_node_file(node), offset, bytes);
}

static int co_fn tick_flush(BlockNode *node)
{
    take_time(0);
    return block_node_co_flush(block_node_file(node));
}

static int co_fn tick_map(BlockNode *node, uint64_t offset, uint64_t bytes, BlockMap *map)
{
    Tick *t = block_node_state(node);
    int ret = block_node_co_map(block_node_file(node), offset, bytes, map);

    if (ret == 0 && t->stripe) {
        map->bytes = MIN(map->bytes, t->stripe - offset % t->stripe);
        map->flags = BLOCK_MAP_ALLOCATED |
                     (offset / t->stripe % 2 ? BLOCK_MAP_ZERO : BLOCK_MAP_DATA);
    }
    return ret;
}

static const char *const tick_options[] = { "file", "stripe", NULL };
static const BlockDriver tick_driver = {
    .name = "tick", .help = "a disk of a test", .size = sizeof(Tick), .options = tick_options,
    .is_filter = true, .grows = true, .write_flags = BLOCK_FUA,
    .open = tick_open, .co_read = tick_read, .co_write = tick_write, .co_zero = tick_zero,
    .co_discard = tick_discard, .co_flush = tick_flush, .co_map = tick_map,
};
BLOCK_DRIVER(tick_driver)

/* ---- the guest ---- */

typedef struct Load {
    TestRoot t;
    BlockUser *user;
    GRand *random;
    bool flushes;
    bool owned[CLUSTERS_MAX];
    unsigned made;
    unsigned worst[2][OP_FLUSH + 1];       /* ticks that one has waited; [met_change] */
    unsigned longest;                      /* ticks that one took for itself */
} Load;

static void co_fn request_run(void *opaque)
{
    Request *request = opaque;
    Load *load = request->load;
    unsigned waited, *worst;
    int ret;

    request->co = co_self();
    request->begun = ticks.now;
    g_ptr_array_add(ticks.requests, request);
    ret = test_request_co(&request->r);
    waited = ticks.now - request->begun - request->own;
    load->longest = MAX(load->longest, request->own);
    worst = &load->worst[request->met_change][request->r.op];
    *worst = MAX(*worst, waited);
    g_ptr_array_remove(ticks.requests, request);
    load->owned[request->r.offset / CLUSTER] = false;
    g_free((void *)request->r.iov);
    g_free(request);
    if (ret < 0)
        ck_abort_msg("a request fails: %s", g_strerror(-ret));
}

static void request_start(Load *load)
{
    static const TestOp ops[] = { OP_READ, OP_READ, OP_READ, OP_WRITE, OP_WRITE, OP_WRITE, OP_ZERO,
                                  OP_FLUSH };
    static uint8_t data[CLUSTER];
    uint64_t cluster = g_rand_int_range(load->random, 0, block_node_size(block_user_node(load->user)) / CLUSTER);
    Request *request;
    struct iovec *iov;
    TestOp op = ops[g_rand_int_range(load->random, 0, G_N_ELEMENTS(ops))];

    if (load->owned[cluster] || (op == OP_FLUSH && !load->flushes))
        return;
    request = g_new0(Request, 1);
    iov = g_new(struct iovec, 1);
    *iov = (struct iovec){ data, g_rand_boolean(load->random) ? BLOCK : CLUSTER };
    request->load = load;
    request->r = (TestRequest){ load->user, op, cluster * CLUSTER, iov->iov_len, iov, 1, 0, -1 };
    load->owned[cluster] = true;
    load->made++;
    co_start(request_run, request);
}

static void load_begin(Load *load, const char *node, unsigned seed)
{
    load->user = test_user(block_node_find(load->t.graph, node));
    load->random = g_rand_new_with_seed(seed);
    ticks.on = true;
    ticks.now = 0;
    ticks.largest = ticks.others = ticks.most_others = 0;
    ticks.waits = g_ptr_array_new();
    ticks.requests = g_ptr_array_new();
}

/* A tick in which the guest does something, too. */
static void busy_tick(Load *load, bool changing)
{
    if (ticks.requests->len < DEPTH && g_rand_int(load->random) % 4 < 3)
        request_start(load);
    for (unsigned i = 0; changing && i < ticks.requests->len; i++)
        ((Request *)ticks.requests->pdata[i])->met_change = true;
    tick();
}

static unsigned worst_of(const Load *load, bool change)
{
    unsigned worst = 0;

    for (unsigned i = 0; i <= OP_FLUSH; i++)
        worst = MAX(worst, load->worst[change][i]);
    return worst;
}

static void load_end(Load *load)
{
    while (ticks.requests->len)
        tick();
    ticks.on = false;
    block_user_free(load->user);
    g_rand_free(load->random);
    g_ptr_array_free(ticks.waits, TRUE);
    g_ptr_array_free(ticks.requests, TRUE);
    test_root_free(&load->t);
    if (g_getenv("VIREO_TEST_VERBOSE"))
        fprintf(stderr, "%u ticks, %u requests, the longest %u; waited %u, for changes %u; the job's "
                "largest %" PRIu64 "\n", ticks.now, load->made, load->longest, worst_of(load, false),
                worst_of(load, true), ticks.largest);
}

/* ---- a job ---- */

typedef bool StartFn(BlockGraph *graph, json_object *data, GError **error);
typedef struct Start {
    BlockGraph *graph;
    StartFn *fn;
    json_object *data;
    bool done;
} Start;

static bool co_fn start_backup(BlockGraph *graph, json_object *data, GError **error)
{
    return block_action(graph, "blockdev-backup", data, error);
}

static void co_fn start_run(void *opaque)
{
    Start *start = opaque;
    GError *error = NULL;

    if (!start->fn(start->graph, start->data, &error))
        ck_abort_msg("%s", error->message);
    start->done = true;
}

/* Does a job from its start to its end under a busy guest. */
static void work(Load *load, StartFn *fn, const char *arguments)
{
    g_autoptr(json_object) data = options_parse(arguments, NULL, NULL);
    Start start = { load->t.graph, fn, data, false };
    unsigned before = load->made;
    BlockJob *job;

    for (unsigned i = 0; i < 2 * UNIT; i++)
        busy_tick(load, false);
    co_start(start_run, &start);
    while (!start.done)
        busy_tick(load, true);
    while ((job = block_job_find(load->t.graph, "j"))) {
        GError *error = NULL;

        if (job->status == BLOCK_JOB_READY)
            block_job_complete(job, &error);
        if (job->status == BLOCK_JOB_CONCLUDED)
            block_job_dismiss(job, &error);
        else
            block_job_kick(job);           /* time passes only here */
        busy_tick(load, block_job_find(load->t.graph, "j") && job->status > BLOCK_JOB_STANDBY);
    }
    ck_assert_uint_gt(load->made, before);
    for (unsigned i = 0; i < 2 * UNIT; i++)
        busy_tick(load, false);
}

/* @at_change: ticks beside the longest of the guest's requests. */
static void assert_waited(const Load *load, unsigned most, unsigned at_change)
{
    for (unsigned change = 0; change < 2; change++)
        for (unsigned i = 0; i <= OP_FLUSH; i++)
            ck_assert_msg(load->worst[change][i] <= (change ? load->longest + at_change : most),
                          "operation %u has waited %u ticks%s", i, load->worst[change][i],
                          change ? " for a change of the graph" : "");
    ck_assert_uint_le(ticks.largest, CHUNK);
}

/* ---- disks without a format ---- */

static void open_disk(Load *load, const char *name, unsigned stripe)
{
    GError *error = NULL;

    test_open(load->t.graph, &error, "raw,node-name=%s,discard=unmap,file.driver=tick,file.stripe=%u,"
              "file.file.driver=null-co,file.file.size=%u", name, stripe, DISK_BYTES);
    assert_no_error(error);
}

static void disks_begin(Load *load, unsigned seed)
{
    static const unsigned stripes[] = { 0, 3 * CLUSTER, CLUSTER, CHUNK - CLUSTER / 4 };

    *load = (Load){ .t = test_root(), .flushes = true };
    open_disk(load, "s", stripes[seed % G_N_ELEMENTS(stripes)]);
    open_disk(load, "t", 0);
    load_begin(load, "s", seed);
}

static void job_on_disks(unsigned seed, StartFn *fn, const char *arguments)
{
    Load load;

    disks_begin(&load, seed);
    work(&load, fn, arguments);
    load_end(&load);
    assert_waited(&load, UNIT, 0);
}

START_TEST(backup)
{
    job_on_disks(_i, start_backup, "job-id=j,device=s,target=t,sync=full");
}
END_TEST

START_TEST(mirror)
{
    job_on_disks(_i, block_mirror, "job-id=j,device=s,target=t,sync=full");
}
END_TEST

START_TEST(mirror_of_large_granules)
{
    job_on_disks(_i, block_mirror, "job-id=j,device=s,target=t,sync=full,granularity=2097152,"
                 "copy-mode=write-blocking");
}
END_TEST

START_TEST(mirror_to_both)
{
    job_on_disks(_i, block_mirror, "job-id=j,device=s,target=t,sync=full,copy-mode=write-blocking");
}
END_TEST

/* x-perf: so many pieces at once, of so many bytes. */
START_TEST(backup_of_small_pieces)
{
    bool few = _i % 2;
    Load load;

    disks_begin(&load, 0);
    work(&load, start_backup, few ? "job-id=j,device=s,target=t,sync=full,x-perf.max-workers=2,"
                                    "x-perf.max-chunk=200000"
                                  : "job-id=j,device=s,target=t,sync=full,x-perf.max-workers=20");
    load_end(&load);
    ck_assert_uint_eq(ticks.largest, few ? 3 * CLUSTER : CHUNK);
    ck_assert_uint_eq(ticks.most_others, few ? 2 : 20);
    assert_waited(&load, UNIT, 0);
}
END_TEST

/* Of what is dirty every other cluster. */
START_TEST(incremental_backup)
{
    GError *error = NULL;
    BlockBitmap *bitmap;
    Load load;

    disks_begin(&load, _i);
    bitmap = block_bitmap_new(block_node_find(load.t.graph, "s"), "b", CLUSTER, &error);
    assert_no_error(error);
    for (uint64_t at = 0; at < DISK_BYTES; at += 2 * CLUSTER)
        block_bitmap_mark(bitmap, at, CLUSTER);
    work(&load, start_backup, "job-id=j,device=s,target=t,sync=incremental,bitmap=b");
    load_end(&load);
    assert_waited(&load, UNIT, 0);
}
END_TEST

/* ---- chains ---- */

static void new_image(Load *load, const char *name, unsigned disk)
{
    GError *error = NULL;

    ram_create_on(&load->t, disk, "driver=qcow2,file=mem,size=12M");
    test_open(load->t.graph, &error, "{\"driver\": \"qcow2\", \"node-name\": \"%s\", \"backing\": null, "
              "\"discard\": \"unmap\", \"file\": {\"driver\": \"tick\", \"file\": {\"driver\": \"ram\", "
              "\"disk\": %u}}}", name, disk);
    assert_no_error(error);
}

/* Every @every-th cluster. */
static void fill(Load *load, const char *node, unsigned every)
{
    BlockUser *user = test_user(block_node_find(load->t.graph, node));
    g_autofree uint8_t *data = g_malloc0(CLUSTER);

    memset(data, every, CLUSTER);
    for (uint64_t at = 0; at < IMAGE_BYTES; at += every * CLUSTER)
        ck_assert_int_eq(test_request(user, OP_WRITE, at, data, CLUSTER, 0), 0);
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    block_user_free(user);
}

/* a <- b <- c */
static Load job_on_chain(unsigned seed, StartFn *fn, const char *arguments)
{
    Load load = { .t = test_root() };

    ram_clear();
    new_image(&load, "a", 0);
    fill(&load, "a", 1);
    new_image(&load, "b", 1);
    g_free(act(&load.t, NULL, "blockdev-snapshot", "node=a,overlay=b"));
    fill(&load, "b", 2);
    new_image(&load, "c", 2);
    g_free(act(&load.t, NULL, "blockdev-snapshot", "node=b,overlay=c"));
    fill(&load, "c", 5);
    load_begin(&load, "c", seed);
    work(&load, fn, arguments);
    load_end(&load);
    return load;
}

/* At the end the image's header is written, with nothing else under way. */
START_TEST(stream)
{
    Load load = job_on_chain(_i, block_stream, _i % 2 ? "job-id=j,device=c"
                                                      : "job-id=j,device=c,base-node=a");

    assert_waited(&load, UNIT, UNIT);
}
END_TEST

START_TEST(commit_of_the_middle)
{
    Load load = job_on_chain(_i, block_commit, "job-id=j,device=c,top-node=b,base-node=a");

    assert_waited(&load, UNIT, UNIT);
}
END_TEST

START_TEST(commit_of_the_active)
{
    Load load = job_on_chain(_i, block_commit, "job-id=j,device=c,base-node=a");

    assert_waited(&load, UNIT, 0);
}
END_TEST

/* Twice it waits until nothing is under way. */
START_TEST(scrub)
{
    Load load = job_on_chain(_i, block_scrub, "job-id=j,device=c");

    assert_waited(&load, load.longest, 0);
}
END_TEST

static void add_tests(TCase *tc)
{
    const char *given = g_getenv("VIREO_TEST_SEEDS");
    int seeds = given ? MAX(atoi(given), 1) : 8;

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, backup, 0, seeds);
    tcase_add_loop_test(tc, incremental_backup, 0, seeds);
    tcase_add_loop_test(tc, backup_of_small_pieces, 0, 2);
    tcase_add_loop_test(tc, mirror, 0, seeds);
    tcase_add_loop_test(tc, mirror_to_both, 0, seeds);
    tcase_add_loop_test(tc, mirror_of_large_granules, 0, seeds);
    tcase_add_loop_test(tc, stream, 0, seeds);
    tcase_add_loop_test(tc, commit_of_the_middle, 0, seeds);
    tcase_add_loop_test(tc, commit_of_the_active, 0, seeds);
    tcase_add_loop_test(tc, scrub, 0, seeds);
}

int main(void)
{
    return run_tests("block-job-delay", add_tests);
}

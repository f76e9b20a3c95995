/*
 * Backups and mirrors under a guest that writes: the copy must hold what the disk held at the point
 * in time that the job is about.  The order of everything is drawn from a seed.
 */
#include "block-guest.h"
#include "block/bitmap.h"
#include "block/jobs/copy.h"
#include "block/jobs/mirror.h"

enum { SIZE = 24 * 65536 + 4096 * 5 };

static unsigned seeds(void)
{
    const char *n = g_getenv("VIREO_TEST_SEEDS");

    return n ? MAX(atoi(n), 1) : 12;
}

static BlockNode *open_raw_of(TestRoot *t, const char *name, uint64_t size)
{
    g_autofree char *file = g_strconcat(name, ".img", NULL), *path = test_file(file, size);
    GError *error = NULL;
    BlockNode *node = test_open(t->graph, &error, "raw,node-name=%s,discard=unmap,file.driver=file,"
                                "file.aio=threads,file.filename=%s", name, path);

    assert_no_error(error);
    return node;
}

static BlockNode *open_raw(TestRoot *t, const char *name)
{
    return open_raw_of(t, name, SIZE);
}

static void free_disk(uint8_t **disk)
{
    g_free(*disk);
}
#define auto_disk __attribute__((cleanup(free_disk))) uint8_t *

START_TEST(full_backup)
{
    TestRoot t;
    Events e;

    sched_seed(_i + 1);
    t = test_root();
    BlockNode *source = open_raw(&t, "s"), *target = open_raw(&t, "t");
    Guest *g = guest_new(source, _i);
    auto_disk then = NULL;

    events_on(&e, &t);
    guest_fill(g, 0, SIZE, 7);
    guest_start(g);
    guest_writes(g, 20);
    then = act(&t, g, "blockdev-backup", "device=s,target=t,sync=full,job-id=b");
    wait_event(&e, "JOB_STATUS_CHANGE b null");
    guest_stop(g);
    ck_assert(seen(&e, "BLOCK_JOB_COMPLETED b "));
    check_disk(target, then, "the backup");
    check_disk(source, g->disk, "the disk");
    ck_assert_ptr_eq(block_user_node(g->user), source);
    job_test_end(&t, &e, g);
}
END_TEST

START_TEST(incremental_backup)
{
    TestRoot t;
    Events e;

    sched_seed(_i + 1);
    t = test_root();
    BlockNode *source = open_raw(&t, "s"), *target = open_raw(&t, "t");
    Guest *g = guest_new(source, _i);
    auto_disk then = NULL;
    auto_disk later = NULL;
    BlockBitmap *bitmap;

    events_on(&e, &t);
    guest_fill(g, 0, SIZE, 7);
    act(&t, NULL, "block-dirty-bitmap-add", "node=s,name=b");
    bitmap = block_bitmap_find(source, "b");
    guest_start(g);
    g_free(act(&t, g, "blockdev-backup", "device=s,target=t,sync=full,job-id=full,bitmap=b,"
               "bitmap-mode=on-success"));
    ck_assert(block_bitmap_flags(bitmap) & BLOCK_BITMAP_BUSY);
    wait_event(&e, "JOB_STATUS_CHANGE full null");
    ck_assert(!(block_bitmap_flags(bitmap) & BLOCK_BITMAP_BUSY));
    guest_writes(g, 10);
    then = act(&t, g, "blockdev-backup", "device=s,target=t,sync=incremental,job-id=inc,bitmap=b");
    wait_event(&e, "JOB_STATUS_CHANGE inc null");
    check_disk(target, then, "the incremental backup");
    guest_writes(g, 3);
    later = act(&t, g, "blockdev-backup", "device=s,target=t,sync=bitmap,bitmap-mode=never,"
                "job-id=inc2,bitmap=b");
    wait_event(&e, "JOB_STATUS_CHANGE inc2 null");
    check_disk(target, later, "the second incremental backup");
    guest_stop(g);
    ck_assert_uint_gt(block_bitmap_count(bitmap), 0);
    job_test_end(&t, &e, g);
}
END_TEST

static void must_not_back_up(TestRoot *t, const char *perf, const char *why)
{
    g_autofree char *text = g_strdup_printf("device=s,target=t,sync=full,job-id=b,x-perf.%s", perf);
    g_autoptr(json_object) data = options_parse(text, NULL, NULL);
    ActionRun run = { .graph = t->graph, .type = "blockdev-backup", .data = data };

    co_run_sync(action_run, &run);
    ck_assert(!run.ok);
    assert_error(&run.error, why);
    ck_assert_ptr_null(block_job_find(t->graph, "b"));
}

START_TEST(x_perf_is_checked)
{
    TestRoot t = test_root();

    open_raw(&t, "s");
    open_raw(&t, "t");
    must_not_back_up(&t, "use-copy-range=on", "'use-copy-range' is not supported");
    must_not_back_up(&t, "max-workers=0", "max-workers must be greater than zero");
    must_not_back_up(&t, "max-chunk=-1", "max-chunk must be zero");
    must_not_back_up(&t, "max-chunk=4096", "(4096) is less than backup cluster size (65536)");
    test_root_free(&t);
}
END_TEST

/* A client reads the frozen disk while the guest goes on. */
START_TEST(fleecing)
{
    TestRoot t;
    GError *error = NULL;

    sched_seed(_i + 1);
    t = test_root();
    BlockNode *source = open_raw(&t, "s"), *view;
    Guest *g = guest_new(source, _i);
    auto_disk then = NULL;
    g_autoptr(json_object) options = NULL;
    BlockNode *filter;

    open_raw(&t, "t");
    guest_fill(g, 0, SIZE, 7);
    guest_start(g);
    guest_writes(g, 10);
    options = options_parse("driver=copy-before-write,node-name=cbw,target=t", NULL, NULL);
    BlockQuiesce *quiesce = block_quiesce(t.graph, NULL, NULL);

    filter = block_node_insert_filter(source, options, NULL, &error);
    assert_no_error(error);
    then = g_memdup2(g->disk, g->size);
    block_resume(quiesce);
    view = test_open(t.graph, &error, "snapshot-access,node-name=view,file=cbw");
    assert_no_error(error);
    for (unsigned i = 0; i < 4; i++) {
        guest_writes(g, 10);
        check_disk(view, then, "the view");
    }
    guest_stop(g);
    check_disk(source, g->disk, "the disk");
    ck_assert(block_node_delete(t.graph, "view", &error));
    ck_assert(block_node_remove_filter(filter, &error));
    block_node_put(filter);
    guest_free(g);
    test_root_free(&t);
    sched_off();
}
END_TEST

/* The copy fails: the guest's write does, or the frozen disk is lost. */
START_TEST(copy_before_write_fails)
{
    bool break_snapshot = _i;
    g_autofree char *path = test_file("t.img", SIZE);
    g_autofree char *text = g_strdup_printf("driver=copy-before-write,node-name=cbw,target=t,on-cbw-error=%s",
                                            break_snapshot ? "break-snapshot" : "break-guest-write");
    g_autoptr(json_object) options = options_parse(text, NULL, NULL);
    g_autofree uint8_t *buffer = g_malloc0(65536), *then = NULL;
    TestRoot t = test_root();
    GError *error = NULL;
    BlockNode *source = open_raw(&t, "s"), *filter, *view;
    Guest *g = guest_new(source, 1);
    BlockUser *reader;

    test_open(t.graph, &error, "blkdebug,node-name=t,inject-error.0.event=none,inject-error.0.iotype=write,"
              "inject-error.0.errno=28,inject-error.0.sector=128,image.driver=file,image.filename=%s", path);
    assert_no_error(error);
    guest_fill(g, 0, SIZE / 512 * 512, 7);
    then = g_memdup2(g->disk, g->size);
    filter = block_node_insert_filter(source, options, NULL, &error);
    assert_no_error(error);
    view = test_open(t.graph, &error, "snapshot-access,node-name=view,file=cbw");
    assert_no_error(error);
    memset(buffer, 9, 65536);
    ck_assert_int_eq(test_request(g->user, OP_WRITE, 0, buffer, 512, 0), 0);
    check_disk(view, then, "the view");
    ck_assert_int_eq(test_request(g->user, OP_WRITE, 65536 + 512, buffer, 512, 0),
                     break_snapshot ? 0 : -ENOSPC);
    ck_assert_int_eq(test_request(g->user, OP_READ, 65536 + 512, buffer, 1, 0), 0);
    ck_assert_int_eq(buffer[0], break_snapshot ? 9 : 7);
    if (break_snapshot) {
        reader = block_user_new(view, "a reader", BLOCK_PERM_READ, BLOCK_PERM_ALL, &error);
        ck_assert_int_eq(test_request(reader, OP_READ, 0, buffer, 512, 0), -EACCES);
        ck_assert_int_eq(test_request(g->user, OP_WRITE, 65536, buffer, 65536, 0), 0);
        block_user_free(reader);
    } else {
        check_disk(view, then, "the view");
    }
    ck_assert(block_node_delete(t.graph, "view", &error));
    ck_assert(block_node_remove_filter(filter, &error));
    block_node_put(filter);
    guest_free(g);
    test_root_free(&t);
}
END_TEST

static bool start_mirror(TestRoot *t, GError **error, const char *text)
{
    g_autoptr(json_object) data = options_parse(text, NULL, NULL);

    return block_mirror(t->graph, data, error);
}

static const struct {
    const char *options;
    bool pivot;
} mirrors[] = {
    { "copy-mode=background", true }, { "copy-mode=background,granularity=4096", false },
    { "copy-mode=write-blocking", true }, { "copy-mode=write-blocking,granularity=512", false },
};

START_TEST(mirror)
{
    unsigned kind = _i % G_N_ELEMENTS(mirrors);
    g_autofree char *text = g_strdup_printf("device=s,target=t,sync=full,job-id=m,%s,"
                                            "auto-finalize=%s", mirrors[kind].options,
                                            mirrors[kind].pivot ? "on" : "off");
    GError *error = NULL;
    TestRoot t;
    Events e;

    sched_seed(_i + 1);
    t = test_root();
    BlockNode *source = open_raw(&t, "s"), *target = open_raw(&t, "t");
    Guest *g = guest_new(source, _i);

    events_on(&e, &t);
    guest_fill(g, 0, SIZE, 7);
    guest_start(g);
    guest_writes(g, 10);
    ck_assert(start_mirror(&t, &error, text));
    assert_no_error(error);
    wait_event(&e, "JOB_STATUS_CHANGE m ready");
    ck_assert(seen(&e, "BLOCK_JOB_READY m "));
    guest_writes(g, 10);
    BlockJob *job = block_job_find(t.graph, "m");

    if (mirrors[kind].pivot)
        ck_assert(block_job_complete(job, &error));
    else
        ck_assert(block_job_cancel(job, false, &error));
    if (!mirrors[kind].pivot) {            /* what is written while it waits is in the copy, too */
        wait_event(&e, "JOB_STATUS_CHANGE m pending");
        guest_writes(g, 10);
        guest_stop(g);
        ck_assert(block_job_finalize(job, &error));
    }
    wait_event(&e, "JOB_STATUS_CHANGE m null");
    ck_assert(seen(&e, "BLOCK_JOB_COMPLETED m "));
    ck_assert_ptr_eq(block_user_node(g->user), mirrors[kind].pivot ? target : source);
    if (mirrors[kind].pivot) {
        ck_assert(block_node_delete(t.graph, "s", &error));
        guest_writes(g, 10);
    } else {
        check_disk(target, g->disk, "the copy");
    }
    guest_stop(g);
    check_disk(block_user_node(g->user), g->disk, "the disk");
    job_test_end(&t, &e, g);
}
END_TEST

/* A write that began before all was marked to be copied is one of a part of its granule. */
START_TEST(mirror_begins_under_a_write)
{
    enum { CHUNKS = 4 };                   /* copied one after the other: the last is marked for long */
    uint64_t size = CHUNKS * BLOCK_COPY_CHUNK;
    TestRoot t = test_root();
    BlockNode *source = open_raw_of(&t, "s", size), *target = open_raw_of(&t, "t", size);
    Guest *g = guest_new(source, 1);
    GuestFill fill = { g, size - 65536 + 4096, 4096, 9, -1 };
    GError *error = NULL;
    Events e;

    events_on(&e, &t);
    guest_fill(g, 0, size, 7);
    ck_assert(start_mirror(&t, &error, "device=s,target=t,sync=full,job-id=m,copy-mode=write-blocking,"
                                       "buf-size=1"));
    co_start(guest_fill_run, &fill);
    wait_event(&e, "JOB_STATUS_CHANGE m ready");
    ck_assert(block_job_complete(block_job_find(t.graph, "m"), &error));
    wait_event(&e, "JOB_STATUS_CHANGE m null");
    ck_assert_int_eq(fill.ret, 0);
    check_disk(target, g->disk, "the copy");
    job_test_end(&t, &e, g);
}
END_TEST

/* What is ignored is tried again: a copy that lacks something is never told to be one. */
START_TEST(ignored_errors_are_made_good)
{
    bool mirrored = _i & 1, reading = _i & 2;
    TestRoot t = test_root();
    g_autofree char *one = test_file("s.img", SIZE), *other = test_file("t.img", SIZE);
    const char *rule = "inject-error.0.event=none,inject-error.0.errno=28,inject-error.0.once=on,"
                       "inject-error.0.iotype=";
    GError *error = NULL;
    BlockNode *source, *target;
    Guest *g;
    Events e;

    source = test_open(t.graph, &error, "blkdebug,node-name=s,image.driver=file,image.filename=%s,%s%s", one,
                       rule, reading ? "read" : "block-status");
    assert_no_error(error);
    target = test_open(t.graph, &error, "blkdebug,node-name=t,image.driver=file,image.filename=%s,%s%s",
                       other, rule, reading ? "block-status" : "write");
    assert_no_error(error);
    g = guest_new(source, 1);
    events_on(&e, &t);
    guest_fill(g, 0, SIZE, 7);
    if (mirrored)
        ck_assert(start_mirror(&t, &error, "device=s,target=t,sync=full,job-id=j,on-source-error=ignore,"
                               "on-target-error=ignore"));
    else
        g_free(act(&t, g, "blockdev-backup", "device=s,target=t,sync=full,job-id=j,on-source-error=ignore,"
                   "on-target-error=ignore"));
    assert_no_error(error);
    if (mirrored) {
        wait_event(&e, "JOB_STATUS_CHANGE j ready");
        check_disk(target, g->disk, "the copy that is ready");
        ck_assert(block_job_cancel(block_job_find(t.graph, "j"), false, &error));
    }
    wait_event(&e, "JOB_STATUS_CHANGE j null");
    ck_assert(seen(&e, "BLOCK_JOB_ERROR j "));
    ck_assert(seen(&e, "BLOCK_JOB_COMPLETED j "));
    check_disk(target, g->disk, "the copy");
    job_test_end(&t, &e, g);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, full_backup, 0, seeds());
    tcase_add_loop_test(tc, incremental_backup, 0, seeds());
    tcase_add_test(tc, x_perf_is_checked);
    tcase_add_loop_test(tc, fleecing, 0, seeds());
    tcase_add_loop_test(tc, copy_before_write_fails, 0, 2);
    tcase_add_loop_test(tc, mirror, 0, 2 * seeds());
    tcase_add_test(tc, mirror_begins_under_a_write);
    tcase_add_loop_test(tc, ignored_errors_are_made_good, 0, 4);
}

int main(void)
{
    return run_block_tests("block-job-copy", add_tests);
}

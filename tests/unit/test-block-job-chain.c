/*
 * Chains of images under a guest that writes: snapshots, commits of the active and of other images,
 * streams.  Whatever the chain is, the guest must find what it wrote.
 */
#include "block-guest.h"
#include "block/bitmap.h"
#include "block/chain.h"
#include "block/jobs/backing.h"
#include "block/jobs/mirror.h"

enum { SIZE = 24 * 65536 + 4096 * 5 };

static unsigned seeds(void)
{
    const char *n = g_getenv("VIREO_TEST_SEEDS");

    return n ? MAX(atoi(n), 1) : 8;
}

static char *path_of(const char *name)
{
    return g_strdup_printf("%s/%s.qcow2", test_dir(), name);
}

/* An image file and its node, without a backing node. */
static BlockNode *new_image(TestRoot *t, const char *name)
{
    g_autoptr(json_object) options = json_object_new_object();
    g_autofree char *path = path_of(name);
    GError *error = NULL;
    BlockNode *node;

    json_object_object_add(options, "size", json_object_new_int(SIZE));
    ck_assert_msg(block_image_create(t->graph, "qcow2", path, options, &error), "%s",
                  error ? error->message : "");
    node = test_open(t->graph, &error, "{\"driver\": \"qcow2\", \"node-name\": \"%s\", \"backing\": null,"
                     "\"discard\": \"unmap\", \"file\": {\"driver\": \"file\", \"aio\": \"threads\","
                     "\"filename\": \"%s\"}}", name, path);
    assert_no_error(error);
    return node;
}

static void snapshot(TestRoot *t, const char *node, const char *overlay)
{
    new_image(t, overlay);
    act(t, NULL, "blockdev-snapshot", "node=%s,overlay=%s", node, overlay);
}

typedef bool StartFn(BlockGraph *graph, json_object *data, GError **error);

static bool start(TestRoot *t, StartFn *fn, GError **error, const char *text)
{
    g_autoptr(json_object) data = options_parse(text, NULL, NULL);

    ck_assert_ptr_nonnull(data);
    return fn(t->graph, data, error);
}

/* a <- b <- c, each with something of its own; the guest is at the top. */
static Guest *make_chain(TestRoot *t, unsigned seed)
{
    Guest *g = guest_new(new_image(t, "a"), seed);

    guest_fill(g, 0, SIZE / 2, 11);
    snapshot(t, "a", "b");
    ck_assert_str_eq(block_node_name(block_user_node(g->user)), "b");
    guest_fill(g, SIZE / 4 / 512 * 512, SIZE / 2 / 512 * 512, 22);
    snapshot(t, "b", "c");
    guest_fill(g, 3 * 65536, 65536, 33);
    guest_start(g);
    guest_writes(g, 10);
    return g;
}

/* That chain with its guest, and what is told; requests go in the order of seed @i. */
typedef struct Chain {
    TestRoot t;
    Events e;
    Guest *g;
} Chain;

static void chain_begin(Chain *c, int i)
{
    sched_seed(i + 1);
    c->t = test_root();
    c->g = make_chain(&c->t, i);
    events_on(&c->e, &c->t);
}

/* The guest goes on a little, and finds all that it wrote. */
static void chain_end(Chain *c)
{
    guest_writes(c->g, 10);
    guest_stop(c->g);
    check_disk(block_user_node(c->g->user), c->g->disk, "the disk");
    job_test_end(&c->t, &c->e, c->g);
}

static void check_chain(TestRoot *t, const char *top, const char *below)
{
    BlockNode *node = block_node_backing(block_node_find(t->graph, top));

    if (!below)
        ck_assert_ptr_null(node);
    else
        ck_assert_str_eq(block_node_name(node), below);
}

static void delete_node(TestRoot *t, const char *name)
{
    GError *error = NULL;

    block_node_delete(t->graph, name, &error);
    assert_no_error(error);
}

START_TEST(commits_the_middle)
{
    GError *error = NULL;
    Chain c;

    chain_begin(&c, _i);
    ck_assert(start(&c.t, block_commit, &error, "device=c,top-node=b,base-node=a,job-id=j"));
    assert_no_error(error);
    /* What is being merged is nobody else's. */
    ck_assert_ptr_null(block_user_new(block_node_find(c.t.graph, "a"), "x", BLOCK_PERM_READ,
                                      BLOCK_PERM_ALL, &error));
    assert_error(&error, "commit job 'j'");
    wait_event(&c.e, "JOB_STATUS_CHANGE j null");
    ck_assert(seen(&c.e, "BLOCK_JOB_COMPLETED j "));
    check_chain(&c.t, "c", "a");
    delete_node(&c.t, "b");
    chain_end(&c);
}
END_TEST

/* Ignoring an error must not lose what the dropped images had. */
START_TEST(commits_all_of_it)
{
    GError *error = NULL;
    TestRoot t = test_root();
    g_autofree char *path = path_of("a");
    BlockNode *a;
    Guest *g;
    Events e;

    block_node_put(new_image(&t, "a"));
    a = test_open(t.graph, &error, "{\"driver\": \"qcow2\", \"node-name\": \"bad\", \"file\": {\"driver\": "
                  "\"blkdebug\", \"inject-error\": [{\"event\": \"write_aio\", \"errno\": 28, \"once\": true}],"
                  "\"image\": {\"driver\": \"file\", \"filename\": \"%s\"}}}", path);
    assert_no_error(error);
    g = guest_new(a, 1);
    snapshot(&t, "bad", "b");
    guest_fill(g, 0, SIZE, 22);
    snapshot(&t, "b", "c");
    events_on(&e, &t);
    ck_assert(start(&t, block_commit, &error, "device=c,top-node=b,base-node=bad,job-id=j,on-error=ignore"));
    assert_no_error(error);
    wait_event(&e, "JOB_STATUS_CHANGE j null");
    ck_assert(seen(&e, "BLOCK_JOB_ERROR j "));
    ck_assert(seen(&e, "BLOCK_JOB_COMPLETED j "));
    check_chain(&t, "c", "bad");
    check_disk(block_user_node(g->user), g->disk, "the disk");
    job_test_end(&t, &e, g);
}
END_TEST

START_TEST(commits_the_active)
{
    bool pivot = _i % 2;
    GError *error = NULL;
    Chain c;

    chain_begin(&c, _i);
    ck_assert(start(&c.t, block_commit, &error, "device=c,base-node=a,job-id=j"));
    assert_no_error(error);
    wait_event(&c.e, "JOB_STATUS_CHANGE j ready");
    guest_writes(c.g, 10);
    BlockJob *job = block_job_find(c.t.graph, "j");

    ck_assert(pivot ? block_job_complete(job, &error) : block_job_cancel(job, true, &error));
    wait_event(&c.e, "JOB_STATUS_CHANGE j null");
    ck_assert_str_eq(block_node_name(block_user_node(c.g->user)), pivot ? "a" : "c");
    if (pivot) {
        delete_node(&c.t, "c");
        delete_node(&c.t, "b");
    }
    chain_end(&c);
}
END_TEST

START_TEST(streams)
{
    static const char *const how[] = { "device=c,job-id=j", "device=c,base-node=a,job-id=j",
                                       "device=c,bottom=b,job-id=j" };
    GError *error = NULL;
    Chain c;

    chain_begin(&c, _i);
    ck_assert(start(&c.t, block_stream, &error, how[_i % 3]));
    assert_no_error(error);
    wait_event(&c.e, "JOB_STATUS_CHANGE j null");
    ck_assert_msg(seen(&c.e, "JOB_STATUS_CHANGE j pending"), "%s", c.e.log->str);
    check_chain(&c.t, "c", _i % 3 ? "a" : NULL);
    delete_node(&c.t, "b");
    chain_end(&c);
}
END_TEST

/* One of two snapshots fails: the first is taken back. */
START_TEST(transactions_are_taken_back)
{
    TestRoot t = test_root();
    Guest *g = guest_new(new_image(&t, "a"), 1);
    g_autoptr(json_object) actions = NULL;
    GError *error = NULL;

    actions = options_parse("{\"actions\": [{\"type\": \"block-dirty-bitmap-add\", \"data\": "
                            "{\"node\": \"a\", \"name\": \"m\"}}, {\"type\": \"blockdev-snapshot\", "
                            "\"data\": {\"node\": \"a\", \"overlay\": \"b\"}}, {\"type\": \"abort\", "
                            "\"data\": {}}]}", NULL, &error);
    assert_no_error(error);
    new_image(&t, "b");
    ck_assert(!block_transaction(t.graph, json_object_object_get(actions, "actions"), false, &error));
    assert_error(&error, "Transaction aborted using Abort action");
    ck_assert_str_eq(block_node_name(block_user_node(g->user)), "a");
    ck_assert_ptr_null(block_bitmap_find(block_node_find(t.graph, "a"), "m"));
    check_chain(&t, "b", NULL);
    delete_node(&t, "b");
    guest_fill(g, 0, 4096, 9);
    check_disk(block_user_node(g->user), g->disk, "the disk");
    guest_free(g);
    test_root_free(&t);
}
END_TEST

static int byte_at(BlockNode *node, uint64_t offset)
{
    BlockUser *user = block_user_new(node, "the test", BLOCK_PERM_READ, BLOCK_PERM_ALL, NULL);
    uint8_t byte = 0;

    ck_assert_int_eq(test_request(user, OP_READ, offset, &byte, 1, 0), 0);
    block_user_free(user);
    return byte;
}

/* Only what the image itself has, and all of that. */
START_TEST(copies_the_top)
{
    bool backup = _i;
    GError *error = NULL;
    TestRoot t = test_root();
    Guest *g = guest_new(new_image(&t, "a"), 1);
    BlockNode *copy;
    Events e;

    events_on(&e, &t);
    guest_fill(g, 0, SIZE / 512 * 512, 11);
    snapshot(&t, "a", "b");
    guest_fill(g, 3 * 65536, 65536, 33);
    copy = new_image(&t, "t");
    if (backup) {
        act(&t, NULL, "blockdev-backup", "device=b,target=t,sync=top,job-id=j");
    } else {
        ck_assert(start(&t, block_mirror, &error, "device=b,target=t,sync=top,job-id=j"));
        wait_event(&e, "JOB_STATUS_CHANGE j ready");
        ck_assert(block_job_cancel(block_job_find(t.graph, "j"), false, &error));
    }
    wait_event(&e, "JOB_STATUS_CHANGE j null");
    ck_assert(seen(&e, "BLOCK_JOB_COMPLETED j "));
    ck_assert_int_eq(byte_at(copy, 3 * 65536), 33);
    ck_assert_int_eq(byte_at(copy, 4 * 65536 - 1), 33);
    ck_assert_int_eq(byte_at(copy, 3 * 65536 - 1), 0);
    ck_assert_int_eq(byte_at(copy, 4 * 65536), 0);
    ck_assert(block_node_set_child(copy, "backing", block_node_find(t.graph, "a"), &error));
    check_disk(copy, g->disk, "the copy on the same base");
    events_off(&e);
    guest_free(g);
    test_root_free(&t);
}
END_TEST

/* A shallow copy: the target stands on the source's own base, and takes the source's place; with
 * "replaces" that of a node above it. */
START_TEST(pivots_to_a_shallow_copy)
{
    const char *replaces = _i % 2 ? ",replaces=f" : "";
    g_autofree char *text = g_strdup_printf("device=c,target=t,sync=top,job-id=j,copy-mode=%s%s",
                                            _i % 4 < 2 ? "background" : "write-blocking", replaces);
    g_autoptr(json_object) filter = options_parse("driver=raw,node-name=f", NULL, NULL);
    BlockNode *above = NULL;
    GError *error = NULL;
    Chain c;

    chain_begin(&c, _i);
    if (*replaces) {
        BlockQuiesce *quiesce = block_quiesce(c.t.graph, NULL, NULL);

        above = block_node_insert_filter(block_node_find(c.t.graph, "c"), filter, NULL, &error);
        block_resume(quiesce);
        assert_no_error(error);
    }
    ck_assert(block_node_set_child(new_image(&c.t, "t"), "backing", block_node_find(c.t.graph, "b"), &error));
    ck_assert_msg(start(&c.t, block_mirror, &error, text), "%s", error ? error->message : "");
    wait_event(&c.e, "JOB_STATUS_CHANGE j ready");
    guest_writes(c.g, 10);
    ck_assert(block_job_complete(block_job_find(c.t.graph, "j"), &error));
    wait_event(&c.e, "JOB_STATUS_CHANGE j null");
    ck_assert(seen(&c.e, "BLOCK_JOB_COMPLETED j "));
    ck_assert_str_eq(block_node_name(block_user_node(c.g->user)), "t");
    check_chain(&c.t, "t", "b");
    block_node_put(above);
    delete_node(&c.t, "c");
    chain_end(&c);
}
END_TEST

static const char *backing_name(BlockNode *node, char **ret)
{
    g_autoptr(json_object) info = block_node_image_info(node, NULL);

    *ret = g_strdup(json_object_get_string(json_object_object_get(info, "backing-filename")));
    return *ret;
}

/* Of any image of the chain, also of one that nobody writes to. */
START_TEST(changes_the_name_of_a_backing_file)
{
    g_autofree char *of_b = NULL, *of_c = NULL;
    GError *error = NULL;
    Chain c;

    chain_begin(&c, 1);
    ck_assert(start(&c.t, block_change_backing_file, &error, "device=c,image-node-name=b,backing-file=/x/a"));
    ck_assert(start(&c.t, block_change_backing_file, &error, "device=c,image-node-name=c,backing-file=b.img"));
    assert_no_error(error);
    ck_assert_str_eq(backing_name(block_node_find(c.t.graph, "b"), &of_b), "/x/a");
    ck_assert_str_eq(backing_name(block_node_find(c.t.graph, "c"), &of_c), "b.img");
    check_chain(&c.t, "c", "b");
    ck_assert(!start(&c.t, block_change_backing_file, &error, "device=c,image-node-name=a,backing-file=x"));
    assert_error(&error, "image without a backing file");
    ck_assert(!start(&c.t, block_change_backing_file, &error, "device=b,image-node-name=c,backing-file=x"));
    assert_error(&error, "not in this backing file chain");
    chain_end(&c);
}
END_TEST

START_TEST(reopens)
{
    TestRoot t = test_root();
    BlockNode *node = new_image(&t, "a");
    GError *error = NULL;
    BlockUser *user = block_user_new(node, "the writer", BLOCK_PERM_WRITE, BLOCK_PERM_ALL, &error);

    assert_no_error(error);
    ck_assert(!block_node_set_read_only(node, true, &error));
    assert_error(&error, "Cannot make block node 'a' read-only");
    block_user_free(user);
    ck_assert(block_node_set_read_only(node, true, &error));
    ck_assert_ptr_null(block_user_new(node, "the writer", BLOCK_PERM_WRITE, BLOCK_PERM_ALL, &error));
    assert_error(&error, "read-only");
    ck_assert(block_node_set_read_only(node, false, &error));
    assert_no_error(error);
    user = block_user_new(node, "the writer", BLOCK_PERM_READ | BLOCK_PERM_WRITE, BLOCK_PERM_ALL,
                          &error);
    assert_no_error(error);
    ck_assert_int_eq(test_request(user, OP_WRITE, 0, (char[512]){ 1 }, 512, 0), 0);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, transactions_are_taken_back);
    tcase_add_test(tc, reopens);
    tcase_add_loop_test(tc, copies_the_top, 0, 2);
    tcase_add_test(tc, changes_the_name_of_a_backing_file);
    tcase_add_loop_test(tc, pivots_to_a_shallow_copy, 0, seeds());
    tcase_add_loop_test(tc, commits_the_middle, 0, seeds());
    tcase_add_test(tc, commits_all_of_it);
    tcase_add_loop_test(tc, commits_the_active, 0, seeds());
    tcase_add_loop_test(tc, streams, 0, seeds());
}

int main(void)
{
    return run_block_tests("block-job-chain", add_tests);
}

/*
 * Amending: refcounts of another width, and the keys to an encrypted image.  Power cuts in between
 * leave the image as it was or as it is to be, and one of the passphrases opens it.
 */
#include "qcow2-ram.h"
#include "block/jobs/backing.h"
#include "tests/unit/ram-cut.h"

typedef struct AmendRun {
    BlockNode *node;
    json_object *options;
    bool force;
    int ret;
    GError *error;
} AmendRun;

static void co_fn amend_co(void *opaque)
{
    AmendRun *run = opaque;

    run->ret = block_co_amend(run->node, run->options, run->force, &run->error);
}

static int amend(BlockNode *node, const char *words, bool force, GError **error)
{
    g_autoptr(json_object) given = options_parse(words, NULL, NULL);
    g_autoptr(json_object) options =
        block_amend_options_parse(block_node_driver(node), given, error);
    AmendRun run = { node, options, force, -1, NULL };

    if (!options)
        return -EINVAL;
    co_run_sync(amend_co, &run);
    if (run.error)
        g_propagate_error(error, run.error);
    return run.ret;
}

/* Widths. */

#define DISK_BYTES (8 * MiB)

static const unsigned widths[] = { 16, 64, 2, 32, 4, 8, 16 };

START_TEST(refcounts_of_any_width)
{
    static const char *const kinds[] = { "cluster_size=512", "cluster_size=4k", "" };
    g_autofree char *path = qcow2_create("width.qcow2", kinds[_i], DISK_BYTES);
    g_autofree uint8_t *model = g_malloc0(DISK_BYTES);
    TestRoot t = test_root();
    DiskModel m = { .bytes = model, .size = DISK_BYTES, .longest = 100000,
                    .rand = g_rand_new_with_seed(_i) };
    GError *error = NULL;

    m.user = qcow2_open_user(&t, path, "");
    model_run(&m, 60);
    qcow2_close_user(&t, m.user);
    ck_assert_int_eq(run_command("qemu-img snapshot -c one %s", path), 0);
    m.user = qcow2_open_user(&t, path, "");
    for (unsigned i = 0; i < G_N_ELEMENTS(widths); i++) {
        g_autofree char *words = g_strdup_printf("refcount_bits=%u", widths[i]);

        model_run(&m, 15);
        ck_assert_int_eq(amend(block_user_node(m.user), words, false, &error), 0);
        assert_no_error(error);
        model_run(&m, 15);                 /* allocation goes on with it */
        qcow2_close_user(&t, m.user);
        qcow2_check_image(path);
        qcow2_compare(path, model, DISK_BYTES);
        ck_assert_int_eq(run_command("sh -c \"qemu-img info %s | grep -q 'refcount bits: %u$'\"",
                                     path, widths[i]),
                         0);
        m.user = qcow2_open_user(&t, path, "");
    }
    /* A snapshot's clusters are counted twice. */
    ck_assert_int_lt(amend(block_user_node(m.user), "refcount_bits=1", false, &error), 0);
    assert_error(&error, "has a refcount of");
    model_run(&m, 15);
    qcow2_close_user(&t, m.user);
    qcow2_check_image(path);
    qcow2_compare(path, model, DISK_BYTES);
    g_rand_free(m.rand);
    test_root_free(&t);
}
END_TEST

enum { WIDTH_BLOCK = 64 * 1024, WIDTH_STEP = 512 * 1024 };

/* Cut off at that request to the file (0: not at all); how many there were. */
static unsigned cut_width(unsigned at, unsigned seed)
{
    g_autofree uint8_t *data = g_malloc(WIDTH_BLOCK), *now = g_malloc(WIDTH_BLOCK);
    GRand *rand = g_rand_new_with_seed(seed);
    TestRoot t = test_root();
    GError *error = NULL;
    unsigned requests;
    BlockCheck check;
    BlockUser *user;

    memset(data, 0x5a, WIDTH_BLOCK);
    ram_clear();
    ram_create(&t, "driver=qcow2,file=mem,size=4M,cluster-size=512");
    ram_watch();
    user = ram_open_image(&t, "", &error);
    for (uint64_t offset = 0; offset < 4 * MiB; offset += WIDTH_STEP)
        ck_assert_int_eq(test_request(user, OP_WRITE, offset, data, WIDTH_BLOCK, 0), 0);
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    ram.requests = 0;
    ram.fail_at = at;
    ram.fail_with = EIO;
    ram.dead = true;
    ck_assert_int_eq(amend(block_user_node(user), "refcount_bits=64", false, &error) == 0, at == 0);
    g_clear_error(&error);
    requests = ram.requests;
    qcow2_close_user(&t, user);
    ram_power_cut(rand);
    user = ram_open_image(&t, "", &error);
    assert_no_error(error);
    check = ram_check(block_user_node(user), 0);
    ck_assert_msg(!check.corruptions && !check.check_errors, "cut at %u, seed %u: %" PRIu64
                  " corruptions", at, seed, check.corruptions);
    for (uint64_t offset = 0; offset < 4 * MiB; offset += WIDTH_STEP) {
        ck_assert_int_eq(test_request(user, OP_READ, offset, now, WIDTH_BLOCK, 0), 0);
        ck_assert(!memcmp(now, data, WIDTH_BLOCK));
    }
    qcow2_close_user(&t, user);
    g_rand_free(rand);
    test_root_free(&t);
    return requests;
}

/* What was written before is there, whatever was cut off; more often at the end, where the header
 * is. */
START_TEST(a_power_cut_while_the_width_changes)
{
    unsigned n = cut_width(0, 0);

    for (unsigned at = 1; at <= n; at += at + 8 < n ? n / 12 + 1 : 1)
        cut_width(at, at);
    for (unsigned seed = 1; seed <= 12; seed++)
        cut_width(n - seed % 6, seed);
}
END_TEST

START_TEST(what_cannot_be_changed)
{
    static const char *const words[] = { "cluster_size=4k", "extended_l2=on",
                                         "compression_type=zstd", "preallocation=full", "size=1M" };
    g_autofree char *path = qcow2_create("constant.qcow2", "", DISK_BYTES);
    TestRoot t = test_root();
    BlockUser *user = qcow2_open_user(&t, path, "");
    GError *error = NULL;

    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++) {
        ck_assert_int_lt(amend(block_user_node(user), words[i], true, &error), 0);
        ck_assert_ptr_nonnull(error);
        g_clear_error(&error);
    }
    ck_assert_int_lt(
        amend(block_user_node(user), "encrypt.state=active,encrypt.new-secret=a", false, &error),
        0);
    assert_error(&error, "not encrypted");
    ck_assert_int_eq(amend(block_user_node(user), "size=9M", false, &error), 0);
    ck_assert_int_eq(block_node_size(block_user_node(user)), 9 * MiB);
    qcow2_close_user(&t, user);
    qcow2_check_image(path);
    test_root_free(&t);
}
END_TEST

/* Keys. */

static const char *const secrets[] = { "a", "b", "c" };

static TestRoot root_with_secrets(void)
{
    TestRoot t = test_root();

    for (unsigned i = 0; i < G_N_ELEMENTS(secrets); i++)
        test_secret(&t, secrets[i], secrets[i]);
    return t;
}

/* 0: luks, 1: qcow2; on a file. */
static BlockNode *open_with(TestRoot *t, int qcow2, const char *path, const char *secret,
                            GError **error)
{
    return test_open(t->graph, error,
                     "driver=%s,node-name=disk,%skey-secret=%s,file.driver=file,"
                     "file.filename=%s",
                     qcow2 ? "qcow2" : "luks", qcow2 ? "encrypt." : "", secret, path);
}

static bool opens(TestRoot *t, int qcow2, const char *path, const char *secret)
{
    GError *error = NULL;
    BlockNode *node = open_with(t, qcow2, path, secret, &error);

    if (!node) {
        assert_error(&error, "Invalid password");
        return false;
    }
    ck_assert(block_node_delete(t->graph, "disk", &error));
    return true;
}

/* One change, with the image opened by @by; the error has @refusal, or there is none (NULL). */
static void change(TestRoot *t, int qcow2, const char *path, const char *by, const char *words,
                   bool force, const char *refusal)
{
    g_autofree char *spelled = NULL;
    GError *error = NULL;
    BlockNode *node = open_with(t, qcow2, path, by, &error);
    BlockUser *user;
    int ret;

    assert_no_error(error);
    user = qcow2_attach(node);
    if (qcow2) {                           /* each word below "encrypt" */
        g_auto(GStrv) each = g_strsplit(words, ",", -1);
        g_autofree char *joined = g_strjoinv(",encrypt.", each);

        spelled = g_strconcat("encrypt.", joined, NULL);
    }
    ret = amend(node, spelled ? spelled : words, force, &error);
    if (refusal) {
        ck_assert_int_lt(ret, 0);
        assert_error(&error, refusal);
    } else {
        assert_no_error(error);
        ck_assert_int_eq(ret, 0);
    }
    qcow2_close_user(t, user);
}

START_TEST(keys_come_and_go)
{
    int q = _i;
    g_autofree char *path = g_strdup_printf("%s/keys.%d", test_dir(), q);
    g_autofree char *data = g_malloc(65536);
    TestRoot t = root_with_secrets();
    GError *error = NULL;
    BlockUser *user;

    ck_assert_int_eq(run_command("qemu-img create -q --object secret,id=a,data=a -f %s -o %s %s 1M",
                                 q ? "qcow2" : "luks",
                                 q ? "encrypt.format=luks,encrypt.key-secret=a,encrypt.iter-time=10"
                                   : "key-secret=a,iter-time=10", path), 0);
    user = qcow2_attach(open_with(&t, q, path, "a", &error));
    memset(data, 0x77, 65536);
    ck_assert_int_eq(test_request(user, OP_WRITE, 4096, data, 65536, 0), 0);
    qcow2_close_user(&t, user);
    change(&t, q, path, "a", "state=active,new-secret=b,iter-time=10", false, NULL);
    ck_assert(opens(&t, q, path, "a") && opens(&t, q, path, "b") && !opens(&t, q, path, "c"));
    change(&t, q, path, "b", "state=active,new-secret=c,keyslot=0,iter-time=10", false,
           "overwrite");
    change(&t, q, path, "b", "state=active,new-secret=c,old-secret=a", false, "must not be given");
    change(&t, q, path, "b", "state=active", false, "required");
    change(&t, q, path, "b", "state=inactive", false, "must be given");
    change(&t, q, path, "b", "state=inactive,keyslot=8", false, "between 0 and 7");
    change(&t, q, path, "b", "state=inactive,keyslot=5", false, "already erased");
    change(&t, q, path, "b", "state=inactive,old-secret=c", false, "No keyslots match");
    change(&t, q, path, "b", "state=inactive,keyslot=1,old-secret=a", false, "doesn't contain");
    change(&t, q, path, "b", "state=inactive,old-secret=a", false, NULL);
    ck_assert(!opens(&t, q, path, "a") && opens(&t, q, path, "b"));
    change(&t, q, path, "b", "state=inactive,keyslot=1", false, "last active");
    change(&t, q, path, "b", "state=inactive,old-secret=b", false, "last active");
    change(&t, q, path, "b", "state=active,new-secret=c,keyslot=1,iter-time=10", true, NULL);
    ck_assert(!opens(&t, q, path, "b") && opens(&t, q, path, "c"));
    ck_assert_int_eq(
        run_command("sh -c \"out=\\$(qemu-io --object secret,id=c,data=c --image-opts "
                    "driver=%s,%skey-secret=c,file.filename=%s -c 'read -P 0x77 4096 65536')"
                    " && ! echo \\$out | grep -qi fail\"",
                    q ? "qcow2" : "luks", q ? "encrypt." : "", path),
        0);
    change(&t, q, path, "c", "state=inactive,old-secret=c", true, NULL);
    ck_assert(!opens(&t, q, path, "c"));
    test_root_free(&t);
}
END_TEST

/* As a job, of an image that a guest writes to meanwhile: a write that is held up, and one after that, which
 * would not be let in while somebody waits to be alone. */

static struct {
    unsigned left;                         /* writes until the one that is held; 0: none is */
    Coroutine *held;
} hold;

static void co_fn hold_one(const char *what)
{
    if (strcmp(what, "write") || !hold.left || --hold.left)
        return;
    hold.held = co_self();
    co_yield();
}

typedef struct Write {
    BlockUser *user;
    uint64_t offset;
    bool done;
} Write;

static void co_fn write_co(void *opaque)
{
    static uint8_t data[4096];
    struct iovec iov = { data, sizeof(data) };
    Write *w = opaque;

    memset(data, 0x77, sizeof(data));
    ck_assert_int_eq(block_co_write(w->user, w->offset, &iov, 1, sizeof(data), 0), 0);
    w->done = true;
}

static BlockJob *amend_job(TestRoot *t, const char *options, GError **error)
{
    g_autofree char *text = g_strdup_printf("{\"job-id\": \"j\", \"node-name\": \"disk\", "
                                            "\"options\": %s}", options);
    g_autoptr(json_object) data = json_tokener_parse(text);

    ck_assert_ptr_nonnull(data);
    return block_amend_job(t->graph, data, error) ? block_job_find(t->graph, "j") : NULL;
}

/* Why it failed, or NULL; g_free. */
static char *end_of(BlockJob *job)
{
    GError *error = NULL;
    char *why;

    while (job->status != BLOCK_JOB_CONCLUDED)
        loop_iterate(loop_main(), true);
    why = job->error ? g_strdup(job->error->message) : NULL;
    ck_assert(block_job_dismiss(job, &error));
    return why;
}

static BlockNode *open_ram(TestRoot *t, int qcow2, const char *secret, GError **error)
{
    return test_open(t->graph, error, "driver=%s,node-name=disk,%skey-secret=%s,file.driver=ram",
                     qcow2 ? "qcow2" : "luks", qcow2 ? "encrypt." : "", secret);
}

START_TEST(keys_change_under_a_guest)
{
    static const char *const kinds[] = {
        "driver=luks,file=mem,size=65536,key-secret=a,iter-time=1",
        "driver=qcow2,file=mem,size=65536,cluster-size=4096,encrypt.format=luks,"
        "encrypt.key-secret=a,encrypt.iter-time=1",
    };
    static const char *const add[] = {
        "{\"driver\": \"luks\", \"state\": \"active\", \"new-secret\": \"b\", \"iter-time\": 1}",
        "{\"driver\": \"qcow2\", \"encrypt\": {\"format\": \"luks\", \"state\": \"active\", "
        "\"new-secret\": \"b\", \"iter-time\": 1}}",
    };
    static const char *const erase[] = {
        "{\"driver\": \"luks\", \"state\": \"inactive\", \"old-secret\": \"c\"}",
        "{\"driver\": \"qcow2\", \"encrypt\": {\"format\": \"luks\", \"state\": \"inactive\", "
        "\"old-secret\": \"c\"}}",
    };
    TestRoot t = root_with_secrets();
    GError *error = NULL;
    Write first = { 0 }, second = { .offset = 32768 };
    g_autofree char *why = NULL;
    BlockUser *user;
    BlockJob *job;

    ram_clear();
    ram_create(&t, kinds[_i]);
    user = qcow2_attach(open_ram(&t, _i, "a", &error));
    assert_no_error(error);
    first.user = second.user = user;
    co_run_sync(write_co, &first);         /* their clusters are there */
    co_run_sync(write_co, &second);
    first.done = second.done = false;
    hold.left = 1;
    ram.before = hold_one;
    co_start(write_co, &first);
    while (!hold.held)
        loop_iterate(loop_main(), true);
    job = amend_job(&t, add[_i], &error);
    assert_no_error(error);
    ck_assert_str_eq(job->type->name, "amend");
    co_start(write_co, &second);
    loop_wait(&second.done);
    ck_assert_ptr_null(end_of(job));
    ck_assert(!first.done);
    co_wake(hold.held);
    loop_wait(&first.done);
    ram.before = NULL;
    hold.held = NULL;
    job = amend_job(&t, erase[_i], &error);
    assert_no_error(error);
    why = end_of(job);
    ck_assert_ptr_nonnull(why);
    ck_assert_ptr_nonnull(strstr(why, "No keyslots match"));
    ck_assert_ptr_null(amend_job(&t, add[!_i], &error));
    assert_error(&error, "doesn't support changing the block driver");
    qcow2_close_user(&t, user);
    for (unsigned i = 0; i < 2; i++) {
        ck_assert_ptr_nonnull(open_ram(&t, _i, secrets[i], &error));
        ck_assert(block_node_delete(t.graph, "disk", &error));
    }
    test_root_free(&t);
}
END_TEST

static BlockNode *open_ram_luks(TestRoot *t, const char *secret, GError **error)
{
    return test_open(t->graph, error, "driver=luks,node-name=disk,key-secret=%s,file.driver=ram",
                     secret);
}

/* The only slot is given another passphrase, and is cut off anywhere. */
START_TEST(a_power_cut_while_a_key_changes)
{
    bool whole = false;

    for (unsigned at = 1; !whole && at < 200; at++) {
        TestRoot t = root_with_secrets();
        GRand *rand = g_rand_new_with_seed(at);
        GError *error = NULL;
        BlockNode *node;
        BlockUser *user;

        ram_clear();
        ram_create(&t, "driver=luks,file=mem,size=4096,key-secret=a,iter-time=1");
        ram_watch();
        user = qcow2_attach(open_ram_luks(&t, "a", &error));
        assert_no_error(error);
        ram.requests = 0;
        ram.fail_at = at;
        ram.fail_with = EIO;
        ram.dead = true;
        whole = amend(block_user_node(user), "state=active,new-secret=b,keyslot=0,iter-time=1",
                      true, &error) == 0;
        g_clear_error(&error);
        qcow2_close_user(&t, user);
        ram_power_cut(rand);
        node = open_ram_luks(&t, "b", &error);
        if (!node) {
            g_clear_error(&error);
            node = open_ram_luks(&t, "a", &error);
        }
        ck_assert_msg(node, "cut at %u: no passphrase opens the image", at);
        ck_assert(block_node_delete(t.graph, "disk", &error));
        g_rand_free(rand);
        test_root_free(&t);
    }
    ck_assert(whole);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, refcounts_of_any_width, 0, 3);
    tcase_add_test(tc, a_power_cut_while_the_width_changes);
    tcase_add_test(tc, what_cannot_be_changed);
    tcase_add_loop_test(tc, keys_come_and_go, 0, 2);
    tcase_add_loop_test(tc, keys_change_under_a_guest, 0, 2);
    tcase_add_test(tc, a_power_cut_while_a_key_changes);
}

int main(void)
{
    test_quick_clock();
    return run_block_tests("qcow2-amend", add_tests);
}

/*
 * Internal snapshots: random requests, taking, going back and deleting, by us and by qemu-img in turn,
 * against copies of the disk in memory.
 */
#include "qcow2-util.h"
#include "block/image.h"

#define DISK_BYTES (3 * MiB + 512)

typedef struct Kept {                      /* a snapshot, and what the disk was then */
    char *name;
    uint8_t *bytes;
} Kept;

typedef struct SnapshotTest {
    TestRoot root;
    DiskModel disk;
    const char *path, *open;
    GArray *kept;                          /* of Kept */
    unsigned next_name, most;
} SnapshotTest;

static const struct {
    const char *options, *open;
    uint64_t longest;
    unsigned most;                         /* snapshots at once: refcounts may be narrow */
} kinds[] = {
    { "", "", 300000, 6 },
    { "compat=0.10", "", 300000, 6 },
    { "cluster_size=512", "", 40000, 6 },
    { "cluster_size=4k,refcount_bits=2", "", 100000, 1 },   /* going back takes one more for a while */
    { "cluster_size=4k,lazy_refcounts=on", "", 100000, 6 },
    { "extended_l2=on,cluster_size=16k", "", 100000, 6 },
    { "preallocation=metadata,cluster_size=4k", ",l2-cache-size=4k,l2-cache-entry-size=512", 100000, 6 },
};

/* Verbs, from outside coroutines. */

typedef enum Verb { TAKE, GO_BACK, DELETE } Verb;

typedef struct VerbRun {
    BlockNode *node;
    Verb verb;
    const char *name;
    int ret;
    GError *error;
} VerbRun;

static void co_fn verb_co(void *opaque)
{
    VerbRun *run = opaque;
    BlockSnapshot snapshot = { .name = (char *)run->name, .icount = UINT64_MAX };

    switch (run->verb) {
    case TAKE:
        run->ret = block_co_snapshot_create(run->node, &snapshot, &run->error);
        g_free(snapshot.id);
        break;
    case GO_BACK:
        run->ret = block_co_snapshot_goto(run->node, run->name, &run->error);
        break;
    case DELETE:
        run->ret = block_co_snapshot_delete(run->node, run->name, &run->error);
        break;
    }
}

static int run_verb(SnapshotTest *t, Verb verb, const char *name, GError **error)
{
    VerbRun run = { block_user_node(t->disk.user), verb, name, -1, NULL };

    co_run_sync(verb_co, &run);
    if (error)
        *error = run.error;
    else
        assert_no_error(run.error);
    return run.ret;
}

/* By us, or by qemu-img on the closed image. */

static void open_disk(SnapshotTest *t)
{
    t->disk.user = qcow2_open_user(&t->root, t->path, t->open);
}

static void close_disk(SnapshotTest *t)
{
    qcow2_close_user(&t->root, t->disk.user);
    qcow2_check_image(t->path);
}

static void do_verb(SnapshotTest *t, Verb verb, const char *name, bool by_qemu)
{
    static const char *const options[] = { "-c", "-a", "-d" };

    if (!by_qemu) {
        ck_assert_int_eq(run_verb(t, verb, name, NULL), 0);
        return;
    }
    close_disk(t);
    ck_assert_int_eq(run_command("qemu-img snapshot %s %s %s", options[verb], name, t->path), 0);
    qcow2_check_image(t->path);
    open_disk(t);
}

static void step(SnapshotTest *t)
{
    GRand *rand = t->disk.rand;
    int what = g_rand_int_range(rand, 0, 10);
    bool by_qemu = g_rand_int_range(rand, 0, 4) == 0;
    unsigned i = t->kept->len ? g_rand_int_range(rand, 0, t->kept->len) : 0;

    if (what < 4) {
        model_run(&t->disk, 25);
    } else if (what == 4 || (what < 8 && t->kept->len < 2)) {
        Kept kept = { g_strdup_printf("s%u", t->next_name++), NULL };

        if (t->kept->len == t->most) {
            g_free(kept.name);
            return;
        }
        kept.bytes = g_memdup2(t->disk.bytes, t->disk.size);
        do_verb(t, TAKE, kept.name, by_qemu);
        g_array_append_val(t->kept, kept);
    } else if (what < 7) {
        Kept *kept = &g_array_index(t->kept, Kept, i);

        do_verb(t, GO_BACK, kept->name, by_qemu);
        memcpy(t->disk.bytes, kept->bytes, t->disk.size);
    } else if (what < 9 && t->kept->len) {
        Kept *kept = &g_array_index(t->kept, Kept, i);

        do_verb(t, DELETE, kept->name, by_qemu);
        g_free(kept->name);
        g_free(kept->bytes);
        g_array_remove_index(t->kept, i);
    } else {
        close_disk(t);
        open_disk(t);
    }
}

START_TEST(snapshots_keep_what_was)
{
    g_autofree char *path = qcow2_create("snapshots.qcow2", kinds[_i].options, DISK_BYTES);
    SnapshotTest t = { .root = test_root(), .path = path, .open = kinds[_i].open,
                       .kept = g_array_new(FALSE, FALSE, sizeof(Kept)), .most = kinds[_i].most };

    t.disk = (DiskModel){ .bytes = g_malloc0(DISK_BYTES), .size = DISK_BYTES,
                          .longest = kinds[_i].longest, .rand = g_rand_new_with_seed(_i + 100) };
    open_disk(&t);
    for (int i = 0; i < 60; i++)
        step(&t);
    close_disk(&t);
    qcow2_compare(path, t.disk.bytes, t.disk.size);
    /* Each one in turn, as qemu-img sees it. */
    for (unsigned i = 0; i < t.kept->len; i++) {
        Kept *kept = &g_array_index(t.kept, Kept, i);

        ck_assert_int_eq(run_command("qemu-img snapshot -a %s %s", kept->name, path), 0);
        qcow2_compare(path, kept->bytes, t.disk.size);
        g_free(kept->name);
        g_free(kept->bytes);
    }
    g_array_free(t.kept, TRUE);
    g_rand_free(t.disk.rand);
    g_free(t.disk.bytes);
    test_root_free(&t.root);
}
END_TEST

START_TEST(what_cannot_be_is_refused)
{
    g_autofree char *path = qcow2_create("refused.qcow2", "refcount_bits=1", DISK_BYTES);
    SnapshotTest t = { .root = test_root(), .path = path, .open = "" };
    g_autofree char *data = g_malloc0(65536);
    GError *error = NULL;

    open_disk(&t);
    ck_assert_int_lt(run_verb(&t, GO_BACK, "nobody", &error), 0);
    assert_error(&error, "Snapshot 'nobody' does not exist");
    ck_assert_int_lt(run_verb(&t, DELETE, "nobody", &error), 0);
    assert_error(&error, "Snapshot 'nobody' does not exist");
    ck_assert_int_eq(test_request(t.disk.user, OP_WRITE, 0, data, 65536, 0), 0);
    ck_assert_int_lt(run_verb(&t, TAKE, "one", &error), 0);   /* a refcount of 2 has no place */
    ck_assert_ptr_nonnull(error);
    g_clear_error(&error);
    close_disk(&t);
    test_root_free(&t.root);
}
END_TEST

typedef struct VmState {
    BlockNode *node;
    bool write;
    struct iovec iov;
    int ret;
} VmState;

static void co_fn vm_state_co(void *opaque)
{
    VmState *v = opaque;

    v->ret = v->write ? block_co_write_vmstate(v->node, 1000, &v->iov, 1, v->iov.iov_len)
                      : block_co_read_vmstate(v->node, 1000, &v->iov, 1, v->iov.iov_len);
}

START_TEST(vm_state_goes_with_its_snapshot)
{
    g_autofree char *path = qcow2_create("vmstate.qcow2", "cluster_size=4k", DISK_BYTES);
    g_autofree char *data = g_malloc(5 * MiB), *back = g_malloc0(5 * MiB);
    TestRoot t = test_root();
    BlockUser *user = qcow2_open_user(&t, path, "");
    VmState v = { block_user_node(user), true, { data, 5 * MiB }, -1 };
    SnapshotTest s = { .root = t, .path = path, .disk.user = user };

    for (size_t i = 0; i < 5 * MiB; i++)
        data[i] = i * 7 + i / 4096;
    co_run_sync(vm_state_co, &v);
    ck_assert_int_eq(v.ret, 0);
    ck_assert_int_eq(run_verb(&s, TAKE, "state", NULL), 0);
    memset(data, 0, 100);
    co_run_sync(vm_state_co, &v);
    ck_assert_int_eq(run_verb(&s, GO_BACK, "state", NULL), 0);
    v.write = false;
    v.iov.iov_base = back;
    co_run_sync(vm_state_co, &v);
    ck_assert_int_eq(v.ret, 0);
    for (size_t i = 0; i < 100; i++)
        data[i] = i * 7 + i / 4096;
    ck_assert_mem_eq(data, back, 5 * MiB);
    qcow2_close_user(&t, user);
    qcow2_check_image(path);
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, snapshots_keep_what_was, 0, G_N_ELEMENTS(kinds));
    tcase_add_test(tc, what_cannot_be_is_refused);
    tcase_add_test(tc, vm_state_goes_with_its_snapshot);
}

int main(void)
{
    return run_block_tests("qcow2-snapshot", add_tests);
}

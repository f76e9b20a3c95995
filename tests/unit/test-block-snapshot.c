/*
 * Internal snapshots of a disk whose guest goes on: alone, in transactions that are undone, and what is
 * told of them.
 */
#include "block-guest.h"
#include "block/image.h"
#include "qcow2-util.h"

enum { SIZE = 24 * 65536 + 4096 * 5 };

static unsigned seeds(void)
{
    const char *n = g_getenv("VIREO_TEST_SEEDS");

    return n ? MAX(atoi(n), 1) : 4;
}

static char *path_of(const char *name)
{
    return g_strdup_printf("%s/%s", test_dir(), name);
}

static BlockNode *new_disk(TestRoot *t, const char *name)
{
    g_autofree char *path = qcow2_create(name, "cluster_size=4k", SIZE);
    GError *error = NULL;
    BlockNode *node = test_open(t->graph, &error, "driver=qcow2,node-name=%s,discard=unmap,"
                                "file.driver=file,file.aio=threads,file.filename=%s", name, path);

    assert_no_error(error);
    return node;
}

/* "id:name " of each. */
static char *names(BlockNode *node)
{
    g_autoptr(json_object) info = block_node_image_info(node, NULL);
    json_object *list = NULL;
    GString *text = g_string_new(NULL);

    json_object_object_get_ex(info, "snapshots", &list);
    for (size_t i = 0; list && i < json_object_array_length(list); i++) {
        json_object *snapshot = json_object_array_get_idx(list, i);

        g_string_append_printf(text, "%s:%s ",
                               json_object_get_string(json_object_object_get(snapshot, "id")),
                               json_object_get_string(json_object_object_get(snapshot, "name")));
    }
    return g_string_free(text, FALSE);
}

static void check_names(BlockNode *node, const char *expected)
{
    g_autofree char *found = names(node);

    ck_assert_str_eq(found, expected);
}

static void delete(TestRoot *t, const char *device, const char *id, const char *name)
{
    GError *error = NULL;
    g_autoptr(json_object) info = block_internal_snapshot_delete(t->graph, device, id, name, &error);

    assert_no_error(error);
    ck_assert_ptr_nonnull(info);
}

typedef struct GoBack {
    BlockNode *node;
    const char *name;
    int ret;
} GoBack;

static void co_fn go_back(void *opaque)
{
    GoBack *run = opaque;

    run->ret = block_co_snapshot_goto(run->node, run->name, NULL);
}

static void check_snapshot(BlockNode *node, const char *name, const uint8_t *expected)
{
    GoBack run = { node, name, -1 };

    co_run_sync(go_back, &run);
    ck_assert_int_eq(run.ret, 0);
    check_disk(node, expected, name);
}

START_TEST(under_a_guest)
{
    g_autofree char *path = path_of("disk");
    g_autofree uint8_t *first = NULL, *second = NULL;
    TestRoot t;

    sched_seed(_i + 1);
    t = test_root();
    BlockNode *node = new_disk(&t, "disk");
    Guest *g = guest_new(node, _i);

    guest_fill(g, 0, SIZE / 2, 7);
    guest_start(g);
    guest_writes(g, 20);
    first = act(&t, g, "blockdev-snapshot-internal-sync", "device=disk,name=first");
    guest_writes(g, 20);
    g_free(act(&t, g, "blockdev-snapshot-internal-sync", "device=disk,name=gone"));
    guest_writes(g, 20);
    second = act(&t, g, "blockdev-snapshot-internal-sync", "device=disk,name=second");
    guest_writes(g, 20);
    delete(&t, "disk", NULL, "gone");
    guest_writes(g, 20);
    guest_stop(g);
    check_names(node, "1:first 3:second ");
    check_disk(node, g->disk, "the disk");
    guest_free(g);
    check_snapshot(node, "first", first);
    check_snapshot(node, "second", second);
    test_root_free(&t);
    sched_off();
    qcow2_check_image(path);
}
END_TEST

static int64_t test_clock(void *opaque)
{
    return 5 * 1000000000ll + 21;
}

static int64_t number(json_object *info, const char *key)
{
    return json_object_get_int64(json_object_object_get(info, key));
}

START_TEST(are_told_of)
{
    TestRoot t = test_root();
    BlockNode *node = new_disk(&t, "disk");
    g_autoptr(json_object) info = NULL;
    int64_t now = g_get_real_time() / 1000000;

    block_graph_set_clock(t.graph, test_clock, NULL);
    act(&t, NULL, "blockdev-snapshot-internal-sync", "device=disk,name=2");
    act(&t, NULL, "blockdev-snapshot-internal-sync", "device=disk,name=other");
    check_names(node, "1:2 2:other ");
    info = block_internal_snapshot_delete(t.graph, "disk", NULL, "2", NULL);   /* not the id 2 */
    check_names(node, "2:other ");
    ck_assert_str_eq(json_object_get_string(json_object_object_get(info, "id")), "1");
    ck_assert_str_eq(json_object_get_string(json_object_object_get(info, "name")), "2");
    ck_assert_int_eq(number(info, "vm-state-size"), 0);
    ck_assert_int_eq(number(info, "vm-clock-sec"), 5);
    ck_assert_int_eq(number(info, "vm-clock-nsec"), 21);
    ck_assert(number(info, "date-sec") >= now && number(info, "date-sec") <= now + 60);
    ck_assert(!json_object_object_get_ex(info, "icount", NULL));
    delete(&t, "disk", "2", "other");
    check_names(node, "");
    test_root_free(&t);
}
END_TEST

static void transact(TestRoot *t, const char *text, const char *refusal)
{
    g_autoptr(json_object) actions = options_parse(text, NULL, NULL);
    GError *error = NULL;

    ck_assert_ptr_nonnull(actions);
    ck_assert(!block_transaction(t->graph, json_object_object_get(actions, "actions"), false, &error));
    assert_error(&error, refusal);
}

#define SNAPSHOT(device, name)                                                                     \
    "{\"type\": \"blockdev-snapshot-internal-sync\", \"data\": {\"device\": \"" device             \
    "\", \"name\": \"" name "\"}}"

START_TEST(are_undone)
{
    g_autofree char *path = path_of("disk"), *raw = test_file("raw", SIZE);
    TestRoot t = test_root();
    BlockNode *node = new_disk(&t, "disk"), *other = new_disk(&t, "other");
    Guest *g = guest_new(node, 1);
    GError *error = NULL;

    test_open(t.graph, &error, "raw,node-name=raw,file.driver=file,file.filename=%s", raw);
    assert_no_error(error);
    guest_fill(g, 0, SIZE / 2, 7);
    act(&t, NULL, "blockdev-snapshot-internal-sync", "device=disk,name=old");
    transact(&t, "{\"actions\": [" SNAPSHOT("disk", "new") ", " SNAPSHOT("other", "new") ", "
             SNAPSHOT("raw", "new") "]}", "does not support internal snapshots");
    check_names(node, "1:old ");
    check_names(other, "");
    transact(&t, "{\"actions\": [" SNAPSHOT("other", "new") ", " SNAPSHOT("disk", "old") "]}",
             "Snapshot with name 'old' already exists on device 'disk'");
    check_names(other, "");
    guest_fill(g, SIZE / 4 / 512 * 512, SIZE / 2 / 512 * 512, 9);
    check_disk(node, g->disk, "the disk");
    guest_free(g);
    test_root_free(&t);
    qcow2_check_image(path);
}
END_TEST

static void refuse_take(TestRoot *t, const char *device, const char *name, const char *refusal)
{
    g_autoptr(json_object) data = json_object_new_object();
    GError *error = NULL;

    json_object_object_add(data, "device", json_object_new_string(device));
    json_object_object_add(data, "name", json_object_new_string(name));
    ck_assert(!block_action(t->graph, "blockdev-snapshot-internal-sync", data, &error));
    assert_error(&error, refusal);
}

static void refuse_delete(TestRoot *t, const char *id, const char *name, const char *refusal)
{
    GError *error = NULL;

    ck_assert_ptr_null(block_internal_snapshot_delete(t->graph, "disk", id, name, &error));
    assert_error(&error, refusal);
}

START_TEST(are_refused)
{
    TestRoot t = test_root();
    BlockNode *node = new_disk(&t, "disk");
    GError *error = NULL;
    Events e;

    events_on(&e, &t);
    act(&t, NULL, "blockdev-snapshot-internal-sync", "device=disk,name=a");
    refuse_take(&t, "nodisk", "a", "Cannot find device='nodisk' nor node-name='nodisk'");
    refuse_take(&t, "disk", "", "Name is empty");
    refuse_delete(&t, NULL, NULL, "Name or id must be provided");
    refuse_delete(&t, NULL, "b", "Snapshot with id 'null' and name 'b' does not exist on device 'disk'");
    refuse_delete(&t, "2", "a", "Snapshot with id '2' and name 'a' does not exist on device 'disk'");

    new_disk(&t, "copy");
    act(&t, NULL, "blockdev-backup", "device=disk,target=copy,sync=none,job-id=j");
    refuse_take(&t, "disk", "b", "in use by block job: backup");
    refuse_delete(&t, NULL, "a", "in use by block job: backup");
    ck_assert(block_job_cancel(block_job_find(t.graph, "j"), true, &error));
    wait_event(&e, "JOB_STATUS_CHANGE j null");

    ck_assert(block_node_set_read_only(node, true, &error));
    refuse_take(&t, "disk", "b", "Device 'disk' is read only");
    refuse_delete(&t, NULL, "a", "Device 'disk' is read only");
    check_names(node, "1:a ");
    events_off(&e);
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, under_a_guest, 0, seeds());
    tcase_add_test(tc, are_told_of);
    tcase_add_test(tc, are_undone);
    tcase_add_test(tc, are_refused);
}

int main(void)
{
    return run_block_tests("block-snapshot", add_tests);
}

/* block-set-write-threshold: one event when a node is first written past an offset. */
#include "block/change.h"
#include "qcow2-util.h"
#include "src/object/event.h"

typedef struct Seen {
    unsigned events;
    char *node_name;
    uint64_t threshold, exceeded;
} Seen;

static void note(const char *name, json_object *data, void *opaque)
{
    Seen *seen = opaque;

    if (strcmp(name, "BLOCK_WRITE_THRESHOLD"))
        return;
    seen->events++;
    g_free(seen->node_name);
    seen->node_name = g_strdup(json_object_get_string(json_object_object_get(data, "node-name")));
    seen->threshold = json_object_get_int64(json_object_object_get(data, "write-threshold"));
    seen->exceeded = json_object_get_int64(json_object_object_get(data, "amount-exceeded"));
}

static void set(TestRoot *t, const char *node, uint64_t bytes)
{
    GError *error = NULL;

    ck_assert(block_set_write_threshold(t->graph, node, bytes, &error));
    assert_no_error(error);
}

static uint64_t told(TestRoot *t, const char *node)
{
    g_autoptr(json_object) info = block_node_describe(block_node_find(t->graph, node));

    return json_object_get_int64(json_object_object_get(info, "write_threshold"));
}

static void put(BlockUser *user, TestOp op, uint64_t offset, uint64_t bytes)
{
    g_autofree uint8_t *data = g_malloc0(bytes);

    memset(data, 0x5a, bytes);
    ck_assert_int_eq(test_request(user, op, offset, data, bytes, 0), 0);
}

/* Plain writes go past the raw node, unless it has something to do. */
START_TEST(of_a_raw_disk)
{
    g_autofree char *path = test_file("raw.img", 1 * MiB);
    TestRoot t = test_root();
    GError *error = NULL;
    Seen seen = { 0 };
    BlockUser *user = test_user(test_open(t.graph, &error, "raw,node-name=disk,discard=unmap,"
                                          "file.driver=file,file.filename=%s", path));

    event_sink_add(t.root, note, &seen);
    ck_assert(!block_set_write_threshold(t.graph, "nodisk", 1, &error));
    assert_error(&error, "Device 'nodisk' not found");
    set(&t, "disk", 8192);
    ck_assert_uint_eq(told(&t, "disk"), 8192);
    put(user, OP_WRITE, 0, 8192);
    put(user, OP_READ, 8192, 4096);
    put(user, OP_DISCARD, 8192, 65536);
    ck_assert_uint_eq(seen.events, 0);
    put(user, OP_WRITE, 8000, 200);
    ck_assert_uint_eq(seen.events, 1);
    ck_assert_str_eq(seen.node_name, "disk");
    ck_assert_uint_eq(seen.threshold, 8192);
    ck_assert_uint_eq(seen.exceeded, 8);
    ck_assert_uint_eq(told(&t, "disk"), 0);
    put(user, OP_WRITE, 65536, 4096);
    ck_assert_uint_eq(seen.events, 1);
    set(&t, "disk", 4096);
    put(user, OP_ZERO, 65536, 4096);
    ck_assert_uint_eq(seen.events, 2);
    ck_assert_uint_eq(seen.exceeded, 65536);
    set(&t, "disk", 4096);
    set(&t, "disk", 0);
    put(user, OP_WRITE, 65536, 4096);
    ck_assert_uint_eq(seen.events, 2);
    event_sink_remove(t.root, note, &seen);
    g_free(seen.node_name);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

/* Below a format the guest's offsets do not matter, but where the file grows to. */
START_TEST(of_the_file_below)
{
    g_autofree char *path = qcow2_create("disk.qcow2", "", 64 * MiB);
    uint64_t cluster = 65536, limit = 32 * cluster;
    TestRoot t = test_root();
    Seen seen = { 0 };
    BlockUser *user = qcow2_open_user(&t, path, ",file.node-name=file");
    unsigned written = 0;

    event_sink_add(t.root, note, &seen);
    set(&t, "file", limit);
    put(user, OP_WRITE, 60 * MiB, cluster);
    ck_assert_uint_eq(seen.events, 0);
    for (; !seen.events && written < 64; written++)
        put(user, OP_WRITE, written * cluster, cluster);
    ck_assert_uint_eq(seen.events, 1);
    ck_assert_uint_gt(written, 16);
    ck_assert_uint_lt(written, 32);
    ck_assert_str_eq(seen.node_name, "file");
    ck_assert_uint_eq(seen.threshold, limit);
    ck_assert_uint_le(seen.exceeded, 16 * cluster);
    ck_assert_uint_eq(told(&t, "file"), 0);
    put(user, OP_WRITE, 50 * MiB, cluster);
    ck_assert_uint_eq(seen.events, 1);
    event_sink_remove(t.root, note, &seen);
    g_free(seen.node_name);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, of_a_raw_disk);
    tcase_add_test(tc, of_the_file_below);
}

int main(void)
{
    return run_block_tests("block-threshold", add_tests);
}

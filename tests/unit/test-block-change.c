/*
 * Changes of the graph under a user that reads and writes: another node in a node's place, a filter
 * above one and its removal, ranges that are held against others' writes.
 */
#include "block-util.h"
#include "block/change.h"
#include "block/node.h"
#include "src/base/sched.h"
#include "src/base/util.h"

enum { SIZE = 256 * 1024 };

static BlockNode *open_raw(TestRoot *t, const char *name, uint64_t size)
{
    g_autofree char *file = g_strconcat(name, ".img", NULL), *path = test_file(file, size);
    GError *error = NULL;
    BlockNode *node = test_open(t->graph, &error, "raw,node-name=%s,discard=unmap,file.driver=file,"
                                "file.node-name=%s-file,file.filename=%s", name, name, path);

    assert_no_error(error);
    return node;
}

static BlockUser *use(BlockNode *node, unsigned perm, unsigned shared)
{
    GError *error = NULL;
    BlockUser *user = block_user_new(node, "the test's user", perm, shared, &error);

    assert_no_error(error);
    return user;
}

static void check_byte(const char *name, uint64_t offset, uint8_t value)
{
    g_autofree char *path = g_strdup_printf("%s/%s.img", test_dir(), name), *data = NULL;
    gsize length;

    ck_assert(g_file_get_contents(path, &data, &length, NULL));
    ck_assert_uint_lt(offset, length);
    ck_assert_uint_eq((uint8_t)data[offset], value);
}

static void write_byte(BlockUser *user, uint64_t offset, uint8_t value)
{
    ck_assert_int_eq(test_request(user, OP_WRITE, offset, &value, 1, 0), 0);
}

static void count_call(void *count)
{
    ++*(unsigned *)count;
}

START_TEST(replaces_a_node)
{
    TestRoot t = test_root();
    BlockNode *a = open_raw(&t, "a", SIZE), *b = open_raw(&t, "b", 2 * SIZE), *kept = a;
    BlockUser *user = use(a, BLOCK_PERM_READ | BLOCK_PERM_WRITE, BLOCK_PERM_READ);
    BlockUser *other = use(b, BLOCK_PERM_WRITE, BLOCK_PERM_ALL);
    GError *error = NULL;
    unsigned resized = 0;

    block_user_keep(user, &kept);
    block_user_on_resize(user, count_call, &resized);
    write_byte(user, 5, 1);
    ck_assert(!block_node_replace(a, b, NULL, &error));
    assert_error(&error, "the test's user");
    ck_assert_ptr_eq(block_user_node(user), a);
    write_byte(user, 6, 2);
    block_user_free(other);

    ck_assert(block_node_replace(a, b, NULL, &error));
    assert_no_error(error);
    ck_assert_ptr_eq(block_user_node(user), b);
    ck_assert_ptr_eq(kept, b);
    ck_assert_uint_eq(resized, 1);
    write_byte(user, 2 * SIZE - 1, 3);
    check_byte("a", 5, 1);
    check_byte("a", 6, 2);
    check_byte("b", 2 * SIZE - 1, 3);
    ck_assert(block_node_delete(t.graph, "a", &error));
    ck_assert(!block_node_delete(t.graph, "b", &error));
    assert_error(&error, "the test's user");
    /* The locks have moved along: a second writer of b's file is refused. */
    ck_assert_ptr_null(block_user_new(block_node_find(t.graph, "b-file"), "x", BLOCK_PERM_WRITE,
                                      BLOCK_PERM_ALL, &error));
    assert_error(&error, "does not allow");
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

START_TEST(replaces_a_child)
{
    TestRoot t = test_root();
    BlockNode *a = open_raw(&t, "a", SIZE), *b = open_raw(&t, "b", SIZE);
    BlockNode *b_file = block_node_find(t.graph, "b-file");
    BlockUser *user = use(a, BLOCK_PERM_READ | BLOCK_PERM_WRITE, BLOCK_PERM_ALL);
    GError *error = NULL;

    ck_assert(!block_node_set_child(b, "file", b, &error));
    assert_error(&error, "cycle");
    ck_assert(block_node_set_child(a, "file", b_file, &error));
    write_byte(user, 7, 4);
    check_byte("b", 7, 4);
    check_byte("a", 7, 0);
    ck_assert_ptr_null(block_node_find(t.graph, "a-file"));    /* nobody holds it any more */
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

START_TEST(puts_a_filter_in_between)
{
    TestRoot t = test_root();
    BlockNode *a = open_raw(&t, "a", SIZE), *filter;
    BlockUser *user = use(a, BLOCK_PERM_READ | BLOCK_PERM_WRITE, BLOCK_PERM_READ);
    g_autoptr(json_object) options = options_parse("driver=raw", NULL, NULL);
    GError *error = NULL;

    filter = block_node_insert_filter(a, options, NULL, &error);
    assert_no_error(error);
    ck_assert_ptr_eq(block_user_node(user), filter);
    ck_assert_ptr_eq(block_node_file(filter), a);
    write_byte(user, 9, 5);
    check_byte("a", 9, 5);
    ck_assert(block_node_remove_filter(filter, &error));
    block_node_put(filter);
    ck_assert_ptr_eq(block_user_node(user), a);
    write_byte(user, 10, 6);
    check_byte("a", 10, 6);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

/* Writers add one to a byte under the range lock, in two steps with waits in between, while others
 * write it plainly: no plain write may come in between the two steps. */

enum { STEPS = 6 };

typedef struct Holder {
    BlockNode *node;
    BlockUser *user;
    unsigned *running;
    bool *broken;
    bool plain;
} Holder;

static void co_fn hold_ranges(void *opaque)
{
    Holder *h = opaque;
    uint8_t data[512], back[512];
    struct iovec out = { data, sizeof(data) }, in = { back, sizeof(back) };

    for (unsigned i = 0; i < STEPS; i++) {
        memset(data, (h->plain ? 100 : 1) + i, sizeof(data));
        if (h->plain) {
            ck_assert_int_eq(block_co_write(h->user, 0, &out, 1, sizeof(data), 0), 0);
            continue;
        }
        BlockRange *range = block_range_lock(h->node, 0, 4096, i % 2);

        ck_assert_int_eq(block_node_co_write(h->node, 0, &out, 1, sizeof(data), BLOCK_HELD), 0);
        co_pause();
        ck_assert_int_eq(block_node_co_read(h->node, 0, &in, 1, sizeof(back)), 0);
        *h->broken |= memcmp(data, back, sizeof(data)) != 0;
        block_range_unlock(range);
    }
    --*h->running;
}

START_TEST(ranges_are_held)
{
    TestRoot t;
    unsigned running = 3;
    bool broken = false;

    sched_seed(_i);
    t = test_root();
    BlockNode *a = open_raw(&t, "a", SIZE);
    BlockUser *user = use(a, BLOCK_PERM_READ | BLOCK_PERM_WRITE, BLOCK_PERM_ALL);
    Holder holders[3] = { { a, user, &running, &broken, false }, { a, user, &running, &broken, true },
                          { a, user, &running, &broken, true } };

    block_node_order(a, false, true);
    for (unsigned i = 0; i < 3; i++)
        co_start(hold_ranges, &holders[i]);
    while (running)
        loop_iterate(loop_main(), true);
    ck_assert(!broken);
    block_node_order(a, false, false);
    block_user_free(user);
    test_root_free(&t);
    sched_off();
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, replaces_a_node);
    tcase_add_test(tc, replaces_a_child);
    tcase_add_test(tc, puts_a_filter_in_between);
    tcase_add_loop_test(tc, ranges_are_held, 1, 40);
}

int main(void)
{
    return run_block_tests("block-change", add_tests);
}

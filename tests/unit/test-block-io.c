/*
 * Requests of any size and alignment, against a model in memory: on every engine, with and without
 * O_DIRECT, with several requests at once, and (seeded) with overlapping read-modify-writes.
 */
#include "block-util.h"
#include "src/base/sched.h"
#include "src/base/util.h"

#define IMAGE_BYTES (2 * MiB + 512)

typedef struct Setup {
    const char *aio;
    bool direct;
    const char *more;              /* further options of the file node */
} Setup;

static const Setup setups[] = {
    { "threads", false, "" },
    { "threads", true, "" },
    { "io_uring", false, "" },
    { "io_uring", true, "" },
    { "io_uring", true, ",file.discard=unmap,detect-zeroes=unmap,discard=unmap" },
    { "native", true, "" },
};

static bool usable(const Setup *s)
{
    if (s->direct && !test_direct_io()) {
        printf("skipped: no O_DIRECT in %s\n", test_dir());
        return false;
    }
    return true;
}

static BlockNode *open_setup(TestRoot *t, const Setup *s, const char *path)
{
    GError *error = NULL;
    BlockNode *node =
        test_open(t->graph, &error, "driver=raw,node-name=disk,cache.direct=%s,file.driver=file,"
                  "file.filename=%s,file.aio=%s%s", s->direct ? "on" : "off", path, s->aio, s->more);

    assert_no_error(error);
    return node;
}

static BlockUser *attach(BlockNode *node)
{
    GError *error = NULL;
    BlockUser *user = block_user_new(node, "test", BLOCK_PERM_READ | BLOCK_PERM_WRITE,
                                     BLOCK_PERM_ALL, &error);

    assert_no_error(error);
    return user;
}

static void fill(uint8_t *buffer, size_t bytes, GRand *rand)
{
    uint8_t seed = g_rand_int_range(rand, 0, 256);

    for (size_t i = 0; i < bytes; i++)
        buffer[i] = seed + i * 7;
}

/* A vector over @buffer in random pieces. */
static int cut(struct iovec *iov, int max, uint8_t *buffer, uint64_t bytes, GRand *rand)
{
    int n = 0;

    while (bytes && n < max - 1) {
        uint64_t length = (uint64_t)g_rand_int_range(rand, 1, 3) << g_rand_int_range(rand, 0, 14);

        length = MIN(length, bytes);
        iov[n++] = (struct iovec){ buffer, length };
        buffer += length;
        bytes -= length;
    }
    if (bytes)
        iov[n++] = (struct iovec){ buffer, bytes };
    return n;
}

static void random_range(GRand *rand, uint64_t *offset, uint64_t *bytes)
{
    uint64_t unit = g_rand_boolean(rand) ? 1 : g_rand_boolean(rand) ? 512 : 4096;
    uint64_t limit = IMAGE_BYTES / unit;

    *offset = g_rand_int_range(rand, 0, limit);
    *bytes = g_rand_int_range(rand, 1, 200 * KiB / unit + 2);
    *bytes = MIN(*bytes, limit - *offset) * unit;
    *offset *= unit;
}

typedef struct RandomRun {
    BlockUser *user;
    uint8_t *model, *memory;
    GRand *rand;
    int steps;
} RandomRun;

static void co_fn one_step(RandomRun *run)
{
    uint64_t offset, bytes;
    uint8_t *buffer = run->memory + g_rand_int_range(run->rand, 0, 3) * 256;
    struct iovec iov[40];
    int iovcnt, what = g_rand_int_range(run->rand, 0, 10);

    random_range(run->rand, &offset, &bytes);
    iovcnt = cut(iov, G_N_ELEMENTS(iov), buffer, bytes, run->rand);
    if (what < 5) {
        memset(buffer, 0xee, bytes);
        ck_assert_int_eq(block_co_read(run->user, offset, iov, iovcnt, bytes), 0);
        ck_assert_msg(!memcmp(buffer, run->model + offset, bytes), "read of %" PRIu64 " at %" PRIu64,
                      bytes, offset);
    } else if (what < 8) {
        if (what == 7)
            memset(buffer, 0, bytes);
        else
            fill(buffer, bytes, run->rand);
        memcpy(run->model + offset, buffer, bytes);
        ck_assert_int_eq(block_co_write(run->user, offset, iov, iovcnt, bytes,
                                        g_rand_int_range(run->rand, 0, 16) ? 0 : BLOCK_FUA), 0);
    } else if (what == 8) {
        memset(run->model + offset, 0, bytes);
        ck_assert_int_eq(block_co_zero(run->user, offset, bytes,
                                       g_rand_boolean(run->rand) ? BLOCK_MAY_UNMAP : 0), 0);
    } else {
        ck_assert_int_eq(block_co_flush(run->user), 0);
    }
}

static void co_fn random_steps(void *opaque)
{
    RandomRun *run = opaque;

    for (int i = 0; i < run->steps; i++)
        one_step(run);
}

START_TEST(random_requests_match_a_model)
{
    const Setup *s = &setups[_i];
    TestRoot t = test_root();
    g_autofree char *path = test_file("random.img", IMAGE_BYTES);
    g_autofree char *content = NULL;
    RandomRun run = { .rand = g_rand_new_with_seed(_i + 1), .steps = 400 };
    gsize length;

    if (usable(s)) {
        run.user = attach(open_setup(&t, s, path));
        run.model = g_malloc0(IMAGE_BYTES);
        ck_assert_int_eq(posix_memalign((void **)&run.memory, 4096, 1 * MiB), 0);
        co_run_sync(random_steps, &run);
        block_user_free(run.user);
        ck_assert(block_node_delete(t.graph, "disk", NULL));
        ck_assert(g_file_get_contents(path, &content, &length, NULL));
        ck_assert_uint_eq(length, IMAGE_BYTES);    /* padding of the last block was cut off */
        ck_assert(!memcmp(content, run.model, length));
        free(run.memory);
        g_free(run.model);
    }
    g_rand_free(run.rand);
    test_root_free(&t);
}
END_TEST

/* Many at once, each in a place of its own that shares blocks with its neighbours. */

enum { WRITERS = 16, STRIPE = 1000, ROUNDS = 12 };

typedef struct Writer {
    BlockUser *user;
    unsigned index;
    unsigned *left;
    bool *done;
    uint8_t data[STRIPE];
    int ret;
} Writer;

static void co_fn write_stripe(void *opaque)
{
    Writer *w = opaque;
    struct iovec iov = { w->data, STRIPE };

    for (int round = 0; round < ROUNDS && w->ret == 0; round++) {
        memset(w->data, round * WRITERS + w->index, STRIPE);
        w->ret = block_co_write(w->user, w->index * STRIPE, &iov, 1, STRIPE, 0);
    }
    if (!--*w->left)
        *w->done = true;
}

static void write_stripes(BlockUser *user, const char *path)
{
    Writer *writers = g_new0(Writer, WRITERS);
    unsigned left = WRITERS;
    bool done = false;
    g_autofree char *content = NULL;
    gsize length;

    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (Writer){ .user = user, .index = i, .left = &left, .done = &done };
        co_start(write_stripe, &writers[i]);
    }
    loop_wait(&done);
    ck_assert(g_file_get_contents(path, &content, &length, NULL));
    for (unsigned i = 0; i < WRITERS; i++)
        ck_assert_msg(all_bytes(content + i * STRIPE, STRIPE, (ROUNDS - 1) * WRITERS + i),
                      "the bytes of writer %u are not all its last ones", i);
    for (unsigned i = 0; i < WRITERS; i++)
        ck_assert_int_eq(writers[i].ret, 0);
    g_free(writers);
}

START_TEST(neighbours_do_not_lose_writes)
{
    const Setup *s = &setups[_i];
    TestRoot t = test_root();
    g_autofree char *path = test_file("stripes.img", 1 * MiB);

    if (usable(s)) {
        BlockUser *user = attach(open_setup(&t, s, path));

        write_stripes(user, path);
        block_user_free(user);
    }
    test_root_free(&t);
}
END_TEST

/* The same under drawn orders: a number that fails replays. */
START_TEST(seeded_orders_do_not_lose_writes)
{
    g_autofree char *path = test_file("seeded.img", 1 * MiB);
    const Setup s = { _i & 1 ? "io_uring" : "threads", true, "" };

    if (usable(&s)) {
        for (uint64_t seed = _i * 100; seed < (uint64_t)_i * 100 + 12; seed++) {
            TestRoot t = test_root();
            BlockUser *user;

            sched_seed(seed);
            user = attach(open_setup(&t, &s, path));
            write_stripes(user, path);
            block_user_free(user);
            sched_off();
            test_root_free(&t);
        }
    }
}
END_TEST

/* A whole block is written while a part of it is changed: whichever comes first, what only the first
 * touches is its. */

enum { PAIRS = 4 };

typedef struct PairWrite {
    BlockUser *user;
    uint64_t offset, bytes;
    uint8_t *data;
    unsigned *left;
    bool *done;
    int ret;
} PairWrite;

static void co_fn write_one(void *opaque)
{
    PairWrite *w = opaque;
    struct iovec iov = { w->data, w->bytes };

    w->ret = block_co_write(w->user, w->offset, &iov, 1, w->bytes, 0);
    if (!--*w->left)
        *w->done = true;
}

static void write_pairs(BlockUser *user, uint64_t block, uint8_t value)
{
    PairWrite writes[2 * PAIRS];
    uint8_t *whole, part[100], *back;
    unsigned left = 2 * PAIRS;
    bool done = false;

    ck_assert_int_eq(posix_memalign((void **)&whole, 4096, block), 0);
    back = g_malloc(block);
    memset(whole, value, block);
    memset(part, ~value, sizeof(part));
    for (unsigned i = 0; i < PAIRS; i++) {
        PairWrite *w = &writes[2 * i];

        w[0] = (PairWrite){ user, i * block, block, whole, &left, &done, 0 };
        w[1] = (PairWrite){ user, i * block + 7, sizeof(part), part, &left, &done, 0 };
    }
    for (unsigned i = 0; i < 2 * PAIRS; i++)
        co_start(write_one, &writes[i]);
    loop_wait(&done);
    for (unsigned i = 0; i < PAIRS; i++) {
        ck_assert_int_eq(writes[2 * i].ret, 0);
        ck_assert_int_eq(writes[2 * i + 1].ret, 0);
        ck_assert_int_eq(test_request(user, OP_READ, i * block, back, block, 0), 0);
        ck_assert_msg(all_bytes(back, 7, value) &&
                          all_bytes(back + 7 + sizeof(part), block - 7 - sizeof(part), value),
                      "block %u has lost what was written to the whole of it", i);
        ck_assert(all_bytes(back + 7, sizeof(part), back[7]));
        ck_assert(back[7] == value || back[7] == (uint8_t)~value);
    }
    free(whole);
    g_free(back);
}

START_TEST(whole_blocks_survive_changes_of_a_part)
{
    g_autofree char *path = test_file("pairs.img", 1 * MiB);
    const Setup s = { _i & 1 ? "io_uring" : "threads", true, "" };

    if (usable(&s)) {
        for (uint64_t seed = 1; seed <= 100; seed++) {
            TestRoot t = test_root();
            BlockUser *user;

            sched_seed(seed);
            user = attach(open_setup(&t, &s, path));
            write_pairs(user, block_node_limits(block_user_node(user)).request_alignment, seed);
            block_user_free(user);
            sched_off();
            test_root_free(&t);
        }
    }
}
END_TEST

/* Bounds and sizes. */

START_TEST(past_the_end)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("end.img", 1000);
    GError *error = NULL;
    uint8_t data[2048];
    BlockNode *node = test_open(t.graph, &error, "driver=file,node-name=disk,filename=%s", path);
    BlockUser *user;
    struct stat st;

    assert_no_error(error);
    ck_assert_int_eq(block_node_size(node), 1024);     /* whole sectors */
    user = attach(node);
    memset(data, 1, sizeof(data));
    ck_assert_int_eq(test_request(user, OP_READ, 512, data, 512, 0), 0);
    ck_assert(all_bytes(data, 512, 0));
    ck_assert_int_eq(test_request(user, OP_READ, 512, data, 513, 0), -EIO);
    ck_assert_int_eq(test_request(user, OP_READ, UINT64_MAX, data, 2, 0), -EIO);
    ck_assert_int_eq(test_request(user, OP_WRITE, 1024, data, 1, 0), -EIO);
    ck_assert_int_eq(test_request(user, OP_WRITE, UINT64_MAX - 511, data, 512, 0), -EIO);
    ck_assert_int_eq(test_request(user, OP_ZERO, 1000, NULL, 25, 0), -EIO);
    ck_assert_int_eq(test_request(user, OP_DISCARD, 1024, NULL, 1, 0), -EIO);
    ck_assert_int_eq(test_request(user, OP_READ, 1024, data, 0, 0), 0);
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_int_eq(st.st_size, 1000);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

START_TEST(raw_window)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("window.img", 64 * KiB), *content = NULL;
    GError *error = NULL;
    uint8_t data[512];
    gsize length;
    BlockNode *node = test_open(t.graph, &error, "driver=raw,node-name=disk,offset=4608,size=8K,"
                                "file.driver=file,file.filename=%s", path);
    BlockUser *user;

    assert_no_error(error);
    ck_assert_int_eq(block_node_size(node), 8 * KiB);
    user = attach(node);
    memset(data, 0xab, sizeof(data));
    ck_assert_int_eq(test_request(user, OP_WRITE, 512, data, 512, 0), 0);
    ck_assert_int_eq(test_request(user, OP_WRITE, 8 * KiB - 511, data, 512, 0), -EIO);
    ck_assert_int_eq(test_request(user, OP_READ, 8 * KiB - 511, data, 512, 0), -EIO);
    block_user_free(user);
    ck_assert(g_file_get_contents(path, &content, &length, NULL));
    ck_assert(all_bytes(content, 5120, 0));
    ck_assert(all_bytes(content + 5120, 512, 0xab));
    ck_assert(all_bytes(content + 5632, length - 5632, 0));
    ck_assert_ptr_null(test_open(t.graph, &error, "driver=raw,node-name=r2,offset=60K,size=8K,"
                                 "file=disk"));
    assert_error(&error, "past the end");
    test_root_free(&t);
}
END_TEST

START_TEST(discard_and_zero_free_space)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("holes.img", 4 * MiB);
    GError *error = NULL;
    g_autofree uint8_t *data = g_malloc(1 * MiB);
    BlockNode *node = test_open(t.graph, &error, "driver=raw,node-name=disk,discard=unmap,"
                                "file.driver=file,file.filename=%s", path);
    BlockUser *user;
    struct stat before, after;

    assert_no_error(error);
    user = attach(node);
    memset(data, 0x77, 1 * MiB);
    ck_assert_int_eq(test_request(user, OP_WRITE, 0, data, 1 * MiB, 0), 0);
    ck_assert_int_eq(test_request(user, OP_WRITE, 1 * MiB, data, 1 * MiB, 0), 0);
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    ck_assert_int_eq(stat(path, &before), 0);
    ck_assert_int_eq(test_request(user, OP_DISCARD, 0, NULL, 1 * MiB, 0), 0);
    ck_assert_int_eq(test_request(user, OP_ZERO, 1 * MiB, NULL, 1 * MiB, BLOCK_MAY_UNMAP), 0);
    ck_assert_int_eq(stat(path, &after), 0);
    ck_assert_int_lt(after.st_blocks, before.st_blocks);
    ck_assert_int_eq(test_request(user, OP_READ, 1 * MiB, data, 1 * MiB, 0), 0);
    ck_assert(all_bytes(data, 1 * MiB, 0));
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

START_TEST(discard_is_ignored_by_default)
{
    TestRoot t = test_root();
    g_autofree char *path = test_file("kept.img", 1 * MiB);
    GError *error = NULL;
    uint8_t data[4096];
    BlockNode *node = test_open(t.graph, &error, "driver=raw,node-name=disk,file.driver=file,"
                                "file.filename=%s", path);
    BlockUser *user;

    assert_no_error(error);
    user = attach(node);
    memset(data, 9, sizeof(data));
    ck_assert_int_eq(test_request(user, OP_WRITE, 0, data, sizeof(data), 0), 0);
    ck_assert_int_eq(test_request(user, OP_DISCARD, 0, NULL, sizeof(data), 0), 0);
    ck_assert_int_eq(test_request(user, OP_READ, 0, data, sizeof(data), 0), 0);
    ck_assert_uint_eq(data[17], 9);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

START_TEST(null_disk)
{
    TestRoot t = test_root();
    GError *error = NULL;
    uint8_t data[512] = { 1 };
    BlockNode *node = test_open(t.graph, &error, "driver=null-co,node-name=disk,size=10T,"
                                "read-zeroes=on,latency-ns=1000");
    BlockUser *user;
    BlockStats stats;

    assert_no_error(error);
    ck_assert_int_eq(block_node_size(node), 10 * TiB);
    user = attach(node);
    ck_assert_int_eq(test_request(user, OP_READ, 10 * TiB - 512, data, 512, 0), 0);
    ck_assert_uint_eq(data[0], 0);
    ck_assert_int_eq(test_request(user, OP_WRITE, 9 * TiB, data, 512, 0), 0);
    ck_assert_int_eq(test_request(user, OP_READ, 10 * TiB - 511, data, 512, 0), -EIO);
    stats = block_user_stats(user);
    ck_assert_uint_eq(stats.of[BLOCK_ACCT_READ].operations, 1);
    ck_assert_uint_eq(stats.of[BLOCK_ACCT_READ].bytes, 512);
    ck_assert_uint_eq(stats.of[BLOCK_ACCT_READ].failed, 1);
    ck_assert_uint_ge(stats.of[BLOCK_ACCT_READ].total_time_ns, 1000);
    ck_assert_uint_eq(stats.of[BLOCK_ACCT_WRITE].operations, 1);
    ck_assert_uint_eq(stats.wr_highest_offset, 9 * TiB + 512);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, random_requests_match_a_model, 0, G_N_ELEMENTS(setups));
    tcase_add_loop_test(tc, neighbours_do_not_lose_writes, 0, G_N_ELEMENTS(setups));
    tcase_add_loop_test(tc, seeded_orders_do_not_lose_writes, 0, 4);
    tcase_add_loop_test(tc, whole_blocks_survive_changes_of_a_part, 0, 2);
    tcase_add_test(tc, past_the_end);
    tcase_add_test(tc, raw_window);
    tcase_add_test(tc, discard_and_zero_free_space);
    tcase_add_test(tc, discard_is_ignored_by_default);
    tcase_add_test(tc, null_disk);
}

int main(void)
{
    return run_block_tests("block-io", add_tests);
}

/*
 * A driver of the test's own under the core: one with narrow limits, without some verbs, and one that
 * fails when told to.  What the core promises a driver is checked in the driver.
 */
#include "block-util.h"
#include <signal.h>
#include <sys/resource.h>
#include "src/base/util.h"
#include "src/object/event.h"

#define DISK_BYTES (1 * MiB)

/* What the driver does, and what it saw. */
static struct {
    uint32_t align, memory_align, max_iov;
    uint64_t max_transfer, max_zeroes;
    int zero_result;               /* of co_zero; 0: it works */
    int flush_result;
    unsigned refuse_perm;
    int fail_at, fail_with;        /* the n-th transfer from now fails; 0: none */
    int64_t size, resized;
    unsigned reads, writes, flushes, zeroes, discards, zero_flags;
    uint8_t data[DISK_BYTES];
} fake;

static bool fake_open(BlockNode *node, json_object *options, GError **error)
{
    return true;
}

static int64_t fake_get_size(BlockNode *node)
{
    return fake.size;
}

static void fake_limits(BlockNode *node, BlockLimits *limits)
{
    limits->request_alignment = fake.align;
    limits->buffer_alignment = fake.memory_align;
    limits->max_iov = fake.max_iov;
    limits->max_transfer = fake.max_transfer;
    limits->max_write_zeroes = fake.max_zeroes;
}

static bool fails(void)
{
    return fake.fail_at && !--fake.fail_at;
}

static void check_request(uint64_t offset, const struct iovec *iov, int iovcnt, uint64_t bytes)
{
    uint64_t total = 0;

    ck_assert_uint_le(offset, DISK_BYTES);
    ck_assert_uint_le(bytes, DISK_BYTES - offset);
    ck_assert_uint_eq(offset % fake.align, 0);
    ck_assert_uint_eq(bytes % fake.align, 0);
    ck_assert_uint_gt(bytes, 0);
    ck_assert(!fake.max_transfer || bytes <= fake.max_transfer);
    ck_assert(!fake.max_iov || iovcnt <= (int)fake.max_iov);
    for (int i = 0; i < iovcnt; i++) {
        ck_assert_uint_eq((uintptr_t)iov[i].iov_base % fake.memory_align, 0);
        ck_assert_uint_eq(iov[i].iov_len % fake.align, 0);
        total += iov[i].iov_len;
    }
    ck_assert_uint_eq(total, bytes);
}

static int co_fn fake_read(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                           uint64_t bytes)
{
    check_request(offset, iov, iovcnt, bytes);
    fake.reads++;
    co_pause();
    if (fails())
        return -fake.fail_with;
    for (int i = 0; i < iovcnt; offset += iov[i++].iov_len)
        memcpy(iov[i].iov_base, fake.data + offset, iov[i].iov_len);
    return 0;
}

static int co_fn fake_write(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                            uint64_t bytes, unsigned flags)
{
    check_request(offset, iov, iovcnt, bytes);
    ck_assert_uint_eq(flags, 0);
    fake.writes++;
    co_pause();
    if (fails())
        return -fake.fail_with;
    for (int i = 0; i < iovcnt; offset += iov[i++].iov_len)
        memcpy(fake.data + offset, iov[i].iov_base, iov[i].iov_len);
    return 0;
}

static int co_fn fake_zero(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    ck_assert_uint_eq(offset % fake.align, 0);
    ck_assert_uint_eq(bytes % fake.align, 0);
    ck_assert(!fake.max_zeroes || bytes <= fake.max_zeroes);
    fake.zeroes++;
    fake.zero_flags = flags;
    if (fake.zero_result)
        return fake.zero_result;
    memset(fake.data + offset, 0, bytes);
    return 0;
}

static int co_fn fake_discard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    fake.discards++;
    return -ENOTSUP;
}

static int co_fn fake_flush(BlockNode *node)
{
    fake.flushes++;
    return fake.flush_result;
}

static int co_fn fake_resize(BlockNode *node, uint64_t bytes, GError **error)
{
    fake.resized = bytes;
    return 0;
}

static bool fake_set_perm(BlockNode *node, unsigned perm, unsigned shared, GError **error)
{
    return !(perm & fake.refuse_perm) || fail(error, ERR_LOCKED, "the fake refuses");
}

static const BlockDriver fake_driver = {
    .name = "fake", .help = "a disk of a test", .is_protocol = true, .open = fake_open,
    .get_size = fake_get_size, .limits = fake_limits, .co_read = fake_read,
    .co_write = fake_write, .co_zero = fake_zero, .co_discard = fake_discard,
    .co_flush = fake_flush, .set_perm = fake_set_perm,
    .co_resize = fake_resize,
};
BLOCK_DRIVER(fake_driver)

static void reset_fake(void)
{
    memset(&fake, 0, sizeof(fake));
    fake.align = fake.memory_align = 1;
    fake.size = DISK_BYTES;
}

static BlockUser *open_fake(TestRoot *t, const char *more)
{
    GError *error = NULL;
    BlockNode *node = test_open(t->graph, &error, "raw,node-name=top,file.driver=fake%s", more);
    BlockUser *user;

    assert_no_error(error);
    user = test_user(node);
    return user;
}

/* Limits. */

static const struct {
    uint32_t align, memory_align, max_iov;
    uint64_t max_transfer, max_zeroes;
} limits[] = {
    { 1, 1, 1, 0, 0 },          { 1, 1, 3, 1000, 777 },    { 512, 512, 0, 0, 0 },
    { 512, 4, 2, 8192, 1024 },  { 4096, 4096, 2, 4096, 0 }, { 4096, 4096, 16, 65536, 8192 },
};

typedef struct Run {
    BlockUser *user;
    GRand *rand;
    uint8_t *model;
    uint8_t buffer[160 * KiB];
} Run;

static void co_fn random_requests(void *opaque)
{
    Run *run = opaque;

    for (int i = 0; i < 600; i++) {
        uint64_t offset = g_rand_int_range(run->rand, 0, DISK_BYTES);
        uint64_t bytes = g_rand_int_range(run->rand, 0, 128 * KiB);
        uint8_t *buffer = run->buffer + g_rand_int_range(run->rand, 0, 600);
        struct iovec iov[64];
        int iovcnt = 0;

        bytes = MIN(bytes, DISK_BYTES - offset);
        for (uint64_t at = 0; at < bytes; iovcnt++) {
            uint64_t n = iovcnt == 63 ? bytes : (uint64_t)g_rand_int_range(run->rand, 0, 5000);

            n = MIN(n, bytes - at);
            iov[iovcnt] = (struct iovec){ buffer + at, n };
            at += n;
        }
        switch (g_rand_int_range(run->rand, 0, 4)) {
        case 0:
        case 1:
            ck_assert_int_eq(block_co_read(run->user, offset, iov, iovcnt, bytes), 0);
            ck_assert(!memcmp(buffer, run->model + offset, bytes));
            break;
        case 2:
            memset(buffer, i, bytes);
            memset(run->model + offset, i, bytes);
            ck_assert_int_eq(block_co_write(run->user, offset, iov, iovcnt, bytes, 0), 0);
            break;
        case 3:
            memset(run->model + offset, 0, bytes);
            ck_assert_int_eq(block_co_zero(run->user, offset, bytes, 0), 0);
            break;
        }
    }
}

START_TEST(drivers_get_what_they_can_take)
{
    TestRoot t = test_root();
    Run *run = g_new0(Run, 1);

    reset_fake();
    fake.align = limits[_i].align;
    fake.memory_align = limits[_i].memory_align;
    fake.max_iov = limits[_i].max_iov;
    fake.max_transfer = limits[_i].max_transfer;
    fake.max_zeroes = limits[_i].max_zeroes;
    run->user = open_fake(&t, "");
    run->rand = g_rand_new_with_seed(_i);
    run->model = g_malloc0(DISK_BYTES);
    co_run_sync(random_requests, run);
    ck_assert(!memcmp(fake.data, run->model, DISK_BYTES));
    block_user_free(run->user);
    g_rand_free(run->rand);
    g_free(run->model);
    g_free(run);
    test_root_free(&t);
}
END_TEST

/* The last block of a disk whose size is no multiple of its alignment. */
START_TEST(padding_of_the_last_block_is_cut_off)
{
    TestRoot t = test_root();
    uint8_t buffer[1000];
    BlockUser *user;

    reset_fake();
    fake.align = 4096;
    fake.size = DISK_BYTES - 512;
    user = open_fake(&t, "");
    memset(buffer, 3, sizeof(buffer));
    ck_assert_int_eq(test_request(user, OP_WRITE, DISK_BYTES - 512 - 100, buffer, 100, 0), 0);
    ck_assert_int_eq(fake.resized, DISK_BYTES - 512);
    ck_assert_int_eq(fake.data[DISK_BYTES - 513], 3);
    ck_assert_int_eq(fake.data[DISK_BYTES - 612], 3);
    ck_assert_int_eq(fake.data[DISK_BYTES - 613], 0);
    fake.resized = 0;
    ck_assert_int_eq(test_request(user, OP_WRITE, 100, buffer, sizeof(buffer), 0), 0);
    ck_assert_int_eq(fake.resized, 0);
    ck_assert_int_eq(test_request(user, OP_READ, DISK_BYTES - 1000, buffer, 488, 0), 0);
    ck_assert_int_eq(buffer[487], 3);
    ck_assert_int_eq(buffer[387], 0);
    ck_assert_int_eq(test_request(user, OP_WRITE, DISK_BYTES - 512, buffer, 1, 0), -EIO);
    ck_assert_int_eq(test_request(user, OP_ZERO, DISK_BYTES - 600, NULL, 88, 0), 0);
    ck_assert_int_eq(fake.data[DISK_BYTES - 513], 0);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

/* An error in each step of an unaligned write of several pieces: reported, and nobody is stuck. */
START_TEST(every_step_may_fail)
{
    TestRoot t = test_root();
    uint8_t buffer[20000];
    BlockUser *user;
    int steps;

    reset_fake();
    fake.align = fake.memory_align = 4096;
    fake.max_transfer = 8192;
    user = open_fake(&t, "");
    memset(buffer, 7, sizeof(buffer));
    for (steps = 1; steps < 100; steps++) {
        int ret;

        fake.fail_at = steps;
        fake.fail_with = EIO;
        ret = test_request(user, OP_WRITE, 1000, buffer, sizeof(buffer), 0);
        if (fake.fail_at)
            break;                 /* there are no more steps */
        ck_assert_int_eq(ret, -EIO);
        ck_assert_int_eq(test_request(user, OP_READ, 0, buffer, 512, 0), 0);
    }
    ck_assert_int_eq(steps, 2 + 3 + 1);    /* two edges are read, three pieces written */
    ck_assert_uint_eq(block_user_stats(user).of[BLOCK_ACCT_WRITE].failed, 5);
    ck_assert_uint_eq(block_user_stats(user).of[BLOCK_ACCT_WRITE].operations, 1);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

/* Flushes. */

START_TEST(flushes_that_matter)
{
    TestRoot t = test_root();
    uint8_t buffer[512] = { 0 };
    BlockUser *user;

    reset_fake();
    user = open_fake(&t, "");
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    ck_assert_uint_eq(fake.flushes, 0);                /* nothing was written */
    test_request(user, OP_WRITE, 0, buffer, 512, 0);
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    ck_assert_uint_eq(fake.flushes, 1);
    test_request(user, OP_ZERO, 0, NULL, 512, 0);
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    ck_assert_uint_eq(fake.flushes, 2);
    /* FUA, on a driver that does not know it. */
    test_request(user, OP_WRITE, 0, buffer, 512, BLOCK_FUA);
    ck_assert_uint_eq(fake.flushes, 3);
    block_user_set_write_cache(user, false);
    test_request(user, OP_WRITE, 0, buffer, 512, 0);
    test_request(user, OP_ZERO, 0, NULL, 512, 0);
    ck_assert_uint_eq(fake.flushes, 5);
    block_user_set_write_cache(user, true);
    /* After a failure nothing is known to be stable, and it is tried each time. */
    test_request(user, OP_WRITE, 0, buffer, 512, 0);
    fake.flush_result = -EIO;
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), -EIO);
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), -EIO);
    fake.flush_result = 0;
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    ck_assert_uint_eq(fake.flushes, 9);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

START_TEST(no_flush_means_none)
{
    TestRoot t = test_root();
    uint8_t buffer[512] = { 0 };
    BlockUser *user;

    reset_fake();
    user = open_fake(&t, ",cache.no-flush=on");
    test_request(user, OP_WRITE, 0, buffer, 512, BLOCK_FUA);
    ck_assert_int_eq(test_request(user, OP_FLUSH, 0, NULL, 0, 0), 0);
    ck_assert_uint_eq(fake.flushes, 0);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

/* Zeroes and discards. */

START_TEST(zeroes)
{
    TestRoot t = test_root();
    uint8_t buffer[8192] = { 0 };
    BlockUser *user;

    reset_fake();
    fake.zero_result = -ENOTSUP;
    user = open_fake(&t, "");
    memset(fake.data, 1, sizeof(fake.data));
    ck_assert_int_eq(test_request(user, OP_ZERO, 100, NULL, 3000, BLOCK_NO_FALLBACK), -ENOTSUP);
    ck_assert_int_eq(test_request(user, OP_ZERO, 100, NULL, DISK_BYTES - 200, 0), 0);
    ck_assert_uint_eq(fake.data[99], 1);
    ck_assert_uint_eq(fake.data[100], 0);
    ck_assert_uint_eq(fake.data[DISK_BYTES - 101], 0);
    ck_assert_uint_eq(fake.data[DISK_BYTES - 100], 1);
    fake.zero_result = -ENOSPC;
    ck_assert_int_eq(test_request(user, OP_ZERO, 0, NULL, 512, 0), -ENOSPC);
    /* A discard that the driver cannot do is done: it is advice. */
    ck_assert_int_eq(test_request(user, OP_DISCARD, 0, NULL, 512, 0), 0);
    ck_assert_uint_eq(fake.discards, 0);               /* discard=ignore */
    test_request(user, OP_WRITE, 0, buffer, sizeof(buffer), 0);
    ck_assert_uint_eq(fake.zeroes, 3);                 /* detect-zeroes=off */
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

START_TEST(detected_zeroes)
{
    static const char *const more[] = { ",detect-zeroes=on", ",discard=unmap,detect-zeroes=on",
                                        ",discard=unmap,detect-zeroes=unmap" };

    for (unsigned i = 0; i < G_N_ELEMENTS(more); i++) {
        TestRoot t = test_root();
        uint8_t buffer[8192] = { 0 };
        BlockUser *user;

        reset_fake();
        user = open_fake(&t, more[i]);
        ck_assert_int_eq(test_request(user, OP_WRITE, 3, buffer, sizeof(buffer), 0), 0);
        ck_assert_uint_eq(fake.zeroes, 1);
        ck_assert_uint_eq(fake.writes, 0);
        ck_assert_uint_eq(fake.zero_flags, i == 2 ? BLOCK_MAY_UNMAP : 0);
        buffer[8191] = 1;
        ck_assert_int_eq(test_request(user, OP_WRITE, 3, buffer, sizeof(buffer), 0), 0);
        ck_assert_uint_eq(fake.writes, 1);
        ck_assert_uint_eq(fake.data[3 + 8191], 1);
        ck_assert_int_eq(test_request(user, OP_DISCARD, 0, NULL, 512, 0), 0);
        ck_assert_uint_eq(fake.discards, i > 0);
        block_user_free(user);
        test_root_free(&t);
    }
}
END_TEST

/* Permissions that the bottom refuses leave everything as it was. */
START_TEST(refused_permissions_roll_back)
{
    TestRoot t = test_root();
    GError *error = NULL;
    BlockNode *node;
    BlockUser *user;

    reset_fake();
    fake.refuse_perm = BLOCK_PERM_WRITE;
    node = test_open(t.graph, &error, "raw,node-name=top,file.driver=fake");
    assert_no_error(error);
    ck_assert_ptr_null(block_user_new(node, "writer", BLOCK_PERM_WRITE, 0, &error));
    assert_error(&error, "the fake refuses");
    user = block_user_new(node, "reader", BLOCK_PERM_READ, BLOCK_PERM_ALL, &error);
    assert_no_error(error);
    block_user_free(user);
    ck_assert(block_node_delete(t.graph, "top", &error));
    test_root_free(&t);
}
END_TEST

/* Error policy. */

static void keep_event(const char *name, json_object *data, void *opaque)
{
    json_object **kept = opaque;

    if (!strcmp(name, "BLOCK_IO_ERROR")) {
        json_object_put(*kept);
        *kept = json_object_get(data);
    }
}

static const char *text_of(json_object *obj, const char *key)
{
    json_object *value = NULL;

    json_object_object_get_ex(obj, key, &value);
    return json_object_get_string(value);
}

START_TEST(errors_become_events)
{
    TestRoot t = test_root();
    json_object *event = NULL;
    BlockUser *user;

    reset_fake();
    event_sink_add(t.root, keep_event, &event);
    user = open_fake(&t, "");
    ck_assert_int_eq(block_user_error_action(user, true, EIO), BLOCK_ERROR_REPORT);
    ck_assert_str_eq(text_of(event, "operation"), "read");
    ck_assert_str_eq(text_of(event, "action"), "report");
    ck_assert_str_eq(text_of(event, "node-name"), "top");
    ck_assert_str_eq(text_of(event, "nospace"), "false");
    ck_assert_int_eq(block_user_error_action(user, false, EIO), BLOCK_ERROR_REPORT);
    ck_assert_int_eq(block_user_error_action(user, false, ENOSPC), BLOCK_ERROR_STOP);
    ck_assert_str_eq(text_of(event, "action"), "stop");
    ck_assert_str_eq(text_of(event, "nospace"), "true");
    ck_assert(block_user_set_on_error(user, BLOCK_ON_ERROR_STOP, BLOCK_ON_ERROR_IGNORE, NULL));
    ck_assert_int_eq(block_user_error_action(user, true, EIO), BLOCK_ERROR_STOP);
    ck_assert_int_eq(block_user_error_action(user, false, ENOSPC), BLOCK_ERROR_IGNORE);
    event_sink_remove(t.root, keep_event, &event);
    json_object_put(event);
    block_user_free(user);
    test_root_free(&t);
}
END_TEST

/* A transfer that the system cuts short goes on, and ends with the cause. */
START_TEST(short_transfers)
{
    static const char *const engines[] = { "threads", "io_uring" };

    signal(SIGXFSZ, SIG_IGN);
    for (unsigned i = 0; i < G_N_ELEMENTS(engines); i++) {
        TestRoot t = test_root();
        g_autofree char *path = test_file("short.img", 65536), *content = NULL;
        GError *error = NULL;
        BlockNode *node = test_open(t.graph, &error, "file,node-name=f,filename=%s,aio=%s", path,
                                    engines[i]);
        BlockUser *user = block_user_new(node, "test", BLOCK_PERM_READ | BLOCK_PERM_WRITE,
                                         BLOCK_PERM_ALL, &error);
        struct rlimit limit = { 8192, RLIM_INFINITY };
        uint8_t buffer[16384];
        gsize length;

        assert_no_error(error);
        memset(buffer, 5, sizeof(buffer));
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
        ck_assert_int_eq(test_request(user, OP_WRITE, 4096, buffer, sizeof(buffer), 0), -EFBIG);
        limit.rlim_cur = RLIM_INFINITY;
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
        ck_assert(g_file_get_contents(path, &content, &length, NULL));
        ck_assert_int_eq(content[8191], 5);
        ck_assert_int_eq(content[8192], 0);
        /* Somebody cuts the file off: what is missing reads as zeroes. */
        ck_assert_int_eq(truncate(path, 6000), 0);
        ck_assert_int_eq(test_request(user, OP_READ, 4096, buffer, sizeof(buffer), 0), 0);
        ck_assert_int_eq(buffer[6000 - 4096 - 1], 5);
        for (unsigned k = 6000 - 4096; k < sizeof(buffer); k++)
            ck_assert_int_eq(buffer[k], 0);
        block_user_free(user);
        test_root_free(&t);
    }
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, drivers_get_what_they_can_take, 0, G_N_ELEMENTS(limits));
    tcase_add_test(tc, padding_of_the_last_block_is_cut_off);
    tcase_add_test(tc, every_step_may_fail);
    tcase_add_test(tc, flushes_that_matter);
    tcase_add_test(tc, no_flush_means_none);
    tcase_add_test(tc, zeroes);
    tcase_add_test(tc, detected_zeroes);
    tcase_add_test(tc, refused_permissions_roll_back);
    tcase_add_test(tc, errors_become_events);
    tcase_add_test(tc, short_transfers);
}

int main(void)
{
    return run_block_tests("block-faults", add_tests);
}

/*
 * virtio-blk's merging of adjacent requests, seen from a disk that notes what it is asked for.  All
 * is in the main loop, so that a turn of the queue takes all that was added.
 */
#include "block/driver.h"
#include "block/throttle-group.h"
#include "tests/device/disk.h"

/* MOST are taken in one turn. */
enum { MOST = 8, BLOCK = 4096, SECTORS = BLOCK / 512, CUT_MOST = 32 };

/* ---- The disk ---- */

static struct {
    uint8_t bytes[IMAGE_SIZE];
    unsigned requests;
    uint64_t largest;
    uint64_t bad_offset;                    /* what touches this byte fails; UINT64_MAX: nothing */
} store;

static int note(uint64_t offset, uint64_t bytes)
{
    store.requests++;
    store.largest = MAX(store.largest, bytes);
    return store.bad_offset - offset < bytes ? -EIO : 0;
}

static int co_fn store_read(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                            uint64_t bytes)
{
    int ret = note(offset, bytes);

    for (int i = 0; !ret && i < iovcnt; offset += iov[i++].iov_len)
        memcpy(iov[i].iov_base, store.bytes + offset, iov[i].iov_len);
    return ret;
}

static int co_fn store_write(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                             uint64_t bytes, unsigned flags)
{
    int ret = note(offset, bytes);

    for (int i = 0; !ret && i < iovcnt; offset += iov[i++].iov_len)
        memcpy(store.bytes + offset, iov[i].iov_base, iov[i].iov_len);
    return ret;
}

static int co_fn store_flush(BlockNode *node)
{
    return 0;
}

static bool store_open(BlockNode *node, json_object *options, GError **error)
{
    return true;
}

static int64_t store_size(BlockNode *node)
{
    return IMAGE_SIZE;
}

static const BlockDriver store_driver = {
    .name = "test-store", .help = "notes what it is asked for", .is_protocol = true,
    .open = store_open, .get_size = store_size, .co_read = store_read, .co_write = store_write,
    .co_flush = store_flush,
};
BLOCK_DRIVER(store_driver)

/* ---- Its driver ---- */

typedef struct Part {
    uint32_t type;
    uint64_t sector;
    uint32_t bytes;
    uint64_t header, data, status;          /* guest addresses */
} Part;

typedef struct Merging {
    Disk d;
    BlockUser *user;
    Part parts[MOST];
    unsigned n;
    unsigned cut;                           /* parts of the data in memory */
} Merging;

static void found_user(BlockUser *user, void *opaque)
{
    *(BlockUser **)opaque = user;
}

/* @node: "store", or one above it that @board makes. */
static Merging merging_new(const char *board, const char *node, const char *extra)
{
    g_autofree char *options = g_strconcat(BOARD "-blockdev test-store,node-name=store ", board, NULL);
    Merging t = { .d = disk_of_node(test_machine_new(options), node, extra), .cut = 2 };

    for (unsigned i = 0; i < IMAGE_SIZE; i++)
        store.bytes[i] = (i * 2654435761u) >> 24;
    store.requests = store.largest = 0;
    store.bad_offset = UINT64_MAX;
    disk_start(&t.d, ~0ull);
    block_graph_foreach_user(t.d.m->block, found_user, &t.user);
    return t;
}

static Part *add(Merging *t, uint32_t type, uint64_t sector, uint32_t bytes)
{
    Part *p = &t->parts[t->n];
    TestMachine *m = t->d.m;
    bool read = type == VIRTIO_BLK_T_IN;

    if (!p->header) {
        p->header = dma_alloc(m, 16);
        p->data = dma_alloc(m, 64 * KiB);
        p->status = dma_alloc(m, 1);
    }
    p->type = type;
    p->sector = sector;
    p->bytes = bytes;
    st_le32(guest_ptr(m, p->header), type);
    st_le64((uint8_t *)guest_ptr(m, p->header) + 8, sector);
    memset(guest_ptr(m, p->data), 0x10 + t->n, bytes);
    *(uint8_t *)guest_ptr(m, p->status) = 0xee;
    TestBuffer b[2 + CUT_MOST] = { { p->header, 16, false } };
    unsigned parts = 1;
    for (uint32_t at = 0; at < bytes; at += bytes / t->cut)
        b[parts++] = (TestBuffer){ p->data + at, bytes / t->cut, read };
    b[parts++] = (TestBuffer){ p->status, 1, true };
    test_queue_add(t->d.q, b, parts, t->n % 3 == 2);
    t->n++;
    return p;
}

static uint8_t status(const Merging *t, unsigned i)
{
    return *(uint8_t *)guest_ptr(t->d.m, t->parts[i].status);
}

/* What was added, in one turn; @answers of them come. */
static void serve(Merging *t, unsigned answers)
{
    test_queue_kick(t->d.q, true);
    while (answers--)
        test_queue_wait(t->d.q);
}

/* The answered request @i has done what it should. */
static void check_done(const Merging *t, unsigned i)
{
    const Part *p = &t->parts[i];

    ck_assert_uint_eq(status(t, i), VIRTIO_BLK_S_OK);
    ck_assert_mem_eq(guest_ptr(t->d.m, p->data), store.bytes + p->sector * 512, p->bytes);
    if (p->type == VIRTIO_BLK_T_OUT)
        ck_assert_uint_eq(store.bytes[p->sector * 512], 0x10 + i);
}

static void check_all(const Merging *t)
{
    for (unsigned i = 0; i < t->n; i++)
        check_done(t, i);
}

static void add_adjacent(Merging *t, uint32_t type, uint64_t sector)
{
    for (unsigned i = 0; i < MOST; i++)
        add(t, type, sector + i * SECTORS, BLOCK);
}

/* Requests by now: of the guest, of them merged and failed, and what the disk was asked for. */
static void expect(const Merging *t, bool write, unsigned operations, unsigned merged, unsigned failed,
                   unsigned at_disk)
{
    BlockAcct what = write ? BLOCK_ACCT_WRITE : BLOCK_ACCT_READ;
    BlockStats stats = block_user_stats(t->user);

    ck_assert_uint_eq(stats.of[what].operations, operations);
    ck_assert_uint_eq(stats.of[what].merged, merged);
    ck_assert_uint_eq(stats.of[what].failed, failed);
    ck_assert_uint_eq(store.requests, at_disk);
}

/* ---- What is merged ---- */

static const char *const layouts[] = { "", ",packed=on" };

START_TEST(adjacent_requests_are_one)
{
    bool write = _i & 1;
    Merging t = merging_new("", "store", layouts[_i / 2]);

    add_adjacent(&t, write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, 16);
    serve(&t, MOST);
    check_all(&t);
    expect(&t, write, MOST, MOST - 1, 0, 1);
    ck_assert_uint_eq(store.largest, MOST * BLOCK);
    ck_assert_uint_eq(block_user_stats(t.user).of[write].bytes, MOST * BLOCK);
    disk_free(&t.d);
}
END_TEST

START_TEST(merging_is_a_choice)
{
    Merging t = merging_new("", "store", ",request-merging=off");

    add_adjacent(&t, VIRTIO_BLK_T_IN, 16);
    serve(&t, MOST);
    check_all(&t);
    expect(&t, false, MOST, 0, 0, MOST);
    disk_free(&t.d);
}
END_TEST

/* Of two programs that each read or write in order. */
START_TEST(streams_among_each_other)
{
    Merging t = merging_new("", "store", "");

    for (unsigned i = 0; i < 4; i++) {
        add(&t, VIRTIO_BLK_T_IN, 40 + i, 512);
        add(&t, VIRTIO_BLK_T_OUT, 80 + i * SECTORS, BLOCK);
    }
    serve(&t, 8);
    check_all(&t);
    expect(&t, false, 4, 3, 0, 2);
    expect(&t, true, 4, 3, 0, 2);
    disk_free(&t.d);
}
END_TEST

START_TEST(what_is_not_merged)
{
    Merging t = merging_new("", "store", "");
    uint64_t end = IMAGE_SIZE / 512;

    add(&t, VIRTIO_BLK_T_IN, 8, BLOCK);     /* a gap, and backwards */
    add(&t, VIRTIO_BLK_T_IN, 24, BLOCK);
    add(&t, VIRTIO_BLK_T_IN, 0, BLOCK);
    add(&t, VIRTIO_BLK_T_OUT, 32, BLOCK);   /* another kind */
    serve(&t, 4);
    check_all(&t);
    expect(&t, false, 3, 0, 0, 4);
    expect(&t, true, 1, 0, 0, 4);

    t.n = 0;
    add(&t, VIRTIO_BLK_T_OUT, 32, BLOCK);   /* a flush between them */
    add(&t, VIRTIO_BLK_T_FLUSH, 0, 0);
    add(&t, VIRTIO_BLK_T_OUT, 40, BLOCK);
    serve(&t, 3);
    ck_assert_uint_eq(status(&t, 1), VIRTIO_BLK_S_OK);
    expect(&t, true, 3, 0, 0, 6);

    t.n = 0;
    add(&t, VIRTIO_BLK_T_IN, end - 8, BLOCK);   /* out of the device */
    add(&t, VIRTIO_BLK_T_IN, end, BLOCK);
    add(&t, VIRTIO_BLK_T_IN, end + 8, BLOCK);
    serve(&t, 3);
    check_done(&t, 0);
    ck_assert_uint_eq(status(&t, 1), VIRTIO_BLK_S_IOERR);
    ck_assert_uint_eq(status(&t, 2), VIRTIO_BLK_S_IOERR);
    expect(&t, false, 4, 0, 0, 7);
    ck_assert_uint_eq(block_user_stats(t.user).of[BLOCK_ACCT_READ].invalid, 2);
    disk_free(&t.d);
}
END_TEST

/* 256 KiB by itself, less where the node takes less. */
START_TEST(bytes_are_limited)
{
    static const struct {
        const char *board, *node;
        uint32_t bytes;
        unsigned at_disk;
    } cases[] = {
        { "", "store", 64 * KiB, 2 },
        { "-blockdev blkdebug,node-name=less,image=store,max-transfer=8192", "less", BLOCK, 4 },
    };
    Merging t = merging_new(cases[_i].board, cases[_i].node, "");

    for (unsigned i = 0; i < MOST; i++)
        add(&t, VIRTIO_BLK_T_IN, i * (cases[_i].bytes / 512), cases[_i].bytes);
    serve(&t, MOST);
    check_all(&t);
    expect(&t, false, MOST, MOST - cases[_i].at_disk, 0, cases[_i].at_disk);
    disk_free(&t.d);
}
END_TEST

/* Eight requests of 32 parts: four of them are 128, the most. */
START_TEST(parts_are_limited)
{
    Merging t = merging_new("", "store", "");

    t.cut = CUT_MOST;
    add_adjacent(&t, VIRTIO_BLK_T_OUT, 0);
    serve(&t, MOST);
    check_all(&t);
    expect(&t, true, MOST, MOST - 2, 0, 2);
    disk_free(&t.d);
}
END_TEST

/* ---- Errors ---- */

START_TEST(an_error_hits_its_part_only)
{
    bool write = _i;
    Merging t = merging_new("", "store", "");

    store.bad_offset = 5 * BLOCK + 100;
    add_adjacent(&t, write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, 0);
    serve(&t, MOST);
    for (unsigned i = 0; i < MOST; i++) {
        if (i != 5)
            check_done(&t, i);
    }
    ck_assert_uint_eq(status(&t, 5), VIRTIO_BLK_S_IOERR);
    /* A try with all, then each. */
    expect(&t, write, MOST - 1, 0, 1, 1 + MOST);
    disk_free(&t.d);
}
END_TEST

START_TEST(only_the_failed_part_waits)
{
    bool write = _i;
    Merging t = merging_new("", "store", ",rerror=stop,werror=stop");

    store.bad_offset = 5 * BLOCK;
    add_adjacent(&t, write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, 0);
    serve(&t, MOST - 1);
    expect_request(t.d.m, MACHINE_STOP);
    ck_assert_uint_eq(status(&t, 5), 0xee);
    stop(t.d.m);
    store.bad_offset = UINT64_MAX;
    run(t.d.m);
    test_queue_wait(t.d.q);
    check_all(&t);
    expect(&t, write, MOST, 0, 1, 2 + MOST);
    disk_free(&t.d);
}
END_TEST

/* ---- What counts requests ---- */

static uint64_t sum_of_bins(BlockGraph *graph)
{
    g_autoptr(json_object) all = block_query_blockstats(graph, false);
    json_object *stats = json_object_object_get(json_object_array_get_idx(all, 0), "stats");
    json_object *histogram = json_object_object_get(stats, "rd_latency_histogram");
    json_object *bins = json_object_object_get(histogram, "bins");
    uint64_t sum = 0;

    ck_assert_uint_eq(json_object_get_int64(json_object_object_get(stats, "rd_merged")), MOST - 1);
    for (size_t i = 0; i < json_object_array_length(bins); i++)
        sum += json_object_get_int64(json_object_array_get_idx(bins, i));
    return sum;
}

START_TEST(a_histogram_has_each)
{
    Merging t = merging_new("", "store", "");
    const uint64_t boundaries[] = { 1, 1000000 };

    ck_assert(block_user_set_histogram(t.user, BLOCK_ACCT_READ, boundaries, 2, NULL));
    add_adjacent(&t, VIRTIO_BLK_T_IN, 0);
    serve(&t, MOST);
    expect(&t, false, MOST, MOST - 1, 0, 1);
    ck_assert_uint_eq(sum_of_bins(t.d.m->block), MOST);
    disk_free(&t.d);
}
END_TEST

static void set_limits(Merging *t, uint64_t iops)
{
    ThrottleConfig config;

    throttle_config_init(&config);
    config.of[THROTTLE_IOPS_TOTAL].average = iops;
    ck_assert(block_user_set_throttle(t->user, "group", &config, NULL));
}

/* While a user has limits, each of its requests keeps them by itself. */
START_TEST(limits_end_merging)
{
    Merging t = merging_new("", "store", "");

    set_limits(&t, 1000000);
    add_adjacent(&t, VIRTIO_BLK_T_IN, 0);
    serve(&t, MOST);
    check_all(&t);
    expect(&t, false, MOST, 0, 0, MOST);

    set_limits(&t, 0);
    t.n = 0;
    add_adjacent(&t, VIRTIO_BLK_T_IN, 0);
    serve(&t, MOST);
    expect(&t, false, 2 * MOST, MOST - 1, 0, MOST + 1);
    disk_free(&t.d);
}
END_TEST

/* Set after the requests were taken: they come back as each of them, and find the limits. */
START_TEST(limits_set_meanwhile)
{
    Merging t = merging_new("", "store", "");

    block_user_quiesce(t.user, true);
    add_adjacent(&t, VIRTIO_BLK_T_OUT, 0);
    test_queue_kick(t.d.q, true);
    settle(t.d.m);
    ck_assert_uint_eq(store.requests, 0);
    set_limits(&t, 1000000);
    block_user_quiesce(t.user, false);
    for (unsigned i = 0; i < MOST; i++)
        test_queue_wait(t.d.q);
    check_all(&t);
    expect(&t, true, MOST, 0, 0, MOST);
    disk_free(&t.d);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, adjacent_requests_are_one, 0, 2 * G_N_ELEMENTS(layouts));
    tcase_add_test(tc, merging_is_a_choice);
    tcase_add_test(tc, streams_among_each_other);
    tcase_add_test(tc, what_is_not_merged);
    tcase_add_loop_test(tc, bytes_are_limited, 0, 2);
    tcase_add_test(tc, parts_are_limited);
    tcase_add_loop_test(tc, an_error_hits_its_part_only, 0, 2);
    tcase_add_loop_test(tc, only_the_failed_part_waits, 0, 2);
    tcase_add_test(tc, a_histogram_has_each);
    tcase_add_test(tc, limits_end_merging);
    tcase_add_test(tc, limits_set_meanwhile);
}

int main(void)
{
    return run_tests("virtio-blk-merge", add_tests);
}

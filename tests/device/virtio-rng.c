/* virtio-rng: bytes arrive, sources and quotas are kept. */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include "tests/device/virtio-driver.h"

enum { BYTES = 64 };

typedef struct Rng {
    TestVirtio *v;
    TestQueue *q;
    uint64_t page;
} Rng;

static Rng rng_on(TestMachine *m, const char *options)
{
    Rng r = { .v = test_virtio_new(m, add_device(m, options)) };

    test_virtio_start(r.v, ~0ull, 1, 0);
    r.q = r.v->queues[0];
    r.page = dma_alloc(m, 4096);
    return r;
}

DEVICE_TEST(fills_buffers, BOARD "-object rng-random,id=r0,filename=/dev/urandom "
                                 "-object rng-builtin,id=r1")
{
    static const char *const options[] = {
        "virtio-rng-pci", "virtio-rng-pci,rng=r0", "virtio-rng-pci,rng=r1,packed=on",
        "virtio-rng-pci,rng=r0,ioeventfd=off,vectors=0",
    };
    Rng r = rng_on(m, options[_i]);
    uint8_t zeroes[BYTES] = { 0 };

    for (unsigned i = 0; i < 50; i++) {
        TestBuffer b[] = { { r.page, BYTES / 2, true }, { r.page + 100, BYTES, true } };
        memset(guest_ptr(m, r.page), 0, 4096);
        ck_assert_uint_eq(test_queue_do(r.q, b, 2, i & 1), BYTES * 3 / 2);
        ck_assert_mem_ne(guest_ptr(m, r.page), zeroes, BYTES / 2);
        ck_assert_mem_ne(guest_ptr(m, r.page + 100), zeroes, BYTES);
        ck_assert_mem_eq((char *)guest_ptr(m, r.page) + 32, zeroes, 64);   /* between them */
    }
    test_virtio_free(r.v);
}

/* used.len is what the source had, not what was asked for. */
DEVICE_TEST(short_read, BOARD)
{
    g_autofree char *path = g_strdup("/tmp/vireo-rng-XXXXXX");
    auto_fd fd = mkstemp(path);
    g_autofree char *object = g_strdup_printf("rng-random,id=r0,filename=%s", path);

    ck_assert_int_eq(write(fd, "0123456789", 10), 10);
    add_object(m, object);
    Rng r = rng_on(m, "virtio-rng-pci,rng=r0");
    TestBuffer b[] = { { r.page, BYTES, true } };
    ck_assert_uint_eq(test_queue_do(r.q, b, 1, false), 10);
    ck_assert_mem_eq(guest_ptr(m, r.page), "0123456789", 11);
    unlink(path);
    test_virtio_free(r.v);
}

/* A source that is empty makes the buffer wait, not fail. */
DEVICE_TEST(waits_for_the_source, BOARD)
{
    g_autofree char *path = g_strdup_printf("/tmp/vireo-rng-fifo-%d", getpid());
    g_autofree char *object = g_strdup_printf("rng-random,id=r0,filename=%s", path);

    ck_assert_int_eq(mkfifo(path, 0600), 0);
    auto_fd fd = open(path, O_RDWR);
    add_object(m, object);
    Rng r = rng_on(m, "virtio-rng-pci,rng=r0");
    TestBuffer b[] = { { r.page, BYTES, true } };
    test_queue_add(r.q, b, 1, false);
    test_queue_kick(r.q, false);
    settle(m);
    ck_assert(!test_queue_used(r.q));
    ck_assert_int_eq(write(fd, "abc", 3), 3);
    test_queue_wait(r.q);
    ck_assert_mem_eq(guest_ptr(m, r.page), "abc", 4);
    /* And a reset while it waits leaves nothing behind. */
    test_queue_add(r.q, b, 1, false);
    test_queue_kick(r.q, false);
    settle(m);
    test_set_status(r.v, 0);
    ck_assert_int_eq(write(fd, "abc", 3), 3);
    settle(m);
    unlink(path);
    test_virtio_free(r.v);
}

DEVICE_TEST(quota, BOARD)
{
    Rng r = rng_on(m, "virtio-rng-pci,max-bytes=40,period=1000000");
    TestBuffer b[] = { { r.page, 32, true } };

    ck_assert_uint_eq(test_queue_do(r.q, b, 1, false), 32);
    ck_assert_uint_eq(test_queue_do(r.q, b, 1, false), 8);
    test_queue_add(r.q, b, 1, false);
    test_queue_kick(r.q, false);
    settle(m);
    ck_assert(!test_queue_used(r.q));
    test_virtio_free(r.v);
}

DEVICE_TEST(quota_comes_back, BOARD)
{
    Rng r = rng_on(m, "virtio-rng-pci,max-bytes=40,period=2");
    TestBuffer b[] = { { r.page, 32, true } };
    unsigned bytes = 0;

    for (unsigned i = 0; i < 20; i++)
        bytes += test_queue_do(r.q, b, 1, false);
    ck_assert_uint_gt(bytes, 40);
    test_virtio_free(r.v);
}

/* However much a driver asks for at once, the loop that serves it is not held up. */
DEVICE_TEST(large_buffers_are_filled_in_part, BOARD)
{
    Rng r = rng_on(m, "virtio-rng-pci");
    TestBuffer b[] = { { 8 * MiB, 4 * MiB, true }, { 8 * MiB, 4 * MiB, true } };
    uint8_t zeroes[16] = { 0 };

    ck_assert_uint_eq(test_queue_do(r.q, b, 2, false), 64 * KiB);
    ck_assert_mem_ne(guest_ptr(m, 8 * MiB + 64 * KiB - 16), zeroes, 16);
    ck_assert_mem_eq(guest_ptr(m, 8 * MiB + 64 * KiB), zeroes, 16);
    test_virtio_free(r.v);
}

DEVICE_TEST(readable_buffer_breaks, BOARD)
{
    Rng r = rng_on(m, "virtio-rng-pci");
    TestBuffer b[] = { { r.page, 32, false } };

    test_queue_add(r.q, b, 1, false);
    test_queue_kick(r.q, false);
    settle(m);
    ck_assert(test_status(r.v) & VIRTIO_STATUS_NEEDS_RESET);
    test_virtio_free(r.v);
}

DEVICE_TEST(wrong_properties, BOARD)
{
    g_autofree char *zero = device_error(m, "virtio-rng-pci,max-bytes=0");
    ck_assert_msg(strstr(zero, "max-bytes"), "%s", zero);
    g_autofree char *missing = device_error(m, "virtio-rng-pci,rng=nobody");
    ck_assert_msg(strstr(missing, "nobody"), "%s", missing);
    g_autofree char *vectors = device_error(m, "virtio-rng-pci,vectors=5000");
    ck_assert_msg(strstr(vectors, "vectors"), "%s", vectors);
}

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, fills_buffers, 0, 4);
    tcase_add_test(tc, short_read);
    tcase_add_test(tc, waits_for_the_source);
    tcase_add_test(tc, quota);
    tcase_add_test(tc, quota_comes_back);
    tcase_add_test(tc, large_buffers_are_filled_in_part);
    tcase_add_test(tc, readable_buffer_breaks);
    tcase_add_test(tc, wrong_properties);
}

int main(void)
{
    return run_tests("virtio-rng", add_tests);
}

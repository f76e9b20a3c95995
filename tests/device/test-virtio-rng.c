/* virtio-rng: bytes arrive, sources and quotas are kept. */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include "virtio-driver.h"

enum { BYTES = 64 };

typedef struct Rng {
    TestVm *vm;
    TestVirtio *v;
    TestQueue *q;
    uint64_t page;
} Rng;

static Rng rng_on(TestVm *vm, const char *options)
{
    Rng r = { .vm = vm };

    r.v = test_virtio_new(vm, test_device(vm, options));
    test_virtio_start(r.v, ~0ull, 1, 0);
    r.q = r.v->queues[0];
    r.page = guest_alloc(vm, 4096);
    return r;
}

static void rng_free(Rng *r)
{
    test_virtio_free(r->v);
    test_vm_free(r->vm);
}

static bool used(void *opaque)
{
    uint16_t id;
    uint32_t len;
    return test_queue_poll(opaque, &id, &len);
}

START_TEST(fills_buffers)
{
    static const char *const options[] = {
        "virtio-rng-pci", "virtio-rng-pci,rng=r0", "virtio-rng-pci,rng=r1,packed=on",
        "virtio-rng-pci,rng=r0,ioeventfd=off,vectors=0",
    };
    TestVm *vm = test_vm_new();
    test_object(vm, "rng-random,id=r0,filename=/dev/urandom");
    test_object(vm, "rng-builtin,id=r1");
    Rng r = rng_on(vm, options[_i]);
    uint8_t zeroes[BYTES] = { 0 };

    for (unsigned i = 0; i < 50; i++) {
        TestBuffer b[] = { { r.page, BYTES / 2, true }, { r.page + 100, BYTES, true } };
        memset(guest_ptr(vm, r.page), 0, 4096);
        ck_assert_uint_eq(test_queue_do(r.q, b, 2, i & 1), BYTES * 3 / 2);
        ck_assert_mem_ne(guest_ptr(vm, r.page), zeroes, BYTES / 2);
        ck_assert_mem_ne(guest_ptr(vm, r.page + 100), zeroes, BYTES);
        ck_assert_mem_eq((char *)guest_ptr(vm, r.page) + 32, zeroes, 64);   /* between them */
    }
    rng_free(&r);
}
END_TEST

/* used.len is what the source had, not what was asked for. */
START_TEST(short_read)
{
    TestVm *vm = test_vm_new();
    g_autofree char *path = g_strdup("/tmp/vireo-rng-XXXXXX");
    auto_fd fd = mkstemp(path);
    g_autofree char *object = g_strdup_printf("rng-random,id=r0,filename=%s", path);

    ck_assert_int_eq(write(fd, "0123456789", 10), 10);
    test_object(vm, object);
    Rng r = rng_on(vm, "virtio-rng-pci,rng=r0");
    TestBuffer b[] = { { r.page, BYTES, true } };
    ck_assert_uint_eq(test_queue_do(r.q, b, 1, false), 10);
    ck_assert_mem_eq(guest_ptr(vm, r.page), "0123456789", 11);
    unlink(path);
    rng_free(&r);
}
END_TEST

/* A source that is empty makes the buffer wait, not fail. */
START_TEST(waits_for_the_source)
{
    TestVm *vm = test_vm_new();
    g_autofree char *path = g_strdup_printf("/tmp/vireo-rng-fifo-%d", getpid());
    g_autofree char *object = g_strdup_printf("rng-random,id=r0,filename=%s", path);

    ck_assert_int_eq(mkfifo(path, 0600), 0);
    auto_fd fd = open(path, O_RDWR);
    test_object(vm, object);
    Rng r = rng_on(vm, "virtio-rng-pci,rng=r0");
    TestBuffer b[] = { { r.page, BYTES, true } };
    test_queue_add(r.q, b, 1, false);
    test_queue_kick(r.q, false);
    test_settle(vm);
    ck_assert(!used(r.q));
    ck_assert_int_eq(write(fd, "abc", 3), 3);
    ck_assert(test_wait(vm, used, r.q));
    ck_assert_mem_eq(guest_ptr(vm, r.page), "abc", 4);
    /* And a reset while it waits leaves nothing behind. */
    test_queue_add(r.q, b, 1, false);
    test_queue_kick(r.q, false);
    test_settle(vm);
    common_store(r.v, VIRTIO_PCI_COMMON_STATUS, 1, 0);
    ck_assert_int_eq(write(fd, "abc", 3), 3);
    test_settle(vm);
    unlink(path);
    rng_free(&r);
}
END_TEST

START_TEST(quota)
{
    TestVm *vm = test_vm_new();
    Rng r = rng_on(vm, "virtio-rng-pci,max-bytes=40,period=1000000");
    TestBuffer b[] = { { r.page, 32, true } };

    ck_assert_uint_eq(test_queue_do(r.q, b, 1, false), 32);
    ck_assert_uint_eq(test_queue_do(r.q, b, 1, false), 8);
    test_queue_add(r.q, b, 1, false);
    test_queue_kick(r.q, false);
    test_settle(vm);
    ck_assert(!used(r.q));
    rng_free(&r);
}
END_TEST

START_TEST(quota_comes_back)
{
    TestVm *vm = test_vm_new();
    Rng r = rng_on(vm, "virtio-rng-pci,max-bytes=40,period=2");
    TestBuffer b[] = { { r.page, 32, true } };
    unsigned bytes = 0;

    for (unsigned i = 0; i < 20; i++)
        bytes += test_queue_do(r.q, b, 1, false);
    ck_assert_uint_gt(bytes, 40);
    rng_free(&r);
}
END_TEST

/* However much a driver asks for at once, the loop that serves it is not held up. */
START_TEST(large_buffers_are_filled_in_part)
{
    TestVm *vm = test_vm_new();
    Rng r = rng_on(vm, "virtio-rng-pci");
    TestBuffer b[] = { { 8 * MiB, 4 * MiB, true }, { 8 * MiB, 4 * MiB, true } };
    uint8_t zeroes[16] = { 0 };

    ck_assert_uint_eq(test_queue_do(r.q, b, 2, false), 64 * KiB);
    ck_assert_mem_ne(guest_ptr(vm, 8 * MiB + 64 * KiB - 16), zeroes, 16);
    ck_assert_mem_eq(guest_ptr(vm, 8 * MiB + 64 * KiB), zeroes, 16);
    rng_free(&r);
}
END_TEST

START_TEST(readable_buffer_breaks)
{
    TestVm *vm = test_vm_new();
    Rng r = rng_on(vm, "virtio-rng-pci");
    TestBuffer b[] = { { r.page, 32, false } };

    test_queue_add(r.q, b, 1, false);
    test_queue_kick(r.q, false);
    test_settle(vm);
    ck_assert(test_status(r.v) & VIRTIO_STATUS_NEEDS_RESET);
    rng_free(&r);
}
END_TEST

START_TEST(wrong_properties)
{
    TestVm *vm = test_vm_new();
    g_autofree char *zero = test_device_error(vm, "virtio-rng-pci,max-bytes=0");
    ck_assert_msg(strstr(zero, "max-bytes"), "%s", zero);
    g_autofree char *missing = test_device_error(vm, "virtio-rng-pci,rng=nobody");
    ck_assert_msg(strstr(missing, "nobody"), "%s", missing);
    g_autofree char *vectors = test_device_error(vm, "virtio-rng-pci,vectors=5000");
    ck_assert_msg(strstr(vectors, "vectors"), "%s", vectors);
    test_vm_free(vm);
}
END_TEST

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

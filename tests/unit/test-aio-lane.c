/* Lanes: small writes into the page cache, by a worker or by a patient loop itself. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "block/aio.h"
#include "src/base/util.h"
#include "tests/test.h"

enum { WRITES = 200, BLOCK_BYTES = 4096 };

typedef struct Lanes {
    AioLane lane;
    AioFile file;
    unsigned begun, done;
    int wanted;                            /* what each write returns */
} Lanes;

/* @slow: the loop has just been held up, so that the worker writes. */
static void lanes_init(Lanes *l, bool slow)
{
    *l = (Lanes){ .lane = { .use = AIO_LANE_ALWAYS, .here_again_ns = slow ? INT64_MAX : 0 } };
    l->file = (AioFile){ .fd = memfd_create("lane", MFD_CLOEXEC | MFD_ALLOW_SEALING),
                         .kind = AIO_THREADS, .lane = &l->lane };
    ck_assert_int_ge(l->file.fd, 0);
    loop_set_patient(loop_main(), true);
}

static void co_fn write_one(void *opaque)
{
    Lanes *l = opaque;
    unsigned n = l->begun++;
    uint64_t offset = (uint64_t)n * BLOCK_BYTES;
    char data[BLOCK_BYTES];
    struct iovec iov = { data, sizeof(data) };

    memset(data, n % 251 + 1, sizeof(data));
    ck_assert_int_eq(aio_co_write(&l->file, offset, &iov, 1, BLOCK_BYTES, false), l->wanted);
    l->done++;
}

static void begin_writes(Lanes *l, unsigned count)
{
    while (count--)
        co_start(write_one, l);
}

static void finish_writes(Lanes *l)
{
    while (l->done < l->begun)
        loop_iterate(loop_main(), true);
}

static void check_file(Lanes *l)
{
    uint8_t data[BLOCK_BYTES], wanted[BLOCK_BYTES];

    for (unsigned n = 0; n < l->begun; n++) {
        off_t offset = (off_t)n * BLOCK_BYTES;

        memset(wanted, n % 251 + 1, sizeof(wanted));
        ck_assert_int_eq(pread(l->file.fd, data, sizeof(data), offset), sizeof(data));
        ck_assert_mem_eq(data, wanted, sizeof(data));
    }
    close(l->file.fd);
}

START_TEST(a_worker_writes)
{
    Lanes l;

    lanes_init(&l, true);
    for (unsigned round = 0; round < 3; round++) {       /* the lane is idle between */
        begin_writes(&l, WRITES);
        ck_assert_uint_eq(l.done, round * WRITES);       /* the loop has waited for none of them */
        finish_writes(&l);
    }
    ck_assert_ptr_null(__atomic_load_n(&l.lane.newest, __ATOMIC_ACQUIRE));
    check_file(&l);
}
END_TEST

START_TEST(errors_come_back)
{
    Lanes l;

    lanes_init(&l, true);
    ck_assert_int_eq(fcntl(l.file.fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
    l.wanted = -EPERM;
    begin_writes(&l, 3);
    finish_writes(&l);
    close(l.file.fd);
}
END_TEST

START_TEST(a_patient_loop_writes_itself)
{
    Lanes l;

    lanes_init(&l, false);
    begin_writes(&l, 1);
    ck_assert_uint_eq(l.done, 1);
    __atomic_store_n(&l.lane.here_again_ns, INT64_MAX, __ATOMIC_RELAXED);    /* it was slow */
    begin_writes(&l, 2);
    ck_assert_uint_eq(l.done, 1);
    finish_writes(&l);
    check_file(&l);
}
END_TEST

/* So many bytes of new memory take any processor longer than a loop should wait. */
static void co_fn write_much(void *opaque)
{
    Lanes *l = opaque;
    g_autofree char *data = g_malloc0(16 * MiB);
    struct iovec iov = { data, 16 * MiB };

    ck_assert_int_eq(aio_lane_write(&l->file, l->begun++ * 16 * MiB, &iov, 1), 16 * MiB);
    l->done++;
}

/* A loop that serves a guest leaves its writes to the engine. */
START_TEST(others_have_no_lane)
{
    Lanes l;

    lanes_init(&l, false);
    loop_set_patient(loop_main(), false);
    begin_writes(&l, 1);
    ck_assert_uint_eq(l.done, 0);
    ck_assert_ptr_null(l.lane.newest);
    finish_writes(&l);
    check_file(&l);
}
END_TEST

START_TEST(patience_ends)
{
    Lanes l;

    lanes_init(&l, false);
    co_start(write_much, &l);
    ck_assert_uint_eq(l.done, 1);
    co_start(write_much, &l);              /* the worker's already if the first took very long */
    ck_assert_int_gt(l.lane.here_again_ns, 0);
    finish_writes(&l);
    close(l.file.fd);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, a_worker_writes);
    tcase_add_test(tc, errors_come_back);
    tcase_add_test(tc, a_patient_loop_writes_itself);
    tcase_add_test(tc, others_have_no_lane);
    tcase_add_test(tc, patience_ends);
}

int main(void)
{
    return run_tests("aio-lane", add_tests);
}

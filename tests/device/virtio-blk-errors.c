/* virtio-blk: state that moves or is damaged; a disk that fails or hangs; requests that wait. */
#include "block/driver.h"
#include "tests/device/disk.h"

/* ---- State ---- */

/* In the middle of a ring: what the driver has added but the device not seen is served by the
 * second machine, whose memory is a copy of the first's. */
START_TEST(state_moves_to_another_machine)
{
    const char *extra = _i ? ",packed=on,addr=5" : ",addr=5";
    Disk a = disk_new(extra, ~0ull);
    Disk b = disk_on(test_machine_new(BOARD), make_image(), "disk0", extra);
    char image[512];

    for (unsigned i = 0; i < 100; i++)
        read_sector(&a, i);
    stop(a.m);
    stop(b.m);
    add_read(&a, false);
    test_queue_kick(a.q, true);
    g_autoptr(GByteArray) state = save_object(OBJECT(a.v->pci));
    memcpy(guest_ptr(b.m, 0), guest_ptr(a.m, 0), TEST_RAM_SIZE);
    load_exactly(OBJECT(b.v->pci), state);
    run(b.m);
    a.v->m = b.m;                           /* there is its driver now */
    ck_assert_uint_eq(test_queue_wait(a.q), 513);
    read_image(&b, 0, image, 512);
    ck_assert_mem_eq(guest_ptr(b.m, a.data), image, 512);
    disk_free(&a);
    disk_free(&b);
}
END_TEST

START_TEST(damaged_state_is_refused)
{
    Disk d = disk_new("", ALL_FEATURES);
    Object *dev = OBJECT(d.v->pci);

    read_sector(&d, 0);
    stop(d.m);
    g_autoptr(GByteArray) state = save_object(dev);
    for (unsigned at = 0; at < state->len; at++) {
        state->data[at] ^= 0x81;
        tree_load_state(dev, state->data, state->len, NULL);
        state->data[at] ^= 0x81;
    }
    for (unsigned length = 0; length < state->len; length += 7)
        ck_assert(!tree_load_state(dev, state->data, length, NULL));
    load_exactly(dev, state);
    run(d.m);
    ck_assert_uint_eq(read_sector(&d, 0), VIRTIO_BLK_S_OK);
    disk_free(&d);
}
END_TEST

/* ---- A disk that fails and waits when told to ---- */

static struct {
    GMutex lock;
    int error;
    bool hold;
    GQueue held;                            /* of Coroutine */
} bad;

static int co_fn bad_io(void)
{
    g_mutex_lock(&bad.lock);
    bool wait = bad.hold;
    if (wait)
        g_queue_push_tail(&bad.held, co_self());
    g_mutex_unlock(&bad.lock);
    if (wait)
        co_yield();
    return -__atomic_load_n(&bad.error, __ATOMIC_SEQ_CST);
}

static int co_fn bad_read(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                          uint64_t bytes)
{
    int ret = bad_io();
    for (int i = 0; !ret && i < iovcnt; i++)
        memset(iov[i].iov_base, 0x77, iov[i].iov_len);
    return ret;
}

static int co_fn bad_write(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                           uint64_t bytes, unsigned flags)
{
    return bad_io();
}

static bool bad_open(BlockNode *node, json_object *options, GError **error)
{
    return true;
}

static int64_t bad_size(BlockNode *node)
{
    return IMAGE_SIZE;
}

static const BlockDriver bad_driver = {
    .name = "test-bad", .help = "fails and waits", .is_protocol = true, .open = bad_open,
    .get_size = bad_size, .co_read = bad_read, .co_write = bad_write,
};
BLOCK_DRIVER(bad_driver)

static Disk bad_disk(const char *extra)
{
    TestMachine *m =
        test_machine_new(BOARD "-object iothread,id=io0 -blockdev test-bad,node-name=bad");
    Disk d = disk_of_node(m, "bad", extra);

    disk_start(&d, ~0ull);
    return d;
}

/* Three requests that fail, so that the machine is to stop and they are tried again later. */
static void fail_three(Disk *d)
{
    bad.error = EIO;
    for (unsigned i = 0; i < 3; i++)
        add_read(d, i == 2);
    test_queue_kick(d->q, false);
    for (unsigned i = 0; i < 3; i++)
        expect_request(d->m, MACHINE_STOP);
    bad.error = 0;
}

/* Three failed requests wait through save and load, and are tried again. */
START_TEST(rerror_stop_parks_requests)
{
    const char *extras[] = { ",rerror=stop", ",rerror=stop,iothread=io0",
                             ",rerror=stop,packed=on" };
    Disk d = bad_disk(extras[_i]);

    fail_three(&d);
    stop(d.m);
    g_autoptr(GByteArray) state = save_object(OBJECT(d.v->pci));
    load_exactly(OBJECT(d.v->pci), state);
    ck_assert(!test_queue_used(d.q));
    run(d.m);
    for (unsigned i = 0; i < 3; i++)
        test_queue_wait(d.q);
    ck_assert_uint_eq(disk_status(&d), VIRTIO_BLK_S_OK);
    ck_assert_uint_eq(*(uint8_t *)guest_ptr(d.m, d.data), 0x77);
    disk_free(&d);
}
END_TEST

/* Whatever a stream says of parked requests, it is refused or does no harm. */
START_TEST(damaged_parked_requests)
{
    Disk d = bad_disk(",rerror=stop");
    Object *dev = OBJECT(d.v->pci);
    unsigned refused = 0;

    fail_three(&d);
    stop(d.m);
    g_autoptr(GByteArray) state = save_object(dev);
    for (unsigned at = 0; at < state->len; at++) {
        uint8_t good = state->data[at];

        state->data[at] = good ? 0 : 0xff;
        if (tree_load_state(dev, state->data, state->len, NULL)) {
            run(d.m);
            settle(d.m);
            stop(d.m);
        } else {
            refused++;
        }
        state->data[at] = good;
    }
    ck_assert_uint_gt(refused, state->len / 2);
    disk_free(&d);
}
END_TEST

START_TEST(reset_forgets_parked_requests)
{
    Disk d = bad_disk(",rerror=stop");

    fail_three(&d);
    stop(d.m);
    reset_machine(d.m);
    run(d.m);
    test_virtio_find(d.v);
    disk_start(&d, ~0ull);
    ck_assert_uint_eq(read_sector(&d, 0), VIRTIO_BLK_S_OK);
    disk_free(&d);
}
END_TEST

START_TEST(queue_reset_forgets_parked_requests)
{
    Disk d = bad_disk(",rerror=stop");

    fail_three(&d);
    common_store(d.v, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
    common_store(d.v, VIRTIO_PCI_COMMON_Q_RESET, 2, 1);
    settle(d.m);
    d.q = test_queue_setup(d.v, 0, 32);
    for (unsigned i = 0; i < 40; i++)
        ck_assert_uint_eq(read_sector(&d, 0), VIRTIO_BLK_S_OK);
    ck_assert_uint_eq(test_status(d.v), 15);
    disk_free(&d);
}
END_TEST

static void add_write(Disk *d)
{
    TestBuffer b[] = { { d->header, 16, false }, { d->data, 512, false }, { d->status, 1, true } };

    set_header(d, VIRTIO_BLK_T_OUT, 5);
    test_queue_add(d->q, b, 3, false);
}

/* A full file system stops the machine (werror=enospc, the default); the write that did not fit is made
 * when it goes on. */
START_TEST(a_full_disk_loses_no_write)
{
    char *image = make_image();
    g_autofree char *options = g_strdup_printf(
        BOARD "-object iothread,id=io0 -blockdev blkdebug,node-name=full,image.driver=file,"
              "image.filename=%s,inject-error.0.event=none,inject-error.0.iotype=write,"
              "inject-error.0.errno=28,inject-error.0.once=on", image);
    Disk d = disk_of_node(test_machine_new(options), "full", _i ? ",iothread=io0" : "");
    g_autofree char *data = NULL;

    disk_start(&d, ~0ull);
    memset(guest_ptr(d.m, d.data), 0x3c, 512);
    add_write(&d);
    test_queue_kick(d.q, false);
    expect_request(d.m, MACHINE_STOP);
    ck_assert(!test_queue_used(d.q));
    stop(d.m);
    run(d.m);
    test_queue_wait(d.q);
    ck_assert_uint_eq(disk_status(&d), VIRTIO_BLK_S_OK);
    ck_assert(g_file_get_contents(image, &data, NULL, NULL));
    for (unsigned i = 0; i < 512; i++)
        ck_assert_uint_eq(data[5 * 512 + i], 0x3c);
    disk_free(&d);
    unlink(image);
    g_free(image);
}
END_TEST

START_TEST(errors_are_reported_or_ignored)
{
    Disk d = bad_disk(_i ? ",werror=ignore,rerror=ignore" : "");
    uint8_t status = _i ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR;

    bad.error = EIO;
    memset(guest_ptr(d.m, d.data), 0x44, 512);
    ck_assert_uint_eq(read_sector(&d, 0), status);
    /* used.len is 0: none of the data was written. */
    ck_assert_uint_eq(*(uint8_t *)guest_ptr(d.m, d.data), 0x44);
    ck_assert_uint_eq(request(&d, VIRTIO_BLK_T_OUT, 0, 512, false), status);
    bad.error = 0;
    ck_assert_uint_eq(read_sector(&d, 0), VIRTIO_BLK_S_OK);
    disk_free(&d);
}
END_TEST

static void release_held(void *opaque)
{
    Coroutine *co;

    g_mutex_lock(&bad.lock);
    bad.hold = false;
    while ((co = g_queue_pop_head(&bad.held)))
        co_wake(co);
    g_mutex_unlock(&bad.lock);
}

static bool holds_three(void *opaque)
{
    g_mutex_lock(&bad.lock);
    bool yes = g_queue_get_length(&bad.held) == 3;
    g_mutex_unlock(&bad.lock);
    return yes;
}

/* A reset returns when what was in flight is complete; nothing is written to the ring later. */
START_TEST(reset_waits_for_requests)
{
    Disk d = bad_disk(_i ? ",iothread=io0" : "");
    uint8_t ring[64];

    bad.hold = true;
    for (unsigned i = 0; i < 3; i++)
        add_read(&d, false);
    test_queue_kick(d.q, false);
    wait_until(d.m, holds_three, NULL);
    loop_post(loop_main(), release_held, NULL);
    test_set_status(d.v, 0);
    ck_assert(g_queue_is_empty(&bad.held));
    ck_assert_uint_eq(test_status(d.v), 0);
    memcpy(ring, guest_ptr(d.m, d.q->device), sizeof(ring));
    settle(d.m);
    ck_assert_mem_eq(ring, guest_ptr(d.m, d.q->device), sizeof(ring));
    disk_start(&d, ~0ull);
    ck_assert_uint_eq(read_sector(&d, 0), VIRTIO_BLK_S_OK);
    disk_free(&d);
}
END_TEST

static void unplug(void *dev)
{
    device_delete(dev);
}

/* A reset waits for requests, and while it does so the device is taken out; by two at once. */
START_TEST(unplugged_during_a_reset)
{
    Disk d = bad_disk(_i & 1 ? ",iothread=io0" : "");
    PciDevice *dev = d.v->pci;

    bad.hold = true;
    for (unsigned i = 0; i < 3; i++)
        add_read(&d, false);
    test_queue_kick(d.q, false);
    wait_until(d.m, holds_three, NULL);
    object_ref(dev);                        /* the access to its registers is not over */
    loop_post(loop_main(), unplug, dev);
    if (_i & 2)
        loop_post(loop_main(), unplug, dev);
    loop_post(loop_main(), release_held, NULL);
    test_set_status(d.v, 0);
    settle(d.m);
    ck_assert(g_queue_is_empty(&bad.held));
    ck_assert(!OBJECT(dev)->realized);
    expect_event(d.m, "DEVICE_DELETED", NULL);
    ck_assert_uint_eq(d.m->events->len, 0);     /* it went once */
    object_unref(dev);
    disk_free(&d);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, state_moves_to_another_machine, 0, 2);
    tcase_add_test(tc, damaged_state_is_refused);
    tcase_add_loop_test(tc, rerror_stop_parks_requests, 0, 3);
    tcase_add_test(tc, damaged_parked_requests);
    tcase_add_test(tc, reset_forgets_parked_requests);
    tcase_add_test(tc, queue_reset_forgets_parked_requests);
    tcase_add_loop_test(tc, errors_are_reported_or_ignored, 0, 2);
    tcase_add_loop_test(tc, a_full_disk_loses_no_write, 0, 2);
    tcase_add_loop_test(tc, reset_waits_for_requests, 0, 2);
    tcase_add_loop_test(tc, unplugged_during_a_reset, 0, 4);
}

int main(void)
{
    return run_tests("virtio-blk-errors", add_tests);
}

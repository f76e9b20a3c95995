/* virtio-blk with a driver that breaks the rules, or takes back what it began. */
#include <linux/pci_regs.h>
#include "tests/device/disk.h"

/* Feature bits from 32 on, as the driver's feature register takes them with select 1. */
enum { VERSION_1 = 1, VERSION_1_AND_PACKED = 1 | 1 << (VIRTIO_F_RING_PACKED - 32) };

/* ---- Breaches ---- */

typedef struct Breach {
    const char *name;
    void (*commit)(Disk *d);
} Breach;

static uint8_t *split_desc(Disk *d, unsigned i)
{
    return (uint8_t *)guest_ptr(d->m, d->q->desc) + 16 * i;
}

static void head_out_of_range(Disk *d)
{
    add_read(d, false);
    st_le16((uint8_t *)guest_ptr(d->m, d->q->driver) + 4, d->q->size);
}

static void index_jumps(Disk *d)
{
    st_le16((uint8_t *)guest_ptr(d->m, d->q->driver) + 2, d->q->size + 1);
}

static void next_out_of_range(Disk *d)
{
    add_read(d, false);
    st_le16(split_desc(d, 0) + 14, d->q->size);
}

static void chain_loops(Disk *d)
{
    add_read(d, false);
    st_le16(split_desc(d, 0) + 14, 0);
}

static void readable_after_writable(Disk *d)
{
    TestBuffer b[] = { { d->header, 16, false }, { d->data, 512, true }, { d->header, 16, false },
                       { d->status, 1, true } };
    set_header(d, VIRTIO_BLK_T_IN, 0);
    test_queue_add(d->q, b, 4, false);
}

static void not_ram(Disk *d)
{
    TestBuffer b[] = { { d->header, 16, false },
                       { 1ull << 40, 512, true },
                       { d->status, 1, true } };
    test_queue_add(d->q, b, 3, false);
}

static void wraps_around(Disk *d)
{
    TestBuffer b[] = { { d->header, 16, false }, { UINT64_MAX - 100, 512, true },
                       { d->status, 1, true } };
    test_queue_add(d->q, b, 3, false);
}

static void device_registers_as_buffer(Disk *d)
{
    TestBuffer b[] = { { d->header, 16, false },
                       { d->v->common, 16, true },
                       { d->status, 1, true } };
    test_queue_add(d->q, b, 3, false);
}

static void table_of_odd_size(Disk *d)
{
    add_read(d, true);
    st_le32(split_desc(d, 0) + 8, 17);
}

static void table_is_empty(Disk *d)
{
    add_read(d, true);
    st_le32(split_desc(d, 0) + 8, 0);
}

static void table_in_a_table(Disk *d)
{
    add_read(d, true);
    uint8_t *table = guest_ptr(d->m, ld_le64(split_desc(d, 0)));
    uint16_t *flags = (uint16_t *)(table + (d->q->packed ? 14 : 12));
    *flags |= VRING_DESC_F_INDIRECT;
}

static void table_not_in_ram(Disk *d)
{
    add_read(d, true);
    st_le64(split_desc(d, 0), 1ull << 40);
}

static void table_with_next(Disk *d)
{
    add_read(d, true);
    uint16_t *flags = (uint16_t *)(split_desc(d, 0) + (d->q->packed ? 14 : 12));
    *flags |= VRING_DESC_F_NEXT;
}

static void table_walks_out(Disk *d)
{
    add_read(d, true);
    st_le16((uint8_t *)guest_ptr(d->m, ld_le64(split_desc(d, 0))) + 14, 3);
}

static void no_header(Disk *d)
{
    TestBuffer b[] = { { d->header, 15, false }, { d->status, 1, true } };
    test_queue_add(d->q, b, 2, false);
}

static void no_status(Disk *d)
{
    TestBuffer b[] = { { d->header, 16, false } };
    test_queue_add(d->q, b, 1, false);
}

static void four_gigabytes(Disk *d)
{
    TestBuffer b[300];
    b[0] = (TestBuffer){ d->header, 16, false };
    for (unsigned i = 1; i < 300; i++)
        b[i] = (TestBuffer){ 0, 15 * MiB, true };
    test_queue_add(d->q, b, 254, true);
    uint8_t *table = guest_ptr(d->m, ld_le64(split_desc(d, 0)));
    for (unsigned i = 1; i < 254; i++)
        st_le32(table + 16 * i + 8, 17 * MiB);
}

static const Breach breaches[] = {
    { "head out of range", head_out_of_range }, { "index jumps", index_jumps },
    { "next out of range", next_out_of_range }, { "chain loops", chain_loops },
    { "table walks out", table_walks_out },
    /* From here on for packed rings, too. */
    { "readable after writable", readable_after_writable }, { "not RAM", not_ram },
    { "wraps around", wraps_around }, { "registers as buffer", device_registers_as_buffer },
    { "table of odd size", table_of_odd_size }, { "table is empty", table_is_empty },
    { "table not in RAM", table_not_in_ram },
    { "table with next", table_with_next }, { "no header", no_header }, { "no status", no_status },
    { "four gigabytes", four_gigabytes }, { "table in a table", table_in_a_table },
};
enum { FIRST_PACKED_BREACH = 5, SPLIT_ONLY_LAST = 1 };

/* It says so, and the configuration's vector was raised. */
static bool is_broken(void *opaque)
{
    TestVirtio *v = opaque;
    return (test_status(v) & VIRTIO_STATUS_NEEDS_RESET) && msi_count(v->m, TEST_MSI_BASE);
}

/* The device that is broken says so, until its reset, and its neighbour does not notice. */
static void check_breach(const Breach *breach, bool packed, bool iothread)
{
    TestMachine *m = test_machine_new(BOARD "-object iothread,id=io0");
    g_autofree char *extra =
        g_strconcat(packed ? ",packed=on" : "", iothread ? ",iothread=io0" : "", NULL);
    Disk other = disk_on(m, make_image(), "disk1", extra);
    Disk d = disk_on(m, make_image(), "disk0", extra);

    disk_start(&other, ~0ull);
    disk_start(&d, ~0ull);
    g_printerr("%s\n", breach->name);
    breach->commit(&d);
    test_queue_kick(d.q, true);
    wait_until(m, is_broken, d.v);
    settle(m);
    ck_assert_uint_eq(msi_count(m, TEST_MSI_BASE + 1), 0);
    ck_assert_uint_eq(read_sector(&other, 0), VIRTIO_BLK_S_OK);
    ck_assert_uint_eq(test_status(other.v), 15);
    disk_start(&d, ~0ull);
    ck_assert_uint_eq(read_sector(&d, 0), VIRTIO_BLK_S_OK);
    disk_drop(&other);
    disk_free(&d);
}

START_TEST(breach_split)
{
    check_breach(&breaches[_i], false, false);
    check_breach(&breaches[_i], false, true);
}
END_TEST

START_TEST(breach_packed)
{
    check_breach(&breaches[_i], true, false);
}
END_TEST

/* A driver up to its features, of which the high half is chosen. */
static void begin(Disk *d, uint32_t high_features)
{
    test_set_status(d->v, 0);
    test_set_status(d->v, 3);
    common_store(d->v, VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
    common_store(d->v, VIRTIO_PCI_COMMON_GF, 4, high_features);
}

START_TEST(rings_not_in_ram)
{
    Disk d = disk_new("", ALL_FEATURES);

    begin(&d, VERSION_1);
    test_set_status(d.v, 11);
    common_store(d.v, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
    common_store(d.v, VIRTIO_PCI_COMMON_Q_DESCHI, 4, 0xfff);
    common_store(d.v, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
    test_set_status(d.v, 15);
    ck_assert(test_status(d.v) & VIRTIO_STATUS_NEEDS_RESET);
    disk_start(&d, ALL_FEATURES);
    ck_assert_uint_eq(read_sector(&d, 0), VIRTIO_BLK_S_OK);
    disk_free(&d);
}
END_TEST

START_TEST(features_not_offered_are_refused)
{
    Disk d = disk_new("", ALL_FEATURES);

    begin(&d, VERSION_1_AND_PACKED);
    test_set_status(d.v, 11);
    ck_assert_uint_eq(test_status(d.v), 3);
    common_store(d.v, VIRTIO_PCI_COMMON_GF, 4, 0);      /* without VERSION_1 */
    test_set_status(d.v, 11);
    ck_assert_uint_eq(test_status(d.v), 3);
    disk_free(&d);
}
END_TEST

/* ---- Resets ---- */

START_TEST(reset_with_requests_in_flight)
{
    Disk d = disk_new(_i & 1 ? ",iothread=io0" : "", ALL_FEATURES);

    for (unsigned round = 0; round < 30; round++) {
        disk_start(&d, _i & 2 ? ~0ull : ALL_FEATURES);
        for (unsigned i = 0; i < 40; i++) {
            add_read(&d, false);
            test_queue_kick(d.q, false);
            if (i % 8 == round % 8)
                loop_iterate(loop_main(), false);
        }
    }
    test_set_status(d.v, 0);
    ck_assert_uint_eq(test_status(d.v), 0);
    disk_start(&d, ALL_FEATURES);
    ck_assert_uint_eq(read_sector(&d, 0), VIRTIO_BLK_S_OK);
    disk_free(&d);
}
END_TEST

START_TEST(reset_of_one_queue)
{
    Disk d = disk_new(",num-queues=2", ALL_FEATURES);

    ck_assert_uint_eq(read_sector(&d, 0), VIRTIO_BLK_S_OK);
    common_store(d.v, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
    common_store(d.v, VIRTIO_PCI_COMMON_Q_RESET, 2, 1);
    ck_assert_uint_eq(common_load(d.v, VIRTIO_PCI_COMMON_Q_RESET, 2), 0);
    ck_assert_uint_eq(common_load(d.v, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
    d.q = test_queue_setup(d.v, 0, 32);
    ck_assert_uint_eq(read_sector(&d, 0), VIRTIO_BLK_S_OK);
    ck_assert_uint_eq(test_status(d.v), 15);
    disk_free(&d);
}
END_TEST

/* Its index, far in a split ring, would be far outside of a packed one. */
START_TEST(features_stay_until_a_reset)
{
    Disk d = disk_new(",packed=on,queue-size=16", ALL_FEATURES);

    for (unsigned i = 0; i < 100; i++)
        read_sector(&d, 0);
    test_set_status(d.v, 3);
    ck_assert_uint_eq(test_status(d.v), 15);
    common_store(d.v, VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
    common_store(d.v, VIRTIO_PCI_COMMON_GF, 4, VERSION_1_AND_PACKED);
    ck_assert_uint_ne(common_load(d.v, VIRTIO_PCI_COMMON_GF, 4), VERSION_1_AND_PACKED);
    ck_assert_uint_eq(read_sector(&d, 0), VIRTIO_BLK_S_OK);
    disk_free(&d);
}
END_TEST

/* A queue enabled for one layout, features for the other: seen at the start; such a state loads. */
START_TEST(layout_is_checked_at_the_start)
{
    Disk d = disk_new(",packed=on,num-queues=1", ~0ull);
    g_autoptr(GByteArray) state = NULL;

    begin(&d, VERSION_1_AND_PACKED);
    common_store(d.v, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
    common_store(d.v, VIRTIO_PCI_COMMON_Q_SIZE, 2, 100);
    common_store(d.v, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
    common_store(d.v, VIRTIO_PCI_COMMON_GF, 4, VERSION_1);
    test_set_status(d.v, 11);
    state = save_object(OBJECT(d.v->pci));
    load_exactly(OBJECT(d.v->pci), state);
    test_set_status(d.v, 15);
    ck_assert(test_status(d.v) & VIRTIO_STATUS_NEEDS_RESET);
    disk_free(&d);
}
END_TEST

START_TEST(bus_master_off_stops_the_device)
{
    Disk d = disk_new("", ALL_FEATURES);

    pci_config_write(d.v->pci, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    add_read(&d, false);
    test_queue_kick(d.q, true);
    settle(d.m);
    ck_assert(!test_queue_used(d.q));
    pci_config_write(d.v->pci, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    add_read(&d, false);
    test_queue_kick(d.q, true);
    test_queue_wait(d.q);
    disk_free(&d);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, breach_split, 0, G_N_ELEMENTS(breaches));
    tcase_add_loop_test(tc, breach_packed, FIRST_PACKED_BREACH,
                        G_N_ELEMENTS(breaches) - SPLIT_ONLY_LAST);
    tcase_add_test(tc, rings_not_in_ram);
    tcase_add_test(tc, features_not_offered_are_refused);
    tcase_add_loop_test(tc, reset_with_requests_in_flight, 0, 4);
    tcase_add_test(tc, reset_of_one_queue);
    tcase_add_test(tc, features_stay_until_a_reset);
    tcase_add_test(tc, layout_is_checked_at_the_start);
    tcase_add_test(tc, bus_master_off_stops_the_device);
}

int main(void)
{
    return run_tests("virtio-blk-breaches", add_tests);
}

/* The legacy interface of virtio-blk: ports, page numbers, and the modern interface beside it. */
#include <linux/pci_regs.h>
#include "tests/device/virtio-driver.h"

enum { PORTS = 0xc100, QUEUE_SIZE = 256, BLOCKS = 2048 };

typedef struct Legacy {
    TestMachine *m;
    PciDevice *pci;
    TestVirtio v;                           /* what rings need of it */
    TestQueue q;
    uint64_t page;
} Legacy;

static uint64_t in(Legacy *l, unsigned offset, unsigned size)
{
    uint64_t value;

    ck_assert_int_eq(address_space_load(l->m->machine->io, PORTS + offset, size, &value), MEM_OK);
    return value;
}

static void out(Legacy *l, unsigned offset, unsigned size, uint64_t value)
{
    ck_assert_int_eq(address_space_store(l->m->machine->io, PORTS + offset, size, value), MEM_OK);
}

static Legacy legacy_new(const char *options)
{
    Legacy l = { .m = test_machine_new(BOARD "-object iothread,id=io0 "
                                       "-blockdev null-co,node-name=d,size=1M,read-zeroes=on") };
    g_autofree char *device = g_strconcat("virtio-blk-pci,addr=2,drive=d,", options, NULL);

    l.pci = add_device(l.m, device);
    pci_config_write(l.pci, PCI_BASE_ADDRESS_0, PORTS, 4);
    pci_config_write(l.pci, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MASTER, 2);
    l.page = dma_alloc(l.m, 4096);
    return l;
}

/* As a driver of virtio 0.9 does it. */
static void legacy_start(Legacy *l, uint32_t wanted)
{
    out(l, VIRTIO_PCI_STATUS, 1, 0);
    out(l, VIRTIO_PCI_STATUS, 1, 1);
    out(l, VIRTIO_PCI_STATUS, 1, 3);
    uint32_t features = in(l, VIRTIO_PCI_HOST_FEATURES, 4) & wanted;
    out(l, VIRTIO_PCI_GUEST_FEATURES, 4, features);
    ck_assert_uint_eq(in(l, VIRTIO_PCI_GUEST_FEATURES, 4), features);
    out(l, VIRTIO_PCI_QUEUE_SEL, 2, 0);
    ck_assert_uint_eq(in(l, VIRTIO_PCI_QUEUE_NUM, 2), QUEUE_SIZE);
    ck_assert_uint_eq(in(l, VIRTIO_PCI_QUEUE_PFN, 4), 0);
    uint64_t ring = dma_alloc(l->m, 4 * 4096);
    out(l, VIRTIO_PCI_QUEUE_PFN, 4, ring >> 12);
    ck_assert_uint_eq(in(l, VIRTIO_PCI_QUEUE_PFN, 4), ring >> 12);
    l->v = (TestVirtio){ .m = l->m, .pci = l->pci, .features = features };
    l->q = (TestQueue){ .v = &l->v, .size = QUEUE_SIZE, .desc = ring, .driver = ring + 4096,
                        .device = ring + 8192, .event_idx = features >> VIRTIO_F_EVENT_IDX & 1 };
    out(l, VIRTIO_PCI_STATUS, 1, 7);
    ck_assert_uint_eq(in(l, VIRTIO_PCI_STATUS, 1), 7);
}

static bool used(void *opaque)
{
    Legacy *l = opaque;
    uint16_t id;
    uint32_t len;

    if (!test_queue_poll(&l->q, &id, &len))
        return false;
    ck_assert_uint_eq(len, *(uint8_t *)guest_ptr(l->m, l->page + 64) ? 0 : 513);
    return true;
}

static void legacy_read(Legacy *l, uint64_t sector, uint8_t status)
{
    TestBuffer b[] = { { l->page, 16, false },
                       { l->page + 512, 512, true },
                       { l->page + 64, 1, true } };
    uint8_t *header = guest_ptr(l->m, l->page);

    l->q.v = &l->v;
    memset(header, 0, 16);
    st_le64(header + 8, sector);
    header[64] = 0xee;
    memset(header + 512, 0x55, 512);
    test_queue_add(&l->q, b, 3, false);
    out(l, VIRTIO_PCI_QUEUE_NOTIFY, 2, 0);
    wait_until(l->m, used, l);
    ck_assert_uint_eq(header[64], status);
    ck_assert_uint_eq(header[512], status == VIRTIO_BLK_S_OK ? 0 : 0x55);
}

static const char *const variants[] = {
    "disable-modern=on", "disable-modern=on,disable-legacy=off,iothread=io0", "disable-legacy=off",
    "disable-legacy=off,ioeventfd=off",
};

START_TEST(reads)
{
    Legacy l = legacy_new(variants[_i]);

    for (unsigned round = 0; round < 3; round++) {
        legacy_start(&l, round ? UINT32_MAX : 0);
        for (unsigned i = 0; i < 300; i++)
            legacy_read(&l, i, VIRTIO_BLK_S_OK);
        legacy_read(&l, BLOCKS, VIRTIO_BLK_S_IOERR);
        ck_assert(in(&l, VIRTIO_PCI_ISR, 1) & VIRTIO_ISR_QUEUE);
        ck_assert_uint_eq(in(&l, VIRTIO_PCI_ISR, 1), 0);
        ck_assert(!gsi_level(l.m, 18));
    }
    /* The capacity, behind the registers; with MSI-X four bytes later. */
    ck_assert_uint_eq(in(&l, 20, 4), BLOCKS);
    test_machine_free(l.m);
}
END_TEST

/* Old drivers never set Bus Master Enable. */
START_TEST(a_driver_that_forgets_bus_mastering)
{
    Legacy l = legacy_new("disable-modern=on");

    pci_config_write(l.pci, PCI_COMMAND, PCI_COMMAND_IO, 2);
    legacy_start(&l, 0);
    ck_assert_uint_eq(pci_config_read(l.pci, PCI_COMMAND, 2), PCI_COMMAND_IO | PCI_COMMAND_MASTER);
    legacy_read(&l, 0, VIRTIO_BLK_S_OK);
    test_machine_free(l.m);
}
END_TEST

START_TEST(msix)
{
    Legacy l = legacy_new("disable-modern=on");

    pci_config_write(l.pci, PCI_BASE_ADDRESS_1, 0xe0000000, 4);
    pci_config_write(l.pci, PCI_COMMAND,
                     PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    pci_enable_msix(l.m, l.pci, TEST_MSI_BASE);
    ck_assert_uint_eq(in(&l, 24, 4), BLOCKS);
    legacy_start(&l, 0);
    out(&l, VIRTIO_MSI_QUEUE_VECTOR, 2, 1);
    ck_assert_uint_eq(in(&l, VIRTIO_MSI_QUEUE_VECTOR, 2), 1);
    out(&l, VIRTIO_MSI_CONFIG_VECTOR, 2, 999);
    ck_assert_uint_eq(in(&l, VIRTIO_MSI_CONFIG_VECTOR, 2), VIRTIO_MSI_NO_VECTOR);
    legacy_read(&l, 0, VIRTIO_BLK_S_OK);
    ck_assert_uint_eq(msi_count(l.m, TEST_MSI_BASE + 1), 1);
    ck_assert_uint_eq(in(&l, VIRTIO_PCI_ISR, 1), 0);
    test_machine_free(l.m);
}
END_TEST

START_TEST(identity)
{
    Legacy l = legacy_new(variants[_i]);

    ck_assert_uint_eq(pci_config_read(l.pci, PCI_VENDOR_ID, 4), 0x10011af4);
    ck_assert_uint_eq(pci_config_read(l.pci, PCI_REVISION_ID, 1), 0);
    ck_assert_uint_eq(pci_config_read(l.pci, PCI_SUBSYSTEM_ID, 2), 2);
    ck_assert_uint_eq(in(&l, VIRTIO_PCI_HOST_FEATURES, 4) >> VIRTIO_F_ANY_LAYOUT & 1, 1);
    test_machine_free(l.m);
}
END_TEST

DEVICE_TEST(types_by_name, BOARD)
{
    PciDevice *with = add_device(m, "virtio-rng-pci-transitional");
    PciDevice *without = add_device(m, "virtio-rng-pci-non-transitional");

    ck_assert_uint_eq(pci_config_read(with, PCI_DEVICE_ID, 2), 0x1005);
    ck_assert_uint_eq(pci_config_read(without, PCI_DEVICE_ID, 2), 0x1044);
}

/* A transitional device serves a driver of virtio 1, too. */
START_TEST(modern_beside_it)
{
    Legacy l = legacy_new("disable-legacy=off");
    TestVirtio *v = test_virtio_new(l.m, l.pci);
    uint8_t *header = guest_ptr(l.m, l.page);
    TestBuffer b[] = { { l.page, 16, false },
                       { l.page + 512, 512, true },
                       { l.page + 64, 1, true } };

    test_virtio_start(v, ~0ull, 1, 0);
    /* Features of the old interface are not of the new one (6.3). */
    ck_assert_uint_eq(v->offered >> VIRTIO_F_ANY_LAYOUT & 1, 0);
    ck_assert_uint_eq(v->offered >> VIRTIO_F_NOTIFY_ON_EMPTY & 1, 0);
    header[64] = 0xee;
    ck_assert_uint_eq(test_queue_do(v->queues[0], b, 3, true), 513);
    ck_assert_uint_eq(header[64], VIRTIO_BLK_S_OK);
    test_virtio_free(v);
    test_machine_free(l.m);
}
END_TEST

START_TEST(state_goes_and_comes)
{
    Legacy l = legacy_new("disable-modern=on");

    legacy_start(&l, UINT32_MAX);
    legacy_read(&l, 0, VIRTIO_BLK_S_OK);
    stop(l.m);
    g_autoptr(GByteArray) state = save_object(OBJECT(l.pci));
    reset_machine(l.m);
    load_exactly(OBJECT(l.pci), state);
    run(l.m);
    legacy_read(&l, 1, VIRTIO_BLK_S_OK);
    test_machine_free(l.m);
}
END_TEST

DEVICE_TEST(no_interface_is_refused, BOARD)
{
    g_autofree char *none =
        device_error(m, "virtio-rng-pci,disable-modern=on,disable-legacy=on");
    ck_assert_msg(strstr(none, "disable-legacy"), "%s", none);
    g_autofree char *packed = device_error(m, "virtio-rng-pci,disable-modern=on,packed=on");
    ck_assert_msg(strstr(packed, "packed"), "%s", packed);
    g_autofree char *iommu = device_error(m, "virtio-rng-pci,disable-legacy=off,iommu_platform=on");
    ck_assert_msg(strstr(iommu, "iommu_platform"), "%s", iommu);
}

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, reads, 0, G_N_ELEMENTS(variants));
    tcase_add_test(tc, a_driver_that_forgets_bus_mastering);
    tcase_add_test(tc, msix);
    tcase_add_loop_test(tc, identity, 0, G_N_ELEMENTS(variants));
    tcase_add_test(tc, types_by_name);
    tcase_add_test(tc, modern_beside_it);
    tcase_add_test(tc, state_goes_and_comes);
    tcase_add_test(tc, no_interface_is_refused);
}

int main(void)
{
    return run_tests("virtio-legacy", add_tests);
}

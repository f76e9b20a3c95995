/* virtio-blk: every kind of request against the image, on both ring layouts; interrupts; config. */
#include <linux/pci_regs.h>
#include "tests/device/disk.h"

/* What the loops below vary: layout, EVENT_IDX, indirect, iothread. */
static const struct {
    const char *options;
    uint64_t features;
    bool indirect;
} variants[] = {
    { "", 1ull << VIRTIO_BLK_F_FLUSH, false },
    { "", ALL_FEATURES, false },
    { "", ALL_FEATURES, true },
    { ",packed=on", ~0ull & ~(1ull << VIRTIO_F_EVENT_IDX), false },
    { ",packed=on", ~0ull, false },
    { ",packed=on", ~0ull, true },
    { ",ioeventfd=off", ALL_FEATURES, false },
    { ",vectors=0", ALL_FEATURES, false },
    { ",page-per-vq=on,queue-size=16", ALL_FEATURES, true },
};

static void check_request_types(Disk *d, bool indirect)
{
    char *data = guest_ptr(d->m, d->data);
    char image[8192];

    for (unsigned round = 0; round < 300; round++) {      /* more than a ring: indices wrap */
        uint64_t sector = round * 5 % 1024;
        ck_assert_uint_eq(request(d, VIRTIO_BLK_T_IN, sector, 4096, indirect), VIRTIO_BLK_S_OK);
        read_image(d, sector * 512, image, 4096);
        ck_assert_mem_eq(data, image, 4096);
    }
    memset(data, 0x5a, 8192);
    ck_assert_uint_eq(request(d, VIRTIO_BLK_T_OUT, 24, 8192, indirect), VIRTIO_BLK_S_OK);
    read_image(d, 24 * 512, image, 8192);
    ck_assert_mem_eq(data, image, 8192);
    ck_assert_uint_eq(request(d, VIRTIO_BLK_T_FLUSH, 0, 0, indirect), VIRTIO_BLK_S_OK);
    ck_assert_uint_eq(request(d, VIRTIO_BLK_T_GET_ID, 0, ID_BYTES, indirect), VIRTIO_BLK_S_OK);
    ck_assert_str_eq(data, "SN-disk0");
    ck_assert_uint_eq(request(d, 77, 0, 0, indirect), VIRTIO_BLK_S_UNSUPP);
    /* Out of the device, not whole sectors. */
    ck_assert_uint_eq(request(d, VIRTIO_BLK_T_IN, 2047, 1024, indirect), VIRTIO_BLK_S_IOERR);
    ck_assert_uint_eq(request(d, VIRTIO_BLK_T_IN, UINT64_MAX - 1, 512, indirect),
                      VIRTIO_BLK_S_IOERR);
    ck_assert_uint_eq(request(d, VIRTIO_BLK_T_OUT, 0, 100, indirect), VIRTIO_BLK_S_IOERR);
    ck_assert_uint_eq(test_status(d->v), 15);
}

START_TEST(request_types)
{
    Disk d = disk_new(variants[_i].options, variants[_i].features);
    check_request_types(&d, variants[_i].indirect);
    disk_free(&d);
}
END_TEST

START_TEST(request_types_in_iothread)
{
    g_autofree char *extra = g_strconcat(variants[_i].options, ",iothread=io0", NULL);
    Disk d = disk_new(extra, variants[_i].features);

    check_request_types(&d, variants[_i].indirect);
    disk_free(&d);
}
END_TEST

static uint8_t segment_request(Disk *d, uint32_t type, uint64_t sector, uint32_t sectors,
                               uint32_t flags)
{
    uint8_t *s = guest_ptr(d->m, d->data);
    st_le64(s, sector);
    st_le32(s + 8, sectors);
    st_le32(s + 12, flags);
    return request(d, type, 0, 16, false);
}

START_TEST(discard_and_write_zeroes)
{
    Disk d = disk_new("", ALL_FEATURES);
    char image[4096], zeroes[4096] = { 0 };

    ck_assert_uint_eq(segment_request(&d, VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 0), VIRTIO_BLK_S_OK);
    read_image(&d, 4096, image, 4096);
    ck_assert_mem_eq(image, zeroes, 4096);
    read_image(&d, 8192, image, 4096);
    ck_assert_mem_ne(image, zeroes, 4096);
    ck_assert_uint_eq(segment_request(&d, VIRTIO_BLK_T_WRITE_ZEROES, 16, 8, 1), VIRTIO_BLK_S_OK);
    read_image(&d, 8192, image, 4096);
    ck_assert_mem_eq(image, zeroes, 4096);
    ck_assert_uint_eq(segment_request(&d, VIRTIO_BLK_T_DISCARD, 64, 64, 0), VIRTIO_BLK_S_OK);
    ck_assert_uint_eq(segment_request(&d, VIRTIO_BLK_T_DISCARD, 64, 64, 1), VIRTIO_BLK_S_UNSUPP);
    ck_assert_uint_eq(segment_request(&d, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2), VIRTIO_BLK_S_UNSUPP);
    ck_assert_uint_eq(segment_request(&d, VIRTIO_BLK_T_DISCARD, 2047, 2, 0), VIRTIO_BLK_S_IOERR);
    ck_assert_uint_eq(request(&d, VIRTIO_BLK_T_DISCARD, 0, 32, false), VIRTIO_BLK_S_IOERR);
    disk_free(&d);
}
END_TEST

START_TEST(discard_without_the_feature)
{
    Disk d = disk_new(",discard=off", ALL_FEATURES);
    ck_assert(!(d.v->offered >> VIRTIO_BLK_F_DISCARD & 1));
    ck_assert_uint_eq(segment_request(&d, VIRTIO_BLK_T_DISCARD, 64, 64, 0), VIRTIO_BLK_S_UNSUPP);
    disk_free(&d);
}
END_TEST

/* 2.7.4: header, data and status may be cut anywhere. */
START_TEST(any_layout)
{
    Disk d = disk_new(_i ? ",packed=on" : "", ~0ull);
    uint8_t *data = guest_ptr(d.m, d.data);
    char image[1024];

    /* The header in three parts, the last of which also has the first 512 bytes of data. */
    set_header(&d, VIRTIO_BLK_T_OUT, 3);
    memcpy(data, (char *)guest_ptr(d.m, d.header) + 10, 6);
    memset(data + 6, 0x11, 512);
    memset(data + 1024, 0x22, 512);
    TestBuffer out[] = { { d.header, 4, false }, { d.header + 4, 6, false }, { d.data, 518, false },
                         { d.data + 1024, 512, false }, { d.status, 1, true } };
    ck_assert_uint_eq(test_queue_do(d.q, out, G_N_ELEMENTS(out), false), 1);
    ck_assert_uint_eq(disk_status(&d), VIRTIO_BLK_S_OK);
    read_image(&d, 3 * 512, image, 1024);
    ck_assert_mem_eq(image, data + 6, 512);
    ck_assert_mem_eq(image + 512, data + 1024, 512);

    /* Data and status in one buffer. */
    set_header(&d, VIRTIO_BLK_T_IN, 3);
    memset(data, 0xee, 2048);
    TestBuffer in[] = { { d.header, 16, false },
                        { d.data, 512, true },
                        { d.data + 512, 513, true } };
    ck_assert_uint_eq(test_queue_do(d.q, in, G_N_ELEMENTS(in), false), 1025);
    ck_assert_mem_eq(image, data, 1024);
    ck_assert_uint_eq(data[1024], VIRTIO_BLK_S_OK);
    disk_free(&d);
}
END_TEST

START_TEST(read_only_disk)
{
    TestMachine *m = test_machine_new(BOARD "-blockdev null-co,node-name=ro,size=1M,read-only=on");
    Disk d = disk_of_node(m, "ro", "");

    disk_start(&d, ALL_FEATURES);
    ck_assert(d.v->offered >> VIRTIO_BLK_F_RO & 1);
    ck_assert_uint_eq(request(&d, VIRTIO_BLK_T_OUT, 0, 512, false), VIRTIO_BLK_S_IOERR);
    ck_assert_uint_eq(read_sector(&d, 0), VIRTIO_BLK_S_OK);
    disk_free(&d);
}
END_TEST

#define CONFIG(field, size)                                                                        \
    mem_read(d.m, d.v->config + offsetof(struct virtio_blk_config, field), size)

START_TEST(configuration)
{
    Disk d = disk_new(",num-queues=3,queue-size=64,logical_block_size=512,physical_block_size=4096,"
                      "min_io_size=8192,opt_io_size=65536", ALL_FEATURES);
    uint64_t c = d.v->config, wce = c + offsetof(struct virtio_blk_config, wce);

    ck_assert_uint_eq(CONFIG(capacity, 4), IMAGE_SIZE / 512);
    ck_assert_uint_eq(CONFIG(seg_max, 4), 62);
    ck_assert_uint_eq(CONFIG(blk_size, 4), 512);
    ck_assert_uint_eq(CONFIG(physical_block_exp, 1), 3);
    ck_assert_uint_eq(CONFIG(min_io_size, 2), 16);
    ck_assert_uint_eq(CONFIG(opt_io_size, 4), 128);
    ck_assert_uint_eq(CONFIG(num_queues, 2), 3);
    ck_assert_uint_eq(d.v->num_queues, 3);
    ck_assert_uint_eq(d.q->size, 64);
    /* The write cache is the driver's to switch. */
    ck_assert_uint_eq(CONFIG(wce, 1), 1);
    mem_write(d.m, wce, 1, 0);
    ck_assert_uint_eq(CONFIG(wce, 1), 0);
    mem_write(d.m, c, 4, 5);
    ck_assert_uint_eq(CONFIG(capacity, 4), IMAGE_SIZE / 512);
    disk_free(&d);
}
END_TEST

/* A track of 63 sectors is one of seven blocks. */
START_TEST(geometry_of_large_blocks)
{
    Disk d = disk_new(",logical_block_size=4096", ALL_FEATURES);

    ck_assert_uint_eq(CONFIG(geometry.sectors, 1), 56);
    disk_free(&d);
}
END_TEST

/* A cache that writes through and cannot be switched has nothing to flush. */
static const struct {
    const char *options;
    bool flush, config_wce, wce;
} caches[] = {
    { "", true, true, true },
    { ",write-cache=off", true, true, false },
    { ",config-wce=off", true, false, true },
    { ",write-cache=off,config-wce=off", false, false, false },
};

START_TEST(write_cache)
{
    Disk d = disk_new(caches[_i].options, ALL_FEATURES);

    ck_assert_uint_eq(d.v->offered >> VIRTIO_BLK_F_FLUSH & 1, caches[_i].flush);
    ck_assert_uint_eq(d.v->offered >> VIRTIO_BLK_F_CONFIG_WCE & 1, caches[_i].config_wce);
    ck_assert_uint_eq(CONFIG(wce, 1), caches[_i].wce);
    disk_free(&d);
}
END_TEST

/* seg_max binds who has negotiated it; a chain may fill the ring (2.7.5.3.1). */
START_TEST(as_many_buffers_as_the_ring_has)
{
    enum { SLOTS = 256, SECTORS = SLOTS - 2 };
    Disk d = disk_new(",seg-max-adjust=off", 0);
    TestBuffer b[SLOTS] = { { d.header, 16, false } };

    for (unsigned i = 0; i < SECTORS; i++)
        b[1 + i] = (TestBuffer){ d.data, 512, true };
    b[1 + SECTORS] = (TestBuffer){ d.status, 1, true };
    set_header(&d, VIRTIO_BLK_T_IN, 0);
    ck_assert_uint_eq(test_queue_do(d.q, b, SLOTS, false), SECTORS * 512 + 1);
    ck_assert_uint_eq(disk_status(&d), VIRTIO_BLK_S_OK);
    disk_free(&d);
}
END_TEST

DEVICE_TEST(one_device_a_bootindex, BOARD "-blockdev null-co,node-name=disk0,size=1M "
                                          "-blockdev null-co,node-name=disk1,size=1M")
{
    PciDevice *first = add_device(m, "virtio-blk-pci,drive=disk0,bootindex=1,id=first");
    g_autofree char *error = device_error(m, "virtio-blk-pci,drive=disk1,bootindex=1");

    ck_assert_msg(strstr(error, "The bootindex 1 has already been used"), "%s", error);
    device_delete(&first->dev);
    add_device(m, "virtio-blk-pci,drive=disk1,bootindex=1");
    add_device(m, "virtio-blk-pci,drive=disk0");
}

DEVICE_TEST(wrong_properties, BOARD "-blockdev null-co,node-name=disk0,size=1M")
{
    static const struct {
        const char *options, *text;
    } cases[] = {
        { "virtio-blk-pci", "'drive'" },
        { "virtio-blk-pci,drive=disk0,queue-size=100", "queue-size" },
        { "virtio-blk-pci,drive=disk0,num-queues=0", "num-queues" },
        { "virtio-blk-pci,drive=disk0,logical_block_size=1000", "logical_block_size" },
        { "virtio-blk-pci,drive=disk0,logical_block_size=4096,physical_block_size=512",
          "larger than physical_block_size" },
        { "virtio-blk-pci,drive=disk0,scsi=on", "scsi" },
        { "virtio-blk-pci,drive=disk0,addr=20", "addr" },
        { "virtio-blk-pci,drive=disk0,rerror=enospc", "rerror" },
        { "virtio-rng-pci,romfile=/nonexistent/rom.bin", "romfile" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *error = device_error(m, cases[i].options);
        ck_assert_msg(strstr(error, cases[i].text), "%s: %s", cases[i].options, error);
    }
    add_device(m, "virtio-blk-pci,drive=disk0,addr=1f.7");
    g_autofree char *taken = device_error(m, "virtio-rng-pci,addr=1f.7,id=second");
    ck_assert_msg(strstr(taken, "virtio-blk-pci"), "%s", taken);
}

/* ---- Interrupts and kicks ---- */

START_TEST(msix_mask_and_pending)
{
    Disk d = disk_new(_i ? ",packed=on" : "", ~0ull & ~(1ull << VIRTIO_F_EVENT_IDX));
    uint32_t vector = TEST_MSI_BASE + 1;

    read_sector(&d, 0);
    ck_assert_uint_eq(msi_count(d.m, vector), 1);
    test_msix_mask(d.v, 1, true);
    read_sector(&d, 0);
    ck_assert_uint_eq(msi_count(d.m, vector), 1);
    ck_assert_uint_eq(mem_read(d.m, d.v->pba, 8), 2);
    test_msix_mask(d.v, 1, false);
    ck_assert_uint_eq(msi_count(d.m, vector), 2);
    ck_assert_uint_eq(mem_read(d.m, d.v->pba, 8), 0);
    /* Nothing was pending: unmasking sends nothing. */
    test_msix_mask(d.v, 1, true);
    test_msix_mask(d.v, 1, false);
    ck_assert_uint_eq(msi_count(d.m, vector), 2);
    disk_free(&d);
}
END_TEST

/* 2.4.1: after a reset there is no notification, not even one that a mask has held back. */
START_TEST(reset_forgets_what_is_pending)
{
    Disk d = disk_new("", ALL_FEATURES);

    test_msix_mask(d.v, 1, true);
    read_sector(&d, 0);
    if (_i)                                 /* the eventfd has it, or the pending bit */
        ck_assert_uint_eq(mem_read(d.m, d.v->pba, 8), 2);
    test_set_status(d.v, 0);
    ck_assert_uint_eq(mem_read(d.m, d.v->pba, 8), 0);
    test_msix_mask(d.v, 1, false);
    ck_assert_uint_eq(msi_count(d.m, TEST_MSI_BASE + 1), 0);
    disk_free(&d);
}
END_TEST

/* The driver looks at the pending bit, and one more comes: still one message. */
START_TEST(one_message_for_what_is_pending)
{
    Disk d = disk_new("", ALL_FEATURES & ~(1ull << VIRTIO_F_EVENT_IDX));

    test_msix_mask(d.v, 1, true);
    for (unsigned i = 0; i < 2; i++) {
        read_sector(&d, 0);
        ck_assert_uint_eq(mem_read(d.m, d.v->pba, 8), 2);
    }
    read_sector(&d, 0);
    test_msix_mask(d.v, 1, false);
    settle(d.m);
    ck_assert_uint_eq(msi_count(d.m, TEST_MSI_BASE + 1), 1);
    disk_free(&d);
}
END_TEST

START_TEST(interrupts_without_irqfds)
{
    TestMachine *m = test_machine_new(BOARD "-object iothread,id=io0");
    Disk d;

    m->no_irqfds = true;
    d = disk_on(m, make_image(), "disk0", _i ? ",iothread=io0" : "");
    disk_start(&d, 1ull << VIRTIO_BLK_F_FLUSH);
    read_sector(&d, 0);
    wait_msi(m, TEST_MSI_BASE + 1);
    disk_free(&d);
}
END_TEST

/* KVM's routes run out when the driver unmasks: interrupts come all the same. */
START_TEST(irqfds_run_out)
{
    TestMachine *m = test_machine_new(BOARD "-object iothread,id=io0");
    Disk d = disk_on(m, make_image(), "disk0", _i ? ",iothread=io0" : "");

    test_msix_mask(d.v, 1, true);           /* needs no route yet */
    disk_start(&d, 1ull << VIRTIO_BLK_F_FLUSH);
    m->no_irqfds = true;
    read_sector(&d, 0);                     /* waits in the eventfd */
    test_msix_mask(d.v, 1, false);
    ck_assert_uint_eq(msi_take(m, TEST_MSI_BASE + 1), 1);
    read_sector(&d, 0);
    wait_msi(m, TEST_MSI_BASE + 1);
    disk_free(&d);
}
END_TEST

/* A request that ends in its thread while the machine stops: the interrupt is there to be saved. */
START_TEST(interrupt_while_it_stops)
{
    TestMachine *m = test_machine_new(BOARD "-object iothread,id=io0");
    Disk d;

    m->no_irqfds = true;
    d = disk_on(m, make_image(), "disk0", _i ? ",iothread=io0,addr=3"
                                             : ",iothread=io0,addr=3,vectors=0");
    disk_start(&d, 1ull << VIRTIO_BLK_F_FLUSH);
    for (unsigned round = 0; round < 100; round++) {
        add_read(&d, false);
        test_queue_kick(d.q, true);
        stop(m);
        if (!test_queue_used(d.q)) {        /* not even begun */
            run(m);
            wait_until(m, test_queue_used, d.q);
            settle(m);
        }
        if (_i)
            ck_assert_uint_eq(msi_take(m, TEST_MSI_BASE + 1), 1);
        else
            ck_assert(gsi_level(m, 16 + 3));
        mem_read(m, d.v->isr, 1);
        run(m);
    }
    disk_free(&d);
}
END_TEST

START_TEST(intx)
{
    Disk d = disk_new(",vectors=0,addr=3", ALL_FEATURES);

    read_sector(&d, 0);
    ck_assert(gsi_level(d.m, 16 + 3));
    ck_assert(pci_config_read(d.v->pci, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
    ck_assert_uint_eq(mem_read(d.m, d.v->isr, 1), VIRTIO_ISR_QUEUE);
    ck_assert(!gsi_level(d.m, 16 + 3));
    ck_assert_uint_eq(mem_read(d.m, d.v->isr, 1), 0);
    disk_free(&d);
}
END_TEST

/* With the event index behind, three requests give one interrupt; without, at most one each. */
START_TEST(event_idx_suppresses)
{
    Disk d = disk_new(_i ? ",packed=on" : "", ~0ull);
    TestBuffer b[] = { { d.header, 16, false }, { d.data, 512, true }, { d.status, 1, true } };
    uint16_t id;
    uint32_t len;
    unsigned done = 0;

    set_header(&d, VIRTIO_BLK_T_IN, 0);
    /* In slots: the packed ring counts descriptors, and asks for the last of nine. */
    test_queue_set_used_event(d.q, _i ? 6 : 2);
    for (unsigned i = 0; i < 3; i++) {
        test_queue_add(d.q, b, 3, false);
        test_queue_kick(d.q, false);
        settle(d.m);
        while (done <= i) {
            loop_iterate(loop_main(), false);
            if (d.q->packed ? test_queue_poll(d.q, &id, &len)
                            : ld_le16((uint8_t *)guest_ptr(d.m, d.q->device) + 2) == i + 1)
                done++;
        }
        settle(d.m);
        ck_assert_uint_eq(msi_count(d.m, TEST_MSI_BASE + 1), i == 2);
    }
    disk_free(&d);
}
END_TEST

/* Which threads serve the queues: exactly one each. */
static const struct {
    const char *map, *refusal;
} maps[] = {
    { "[{\"iothread\": \"io0\"}, {\"iothread\": \"io1\"}]", NULL },
    { "[{\"iothread\": \"io0\", \"vqs\": [0, 3]}, {\"iothread\": \"io1\", \"vqs\": [2, 1]}]", NULL },
    { "\"io0\"", "it must be a list" },
    { "[]", "the list is empty" },
    { "[{\"vqs\": [0]}]", "an entry has no 'iothread'" },
    { "[{\"iothread\": \"io9\"}]", "IOThread \"io9\" object does not exist" },
    { "[{\"iothread\": \"io0\"}, {\"iothread\": \"io0\"}]", "duplicate iothread name \"io0\"" },
    { "[{\"iothread\": \"io0\", \"vqs\": [0, 1, 2, 3]}, {\"iothread\": \"io1\"}]", "either all items" },
    { "[{\"iothread\": \"io0\", \"vqs\": [0, 1, 2, 4]}]", "must be less than num_queues 4" },
    { "[{\"iothread\": \"io0\", \"vqs\": [0, 1, 1]}]", "vq 1 to IOThread \"io0\" because it is already" },
    { "[{\"iothread\": \"io0\", \"vqs\": [0, 1, 3]}]", "missing vq 2" },
    { "[{\"iothread\": \"io0\", \"vq\": 1}]", "has no member 'vq'" },
    { "[{\"iothread\": \"io0\"}], \"iothread\": \"io1\"", "cannot be set at the same time" },
};

START_TEST(iothread_map)
{
    TestMachine *m = test_machine_new(BOARD "-object iothread,id=io0 -object iothread,id=io1 "
                                      "-blockdev null-co,node-name=n,size=1M");
    g_autofree char *options = g_strdup_printf("{\"driver\": \"virtio-blk-pci\", \"drive\": \"n\", "
                                               "\"num-queues\": 4, \"iothread-vq-mapping\": %s}",
                                               maps[_i].map);
    g_autofree char *error = maps[_i].refusal ? device_error(m, options) : NULL;

    if (maps[_i].refusal) {
        ck_assert_msg(error && strstr(error, maps[_i].refusal), "%s: %s", options, error);
    } else {
        PciDevice *pci = add_device(m, options);
        VirtioDevice *vdev = VIRTIO_DEVICE(object_child(OBJECT(pci), "virtio-backend"));
        TestVirtio *v = test_virtio_new(m, pci);
        Loop *first, *second;

        test_virtio_start(v, ~0ull, 4, 0);
        first = virtq_loop(vdev->queues[0]);
        second = virtq_loop(vdev->queues[1]);
        ck_assert(first != second && first != loop_main() && second != loop_main());
        ck_assert_ptr_eq(virtq_loop(vdev->queues[2]), _i ? second : first);
        ck_assert_ptr_eq(virtq_loop(vdev->queues[3]), _i ? first : second);
        test_virtio_free(v);
    }
    test_machine_free(m);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, request_types, 0, G_N_ELEMENTS(variants));
    tcase_add_loop_test(tc, request_types_in_iothread, 0, G_N_ELEMENTS(variants));
    tcase_add_test(tc, discard_and_write_zeroes);
    tcase_add_test(tc, discard_without_the_feature);
    tcase_add_loop_test(tc, any_layout, 0, 2);
    tcase_add_test(tc, read_only_disk);
    tcase_add_test(tc, configuration);
    tcase_add_test(tc, geometry_of_large_blocks);
    tcase_add_loop_test(tc, write_cache, 0, G_N_ELEMENTS(caches));
    tcase_add_test(tc, as_many_buffers_as_the_ring_has);
    tcase_add_test(tc, one_device_a_bootindex);
    tcase_add_test(tc, wrong_properties);
    tcase_add_loop_test(tc, iothread_map, 0, G_N_ELEMENTS(maps));
    tcase_add_loop_test(tc, msix_mask_and_pending, 0, 2);
    tcase_add_loop_test(tc, reset_forgets_what_is_pending, 0, 2);
    tcase_add_test(tc, one_message_for_what_is_pending);
    tcase_add_loop_test(tc, interrupts_without_irqfds, 0, 2);
    tcase_add_loop_test(tc, irqfds_run_out, 0, 2);
    tcase_add_loop_test(tc, interrupt_while_it_stops, 0, 2);
    tcase_add_test(tc, intx);
    tcase_add_loop_test(tc, event_idx_suppresses, 0, 2);
}

int main(void)
{
    return run_tests("virtio-blk", add_tests);
}

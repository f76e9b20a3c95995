/* virtio-blk: every kind of request against the image, on both ring layouts; errors; state. */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include "block/driver.h"
#include "virtio-driver.h"

enum { IMAGE_SIZE = 1 << 20, ID_BYTES = 20 };

typedef struct Disk {
    TestVm *vm;
    TestVirtio *v;
    TestQueue *q;
    char *path;
    uint64_t header, status, data;          /* guest pages */
} Disk;

static char *make_image(void)
{
    char *path = g_strdup("/tmp/vireo-virtio-blk-XXXXXX");
    auto_fd fd = mkstemp(path);
    uint32_t words[IMAGE_SIZE / 4];

    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++)
        words[i] = i * 2654435761u;
    ck_assert_int_eq(write(fd, words, IMAGE_SIZE), IMAGE_SIZE);
    return path;
}

static void read_image(const Disk *d, uint64_t offset, void *buffer, size_t length)
{
    auto_fd fd = open(d->path, O_RDONLY);
    ck_assert_int_eq(pread(fd, buffer, length, offset), length);
}

static Disk disk_on(TestVm *vm, char *path, const char *node, const char *extra)
{
    Disk d = { .vm = vm, .path = path };
    g_autofree char *block = g_strdup_printf("raw,node-name=%s,discard=unmap,file.driver=file,"
                                             "file.filename=%s,file.discard=unmap", node, path);
    g_autofree char *options = g_strdup_printf("virtio-blk-pci,drive=%s,serial=SN-%s%s", node, node,
                                               extra);
    test_blockdev(vm, block);
    d.v = test_virtio_new(vm, test_device(vm, options));
    d.header = guest_alloc(vm, 16);
    d.status = guest_alloc(vm, 1);
    d.data = guest_alloc(vm, 64 * KiB);
    return d;
}

static void disk_start(Disk *d, uint64_t features)
{
    test_virtio_start(d->v, features, 1, 0);
    d->q = d->v->queues[0];
}

static Disk disk_new(const char *extra, uint64_t features)
{
    TestVm *vm = test_vm_new();
    Disk d = disk_on(vm, make_image(), "disk0", extra);

    disk_start(&d, features);
    return d;
}

static void disk_free(Disk *d)
{
    test_virtio_free(d->v);
    test_vm_free(d->vm);
    unlink(d->path);
    g_free(d->path);
}

static void set_header(Disk *d, uint32_t type, uint64_t sector)
{
    uint8_t *h = guest_ptr(d->vm, d->header);
    st_le32(h, type);
    st_le32(h + 4, 0);
    st_le64(h + 8, sector);
    *(uint8_t *)guest_ptr(d->vm, d->status) = 0xee;
}

/* A request with one data buffer; its status. */
static uint8_t request(Disk *d, uint32_t type, uint64_t sector, uint32_t bytes, bool indirect)
{
    bool write = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
    TestBuffer b[3] = { { d->header, 16, false } };
    unsigned n = 1;

    set_header(d, type, sector);
    if (bytes)
        b[n++] = (TestBuffer){ d->data, bytes, write };
    b[n++] = (TestBuffer){ d->status, 1, true };
    uint32_t len = test_queue_do(d->q, b, n, indirect);
    uint8_t status = *(uint8_t *)guest_ptr(d->vm, d->status);
    ck_assert_uint_eq(len, !write || !bytes ? 1 : status == VIRTIO_BLK_S_OK ? bytes + 1 : 0);
    return status;
}

#define ALL_FEATURES (~0ull & ~(1ull << VIRTIO_F_RING_PACKED))

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
    char *data = guest_ptr(d->vm, d->data);
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
    TestVm *vm = test_vm_new();
    test_object(vm, "iothread,id=io0");
    g_autofree char *extra = g_strconcat(variants[_i].options, ",iothread=io0", NULL);
    Disk d = disk_on(vm, make_image(), "disk0", extra);

    disk_start(&d, variants[_i].features);
    check_request_types(&d, variants[_i].indirect);
    disk_free(&d);
}
END_TEST

static uint8_t segment_request(Disk *d, uint32_t type, uint64_t sector, uint32_t sectors,
                               uint32_t flags)
{
    uint8_t *s = guest_ptr(d->vm, d->data);
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
    uint8_t *data = guest_ptr(d.vm, d.data);
    char image[1024];

    /* The header in three parts, the last of which also has the first 512 bytes of data. */
    set_header(&d, VIRTIO_BLK_T_OUT, 3);
    memcpy(data, (char *)guest_ptr(d.vm, d.header) + 10, 6);
    memset(data + 6, 0x11, 512);
    memset(data + 1024, 0x22, 512);
    TestBuffer out[] = { { d.header, 4, false }, { d.header + 4, 6, false }, { d.data, 518, false },
                         { d.data + 1024, 512, false }, { d.status, 1, true } };
    ck_assert_uint_eq(test_queue_do(d.q, out, G_N_ELEMENTS(out), false), 1);
    ck_assert_uint_eq(*(uint8_t *)guest_ptr(d.vm, d.status), VIRTIO_BLK_S_OK);
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
    TestVm *vm = test_vm_new();
    Disk d = { .vm = vm, .path = make_image() };
    g_autofree char *block = g_strdup_printf("raw,node-name=ro,read-only=on,file.driver=file,"
                                             "file.filename=%s,file.read-only=on", d.path);
    test_blockdev(vm, block);
    d.v = test_virtio_new(vm, test_device(vm, "virtio-blk-pci,drive=ro"));
    d.header = guest_alloc(vm, 16);
    d.status = guest_alloc(vm, 1);
    d.data = guest_alloc(vm, 4096);
    disk_start(&d, ALL_FEATURES);
    ck_assert(d.v->offered >> VIRTIO_BLK_F_RO & 1);
    ck_assert_uint_eq(request(&d, VIRTIO_BLK_T_OUT, 0, 512, false), VIRTIO_BLK_S_IOERR);
    ck_assert_uint_eq(request(&d, VIRTIO_BLK_T_IN, 0, 512, false), VIRTIO_BLK_S_OK);
    disk_free(&d);
}
END_TEST

START_TEST(configuration)
{
    Disk d = disk_new(",num-queues=3,queue-size=64,logical_block_size=512,physical_block_size=4096,"
                      "min_io_size=8192,opt_io_size=65536", ALL_FEATURES);
    uint64_t c = d.v->config;

    ck_assert_uint_eq(guest_load(d.vm, c, 4), IMAGE_SIZE / 512);
    ck_assert_uint_eq(guest_load(d.vm, c + offsetof(struct virtio_blk_config, seg_max), 4), 62);
    ck_assert_uint_eq(guest_load(d.vm, c + offsetof(struct virtio_blk_config, blk_size), 4), 512);
    ck_assert_uint_eq(
        guest_load(d.vm, c + offsetof(struct virtio_blk_config, physical_block_exp), 1), 3);
    ck_assert_uint_eq(guest_load(d.vm, c + offsetof(struct virtio_blk_config, min_io_size), 2), 16);
    ck_assert_uint_eq(guest_load(d.vm, c + offsetof(struct virtio_blk_config, opt_io_size), 4),
                      128);
    ck_assert_uint_eq(guest_load(d.vm, c + offsetof(struct virtio_blk_config, num_queues), 2), 3);
    ck_assert_uint_eq(d.v->num_queues, 3);
    ck_assert_uint_eq(d.q->size, 64);
    /* The write cache is the driver's to switch. */
    uint64_t wce = c + offsetof(struct virtio_blk_config, wce);
    ck_assert_uint_eq(guest_load(d.vm, wce, 1), 1);
    guest_store(d.vm, wce, 1, 0);
    ck_assert_uint_eq(guest_load(d.vm, wce, 1), 0);
    guest_store(d.vm, c, 4, 5);
    ck_assert_uint_eq(guest_load(d.vm, c, 4), IMAGE_SIZE / 512);
    disk_free(&d);
}
END_TEST

START_TEST(wrong_properties)
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
    TestVm *vm = test_vm_new();
    g_autofree char *path = make_image();
    g_autofree char *block = g_strdup_printf("file,node-name=disk0,filename=%s", path);

    test_blockdev(vm, block);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *error = test_device_error(vm, cases[i].options);
        ck_assert_msg(strstr(error, cases[i].text), "%s: %s", cases[i].options, error);
    }
    test_device(vm, "virtio-blk-pci,drive=disk0,addr=1f.7");
    g_autofree char *taken = test_device_error(vm, "virtio-rng-pci,addr=1f.7,id=second");
    ck_assert_msg(strstr(taken, "virtio-blk-pci"), "%s", taken);
    test_vm_free(vm);
    unlink(path);
}
END_TEST

/* ---- Interrupts and kicks ---- */

START_TEST(msix_mask_and_pending)
{
    Disk d = disk_new(_i ? ",packed=on" : "", ~0ull & ~(1ull << VIRTIO_F_EVENT_IDX));
    uint32_t vector = TEST_MSI_BASE + 1;

    request(&d, VIRTIO_BLK_T_IN, 0, 512, false);
    ck_assert_uint_eq(test_messages(d.vm, vector), 1);
    test_msix_mask(d.v, 1, true);
    request(&d, VIRTIO_BLK_T_IN, 0, 512, false);
    ck_assert_uint_eq(test_messages(d.vm, vector), 1);
    ck_assert_uint_eq(guest_load(d.vm, d.v->pba, 8), 2);
    test_msix_mask(d.v, 1, false);
    ck_assert_uint_eq(test_messages(d.vm, vector), 2);
    ck_assert_uint_eq(guest_load(d.vm, d.v->pba, 8), 0);
    /* Nothing was pending: unmasking sends nothing. */
    test_msix_mask(d.v, 1, true);
    test_msix_mask(d.v, 1, false);
    ck_assert_uint_eq(test_messages(d.vm, vector), 2);
    disk_free(&d);
}
END_TEST

START_TEST(interrupts_without_irqfds)
{
    TestVm *vm = test_vm_new();
    vm->intr.no_irqfds = true;
    test_object(vm, "iothread,id=io0");
    Disk d = disk_on(vm, make_image(), "disk0", _i ? ",iothread=io0" : "");

    disk_start(&d, 1ull << VIRTIO_BLK_F_FLUSH);
    request(&d, VIRTIO_BLK_T_IN, 0, 512, false);
    test_settle(vm);
    for (unsigned i = 0; i < 1000 && !test_messages(vm, TEST_MSI_BASE + 1); i++) {
        g_usleep(100);
        test_settle(vm);
    }
    ck_assert_uint_eq(test_messages(vm, TEST_MSI_BASE + 1), 1);
    disk_free(&d);
}
END_TEST

START_TEST(intx)
{
    Disk d = disk_new(",vectors=0,addr=3", ALL_FEATURES);

    request(&d, VIRTIO_BLK_T_IN, 0, 512, false);
    ck_assert(d.vm->intx[3]);
    ck_assert(pci_bus_config_read(d.vm->bus, 0, PCI_DEVFN(3, 0), PCI_STATUS, 2) &
              PCI_STATUS_INTERRUPT);
    ck_assert_uint_eq(guest_load(d.vm, d.v->isr, 1), VIRTIO_ISR_QUEUE);
    ck_assert(!d.vm->intx[3]);
    ck_assert_uint_eq(guest_load(d.vm, d.v->isr, 1), 0);
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
        test_settle(d.vm);
        while (done <= i) {
            loop_iterate(loop_main(), false);
            if (d.q->packed ? test_queue_poll(d.q, &id, &len)
                            : ld_le16((uint8_t *)guest_ptr(d.vm, d.q->device) + 2) == i + 1)
                done++;
        }
        test_settle(d.vm);
        ck_assert_uint_eq(test_messages(d.vm, TEST_MSI_BASE + 1), i == 2);
    }
    disk_free(&d);
}
END_TEST

/* ---- Breaches ---- */

typedef struct Breach {
    const char *name;
    void (*commit)(Disk *d);
} Breach;

static uint8_t *split_desc(Disk *d, unsigned i)
{
    return (uint8_t *)guest_ptr(d->vm, d->q->desc) + 16 * i;
}

static void add_read(Disk *d, bool indirect)
{
    TestBuffer b[] = { { d->header, 16, false }, { d->data, 512, true }, { d->status, 1, true } };
    set_header(d, VIRTIO_BLK_T_IN, 0);
    test_queue_add(d->q, b, 3, indirect);
}

static void head_out_of_range(Disk *d)
{
    add_read(d, false);
    st_le16((uint8_t *)guest_ptr(d->vm, d->q->driver) + 4, d->q->size);
}

static void index_jumps(Disk *d)
{
    st_le16((uint8_t *)guest_ptr(d->vm, d->q->driver) + 2, d->q->size + 1);
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
    uint8_t *table = guest_ptr(d->vm, ld_le64(split_desc(d, 0)));
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
    st_le16((uint8_t *)guest_ptr(d->vm, ld_le64(split_desc(d, 0))) + 14, 3);
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
    uint8_t *table = guest_ptr(d->vm, ld_le64(split_desc(d, 0)));
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
    return (test_status(v) & VIRTIO_STATUS_NEEDS_RESET) && test_messages(v->vm, TEST_MSI_BASE);
}

/* The device that is broken says so, until its reset, and its neighbour does not notice. */
static void check_breach(const Breach *breach, bool packed, bool iothread)
{
    TestVm *vm = test_vm_new();
    test_object(vm, "iothread,id=io0");
    g_autofree char *extra =
        g_strconcat(packed ? ",packed=on" : "", iothread ? ",iothread=io0" : "", NULL);
    Disk other = disk_on(vm, make_image(), "disk1", extra);
    Disk d = disk_on(vm, make_image(), "disk0", extra);

    disk_start(&other, ~0ull);
    disk_start(&d, ~0ull);
    breach->commit(&d);
    test_queue_kick(d.q, true);
    ck_assert_msg(test_wait(vm, is_broken, d.v), "%s", breach->name);
    test_settle(vm);
    ck_assert_uint_eq(test_messages(vm, TEST_MSI_BASE + 1), 0);
    ck_assert_uint_eq(request(&other, VIRTIO_BLK_T_IN, 0, 512, false), VIRTIO_BLK_S_OK);
    ck_assert_uint_eq(test_status(other.v), 15);
    disk_start(&d, ~0ull);
    ck_assert_uint_eq(request(&d, VIRTIO_BLK_T_IN, 0, 512, false), VIRTIO_BLK_S_OK);
    test_virtio_free(other.v);
    unlink(other.path);
    g_free(other.path);
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

START_TEST(rings_not_in_ram)
{
    Disk d = disk_new("", ALL_FEATURES);
    common_store(d.v, VIRTIO_PCI_COMMON_STATUS, 1, 0);
    common_store(d.v, VIRTIO_PCI_COMMON_STATUS, 1, 3);
    common_store(d.v, VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
    common_store(d.v, VIRTIO_PCI_COMMON_GF, 4, 1);
    common_store(d.v, VIRTIO_PCI_COMMON_STATUS, 1, 11);
    common_store(d.v, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
    common_store(d.v, VIRTIO_PCI_COMMON_Q_DESCHI, 4, 0xfff);
    common_store(d.v, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
    common_store(d.v, VIRTIO_PCI_COMMON_STATUS, 1, 15);
    ck_assert(test_status(d.v) & VIRTIO_STATUS_NEEDS_RESET);
    disk_start(&d, ALL_FEATURES);
    ck_assert_uint_eq(request(&d, VIRTIO_BLK_T_IN, 0, 512, false), VIRTIO_BLK_S_OK);
    disk_free(&d);
}
END_TEST

START_TEST(features_not_offered_are_refused)
{
    Disk d = disk_new("", ALL_FEATURES);
    common_store(d.v, VIRTIO_PCI_COMMON_STATUS, 1, 0);
    common_store(d.v, VIRTIO_PCI_COMMON_STATUS, 1, 3);
    common_store(d.v, VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
    common_store(d.v, VIRTIO_PCI_COMMON_GF, 4, 1 | 1 << (VIRTIO_F_RING_PACKED - 32));
    common_store(d.v, VIRTIO_PCI_COMMON_STATUS, 1, 11);
    ck_assert_uint_eq(test_status(d.v), 3);
    common_store(d.v, VIRTIO_PCI_COMMON_GF, 4, 0);      /* without VERSION_1 */
    common_store(d.v, VIRTIO_PCI_COMMON_STATUS, 1, 11);
    ck_assert_uint_eq(test_status(d.v), 3);
    disk_free(&d);
}
END_TEST

/* ---- Resets ---- */

START_TEST(reset_with_requests_in_flight)
{
    TestVm *vm = test_vm_new();
    test_object(vm, "iothread,id=io0");
    Disk d = disk_on(vm, make_image(), "disk0", _i & 1 ? ",iothread=io0" : "");

    for (unsigned round = 0; round < 30; round++) {
        disk_start(&d, _i & 2 ? ~0ull : ALL_FEATURES);
        for (unsigned i = 0; i < 40; i++) {
            add_read(&d, false);
            test_queue_kick(d.q, false);
            if (i % 8 == round % 8)
                loop_iterate(loop_main(), false);
        }
    }
    common_store(d.v, VIRTIO_PCI_COMMON_STATUS, 1, 0);
    ck_assert_uint_eq(test_status(d.v), 0);
    disk_start(&d, ALL_FEATURES);
    ck_assert_uint_eq(request(&d, VIRTIO_BLK_T_IN, 0, 512, false), VIRTIO_BLK_S_OK);
    disk_free(&d);
}
END_TEST

START_TEST(reset_of_one_queue)
{
    Disk d = disk_new(",num-queues=2", ALL_FEATURES);

    ck_assert_uint_eq(request(&d, VIRTIO_BLK_T_IN, 0, 512, false), VIRTIO_BLK_S_OK);
    common_store(d.v, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
    common_store(d.v, VIRTIO_PCI_COMMON_Q_RESET, 2, 1);
    ck_assert_uint_eq(common_load(d.v, VIRTIO_PCI_COMMON_Q_RESET, 2), 0);
    ck_assert_uint_eq(common_load(d.v, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
    d.q = test_queue_setup(d.v, 0, 32);
    ck_assert_uint_eq(request(&d, VIRTIO_BLK_T_IN, 0, 512, false), VIRTIO_BLK_S_OK);
    ck_assert_uint_eq(test_status(d.v), 15);
    disk_free(&d);
}
END_TEST

/* Its index, far in a split ring, would be far outside of a packed one. */
START_TEST(features_stay_until_a_reset)
{
    Disk d = disk_new(",packed=on,queue-size=16", ALL_FEATURES);

    for (unsigned i = 0; i < 100; i++)
        request(&d, VIRTIO_BLK_T_IN, 0, 512, false);
    common_store(d.v, VIRTIO_PCI_COMMON_STATUS, 1, 3);
    ck_assert_uint_eq(test_status(d.v), 15);
    common_store(d.v, VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
    common_store(d.v, VIRTIO_PCI_COMMON_GF, 4, 1 | 1 << (VIRTIO_F_RING_PACKED - 32));
    ck_assert_uint_eq(common_load(d.v, VIRTIO_PCI_COMMON_GF, 4) >> (VIRTIO_F_RING_PACKED - 32) & 1,
                      0);
    ck_assert_uint_eq(request(&d, VIRTIO_BLK_T_IN, 0, 512, false), VIRTIO_BLK_S_OK);
    disk_free(&d);
}
END_TEST

/* A queue enabled for one layout, features for the other: seen when it starts, and state that holds it
 * loads. */
START_TEST(layout_is_checked_at_the_start)
{
    Disk d = disk_new(",packed=on,num-queues=1", ~0ull);
    g_autoptr(GByteArray) state = NULL;
    GError *error = NULL;

    common_store(d.v, VIRTIO_PCI_COMMON_STATUS, 1, 0);
    common_store(d.v, VIRTIO_PCI_COMMON_STATUS, 1, 3);
    common_store(d.v, VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
    common_store(d.v, VIRTIO_PCI_COMMON_GF, 4, 1 | 1 << (VIRTIO_F_RING_PACKED - 32));
    common_store(d.v, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
    common_store(d.v, VIRTIO_PCI_COMMON_Q_SIZE, 2, 100);
    common_store(d.v, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
    common_store(d.v, VIRTIO_PCI_COMMON_GF, 4, 1);
    common_store(d.v, VIRTIO_PCI_COMMON_STATUS, 1, 11);
    state = g_byte_array_new();
    tree_save_state(OBJECT(d.v->pci), state);
    ck_assert_msg(tree_load_state(OBJECT(d.v->pci), state->data, state->len, &error), "%s",
                  error ? error->message : "");
    common_store(d.v, VIRTIO_PCI_COMMON_STATUS, 1, 15);
    ck_assert(test_status(d.v) & VIRTIO_STATUS_NEEDS_RESET);
    disk_free(&d);
}
END_TEST

START_TEST(bus_master_off_stops_the_device)
{
    Disk d = disk_new("", ALL_FEATURES);
    uint16_t id;
    uint32_t len;

    pci_bus_config_write(d.vm->bus, 0, d.v->pci->devfn, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    add_read(&d, false);
    test_queue_kick(d.q, true);
    test_settle(d.vm);
    ck_assert(!test_queue_poll(d.q, &id, &len));
    pci_bus_config_write(d.vm->bus, 0, d.v->pci->devfn, PCI_COMMAND,
                         PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    add_read(&d, false);
    test_queue_kick(d.q, true);
    while (!test_queue_poll(d.q, &id, &len))
        loop_iterate(loop_main(), true);
    disk_free(&d);
}
END_TEST

/* ---- State ---- */


static GByteArray *save(Disk *d)
{
    GByteArray *state = g_byte_array_new();
    tree_save_state(OBJECT(d->v->pci), state);
    return state;
}

/* In the middle of a ring: what the driver has added but the device not seen is served by the
 * second machine, whose memory is a copy of the first's. */
START_TEST(state_moves_to_another_machine)
{
    const char *extra = _i ? ",packed=on,addr=5" : ",addr=5";
    Disk a = disk_new(extra, ~0ull);
    GError *error = NULL;

    for (unsigned i = 0; i < 100; i++)
        request(&a, VIRTIO_BLK_T_IN, i, 512, false);
    machine_run_hooks(a.vm->m, false);
    add_read(&a, false);
    test_queue_kick(a.q, true);
    g_autoptr(GByteArray) state = save(&a);

    /* The lock is one of the process's main loop: the first machine goes first. */
    g_autofree char *memory = g_memdup2(guest_ptr(a.vm, 0), TEST_RAM_SIZE);
    TestVirtio driver = *a.v;
    TestQueue queue = *a.q;
    queue.chain_len = g_memdup2(queue.chain_len, 2 * queue.size);
    uint64_t data = a.data;
    disk_free(&a);

    Disk b = disk_on(test_vm_new(), make_image(), "disk0", extra);
    memcpy(guest_ptr(b.vm, 0), memory, TEST_RAM_SIZE);
    machine_run_hooks(b.vm->m, false);
    ck_assert_msg(tree_load_state(OBJECT(b.v->pci), state->data, state->len, &error), "%s",
                  error ? error->message : "");
    g_autoptr(GByteArray) again = save(&b);
    ck_assert_uint_eq(again->len, state->len);
    ck_assert_mem_eq(again->data, state->data, state->len);

    machine_run_hooks(b.vm->m, true);
    driver.vm = b.vm;
    driver.pci = b.v->pci;
    queue.v = &driver;
    driver.queues[0] = &queue;
    uint16_t id;
    uint32_t len;
    while (!test_queue_poll(&queue, &id, &len))
        loop_iterate(loop_main(), true);
    ck_assert_uint_eq(len, 513);
    char image[512];
    read_image(&b, 0, image, 512);
    ck_assert_mem_eq(guest_ptr(b.vm, data), image, 512);
    g_free(queue.chain_len);
    disk_free(&b);
}
END_TEST

START_TEST(damaged_state_is_refused)
{
    Disk d = disk_new("", ALL_FEATURES);
    GError *error = NULL;

    request(&d, VIRTIO_BLK_T_IN, 0, 512, false);
    machine_run_hooks(d.vm->m, false);
    g_autoptr(GByteArray) state = save(&d);
    for (unsigned at = 0; at < state->len; at++) {
        state->data[at] ^= 0x81;
        tree_load_state(OBJECT(d.v->pci), state->data, state->len, &error);
        g_clear_error(&error);
        state->data[at] ^= 0x81;
    }
    for (unsigned length = 0; length < state->len; length += 7) {
        ck_assert(!tree_load_state(OBJECT(d.v->pci), state->data, length, &error));
        g_clear_error(&error);
    }
    ck_assert_msg(tree_load_state(OBJECT(d.v->pci), state->data, state->len, &error), "%s",
                  error ? error->message : "");
    machine_run_hooks(d.vm->m, true);
    ck_assert_uint_eq(request(&d, VIRTIO_BLK_T_IN, 0, 512, false), VIRTIO_BLK_S_OK);
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
    Disk d = { .vm = test_vm_new(), .path = g_strdup("") };
    g_autofree char *options = g_strdup_printf("virtio-blk-pci,drive=bad%s", extra);

    test_object(d.vm, "iothread,id=io0");
    test_blockdev(d.vm, "test-bad,node-name=bad");
    d.v = test_virtio_new(d.vm, test_device(d.vm, options));
    d.header = guest_alloc(d.vm, 16);
    d.status = guest_alloc(d.vm, 1);
    d.data = guest_alloc(d.vm, 4096);
    disk_start(&d, ~0ull);
    return d;
}

static bool was_asked_to_stop(void *opaque)
{
    return __atomic_load_n(&((TestVm *)opaque)->stop_requests, __ATOMIC_SEQ_CST) >= 3;
}

static bool used_something(void *opaque)
{
    uint16_t id;
    uint32_t len;
    return test_queue_poll(opaque, &id, &len);
}

/* Three failed requests wait through save and load, and are tried again. */
START_TEST(rerror_stop_parks_requests)
{
    const char *extras[] = { ",rerror=stop", ",rerror=stop,iothread=io0",
                             ",rerror=stop,packed=on" };
    Disk d = bad_disk(extras[_i]);
    GError *error = NULL;

    bad.error = EIO;
    for (unsigned i = 0; i < 3; i++)
        add_read(&d, i == 2);
    test_queue_kick(d.q, false);
    ck_assert(test_wait(d.vm, was_asked_to_stop, d.vm));
    machine_run_hooks(d.vm->m, false);
    g_autoptr(GByteArray) state = save(&d);
    ck_assert_msg(tree_load_state(OBJECT(d.v->pci), state->data, state->len, &error), "%s",
                  error ? error->message : "");
    g_autoptr(GByteArray) again = save(&d);
    ck_assert_uint_eq(again->len, state->len);
    ck_assert_mem_eq(again->data, state->data, state->len);
    ck_assert(!used_something(d.q));
    bad.error = 0;
    machine_run_hooks(d.vm->m, true);
    for (unsigned i = 0; i < 3; i++)
        ck_assert(test_wait(d.vm, used_something, d.q));
    ck_assert_uint_eq(*(uint8_t *)guest_ptr(d.vm, d.status), VIRTIO_BLK_S_OK);
    ck_assert_uint_eq(*(uint8_t *)guest_ptr(d.vm, d.data), 0x77);
    disk_free(&d);
}
END_TEST

/* Whatever a stream says of parked requests, it is refused or does no harm. */
START_TEST(damaged_parked_requests)
{
    Disk d = bad_disk(",rerror=stop");
    GError *error = NULL;
    unsigned refused = 0;

    bad.error = EIO;
    for (unsigned i = 0; i < 3; i++)
        add_read(&d, false);
    test_queue_kick(d.q, false);
    ck_assert(test_wait(d.vm, was_asked_to_stop, d.vm));
    machine_run_hooks(d.vm->m, false);
    g_autoptr(GByteArray) state = save(&d);
    bad.error = 0;
    for (unsigned at = 0; at < state->len; at++) {
        uint8_t good = state->data[at];

        state->data[at] = good ? 0 : 0xff;
        if (tree_load_state(OBJECT(d.v->pci), state->data, state->len, &error)) {
            machine_run_hooks(d.vm->m, true);
            test_settle(d.vm);
            machine_run_hooks(d.vm->m, false);
        } else {
            refused++;
            g_clear_error(&error);
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

    bad.error = EIO;
    for (unsigned i = 0; i < 3; i++)
        add_read(&d, false);
    test_queue_kick(d.q, false);
    ck_assert(test_wait(d.vm, was_asked_to_stop, d.vm));
    machine_run_hooks(d.vm->m, false);
    machine_reset(d.vm->m);
    machine_run_hooks(d.vm->m, true);
    bad.error = 0;
    test_virtio_free(d.v);
    d.v = test_virtio_new(d.vm, PCI_DEVICE(d.vm->bus->devices[0]));
    disk_start(&d, ~0ull);
    ck_assert_uint_eq(request(&d, VIRTIO_BLK_T_IN, 0, 512, false), VIRTIO_BLK_S_OK);
    disk_free(&d);
}
END_TEST

START_TEST(queue_reset_forgets_parked_requests)
{
    Disk d = bad_disk(",rerror=stop");

    bad.error = EIO;
    for (unsigned i = 0; i < 3; i++)
        add_read(&d, false);
    test_queue_kick(d.q, false);
    ck_assert(test_wait(d.vm, was_asked_to_stop, d.vm));
    common_store(d.v, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
    common_store(d.v, VIRTIO_PCI_COMMON_Q_RESET, 2, 1);
    test_settle(d.vm);
    bad.error = 0;
    d.q = test_queue_setup(d.v, 0, 32);
    for (unsigned i = 0; i < 40; i++)
        ck_assert_uint_eq(request(&d, VIRTIO_BLK_T_IN, 0, 512, false), VIRTIO_BLK_S_OK);
    ck_assert_uint_eq(test_status(d.v), 15);
    disk_free(&d);
}
END_TEST

START_TEST(errors_are_reported_or_ignored)
{
    Disk d = bad_disk(_i ? ",werror=ignore,rerror=ignore" : "");
    uint8_t status = _i ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR;

    bad.error = EIO;
    memset(guest_ptr(d.vm, d.data), 0x44, 512);
    ck_assert_uint_eq(request(&d, VIRTIO_BLK_T_IN, 0, 512, false), status);
    /* used.len is 0: none of the data was written. */
    ck_assert_uint_eq(*(uint8_t *)guest_ptr(d.vm, d.data), 0x44);
    ck_assert_uint_eq(request(&d, VIRTIO_BLK_T_OUT, 0, 512, false), status);
    bad.error = 0;
    ck_assert_uint_eq(request(&d, VIRTIO_BLK_T_IN, 0, 512, false), VIRTIO_BLK_S_OK);
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

    bad.hold = true;
    for (unsigned i = 0; i < 3; i++)
        add_read(&d, false);
    test_queue_kick(d.q, false);
    ck_assert(test_wait(d.vm, holds_three, NULL));
    loop_post(loop_main(), release_held, NULL);
    common_store(d.v, VIRTIO_PCI_COMMON_STATUS, 1, 0);
    ck_assert(g_queue_is_empty(&bad.held));
    ck_assert_uint_eq(test_status(d.v), 0);
    uint8_t ring[64];
    memcpy(ring, guest_ptr(d.vm, d.q->device), sizeof(ring));
    test_settle(d.vm);
    ck_assert_mem_eq(ring, guest_ptr(d.vm, d.q->device), sizeof(ring));
    disk_start(&d, ~0ull);
    ck_assert_uint_eq(request(&d, VIRTIO_BLK_T_IN, 0, 512, false), VIRTIO_BLK_S_OK);
    disk_free(&d);
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
    tcase_add_test(tc, wrong_properties);
    tcase_add_loop_test(tc, msix_mask_and_pending, 0, 2);
    tcase_add_loop_test(tc, interrupts_without_irqfds, 0, 2);
    tcase_add_test(tc, intx);
    tcase_add_loop_test(tc, event_idx_suppresses, 0, 2);
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
    tcase_add_loop_test(tc, state_moves_to_another_machine, 0, 2);
    tcase_add_test(tc, damaged_state_is_refused);
    tcase_add_loop_test(tc, rerror_stop_parks_requests, 0, 3);
    tcase_add_test(tc, damaged_parked_requests);
    tcase_add_test(tc, reset_forgets_parked_requests);
    tcase_add_test(tc, queue_reset_forgets_parked_requests);
    tcase_add_loop_test(tc, errors_are_reported_or_ignored, 0, 2);
    tcase_add_loop_test(tc, reset_waits_for_requests, 0, 2);
}

int main(void)
{
    return run_tests("virtio-blk", add_tests);
}

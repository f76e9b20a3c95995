#include <fcntl.h>
#include <unistd.h>
#include "tests/device/disk.h"

char *make_image(void)
{
    char *path = g_strdup("/tmp/vireo-virtio-blk-XXXXXX");
    auto_fd fd = mkstemp(path);
    uint32_t words[IMAGE_SIZE / 4];

    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++)
        words[i] = i * 2654435761u;
    ck_assert_int_eq(write(fd, words, IMAGE_SIZE), IMAGE_SIZE);
    return path;
}

void read_image(const Disk *d, uint64_t offset, void *buffer, size_t length)
{
    auto_fd fd = open(d->path, O_RDONLY);

    ck_assert_int_eq(pread(fd, buffer, length, offset), length);
}

Disk disk_of_node(TestMachine *m, const char *node, const char *extra)
{
    g_autofree char *options = g_strdup_printf("virtio-blk-pci,drive=%s,serial=SN-%s%s", node, node,
                                               extra);

    return (Disk){ .m = m, .v = test_virtio_new(m, add_device(m, options)),
                   .header = dma_alloc(m, 4096), .status = dma_alloc(m, 4096),
                   .data = dma_alloc(m, 64 * KiB) };
}

Disk disk_on(TestMachine *m, char *image, const char *node, const char *extra)
{
    g_autofree char *block = g_strdup_printf("raw,node-name=%s,discard=unmap,file.driver=file,"
                                             "file.filename=%s,file.discard=unmap", node, image);
    Disk d;

    add_blockdev(m, block);
    d = disk_of_node(m, node, extra);
    d.path = image;
    return d;
}

void disk_start(Disk *d, uint64_t features)
{
    test_virtio_start(d->v, features, 1, 0);
    d->q = d->v->queues[0];
}

Disk disk_new(const char *extra, uint64_t features)
{
    TestMachine *m = test_machine_new(BOARD "-object iothread,id=io0");
    Disk d = disk_on(m, make_image(), "disk0", extra);

    disk_start(&d, features);
    return d;
}

void disk_drop(Disk *d)
{
    test_virtio_free(d->v);
    if (d->path)
        unlink(d->path);
    g_free(d->path);
}

void disk_free(Disk *d)
{
    TestMachine *m = d->m;

    disk_drop(d);
    test_machine_free(m);
}

void set_header(Disk *d, uint32_t type, uint64_t sector)
{
    uint8_t *h = guest_ptr(d->m, d->header);

    st_le32(h, type);
    st_le32(h + 4, 0);
    st_le64(h + 8, sector);
    *(uint8_t *)guest_ptr(d->m, d->status) = 0xee;
}

uint8_t disk_status(const Disk *d)
{
    return *(uint8_t *)guest_ptr(d->m, d->status);
}

uint8_t request(Disk *d, uint32_t type, uint64_t sector, uint32_t bytes, bool indirect)
{
    bool write = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
    TestBuffer b[3] = { { d->header, 16, false } };
    unsigned n = 1;
    uint32_t len, want = 1;

    set_header(d, type, sector);
    if (bytes)
        b[n++] = (TestBuffer){ d->data, bytes, write };
    b[n++] = (TestBuffer){ d->status, 1, true };
    len = test_queue_do(d->q, b, n, indirect);
    if (bytes && write)
        want = disk_status(d) == VIRTIO_BLK_S_OK ? bytes + 1 : 0;
    ck_assert_uint_eq(len, want);
    return disk_status(d);
}

uint8_t read_sector(Disk *d, uint64_t sector)
{
    return request(d, VIRTIO_BLK_T_IN, sector, 512, false);
}

void add_read(Disk *d, bool indirect)
{
    TestBuffer b[] = { { d->header, 16, false }, { d->data, 512, true }, { d->status, 1, true } };

    set_header(d, VIRTIO_BLK_T_IN, 0);
    test_queue_add(d->q, b, 3, indirect);
}

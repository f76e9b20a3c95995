/* What the tests of virtio-blk share: a disk with its driver, and requests to it. */
#pragma once
#include "tests/device/virtio-driver.h"

enum { IMAGE_SIZE = 1 << 20, ID_BYTES = 20 };
#define ALL_FEATURES (~0ull & ~(1ull << VIRTIO_F_RING_PACKED))

typedef struct Disk {
    TestMachine *m;
    TestVirtio *v;
    TestQueue *q;                           /* the first one */
    char *path;                             /* of the image; NULL: there is none */
    uint64_t header, status, data;          /* guest pages */
} Disk;

/* A file of words that differ; g_free, unlink. */
char *make_image(void);
/* On @m a raw node @node over @image (taken over), and a device with @extra (",name=value…"). */
Disk disk_on(TestMachine *m, char *image, const char *node, const char *extra);
/* Over a node that is there; no image. */
Disk disk_of_node(TestMachine *m, const char *node, const char *extra);
/* disk_on a machine of its own, which has an iothread "io0"; started. */
Disk disk_new(const char *extra, uint64_t features);
void disk_start(Disk *d, uint64_t features);
void disk_free(Disk *d);                    /* with its machine */
void disk_drop(Disk *d);                    /* without */
void read_image(const Disk *d, uint64_t offset, void *buffer, size_t length);

void set_header(Disk *d, uint32_t type, uint64_t sector);
uint8_t disk_status(const Disk *d);         /* as the last request got it */
/* A request with one data buffer, served; its status. */
uint8_t request(Disk *d, uint32_t type, uint64_t sector, uint32_t bytes, bool indirect);
uint8_t read_sector(Disk *d, uint64_t sector);
void add_read(Disk *d, bool indirect);      /* of sector 0, without a kick */

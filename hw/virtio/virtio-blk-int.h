/* The block device's inside: virtio-blk.c (what it is) and virtio-blk-io.c (what it does). */
#pragma once
#include "block/block.h"
#include "hw/virtio/iothread-map.h"
#include "hw/virtio/virtq-int.h"
#include <linux/virtio_blk.h>

#define SECTOR_SIZE 512u /* 5.2.4: the unit of the protocol, whatever blk_size is */

typedef struct VirtioBlk VirtioBlk;
typedef struct BlkQueue BlkQueue;

/* One request, from a queue's pool; iovecs and addresses follow it in memory. */
typedef struct BlkRequest {
    BlkQueue *q;
    struct BlkRequest *next;                /* in the free list, parked, or the next of a run */
    VirtqChain chain;
    uint32_t type;
    uint64_t sector;
    /* The data part, while header and status are cut off (see trim). */
    struct iovec *data;
    unsigned data_num;
    size_t data_bytes;
    uint32_t header_rest;                   /* bytes of the header in data[0]'s own iovec */
} BlkRequest;

struct BlkQueue {
    VirtioBlk *blk;
    Virtqueue *vq;
    /* The queue's loop while running, else the main thread. */
    char *pool;
    size_t stride;
    unsigned pool_size, fresh; /* fresh: never used from here on (memory not touched) */
    BlkRequest *free;
    BlkRequest *parked, **parked_tail;      /* failed, to be tried again when the VM runs */
    LoopBh flush_bh;
    unsigned in_flight;                     /* atomic: the main thread waits for 0 */
};

struct VirtioBlk {
    VirtioDevice vdev;
    BlockUser *user;
    BlkQueue *queues;
    uint64_t capacity;                      /* atomic; sectors */
    bool draining;                          /* atomic: tell the main loop about in_flight 0 */
    bool write_cache;                       /* as the driver has set it */

    /* Properties. */
    BlockNode *drive;
    Object *iothread;
    IothreadMap *iothread_map;              /* NULL: none */
    char *serial;
    uint32_t logical_block_size, physical_block_size, min_io_size, opt_io_size, discard_granularity;
    uint32_t cyls, heads, secs;
    int write_cache_mode;                   /* OnOffAuto */
    uint16_t num_queues, queue_size;
    bool seg_max_adjust, discard, write_zeroes, report_discard_granularity, config_wce, scsi;
    bool share_rw, request_merging;
    uint32_t max_discard_sectors, max_write_zeroes_sectors;
    int rerror, werror;
    int32_t bootindex;
};
#define VIRTIO_BLK(ptr) ((VirtioBlk *)(ptr))

/* virtio-blk-io.c */
void virtio_blk_queue_init(BlkQueue *q, VirtioBlk *blk, Virtqueue *vq, unsigned iov_max);
void virtio_blk_queue_clear(BlkQueue *q);   /* forgets all requests */
void virtio_blk_queue_free(BlkQueue *q);
void virtio_blk_kick(VirtioDevice *vdev, Virtqueue *vq);
bool virtio_blk_start(VirtioDevice *vdev, GError **error);
void virtio_blk_stop(VirtioDevice *vdev);
void virtio_blk_save_parked(void *obj, StateWriter *w);
bool virtio_blk_load_parked(void *obj, StateReader *r, GError **error);

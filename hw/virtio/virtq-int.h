/* The inside of a virtqueue: what virtq*.c, virtio.c and the transports share. */
#pragma once
#include "hw/virtio/virtio.h"

struct Virtqueue {
    VirtioDevice *vdev;
    unsigned index;
    uint16_t max_size;

    /* As the driver set it up; VM lock, and not while running. */
    uint16_t size;
    bool enabled;
    uint64_t desc, driver, device;          /* descriptor, driver and device area (2.6) */
    uint16_t vector;                        /* the transport's */
    bool reset_pending;                     /* the driver asked for a reset of this queue */

    /* Where both sides are; the queue's loop.  Packed: slots of the ring, with wrap counters. */
    uint16_t avail_idx;                     /* next to pop */
    uint16_t used_idx;                      /* next to push */
    bool avail_wrap, used_wrap;
    uint16_t in_use;                        /* slots popped and not pushed */

    /* While running; the queue's loop. */
    bool running, packed, event_idx;
    AddressSpace *as;
    DmaWindow desc_w, driver_w, device_w;
    uint16_t avail_seen;                    /* split: avail->idx as last read */
    uint16_t pushed;                        /* slots since the last flush */
    uint16_t batch_slot, batch_flags;       /* packed: the first of them, whose flags come last */

    VirtqHandler *handler;
    Loop *loop, *next_loop;                 /* next_loop: from the next start on */
    int kick_fd;                            /* eventfd */
    LoopFd *kick_watch;
    LoopPoll *poll;
    LoopBh again_bh;                        /* see virtq_again */
    bool polling;                           /* the loop looks: virtq_set_notification rests */
};

/* virtq.c */
Virtqueue *virtq_new(VirtioDevice *vdev, unsigned index, unsigned max_size, VirtqHandler *handler);
void virtq_free(Virtqueue *vq);
void virtq_reset(Virtqueue *vq);
bool virtq_layout_ok(const Virtqueue *vq, bool packed);
bool virtq_start(Virtqueue *vq, AddressSpace *as);   /* false: the device is now broken */
void virtq_stop(Virtqueue *vq);
/* On: no kicks are asked for, whatever the handler says, until it is off. */
void virtq_set_polling(Virtqueue *vq, bool on);
void virtq_save(const Virtqueue *vq, StateWriter *w);
bool virtq_load(Virtqueue *vq, StateReader *r, GError **error);
/* After all fields were loaded: do they fit the features? */
bool virtq_check(const Virtqueue *vq, GError **error);

/* One descriptor, read once: what the guest writes later does not matter. */
typedef struct VirtqDesc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
} VirtqDesc;
typedef struct VirtqPackedDesc {
    uint64_t addr;
    uint32_t len;
    uint16_t id, flags;
} VirtqPackedDesc;
void virtq_chain_start(VirtqChain *chain);
/* Adds a buffer; false: the device is now broken. */
bool virtq_chain_add(Virtqueue *vq, VirtqChain *chain, uint64_t addr, uint32_t len, bool write);
/* The table of an indirect descriptor, checked; NULL: the device is now broken. */
const uint8_t *virtq_indirect_table(Virtqueue *vq, uint64_t addr, uint32_t len, uint16_t flags,
                                    unsigned *ret_count);

/* The two layouts.  All but set_notification: inside a read section. */
bool virtq_split_pop(Virtqueue *vq, VirtqChain *chain);
void virtq_split_push(Virtqueue *vq, const VirtqChain *chain, uint32_t written);
bool virtq_split_flush(Virtqueue *vq);      /* true: the driver wants an interrupt */
bool virtq_split_empty(Virtqueue *vq);
void virtq_split_set_notification(Virtqueue *vq, bool on);
bool virtq_packed_pop(Virtqueue *vq, VirtqChain *chain);
void virtq_packed_push(Virtqueue *vq, const VirtqChain *chain, uint32_t written);
bool virtq_packed_flush(Virtqueue *vq);
bool virtq_packed_empty(Virtqueue *vq);
void virtq_packed_set_notification(Virtqueue *vq, bool on);

/* Has an index moved past @event on its way from @old to @now (2.7.7.2)? */
static inline bool virtq_need_event(uint16_t event, uint16_t now, uint16_t old)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

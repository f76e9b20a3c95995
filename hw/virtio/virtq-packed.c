/*
 * Packed virtqueues (virtio 1.2, 2.8): one ring of descriptors that both sides write.  A slot is
 * available when its AVAIL bit is the wrap counter and its USED bit is not (2.8.1).
 */
#include "hw/virtio/virtq-int.h"
#include "src/base/util.h"

enum { DESC_SIZE = 16, DESC_FLAGS = 14, DESC_ID = 12, DESC_LEN = 8 };
enum { F_AVAIL = 1 << VRING_PACKED_DESC_F_AVAIL, F_USED = 1 << VRING_PACKED_DESC_F_USED };
/* The event suppression structures (2.8.10). */
enum { EVENT_OFF_WRAP = 0, EVENT_FLAGS = 2 };

static uint16_t load16(const uint8_t *p)
{
    return GUINT16_FROM_LE(__atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE));
}

static void store16(uint8_t *p, uint16_t value)
{
    __atomic_store_n((uint16_t *)p, GUINT16_TO_LE(value), __ATOMIC_RELEASE);
}

static VirtqPackedDesc read_desc(const uint8_t *table, unsigned i)
{
    uint64_t addr = ld_le64(table + DESC_SIZE * i),
             rest = ld_le64(table + DESC_SIZE * i + DESC_LEN);

    __asm__ volatile("" : "+r"(addr), "+r"(rest));
    return (VirtqPackedDesc){ .addr = addr, .len = rest, .id = rest >> 32, .flags = rest >> 48 };
}

static bool available(const uint8_t *ring, unsigned slot, bool wrap)
{
    uint16_t flags = load16(ring + DESC_SIZE * slot + DESC_FLAGS);

    return !!(flags & F_AVAIL) == wrap && !!(flags & F_USED) != wrap;
}

bool virtq_packed_empty(Virtqueue *vq)
{
    const uint8_t *ring = dma_window_ptr(&vq->desc_w);

    return !ring || !available(ring, vq->avail_idx, vq->avail_wrap);
}

/* 2.8.8: an indirect table is an array; only WRITE counts in its flags. */
static bool walk_indirect(Virtqueue *vq, VirtqChain *chain, const VirtqPackedDesc *d)
{
    unsigned count;
    const uint8_t *table = virtq_indirect_table(vq, d->addr, d->len, d->flags, &count);

    for (unsigned i = 0; table && i < count; i++) {
        VirtqPackedDesc inner = read_desc(table, i);
        if (!virtq_chain_add(vq, chain, inner.addr, inner.len, inner.flags & VRING_DESC_F_WRITE))
            return false;
    }
    return table;
}

bool virtq_packed_pop(Virtqueue *vq, VirtqChain *chain)
{
    const uint8_t *ring = dma_window_ptr(&vq->desc_w);
    unsigned slot = vq->avail_idx, count = 0;
    VirtqPackedDesc d;

    if (!ring) {
        virtio_break(vq->vdev, "queue %u: the ring is not in RAM any more", vq->index);
        return false;
    }
    if (!available(ring, slot, vq->avail_wrap))
        return false;
    virtq_chain_start(chain);
    do {
        if (vq->in_use + count >= vq->size) {
            virtio_break(vq->vdev, "queue %u: chain of %u with %u of %u slots in use", vq->index,
                         count + 1, vq->in_use, vq->size);
            return false;
        }
        d = read_desc(ring, slot);
        if (d.flags & VRING_DESC_F_INDIRECT) {
            if (count) {
                virtio_break(vq->vdev, "queue %u: indirect descriptor inside a chain", vq->index);
                return false;
            }
            if (!walk_indirect(vq, chain, &d))
                return false;
        } else if (!virtq_chain_add(vq, chain, d.addr, d.len, d.flags & VRING_DESC_F_WRITE)) {
            return false;
        }
        count++;
        slot = slot + 1 < vq->size ? slot + 1 : 0;
    } while (d.flags & VRING_DESC_F_NEXT);

    chain->head = d.id;                     /* 2.8.6: the id is in the last one */
    chain->count = count;
    vq->avail_wrap ^= vq->avail_idx + count >= vq->size;
    vq->avail_idx = slot;
    vq->in_use += count;
    return true;
}

void virtq_packed_push(Virtqueue *vq, const VirtqChain *chain, uint32_t written)
{
    uint8_t *ring = dma_window_ptr(&vq->desc_w), *d;
    uint16_t slot = vq->used_idx, flags;

    flags = (vq->used_wrap ? F_AVAIL | F_USED : 0) | (written ? VRING_DESC_F_WRITE : 0);
    if (vq->used_idx + chain->count >= vq->size) {
        vq->used_idx -= vq->size;
        vq->used_wrap = !vq->used_wrap;
    }
    vq->used_idx += chain->count;
    if (!ring)
        return;
    d = ring + DESC_SIZE * slot;
    st_le16(d + DESC_ID, chain->head);
    st_le32(d + DESC_LEN, written);
    dma_window_dirty(&vq->desc_w, DESC_SIZE * slot, DESC_SIZE);
    /* The driver takes used slots in order: with the first one held back it sees none of them. */
    if (!vq->pushed) {
        vq->batch_slot = slot;
        vq->batch_flags = flags;
    } else {
        store16(d + DESC_FLAGS, flags);
    }
}

bool virtq_packed_flush(Virtqueue *vq)
{
    uint8_t *ring = dma_window_ptr(&vq->desc_w);
    const uint8_t *event = dma_window_ptr(&vq->driver_w);
    uint16_t off_wrap, off;

    if (!ring || !event)
        return false;
    store16(ring + DESC_SIZE * vq->batch_slot + DESC_FLAGS, vq->batch_flags);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    switch (load16(event + EVENT_FLAGS) & 3) {
    case VRING_PACKED_EVENT_FLAG_DISABLE:
        return false;
    case VRING_PACKED_EVENT_FLAG_DESC:
        if (!vq->event_idx)
            return true;
        off_wrap = load16(event + EVENT_OFF_WRAP);
        off = off_wrap & ~(1u << VRING_PACKED_EVENT_F_WRAP_CTR);
        /* A slot of the last round lies before slot 0 of this one. */
        if (off_wrap >> VRING_PACKED_EVENT_F_WRAP_CTR != vq->used_wrap)
            off -= vq->size;
        return virtq_need_event(off, vq->used_idx, vq->used_idx - vq->pushed);
    default:
        return true;
    }
}

void virtq_packed_set_notification(Virtqueue *vq, bool on)
{
    uint8_t *event = dma_window_ptr(&vq->device_w);

    if (!event)
        return;
    if (!on) {
        store16(event + EVENT_FLAGS, VRING_PACKED_EVENT_FLAG_DISABLE);
    } else if (vq->event_idx) {
        store16(event + EVENT_OFF_WRAP,
                vq->avail_idx | vq->avail_wrap << VRING_PACKED_EVENT_F_WRAP_CTR);
        store16(event + EVENT_FLAGS, VRING_PACKED_EVENT_FLAG_DESC);
    } else {
        store16(event + EVENT_FLAGS, VRING_PACKED_EVENT_FLAG_ENABLE);
    }
    dma_window_dirty(&vq->device_w, 0, 4);
}

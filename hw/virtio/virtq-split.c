/* Split virtqueues (virtio 1.2, 2.7): descriptor table, available ring, used ring. */
#include "hw/virtio/virtq-int.h"
#include "src/base/util.h"

/* Offsets in the two rings (2.7.6, 2.7.8); the event index follows the last element (2.7.10). */
enum { RING_FLAGS = 0, RING_IDX = 2, RING_ELEMENTS = 4, USED_ELEMENT_SIZE = 8 };

static uint16_t ring_load(const uint8_t *ring, unsigned offset)
{
    return GUINT16_FROM_LE(__atomic_load_n((const uint16_t *)(ring + offset), __ATOMIC_ACQUIRE));
}

static void ring_store(uint8_t *ring, unsigned offset, uint16_t value)
{
    __atomic_store_n((uint16_t *)(ring + offset), GUINT16_TO_LE(value), __ATOMIC_RELEASE);
}

static VirtqDesc read_desc(const uint8_t *table, unsigned i)
{
    uint64_t addr = ld_le64(table + 16 * i), rest = ld_le64(table + 16 * i + 8);

    /* The values checked are the values used: no second look at the guest's memory. */
    __asm__ volatile("" : "+r"(addr), "+r"(rest));
    return (VirtqDesc){ .addr = addr, .len = rest, .flags = rest >> 32, .next = rest >> 48 };
}

/* Walks from @i through a table of @count; the number of steps bounds loops (2.7.5.1). */
static bool walk(Virtqueue *vq, VirtqChain *chain, const uint8_t *table, unsigned count, unsigned i,
                 bool indirect)
{
    for (unsigned steps = 0; steps < count; steps++) {
        VirtqDesc d = read_desc(table, i);
        if (d.flags & VRING_DESC_F_INDIRECT) {
            const uint8_t *inner;
            unsigned inner_count;
            if (indirect) {
                virtio_break(vq->vdev, "queue %u: indirect descriptor in an indirect table",
                             vq->index);
                return false;
            }
            inner = virtq_indirect_table(vq, d.addr, d.len, d.flags, &inner_count);
            return inner && walk(vq, chain, inner, inner_count, 0, true);
        }
        if (!virtq_chain_add(vq, chain, d.addr, d.len, d.flags & VRING_DESC_F_WRITE))
            return false;
        if (!(d.flags & VRING_DESC_F_NEXT))
            return true;
        if (d.next >= count) {
            virtio_break(vq->vdev, "queue %u: next descriptor %u of %u", vq->index, d.next, count);
            return false;
        }
        i = d.next;
    }
    virtio_break(vq->vdev, "queue %u: chain is a loop", vq->index);
    return false;
}

/* Reads avail->idx when what was seen of it is used up. */
static bool look(Virtqueue *vq)
{
    const uint8_t *avail;

    if (vq->avail_seen != vq->avail_idx)
        return true;
    avail = dma_window_ptr(&vq->driver_w);
    if (!avail) {
        virtio_break(vq->vdev, "queue %u: the available ring is not in RAM any more", vq->index);
        return false;
    }
    vq->avail_seen = ring_load(avail, RING_IDX);
    return vq->avail_seen != vq->avail_idx;
}

bool virtq_split_empty(Virtqueue *vq)
{
    return !look(vq);
}

bool virtq_split_pop(Virtqueue *vq, VirtqChain *chain)
{
    const uint8_t *avail, *table;
    uint16_t head;

    if (!look(vq))
        return false;
    if ((uint16_t)(vq->avail_seen - vq->avail_idx) > vq->size || vq->in_use >= vq->size) {
        virtio_break(vq->vdev, "queue %u: available index went from %u to %u, with %u of %u in use",
                     vq->index, vq->avail_idx, vq->avail_seen, vq->in_use, vq->size);
        return false;
    }
    avail = dma_window_ptr(&vq->driver_w);
    table = dma_window_ptr(&vq->desc_w);
    if (!avail || !table) {
        virtio_break(vq->vdev, "queue %u: the rings are not in RAM any more", vq->index);
        return false;
    }
    head = ring_load(avail, RING_ELEMENTS + 2 * (vq->avail_idx % vq->size));
    if (head >= vq->size) {
        virtio_break(vq->vdev, "queue %u: head %u of %u descriptors", vq->index, head, vq->size);
        return false;
    }
    virtq_chain_start(chain);
    if (!walk(vq, chain, table, vq->size, head, false))
        return false;
    chain->head = head;
    chain->count = 1;
    vq->avail_idx++;
    vq->in_use++;
    return true;
}

void virtq_split_push(Virtqueue *vq, const VirtqChain *chain, uint32_t written)
{
    uint8_t *used = dma_window_ptr(&vq->device_w);
    unsigned offset = RING_ELEMENTS + USED_ELEMENT_SIZE * (vq->used_idx % vq->size);

    vq->used_idx++;
    if (!used)
        return;
    st_le32(used + offset, chain->head);
    st_le32(used + offset + 4, written);
    dma_window_dirty(&vq->device_w, offset, USED_ELEMENT_SIZE);
}

bool virtq_split_flush(Virtqueue *vq)
{
    uint8_t *used = dma_window_ptr(&vq->device_w);
    const uint8_t *avail = dma_window_ptr(&vq->driver_w);
    uint16_t old = vq->used_idx - vq->pushed;

    if (!used || !avail)
        return false;
    /* 2.7.8.2: the elements are there before the index says so. */
    ring_store(used, RING_IDX, vq->used_idx);
    dma_window_dirty(&vq->device_w, 0, RING_ELEMENTS);
    /* 2.7.10: then look at what the driver wants; it writes that before it looks at the index. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (virtio_has_feature(vq->vdev, VIRTIO_F_NOTIFY_ON_EMPTY) && !vq->in_use &&
        virtq_split_empty(vq))
        return true;
    if (vq->event_idx)
        return virtq_need_event(ring_load(avail, RING_ELEMENTS + 2 * vq->size), vq->used_idx, old);
    return !(ring_load(avail, RING_FLAGS) & VRING_AVAIL_F_NO_INTERRUPT);
}

void virtq_split_set_notification(Virtqueue *vq, bool on)
{
    uint8_t *used = dma_window_ptr(&vq->device_w);

    if (!used)
        return;
    if (!vq->event_idx) {
        ring_store(used, RING_FLAGS, on ? 0 : VRING_USED_F_NO_NOTIFY);
        dma_window_dirty(&vq->device_w, RING_FLAGS, 2);
    } else if (on) {
        /* avail_event (2.7.10).  Left behind it asks for nothing: that is how kicks are switched
         * off. */
        unsigned offset = RING_ELEMENTS + USED_ELEMENT_SIZE * vq->size;
        ring_store(used, offset, vq->avail_idx);
        dma_window_dirty(&vq->device_w, offset, 2);
    }
}

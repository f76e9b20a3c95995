/*
 * Virtqueues: what both layouts share.  Chains are built from untrusted descriptors here; the order
 * of checks is that of virtio 1.2, 2.7.5 (descriptor table) and 2.7.5.3 (indirect).
 */
#include "hw/virtio/virtq-int.h"
#include "src/base/util.h"

enum { DESC_SIZE = 16 };

/* ---- Chains ---- */

void virtq_chain_start(VirtqChain *chain)
{
    chain->out_num = chain->in_num = 0;
    chain->out_bytes = chain->in_bytes = 0;
}

bool virtq_chain_add(Virtqueue *vq, VirtqChain *chain, uint64_t addr, uint32_t len, bool write)
{
    unsigned used = chain->out_num + chain->in_num;

    if (!write && chain->in_num) {
        virtio_break(vq->vdev, "queue %u: readable buffer after a writable one", vq->index);
        return false;
    }
    /* 2.7.5: the total may not exceed 2^32 bytes; used.len could not tell more either. */
    if (chain->out_bytes + chain->in_bytes + len > UINT32_MAX) {
        virtio_break(vq->vdev, "queue %u: chain of more than 2^32 - 1 bytes", vq->index);
        return false;
    }
    if (!len)
        return true;

    int parts = dma_map_iov(vq->as, addr, len, write, chain->iov + used, chain->iov_max - used);
    if (parts <= 0) {
        virtio_break(vq->vdev, "queue %u: buffer 0x%" PRIx64 "+0x%x is not RAM, or the chain has "
                     "more than %u parts", vq->index, addr, len, chain->iov_max);
        return false;
    }
    for (int i = 0; i < parts; i++) {
        chain->gpa[used + i] = addr;
        addr += chain->iov[used + i].iov_len;
    }
    if (write) {
        chain->in_num += parts;
        chain->in_bytes += len;
    } else {
        chain->out_num += parts;
        chain->out_bytes += len;
    }
    return true;
}

const uint8_t *virtq_indirect_table(Virtqueue *vq, uint64_t addr, uint32_t len, uint16_t flags,
                                    unsigned *ret_count)
{
    uint64_t there = len;
    const uint8_t *table;

    if (!virtio_has_feature(vq->vdev, VIRTIO_F_INDIRECT_DESC)) {
        virtio_break(vq->vdev, "queue %u: indirect descriptor without the feature", vq->index);
        return NULL;
    }
    /* 2.7.5.3.1: not together with NEXT; the table holds whole descriptors. */
    if ((flags & VRING_DESC_F_NEXT) || !len || len % DESC_SIZE ||
        len / DESC_SIZE > VIRTQ_CHAIN_MAX) {
        virtio_break(vq->vdev, "queue %u: indirect table of 0x%x bytes with flags 0x%x", vq->index,
                     len, flags);
        return NULL;
    }
    table = dma_ptr(vq->as, addr, &there, false);
    if (!table || there < len) {
        virtio_break(vq->vdev, "queue %u: indirect table 0x%" PRIx64 "+0x%x is not RAM", vq->index,
                     addr, len);
        return NULL;
    }
    *ret_count = len / DESC_SIZE;
    return table;
}

static size_t chain_copy(const struct iovec *iov, unsigned num, size_t offset, uint8_t *data,
                         size_t length, bool to_guest)
{
    size_t done = 0;

    for (unsigned i = 0; i < num && done < length; i++) {
        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        size_t part = MIN(iov[i].iov_len - offset, length - done);
        uint8_t *guest = (uint8_t *)iov[i].iov_base + offset;
        memcpy(to_guest ? guest : data + done, to_guest ? data + done : guest, part);
        done += part;
        offset = 0;
    }
    return done;
}

size_t virtq_chain_read(const VirtqChain *chain, size_t offset, void *data, size_t length)
{
    return chain_copy(chain->iov, chain->out_num, offset, data, length, false);
}

size_t virtq_chain_write(const VirtqChain *chain, size_t offset, const void *data, size_t length)
{
    return chain_copy(chain->iov + chain->out_num, chain->in_num, offset, (uint8_t *)data, length,
                      true);
}

static void mark_dirty(Virtqueue *vq, const VirtqChain *chain, uint32_t written)
{
    for (unsigned i = chain->out_num; written && i < chain->out_num + chain->in_num; i++) {
        uint32_t part = MIN(chain->iov[i].iov_len, written);
        dma_dirty(vq->as, chain->gpa[i], part);
        written -= part;
    }
}

/* ---- The verbs ---- */

bool virtq_pop(Virtqueue *vq, VirtqChain *chain)
{
    bool popped;

    if (!vq->running || __atomic_load_n(&vq->vdev->broken, __ATOMIC_RELAXED))
        return false;
    memory_read_enter();
    popped = vq->packed ? virtq_packed_pop(vq, chain) : virtq_split_pop(vq, chain);
    memory_read_exit();
    return popped;
}

void virtq_unpop(Virtqueue *vq, const VirtqChain *chain)
{
    vq->in_use -= chain->count;
    if (vq->packed && chain->count > vq->avail_idx) {
        vq->avail_idx += vq->size - chain->count;
        vq->avail_wrap = !vq->avail_wrap;
    } else {
        vq->avail_idx -= chain->count;
    }
}

void virtq_push(Virtqueue *vq, const VirtqChain *chain, uint32_t written)
{
    if (!vq->running)
        return;
    memory_read_enter();
    mark_dirty(vq, chain, written);
    if (vq->packed)
        virtq_packed_push(vq, chain, written);
    else
        virtq_split_push(vq, chain, written);
    memory_read_exit();
    vq->in_use -= chain->count;
    vq->pushed += chain->count;
}

void virtq_flush(Virtqueue *vq)
{
    bool interrupt;

    if (!vq->pushed || !vq->running)
        return;
    memory_read_enter();
    interrupt = vq->packed ? virtq_packed_flush(vq) : virtq_split_flush(vq);
    memory_read_exit();
    vq->pushed = 0;
    if (interrupt)
        vq->vdev->transport->ops->notify_queue(vq->vdev->transport, vq->index);
}

bool virtq_empty(Virtqueue *vq)
{
    bool empty;

    if (!vq->running || __atomic_load_n(&vq->vdev->broken, __ATOMIC_RELAXED))
        return true;
    memory_read_enter();
    empty = vq->packed ? virtq_packed_empty(vq) : virtq_split_empty(vq);
    memory_read_exit();
    return empty;
}

bool virtq_set_notification(Virtqueue *vq, bool on)
{
    if (!vq->running || vq->polling)
        return true;
    memory_read_enter();
    if (vq->packed)
        virtq_packed_set_notification(vq, on);
    else
        virtq_split_set_notification(vq, on);
    memory_read_exit();
    if (!on)
        return true;
    /* The driver fills the ring, then looks whether to kick; we say so, then look at the ring. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return virtq_empty(vq);
}

void virtq_set_polling(Virtqueue *vq, bool on)
{
    if (on)
        virtq_set_notification(vq, false);
    vq->polling = on;
}

unsigned virtq_index(const Virtqueue *vq)
{
    return vq->index;
}

unsigned virtq_size(const Virtqueue *vq)
{
    return vq->enabled ? vq->size : 0;
}

VirtioDevice *virtq_device(const Virtqueue *vq)
{
    return vq->vdev;
}

Loop *virtq_loop(const Virtqueue *vq)
{
    return vq->loop;
}

/* ---- Life ---- */

Virtqueue *virtq_new(VirtioDevice *vdev, unsigned index, unsigned max_size, VirtqHandler *handler)
{
    Virtqueue *vq = g_new0(Virtqueue, 1);

    vq->vdev = vdev;
    vq->index = index;
    vq->max_size = max_size;
    vq->handler = handler;
    vq->kick_fd = -1;
    vq->loop = vq->next_loop = loop_main();
    virtq_reset(vq);
    return vq;
}

void virtq_free(Virtqueue *vq)
{
    if (vq->kick_fd >= 0)
        close(vq->kick_fd);
    g_free(vq);
}

/* Stopped.  2.4.1: as if the queue had never been set up. */
void virtq_reset(Virtqueue *vq)
{
    vq->size = vq->max_size;
    vq->enabled = false;
    vq->reset_pending = false;
    vq->desc = vq->driver = vq->device = 0;
    vq->vector = 0xffff;                    /* VIRTIO_MSI_NO_VECTOR */
    vq->avail_idx = vq->used_idx = vq->in_use = 0;
    vq->avail_wrap = vq->used_wrap = true;  /* 2.8.1 */
}

bool virtq_layout_ok(const Virtqueue *vq, bool packed)
{
    if (!vq->size || vq->size > vq->max_size)
        return false;
    /* 2.7: the split ring's size is a power of 2; 2.6: alignment of the three areas. */
    if (packed)
        return !(vq->desc % 16 || vq->driver % 4 || vq->device % 4);
    return is_power_of_2(vq->size) && !(vq->desc % 16 || vq->driver % 2 || vq->device % 4);
}

/* A packed ring's counters are slots of it. */
static bool slots_ok(const Virtqueue *vq, bool packed)
{
    return !packed || (vq->avail_idx < vq->size && vq->used_idx < vq->size);
}

static bool map_rings(Virtqueue *vq)
{
    uint64_t driver_size = vq->packed ? 4 : 6 + 2 * vq->size;
    uint64_t device_size = vq->packed ? 4 : 6 + 8 * vq->size;

    dma_window_init(&vq->desc_w, vq->as, vq->desc, DESC_SIZE * vq->size, vq->packed);
    dma_window_init(&vq->driver_w, vq->as, vq->driver, driver_size, false);
    dma_window_init(&vq->device_w, vq->as, vq->device, device_size, true);
    memory_read_enter();
    bool ok = dma_window_ptr(&vq->desc_w) && dma_window_ptr(&vq->driver_w) &&
              dma_window_ptr(&vq->device_w);
    memory_read_exit();
    return ok;
}

static void unmap_rings(Virtqueue *vq)
{
    dma_window_destroy(&vq->desc_w);
    dma_window_destroy(&vq->driver_w);
    dma_window_destroy(&vq->device_w);
}

bool virtq_start(Virtqueue *vq, AddressSpace *as)
{
    VirtioDevice *vdev = vq->vdev;

    vq->packed = virtio_has_feature(vdev, VIRTIO_F_RING_PACKED);
    vq->event_idx = virtio_has_feature(vdev, VIRTIO_F_EVENT_IDX);
    vq->as = as;
    vq->pushed = 0;
    vq->avail_seen = vq->avail_idx;
    /* Checked when the queue was enabled, but the features may have been chosen after that. */
    if (!virtq_layout_ok(vq, vq->packed) || !slots_ok(vq, vq->packed)) {
        virtio_break(vdev, "queue %u: size %u, its place in the ring or the alignment of its areas "
                     "is wrong", vq->index, vq->size);
        return false;
    }
    if (!map_rings(vq)) {
        unmap_rings(vq);
        virtio_break(vdev, "queue %u: the rings are not in RAM", vq->index);
        return false;
    }
    vq->running = true;
    virtq_set_notification(vq, true);
    return true;
}

void virtq_stop(Virtqueue *vq)
{
    if (!vq->running)
        return;
    virtq_flush(vq);
    vq->running = false;
    unmap_rings(vq);
}

/* ---- State ---- */

void virtq_save(const Virtqueue *vq, StateWriter *w)
{
    state_put_u64(w, "size", vq->size);
    state_put_u64(w, "enabled", vq->enabled);
    state_put_u64(w, "desc", vq->desc);
    state_put_u64(w, "driver", vq->driver);
    state_put_u64(w, "device", vq->device);
    state_put_u64(w, "vector", vq->vector);
    state_put_u64(w, "avail_idx", vq->avail_idx);
    state_put_u64(w, "used_idx", vq->used_idx);
    state_put_u64(w, "avail_wrap", vq->avail_wrap);
    state_put_u64(w, "used_wrap", vq->used_wrap);
    state_put_u64(w, "in_use", vq->in_use);
}

bool virtq_load(Virtqueue *vq, StateReader *r, GError **error)
{
    uint64_t size, enabled, vector, avail_idx, used_idx, avail_wrap, used_wrap, in_use;

    if (!state_get_u64(r, "size", vq->max_size, &size, error) ||
        !state_get_u64(r, "enabled", 1, &enabled, error) ||
        !state_get_u64(r, "desc", UINT64_MAX, &vq->desc, error) ||
        !state_get_u64(r, "driver", UINT64_MAX, &vq->driver, error) ||
        !state_get_u64(r, "device", UINT64_MAX, &vq->device, error) ||
        !state_get_u64(r, "vector", UINT16_MAX, &vector, error) ||
        !state_get_u64(r, "avail_idx", UINT16_MAX, &avail_idx, error) ||
        !state_get_u64(r, "used_idx", UINT16_MAX, &used_idx, error) ||
        !state_get_u64(r, "avail_wrap", 1, &avail_wrap, error) ||
        !state_get_u64(r, "used_wrap", 1, &used_wrap, error) ||
        !state_get_u64(r, "in_use", size, &in_use, error))
        return false;
    vq->size = size;
    vq->enabled = enabled;
    vq->vector = vector;
    vq->avail_idx = avail_idx;
    vq->used_idx = used_idx;
    vq->avail_wrap = avail_wrap;
    vq->used_wrap = used_wrap;
    vq->in_use = in_use;
    return true;
}

bool virtq_check(const Virtqueue *vq, GError **error)
{
    bool packed = virtio_has_feature(vq->vdev, VIRTIO_F_RING_PACKED);

    /* One that was never used may have any layout: the guest learns of its mistake at the start. */
    if (!vq->avail_idx && !vq->used_idx && !vq->in_use)
        return true;
    if (!vq->enabled)
        return fail(error, ERR_CORRUPT, "queue %u was used but is not enabled", vq->index);
    if (!virtq_layout_ok(vq, packed))
        return fail(error, ERR_CORRUPT, "queue %u was used with a bad size or alignment",
                    vq->index);
    if (!slots_ok(vq, packed))
        return fail(error, ERR_CORRUPT, "queue %u: slots %u and %u of %u", vq->index,
                    vq->avail_idx, vq->used_idx, vq->size);
    return true;
}

void virtq_save_chain(const VirtqChain *chain, StateWriter *w)
{
    state_put_u64(w, "head", chain->head);
    state_put_u64(w, "count", chain->count);
    state_put_u64(w, "out_num", chain->out_num);
    state_put_u64(w, "in_num", chain->in_num);
    for (unsigned i = 0; i < chain->out_num + chain->in_num; i++) {
        state_put_u64(w, "gpa", chain->gpa[i]);
        state_put_u64(w, "len", chain->iov[i].iov_len);
    }
}

bool virtq_load_chain(VirtqChain *chain, StateReader *r, GError **error)
{
    uint64_t head, count, out_num, in_num, len;

    virtq_chain_start(chain);
    if (!state_get_u64(r, "head", UINT16_MAX, &head, error) ||
        !state_get_u64(r, "count", VIRTQ_SIZE_MAX, &count, error) ||
        !state_get_u64(r, "out_num", chain->iov_max, &out_num, error) ||
        !state_get_u64(r, "in_num", chain->iov_max - out_num, &in_num, error))
        return false;
    chain->head = head;
    chain->count = count;
    chain->out_num = out_num;
    chain->in_num = in_num;
    for (unsigned i = 0; i < out_num + in_num; i++) {
        if (!state_get_u64(r, "gpa", UINT64_MAX, &chain->gpa[i], error) ||
            !state_get_u64(r, "len", UINT32_MAX, &len, error))
            return false;
        if (!len)
            return fail(error, ERR_CORRUPT, "a chain has a part of no bytes");
        chain->iov[i] = (struct iovec){ .iov_base = NULL, .iov_len = len };
        *(i < out_num ? &chain->out_bytes : &chain->in_bytes) += len;
    }
    if (!count || chain->out_bytes + chain->in_bytes > UINT32_MAX)
        return fail(error, ERR_CORRUPT, "a chain takes no slot, or has more than 2^32 - 1 bytes");
    return true;
}

bool virtq_map_chain(Virtqueue *vq, VirtqChain *chain)
{
    bool ok = true;

    memory_read_enter();
    for (unsigned i = 0; ok && i < chain->out_num + chain->in_num; i++) {
        uint64_t len = chain->iov[i].iov_len;
        chain->iov[i].iov_base = dma_ptr(vq->as, chain->gpa[i], &len, i >= chain->out_num);
        ok = chain->iov[i].iov_base && len == chain->iov[i].iov_len;
    }
    memory_read_exit();
    if (!ok)
        virtio_break(vq->vdev, "queue %u: a buffer of a parked request is not RAM", vq->index);
    return ok;
}

/*
 * The legacy interface (virtio 1.2, 4.1.4.10 and 2.7.2): one block of I/O ports, a queue given by
 * the page number of its ring, no FEATURES_OK, the low 32 feature bits only.
 */
#include <linux/virtio_pci.h>
#include "hw/virtio/virtio-pci-int.h"
#include "src/base/util.h"

enum { RESET_POLLS = 2000, RESET_POLL_US = 50 };

static Virtqueue *selected(const VirtioPci *p)
{
    return p->queue_select < p->vdev->num_queues ? p->vdev->queues[p->queue_select] : NULL;
}

static unsigned config_at(const VirtioPci *p)
{
    return VIRTIO_PCI_CONFIG_OFF(pci_msix_enabled(&p->pci));
}

static uint32_t read_register(VirtioPci *p, unsigned offset)
{
    const VirtioDevice *vdev = p->vdev;
    const Virtqueue *vq = selected(p);

    switch (offset) {
    case VIRTIO_PCI_HOST_FEATURES: return vdev->host_features;
    case VIRTIO_PCI_GUEST_FEATURES: return vdev->guest_features;
    case VIRTIO_PCI_QUEUE_PFN:
        return vq && vq->enabled ? vq->desc >> VIRTIO_PCI_QUEUE_ADDR_SHIFT : 0;
    case VIRTIO_PCI_QUEUE_NUM: return vq ? vq->max_size : 0;
    case VIRTIO_PCI_QUEUE_SEL: return p->queue_select;
    case VIRTIO_PCI_STATUS: return __atomic_load_n(&vdev->status, __ATOMIC_SEQ_CST);
    case VIRTIO_PCI_ISR: return virtio_pci_take_isr(p);
    case VIRTIO_MSI_CONFIG_VECTOR: return p->config_vector;
    case VIRTIO_MSI_QUEUE_VECTOR: return vq ? vq->vector : VIRTIO_MSI_NO_VECTOR;
    default: return 0;
    }
}

static uint64_t legacy_read(void *opaque, uint64_t offset, unsigned size)
{
    VirtioPci *p = opaque;

    if (offset >= config_at(p))
        return virtio_config_read(p->vdev, offset - config_at(p), size);
    return read_register(p, offset);
}

/*
 * A legacy driver does not wait for the end of a reset.  So a vCPU that asks for one waits here,
 * without the VM lock, for the main loop to do it; not for ever, as the main loop may just be
 * stopping vCPUs.
 */
static void reset_and_wait(VirtioPci *p)
{
    VmLock *lock = p->pci.dev.machine->lock;

    object_ref(p);
    virtio_set_status(p->vdev, 0);
    for (unsigned i = 0; i < RESET_POLLS && p->vdev->resetting; i++) {
        vm_unlock(lock);
        g_usleep(RESET_POLL_US);
        vm_lock(lock);
    }
    object_unref(p);
}

/* 2.7.2: the three parts follow each other in memory, the used ring on a page of its own. */
static void set_page(VirtioPci *p, Virtqueue *vq, uint32_t page)
{
    if (!page) {
        if (vq->enabled)
            virtio_reset_queue(p->vdev, vq->index);
        return;
    }
    if (vq->enabled || vq->reset_pending)
        return;
    vq->size = vq->max_size;
    vq->desc = (uint64_t)page << VIRTIO_PCI_QUEUE_ADDR_SHIFT;
    vq->driver = vq->desc + 16 * vq->size;
    vq->device = ALIGN_UP(vq->driver + 6 + 2 * vq->size, VIRTIO_PCI_VRING_ALIGN);
    virtio_enable_queue(p->vdev, vq->index);
}

/*
 * Linux before 2.6.34 lets a legacy device work without Bus Master Enable.  Such a driver is known
 * by its second step (3.1.1).
 */
static void enable_bus_master(VirtioPci *p)
{
    uint16_t command = ld_le16(p->pci.config + PCI_COMMAND);

    if (!(command & PCI_COMMAND_MASTER))
        pci_config_write(&p->pci, PCI_COMMAND, command | PCI_COMMAND_MASTER, 2);
}

static void set_status(VirtioPci *p, uint8_t status)
{
    if (!status) {
        reset_and_wait(p);
        return;
    }
    if (status == (VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER))
        enable_bus_master(p);
    virtio_set_status(p->vdev, status);
}

static void legacy_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    VirtioPci *p = opaque;
    Virtqueue *vq = selected(p);

    if (offset >= config_at(p)) {
        virtio_config_write(p->vdev, offset - config_at(p), value, size);
        return;
    }
    switch (offset) {
    case VIRTIO_PCI_GUEST_FEATURES:
        virtio_set_guest_features(p->vdev, value & (uint32_t)p->vdev->host_features);
        break;
    case VIRTIO_PCI_QUEUE_PFN:
        if (vq && !p->vdev->resetting)
            set_page(p, vq, value);
        break;
    case VIRTIO_PCI_QUEUE_SEL:
        p->queue_select = value;
        break;
    case VIRTIO_PCI_QUEUE_NOTIFY:
        virtio_kick(p->vdev, value);
        break;
    case VIRTIO_PCI_STATUS:
        set_status(p, value);
        break;
    case VIRTIO_MSI_CONFIG_VECTOR:
        virtio_pci_set_vector(p, -1, value);
        break;
    case VIRTIO_MSI_QUEUE_VECTOR:
        if (vq)
            virtio_pci_set_vector(p, vq->index, value);
        break;
    }
}

static const IoOps legacy_ops = {
    .read = legacy_read, .write = legacy_write, .guest = { .min = 1, .max = 4 },
    .device = { .min = 1, .max = 4, .unaligned = true },
};

void virtio_pci_init_legacy(VirtioPci *p, size_t config_size)
{
    uint64_t size = 32;

    while (size < VIRTIO_PCI_CONFIG_OFF(true) + config_size)
        size *= 2;
    region_init_io(&p->legacy, OBJECT(p), &legacy_ops, p, "virtio-pci-legacy", size);
}

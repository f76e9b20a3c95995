/* The registers of virtio over PCI (virtio 1.2, 4.1.4): common, notification, ISR, device. */
#include <linux/virtio_pci.h>
#include "hw/virtio/virtio-pci-int.h"
#include "src/base/util.h"

/* ---- Common configuration (4.1.4.3) ---- */

/* Registers by offset; a driver uses accesses of a field's own width (4.1.3.1). */
static const struct {
    uint8_t offset, size;
} fields[] = {
    { VIRTIO_PCI_COMMON_DFSELECT, 4 },   { VIRTIO_PCI_COMMON_DF, 4 },
    { VIRTIO_PCI_COMMON_GFSELECT, 4 },   { VIRTIO_PCI_COMMON_GF, 4 },
    { VIRTIO_PCI_COMMON_MSIX, 2 },       { VIRTIO_PCI_COMMON_NUMQ, 2 },
    { VIRTIO_PCI_COMMON_STATUS, 1 },     { VIRTIO_PCI_COMMON_CFGGENERATION, 1 },
    { VIRTIO_PCI_COMMON_Q_SELECT, 2 },   { VIRTIO_PCI_COMMON_Q_SIZE, 2 },
    { VIRTIO_PCI_COMMON_Q_MSIX, 2 },     { VIRTIO_PCI_COMMON_Q_ENABLE, 2 },
    { VIRTIO_PCI_COMMON_Q_NOFF, 2 },     { VIRTIO_PCI_COMMON_Q_DESCLO, 4 },
    { VIRTIO_PCI_COMMON_Q_DESCHI, 4 },   { VIRTIO_PCI_COMMON_Q_AVAILLO, 4 },
    { VIRTIO_PCI_COMMON_Q_AVAILHI, 4 },  { VIRTIO_PCI_COMMON_Q_USEDLO, 4 },
    { VIRTIO_PCI_COMMON_Q_USEDHI, 4 },   { VIRTIO_PCI_COMMON_Q_NDATA, 2 },
    { VIRTIO_PCI_COMMON_Q_RESET, 2 },
};

static Virtqueue *selected(const VirtioPci *p)
{
    return p->queue_select < p->vdev->num_queues ? p->vdev->queues[p->queue_select] : NULL;
}

static uint32_t half(uint64_t value, uint32_t select)
{
    return select < 2 ? value >> (32 * select) : 0;
}

/* 4.1.4.3.1: for a queue that does not exist, its size is 0. */
static uint32_t read_queue_field(const VirtioPci *p, unsigned offset)
{
    const Virtqueue *vq = selected(p);

    if (!vq)
        return offset == VIRTIO_PCI_COMMON_Q_MSIX ? VIRTIO_MSI_NO_VECTOR : 0;
    switch (offset) {
    case VIRTIO_PCI_COMMON_Q_SIZE: return vq->size;
    case VIRTIO_PCI_COMMON_Q_MSIX: return vq->vector;
    case VIRTIO_PCI_COMMON_Q_ENABLE: return vq->enabled && !vq->reset_pending;
    case VIRTIO_PCI_COMMON_Q_NOFF: return vq->index;
    case VIRTIO_PCI_COMMON_Q_DESCLO: return vq->desc;
    case VIRTIO_PCI_COMMON_Q_DESCHI: return vq->desc >> 32;
    case VIRTIO_PCI_COMMON_Q_AVAILLO: return vq->driver;
    case VIRTIO_PCI_COMMON_Q_AVAILHI: return vq->driver >> 32;
    case VIRTIO_PCI_COMMON_Q_USEDLO: return vq->device;
    case VIRTIO_PCI_COMMON_Q_USEDHI: return vq->device >> 32;
    case VIRTIO_PCI_COMMON_Q_NDATA: return vq->index;
    case VIRTIO_PCI_COMMON_Q_RESET: return vq->reset_pending;
    default: return 0;
    }
}

static uint32_t read_field(const VirtioPci *p, unsigned offset)
{
    const VirtioDevice *vdev = p->vdev;

    switch (offset) {
    case VIRTIO_PCI_COMMON_DFSELECT: return p->device_feature_select;
    case VIRTIO_PCI_COMMON_DF:
        return half(vdev->host_features & ~VIRTIO_LEGACY_FEATURES, p->device_feature_select);
    case VIRTIO_PCI_COMMON_GFSELECT: return p->driver_feature_select;
    case VIRTIO_PCI_COMMON_GF: return half(vdev->guest_features, p->driver_feature_select);
    case VIRTIO_PCI_COMMON_MSIX: return p->config_vector;
    case VIRTIO_PCI_COMMON_NUMQ: return vdev->num_queues;
    case VIRTIO_PCI_COMMON_STATUS: return __atomic_load_n(&vdev->status, __ATOMIC_SEQ_CST);
    case VIRTIO_PCI_COMMON_CFGGENERATION: return vdev->config_generation;
    case VIRTIO_PCI_COMMON_Q_SELECT: return p->queue_select;
    default: return read_queue_field(p, offset);
    }
}

static uint64_t common_read(void *opaque, uint64_t offset, unsigned size)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(fields); i++) {
        unsigned skip = offset - fields[i].offset;
        if (offset >= fields[i].offset && skip + size <= fields[i].size)
            return read_field(opaque, fields[i].offset) >> (8 * skip);
    }
    return 0;
}

static void set_low(uint64_t *address, uint32_t value)
{
    *address = (*address & ~(uint64_t)UINT32_MAX) | value;
}

static void set_high(uint64_t *address, uint32_t value)
{
    *address = (*address & UINT32_MAX) | (uint64_t)value << 32;
}

/* 4.1.4.3.2: a queue is set up while it is not enabled. */
static void write_queue_field(VirtioPci *p, unsigned offset, uint32_t value)
{
    Virtqueue *vq = selected(p);

    if (!vq || vq->reset_pending || p->vdev->resetting)
        return;
    if (offset == VIRTIO_PCI_COMMON_Q_MSIX) {
        virtio_pci_set_vector(p, vq->index, value);
        return;
    }
    if (offset == VIRTIO_PCI_COMMON_Q_RESET) {
        if (value == 1 && virtio_has_feature(p->vdev, VIRTIO_F_RING_RESET))
            virtio_reset_queue(p->vdev, vq->index);
        return;
    }
    if (vq->enabled)
        return;
    switch (offset) {
    case VIRTIO_PCI_COMMON_Q_SIZE:
        if (value && value <= vq->max_size)
            vq->size = value;
        break;
    case VIRTIO_PCI_COMMON_Q_ENABLE:
        if (value == 1)
            virtio_enable_queue(p->vdev, vq->index);
        break;
    case VIRTIO_PCI_COMMON_Q_DESCLO: set_low(&vq->desc, value); break;
    case VIRTIO_PCI_COMMON_Q_DESCHI: set_high(&vq->desc, value); break;
    case VIRTIO_PCI_COMMON_Q_AVAILLO: set_low(&vq->driver, value); break;
    case VIRTIO_PCI_COMMON_Q_AVAILHI: set_high(&vq->driver, value); break;
    case VIRTIO_PCI_COMMON_Q_USEDLO: set_low(&vq->device, value); break;
    case VIRTIO_PCI_COMMON_Q_USEDHI: set_high(&vq->device, value); break;
    }
}

static void write_driver_features(VirtioPci *p, uint32_t value)
{
    uint64_t features = p->vdev->guest_features;

    if (p->driver_feature_select == 0)
        set_low(&features, value);
    else if (p->driver_feature_select == 1)
        set_high(&features, value);
    virtio_set_guest_features(p->vdev, features);
}

static void write_field(VirtioPci *p, unsigned offset, uint32_t value)
{
    switch (offset) {
    case VIRTIO_PCI_COMMON_DFSELECT: p->device_feature_select = value; break;
    case VIRTIO_PCI_COMMON_GFSELECT: p->driver_feature_select = value; break;
    case VIRTIO_PCI_COMMON_GF: write_driver_features(p, value); break;
    case VIRTIO_PCI_COMMON_MSIX: virtio_pci_set_vector(p, -1, value); break;
    case VIRTIO_PCI_COMMON_STATUS: virtio_set_status(p->vdev, value); break;
    case VIRTIO_PCI_COMMON_Q_SELECT: p->queue_select = value; break;
    default: write_queue_field(p, offset, value); break;
    }
}

static void common_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(fields); i++) {
        if (offset == fields[i].offset && size == fields[i].size) {
            write_field(opaque, offset, value);
            return;
        }
    }
    guest_error(virtio_name(VIRTIO_PCI(opaque)->vdev),
                "write of %u bytes to common configuration +0x%x", size, (unsigned)offset);
}

/* ---- ISR status (4.1.4.5) ---- */

static uint64_t isr_read(void *opaque, uint64_t offset, unsigned size)
{
    return offset ? 0 : virtio_pci_take_isr(opaque);
}

static void isr_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
}

/* ---- Device configuration (4.1.4.6) ---- */

static uint64_t config_read(void *opaque, uint64_t offset, unsigned size)
{
    return virtio_config_read(VIRTIO_PCI(opaque)->vdev, offset, size);
}

static void config_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    virtio_config_write(VIRTIO_PCI(opaque)->vdev, offset, value, size);
}

/* ---- Notification (4.1.4.4): where ioeventfds are off, or not there yet ---- */

static uint64_t notify_read(void *opaque, uint64_t offset, unsigned size)
{
    return 0;
}

static void notify_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    VirtioPci *p = opaque;

    virtio_kick(p->vdev, offset / virtio_pci_notify_multiplier(p));
}

const IoOps virtio_pci_common_ops = { .read = common_read, .write = common_write };
const IoOps virtio_pci_isr_ops = { .read = isr_read, .write = isr_write };
const IoOps virtio_pci_config_ops = { .read = config_read, .write = config_write };
const IoOps virtio_pci_notify_ops = { .read = notify_read, .write = notify_write };

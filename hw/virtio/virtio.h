/*
 * virtio devices (virtio 1.2).  A device (type is_a "virtio-device") knows features, a config space
 * and queues; a transport ("virtio-pci") carries it.  One macro registers the pair (VIRTIO_PCI_REGISTER, hw/virtio/virtio-pci.h).  The transport owns the device as its child "virtio-backend" and forwards properties to it.
 *
 * Threads: config space, status and features are changed under the VM lock.  A queue belongs to one
 * loop (the main one, or an iothread's); while the device runs, only that loop touches the ring, and
 * virtio_stop/start hand it over.
 */
#pragma once
#include "hw/core/device.h"
#include "hw/virtio/virtq.h"

typedef struct VirtioDevice VirtioDevice;
typedef struct VirtioTransport VirtioTransport;

/* Device status bits (2.1). */
enum {
    VIRTIO_STATUS_ACKNOWLEDGE = 1, VIRTIO_STATUS_DRIVER = 2, VIRTIO_STATUS_DRIVER_OK = 4,
    VIRTIO_STATUS_FEATURES_OK = 8, VIRTIO_STATUS_NEEDS_RESET = 64, VIRTIO_STATUS_FAILED = 128
};
/* Reserved feature bits (6). */
enum {
    VIRTIO_F_NOTIFY_ON_EMPTY = 24, VIRTIO_F_ANY_LAYOUT = 27, VIRTIO_F_INDIRECT_DESC = 28,
    VIRTIO_F_EVENT_IDX = 29, VIRTIO_F_VERSION_1 = 32, VIRTIO_F_ACCESS_PLATFORM = 33,
    VIRTIO_F_RING_PACKED = 34, VIRTIO_F_IN_ORDER = 35, VIRTIO_F_ORDER_PLATFORM = 36,
    VIRTIO_F_SR_IOV = 37, VIRTIO_F_NOTIFICATION_DATA = 38, VIRTIO_F_RING_RESET = 40
};

/* Type.ops of a virtio device type. */
typedef struct VirtioDeviceOps {
    uint16_t device_id;                     /* 5: "Device Types" */
    size_t config_size;
    /* Features the device offers beside the transport's own (@offered has those). */
    uint64_t (*get_features)(VirtioDevice *vdev, uint64_t offered);
    /* The driver's choice was accepted; false: refuse FEATURES_OK. */
    bool (*set_features)(VirtioDevice *vdev, uint64_t features);
    void (*get_config)(VirtioDevice *vdev, uint8_t *config);      /* fills config_size bytes */
    void (*set_config)(VirtioDevice *vdev, unsigned offset, unsigned size);   /* config was written */
    /* Data plane: start is called when DRIVER_OK is set (and on resume), stop when it is cleared
     * and before save/unrealize; stop returns when no request is in flight (main thread; may run
     * the loop) or has been handed over as "in flight" for save. */
    bool (*start)(VirtioDevice *vdev, GError **error);
    void (*stop)(VirtioDevice *vdev);
    /* In-flight requests and other state that the tables cannot say go in the type's StateTable. */
} VirtioDeviceOps;

struct VirtioDevice {
    Device dev;
    VirtioTransport *transport;
    uint64_t host_features, guest_features; /* offered; accepted */
    uint8_t status;                         /* atomic: NEEDS_RESET may come from an iothread */
    uint8_t isr;                            /* atomic */
    uint8_t config_generation;
    uint8_t *config;
    unsigned num_queues;
    Virtqueue **queues;                     /* by index */
    bool running;                           /* start was called */
    bool broken;                            /* atomic */
    bool use_packed, use_event_idx, use_indirect, ring_reset;   /* properties of the base type */
};
#define VIRTIO_DEVICE(ptr) ((VirtioDevice *)(ptr))

/* Called by the device in its realize.  @handler runs in the queue's loop when the driver kicked. */
typedef void VirtqHandler(VirtioDevice *vdev, Virtqueue *vq);
Virtqueue *virtio_add_queue(VirtioDevice *vdev, unsigned max_size, VirtqHandler *handler);
/* Which loop serves it from the next start on; default: the main loop. */
void virtio_set_queue_loop(VirtioDevice *vdev, unsigned index, Loop *loop);
static inline bool virtio_has_feature(const VirtioDevice *vdev, unsigned bit)
{
    return vdev->guest_features >> bit & 1;
}
/* The device is broken: NEEDS_RESET, a config interrupt, and no queue is served any more (2.1.2).
 * Any thread; logs once as a guest error. */
void virtio_break(VirtioDevice *vdev, const char *format, ...) G_GNUC_PRINTF(2, 3);
void virtio_config_changed(VirtioDevice *vdev);          /* generation, config interrupt.  VM lock */
void virtio_reset(VirtioDevice *vdev);
bool virtio_set_status(VirtioDevice *vdev, uint8_t status);  /* transports */
AddressSpace *virtio_dma(const VirtioDevice *vdev);

/* What a transport does for its device. */
typedef struct VirtioTransportOps {
    void (*notify_queue)(VirtioTransport *t, unsigned queue);    /* any thread */
    void (*notify_config)(VirtioTransport *t);                   /* any thread */
    AddressSpace *(*dma)(VirtioTransport *t);
    /* Kicks of the queue arrive on its host notifier while on (ioeventfd). */
    bool (*set_host_notifier)(VirtioTransport *t, unsigned queue, bool on, GError **error);
    bool (*set_guest_notifiers)(VirtioTransport *t, bool on, GError **error);  /* irqfds */
} VirtioTransportOps;
struct VirtioTransport {
    const VirtioTransportOps *ops;
    VirtioDevice *vdev;
};

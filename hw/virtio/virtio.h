/*
 * virtio devices (virtio 1.2).  A device (type is_a "virtio-device") knows features, a config space
 * and queues; a transport ("virtio-pci") carries it.  One macro registers the pair
 * (VIRTIO_PCI_REGISTER, hw/virtio/virtio-pci.h).  The transport owns the device as its child
 * "virtio-backend" and forwards properties to it.
 *
 * Threads: config space, status and features are changed under the VM lock.  A queue belongs to one
 * loop (the main one, or an iothread's); while the device runs, only that loop touches the ring,
 * and virtio_stop/start hand it over.
 */
#pragma once
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include "hw/core/device.h"
#include "hw/virtio/virtq.h"

typedef struct VirtioDevice VirtioDevice;
typedef struct VirtioTransport VirtioTransport;

/* Device status bits (2.1). */
enum {
    VIRTIO_STATUS_ACKNOWLEDGE = 1, VIRTIO_STATUS_DRIVER = 2, VIRTIO_STATUS_DRIVER_OK = 4,
    VIRTIO_STATUS_FEATURES_OK = 8, VIRTIO_STATUS_NEEDS_RESET = 64, VIRTIO_STATUS_FAILED = 128
};
/* Reserved feature bits (6) that <linux/virtio_config.h> of older hosts lacks. */
#ifndef VIRTIO_F_NOTIFICATION_DATA
#define VIRTIO_F_NOTIFICATION_DATA 38
#endif
#ifndef VIRTIO_F_IN_ORDER
#define VIRTIO_F_IN_ORDER 35
#endif
#ifndef VIRTIO_F_RING_RESET
#define VIRTIO_F_RING_RESET 40
#endif
#define VIRTIO_F_INDIRECT_DESC VIRTIO_RING_F_INDIRECT_DESC
#define VIRTIO_F_EVENT_IDX VIRTIO_RING_F_EVENT_IDX

/* What only the legacy interface offers (6.3): of the modern one these bits are reserved. */
#define VIRTIO_LEGACY_FEATURES (1ull << VIRTIO_F_NOTIFY_ON_EMPTY | 1ull << VIRTIO_F_ANY_LAYOUT)

/* ISR status bits (4.1.4.5). */
enum { VIRTIO_ISR_QUEUE = 1, VIRTIO_ISR_CONFIG = 2 };

/* Type.ops of a virtio device type. */
typedef struct VirtioDeviceOps {
    uint16_t device_id;                     /* 5: "Device Types" */
    size_t config_size;
    /* Features the device offers beside the transport's own (@offered has those). */
    uint64_t (*get_features)(VirtioDevice *vdev, uint64_t offered);
    /* The driver's choice was accepted; false: refuse FEATURES_OK. */
    bool (*set_features)(VirtioDevice *vdev, uint64_t features);
    void (*get_config)(VirtioDevice *vdev, uint8_t *config);      /* fills config_size bytes */
    void (*set_config)(VirtioDevice *vdev, unsigned offset, unsigned size); /* config was written */
    /* Data plane, both may be absent; main thread.  start is called when DRIVER_OK is set (and on
     * resume), before the first handler runs; stop when it is cleared and before save/unrealize,
     * when no handler runs any more.  stop returns when no request is in flight (it may run the
     * loop) or what is has been parked for the state table. */
    bool (*start)(VirtioDevice *vdev, GError **error);
    void (*stop)(VirtioDevice *vdev);
    /* One queue is reset (2.6.1): forgets what is parked of it.  Stopped; may be absent. */
    void (*reset_queue)(VirtioDevice *vdev, unsigned index);
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
    bool resetting; /* the driver asked for a reset; status reads as before */
    bool vm_stopped;                        /* the run state, by the machine's hook */
    bool updating, update_again;            /* main thread: virtio_update is at work */
    bool restart;                           /* ... and is to stop and start */
    LoopBh update_bh;                       /* in the main loop */
    /* Properties of the base type. */
    bool use_packed, use_event_idx, use_indirect, ring_reset, iommu_platform;
    bool any_layout, notify_on_empty;       /* offered by a legacy interface only */
    bool legacy, modern;                    /* the interfaces that the transport has */
};
#define VIRTIO_DEVICE(ptr) ((VirtioDevice *)(ptr))

/* Called by the device in its realize.  @handler runs in the queue's loop when the driver kicked;
 * before it returns it has found the ring empty and asked for the next kick
 * (virtq_set_notification), or knows itself when to go on. */
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
void virtio_config_changed(VirtioDevice *vdev); /* generation, config interrupt.  VM lock */
AddressSpace *virtio_dma(const VirtioDevice *vdev);      /* NULL: bus mastering is off */
const char *virtio_name(const VirtioDevice *vdev);       /* for messages: its id or type */

/* For transports, under the VM lock.  A reset (status 0) or a start that is asked for in a vCPU's
 * thread is done by the main loop a little later: until then the status reads as before (the driver
 * waits for 0, 4.1.4.3.2).  In the main thread it is done on return.  False: not accepted. */
bool virtio_set_status(VirtioDevice *vdev, uint8_t status);
void virtio_reset(VirtioDevice *vdev);
/* Main thread, before unrealize: on return no handler runs any more and no request is in flight. */
void virtio_shut_down(VirtioDevice *vdev);
/* Starts or stops the data plane as status, run state and bus mastering now ask for. */
void virtio_update(VirtioDevice *vdev);
void virtio_set_guest_features(VirtioDevice *vdev, uint64_t features);
size_t virtio_config_size(const VirtioDevice *vdev);
uint32_t virtio_config_read(VirtioDevice *vdev, unsigned offset, unsigned size);
void virtio_config_write(VirtioDevice *vdev, unsigned offset, uint32_t value, unsigned size);
bool virtio_enable_queue(VirtioDevice *vdev, unsigned index);  /* false: its layout is bad */
void virtio_reset_queue(VirtioDevice *vdev, unsigned index);
/* The driver kicked, and no ioeventfd took it.  Any thread. */
void virtio_kick(VirtioDevice *vdev, unsigned index);

/* What a transport does for its device. */
typedef struct VirtioTransportOps {
    void (*notify_queue)(VirtioTransport *t, unsigned queue);    /* any thread */
    void (*notify_config)(VirtioTransport *t);                   /* any thread */
    AddressSpace *(*dma)(VirtioTransport *t);
    /* While on, the driver's kicks of the queue signal @fd (ioeventfd); else they end in
     * virtio_kick. */
    void (*set_host_notifier)(VirtioTransport *t, unsigned queue, int fd, bool on);
    void (*set_guest_notifiers)(VirtioTransport *t, bool on);    /* irqfds */
    void (*reset)(VirtioTransport *t);       /* the device was reset; VM lock */
} VirtioTransportOps;
struct VirtioTransport {
    const VirtioTransportOps *ops;
    VirtioDevice *vdev;
};

/*
 * The core of virtio devices (virtio 1.2, 2 and 3): status, features, config space, and when the
 * data plane runs.
 *
 *     stopped --- DRIVER_OK, the VM runs, bus mastering is on ---> running
 *     running --- one of them ends, a reset, NEEDS_RESET ---> stopped
 *
 * virtio_update makes the step.  It happens in the main thread, for queues may have to be fetched
 * from iothreads and requests awaited; a vCPU's thread only asks for it.
 */
#include <sys/eventfd.h>
#include "hw/virtio/virtq-int.h"
#include "src/base/trace.h"
#include "src/base/util.h"

static const VirtioDeviceOps *vdev_ops(const VirtioDevice *vdev)
{
    return type_ops(vdev->dev.obj.type);
}

const char *virtio_name(const VirtioDevice *vdev)
{
    const Object *outer = vdev->dev.obj.parent;

    return outer && outer->name ? outer->name : vdev->dev.obj.type->name;
}

AddressSpace *virtio_dma(const VirtioDevice *vdev)
{
    return vdev->transport->ops->dma(vdev->transport);
}

static uint8_t get_status(const VirtioDevice *vdev)
{
    return __atomic_load_n(&vdev->status, __ATOMIC_RELAXED);
}

void virtio_break(VirtioDevice *vdev, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    if (__atomic_exchange_n(&vdev->broken, true, __ATOMIC_SEQ_CST))
        return;
    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    guest_error(virtio_name(vdev), "%s", text);
    TRACE(virtio_break, "%s: %s", virtio_name(vdev), text);
    uint8_t old = __atomic_fetch_or(&vdev->status, VIRTIO_STATUS_NEEDS_RESET, __ATOMIC_SEQ_CST);
    /* 2.1.2: the driver is told only after DRIVER_OK. */
    if (old & VIRTIO_STATUS_DRIVER_OK) {
        __atomic_fetch_or(&vdev->isr, VIRTIO_ISR_CONFIG, __ATOMIC_SEQ_CST);
        vdev->transport->ops->notify_config(vdev->transport);
    }
    loop_bh_schedule(&vdev->update_bh);
}

/* ---- Queues ---- */

Virtqueue *virtio_add_queue(VirtioDevice *vdev, unsigned max_size, VirtqHandler *handler)
{
    unsigned index = vdev->num_queues++;

    vdev->queues = g_renew(Virtqueue *, vdev->queues, vdev->num_queues);
    return vdev->queues[index] = virtq_new(vdev, index, max_size, handler);
}

void virtio_set_queue_loop(VirtioDevice *vdev, unsigned index, Loop *loop)
{
    vdev->queues[index]->next_loop = loop;
}

void virtio_kick(VirtioDevice *vdev, unsigned index)
{
    uint64_t one = 1;

    /* The count is what matters, and it is there even if this write finds it full. */
    if (index < vdev->num_queues && write(vdev->queues[index]->kick_fd, &one, sizeof(one)) < 0)
        return;
}

static void kick_ready(void *opaque, unsigned events)
{
    Virtqueue *vq = opaque;
    uint64_t count;

    if (read(vq->kick_fd, &count, sizeof(count)) < 0)
        return;
    TRACE(virtio_kick, "%s queue %u", virtio_name(vq->vdev), vq->index);
    vq->handler(vq->vdev, vq);
}

static void handle_again(void *opaque)
{
    Virtqueue *vq = opaque;

    vq->handler(vq->vdev, vq);
}

void virtq_again(Virtqueue *vq)
{
    loop_bh_schedule(&vq->again_bh);
}

static bool poll_queue(void *opaque)
{
    Virtqueue *vq = opaque;

    if (virtq_empty(vq))
        return false;
    vq->handler(vq->vdev, vq);
    return true;
}

/* While the loop polls it sees the ring by itself: the driver need not kick. */
static void polling_begins(void *opaque)
{
    virtq_set_polling(opaque, true);
}

static bool polling_ends(void *opaque)
{
    Virtqueue *vq = opaque;

    virtq_set_polling(vq, false);
    if (virtq_set_notification(vq, true))
        return false;
    vq->handler(vq->vdev, vq);
    return true;
}

static void watch_queue(void *opaque)
{
    Virtqueue *vq = opaque;

    loop_bh_init(&vq->again_bh, vq->loop, handle_again, vq);
    vq->kick_watch = loop_add_fd(vq->loop, vq->kick_fd, G_IO_IN, kick_ready, vq);
    if (vq->loop == loop_main())
        return;
    vq->poll = loop_add_poll(vq->loop, poll_queue, vq);
    loop_poll_set_edges(vq->poll, polling_begins, polling_ends);
}

static void unwatch_queue(void *opaque)
{
    Virtqueue *vq = opaque;

    if (vq->poll)
        loop_poll_remove(vq->poll);
    if (vq->kick_watch)
        loop_fd_remove(vq->kick_watch);
    loop_bh_cancel(&vq->again_bh);
    vq->poll = NULL;
    vq->kick_watch = NULL;
    vq->polling = false;
}

/* ---- Start and stop: the main thread ---- */

static bool should_run(const VirtioDevice *vdev)
{
    return (get_status(vdev) & VIRTIO_STATUS_DRIVER_OK) && !vdev->vm_stopped && !vdev->resetting &&
           !__atomic_load_n(&vdev->broken, __ATOMIC_SEQ_CST) && virtio_dma(vdev);
}

static void stop_rings(VirtioDevice *vdev)
{
    for (unsigned i = 0; i < vdev->num_queues; i++)
        virtq_stop(vdev->queues[i]);
}

static void virtio_start(VirtioDevice *vdev)
{
    const VirtioTransportOps *transport = vdev->transport->ops;
    AddressSpace *dma = virtio_dma(vdev);
    g_autoptr(GError) error = NULL;

    TRACE(virtio_start, "%s", virtio_name(vdev));
    for (unsigned i = 0; i < vdev->num_queues; i++) {
        vdev->queues[i]->loop = vdev->queues[i]->next_loop;
        if (vdev->queues[i]->enabled && !virtq_start(vdev->queues[i], dma)) {
            stop_rings(vdev);
            return;
        }
    }
    vdev->running = true;
    transport->set_guest_notifiers(vdev->transport, true);
    if (vdev_ops(vdev)->start && !vdev_ops(vdev)->start(vdev, &error)) {
        transport->set_guest_notifiers(vdev->transport, false);
        stop_rings(vdev);
        vdev->running = false;
        warn_report("%s: cannot start: %s", virtio_name(vdev), error->message);
        virtio_break(vdev, "the device cannot start: %s", error->message);
        return;
    }
    for (unsigned i = 0; i < vdev->num_queues; i++) {
        Virtqueue *vq = vdev->queues[i];
        if (!vq->running)
            continue;
        transport->set_host_notifier(vdev->transport, i, vq->kick_fd, true);
        /* What is in the ring already was kicked for before anybody listened. */
        virtio_kick(vdev, i);
        loop_call(vq->loop, watch_queue, vq);
    }
}

static void virtio_stop(VirtioDevice *vdev)
{
    const VirtioTransportOps *transport = vdev->transport->ops;

    TRACE(virtio_stop, "%s", virtio_name(vdev));
    for (unsigned i = 0; i < vdev->num_queues; i++) {
        Virtqueue *vq = vdev->queues[i];
        if (!vq->running)
            continue;
        loop_call(vq->loop, unwatch_queue, vq);
        transport->set_host_notifier(vdev->transport, i, vq->kick_fd, false);
    }
    if (vdev_ops(vdev)->stop)
        vdev_ops(vdev)->stop(vdev);
    stop_rings(vdev);
    transport->set_guest_notifiers(vdev->transport, false);
    vdev->running = false;
}

static void reset_pending_queues(VirtioDevice *vdev)
{
    for (unsigned i = 0; i < vdev->num_queues; i++) {
        if (!vdev->queues[i]->reset_pending)
            continue;
        if (vdev_ops(vdev)->reset_queue)
            vdev_ops(vdev)->reset_queue(vdev, i);
        virtq_reset(vdev->queues[i]);
    }
}

static void do_update(void *opaque)
{
    VirtioDevice *vdev = opaque;
    Object *outer = vdev->dev.obj.parent;   /* whose transport is in use */

    /* Stopping may run the loop, and so come here again. */
    vdev->update_again = true;
    if (vdev->updating)
        return;
    vdev->updating = true;
    object_ref(vdev);
    object_ref(outer);
    while (vdev->update_again) {
        bool restart = vdev->restart;
        vdev->update_again = vdev->restart = false;
        for (unsigned i = 0; i < vdev->num_queues; i++)
            restart |= vdev->queues[i]->reset_pending;
        if (vdev->running && (restart || !should_run(vdev)))
            virtio_stop(vdev);
        reset_pending_queues(vdev);
        if (vdev->resetting && OBJECT(vdev)->realized) {
            vdev->resetting = false;
            object_reset(OBJECT(vdev));
        }
        if (!vdev->running && OBJECT(vdev)->realized && should_run(vdev))
            virtio_start(vdev);
    }
    vdev->updating = false;
    object_unref(vdev);
    object_unref(outer);
}

void virtio_update(VirtioDevice *vdev)
{
    bool idle = !vdev->running && !vdev->updating && !should_run(vdev);

    if (idle || loop_is_current(loop_main()))
        do_update(vdev);
    else
        loop_bh_schedule(&vdev->update_bh);
}

static void run_state_changed(void *opaque, bool running)
{
    VirtioDevice *vdev = opaque;

    vdev->vm_stopped = !running;
    virtio_update(vdev);
}

/* ---- Status and features ---- */

/* 3.1.1, step 5 and 6: is what the driver has chosen a set that works? */
static bool features_acceptable(VirtioDevice *vdev)
{
    uint64_t unknown = vdev->guest_features & ~(vdev->host_features & ~VIRTIO_LEGACY_FEATURES);

    if (unknown) {
        guest_error(virtio_name(vdev), "features 0x%" PRIx64 " were not offered", unknown);
        return false;
    }
    /* 6.1: a driver must accept VERSION_1 when it is offered; a legacy one has no FEATURES_OK. */
    if (!virtio_has_feature(vdev, VIRTIO_F_VERSION_1)) {
        guest_error(virtio_name(vdev), "the driver did not accept VIRTIO_F_VERSION_1");
        return false;
    }
    return !vdev_ops(vdev)->set_features ||
           vdev_ops(vdev)->set_features(vdev, vdev->guest_features);
}

/* A legacy driver (2.2.3) has no FEATURES_OK: what it wrote counts from DRIVER_OK on. */
static bool legacy_features_acceptable(VirtioDevice *vdev)
{
    vdev->guest_features &= vdev->host_features & UINT32_MAX;
    return !vdev_ops(vdev)->set_features ||
           vdev_ops(vdev)->set_features(vdev, vdev->guest_features);
}

/* What was accepted stays until a reset, also by a legacy driver. */
void virtio_set_guest_features(VirtioDevice *vdev, uint64_t features)
{
    if (!(vdev->status & (VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK)))
        vdev->guest_features = features;
}

bool virtio_set_status(VirtioDevice *vdev, uint8_t status)
{
    uint8_t old = get_status(vdev);

    if (vdev->resetting)
        return false;
    TRACE(virtio_set_status, "%s: 0x%x to 0x%x", virtio_name(vdev), old, status);
    if (!status) {
        vdev->resetting = true;
        virtio_update(vdev);
        return true;
    }
    if ((status & ~old & VIRTIO_STATUS_FEATURES_OK) && !features_acceptable(vdev))
        status &= ~VIRTIO_STATUS_FEATURES_OK;
    /* 3.1.1: DRIVER_OK comes after FEATURES_OK; a legacy driver has neither it nor VERSION_1. */
    if (!(status & VIRTIO_STATUS_FEATURES_OK) && virtio_has_feature(vdev, VIRTIO_F_VERSION_1))
        status &= ~VIRTIO_STATUS_DRIVER_OK;
    if (!(status & VIRTIO_STATUS_FEATURES_OK) && (status & ~old & VIRTIO_STATUS_DRIVER_OK) &&
        (!vdev->legacy || !legacy_features_acceptable(vdev)))
        status &= ~VIRTIO_STATUS_DRIVER_OK;
    /* 2.1.1: a driver clears no bit but by a reset.  One that tries keeps them: what was settled
     * for rings that have been used (features, layout) must not come loose. */
    if (old & ~status & ~VIRTIO_STATUS_NEEDS_RESET)
        guest_error(virtio_name(vdev), "status 0x%x after 0x%x, without a reset", status, old);
    status &= ~VIRTIO_STATUS_NEEDS_RESET;
    /* Bits are only added: an iothread may be setting NEEDS_RESET. */
    __atomic_fetch_or(&vdev->status, status, __ATOMIC_SEQ_CST);
    if (status & ~old & VIRTIO_STATUS_DRIVER_OK)
        virtio_update(vdev);
    return true;
}

void virtio_reset(VirtioDevice *vdev)
{
    vdev->resetting = true;
    virtio_update(vdev);
}

void virtio_shut_down(VirtioDevice *vdev)
{
    virtio_reset(vdev);
    /* An update that waits for requests has run the loop, which unplugs the device: then what it
     * began is done here, and it finds nothing left to do. */
    if (vdev->running)
        virtio_stop(vdev);
}

bool virtio_enable_queue(VirtioDevice *vdev, unsigned index)
{
    Virtqueue *vq = vdev->queues[index];

    if (vq->enabled || vq->reset_pending)
        return true;
    if (!virtq_layout_ok(vq, virtio_has_feature(vdev, VIRTIO_F_RING_PACKED))) {
        virtio_break(vdev, "queue %u: size %u or alignment of its areas is wrong", index, vq->size);
        return false;
    }
    vq->enabled = true;
    /* Enabled again after a reset of its own (2.6.1): the data plane starts anew with it. */
    vdev->restart = vdev->running;
    if (vdev->restart)
        virtio_update(vdev);
    return true;
}

void virtio_reset_queue(VirtioDevice *vdev, unsigned index)
{
    vdev->queues[index]->reset_pending = true;
    virtio_update(vdev);
}

/* ---- Config space (2.5) ---- */

size_t virtio_config_size(const VirtioDevice *vdev)
{
    return vdev_ops(vdev)->config_size;
}

uint32_t virtio_config_read(VirtioDevice *vdev, unsigned offset, unsigned size)
{
    uint32_t value = 0;

    vdev_ops(vdev)->get_config(vdev, vdev->config);
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = offset + i < vdev_ops(vdev)->config_size ? vdev->config[offset + i] : 0xff;
        value |= (uint32_t)byte << (8 * i);
    }
    return value;
}

void virtio_config_write(VirtioDevice *vdev, unsigned offset, uint32_t value, unsigned size)
{
    if (offset + (uint64_t)size > vdev_ops(vdev)->config_size || !vdev_ops(vdev)->set_config)
        return;
    vdev_ops(vdev)->get_config(vdev, vdev->config);
    for (unsigned i = 0; i < size; i++)
        vdev->config[offset + i] = value >> (8 * i);
    vdev_ops(vdev)->set_config(vdev, offset, size);
}

void virtio_config_changed(VirtioDevice *vdev)
{
    vdev->config_generation++;
    if (!(get_status(vdev) & VIRTIO_STATUS_DRIVER_OK))
        return;
    __atomic_fetch_or(&vdev->isr, VIRTIO_ISR_CONFIG, __ATOMIC_SEQ_CST);
    vdev->transport->ops->notify_config(vdev->transport);
}

/* ---- Life ---- */

static bool virtio_device_realize(Object *obj, GError **error)
{
    VirtioDevice *vdev = VIRTIO_DEVICE(obj);

    if (!vdev->transport)
        return fail(error, ERR_BAD_STATE, "'%s' needs a transport, as in virtio-*-pci",
                    obj->type->name);
    vdev->config = g_malloc0(MAX(vdev_ops(vdev)->config_size, 1));
    loop_bh_init(&vdev->update_bh, loop_main(), do_update, vdev);
    return true;
}

static uint64_t feature_if(bool on, unsigned bit)
{
    return (uint64_t)on << bit;
}

static uint64_t transport_features(const VirtioDevice *vdev)
{
    return feature_if(vdev->modern, VIRTIO_F_VERSION_1) |
           feature_if(vdev->use_packed, VIRTIO_F_RING_PACKED) |
           feature_if(vdev->use_indirect, VIRTIO_F_INDIRECT_DESC) |
           feature_if(vdev->use_event_idx, VIRTIO_F_EVENT_IDX) |
           feature_if(vdev->modern && vdev->ring_reset, VIRTIO_F_RING_RESET) |
           feature_if(vdev->iommu_platform, VIRTIO_F_ACCESS_PLATFORM) |
           feature_if(vdev->legacy && vdev->any_layout, VIRTIO_F_ANY_LAYOUT) |
           feature_if(vdev->legacy && vdev->notify_on_empty, VIRTIO_F_NOTIFY_ON_EMPTY);
}

static bool virtio_device_realize_done(Object *obj, GError **error)
{
    VirtioDevice *vdev = VIRTIO_DEVICE(obj);
    uint64_t offered = transport_features(vdev);

    if (vdev_ops(vdev)->get_features)
        offered |= vdev_ops(vdev)->get_features(vdev, offered);
    vdev->host_features = offered;
    for (unsigned i = 0; i < vdev->num_queues; i++) {
        vdev->queues[i]->kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        if (vdev->queues[i]->kick_fd < 0)
            return fail_errno(error, errno, "cannot make an eventfd for queue %u", i);
    }
    machine_add_run_hook(vdev->dev.machine, run_state_changed, vdev);
    return true;
}

static void free_queues(VirtioDevice *vdev)
{
    for (unsigned i = 0; i < vdev->num_queues; i++)
        virtq_free(vdev->queues[i]);
    g_free(vdev->queues);
    vdev->queues = NULL;
    vdev->num_queues = 0;
    g_clear_pointer(&vdev->config, g_free);
}

/* Before the leaf's own unrealize: virtio-pci stops the device first (virtio_shut_down). */
static void virtio_device_unrealize(Object *obj)
{
    VirtioDevice *vdev = VIRTIO_DEVICE(obj);

    machine_del_run_hook(vdev->dev.machine, run_state_changed, vdev);
    if (vdev->update_bh.loop)
        loop_bh_cancel(&vdev->update_bh);
    free_queues(vdev);
}

static void virtio_device_finalize(Object *obj)
{
    free_queues(VIRTIO_DEVICE(obj));
}

static void virtio_device_reset(Object *obj)
{
    VirtioDevice *vdev = VIRTIO_DEVICE(obj);

    if (vdev->running)
        virtio_stop(vdev);
    vdev->status = 0;
    vdev->guest_features = 0;
    vdev->isr = 0;
    vdev->resetting = false;
    vdev->broken = false;
    for (unsigned i = 0; i < vdev->num_queues; i++)
        virtq_reset(vdev->queues[i]);
    if (vdev->transport)
        vdev->transport->ops->reset(vdev->transport);
}

/* ---- State ---- */

static void save_queues(void *obj, StateWriter *w)
{
    VirtioDevice *vdev = obj;

    state_put_u64(w, "num_queues", vdev->num_queues);
    for (unsigned i = 0; i < vdev->num_queues; i++)
        virtq_save(vdev->queues[i], w);
}

static bool load_queues(void *obj, StateReader *r, GError **error)
{
    VirtioDevice *vdev = obj;
    uint64_t num_queues;

    if (!state_get_u64(r, "num_queues", UINT16_MAX, &num_queues, error))
        return false;
    if (num_queues != vdev->num_queues)
        return fail(error, ERR_CORRUPT, "source has %" PRIu64 " queues, this device %u", num_queues,
                    vdev->num_queues);
    for (unsigned i = 0; i < vdev->num_queues; i++)
        if (!virtq_load(vdev->queues[i], r, error))
            return false;
    return true;
}

static bool virtio_post_load(void *obj, uint32_t version, GError **error)
{
    VirtioDevice *vdev = obj;
    uint64_t unknown = vdev->guest_features & ~vdev->host_features;

    /* Until FEATURES_OK a driver may have written anything; that bit means acceptance (3.1.1). */
    if (unknown && (vdev->status & VIRTIO_STATUS_FEATURES_OK))
        return fail(error, ERR_CORRUPT, "the driver uses features 0x%" PRIx64 ", which this device "
                    "does not offer", unknown);
    for (unsigned i = 0; i < vdev->num_queues; i++)
        if (!virtq_check(vdev->queues[i], error))
            return false;
    vdev->broken = vdev->status & VIRTIO_STATUS_NEEDS_RESET;
    /* What derives from the driver's features, without a right to refuse them now. */
    if ((vdev->status & (VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK)) &&
        vdev_ops(vdev)->set_features && !vdev_ops(vdev)->set_features(vdev, vdev->guest_features))
        return fail(error, ERR_CORRUPT, "features 0x%" PRIx64 " do not go together",
                    vdev->guest_features);
    return true;
}

static const StateField virtio_fields[] = {
    FIELD(VirtioDevice, guest_features),
    FIELD(VirtioDevice, status),
    FIELD(VirtioDevice, isr, .max = VIRTIO_ISR_QUEUE | VIRTIO_ISR_CONFIG),
    FIELD(VirtioDevice, config_generation),
    FIELD_FN(VirtioDevice, "queues", save_queues, load_queues),
    {}
};
static const StateTable virtio_state = { .fields = virtio_fields, .post_load = virtio_post_load };

static const Property virtio_props[] = {
    PROP("indirect_desc", VirtioDevice, use_indirect, .def.b = true,
         .help = "offer indirect descriptors"),
    PROP("event_idx", VirtioDevice, use_event_idx, .def.b = true,
         .help = "offer to suppress kicks and interrupts by index"),
    PROP("packed", VirtioDevice, use_packed, .help = "offer the packed ring layout"),
    PROP("queue_reset", VirtioDevice, ring_reset, .def.b = true,
         .help = "offer the reset of a single queue"),
    PROP("iommu_platform", VirtioDevice, iommu_platform,
         .help = "offer VIRTIO_F_ACCESS_PLATFORM: the driver uses the DMA API"),
    PROP("any_layout", VirtioDevice, any_layout, .def.b = true,
         .help = "legacy: requests need not begin with a header of their own"),
    PROP("notify_on_empty", VirtioDevice, notify_on_empty, .def.b = true,
         .help = "legacy: always interrupt when the ring becomes empty"),
    {}
};

static const Type virtio_device_type = {
    .name = "virtio-device", .parent = "device", .help = "virtio device",
    .size = sizeof(VirtioDevice), .abstract = true, .props = virtio_props, .state = &virtio_state,
    .finalize = virtio_device_finalize, .realize = virtio_device_realize,
    .realize_done = virtio_device_realize_done, .unrealize = virtio_device_unrealize,
    .reset = virtio_device_reset,
};
TYPE_REGISTER(virtio_device_type)

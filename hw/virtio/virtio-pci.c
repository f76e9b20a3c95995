/*
 * virtio over PCI (virtio 1.2, 4.1): ids, BARs and capabilities, and the ways of notifications.
 *
 *     BAR 0  the legacy interface's ports, with disable-legacy=off
 *     BAR 1  MSI-X table and pending bits
 *     BAR 4  +0 common configuration, +0x1000 ISR, +0x2000 device configuration,
 *            +0x3000 notification
 *
 * A queue's interrupt leaves the data plane as a write to its vector's eventfd, which KVM turns
 * into the message.  What needs registers (INTx, a vector without irqfd) is done under the VM lock:
 * at once if the caller has it, else by a bottom half of the main loop.
 */
#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>
#include <sys/eventfd.h>
#include "hw/virtio/virtio-pci-int.h"
#include "src/base/util.h"

enum { PCI_VENDOR_VIRTIO = 0x1af4, PCI_DEVICE_MODERN = 0x1040, PCI_SUBSYSTEM = 0x1100 };
enum { BAR_LEGACY = 0, BAR_MSIX = 1, BAR_MODERN = 4 };
enum { STRUCTURE_SIZE = 0x1000, COMMON_AT = 0, ISR_AT = 0x1000, CONFIG_AT = 0x2000,
       NOTIFY_AT = 0x3000 };
enum { NO_VECTOR = VIRTIO_MSI_NO_VECTOR };
enum { PM_CAP_SIZE = 8 };

static const VirtioPciInfo *pci_info(const VirtioPci *p)
{
    return type_ops(p->pci.dev.obj.type);
}

static VirtioPci *from_transport(VirtioTransport *t)
{
    return container_of(t, VirtioPci, transport);
}

/* ---- Interrupts ---- */

static void update_intx(VirtioPci *p)
{
    bool pending = __atomic_load_n(&p->vdev->isr, __ATOMIC_SEQ_CST);

    pci_set_intx(&p->pci, pending && !pci_msix_enabled(&p->pci));
}

uint8_t virtio_pci_take_isr(VirtioPci *p)
{
    uint8_t isr = __atomic_exchange_n(&p->vdev->isr, 0, __ATOMIC_SEQ_CST);

    update_intx(p);
    return isr;
}

static void interrupt_bh(void *opaque)
{
    VirtioPci *p = opaque;

    for (unsigned i = 0; i < pci_msix_vectors(&p->pci); i++)
        if (__atomic_exchange_n(&p->vector_due[i], 0, __ATOMIC_SEQ_CST))
            pci_msix_notify(&p->pci, i);
    update_intx(p);
}

/* By registers: under the VM lock now, or soon. */
static void interrupt_slow(VirtioPci *p, uint16_t vector)
{
    if (vector < pci_msix_vectors(&p->pci))
        __atomic_store_n(&p->vector_due[vector], 1, __ATOMIC_SEQ_CST);
    if (vm_locked(p->pci.dev.machine->lock))
        interrupt_bh(p);
    else
        loop_bh_schedule(&p->interrupt_bh);
}

static void interrupt(VirtioPci *p, uint16_t vector, uint8_t isr)
{
    uint64_t one = 1;

    if (!pci_msix_enabled(&p->pci)) {
        __atomic_fetch_or(&p->vdev->isr, isr, __ATOMIC_SEQ_CST);
        interrupt_slow(p, NO_VECTOR);
    } else if (vector < pci_msix_vectors(&p->pci)) {
        if (!__atomic_load_n(&p->vector_attached[vector], __ATOMIC_ACQUIRE) ||
            write(p->vector_fds[vector], &one, sizeof(one)) < 0)
            interrupt_slow(p, vector);
    }
}

static void notify_queue(VirtioTransport *t, unsigned queue)
{
    VirtioPci *p = from_transport(t);
    interrupt(p, p->vdev->queues[queue]->vector, VIRTIO_ISR_QUEUE);
}

static void notify_config(VirtioTransport *t)
{
    VirtioPci *p = from_transport(t);
    interrupt(p, p->config_vector, VIRTIO_ISR_CONFIG);
}

/* ---- Guest notifiers: eventfd to vector ---- */

static void attach_vector(VirtioPci *p, uint16_t vector)
{
    g_autoptr(GError) error = NULL;

    if (vector >= pci_msix_vectors(&p->pci) || p->vector_attached[vector])
        return;
    if (p->vector_fds[vector] < 0)
        p->vector_fds[vector] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    /* Without an irqfd (no KVM, no descriptors left) interrupts take the slow way. */
    if (p->vector_fds[vector] >= 0 &&
        pci_msix_attach_eventfd(&p->pci, vector, p->vector_fds[vector], &error))
        __atomic_store_n(&p->vector_attached[vector], true, __ATOMIC_RELEASE);
}

static void detach_vector(VirtioPci *p, uint16_t vector)
{
    if (!p->vector_attached[vector])
        return;
    __atomic_store_n(&p->vector_attached[vector], false, __ATOMIC_RELEASE);
    pci_msix_detach_eventfd(&p->pci, vector);
}

/* KVM has no route left for a vector that is unmasked now: from here on it takes the slow way. */
static void vector_changed(PciDevice *dev, unsigned vector, bool masked)
{
    if (!masked && !pci_msix_has_irqfd(dev, vector))
        detach_vector(VIRTIO_PCI(dev), vector);
}

static void intr_batch(VirtioPci *p, bool begin)
{
    IntrController *ic = p->pci.dev.machine->intr;

    if (ic && ic->ops->batch)
        ic->ops->batch(ic, begin);
}

static void set_guest_notifiers(VirtioTransport *t, bool on)
{
    VirtioPci *p = from_transport(t);

    p->guest_notifiers = on;
    intr_batch(p, true);
    for (unsigned i = 0; on && i < p->vdev->num_queues; i++)
        if (p->vdev->queues[i]->enabled)
            attach_vector(p, p->vdev->queues[i]->vector);
    for (unsigned i = 0; !on && i < pci_msix_vectors(&p->pci); i++)
        detach_vector(p, i);
    intr_batch(p, false);
    /* What the data plane has left for the bottom half belongs to the state that is saved now. */
    if (!on)
        interrupt_bh(p);
}

void virtio_pci_set_vector(VirtioPci *p, int queue, uint16_t vector)
{
    /* 4.1.5.1.2: a vector that does not exist reads back as NO_VECTOR. */
    if (vector >= pci_msix_vectors(&p->pci))
        vector = NO_VECTOR;
    if (queue < 0) {
        p->config_vector = vector;
        return;
    }
    __atomic_store_n(&p->vdev->queues[queue]->vector, vector, __ATOMIC_RELAXED);
    if (p->guest_notifiers)
        attach_vector(p, vector);
}

/* ---- Host notifiers: kick to eventfd ---- */

unsigned virtio_pci_notify_multiplier(const VirtioPci *p)
{
    return p->page_per_vq ? 0x1000 : 4;
}

static void set_host_notifier(VirtioTransport *t, unsigned queue, int fd, bool on)
{
    VirtioPci *p = from_transport(t);
    uint64_t offset = queue * virtio_pci_notify_multiplier(p);

    if (!p->ioeventfd)
        return;
    if (p->modern_bar.size && on)
        region_add_ioeventfd(&p->notify, offset, 0, false, 0, fd);
    else if (p->modern_bar.size)
        region_del_ioeventfd(&p->notify, offset, 0, false, 0, fd);
    if (p->legacy.size && on)
        region_add_ioeventfd(&p->legacy, VIRTIO_PCI_QUEUE_NOTIFY, 2, true, queue, fd);
    else if (p->legacy.size)
        region_del_ioeventfd(&p->legacy, VIRTIO_PCI_QUEUE_NOTIFY, 2, true, queue, fd);
}

/* ---- The rest of the transport ---- */

static AddressSpace *transport_dma(VirtioTransport *t)
{
    return pci_dma(&from_transport(t)->pci);
}

static void transport_reset(VirtioTransport *t)
{
    VirtioPci *p = from_transport(t);

    p->device_feature_select = p->driver_feature_select = 0;
    p->queue_select = 0;
    p->config_vector = NO_VECTOR;
    for (unsigned i = 0; i < pci_msix_vectors(&p->pci); i++)
        p->vector_due[i] = 0;
    pci_msix_clear_pending(&p->pci);        /* 2.4.1: no notification after a reset */
    update_intx(p);
}

static const VirtioTransportOps transport_ops = {
    .notify_queue = notify_queue, .notify_config = notify_config, .dma = transport_dma,
    .set_host_notifier = set_host_notifier, .set_guest_notifiers = set_guest_notifiers,
    .reset = transport_reset,
};

static void bus_master_changed(PciDevice *dev)
{
    VirtioPci *p = VIRTIO_PCI(dev);

    if (p->vdev && OBJECT(p->vdev)->realized)
        virtio_update(p->vdev);
}

/* ---- The configuration access capability (4.1.4.9) ---- */

typedef struct CfgWindow {
    const IoOps *ops;
    uint32_t offset;
    unsigned length;
} CfgWindow;

/* What the driver's bar, offset and length select; false: nothing. */
static bool cfg_window(VirtioPci *p, CfgWindow *w)
{
    static const struct {
        uint32_t at;
        const IoOps *ops;
    } structures[] = {
        { COMMON_AT, &virtio_pci_common_ops }, { ISR_AT, &virtio_pci_isr_ops },
        { CONFIG_AT, &virtio_pci_config_ops }, { NOTIFY_AT, &virtio_pci_notify_ops },
    };
    const uint8_t *cap = p->pci.config + p->cfg_cap;
    uint32_t offset = ld_le32(cap + VIRTIO_PCI_CAP_OFFSET);

    w->length = ld_le32(cap + VIRTIO_PCI_CAP_LENGTH);
    if (cap[VIRTIO_PCI_CAP_BAR] != BAR_MODERN || offset >= p->modern_bar.size ||
        (w->length != 1 && w->length != 2 && w->length != 4) || offset % w->length)
        return false;
    unsigned i = MIN(offset / STRUCTURE_SIZE, G_N_ELEMENTS(structures) - 1);
    w->ops = structures[i].ops;
    w->offset = offset - structures[i].at;
    return true;
}

static bool touches_cfg_data(const VirtioPci *p, unsigned offset, unsigned size)
{
    unsigned data = p->cfg_cap + sizeof(struct virtio_pci_cap);

    return p->cfg_cap && offset < data + 4 && offset + size > data;
}

void virtio_pci_config_reading(PciDevice *dev, unsigned offset, unsigned size)
{
    VirtioPci *p = VIRTIO_PCI(dev);
    CfgWindow w;

    if (touches_cfg_data(p, offset, size) && cfg_window(p, &w))
        st_le32(dev->config + p->cfg_cap + sizeof(struct virtio_pci_cap),
                w.ops->read(p, w.offset, w.length));
}

void virtio_pci_config_written(PciDevice *dev, unsigned offset, unsigned size)
{
    VirtioPci *p = VIRTIO_PCI(dev);
    CfgWindow w;

    if (touches_cfg_data(p, offset, size) && cfg_window(p, &w)) {
        uint32_t data = ld_le32(dev->config + p->cfg_cap + sizeof(struct virtio_pci_cap));
        w.ops->write(p, w.offset, data & (UINT32_MAX >> (32 - 8 * w.length)), w.length);
    }
    update_intx(p);                         /* MSI-X Enable may have changed */
}

/* ---- Realize ---- */

static uint8_t add_virtio_cap(VirtioPci *p, uint8_t type, uint32_t offset, uint32_t length,
                              unsigned size)
{
    uint8_t at = pci_add_capability(&p->pci, PCI_CAP_ID_VNDR, size);
    uint8_t *cap = p->pci.config + at;

    cap[VIRTIO_PCI_CAP_LEN] = size;
    cap[VIRTIO_PCI_CAP_CFG_TYPE] = type;
    cap[VIRTIO_PCI_CAP_BAR] = type == VIRTIO_PCI_CAP_PCI_CFG ? 0 : BAR_MODERN;
    st_le32(cap + VIRTIO_PCI_CAP_OFFSET, offset);
    st_le32(cap + VIRTIO_PCI_CAP_LENGTH, length);
    return at;
}

static void add_modern(VirtioPci *p)
{
    Object *obj = OBJECT(p);
    uint64_t notify_size =
        MAX(STRUCTURE_SIZE, p->vdev->num_queues * virtio_pci_notify_multiplier(p));
    uint64_t bar_size = 4 * STRUCTURE_SIZE;
    unsigned cap_size = sizeof(struct virtio_pci_cap);

    while (bar_size < NOTIFY_AT + notify_size)
        bar_size *= 2;
    region_init_container(&p->modern_bar, obj, "virtio-pci", bar_size);
    region_init_io(&p->common, obj, &virtio_pci_common_ops, p, "virtio-pci-common", STRUCTURE_SIZE);
    region_init_io(&p->isr, obj, &virtio_pci_isr_ops, p, "virtio-pci-isr", STRUCTURE_SIZE);
    region_init_io(&p->config, obj, &virtio_pci_config_ops, p, "virtio-pci-device", STRUCTURE_SIZE);
    region_init_io(&p->notify, obj, &virtio_pci_notify_ops, p, "virtio-pci-notify", notify_size);
    region_add(&p->modern_bar, COMMON_AT, &p->common);
    region_add(&p->modern_bar, ISR_AT, &p->isr);
    region_add(&p->modern_bar, CONFIG_AT, &p->config);
    region_add(&p->modern_bar, NOTIFY_AT, &p->notify);
    pci_register_bar(&p->pci, BAR_MODERN, PCI_BAR_MEM64 | PCI_BAR_PREFETCH, &p->modern_bar);

    p->cfg_cap = add_virtio_cap(p, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, cap_size + 4);
    uint8_t *wmask = p->pci.wmask + p->cfg_cap;
    wmask[VIRTIO_PCI_CAP_BAR] = 0xff;
    st_le32(wmask + VIRTIO_PCI_CAP_OFFSET, UINT32_MAX);
    st_le32(wmask + VIRTIO_PCI_CAP_LENGTH, UINT32_MAX);
    st_le32(wmask + cap_size, UINT32_MAX);

    uint8_t notify = add_virtio_cap(p, VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY_AT, notify_size,
                                    cap_size + 4);
    st_le32(p->pci.config + notify + VIRTIO_PCI_NOTIFY_CAP_MULT, virtio_pci_notify_multiplier(p));
    add_virtio_cap(p, VIRTIO_PCI_CAP_DEVICE_CFG, CONFIG_AT, STRUCTURE_SIZE, cap_size);
    add_virtio_cap(p, VIRTIO_PCI_CAP_ISR_CFG, ISR_AT, STRUCTURE_SIZE, cap_size);
    add_virtio_cap(p, VIRTIO_PCI_CAP_COMMON_CFG, COMMON_AT, STRUCTURE_SIZE, cap_size);
}

static bool add_msix(VirtioPci *p, GError **error)
{
    unsigned vectors = p->vectors;
    uint64_t bar_size = 0x1000;

    if (vectors == UINT32_MAX)
        vectors = pci_info(p)->vectors ? pci_info(p)->vectors(p->vdev) : p->vdev->num_queues + 1;
    if (!vectors)
        return true;
    if (vectors > 2048)
        return fail(error, ERR_INVALID_PARAMETER, "property 'vectors' is at most 2048, not %u",
                    vectors);
    while (bar_size / 2 < vectors * PCI_MSIX_ENTRY_SIZE)
        bar_size *= 2;
    region_init_container(&p->msix_bar, OBJECT(p), "virtio-pci-msix", bar_size);
    if (!pci_msix_init(&p->pci, vectors, BAR_MSIX, &p->msix_bar, 0, bar_size / 2, error))
        return false;
    pci_register_bar(&p->pci, BAR_MSIX, PCI_BAR_MEM, &p->msix_bar);
    p->vector_fds = g_new(int, vectors);
    memset(p->vector_fds, 0xff, vectors * sizeof(int));
    p->vector_attached = g_new0(bool, vectors);
    p->vector_due = g_new0(uint8_t, vectors);
    p->pci.msix_changed = vector_changed;
    return true;
}

/* A link needs the PCI Express and power management capabilities; a root complex's own bus not. */
static void add_express(VirtioPci *p)
{
    uint8_t pm;

    if (!pci_bus_is_express(&p->pci) || !p->pci.dev.bus->parent ||
        !object_is_a(OBJECT(p->pci.dev.bus->parent), "pci-bridge-base"))
        return;
    pcie_add_endpoint_capability(&p->pci);
    pm = pci_add_capability(&p->pci, PCI_CAP_ID_PM, PM_CAP_SIZE);
    st_le16(p->pci.config + pm + PCI_PM_PMC, 3);        /* version of PCI PM 1.2 */
    st_le16(p->pci.config + pm + PCI_PM_CTRL, PCI_PM_CTRL_NO_SOFT_RESET);
    st_le16(p->pci.wmask + pm + PCI_PM_CTRL, PCI_PM_CTRL_STATE_MASK);
}

static void set_ids(VirtioPci *p, bool transitional)
{
    uint16_t id = ((const VirtioDeviceOps *)type_ops(OBJECT(p->vdev)->type))->device_id;
    uint8_t *c = p->pci.config;

    st_le16(c + PCI_VENDOR_ID, PCI_VENDOR_VIRTIO);
    st_le16(c + PCI_SUBSYSTEM_VENDOR_ID, PCI_VENDOR_VIRTIO);
    /* 4.1.2.1, and for transitional devices 4.1.2.3: revision 0, the type as subsystem id. */
    st_le16(c + PCI_DEVICE_ID,
            transitional ? pci_info(p)->legacy_device_id : PCI_DEVICE_MODERN + id);
    st_le16(c + PCI_SUBSYSTEM_ID, transitional ? id : PCI_SUBSYSTEM);
    c[PCI_REVISION_ID] = transitional ? 0 : 1;
}

/* "auto": no legacy interface, unless there would be none at all. */
static bool choose_interfaces(VirtioPci *p, GError **error)
{
    VirtioDevice *vdev = p->vdev;

    vdev->legacy = p->disable_legacy == ON_OFF_OFF ||
                   (p->disable_legacy == ON_OFF_AUTO && p->disable_modern);
    vdev->modern = !p->disable_modern;
    if (!vdev->legacy && !vdev->modern) {
        fail(error, ERR_INVALID_PARAMETER,
             "disable-modern=on and disable-legacy=on leave no interface");
        return error_hint(error, "disable-modern=off is what drivers of virtio 1.0 and later need");
    }
    if (vdev->legacy && !pci_info(p)->legacy_device_id)
        return fail(error, ERR_UNSUPPORTED,
                    "'%s' has no legacy interface: disable-legacy must be on",
                    p->pci.dev.obj.type->name);
    if (vdev->use_packed && !vdev->modern)
        return fail(error, ERR_INVALID_PARAMETER,
                    "packed needs the modern interface: disable-modern must be off");
    /* A legacy driver cannot accept it (6.2): bit 33 is beyond what it sees. */
    if (vdev->iommu_platform && vdev->legacy)
        return fail(error, ERR_INVALID_PARAMETER,
                    "iommu_platform is not for the legacy interface: disable-legacy must be on");
    return true;
}

static bool virtio_pci_realize(Object *obj, GError **error)
{
    VirtioPci *p = VIRTIO_PCI(obj);

    if (!choose_interfaces(p, error))
        return false;
    p->vdev->dev.machine = p->pci.dev.machine;
    p->vdev->transport = &p->transport;
    loop_bh_init(&p->interrupt_bh, loop_main(), interrupt_bh, p);
    if (!object_realize(OBJECT(p->vdev), error))
        return false;

    set_ids(p, p->vdev->legacy);
    p->pci.intx_pin = 1;
    p->config_vector = NO_VECTOR;
    p->pci.bus_master_changed = bus_master_changed;
    if (!add_msix(p, error)) {
        object_unrealize(OBJECT(p->vdev));
        region_destroy(&p->msix_bar);
        return false;
    }
    if (p->vdev->legacy) {
        virtio_pci_init_legacy(p, virtio_config_size(p->vdev));
        pci_register_bar(&p->pci, BAR_LEGACY, PCI_BAR_IO, &p->legacy);
    }
    if (p->vdev->modern)
        add_modern(p);
    add_express(p);
    return true;
}

static void virtio_pci_unrealize(Object *obj)
{
    VirtioPci *p = VIRTIO_PCI(obj);

    if (OBJECT(p->vdev)->realized) {
        virtio_shut_down(p->vdev);
        object_unrealize(OBJECT(p->vdev));
    }
    if (p->interrupt_bh.loop)
        loop_bh_cancel(&p->interrupt_bh);
    for (unsigned i = 0; p->vector_fds && i < pci_msix_vectors(&p->pci); i++)
        if (p->vector_fds[i] >= 0)
            close(p->vector_fds[i]);
    g_clear_pointer(&p->vector_fds, g_free);
    g_clear_pointer(&p->vector_attached, g_free);
    g_clear_pointer(&p->vector_due, g_free);
    pci_msix_uninit(&p->pci);
    memory_begin();
    region_destroy(&p->common);
    region_destroy(&p->isr);
    region_destroy(&p->config);
    region_destroy(&p->notify);
    region_destroy(&p->modern_bar);
    region_destroy(&p->msix_bar);
    region_destroy(&p->legacy);
    memory_commit();
    p->cfg_cap = 0;
}

static void virtio_pci_reset(Object *obj)
{
    virtio_reset(VIRTIO_PCI(obj)->vdev);
}

static void virtio_pci_init(Object *obj)
{
    VirtioPci *p = VIRTIO_PCI(obj);

    p->transport = (VirtioTransport){ .ops = &transport_ops };
    p->vdev = VIRTIO_DEVICE(object_new_by_name(pci_info(p)->device, NULL));
    g_return_if_fail(p->vdev);
    p->transport.vdev = p->vdev;
    object_add_child(obj, "virtio-backend", OBJECT(p->vdev), NULL);
    object_set_forward(obj, OBJECT(p->vdev));
}

static void virtio_pci_finalize(Object *obj)
{
    object_unref(VIRTIO_PCI(obj)->vdev);
}

/* ---- State ---- */

static bool virtio_pci_post_load(void *obj, uint32_t version, GError **error)
{
    VirtioPci *p = obj;

    if (p->config_vector != NO_VECTOR && p->config_vector >= pci_msix_vectors(&p->pci))
        return fail(error, ERR_CORRUPT, "configuration vector %u does not exist", p->config_vector);
    return true;
}

static const StateField virtio_pci_fields[] = {
    FIELD(VirtioPci, device_feature_select),
    FIELD(VirtioPci, driver_feature_select),
    FIELD(VirtioPci, queue_select),
    FIELD(VirtioPci, config_vector),
    {}
};
static const StateTable virtio_pci_state = { .fields = virtio_pci_fields,
                                             .post_load = virtio_pci_post_load };

#define DISABLE_LEGACY(value)                                                                      \
    PROP_OF("disable-legacy", VirtioPci, disable_legacy, prop_on_off_auto, .def.i = (value),       \
            .help = "no legacy (virtio 0.9) interface")
const Property virtio_pci_non_transitional_props[] = { DISABLE_LEGACY(ON_OFF_ON), {} };
const Property virtio_pci_transitional_props[] = { DISABLE_LEGACY(ON_OFF_OFF), {} };

static const Property virtio_pci_props[] = {
    DISABLE_LEGACY(ON_OFF_AUTO),
    PROP("disable-modern", VirtioPci, disable_modern, .help = "no virtio 1 interface"),
    PROP("vectors", VirtioPci, vectors, .def.u = UINT32_MAX,
         .help = "MSI-X vectors; 0: none; by default one a queue and one more"),
    PROP("ioeventfd", VirtioPci, ioeventfd, .def.b = true,
         .help = "kicks reach the device's thread without the VM lock"),
    PROP("page-per-vq", VirtioPci, page_per_vq, .help = "each queue has a notification page"),
    {}
};

static const Type virtio_pci_type = {
    .name = "virtio-pci", .parent = "pci-device", .help = "virtio over PCI",
    .size = sizeof(VirtioPci), .abstract = true, .props = virtio_pci_props,
    .state = &virtio_pci_state, .init = virtio_pci_init, .finalize = virtio_pci_finalize,
    .realize = virtio_pci_realize, .unrealize = virtio_pci_unrealize, .reset = virtio_pci_reset,
};
TYPE_REGISTER(virtio_pci_type)

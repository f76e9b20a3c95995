/*
 * MSI-X (PCI 3.0, 6.8.2): the vector table and the Pending Bit Array, in a BAR of the device.
 *
 * A vector can be raised from another thread through an eventfd: while the vector is unmasked, KVM
 * turns writes to the eventfd into the message by itself.  While it is masked nothing reads the
 * eventfd: its count is the pending bit, which we look at when the guest reads the PBA or unmasks.
 */
#include <linux/pci_regs.h>
#include <poll.h>
#include "hw/pci/pci-int.h"
#include "src/base/trace.h"
#include "src/base/util.h"

typedef struct MsixVector {
    int fd;                                 /* -1: none; not owned */
    int route;                              /* -1: none */
    bool irqfd;                             /* KVM listens to fd */
    bool masked;                            /* as last seen by msix_changed */
} MsixVector;

struct PciMsix {
    PciDevice *dev;
    uint8_t cap;
    unsigned vectors;
    Region table_region, pba_region;
    uint8_t *table;                         /* PCI_MSIX_ENTRY_SIZE bytes each */
    uint8_t *pba;                           /* a bit each, in quadwords */
    MsixVector *vector;
};

static unsigned pba_bytes(unsigned vectors)
{
    return ALIGN_UP(vectors, 64) / 8;
}

static uint16_t msix_control(const PciDevice *dev)
{
    return ld_le16(dev->config + dev->msix->cap + PCI_MSIX_FLAGS);
}

bool pci_msix_enabled(const PciDevice *dev)
{
    return dev->msix && (msix_control(dev) & PCI_MSIX_FLAGS_ENABLE);
}

unsigned pci_msix_vectors(const PciDevice *dev)
{
    return dev->msix ? dev->msix->vectors : 0;
}

bool pci_msix_masked(const PciDevice *dev, unsigned vector)
{
    const uint8_t *entry = dev->msix->table + vector * PCI_MSIX_ENTRY_SIZE;

    return (msix_control(dev) & PCI_MSIX_FLAGS_MASKALL) ||
           (entry[PCI_MSIX_ENTRY_VECTOR_CTRL] & PCI_MSIX_ENTRY_CTRL_MASKBIT);
}

void pci_msix_message(const PciDevice *dev, unsigned vector, uint64_t *address, uint32_t *data)
{
    const uint8_t *entry = dev->msix->table + vector * PCI_MSIX_ENTRY_SIZE;

    *address = ld_le64(entry + PCI_MSIX_ENTRY_LOWER_ADDR);
    *data = ld_le32(entry + PCI_MSIX_ENTRY_DATA);
}

/* ---- Pending bits and sending ---- */

void pci_msix_set_pending(PciDevice *dev, unsigned vector)
{
    dev->msix->pba[vector / 8] |= 1u << vector % 8;
}

static void send_message(PciDevice *dev, unsigned vector)
{
    IntrController *ic = dev->dev.machine->intr;
    uint64_t address;
    uint32_t data;

    /* A message is a memory write: it needs bus mastering (6.8.3.4). */
    if (!ic || !pci_bus_master(dev))
        return;
    pci_msix_message(dev, vector, &address, &data);
    TRACE(pci_msix_send, "%s vector %u: 0x%" PRIx64 " = 0x%x", dev->dev.obj.name, vector, address,
          data);
    ic->ops->send_msi(ic, address, data);
}

void pci_msix_notify(PciDevice *dev, unsigned vector)
{
    if (!pci_msix_enabled(dev) || vector >= dev->msix->vectors)
        return;
    if (pci_msix_masked(dev, vector))
        pci_msix_set_pending(dev, vector);
    else
        send_message(dev, vector);
}

/* Takes what was written to a vector's eventfd while nobody listened. */
static bool take_eventfd(MsixVector *v)
{
    struct pollfd p = { .fd = v->fd, .events = POLLIN };
    uint64_t count;

    return v->fd >= 0 && !v->irqfd && poll(&p, 1, 0) == 1 &&
           read(v->fd, &count, sizeof(count)) == sizeof(count);
}

static void collect_pending(PciDevice *dev)
{
    for (unsigned i = 0; i < dev->msix->vectors; i++)
        if (take_eventfd(&dev->msix->vector[i]))
            pci_msix_set_pending(dev, i);
}

void pci_msix_clear_pending(PciDevice *dev)
{
    if (!dev->msix)
        return;
    collect_pending(dev);
    memset(dev->msix->pba, 0, pba_bytes(dev->msix->vectors));
}

/* ---- Eventfds ---- */

static void irqfd_off(PciDevice *dev, MsixVector *v)
{
    IntrController *ic = dev->dev.machine->intr;

    if (v->irqfd)
        ic->ops->irqfd_del(ic, v->route, v->fd);
    v->irqfd = false;
}

static void route_off(PciDevice *dev, MsixVector *v)
{
    IntrController *ic = dev->dev.machine->intr;

    irqfd_off(dev, v);
    if (v->route >= 0)
        ic->ops->route_del(ic, v->route);
    v->route = -1;
}

static bool irqfd_on(PciDevice *dev, unsigned vector, GError **error)
{
    IntrController *ic = dev->dev.machine->intr;
    MsixVector *v = &dev->msix->vector[vector];
    uint64_t address;
    uint32_t data;

    if (v->irqfd)
        return true;
    if (!ic || !ic->ops->route_add || !ic->ops->irqfd_add)
        return fail(error, ERR_UNSUPPORTED, "the interrupt controller has no irqfds");
    pci_msix_message(dev, vector, &address, &data);
    if (v->route >= 0) {
        ic->ops->route_update(ic, v->route, address, data);
    } else {
        v->route = ic->ops->route_add(ic, address, data, error);
        if (v->route < 0)
            return false;
    }
    v->irqfd = ic->ops->irqfd_add(ic, v->route, v->fd, error);
    return v->irqfd;
}

bool pci_msix_attach_eventfd(PciDevice *dev, unsigned vector, int fd, GError **error)
{
    MsixVector *v;

    if (!dev->msix || vector >= dev->msix->vectors)
        return fail(error, ERR_INVALID_PARAMETER, "MSI-X vector %u does not exist", vector);
    v = &dev->msix->vector[vector];
    if (v->fd >= 0)
        return fail(error, ERR_IN_USE, "MSI-X vector %u has an eventfd already", vector);
    v->fd = fd;
    if (pci_msix_enabled(dev) && !pci_msix_masked(dev, vector) && !irqfd_on(dev, vector, error)) {
        route_off(dev, v);
        v->fd = -1;
        return false;
    }
    return true;
}

void pci_msix_detach_eventfd(PciDevice *dev, unsigned vector)
{
    MsixVector *v;

    if (!dev->msix || vector >= dev->msix->vectors)
        return;
    v = &dev->msix->vector[vector];
    route_off(dev, v);
    if (take_eventfd(v)) {
        if (!pci_msix_enabled(dev) || pci_msix_masked(dev, vector))
            pci_msix_set_pending(dev, vector);
        else
            send_message(dev, vector);
    }
    v->fd = -1;
}

bool pci_msix_has_irqfd(const PciDevice *dev, unsigned vector)
{
    return dev->msix->vector[vector].irqfd;
}

/* ---- Masks ---- */

/* Brings one vector in line with the mask bits and MSI-X Enable. */
static void update_vector(PciDevice *dev, unsigned vector)
{
    MsixVector *v = &dev->msix->vector[vector];
    uint8_t *pending = &dev->msix->pba[vector / 8];
    bool masked = !pci_msix_enabled(dev) || pci_msix_masked(dev, vector);

    if (masked == v->masked)
        return;
    v->masked = masked;
    if (masked) {
        irqfd_off(dev, v);
    } else {
        /* What the eventfd has is the same bit: one message for both. */
        if (take_eventfd(v) || *pending & 1u << vector % 8) {
            *pending &= ~(1u << vector % 8);
            send_message(dev, vector);
        }
        g_autoptr(GError) cause = NULL;
        if (v->fd >= 0 && !irqfd_on(dev, vector, &cause))
            warn_report("%s: MSI-X vector %u: %s", dev->dev.obj.name, vector, cause->message);
    }
    if (dev->msix_changed)
        dev->msix_changed(dev, vector, masked);
}

void pci_msix_config_changed(PciDevice *dev)
{
    for (unsigned i = 0; dev->msix && i < dev->msix->vectors; i++)
        update_vector(dev, i);
}

/* ---- Registers ---- */

static uint64_t table_read(void *opaque, uint64_t offset, unsigned size)
{
    PciMsix *m = opaque;
    return size == 8 ? ld_le64(m->table + offset) : ld_le32(m->table + offset);
}

static void table_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    PciMsix *m = opaque;
    unsigned vector = offset / PCI_MSIX_ENTRY_SIZE;
    uint8_t *entry = m->table + vector * PCI_MSIX_ENTRY_SIZE;
    MsixVector *v = &m->vector[vector];

    if (size == 8)
        st_le64(m->table + offset, value);
    else
        st_le32(m->table + offset, value);
    /* 6.8.2.9: the other bits of Vector Control are reserved, and must read as written before. */
    st_le32(entry + PCI_MSIX_ENTRY_VECTOR_CTRL,
            ld_le32(entry + PCI_MSIX_ENTRY_VECTOR_CTRL) & PCI_MSIX_ENTRY_CTRL_MASKBIT);
    st_le32(entry, ld_le32(entry) & ~3u);
    update_vector(m->dev, vector);
    if (v->irqfd) {
        IntrController *ic = m->dev->dev.machine->intr;
        uint64_t address;
        uint32_t data;
        pci_msix_message(m->dev, vector, &address, &data);
        ic->ops->route_update(ic, v->route, address, data);
    }
}

static uint64_t pba_read(void *opaque, uint64_t offset, unsigned size)
{
    PciMsix *m = opaque;

    collect_pending(m->dev);
    return size == 8 ? ld_le64(m->pba + offset) : ld_le32(m->pba + offset);
}

static void pba_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    /* 6.8.2.10: software should never write; the result is undefined. */
}

static const IoOps table_ops = {
    .read = table_read, .write = table_write, .guest = { .min = 4, .max = 8 },
    .device = { .min = 4, .max = 8 },
};
static const IoOps pba_ops = {
    .read = pba_read, .write = pba_write, .guest = { .min = 4, .max = 8 },
    .device = { .min = 4, .max = 8 },
};

/* ---- Life ---- */

bool pci_msix_init(PciDevice *dev, unsigned vectors, unsigned bar, Region *bar_region,
                   uint32_t table_offset, uint32_t pba_offset, GError **error)
{
    if (vectors < 1 || vectors > PCI_MSIX_FLAGS_QSIZE + 1)
        return fail(error, ERR_INVALID_PARAMETER, "MSI-X has 1 to 2048 vectors, not %u", vectors);
    if (table_offset + (uint64_t)vectors * PCI_MSIX_ENTRY_SIZE > bar_region->size ||
        pba_offset + pba_bytes(vectors) > bar_region->size)
        return fail(error, ERR_LIMIT, "%u MSI-X vectors do not fit into BAR %u", vectors, bar);

    PciMsix *m = g_new0(PciMsix, 1);
    m->dev = dev;
    m->vectors = vectors;
    m->table = g_malloc0(vectors * PCI_MSIX_ENTRY_SIZE);
    m->pba = g_malloc0(pba_bytes(vectors));
    m->vector = g_new(MsixVector, vectors);
    for (unsigned i = 0; i < vectors; i++)
        m->vector[i] = (MsixVector){ .fd = -1, .route = -1, .masked = true };
    region_init_io(&m->table_region, OBJECT(dev), &table_ops, m, "msix-table",
                   vectors * PCI_MSIX_ENTRY_SIZE);
    region_init_io(&m->pba_region, OBJECT(dev), &pba_ops, m, "msix-pba", pba_bytes(vectors));
    region_add(bar_region, table_offset, &m->table_region);
    region_add(bar_region, pba_offset, &m->pba_region);

    m->cap = pci_add_capability(dev, PCI_CAP_ID_MSIX, PCI_CAP_MSIX_SIZEOF);
    st_le16(dev->config + m->cap + PCI_MSIX_FLAGS, vectors - 1);
    st_le16(dev->wmask + m->cap + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    st_le32(dev->config + m->cap + PCI_MSIX_TABLE, table_offset | bar);
    st_le32(dev->config + m->cap + PCI_MSIX_PBA, pba_offset | bar);
    dev->msix = m;
    pci_msix_reset(dev);
    return true;
}

void pci_msix_uninit(PciDevice *dev)
{
    PciMsix *m = dev->msix;

    if (!m)
        return;
    for (unsigned i = 0; i < m->vectors; i++)
        pci_msix_detach_eventfd(dev, i);
    region_destroy(&m->table_region);
    region_destroy(&m->pba_region);
    g_free(m->table);
    g_free(m->pba);
    g_free(m->vector);
    g_free(m);
    dev->msix = NULL;
}

void pci_msix_reset(PciDevice *dev)
{
    PciMsix *m = dev->msix;

    if (!m)
        return;
    pci_msix_config_changed(dev);           /* the control register is reset already */
    pci_msix_clear_pending(dev);
    memset(m->table, 0, m->vectors * PCI_MSIX_ENTRY_SIZE);
    /* 6.8.2.9: masked after a reset. */
    for (unsigned i = 0; i < m->vectors; i++)
        m->table[i * PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_VECTOR_CTRL] =
            PCI_MSIX_ENTRY_CTRL_MASKBIT;
}

/* ---- State ---- */

void pci_msix_save(void *obj, StateWriter *w)
{
    PciDevice *dev = obj;
    PciMsix *m = dev->msix;

    collect_pending(dev);
    state_put_bytes(w, "msix-table", m->table, m->vectors * PCI_MSIX_ENTRY_SIZE);
    state_put_bytes(w, "msix-pba", m->pba, pba_bytes(m->vectors));
}

static bool get_exactly(StateReader *r, const char *name, uint8_t *data, size_t length,
                        GError **error)
{
    size_t there;

    if (!state_get_bytes(r, name, data, length, &there, error))
        return false;
    if (there != length)
        return fail(error, ERR_CORRUPT, "%s has %zu bytes, not %zu", name, there, length);
    return true;
}

bool pci_msix_load(void *obj, StateReader *r, GError **error)
{
    PciDevice *dev = obj;
    PciMsix *m = dev->msix;
    size_t size = m->vectors * PCI_MSIX_ENTRY_SIZE;
    g_autofree uint8_t *table = g_malloc(size);
    g_autofree uint8_t *pba = g_malloc(pba_bytes(m->vectors));

    if (!get_exactly(r, "msix-table", table, size, error) ||
        !get_exactly(r, "msix-pba", pba, pba_bytes(m->vectors), error))
        return false;
    for (unsigned i = 0; i < m->vectors; i++) {
        const uint8_t *entry = table + i * PCI_MSIX_ENTRY_SIZE;
        if ((ld_le32(entry) & 3) || (ld_le32(entry + PCI_MSIX_ENTRY_VECTOR_CTRL) &
                                     ~(uint32_t)PCI_MSIX_ENTRY_CTRL_MASKBIT))
            return fail(error, ERR_CORRUPT, "MSI-X vector %u has reserved bits set", i);
    }
    memcpy(m->table, table, size);
    memcpy(m->pba, pba, pba_bytes(m->vectors));
    return true;
}

/*
 * Interrupts through KVM: the in-kernel PIC, IOAPIC and PIT ("on"), or LAPICs only ("split"), the
 * table of GSI routes, MSIs and irqfds.
 *
 * GSIs 0 … 23 are the IOAPIC's inputs.  With the kernel's IOAPIC the ISA lines among them go to the
 * PIC, too.  In a split irqchip they carry the messages that the userspace IOAPIC would send: KVM
 * takes no interrupts by them, but learns which vectors' EOIs it has to report.  A route is a GSI
 * from 24 on.
 */
#include <errno.h>
#include "src/kvm/kvm-int.h"

#define IOAPIC_PINS 24
#define PIC_PINS 8

typedef struct Message {
    bool used;
    uint64_t address;
    uint32_t data;
} Message;

struct KvmIntr {
    IntrController ic;
    Kvm *kvm;
    Message messages[IOAPIC_PINS];          /* split: of the userspace IOAPIC's pins */
    GArray *routes;                         /* of Message; [0] is GSI 24 */
    unsigned max_gsi;
    bool created;                           /* the kernel has its chips */
    unsigned batch;                         /* depth of batches */
    bool routed;                            /* it has our routes */
    bool stale;                             /* the kernel's table is not ours */
};

static KvmIntr *intr_of(IntrController *ic)
{
    return container_of(ic, KvmIntr, ic);
}

static void put_chip(GArray *table, unsigned gsi, unsigned chip, unsigned pin)
{
    struct kvm_irq_routing_entry e = {
        .gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = { .irqchip = chip, .pin = pin },
    };
    g_array_append_val(table, e);
}

static void put_message(GArray *table, unsigned gsi, const Message *m)
{
    struct kvm_irq_routing_entry e = {
        .gsi = gsi, .type = KVM_IRQ_ROUTING_MSI,
        .u.msi = { .address_lo = m->address, .address_hi = m->address >> 32, .data = m->data },
    };
    if (m->used)
        g_array_append_val(table, e);
}

/* ISA line 0, the PIT, is wired to the IOAPIC's input 2, which the PIC's cascade leaves free. */
static void put_chips(GArray *table)
{
    for (unsigned gsi = 0; gsi < 2 * PIC_PINS; gsi++)
        put_chip(table, gsi, gsi < PIC_PINS ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
                 gsi % PIC_PINS);
    for (unsigned gsi = 0; gsi < IOAPIC_PINS; gsi++)
        if (gsi != 2)
            put_chip(table, gsi, KVM_IRQCHIP_IOAPIC, gsi == 0 ? 2 : gsi);
}

static int commit(KvmIntr *intr)
{
    if (intr->batch || !intr->created) {
        intr->stale = true;
        return 0;
    }
    const size_t head = offsetof(struct kvm_irq_routing, entries);
    const size_t entry = sizeof(struct kvm_irq_routing_entry);
    G_STATIC_ASSERT(offsetof(struct kvm_irq_routing, entries) <
                    sizeof(struct kvm_irq_routing_entry));
    /* The header lies at the end of a spare first entry, so that the entries are an array. */
    g_autoptr(GArray) table = g_array_new(false, true, entry);
    g_array_set_size(table, 1);
    if (intr->ic.ops->kernel_ioapic)
        put_chips(table);
    else
        for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
            put_message(table, pin, &intr->messages[pin]);
    for (unsigned i = 0; i < intr->routes->len; i++)
        put_message(table, IOAPIC_PINS + i, &g_array_index(intr->routes, Message, i));

    struct kvm_irq_routing *arg = (void *)(table->data + entry - head);
    arg->nr = table->len - 1;
    arg->flags = 0;
    int r = kvm_ioctl(intr->kvm->vm_fd, KVM_SET_GSI_ROUTING, arg);
    TRACE(kvm_routing, "%u entries: %d", arg->nr, r);
    intr->stale = false;
    intr->routed = true;
    return r;
}

static void commit_or_warn(KvmIntr *intr)
{
    int r = commit(intr);
    if (r < 0)
        warn_report("KVM_SET_GSI_ROUTING: %s", g_strerror(-r));
}

static void set_gsi(IntrController *ic, unsigned gsi, bool level)
{
    struct kvm_irq_level arg = { .irq = gsi, .level = level };
    if (!intr_of(ic)->created && !level)    /* a device's first reset: the line is low anyway */
        return;
    if (gsi == 0 && level && !intr_of(ic)->routed)      /* a HPET in the PIT's place; VM lock */
        commit_or_warn(intr_of(ic));
    int r = kvm_ioctl(intr_of(ic)->kvm->vm_fd, KVM_IRQ_LINE, &arg);
    TRACE(kvm_set_gsi, "gsi %u level %d: %d", gsi, level, r);
}

static void send_msi(IntrController *ic, uint64_t address, uint32_t data)
{
    struct kvm_msi arg = { .address_lo = address, .address_hi = address >> 32, .data = data };
    int r = kvm_ioctl(intr_of(ic)->kvm->vm_fd, KVM_SIGNAL_MSI, &arg);
    TRACE(kvm_msi, "address 0x%" G_GINT64_MODIFIER "x data 0x%x: %d", address, data, r);
}

static int route_add(IntrController *ic, uint64_t address, uint32_t data, GError **error)
{
    KvmIntr *intr = intr_of(ic);
    Message m = { .used = true, .address = address, .data = data };
    unsigned i = 0;
    while (i < intr->routes->len && g_array_index(intr->routes, Message, i).used)
        i++;
    if (IOAPIC_PINS + i >= intr->max_gsi) {
        fail(error, ERR_LIMIT, "KVM routes %u interrupts at most", intr->max_gsi);
        return -1;
    }
    if (i == intr->routes->len)
        g_array_set_size(intr->routes, i + 1);
    g_array_index(intr->routes, Message, i) = m;
    int r = commit(intr);
    if (r < 0) {
        g_array_index(intr->routes, Message, i).used = false;
        fail_errno(error, -r, "KVM refuses an interrupt route");
        return -1;
    }
    return IOAPIC_PINS + i;
}

static Message *route_of(KvmIntr *intr, int route)
{
    unsigned i = route - IOAPIC_PINS;
    return i < intr->routes->len ? &g_array_index(intr->routes, Message, i) : NULL;
}

static void route_update(IntrController *ic, int route, uint64_t address, uint32_t data)
{
    KvmIntr *intr = intr_of(ic);
    Message *m = route_of(intr, route);
    if (!m || (m->used && m->address == address && m->data == data))
        return;
    *m = (Message){ .used = true, .address = address, .data = data };
    commit_or_warn(intr);
}

/* The kernel keeps the entry until the next commit: nothing refers to it any more. */
static void route_del(IntrController *ic, int route)
{
    KvmIntr *intr = intr_of(ic);
    Message *m = route_of(intr, route);
    if (m)
        m->used = false;
}

static bool irqfd(Kvm *kvm, unsigned gsi, int fd, int resample, unsigned flags, GError **error)
{
    struct kvm_irqfd arg = { .fd = fd, .gsi = gsi, .flags = flags };
    if (resample >= 0) {
        arg.flags |= KVM_IRQFD_FLAG_RESAMPLE;
        arg.resamplefd = resample;
    }
    int r = kvm_ioctl(kvm->vm_fd, KVM_IRQFD, &arg);
    TRACE(kvm_irqfd, "gsi %u fd %d flags %u: %d", gsi, fd, arg.flags, r);
    return r >= 0 || fail_errno(error, -r, "KVM refuses an interrupt eventfd for GSI %u", gsi);
}

static bool irqfd_add(IntrController *ic, int route, int eventfd, GError **error)
{
    return irqfd(intr_of(ic)->kvm, route, eventfd, -1, 0, error);
}

static void irqfd_del(IntrController *ic, int route, int eventfd)
{
    irqfd(intr_of(ic)->kvm, route, eventfd, -1, KVM_IRQFD_FLAG_DEASSIGN, NULL);
}

bool kvm_irqfd_resample(Kvm *kvm, unsigned gsi, int eventfd, int resample, GError **error)
{
    return irqfd(kvm, gsi, eventfd, resample, 0, error);
}

static void batch(IntrController *ic, bool begin)
{
    KvmIntr *intr = intr_of(ic);
    if (begin)
        intr->batch++;
    else if (intr->batch && --intr->batch == 0 && intr->stale)
        commit_or_warn(intr);
}

static void ioapic_route(IntrController *ic, unsigned pin, bool masked, uint64_t address,
                         uint32_t data)
{
    KvmIntr *intr = intr_of(ic);
    if (pin >= IOAPIC_PINS)
        return;
    Message m = { .used = !masked, .address = address, .data = data }, *old = &intr->messages[pin];
    if (old->used == m.used && (!m.used || (old->address == address && old->data == data)))
        return;
    *old = m;
    commit_or_warn(intr);
}

void kvm_intr_eoi(KvmIntr *intr, unsigned vector)
{
    if (!intr || !intr->ic.eoi)
        return;
    vm_lock(intr->kvm->env.lock);
    intr->ic.eoi(intr->ic.eoi_opaque, vector);
    vm_unlock(intr->kvm->env.lock);
}

static const IntrOps full_ops = {
    .set_gsi = set_gsi, .send_msi = send_msi, .route_add = route_add, .route_update = route_update,
    .route_del = route_del, .irqfd_add = irqfd_add, .irqfd_del = irqfd_del, .batch = batch,
    .kernel_ioapic = true, .kernel_pic = true,
};

static void no_gsi(IntrController *ic, unsigned gsi, bool level)
{
    TRACE(kvm_no_gsi, "gsi %u level %d: the IOAPIC is the machine's", gsi, level);
}

static void set_extint(IntrController *ic, bool level)
{
    kvm_set_extint(intr_of(ic)->kvm, level);
}

static const IntrOps split_ops = {
    .set_gsi = no_gsi, .send_msi = send_msi, .route_add = route_add, .route_update = route_update,
    .route_del = route_del, .irqfd_add = irqfd_add, .irqfd_del = irqfd_del, .batch = batch,
    .ioapic_route = ioapic_route, .set_extint = set_extint,
};

static bool create_full(KvmIntr *intr, GError **error)
{
    int r = kvm_ioctl(intr->kvm->vm_fd, KVM_CREATE_IRQCHIP, NULL);
    if (r < 0)
        return fail_errno(error, -r, "cannot create KVM's interrupt controllers");
    intr->created = true;
    return true;
}

/* KVM starts with routes that differ from ours in ISA line 0 only, which timers alone drive. */
bool kvm_intr_route_lines(KvmIntr *intr, GError **error)
{
    int r = intr->routed ? 0 : commit(intr);
    return r >= 0 || fail_errno(error, -r, "cannot set KVM's interrupt routes");
}

/* Kernels wait milliseconds for an SRCU grace period when memory slots come after the devices of
 * the chips, and microseconds the other way round: so the first vCPU brings the chips along. */
bool kvm_intr_create(KvmIntr *intr, GError **error)
{
    return !intr || intr->created || create_full(intr, error);
}

static bool create_split(Kvm *kvm, GError **error)
{
    struct kvm_enable_cap cap = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { IOAPIC_PINS } };
    int r = kvm_ioctl(kvm->vm_fd, KVM_ENABLE_CAP, &cap);
    if (r >= 0)
        return true;
    fail_errno(error, -r, "the host's KVM has no split irqchip");
    return error_hint(error, "use kernel-irqchip=on");
}

KvmIntr *kvm_intr_new(Kvm *kvm, GError **error)
{
    bool split = kvm->irqchip == KVM_IRQCHIP_SPLIT;
    if (split && !create_split(kvm, error))
        return NULL;
    KvmIntr *intr = g_new0(KvmIntr, 1);
    intr->kvm = kvm;
    intr->ic.ops = split ? &split_ops : &full_ops;
    intr->routes = g_array_new(false, true, sizeof(Message));
    int max = kvm_ioctl(kvm->vm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_IRQ_ROUTING);
    intr->max_gsi = max > 0 ? max : 1024;   /* KVM_CAP_IRQ_ROUTING counts them since Linux 2.6.30 */
    intr->created = split;                  /* and its table of routes is empty */
    return intr;
}

void kvm_intr_free(KvmIntr *intr)
{
    if (!intr)
        return;
    g_array_unref(intr->routes);
    g_free(intr);
}

IntrController *kvm_intr_controller(KvmIntr *intr)
{
    return &intr->ic;
}

/*
 * KVM's interval timer, made when the guest first touches one of its ports: its making costs
 * start-up some grace periods of the kernel, and a kernel that has better timers never asks for it.
 *
 * The access that asks is the only one that comes here; the following ones stay in the kernel.  It
 * is carried out on the state of the fresh timer (82C54 data sheet; port 0x61: ICH9 data sheet,
 * 13.7.1).
 */
#include "src/kvm/kvm-int.h"

enum {
    PIT_COUNTER0 = 0x40, PIT_COUNTER2 = 0x42, PIT_CONTROL = 0x43, PORT_61 = 0x61,
    CONTROL_READBACK = 3, MODE_MAX = 5,
};

static bool is_wanted(const Kvm *kvm)
{
    return kvm->irqchip == KVM_IRQCHIP_ON && kvm_intr_controller(kvm->intr)->pit;
}

bool kvm_pit_create(Kvm *kvm, GError **error)
{
    if (kvm->pit_created || !is_wanted(kvm))
        return true;
    if (!kvm_intr_route_lines(kvm->intr, error))
        return false;
    struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
    int r = kvm_ioctl(kvm->vm_fd, KVM_CREATE_PIT2, &pit);
    TRACE(kvm_pit, "created: %d", r);
    if (r < 0)
        return fail_errno(error, -r, "cannot create KVM's interval timer");
    kvm->pit_created = true;
    r = kvm_ioctl(kvm->vm_fd, KVM_GET_PIT2, &kvm->pit_reset);
    return r >= 0 || fail_errno(error, -r, "cannot read KVM's interval timer");
}

static void control_write(struct kvm_pit_state2 *pit, uint8_t value)
{
    unsigned n = value >> 6, access = value >> 4 & 3, mode = value >> 1 & 7;
    if (n == CONTROL_READBACK || !access)   /* latches: of a counter that does not count yet */
        return;
    struct kvm_pit_channel_state *c = &pit->channels[n];
    c->rw_mode = c->read_state = c->write_state = access;
    c->mode = mode > MODE_MAX ? mode - 4 : mode;
    c->bcd = value & 1;
}

static void first_write(Kvm *kvm, uint16_t port, uint8_t value)
{
    struct kvm_pit_state2 pit = kvm->pit_reset;
    if (port == PIT_CONTROL) {
        control_write(&pit, value);
    } else if (port == PORT_61) {
        pit.channels[2].gate = value & 1;
        if (value & 2)
            pit.flags |= KVM_PIT_FLAGS_SPEAKER_DATA_ON;
    } else {
        pit.channels[port - PIT_COUNTER0].count = value;
    }
    kvm_ioctl(kvm->vm_fd, KVM_SET_PIT2, &pit);
}

bool kvm_pit_access(Kvm *kvm, uint16_t port, uint8_t *data, unsigned size, bool write)
{
    if (G_LIKELY(port > PORT_61 || port < PIT_COUNTER0 || (port > PIT_CONTROL && port < PORT_61)) ||
        !is_wanted(kvm))
        return false;
    g_autoptr(GError) error = NULL;
    vm_lock(kvm->env.lock);
    bool first = !kvm->pit_created;
    if (!kvm_pit_create(kvm, &error))
        error_report(error);
    else if (first && write)
        first_write(kvm, port, data[0]);
    vm_unlock(kvm->env.lock);
    if (!write)
        memset(data, 0, size);
    return true;
}

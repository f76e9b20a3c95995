/*
 * The state of a VM that belongs to no vCPU: KVM's PIC, IOAPIC and PIT, and the guest's clock.  The
 * object /machine/kvm carries it.  The structures are the kernel's ABI (asm/kvm.h), fixed for good.
 */
#include "src/kvm/kvm-int.h"

/* Chips by KVM_IRQCHIP_*: two PICs and the IOAPIC. */
typedef struct VmState {
    struct kvm_irqchip chip[KVM_NR_IRQCHIPS];
    struct kvm_pit_state2 pit;
    uint64_t clock_ns;
} VmState;

typedef struct KvmVm {
    Object obj;
    Kvm *kvm;
    VmState *state;                         /* being saved or loaded */
} KvmVm;

static bool has_chips(const Kvm *kvm)
{
    return kvm->irqchip == KVM_IRQCHIP_ON;
}

static int get_state(Kvm *kvm, VmState *state)
{
    int r = 0;
    for (unsigned i = 0; has_chips(kvm) && i < KVM_NR_IRQCHIPS && r >= 0; i++) {
        state->chip[i].chip_id = i;
        r = kvm_ioctl(kvm->vm_fd, KVM_GET_IRQCHIP, &state->chip[i]);
    }
    if (r >= 0 && kvm->pit_created)
        r = kvm_ioctl(kvm->vm_fd, KVM_GET_PIT2, &state->pit);
    return r;
}

static int set_state(Kvm *kvm, VmState *state)
{
    int r = 0;
    for (unsigned i = 0; has_chips(kvm) && i < KVM_NR_IRQCHIPS && r >= 0; i++)
        r = kvm_ioctl(kvm->vm_fd, KVM_SET_IRQCHIP, &state->chip[i]);
    if (r >= 0 && kvm->pit_created)
        r = kvm_ioctl(kvm->vm_fd, KVM_SET_PIT2, &state->pit);
    return r;
}

/* The first call comes before the guest has run: what is there then is the state after RESET. */
void vm_state_reset(Kvm *kvm)
{
    int r;
    if (kvm->reset_state) {
        kvm->reset_state->pit = kvm->pit_reset;
        r = set_state(kvm, kvm->reset_state);
    } else {
        kvm->reset_state = g_new0(VmState, 1);
        r = get_state(kvm, kvm->reset_state);
    }
    if (r < 0)
        warn_report("cannot reset KVM's interrupt controllers: %s", g_strerror(-r));
}

/* ---- as a state table ---- */

static void vm_pre_save(void *obj)
{
    KvmVm *vm = obj;
    g_autoptr(GError) error = NULL;
    if (!kvm_pit_create(vm->kvm, &error))
        error_report(error);
    int r = get_state(vm->kvm, vm->state);
    if (r < 0)
        warn_report("cannot read KVM's interrupt controllers: %s", g_strerror(-r));
    struct kvm_clock_data clock = vm->kvm->clock;
    if (!vm->kvm->clock_valid)
        kvm_ioctl(vm->kvm->vm_fd, KVM_GET_CLOCK, &clock);
    vm->state->clock_ns = clock.clock;
}

static bool vm_post_load(void *obj, uint32_t version, GError **error)
{
    KvmVm *vm = obj;
    for (unsigned i = 0; i < KVM_NR_IRQCHIPS; i++)
        vm->state->chip[i].chip_id = i;
    if (!kvm_pit_create(vm->kvm, error))
        return false;
    int r = set_state(vm->kvm, vm->state);
    if (r < 0)
        return fail_errno(error, -r, "KVM refuses the state of its interrupt controllers");
    vm->kvm->clock = (struct kvm_clock_data){ .clock = vm->state->clock_ns };
    vm->kvm->clock_valid = true;
    return true;
}

static bool vm_has_chips(void *obj)
{
    return has_chips(((KvmVm *)obj)->kvm);
}

static const struct {
    const char *name;
    size_t size;
} chips[KVM_NR_IRQCHIPS] = {
    [KVM_IRQCHIP_PIC_MASTER] = { "pic_master", sizeof(struct kvm_pic_state) },
    [KVM_IRQCHIP_PIC_SLAVE] = { "pic_slave", sizeof(struct kvm_pic_state) },
    [KVM_IRQCHIP_IOAPIC] = { "ioapic", sizeof(struct kvm_ioapic_state) },
};

static void save_chips(void *obj, StateWriter *w)
{
    VmState *s = ((KvmVm *)obj)->state;
    for (unsigned i = 0; i < KVM_NR_IRQCHIPS; i++)
        state_put_bytes(w, chips[i].name, &s->chip[i].chip, chips[i].size);
    state_put_bytes(w, "pit", &s->pit, sizeof(s->pit));
}

static bool get_exactly(StateReader *r, const char *name, void *data, size_t length, GError **error)
{
    size_t got;
    if (!state_get_bytes(r, name, data, length, &got, error))
        return false;
    return got == length ||
           fail(error, ERR_CORRUPT, "%s has %zu bytes, not %zu", name, got, length);
}

static bool load_chips(void *obj, StateReader *r, GError **error)
{
    VmState *s = ((KvmVm *)obj)->state;
    for (unsigned i = 0; i < KVM_NR_IRQCHIPS; i++)
        if (!get_exactly(r, chips[i].name, &s->chip[i].chip, chips[i].size, error))
            return false;
    return get_exactly(r, "pit", &s->pit, sizeof(s->pit), error);
}

static void save_clock(void *obj, StateWriter *w)
{
    state_put_u64(w, "ns", ((KvmVm *)obj)->state->clock_ns);
}

static bool load_clock(void *obj, StateReader *r, GError **error)
{
    return state_get_u64(r, "ns", INT64_MAX, &((KvmVm *)obj)->state->clock_ns, error);
}

static const StateField vm_fields[] = {
    FIELD_FN(KvmVm, "irqchip", save_chips, load_chips, .needed = vm_has_chips),
    FIELD_FN(KvmVm, "clock", save_clock, load_clock),
    {}
};
static const StateTable vm_table = {
    .fields = vm_fields, .pre_save = vm_pre_save, .post_load = vm_post_load,
};

static void vm_finalize(Object *obj)
{
    g_free(((KvmVm *)obj)->state);
}

static const Type kvm_vm_type = {
    .name = "kvm-vm", .help = "interrupt controllers and clock of KVM's virtual machine",
    .size = sizeof(KvmVm), .state = &vm_table, .finalize = vm_finalize,
};
TYPE_REGISTER(kvm_vm_type)

bool kvm_add_vm_object(Kvm *kvm, Object *machine, GError **error)
{
    KvmVm *vm = (KvmVm *)object_new(&kvm_vm_type);
    vm->kvm = kvm;
    vm->state = g_new0(VmState, 1);
    bool ok = object_add_child(machine, "kvm", OBJECT(vm), error) &&
              object_realize(OBJECT(vm), error);
    object_unref(vm);
    return ok;
}

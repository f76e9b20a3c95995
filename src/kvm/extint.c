/*
 * ExtINT in a split irqchip: the machine's own PIC asks, and the boot CPU takes the vector from it
 * as soon as its LINT0 is set to ExtINT and its flags allow it (SDM vol. 3, 10.5.1).  KVM tells of
 * that after KVM_RUN (ready_for_interrupt_injection) or, asked to, by ending it
 * (request_interrupt_window).
 *
 * A vector that KVM was given is out of our sight until the guest takes it, and no state that is
 * saved has it.  So it is given just before KVM_RUN only, and not when that is to end at once.
 */
#include "src/kvm/kvm-int.h"

static bool wanted(const Kvm *kvm)
{
    return __atomic_load_n(&kvm->extint, __ATOMIC_SEQ_CST);
}

void kvm_set_extint(Kvm *kvm, bool level)
{
    Vcpu *boot_cpu = kvm_vcpu(kvm, 0);

    if (wanted(kvm) == level)
        return;
    __atomic_store_n(&kvm->extint, level, __ATOMIC_SEQ_CST);
    TRACE(kvm_extint, "level %d", level);
    if (level && boot_cpu && boot_cpu->thread != g_thread_self())
        vcpu_kick(boot_cpu);
}

static void give(Vcpu *vcpu)
{
    Kvm *kvm = vcpu->kvm;
    IntrController *ic = kvm_intr_controller(kvm->intr);

    vm_lock(kvm->env.lock);
    if (wanted(kvm) && ic->acknowledge) {
        struct kvm_interrupt arg = { .irq = ic->acknowledge(ic->acknowledge_opaque) };
        int r = kvm_ioctl(vcpu->fd, KVM_INTERRUPT, &arg);
        TRACE(kvm_interrupt, "vector 0x%02x: %d", arg.irq, r);
        vcpu->run->ready_for_interrupt_injection = false;
    }
    vm_unlock(kvm->env.lock);
}

void vcpu_offer_extint(Vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;

    if (vcpu->index != 0)
        return;
    if (wanted(vcpu->kvm) && run->ready_for_interrupt_injection &&
        !__atomic_load_n(&run->immediate_exit, __ATOMIC_SEQ_CST))
        give(vcpu);
    run->request_interrupt_window = wanted(vcpu->kvm);
}

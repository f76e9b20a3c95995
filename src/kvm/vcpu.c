/*
 * vCPU threads: each is in KVM_RUN, or handles an exit, or is parked.
 *
 * Who wants a vCPU out of KVM_RUN sets, under kvm->mutex, what it wants and run->immediate_exit,
 * and sends the kick signal if the thread is inside.  KVM_RUN then completes the I/O of the last
 * exit and returns EINTR; only there does the thread look at what is wanted, so a parked vCPU never
 * has half an instruction pending.
 *
 * kvm_block is stronger and shorter: nobody is in KVM_RUN, not even to complete an instruction.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "src/kvm/kvm-int.h"

#define KICK_SIGNAL SIGUSR1

typedef struct Work {
    void (*fn)(Vcpu *vcpu, void *opaque);
    void *opaque;
    bool done;
} Work;

static void on_kick(int sig)
{
    /* Its arrival ends KVM_RUN; there is nothing to do. */
}

static void install_kick(void)
{
    struct sigaction act = { .sa_handler = on_kick };   /* no SA_RESTART */
    sigaction(KICK_SIGNAL, &act, NULL);
}

/* kvm->mutex held, and what is wanted is written. */
static void kick(Vcpu *vcpu)
{
    __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&vcpu->in_run, __ATOMIC_SEQ_CST) && vcpu->thread != g_thread_self())
        pthread_kill(vcpu->pthread, KICK_SIGNAL);
    g_cond_signal(&vcpu->wake);
}

void vcpu_kick(Vcpu *vcpu)
{
    g_mutex_lock(&vcpu->kvm->mutex);
    kick(vcpu);
    g_mutex_unlock(&vcpu->kvm->mutex);
}

/* The VM lock is given up while a vCPU that may need it is waited for. */
static bool vm_lock_release(Kvm *kvm)
{
    bool held = vm_locked(kvm->env.lock);
    if (held)
        vm_unlock(kvm->env.lock);
    return held;
}

static void vm_lock_regain(Kvm *kvm, bool held)
{
    if (held)
        vm_lock(kvm->env.lock);
}

/* ---- entering the guest ---- */

static void leave_run(Kvm *kvm, Vcpu *vcpu)
{
    __atomic_store_n(&vcpu->in_run, false, __ATOMIC_SEQ_CST);
    if (G_UNLIKELY(__atomic_load_n(&kvm->blocked, __ATOMIC_SEQ_CST))) {
        g_mutex_lock(&kvm->mutex);
        g_cond_broadcast(&kvm->changed);
        g_mutex_unlock(&kvm->mutex);
    }
}

static void enter_run(Kvm *kvm, Vcpu *vcpu)
{
    for (;;) {
        __atomic_store_n(&vcpu->in_run, true, __ATOMIC_SEQ_CST);
        if (G_LIKELY(!__atomic_load_n(&kvm->blocked, __ATOMIC_SEQ_CST)))
            return;
        leave_run(kvm, vcpu);
        g_mutex_lock(&kvm->mutex);
        while (kvm->blocked)
            g_cond_wait(&kvm->changed, &kvm->mutex);
        g_mutex_unlock(&kvm->mutex);
    }
}

static bool in_run_elsewhere(Kvm *kvm)
{
    for (unsigned i = 0; i < kvm->vcpus->len; i++) {
        Vcpu *vcpu = kvm->vcpus->pdata[i];
        if (__atomic_load_n(&vcpu->in_run, __ATOMIC_SEQ_CST))
            return true;
    }
    return false;
}

void kvm_block(Kvm *kvm)
{
    g_mutex_lock(&kvm->mutex);
    __atomic_add_fetch(&kvm->blocked, 1, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < kvm->vcpus->len; i++)
        kick(kvm->vcpus->pdata[i]);
    while (in_run_elsewhere(kvm))
        g_cond_wait(&kvm->changed, &kvm->mutex);
    g_mutex_unlock(&kvm->mutex);
}

void kvm_unblock(Kvm *kvm)
{
    g_mutex_lock(&kvm->mutex);
    __atomic_sub_fetch(&kvm->blocked, 1, __ATOMIC_SEQ_CST);
    g_cond_broadcast(&kvm->changed);
    g_mutex_unlock(&kvm->mutex);
}

/* Until it was kicked (true), or has nothing to run (false). */
static bool run_guest(Vcpu *vcpu)
{
    for (;;) {
        if (vcpu->kvm->irqchip == KVM_IRQCHIP_SPLIT)
            vcpu_offer_extint(vcpu);
        enter_run(vcpu->kvm, vcpu);
        int r = ioctl(vcpu->fd, KVM_RUN, NULL), err = r < 0 ? errno : 0;
        leave_run(vcpu->kvm, vcpu);
        vcpu_drain_coalesced(vcpu);
        if (err == EINTR || err == EAGAIN)
            return true;
        if (err) {
            vcpu_fail(vcpu, "KVM_RUN: %s", g_strerror(err));
            return false;
        }
        if (!vcpu_handle_exit(vcpu))
            return false;
    }
}

/* ---- the thread ---- */

static bool do_work(Vcpu *vcpu)
{
    Work *work = g_queue_pop_head(&vcpu->work);
    if (!work)
        return false;
    g_mutex_unlock(&vcpu->kvm->mutex);
    work->fn(vcpu, work->opaque);
    g_mutex_lock(&vcpu->kvm->mutex);
    work->done = true;
    g_cond_broadcast(&vcpu->kvm->changed);
    return true;
}

static void unblock_kick(void)
{
    sigset_t set;
    sigfillset(&set);
    sigdelset(&set, KICK_SIGNAL);
    pthread_sigmask(SIG_SETMASK, &set, NULL);
}

static gpointer vcpu_thread(gpointer opaque)
{
    Vcpu *vcpu = opaque;
    Kvm *kvm = vcpu->kvm;
    unblock_kick();
    g_mutex_lock(&kvm->mutex);
    vcpu->thread = g_thread_self();
    vcpu->pthread = pthread_self();
    vcpu->tid = gettid();
    g_cond_broadcast(&kvm->changed);
    for (;;) {
        __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
        if (do_work(vcpu))
            continue;
        if (vcpu->quit)
            break;
        if (!kvm->running || vcpu->waiting) {
            vcpu->parked = true;
            g_cond_broadcast(&kvm->changed);
            g_cond_wait(&vcpu->wake, &kvm->mutex);
            continue;
        }
        vcpu->parked = false;
        g_mutex_unlock(&kvm->mutex);
        bool kicked = run_guest(vcpu);
        g_mutex_lock(&kvm->mutex);
        vcpu->waiting = !kicked;
    }
    vcpu->parked = true;
    g_mutex_unlock(&kvm->mutex);
    return NULL;
}

void vcpu_call(Vcpu *vcpu, void (*fn)(Vcpu *vcpu, void *opaque), void *opaque)
{
    Kvm *kvm = vcpu->kvm;
    if (vcpu->thread == g_thread_self()) {
        fn(vcpu, opaque);
        return;
    }
    bool held = vm_lock_release(kvm);
    Work work = { fn, opaque, false };
    g_mutex_lock(&kvm->mutex);
    g_queue_push_tail(&vcpu->work, &work);
    kick(vcpu);
    while (!work.done)
        g_cond_wait(&kvm->changed, &kvm->mutex);
    g_mutex_unlock(&kvm->mutex);
    vm_lock_regain(kvm, held);
}

/* ---- all vCPUs ---- */

static bool all_parked(const Kvm *kvm)
{
    for (unsigned i = 0; i < kvm->vcpus->len; i++)
        if (!((Vcpu *)kvm->vcpus->pdata[i])->parked)
            return false;
    return true;
}

/*
 * A stopped guest's clock stands still.  The guest is told (KVM_KVMCLOCK_CTRL), so that its
 * watchdogs do not take the pause for a lockup; EINVAL says that it uses no kvmclock.
 */
static void clock_stop(Kvm *kvm)
{
    kvm->clock_valid = kvm_ioctl(kvm->vm_fd, KVM_GET_CLOCK, &kvm->clock) >= 0;
}

static void clock_start(Kvm *kvm)
{
    if (!kvm->clock_valid)
        return;
    struct kvm_clock_data clock = { .clock = kvm->clock.clock };
    kvm_ioctl(kvm->vm_fd, KVM_SET_CLOCK, &clock);
    for (unsigned i = 0; i < kvm->vcpus->len; i++)
        kvm_ioctl(kvm_vcpu(kvm, i)->fd, KVM_KVMCLOCK_CTRL, NULL);
    kvm->clock_valid = false;
}

void kvm_vcpus_start(Kvm *kvm)
{
    if (kvm->running)
        return;
    kvm_slots_apply(kvm->slots);
    clock_start(kvm);
    g_mutex_lock(&kvm->mutex);
    __atomic_store_n(&kvm->running, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < kvm->vcpus->len; i++) {
        Vcpu *vcpu = kvm->vcpus->pdata[i];
        vcpu->waiting = vcpu->parked = vcpu->pristine = false;
        g_cond_signal(&vcpu->wake);
    }
    g_mutex_unlock(&kvm->mutex);
}

void kvm_vcpus_stop(Kvm *kvm)
{
    if (!kvm->running)
        return;
    bool held = vm_lock_release(kvm);
    g_mutex_lock(&kvm->mutex);
    __atomic_store_n(&kvm->running, false, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < kvm->vcpus->len; i++)
        kick(kvm->vcpus->pdata[i]);
    while (!all_parked(kvm))
        g_cond_wait(&kvm->changed, &kvm->mutex);
    g_mutex_unlock(&kvm->mutex);
    vm_lock_regain(kvm, held);
    clock_stop(kvm);
}

void kvm_vcpus_reset(Kvm *kvm)
{
    for (unsigned i = 0; i < kvm->vcpus->len; i++)
        vcpu_reset(kvm->vcpus->pdata[i]);
    vm_state_reset(kvm);
}

/* ---- one vCPU ---- */

static bool vcpu_create(Vcpu *vcpu, const CpuModel *model, GError **error)
{
    Kvm *kvm = vcpu->kvm;
    kvm_slots_apply(kvm->slots);
    if (!kvm_intr_create(kvm->intr, error))
        return false;
    vcpu->fd = kvm_ioctl(kvm->vm_fd, KVM_CREATE_VCPU, GUINT_TO_POINTER(vcpu->apic_id));
    if (vcpu->fd < 0)
        return fail_errno(error, -vcpu->fd, "cannot create vCPU %u (APIC id %u)", vcpu->index,
                          vcpu->apic_id);
    void *run = mmap(NULL, kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (run == MAP_FAILED)
        return fail_errno(error, errno, "cannot map the run area of vCPU %u", vcpu->index);
    vcpu->run = run;
    if (kvm->coalesced_page)
        vcpu->ring = (void *)((char *)run + kvm->coalesced_page * 4096);
    vcpu->cpuid = cpu_model_table(model, kvm, vcpu->index, &vcpu->smp, error);
    if (!vcpu->cpuid)
        return false;
    int r = kvm_ioctl(vcpu->fd, KVM_SET_CPUID2, vcpu->cpuid);
    if (r < 0)
        return fail_errno(error, -r, "KVM refuses the CPUID of vCPU %u", vcpu->index);
    return cpu_model_set_msrs(model, vcpu->fd, vcpu->index == 0, error);
}

static void vcpu_free(Vcpu *vcpu)
{
    vcpu_detach_object(vcpu);
    if (vcpu->run)
        munmap(vcpu->run, vcpu->kvm->run_size);
    if (vcpu->fd >= 0)
        close(vcpu->fd);
    g_cond_clear(&vcpu->wake);
    cpu_state_free(vcpu->reset_state);
    g_free(vcpu->cpuid);
    g_free(vcpu);
}

/* Made with all signals blocked but the kick, so that the others find the main thread.  Nobody
 * waits until the host has time for it: that is done where it matters. */
static void start_thread(Vcpu *vcpu)
{
    Kvm *kvm = vcpu->kvm;
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    g_autofree char *name = g_strdup_printf("CPU %u/KVM", vcpu->index);
    g_mutex_lock(&kvm->mutex);
    vcpu->thread = g_thread_new(name, vcpu_thread, vcpu);
    g_mutex_unlock(&kvm->mutex);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

Vcpu *kvm_vcpu_new(Kvm *kvm, unsigned index, uint32_t apic_id, const SmpTopology *smp,
                   const CpuModel *model, GError **error)
{
    if (index != kvm->vcpus->len) {
        fail(error, ERR_INVALID_PARAMETER, "vCPU %u made out of order", index);
        return NULL;
    }
    if (index > 0 && kvm->irqchip == KVM_IRQCHIP_OFF) {
        fail(error, ERR_UNSUPPORTED, "several CPUs need KVM's LAPICs to start one another");
        error_hint(error, "use kernel-irqchip=on or split");
        return NULL;
    }
    if (apic_id >= 0xff) {                  /* 0xff is the broadcast (SDM vol. 3, 10.6.2.1) */
        fail(error, ERR_UNSUPPORTED, "vCPU %u would have APIC id %u: 254 is the last", index,
             apic_id);
        error_hint(error, "use fewer CPUs, or numbers of cores and threads that are powers of two");
        return NULL;
    }
    if (index == 0)
        install_kick();
    Vcpu *vcpu = g_new0(Vcpu, 1);
    vcpu->kvm = kvm;
    vcpu->fd = -1;
    vcpu->index = index;
    vcpu->apic_id = apic_id;
    vcpu->smp = *smp;
    vcpu->model = model;
    g_cond_init(&vcpu->wake);
    g_queue_init(&vcpu->work);
    if (!vcpu_create(vcpu, model, error)) {
        vcpu_free(vcpu);
        return NULL;
    }
    start_thread(vcpu);
    vcpu_reset(vcpu);
    g_ptr_array_add(kvm->vcpus, vcpu);
    return vcpu;
}

void kvm_vcpus_destroy(Kvm *kvm)
{
    kvm_vcpus_stop(kvm);
    bool held = vm_lock_release(kvm);
    for (unsigned i = 0; i < kvm->vcpus->len; i++) {
        Vcpu *vcpu = kvm->vcpus->pdata[i];
        g_mutex_lock(&kvm->mutex);
        vcpu->quit = true;
        g_cond_signal(&vcpu->wake);
        g_mutex_unlock(&kvm->mutex);
        g_thread_join(vcpu->thread);
    }
    vm_lock_regain(kvm, held);
    for (unsigned i = 0; i < kvm->vcpus->len; i++)
        vcpu_free(kvm->vcpus->pdata[i]);
    g_ptr_array_set_size(kvm->vcpus, 0);
}

unsigned kvm_vcpu_count(const Kvm *kvm)
{
    return kvm->vcpus->len;
}

Vcpu *kvm_vcpu(const Kvm *kvm, unsigned index)
{
    return index < kvm->vcpus->len ? kvm->vcpus->pdata[index] : NULL;
}

pid_t vcpu_thread_id(const Vcpu *vcpu)
{
    Kvm *kvm = vcpu->kvm;
    g_mutex_lock(&kvm->mutex);
    while (!vcpu->tid)
        g_cond_wait(&kvm->changed, &kvm->mutex);
    g_mutex_unlock(&kvm->mutex);
    return vcpu->tid;
}

uint32_t vcpu_apic_id(const Vcpu *vcpu)
{
    return vcpu->apic_id;
}

static void read_halted(Vcpu *vcpu, void *opaque)
{
    struct kvm_mp_state mp = { 0 };
    kvm_ioctl(vcpu->fd, KVM_GET_MP_STATE, &mp);
    *(bool *)opaque = mp.mp_state != KVM_MP_STATE_RUNNABLE;
}

bool vcpu_halted(Vcpu *vcpu)
{
    bool halted = false;
    vcpu_call(vcpu, read_halted, &halted);
    return halted;
}

/* Through LINT1, as the board's NMI pin is wired: if the guest has set it to NMI (SDM vol. 3,
 * 10.5.1). */
static void inject_nmi(Vcpu *vcpu, void *opaque)
{
    enum { LVT_LINT1 = 0x360, DELIVERY_MODE = 7 << 8, DELIVERY_NMI = 4 << 8, MASKED = 1 << 16 };
    struct kvm_lapic_state lapic;
    if (vcpu->kvm->irqchip != KVM_IRQCHIP_OFF &&
        kvm_ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic) >= 0) {
        uint32_t lvt;
        memcpy(&lvt, lapic.regs + LVT_LINT1, sizeof(lvt));
        if ((lvt & MASKED) || (lvt & DELIVERY_MODE) != DELIVERY_NMI)
            return;
    }
    kvm_ioctl(vcpu->fd, KVM_NMI, NULL);
}

void kvm_inject_nmi(Kvm *kvm, unsigned cpu)
{
    Vcpu *vcpu = kvm_vcpu(kvm, cpu);
    if (vcpu)
        vcpu_call(vcpu, inject_nmi, NULL);
}

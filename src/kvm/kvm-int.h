/*
 * What the files of the accelerator share.
 *
 * Locks: the VM lock, then kvm->mutex.  kvm->mutex guards who runs; it is never held in KVM_RUN, in
 * a device, or while the VM lock is waited for.
 */
#pragma once
#include <linux/kvm.h>
#include "src/base/trace.h"
#include "src/base/util.h"
#include "src/kvm/kvm.h"

typedef struct KvmSlots KvmSlots;
typedef struct KvmIntr KvmIntr;
typedef struct CpuState CpuState;

typedef struct MsrList {
    unsigned count;
    uint32_t *index;
} MsrList;

struct Kvm {
    int fd, vm_fd;
    KvmIrqchip irqchip;
    KvmEnv env;
    AddressSpace *memory, *io;              /* NULL until kvm_attach_memory */
    KvmSlots *slots;
    KvmIntr *intr;                          /* NULL: irqchip off */
    size_t run_size;                        /* of a vCPU's shared pages */
    unsigned coalesced_page;                /* in them; 0: not offered */
    unsigned xsave_size;                    /* of KVM_GET_XSAVE2 */
    bool has_sregs2;
    bool pit_created;                       /* VM lock */
    struct kvm_pit_state2 pit_reset;        /* as made */
    struct FeatureSet *features;            /* what the host offers; fetched on first use */
    MsrList msrs;                           /* fetched on first use */
    GPtrArray *vcpus;                       /* of Vcpu, by index */
    GThread *asking;                        /* it fetches @supported, until kvm_supported_cpuid */
    struct kvm_cpuid2 *supported;           /* KVM_GET_SUPPORTED_CPUID; NULL: fetched on first use */
    struct VmState *reset_state;            /* interrupt controllers as after RESET */
    struct kvm_clock_data clock;            /* as of the last stop */
    bool clock_valid;

    GMutex mutex;
    GCond changed;                          /* a vCPU parked, left KVM_RUN, or did its work */
    bool running;                           /* mutex */
    bool extint;                            /* atomic; written under the VM lock: extint.c */
    int blocked;                            /* atomic; while > 0, nobody enters KVM_RUN */
};

struct Vcpu {
    Kvm *kvm;
    unsigned index;
    uint32_t apic_id;
    int fd;
    SmpTopology smp;
    struct kvm_run *run;
    struct kvm_coalesced_mmio_ring *ring;   /* NULL: none */
    GThread *thread;
    pthread_t pthread;
    pid_t tid;
    struct kvm_cpuid2 *cpuid;               /* as the guest sees it */
    const CpuModel *model;                  /* outlives the vCPU */
    bool pristine;                          /* as reset_state has it */
    CpuState *reset_state;                  /* as after RESET; state.c */
    Object *object;                         /* not counted; NULL before kvm_add_objects */

    bool in_run;                            /* atomic: inside KVM_RUN, or about to be */
    /* kvm->mutex */
    GCond wake;
    GQueue work;
    bool parked;                            /* not running until told so */
    bool waiting;                           /* reset, failed or halted: until the next start */
    bool quit;
};

/* ioctl with EINTR tried again; -errno on failure. */
int kvm_ioctl(int fd, unsigned long request, void *arg);

/* slots.c: a MemoryListener each for memory and I/O. */
KvmSlots *kvm_slots_new(Kvm *kvm);
void kvm_slots_free(KvmSlots *slots);
void kvm_slots_attach(KvmSlots *slots);
/* Makes KVM's slots as the map is.  While vCPUs run that is so after each commit; before anything
 * else that needs guest memory it must be called.  NULL is fine.  VM lock. */
void kvm_slots_apply(KvmSlots *slots);

/* irq.c */
KvmIntr *kvm_intr_new(Kvm *kvm, GError **error);
bool kvm_intr_create(KvmIntr *intr, GError **error);    /* the kernel's chips, if not there yet */
void kvm_intr_free(KvmIntr *intr);
IntrController *kvm_intr_controller(KvmIntr *intr);
/* An irqfd for @gsi that also signals @resample when the guest ends a level interrupt. */
bool kvm_irqfd_resample(Kvm *kvm, unsigned gsi, int eventfd, int resample, GError **error);
void kvm_intr_eoi(KvmIntr *intr, unsigned vector);

/* With all routes of ours, if not there yet. */
bool kvm_intr_route_lines(KvmIntr *intr, GError **error);

/* pit.c: the timer in the kernel, if there is to be one and it is not there yet.  VM lock. */
bool kvm_pit_create(Kvm *kvm, GError **error);
/* True: the port is the timer's, and the access was carried out.  vCPU thread. */
bool kvm_pit_access(Kvm *kvm, uint16_t port, uint8_t *data, unsigned size, bool write);

/* extint.c: interrupts of a PIC that is the machine's own.  VM lock. */
void kvm_set_extint(Kvm *kvm, bool level);
/* Before KVM_RUN: gives the vCPU such an interrupt, or has it say when it can take one. */
void vcpu_offer_extint(Vcpu *vcpu);

/* vcpu.c.  Nobody is in KVM_RUN between these two; any thread, VM lock held. */
void kvm_block(Kvm *kvm);
void kvm_unblock(Kvm *kvm);
/* Ends KVM_RUN once, so that the thread looks at what there is for it.  Any thread. */
void vcpu_kick(Vcpu *vcpu);
/* Runs @fn in the vCPU's thread, its last exit completed, and waits for it; the VM lock is dropped
 * while waiting.  At once if called there. */
void vcpu_call(Vcpu *vcpu, void (*fn)(Vcpu *vcpu, void *opaque), void *opaque);

/* exit.c: acts on vcpu->run after KVM_RUN.  False: the vCPU waits until it is started anew. */
bool vcpu_handle_exit(Vcpu *vcpu);
/* Carries out the writes to coalesced regions that KVM has collected. */
void vcpu_drain_coalesced(Vcpu *vcpu);
/* An exit or error that leaves nothing to run: logs registers and code, and tells the VM. */
void vcpu_fail(Vcpu *vcpu, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* state.c */
CpuState *cpu_state_new(Kvm *kvm);
void cpu_state_free(CpuState *state);
bool cpu_state_get(Vcpu *vcpu, CpuState *state, GError **error);
bool cpu_state_set(Vcpu *vcpu, const CpuState *state, GError **error);
void vcpu_reset(Vcpu *vcpu);
const MsrList *kvm_msr_list(Kvm *kvm);

/* vm-state.c: the parts of the VM that are no vCPU's, back to their state after RESET. */
void vm_state_reset(Kvm *kvm);
bool kvm_add_vm_object(Kvm *kvm, Object *machine, GError **error);

/* cpu-object.c: the object lives on without its vCPU. */
void vcpu_detach_object(Vcpu *vcpu);

/* cpuid.c */
const struct kvm_cpuid2 *kvm_supported_cpuid(Kvm *kvm, GError **error);
/* Begins to ask for it beside what else there is to do; kvm_supported_cpuid waits for the answer. */
void kvm_ask_supported_cpuid(Kvm *kvm);
/* The table a vCPU gets; g_free. */
struct kvm_cpuid2 *cpu_model_table(const CpuModel *model, Kvm *kvm, unsigned index,
                                   const SmpTopology *smp, GError **error);
/* Sets the feature MSRs.  Some hosts (PVM) offer more than they take: that is an error with
 * "enforce" only. */
bool cpu_model_set_msrs(const CpuModel *model, int vcpu_fd, bool first, GError **error);

/*
 * The KVM accelerator: one VM, its vCPU threads, interrupt routing, CPU models and CPU state.
 */
#pragma once
#include "src/kvm/cpu.h"
#include "src/kvm/intr.h"
#include "src/memory/memory.h"
#include "src/object/object.h"

typedef struct Kvm Kvm;
typedef struct Vcpu Vcpu;

typedef enum KvmIrqchip { KVM_IRQCHIP_ON, KVM_IRQCHIP_SPLIT, KVM_IRQCHIP_OFF } KvmIrqchip;

/* What vCPU threads tell of; called in a vCPU thread without the VM lock. */
typedef enum KvmEvent {
    KVM_EVENT_RESET,            /* triple fault, or KVM_SYSTEM_EVENT_RESET */
    KVM_EVENT_SHUTDOWN,         /* KVM_SYSTEM_EVENT_SHUTDOWN */
    KVM_EVENT_CRASH,            /* KVM_SYSTEM_EVENT_CRASH (Hyper-V) */
    KVM_EVENT_INTERNAL_ERROR    /* FAIL_ENTRY, INTERNAL_ERROR …: the vCPU waits until stopped */
} KvmEvent;
typedef struct KvmEnv {
    void (*event)(void *opaque, KvmEvent what, const char *reason);
    VmLock *lock;
    void *opaque;
} KvmEnv;

/* Opens /dev/kvm and makes a VM.  Errors say what is missing and what to do. */
Kvm *kvm_new(KvmIrqchip irqchip, const KvmEnv *env, GError **error);
void kvm_free(Kvm *kvm);                   /* after vCPUs were destroyed */
bool kvm_available(GError **error);        /* a look at /dev/kvm only */
IntrController *kvm_intr(Kvm *kvm);        /* NULL with irqchip off */
/* Slots and ioeventfds follow these spaces from now on. */
bool kvm_attach_memory(Kvm *kvm, AddressSpace *memory, AddressSpace *io, GError **error);

/* CPU models (-cpu).  @text: "host,+x,-y,enforce,check,migratable=off,…". */
typedef struct CpuModel CpuModel;
CpuModel *cpu_model_new(Kvm *kvm, const char *text, GError **error);  /* @kvm NULL: for listings */
void cpu_model_free(CpuModel *model);
/* [{"name", "typename", "unavailable-features", "static", "migration-safe", "deprecated"}] */
json_object *cpu_model_definitions(Kvm *kvm);
/* query-cpu-model-expansion: type "static" or "full"; {"model": {"name", "props"}} */
json_object *cpu_model_expand(Kvm *kvm, const char *name, json_object *props, bool full,
                              GError **error);
char *cpu_model_help(void);                /* -cpu help; g_free */
/* Feature words by name, for qom-get on a CPU: NULL-ended names; value as the guest sees it. */
const char *const *cpu_feature_names(void);
bool cpu_model_feature(const CpuModel *model, const char *name);
json_object *cpu_model_unavailable(const CpuModel *model);   /* names asked for but not offered */
unsigned cpu_model_phys_bits(const CpuModel *model);          /* width of physical addresses */
json_object *cpu_model_cpuid(const CpuModel *model);          /* for the hardware manifest */

/* vCPUs.  Made stopped; main thread, VM lock. */
Vcpu *kvm_vcpu_new(Kvm *kvm, unsigned index, uint32_t apic_id, const SmpTopology *smp,
                   const CpuModel *model, GError **error);
void kvm_vcpus_destroy(Kvm *kvm);          /* stops and joins all */
unsigned kvm_vcpu_count(const Kvm *kvm);
Vcpu *kvm_vcpu(const Kvm *kvm, unsigned index);
pid_t vcpu_thread_id(const Vcpu *vcpu);
uint32_t vcpu_apic_id(const Vcpu *vcpu);
bool vcpu_halted(Vcpu *vcpu);
/* All together.  stop returns when none is in KVM_RUN (the VM lock is dropped while it waits). */
void kvm_vcpus_start(Kvm *kvm);
void kvm_vcpus_stop(Kvm *kvm);
void kvm_vcpus_reset(Kvm *kvm);            /* stopped: to the state after RESET */
void kvm_vcpu_set_boot_regs(Vcpu *vcpu, const BootRegs *regs);   /* stopped, after reset */
void kvm_inject_nmi(Kvm *kvm, unsigned cpu);
char *vcpu_describe(Vcpu *vcpu);           /* `info registers`; stopped, or it is halted for it */
/* A register as a debugger names it: "rax", "eax", "rip", "pc" (with the code segment's base), "eflags",
 * "cs", "cr3", "efer" …  False: there is none of that name. */
bool vcpu_register(Vcpu *vcpu, const char *name, uint64_t *ret);
/* The physical addresses of @count pages of 4 KiB from @linear on, as the vCPU would find them now;
 * how many are there before the first that is not mapped. */
unsigned vcpu_translate(Vcpu *vcpu, uint64_t linear, uint64_t *ret_pages, unsigned count);

Object *vcpu_object(const Vcpu *vcpu);     /* in the tree; NULL before kvm_add_objects */

/* The whole state of a stopped vCPU (regs, sregs2, xsave2, xcrs, msrs, lapic, events, debugregs,
 * mp_state) and of the VM (irqchip, PIT, clock), as state tables see it: the vCPUs' objects
 * of type "MODEL-x86_64-cpu" at /machine/unattached/device[N], with the properties that libvirt
 * reads, and one of type "kvm-vm" at /machine/kvm, whose tables call KVM_GET/SET. */
bool kvm_add_objects(Kvm *kvm, Object *machine, GError **error);

/* Facts for query-kvm and errors. */
bool kvm_check_extension(const Kvm *kvm, int extension);

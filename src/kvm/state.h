/* The whole state of a vCPU as KVM gives it (api.rst); a value that can be kept, sent and set. */
#pragma once
#include "src/kvm/kvm-int.h"

struct CpuState {
    struct kvm_regs regs;
    struct kvm_sregs2 sregs;                /* without KVM_CAP_SREGS2: filled from kvm_sregs */
    struct kvm_xcrs xcrs;
    struct kvm_lapic_state lapic;           /* zero with irqchip off */
    struct kvm_vcpu_events events;
    struct kvm_debugregs debugregs;
    struct kvm_mp_state mp;
    uint32_t tsc_khz;
    uint32_t xsave_size;
    uint8_t *xsave;                         /* the XSAVE area, xsave_size bytes */
    GArray *msrs;                           /* of kvm_msr_entry */
};

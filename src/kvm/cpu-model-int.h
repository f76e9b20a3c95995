/* A CPU model made for one machine: what -cpu asked for, and what the host can give of it. */
#pragma once
#include "src/kvm/cpu-features.h"
#include "src/kvm/cpu-models.h"
#include "src/kvm/kvm-int.h"

struct CpuModel {
    char *name;
    bool host;                              /* "host" or "max" */
    FeatureSet features;                    /* as the guest sees them */
    FeatureSet unavailable;                 /* asked for, but not offered by the host */
    char vendor[13];                        /* 12 characters */
    uint32_t family, model, stepping;
    uint32_t level, xlevel;
    uint32_t min_level, min_xlevel;
    char *model_id;
    unsigned phys_bits;
    uint32_t host_phys_bits_limit;          /* of host_phys_bits; 0: none */
    unsigned l3_mib;                        /* 0: generic caches */
    /* -cpu properties that are no features */
    bool check, enforce, migratable, kvm_leaf, l3_cache, host_cache_info, host_phys_bits;
    bool pmu, cpuid_0xb;
};

/* What the host's KVM can give a guest; false if it cannot be asked.  host.c */
bool host_features(Kvm *kvm, FeatureSet *ret, GError **error);
/* The host's own vendor, signature, name and levels, into the model. */
void host_identity(Kvm *kvm, CpuModel *model);
unsigned host_phys_bits(Kvm *kvm);
const struct kvm_cpuid_entry2 *cpuid_find(const struct kvm_cpuid2 *table, uint32_t function,
                                          uint32_t index);

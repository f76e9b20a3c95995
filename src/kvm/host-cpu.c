/* The host's CPU, as KVM lets a guest have it. */
#include <cpuid.h>
#include <errno.h>
#include "src/kvm/cpu-model-int.h"

#define SUPPORTED_MAX 512

static int fetch_supported(Kvm *kvm)
{
    struct kvm_cpuid2 *table;
    table = g_malloc0(sizeof(*table) + SUPPORTED_MAX * sizeof(table->entries[0]));
    table->nent = SUPPORTED_MAX;
    int r = kvm_ioctl(kvm->fd, KVM_GET_SUPPORTED_CPUID, table);
    if (r < 0)
        g_free(table);
    else
        kvm->supported = table;
    return r;
}

static void *ask(void *opaque)
{
    fetch_supported(opaque);
    return NULL;
}

/* KVM executes CPUID for each of its leaves, half a millisecond where that traps (nested hosts): as
 * much as to make the VM.  If there can be no thread, or it fails, the first user asks. */
void kvm_ask_supported_cpuid(Kvm *kvm)
{
    kvm->asking = g_thread_try_new("kvm-cpuid", ask, kvm, NULL);
}

const struct kvm_cpuid2 *kvm_supported_cpuid(Kvm *kvm, GError **error)
{
    if (kvm->asking)
        g_thread_join(g_steal_pointer(&kvm->asking));
    int r = kvm->supported ? 0 : fetch_supported(kvm);
    if (r < 0)
        fail_errno(error, -r, "KVM does not tell which CPUID it supports");
    return kvm->supported;
}

const struct kvm_cpuid_entry2 *cpuid_find(const struct kvm_cpuid2 *table, uint32_t function,
                                          uint32_t index)
{
    for (unsigned i = 0; i < table->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &table->entries[i];
        if (e->function == function &&
            (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == index))
            return e;
    }
    return NULL;
}

static uint32_t entry_reg(const struct kvm_cpuid_entry2 *e, unsigned reg)
{
    const uint32_t regs[] = { e->eax, e->ebx, e->ecx, e->edx };
    return regs[reg];
}

/* Feature MSRs are read from /dev/kvm itself (KVM_CAP_GET_MSR_FEATURES); none: no such features. */
static uint32_t supported_msr(Kvm *kvm, uint32_t index)
{
    struct {
        uint32_t nmsrs, pad;            /* as struct kvm_msrs */
        struct kvm_msr_entry entry;
    } b = { .nmsrs = 1, .entry.index = index };
    return kvm_ioctl(kvm->fd, KVM_GET_MSRS, &b) == 1 ? b.entry.data : 0;
}

/* What KVM_GET_SUPPORTED_CPUID leaves to its user (api.rst, 4.46, and kvm/cpuid.rst). */
static void complete_features(Kvm *kvm, FeatureSet *set)
{
    const uint32_t hypervisor = 1u << 31, tsc_deadline = 1 << 24, x2apic = 1 << 21;
    const uint32_t ht = 1 << 28, arat = 1 << 2, hint_dedicated = 1 << 0;
    bool irqchip = kvm->irqchip != KVM_IRQCHIP_OFF;
    set->word[FEAT_1_EDX] |= ht;            /* follows the topology */
    set->word[FEAT_1_ECX] |= hypervisor;
    set->word[FEAT_1_ECX] &= ~(tsc_deadline | x2apic);
    if (irqchip && kvm_check_extension(kvm, KVM_CAP_TSC_DEADLINE_TIMER))
        set->word[FEAT_1_ECX] |= tsc_deadline;
    if (irqchip) {
        set->word[FEAT_1_ECX] |= x2apic;
        set->word[FEAT_6_EAX] |= arat;      /* KVM's APIC timer never stops */
    }
    set->word[FEAT_KVM_EDX] |= hint_dedicated;
}

/* The bits with a name: those are the features that we know what to do with. */
static uint32_t named_bits(const FeatureWord *w)
{
    uint32_t mask = 0;
    for (unsigned bit = 0; bit < 32; bit++)
        if (w->names[bit])
            mask |= 1u << bit;
    return mask;
}

bool host_features(Kvm *kvm, FeatureSet *ret, GError **error)
{
    if (kvm->features) {
        *ret = *kvm->features;
        return true;
    }
    const struct kvm_cpuid2 *table = kvm_supported_cpuid(kvm, error);
    if (!table)
        return false;
    *ret = (FeatureSet){ 0 };
    for (unsigned i = 0; i < FEAT__COUNT; i++) {
        const FeatureWord *w = &feature_words[i];
        if (w->msr)
            continue;
        const struct kvm_cpuid_entry2 *e = cpuid_find(table, w->function, w->index);
        ret->word[i] = e ? entry_reg(e, w->reg) & named_bits(w) : 0;
    }
    static const struct { FeatureWordId word; unsigned bit; FeatureWordId msr; } gates[] = {
        { FEAT_7_0_EDX, 29, FEAT_ARCH_CAPABILITIES }, { FEAT_7_0_EDX, 30, FEAT_CORE_CAPABILITY },
        { FEAT_1_ECX, 15, FEAT_PERF_CAPABILITIES },
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(gates); i++)
        if (feature_has(ret, gates[i].word, gates[i].bit))
            ret->word[gates[i].msr] = supported_msr(kvm, feature_words[gates[i].msr].msr) &
                                      named_bits(&feature_words[gates[i].msr]);
    complete_features(kvm, ret);
    kvm->features = g_memdup2(ret, sizeof(*ret));
    return true;
}

unsigned host_phys_bits(Kvm *kvm)
{
    const struct kvm_cpuid2 *table = kvm ? kvm_supported_cpuid(kvm, NULL) : NULL;
    const struct kvm_cpuid_entry2 *e = table ? cpuid_find(table, 0x80000008, 0) : NULL;
    return e && (e->eax & 0xff) ? e->eax & 0xff : 40;
}

/* SDM vol. 2, CPUID 1: extended numbers count for families 6 and 15 only. */
static void decode_signature(uint32_t eax, CpuModel *model)
{
    model->family = eax >> 8 & 0xf;
    model->model = eax >> 4 & 0xf;
    model->stepping = eax & 0xf;
    if (model->family == 6 || model->family == 15)
        model->model |= (eax >> 16 & 0xf) << 4;
    if (model->family == 15)
        model->family += eax >> 20 & 0xff;
}

void host_identity(Kvm *kvm, CpuModel *model)
{
    uint32_t a, b, c, d, text[12];
    __cpuid(0, a, b, c, d);
    memcpy(model->vendor, &b, 4);
    memcpy(model->vendor + 4, &d, 4);
    memcpy(model->vendor + 8, &c, 4);
    __cpuid(1, a, b, c, d);
    decode_signature(a, model);
    for (unsigned i = 0; i < 3; i++)
        __cpuid(0x80000002 + i, text[4 * i], text[4 * i + 1], text[4 * i + 2], text[4 * i + 3]);
    g_free(model->model_id);
    model->model_id = g_strndup((const char *)text, sizeof(text));

    const struct kvm_cpuid2 *table = kvm ? kvm_supported_cpuid(kvm, NULL) : NULL;
    const struct kvm_cpuid_entry2 *basic = table ? cpuid_find(table, 0, 0) : NULL;
    const struct kvm_cpuid_entry2 *extended = table ? cpuid_find(table, 0x80000000, 0) : NULL;
    model->level = basic ? basic->eax : 0xd;
    model->xlevel = extended ? extended->eax : 0x80000008;
}

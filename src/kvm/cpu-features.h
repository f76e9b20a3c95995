/*
 * CPU features: what each bit of the CPUID leaves and of the feature MSRs is called.  A name is
 * spelt as management software spells it ("sse4.2", "avx512f", "kvm-pv-eoi").
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

typedef enum FeatureWordId {
    FEAT_1_EDX, FEAT_1_ECX, FEAT_6_EAX, FEAT_7_0_EBX, FEAT_7_0_ECX, FEAT_7_0_EDX, FEAT_7_1_EAX,
    FEAT_7_1_EDX, FEAT_7_2_EDX, FEAT_D_1_EAX, FEAT_14_0_ECX, FEAT_80000001_EDX, FEAT_80000001_ECX,
    FEAT_80000007_EBX, FEAT_80000007_EDX, FEAT_80000008_EBX, FEAT_8000000A_EDX, FEAT_80000021_EAX,
    FEAT_C0000001_EDX, FEAT_KVM_EAX, FEAT_KVM_EDX, FEAT_ARCH_CAPABILITIES, FEAT_CORE_CAPABILITY,
    FEAT_PERF_CAPABILITIES, FEAT__COUNT
} FeatureWordId;

enum { REG_EAX, REG_EBX, REG_ECX, REG_EDX };

typedef struct FeatureWord {
    uint32_t function, index;               /* of CPUID */
    uint8_t reg;
    uint32_t msr;                           /* instead of CPUID; 0: none */
    uint32_t unmigratable;                  /* bits that a guest must not rely on when it moves */
    const char *names[32];
} FeatureWord;
extern const FeatureWord feature_words[FEAT__COUNT];

typedef struct FeatureSet {
    uint32_t word[FEAT__COUNT];
} FeatureSet;

#define FEATURE_MAX (FEAT__COUNT * 32)
/* Number of a feature (word * 32 + bit), old spellings included ("sse4_1", "sse3"); -1: no such. */
int feature_find(const char *name);
const char *feature_name(unsigned feature);             /* NULL: the bit has none */
bool feature_get(const FeatureSet *set, unsigned feature);
/* With the bits that share its name. */
void feature_put(FeatureSet *set, unsigned feature, bool on);
/* A list of names with blanks between; unknown ones are skipped (our own tables have none). */
void feature_put_list(FeatureSet *set, const char *names, bool on);

static inline bool feature_has(const FeatureSet *set, FeatureWordId word, unsigned bit)
{
    return set->word[word] >> bit & 1;
}

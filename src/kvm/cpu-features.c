/* Names of feature bits: Intel SDM vol. 2 (CPUID), AMD APM vol. 3 appendix E, and Linux's
 * Documentation/virt/kvm/x86/cpuid.rst for KVM's own. */
#include "src/kvm/cpu-features.h"
#include <glib.h>
#include <string.h>
#include "src/kvm/kvm.h"

const FeatureWord feature_words[FEAT__COUNT] = {
    [FEAT_1_EDX] = { 1, 0, REG_EDX, .names = {
        "fpu", "vme", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", NULL, "sep", "mtrr",
        "pge", "mca", "cmov", "pat", "pse36", "pn", "clflush", NULL, "ds", "acpi", "mmx", "fxsr",
        "sse", "sse2", "ss", "ht", "tm", "ia64", "pbe" } },
    [FEAT_1_ECX] = { 1, 0, REG_ECX, .names = {
        "pni", "pclmulqdq", "dtes64", "monitor", "ds-cpl", "vmx", "smx", "est", "tm2", "ssse3",
        "cid", NULL, "fma", "cx16", "xtpr", "pdcm", NULL, "pcid", "dca", "sse4.1", "sse4.2",
        "x2apic", "movbe", "popcnt", "tsc-deadline", "aes", "xsave", NULL, "avx", "f16c", "rdrand",
        "hypervisor" } },
    [FEAT_6_EAX] = { 6, 0, REG_EAX, .names = { [2] = "arat" } },
    [FEAT_7_0_EBX] = { 7, 0, REG_EBX, .names = {
        "fsgsbase", "tsc-adjust", "sgx", "bmi1", "hle", "avx2", NULL, "smep", "bmi2", "erms",
        "invpcid", "rtm", NULL, NULL, "mpx", NULL, "avx512f", "avx512dq", "rdseed", "adx", "smap",
        "avx512ifma", "pcommit", "clflushopt", "clwb", "intel-pt", "avx512pf", "avx512er",
        "avx512cd", "sha-ni", "avx512bw", "avx512vl" } },
    [FEAT_7_0_ECX] = { 7, 0, REG_ECX, .names = {
        [1] = "avx512vbmi", [2] = "umip", [3] = "pku", [5] = "waitpkg", [6] = "avx512vbmi2",
        [8] = "gfni", [9] = "vaes", [10] = "vpclmulqdq", [11] = "avx512vnni", [12] = "avx512bitalg",
        [14] = "avx512-vpopcntdq", [16] = "la57", [22] = "rdpid", [24] = "bus-lock-detect",
        [25] = "cldemote", [27] = "movdiri", [28] = "movdir64b", [30] = "sgxlc", [31] = "pks" } },
    [FEAT_7_0_EDX] = { 7, 0, REG_EDX, .names = {
        [2] = "avx512-4vnniw", [3] = "avx512-4fmaps", [4] = "fsrm", [8] = "avx512-vp2intersect",
        [10] = "md-clear", [14] = "serialize", [16] = "tsx-ldtrk", [19] = "arch-lbr",
        [22] = "amx-bf16", [23] = "avx512-fp16", [24] = "amx-tile", [25] = "amx-int8",
        [26] = "spec-ctrl", [27] = "stibp", [28] = "flush-l1d", [29] = "arch-capabilities",
        [30] = "core-capability", [31] = "ssbd" } },
    [FEAT_7_1_EAX] = { 7, 1, REG_EAX, .names = {
        [0] = "sha512", [1] = "sm3", [2] = "sm4", [4] = "avx-vnni", [5] = "avx512-bf16",
        [7] = "cmpccxadd", [10] = "fzrm", [11] = "fsrs", [12] = "fsrc", [21] = "amx-fp16",
        [23] = "avx-ifma", [26] = "lam" } },
    [FEAT_7_1_EDX] = { 7, 1, REG_EDX, .names = {
        [4] = "avx-vnni-int8", [5] = "avx-ne-convert", [8] = "amx-complex", [10] = "avx-vnni-int16",
        [14] = "prefetchiti" } },
    [FEAT_7_2_EDX] = { 7, 2, REG_EDX, .names = {
        "intel-psfd", "ipred-ctrl", "rrsba-ctrl", "ddpd-u", "bhi-ctrl", "mcdt-no" } },
    [FEAT_D_1_EAX] = { 0xd, 1, REG_EAX, .names = {
        "xsaveopt", "xsavec", "xgetbv1", "xsaves", "xfd" } },
    [FEAT_14_0_ECX] = { 0x14, 0, REG_ECX, .names = { [31] = "intel-pt-lip" } },
    [FEAT_80000001_EDX] = { 0x80000001, 0, REG_EDX, .names = {
        [11] = "syscall", [19] = "mp", [20] = "nx", [22] = "mmxext", [25] = "fxsr-opt",
        [26] = "pdpe1gb", [27] = "rdtscp", [29] = "lm", [30] = "3dnowext", [31] = "3dnow" } },
    [FEAT_80000001_ECX] = { 0x80000001, 0, REG_ECX, .names = {
        "lahf-lm", "cmp-legacy", "svm", "extapic", "cr8legacy", "abm", "sse4a", "misalignsse",
        "3dnowprefetch", "osvw", "ibs", "xop", "skinit", "wdt", NULL, "lwp", "fma4", "tce", NULL,
        "nodeid-msr", NULL, "tbm", "topoext", "perfctr-core", "perfctr-nb" } },
    [FEAT_80000007_EBX] = { 0x80000007, 0, REG_EBX, .names = { "overflow-recov", "succor" } },
    [FEAT_80000007_EDX] = { 0x80000007, 0, REG_EDX, .unmigratable = 1 << 8,
                            .names = { [8] = "invtsc" } },
    [FEAT_80000008_EBX] = { 0x80000008, 0, REG_EBX, .names = {
        [0] = "clzero", [2] = "xsaveerptr", [9] = "wbnoinvd", [12] = "ibpb", [14] = "ibrs",
        [15] = "amd-stibp", [17] = "stibp-always-on", [24] = "amd-ssbd", [25] = "virt-ssbd",
        [26] = "amd-no-ssb", [28] = "amd-psfd" } },
    [FEAT_8000000A_EDX] = { 0x8000000a, 0, REG_EDX, .names = {
        [0] = "npt", [1] = "lbrv", [2] = "svm-lock", [3] = "nrip-save", [4] = "tsc-scale",
        [5] = "vmcb-clean", [6] = "flushbyasid", [7] = "decodeassists", [10] = "pause-filter",
        [12] = "pfthreshold", [13] = "avic", [15] = "v-vmsave-vmload", [16] = "vgif",
        [25] = "vnmi", [28] = "svme-addr-chk" } },
    [FEAT_80000021_EAX] = { 0x80000021, 0, REG_EAX, .names = {
        [0] = "no-nested-data-bp", [2] = "lfence-always-serializing", [6] = "null-sel-clr-base",
        [8] = "auto-ibrs", [20] = "prefetchi" } },
    [FEAT_C0000001_EDX] = { 0xc0000001, 0, REG_EDX, .names = {
        [2] = "xstore", [3] = "xstore-en", [6] = "xcrypt", [7] = "xcrypt-en", [8] = "ace2",
        [9] = "ace2-en", [10] = "phe", [11] = "phe-en", [12] = "pmm", [13] = "pmm-en" } },
    [FEAT_KVM_EAX] = { 0x40000001, 0, REG_EAX, .names = {
        [0] = "kvmclock", [1] = "kvm-nopiodelay", [2] = "kvm-mmu", [3] = "kvmclock",
        [4] = "kvm-asyncpf", [5] = "kvm-steal-time", [6] = "kvm-pv-eoi", [7] = "kvm-pv-unhalt",
        [9] = "kvm-pv-tlb-flush", [10] = "kvm-asyncpf-vmexit", [11] = "kvm-pv-ipi",
        [12] = "kvm-poll-control", [13] = "kvm-pv-sched-yield", [14] = "kvm-asyncpf-int",
        [15] = "kvm-msi-ext-dest-id", [24] = "kvmclock-stable-bit" } },
    [FEAT_KVM_EDX] = { 0x40000001, 0, REG_EDX, .names = { [0] = "kvm-hint-dedicated" } },
    [FEAT_ARCH_CAPABILITIES] = { .msr = 0x10a, .names = {
        [0] = "rdctl-no", [1] = "ibrs-all", [2] = "rsba", [3] = "skip-l1dfl-vmentry",
        [4] = "ssb-no", [5] = "mds-no", [6] = "pschange-mc-no", [7] = "tsx-ctrl", [8] = "taa-no",
        [13] = "sbdr-ssdp-no", [14] = "fbsdp-no", [15] = "psdp-no", [17] = "fb-clear",
        [20] = "bhi-no", [24] = "pbrsb-no", [26] = "gds-no", [27] = "rfds-no" } },
    [FEAT_CORE_CAPABILITY] = { .msr = 0xcf, .names = { [5] = "split-lock-detect" } },
    [FEAT_PERF_CAPABILITIES] = { .msr = 0x345, .names = { [13] = "full-width-write" } },
};

/* Spellings that older management software uses; '_' for '-' needs none. */
static const struct {
    const char *old, *name;
} aliases[] = {
    { "sse3", "pni" }, { "sse4-1", "sse4.1" }, { "sse4-2", "sse4.2" }, { "pclmuldq", "pclmulqdq" },
    { "i64", "lm" }, { "xd", "nx" }, { "ffxsr", "fxsr-opt" },
};

const char *feature_name(unsigned feature)
{
    return feature < FEATURE_MAX ? feature_words[feature / 32].names[feature % 32] : NULL;
}

static const char *all_names[FEATURE_MAX + 1];
static GHashTable *by_name;                /* the feature and one */

/* Filled before main(), as the registry of types is: read-only afterwards. */
static void __attribute__((constructor(200))) collect_names(void)
{
    unsigned n = 0;
    by_name = g_hash_table_new(g_str_hash, g_str_equal);
    for (unsigned i = 0; i < FEATURE_MAX; i++) {
        const char *name = feature_name(i);
        if (!name || g_hash_table_contains(by_name, name))
            continue;                      /* the second bit of kvmclock */
        all_names[n++] = name;
        g_hash_table_insert(by_name, (char *)name, GUINT_TO_POINTER(i + 1));
    }
}

const char *const *cpu_feature_names(void)
{
    return all_names;
}

int feature_find(const char *name)
{
    g_autofree char *key = g_strdup(name);
    g_strdelimit(key, "_", '-');
    for (unsigned i = 0; i < G_N_ELEMENTS(aliases); i++)
        if (!strcmp(key, aliases[i].old)) {
            g_free(key);
            key = g_strdup(aliases[i].name);
        }
    return (int)GPOINTER_TO_UINT(g_hash_table_lookup(by_name, key)) - 1;
}

bool feature_get(const FeatureSet *set, unsigned feature)
{
    return feature < FEATURE_MAX && set->word[feature / 32] >> (feature % 32) & 1;
}

static void put_bit(FeatureSet *set, unsigned feature, bool on)
{
    uint32_t bit = 1u << (feature % 32);
    if (on)
        set->word[feature / 32] |= bit;
    else
        set->word[feature / 32] &= ~bit;
}

void feature_put(FeatureSet *set, unsigned feature, bool on)
{
    const char *name = feature_name(feature);
    put_bit(set, feature, on);
    /* Only kvmclock has two bits: its old and its new MSRs. */
    if (name && feature / 32 == FEAT_KVM_EAX)
        for (unsigned i = 0; i < 32; i++)
            if (!g_strcmp0(feature_words[FEAT_KVM_EAX].names[i], name))
                put_bit(set, FEAT_KVM_EAX * 32 + i, on);
}

void feature_put_list(FeatureSet *set, const char *names, bool on)
{
    g_auto(GStrv) list = g_strsplit(names ? names : "", " ", -1);
    for (char **name = list; *name; name++) {
        int feature = **name ? feature_find(*name) : -1;
        if (feature >= 0)
            feature_put(set, feature, on);
    }
}

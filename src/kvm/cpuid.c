/*
 * The CPUID table of one vCPU, leaf by leaf: a model's features, the topology, the caches and KVM's
 * own leaves.  Leaves are explained in the Intel SDM (vol. 2, CPUID) and the AMD APM (vol. 3,
 * appendix E).
 */
#include <cpuid.h>
#include "src/kvm/cpu-model-int.h"

typedef struct Builder {
    const CpuModel *model;
    const struct kvm_cpuid2 *host;
    SmpTopology smp;
    SmpPlace place;
    uint32_t apic_id;
    unsigned package_threads;               /* logical CPUs of a socket */
    uint32_t level;                         /* highest basic leaf */
    bool amd, intel;
    struct kvm_cpuid2 *table;
    unsigned capacity;
} Builder;

typedef struct Cache {
    uint8_t type, level;                    /* 1 data, 2 instruction, 3 unified */
    uint32_t size;
    uint16_t line, ways;
    unsigned shift;                         /* APIC id bits of the CPUs that share it */
    uint32_t edx;                           /* flags of leaf 4 and 0x8000001D */
} Cache;

static size_t table_size(unsigned entries)
{
    return sizeof(struct kvm_cpuid2) + entries * sizeof(struct kvm_cpuid_entry2);
}

static void put(Builder *b, uint32_t function, int index, uint32_t a, uint32_t bx, uint32_t c,
                uint32_t d)
{
    if (b->table->nent == b->capacity) {
        b->capacity *= 2;
        b->table = g_realloc(b->table, table_size(b->capacity));
    }
    b->table->entries[b->table->nent++] = (struct kvm_cpuid_entry2){
        .function = function, .index = MAX(index, 0),
        .flags = index >= 0 ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
        .eax = a, .ebx = bx, .ecx = c, .edx = d,
    };
}

static uint32_t word(const Builder *b, FeatureWordId id)
{
    return b->model->features.word[id];
}

static bool has(const Builder *b, FeatureWordId id, unsigned bit)
{
    return feature_has(&b->model->features, id, bit);
}

static uint32_t text4(const char *s)
{
    return ld_le32(s);
}

/* ---- caches ---- */

/* Sizes of a common server CPU, or a Zen core's with its core complex's L3. */
static unsigned caches(const Builder *b, Cache out[4])
{
    const unsigned core = smp_core_shift(&b->smp), die = smp_die_shift(&b->smp);
    const unsigned l3_mib = b->model->l3_mib;
    const uint32_t inclusive = 1 << 1, no_wbinvd_sharing = 1 << 0;
    out[0] = (Cache){ 1, 1, 32 * KiB, 64, 8, core, no_wbinvd_sharing };
    out[1] = l3_mib ? (Cache){ 2, 1, 64 * KiB, 64, 4, core, no_wbinvd_sharing }
                    : (Cache){ 2, 1, 32 * KiB, 64, 8, core, no_wbinvd_sharing };
    out[2] = l3_mib ? (Cache){ 3, 2, 512 * KiB, 64, 8, core, inclusive }
                    : (Cache){ 3, 2, 4 * MiB, 64, 16, core, no_wbinvd_sharing };
    out[3] = (Cache){ 3, 3, (l3_mib ? l3_mib : 16) * MiB, 64, 16, die, inclusive };
    return b->model->l3_cache ? 4 : 3;
}

static uint32_t cache_sets(const Cache *c)
{
    return c->size / c->line / c->ways;
}

/* The host's caches, shared as the guest's topology has it. */
static void put_host_cache_leaf(Builder *b, uint32_t function, uint32_t cores)
{
    uint32_t a, bx, c, d;
    unsigned i = 0;
    for (; i < 8; i++) {
        __cpuid_count(function, i, a, bx, c, d);
        if (!(a & 0x1f))                    /* no more caches */
            break;
        unsigned level = a >> 5 & 7;
        unsigned shift = level >= 3 ? smp_die_shift(&b->smp) : smp_core_shift(&b->smp);
        a = (a & 0x3ff) | ((1u << shift) - 1) << 14 | cores;
        put(b, function, i, a, bx, c, d);
    }
    put(b, function, i, 0, 0, 0, 0);
}

/* Leaves 4 and 0x8000001D are the same but for the cores a package has (Intel only). */
static void put_cache_leaf(Builder *b, uint32_t function)
{
    Cache list[4];
    unsigned n = caches(b, list);
    unsigned cores = 1u << (smp_socket_shift(&b->smp) - smp_core_shift(&b->smp));
    uint32_t cores_field = function == 4 ? (cores - 1) << 26 : 0;
    if (b->model->host_cache_info) {
        put_host_cache_leaf(b, function, cores_field);
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        uint32_t a = list[i].type | list[i].level << 5 | 1 << 8 |
                     ((1u << list[i].shift) - 1) << 14 | cores_field;
        put(b, function, i, a, (list[i].line - 1) | (list[i].ways - 1) << 22,
            cache_sets(&list[i]) - 1, list[i].edx);
    }
    put(b, function, n, 0, 0, 0, 0);
}

/* APM vol. 3, table E-4: how leaf 0x80000006 spells associativity. */
static uint32_t amd_ways(unsigned ways)
{
    return ways >= 16 ? 8 : ways >= 8 ? 6 : ways >= 4 ? 4 : 2;
}

static void put_amd_caches(Builder *b)
{
    Cache l[4];
    unsigned n = caches(b, l);
    if (b->model->host_cache_info) {
        for (uint32_t function = 0x80000005; function <= 0x80000006; function++) {
            uint32_t a, bx, c, d;
            __cpuid(function, a, bx, c, d);
            put(b, function, -1, a, bx, c, d);
        }
        return;
    }
    const uint32_t tlb = 0x01ff01ff;        /* 255 entries, 1 way, for 2 MiB and 4 KiB pages */
    put(b, 0x80000005, -1, b->amd ? tlb : 0, b->amd ? tlb : 0,
        l[0].size / KiB << 24 | l[0].ways << 16 | 1 << 8 | l[0].line,
        l[1].size / KiB << 24 | l[1].ways << 16 | 1 << 8 | l[1].line);
    uint32_t l3 = n > 3 && b->amd ? (uint32_t)(l[3].size / (512 * KiB)) << 18 |
                                    amd_ways(l[3].ways) << 12 | 1 << 8 | l[3].line : 0;
    put(b, 0x80000006, -1, 0, b->amd ? 0x42004200 : 0,      /* 512 entries, 4 ways */
        (uint32_t)(l[2].size / KiB) << 16 | amd_ways(l[2].ways) << 12 | 1 << 8 | l[2].line, l3);
}

/* ---- basic leaves ---- */

static uint32_t signature(const CpuModel *m)
{
    uint32_t family = MIN(m->family, 15);
    return m->stepping | (m->model & 0xf) << 4 | family << 8 | (m->model >> 4) << 16 |
           (m->family - family) << 20;
}

static void put_leaf_0_to_2(Builder *b)
{
    const char *v = b->model->vendor;
    const unsigned clflush_quadwords = 8;
    uint32_t edx = word(b, FEAT_1_EDX), ht = 1 << 28;
    edx = b->package_threads > 1 ? edx | ht : edx & ~ht;
    put(b, 0, -1, b->level, text4(v), text4(v + 8), text4(v + 4));
    put(b, 1, -1, signature(b->model),
        b->apic_id << 24 | MIN(b->package_threads, 255) << 16 | clflush_quadwords << 8,
        word(b, FEAT_1_ECX), edx);
    if (b->intel)
        put(b, 2, -1, 0x00ff0001, 0, 0, 0); /* 0xff: leaf 4 describes the caches */
}

static void put_leaf_7(Builder *b)
{
    bool more = word(b, FEAT_7_1_EAX) || word(b, FEAT_7_1_EDX);
    bool most = word(b, FEAT_7_2_EDX);
    put(b, 7, 0, most ? 2 : more, word(b, FEAT_7_0_EBX), word(b, FEAT_7_0_ECX),
        word(b, FEAT_7_0_EDX));
    if (more || most)
        put(b, 7, 1, word(b, FEAT_7_1_EAX), 0, 0, word(b, FEAT_7_1_EDX));
    if (most)
        put(b, 7, 2, 0, 0, 0, word(b, FEAT_7_2_EDX));
}

/* As the host has it: KVM's virtual PMU takes its shape from there. */
static void put_host_leaf(Builder *b, uint32_t function)
{
    for (unsigned i = 0; i < b->host->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &b->host->entries[i];
        bool indexed = e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        if (e->function == function)
            put(b, function, indexed ? (int)e->index : -1, e->eax, e->ebx, e->ecx, e->edx);
    }
}

/* SDM: leaf 0xB tells of threads and cores, 0x1F of dies, too.  Each level gives the shift that
 * leads to the next one's number. */
static void put_topology(Builder *b, uint32_t function, bool dies)
{
    enum { SMT = 1, CORE = 2, DIE = 5 };
    unsigned threads = MAX(b->smp.threads, 1), cores = MAX(b->smp.cores, 1);
    unsigned core = smp_core_shift(&b->smp), die = smp_die_shift(&b->smp);
    unsigned socket = smp_socket_shift(&b->smp), n = 2;
    put(b, function, 0, core, threads, 0 | SMT << 8, b->apic_id);
    put(b, function, 1, dies ? die : socket, dies ? threads * cores : b->package_threads,
        1 | CORE << 8, b->apic_id);
    if (dies)
        put(b, function, n++, socket, b->package_threads, 2 | DIE << 8, b->apic_id);
    put(b, function, n, 0, 0, n, b->apic_id);
}

/* Which feature an XSAVE component belongs to (SDM vol. 1, 13.1). */
static const struct {
    unsigned component;
    FeatureWordId word;
    unsigned bit;
    bool supervisor;
} components[] = {
    { 0, FEAT_1_EDX, 0, false }, { 1, FEAT_1_EDX, 25, false }, { 2, FEAT_1_ECX, 28, false },
    { 3, FEAT_7_0_EBX, 14, false }, { 4, FEAT_7_0_EBX, 14, false },
    { 5, FEAT_7_0_EBX, 16, false }, { 6, FEAT_7_0_EBX, 16, false }, { 7, FEAT_7_0_EBX, 16, false },
    { 9, FEAT_7_0_ECX, 3, false }, { 15, FEAT_7_0_EDX, 19, true },
    { 17, FEAT_7_0_EDX, 24, false }, { 18, FEAT_7_0_EDX, 24, false },
};

static void put_leaf_d(Builder *b)
{
    const struct kvm_cpuid_entry2 *host = cpuid_find(b->host, 0xd, 0);
    if (!has(b, FEAT_1_ECX, 26) || !host)
        return;
    uint64_t offered = host->eax | (uint64_t)host->edx << 32, user = 0, supervisor = 0;
    uint32_t size = 512 + 64;               /* legacy area and header (SDM vol. 1, 13.4) */
    uint32_t packed = size;                 /* in the compacted form */
    const uint32_t compacted = 1 << 1, saves = 1 << 3, aligned = 1 << 1;
    for (unsigned i = 0; i < G_N_ELEMENTS(components); i++) {
        uint64_t bit = 1ull << components[i].component;
        if (!has(b, components[i].word, components[i].bit))
            continue;
        if (components[i].supervisor)
            supervisor |= bit;
        else if (offered & bit)
            user |= bit;
    }
    const struct kvm_cpuid_entry2 *one = cpuid_find(b->host, 0xd, 1);
    supervisor &= one ? one->ecx | (uint64_t)one->edx << 32 : 0;
    if (!has(b, FEAT_D_1_EAX, 3))           /* supervisor components need XSAVES */
        supervisor = 0;
    unsigned at = b->table->nent;
    put(b, 0xd, 0, user, size, size, user >> 32);
    put(b, 0xd, 1, word(b, FEAT_D_1_EAX), 0, supervisor, supervisor >> 32);
    for (unsigned i = 2; i < 64; i++) {
        const struct kvm_cpuid_entry2 *e = cpuid_find(b->host, 0xd, i);
        if (!((user | supervisor) >> i & 1) || !e)
            continue;
        put(b, 0xd, i, e->eax, e->ebx, e->ecx, e->edx);
        packed = (e->ecx & aligned ? ALIGN_UP(packed, 64) : packed) + e->eax;
        if (user >> i & 1)
            size = MAX(size, e->eax + e->ebx);
    }
    b->table->entries[at].ebx = b->table->entries[at].ecx = size;
    if (word(b, FEAT_D_1_EAX) & (compacted | saves))
        b->table->entries[at + 1].ebx = packed;
}

static void put_basic(Builder *b)
{
    const uint32_t level = b->level;
    put_leaf_0_to_2(b);
    if (level >= 4 && b->intel)
        put_cache_leaf(b, 4);
    if (level >= 6)
        put(b, 6, -1, word(b, FEAT_6_EAX), 0, 0, 0);
    if (level >= 7)
        put_leaf_7(b);
    if (level >= 0xa && b->model->pmu)
        put_host_leaf(b, 0xa);
    if (level >= 0xb && b->model->cpuid_0xb)
        put_topology(b, 0xb, false);
    if (level >= 0xd)
        put_leaf_d(b);
    if (level >= 0x14 && has(b, FEAT_7_0_EBX, 25))
        put_host_leaf(b, 0x14);
    if (level >= 0x1e && has(b, FEAT_7_0_EDX, 24)) {
        put_host_leaf(b, 0x1d);
        put_host_leaf(b, 0x1e);
    }
    if (level >= 0x1f && b->smp.dies > 1 && b->intel)
        put_topology(b, 0x1f, true);
}

/* ---- KVM's and the extended leaves ---- */

static void put_kvm(Builder *b)
{
    if (!b->model->kvm_leaf)
        return;
    const char name[12] = "KVMKVMKVM";
    put(b, 0x40000000, -1, 0x40000001, text4(name), text4(name + 4), text4(name + 8));
    put(b, 0x40000001, -1, word(b, FEAT_KVM_EAX), 0, 0, word(b, FEAT_KVM_EDX));
}

static void put_name(Builder *b)
{
    char name[48] = { 0 };
    memcpy(name, b->model->model_id, MIN(strlen(b->model->model_id), sizeof(name)));
    for (unsigned i = 0; i < 3; i++) {
        const char *part = name + 16 * i;
        put(b, 0x80000002 + i, -1, text4(part), text4(part + 4), text4(part + 8), text4(part + 12));
    }
}

/* AMD repeats these bits of leaf 1 in 0x80000001 EDX. */
#define AMD_ALIASES 0x0183f3ffu

static void put_leaf_80000001(Builder *b)
{
    uint32_t ecx = word(b, FEAT_80000001_ECX), edx = word(b, FEAT_80000001_EDX);
    const uint32_t cmp_legacy = 1 << 1;
    if (b->amd)
        edx |= word(b, FEAT_1_EDX) & AMD_ALIASES;
    if (b->amd && b->package_threads > 1)
        ecx |= cmp_legacy;
    put(b, 0x80000001, -1, b->amd ? signature(b->model) : 0, 0, ecx, edx);
}

static void put_leaf_80000008(Builder *b)
{
    bool lm = has(b, FEAT_80000001_EDX, 29);
    uint32_t linear = lm ? (has(b, FEAT_7_0_ECX, 16) ? 57 : 48) : 32;
    uint32_t ecx = b->package_threads > 1
                       ? (b->package_threads - 1) | smp_socket_shift(&b->smp) << 12 : 0;
    put(b, 0x80000008, -1, b->model->phys_bits | linear << 8,
        word(b, FEAT_80000008_EBX), ecx, 0);
}

static void put_extended(Builder *b)
{
    uint32_t level = b->model->xlevel;
    const char *v = b->model->vendor;
    const unsigned dies = MAX(b->smp.dies, 1);  /* each is a node, of which the machine counts all */
    const uint32_t asids = 16;
    if (level < 0x80000000)
        return;
    put(b, 0x80000000, -1, level, b->amd ? text4(v) : 0, b->amd ? text4(v + 8) : 0,
        b->amd ? text4(v + 4) : 0);
    if (level >= 0x80000001)
        put_leaf_80000001(b);
    if (level >= 0x80000004)
        put_name(b);
    if (level >= 0x80000006)
        put_amd_caches(b);
    if (level >= 0x80000007)
        put(b, 0x80000007, -1, 0, word(b, FEAT_80000007_EBX), 0, word(b, FEAT_80000007_EDX));
    if (level >= 0x80000008)
        put_leaf_80000008(b);
    if (level >= 0x8000000a && has(b, FEAT_80000001_ECX, 2))
        put(b, 0x8000000a, -1, 1, asids, 0, word(b, FEAT_8000000A_EDX));
    if (level >= 0x8000001e && has(b, FEAT_80000001_ECX, 22)) {
        put_cache_leaf(b, 0x8000001d);
        put(b, 0x8000001e, -1, b->apic_id,
            ((b->apic_id & ((1u << smp_socket_shift(&b->smp)) - 1)) >> smp_core_shift(&b->smp)) |
                (MAX(b->smp.threads, 1) - 1) << 8,
            ((b->place.socket * dies + b->place.die) & 0xff) | (dies - 1) << 8, 0);
    }
    if (level >= 0x80000021)
        put(b, 0x80000021, -1, word(b, FEAT_80000021_EAX), 0, 0, 0);
}

struct kvm_cpuid2 *cpu_model_table(const CpuModel *model, Kvm *kvm, unsigned index,
                                   const SmpTopology *smp, GError **error)
{
    Builder b = { .model = model, .smp = *smp, .place = smp_place(smp, index), .capacity = 64 };
    b.host = kvm_supported_cpuid(kvm, error);
    if (!b.host)
        return NULL;
    b.apic_id = smp_apic_id(smp, index);
    b.package_threads = MAX(smp->threads, 1) * MAX(smp->cores, 1) * MAX(smp->dies, 1);
    b.amd = !strcmp(model->vendor, "AuthenticAMD") || !strcmp(model->vendor, "HygonGenuine");
    b.intel = !b.amd;
    /* Intel's software has dies from leaf 0x1F, whatever the model ends at; AMD's from 0x8000001E. */
    b.level = b.intel && smp->dies > 1 ? MAX(model->level, 0x1f) : model->level;
    b.table = g_malloc0(table_size(b.capacity));
    put_basic(&b);
    put_kvm(&b);
    put_extended(&b);
    return b.table;
}

bool cpu_model_set_msrs(const CpuModel *model, int vcpu_fd, bool first, GError **error)
{
    for (unsigned i = 0; i < FEAT__COUNT; i++) {
        struct {
            uint32_t nmsrs, pad;            /* as struct kvm_msrs */
            struct kvm_msr_entry entry;
        } b = { .nmsrs = 1, .entry.index = feature_words[i].msr,
                .entry.data = model->features.word[i] };
        if (!b.entry.index || !b.entry.data || kvm_ioctl(vcpu_fd, KVM_SET_MSRS, &b) == 1)
            continue;
        if (model->enforce)
            return fail(error, ERR_UNSUPPORTED,
                        "KVM refuses the features in MSR 0x%x that it offers", b.entry.index);
        if (first && model->check)
            warn_report("KVM refuses the features in MSR 0x%x that it offers: the guest does "
                        "without", b.entry.index);
    }
    return true;
}

json_object *cpu_model_cpuid(const CpuModel *model)
{
    static const char *const regs[] = { "eax", "ebx", "ecx", "edx" };
    json_object *list = json_object_new_array();
    for (unsigned i = 0; i < FEAT__COUNT; i++) {
        const FeatureWord *w = &feature_words[i];
        if (!model->features.word[i])
            continue;
        json_object *o = json_object_new_object();
        if (w->msr) {
            json_object_object_add(o, "msr", json_object_new_int64(w->msr));
        } else {
            json_object_object_add(o, "leaf", json_object_new_int64(w->function));
            json_object_object_add(o, "subleaf", json_object_new_int64(w->index));
            json_object_object_add(o, "register", json_object_new_string(regs[w->reg]));
        }
        json_object_object_add(o, "value", json_object_new_int64(model->features.word[i]));
        json_object_array_add(list, o);
    }
    return list;
}

/*
 * CPU models: real processors as guests may rely on them, and baselines.  The numbers are the
 * processors' own (Intel SDM vol. 4 table 2-1, AMD revision guides); the feature lists are those
 * that management software expects of the names, without what needs a real board (ACPI clock
 * control, MONITOR) or nesting (SVM).
 */
#include "src/kvm/cpu-models.h"
#include <glib.h>
#include <string.h>

#define INTEL "GenuineIntel"
#define AMD "AuthenticAMD"
#define HYGON "HygonGenuine"

/* What every 64-bit processor with SSE2 has. */
#define PENTIUM3 "fpu de pse tsc msr pae cx8 apic sep pge cmov pat mmx fxsr sse"
#define X86_64 PENTIUM3 " mce mca mtrr pse36 clflush sse2 pni syscall nx lm"

#define EPYC_BASE                                                                                  \
    X86_64 " vme cx16 ssse3 sse4.1 sse4.2 popcnt lahf-lm pclmulqdq aes xsave avx f16c rdrand fma " \
    "movbe fsgsbase bmi1 avx2 smep bmi2 rdseed adx smap clflushopt sha-ni arat xsaveopt xsavec "   \
    "xgetbv1 cr8legacy abm sse4a misalignsse 3dnowprefetch osvw topoext mmxext fxsr-opt pdpe1gb "  \
    "rdtscp npt nrip-save"
#define AVX512 "avx512f avx512bw avx512cd avx512dq avx512vl"
#define ARCH_NO "arch-capabilities rdctl-no ibrs-all skip-l1dfl-vmentry mds-no"
#define TSX "hle rtm"

const CpuModelDef cpu_model_defs[] = {
    { "base", NULL, NULL, 0, 0, 0, 0, 0, "" },
    { "qemu64", NULL, AMD, 15, 107, 1, 0xd, 0x8000000a, "QEMU Virtual CPU version 2.5+",
      .add = X86_64 " cx16 lahf-lm" },
    { "qemu32", NULL, INTEL, 6, 6, 3, 4, 0x80000004, "QEMU Virtual CPU version 2.5+",
      .add = PENTIUM3 " mce sse2 pni" },
    { "kvm64", NULL, INTEL, 15, 6, 1, 0xd, 0x80000008, "Common KVM processor",
      .add = X86_64 " vme cx16" },
    { "kvm32", "kvm64", NULL, 15, 6, 1, 5, 0x80000008, "Common 32-bit KVM processor",
      .drop = "cx16 lm nx syscall" },

    { "486", NULL, INTEL, 4, 8, 0, 1, 0, "Intel 486", .add = "fpu vme pse" },
    { "pentium", "486", NULL, 5, 4, 3, 1, 0, "Intel Pentium",
      .add = "de tsc msr mce cx8 apic mmx" },
    { "pentium2", "pentium", NULL, 6, 5, 2, 2, 0, "Intel Pentium II",
      .add = "pae sep mtrr pge mca cmov pat pse36 fxsr" },
    { "pentium3", "pentium2", NULL, 6, 7, 3, 3, 0, "Intel Pentium III", .add = "sse" },
    { "athlon", "pentium3", AMD, 6, 2, 3, 2, 0x80000008, "QEMU Virtual CPU version 2.5+",
      .add = "sse2 mmxext 3dnow 3dnowext" },

    /* The levels of the x86-64 psABI, section 3.1.1. */
    { "x86-64-v1", "qemu64", .model_id = "x86-64 baseline, level 1", .drop = "cx16 lahf-lm pni" },
    { "x86-64-v2", "qemu64", .model_id = "x86-64 baseline, level 2",
      .add = "popcnt ssse3 sse4.1 sse4.2" },
    { "x86-64-v3", "x86-64-v2", .model_id = "x86-64 baseline, level 3",
      .add = "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave" },
    { "x86-64-v4", "x86-64-v3", .model_id = "x86-64 baseline, level 4", .add = AVX512 },

    { "Opteron_G1", NULL, AMD, 15, 6, 1, 5, 0x80000008, "AMD Opteron 240 (Gen 1 Class Opteron)",
      .add = X86_64 " vme" },
    { "Opteron_G2", "Opteron_G1", NULL, 15, 6, 1, 5, 0x80000008,
      "AMD Opteron 22xx (Gen 2 Class Opteron)", .add = "cx16 lahf-lm" },
    { "Opteron_G3", "Opteron_G2", NULL, 16, 2, 3, 5, 0x80000008,
      "AMD Opteron 23xx (Gen 3 Class Opteron)", .add = "abm misalignsse popcnt rdtscp sse4a" },
    { "phenom", "Opteron_G3", NULL, 16, 2, 3, 5, 0x8000001a,
      "AMD Phenom(tm) 9550 Quad-Core Processor", .add = "3dnow 3dnowext fxsr-opt mmxext pdpe1gb",
      .drop = "misalignsse" },
    { "Opteron_G4", "Opteron_G3", NULL, 21, 1, 2, 0xd, 0x8000001a, "AMD Opteron 62xx class CPU",
      .add = "3dnowprefetch aes avx fma4 pclmulqdq pdpe1gb sse4.1 sse4.2 ssse3 xop xsave npt "
             "nrip-save" },
    { "Opteron_G5", "Opteron_G4", NULL, 21, 2, 0, 0xd, 0x8000001a, "AMD Opteron 63xx class CPU",
      .add = "f16c fma tbm" },
    { "EPYC", NULL, AMD, 23, 1, 2, 0xd, 0x8000001e, "AMD EPYC Processor", .add = EPYC_BASE,
      .l3_mib = 8 },
    { "EPYC-IBPB", "EPYC", NULL, 23, 1, 2, 0xd, 0x8000001e, "AMD EPYC Processor (with IBPB)",
      .add = "ibpb" },
    { "Dhyana", "EPYC-IBPB", HYGON, 24, 0, 1, 0xd, 0x8000001e, "Hygon Dhyana Processor",
      .drop = "aes pclmulqdq sha-ni" },
    { "EPYC-Rome", "EPYC", NULL, 23, 49, 0, 0xd, 0x8000001e, "AMD EPYC-Rome Processor",
      .add = "amd-stibp clwb clzero ibpb perfctr-core rdpid umip wbnoinvd xsaveerptr xsaves",
      .l3_mib = 16 },
    { "EPYC-Milan", "EPYC-Rome", NULL, 25, 1, 1, 0xd, 0x8000001e, "AMD EPYC-Milan Processor",
      .add = "amd-ssbd erms fsrm ibrs invpcid pcid pku svme-addr-chk", .l3_mib = 32 },
    { "EPYC-Genoa", "EPYC-Milan", NULL, 25, 17, 0, 0xd, 0x80000022, "AMD EPYC-Genoa Processor",
      .add = AVX512 " avx512ifma avx512vbmi avx512vbmi2 avx512vnni avx512bitalg avx512-vpopcntdq "
             "avx512-bf16 gfni vaes vpclmulqdq la57 stibp-always-on amd-psfd overflow-recov succor "
             "no-nested-data-bp lfence-always-serializing null-sel-clr-base auto-ibrs vnmi" },

    { "Conroe", NULL, INTEL, 6, 15, 3, 0xa, 0x80000008,
      "Intel Celeron_4x0 (Conroe/Merom Class Core 2)", .add = X86_64 " vme lahf-lm ssse3" },
    { "core2duo", "Conroe", NULL, 6, 15, 11, 0xa, 0x80000008,
      "Intel(R) Core(TM)2 Duo CPU     T7700  @ 2.40GHz", .add = "cx16 ss" },
    { "n270", "Conroe", NULL, 6, 28, 2, 0xa, 0x80000008,
      "Intel(R) Atom(TM) CPU N270   @ 1.60GHz", .add = "movbe ss", .drop = "lm syscall pse36" },
    { "coreduo", "n270", NULL, 6, 14, 8, 0xa, 0x80000008,
      "Genuine Intel(R) CPU           T2600  @ 2.16GHz", .drop = "lahf-lm movbe ssse3" },
    { "Penryn", "Conroe", NULL, 6, 23, 3, 0xa, 0x80000008,
      "Intel Core 2 Duo P9xxx (Penryn Class Core 2)", .add = "cx16 sse4.1" },
    { "Nehalem", "Penryn", NULL, 6, 26, 3, 0xb, 0x80000008,
      "Intel Core i7 9xx (Nehalem Class Core i7)", .add = "popcnt sse4.2" },
    { "Nehalem-IBRS", "Nehalem", .model_id = "Intel Core i7 9xx (Nehalem Core i7, IBRS update)",
      .add = "spec-ctrl" },
    { "Westmere", "Nehalem", NULL, 6, 44, 1, 0xb, 0x80000008,
      "Westmere E56xx/L56xx/X56xx (Nehalem-C)", .add = "aes arat pclmulqdq" },
    { "Westmere-IBRS", "Westmere", .model_id = "Westmere E56xx/L56xx/X56xx (IBRS update)",
      .add = "spec-ctrl" },
    { "SandyBridge", "Westmere", NULL, 6, 42, 1, 0xd, 0x80000008,
      "Intel Xeon E312xx (Sandy Bridge)", .add = "avx rdtscp tsc-deadline xsave xsaveopt" },
    { "SandyBridge-IBRS", "SandyBridge",
      .model_id = "Intel Xeon E312xx (Sandy Bridge, IBRS update)", .add = "spec-ctrl" },
    { "IvyBridge", "SandyBridge", NULL, 6, 58, 9, 0xd, 0x80000008,
      "Intel Xeon E3-12xx v2 (Ivy Bridge)", .add = "erms f16c fsgsbase rdrand smep" },
    { "IvyBridge-IBRS", "IvyBridge", .model_id = "Intel Xeon E3-12xx v2 (Ivy Bridge, IBRS)",
      .add = "spec-ctrl" },
    { "Haswell", "IvyBridge", NULL, 6, 60, 4, 0xd, 0x80000008, "Intel Core Processor (Haswell)",
      .add = "abm avx2 bmi1 bmi2 fma invpcid movbe pcid " TSX },
    { "Haswell-noTSX", "Haswell", NULL, 6, 60, 1, 0xd, 0x80000008,
      "Intel Core Processor (Haswell, no TSX)", .drop = TSX },
    { "Haswell-IBRS", "Haswell", .model_id = "Intel Core Processor (Haswell, IBRS)",
      .add = "spec-ctrl" },
    { "Haswell-noTSX-IBRS", "Haswell-noTSX",
      .model_id = "Intel Core Processor (Haswell, no TSX, IBRS)", .add = "spec-ctrl" },
    { "Broadwell", "Haswell", NULL, 6, 61, 2, 0xd, 0x80000008, "Intel Core Processor (Broadwell)",
      .add = "3dnowprefetch adx rdseed smap" },
    { "Broadwell-noTSX", "Broadwell", .model_id = "Intel Core Processor (Broadwell, no TSX)",
      .drop = TSX },
    { "Broadwell-IBRS", "Broadwell", .model_id = "Intel Core Processor (Broadwell, IBRS)",
      .add = "spec-ctrl" },
    { "Broadwell-noTSX-IBRS", "Broadwell-noTSX",
      .model_id = "Intel Core Processor (Broadwell, no TSX, IBRS)", .add = "spec-ctrl" },
    { "KnightsMill", "Broadwell-noTSX", NULL, 6, 133, 0, 0xd, 0x80000008,
      "Intel Xeon Phi Processor (Knights Mill)",
      .add = "ss pdpe1gb avx512f avx512cd avx512er avx512pf avx512-4fmaps avx512-4vnniw "
             "avx512-vpopcntdq",
      .drop = "invpcid pcid smap" },
    { "Denverton", "IvyBridge-IBRS", NULL, 6, 95, 1, 0x15, 0x80000008,
      "Intel Atom Processor (Denverton)",
      .add = "3dnowprefetch clflushopt movbe mpx pdpe1gb rdseed sha-ni smap ssbd xgetbv1 xsavec "
             "arch-capabilities rdctl-no skip-l1dfl-vmentry",
      .drop = "avx f16c" },
    { "Snowridge", "Denverton", NULL, 6, 134, 1, 0x1b, 0x80000008,
      "Intel Atom Processor (SnowRidge)",
      .add = "cldemote clwb core-capability gfni movdir64b movdiri split-lock-detect umip",
      .drop = "rdctl-no skip-l1dfl-vmentry" },
    { "Skylake-Client", "Broadwell", NULL, 6, 94, 3, 0xd, 0x80000008,
      "Intel Core Processor (Skylake)", .add = "xgetbv1 xsavec" },
    { "Skylake-Client-IBRS", "Skylake-Client", .model_id = "Intel Core Processor (Skylake, IBRS)",
      .add = "spec-ctrl" },
    { "Skylake-Client-noTSX-IBRS", "Skylake-Client-IBRS",
      .model_id = "Intel Core Processor (Skylake, IBRS, no TSX)", .drop = TSX },
    { "Skylake-Server", "Skylake-Client", NULL, 6, 85, 4, 0xd, 0x80000008,
      "Intel Xeon Processor (Skylake)", .add = AVX512 " clflushopt clwb pdpe1gb pku" },
    { "Skylake-Server-IBRS", "Skylake-Server", .model_id = "Intel Xeon Processor (Skylake, IBRS)",
      .add = "spec-ctrl", .drop = "clflushopt" },
    { "Skylake-Server-noTSX-IBRS", "Skylake-Server-IBRS",
      .model_id = "Intel Xeon Processor (Skylake, IBRS, no TSX)", .drop = TSX },
    { "Cascadelake-Server", "Skylake-Server", NULL, 6, 85, 6, 0xd, 0x80000008,
      "Intel Xeon Processor (Cascadelake)", .add = "avx512vnni spec-ctrl ssbd" },
    { "Cascadelake-Server-noTSX", "Cascadelake-Server", .add = ARCH_NO, .drop = TSX },
    { "Cooperlake", "Cascadelake-Server", NULL, 6, 85, 10, 0xd, 0x80000008,
      "Intel Xeon Processor (Cooperlake)",
      .add = ARCH_NO " stibp pschange-mc-no taa-no avx512-bf16" },
    { "Icelake-Server", "Cascadelake-Server", NULL, 6, 134, 0, 0xd, 0x80000008,
      "Intel Xeon Processor (Icelake)",
      .add = "avx512-vpopcntdq avx512bitalg avx512vbmi avx512vbmi2 gfni la57 umip vaes vpclmulqdq "
             "wbnoinvd" },
    { "Icelake-Server-noTSX", "Icelake-Server", .drop = TSX },
    { "SapphireRapids", "Icelake-Server", NULL, 6, 143, 4, 0x20, 0x80000008,
      "Intel Xeon Processor (SapphireRapids)",
      .add = ARCH_NO " pschange-mc-no taa-no avx512ifma sha-ni rdpid fsrm xsaves xfd serialize "
             "bus-lock-detect tsx-ldtrk amx-bf16 amx-tile amx-int8 avx512-fp16 avx-vnni "
             "avx512-bf16 fzrm fsrs fsrc" },
};
const unsigned cpu_model_def_count = G_N_ELEMENTS(cpu_model_defs);

const CpuModelDef *cpu_model_def(const char *name)
{
    size_t length = strlen(name);
    if (length > 3 && !strcmp(name + length - 3, "-v1") && strcmp(name, "x86-64-v1"))
        length -= 3;
    for (unsigned i = 0; i < cpu_model_def_count; i++)
        if (!strncmp(cpu_model_defs[i].name, name, length) && !cpu_model_defs[i].name[length])
            return &cpu_model_defs[i];
    return NULL;
}

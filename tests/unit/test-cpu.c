/* CPU topology and CPU models: what needs no /dev/kvm. */
#include "tests/test.h"
#include <string.h>
#include "src/base/options.h"
#include "src/kvm/cpu-features.h"
#include "src/kvm/kvm.h"

START_TEST(apic_ids_by_topology)
{
    const SmpTopology two_of_three = { 12, 12, 2, 1, 3, 2 };
    /* Three cores take two bits, so socket 1 starts at 8. */
    ck_assert_uint_eq(smp_apic_id(&two_of_three, 0), 0);
    ck_assert_uint_eq(smp_apic_id(&two_of_three, 1), 1);
    ck_assert_uint_eq(smp_apic_id(&two_of_three, 2), 2);
    ck_assert_uint_eq(smp_apic_id(&two_of_three, 5), 5);
    ck_assert_uint_eq(smp_apic_id(&two_of_three, 6), 8);
    ck_assert_uint_eq(smp_apic_id(&two_of_three, 11), 13);
    ck_assert_uint_eq(smp_core_shift(&two_of_three), 1);
    ck_assert_uint_eq(smp_socket_shift(&two_of_three), 3);
    const SmpTopology dies = { 8, 8, 1, 2, 2, 2 };
    ck_assert_uint_eq(smp_apic_id(&dies, 4), 4);
    ck_assert_uint_eq(smp_place(&dies, 6).die, 1);
    ck_assert_uint_eq(smp_place(&dies, 6).core, 1);
    const SmpTopology unset = { .cpus = 3 };
    ck_assert_uint_eq(smp_place(&unset, 2).socket, 2);
}
END_TEST

START_TEST(apic_ids_are_distinct)
{
    for (unsigned sockets = 1; sockets < 4; sockets++)
        for (unsigned dies = 1; dies < 4; dies++)
            for (unsigned cores = 1; cores < 6; cores++)
                for (unsigned threads = 1; threads < 3; threads++) {
                    SmpTopology smp = { 0, 0, sockets, dies, cores, threads };
                    int64_t last = -1;
                    for (unsigned i = 0; i < sockets * dies * cores * threads; i++) {
                        ck_assert_int_gt(smp_apic_id(&smp, i), last);
                        last = smp_apic_id(&smp, i);
                    }
                }
}
END_TEST

START_TEST(features_have_one_name_each)
{
    for (const char *const *name = cpu_feature_names(); *name; name++) {
        int feature = feature_find(*name);
        ck_assert_int_ge(feature, 0);
        ck_assert_str_eq(feature_name(feature), *name);
        for (const char *const *other = name + 1; *other; other++)
            ck_assert_str_ne(*name, *other);
    }
    ck_assert_int_eq(feature_find("sse4_1"), feature_find("sse4.1"));
    ck_assert_int_eq(feature_find("sse3"), feature_find("pni"));
    ck_assert_int_eq(feature_find("lahf_lm"), feature_find("lahf-lm"));
    ck_assert_int_eq(feature_find("nonsense"), -1);
}
END_TEST

static CpuModel *good(const char *text)
{
    g_autoptr(GError) error = NULL;
    CpuModel *model = cpu_model_new(NULL, text, &error);
    ck_assert_msg(model != NULL, "%s: %s", text, error ? error->message : "?");
    return model;
}

START_TEST(models_have_their_features)
{
    static const struct {
        const char *text, *feature;
        bool has;
    } cases[] = {
        { "qemu64", "sse2", true }, { "qemu64", "avx", false }, { "qemu64", "lm", true },
        { "qemu32", "lm", false }, { "x86-64-v2", "sse4.2", true }, { "x86-64-v2", "avx", false },
        { "x86-64-v3", "avx2", true }, { "x86-64-v3", "avx512f", false },
        { "x86-64-v4", "avx512vl", true }, { "EPYC", "topoext", true }, { "EPYC", "ibpb", false },
        { "EPYC-Rome", "umip", true }, { "EPYC-Milan", "pku", true },
        { "EPYC-Genoa", "avx512f", true }, { "Nehalem", "popcnt", true },
        { "Haswell", "hle", true }, { "Haswell-noTSX", "hle", false },
        { "Haswell-noTSX", "avx2", true }, { "Skylake-Server-v1", "avx512f", true },
        { "Icelake-Server", "vaes", true }, { "SapphireRapids", "amx-tile", true },
        { "486", "cx8", false }, { "pentium", "pae", false }, { "pentium2", "sse", false },
        { "pentium3", "sse", true }, { "athlon", "3dnowext", true }, { "n270", "lm", false },
        { "coreduo", "ssse3", false }, { "core2duo", "cx16", true }, { "phenom", "sse4a", true },
        { "Dhyana", "aes", false }, { "KnightsMill", "avx512er", true },
        { "Denverton", "avx", false }, { "Snowridge", "movdiri", true },
        { "base", "fpu", false }, { "base", "hypervisor", false },
        { "EPYC,-avx2", "avx2", false }, { "qemu64,+avx", "avx", true },
        { "qemu64,avx=on", "avx", true }, { "qemu64,avx=on,-avx", "avx", false },
        { "qemu64,-avx,avx=on", "avx", false }, { "qemu64,sse4_1=on", "sse4.1", true },
        { "qemu64,kvm=off", "kvmclock", false }, { "qemu64", "kvmclock", true },
        { "EPYC", "npt", false }, { "EPYC,+svm", "npt", true },
        { "Skylake-Server,-xsave", "xsavec", false }, { "qemu64,hv-relaxed=off", "sse", true },
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        CpuModel *model = good(cases[i].text);
        ck_assert_msg(cpu_model_feature(model, cases[i].feature) == cases[i].has, "%s: %s",
                      cases[i].text, cases[i].feature);
        cpu_model_free(model);
    }
}
END_TEST

START_TEST(physical_addresses)
{
    static const struct { const char *text; unsigned bits; } cases[] = {
        { "EPYC", 40 }, { "EPYC,phys-bits=38", 38 }, { "EPYC,phys-bits=38,-lm", 36 },
        { "qemu32", 36 }, { "EPYC,host-phys-bits=on,host-phys-bits-limit=37", 37 },
        { "EPYC,host-phys-bits=on,host-phys-bits-limit=52", 40 },   /* without KVM: 40 */
        { "EPYC,host-phys-bits-limit=37", 40 },
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        CpuModel *model = good(cases[i].text);
        ck_assert_msg(cpu_model_phys_bits(model) == cases[i].bits, "%s: %u", cases[i].text,
                      cpu_model_phys_bits(model));
        cpu_model_free(model);
    }
}
END_TEST

START_TEST(wrong_options_are_named)
{
    static const struct {
        const char *text, *message, *hint;
    } cases[] = {
        { "EPIC", "there is no CPU model 'EPIC'", "did you mean 'EPYC'?" },
        { "", "the model's name is missing", NULL },
        { "EPYC,avx3=on", "a CPU has no feature or property 'avx3'", "did you mean 'avx'?" },
        { "EPYC,+avx3", "a CPU has no feature or property 'avx3'", "did you mean 'avx'?" },
        { "EPYC,family=1000", "family: 1000 is not in 0 … 270", NULL },
        { "EPYC,phys-bits=8", "phys-bits: 32 at least", NULL },
        { "EPYC,host-phys-bits-limit=8", "host-phys-bits-limit: 32 at least", NULL },
        { "EPYC,vendor=me", "vendor: 12 characters are asked for", NULL },
        { "EPYC,hv-relaxed=on", "hv-relaxed: Hyper-V enlightenments are not implemented",
          "leave it out; Windows guests run without, more slowly" },
        { "EPYC,hv_spinlocks=0x1fff",
          "hv-spinlocks: Hyper-V enlightenments are not implemented",
          "leave it out; Windows guests run without, more slowly" },
        { "EPYC,,", "an empty element between commas", NULL },
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        ck_assert_ptr_null(cpu_model_new(NULL, cases[i].text, &error));
        ck_assert_str_eq(error->message, cases[i].message);
        ck_assert_pstr_eq(error_get_hint(error), cases[i].hint);
    }
    g_autoptr(GError) error = NULL;
    ck_assert_ptr_null(cpu_model_new(NULL, "EPYC,avx=maybe", &error));
}
END_TEST

START_TEST(definitions_and_expansion)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_object) list = cpu_model_definitions(NULL);
    ck_assert_uint_gt(json_object_array_length(list), 30);
    for (unsigned i = 0; i < json_object_array_length(list); i++) {
        json_object *d = json_object_array_get_idx(list, i), *v;
        ck_assert(json_object_object_get_ex(d, "typename", &v));
        const char *type = json_object_get_string(v);
        ck_assert_msg(type_find(type) != NULL, "%s", type);
        ck_assert(json_object_object_get_ex(d, "unavailable-features", &v));
    }
    g_autoptr(json_object) props = json_object_new_object();
    json_object_object_add(props, "avx", json_object_new_boolean(false));
    g_autoptr(json_object) e = cpu_model_expand(NULL, "EPYC", props, false, &error);
    json_object *model, *v;
    ck_assert(json_object_object_get_ex(e, "model", &model));
    ck_assert(json_object_object_get_ex(model, "name", &v));
    ck_assert_str_eq(json_object_get_string(v), "base");
    ck_assert(json_object_object_get_ex(model, "props", &model));
    ck_assert(json_object_object_get_ex(model, "avx", &v) && !json_object_get_boolean(v));
    ck_assert(json_object_object_get_ex(model, "avx2", &v) && json_object_get_boolean(v));
    ck_assert_ptr_null(cpu_model_expand(NULL, "EPIC", NULL, true, &error));
    ck_assert_ptr_nonnull(error);
}
END_TEST

START_TEST(help_lists_models_and_features)
{
    g_autofree char *help = cpu_model_help();
    ck_assert_ptr_nonnull(strstr(help, "EPYC-Rome"));
    ck_assert_ptr_nonnull(strstr(help, "avx512-vpopcntdq"));
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, apic_ids_by_topology);
    tcase_add_test(tc, apic_ids_are_distinct);
    tcase_add_test(tc, features_have_one_name_each);
    tcase_add_test(tc, models_have_their_features);
    tcase_add_test(tc, physical_addresses);
    tcase_add_test(tc, wrong_options_are_named);
    tcase_add_test(tc, definitions_and_expansion);
    tcase_add_test(tc, help_lists_models_and_features);
}

int main(void)
{
    return run_tests("cpu", add);
}

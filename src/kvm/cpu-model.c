/*
 * -cpu: from a model's name and the properties behind it to the features of one machine's CPUs, and
 * the listings of models for management software.
 */
#include <cpuid.h>
#include <errno.h>
#include "src/base/options.h"
#include "src/kvm/cpu-model-int.h"

/* What every guest of KVM gets, where the host has it, unless -cpu says otherwise. */
#define KVM_DEFAULTS                                                                               \
    "hypervisor x2apic kvmclock kvm-nopiodelay kvm-asyncpf kvm-steal-time kvm-pv-eoi "             \
    "kvmclock-stable-bit"

static const struct {
    const char *name;
    size_t offset;
} bool_options[] = {
    { "check", offsetof(CpuModel, check) },
    { "enforce", offsetof(CpuModel, enforce) },
    { "migratable", offsetof(CpuModel, migratable) },
    { "kvm", offsetof(CpuModel, kvm_leaf) },
    { "l3-cache", offsetof(CpuModel, l3_cache) },
    { "host-cache-info", offsetof(CpuModel, host_cache_info) },
    { "host-phys-bits", offsetof(CpuModel, host_phys_bits) },
    { "pmu", offsetof(CpuModel, pmu) },
    { "cpuid-0xb", offsetof(CpuModel, cpuid_0xb) },
};

/* Widest values: CPUID 1's family is 4 + 8 bits, model 4 + 4 (SDM vol. 2). */
static const struct {
    const char *name;
    size_t offset;
    uint32_t min, max;
} number_options[] = {
    { "family", offsetof(CpuModel, family), 0, 0xff + 0xf },
    { "model", offsetof(CpuModel, model), 0, 0xff },
    { "stepping", offsetof(CpuModel, stepping), 0, 0xf },
    { "level", offsetof(CpuModel, level), 0, 0xff },
    { "xlevel", offsetof(CpuModel, xlevel), 0, 0x800000ff },
    { "min-level", offsetof(CpuModel, min_level), 0, 0xff },
    { "min-xlevel", offsetof(CpuModel, min_xlevel), 0, 0x800000ff },
    { "phys-bits", offsetof(CpuModel, phys_bits), 0, 52 },
    { "host-phys-bits-limit", offsetof(CpuModel, host_phys_bits_limit), 0, 52 },
};

void cpu_model_free(CpuModel *model)
{
    if (!model)
        return;
    g_free(model->name);
    g_free(model->model_id);
    g_free(model);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CpuModel, cpu_model_free)

/* ---- the model as its table has it ---- */

static void load_def(CpuModel *model, const CpuModelDef *def)
{
    if (def->based_on)
        load_def(model, cpu_model_def(def->based_on));
    if (def->vendor)
        g_strlcpy(model->vendor, def->vendor, sizeof(model->vendor));
    if (def->level) {
        model->family = def->family;
        model->model = def->model;
        model->stepping = def->stepping;
        model->level = def->level;
        model->xlevel = def->xlevel;
    }
    if (def->model_id) {
        g_free(model->model_id);
        model->model_id = g_strdup(def->model_id);
    }
    if (def->l3_mib)
        model->l3_mib = def->l3_mib;
    feature_put_list(&model->features, def->add, true);
    feature_put_list(&model->features, def->drop, false);
}

/* The guest runs the host's kind of system calls and page tables: a model of another vendor with
 * the host's vendor string works, the other way round does not. */
static void use_host_vendor(CpuModel *model)
{
    uint32_t a, b, c, d;
    __cpuid(0, a, b, c, d);
    memcpy(model->vendor, &b, 4);
    memcpy(model->vendor + 4, &d, 4);
    memcpy(model->vendor + 8, &c, 4);
}

static void load_host(CpuModel *model, Kvm *kvm, const FeatureSet *supported)
{
    host_identity(kvm, model);
    model->host = model->host_phys_bits = model->pmu = true;
    model->features = *supported;
    /* Follows the topology; a promise about scheduling that only the user can make. */
    feature_put_list(&model->features, "ht kvm-hint-dedicated", false);
}

static CpuModel *model_by_name(Kvm *kvm, const char *name, const FeatureSet *supported,
                               GError **error)
{
    g_autoptr(CpuModel) model = g_new0(CpuModel, 1);
    const CpuModelDef *def = cpu_model_def(name);
    model->name = g_strdup(name);
    model->model_id = g_strdup("");
    model->check = model->migratable = model->kvm_leaf = model->l3_cache = model->cpuid_0xb = true;
    if (!strcmp(name, "host") || !strcmp(name, "max")) {
        load_host(model, kvm, supported);
    } else if (def) {
        load_def(model, def);
        use_host_vendor(model);
        if (strcmp(def->name, "base"))
            feature_put_list(&model->features, KVM_DEFAULTS, true);
    } else {
        const char *names[128] = { "host", "max" };
        for (unsigned i = 0; i < cpu_model_def_count && i + 3 < G_N_ELEMENTS(names); i++)
            names[i + 2] = cpu_model_defs[i].name;
        fail(error, ERR_INVALID_PARAMETER, "there is no CPU model '%s'", name);
        const char *near = nearest_word(name, names);
        if (near)
            error_hint(error, "did you mean '%s'?", near);
        else
            error_hint(error, "-cpu help lists the models");
        return NULL;
    }
    return g_steal_pointer(&model);
}

/* ---- properties ---- */

static bool unknown_option(const char *key, GError **error)
{
    const char *names[FEATURE_MAX + 32];
    unsigned n = 0;
    for (unsigned i = 0; i < G_N_ELEMENTS(bool_options); i++)
        names[n++] = bool_options[i].name;
    for (unsigned i = 0; i < G_N_ELEMENTS(number_options); i++)
        names[n++] = number_options[i].name;
    names[n++] = "vendor";
    names[n++] = "model-id";
    for (const char *const *f = cpu_feature_names(); *f && n + 1 < G_N_ELEMENTS(names); f++)
        names[n++] = *f;
    names[n] = NULL;
    fail(error, ERR_UNKNOWN_PARAMETER, "a CPU has no feature or property '%s'", key);
    const char *near = nearest_word(key, names);
    return near ? error_hint(error, "did you mean '%s'?", near) : false;
}

static bool set_text(CpuModel *model, const char *key, json_object *value, GError **error)
{
    const char *text = json_object_get_string(value);
    if (!strcmp(key, "vendor")) {
        if (!text || strlen(text) != 12)
            return fail(error, ERR_INVALID_PARAMETER, "vendor: 12 characters are asked for");
        memcpy(model->vendor, text, 12);
    } else {
        if (!text || strlen(text) > 48)
            return fail(error, ERR_INVALID_PARAMETER, "model-id: 48 characters at most");
        g_free(model->model_id);
        model->model_id = g_strdup(text);
    }
    return true;
}

static bool set_number(CpuModel *model, unsigned option, json_object *value, GError **error)
{
    const char *name = number_options[option].name;
    uint64_t n;
    if (!value_to_u64(value, name, &n, error))
        return false;
    if (n > number_options[option].max || n < number_options[option].min)
        return fail(error, ERR_INVALID_PARAMETER, "%s: %" G_GINT64_MODIFIER "u is not in %u … %u",
                    name, n, number_options[option].min, number_options[option].max);
    if (strstr(name, "phys-bits") && n && n < 32)
        return fail(error, ERR_INVALID_PARAMETER, "%s: 32 at least", name);
    *(uint32_t *)((char *)model + number_options[option].offset) = n;
    return true;
}

/* Hyper-V's enlightenments are not there: off is what they are, on would be a lie. */
static bool refuse_hyperv(const char *key, json_object *value, GError **error)
{
    bool on = true;
    if (json_object_is_type(value, json_type_boolean) ||
        json_object_is_type(value, json_type_string))
        if (!value_to_bool(value, key, &on, NULL))
            on = true;
    if (!on)
        return true;
    fail(error, ERR_UNSUPPORTED, "%s: Hyper-V enlightenments are not implemented", key);
    return error_hint(error, "leave it out; Windows guests run without, more slowly");
}

static bool set_option(CpuModel *model, const char *name, json_object *value, GError **error)
{
    g_autofree char *key = g_strdelimit(g_strdup(name), "_", '-');
    bool on;
    for (unsigned i = 0; i < G_N_ELEMENTS(bool_options); i++)
        if (!strcmp(key, bool_options[i].name))
            return value_to_bool(value, key, (bool *)((char *)model + bool_options[i].offset),
                                 error);
    for (unsigned i = 0; i < G_N_ELEMENTS(number_options); i++)
        if (!strcmp(key, number_options[i].name))
            return set_number(model, i, value, error);
    if (!strcmp(key, "vendor") || !strcmp(key, "model-id"))
        return set_text(model, key, value, error);
    if (g_str_has_prefix(key, "hv-"))
        return refuse_hyperv(key, value, error);
    int feature = feature_find(key);
    if (feature < 0)
        return unknown_option(key, error);
    if (!value_to_bool(value, key, &on, error))
        return false;
    feature_put(&model->features, feature, on);
    return true;
}

static bool set_word(CpuModel *model, const char *key, const char *value, GError **error)
{
    g_autoptr(json_object) v = json_object_new_string(value);
    return set_option(model, key, v, error);
}

/* +feature and -feature count after all key=value, wherever they stand. */
static bool apply_text(CpuModel *model, char **words, GError **error)
{
    for (char **w = words; *w; w++) {
        char *eq = strchr(*w, '=');
        if (!**w)
            return fail(error, ERR_INVALID_SYNTAX, "an empty element between commas");
        if (**w == '+' || **w == '-')
            continue;
        g_autofree char *key = eq ? g_strndup(*w, eq - *w) : g_strdup(*w);
        if (!set_word(model, key, eq ? eq + 1 : "on", error))
            return false;
    }
    for (char **w = words; *w; w++) {
        if (**w != '+' && **w != '-')
            continue;
        int feature = feature_find(*w + 1);
        if (feature < 0)
            return unknown_option(*w + 1, error);
        feature_put(&model->features, feature, **w == '+');
    }
    return true;
}

/* ---- what the host can give ---- */

static void apply_dependencies(CpuModel *model)
{
    FeatureSet *f = &model->features;
    static const struct { FeatureWordId word; unsigned bit; FeatureWordId dependent; } rules[] = {
        { FEAT_80000001_ECX, 2, FEAT_8000000A_EDX },        /* svm */
        { FEAT_1_ECX, 26, FEAT_D_1_EAX },                   /* xsave */
        { FEAT_7_0_EBX, 25, FEAT_14_0_ECX },                /* intel-pt */
        { FEAT_7_0_EDX, 29, FEAT_ARCH_CAPABILITIES }, { FEAT_7_0_EDX, 30, FEAT_CORE_CAPABILITY },
        { FEAT_1_ECX, 15, FEAT_PERF_CAPABILITIES },         /* pdcm */
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(rules); i++)
        if (!feature_has(f, rules[i].word, rules[i].bit))
            f->word[rules[i].dependent] = 0;
    if (!model->kvm_leaf)
        f->word[FEAT_KVM_EAX] = f->word[FEAT_KVM_EDX] = 0;
    for (unsigned i = 0; model->migratable && model->host && i < FEAT__COUNT; i++)
        f->word[i] &= ~feature_words[i].unmigratable;
}

/* The defaults that we add by ourselves go without a word where the host lacks them. */
static void filter(CpuModel *model, const FeatureSet *supported)
{
    FeatureSet quiet = { 0 };
    feature_put_list(&quiet, KVM_DEFAULTS, true);
    for (unsigned i = 0; i < FEAT__COUNT; i++) {
        uint32_t missing = model->features.word[i] & ~supported->word[i];
        model->unavailable.word[i] = missing & ~quiet.word[i];
        model->features.word[i] &= supported->word[i];
    }
}

static char *join_names(const FeatureSet *set)
{
    GString *s = g_string_new(NULL);
    for (unsigned i = 0; i < FEATURE_MAX; i++)
        if (feature_get(set, i))
            g_string_append_printf(s, "%s%s", s->len ? ", " : "", feature_name(i) ?: "?");
    return g_string_free(s, false);
}

static bool report_unavailable(const CpuModel *model, GError **error)
{
    g_autofree char *names = join_names(&model->unavailable);
    if (!*names)
        return true;
    if (model->enforce) {
        fail(error, ERR_UNSUPPORTED, "the host cannot give CPU model '%s' these features: %s",
             model->name, names);
        return error_hint(error, "leave out 'enforce', or switch them off (-cpu %s,-NAME)",
                          model->name);
    }
    if (model->check)
        warn_report("the host cannot give CPU model '%s' these features: %s", model->name, names);
    return true;
}

/* A leaf that a feature lives in must be there. */
static void raise_levels(CpuModel *model)
{
    for (unsigned i = 0; i < FEAT__COUNT; i++) {
        const FeatureWord *w = &feature_words[i];
        if (!model->features.word[i] || w->msr || !w->function)
            continue;
        if (w->function < 0x40000000)
            model->level = MAX(model->level, w->function);
        else if (w->function >= 0x80000000 && w->function < 0xc0000000)
            model->xlevel = MAX(model->xlevel, w->function);
    }
    if (feature_has(&model->features, FEAT_1_ECX, 26))
        model->level = MAX(model->level, 0xd);
    if (feature_has(&model->features, FEAT_80000001_ECX, 22))
        model->xlevel = MAX(model->xlevel, 0x8000001e);
    model->level = MAX(model->level, model->min_level);
    model->xlevel = MAX(model->xlevel, model->min_xlevel);
}

static void finish(CpuModel *model, Kvm *kvm, const FeatureSet *supported)
{
    apply_dependencies(model);
    if (kvm)
        filter(model, supported);
    apply_dependencies(model);
    raise_levels(model);
    unsigned host = host_phys_bits(kvm);
    if (model->host_phys_bits && !model->phys_bits)
        model->phys_bits = model->host_phys_bits_limit ? MIN(host, model->host_phys_bits_limit)
                                                       : host;
    if (!model->phys_bits)
        model->phys_bits = MIN(40, host);
    if (!feature_has(&model->features, FEAT_80000001_EDX, 29))      /* lm: PAE has 36 */
        model->phys_bits = MIN(36, model->phys_bits);
    if (kvm && model->phys_bits > host)
        warn_report("-cpu phys-bits=%u: the host has %u", model->phys_bits, host);
}

static CpuModel *model_new(Kvm *kvm, const char *name, FeatureSet *supported, GError **error)
{
    *supported = (FeatureSet){ 0 };
    if (kvm && !host_features(kvm, supported, error))
        return NULL;
    return model_by_name(kvm, name, supported, error);
}

CpuModel *cpu_model_new(Kvm *kvm, const char *text, GError **error)
{
    g_auto(GStrv) words = g_strsplit(text, ",", -1);
    FeatureSet supported;
    if (!words[0] || !*words[0]) {
        fail(error, ERR_MISSING_PARAMETER, "the model's name is missing");
        return NULL;
    }
    g_autoptr(CpuModel) model = model_new(kvm, words[0], &supported, error);
    bool ok = model && apply_text(model, words + 1, error);
    if (ok) {
        finish(model, kvm, &supported);
        ok = report_unavailable(model, error);
    }
    return ok ? g_steal_pointer(&model) : NULL;
}

/* ---- listings ---- */

static json_object *names_json(const FeatureSet *set)
{
    json_object *list = json_object_new_array();
    for (unsigned i = 0; i < FEATURE_MAX; i++)
        if (feature_get(set, i) && feature_name(i))
            json_object_array_add(list, json_object_new_string(feature_name(i)));
    return list;
}

json_object *cpu_model_unavailable(const CpuModel *model)
{
    return names_json(&model->unavailable);
}

bool cpu_model_feature(const CpuModel *model, const char *name)
{
    int feature = feature_find(name);
    return feature >= 0 && feature_get(&model->features, feature);
}

unsigned cpu_model_phys_bits(const CpuModel *model)
{
    return model->phys_bits;
}

static void add_definition(json_object *list, Kvm *kvm, const char *name)
{
    FeatureSet supported;
    g_autoptr(CpuModel) model = model_new(kvm, name, &supported, NULL);
    if (!model)
        return;
    finish(model, kvm, &supported);
    g_autofree char *type = g_strconcat(name, CPU_TYPE_SUFFIX, NULL);
    json_object *d = json_object_new_object();
    json_object_object_add(d, "name", json_object_new_string(name));
    json_object_object_add(d, "typename", json_object_new_string(type));
    json_object_object_add(d, "unavailable-features", cpu_model_unavailable(model));
    json_object_object_add(d, "static", json_object_new_boolean(!strcmp(name, "base")));
    json_object_object_add(d, "migration-safe", json_object_new_boolean(!model->host));
    json_object_object_add(d, "deprecated", json_object_new_boolean(false));
    json_object_array_add(list, d);
}

json_object *cpu_model_definitions(Kvm *kvm)
{
    json_object *list = json_object_new_array();
    add_definition(list, kvm, "max");
    add_definition(list, kvm, "host");
    for (unsigned i = 0; i < cpu_model_def_count; i++)
        add_definition(list, kvm, cpu_model_defs[i].name);
    return list;
}

/* What makes the CPU what it is; @full adds what is so by default. */
static json_object *props_json(const CpuModel *model, bool full)
{
    json_object *props = json_object_new_object();
    for (const char *const *name = cpu_feature_names(); *name; name++)
        json_object_object_add(props, *name,
                               json_object_new_boolean(cpu_model_feature(model, *name)));
    json_object_object_add(props, "vendor", json_object_new_string(model->vendor));
    json_add_u64(props, "family", model->family);
    json_add_u64(props, "model", model->model);
    json_add_u64(props, "stepping", model->stepping);
    json_object_object_add(props, "model-id", json_object_new_string(model->model_id));
    json_add_u64(props, "min-level", model->level);
    json_add_u64(props, "min-xlevel", model->xlevel);
    if (!full)
        return props;
    json_add_u64(props, "level", model->level);
    json_add_u64(props, "xlevel", model->xlevel);
    json_add_u64(props, "phys-bits", model->phys_bits);
    for (unsigned i = 0; i < G_N_ELEMENTS(bool_options); i++)
        json_object_object_add(
            props, bool_options[i].name,
            json_object_new_boolean(*(const bool *)((const char *)model + bool_options[i].offset)));
    return props;
}

json_object *cpu_model_expand(Kvm *kvm, const char *name, json_object *props, bool full,
                              GError **error)
{
    FeatureSet supported;
    g_autoptr(CpuModel) model = model_new(kvm, name, &supported, error);
    if (!model)
        return NULL;
    if (props) {
        json_object_object_foreach(props, key, value)
        {
            if (!strcmp(key, "hv-passthrough"))     /* none to pass */
                continue;
            if (!set_option(model, key, value, error))
                return NULL;
        }
    }
    finish(model, kvm, &supported);
    json_object *m = json_object_new_object(), *answer = json_object_new_object();
    json_object_object_add(m, "name", json_object_new_string(full ? name : "base"));
    json_object_object_add(m, "props", props_json(model, full));
    json_object_object_add(answer, "model", m);
    return answer;
}

char *cpu_model_help(void)
{
    GString *s = g_string_new("CPU models:\n");
    g_string_append_printf(s, "  %-26s  %s\n", "host", "the host's CPU, as KVM offers it");
    g_string_append_printf(s, "  %-26s  %s\n", "max", "the same");
    for (unsigned i = 0; i < cpu_model_def_count; i++) {
        FeatureSet none = { 0 };
        g_autoptr(CpuModel) m = model_by_name(NULL, cpu_model_defs[i].name, &none, NULL);
        g_string_append_printf(s, "  %-26s  %s\n", cpu_model_defs[i].name,
                               *m->model_id ? m->model_id : "no features at all");
    }
    g_string_append(s, "\nFeatures (NAME=on|off, +NAME, -NAME):\n");
    unsigned column = 0;
    for (const char *const *name = cpu_feature_names(); *name; name++) {
        unsigned length = strlen(*name) + 1;
        if (column + length > 76)
            column = 0;
        g_string_append_printf(s, "%s%s", column ? " " : s->str[s->len - 1] == '\n' ? "  " : "\n  ",
                               *name);
        column += length;
    }
    g_string_append(s, "\n\nProperties: check, enforce, migratable, kvm, l3-cache,\n"
                       "  host-cache-info, pmu, cpuid-0xb, host-phys-bits,\n"
                       "  host-phys-bits-limit=N, phys-bits=N,\n"
                       "  vendor=TEXT, family=N, model=N, stepping=N, model-id=TEXT,\n"
                       "  level=N, xlevel=N, min-level=N, min-xlevel=N\n");
    return g_string_free(s, false);
}

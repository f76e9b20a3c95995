/*
 * vCPUs in the object tree: types "MODEL-x86_64-cpu" with each feature as a property, and the CPU's
 * state as a state table.  KVM's structures are sent number by number, by the names of the
 * registers.
 */
#include "src/kvm/cpu-model-int.h"
#include "src/kvm/state.h"

typedef struct CpuObject {
    Object obj;
    Vcpu *vcpu;
    CpuState *state;                        /* being saved or loaded */
} CpuObject;

/* ---- state ---- */

typedef struct Number {
    const char *name;
    uint16_t offset;                        /* in CpuState */
    uint8_t size;
} Number;
#define NUMBER(name_, member)                                                                      \
    { name_, offsetof(CpuState, member), sizeof(((CpuState *)0)->member) }
#define SEGMENT(name_, seg)                                                                        \
    NUMBER(name_ ".base", sregs.seg.base), NUMBER(name_ ".limit", sregs.seg.limit),                \
        NUMBER(name_ ".selector", sregs.seg.selector), NUMBER(name_ ".type", sregs.seg.type),      \
        NUMBER(name_ ".present", sregs.seg.present), NUMBER(name_ ".dpl", sregs.seg.dpl),          \
        NUMBER(name_ ".db", sregs.seg.db), NUMBER(name_ ".s", sregs.seg.s),                        \
        NUMBER(name_ ".l", sregs.seg.l), NUMBER(name_ ".g", sregs.seg.g),                          \
        NUMBER(name_ ".avl", sregs.seg.avl), NUMBER(name_ ".unusable", sregs.seg.unusable)

static const Number register_numbers[] = {
    NUMBER("rax", regs.rax), NUMBER("rbx", regs.rbx), NUMBER("rcx", regs.rcx),
    NUMBER("rdx", regs.rdx), NUMBER("rsi", regs.rsi), NUMBER("rdi", regs.rdi),
    NUMBER("rsp", regs.rsp), NUMBER("rbp", regs.rbp), NUMBER("r8", regs.r8), NUMBER("r9", regs.r9),
    NUMBER("r10", regs.r10), NUMBER("r11", regs.r11), NUMBER("r12", regs.r12),
    NUMBER("r13", regs.r13), NUMBER("r14", regs.r14), NUMBER("r15", regs.r15),
    NUMBER("rip", regs.rip), NUMBER("rflags", regs.rflags),
    {}
};

static const Number system_numbers[] = {
    SEGMENT("cs", cs), SEGMENT("ds", ds), SEGMENT("es", es), SEGMENT("fs", fs), SEGMENT("gs", gs),
    SEGMENT("ss", ss), SEGMENT("tr", tr), SEGMENT("ldt", ldt),
    NUMBER("gdt.base", sregs.gdt.base), NUMBER("gdt.limit", sregs.gdt.limit),
    NUMBER("idt.base", sregs.idt.base), NUMBER("idt.limit", sregs.idt.limit),
    NUMBER("cr0", sregs.cr0), NUMBER("cr2", sregs.cr2), NUMBER("cr3", sregs.cr3),
    NUMBER("cr4", sregs.cr4), NUMBER("cr8", sregs.cr8), NUMBER("efer", sregs.efer),
    NUMBER("apic_base", sregs.apic_base), NUMBER("flags", sregs.flags),
    NUMBER("pdptr0", sregs.pdptrs[0]), NUMBER("pdptr1", sregs.pdptrs[1]),
    NUMBER("pdptr2", sregs.pdptrs[2]), NUMBER("pdptr3", sregs.pdptrs[3]),
    NUMBER("db0", debugregs.db[0]), NUMBER("db1", debugregs.db[1]), NUMBER("db2", debugregs.db[2]),
    NUMBER("db3", debugregs.db[3]), NUMBER("dr6", debugregs.dr6), NUMBER("dr7", debugregs.dr7),
    {}
};

static const Number event_numbers[] = {
    NUMBER("exception.injected", events.exception.injected),
    NUMBER("exception.nr", events.exception.nr),
    NUMBER("exception.has_error_code", events.exception.has_error_code),
    NUMBER("exception.pending", events.exception.pending),
    NUMBER("exception.error_code", events.exception.error_code),
    NUMBER("exception_has_payload", events.exception_has_payload),
    NUMBER("exception_payload", events.exception_payload),
    NUMBER("interrupt.injected", events.interrupt.injected),
    NUMBER("interrupt.nr", events.interrupt.nr), NUMBER("interrupt.soft", events.interrupt.soft),
    NUMBER("interrupt.shadow", events.interrupt.shadow),
    NUMBER("nmi.injected", events.nmi.injected), NUMBER("nmi.pending", events.nmi.pending),
    NUMBER("nmi.masked", events.nmi.masked), NUMBER("sipi_vector", events.sipi_vector),
    NUMBER("events_flags", events.flags), NUMBER("smi.smm", events.smi.smm),
    NUMBER("smi.pending", events.smi.pending),
    NUMBER("smi.smm_inside_nmi", events.smi.smm_inside_nmi),
    NUMBER("smi.latched_init", events.smi.latched_init),
    NUMBER("triple_fault.pending", events.triple_fault.pending),
    NUMBER("mp_state", mp.mp_state), NUMBER("tsc_khz", tsc_khz),
    {}
};

static void save_numbers(const Number *numbers, const CpuState *state, StateWriter *w)
{
    for (; numbers->name; numbers++) {
        uint64_t value = 0;
        memcpy(&value, (const char *)state + numbers->offset, numbers->size);
        state_put_u64(w, numbers->name, value);
    }
}

static bool load_numbers(const Number *numbers, CpuState *state, StateReader *r, GError **error)
{
    for (; numbers->name; numbers++) {
        uint64_t value;
        if (!state_get_u64(r, numbers->name, UINT64_MAX >> (64 - 8 * numbers->size), &value, error))
            return false;
        memcpy((char *)state + numbers->offset, &value, numbers->size);
    }
    return true;
}

#define NUMBERS_FIELD(name)                                                                        \
    static void save_##name(void *obj, StateWriter *w)                                             \
    {                                                                                              \
        save_numbers(name##_numbers, ((CpuObject *)obj)->state, w);                                \
    }                                                                                              \
    static bool load_##name(void *obj, StateReader *r, GError **error)                             \
    {                                                                                              \
        return load_numbers(name##_numbers, ((CpuObject *)obj)->state, r, error);                  \
    }
NUMBERS_FIELD(register)
NUMBERS_FIELD(system)
NUMBERS_FIELD(event)

static void save_xsave(void *obj, StateWriter *w)
{
    CpuState *s = ((CpuObject *)obj)->state;
    state_put_bytes(w, "area", s->xsave, s->xsave_size);
    state_put_u64(w, "xcr_count", s->xcrs.nr_xcrs);
    for (unsigned i = 0; i < s->xcrs.nr_xcrs; i++) {
        g_autofree char *name = g_strdup_printf("xcr%u", s->xcrs.xcrs[i].xcr);
        state_put_u64(w, "xcr", s->xcrs.xcrs[i].xcr);
        state_put_u64(w, name, s->xcrs.xcrs[i].value);
    }
}

/* A smaller area is one of a host with fewer extensions: the rest is zero, their initial state. */
static bool load_xsave(void *obj, StateReader *r, GError **error)
{
    CpuState *s = ((CpuObject *)obj)->state;
    size_t length;
    uint64_t count, xcr, value;
    memset(s->xsave, 0, s->xsave_size);
    if (!state_get_bytes(r, "area", s->xsave, s->xsave_size, &length, error) ||
        !state_get_u64(r, "xcr_count", KVM_MAX_XCRS, &count, error))
        return false;
    s->xcrs = (struct kvm_xcrs){ .nr_xcrs = count };
    for (unsigned i = 0; i < count; i++) {
        if (!state_get_u64(r, "xcr", UINT32_MAX, &xcr, error))
            return false;
        g_autofree char *name = g_strdup_printf("xcr%u", (unsigned)xcr);
        if (!state_get_u64(r, name, UINT64_MAX, &value, error))
            return false;
        s->xcrs.xcrs[i] = (struct kvm_xcr){ .xcr = xcr, .value = value };
    }
    return true;
}

#define MSRS_MAX 4096

static void save_msrs(void *obj, StateWriter *w)
{
    GArray *msrs = ((CpuObject *)obj)->state->msrs;
    g_autofree uint8_t *indices = g_malloc(4 * MAX(msrs->len, 1));
    for (unsigned i = 0; i < msrs->len; i++)
        st_le32(indices + 4 * i, g_array_index(msrs, struct kvm_msr_entry, i).index);
    state_put_bytes(w, "indices", indices, 4 * msrs->len);
    for (unsigned i = 0; i < msrs->len; i++) {
        const struct kvm_msr_entry *e = &g_array_index(msrs, struct kvm_msr_entry, i);
        g_autofree char *name = g_strdup_printf("msr_%x", e->index);
        state_put_u64(w, name, e->data);
    }
}

static bool load_msrs(void *obj, StateReader *r, GError **error)
{
    GArray *msrs = ((CpuObject *)obj)->state->msrs;
    g_autofree uint8_t *indices = g_malloc(4 * MSRS_MAX);
    size_t length;
    g_array_set_size(msrs, 0);
    if (!state_get_bytes(r, "indices", indices, 4 * MSRS_MAX, &length, error))
        return false;
    for (unsigned i = 0; i < length / 4; i++) {
        uint64_t value;
        struct kvm_msr_entry e = { .index = ld_le32(indices + 4 * i) };
        g_autofree char *name = g_strdup_printf("msr_%x", e.index);
        if (!state_get_u64(r, name, UINT64_MAX, &value, error))
            return false;
        e.data = value;
        g_array_append_val(msrs, e);
    }
    return true;
}

static void save_lapic(void *obj, StateWriter *w)
{
    CpuState *s = ((CpuObject *)obj)->state;
    state_put_bytes(w, "registers", s->lapic.regs, sizeof(s->lapic.regs));
}

static bool load_lapic(void *obj, StateReader *r, GError **error)
{
    CpuState *s = ((CpuObject *)obj)->state;
    size_t length;
    return state_get_bytes(r, "registers", s->lapic.regs, sizeof(s->lapic.regs), &length, error) &&
           (length == sizeof(s->lapic.regs) ||
            fail(error, ERR_CORRUPT, "the LAPIC has %zu bytes of registers, not %zu", length,
                 sizeof(s->lapic.regs)));
}

static bool cpu_has_lapic(void *obj)
{
    return ((CpuObject *)obj)->vcpu->kvm->irqchip != KVM_IRQCHIP_OFF;
}

static void cpu_pre_save(void *obj)
{
    CpuObject *cpu = obj;
    g_autoptr(GError) error = NULL;
    if (!cpu_state_get(cpu->vcpu, cpu->state, &error))
        error_report(error);
}

static bool cpu_post_load(void *obj, uint32_t version, GError **error)
{
    CpuObject *cpu = obj;
    cpu->vcpu->pristine = false;
    return cpu_state_set(cpu->vcpu, cpu->state, error);
}

static const StateField cpu_fields[] = {
    FIELD_FN(CpuObject, "registers", save_register, load_register),
    FIELD_FN(CpuObject, "system", save_system, load_system),
    FIELD_FN(CpuObject, "xsave", save_xsave, load_xsave),
    FIELD_FN(CpuObject, "msrs", save_msrs, load_msrs),
    FIELD_FN(CpuObject, "events", save_event, load_event),
    FIELD_FN(CpuObject, "lapic", save_lapic, load_lapic, .needed = cpu_has_lapic),
    {}
};
static const StateTable cpu_table = {
    .fields = cpu_fields, .pre_save = cpu_pre_save, .post_load = cpu_post_load,
};

/* ---- properties ---- */

static const CpuModel *model_of(Object *obj)
{
    Vcpu *vcpu = ((CpuObject *)obj)->vcpu;
    return vcpu ? vcpu->model : NULL;
}

/* A feature's number stands in the property's offset. */
static json_object *get_feature(Object *obj, const Property *prop)
{
    const CpuModel *model = model_of(obj);
    return json_object_new_boolean(model && feature_get(&model->features, prop->offset));
}

static json_object *get_unavailable(Object *obj, const Property *prop)
{
    const CpuModel *model = model_of(obj);
    return model ? cpu_model_unavailable(model) : json_object_new_array();
}

/* An option's offset in CpuModel stands in the property's. */
static json_object *get_option(Object *obj, const Property *prop)
{
    const CpuModel *model = model_of(obj);
    return json_object_new_boolean(model && *(const bool *)((const char *)model + prop->offset));
}

static json_object *get_u32(Object *obj, const Property *prop)
{
    const CpuModel *model = model_of(obj);
    const char *base = (const char *)model;
    return json_object_new_int64(model ? *(const uint32_t *)(base + prop->offset) : 0);
}

static json_object *get_vendor(Object *obj, const Property *prop)
{
    return json_object_new_string(model_of(obj) ? model_of(obj)->vendor : "");
}

static json_object *get_model_id(Object *obj, const Property *prop)
{
    return json_object_new_string(model_of(obj) ? model_of(obj)->model_id : "");
}

static json_object *get_place(Object *obj, const Property *prop)
{
    Vcpu *vcpu = ((CpuObject *)obj)->vcpu;
    if (!vcpu)
        return json_object_new_int(-1);
    SmpPlace place = smp_place(&vcpu->smp, vcpu->index);
    return json_object_new_int64(*(unsigned *)((char *)&place + prop->offset));
}

static json_object *get_apic_id(Object *obj, const Property *prop)
{
    Vcpu *vcpu = ((CpuObject *)obj)->vcpu;
    return json_object_new_int64(vcpu ? vcpu->apic_id : UINT32_MAX);
}

static json_object *get_host_thread(Object *obj, const Property *prop)
{
    Vcpu *vcpu = ((CpuObject *)obj)->vcpu;
    return json_object_new_int64(vcpu ? vcpu_thread_id(vcpu) : 0);
}

static json_object *get_realized(Object *obj, const Property *prop)
{
    return json_object_new_boolean(obj->realized);
}

static json_object *get_false(Object *obj, const Property *prop)
{
    return json_object_new_boolean(false);
}

/* The kinds say of what type a computed value is; they are read only. */
static json_object *call_get(Object *obj, const Property *prop)
{
    return prop->get(obj, prop);
}

static bool refuse_set(Object *obj, const Property *prop, json_object *value, GError **error)
{
    return fail(error, ERR_UNSUPPORTED, "'%s' cannot be set: -cpu says what a CPU is", prop->name);
}

static const PropertyKind kind_bool = { "bool", refuse_set, call_get, NULL, NULL };
static const PropertyKind kind_int = { "int", refuse_set, call_get, NULL, NULL };
static const PropertyKind kind_string = { "string", refuse_set, call_get, NULL, NULL };
static const PropertyKind kind_list = { "strList", refuse_set, call_get, NULL, NULL };

#define COMPUTED(name_, kind_, get_, offset_, ...)                                                 \
    { .name = (name_), .kind = &(kind_), .get = (get_), .offset = (offset_), .read_only = true,    \
      ##__VA_ARGS__ }
#define OPTION(name_, member)                                                                      \
    COMPUTED(name_, kind_bool, get_option, offsetof(CpuModel, member))
#define VALUE(name_, member)                                                                       \
    COMPUTED(name_, kind_int, get_u32, offsetof(CpuModel, member))

static const Property fixed_props[] = {
    COMPUTED("unavailable-features", kind_list, get_unavailable, 0,
             .help = "asked for, but not offered by the host"),
    COMPUTED("filtered-features", kind_list, get_unavailable, 0, .help = "the same"),
    COMPUTED("realized", kind_bool, get_realized, 0),
    COMPUTED("hotplugged", kind_bool, get_false, 0),
    COMPUTED("hotpluggable", kind_bool, get_false, 0),
    COMPUTED("vendor", kind_string, get_vendor, 0),
    COMPUTED("model-id", kind_string, get_model_id, 0),
    VALUE("family", family), VALUE("model", model), VALUE("stepping", stepping),
    VALUE("level", level), VALUE("xlevel", xlevel), VALUE("min-level", min_level),
    VALUE("min-xlevel", min_xlevel), VALUE("phys-bits", phys_bits),
    OPTION("check", check), OPTION("enforce", enforce), OPTION("migratable", migratable),
    OPTION("kvm", kvm_leaf), OPTION("l3-cache", l3_cache),
    OPTION("host-cache-info", host_cache_info), OPTION("pmu", pmu),
    OPTION("host-phys-bits", host_phys_bits), OPTION("cpuid-0xb", cpuid_0xb),
    COMPUTED("apic-id", kind_int, get_apic_id, 0),
    COMPUTED("socket-id", kind_int, get_place, offsetof(SmpPlace, socket)),
    COMPUTED("die-id", kind_int, get_place, offsetof(SmpPlace, die)),
    COMPUTED("core-id", kind_int, get_place, offsetof(SmpPlace, core)),
    COMPUTED("thread-id", kind_int, get_place, offsetof(SmpPlace, thread),
             .help = "number of the thread in its core"),
    COMPUTED("host-thread-id", kind_int, get_host_thread, 0,
             .help = "the host's id of the thread that runs it"),
};

/* ---- types: filled before main(), as the registry is ---- */

static void cpu_finalize(Object *obj)
{
    CpuObject *cpu = (CpuObject *)obj;
    cpu_state_free(cpu->state);
    if (cpu->vcpu)
        cpu->vcpu->object = NULL;
}

static const Type cpu_type = {
    .name = "cpu", .abstract = true, .help = "what all CPUs have in common",
};
TYPE_REGISTER(cpu_type)

static Property cpu_props[FEATURE_MAX + G_N_ELEMENTS(fixed_props) + 1];
static Type x86_type = {
    .name = "x86_64-cpu", .parent = "cpu", .abstract = true,
    .help = "what all x86 CPUs have in common",
    .size = sizeof(CpuObject), .props = cpu_props, .state = &cpu_table, .finalize = cpu_finalize,
};
static Type model_types[128];
static char model_names[G_N_ELEMENTS(model_types)][48];

static void register_model(unsigned n, const char *name, const char *help)
{
    g_snprintf(model_names[n], sizeof(model_names[n]), "%s" CPU_TYPE_SUFFIX, name);
    model_types[n] = (Type){ .name = model_names[n], .parent = "x86_64-cpu", .help = help };
    type_register(&model_types[n]);
}

static void __attribute__((constructor)) register_cpus(void)
{
    unsigned n = 0;
    for (unsigned i = 0; i < G_N_ELEMENTS(fixed_props); i++)
        cpu_props[n++] = fixed_props[i];
    for (unsigned i = 0; i < FEATURE_MAX; i++)
        if (feature_name(i) && i != FEAT_KVM_EAX * 32 + 3)
            cpu_props[n++] = (Property)COMPUTED(feature_name(i), kind_bool, get_feature, i);
    type_register(&x86_type);
    register_model(0, "host", "the host's CPU, as KVM offers it");
    register_model(1, "max", "the host's CPU, as KVM offers it");
    for (unsigned i = 0; i < cpu_model_def_count && i + 2 < G_N_ELEMENTS(model_types); i++)
        register_model(i + 2, cpu_model_defs[i].name, cpu_model_defs[i].model_id ?: "CPU model");
}

/* ---- objects ---- */

static const char *type_name_of(const CpuModel *model)
{
    const CpuModelDef *def = cpu_model_def(model->name);
    const char *name = def ? def->name : model->name;
    for (unsigned i = 0; i < G_N_ELEMENTS(model_types) && model_types[i].name; i++)
        if (g_str_has_prefix(model_names[i], name) &&
            !strcmp(model_names[i] + strlen(name), CPU_TYPE_SUFFIX))
            return model_names[i];
    return NULL;
}

static bool add_cpu(Vcpu *vcpu, Object *parent, unsigned *next, GError **error)
{
    CpuObject *cpu = (CpuObject *)object_new_by_name(type_name_of(vcpu->model), error);
    if (!cpu)
        return false;
    cpu->vcpu = vcpu;
    cpu->state = cpu_state_new(vcpu->kvm);
    g_autofree char *name = NULL;
    do {
        g_free(name);
        name = g_strdup_printf("device[%u]", (*next)++);
    } while (object_child(parent, name));
    bool ok = object_add_child(parent, name, OBJECT(cpu), error) &&
              object_realize(OBJECT(cpu), error);
    vcpu->object = ok ? OBJECT(cpu) : NULL;
    object_unref(cpu);
    return ok;
}

bool kvm_add_objects(Kvm *kvm, Object *machine, GError **error)
{
    Object *parent = object_container(machine, "unattached");
    unsigned next = 0;
    for (unsigned i = 0; i < kvm->vcpus->len; i++)
        if (!add_cpu(kvm->vcpus->pdata[i], parent, &next, error))
            return false;
    return kvm_add_vm_object(kvm, machine, error);
}

void vcpu_detach_object(Vcpu *vcpu)
{
    if (vcpu->object)
        ((CpuObject *)vcpu->object)->vcpu = NULL;
}

Object *vcpu_object(const Vcpu *vcpu)
{
    return vcpu->object;
}

#include "tests/device/subjects.h"

/* What a type cannot do without: a backend, and the properties that name it. */
static const struct {
    const char *type, *backend, *props;
} needs[] = {
    { "pc-q35-1.0", "", ",hpet=on" },
    { "isa-debugcon", "-chardev null,id=c0", ",chardev=c0" },
    { "virtio-blk-pci", "-blockdev null-co,node-name=d0,size=1M", ",drive=d0" },
    { "virtio-blk-pci-non-transitional", "-blockdev null-co,node-name=d0,size=1M", ",drive=d0" },
    { "virtio-blk-pci-transitional", "-blockdev null-co,node-name=d0,size=1M", ",drive=d0" },
};

static void collect_device(const Type *type, void *types)
{
    if (type->user_creatable && !type->abstract)
        g_ptr_array_add(types, (void *)type);
}

static void collect_machine(const Type *type, void *types)
{
    if (!type->abstract)
        g_ptr_array_add(types, (void *)type);
}

GPtrArray *subject_types(void)
{
    GPtrArray *types = g_ptr_array_new();

    type_foreach("device", collect_device, types);
    type_foreach("machine", collect_machine, types);
    return types;
}

SubjectMachine subject_boot_with(const Type *type, const char *machine, const char *before,
                                 const char *props)
{
    bool is_machine = type_is_a(type, "machine");
    g_autofree char *options =
        is_machine ? g_strdup_printf("-machine %s%s %s", type->name, props, before)
                   : g_strdup_printf("-machine %s %s -device %s,id=dut%s", machine, before,
                                     type->name, props);
    SubjectMachine s = { .m = test_machine_new(options) };

    s.top = is_machine ? OBJECT(s.m->machine) : OBJECT(find_device(s.m, "dut"));
    s.pci = object_is_a(s.top, "pci-device") ? PCI_DEVICE(s.top) : NULL;
    s.ranges = g_array_new(FALSE, FALSE, sizeof(SubjectRange));
    return s;
}

SubjectMachine subject_boot(const Type *type, const char *machine)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(needs); i++)
        if (!strcmp(needs[i].type, type->name))
            return subject_boot_with(type, machine, needs[i].backend, needs[i].props);
    return subject_boot_with(type, machine, "", "");
}

void subject_free(SubjectMachine *s)
{
    test_machine_free(s->m);
    g_array_unref(s->ranges);
}

typedef struct RangeSearch {
    SubjectMachine *s;
    AddressSpace *as;
} RangeSearch;

static bool belongs_to(const Object *owner, const Object *top)
{
    while (owner && owner != top)
        owner = owner->parent;
    return owner != NULL;
}

static void collect_range(const FlatRange *range, void *opaque)
{
    RangeSearch *search = opaque;
    SubjectRange found = { search->as, range->addr, range->size };

    if (range->region->kind == REGION_IO && belongs_to(range->region->owner, search->s->top))
        g_array_append_val(search->s->ranges, found);
}

void subject_find_ranges(SubjectMachine *s)
{
    AddressSpace *spaces[] = { s->m->machine->memory, s->m->machine->io };

    g_array_set_size(s->ranges, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(spaces); i++)
        address_space_foreach(spaces[i], collect_range, &(RangeSearch){ s, spaces[i] });
}

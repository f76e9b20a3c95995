/* Machines: how one is made, built, reset and taken apart. */
#include "hw/core/machine.h"
#include <string.h>
#include <time.h>
#include "hw/core/device-priv.h"
#include "src/base/util.h"

Machine *machine_of(const Object *obj)
{
    Object *m = object_child(object_root(obj), "machine");

    return m && object_is_a(m, "machine") ? MACHINE(m) : NULL;
}

/* ---- finding a type ---- */

typedef struct TypeSearch {
    const char *name;
    const Type *found;
    GPtrArray *names;
} TypeSearch;

static void match_type(const Type *type, void *opaque)
{
    TypeSearch *search = opaque;
    const MachineOps *ops = type_ops(type);

    if (type->abstract)
        return;
    g_ptr_array_add(search->names, (void *)type->name);
    if (ops && ops->alias)
        g_ptr_array_add(search->names, (void *)ops->alias);
    if (!strcmp(type->name, search->name) ||
        (ops && ops->alias && !strcmp(ops->alias, search->name)))
        search->found = type;
}

const Type *machine_type_find(const char *type_or_alias, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    TypeSearch search = { .name = type_or_alias, .names = names };
    const char *near;

    type_foreach("machine", match_type, &search);
    if (search.found)
        return search.found;
    g_ptr_array_add(names, NULL);
    fail(error, ERR_INVALID_PARAMETER, "unsupported machine type '%s'", type_or_alias);
    near = nearest_word(type_or_alias, (const char *const *)names->pdata);
    if (near)
        error_hint(error, "did you mean '%s'?", near);
    else
        error_hint(error, "use -machine help to list supported machines");
    return NULL;
}

/* ---- making and building ---- */

static void set_gsi(void *opaque, unsigned n, bool level)
{
    Machine *m = opaque;

    if (m->intr)
        m->intr->ops->set_gsi(m->intr, n, level);
}

Machine *machine_new(Object *root, const char *type_or_alias, VmLock *lock, const MachineEnv *env,
                     IntrController *intr, GError **error)
{
    const Type *type = machine_type_find(type_or_alias, error);
    g_autoptr(Object) obj = type ? object_new(type) : NULL;
    Machine *m = MACHINE(obj);

    if (!obj || !object_add_child(root, "machine", obj, error))
        return NULL;
    m->lock = lock;
    m->env = env;
    m->intr = intr;
    object_container(obj, "peripheral");
    object_container(obj, "peripheral-anon");
    object_container(obj, "unattached");
    m->memory = address_space_new("memory", &m->memory_root, lock);
    m->io = address_space_new("I/O", &m->io_root, lock);
    return m;
}

static void collect_property(const Property *prop, void *names)
{
    g_ptr_array_add(names, (void *)prop->name);
}

/* An instance knows what it forwards to an inner device, too. */
static bool check_property(const Type *type, const char *name, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    g_autoptr(Object) obj = object_new(type);
    const char *near;

    for (Object *o = obj; o; o = object_forward(o)) {
        if (type_find_property(o->type, name))
            return true;
        type_foreach_property(o->type, collect_property, names);
    }
    g_ptr_array_add(names, NULL);
    near = nearest_word(name, (const char *const *)names->pdata);
    fail(error, ERR_UNKNOWN_PARAMETER, "property '%s.%s' not found", type->name, name);
    return near ? error_hint(error, "did you mean '%s'?", near) : false;
}

bool machine_add_global(Machine *m, json_object *global, GError **error)
{
    const char *driver = NULL, *property = NULL;
    const Type *type;

    if (!options_get_str(global, "driver", &driver, error) ||
        !options_get_str(global, "property", &property, error))
        return false;
    type = driver ? type_find(driver) : NULL;
    if (!type)
        warn_report("global property: there is no device type '%s'", driver ? driver : "");
    else if (property && !type->abstract && !check_property(type, property, error))
        return false;
    g_ptr_array_add(m->globals, json_object_get(global));
    return true;
}

/* RAM that no -machine memory-backend= gives: a private object of the machine's default name. */
static bool make_default_ram(Machine *m, const char *id, GError **error)
{
    g_autoptr(Object) ram = object_new_by_name("memory-backend-ram", error);
    Object *objects = object_container(object_root(OBJECT(m)), "objects");

    if (!ram)
        return false;
    object_set_context(ram, OBJECT(m));
    if (!object_set_u64(ram, "size", m->ram_size, error) ||
        !object_set_bool(ram, "merge", m->mem_merge, error) ||
        !object_set_bool(ram, "dump", m->dump_guest_core, error) ||
        !object_add_child(objects, id, ram, error))
        return false;
    if (!object_realize(ram, error)) {
        object_unparent(ram);
        return false;
    }
    m->ram_backend = object_ref(ram);
    m->made_ram = true;
    return true;
}

static bool take_ram(Machine *m, GError **error)
{
    const MachineOps *ops = type_ops(m->obj.type);
    uint64_t size;

    if (!m->ram_backend) {
        if (!m->ram_size || !ops->default_ram_id)
            return true;
        if (!make_default_ram(m, ops->default_ram_id, error))
            return false;
    }
    if (!memory_backend_claim((MemoryBackend *)m->ram_backend, error))
        return false;
    m->ram = memory_backend_block((MemoryBackend *)m->ram_backend);
    size = ram_block_size(m->ram);
    if (m->ram_size && m->ram_size != size)
        return fail(error, ERR_INVALID_PARAMETER,
                    "machine memory size (%" G_GUINT64_FORMAT
                    ") does not match the size of memory backend '%s' (%" G_GUINT64_FORMAT ")",
                    m->ram_size, m->ram_backend->name, size);
    m->ram_size = size;
    return true;
}

bool machine_build(Machine *m, GError **error)
{
    const MachineOps *ops = type_ops(m->obj.type);

    if (!object_realize(OBJECT(m), error) || !take_ram(m, error))
        return false;
    return !ops->build || ops->build(m, error);
}

bool machine_done(Machine *m, GError **error)
{
    const MachineOps *ops = type_ops(m->obj.type);

    if (ops->done && !ops->done(m, error))
        return false;
    m->ready = true;
    return true;
}

void machine_delete(Machine *m)
{
    Object *obj = OBJECT(m);

    m->ready = false;
    devices_delete_under(obj);
    object_unrealize(obj);
    if (m->ram)
        memory_backend_release((MemoryBackend *)m->ram_backend);
    m->ram = NULL;
    if (m->made_ram) {
        object_unrealize(m->ram_backend);
        object_unparent(m->ram_backend);
    }
    object_unparent(obj);
}

/* ---- reset ---- */

static bool reset_one(Object *obj, void *machine)
{
    if (obj != machine)
        object_reset(obj);
    return true;
}

void machine_reset(Machine *m)
{
    const MachineOps *ops = type_ops(m->obj.type);

    object_walk(OBJECT(m), reset_one, m);
    if (m->env->reset_cpus)
        m->env->reset_cpus(m);
    if (ops->reset)
        ops->reset(m);
}

/* ---- running and stopped ---- */

typedef struct RunHook {
    RunStateFn *fn;
    void *opaque;
} RunHook;

void machine_add_run_hook(Machine *m, RunStateFn *fn, void *opaque)
{
    RunHook hook = { fn, opaque };

    g_array_append_val(m->run_hooks, hook);
}

void machine_del_run_hook(Machine *m, RunStateFn *fn, void *opaque)
{
    for (unsigned i = 0; i < m->run_hooks->len; i++) {
        RunHook *hook = &g_array_index(m->run_hooks, RunHook, i);

        if (hook->fn == fn && hook->opaque == opaque) {
            g_array_remove_index(m->run_hooks, i);
            return;
        }
    }
}

static int64_t monotonic_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int64_t machine_clock_ns(const Machine *m)
{
    return m->clock_running ? monotonic_ns() + m->clock_ns : m->clock_ns;
}

static void set_clock_running(Machine *m, bool running)
{
    if (m->clock_running == running)
        return;
    m->clock_ns = running ? m->clock_ns - monotonic_ns() : machine_clock_ns(m);
    m->clock_running = running;
}

void machine_run_hooks(Machine *m, bool running)
{
    g_autoptr(GArray) hooks = g_array_copy(m->run_hooks);

    if (running)
        set_clock_running(m, true);
    for (unsigned i = 0; i < hooks->len; i++) {
        RunHook *hook = &g_array_index(hooks, RunHook, running ? i : hooks->len - 1 - i);

        hook->fn(hook->opaque, running);
    }
    if (!running)
        set_clock_running(m, false);
}

/* ---- the base type ---- */

static void drop_json(void *json)
{
    json_object_put(json);
}

static void machine_init(Object *obj)
{
    Machine *m = MACHINE(obj);

    m->globals = g_ptr_array_new_with_free_func(drop_json);
    m->run_hooks = g_array_new(FALSE, FALSE, sizeof(RunHook));
    region_init_container(&m->memory_root, obj, "system", UINT64_MAX);
    region_init_container(&m->io_root, obj, "io", 0x10000);
    for (unsigned n = 0; n < G_N_ELEMENTS(m->gsi); n++)
        irq_line_init(&m->gsi[n], set_gsi, m, n);
}

static void machine_finalize(Object *obj)
{
    Machine *m = MACHINE(obj);

    g_clear_pointer(&m->memory, address_space_free);
    g_clear_pointer(&m->io, address_space_free);
    region_destroy(&m->memory_root);
    region_destroy(&m->io_root);
    g_clear_pointer(&m->boot_order, g_free);
    g_clear_pointer(&m->cpu_type, g_free);
    g_clear_pointer(&m->globals, g_ptr_array_unref);
    g_clear_pointer(&m->run_hooks, g_array_unref);
}

static const Property machine_props[] = {
    PROP_LINK("memory-backend", Machine, ram_backend, "memory-backend",
              .help = "memory backend that holds the machine's RAM"),
    PROP("mem-merge", Machine, mem_merge, .def.b = true,
         .help = "let the host merge equal pages of guest RAM"),
    PROP("dump-guest-core", Machine, dump_guest_core, .def.b = true,
         .help = "include guest RAM in a core dump"),
    PROP("usb", Machine, usb, .help = "the board's own USB controller"),
    PROP("kernel", Machine, kernel, .help = "Linux kernel image to boot"),
    PROP("initrd", Machine, initrd, .help = "Linux initial RAM disk"),
    PROP("append", Machine, append, .help = "Linux kernel command line"),
    PROP("firmware", Machine, firmware, .help = "firmware image"),
    PROP("dtb", Machine, dtb, .help = "device tree blob"),
    {}
};

/* The clock stands still while state is saved or loaded. */
static void machine_pre_save(void *obj)
{
    set_clock_running(obj, false);
}

static bool machine_pre_load(void *obj, GError **error)
{
    set_clock_running(obj, false);
    return true;
}

static const StateField machine_fields[] = {
    FIELD_CLOCK(Machine, clock_ns),
    {}
};
static const StateTable machine_state = {
    .fields = machine_fields, .pre_save = machine_pre_save, .pre_load = machine_pre_load,
};

static const Type machine_type = {
    .name = "machine", .parent = "object", .help = "what all machines have in common",
    .size = sizeof(Machine), .abstract = true, .props = machine_props, .state = &machine_state,
    .init = machine_init, .finalize = machine_finalize,
};
TYPE_REGISTER(machine_type)

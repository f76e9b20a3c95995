/* Buses: where devices plug in. */
#include <string.h>
#include "hw/core/device-priv.h"

Bus *bus_new(const char *type, Device *parent, Machine *machine, const char *name, GError **error)
{
    g_autoptr(Object) obj = object_new_by_name(type, error);
    Bus *bus = (Bus *)obj;

    if (!obj)
        return NULL;
    bus->parent = parent;
    if (!object_add_child(parent ? OBJECT(parent) : OBJECT(machine), name, obj, error))
        return NULL;
    if (!object_realize(obj, error)) {
        object_unparent(obj);
        return NULL;
    }
    return bus;
}

bool bus_attach(Bus *bus, Device *dev, GError **error)
{
    const BusOps *ops = type_ops(bus->obj.type);

    if (bus->max_devices && bus->devices->len >= bus->max_devices)
        return fail(error, ERR_LIMIT, "bus '%s' is full", bus->obj.name);
    if (ops && ops->attach && !ops->attach(bus, dev, error))
        return false;
    g_ptr_array_add(bus->devices, dev);
    dev->bus = bus;
    return true;
}

void bus_detach(Bus *bus, Device *dev)
{
    const BusOps *ops = type_ops(bus->obj.type);

    if (ops && ops->detach)
        ops->detach(bus, dev);
    g_ptr_array_remove(bus->devices, dev);
    dev->bus = NULL;
}

typedef struct BusSearch {
    const char *name, *type;
    Bus *found, *full;
} BusSearch;

static bool match_bus(Object *obj, void *opaque)
{
    BusSearch *search = opaque;
    Bus *bus = (Bus *)obj;

    if (!object_is_a(obj, "bus"))
        return true;
    if (search->name ? strcmp(obj->name, search->name) : !object_is_a(obj, search->type))
        return true;
    if (!search->name && bus->max_devices && bus->devices->len >= bus->max_devices) {
        search->full = bus;
        return true;
    }
    search->found = bus;
    return false;
}

static bool collect_bus(Object *obj, void *names)
{
    if (object_is_a(obj, "bus"))
        g_ptr_array_add(names, obj->name);
    return true;
}

static Bus *find_named(Machine *m, const char *name, const Type *type, GError **error)
{
    BusSearch search = { .name = name };
    g_autoptr(GPtrArray) names = NULL;
    const char *near;

    if (*name == '/') {
        Object *obj = object_resolve(OBJECT(m), name);

        search.found = obj && object_is_a(obj, "bus") ? (Bus *)obj : NULL;
    } else {
        object_walk(OBJECT(m), match_bus, &search);
    }
    if (search.found) {
        if (object_is_a(OBJECT(search.found), type_bus(type)))
            return search.found;
        fail(error, ERR_INVALID_PARAMETER, "device '%s' cannot go on a '%s' bus such as '%s'",
             type->name, search.found->obj.type->name, name);
        return NULL;
    }
    names = g_ptr_array_new();
    object_walk(OBJECT(m), collect_bus, names);
    g_ptr_array_add(names, NULL);
    fail(error, ERR_NOT_FOUND, "there is no bus '%s' for device '%s'", name, type->name);
    near = nearest_word(name, (const char *const *)names->pdata);
    if (near)
        error_hint(error, "did you mean '%s'?", near);
    return NULL;
}

Bus *bus_find_for(Machine *m, const char *name, const Type *type, GError **error)
{
    BusSearch search = { .type = type_bus(type) };

    if (name)
        return find_named(m, name, type, error);
    /* The board's own bus comes before buses behind bridges. */
    if (m->main_bus)
        match_bus(OBJECT(m->main_bus), &search);
    if (search.found)
        return search.found;
    object_walk(OBJECT(m), match_bus, &search);
    if (search.found)
        return search.found;
    if (search.full)
        fail(error, ERR_LIMIT, "every '%s' bus is full, no place for device '%s'", search.type,
             type->name);
    else
        fail(error, ERR_NOT_FOUND, "this machine has no '%s' bus for device '%s'", search.type,
             type->name);
    return NULL;
}

/* ---- the base types ---- */

static void bus_init(Object *obj)
{
    ((Bus *)obj)->devices = g_ptr_array_new();
}

static void bus_finalize(Object *obj)
{
    g_clear_pointer(&((Bus *)obj)->devices, g_ptr_array_unref);
}

static const Type bus_type = {
    .name = "bus", .parent = "object", .help = "a bus that devices plug into",
    .size = sizeof(Bus), .abstract = true, .init = bus_init, .finalize = bus_finalize,
};
TYPE_REGISTER(bus_type)

/* ISA has no addresses of its own: each device says which ports it decodes. */
static const Type isa_bus_type = {
    .name = "isa-bus", .parent = "bus", .help = "ISA bus",
};
TYPE_REGISTER(isa_bus_type)

static const Type isa_device_type = {
    .name = "isa-device", .parent = "device", .help = "what ISA devices have in common",
    .abstract = true, .bus_type = "isa-bus",
};
TYPE_REGISTER(isa_device_type)

static const Type sys_bus_type = {
    .name = "sys-bus", .parent = "bus", .help = "devices that are part of the board",
};
TYPE_REGISTER(sys_bus_type)

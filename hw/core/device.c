/* Devices: how they come into a machine, and leave it. */
#include <string.h>
#include "hw/core/device-priv.h"
#include "schema/events.h"

/* -global: a driver may be an abstract base, too. */
static bool apply_globals(Device *dev, GError **error)
{
    GPtrArray *globals = dev->machine->globals;

    for (unsigned i = 0; i < globals->len; i++) {
        const char *driver = NULL, *property = NULL;
        json_object *value = NULL;

        options_get_str(globals->pdata[i], "driver", &driver, NULL);
        options_get_str(globals->pdata[i], "property", &property, NULL);
        json_object_object_get_ex(globals->pdata[i], "value", &value);
        if (driver && property && object_is_a(OBJECT(dev), driver) &&
            !object_set(OBJECT(dev), property, value, error))
            return error_prefix(error, "global '%s.%s': ", driver, property);
    }
    return true;
}

Device *device_new(Machine *machine, const char *type_name, GError **error)
{
    Object *obj = object_new_by_name(type_name, error);

    if (!obj)
        return NULL;
    if (!object_is_a(obj, "device")) {
        fail(error, ERR_INVALID_PARAMETER, "type '%s' is not a device", type_name);
        object_unref(obj);
        return NULL;
    }
    object_set_context(obj, OBJECT(machine));
    DEVICE(obj)->machine = machine;
    if (!apply_globals(DEVICE(obj), error)) {
        object_unref(obj);
        return NULL;
    }
    return DEVICE(obj);
}

static const BusOps *bus_ops(const Bus *bus)
{
    return bus ? type_ops(bus->obj.type) : NULL;
}

static bool realize_on_bus(Device *dev, Bus *bus, GError **error)
{
    if (bus && !bus_attach(bus, dev, error))
        return false;
    if (object_realize(OBJECT(dev), error)) {
        if (dev->hotplugged && bus_ops(bus) && bus_ops(bus)->plugged)
            bus_ops(bus)->plugged(bus, dev);
        return true;
    }
    if (bus)
        bus_detach(bus, dev);
    return false;
}

bool device_realize(Device *dev, Object *owner, const char *name, Bus *bus, GError **error)
{
    Machine *m = dev->machine;
    g_autofree char *made_name = NULL;

    if (!owner)
        owner = object_container(OBJECT(m), "unattached");
    while (!name || (made_name && object_child(owner, name))) {   /* vCPUs have numbers there, too */
        g_free(made_name);
        name = made_name = g_strdup_printf("device[%u]", m->unattached_count++);
    }
    if (!object_add_child(owner, name, OBJECT(dev), error))
        return false;
    if (!realize_on_bus(dev, bus, error)) {
        object_unparent(OBJECT(dev));
        object_set_context(OBJECT(dev), OBJECT(m));
        return false;
    }
    dev->managed = true;
    return true;
}

void devices_delete_under(Object *obj)
{
    Bus *bus = object_is_a(obj, "bus") ? (Bus *)obj : NULL;

    for (unsigned i = bus ? bus->devices->len : 0; i > 0; i = MIN(i - 1, bus->devices->len))
        device_delete(bus->devices->pdata[i - 1]);
    /* A deletion may take neighbours along: start again from the end each time. */
    for (unsigned i = obj->children ? obj->children->len : 0; i > 0;) {
        Object *child = obj->children->pdata[i - 1];
        unsigned before = obj->children->len;

        if (object_is_a(child, "device") && DEVICE(child)->managed)
            device_delete(DEVICE(child));
        else
            devices_delete_under(child);
        i = obj->children->len == before ? i - 1 : obj->children->len;
    }
}

/* One that a user made, in a machine that goes on: monitors hear of its end. */
static bool tells_monitors(const Device *dev)
{
    const Object *place = dev->obj.parent;

    return dev->machine->ready && place &&
           (!strcmp(place->name, "peripheral") || !strcmp(place->name, "peripheral-anon"));
}

void device_delete(Device *dev)
{
    bool tell = tells_monitors(dev);
    g_autofree char *path = NULL, *id = NULL;
    Machine *m = dev->machine;

    /* Its unrealize may run the loop, in which somebody else has the same wish. */
    if (dev->deleting)
        return;
    dev->deleting = true;
    path = object_path(OBJECT(dev));
    id = g_strdup(dev->id);
    devices_delete_under(OBJECT(dev));
    object_unrealize(OBJECT(dev));
    if (dev->bus)
        bus_detach(dev->bus, dev);
    dev->managed = false;
    object_unparent(OBJECT(dev));
    object_unref(dev);
    if (tell)
        event_device_deleted(OBJECT(m), id, path);
}

/* ---- -device and device_add ---- */

static bool is_creatable(const Type *type)
{
    return type->user_creatable && !type->abstract && type_is_a(type, "device");
}

static void collect_creatable(const Type *type, void *names)
{
    if (is_creatable(type))
        g_ptr_array_add(names, (void *)type->name);
}

const char *device_type_name(const char *name)
{
    static const struct {
        const char *alias, *type;
    } aliases[] = { { "virtio-blk", "virtio-blk-pci" }, { "virtio-rng", "virtio-rng-pci" } };

    for (size_t i = 0; i < G_N_ELEMENTS(aliases); i++) {
        if (!strcmp(aliases[i].alias, name))
            return aliases[i].type;
    }
    return name;
}

static const Type *find_driver(const char *name, GError **error)
{
    const Type *type = type_find(name);
    g_autoptr(GPtrArray) names = NULL;
    const char *near;

    if (type && is_creatable(type))
        return type;
    if (type && type_is_a(type, "device")) {
        fail(error, ERR_INVALID_PARAMETER, "device '%s' is part of a machine and cannot be added",
             name);
        return NULL;
    }
    names = g_ptr_array_new();
    type_foreach("device", collect_creatable, names);
    g_ptr_array_add(names, NULL);
    fail(error, ERR_INVALID_PARAMETER, "there is no device type '%s'", name);
    near = nearest_word(name, (const char *const *)names->pdata);
    if (near)
        error_hint(error, "did you mean '%s'?", near);
    return NULL;
}

static bool check_id(Machine *m, const char *id, GError **error)
{
    if (!id)
        return true;
    if (!object_id_valid(id)) {
        fail(error, ERR_INVALID_PARAMETER, "'%s' is not a valid id", id);
        return error_hint(error,
                          "an id is a letter followed by letters, digits, '-', '.' and '_'");
    }
    if (object_child(object_container(OBJECT(m), "peripheral"), id))
        return fail(error, ERR_EXISTS, "there is already a device with id '%s'", id);
    return true;
}

static bool set_properties(Device *dev, json_object *options, GError **error)
{
    json_object_object_foreach(options, key, value)
    {
        if (!strcmp(key, "driver") || !strcmp(key, "id") || !strcmp(key, "bus"))
            continue;
        if (!object_set(OBJECT(dev), key, value, error))
            return false;
    }
    return true;
}

static bool check_hotplug(Bus *bus, Device *dev, GError **error)
{
    const BusOps *ops = bus_ops(bus);

    if (!bus)
        return fail(error, ERR_UNSUPPORTED, "device '%s' cannot be plugged into a running machine",
                    dev->obj.type->name);
    if (!ops || !ops->can_hotplug)
        return fail(error, ERR_UNSUPPORTED, "bus '%s' takes devices only before the machine starts",
                    bus->obj.name);
    return ops->can_hotplug(bus, dev, error);
}

static bool place_device(Device *dev, Bus *bus, GError **error)
{
    Machine *m = dev->machine;
    const char *where = dev->id ? "peripheral" : "peripheral-anon";
    g_autofree char *name = dev->id ? g_strdup(dev->id)
                                    : g_strdup_printf("device[%u]", m->anon_count++);

    return device_realize(dev, object_container(OBJECT(m), where), name, bus, error);
}

Device *device_create(Machine *m, json_object *options, bool hotplug, GError **error)
{
    const char *driver = NULL, *id = NULL, *bus_name = NULL;
    const Type *type;
    Device *dev;
    Bus *bus = NULL;

    if (!options_get_str(options, "driver", &driver, error) ||
        !options_get_str(options, "id", &id, error) ||
        !options_get_str(options, "bus", &bus_name, error))
        return NULL;
    if (!driver) {
        fail(error, ERR_MISSING_PARAMETER, "parameter 'driver' is missing");
        return NULL;
    }
    driver = device_type_name(driver);
    type = find_driver(driver, error);
    if (!type || !check_id(m, id, error))
        return NULL;
    if (type_bus(type)) {
        bus = bus_find_for(m, bus_name, type, error);
        if (!bus)
            return NULL;
    } else if (bus_name) {
        fail(error, ERR_INVALID_PARAMETER, "device '%s' is on no bus, but bus '%s' was given",
             driver, bus_name);
        return NULL;
    }
    dev = device_new(m, driver, error);
    if (!dev)
        return NULL;
    dev->id = g_strdup(id);
    dev->hotplugged = hotplug;
    if (set_properties(dev, options, error) && (!hotplug || check_hotplug(bus, dev, error)) &&
        place_device(dev, bus, error))
        return dev;
    error_object(error, "%s", id ? id : driver);
    object_unref(dev);
    return NULL;
}

bool device_unplug(Machine *m, const char *id, GError **error)
{
    Device *dev = device_find(m, id);
    const BusOps *ops;

    if (!dev)
        return fail(error, ERR_DEVICE_NOT_FOUND, "Device '%s' not found", id);
    ops = bus_ops(dev->bus);
    if (!ops || !ops->unplug)
        return fail(error, ERR_UNSUPPORTED, "device '%s' cannot be unplugged from a running machine",
                    id);
    return ops->unplug(dev->bus, dev, error);
}

Device *device_find(Machine *m, const char *id_or_path)
{
    Object *obj = *id_or_path == '/'
                      ? object_resolve(OBJECT(m), id_or_path)
                      : object_child(object_container(OBJECT(m), "peripheral"), id_or_path);

    return obj && object_is_a(obj, "device") ? DEVICE(obj) : NULL;
}

/* ---- the base type ---- */

static void device_finalize(Object *obj)
{
    g_clear_pointer(&DEVICE(obj)->id, g_free);
}

static json_object *get_realized(Object *obj, const Property *prop)
{
    return json_object_new_boolean(obj->realized);
}

static json_object *get_hotplugged(Object *obj, const Property *prop)
{
    return json_object_new_boolean(DEVICE(obj)->hotplugged);
}

static json_object *get_hotpluggable(Object *obj, const Property *prop)
{
    Device *dev = DEVICE(obj);
    const BusOps *ops = bus_ops(dev->bus);

    return json_object_new_boolean(ops && ops->unplug && ops->can_hotplug &&
                                   ops->can_hotplug(dev->bus, dev, NULL));
}

static json_object *get_parent_bus(Object *obj, const Property *prop)
{
    const Bus *bus = DEVICE(obj)->bus;
    g_autofree char *path = bus ? object_path(OBJECT(bus)) : g_strdup("");

    return json_object_new_string(path);
}

static const Property device_props[] = {
    PROP_FN("realized", get_realized, NULL, .help = "part of the machine", .read_only = true),
    PROP_FN("hotplugged", get_hotplugged, NULL, .help = "plugged in while the machine ran",
            .read_only = true),
    PROP_FN("hotpluggable", get_hotpluggable, NULL, .help = "may be unplugged while it runs",
            .read_only = true),
    PROP_FN("parent_bus", get_parent_bus, NULL, .help = "path of its bus", .read_only = true),
    {}
};

static const Type device_type = {
    .name = "device", .parent = "object", .help = "what all devices have in common",
    .size = sizeof(Device), .abstract = true, .props = device_props, .finalize = device_finalize,
};
TYPE_REGISTER(device_type)

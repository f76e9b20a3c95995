/* The text of `info qtree`. */
#include "hw/core/device-priv.h"

typedef struct Listing {
    GString *text;
    unsigned indent;
    Object *obj;
} Listing;

static void G_GNUC_PRINTF(2, 3) put_line(Listing *l, const char *format, ...)
{
    va_list args;

    g_string_append_printf(l->text, "%*s", (int)l->indent, "");
    va_start(args, format);
    g_string_append_vprintf(l->text, format, args);
    va_end(args);
    g_string_append_c(l->text, '\n');
}

/* A number whose default stands for "not given". */
static bool is_unset(const Property *prop, json_object *value)
{
    return prop->def.u == UINT32_MAX && json_object_is_type(value, json_type_int) &&
           json_object_get_uint64(value) == UINT32_MAX;
}

static void list_property(const Property *prop, void *opaque)
{
    Listing *l = opaque;
    g_autoptr(json_object) value = NULL;

    if (prop->read_only)
        return;
    value = prop->kind->get(l->obj, prop);
    if (is_unset(prop, value)) {
        put_line(l, "%s = unset", prop->name);
        return;
    }
    put_line(l, "%s = %s", prop->name,
             value ? json_object_to_json_string_ext(value, JSON_C_TO_STRING_NOSLASHESCAPE)
                   : "null");
}

static void list_bus(Listing *l, Bus *bus);

static void list_device(Listing *l, Device *dev)
{
    const BusOps *ops = dev->bus ? type_ops(dev->bus->obj.type) : NULL;
    g_autofree char *address = ops && ops->address ? ops->address(dev->bus, dev) : NULL;

    put_line(l, "dev: %s, id \"%s\"", dev->obj.type->name, dev->id ? dev->id : "");
    l->indent += 2;
    if (address)
        put_line(l, "address = %s", address);
    for (Object *obj = OBJECT(dev); obj; obj = object_forward(obj)) {
        l->obj = obj;
        type_foreach_property(obj->type, list_property, l);
    }
    for (unsigned i = 0; dev->obj.children && i < dev->obj.children->len; i++) {
        Object *child = dev->obj.children->pdata[i];

        if (object_is_a(child, "bus"))
            list_bus(l, (Bus *)child);
    }
    l->indent -= 2;
}

static void list_bus(Listing *l, Bus *bus)
{
    put_line(l, "bus: %s", bus->obj.name);
    l->indent += 2;
    put_line(l, "type %s", bus->obj.type->name);
    for (unsigned i = 0; i < bus->devices->len; i++)
        list_device(l, bus->devices->pdata[i]);
    l->indent -= 2;
}

/* Roots of the listing: buses of the board, and devices that are on no bus. */
static bool list_root(Object *obj, void *opaque)
{
    if (object_is_a(obj, "bus") && !((Bus *)obj)->parent)
        list_bus(opaque, (Bus *)obj);
    else if (object_is_a(obj, "device") && !DEVICE(obj)->bus && DEVICE(obj)->managed)
        list_device(opaque, DEVICE(obj));
    return true;
}

char *device_describe_tree(Machine *machine)
{
    Listing l = { .text = g_string_new(NULL) };

    object_walk(OBJECT(machine), list_root, &l);
    return g_string_free(l.text, FALSE);
}

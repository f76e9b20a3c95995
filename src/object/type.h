/*
 * Types.  A device, a backend (-object), a bus, a CPU model or a machine is a `static const Type`:
 * a name, a parent, one line of help, a size, tables of properties and of state, and a few
 * functions.  Everything that lists or describes types (-device help, device-list-properties,
 * qom-list-types, the docs) reads these tables.
 *
 * The registry is filled by TYPE_REGISTER before main() and read-only afterwards.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "src/object/property.h"
#include "src/object/state.h"

typedef struct Object Object;
typedef struct Type Type;

struct Type {
    const char *name, *parent, *help;      /* help: one line, no full stop */
    size_t size;                           /* of the instance; 0: the parent's */
    bool abstract;                         /* no instances */
    bool user_creatable;                   /* -object / -device may make it; not inherited */
    const Property *props;                 /* ended by {}; a child may restate a parent's default */
    const StateTable *state;               /* migratable fields; the parents' come first */

    void (*init)(Object *obj);             /* parents first; properties have their defaults already */
    void (*finalize)(Object *obj);         /* children first; takes half-built objects */

    /* realize: parents first, then realize_done children first.  So a base class prepares
     * (config space, bus slot), the leaf adds its parts, and the base class finishes (maps the
     * BARs).  If one fails, it and those before it are unrealized: unrealize takes what its own
     * realize left half-done.  unrealize: children first.
     * reset: parents first.  All under the VM lock, in the main thread. */
    bool (*realize)(Object *obj, GError **error);
    bool (*realize_done)(Object *obj, GError **error);
    void (*unrealize)(Object *obj);
    void (*reset)(Object *obj);

    const void *ops;                       /* what the base class asks of it: PciDeviceOps, … ;
                                              NULL: the parent's */
    const char *category;                   /* for listings: "Storage", "Network", …; NULL: the
                                              parent's, in the end "Misc" */
    const char *bus_type;                  /* devices: type of bus it plugs into; NULL: the parent's */
};

void type_register(const Type *type);      /* before main() only; a duplicate name aborts: our bug */
#define TYPE_REGISTER(type)                                                                        \
    static void __attribute__((constructor)) register_##type(void)                                 \
    {                                                                                              \
        type_register(&(type));                                                                    \
    }

const Type *type_find(const char *name);                    /* NULL: no such type */
const Type *type_parent(const Type *type);
bool type_is_a(const Type *type, const char *ancestor);     /* true for itself, too */
size_t type_size(const Type *type);
const void *type_ops(const Type *type);                     /* nearest up the chain */
const char *type_bus(const Type *type);
const char *type_category(const Type *type);
/* Calls fn for each type that is_a @ancestor (NULL: all), sorted by name. */
void type_foreach(const char *ancestor, void (*fn)(const Type *type, void *opaque), void *opaque);
/* Calls fn for each property, children first, each name once. */
void type_foreach_property(const Type *type,
                           void (*fn)(const Property *prop, void *opaque), void *opaque);
const Property *type_find_property(const Type *type, const char *name);

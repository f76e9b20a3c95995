/*
 * Devices and buses.  A Device is an Object (type "device") that may plug into a Bus and may have
 * buses of its own.  -device and device_add make one with device_create.
 */
#pragma once
#include "hw/core/machine.h"
#include "src/object/object.h"

typedef struct Bus Bus;
typedef struct Device Device;

struct Device {
    Object obj;                             /* first: a Device * is an Object * */
    char *id;                               /* -device id=; NULL: none */
    Bus *bus;                               /* NULL: on none */
    Machine *machine;                       /* set before realize */
    bool hotplugged;
    bool managed;                           /* device_realize put it where it is */
    bool deleting;                          /* device_delete is at work */
};

/* A bus is an Object of a type that is_a "bus"; its devices are its children in plug order. */
struct Bus {
    Object obj;
    Device *parent;                         /* whose bus it is; NULL: the machine's */
    GPtrArray *devices;                     /* of Device, not counted */
    unsigned max_devices;                   /* 0: no limit of its own */
};
/* Type.ops of a bus type. */
typedef struct BusOps {
    /* Checks an address and takes the slot, before realize; fills in an automatic one. */
    bool (*attach)(Bus *bus, Device *dev, GError **error);
    void (*detach)(Bus *bus, Device *dev);
    /* May this device come (it is on no bus yet) and go while the guest runs?  NULL: none may. */
    bool (*can_hotplug)(Bus *bus, Device *dev, GError **error);
    /* A device that came while the guest runs is realized.  May be NULL. */
    void (*plugged)(Bus *bus, Device *dev);
    /* device_del: asks the guest, or removes it at once (device_delete).  NULL: refused. */
    bool (*unplug)(Bus *bus, Device *dev, GError **error);
    /* "0000:00:02.0" for `info qtree` and errors; g_free; may be NULL. */
    char *(*address)(Bus *bus, Device *dev);
} BusOps;

#define DEVICE(ptr) ((Device *)(ptr))

/* A new bus, child of @parent (or of /machine) named @name.  The tree owns it. */
Bus *bus_new(const char *type, Device *parent, Machine *machine, const char *name, GError **error);

/* Made by code of ours: a child of @owner (NULL: /machine/unattached), put on @bus.  The caller sets
 * properties and calls device_realize.  @name NULL: "device[N]".  If realizing fails, the device is in
 * no tree and the caller still has its reference (object_unref). */
Device *device_new(Machine *machine, const char *type, GError **error);
bool device_realize(Device *dev, Object *owner, const char *name, Bus *bus, GError **error);
/* Deletes what is on its buses and its own child devices, unrealizes it, takes it off its bus and
 * out of the tree, and drops the reference that device_new or device_create gave. */
void device_delete(Device *dev);

/* The type that -device NAME means: NAME, or what QEMU has it as a short name for. */
const char *device_type_name(const char *name);
/* -device / device_add: "driver", "id", "bus" and properties.  Emits no event.  /machine owns the
 * device (device_delete, machine_delete). */
Device *device_create(Machine *machine, json_object *options, bool hotplug, GError **error);
/* device_del: the unplug of a device.  GenericError if its bus cannot. */
bool device_unplug(Machine *machine, const char *id, GError **error);
Device *device_find(Machine *machine, const char *id_or_path);
/* All buses and devices, as `info qtree` prints them; g_free. */
char *device_describe_tree(Machine *machine);

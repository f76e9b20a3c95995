/* What the files of this folder share. */
#pragma once
#include "hw/core/device.h"
#include "src/base/options.h"

/* Takes a place on the bus (before realize), gives it back. */
bool bus_attach(Bus *bus, Device *dev, GError **error);
void bus_detach(Bus *bus, Device *dev);
/* The bus named @name (its name, or a path), or the first that takes a @type and has room. */
Bus *bus_find_for(Machine *m, const char *name, const Type *type, GError **error);
/* Deletes the devices that are on the buses of @obj or its children. */
void devices_delete_under(Object *obj);

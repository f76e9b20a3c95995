/*
 * ISA pvpanic: one byte port by which a guest reports that it has crashed.  Reading it tells which
 * reports are taken, writing makes one (QEMU, docs/specs/pvpanic).  The guest finds the port by the
 * ACPI device QEMU0001.
 */
#include "hw/misc/pvpanic.h"
#include "hw/x86/isa.h"
#include "src/base/trace.h"

enum { PVPANIC_PANICKED = 1 << 0, PVPANIC_CRASHLOADED = 1 << 1 };
#define PVPANIC_EVENTS (PVPANIC_PANICKED | PVPANIC_CRASHLOADED)

typedef struct Pvpanic {
    IsaDevice isa;                          /* first: a Pvpanic * is a Device * */
    Region io;
    uint16_t ioport;                        /* properties: where it is, */
    uint8_t events;                         /* and which reports it takes */
} Pvpanic;

static uint64_t pvpanic_read(void *opaque, uint64_t offset, unsigned size)
{
    Pvpanic *s = opaque;

    return s->events;
}

static void pvpanic_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    Pvpanic *s = opaque;
    Machine *m = s->isa.dev.machine;

    TRACE(pvpanic_write, "events 0x%02x", (unsigned)value);
    if (value & ~(uint64_t)s->events)
        guest_error("pvpanic", "unknown events 0x%02x reported", (unsigned)value);
    if (value & s->events & PVPANIC_PANICKED)
        machine_request(m, MACHINE_PANICKED, "the guest reported a panic");
    else if (value & s->events & PVPANIC_CRASHLOADED)
        machine_request(m, MACHINE_CRASHLOADED, "the guest reported a panic and runs a crash kernel");
}

static const IoOps pvpanic_ops = {
    .read = pvpanic_read,
    .write = pvpanic_write,
    .guest = { .min = 1, .max = 1 },
    .device = { .min = 1, .max = 1 },
};

static bool pvpanic_realize(Object *obj, GError **error)
{
    Pvpanic *s = (Pvpanic *)obj;

    region_init_io(&s->io, obj, &pvpanic_ops, s, "pvpanic", 1);
    region_add(isa_io(&s->isa), s->ioport, &s->io);
    return true;
}

static void pvpanic_unrealize(Object *obj)
{
    region_destroy(&((Pvpanic *)obj)->io);
}

static bool find_pvpanic(Object *obj, void *opaque)
{
    if (!object_is_a(obj, "pvpanic") || !obj->realized)
        return true;
    *(uint16_t *)opaque = ((Pvpanic *)obj)->ioport;
    return false;
}

uint16_t pvpanic_port(Machine *m)
{
    uint16_t port = 0;

    object_walk(&m->obj, find_pvpanic, &port);
    return port;
}

static const Property pvpanic_props[] = {
    PROP("ioport", Pvpanic, ioport, .def.u = 0x505, .min = 1, .max = UINT16_MAX, .help = "I/O port"),
    PROP("events", Pvpanic, events, .def.u = PVPANIC_EVENTS, .max = PVPANIC_EVENTS,
         .help = "mask of reports taken: 1 panicked, 2 crash kernel started"),
    {}
};

static const Type pvpanic_type = {
    .name = "pvpanic",
    .parent = "isa-device",
    .help = "ISA port by which a guest reports a panic",
    .size = sizeof(Pvpanic),
    .user_creatable = true,
    .props = pvpanic_props,
    .realize = pvpanic_realize,
    .unrealize = pvpanic_unrealize,
};
TYPE_REGISTER(pvpanic_type)

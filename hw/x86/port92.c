/*
 * Port 92, "system control port A" of the PS/2: fast reset and the A20 gate.  The gate is a bit
 * that reads back and no more: A20 is never masked here, as on every machine made today.
 */
#include "hw/x86/isa.h"
#include "src/base/trace.h"

enum { PORT92_RESET = 1 << 0, PORT92_A20 = 1 << 1 };
#define PORT92_PORT 0x92

typedef struct Port92 {
    IsaDevice isa;                          /* first: a Port92 * is a Device * */
    Region io;
    uint8_t value;
} Port92;

static uint64_t port92_read(void *opaque, uint64_t offset, unsigned size)
{
    Port92 *s = opaque;

    return s->value;
}

static void port92_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    Port92 *s = opaque;
    bool rises = value & ~(uint64_t)s->value & PORT92_RESET;

    TRACE(port92_write, "value 0x%02x", (unsigned)value);
    s->value = value & (PORT92_RESET | PORT92_A20);
    if (rises)
        machine_request(s->isa.dev.machine, MACHINE_RESET, "port 92");
}

static const IoOps port92_ops = {
    .read = port92_read,
    .write = port92_write,
    .guest = { .min = 1, .max = 1 },
    .device = { .min = 1, .max = 1 },
};

static void port92_reset(Object *obj)
{
    ((Port92 *)obj)->value = PORT92_A20;
}

static bool port92_realize(Object *obj, GError **error)
{
    Port92 *s = (Port92 *)obj;

    region_init_io(&s->io, obj, &port92_ops, s, "port92", 1);
    region_add(isa_io(&s->isa), PORT92_PORT, &s->io);
    port92_reset(obj);
    return true;
}

static void port92_unrealize(Object *obj)
{
    region_destroy(&((Port92 *)obj)->io);
}

static const StateField port92_fields[] = {
    FIELD(Port92, value, .max = PORT92_RESET | PORT92_A20),
    {}
};
static const StateTable port92_state = { .fields = port92_fields };

static const Type port92_type = {
    .name = "port92",
    .parent = "isa-device",
    .help = "port 92: fast reset and A20 gate",
    .size = sizeof(Port92),
    .state = &port92_state,
    .realize = port92_realize,
    .unrealize = port92_unrealize,
    .reset = port92_reset,
};
TYPE_REGISTER(port92_type)

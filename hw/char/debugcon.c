/*
 * ISA debug console: a port that firmware and test guests write characters to, without any set-up.
 * Reading it gives a fixed byte (0xe9 on the Bochs port), by which a guest finds it.
 */
#include "hw/char/char-out.h"
#include "hw/x86/isa.h"
#include "src/base/trace.h"

typedef struct Debugcon {
    IsaDevice isa;                          /* first: a Debugcon * is a Device * */
    Region io;
    CharFront front;
    CharOut out;
    Chardev *chardev;                       /* properties */
    uint32_t iobase, readback;
} Debugcon;

static uint64_t debugcon_read(void *opaque, uint64_t offset, unsigned size)
{
    Debugcon *s = opaque;

    return s->readback;
}

static void debugcon_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    Debugcon *s = opaque;

    TRACE(debugcon_write, "byte 0x%02x", (unsigned)value);
    if (!char_out_put(&s->out, value))      /* the port has no way to say "wait" */
        guest_error("isa-debugcon", "byte 0x%02x dropped: nobody reads the console", (unsigned)value);
}

static const IoOps debugcon_ops = {
    .read = debugcon_read,
    .write = debugcon_write,
    .guest = { .min = 1, .max = 1 },
    .device = { .min = 1, .max = 1 },
};

static void debugcon_writable(void *opaque)
{
    Debugcon *s = opaque;

    char_out_flush(&s->out);
}

static bool debugcon_realize(Object *obj, GError **error)
{
    Debugcon *s = (Debugcon *)obj;

    if (!s->chardev)
        return fail(error, ERR_MISSING_PARAMETER, "isa-debugcon needs a property 'chardev'");
    if (s->iobase > 0xffff)
        return fail(error, ERR_INVALID_PARAMETER, "iobase 0x%x is not an I/O port", s->iobase);
    s->front = (CharFront){ .writable = debugcon_writable, .opaque = s, .slot = &s->chardev };
    if (!char_front_attach(&s->front, s->chardev, error))
        return false;
    char_front_set_open(&s->front, true);
    char_out_init(&s->out, &s->front, NULL, NULL);
    region_init_io(&s->io, obj, &debugcon_ops, s, "isa-debugcon", 1);
    region_add(isa_io(&s->isa), s->iobase, &s->io);
    return true;
}

static void debugcon_unrealize(Object *obj)
{
    Debugcon *s = (Debugcon *)obj;

    region_destroy(&s->io);
    char_out_destroy(&s->out);
    char_front_detach(&s->front);
}

static void debugcon_reset(Object *obj)
{
    char_out_flush(&((Debugcon *)obj)->out);
}

static bool debugcon_post_load(void *obj, uint32_t version, GError **error)
{
    char_out_kick(&((Debugcon *)obj)->out);
    return true;
}

static const StateField debugcon_fields[] = {
    FIELD_STRUCT(Debugcon, out, char_out_state),
    {}
};
static const StateTable debugcon_state = {
    .fields = debugcon_fields,
    .post_load = debugcon_post_load,
};

static const Property debugcon_props[] = {
    PROP("iobase", Debugcon, iobase, .def.u = 0xe9, .help = "I/O port"),
    PROP_OF("chardev", Debugcon, chardev, prop_chardev, .help = "where the characters go"),
    PROP("readback", Debugcon, readback, .def.u = 0xe9, .help = "what reading the port gives"),
    {}
};

static const Type debugcon_type = {
    .name = "isa-debugcon", .category = "Character",
    .parent = "isa-device",
    .help = "ISA debug console",
    .size = sizeof(Debugcon),
    .user_creatable = true,
    .props = debugcon_props,
    .state = &debugcon_state,
    .realize = debugcon_realize,
    .unrealize = debugcon_unrealize,
    .reset = debugcon_reset,
};
TYPE_REGISTER(debugcon_type)

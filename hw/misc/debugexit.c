/*
 * ISA debug exit: a port by which a test guest ends the machine with an exit status of its choice:
 * writing V makes the process exit with (V << 1) | 1.
 */
#include "hw/x86/isa.h"
#include "src/base/trace.h"

typedef struct DebugExit {
    IsaDevice isa;                          /* first: a DebugExit * is a Device * */
    Region io;
    uint32_t iobase, iosize;                /* properties */
} DebugExit;

static uint64_t debugexit_read(void *opaque, uint64_t offset, unsigned size)
{
    return 0;
}

static void debugexit_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    DebugExit *s = opaque;
    Machine *m = s->isa.dev.machine;
    int status = (value << 1 | 1) & 0xff;   /* what a parent process can see of it */

    TRACE(debugexit_write, "value 0x%" PRIx64 " status %d", value, status);
    if (m->env->quit)
        m->env->quit(m, status);
}

static const IoOps debugexit_ops = {
    .read = debugexit_read,
    .write = debugexit_write,
    .guest = { .min = 1, .max = 4 },
    .device = { .min = 1, .max = 4 },
};

static bool debugexit_realize(Object *obj, GError **error)
{
    DebugExit *s = (DebugExit *)obj;

    if (s->iobase > 0xffff || s->iobase + s->iosize > 0x10000)
        return fail(error, ERR_INVALID_PARAMETER,
                    "iobase 0x%x with iosize %u is not a range of I/O ports", s->iobase, s->iosize);
    region_init_io(&s->io, obj, &debugexit_ops, s, "isa-debug-exit", s->iosize);
    region_add(isa_io(&s->isa), s->iobase, &s->io);
    return true;
}

static void debugexit_unrealize(Object *obj)
{
    region_destroy(&((DebugExit *)obj)->io);
}

static const Property debugexit_props[] = {
    PROP("iobase", DebugExit, iobase, .def.u = 0x501, .help = "first I/O port"),
    PROP("iosize", DebugExit, iosize, .def.u = 2, .min = 1, .max = 0x100, .help = "number of ports"),
    {}
};

static const Type debugexit_type = {
    .name = "isa-debug-exit",
    .parent = "isa-device",
    .help = "ISA port that ends the machine with an exit status",
    .size = sizeof(DebugExit),
    .user_creatable = true,
    .props = debugexit_props,
    .realize = debugexit_realize,
    .unrealize = debugexit_unrealize,
};
TYPE_REGISTER(debugexit_type)

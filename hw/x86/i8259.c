/*
 * Two 8259A interrupt controllers, as a PC has them (Intel data sheet 231468; ICH9 data sheet,
 * 13.4): the slave's output is the master's input 2, and the master's is LINT0 of the boot CPU.
 * Ports 0x4d0 and 0x4d1 (ELCR) say of each input whether it is an edge or a level; ICW1's LTIM bit
 * has no effect.
 *
 * Departures: an edge stays requested when its line falls before the CPU has taken it, as devices
 * of ours may pulse a line for no time; the CALL vectors of 8080 mode are not there.
 */
#include "hw/x86/i8259.h"
#include "hw/x86/isa.h"
#include "src/base/trace.h"

enum { MASTER, SLAVE, CHIPS, INPUTS = 8, CASCADE = 2, SPURIOUS = 7 };
enum { PIC1_PORT = 0x20, PIC2_PORT = 0xa0, ELCR_PORT = 0x4d0 };

/* Command words: on the even port ICW1, OCW2 and OCW3 are told apart by two bits. */
enum { ICW1_IC4 = 1 << 0, ICW1_SNGL = 1 << 1, IS_ICW1 = 1 << 4, IS_OCW3 = 1 << 3 };
enum { ICW2_BASE = 0xf8, ICW4_AEOI = 1 << 1, ICW4_SFNM = 1 << 4 };
enum { OCW2_LEVEL = 7, OCW2_COMMAND_SHIFT = 5 };
enum {                                      /* of OCW2: R, SL, EOI */
    ROTATE_AEOI_CLEAR = 0, EOI = 1, NO_OPERATION = 2, EOI_SPECIFIC = 3, ROTATE_AEOI_SET = 4,
    ROTATE_EOI = 5, SET_PRIORITY = 6, ROTATE_EOI_SPECIFIC = 7,
};
enum {
    OCW3_RIS = 1 << 0, OCW3_RR = 1 << 1, OCW3_P = 1 << 2, OCW3_SMM = 1 << 5, OCW3_ESMM = 1 << 6,
};
enum { POLL_INTERRUPT = 1 << 7 };

/* What the odd port takes next. */
typedef enum InitStep { NEXT_OCW1, NEXT_ICW2, NEXT_ICW3, NEXT_ICW4, INIT_STEPS } InitStep;

typedef struct Pic {
    uint8_t irr, imr, isr;                  /* requested, masked, in service */
    uint8_t lines, elcr;                    /* levels of the inputs; which are level-triggered */
    uint8_t base;                           /* vector of input 0 */
    uint8_t lowest;                         /* the input of lowest priority, after it the highest */
    uint8_t step;                           /* InitStep */
    bool single, needs_icw4;
    bool ready;                             /* initialized: before that it asks for nothing */
    bool aeoi, rotate_aeoi, sfnm, smm;      /* automatic EOI, special fully nested, special mask */
    bool poll, read_isr;                    /* what the even port reads: a poll; ISR, not IRR */
} Pic;

typedef struct PicPair PicPair;
typedef struct PicPort {
    PicPair *pair;
    uint8_t chip;
    Region io;
} PicPort;

struct PicPair {
    IsaDevice isa;                          /* first: a PicPair * is a Device * */
    Pic chips[CHIPS];
    PicPort ports[CHIPS];
    Region elcr_io;
};

/* IRQ 0, 1, 2, 8 and 13 are edges (ICH9, 13.4.10 and 13.4.11). */
static const uint8_t elcr_mask[CHIPS] = { 0xf8, 0xde };

/* ---- requests and priorities ---- */

/* The input that interrupts now, -1: none.  What is in service shuts out its own level and those
 * below, unless special mask mode hides it; in special fully nested mode the slave may interrupt
 * itself. */
static int requested(const PicPair *s, unsigned chip)
{
    const Pic *p = &s->chips[chip];
    uint8_t requests = p->ready ? p->irr & ~p->imr : 0;
    uint8_t service = p->smm ? p->isr & ~p->imr : p->isr;

    for (unsigned i = 1; i <= INPUTS; i++) {
        unsigned input = (p->lowest + i) % INPUTS, bit = 1u << input;
        bool nests = p->sfnm && chip == MASTER && input == CASCADE;
        if (requests & bit && (nests || !(service & bit)))
            return input;
        if (service & bit)
            return -1;
    }
    return -1;
}

static void set_input(Pic *p, unsigned input, bool level)
{
    uint8_t bit = 1u << input;
    bool rises = level && !(p->lines & bit);

    p->lines = level ? p->lines | bit : p->lines & ~bit;
    if (p->elcr & bit)
        p->irr = (p->irr & ~bit) | (p->lines & bit);
    else if (rises)
        p->irr |= bit;
}

/* Outputs follow from requests: the slave's, then the master's. */
static void update(PicPair *s)
{
    IntrController *intr = s->isa.dev.machine->intr;

    set_input(&s->chips[MASTER], CASCADE, requested(s, SLAVE) >= 0);
    if (intr && intr->ops->set_extint)
        intr->ops->set_extint(intr, requested(s, MASTER) >= 0);
}

void i8259_set_input(Device *pic, unsigned line, bool level)
{
    PicPair *s = (PicPair *)pic;

    if (line == CASCADE || line >= PIC_LINES)
        return;
    set_input(&s->chips[line / INPUTS], line % INPUTS, level);
    update(s);
}

/* The chip's part of an interrupt acknowledge, or a poll: the input goes into service.  -1: there
 * was no request any more.  The caller calls update(). */
static int take(PicPair *s, unsigned chip)
{
    Pic *p = &s->chips[chip];
    int input = requested(s, chip);

    if (chip == SLAVE)                      /* its output falls: its next request is an edge */
        set_input(&s->chips[MASTER], CASCADE, false);
    if (input < 0)
        return -1;
    if (!(p->elcr >> input & 1))
        p->irr &= ~(1u << input);
    if (!p->aeoi)
        p->isr |= 1u << input;
    else if (p->rotate_aeoi)
        p->lowest = input;
    return input;
}

static uint8_t vector_of(const Pic *p, int input)
{
    return p->base | (input < 0 ? SPURIOUS : input);
}

/* INTA.  A request that is gone becomes input 7, which is not in service then. */
static uint8_t acknowledge(void *opaque)
{
    PicPair *s = opaque;
    int input = take(s, MASTER);
    uint8_t v = input == CASCADE ? vector_of(&s->chips[SLAVE], take(s, SLAVE))
                                 : vector_of(&s->chips[MASTER], input);

    TRACE(i8259_acknowledge, "input %d vector 0x%02x", input, v);
    update(s);
    return v;
}

/* ---- command words ---- */

static void write_icw1(Pic *p, uint8_t value)
{
    *p = (Pic){
        .irr = p->lines & p->elcr, .lines = p->lines, .elcr = p->elcr, .lowest = INPUTS - 1,
        .step = NEXT_ICW2, .single = value & ICW1_SNGL, .needs_icw4 = value & ICW1_IC4,
    };
}

static void end_of_interrupt(Pic *p, int input, bool rotate)
{
    if (input < 0)
        return;
    p->isr &= ~(1u << input);
    if (rotate)
        p->lowest = input;
}

/* What a non-specific EOI ends: the highest in service; special mask mode hides what is masked. */
static int in_service(const Pic *p)
{
    uint8_t service = p->smm ? p->isr & ~p->imr : p->isr;

    for (unsigned i = 1; i <= INPUTS; i++)
        if (service >> (p->lowest + i) % INPUTS & 1)
            return (p->lowest + i) % INPUTS;
    return -1;
}

static void write_ocw2(Pic *p, uint8_t value)
{
    int level = value & OCW2_LEVEL;

    switch (value >> OCW2_COMMAND_SHIFT) {
    case ROTATE_AEOI_CLEAR:
    case ROTATE_AEOI_SET:
        p->rotate_aeoi = value >> OCW2_COMMAND_SHIFT == ROTATE_AEOI_SET;
        break;
    case EOI:
    case ROTATE_EOI:
        end_of_interrupt(p, in_service(p), value >> OCW2_COMMAND_SHIFT == ROTATE_EOI);
        break;
    case EOI_SPECIFIC:
    case ROTATE_EOI_SPECIFIC:
        end_of_interrupt(p, level, value >> OCW2_COMMAND_SHIFT == ROTATE_EOI_SPECIFIC);
        break;
    case SET_PRIORITY:
        p->lowest = level;
        break;
    case NO_OPERATION:
        break;
    }
}

static void write_ocw3(Pic *p, uint8_t value)
{
    if (value & OCW3_ESMM)
        p->smm = value & OCW3_SMM;
    if (value & OCW3_RR)
        p->read_isr = value & OCW3_RIS;
    p->poll = value & OCW3_P;
}

static void finish_init(Pic *p)
{
    p->step = NEXT_OCW1;
    p->ready = true;
}

static void write_odd(Pic *p, uint8_t value)
{
    switch ((InitStep)p->step) {
    case NEXT_ICW2:
        p->base = value & ICW2_BASE;
        if (!p->single)
            p->step = NEXT_ICW3;
        else if (p->needs_icw4)
            p->step = NEXT_ICW4;
        else
            finish_init(p);
        break;
    case NEXT_ICW3:                         /* the wires are where they are */
        if (p->needs_icw4)
            p->step = NEXT_ICW4;
        else
            finish_init(p);
        break;
    case NEXT_ICW4:
        p->aeoi = value & ICW4_AEOI;
        p->sfnm = value & ICW4_SFNM;
        finish_init(p);
        break;
    default:
        p->imr = value;
    }
}

/* ---- ports ---- */

static uint64_t pic_read(void *opaque, uint64_t offset, unsigned size)
{
    PicPort *port = opaque;
    PicPair *s = port->pair;
    Pic *p = &s->chips[port->chip];
    uint8_t value = offset ? p->imr : p->read_isr ? p->isr : p->irr;

    if (p->poll) {                          /* the read after the command, of either port */
        p->poll = false;
        int input = take(s, port->chip);
        value = input < 0 ? 0 : POLL_INTERRUPT | input;
        update(s);
    }
    TRACE(i8259_read, "chip %u port %u value 0x%02x", port->chip, (unsigned)offset, value);
    return value;
}

static void pic_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    PicPort *port = opaque;
    Pic *p = &port->pair->chips[port->chip];

    TRACE(i8259_write, "chip %u port %u value 0x%02x", port->chip, (unsigned)offset,
          (unsigned)value);
    if (offset)
        write_odd(p, value);
    else if (value & IS_ICW1)
        write_icw1(p, value);
    else if (value & IS_OCW3)
        write_ocw3(p, value);
    else
        write_ocw2(p, value);
    update(port->pair);
}

static const IoOps pic_ops = {
    .read = pic_read,
    .write = pic_write,
    .guest = { .min = 1, .max = 2 },
    .device = { .min = 1, .max = 1 },
};

static uint64_t elcr_read(void *opaque, uint64_t offset, unsigned size)
{
    PicPair *s = opaque;

    return s->chips[offset].elcr;
}

/* An input that becomes a level one asks for what its line says from now on. */
static void elcr_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    PicPair *s = opaque;
    Pic *p = &s->chips[offset];

    TRACE(i8259_elcr, "chip %u value 0x%02x", (unsigned)offset, (unsigned)value);
    p->elcr = value & elcr_mask[offset];
    p->irr = (p->irr & ~p->elcr) | (p->lines & p->elcr);
    update(s);
}

static const IoOps elcr_ops = {
    .read = elcr_read,
    .write = elcr_write,
    .guest = { .min = 1, .max = 2 },
    .device = { .min = 1, .max = 1 },
};

/* ---- life ---- */

static void i8259_reset(Object *obj)
{
    PicPair *s = (PicPair *)obj;

    for (unsigned chip = 0; chip < CHIPS; chip++)
        s->chips[chip] = (Pic){ .lines = s->chips[chip].lines, .lowest = INPUTS - 1 };
    update(s);
}

static bool i8259_realize(Object *obj, GError **error)
{
    static const uint16_t bases[CHIPS] = { PIC1_PORT, PIC2_PORT };
    static const char *const names[CHIPS] = { "pic1", "pic2" };
    PicPair *s = (PicPair *)obj;
    IntrController *intr = s->isa.dev.machine->intr;

    for (unsigned chip = 0; chip < CHIPS; chip++) {
        PicPort *port = &s->ports[chip];
        *port = (PicPort){ .pair = s, .chip = chip };
        region_init_io(&port->io, obj, &pic_ops, port, names[chip], 2);
        region_add(isa_io(&s->isa), bases[chip], &port->io);
    }
    region_init_io(&s->elcr_io, obj, &elcr_ops, s, "elcr", CHIPS);
    region_add(isa_io(&s->isa), ELCR_PORT, &s->elcr_io);
    if (intr) {
        intr->acknowledge = acknowledge;
        intr->acknowledge_opaque = s;
    }
    i8259_reset(obj);
    return true;
}

static void i8259_unrealize(Object *obj)
{
    PicPair *s = (PicPair *)obj;
    IntrController *intr = s->isa.dev.machine->intr;

    if (intr && intr->acknowledge_opaque == s) {
        if (intr->ops->set_extint)
            intr->ops->set_extint(intr, false);
        intr->acknowledge = NULL;
    }
    for (unsigned chip = 0; chip < CHIPS; chip++)
        region_destroy(&s->ports[chip].io);
    region_destroy(&s->elcr_io);
}

static bool i8259_post_load(void *obj, uint32_t version, GError **error)
{
    PicPair *s = obj;

    for (unsigned chip = 0; chip < CHIPS; chip++) {
        s->chips[chip].elcr &= elcr_mask[chip];
        s->chips[chip].base &= ICW2_BASE;
    }
    update(s);
    return true;
}

static const StateField pic_fields[] = {
    FIELD(Pic, irr),
    FIELD(Pic, imr),
    FIELD(Pic, isr),
    FIELD(Pic, lines),
    FIELD(Pic, elcr),
    FIELD(Pic, base),
    FIELD(Pic, lowest, .max = INPUTS - 1),
    FIELD(Pic, step, .max = INIT_STEPS - 1),
    FIELD(Pic, single),
    FIELD(Pic, needs_icw4),
    FIELD(Pic, ready),
    FIELD(Pic, aeoi),
    FIELD(Pic, rotate_aeoi),
    FIELD(Pic, sfnm),
    FIELD(Pic, smm),
    FIELD(Pic, poll),
    FIELD(Pic, read_isr),
    {}
};
static const StateTable pic_state = { .fields = pic_fields };

static const StateField i8259_fields[] = {
    FIELD_STRUCTS(PicPair, chips, pic_state),
    {}
};
static const StateTable i8259_state = { .fields = i8259_fields, .post_load = i8259_post_load };

static const Type i8259_type = {
    .name = "isa-i8259",
    .parent = "isa-device",
    .help = "pair of 8259A interrupt controllers",
    .size = sizeof(PicPair),
    .state = &i8259_state,
    .realize = i8259_realize,
    .unrealize = i8259_unrealize,
    .reset = i8259_reset,
};
TYPE_REGISTER(i8259_type)

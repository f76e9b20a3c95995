/*
 * 82093AA I/O APIC with 24 inputs (Intel data sheet 290566), and the EOI register of its successors
 * (version 0x20).  An interrupt is a message to the local APICs; the EOI of a level one comes back
 * from them.
 */
#include <string.h>
#include "hw/x86/ioapic.h"
#include "hw/x86/memmap.h"
#include "src/base/trace.h"

enum { REG_SELECT = 0x00, REG_WINDOW = 0x10, REG_EOI = 0x40, REGION_SIZE = 0x1000 };
enum { IOAPICID = 0x00, IOAPICVER = 0x01, IOAPICARB = 0x02, IOREDTBL = 0x10 };
#define VERSION 0x20

/* Redirection table entry. */
#define RTE_VECTOR 0xffull
#define RTE_DELIVERY_SHIFT 8
#define RTE_DELIVERY (7ull << RTE_DELIVERY_SHIFT)
#define RTE_LOGICAL (1ull << 11)
#define RTE_STATUS (1ull << 12)
#define RTE_REMOTE_IRR (1ull << 14)
#define RTE_LEVEL (1ull << 15)
#define RTE_MASKED (1ull << 16)
#define RTE_DEST_SHIFT 56
#define RTE_WRITABLE (0xff0000000001ffffull & ~(RTE_STATUS | RTE_REMOTE_IRR))
enum { DELIVERY_EXTINT = 7 };

typedef struct Ioapic {
    Device dev;                             /* first: an Ioapic * is a Device * */
    Region io;
    uint8_t id, select;
    uint32_t inputs;                        /* levels of the lines */
    uint32_t irr;                           /* edges that wait for their entry to be unmasked */
    uint64_t table[IOAPIC_PINS];
} Ioapic;

static uint64_t message_address(uint64_t rte)
{
    return LAPIC_BASE | (rte >> RTE_DEST_SHIFT) << 12 | (rte & RTE_LOGICAL ? 1 << 2 : 0);
}

static uint32_t message_data(uint64_t rte)
{
    return (rte & (RTE_VECTOR | RTE_DELIVERY | RTE_LEVEL)) | (rte & RTE_LEVEL ? 1 << 14 : 0);
}

/* Sends what a pin has to send. */
static void service(Ioapic *s, unsigned pin)
{
    uint64_t *rte = &s->table[pin];
    uint32_t bit = 1u << pin;
    bool level = *rte & RTE_LEVEL, wants = level ? s->inputs & bit : s->irr & bit;
    IntrController *intr = s->dev.machine->intr;

    if (!wants || *rte & RTE_MASKED || (level && *rte & RTE_REMOTE_IRR))
        return;
    s->irr &= ~bit;
    if ((*rte & RTE_DELIVERY) >> RTE_DELIVERY_SHIFT == DELIVERY_EXTINT) {
        guest_error("ioapic", "pin %u asks the PIC for a vector, and there is no PIC", pin);
        return;
    }
    if (level)
        *rte |= RTE_REMOTE_IRR;
    TRACE(ioapic_send, "pin %u entry 0x%" PRIx64, pin, *rte);
    if (intr)
        intr->ops->send_msi(intr, message_address(*rte), message_data(*rte));
}

void ioapic_set_input(Device *ioapic, unsigned input, bool level)
{
    Ioapic *s = (Ioapic *)ioapic;
    uint32_t bit = 1u << input;
    bool rises = level && !(s->inputs & bit);

    s->inputs = level ? s->inputs | bit : s->inputs & ~bit;
    if (rises && !(s->table[input] & RTE_LEVEL))
        s->irr |= bit;
    if (level)
        service(s, input);
}

static void ioapic_eoi(void *opaque, unsigned vector)
{
    Ioapic *s = opaque;

    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t *rte = &s->table[pin];
        if ((*rte & RTE_VECTOR) != vector || !(*rte & RTE_LEVEL) || !(*rte & RTE_REMOTE_IRR))
            continue;
        *rte &= ~RTE_REMOTE_IRR;
        service(s, pin);                    /* the line may still be asserted */
    }
}

static void tell_route(Ioapic *s, unsigned pin)
{
    IntrController *intr = s->dev.machine->intr;
    uint64_t rte = s->table[pin];

    if (intr && intr->ops->ioapic_route)
        intr->ops->ioapic_route(intr, pin, rte & RTE_MASKED, message_address(rte),
                                message_data(rte));
}

static void write_entry(Ioapic *s, unsigned half, uint32_t value)
{
    unsigned pin = half / 2, shift = half & 1 ? 32 : 0;
    uint64_t *rte = &s->table[pin], mask = RTE_WRITABLE & (0xffffffffull << shift);

    *rte = (*rte & ~mask) | ((uint64_t)value << shift & mask);
    if (!(*rte & RTE_LEVEL))
        *rte &= ~RTE_REMOTE_IRR;
    tell_route(s, pin);
    service(s, pin);
}

static uint32_t read_window(const Ioapic *s)
{
    unsigned entry = s->select - IOREDTBL;

    switch (s->select) {
    case IOAPICID:
    case IOAPICARB:
        return (uint32_t)s->id << 24;
    case IOAPICVER:
        return VERSION | (IOAPIC_PINS - 1) << 16;
    }
    if (s->select < IOREDTBL || entry >= 2 * IOAPIC_PINS)
        return 0;
    return s->table[entry / 2] >> (entry & 1 ? 32 : 0);
}

static void write_window(Ioapic *s, uint32_t value)
{
    unsigned entry = s->select - IOREDTBL;

    if (s->select == IOAPICID)
        s->id = value >> 24 & 0x0f;
    else if (s->select >= IOREDTBL && entry < 2 * IOAPIC_PINS)
        write_entry(s, entry, value);
    else
        guest_error("ioapic", "register 0x%02x cannot be written", s->select);
}

static uint64_t ioapic_read(void *opaque, uint64_t offset, unsigned size)
{
    Ioapic *s = opaque;
    uint32_t value = 0;

    if (offset == REG_SELECT)
        value = s->select;
    else if (offset == REG_WINDOW)
        value = read_window(s);
    TRACE(ioapic_read, "offset 0x%x register 0x%02x value 0x%08x", (unsigned)offset, s->select, value);
    return value;
}

static void ioapic_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    Ioapic *s = opaque;

    TRACE(ioapic_write, "offset 0x%x register 0x%02x value 0x%08x", (unsigned)offset, s->select,
          (unsigned)value);
    if (offset == REG_SELECT)
        s->select = value;
    else if (offset == REG_WINDOW)
        write_window(s, value);
    else if (offset == REG_EOI)
        ioapic_eoi(s, value & RTE_VECTOR);
    else
        guest_error("ioapic", "offset 0x%x cannot be written", (unsigned)offset);
}

static const IoOps ioapic_ops = {
    .read = ioapic_read,
    .write = ioapic_write,
    .guest = { .min = 1, .max = 4 },
    .device = { .min = 4, .max = 4 },
};

static void ioapic_reset(Object *obj)
{
    Ioapic *s = (Ioapic *)obj;

    s->id = s->select = 0;
    s->irr = 0;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        s->table[pin] = RTE_MASKED;
        tell_route(s, pin);
    }
}

static bool ioapic_realize(Object *obj, GError **error)
{
    Ioapic *s = (Ioapic *)obj;
    Machine *m = s->dev.machine;

    ioapic_reset(obj);
    if (m->intr) {
        m->intr->eoi = ioapic_eoi;
        m->intr->eoi_opaque = s;
    }
    region_init_io(&s->io, obj, &ioapic_ops, s, "ioapic", REGION_SIZE);
    region_add(&m->memory_root, IOAPIC_BASE, &s->io);
    return true;
}

static void ioapic_unrealize(Object *obj)
{
    Ioapic *s = (Ioapic *)obj;

    if (s->dev.machine->intr && s->dev.machine->intr->eoi_opaque == s)
        s->dev.machine->intr->eoi = NULL;
    region_destroy(&s->io);
}

static bool ioapic_post_load(void *obj, uint32_t version, GError **error)
{
    Ioapic *s = obj;

    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        s->table[pin] &= RTE_WRITABLE | RTE_REMOTE_IRR;
        tell_route(s, pin);
    }
    return true;
}

static const StateField ioapic_fields[] = {
    FIELD(Ioapic, id, .max = 0x0f),
    FIELD(Ioapic, select),
    FIELD(Ioapic, inputs, .max = (1u << IOAPIC_PINS) - 1),
    FIELD(Ioapic, irr, .max = (1u << IOAPIC_PINS) - 1),
    FIELD_ARRAY(Ioapic, table),
    {}
};
static const StateTable ioapic_state = { .fields = ioapic_fields, .post_load = ioapic_post_load };

static const Type ioapic_type = {
    .name = "ioapic",
    .parent = "device",
    .help = "I/O APIC",
    .size = sizeof(Ioapic),
    .state = &ioapic_state,
    .realize = ioapic_realize,
    .unrealize = ioapic_unrealize,
    .reset = ioapic_reset,
};
TYPE_REGISTER(ioapic_type)

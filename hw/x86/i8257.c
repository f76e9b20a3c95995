/*
 * The registers of the PC's two 8237A DMA controllers and of the DMA page latches, so that what a
 * guest sets up reads back (Intel 8237A data sheet; the page latches are the PC/AT's).  No device
 * here uses ISA DMA, so no transfer ever starts.
 */
#include <string.h>
#include "hw/x86/isa.h"
#include "src/base/trace.h"

typedef struct Dma8237 {
    uint16_t base[8], now[8];               /* by register: address, count of each channel */
    bool high_byte;                         /* the byte pointer flip-flop */
    uint8_t mask;
} Dma8237;

#define PAGE_PORTS 16

typedef struct I8257 {
    IsaDevice isa;                          /* first: an I8257 * is a Device * */
    Region low_io, high_io, pages_io;
    Dma8237 dma[2];
    uint8_t pages[PAGE_PORTS];
} I8257;

static uint64_t dma_read_register(Dma8237 *d, unsigned reg)
{
    if (reg < 8) {                          /* current address and count, a byte at a time */
        uint16_t value = d->now[reg];
        uint8_t byte = d->high_byte ? value >> 8 : value & 0xff;
        d->high_byte = !d->high_byte;
        return byte;
    }
    return reg == 15 ? d->mask : 0;         /* status and temporary: nothing was ever transferred */
}

static void dma_write_channel(Dma8237 *d, unsigned reg, uint8_t value)
{
    uint16_t *base = &d->base[reg];

    *base = d->high_byte ? (*base & 0x00ff) | value << 8 : (*base & 0xff00) | value;
    d->now[reg] = *base;
    d->high_byte = !d->high_byte;
}

static void dma_write_register(Dma8237 *d, unsigned reg, uint8_t value)
{
    switch (reg) {
    case 0 ... 7:
        dma_write_channel(d, reg, value);
        break;
    case 10:                                /* one mask bit */
        d->mask = value & 4 ? d->mask | 1 << (value & 3) : d->mask & ~(1 << (value & 3));
        break;
    case 12:
        d->high_byte = false;
        break;
    case 13:                                /* master clear */
        d->high_byte = false;
        d->mask = 0x0f;
        break;
    case 14:
        d->mask = 0;
        break;
    case 15:
        d->mask = value & 0x0f;
        break;
    default:
        break;                              /* command, request, mode: no transfer, no effect */
    }
}

static uint64_t low_read(void *opaque, uint64_t offset, unsigned size)
{
    return dma_read_register(&((I8257 *)opaque)->dma[0], offset);
}

static void low_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    TRACE(i8257_write, "controller 0 register %u value 0x%02x", (unsigned)offset, (unsigned)value);
    dma_write_register(&((I8257 *)opaque)->dma[0], offset, value);
}

/* The second controller's registers are two ports apart. */
static uint64_t high_read(void *opaque, uint64_t offset, unsigned size)
{
    return dma_read_register(&((I8257 *)opaque)->dma[1], offset / 2);
}

static void high_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    TRACE(i8257_write, "controller 1 register %u value 0x%02x", (unsigned)offset / 2, (unsigned)value);
    dma_write_register(&((I8257 *)opaque)->dma[1], offset / 2, value);
}

static uint64_t pages_read(void *opaque, uint64_t offset, unsigned size)
{
    return ((I8257 *)opaque)->pages[offset];
}

static void pages_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    ((I8257 *)opaque)->pages[offset] = value;
}

#define BYTES_ONLY .guest = { .min = 1, .max = 8, .unaligned = true }, .device = { .min = 1, .max = 1 }
static const IoOps low_ops = { .read = low_read, .write = low_write, BYTES_ONLY };
static const IoOps high_ops = { .read = high_read, .write = high_write, BYTES_ONLY };
static const IoOps pages_ops = { .read = pages_read, .write = pages_write, BYTES_ONLY };

static void i8257_reset(Object *obj)
{
    I8257 *s = (I8257 *)obj;

    memset(s->dma, 0, sizeof(s->dma));
    s->dma[0].mask = s->dma[1].mask = 0x0f;
    memset(s->pages, 0, sizeof(s->pages));
}

static bool i8257_realize(Object *obj, GError **error)
{
    I8257 *s = (I8257 *)obj;

    region_init_io(&s->low_io, obj, &low_ops, s, "dma-8237-1", 16);
    region_add(isa_io(&s->isa), 0x00, &s->low_io);
    region_init_io(&s->high_io, obj, &high_ops, s, "dma-8237-2", 32);
    region_add(isa_io(&s->isa), 0xc0, &s->high_io);
    region_init_io(&s->pages_io, obj, &pages_ops, s, "dma-pages", PAGE_PORTS);
    region_add(isa_io(&s->isa), 0x80, &s->pages_io);
    i8257_reset(obj);
    return true;
}

static void i8257_unrealize(Object *obj)
{
    I8257 *s = (I8257 *)obj;

    region_destroy(&s->low_io);
    region_destroy(&s->high_io);
    region_destroy(&s->pages_io);
}

static const StateField dma_fields[] = {
    FIELD_ARRAY(Dma8237, base),
    FIELD_ARRAY(Dma8237, now),
    FIELD(Dma8237, high_byte),
    FIELD(Dma8237, mask, .max = 0x0f),
    {}
};
static const StateTable dma_state = { .fields = dma_fields };

static const StateField i8257_fields[] = {
    FIELD_STRUCTS(I8257, dma, dma_state),
    FIELD_BYTES(I8257, pages),
    {}
};
static const StateTable i8257_state = { .fields = i8257_fields };

static const Type i8257_type = {
    .name = "i8257",
    .parent = "isa-device",
    .help = "registers of the PC's DMA controllers (no transfers)",
    .size = sizeof(I8257),
    .state = &i8257_state,
    .realize = i8257_realize,
    .unrealize = i8257_unrealize,
    .reset = i8257_reset,
};
TYPE_REGISTER(i8257_type)

/*
 * 8042 keyboard controller with a PS/2 keyboard and a PS/2 mouse (IBM PS/2 Hardware Interface
 * Technical Reference, "Keyboard/Auxiliary Device Controller").  Ports 0x60 (data) and 0x64 (status
 * and commands), interrupts 1 and 12.
 *
 * Departure: the A20 gate is a bit of the output port that reads back and no more.
 */
#include <string.h>
#include "hw/input/ps2.h"
#include "hw/x86/isa.h"
#include "src/base/trace.h"

#define DATA_PORT 0x60
#define COMMAND_PORT 0x64
#define RAM_SIZE 32                         /* byte 0 is the command byte */
#define REPLY_SIZE 4

enum {                                      /* status register */
    STAT_OBF = 0x01, STAT_SYS = 0x04, STAT_CMD = 0x08, STAT_UNLOCKED = 0x10, STAT_AUX_OBF = 0x20,
};
enum {                                      /* command byte */
    CTR_KBD_INT = 0x01, CTR_AUX_INT = 0x02, CTR_SYS = 0x04, CTR_KBD_DISABLE = 0x10,
    CTR_AUX_DISABLE = 0x20, CTR_TRANSLATE = 0x40,
};
enum {                                      /* output port */
    OUT_RESET = 0x01, OUT_A20 = 0x02, OUT_KBD_OBF = 0x10, OUT_AUX_OBF = 0x20,
};
enum {                                      /* commands */
    CMD_READ_RAM = 0x20, CMD_WRITE_RAM = 0x60, CMD_AUX_DISABLE = 0xa7, CMD_AUX_ENABLE = 0xa8,
    CMD_AUX_TEST = 0xa9, CMD_SELF_TEST = 0xaa, CMD_KBD_TEST = 0xab, CMD_KBD_DISABLE = 0xad,
    CMD_KBD_ENABLE = 0xae, CMD_READ_INPUT = 0xc0, CMD_READ_OUTPUT = 0xd0, CMD_WRITE_OUTPUT = 0xd1,
    CMD_WRITE_KBD_OBF = 0xd2, CMD_WRITE_AUX_OBF = 0xd3, CMD_WRITE_AUX = 0xd4, CMD_A20_OFF = 0xdd,
    CMD_A20_ON = 0xdf, CMD_PULSE_FIRST = 0xf0, CMD_PULSE_LAST = 0xff,
};

typedef struct I8042 {
    IsaDevice isa;                          /* first: an I8042 * is a Device * */
    Region data_io, command_io;
    IrqLine *kbd_irq, *aux_irq;
    Ps2Device kbd, mouse;
    uint8_t ram[RAM_SIZE];
    uint8_t status;                         /* SYS, CMD, UNLOCKED, and OBF with AUX_OBF */
    uint8_t output;                         /* what the data port gives while OBF is set */
    uint8_t output_port;
    uint8_t pending;                        /* command that waits for its argument; 0: none */
    uint8_t replies[REPLY_SIZE];            /* the controller's own bytes; bit n of reply_aux: from AUX */
    uint8_t reply_length, reply_aux;
} I8042;

/* Scan code set 2 to set 1, which CTR_TRANSLATE asks for; codes without an entry pass unchanged.
 * Only the keyboard's answers are ever translated here: of those, the second byte of its identity and
 * the numbers of the scan code sets differ. */
static uint8_t translate(uint8_t code)
{
    switch (code) {
    case 0x01:
        return 0x43;
    case 0x02:
    case 0x83:
        return 0x41;
    case 0x03:
        return 0x3f;
    }
    return code;
}

static void update_irqs(I8042 *s)
{
    bool full = s->status & STAT_OBF, aux = s->status & STAT_AUX_OBF;

    s->output_port &= ~(OUT_KBD_OBF | OUT_AUX_OBF);
    if (full)
        s->output_port |= aux ? OUT_AUX_OBF : OUT_KBD_OBF;
    irq_set(s->kbd_irq, full && !aux && s->ram[0] & CTR_KBD_INT);
    irq_set(s->aux_irq, full && aux && s->ram[0] & CTR_AUX_INT);
}

static void fill_output(I8042 *s, uint8_t value, bool aux)
{
    s->output = value;
    s->status = (s->status & ~STAT_AUX_OBF) | STAT_OBF | (aux ? STAT_AUX_OBF : 0);
}

static bool take_reply(I8042 *s, uint8_t *ret, bool *ret_aux)
{
    if (!s->reply_length)
        return false;
    *ret = s->replies[0];
    *ret_aux = s->reply_aux & 1;
    s->reply_length--;
    s->reply_aux >>= 1;
    for (unsigned i = 0; i < s->reply_length; i++)
        s->replies[i] = s->replies[i + 1];
    return true;
}

/* Fills an empty output buffer from the controller, the keyboard, or the mouse, in this order. */
static void pump(I8042 *s)
{
    uint8_t byte;
    bool aux;

    if (!(s->status & STAT_OBF)) {
        if (take_reply(s, &byte, &aux))
            fill_output(s, byte, aux);
        else if (!(s->ram[0] & CTR_KBD_DISABLE) && ps2_take(&s->kbd, &byte))
            fill_output(s, s->ram[0] & CTR_TRANSLATE ? translate(byte) : byte, false);
        else if (!(s->ram[0] & CTR_AUX_DISABLE) && ps2_take(&s->mouse, &byte))
            fill_output(s, byte, true);
    }
    update_irqs(s);
}

static void reply(I8042 *s, uint8_t value, bool aux)
{
    if (s->reply_length == REPLY_SIZE)
        return;                             /* the guest never reads: it loses the newest */
    s->replies[s->reply_length] = value;
    s->reply_aux |= aux << s->reply_length;
    s->reply_length++;
}

static void request_reset(I8042 *s)
{
    machine_request(s->isa.dev.machine, MACHINE_RESET, "keyboard controller");
}

static void write_output_port(I8042 *s, uint8_t value)
{
    s->output_port = value | OUT_RESET;
    if (!(value & OUT_RESET))               /* active low */
        request_reset(s);
}

static void run_command(I8042 *s, uint8_t command)
{
    s->pending = 0;
    switch (command) {
    case CMD_READ_RAM ... CMD_READ_RAM + RAM_SIZE - 1:
        reply(s, s->ram[command - CMD_READ_RAM], false);
        break;
    case CMD_WRITE_RAM ... CMD_WRITE_RAM + RAM_SIZE - 1:
    case CMD_WRITE_OUTPUT:
    case CMD_WRITE_KBD_OBF:
    case CMD_WRITE_AUX_OBF:
    case CMD_WRITE_AUX:
        s->pending = command;
        break;
    case CMD_AUX_DISABLE:
        s->ram[0] |= CTR_AUX_DISABLE;
        break;
    case CMD_AUX_ENABLE:
        s->ram[0] &= ~CTR_AUX_DISABLE;
        break;
    case CMD_AUX_TEST:
    case CMD_KBD_TEST:
        reply(s, 0x00, false);              /* no error on the lines */
        break;
    case CMD_SELF_TEST:
        s->status |= STAT_SYS;
        reply(s, 0x55, false);
        break;
    case CMD_KBD_DISABLE:
        s->ram[0] |= CTR_KBD_DISABLE;
        break;
    case CMD_KBD_ENABLE:
        s->ram[0] &= ~CTR_KBD_DISABLE;
        break;
    case CMD_READ_INPUT:
        reply(s, 0x80, false);              /* the keyboard is not locked */
        break;
    case CMD_READ_OUTPUT:
        reply(s, s->output_port, false);
        break;
    case CMD_A20_OFF:
        s->output_port &= ~OUT_A20;
        break;
    case CMD_A20_ON:
        s->output_port |= OUT_A20;
        break;
    case CMD_PULSE_FIRST ... CMD_PULSE_LAST:
        if (!(command & OUT_RESET))
            request_reset(s);
        break;
    default:
        guest_error("i8042", "unknown controller command 0x%02x", command);
    }
}

static void run_argument(I8042 *s, uint8_t value)
{
    uint8_t command = s->pending;

    s->pending = 0;
    switch (command) {
    case CMD_WRITE_RAM ... CMD_WRITE_RAM + RAM_SIZE - 1:
        s->ram[command - CMD_WRITE_RAM] = value;
        if (command == CMD_WRITE_RAM)
            s->status = (s->status & ~STAT_SYS) | (value & CTR_SYS ? STAT_SYS : 0);
        break;
    case CMD_WRITE_OUTPUT:
        write_output_port(s, value);
        break;
    case CMD_WRITE_KBD_OBF:
        reply(s, value, false);
        break;
    case CMD_WRITE_AUX_OBF:
        reply(s, value, true);
        break;
    case CMD_WRITE_AUX:
        s->ram[0] &= ~CTR_AUX_DISABLE;
        ps2_mouse_write(&s->mouse, value);
        break;
    default:                                /* no command: it is for the keyboard */
        s->ram[0] &= ~CTR_KBD_DISABLE;
        ps2_keyboard_write(&s->kbd, value);
    }
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned size)
{
    I8042 *s = opaque;
    uint8_t value = s->output;              /* an empty buffer gives the last byte again */

    s->status &= ~(STAT_OBF | STAT_AUX_OBF);
    update_irqs(s);                         /* the line falls between two bytes: an edge for each */
    pump(s);
    TRACE(i8042_read, "data 0x%02x", value);
    return value;
}

static void data_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    I8042 *s = opaque;

    TRACE(i8042_write, "data 0x%02x", (unsigned)value);
    s->status &= ~STAT_CMD;
    run_argument(s, value);
    pump(s);
}

static uint64_t status_read(void *opaque, uint64_t offset, unsigned size)
{
    return ((I8042 *)opaque)->status;
}

static void command_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    I8042 *s = opaque;

    TRACE(i8042_write, "command 0x%02x", (unsigned)value);
    s->status |= STAT_CMD;
    run_command(s, value);
    pump(s);
}

#define BYTES_ONLY .guest = { .min = 1, .max = 1 }, .device = { .min = 1, .max = 1 }
static const IoOps data_ops = { .read = data_read, .write = data_write, BYTES_ONLY };
static const IoOps command_ops = { .read = status_read, .write = command_write, BYTES_ONLY };

static void i8042_reset(Object *obj)
{
    I8042 *s = (I8042 *)obj;

    memset(s->ram, 0, sizeof(s->ram));
    s->ram[0] = CTR_KBD_INT | CTR_AUX_INT | CTR_SYS | CTR_TRANSLATE;   /* as firmware leaves it */
    s->status = STAT_SYS | STAT_CMD | STAT_UNLOCKED;
    s->output = 0;
    s->output_port = OUT_RESET | OUT_A20;
    s->pending = s->reply_length = s->reply_aux = 0;
    memset(s->replies, 0, sizeof(s->replies));
    ps2_keyboard_reset(&s->kbd);
    ps2_mouse_reset(&s->mouse);
    update_irqs(s);
}

static bool i8042_realize(Object *obj, GError **error)
{
    I8042 *s = (I8042 *)obj;

    if (!isa_get_irq(&s->isa, 1, &s->kbd_irq, error) ||
        !isa_get_irq(&s->isa, 12, &s->aux_irq, error))
        return false;
    region_init_io(&s->data_io, obj, &data_ops, s, "i8042-data", 1);
    region_add(isa_io(&s->isa), DATA_PORT, &s->data_io);
    region_init_io(&s->command_io, obj, &command_ops, s, "i8042-command", 1);
    region_add(isa_io(&s->isa), COMMAND_PORT, &s->command_io);
    i8042_reset(obj);
    return true;
}

static void i8042_unrealize(Object *obj)
{
    I8042 *s = (I8042 *)obj;

    region_destroy(&s->data_io);
    region_destroy(&s->command_io);
}

static bool i8042_post_load(void *obj, uint32_t version, GError **error)
{
    update_irqs(obj);
    return true;
}

static const StateField i8042_fields[] = {
    FIELD_STRUCT(I8042, kbd, ps2_state),
    FIELD_STRUCT(I8042, mouse, ps2_state),
    FIELD_BYTES(I8042, ram),
    FIELD(I8042, status),
    FIELD(I8042, output),
    FIELD(I8042, output_port),
    FIELD(I8042, pending),
    FIELD_BYTES(I8042, replies),
    FIELD(I8042, reply_length, .max = REPLY_SIZE),
    FIELD(I8042, reply_aux, .max = (1 << REPLY_SIZE) - 1),
    {}
};
static const StateTable i8042_state = { .fields = i8042_fields, .post_load = i8042_post_load };

static const Type i8042_type = {
    .name = "i8042",
    .parent = "isa-device",
    .help = "PS/2 keyboard controller with keyboard and mouse",
    .size = sizeof(I8042),
    .state = &i8042_state,
    .realize = i8042_realize,
    .unrealize = i8042_unrealize,
    .reset = i8042_reset,
};
TYPE_REGISTER(i8042_type)

/* PS/2 keyboard and mouse. */
#include <string.h>
#include "hw/input/ps2.h"

enum { PS2_ACK = 0xfa, PS2_RESEND = 0xfe, PS2_BAT_OK = 0xaa };
enum {                                      /* keyboard */
    KBD_SET_LEDS = 0xed, KBD_ECHO = 0xee, KBD_SCANCODE_SET = 0xf0, KBD_IDENTIFY = 0xf2,
    KBD_RATE_DELAY = 0xf3, KBD_ENABLE = 0xf4, KBD_DISABLE = 0xf5, KBD_DEFAULTS = 0xf6,
    KBD_SET_ALL_FIRST = 0xf7, KBD_SET_ALL_LAST = 0xfa, KBD_KEY_FIRST = 0xfb, KBD_KEY_LAST = 0xfd,
    KBD_RESET = 0xff,
};
enum {                                      /* mouse */
    AUX_SCALE_1_1 = 0xe6, AUX_SCALE_2_1 = 0xe7, AUX_RESOLUTION = 0xe8, AUX_STATUS = 0xe9,
    AUX_STREAM = 0xea, AUX_POLL = 0xeb, AUX_WRAP_OFF = 0xec, AUX_WRAP = 0xee, AUX_REMOTE = 0xf0,
    AUX_IDENTIFY = 0xf2, AUX_SAMPLE_RATE = 0xf3, AUX_ENABLE = 0xf4, AUX_DISABLE = 0xf5,
    AUX_DEFAULTS = 0xf6, AUX_RESET = 0xff,
};
enum { MOUSE_PLAIN = 0, MOUSE_WHEEL = 3, MOUSE_5_BUTTONS = 4 };

static void put(Ps2Device *s, uint8_t value)
{
    if (s->length < PS2_QUEUE_SIZE)
        s->queue[(s->head + s->length++) % PS2_QUEUE_SIZE] = value;
}

bool ps2_take(Ps2Device *s, uint8_t *ret)
{
    if (!s->length)
        return false;
    *ret = s->queue[s->head];
    s->head = (s->head + 1) % PS2_QUEUE_SIZE;
    s->length--;
    return true;
}

static void drop_queue(Ps2Device *s)
{
    s->head = s->length = 0;
}

static void keyboard_defaults(Ps2Device *s)
{
    s->scancode_set = 2;
    s->rate_delay = 0x2b;                   /* 10.9 a second after 500 ms */
}

void ps2_keyboard_reset(Ps2Device *s)
{
    memset(s, 0, sizeof(*s));
    keyboard_defaults(s);
    s->enabled = true;
}

static void keyboard_argument(Ps2Device *s, uint8_t value)
{
    uint8_t command = s->pending;

    s->pending = 0;
    put(s, PS2_ACK);
    switch (command) {
    case KBD_SET_LEDS:
        s->leds = value & 7;
        break;
    case KBD_RATE_DELAY:
        s->rate_delay = value & 0x7f;
        break;
    case KBD_SCANCODE_SET:
        if (value == 0)
            put(s, s->scancode_set);
        else if (value <= 3)
            s->scancode_set = value;
        break;
    }
}

void ps2_keyboard_write(Ps2Device *s, uint8_t value)
{
    if (s->pending && value < KBD_SET_LEDS) {
        keyboard_argument(s, value);
        return;
    }
    s->pending = 0;
    drop_queue(s);                          /* a command ends what was being sent */
    switch (value) {
    case KBD_ECHO:
        put(s, KBD_ECHO);
        return;
    case KBD_SET_LEDS:
    case KBD_SCANCODE_SET:
    case KBD_RATE_DELAY:
    case KBD_KEY_FIRST ... KBD_KEY_LAST:
        s->pending = value;
        break;
    case KBD_SET_ALL_FIRST ... KBD_SET_ALL_LAST:
        break;                              /* scan code set 3's key types: all make/break here */
    case KBD_IDENTIFY:
        put(s, PS2_ACK);
        put(s, 0xab);                       /* MF2 keyboard */
        put(s, 0x83);
        return;
    case KBD_ENABLE:
        s->enabled = true;
        break;
    case KBD_DISABLE:
        keyboard_defaults(s);
        s->enabled = false;
        break;
    case KBD_DEFAULTS:
        keyboard_defaults(s);
        break;
    case KBD_RESET:
        ps2_keyboard_reset(s);
        put(s, PS2_ACK);
        put(s, PS2_BAT_OK);
        return;
    default:
        put(s, PS2_RESEND);
        return;
    }
    put(s, PS2_ACK);
}

static void mouse_defaults(Ps2Device *s)
{
    s->sample_rate = 100;
    s->resolution = 2;
    s->scale_2_to_1 = s->remote = s->wrap = s->enabled = false;
}

void ps2_mouse_reset(Ps2Device *s)
{
    memset(s, 0, sizeof(*s));
    mouse_defaults(s);
    s->id = MOUSE_PLAIN;
}

/* Three sample rates in a row are the knock by which a driver asks for the wheel (200, 100, 80), and
 * then for five buttons (200, 200, 80): Microsoft's IntelliMouse. */
static void mouse_knock(Ps2Device *s, uint8_t rate)
{
    if (rate == 80 && s->history[0] == 200 && s->history[1] == 100)
        s->id = MOUSE_WHEEL;
    else if (rate == 80 && s->history[0] == 200 && s->history[1] == 200 && s->id == MOUSE_WHEEL)
        s->id = MOUSE_5_BUTTONS;
    s->history[0] = s->history[1];
    s->history[1] = rate;
    s->sample_rate = rate;
}

static void mouse_argument(Ps2Device *s, uint8_t value)
{
    if (s->pending == AUX_SAMPLE_RATE)
        mouse_knock(s, value);
    else
        s->resolution = value & 3;
    s->pending = 0;
    put(s, PS2_ACK);
}

/* A report of no movement: what AUX_POLL answers, as nothing here moves the mouse yet. */
static void mouse_put_packet(Ps2Device *s)
{
    put(s, 0x08);
    put(s, 0);
    put(s, 0);
    if (s->id != MOUSE_PLAIN)
        put(s, 0);
}

void ps2_mouse_write(Ps2Device *s, uint8_t value)
{
    if (s->wrap && value != AUX_WRAP_OFF && value != AUX_RESET) {
        put(s, value);
        return;
    }
    if (s->pending) {
        mouse_argument(s, value);
        return;
    }
    drop_queue(s);
    put(s, PS2_ACK);
    switch (value) {
    case AUX_SCALE_1_1:
    case AUX_SCALE_2_1:
        s->scale_2_to_1 = value == AUX_SCALE_2_1;
        break;
    case AUX_RESOLUTION:
    case AUX_SAMPLE_RATE:
        s->pending = value;
        break;
    case AUX_STATUS:
        put(s, s->remote << 6 | s->enabled << 5 | s->scale_2_to_1 << 4);
        put(s, s->resolution);
        put(s, s->sample_rate);
        break;
    case AUX_POLL:
        mouse_put_packet(s);
        break;
    case AUX_STREAM:
        s->remote = false;
        break;
    case AUX_REMOTE:
        s->remote = true;
        break;
    case AUX_WRAP:
        s->wrap = true;
        break;
    case AUX_WRAP_OFF:
        s->wrap = false;
        break;
    case AUX_IDENTIFY:
        put(s, s->id);
        break;
    case AUX_ENABLE:
        s->enabled = true;
        break;
    case AUX_DISABLE:
        s->enabled = false;
        break;
    case AUX_DEFAULTS:
        mouse_defaults(s);
        break;
    case AUX_RESET:
        ps2_mouse_reset(s);
        put(s, PS2_ACK);
        put(s, PS2_BAT_OK);
        put(s, MOUSE_PLAIN);
        break;
    default:
        drop_queue(s);
        put(s, PS2_RESEND);
    }
}

static const StateField ps2_fields[] = {
    FIELD(Ps2Device, head, .max = PS2_QUEUE_SIZE - 1),
    FIELD(Ps2Device, length, .max = PS2_QUEUE_SIZE),
    FIELD_BYTES(Ps2Device, queue),
    FIELD(Ps2Device, pending),
    FIELD(Ps2Device, enabled),
    FIELD(Ps2Device, scancode_set, .max = 3),
    FIELD(Ps2Device, leds, .max = 7),
    FIELD(Ps2Device, rate_delay, .max = 0x7f),
    FIELD(Ps2Device, id, .max = MOUSE_5_BUTTONS),
    FIELD(Ps2Device, sample_rate),
    FIELD(Ps2Device, resolution, .max = 3),
    FIELD_BYTES(Ps2Device, history),
    FIELD(Ps2Device, scale_2_to_1),
    FIELD(Ps2Device, remote),
    FIELD(Ps2Device, wrap),
    {}
};
const StateTable ps2_state = { .fields = ps2_fields };

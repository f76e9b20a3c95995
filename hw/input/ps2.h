/*
 * PS/2 keyboard and mouse: what they answer to the commands of a driver (IBM PS/2 Hardware Interface
 * Technical Reference, "Keyboard" and "Mouse").  They live in the i8042 controller, which carries
 * the bytes.  VM lock.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "src/object/state.h"

#define PS2_QUEUE_SIZE 16

typedef struct Ps2Device {
    uint32_t head, length;                  /* of the queue of bytes for the host */
    uint8_t queue[PS2_QUEUE_SIZE];
    uint8_t pending;                        /* command that waits for its argument; 0: none */
    bool enabled;                           /* sends scan codes, or movements */
    uint8_t scancode_set, leds, rate_delay; /* keyboard */
    uint8_t id, sample_rate, resolution;    /* mouse */
    uint8_t history[2];                     /* sample rates set before the last */
    bool scale_2_to_1, remote, wrap;
} Ps2Device;

void ps2_keyboard_reset(Ps2Device *s);
void ps2_mouse_reset(Ps2Device *s);
/* A byte from the host; what is answered is in the queue afterwards. */
void ps2_keyboard_write(Ps2Device *s, uint8_t value);
void ps2_mouse_write(Ps2Device *s, uint8_t value);
/* The next byte for the host; false: none. */
bool ps2_take(Ps2Device *s, uint8_t *ret);

extern const StateTable ps2_state;

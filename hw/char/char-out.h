/*
 * Bytes on their way from a device to its character device.  The device puts them in from a vCPU
 * thread; the main loop hands them over in batches, some milliseconds' worth or half the buffer, and
 * waits where the other side is slow.
 *
 * VM lock.
 */
#pragma once
#include "src/base/loop.h"
#include "src/chardev/chardev.h"

#define CHAR_OUT_SIZE 1024

typedef struct CharOut {
    CharFront *front;
    void (*drained)(void *opaque);          /* there is room again; main loop */
    void *opaque;
    LoopBh bh;                              /* to the main loop: a batch begins, or is large */
    LoopTimer timer;                        /* ends a batch */
    uint32_t length;
    uint8_t *data;                          /* CHAR_OUT_SIZE */
} CharOut;

extern const StateTable char_out_state;

void char_out_init(CharOut *out, CharFront *front, void (*drained)(void *opaque), void *opaque);
void char_out_destroy(CharOut *out);        /* main thread; hands over what can be */
static inline uint32_t char_out_room(const CharOut *out)
{
    return CHAR_OUT_SIZE - out->length;
}
bool char_out_put(CharOut *out, uint8_t byte);  /* false: no room, the byte was not taken */
void char_out_flush(CharOut *out);          /* main thread; also what the front's writable() calls */
void char_out_kick(CharOut *out);           /* any thread: a flush soon (after a state was loaded) */

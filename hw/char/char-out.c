/* Batched output of devices to their character devices. */
#include <string.h>
#include "hw/char/char-out.h"

/* How long a batch is collected.  A guest's console writes byte by byte, and to hand over each would
 * cost more than the guest's own work; a person at a terminal does not notice. */
#define BATCH_NS 2000000

static void char_out_timeout(void *opaque)
{
    char_out_flush(opaque);
}

static void char_out_bh(void *opaque)
{
    CharOut *out = opaque;

    if (out->length >= CHAR_OUT_SIZE / 2)
        char_out_flush(out);
    else
        loop_timer_set(&out->timer, loop_clock_ns() + BATCH_NS);
}

void char_out_init(CharOut *out, CharFront *front, void (*drained)(void *opaque), void *opaque)
{
    out->front = front;
    out->drained = drained;
    out->opaque = opaque;
    out->length = 0;
    out->data = g_malloc(CHAR_OUT_SIZE);
    loop_bh_init(&out->bh, loop_main(), char_out_bh, out);
    loop_timer_init(&out->timer, loop_main(), char_out_timeout, out);
}

void char_out_destroy(CharOut *out)
{
    if (!out->front)
        return;
    out->drained = NULL;
    char_out_flush(out);
    loop_bh_cancel(&out->bh);
    loop_timer_cancel(&out->timer);
    out->front = NULL;
    g_clear_pointer(&out->data, g_free);
}

bool char_out_put(CharOut *out, uint8_t byte)
{
    if (out->length == CHAR_OUT_SIZE)
        return false;
    out->data[out->length++] = byte;
    if (out->length == 1 || out->length == CHAR_OUT_SIZE / 2)
        loop_bh_schedule(&out->bh);
    return true;
}

void char_out_flush(CharOut *out)
{
    if (!out->length)
        return;
    size_t taken = char_front_write(out->front, out->data, out->length);
    out->length -= taken;
    memmove(out->data, out->data + taken, out->length);
    if (taken && out->drained)
        out->drained(out->opaque);
}

void char_out_kick(CharOut *out)
{
    loop_bh_schedule(&out->bh);
}

static const StateField char_out_fields[] = {
    FIELD_BUFFER(CharOut, data, length, .max = CHAR_OUT_SIZE),
    {}
};
const StateTable char_out_state = { .fields = char_out_fields };

/* Batched output of devices to their character devices. */
#include <string.h>
#include "hw/char/char-out.h"

static void char_out_bh(void *opaque)
{
    char_out_flush(opaque);
}

void char_out_init(CharOut *out, CharFront *front, void (*drained)(void *opaque), void *opaque)
{
    out->front = front;
    out->drained = drained;
    out->opaque = opaque;
    out->length = 0;
    out->data = g_malloc(CHAR_OUT_SIZE);
    loop_bh_init(&out->bh, loop_main(), char_out_bh, out);
}

void char_out_destroy(CharOut *out)
{
    if (!out->front)
        return;
    out->drained = NULL;
    char_out_flush(out);
    loop_bh_cancel(&out->bh);
    out->front = NULL;
    g_clear_pointer(&out->data, g_free);
}

bool char_out_put(CharOut *out, uint8_t byte)
{
    if (out->length == CHAR_OUT_SIZE)
        return false;
    out->data[out->length++] = byte;
    if (out->length == 1)
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

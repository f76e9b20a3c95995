#include "monitor/output.h"

void monitor_output_init(MonitorOutput *out, CharFront *front)
{
    *out = (MonitorOutput){ .front = front, .pending = g_byte_array_new() };
}

void monitor_output_clear(MonitorOutput *out)
{
    g_clear_pointer(&out->pending, g_byte_array_unref);
}

void monitor_output_reset(MonitorOutput *out)
{
    g_byte_array_set_size(out->pending, 0);
    out->sent = 0;
}

size_t monitor_output_pending(const MonitorOutput *out)
{
    return out->pending->len - out->sent;
}

/* A buffer that was large for one reply is not kept. */
static void all_sent(MonitorOutput *out)
{
    if (out->pending->len > 64 * 1024) {
        g_byte_array_unref(out->pending);
        out->pending = g_byte_array_new();
    }
    monitor_output_reset(out);
}

void monitor_output_flush(MonitorOutput *out)
{
    while (monitor_output_pending(out)) {
        size_t n = char_front_write(out->front, out->pending->data + out->sent,
                                    monitor_output_pending(out));
        if (!n)
            return;
        out->sent += n;
    }
    if (out->sent)
        all_sent(out);
}

void monitor_output_write(MonitorOutput *out, const char *text, size_t length)
{
    if (out->sent > 64 * 1024) {
        g_byte_array_remove_range(out->pending, 0, out->sent);
        out->sent = 0;
    }
    g_byte_array_append(out->pending, (const uint8_t *)text, length);
}

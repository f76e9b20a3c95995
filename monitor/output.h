/*
 * The bytes a monitor still has to write to its character device.  Writing never waits: what the
 * peer does not take stays here, and the owner stops producing while it is more than a mark.
 */
#pragma once
#include "src/chardev/chardev.h"

typedef struct MonitorOutput {
    CharFront *front;
    GByteArray *pending;
    size_t sent;                           /* of pending */
} MonitorOutput;

void monitor_output_init(MonitorOutput *out, CharFront *front);
void monitor_output_clear(MonitorOutput *out);
void monitor_output_reset(MonitorOutput *out);         /* forgets what is pending */
void monitor_output_write(MonitorOutput *out, const char *text, size_t length);
void monitor_output_flush(MonitorOutput *out);         /* as far as the device takes it */
size_t monitor_output_pending(const MonitorOutput *out);

/*
 * A timer on the guest's clock (machine_clock_ns), for device models: it stands still while the
 * machine is stopped, and may be set from a vCPU thread, which the main loop's own timers may not.
 *
 * VM lock.  The callback runs in the main loop under the VM lock.
 */
#pragma once
#include "hw/core/machine.h"
#include "src/base/loop.h"

typedef struct GuestTimer {
    Machine *machine;
    void (*fn)(void *opaque);
    void *opaque;
    int64_t expire_ns;                      /* on the guest's clock; -1: idle */
    LoopTimer timer;                        /* main loop's thread only */
    LoopBh rearm;                           /* carries a change over to it */
    bool stopped;                           /* the machine is */
} GuestTimer;

void guest_timer_init(GuestTimer *t, Machine *machine, void (*fn)(void *opaque), void *opaque);
void guest_timer_destroy(GuestTimer *t);    /* main thread; zeroed memory is fine */
void guest_timer_set(GuestTimer *t, int64_t expire_ns);
void guest_timer_cancel(GuestTimer *t);

/* Timers on the guest's clock. */
#include "hw/timer/guest-timer.h"

/* Main thread: makes the loop's timer follow expire_ns. */
static void rearm(GuestTimer *t)
{
    if (t->expire_ns < 0 || t->stopped) {
        loop_timer_cancel(&t->timer);
        return;
    }
    int64_t delay = t->expire_ns - machine_clock_ns(t->machine);
    int64_t now = loop_clock_ns();
    loop_timer_set(&t->timer, delay > 0 ? (delay < INT64_MAX - now ? now + delay : INT64_MAX) : now);
}

static void guest_timer_rearm(void *opaque)
{
    rearm(opaque);
}

static void guest_timer_fired(void *opaque)
{
    GuestTimer *t = opaque;

    if (t->expire_ns < 0 || t->stopped)
        return;
    if (machine_clock_ns(t->machine) < t->expire_ns) {
        rearm(t); /* it was moved to a later time, or the clock stood still */
        return;
    }
    t->expire_ns = -1;
    t->fn(t->opaque);
}

static void guest_timer_run_state(void *opaque, bool running)
{
    GuestTimer *t = opaque;

    t->stopped = !running;
    rearm(t);
}

void guest_timer_init(GuestTimer *t, Machine *machine, void (*fn)(void *opaque), void *opaque)
{
    *t = (GuestTimer){
        .machine = machine, .fn = fn, .opaque = opaque, .expire_ns = -1,
        .stopped = !machine->clock_running,
    };
    loop_timer_init(&t->timer, loop_main(), guest_timer_fired, t);
    loop_bh_init(&t->rearm, loop_main(), guest_timer_rearm, t);
    machine_add_run_hook(machine, guest_timer_run_state, t);
}

void guest_timer_destroy(GuestTimer *t)
{
    if (!t->machine)
        return;
    machine_del_run_hook(t->machine, guest_timer_run_state, t);
    loop_bh_cancel(&t->rearm);
    loop_timer_cancel(&t->timer);
    t->machine = NULL;
}

void guest_timer_set(GuestTimer *t, int64_t expire_ns)
{
    int64_t before = t->expire_ns;

    t->expire_ns = MAX(expire_ns, 0);
    if (loop_is_current(loop_main()))
        rearm(t);
    else if (before < 0 || t->expire_ns < before)
        loop_bh_schedule(&t->rearm); /* later than armed: it finds out when it fires */
}

void guest_timer_cancel(GuestTimer *t)
{
    t->expire_ns = -1; /* the armed timer fires once for nothing */
    if (loop_is_current(loop_main()))
        loop_timer_cancel(&t->timer);
}

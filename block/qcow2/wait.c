/*
 * Waiting for something that a small mutex guards.  The turn is given by a bottom half in the waiter's
 * own loop, once: no wake-up reaches a coroutine that has gone on to something else.
 */
#include "block/qcow2/qcow2.h"

static void take_turn(void *opaque)
{
    Qcow2Waiter *waiter = opaque;

    waiter->woken = true;
    co_wake(waiter->co);
}

void qcow2_waiter_add(Qcow2Waiter **list, Qcow2Waiter *waiter)
{
    *waiter = (Qcow2Waiter){ .co = co_self() };
    loop_bh_init(&waiter->bh, co_loop(waiter->co), take_turn, waiter);
    while (*list)
        list = &(*list)->next;
    *list = waiter;
}

void co_fn qcow2_wait(Qcow2Waiter *waiter)
{
    while (!waiter->woken)
        co_yield();
}

/* A waiter may be gone as soon as its bottom half is scheduled. */
void qcow2_wake(Qcow2Waiter *list)
{
    while (list) {
        Qcow2Waiter *next = list->next;

        loop_bh_schedule(&list->bh);
        list = next;
    }
}

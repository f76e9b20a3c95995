/*
 * The gate that every request passes.
 *
 * A request counts itself in its thread's cell, then looks whether somebody wants to be alone; who wants
 * to be alone says so, then looks whether anybody is counted.  Both orders are sequentially
 * consistent, so that neither overlooks the other.
 *
 * The count also tells when a freed host cluster may be used again: a request that has looked up a
 * cluster reads or writes it some time later, so that the cluster must not get new contents before
 * that request is over.  Requests count under one of two epochs in turn.  When an epoch is closed
 * (new requests count under the other one) its count can only fall; once it is zero, nobody knows
 * any offset that was looked up before it was closed.
 */
#include "block/qcow2/qcow2.h"

static unsigned passes(Qcow2 *s, Qcow2Pass pass)
{
    unsigned n = 0;

    for (unsigned i = 0; i < BLOCK_SLOTS; i++) {
        Qcow2Cell *cell = __atomic_load_n(&s->cells.of[i], __ATOMIC_ACQUIRE);

        if (cell)
            n += __atomic_load_n(&cell->passes[pass], __ATOMIC_SEQ_CST);
    }
    return n;
}

static bool anybody_inside(Qcow2 *s)
{
    for (unsigned pass = 0; pass < QCOW2_PASS__COUNT; pass++)
        if (passes(s, pass))
            return true;
    return false;
}

static void wake_exclusive(Qcow2 *s)
{
    Qcow2Waiter *waiter;

    pthread_mutex_lock(&s->gate_mutex);
    waiter = g_steal_pointer(&s->exclusive_waiter);
    pthread_mutex_unlock(&s->gate_mutex);
    qcow2_wake(waiter);
}

static void co_fn wait_outside(Qcow2 *s)
{
    Qcow2Waiter waiter;

    pthread_mutex_lock(&s->gate_mutex);
    while (__atomic_load_n(&s->exclusive, __ATOMIC_SEQ_CST)) {
        qcow2_waiter_add(&s->gate_waiters, &waiter);
        pthread_mutex_unlock(&s->gate_mutex);
        qcow2_wait(&waiter);
        pthread_mutex_lock(&s->gate_mutex);
    }
    pthread_mutex_unlock(&s->gate_mutex);
}

static Qcow2Ticket co_fn enter(Qcow2 *s, bool upkeep)
{
    Qcow2Ticket ticket = { block_cells_mine(&s->cells, sizeof(Qcow2Cell)), QCOW2_PASS_UPKEEP };

    for (;;) {
        int epoch = __atomic_load_n(&s->epoch, __ATOMIC_SEQ_CST);

        if (!upkeep)
            ticket.pass = epoch & 1 ? QCOW2_PASS_EPOCH_1 : QCOW2_PASS_EPOCH_0;
        __atomic_fetch_add(&ticket.cell->passes[ticket.pass], 1, __ATOMIC_SEQ_CST);
        if (G_LIKELY(__atomic_load_n(&s->epoch, __ATOMIC_SEQ_CST) == epoch &&
                     !__atomic_load_n(&s->exclusive, __ATOMIC_SEQ_CST)))
            return ticket;
        qcow2_leave(s, &ticket);
        wait_outside(s);
    }
}

Qcow2Ticket co_fn qcow2_enter(Qcow2 *s)
{
    return enter(s, false);
}

Qcow2Ticket co_fn qcow2_enter_upkeep(Qcow2 *s)
{
    return enter(s, true);
}

void qcow2_leave(Qcow2 *s, Qcow2Ticket *ticket)
{
    __atomic_fetch_sub(&ticket->cell->passes[ticket->pass], 1, __ATOMIC_SEQ_CST);
    if (G_UNLIKELY(__atomic_load_n(&s->exclusive, __ATOMIC_SEQ_CST)))
        wake_exclusive(s);
}

void co_fn qcow2_exclusive_reserve(Qcow2 *s)
{
    co_mutex_lock(&s->exclusive_lock);
}

void qcow2_exclusive_release(Qcow2 *s)
{
    co_mutex_unlock(&s->exclusive_lock);
}

void co_fn qcow2_gate_close(Qcow2 *s)
{
    Qcow2Waiter waiter;

    __atomic_fetch_add(&s->exclusive_turns, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&s->exclusive, 1, __ATOMIC_SEQ_CST);
    for (;;) {
        pthread_mutex_lock(&s->gate_mutex);
        if (!anybody_inside(s)) {
            pthread_mutex_unlock(&s->gate_mutex);
            return;
        }
        /* Who leaves now, after the count, finds us waiting: it takes the mutex. */
        qcow2_waiter_add(&s->exclusive_waiter, &waiter);
        pthread_mutex_unlock(&s->gate_mutex);
        qcow2_wait(&waiter);
    }
}

void qcow2_gate_open(Qcow2 *s)
{
    Qcow2Waiter *waiters;

    pthread_mutex_lock(&s->gate_mutex);
    __atomic_store_n(&s->exclusive, 0, __ATOMIC_SEQ_CST);
    waiters = g_steal_pointer(&s->gate_waiters);
    pthread_mutex_unlock(&s->gate_mutex);
    qcow2_wake(waiters);
}

void co_fn qcow2_exclusive_begin(Qcow2 *s)
{
    qcow2_exclusive_reserve(s);
    qcow2_gate_close(s);
}

void qcow2_exclusive_end(Qcow2 *s)
{
    qcow2_gate_open(s);
    qcow2_exclusive_release(s);
}

/* Epochs follow each other by one; a new one begins only when nobody is left of the one whose
 * count it uses again. */
bool qcow2_epoch_passed(Qcow2 *s, int since)
{
    int epoch;

    pthread_mutex_lock(&s->gate_mutex);
    for (;;) {
        epoch = __atomic_load_n(&s->epoch, __ATOMIC_SEQ_CST);
        if (epoch > since + 1 || passes(s, (epoch + 1) & 1))
            break;
        __atomic_store_n(&s->epoch, epoch + 1, __ATOMIC_SEQ_CST);
    }
    pthread_mutex_unlock(&s->gate_mutex);
    return epoch > since + 1;
}

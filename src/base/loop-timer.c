/* Timers: a binary heap on the time they expire at. */
#include <time.h>
#include "src/base/loop-int.h"

int64_t loop_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static LoopTimer *at(GPtrArray *heap, unsigned i)
{
    return heap->pdata[i];
}

static void place(GPtrArray *heap, unsigned i, LoopTimer *timer)
{
    heap->pdata[i] = timer;
    timer->heap_index = i;
}

static void sift_up(GPtrArray *heap, unsigned i)
{
    LoopTimer *timer = at(heap, i);
    while (i > 0 && at(heap, (i - 1) / 2)->expire_ns > timer->expire_ns) {
        place(heap, i, at(heap, (i - 1) / 2));
        i = (i - 1) / 2;
    }
    place(heap, i, timer);
}

static void sift_down(GPtrArray *heap, unsigned i)
{
    LoopTimer *timer = at(heap, i);
    for (unsigned child; (child = 2 * i + 1) < heap->len; i = child) {
        if (child + 1 < heap->len && at(heap, child + 1)->expire_ns < at(heap, child)->expire_ns)
            child++;
        if (at(heap, child)->expire_ns >= timer->expire_ns)
            break;
        place(heap, i, at(heap, child));
    }
    place(heap, i, timer);
}

void loop_timer_init(LoopTimer *timer, Loop *loop, LoopFn *fn, void *opaque)
{
    *timer = (LoopTimer){ .loop = loop, .fn = fn, .opaque = opaque, .expire_ns = -1 };
}

void loop_timer_set(LoopTimer *timer, int64_t expire_ns)
{
    GPtrArray *heap = timer->loop->timers;
    if (timer->expire_ns < 0) {
        timer->heap_index = heap->len;
        g_ptr_array_add(heap, timer);
    }
    timer->expire_ns = MAX(expire_ns, 0);
    sift_up(heap, timer->heap_index);
    sift_down(heap, timer->heap_index);
}

void loop_timer_cancel(LoopTimer *timer)
{
    if (!timer->loop || timer->expire_ns < 0)
        return;
    GPtrArray *heap = timer->loop->timers;
    unsigned i = timer->heap_index;
    LoopTimer *last = at(heap, heap->len - 1);
    g_ptr_array_set_size(heap, (int)heap->len - 1);
    timer->expire_ns = -1;
    if (last == timer)
        return;
    place(heap, i, last);
    sift_up(heap, i);
    sift_down(heap, last->heap_index);
}

int64_t loop_timeout_ns(Loop *loop)
{
    if (!loop->timers->len)
        return -1;
    int64_t left = at(loop->timers, 0)->expire_ns - loop_clock_ns();
    return MAX(left, 0);
}

unsigned loop_timers_due(Loop *loop, int64_t now)
{
    unsigned due = 0;
    for (unsigned i = 0; i < loop->timers->len; i++)
        due += at(loop->timers, i)->expire_ns <= now;
    return due;
}

bool loop_timer_fire(Loop *loop, int64_t now, unsigned index)
{
    for (unsigned i = 0; i < loop->timers->len; i++) {
        LoopTimer *timer = at(loop->timers, i);
        if (timer->expire_ns > now && index == 0 && i == 0)
            return false;
        if (timer->expire_ns > now || index--)
            continue;
        loop_timer_cancel(timer);
        timer->fn(timer->opaque);
        return true;
    }
    return false;
}

/* Several coroutines that work for one, all in its loop. */
#include "block/qcow2/qcow2.h"

static void co_fn wait_until_at_most(Qcow2Group *group, unsigned n)
{
    group->waiter = co_self();
    while (group->running > n)
        co_yield();
    group->waiter = NULL;
}

void co_fn qcow2_group_start(Qcow2Group *group, CoroutineFn *fn, void *opaque)
{
    if (group->running >= group->max)
        wait_until_at_most(group, group->max - 1);
    group->running++;
    co_start(fn, opaque);
}

void qcow2_group_done(Qcow2Group *group, int ret)
{
    if (ret < 0 && group->ret == 0)
        group->ret = ret;
    group->running--;
    if (group->waiter)
        co_wake(group->waiter);
}

int co_fn qcow2_group_wait(Qcow2Group *group)
{
    if (group->running)
        wait_until_at_most(group, 0);
    return group->ret;
}

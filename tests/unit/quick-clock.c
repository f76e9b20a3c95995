/*
 * For QEMU's tools, by LD_PRELOAD: a second of CPU time has passed each time they look.  Before they make a
 * key they measure how fast they are, for seconds and so closely that it fails on a coarse clock; with this
 * they believe after a few milliseconds that they are slow, and make the key with few iterations.
 */
#include <sys/resource.h>
#include <sys/types.h>

int getrusage(__rusage_who_t who, struct rusage *usage)
{
    static time_t now;

    *usage = (struct rusage){ .ru_utime.tv_sec = __atomic_add_fetch(&now, 1, __ATOMIC_RELAXED) };
    return 0;
}

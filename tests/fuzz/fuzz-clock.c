/*
 * A clock that an input can set forward: timers become due without waiting for them.  The linker
 * puts these in the place of the functions that the program calls (--wrap).
 */
#include <glib.h>
#include <time.h>
#include "tests/fuzz/fuzz.h"

static uint64_t ahead_ns;                  /* atomic */

void fuzz_clock_advance(uint64_t ns)
{
    __atomic_add_fetch(&ahead_ns, ns, __ATOMIC_SEQ_CST);
}

int __real_clock_gettime(clockid_t clock, struct timespec *ts);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ts);
gint64 __real_g_get_real_time(void);
gint64 __wrap_g_get_real_time(void);

int __wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
    uint64_t ahead = __atomic_load_n(&ahead_ns, __ATOMIC_SEQ_CST);
    int result = __real_clock_gettime(clock, ts);

    ts->tv_sec += ahead / 1000000000;
    ts->tv_nsec += ahead % 1000000000;
    if (ts->tv_nsec >= 1000000000) {
        ts->tv_nsec -= 1000000000;
        ts->tv_sec++;
    }
    return result;
}

gint64 __wrap_g_get_real_time(void)
{
    return __real_g_get_real_time() + __atomic_load_n(&ahead_ns, __ATOMIC_SEQ_CST) / 1000;
}

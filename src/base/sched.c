/* The seeded scheduler: where order is free, it is drawn from here. */
#include "src/base/sched.h"
#include <glib.h>

static bool on;                   /* atomic */
static uint64_t base_seed;
static unsigned generation;       /* atomic: one more at each sched_seed */
static unsigned streams;          /* atomic: threads that have drawn in this generation */

/* Each thread draws from a stream of its own, so that one thread's order does not depend on how
 * far another one has come. */
static __thread uint64_t state;
static __thread unsigned state_generation;

/* splitmix64: a full-period step and a mix. */
static uint64_t next(uint64_t *s)
{
    uint64_t z = (*s += 0x9e3779b97f4a7c15ull);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

void sched_seed(uint64_t seed)
{
    base_seed = seed;
    __atomic_store_n(&streams, 0, __ATOMIC_RELAXED);
    __atomic_add_fetch(&generation, 1, __ATOMIC_RELEASE);
    __atomic_store_n(&on, true, __ATOMIC_RELEASE);
}

void sched_off(void)
{
    __atomic_store_n(&on, false, __ATOMIC_RELEASE);
}

bool sched_on(void)
{
    return G_UNLIKELY(__atomic_load_n(&on, __ATOMIC_RELAXED));
}

unsigned sched_choose(unsigned n)
{
    if (G_LIKELY(!sched_on()) || n < 2)
        return 0;
    unsigned now = __atomic_load_n(&generation, __ATOMIC_ACQUIRE);
    if (state_generation != now) {
        state_generation = now;
        uint64_t stream = __atomic_fetch_add(&streams, 1, __ATOMIC_RELAXED);
        state = base_seed ^ stream * 0xd1342543de82ef95ull;
        next(&state);
    }
    return (unsigned)((next(&state) >> 32) * n >> 32);
}

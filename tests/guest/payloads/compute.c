/* A long computation that tells of its progress, so that it can be stopped and moved in the middle.
 * */
#include "guest.h"

enum { STEPS = 200, INNER = 500 };

void guest_main(const void *start_info, uint64_t argument)
{
    uint64_t x = argument;
    for (unsigned step = 0; step < STEPS; step++) {
        for (unsigned i = 0; i < INNER; i++)
            x = (x ^ x >> 7) * 6364136223846793005u + 1442695040888963407u;
        outl(DATA_PORT, step);
    }
    MMIO(uint64_t, 0x200000) = x;
    end(GOOD);
}

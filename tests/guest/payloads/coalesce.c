/* Many writes to a register that may be late, then a port access that may not. */
#include "guest.h"

void guest_main(const void *start_info, uint64_t argument)
{
    for (unsigned i = 0; i < 300; i++)
        MMIO(uint32_t, DATA_MMIO + 4 * (i % 8)) = i;
    EXPECT(inb(DATA_PORT) == 1);            /* the harness has all of them by now */
    MMIO(uint32_t, DATA_MMIO) = 12345;
    end(GOOD);
}

/* Writes that are to become eventfd signals, and one beside that is not. */
#include "guest.h"

void guest_main(const void *start_info, uint64_t argument)
{
    for (unsigned i = 0; i < 3; i++)
        outw(DATA_PORT + 2, 7);
    outw(DATA_PORT + 2, 8);                 /* another value */
    MMIO(uint32_t, DATA_MMIO + 0x20) = 1;
    MMIO(uint8_t, DATA_MMIO + 0x20) = 1;    /* any size */
    end(GOOD);
}

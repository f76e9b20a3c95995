/* CPUID of the leaves that the harness lists at 2 MiB: function, index, then eax … edx are filled
 * in. */
#include "guest.h"

typedef struct Leaf {
    uint32_t function, index, eax, ebx, ecx, edx;
} Leaf;

void guest_main(const void *start_info, uint64_t argument)
{
    Leaf *leaf = (Leaf *)0x200000;
    for (uint64_t i = 0; i < argument; i++, leaf++)
        asm volatile("cpuid" : "=a"(leaf->eax), "=b"(leaf->ebx), "=c"(leaf->ecx), "=d"(leaf->edx)
                     : "a"(leaf->function), "c"(leaf->index));
    end(GOOD);
}

/* The ends that a guest can meet: 1 code where there is no memory, 2 a triple fault, 3 a halt. */
#include "guest.h"

void guest_main(const void *start_info, uint64_t argument)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) none = { 0, 0 };

    if (argument == 1)
        ((void (*)(void))0xe0000000)();
    if (argument == 2) {
        asm volatile("lidt %0" ::"m"(none));
        asm volatile("ud2");
    }
    for (;;)
        asm volatile("cli; hlt");
}

/* An NMI by LINT1: first while that is masked (nothing comes), then while it is open. */
#include "guest.h"

enum { LVT_LINT1 = 0x360, MASKED = 1 << 16, NMI = 4 << 8 };
static volatile unsigned count;

void on_interrupt(unsigned vector)
{
    EXPECT(vector == 2);
    count++;
}

void guest_main(const void *start_info, uint64_t argument)
{
    idt_load();
    lapic_enable();
    lapic_write(LVT_LINT1, MASKED | NMI);
    outb(DATA_PORT, 1);                     /* the harness tries */
    while (inb(DATA_PORT) != 1)
        asm volatile("pause");
    EXPECT(count == 0);
    lapic_write(LVT_LINT1, NMI);
    outb(DATA_PORT, 2);
    while (!count)
        asm volatile("cli; hlt");           /* an NMI asks for no leave */
    EXPECT(count == 1);
    end(GOOD);
}

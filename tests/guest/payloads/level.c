/*
 * Level interrupts as eventfds see them.  Argument 0: IOAPIC pin 18, kept high until the harness
 * hears of the EOI.  1: a level message, as a userspace IOAPIC sends it.
 */
#include "guest.h"

static volatile unsigned count;

void on_interrupt(unsigned vector)
{
    count++;
    lapic_eoi();
}

void guest_main(const void *start_info, uint64_t argument)
{
    idt_load();
    lapic_enable();
    if (argument == 0) {
        outb(0x21, 0xff);
        outb(0xa1, 0xff);
        ioapic_route(18, 65 | 1 << 15);
    }
    for (unsigned i = 1; i <= 3; i++) {
        outb(DATA_PORT, i);
        while (count < i)
            asm volatile("sti; hlt; cli");
        EXPECT(count == i);
        while (inb(DATA_PORT) != i)         /* the harness has heard of the EOI */
            asm volatile("pause");
    }
    end(GOOD);
}

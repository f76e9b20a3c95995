/* The PIT, by IOAPIC input 2: periodic ticks, each told to the harness; port 0x61's gate. */
#include "guest.h"

enum { MODE_RATE = 0x34, COUNT = 11932, TICKS = 20, CHANNEL2_ONE_SHOT = 0xb0 };
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
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    ioapic_route(2, 64);
    outb(0x43, MODE_RATE);                  /* channel 0, low and high byte, rate generator */
    outb(0x40, COUNT & 0xff);
    outb(0x40, COUNT >> 8);                 /* 10 ms */
    for (unsigned told = 0; count < TICKS;) {
        asm volatile("sti; hlt; cli");
        for (; told < count; told++)
            outl(DATA_PORT, told);
    }
    outb(0x61, 1);
    EXPECT((inb(0x61) & 3) == 1);
    outb(0x43, CHANNEL2_ONE_SHOT);
    outb(0x42, 100);
    outb(0x42, 0);
    while (!(inb(0x61) & 0x20))
        ;
    end(GOOD);
}

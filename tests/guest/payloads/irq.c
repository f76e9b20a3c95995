/* Interrupts: IOAPIC edge (64) and level (65), MSI (66), MSI by irqfd (67); asked for by DATA_PORT.
 * */
#include "guest.h"

enum { LEVEL = 1 << 15, EDGE_PIN = 5, LEVEL_PIN = 18, ROUNDS = 3 };
static volatile unsigned count[4];

void on_interrupt(unsigned vector)
{
    count[vector - 64]++;
    if (vector == 65)
        outb(DATA_PORT + 1, 0);             /* the device takes its level line back */
    lapic_eoi();
}

static void ask_and_wait(unsigned what)
{
    for (unsigned i = 1; i <= ROUNDS; i++) {
        outb(DATA_PORT, 64 + what);
        while (count[what] < i)
            asm volatile("sti; hlt; cli");
        EXPECT(count[what] == i);
    }
}

void guest_main(const void *start_info, uint64_t argument)
{
    idt_load();
    lapic_enable();
    if (argument) {                         /* the harness has a kernel PIC and IOAPIC */
        outb(0x21, 0xff);
        outb(0xa1, 0xff);
        ioapic_route(EDGE_PIN, 64);
        ioapic_route(LEVEL_PIN, 65 | LEVEL);
        ask_and_wait(0);
        ask_and_wait(1);
    }
    ask_and_wait(2);
    ask_and_wait(3);
    end(GOOD);
}

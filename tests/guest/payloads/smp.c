/* Two CPUs: INIT and SIPI, then interrupts from one to the other and back. */
#include "guest.h"

enum { ICR_LOW = 0x300, ICR_HIGH = 0x310, APIC_ID = 0x20, ROUNDS = 20 };
static volatile unsigned arrived[2], ap_up, ap_id = ~0u;

void on_interrupt(unsigned vector)
{
    arrived[vector - 64]++;
    lapic_eoi();
}

static void send(unsigned apic_id, unsigned vector)
{
    lapic_write(ICR_HIGH, apic_id << 24);
    lapic_write(ICR_LOW, 0x4000 | vector);
}

void ap_main(void)
{
    idt_load();
    lapic_enable();
    ap_id = lapic_read(APIC_ID) >> 24;
    ap_up = 1;
    for (unsigned i = 1; i <= ROUNDS; i++) {
        while (arrived[1] < i)
            asm volatile("sti; hlt; cli");
        send(0, 64);
    }
    for (;;)
        asm volatile("cli; hlt");
}

void guest_main(const void *start_info, uint64_t argument)
{
    idt_load();
    lapic_enable();
    argument = argument ? argument : 1;
    EXPECT(lapic_read(APIC_ID) >> 24 == 0);
    ap_boot(argument);
    while (!ap_up)
        asm volatile("pause");
    EXPECT(ap_id == argument);
    for (unsigned i = 1; i <= ROUNDS; i++) {
        send(argument, 65);
        while (arrived[0] < i)
            asm volatile("sti; hlt; cli");
    }
    end(GOOD);
}

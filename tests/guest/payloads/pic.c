/* The PIT by the PIC and LINT0 (ExtINT): to a halted CPU, a busy one, one with interrupts off, and one
 * whose LINT0 is masked.  Runs on a board only. */
#include "guest.h"

enum {
    PIC1 = 0x20, PIC2 = 0xa0, EOI = 0x20, READ_IRR = 0x0a, READ_ISR = 0x0b, VECTOR = 64,
    PIT_RATE = 0x34, PIT_TERMINAL_COUNT = 0x30, COUNT = 2386,   /* 2 ms */
    LVT0 = 0x350, EXTINT = 0x700, MASKED = 1 << 16, TICKS = 20,
};
static volatile unsigned count, in_service;

void on_interrupt(unsigned vector)
{
    EXPECT(vector == VECTOR);
    count++;
    outb(PIC1, READ_ISR);
    in_service += inb(PIC1) == 1;
    outb(PIC1, EOI);
}

static void pit(unsigned control)
{
    outb(0x43, control);
    outb(0x40, COUNT & 0xff);
    outb(0x40, COUNT >> 8);
}

static void wait_for_request(void)
{
    outb(PIC1, READ_IRR);
    while (!(inb(PIC1) & 1))
        ;
}

void guest_main(const void *start_info, uint64_t argument)
{
    static const uint8_t init[][2] = {
        { PIC1, 0x11 }, { PIC1 + 1, VECTOR }, { PIC1 + 1, 4 }, { PIC1 + 1, 1 }, { PIC2, 0x11 },
        { PIC2 + 1, VECTOR + 8 }, { PIC2 + 1, 2 }, { PIC2 + 1, 1 }, { PIC2 + 1, 0xff },
        { PIC1 + 1, 0xfe },
    };
    idt_load();
    for (unsigned i = 0; i < sizeof(init) / sizeof(init[0]); i++)
        outb(init[i][0], init[i][1]);
    pit(PIT_RATE);                          /* as after a reset: the LAPIC lets LINT0 through */
    while (count < TICKS)
        asm volatile("sti; hlt; cli" ::: "memory");
    lapic_enable();
    lapic_write(LVT0, EXTINT);
    asm volatile("sti");
    while (count < 2 * TICKS)
        ;
    asm volatile("cli");

    outb(PIC1, 0x11);                       /* forgets a tick that came just now */
    for (unsigned i = 1; i < 4; i++)
        outb(init[i][0], init[i][1]);
    count = 0;
    pit(PIT_TERMINAL_COUNT);
    wait_for_request();
    EXPECT(count == 0);
    asm volatile("sti");
    while (count == 0)
        ;
    asm volatile("cli");
    EXPECT(count == 1);

    lapic_write(LVT0, EXTINT | MASKED);
    pit(PIT_TERMINAL_COUNT);
    asm volatile("sti");
    wait_for_request();
    EXPECT(count == 1);
    lapic_write(LVT0, EXTINT);
    while (count == 1)
        ;
    asm volatile("cli");
    EXPECT(in_service >= 2 * TICKS + 2);
    end(GOOD);
}

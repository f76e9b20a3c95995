/* The LAPIC's timer, periodic: each tick is told to the harness. */
#include "guest.h"

enum { LVT_TIMER = 0x320, INITIAL = 0x380, DIVIDE = 0x3e0, PERIODIC = 1 << 17, TICKS = 40 };
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
    lapic_write(DIVIDE, 0xb);               /* by 1 */
    lapic_write(LVT_TIMER, PERIODIC | 64);
    lapic_write(INITIAL, 2000000);          /* 2 ms: KVM's LAPIC counts nanoseconds */
    for (unsigned told = 0; count < TICKS;) {
        asm volatile("sti; hlt; cli");
        for (; told < count; told++)
            outl(DATA_PORT, told);
    }
    EXPECT(lapic_read(INITIAL) == 2000000);
    end(GOOD);
}

/* Ports and memory-mapped registers: each size, strings, and places where nothing is. */
#include "guest.h"

static uint8_t text[8] = { 'v', 'i', 'r', 'e', 'o', 0, 0, 0 }, back[8];

void guest_main(const void *start_info, uint64_t argument)
{
    outb(DATA_PORT, 0x12);
    EXPECT(inb(DATA_PORT) == 0x12);
    outw(DATA_PORT + 2, 0x3456);
    EXPECT(inw(DATA_PORT + 2) == 0x3456);
    outl(DATA_PORT + 4, 0x89abcdef);
    EXPECT(inl(DATA_PORT + 4) == 0x89abcdef);

    const void *from = text;
    void *to = back;
    uint64_t n = 5;
    asm volatile("rep outsb" : "+S"(from), "+c"(n) : "d"((uint16_t)(DATA_PORT + 8)) : "memory");
    EXPECT(n == 0);
    n = 5;
    asm volatile("rep insb" : "+D"(to), "+c"(n) : "d"((uint16_t)(DATA_PORT + 8)) : "memory");
    for (unsigned i = 0; i < 5; i++)
        EXPECT(back[i] == text[4 - i]);     /* a stack, so in the other order */
    EXPECT(inb(0x7000) == 0xff && inl(0x7000) == 0xffffffff);

    MMIO(uint8_t, DATA_MMIO + 1) = 0x21;
    EXPECT(MMIO(uint8_t, DATA_MMIO + 1) == 0x21);
    MMIO(uint16_t, DATA_MMIO + 2) = 0x4365;
    EXPECT(MMIO(uint16_t, DATA_MMIO + 2) == 0x4365);
    MMIO(uint32_t, DATA_MMIO + 4) = 0xa987cbed;
    EXPECT(MMIO(uint32_t, DATA_MMIO + 4) == 0xa987cbed);
    MMIO(uint64_t, DATA_MMIO + 8) = 0x1122334455667788;
    EXPECT(MMIO(uint64_t, DATA_MMIO + 8) == 0x1122334455667788);
    EXPECT(MMIO(uint32_t, DATA_MMIO + 0x100000) == 0xffffffff);

    /* ROM: reads are memory's, writes change nothing and end nothing. */
    EXPECT(MMIO(uint32_t, 0xfffff000) == 0x11223344);
    MMIO(uint32_t, 0xfffff000) = 0;
    EXPECT(MMIO(uint32_t, 0xfffff000) == 0x11223344);
    end(GOOD);
}

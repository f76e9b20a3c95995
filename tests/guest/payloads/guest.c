#include "guest.h"

extern char vector_2[], vector_64[], vector_65[], vector_66[], vector_67[];
extern char ap_start[], ap_end[];

static uint64_t idt[256][2] __attribute__((aligned(16)));

static void gate(unsigned vector, const char *entry)
{
    uint64_t at = (uint64_t)entry;
    uint16_t cs;
    asm("mov %%cs, %0" : "=r"(cs));
    idt[vector][0] = (at & 0xffff) | (uint64_t)cs << 16 | 0x8eull << 40 | (at >> 16 & 0xffff) << 48;
    idt[vector][1] = at >> 32;
}

void idt_load(void)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) pointer = { sizeof(idt) - 1, (uint64_t)idt };
    gate(2, vector_2);
    gate(64, vector_64);
    gate(65, vector_65);
    gate(66, vector_66);
    gate(67, vector_67);
    asm volatile("lidt %0" ::"m"(pointer));
}

/* INIT, SIPI, SIPI (SDM vol. 3, 8.4.4.1; no waits: this is no hardware). */
void ap_boot(unsigned apic_id)
{
    enum { ICR_LOW = 0x300, ICR_HIGH = 0x310, INIT = 0x4500, SIPI = 0x4600, PAGE = 8 };
    char *to = (char *)(PAGE * 4096ul);
    for (char *from = ap_start; from < ap_end; from++)
        *to++ = *from;
    lapic_write(ICR_HIGH, apic_id << 24);
    lapic_write(ICR_LOW, INIT);
    lapic_write(ICR_HIGH, apic_id << 24);
    lapic_write(ICR_LOW, SIPI | PAGE);
    lapic_write(ICR_HIGH, apic_id << 24);
    lapic_write(ICR_LOW, SIPI | PAGE);
}

/* ---- on a board ---- */

enum { COM1 = 0x3f8, LSR = 5, LSR_THRE = 0x20, RESET_CONTROL = 0xcf9 };

static void put_char(char c)
{
    while (!(inb(COM1 + LSR) & LSR_THRE))
        ;
    outb(COM1, c);
}

void print(const char *text)
{
    for (; *text; text++)
        put_char(*text);
}

void print_hex(uint32_t value)
{
    for (int shift = 28; shift >= 0; shift -= 4)
        if (value >> shift || !shift)
            put_char("0123456789abcdef"[value >> shift & 15]);
}

void end(uint32_t result)
{
    outl(END_PORT, result);
    print("END ");
    print_hex(result);
    print("\n");
    outb(RESET_CONTROL, 6);
    for (;;)
        asm volatile("cli; hlt");
}

/* struct hvm_start_info (xen/arch-x86/hvm/start_info.h): the command line's address is at byte 24.
 * */
static uint64_t argument_of(const void *start_info)
{
    uint64_t n = 0;
    const char *text = *(const char *const *)((const char *)start_info + 24);
    for (; text && *text >= '0' && *text <= '9'; text++)
        n = 10 * n + *text - '0';
    return n;
}

void guest_entry(const void *start_info, uint64_t argument);
void guest_entry(const void *start_info, uint64_t argument)
{
    guest_main(start_info, start_info ? argument_of(start_info) : argument);
}

__attribute__((weak)) void ap_main(void)
{
    end(0xbad0);
}

__attribute__((weak)) void on_interrupt(unsigned vector)
{
    end(0xbad00 + vector);
}

/* What the test guests share: port and memory access, interrupt gates, the LAPIC, and the end. */
#pragma once
#include <stdint.h>

void guest_main(const void *start_info, uint64_t argument);
void ap_main(void);                         /* the second CPU, after ap_boot */
void on_interrupt(unsigned vector);         /* 2 (NMI), 64 … 67 */

enum { END_PORT = 0x6f0, DATA_PORT = 0x600 };
#define DATA_MMIO 0xd0000000ul
#define LAPIC 0xfee00000ul
#define IOAPIC 0xfec00000ul

#define PORT_FUNCTIONS(suffix, type)                                                               \
    static inline void out##suffix(uint16_t port, type value)                                     \
    {                                                                                              \
        asm volatile("out" #suffix " %0, %1" ::"a"(value), "Nd"(port) : "memory");                 \
    }                                                                                              \
    static inline type in##suffix(uint16_t port)                                                   \
    {                                                                                              \
        type value;                                                                                \
        asm volatile("in" #suffix " %1, %0" : "=a"(value) : "Nd"(port) : "memory");                \
        return value;                                                                              \
    }
PORT_FUNCTIONS(b, uint8_t)
PORT_FUNCTIONS(w, uint16_t)
PORT_FUNCTIONS(l, uint32_t)

#define MMIO(type, address) (*(volatile type *)(address))

static inline uint32_t lapic_read(unsigned reg)
{
    return MMIO(uint32_t, LAPIC + reg);
}

static inline void lapic_write(unsigned reg, uint32_t value)
{
    MMIO(uint32_t, LAPIC + reg) = value;
}

static inline void lapic_enable(void)
{
    lapic_write(0xf0, 0x1ff);
}

static inline void lapic_eoi(void)
{
    lapic_write(0xb0, 0);
}

static inline void ioapic_route(unsigned pin, uint64_t entry)
{
    MMIO(uint32_t, IOAPIC) = 0x10 + 2 * pin + 1;
    MMIO(uint32_t, IOAPIC + 0x10) = entry >> 32;
    MMIO(uint32_t, IOAPIC) = 0x10 + 2 * pin;
    MMIO(uint32_t, IOAPIC + 0x10) = entry;
}

/* Does not return: the harness gets the number and stops the guest; on a board the number is
 * printed ("END 600d") and the guest asks for a reset. */
void end(uint32_t result) __attribute__((noreturn));
void print(const char *text);               /* on the first serial port */
void print_hex(uint32_t value);

/* Ends with the line's number if what the guest sees is wrong. */
#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition))                                                                          \
            end(0x10000 + __LINE__);                                                               \
    } while (0)
#define GOOD 0x600d

void idt_load(void);                        /* with gates for those */
void ap_boot(unsigned apic_id);

/*
 * 4 KiB reads from a modern virtio-blk on PCI bus 0, DEPTH at a time, for ever: at random places, or
 * with SEQUENTIAL in order, from the first block to that of the ring's last entry, and again.
 *
 * Says on the serial port: 'B' before the first request, 'E' after each ROUND of completed ones,
 * 'X' and halts where a read went wrong.
 *
 * On some hosts (PVM) ring 0 is emulated at 4 million instructions a second, so the loop is few
 * instructions: all requests are made beforehand, one for each descriptor of the ring, and the avail
 * ring names them in order; to submit is to move avail->idx.  The host tells completion in used->idx,
 * which is polled, without interrupts.  An emulated load or store of two bytes is two of one byte there:
 * so avail->idx is written by XCHG, which is not, and a used->idx that cannot be is read again.
 *
 * With SLEEPS it halts until MSI-X tells it, as the kernel of an OS does that has nothing else to run.
 */
#include <stdint.h>

#ifndef DEPTH
#define DEPTH 1
#endif
#ifndef ROUND
#define ROUND 2000
#endif
#ifndef SLEEPS
#define SLEEPS 0
#endif
#ifndef SEQUENTIAL
#define SEQUENTIAL 0
#endif
#ifndef NUMBERED /* 0: the disk holds nothing */
#define NUMBERED 1
#endif

enum { COM1 = 0x3f8, BLOCK = 4096, MAX_QUEUE = 1024, BAR_IF_UNSET = 0xd0000000, VECTOR = 64 };

void payload_main(void);

/* PCI configuration by ports 0xcf8 and 0xcfc */
static inline void outb(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" ::"a"(value), "d"(port)); }
static inline void outl(uint16_t port, uint32_t value) { __asm__ volatile("outl %0, %1" ::"a"(value), "d"(port)); }
static inline uint32_t inl(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "d"(port));
    return value;
}

static uint32_t pci_read(unsigned device, unsigned offset)
{
    outl(0xcf8, 0x80000000u | device << 11 | (offset & 0xfc));
    return inl(0xcfc) >> (offset & 3) * 8;
}

static void pci_write(unsigned device, unsigned offset, uint32_t value)
{
    outl(0xcf8, 0x80000000u | device << 11 | (offset & 0xfc));
    outl(0xcfc, value);
}

static void say(char letter) { outb(COM1, letter); }

static void __attribute__((noreturn)) fail(void)
{
    say('X');
    for (;;)
        __asm__ volatile("cli; hlt");
}

/* virtio 1.2, section 4.1.4.3 */
struct common {
    uint32_t device_feature_select, device_feature, driver_feature_select, driver_feature;
    uint16_t config_vector, num_queues;
    uint8_t status, generation;
    uint16_t queue_select, queue_size, queue_vector, queue_enable, queue_notify_off;
    uint64_t queue_desc, queue_driver, queue_device;
};

/* section 2.7 */
struct desc { uint64_t address; uint32_t length; uint16_t flags, next; };
struct avail { uint16_t flags, index, ring[MAX_QUEUE]; };
struct used { uint16_t flags, index; struct { uint32_t id, length; } ring[MAX_QUEUE]; };
enum { NEXT = 1, WRITE = 2, INDIRECT = 4, NO_INTERRUPT = 1, NO_NOTIFY = 1 };

/* section 5.2.6 */
struct request { uint32_t type, reserved; uint64_t sector; };

static struct desc ring[MAX_QUEUE] __attribute__((aligned(4096)));
static struct avail avail __attribute__((aligned(4096)));
static volatile struct used used __attribute__((aligned(4096)));
static struct desc indirect[MAX_QUEUE][4];
static struct request request[MAX_QUEUE];
static volatile uint8_t status[MAX_QUEUE];

/* beyond what is loaded; each request has a page of its own */
static volatile uint64_t *buffer(unsigned i) { return (uint64_t *)(uintptr_t)(0x1000000 + i * BLOCK); }

static volatile struct common *common;
static volatile uint16_t *notify;
static volatile uint64_t *capacity;

/* Intel SDM, volume 3: 11.4.1 (registers), 11.8.5 (EOI), 6.14 (gates) */
static volatile uint32_t *apic(unsigned offset) { return (uint32_t *)(uintptr_t)(0xfee00000u + offset); }

__attribute__((interrupt)) static void woken(void *frame)
{
    (void)frame;
    *apic(0xb0) = 0;
}

static void __attribute__((noinline)) take_interrupts(void)
{
    static uint64_t gates[VECTOR + 1][2];
    struct { uint16_t limit; uint64_t base; } __attribute__((packed)) idt = { sizeof(gates) - 1, (uintptr_t)gates };
    uint64_t at = (uintptr_t)woken;
    gates[VECTOR][0] = (at & 0xffff) | 8u << 16 | 0x8eull << 40 | (at >> 16 & 0xffff) << 48;
    gates[VECTOR][1] = at >> 32;
    __asm__ volatile("lidt %0" ::"m"(idt), "m"(gates));
    *apic(0xf0) = 0x1ff; /* enabled */
}

static uintptr_t bar_address(unsigned device, unsigned bar)
{
    static uint32_t next = BAR_IF_UNSET;
    uint32_t low = pci_read(device, 0x10 + bar * 4);
    uint64_t address = low & ~0xfu;
    if ((low & 6) == 4)
        address |= (uint64_t)pci_read(device, 0x14 + bar * 4) << 32;
    if (address == 0 || address >> 32) { /* no firmware was here, or it chose beyond our page tables */
        address = next;
        next += 0x100000;
        pci_write(device, 0x10 + bar * 4, address);
        if ((low & 6) == 4)
            pci_write(device, 0x14 + bar * 4, 0);
    }
    return address;
}

/* One vector, to the first processor. */
static void set_up_msix(unsigned device, unsigned cap)
{
    uint32_t table = pci_read(device, cap + 4);
    volatile uint32_t *entry = (void *)(bar_address(device, table & 7) + (table & ~7u));
    pci_write(device, 4, 0x406);
    pci_write(device, cap, pci_read(device, cap) | 1u << 31);
    entry[0] = 0xfee00000;
    entry[1] = 0;
    entry[2] = VECTOR;
    entry[3] = 0;
}

/* Find the first virtio-blk and its structures. */
static void find_disk(void)
{
    uint32_t multiplier = 0, notify_offset = 0;
    uintptr_t notify_base = 0;
    unsigned device = 0;
    while (pci_read(device, 0) != 0x10421af4)
        if (++device == 32)
            fail();
    for (unsigned cap = pci_read(device, 0x34) & 0xfc; cap; cap = pci_read(device, cap + 1) & 0xfc) {
        unsigned id = pci_read(device, cap) & 0xff;
        if (SLEEPS && id == 0x11)
            set_up_msix(device, cap);
        if (id != 9)
            continue;
        unsigned type = pci_read(device, cap + 3) & 0xff, bar = pci_read(device, cap + 4) & 0xff;
        uint32_t offset = pci_read(device, cap + 8);
        if (type < 1 || type > 4 || type == 3)
            continue;
        uintptr_t address = bar_address(device, bar) + offset;
        if (type == 1)
            common = (void *)address;
        else if (type == 2)
            notify_base = address, multiplier = pci_read(device, cap + 16);
        else
            capacity = (void *)address;
    }
    pci_write(device, 4, 0x406); /* memory, bus master, no INTx */
    common->status = 0;
    while (common->status)
        ;
    common->status = 3; /* ACKNOWLEDGE, DRIVER */
    common->device_feature_select = 0;
    uint32_t offered = common->device_feature;
    common->driver_feature_select = 0;
    common->driver_feature = offered & 1u << 28; /* INDIRECT_DESC */
    common->driver_feature_select = 1;
    common->driver_feature = 1; /* VERSION_1 */
    common->status = 11; /* and FEATURES_OK */
    if (!(common->status & 8) || !(offered & 1u << 28))
        fail();
    common->queue_select = 0;
    notify_offset = common->queue_notify_off * multiplier;
    notify = (void *)(notify_base + notify_offset);
}

static unsigned make_requests(void)
{
    unsigned size = common->queue_size;
    if (size > MAX_QUEUE)
        size = MAX_QUEUE;
    if (size < 4 * DEPTH)
        fail();
    uint32_t blocks = *capacity / (BLOCK / 512), random = 12345;
    for (unsigned i = 0; i < size; i++) {
        random = random * 1664525 + 1013904223;
        uint64_t block = SEQUENTIAL ? i % blocks : (uint64_t)random * blocks >> 32;
        request[i] = (struct request){ .type = 0, .sector = block * (BLOCK / 512) };
        status[i] = 0xff;
        indirect[i][0] = (struct desc){ (uintptr_t)&request[i], sizeof(request[i]), NEXT, 1 };
        indirect[i][1] = (struct desc){ (uintptr_t)buffer(i), BLOCK, NEXT | WRITE, 2 };
        indirect[i][2] = (struct desc){ (uintptr_t)&status[i], 1, WRITE, 0 };
        ring[i] = (struct desc){ (uintptr_t)indirect[i], 3 * sizeof(struct desc), INDIRECT, 0 };
        avail.ring[i] = i;
    }
    avail.flags = SLEEPS ? 0 : NO_INTERRUPT;
    common->queue_size = size;
    common->queue_vector = SLEEPS ? 0 : 0xffff;
    common->queue_desc = (uintptr_t)ring;
    common->queue_driver = (uintptr_t)&avail;
    common->queue_device = (uintptr_t)&used;
    common->queue_enable = 1;
    common->status = 15; /* and DRIVER_OK */
    return size;
}

/* Each block of the image begins with its number. */
static void verify(unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        if (status[i] != 0 || (NUMBERED && *buffer(i) != request[i].sector / (BLOCK / 512)))
            fail();
}

static inline void submit_until(uint16_t index)
{
    __asm__ volatile("xchgw %0, %1" : "+r"(index), "+m"(avail.index) : : "memory"); /* a barrier too */
    if (!(used.flags & NO_NOTIFY))
        *notify = 0;
}

/* STI lets no interrupt in before HLT: none comes between the look and the sleep. */
static inline void sleep_unless_moved(uint16_t seen)
{
    __asm__ volatile("cli");
    if (used.index == seen)
        __asm__ volatile("sti; hlt" ::: "memory");
    else
        __asm__ volatile("sti" ::: "memory");
}

void payload_main(void)
{
    if (SLEEPS)
        take_interrupts();
    find_disk();
    unsigned size = make_requests();
    /* one read of each block, to check what comes */
    for (uint16_t done = 0; done < size; done++) {
        submit_until(done + 1);
        while (used.index != (uint16_t)(done + 1))
            ;
    }
    verify(size);
    say('B');
    uint16_t seen = size;
    int left = ROUND;
    submit_until(seen + DEPTH);
    for (;;) {
        uint16_t now = used.index;
        if (now == seen || (uint16_t)(now - seen) > DEPTH) {
            if (SLEEPS)
                sleep_unless_moved(seen);
            continue;
        }
        left -= (uint16_t)(now - seen);
        seen = now;
        submit_until(now + DEPTH);
        if (left <= 0) {
            left += ROUND;
            say('E');
        }
    }
}

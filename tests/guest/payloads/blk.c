/*
 * virtio-blk over PCI (virtio 1.2), interrupts by MSI-X: reads the first sectors and checks what
 * the test put there, writes others, and reads them back.  Runs on a board only.
 */
#include "guest.h"

enum {
    CAP_VENDOR = 0x09, CAP_MSIX = 0x11, CFG_COMMON = 1, CFG_NOTIFY = 2,
    VIRTIO_VENDOR = 0x1af4, BLK_MODERN = 0x1042, BLK_TRANSITIONAL = 0x1001,
    ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8,
    DESC_NEXT = 1, DESC_WRITE = 2, BLK_IN = 0, BLK_OUT = 1, BLK_FLUSH = 4, QUEUE = 16, VECTOR = 66,
};

/* virtio 1.2, 4.1.4.3 */
typedef volatile struct CommonCfg {
    uint32_t device_feature_select, device_feature, driver_feature_select, driver_feature;
    uint16_t msix_config, num_queues;
    uint8_t device_status, config_generation;
    uint16_t queue_select, queue_size, queue_msix_vector, queue_enable, queue_notify_off;
    uint32_t queue_desc[2], queue_driver[2], queue_device[2];
} CommonCfg;

static struct { uint64_t addr; uint32_t len; uint16_t flags, next; } desc[QUEUE]
    __attribute__((aligned(4096)));
static volatile struct { uint16_t flags, idx, ring[QUEUE]; } avail __attribute__((aligned(4096)));
static volatile struct { uint16_t flags, idx; struct { uint32_t id, len; } ring[QUEUE]; } used
    __attribute__((aligned(4096)));
static struct { uint32_t type, reserved; uint64_t sector; } request;
static volatile uint8_t status;
static uint8_t data[8 * 512];
static volatile unsigned interrupts;
static CommonCfg *common;
static uint64_t notify;
static unsigned multiplier;

void on_interrupt(unsigned vector)
{
    interrupts += vector == VECTOR;
    lapic_eoi();
}

static uint32_t config_read(unsigned slot, unsigned offset)
{
    outl(0xcf8, 0x80000000 | slot << 11 | (offset & ~3u));
    return inl(0xcfc) >> 8 * (offset & 3);
}

static void config_write(unsigned slot, unsigned offset, uint32_t value)
{
    outl(0xcf8, 0x80000000 | slot << 11 | offset);
    outl(0xcfc, value);
}

static uint64_t bar(unsigned slot, unsigned n)
{
    uint64_t low = config_read(slot, 0x10 + 4 * n);
    uint64_t high = (low & 6) == 4 ? config_read(slot, 0x14 + 4 * n) : 0;
    return high << 32 | (low & ~15ull);
}

static void setup_msix(unsigned slot, unsigned cap)
{
    uint32_t table = config_read(slot, cap + 4);
    uint64_t entry = bar(slot, table & 7) + (table & ~7u);
    MMIO(uint32_t, entry) = LAPIC;
    MMIO(uint32_t, entry + 4) = 0;
    MMIO(uint32_t, entry + 8) = VECTOR;
    MMIO(uint32_t, entry + 12) = 0;         /* unmasked */
    config_write(slot, cap, config_read(slot, cap) | 0x80000000);
}

static void walk_capabilities(unsigned slot)
{
    for (unsigned cap = config_read(slot, 0x34) & 0xfc; cap;
         cap = config_read(slot, cap + 1) & 0xfc) {
        unsigned id = config_read(slot, cap) & 0xff, type = config_read(slot, cap + 3) & 0xff;
        uint64_t at = bar(slot, config_read(slot, cap + 4) & 0xff) + config_read(slot, cap + 8);
        if (id == CAP_MSIX)
            setup_msix(slot, cap);
        if (id == CAP_VENDOR && type == CFG_COMMON)
            common = (CommonCfg *)at;
        if (id == CAP_VENDOR && type == CFG_NOTIFY) {
            notify = at;
            multiplier = config_read(slot, cap + 16);
        }
    }
}

static int find_disk(void)
{
    for (unsigned slot = 0; slot < 32; slot++) {
        uint32_t id = config_read(slot, 0);
        if ((id & 0xffff) == VIRTIO_VENDOR &&
            (id >> 16 == BLK_MODERN || id >> 16 == BLK_TRANSITIONAL))
            return slot;
    }
    return -1;
}

static void start_device(void)
{
    common->device_status = 0;
    while (common->device_status)
        ;
    common->device_status = ACKNOWLEDGE | DRIVER;
    common->driver_feature_select = 1;
    common->driver_feature = 1;             /* VIRTIO_F_VERSION_1 */
    common->driver_feature_select = 0;
    common->driver_feature = 0;
    common->device_status = ACKNOWLEDGE | DRIVER | FEATURES_OK;
    EXPECT(common->device_status & FEATURES_OK);
    common->queue_select = 0;
    EXPECT(common->queue_size >= QUEUE);
    common->queue_size = QUEUE;
    common->queue_msix_vector = 0;
    EXPECT(common->queue_msix_vector == 0);
    common->queue_desc[0] = (uint64_t)desc;
    common->queue_driver[0] = (uint64_t)&avail;
    common->queue_device[0] = (uint64_t)&used;
    common->queue_desc[1] = common->queue_driver[1] = common->queue_device[1] = 0;
    common->queue_enable = 1;
    notify += multiplier * common->queue_notify_off;
    common->device_status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
}

static void transfer(uint32_t type, uint64_t sector, uint32_t length)
{
    static uint16_t done;
    unsigned n = 0;
    request.type = type;
    request.sector = sector;
    status = 0xee;
    desc[n].addr = (uint64_t)&request;
    desc[n].len = 16;
    desc[n].flags = DESC_NEXT;
    desc[n].next = 1;
    n++;
    if (length) {
        desc[n].addr = (uint64_t)data;
        desc[n].len = length;
        desc[n].flags = DESC_NEXT | (type == BLK_IN ? DESC_WRITE : 0);
        desc[n].next = 2;
        n++;
    }
    desc[n].addr = (uint64_t)&status;
    desc[n].len = 1;
    desc[n].flags = DESC_WRITE;
    avail.ring[avail.idx % QUEUE] = 0;
    asm volatile("mfence" ::: "memory");
    avail.idx++;
    MMIO(uint16_t, notify) = 0;
    while (interrupts <= done)              /* one for each request */
        asm volatile("sti; hlt; cli" ::: "memory");
    EXPECT(used.idx == done + 1);
    EXPECT(used.ring[done % QUEUE].id == 0);
    done++;
    EXPECT(status == 0);
}

/* What the test writes into the image, and expects there: sector and byte tell each other apart. */
static uint8_t pattern(uint64_t sector, unsigned i, unsigned salt)
{
    return sector * 7 + i * 3 + salt;
}

void guest_main(const void *start_info, uint64_t argument)
{
    int slot = find_disk();
    idt_load();
    lapic_enable();
    EXPECT(slot >= 0);
    config_write(slot, 4, 0x406);           /* memory, bus master, no INTx */
    walk_capabilities(slot);
    EXPECT(common && notify);
    start_device();
    for (unsigned round = 0; round < 8; round++) {
        transfer(BLK_IN, 8 * round, sizeof(data));
        for (unsigned i = 0; i < sizeof(data); i += 61)
            EXPECT(data[i] == pattern(8 * round + i / 512, i % 512, 1));
    }
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = pattern(128 + i / 512, i % 512, 2);
    transfer(BLK_OUT, 128, sizeof(data));
    transfer(BLK_FLUSH, 0, 0);
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = 0;
    transfer(BLK_IN, 128, sizeof(data));
    for (unsigned i = 0; i < sizeof(data); i += 61)
        EXPECT(data[i] == pattern(128 + i / 512, i % 512, 2));
    end(GOOD);
}

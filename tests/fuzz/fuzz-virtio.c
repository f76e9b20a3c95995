#include "tests/fuzz/fuzz-virtio.h"
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

/* Guest memory: a stretch for each queue's rings, then the buffers. */
#define RINGS 0x100000ull
#define RING_STRIDE 0x10000ull
#define DRIVER_AREA 0x4000ull
#define DEVICE_AREA 0x8000ull
#define BUFFERS 0x200000ull

void fuzz_virtio_find(FuzzVirtio *v, TestMachine *m, PciDevice *pci)
{
    uint8_t at = pci_config_read(pci, PCI_CAPABILITY_LIST, 1);

    v->m = m;
    v->common = v->notify = 0;
    for (unsigned steps = 0; at && steps < 48; at = pci_config_read(pci, at + 1, 1), steps++) {
        uint8_t type = pci_config_read(pci, at + 3, 1), bar = pci_config_read(pci, at + 4, 1);
        uint32_t offset = pci_config_read(pci, at + 8, 4);
        uint64_t base;

        if (pci_config_read(pci, at, 1) != PCI_CAP_ID_VNDR || bar > 5)
            continue;
        base = pci_bar_address(pci, bar);
        if (base == UINT64_MAX)
            continue;
        if (type == VIRTIO_PCI_CAP_COMMON_CFG) {
            v->common = base + offset;
        } else if (type == VIRTIO_PCI_CAP_NOTIFY_CFG) {
            v->notify = base + offset;
            v->notify_multiplier = pci_config_read(pci, at + 16, 4);
        }
    }
}

static void set(FuzzVirtio *v, unsigned reg, unsigned size, uint64_t value)
{
    mem_write(v->m, v->common + reg, size, value);
}

static void set_area(FuzzVirtio *v, unsigned reg, uint64_t addr)
{
    set(v, reg, 4, addr);
    set(v, reg + 4, 4, addr >> 32);
}

static uint64_t ring_of(unsigned queue)
{
    return RINGS + queue * RING_STRIDE;
}

static void choose_features(FuzzVirtio *v, Input *in)
{
    uint64_t offered = 0, drop = take(in, 1) ? take(in, 8) : 0, chosen;

    for (unsigned half = 0; half < 2; half++) {
        set(v, VIRTIO_PCI_COMMON_DFSELECT, 4, half);
        offered |= mem_read(v->m, v->common + VIRTIO_PCI_COMMON_DF, 4) << (32 * half);
    }
    chosen = (offered & ~drop) | 1ull << VIRTIO_F_VERSION_1;
    for (unsigned half = 0; half < 2; half++) {
        set(v, VIRTIO_PCI_COMMON_GFSELECT, 4, half);
        set(v, VIRTIO_PCI_COMMON_GF, 4, chosen >> (32 * half) & UINT32_MAX);
    }
    v->packed = chosen >> VIRTIO_F_RING_PACKED & 1;
}

void fuzz_virtio_start(FuzzVirtio *v, Input *in)
{
    uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
    unsigned queues;

    if (!v->common)
        return;
    set(v, VIRTIO_PCI_COMMON_STATUS, 1, 0);
    memset(v->queues, 0, sizeof(v->queues));
    for (unsigned q = 0; q < FUZZ_QUEUES; q++)
        memset(dma_host(v->m, ring_of(q), RING_STRIDE), 0, RING_STRIDE);
    set(v, VIRTIO_PCI_COMMON_STATUS, 1, status);
    choose_features(v, in);
    set(v, VIRTIO_PCI_COMMON_STATUS, 1, status |= VIRTIO_CONFIG_S_FEATURES_OK);
    queues = mem_read(v->m, v->common + VIRTIO_PCI_COMMON_NUMQ, 2);
    queues = MIN(queues, FUZZ_QUEUES);
    for (unsigned q = 0; q < queues; q++) {
        set(v, VIRTIO_PCI_COMMON_Q_SELECT, 2, q);
        set(v, VIRTIO_PCI_COMMON_Q_SIZE, 2, 1u << take(in, 1) % 9);
        v->queues[q].size = mem_read(v->m, v->common + VIRTIO_PCI_COMMON_Q_SIZE, 2);
        v->queues[q].wrap = true;
        set(v, VIRTIO_PCI_COMMON_Q_MSIX, 2, take(in, 1) % 4);
        set_area(v, VIRTIO_PCI_COMMON_Q_DESCLO, ring_of(q));
        set_area(v, VIRTIO_PCI_COMMON_Q_AVAILLO, ring_of(q) + DRIVER_AREA);
        set_area(v, VIRTIO_PCI_COMMON_Q_USEDLO, ring_of(q) + DEVICE_AREA);
        set(v, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
    }
    set(v, VIRTIO_PCI_COMMON_STATUS, 1, status | VIRTIO_CONFIG_S_DRIVER_OK);
}

/* Mostly a place among the buffers, sometimes anything. */
static uint64_t some_addr(Input *in)
{
    uint8_t how = take(in, 1);

    return how < 0xf0 ? BUFFERS + how * 64ull : take(in, 8);
}

static uint32_t some_length(Input *in)
{
    uint8_t how = take(in, 1);

    switch (how >> 4) {
    case 0: case 1: case 2: return 16;     /* a header */
    case 3: case 4: return 1;              /* a status */
    case 14: return take(in, 2);
    case 15: return take(in, 4);
    default: return (how & 15) * 512;
    }
}

static uint16_t some_flags(Input *in, bool last)
{
    uint8_t how = take(in, 1);
    uint16_t flags = (last ? 0 : VRING_DESC_F_NEXT) | (how & 1 ? VRING_DESC_F_WRITE : 0);

    return how < 0xe0 ? flags : how;       /* wrong ones, and INDIRECT */
}

static void put_split(FuzzVirtio *v, FuzzQueue *q, uint64_t ring, unsigned n, Input *in)
{
    uint16_t head = q->next % q->size;
    uint64_t avail = ring + DRIVER_AREA;

    for (unsigned i = 0; i < n; i++) {
        uint8_t *d = dma_host(v->m, ring + q->next % q->size * 16ull, 16);

        q->next++;
        st_le64(d, some_addr(in));
        st_le32(d + 8, some_length(in));
        st_le16(d + 12, some_flags(in, i == n - 1));
        st_le16(d + 14, take(in, 1) == 0xff ? take(in, 2) : q->next % q->size);
    }
    st_le16(dma_host(v->m, avail + 4 + q->avail++ % q->size * 2ull, 2), head);
    st_le16(dma_host(v->m, avail + 2, 2), q->avail);
}

static void put_packed(FuzzVirtio *v, FuzzQueue *q, uint64_t ring, unsigned n, Input *in)
{
    for (unsigned i = 0; i < n; i++) {
        uint8_t *d = dma_host(v->m, ring + q->avail * 16ull, 16);
        uint16_t flags = some_flags(in, i == n - 1) & ~(1u << 7 | 1u << 15);

        st_le64(d, some_addr(in));
        st_le32(d + 8, some_length(in));
        st_le16(d + 12, q->next++);
        st_le16(d + 14, flags | (q->wrap ? 1u << 7 : 1u << 15));   /* AVAIL, USED (2.8.1) */
        if (++q->avail == q->size) {
            q->avail = 0;
            q->wrap = !q->wrap;
        }
    }
}

void fuzz_virtio_request(FuzzVirtio *v, Input *in)
{
    unsigned index = take(in, 1) % FUZZ_QUEUES, n = 1 + take(in, 1) % 6;
    FuzzQueue *q = &v->queues[index];

    if (!v->common || !q->size || q->size > 1024)
        return;
    for (unsigned i = 0; i < 4; i++)       /* a header at the start of the buffers */
        st_le32(dma_host(v->m, BUFFERS + 64 * (uint64_t)i, 4), take(in, 1));
    if (v->packed)
        put_packed(v, q, ring_of(index), n, in);
    else
        put_split(v, q, ring_of(index), n, in);
    mem_write(v->m, v->notify + (uint64_t)index * v->notify_multiplier, 2, index);
}

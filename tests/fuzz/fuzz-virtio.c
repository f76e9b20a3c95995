#include "tests/fuzz/fuzz-virtio.h"
#include <linux/pci_regs.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

/* Guest memory: a stretch for each queue's rings, indirect tables, then the buffers. */
#define RINGS 0x100000ull
#define RING_STRIDE 0x10000ull
#define DRIVER_AREA 0x4000ull
#define DEVICE_AREA 0x8000ull
#define TABLES 0x1c0000ull
#define BUFFERS 0x200000ull
#define MSI_DATA 0x4000

enum { CHAIN_MAX = 24, STATUS_DRIVER_OK = 15 };

/* ---- finding it ---- */

static void note_capability(FuzzVirtio *v, uint8_t at)
{
    uint8_t type = pci_config_read(v->pci, at + 3, 1), bar = pci_config_read(v->pci, at + 4, 1);
    uint32_t offset = pci_config_read(v->pci, at + 8, 4);
    uint64_t base = bar > 5 ? UINT64_MAX : pci_bar_address(v->pci, bar);

    if (base == UINT64_MAX)
        return;
    if (type == VIRTIO_PCI_CAP_COMMON_CFG) {
        v->common = base + offset;
    } else if (type == VIRTIO_PCI_CAP_NOTIFY_CFG) {
        v->notify = base + offset;
        v->notify_multiplier = pci_config_read(v->pci, at + 16, 4);
    }
}

bool fuzz_virtio_find(FuzzVirtio *v, TestMachine *m, PciDevice *pci)
{
    uint8_t at = pci_config_read(pci, PCI_CAPABILITY_LIST, 1);
    uint64_t ports = pci_bar_address(pci, 0);

    if (!object_is_a(OBJECT(pci), "virtio-pci"))
        return false;
    v->m = m;
    v->pci = pci;
    v->common = v->notify = 0;
    v->ports = ports == UINT64_MAX ? 0 : ports;
    for (unsigned steps = 0; at && steps < 48; steps++) {
        if (pci_config_read(pci, at, 1) == PCI_CAP_ID_VNDR)
            note_capability(v, at);
        at = pci_config_read(pci, at + 1, 1);
    }
    v->vectors = 0;
    if (pci->msix && pci_bar_address(pci, 1) != UINT64_MAX) {
        pci_enable_msix(m, pci, MSI_DATA);
        v->vectors = pci_msix_vectors(pci);
    }
    return true;
}

/* ---- registers ---- */

static void set(FuzzVirtio *v, unsigned reg, unsigned size, uint64_t value)
{
    mem_write(v->m, v->common + reg, size, value);
}

static uint64_t get(FuzzVirtio *v, unsigned reg, unsigned size)
{
    return mem_read(v->m, v->common + reg, size);
}

static void set_area(FuzzVirtio *v, unsigned reg, uint64_t addr)
{
    set(v, reg, 4, addr);
    set(v, reg + 4, 4, addr >> 32);
}

/* Guest RAM that is there; other places are the device's business. */
static uint8_t *ram(FuzzVirtio *v, uint64_t addr, uint64_t length)
{
    uint64_t size = ram_block_size(v->m->machine->ram);

    return addr <= size && length <= size - addr ? dma_host(v->m, addr, length) : NULL;
}

static void put16(FuzzVirtio *v, uint64_t addr, uint16_t value)
{
    uint8_t *p = ram(v, addr, 2);

    if (p)
        st_le16(p, value);
}

static void put_desc(FuzzVirtio *v, uint64_t at, uint64_t addr, uint32_t len, uint16_t w12,
                     uint16_t w14)
{
    uint8_t *d = ram(v, at, 16);

    if (!d)
        return;
    st_le64(d, addr);
    st_le32(d + 8, len);
    st_le16(d + 12, w12);
    st_le16(d + 14, w14);
}

/* ---- starting ---- */

static uint64_t choose_features(FuzzVirtio *v, Input *in)
{
    uint64_t offered = 0, drop = take(in, 1) & 1 ? take(in, 8) : 0, chosen;

    for (unsigned half = 0; half < 2; half++) {
        set(v, VIRTIO_PCI_COMMON_DFSELECT, 4, half);
        offered |= get(v, VIRTIO_PCI_COMMON_DF, 4) << (32 * half);
    }
    chosen = (offered & ~drop) | 1ull << VIRTIO_F_VERSION_1;
    for (unsigned half = 0; half < 2; half++) {
        set(v, VIRTIO_PCI_COMMON_GFSELECT, 4, half);
        set(v, VIRTIO_PCI_COMMON_GF, 4, chosen >> (32 * half) & UINT32_MAX);
    }
    return chosen;
}

/* Where the rings go: mostly a place of their own, sometimes the very end of RAM, or anywhere. */
static void place_rings(FuzzVirtio *v, FuzzQueue *q, unsigned index, Input *in)
{
    uint64_t ram_end = ram_block_size(v->m->machine->ram), ring = RINGS + index * RING_STRIDE;
    uint8_t how = take(in, 1);

    q->desc = ring;
    q->driver = ring + DRIVER_AREA;
    q->device = ring + DEVICE_AREA;
    if (how >= 0xc0 && how < 0xd0)
        q->desc = ram_end - 16 * q->size;
    else if (how >= 0xd0 && how < 0xe0)
        q->driver = ram_end - (v->packed ? 4 : 6 + 2 * q->size);
    else if (how >= 0xe0 && how < 0xf0)
        q->device = ram_end - (v->packed ? 4 : 8 + 8 * q->size);
    else if (how >= 0xf0 && how < 0xf8)
        q->device = q->driver = q->desc;
    else if (how >= 0xf8)
        *(how & 1 ? &q->desc : how & 2 ? &q->driver : &q->device) = take(in, 8);
}

static void set_queue_up(FuzzVirtio *v, unsigned index, Input *in)
{
    FuzzQueue *q = &v->queues[index];
    uint8_t size = take(in, 1);

    *q = (FuzzQueue){ .wrap = true };
    set(v, VIRTIO_PCI_COMMON_Q_SELECT, 2, index);
    set(v, VIRTIO_PCI_COMMON_Q_SIZE, 2, size < 0xc0 ? 1u << size % 9 : size);
    q->size = get(v, VIRTIO_PCI_COMMON_Q_SIZE, 2);
    place_rings(v, q, index, in);
    set(v, VIRTIO_PCI_COMMON_Q_MSIX, 2, take(in, 1) % 4);
    set_area(v, VIRTIO_PCI_COMMON_Q_DESCLO, q->desc);
    set_area(v, VIRTIO_PCI_COMMON_Q_AVAILLO, q->driver);
    set_area(v, VIRTIO_PCI_COMMON_Q_USEDLO, q->device);
    set(v, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
}

static void start_modern(FuzzVirtio *v, Input *in)
{
    unsigned queues;

    set(v, VIRTIO_PCI_COMMON_STATUS, 1, 0);
    settle(v->m);
    set(v, VIRTIO_PCI_COMMON_STATUS, 1, 3);
    v->packed = choose_features(v, in) >> VIRTIO_F_RING_PACKED & 1;
    set(v, VIRTIO_PCI_COMMON_STATUS, 1, 3 | VIRTIO_CONFIG_S_FEATURES_OK);
    set(v, VIRTIO_PCI_COMMON_MSIX, 2, 0);
    queues = get(v, VIRTIO_PCI_COMMON_NUMQ, 2);
    for (unsigned q = 0; q < MIN(queues, FUZZ_QUEUES); q++)
        set_queue_up(v, q, in);
    set(v, VIRTIO_PCI_COMMON_STATUS, 1, STATUS_DRIVER_OK);
}

static void set_page(FuzzVirtio *v, unsigned index, Input *in)
{
    FuzzQueue *q = &v->queues[index];
    uint8_t how = take(in, 1);
    uint32_t page = how < 0xe0 ? (RINGS + index * RING_STRIDE) >> 12 : take(in, 4);

    io_write16(v->m, v->ports + VIRTIO_PCI_QUEUE_SEL, index);
    *q = (FuzzQueue){ .size = io_read16(v->m, v->ports + VIRTIO_PCI_QUEUE_NUM), .wrap = true };
    q->desc = (uint64_t)page << 12;
    q->driver = q->desc + 16 * q->size;
    q->device = ALIGN_UP(q->driver + 6 + 2 * q->size, 4096);
    io_write32(v->m, v->ports + VIRTIO_PCI_QUEUE_PFN, page);
    if (v->vectors)
        io_write16(v->m, v->ports + VIRTIO_MSI_QUEUE_VECTOR, take(in, 1) % 4);
}

static void start_legacy(FuzzVirtio *v, Input *in)
{
    uint32_t features;

    v->packed = false;
    io_write8(v->m, v->ports + VIRTIO_PCI_STATUS, 0);
    settle(v->m);
    io_write8(v->m, v->ports + VIRTIO_PCI_STATUS, 3);
    features = io_read32(v->m, v->ports + VIRTIO_PCI_HOST_FEATURES);
    io_write32(v->m, v->ports + VIRTIO_PCI_GUEST_FEATURES, features & ~take(in, 4));
    for (unsigned q = 0; q < FUZZ_QUEUES; q++)
        set_page(v, q, in);
    io_write8(v->m, v->ports + VIRTIO_PCI_STATUS, 7);
}

void fuzz_virtio_start(FuzzVirtio *v, Input *in)
{
    memset(v->queues, 0, sizeof(v->queues));
    memset(dma_host(v->m, RINGS, FUZZ_QUEUES * RING_STRIDE), 0, FUZZ_QUEUES * RING_STRIDE);
    v->legacy = v->ports && (!v->common || take(in, 1) & 1);
    if (v->legacy)
        start_legacy(v, in);
    else if (v->common)
        start_modern(v, in);
}

/* ---- requests ---- */

/* Mostly a place among the buffers, sometimes its own registers, the end of RAM, or anything. */
static uint64_t some_addr(FuzzVirtio *v, Input *in)
{
    uint8_t how = take(in, 1);

    if (how < 0xe0)
        return BUFFERS + how * 64ull;
    if (how < 0xe8)
        return v->common + how % 8 * 0x1000;
    if (how < 0xf0)
        return ram_block_size(v->m->machine->ram) - 512 * (how % 8);
    return take(in, 8);
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

typedef struct FuzzDesc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;                        /* WRITE, and wrong ones */
} FuzzDesc;

/* A header for the disk; what it says is short in the input. */
static FuzzDesc header(FuzzVirtio *v, Input *in)
{
    static const uint8_t types[] = {
        VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
        VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_T_IN, 99,
    };
    uint8_t *p = dma_host(v->m, BUFFERS, 64);
    uint8_t type = take(in, 1), sector = take(in, 1);

    st_le32(p, type < 0xf0 ? types[type % G_N_ELEMENTS(types)] : take(in, 4));
    st_le64(p + 8, sector < 0xf0 ? sector * 8ull : take(in, 8));
    st_le64(p + 16, sector * 8ull);        /* a segment to discard */
    st_le32(p + 24, type);
    st_le32(p + 28, take(in, 1) & 1);
    return (FuzzDesc){ BUFFERS, 16, 0 };
}

/* A chain as a disk likes it: header, data, status. */
static unsigned good_chain(FuzzVirtio *v, FuzzDesc *d, Input *in)
{
    unsigned data = take(in, 1) % 4;
    uint16_t write = take(in, 1) & 1 ? VRING_DESC_F_WRITE : 0;

    *d++ = header(v, in);
    for (unsigned i = 0; i < data; i++)
        *d++ = (FuzzDesc){ some_addr(v, in), 512 * (1 + take(in, 1) % 16), write };
    *d = (FuzzDesc){ BUFFERS + 0x8000, 1, VRING_DESC_F_WRITE };
    return data + 2;
}

static unsigned wild_chain(FuzzVirtio *v, FuzzDesc *d, Input *in)
{
    unsigned n = 1 + take(in, 1) % CHAIN_MAX;

    header(v, in);
    for (unsigned i = 0; i < n; i++) {
        uint8_t how = take(in, 1);

        d[i].addr = some_addr(v, in);
        d[i].len = some_length(in);
        d[i].flags = how < 0xe0 ? how & 1 ? VRING_DESC_F_WRITE : 0 : how;
    }
    return n;
}

/* Moves a chain to a table of its own; one descriptor is left. */
static unsigned make_indirect(FuzzVirtio *v, FuzzDesc *d, unsigned n, Input *in)
{
    uint8_t how = take(in, 1);
    uint64_t table = how < 0xe0 ? TABLES + how % 8 * 1024
                                : ram_block_size(v->m->machine->ram) - 16 * n;

    for (unsigned i = 0; i < n; i++) {
        uint16_t next = i + 1 < n ? VRING_DESC_F_NEXT : 0;

        if (v->packed)
            put_desc(v, table + 16 * i, d[i].addr, d[i].len, 0, d[i].flags);
        else
            put_desc(v, table + 16 * i, d[i].addr, d[i].len, d[i].flags | next,
                     how & 16 ? take(in, 1) : i + 1);
    }
    d[0] = (FuzzDesc){ table, how & 32 ? take(in, 2) : 16 * n, VRING_DESC_F_INDIRECT };
    return 1;
}

static void put_split(FuzzVirtio *v, FuzzQueue *q, const FuzzDesc *d, unsigned n, Input *in)
{
    uint16_t head = q->next % q->size;

    for (unsigned i = 0; i < n; i++) {
        uint64_t at = q->desc + q->next % q->size * 16ull;
        uint8_t next = take(in, 1);

        q->next++;
        put_desc(v, at, d[i].addr, d[i].len, d[i].flags | (i + 1 < n ? VRING_DESC_F_NEXT : 0),
                 next == 0xff ? take(in, 2) : q->next % q->size);
    }
    put16(v, q->driver + 4 + q->avail++ % q->size * 2ull, head);
    put16(v, q->driver + 2, q->avail);
}

static void put_packed(FuzzVirtio *v, FuzzQueue *q, const FuzzDesc *d, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        uint16_t flags = d[i].flags & ~(1u << 7 | 1u << 15);

        if (i + 1 < n)
            flags |= VRING_DESC_F_NEXT;
        put_desc(v, q->desc + q->avail * 16ull, d[i].addr, d[i].len, q->next,
                 flags | (q->wrap ? 1u << 7 : 1u << 15));       /* AVAIL, USED (2.8.1) */
        if (++q->avail == q->size) {
            q->avail = 0;
            q->wrap = !q->wrap;
        }
    }
    q->next++;
}

static void kick(FuzzVirtio *v, unsigned index)
{
    if (v->legacy)
        io_write16(v->m, v->ports + VIRTIO_PCI_QUEUE_NOTIFY, index);
    else
        mem_write(v->m, v->notify + (uint64_t)index * v->notify_multiplier, 2, index);
}

void fuzz_virtio_request(FuzzVirtio *v, Input *in)
{
    uint8_t how = take(in, 1);
    unsigned index = how % FUZZ_QUEUES, n;
    FuzzQueue *q = &v->queues[index];
    FuzzDesc d[CHAIN_MAX];

    if (!q->size || q->size > 1024 || !(v->legacy ? v->ports : v->common))
        return;
    for (unsigned chains = 1 + (how >> 4 & 3); chains; chains--) {
        n = how & 8 ? wild_chain(v, d, in) : good_chain(v, d, in);
        if (how & 4)
            n = make_indirect(v, d, n, in);
        if (v->packed)
            put_packed(v, q, d, n);
        else
            put_split(v, q, d, n, in);
    }
    if (how < 0xe0)
        kick(v, index);
}

/* ---- disturbances ---- */

static void reset_queue(FuzzVirtio *v, unsigned index, Input *in)
{
    set(v, VIRTIO_PCI_COMMON_Q_SELECT, 2, index);
    set(v, VIRTIO_PCI_COMMON_Q_RESET, 2, 1);
    if (take(in, 1) & 1)
        settle(v->m);
    set_queue_up(v, index, in);
}

/* Steps back and forth again without a reset, as no driver may (2.1.1), with other features. */
static void negotiate_again(FuzzVirtio *v, Input *in)
{
    bool packed;

    set(v, VIRTIO_PCI_COMMON_STATUS, 1, take(in, 1) & 3);
    if (take(in, 1) & 1)
        settle(v->m);
    packed = choose_features(v, in) >> VIRTIO_F_RING_PACKED & 1;
    set(v, VIRTIO_PCI_COMMON_STATUS, 1, 3 | VIRTIO_CONFIG_S_FEATURES_OK);
    set(v, VIRTIO_PCI_COMMON_STATUS, 1, STATUS_DRIVER_OK);
    v->packed = packed;
}

void fuzz_virtio_disturb(FuzzVirtio *v, Input *in)
{
    uint8_t how = take(in, 1);
    unsigned index = how >> 4 & 1;
    FuzzQueue *q = &v->queues[index];

    if (!v->common) {
        if (v->ports && how & 1)
            io_write8(v->m, v->ports + VIRTIO_PCI_STATUS, take(in, 1));
        else if (v->ports)
            set_page(v, index, in);
        return;
    }
    switch (how & 15) {
    case 0: case 1: reset_queue(v, index, in); break;
    case 2: negotiate_again(v, in); break;
    case 3: set(v, VIRTIO_PCI_COMMON_STATUS, 1, take(in, 1)); break;
    case 4: q->avail = take(in, 2); break;
    case 5: put16(v, q->driver + take(in, 2), take(in, 2)); break;   /* flags, event index … */
    case 6: put16(v, q->driver, take(in, 2)); break;
    case 7: put16(v, q->driver + 2, take(in, 2)); break;
    case 8: put16(v, q->driver + 4 + 2 * q->size, take(in, 2)); break;
    case 9: kick(v, take(in, 1)); break;
    case 10: pci_config_write(v->pci, PCI_COMMAND, take(in, 1), 2); break;
    case 11: pci_config_write(v->pci, PCI_COMMAND, 7, 2); break;
    case 12: q->wrap = !q->wrap; break;
    default: set(v, take(in, 1) % 64, 1u << (how >> 5) % 3, take(in, 4)); break;
    }
}

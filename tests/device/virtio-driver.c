#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>
#include "tests/device/virtio-driver.h"

/* ---- The device ---- */

static void note_structure(TestVirtio *v, uint8_t at)
{
    unsigned bar = pci_config_read(v->pci, at + VIRTIO_PCI_CAP_BAR, 1);
    uint64_t addr;

    if (bar >= PCI_ROM_BAR)                 /* the configuration access capability has no place */
        return;
    addr = pci_bar_address(v->pci, bar) + pci_config_read(v->pci, at + VIRTIO_PCI_CAP_OFFSET, 4);
    switch (pci_config_read(v->pci, at + VIRTIO_PCI_CAP_CFG_TYPE, 1)) {
    case VIRTIO_PCI_CAP_COMMON_CFG: v->common = addr; break;
    case VIRTIO_PCI_CAP_ISR_CFG: v->isr = addr; break;
    case VIRTIO_PCI_CAP_DEVICE_CFG: v->config = addr; break;
    case VIRTIO_PCI_CAP_NOTIFY_CFG:
        v->notify = addr;
        v->notify_multiplier = pci_config_read(v->pci, at + VIRTIO_PCI_NOTIFY_CAP_MULT, 4);
        break;
    }
}

void test_virtio_find(TestVirtio *v)
{
    PciDevice *pci = v->pci;
    uint8_t at, msix = pci_find_cap(pci, PCI_CAP_ID_MSIX);

    pci_set_up(v->m, pci);
    for (at = pci_config_read(pci, PCI_CAPABILITY_LIST, 1); at;
         at = pci_config_read(pci, at + PCI_CAP_LIST_NEXT, 1))
        if (pci_config_read(pci, at, 1) == PCI_CAP_ID_VNDR)
            note_structure(v, at);
    if (msix) {
        uint32_t table = pci_config_read(pci, msix + PCI_MSIX_TABLE, 4);
        uint32_t pba = pci_config_read(pci, msix + PCI_MSIX_PBA, 4);

        v->msix_table = pci_bar(pci, table & 7) + (table & ~7u);
        v->pba = pci_bar(pci, pba & 7) + (pba & ~7u);
        pci_enable_msix(v->m, pci, TEST_MSI_BASE);
    }
    ck_assert(v->common && v->notify && v->isr && v->config);
}

TestVirtio *test_virtio_new(TestMachine *m, PciDevice *pci)
{
    TestVirtio *v = g_new0(TestVirtio, 1);

    v->m = m;
    v->pci = pci;
    test_virtio_find(v);
    return v;
}

void test_virtio_free(TestVirtio *v)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(v->queues); i++) {
        if (v->queues[i])
            g_free(v->queues[i]->chain_len);
        g_free(v->queues[i]);
    }
    g_free(v);
}

uint64_t common_load(TestVirtio *v, unsigned offset, unsigned size)
{
    return mem_read(v->m, v->common + offset, size);
}

void common_store(TestVirtio *v, unsigned offset, unsigned size, uint64_t value)
{
    mem_write(v->m, v->common + offset, size, value);
}

uint8_t test_status(TestVirtio *v)
{
    return common_load(v, VIRTIO_PCI_COMMON_STATUS, 1);
}

void test_set_status(TestVirtio *v, uint8_t status)
{
    common_store(v, VIRTIO_PCI_COMMON_STATUS, 1, status);
}

void test_msix_mask(TestVirtio *v, unsigned vector, bool mask)
{
    mem_write(v->m, v->msix_table + 16 * vector + 12, 4, mask);
}

static void negotiate(TestVirtio *v, uint64_t wanted)
{
    v->offered = 0;
    for (unsigned i = 0; i < 2; i++) {
        common_store(v, VIRTIO_PCI_COMMON_DFSELECT, 4, i);
        v->offered |= common_load(v, VIRTIO_PCI_COMMON_DF, 4) << (32 * i);
    }
    v->features = v->offered & (wanted | 1ull << VIRTIO_F_VERSION_1);
    for (unsigned i = 0; i < 2; i++) {
        common_store(v, VIRTIO_PCI_COMMON_GFSELECT, 4, i);
        common_store(v, VIRTIO_PCI_COMMON_GF, 4, (uint32_t)(v->features >> (32 * i)));
    }
}

void test_virtio_start(TestVirtio *v, uint64_t wanted, unsigned queues, unsigned size)
{
    test_set_status(v, 0);
    ck_assert_uint_eq(test_status(v), 0);
    test_set_status(v, 1);
    test_set_status(v, 3);
    negotiate(v, wanted);
    test_set_status(v, 3 | 8);
    ck_assert_uint_eq(test_status(v), 3 | 8);
    common_store(v, VIRTIO_PCI_COMMON_MSIX, 2, 0);
    v->num_queues = common_load(v, VIRTIO_PCI_COMMON_NUMQ, 2);
    for (unsigned i = 0; i < queues; i++)
        test_queue_setup(v, i, size);
    test_set_status(v, 3 | 8 | 4);
}

/* ---- Rings ---- */

TestQueue *test_queue_setup(TestVirtio *v, unsigned index, unsigned size)
{
    TestQueue *q = v->queues[index];

    if (q) {
        g_free(q->chain_len);
        g_free(q);
    }
    q = v->queues[index] = g_new0(TestQueue, 1);
    q->v = v;
    q->index = index;
    q->packed = v->features >> VIRTIO_F_RING_PACKED & 1;
    q->event_idx = v->features >> VIRTIO_F_EVENT_IDX & 1;
    q->avail_wrap = q->used_wrap = true;
    common_store(v, VIRTIO_PCI_COMMON_Q_SELECT, 2, index);
    if (size)
        common_store(v, VIRTIO_PCI_COMMON_Q_SIZE, 2, size);
    q->size = common_load(v, VIRTIO_PCI_COMMON_Q_SIZE, 2);
    q->chain_len = g_new0(uint16_t, q->size);
    q->desc = dma_alloc(v->m, 16 * q->size);
    q->driver = dma_alloc(v->m, 6 + 2 * q->size);
    q->device = dma_alloc(v->m, 6 + 8 * q->size);
    if (v->msix_table) {
        common_store(v, VIRTIO_PCI_COMMON_Q_MSIX, 2, index + 1);
        ck_assert_uint_eq(common_load(v, VIRTIO_PCI_COMMON_Q_MSIX, 2), index + 1);
    }
    common_store(v, VIRTIO_PCI_COMMON_Q_DESCLO, 4, q->desc);
    common_store(v, VIRTIO_PCI_COMMON_Q_DESCHI, 4, 0);
    common_store(v, VIRTIO_PCI_COMMON_Q_AVAILLO, 4, q->driver);
    common_store(v, VIRTIO_PCI_COMMON_Q_AVAILHI, 4, 0);
    common_store(v, VIRTIO_PCI_COMMON_Q_USEDLO, 4, q->device);
    common_store(v, VIRTIO_PCI_COMMON_Q_USEDHI, 4, 0);
    common_store(v, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
    return q;
}

static uint8_t *ring(TestQueue *q, uint64_t gpa)
{
    return guest_ptr(q->v->m, gpa);
}

static void put_desc(uint8_t *d, uint64_t addr, uint32_t len, uint16_t w12, uint16_t w14)
{
    st_le64(d, addr);
    st_le32(d + 8, len);
    st_le16(d + 12, w12);
    st_le16(d + 14, w14);
}

static uint64_t indirect_table(TestQueue *q, const TestBuffer *b, unsigned n)
{
    uint64_t table = dma_alloc(q->v->m, 16 * n);
    uint8_t *t = ring(q, table);

    for (unsigned i = 0; i < n; i++) {
        uint16_t flags = b[i].write ? VRING_DESC_F_WRITE : 0;
        if (q->packed)
            put_desc(t + 16 * i, b[i].gpa, b[i].len, 0, flags);
        else
            put_desc(t + 16 * i, b[i].gpa, b[i].len,
                     flags | (i + 1 < n ? VRING_DESC_F_NEXT : 0), i + 1);
    }
    return table;
}

static uint16_t add_split(TestQueue *q, const TestBuffer *b, unsigned n, uint16_t extra)
{
    uint16_t head = q->next_desc;
    uint8_t *avail = ring(q, q->driver);

    for (unsigned i = 0; i < n; i++) {
        uint16_t next = (q->next_desc + 1) % q->size;
        uint16_t flags =
            (b[i].write ? VRING_DESC_F_WRITE : 0) | (i + 1 < n ? VRING_DESC_F_NEXT : 0);
        put_desc(ring(q, q->desc) + 16 * q->next_desc, b[i].gpa, b[i].len, flags | extra, next);
        q->next_desc = next;
    }
    st_le16(avail + 4 + 2 * (q->avail % q->size), head);
    q->avail++;
    __atomic_store_n((uint16_t *)(avail + 2), q->avail, __ATOMIC_SEQ_CST);
    return head;
}

static uint16_t add_packed(TestQueue *q, const TestBuffer *b, unsigned n, uint16_t extra)
{
    uint16_t id = 0;
    uint8_t *first = ring(q, q->desc) + 16 * q->avail;
    uint16_t first_flags = 0;

    while (id < q->size - 1 && q->chain_len[id])
        id++;
    for (unsigned i = 0; i < n; i++) {
        uint16_t flags =
            (b[i].write ? VRING_DESC_F_WRITE : 0) | (i + 1 < n ? VRING_DESC_F_NEXT : 0) | extra |
            1u << (q->avail_wrap ? VRING_PACKED_DESC_F_AVAIL : VRING_PACKED_DESC_F_USED);
        uint8_t *d = ring(q, q->desc) + 16 * q->avail;
        put_desc(d, b[i].gpa, b[i].len, id, i ? flags : ld_le16(d + 14));
        if (!i)
            first_flags = flags;
        if (++q->avail == q->size) {
            q->avail = 0;
            q->avail_wrap = !q->avail_wrap;
        }
    }
    __atomic_store_n((uint16_t *)(first + 14), first_flags, __ATOMIC_SEQ_CST);
    q->chain_len[id] = n;
    return id;
}

uint16_t test_queue_add(TestQueue *q, const TestBuffer *b, unsigned n, bool indirect)
{
    TestBuffer one = { 0, 16 * n, false };

    if (indirect) {
        one.gpa = indirect_table(q, b, n);
        b = &one;
        n = 1;
    }
    uint16_t extra = indirect ? VRING_DESC_F_INDIRECT : 0;
    return q->packed ? add_packed(q, b, n, extra) : add_split(q, b, n, extra);
}

/* Both sides touch these at any time. */
static uint16_t shared16(const uint8_t *p)
{
    return __atomic_load_n((const uint16_t *)p, __ATOMIC_SEQ_CST);
}

static void set_shared16(uint8_t *p, uint16_t value)
{
    __atomic_store_n((uint16_t *)p, value, __ATOMIC_SEQ_CST);
}

static bool wants_kick(TestQueue *q)
{
    const uint8_t *device = ring(q, q->device);

    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (q->packed) {
        unsigned flags = shared16(device + 2) & 3;
        if (flags != VRING_PACKED_EVENT_FLAG_DESC)
            return flags == VRING_PACKED_EVENT_FLAG_ENABLE;
        uint16_t off = shared16(device) & 0x7fff, wrap = shared16(device) >> 15, now = q->avail;
        uint16_t old = q->kicked_at;
        if (wrap != q->avail_wrap)
            off -= q->size;
        if (old > now)
            old -= q->size;
        return (uint16_t)(now - off - 1) < (uint16_t)(now - old);
    }
    if (!q->event_idx)
        return !(shared16(device) & VRING_USED_F_NO_NOTIFY);
    uint16_t event = shared16(device + 4 + 8 * q->size);
    return (uint16_t)(q->avail - event - 1) < (uint16_t)(q->avail - q->kicked_at);
}

void test_queue_kick(TestQueue *q, bool force)
{
    if (force || wants_kick(q)) {
        q->kicks++;
        mem_write(q->v->m, q->v->notify + q->index * q->v->notify_multiplier, 2, q->index);
    }
    q->kicked_at = q->avail;
}

bool test_queue_poll(TestQueue *q, uint16_t *id, uint32_t *len)
{
    const uint8_t *element;

    if (q->packed) {
        element = ring(q, q->desc) + 16 * q->used;
        uint16_t flags = __atomic_load_n((const uint16_t *)(element + 14), __ATOMIC_SEQ_CST);
        bool avail = flags >> VRING_PACKED_DESC_F_AVAIL & 1;
        bool used = flags >> VRING_PACKED_DESC_F_USED & 1;
        if (avail != used || used != q->used_wrap)
            return false;
        *id = ld_le16(element + 12);
        *len = ld_le32(element + 8);
        if (*id >= q->size)
            return true;                    /* only where a test writes noise into the ring */
        q->used += q->chain_len[*id];
        q->chain_len[*id] = 0;
        if (q->used >= q->size) {
            q->used -= q->size;
            q->used_wrap = !q->used_wrap;
        }
        return true;
    }
    const uint8_t *device = ring(q, q->device);
    if (__atomic_load_n((const uint16_t *)(device + 2), __ATOMIC_SEQ_CST) == q->used)
        return false;
    element = device + 4 + 8 * (q->used % q->size);
    *id = ld_le32(element);
    *len = ld_le32(element + 4);
    q->used++;
    if (q->event_idx)
        set_shared16(ring(q, q->driver) + 4 + 2 * q->size, q->used);
    return true;
}

void test_queue_set_used_event(TestQueue *q, unsigned n)
{
    uint8_t *driver = ring(q, q->driver);

    if (q->packed) {
        unsigned at = q->used + n;
        bool wrap = q->used_wrap;
        if (at >= q->size) {
            at -= q->size;
            wrap = !wrap;
        }
        set_shared16(driver, at | wrap << 15);
        set_shared16(driver + 2, VRING_PACKED_EVENT_FLAG_DESC);
    } else {
        set_shared16(driver + 4 + 2 * q->size, q->used + n);
    }
}

typedef struct Answer {
    TestQueue *q;
    uint16_t id;
    uint32_t len;
} Answer;

static bool answered(void *opaque)
{
    Answer *a = opaque;
    return test_queue_poll(a->q, &a->id, &a->len);
}

bool test_queue_used(void *queue)
{
    Answer a = { .q = queue };

    return answered(&a);
}

uint32_t test_queue_wait(TestQueue *q)
{
    Answer a = { .q = q };

    wait_until(q->v->m, answered, &a);
    return a.len;
}

uint32_t test_queue_do(TestQueue *q, const TestBuffer *b, unsigned n, bool indirect)
{
    Answer a = { .q = q };
    uint16_t id = test_queue_add(q, b, n, indirect);

    test_queue_kick(q, false);
    wait_until(q->v->m, answered, &a);
    ck_assert_uint_eq(a.id, id);
    return a.len;
}

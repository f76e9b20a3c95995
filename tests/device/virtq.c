/*
 * Virtqueues against a model: a device of the test's own copies what is readable to what is
 * writable and answers in random order; the driver adds chains of random shapes.  Then rings full
 * of noise, which may break the device and nothing more.
 */
#include "hw/virtio/virtio-pci.h"
#include "tests/device/virtio-driver.h"

enum { HELD_MAX = 64, PARTS_MAX = 40, ROUNDS = 4000, BUFFER_BYTES = 4096 };

typedef struct Held {
    VirtqChain chain;
    struct iovec iov[PARTS_MAX];
    uint64_t gpa[PARTS_MAX];
} Held;

/* Takes chains while it has room, and keeps them until the test asks for answers. */
typedef struct Echo {
    VirtioDevice vdev;
    Virtqueue *vq;
    Held held[HELD_MAX];
    bool busy[HELD_MAX];
    unsigned count;
    bool breaks;                            /* when features are chosen */
} Echo;

static void echo_kick(VirtioDevice *vdev, Virtqueue *vq)
{
    Echo *e = (Echo *)vdev;

    do {
        virtq_set_notification(vq, false);
        for (unsigned i = 0; i < HELD_MAX; i++) {
            if (e->busy[i])
                continue;
            e->held[i].chain = (VirtqChain){ .iov = e->held[i].iov, .gpa = e->held[i].gpa,
                                             .iov_max = PARTS_MAX };
            if (!virtq_pop(vq, &e->held[i].chain))
                break;
            e->busy[i] = true;
            e->count++;
        }
    } while (e->count < HELD_MAX && !virtq_set_notification(vq, true));
}

static void echo_stop(VirtioDevice *vdev)
{
    Echo *e = (Echo *)vdev;

    memset(e->busy, 0, sizeof(e->busy));
    e->count = 0;
}

static void echo_get_config(VirtioDevice *vdev, uint8_t *config)
{
}

static bool echo_realize(Object *obj, GError **error)
{
    Echo *e = (Echo *)obj;

    e->vq = virtio_add_queue(&e->vdev, 256, echo_kick);
    return true;
}

static bool echo_set_features(VirtioDevice *vdev, uint64_t features)
{
    if (((Echo *)vdev)->breaks)
        virtio_break(vdev, "told to");
    return true;
}

static const VirtioDeviceOps echo_ops = {
    .device_id = 63, .get_config = echo_get_config, .stop = echo_stop,
    .set_features = echo_set_features,
};
static const Type echo_type = {
    .name = "test-echo-device", .parent = "virtio-device", .help = "echo", .size = sizeof(Echo),
    .realize = echo_realize, .ops = &echo_ops,
};
TYPE_REGISTER(echo_type)
VIRTIO_PCI_REGISTER(test_echo_pci, "test-echo-pci", "echo", NULL, .device = "test-echo-device",
                    .pci.class_code = 0x00ff00)

/* Answers the held chain @i: the writable part gets what the readable one says. */
static void answer(Echo *e, unsigned i)
{
    VirtqChain *chain = &e->held[i].chain;
    uint8_t data[PARTS_MAX * 64];
    size_t length = virtq_chain_read(chain, 0, data, sizeof(data));

    length = virtq_chain_write(chain, 0, data, length);
    virtq_push(e->vq, chain, length);
    e->busy[i] = false;
    e->count--;
}

static uint32_t next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
    return *seed >> 33;
}

typedef struct Bench {
    TestMachine *m;
    TestVirtio *v;
    TestQueue *q;
    Echo *e;
} Bench;

static Bench bench_new(bool packed, uint64_t features, unsigned size)
{
    Bench b = { .m = test_machine_new(BOARD) };
    PciDevice *pci = add_device(b.m, packed ? "test-echo-pci,packed=on" : "test-echo-pci");

    b.v = test_virtio_new(b.m, pci);
    test_virtio_start(b.v, features, 1, size);
    b.q = b.v->queues[0];
    b.e = (Echo *)object_child(OBJECT(pci), "virtio-backend");
    return b;
}

static void bench_free(Bench *b)
{
    test_virtio_free(b->v);
    test_machine_free(b->m);
}

/* What the driver knows of a chain that it has added. */
typedef struct Sent {
    bool used;
    uint32_t length;                        /* bytes that will be echoed */
    uint8_t mark;
    unsigned slots;
    uint64_t page;
} Sent;

typedef struct Model {
    Bench b;
    uint64_t seed;
    GArray *pages;                          /* of uint64_t: free for buffers */
    Sent sent[65536];                       /* by id */
    unsigned slots_used;
} Model;

static bool send_one(Model *m)
{
    TestBuffer buffers[PARTS_MAX];
    unsigned out = 1 + next_random(&m->seed) % 8, in = next_random(&m->seed) % 8;
    bool indirect = (m->b.v->features >> VIRTIO_F_INDIRECT_DESC & 1) && next_random(&m->seed) % 2;
    unsigned slots = indirect ? 1 : out + in;
    uint32_t out_bytes = 0, in_bytes = 0;
    uint8_t mark = next_random(&m->seed);

    if (m->slots_used + slots > m->b.q->size || !m->pages->len)
        return false;
    uint64_t page = g_array_index(m->pages, uint64_t, m->pages->len - 1), at = page;
    g_array_set_size(m->pages, m->pages->len - 1);
    for (unsigned i = 0; i < out + in; i++) {
        uint32_t length = next_random(&m->seed) % 64; /* 0, too: such a buffer is as if not there */
        buffers[i] = (TestBuffer){ at, length, i >= out };
        *(i < out ? &out_bytes : &in_bytes) += length;
        memset(guest_ptr(m->b.m, at), i < out ? mark : 0, 128);
        at += 128;
    }
    /* Indirect tables need pages of their own, or the test runs out of memory. */
    uint64_t next_page = m->b.m->next_dma;
    if (indirect)
        m->b.m->next_dma = page + BUFFER_BYTES / 2;
    uint16_t id = test_queue_add(m->b.q, buffers, out + in, indirect);
    m->b.m->next_dma = next_page;
    ck_assert(!m->sent[id].used);
    m->sent[id] = (Sent){ true, MIN(out_bytes, in_bytes), mark, slots, page };
    m->slots_used += slots;
    return true;
}

static void receive_all(Model *m)
{
    uint16_t id;
    uint32_t len;

    while (test_queue_poll(m->b.q, &id, &len)) {
        Sent *s = &m->sent[id];
        ck_assert_msg(s->used, "id %u was not sent", id);
        ck_assert_uint_eq(len, s->length);
        s->used = false;
        m->slots_used -= s->slots;
        g_array_append_val(m->pages, s->page);
    }
}

static Model *model_new(bool packed, uint64_t features, unsigned size, uint64_t seed)
{
    Model *m = g_new0(Model, 1);

    m->b = bench_new(packed, features, size);
    m->seed = seed;
    m->pages = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    for (unsigned i = 0; i < HELD_MAX; i++) {
        uint64_t page = dma_alloc(m->b.m, BUFFER_BYTES);
        g_array_append_val(m->pages, page);
    }
    return m;
}

static const struct {
    bool packed;
    uint64_t features;
    unsigned size;
} layouts[] = {
    { false, 0, 16 },
    { false, 1ull << VIRTIO_F_EVENT_IDX, 32 },
    { false, ~0ull, 256 },
    { true, 1ull << VIRTIO_F_RING_PACKED, 32 },
    { true, 1ull << VIRTIO_F_RING_PACKED, 37 },          /* a packed ring may have any size */
    { true, ~0ull & ~(1ull << VIRTIO_F_EVENT_IDX), 100 },
    { true, ~0ull, 64 },
};

/* A split ring frees descriptors out of order only with a free list; the test's driver has none, so
 * there the answers come in order. */
static unsigned pick(Model *m, bool in_order, unsigned oldest)
{
    unsigned i = in_order ? oldest : next_random(&m->seed) % HELD_MAX;

    while (!m->b.e->busy[i])
        i = (i + 1) % HELD_MAX;
    return i;
}

START_TEST(random_chains)
{
    Model *m = model_new(layouts[_i].packed, layouts[_i].features, layouts[_i].size, _i + 1);
    Echo *e = m->b.e;
    unsigned total = 0;

    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned sends = next_random(&m->seed) % 4;
        while (sends-- && send_one(m))
            total++;
        /* Only what the device asks for: lost kicks would show as chains that never come back. */
        test_queue_kick(m->b.q, false);
        if (next_random(&m->seed) % 3 == 0)
            continue;
        settle(m->b.m);
        ck_assert_uint_eq(test_status(m->b.v), 15);
        unsigned answers = e->count ? next_random(&m->seed) % (e->count + 1) : 0;
        bool all = !layouts[_i].packed;     /* split: whole batches, in the order of the ring */
        for (unsigned i = 0; i < HELD_MAX && all; i++)
            if (e->busy[i])
                answer(e, i);
        while (!all && answers--)
            answer(e, pick(m, false, 0));
        virtq_flush(e->vq);
        receive_all(m);
    }
    while (m->slots_used) {
        settle(m->b.m);
        for (unsigned i = 0; i < HELD_MAX; i++)
            if (e->busy[i])
                answer(e, i);
        virtq_flush(e->vq);
        receive_all(m);
        ck_assert_msg(e->count || !m->slots_used, "%u slots are lost", m->slots_used);
    }
    ck_assert_uint_gt(total, ROUNDS / 10);
    bench_free(&m->b);
    g_array_free(m->pages, TRUE);
    g_free(m);
}
END_TEST

/* What is popped last may go back, and comes again. */
START_TEST(unpop)
{
    Bench b = bench_new(_i, ~0ull, 32);
    uint64_t page = dma_alloc(b.m, 4096);
    TestBuffer buffers[] = { { page, 16, false }, { page + 64, 16, true } };
    uint16_t id;
    uint32_t len;

    for (unsigned round = 0; round < 100; round++) {
        memset(guest_ptr(b.m, page), round, 16);
        uint16_t sent = test_queue_add(b.q, buffers, 2, false);
        test_queue_kick(b.q, false);
        settle(b.m);
        ck_assert_uint_eq(b.e->count, 1);
        virtq_unpop(b.e->vq, &b.e->held[0].chain);
        ck_assert(!virtq_empty(b.e->vq));
        ck_assert(virtq_pop(b.e->vq, &b.e->held[0].chain));
        ck_assert(virtq_empty(b.e->vq));
        answer(b.e, 0);
        virtq_flush(b.e->vq);
        ck_assert(test_queue_poll(b.q, &id, &len));
        ck_assert_uint_eq(id, sent);
        ck_assert_uint_eq(len, 16);
        ck_assert_mem_eq(guest_ptr(b.m, page), guest_ptr(b.m, page + 64), 16);
    }
    bench_free(&b);
}
END_TEST

/* Nothing is told before the flush, then everything, with one interrupt. */
START_TEST(a_batch_is_published_at_once)
{
    Bench b = bench_new(_i, ~0ull & ~(1ull << VIRTIO_F_EVENT_IDX), 32);
    uint64_t page = dma_alloc(b.m, 4096);
    TestBuffer buffers[] = { { page, 16, false }, { page + 64, 16, true } };
    uint16_t id;
    uint32_t len;

    for (unsigned i = 0; i < 5; i++)
        test_queue_add(b.q, buffers, 2, false);
    test_queue_kick(b.q, false);
    settle(b.m);
    for (unsigned i = 0; i < 5; i++)
        answer(b.e, i);
    ck_assert(!test_queue_poll(b.q, &id, &len));
    virtq_flush(b.e->vq);
    for (unsigned i = 0; i < 5; i++)
        ck_assert(test_queue_poll(b.q, &id, &len));
    ck_assert_uint_eq(msi_count(b.m, TEST_MSI_BASE + 1), 1);
    bench_free(&b);
}
END_TEST

/* Noise in the rings, in indirect tables, at random places, between valid chains. */
/* As a queue in an iothread may: the driver has to see it. */
START_TEST(it_breaks_while_the_driver_writes_the_status)
{
    Bench b = bench_new(_i, ~0ull, 32);
    uint8_t known = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

    test_set_status(b.v, 0);
    test_set_status(b.v, known);
    for (unsigned word = 0; word < 2; word++) {
        common_store(b.v, VIRTIO_PCI_COMMON_GFSELECT, 4, word);
        common_store(b.v, VIRTIO_PCI_COMMON_GF, 4, b.v->features >> (32 * word));
    }
    b.e->breaks = true;
    test_set_status(b.v, known | VIRTIO_CONFIG_S_FEATURES_OK);
    ck_assert_uint_eq(test_status(b.v) & VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_CONFIG_S_NEEDS_RESET);
    bench_free(&b);
}
END_TEST

START_TEST(noise)
{
    bool packed = _i & 1;
    Bench b = bench_new(packed, ~0ull, 32);
    uint64_t seed = 1000 + _i, page = dma_alloc(b.m, 4096), next_page = b.m->next_dma;
    unsigned breaks = 0;

    for (unsigned round = 0; round < 1500; round++) {
        TestQueue *q = b.q;
        uint64_t areas[] = { q->desc, q->driver, q->device, page };
        unsigned sizes[] = { 16 * q->size, 6 + 2 * q->size, 6 + 8 * q->size, 4096 };
        TestBuffer buffers[] = { { page + next_random(&seed) % 2048, next_random(&seed) % 64,
                                   false },
                                 { page + 2048, next_random(&seed) % 64, true } };

        b.m->next_dma = next_page;
        test_queue_add(q, buffers, 2, next_random(&seed) & 1);
        for (unsigned i = next_random(&seed) % 8; i; i--) {
            unsigned area = next_random(&seed) % 4;
            uint8_t *at = guest_ptr(b.m, areas[area]);
            /* Near the beginning more often: there is where both sides look. */
            unsigned range = next_random(&seed) & 1 ? MIN(64, sizes[area]) : sizes[area];
            at[next_random(&seed) % range] = next_random(&seed);
        }
        test_queue_kick(q, true);
        settle(b.m);
        for (unsigned i = 0; i < HELD_MAX; i++)
            if (b.e->busy[i] && next_random(&seed) & 1)
                answer(b.e, i);
        virtq_flush(b.e->vq);
        if (!(test_status(b.v) & VIRTIO_STATUS_NEEDS_RESET) && round % 50 != 49)
            continue;
        breaks++;
        b.m->next_dma = next_page;
        test_virtio_start(b.v, ~0ull, 1, 32);
        ck_assert_uint_eq(test_status(b.v), 15);
        b.q = b.v->queues[0];
        next_page = b.m->next_dma;
        if (next_page > TEST_RAM_SIZE / 2)
            break;
    }
    ck_assert_uint_gt(breaks, 10);
    bench_free(&b);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, random_chains, 0, G_N_ELEMENTS(layouts));
    tcase_add_loop_test(tc, unpop, 0, 2);
    tcase_add_loop_test(tc, a_batch_is_published_at_once, 0, 2);
    tcase_add_loop_test(tc, it_breaks_while_the_driver_writes_the_status, 0, 2);
    tcase_add_loop_test(tc, noise, 0, 8);
}

int main(void)
{
    return run_tests("virtq", add_tests);
}

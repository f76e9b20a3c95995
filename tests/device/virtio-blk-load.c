/*
 * virtio-blk under load: random reads and writes, 32 in flight on each of three queues, with every engine,
 * cached and direct, in the main loop and in an iothread.  The test knows what each block must hold.
 *
 * VIREO_LOAD_ROUNDS makes it longer: each round is 240 requests.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "block/aio.h"
#include "tests/device/disk.h"

enum { QUEUES = 3, IN_FLIGHT = 32, BLOCK = 4096, BLOCKS = 1024, ROUNDS = 5 };
/* Of a queue in a round, at the end of which all are complete: no descriptor is used again before. */
enum { PER_ROUND = 80, QUEUE_SIZE = 256 };

static const struct {
    const char *aio;
    AioKind kind;
    bool direct;
} engines[] = {
    { "threads", AIO_THREADS, false }, { "io_uring", AIO_URING, false },
    { "threads", AIO_THREADS, true },  { "io_uring", AIO_URING, true },
    { "native", AIO_NATIVE, true },
};
static const char *const devices[] = {
    ",num-queues=3,iothread=io0", ",num-queues=3,iothread=io0,packed=on", ",num-queues=3",
};

typedef struct Slot {
    uint64_t header, data, status;          /* guest addresses */
    unsigned block;
    bool busy, write;
} Slot;

typedef struct Load {
    Disk d;
    GRand *random;
    uint32_t version[BLOCKS];               /* how often each was written */
    bool in_use[BLOCKS];                    /* by a request in flight */
    Slot slots[QUEUES][IN_FLIGHT];
    Slot *by_id[QUEUES][QUEUE_SIZE];
    unsigned left[QUEUES], in_flight;
} Load;

static void fill(uint64_t *words, unsigned block, uint32_t version)
{
    for (unsigned i = 0; i < BLOCK / 8; i++)
        words[i] = ((uint64_t)block << 32 | version) * 0x9e3779b97f4a7c15 + i;
}

static char *make_numbered_image(void)
{
    char *path = g_strdup("/var/tmp/vireo-load-XXXXXX");
    auto_fd fd = mkstemp(path);
    uint64_t words[BLOCK / 8];

    for (unsigned i = 0; i < BLOCKS; i++) {
        fill(words, i, 0);
        ck_assert_int_eq(write(fd, words, BLOCK), BLOCK);
    }
    return path;
}

static bool can_run(const char *path, unsigned engine)
{
    auto_fd fd = open(path, O_RDWR | (engines[engine].direct ? O_DIRECT : 0));

    return fd >= 0 && aio_available(engines[engine].kind, NULL);
}

static Disk load_disk(char *path, unsigned engine, const char *device)
{
    TestMachine *m = test_machine_new(BOARD "-object iothread,id=io0");
    g_autofree char *node = g_strdup_printf("file,node-name=disk0,filename=%s,aio=%s,cache.direct=%s",
                                            path, engines[engine].aio,
                                            engines[engine].direct ? "on" : "off");
    add_blockdev(m, node);
    Disk d = disk_of_node(m, "disk0", device);
    d.path = path;
    test_virtio_start(d.v, ~0ull, QUEUES, QUEUE_SIZE);
    return d;
}

static void make_slots(Load *l)
{
    for (unsigned i = 0; i < QUEUES * IN_FLIGHT; i++)
        l->slots[i / IN_FLIGHT][i % IN_FLIGHT] =
            (Slot){ .header = dma_alloc(l->d.m, 16), .data = dma_alloc(l->d.m, BLOCK),
                    .status = dma_alloc(l->d.m, 16) };
}

static void start(Load *l, unsigned queue, Slot *slot)
{
    uint8_t *header = guest_ptr(l->d.m, slot->header);
    uint64_t *data = guest_ptr(l->d.m, slot->data);

    do
        slot->block = g_rand_int_range(l->random, 0, BLOCKS);
    while (l->in_use[slot->block]);
    l->in_use[slot->block] = slot->busy = true;
    slot->write = g_rand_boolean(l->random);
    st_le32(header, slot->write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN);
    st_le64(header + 8, slot->block * (BLOCK / 512));
    *(uint8_t *)guest_ptr(l->d.m, slot->status) = 0xee;
    if (slot->write)
        fill(data, slot->block, ++l->version[slot->block]);
    else
        memset(data, 0xee, BLOCK);
    TestBuffer b[] = { { slot->header, 16, false }, { slot->data, BLOCK, !slot->write },
                       { slot->status, 1, true } };
    uint16_t id = test_queue_add(l->d.v->queues[queue], b, 3, g_rand_boolean(l->random));
    l->by_id[queue][id] = slot;
    l->in_flight++;
    l->left[queue]--;
}

static void finish(Load *l, Slot *slot, uint32_t length)
{
    uint64_t want[BLOCK / 8];

    ck_assert(slot && slot->busy);
    ck_assert_uint_eq(*(uint8_t *)guest_ptr(l->d.m, slot->status), VIRTIO_BLK_S_OK);
    ck_assert_uint_eq(length, slot->write ? 1 : BLOCK + 1);
    fill(want, slot->block, l->version[slot->block]);
    ck_assert_mem_eq(guest_ptr(l->d.m, slot->data), want, BLOCK);
    l->in_use[slot->block] = slot->busy = false;
    l->in_flight--;
}

static bool take_completions(void *opaque)
{
    Load *l = opaque;
    bool any = false;

    for (unsigned i = 0; i < QUEUES; i++) {
        uint16_t id = 0;
        uint32_t length = 0;

        while (test_queue_poll(l->d.v->queues[i], &id, &length)) {
            ck_assert_uint_lt(id, QUEUE_SIZE);
            finish(l, l->by_id[i][id], length);
            l->by_id[i][id] = NULL;
            any = true;
        }
    }
    return any;
}

/* As many as fit, and one kick for them. */
static void refill(Load *l, unsigned queue)
{
    for (unsigned i = 0; i < IN_FLIGHT && l->left[queue]; i++)
        if (!l->slots[queue][i].busy)
            start(l, queue, &l->slots[queue][i]);
    test_queue_kick(l->d.v->queues[queue], false);
}

static void run_round(Load *l)
{
    for (unsigned i = 0; i < QUEUES; i++)
        l->left[i] = PER_ROUND;
    do {
        for (unsigned i = 0; i < QUEUES; i++)
            refill(l, i);
        wait_until(l->d.m, take_completions, l);
    } while (l->in_flight || l->left[0] || l->left[1] || l->left[2]);
}

static void check_image(const Load *l)
{
    uint64_t want[BLOCK / 8], found[BLOCK / 8];

    for (unsigned i = 0; i < BLOCKS; i++) {
        fill(want, i, l->version[i]);
        read_image(&l->d, (uint64_t)i * BLOCK, found, BLOCK);
        ck_assert_mem_eq(found, want, BLOCK);
    }
}

START_TEST(every_block_is_what_was_written)
{
    unsigned engine = _i % G_N_ELEMENTS(engines), device = _i / G_N_ELEMENTS(engines);
    const char *rounds = g_getenv("VIREO_LOAD_ROUNDS");
    g_autofree Load *l = g_new0(Load, 1);
    char *path = make_numbered_image();

    if (!can_run(path, engine)) {
        printf("skipped: this host has no aio=%s%s on %s\n", engines[engine].aio,
               engines[engine].direct ? ",cache.direct=on" : "", path);
        unlink(path);
        g_free(path);
        return;
    }
    l->d = load_disk(path, engine, devices[device]);
    l->random = g_rand_new_with_seed(_i + 1);
    make_slots(l);
    for (int i = rounds ? atoi(rounds) : ROUNDS; i > 0; i--)
        run_round(l);
    check_image(l);
    g_rand_free(l->random);
    disk_free(&l->d);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 600);
    tcase_add_loop_test(tc, every_block_is_what_was_written, 0,
                        G_N_ELEMENTS(engines) * G_N_ELEMENTS(devices));
}

int main(void)
{
    return run_tests("virtio-blk-load", add_tests);
}

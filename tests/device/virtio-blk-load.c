/*
 * virtio-blk under load: reads and writes at random places and in order, 32 in flight on each of three
 * queues, with every engine, cached and direct, in the main loop, in an iothread, and in three of them.
 * The test knows what each block must hold; so it does while jobs work on a qcow2 disk that three threads
 * use.
 *
 * VIREO_LOAD_ROUNDS makes it longer: each round is 240 requests.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "block/aio.h"
#include "block/image.h"
#include "block/jobs/backing.h"
#include "block/jobs/mirror.h"
#include "block/jobs/scrub.h"
#include "block/transaction.h"
#include "tests/device/disk.h"

enum { QUEUES = 3, IN_FLIGHT = 32, BLOCK = 4096, BLOCKS = 1024, ROUNDS = 5 };
/* Of a queue in a round, at the end of which all are complete: no descriptor is used again before. */
enum { PER_ROUND = 80, QUEUE_SIZE = 256 };

#define THREADS_BOARD BOARD "-object iothread,id=io0 -object iothread,id=io1 -object iothread,id=io2"
#define THREE_THREADS                                                                              \
    ",num-queues=3,iothread-vq-mapping.0.iothread=io0,iothread-vq-mapping.1.iothread=io1,"         \
    "iothread-vq-mapping.2.iothread=io2"

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
    THREE_THREADS,
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
    unsigned last;                          /* block that was asked for */
    Slot slots[QUEUES][IN_FLIGHT];
    Slot *by_id[QUEUES][QUEUE_SIZE];
    unsigned left[QUEUES], in_flight;
    bool long_run;                          /* no indirect tables: each takes memory for good */
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
    TestMachine *m = test_machine_new(THREADS_BOARD);
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

    slot->block = (l->last + 1) % BLOCKS;   /* half of them, to be merged */
    while (l->in_use[slot->block] || g_rand_boolean(l->random))
        slot->block = g_rand_int_range(l->random, 0, BLOCKS);
    l->last = slot->block;
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
    uint16_t id = test_queue_add(l->d.v->queues[queue], b, 3,
                                 !l->long_run && g_rand_boolean(l->random));
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
    if (l->version[slot->block] || l->d.path)
        fill(want, slot->block, l->version[slot->block]);
    else
        memset(want, 0, sizeof(want));     /* an image that was empty */
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

/* ---- a qcow2 disk that three threads use, and jobs on it ---- */

enum { JOB_ROUNDS = 1 };

static void act(Load *l, const char *type, const char *format, ...) G_GNUC_PRINTF(3, 4);

/* A command that is an action of transactions; its job's id is "j". */
static void act(Load *l, const char *type, const char *format, ...)
{
    g_autofree char *text = NULL;
    g_autoptr(json_object) data = NULL;
    GError *error = NULL;
    va_list args;
    bool ok;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    data = options_parse(text, NULL, NULL);
    ck_assert_ptr_nonnull(data);
    ok = block_action(l->d.m->block, type, data, &error);
    ck_assert_msg(ok, "%s %s: %s", type, text, error ? error->message : "");
}

static void start_job(Load *l, bool (*fn)(BlockGraph *, json_object *, GError **), const char *text)
{
    g_autoptr(json_object) data = options_parse(text, NULL, NULL);
    GError *error = NULL;
    bool ok = fn(l->d.m->block, data, &error);

    ck_assert_msg(ok, "%s: %s", text, error ? error->message : "");
}

/* An image in qcow2 and its node, without a backing node. */
static void add_image(Load *l, const char *folder, const char *name)
{
    g_autofree char *path = g_strdup_printf("%s/%s", folder, name);
    g_autoptr(json_object) options = json_object_new_object();
    g_autofree char *node = g_strdup_printf("{\"driver\": \"qcow2\", \"node-name\": \"%s\", \"backing\": "
                                            "null, \"file\": {\"driver\": \"file\", \"filename\": "
                                            "\"%s\"}}", name, path);

    json_object_object_add(options, "size", json_object_new_int(BLOCKS * BLOCK));
    json_object_object_add(options, "checksums", json_object_new_boolean(true));
    ck_assert(block_image_create(l->d.m->block, "qcow2", path, options, NULL));
    add_blockdev(l->d.m, node);
}

typedef struct NodeRead {
    BlockUser *user;
    uint64_t *data;
    int ret;
} NodeRead;

static void co_fn read_whole(void *opaque)
{
    NodeRead *read = opaque;
    struct iovec iov = { read->data, BLOCKS * BLOCK };

    read->ret = block_co_read(read->user, 0, &iov, 1, iov.iov_len);
}

/* What the node holds is what was written when @versions were those of the blocks. */
static void check_node(Load *l, const char *name, const uint32_t *versions)
{
    g_autofree uint64_t *data = g_malloc(BLOCKS * BLOCK);
    NodeRead read = { .data = data };
    uint64_t want[BLOCK / 8];

    read.user = block_user_new(block_node_find(l->d.m->block, name), "the test", BLOCK_PERM_READ,
                               BLOCK_PERM_ALL, NULL);
    ck_assert_ptr_nonnull(read.user);
    co_run_sync(read_whole, &read);
    block_user_free(read.user);
    ck_assert_int_eq(read.ret, 0);
    for (unsigned i = 0; i < BLOCKS; i++) {
        if (versions[i])
            fill(want, i, versions[i]);
        else
            memset(want, 0, sizeof(want));
        if (memcmp(data + i * (BLOCK / 8), want, BLOCK))
            ck_abort_msg("%s: block %u is not version %u", name, i, versions[i]);
    }
}

/* Rounds of load until the job has come that far. */
static void load_until(Load *l, BlockJobStatus status)
{
    for (BlockJob *job; (job = block_job_find(l->d.m->block, "j")) && job->status != status;)
        run_round(l);
}

static bool job_is_gone(void *opaque)
{
    return !block_job_find(((Load *)opaque)->d.m->block, "j");
}

/* The guest goes on for a round, and rests then: it may write faster than a mirror can follow. */
static void complete(Load *l)
{
    load_until(l, BLOCK_JOB_READY);
    run_round(l);
    ck_assert(block_job_complete(block_job_find(l->d.m->block, "j"), NULL));
    run_round(l);
    wait_until(l->d.m, job_is_gone, l);
    run_round(l);
}

/* It finds nothing wrong in what three threads write. */
static void scrub(Load *l)
{
    g_autoptr(json_object) result = NULL;
    const char *text;

    start_job(l, block_scrub, "job-id=j,device=disk");
    load_until(l, BLOCK_JOB_CONCLUDED);
    result = block_scrub_result(l->d.m->block, "j", NULL);
    text = json_object_to_json_string(result);
    ck_assert_msg(strstr(text, "\"errors\": 0, \"unreadable\": 0,"), "%s", text);
    ck_assert(block_job_dismiss(block_job_find(l->d.m->block, "j"), NULL));
}

static void job_turn(Load *l)
{
    g_autofree uint32_t *then = NULL;
    GError *error = NULL;

    act(l, "block-dirty-bitmap-add", "node=disk,name=b");
    then = g_memdup2(l->version, sizeof(l->version));
    act(l, "blockdev-backup", "job-id=j,device=disk,target=full,sync=full");
    run_round(l);
    load_until(l, BLOCK_JOB_NULL);
    check_node(l, "full", then);
    g_free(then);
    then = g_memdup2(l->version, sizeof(l->version));
    act(l, "blockdev-backup", "job-id=j,device=disk,target=full,sync=incremental,bitmap=b");
    run_round(l);
    load_until(l, BLOCK_JOB_NULL);
    check_node(l, "full", then);
    act(l, "block-dirty-bitmap-remove", "node=disk,name=b");
    act(l, "blockdev-snapshot-internal-sync", "device=disk,name=s");
    scrub(l);
    act(l, "blockdev-snapshot", "node=disk,overlay=top");
    run_round(l);
    start_job(l, block_stream, "job-id=j,device=top,speed=100000000");
    run_round(l);
    load_until(l, BLOCK_JOB_NULL);
    start_job(l, block_mirror, "job-id=j,device=top,target=other,sync=full,copy-mode=write-blocking");
    complete(l);
    ck_assert(block_node_delete(l->d.m->block, "top", &error));
    start_job(l, block_mirror, "job-id=j,device=other,target=disk,sync=full");
    complete(l);
    ck_assert(block_node_delete(l->d.m->block, "other", &error));
    json_object_put(block_internal_snapshot_delete(l->d.m->block, "disk", NULL, "s", &error));
    ck_assert_msg(!error, "%s", error->message);
}

START_TEST(jobs_beside_three_threads)
{
    g_autofree char *folder = g_strdup("/var/tmp/vireo-jobs-XXXXXX");
    const char *rounds = g_getenv("VIREO_LOAD_ROUNDS");
    g_autofree Load *l = g_new0(Load, 1);
    g_autofree char *command = NULL;

    ck_assert_ptr_nonnull(g_mkdtemp(folder));
    command = g_strdup_printf("rm -r %s", folder);
    l->d.m = test_machine_new(THREADS_BOARD);
    add_image(l, folder, "disk");
    l->d = disk_of_node(l->d.m, "disk", THREE_THREADS);
    l->random = g_rand_new_with_seed(1);
    l->long_run = true;
    test_virtio_start(l->d.v, ~0ull, QUEUES, QUEUE_SIZE);
    make_slots(l);
    run_round(l);
    for (int i = rounds ? atoi(rounds) : JOB_ROUNDS; i > 0; i--) {
        add_image(l, folder, "full");
        add_image(l, folder, "top");
        add_image(l, folder, "other");
        job_turn(l);
        ck_assert(block_node_delete(l->d.m->block, "full", NULL));
    }
    check_node(l, "disk", l->version);
    g_rand_free(l->random);
    disk_free(&l->d);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 600);
    tcase_add_loop_test(tc, every_block_is_what_was_written, 0,
                        G_N_ELEMENTS(engines) * (G_N_ELEMENTS(devices) - 1) + 2);
    tcase_add_test(tc, jobs_beside_three_threads);
}

int main(void)
{
    return run_tests("virtio-blk-load", add_tests);
}

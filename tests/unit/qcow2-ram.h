/*
 * A disk in memory below the images of the tests: it takes its time in an order that the seeded
 * scheduler draws, spoils what is discarded, fails when told to, and knows what a power cut would leave.
 */
#pragma once
#include "qcow2-util.h"
#include "block/image.h"
#include "src/base/sched.h"

#define RAM_BYTES (16 * MiB)
enum { RAM_SECTOR = 512 };

static struct {
    uint8_t data[RAM_BYTES], stable[RAM_BYTES];
    uint8_t volatile_sectors[RAM_BYTES / RAM_SECTOR];   /* written since the last flush */
    uint64_t size, stable_size;
    unsigned requests;             /* so far */
    unsigned fail_at;              /* the request that fails; 0: none */
    bool dead;                     /* so do all after it */
    int fail_with;
} ram;

static bool ram_open(BlockNode *node, json_object *options, GError **error)
{
    block_node_set_filename(node, "ram");
    return true;
}

static int64_t ram_get_size(BlockNode *node)
{
    return ram.size;
}

/* Now and then a request is overtaken by many others. */
static int co_fn ram_begin(void)
{
    for (unsigned n = sched_choose(3) + (sched_choose(16) == 15) * 60; n; n--)
        co_sleep_ns(0);
    ram.requests++;
    if (ram.fail_at && (ram.requests == ram.fail_at || (ram.dead && ram.requests > ram.fail_at)))
        return -ram.fail_with;
    return 0;
}

static int co_fn ram_read(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                          uint64_t bytes)
{
    int ret = ram_begin();

    for (int i = 0; ret == 0 && i < iovcnt; offset += iov[i++].iov_len)
        memcpy(iov[i].iov_base, ram.data + offset, iov[i].iov_len);
    return ret;
}

static void ram_changed(uint64_t offset, uint64_t bytes)
{
    for (uint64_t i = offset / RAM_SECTOR; i * RAM_SECTOR < offset + bytes; i++)
        ram.volatile_sectors[i] = 1;
    ram.size = MAX(ram.size, offset + bytes);
}

static int co_fn ram_write(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                           uint64_t bytes, unsigned flags)
{
    int ret = ram_begin();

    if (ret == 0 && bytes > RAM_BYTES - offset)
        ret = -ENOSPC;
    for (int i = 0; ret == 0 && i < iovcnt; offset += iov[i++].iov_len) {
        if (i)
            co_sleep_ns(0);
        memcpy(ram.data + offset, iov[i].iov_base, iov[i].iov_len);
        ram_changed(offset, iov[i].iov_len);
    }
    return ret;
}

static int co_fn ram_zero(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    int ret = ram_begin();

    if (ret == 0) {
        memset(ram.data + offset, 0, bytes);
        ram_changed(offset, bytes);
    }
    return ret;
}

/* What is discarded has any content: one that nobody wrote. */
static int co_fn ram_discard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    int ret = ram_begin();

    co_sleep_ns(0);
    if (ret == 0) {
        memset(ram.data + offset, 0xdd, bytes);
        ram_changed(offset, bytes);
    }
    return ret;
}

/* Writes that end while it lasts may or may not be part of it: they are not. */
static int co_fn ram_flush(BlockNode *node)
{
    uint64_t sectors = ram.size / RAM_SECTOR + 1;
    g_autofree uint8_t *data = g_memdup2(ram.data, ram.size);
    g_autofree uint8_t *written = g_memdup2(ram.volatile_sectors, sectors);
    uint64_t size = ram.size;
    int ret = ram_begin();

    if (ret < 0)
        return ret;
    for (uint64_t i = 0; i * RAM_SECTOR < size; i++) {
        uint64_t at = i * RAM_SECTOR, n = MIN(RAM_SECTOR, size - at);

        if (!written[i])
            continue;
        memcpy(ram.stable + at, data + at, n);
        if (!memcmp(ram.data + at, data + at, n))
            ram.volatile_sectors[i] = 0;
    }
    ram.stable_size = MAX(ram.stable_size, size);
    return 0;
}

static int co_fn ram_resize(BlockNode *node, uint64_t bytes, GError **error)
{
    int ret = ram_begin();

    if (ret < 0) {
        fail_errno(error, -ret, "resizing the disk in memory");
        return ret;
    }
    if (bytes < ram.size)
        memset(ram.data + bytes, 0, ram.size - bytes);
    ram.size = bytes;
    return 0;
}

static const BlockDriver ram_driver = {
    .name = "ram", .help = "a disk of a test", .is_protocol = true, .grows = true,
    .open = ram_open, .get_size = ram_get_size, .co_read = ram_read, .co_write = ram_write,
    .co_zero = ram_zero, .co_discard = ram_discard, .co_flush = ram_flush, .co_resize = ram_resize,
};
BLOCK_DRIVER(ram_driver)

static inline void ram_clear(void)
{
    memset(ram.data, 0, ram.size);
    memset(ram.stable, 0, MAX(ram.size, ram.stable_size));
    memset(ram.volatile_sectors, 0, sizeof(ram.volatile_sectors));
    ram.size = ram.stable_size = ram.requests = ram.fail_at = 0;
    ram.dead = false;
}

/* The disk as it may be after a power cut: any of the sectors not flushed are lost.  The file may be as
 * long as it was. */
static inline void ram_power_cut(GRand *rand)
{
    for (uint64_t i = 0; i * RAM_SECTOR < ram.size; i++) {
        if (ram.volatile_sectors[i] && g_rand_boolean(rand))
            memcpy(ram.data + i * RAM_SECTOR, ram.stable + i * RAM_SECTOR, RAM_SECTOR);
        ram.volatile_sectors[i] = 0;
    }
    memcpy(ram.stable, ram.data, ram.size);
    ram.stable_size = ram.size;
    ram.fail_at = 0;
    ram.dead = false;
}

/* An image on it. */

typedef struct RamCreate {
    BlockGraph *graph;
    json_object *options;
    GError *error;
} RamCreate;

static inline void co_fn ram_create_run(void *opaque)
{
    RamCreate *c = opaque;

    block_co_create(c->graph, c->options, &c->error);
}

/* @options: "driver=qcow2,file=mem,size=…" */
static inline void ram_create(TestRoot *t, const char *options)
{
    RamCreate c = { .graph = t->graph };

    test_open(t->graph, &c.error, "driver=ram,node-name=mem");
    assert_no_error(c.error);
    c.options = options_parse(options, "driver", &c.error);
    assert_no_error(c.error);
    co_run_sync(ram_create_run, &c);
    assert_no_error(c.error);
    json_object_put(c.options);
    block_node_delete(t->graph, "mem", &c.error);
    assert_no_error(c.error);
}

static inline BlockUser *ram_open_image(TestRoot *t, const char *more, GError **error)
{
    BlockNode *node = test_open(t->graph, error, "driver=qcow2,node-name=disk,discard=unmap,"
                                "pass-discard-other=on,file.driver=ram%s", more);

    return node ? qcow2_attach(node) : NULL;
}

typedef struct RamCheck {
    BlockNode *node;
    unsigned fix;
    BlockCheck result;
    GError *error;
    int ret;
} RamCheck;

static inline void ram_check_line(const char *line, void *opaque)
{
    if (!strncmp(line, "ERROR", 5))
        fprintf(stderr, "%s\n", line);
}

static inline void co_fn ram_check_run(void *opaque)
{
    RamCheck *c = opaque;

    c->ret = block_co_check(c->node, &c->result, c->fix, &c->error);
}

static inline BlockCheck ram_check(BlockNode *node, unsigned fix)
{
    RamCheck c = { .node = node, .fix = fix, .result = { .report = ram_check_line } };

    co_run_sync(ram_check_run, &c);
    assert_no_error(c.error);
    ck_assert_int_eq(c.ret, 0);
    return c.result;
}

/* How often to try, unless the environment says: VIREO_TEST_SEEDS. */
static inline unsigned test_seeds(unsigned fallback)
{
    const char *given = g_getenv("VIREO_TEST_SEEDS");

    return given ? atoi(given) : fallback;
}

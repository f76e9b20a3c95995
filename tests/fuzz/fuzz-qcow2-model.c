/* The model of a disk, and what may become of it when requests fail. */
#include "tests/fuzz/fuzz-qcow2.h"

uint8_t backing_byte(const World *w, uint64_t at)
{
    return w->with & WITH_BACKING ? ram.disks[DISK_BACKING].data[at] : 0;
}

/* Where nothing was written. */
void show_backing(World *w)
{
    if (w->with & WITH_BACKING)
        memcpy(w->models.now.bytes, ram.disks[DISK_BACKING].data,
               MIN(w->models.now.size, ram.disks[DISK_BACKING].size));
}

void forget_snapshots(Models *m)
{
    for (unsigned i = 0; i < SNAPSHOTS; i++)
        g_clear_pointer(&m->snapshots[i], g_free);
}

int co_fn read_disk(BlockUser *user, uint64_t offset, void *buffer, uint64_t bytes)
{
    struct iovec iov = { buffer, bytes };

    return block_co_read(user, offset, &iov, 1, bytes);
}

/* The range must read as the model has it. */
void co_fn compare(World *w, uint64_t offset, uint64_t bytes)
{
    static uint8_t buffer[MODEL_BYTES];
    int ret = read_disk(w->user, offset, buffer, bytes);

    REQUIRE(w, ret == 0 || ram.fail_at, "reading %" G_GUINT64_FORMAT " at %" G_GUINT64_FORMAT ": %s",
            bytes, offset, g_strerror(-ret));
    if (ret < 0 || !w->sound || !memcmp(buffer, w->models.now.bytes + offset, bytes))
        return;
    for (uint64_t i = 0; i < bytes; i++)
        if (buffer[i] != w->models.now.bytes[offset + i])
            fuzz_fail("byte %" G_GUINT64_FORMAT " is %02x, not %02x", offset + i, buffer[i],
                    w->models.now.bytes[offset + i]);
}

/* After a request that failed on purpose: what is there now is right. */
void co_fn adopt(World *w)
{
    Disk *now = &w->models.now;

    ram.fail_at = 0;
    w->failed = true;
    if (!w->sound)
        return;
    forget_snapshots(&w->models);
    now->size = block_node_size(block_user_node(w->user));
    if (now->size > MODEL_BYTES || read_disk(w->user, 0, now->bytes, now->size) < 0)
        fuzz_fail("the disk of %" G_GUINT64_FORMAT " bytes cannot be read after a failure", now->size);
}

/* Some work goes on without what failed: leaks are what it costs. */
void note_failure(World *w)
{
    if (!ram.fail_at || ram.requests < ram.fail_at)
        return;
    ram.fail_at = 0;
    w->failed = true;
}

/* False: it failed.  @may_fail: also when no request was made to. */
bool co_fn succeeded(World *w, int ret, bool may_fail, const char *what)
{
    if (ret == 0)
        return true;
    REQUIRE(w, ram.fail_at || may_fail, "%s: %s", what, g_strerror(-ret));
    if (ram.fail_at && ram.requests >= ram.fail_at)
        adopt(w);
    return false;
}

void co_fn compare_all(void *opaque)
{
    World *w = opaque;

    if (w->failed)
        adopt(w);
    REQUIRE(w, w->models.now.size == (uint64_t)block_node_size(block_user_node(w->user)),
            "the disk has %" G_GINT64_FORMAT " bytes", block_node_size(block_user_node(w->user)));
    if (w->sound)
        compare(w, 0, w->models.now.size);
}

/* The driver `ram`. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include "src/base/options.h"
#include "src/base/sched.h"
#include "src/base/util.h"
#include "tests/unit/ram-disk.h"

Ram ram;

static void __attribute__((constructor)) make_disks(void)
{
    for (unsigned i = 0; i < RAM_DISKS; i++) {
        ram.disks[i].data = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        g_assert_true(ram.disks[i].data != MAP_FAILED);
    }
}

static RamDisk *ram_disk(BlockNode *node)
{
    return &ram.disks[*(unsigned *)block_node_state(node)];
}

static bool ram_open(BlockNode *node, json_object *options, GError **error)
{
    uint64_t disk = 0;

    if (!options_get_u64(options, "disk", &disk, error))
        return false;
    json_object_object_del(options, "disk");
    if (disk >= RAM_DISKS)
        return fail(error, ERR_INVALID_PARAMETER, "there is no such disk");
    *(unsigned *)block_node_state(node) = disk;
    block_node_set_filename(node, "ram");
    return true;
}

static int64_t ram_get_size(BlockNode *node)
{
    return ram_disk(node)->size;
}

/* ---- the log ---- */

static bool logging(void)
{
    return ram.log && !ram.paused;
}

static void ram_log(RamWhat what, BlockNode *node, uint64_t offset, uint64_t bytes,
                           unsigned request)
{
    RamEntry entry = { .what = what, .disk = ram_disk(node) - ram.disks, .offset = offset,
                       .bytes = bytes, .request = request };

    if (!logging())
        return;
    if (what == RAM_WRITTEN)
        entry.data = g_memdup2(ram_disk(node)->data + offset, bytes);
    if (what == RAM_FLUSHED)
        entry.begun = request;
    g_array_append_val(ram.log, entry);
}

void ram_log_note(int a, int b, int c, int d)
{
    RamEntry entry = { .what = RAM_NOTE, .note = { a, b, c, d } };

    if (logging())
        g_array_append_val(ram.log, entry);
}

void ram_log_stop(void)
{
    for (unsigned i = 0; ram.log && i < ram.log->len; i++)
        g_free(g_array_index(ram.log, RamEntry, i).data);
    g_clear_pointer(&ram.log, g_array_unref);
    g_clear_pointer(&ram.ended, g_array_unref);
    ram.paused = false;
}

void ram_log_pause(void)
{
    ram.paused = true;
}

void ram_log_resume(void)
{
    ram.paused = false;
}

void ram_log_start(void)
{
    ram_log_stop();
    ram.log = g_array_new(FALSE, FALSE, sizeof(RamEntry));
    ram.ended = g_array_new(FALSE, FALSE, sizeof(unsigned));
}

/* ---- requests ---- */

/* Now and then a request is overtaken by many others.  *ret_request: its number in the log. */
static int co_fn ram_begin(const char *what, unsigned *ret_request)
{
    const unsigned never = UINT_MAX;

    for (unsigned n = sched_choose(3) + (sched_choose(16) == 15) * 60; n; n--)
        co_pause();
    if (ram.before)
        ram.before(what);
    if (logging()) {
        *ret_request = ram.ended->len;
        g_array_append_val(ram.ended, never);
    }
    ram.requests++;
    if (ram.fail_what && strcmp(ram.fail_what, what))
        return 0;
    if (ram.fail_at && (ram.requests == ram.fail_at || (ram.dead && ram.requests > ram.fail_at)))
        return -ram.fail_with;
    return 0;
}

static int ram_end(unsigned request, int ret)
{
    if (logging() && ret == 0)
        g_array_index(ram.ended, unsigned, request) = ram.log->len;
    return ret;
}

static int co_fn ram_read(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                          uint64_t bytes)
{
    unsigned request = 0;
    int ret = ram_begin("read", &request);

    if (ret == 0 && (offset > RAM_BYTES || bytes > RAM_BYTES - offset))
        ret = -EIO;
    for (int i = 0; ret == 0 && i < iovcnt; offset += iov[i++].iov_len)
        memcpy(iov[i].iov_base, ram_disk(node)->data + offset, iov[i].iov_len);
    return ram_end(request, ret);
}

static void ram_changed(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned request)
{
    ram_disk(node)->size = MAX(ram_disk(node)->size, offset + bytes);
    ram_log(RAM_WRITTEN, node, offset, bytes, request);
}

static int co_fn ram_write(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                           uint64_t bytes, unsigned flags)
{
    unsigned request = 0;
    int ret = ram_begin("write", &request);

    if (ret == 0 && (offset > RAM_BYTES || bytes > RAM_BYTES - offset))
        ret = -ENOSPC;
    for (int i = 0; ret == 0 && i < iovcnt; offset += iov[i++].iov_len) {
        if (i && sched_on())
            co_pause();
        memcpy(ram_disk(node)->data + offset, iov[i].iov_base, iov[i].iov_len);
        ram_changed(node, offset, iov[i].iov_len, request);
    }
    return ram_end(request, ret);
}

static int co_fn ram_fill(BlockNode *node, const char *what, uint8_t value, uint64_t offset,
                          uint64_t bytes)
{
    unsigned request = 0;
    int ret = ram_begin(what, &request);

    if (ret == 0 && (offset > RAM_BYTES || bytes > RAM_BYTES - offset))
        ret = -ENOSPC;
    if (ret == 0) {
        memset(ram_disk(node)->data + offset, value, bytes);
        ram_changed(node, offset, bytes, request);
    }
    return ram_end(request, ret);
}

static int co_fn ram_zero(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    return ram_fill(node, "zero", 0, offset, bytes);
}

/* What is discarded has any content: one that nobody wrote. */
static int co_fn ram_discard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    if (sched_on())
        co_pause();
    return ram_fill(node, "discard", 0xdd, offset, bytes);
}

/* Writes that end while it lasts may or may not be part of it: they are not. */
static int co_fn ram_flush(BlockNode *node)
{
    unsigned begun = logging() ? ram.log->len : 0, request = 0;
    int ret = ram_begin("flush", &request);

    if (ret == 0)
        ram_log(RAM_FLUSHED, node, 0, 0, begun);
    return ram_end(request, ret);
}

static int co_fn ram_resize(BlockNode *node, uint64_t bytes, GError **error)
{
    RamDisk *disk = ram_disk(node);
    unsigned request = 0;
    int ret = ram_begin("resize", &request);

    if (ret == 0 && bytes > RAM_BYTES)
        ret = -EFBIG;
    if (ret < 0) {
        fail_errno(error, -ret, "resizing the disk in memory");
        return ret;
    }
    if (bytes < disk->size)
        memset(disk->data + bytes, 0, disk->size - bytes);
    disk->size = bytes;
    ram_log(RAM_RESIZED, node, 0, bytes, request);
    return ram_end(request, 0);
}

static const char *const ram_options[] = { "disk", NULL };
static const BlockDriver ram_driver = {
    .name = "ram", .help = "a disk of a test", .size = sizeof(unsigned), .options = ram_options,
    .is_protocol = true, .grows = true,
    .open = ram_open, .get_size = ram_get_size, .co_read = ram_read, .co_write = ram_write,
    .co_zero = ram_zero, .co_discard = ram_discard, .co_flush = ram_flush, .co_resize = ram_resize,
};
BLOCK_DRIVER(ram_driver)

RamCopy ram_copy(unsigned disk)
{
    return (RamCopy){ g_memdup2(ram.disks[disk].data, ram.disks[disk].size), ram.disks[disk].size };
}

void ram_restore(const RamCopy *copy)
{
    ram_clear();
    memcpy(ram.disks[0].data, copy->data, copy->size);
    ram.disks[0].size = copy->size;
}

void ram_clear(void)
{
    for (unsigned i = 0; i < RAM_DISKS; i++) {
        memset(ram.disks[i].data, 0, ram.disks[i].size);
        ram.disks[i].size = 0;
    }
    ram_log_stop();
    ram.requests = ram.fail_at = 0;
    ram.dead = false;
    ram.fail_what = NULL;
    ram.before = NULL;
}

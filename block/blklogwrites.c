/*
 * blklogwrites: keeps a log of all writes to its file on another node, in the format of the Linux kernel's
 * dm-log-writes, so that a power cut at any point can be played through.
 *
 * The log: a super block, then for each request an entry of one sector and the data written.  A request
 * is logged when it is done: the log has them in an order in which the disk may have done them.
 */
#include "block/driver.h"
#include "block/iov.h"
#include "src/base/util.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MAGIC 0x6a736677736872ull
enum { LOG_VERSION = 1, LOG_FLUSH = 1, LOG_FUA = 2, LOG_DISCARD = 4 };
enum { ENTRY_BYTES = 32 };

typedef struct LogWrites {
    BlockNode *log;
    uint32_t sector;                       /* bytes */
    uint64_t update_interval;
    CoMutex lock;                          /* for what follows, and while the log is written */
    uint64_t next_sector, entries;
} LogWrites;

static const char *const log_options[] = { "file", "log", "log-sector-size", "log-append",
                                           "log-super-update-interval", NULL };

static int co_fn log_write(LogWrites *l, uint64_t offset, void *data, uint64_t bytes)
{
    struct iovec iov = { data, bytes };

    return block_node_co_write(l->log, offset, &iov, 1, bytes, 0);
}

static int co_fn write_super(LogWrites *l)
{
    g_autofree uint8_t *super = g_malloc0(l->sector);

    st_le64(super, LOG_MAGIC);
    st_le64(super + 8, LOG_VERSION);
    st_le64(super + 16, l->entries);
    st_le32(super + 24, l->sector);
    return log_write(l, 0, super, l->sector);
}

/* The end of an old log: from one entry to the next. */
static int co_fn find_end(LogWrites *l)
{
    uint8_t entry[ENTRY_BYTES];
    struct iovec iov = { entry, sizeof(entry) };

    l->next_sector = 1;
    for (uint64_t i = 0; i < l->entries; i++) {
        uint64_t sectors;
        int ret = block_node_co_read(l->log, l->next_sector * l->sector, &iov, 1, sizeof(entry));

        if (ret < 0)
            return ret;
        sectors = ld_le64(entry + 16) & LOG_DISCARD ? 0 : ld_le64(entry + 8);
        if (sectors > (uint64_t)block_node_size(l->log) / l->sector)
            return -EINVAL;
        l->next_sector += 1 + sectors;
    }
    return 0;
}

static bool co_fn read_old_log(LogWrites *l, GError **error)
{
    uint8_t super[ENTRY_BYTES];
    struct iovec iov = { super, sizeof(super) };
    int ret = block_node_co_read(l->log, 0, &iov, 1, sizeof(super));

    if (ret < 0)
        return fail_errno(error, -ret, "Could not read log superblock");
    if (ld_le64(super) != LOG_MAGIC || ld_le64(super + 8) != LOG_VERSION)
        return fail(error, ERR_CORRUPT, "the log has no superblock of dm-log-writes version 1");
    l->sector = ld_le32(super + 24);
    l->entries = ld_le64(super + 16);
    if (!is_power_of_2(l->sector) || l->sector < 512 || l->sector > 8 * MiB)
        return fail(error, ERR_CORRUPT, "the log has an invalid sector size %u", l->sector);
    ret = find_end(l);
    return ret == 0 || fail_errno(error, -ret, "Failed to find the end of the log");
}

static bool parse(LogWrites *l, json_object *options, bool *append, GError **error)
{
    uint64_t sector = 512;

    l->update_interval = 4096;
    if (!options_get_size(options, "log-sector-size", &sector, error) ||
        !options_get_bool(options, "log-append", append, error) ||
        !options_get_u64(options, "log-super-update-interval", &l->update_interval, error))
        return false;
    if (!is_power_of_2(sector) || sector < 512 || sector > 8 * MiB)
        return fail(error, ERR_INVALID_PARAMETER, "Invalid log sector size %" G_GUINT64_FORMAT, sector);
    if (*append && json_object_object_get_ex(options, "log-sector-size", NULL))
        return fail(error, ERR_INVALID_PARAMETER,
                    "log-append and log-sector-size are mutually exclusive");
    l->sector = sector;
    for (unsigned i = 2; log_options[i]; i++)
        json_object_object_del(options, log_options[i]);
    return true;
}

static bool co_fn log_open(BlockNode *node, json_object *options, GError **error)
{
    LogWrites *l = block_node_state(node);
    bool append = false;
    int ret;

    co_mutex_init(&l->lock);
    if (!parse(l, options, &append, error) ||
        !block_node_open_child(node, options, "file", true, error))
        return false;
    l->log = block_node_open_child(node, options, "log", true, error);
    if (!l->log)
        return false;
    if (append)
        return read_old_log(l, error);
    l->next_sector = 1;
    ret = write_super(l);
    return ret == 0 || fail_errno(error, -ret, "Could not write the log's superblock");
}

static void co_fn log_close(BlockNode *node)
{
    write_super(block_node_state(node));
}

static void log_child_perm(BlockNode *node, const char *key, unsigned *perm, unsigned *shared)
{
    if (strcmp(key, "log"))
        return;
    *perm = BLOCK_PERM_READ | BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE;
    *shared = BLOCK_PERM_READ;
}

static void log_child_changed(BlockNode *node, const char *key)
{
    LogWrites *l = block_node_state(node);

    if (!strcmp(key, "log"))
        l->log = block_node_child(node, "log");
}

static void log_limits(BlockNode *node, BlockLimits *limits)
{
    LogWrites *l = block_node_state(node);

    limits->request_alignment = MAX(limits->request_alignment, l->sector);
}

/* Under the lock. */
static int co_fn append_entry(LogWrites *l, uint64_t offset, uint64_t bytes, unsigned flags,
                              const struct iovec *iov, int iovcnt)
{
    uint64_t data = iov ? ALIGN_UP(bytes, l->sector) : 0;
    uint8_t *record = calloc(1, l->sector + data);
    int ret;

    if (!record)
        return -ENOMEM;
    st_le64(record, offset / l->sector);
    st_le64(record + 8, ALIGN_UP(bytes, l->sector) / l->sector);
    st_le64(record + 16, flags);
    if (iov)
        iov_to_buffer(iov, iovcnt, 0, record + l->sector, bytes);
    ret = log_write(l, l->next_sector * l->sector, record, l->sector + data);
    free(record);
    if (ret < 0)
        return ret;
    l->next_sector += 1 + data / l->sector;
    l->entries++;
    return flags & LOG_FLUSH || (l->update_interval && l->entries % l->update_interval == 0)
               ? write_super(l)
               : 0;
}

static int co_fn add_entry(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags,
                           const struct iovec *iov, int iovcnt)
{
    LogWrites *l = block_node_state(node);
    int ret;

    co_mutex_lock(&l->lock);
    ret = append_entry(l, offset, bytes, flags, iov, iovcnt);
    co_mutex_unlock(&l->lock);
    return ret;
}

static int co_fn log_co_write(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                              uint64_t bytes, unsigned flags)
{
    int ret = block_node_co_write(block_node_file(node), offset, iov, iovcnt, bytes, flags);

    return ret < 0 ? ret : add_entry(node, offset, bytes, flags & BLOCK_FUA ? LOG_FUA : 0, iov,
                                     iovcnt);
}

/* Zeroes are logged as data: the log has no other word for them. */
static int co_fn log_co_zero(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    g_autofree uint8_t *zeroes = g_malloc0(MIN(bytes, 1 * MiB));
    int ret = block_node_co_zero(block_node_file(node), offset, bytes, flags);

    for (uint64_t done = 0, n; ret == 0 && done < bytes; done += n) {
        struct iovec iov = { zeroes, n = MIN(bytes - done, 1 * MiB) };

        ret = add_entry(node, offset + done, n, 0, &iov, 1);
    }
    return ret;
}

static int co_fn log_co_discard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    int ret = block_node_co_discard(block_node_file(node), offset, bytes);

    return ret < 0 ? ret : add_entry(node, offset, bytes, LOG_DISCARD, NULL, 0);
}

static int co_fn log_co_flush(BlockNode *node)
{
    LogWrites *l = block_node_state(node);
    int ret = block_node_co_flush(block_node_file(node));

    if (ret == 0)
        ret = add_entry(node, 0, 0, LOG_FLUSH, NULL, 0);
    return ret < 0 ? ret : block_node_co_flush(l->log);
}

static const BlockDriver log_driver = {
    .name = "blklogwrites",
    .help = "keeps a log of all writes, as dm-log-writes",
    .size = sizeof(LogWrites),
    .options = log_options,
    .is_filter = true,
    .grows = true,
    .aligns = true,
    .write_flags = BLOCK_FUA,
    .open = log_open,
    .close = log_close,
    .child_perm = log_child_perm,
    .child_changed = log_child_changed,
    .limits = log_limits,
    .co_write = log_co_write,
    .co_zero = log_co_zero,
    .co_discard = log_co_discard,
    .co_flush = log_co_flush,
};
BLOCK_DRIVER(log_driver)

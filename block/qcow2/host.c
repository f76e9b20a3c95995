/* Reading and writing the image file: bounds, messages, overlap checks, corruption. */
#include "block/qcow2/qcow2.h"
#include "block/iov.h"
#include "src/object/event.h"
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define WARN_INTERVAL_NS (1000 * 1000 * 1000ll)

void *qcow2_memory(Qcow2 *s, uint64_t bytes)
{
    void *memory = NULL;

    return posix_memalign(&memory, 4096, MAX(bytes, 512)) ? NULL : memory;
}

/* Where nobody takes an error along, it is told here: at most once a second. */
static void tell(Qcow2 *s, GError **error, int ret, const char *verb, const char *what,
                 uint64_t offset)
{
    const char *name = block_node_filename(s->file);
    int64_t now = loop_clock_ns();
    bool quiet;

    if (error) {
        fail_errno(error, -ret, "'%s': %s the %s at offset 0x%" PRIx64 " failed", name, verb, what,
                   offset);
        return;
    }
    pthread_mutex_lock(&s->warn_mutex);
    quiet = s->warned_ns && now - s->warned_ns < WARN_INTERVAL_NS;
    if (!quiet)
        s->warned_ns = now;
    pthread_mutex_unlock(&s->warn_mutex);
    if (!quiet)
        warn_report("'%s': %s the %s at offset 0x%" PRIx64 " failed: %s", name, verb, what, offset,
                    g_strerror(-ret));
}

/* Past the end of the file there are zeroes: the last cluster need not be written to its end. */
static int co_fn read_host(BlockNode *file, uint64_t offset, const struct iovec *iov, int iovcnt,
                           uint64_t bytes)
{
    uint64_t size = block_node_size(file), there = offset < size ? MIN(bytes, size - offset) : 0;
    g_autofree struct iovec *part = NULL;
    int parts, ret;

    if (G_LIKELY(there == bytes))
        return block_node_co_read(file, offset, iov, iovcnt, bytes);
    if (there) {
        part = g_new(struct iovec, iovcnt);
        parts = iov_slice(part, iovcnt, iov, iovcnt, 0, &there);
        ret = block_node_co_read(file, offset, part, parts, there);
        if (ret < 0)
            return ret;
    }
    iov_zero(iov, iovcnt, there, bytes - there);
    return 0;
}

/* Makes a file longer that does not grow by being written to. */
static int co_fn grow_to(Qcow2 *s, BlockNode *file, uint64_t end)
{
    int ret = 0;

    co_mutex_lock(&s->grow_lock);
    if (end > (uint64_t)block_node_size(file))
        ret = block_node_co_resize(file, end, NULL);
    co_mutex_unlock(&s->grow_lock);
    return ret;
}

static int co_fn make_room(Qcow2 *s, BlockNode *file, uint64_t end)
{
    if (G_LIKELY(s->file_grows || end <= (uint64_t)block_node_size(file)))
        return 0;
    return grow_to(s, file, end);
}

int co_fn qcow2_meta_read(Qcow2 *s, uint64_t offset, void *buffer, uint64_t bytes, const char *what,
                          GError **error)
{
    struct iovec iov = { buffer, bytes };
    int ret = read_host(s->file, offset, &iov, 1, bytes);

    if (ret < 0)
        tell(s, error, ret, "reading", what, offset);
    return ret;
}

int co_fn qcow2_meta_writev(Qcow2 *s, uint64_t offset, const struct iovec *iov, int iovcnt,
                            uint64_t bytes, const char *what, unsigned own, GError **error)
{
    int ret = qcow2_check_overlap(s, own, offset, bytes);

    if (ret == 0)
        ret = make_room(s, s->file, offset + bytes);
    if (ret == 0)
        ret = block_node_co_write(s->file, offset, iov, iovcnt, bytes, 0);
    if (ret < 0)
        tell(s, error, ret, "writing", what, offset);
    return ret;
}

int co_fn qcow2_meta_write(Qcow2 *s, uint64_t offset, const void *buffer, uint64_t bytes,
                           const char *what, unsigned own, GError **error)
{
    struct iovec iov = { (void *)buffer, bytes };

    return qcow2_meta_writev(s, offset, &iov, 1, bytes, what, own, error);
}

int co_fn qcow2_flush_file(Qcow2 *s, GError **error)
{
    int ret;

    block_debug_event(s->file, "flush_to_disk");
    ret = block_node_co_flush(s->file);
    if (ret < 0)
        fail_errno(error, -ret, "flushing '%s' failed", block_node_filename(s->file));
    return ret;
}

int co_fn qcow2_data_read(Qcow2 *s, uint64_t offset, const struct iovec *iov, int iovcnt,
                          uint64_t bytes)
{
    return read_host(s->data_file, offset, iov, iovcnt, bytes);
}

int co_fn qcow2_data_write(Qcow2 *s, uint64_t offset, const struct iovec *iov, int iovcnt,
                           uint64_t bytes, unsigned flags)
{
    int ret = 0;

    if (!s->has_data_file && G_UNLIKELY(qcow2_overlap_hit(s, offset, bytes)))
        ret = qcow2_check_overlap(s, 0, offset, bytes);
    if (ret == 0)
        ret = make_room(s, s->data_file, offset + bytes);
    return ret == 0 ? block_node_co_write(s->data_file, offset, iov, iovcnt, bytes, flags) : ret;
}

/* The part of the range that lies past the end of the file is zeroes already, unless it must be there. */
int co_fn qcow2_host_zero(Qcow2 *s, BlockNode *file, uint64_t offset, uint64_t bytes)
{
    int ret = file == s->file ? qcow2_check_overlap(s, 0, offset, bytes) : 0;

    if (ret == 0)
        ret = make_room(s, file, offset + bytes);
    return ret == 0 ? block_node_co_zero(file, offset, bytes, BLOCK_MAY_UNMAP) : ret;
}

/* Corruption. */

static void emit_corrupted(Qcow2 *s, const char *message, uint64_t offset, uint64_t size, bool fatal)
{
    json_object *data = json_object_new_object();

    json_object_object_add(data, "device", json_object_new_string(""));
    json_object_object_add(data, "node-name", json_object_new_string(block_node_name(s->node)));
    json_object_object_add(data, "msg", json_object_new_string(message));
    if (offset != UINT64_MAX)
        json_object_object_add(data, "offset", json_object_new_int64(offset));
    if (size)
        json_object_object_add(data, "size", json_object_new_int64(size));
    json_object_object_add(data, "fatal", json_object_new_boolean(fatal));
    event_emit((Object *)block_node_graph(s->node), "BLOCK_IMAGE_CORRUPTED", data);
}

/* Past all checks: it is what a check found. */
static void co_fn set_corrupt_bit(Qcow2 *s)
{
    uint8_t *field = qcow2_memory(s, 8);
    struct iovec iov = { field, 8 };

    if (field && s->header.version >= 3) {
        s->header.incompatible |= QCOW2_INCOMPAT_CORRUPT;
        st_be64(field, s->header.incompatible);
        if (block_node_co_write(s->file, 72, &iov, 1, 8, 0) == 0)
            block_node_co_flush(s->file);
    }
    free(field);
}

int co_fn qcow2_corruption(Qcow2 *s, bool fatal, uint64_t offset, uint64_t size, const char *format,
                           ...)
{
    g_autofree char *message = NULL;
    va_list args;

    fatal = fatal && s->writable;
    if (__atomic_exchange_n(&s->corrupt, 1, __ATOMIC_SEQ_CST))
        return -EIO;                       /* told once */
    va_start(args, format);
    message = g_strdup_vprintf(format, args);
    va_end(args);
    warn_report("'%s': the image is corrupt: %s; %s", block_node_filename(s->node), message,
                fatal ? "it will not be written to any more" : "the request failed");
    if (fatal)
        set_corrupt_bit(s);
    emit_corrupted(s, message, offset, size, fatal);
    return -EIO;
}

int qcow2_may_write(Qcow2 *s)
{
    if (G_UNLIKELY(!s->writable))
        return -EPERM;
    return G_UNLIKELY(__atomic_load_n(&s->corrupt, __ATOMIC_RELAXED)) ? -EIO : 0;
}

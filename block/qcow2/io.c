/*
 * Reading and writing the disk's bytes.
 *
 * A request is cut where the kind of what is there changes.  Reads, and writes into clusters that are
 * there and ours alone, look the place up and go to the file at once; the rest is cow.c's.
 */
#include "block/qcow2/io.h"
#include "block/iov.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PIECES_AT_ONCE = 8 };

void qcow2_iov_part(Qcow2Iov *part, const struct iovec *iov, int iovcnt, uint64_t offset,
                    uint64_t bytes)
{
    part->parts = iovcnt <= (int)G_N_ELEMENTS(part->few) ? part->few
                                                          : g_new(struct iovec, iovcnt);
    part->n = iov_slice(part->parts, iovcnt, iov, iovcnt, offset, &bytes);
}

void qcow2_iov_clear(Qcow2Iov *part)
{
    if (part->parts != part->few)
        g_free(part->parts);
}

/* Encryption: in a worker, on a buffer of its own. */

typedef struct CryptCall {
    int (*fn)(void *opaque, uint64_t offset, uint8_t *data, size_t bytes);
    void *opaque;
    uint64_t offset;
    uint8_t *data;
    size_t bytes;
} CryptCall;

static int do_crypt(void *arg)
{
    CryptCall *call = arg;

    return call->fn(call->opaque, call->offset, call->data, call->bytes);
}

static int co_fn transform(Qcow2 *s, bool encrypt, uint64_t guest, uint64_t host, uint8_t *data,
                           uint64_t bytes)
{
    CryptCall call = { encrypt ? s->crypto.encrypt : s->crypto.decrypt, s->crypto.opaque,
                       s->crypto.by_guest_offset ? guest : host, data, bytes };

    return co_worker_call(do_crypt, &call);
}

int co_fn qcow2_read_normal(Qcow2 *s, uint64_t guest, uint64_t host, const struct iovec *iov,
                            int iovcnt, uint64_t bytes)
{
    uint8_t *buffer;
    int ret;

    block_debug_event(s->file, "read_aio");
    if (G_LIKELY(!s->crypto.decrypt))
        return qcow2_data_read(s, host, iov, iovcnt, bytes);
    buffer = qcow2_memory(s, bytes);
    if (!buffer)
        return -ENOMEM;
    ret = qcow2_data_read(s, host, &(struct iovec){ buffer, bytes }, 1, bytes);
    if (ret == 0)
        ret = transform(s, false, guest, host, buffer, bytes);
    if (ret == 0)
        iov_from_buffer(iov, iovcnt, 0, buffer, bytes);
    free(buffer);
    return ret;
}

int co_fn qcow2_write_normal(Qcow2 *s, uint64_t guest, uint64_t host, const struct iovec *iov,
                             int iovcnt, uint64_t bytes)
{
    uint8_t *buffer;
    int ret;

    block_debug_event(s->file, "write_aio");
    if (G_LIKELY(!s->crypto.encrypt))
        return qcow2_data_write(s, host, iov, iovcnt, bytes, 0);
    buffer = qcow2_memory(s, bytes);
    if (!buffer)
        return -ENOMEM;
    iov_to_buffer(iov, iovcnt, 0, buffer, bytes);
    ret = transform(s, true, guest, host, buffer, bytes);
    if (ret == 0)
        ret = qcow2_data_write(s, host, &(struct iovec){ buffer, bytes }, 1, bytes, 0);
    free(buffer);
    return ret;
}

/* Read. */

/* VM state lies past the end of the disk: the backing file has nothing to say about it. */
static int co_fn read_backing(Qcow2 *s, uint64_t guest, const struct iovec *iov, int iovcnt,
                              uint64_t bytes)
{
    BlockNode *backing = qcow2_backing(s);
    uint64_t end = backing ? MIN((uint64_t)block_node_size(backing), s->header.size) : 0, there;
    Qcow2Iov part;
    int ret;

    block_debug_event(s->file, "read_backing_aio");
    if (guest + bytes <= end)
        return block_node_co_read(backing, guest, iov, iovcnt, bytes);
    there = guest < end ? end - guest : 0;
    iov_zero(iov, iovcnt, there, bytes - there);
    if (!there)
        return 0;
    qcow2_iov_part(&part, iov, iovcnt, 0, there);
    ret = block_node_co_read(backing, guest, part.parts, part.n, there);
    qcow2_iov_clear(&part);
    return ret;
}

static int co_fn read_extent(Qcow2 *s, const Qcow2Extent *extent, uint64_t guest,
                             const struct iovec *iov, int iovcnt)
{
    switch (extent->kind) {
    case QCOW2_NORMAL:
        return qcow2_read_normal(s, guest, extent->host, iov, iovcnt, extent->bytes);
    case QCOW2_KIND_COMPRESSED:
        return qcow2_read_compressed(s, extent->entry, qcow2_offset_in_cluster(s, guest), iov,
                                     iovcnt, extent->bytes);
    case QCOW2_UNALLOCATED:
        return read_backing(s, guest, iov, iovcnt, extent->bytes);
    default:
        iov_zero(iov, iovcnt, 0, extent->bytes);
        return 0;
    }
}

typedef struct ReadPiece {
    Qcow2 *s;
    Qcow2Group *group;
    Qcow2Extent extent;
    uint64_t guest;
    Qcow2Iov iov;
} ReadPiece;

static void co_fn read_piece(void *opaque)
{
    ReadPiece *piece = opaque;
    int ret = read_extent(piece->s, &piece->extent, piece->guest, piece->iov.parts, piece->iov.n);

    qcow2_iov_clear(&piece->iov);
    qcow2_group_done(piece->group, ret);
    g_free(piece);
}

/* Extents are read side by side. */
static int co_fn read_pieces(Qcow2 *s, uint64_t guest, const struct iovec *iov, int iovcnt,
                             uint64_t bytes, const Qcow2Extent *first)
{
    Qcow2Group group = { .max = PIECES_AT_ONCE };
    Qcow2Extent extent = *first;
    int ret = 0, group_ret;

    for (uint64_t done = 0; ret == 0 && group.ret == 0 && done < bytes;) {
        ReadPiece *piece;

        if (done)
            ret = qcow2_map(s, guest + done, bytes - done, &extent);
        if (ret < 0)
            break;
        piece = g_new(ReadPiece, 1);
        *piece = (ReadPiece){ .s = s, .group = &group, .extent = extent, .guest = guest + done };
        qcow2_iov_part(&piece->iov, iov, iovcnt, done, extent.bytes);
        done += extent.bytes;
        qcow2_group_start(&group, read_piece, piece);
    }
    group_ret = qcow2_group_wait(&group);
    return ret < 0 ? ret : group_ret;
}

int co_fn qcow2_guest_read(Qcow2 *s, uint64_t guest, const struct iovec *iov, int iovcnt,
                           uint64_t bytes)
{
    Qcow2Extent extent;
    int ret = qcow2_map(s, guest, bytes, &extent);

    if (ret < 0)
        return ret;
    if (G_LIKELY(extent.bytes == bytes))
        return read_extent(s, &extent, guest, iov, iovcnt);
    return read_pieces(s, guest, iov, iovcnt, bytes, &extent);
}

/* Write. */

static int co_fn write_piece(Qcow2 *s, uint64_t guest, const struct iovec *iov, int iovcnt,
                             uint64_t bytes, uint64_t *ret_done)
{
    Qcow2Extent extent;
    Qcow2Iov part;
    int ret = qcow2_map(s, guest, bytes, &extent);

    if (ret < 0)
        return ret;
    if (extent.kind != QCOW2_NORMAL || !extent.copied)
        return qcow2_write_allocating(s, guest, iov, iovcnt, bytes, ret_done);
    *ret_done = extent.bytes;
    if (G_LIKELY(extent.bytes == bytes))
        return qcow2_write_normal(s, guest, extent.host, iov, iovcnt, bytes);
    qcow2_iov_part(&part, iov, iovcnt, 0, extent.bytes);
    ret = qcow2_write_normal(s, guest, extent.host, part.parts, part.n, extent.bytes);
    qcow2_iov_clear(&part);
    return ret;
}

int co_fn qcow2_guest_write(Qcow2 *s, uint64_t guest, const struct iovec *iov, int iovcnt,
                            uint64_t bytes)
{
    uint64_t done = 0;
    int ret = write_piece(s, guest, iov, iovcnt, bytes, &done);

    while (ret == 0 && done < bytes) {
        uint64_t n = 0;
        Qcow2Iov rest;

        qcow2_iov_part(&rest, iov, iovcnt, done, bytes - done);
        ret = write_piece(s, guest + done, rest.parts, rest.n, bytes - done, &n);
        qcow2_iov_clear(&rest);
        done += n;
    }
    return ret;
}

/*
 * Compressed clusters: raw deflate streams, or zstd frames, of one cluster each, packed at any byte of
 * the file.  Compression and decompression are worker threads' work, several clusters at once.
 */
#include "block/qcow2/io.h"
#include "block/iov.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

/* QEMU reads no stream with a larger window (a negative number means: without zlib's header). */
enum { WINDOW_BITS = -12, MEMORY_LEVEL = 9, CLUSTERS_AT_ONCE = 16 };

typedef struct PackCall {
    bool zstd;
    const uint8_t *from;
    size_t from_bytes;
    uint8_t *to;
    size_t to_bytes;                       /* room; then what was used */
} PackCall;

/* Packing.  -ENOSPC: does not become smaller than the room. */

static int deflate_cluster(PackCall *call)
{
    z_stream stream = { .next_in = (Bytef *)call->from, .avail_in = call->from_bytes,
                        .next_out = call->to, .avail_out = call->to_bytes };
    int ret;

    if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, WINDOW_BITS, MEMORY_LEVEL,
                     Z_DEFAULT_STRATEGY) != Z_OK)
        return -ENOMEM;
    ret = deflate(&stream, Z_FINISH);
    call->to_bytes = stream.total_out;
    deflateEnd(&stream);
    return ret == Z_STREAM_END ? 0 : -ENOSPC;
}

static int zstd_cluster(PackCall *call)
{
    size_t n = ZSTD_compress(call->to, call->to_bytes, call->from, call->from_bytes,
                             ZSTD_CLEVEL_DEFAULT);

    if (ZSTD_isError(n))
        return ZSTD_getErrorCode(n) == ZSTD_error_dstSize_tooSmall ? -ENOSPC : -EIO;
    call->to_bytes = n;
    return 0;
}

static int do_pack(void *arg)
{
    PackCall *call = arg;

    return call->zstd ? zstd_cluster(call) : deflate_cluster(call);
}

/* Unpacking: a whole cluster must come out; what follows the stream in its last sector is not ours. */

static int inflate_cluster(PackCall *call)
{
    z_stream stream = { .next_in = (Bytef *)call->from, .avail_in = call->from_bytes,
                        .next_out = call->to, .avail_out = call->to_bytes };
    int ret;

    if (inflateInit2(&stream, WINDOW_BITS) != Z_OK)
        return -ENOMEM;
    ret = inflate(&stream, Z_FINISH);
    inflateEnd(&stream);
    /* Z_BUF_ERROR: the output is full before the stream's end mark was read. */
    return (ret == Z_STREAM_END || ret == Z_BUF_ERROR) && !stream.avail_out ? 0 : -EIO;
}

static int unzstd_cluster(PackCall *call)
{
    ZSTD_inBuffer in = { call->from, call->from_bytes, 0 };
    ZSTD_outBuffer out = { call->to, call->to_bytes, 0 };
    ZSTD_DCtx *context = ZSTD_createDCtx();
    size_t left = 1;

    if (!context)
        return -ENOMEM;
    while (out.pos < out.size && left) {
        size_t before = in.pos + out.pos;

        left = ZSTD_decompressStream(context, &out, &in);
        if (ZSTD_isError(left) || in.pos + out.pos == before)
            break;
    }
    ZSTD_freeDCtx(context);
    return out.pos == out.size ? 0 : -EIO;
}

static int do_unpack(void *arg)
{
    PackCall *call = arg;

    return call->zstd ? unzstd_cluster(call) : inflate_cluster(call);
}

/* Read. */

static int co_fn unpack(Qcow2 *s, uint64_t offset, uint64_t bytes, uint8_t *packed, uint8_t *cluster)
{
    PackCall call = { s->header.compression_type == QCOW2_COMPRESSION_ZSTD, packed, bytes, cluster,
                      s->cluster_size };
    int ret;

    block_debug_event(s->file, "read_compressed");
    ret = qcow2_data_read(s, offset, &(struct iovec){ packed, bytes }, 1, bytes);
    return ret == 0 ? co_worker_call(do_unpack, &call) : ret;
}

int co_fn qcow2_read_compressed(Qcow2 *s, uint64_t entry, uint64_t in_cluster,
                                const struct iovec *iov, int iovcnt, uint64_t bytes)
{
    uint8_t *packed, *cluster;
    uint64_t offset, packed_bytes;
    int ret = -ENOMEM;

    qcow2_compressed_place(s, entry, &offset, &packed_bytes);
    packed = qcow2_memory(s, packed_bytes);
    cluster = qcow2_memory(s, s->cluster_size);
    if (packed && cluster)
        ret = unpack(s, offset, packed_bytes, packed, cluster);
    if (ret == 0)
        iov_from_buffer(iov, iovcnt, 0, cluster + in_cluster, bytes);
    free(packed);
    free(cluster);
    return ret;
}

/* Write. */

static uint64_t make_entry(const Qcow2 *s, uint64_t offset, uint64_t bytes)
{
    uint64_t more_sectors = (offset + bytes - 1) / 512 - offset / 512;

    return QCOW2_COMPRESSED | offset | more_sectors << (62 - (s->cluster_bits - 8));
}

static int co_fn link_compressed(Qcow2 *s, uint64_t guest, uint64_t entry)
{
    Qcow2Slice *slice;
    uint64_t old;
    int ret = 0;

    block_debug_event(s->file, "l2_update_compressed");
    slice = qcow2_l2_for_write(s, guest, &ret);
    if (!slice)
        return ret;
    old = qcow2_l2_entry(s, slice, guest);
    qcow2_l2_set(s, slice, guest, entry, 0);
    qcow2_free_entry(s, old, QCOW2_DISCARD_OTHER);
    qcow2_cache_put(&s->l2_cache, slice, true);
    return 0;
}

/* In the cluster's range lock.  What is there already must be sound before it is freed. */
static int co_fn store(Qcow2 *s, uint64_t guest, uint8_t *packed, uint64_t bytes)
{
    Qcow2Extent extent;
    int64_t offset;
    int ret = qcow2_map(s, guest, s->cluster_size, &extent);

    if (ret < 0)
        return ret;
    offset = qcow2_alloc_bytes(s, bytes);
    if (offset < 0)
        return offset;
    block_debug_event(s->file, "write_compressed");
    ret = qcow2_data_write(s, offset, &(struct iovec){ packed, bytes }, 1, bytes, 0);
    if (ret == 0)
        ret = link_compressed(s, guest, make_entry(s, offset, bytes));
    if (ret < 0)
        qcow2_free_now(s, offset, bytes);
    return ret;
}

static int co_fn store_locked(Qcow2 *s, uint64_t guest, uint8_t *packed, uint64_t bytes)
{
    Qcow2Range range;
    int ret;

    qcow2_range_lock(s, &range, guest >> s->cluster_bits, (guest >> s->cluster_bits) + 1);
    ret = store(s, guest, packed, bytes);
    qcow2_range_unlock(s, &range);
    return ret;
}

/* @bytes: less than a cluster at the end of the disk. */
static int co_fn write_cluster(Qcow2 *s, uint64_t guest, const uint8_t *cluster, uint64_t bytes)
{
    uint8_t *packed = qcow2_memory(s, s->cluster_size);
    PackCall call = { s->header.compression_type == QCOW2_COMPRESSION_ZSTD, cluster,
                      s->cluster_size, packed, s->cluster_size - 1 };
    int ret = packed ? co_worker_call(do_pack, &call) : -ENOMEM;

    if (ret == 0)
        ret = store_locked(s, guest, packed, call.to_bytes);
    else if (ret == -ENOSPC)
        ret = qcow2_guest_write(s, guest, &(struct iovec){ (void *)cluster, bytes }, 1, bytes);
    free(packed);
    return ret;
}

typedef struct ClusterWrite {
    Qcow2 *s;
    Qcow2Group *group;
    uint64_t guest, bytes;
    uint8_t *cluster;
} ClusterWrite;

static void co_fn write_cluster_run(void *opaque)
{
    ClusterWrite *w = opaque;
    int ret = write_cluster(w->s, w->guest, w->cluster, w->bytes);

    free(w->cluster);
    qcow2_group_done(w->group, ret);
    g_free(w);
}

int co_fn qcow2_write_compressed(Qcow2 *s, uint64_t guest, const struct iovec *iov, int iovcnt,
                                 uint64_t bytes)
{
    Qcow2Group group = { .max = CLUSTERS_AT_ONCE };

    if (s->has_data_file || s->crypto.encrypt)
        return -ENOTSUP;
    if (qcow2_offset_in_cluster(s, guest) ||
        (qcow2_offset_in_cluster(s, bytes) && guest + bytes != s->header.size))
        return -EINVAL;
    for (uint64_t done = 0, n; done < bytes && group.ret == 0; done += n) {
        ClusterWrite *w = g_new(ClusterWrite, 1);

        n = MIN(bytes - done, s->cluster_size);
        *w = (ClusterWrite){ s, &group, guest + done, n, qcow2_memory(s, s->cluster_size) };
        if (!w->cluster) {
            g_free(w);
            group.ret = -ENOMEM;
            break;
        }
        iov_to_buffer(iov, iovcnt, done, w->cluster, n);
        memset(w->cluster + n, 0, s->cluster_size - n);
        qcow2_group_start(&group, write_cluster_run, w);
    }
    return qcow2_group_wait(&group);
}

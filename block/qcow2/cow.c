/*
 * Writes that change the mapping: into new clusters, into zero clusters that have a place, and into
 * subclusters that are not there yet.
 *
 * The guest clusters concerned are kept from others that change them; what the request leaves of its
 * first and last cluster (or subcluster) is filled with what it read as before.  Data and filling are one
 * write where they touch.  Only when that is written the L2 entries change, so that nobody sees
 * less, and a crash leaves what was there before.
 */
#include "block/qcow2/io.h"
#include "block/iov.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Zeroes that are longer are not written but asked of the file (fallocate). */
#define ZEROES_WRITTEN_MAX (128 * KiB)
enum { CLUSTERS_MAX = 256 };               /* of one allocation */

typedef struct Alloc {
    uint64_t guest, end;                   /* the data: shortened to what was allocated */
    uint64_t first;                        /* guest offset of the first cluster */
    uint64_t n;                            /* clusters */
    bool reuse;                            /* they have a place */
    bool fresh;                            /* which is new and reads as zeroes */
    uint64_t host;                         /* of the first cluster */
    uint64_t from, to;                     /* guest: what is written, filling included */
} Alloc;

/* Which clusters. */

typedef enum Class { IN_PLACE, REUSE, NEW } Class;

/* Whether the subclusters that the data touches are all there. */
static bool all_there(const Qcow2 *s, uint64_t bitmap, uint64_t from, uint64_t to)
{
    unsigned first = qcow2_offset_in_cluster(s, from) >> s->subcluster_bits;
    unsigned last = qcow2_offset_in_cluster(s, to - 1) >> s->subcluster_bits;
    uint32_t mask = (uint32_t)((2ull << last) - (1ull << first));

    return ((uint32_t)bitmap & mask) == mask;
}

static Class classify(const Qcow2 *s, const Qcow2Slice *slice, const Alloc *a, uint64_t cluster,
                      uint64_t *ret_host)
{
    uint64_t entry = qcow2_l2_entry(s, slice, cluster), bitmap;

    if (qcow2_kind(s, entry, 0, 0) == QCOW2_INVALID)
        return IN_PLACE;                   /* looked up again, and told there */
    if (entry & QCOW2_COMPRESSED || !(entry & QCOW2_COPIED) ||
        !qcow2_entry_host(s, entry, ret_host))
        return NEW;
    if (!s->extended_l2)
        return entry & QCOW2_ZERO ? REUSE : IN_PLACE;
    bitmap = qcow2_l2_bitmap(s, slice, cluster);
    return all_there(s, bitmap, MAX(cluster, a->guest), MIN(cluster + s->cluster_size, a->end))
               ? IN_PLACE : REUSE;
}

/* The row of clusters from the first on that are of one class.  a->n 0: the first is in place. */
static int co_fn choose_row(Qcow2 *s, Alloc *a)
{
    uint64_t slice_end = (a->first | ((1ull << qcow2_slice_cover_bits(s)) - 1)) + 1;
    uint64_t end = MIN(a->end, slice_end), host = 0;
    Qcow2Slice *slice;
    int ret = 0;

    slice = qcow2_l2_for_write(s, a->first, &ret);
    if (!slice)
        return ret;
    a->n = 0;
    for (uint64_t at = a->first; at < end && a->n < CLUSTERS_MAX; at += s->cluster_size, a->n++) {
        Class class = classify(s, slice, a, at, &host);

        if (a->n == 0) {
            a->reuse = class == REUSE;
            a->host = host;
        }
        if (class == IN_PLACE || (class == REUSE) != a->reuse ||
            (a->reuse && host != a->host + (a->n << s->cluster_bits)))
            break;
    }
    qcow2_cache_put(&s->l2_cache, slice, false);
    return 0;
}

static int co_fn allocate(Qcow2 *s, Alloc *a)
{
    int64_t host;

    if (a->reuse)
        return 0;
    if (s->has_data_file) {
        a->host = a->first;                /* as QEMU places them, and as data_file_raw wants them */
        return 0;
    }
    host = qcow2_alloc_run(s, a->n, &a->n, &a->fresh);
    if (host < 0)
        return host;
    a->host = host;
    return 0;
}

/* What is to be filled. */

/* A cluster that is replaced takes along all that it has itself. */
static void include_old(const Qcow2 *s, uint64_t entry, uint64_t bitmap, uint64_t cluster, Alloc *a)
{
    uint32_t there = bitmap;

    if (entry & QCOW2_COMPRESSED)
        there = UINT32_MAX;
    if (!there)
        return;
    a->from = MIN(a->from, cluster + ((uint64_t)__builtin_ctz(there) << s->subcluster_bits));
    a->to = MAX(a->to, cluster + ((uint64_t)(32 - __builtin_clz(there)) << s->subcluster_bits));
}

/* In a cluster that stays, only subclusters that are not there are filled. */
static void exclude_there(const Qcow2 *s, uint64_t first_bitmap, uint64_t last_bitmap, Alloc *a)
{
    unsigned first = qcow2_offset_in_cluster(s, a->from) >> s->subcluster_bits;
    unsigned last = qcow2_offset_in_cluster(s, a->to - 1) >> s->subcluster_bits;

    if (first_bitmap >> first & 1)
        a->from = a->guest;
    if (last_bitmap >> last & 1)
        a->to = a->end;
}

static int co_fn plan_filling(Qcow2 *s, Alloc *a)
{
    uint64_t unit = 1ull << s->subcluster_bits, last = a->first + ((a->n - 1) << s->cluster_bits);
    uint64_t entry[2], bitmap[2];
    Qcow2Slice *slice;
    int ret = 0;

    a->end = MIN(a->end, last + s->cluster_size);
    a->from = ALIGN_DOWN(a->guest, unit);
    a->to = ALIGN_UP(a->end, unit);
    if (!s->extended_l2)
        return 0;
    slice = qcow2_l2_for_write(s, a->first, &ret);
    if (!slice)
        return ret;
    for (int i = 0; i < 2; i++) {
        entry[i] = qcow2_l2_entry(s, slice, i ? last : a->first);
        bitmap[i] = qcow2_l2_bitmap(s, slice, i ? last : a->first);
    }
    qcow2_cache_put(&s->l2_cache, slice, false);
    if (a->reuse) {
        exclude_there(s, bitmap[0], bitmap[1], a);
    } else {
        include_old(s, entry[0], bitmap[0], a->first, a);
        include_old(s, entry[1], bitmap[1], last, a);
    }
    return 0;
}

int co_fn qcow2_reads_as_zeroes(Qcow2 *s, uint64_t guest, uint64_t bytes, bool *ret)
{
    BlockNode *backing = qcow2_backing(s);
    uint64_t backed = backing ? MIN((uint64_t)block_node_size(backing), s->header.size) : 0;
    Qcow2Extent extent;

    *ret = false;
    for (uint64_t done = 0; done < bytes; done += extent.bytes) {
        int err = qcow2_map(s, guest + done, bytes - done, &extent);

        if (err < 0)
            return err;
        if (extent.kind == QCOW2_NORMAL || extent.kind == QCOW2_KIND_COMPRESSED ||
            (extent.kind == QCOW2_UNALLOCATED && guest + done < backed))
            return 0;
    }
    *ret = true;
    return 0;
}

/* Writing. */

typedef struct Filling {
    uint64_t bytes;
    uint8_t *buffer;                       /* NULL: nothing to be written here */
} Filling;

/* Zeroes need not be written where there are zeroes.  Long ones in a cluster that was used before are
 * asked of the file. */
static int co_fn fill_with_zeroes(Qcow2 *s, const Alloc *a, uint64_t guest, Filling *f)
{
    if (a->fresh)
        return 0;
    if (f->bytes > ZEROES_WRITTEN_MAX && !s->crypto.encrypt)
        return qcow2_host_zero(s, s->data_file, a->host + (guest - a->first), f->bytes);
    f->buffer = qcow2_memory(s, f->bytes);
    if (!f->buffer)
        return -ENOMEM;
    memset(f->buffer, 0, f->bytes);
    return 0;
}

static int co_fn prepare_filling(Qcow2 *s, const Alloc *a, uint64_t guest, uint64_t bytes,
                                 Filling *f)
{
    bool zeroes;
    int ret;

    *f = (Filling){ .bytes = bytes };
    if (!bytes)
        return 0;
    ret = qcow2_reads_as_zeroes(s, guest, bytes, &zeroes);
    if (ret < 0)
        return ret;
    if (zeroes && !(s->crypto.encrypt && a->fresh))
        return fill_with_zeroes(s, a, guest, f);
    f->buffer = qcow2_memory(s, bytes);
    if (!f->buffer)
        return -ENOMEM;
    block_debug_event(s->file, "cow_read");
    return qcow2_guest_read(s, guest, &(struct iovec){ f->buffer, bytes }, 1, bytes);
}

typedef struct FillRun {
    Qcow2 *s;
    const Alloc *a;
    uint64_t guest, bytes;
    Filling *filling;
    Qcow2Group *group;
} FillRun;

static void co_fn fill_run(void *opaque)
{
    FillRun *run = opaque;

    qcow2_group_done(run->group,
                     prepare_filling(run->s, run->a, run->guest, run->bytes, run->filling));
}

/* Both ends are read side by side. */
static int co_fn prepare_fillings(Qcow2 *s, const Alloc *a, Filling fill[2])
{
    Qcow2Group group = { .max = 2 };
    FillRun runs[2] = { { s, a, a->from, a->guest - a->from, &fill[0], &group },
                        { s, a, a->end, a->to - a->end, &fill[1], &group } };

    if (!runs[0].bytes || !runs[1].bytes || a->fresh) {
        int ret = prepare_filling(s, a, runs[0].guest, runs[0].bytes, &fill[0]);

        return ret == 0 ? prepare_filling(s, a, runs[1].guest, runs[1].bytes, &fill[1]) : ret;
    }
    for (int i = 0; i < 2; i++)
        qcow2_group_start(&group, fill_run, &runs[i]);
    return qcow2_group_wait(&group);
}

static int co_fn write_with_fillings(Qcow2 *s, const Alloc *a, const struct iovec *iov, int iovcnt,
                                     const Filling fill[2])
{
    g_autofree struct iovec *all = g_new(struct iovec, iovcnt + 2);
    uint64_t guest = a->guest, bytes = a->end - a->guest, length = bytes;
    int n = 0;

    if (fill[0].buffer) {
        all[n++] = (struct iovec){ fill[0].buffer, fill[0].bytes };
        guest -= fill[0].bytes;
        length += fill[0].bytes;
    }
    n += iov_slice(all + n, iovcnt, iov, iovcnt, 0, &bytes);
    if (fill[1].buffer) {
        all[n++] = (struct iovec){ fill[1].buffer, fill[1].bytes };
        length += fill[1].bytes;
    }
    if (fill[0].buffer || fill[1].buffer)
        block_debug_event(s->file, "cow_write");
    return qcow2_write_normal(s, guest, a->host + (guest - a->first), all, n, length);
}

static int co_fn write_data(Qcow2 *s, const Alloc *a, const struct iovec *iov, int iovcnt)
{
    Filling fill[2] = { { 0 } };
    int ret = prepare_fillings(s, a, fill);

    if (ret == 0)
        ret = write_with_fillings(s, a, iov, iovcnt, fill);
    free(fill[0].buffer);
    free(fill[1].buffer);
    return ret;
}

/* The new mapping. */

/* Subclusters that were written are there; the others stay what they were. */
static uint64_t new_bitmap(const Qcow2 *s, const Alloc *a, uint64_t cluster, uint64_t entry,
                           uint64_t bitmap)
{
    uint64_t from = MAX(a->from, cluster), to = MIN(a->to, cluster + s->cluster_size);
    unsigned first = (from - cluster) >> s->subcluster_bits;
    unsigned last = (to - cluster - 1) >> s->subcluster_bits;
    uint64_t written = (uint32_t)((2ull << last) - (1ull << first));

    if (entry & QCOW2_COMPRESSED)
        bitmap = 0;
    return (bitmap | written) & ~(written << 32);
}

static int co_fn link_clusters(Qcow2 *s, const Alloc *a)
{
    Qcow2Slice *slice;
    int ret = 0;

    slice = qcow2_l2_for_write(s, a->first, &ret);
    if (!slice)
        return ret;
    for (uint64_t i = 0; i < a->n; i++) {
        uint64_t guest = a->first + (i << s->cluster_bits);
        uint64_t entry = qcow2_l2_entry(s, slice, guest);
        uint64_t bitmap = s->extended_l2 ? new_bitmap(s, a, guest, entry,
                                                      qcow2_l2_bitmap(s, slice, guest)) : 0;

        qcow2_l2_set(s, slice, guest, (a->host + (i << s->cluster_bits)) | QCOW2_COPIED, bitmap);
        if (!a->reuse)
            qcow2_free_entry(s, entry, QCOW2_DISCARD_OTHER);
    }
    qcow2_cache_put(&s->l2_cache, slice, true);
    return 0;
}

/* In the range's lock. */
static int co_fn write_alloc(Qcow2 *s, Alloc *a, const struct iovec *iov, int iovcnt)
{
    int ret = choose_row(s, a);

    if (ret < 0 || !a->n)
        return ret;
    ret = allocate(s, a);
    if (ret < 0)
        return ret;
    ret = plan_filling(s, a);
    if (ret == 0)
        ret = write_data(s, a, iov, iovcnt);
    if (ret == 0)
        ret = link_clusters(s, a);
    if (ret < 0 && !a->reuse && !s->has_data_file)
        qcow2_free_now(s, a->host, a->n << s->cluster_bits);
    return ret;
}

int co_fn qcow2_write_allocating(Qcow2 *s, uint64_t guest, const struct iovec *iov, int iovcnt,
                                 uint64_t bytes, uint64_t *ret_done)
{
    Alloc a = { .guest = guest, .end = guest + bytes,
                .first = ALIGN_DOWN(guest, s->cluster_size) };
    uint64_t reach = MIN(a.end, a.first + CLUSTERS_MAX * s->cluster_size);
    Qcow2Range range;
    int ret;

    qcow2_range_lock(s, &range, a.first >> s->cluster_bits, qcow2_clusters(s, reach));
    ret = write_alloc(s, &a, iov, iovcnt);
    qcow2_range_unlock(s, &range);
    *ret_done = ret == 0 && a.n ? a.end - guest : 0;
    return ret;
}

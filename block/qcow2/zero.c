/*
 * Zeroing and discarding: changes of L2 entries only.  What they no longer refer to is freed when that
 * is on stable storage.  Parts of clusters (or subclusters) are written as zeroes, or left by a discard.
 */
#include "block/qcow2/io.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ALL_ZERO 0xffffffff00000000ull     /* an extended entry's bitmap: all subclusters are zero */

/* One cluster's change. */
typedef struct Change {
    Qcow2Discard kind;
    bool zero;                             /* to be zero, else to be discarded */
    bool unmap;                            /* its place is freed, if it has one */
    bool unref;                            /* discard: shows the backing file again */
    bool keep_place;                       /* discard-no-unref */
} Change;

/* Host bytes whose contents may go while the mapping stays or the space cannot be another's. */
typedef struct Holes {
    uint64_t offset, bytes;
} Holes;

/* A discarded area reads as zeroes from version 3 on: unless it did so before. */
static bool needs_change(const Qcow2 *s, const Change *c, uint64_t entry, uint64_t bitmap,
                         bool backed)
{
    uint64_t host;
    bool has_host = qcow2_entry_host(s, entry, &host), has_data;

    if (entry & QCOW2_COMPRESSED)
        return true;
    has_data = s->extended_l2 ? (uint32_t)bitmap : has_host && !(entry & QCOW2_ZERO);
    if (c->unref)
        return entry || bitmap;
    if (has_data || (has_host && c->unmap && !c->keep_place))
        return true;
    return (c->zero || backed) && (s->extended_l2 ? bitmap != ALL_ZERO : !(entry & QCOW2_ZERO));
}

static void new_entry(const Qcow2 *s, const Change *c, uint64_t entry, uint64_t *ret_entry,
                      uint64_t *ret_bitmap)
{
    bool drop = entry & QCOW2_COMPRESSED || (c->unmap && !c->keep_place) || c->unref;

    *ret_entry = drop ? 0 : entry & ~QCOW2_ZERO;
    *ret_bitmap = 0;
    if (c->unref || s->header.version < 3)
        return;
    if (s->extended_l2)
        *ret_bitmap = ALL_ZERO;
    else
        *ret_entry |= QCOW2_ZERO;
}

/* Whether the space of what the entry refers to is to be given back at once: where it cannot become
 * anything else's. */
static bool makes_hole(const Qcow2 *s, const Change *c, uint64_t entry, uint64_t *ret_host)
{
    if (entry & QCOW2_COMPRESSED || !c->unmap || !s->discard_passes[c->kind] ||
        !qcow2_entry_host(s, entry, ret_host))
        return false;
    if (c->zero && s->data_file_raw)
        return false;                      /* it has the zeroes that its other readers expect */
    return s->has_data_file || (c->keep_place && entry & QCOW2_COPIED);
}

static void add_hole(GArray **holes, uint64_t offset, uint64_t bytes)
{
    Holes *last, hole = { offset, bytes };

    if (!*holes)
        *holes = g_array_new(FALSE, FALSE, sizeof(Holes));
    last = (*holes)->len ? &g_array_index(*holes, Holes, (*holes)->len - 1) : NULL;
    if (last && last->offset + last->bytes == offset)
        last->bytes += bytes;
    else
        g_array_append_val(*holes, hole);
}

/* The slice is locked.  False: nothing was changed; *invalid: the entry is corrupt. */
static bool change_cluster(Qcow2 *s, const Change *c, Qcow2Slice *slice, uint64_t guest,
                           bool backed, GArray **holes)
{
    uint64_t entry = qcow2_l2_entry(s, slice, guest), bitmap = qcow2_l2_bitmap(s, slice, guest);
    uint64_t host, to, to_bitmap;

    if (!needs_change(s, c, entry, bitmap, backed))
        return false;
    new_entry(s, c, entry, &to, &to_bitmap);
    qcow2_l2_set(s, slice, guest, to, to_bitmap);
    if (makes_hole(s, c, entry, &host))
        add_hole(holes, host, s->cluster_size);
    if (to >> 1 == 0)                      /* it has no place any more */
        qcow2_free_entry(s, entry, c->kind);
    return true;
}

static void co_fn punch(Qcow2 *s, GArray *holes)
{
    for (unsigned i = 0; holes && i < holes->len; i++) {
        Holes *hole = &g_array_index(holes, Holes, i);
        uint64_t size = block_node_size(s->data_file);

        if (hole->offset < size)
            block_node_co_discard(s->data_file, hole->offset, MIN(hole->bytes, size - hole->offset));
    }
    if (holes)
        g_array_free(holes, TRUE);
}

/* All of [guest, end) is within one slice, and in the caller's range lock. */
static int co_fn change_slice(Qcow2 *s, const Change *c, uint64_t guest, uint64_t end)
{
    bool backed = qcow2_backing(s) != NULL, dirty = false;
    GArray *holes = NULL;
    Qcow2Slice *slice;
    int ret = 0;

    slice = qcow2_l2_for_write(s, guest, &ret);
    if (!slice)
        return ret;
    for (; guest < end; guest += s->cluster_size) {
        if (qcow2_kind(s, qcow2_l2_entry(s, slice, guest), 0, 0) == QCOW2_INVALID) {
            ret = -EIO;
            break;
        }
        dirty |= change_cluster(s, c, slice, guest, backed, &holes);
    }
    qcow2_cache_put(&s->l2_cache, slice, dirty);
    /* A request that writes to one of these from now on waits for our range. */
    punch(s, holes);
    if (ret < 0) {
        Qcow2Extent extent;

        ret = qcow2_map(s, guest, s->cluster_size, &extent);   /* tells what is wrong */
    }
    return ret;
}

/* Whether there is nothing to be changed: no table, and what is below is as it should be. */
static int co_fn nothing_there(Qcow2 *s, const Change *c, uint64_t guest, uint64_t bytes,
                               uint64_t *ret_bytes)
{
    Qcow2Extent extent;
    uint64_t table;
    bool copied;
    int ret = qcow2_l1_table(s, guest >> qcow2_l2_cover_bits(s), &table, &copied);

    *ret_bytes = 0;
    if (ret < 0 || table || (c->zero && s->header.version >= 3) ||
        (qcow2_backing(s) && !c->unref))
        return ret;
    ret = qcow2_map(s, guest, bytes, &extent);
    *ret_bytes = extent.bytes;
    return ret;
}

/* Whole clusters. */
static int co_fn change_clusters(Qcow2 *s, const Change *c, uint64_t guest, uint64_t end)
{
    uint64_t cover = 1ull << qcow2_slice_cover_bits(s), skip;
    int ret = 0;

    while (ret == 0 && guest < end) {
        uint64_t slice_end = MIN(end, (guest | (cover - 1)) + 1);
        Qcow2Range range;

        ret = nothing_there(s, c, guest, end - guest, &skip);
        if (ret == 0 && skip) {
            guest += skip;
            continue;
        }
        if (ret < 0)
            break;
        qcow2_range_lock(s, &range, guest >> s->cluster_bits, slice_end >> s->cluster_bits);
        ret = change_slice(s, c, guest, slice_end);
        qcow2_range_unlock(s, &range);
        guest = slice_end;
    }
    return ret;
}

/* The last cluster of the disk may be shorter. */
static uint64_t end_of_clusters(const Qcow2 *s, uint64_t end, uint64_t unit)
{
    return end == s->header.size ? ALIGN_UP(end, unit) : ALIGN_DOWN(end, unit);
}

int co_fn qcow2_guest_discard(Qcow2 *s, uint64_t guest, uint64_t bytes, Qcow2Discard kind,
                              bool unref)
{
    uint64_t first = ALIGN_UP(guest, s->cluster_size);
    uint64_t end = end_of_clusters(s, guest + bytes, s->cluster_size);
    Change c = { .kind = kind, .unmap = true, .unref = unref,
                 .keep_place = (s->discard_no_unref || s->data_file_raw) && !unref &&
                               s->header.version >= 3 };

    /* Without zero clusters, a hole would show the backing file. */
    if (!unref && s->header.version < 3 && qcow2_backing(s))
        return 0;
    return first < end ? change_clusters(s, &c, first, end) : 0;
}

/* Subclusters. */

static int co_fn zero_subclusters(Qcow2 *s, uint64_t guest, uint64_t end)
{
    uint64_t cluster = ALIGN_DOWN(guest, s->cluster_size), entry, bitmap, bits;
    unsigned first = (guest - cluster) >> s->subcluster_bits;
    unsigned last = (end - cluster - 1) >> s->subcluster_bits;
    Qcow2Slice *slice;
    Qcow2Range range;
    int ret = 0;

    qcow2_range_lock(s, &range, cluster >> s->cluster_bits, (cluster >> s->cluster_bits) + 1);
    slice = qcow2_l2_for_write(s, cluster, &ret);
    if (slice) {
        entry = qcow2_l2_entry(s, slice, cluster);
        bitmap = qcow2_l2_bitmap(s, slice, cluster);
        bits = (uint32_t)((2ull << last) - (1ull << first));
        if (entry & QCOW2_COMPRESSED)
            ret = -ENOTSUP;                /* has no subclusters: is written */
        else
            qcow2_l2_set(s, slice, cluster, entry, (bitmap | bits << 32) & ~bits);
        qcow2_cache_put(&s->l2_cache, slice, ret == 0);
    }
    qcow2_range_unlock(s, &range);
    return ret;
}

/* Less than a cluster. */
static int co_fn zero_part(Qcow2 *s, uint64_t guest, uint64_t bytes, unsigned flags)
{
    uint64_t unit = 1ull << s->subcluster_bits;
    bool zeroes;
    uint8_t *buffer;
    int ret;

    if (!bytes)
        return 0;
    ret = qcow2_reads_as_zeroes(s, guest, bytes, &zeroes);
    if (ret < 0 || zeroes)
        return ret;
    if (s->extended_l2 && !((guest | bytes) & (unit - 1))) {
        ret = zero_subclusters(s, guest, guest + bytes);
        if (ret != -ENOTSUP)
            return ret;
    }
    if (flags & BLOCK_NO_FALLBACK)
        return -ENOTSUP;
    buffer = qcow2_memory(s, bytes);
    if (!buffer)
        return -ENOMEM;
    memset(buffer, 0, bytes);
    ret = qcow2_guest_write(s, guest, &(struct iovec){ buffer, bytes }, 1, bytes);
    free(buffer);
    return ret;
}

/* A cluster's part: whole subclusters, and the rest before and behind them. */
static int co_fn zero_edge(Qcow2 *s, uint64_t guest, uint64_t end, unsigned flags)
{
    uint64_t unit = 1ull << s->subcluster_bits;
    uint64_t first = MIN(ALIGN_UP(guest, unit), end), last = MAX(ALIGN_DOWN(end, unit), first);
    int ret = zero_part(s, guest, first - guest, flags);

    if (ret == 0)
        ret = zero_part(s, first, last - first, flags);
    return ret == 0 ? zero_part(s, last, end - last, flags) : ret;
}

int co_fn qcow2_guest_zero(Qcow2 *s, uint64_t guest, uint64_t bytes, unsigned flags)
{
    uint64_t end = guest + bytes, first = ALIGN_UP(guest, s->cluster_size);
    uint64_t last = end_of_clusters(s, end, s->cluster_size);
    Change c = { .kind = QCOW2_DISCARD_REQUEST, .zero = true, .unmap = flags & BLOCK_MAY_UNMAP,
                 .keep_place = s->discard_no_unref || s->data_file_raw };
    int ret = 0;

    if (s->header.version < 3) {
        if (qcow2_backing(s))
            return -ENOTSUP;
        c.unmap = true;                    /* no zero clusters: what is not there is zero */
        c.keep_place = false;
    }
    if (s->data_file_raw)                  /* others read that file without our tables */
        ret = block_node_co_zero(s->data_file, guest, bytes, flags & BLOCK_MAY_UNMAP);
    if (ret == 0)
        ret = zero_edge(s, guest, MIN(first, end), flags);
    if (ret == 0 && first < last)
        ret = change_clusters(s, &c, first, last);
    last = MAX(first, last);
    return ret == 0 && last < end ? zero_edge(s, last, end, flags) : ret;
}

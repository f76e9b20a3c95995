/* From guest offsets to what is there: "Cluster mapping" and "Extended L2 entries". */
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <inttypes.h>

void qcow2_compressed_place(const Qcow2 *s, uint64_t entry, uint64_t *ret_offset,
                            uint64_t *ret_bytes)
{
    unsigned shift = 62 - (s->cluster_bits - 8);
    uint64_t sectors = (entry >> shift & ((1ull << (s->cluster_bits - 8)) - 1)) + 1;

    *ret_offset = entry & ((1ull << shift) - 1);
    *ret_bytes = sectors * 512 - (*ret_offset & 511);
}

/* In an external data file, offset 0 is a place like any other: the entry's COPIED bit tells. */
bool qcow2_entry_host(const Qcow2 *s, uint64_t entry, uint64_t *ret_host)
{
    *ret_host = entry & QCOW2_OFFSET_MASK;
    return *ret_host || (s->has_data_file && entry & QCOW2_COPIED);
}

static Qcow2Kind subcluster_kind(uint64_t bitmap, unsigned subcluster, bool has_host)
{
    bool allocated = bitmap >> subcluster & 1, zero = bitmap >> (subcluster + 32) & 1;

    if (allocated)
        return zero || !has_host ? QCOW2_INVALID : QCOW2_NORMAL;
    if (zero)
        return has_host ? QCOW2_ZERO_ALLOC : QCOW2_ZERO_PLAIN;
    return QCOW2_UNALLOCATED;
}

Qcow2Kind qcow2_kind(const Qcow2 *s, uint64_t entry, uint64_t bitmap, unsigned subcluster)
{
    uint64_t host;
    bool has_host;

    if (entry & QCOW2_COMPRESSED)
        return s->has_data_file ? QCOW2_INVALID : QCOW2_KIND_COMPRESSED;
    has_host = qcow2_entry_host(s, entry, &host);
    if (has_host && (qcow2_offset_in_cluster(s, host) || host > INT64_MAX / 2))
        return QCOW2_INVALID;
    if (s->extended_l2)
        return entry & QCOW2_ZERO ? QCOW2_INVALID : subcluster_kind(bitmap, subcluster, has_host);
    if (entry & QCOW2_ZERO)
        return s->header.version < 3 ? QCOW2_INVALID
                                     : has_host ? QCOW2_ZERO_ALLOC : QCOW2_ZERO_PLAIN;
    return has_host ? QCOW2_NORMAL : QCOW2_UNALLOCATED;
}

/* One subcluster (or cluster) and its neighbours that are alike.  Under the slice's lock. */
typedef struct Walk {
    const Qcow2 *s;
    const Qcow2Slice *slice;
    uint64_t guest, end;                   /* where it is, where the slice or request ends */
    uint64_t entry, bitmap;                /* of the cluster it is in */
    Qcow2Kind kind;
    uint64_t host;                         /* of `guest` */
} Walk;

static void look(Walk *w)
{
    const Qcow2 *s = w->s;
    uint64_t in_cluster = qcow2_offset_in_cluster(s, w->guest);

    w->entry = qcow2_l2_entry(s, w->slice, w->guest);
    w->bitmap = qcow2_l2_bitmap(s, w->slice, w->guest);
    w->kind = qcow2_kind(s, w->entry, w->bitmap, in_cluster >> s->subcluster_bits);
    w->host = (w->entry & QCOW2_OFFSET_MASK) + in_cluster;
    if (s->data_file_raw && (w->kind == QCOW2_NORMAL || w->kind == QCOW2_ZERO_ALLOC) &&
        w->host != w->guest)
        w->kind = QCOW2_INVALID;
}

static uint64_t unit_end(const Walk *w)
{
    uint64_t unit = 1ull << w->s->subcluster_bits;

    return MIN((w->guest | (unit - 1)) + 1, w->end);
}

static bool goes_on(const Walk *w, const Qcow2Extent *extent)
{
    bool has_place = extent->kind == QCOW2_NORMAL || extent->kind == QCOW2_ZERO_ALLOC;

    return w->kind == extent->kind && extent->kind != QCOW2_KIND_COMPRESSED &&
           (!has_place || (w->host == extent->host + extent->bytes &&
                           !!(w->entry & QCOW2_COPIED) == extent->copied));
}

static void walk_slice(Walk *w, Qcow2Extent *extent)
{
    uint64_t start = w->guest;

    look(w);
    *extent = (Qcow2Extent){ .kind = w->kind, .host = w->host, .entry = w->entry,
                             .copied = w->entry & QCOW2_COPIED };
    if (w->kind == QCOW2_INVALID)
        return;
    if (w->kind == QCOW2_KIND_COMPRESSED) {
        extent->bytes = MIN((w->guest | (w->s->cluster_size - 1)) + 1, w->end) - start;
        return;
    }
    do {
        w->guest = unit_end(w);
        extent->bytes = w->guest - start;
        if (w->guest < w->end)
            look(w);
    } while (w->guest < w->end && goes_on(w, extent));
}

/* Ranges that have no L2 table are passed over as a whole. */
static void skip_holes(const Qcow2 *s, uint64_t guest, uint64_t bytes, Qcow2Extent *extent)
{
    unsigned bits = qcow2_l2_cover_bits(s);
    uint64_t index = guest >> bits, last = (guest + bytes - 1) >> bits;

    while (index < last && (index + 1 >= s->header.l1_size ||
                            !(__atomic_load_n(&s->l1[index + 1], __ATOMIC_RELAXED) &
                              QCOW2_OFFSET_MASK))) {
        index++;
        if (index >= s->header.l1_size)
            index = last;
    }
    *extent = (Qcow2Extent){ .kind = QCOW2_UNALLOCATED,
                             .bytes = MIN(((index + 1) << bits) - guest, bytes) };
}

static int co_fn report_invalid(Qcow2 *s, uint64_t guest, uint64_t table, uint64_t entry,
                                uint64_t bitmap)
{
    uint64_t index = (guest >> s->cluster_bits) & ((1ull << s->l2_bits) - 1);
    uint64_t host = entry & QCOW2_OFFSET_MASK;

    if (!(entry & QCOW2_COMPRESSED) && qcow2_offset_in_cluster(s, host))
        return qcow2_corruption(s, true, host, s->cluster_size, "Cluster allocation offset 0x%"
                                PRIx64 " unaligned (L2 offset: 0x%" PRIx64 ", L2 index: 0x%" PRIx64
                                ")", host, table, index);
    return qcow2_corruption(s, true, UINT64_MAX, 0, "Invalid L2 entry 0x%" PRIx64 " (bitmap 0x%"
                            PRIx64 ") for guest offset 0x%" PRIx64 " (L2 offset: 0x%" PRIx64
                            ", L2 index: 0x%" PRIx64 ")", entry, bitmap, guest, table, index);
}

int co_fn qcow2_map(Qcow2 *s, uint64_t guest, uint64_t bytes, Qcow2Extent *extent)
{
    uint64_t slice_cover = 1ull << qcow2_slice_cover_bits(s), table, place;
    Walk walk = { .s = s, .guest = guest };
    Qcow2Slice *slice;
    bool copied;
    int ret = qcow2_l1_table(s, guest >> qcow2_l2_cover_bits(s), &table, &copied);

    if (ret < 0)
        return ret;
    if (!table) {
        skip_holes(s, guest, bytes, extent);
        return 0;
    }
    place = qcow2_slice_offset(s, table, guest);
    slice = qcow2_cache_try(&s->l2_cache, place);
    if (G_UNLIKELY(!slice))
        slice = qcow2_cache_get(&s->l2_cache, place, &ret);
    if (!slice)
        return ret;
    walk.slice = slice;
    walk.end = MIN(guest + bytes, (guest | (slice_cover - 1)) + 1);
    walk_slice(&walk, extent);
    qcow2_cache_put(&s->l2_cache, slice, false);
    if (G_UNLIKELY(extent->kind == QCOW2_INVALID))
        return report_invalid(s, guest, table, walk.entry, walk.bitmap);
    return 0;
}

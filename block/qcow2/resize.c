/* Changing the disk's size, emptying it, taking space before it is written. */
#include "block/qcow2/image.h"
#include "block/qcow2/io.h"
#include "block/qcow2/snapshot.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>

static int settle(Qcow2 *s, GError **error)
{
    int ret = qcow2_settle(s);

    if (ret < 0)
        fail_errno(error, -ret, "'%s': writing metadata failed", block_node_filename(s->node));
    return ret;
}

/* Alone, and nothing waits to be written.  On failure the gate is open again. */
static int co_fn begin(Qcow2 *s, GError **error)
{
    int ret;

    qcow2_exclusive_begin(s);
    ret = qcow2_may_write(s);
    if (ret < 0)
        fail_errno(error, -ret, "'%s' cannot be written", block_node_filename(s->node));
    else
        ret = settle(s, error);
    if (ret < 0)
        qcow2_exclusive_end(s);
    return ret;
}

/* L2 tables from the L1 entry @first on are empty: they go. */
static int co_fn drop_tables(Qcow2 *s, uint64_t first, GError **error)
{
    int ret = settle(s, error);

    block_debug_event(s->file, "l1_shrink_free_l2_clusters");
    for (uint64_t i = first; ret == 0 && i < s->header.l1_size; i++) {
        uint64_t table;
        bool copied;

        ret = qcow2_l1_table(s, i, &table, &copied);
        if (ret < 0 || !table)
            continue;
        qcow2_cache_drop(&s->l2_cache, table, s->cluster_size);
        qcow2_overlap_remove(s, QCOW2_OL_ACTIVE_L2, table, s->cluster_size);
        qcow2_mark_l1(s, i, 0);
        qcow2_free_later(s, table, s->cluster_size, QCOW2_DISCARD_OTHER);
    }
    block_debug_event(s->file, "l1_shrink_write_table");
    return ret == 0 ? settle(s, error) : ret;
}

static int co_fn write_size(Qcow2 *s, uint64_t bytes, GError **error)
{
    uint8_t field[8];

    st_be64(field, bytes);
    return qcow2_header_put(s, 24, field, 8, error);
}

/* Shrinking: what is past the new end goes, then the size changes.  The last cluster's rest is zeroed
 * when the disk grows again. */

static int co_fn drop_from(Qcow2 *s, uint64_t guest, GError **error)
{
    uint64_t first = ALIGN_UP(guest, s->cluster_size);
    uint64_t end = (uint64_t)s->header.l1_size << qcow2_l2_cover_bits(s);
    uint64_t table = 1ull << qcow2_l2_cover_bits(s);
    int ret = 0;

    if (first < end)
        ret = qcow2_guest_discard(s, first, end - first, QCOW2_DISCARD_ALWAYS, true);
    if (ret < 0) {
        fail_errno(error, -ret, "'%s': discarding what is past the disk's end failed",
                   block_node_filename(s->node));
        return ret;
    }
    return drop_tables(s, guest / table + (guest % table != 0), error);
}

/* The file ends behind its last cluster in use.  If that fails it only takes more space than it needs: the
 * disk has its new size all the same. */
static void co_fn cut_file(Qcow2 *s)
{
    uint64_t end = qcow2_clusters(s, block_node_size(s->file)), refcount = 0;
    int ret = 0;

    while (end && ret == 0) {
        ret = qcow2_refcount_get(s, end - 1, &refcount);
        if (refcount)
            break;
        end--;
    }
    if (ret == 0 && end << s->cluster_bits < (uint64_t)block_node_size(s->file))
        block_node_co_resize(s->file, end << s->cluster_bits, NULL);
}

static int co_fn shrink(Qcow2 *s, uint64_t bytes, GError **error)
{
    int ret = drop_from(s, bytes, error);

    if (ret == 0 && s->data_file_raw)      /* what it lacks reads as zeroes, should the rest fail */
        ret = block_node_co_resize(s->data_file, bytes, error);
    if (ret == 0)
        ret = write_size(s, bytes, error);
    if (ret < 0)
        return ret;
    s->header.size = bytes;
    if (s->file_grows)
        cut_file(s);
    return 0;
}

/* Growing. */

static uint64_t l1_entries(const Qcow2 *s, uint64_t bytes)
{
    unsigned bits = qcow2_l2_cover_bits(s);

    return (bytes >> bits) + ((bytes & ((1ull << bits) - 1)) != 0);
}

/* The new part reads as zeroes: the rest of the last cluster may have something, and so may the backing
 * file, if it is longer. */
static int co_fn zero_new_part(Qcow2 *s, uint64_t old, uint64_t bytes, GError **error)
{
    BlockNode *backing = qcow2_backing(s);
    uint64_t end = MIN(ALIGN_UP(old, s->cluster_size), bytes);
    int ret = 0;

    if (backing)
        end = MAX(end, MIN((uint64_t)block_node_size(backing), bytes));
    if (end <= old)
        return 0;
    ret = qcow2_guest_zero(s, old, end - old, 0);
    if (ret < 0)
        fail_errno(error, -ret, "'%s': zeroing the new area failed", block_node_filename(s->node));
    return ret;
}

/* VM state that no snapshot took along must not become a part of the disk. */
static int co_fn drop_vm_state(Qcow2 *s, GError **error)
{
    uint64_t start = qcow2_vm_state_start(s);

    for (uint64_t i = start >> qcow2_l2_cover_bits(s); i < s->header.l1_size; i++)
        if (s->l1[i] & QCOW2_OFFSET_MASK)
            return drop_from(s, start, error);
    return 0;
}

static int co_fn grow(Qcow2 *s, uint64_t bytes, GError **error)
{
    uint64_t old = s->header.size;
    int ret = drop_vm_state(s, error);

    if (ret == 0)
        ret = qcow2_grow_l1(s, l1_entries(s, bytes), error);
    if (ret == 0 && s->has_data_file && bytes > (uint64_t)block_node_size(s->data_file))
        ret = block_node_co_resize(s->data_file, bytes, error);
    if (ret < 0)
        return ret;
    s->header.size = bytes;                /* nobody is there to see it */
    ret = zero_new_part(s, old, bytes, error);
    if (ret == 0)
        ret = settle(s, error);
    if (ret == 0)
        ret = write_size(s, bytes, error);
    if (ret < 0)
        s->header.size = old;
    return ret;
}

int co_fn qcow2_co_resize(BlockNode *node, uint64_t bytes, GError **error)
{
    Qcow2 *s = qcow2_of(node);
    int ret;

    if (bytes % 512) {
        fail(error, ERR_INVALID_PARAMETER, "The new size must be a multiple of 512");
        return -EINVAL;
    }
    if (s->header.nb_snapshots && s->header.version < 3) {
        fail(error, ERR_UNSUPPORTED, "Can't resize a v2 image which has snapshots");
        return -ENOTSUP;
    }
    if (bytes > INT64_MAX) {
        fail(error, ERR_LIMIT, "the size is too large");
        return -EFBIG;
    }
    ret = begin(s, error);
    if (ret < 0)
        return ret;
    if (bytes < s->header.size)
        ret = shrink(s, bytes, error);
    else if (bytes > s->header.size)
        ret = grow(s, bytes, error);
    qcow2_exclusive_end(s);
    return ret;
}

/* Emptying.  In a raw data file, too. */

static int co_fn zero_all(Qcow2 *s, GError **error)
{
    int ret = s->header.size ? qcow2_guest_zero(s, 0, s->header.size, BLOCK_MAY_UNMAP) : 0;

    if (ret < 0)
        fail_errno(error, -ret, "'%s': zeroing the disk failed", block_node_filename(s->node));
    return ret == 0 ? settle(s, error) : ret;
}

int co_fn qcow2_co_make_empty(BlockNode *node, GError **error)
{
    Qcow2 *s = qcow2_of(node);
    int ret = begin(s, error);

    if (ret < 0)
        return ret;
    block_debug_event(s->file, "empty_image_prepare");
    ret = s->data_file_raw ? zero_all(s, error) : drop_from(s, 0, error);
    qcow2_exclusive_end(s);
    return ret;
}

/* Preallocation: clusters for all of the range, which go on reading as what they read before. */

typedef struct Preallocate {
    Qcow2 *s;
    BlockPrealloc how;
    GError **error;
} Preallocate;

/* How many of the clusters from @guest on have no place, up to the end of their slice; at least 1
 * cluster is looked at.  0: *ret_skip has one. */
static int co_fn count_placeless(Qcow2 *s, uint64_t guest, uint64_t end, uint64_t *ret_n,
                                 uint64_t *ret_skip)
{
    uint64_t slice_end = (guest | ((1ull << qcow2_slice_cover_bits(s)) - 1)) + 1, host;
    Qcow2Slice *slice;
    int ret = 0;

    slice = qcow2_l2_for_write(s, guest, &ret);
    if (!slice)
        return ret;
    *ret_n = *ret_skip = 0;
    end = MIN(end, slice_end);
    for (; guest < end; guest += s->cluster_size) {
        uint64_t entry = qcow2_l2_entry(s, slice, guest);
        bool placed = entry & QCOW2_COMPRESSED || qcow2_entry_host(s, entry, &host) ||
                      entry & QCOW2_ZERO;

        if (placed && *ret_n)
            break;
        (*(placed ? ret_skip : ret_n))++;
        if (placed)
            break;
    }
    qcow2_cache_put(&s->l2_cache, slice, false);
    return 0;
}

static int co_fn take_space(const Preallocate *p, uint64_t host, uint64_t bytes, bool fresh)
{
    Qcow2 *s = p->s;
    uint64_t end = host + bytes;
    int ret = 0;

    if (!fresh)
        ret = qcow2_host_zero(s, s->data_file, host, bytes);
    if (ret < 0) {
        fail_errno(p->error, -ret, "'%s': zeroing clusters failed", block_node_filename(s->node));
        return ret;
    }
    if (end > (uint64_t)block_node_size(s->data_file))
        ret = block_node_co_resize(s->data_file, end, p->error);
    return ret == 0 && p->how != BLOCK_PREALLOC_METADATA
               ? block_co_preallocate(s->data_file, host, bytes, p->how, p->error) : ret;
}

/* Zeroes on the host are no zeroes once they are decrypted: there the entries say so. */
static int co_fn link_row(Qcow2 *s, uint64_t guest, uint64_t host, uint64_t n)
{
    uint64_t flags = QCOW2_COPIED | (s->crypto.encrypt && !s->extended_l2 ? QCOW2_ZERO : 0);
    Qcow2Slice *slice;
    int ret = 0;

    slice = qcow2_l2_for_write(s, guest, &ret);
    if (!slice)
        return ret;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t at = guest + (i << s->cluster_bits);

        qcow2_l2_set(s, slice, at, (host + (i << s->cluster_bits)) | flags,
                     qcow2_l2_bitmap(s, slice, at));
    }
    qcow2_cache_put(&s->l2_cache, slice, true);
    return 0;
}

/* @n clusters at most; *ret_n: how many it were. */
static int co_fn place_row(const Preallocate *p, uint64_t guest, uint64_t n, uint64_t *ret_n)
{
    Qcow2 *s = p->s;
    /* A raw data file has what the disk is to show; any other may have what was there before. */
    bool fresh = s->data_file_raw || guest >= (uint64_t)block_node_size(s->data_file);
    int64_t host = guest;
    int ret;

    *ret_n = n;
    if (!s->has_data_file)
        host = qcow2_alloc_run(s, n, ret_n, &fresh);
    if (host < 0) {
        fail_errno(p->error, -host, "'%s': allocating clusters failed",
                   block_node_filename(s->node));
        return host;
    }
    ret = take_space(p, host, *ret_n << s->cluster_bits, fresh);
    if (ret == 0) {
        ret = link_row(s, guest, host, *ret_n);
        if (ret < 0)
            fail_errno(p->error, -ret, "'%s': changing L2 tables failed",
                       block_node_filename(s->node));
    }
    if (ret < 0 && !s->has_data_file)
        qcow2_free_now(s, host, *ret_n << s->cluster_bits);
    return ret;
}

static int co_fn preallocate(const Preallocate *p, uint64_t guest, uint64_t end)
{
    Qcow2 *s = p->s;
    uint64_t n = 0, skip = 0;
    int ret = 0;

    while (ret == 0 && guest < end) {
        ret = count_placeless(s, guest, end, &n, &skip);
        if (ret < 0)
            fail_errno(p->error, -ret, "'%s': reading L2 tables failed",
                       block_node_filename(s->node));
        else if (n)
            ret = place_row(p, guest, n, &n);
        guest += (n ? n : skip) << s->cluster_bits;
        if (ret == 0 && qcow2_pressure(s))
            ret = settle(s, p->error);
    }
    return ret == 0 ? settle(s, p->error) : ret;
}

int co_fn qcow2_co_preallocate(BlockNode *node, uint64_t offset, uint64_t bytes, BlockPrealloc how,
                               GError **error)
{
    Preallocate p = { qcow2_of(node), how, error };
    uint64_t end;
    int ret;

    if (how == BLOCK_PREALLOC_OFF || !bytes)
        return 0;
    if (qcow2_backing(p.s) && !p.s->extended_l2 &&
        (uint64_t)block_node_size(qcow2_backing(p.s)) > offset) {
        fail(error, ERR_UNSUPPORTED, "preallocation would hide the backing file of '%s'",
             block_node_filename(node));
        return -ENOTSUP;
    }
    if (p.s->crypto.encrypt && p.s->header.version < 3) {
        fail(error, ERR_UNSUPPORTED, "an encrypted image of version 2 cannot be preallocated");
        return -ENOTSUP;
    }
    ret = begin(p.s, error);
    if (ret < 0)
        return ret;
    end = MIN(offset + bytes, p.s->header.size);
    ret = preallocate(&p, ALIGN_DOWN(offset, p.s->cluster_size), end);
    qcow2_exclusive_end(p.s);
    return ret;
}

/*
 * Refcounts: the table, the blocks it names, the counts in them.  All of it under alloc_lock.
 *
 * A new refcount block lies where a cluster was free, and may hold its own count.  Its clusters read as
 * zeroes on disk before the table names it (checkpoint.c), so that a crash in between leaves leaks.
 */
#include "block/qcow2/checksums.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Counts in a block, "Refcount block entry": narrow ones are packed from the lowest bit on. */

uint64_t qcow2_refcount_read(const Qcow2 *s, const uint8_t *block, uint64_t index)
{
    unsigned bits = s->refcount_bits;
    uint64_t bit = index * bits;

    switch (bits) {
    case 8:
        return block[index];
    case 16:
        return ld_be16(block + index * 2);
    case 32:
        return ld_be32(block + index * 4);
    case 64:
        return ld_be64(block + index * 8);
    default:
        return block[bit / 8] >> bit % 8 & ((1u << bits) - 1);
    }
}

void qcow2_refcount_write(const Qcow2 *s, uint8_t *block, uint64_t index, uint64_t value)
{
    unsigned bits = s->refcount_bits;
    uint64_t bit = index * bits;
    uint8_t mask;

    switch (bits) {
    case 8:
        block[index] = value;
        break;
    case 16:
        st_be16(block + index * 2, value);
        break;
    case 32:
        st_be32(block + index * 4, value);
        break;
    case 64:
        st_be64(block + index * 8, value);
        break;
    default:
        mask = ((1u << bits) - 1) << bit % 8;
        block[bit / 8] = (block[bit / 8] & ~mask) | value << bit % 8;
    }
}

/* Blocks. */

static uint64_t slice_entries(const Qcow2 *s)
{
    return (8ull << s->refcount_cache.slice_bits) >> s->header.refcount_order;
}

/* The block that counts @cluster: 0: none yet.  -EIO: the table is corrupt. */
static int co_fn block_of(Qcow2 *s, uint64_t cluster, uint64_t *ret_block)
{
    uint64_t index = cluster >> s->refblock_bits;

    *ret_block = index < s->reftable_size ? s->reftable[index] & QCOW2_REFTABLE_OFFSET_MASK : 0;
    if (qcow2_offset_in_cluster(s, *ret_block) || *ret_block > INT64_MAX)
        return qcow2_corruption(s, true, UINT64_MAX, 0,
                                "Refblock offset 0x%" PRIx64 " unaligned (reftable index: 0x%"
                                PRIx64 ")", *ret_block, index);
    return 0;
}

/* The slice with @cluster's count, locked, and the count's index in it.  *ret NULL: no block. */
static int co_fn slice_of(Qcow2 *s, uint64_t cluster, Qcow2Slice **ret, uint64_t *ret_index)
{
    uint64_t entry = cluster & ((1ull << s->refblock_bits) - 1), per = slice_entries(s), block;
    int ret_err = block_of(s, cluster, &block);

    *ret = NULL;
    *ret_index = entry % per;
    if (ret_err < 0 || !block)
        return ret_err;
    *ret = qcow2_cache_get(&s->refcount_cache, block + (entry / per << s->refcount_cache.slice_bits),
                           &ret_err);
    return *ret ? 0 : ret_err;
}

int co_fn qcow2_refcount_get(Qcow2 *s, uint64_t cluster, uint64_t *ret)
{
    Qcow2Slice *slice;
    uint64_t index;
    int err = slice_of(s, cluster, &slice, &index);

    *ret = 0;
    if (!slice)
        return err;
    *ret = qcow2_refcount_read(s, slice->data, index);
    qcow2_cache_put(&s->refcount_cache, slice, false);
    return 0;
}

int co_fn qcow2_next_free(Qcow2 *s, uint64_t cluster, uint64_t *ret)
{
    uint64_t per = slice_entries(s), limit = (uint64_t)s->reftable_size << s->refblock_bits;

    for (; cluster < limit; cluster = ALIGN_DOWN(cluster, per) + per) {
        Qcow2Slice *slice;
        uint64_t i;
        int err = slice_of(s, cluster, &slice, &i);

        if (err < 0)
            return err;
        if (!slice)
            break;                         /* no block: all free */
        while (i < per && qcow2_refcount_read(s, slice->data, i))
            i++;
        qcow2_cache_put(&s->refcount_cache, slice, false);
        if (i < per) {
            cluster = ALIGN_DOWN(cluster, per) + i;
            break;
        }
    }
    *ret = cluster;
    return 0;
}

/* The table. */

static uint64_t entries_on_disk(const Qcow2 *s)
{
    return (uint64_t)s->header.refcount_table_clusters << (s->cluster_bits - 3);
}

/* *first becomes the first of @n free clusters in a row. */
static int co_fn find_row(Qcow2 *s, uint64_t *first, uint64_t n)
{
    uint64_t refcount;

    for (uint64_t at = *first; at < *first + n; at++) {
        int ret = qcow2_refcount_get(s, at, &refcount);

        if (ret < 0)
            return ret;
        if (refcount)
            *first = at + 1;
    }
    return 0;
}

/* Where a table of *entries may lie, past the end of the file and of what is just being taken; *entries
 * is raised so that the table covers itself and the blocks that it will need. */
static int co_fn place_table(Qcow2 *s, uint64_t *entries, uint64_t *ret_first)
{
    uint64_t clusters, last;
    int ret;

    *ret_first = MAX(qcow2_clusters(s, s->fresh), qcow2_clusters(s, block_node_size(s->file)));
    *ret_first = MAX(*ret_first, s->busy_end);
    for (;;) {
        clusters = qcow2_clusters(s, *entries * 8);
        if (*entries * 8 > QCOW2_REFTABLE_BYTES_MAX)
            return -EFBIG;
        ret = find_row(s, ret_first, clusters);
        if (ret < 0)
            return ret;
        last = *ret_first + clusters + (clusters >> s->refblock_bits) + 4;
        if (*entries > (last >> s->refblock_bits) + 1)
            break;
        *entries = (last >> s->refblock_bits) + 2;
    }
    *entries = clusters << (s->cluster_bits - 3);
    return 0;
}

static void enlarge_in_memory(Qcow2 *s, uint64_t entries)
{
    uint64_t *table, *old;

    if (entries <= s->reftable_size)
        return;
    table = g_new0(uint64_t, entries);
    memcpy(table, s->reftable, s->reftable_size * 8);
    pthread_mutex_lock(&s->table_mutex);
    old = s->reftable;
    s->reftable = table;
    s->reftable_size = entries;
    pthread_mutex_unlock(&s->table_mutex);
    g_free(old);
}

/* Writes the whole table to its new place, then the header; under flush_lock, so that no checkpoint
 * writes to the old place meanwhile. */
static int co_fn write_table(Qcow2 *s, uint64_t offset, uint64_t entries)
{
    uint64_t bytes = entries * 8;
    uint8_t *buffer = qcow2_memory(s, bytes), *field = buffer;
    int ret = buffer ? 0 : -ENOMEM;

    if (ret < 0)
        return ret;
    for (uint64_t i = 0; i < entries; i++)
        st_be64(buffer + i * 8, s->reftable[i]);
    block_debug_event(s->file, "refblock_alloc_write_table");
    ret = qcow2_table_write(s, offset, buffer, bytes, "refcount table", 0, NULL);
    if (ret == 0)
        ret = qcow2_flush_file(s, NULL);
    st_be64(field, offset);                /* header: refcount_table_offset, refcount_table_clusters */
    st_be32(field + 8, qcow2_clusters(s, bytes));
    block_debug_event(s->file, "refblock_alloc_switch_table");
    if (ret == 0)
        ret = qcow2_header_put(s, 48, field, 12, NULL);
    free(buffer);
    return ret;
}

static void table_moved(Qcow2 *s, uint64_t offset, uint64_t entries)
{
    pthread_mutex_lock(&s->table_mutex);
    s->header.refcount_table_offset = offset;
    s->header.refcount_table_clusters = qcow2_clusters(s, entries * 8);
    __atomic_fetch_sub(&s->tables_dirty, g_hash_table_size(s->reftable_dirty), __ATOMIC_SEQ_CST);
    g_hash_table_remove_all(s->reftable_dirty);
    pthread_mutex_unlock(&s->table_mutex);
}

static int co_fn grow_table(Qcow2 *s, uint64_t needed)
{
    uint64_t old_offset = s->header.refcount_table_offset, old_bytes = entries_on_disk(s) * 8;
    uint64_t entries = MAX(needed + 1, entries_on_disk(s) + entries_on_disk(s) / 2), first;
    int ret = place_table(s, &entries, &first);
    uint64_t offset = first << s->cluster_bits, bytes = entries * 8;

    if (ret < 0)
        return ret;
    block_debug_event(s->file, "reftable_grow");
    s->reftable_grows = true;
    enlarge_in_memory(s, entries);
    entries = s->reftable_size;            /* an earlier attempt may have made it larger yet */
    bytes = qcow2_clusters(s, entries * 8) << s->cluster_bits;
    ret = qcow2_refcount_add(s, offset, bytes, 1, NULL);
    if (ret == 0) {
        qcow2_not_fresh(s, offset + bytes);
        block_debug_event(s->file, "refblock_alloc_write_blocks");
        ret = qcow2_write_refcounts(s);
        if (ret == 0) {
            co_mutex_lock(&s->flush_lock);
            ret = write_table(s, offset, entries);
            if (ret == 0)
                table_moved(s, offset, entries);
            co_mutex_unlock(&s->flush_lock);
        }
        if (ret < 0)
            qcow2_refcount_add(s, offset, bytes, -1, NULL);
    }
    s->reftable_grows = false;
    if (ret < 0)
        return ret;
    qcow2_overlap_remove(s, QCOW2_OL_REFCOUNT_TABLE, old_offset, old_bytes);
    qcow2_overlap_add(s, QCOW2_OL_REFCOUNT_TABLE, offset, bytes);
    return qcow2_refcount_add(s, old_offset, old_bytes, -1, NULL);
}

/* New blocks. */

static int co_fn ensure_block(Qcow2 *s, uint64_t index);

/* A free cluster for a block, not one of those that are just being taken, and counted by a block that
 * is there or by the new one itself. */
static int co_fn place_block(Qcow2 *s, uint64_t index, uint64_t *ret)
{
    uint64_t cluster = s->free_hint;
    int err;

    for (;;) {
        err = qcow2_next_free(s, cluster, &cluster);
        if (err < 0)
            return err;
        if (cluster >= s->busy_first && cluster < s->busy_end) {
            cluster = s->busy_end;
            continue;
        }
        *ret = cluster;
        if (cluster >> s->refblock_bits == index)
            return 0;
        err = ensure_block(s, cluster >> s->refblock_bits);
        if (err < 0)
            return err;
        /* The block that was made for it may lie there itself. */
        err = qcow2_next_free(s, cluster, &cluster);
        if (err < 0 || cluster == *ret)
            return err;
    }
}

static int co_fn zero_block(Qcow2 *s, uint64_t offset)
{
    if (s->file_grows && offset >= s->fresh)
        return 0;
    return qcow2_host_zero(s, s->file, offset, s->cluster_size);
}

static int co_fn ensure_block(Qcow2 *s, uint64_t index)
{
    uint64_t cluster, offset;
    int ret = 0;

    if (index >= entries_on_disk(s) && !s->reftable_grows)
        ret = grow_table(s, index);
    if (ret < 0)
        return ret;
    if (index >= s->reftable_size)
        return -EFBIG;
    if (s->reftable[index] & QCOW2_REFTABLE_OFFSET_MASK)
        return 0;
    block_debug_event(s->file, "refblock_alloc");
    ret = place_block(s, index, &cluster);
    if (ret < 0 || s->reftable[index] & QCOW2_REFTABLE_OFFSET_MASK)
        return ret;
    offset = cluster << s->cluster_bits;
    block_debug_event(s->file, "refblock_alloc_write");
    ret = zero_block(s, offset);
    if (ret < 0)
        return ret;
    qcow2_not_fresh(s, offset + s->cluster_size);
    qcow2_sums_zeroed(s, offset, s->cluster_size);
    qcow2_cache_drop(&s->refcount_cache, offset, s->cluster_size);
    qcow2_mark_reftable(s, index, offset);
    qcow2_overlap_add(s, QCOW2_OL_REFCOUNT_BLOCK, offset, s->cluster_size);
    ret = qcow2_refcount_add(s, offset, s->cluster_size, 1, NULL);
    if (ret < 0) {
        qcow2_overlap_remove(s, QCOW2_OL_REFCOUNT_BLOCK, offset, s->cluster_size);
        qcow2_mark_reftable(s, index, 0);
    }
    return ret;
}

/* Changing counts. */

static int co_fn change_one(Qcow2 *s, uint64_t cluster, int64_t delta)
{
    Qcow2Slice *slice;
    uint64_t index, count;
    int ret = slice_of(s, cluster, &slice, &index);

    if (ret < 0)
        return ret;
    count = slice ? qcow2_refcount_read(s, slice->data, index) : 0;
    if (delta < 0 ? count < (uint64_t)-delta : count > s->refcount_max - delta) {
        if (slice)
            qcow2_cache_put(&s->refcount_cache, slice, false);
        if (delta > 0)
            return -EINVAL;
        return qcow2_corruption(s, true, cluster << s->cluster_bits, s->cluster_size,
                                "Refcount of cluster offset 0x%" PRIx64 " would fall below zero",
                                cluster << s->cluster_bits);
    }
    qcow2_refcount_write(s, slice->data, index, count + delta);
    qcow2_cache_put(&s->refcount_cache, slice, true);
    qcow2_touch(s, cluster << s->cluster_bits, 1);
    if (count + delta == 0) {
        qcow2_sums_gone(s, cluster << s->cluster_bits, s->cluster_size);
        s->free_hint = MIN(s->free_hint, cluster);
        if (s->byte_offset >> s->cluster_bits == cluster)
            s->byte_offset = 0;
    }
    return 0;
}

int co_fn qcow2_refcount_add(Qcow2 *s, uint64_t offset, uint64_t bytes, int64_t delta,
                             GError **error)
{
    uint64_t first = offset >> s->cluster_bits, end = qcow2_clusters(s, offset + bytes), at = first;
    uint64_t busy_first = s->busy_first, busy_end = s->busy_end;
    int ret = 0;

    s->busy_first = busy_end ? MIN(busy_first, first) : first;
    s->busy_end = MAX(busy_end, end);
    for (; ret == 0 && at < end; at += ret == 0) {
        if (delta > 0)
            ret = ensure_block(s, at >> s->refblock_bits);
        if (ret == 0)
            ret = change_one(s, at, delta);
    }
    s->busy_first = busy_first;
    s->busy_end = busy_end;
    if (ret == 0)
        return 0;
    while (at > first)
        change_one(s, --at, -delta);
    if (ret == -EINVAL)
        fail(error, ERR_LIMIT, "'%s': a cluster cannot be referred to more than %" PRIu64 " times",
             block_node_filename(s->node), s->refcount_max);
    else
        fail_errno(error, -ret, "'%s': changing the refcounts of clusters from offset 0x%" PRIx64
                   " failed", block_node_filename(s->node), offset);
    return ret;
}

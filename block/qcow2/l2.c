/* L1 and L2 tables: entries, and the tables that requests make when they need one. */
#include "block/qcow2/checksums.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Entries of a slice. */

static uint8_t *entry_place(const Qcow2 *s, const Qcow2Slice *slice, uint64_t guest)
{
    return slice->data + qcow2_slice_index(s, guest) * s->l2_entry_bytes;
}

uint64_t qcow2_l2_entry(const Qcow2 *s, const Qcow2Slice *slice, uint64_t guest)
{
    return ld_be64(entry_place(s, slice, guest));
}

uint64_t qcow2_l2_bitmap(const Qcow2 *s, const Qcow2Slice *slice, uint64_t guest)
{
    return s->extended_l2 ? ld_be64(entry_place(s, slice, guest) + 8) : 0;
}

void qcow2_l2_set(const Qcow2 *s, Qcow2Slice *slice, uint64_t guest, uint64_t entry,
                  uint64_t bitmap)
{
    uint8_t *place = entry_place(s, slice, guest);

    st_be64(place, entry);
    if (s->extended_l2)
        st_be64(place + 8, bitmap);
}

void qcow2_free_entry(Qcow2 *s, uint64_t entry, Qcow2Discard kind)
{
    uint64_t offset, bytes;

    if (entry & QCOW2_COMPRESSED) {
        qcow2_compressed_place(s, entry, &offset, &bytes);
        qcow2_free_later(s, offset, bytes, kind);
    } else if (!s->has_data_file && qcow2_entry_host(s, entry, &offset)) {
        qcow2_free_later(s, offset, s->cluster_size, kind);
    }
}

/* Tables. */

int co_fn qcow2_l1_table(Qcow2 *s, uint64_t index, uint64_t *ret_table, bool *ret_copied)
{
    uint64_t entry = index < s->header.l1_size ? __atomic_load_n(&s->l1[index], __ATOMIC_ACQUIRE)
                                               : 0;

    *ret_table = entry & QCOW2_OFFSET_MASK;
    *ret_copied = entry & QCOW2_COPIED;
    if (G_UNLIKELY(qcow2_offset_in_cluster(s, *ret_table)))
        return qcow2_corruption(s, true, UINT64_MAX, 0, "L2 table offset 0x%" PRIx64
                                " unaligned (L1 index: 0x%" PRIx64 ")", *ret_table, index);
    return 0;
}

static int co_fn copy_table(Qcow2 *s, uint64_t from, uint64_t to)
{
    void *buffer = qcow2_memory(s, s->cluster_size);
    int ret = buffer ? 0 : -ENOMEM;

    /* Nobody changes a table that is not ours alone: it is on disk as it is. */
    block_debug_event(s->file, "l2_alloc_cow_read");
    if (ret == 0)
        ret = qcow2_table_read(s, from, buffer, s->cluster_size, "L2 table", NULL);
    block_debug_event(s->file, "l2_alloc_write");
    if (ret == 0)
        ret = qcow2_table_write(s, to, buffer, s->cluster_size, "L2 table", 0, NULL);
    free(buffer);
    return ret;
}

/* A table that is not written yet lies within the file before anything names it: the flush between the two
 * makes the file's length stable, too. */
static int co_fn reach(Qcow2 *s, uint64_t table)
{
    static const uint8_t zeroes[512];

    block_debug_event(s->file, "l2_alloc_write");
    return qcow2_table_write(s, table + s->cluster_size - sizeof(zeroes), zeroes, sizeof(zeroes),
                             "L2 table", 0, NULL);
}

/* What a new table holds is on its way to disk before the L1 entry is changed (a checkpoint flushes
 * in between). */
static int co_fn make_table(Qcow2 *s, uint64_t index, uint64_t old)
{
    uint64_t n;
    bool fresh;
    int64_t table = qcow2_alloc_run(s, 1, &n, &fresh);
    int ret = 0;

    if (table < 0)
        return table;
    if (old)
        ret = copy_table(s, old, table);
    else
        ret = fresh ? reach(s, table) : qcow2_host_zero(s, s->file, table, s->cluster_size);
    if (ret < 0) {
        qcow2_free_now(s, table, s->cluster_size);
        return ret;
    }
    if (!old)
        qcow2_sums_zeroed(s, table, s->cluster_size);
    qcow2_cache_drop(&s->l2_cache, table, s->cluster_size);
    qcow2_overlap_add(s, QCOW2_OL_ACTIVE_L2, table, s->cluster_size);
    qcow2_mark_l1(s, index, table | QCOW2_COPIED);
    if (old) {
        qcow2_overlap_remove(s, QCOW2_OL_ACTIVE_L2, old, s->cluster_size);
        qcow2_free_later(s, old, s->cluster_size, QCOW2_DISCARD_OTHER);
    }
    return 0;
}

static int co_fn own_table(Qcow2 *s, uint64_t index, uint64_t *ret_table)
{
    bool copied;
    int ret;

    co_mutex_lock(&s->l1_lock);
    ret = qcow2_l1_table(s, index, ret_table, &copied);
    if (ret == 0 && (!*ret_table || !copied)) {
        ret = make_table(s, index, *ret_table);
        if (ret == 0)
            ret = qcow2_l1_table(s, index, ret_table, &copied);
    }
    co_mutex_unlock(&s->l1_lock);
    return ret;
}

Qcow2Slice *co_fn qcow2_l2_for_write(Qcow2 *s, uint64_t guest, int *ret_err)
{
    uint64_t index = guest >> qcow2_l2_cover_bits(s), table;
    bool copied;

    if (index >= s->header.l1_size) {
        *ret_err = -EIO;
        return NULL;
    }
    *ret_err = qcow2_l1_table(s, index, &table, &copied);
    if (*ret_err == 0 && (!table || !copied))
        *ret_err = own_table(s, index, &table);
    if (*ret_err < 0)
        return NULL;
    return qcow2_cache_get(&s->l2_cache, qcow2_slice_offset(s, table, guest), ret_err);
}

/* A longer L1 table: written to a new place, then named by the header, then the old one is freed. */

static int co_fn write_l1(Qcow2 *s, uint64_t offset, const uint64_t *l1, uint64_t entries,
                          GError **error)
{
    uint64_t bytes = qcow2_clusters(s, entries * 8) << s->cluster_bits;
    uint8_t *buffer = qcow2_memory(s, bytes), field[12];
    int ret;

    if (!buffer) {
        fail_errno(error, ENOMEM, "'%s': a new L1 table", block_node_filename(s->node));
        return -ENOMEM;
    }
    memset(buffer, 0, bytes);
    for (uint64_t i = 0; i < entries; i++)
        st_be64(buffer + i * 8, l1[i]);
    block_debug_event(s->file, "l1_grow_write_table");
    ret = qcow2_table_write(s, offset, buffer, bytes, "L1 table", 0, error);
    free(buffer);
    if (ret == 0)
        ret = qcow2_flush_file(s, error);
    st_be32(field, entries);               /* header: l1_size, l1_table_offset */
    st_be64(field + 4, offset);
    block_debug_event(s->file, "l1_grow_activate_table");
    return ret == 0 ? qcow2_header_put(s, 36, field, 12, error) : ret;
}

int co_fn qcow2_grow_l1(Qcow2 *s, uint64_t entries, GError **error)
{
    uint64_t old_offset = s->header.l1_table_offset, old_bytes = (uint64_t)s->header.l1_size * 8;
    uint64_t bytes = qcow2_clusters(s, entries * 8) << s->cluster_bits;
    g_autofree uint64_t *l1 = NULL;
    int64_t offset;
    int ret;

    if (entries <= s->header.l1_size)
        return 0;
    if (entries * 8 > QCOW2_L1_BYTES_MAX) {
        fail(error, ERR_LIMIT, "'%s': the image would need an L1 table of more than 32 MiB",
             block_node_filename(s->node));
        return -EFBIG;
    }
    ret = qcow2_settle(s);
    if (ret < 0) {
        fail_errno(error, -ret, "'%s': writing metadata failed", block_node_filename(s->node));
        return ret;
    }
    block_debug_event(s->file, "l1_grow_alloc_table");
    offset = qcow2_alloc_clusters(s, bytes >> s->cluster_bits, error);
    if (offset < 0)
        return offset;
    l1 = g_new0(uint64_t, MAX(entries, 1));
    memcpy(l1, s->l1, old_bytes);
    ret = qcow2_write_refcounts(s);
    if (ret < 0)
        fail_errno(error, -ret, "'%s': writing refcounts failed", block_node_filename(s->node));
    if (ret == 0)
        ret = write_l1(s, offset, l1, entries, error);
    if (ret < 0) {
        qcow2_free_now(s, offset, bytes);
        return ret;
    }
    g_free(s->l1);
    s->l1 = g_steal_pointer(&l1);
    s->header.l1_table_offset = offset;
    s->header.l1_size = entries;
    qcow2_overlap_remove(s, QCOW2_OL_ACTIVE_L1, old_offset, old_bytes);
    qcow2_overlap_add(s, QCOW2_OL_ACTIVE_L1, offset, bytes);
    if (old_bytes)
        qcow2_free_now(s, old_offset, old_bytes);
    return 0;
}

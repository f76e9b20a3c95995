/*
 * New tables for the active disk, in new clusters: an L1 table, and copies of L2 tables whose COPIED
 * flags must change.  They are written and not flushed.
 */
#include "block/qcow2/snapshot.h"
#include "block/qcow2/checksums.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void qcow2_new_active_clear(Qcow2NewActive *active)
{
    free(active->l1);
    if (active->fresh)
        g_array_unref(active->fresh);
    if (active->replaced)
        g_array_unref(active->replaced);
    *active = (Qcow2NewActive){ 0 };
}

void co_fn qcow2_new_active_discard(Qcow2 *s, Qcow2NewActive *active)
{
    for (unsigned i = 0; active->fresh && i < active->fresh->len; i++)
        qcow2_free_now(s, g_array_index(active->fresh, uint64_t, i), s->cluster_size);
    if (active->offset)
        qcow2_free_now(s, active->offset, active->entries * sizeof(uint64_t));
    qcow2_new_active_clear(active);
}

static int co_fn begin(Qcow2 *s, uint64_t entries, Qcow2NewActive *active, GError **error)
{
    uint64_t bytes = MAX(entries, 1) * sizeof(uint64_t);
    int64_t offset;

    *active = (Qcow2NewActive){ .entries = entries };
    active->l1 = calloc(MAX(entries, 1), sizeof(uint64_t));
    if (!active->l1) {
        fail(error, ERR_LIMIT, "no memory for an L1 table");
        return -ENOMEM;
    }
    active->fresh = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    active->replaced = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    offset = qcow2_alloc_clusters(s, qcow2_clusters(s, bytes), error);
    if (offset < 0)
        return offset;
    active->offset = offset;
    return 0;
}

static int co_fn write_l1(Qcow2 *s, Qcow2NewActive *active, GError **error)
{
    uint64_t bytes = ALIGN_UP(MAX(active->entries, 1) * sizeof(uint64_t), s->cluster_size);
    uint64_t *table = qcow2_memory(s, bytes);
    int ret;

    if (!table) {
        fail(error, ERR_LIMIT, "no memory for an L1 table");
        return -ENOMEM;
    }
    memset(table, 0, bytes);
    for (uint64_t i = 0; i < active->entries; i++)
        table[i] = GUINT64_TO_BE(active->l1[i]);
    ret = qcow2_table_write(s, active->offset, table, bytes, "L1 table", 0, error);
    free(table);
    return ret;
}

static int co_fn write_l2(Qcow2 *s, Qcow2NewActive *active, uint64_t index, const uint8_t *table,
                          uint64_t replaced, GError **error)
{
    int64_t offset = qcow2_alloc_clusters(s, 1, error);
    uint64_t fresh = offset;

    if (offset < 0)
        return offset;
    g_array_append_val(active->fresh, fresh);
    g_array_append_val(active->replaced, replaced);
    active->l1[index] = fresh | QCOW2_COPIED;
    return qcow2_table_write(s, fresh, table, s->cluster_size, "L2 table", 0, error);
}

static int co_fn read_l2(Qcow2 *s, uint64_t entry, uint8_t *table, GError **error)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;

    if (!qcow2_offset_in_cluster(s, offset))
        return qcow2_table_read(s, offset, table, s->cluster_size, "L2 table", error);
    fail(error, ERR_CORRUPT, "'%s' has an invalid L1 entry %#" PRIx64, block_node_filename(s->node),
         entry);
    error_hint(error, "check it first");
    return -EIO;
}

static void clear_copied(const Qcow2 *s, uint8_t *table)
{
    for (uint64_t i = 0; i < 1ull << s->l2_bits; i++) {
        uint8_t *at = table + i * s->l2_entry_bytes;

        st_be64(at, ld_be64(at) & ~QCOW2_COPIED);
    }
}

static int co_fn copy_tables(Qcow2 *s, const uint64_t *l1, Qcow2NewActive *active, GError **error)
{
    uint8_t *table = qcow2_memory(s, s->cluster_size);
    int ret = 0;

    if (!table) {
        fail(error, ERR_LIMIT, "no memory for an L2 table");
        return -ENOMEM;
    }
    for (uint64_t i = 0; ret == 0 && i < active->entries; i++) {
        if (!(l1[i] & QCOW2_OFFSET_MASK))
            continue;
        ret = read_l2(s, l1[i], table, error);
        if (ret < 0)
            break;
        clear_copied(s, table);
        ret = write_l2(s, active, i, table, l1[i] & QCOW2_OFFSET_MASK, error);
    }
    free(table);
    return ret;
}

int co_fn qcow2_new_active_copy(Qcow2 *s, const uint64_t *l1, uint64_t entries,
                                Qcow2NewActive *active, GError **error)
{
    int ret = begin(s, entries, active, error);

    if (ret == 0)
        ret = copy_tables(s, l1, active, error);
    if (ret == 0)
        ret = write_l1(s, active, error);
    if (ret < 0)
        qcow2_new_active_discard(s, active);
    return ret;
}

/* After a snapshot has gone. */

typedef struct Without {
    Qcow2 *s;
    uint8_t *table, *gone;                 /* the active L2 table, and the one beside it */
} Without;

static bool is_cluster(uint64_t entry)
{
    return entry & QCOW2_OFFSET_MASK && !(entry & QCOW2_COMPRESSED);
}

/* Owners that the cluster of @entry will have.  A snapshot has a cluster of the active disk at the same
 * guest offset, or not at all. */
static int co_fn owners_left(Without *w, uint64_t entry, uint64_t gone, uint64_t *ret_owners)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;
    int ret;

    co_mutex_lock(&w->s->alloc_lock);
    ret = qcow2_refcount_get(w->s, offset >> w->s->cluster_bits, ret_owners);
    co_mutex_unlock(&w->s->alloc_lock);
    if (ret == 0 && is_cluster(gone) && (gone & QCOW2_OFFSET_MASK) == offset && *ret_owners)
        --*ret_owners;
    return ret;
}

static int co_fn set_copied(Without *w, bool *ret_changed)
{
    Qcow2 *s = w->s;
    uint64_t owners;

    *ret_changed = false;
    for (uint64_t i = 0; i < 1ull << s->l2_bits; i++) {
        uint8_t *at = w->table + i * s->l2_entry_bytes;
        uint64_t entry = ld_be64(at), gone = ld_be64(w->gone + i * s->l2_entry_bytes);
        int ret;

        if (!is_cluster(entry) || entry & QCOW2_COPIED || !is_cluster(gone))
            continue;
        ret = owners_left(w, entry, gone, &owners);
        if (ret < 0)
            return ret;
        if (owners == 1) {
            st_be64(at, entry | QCOW2_COPIED);
            *ret_changed = true;
        }
    }
    return 0;
}

static int co_fn without_entry(Without *w, Qcow2NewActive *active, uint64_t i, uint64_t gone,
                               GError **error)
{
    Qcow2 *s = w->s;
    uint64_t entry = s->l1[i], owners;
    bool changed;
    int ret = read_l2(s, entry, w->table, error);

    if (ret == 0)
        ret = read_l2(s, gone, w->gone, error);
    if (ret < 0)
        return ret;
    ret = set_copied(w, &changed);
    if (ret < 0) {
        fail_errno(error, -ret, "cannot read a refcount of '%s'", block_node_filename(s->node));
        return ret;
    }
    if (changed)
        return write_l2(s, active, i, w->table, entry & QCOW2_OFFSET_MASK, error);
    ret = owners_left(w, entry, gone, &owners);
    if (ret == 0 && owners == 1)
        active->l1[i] |= QCOW2_COPIED;     /* the table itself was shared */
    return ret;
}

static int co_fn without_tables(Qcow2 *s, const uint64_t *gone, uint64_t gone_entries,
                                Qcow2NewActive *active, GError **error)
{
    Without w = { s, qcow2_memory(s, s->cluster_size), qcow2_memory(s, s->cluster_size) };
    int ret = w.table && w.gone ? 0 : -ENOMEM;

    if (ret < 0)
        fail(error, ERR_LIMIT, "no memory for L2 tables");
    for (uint64_t i = 0; ret == 0 && i < active->entries; i++) {
        active->l1[i] = s->l1[i];
        if (i < gone_entries && gone[i] & QCOW2_OFFSET_MASK && s->l1[i] & QCOW2_OFFSET_MASK)
            ret = without_entry(&w, active, i, gone[i], error);
    }
    free(w.table);
    free(w.gone);
    return ret;
}

int co_fn qcow2_new_active_without(Qcow2 *s, const uint64_t *gone, uint64_t gone_entries,
                                   Qcow2NewActive *active, GError **error)
{
    int ret = begin(s, s->header.l1_size, active, error);

    if (ret == 0)
        ret = without_tables(s, gone, gone_entries, active, error);
    if (ret == 0)
        ret = write_l1(s, active, error);
    if (ret < 0)
        qcow2_new_active_discard(s, active);
    return ret;
}

/* What the tables of a snapshot, or of the active disk, refer to, and changing how many owners it has. */
#include "block/qcow2/snapshot.h"
#include "block/qcow2/checksums.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

uint64_t *co_fn qcow2_l1_read(Qcow2 *s, uint64_t offset, uint64_t entries, GError **error)
{
    uint64_t *l1;

    if (entries * sizeof(*l1) > QCOW2_L1_BYTES_MAX || qcow2_offset_in_cluster(s, offset)) {
        fail(error, ERR_CORRUPT, "'%s' has a snapshot with an invalid L1 table (offset %#" PRIx64
             ", %" PRIu64 " entries)", block_node_filename(s->node), offset, entries);
        return NULL;
    }
    l1 = qcow2_memory(s, MAX(entries, 1) * sizeof(*l1));
    if (!l1) {
        fail(error, ERR_LIMIT, "no memory for an L1 table");
        return NULL;
    }
    if (qcow2_table_read(s, offset, l1, entries * sizeof(*l1), "snapshot's L1 table", error) < 0) {
        free(l1);
        return NULL;
    }
    for (uint64_t i = 0; i < entries; i++)
        l1[i] = GUINT64_FROM_BE(l1[i]);
    return l1;
}

/* Rows of clusters, as long as they can be. */

typedef struct Row {
    uint64_t offset, bytes;
} Row;


static void row_add(GArray *rows, uint64_t offset, uint64_t bytes)
{
    Row *last = rows->len ? &g_array_index(rows, Row, rows->len - 1) : NULL;
    Row row = { offset, bytes };

    if (last && last->offset + last->bytes == offset)
        last->bytes += bytes;
    else
        g_array_append_val(rows, row);
}

/* Compressed data shares clusters: each piece counts for each cluster it touches, so pieces do not grow
 * together into rows. */
static void piece_add(GArray *rows, uint64_t offset, uint64_t bytes)
{
    Row row = { offset, bytes };

    g_array_append_val(rows, row);
}

static int bad_entry(Qcow2 *s, const char *what, uint64_t entry, GError **error)
{
    fail(error, ERR_CORRUPT, "'%s' has an invalid %s entry %#" PRIx64,
         block_node_filename(s->node), what, entry);
    error_hint(error, "check it first");
    return -EIO;
}

static int collect_entry(Qcow2 *s, uint64_t entry, GArray *rows, GArray *pieces, GError **error)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK, bytes;

    if (entry & QCOW2_COMPRESSED) {
        qcow2_compressed_place(s, entry, &offset, &bytes);
        piece_add(pieces, offset, bytes);
    } else if (qcow2_offset_in_cluster(s, offset)) {
        return bad_entry(s, "L2", entry, error);
    } else if (offset) {
        row_add(rows, offset, s->cluster_size);
    }
    return 0;
}

static int co_fn collect_table(Qcow2 *s, uint64_t offset, uint8_t *table, GArray *rows,
                               GArray *pieces, GError **error)
{
    int ret = qcow2_table_read(s, offset, table, s->cluster_size, "L2 table", error);

    for (uint64_t i = 0; ret == 0 && i < 1ull << s->l2_bits; i++) {
        uint64_t entry = ld_be64(table + i * s->l2_entry_bytes);

        if (entry)
            ret = collect_entry(s, entry, rows, pieces, error);
    }
    return ret;
}

static int co_fn collect(Qcow2 *s, const uint64_t *l1, uint64_t entries, bool tables, GArray *rows,
                         GArray *pieces, GError **error)
{
    uint8_t *table = qcow2_memory(s, s->cluster_size);
    int ret = 0;

    if (!table) {
        fail(error, ERR_LIMIT, "no memory for an L2 table");
        return -ENOMEM;
    }
    for (uint64_t i = 0; ret == 0 && i < entries; i++) {
        uint64_t offset = l1[i] & QCOW2_OFFSET_MASK;

        if (!offset)
            continue;
        ret = qcow2_offset_in_cluster(s, offset)
                  ? bad_entry(s, "L1", l1[i], error)
                  : collect_table(s, offset, table, rows, pieces, error);
        if (ret == 0 && tables)
            piece_add(pieces, offset, s->cluster_size);
    }
    free(table);
    return ret;
}

/* Owners. */

static int co_fn add_rows(Qcow2 *s, const GArray *rows, GError **error)
{
    int ret = 0;

    for (unsigned i = 0; i < rows->len; i++) {
        const Row *row = &g_array_index(rows, Row, i);

        co_mutex_lock(&s->alloc_lock);
        ret = qcow2_refcount_add(s, row->offset, row->bytes, 1, error);
        co_mutex_unlock(&s->alloc_lock);
        if (ret == 0)
            continue;
        while (i-- > 0) {
            row = &g_array_index(rows, Row, i);
            qcow2_free_now(s, row->offset, row->bytes);
        }
        break;
    }
    return ret;
}

static void undo_rows(Qcow2 *s, const GArray *rows)
{
    for (unsigned i = 0; i < rows->len; i++) {
        const Row *row = &g_array_index(rows, Row, i);

        qcow2_free_now(s, row->offset, row->bytes);
    }
}

static GArray *rows_new(void)
{
    return g_array_new(FALSE, FALSE, sizeof(Row));
}

int co_fn qcow2_data_references_add(Qcow2 *s, const uint64_t *l1, uint64_t entries, GError **error)
{
    g_autoptr(GArray) rows = rows_new(), pieces = rows_new();
    int ret = collect(s, l1, entries, false, rows, pieces, error);

    if (ret == 0)
        ret = add_rows(s, rows, error);
    if (ret < 0)
        return ret;
    ret = add_rows(s, pieces, error);
    if (ret < 0)
        undo_rows(s, rows);
    return ret;
}

int co_fn qcow2_references_drop(Qcow2 *s, const uint64_t *l1, uint64_t entries, bool tables,
                                GError **error)
{
    g_autoptr(GArray) rows = rows_new(), pieces = rows_new();
    int ret = collect(s, l1, entries, tables, rows, pieces, error);

    if (ret < 0)
        return ret;
    for (unsigned i = 0; i < rows->len; i++) {
        const Row *row = &g_array_index(rows, Row, i);

        qcow2_free_later(s, row->offset, row->bytes, QCOW2_DISCARD_SNAPSHOT);
    }
    for (unsigned i = 0; i < pieces->len; i++) {
        const Row *piece = &g_array_index(pieces, Row, i);

        qcow2_free_later(s, piece->offset, piece->bytes, QCOW2_DISCARD_SNAPSHOT);
    }
    return 0;
}

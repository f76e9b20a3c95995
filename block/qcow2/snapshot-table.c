/*
 * The snapshot table: qcow2 specification, "Snapshots".  Entries of different lengths, each padded to
 * eight bytes.
 */
#include "block/qcow2/snapshot.h"
#include "block/qcow2/checksums.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Fixed part of an entry, then what we know of its extra data. */
enum { ENTRY_FIXED = 40, EXTRA_VM_STATE = 8, EXTRA_DISK_SIZE = 16, EXTRA_ICOUNT = 24 };
enum { EXTRA_MAX = 1024 };
#define TABLE_BYTES_MAX (64 * MiB)

void qcow2_snapshot_clear(Qcow2Snapshot *snapshot)
{
    g_free(snapshot->id);
    g_free(snapshot->name);
    g_free(snapshot->extra_data);
}

GArray *qcow2_snapshots_new(void)
{
    GArray *snapshots = g_array_new(FALSE, TRUE, sizeof(Qcow2Snapshot));

    g_array_set_clear_func(snapshots, (GDestroyNotify)qcow2_snapshot_clear);
    return snapshots;
}

static uint64_t entry_bytes(const Qcow2Snapshot *sn)
{
    uint64_t bytes = ENTRY_FIXED + EXTRA_ICOUNT + sn->extra_data_length + strlen(sn->id) +
                     strlen(sn->name);

    return ALIGN_UP(bytes, 8);
}

static uint64_t bytes_of(const GArray *snapshots)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < snapshots->len; i++)
        bytes += entry_bytes(&g_array_index(snapshots, Qcow2Snapshot, i));
    return bytes;
}

/* Reading: an entry at a time, as its length is only known from itself. */

typedef struct TableReader {
    Qcow2 *s;
    uint64_t offset, start;
} TableReader;

static int co_fn read_part(TableReader *r, void *data, uint64_t bytes, GError **error)
{
    int ret;

    if (r->offset + bytes - r->start > TABLE_BYTES_MAX) {
        fail(error, ERR_CORRUPT, "the snapshot table of '%s' at offset %#" PRIx64 " is longer than %d "
             "MiB", block_node_filename(r->s->node), r->start, (int)(TABLE_BYTES_MAX / MiB));
        return -EFBIG;
    }
    ret = qcow2_meta_read(r->s, r->offset, data, bytes, "snapshot table", error);
    r->offset += bytes;
    return ret;
}

static char *co_fn read_text(TableReader *r, uint16_t length, int *ret, GError **error)
{
    char *text = g_malloc0(length + 1);

    if (*ret == 0 && length)
        *ret = read_part(r, text, length, error);
    return text;
}

static void take_extra(Qcow2Snapshot *sn, const uint8_t *extra, uint32_t bytes)
{
    if (bytes >= EXTRA_VM_STATE)
        sn->vm_state_size = ld_be64(extra);
    if (bytes >= EXTRA_DISK_SIZE)
        sn->disk_size = ld_be64(extra + EXTRA_VM_STATE);
    sn->icount = bytes >= EXTRA_ICOUNT ? ld_be64(extra + EXTRA_DISK_SIZE) : UINT64_MAX;
    if (bytes > EXTRA_ICOUNT) {
        sn->extra_data_length = bytes - EXTRA_ICOUNT;
        sn->extra_data = g_memdup2(extra + EXTRA_ICOUNT, sn->extra_data_length);
    }
}

static int co_fn read_extra(TableReader *r, Qcow2Snapshot *sn, uint32_t bytes, GError **error)
{
    uint8_t extra[EXTRA_MAX];
    int ret;

    if (bytes > sizeof(extra)) {
        fail(error, ERR_CORRUPT, "the snapshot table of '%s' has an entry with %" PRIu32 " bytes of extra "
             "data; at most %d are allowed", block_node_filename(r->s->node), bytes, EXTRA_MAX);
        return -EINVAL;
    }
    ret = bytes ? read_part(r, extra, bytes, error) : 0;
    if (ret == 0)
        take_extra(sn, extra, bytes);
    return ret;
}

static int co_fn read_entry(TableReader *r, Qcow2Snapshot *sn, GError **error)
{
    uint8_t fixed[ENTRY_FIXED];
    int ret;

    r->offset = ALIGN_UP(r->offset, 8);
    ret = read_part(r, fixed, sizeof(fixed), error);
    if (ret < 0)
        return ret;
    sn->l1_table_offset = ld_be64(fixed);
    sn->l1_size = ld_be32(fixed + 8);
    sn->date_sec = ld_be32(fixed + 16);
    sn->date_nsec = ld_be32(fixed + 20);
    sn->vm_clock_nsec = ld_be64(fixed + 24);
    sn->vm_state_size = ld_be32(fixed + 32);
    sn->disk_size = r->s->header.size;     /* of entries so old that they do not say it */
    ret = read_extra(r, sn, ld_be32(fixed + 36), error);
    sn->id = read_text(r, ld_be16(fixed + 12), &ret, error);
    sn->name = read_text(r, ld_be16(fixed + 14), &ret, error);
    return ret;
}

/* Its blocks, which entries do not end with. */
static int co_fn verify(TableReader *r, GError **error)
{
    uint64_t bytes = r->offset - r->start;
    uint8_t *table = r->s->sums && bytes ? qcow2_memory(r->s, bytes) : NULL;
    int ret = table ? qcow2_table_read(r->s, r->start, table, bytes, "snapshot table", error) : 0;

    free(table);
    return ret;
}

int co_fn qcow2_snapshots_read(Qcow2 *s, GError **error)
{
    TableReader r = { s, s->header.snapshots_offset, s->header.snapshots_offset };
    int ret = 0;

    s->snapshots = qcow2_snapshots_new();
    if (s->header.nb_snapshots > QCOW2_SNAPSHOTS_MAX) {
        fail(error, ERR_LIMIT, "'%s' has %" PRIu32 " snapshots; at most %d are supported",
             block_node_filename(s->node), s->header.nb_snapshots, QCOW2_SNAPSHOTS_MAX);
        return -EFBIG;
    }
    if (s->header.nb_snapshots && qcow2_offset_in_cluster(s, r.start)) {
        fail(error, ERR_CORRUPT, "the snapshot table of '%s' at offset %#" PRIx64 " is not cluster "
             "aligned", block_node_filename(s->node), r.start);
        return -EINVAL;
    }
    for (unsigned i = 0; ret == 0 && i < s->header.nb_snapshots; i++) {
        Qcow2Snapshot sn = { 0 };

        ret = read_entry(&r, &sn, error);
        g_array_append_val(s->snapshots, sn);
    }
    s->snapshot_table_bytes = r.offset - r.start;
    return ret == 0 ? verify(&r, error) : ret;
}

/* Writing: always a whole new table. */

static uint8_t *put_text(uint8_t *at, const char *text)
{
    size_t length = strlen(text);

    memcpy(at, text, length);
    return at + length;
}

static void put_entry(const Qcow2Snapshot *sn, uint8_t *at)
{
    st_be64(at, sn->l1_table_offset);
    st_be32(at + 8, sn->l1_size);
    st_be16(at + 12, strlen(sn->id));
    st_be16(at + 14, strlen(sn->name));
    st_be32(at + 16, sn->date_sec);
    st_be32(at + 20, sn->date_nsec);
    st_be64(at + 24, sn->vm_clock_nsec);
    st_be32(at + 32, sn->vm_state_size > UINT32_MAX ? 0 : sn->vm_state_size);
    st_be32(at + 36, EXTRA_ICOUNT + sn->extra_data_length);
    at += ENTRY_FIXED;
    st_be64(at, sn->vm_state_size);
    st_be64(at + EXTRA_VM_STATE, sn->disk_size);
    st_be64(at + EXTRA_DISK_SIZE, sn->icount);
    at += EXTRA_ICOUNT;
    if (sn->extra_data_length)
        memcpy(at, sn->extra_data, sn->extra_data_length);
    put_text(put_text(at + sn->extra_data_length, sn->id), sn->name);
}

int64_t co_fn qcow2_snapshots_write(Qcow2 *s, const GArray *snapshots, uint64_t *ret_bytes,
                                    GError **error)
{
    uint64_t bytes = bytes_of(snapshots), at = 0;
    uint8_t *table;
    int64_t offset;
    int ret;

    *ret_bytes = bytes;
    if (!bytes)
        return 0;
    if (bytes > TABLE_BYTES_MAX) {
        fail(error, ERR_LIMIT, "the snapshot table of '%s' would be too long",
             block_node_filename(s->node));
        return -EFBIG;
    }
    table = qcow2_memory(s, ALIGN_UP(bytes, s->cluster_size));
    if (!table) {
        fail(error, ERR_LIMIT, "no memory for the snapshot table");
        return -ENOMEM;
    }
    memset(table, 0, ALIGN_UP(bytes, s->cluster_size));
    for (unsigned i = 0; i < snapshots->len; i++) {
        put_entry(&g_array_index(snapshots, Qcow2Snapshot, i), table + at);
        at += entry_bytes(&g_array_index(snapshots, Qcow2Snapshot, i));
    }
    offset = qcow2_alloc_clusters(s, qcow2_clusters(s, bytes), error);
    ret = offset < 0 ? offset
                     : qcow2_table_write(s, offset, table, ALIGN_UP(bytes, s->cluster_size),
                                         "snapshot table", 0, error);
    free(table);
    if (ret < 0 && offset > 0)
        qcow2_free_now(s, offset, bytes);
    return ret < 0 ? ret : offset;
}

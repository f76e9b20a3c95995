/*
 * Everything that refers to host clusters: L1 and L2 tables, snapshots, bitmaps, the header.
 *
 * L2 tables are read by several coroutines at once; all of them run in one loop and count without
 * waiting, so that refs needs no lock.  A scrub reads one after the other.
 */
#include "block/qcow2/bitmap-dir.h"
#include "block/qcow2/checksums.h"
#include "block/qcow2/scrub.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { TABLES_AT_ONCE = 16 };

bool check_reference(Qcow2Check *c, uint64_t offset, uint64_t bytes)
{
    Qcow2 *s = c->s;
    uint64_t end = offset + bytes;

    if (!bytes)
        return true;
    if (end < offset || end > (c->live ? qcow2_live_end(c->live) : c->file_bytes) + s->cluster_size) {
        check_corrupt(c, "ERROR: counting reference for region exceeding the end of the file by one "
                      "cluster or more: offset 0x%" PRIx64 " size 0x%" PRIx64, offset, bytes);
        return false;
    }
    for (uint64_t i = offset >> s->cluster_bits; i <= (end - 1) >> s->cluster_bits; i++) {
        if (c->live && i >= c->clusters)
            break;                         /* it came after the scrub began */
        if (check_count(c, i) == CHECK_COUNT) {
            check_corrupt(c, "ERROR: overflow cluster offset=0x%" PRIx64, i << s->cluster_bits);
            return false;
        }
        c->refs[i]++;
        c->used_end = MAX(c->used_end, i + 1);
    }
    return true;
}

static void note_copied(Qcow2Check *c, uint64_t offset, bool copied)
{
    uint64_t cluster = offset >> c->s->cluster_bits;

    if (cluster < c->clusters)
        c->refs[cluster] |= copied ? CHECK_COPIED : CHECK_NOT_COPIED;
}

/* One L2 table. */

typedef struct L2Walk {
    Qcow2Check *c;
    bool active;                           /* not a snapshot's */
    uint64_t next;                         /* host offset that would follow without a gap; 0: any */
} L2Walk;

static void count_cluster(L2Walk *walk, uint64_t offset)
{
    BlockCheck *result = walk->c->result;

    if (!walk->active)
        return;
    result->allocated_clusters++;
    if (walk->next && offset != walk->next)
        result->fragmented_clusters++;
    walk->next = offset + walk->c->s->cluster_size;
}

static void walk_compressed(L2Walk *walk, uint64_t entry, uint64_t bitmap)
{
    Qcow2Check *c = walk->c;
    uint64_t offset, bytes;

    qcow2_compressed_place(c->s, entry, &offset, &bytes);
    if (entry & QCOW2_COPIED)
        check_corrupt(c, "ERROR: coffset=0x%" PRIx64 ": copied flag must never be set for compressed "
                      "clusters", offset);
    if (c->s->has_data_file) {
        check_corrupt(c, "ERROR compressed cluster with data file, entry=0x%" PRIx64, entry);
        return;
    }
    if (bitmap)
        check_corrupt(c, "ERROR compressed cluster with non-zero subcluster allocation bitmap, "
                      "entry=0x%" PRIx64, entry);
    check_reference(c, offset, bytes);
    if (walk->active) {
        c->result->compressed_clusters++;
        c->result->allocated_clusters++;
        c->result->fragmented_clusters++;  /* they are never in a row */
    }
}

/* "Extended L2 Entries": a subcluster cannot be both allocated and zero, nor allocated nowhere. */
static void check_bitmap(Qcow2Check *c, uint64_t entry, uint64_t bitmap, bool has_place)
{
    uint32_t allocated = bitmap, zero = bitmap >> 32;

    if (allocated & zero || (allocated && !has_place))
        check_corrupt(c, "ERROR invalid subcluster allocation bitmap 0x%" PRIx64 ", L2 entry=0x%"
                      PRIx64, bitmap, entry);
}

static void walk_standard(L2Walk *walk, uint64_t guest, uint64_t entry, uint64_t bitmap)
{
    Qcow2Check *c = walk->c;
    Qcow2 *s = c->s;
    uint64_t offset = entry & QCOW2_OFFSET_MASK;
    bool has_place = offset || (s->has_data_file && entry & QCOW2_COPIED);

    if (entry & (QCOW2_L2_RESERVED | (s->extended_l2 ? QCOW2_ZERO : 0)))
        check_corrupt(c, "ERROR found l2 entry with reserved bits set: %" PRIx64, entry);
    if (s->extended_l2)
        check_bitmap(c, entry, bitmap, has_place);
    if (!has_place)
        return;
    if (qcow2_offset_in_cluster(s, offset)) {
        check_corrupt(c, "ERROR offset=%" PRIx64 ": Cluster is not properly aligned; L2 entry "
                      "corrupted.", offset);
        return;
    }
    if (s->has_data_file) {
        if (s->data_file_raw && offset != guest)
            check_corrupt(c, "ERROR offset=%" PRIx64 ": guest offset %" PRIx64 " of a raw external "
                          "data file must be the same; L2 entry corrupted.", offset, guest);
        count_cluster(walk, offset);
        return;
    }
    count_cluster(walk, offset);
    if (check_reference(c, offset, s->cluster_size) && walk->active)
        note_copied(c, offset, entry & QCOW2_COPIED);
}

static void walk_entries(L2Walk *walk, const uint8_t *table, uint64_t offset, uint64_t guest)
{
    Qcow2Check *c = walk->c;
    Qcow2 *s = c->s;

    for (uint64_t i = 0; i < 1ull << s->l2_bits; i++, guest += s->cluster_size) {
        const uint8_t *at = table + i * s->l2_entry_bytes;
        uint64_t entry = ld_be64(at), bitmap = s->extended_l2 ? ld_be64(at + 8) : 0;

        if (!entry && !bitmap)
            continue;
        c->table = offset;
        c->index = i;
        if (entry & QCOW2_COMPRESSED)
            walk_compressed(walk, entry, bitmap);
        else
            walk_standard(walk, guest, entry, bitmap);
    }
    c->table = 0;
}

/* L1 tables. */

typedef struct TableJob {
    Qcow2Check *c;
    Qcow2Group *group;
    uint64_t offset, guest;
    bool active;
} TableJob;

static int co_fn read_l2(Qcow2Check *c, uint64_t offset, uint8_t *table, GError **error)
{
    if (c->live)
        return qcow2_live_read(c->live, &c->s->l2_cache, offset, table, error);
    return check_look(c, offset, table, c->s->cluster_size, "L2 table", error);
}

static void co_fn table_job(void *opaque)
{
    TableJob *job = opaque;
    Qcow2Check *c = job->c;
    L2Walk walk = { c, job->active, 0 };
    g_autoptr(GError) error = NULL;
    uint8_t *table = qcow2_memory(c->s, c->s->cluster_size);
    int ret = table ? read_l2(c, job->offset, table, &error) : -ENOMEM;

    if (ret == 0)
        walk_entries(&walk, table, job->offset, job->guest);
    else if (error)
        check_unreadable(c, g_steal_pointer(&error));
    free(table);
    qcow2_group_done(job->group, ret == -ENOMEM ? ret : 0);
    g_free(job);
}

static void co_fn walk_l1_entry(Qcow2Check *c, Qcow2Group *group, uint64_t entry, uint64_t index,
                                bool active)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;
    TableJob *job;

    if (entry & QCOW2_L1_RESERVED)
        check_corrupt(c, "ERROR found L1 entry with reserved bits set: %" PRIx64, entry);
    if (!offset)
        return;
    if (qcow2_offset_in_cluster(c->s, offset)) {
        check_corrupt(c, "ERROR l2_offset=%" PRIx64 ": Table is not cluster aligned; L1 entry "
                      "corrupted", offset);
        return;
    }
    if (!check_reference(c, offset, c->s->cluster_size))
        return;
    if (active)
        note_copied(c, offset, entry & QCOW2_COPIED);
    job = g_new(TableJob, 1);
    *job = (TableJob){ c, group, offset, index << qcow2_l2_cover_bits(c->s), active };
    if (c->live) {
        group->running++;
        table_job(job);
    } else {
        qcow2_group_start(group, table_job, job);
    }
}

static int co_fn walk_l1(Qcow2Check *c, const uint64_t *l1, uint64_t entries, bool active)
{
    Qcow2Group group = { .max = TABLES_AT_ONCE };

    for (uint64_t i = 0; i < entries && group.ret == 0; i++) {
        uint64_t entry = __atomic_load_n(&l1[i], __ATOMIC_ACQUIRE);

        if (entry && c->live) {
            group.ret = qcow2_live_step(c->live, c->s->cluster_size);
            /* As it is now that its table cannot be freed. */
            entry = group.ret == 0 ? __atomic_load_n(&l1[i], __ATOMIC_ACQUIRE) : 0;
        }
        if (entry)
            walk_l1_entry(c, &group, entry, i, active);
    }
    return qcow2_group_wait(&group);
}

/* Reads a table of big-endian words; NULL: it could not be, and that is counted. */
static uint64_t *co_fn read_words(Qcow2Check *c, uint64_t offset, uint64_t n, const char *what)
{
    g_autoptr(GError) error = NULL;
    uint64_t *words = qcow2_memory(c->s, MAX(n, 1) * sizeof(uint64_t));

    if (!words)
        fail(&error, ERR_LIMIT, "no memory for an %s of %" PRIu64 " entries", what, n);
    else if (check_look(c, offset, words, n * sizeof(uint64_t), what, &error) == 0) {
        for (uint64_t i = 0; i < n; i++)
            words[i] = GUINT64_FROM_BE(words[i]);
        return words;
    }
    check_unreadable(c, g_steal_pointer(&error));
    free(words);
    return NULL;
}

static int co_fn walk_snapshot(Qcow2Check *c, const Qcow2Snapshot *snapshot)
{
    uint64_t bytes = snapshot->l1_size * sizeof(uint64_t);
    uint64_t *l1;
    int ret;

    if (qcow2_offset_in_cluster(c->s, snapshot->l1_table_offset)) {
        check_corrupt(c, "ERROR snapshot %s (%s) l1_offset=%#" PRIx64 ": L1 table is not cluster "
                      "aligned; snapshot table entry corrupted", snapshot->id, snapshot->name,
                      snapshot->l1_table_offset);
        return 0;
    }
    if (bytes > QCOW2_L1_BYTES_MAX) {
        check_corrupt(c, "ERROR snapshot %s (%s) l1_size=%#" PRIx32 ": L1 table is too large; snapshot "
                      "table entry corrupted", snapshot->id, snapshot->name, snapshot->l1_size);
        return 0;
    }
    if (!check_reference(c, snapshot->l1_table_offset, bytes))
        return 0;
    l1 = read_words(c, snapshot->l1_table_offset, snapshot->l1_size, "snapshot's L1 table");
    ret = l1 ? walk_l1(c, l1, snapshot->l1_size, false) : 0;
    free(l1);
    return ret;
}

static int co_fn walk_snapshots(Qcow2Check *c)
{
    GArray *snapshots = c->s->snapshots;
    int ret = 0;

    for (unsigned i = 0; ret == 0 && snapshots && i < snapshots->len; i++)
        ret = walk_snapshot(c, &g_array_index(snapshots, Qcow2Snapshot, i));
    if (ret == 0 && snapshots && snapshots->len)
        check_reference(c, c->s->header.snapshots_offset, c->s->snapshot_table_bytes);
    return ret;
}

/* Bitmaps: the directory, each bitmap's table, and the clusters that it names. */

static void co_fn walk_bitmap(Qcow2Check *c, const Qcow2BitmapEntry *bitmap)
{
    uint64_t bytes = bitmap->table_size * (uint64_t)sizeof(uint64_t);
    uint64_t *table;

    if (qcow2_offset_in_cluster(c->s, bitmap->table_offset)) {
        check_corrupt(c, "ERROR bitmap '%s' table_offset=%#" PRIx64 ": table is not cluster aligned; "
                      "bitmap directory entry corrupted", bitmap->name, bitmap->table_offset);
        return;
    }
    if (!check_reference(c, bitmap->table_offset, bytes))
        return;
    table = read_words(c, bitmap->table_offset, bitmap->table_size, "bitmap table");
    for (uint64_t i = 0; table && i < bitmap->table_size; i++) {
        uint64_t offset = table[i] & QCOW2_BITMAP_TABLE_OFFSET;

        if (table[i] & QCOW2_BITMAP_TABLE_RESERVED || (offset && table[i] & QCOW2_BITMAP_TABLE_ONES) ||
            qcow2_offset_in_cluster(c->s, offset))
            check_corrupt(c, "ERROR bitmap '%s' table entry %" PRIu64 " invalid: %#" PRIx64,
                          bitmap->name, i, table[i]);
        else if (offset && check_reference(c, offset, c->s->cluster_size))
            check_bits(c, offset);
    }
    free(table);
}

static void co_fn walk_bitmaps(Qcow2Check *c)
{
    g_autoptr(GArray) found = g_array_new(FALSE, FALSE, sizeof(Qcow2Mismatch));
    g_autoptr(GError) error = NULL;
    GArray *directory;

    if (!c->s->bitmaps_offset)
        return;
    if (!check_reference(c, c->s->bitmaps_offset, c->s->bitmaps_length))
        return;
    directory = qcow2_bitmap_dir_look(c->s, found, &error);
    check_mismatches(c, found);
    if (!directory) {
        check_unreadable(c, g_steal_pointer(&error));
        return;
    }
    for (unsigned i = 0; i < directory->len; i++)
        walk_bitmap(c, &g_array_index(directory, Qcow2BitmapEntry, i));
    g_array_unref(directory);
}

/* "Full disk encryption header pointer": where it is and how long. */
static void walk_crypto(Qcow2Check *c)
{
    const Qcow2Extension *extension = qcow2_extension(c->s, QCOW2_EXT_CRYPTO);

    if (extension && extension->length >= 16)
        check_reference(c, ld_be64(extension->data), ld_be64(extension->data + 8));
}

int co_fn qcow2_check_walk(Qcow2Check *c, GError **error)
{
    Qcow2 *s = c->s;
    int ret;

    c->result->total_clusters = qcow2_clusters(s, s->header.size);
    check_tables_in_memory(c);
    check_reference(c, 0, s->cluster_size);
    check_reference(c, s->header.l1_table_offset, s->header.l1_size * sizeof(uint64_t));
    ret = walk_l1(c, s->l1, s->header.l1_size, true);
    if (ret == 0)
        ret = walk_snapshots(c);
    if (ret < 0) {
        fail_errno(error, -ret, "cannot check '%s'", block_node_filename(s->node));
        return ret;
    }
    walk_bitmaps(c);
    walk_crypto(c);
    return 0;
}

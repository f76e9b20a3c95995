/*
 * Mending what a check has found: refcounts in place, or new refcount structures where the old ones are
 * unusable; then the COPIED flags of the active tables.
 *
 * Nothing here needs an order against a crash but the rebuilding: a refcount that is raised is at
 * worst a leak, one that is lowered belongs to a cluster that nothing refers to, and the flags
 * only say what the refcounts say.  New structures lie in free clusters and are on stable storage before
 * the header names them.
 */
#include "block/qcow2/check.h"
#include "block/qcow2/checksums.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* The overlap check does not apply: what is in use is what the check has counted. */
static int co_fn write_table(Qcow2 *s, uint64_t offset, void *data, uint64_t bytes,
                             const char *what, GError **error)
{
    struct iovec iov = { data, bytes };
    int ret;

    qcow2_sums_gone(s, offset, bytes);     /* the run that follows takes it anew */
    ret = block_node_co_write(s->file, offset, &iov, 1, bytes, 0);

    if (ret < 0)
        fail_errno(error, -ret, "writing %s at offset %#" PRIx64 " of '%s' failed", what, offset,
                   block_node_filename(s->file));
    return ret;
}

/* Refcounts in place. */

static bool mend_counts(Qcow2Check *c, uint64_t index, uint8_t *block)
{
    Qcow2 *s = c->s;
    uint64_t first = index << s->refblock_bits;
    uint64_t n = MIN(1ull << s->refblock_bits, c->clusters - first);
    bool changed = false;

    for (uint64_t i = 0; i < n; i++) {
        uint64_t expected = check_count(c, first + i), stored = qcow2_refcount_read(s, block, i);
        unsigned kind = stored < expected ? BLOCK_FIX_ERRORS : BLOCK_FIX_LEAKS;

        if (stored == expected || !(c->fix & kind) || expected > s->refcount_max)
            continue;
        qcow2_refcount_write(s, block, i, expected);
        changed = true;
    }
    return changed;
}

static int co_fn mend_block(Qcow2Check *c, uint64_t index, uint8_t *block, GError **error)
{
    Qcow2 *s = c->s;
    uint64_t offset = s->reftable[index] & QCOW2_REFTABLE_OFFSET_MASK;
    int ret;

    if (!offset || qcow2_offset_in_cluster(s, offset) || offset >= c->file_bytes)
        return 0;
    ret = qcow2_meta_read(s, offset, block, s->cluster_size, "refcount block", error);
    if (ret == 0 && mend_counts(c, index, block))
        ret = write_table(s, offset, block, s->cluster_size, "refcount block", error);
    return ret;
}

static int co_fn mend_refcounts(Qcow2Check *c, GError **error)
{
    Qcow2 *s = c->s;
    uint8_t *block = qcow2_memory(s, s->cluster_size);
    int ret = 0;

    if (!block) {
        fail(error, ERR_LIMIT, "no memory for a refcount block");
        return -ENOMEM;
    }
    for (uint64_t i = 0; ret == 0 && i < s->reftable_size && i << s->refblock_bits < c->clusters; i++)
        ret = mend_block(c, i, block, error);
    free(block);
    return ret;
}

/* New structures. */

typedef struct Rebuild {
    Qcow2Check *c;
    uint64_t *table;                       /* host byte order */
    uint64_t entries, table_offset, table_clusters;
    uint64_t hint;                         /* no cluster before it is free */
} Rebuild;

/* Room in refs, and in the new table, for all that is counted and for the new structures. */
static bool make_room(Rebuild *r)
{
    Qcow2Check *c = r->c;
    Qcow2 *s = c->s;
    uint64_t per_block = 1ull << s->refblock_bits, per_table_cluster = s->cluster_size / 8;
    uint64_t blocks = c->clusters / per_block + 1, tables = blocks / per_table_cluster + 1;
    uint64_t clusters = c->clusters + 2 * (blocks + tables) + per_block;
    uint32_t *refs = realloc(c->refs, clusters * sizeof(*refs));

    if (!refs)
        return false;
    memset(refs + c->clusters, 0, (clusters - c->clusters) * sizeof(*refs));
    c->refs = refs;
    c->clusters = clusters;
    r->table_clusters = ALIGN_UP(ALIGN_UP(clusters, per_block) / per_block, per_table_cluster) /
                        per_table_cluster;
    r->entries = r->table_clusters * per_table_cluster;
    r->table = calloc(r->entries, sizeof(*r->table));
    return r->table && r->entries * sizeof(*r->table) <= QCOW2_REFTABLE_BYTES_MAX;
}

/* @n free clusters in a row, now in use; 0: there are none. */
static uint64_t take_clusters(Rebuild *r, uint64_t n)
{
    Qcow2Check *c = r->c;
    uint64_t run = 0;

    for (uint64_t i = r->hint; i < c->clusters; i++) {
        run = check_count(c, i) ? 0 : run + 1;
        if (run < n)
            continue;
        for (uint64_t k = i + 1 - n; k <= i; k++)
            c->refs[k]++;
        if (n == 1)
            r->hint = i + 1;
        c->used_end = MAX(c->used_end, i + 1);
        return i + 1 - n;
    }
    return 0;
}

static bool block_is_needed(const Qcow2Check *c, uint64_t index)
{
    uint64_t first = index << c->s->refblock_bits;

    for (uint64_t i = first; i < first + (1ull << c->s->refblock_bits) && i < c->clusters; i++)
        if (check_count(c, i))
            return true;
    return false;
}

/* A block may lie in a part that had none: until there is no more to do. */
static bool place_blocks(Rebuild *r)
{
    Qcow2Check *c = r->c;

    for (bool again = true; again;) {
        again = false;
        for (uint64_t i = 0; i << c->s->refblock_bits < c->clusters; i++) {
            uint64_t cluster;

            if (r->table[i] || !block_is_needed(c, i))
                continue;
            cluster = take_clusters(r, 1);
            if (!cluster)
                return false;
            r->table[i] = cluster << c->s->cluster_bits;
            again = true;
        }
    }
    return true;
}

/* The old structures' own references; their clusters become free when the header names the new ones. */
static void drop_old(Rebuild *r)
{
    Qcow2Check *c = r->c;
    Qcow2 *s = c->s;
    uint64_t first = s->header.refcount_table_offset >> s->cluster_bits;

    for (uint64_t i = first; i < first + s->header.refcount_table_clusters && i < c->clusters; i++)
        if (check_count(c, i))
            c->refs[i]--;
    for (uint64_t i = 0; i < s->reftable_size; i++) {
        uint64_t offset = s->reftable[i] & QCOW2_REFTABLE_OFFSET_MASK;

        if (offset && !qcow2_offset_in_cluster(s, offset) && offset < c->file_bytes)
            c->refs[offset >> s->cluster_bits]--;
    }
}

static int co_fn write_blocks(Rebuild *r, GError **error)
{
    Qcow2Check *c = r->c;
    Qcow2 *s = c->s;
    uint8_t *block = qcow2_memory(s, s->cluster_size);
    int ret = 0;

    if (!block) {
        fail(error, ERR_LIMIT, "no memory for a refcount block");
        return -ENOMEM;
    }
    for (uint64_t i = 0; ret == 0 && i < r->entries; i++) {
        uint64_t first = i << s->refblock_bits;

        if (!r->table[i])
            continue;
        memset(block, 0, s->cluster_size);
        for (uint64_t k = 0; k < 1ull << s->refblock_bits && first + k < c->clusters; k++)
            qcow2_refcount_write(s, block, k, MIN(check_count(c, first + k), s->refcount_max));
        ret = write_table(s, r->table[i], block, s->cluster_size, "refcount block", error);
    }
    free(block);
    return ret;
}

static int co_fn write_new_table(Rebuild *r, GError **error)
{
    uint64_t bytes = r->entries * sizeof(uint64_t);
    uint64_t *table = qcow2_memory(r->c->s, bytes);
    int ret;

    if (!table) {
        fail(error, ERR_LIMIT, "no memory for a refcount table");
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < r->entries; i++)
        table[i] = GUINT64_TO_BE(r->table[i]);
    ret = write_table(r->c->s, r->table_offset, table, bytes, "refcount table", error);
    free(table);
    return ret == 0 ? qcow2_flush_file(r->c->s, error) : ret;
}

static void mark_structures(Qcow2 *s, void (*mark)(Qcow2 *s, unsigned kind, uint64_t offset,
                                                   uint64_t bytes))
{
    mark(s, QCOW2_OL_REFCOUNT_TABLE, s->header.refcount_table_offset,
         (uint64_t)s->header.refcount_table_clusters << s->cluster_bits);
    for (uint64_t i = 0; i < s->reftable_size; i++) {
        uint64_t offset = s->reftable[i] & QCOW2_REFTABLE_OFFSET_MASK;

        if (offset && !qcow2_offset_in_cluster(s, offset))
            mark(s, QCOW2_OL_REFCOUNT_BLOCK, offset, s->cluster_size);
    }
}

/* The header names the new structures, on disk and in memory. */
static int co_fn switch_over(Rebuild *r, GError **error)
{
    Qcow2 *s = r->c->s;
    uint64_t old_offset = s->header.refcount_table_offset;
    uint32_t old_clusters = s->header.refcount_table_clusters;
    int ret;

    s->header.refcount_table_offset = r->table_offset;
    s->header.refcount_table_clusters = r->table_clusters;
    ret = qcow2_header_write(s, error);
    if (ret == 0)
        ret = qcow2_flush_file(s, error);
    s->header.refcount_table_offset = old_offset;
    s->header.refcount_table_clusters = old_clusters;
    if (ret < 0)
        return ret;
    mark_structures(s, qcow2_overlap_remove);
    s->header.refcount_table_offset = r->table_offset;
    s->header.refcount_table_clusters = r->table_clusters;
    g_hash_table_remove_all(s->reftable_dirty);
    free(s->reftable);
    s->reftable = g_steal_pointer(&r->table);
    s->reftable_size = r->entries;
    mark_structures(s, qcow2_overlap_add);
    return 0;
}

static int co_fn rebuild_placed(Rebuild *r, GError **error)
{
    int ret = write_blocks(r, error);

    if (ret == 0)
        ret = write_new_table(r, error);
    return ret == 0 ? switch_over(r, error) : ret;
}

static int co_fn rebuild(Qcow2Check *c, GError **error)
{
    Rebuild r = { .c = c };
    uint64_t first = 0;
    int ret = -EFBIG;

    check_say(c, true, "Rebuilding refcount structure");
    if (make_room(&r))
        first = take_clusters(&r, r.table_clusters);
    r.table_offset = first << c->s->cluster_bits;
    if (!first || !place_blocks(&r)) {
        fail(error, ERR_LIMIT, "there is no room for new refcount structures in '%s'",
             block_node_filename(c->s->file));
    } else {
        drop_old(&r);
        ret = rebuild_placed(&r, error);
    }
    free(r.table);
    return ret;
}

/* COPIED flags. */

/* The entry with the flag that its cluster's count asks for. */
static uint64_t right_entry(Qcow2Check *c, uint64_t entry)
{
    Qcow2 *s = c->s;
    uint64_t offset = entry & QCOW2_OFFSET_MASK, cluster = offset >> s->cluster_bits;

    if (!offset || entry & QCOW2_COMPRESSED || qcow2_offset_in_cluster(s, offset) ||
        cluster >= c->clusters)
        return entry;
    return check_count(c, cluster) == 1 ? entry | QCOW2_COPIED : entry & ~QCOW2_COPIED;
}

static int co_fn mend_l2(Qcow2Check *c, uint64_t offset, uint8_t *table, GError **error)
{
    Qcow2 *s = c->s;
    bool changed = false;
    int ret = qcow2_meta_read(s, offset, table, s->cluster_size, "L2 table", error);

    if (ret < 0)
        return ret;
    for (uint64_t i = 0; i < 1ull << s->l2_bits; i++) {
        uint8_t *at = table + i * s->l2_entry_bytes;
        uint64_t entry = ld_be64(at), right = right_entry(c, entry);

        if (entry != right) {
            st_be64(at, right);
            changed = true;
        }
    }
    return changed ? write_table(s, offset, table, s->cluster_size, "L2 table", error) : 0;
}

static int co_fn write_l1(Qcow2 *s, GError **error)
{
    uint64_t bytes = s->header.l1_size * sizeof(uint64_t);
    uint64_t *table = qcow2_memory(s, bytes);
    int ret;

    if (!table) {
        fail(error, ERR_LIMIT, "no memory for an L1 table");
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < s->header.l1_size; i++)
        table[i] = GUINT64_TO_BE(s->l1[i]);
    ret = write_table(s, s->header.l1_table_offset, table, bytes, "L1 table", error);
    free(table);
    return ret;
}

/* External data files: their clusters have no counts, and COPIED is always set. */
static int co_fn mend_copied(Qcow2Check *c, GError **error)
{
    Qcow2 *s = c->s;
    uint8_t *table = qcow2_memory(s, s->cluster_size);
    bool l1_changed = false;
    int ret = 0;

    if (!table) {
        fail(error, ERR_LIMIT, "no memory for an L2 table");
        return -ENOMEM;
    }
    for (uint64_t i = 0; ret == 0 && i < s->header.l1_size; i++) {
        uint64_t right = right_entry(c, s->l1[i]), offset = right & QCOW2_OFFSET_MASK;

        if (right != s->l1[i]) {
            __atomic_store_n(&s->l1[i], right, __ATOMIC_RELEASE);
            l1_changed = true;
        }
        if (offset && !qcow2_offset_in_cluster(s, offset) && offset < c->file_bytes &&
            !s->has_data_file)
            ret = mend_l2(c, offset, table, error);
    }
    free(table);
    return ret == 0 && l1_changed ? write_l1(s, error) : ret;
}

/* Where free clusters are is found anew. */
static void look_anew(Qcow2 *s)
{
    s->free_hint = 0;
    s->byte_offset = 0;
    qcow2_not_fresh(s, ALIGN_UP((uint64_t)block_node_size(s->file), s->cluster_size));
}

int co_fn qcow2_check_repair(Qcow2Check *c, GError **error)
{
    Qcow2 *s = c->s;
    int ret = 0;

    if (c->rebuild && c->fix & BLOCK_FIX_ERRORS)
        ret = rebuild(c, error);
    else if (c->wrong_refcounts)
        ret = mend_refcounts(c, error);
    if (ret == 0 && c->wrong_copied && c->fix & BLOCK_FIX_ERRORS)
        ret = mend_copied(c, error);
    if (ret == 0)
        ret = qcow2_flush_file(s, error);
    look_anew(s);
    return ret;
}

int co_fn qcow2_check_rebuild(Qcow2Check *c, GError **error)
{
    int ret = rebuild(c, error);

    look_anew(c->s);
    return ret;
}

/*
 * Checkpoints: writing what is dirty in an order that makes a crash at any point harmless.
 *
 *   1. refcounts, then (after a flush) the refcount table's entries for new refcount blocks
 *   2. a flush: with it, the data that was written so far
 *   3. L2 entries and L1 entries
 *   4. a flush
 *   5. what these entries no longer refer to is freed (free.c)
 *
 * What step 3 writes is copied before step 1 begins.  A request changes an L2 entry when its data is
 * written and its cluster's refcount is raised, so all that a copied entry needs is made stable by
 * steps 1 and 2; requests that come in between are the next checkpoint's.  A cluster is put among
 * the freed ones after the L2 entry that referred to it was changed: those taken before the copies are
 * made are off stable storage after step 4.
 */
#include "block/qcow2/checksums.h"
#include "block/iov.h"
#include <stdlib.h>

enum { WRITES_AT_ONCE = 32, PARTS_MAX = 64 };

/* Writing copies. */

typedef struct CopyWrite {
    Qcow2 *s;
    Qcow2Group *group;
    GArray *copies;
    unsigned first, n;                     /* in a row on the host */
    const char *what;
    unsigned own;
} CopyWrite;

static int co_fn write_row(CopyWrite *w)
{
    struct iovec iov[PARTS_MAX];
    uint64_t bytes = 0, offset = g_array_index(w->copies, Qcow2Copy, w->first).offset;

    for (unsigned i = 0; i < w->n; i++) {
        Qcow2Copy *copy = &g_array_index(w->copies, Qcow2Copy, w->first + i);

        iov[i] = (struct iovec){ copy->data, copy->bytes };
        bytes += copy->bytes;
    }
    return qcow2_table_writev(w->s, offset, iov, w->n, bytes, w->what, w->own, NULL);
}

static void co_fn write_row_run(void *opaque)
{
    CopyWrite *w = opaque;
    int ret = write_row(w);

    for (unsigned i = 0; i < w->n; i++)
        g_array_index(w->copies, Qcow2Copy, w->first + i).written = ret == 0;
    qcow2_group_done(w->group, ret);
    g_free(w);
}

static unsigned row_length(GArray *copies, unsigned first)
{
    unsigned n = 1;

    while (first + n < copies->len && n < PARTS_MAX) {
        Qcow2Copy *last = &g_array_index(copies, Qcow2Copy, first + n - 1);

        if (last[1].offset != last->offset + last->bytes)
            break;
        n++;
    }
    return n;
}

static int co_fn write_copies(Qcow2 *s, GArray *copies, const char *what, unsigned own,
                              const char *event)
{
    Qcow2Group group = { .max = WRITES_AT_ONCE };

    if (copies->len)
        block_debug_event(s->file, event);

    for (unsigned i = 0, n; i < copies->len; i += n) {
        CopyWrite *w = g_new(CopyWrite, 1);

        n = row_length(copies, i);
        *w = (CopyWrite){ s, &group, copies, i, n, what, own };
        qcow2_group_start(&group, write_row_run, w);
    }
    return qcow2_group_wait(&group);
}

/* The tables that are whole in memory: L1 and refcount table, by parts: sectors, or what has one checksum. */

enum { SECTOR = 512 };

static uint64_t part_bytes(const Qcow2 *s)
{
    return s->sums ? 1ull << s->sums->block_bits : SECTOR;
}

static uint64_t part_entries(const Qcow2 *s)
{
    return part_bytes(s) / 8;
}

static void mark_part(Qcow2 *s, GHashTable *dirty, uint64_t index)
{
    if (g_hash_table_add(dirty, GSIZE_TO_POINTER(index / part_entries(s))))
        __atomic_fetch_add(&s->tables_dirty, 1, __ATOMIC_SEQ_CST);
}

void qcow2_mark_l1(Qcow2 *s, uint64_t index, uint64_t value)
{
    pthread_mutex_lock(&s->table_mutex);
    __atomic_store_n(&s->l1[index], value, __ATOMIC_RELEASE);
    mark_part(s, s->l1_dirty, index);
    pthread_mutex_unlock(&s->table_mutex);
}

void qcow2_mark_reftable(Qcow2 *s, uint64_t index, uint64_t value)
{
    pthread_mutex_lock(&s->table_mutex);
    s->reftable[index] = value;
    mark_part(s, s->reftable_dirty, index);
    pthread_mutex_unlock(&s->table_mutex);
}

typedef struct Table {
    GHashTable *dirty;
    const uint64_t *entries;
    uint64_t size, offset;                 /* entries that are on disk; where */
} Table;

/* Under table_mutex. */
static Table table_of(Qcow2 *s, bool l1)
{
    if (l1)
        return (Table){ s->l1_dirty, s->l1, s->header.l1_size, s->header.l1_table_offset };
    return (Table){ s->reftable_dirty, s->reftable,
                    MIN(s->reftable_size,
                        (uint64_t)s->header.refcount_table_clusters << (s->cluster_bits - 3)),
                    s->header.refcount_table_offset };
}

static Qcow2Copy copy_part(Qcow2 *s, const Table *table, uint64_t part)
{
    uint64_t first = part * part_entries(s), n = MIN(part_entries(s), table->size - first);
    Qcow2Copy copy = { table->offset + first * 8, n * 8, qcow2_memory(s, part_bytes(s)), false };

    for (uint64_t i = 0; copy.data && i < n; i++)
        st_be64(copy.data + i * 8, __atomic_load_n(&table->entries[first + i], __ATOMIC_RELAXED));
    return copy;
}

static int by_offset(gconstpointer a, gconstpointer b)
{
    uint64_t x = ((const Qcow2Copy *)a)->offset, y = ((const Qcow2Copy *)b)->offset;

    return (x > y) - (x < y);
}

/* A refcount table that is being made larger has parts in memory that are not on disk yet: they wait. */
static GArray *copy_table(Qcow2 *s, bool l1)
{
    GArray *copies = g_array_new(FALSE, FALSE, sizeof(Qcow2Copy));
    GHashTableIter iter;
    gpointer key;
    Table table;

    pthread_mutex_lock(&s->table_mutex);
    table = table_of(s, l1);
    g_hash_table_iter_init(&iter, table.dirty);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        Qcow2Copy copy;

        if (GPOINTER_TO_SIZE(key) * part_entries(s) >= table.size)
            continue;
        copy = copy_part(s, &table, GPOINTER_TO_SIZE(key));
        if (!copy.data)
            break;
        g_array_append_val(copies, copy);
        g_hash_table_iter_remove(&iter);
    }
    pthread_mutex_unlock(&s->table_mutex);
    g_array_sort(copies, by_offset);
    return copies;
}

static void table_written(Qcow2 *s, bool l1, GArray *copies)
{
    Table table;

    pthread_mutex_lock(&s->table_mutex);
    table = table_of(s, l1);
    for (unsigned i = 0; i < copies->len; i++) {
        Qcow2Copy *copy = &g_array_index(copies, Qcow2Copy, i);
        uint64_t part = (copy->offset - table.offset) / part_bytes(s);

        if (copy->written || !g_hash_table_add(table.dirty, GSIZE_TO_POINTER(part)))
            __atomic_fetch_sub(&s->tables_dirty, 1, __ATOMIC_SEQ_CST);
        free(copy->data);
    }
    pthread_mutex_unlock(&s->table_mutex);
    g_array_free(copies, TRUE);
}

/* A flush failed: what it should have made stable may be lost, so it is written again. */
static void unwrite(GArray *copies)
{
    for (unsigned i = 0; i < copies->len; i++)
        g_array_index(copies, Qcow2Copy, i).written = false;
}

/* Step 1 and 2.  Under flush_lock.  The table first: its entries' blocks are in the copies then. */
static int co_fn write_refcounts(Qcow2 *s)
{
    GArray *table = copy_table(s, false);
    GArray *blocks = qcow2_cache_copy_dirty(&s->refcount_cache);
    int ret = write_copies(s, blocks, "refcount block", QCOW2_OL_REFCOUNT_BLOCK,
                           "refblock_update_part");

    if (ret == 0 && table->len)
        ret = qcow2_flush_file(s, NULL);
    if (ret == 0)
        ret = write_copies(s, table, "refcount table", QCOW2_OL_REFCOUNT_TABLE,
                           "refblock_alloc_hookup");
    if (ret == 0)
        ret = qcow2_flush_file(s, NULL);
    if (ret < 0) {
        unwrite(blocks);
        unwrite(table);
    }
    qcow2_cache_written(&s->refcount_cache, blocks);
    table_written(s, false, table);
    return ret;
}

int co_fn qcow2_write_refcounts(Qcow2 *s)
{
    int ret;

    co_mutex_lock(&s->flush_lock);
    ret = write_refcounts(s);
    co_mutex_unlock(&s->flush_lock);
    return ret;
}

static int co_fn flush_data(Qcow2 *s)
{
    return s->has_data_file ? block_node_co_flush(s->data_file) : 0;
}

/* Step 3 and 4. */
static int co_fn write_mappings(Qcow2 *s, GArray *l2, GArray *l1)
{
    int ret = write_copies(s, l2, "L2 table", QCOW2_OL_ACTIVE_L2, "l2_update");

    if (ret == 0)
        ret = write_copies(s, l1, "L1 table", QCOW2_OL_ACTIVE_L1, "l1_update");
    if (ret == 0 && (l2->len || l1->len))
        ret = qcow2_flush_file(s, NULL);
    if (ret < 0) {
        unwrite(l2);
        unwrite(l1);
    }
    return ret;
}

static int co_fn checkpoint(Qcow2 *s)
{
    GArray *frees = qcow2_frees_take(s);
    GArray *l1 = copy_table(s, true);
    GArray *l2 = qcow2_cache_copy_dirty(&s->l2_cache);
    int ret = write_refcounts(s);

    if (ret == 0)
        ret = flush_data(s);
    if (ret == 0)
        ret = write_mappings(s, l2, l1);
    qcow2_cache_written(&s->l2_cache, l2);
    table_written(s, true, l1);
    qcow2_frees_give(s, frees, ret == 0);
    return ret;
}

static bool nothing_dirty(Qcow2 *s)
{
    return !__atomic_load_n(&s->l2_cache.dirty, __ATOMIC_SEQ_CST) &&
           !__atomic_load_n(&s->refcount_cache.dirty, __ATOMIC_SEQ_CST) &&
           !__atomic_load_n(&s->tables_dirty, __ATOMIC_SEQ_CST) && !qcow2_frees_waiting(s);
}

int co_fn qcow2_checkpoint(Qcow2 *s)
{
    int ret;

    if (nothing_dirty(s)) {
        ret = qcow2_flush_file(s, NULL);
        return ret == 0 ? flush_data(s) : ret;
    }
    if (__atomic_load_n(&s->corrupt, __ATOMIC_RELAXED))
        return -EIO;
    co_mutex_lock(&s->flush_lock);
    ret = checkpoint(s);
    co_mutex_unlock(&s->flush_lock);
    return ret;
}

/* Too much in memory. */

enum { FREES_MAX = 16384 };

bool qcow2_pressure(Qcow2 *s)
{
    return __atomic_load_n(&s->l2_cache.dirty, __ATOMIC_RELAXED) > (int)(s->l2_cache.limit / 2) ||
           __atomic_load_n(&s->refcount_cache.dirty, __ATOMIC_RELAXED) >
               (int)(s->refcount_cache.limit / 2) ||
           qcow2_frees_waiting(s) > FREES_MAX;
}

/* A failure stays for the next flush to meet, and tell. */
void co_fn qcow2_relieve(Qcow2 *s)
{
    Qcow2Ticket ticket = qcow2_enter_upkeep(s);

    if (qcow2_pressure(s))
        qcow2_checkpoint(s);
    qcow2_reap(s);
    qcow2_leave(s, &ticket);
}

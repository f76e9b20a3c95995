/*
 * Which host clusters hold metadata: a bit for each, in leaves that exist where there is any.  A write
 * that is meant for something else must not touch them: the image is corrupt then, and the write
 * would make it worse.
 *
 * Looking takes no lock: leaves stay until the image is closed, and the array of them, when it gets too
 * short, is replaced by a longer one while the old one stays readable.
 */
#include "block/qcow2/qcow2.h"
#include <inttypes.h>
#include <string.h>

enum { LEAF_BITS = 15, LEAF_WORDS = (1 << LEAF_BITS) / 64, LEAVES_MAX = 1 << 20 };

typedef struct Leaves {
    unsigned n;
    uint64_t *of[];                        /* atomic pointers to words that are atomic */
} Leaves;

struct Qcow2Overlap {
    pthread_mutex_t mutex;                 /* for changes */
    Leaves *leaves;                        /* atomic */
    GPtrArray *garbage;                    /* mutex: former arrays and all leaves */
};

static const struct {
    unsigned kind;
    const char *name;
} kinds[] = {
    { QCOW2_OL_MAIN_HEADER, "qcow2_header" },
    { QCOW2_OL_ACTIVE_L1, "active L1 table" },
    { QCOW2_OL_ACTIVE_L2, "active L2 table" },
    { QCOW2_OL_REFCOUNT_TABLE, "refcount table" },
    { QCOW2_OL_REFCOUNT_BLOCK, "refcount block" },
    { QCOW2_OL_SNAPSHOT_TABLE, "snapshot table" },
    { QCOW2_OL_INACTIVE_L1, "inactive L1 table" },
    { QCOW2_OL_INACTIVE_L2, "inactive L2 table" },
    { QCOW2_OL_BITMAP_DIRECTORY, "bitmap directory" },
};

/* The bits. */

static uint64_t *word_of(Qcow2 *s, uint64_t cluster)
{
    Leaves *leaves = __atomic_load_n(&s->overlap->leaves, __ATOMIC_ACQUIRE);
    uint64_t index = cluster >> LEAF_BITS;
    uint64_t *leaf;

    if (!leaves || index >= leaves->n)
        return NULL;
    leaf = __atomic_load_n(&leaves->of[index], __ATOMIC_ACQUIRE);
    return leaf ? leaf + (cluster & ((1 << LEAF_BITS) - 1)) / 64 : NULL;
}

bool qcow2_overlap_hit(Qcow2 *s, uint64_t offset, uint64_t bytes)
{
    uint64_t end = qcow2_clusters(s, offset + bytes);

    if (!s->overlap)
        return false;
    for (uint64_t cluster = offset >> s->cluster_bits; cluster < end; cluster++) {
        uint64_t *word = word_of(s, cluster);

        if (G_UNLIKELY(word && __atomic_load_n(word, __ATOMIC_RELAXED) >> cluster % 64 & 1))
            return true;
    }
    return false;
}

/* Under the mutex. */
static uint64_t *make_word(Qcow2 *s, uint64_t cluster)
{
    Leaves *leaves = s->overlap->leaves, *longer;
    uint64_t index = cluster >> LEAF_BITS;

    if (!leaves || index >= leaves->n) {
        unsigned n = MAX(index + 1, leaves ? leaves->n * 2 : 16);

        longer = g_malloc0(sizeof(Leaves) + n * sizeof(uint64_t *));
        if (leaves)
            memcpy(longer->of, leaves->of, leaves->n * sizeof(uint64_t *));
        longer->n = n;
        g_ptr_array_add(s->overlap->garbage, longer);
        __atomic_store_n(&s->overlap->leaves, longer, __ATOMIC_RELEASE);
        leaves = longer;
    }
    if (!leaves->of[index]) {
        uint64_t *leaf = g_new0(uint64_t, LEAF_WORDS);

        g_ptr_array_add(s->overlap->garbage, leaf);
        __atomic_store_n(&leaves->of[index], leaf, __ATOMIC_RELEASE);
    }
    return word_of(s, cluster);
}

static void change(Qcow2 *s, unsigned kind, uint64_t offset, uint64_t bytes, bool set)
{
    uint64_t end = qcow2_clusters(s, offset + bytes);

    if (!s->overlap || !(s->overlap_mask & kind))
        return;
    pthread_mutex_lock(&s->overlap->mutex);
    for (uint64_t cluster = offset >> s->cluster_bits; cluster < end; cluster++) {
        uint64_t *word;

        if (cluster >> LEAF_BITS >= LEAVES_MAX)
            break;                         /* of a corrupt image: refused where it is used */
        word = set ? make_word(s, cluster) : word_of(s, cluster);
        if (set)
            __atomic_fetch_or(word, 1ull << cluster % 64, __ATOMIC_RELAXED);
        else if (word)
            __atomic_fetch_and(word, ~(1ull << cluster % 64), __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&s->overlap->mutex);
}

void qcow2_overlap_add(Qcow2 *s, unsigned kind, uint64_t offset, uint64_t bytes)
{
    change(s, kind, offset, bytes, true);
}

void qcow2_overlap_remove(Qcow2 *s, unsigned kind, uint64_t offset, uint64_t bytes)
{
    change(s, kind, offset, bytes, false);
}

/* What it is that a bit stands for: looked up only when there is an overlap, or an own write. */

static bool ranges_overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
    return a_bytes && b_bytes && a < b + b_bytes && b < a + a_bytes;
}

static bool table_names(Qcow2 *s, const uint64_t *table, uint64_t n, uint64_t mask, uint64_t offset,
                        uint64_t bytes)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t at = __atomic_load_n(&table[i], __ATOMIC_RELAXED) & mask;

        if (at && ranges_overlap(at, s->cluster_size, offset, bytes))
            return true;
    }
    return false;
}

static bool snapshots_overlap(Qcow2 *s, uint64_t offset, uint64_t bytes)
{
    for (unsigned i = 0; s->snapshots && i < s->snapshots->len; i++) {
        Qcow2Snapshot *snapshot = &g_array_index(s->snapshots, Qcow2Snapshot, i);

        if (ranges_overlap(snapshot->l1_table_offset, (uint64_t)snapshot->l1_size * 8, offset,
                           bytes))
            return true;
    }
    return false;
}

static bool is_kind(Qcow2 *s, unsigned kind, uint64_t offset, uint64_t bytes)
{
    const Qcow2Header *h = &s->header;

    switch (kind) {
    case QCOW2_OL_MAIN_HEADER:
        return offset < s->cluster_size;
    case QCOW2_OL_ACTIVE_L1:
        return ranges_overlap(h->l1_table_offset, (uint64_t)h->l1_size * 8, offset, bytes);
    case QCOW2_OL_ACTIVE_L2:
        return table_names(s, s->l1, h->l1_size, QCOW2_OFFSET_MASK, offset, bytes);
    case QCOW2_OL_REFCOUNT_TABLE:
        return ranges_overlap(h->refcount_table_offset,
                              (uint64_t)h->refcount_table_clusters << s->cluster_bits, offset,
                              bytes);
    case QCOW2_OL_REFCOUNT_BLOCK:
        return table_names(s, s->reftable, s->reftable_size, QCOW2_REFTABLE_OFFSET_MASK, offset,
                           bytes);
    case QCOW2_OL_INACTIVE_L1:
        return snapshots_overlap(s, offset, bytes);
    default:
        return true;                       /* by what is left: the snapshot table, bitmaps */
    }
}

/* A write for @own that overlaps nothing of another kind is what it says. */
int co_fn qcow2_check_overlap(Qcow2 *s, unsigned own, uint64_t offset, uint64_t bytes)
{
    uint64_t first = ALIGN_DOWN(offset, s->cluster_size);
    uint64_t length = ALIGN_UP(offset + bytes, s->cluster_size) - first;   /* clusters are somebody's whole */

    if (!qcow2_overlap_hit(s, offset, bytes))
        return 0;
    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (own & kinds[i].kind && is_kind(s, kinds[i].kind, first, length))
            return 0;
        if (!(s->overlap_mask & kinds[i].kind & ~own))
            continue;
        if (kinds[i].kind < QCOW2_OL_SNAPSHOT_TABLE && is_kind(s, kinds[i].kind, first, length))
            return qcow2_corruption(s, true, offset, bytes, "Preventing invalid write on metadata "
                                    "(overlaps with %s) at offset 0x%" PRIx64, kinds[i].name,
                                    offset);
    }
    if (own)
        return 0;
    return qcow2_corruption(s, true, offset, bytes, "Preventing invalid write on metadata (overlaps "
                            "with a snapshot's or bitmap's tables) at offset 0x%" PRIx64, offset);
}

/* At opening. */

static void add_table(Qcow2 *s, unsigned kind, const uint64_t *table, uint64_t n, uint64_t mask)
{
    for (uint64_t i = 0; i < n; i++)
        if (table[i] & mask)
            change(s, kind, table[i] & mask, s->cluster_size, true);
}

void qcow2_overlap_init(Qcow2 *s)
{
    const Qcow2Header *h = &s->header;

    if (!s->overlap_mask)
        return;
    s->overlap = g_new0(Qcow2Overlap, 1);
    pthread_mutex_init(&s->overlap->mutex, NULL);
    s->overlap->garbage = g_ptr_array_new_with_free_func(g_free);
    change(s, QCOW2_OL_MAIN_HEADER, 0, s->cluster_size, true);
    change(s, QCOW2_OL_ACTIVE_L1, h->l1_table_offset, (uint64_t)h->l1_size * 8, true);
    add_table(s, QCOW2_OL_ACTIVE_L2, s->l1, h->l1_size, QCOW2_OFFSET_MASK);
    change(s, QCOW2_OL_REFCOUNT_TABLE, h->refcount_table_offset,
           (uint64_t)h->refcount_table_clusters << s->cluster_bits, true);
    add_table(s, QCOW2_OL_REFCOUNT_BLOCK, s->reftable, s->reftable_size,
              QCOW2_REFTABLE_OFFSET_MASK);
    for (unsigned i = 0; s->snapshots && i < s->snapshots->len; i++) {
        Qcow2Snapshot *snapshot = &g_array_index(s->snapshots, Qcow2Snapshot, i);

        change(s, QCOW2_OL_INACTIVE_L1, snapshot->l1_table_offset, (uint64_t)snapshot->l1_size * 8,
               true);
    }
}

void qcow2_overlap_free(Qcow2 *s)
{
    if (!s->overlap)
        return;
    g_ptr_array_free(s->overlap->garbage, TRUE);
    pthread_mutex_destroy(&s->overlap->mutex);
    g_free(s->overlap);
}

/*
 * Which host clusters hold metadata: a bit for each, in leaves that exist where there is any.  A write
 * that is meant for something else must not touch them: the image is corrupt then, and the write
 * would make it worse.
 *
 * Looking takes no lock: leaves stay until the image is closed, and the array of them, when it gets too
 * short, is replaced by a longer one while the old one stays readable.
 *
 * L2 tables of snapshots have a map of their own, as they may be in use by the active disk, too.  It is made
 * anew, from the snapshots' L1 tables, when snapshots change, which is when nobody else is there.
 */
#include "block/qcow2/snapshot.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { LEAF_BITS = 15, LEAF_WORDS = (1 << LEAF_BITS) / 64 };
#define CLUSTERS_MAX (1ull << (LEAF_BITS + 20))

typedef struct Leaves {
    unsigned n;
    uint64_t *of[];                        /* atomic pointers to words that are atomic */
} Leaves;

typedef struct Map {
    Leaves *leaves;                        /* atomic */
    GPtrArray *garbage;                    /* mutex: former arrays and all leaves */
} Map;

struct Qcow2Overlap {
    pthread_mutex_t mutex;                 /* for changes */
    uint64_t end;                          /* clusters from there on are left out */
    Map map;
    Map inactive_l2;                       /* changes as a whole under the exclusive gate */
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

static uint64_t *word_of(const Map *map, uint64_t cluster)
{
    Leaves *leaves = __atomic_load_n(&map->leaves, __ATOMIC_ACQUIRE);
    uint64_t index = cluster >> LEAF_BITS;
    uint64_t *leaf;

    if (!leaves || index >= leaves->n)
        return NULL;
    leaf = __atomic_load_n(&leaves->of[index], __ATOMIC_ACQUIRE);
    return leaf ? leaf + (cluster & ((1 << LEAF_BITS) - 1)) / 64 : NULL;
}

/* Of the word of @cluster: it, and those after it that come before @end. */
static uint64_t bits_of(uint64_t cluster, uint64_t end)
{
    uint64_t n = MIN(end - cluster, 64 - cluster % 64);

    return ~0ull >> (64 - n) << cluster % 64;
}

static uint64_t next_word(uint64_t cluster)
{
    return (cluster | 63) + 1;
}

static bool map_hit(const Qcow2 *s, const Map *map, uint64_t offset, uint64_t bytes)
{
    uint64_t end = qcow2_clusters(s, offset + bytes);

    for (uint64_t at = offset >> s->cluster_bits; at < end; at = next_word(at)) {
        uint64_t *word = word_of(map, at);

        if (G_UNLIKELY(word && __atomic_load_n(word, __ATOMIC_RELAXED) & bits_of(at, end)))
            return true;
    }
    return false;
}

bool qcow2_overlap_hit(Qcow2 *s, uint64_t offset, uint64_t bytes)
{
    if (!s->overlap)
        return false;
    return map_hit(s, &s->overlap->map, offset, bytes) ||
           (G_UNLIKELY(s->overlap->inactive_l2.leaves) &&
            map_hit(s, &s->overlap->inactive_l2, offset, bytes));
}

/* Under the mutex. */
static uint64_t *make_word(Map *map, uint64_t cluster)
{
    Leaves *leaves = map->leaves, *longer;
    uint64_t index = cluster >> LEAF_BITS;

    if (!leaves || index >= leaves->n) {
        unsigned n = MAX(index + 1, leaves ? leaves->n * 2 : 16);

        longer = g_malloc0(sizeof(Leaves) + n * sizeof(uint64_t *));
        if (leaves)
            memcpy(longer->of, leaves->of, leaves->n * sizeof(uint64_t *));
        longer->n = n;
        g_ptr_array_add(map->garbage, longer);
        __atomic_store_n(&map->leaves, longer, __ATOMIC_RELEASE);
        leaves = longer;
    }
    if (!leaves->of[index]) {
        uint64_t *leaf = g_new0(uint64_t, LEAF_WORDS);

        g_ptr_array_add(map->garbage, leaf);
        __atomic_store_n(&leaves->of[index], leaf, __ATOMIC_RELEASE);
    }
    return word_of(map, cluster);
}

/* A corrupt image may name the same long range for each of 65536 snapshots: what is set is only looked at. */
static void change_map(Qcow2 *s, Map *map, uint64_t offset, uint64_t bytes, bool set)
{
    uint64_t end = qcow2_clusters(s, offset + bytes);

    pthread_mutex_lock(&s->overlap->mutex);
    for (uint64_t at = offset >> s->cluster_bits; at < end; at = next_word(at)) {
        uint64_t bits = bits_of(at, end), *word;

        if (at >= s->overlap->end)
            break;                         /* of a corrupt image: refused where it is used */
        word = set ? make_word(map, at) : word_of(map, at);
        if (set && ~__atomic_load_n(word, __ATOMIC_RELAXED) & bits)
            __atomic_fetch_or(word, bits, __ATOMIC_RELAXED);
        else if (!set && word)
            __atomic_fetch_and(word, ~bits, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&s->overlap->mutex);
}

static void change(Qcow2 *s, unsigned kind, uint64_t offset, uint64_t bytes, bool set)
{
    if (s->overlap && s->overlap_mask & kind)
        change_map(s, &s->overlap->map, offset, bytes, set);
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
    case QCOW2_OL_SNAPSHOT_TABLE:
        return ranges_overlap(h->snapshots_offset, s->snapshot_table_bytes, offset, bytes);
    case QCOW2_OL_INACTIVE_L1:
        return snapshots_overlap(s, offset, bytes);
    case QCOW2_OL_INACTIVE_L2:
        return map_hit(s, &s->overlap->inactive_l2, offset, bytes);
    default:
        return ranges_overlap(s->bitmaps_offset, s->bitmaps_length, offset, bytes);
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
        if (s->overlap_mask & kinds[i].kind & ~own && is_kind(s, kinds[i].kind, first, length))
            return qcow2_corruption(s, true, offset, bytes, "Preventing invalid write on metadata "
                                    "(overlaps with %s) at offset 0x%" PRIx64, kinds[i].name,
                                    offset);
    }
    if (own)
        return 0;
    return qcow2_corruption(s, true, offset, bytes, "Preventing invalid write on metadata at offset "
                            "0x%" PRIx64, offset);
}

/* At opening, and when snapshots have changed. */

/* While tables are read that may say anything: what lies far behind the file's end takes no memory. */
static uint64_t believable_end(const Qcow2 *s)
{
    uint64_t clusters = qcow2_clusters(s, (uint64_t)block_node_size(s->file));

    return MIN(ALIGN_UP(clusters, 1ull << LEAF_BITS) + (2ull << LEAF_BITS), CLUSTERS_MAX);
}

static void add_table(Qcow2 *s, unsigned kind, const uint64_t *table, uint64_t n, uint64_t mask)
{
    for (uint64_t i = 0; i < n; i++)
        if (table[i] & mask)
            change(s, kind, table[i] & mask, s->cluster_size, true);
}

static void map_init(Map *map)
{
    *map = (Map){ .garbage = g_ptr_array_new_with_free_func(g_free) };
}

static void map_clear(Map *map)
{
    g_ptr_array_free(map->garbage, TRUE);
    *map = (Map){ NULL };
}

int co_fn qcow2_overlap_snapshots(Qcow2 *s, GError **error)
{
    int ret = 0;

    if (!s->overlap || !(s->overlap_mask & QCOW2_OL_INACTIVE_L2))
        return 0;
    map_clear(&s->overlap->inactive_l2);
    map_init(&s->overlap->inactive_l2);
    s->overlap->end = believable_end(s);
    for (unsigned i = 0; s->snapshots && i < s->snapshots->len; i++) {
        const Qcow2Snapshot *sn = &g_array_index(s->snapshots, Qcow2Snapshot, i);
        uint64_t *l1 = qcow2_l1_read(s, sn->l1_table_offset, sn->l1_size, ret ? NULL : error);

        if (!l1)
            ret = -EIO;
        for (uint64_t k = 0; l1 && k < sn->l1_size; k++)
            if (l1[k] & QCOW2_OFFSET_MASK)
                change_map(s, &s->overlap->inactive_l2, l1[k] & QCOW2_OFFSET_MASK,
                           s->cluster_size, true);
        free(l1);
    }
    s->overlap->end = CLUSTERS_MAX;
    return ret;
}

void qcow2_overlap_init(Qcow2 *s)
{
    const Qcow2Header *h = &s->header;

    if (!s->overlap_mask)
        return;
    s->overlap = g_new0(Qcow2Overlap, 1);
    pthread_mutex_init(&s->overlap->mutex, NULL);
    map_init(&s->overlap->map);
    map_init(&s->overlap->inactive_l2);
    s->overlap->end = believable_end(s);
    change(s, QCOW2_OL_MAIN_HEADER, 0, s->cluster_size, true);
    change(s, QCOW2_OL_ACTIVE_L1, h->l1_table_offset, (uint64_t)h->l1_size * 8, true);
    add_table(s, QCOW2_OL_ACTIVE_L2, s->l1, h->l1_size, QCOW2_OFFSET_MASK);
    change(s, QCOW2_OL_REFCOUNT_TABLE, h->refcount_table_offset,
           (uint64_t)h->refcount_table_clusters << s->cluster_bits, true);
    add_table(s, QCOW2_OL_REFCOUNT_BLOCK, s->reftable, s->reftable_size,
              QCOW2_REFTABLE_OFFSET_MASK);
    change(s, QCOW2_OL_SNAPSHOT_TABLE, h->snapshots_offset, s->snapshot_table_bytes, true);
    change(s, QCOW2_OL_BITMAP_DIRECTORY, s->bitmaps_offset, s->bitmaps_length, true);
    for (unsigned i = 0; s->snapshots && i < s->snapshots->len; i++) {
        Qcow2Snapshot *snapshot = &g_array_index(s->snapshots, Qcow2Snapshot, i);

        change(s, QCOW2_OL_INACTIVE_L1, snapshot->l1_table_offset, (uint64_t)snapshot->l1_size * 8,
               true);
    }
    s->overlap->end = CLUSTERS_MAX;
}

void qcow2_overlap_free(Qcow2 *s)
{
    if (!s->overlap)
        return;
    map_clear(&s->overlap->map);
    map_clear(&s->overlap->inactive_l2);
    pthread_mutex_destroy(&s->overlap->mutex);
    g_free(s->overlap);
}

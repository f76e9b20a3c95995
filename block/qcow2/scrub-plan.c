/*
 * From what a scrub has found to a plan, and from a plan to what is done.
 *
 * An act is done if the walk that has just ended found the same, and nobody has touched the cluster
 * since.  Counts are changed by the difference, under the lock that all changes take: should a
 * request drop its reference at the same time, its own difference is still right.
 */
#include "block/qcow2/checksums.h"
#include "block/qcow2/scrub.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { FINDINGS_MAX = 1000, ACTS_MAX = 10000 };

/* Where entries are. */

typedef struct Search {
    Qcow2Live *live;
    GHashTable *wanted;                    /* host cluster -> index in found + 1 */
} Search;

static bool needs_place(const Qcow2Found *found)
{
    return found->copied || found->stored < found->counted;
}

/* What is found about one cluster stands in a row. */
static void note_place(Search *search, const Qcow2Found *place)
{
    GArray *found = search->live->found;
    uint64_t i = GPOINTER_TO_SIZE(g_hash_table_lookup(search->wanted,
                                                      GSIZE_TO_POINTER(place->cluster)));

    for (; i && i <= found->len; i++) {
        Qcow2Found *at = &g_array_index(found, Qcow2Found, i - 1);

        if (at->cluster != place->cluster)
            break;
        if (at->located)
            continue;
        at->located = true;
        at->in_l1 = place->in_l1;
        at->table = place->table;
        at->index = place->index;
        at->guest = place->guest;
        at->entry = place->entry;
    }
}

static void search_entries(Search *search, const uint8_t *table, uint64_t offset, uint64_t guest)
{
    Qcow2 *s = search->live->s;

    for (uint64_t i = 0; i < 1ull << s->l2_bits; i++) {
        uint64_t entry = ld_be64(table + i * s->l2_entry_bytes);
        Qcow2Found place = { .cluster = (entry & QCOW2_OFFSET_MASK) >> s->cluster_bits,
                             .table = offset, .index = i, .entry = entry,
                             .guest = guest + (i << s->cluster_bits) };

        if (place.cluster && !(entry & QCOW2_COMPRESSED))
            note_place(search, &place);
    }
}

static int co_fn search_table(Search *search, uint64_t index, uint8_t *table)
{
    Qcow2 *s = search->live->s;
    uint64_t entry = __atomic_load_n(&s->l1[index], __ATOMIC_ACQUIRE);
    uint64_t offset = entry & QCOW2_OFFSET_MASK, guest = index << qcow2_l2_cover_bits(s);
    Qcow2Found place = { .cluster = offset >> s->cluster_bits, .in_l1 = true, .index = index,
                         .table = s->header.l1_table_offset, .guest = guest, .entry = entry };
    int ret;

    if (!offset || qcow2_offset_in_cluster(s, offset) || offset >= qcow2_live_end(search->live))
        return 0;
    note_place(search, &place);
    ret = qcow2_read_current(&s->l2_cache, offset, table, NULL);
    if (ret == 0)
        search_entries(search, table, offset, guest);
    return ret == -EIO ? 0 : ret;          /* what cannot be read is told already */
}

static int co_fn search_all(Search *search)
{
    Qcow2 *s = search->live->s;
    uint8_t *table = qcow2_memory(s, s->cluster_size);
    int ret = table ? 0 : -ENOMEM;

    for (uint64_t i = 0; ret == 0 && i < s->header.l1_size; i++) {
        if (!__atomic_load_n(&s->l1[i], __ATOMIC_RELAXED))
            continue;
        ret = qcow2_live_step(search->live, s->cluster_size);
        if (ret == 0)
            ret = search_table(search, i, table);
    }
    free(table);
    return ret;
}

int co_fn qcow2_live_locate(Qcow2Live *live)
{
    g_autoptr(GHashTable) wanted = g_hash_table_new(NULL, NULL);
    Search search = { live, wanted };

    for (unsigned i = live->found->len; i; i--) {
        const Qcow2Found *found = &g_array_index(live->found, Qcow2Found, i - 1);

        if (needs_place(found))
            g_hash_table_insert(wanted, GSIZE_TO_POINTER(found->cluster), GSIZE_TO_POINTER(i));
    }
    return g_hash_table_size(wanted) ? search_all(&search) : 0;
}

/* Telling. */

void qcow2_live_finding(BlockScrub *scrub, json_object *finding)
{
    if (json_object_array_length(scrub->findings) < FINDINGS_MAX) {
        json_object_array_add(scrub->findings, finding);
        return;
    }
    scrub->findings_left_out++;
    json_object_put(finding);
}

static void tell_found(Qcow2Live *live, const Qcow2Found *found)
{
    json_object *finding = json_object_new_object();
    g_autofree char *message = NULL;
    uint64_t offset = found->cluster << live->s->cluster_bits;

    if (found->copied)
        message = g_strdup_printf("ERROR OFLAG_COPIED cluster: offset=%" PRIx64
                                  " copied=%d refcount=%" PRIu64,
                                  offset, found->counted != 1, found->counted);
    else
        message = g_strdup_printf("%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
                                  found->stored < found->counted ? "ERROR" : "Leaked",
                                  found->cluster, found->stored, found->counted);
    json_add_str(finding, "message", message);
    json_add_u64(finding, "cluster", offset);
    if (found->located) {
        json_add_u64(finding, "table", found->table);
        json_add_u64(finding, "index", found->index);
    }
    qcow2_live_finding(live->scrub, finding);
}

static uint64_t right_entry(const Qcow2Found *found)
{
    return found->counted == 1 ? found->entry | QCOW2_COPIED : found->entry & ~QCOW2_COPIED;
}

static const char *kind_of(const Qcow2Found *found)
{
    return found->copied ? "copied" : found->stored < found->counted ? "refcount" : "leak";
}

/* A table that could not be read, or is not what it was, may refer to what looks leaked. */
static bool may_be_in_use(const Qcow2Live *live, const Qcow2Found *found)
{
    return !found->copied && found->stored > found->counted &&
           (live->c->result->check_errors || live->mismatches->len);
}

/* False: nothing can be done about it. */
static bool can_act(const Qcow2Live *live, const Qcow2Found *found)
{
    if (may_be_in_use(live, found))
        return false;
    return found->copied ? found->located : found->counted <= live->s->refcount_max;
}

static void plan_act(Qcow2Live *live, const Qcow2Found *found, json_object *acts)
{
    json_object *act;

    if (!can_act(live, found))
        return;
    if (json_object_array_length(acts) >= ACTS_MAX) {
        live->scrub->acts_left_out++;
        return;
    }
    act = json_object_new_object();
    json_add_str(act, "kind", kind_of(found));
    json_add_u64(act, "cluster", found->cluster << live->s->cluster_bits);
    if (found->copied) {
        json_add_u64(act, "table", found->table);
        json_add_u64(act, "index", found->index);
        json_add_u64(act, "entry-from", found->entry);
        json_add_u64(act, "entry-to", right_entry(found));
    } else {
        json_add_u64(act, "refcount-from", found->stored);
        json_add_u64(act, "refcount-to", found->counted);
    }
    json_object_array_add(acts, act);
}

/* Told at once: what entries of such a table are like comes after it. */
void qcow2_live_mismatches(Qcow2Live *live, const GArray *found)
{
    g_array_append_vals(live->mismatches, found->data, found->len);
    for (unsigned i = 0; i < found->len; i++) {
        const Qcow2Mismatch *m = &g_array_index(found, Qcow2Mismatch, i);
        g_autofree char *message = qcow2_mismatch_text("ERROR", m);
        json_object *finding = json_object_new_object();

        json_add_str(finding, "message", message);
        json_add_u64(finding, "cluster", ALIGN_DOWN(m->offset, live->s->cluster_size));
        json_add_u64(finding, "table", m->table);
        qcow2_live_finding(live->scrub, finding);
    }
}

static void plan_mismatch(Qcow2Live *live, const Qcow2Mismatch *m, json_object *acts)
{
    json_object *act = json_object_new_object();

    live->scrub->errors++;
    json_add_str(act, "kind", "checksum");
    json_add_u64(act, "cluster", ALIGN_DOWN(m->offset, live->s->cluster_size));
    json_add_u64(act, "block", m->offset);
    json_add_u64(act, "checksum-from", m->stored);
    json_add_u64(act, "checksum-to", m->found);
    if (json_object_array_length(acts) < ACTS_MAX) {
        json_object_array_add(acts, act);
        return;
    }
    live->scrub->acts_left_out++;
    json_object_put(act);
}

void qcow2_live_tell(Qcow2Live *live)
{
    BlockScrub *scrub = live->scrub;
    json_object *acts = json_object_new_array();

    json_add_u64(scrub->plan, "cluster-size", scrub->cluster_size);
    json_object_object_add(scrub->plan, "acts", acts);
    for (unsigned i = 0; i < live->mismatches->len; i++)
        plan_mismatch(live, &g_array_index(live->mismatches, Qcow2Mismatch, i), acts);
    /* Counts before flags, which follow from them. */
    for (int copied = 0; copied < 2; copied++) {
        for (unsigned i = 0; i < live->found->len; i++) {
            const Qcow2Found *found = &g_array_index(live->found, Qcow2Found, i);

            if (found->copied != copied)
                continue;
            if (!found->copied && found->stored > found->counted)
                scrub->leaked++;
            else
                scrub->errors++;
            tell_found(live, found);
            plan_act(live, found, acts);
        }
    }
}

/* Doing. */

static uint64_t member(json_object *act, const char *key)
{
    json_object *value;

    return json_object_object_get_ex(act, key, &value) ? json_object_get_uint64(value) : UINT64_MAX;
}

/* The first of those found about a cluster or one after it: they are in order. */
static unsigned first_of(const Qcow2Live *live, uint64_t cluster)
{
    unsigned first = 0, end = live->found->len;

    while (first < end) {
        unsigned middle = first + (end - first) / 2;

        if (g_array_index(live->found, Qcow2Found, middle).cluster < cluster)
            first = middle + 1;
        else
            end = middle;
    }
    return first;
}

static const Qcow2Found *find_same(Qcow2Live *live, json_object *act)
{
    const char *kind = json_object_get_string(json_object_object_get(act, "kind"));
    uint64_t offset = member(act, "cluster"), cluster = offset >> live->s->cluster_bits;

    if (!kind || qcow2_offset_in_cluster(live->s, offset))
        return NULL;
    for (unsigned i = first_of(live, cluster); i < live->found->len; i++) {
        const Qcow2Found *found = &g_array_index(live->found, Qcow2Found, i);

        if (found->cluster != cluster)
            break;
        if (strcmp(kind, kind_of(found)) || !can_act(live, found))
            continue;
        if (found->copied ? member(act, "table") == found->table &&
                            member(act, "index") == found->index &&
                            member(act, "entry-from") == found->entry &&
                            member(act, "entry-to") == right_entry(found)
                          : member(act, "refcount-from") == found->stored &&
                            member(act, "refcount-to") == found->counted)
            return found;
    }
    return NULL;
}

/* -ESTALE: it is no longer as it was found. */
static int co_fn change_count(Qcow2 *s, const Qcow2Found *found, GError **error)
{
    uint64_t stored;
    int ret;

    co_mutex_lock(&s->alloc_lock);
    ret = qcow2_refcount_get(s, found->cluster, &stored);
    if (ret == 0 && (stored != found->stored || qcow2_is_touched(s, found->cluster)))
        ret = -ESTALE;
    if (ret == 0)
        ret = qcow2_refcount_add(s, found->cluster << s->cluster_bits, s->cluster_size,
                                 (int64_t)(found->counted - found->stored), error);
    co_mutex_unlock(&s->alloc_lock);
    return ret;
}

static int co_fn change_l2(Qcow2 *s, const Qcow2Found *found)
{
    uint64_t l1_index = found->guest >> qcow2_l2_cover_bits(s), at;
    Qcow2Slice *slice;
    uint8_t *place;
    int ret = 0;

    if (l1_index >= s->header.l1_size || (s->l1[l1_index] & QCOW2_OFFSET_MASK) != found->table)
        return -ESTALE;
    at = found->table + found->index * s->l2_entry_bytes;
    slice = qcow2_cache_get(&s->l2_cache, at, &ret);
    if (!slice)
        return ret;
    place = slice->data + (at - slice->offset);
    if (ld_be64(place) == found->entry)
        st_be64(place, right_entry(found));
    else
        ret = -ESTALE;
    qcow2_cache_put(&s->l2_cache, slice, ret == 0);
    return ret;
}

static int change_l1(Qcow2 *s, const Qcow2Found *found)
{
    if (s->header.l1_table_offset != found->table || found->index >= s->header.l1_size ||
        s->l1[found->index] != found->entry)
        return -ESTALE;
    qcow2_mark_l1(s, found->index, right_entry(found));
    return 0;
}

/* Alone: requests look at the flag and write where it says.  One entry, one look at its count. */
static int co_fn change_flag(Qcow2Live *live, const Qcow2Found *found)
{
    Qcow2 *s = live->s;
    uint64_t stored;
    int ret;

    qcow2_exclusive_begin(s);
    live->turns++;
    co_mutex_lock(&s->alloc_lock);
    ret = qcow2_refcount_get(s, found->cluster, &stored);
    co_mutex_unlock(&s->alloc_lock);
    if (ret == 0 && (stored != found->counted || qcow2_live_disturbed(live)))
        ret = -ESTALE;
    if (ret == 0)
        ret = found->in_l1 ? change_l1(s, found) : change_l2(s, found);
    qcow2_exclusive_end(s);
    return ret;
}

static int co_fn mend(Qcow2Live *live, const Qcow2Found *found, GError **error)
{
    Qcow2 *s = live->s;
    Qcow2Ticket ticket;
    int ret;

    if (found->copied)
        return change_flag(live, found);
    ticket = qcow2_enter(s);
    ret = qcow2_live_disturbed(live) ? -ESTALE : change_count(s, found, error);
    qcow2_leave(s, &ticket);
    return ret;
}

/* -ESTALE: the block was written since, or is not the one that was found. */
static int accept_block(Qcow2Live *live, json_object *act)
{
    for (unsigned i = 0; i < live->mismatches->len; i++) {
        const Qcow2Mismatch *m = &g_array_index(live->mismatches, Qcow2Mismatch, i);

        if (member(act, "block") == m->offset && member(act, "checksum-from") == m->stored &&
            member(act, "checksum-to") == m->found)
            return qcow2_sums_accept(live->s, m) ? 0 : -ESTALE;
    }
    return -ESTALE;
}

static int co_fn do_act(Qcow2Live *live, json_object *act, GError **error)
{
    const char *kind = json_object_get_string(json_object_object_get(act, "kind"));
    const Qcow2Found *found;

    if (kind && !strcmp(kind, "checksum"))
        return accept_block(live, act);
    found = find_same(live, act);
    return found ? mend(live, found, error) : -ESTALE;
}

static bool is_leak(json_object *act)
{
    return !strcmp(json_object_get_string(json_object_object_get(act, "kind")), "leak");
}

static void tell_refused(Qcow2Live *live, json_object *act)
{
    json_object *finding = json_object_new_object();
    g_autofree char *message =
        g_strdup_printf("Refused, as the image is not as the act says: %s",
                        json_object_to_json_string_ext(act, JSON_C_TO_STRING_PLAIN));

    json_add_str(finding, "message", message);
    qcow2_live_finding(live->scrub, finding);
    live->scrub->refused++;
}

static int co_fn apply_acts(Qcow2Live *live, json_object *acts, GError **error)
{
    BlockScrub *scrub = live->scrub;
    int ret = 0;

    for (size_t i = 0; i < json_object_array_length(acts); i++) {
        json_object *act = json_object_array_get_idx(acts, i);

        if (!scrub->pace(scrub, 0))
            return -ECANCELED;
        ret = qcow2_may_write(live->s);
        if (ret == 0)
            ret = do_act(live, act, error);
        if (ret == -ESTALE)
            tell_refused(live, act);
        else if (ret < 0)
            return ret;
        else
            scrub->applied++;
        live->mended += ret == 0 && !is_leak(act);
    }
    return 0;
}

int co_fn qcow2_live_apply(Qcow2Live *live, GError **error)
{
    Qcow2 *s = live->s;
    json_object *acts = json_object_object_get(live->scrub->apply, "acts");
    Qcow2Ticket ticket;
    int ret = -EINVAL, flushed;

    if (member(live->scrub->apply, "cluster-size") != s->cluster_size ||
        !json_object_is_type(acts, json_type_array)) {
        fail(error, ERR_INVALID_PARAMETER,
             "the plan is not one for '%s' (its clusters have %" PRIu64 " bytes)",
             block_node_filename(s->node), s->cluster_size);
        return ret;
    }
    ret = qcow2_sums_begin_use(s, error);
    if (ret == 0)
        ret = apply_acts(live, acts, error);
    if (s->sums && ret == 0 && !live->scrub->unreadable && live->mended == live->scrub->errors)
        s->sums->sound = true;             /* opened to be repaired: it is */
    ticket = qcow2_enter_upkeep(s);
    flushed = qcow2_checkpoint(s);
    qcow2_leave(s, &ticket);
    return ret < 0 ? ret : flushed;
}

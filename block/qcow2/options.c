/* The options of a qcow2 node: QEMU's names and rules. */
#include "block/qcow2/options.h"
#include "block/qcow2/checksums.h"
#include <inttypes.h>
#include <string.h>

#define L2_CACHE_DEFAULT (32 * MiB)
#define REFCOUNT_CACHE_DEFAULT (1 * MiB)
#define SLICE_DEFAULT 4096
#define CLEAN_SECONDS_DEFAULT 600

const char *const qcow2_option_names[] = {
    "file", "backing", "data-file", "lazy-refcounts", "pass-discard-request",
    "pass-discard-snapshot", "pass-discard-other", "discard-no-unref", "overlap-check",
    "cache-size", "l2-cache-size", "l2-cache-entry-size", "refcount-cache-size",
    "cache-clean-interval", "encrypt", "x-check", "x-header-only", NULL
};

/* overlap-check: a word, or an object with a template and single structures. */

enum { TEMPLATE_CONSTANT = QCOW2_OL_MAIN_HEADER | QCOW2_OL_ACTIVE_L1 | QCOW2_OL_REFCOUNT_TABLE |
                           QCOW2_OL_SNAPSHOT_TABLE | QCOW2_OL_BITMAP_DIRECTORY,
       TEMPLATE_CACHED = TEMPLATE_CONSTANT | QCOW2_OL_ACTIVE_L2 | QCOW2_OL_REFCOUNT_BLOCK |
                         QCOW2_OL_INACTIVE_L1 };

static const char *const template_words[] = { "none", "constant", "cached", "all", NULL };
static const unsigned templates[] = { 0, TEMPLATE_CONSTANT, TEMPLATE_CACHED, QCOW2_OL_ALL };
static const char *const structures[] = {
    "main-header", "active-l1", "active-l2", "refcount-table", "refcount-block", "snapshot-table",
    "inactive-l1", "inactive-l2", "bitmap-directory", "template", NULL
};

static bool take_overlap_object(json_object *value, unsigned *mask, GError **error)
{
    int template = 2;

    if (!options_get_enum(value, "template", template_words, &template, error))
        return false;
    *mask = templates[template];
    for (unsigned i = 0; i < 9; i++) {
        bool on = *mask >> i & 1;

        if (!options_get_bool(value, structures[i], &on, error))
            return false;
        *mask = (*mask & ~(1u << i)) | (unsigned)on << i;
        json_object_object_del(value, structures[i]);
    }
    json_object_object_del(value, "template");
    return options_check_empty(value, "'overlap-check'", structures, error);
}

static bool take_overlap(json_object *options, unsigned *mask, GError **error)
{
    g_autoptr(json_object) value = NULL;
    int template = 2;

    *mask = TEMPLATE_CACHED;
    if (!json_object_object_get_ex(options, "overlap-check", &value)) {
        value = NULL;
        return true;
    }
    value = options_take(options, "overlap-check");
    if (json_object_is_type(value, json_type_object))
        return take_overlap_object(value, mask, error);
    if (!value_to_enum(value, "'overlap-check'", template_words, &template, error))
        return false;
    *mask = templates[template];
    return true;
}

/* Cache sizes. */

static bool split_cache_size(bool has_total, uint64_t total, bool has_l2, bool has_refcount,
                             Qcow2Options *o, GError **error)
{
    if (!has_total)
        return true;
    if (has_l2 && has_refcount)
        return fail(error, ERR_INVALID_PARAMETER, "cache-size, l2-cache-size and "
                    "refcount-cache-size may not be set at the same time");
    if (has_l2 && o->l2_cache_bytes > total)
        return fail(error, ERR_INVALID_PARAMETER, "l2-cache-size may not exceed cache-size");
    if (has_refcount && o->refcount_cache_bytes > total)
        return fail(error, ERR_INVALID_PARAMETER, "refcount-cache-size may not exceed cache-size");
    if (has_l2)
        o->refcount_cache_bytes = total - o->l2_cache_bytes;
    else if (has_refcount)
        o->l2_cache_bytes = total - o->refcount_cache_bytes;
    else
        o->refcount_cache_bytes = MIN(total / 8, REFCOUNT_CACHE_DEFAULT);
    if (!has_l2 && !has_refcount)
        o->l2_cache_bytes = total - o->refcount_cache_bytes;
    return true;
}

static bool take_cache_sizes(json_object *options, Qcow2Options *o, GError **error)
{
    static const char *const names[] = { "cache-size", "l2-cache-size", "refcount-cache-size",
                                         "l2-cache-entry-size", "cache-clean-interval" };
    bool has_total = json_object_object_get_ex(options, "cache-size", NULL);
    bool has_l2 = json_object_object_get_ex(options, "l2-cache-size", NULL);
    bool has_refcount = json_object_object_get_ex(options, "refcount-cache-size", NULL);
    uint64_t total = 0;

    if (!options_get_size(options, "cache-size", &total, error) ||
        !options_get_size(options, "l2-cache-size", &o->l2_cache_bytes, error) ||
        !options_get_size(options, "refcount-cache-size", &o->refcount_cache_bytes, error) ||
        !options_get_size(options, "l2-cache-entry-size", &o->slice_bytes, error) ||
        !options_get_u64(options, "cache-clean-interval", &o->clean_seconds, error) ||
        !split_cache_size(has_total, total, has_l2, has_refcount, o, error))
        return false;
    if (o->clean_seconds > UINT32_MAX)
        return fail(error, ERR_INVALID_PARAMETER, "Cache clean interval too big");
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++)
        json_object_object_del(options, names[i]);
    return true;
}

/* All of them. */

static bool take_bool(json_object *options, const char *name, bool *ret, GError **error)
{
    if (!options_get_bool(options, name, ret, error))
        return false;
    json_object_object_del(options, name);
    return true;
}

static bool take_lazy(json_object *options, Qcow2Options *o, GError **error)
{
    bool lazy = false;

    if (!json_object_object_get_ex(options, "lazy-refcounts", NULL))
        return true;
    if (!take_bool(options, "lazy-refcounts", &lazy, error))
        return false;
    o->lazy_refcounts = lazy;
    return true;
}

bool qcow2_options_take(json_object *options, Qcow2Options *o, GError **error)
{
    *o = (Qcow2Options){ .clean_seconds = CLEAN_SECONDS_DEFAULT, .lazy_refcounts = -1,
                         .discard_request = true, .discard_snapshot = true };
    if (!take_lazy(options, o, error) ||
        !take_bool(options, "pass-discard-request", &o->discard_request, error) ||
        !take_bool(options, "pass-discard-snapshot", &o->discard_snapshot, error) ||
        !take_bool(options, "pass-discard-other", &o->discard_other, error) ||
        !take_bool(options, "discard-no-unref", &o->discard_no_unref, error) ||
        !take_bool(options, "x-check", &o->check, error) ||
        !take_bool(options, "x-header-only", &o->header_only, error) ||
        !take_overlap(options, &o->overlap_mask, error) ||
        !take_cache_sizes(options, o, error))
        return false;
    return true;
}

void qcow2_options_apply(Qcow2 *s, const Qcow2Options *o)
{
    s->discard_passes[QCOW2_DISCARD_NEVER] = false;
    s->discard_passes[QCOW2_DISCARD_ALWAYS] = true;
    s->discard_passes[QCOW2_DISCARD_REQUEST] = o->discard_request;
    s->discard_passes[QCOW2_DISCARD_SNAPSHOT] = o->discard_snapshot;
    s->discard_passes[QCOW2_DISCARD_OTHER] = o->discard_other;
    s->discard_no_unref = o->discard_no_unref;
    s->cache_clean_seconds = o->clean_seconds;
}

/* Not larger than what the whole disk needs. */
static uint64_t l2_cache_bytes(const Qcow2 *s, const Qcow2Options *o)
{
    uint64_t clusters = qcow2_clusters(s, s->header.size);

    return o->l2_cache_bytes ? o->l2_cache_bytes
                             : MIN(L2_CACHE_DEFAULT, MAX(clusters * s->l2_entry_bytes, 1));
}

static uint64_t slice_bytes(const Qcow2 *s, const Qcow2Options *o)
{
    return o->slice_bytes ? o->slice_bytes : MIN(SLICE_DEFAULT, s->cluster_size);
}

bool qcow2_check_slice(const Qcow2 *s, const Qcow2Options *o, GError **error)
{
    uint64_t slice = slice_bytes(s, o);

    return (slice >= 512 && slice <= s->cluster_size && is_power_of_2(slice)) ||
           fail(error, ERR_INVALID_PARAMETER, "L2 cache entry size must be a power of two "
                "between 512 and the cluster size (%" PRIu64 ")", s->cluster_size);
}

/* One checksum is that of several slices, if those are small. */
void qcow2_widen_slices(Qcow2 *s)
{
    Qcow2Cache *cache = &s->l2_cache;
    uint64_t bytes = (uint64_t)cache->limit << cache->slice_bits;

    if (!s->sums || cache->slice_bits >= s->sums->block_bits)
        return;
    qcow2_cache_free(cache);
    qcow2_cache_init(cache, s, "L2 table", 1ull << s->sums->block_bits, bytes);
}

void qcow2_make_caches(Qcow2 *s, const Qcow2Options *o)
{
    qcow2_cache_init(&s->l2_cache, s, "L2 table", slice_bytes(s, o), l2_cache_bytes(s, o));
    qcow2_cache_init(&s->refcount_cache, s, "refcount block", MIN(SLICE_DEFAULT, s->cluster_size),
                     o->refcount_cache_bytes ? o->refcount_cache_bytes : REFCOUNT_CACHE_DEFAULT);
    qcow2_widen_slices(s);
}

/*
 * Finding free clusters: the first ones.  What is handed out has its refcount raised in memory.
 */
#include "block/qcow2/checksums.h"
#include <errno.h>
#include <inttypes.h>

/* A compressed cluster's entry has 62 - (cluster_bits - 8) bits for the offset; others have 56. */
static uint64_t offset_limit(const Qcow2 *s, bool compressed)
{
    return 1ull << (compressed ? MIN(62 - (s->cluster_bits - 8), 56) : 56);
}

/* *ret_n of the free clusters from @first on, at most @want. */
static int co_fn measure_row(Qcow2 *s, uint64_t first, uint64_t want, uint64_t *ret_n)
{
    uint64_t refcount = 0;
    int ret = 0;

    for (*ret_n = 0; *ret_n < want; ++*ret_n) {
        ret = qcow2_refcount_get(s, first + *ret_n, &refcount);
        if (ret < 0 || refcount)
            break;
    }
    return ret;
}

/* Takes @n free clusters; what is taken must not be somebody's metadata, whatever the counts say. */
static int co_fn take(Qcow2 *s, uint64_t first, uint64_t n, GError **error)
{
    uint64_t offset = first << s->cluster_bits, bytes = n << s->cluster_bits;
    int ret;

    if (offset + bytes > offset_limit(s, false)) {
        fail(error, ERR_LIMIT, "'%s': no more clusters can be addressed",
             block_node_filename(s->file));
        return -EFBIG;
    }
    ret = qcow2_check_overlap(s, 0, offset, bytes);
    if (ret < 0) {
        fail(error, ERR_CORRUPT, "'%s': metadata at offset 0x%" PRIx64 " has a refcount of 0",
             block_node_filename(s->node), offset);
        return ret;
    }
    ret = qcow2_sums_begin_use(s, error);  /* stored ones are in free clusters */
    if (ret == 0)
        ret = qcow2_refcount_add(s, offset, bytes, 1, error);
    if (ret == 0)
        qcow2_not_fresh(s, offset + bytes);
    return ret;
}

/* Under alloc_lock. */
static int64_t co_fn alloc_run(Qcow2 *s, uint64_t want, uint64_t *ret_n, bool *ret_fresh)
{
    uint64_t first, offset;
    int ret = qcow2_next_free(s, s->free_hint, &first);

    if (ret == 0)
        ret = measure_row(s, first, want, ret_n);
    if (ret < 0)
        return ret;
    offset = first << s->cluster_bits;
    *ret_fresh = s->file_grows && offset >= s->fresh;
    s->free_hint = first;
    ret = take(s, first, *ret_n, NULL);
    if (ret < 0)
        return ret;
    s->free_hint = first + *ret_n;
    return offset;
}

int64_t co_fn qcow2_alloc_run(Qcow2 *s, uint64_t want, uint64_t *ret_n, bool *ret_fresh)
{
    int64_t offset;

    block_debug_event(s->file, "cluster_alloc");
    co_mutex_lock(&s->alloc_lock);
    offset = alloc_run(s, want, ret_n, ret_fresh);
    co_mutex_unlock(&s->alloc_lock);
    return offset;
}

static int64_t co_fn alloc_exactly(Qcow2 *s, uint64_t n, GError **error)
{
    uint64_t first = s->free_hint, got = 0;
    int ret;

    for (;;) {
        ret = qcow2_next_free(s, first, &first);
        if (ret == 0)
            ret = measure_row(s, first, n, &got);
        if (ret < 0 || got == n)
            break;
        first += got;
    }
    if (ret < 0) {
        fail_errno(error, -ret, "'%s': looking for free clusters failed",
                   block_node_filename(s->node));
        return ret;
    }
    ret = take(s, first, n, error);
    if (ret < 0)
        return ret;
    if (s->free_hint == first)
        s->free_hint += n;
    return first << s->cluster_bits;
}

int64_t co_fn qcow2_alloc_clusters(Qcow2 *s, uint64_t n, GError **error)
{
    int64_t offset;

    block_debug_event(s->file, "cluster_alloc");
    co_mutex_lock(&s->alloc_lock);
    offset = alloc_exactly(s, n, error);
    co_mutex_unlock(&s->alloc_lock);
    return offset;
}

/* Behind the last compressed data, if the rest of its cluster is enough or the next cluster is free. */
static int64_t co_fn append_bytes(Qcow2 *s, uint64_t bytes)
{
    uint64_t offset = s->byte_offset, rest = s->cluster_size - qcow2_offset_in_cluster(s, offset);
    uint64_t next = (offset >> s->cluster_bits) + 1, refcount;
    int ret = qcow2_refcount_get(s, next - 1, &refcount);

    if (ret < 0 || refcount >= s->refcount_max)
        return ret < 0 ? ret : 0;
    if (rest < bytes) {
        ret = qcow2_refcount_get(s, next, &refcount);
        if (ret < 0 || refcount)
            return ret;
        ret = take(s, next, 1, NULL);
        if (ret < 0)
            return ret;
        if (s->free_hint == next)
            s->free_hint++;
    }
    ret = qcow2_refcount_add(s, offset, MIN(rest, bytes), 1, NULL);
    return ret < 0 ? ret : (int64_t)offset;
}

static int64_t co_fn alloc_bytes(Qcow2 *s, uint64_t bytes)
{
    int64_t offset = s->byte_offset ? append_bytes(s, bytes) : 0;

    if (offset == 0)
        offset = alloc_exactly(s, 1, NULL);
    if (offset < 0)
        return offset;
    s->byte_offset = qcow2_offset_in_cluster(s, offset + bytes) ? offset + bytes : 0;
    if (offset + bytes <= offset_limit(s, true))
        return offset;
    s->byte_offset = 0;
    qcow2_refcount_add(s, offset, bytes, -1, NULL);
    return -EFBIG;
}

int64_t co_fn qcow2_alloc_bytes(Qcow2 *s, uint64_t bytes)
{
    int64_t offset;

    block_debug_event(s->file, "cluster_alloc_bytes");
    co_mutex_lock(&s->alloc_lock);
    offset = alloc_bytes(s, bytes);
    co_mutex_unlock(&s->alloc_lock);
    return offset;
}

void co_fn qcow2_free_now(Qcow2 *s, uint64_t offset, uint64_t bytes)
{
    block_debug_event(s->file, "cluster_free");
    co_mutex_lock(&s->alloc_lock);
    qcow2_refcount_add(s, offset, bytes, -1, NULL);
    co_mutex_unlock(&s->alloc_lock);
}

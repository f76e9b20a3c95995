/*
 * The cache of metadata: slices of L2 tables and of refcount blocks.
 *
 * A slice is found, read and changed under the mutex of its shard, for a few instructions; nobody
 * keeps one over a wait.  So a slice that is clean may go at any time, and one that is dirty stays
 * until a checkpoint has written it.  A cache may grow past its limit while all is dirty: requests
 * make a checkpoint before that goes far (qcow2_relieve).
 */
#include "block/qcow2/checksums.h"
#include <stdlib.h>
#include <string.h>

/* Shards and buckets. */

void qcow2_cache_init(Qcow2Cache *cache, Qcow2 *s, const char *what, uint64_t slice_bytes,
                      uint64_t bytes)
{
    uint64_t limit = CLAMP(bytes / slice_bytes, 16, 1u << 24);

    *cache = (Qcow2Cache){ .s = s, .what = what, .slice_bits = g_bit_storage(slice_bytes) - 1,
                           .limit = limit, .n_shards = 1 };
    while (cache->n_shards < QCOW2_SHARDS && limit / cache->n_shards >= 32)
        cache->n_shards *= 2;
    for (unsigned i = 0; i < cache->n_shards; i++) {
        Qcow2Shard *shard = &cache->shards[i];
        unsigned buckets = 16;

        shard->limit = limit / cache->n_shards;
        while (buckets < shard->limit && buckets < 4096)
            buckets *= 2;
        shard->bucket_mask = buckets - 1;
        shard->buckets = g_new0(Qcow2Slice *, buckets);
        pthread_mutex_init(&shard->lock, NULL);
    }
}

static uint64_t hash(const Qcow2Cache *cache, uint64_t offset)
{
    return (offset >> cache->slice_bits) * 0x9e3779b97f4a7c15ull;
}

static Qcow2Shard *shard_of(Qcow2Cache *cache, uint64_t offset)
{
    return &cache->shards[(hash(cache, offset) >> 58) & (cache->n_shards - 1)];
}

static Qcow2Slice **bucket_of(Qcow2Cache *cache, Qcow2Shard *shard, uint64_t offset)
{
    return &shard->buckets[(hash(cache, offset) >> 32) & shard->bucket_mask];
}

static Qcow2Slice *find(Qcow2Cache *cache, Qcow2Shard *shard, uint64_t offset)
{
    Qcow2Slice *slice = *bucket_of(cache, shard, offset);

    while (slice && slice->offset != offset)
        slice = slice->next;
    return slice;
}

/* The order of eviction: newest first. */

static void list_add(Qcow2Shard *shard, Qcow2Slice *slice)
{
    slice->newer = NULL;
    slice->older = shard->newest;
    *(shard->newest ? &shard->newest->newer : &shard->oldest) = slice;
    shard->newest = slice;
}

static void list_remove(Qcow2Shard *shard, Qcow2Slice *slice)
{
    *(slice->newer ? &slice->newer->older : &shard->newest) = slice->older;
    *(slice->older ? &slice->older->newer : &shard->oldest) = slice->newer;
}

static void forget_dirty(Qcow2Cache *cache, Qcow2Shard *shard, Qcow2Slice *slice)
{
    Qcow2Slice **link = &shard->first_dirty;

    if (!slice->dirty && !slice->writing)
        return;
    __atomic_fetch_sub(&cache->dirty, 1, __ATOMIC_SEQ_CST);
    if (!slice->dirty)
        return;
    while (*link != slice)
        link = &(*link)->next_dirty;
    *link = slice->next_dirty;
}

static void remove_slice(Qcow2Cache *cache, Qcow2Shard *shard, Qcow2Slice *slice)
{
    Qcow2Slice **link = bucket_of(cache, shard, slice->offset);

    while (*link != slice)
        link = &(*link)->next;
    *link = slice->next;
    list_remove(shard, slice);
    forget_dirty(cache, shard, slice);
    shard->count--;
    __atomic_fetch_sub(&cache->count, 1, __ATOMIC_RELAXED);
    free(slice->data);
    g_free(slice);
}

static bool may_go(const Qcow2Slice *slice)
{
    return !slice->dirty && !slice->writing && !slice->loading;
}

/* Makes room for one more, if any slice may go; one used since it was last looked at gets another turn. */
static void evict(Qcow2Cache *cache, Qcow2Shard *shard)
{
    for (unsigned turns = 2 * shard->count; turns && shard->count >= shard->limit; turns--) {
        Qcow2Slice *slice = shard->oldest;

        if (may_go(slice) && !slice->used) {
            remove_slice(cache, shard, slice);
            continue;
        }
        slice->used = false;
        list_remove(shard, slice);
        list_add(shard, slice);
    }
}

static Qcow2Slice *insert(Qcow2Cache *cache, Qcow2Shard *shard, uint64_t offset)
{
    Qcow2Slice *slice = g_new0(Qcow2Slice, 1), **bucket = bucket_of(cache, shard, offset);

    evict(cache, shard);
    slice->offset = offset;
    slice->loading = true;
    slice->next = *bucket;
    *bucket = slice;
    list_add(shard, slice);
    shard->count++;
    __atomic_fetch_add(&cache->count, 1, __ATOMIC_RELAXED);
    return slice;
}

/* Get and put. */

static int co_fn load(Qcow2Cache *cache, uint64_t offset, uint8_t **ret_data)
{
    uint64_t bytes = 1ull << cache->slice_bits;
    uint8_t *data = qcow2_memory(cache->s, bytes);
    int ret;

    block_debug_event(cache->s->file, cache == &cache->s->l2_cache ? "l2_load" : "refblock_load");
    ret = data ? qcow2_table_read(cache->s, offset, data, bytes, cache->what, NULL) : -ENOMEM;
    if (ret < 0) {
        free(data);
        return ret;
    }
    *ret_data = data;
    return 0;
}

/* The caller inserted @slice and holds the lock; returns with it held. */
static int co_fn load_inserted(Qcow2Cache *cache, Qcow2Shard *shard, Qcow2Slice *slice)
{
    uint8_t *data = NULL;
    int ret;

    pthread_mutex_unlock(&shard->lock);
    ret = load(cache, slice->offset, &data);
    pthread_mutex_lock(&shard->lock);
    slice->loading = false;
    slice->data = data;
    qcow2_wake(g_steal_pointer(&slice->waiters));
    if (ret < 0)
        remove_slice(cache, shard, slice);
    return ret;
}

Qcow2Slice *co_fn qcow2_cache_get(Qcow2Cache *cache, uint64_t offset, int *ret_err)
{
    Qcow2Shard *shard;
    Qcow2Slice *slice;
    Qcow2Waiter waiter;

    offset = offset >> cache->slice_bits << cache->slice_bits;
    shard = shard_of(cache, offset);
    pthread_mutex_lock(&shard->lock);
    while ((slice = find(cache, shard, offset)) && slice->loading) {
        qcow2_waiter_add(&slice->waiters, &waiter);
        pthread_mutex_unlock(&shard->lock);
        qcow2_wait(&waiter);
        pthread_mutex_lock(&shard->lock);
    }
    if (!slice) {
        slice = insert(cache, shard, offset);
        *ret_err = load_inserted(cache, shard, slice);
        if (*ret_err < 0) {
            pthread_mutex_unlock(&shard->lock);
            return NULL;
        }
    }
    slice->used = true;
    return slice;
}

Qcow2Slice *qcow2_cache_try(Qcow2Cache *cache, uint64_t offset)
{
    Qcow2Shard *shard;
    Qcow2Slice *slice;

    offset = offset >> cache->slice_bits << cache->slice_bits;
    shard = shard_of(cache, offset);
    pthread_mutex_lock(&shard->lock);
    slice = find(cache, shard, offset);
    if (slice && !slice->loading) {
        slice->used = true;
        return slice;
    }
    pthread_mutex_unlock(&shard->lock);
    return NULL;
}

static void mark(Qcow2Cache *cache, Qcow2Shard *shard, Qcow2Slice *slice)
{
    if (slice->dirty)
        return;
    if (!slice->writing)
        __atomic_fetch_add(&cache->dirty, 1, __ATOMIC_SEQ_CST);
    slice->dirty = true;
    slice->next_dirty = shard->first_dirty;
    shard->first_dirty = slice;
}

void qcow2_cache_put(Qcow2Cache *cache, Qcow2Slice *slice, bool dirty)
{
    Qcow2Shard *shard = shard_of(cache, slice->offset);

    if (dirty)
        mark(cache, shard, slice);
    pthread_mutex_unlock(&shard->lock);
}

/* Writing. */

static int by_offset(gconstpointer a, gconstpointer b)
{
    uint64_t x = ((const Qcow2Copy *)a)->offset, y = ((const Qcow2Copy *)b)->offset;

    return (x > y) - (x < y);
}

GArray *qcow2_cache_copy_dirty(Qcow2Cache *cache)
{
    GArray *copies = g_array_new(FALSE, FALSE, sizeof(Qcow2Copy));
    uint64_t bytes = 1ull << cache->slice_bits;

    for (unsigned i = 0; i < cache->n_shards; i++) {
        Qcow2Shard *shard = &cache->shards[i];
        Qcow2Slice *slice;

        pthread_mutex_lock(&shard->lock);
        while ((slice = shard->first_dirty)) {
            Qcow2Copy copy = { slice->offset, bytes, qcow2_memory(cache->s, bytes), false };

            if (!copy.data)
                break;                     /* stays dirty: the next checkpoint's */
            memcpy(copy.data, slice->data, bytes);
            g_array_append_val(copies, copy);
            shard->first_dirty = slice->next_dirty;
            slice->dirty = false;
            slice->writing = true;
        }
        pthread_mutex_unlock(&shard->lock);
    }
    g_array_sort(copies, by_offset);
    return copies;
}

void qcow2_cache_written(Qcow2Cache *cache, GArray *copies)
{
    for (unsigned i = 0; i < copies->len; i++) {
        Qcow2Copy *copy = &g_array_index(copies, Qcow2Copy, i);
        Qcow2Shard *shard = shard_of(cache, copy->offset);
        Qcow2Slice *slice;

        pthread_mutex_lock(&shard->lock);
        slice = find(cache, shard, copy->offset);
        if (slice && slice->writing) {
            if (!copy->written)
                mark(cache, shard, slice);
            slice->writing = false;
            if (!slice->dirty)
                __atomic_fetch_sub(&cache->dirty, 1, __ATOMIC_SEQ_CST);
        }
        pthread_mutex_unlock(&shard->lock);
        free(copy->data);
    }
    g_array_free(copies, TRUE);
}

/* Forgetting. */

void qcow2_cache_drop(Qcow2Cache *cache, uint64_t offset, uint64_t bytes)
{
    for (uint64_t at = offset; at < offset + bytes; at += 1ull << cache->slice_bits) {
        Qcow2Shard *shard = shard_of(cache, at);
        Qcow2Slice *slice;

        pthread_mutex_lock(&shard->lock);
        slice = find(cache, shard, at);
        if (slice && !slice->loading)
            remove_slice(cache, shard, slice);
        pthread_mutex_unlock(&shard->lock);
    }
}

static void forget(Qcow2Cache *cache, bool all)
{
    for (unsigned i = 0; i < cache->n_shards; i++) {
        Qcow2Shard *shard = &cache->shards[i];

        pthread_mutex_lock(&shard->lock);
        for (Qcow2Slice *slice = shard->oldest, *newer; slice; slice = newer) {
            newer = slice->newer;
            if (all || (may_go(slice) && !slice->used))
                remove_slice(cache, shard, slice);
            else
                slice->used = false;
        }
        pthread_mutex_unlock(&shard->lock);
    }
}

void qcow2_cache_clean(Qcow2Cache *cache)
{
    forget(cache, false);
}

void qcow2_caches_forget(Qcow2 *s)
{
    forget(&s->l2_cache, true);
    forget(&s->refcount_cache, true);
}

void qcow2_cache_free(Qcow2Cache *cache)
{
    forget(cache, true);
    for (unsigned i = 0; i < cache->n_shards; i++) {
        pthread_mutex_destroy(&cache->shards[i].lock);
        g_free(cache->shards[i].buckets);
    }
}

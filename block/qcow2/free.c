/*
 * Giving clusters back.
 *
 * What an L2 entry no longer refers to must not be used for anything else before
 *
 *  - the change of the entry is on stable storage: after a crash the old entry would show another
 *    one's data.  So what is freed waits for a checkpoint ("pending");
 *  - the requests are over that looked the cluster up before: they may still read it, or write to it.
 *    So it waits for an epoch of the gate to pass ("stable");
 *  - the space is given back to the file system, if it is: a hole that is punched late would fall on
 *    the next one's data.  So the refcount is dropped last.
 */
#include "block/qcow2/qcow2.h"
#include <inttypes.h>
#include <string.h>

typedef struct FreeRun {
    uint64_t offset, bytes;
    Qcow2Discard kind;
} FreeRun;

typedef struct StableRuns {
    GArray *runs;                          /* of FreeRun */
    int epoch;                             /* of the gate, when they became stable */
} StableRuns;

struct Qcow2Frees {
    pthread_mutex_t mutex;
    GArray *pending;                       /* mutex: of FreeRun */
    gint n_pending;                        /* atomic */
    GQueue stable;                         /* mutex: of StableRuns, oldest first */
    bool reaping;                          /* mutex */
};

void qcow2_frees_init(Qcow2 *s)
{
    s->frees = g_new0(Qcow2Frees, 1);
    pthread_mutex_init(&s->frees->mutex, NULL);
    s->frees->pending = g_array_new(FALSE, FALSE, sizeof(FreeRun));
    g_queue_init(&s->frees->stable);
}

void qcow2_frees_forget(Qcow2 *s)
{
    pthread_mutex_lock(&s->frees->mutex);
    g_array_set_size(s->frees->pending, 0);
    __atomic_store_n(&s->frees->n_pending, 0, __ATOMIC_SEQ_CST);
    for (StableRuns *stable; (stable = g_queue_pop_head(&s->frees->stable));) {
        g_array_free(stable->runs, TRUE);
        g_free(stable);
    }
    pthread_mutex_unlock(&s->frees->mutex);
}

void qcow2_frees_free(Qcow2 *s)
{
    for (StableRuns *stable; (stable = g_queue_pop_head(&s->frees->stable));) {
        g_array_free(stable->runs, TRUE);
        g_free(stable);
    }
    g_array_free(s->frees->pending, TRUE);
    pthread_mutex_destroy(&s->frees->mutex);
    g_free(s->frees);
}

void qcow2_free_later(Qcow2 *s, uint64_t offset, uint64_t bytes, Qcow2Discard kind)
{
    FreeRun run = { offset, bytes, kind };

    qcow2_touch(s, offset, bytes);
    pthread_mutex_lock(&s->frees->mutex);
    g_array_append_val(s->frees->pending, run);
    __atomic_store_n(&s->frees->n_pending, s->frees->pending->len, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&s->frees->mutex);
}

static void touch_runs(Qcow2 *s, const GArray *runs)
{
    for (unsigned i = 0; i < runs->len; i++)
        qcow2_touch(s, g_array_index(runs, FreeRun, i).offset, g_array_index(runs, FreeRun, i).bytes);
}

void qcow2_frees_touch(Qcow2 *s)
{
    pthread_mutex_lock(&s->frees->mutex);
    touch_runs(s, s->frees->pending);
    for (GList *link = s->frees->stable.head; link; link = link->next)
        touch_runs(s, ((StableRuns *)link->data)->runs);
    pthread_mutex_unlock(&s->frees->mutex);
}

unsigned qcow2_frees_waiting(Qcow2 *s)
{
    return __atomic_load_n(&s->frees->n_pending, __ATOMIC_SEQ_CST);
}

GArray *qcow2_frees_take(Qcow2 *s)
{
    GArray *runs;

    pthread_mutex_lock(&s->frees->mutex);
    runs = s->frees->pending;
    s->frees->pending = g_array_new(FALSE, FALSE, sizeof(FreeRun));
    __atomic_store_n(&s->frees->n_pending, 0, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&s->frees->mutex);
    return runs;
}

void qcow2_frees_give(Qcow2 *s, GArray *runs, bool is_stable)
{
    StableRuns *stable;

    pthread_mutex_lock(&s->frees->mutex);
    if (is_stable && runs->len) {
        stable = g_new(StableRuns, 1);
        *stable = (StableRuns){ g_steal_pointer(&runs),
                                __atomic_load_n(&s->epoch, __ATOMIC_SEQ_CST) };
        g_queue_push_tail(&s->frees->stable, stable);
    } else if (runs->len) {
        g_array_append_vals(s->frees->pending, runs->data, runs->len);
        __atomic_store_n(&s->frees->n_pending, s->frees->pending->len, __ATOMIC_SEQ_CST);
    }
    pthread_mutex_unlock(&s->frees->mutex);
    if (runs)
        g_array_free(runs, TRUE);
}

/* Reaping. */

static int by_offset(gconstpointer a, gconstpointer b)
{
    uint64_t x = ((const FreeRun *)a)->offset, y = ((const FreeRun *)b)->offset;

    return (x > y) - (x < y);
}

/* Whole clusters that follow each other become one run. */
static void merge(Qcow2 *s, GArray *runs)
{
    unsigned n = 0;

    g_array_sort(runs, by_offset);
    for (unsigned i = 0; i < runs->len; i++) {
        FreeRun *run = &g_array_index(runs, FreeRun, i);
        FreeRun *last = n ? &g_array_index(runs, FreeRun, n - 1) : NULL;

        if (last && last->kind == run->kind && last->offset + last->bytes == run->offset &&
            !qcow2_offset_in_cluster(s, run->offset))
            last->bytes += run->bytes;
        else
            g_array_index(runs, FreeRun, n++) = *run;
    }
    g_array_set_size(runs, n);
}

/* How many clusters from @at on, up to @end, nobody else refers to. */
static uint64_t co_fn count_last_references(Qcow2 *s, uint64_t at, uint64_t end)
{
    uint64_t n = 0, refcount;

    co_mutex_lock(&s->alloc_lock);
    while (at + n < end && qcow2_refcount_get(s, at + n, &refcount) == 0 && refcount == 1) {
        /* No more compressed data is added to it. */
        if (s->byte_offset >> s->cluster_bits == at + n)
            s->byte_offset = 0;
        n++;
    }
    co_mutex_unlock(&s->alloc_lock);
    return n;
}

static void co_fn give_space_back(Qcow2 *s, const FreeRun *run)
{
    uint64_t at = run->offset >> s->cluster_bits;
    uint64_t end = qcow2_clusters(s, run->offset + run->bytes);

    while (at < end) {
        uint64_t n = count_last_references(s, at, end), offset = at << s->cluster_bits;
        uint64_t size = block_node_size(s->file);

        if (n && offset < size)
            block_node_co_discard(s->file, offset, MIN(n << s->cluster_bits, size - offset));
        at += n ? n : 1;
    }
}

static void co_fn reap_run(Qcow2 *s, const FreeRun *run)
{
    if (s->discard_passes[run->kind])
        give_space_back(s, run);
    qcow2_free_now(s, run->offset, run->bytes);
}

/* The oldest runs, if their time has come. */
static GArray *take_due(Qcow2 *s)
{
    StableRuns *stable;
    GArray *runs = NULL;

    pthread_mutex_lock(&s->frees->mutex);
    stable = s->frees->reaping ? NULL : g_queue_peek_head(&s->frees->stable);
    if (stable && qcow2_epoch_passed(s, stable->epoch)) {
        runs = stable->runs;
        g_queue_pop_head(&s->frees->stable);
        g_free(stable);
        s->frees->reaping = true;
    }
    pthread_mutex_unlock(&s->frees->mutex);
    return runs;
}

static void reaped(Qcow2 *s)
{
    pthread_mutex_lock(&s->frees->mutex);
    s->frees->reaping = false;
    pthread_mutex_unlock(&s->frees->mutex);
}

void co_fn qcow2_reap(Qcow2 *s)
{
    GArray *runs;

    while ((runs = take_due(s))) {
        merge(s, runs);
        for (unsigned i = 0; i < runs->len; i++)
            reap_run(s, &g_array_index(runs, FreeRun, i));
        g_array_free(runs, TRUE);
        reaped(s);
    }
}

/* Nobody is inside the gate, so that all that is stable is due. */
int co_fn qcow2_settle(Qcow2 *s)
{
    int ret;

    do {
        ret = qcow2_checkpoint(s);
        if (ret == 0)
            qcow2_reap(s);
    } while (ret == 0 && (qcow2_frees_waiting(s) ||
                          __atomic_load_n(&s->refcount_cache.dirty, __ATOMIC_SEQ_CST)));
    return ret;
}

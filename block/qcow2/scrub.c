/* The scrub's run: before the walk, its steps, after it. */
#include "block/qcow2/checksums.h"
#include "block/qcow2/scrub.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { TRIES = 8, FOUND_MAX = 1 << 20 };

/* Reading. */

/* A slice that is not in memory is on disk as it is.  Should it be read, changed and written while
 * we read it from the disk: what was changed is noted. */
int co_fn qcow2_read_current(Qcow2Cache *cache, uint64_t offset, uint8_t *data, GError **error)
{
    Qcow2 *s = cache->s;
    uint64_t bytes = 1ull << cache->slice_bits, from = 0;
    int ret = 0;

    for (uint64_t at = 0; ret == 0 && at <= s->cluster_size; at += bytes) {
        Qcow2Slice *slice = at < s->cluster_size ? qcow2_cache_try(cache, offset + at) : NULL;

        if (slice) {
            memcpy(data + at, slice->data, bytes);
            qcow2_cache_put(cache, slice, false);
        }
        if (!slice && at < s->cluster_size)
            continue;
        if (from < at)
            ret = qcow2_meta_read(s, offset + from, data + from, at - from, cache->what, error);
        from = at + bytes;
    }
    return ret;
}

int co_fn qcow2_live_read(Qcow2Live *live, Qcow2Cache *cache, uint64_t offset, uint8_t *data,
                          GError **error)
{
    Qcow2 *s = live->s;

    if (s->sums) {
        int ret = check_look(live->c, offset, data, s->cluster_size, cache->what, error);

        if (ret < 0)
            return ret;
    }
    return qcow2_read_current(cache, offset, data, error);
}

/* Steps. */

static int co_fn begin_step(Qcow2Live *live)
{
    live->ticket = qcow2_enter(live->s);
    return qcow2_live_disturbed(live) ? -EAGAIN : 0;
}

static void end_step(Qcow2Live *live)
{
    qcow2_leave(live->s, &live->ticket);
}

int co_fn qcow2_live_step(Qcow2Live *live, uint64_t bytes)
{
    BlockScrub *scrub = live->scrub;
    bool go_on;
    int ret;

    end_step(live);
    scrub->done += bytes;
    scrub->total = MAX(scrub->total, scrub->done);
    go_on = scrub->pace(scrub, bytes);
    ret = begin_step(live);
    return go_on ? ret : -ECANCELED;
}

uint64_t qcow2_live_end(Qcow2Live *live)
{
    Qcow2 *s = live->s;

    return MAX((uint64_t)block_node_size(s->file), __atomic_load_n(&s->fresh, __ATOMIC_RELAXED));
}

bool qcow2_live_is_new(Qcow2Live *live, uint64_t offset)
{
    return qcow2_is_touched(live->s, offset >> live->s->cluster_bits);
}

void qcow2_live_compare(Qcow2Live *live, uint64_t cluster, uint64_t stored)
{
    uint64_t counted = check_count(live->c, cluster);
    unsigned wrong = counted == 1 ? CHECK_NOT_COPIED : CHECK_COPIED;
    Qcow2Found found = { .cluster = cluster, .stored = stored, .counted = counted };

    live->scrub->live += counted > 0;
    if (!counted && !stored)
        live->scrub->reusable += (cluster << live->s->cluster_bits) < live->c->file_bytes;
    if (live->found->len >= FOUND_MAX)
        return;
    if (stored != counted)
        g_array_append_val(live->found, found);
    found.copied = true;
    if (live->c->refs[cluster] & wrong)
        g_array_append_val(live->found, found);
}

/* A walk. */

static void report(const char *line, void *opaque)
{
    Qcow2Live *live = opaque;
    const Qcow2Check *c = live->c;
    json_object *finding = json_object_new_object();

    json_object_object_add(finding, "message", json_object_new_string(line));
    if (c->table) {
        json_object_object_add(finding, "table", json_object_new_uint64(c->table));
        json_object_object_add(finding, "index", json_object_new_uint64(c->index));
    }
    qcow2_live_finding(live->scrub, finding);
}

static uint64_t tables(const uint64_t *table, uint64_t n)
{
    uint64_t used = 0;

    for (uint64_t i = 0; i < n; i++)
        used += table[i] != 0;
    return used;
}

/* Alone: nobody is under way that has not noted what it touches. */
static bool begin_walk(Qcow2Live *live, GError **error)
{
    Qcow2 *s = live->s;
    Qcow2Check *c = live->c;

    live->turns = __atomic_load_n(&s->exclusive_turns, __ATOMIC_SEQ_CST);
    c->file_bytes = qcow2_live_end(live);
    c->clusters = (c->file_bytes >> s->cluster_bits) + 2;
    c->refs = calloc(c->clusters, sizeof(*c->refs));
    if (!c->refs || !qcow2_touched_begin(s, c->clusters))
        return fail(error, ERR_LIMIT, "no memory to count the references to %" PRIu64 " clusters",
                    c->clusters);
    live->scrub->total = (tables(s->l1, s->header.l1_size) +
                          tables(s->reftable, s->reftable_size)) << s->cluster_bits;
    return true;
}

/* It may grow, and move, while we look at it. */
static uint64_t *co_fn copy_reftable(Qcow2Check *c)
{
    Qcow2 *s = c->s;
    uint64_t *copy;

    co_mutex_lock(&s->alloc_lock);
    copy = g_memdup2(s->reftable, s->reftable_size * sizeof(uint64_t));
    c->reftable = copy;
    c->reftable_size = s->reftable_size;
    c->reftable_offset = s->header.refcount_table_offset;
    c->reftable_bytes = (uint64_t)s->header.refcount_table_clusters << s->cluster_bits;
    co_mutex_unlock(&s->alloc_lock);
    return copy;
}

static int co_fn walk(Qcow2Live *live, GError **error)
{
    g_autofree uint64_t *reftable = NULL;
    int ret = begin_step(live);

    if (ret == 0)
        ret = qcow2_check_walk(live->c, NULL);
    if (ret == 0) {
        reftable = copy_reftable(live->c);
        ret = qcow2_check_refcounts(live->c, error);
    }
    end_step(live);
    live->c->reftable = NULL;
    return ret;
}

/* Those who were under way are over, and what they touched is noted. */
static int co_fn end_walk(Qcow2Live *live)
{
    BlockScrub *scrub = live->scrub;
    unsigned kept = 0;

    qcow2_exclusive_begin(live->s);
    live->turns++;
    qcow2_exclusive_end(live->s);
    if (qcow2_live_disturbed(live))
        return -EAGAIN;
    for (unsigned i = 0; i < live->found->len; i++) {
        Qcow2Found found = g_array_index(live->found, Qcow2Found, i);

        if (qcow2_is_touched(live->s, found.cluster))
            scrub->changing += !found.copied;
        else
            g_array_index(live->found, Qcow2Found, kept++) = found;
    }
    g_array_set_size(live->found, kept);
    return 0;
}

/* As a guest's flush does it: less waits to be freed, of which a walk can say nothing. */
static int co_fn free_what_is_due(Qcow2 *s)
{
    Qcow2Ticket ticket;
    int ret;

    if (qcow2_may_write(s) < 0)
        return 0;
    ticket = qcow2_enter_upkeep(s);
    ret = qcow2_checkpoint(s);
    if (ret == 0)
        qcow2_reap(s);
    qcow2_leave(s, &ticket);
    return ret;
}

/* One try. */
static int co_fn look(Qcow2Live *live, GError **error)
{
    int ret = free_what_is_due(live->s);

    if (ret < 0)
        return ret;
    qcow2_exclusive_begin(live->s);
    ret = begin_walk(live, error) ? 0 : -ENOMEM;
    qcow2_exclusive_end(live->s);
    if (ret == 0)
        ret = walk(live, error);
    if (ret == 0)
        ret = end_walk(live);
    if (ret == 0 && live->found->len) {
        ret = begin_step(live);
        if (ret == 0)
            ret = qcow2_live_locate(live);
        end_step(live);
    }
    return ret;
}

static void forget(BlockScrub *scrub)
{
    json_object *apply = g_steal_pointer(&scrub->apply);
    BlockScrub kept = { .apply = apply, .pace = scrub->pace, .opaque = scrub->opaque };

    block_scrub_clear(scrub);
    *scrub = kept;
    scrub->findings = json_object_new_array();
    scrub->plan = json_object_new_object();
}

static int co_fn try_once(Qcow2 *s, BlockScrub *scrub, GError **error)
{
    BlockCheck result = { .report = report };
    Qcow2Check check = { .s = s, .result = &result };
    Qcow2Live live = { .s = s, .scrub = scrub, .c = &check };
    int ret;

    forget(scrub);
    result.opaque = check.live = &live;
    live.found = g_array_new(FALSE, FALSE, sizeof(Qcow2Found));
    live.mismatches = g_array_new(FALSE, FALSE, sizeof(Qcow2Mismatch));
    ret = look(&live, error);
    if (ret == 0) {
        scrub->cluster_size = s->cluster_size;
        scrub->errors = result.corruptions;
        scrub->unreadable = result.check_errors;
        qcow2_live_tell(&live);
        if (scrub->apply)
            ret = qcow2_live_apply(&live, error);
    }
    qcow2_exclusive_begin(s);
    qcow2_touched_end(s);
    qcow2_exclusive_end(s);
    g_array_free(live.found, TRUE);
    g_array_free(live.mismatches, TRUE);
    free(check.refs);
    return ret;
}

static int co_fn scrub_image(Qcow2 *s, BlockScrub *scrub, GError **error)
{
    int ret = -EAGAIN;

    for (unsigned i = 0; ret == -EAGAIN && i < TRIES; i++)
        ret = try_once(s, scrub, error);
    if (ret == -ECANCELED)
        fail(error, ERR_GENERIC, "the scrub was cancelled");
    else if (ret == -EAGAIN)
        fail(error, ERR_BAD_STATE,
             "'%s' was changed as a whole again and again while it was scrubbed",
             block_node_filename(s->node));
    else if (ret < 0 && error && !*error)
        fail_errno(error, -ret, "cannot scrub '%s'", block_node_filename(s->node));
    return ret;
}

int co_fn qcow2_co_scrub(BlockNode *node, BlockScrub *scrub, GError **error)
{
    Qcow2 *s = qcow2_of(node);
    int ret;

    if (scrub->apply && qcow2_may_write(s) < 0) {
        fail(error, ERR_PERMISSION, "'%s' is not open for writing, or is known to be corrupt",
             block_node_filename(node));
        return -EPERM;
    }
    if (__atomic_exchange_n(&s->scrubbing, 1, __ATOMIC_SEQ_CST)) {
        fail(error, ERR_IN_USE, "'%s' is being scrubbed already", block_node_filename(node));
        return -EBUSY;
    }
    ret = scrub_image(s, scrub, error);
    __atomic_store_n(&s->scrubbing, 0, __ATOMIC_SEQ_CST);
    return ret;
}

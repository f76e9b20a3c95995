/*
 * Users: who attaches to a node, its requests in flight, its statistics and its error policy.
 *
 * A request counts itself in its thread's cell, then looks whether the user is quiesced; quiescing
 * sets the flag, then waits until all cells are zero.  Both orders are sequentially consistent, so
 * that no request slips through, and nobody takes a lock unless it has to wait.
 */
#include "block/chain.h"
#include "block/change.h"
#include "block/node.h"
#include "block/throttle-group.h"
#include "src/object/event.h"
#include <errno.h>

const char *const block_on_error_words[] = { "report", "ignore", "enospc", "stop", NULL };

BlockUser *block_user_new(BlockNode *node, const char *name, unsigned perm, unsigned shared,
                          GError **error)
{
    BlockUser *user = g_new0(BlockUser, 1);

    user->node = node;
    user->graph = node->graph;
    user->name = g_strdup(name);
    user->write_cache = node->write_cache;
    pthread_mutex_init(&user->wait_lock, NULL);
    user->edge.user = user;
    user->edge.child = node;
    if (!block_edge_attach(&user->edge, perm, shared, error)) {
        pthread_mutex_destroy(&user->wait_lock);
        g_free(user->name);
        g_free(user);
        return NULL;
    }
    block_user_find_merge_max(user);
    block_user_set_on_error(user, -1, -1, NULL);
    g_ptr_array_add(user->graph->users, user);
    if (node->drive && node->drive->limits &&
        !block_user_set_throttle(user, node->drive->throttle_group, node->drive->limits, error)) {
        block_user_free(user);
        return NULL;
    }
    return user;
}

void block_user_free(BlockUser *user)
{
    if (!user)
        return;
    block_user_drain(user);
    block_user_clear_limits(user);
    g_ptr_array_remove(user->graph->users, user);
    block_edge_detach(&user->edge);
    block_cells_clear(&user->cells);
    pthread_mutex_destroy(&user->wait_lock);
    object_unref(user->device);
    g_free(user->qdev);
    g_free(user->name);
    g_free(user);
}

/* In flight. */

static inline BlockUserCell *user_cell(BlockUser *user)
{
    return block_cells_mine(&user->cells, sizeof(BlockUserCell));
}

/* How many quiescings wait now.  Not in the user, which may be gone once its last request has been
 * counted out. */
static gint waiting_for_idle;

/* The coroutines among them; under idle_lock. */
static GSList *idle_waiters;
static pthread_mutex_t idle_lock = PTHREAD_MUTEX_INITIALIZER;

static void tell_idle_waiters(void)
{
    pthread_mutex_lock(&idle_lock);
    for (GSList *l = idle_waiters; l; l = l->next)
        co_wake(l->data);
    pthread_mutex_unlock(&idle_lock);
    loop_kick(loop_main());
}

static inline void leave(BlockUserCell *cell)
{
    __atomic_fetch_sub(&cell->in_flight, 1, __ATOMIC_SEQ_CST);
    if (G_UNLIKELY(__atomic_load_n(&waiting_for_idle, __ATOMIC_SEQ_CST)))
        tell_idle_waiters();
}

/* The user is quiesced: step back and wait.  The request is not counted meanwhile. */
static void co_fn wait_while_quiesced(BlockUser *user, BlockUserCell *cell)
{
    do {
        leave(cell);
        pthread_mutex_lock(&user->wait_lock);
        if (__atomic_load_n(&user->quiesced, __ATOMIC_SEQ_CST)) {
            user->waiters = g_slist_prepend(user->waiters, co_self());
            pthread_mutex_unlock(&user->wait_lock);
            co_yield();
        } else {
            pthread_mutex_unlock(&user->wait_lock);
        }
        __atomic_fetch_add(&cell->in_flight, 1, __ATOMIC_SEQ_CST);
    } while (__atomic_load_n(&user->quiesced, __ATOMIC_SEQ_CST));
}

static inline BlockUserCell *co_fn enter(BlockUser *user)
{
    BlockUserCell *cell = user_cell(user);

    __atomic_fetch_add(&cell->in_flight, 1, __ATOMIC_SEQ_CST);
    if (G_UNLIKELY(__atomic_load_n(&user->quiesced, __ATOMIC_SEQ_CST)))
        wait_while_quiesced(user, cell);
    return cell;
}

unsigned block_user_in_flight(BlockUser *user)
{
    unsigned n = 0;

    for (unsigned i = 0; i < BLOCK_SLOTS; i++) {
        BlockUserCell *cell = __atomic_load_n(&user->cells.of[i], __ATOMIC_ACQUIRE);

        if (cell)
            n += __atomic_load_n(&cell->in_flight, __ATOMIC_SEQ_CST);
    }
    return n;
}

static void co_fn yield_until_idle(BlockUser *user)
{
    Coroutine *co = co_self();

    pthread_mutex_lock(&idle_lock);
    idle_waiters = g_slist_prepend(idle_waiters, co);
    pthread_mutex_unlock(&idle_lock);
    while (block_user_in_flight(user))
        co_yield();
    pthread_mutex_lock(&idle_lock);
    idle_waiters = g_slist_remove(idle_waiters, co);
    pthread_mutex_unlock(&idle_lock);
}

static void wait_until_idle(BlockUser *user)
{
    __atomic_fetch_add(&waiting_for_idle, 1, __ATOMIC_SEQ_CST);
    if (co_self())
        yield_until_idle(user);
    while (block_user_in_flight(user))
        loop_iterate(loop_main(), true);
    __atomic_fetch_sub(&waiting_for_idle, 1, __ATOMIC_SEQ_CST);
}

/* What holds requests back by itself: each is pinned, as the graph may change while we wait. */
static void find_holding(BlockNode *node, GPtrArray *found)
{
    if (node->driver->drain && !g_ptr_array_find(found, node, NULL)) {
        block_node_pin(node);
        g_ptr_array_add(found, node);
    }
    for (unsigned i = 0; i < node->children->len; i++)
        find_holding(((BlockEdge *)node->children->pdata[i])->child, found);
}

static void let_go(BlockUser *user, GPtrArray *nodes, bool on)
{
    if (user->throttle)
        throttle_member_release(user->throttle, on);
    for (unsigned i = 0; i < nodes->len; i++) {
        BlockNode *node = nodes->pdata[i];

        node->driver->drain(node, on);
        if (!on)
            block_node_unpin(node);
    }
}

static void quiesce(BlockUser *user)
{
    g_autoptr(GPtrArray) holding = NULL;

    __atomic_fetch_add(&user->quiesced, 1, __ATOMIC_SEQ_CST);
    if (!block_user_in_flight(user))
        return;
    holding = g_ptr_array_new();
    find_holding(user->node, holding);
    let_go(user, holding, true);
    wait_until_idle(user);
    let_go(user, holding, false);
}

void block_user_quiesce(BlockUser *user, bool on)
{
    GSList *waiters;

    if (on) {
        quiesce(user);
        return;
    }
    pthread_mutex_lock(&user->wait_lock);
    if (__atomic_sub_fetch(&user->quiesced, 1, __ATOMIC_SEQ_CST)) {
        pthread_mutex_unlock(&user->wait_lock);
        return;
    }
    waiters = g_slist_reverse(g_steal_pointer(&user->waiters));
    pthread_mutex_unlock(&user->wait_lock);
    while (waiters) {
        Coroutine *co = waiters->data;

        waiters = g_slist_delete_link(waiters, waiters);
        co_wake(co);
    }
}

/* New requests wait while the old ones end: else a busy guest could keep us here for ever. */
void block_user_drain(BlockUser *user)
{
    if (!block_user_in_flight(user))
        return;
    block_user_quiesce(user, true);
    block_user_quiesce(user, false);
}

void co_fn block_user_begin(BlockUser *user)
{
    enter(user);
}

void block_user_end(BlockUser *user)
{
    leave(user_cell(user));
}

/* Requests. */

/* Reads, writes and zero requests keep the user's limits. */
static inline void co_fn keep_limits(BlockUser *user, bool is_write, uint64_t bytes)
{
    if (G_UNLIKELY(user->throttle != NULL))
        throttle_member_wait(user->throttle, is_write, bytes);
}

/* The time of @n requests, from @start_ns until now. */
static inline void count_time(BlockUser *user, BlockUserCell *cell, BlockAcct what, unsigned n,
                              int64_t start_ns)
{
    int64_t now = loop_clock_ns();

    block_cell_add(&cell->of[what].total_time_ns, n * (now - start_ns));
    __atomic_store_n(&cell->last_ns, now, __ATOMIC_RELAXED);
    if (G_UNLIKELY(user->histograms[what] != NULL))
        for (unsigned i = 0; i < n; i++)
            block_user_histogram_add(user->histograms[what], now - start_ns);
}

static inline int finish(BlockUser *user, BlockUserCell *cell, BlockAcct what, uint64_t bytes,
                         int64_t start_ns, int ret)
{
    if (G_LIKELY(ret == 0)) {
        block_cell_add(&cell->of[what].bytes, bytes);
        block_cell_add(&cell->of[what].operations, 1);
    } else {
        block_cell_add(&cell->of[what].failed, 1);
    }
    count_time(user, cell, what, 1, start_ns);
    leave(cell);
    return ret;
}

static inline bool may_write(const BlockUser *user)
{
    return user->edge.perm & BLOCK_PERM_WRITE;
}

static inline bool past_end(const BlockUser *user, uint64_t offset, uint64_t bytes)
{
    uint64_t size = block_node_size(user->node);

    return offset > size || bytes > size - offset;
}

int co_fn block_co_read(BlockUser *user, uint64_t offset, const struct iovec *iov, int iovcnt,
                        uint64_t bytes)
{
    BlockUserCell *cell = enter(user);
    int64_t start_ns = loop_clock_ns();
    int ret;

    keep_limits(user, false, bytes);
    ret = block_node_co_read(user->node, offset, iov, iovcnt, bytes);
    return finish(user, cell, BLOCK_ACCT_READ, bytes, start_ns, ret);
}

static inline unsigned user_flags(BlockUser *user, unsigned flags)
{
    return G_LIKELY(__atomic_load_n(&user->write_cache, __ATOMIC_RELAXED)) ? flags
                                                                           : flags | BLOCK_FUA;
}

int co_fn block_co_write(BlockUser *user, uint64_t offset, const struct iovec *iov, int iovcnt,
                         uint64_t bytes, unsigned flags)
{
    BlockUserCell *cell = enter(user);
    int64_t start_ns = loop_clock_ns();
    int ret;

    keep_limits(user, true, bytes);
    if (G_UNLIKELY(!may_write(user)))
        ret = -EPERM;
    else if (G_UNLIKELY(past_end(user, offset, bytes)))
        ret = -EIO;
    else
        ret = block_node_co_write(user->node, offset, iov, iovcnt, bytes, user_flags(user, flags));
    return finish(user, cell, BLOCK_ACCT_WRITE, bytes, start_ns, ret);
}

/* Merged requests. */

void block_user_find_merge_max(BlockUser *user)
{
    const BlockLimits *limits = &user->node->limits;
    uint64_t most = limits->max_transfer ? MIN(limits->max_transfer, BLOCK_MERGE_BYTES)
                                         : BLOCK_MERGE_BYTES;

    if (user->throttle || (limits->max_iov && limits->max_iov < BLOCK_MERGE_IOV))
        most = 0;
    __atomic_store_n(&user->merge_max, most, __ATOMIC_RELAXED);
}

uint64_t block_user_merge_max(const BlockUser *user)
{
    return __atomic_load_n(&user->merge_max, __ATOMIC_RELAXED);
}

static int finish_merged(BlockUser *user, BlockUserCell *cell, BlockAcct what, uint64_t bytes,
                         unsigned n, int64_t start_ns, int ret)
{
    if (G_LIKELY(ret == 0)) {
        block_cell_add(&cell->of[what].bytes, bytes);
        block_cell_add(&cell->of[what].operations, n);
        block_cell_add(&cell->of[what].merged, n - 1);
        count_time(user, cell, what, n, start_ns);
    }
    leave(cell);
    return ret;
}

int co_fn block_co_read_merged(BlockUser *user, uint64_t offset, const struct iovec *iov, int iovcnt,
                               uint64_t bytes, unsigned n)
{
    BlockUserCell *cell = enter(user);
    int64_t start_ns = loop_clock_ns();
    int ret = -EAGAIN;

    if (G_LIKELY(bytes <= block_user_merge_max(user)))
        ret = block_node_co_read(user->node, offset, iov, iovcnt, bytes);
    return finish_merged(user, cell, BLOCK_ACCT_READ, bytes, n, start_ns, ret);
}

int co_fn block_co_write_merged(BlockUser *user, uint64_t offset, const struct iovec *iov, int iovcnt,
                                uint64_t bytes, unsigned n)
{
    BlockUserCell *cell = enter(user);
    int64_t start_ns = loop_clock_ns();
    int ret = -EAGAIN;

    if (G_LIKELY(bytes <= block_user_merge_max(user)) && may_write(user) &&
        !past_end(user, offset, bytes))
        ret = block_node_co_write(user->node, offset, iov, iovcnt, bytes, user_flags(user, 0));
    return finish_merged(user, cell, BLOCK_ACCT_WRITE, bytes, n, start_ns, ret);
}

int co_fn block_co_zero(BlockUser *user, uint64_t offset, uint64_t bytes, unsigned flags)
{
    BlockUserCell *cell = enter(user);
    int64_t start_ns = loop_clock_ns();
    int ret;

    keep_limits(user, true, bytes);
    if (!may_write(user))
        ret = -EPERM;
    else if (past_end(user, offset, bytes))
        ret = -EIO;
    else
        ret = block_node_co_zero(user->node, offset, bytes, user_flags(user, flags));
    return finish(user, cell, BLOCK_ACCT_ZERO, bytes, start_ns, ret);
}

int co_fn block_co_discard(BlockUser *user, uint64_t offset, uint64_t bytes)
{
    BlockUserCell *cell = enter(user);
    int64_t start_ns = loop_clock_ns();
    int ret = may_write(user) ? block_node_co_discard(user->node, offset, bytes) : -EPERM;

    if (ret == 0 && !__atomic_load_n(&user->write_cache, __ATOMIC_RELAXED))
        ret = block_node_co_flush(user->node);
    return finish(user, cell, BLOCK_ACCT_UNMAP, bytes, start_ns, ret);
}

int co_fn block_co_flush(BlockUser *user)
{
    BlockUserCell *cell = enter(user);
    int64_t start_ns = loop_clock_ns();
    int ret = block_node_co_flush(user->node);

    return finish(user, cell, BLOCK_ACCT_FLUSH, 0, start_ns, ret);
}

/* Piece by piece: where the source says that its bytes are, as they are, in a protocol's node. */
static int co_fn copy_pieces(BlockUser *from, uint64_t from_offset, BlockUser *to,
                             uint64_t to_offset, uint64_t bytes)
{
    const unsigned wanted = BLOCK_MAP_DATA | BLOCK_MAP_OFFSET_VALID;
    BlockMap map;
    int ret = 0;

    for (uint64_t done = 0; ret == 0 && done < bytes; done += map.bytes) {
        ret = block_node_co_map(from->node, from_offset + done, bytes - done, &map);
        if (ret == 0 && ((map.flags & wanted) != wanted || !map.host_node ||
                         !map.host_node->driver->is_protocol))
            ret = -ENOTSUP;
        if (ret == 0)
            ret = block_node_co_copy_range(to->node, to_offset + done, map.host_node,
                                           map.host_offset, map.bytes);
    }
    return ret;
}

int co_fn block_co_copy_range(BlockUser *from, uint64_t from_offset, BlockUser *to,
                              uint64_t to_offset, uint64_t bytes)
{
    BlockUserCell *from_cell = enter(from), *cell = enter(to);
    int64_t start_ns = loop_clock_ns();
    int ret;

    if (!may_write(to))
        ret = -EPERM;
    else if (past_end(to, to_offset, bytes))
        ret = -EIO;
    else
        ret = copy_pieces(from, from_offset, to, to_offset, bytes);
    leave(from_cell);
    return finish(to, cell, BLOCK_ACCT_WRITE, bytes, start_ns, ret);
}

int co_fn block_co_map(BlockUser *user, BlockNode *base, uint64_t offset, uint64_t bytes,
                       BlockMap *map, unsigned *ret_depth)
{
    BlockUserCell *cell = enter(user);
    int ret = past_end(user, offset, bytes) || !bytes
                  ? -EIO
                  : block_co_map_above(user->node, base, offset, bytes, map, ret_depth);

    leave(cell);
    return ret;
}

/* Statistics. */

BlockStats block_user_stats(const BlockUser *user)
{
    BlockStats stats = { .wr_highest_offset = __atomic_load_n(
                             &user->node->write_target->wr_highest_offset, __ATOMIC_RELAXED) };

    for (unsigned slot = 0; slot < BLOCK_SLOTS; slot++) {
        BlockUserCell *cell = __atomic_load_n(&user->cells.of[slot], __ATOMIC_ACQUIRE);

        for (unsigned i = 0; cell && i < BLOCK_ACCT__COUNT; i++) {
#define ADD(member) stats.of[i].member += __atomic_load_n(&cell->of[i].member, __ATOMIC_RELAXED)
            ADD(bytes);
            ADD(operations);
            ADD(failed);
            ADD(invalid);
            ADD(total_time_ns);
            ADD(merged);
#undef ADD
        }
    }
    return stats;
}

int64_t block_user_last_ns(const BlockUser *user)
{
    uint64_t last = 0;

    for (unsigned slot = 0; slot < BLOCK_SLOTS; slot++) {
        BlockUserCell *cell = __atomic_load_n(&user->cells.of[slot], __ATOMIC_ACQUIRE);

        if (cell)
            last = MAX(last, __atomic_load_n(&cell->last_ns, __ATOMIC_RELAXED));
    }
    return last;
}

void block_user_account_invalid(BlockUser *user, BlockAcct what)
{
    block_cell_add(&user_cell(user)->of[what].invalid, 1);
}

void block_graph_foreach_user(BlockGraph *graph, void (*fn)(BlockUser *user, void *opaque),
                              void *opaque)
{
    for (unsigned i = 0; i < graph->users->len; i++)
        fn(graph->users->pdata[i], opaque);
}

/* Small members. */

BlockNode *block_user_node(const BlockUser *user)
{
    return user->node;
}

const char *block_user_name(const BlockUser *user)
{
    return user->name;
}

void block_user_set_device(BlockUser *user, Object *device)
{
    object_unref(user->device);
    user->device = device ? object_ref(device) : NULL;
    g_free(user->qdev);
    user->qdev = block_user_qdev(user);
}

Object *block_user_device(const BlockUser *user)
{
    return user->device;
}

void block_user_keep(BlockUser *user, BlockNode **place)
{
    user->kept = place;
}

void block_user_on_resize(BlockUser *user, LoopFn *fn, void *opaque)
{
    user->on_resize = fn;
    user->on_resize_opaque = opaque;
}

void block_user_set_write_cache(BlockUser *user, bool on)
{
    __atomic_store_n(&user->write_cache, on, __ATOMIC_RELAXED);
}

bool block_user_write_cache(const BlockUser *user)
{
    return __atomic_load_n(&user->write_cache, __ATOMIC_RELAXED);
}

/* Errors. */

bool block_user_set_on_error(BlockUser *user, int on_read_error, int on_write_error, GError **error)
{
    const BlockDrive *drive = user->node->drive;

    if (on_read_error < 0)
        on_read_error = drive && drive->on_read_error >= 0 ? drive->on_read_error
                                                           : BLOCK_ON_ERROR_REPORT;
    if (on_write_error < 0)
        on_write_error = drive && drive->on_write_error >= 0 ? drive->on_write_error
                                                             : BLOCK_ON_ERROR_ENOSPC;
    if (on_read_error == BLOCK_ON_ERROR_ENOSPC)
        return fail(error, ERR_INVALID_PARAMETER, "rerror=enospc makes no sense: reading takes no "
                                                  "space");
    user->on_error[true] = on_read_error;
    user->on_error[false] = on_write_error;
    return true;
}

static BlockErrorAction decide(BlockOnError policy, int err)
{
    switch (policy) {
    case BLOCK_ON_ERROR_IGNORE:
        return BLOCK_ERROR_IGNORE;
    case BLOCK_ON_ERROR_ENOSPC:
        return err == ENOSPC ? BLOCK_ERROR_STOP : BLOCK_ERROR_REPORT;
    case BLOCK_ON_ERROR_STOP:
        return BLOCK_ERROR_STOP;
    case BLOCK_ON_ERROR_REPORT:
        break;
    }
    return BLOCK_ERROR_REPORT;
}

char *block_user_qdev(const BlockUser *user)
{
    char *path = user->device ? object_path(user->device) : NULL;
    const char *prefix = "/machine/peripheral/";

    /* As QEMU: a device with an id is called by it, everything else by its path. */
    if (path && g_str_has_prefix(path, prefix) && !strchr(path + strlen(prefix), '/'))
        memmove(path, path + strlen(prefix), strlen(path + strlen(prefix)) + 1);
    return path;
}

BlockErrorAction block_user_error_action(BlockUser *user, bool is_read, int err)
{
    static const char *const words[] = { "report", "ignore", "stop" };
    BlockErrorAction action = decide(user->on_error[is_read], err);
    const BlockDrive *drive = user->node->drive;
    json_object *data = json_object_new_object();
    gint ok = 0;

    if (action == BLOCK_ERROR_STOP)
        __atomic_compare_exchange_n(&user->io_status, &ok, err == ENOSPC ? 2 : 1, false,
                                    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    if (user->qdev)
        json_object_object_add(data, "qom-path", json_object_new_string(user->qdev));
    json_object_object_add(data, "device", json_object_new_string(drive ? drive->id : ""));
    json_object_object_add(data, "node-name", json_object_new_string(user->node->name));
    json_object_object_add(data, "operation", json_object_new_string(is_read ? "read" : "write"));
    json_object_object_add(data, "action", json_object_new_string(words[action]));
    json_object_object_add(data, "nospace", json_object_new_boolean(err == ENOSPC));
    json_object_object_add(data, "reason", json_object_new_string(g_strerror(err)));
    event_emit((Object *)user->graph, "BLOCK_IO_ERROR", data);
    return action;
}

void block_user_reset_io_status(BlockUser *user)
{
    __atomic_store_n(&user->io_status, 0, __ATOMIC_SEQ_CST);
}

void block_graph_reset_io_status(BlockGraph *graph)
{
    for (unsigned i = 0; i < graph->users->len; i++)
        block_user_reset_io_status(graph->users->pdata[i]);
}

/*
 * preallocate: a filter between a format and its file that makes the file longer than it is needed, a
 * long piece at a time.  For file systems on which growing a file costs more than writing to it.
 *
 * Above the filter nothing of it is seen: its size is where the data ends.  What is too much is cut off
 * when the last one who writes and resizes goes; until then the file is held for writing, so that no
 * other process takes the piece for its own.
 *
 * A request past `file_end` reserves its range under the lock, with a piece beyond it if there is room:
 * zeroes never meet a write that is under way.
 */
#include <errno.h>
#include "block/driver.h"
#include "block/node.h"
#include "src/base/trace.h"
#include "src/base/util.h"

#define DEFAULT_SIZE (128 * MiB)
#define DEFAULT_ALIGN (1 * MiB)
#define WRITE_RESIZE (BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE)
enum { SECTOR = 512 };

typedef struct Config {
    uint64_t size, align;                  /* bytes beyond a write; what the file's end is a multiple of */
} Config;

typedef struct Preallocate {
    Config config;
    CoMutex lock;                          /* who makes the file longer or shorter */
    uint64_t file_end;                     /* atomic; changes under the lock: taken for somebody below it */
    uint64_t data_end;                     /* atomic: the size that is shown */
    bool on;                               /* atomic: somebody may write and resize */
} Preallocate;

static const char *const preallocate_options[] = { "file", "prealloc-size", "prealloc-align", NULL };

static uint64_t get(const uint64_t *n)
{
    return __atomic_load_n(n, __ATOMIC_ACQUIRE);
}

static void set(uint64_t *n, uint64_t value)
{
    __atomic_store_n(n, value, __ATOMIC_RELEASE);
}

static void raise_data_end(Preallocate *p, uint64_t end)
{
    uint64_t old = get(&p->data_end);

    while (old < end && !__atomic_compare_exchange_n(&p->data_end, &old, end, false,
                                                     __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        continue;
}

static bool has_tail(const Preallocate *p)
{
    return get(&p->file_end) > get(&p->data_end);
}

/* As the file is; nothing is in flight. */
static void look_at_file(BlockNode *node)
{
    Preallocate *p = block_node_state(node);
    uint64_t size = block_node_size(block_node_file(node));

    set(&p->data_end, size);
    set(&p->file_end, size);
}

/* ---- opening, other options ---- */

static bool take_config(BlockNode *file, json_object *options, Config *config, GError **error)
{
    uint64_t align = file ? block_node_limits(file).request_alignment : 1;

    *config = (Config){ DEFAULT_SIZE, DEFAULT_ALIGN };
    if (!options_get_size(options, "prealloc-size", &config->size, error) ||
        !options_get_size(options, "prealloc-align", &config->align, error))
        return false;
    json_object_object_del(options, "prealloc-size");
    json_object_object_del(options, "prealloc-align");
    if (!config->align || config->align % SECTOR || config->align > INT64_MAX / 2)
        return fail(error, ERR_INVALID_PARAMETER, "prealloc-align must be a multiple of %d", SECTOR);
    if (config->align % MAX(align, 1))
        return fail(error, ERR_INVALID_PARAMETER,
                    "prealloc-align must be a multiple of %" G_GUINT64_FORMAT ", which requests of '%s' "
                    "are", align, block_node_name(file));
    return config->size <= INT64_MAX / 2 ||
           fail(error, ERR_INVALID_PARAMETER, "prealloc-size is too large");
}

static bool co_fn preallocate_open(BlockNode *node, json_object *options, GError **error)
{
    Preallocate *p = block_node_state(node);
    BlockNode *file = block_node_open_child(node, options, "file", true, error);

    co_mutex_init(&p->lock);
    if (!file || !take_config(file, options, &p->config, error))
        return false;
    look_at_file(node);
    return true;
}

static bool co_fn preallocate_reopen_prepare(BlockNode *node, BlockReopen *reopen, GError **error)
{
    Config config;

    if (!reopen->options)
        return true;
    if (!take_config(block_node_file(node), reopen->options, &config, error))
        return false;
    reopen->state = g_memdup2(&config, sizeof(config));
    return true;
}

static void co_fn preallocate_reopen_commit(BlockNode *node, BlockReopen *reopen)
{
    if (reopen->state)
        ((Preallocate *)block_node_state(node))->config = *(Config *)reopen->state;
    g_free(reopen->state);
}

static void co_fn preallocate_reopen_abort(BlockNode *node, BlockReopen *reopen)
{
    g_free(reopen->state);
}

/* ---- the end of the file ---- */

/* Before anything is written up to @end. */
static void co_fn reserve(BlockNode *node, uint64_t end)
{
    Preallocate *p = block_node_state(node);
    BlockNode *file = block_node_file(node);
    uint64_t from, to;
    int ret = -ENOTSUP;

    if (G_LIKELY(end <= get(&p->file_end)))
        return;
    co_mutex_lock(&p->lock);
    from = get(&p->file_end);
    to = end > INT64_MAX - p->config.size - p->config.align
             ? end
             : ALIGN_UP(end + p->config.size, p->config.align);
    if (end > from && to > end && __atomic_load_n(&p->on, __ATOMIC_RELAXED))
        ret = block_node_co_zero(file, from, to - from, BLOCK_NO_FALLBACK);
    TRACE(preallocate, "node '%s' from %" PRIu64 " to %" PRIu64 ": %d", block_node_name(node), from, to,
          ret);
    if (end > from)                        /* no room for more, or not possible: then just the request's */
        set(&p->file_end, ret == 0 ? to : end);
    co_mutex_unlock(&p->lock);
}

/* Nobody writes any more. */
static int co_fn cut_tail(BlockNode *node, GError **error)
{
    Preallocate *p = block_node_state(node);
    uint64_t end = get(&p->data_end);
    int ret;

    if (!has_tail(p))
        return 0;
    ret = block_node_co_resize(block_node_file(node), end, error);
    set(&p->file_end, end);                /* it is not tried again */
    return ret;
}

static void co_fn preallocate_close(BlockNode *node)
{
    cut_tail(node, NULL);                  /* after set_perm: nothing, unless a request came late */
}

static int64_t preallocate_get_size(BlockNode *node)
{
    return get(&((Preallocate *)block_node_state(node))->data_end);
}

/* What is left of the piece is zeroes, unless a write there has failed half-way: it goes first. */
static int co_fn preallocate_co_resize(BlockNode *node, uint64_t bytes, GError **error)
{
    Preallocate *p = block_node_state(node);
    BlockNode *file = block_node_file(node);
    int ret = 0;

    co_mutex_lock(&p->lock);
    if (bytes > get(&p->data_end))
        ret = cut_tail(node, error);
    if (ret == 0)
        ret = block_node_co_resize(file, bytes, error);
    if (ret == 0) {
        set(&p->data_end, bytes);
        set(&p->file_end, bytes);
    }
    co_mutex_unlock(&p->lock);
    return ret;
}

static void preallocate_child_changed(BlockNode *node, const char *key)
{
    if (block_node_file(node))
        look_at_file(node);
}

/* ---- permissions ---- */

/* The file stays held until its end is where it should be, and is nobody else's to change. */
static void preallocate_child_perm(BlockNode *node, const char *key, unsigned *perm, unsigned *shared)
{
    const Preallocate *p = block_node_state(node);

    if ((*perm & WRITE_RESIZE) != WRITE_RESIZE && !has_tail(p))
        return;
    *perm |= WRITE_RESIZE;
    *shared &= ~WRITE_RESIZE;
}

static bool co_fn preallocate_set_perm(BlockNode *node, unsigned perm, unsigned shared, GError **error)
{
    Preallocate *p = block_node_state(node);
    bool on = (perm & WRITE_RESIZE) == WRITE_RESIZE;
    g_autoptr(GError) why = NULL;

    __atomic_store_n(&p->on, on, __ATOMIC_RELAXED);
    if (on || !has_tail(p))
        return true;
    if (cut_tail(node, &why) < 0)
        warn_report("node '%s': its file stays longer than it needs to be: %s", block_node_name(node),
                    why->message);
    block_edge_set_perm(node->children->pdata[0], perm, shared, NULL);
    return true;
}

/* ---- requests ---- */

static int co_fn preallocate_co_write(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                      int iovcnt, uint64_t bytes, unsigned flags)
{
    int ret;

    reserve(node, offset + bytes);
    ret = block_node_co_write(block_node_file(node), offset, iov, iovcnt, bytes, flags);
    if (ret == 0)
        raise_data_end(block_node_state(node), offset + bytes);
    return ret;
}

static int co_fn preallocate_co_zero(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    int ret;

    reserve(node, offset + bytes);
    ret = block_node_co_zero(block_node_file(node), offset, bytes, flags);
    if (ret == 0)
        raise_data_end(block_node_state(node), offset + bytes);
    return ret;
}

static const BlockDriver preallocate_driver = {
    .name = "preallocate",
    .help = "makes a file longer ahead of what is written to it",
    .size = sizeof(Preallocate),
    .options = preallocate_options,
    .is_filter = true,
    .grows = true,
    .write_flags = BLOCK_FUA,
    .open = preallocate_open,
    .close = preallocate_close,
    .get_size = preallocate_get_size,
    .co_write = preallocate_co_write,
    .co_zero = preallocate_co_zero,
    .co_resize = preallocate_co_resize,
    .child_perm = preallocate_child_perm,
    .set_perm = preallocate_set_perm,
    .child_changed = preallocate_child_changed,
    .reopen_prepare = preallocate_reopen_prepare,
    .reopen_commit = preallocate_reopen_commit,
    .reopen_abort = preallocate_reopen_abort,
};
BLOCK_DRIVER(preallocate_driver)

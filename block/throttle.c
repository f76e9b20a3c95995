/* throttle: a filter whose requests keep the limits of a group (object throttle-group). */
#include "block/driver.h"
#include "block/throttle-group.h"

typedef struct Throttle {
    ThrottleMember *member;
} Throttle;

static const char *const throttle_options[] = { "throttle-group", "file", NULL };

static bool co_fn throttle_open(BlockNode *node, json_object *options, GError **error)
{
    Throttle *t = block_node_state(node);
    const char *name = NULL;
    ThrottleGroup *group;

    if (!options_get_str(options, "throttle-group", &name, error))
        return false;
    if (!name)
        return fail(error, ERR_MISSING_PARAMETER, "Please specify a throttle group");
    group = throttle_group_find(OBJECT(block_node_graph(node)), name, false, error);
    if (!group || !block_node_open_child(node, options, "file", true, error))
        return false;
    json_object_object_del(options, "throttle-group");
    t->member = throttle_member_new(group);
    return true;
}

static void co_fn throttle_close(BlockNode *node)
{
    throttle_member_free(((Throttle *)block_node_state(node))->member);
}

static ThrottleMember *member_of(BlockNode *node)
{
    return ((Throttle *)block_node_state(node))->member;
}

static int co_fn throttle_co_read(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                  int iovcnt, uint64_t bytes)
{
    throttle_member_wait(member_of(node), false, bytes);
    return block_node_co_read(block_node_file(node), offset, iov, iovcnt, bytes);
}

static int co_fn throttle_co_write(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                   int iovcnt, uint64_t bytes, unsigned flags)
{
    throttle_member_wait(member_of(node), true, bytes);
    return block_node_co_write(block_node_file(node), offset, iov, iovcnt, bytes, flags);
}

static int co_fn throttle_co_zero(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned flags)
{
    throttle_member_wait(member_of(node), true, bytes);
    return block_node_co_zero(block_node_file(node), offset, bytes, flags);
}

static int co_fn throttle_co_discard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    throttle_member_wait(member_of(node), true, bytes);
    return block_node_co_discard(block_node_file(node), offset, bytes);
}

static void throttle_drain(BlockNode *node, bool begin)
{
    throttle_member_release(member_of(node), begin);
}

/* Another group, or another file. */
static bool co_fn throttle_reopen_prepare(BlockNode *node, BlockReopen *reopen, GError **error)
{
    const char *name = NULL;
    ThrottleGroup *group;

    if (!reopen->options)
        return true;
    if (!options_get_str(reopen->options, "throttle-group", &name, error))
        return false;
    if (!name)
        return fail(error, ERR_MISSING_PARAMETER, "Please specify a throttle group");
    group = throttle_group_find(OBJECT(block_node_graph(node)), name, false, error);
    if (!group)
        return false;
    json_object_object_del(reopen->options, "throttle-group");
    reopen->state = throttle_member_new(group);
    return true;
}

static void co_fn throttle_reopen_commit(BlockNode *node, BlockReopen *reopen)
{
    Throttle *t = block_node_state(node);

    if (!reopen->state)
        return;
    throttle_member_free(t->member);
    t->member = reopen->state;
}

static void co_fn throttle_reopen_abort(BlockNode *node, BlockReopen *reopen)
{
    throttle_member_free(reopen->state);
}

static const BlockDriver throttle_driver = {
    .name = "throttle",
    .help = "keeps the limits of a throttle-group",
    .size = sizeof(Throttle),
    .options = throttle_options,
    .is_filter = true,
    .grows = true,
    .write_flags = BLOCK_FUA | BLOCK_COMPRESSED,
    .open = throttle_open,
    .close = throttle_close,
    .co_read = throttle_co_read,
    .co_write = throttle_co_write,
    .co_zero = throttle_co_zero,
    .co_discard = throttle_co_discard,
    .drain = throttle_drain,
    .reopen_prepare = throttle_reopen_prepare,
    .reopen_commit = throttle_reopen_commit,
    .reopen_abort = throttle_reopen_abort,
};
BLOCK_DRIVER(throttle_driver)

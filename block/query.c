/*
 * What QMP tells about nodes and users: BlockDeviceInfo, ImageInfo, BlockInfo, BlockStats, with
 * QEMU's members.
 */
#include "block/image.h"
#include "block/node.h"
#include <errno.h>

/* ImageInfo. */

static int64_t allocated_size(BlockNode *node)
{
    while (!node->driver->allocated_size && block_node_file(node))
        node = block_node_file(node);
    return node->driver->allocated_size ? node->driver->allocated_size(node) : -ENOTSUP;
}

static void add_snapshots(BlockNode *node, json_object *info)
{
    g_autoptr(GPtrArray) snapshots = block_snapshots(node);
    json_object *list;

    if (!snapshots->len)
        return;
    list = json_object_new_array();
    for (unsigned i = 0; i < snapshots->len; i++)
        json_object_array_add(list, block_snapshot_describe(snapshots->pdata[i]));
    json_object_object_add(info, "snapshots", list);
}

json_object *block_node_image_info(BlockNode *node, GError **error)
{
    int64_t size = block_node_size(node), allocated = allocated_size(node);
    json_object *info;

    if (size < 0) {
        fail_errno(error, -size, "cannot find the size of '%s'", node->name);
        return NULL;
    }
    info = json_object_new_object();
    json_add_str(info, "filename", block_node_filename(node));
    json_add_str(info, "format", node->driver->name);
    json_add_int(info, "virtual-size", size);
    if (allocated >= 0)
        json_add_int(info, "actual-size", allocated);
    json_add_bool(info, "dirty-flag", false);
    if (node->driver->image_info)
        node->driver->image_info(node, info);
    add_snapshots(node, info);
    return info;
}

/* BlockDeviceInfo. */

static json_object *describe_children(const BlockNode *node)
{
    json_object *children = json_object_new_array();

    for (unsigned i = 0; i < node->children->len; i++) {
        BlockEdge *edge = node->children->pdata[i];
        json_object *child = json_object_new_object();

        json_add_str(child, "child", edge->key);
        json_add_str(child, "node-name", edge->child->name);
        json_object_array_add(children, child);
    }
    return children;
}

static void add_bitmaps(json_object *info, BlockNode *node)
{
    json_object *bitmaps = block_node_describe_bitmaps(node);

    if (bitmaps)
        json_object_object_add(info, "dirty-bitmaps", bitmaps);
}

/* @user: whose limits are told; may be NULL. */
static json_object *describe(BlockNode *node, bool write_cache, BlockUser *user)
{
    json_object *info = json_object_new_object(), *cache = json_object_new_object();
    json_object *image = block_node_image_info(node, NULL);

    json_add_str(info, "file", block_node_filename(node));
    json_add_str(info, "node-name", node->name);
    json_add_bool(info, "ro", node->config.read_only);
    json_add_str(info, "drv", node->driver->name);
    json_add_int(info, "backing_file_depth", 0);
    json_object_object_add(info, "children", describe_children(node));
    json_add_bool(info, "active", true);
    json_add_bool(info, "encrypted", false);
    json_add_str(info, "detect_zeroes", block_detect_zeroes_words[node->config.detect_zeroes]);
    block_user_describe_throttle(user, info);
    json_add_int(info, "write_threshold",
                 __atomic_load_n(&node->write_threshold, __ATOMIC_RELAXED));
    json_add_bool(cache, "writeback", write_cache);
    json_add_bool(cache, "direct", node->config.direct);
    json_add_bool(cache, "no-flush", node->config.no_flush);
    json_object_object_add(info, "cache", cache);
    if (image)
        json_object_object_add(info, "image", image);
    if (node->bitmaps)
        add_bitmaps(info, node);
    if (node->driver->describe)
        node->driver->describe(node, info);
    return info;
}

json_object *block_node_describe(BlockNode *node)
{
    return describe(node, node->write_cache, NULL);
}

json_object *block_query_named_nodes(BlockGraph *graph)
{
    json_object *list = json_object_new_array();

    for (unsigned i = graph->nodes->len; i-- > 0;)
        json_object_array_add(list, block_node_describe(graph->nodes->pdata[i]));
    return list;
}

/* BlockInfo: a device, or a drive that no device has taken. */

static const char *device_name(const BlockNode *node)
{
    return node->drive ? node->drive->id : "";
}

/* A job's filter is not what somebody asks for. */
static BlockNode *shown(BlockNode *node)
{
    while (node->implicit && block_node_file(node))
        node = block_node_file(node);
    return node;
}

static json_object *block_info(BlockNode *node, const char *qdev, bool write_cache, BlockUser *user)
{
    json_object *info = json_object_new_object();

    json_add_str(info, "device", device_name(node));
    if (qdev)
        json_add_str(info, "qdev", qdev);
    json_add_str(info, "type", "unknown");
    json_add_bool(info, "removable", false);
    json_add_bool(info, "locked", false);
    json_object_object_add(info, "inserted", describe(shown(node), write_cache, user));
    return info;
}

static bool has_device(const BlockNode *node)
{
    for (unsigned i = 0; i < node->parents->len; i++) {
        const BlockEdge *edge = node->parents->pdata[i];

        if (edge->user && edge->user->device)
            return true;
    }
    return false;
}

json_object *block_query_block(BlockGraph *graph)
{
    static const char *const io_status[] = { "ok", "failed", "nospace" };
    json_object *list = json_object_new_array();

    for (unsigned i = 0; i < graph->users->len; i++) {
        BlockUser *user = graph->users->pdata[i];
        g_autofree char *qdev = block_user_qdev(user);
        json_object *info;

        if (!user->device)
            continue;
        info = block_info(user->node, qdev, block_user_write_cache(user), user);
        json_add_str(info, "io-status",
                     io_status[__atomic_load_n(&user->io_status, __ATOMIC_RELAXED)]);
        json_object_array_add(list, info);
    }
    for (unsigned i = 0; i < graph->nodes->len; i++) {
        BlockNode *node = graph->nodes->pdata[i];

        if (node->drive && !has_device(node))
            json_object_array_add(list, block_info(node, NULL, node->write_cache, NULL));
    }
    return list;
}

/* BlockStats. */

static void add_operation(json_object *stats, const char *prefix, const BlockStats *from,
                          BlockAcct what)
{
    const struct {
        const char *before, *after;
        uint64_t value;
    } members[] = {
        { "", "_operations", from->of[what].operations },
        { "", "_total_time_ns", from->of[what].total_time_ns },
        { "failed_", "_operations", from->of[what].failed },
        { "invalid_", "_operations", from->of[what].invalid },
        { "", "_bytes", from->of[what].bytes },
        { "", "_merged", from->of[what].merged },
    };
    unsigned n = G_N_ELEMENTS(members) - (what == BLOCK_ACCT_FLUSH ? 2 : 0);  /* has no bytes */

    for (unsigned i = 0; i < n; i++) {
        g_autofree char *key = g_strconcat(members[i].before, prefix, members[i].after, NULL);

        json_add_int(stats, key, members[i].value);
    }
}

static json_object *stats_object(const BlockStats *from, bool accounted, int64_t idle_ns)
{
    json_object *stats = json_object_new_object();

    add_operation(stats, "rd", from, BLOCK_ACCT_READ);
    add_operation(stats, "wr", from, BLOCK_ACCT_WRITE);
    add_operation(stats, "flush", from, BLOCK_ACCT_FLUSH);
    add_operation(stats, "unmap", from, BLOCK_ACCT_UNMAP);
    json_add_int(stats, "wr_highest_offset", from->wr_highest_offset);
    if (idle_ns >= 0)
        json_add_int(stats, "idle_time_ns", idle_ns);
    json_add_bool(stats, "account_invalid", accounted);
    json_add_bool(stats, "account_failed", accounted);
    json_object_object_add(stats, "timed_stats", json_object_new_array());
    return stats;
}

static json_object *node_stats(BlockNode *node)
{
    BlockStats none = { .wr_highest_offset = __atomic_load_n(
                            &node->write_target->wr_highest_offset, __ATOMIC_RELAXED) };
    json_object *info = json_object_new_object(), *specific;
    BlockNode *file = block_node_file(node), *backing = block_node_child(node, "backing");

    json_add_str(info, "node-name", node->name);
    json_object_object_add(info, "stats", stats_object(&none, false, -1));
    specific = node->driver->stats ? node->driver->stats(node) : NULL;
    if (specific)
        json_object_object_add(info, "driver-specific", specific);
    if (file)
        json_object_object_add(info, "parent", node_stats(file));
    if (backing)
        json_object_object_add(info, "backing", node_stats(backing));
    return info;
}

/* Zero writes count as writes, as a guest's WRITE ZEROES does in QEMU. */
static json_object *user_stats(BlockUser *user)
{
    BlockStats stats = block_user_stats(user);
    int64_t last = block_user_last_ns(user);
    json_object *info = node_stats(shown(user->node)), *counters;
    g_autofree char *qdev = block_user_qdev(user);

    stats.of[BLOCK_ACCT_WRITE].bytes += stats.of[BLOCK_ACCT_ZERO].bytes;
    stats.of[BLOCK_ACCT_WRITE].operations += stats.of[BLOCK_ACCT_ZERO].operations;
    stats.of[BLOCK_ACCT_WRITE].failed += stats.of[BLOCK_ACCT_ZERO].failed;
    stats.of[BLOCK_ACCT_WRITE].invalid += stats.of[BLOCK_ACCT_ZERO].invalid;
    stats.of[BLOCK_ACCT_WRITE].total_time_ns += stats.of[BLOCK_ACCT_ZERO].total_time_ns;
    json_add_str(info, "device", device_name(user->node));
    if (qdev)
        json_add_str(info, "qdev", qdev);
    counters = stats_object(&stats, true, last ? loop_clock_ns() - last : -1);
    block_user_describe_histograms(user, counters);
    json_object_object_add(info, "stats", counters);
    return info;
}

json_object *block_query_blockstats(BlockGraph *graph, bool query_nodes)
{
    json_object *list = json_object_new_array();

    if (query_nodes) {
        for (unsigned i = graph->nodes->len; i-- > 0;)
            json_object_array_add(list, node_stats(graph->nodes->pdata[i]));
        return list;
    }
    for (unsigned i = 0; i < graph->users->len; i++) {
        BlockUser *user = graph->users->pdata[i];

        if (user->device)
            json_object_array_add(list, user_stats(user));
    }
    for (unsigned i = 0; i < graph->nodes->len; i++) {
        BlockNode *node = graph->nodes->pdata[i];

        if (node->drive && !has_device(node)) {
            json_object *info = node_stats(node);

            json_add_str(info, "device", node->drive->id);
            json_object_array_add(list, info);
        }
    }
    return list;
}

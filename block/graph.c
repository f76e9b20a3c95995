/*
 * The graph: nodes by name, how they are opened from options and closed again.
 *
 * A node lives while something refers to it: the monitor (a node made by blockdev-add, until
 * blockdev-del), a drive, a node above, or a user.
 */
#include "block/job.h"
#include "block/node.h"
#include <errno.h>
#include "src/base/util.h"

#define NODE_NAME_MAX 31                   /* as QEMU: names travel in streams and bitmaps */

static const char *const absent_drivers[] = {
    "blkverify", "bochs", "cloop",
    "dmg", "ftp", "ftps", "gluster", "host_cdrom", "http", "https", "io_uring",
    "iscsi", "nfs", "nvme", "nvme-io_uring", "parallels",
    "qcow", "qed", "quorum", "rbd", "replication",
    "ssh", "vdi", "vhdx", "virtio-blk-vfio-pci", "virtio-blk-vhost-user",
    "virtio-blk-vhost-vdpa", "vmdk", "vpc", "vvfat", NULL
};

/* The graph object. */

static void graph_init(Object *obj)
{
    BlockGraph *graph = (BlockGraph *)obj;

    graph->nodes = g_ptr_array_new();
    graph->users = g_ptr_array_new();
    graph->jobs = g_ptr_array_new();
    co_mutex_init(&graph->change_lock);
    co_queue_init(&graph->settled);
    co_queue_init(&graph->refreshed);
}

static void graph_finalize(Object *obj)
{
    BlockGraph *graph = (BlockGraph *)obj;

    block_graph_close(graph);
    g_ptr_array_free(graph->nodes, TRUE);
    g_ptr_array_free(graph->users, TRUE);
    g_ptr_array_free(graph->jobs, TRUE);
}

static const Type block_graph_type = {
    .name = "block-graph",
    .parent = "object",
    .help = "block nodes of a machine",
    .size = sizeof(BlockGraph),
    .init = graph_init,
    .finalize = graph_finalize,
};
TYPE_REGISTER(block_graph_type)

BlockGraph *block_graph_new(Object *root, GError **error)
{
    Object *obj = object_new(&block_graph_type);
    bool added = object_add_child(root, "block", obj, error);

    object_unref(obj);                     /* the tree holds it now, or nobody does */
    return added ? (BlockGraph *)obj : NULL;
}

void block_graph_set_clock(BlockGraph *graph, int64_t (*clock_ns)(void *opaque), void *opaque)
{
    graph->clock_ns = clock_ns;
    graph->clock_opaque = opaque;
}

BlockGraph *block_graph_of(const Object *any)
{
    return (BlockGraph *)object_child(object_root(any), "block");
}

static BlockNode *find_owned(BlockGraph *graph)
{
    for (unsigned i = graph->nodes->len; i-- > 0;) {
        BlockNode *node = graph->nodes->pdata[i];

        if (node->monitor_owned)
            return node;
    }
    return NULL;
}

/* Top to bottom: what the monitor or a drive holds goes first, the rest follows from it. */
static void co_fn close_all(void *opaque)
{
    BlockGraph *graph = opaque;
    BlockNode *node;

    while ((node = find_owned(graph)) || graph->under_way) {
        if (node) {
            node->monitor_owned = false;
            block_node_release(node);
        } else {
            co_queue_wait(&graph->settled, NULL);
        }
    }
}

void block_graph_close(BlockGraph *graph)
{
    block_jobs_cancel_all(graph);
    co_run_sync(close_all, graph);
}

void block_graph_foreach(BlockGraph *graph, void (*fn)(BlockNode *node, void *opaque), void *opaque)
{
    for (unsigned i = 0; i < graph->nodes->len; i++)
        fn(graph->nodes->pdata[i], opaque);
}

/* Names. */

BlockNode *block_node_find(BlockGraph *graph, const char *node_name)
{
    for (unsigned i = 0; i < graph->nodes->len; i++) {
        BlockNode *node = graph->nodes->pdata[i];

        if (!strcmp(node->name, node_name))
            return node;
    }
    return NULL;
}

static bool name_is_free(BlockGraph *graph, const char *name, GError **error)
{
    if (!block_node_find(graph, name))
        return true;
    fail(error, ERR_EXISTS, "there is a node '%s' already", name);
    return error_object(error, "%s", name);
}

static bool name_is_well_formed(const char *name, GError **error)
{
    if (!g_ascii_isalpha(name[0]) || strlen(name) > NODE_NAME_MAX ||
        name[strspn(name, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "-._")]) {
        fail(error, ERR_INVALID_PARAMETER, "Invalid node-name: '%s'", name);
        return error_hint(error, "a node name starts with a letter, has letters, digits, '-', '.' "
                                 "and '_' only, and at most %d characters", NODE_NAME_MAX);
    }
    return true;
}

static bool take_name(BlockNode *node, json_object *options, GError **error)
{
    const char *name = NULL;

    if (!options_get_str(options, "node-name", &name, error))
        return false;
    if (name && (!name_is_well_formed(name, error) || !name_is_free(node->graph, name, error)))
        return false;
    node->auto_named = !name;
    node->name = name ? g_strdup(name) : g_strdup_printf("#block%03u", node->graph->next_name++);
    json_object_object_del(options, "node-name");
    return true;
}

/* Opening. */

static void add_driver_name(const BlockDriver *driver, void *names)
{
    g_ptr_array_add(names, (gpointer)driver->name);
}

const BlockDriver *block_driver_get(const char *name, GError **error)
{
    const BlockDriver *driver = block_driver_find(name);
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    const char *nearest;

    if (driver)
        return driver;
    if (g_strv_contains(absent_drivers, name)) {
        fail(error, ERR_UNSUPPORTED, "block driver '%s' is not in this build", name);
        return NULL;
    }
    fail(error, ERR_INVALID_PARAMETER, "Unknown driver '%s'", name);
    block_driver_foreach(add_driver_name, names);
    g_ptr_array_add(names, NULL);
    nearest = nearest_word(name, (const char *const *)names->pdata);
    if (nearest)
        error_hint(error, "did you mean '%s'?", nearest);
    return NULL;
}

static bool take_driver(BlockNode *node, json_object *options, GError **error)
{
    const char *name = NULL;

    if (!options_get_str(options, "driver", &name, error))
        return false;
    if (!name)
        return fail(error, ERR_MISSING_PARAMETER, "A block node needs the option 'driver'");
    node->driver = block_driver_get(name, error);
    if (!node->driver)
        return false;
    json_object_object_del(options, "driver");
    node->state = g_malloc0(MAX(node->driver->size, 1));
    return true;
}

static bool check_left_over(BlockNode *node, json_object *options, GError **error)
{
    g_autoptr(GPtrArray) known = g_ptr_array_new();
    g_autofree char *what = g_strdup_printf("block driver '%s'", node->driver->name);

    for (const char *const *name = block_common_options; *name; name++)
        g_ptr_array_add(known, (gpointer)*name);
    for (const char *const *name = node->driver->options; name && *name; name++)
        g_ptr_array_add(known, (gpointer)*name);
    g_ptr_array_add(known, NULL);
    return options_check_empty(options, what, (const char *const *)known->pdata, error);
}

static BlockNode *node_new(BlockGraph *graph, json_object *options)
{
    BlockNode *node = g_new0(BlockNode, 1);

    node->graph = graph;
    node->refs = 1;
    node->depth = 1;
    node->shared = BLOCK_PERM_ALL;
    node->write_cache = true;
    node->options = json_object_get(options);
    node->children = g_ptr_array_new();
    node->parents = g_ptr_array_new();
    co_mutex_init(&node->perm_lock);
    co_queue_init(&node->unpinned);
    node->read_target = node->write_target = node;
    pthread_mutex_init(&node->track_lock, NULL);
    return node;
}

static void co_fn node_free(BlockNode *node, bool opened)
{
    while (node->pins)
        co_queue_wait(&node->unpinned, NULL);
    if (opened && node->driver->close)
        node->driver->close(node);
    while (node->children->len) {
        g_autofree BlockEdge *edge = g_ptr_array_steal_index(node->children,
                                                             node->children->len - 1);

        block_edge_detach(edge);
    }
    block_node_free_bitmaps(node);
    g_ptr_array_free(node->children, TRUE);
    g_ptr_array_free(node->parents, TRUE);
    block_cells_clear(&node->cells);
    pthread_mutex_destroy(&node->track_lock);
    json_object_put(node->options);
    g_free(node->drive ? (char *)node->drive->id : NULL);
    g_free(node->drive ? (char *)node->drive->serial : NULL);
    g_free(node->drive ? (ThrottleConfig *)node->drive->limits : NULL);
    g_free(node->drive ? (char *)node->drive->throttle_group : NULL);
    g_free(node->drive);
    g_free(node->state);
    g_free(node->filename);
    g_free(node->name);
    g_free(node);
}

BlockNode *block_node_file(const BlockNode *node)
{
    return block_node_child(node, "file");
}

int64_t block_node_ask_size(BlockNode *node)
{
    if (node->driver->get_size)
        return node->driver->get_size(node);
    return block_node_file(node) ? block_node_size(block_node_file(node)) : -EINVAL;
}

/* What the data path looks at, from what the driver and its child say. */
void block_node_refresh_limits(BlockNode *node)
{
    BlockLimits *limits = &node->limits;
    BlockNode *file = block_node_file(node);
    bool align = !node->driver->is_filter || node->driver->aligns;

    *limits = file ? file->limits
                   : (BlockLimits){ .request_alignment = 1, .buffer_alignment = 1,
                                    .max_iov = 1024, .can_write_zeroes = true };
    if (node->driver->limits)
        node->driver->limits(node, limits);
    node->align_mask = align ? limits->request_alignment - 1 : 0;
    node->ordered = node->align_mask || node->orderings;
    node->memory_mask = align ? limits->buffer_alignment - 1 : 0;
    node->max_transfer = align && limits->max_transfer ? limits->max_transfer : UINT64_MAX;
    node->max_iov = align && limits->max_iov ? MIN(limits->max_iov, INT_MAX) : INT_MAX;
}

static bool finish_open(BlockNode *node, GError **error)
{
    int64_t size;

    block_node_refresh_limits(node);
    size = block_node_ask_size(node);
    if (size < 0)
        return fail_errno(error, -size, "cannot find the size of '%s'",
                          node->filename ? node->filename : node->name);
    node->size = size;
    if (!node->filename && block_node_file(node))
        node->filename = g_strdup(block_node_file(node)->filename);
    block_node_route(node);
    return true;
}

/* @options is consumed member by member. */
static bool co_fn node_open(BlockNode *node, json_object *options, const BlockNodeConfig *above,
                      GError **error)
{
    if (!take_name(node, options, error) || !take_driver(node, options, error) ||
        !block_options_common(options, above, &node->config, error) ||
        !node->driver->open(node, options, error)) {
        node_free(node, false);
        return false;
    }
    /* A child, or another opening, may have taken the name meanwhile. */
    if (check_left_over(node, options, error) && finish_open(node, error) &&
        name_is_free(node->graph, node->name, error)) {
        node->listed = true;
        g_ptr_array_add(node->graph->nodes, node);
        return true;
    }
    node_free(node, true);
    return false;
}

/* The caller owns one reference.  @above: of the node whose options define
 * it, to inherit from; NULL: none. */
BlockNode *co_fn block_node_open_with(BlockGraph *graph, json_object *options,
                                      const BlockNodeConfig *above, GError **error)
{
    g_autoptr(json_object) rest = NULL;
    BlockNode *node;

    if (!json_object_is_type(options, json_type_object)) {
        fail(error, ERR_WRONG_TYPE, "the options of a block node must be an object");
        return NULL;
    }
    if (json_object_deep_copy(options, &rest, NULL) < 0) {
        fail(error, ERR_LIMIT, "the options of a block node are too large");
        return NULL;
    }
    node = node_new(graph, options);
    return node_open(node, rest, above, error) ? node : NULL;
}

void block_graph_begin(BlockGraph *graph)
{
    graph->under_way++;
}

void block_graph_end(BlockGraph *graph)
{
    graph->under_way--;
    co_queue_wake_all(&graph->settled);
}

typedef struct OpenRun {
    BlockGraph *graph;
    json_object *options;
    GError **error;
    BlockNode *node;
} OpenRun;

static void co_fn open_run(void *opaque)
{
    OpenRun *run = opaque;

    block_graph_begin(run->graph);
    run->node = block_node_open_with(run->graph, run->options, NULL, run->error);
    if (run->node)
        run->node->monitor_owned = true;
    block_graph_end(run->graph);
}

BlockNode *block_node_open(BlockGraph *graph, json_object *options, GError **error)
{
    OpenRun run = { graph, options, error, NULL };

    if (json_object_is_type(options, json_type_object) &&
        !json_object_object_get_ex(options, "node-name", NULL)) {
        fail(error, ERR_MISSING_PARAMETER, "'node-name' must be specified for the root node");
        return NULL;
    }
    co_run_sync(open_run, &run);
    return run.node;
}

void block_node_pin(BlockNode *node)
{
    node->pins++;
}

void block_node_unpin(BlockNode *node)
{
    if (!--node->pins)
        co_queue_wake_all(&node->unpinned);
}

static void co_fn close_run(void *opaque)
{
    BlockNode *node = opaque;
    BlockGraph *graph = node->graph;

    block_graph_begin(graph);
    node_free(node, true);
    block_graph_end(graph);
}

void block_node_release(BlockNode *node)
{
    if (--node->refs)
        return;
    if (node->listed)
        g_ptr_array_remove(node->graph->nodes, node);
    co_run_sync(close_run, node);
}

bool block_node_delete(BlockGraph *graph, const char *node_name, GError **error)
{
    BlockNode *node = block_node_find(graph, node_name);

    if (!node) {
        fail(error, ERR_NOT_FOUND, "Failed to find node with node-name='%s'", node_name);
        return error_object(error, "%s", node_name);
    }
    if (node->parents->len) {
        g_autofree char *who = block_edge_describe(node->parents->pdata[0]);

        fail(error, ERR_IN_USE, "Node '%s' is busy: it is used by %s", node_name, who);
        return error_object(error, "%s", node_name);
    }
    if (!node->monitor_owned || node->drive) {
        fail(error, ERR_IN_USE, "Node '%s' is not owned by the monitor", node_name);
        if (node->drive)
            error_hint(error, "it belongs to -drive id=%s", node->drive->id);
        return error_object(error, "%s", node_name);
    }
    node->monitor_owned = false;
    block_node_release(node);
    return true;
}

/* Children. */

BlockNode *block_node_child(const BlockNode *node, const char *key)
{
    for (unsigned i = 0; i < node->children->len; i++) {
        BlockEdge *edge = node->children->pdata[i];

        if (!strcmp(edge->key, key))
            return edge->child;
    }
    return NULL;
}

static BlockNode *co_fn child_node(BlockNode *node, json_object *value, const char *key, GError **error)
{
    BlockNode *child;
    const char *name;

    if (json_object_is_type(value, json_type_object))
        return block_node_open_with(node->graph, value, &node->config, error);
    if (!json_object_is_type(value, json_type_string)) {
        fail(error, ERR_WRONG_TYPE, "'%s' must be a node name or the options of a node", key);
        return NULL;
    }
    name = json_object_get_string(value);
    child = block_node_find(node->graph, name);
    if (!child) {
        fail(error, ERR_NOT_FOUND, "Cannot find device='' nor node-name='%s'", name);
        error_object(error, "%s", name);
        return NULL;
    }
    child->refs++;
    return child;
}

BlockNode *co_fn block_node_open_child(BlockNode *node, json_object *options, const char *key,
                                       bool required, GError **error)
{
    g_autoptr(json_object) value = options_take(options, key);
    unsigned perm = 0, shared = BLOCK_PERM_ALL;
    BlockNode *child;
    BlockEdge *edge;
    bool attached;

    if (!value) {
        if (required)
            fail(error, ERR_MISSING_PARAMETER, "A block device must be specified for \"%s\"", key);
        return NULL;
    }
    child = child_node(node, value, key, error);
    if (!child)
        return NULL;
    if (child->depth >= BLOCK_DEPTH_MAX) {
        fail(error, ERR_LIMIT, "more than %d block nodes on top of each other", BLOCK_DEPTH_MAX);
        block_node_release(child);
        return NULL;
    }
    edge = g_new0(BlockEdge, 1);
    edge->key = g_intern_string(key);
    edge->parent = node;
    edge->child = child;
    if (node->driver->child_perm)
        node->driver->child_perm(node, key, &perm, &shared);
    attached = block_edge_attach(edge, perm, shared, error);
    block_node_release(child);             /* the edge has its own reference */
    if (!attached) {
        g_free(edge);
        return NULL;
    }
    g_ptr_array_add(node->children, edge);
    node->depth = MAX(node->depth, child->depth + 1);
    return child;
}

bool block_node_demote(BlockNode *node, int why, GError **error)
{
    if (node->config.read_only)
        return true;
    if (!node->config.auto_read_only)
        return fail_errno(error, why, "cannot open '%s' for writing",
                          node->filename ? node->filename : node->name);
    node->config.read_only = node->demoted = true;
    return true;
}

void block_node_route(BlockNode *node)
{
    BlockNode *file = block_node_file(node);
    bool acts = node->bitmaps || node->orderings || node->write_threshold ||
                node->config.detect_zeroes != BLOCK_DETECT_OFF;
    bool skip_reads = node->transparent || (node->driver->is_filter && !node->driver->co_read);
    bool skip_writes = node->transparent && !acts;

    node->filtered = node->driver->is_filter ? file : NULL;
    node->read_target = file && skip_reads && !node->track_reads ? file->read_target : node;
    node->write_target = file && skip_writes && !file->config.read_only ? file->write_target : node;
    for (unsigned i = 0; i < node->parents->len; i++) {
        BlockEdge *edge = node->parents->pdata[i];

        if (edge->parent)
            block_node_route(edge->parent);
        else
            block_user_find_merge_max(edge->user);
    }
}

void block_node_set_transparent(BlockNode *node, bool on)
{
    node->transparent = on;
    block_node_route(node);
}

/* Small questions. */

const char *block_node_name(const BlockNode *node)
{
    return node->name;
}

bool block_node_grows(const BlockNode *node)
{
    while (node && node->driver->grows && node->driver->is_filter)
        node = block_node_file(node);
    return node && node->driver->grows;
}

const char *block_node_driver(const BlockNode *node)
{
    return node->driver->name;
}

const char *block_node_filename(const BlockNode *node)
{
    return node->filename ? node->filename : "";
}

void block_node_set_filename(BlockNode *node, const char *filename)
{
    g_free(node->filename);
    node->filename = g_strdup(filename);
}

int64_t block_node_size(const BlockNode *node)
{
    return __atomic_load_n(&node->size, __ATOMIC_ACQUIRE);
}

bool block_node_read_only(const BlockNode *node)
{
    return node->config.read_only;
}

bool block_node_cache_direct(const BlockNode *node)
{
    return node->config.direct;
}

bool block_node_no_flush(const BlockNode *node)
{
    return node->config.no_flush;
}

bool block_node_force_share(const BlockNode *node)
{
    return node->config.force_share;
}

bool block_node_write_cache(const BlockNode *node)
{
    return node->write_cache;
}

json_object *block_node_options(const BlockNode *node)
{
    return node->options;
}

BlockLimits block_node_limits(const BlockNode *node)
{
    return node->limits;
}

void *block_node_state(BlockNode *node)
{
    return node->state;
}

BlockGraph *block_node_graph(const BlockNode *node)
{
    return node->graph;
}

const BlockDrive *block_node_drive(const BlockNode *node)
{
    return node->drive;
}

BlockSizes block_node_probe_sizes(const BlockNode *node)
{
    BlockSizes sizes = { 512, 512 };

    while (!node->driver->probe_sizes && block_node_file(node))
        node = block_node_file(node);
    if (node->driver->probe_sizes)
        node->driver->probe_sizes(node, &sizes);
    return sizes;
}

/* Whole images: the verbs of block/image.h on a node, refused where its driver has none. */
#include "block/image.h"
#include "block/bitmap.h"
#include "block/chain.h"
#include "block/node.h"
#include <errno.h>

const char *const block_prealloc_words[] = { "off", "metadata", "falloc", "full", NULL };

void block_node_put(BlockNode *node)
{
    if (node)
        block_node_release(node);
}

void block_snapshot_free(BlockSnapshot *snapshot)
{
    if (!snapshot)
        return;
    g_free(snapshot->id);
    g_free(snapshot->name);
    g_free(snapshot);
}

static const BlockImageVerbs *verbs_of(const BlockNode *node)
{
    static const BlockImageVerbs none;

    return node->driver->image ? node->driver->image : &none;
}

static int refuse(const BlockNode *node, const char *what, GError **error)
{
    fail(error, ERR_UNSUPPORTED, "block driver '%s' %s", node->driver->name, what);
    error_object(error, "%s", node->name);
    return -ENOTSUP;
}

static int check_writable(const BlockNode *node, GError **error)
{
    if (!node->config.read_only)
        return 0;
    fail(error, ERR_PERMISSION, "Block node '%s' is read-only", node->name);
    error_object(error, "%s", node->name);
    return -EACCES;
}

/* Filters add nothing to what an image is: the verbs go to the first node that has its own say. */

int co_fn block_co_check(BlockNode *node, BlockCheck *check, unsigned fix, GError **error)
{
    int ret;

    node = block_node_skip_filters(node);
    if (!verbs_of(node)->co_check)
        return refuse(node, "does not support checks", error);
    ret = fix ? check_writable(node, error) : 0;
    return ret < 0 ? ret : verbs_of(node)->co_check(node, check, fix, error);
}

int co_fn block_co_scrub(BlockNode *node, BlockScrub *scrub, GError **error)
{
    int ret = scrub->apply ? check_writable(node, error) : 0;

    node = block_node_skip_filters(node);
    if (ret < 0)
        return ret;
    if (!verbs_of(node)->co_scrub)
        return refuse(node, "cannot be scrubbed", error);
    return verbs_of(node)->co_scrub(node, scrub, error);
}

void block_scrub_clear(BlockScrub *scrub)
{
    json_object_put(scrub->apply);
    json_object_put(scrub->findings);
    json_object_put(scrub->plan);
    *scrub = (BlockScrub){ 0 };
}

json_object *block_scrub_info(const BlockScrub *scrub)
{
    const struct {
        const char *key;
        uint64_t value;
    } members[] = {
        { "cluster-size", scrub->cluster_size }, { "live", scrub->live },
        { "reusable", scrub->reusable }, { "leaked", scrub->leaked },
        { "changing", scrub->changing }, { "errors", scrub->errors },
        { "unreadable", scrub->unreadable }, { "applied", scrub->applied },
        { "refused", scrub->refused },
    };
    json_object *info = json_object_new_object();

    for (unsigned i = 0; i < G_N_ELEMENTS(members); i++)
        json_object_object_add(info, members[i].key, json_object_new_uint64(members[i].value));
    return info;
}

int co_fn block_co_amend(BlockNode *node, json_object *options, bool force, GError **error)
{
    int ret = check_writable(node, error);

    node = block_node_skip_filters(node);
    if (ret < 0)
        return ret;
    if (!verbs_of(node)->co_amend)
        return refuse(node, "does not support option amendment", error);
    return verbs_of(node)->co_amend(node, options, force, error);
}

static bool has_persistent_bitmaps(BlockNode *node)
{
    for (BlockBitmap *b = NULL; (b = block_bitmap_next(node, b));)
        if ((block_bitmap_flags(b) & (BLOCK_BITMAP_PERSISTENT | BLOCK_BITMAP_INCONSISTENT)) ==
            BLOCK_BITMAP_PERSISTENT)
            return true;
    return false;
}

void co_fn block_co_sync_bitmaps(BlockNode *node)
{
    g_autoptr(GError) error = NULL;

    if (verbs_of(node)->co_sync_bitmaps && !node->config.read_only && has_persistent_bitmaps(node) &&
        verbs_of(node)->co_sync_bitmaps(node, &error) < 0)
        warn_report("the bitmaps of node '%s' were not stored, and would not survive a crash: %s",
                    node->name, error ? error->message : "");
}

int co_fn block_co_set_backing(BlockNode *node, const char *filename, const char *format,
                               GError **error)
{
    int ret = check_writable(node, error);

    node = block_node_skip_filters(node);
    if (ret < 0)
        return ret;
    if (!verbs_of(node)->co_set_backing)
        return refuse(node, "does not support backing files", error);
    return verbs_of(node)->co_set_backing(node, filename, format, error);
}

int co_fn block_co_make_empty(BlockNode *node, GError **error)
{
    int ret = check_writable(node, error);

    node = block_node_skip_filters(node);
    if (ret < 0)
        return ret;
    if (!verbs_of(node)->co_make_empty)
        return refuse(node, "cannot empty an image", error);
    return verbs_of(node)->co_make_empty(node, error);
}

int co_fn block_co_preallocate(BlockNode *node, uint64_t offset, uint64_t bytes, BlockPrealloc how,
                               GError **error)
{
    int ret = check_writable(node, error);

    node = block_node_skip_filters(node);
    if (ret < 0 || how == BLOCK_PREALLOC_OFF || !bytes)
        return ret;
    if (!verbs_of(node)->co_preallocate)
        return refuse(node, "does not support preallocation", error);
    return verbs_of(node)->co_preallocate(node, offset, bytes, how, error);
}

int co_fn block_co_measure(const char *format, json_object *options, BlockNode *source,
                           BlockMeasure *measure, GError **error)
{
    const BlockDriver *driver = block_driver_get(format, error);

    *measure = (BlockMeasure){ 0 };
    if (!driver)
        return -ENOENT;
    if (!driver->image || !driver->image->co_measure) {
        fail(error, ERR_UNSUPPORTED, "Block driver '%s' does not support size measurement", format);
        return -ENOTSUP;
    }
    return driver->image->co_measure(options, source, measure, error);
}

/* Internal snapshots.  What has none of its own may stand on something that has. */

static BlockNode *snapshot_node(BlockNode *node)
{
    while (!verbs_of(node)->snapshots && node->driver->is_filter && block_node_file(node))
        node = block_node_file(node);
    return node;
}

bool block_node_has_snapshots(BlockNode *node)
{
    return verbs_of(snapshot_node(node))->co_snapshot_create;
}

GPtrArray *block_snapshots(BlockNode *node)
{
    node = snapshot_node(node);
    if (verbs_of(node)->snapshots)
        return verbs_of(node)->snapshots(node);
    return g_ptr_array_new_with_free_func((GDestroyNotify)block_snapshot_free);
}

const BlockSnapshot *block_snapshot_find(const GPtrArray *all, const char *id, const char *name)
{
    for (unsigned i = 0; i < all->len; i++) {
        const BlockSnapshot *snapshot = all->pdata[i];

        if ((!id || !strcmp(snapshot->id, id)) && (!name || !strcmp(snapshot->name, name)))
            return snapshot;
    }
    return NULL;
}

json_object *block_snapshot_describe(const BlockSnapshot *snapshot)
{
    const struct {
        const char *key;
        uint64_t value;
    } members[] = {
        { "vm-state-size", snapshot->vm_state_size },
        { "date-sec", snapshot->date_sec },
        { "date-nsec", snapshot->date_nsec },
        { "vm-clock-sec", snapshot->vm_clock_nsec / 1000000000 },
        { "vm-clock-nsec", snapshot->vm_clock_nsec % 1000000000 },
        { "icount", snapshot->icount },
    };
    unsigned n = G_N_ELEMENTS(members) - (snapshot->icount == UINT64_MAX);
    json_object *info = json_object_new_object();

    json_object_object_add(info, "id", json_object_new_string(snapshot->id));
    json_object_object_add(info, "name", json_object_new_string(snapshot->name));
    for (unsigned i = 0; i < n; i++)
        json_object_object_add(info, members[i].key, json_object_new_uint64(members[i].value));
    return info;
}

static const char no_snapshots[] = "does not support internal snapshots";

int co_fn block_co_snapshot_create(BlockNode *node, BlockSnapshot *snapshot, GError **error)
{
    int ret = check_writable(node, error);

    node = snapshot_node(node);
    if (ret < 0)
        return ret;
    if (!verbs_of(node)->co_snapshot_create)
        return refuse(node, no_snapshots, error);
    return verbs_of(node)->co_snapshot_create(node, snapshot, error);
}

int co_fn block_co_snapshot_goto(BlockNode *node, const char *id_or_name, GError **error)
{
    int ret = check_writable(node, error);

    node = snapshot_node(node);
    if (ret < 0)
        return ret;
    if (!verbs_of(node)->co_snapshot_goto)
        return refuse(node, no_snapshots, error);
    ret = verbs_of(node)->co_snapshot_goto(node, id_or_name, error);
    if (ret == 0)
        block_node_refresh_size(node);     /* the disk may have had another size then */
    return ret;
}

int co_fn block_co_snapshot_delete(BlockNode *node, const char *id_or_name, GError **error)
{
    int ret = check_writable(node, error);

    node = snapshot_node(node);
    if (ret < 0)
        return ret;
    if (!verbs_of(node)->co_snapshot_delete)
        return refuse(node, no_snapshots, error);
    return verbs_of(node)->co_snapshot_delete(node, id_or_name, error);
}

int co_fn block_co_snapshot_load(BlockNode *node, const char *id_or_name, GError **error)
{
    int ret;

    node = snapshot_node(node);
    if (!node->config.read_only) {
        fail(error, ERR_BAD_STATE, "Device is not readonly");
        return -EINVAL;
    }
    if (!verbs_of(node)->co_snapshot_load)
        return refuse(node, no_snapshots, error);
    ret = verbs_of(node)->co_snapshot_load(node, id_or_name, error);
    if (ret == 0)
        block_node_refresh_size(node);
    return ret;
}

int co_fn block_co_read_vmstate(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                int iovcnt, uint64_t bytes)
{
    node = snapshot_node(node);
    return verbs_of(node)->co_read_vmstate
               ? verbs_of(node)->co_read_vmstate(node, offset, iov, iovcnt, bytes)
               : -ENOTSUP;
}

int co_fn block_co_write_vmstate(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                 int iovcnt, uint64_t bytes)
{
    node = snapshot_node(node);
    if (node->config.read_only)
        return -EPERM;
    return verbs_of(node)->co_write_vmstate
               ? verbs_of(node)->co_write_vmstate(node, offset, iov, iovcnt, bytes)
               : -ENOTSUP;
}

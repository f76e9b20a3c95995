/* snapshot-access: a read-only view of the disk as it was when the copy-before-write filter below
 * it was put in place (fleecing). */
#include "block/jobs/cbw.h"
#include "block/node.h"
#include <errno.h>

static const char *const snapshot_access_options[] = { "file", NULL };

static bool co_fn snapshot_access_open(BlockNode *node, json_object *options, GError **error)
{
    BlockNode *file = block_node_open_child(node, options, "file", true, error);

    if (!file)
        return false;
    if (file->driver != &block_cbw_driver)
        return fail(error, ERR_INVALID_PARAMETER, "snapshot-access needs a copy-before-write node "
                                                  "as its file; '%s' is a %s node", file->name,
                    file->driver->name);
    node->config.read_only = true;
    return true;
}

static void snapshot_access_child_perm(BlockNode *node, const char *key, unsigned *perm,
                                       unsigned *shared)
{
    *perm = 0;                             /* the guest changes what is below as it likes */
    *shared = BLOCK_PERM_ALL;
}

static int co_fn snapshot_access_co_read(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                         int iovcnt, uint64_t bytes)
{
    return block_cbw_read(block_node_file(node), offset, iov, iovcnt, bytes);
}

static int co_fn snapshot_access_co_map(BlockNode *node, uint64_t offset, uint64_t bytes,
                                        BlockMap *map)
{
    return block_cbw_map(block_node_file(node), offset, bytes, map);
}

static const BlockDriver snapshot_access_driver = {
    .name = "snapshot-access",
    .help = "the disk as it was before copy-before-write",
    .options = snapshot_access_options,
    .is_filter = true,
    .is_format = true,
    .open = snapshot_access_open,
    .child_perm = snapshot_access_child_perm,
    .co_read = snapshot_access_co_read,
    .co_map = snapshot_access_co_map,
};
BLOCK_DRIVER(snapshot_access_driver)

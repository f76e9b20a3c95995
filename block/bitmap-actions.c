/* What clients do with dirty bitmaps, as actions of transactions, and what they are told
 * of them. */
#include "block/bitmap.h"
#include "block/image.h"
#include "block/node.h"
#include "block/transaction.h"

typedef struct BitmapAction {
    BlockAction action;
    BlockBitmap *bitmap;
    BlockBitmap *before;                   /* its bits, to go back to */
    bool was_recording;
} BitmapAction;

#define DEFAULT_REFUSAL (BLOCK_BITMAP_BUSY | BLOCK_BITMAP_READ_ONLY | BLOCK_BITMAP_INCONSISTENT)

static BlockBitmap *find(BlockGraph *graph, const char *node_name, const char *name,
                         GError **error)
{
    BlockNode *node = block_node_lookup(graph, node_name, node_name, error);
    BlockBitmap *bitmap = node ? block_bitmap_find(node, name) : NULL;

    if (node && !bitmap) {
        fail(error, ERR_NOT_FOUND, "Dirty bitmap '%s' not found", name);
        error_object(error, "%s", name);
    }
    return bitmap;
}

static bool take_bitmap(BitmapAction *a, const char *key, unsigned refuse, GError **error)
{
    const char *node = "", *name = "";

    if (!options_get_str(a->action.data, "node", &node, error) ||
        !options_get_str(a->action.data, key, &name, error))
        return false;
    a->bitmap = find(a->action.graph, node, name, error);
    return a->bitmap && block_bitmap_check(a->bitmap, refuse, error);
}

/* The bits are kept in a bitmap of nobody's, which nothing marks. */
static bool keep_bits(BitmapAction *a, GError **error)
{
    a->before = block_bitmap_new(block_bitmap_node(a->bitmap), NULL,
                                 block_bitmap_granularity(a->bitmap), error);
    if (!a->before)
        return false;
    block_bitmap_set_flags(a->before, 0, BLOCK_BITMAP_RECORDING);
    return block_bitmap_merge(a->before, a->bitmap, error);
}

static void restore_bits(BlockAction *action)
{
    BitmapAction *a = (BitmapAction *)action;

    block_bitmap_clear(a->bitmap, 0, UINT64_MAX);
    block_bitmap_merge(a->bitmap, a->before, NULL);
}

static void drop_bits(BlockAction *action)
{
    block_bitmap_free(((BitmapAction *)action)->before);
}

/* What the action did is in the image when the client hears of it. */
static void co_fn sync_bitmap(BlockAction *action)
{
    BlockBitmap *bitmap = ((BitmapAction *)action)->bitmap;

    if (block_bitmap_flags(bitmap) & BLOCK_BITMAP_PERSISTENT)
        block_co_sync_bitmaps(block_bitmap_node(bitmap));
}

/* add */

static bool add_prepare(BlockAction *action, GError **error)
{
    BitmapAction *a = (BitmapAction *)action;
    bool persistent = false, disabled = false;
    const char *node_name = "", *name = "";
    uint64_t granularity = 0;
    BlockNode *node;

    if (!options_get_str(action->data, "node", &node_name, error) ||
        !options_get_str(action->data, "name", &name, error) ||
        !options_get_u64(action->data, "granularity", &granularity, error) ||
        !options_get_bool(action->data, "persistent", &persistent, error) ||
        !options_get_bool(action->data, "disabled", &disabled, error))
        return false;
    node = block_node_lookup(action->graph, node_name, node_name, error);
    if (!node)
        return false;
    if (json_object_object_get_ex(action->data, "granularity", NULL) &&
        (granularity < 512 || granularity & (granularity - 1) ||
         granularity > BLOCK_BITMAP_GRANULARITY_MAX))
        return fail(error, ERR_INVALID_PARAMETER,
                    "Granularity must be power of 2 and at least 512");
    if (persistent && !(node->driver->image && node->driver->image->can_store_bitmap))
        return fail(error, ERR_UNSUPPORTED, "Cannot store dirty bitmaps in node '%s': driver '%s' "
                                            "does not support it", node->name, node->driver->name);
    a->bitmap = block_bitmap_new(node, name, granularity, error);
    if (!a->bitmap)
        return false;
    block_bitmap_set_flags(a->bitmap, persistent ? BLOCK_BITMAP_PERSISTENT : 0,
                           disabled ? BLOCK_BITMAP_RECORDING : 0);
    if (!persistent || node->driver->image->can_store_bitmap(
                           node, name, block_bitmap_granularity(a->bitmap), error))
        return true;
    block_bitmap_free(a->bitmap);
    return false;
}

static void add_abort(BlockAction *action)
{
    block_bitmap_free(((BitmapAction *)action)->bitmap);
}

const BlockActionType block_bitmap_add_action = {
    .name = "block-dirty-bitmap-add",
    .size = sizeof(BitmapAction),
    .prepare = add_prepare,
    .commit = sync_bitmap,
    .abort = add_abort,
};

/* remove: out of sight until it is sure. */

static bool remove_prepare(BlockAction *action, GError **error)
{
    BitmapAction *a = (BitmapAction *)action;

    if (!take_bitmap(a, "name", BLOCK_BITMAP_BUSY | BLOCK_BITMAP_READ_ONLY, error))
        return false;
    block_bitmap_detach(a->bitmap);
    return true;
}

static void co_fn remove_commit(BlockAction *action)
{
    BlockBitmap *bitmap = ((BitmapAction *)action)->bitmap;
    BlockNode *node = block_bitmap_node(bitmap);
    g_autoptr(GError) error = NULL;

    if (block_bitmap_flags(bitmap) & BLOCK_BITMAP_PERSISTENT && node->driver->image &&
        node->driver->image->co_remove_bitmap &&
        node->driver->image->co_remove_bitmap(node, block_bitmap_name(bitmap), &error) < 0)
        warn_report("bitmap '%s' stays in the image of node '%s': %s", block_bitmap_name(bitmap),
                    node->name, error ? error->message : "");
    block_bitmap_free(bitmap);
}

static void remove_abort(BlockAction *action)
{
    block_bitmap_attach(((BitmapAction *)action)->bitmap);
}

const BlockActionType block_bitmap_remove_action = {
    .name = "block-dirty-bitmap-remove",
    .size = sizeof(BitmapAction),
    .prepare = remove_prepare,
    .commit = remove_commit,
    .abort = remove_abort,
};

/* clear */

static bool clear_prepare(BlockAction *action, GError **error)
{
    BitmapAction *a = (BitmapAction *)action;

    if (!take_bitmap(a, "name", DEFAULT_REFUSAL, error) || !keep_bits(a, error))
        return false;
    block_bitmap_clear(a->bitmap, 0, UINT64_MAX);
    return true;
}

const BlockActionType block_bitmap_clear_action = {
    .name = "block-dirty-bitmap-clear",
    .size = sizeof(BitmapAction),
    .prepare = clear_prepare,
    .commit = sync_bitmap,
    .abort = restore_bits,
    .clean = drop_bits,
};

/* enable, disable */

static bool record(BlockAction *action, bool on, GError **error)
{
    BitmapAction *a = (BitmapAction *)action;

    if (!take_bitmap(a, "name", DEFAULT_REFUSAL, error))
        return false;
    a->was_recording = block_bitmap_flags(a->bitmap) & BLOCK_BITMAP_RECORDING;
    block_bitmap_set_flags(a->bitmap, on ? BLOCK_BITMAP_RECORDING : 0,
                           on ? 0 : BLOCK_BITMAP_RECORDING);
    return true;
}

static bool enable_prepare(BlockAction *action, GError **error)
{
    return record(action, true, error);
}

static bool disable_prepare(BlockAction *action, GError **error)
{
    return record(action, false, error);
}

static void record_abort(BlockAction *action)
{
    BitmapAction *a = (BitmapAction *)action;

    block_bitmap_set_flags(a->bitmap, a->was_recording ? BLOCK_BITMAP_RECORDING : 0,
                           a->was_recording ? 0 : BLOCK_BITMAP_RECORDING);
}

const BlockActionType block_bitmap_enable_action = {
    .name = "block-dirty-bitmap-enable",
    .size = sizeof(BitmapAction),
    .prepare = enable_prepare,
    .commit = sync_bitmap,
    .abort = record_abort,
};

const BlockActionType block_bitmap_disable_action = {
    .name = "block-dirty-bitmap-disable",
    .size = sizeof(BitmapAction),
    .prepare = disable_prepare,
    .commit = sync_bitmap,
    .abort = record_abort,
};

/* merge */

/* An entry of "bitmaps": a name on the target's node, or an object with node and name. */
static BlockBitmap *find_source(BitmapAction *a, json_object *entry, GError **error)
{
    const char *node = "", *name = "";

    if (json_object_is_type(entry, json_type_string)) {
        name = json_object_get_string(entry);
        node = block_node_name(block_bitmap_node(a->bitmap));
    } else if (!options_get_str(entry, "node", &node, error) ||
               !options_get_str(entry, "name", &name, error)) {
        return NULL;
    }
    return find(a->action.graph, node, name, error);
}

static bool merge_sources(BitmapAction *a, GError **error)
{
    json_object *list = NULL;

    json_object_object_get_ex(a->action.data, "bitmaps", &list);
    for (size_t i = 0; list && i < json_object_array_length(list); i++) {
        BlockBitmap *from = find_source(a, json_object_array_get_idx(list, i), error);

        if (!from || !block_bitmap_check(from, BLOCK_BITMAP_INCONSISTENT, error) ||
            !block_bitmap_merge(a->bitmap, from, error))
            return false;
    }
    return true;
}

static bool merge_prepare(BlockAction *action, GError **error)
{
    BitmapAction *a = (BitmapAction *)action;

    if (!take_bitmap(a, "target", DEFAULT_REFUSAL, error) || !keep_bits(a, error))
        return false;
    if (merge_sources(a, error))
        return true;
    restore_bits(action);
    drop_bits(action);
    return false;
}

const BlockActionType block_bitmap_merge_action = {
    .name = "block-dirty-bitmap-merge",
    .size = sizeof(BitmapAction),
    .prepare = merge_prepare,
    .commit = sync_bitmap,
    .abort = restore_bits,
    .clean = drop_bits,
};

/* BlockDirtyInfo of a node's bitmaps that have names. */
json_object *block_node_describe_bitmaps(BlockNode *node)
{
    json_object *list = NULL;

    for (BlockBitmap *bitmap = NULL; (bitmap = block_bitmap_next(node, bitmap));) {
        unsigned flags = block_bitmap_flags(bitmap);
        json_object *info;

        if (!block_bitmap_name(bitmap))
            continue;
        info = json_object_new_object();
        json_object_object_add(info, "name", json_object_new_string(block_bitmap_name(bitmap)));
        json_object_object_add(info, "count", json_object_new_int64(block_bitmap_count(bitmap)));
        json_object_object_add(info, "granularity",
                               json_object_new_int64(block_bitmap_granularity(bitmap)));
#define ADD(key, flag) json_object_object_add(info, key, json_object_new_boolean(!!(flags & (flag))))
        ADD("recording", BLOCK_BITMAP_RECORDING);
        ADD("busy", BLOCK_BITMAP_BUSY);
        ADD("persistent", BLOCK_BITMAP_PERSISTENT);
        if (flags & BLOCK_BITMAP_INCONSISTENT)
            ADD("inconsistent", BLOCK_BITMAP_INCONSISTENT);
#undef ADD
        if (!list)
            list = json_object_new_array();
        json_object_array_add(list, info);
    }
    return list;
}

/* Walking chains of backing files. */
#include "block/chain.h"
#include "block/node.h"

/* Formats that add nothing (raw) skip their own work, but end a row of filters. */
static bool is_filter(const BlockNode *node)
{
    return node->driver->is_filter && !node->driver->is_format;
}

BlockNode *block_node_skip_filters(BlockNode *node)
{
    while (is_filter(node) && block_node_file(node))
        node = block_node_file(node);
    return node;
}

BlockNode *block_node_backing(const BlockNode *node)
{
    return block_node_child(block_node_skip_filters((BlockNode *)node), "backing");
}

BlockNode *block_node_below(const BlockNode *node)
{
    return is_filter(node) ? block_node_file(node) : block_node_child(node, "backing");
}

bool block_node_is_above(const BlockNode *node, const BlockNode *below)
{
    do {
        node = block_node_below(node);
    } while (node && node != below);
    return node != NULL;
}

/* One image's part of the answer; past its end there is nothing, up to @bytes. */
static int co_fn map_one(BlockNode *node, uint64_t offset, uint64_t bytes, BlockMap *map)
{
    uint64_t size = block_node_size(node);

    if (offset >= size) {
        *map = (BlockMap){ .bytes = bytes };
        return 0;
    }
    return block_node_co_map(node, offset, MIN(bytes, size - offset), map);
}

int co_fn block_co_map_above(BlockNode *top, BlockNode *base, uint64_t offset, uint64_t bytes,
                             BlockMap *map, unsigned *ret_depth)
{
    unsigned depth = 0;
    bool past_end = false;                 /* of an image that hides what is below it */

    if (ret_depth)
        *ret_depth = 0;
    for (BlockNode *node = top; node && node != base; node = block_node_below(node)) {
        int ret;

        if (is_filter(node))
            continue;
        past_end = offset >= (uint64_t)block_node_size(node);
        ret = map_one(node, offset, bytes, map);
        if (ret < 0)
            return ret;
        bytes = map->bytes;
        if (ret_depth)
            *ret_depth = depth;
        if (map->flags & BLOCK_MAP_ALLOCATED)
            return 0;
        if (past_end)
            break;
        depth++;
    }
    *map = (BlockMap){ .bytes = bytes };
    if (past_end)                          /* the image above shows zeroes there, whatever is below */
        map->flags = BLOCK_MAP_ZERO | BLOCK_MAP_ALLOCATED;
    else if (!base)
        map->flags = BLOCK_MAP_ZERO;
    return 0;
}

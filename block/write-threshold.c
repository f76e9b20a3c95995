/*
 * block-set-write-threshold: a manager that grows an image's storage while the guest fills it is told
 * when a node is written past an offset, before the write is made.
 */
#include "block/change.h"
#include "block/node.h"
#include "src/object/event.h"
#include <string.h>

static void emit(BlockNode *node, uint64_t threshold, uint64_t excess)
{
    json_object *data = json_object_new_object();

    json_object_object_add(data, "node-name", json_object_new_string(node->name));
    json_object_object_add(data, "amount-exceeded", json_object_new_uint64(excess));
    json_object_object_add(data, "write-threshold", json_object_new_uint64(threshold));
    event_emit((Object *)node->graph, "BLOCK_WRITE_THRESHOLD", data);
}

/* Of writes in several threads one is told of. */
void block_node_check_threshold(BlockNode *node, uint64_t end)
{
    uint64_t threshold = __atomic_load_n(&node->write_threshold, __ATOMIC_RELAXED);

    if (threshold && end > threshold &&
        __atomic_compare_exchange_n(&node->write_threshold, &threshold, 0, false, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED))
        emit(node, threshold, end - threshold);
}

/* Writes may go past a node that adds nothing. */
static bool co_fn look_at_writes(void *opaque, GError **error)
{
    block_node_route(opaque);
    return true;
}

bool block_set_write_threshold(BlockGraph *graph, const char *node_name, uint64_t bytes,
                               GError **error)
{
    BlockNode *node = block_node_find(graph, node_name);

    if (!node) {
        fail(error, ERR_NOT_FOUND, "Device '%s' not found", node_name);
        return error_object(error, "%s", node_name);
    }
    __atomic_store_n(&node->write_threshold, bytes, __ATOMIC_RELAXED);
    if (!node->transparent)
        return true;
    block_node_pin(node);
    block_change(graph, node, look_at_writes, node, NULL);
    block_node_unpin(node);
    return true;
}

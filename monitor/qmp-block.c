/* QMP: block nodes and disks. */
#include "block/block.h"
#include "schema/commands.h"

json_object *qmp_query_block(Vm *vm, GError **error)
{
    block_graph_refresh(vm->block);
    return block_query_block(vm->block);
}

json_object *qmp_query_named_block_nodes(Vm *vm, bool has_flat, bool flat, GError **error)
{
    block_graph_refresh(vm->block);
    return block_query_named_nodes(vm->block);
}

json_object *qmp_query_blockstats(Vm *vm, bool has_query_nodes, bool query_nodes, GError **error)
{
    return block_query_blockstats(vm->block, has_query_nodes && query_nodes);
}

bool qmp_blockdev_add(Vm *vm, json_object *arguments, GError **error)
{
    if (!json_object_object_get_ex(arguments, "node-name", NULL))
        return fail(error, ERR_MISSING_PARAMETER,
                    "command 'blockdev-add': argument 'node-name' is missing");
    return block_node_open(vm->block, arguments, error) != NULL;
}

static BlockNode *find_node(Vm *vm, const char *node_name, GError **error)
{
    BlockNode *node = block_node_find(vm->block, node_name);
    if (!node)
        fail(error, ERR_NOT_FOUND, "there is no block node '%s'", node_name);
    return node;
}

bool qmp_blockdev_del(Vm *vm, const char *node_name, GError **error)
{
    return find_node(vm, node_name, error) && block_node_delete(vm->block, node_name, error);
}

bool qmp_block_resize(Vm *vm, const char *device, const char *node_name, int64_t size,
                      GError **error)
{
    if (!device == !node_name)
        return fail(error, ERR_INVALID_PARAMETER, "give either 'device' or 'node-name'");
    if (size < 0)
        return fail(error, ERR_INVALID_PARAMETER, "size must not be negative");
    BlockNode *node = device ? block_drive_find(vm->block, device)
                             : find_node(vm, node_name, error);
    if (!node && device)
        return fail(error, ERR_DEVICE_NOT_FOUND, "Device '%s' not found", device);
    return node && block_node_resize(node, size, error);
}

/* The property kind of devices' drive=: a node, by the id of a drive or by its node name. */
#include "block/node.h"

static BlockNode **member(Object *obj, const Property *prop)
{
    return property_ptr(obj, prop);
}

static bool set_node(Object *obj, const Property *prop, json_object *value, GError **error)
{
    BlockGraph *graph = block_graph_of(obj);
    const char *name = json_object_get_string(value);
    BlockNode *node;

    if (!json_object_is_type(value, json_type_string))
        return fail(error, ERR_WRONG_TYPE, "property '%s' must be the name of a block node",
                    prop->name);
    if (!graph)
        return fail(error, ERR_BAD_STATE, "property '%s': there are no block nodes here",
                    prop->name);
    node = block_drive_find(graph, name);
    if (!node)
        node = block_node_find(graph, name);
    if (!node) {
        fail(error, ERR_NOT_FOUND, "Property '%s.%s' can't find value '%s'", obj->type->name,
             prop->name, name);
        error_object(error, "%s", name);
        return error_hint(error, "define it with -blockdev node-name=%s,… or -drive id=%s,if=none,…",
                          name, name);
    }
    *member(obj, prop) = node;
    return true;
}

static json_object *get_node(Object *obj, const Property *prop)
{
    const BlockNode *node = *member(obj, prop);

    if (!node)
        return json_object_new_string("");
    return json_object_new_string(node->drive ? node->drive->id : node->name);
}

const PropertyKind prop_block_node = { .name = "str", .set = set_node, .get = get_node };

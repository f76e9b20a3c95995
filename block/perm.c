/*
 * Permissions.  Each use of a node (an edge) says what it does with the node and what it lets the
 * others do.  Two uses of one node fit when neither does what the other does not share.  What a
 * node's users ask of it is passed down to its children (BlockDriver.child_perm may change it), and
 * at the bottom it becomes an image lock against other processes (BlockDriver.set_perm).
 */
#include "block/node.h"

#define WRITING (BLOCK_PERM_WRITE | BLOCK_PERM_WRITE_SAME | BLOCK_PERM_RESIZE)

static const char *const perm_words[] = { "read", "write", "write unchanged data", "resize" };

char *block_perm_words(unsigned perm)
{
    GString *text = g_string_new(NULL);

    for (unsigned i = 0; i < G_N_ELEMENTS(perm_words); i++)
        if (perm >> i & 1)
            g_string_append_printf(text, "%s%s", text->len ? ", " : "", perm_words[i]);
    return g_string_free(text, FALSE);
}

char *block_edge_describe(const BlockEdge *edge)
{
    if (edge->user)
        return g_strdup(edge->user->name);
    return g_strdup_printf("node '%s' (as its '%s')", edge->parent->name, edge->key);
}

static bool conflict(const BlockEdge *mine, const BlockEdge *other, unsigned what, bool i_want,
                     GError **error)
{
    g_autofree char *me = block_edge_describe(mine), *they = block_edge_describe(other);
    g_autofree char *words = block_perm_words(what);

    if (i_want)
        fail(error, ERR_IN_USE, "%s needs '%s' on node '%s', which %s does not allow", me, words,
             mine->child->name, they);
    else
        fail(error, ERR_IN_USE, "%s does not allow '%s' on node '%s', which %s needs", me, words,
             mine->child->name, they);
    return error_object(error, "%s", mine->child->name);
}

static bool check_siblings(const BlockEdge *edge, unsigned perm, unsigned shared, GError **error)
{
    for (unsigned i = 0; i < edge->child->parents->len; i++) {
        const BlockEdge *other = edge->child->parents->pdata[i];

        if (other == edge)
            continue;
        if (perm & ~other->shared)
            return conflict(edge, other, perm & ~other->shared, true, error);
        if (other->perm & ~shared)
            return conflict(edge, other, other->perm & ~shared, false, error);
    }
    return true;
}

static bool node_update(BlockNode *node, GError **error);

/* Sets the edge and everything below it; on failure all is as it was. */
bool block_edge_set_perm(BlockEdge *edge, unsigned perm, unsigned shared, GError **error)
{
    unsigned old_perm = edge->perm, old_shared = edge->shared;

    if (!check_siblings(edge, perm, shared, error))
        return false;
    if (perm & WRITING && edge->child->config.read_only) {
        fail(error, ERR_PERMISSION, "Block node '%s' is read-only", edge->child->name);
        return error_object(error, "%s", edge->child->name);
    }
    edge->perm = perm;
    edge->shared = shared;
    if (node_update(edge->child, error))
        return true;
    edge->perm = old_perm;
    edge->shared = old_shared;
    node_update(edge->child, NULL);
    return false;
}

static bool update_children(BlockNode *node, GError **error)
{
    for (unsigned i = 0; i < node->children->len; i++) {
        BlockEdge *edge = node->children->pdata[i];
        unsigned perm = node->perm, shared = node->shared;

        if (node->driver->child_perm)
            node->driver->child_perm(node, edge->key, &perm, &shared);
        if ((perm != edge->perm || shared != edge->shared) &&
            !block_edge_set_perm(edge, perm, shared, error))
            return false;
    }
    return true;
}

/* Gives the node what its parents' edges say together. */
static bool node_update(BlockNode *node, GError **error)
{
    unsigned old_perm = node->perm, old_shared = node->shared;
    unsigned perm = 0, shared = BLOCK_PERM_ALL;

    for (unsigned i = 0; i < node->parents->len; i++) {
        const BlockEdge *edge = node->parents->pdata[i];

        perm |= edge->perm;
        shared &= edge->shared;
    }
    if (perm == old_perm && shared == old_shared)
        return true;
    if (node->driver->set_perm && !node->driver->set_perm(node, perm, shared, error))
        return false;
    node->perm = perm;
    node->shared = shared;
    if (update_children(node, error))
        return true;
    node->perm = old_perm;
    node->shared = old_shared;
    update_children(node, NULL);
    if (node->driver->set_perm)
        node->driver->set_perm(node, old_perm, old_shared, NULL);
    return false;
}

/* The edge's child, and parent or user, are set; takes a reference of the child on success. */
bool block_edge_attach(BlockEdge *edge, unsigned perm, unsigned shared, GError **error)
{
    edge->perm = 0;
    edge->shared = BLOCK_PERM_ALL;
    g_ptr_array_add(edge->child->parents, edge);
    if (!block_edge_set_perm(edge, perm, shared, error)) {
        g_ptr_array_remove(edge->child->parents, edge);
        return false;
    }
    edge->child->refs++;
    return true;
}

void block_edge_detach(BlockEdge *edge)
{
    BlockNode *child = edge->child;

    block_edge_set_perm(edge, 0, BLOCK_PERM_ALL, NULL);
    g_ptr_array_remove(child->parents, edge);
    edge->child = NULL;
    block_node_release(child);
}

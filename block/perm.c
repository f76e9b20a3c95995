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

/* Whether to write can be tried yet, although it could not be when the node was opened. */
static bool may_promote(const BlockNode *node)
{
    return node->demoted && (node->driver->promote || node->driver->is_filter);
}

static bool check_edge(const BlockEdge *edge, unsigned perm, unsigned shared, GError **error)
{
    if (!check_siblings(edge, perm, shared, error))
        return false;
    if (perm & WRITING && edge->child->config.read_only && !may_promote(edge->child)) {
        fail(error, ERR_PERMISSION, "Block node '%s' is read-only", edge->child->name);
        return error_object(error, "%s", edge->child->name);
    }
    return true;
}

/*
 * A change is planned first: in memory, at once, all of it or nothing, so that two changes cannot
 * contradict each other.  @changed collects the nodes whose drivers are to be told (pinned).
 */
static bool plan_node(BlockNode *node, GPtrArray *changed, GError **error);

static bool plan_edge(BlockEdge *edge, unsigned perm, unsigned shared, GPtrArray *changed,
                      GError **error)
{
    unsigned old_perm = edge->perm, old_shared = edge->shared;

    if (!check_edge(edge, perm, shared, error))
        return false;
    edge->perm = perm;
    edge->shared = shared;
    if (plan_node(edge->child, changed, error))
        return true;
    edge->perm = old_perm;
    edge->shared = old_shared;
    plan_node(edge->child, changed, NULL);
    return false;
}

static bool plan_children(BlockNode *node, GPtrArray *changed, GError **error)
{
    for (unsigned i = 0; i < node->children->len; i++) {
        BlockEdge *edge = node->children->pdata[i];
        unsigned perm = node->perm, shared = node->shared;

        if (node->driver->child_perm)
            node->driver->child_perm(node, edge->key, &perm, &shared);
        if (edge->relaxed) {
            perm = 0;
            shared = BLOCK_PERM_ALL;
        }
        if ((perm != edge->perm || shared != edge->shared) &&
            !plan_edge(edge, perm, shared, changed, error))
            return false;
    }
    return true;
}

/* Gives the node what its parents' edges say together. */
static bool plan_node(BlockNode *node, GPtrArray *changed, GError **error)
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
    node->perm = perm;
    node->shared = shared;
    if (plan_children(node, changed, error)) {
        if (node->driver->set_perm || node->demoted) {
            block_node_pin(node);
            g_ptr_array_add(changed, node);
        }
        return true;
    }
    node->perm = old_perm;
    node->shared = old_shared;
    plan_children(node, changed, NULL);
    return false;
}

static bool co_fn tell_driver(BlockNode *node, GError **error)
{
    if (node->demoted && node->perm & WRITING) {
        if (node->driver->promote && !node->driver->promote(node, error))
            return false;
        node->config.read_only = node->demoted = false;
        block_node_route(node);
    }
    return !node->driver->set_perm ||
           node->driver->set_perm(node, node->perm, node->shared, error);
}

/* Then the drivers are told what is wanted now.  Further changes may be planned meanwhile; who comes
 * last to a node tells what all of them wanted. */
static bool co_fn tell_drivers(GPtrArray *changed, GError **error)
{
    bool ok = true;

    for (unsigned i = 0; i < changed->len; i++) {
        BlockNode *node = changed->pdata[i];

        co_mutex_lock(&node->perm_lock);
        ok = ok && tell_driver(node, error);
        co_mutex_unlock(&node->perm_lock);
        block_node_unpin(node);
    }
    g_ptr_array_set_size(changed, 0);
    return ok;
}

typedef struct PermRun {
    BlockEdge *edge;
    unsigned perm, shared;
    GError **error;
    bool ok;
} PermRun;

/* What the system refuses is taken back: with this edge as it was, as much as the others allow. */
static void co_fn set_perm_run(void *opaque)
{
    PermRun *run = opaque;
    BlockEdge *edge = run->edge;
    unsigned old_perm = edge->perm, old_shared = edge->shared;
    g_autoptr(GPtrArray) changed = g_ptr_array_new();

    if (!plan_edge(edge, run->perm, run->shared, changed, run->error)) {
        tell_drivers(changed, NULL);
        return;
    }
    run->ok = tell_drivers(changed, run->error);
    if (run->ok)
        return;
    edge->perm = old_perm;
    edge->shared = old_shared;
    plan_node(edge->child, changed, NULL);
    tell_drivers(changed, NULL);
}

/* Sets the edge and everything below it; on failure all is as it was. */
bool block_edge_set_perm(BlockEdge *edge, unsigned perm, unsigned shared, GError **error)
{
    PermRun run = { edge, perm, shared, error, false };

    co_run_sync(set_perm_run, &run);
    return run.ok;
}

/* The edge's child, and parent or user, are set; takes a reference of the child on success. */
bool block_edge_attach(BlockEdge *edge, unsigned perm, unsigned shared, GError **error)
{
    edge->perm = 0;
    edge->shared = BLOCK_PERM_ALL;
    edge->child->refs++;
    g_ptr_array_add(edge->child->parents, edge);
    if (block_edge_set_perm(edge, perm, shared, error))
        return true;
    g_ptr_array_remove(edge->child->parents, edge);
    block_node_release(edge->child);
    return false;
}

void block_edge_detach(BlockEdge *edge)
{
    BlockNode *child = edge->child;

    block_edge_set_perm(edge, 0, BLOCK_PERM_ALL, NULL);
    g_ptr_array_remove(child->parents, edge);
    edge->child = NULL;
    block_node_release(child);
}

/* Edges that get another child. */

static bool plan_move(GPtrArray *edges, BlockNode *from, BlockNode *to, GPtrArray *changed,
                      GError **error)
{
    bool ok = true;

    for (unsigned i = 0; i < edges->len; i++) {
        BlockEdge *edge = edges->pdata[i];

        g_ptr_array_remove(from->parents, edge);
        edge->child = to;
    }
    plan_node(from, changed, NULL);        /* asks for less now */
    for (unsigned i = 0; i < edges->len; i++) {
        BlockEdge *edge = edges->pdata[i];

        g_ptr_array_add(to->parents, edge);
        ok = ok && check_edge(edge, edge->perm, edge->shared, error);
    }
    return ok && plan_node(to, changed, error);
}

typedef struct MoveRun {
    GPtrArray *edges;
    BlockNode *to;
    GError **error;
    bool ok;
} MoveRun;

static void co_fn move_run(void *opaque)
{
    MoveRun *run = opaque;
    BlockNode *from = ((BlockEdge *)run->edges->pdata[0])->child;
    g_autoptr(GPtrArray) changed = g_ptr_array_new();

    run->ok = plan_move(run->edges, from, run->to, changed, run->error);
    if (run->ok)
        run->ok = tell_drivers(changed, run->error);
    if (run->ok)
        return;
    plan_move(run->edges, run->to, from, changed, NULL);
    tell_drivers(changed, NULL);
}

bool block_edges_move(GPtrArray *edges, BlockNode *to, GError **error)
{
    MoveRun run = { edges, to, error, true };

    if (edges->len)
        co_run_sync(move_run, &run);
    return run.ok;
}

typedef struct RelaxRun {
    BlockEdge *edge;
    bool on;
    GError **error;
    bool ok;
} RelaxRun;

static void co_fn relax_run(void *opaque)
{
    RelaxRun *run = opaque;
    g_autoptr(GPtrArray) changed = g_ptr_array_new();

    run->edge->relaxed = run->on;
    run->ok = plan_children(run->edge->parent, changed, run->error);
    if (!run->ok)
        run->edge->relaxed = !run->on;
    run->ok = tell_drivers(changed, run->error) && run->ok;
}

bool block_edge_relax(BlockEdge *edge, bool on, GError **error)
{
    RelaxRun run = { edge, on, error, false };

    co_run_sync(relax_run, &run);
    return run.ok;
}

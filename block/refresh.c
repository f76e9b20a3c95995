/*
 * Asking storage for what queries tell, without making a query wait for storage that hangs: every node
 * has at most one coroutine asking, and who asks for the answer waits a short while for them all.
 */
#include "block/node.h"

#define PATIENCE_NS (100 * G_GINT64_CONSTANT(1000000))

static void co_fn refresh_node(void *opaque)
{
    BlockNode *node = opaque;
    BlockGraph *graph = node->graph;

    node->driver->refresh(node);
    node->refresh = REFRESH_NONE;
    block_node_unpin(node);
    co_queue_wake_all(&graph->refreshed);
}

static void begin(BlockNode *node, void *opaque)
{
    if (!node->driver->refresh || node->refresh != REFRESH_NONE)
        return;
    node->refresh = REFRESH_BEGUN;
    block_node_pin(node);
    co_start(refresh_node, node);
}

/* Who waits, and for one node (NULL: all). */
typedef struct Wait {
    BlockGraph *graph;
    BlockNode *node;
    unsigned begun;
} Wait;

static void count_begun(BlockNode *node, void *opaque)
{
    Wait *wait = opaque;

    wait->begun += node->refresh == REFRESH_BEGUN && (!wait->node || node == wait->node);
}

/* Nobody waits for this one any more until it has answered. */
static void set_late(BlockNode *node, void *opaque)
{
    Wait *wait = opaque;

    if (node->refresh == REFRESH_BEGUN && (!wait->node || node == wait->node))
        node->refresh = REFRESH_LATE;
}

static void patience_ends(void *opaque)
{
    Wait *wait = opaque;

    block_graph_foreach(wait->graph, set_late, wait);
    co_queue_wake_all(&wait->graph->refreshed);
}

static void co_fn wait_for_answers(void *opaque)
{
    Wait *wait = opaque;
    LoopTimer timer;

    loop_timer_init(&timer, loop_main(), patience_ends, wait);
    loop_timer_set(&timer, loop_clock_ns() + PATIENCE_NS);
    for (;;) {
        wait->begun = 0;
        block_graph_foreach(wait->graph, count_begun, wait);
        if (!wait->begun)
            break;
        co_queue_wait(&wait->graph->refreshed, NULL);
    }
    loop_timer_cancel(&timer);
}

void block_node_refresh(BlockNode *node)
{
    Wait wait = { .graph = node->graph, .node = node };

    while (!node->driver->refresh && block_node_file(node))
        wait.node = node = block_node_file(node);
    begin(node, NULL);
    co_run_sync(wait_for_answers, &wait);
}

void block_graph_refresh(BlockGraph *graph)
{
    Wait wait = { .graph = graph };

    block_graph_foreach(graph, begin, NULL);
    co_run_sync(wait_for_answers, &wait);
}

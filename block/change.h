/*
 * Changes of the graph while it is in use.
 *
 * Threads: the main thread; everything here waits (in a coroutine it yields, elsewhere it runs the
 * main loop).  Who changes the graph quiesces the users above the place first, so that nothing is
 * in flight there, and looks at the graph only after that.
 */
#pragma once
#include "block/image.h"

/* Holds the requests of all users whose nodes are @node or above it (NULL: of all users) until
 * block_resume, except of those that belong to @owner (block_user_set_owner; NULL: none). */
typedef struct BlockQuiesce BlockQuiesce;
BlockQuiesce *block_quiesce(BlockGraph *graph, BlockNode *node, const void *owner);
void block_resume(BlockQuiesce *quiesce);
/* Calls @fn, in a coroutine, while nobody else changes the graph and the users above @node (NULL: all)
 * are held; returns what it does.  Waits. */
bool block_change(BlockGraph *graph, BlockNode *node,
                  bool co_fn (*fn)(void *opaque, GError **error), void *opaque, GError **error);
/* All users of one owner are held where one of them would be. */
void block_user_set_owner(BlockUser *user, const void *owner);
/* Between these two, in one coroutine, the user has a request in flight: work on nodes that is to
 * be waited for.  begin waits while the user is quiesced. */
void co_fn block_user_begin(BlockUser *user);
void block_user_end(BlockUser *user);

/* Whether @below is @node or can be reached from it. */
bool block_node_reaches(const BlockNode *node, const BlockNode *below);

/* Everything that uses @from uses @to now: users and nodes above, a -drive's id too, but not
 * @owner's users and not what is itself below @to (a filter that is to be above @from).  Refused,
 * with nothing changed, where permissions conflict.  Quiesced: what is above @from and @to. */
bool block_node_replace(BlockNode *from, BlockNode *to, const void *owner, GError **error);

/* The child @key of a node: another one, a first one, or none (NULL).  Quiesced: what is above. */
bool block_node_set_child(BlockNode *node, const char *key, BlockNode *child, GError **error);

/* A filter made of @options (its "file" is set) that stands between @below and all that uses it
 * from now on; and its removal.  The caller gets a reference (block_node_put).  @owner:
 * as above. */
BlockNode *block_node_insert_filter(BlockNode *below, json_object *options, const void *owner,
                                    GError **error);
bool block_node_remove_filter(BlockNode *filter, GError **error);
BlockNode *block_node_get(BlockNode *node);

/* From now on (until as many calls with false) block_range_lock works on the node.  Quiesced.
 * @reads: reads of it wait, too. */
void block_node_order(BlockNode *node, bool reads, bool on);
/* While a range is held, writes to it (and ordered reads) of others wait; those that were there
 * before are over.  @patient: those that come while we wait for these go first: a job's own work.  In a
 * coroutine.  The holder's own requests are made with BLOCK_HELD. */
typedef struct BlockRange BlockRange;
BlockRange *co_fn block_range_lock(BlockNode *node, uint64_t offset, uint64_t bytes, bool patient);
void block_range_unlock(BlockRange *range);

/* A node by QMP's name for it: a node name, or the id of a -drive.  The error is
 * QEMU's sentence. */
BlockNode *block_node_lookup(BlockGraph *graph, const char *device, const char *node_name,
                             GError **error);

/* The node can be written, or not any more, from now on.  Quiesced: what is above it.  Refused
 * while somebody writes to it, or where its driver cannot. */
bool block_node_set_read_only(BlockNode *node, bool read_only, GError **error);
/* blockdev-reopen: an array of options as blockdev-add takes them; all nodes change, or none. */
bool block_reopen(BlockGraph *graph, json_object *list, GError **error);

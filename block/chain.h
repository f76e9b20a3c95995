/*
 * Chains of backing files: an image shows what it has itself, and where it has nothing what its
 * backing node shows.  Filters in between show their file child's data.
 *
 * Threads: the graph is read, so as for everything that walks it: the main thread, or a coroutine
 * whose caller holds a user on @top while the graph stands still.
 */
#pragma once
#include "block/driver.h"

/* The node's backing node, or that of the first node below its filters; NULL: none. */
BlockNode *block_node_backing(const BlockNode *node);
/* The node itself, or the first below it that is no filter. */
BlockNode *block_node_skip_filters(BlockNode *node);
/* One step down: a filter's file child, else the backing node; NULL: the end. */
BlockNode *block_node_below(const BlockNode *node);
bool block_node_is_above(const BlockNode *node, const BlockNode *below);

/*
 * What @bytes from @offset of @top are, looking down to @base, itself left out (NULL: to the end).
 * map->bytes are alike, at least 1.  *ret_depth (may be NULL): how many images down they were found,
 * 0 is @top.  Nothing above @base has them: flags without BLOCK_MAP_ALLOCATED (and BLOCK_MAP_ZERO if
 * @base is NULL).  0, or -errno.
 */
int co_fn block_co_map_above(BlockNode *top, BlockNode *base, uint64_t offset, uint64_t bytes,
                             BlockMap *map, unsigned *ret_depth);

/* The same for a user, whose draining waits for it as for other requests; past the end: -EIO. */
int co_fn block_co_map(BlockUser *user, BlockNode *base, uint64_t offset, uint64_t bytes,
                       BlockMap *map, unsigned *ret_depth);

/*
 * The options of the node that a name means: a path, "json:{…}", or a protocol's URI
 * ("nbd://host/x").  @relative_to: the file name that a relative path counts from (a backing file's
 * does from the image that names it); NULL: the working directory.  The caller owns the result.
 */
json_object *co_fn block_filename_options(const char *filename, const char *relative_to,
                                          GError **error);
/* The same for a child's value: a name, or its options, which may have "filename" and no "driver". */
json_object *co_fn block_file_options(json_object *file, GError **error);
/* Children in @options that have a name only get their driver. */
bool co_fn block_options_complete(json_object *options, GError **error);
/* Options that block_filename_options made are a format's ("json:{…}" may say all of an image, and may
 * leave out its driver), not a protocol's. */
bool block_options_say_format(json_object *options);
/* The part of them that is the protocol's: their file's, or all (borrowed). */
json_object *block_options_protocol(json_object *options);
/* The path that a relative name means, beside @relative_to; g_free. */
char *block_filename_resolve(const char *filename, const char *relative_to);

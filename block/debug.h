/*
 * Named places in formats, for tests: the driver blkdebug, below a format, lets requests fail from such a
 * place on.  Any thread.
 *
 *     block_debug_event(s->file, "l2_load");
 *
 * Names: docs/block.md.
 */
#pragma once
#include "block/driver.h"

/* Does nothing but look at the driver unless @node is a blkdebug node. */
void block_debug_event(BlockNode *node, const char *event);
bool block_debug_event_known(const char *event);

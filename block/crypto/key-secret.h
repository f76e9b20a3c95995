/* The passphrase that a node's option names: the id of a `secret` object. */
#pragma once
#include "block/block.h"

/* NULL: there is none of that id, or it is no secret.  The caller owns a reference. */
GBytes *block_key_secret(BlockGraph *graph, const char *id, GError **error);

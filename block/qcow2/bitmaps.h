/*
 * Persistent dirty bitmaps: read when the image is opened, stored when it is closed or stops being
 * writable.
 *
 * While the image is open for writing its entries in the directory have the flag in_use, as the
 * specification asks, so that no one takes what lies there for complete.
 */
#pragma once
#include "block/qcow2/bitmap-dir.h"

/* In open, with the header read: makes the node's bitmaps; marks them in use if the image is writable. */
int co_fn qcow2_bitmaps_load(Qcow2 *s, GError **error);
/* The image is no longer going to be written: stores the node's persistent bitmaps.  On failure those
 * on disk are left as they are, in use: they will be found to be inconsistent. */
int co_fn qcow2_bitmaps_store(Qcow2 *s, GError **error);
/* It is writable again after qcow2_bitmaps_store: marks them in use. */
int co_fn qcow2_bitmaps_begin_use(Qcow2 *s, GError **error);

bool qcow2_can_store_bitmap(BlockNode *node, const char *name, uint32_t granularity, GError **error);
int co_fn qcow2_co_remove_bitmap(BlockNode *node, const char *name, GError **error);
/* Bytes that the persistent bitmaps of @node would take in an image with such clusters (measure). */
uint64_t qcow2_bitmaps_measure(BlockNode *node, uint64_t cluster_size);

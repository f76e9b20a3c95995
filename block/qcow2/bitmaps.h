/*
 * Persistent dirty bitmaps: read when the image is opened, stored when it is closed or stops being
 * writable.
 *
 * While the image is open for writing its entries in the directory have the flag in_use, as the
 * specification asks, so that no one takes what lies there for complete.  After a crash it is complete
 * with the journal's marks (journal.h).
 */
#pragma once
#include "block/qcow2/bitmap-dir.h"

/* In open, with the header read: makes the node's bitmaps; marks them in use if the image is writable. */
int co_fn qcow2_bitmaps_load(Qcow2 *s, GError **error);
/* The image is no longer going to be written: stores the node's persistent bitmaps.  On failure those
 * on disk are left as they are, in use: they will be found to be inconsistent. */
int co_fn qcow2_bitmaps_store(Qcow2 *s, GError **error);
/* The node has become read-only or writable: what is stored can be changed no more, or again. */
void qcow2_bitmaps_set_read_only(Qcow2 *s, bool read_only);
/* It is writable again after qcow2_bitmaps_store: marks them in use. */
int co_fn qcow2_bitmaps_begin_use(Qcow2 *s, GError **error);

/* What was changed in the node's bitmaps other than by writes is in the image when it returns.  After a
 * failure the stored ones are out of date, and will be found to be inconsistent after a crash. */
int co_fn qcow2_co_sync_bitmaps(BlockNode *node, GError **error);

bool qcow2_can_store_bitmap(BlockNode *node, const char *name, uint32_t granularity, GError **error);
/* The same without that bitmap, stored or not. */
int co_fn qcow2_co_remove_bitmap(BlockNode *node, const char *name, GError **error);
/* Bytes that the persistent bitmaps of @node would take in an image with such clusters (measure). */
uint64_t qcow2_bitmaps_measure(BlockNode *node, uint64_t cluster_size);

/* What can be done to an image as a whole. */
#include "block/qcow2/image.h"
#include "block/qcow2/bitmaps.h"
#include "block/qcow2/scrub.h"
#include "block/qcow2/snapshot.h"

const BlockImageVerbs qcow2_image_verbs = {
    .create_options = qcow2_create_options,
    .amend_options = qcow2_amend_options,
    .co_create = qcow2_co_create,
    .co_preallocate = qcow2_co_preallocate,
    .co_measure = qcow2_co_measure,
    .co_check = qcow2_co_check,
    .co_scrub = qcow2_co_scrub,
    .co_amend = qcow2_co_amend,
    .co_set_backing = qcow2_co_set_backing,
    .co_make_empty = qcow2_co_make_empty,
    .snapshots = qcow2_snapshots,
    .co_snapshot_create = qcow2_co_snapshot_create,
    .co_snapshot_goto = qcow2_co_snapshot_goto,
    .co_snapshot_delete = qcow2_co_snapshot_delete,
    .co_snapshot_load = qcow2_co_snapshot_load,
    .co_read_vmstate = qcow2_co_read_vmstate,
    .co_write_vmstate = qcow2_co_write_vmstate,
    .can_store_bitmap = qcow2_can_store_bitmap,
    .co_remove_bitmap = qcow2_co_remove_bitmap,
    .co_sync_bitmaps = qcow2_co_sync_bitmaps,
};

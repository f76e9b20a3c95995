/* QMP: changes of images and of the graph; all are actions of transactions. */
#include <string.h>
#include "block/jobs/backing.h"
#include "block/jobs/mirror.h"
#include "block/jobs/scrub.h"
#include "block/transaction.h"
#include "schema/commands.h"

bool qmp_transaction(Vm *vm, json_object *arguments, GError **error)
{
    json_object *actions = NULL, *properties = NULL;
    const char *mode = "individual";

    json_object_object_get_ex(arguments, "actions", &actions);
    if (json_object_object_get_ex(arguments, "properties", &properties) &&
        !options_get_str(properties, "completion-mode", &mode, error))
        return false;
    return block_transaction(vm->block, actions, !strcmp(mode, "grouped"), error);
}

bool qmp_blockdev_mirror(Vm *vm, json_object *arguments, GError **error)
{
    return block_mirror(vm->block, arguments, error);
}

bool qmp_block_commit(Vm *vm, json_object *arguments, GError **error)
{
    return block_commit(vm->block, arguments, error);
}

bool qmp_block_stream(Vm *vm, json_object *arguments, GError **error)
{
    return block_stream(vm->block, arguments, error);
}

bool qmp_block_scrub(Vm *vm, json_object *arguments, GError **error)
{
    return block_scrub(vm->block, arguments, error);
}

json_object *qmp_query_block_scrub(Vm *vm, const char *id, GError **error)
{
    return block_scrub_result(vm->block, id, error);
}

bool qmp_change_backing_file(Vm *vm, json_object *arguments, GError **error)
{
    return block_change_backing_file(vm->block, arguments, error);
}

bool qmp_blockdev_create(Vm *vm, json_object *arguments, GError **error)
{
    return block_create_job(vm->block, arguments, error);
}

bool qmp_x_blockdev_amend(Vm *vm, json_object *arguments, GError **error)
{
    return block_amend_job(vm->block, arguments, error);
}

bool qmp_blockdev_reopen(Vm *vm, json_object *arguments, GError **error)
{
    return block_reopen(vm->block, json_object_object_get(arguments, "options"), error);
}

json_object *qmp_blockdev_snapshot_delete_internal_sync(Vm *vm, const char *device, const char *id,
                                                        const char *name, GError **error)
{
    return block_internal_snapshot_delete(vm->block, device, id, name, error);
}

#define ACTION(c_name, name)                                                                       \
    bool qmp_##c_name(Vm *vm, json_object *arguments, GError **error)                              \
    {                                                                                              \
        return block_action(vm->block, name, arguments, error);                                    \
    }
ACTION(blockdev_backup, "blockdev-backup")
ACTION(blockdev_snapshot, "blockdev-snapshot")
ACTION(blockdev_snapshot_internal_sync, "blockdev-snapshot-internal-sync")
ACTION(blockdev_snapshot_sync, "blockdev-snapshot-sync")
ACTION(block_dirty_bitmap_add, "block-dirty-bitmap-add")
ACTION(block_dirty_bitmap_remove, "block-dirty-bitmap-remove")
ACTION(block_dirty_bitmap_clear, "block-dirty-bitmap-clear")
ACTION(block_dirty_bitmap_enable, "block-dirty-bitmap-enable")
ACTION(block_dirty_bitmap_disable, "block-dirty-bitmap-disable")
ACTION(block_dirty_bitmap_merge, "block-dirty-bitmap-merge")

/* QMP: limits of disks, thresholds, and histograms of how long their requests take. */
#include <string.h>
#include "block/block.h"
#include "block/bucket.h"
#include "schema/commands.h"

/* ---- which disk ---- */

typedef struct UserSearch {
    const Object *device;
    const char *drive;                     /* or the name of its drive */
    BlockUser *found;
} UserSearch;

static void look_at_user(BlockUser *user, void *opaque)
{
    UserSearch *search = opaque;
    const BlockDrive *drive = block_node_drive(block_user_node(user));
    Object *device = block_user_device(user);
    bool found = drive && search->drive && !strcmp(drive->id, search->drive);

    /* The device, or the transport that it is a part of. */
    for (; device && search->device && !found; device = device->parent)
        found = device == search->device;
    if (found)
        search->found = user;
}

static BlockUser *find_user(Vm *vm, const char *id, const char *drive, GError **error)
{
    UserSearch search = { id ? object_resolve(vm->root, id) : NULL, drive ? drive : id, NULL };

    block_graph_foreach_user(vm->block, look_at_user, &search);
    if (!search.found)
        fail(error, ERR_DEVICE_NOT_FOUND, "Device '%s' not found", id ? id : drive);
    return search.found;
}

/* ---- block_set_io_throttle ---- */

static bool take_limits(json_object *arguments, ThrottleConfig *config, GError **error)
{
    throttle_config_init(config);
    for (unsigned i = 0; i < THROTTLE__COUNT; i++) {
        const char *name = throttle_short_words[i];
        g_autofree char *max = g_strconcat(name, "_max", NULL);
        g_autofree char *length = g_strconcat(name, "_max_length", NULL);
        ThrottleLimit *limit = &config->of[i];

        if (!options_get_u64(arguments, name, &limit->average, error) ||
            !options_get_u64(arguments, max, &limit->max, error) ||
            !options_get_u64(arguments, length, &limit->length, error))
            return false;
    }
    return options_get_u64(arguments, "iops_size", &config->iops_size, error);
}

bool qmp_block_set_io_throttle(Vm *vm, json_object *arguments, GError **error)
{
    const char *device = NULL, *id = NULL, *group = NULL;
    ThrottleConfig config;
    BlockUser *user;

    if (!options_get_str(arguments, "device", &device, error) ||
        !options_get_str(arguments, "id", &id, error) ||
        !options_get_str(arguments, "group", &group, error) ||
        !take_limits(arguments, &config, error))
        return false;
    if (!device == !id)
        return fail(error, ERR_INVALID_PARAMETER, "give either 'device' or 'id'");
    user = find_user(vm, id, device, error);
    return user && block_user_set_throttle(user, group ? group : id ? id : device, &config, error);
}

/* ---- block-set-write-threshold ---- */

bool qmp_block_set_write_threshold(Vm *vm, const char *node_name, uint64_t write_threshold,
                                   GError **error)
{
    return block_set_write_threshold(vm->block, node_name, write_threshold, error);
}

/* ---- block-latency-histogram-set ---- */

bool qmp_block_latency_histogram_set(Vm *vm, const char *id, GArray *boundaries,
                                     GArray *boundaries_read, GArray *boundaries_write,
                                     GArray *boundaries_flush, GError **error)
{
    const struct {
        BlockAcct what;
        GArray *boundaries;
    } kinds[] = {
        { BLOCK_ACCT_READ, boundaries_read ? boundaries_read : boundaries },
        { BLOCK_ACCT_WRITE, boundaries_write ? boundaries_write : boundaries },
        { BLOCK_ACCT_FLUSH, boundaries_flush ? boundaries_flush : boundaries },
    };
    bool none = !kinds[0].boundaries && !kinds[1].boundaries && !kinds[2].boundaries;
    BlockUser *user = find_user(vm, id, NULL, error);

    for (unsigned i = 0; user && i < G_N_ELEMENTS(kinds); i++) {
        GArray *list = kinds[i].boundaries;

        if ((list || none) &&
            !block_user_set_histogram(user, kinds[i].what, list ? (const uint64_t *)list->data : NULL,
                                      list ? list->len : 0, error))
            return false;
    }
    return user != NULL;
}

/* The block device (virtio 1.2, 5.2): properties, features and configuration. */
#include "hw/virtio/virtio-blk-int.h"
#include "hw/virtio/virtio-pci.h"
#include <linux/virtio_ids.h>
#include "src/base/util.h"
#include "src/object/iothread.h"

enum { QUEUES_AUTO = 0xffff, QUEUES_MAX = 1023, QUEUE_SIZE_MAX = 1024 };
enum { ERROR_AUTO = 4 };
enum { GRANULARITY_AUTO = UINT32_MAX, REQUEST_MAX_SECTORS = INT32_MAX / SECTOR_SIZE };
enum { CONFIG_SIZE = 60 };                  /* up to and with write_zeroes_may_unmap, padded */
/* Room for the parts of a buffer that crosses RAM blocks, beyond header, status and seg_max. */
enum { SPARE_PARTS = 8 };

static unsigned seg_max(const VirtioBlk *blk)
{
    return blk->seg_max_adjust ? blk->queue_size - 2 : 128 - 2;
}

/* Of a request: the header, the status and seg_max buffers, or as many as the ring holds (2.7.5.3),
 * for a driver that has not asked for seg_max. */
static unsigned parts_max(const VirtioBlk *blk)
{
    return MAX(seg_max(blk) + 2, blk->queue_size) + SPARE_PARTS;
}

/* ---- Features (5.2.3) and configuration (5.2.4) ---- */

static uint64_t feature_if(bool on, unsigned bit)
{
    return (uint64_t)on << bit;
}

static uint64_t blk_get_features(VirtioDevice *vdev, uint64_t offered)
{
    VirtioBlk *blk = VIRTIO_BLK(vdev);

    return feature_if(true, VIRTIO_BLK_F_SEG_MAX) | feature_if(true, VIRTIO_BLK_F_GEOMETRY) |
           feature_if(true, VIRTIO_BLK_F_TOPOLOGY) | feature_if(true, VIRTIO_BLK_F_BLK_SIZE) |
           feature_if(blk->write_cache || blk->config_wce, VIRTIO_BLK_F_FLUSH) |
           feature_if(blk->config_wce, VIRTIO_BLK_F_CONFIG_WCE) |
           feature_if(blk->num_queues > 1, VIRTIO_BLK_F_MQ) |
           feature_if(block_node_read_only(blk->drive), VIRTIO_BLK_F_RO) |
           feature_if(blk->discard, VIRTIO_BLK_F_DISCARD) |
           feature_if(blk->write_zeroes, VIRTIO_BLK_F_WRITE_ZEROES);
}

/* 5.2.5.2: a driver that can neither flush nor choose has a write-through cache. */
static bool blk_set_features(VirtioDevice *vdev, uint64_t features)
{
    VirtioBlk *blk = VIRTIO_BLK(vdev);

    if (!virtio_has_feature(vdev, VIRTIO_BLK_F_CONFIG_WCE)) {
        blk->write_cache = virtio_has_feature(vdev, VIRTIO_BLK_F_FLUSH);
        block_user_set_write_cache(blk->user, blk->write_cache);
    }
    return true;
}

static void set_geometry(const VirtioBlk *blk, struct virtio_blk_config *c)
{
    unsigned heads = blk->heads ? blk->heads : 16, secs = blk->secs ? blk->secs : 63;
    uint64_t cylinders = blk->cyls ? blk->cyls : blk->capacity / (heads * secs);
    unsigned block = blk->logical_block_size;

    /* Tracks of whole blocks, so that the disk that the geometry tells of has whole ones, too. */
    if (blk->capacity * SECTOR_SIZE / heads / secs % block && secs >= block / SECTOR_SIZE)
        secs -= secs % (block / SECTOR_SIZE);
    c->geometry.cylinders = GUINT16_TO_LE(CLAMP(cylinders, 1, 16383));
    c->geometry.heads = heads;
    c->geometry.sectors = secs;
}

static void blk_get_config(VirtioDevice *vdev, uint8_t *config)
{
    VirtioBlk *blk = VIRTIO_BLK(vdev);
    struct virtio_blk_config c = { 0 };
    uint32_t block = blk->logical_block_size;
    uint32_t granularity = blk->discard_granularity;

    if (granularity == (uint32_t)GRANULARITY_AUTO || !blk->report_discard_granularity)
        granularity = block;
    c.capacity = GUINT64_TO_LE(__atomic_load_n(&blk->capacity, __ATOMIC_RELAXED));
    c.seg_max = GUINT32_TO_LE(seg_max(blk));
    set_geometry(blk, &c);
    c.blk_size = GUINT32_TO_LE(block);
    c.physical_block_exp = g_bit_nth_msf(blk->physical_block_size / block, -1);
    c.min_io_size = GUINT16_TO_LE(blk->min_io_size / block);
    c.opt_io_size = GUINT32_TO_LE(blk->opt_io_size / block);
    c.wce = blk->write_cache;
    c.num_queues = GUINT16_TO_LE(blk->num_queues);
    if (blk->discard) {
        c.max_discard_sectors = GUINT32_TO_LE(blk->max_discard_sectors);
        c.max_discard_seg = GUINT32_TO_LE(1);
        c.discard_sector_alignment = GUINT32_TO_LE(MAX(granularity, SECTOR_SIZE) / SECTOR_SIZE);
    }
    if (blk->write_zeroes) {
        c.max_write_zeroes_sectors = GUINT32_TO_LE(blk->max_write_zeroes_sectors);
        c.max_write_zeroes_seg = GUINT32_TO_LE(1);
        c.write_zeroes_may_unmap = 1;
    }
    memcpy(config, &c, MIN(sizeof(c), CONFIG_SIZE));
}

static void blk_set_config(VirtioDevice *vdev, unsigned offset, unsigned size)
{
    VirtioBlk *blk = VIRTIO_BLK(vdev);
    unsigned wce = offsetof(struct virtio_blk_config, wce);

    /* The one writable field (5.2.5.2). */
    if (offset > wce || offset + size <= wce || !virtio_has_feature(vdev, VIRTIO_BLK_F_CONFIG_WCE))
        return;
    blk->write_cache = vdev->config[wce];
    block_user_set_write_cache(blk->user, blk->write_cache);
}

static void update_capacity(VirtioBlk *blk)
{
    int64_t size = block_node_size(blk->drive);

    __atomic_store_n(&blk->capacity, size < 0 ? 0 : size / SECTOR_SIZE, __ATOMIC_RELAXED);
}

static void resized(void *opaque)
{
    VirtioBlk *blk = opaque;

    update_capacity(blk);
    virtio_config_changed(&blk->vdev);
}

/* ---- Realize ---- */

static bool check_size(const char *name, uint32_t size, GError **error)
{
    if (is_power_of_2(size) && size >= SECTOR_SIZE && size <= 2 * MiB)
        return true;
    return fail(error, ERR_INVALID_PARAMETER,
                "property '%s' must be a power of 2 between 512 and 2 MiB, not %u", name, size);
}

static bool settle_sizes(VirtioBlk *blk, GError **error)
{
    BlockSizes sizes = block_node_probe_sizes(blk->drive);

    if (!blk->logical_block_size)
        blk->logical_block_size = sizes.logical;
    if (!blk->physical_block_size)
        blk->physical_block_size = MAX(sizes.physical, blk->logical_block_size);
    if (!check_size("logical_block_size", blk->logical_block_size, error) ||
        !check_size("physical_block_size", blk->physical_block_size, error))
        return false;
    if (blk->logical_block_size > blk->physical_block_size)
        return fail(error, ERR_INVALID_PARAMETER,
                    "logical_block_size %u is larger than physical_block_size %u",
                    blk->logical_block_size, blk->physical_block_size);
    if (blk->min_io_size % blk->logical_block_size || blk->opt_io_size % blk->logical_block_size)
        return fail(error, ERR_INVALID_PARAMETER,
                    "min_io_size and opt_io_size must be multiples of logical_block_size %u",
                    blk->logical_block_size);
    if (blk->min_io_size / blk->logical_block_size > UINT16_MAX)
        return fail(error, ERR_INVALID_PARAMETER, "min_io_size is more than 65535 logical blocks");
    if (blk->discard_granularity != (uint32_t)GRANULARITY_AUTO &&
        blk->discard_granularity % blk->logical_block_size)
        return fail(error, ERR_INVALID_PARAMETER,
                    "discard_granularity must be a multiple of logical_block_size %u",
                    blk->logical_block_size);
    return true;
}

/* False, which ends the walk: @obj is another disk with the bootindex of @opaque. */
static bool bootindex_differs(Object *obj, void *opaque)
{
    const VirtioBlk *blk = opaque;

    return obj == opaque || !obj->realized || !object_is_a(obj, "virtio-blk-device") ||
           VIRTIO_BLK(obj)->bootindex != blk->bootindex;
}

static bool check_bootindex(VirtioBlk *blk, GError **error)
{
    if (blk->bootindex < 0 || object_walk(OBJECT(blk->vdev.dev.machine), bootindex_differs, blk))
        return true;
    return fail(error, ERR_IN_USE, "The bootindex %d has already been used", blk->bootindex);
}

static bool check_props(VirtioBlk *blk, GError **error)
{
    if (!blk->drive)
        return fail(error, ERR_MISSING_PARAMETER, "property 'drive' is not set");
    if (blk->scsi)
        return fail(error, ERR_UNSUPPORTED,
                    "scsi=on: passing SCSI commands through is not offered");
    if (blk->num_queues == QUEUES_AUTO)
        blk->num_queues = CLAMP(blk->vdev.dev.machine->smp.cpus, 1, QUEUES_MAX);
    if (blk->num_queues < 1 || blk->num_queues > QUEUES_MAX)
        return fail(error, ERR_INVALID_PARAMETER, "property 'num-queues' must be 1 to %u",
                    QUEUES_MAX);
    if (!is_power_of_2(blk->queue_size) || blk->queue_size <= 2 || blk->queue_size > QUEUE_SIZE_MAX)
        return fail(error, ERR_INVALID_PARAMETER,
                    "property 'queue-size' must be a power of 2 between 4 and %u", QUEUE_SIZE_MAX);
    if (blk->cyls > 65535 || blk->heads > 255 || blk->secs > 255)
        return fail(error, ERR_INVALID_PARAMETER,
                    "cyls, heads and secs are at most 65535, 255 and 255");
    if (!blk->max_discard_sectors || blk->max_discard_sectors > REQUEST_MAX_SECTORS ||
        !blk->max_write_zeroes_sectors || blk->max_write_zeroes_sectors > REQUEST_MAX_SECTORS)
        return fail(error, ERR_INVALID_PARAMETER,
                    "max-discard-sectors and max-write-zeroes-sectors must be 1 to %u",
                    REQUEST_MAX_SECTORS);
    return true;
}

static bool attach_drive(VirtioBlk *blk, GError **error)
{
    g_autofree char *path = object_path(blk->vdev.dev.obj.parent);
    g_autofree char *name = g_strdup_printf("virtio-blk device '%s'", path);
    bool read_only = block_node_read_only(blk->drive);
    unsigned shared = BLOCK_PERM_READ | BLOCK_PERM_WRITE_SAME | BLOCK_PERM_RESIZE;
    const BlockDrive *drive = block_node_drive(blk->drive);

    if (blk->share_rw)
        shared |= BLOCK_PERM_WRITE;
    blk->user = block_user_new(blk->drive, name,
                               BLOCK_PERM_READ | (read_only ? 0 : BLOCK_PERM_WRITE), shared, error);
    if (!blk->user)
        return false;
    block_user_set_device(blk->user, OBJECT(blk));
    block_user_keep(blk->user, &blk->drive);
    block_user_on_resize(blk->user, resized, blk);
    if (!blk->serial && drive && drive->serial)
        blk->serial = g_strdup(drive->serial);
    if (blk->write_cache_mode != ON_OFF_AUTO)
        block_user_set_write_cache(blk->user, blk->write_cache_mode == ON_OFF_ON);
    if (block_user_set_on_error(blk->user, blk->rerror == ERROR_AUTO ? -1 : blk->rerror,
                                blk->werror == ERROR_AUTO ? -1 : blk->werror, error))
        return true;
    block_user_free(g_steal_pointer(&blk->user));
    return false;
}

/* The iothread of each queue; NULL: the main loop. */
static bool choose_iothreads(const VirtioBlk *blk, Object **iothreads, GError **error)
{
    if (blk->iothread_map && blk->iothread)
        return fail(error, ERR_INVALID_PARAMETER, "iothread and iothread-vq-mapping properties cannot "
                                                  "be set at the same time");
    if (blk->iothread_map)
        return iothread_map_assign(blk->iothread_map, blk->num_queues, iothreads, error);
    for (unsigned i = 0; i < blk->num_queues; i++)
        iothreads[i] = blk->iothread;
    return true;
}

static bool blk_realize(Object *obj, GError **error)
{
    VirtioBlk *blk = VIRTIO_BLK(obj);
    Object *iothreads[QUEUES_MAX];

    if (!check_props(blk, error) || !check_bootindex(blk, error) ||
        !choose_iothreads(blk, iothreads, error) || !settle_sizes(blk, error) ||
        !attach_drive(blk, error))
        return false;
    blk->write_cache = block_user_write_cache(blk->user);
    update_capacity(blk);
    blk->queues = g_new0(BlkQueue, blk->num_queues);
    for (unsigned i = 0; i < blk->num_queues; i++) {
        Virtqueue *vq = virtio_add_queue(&blk->vdev, blk->queue_size, virtio_blk_kick);
        virtio_blk_queue_init(&blk->queues[i], blk, vq, parts_max(blk));
        if (iothreads[i])
            virtio_set_queue_loop(&blk->vdev, i, iothread_loop(iothreads[i]));
    }
    return true;
}

static void blk_unrealize(Object *obj)
{
    VirtioBlk *blk = VIRTIO_BLK(obj);

    block_user_free(g_steal_pointer(&blk->user));
    for (unsigned i = 0; blk->queues && i < blk->vdev.num_queues; i++)
        virtio_blk_queue_free(&blk->queues[i]);
    g_clear_pointer(&blk->queues, g_free);
}

static void blk_reset(Object *obj)
{
    VirtioBlk *blk = VIRTIO_BLK(obj);

    for (unsigned i = 0; i < blk->vdev.num_queues; i++)
        virtio_blk_queue_clear(&blk->queues[i]);
    block_user_reset_io_status(blk->user);
    blk->write_cache = blk->write_cache_mode == ON_OFF_AUTO ? block_node_write_cache(blk->drive)
                                                            : blk->write_cache_mode == ON_OFF_ON;
    block_user_set_write_cache(blk->user, blk->write_cache);
}

/* ---- State ---- */

static bool blk_post_load(void *obj, uint32_t version, GError **error)
{
    VirtioBlk *blk = obj;

    block_user_set_write_cache(blk->user, blk->write_cache);
    /* Every slot that the driver waits for is a parked request; else one would be lost. */
    for (unsigned i = 0; i < blk->vdev.num_queues && !blk->vdev.broken; i++) {
        unsigned slots = 0;
        for (const BlkRequest *req = blk->queues[i].parked; req; req = req->next)
            slots += req->chain.count;
        if (slots != blk->queues[i].vq->in_use)
            return fail(error, ERR_CORRUPT, "queue %u has %u slots in use, parked requests take %u",
                        i, blk->queues[i].vq->in_use, slots);
    }
    return true;
}

static const StateField blk_fields[] = {
    FIELD(VirtioBlk, write_cache),
    FIELD_FN(VirtioBlk, "parked", virtio_blk_save_parked, virtio_blk_load_parked),
    {}
};
static const StateTable blk_state = { .fields = blk_fields, .post_load = blk_post_load };

/* ---- Properties ---- */

static const char *const on_error_words[] = { "report", "ignore", "enospc", "stop", "auto", NULL };

static const Property blk_props[] = {
    PROP_OF("drive", VirtioBlk, drive, prop_block_node, .help = "node name or -drive id"),
    PROP_LINK("iothread", VirtioBlk, iothread, "iothread",
              .help = "thread that serves the queues; by default the main one"),
    PROP_OF("iothread-vq-mapping", VirtioBlk, iothread_map, prop_iothread_map,
            .help = "list of {iothread, vqs}: threads that serve the queues"),
    PROP("serial", VirtioBlk, serial, .help = "serial number, 20 characters"),
    PROP_OF("logical_block_size", VirtioBlk, logical_block_size, prop_size32,
            .help = "bytes; 0: as the node says"),
    PROP_OF("physical_block_size", VirtioBlk, physical_block_size, prop_size32,
            .help = "bytes; 0: as the node says"),
    PROP_OF("min_io_size", VirtioBlk, min_io_size, prop_size32, .help = "bytes; 0: none"),
    PROP_OF("opt_io_size", VirtioBlk, opt_io_size, prop_size32, .help = "bytes; 0: none"),
    PROP_OF("discard_granularity", VirtioBlk, discard_granularity, prop_size32,
            .def.u = UINT32_MAX, .help = "bytes; by default a logical block"),
    PROP("cyls", VirtioBlk, cyls, .help = "geometry: cylinders; 0: made up"),
    PROP("heads", VirtioBlk, heads, .help = "geometry: heads; 0: made up"),
    PROP("secs", VirtioBlk, secs, .help = "geometry: sectors; 0: made up"),
    PROP_OF("write-cache", VirtioBlk, write_cache_mode, prop_on_off_auto,
            .help = "a volatile write cache, that the driver flushes"),
    PROP("num-queues", VirtioBlk, num_queues, .def.u = QUEUES_AUTO,
         .help = "request queues; by default one a vCPU"),
    PROP("queue-size", VirtioBlk, queue_size, .def.u = 256, .help = "slots of each queue"),
    PROP("request-merging", VirtioBlk, request_merging, .def.b = true,
         .help = "adjacent requests are done as one"),
    PROP("seg-max-adjust", VirtioBlk, seg_max_adjust, .def.b = true,
         .help = "seg_max follows queue-size"),
    PROP("discard", VirtioBlk, discard, .def.b = true, .help = "offer discard"),
    PROP("write-zeroes", VirtioBlk, write_zeroes, .def.b = true, .help = "offer write-zeroes"),
    PROP("report-discard-granularity", VirtioBlk, report_discard_granularity, .def.b = true,
         .help = "tell the driver discard_granularity"),
    PROP("max-discard-sectors", VirtioBlk, max_discard_sectors, .def.u = REQUEST_MAX_SECTORS,
         .help = "sectors of a discard"),
    PROP("max-write-zeroes-sectors", VirtioBlk, max_write_zeroes_sectors,
         .def.u = REQUEST_MAX_SECTORS, .help = "sectors of a write-zeroes"),
    PROP("config-wce", VirtioBlk, config_wce, .def.b = true,
         .help = "the driver may switch the write cache"),
    PROP("scsi", VirtioBlk, scsi, .help = "pass SCSI commands through (not offered)"),
    PROP("share-rw", VirtioBlk, share_rw, .help = "others may write to the node, too"),
    PROP("bootindex", VirtioBlk, bootindex, .def.i = -1, .help = "place in the boot order"),
    PROP_OF("rerror", VirtioBlk, rerror, prop_enum, .words = on_error_words, .def.u = ERROR_AUTO,
            .help = "what a failed read does"),
    PROP_OF("werror", VirtioBlk, werror, prop_enum, .words = on_error_words, .def.u = ERROR_AUTO,
            .help = "what a failed write does"),
    {}
};

static void blk_reset_queue(VirtioDevice *vdev, unsigned index)
{
    virtio_blk_queue_clear(&VIRTIO_BLK(vdev)->queues[index]);
}

static const VirtioDeviceOps blk_ops = {
    .device_id = VIRTIO_ID_BLOCK, .config_size = CONFIG_SIZE, .get_features = blk_get_features,
    .set_features = blk_set_features, .get_config = blk_get_config, .set_config = blk_set_config,
    .start = virtio_blk_start, .stop = virtio_blk_stop, .reset_queue = blk_reset_queue,
};

static const Type virtio_blk_type = {
    .name = "virtio-blk-device", .parent = "virtio-device", .help = "virtio block device",
    .size = sizeof(VirtioBlk), .props = blk_props, .state = &blk_state, .realize = blk_realize,
    .unrealize = blk_unrealize, .reset = blk_reset, .ops = &blk_ops,
};
TYPE_REGISTER(virtio_blk_type)

VIRTIO_PCI_REGISTER(virtio_blk_pci, "virtio-blk-pci", "virtio block device", "Storage",
                    .device = "virtio-blk-device", .legacy_device_id = 0x1001,
                    .pci.class_code = 0x010000)

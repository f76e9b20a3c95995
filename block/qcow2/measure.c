/* How large an image of a disk would be. */
#include "block/qcow2/image.h"
#include "block/qcow2/bitmaps.h"
#include "block/qcow2/crypto.h"
#include "block/chain.h"
#include <errno.h>
#include <string.h>

static uint64_t divide_up(uint64_t n, uint64_t by)
{
    return n / by + (n % by != 0);
}

/* Refcount blocks and table for @clusters, themselves included. */
static uint64_t refcount_bytes(const Qcow2Create *c, uint64_t clusters)
{
    uint64_t per_block = c->cluster_size * 8 / c->refcount_bits, per_table = c->cluster_size / 8;
    uint64_t blocks = 0, table = 0, before;

    do {
        before = blocks + table;
        blocks = divide_up(clusters + blocks + table, per_block);
        table = divide_up(blocks, per_table);
    } while (blocks + table != before);
    return (blocks + table) * c->cluster_size;
}

/* Header, L1 and L2 tables, refcounts. */
static uint64_t metadata_bytes(const Qcow2Create *c, uint64_t disk_bytes)
{
    uint64_t entry = c->extended_l2 ? 16 : 8;
    uint64_t tables = divide_up(divide_up(disk_bytes, c->cluster_size), c->cluster_size / entry);
    uint64_t l1 = divide_up(tables, c->cluster_size / 8);
    uint64_t bytes = (1 + tables + l1) * c->cluster_size;

    return bytes + refcount_bytes(c, (bytes + disk_bytes) / c->cluster_size);
}

/* Four for each block of metadata, and the runs' beginnings; in clusters that nothing refers to. */
static uint64_t checksum_bytes(const Qcow2Create *c, uint64_t metadata)
{
    uint64_t runs = metadata / c->cluster_size, blocks = metadata / MIN(c->cluster_size, 4096);

    return c->checksums ? ALIGN_UP(blocks * 4 + runs * 16, c->cluster_size) : 0;
}

/* Clusters of @source that have data. */
static int co_fn count_data(const Qcow2Create *c, BlockNode *source, BlockNode *base,
                            uint64_t *ret_bytes, GError **error)
{
    uint64_t size = block_node_size(source), counted_to = 0;
    BlockMap map;

    *ret_bytes = 0;
    for (uint64_t at = 0; at < size; at += map.bytes) {
        int ret = block_co_map_above(source, base, at, size - at, &map, NULL);
        uint64_t first, end;

        if (ret < 0) {
            fail_errno(error, -ret, "looking for the data of '%s' failed",
                       block_node_filename(source));
            return ret;
        }
        if (map.flags & BLOCK_MAP_ZERO || !(map.flags & BLOCK_MAP_ALLOCATED))
            continue;
        first = MAX(ALIGN_DOWN(at, c->cluster_size), counted_to);
        end = ALIGN_UP(at + map.bytes, c->cluster_size);
        if (end > first)
            *ret_bytes += end - first;
        counted_to = end;
    }
    return 0;
}

/* Only an image that stores them has bitmaps to be copied. */
static bool has_bitmaps(BlockNode *source)
{
    return !strcmp(block_node_driver(block_node_skip_filters(source)), "qcow2");
}

int co_fn qcow2_co_measure(json_object *options, BlockNode *source, BlockMeasure *measure,
                           GError **error)
{
    uint64_t disk, metadata, data = 0, keys = 0;
    Qcow2Create c;
    int ret = 0;

    if (!qcow2_create_parse(options, &c, error) ||
        (c.encrypt && !qcow2_crypto_header_bytes(c.encrypt, &keys, error)))
        return -EINVAL;
    disk = ALIGN_UP(source ? (uint64_t)block_node_size(source) : c.size, c.cluster_size);
    if (divide_up(disk, c.cluster_size * (c.cluster_size / (c.extended_l2 ? 16 : 8))) * 8 >
        QCOW2_L1_BYTES_MAX) {
        fail(error, ERR_LIMIT, "The image size is too large (try using a larger cluster size)");
        return -EFBIG;
    }
    /* With a backing file in the new image, only what the source itself has is written. */
    if (source)
        ret = count_data(&c, source, c.backing_file ? block_node_backing(source) : NULL, &data,
                         error);
    if (ret < 0)
        return ret;
    metadata = metadata_bytes(&c, disk);
    measure->fully_allocated = metadata + disk + ALIGN_UP(keys, c.cluster_size) +
                               checksum_bytes(&c, metadata);
    measure->required = c.preallocation == BLOCK_PREALLOC_FULL ||
                                c.preallocation == BLOCK_PREALLOC_FALLOC
                            ? measure->fully_allocated
                            : measure->fully_allocated - disk + data;
    if (source && c.version >= 3 && has_bitmaps(source)) {
        measure->has_bitmaps = true;
        measure->bitmaps = qcow2_bitmaps_measure(source, c.cluster_size);
    }
    return 0;
}

/* What is told of an image: ImageInfo's members, as QEMU gives them. */
#include "block/qcow2/checksums.h"
#include "block/qcow2/options.h"
#include "block/bitmap.h"
#include "block/chain.h"
#include <string.h>

/* "Bitmap directory entry": its flags. */
static json_object *bitmap_flags(BlockBitmap *bitmap)
{
    json_object *flags = json_object_new_array();

    if (block_bitmap_flags(bitmap) & BLOCK_BITMAP_INCONSISTENT)
        json_object_array_add(flags, json_object_new_string("in-use"));
    if (block_bitmap_flags(bitmap) & BLOCK_BITMAP_RECORDING)
        json_object_array_add(flags, json_object_new_string("auto"));
    return flags;
}

static void add_bitmaps(const Qcow2 *s, json_object *data)
{
    json_object *list = NULL;

    for (BlockBitmap *b = block_bitmap_next(s->node, NULL); b; b = block_bitmap_next(s->node, b)) {
        json_object *one;

        if (!(block_bitmap_flags(b) & BLOCK_BITMAP_PERSISTENT))
            continue;
        one = json_object_new_object();
        json_object_object_add(one, "flags", bitmap_flags(b));
        json_add_str(one, "name", block_bitmap_name(b));
        json_object_object_add(one, "granularity",
                               json_object_new_int64(block_bitmap_granularity(b)));
        list = list ? list : json_object_new_array();
        json_object_array_add(list, one);
    }
    if (list)
        json_object_object_add(data, "bitmaps", list);
}

static void add_encryption(const Qcow2 *s, json_object *data)
{
    if (s->crypto_info)
        json_object_object_add(data, "encrypt", json_object_get(s->crypto_info));
}

/* In the order in which QEMU's tools print it. */
static void add_version_3(const Qcow2 *s, json_object *data)
{
    const Qcow2Header *h = &s->header;

    json_add_bool(data, "lazy-refcounts", h->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS);
    add_bitmaps(s, data);
    json_object_object_add(data, "refcount-bits", json_object_new_int64(s->refcount_bits));
    if (s->has_data_file && h->data_file)
        json_add_str(data, "data-file", h->data_file);
    if (s->has_data_file)
        json_add_bool(data, "data-file-raw", s->data_file_raw);
    add_encryption(s, data);
    json_add_bool(data, "corrupt", h->incompatible & QCOW2_INCOMPAT_CORRUPT);
    json_add_bool(data, "extended-l2", s->extended_l2);
    if (qcow2_sums_on(s))                  /* our own */
        json_add_bool(data, "checksums", true);
}

static json_object *format_specific(const Qcow2 *s)
{
    json_object *info = json_object_new_object(), *data = json_object_new_object();

    json_add_str(data, "compat", s->header.version == 2 ? "0.10" : "1.1");
    json_add_str(data, "compression-type",
                 s->header.compression_type == QCOW2_COMPRESSION_ZSTD ? "zstd" : "zlib");
    if (s->header.version == 2) {
        json_object_object_add(data, "refcount-bits", json_object_new_int64(s->refcount_bits));
        add_encryption(s, data);
    } else {
        add_version_3(s, data);
    }
    json_add_str(info, "type", "qcow2");
    json_object_object_add(info, "data", data);
    return info;
}

static void add_backing(Qcow2 *s, json_object *info)
{
    BlockNode *backing = qcow2_backing(s);
    const Qcow2Header *h = &s->header;
    g_autofree char *full = NULL;

    if (!h->backing_file)
        return;
    full = block_filename_resolve(h->backing_file, block_node_filename(s->file));
    json_add_str(info, "backing-filename", h->backing_file);
    json_add_str(info, "full-backing-filename", full);
    if (h->backing_format)
        json_add_str(info, "backing-filename-format", h->backing_format);
    if (backing) {
        json_object *image = block_node_image_info(block_node_skip_filters(backing), NULL);

        if (image)
            json_object_object_add(info, "backing-image", image);
    }
}

void qcow2_image_info(BlockNode *node, json_object *info)
{
    Qcow2 *s = qcow2_of(node);

    json_object_object_add(info, "cluster-size", json_object_new_int64(s->cluster_size));
    if (s->header.crypt_method != QCOW2_CRYPT_NONE)
        json_add_bool(info, "encrypted", true);
    json_add_bool(info, "dirty-flag", s->header.incompatible & QCOW2_INCOMPAT_DIRTY);
    add_backing(s, info);
    json_object_object_add(info, "format-specific", format_specific(s));
}

void qcow2_describe(BlockNode *node, json_object *info)
{
    Qcow2 *s = qcow2_of(node);
    int64_t depth = 0;

    for (BlockNode *below = qcow2_backing(s); below; below = block_node_backing(below))
        depth++;
    json_object_object_add(info, "backing_file_depth", json_object_new_int64(depth));
    if (s->header.backing_file) {
        g_autofree char *full = block_filename_resolve(s->header.backing_file,
                                                       block_node_filename(s->file));

        json_add_str(info, "backing_file", full);
    }
}

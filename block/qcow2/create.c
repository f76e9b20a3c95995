/*
 * Creating images.  An image without a disk is written (header, refcount table, one refcount block),
 * opened, and given its size as any other image is.
 */
#include "block/qcow2/image.h"
#include "block/qcow2/check.h"
#include "block/qcow2/checksums.h"
#include "block/qcow2/crypto.h"
#include "block/crypto/luks-options.h"
#include "block/node.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* In the order in which QEMU's tools tell what they make. */
const BlockCreateOption qcow2_create_options[] = {
    { "encrypt.format", BLOCK_CREATE_STRING, NULL, "Encrypt the image, format choices: 'luks'" },
    { "encrypt.key-secret", BLOCK_CREATE_STRING, NULL, "ID of the secret that is the passphrase" },
    LUKS_CREATE_OPTIONS("encrypt."),
    { "cluster_size", BLOCK_CREATE_SIZE, "65536", "qcow2 cluster size" },
    { "extended_l2", BLOCK_CREATE_BOOL, "off", "Extended L2 tables" },
    { "preallocation", BLOCK_CREATE_STRING, NULL,
      "Preallocation mode (allowed values: off, metadata, falloc, full)" },
    { "compression_type", BLOCK_CREATE_STRING, "zlib",
      "Compression method used for image cluster compression" },
    { "size", BLOCK_CREATE_SIZE, NULL, "Virtual disk size", true },
    { "compat", BLOCK_CREATE_STRING, NULL, "Compatibility level (v2 [0.10] or v3 [1.1])", true,
      "version" },
    { "backing_file", BLOCK_CREATE_STRING, NULL, "File name of a base image", true },
    { "backing_fmt", BLOCK_CREATE_STRING, NULL, "Image format of the base image", true },
    { "data_file", BLOCK_CREATE_STRING, NULL, "File name of an external data file" },
    { "data_file_raw", BLOCK_CREATE_BOOL, NULL,
      "The external data file must stay valid as a raw image", true },
    { "lazy_refcounts", BLOCK_CREATE_BOOL, "off", "Postpone refcount updates", true },
    { "refcount_bits", BLOCK_CREATE_NUMBER, "16", "Width of a reference count entry in bits",
      true },
    { "checksums", BLOCK_CREATE_BOOL, NULL, "Checksums of tables; vireo's own", true },
    { NULL }
};

const BlockCreateOption qcow2_amend_options[] = {
    LUKS_AMEND_OPTIONS("encrypt."),
    { NULL }
};

/* Options. */

static const char *const compression_words[] = { "zlib", "zstd", NULL };
static const char *const version_words[] = { "0.10", "1.1", "v2", "v3", NULL };

static bool check_values(const Qcow2Create *c, bool has_backing, GError **error)
{
    uint64_t smallest = c->extended_l2 ? 1 << 14 : 1 << QCOW2_CLUSTER_BITS_MIN;

    if (c->size % 512)
        return fail(error, ERR_INVALID_PARAMETER, "Image size must be a multiple of 512 bytes");
    if (c->size > INT64_MAX)
        return fail(error, ERR_LIMIT, "Image size too large");
    if (!is_power_of_2(c->cluster_size) || c->cluster_size < 1 << QCOW2_CLUSTER_BITS_MIN ||
        c->cluster_size > 1 << QCOW2_CLUSTER_BITS_MAX)
        return fail(error, ERR_INVALID_PARAMETER,
                    "Cluster size must be a power of two between 512 and 2048k");
    if (c->cluster_size < smallest)
        return fail(error, ERR_INVALID_PARAMETER,
                    "Extended L2 entries are only supported with cluster sizes of at least 16384 "
                    "bytes");
    if (!is_power_of_2(c->refcount_bits) || c->refcount_bits > 64)
        return fail(error, ERR_INVALID_PARAMETER,
                    "Refcount width must be a power of two and may not exceed 64 bits");
    if (has_backing && c->preallocation != BLOCK_PREALLOC_OFF && !c->extended_l2)
        return fail(error, ERR_INVALID_PARAMETER, "Backing file and preallocation can only be used "
                    "at the same time if extended_l2 is enabled");
    return true;
}

/* What version 2 does not have. */
static bool check_version(const Qcow2Create *c, GError **error)
{
    const char *what = c->extended_l2          ? "Extended L2 entries are"
                       : c->data_file          ? "External data files are"
                       : c->lazy_refcounts     ? "Lazy refcounts are"
                       : c->checksums          ? "Checksums are"
                       : c->compression_type   ? "Compression types other than zlib are"
                       : c->refcount_bits != 16 ? "Different refcount widths than 16 bits are"
                                               : NULL;

    if (c->version >= 3 || !what)
        return true;
    return fail(error, ERR_INVALID_PARAMETER, "%s only supported with compatibility level 1.1 and "
                "above (use version=v3 or greater)", what);
}

static bool check_data_file(const Qcow2Create *c, GError **error)
{
    if (c->data_file_raw && !c->data_file)
        return fail(error, ERR_INVALID_PARAMETER, "data-file-raw requires data-file");
    if (c->data_file_raw && c->backing_file)
        return fail(error, ERR_INVALID_PARAMETER,
                    "Backing file and data-file-raw cannot be used at the same time");
    return true;
}

bool qcow2_create_parse(json_object *options, Qcow2Create *c, GError **error)
{
    int version = 1, compression = 0;

    *c = (Qcow2Create){ .cluster_size = 65536, .refcount_bits = 16 };
    if (!options_get_size(options, "size", &c->size, error) ||
        !options_get_enum(options, "version", version_words, &version, error) ||
        !options_get_str(options, "backing-file", &c->backing_file, error) ||
        !options_get_str(options, "backing-fmt", &c->backing_format, error) ||
        !options_get_str(options, "data-file", &c->data_file, error) ||
        !options_get_bool(options, "data-file-raw", &c->data_file_raw, error) ||
        !options_get_size(options, "cluster-size", &c->cluster_size, error) ||
        !options_get_enum(options, "preallocation", block_prealloc_words, &c->preallocation,
                          error) ||
        !options_get_bool(options, "lazy-refcounts", &c->lazy_refcounts, error) ||
        !options_get_u64(options, "refcount-bits", &c->refcount_bits, error) ||
        !options_get_enum(options, "compression-type", compression_words, &compression, error) ||
        !options_get_bool(options, "extended-l2", &c->extended_l2, error) ||
        !options_get_bool(options, "checksums", &c->checksums, error))
        return false;
    c->version = 2 + (version & 1);
    c->compression_type = compression;
    json_object_object_get_ex(options, "encrypt", &c->encrypt);
    if (c->backing_format && !c->backing_file)
        return fail(error, ERR_INVALID_PARAMETER,
                    "Backing format cannot be used without backing file");
    return check_values(c, c->backing_file != NULL, error) && check_version(c, error) &&
           check_data_file(c, error);
}

/* The image without a disk: cluster 0 is the header, 1 the refcount table, 2 its first block. */

static void make_header(Qcow2Header *h, const Qcow2Create *c, const BlockNode *data_file)
{
    *h = (Qcow2Header){ .version = c->version, .cluster_bits = g_bit_storage(c->cluster_size) - 1,
                        .refcount_table_offset = c->cluster_size, .refcount_table_clusters = 1,
                        .refcount_order = g_bit_storage(c->refcount_bits) - 1,
                        .compression_type = c->compression_type,
                        .backing_file = g_strdup(c->backing_file),
                        .backing_format = g_strdup(c->backing_format),
                        .extensions = qcow2_extensions_new() };
    if (c->lazy_refcounts)
        h->compatible |= QCOW2_COMPAT_LAZY_REFCOUNTS;
    if (c->compression_type)
        h->incompatible |= QCOW2_INCOMPAT_COMPRESSION;
    if (c->extended_l2)
        h->incompatible |= QCOW2_INCOMPAT_EXTENDED_L2;
    if (!data_file)
        return;
    h->incompatible |= QCOW2_INCOMPAT_DATA_FILE;
    h->data_file = g_strdup(block_node_filename(data_file));
    if (c->data_file_raw)
        h->autoclear |= QCOW2_AUTOCLEAR_DATA_FILE_RAW;
}

/* Until there is a new header, there is none. */
static int co_fn clear_header(Qcow2 *s, GError **error)
{
    uint8_t sector[512] = { 0 };

    if (block_node_size(s->file) < (int64_t)sizeof(sector))
        return 0;
    return qcow2_meta_write(s, 0, sector, sizeof(sector), "header", 0, error);
}

static int co_fn write_refcounts(Qcow2 *s, GError **error)
{
    uint64_t size = s->cluster_size;
    uint8_t *table = qcow2_memory(s, 2 * size);
    int ret;

    if (!table) {
        fail_errno(error, ENOMEM, "making an image");
        return -ENOMEM;
    }
    memset(table, 0, 2 * size);
    st_be64(table, 2 * size);
    for (unsigned i = 0; i < 3; i++)
        qcow2_refcount_write(s, table + size, i, 1);
    ret = qcow2_meta_write(s, size, table, 2 * size, "refcount table", 0, error);
    free(table);
    return ret;
}

static int co_fn write_empty(BlockNode *file, BlockNode *data_file, const Qcow2Create *c,
                             GError **error)
{
    g_autofree Qcow2 *s = g_new0(Qcow2, 1);
    int ret;

    s->file = s->data_file = file;
    co_mutex_init(&s->grow_lock);
    pthread_mutex_init(&s->warn_mutex, NULL);
    make_header(&s->header, c, data_file);
    s->cluster_bits = s->header.cluster_bits;
    s->cluster_size = c->cluster_size;
    s->refcount_bits = c->refcount_bits;
    if (c->checksums)
        qcow2_sums_set_on(s, true);
    ret = clear_header(s, error);
    if (ret == 0)
        ret = write_refcounts(s, error);
    if (ret == 0)
        ret = qcow2_header_write(s, error);
    qcow2_header_clear(&s->header);
    pthread_mutex_destroy(&s->warn_mutex);
    return ret;
}

/* The nodes. */

static BlockNode *co_fn get_node(BlockGraph *graph, json_object *options, const char *key,
                                 GError **error)
{
    json_object *value = json_object_object_get(options, key);
    BlockNode *node;
    const char *name;

    if (json_object_is_type(value, json_type_object))
        return block_node_open_with(graph, value, NULL, error);
    name = json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
    node = name ? block_node_find(graph, name) : NULL;
    if (node) {
        node->refs++;
        return node;
    }
    fail(error, name ? ERR_NOT_FOUND : ERR_MISSING_PARAMETER,
         name ? "Cannot find device='' nor node-name='%s'" : "Parameter '%s' is missing",
         name ? name : key);
    return NULL;
}

/* Anything that is there becomes no part of the image. */
static int co_fn clear_file(BlockNode *file, GError **error)
{
    const BlockDriver *driver = block_driver_find(block_node_driver(file));
    int ret = 0;

    if (driver && driver->grows && block_node_size(file) > 0)
        ret = block_node_co_resize(file, 0, error);
    return ret;
}

static BlockNode *co_fn open_image(BlockGraph *graph, BlockNode *file, BlockNode *data_file,
                                   GError **error)
{
    g_autoptr(json_object) options = json_object_new_object();

    json_object_object_add(options, "driver", json_object_new_string("qcow2"));
    json_object_object_add(options, "file", json_object_new_string(block_node_name(file)));
    if (data_file)
        json_object_object_add(options, "data-file",
                               json_object_new_string(block_node_name(data_file)));
    json_object_object_add(options, "backing", NULL);
    return block_node_open_with(graph, options, NULL, error);
}

/* Raw data must be found where the guest sees it, whether or not it was written. */
static int preallocation_of(const Qcow2Create *c)
{
    return c->data_file_raw && c->preallocation == BLOCK_PREALLOC_OFF ? BLOCK_PREALLOC_METADATA
                                                                      : c->preallocation;
}

/* Of what was written before there was an image. */
static int co_fn take_checksums(BlockNode *image, GError **error)
{
    BlockCheck result = { 0 };

    return qcow2_check(qcow2_of(image), &result, 0, error);
}

static int co_fn give_size(BlockNode *image, const Qcow2Create *c, GError **error)
{
    int ret = c->encrypt ? qcow2_crypto_format(qcow2_of(image), c->encrypt, error) : 0;

    if (ret == 0 && c->checksums)
        ret = take_checksums(image, error);
    if (ret == 0)
        ret = block_node_co_resize(image, c->size, error);
    if (ret == 0 && preallocation_of(c) != BLOCK_PREALLOC_OFF && c->size)
        ret = qcow2_co_preallocate(image, 0, c->size, preallocation_of(c), error);
    if (ret == 0) {
        ret = block_node_co_flush(image);
        if (ret < 0)
            fail_errno(error, -ret, "flushing '%s' failed", block_node_filename(image));
    }
    return ret;
}

static int co_fn create_on(BlockGraph *graph, BlockNode *file, BlockNode *data_file,
                           const Qcow2Create *c, GError **error)
{
    BlockNode *image = NULL;
    BlockUser *user;
    int ret;

    user = block_user_new(file, "image creation", BLOCK_PERM_READ | BLOCK_PERM_WRITE |
                          BLOCK_PERM_RESIZE, 0, error);
    if (!user)
        return -EIO;
    ret = clear_file(file, error);
    if (ret == 0)
        ret = write_empty(file, data_file, c, error);
    block_user_free(user);
    if (ret == 0) {
        image = open_image(graph, file, data_file, error);
        ret = image ? give_size(image, c, error) : -EIO;
    }
    if (image)
        block_node_release(image);
    return ret;
}

int co_fn qcow2_co_create(BlockGraph *graph, json_object *options, GError **error)
{
    BlockNode *file, *data_file = NULL;
    g_autoptr(json_object) rest = NULL;
    Qcow2Create c;
    int ret = -EINVAL;

    /* The data file may be given by its options: then it is no name. */
    json_object_deep_copy(options, &rest, NULL);
    if (json_object_is_type(json_object_object_get(rest, "data-file"), json_type_object))
        json_object_object_add(rest, "data-file", json_object_new_string("given"));
    if (!qcow2_create_parse(rest, &c, error))
        return -EINVAL;
    file = get_node(graph, options, "file", error);
    if (file && c.data_file)
        data_file = get_node(graph, options, "data-file", error);
    if (file && (data_file || !c.data_file))
        ret = create_on(graph, file, data_file, &c, error);
    block_node_put(data_file);
    block_node_put(file);
    return ret;
}

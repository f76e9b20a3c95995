/*
 * luks: an encrypted disk after a LUKS header.  Data is encrypted in sectors of 512 bytes, numbered
 * from the start of the data.
 *
 * Requests go through a buffer of their own: what the guest's memory holds is never ciphertext, and
 * a write leaves it as it is.  Large ones are encrypted by worker threads.
 */
#include "block/crypto/key-secret.h"
#include "block/crypto/luks-amend.h"
#include "block/crypto/luks-options.h"
#include "block/crypto/luks.h"
#include "block/driver.h"
#include "block/image.h"
#include "block/iov.h"
#include "src/base/util.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Up to this, encrypting costs less than handing it to a worker. */
enum { INLINE_MAX = 16384 };
#define CHUNK (1 * MiB)

typedef struct LuksNode {
    BlockNode *file;
    Luks *luks;
    uint64_t payload;                      /* bytes */
} LuksNode;

static const char *const luks_options[] = { "file", "key-secret", "header", "x-header-only", NULL };

/* The header's region, on a node. */

static int co_fn io_read(void *opaque, uint64_t offset, void *data, uint64_t bytes)
{
    struct iovec iov = { data, bytes };

    return block_node_co_read(opaque, offset, &iov, 1, bytes);
}

static int co_fn io_write(void *opaque, uint64_t offset, const void *data, uint64_t bytes)
{
    struct iovec iov = { (void *)data, bytes };
    int ret = block_node_co_write(opaque, offset, &iov, 1, bytes, 0);

    return ret < 0 ? ret : block_node_co_flush(opaque);
}

static LuksIo io_of(BlockNode *file)
{
    return (LuksIo){ io_read, io_write, file, block_node_filename(file) };
}

/* Opening. */

static bool take_options(BlockNode *node, json_object *options, GBytes **ret_secret, GError **error)
{
    g_autoptr(json_object) id = options_take(options, "key-secret");
    bool header_only = false;

    if (!options_get_bool(options, "x-header-only", &header_only, error))
        return false;
    json_object_object_del(options, "x-header-only");
    if (json_object_object_get_ex(options, "header", NULL))
        return fail(error, ERR_UNSUPPORTED, "detached LUKS headers ('header') are not supported");
    if (!id && header_only)
        return true;
    if (!id) {
        fail(error, ERR_MISSING_PARAMETER, "Parameter 'key-secret' is required for cipher");
        return error_hint(error, "-object secret,id=ID,file=PATH and key-secret=ID");
    }
    *ret_secret = block_key_secret(block_node_graph(node), json_object_get_string(id), error);
    return *ret_secret != NULL;
}

static Luks *co_fn open_header(BlockNode *file, GBytes *secret, GError **error)
{
    LuksIo io = io_of(file);
    gsize bytes = 0;
    const uint8_t *passphrase = secret ? g_bytes_get_data(secret, &bytes) : NULL;

    if (secret && !passphrase)
        passphrase = (const uint8_t *)"";
    return luks_open(&io, passphrase, bytes, error);
}

static bool co_fn luks_node_open(BlockNode *node, json_object *options, GError **error)
{
    LuksNode *l = block_node_state(node);
    g_autoptr(GBytes) secret = NULL;

    if (!take_options(node, options, &secret, error))
        return false;
    l->file = block_node_open_child(node, options, "file", true, error);
    if (!l->file)
        return false;
    if (block_node_read_only(l->file) && !block_node_read_only(node))
        block_node_demote(node, EROFS, NULL);
    l->luks = open_header(l->file, secret, error);
    if (!l->luks)
        return false;
    l->payload = luks_payload_offset(l->luks);
    if (l->payload <= (uint64_t)block_node_size(l->file))
        return true;
    fail(error, ERR_CORRUPT, "'%s' ends before its data begins (at %" PRIu64 " bytes)",
         block_node_filename(l->file), l->payload);
    luks_free(l->luks);
    return false;
}

static void luks_node_close(BlockNode *node)
{
    luks_free(((LuksNode *)block_node_state(node))->luks);
}

static int64_t luks_get_size(BlockNode *node)
{
    LuksNode *l = block_node_state(node);
    int64_t size = block_node_size(l->file);

    return size < 0 ? size : MAX(size - (int64_t)l->payload, 0);
}

static void luks_limits(BlockNode *node, BlockLimits *limits)
{
    limits->request_alignment = MAX(limits->request_alignment, CIPHER_SECTOR);
    limits->max_transfer = CHUNK;
    limits->can_discard = false;
    limits->can_write_zeroes = false;
}

/* Requests. */

typedef struct Crypt {
    SectorCipher *cipher;
    bool decrypt;
    uint64_t sector;
    uint8_t *data;
    uint64_t bytes;
} Crypt;

static int crypt_now(void *arg)
{
    Crypt *c = arg;
    bool ok = c->decrypt ? sector_cipher_decrypt(c->cipher, c->sector, c->data, c->bytes)
                         : sector_cipher_encrypt(c->cipher, c->sector, c->data, c->bytes);

    return ok ? 0 : -EIO;
}

static int co_fn crypt_buffer(LuksNode *l, bool decrypt, uint64_t offset, uint8_t *data,
                              uint64_t bytes)
{
    Crypt c = { luks_cipher(l->luks), decrypt, offset / CIPHER_SECTOR, data, bytes };

    return bytes <= INLINE_MAX ? crypt_now(&c) : co_worker_call(crypt_now, &c);
}

static uint8_t *buffer_new(LuksNode *l, uint64_t bytes)
{
    void *data;
    size_t alignment = MAX(block_node_limits(l->file).buffer_alignment, 64);

    return posix_memalign(&data, alignment, bytes) ? NULL : data;
}

static int co_fn luks_co_read(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                              uint64_t bytes)
{
    LuksNode *l = block_node_state(node);
    uint8_t *data;
    struct iovec part;
    int ret;

    if (!luks_cipher(l->luks))
        return -EPERM;                     /* opened for its header only */
    data = buffer_new(l, bytes);
    if (!data)
        return -ENOMEM;
    part = (struct iovec){ data, bytes };
    ret = block_node_co_read(l->file, l->payload + offset, &part, 1, bytes);
    if (ret == 0)
        ret = crypt_buffer(l, true, offset, data, bytes);
    if (ret == 0)
        iov_from_buffer(iov, iovcnt, 0, data, bytes);
    free(data);
    return ret;
}

static int co_fn luks_co_write(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                               uint64_t bytes, unsigned flags)
{
    LuksNode *l = block_node_state(node);
    uint8_t *data;
    struct iovec part;
    int ret;

    if (!luks_cipher(l->luks))
        return -EPERM;
    data = buffer_new(l, bytes);
    if (!data)
        return -ENOMEM;
    part = (struct iovec){ data, bytes };
    iov_to_buffer(iov, iovcnt, 0, data, bytes);
    ret = crypt_buffer(l, false, offset, data, bytes);
    if (ret == 0)
        ret = block_node_co_write(l->file, l->payload + offset, &part, 1, bytes, flags);
    free(data);
    return ret;
}

static int co_fn luks_co_flush(BlockNode *node)
{
    return block_node_co_flush(((LuksNode *)block_node_state(node))->file);
}

static int co_fn luks_co_resize(BlockNode *node, uint64_t bytes, GError **error)
{
    LuksNode *l = block_node_state(node);

    if (bytes > INT64_MAX - l->payload) {
        fail(error, ERR_LIMIT, "The requested file size is too large");
        return -EFBIG;
    }
    return block_node_co_resize(l->file, l->payload + bytes, error);
}

static void luks_child_changed(BlockNode *node, const char *key)
{
    ((LuksNode *)block_node_state(node))->file = block_node_child(node, "file");
}

static void luks_image_info(BlockNode *node, json_object *info)
{
    LuksNode *l = block_node_state(node);
    json_object *specific = json_object_new_object();

    json_object_object_add(info, "encrypted", json_object_new_boolean(true));
    json_object_object_add(specific, "type", json_object_new_string("luks"));
    json_object_object_add(specific, "data", luks_info(l->luks));
    json_object_object_add(info, "format-specific", specific);
}

/* Creating. */

static const BlockCreateOption luks_create_options[] = {
    { "size", BLOCK_CREATE_SIZE, NULL, "Virtual disk size" },
    { "key-secret", BLOCK_CREATE_STRING, NULL, "ID of the secret that provides the keyslot key" },
    LUKS_CREATE_OPTIONS(""),
    { "preallocation", BLOCK_CREATE_STRING, NULL,
      "Preallocation mode (allowed values: off, metadata, falloc, full)" },
    { NULL }
};

static const BlockCreateOption luks_amend_options[] = {
    LUKS_AMEND_OPTIONS(""),
    { NULL }
};

static int co_fn luks_co_amend(BlockNode *node, json_object *options, bool force, GError **error)
{
    LuksNode *l = block_node_state(node);
    LuksIo io = io_of(l->file);

    return luks_amend(l->luks, &io, block_node_graph(node), options, force, error);
}

typedef struct Creation {
    BlockNode *file;
    LuksFormat format;
    uint64_t size, payload;
    int preallocation;
    GBytes *secret;
} Creation;

static bool parse_creation(BlockGraph *graph, json_object *options, Creation *c, GError **error)
{
    const char *file = NULL, *secret = NULL;

    if (!options_get_str(options, "file", &file, error) ||
        !options_get_str(options, "key-secret", &secret, error) ||
        !options_get_size(options, "size", &c->size, error) ||
        !options_get_enum(options, "preallocation", block_prealloc_words, &c->preallocation, error) ||
        !luks_format_parse(options, &c->format, error) ||
        !luks_format_payload_offset(&c->format, &c->payload, error))
        return false;
    c->file = file ? block_node_find(graph, file) : NULL;
    if (!c->file)
        return fail(error, ERR_NOT_FOUND, "luks: 'file' must be the name of a node");
    if (c->size > INT64_MAX - c->payload)
        return fail(error, ERR_LIMIT, "The requested file size is too large");
    if (!secret)
        return fail(error, ERR_MISSING_PARAMETER, "Parameter 'key-secret' is required for cipher");
    c->secret = block_key_secret(graph, secret, error);
    return c->secret != NULL;
}

static int co_fn create(Creation *c, GError **error)
{
    LuksIo io = io_of(c->file);
    gsize bytes;
    const uint8_t *passphrase = g_bytes_get_data(c->secret, &bytes);
    int ret = block_node_co_resize(c->file, c->payload + c->size, error);

    if (ret == 0 && c->preallocation > BLOCK_PREALLOC_METADATA)
        ret = block_co_preallocate(c->file, c->payload, c->size, c->preallocation, error);
    if (ret == 0)
        ret = luks_format(&io, &c->format, passphrase, bytes, error);
    return ret;
}

static int co_fn luks_co_create(BlockGraph *graph, json_object *options, GError **error)
{
    Creation c = { .preallocation = BLOCK_PREALLOC_OFF };
    BlockUser *user = NULL;
    int ret = -EINVAL;

    if (parse_creation(graph, options, &c, error))
        user = block_user_new(c.file, "creation of a LUKS image",
                              BLOCK_PERM_READ | BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE, 0, error);
    if (user) {
        ret = create(&c, error);
        block_user_free(user);
    }
    if (c.secret)
        g_bytes_unref(c.secret);
    return ret;
}

static int co_fn luks_co_measure(json_object *options, BlockNode *source, BlockMeasure *measure,
                                 GError **error)
{
    LuksFormat format;
    uint64_t size = 0, payload;

    json_object_object_del(options, "key-secret");
    if (!options_get_size(options, "size", &size, error) ||
        !luks_format_parse(options, &format, error) ||
        !luks_format_payload_offset(&format, &payload, error))
        return -EINVAL;
    if (source)
        size = block_node_size(source);
    measure->required = measure->fully_allocated = payload + ALIGN_UP(size, CIPHER_SECTOR);
    return 0;
}

static const BlockImageVerbs luks_image_verbs = {
    .create_options = luks_create_options,
    .amend_options = luks_amend_options,
    .co_create = luks_co_create,
    .co_amend = luks_co_amend,
    .co_measure = luks_co_measure,
};

static const BlockDriver luks_driver = {
    .name = "luks",
    .help = "an encrypted disk with a LUKS version 1 header",
    .size = sizeof(LuksNode),
    .options = luks_options,
    .is_format = true,
    .open = luks_node_open,
    .close = luks_node_close,
    .get_size = luks_get_size,
    .limits = luks_limits,
    .write_flags = BLOCK_FUA,
    .co_read = luks_co_read,
    .co_write = luks_co_write,
    .co_flush = luks_co_flush,
    .co_resize = luks_co_resize,
    .image_info = luks_image_info,
    .child_changed = luks_child_changed,
    .image = &luks_image_verbs,
};
BLOCK_DRIVER(luks_driver)

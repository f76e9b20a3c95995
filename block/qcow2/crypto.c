/* Opening and making encrypted images: fills in the hook on the data path (qcow2.h). */
#include "block/qcow2/crypto.h"
#include "block/crypto/key-secret.h"
#include "block/crypto/luks-amend.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum { EXTENSION_BYTES = 16, AES_KEY_BYTES = 16 };

/* The hook. */

typedef struct Keys {
    Luks *luks;                            /* NULL: the old method */
    SectorCipher *cipher;                  /* luks's, or our own */
} Keys;

static int encrypt_data(void *opaque, uint64_t offset, uint8_t *data, size_t bytes)
{
    Keys *keys = opaque;

    return sector_cipher_encrypt(keys->cipher, offset / CIPHER_SECTOR, data, bytes) ? 0 : -EIO;
}

static int decrypt_data(void *opaque, uint64_t offset, uint8_t *data, size_t bytes)
{
    Keys *keys = opaque;

    return sector_cipher_decrypt(keys->cipher, offset / CIPHER_SECTOR, data, bytes) ? 0 : -EIO;
}

static int refuse_data(void *opaque, uint64_t offset, uint8_t *data, size_t bytes)
{
    return -EPERM;
}

static void free_keys(void *opaque)
{
    Keys *keys = opaque;

    if (!keys->luks)
        sector_cipher_free(keys->cipher);
    luks_free(keys->luks);
    g_free(keys);
}

/* @keys is taken over. */
static void set_hook(Qcow2 *s, Keys *keys)
{
    s->crypto = (Qcow2Crypto){ .encrypt = keys->cipher ? encrypt_data : refuse_data,
                               .decrypt = keys->cipher ? decrypt_data : refuse_data,
                               .free = free_keys, .opaque = keys, .by_guest_offset = !keys->luks };
    s->crypto_info = keys->luks ? luks_info(keys->luks) : json_object_new_object();
    json_object_object_add(s->crypto_info, "format",
                           json_object_new_string(keys->luks ? "luks" : "aes"));
}

/* The LUKS header's region of the file. */

typedef struct Region {
    Qcow2 *s;
    uint64_t offset, bytes;
} Region;

static bool is_inside(const Region *region, uint64_t offset, uint64_t bytes)
{
    return offset <= region->bytes && bytes <= region->bytes - offset;
}

static int co_fn region_read(void *opaque, uint64_t offset, void *data, uint64_t bytes)
{
    Region *region = opaque;

    if (!is_inside(region, offset, bytes))
        return -EINVAL;
    return qcow2_meta_read(region->s, region->offset + offset, data, bytes, "LUKS header", NULL);
}

static int co_fn region_write(void *opaque, uint64_t offset, const void *data, uint64_t bytes)
{
    Region *region = opaque;
    int ret;

    if (!is_inside(region, offset, bytes))
        return -EINVAL;
    ret = qcow2_meta_write(region->s, region->offset + offset, data, bytes, "LUKS header", 0, NULL);
    return ret == 0 ? qcow2_flush_file(region->s, NULL) : ret;
}

static LuksIo io_of(Region *region)
{
    return (LuksIo){ region_read, region_write, region, block_node_filename(region->s->file) };
}

static bool find_region(Qcow2 *s, Region *region, GError **error)
{
    const Qcow2Extension *extension = qcow2_extension(s, QCOW2_EXT_CRYPTO);

    if (!extension)
        return fail(error, ERR_CORRUPT, "'%s' is encrypted with LUKS and has no pointer to its header",
                    block_node_filename(s->file));
    if (extension->length != EXTENSION_BYTES)
        return fail(error, ERR_CORRUPT, "CRYPTO header extension size %" PRIu32 ", but expected size "
                    "%d", extension->length, EXTENSION_BYTES);
    *region = (Region){ s, ld_be64(extension->data), ld_be64(extension->data + 8) };
    if (qcow2_offset_in_cluster(s, region->offset))
        return fail(error, ERR_CORRUPT, "Encryption header offset '%" PRIu64 "' is not a multiple of "
                    "cluster size '%" PRIu64 "'", region->offset, s->cluster_size);
    return true;
}

/* Options. */

typedef struct EncryptOptions {
    const char *format, *secret;           /* of the options' object; NULL: not given */
} EncryptOptions;

static bool parse_options(json_object *encrypt, EncryptOptions *o, GError **error)
{
    if (!json_object_is_type(encrypt, json_type_object))
        return fail(error, ERR_WRONG_TYPE, "'encrypt' must be an object with 'format' and 'key-secret'");
    return options_get_str(encrypt, "format", &o->format, error) &&
           options_get_str(encrypt, "key-secret", &o->secret, error);
}

static GBytes *find_secret(Qcow2 *s, const EncryptOptions *o, GError **error)
{
    if (o->secret)
        return block_key_secret(block_node_graph(s->node), o->secret, error);
    fail(error, ERR_MISSING_PARAMETER, "Parameter 'encrypt.key-secret' is required for cipher");
    error_hint(error, "-object secret,id=ID,file=PATH and encrypt.key-secret=ID");
    return NULL;
}

/* Opening. */

static bool co_fn open_luks(Qcow2 *s, Keys *keys, GBytes *secret, GError **error)
{
    gsize bytes = 0;
    const uint8_t *passphrase = secret ? g_bytes_get_data(secret, &bytes) : NULL;
    Region region;
    LuksIo io;

    if (!find_region(s, &region, error))
        return false;
    io = io_of(&region);
    keys->luks = luks_open(&io, secret && !passphrase ? (const uint8_t *)"" : passphrase, bytes, error);
    keys->cipher = keys->luks ? luks_cipher(keys->luks) : NULL;
    return keys->luks != NULL;
}

/* The passphrase is the key, as far as it goes. */
static bool open_aes(Keys *keys, GBytes *secret, GError **error)
{
    static const CipherSpec spec = { "aes", "cbc-plain64" };
    uint8_t key[AES_KEY_BYTES] = { 0 };
    gsize bytes;
    const void *passphrase;

    if (!secret)
        return true;
    passphrase = g_bytes_get_data(secret, &bytes);
    if (passphrase)
        memcpy(key, passphrase, MIN(bytes, sizeof(key)));
    keys->cipher = sector_cipher_new(&spec, key, sizeof(key), error);
    explicit_bzero(key, sizeof(key));
    return keys->cipher != NULL;
}

static bool co_fn open_encrypted(Qcow2 *s, const EncryptOptions *o, bool header_only, GError **error)
{
    const char *format = s->header.crypt_method == QCOW2_CRYPT_LUKS ? "luks" : "aes";
    g_autoptr(GBytes) secret = NULL;
    Keys *keys;
    bool ok;

    if (o->format && strcmp(o->format, format))
        return fail(error, ERR_INVALID_PARAMETER, "Header reported '%s' encryption format but options "
                    "specify '%s'", format, o->format);
    if (o->secret || !header_only) {
        secret = find_secret(s, o, error);
        if (!secret)
            return false;
    }
    keys = g_new0(Keys, 1);
    ok = s->header.crypt_method == QCOW2_CRYPT_LUKS ? open_luks(s, keys, secret, error)
                                                    : open_aes(keys, secret, error);
    if (ok)
        set_hook(s, keys);
    else
        free_keys(keys);
    return ok;
}

bool co_fn qcow2_crypto_open(Qcow2 *s, json_object *options, bool header_only, GError **error)
{
    static const char *const known[] = { "format", "key-secret", NULL };
    g_autoptr(json_object) encrypt = options_take(options, "encrypt");
    EncryptOptions o = { 0 };

    if (s->header.crypt_method == QCOW2_CRYPT_NONE)
        return !encrypt || fail(error, ERR_INVALID_PARAMETER, "No encryption in image header, but "
                                "options specified format");
    if (!encrypt)
        return open_encrypted(s, &o, header_only, error);
    if (!parse_options(encrypt, &o, error) || !open_encrypted(s, &o, header_only, error))
        return false;
    for (unsigned i = 0; known[i]; i++)
        json_object_object_del(encrypt, known[i]);
    return options_check_empty(encrypt, "'encrypt'", known, error);
}

/* Making. */

static bool parse_format(json_object *encrypt, LuksFormat *format, EncryptOptions *o, GError **error)
{
    static const char *const known[] = { "format", "key-secret", "cipher-alg", "cipher-mode",
                                         "ivgen-alg", "ivgen-hash-alg", "hash-alg", "iter-time",
                                         NULL };

    if (!parse_options(encrypt, o, error))
        return false;
    if (!o->format)
        return fail(error, ERR_MISSING_PARAMETER, "'encrypt' needs 'format'");
    if (strcmp(o->format, "luks")) {
        fail(error, ERR_UNSUPPORTED, "images with the encryption format '%s' are not made", o->format);
        return error_hint(error, "use encrypt.format=luks");
    }
    json_object_object_foreach(encrypt, key, value)
    {
        (void)value;
        if (!g_strv_contains(known, key))
            return fail(error, ERR_UNKNOWN_PARAMETER, "Invalid parameter 'encrypt.%s'", key);
    }
    return luks_format_parse(encrypt, format, error);
}

/* luks_format_parse takes members out: it works on a copy. */
static json_object *copy_of(json_object *encrypt)
{
    json_object *copy = NULL;

    json_object_deep_copy(encrypt, &copy, NULL);
    return copy;
}

bool qcow2_crypto_header_bytes(json_object *encrypt, uint64_t *ret, GError **error)
{
    g_autoptr(json_object) copy = copy_of(encrypt);
    EncryptOptions o = { 0 };
    LuksFormat format;

    return parse_format(copy, &format, &o, error) && luks_format_payload_offset(&format, ret, error);
}

static int co_fn name_region(Qcow2 *s, const Region *region, GError **error)
{
    uint8_t data[EXTENSION_BYTES];
    int ret = qcow2_write_refcounts(s);

    if (ret < 0) {
        fail_errno(error, -ret, "writing the refcounts of '%s' failed", block_node_filename(s->file));
        return ret;
    }
    st_be64(data, region->offset);
    st_be64(data + 8, region->bytes);
    qcow2_extension_set(s, QCOW2_EXT_CRYPTO, data, sizeof(data));
    s->header.crypt_method = QCOW2_CRYPT_LUKS;
    ret = qcow2_header_write(s, error);
    return ret == 0 ? qcow2_flush_file(s, error) : ret;
}

static int co_fn format_region(Qcow2 *s, const LuksFormat *format, GBytes *secret, GError **error)
{
    Region region = { s, 0, 0 };
    LuksIo io = io_of(&region);
    gsize bytes;
    const uint8_t *passphrase = g_bytes_get_data(secret, &bytes);
    int64_t offset;
    int ret;

    if (!luks_format_payload_offset(format, &region.bytes, error))
        return -EINVAL;
    offset = qcow2_alloc_clusters(s, qcow2_clusters(s, region.bytes), error);
    if (offset < 0)
        return offset;
    region.offset = offset;
    /* Slots that are free are read by nobody, but their place must be in the file. */
    ret = qcow2_host_zero(s, s->file, region.offset, region.bytes);
    if (ret < 0)
        fail_errno(error, -ret, "writing the LUKS header of '%s' failed", io.name);
    else
        ret = luks_format(&io, format, passphrase ? passphrase : (const uint8_t *)"", bytes, error);
    return ret == 0 ? name_region(s, &region, error) : ret;
}

int co_fn qcow2_crypto_format(Qcow2 *s, json_object *encrypt, GError **error)
{
    g_autoptr(json_object) copy = copy_of(encrypt);
    g_autoptr(GBytes) secret = NULL;
    EncryptOptions o = { 0 };
    LuksFormat format;
    int ret;

    if (!parse_format(copy, &format, &o, error))
        return -EINVAL;
    secret = find_secret(s, &o, error);
    if (!secret)
        return -EINVAL;
    ret = format_region(s, &format, secret, error);
    return ret == 0 && !open_encrypted(s, &o, false, error) ? -EINVAL : ret;
}

/* Changing the keys. */

static int co_fn amend_slots(Qcow2 *s, json_object *encrypt, bool force, GError **error)
{
    Keys *keys = s->crypto.opaque;
    Region region;
    LuksIo io;
    int ret;

    if (s->header.crypt_method != QCOW2_CRYPT_LUKS || !keys) {
        fail(error, ERR_UNSUPPORTED, "Only LUKS encryption options can be amended, and '%s' is not "
             "encrypted with LUKS", block_node_filename(s->node));
        return -ENOTSUP;
    }
    if (!find_region(s, &region, error))
        return -EINVAL;
    io = io_of(&region);
    ret = luks_amend(keys->luks, &io, block_node_graph(s->node), encrypt, force, error);
    json_object_put(s->crypto_info);
    s->crypto_info = luks_info(keys->luks);
    json_object_object_add(s->crypto_info, "format", json_object_new_string("luks"));
    return ret;
}

int co_fn qcow2_crypto_amend(Qcow2 *s, json_object *encrypt, bool force, GError **error)
{
    g_autoptr(json_object) slots = copy_of(encrypt);
    EncryptOptions o = { 0 };
    int ret = qcow2_may_write(s);

    if (ret < 0) {
        fail_errno(error, -ret, "'%s' cannot be written", block_node_filename(s->node));
        return ret;
    }
    if (!parse_options(slots, &o, error))
        return -EINVAL;
    if (o.format && strcmp(o.format, "luks")) {
        fail(error, ERR_UNSUPPORTED, "Amend can't be used to change the qcow2 encryption format");
        return -ENOTSUP;
    }
    json_object_object_del(slots, "format");
    return amend_slots(s, slots, force, error);
}

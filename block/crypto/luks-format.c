/* A new LUKS header: which cipher, where the slots lie, a new key. */
#include "block/crypto/luks-int.h"
#include <errno.h>
#include <gcrypt.h>
#include <string.h>
#include "src/base/options.h"
#include "src/base/util.h"

/* Slots start at multiples of this, as does the data. */
enum { ALIGNMENT = 4096, ITER_TIME_DEFAULT_MS = 2000, DIGEST_SHARE = 8 };

static const struct {
    const char *option, *name;
    unsigned key_bytes;
} ciphers[] = {
    { "aes-128", "aes", 16 },         { "aes-192", "aes", 24 },         { "aes-256", "aes", 32 },
    { "serpent-128", "serpent", 16 }, { "serpent-192", "serpent", 24 }, { "serpent-256", "serpent", 32 },
    { "twofish-128", "twofish", 16 }, { "twofish-256", "twofish", 32 }, { "cast5-128", "cast5", 16 },
};

static bool take_word(json_object *options, const char *key, const char *fallback,
                      const char *const *words, const char **ret, GError **error)
{
    int index = -1;

    if (!options_get_enum(options, key, words, &index, error))
        return false;
    json_object_object_del(options, key);
    *ret = index < 0 ? fallback : words[index];
    return true;
}

bool luks_format_parse(json_object *options, LuksFormat *format, GError **error)
{
    static const char *const algs[] = { "aes-128", "aes-192", "aes-256", "serpent-128", "serpent-192",
                                        "serpent-256", "twofish-128", "twofish-256", "cast5-128",
                                        NULL };
    static const char *const modes[] = { "cbc", "xts", NULL };
    static const char *const ivs[] = { "plain", "plain64", "essiv", NULL };
    static const char *const hashes[] = { "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160",
                                          NULL };
    uint64_t ms = ITER_TIME_DEFAULT_MS;

    if (!take_word(options, "cipher-alg", "aes-256", algs, &format->cipher_alg, error) ||
        !take_word(options, "cipher-mode", "xts", modes, &format->cipher_mode, error) ||
        !take_word(options, "ivgen-alg", "plain64", ivs, &format->ivgen_alg, error) ||
        !take_word(options, "ivgen-hash-alg", NULL, hashes, &format->ivgen_hash_alg, error) ||
        !take_word(options, "hash-alg", "sha256", hashes, &format->hash_alg, error) ||
        !options_get_u64(options, "iter-time", &ms, error))
        return false;
    json_object_object_del(options, "iter-time");
    if (!ms || ms > UINT32_MAX)
        return fail(error, ERR_INVALID_PARAMETER, "iter-time must be between 1 and %u ms", UINT32_MAX);
    format->iter_time_ms = ms;
    if (format->ivgen_hash_alg && strcmp(format->ivgen_alg, "essiv"))
        return fail(error, ERR_INVALID_PARAMETER, "ivgen-hash-alg is for ivgen-alg=essiv only");
    return true;
}

static bool choose_cipher(const LuksFormat *format, LuksHeader *header, GError **error)
{
    bool essiv = !strcmp(format->ivgen_alg, "essiv");

    for (unsigned i = 0; i < G_N_ELEMENTS(ciphers); i++) {
        if (strcmp(ciphers[i].option, format->cipher_alg))
            continue;
        g_strlcpy(header->cipher.name, ciphers[i].name, sizeof(header->cipher.name));
        header->key_bytes = ciphers[i].key_bytes * (strcmp(format->cipher_mode, "xts") ? 1 : 2);
    }
    g_snprintf(header->cipher.mode, sizeof(header->cipher.mode), "%s-%s%s%s", format->cipher_mode,
               format->ivgen_alg, essiv ? ":" : "",
               essiv ? format->ivgen_hash_alg ? format->ivgen_hash_alg : "sha256" : "");
    g_strlcpy(header->hash, format->hash_alg, sizeof(header->hash));
    return header->key_bytes || fail(error, ERR_UNSUPPORTED, "the cipher '%s' is not supported",
                                     format->cipher_alg);
}

static void place_slots(LuksHeader *header)
{
    uint64_t at = ALIGNMENT, step;

    for (int i = 0; i < LUKS_SLOTS; i++) {
        header->slots[i].active = LUKS_SLOT_FREE;
        header->slots[i].stripes = LUKS_STRIPES;
        header->slots[i].material = at / CIPHER_SECTOR;
        step = ALIGN_UP(luks_material_bytes(header, &header->slots[i]), ALIGNMENT);
        at += step;
    }
    header->payload = at / CIPHER_SECTOR;
}

bool luks_format_payload_offset(const LuksFormat *format, uint64_t *ret, GError **error)
{
    LuksHeader header = { 0 };

    if (!choose_cipher(format, &header, error))
        return false;
    place_slots(&header);
    *ret = (uint64_t)header.payload * CIPHER_SECTOR;
    return true;
}

typedef struct Digest {
    Luks *luks;
    uint64_t ms;
} Digest;

/* In a worker thread.  The key is random, so that its digest needs less work than a passphrase's. */
static int make_digest(void *arg)
{
    Digest *digest = arg;
    LuksHeader *header = &digest->luks->header;

    header->digest_iterations = luks_iterations(header->hash, LUKS_DIGEST,
                                                MAX(digest->ms / DIGEST_SHARE, 1));
    return luks_derive(header->hash, digest->luks->key, header->key_bytes, header->digest_salt,
                       header->digest_iterations, header->digest, LUKS_DIGEST) ? 0 : -ENOTSUP;
}

int co_fn luks_format(const LuksIo *io, const LuksFormat *format, const uint8_t *passphrase,
                      size_t bytes, GError **error)
{
    Luks *luks = g_new0(Luks, 1);
    Digest digest = { luks, format->iter_time_ms };
    g_autofree char *uuid = g_uuid_string_random();
    int ret = -EINVAL;

    if (!cipher_library_ready(error) || !choose_cipher(format, &luks->header, error))
        goto out;
    place_slots(&luks->header);
    g_strlcpy(luks->header.uuid, uuid, sizeof(luks->header.uuid));
    gcry_randomize(luks->key, luks->header.key_bytes, GCRY_VERY_STRONG_RANDOM);
    gcry_randomize(luks->header.digest_salt, LUKS_SALT, GCRY_STRONG_RANDOM);
    /* Refuses what the library lacks before anything is written. */
    luks->cipher = sector_cipher_new(&luks->header.cipher, luks->key, luks->header.key_bytes, error);
    if (!luks->cipher)
        goto out;
    ret = co_worker_call(make_digest, &digest);
    if (ret < 0)
        fail(error, ERR_UNSUPPORTED, "libgcrypt has no hash '%s'", luks->header.hash);
    else
        ret = luks_add_slot(luks, io, 0, passphrase, bytes, format->iter_time_ms, error);
out:
    luks_free(luks);
    return ret;
}

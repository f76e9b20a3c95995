/*
 * Sector ciphers on libgcrypt.  Its handles serve one thread at a time, so there is a stock of them,
 * as many as were ever needed at once.
 */
#include "block/crypto/cipher.h"
#include <gcrypt.h>
#include <pthread.h>
#include <string.h>
#include "src/base/sanitizer.h"
#include "src/base/util.h"

#ifdef WITH_ASAN
/* libgcrypt keeps its random pool's memory behind pointers in locked pages, where LeakSanitizer does not
 * look. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libgcrypt.so";
}
#endif

typedef enum IvKind { IV_PLAIN, IV_PLAIN64, IV_ESSIV } IvKind;

typedef struct Handle {
    gcry_cipher_hd_t data, essiv;          /* essiv: only with IV_ESSIV */
    struct Handle *next;
} Handle;

struct SectorCipher {
    int algorithm, mode, essiv_algorithm;
    IvKind iv;
    uint8_t *key, essiv_key[64];
    size_t key_bytes, essiv_key_bytes, block_bytes;
    pthread_mutex_t lock;
    Handle *free;                          /* lock */
};

bool cipher_library_ready(GError **error)
{
    static gsize once;

    if (g_once_init_enter(&once)) {
        gsize ready = 1;

        if (!gcry_control(GCRYCTL_INITIALIZATION_FINISHED_P)) {
            ready = gcry_check_version("1.8.0") ? 1 : 2;
            gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
        }
        g_once_init_leave(&once, ready);
    }
    return once == 1 || fail(error, ERR_UNSUPPORTED, "libgcrypt is too old: 1.8 is needed");
}

int cipher_hash_find(const char *name)
{
    return gcry_md_map_name(name);
}

/* What the words mean. */

static int algorithm_of(const char *name, size_t key_bytes)
{
    static const struct {
        const char *name;
        size_t key_bytes;
        int algorithm;
    } all[] = {
        { "aes", 16, GCRY_CIPHER_AES128 },         { "aes", 24, GCRY_CIPHER_AES192 },
        { "aes", 32, GCRY_CIPHER_AES256 },         { "serpent", 16, GCRY_CIPHER_SERPENT128 },
        { "serpent", 24, GCRY_CIPHER_SERPENT192 }, { "serpent", 32, GCRY_CIPHER_SERPENT256 },
        { "twofish", 16, GCRY_CIPHER_TWOFISH128 }, { "twofish", 32, GCRY_CIPHER_TWOFISH },
        { "cast5", 16, GCRY_CIPHER_CAST5 },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(all); i++)
        if (!strcmp(all[i].name, name) && all[i].key_bytes == key_bytes)
            return all[i].algorithm;
    return 0;
}

static bool parse_mode(SectorCipher *cipher, const CipherSpec *spec, GError **error)
{
    g_auto(GStrv) words = g_strsplit(spec->mode, "-", 2);
    const char *chain = words[0] ? words[0] : "", *iv = words[0] && words[1] ? words[1] : "";

    if (!strcmp(chain, "xts"))
        cipher->mode = GCRY_CIPHER_MODE_XTS;
    else if (!strcmp(chain, "cbc"))
        cipher->mode = GCRY_CIPHER_MODE_CBC;
    else
        return fail(error, ERR_UNSUPPORTED, "the cipher mode '%s' is not supported", spec->mode);
    if (!strcmp(iv, "plain64")) {
        cipher->iv = IV_PLAIN64;
    } else if (!strcmp(iv, "plain")) {
        cipher->iv = IV_PLAIN;
    } else if (g_str_has_prefix(iv, "essiv:")) {
        cipher->iv = IV_ESSIV;
        cipher->essiv_algorithm = cipher_hash_find(iv + strlen("essiv:"));
    }
    if (!*iv || (cipher->iv == IV_ESSIV && !cipher->essiv_algorithm) ||
        (cipher->iv == IV_PLAIN && strcmp(iv, "plain")))
        return fail(error, ERR_UNSUPPORTED, "the cipher mode '%s' is not supported", spec->mode);
    return true;
}

/* ESSIV's own key is the hash of the key; its cipher has that length. */
static bool set_essiv(SectorCipher *cipher, const CipherSpec *spec, GError **error)
{
    int hash = cipher->essiv_algorithm;

    if (cipher->iv != IV_ESSIV)
        return true;
    cipher->essiv_key_bytes = gcry_md_get_algo_dlen(hash);
    cipher->essiv_algorithm = algorithm_of(spec->name, cipher->essiv_key_bytes);
    if (!cipher->essiv_algorithm || cipher->essiv_key_bytes > sizeof(cipher->essiv_key))
        return fail(error, ERR_UNSUPPORTED, "the cipher '%s' has no keys as long as the hash in '%s'",
                    spec->name, spec->mode);
    gcry_md_hash_buffer(hash, cipher->essiv_key, cipher->key, cipher->key_bytes);
    return true;
}

static void handle_free(Handle *handle)
{
    gcry_cipher_close(handle->data);
    gcry_cipher_close(handle->essiv);
    g_free(handle);
}

static Handle *handle_new(const SectorCipher *cipher, GError **error)
{
    Handle *handle = g_new0(Handle, 1);
    gcry_error_t err = gcry_cipher_open(&handle->data, cipher->algorithm, cipher->mode, 0);

    if (!err)
        err = gcry_cipher_setkey(handle->data, cipher->key, cipher->key_bytes);
    if (!err && cipher->iv == IV_ESSIV)
        err = gcry_cipher_open(&handle->essiv, cipher->essiv_algorithm, GCRY_CIPHER_MODE_ECB, 0);
    if (!err && cipher->iv == IV_ESSIV)
        err = gcry_cipher_setkey(handle->essiv, cipher->essiv_key, cipher->essiv_key_bytes);
    if (!err)
        return handle;
    fail(error, ERR_UNSUPPORTED, "libgcrypt: %s", gcry_strerror(err));
    handle_free(handle);
    return NULL;
}

SectorCipher *sector_cipher_new(const CipherSpec *spec, const uint8_t *key, size_t key_bytes,
                                GError **error)
{
    SectorCipher *cipher;

    if (!cipher_library_ready(error))
        return NULL;
    cipher = g_new0(SectorCipher, 1);
    pthread_mutex_init(&cipher->lock, NULL);
    cipher->key = g_memdup2(key, key_bytes);
    cipher->key_bytes = key_bytes;
    if (!parse_mode(cipher, spec, error))
        goto fail;
    cipher->algorithm = algorithm_of(spec->name, cipher->mode == GCRY_CIPHER_MODE_XTS
                                                     ? key_bytes / 2 : key_bytes);
    if (!cipher->algorithm) {
        fail(error, ERR_UNSUPPORTED, "the cipher '%s' with a key of %zu bits in mode '%s' is not "
             "supported", spec->name, key_bytes * 8, spec->mode);
        goto fail;
    }
    cipher->block_bytes = gcry_cipher_get_algo_blklen(cipher->algorithm);
    if (!set_essiv(cipher, spec, error))
        goto fail;
    cipher->free = handle_new(cipher, error);
    if (cipher->free)
        return cipher;
fail:
    sector_cipher_free(cipher);
    return NULL;
}

void sector_cipher_free(SectorCipher *cipher)
{
    if (!cipher)
        return;
    while (cipher->free) {
        Handle *next = cipher->free->next;

        handle_free(cipher->free);
        cipher->free = next;
    }
    explicit_bzero(cipher->key, cipher->key_bytes);
    explicit_bzero(cipher->essiv_key, sizeof(cipher->essiv_key));
    pthread_mutex_destroy(&cipher->lock);
    g_free(cipher->key);
    g_free(cipher);
}

/* Work. */

static Handle *take(SectorCipher *cipher)
{
    Handle *handle;

    pthread_mutex_lock(&cipher->lock);
    handle = cipher->free;
    if (handle)
        cipher->free = handle->next;
    pthread_mutex_unlock(&cipher->lock);
    return handle ? handle : handle_new(cipher, NULL);
}

static void give_back(SectorCipher *cipher, Handle *handle)
{
    pthread_mutex_lock(&cipher->lock);
    handle->next = cipher->free;
    cipher->free = handle;
    pthread_mutex_unlock(&cipher->lock);
}

static bool set_iv(const SectorCipher *cipher, Handle *handle, uint64_t sector)
{
    uint8_t iv[16] = { 0 };

    if (cipher->iv == IV_PLAIN)
        st_le32(iv, sector);
    else
        st_le64(iv, sector);
    if (cipher->iv == IV_ESSIV &&
        gcry_cipher_encrypt(handle->essiv, iv, cipher->block_bytes, NULL, 0))
        return false;
    return !gcry_cipher_setiv(handle->data, iv, cipher->block_bytes);
}

static bool work(SectorCipher *cipher, uint64_t sector, uint8_t *data, size_t bytes,
                 gcry_error_t (*fn)(gcry_cipher_hd_t handle, void *out, size_t out_bytes,
                                    const void *in, size_t in_bytes))
{
    Handle *handle = take(cipher);
    bool ok = handle != NULL && bytes % CIPHER_SECTOR == 0;

    for (; ok && bytes; data += CIPHER_SECTOR, bytes -= CIPHER_SECTOR, sector++)
        ok = set_iv(cipher, handle, sector) && !fn(handle->data, data, CIPHER_SECTOR, NULL, 0);
    if (handle)
        give_back(cipher, handle);
    return ok;
}

bool sector_cipher_encrypt(SectorCipher *cipher, uint64_t sector, uint8_t *data, size_t bytes)
{
    return work(cipher, sector, data, bytes, gcry_cipher_encrypt);
}

bool sector_cipher_decrypt(SectorCipher *cipher, uint64_t sector, uint8_t *data, size_t bytes)
{
    return work(cipher, sector, data, bytes, gcry_cipher_decrypt);
}

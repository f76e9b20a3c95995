/*
 * Opening LUKS: from a passphrase to the volume's key, and the slots that keep it.
 *
 * A slot's material is the key split into stripes (LUKS 1.2.3, "Anti-forensic splitting"): all of them
 * are needed, so that erasing a part of them erases the key.
 */
#include "block/crypto/luks-int.h"
#include "src/base/options.h"
#include "src/base/util.h"
#include <errno.h>
#include <gcrypt.h>
#include <inttypes.h>
#include <string.h>

enum { HASH_MAX = 64, ITERATIONS_MIN = 1000, ERASE_PASSES = 8 };

bool luks_derive(const char *hash, const uint8_t *secret, size_t bytes, const uint8_t *salt,
                 uint32_t iterations, uint8_t *key, size_t key_bytes)
{
    int algorithm = cipher_hash_find(hash);

    /* libgcrypt refuses an empty passphrase; the data's length may be 0 with a pointer. */
    return algorithm && !gcry_kdf_derive(bytes ? secret : (const uint8_t *)"", bytes, GCRY_KDF_PBKDF2,
                                         algorithm, salt, LUKS_SALT, iterations, key_bytes, key);
}

uint32_t luks_iterations(const char *hash, size_t key_bytes, uint64_t ms)
{
    uint8_t key[LUKS_KEY_MAX], salt[LUKS_SALT] = { 0 };
    int64_t enough = MIN(ms, 20) * INT64_C(1000000), ns;
    uint32_t n = ITERATIONS_MIN;

    for (;; n *= 2) {
        int64_t start = loop_clock_ns();

        if (!luks_derive(hash, (const uint8_t *)"x", 1, salt, n, key, key_bytes))
            return ITERATIONS_MIN;
        ns = MAX(loop_clock_ns() - start, 1);
        if (ns > enough || n > 1u << 26)
            break;
    }
    return CLAMP((double)n * ms * 1e6 / ns, ITERATIONS_MIN, (double)UINT32_MAX);
}

/* Stripes. */

static bool diffuse(int hash, uint8_t *block, size_t bytes)
{
    size_t digest = gcry_md_get_algo_dlen(hash);
    uint8_t input[4 + HASH_MAX], output[HASH_MAX];

    if (!digest || digest > HASH_MAX)
        return false;
    for (uint32_t i = 0; i * digest < bytes; i++) {
        size_t n = MIN(digest, bytes - i * digest);

        st_be32(input, i);
        memcpy(input + 4, block + i * digest, n);
        gcry_md_hash_buffer(hash, output, input, 4 + n);
        memcpy(block + i * digest, output, n);
    }
    return true;
}

static void xor_into(uint8_t *to, const uint8_t *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        to[i] ^= from[i];
}

/* All stripes but the last, into @block. */
static bool fold(int hash, const uint8_t *stripes, size_t bytes, uint32_t n, uint8_t *block)
{
    memset(block, 0, bytes);
    for (uint32_t i = 0; i + 1 < n; i++) {
        xor_into(block, stripes + i * bytes, bytes);
        if (!diffuse(hash, block, bytes))
            return false;
    }
    return true;
}

static bool merge(int hash, const uint8_t *stripes, size_t bytes, uint32_t n, uint8_t *key)
{
    if (!fold(hash, stripes, bytes, n, key))
        return false;
    xor_into(key, stripes + (n - 1) * bytes, bytes);
    return true;
}

static bool split(int hash, const uint8_t *key, size_t bytes, uint32_t n, uint8_t *stripes)
{
    uint8_t *last = stripes + (n - 1) * bytes;

    gcry_randomize(stripes, (n - 1) * bytes, GCRY_STRONG_RANDOM);
    if (!fold(hash, stripes, bytes, n, last))
        return false;
    xor_into(last, key, bytes);
    return true;
}

/* A slot, in a worker thread. */

typedef struct SlotWork {
    const LuksHeader *header;
    const LuksSlot *slot;
    const uint8_t *passphrase;
    size_t bytes;
    uint8_t *material;                     /* whole sectors */
    size_t material_bytes;
    uint8_t *key;                          /* of the volume */
    bool matches;
} SlotWork;

static SectorCipher *slot_cipher(const SlotWork *w)
{
    uint8_t key[LUKS_KEY_MAX];
    SectorCipher *cipher = NULL;

    if (luks_derive(w->header->hash, w->passphrase, w->bytes, w->slot->salt, w->slot->iterations, key,
                    w->header->key_bytes))
        cipher = sector_cipher_new(&w->header->cipher, key, w->header->key_bytes, NULL);
    explicit_bzero(key, sizeof(key));
    return cipher;
}

static int unlock_slot(void *arg)
{
    SlotWork *w = arg;
    const LuksHeader *header = w->header;
    SectorCipher *cipher = slot_cipher(w);
    uint8_t digest[LUKS_DIGEST];
    bool ok = cipher && sector_cipher_decrypt(cipher, 0, w->material, w->material_bytes) &&
              merge(cipher_hash_find(header->hash), w->material, header->key_bytes, w->slot->stripes,
                    w->key) &&
              luks_derive(header->hash, w->key, header->key_bytes, header->digest_salt,
                          header->digest_iterations, digest, sizeof(digest));

    sector_cipher_free(cipher);
    w->matches = ok && !memcmp(digest, header->digest, sizeof(digest));
    return ok ? 0 : -EIO;
}

static int lock_slot(void *arg)
{
    SlotWork *w = arg;
    SectorCipher *cipher = slot_cipher(w);
    bool ok = cipher &&
              split(cipher_hash_find(w->header->hash), w->key, w->header->key_bytes, w->slot->stripes,
                    w->material) &&
              sector_cipher_encrypt(cipher, 0, w->material, w->material_bytes);

    sector_cipher_free(cipher);
    return ok ? 0 : -EIO;
}

static SlotWork work_new(const LuksHeader *header, const LuksSlot *slot, const uint8_t *passphrase,
                         size_t bytes, uint8_t *key)
{
    size_t material = ALIGN_UP(luks_material_bytes(header, slot), CIPHER_SECTOR);

    return (SlotWork){ .header = header, .slot = slot, .passphrase = passphrase, .bytes = bytes,
                       .key = key, .material_bytes = material, .material = g_malloc0(material) };
}

static void work_clear(SlotWork *w)
{
    explicit_bzero(w->material, w->material_bytes);
    g_free(w->material);
}

/* Whether the passphrase opens a slot: 1, with the volume's key in @key; 0; -2: it is not known. */
static int co_fn try_slot(const LuksHeader *header, const LuksIo *io, int i,
                          const uint8_t *passphrase, size_t bytes, uint8_t *key, GError **error)
{
    const LuksSlot *slot = &header->slots[i];
    SlotWork w;
    int ret;

    if (slot->active != LUKS_SLOT_USED)
        return 0;
    w = work_new(header, slot, passphrase, bytes, key);
    ret = io->read(io->opaque, (uint64_t)slot->material * CIPHER_SECTOR, w.material,
                   w.material_bytes);
    if (ret < 0)
        fail_errno(error, -ret, "reading key slot %d of '%s' failed", i, io->name);
    else
        ret = co_worker_call(unlock_slot, &w);
    if (ret < 0 && error && !*error)
        fail(error, ERR_UNSUPPORTED, "key slot %d of '%s' cannot be opened: libgcrypt lacks '%s' or "
             "'%s'", i, io->name, header->hash, header->cipher.name);
    work_clear(&w);
    return ret < 0 ? -2 : w.matches;
}

/* The slot that the passphrase opens: its number, -1 for none, with the volume's key in @key. */
static int co_fn open_slots(const LuksHeader *header, const LuksIo *io, const uint8_t *passphrase,
                            size_t bytes, uint8_t *key, GError **error)
{
    for (int i = 0; i < LUKS_SLOTS; i++) {
        int ret = try_slot(header, io, i, passphrase, bytes, key, error);

        if (ret)
            return ret < 0 ? ret : i;
    }
    return -1;
}

/* Opening. */

static bool co_fn read_header(const LuksIo *io, LuksHeader *header, GError **error)
{
    uint8_t data[LUKS_HEADER_BYTES];
    int ret = io->read(io->opaque, 0, data, sizeof(data));

    if (ret < 0)
        return fail_errno(error, -ret, "reading the LUKS header of '%s' failed", io->name);
    return luks_header_parse(data, header, io->name, error);
}

Luks *co_fn luks_open(const LuksIo *io, const uint8_t *passphrase, size_t bytes, GError **error)
{
    Luks *luks = g_new0(Luks, 1);
    int slot = 0;

    co_mutex_init(&luks->lock);
    luks->name = g_strdup(io->name);
    if (!cipher_library_ready(error) || !read_header(io, &luks->header, error))
        goto fail;
    if (!passphrase)
        return luks;
    slot = open_slots(&luks->header, io, passphrase, bytes, luks->key, error);
    if (slot == -1) {
        fail(error, ERR_PERMISSION, "Invalid password, cannot unlock any keyslot");
        error_object(error, "%s", io->name);
    }
    if (slot >= 0)
        luks->cipher = sector_cipher_new(&luks->header.cipher, luks->key, luks->header.key_bytes,
                                         error);
    if (luks->cipher)
        return luks;
fail:
    luks_free(luks);
    return NULL;
}

void luks_free(Luks *luks)
{
    if (!luks)
        return;
    sector_cipher_free(luks->cipher);
    explicit_bzero(luks->key, sizeof(luks->key));
    g_free(luks->name);
    g_free(luks);
}

SectorCipher *luks_cipher(Luks *luks)
{
    return luks->cipher;
}

uint64_t luks_payload_offset(const Luks *luks)
{
    return (uint64_t)luks->header.payload * CIPHER_SECTOR;
}

/* Slots. */

bool luks_slot_is_used(const Luks *luks, int slot)
{
    return slot >= 0 && slot < LUKS_SLOTS && luks->header.slots[slot].active == LUKS_SLOT_USED;
}

unsigned luks_slots_used(const Luks *luks)
{
    unsigned n = 0;

    for (int i = 0; i < LUKS_SLOTS; i++)
        n += luks_slot_is_used(luks, i);
    return n;
}

int co_fn luks_find_slot(Luks *luks, const LuksIo *io, const uint8_t *passphrase, size_t bytes)
{
    uint8_t key[LUKS_KEY_MAX];
    int slot = open_slots(&luks->header, io, passphrase, bytes, key, NULL);

    explicit_bzero(key, sizeof(key));
    return MAX(slot, -1);
}

bool co_fn luks_opens_slot(Luks *luks, const LuksIo *io, int slot, const uint8_t *passphrase,
                           size_t bytes)
{
    uint8_t key[LUKS_KEY_MAX];
    int ret = try_slot(&luks->header, io, slot, passphrase, bytes, key, NULL);

    explicit_bzero(key, sizeof(key));
    return ret == 1;
}

CoMutex *luks_lock(Luks *luks)
{
    return &luks->lock;
}

bool luks_has_key(const Luks *luks)
{
    return luks->cipher != NULL;
}

static int co_fn write_header(const LuksIo *io, const LuksHeader *header, GError **error)
{
    uint8_t data[LUKS_HEADER_BYTES];
    int ret;

    luks_header_put(header, data);
    ret = io->write(io->opaque, 0, data, sizeof(data));
    if (ret < 0)
        fail_errno(error, -ret, "writing the LUKS header of '%s' failed", io->name);
    return ret;
}

static int free_slot(const Luks *luks)
{
    for (int i = 0; i < LUKS_SLOTS; i++)
        if (!luks_slot_is_used(luks, i))
            return i;
    return -1;
}

typedef struct Timing {
    const LuksHeader *header;
    uint64_t ms;
    uint32_t iterations;
} Timing;

static int measure(void *arg)
{
    Timing *timing = arg;

    timing->iterations = luks_iterations(timing->header->hash, timing->header->key_bytes, timing->ms);
    return 0;
}

/* The material first: a header that names a slot without it would be a way to lose the passphrase. */
int co_fn luks_add_slot(Luks *luks, const LuksIo *io, int i, const uint8_t *passphrase, size_t bytes,
                        uint64_t iter_time_ms, GError **error)
{
    Timing timing = { &luks->header, iter_time_ms, 0 };
    LuksHeader header = luks->header;
    LuksSlot *slot;
    SlotWork w;
    int ret;

    if (i < 0)
        i = free_slot(luks);
    if (i < 0 || i >= LUKS_SLOTS) {
        fail(error, ERR_LIMIT, "Can't add a keyslot - all keyslots are in use");
        return -ENOSPC;
    }
    slot = &header.slots[i];
    co_worker_call(measure, &timing);
    slot->active = LUKS_SLOT_USED;
    slot->iterations = timing.iterations;
    gcry_randomize(slot->salt, sizeof(slot->salt), GCRY_STRONG_RANDOM);
    w = work_new(&header, slot, passphrase, bytes, luks->key);
    ret = co_worker_call(lock_slot, &w);
    if (ret < 0)
        fail(error, ERR_UNSUPPORTED, "libgcrypt cannot make a key slot with '%s' and '%s'", header.hash,
             header.cipher.name);
    else if ((ret = io->write(io->opaque, (uint64_t)slot->material * CIPHER_SECTOR, w.material,
                              w.material_bytes)) < 0)
        fail_errno(error, -ret, "writing key slot %d of '%s' failed", i, io->name);
    work_clear(&w);
    if (ret == 0)
        ret = write_header(io, &header, error);
    if (ret == 0)
        luks->header = header;
    return ret;
}

int co_fn luks_erase_slot(Luks *luks, const LuksIo *io, int i, GError **error)
{
    LuksHeader header = luks->header;
    LuksSlot *slot = &header.slots[i];
    size_t bytes = ALIGN_UP(luks_material_bytes(&header, slot), CIPHER_SECTOR);
    g_autofree uint8_t *noise = g_malloc(bytes);
    int ret = 0;

    for (int pass = 0; pass < ERASE_PASSES && ret == 0; pass++) {
        gcry_randomize(noise, bytes, GCRY_WEAK_RANDOM);
        ret = io->write(io->opaque, (uint64_t)slot->material * CIPHER_SECTOR, noise, bytes);
    }
    if (ret < 0) {
        fail_errno(error, -ret, "erasing key slot %d of '%s' failed", i, io->name);
        return ret;
    }
    slot->active = LUKS_SLOT_FREE;
    slot->iterations = 0;
    memset(slot->salt, 0, sizeof(slot->salt));
    ret = write_header(io, &header, error);
    if (ret == 0)
        luks->header = header;
    return ret;
}

/* Info. */

static void put_cipher(const LuksHeader *header, json_object *info)
{
    g_auto(GStrv) mode = g_strsplit(header->cipher.mode, "-", 2);
    g_auto(GStrv) iv = g_strsplit(mode[1] ? mode[1] : "", ":", 2);
    unsigned bits = header->key_bytes * 8 / (g_str_equal(mode[0], "xts") ? 2 : 1);
    g_autofree char *alg = g_strdup_printf("%s-%u", header->cipher.name, bits);

    json_add_str(info, "cipher-alg", alg);
    json_add_str(info, "cipher-mode", mode[0]);
    json_add_str(info, "ivgen-alg", iv[0] ? iv[0] : "");
    if (iv[0] && iv[1])
        json_add_str(info, "ivgen-hash-alg", iv[1]);
    json_add_str(info, "hash-alg", header->hash);
}

static json_object *slot_info(const LuksSlot *slot)
{
    json_object *info = json_object_new_object();
    bool active = slot->active == LUKS_SLOT_USED;

    json_object_object_add(info, "active", json_object_new_boolean(active));
    json_object_object_add(info, "key-offset",
                           json_object_new_int64((int64_t)slot->material * CIPHER_SECTOR));
    if (active) {
        json_object_object_add(info, "iters", json_object_new_int64(slot->iterations));
        json_object_object_add(info, "stripes", json_object_new_int64(slot->stripes));
    }
    return info;
}

json_object *luks_info(const Luks *luks)
{
    const LuksHeader *header = &luks->header;
    json_object *info = json_object_new_object(), *slots = json_object_new_array();

    put_cipher(header, info);
    json_add_str(info, "uuid", header->uuid);
    json_object_object_add(info, "payload-offset",
                           json_object_new_int64((int64_t)header->payload * CIPHER_SECTOR));
    json_object_object_add(info, "master-key-iters",
                           json_object_new_int64(header->digest_iterations));
    for (int i = 0; i < LUKS_SLOTS; i++)
        json_object_array_add(slots, slot_info(&header->slots[i]));
    json_object_object_add(info, "slots", slots);
    return info;
}

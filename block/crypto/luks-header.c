/* The header's layout on disk, big-endian. */
#include "block/crypto/luks-int.h"
#include <inttypes.h>
#include <string.h>
#include "src/base/util.h"

enum { AT_VERSION = 6, AT_CIPHER = 8, AT_MODE = 40, AT_HASH = 72, AT_PAYLOAD = 104, AT_KEY_BYTES = 108,
       AT_DIGEST = 112, AT_DIGEST_SALT = 132, AT_DIGEST_ITERATIONS = 164, AT_UUID = 168,
       AT_SLOTS = 208, SLOT_BYTES = 48 };

static const uint8_t magic[6] = { 'L', 'U', 'K', 'S', 0xba, 0xbe };

static bool parse_text(char *text, const uint8_t *data, size_t bytes, const char *what,
                       const char *name, GError **error)
{
    if (!memchr(data, 0, bytes) || !*data)
        return fail(error, ERR_CORRUPT, "the LUKS header of '%s' has an invalid %s", name, what);
    memcpy(text, data, bytes);
    return true;
}

static void parse_slot(LuksSlot *slot, const uint8_t *data)
{
    slot->active = ld_be32(data);
    slot->iterations = ld_be32(data + 4);
    memcpy(slot->salt, data + 8, LUKS_SALT);
    slot->material = ld_be32(data + 40);
    slot->stripes = ld_be32(data + 44);
}

static bool check_slot(const LuksHeader *header, int i, const char *name, GError **error)
{
    const LuksSlot *slot = &header->slots[i];
    uint64_t start = slot->material, end;

    if (slot->active != LUKS_SLOT_USED && slot->active != LUKS_SLOT_FREE)
        return fail(error, ERR_CORRUPT, "key slot %d of '%s' has an invalid state %#" PRIx32, i, name,
                    slot->active);
    if (slot->stripes != LUKS_STRIPES)
        return fail(error, ERR_CORRUPT, "key slot %d of '%s' has %" PRIu32 " stripes; %d are right", i,
                    name, slot->stripes, LUKS_STRIPES);
    if (slot->active == LUKS_SLOT_USED && !slot->iterations)
        return fail(error, ERR_CORRUPT, "key slot %d of '%s' has no iterations", i, name);
    end = start + (luks_material_bytes(header, slot) + CIPHER_SECTOR - 1) / CIPHER_SECTOR;
    if (start * CIPHER_SECTOR < LUKS_HEADER_BYTES || (header->payload && end > header->payload))
        return fail(error, ERR_CORRUPT, "the key material of slot %d of '%s' is not between header and "
                    "data", i, name);
    return true;
}

static bool check_overlap(const LuksHeader *header, const char *name, GError **error)
{
    for (int i = 0; i < LUKS_SLOTS; i++) {
        uint64_t start = header->slots[i].material;
        uint64_t end = start + (luks_material_bytes(header, &header->slots[i]) + CIPHER_SECTOR - 1) /
                                   CIPHER_SECTOR;

        for (int k = i + 1; k < LUKS_SLOTS; k++) {
            uint64_t other = header->slots[k].material;

            if (other < end && start < other + (end - start))
                return fail(error, ERR_CORRUPT, "key slots %d and %d of '%s' overlap", i, k, name);
        }
    }
    return true;
}

bool luks_header_parse(const uint8_t *data, LuksHeader *header, const char *name, GError **error)
{
    if (memcmp(data, magic, sizeof(magic)))
        return fail(error, ERR_CORRUPT, "'%s' has no LUKS header", name);
    if (ld_be16(data + AT_VERSION) != 1)
        return fail(error, ERR_UNSUPPORTED, "'%s' has LUKS version %u; only version 1 is supported",
                    name, ld_be16(data + AT_VERSION));
    if (!parse_text(header->cipher.name, data + AT_CIPHER, 32, "cipher name", name, error) ||
        !parse_text(header->cipher.mode, data + AT_MODE, 32, "cipher mode", name, error) ||
        !parse_text(header->hash, data + AT_HASH, 32, "hash", name, error) ||
        !parse_text(header->uuid, data + AT_UUID, 40, "UUID", name, error))
        return false;
    header->payload = ld_be32(data + AT_PAYLOAD);
    header->key_bytes = ld_be32(data + AT_KEY_BYTES);
    memcpy(header->digest, data + AT_DIGEST, LUKS_DIGEST);
    memcpy(header->digest_salt, data + AT_DIGEST_SALT, LUKS_SALT);
    header->digest_iterations = ld_be32(data + AT_DIGEST_ITERATIONS);
    if (!header->key_bytes || header->key_bytes > LUKS_KEY_MAX || !header->digest_iterations)
        return fail(error, ERR_CORRUPT, "the LUKS header of '%s' has an invalid key length or iteration "
                    "count", name);
    for (int i = 0; i < LUKS_SLOTS; i++) {
        parse_slot(&header->slots[i], data + AT_SLOTS + i * SLOT_BYTES);
        if (!check_slot(header, i, name, error))
            return false;
    }
    return check_overlap(header, name, error);
}

void luks_header_put(const LuksHeader *header, uint8_t *data)
{
    memset(data, 0, LUKS_HEADER_BYTES);
    memcpy(data, magic, sizeof(magic));
    st_be16(data + AT_VERSION, 1);
    memcpy(data + AT_CIPHER, header->cipher.name, 32);
    memcpy(data + AT_MODE, header->cipher.mode, 32);
    memcpy(data + AT_HASH, header->hash, 32);
    st_be32(data + AT_PAYLOAD, header->payload);
    st_be32(data + AT_KEY_BYTES, header->key_bytes);
    memcpy(data + AT_DIGEST, header->digest, LUKS_DIGEST);
    memcpy(data + AT_DIGEST_SALT, header->digest_salt, LUKS_SALT);
    st_be32(data + AT_DIGEST_ITERATIONS, header->digest_iterations);
    memcpy(data + AT_UUID, header->uuid, 40);
    for (int i = 0; i < LUKS_SLOTS; i++) {
        const LuksSlot *slot = &header->slots[i];
        uint8_t *at = data + AT_SLOTS + i * SLOT_BYTES;

        st_be32(at, slot->active);
        st_be32(at + 4, slot->iterations);
        memcpy(at + 8, slot->salt, LUKS_SALT);
        st_be32(at + 40, slot->material);
        st_be32(at + 44, slot->stripes);
    }
}

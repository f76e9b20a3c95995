/* What luks.c (opening, slots), luks-header.c (layout) and luks-format.c (making one) share. */
#pragma once
#include "block/crypto/luks.h"

enum { LUKS_DIGEST = 20, LUKS_SALT = 32, LUKS_STRIPES = 4000, LUKS_KEY_MAX = 64 };
enum { LUKS_SLOT_USED = 0x00ac71f3, LUKS_SLOT_FREE = 0x0000dead };

/* LUKS on-disk format 1.2.3, "PHDR". */
typedef struct LuksSlot {
    uint32_t active, iterations;
    uint8_t salt[LUKS_SALT];
    uint32_t material, stripes;            /* material: in sectors, from the region's start */
} LuksSlot;

typedef struct LuksHeader {
    CipherSpec cipher;
    char hash[32], uuid[40];
    uint32_t payload;                      /* in sectors */
    uint32_t key_bytes, digest_iterations;
    uint8_t digest[LUKS_DIGEST], digest_salt[LUKS_SALT];
    LuksSlot slots[LUKS_SLOTS];
} LuksHeader;

struct Luks {
    LuksHeader header;
    SectorCipher *cipher;
    uint8_t key[LUKS_KEY_MAX];             /* the volume's; wiped when freed */
    char *name;
    CoMutex lock;                          /* changing slots */
};

/* luks-header.c */
bool luks_header_parse(const uint8_t *data, LuksHeader *header, const char *name, GError **error);
void luks_header_put(const LuksHeader *header, uint8_t *data);
static inline uint64_t luks_material_bytes(const LuksHeader *header, const LuksSlot *slot)
{
    return (uint64_t)header->key_bytes * slot->stripes;
}

/* luks.c.  In a worker thread: what takes long. */
bool luks_derive(const char *hash, const uint8_t *secret, size_t bytes, const uint8_t *salt,
                 uint32_t iterations, uint8_t *key, size_t key_bytes);
/* Iterations that take about @ms here, at least 1000. */
uint32_t luks_iterations(const char *hash, size_t key_bytes, uint64_t ms);

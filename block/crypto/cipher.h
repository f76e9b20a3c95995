/*
 * Encryption of sectors of 512 bytes: a cipher, a mode, and how a sector's number becomes its
 * initialization vector.  The arithmetic is libgcrypt's.
 */
#pragma once
#include <stdint.h>
#include "src/base/error.h"

enum { CIPHER_SECTOR = 512 };

typedef struct SectorCipher SectorCipher;

/* As LUKS writes them: "aes", "xts-plain64", "cbc-essiv:sha256". */
typedef struct CipherSpec {
    char name[32], mode[32];
} CipherSpec;

/* @key: for xts twice the cipher's own length; copied.  NULL: the host's library has no such thing, or
 * the key's length does not fit. */
SectorCipher *sector_cipher_new(const CipherSpec *spec, const uint8_t *key, size_t key_bytes,
                                GError **error);
void sector_cipher_free(SectorCipher *cipher);          /* wipes the key */
/* In place; @bytes: whole sectors; @sector: number of the first.  Any thread, several at once. */
bool sector_cipher_encrypt(SectorCipher *cipher, uint64_t sector, uint8_t *data, size_t bytes);
bool sector_cipher_decrypt(SectorCipher *cipher, uint64_t sector, uint8_t *data, size_t bytes);

/* A hash by its name in LUKS ("sha256"); 0: there is none. */
int cipher_hash_find(const char *name);
/* libgcrypt is ready for use.  Any thread. */
bool cipher_library_ready(GError **error);

/*
 * LUKS version 1: a header with eight key slots, each of which gives the volume's key to who has its
 * passphrase.  The same header stands at the start of a `luks` image and in a region of an encrypted
 * qcow2 image; where that is only the callbacks know.
 *
 * Deriving keys takes the host seconds, on purpose: it is done by a worker thread while the
 * coroutine waits.
 */
#pragma once
#include <json-c/json.h>
#include "block/crypto/cipher.h"
#include "src/base/coroutine.h"

enum { LUKS_SLOTS = 8, LUKS_HEADER_BYTES = 592 };

/* Reads and writes of the header's region; @offset counts from its start.  0 or -errno. */
typedef struct LuksIo {
    int co_fn (*read)(void *opaque, uint64_t offset, void *data, uint64_t bytes);
    int co_fn (*write)(void *opaque, uint64_t offset, const void *data, uint64_t bytes);
    void *opaque;
    const char *name;                      /* of the image, for messages */
} LuksIo;

typedef struct Luks Luks;

/* @passphrase: NULL: the header alone is looked at, luks_cipher is NULL (for info). */
Luks *co_fn luks_open(const LuksIo *io, const uint8_t *passphrase, size_t bytes, GError **error);
void luks_free(Luks *luks);
SectorCipher *luks_cipher(Luks *luks);     /* of the data; owned by luks */
uint64_t luks_payload_offset(const Luks *luks);         /* bytes, from the region's start */
/* QEMU's ImageInfoSpecificLUKS; owned by the caller. */
json_object *luks_info(const Luks *luks);

typedef struct LuksFormat {
    const char *cipher_alg, *cipher_mode, *ivgen_alg, *ivgen_hash_alg, *hash_alg;
    uint64_t iter_time_ms;
} LuksFormat;
/* From options as QMP spells them ("cipher-alg", …), taken out of @options; absent ones: as QEMU has
 * them (aes-256, xts, plain64, sha256, 2 s).  The strings are those of @options. */
bool luks_format_parse(json_object *options, LuksFormat *format, GError **error);
/* How long the region is that a header of this kind needs, bytes. */
bool luks_format_payload_offset(const LuksFormat *format, uint64_t *ret, GError **error);
/* Writes a new header with a new key, to which @passphrase opens the first slot. */
int co_fn luks_format(const LuksIo *io, const LuksFormat *format, const uint8_t *passphrase,
                      size_t bytes, GError **error);

/* One change at a time: held by who changes slots, while keys are derived, too. */
CoMutex *luks_lock(Luks *luks);

/* Slots.  @slot -1: the first free one.  Needs the volume's key: luks_open with a passphrase. */
int co_fn luks_add_slot(Luks *luks, const LuksIo *io, int slot, const uint8_t *passphrase,
                        size_t bytes, uint64_t iter_time_ms, GError **error);
/* Which slot a passphrase opens, or -1. */
int co_fn luks_find_slot(Luks *luks, const LuksIo *io, const uint8_t *passphrase, size_t bytes);
bool luks_slot_is_used(const Luks *luks, int slot);
unsigned luks_slots_used(const Luks *luks);
/* Whether a passphrase opens that slot. */
bool co_fn luks_opens_slot(Luks *luks, const LuksIo *io, int slot, const uint8_t *passphrase,
                           size_t bytes);
bool luks_has_key(const Luks *luks);       /* it was opened with a passphrase */
/* Overwrites the slot's key material. */
int co_fn luks_erase_slot(Luks *luks, const LuksIo *io, int slot, GError **error);

/* Key slots: added, replaced, erased, as qemu-img's amend has it. */
#pragma once
#include "block/block.h"
#include "block/crypto/luks.h"

/*
 * @options: "state" (active, inactive), "new-secret", "old-secret" (ids of secrets), "keyslot",
 * "iter-time"; others are refused.  Adding needs a header that was opened with a passphrase.
 * Without @force the last slot is not erased, and none that is in use is overwritten.  At any
 * moment one of the passphrases that are to be there before or after opens the image, unless the
 * last slot is erased.
 */
int co_fn luks_amend(Luks *luks, const LuksIo *io, BlockGraph *graph, json_object *options,
                     bool force, GError **error);

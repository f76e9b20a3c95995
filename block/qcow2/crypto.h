/*
 * Encrypted images: LUKS, with its header in clusters of its own ("Full disk encryption header
 * pointer"), and the old AES method, read and written but not made any more.  Data is encrypted in
 * sectors of 512 bytes, numbered by where they lie in the file (LUKS) or on the disk (AES).
 */
#pragma once
#include "block/qcow2/qcow2.h"

/*
 * In open, with the header read: takes "encrypt" out of @options and makes s->crypto ready.
 * @header_only: a missing key-secret is no error; reading or writing data then is (-EPERM).
 */
bool co_fn qcow2_crypto_open(Qcow2 *s, json_object *options, bool header_only, GError **error);
/* Makes a new, empty image an encrypted one.  @encrypt: "format", "key-secret", and what
 * luks_format_parse takes; unknown members are refused. */
int co_fn qcow2_crypto_format(Qcow2 *s, json_object *encrypt, GError **error);
/* Bytes that the LUKS header takes: for measure. */
bool qcow2_crypto_header_bytes(json_object *encrypt, uint64_t *ret, GError **error);
/* Key slots, as luks_amend says; requests may be under way. */
int co_fn qcow2_crypto_amend(Qcow2 *s, json_object *encrypt, bool force, GError **error);

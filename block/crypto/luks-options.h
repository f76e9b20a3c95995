/*
 * What `create -o` and `amend -o` take for LUKS, as rows of tables of BlockCreateOption; @prefix: "",
 * or where a format has them among its own ("encrypt.").
 */
#pragma once
#include "block/image.h"

#define LUKS_CREATE_OPTIONS(prefix)                                                                \
    { prefix "cipher-alg", BLOCK_CREATE_STRING, NULL, "Name of encryption cipher algorithm" },     \
    { prefix "cipher-mode", BLOCK_CREATE_STRING, NULL, "Name of encryption cipher mode" },         \
    { prefix "ivgen-alg", BLOCK_CREATE_STRING, NULL, "Name of IV generator algorithm" },           \
    { prefix "ivgen-hash-alg", BLOCK_CREATE_STRING, NULL,                                          \
      "Name of IV generator hash algorithm" },                                                     \
    { prefix "hash-alg", BLOCK_CREATE_STRING, NULL, "Name of encryption hash algorithm" },         \
    { prefix "iter-time", BLOCK_CREATE_NUMBER, NULL,                                               \
      "Time to spend in PBKDF in milliseconds", true }

#define LUKS_AMEND_OPTIONS(prefix)                                                                 \
    { prefix "state", BLOCK_CREATE_STRING, NULL, "Whether key slots become active or inactive",    \
      true },                                                                                      \
    { prefix "new-secret", BLOCK_CREATE_STRING, NULL, "ID of the secret of a new key slot",        \
      true },                                                                                      \
    { prefix "old-secret", BLOCK_CREATE_STRING, NULL,                                              \
      "ID of the secret whose key slots are erased", true },                                       \
    { prefix "keyslot", BLOCK_CREATE_NUMBER, NULL, "Number of the key slot, 0 to 7", true }

/*
 * Image formats by the first bytes of an image.  For -drive without format=, and to keep a guest from
 * turning an image whose format was guessed into one of another format by writing its header.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define BLOCK_PROBE_SIZE 512
/* "raw", or the format whose signature is there. */
const char *block_probe_format(const uint8_t *data, size_t length);

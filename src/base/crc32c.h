/* CRC-32C (Castagnoli; RFC 3720, 12.1), by the processor's instruction where it has one. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* @crc: of what came before; 0 at the beginning. */
uint32_t crc32c(uint32_t crc, const void *data, size_t bytes);
/* The same without that instruction. */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t bytes);

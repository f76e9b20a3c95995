/* I/O vectors: copying, cutting, looking for zeroes. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

uint64_t iov_size(const struct iovec *iov, int iovcnt);
/* Copy @bytes between a buffer and the vector from byte @offset on; the vector must be long enough. */
void iov_from_buffer(const struct iovec *iov, int iovcnt, uint64_t offset, const void *buffer,
                     uint64_t bytes);
void iov_to_buffer(const struct iovec *iov, int iovcnt, uint64_t offset, void *buffer,
                   uint64_t bytes);
/* The part from byte @offset on, at most *bytes long and in at most @max parts: fills @part, returns
 * the number of parts, and sets *bytes to what they hold. */
int iov_slice(struct iovec *part, int max, const struct iovec *iov, int iovcnt, uint64_t offset,
              uint64_t *bytes);
void iov_zero(const struct iovec *iov, int iovcnt, uint64_t offset, uint64_t bytes);
bool iov_is_zero(const struct iovec *iov, int iovcnt, uint64_t bytes);

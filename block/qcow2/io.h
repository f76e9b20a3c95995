/* What the files of the data path (io.c, cow.c, zero.c, compress.c) do for each other. */
#pragma once
#include "block/qcow2/qcow2.h"

/* A vector over a part of another one; on the stack where it is short. */
typedef struct Qcow2Iov {
    struct iovec few[8];
    struct iovec *parts;
    int n;
} Qcow2Iov;
/* All of @iov must hold @offset + @bytes. */
void qcow2_iov_part(Qcow2Iov *part, const struct iovec *iov, int iovcnt, uint64_t offset,
                    uint64_t bytes);
void qcow2_iov_clear(Qcow2Iov *part);

/* Data as it is in the image file, encrypted if the image is: @guest is where it belongs. */
int co_fn qcow2_read_normal(Qcow2 *s, uint64_t guest, uint64_t host, const struct iovec *iov,
                            int iovcnt, uint64_t bytes);
int co_fn qcow2_write_normal(Qcow2 *s, uint64_t guest, uint64_t host, const struct iovec *iov,
                             int iovcnt, uint64_t bytes);

/* cow.c: writes as much of the range as can be done at once into clusters that are new, or not all
 * there yet.  *ret_done 0: the range's first cluster can be written in place by now. */
int co_fn qcow2_write_allocating(Qcow2 *s, uint64_t guest, const struct iovec *iov, int iovcnt,
                                 uint64_t bytes, uint64_t *ret_done);
/* True: all of it reads as zeroes, as far as the tables tell. */
int co_fn qcow2_reads_as_zeroes(Qcow2 *s, uint64_t guest, uint64_t bytes, bool *ret);

/* compress.c */
int co_fn qcow2_read_compressed(Qcow2 *s, uint64_t entry, uint64_t in_cluster,
                                const struct iovec *iov, int iovcnt, uint64_t bytes);
int co_fn qcow2_write_compressed(Qcow2 *s, uint64_t guest, const struct iovec *iov, int iovcnt,
                                 uint64_t bytes);

/* zero.c */
int co_fn qcow2_guest_zero(Qcow2 *s, uint64_t guest, uint64_t bytes, unsigned flags);

/*
 * Virtqueues: the only code that reads rings (virtio 1.2, 2.7 split and 2.8 packed).  A device sees
 * chains of readable and writable bytes and says how much it wrote.  Every trust decision is here:
 * index range, loops, indirect tables, total size, readable-before-writable order; a breach calls
 * virtio_break and virtq_pop returns false.
 *
 * Thread: the queue's loop.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>
#include "src/base/loop.h"
#include "src/object/state.h"

typedef struct Virtqueue Virtqueue;
typedef struct VirtioDevice VirtioDevice;

#define VIRTQ_SIZE_MAX 32768                /* 2.7 and 2.8; what virtio_add_queue takes: 1024 */
#define VIRTQ_CHAIN_MAX 1024                /* descriptors in one chain (indirect included) */

/* One request.  The iovecs belong to the chain's storage, which the device provides (usually in
 * its request, from a pool): @iov and @gpa with room for @iov_max.  Guest-physical parts that cross
 * RAM blocks are split.  Buffers of no bytes do not appear. */
typedef struct VirtqChain {
    struct iovec *iov;
    uint64_t *gpa;                          /* guest-physical address of each iovec */
    unsigned iov_max;
    unsigned out_num, in_num;               /* iov[0 … out_num-1] readable, then in_num writable */
    size_t out_bytes, in_bytes;             /* together at most 2^32 - 1 */
    uint16_t head;                          /* split: head; packed: buffer id */
    uint16_t count;                         /* ring slots it takes: 1 if split */
} VirtqChain;

bool virtq_pop(Virtqueue *vq, VirtqChain *chain);        /* false: empty or broken */
void virtq_push(Virtqueue *vq, const VirtqChain *chain, uint32_t written);   /* completes (2.7.8) */
void virtq_unpop(Virtqueue *vq, const VirtqChain *chain);/* the last popped one goes back */
void virtq_flush(Virtqueue *vq); /* one interrupt decision for what was pushed */
bool virtq_empty(Virtqueue *vq);
/* Kick suppression; enabling returns false if something came meanwhile (look again: call
 * virtq_set_notification(vq, false) and pop). */
bool virtq_set_notification(Virtqueue *vq, bool on);
/* For a handler that leaves some in the ring, so that others have their turn: it is called again in
 * the next turn of the loop. */
void virtq_again(Virtqueue *vq);
/* A chain that was popped and not pushed, for a device's state table.  After loading, the iovecs
 * have lengths only; virtq_map_chain finds the memory (when the guest's RAM is there, in start). */
void virtq_save_chain(const VirtqChain *chain, StateWriter *w);
bool virtq_load_chain(VirtqChain *chain, StateReader *r, GError **error);
bool virtq_map_chain(Virtqueue *vq, VirtqChain *chain);   /* false: the device is now broken */
/* Guest memory to or from the readable or writable part; returns the bytes copied. */
size_t virtq_chain_read(const VirtqChain *chain, size_t offset, void *data, size_t length);
size_t virtq_chain_write(const VirtqChain *chain, size_t offset, const void *data, size_t length);

unsigned virtq_index(const Virtqueue *vq);
unsigned virtq_size(const Virtqueue *vq);                /* as the driver set it; 0: not enabled */
VirtioDevice *virtq_device(const Virtqueue *vq);
Loop *virtq_loop(const Virtqueue *vq);

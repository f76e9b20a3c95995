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

typedef struct Virtqueue Virtqueue;
typedef struct VirtioDevice VirtioDevice;

#define VIRTQ_SIZE_MAX 32768
#define VIRTQ_CHAIN_MAX 1024                /* descriptors in one chain (indirect included) */

/* One request.  The iovecs belong to the chain's storage, which the device provides (usually in
 * its request, from a pool): @iov with room for @iov_max.  Guest-physical parts that cross RAM blocks
 * are split. */
typedef struct VirtqChain {
    struct iovec *iov;
    unsigned iov_max;
    unsigned out_num, in_num;               /* iov[0 … out_num-1] readable, then in_num writable */
    size_t out_bytes, in_bytes;
    /* For virtq_push, and to mark guest pages dirty: */
    uint16_t head;                          /* split: head; packed: buffer id */
    uint16_t count;                         /* packed: descriptors used */
    uint64_t *in_gpa;                       /* parallel to the writable iovecs (same storage) */
} VirtqChain;

bool virtq_pop(Virtqueue *vq, VirtqChain *chain);        /* false: empty or broken */
void virtq_push(Virtqueue *vq, const VirtqChain *chain, uint32_t written);   /* completes (2.7.8) */
void virtq_unpop(Virtqueue *vq, const VirtqChain *chain);/* the last popped one goes back */
void virtq_flush(Virtqueue *vq);                         /* one interrupt decision for what was pushed */
bool virtq_empty(Virtqueue *vq);
/* Kick suppression; enabling returns false if something came meanwhile (look again). */
bool virtq_set_notification(Virtqueue *vq, bool on);
unsigned virtq_index(const Virtqueue *vq);
unsigned virtq_size(const Virtqueue *vq);                /* as the driver set it; 0: not enabled */
VirtioDevice *virtq_device(const Virtqueue *vq);
Loop *virtq_loop(const Virtqueue *vq);

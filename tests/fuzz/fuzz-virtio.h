/*
 * A careless virtio driver for the device target: it sets a device up well enough that requests reach
 * it, and then puts what the input says into its rings.
 */
#pragma once
#include "tests/device/harness-int.h"
#include "tests/fuzz/fuzz.h"

#define FUZZ_QUEUES 3

typedef struct FuzzQueue {
    uint16_t size;                         /* 0: not set up */
    uint16_t next, avail;                  /* next descriptor; available index, or packed slot */
    bool wrap;
} FuzzQueue;

typedef struct FuzzVirtio {
    TestMachine *m;
    uint64_t common, notify;               /* guest addresses; 0: no virtio device */
    uint32_t notify_multiplier;
    bool packed;
    FuzzQueue queues[FUZZ_QUEUES];
} FuzzVirtio;

/* Looks for the capabilities of @pci (its BARs are mapped). */
void fuzz_virtio_find(FuzzVirtio *v, TestMachine *m, PciDevice *pci);
/* Reset, features, queues, DRIVER_OK. */
void fuzz_virtio_start(FuzzVirtio *v, Input *in);
/* A chain of descriptors in one of the queues, and a kick. */
void fuzz_virtio_request(FuzzVirtio *v, Input *in);

/*
 * A careless virtio driver for the device target: it sets a device up well enough that requests
 * reach it, by either interface and with either ring, and then puts what the input says into its
 * rings.
 */
#pragma once
#include "tests/device/harness-int.h"
#include "tests/fuzz/fuzz.h"

#define FUZZ_QUEUES 3

typedef struct FuzzQueue {
    uint64_t desc, driver, device;         /* guest addresses of its three parts */
    uint16_t size;                         /* 0: not set up */
    uint16_t next, avail;                  /* next descriptor; available index, or packed slot */
    bool wrap;
} FuzzQueue;

typedef struct FuzzVirtio {
    TestMachine *m;
    PciDevice *pci;
    uint64_t common, notify;               /* guest addresses; 0: no such interface */
    uint16_t ports;                        /* the legacy interface; 0: none */
    uint32_t notify_multiplier;
    unsigned vectors;                      /* MSI-X; 0: not set up */
    bool packed, legacy;                   /* as started */
    FuzzQueue queues[FUZZ_QUEUES];
} FuzzVirtio;

/* Looks for the interfaces of @pci, where its BARs are now.  False: it is no virtio device. */
bool fuzz_virtio_find(FuzzVirtio *v, TestMachine *m, PciDevice *pci);
/* Reset, features, queues, DRIVER_OK. */
void fuzz_virtio_start(FuzzVirtio *v, Input *in);
/* Chains of descriptors in one of the queues, and a kick. */
void fuzz_virtio_request(FuzzVirtio *v, Input *in);
/* One of the things a driver does beside: resets a queue, writes a status or an index … */
void fuzz_virtio_disturb(FuzzVirtio *v, Input *in);

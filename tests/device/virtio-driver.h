/* A virtio driver: it finds a device's structures, starts it, and fills rings of both layouts. */
#pragma once
#include <linux/virtio_blk.h>
#include <linux/virtio_pci.h>
#include "hw/virtio/virtio.h"
#include "tests/device/harness-int.h"

/* A device as its driver sees it. */
typedef struct TestQueue TestQueue;
typedef struct TestVirtio {
    TestMachine *m;
    PciDevice *pci;
    uint64_t common, notify, isr, config;   /* guest addresses */
    uint32_t notify_multiplier;
    uint64_t msix_table, pba;
    uint64_t offered, features;
    TestQueue *queues[16];
    unsigned num_queues;
} TestVirtio;

enum { TEST_MSI_BASE = 0x4000 };            /* data of vector 0's message */

TestVirtio *test_virtio_new(TestMachine *m, PciDevice *pci);
void test_virtio_find(TestVirtio *v);       /* again, after a reset: maps BARs, enables MSI-X */
void test_virtio_free(TestVirtio *v);
/* Reset, features (those of @wanted that are offered), queues, DRIVER_OK. */
void test_virtio_start(TestVirtio *v, uint64_t wanted, unsigned queues, unsigned size);
uint64_t common_load(TestVirtio *v, unsigned offset, unsigned size);
void common_store(TestVirtio *v, unsigned offset, unsigned size, uint64_t value);
uint8_t test_status(TestVirtio *v);
void test_set_status(TestVirtio *v, uint8_t status);
void test_msix_mask(TestVirtio *v, unsigned vector, bool mask);

/* A queue.  Buffers are guest addresses; out ones first. */
typedef struct TestBuffer {
    uint64_t gpa;
    uint32_t len;
    bool write;
} TestBuffer;
struct TestQueue {
    TestVirtio *v;
    unsigned index, size;
    bool packed, event_idx;
    uint64_t desc, driver, device;
    uint16_t avail, used;                   /* counters; packed: slots */
    bool avail_wrap, used_wrap;
    uint16_t *chain_len;                    /* packed: slots by id */
    uint16_t next_desc;
    uint16_t kicked_at;                     /* avail at the last kick decision */
    unsigned kicks;                         /* really sent */
};
TestQueue *test_queue_setup(TestVirtio *v, unsigned index, unsigned size);
/* Makes a chain available; its id. */
uint16_t test_queue_add(TestQueue *q, const TestBuffer *buffers, unsigned n, bool indirect);
/* Kicks if the device wants to be (always: if @force). */
void test_queue_kick(TestQueue *q, bool force);
bool test_queue_poll(TestQueue *q, uint16_t *id, uint32_t *len);
bool test_queue_used(void *queue);          /* polls and forgets; for wait_until */
uint32_t test_queue_wait(TestQueue *q);     /* for the next one: its used length */
/* add, kick, wait: the used length. */
uint32_t test_queue_do(TestQueue *q, const TestBuffer *buffers, unsigned n, bool indirect);
/* Asks for an interrupt only after @n more used buffers (event index). */
void test_queue_set_used_event(TestQueue *q, unsigned n);

/*
 * A virtio driver in the test's process: a small machine with a PCI Express bus and RAM, interrupts
 * that are recorded, and rings of both layouts.  The test is the guest.
 */
#pragma once
#include <linux/virtio_blk.h>
#include <linux/virtio_pci.h>
#include "block/block.h"
#include "hw/pci/pci.h"
#include "hw/virtio/virtio.h"
#include "src/base/util.h"
#include "tests/test.h"

#define TEST_RAM_SIZE (16 * MiB)

/* Interrupts as they come out of the machine. */
typedef struct TestIntr {
    IntrController ic;
    GArray *messages;                       /* of TestMessage, in order */
    GArray *routes;                         /* of TestRoute */
    bool no_irqfds;
} TestIntr;
typedef struct TestMessage {
    uint64_t address;
    uint32_t data;
} TestMessage;

typedef struct TestVm {
    Object *root;
    VmLock lock;
    MachineEnv env;
    TestIntr intr;
    Machine *m;
    BlockGraph *block;
    PciBus *bus;
    bool intx[4];
    unsigned stop_requests;                 /* MACHINE_STOP */
    uint64_t next_page;                     /* guest pages for tests, by bump */
    uint64_t next_bar;
} TestVm;

TestVm *test_vm_new(void);
void test_vm_free(TestVm *vm);
/* -device with these options; fails the test if it cannot. */
PciDevice *test_device(TestVm *vm, const char *options);
/* The error text of a -device that must fail; g_free. */
char *test_device_error(TestVm *vm, const char *options);
void test_object(TestVm *vm, const char *options);
void test_blockdev(TestVm *vm, const char *options);
/* Runs the main loop until *@done (or, with NULL, until it has nothing to do). */
void test_settle(TestVm *vm);
bool test_wait(TestVm *vm, bool (*done)(void *opaque), void *opaque);
/* Messages with that data that were sent so far, by message or irqfd. */
unsigned test_messages(TestVm *vm, uint32_t data);

uint64_t guest_alloc(TestVm *vm, uint64_t size);   /* page aligned, zeroed */
void *guest_ptr(TestVm *vm, uint64_t gpa);
uint64_t guest_load(TestVm *vm, uint64_t gpa, unsigned size);
void guest_store(TestVm *vm, uint64_t gpa, unsigned size, uint64_t value);

/* A device as its driver sees it. */
typedef struct TestQueue TestQueue;
typedef struct TestVirtio {
    TestVm *vm;
    PciDevice *pci;
    uint64_t common, notify, isr, config;   /* guest addresses */
    uint32_t notify_multiplier;
    uint64_t msix_table, pba;
    uint64_t offered, features;
    TestQueue *queues[16];
    unsigned num_queues;
} TestVirtio;

enum { TEST_MSI_BASE = 0x4000 };            /* data of vector 0's message */

TestVirtio *test_virtio_new(TestVm *vm, PciDevice *pci);    /* finds it; maps its BARs */
void test_virtio_free(TestVirtio *v);
/* Reset, features (those of @wanted that are offered), queues, DRIVER_OK. */
void test_virtio_start(TestVirtio *v, uint64_t wanted, unsigned queues, unsigned size);
uint64_t common_load(TestVirtio *v, unsigned offset, unsigned size);
void common_store(TestVirtio *v, unsigned offset, unsigned size, uint64_t value);
uint8_t test_status(TestVirtio *v);
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
/* add, kick, wait: the used length. */
uint32_t test_queue_do(TestQueue *q, const TestBuffer *buffers, unsigned n, bool indirect);
/* Asks for an interrupt only after @n more used buffers (event index). */
void test_queue_set_used_event(TestQueue *q, unsigned n);

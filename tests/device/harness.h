/*
 * A machine without vCPUs in the test's process.  The test is the guest: it reads and writes ports,
 * memory and config space, places BARs, and sees the interrupts, events and requests that come out.
 *
 *     DEVICE_TEST(pvpanic_reports, "-device pvpanic")
 *     {
 *         ck_assert_uint_eq(io_read8(m, 0x505), 3);
 *         io_write8(m, 0x505, 1);
 *         expect_request(m, MACHINE_PANICKED);
 *     }
 *
 * Any number of machines may be made in one process.  They share one VM lock, which the test's thread
 * holds except while it waits in the main loop.
 */
#pragma once
#include "block/block.h"
#include "hw/core/device.h"
#include "hw/pci/pci.h"
#include "src/base/util.h"
#include "src/object/event.h"
#include "tests/test.h"

typedef struct TestMachine TestMachine;

#define TEST_RAM_SIZE (32 * MiB)
#define BOARD "-machine test-board "   /* RAM, a PCI Express and an ISA bus; INTx: GSI 16 to 19 */
#define TEST_GSIS 24

/*
 * Takes -machine, -m, -device, -object, -blockdev, -chardev and -global as the command line does, in
 * any order (backends are made first).  Without -machine it is "q35".  The machine is built and reset,
 * not running: run() starts its clock and its devices' data planes.
 */
TestMachine *test_machine_try(const char *args, GError **error);
TestMachine *test_machine_new(const char *args);        /* fails the test if it cannot */
void test_machine_free(TestMachine *m);
/* One more, as the option of that name makes it.  device_error: what it says against it; g_free. */
PciDevice *add_device(TestMachine *m, const char *options);
char *device_error(TestMachine *m, const char *options);
void add_object(TestMachine *m, const char *options);
void add_blockdev(TestMachine *m, const char *options);
Machine *test_machine(TestMachine *m);
Object *test_root(TestMachine *m);
void run(TestMachine *m);
void stop(TestMachine *m);
Device *find_device(TestMachine *m, const char *id);    /* fails the test if there is none */

/* Ports and memory as a CPU reaches them. */
uint8_t io_read8(TestMachine *m, uint16_t port);
uint16_t io_read16(TestMachine *m, uint16_t port);
uint32_t io_read32(TestMachine *m, uint16_t port);
void io_write8(TestMachine *m, uint16_t port, uint8_t value);
void io_write16(TestMachine *m, uint16_t port, uint16_t value);
void io_write32(TestMachine *m, uint16_t port, uint32_t value);
uint64_t mem_read(TestMachine *m, uint64_t addr, unsigned size);
void mem_write(TestMachine *m, uint64_t addr, unsigned size, uint64_t value);
/* Guest RAM for DMA, zeroed, from 1 MiB on.  Pages unless @size is smaller. */
uint64_t dma_alloc(TestMachine *m, uint64_t size);
void *dma_host(TestMachine *m, uint64_t addr, uint64_t length);
void *guest_ptr(TestMachine *m, uint64_t addr);         /* the RAM from there on */

/* PCI: config space; and what firmware does: sizes and places every BAR, enables decoding and bus
 * mastering.  pci_bar: where BAR @n is; fails the test if it is not there. */
PciDevice *find_pci(TestMachine *m, const char *id);
void pci_set_up(TestMachine *m, PciDevice *dev);
void pci_set_up_bus(TestMachine *m, PciBus *bus);       /* all devices, also behind bridges */
uint64_t pci_bar(PciDevice *dev, unsigned n);
uint8_t pci_find_cap(PciDevice *dev, uint8_t id);       /* 0: none */
/* MSI-X on, vector n sending data @first_data + n; all unmasked. */
void pci_enable_msix(TestMachine *m, PciDevice *dev, uint32_t first_data);

/* Interrupts.  Taking an MSI forgets it. */
bool gsi_level(TestMachine *m, unsigned gsi);
unsigned gsi_edges(TestMachine *m, unsigned gsi);       /* rising, since the start */
unsigned msi_take(TestMachine *m, uint32_t data);       /* how many came with that data */
unsigned msi_count(TestMachine *m, uint32_t data);      /* how many came; forgets none */
void wait_msi(TestMachine *m, uint32_t data);

/* Events and requests; each expectation takes the first that matches, and waits for it. */
void expect_event(TestMachine *m, const char *name, const char *data_json);   /* NULL: any data */
void expect_request(TestMachine *m, MachineRequest what);
bool took_request(TestMachine *m, MachineRequest what); /* without waiting */

/* Runs the main loop until @done says so; fails the test after 30 s.  settle: until it is idle. */
void wait_until(TestMachine *m, bool (*done)(void *opaque), void *opaque);
void settle(TestMachine *m);

/* The machine's state; two that look alike give the same bytes. */
GByteArray *save_state(TestMachine *m);
bool load_state(TestMachine *m, const GByteArray *state, GError **error);
/* Of one device and what it owns.  load_exactly: fails the test if the state is refused, or another
 * is saved after that. */
GByteArray *save_object(Object *top);
void load_exactly(Object *top, const GByteArray *state);
void reset_machine(TestMachine *m);

/* A test with a machine of its own, `m`.  `_i` counts in a loop test. */
#define DEVICE_TEST(name, args)                                                                    \
    static void name##_body(TestMachine *m, int _i);                                               \
    START_TEST(name)                                                                               \
    {                                                                                              \
        TestMachine *m = test_machine_new(args);                                                   \
        name##_body(m, _i);                                                                        \
        test_machine_free(m);                                                                      \
    }                                                                                              \
    END_TEST                                                                                       \
    static void name##_body(TestMachine *m, int _i)

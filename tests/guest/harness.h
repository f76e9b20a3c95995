/*
 * A guest of ours without a machine: RAM, a few ports and registers, vCPUs, and a payload that is
 * run until it writes its result to the end port.
 */
#pragma once
#include "tests/test.h"
#include "src/kvm/kvm.h"

enum { END_PORT = 0x6f0, DATA_PORT = 0x600, GOOD = 0x600d };
#define DATA_MMIO 0xd0000000ull
#define ROM_ADDR 0xfffff000ull
#define GUEST_RAM (32ull << 20)
#define CPUS_MAX 4

typedef struct Guest Guest;
struct Guest {
    VmLock lock;
    Object *root;                           /* with the vCPUs' objects */
    Kvm *kvm;
    CpuModel *model;
    Region memory_root, io_root, ram, rom, mmio, data_ports, end_port;
    RamBlock *ram_block, *rom_block;
    AddressSpace *memory, *io;
    uint8_t bytes[16], mmio_bytes[64];      /* what was written to ports and registers */
    GByteArray *stack;                      /* DATA_PORT + 8: bytes come back in the other order */
    /* A test may watch accesses to DATA_PORT; under the VM lock, in a vCPU thread. */
    uint32_t (*on_read)(Guest *g, uint64_t offset, unsigned size);
    void (*on_write)(Guest *g, uint64_t offset, uint32_t value);
    void *opaque;

    GMutex mutex;
    GCond changed;
    unsigned mmio_writes;
    uint32_t result;                        /* of the payload; 0: none yet */
    int event;                              /* KvmEvent, -1: none */
    char *reason;
};

typedef struct GuestConfig {
    KvmIrqchip irqchip;
    unsigned cpus;                          /* 0: 1 */
    const char *cpu;                        /* NULL: "host" */
    bool coalesced;                         /* writes to DATA_MMIO may be late */
} GuestConfig;

/* Skips the program (77) where there is no /dev/kvm. */
void guest_require_kvm(void);
Guest *guest_new(const GuestConfig *config);
void guest_free(Guest *g);
/* Puts a payload into RAM, and vCPU 0 at its entry with RSI = @argument. */
void guest_load(Guest *g, const char *payload, uint64_t argument);
/* The same in flat 32-bit mode at the PVH entry; no argument. */
void guest_load_pvh(Guest *g, const char *payload);
void guest_start(Guest *g);
void guest_stop(Guest *g);
/* Until there is a result or an event; fails the test after a long time. */
uint32_t guest_wait(Guest *g);
/* Until @done(opaque) is true; call guest_poke where it may have become so. */
void guest_wait_for(Guest *g, bool (*done)(Guest *g), const char *what);
void guest_poke(Guest *g);
/* Loads, starts, waits and stops; the result must be GOOD. */
void guest_run(Guest *g, const char *payload, uint64_t argument);
void *guest_ram(Guest *g, uint64_t addr);

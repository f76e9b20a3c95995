/*
 * A machine: the board that devices are plugged into, and what they need from the outside: address
 * spaces, interrupts, RAM, and a way to ask for a reset or a power-off.  A machine is a value: tests
 * make several in one process.
 */
#pragma once
#include "hw/core/irq.h"
#include "src/kvm/cpu.h"
#include "src/memory/memory.h"
#include "src/object/object.h"

typedef struct Machine Machine;
typedef struct Bus Bus;

/* What a device may ask for; carried out by the main loop, not inside the call. */
typedef enum MachineRequest {
    MACHINE_RESET,             /* guest-reset: keyboard controller, port 92, 0xcf9, triple fault */
    MACHINE_POWEROFF,          /* guest-shutdown: soft-off */
    MACHINE_PANICKED,          /* pvpanic: crashed */
    MACHINE_CRASHLOADED,       /* pvpanic: crashed, and a crash kernel was started */
    MACHINE_STOP,              /* pause (an I/O error with werror=stop) */
    MACHINE_INTERNAL_ERROR,    /* KVM failed */
    MACHINE_SUSPEND, MACHINE_WAKEUP
} MachineRequest;

/* What a machine needs of its surroundings (src/vm.c; a harness in tests/device). */
typedef struct MachineEnv {
    void (*request)(Machine *m, MachineRequest what, const char *reason);  /* any thread */
    /* Every vCPU to its reset state; NULL in tests.  Main thread, vCPUs stopped. */
    void (*reset_cpus)(Machine *m);
    void (*inject_nmi)(Machine *m, unsigned cpu);
    /* The process is to end with this exit status (isa-debug-exit); NULL: not possible.  Any thread. */
    void (*quit)(Machine *m, int status);
    /* The TSC/CPU side of direct kernel boot: vCPU 0's registers after a reset. */
    void (*set_boot_regs)(Machine *m, const BootRegs *regs);
    void *opaque;
} MachineEnv;

/* Properties of type "machine"; the board's own types add theirs. */
struct Machine {
    Object obj;                             /* type is_a "machine"; path /machine */
    VmLock *lock;                           /* the VM lock; from the environment */
    const MachineEnv *env;
    IntrController *intr;
    AddressSpace *memory, *io;              /* as the CPUs and bus masters see them */
    Region memory_root, io_root;            /* containers the board maps into */
    SmpTopology smp;
    uint64_t ram_size;
    RamBlock *ram;                          /* ram_backend's; set before ops->build */
    Object *ram_backend;                    /* -machine memory-backend=, or made by machine_build */
    char *kernel, *initrd, *append, *firmware, *dtb;   /* -kernel … */
    char *boot_order;                       /* -boot */
    uint8_t uuid[16];
    char *cpu_type;                         /* "host", "max", "qemu64", … (name only) */
    unsigned phys_bits;                     /* of the CPUs' physical addresses; 0: not known */
    uint32_t cpu_apic_ids[1024];            /* of possible vCPUs, by index; filled by the machine type */
    struct { bool utc, clock_vm; int64_t offset_s; bool driftfix_slew; } rtc;
    bool acpi, hpet, usb, smm, dump_guest_core, mem_merge;
    Bus *main_bus;                          /* pcie.0, or NULL */
    Bus *isa_bus;
    IrqLine gsi[24];
    bool made_ram;                          /* ram_backend is the machine's own */
    bool ready;                             /* built: what is added now is hotplugged */
    GPtrArray *globals;                     /* of json_object (machine_add_global) */
    GArray *run_hooks;                      /* of RunHook (machine.c) */
    bool clock_running;
    int64_t clock_ns;                       /* machine_clock_ns when it stood still; else its offset */
    unsigned anon_count, unattached_count;  /* next N of device[N] */
};

/* Type.ops of a machine type. */
typedef struct MachineOps {
    bool (*build)(Machine *m, GError **error);       /* RAM, chipset, fixed devices */
    bool (*done)(Machine *m, GError **error);        /* after -device: ACPI, kernel loading */
    void (*reset)(Machine *m);                       /* after all devices were reset */
    void (*powerdown)(Machine *m);                   /* press the power button */
    const char *alias;                               /* "q35" for "pc-q35-1.0" */
    unsigned max_cpus;
    const char *default_cpu, *default_ram_id;
    bool is_default;
} MachineOps;

#define MACHINE(ptr) ((Machine *)(ptr))
Machine *machine_of(const Object *obj);     /* the machine of the tree that holds it */

/* The machine type of that name or alias.  NULL, with an error naming the nearest. */
const Type *machine_type_find(const char *type_or_alias, GError **error);

/* Makes /machine with its containers under a new root, without building it. */
Machine *machine_new(Object *root, const char *type_or_alias, VmLock *lock, const MachineEnv *env,
                     IntrController *intr, GError **error);
/* -global: {"driver", "property", "value"}: every device made from now on whose type is_a driver gets
 * the value before its own properties.  Takes a reference.  An unknown driver is worth a warning, as it
 * may be one of QEMU's; a property that a known one has not is an error. */
bool machine_add_global(Machine *m, json_object *global, GError **error);

/* Takes the RAM (of @ops->default_ram_id, or -machine memory-backend=) and calls ops->build. */
bool machine_build(Machine *m, GError **error);
bool machine_done(Machine *m, GError **error);       /* ops->done; then m->ready */
void machine_reset(Machine *m);                      /* devices, board, env->reset_cpus */
void machine_delete(Machine *m);                     /* unrealizes everything; drops the tree */

static inline void machine_request(Machine *m, MachineRequest what, const char *reason)
{
    m->env->request(m, what, reason);
}

/* Registered by devices that must know: called when vCPUs start (true) and have stopped (false). */
typedef void RunStateFn(void *opaque, bool running);
void machine_add_run_hook(Machine *m, RunStateFn *fn, void *opaque);
void machine_del_run_hook(Machine *m, RunStateFn *fn, void *opaque);
void machine_run_hooks(Machine *m, bool running);    /* src/vm.c, VM lock */

/* Guest clock for timers: CLOCK_MONOTONIC that stands still while the VM is stopped.  ns, from 0 to
 * MACHINE_CLOCK_MAX_NS (73 years), which leaves room for what is added to it: states with others are
 * refused (FIELD_CLOCK). */
#define MACHINE_CLOCK_MAX_NS (INT64_MAX / 4)
#define FIELD_CLOCK(type, member) FIELD(type, member, .max = MACHINE_CLOCK_MAX_NS)
int64_t machine_clock_ns(const Machine *m);

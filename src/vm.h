/*
 * One virtual machine put together: the object tree, the machine, KVM, block graph, monitors, and
 * the run state.  Main thread.
 */
#pragma once
#include "block/block.h"
#include "hw/core/machine.h"
#include "src/kvm/kvm.h"

typedef enum RunState {                    /* QMP's RunState, in its order of words */
    RUN_STATE_DEBUG, RUN_STATE_INMIGRATE, RUN_STATE_INTERNAL_ERROR, RUN_STATE_IO_ERROR,
    RUN_STATE_PAUSED, RUN_STATE_POSTMIGRATE, RUN_STATE_PRELAUNCH, RUN_STATE_FINISH_MIGRATE,
    RUN_STATE_RESTORE_VM, RUN_STATE_RUNNING, RUN_STATE_SAVE_VM, RUN_STATE_SHUTDOWN,
    RUN_STATE_SUSPENDED, RUN_STATE_WATCHDOG, RUN_STATE_GUEST_PANICKED, RUN_STATE__COUNT
} RunState;
extern const char *const run_state_words[];

/* set-action / -action. */
typedef struct VmActions {
    enum { REBOOT_RESET, REBOOT_SHUTDOWN } reboot;
    enum { SHUTDOWN_POWEROFF, SHUTDOWN_PAUSE } shutdown;
    enum { PANIC_PAUSE, PANIC_SHUTDOWN, PANIC_EXIT_FAILURE, PANIC_NONE } panic;
    int watchdog;                          /* reset, shutdown, poweroff, pause, debug, none, inject-nmi */
} VmActions;

typedef struct Vm {
    Object *root;
    VmLock lock;
    Machine *machine;
    Kvm *kvm;                              /* NULL: machine none without KVM, or a test */
    CpuModel *cpu_model;
    BlockGraph *block;
    RunState state;
    VmActions actions;
    char *name, *process_name;
    uint8_t uuid[16];
    bool uuid_set;
    bool quit_requested;
    int exit_status;
    gint pending_requests;                 /* atomic mask of MachineRequest */
    char *request_reason;
    int64_t clock_offset_ns;
} Vm;

Vm *vm_new(void);
void vm_free(Vm *vm);
RunState vm_state(const Vm *vm);
bool vm_running(const Vm *vm);
bool vm_start(Vm *vm, GError **error);     /* cont: emits RESUME */
void vm_stop(Vm *vm, RunState why);        /* emits STOP */
bool vm_reset(Vm *vm, GError **error);     /* system_reset: emits RESET{guest:false} */
void vm_powerdown(Vm *vm);                 /* presses the button: emits POWERDOWN */
void vm_quit(Vm *vm, int exit_status, const char *reason);  /* ends the main loop; emits SHUTDOWN */
void vm_run(Vm *vm);                       /* the main loop, until vm_quit */
Vm *vm_of(const Object *any);

/*
 * One virtual machine at run time: its parts, its run state, and what its devices and monitors ask
 * of it.  src/setup.c puts one together.  Everything here: main thread, VM lock held, unless said.
 */
#pragma once
#include "block/block.h"
#include "hw/core/machine.h"
#include "schema/events.h"
#include "src/kvm/kvm.h"

typedef enum RunState {                    /* QMP's RunState; run_state_words has the words */
    RUN_STATE_DEBUG, RUN_STATE_INMIGRATE, RUN_STATE_INTERNAL_ERROR, RUN_STATE_IO_ERROR,
    RUN_STATE_PAUSED, RUN_STATE_POSTMIGRATE, RUN_STATE_PRELAUNCH, RUN_STATE_FINISH_MIGRATE,
    RUN_STATE_RESTORE_VM, RUN_STATE_RUNNING, RUN_STATE_SAVE_VM, RUN_STATE_SHUTDOWN,
    RUN_STATE_SUSPENDED, RUN_STATE_WATCHDOG, RUN_STATE_GUEST_PANICKED, RUN_STATE__COUNT
} RunState;
extern const char *const run_state_words[];

/* set-action, -action, -no-reboot, -no-shutdown.  The word tables are NULL-ended. */
typedef struct VmActions {
    enum { REBOOT_RESET, REBOOT_SHUTDOWN } reboot;
    enum { SHUTDOWN_POWEROFF, SHUTDOWN_PAUSE } shutdown;
    enum { PANIC_PAUSE, PANIC_SHUTDOWN, PANIC_EXIT_FAILURE, PANIC_NONE } panic;
    int watchdog;                          /* index in watchdog_action_words */
} VmActions;
extern const char *const reboot_action_words[], *const shutdown_action_words[],
    *const panic_action_words[], *const watchdog_action_words[];

typedef struct Vm {
    Object *root;
    VmLock lock;
    Machine *machine;
    Kvm *kvm;                              /* NULL: machine none on a host without KVM */
    CpuModel *cpu_model;
    BlockGraph *block;
    RunState state;                        /* set by the main thread; others ask vm_state */
    VmActions actions;
    char *name;                            /* -name guest=; NULL: none */
    uint8_t uuid[16];                      /* zero: none was given */
    MachineEnv machine_env;
    KvmEnv kvm_env;
    struct MonitorSet *monitors;            /* monitor/monitor.c; NULL: none yet */
    bool quit;                             /* the main loop is to end */
    int exit_status;
} Vm;

/* An empty one: root object, block graph, lock (held by the caller from now on). */
Vm *vm_new(GError **error);
void vm_free(Vm *vm);                      /* stops, unplugs and closes everything */
Vm *vm_of(const Object *any);              /* NULL: the object is in no VM's tree */

RunState vm_state(const Vm *vm);           /* any thread, as the next */
bool vm_running(const Vm *vm);
/* cont: emits RESUME.  False: a state that a reset must end first. */
bool vm_start(Vm *vm, GError **error);
/* Stops the vCPUs and the data plane; returns when no request is in flight; emits STOP if it ran. */
void vm_stop(Vm *vm, RunState why);
/* system_reset: emits RESET{guest: false}. */
void vm_reset(Vm *vm);
/* system_powerdown: presses the power button; emits POWERDOWN. */
bool vm_powerdown(Vm *vm, GError **error);
/* Ends the main loop; emits SHUTDOWN once.  @cause: who asked.  Any thread. */
void vm_quit(Vm *vm, int exit_status, bool guest, QmpShutdownCause cause);
int vm_run(Vm *vm);                        /* the main loop, until vm_quit; the exit status */

/* Any thread: what a device or a vCPU asks for; carried out by the main loop. */
void vm_request(Vm *vm, MachineRequest what, const char *reason);

/*
 * The run state of a virtual machine, and what changes it.
 *
 *     prelaunch --cont--> running --stop, panic, error, power-off--> paused, guest-panicked,
 *         ^                  ^                                       io-error, internal-error,
 *         |                  +----------cont (not after the last three) ---- shutdown
 *         +----------------------------system_reset ------------------------+
 *
 * Devices and vCPUs ask from any thread (vm_request); the main loop acts.
 */
#include "src/vm.h"
#include "block/export.h"
#include <string.h>
#include "schema/events.h"
#include "src/base/loop.h"
#include "src/base/trace.h"

const char *const run_state_words[] = {
    [RUN_STATE_DEBUG] = "debug", [RUN_STATE_INMIGRATE] = "inmigrate",
    [RUN_STATE_INTERNAL_ERROR] = "internal-error", [RUN_STATE_IO_ERROR] = "io-error",
    [RUN_STATE_PAUSED] = "paused", [RUN_STATE_POSTMIGRATE] = "postmigrate",
    [RUN_STATE_PRELAUNCH] = "prelaunch", [RUN_STATE_FINISH_MIGRATE] = "finish-migrate",
    [RUN_STATE_RESTORE_VM] = "restore-vm", [RUN_STATE_RUNNING] = "running",
    [RUN_STATE_SAVE_VM] = "save-vm", [RUN_STATE_SHUTDOWN] = "shutdown",
    [RUN_STATE_SUSPENDED] = "suspended", [RUN_STATE_WATCHDOG] = "watchdog",
    [RUN_STATE_GUEST_PANICKED] = "guest-panicked", [RUN_STATE__COUNT] = NULL,
};
const char *const reboot_action_words[] = { "reset", "shutdown", NULL };
const char *const shutdown_action_words[] = { "poweroff", "pause", NULL };
const char *const panic_action_words[] = { "pause", "shutdown", "exit-failure", "none", NULL };
const char *const watchdog_action_words[] = { "reset", "shutdown", "poweroff", "pause",
                                              "debug", "none",     "inject-nmi", NULL };

Vm *vm_of(const Object *any)
{
    return object_root_owner(any);
}

RunState vm_state(const Vm *vm)
{
    return __atomic_load_n(&vm->state, __ATOMIC_RELAXED);
}

bool vm_running(const Vm *vm)
{
    return vm_state(vm) == RUN_STATE_RUNNING;
}

static void set_state(Vm *vm, RunState state)
{
    TRACE(vm_state, "%s -> %s", run_state_words[vm->state], run_state_words[state]);
    __atomic_store_n(&vm->state, state, __ATOMIC_RELAXED);
}

/* States that only a reset leads out of. */
static bool needs_reset(RunState state)
{
    return state == RUN_STATE_SHUTDOWN || state == RUN_STATE_INTERNAL_ERROR ||
           state == RUN_STATE_GUEST_PANICKED;
}

bool vm_start(Vm *vm, GError **error)
{
    if (vm_running(vm))
        return true;
    if (needs_reset(vm->state)) {
        fail(error, ERR_BAD_STATE, "the machine is in state '%s'", run_state_words[vm->state]);
        return error_hint(error, "reset it first (system_reset)");
    }
    if (vm->block)
        block_graph_reset_io_status(vm->block);    /* what has failed is tried again */
    if (vm->machine)
        machine_run_hooks(vm->machine, true);
    set_state(vm, RUN_STATE_RUNNING);
    event_resume(vm->root);
    if (vm->kvm)
        kvm_vcpus_start(vm->kvm);
    return true;
}

void vm_stop(Vm *vm, RunState why)
{
    if (!vm_running(vm)) {
        /* A stopped machine may still learn of something worse than a pause. */
        if (why != RUN_STATE_PAUSED)
            set_state(vm, why);
        return;
    }
    if (vm->kvm)
        kvm_vcpus_stop(vm->kvm);
    if (vm->machine)
        machine_run_hooks(vm->machine, false);
    set_state(vm, why);
    event_stop(vm->root);
}

static void reset(Vm *vm, bool guest, QmpShutdownCause cause)
{
    bool was_running = vm_running(vm);

    if (was_running && vm->kvm)
        kvm_vcpus_stop(vm->kvm);
    if (vm->machine)
        machine_reset(vm->machine);
    event_reset(vm->root, guest, cause);
    if (!was_running) {
        set_state(vm, RUN_STATE_PRELAUNCH);
        return;
    }
    if (vm->kvm)
        kvm_vcpus_start(vm->kvm);
}

bool vm_powerdown(Vm *vm, GError **error)
{
    const MachineOps *ops = vm->machine ? type_ops(vm->machine->obj.type) : NULL;

    if (!ops || !ops->powerdown)
        return fail(error, ERR_UNSUPPORTED, "this machine has no power button");
    ops->powerdown(vm->machine);
    event_powerdown(vm->root);
    return true;
}

typedef struct Quit {
    Vm *vm;
    int status;
    bool guest;
    QmpShutdownCause cause;
} Quit;

static void quit_now(void *opaque)
{
    g_autofree Quit *q = opaque;

    vm_quit(q->vm, q->status, q->guest, q->cause);
}

static void post_quit(Vm *vm, int status, bool guest, QmpShutdownCause cause)
{
    Quit *q = g_new(Quit, 1);

    *q = (Quit){ vm, status, guest, cause };
    loop_post(loop_main(), quit_now, q);
}

void vm_quit(Vm *vm, int exit_status, bool guest, QmpShutdownCause cause)
{
    if (!loop_is_current(loop_main())) {
        post_quit(vm, exit_status, guest, cause);
        return;
    }
    if (vm->quit)
        return;
    vm->quit = true;
    vm->exit_status = exit_status;
    event_shutdown(vm->root, guest, cause);
    loop_kick(loop_main());
}

/* The guest, or an action in its place, ended the machine. */
static void shut_down(Vm *vm, bool guest, QmpShutdownCause cause)
{
    if (vm->actions.shutdown == SHUTDOWN_POWEROFF) {
        vm_quit(vm, 0, guest, cause);
        return;
    }
    event_shutdown(vm->root, guest, cause);
    vm_stop(vm, RUN_STATE_SHUTDOWN);
}

void vm_reset(Vm *vm)
{
    QmpShutdownCause cause = QMP_SHUTDOWN_CAUSE_HOST_QMP_SYSTEM_RESET;

    if (vm->actions.reboot == REBOOT_SHUTDOWN)
        shut_down(vm, false, cause);
    else
        reset(vm, false, cause);
}

static void panicked(Vm *vm)
{
    /* -no-shutdown keeps the machine for whoever manages it, in this case, too. */
    bool keep = vm->actions.panic == PANIC_SHUTDOWN && vm->actions.shutdown == SHUTDOWN_PAUSE;

    switch (keep ? PANIC_PAUSE : vm->actions.panic) {
    case PANIC_NONE:
        event_guest_panicked(vm->root, QMP_GUEST_PANIC_ACTION_RUN);
        break;
    case PANIC_PAUSE:
        event_guest_panicked(vm->root, QMP_GUEST_PANIC_ACTION_PAUSE);
        vm_stop(vm, RUN_STATE_GUEST_PANICKED);
        break;
    case PANIC_SHUTDOWN:
    case PANIC_EXIT_FAILURE:
        event_guest_panicked(vm->root, QMP_GUEST_PANIC_ACTION_POWEROFF);
        vm_stop(vm, RUN_STATE_GUEST_PANICKED);
        vm_quit(vm, vm->actions.panic == PANIC_EXIT_FAILURE, true, QMP_SHUTDOWN_CAUSE_GUEST_PANIC);
        break;
    }
}

static void carry_out(Vm *vm, MachineRequest what, const char *reason)
{
    TRACE(vm_request, "%d: %s", what, reason ?: "");
    switch (what) {
    case MACHINE_RESET:
        if (vm->actions.reboot == REBOOT_SHUTDOWN)
            shut_down(vm, true, QMP_SHUTDOWN_CAUSE_GUEST_RESET);
        else
            reset(vm, true, QMP_SHUTDOWN_CAUSE_GUEST_RESET);
        break;
    case MACHINE_POWEROFF:
        shut_down(vm, true, QMP_SHUTDOWN_CAUSE_GUEST_SHUTDOWN);
        break;
    case MACHINE_PANICKED:
        panicked(vm);
        break;
    case MACHINE_CRASHLOADED:
        event_guest_crashloaded(vm->root, QMP_GUEST_PANIC_ACTION_RUN);
        break;
    case MACHINE_STOP:
        vm_stop(vm, RUN_STATE_IO_ERROR);
        break;
    case MACHINE_INTERNAL_ERROR:
        warn_report("%s; the machine is stopped", reason ?: "KVM failed");
        event_internal_error(vm->root, reason ?: "");
        vm_stop(vm, RUN_STATE_INTERNAL_ERROR);
        break;
    case MACHINE_SUSPEND:
    case MACHINE_WAKEUP:
        break;
    }
}

typedef struct Request {
    Vm *vm;
    MachineRequest what;
    char *reason;
} Request;

static void on_request(void *opaque)
{
    Request *r = opaque;

    if (!r->vm->quit)
        carry_out(r->vm, r->what, r->reason);
    g_free(r->reason);
    g_free(r);
}

void vm_request(Vm *vm, MachineRequest what, const char *reason)
{
    Request *r = g_new(Request, 1);

    *r = (Request){ vm, what, g_strdup(reason) };
    loop_post(loop_main(), on_request, r);
}

/* ---- what the machine and KVM need of us ---- */

static void on_machine_request(Machine *m, MachineRequest what, const char *reason)
{
    vm_request(m->env->opaque, what, reason);
}

static void on_machine_quit(Machine *m, int status)
{
    post_quit(m->env->opaque, status, true, QMP_SHUTDOWN_CAUSE_GUEST_SHUTDOWN);
}

static void on_reset_cpus(Machine *m)
{
    Vm *vm = m->env->opaque;

    if (vm->kvm && kvm_vcpu_count(vm->kvm))
        kvm_vcpus_reset(vm->kvm);
}

static void on_inject_nmi(Machine *m, unsigned cpu)
{
    Vm *vm = m->env->opaque;

    if (vm->kvm)
        kvm_inject_nmi(vm->kvm, cpu);
}

static void on_set_boot_regs(Machine *m, const BootRegs *regs)
{
    Vm *vm = m->env->opaque;

    if (vm->kvm && kvm_vcpu_count(vm->kvm))
        kvm_vcpu_set_boot_regs(kvm_vcpu(vm->kvm, 0), regs);
}

static void on_kvm_event(void *opaque, KvmEvent what, const char *reason)
{
    static const MachineRequest requests[] = {
        [KVM_EVENT_RESET] = MACHINE_RESET, [KVM_EVENT_SHUTDOWN] = MACHINE_POWEROFF,
        [KVM_EVENT_CRASH] = MACHINE_PANICKED, [KVM_EVENT_INTERNAL_ERROR] = MACHINE_INTERNAL_ERROR,
    };

    vm_request(opaque, requests[what], reason);
}

static int64_t guest_clock(void *opaque)
{
    Vm *vm = opaque;

    return vm->machine ? machine_clock_ns(vm->machine) : 0;
}

Vm *vm_new(GError **error)
{
    Vm *vm = g_new0(Vm, 1);

    vm_lock_init(&vm->lock);
    vm_lock(&vm->lock);
    loop_set_vm_lock(loop_main(), &vm->lock);
    vm->root = object_new(type_find("container"));
    object_set_root_owner(vm->root, vm);
    vm->state = RUN_STATE_PRELAUNCH;
    vm->actions.panic = PANIC_SHUTDOWN;
    vm->machine_env = (MachineEnv){
        .request = on_machine_request, .quit = on_machine_quit, .reset_cpus = on_reset_cpus,
        .inject_nmi = on_inject_nmi, .set_boot_regs = on_set_boot_regs, .opaque = vm,
    };
    vm->kvm_env = (KvmEnv){ .event = on_kvm_event, .lock = &vm->lock, .opaque = vm };
    vm->block = block_graph_new(vm->root, error);
    if (vm->block)
        block_graph_set_clock(vm->block, guest_clock, vm);
    else
        g_clear_pointer(&vm, vm_free);
    return vm;
}

void vm_free(Vm *vm)
{
    if (!vm)
        return;
    if (vm->kvm)
        kvm_vcpus_stop(vm->kvm);
    if (vm->machine && vm_running(vm))
        machine_run_hooks(vm->machine, false);
    if (vm->kvm)
        kvm_vcpus_destroy(vm->kvm);
    /* Devices let go of KVM's interrupts, then KVM of the machine's address spaces. */
    if (vm->machine) {
        object_ref(vm->machine);
        machine_delete(vm->machine);
    }
    if (vm->block) {
        block_exports_close(vm->root);
        block_graph_close(vm->block);
    }
    if (vm->kvm)
        kvm_free(vm->kvm);
    object_unref(vm->machine);
    cpu_model_free(vm->cpu_model);
    object_unref(vm->root);
    loop_set_vm_lock(loop_main(), NULL);
    vm_unlock(&vm->lock);
    vm_lock_clear(&vm->lock);
    g_free(vm->name);
    g_free(vm);
}

int vm_run(Vm *vm)
{
    loop_wait(&vm->quit);
    return vm->exit_status;
}

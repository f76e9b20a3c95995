/*
 * vireo: one process, one virtual machine.
 */
#include <errno.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include "monitor/monitor.h"
#include "src/base/loop.h"
#include "src/base/process.h"
#include "src/base/util.h"
#include "src/chardev/chardev.h"
#include "src/setup.h"

/* ---- -daemonize: the parent leaves when the machine is set up, with its exit status ---- */

static int daemonize_begin(void)
{
    int fd = process_daemonize("-daemonize");

    umask(027);
    return fd;
}

static bool daemonize_end(int fd, GError **error)
{
    if (chdir("/") < 0) {
        close(fd);
        return fail_errno(error, errno, "-daemonize");
    }
    return process_ready(fd, "-daemonize", error);
}

/* ---- signals ---- */

typedef struct Signals {
    int fd;
    Vm *vm;
} Signals;

static void on_signal(void *opaque, unsigned events)
{
    Signals *s = opaque;
    struct signalfd_siginfo info;

    if (read(s->fd, &info, sizeof(info)) != sizeof(info))
        return;
    info_report("ended by signal %u from process %u", info.ssi_signo, info.ssi_pid);
    vm_quit(s->vm, 0, false, QMP_SHUTDOWN_CAUSE_HOST_SIGNAL);
}

static void on_mux_quit(void *opaque)
{
    vm_quit(opaque, 0, false, QMP_SHUTDOWN_CAUSE_HOST_UI);
}

/* ---- main ---- */

static int report_failure(GError *error)
{
    chardev_restore_terminal();
    error_report(error);
    g_error_free(error);
    return 1;
}

/* From a set-up machine to its end; the exit status. */
static int run(Vm *vm, const Config *config, Signals *signals, int daemon_fd)
{
    GError *error = NULL;
    LoopFd *watch;
    int status;

    if (!vm_setup(vm, config, &error))
        return report_failure(error);
    chardev_set_quit_hook(vm->root, on_mux_quit, vm);
    watch = loop_add_fd(loop_main(), signals->fd, G_IO_IN, on_signal, signals);
    if ((daemon_fd >= 0 && !daemonize_end(daemon_fd, &error)) ||
        (!config->stopped && !vm_start(vm, &error))) {
        loop_fd_remove(watch);
        return report_failure(error);
    }
    status = vm_run(vm);
    loop_fd_remove(watch);
    chardev_restore_terminal();
    return status;
}

int main(int argc, char **argv)
{
    g_autoptr(Config) config = config_new();
    GError *error = NULL;
    Signals signals;
    g_autofree char *pidfile = NULL;
    auto_fd pid_fd = -1;
    int daemon_fd = -1, status;

    if (!cli_parse(config, argc, argv, &error))
        return report_failure(error);
    if (config->exit_now)
        return 0;
    if (config->daemonize)
        daemon_fd = daemonize_begin();
    if (config->process_name)
        prctl(PR_SET_NAME, config->process_name);
    if (config->pidfile) {
        pidfile = g_canonicalize_filename(config->pidfile, NULL);   /* a daemon moves to / */
        if (!process_write_pid("-pidfile", pidfile, &pid_fd, &error))
            return report_failure(error);
    }

    signals.fd = process_take_signals();
    signals.vm = vm_new(&error);
    if (!signals.vm)
        return report_failure(error);
    status = run(signals.vm, config, &signals, daemon_fd);
    monitor_cleanup(signals.vm);
    vm_free(signals.vm);
    close(signals.fd);
    if (pidfile)
        unlink(pidfile);
    return status;
}

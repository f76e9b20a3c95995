/*
 * vireo: one process, one virtual machine.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include "monitor/monitor.h"
#include "src/base/loop.h"
#include "src/base/util.h"
#include "src/chardev/chardev.h"
#include "src/setup.h"

/* ---- -daemonize: the parent leaves when the machine is set up, with its exit status ---- */

/* In the daemon: the descriptor on which the parent waits.  Does not return in the parent. */
static int daemonize_begin(void)
{
    int fds[2];
    char ok = 0;
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
        fprintf(stderr, "vireo: -daemonize: %s\n", strerror(errno));
        exit(1);
    }
    if (pid) {
        close(fds[1]);
        while (read(fds[0], &ok, 1) < 0 && errno == EINTR)
            ;
        _exit(ok ? 0 : 1);
    }
    close(fds[0]);
    setsid();
    if (fork() != 0)
        _exit(0);
    umask(027);
    return fds[1];
}

static bool daemonize_end(int fd, GError **error)
{
    auto_fd notify = fd;
    auto_fd null = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (null < 0 || chdir("/") < 0)
        return fail_errno(error, errno, "-daemonize");
    for (int i = 0; i < 3; i++)
        dup2(null, i);
    if (write(notify, "k", 1) != 1)
        return fail_errno(error, errno, "-daemonize");
    return true;
}

/* ---- -pidfile ---- */

/* Locked for as long as we live, so that two machines cannot share one. */
static bool write_pidfile(const char *path, int *ret_fd, GError **error)
{
    auto_fd fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    g_autofree char *text = g_strdup_printf("%d\n", getpid());

    if (fd < 0)
        return fail_errno(error, errno, "-pidfile %s", path);
    if (fcntl(fd, F_SETLK, &lock) < 0) {
        fcntl(fd, F_GETLK, &lock);
        return fail(error, ERR_LOCKED, "-pidfile %s: process %d holds it", path, lock.l_pid);
    }
    if (ftruncate(fd, 0) < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        return fail_errno(error, errno, "-pidfile %s", path);
    *ret_fd = steal_fd(&fd);
    return true;
}

/* ---- signals ---- */

static int block_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

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
        if (!write_pidfile(pidfile, &pid_fd, &error))
            return report_failure(error);
    }

    signals.fd = block_signals();
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

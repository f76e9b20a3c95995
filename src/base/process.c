/* Programs that serve in the background. */
#include "src/base/process.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include "src/base/error.h"
#include "src/base/util.h"

int process_daemonize(const char *option)
{
    int fds[2];
    char ok = 0;
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
        fprintf(stderr, "%s: %s: %s\n", g_get_prgname() ?: "vireo", option, strerror(errno));
        exit(1);
    }
    if (pid) {
        close(fds[1]);
        while (read(fds[0], &ok, 1) < 0 && errno == EINTR)
            continue;
        _exit(ok ? 0 : 1);
    }
    close(fds[0]);
    setsid();
    if (fork() != 0)
        _exit(0);                          /* who leads no session gets no terminal again */
    return fds[1];
}

bool process_ready(int fd, const char *option, GError **error)
{
    auto_fd notify = fd;
    auto_fd null = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (null < 0)
        return fail_errno(error, errno, "%s", option);
    for (int i = 0; i < 3; i++)
        dup2(null, i);
    return write(notify, "k", 1) == 1 || fail_errno(error, errno, "%s", option);
}

bool process_write_pid(const char *option, const char *path, int *ret_fd, GError **error)
{
    auto_fd fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    g_autofree char *text = g_strdup_printf("%d\n", getpid());

    if (fd < 0)
        return fail_errno(error, errno, "%s %s", option, path);
    if (fcntl(fd, F_SETLK, &lock) < 0) {
        fcntl(fd, F_GETLK, &lock);
        return fail(error, ERR_LOCKED, "%s %s: process %d holds it", option, path, lock.l_pid);
    }
    if (ftruncate(fd, 0) < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        return fail_errno(error, errno, "%s %s", option, path);
    *ret_fd = steal_fd(&fd);
    return true;
}

int process_take_signals(void)
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

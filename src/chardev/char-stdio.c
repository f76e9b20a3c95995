/* stdio: standard input and output, a terminal in raw mode if it is one. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>
#include "src/chardev/chardev-int.h"

/* The process has one terminal, and must give it back also when it ends in a signal handler. */
static struct {
    bool in_use;                   /* by a chardev */
    bool saved;
    struct termios found, raw;
    int flags_in, flags_out;       /* of descriptors 0 and 1 as found; -1: not touched */
} terminal = { .flags_in = -1, .flags_out = -1 };

void chardev_restore_terminal(void)
{
    if (terminal.saved)
        tcsetattr(STDIN_FILENO, TCSANOW, &terminal.found);
    if (terminal.flags_in >= 0)
        fcntl(STDIN_FILENO, F_SETFL, terminal.flags_in);
    if (terminal.flags_out >= 0)
        fcntl(STDOUT_FILENO, F_SETFL, terminal.flags_out);
}

/* After Ctrl-Z and fg the shell may have left its own settings. */
static void on_continue(int signal)
{
    int err = errno;
    if (terminal.in_use && terminal.saved)
        tcsetattr(STDIN_FILENO, TCSANOW, &terminal.raw);
    errno = err;
}

/* Bytes as typed: no echo, no lines; output is still cooked, so that our own messages look right. */
static void make_raw(bool signals)
{
    if (tcgetattr(STDIN_FILENO, &terminal.found))
        return;
    terminal.raw = terminal.found;
    terminal.raw.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL |
                                        IXON);
    terminal.raw.c_oflag |= OPOST;
    terminal.raw.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | IEXTEN);
    if (!signals)
        terminal.raw.c_lflag &= ~(tcflag_t)ISIG;
    terminal.raw.c_cflag = (terminal.raw.c_cflag & ~(tcflag_t)(CSIZE | PARENB)) | CS8;
    terminal.raw.c_cc[VMIN] = 1;
    terminal.raw.c_cc[VTIME] = 0;
    if (!terminal.saved) {
        struct sigaction action = { .sa_handler = on_continue, .sa_flags = SA_RESTART };
        sigaction(SIGCONT, &action, NULL);
        atexit(chardev_restore_terminal);
    }
    terminal.saved = true;
    tcsetattr(STDIN_FILENO, TCSANOW, &terminal.raw);
}

/* A descriptor of our own that does not block.  O_NONBLOCK belongs to the open file, which others
 * share (our stderr, the shell): a terminal or pipe is opened anew where that is possible, a regular
 * file never blocks, and only for the rest is the flag set on what is shared, until the end. */
static int own_descriptor(int fd, int access, int *found, GError **error)
{
    struct stat st;
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    if (fstat(fd, &st)) {
        fail_errno(error, errno, "standard %s is closed", fd ? "output" : "input");
        return -1;
    }
    if (S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode)) {
        int anew = open(path, access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (anew >= 0)
            return anew;
    }
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) {
        fail_errno(error, errno, "cannot duplicate standard %s", fd ? "output" : "input");
    } else if (!S_ISREG(st.st_mode)) {
        *found = fcntl(fd, F_GETFL);
        fcntl(fd, F_SETFL, *found | O_NONBLOCK);
    }
    return copy;
}

static const char *const stdio_options[] = { "signal", "logfile", "logappend", "mux", NULL };

static bool stdio_open(Chardev *cd, json_object *options, GError **error)
{
    bool signals = true;
    if (!take_bool(options, "signal", &signals, error))
        return false;
    if (terminal.in_use)
        return fail(error, ERR_IN_USE, "cannot use stdio by multiple character devices");
    cd->in_fd = own_descriptor(STDIN_FILENO, O_RDONLY, &terminal.flags_in, error);
    if (cd->in_fd < 0)
        return false;
    cd->out_fd = own_descriptor(STDOUT_FILENO, O_WRONLY, &terminal.flags_out, error);
    if (cd->out_fd < 0)
        return false;
    signal(SIGPIPE, SIG_IGN);
    terminal.in_use = true;
    make_raw(signals);
    cd->connected = true;
    return true;
}

static void stdio_finalize(Object *obj)
{
    if (!obj->realized && ((Chardev *)obj)->connected) {
        chardev_restore_terminal();
        terminal.in_use = false;
    }
}

static const CharOps stdio_ops = { .open = stdio_open, .options = stdio_options,
                                   .any_loop = chardev_any_loop };
static const Type stdio_type = {
    .name = "chardev-stdio", .parent = "chardev", .help = "standard input and output",
    .ops = &stdio_ops, .finalize = stdio_finalize,
};
TYPE_REGISTER(stdio_type)

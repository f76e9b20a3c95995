/* pty: a pseudo-terminal of our own; whoever opens its other end is the peer. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <termios.h>
#include <unistd.h>
#include "src/chardev/chardev-int.h"

enum { LOOK_AGAIN_NS = 1000000000 };

typedef struct CharPty {
    Chardev cd;
    char *path;
    int opens_fd;                  /* inotify: somebody opens the other end; -1: not available */
    LoopFd *opens_watch;
    LoopTimer look;                /* without inotify: look again from time to time */
} CharPty;

/* While nobody has the other end open, poll says so. */
static void pty_look(void *opaque)
{
    CharPty *pty = opaque;
    struct pollfd fd = { .fd = pty->cd.in_fd, .events = POLLIN };
    bool peer = poll(&fd, 1, 0) >= 0 && !(fd.revents & POLLHUP);
    if (peer)
        chardev_set_connected(&pty->cd, true);
    else if (pty->opens_fd < 0)
        loop_timer_set(&pty->look, loop_clock_ns() + LOOK_AGAIN_NS);
}

static void pty_opened(void *opaque, unsigned events)
{
    CharPty *pty = opaque;
    char buffer[4096];
    while (read(pty->opens_fd, buffer, sizeof(buffer)) > 0)
        continue;
    pty_look(pty);
}

static void pty_hang_up(Chardev *cd)
{
    chardev_set_connected(cd, false);
    pty_look(cd); /* another one may have come meanwhile */
}

static void notify_opens(CharPty *pty)
{
    pty->opens_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (pty->opens_fd >= 0 && inotify_add_watch(pty->opens_fd, pty->path, IN_OPEN) < 0) {
        close(pty->opens_fd);
        pty->opens_fd = -1;
    }
}

static void pty_leave_loop(Chardev *cd, Loop *to)
{
    CharPty *pty = (CharPty *)cd;
    loop_fd_remove(g_steal_pointer(&pty->opens_watch));
    loop_timer_cancel(&pty->look);
    loop_timer_init(&pty->look, to, pty_look, pty);
}

/* In whatever loop it is now. */
static void pty_update(Chardev *cd)
{
    CharPty *pty = (CharPty *)cd;
    if (pty->opens_fd >= 0 && !pty->opens_watch)
        pty->opens_watch = loop_add_fd(cd->loop, pty->opens_fd, G_IO_IN, pty_opened, pty);
    else if (pty->opens_fd < 0 && !cd->connected)
        pty_look(pty);
}

/* The other end in raw mode.  It is opened and closed once: from then on poll tells of a peer. */
static bool prepare_other_end(const char *path, GError **error)
{
    struct termios mode;
    int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return fail_errno(error, errno, "cannot open '%s'", path);
    tcgetattr(fd, &mode);
    cfmakeraw(&mode);
    tcsetattr(fd, TCSANOW, &mode);
    close(fd);
    return true;
}

static const char *const pty_options[] = { "logfile", "logappend", "mux", NULL };

static bool pty_open(Chardev *cd, json_object *options, GError **error)
{
    CharPty *pty = (CharPty *)cd;
    char path[64];
    pty->opens_fd = -1;
    loop_timer_init(&pty->look, cd->loop, pty_look, pty);
    cd->in_fd = cd->out_fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (cd->in_fd < 0)
        return fail_errno(error, errno, "Failed to create PTY");
    int err = grantpt(cd->in_fd) || unlockpt(cd->in_fd) ? errno : ptsname_r(cd->in_fd, path,
                                                                            sizeof(path));
    if (err)
        return fail_errno(error, err, "Failed to create PTY");
    pty->path = g_strdup(path);
    if (!prepare_other_end(path, error))
        return false;
    notify_opens(pty);
    pty_look(pty);
    info_report("char device redirected to %s (label %s)", path, chardev_id(cd));
    return true;
}

static char *pty_filename(Chardev *cd)
{
    return g_strconcat("pty:", ((CharPty *)cd)->path, NULL);
}

static void pty_finalize(Object *obj)
{
    CharPty *pty = (CharPty *)obj;
    loop_fd_remove(pty->opens_watch);
    loop_timer_cancel(&pty->look);
    if (pty->path && pty->opens_fd >= 0)
        close(pty->opens_fd);
    g_free(pty->path);
}

const char *chardev_pty_path(const Chardev *cd)
{
    return object_is_a(&cd->obj, "chardev-pty") ? ((const CharPty *)cd)->path : NULL;
}

static const CharOps pty_ops = { .open = pty_open, .hang_up = pty_hang_up,
                                 .filename = pty_filename, .options = pty_options,
                                 .update = pty_update, .any_loop = chardev_any_loop,
                                 .leave_loop = pty_leave_loop };
static const Type pty_type = {
    .name = "chardev-pty", .parent = "chardev", .help = "a pseudo-terminal",
    .size = sizeof(CharPty), .ops = &pty_ops, .finalize = pty_finalize,
};
TYPE_REGISTER(pty_type)

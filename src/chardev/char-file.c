/* Kinds that are files: null, file, pipe. */
#include <errno.h>
#include <fcntl.h>
#include "src/base/fdset.h"
#include "src/chardev/chardev-int.h"

/* --- null: takes all, gives nothing --- */

static bool null_open(Chardev *cd, json_object *options, GError **error)
{
    cd->connected = true;
    return true;
}

static const CharOps null_ops = { .open = null_open };
static const Type null_type = {
    .name = "chardev-null", .parent = "chardev", .help = "takes all and gives nothing",
    .ops = &null_ops,
};
TYPE_REGISTER(null_type)

/* --- file: output to one, input from another --- */

static const char *const file_options[] = { "path", "append", "input-path", "in", "logfile",
                                            "logappend", "mux", NULL };

static bool file_open_both(Chardev *cd, json_object *options, GError **error)
{
    g_autofree char *path = NULL, *input = NULL;
    bool append = false;
    if (!need_str(options, "path", &path, error) ||
        !take_bool(options, "append", &append, error) ||
        !take_str(options, "input-path", &input, error) ||
        (!input && !take_str(options, "in", &input, error)))
        return false;
    cd->out_fd = file_open(path, O_WRONLY | O_CREAT | (append ? O_APPEND : O_TRUNC), 0666, error);
    if (cd->out_fd < 0)
        return false;
    if (input) {
        cd->in_fd = file_open(input, O_RDONLY | O_NONBLOCK, 0, error);
        if (cd->in_fd < 0)
            return false;
    }
    cd->connected = true;
    return true;
}

static const CharOps file_ops = { .open = file_open_both, .options = file_options };
static const Type file_type = {
    .name = "chardev-file", .parent = "chardev", .help = "output to a file",
    .ops = &file_ops,
};
TYPE_REGISTER(file_type)

/* --- pipe: PATH.in and PATH.out, or PATH for both --- */

static const char *const pipe_options[] = { "path", "logfile", "logappend", "mux", NULL };

/* Opened for both directions, so that it neither waits for its other end nor ever sees it go. */
static int open_fifo(const char *path, const char *suffix)
{
    g_autofree char *full = g_strconcat(path, suffix, NULL);
    return open(full, O_RDWR | O_NONBLOCK | O_CLOEXEC);
}

static bool pipe_open(Chardev *cd, json_object *options, GError **error)
{
    g_autofree char *path = NULL;
    if (!need_str(options, "path", &path, error))
        return false;
    cd->in_fd = open_fifo(path, ".in");
    cd->out_fd = open_fifo(path, ".out");
    if (cd->in_fd < 0 || cd->out_fd < 0) {
        chardev_close_fds(cd);
        cd->in_fd = cd->out_fd = open_fifo(path, "");
    }
    if (cd->in_fd < 0)
        return fail_errno(error, errno, "cannot open '%s'", path);
    cd->connected = true;
    return true;
}

static const CharOps pipe_ops = { .open = pipe_open, .options = pipe_options,
                                  .any_loop = chardev_any_loop };
static const Type pipe_type = {
    .name = "chardev-pipe", .parent = "chardev", .help = "named pipes PATH.in and PATH.out, or PATH",
    .ops = &pipe_ops,
};
TYPE_REGISTER(pipe_type)

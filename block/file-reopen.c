/*
 * Other options for an open file or device.  Whether it may be written, and whether the page cache is left
 * out, are the descriptor's own: another one takes its place, under the same number, which refreshes
 * that are under way may still use.
 */
#include "block/file-int.h"
#include "block/image-lock.h"
#include "src/base/fdset.h"
#include "src/base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct FileReopen {
    AioFile aio;                           /* fd: what was open before; -1: the same as now */
    int asked_aio;
    char *aio_fallback;
    uint32_t request_alignment, buffer_alignment;
    int old_flags;                         /* to be set again by an abort; -1: nothing to set */
} FileReopen;

typedef struct SwapCall {
    BlockNode *node;
    BlockReopen *with;
    FileReopen *state;
    GError **error;
} SwapCall;

static bool is_same_file(int fd, int other)
{
    struct stat a, b;

    return !fstat(fd, &a) && !fstat(other, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Another descriptor in the place of the open one; *ret_old, if asked for, keeps that. */
static bool put_in_place(FileNode *file, int fd, int *ret_old)
{
    int old = ret_old ? fcntl(file->aio.fd, F_DUPFD_CLOEXEC, 0) : -1;

    if (ret_old && old < 0)
        return false;
    if (dup3(fd, file->aio.fd, O_CLOEXEC) < 0) {
        if (old >= 0)
            close(old);
        return false;
    }
    if (ret_old)
        *ret_old = old;
    return true;
}

bool file_swap(BlockNode *node, int mode, bool direct, int *ret_old, GError **error)
{
    const char *filename = block_node_filename(node);
    FileNode *file = block_node_state(node);
    auto_fd fd = file_open_descriptor(filename, mode, direct, error);
    int flags = fd < 0 ? 0 : fcntl(fd, F_GETFL);

    if (fd < 0)
        return false;
    if (!is_same_file(fd, file->aio.fd))
        return fail(error, ERR_IN_USE, "'%s' is another file than when it was opened", filename);
    if (file->locks && !image_lock_again(fd, filename, file->perm, file->shared, error))
        return false;
    return (fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) == 0 && put_in_place(file, fd, ret_old)) ||
           fail_errno(error, errno, "cannot open '%s' again", filename);
}

/* A passed descriptor is not opened again to be read past the page cache: that is a flag of it. */
static bool set_direct(FileNode *file, FileReopen *state, const char *filename, bool direct,
                       GError **error)
{
    int flags = fcntl(file->aio.fd, F_GETFL);

    if (fcntl(file->aio.fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT) < 0)
        return fail_errno(error, errno, "cannot change cache.direct of '%s'", filename);
    state->old_flags = flags;
    return true;
}

static bool change_descriptor(SwapCall *call)
{
    const char *filename = block_node_filename(call->node);
    FileNode *file = block_node_state(call->node);
    int flags = fcntl(file->aio.fd, F_GETFL), mode = call->with->read_only ? O_RDONLY : O_RDWR;
    bool same_mode = (flags & O_ACCMODE) == mode, direct = call->with->direct;
    g_autoptr(GError) error = NULL;

    if (same_mode && !(flags & O_DIRECT) == !direct)
        return true;
    if (same_mode && file_is_passed(filename))
        return set_direct(file, call->state, filename, direct, call->error);
    if (file_swap(call->node, mode, direct, &call->state->aio.fd, &error))
        return true;
    if (mode == O_RDWR && call->with->auto_read_only && file_is_refusal(error)) {
        call->with->read_only = true;
        return change_descriptor(call);
    }
    g_propagate_error(call->error, g_steal_pointer(&error));
    return false;
}

static void restore(FileNode *file, FileReopen *state)
{
    if (state->old_flags >= 0)
        fcntl(file->aio.fd, F_SETFL, state->old_flags);
    if (state->aio.fd >= 0) {
        put_in_place(file, state->aio.fd, NULL);
        close(state->aio.fd);
    }
}

/* 0, or -1 with an error. */
static int do_prepare(void *arg)
{
    SwapCall *call = arg;
    FileNode *file = block_node_state(call->node), probed;

    if (!change_descriptor(call))
        return -1;
    probed = (FileNode){ .aio = file->aio, .is_device = file->is_device };
    if (!file_probe(&probed, block_node_filename(call->node), call->with->direct, call->error)) {
        restore(file, call->state);
        return -1;
    }
    call->state->request_alignment = probed.request_alignment;
    call->state->buffer_alignment = probed.buffer_alignment;
    return 0;
}

static bool take_options(FileNode *file, BlockReopen *with, FileReopen *state, GError **error)
{
    FileOptions parsed = { .aio = file->asked_aio, .max_batch = file->aio.max_batch };

    if (with->options) {
        if (!file_options_parse(with->options, &parsed, error))
            return false;
        if (parsed.locking != file->locking)
            return fail(error, ERR_INVALID_PARAMETER, "Cannot change the option 'locking'");
        json_object_object_del(with->options, "aio");
        json_object_object_del(with->options, "aio-max-batch");
        json_object_object_del(with->options, "drop-cache");
        json_object_object_del(with->options, "locking");
    }
    state->asked_aio = parsed.aio;
    state->aio.max_batch = parsed.max_batch;
    state->aio.lane = file_choose_lane(file, parsed.aio, with->direct);
    return file_choose_engine(parsed.aio, with->direct, &state->aio.kind, &state->aio_fallback, error);
}

bool co_fn file_reopen_prepare(BlockNode *node, BlockReopen *reopen, GError **error)
{
    FileReopen *state = g_new0(FileReopen, 1);
    SwapCall call = { node, reopen, state, error };

    state->aio.fd = state->old_flags = -1;
    if (take_options(block_node_state(node), reopen, state, error) &&
        co_worker_call(do_prepare, &call) == 0) {
        reopen->state = state;
        return true;
    }
    g_free(state->aio_fallback);
    g_free(state);
    return false;
}

/* A passed descriptor stays open in its set: its locks do not go with ours. */
static int do_commit(void *arg)
{
    SwapCall *call = arg;
    FileNode *file = block_node_state(call->node);
    int old = call->state->aio.fd;

    file_ask_sizes(file);                  /* the node's size is taken from there */
    if (old < 0)
        return 0;
    if (file->locks)
        image_lock_change(old, block_node_filename(call->node), file->perm, file->shared, 0,
                          BLOCK_PERM_ALL, NULL);
    return close(old);
}

void co_fn file_reopen_commit(BlockNode *node, BlockReopen *reopen)
{
    FileNode *file = block_node_state(node);
    FileReopen *state = reopen->state;
    SwapCall call = { .node = node, .state = state };

    co_worker_call(do_commit, &call);
    if (file->aio.kind != state->aio.kind)
        __atomic_store_n(&file->aio.fell_back, false, __ATOMIC_RELAXED);
    file->asked_aio = state->asked_aio;
    file->aio.kind = state->aio.kind;
    file->aio.lane = state->aio.lane;
    file->aio.max_batch = state->aio.max_batch;
    file->request_alignment = state->request_alignment;
    file->buffer_alignment = state->buffer_alignment;
    g_free(file->aio_fallback);
    file->aio_fallback = state->aio_fallback;
    g_free(state);
}

static int do_abort(void *arg)
{
    SwapCall *call = arg;

    restore(block_node_state(call->node), call->state);
    return 0;
}

void co_fn file_reopen_abort(BlockNode *node, BlockReopen *reopen)
{
    SwapCall call = { .node = node, .state = reopen->state };

    co_worker_call(do_abort, &call);
    g_free(call.state->aio_fallback);
    g_free(call.state);
}

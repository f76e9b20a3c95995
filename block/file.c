/*
 * file: a regular file.  host_device: a block or character device of the host.
 *
 * The descriptor is worked by an AIO engine (aio=); the default is io_uring, or worker threads where
 * the host has none.  Reads past the end of a regular file give zeroes: a file whose length is no
 * multiple of 512 is rounded up to whole sectors, as guests see it.
 */
#include "block/file-int.h"
#include "block/image-lock.h"
#include "src/base/fdset.h"
#include "src/base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define SECTOR 512
#define TRANSFER_MAX 0x7ffff000            /* what one system call moves at most (read(2)) */

static const char *const file_options[] = { "filename", "aio", "aio-max-batch", "locking",
                                            "drop-cache", NULL };
static const char *const locking_words[] = { "auto", "on", "off", NULL };

static bool no_filename(json_object *options, GError **error)
{
    static const char *const wanted[] = { "filename", NULL };

    fail(error, ERR_MISSING_PARAMETER, "The 'file' block driver requires a file name");
    json_object_object_foreach(options, key, value)
    {
        if (value && strcmp(key, "filename") && nearest_word(key, wanted))
            return error_hint(error, "write 'filename' for '%s'", key);
    }
    return false;
}

bool file_options_parse(json_object *options, FileOptions *parsed, GError **error)
{
    *parsed = (FileOptions){ .aio = -1, .drop_cache = true };
    if (!options_get_str(options, "filename", &parsed->filename, error) ||
        !options_get_enum(options, "aio", aio_words, &parsed->aio, error) ||
        !options_get_enum(options, "locking", locking_words, &parsed->locking, error) ||
        !options_get_u64(options, "aio-max-batch", &parsed->max_batch, error) ||
        !options_get_bool(options, "drop-cache", &parsed->drop_cache, error))
        return false;
    if (!parsed->filename || !*parsed->filename)
        return no_filename(options, error);
    if (parsed->max_batch > UINT32_MAX)
        return fail(error, ERR_INVALID_PARAMETER, "aio-max-batch is too large");
    return true;
}

/* Opening the descriptor. */

bool file_is_passed(const char *filename)
{
    return g_str_has_prefix(filename, "/dev/fdset/");
}

/* The system says that it may not be written. */
bool file_is_refusal(const GError *error)
{
    ErrorCode code = error_get_code(error);

    return code == ERR_PERMISSION || code == ERR_IN_USE;
}

static int open_failed(const char *filename, int mode, bool direct, int err, GError **error)
{
    g_autoptr(GError) why = NULL;

    fail_errno(&why, err, "cannot open '%s'", filename);
    error_object(&why, "%s", filename);
    if (err == EINVAL && direct)
        error_hint(&why, "the file system may not support O_DIRECT: use cache.direct=off");
    else if (file_is_refusal(why) && mode == O_RDWR)
        error_hint(&why, "to use it read-only, add read-only=on");
    g_propagate_error(error, g_steal_pointer(&why));
    return -1;
}

/* A descriptor that was passed in (-add-fd, add-fd); O_DIRECT is a flag of it to set. */
static int open_passed(const char *filename, int mode, bool direct, GError **error)
{
    auto_fd fd = file_open(filename, mode, 0, error);
    int flags = fd < 0 ? 0 : fcntl(fd, F_GETFL);

    if (fd < 0)
        error_prefix(error, "cannot open '%s': ", filename);
    else if (direct && !(flags & O_DIRECT) && fcntl(fd, F_SETFL, flags | O_DIRECT) < 0)
        return open_failed(filename, mode, direct, EINVAL, error);
    return steal_fd(&fd);
}

int file_open_descriptor(const char *filename, int mode, bool direct, GError **error)
{
    int fd;

    if (file_is_passed(filename))
        return open_passed(filename, mode, direct, error);
    fd = open(filename, mode | (direct ? O_DIRECT : 0) | O_CLOEXEC | O_NONBLOCK);
    return fd < 0 ? open_failed(filename, mode, direct, errno, error) : fd;
}

static bool open_descriptor(BlockNode *node, FileNode *file, const char *filename, GError **error)
{
    bool read_only = block_node_read_only(node), direct = block_node_cache_direct(node);
    g_autoptr(GError) why = NULL;
    int fd = file_open_descriptor(filename, read_only ? O_RDONLY : O_RDWR, direct, &why);

    if (fd < 0 && !read_only && file_is_refusal(why) && block_node_demote(node, EACCES, NULL)) {
        g_clear_error(&why);
        fd = file_open_descriptor(filename, O_RDONLY, direct, &why);
    }
    file->aio.fd = fd;
    if (why)
        g_propagate_error(error, g_steal_pointer(&why));
    return fd >= 0;
}

static bool check_kind(FileNode *file, const char *filename, GError **error)
{
    struct stat st;
    int flags = fcntl(file->aio.fd, F_GETFL);

    if (fstat(file->aio.fd, &st) < 0)
        return fail_errno(error, errno, "cannot ask for the kind of '%s'", filename);
    if (!file->is_device && !S_ISREG(st.st_mode)) {
        fail(error, ERR_INVALID_PARAMETER, "'file' driver requires '%s' to be a regular file",
             filename);
        return error_hint(error, "%s", S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode)
                                           ? "use driver=host_device"
                                           : "it is neither a file nor a device");
    }
    if (file->is_device && !S_ISBLK(st.st_mode) && !S_ISCHR(st.st_mode)) {
        fail(error, ERR_INVALID_PARAMETER,
             "'host_device' driver requires '%s' to be either a character or block device",
             filename);
        return error_hint(error, "use driver=file");
    }
    /* O_NONBLOCK was only there so that opening a pipe or tape does not hang. */
    fcntl(file->aio.fd, F_SETFL, flags & ~O_NONBLOCK);
    return true;
}

/* Which engine. */

bool file_choose_engine(int asked, bool direct, AioKind *kind, char **fallback, GError **error)
{
    g_autoptr(GError) why = NULL;

    if (asked == AIO_NATIVE && !direct) {
        fail(error, ERR_INVALID_PARAMETER, "aio=native was specified, but it requires "
                                           "cache.direct=on, which was not specified");
        return error_hint(error, "add cache.direct=on, or use aio=io_uring");
    }
    if (asked >= 0) {
        *kind = asked;
        return aio_available(asked, error);
    }
    *kind = AIO_URING;
    if (!aio_available(AIO_URING, &why)) {
        *kind = AIO_THREADS;
        *fallback = g_strdup(why->message);
    }
    return true;
}

static bool choose_locking(BlockNode *node, FileNode *file, const FileOptions *parsed,
                           GError **error)
{
    if (parsed->locking == FILE_LOCKING_OFF || block_node_force_share(node))
        return true;
    file->locks = image_lock_supported(file->aio.fd);
    if (!file->locks && parsed->locking == FILE_LOCKING_ON)
        return fail(error, ERR_UNSUPPORTED,
                    "locking=on: the file system of '%s' has no open file description locks",
                    parsed->filename);
    return true;
}

/* Open and close. */

typedef struct OpenCall {
    BlockNode *node;
    const FileOptions *options;
    const char *path;
    GError **error;
} OpenCall;

/* All that opening asks of the system, in a worker: a server that does not answer holds up nobody
 * else.  Nobody but the coroutine that waits for it knows the node yet.  0, or -1 with an error. */
static int do_open(void *arg)
{
    OpenCall *call = arg;
    BlockNode *node = call->node;
    FileNode *file = block_node_state(node);

    if (!open_descriptor(node, file, call->path, call->error))
        return -1;
    if (check_kind(file, call->path, call->error) &&
        choose_locking(node, file, call->options, call->error) &&
        file_probe(file, call->path, block_node_cache_direct(node), call->error))
        return 0;
    close(file->aio.fd);
    return -1;
}

static bool co_fn open_file(BlockNode *node, json_object *options, bool is_device, GError **error)
{
    FileNode *file = block_node_state(node);
    FileOptions parsed;
    OpenCall call = { .node = node, .options = &parsed, .error = error };

    file->aio.fd = -1;
    file->shared = BLOCK_PERM_ALL;
    file->is_device = is_device;
    if (!file_options_parse(options, &parsed, error))
        return false;
    file->aio.max_batch = parsed.max_batch;
    file->asked_aio = parsed.aio;
    file->locking = parsed.locking;
    call.path = parsed.filename + (g_str_has_prefix(parsed.filename, "file:") ? 5 : 0);
    block_node_set_filename(node, call.path);
    if (!file_choose_engine(parsed.aio, block_node_cache_direct(node), &file->aio.kind,
                            &file->aio_fallback, error) ||
        co_worker_call(do_open, &call) < 0) {
        g_free(file->aio_fallback);
        return false;
    }
    file->aio.lane = file_choose_lane(file, parsed.aio, block_node_cache_direct(node));
    for (const char *const *name = file_options; *name; name++)
        json_object_object_del(options, *name);
    return true;
}

static bool co_fn regular_open(BlockNode *node, json_object *options, GError **error)
{
    return open_file(node, options, false, error);
}

static bool co_fn host_device_open(BlockNode *node, json_object *options, GError **error)
{
    return open_file(node, options, true, error);
}

typedef struct CloseCall {
    int fd;
    bool flush;
} CloseCall;

/* 0, or -errno of the flush. */
static int do_close(void *arg)
{
    const CloseCall *call = arg;
    int ret = call->flush && fdatasync(call->fd) < 0 ? -errno : 0;

    close(call->fd);
    return ret;
}

static void co_fn file_close(BlockNode *node)
{
    FileNode *file = block_node_state(node);
    CloseCall call = { file->aio.fd, !block_node_no_flush(node) && block_node_is_dirty(node) };
    int ret = co_worker_call(do_close, &call);

    if (ret < 0)
        warn_report("'%s': flushing at close failed: %s", block_node_filename(node),
                    g_strerror(-ret));
    g_free(file->aio_fallback);
}

/* Questions. */

static int64_t file_get_size(BlockNode *node)
{
    FileNode *file = block_node_state(node);
    int64_t length = __atomic_load_n(&file->length, __ATOMIC_RELAXED);

    return length > 0 && file->is_regular ? (int64_t)ALIGN_UP(length, SECTOR) : length;
}

static void file_limits(BlockNode *node, BlockLimits *limits)
{
    FileNode *file = block_node_state(node);

    limits->request_alignment = file->request_alignment;
    limits->buffer_alignment = file->buffer_alignment;
    limits->max_transfer = ALIGN_DOWN(TRANSFER_MAX, file->request_alignment);
    limits->max_discard = ALIGN_DOWN(INT64_MAX, 1 * MiB);
    limits->discard_granularity = file->discard_granularity;
    limits->can_discard = !file->no_discard;
}

typedef struct PromoteCall {
    BlockNode *node;
    GError **error;
} PromoteCall;

/* The new descriptor takes the place of the old one, which requests under way still use. */
static int do_promote(void *arg)
{
    PromoteCall *call = arg;

    return file_swap(call->node, O_RDWR, block_node_cache_direct(call->node), NULL, call->error);
}

static bool co_fn file_promote(BlockNode *node, GError **error)
{
    PromoteCall call = { node, error };

    return co_worker_call(do_promote, &call);
}

typedef struct LockCall {
    BlockNode *node;
    unsigned perm, shared;
    GError **error;
} LockCall;

/* 0, or -1 with an error. */
static int do_lock(void *arg)
{
    LockCall *call = arg;
    FileNode *file = block_node_state(call->node);

    return image_lock_change(file->aio.fd, block_node_filename(call->node), file->perm,
                             file->shared, call->perm, call->shared, call->error) ? 0 : -1;
}

static bool co_fn file_set_perm(BlockNode *node, unsigned perm, unsigned shared, GError **error)
{
    FileNode *file = block_node_state(node);
    LockCall call = { node, perm, shared, error };

    if (perm == file->perm && shared == file->shared)
        return true;
    if (file->locks && co_worker_call(do_lock, &call) < 0)
        return false;
    file->perm = perm;
    file->shared = shared;
    return true;
}

static void co_fn file_refresh(BlockNode *node)
{
    co_worker_call(file_ask_sizes, block_node_state(node));
}

static int64_t file_allocated_size(BlockNode *node)
{
    FileNode *file = block_node_state(node);

    return __atomic_load_n(&file->allocated, __ATOMIC_RELAXED);
}

static void file_describe(BlockNode *node, json_object *info)
{
    FileNode *file = block_node_state(node);

    bool fell_back = __atomic_load_n(&file->aio.fell_back, __ATOMIC_RELAXED);
    AioKind kind = fell_back ? AIO_THREADS : file->aio.kind;
    const char *why = fell_back ? "a thread could not get the resources of the engine asked for: see "
                                  "its limit of locked memory, and fs.aio-max-nr"
                                : file->aio_fallback;

    json_object_object_add(info, "aio", json_object_new_string(aio_words[kind]));
    if (why)
        json_object_object_add(info, "aio-fallback", json_object_new_string(why));
}

static json_object *file_stats(BlockNode *node)
{
    FileNode *file = block_node_state(node);
    json_object *stats = json_object_new_object();

#define ADD(name, member)                                                                          \
    json_object_object_add(                                                                        \
        stats, name, json_object_new_int64(__atomic_load_n(&file->member, __ATOMIC_RELAXED)))
    json_object_object_add(stats, "driver", json_object_new_string(block_node_driver(node)));
    ADD("discard-nb-ok", discards_ok);
    ADD("discard-nb-failed", discards_failed);
    ADD("discard-bytes-ok", discard_bytes);
#undef ADD
    return stats;
}

static void file_probe_sizes(const BlockNode *node, BlockSizes *sizes)
{
    *sizes = ((FileNode *)block_node_state((BlockNode *)node))->sizes;
}

#define FILE_DRIVER(name_, help_, open_, grows_, image_)                                           \
    {                                                                                              \
        .name = name_, .help = help_, .size = sizeof(FileNode), .options = file_options,           \
        .is_protocol = true, .grows = grows_, .write_flags = BLOCK_FUA, .open = open_,             \
        .close = file_close, .refresh = file_refresh, .get_size = file_get_size,                   \
        .limits = file_limits,                                                                     \
        .co_read = file_co_read, .co_write = file_co_write, .co_flush = file_co_flush,             \
        .co_zero = file_co_zero, .co_discard = file_co_discard, .co_map = file_co_map,             \
        .co_copy_range = file_co_copy_range,                                                       \
        .co_resize = file_co_resize, .promote = file_promote, .set_perm = file_set_perm,           \
        .allocated_size = file_allocated_size, .describe = file_describe, .stats = file_stats,     \
        .probe_sizes = file_probe_sizes, .image = image_,                                          \
        .reopen_prepare = file_reopen_prepare, .reopen_commit = file_reopen_commit,                \
        .reopen_abort = file_reopen_abort,                                                         \
    }

static const BlockDriver file_driver = FILE_DRIVER("file", "a regular file", regular_open, true,
                                                   &file_image_verbs);
static const BlockDriver host_device_driver =
    FILE_DRIVER("host_device", "a block or character device of the host", host_device_open, false,
                NULL);
BLOCK_DRIVER(file_driver)
BLOCK_DRIVER(host_device_driver)

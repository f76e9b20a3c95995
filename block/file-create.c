/*
 * Making, filling and removing regular files.
 *
 * The work is done by a worker thread: allocating space takes the host its time.
 */
#include "block/file-int.h"
#include "block/image-lock.h"
#include "src/base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define CHUNK (1 * MiB)
/* Extents of an image grow by random writes: larger ones keep the file system's maps short. */
#define EXTENT_SIZE_HINT_DEFAULT (1 * MiB)

static const BlockCreateOption file_create_options[] = {
    { "size", BLOCK_CREATE_SIZE, NULL, "Virtual disk size" },
    { "nocow", BLOCK_CREATE_BOOL, NULL, "Turn off copy-on-write (valid only on btrfs)" },
    { "preallocation", BLOCK_CREATE_STRING, NULL,
      "Preallocation mode (allowed values: off, falloc, full)" },
    { "extent_size_hint", BLOCK_CREATE_SIZE, NULL,
      "Extent size hint for the image file, 0 to disable" },
    { NULL }
};

typedef struct FileCreation {
    const char *filename;
    uint64_t size, extent_size_hint;
    int preallocation;                     /* BlockPrealloc */
    bool nocow;
    GError *error;
} FileCreation;

/* Preallocation of a range. */

typedef struct Filling {
    int fd;
    uint64_t offset, bytes;
    BlockPrealloc how;
} Filling;

static int write_zeroes(int fd, uint64_t offset, uint64_t bytes)
{
    g_autofree char *zeroes = g_malloc0(CHUNK);

    while (bytes) {
        ssize_t n = pwrite(fd, zeroes, MIN(bytes, CHUNK), offset);

        if (n < 0 && errno != EINTR)
            return -errno;
        offset += MAX(n, 0);
        bytes -= MAX(n, 0);
    }
    return fsync(fd) < 0 ? -errno : 0;
}

static int fill(void *arg)
{
    Filling *f = arg;
    int ret;

    if (f->how == BLOCK_PREALLOC_FULL)
        return write_zeroes(f->fd, f->offset, f->bytes);
    ret = posix_fallocate(f->fd, f->offset, f->bytes);
    return -ret;
}

static int unsupported(BlockPrealloc how, GError **error)
{
    fail(error, ERR_UNSUPPORTED, "Unsupported preallocation mode: %s", block_prealloc_words[how]);
    return -ENOTSUP;
}

static int co_fn file_co_preallocate(BlockNode *node, uint64_t offset, uint64_t bytes,
                                     BlockPrealloc how, GError **error)
{
    FileNode *file = block_node_state(node);
    Filling filling = { file->aio.fd, offset, bytes, how };
    int ret;

    if (how == BLOCK_PREALLOC_METADATA || !file->is_regular)
        return unsupported(how, error);
    ret = co_worker_call(fill, &filling);
    if (ret < 0)
        fail_errno(error, -ret, "Could not preallocate data for '%s'", block_node_filename(node));
    return ret;
}

/* Creating. */

static void set_nocow(int fd)
{
    int flags = 0;

    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0) {
        flags |= FS_NOCOW_FL;
        ioctl(fd, FS_IOC_SETFLAGS, &flags);
    }
}

/* Advice: a file system without such a thing goes without. */
static int set_extent_size_hint(int fd, uint64_t hint, bool asked)
{
    struct fsxattr attr;

    if (hint > UINT32_MAX)
        return -EINVAL;
    if (!hint || ioctl(fd, FS_IOC_FSGETXATTR, &attr) < 0)
        return 0;
    attr.fsx_xflags |= FS_XFLAG_EXTSIZE;
    attr.fsx_extsize = hint;
    return ioctl(fd, FS_IOC_FSSETXATTR, &attr) < 0 && asked && errno == EINVAL ? -EINVAL : 0;
}

static bool give_size(int fd, FileCreation *c)
{
    Filling filling = { fd, 0, c->size, c->preallocation };
    int ret;

    if (ftruncate(fd, 0) < 0)
        return fail_errno(&c->error, errno, "Could not clear '%s'", c->filename);
    if (c->nocow)
        set_nocow(fd);
    ret = c->extent_size_hint == UINT64_MAX
              ? set_extent_size_hint(fd, EXTENT_SIZE_HINT_DEFAULT, false)
              : set_extent_size_hint(fd, c->extent_size_hint, true);
    if (ret < 0)
        return fail_errno(&c->error, -ret, "extent_size_hint of '%s'", c->filename);
    if (ftruncate(fd, c->size) < 0)
        return fail_errno(&c->error, errno, "Could not resize file '%s'", c->filename);
    ret = c->preallocation && c->size ? fill(&filling) : 0;
    if (ret < 0)
        return fail_errno(&c->error, -ret, "Could not preallocate data for '%s'", c->filename);
    return true;
}

/* Nobody else may have it open: its content ends here. */
static bool make_file(FileCreation *c)
{
    const unsigned perm = BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE;
    const char *path = c->filename;
    bool is_new = true;
    auto_fd fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

    if (fd < 0 && errno == EEXIST) {
        is_new = false;
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    }
    if (fd < 0)
        return fail_errno(&c->error, errno, "Could not create '%s'", path);
    if (image_lock_supported(fd) && !image_lock_change(fd, path, 0, BLOCK_PERM_ALL, perm,
                                                       BLOCK_PERM_ALL & ~BLOCK_PERM_RESIZE,
                                                       &c->error))
        return false;
    if (give_size(fd, c))
        return true;
    if (is_new)
        unlink(path);
    return false;
}

static int make_file_call(void *arg)
{
    return make_file(arg) ? 0 : -EIO;
}

static bool parse(json_object *options, FileCreation *c, GError **error)
{
    *c = (FileCreation){ .extent_size_hint = UINT64_MAX };
    if (!options_get_str(options, "filename", &c->filename, error) ||
        !options_get_size(options, "size", &c->size, error) ||
        !options_get_size(options, "extent-size-hint", &c->extent_size_hint, error) ||
        !options_get_bool(options, "nocow", &c->nocow, error) ||
        !options_get_enum(options, "preallocation", block_prealloc_words, &c->preallocation, error))
        return false;
    if (!c->filename || !*c->filename)
        return fail(error, ERR_MISSING_PARAMETER, "Parameter 'filename' is missing");
    if (g_str_has_prefix(c->filename, "file:"))
        c->filename += strlen("file:");
    if (c->size > INT64_MAX)
        return fail(error, ERR_LIMIT, "'%s': a size of %" G_GUINT64_FORMAT " bytes is too large",
                    c->filename, c->size);
    return c->preallocation != BLOCK_PREALLOC_METADATA ||
           unsupported(BLOCK_PREALLOC_METADATA, error) == 0;
}

static int co_fn file_co_create(BlockGraph *graph, json_object *options, GError **error)
{
    FileCreation c;
    int ret;

    if (!parse(options, &c, error))
        return -EINVAL;
    ret = co_worker_call(make_file_call, &c);
    if (ret < 0)
        g_propagate_error(error, c.error);
    return ret;
}

static int co_fn file_co_delete(BlockNode *node, GError **error)
{
    if (unlink(block_node_filename(node)) == 0)
        return 0;
    fail_errno(error, errno, "Error when deleting file '%s'", block_node_filename(node));
    return -EIO;
}

const BlockImageVerbs file_image_verbs = {
    .create_options = file_create_options,
    .co_create = file_co_create,
    .co_delete = file_co_delete,
    .co_preallocate = file_co_preallocate,
};

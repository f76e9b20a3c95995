/* memory-backend-file: memory of a file, for example on hugetlbfs or tmpfs. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include "src/base/util.h"
#include "src/memory/backend.h"

typedef struct FileBackend {
    MemoryBackend base;
    char *path;
    uint64_t align, offset;
    bool discard_data, pmem, readonly;
} FileBackend;

/* A directory (a hugetlbfs mount): a file in it that no one else sees. */
static int open_unnamed(const FileBackend *b, GError **error)
{
    g_autofree char *name = g_strdup_printf("%s/vireo-%s-XXXXXX", b->path, b->base.obj.name);
    int fd = mkostemp(name, O_CLOEXEC);

    if (fd < 0)
        fail_errno(error, errno, "cannot make a file in directory '%s'", b->path);
    else
        unlink(name);
    return fd;
}

static int open_file(const FileBackend *b, bool *ret_made, GError **error)
{
    struct stat st;
    int fd;

    *ret_made = false;
    if (stat(b->path, &st) == 0 && S_ISDIR(st.st_mode)) {
        *ret_made = true;
        return open_unnamed(b, error);
    }
    fd = open(b->path, (b->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT && !b->readonly) {
        *ret_made = true;
        fd = open(b->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    }
    if (fd < 0)
        fail_errno(error, errno, "cannot open '%s'", b->path);
    return fd;
}

/* Page size of the memory: hugetlbfs tells it as its block size. */
static uint64_t file_page_size(int fd)
{
    struct statfs fs;

    return fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC ? (uint64_t)fs.f_bsize : 0;
}

static bool check_sizes(const FileBackend *b, uint64_t page, GError **error)
{
    if (page && (b->base.size % page || b->offset % page))
        return fail(error, ERR_INVALID_PARAMETER, "'%s': size %" G_GUINT64_FORMAT
                    " and offset %" G_GUINT64_FORMAT " must be multiples of the huge page size %"
                    G_GUINT64_FORMAT, b->path, b->base.size, b->offset, page);
    if (b->align && !is_power_of_2(b->align))
        return fail(error, ERR_INVALID_PARAMETER, "'%s': align %" G_GUINT64_FORMAT
                    " is not a power of 2", b->path, b->align);
    if (b->align && page && b->align % page)
        return fail(error, ERR_INVALID_PARAMETER, "'%s': align %" G_GUINT64_FORMAT
                    " is not a multiple of the page size %" G_GUINT64_FORMAT, b->path, b->align,
                    page);
    if (b->offset % sysconf(_SC_PAGESIZE))
        return fail(error, ERR_INVALID_PARAMETER, "'%s': offset %" G_GUINT64_FORMAT
                    " is not a multiple of the page size", b->path, b->offset);
    if (b->base.size > INT64_MAX - b->offset)
        return fail(error, ERR_INVALID_PARAMETER, "'%s': size %" G_GUINT64_FORMAT
                    " at offset %" G_GUINT64_FORMAT " is too large", b->path, b->base.size,
                    b->offset);
    return true;
}

/* A new or empty file gets its size; one that has contents must be large enough. */
static bool fit_file(const FileBackend *b, int fd, bool made, GError **error)
{
    uint64_t needed = b->offset + b->base.size;
    struct stat st;

    if (fstat(fd, &st) < 0)
        return fail_errno(error, errno, "cannot stat '%s'", b->path);
    if (!S_ISREG(st.st_mode))
        return true;                       /* a device (DAX): mmap says what it can */
    if ((made || st.st_size == 0) && !b->readonly) {
        if (ftruncate(fd, needed) < 0)
            return fail_errno(error, errno, "cannot give '%s' %" G_GUINT64_FORMAT " bytes", b->path,
                              needed);
        return true;
    }
    if ((uint64_t)st.st_size < needed)
        return fail(error, ERR_INVALID_PARAMETER, "'%s' has %" G_GINT64_FORMAT
                    " bytes, but size %" G_GUINT64_FORMAT " at offset %" G_GUINT64_FORMAT
                    " is asked for", b->path, (int64_t)st.st_size, b->base.size, b->offset);
    return true;
}

static bool check_properties(const FileBackend *b, GError **error)
{
    if (!b->path || !*b->path)
        return fail(error, ERR_MISSING_PARAMETER,
                    "property 'mem-path' of 'memory-backend-file' must be given");
    if (b->pmem)
        return fail(error, ERR_UNSUPPORTED, "property 'pmem' of 'memory-backend-file': "
                    "persistent memory is not supported by this build");
    return true;
}

static bool file_realize(Object *obj, GError **error)
{
    FileBackend *b = (FileBackend *)obj;
    g_autofree char *name = memory_backend_block_name(&b->base);
    auto_fd fd = -1;
    uint64_t page;
    bool made;

    if (!check_properties(b, error))
        return false;
    fd = open_file(b, &made, error);
    if (fd < 0)
        return false;
    page = file_page_size(fd);
    if (!check_sizes(b, page, error) || !fit_file(b, fd, made, error))
        return false;
    b->base.block = ram_block_map(
        &(RamMapping){ .name = name, .size = b->base.size, .fd = steal_fd(&fd),
                       .fd_offset = b->offset, .align = b->align, .page_size = page,
                       .shared = b->base.share, .readonly = b->readonly,
                       .noreserve = !b->base.reserve }, error);
    return b->base.block || error_prefix(error, "'%s': ", b->path);
}

/* The guest's memory is not worth writing back to the file. */
static void file_unrealize(Object *obj)
{
    FileBackend *b = (FileBackend *)obj;

    if (b->discard_data && b->base.block)
        madvise(ram_block_host(b->base.block), ram_block_size(b->base.block), MADV_REMOVE);
}

static const Property file_props[] = {
    PROP("mem-path", FileBackend, path, .help = "file, or directory to make an unnamed file in"),
    PROP_OF("align", FileBackend, align, prop_size, .help = "alignment in the host's memory"),
    PROP_OF("offset", FileBackend, offset, prop_size, .help = "where in the file it begins"),
    PROP("discard-data", FileBackend, discard_data,
         .help = "throw the contents away in the end instead of writing them to the file"),
    PROP("pmem", FileBackend, pmem, .help = "the file is persistent memory (not supported)"),
    PROP("readonly", FileBackend, readonly, .help = "open the file read-only"),
    {}
};

static const Type file_type = {
    .name = "memory-backend-file", .parent = "memory-backend", .help = "memory of a file",
    .size = sizeof(FileBackend), .user_creatable = true, .props = file_props,
    .realize = file_realize, .unrealize = file_unrealize,
};
TYPE_REGISTER(file_type)

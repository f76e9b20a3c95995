/* What a file or device asks of requests: alignment for O_DIRECT, block sizes, length. */
#include "block/file-int.h"
#include "src/base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define ALIGNMENT_MAX 4096u

/* The smallest power of two that a direct read accepts, as length (or as address). */
static uint32_t try_alignments(int fd, bool of_memory)
{
    void *buffer = NULL;
    uint32_t align;

    if (posix_memalign(&buffer, ALIGNMENT_MAX, 2 * ALIGNMENT_MAX))
        return ALIGNMENT_MAX;
    for (align = 1; align < ALIGNMENT_MAX; align = MAX(align * 2, 512)) {
        char *at = (char *)buffer + (of_memory ? align : 0);
        ssize_t n = pread(fd, at, of_memory ? ALIGNMENT_MAX : align, 0);

        if (n >= 0 || errno != EINVAL)
            break;
    }
    free(buffer);
    /* An empty file takes everything: that says nothing. */
    return align == 1 ? ALIGNMENT_MAX : align;
}

static bool ask_kernel(FileNode *file)
{
#ifdef STATX_DIOALIGN
    struct statx st;

    if (statx(file->aio.fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) == 0 &&
        st.stx_mask & STATX_DIOALIGN && st.stx_dio_offset_align && st.stx_dio_mem_align) {
        file->request_alignment = st.stx_dio_offset_align;
        file->buffer_alignment = st.stx_dio_mem_align;
        return true;
    }
#endif
    return false;
}

static void probe_alignment(FileNode *file, bool direct)
{
    unsigned sector = 0;

    file->request_alignment = file->buffer_alignment = 1;
    if (!direct || ask_kernel(file))
        return;
    if (file->is_device && ioctl(file->aio.fd, BLKSSZGET, &sector) == 0 && is_power_of_2(sector))
        file->request_alignment = sector;
    else
        file->request_alignment = try_alignments(file->aio.fd, false);
    file->buffer_alignment = MAX(try_alignments(file->aio.fd, true), file->request_alignment);
}

static uint32_t queue_value(dev_t device, const char *name)
{
    g_autofree char *text = NULL;
    g_autofree char *path = g_strdup_printf("/sys/dev/block/%u:%u/queue/%s", major(device),
                                            minor(device), name);

    return g_file_get_contents(path, &text, NULL, NULL) ? g_ascii_strtoull(text, NULL, 10) : 0;
}

static void probe_device(FileNode *file, const struct stat *st)
{
    int logical = 0;
    unsigned physical = 0;

    if (ioctl(file->aio.fd, BLKSSZGET, &logical) == 0 && is_power_of_2(logical))
        file->sizes.logical = logical;
    if (ioctl(file->aio.fd, BLKPBSZGET, &physical) == 0 && is_power_of_2(physical))
        file->sizes.physical = physical;
    file->discard_granularity = queue_value(st->st_rdev, "discard_granularity");
    file->no_discard = S_ISBLK(st->st_mode) && !queue_value(st->st_rdev, "discard_max_bytes");
}

bool file_probe(FileNode *file, const char *filename, bool direct, GError **error)
{
    struct stat st;

    if (fstat(file->aio.fd, &st) < 0)
        return fail_errno(error, errno, "cannot ask for the kind of '%s'", filename);
    file->is_regular = S_ISREG(st.st_mode);
    file->sizes = (BlockSizes){ 512, 512 };
    if (file->is_device)
        probe_device(file, &st);
    probe_alignment(file, direct);
    file_ask_sizes(file);
    return true;
}

int64_t file_length(int fd)
{
    struct stat st;
    uint64_t bytes;
    off_t end;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (S_ISREG(st.st_mode))
        return st.st_size;
    if (S_ISBLK(st.st_mode))
        return ioctl(fd, BLKGETSIZE64, &bytes) < 0 ? -errno : (int64_t)bytes;
    end = lseek(fd, 0, SEEK_END);
    return end < 0 ? -errno : end;
}

int file_ask_sizes(void *opaque)
{
    FileNode *file = opaque;
    struct stat st;
    int64_t allocated = fstat(file->aio.fd, &st) < 0 ? -errno : (int64_t)st.st_blocks * 512;

    __atomic_store_n(&file->allocated, allocated, __ATOMIC_RELAXED);
    __atomic_store_n(&file->length, file_length(file->aio.fd), __ATOMIC_RELAXED);
    return 0;
}

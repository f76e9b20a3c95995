/*
 * OFD locks on bytes of an image (see image-lock.h), and finding out who holds one.
 *
 * The kernel gives no pid for OFD locks (they belong to open files), so that the holder is looked
 * for in /proc: the process with a descriptor for the same inode whose fdinfo lists such a lock.
 */
#include "block/image-lock.h"
#include "block/block.h"
#include "src/base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PERM_BASE 100
#define SHARED_BASE 200
#define PERM_BITS 4

static const char *const lock_names[PERM_BITS] = { "consistent read", "write", "write unchanged",
                                                   "resize" };

static int lock_byte(int fd, int type, off_t byte)
{
    struct flock lock = { .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
    int ret;

    do
        ret = fcntl(fd, F_OFD_SETLK, &lock);
    while (ret < 0 && errno == EINTR);
    return ret < 0 ? -errno : 0;
}

/* Could an exclusive lock of the byte be had?  0, -EAGAIN (somebody holds it), or another error. */
static int test_byte(int fd, off_t byte)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

    if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
        return -errno;
    return lock.l_type == F_UNLCK ? 0 : -EAGAIN;
}

bool image_lock_supported(int fd)
{
    return test_byte(fd, PERM_BASE) != -EINVAL;
}

/* Who holds a byte. */

/* A line of fdinfo: "lock:\t1: OFDLCK  ADVISORY  READ -1 fe:00:1234 101 101". */
static bool line_locks(const char *line, off_t byte)
{
    long long start, end;
    char last[32];

    if (sscanf(line, "lock: %*s %*s %*s %*s %*s %*s %lld %31s", &start, last) != 2)
        return false;
    end = strcmp(last, "EOF") ? atoll(last) : INT64_MAX;
    return start <= byte && byte <= end;
}

static bool descriptor_locks(const char *pid, const char *fd, const struct stat *image, off_t byte)
{
    g_autofree char *path = g_strdup_printf("/proc/%s/fd/%s", pid, fd);
    g_autofree char *info_path = g_strdup_printf("/proc/%s/fdinfo/%s", pid, fd);
    g_autofree char *info = NULL;
    g_auto(GStrv) lines = NULL;
    struct stat st;

    if (stat(path, &st) < 0 || st.st_ino != image->st_ino || st.st_dev != image->st_dev ||
        !g_file_get_contents(info_path, &info, NULL, NULL))
        return false;
    lines = g_strsplit(info, "\n", -1);
    for (char **line = lines; *line; line++)
        if (line_locks(*line, byte))
            return true;
    return false;
}

static bool process_locks(const char *pid, int own_fd, const struct stat *image, off_t byte)
{
    g_autofree char *path = g_strdup_printf("/proc/%s/fd", pid);
    bool own = (pid_t)atoll(pid) == getpid(), found = false;
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *fd;

    while (dir && !found && (fd = g_dir_read_name(dir)))
        found = !(own && atoi(fd) == own_fd) && descriptor_locks(pid, fd, image, byte);
    if (dir)
        g_dir_close(dir);
    return found;
}

/* When the process was started, as local time; NULL: not known. */
static char *start_time(const char *pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%s/stat", pid);
    g_autofree char *text = NULL, *uptime = NULL;
    unsigned long long ticks;
    g_autoptr(GDateTime) now = NULL, start = NULL;
    const char *rest;

    if (!g_file_get_contents(path, &text, NULL, NULL) ||
        !g_file_get_contents("/proc/uptime", &uptime, NULL, NULL))
        return NULL;
    rest = strrchr(text, ')');             /* the name may hold spaces; proc(5): starttime is field 22 */
    if (!rest || sscanf(rest, ") %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
                              "%*s %*s %*s %llu", &ticks) != 1)
        return NULL;
    now = g_date_time_new_now_local();
    start = g_date_time_add_seconds(
        now, (double)ticks / sysconf(_SC_CLK_TCK) - g_ascii_strtod(uptime, NULL));
    return start ? g_date_time_format(start, "%Y-%m-%d %H:%M:%S") : NULL;
}

static char *describe_process(const char *pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%s/comm", pid);
    g_autofree char *comm = NULL, *since = start_time(pid);

    if ((pid_t)atoll(pid) == getpid())
        return g_strdup("this process itself (another block node opens the same file)");
    if (g_file_get_contents(path, &comm, NULL, NULL))
        g_strchomp(comm);
    return g_strdup_printf("process %s (%s)%s%s", pid, comm ? comm : "?", since ? ", running since " : "",
                           since ? since : "");
}

static char *find_holder(int fd, off_t byte)
{
    GDir *dir = g_dir_open("/proc", 0, NULL);
    char *found = NULL;
    const char *pid;
    struct stat image;

    if (fstat(fd, &image) < 0)
        return NULL;
    while (dir && !found && (pid = g_dir_read_name(dir)))
        if (g_ascii_isdigit(pid[0]) && process_locks(pid, fd, &image, byte))
            found = describe_process(pid);
    if (dir)
        g_dir_close(dir);
    return found;
}

/* Taking and checking. */

static bool conflict(int fd, const char *filename, unsigned bit, bool is_perm, GError **error)
{
    off_t byte = (is_perm ? SHARED_BASE : PERM_BASE) + bit;
    g_autofree char *holder = find_holder(fd, byte);

    fail(error, ERR_LOCKED, "cannot take the %s\"%s\" lock of '%s': it is held by %s",
         is_perm ? "" : "shared ", lock_names[bit], filename,
         holder ? holder : "a process that cannot be seen from here (another user, container or "
                           "host)");
    error_object(error, "%s", filename);
    return error_hint(error, "%s", is_perm && bit == 0
                                       ? "end that process first"
                                       : "end that process first; to only look at the image, open it "
                                         "with read-only=on,force-share=on");
}

static bool check_bytes(int fd, const char *filename, unsigned perm, unsigned unshared,
                        GError **error)
{
    for (unsigned bit = 0; bit < PERM_BITS; bit++) {
        bool blocked;

        blocked = perm >> bit & 1 && test_byte(fd, SHARED_BASE + bit) == -EAGAIN;
        if (blocked)
            return conflict(fd, filename, bit, true, error);
        blocked = unshared >> bit & 1 && test_byte(fd, PERM_BASE + bit) == -EAGAIN;
        if (blocked)
            return conflict(fd, filename, bit, false, error);
    }
    return true;
}

/* Locks the bytes of @want and unlocks those of @drop. */
static int apply(int fd, off_t base, unsigned want, unsigned drop)
{
    for (unsigned bit = 0; bit < PERM_BITS; bit++) {
        int ret = 0;

        if (want >> bit & 1)
            ret = lock_byte(fd, F_RDLCK, base + bit);
        else if (drop >> bit & 1)
            lock_byte(fd, F_UNLCK, base + bit);
        if (ret < 0)
            return ret;
    }
    return 0;
}

bool image_lock_change(int fd, const char *filename, unsigned old_perm, unsigned old_shared,
                       unsigned perm, unsigned shared, GError **error)
{
    unsigned old_unshared = ~old_shared & BLOCK_PERM_ALL, unshared = ~shared & BLOCK_PERM_ALL;
    int ret = apply(fd, PERM_BASE, perm & ~old_perm, 0);

    if (ret == 0)
        ret = apply(fd, SHARED_BASE, unshared & ~old_unshared, 0);
    if (ret == 0 && check_bytes(fd, filename, perm & ~old_perm, unshared & ~old_unshared, error)) {
        apply(fd, PERM_BASE, 0, old_perm & ~perm);
        apply(fd, SHARED_BASE, 0, old_unshared & ~unshared);
        return true;
    }
    apply(fd, PERM_BASE, 0, perm & ~old_perm);
    apply(fd, SHARED_BASE, 0, unshared & ~old_unshared);
    if (ret == -EAGAIN || ret == -EACCES)
        fail(error, ERR_LOCKED, "'%s' is locked by another program", filename);
    else if (ret < 0)
        fail_errno(error, -ret, "cannot lock '%s'", filename);
    return false;
}

bool image_lock_again(int fd, const char *filename, unsigned perm, unsigned shared, GError **error)
{
    int ret = apply(fd, PERM_BASE, perm, 0);

    if (ret == 0)
        ret = apply(fd, SHARED_BASE, ~shared & BLOCK_PERM_ALL, 0);
    return ret == 0 || fail_errno(error, -ret, "cannot lock '%s'", filename);
}

/* Sets of passed descriptors, and passed descriptors by name. */
#include "src/base/fdset.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

typedef struct SetFd {
    int fd;
    char *opaque;
} SetFd;

typedef struct Set {
    int64_t id;
    GArray *fds;               /* of SetFd */
} Set;

static GMutex mutex;
static GPtrArray *sets;        /* mutex: of Set, by id; NULL: none yet */
static GHashTable *names;      /* mutex: name to descriptor + 1; NULL: none yet */

static void clear_set_fd(void *opaque)
{
    SetFd *entry = opaque;
    close(entry->fd);
    g_free(entry->opaque);
}

static void free_set(void *opaque)
{
    Set *set = opaque;
    g_array_free(set->fds, TRUE);
    g_free(set);
}

static Set *find_set(int64_t id)
{
    for (unsigned i = 0; sets && i < sets->len; i++) {
        Set *set = sets->pdata[i];
        if (set->id == id)
            return set;
    }
    return NULL;
}

static int compare_sets(gconstpointer a, gconstpointer b)
{
    const Set *x = *(Set *const *)a, *y = *(Set *const *)b;
    return x->id < y->id ? -1 : x->id > y->id;
}

static Set *make_set(int64_t id)
{
    if (!sets)
        sets = g_ptr_array_new_with_free_func(free_set);
    Set *set = g_new(Set, 1);
    *set = (Set){ id, g_array_new(FALSE, FALSE, sizeof(SetFd)) };
    g_array_set_clear_func(set->fds, clear_set_fd);
    g_ptr_array_add(sets, set);
    g_ptr_array_sort(sets, compare_sets);
    return set;
}

bool fdset_add(int fd, int64_t set_id, const char *opaque, int64_t *ret_id, GError **error)
{
    if (set_id < -1) {
        close(fd);
        return fail(error, ERR_INVALID_PARAMETER,
                    "'fdset-id' must not be negative");
    }
    g_mutex_lock(&mutex);
    if (set_id < 0) {
        for (set_id = 0; find_set(set_id);)
            set_id++;
    }
    Set *set = find_set(set_id);
    if (!set)
        set = make_set(set_id);
    SetFd entry = { fd, g_strdup(opaque) };
    g_array_append_val(set->fds, entry);
    g_mutex_unlock(&mutex);
    if (ret_id)
        *ret_id = set_id;
    return true;
}

static bool remove_fds(Set *set, int fd)
{
    if (fd < 0) {
        g_ptr_array_remove(sets, set);
        return true;
    }
    for (unsigned i = 0; i < set->fds->len; i++) {
        if (g_array_index(set->fds, SetFd, i).fd != fd)
            continue;
        g_array_remove_index(set->fds, i);
        if (!set->fds->len)
            g_ptr_array_remove(sets, set);
        return true;
    }
    return false;
}

bool fdset_remove(int64_t set_id, int fd, GError **error)
{
    g_mutex_lock(&mutex);
    Set *set = find_set(set_id);
    bool found = set && remove_fds(set, fd);
    g_mutex_unlock(&mutex);
    if (found)
        return true;
    if (fd < 0)
        return fail(error, ERR_NOT_FOUND, "File descriptor named 'fdset-id:%" PRId64 "' not found",
                    set_id);
    return fail(error, ERR_NOT_FOUND,
                "File descriptor named 'fdset-id:%" PRId64 ", fd:%d' not found", set_id, fd);
}

json_object *fdset_query(void)
{
    json_object *list = json_object_new_array();
    g_mutex_lock(&mutex);
    for (unsigned i = 0; sets && i < sets->len; i++) {
        Set *set = sets->pdata[i];
        json_object *info = json_object_new_object(), *fds = json_object_new_array();
        for (unsigned k = 0; k < set->fds->len; k++) {
            SetFd *entry = &g_array_index(set->fds, SetFd, k);
            json_object *one = json_object_new_object();
            json_object_object_add(one, "fd", json_object_new_int(entry->fd));
            if (entry->opaque)
                json_object_object_add(one, "opaque", json_object_new_string(entry->opaque));
            json_object_array_add(fds, one);
        }
        json_object_object_add(info, "fdset-id", json_object_new_int64(set->id));
        json_object_object_add(info, "fds", fds);
        json_object_array_add(list, info);
    }
    g_mutex_unlock(&mutex);
    return list;
}

void fdset_clear(void)
{
    g_mutex_lock(&mutex);
    g_clear_pointer(&sets, g_ptr_array_unref);
    if (names) {
        GHashTableIter it;
        void *value;
        g_hash_table_iter_init(&it, names);
        while (g_hash_table_iter_next(&it, NULL, &value))
            close(GPOINTER_TO_INT(value) - 1);
        g_clear_pointer(&names, g_hash_table_unref);
    }
    g_mutex_unlock(&mutex);
}

/* Under the mutex.  Duplicates share the offset and the status flags, as passed descriptors do. */
static int dup_matching(const Set *set, int access)
{
    for (unsigned i = 0; i < set->fds->len; i++) {
        int fd = g_array_index(set->fds, SetFd, i).fd;
        int flags = fcntl(fd, F_GETFL);
        if (flags >= 0 && (flags & O_ACCMODE) == access)
            return fcntl(fd, F_DUPFD_CLOEXEC, 0);
    }
    errno = EACCES;
    return -1;
}

static int open_set(const char *path, const char *number, int flags, GError **error)
{
    char *end;
    errno = 0;
    int64_t id = g_ascii_strtoll(number, &end, 10);
    if (errno || end == number || *end || id < 0) {
        fail(error, ERR_INVALID_PARAMETER, "'%s' is not /dev/fdset/NUMBER", path);
        return -1;
    }
    g_mutex_lock(&mutex);
    Set *set = find_set(id);
    int fd = set ? dup_matching(set, flags & O_ACCMODE) : -1, err = errno;
    g_mutex_unlock(&mutex);
    if (!set)
        fail(error, ERR_NOT_FOUND, "there is no fd set %" PRId64, id);
    else if (fd < 0 && err == EACCES)
        fail(error, ERR_PERMISSION, "fd set %" PRId64 " has no descriptor open for %s", id,
             (flags & O_ACCMODE) == O_RDWR     ? "reading and writing"
             : (flags & O_ACCMODE) == O_WRONLY ? "writing"
                                               : "reading");
    else if (fd < 0)
        fail_errno(error, err, "cannot duplicate a descriptor of fd set %" PRId64, id);
    return fd;
}

int file_open(const char *path, int flags, mode_t mode, GError **error)
{
    static const char prefix[] = "/dev/fdset/";
    if (g_str_has_prefix(path, prefix))
        return open_set(path, path + strlen(prefix), flags, error);
    int fd = open(path, flags | O_CLOEXEC, mode);
    if (fd < 0)
        fail_errno(error, errno, "cannot open '%s'", path);
    return fd;
}

bool fd_name_put(const char *name, int fd, GError **error)
{
    if (!*name || g_ascii_isdigit(*name)) {
        close(fd);
        return fail(error, ERR_INVALID_PARAMETER,
                    "'fdname' must not start with a digit: numbers name inherited descriptors");
    }
    g_mutex_lock(&mutex);
    if (!names)
        names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    void *old = g_hash_table_lookup(names, name);
    if (old)
        close(GPOINTER_TO_INT(old) - 1);
    g_hash_table_replace(names, g_strdup(name), GINT_TO_POINTER(fd + 1));
    g_mutex_unlock(&mutex);
    return true;
}

static int take_number(const char *text, GError **error)
{
    char *end;
    int64_t fd = g_ascii_strtoll(text, &end, 10);
    if (*end || fd > INT_MAX) {
        fail(error, ERR_INVALID_PARAMETER, "Invalid file descriptor number '%s'", text);
        return -1;
    }
    int flags = fcntl((int)fd, F_GETFD);
    if (flags < 0) {
        fail_errno(error, errno, "file descriptor %s is not open", text);
        return -1;
    }
    fcntl((int)fd, F_SETFD, flags | FD_CLOEXEC);
    return (int)fd;
}

int fd_name_take(const char *text, GError **error)
{
    if (g_ascii_isdigit(*text))
        return take_number(text, error);
    g_mutex_lock(&mutex);
    int fd = names ? GPOINTER_TO_INT(g_hash_table_lookup(names, text)) - 1 : -1;
    if (fd >= 0)
        g_hash_table_remove(names, text);
    g_mutex_unlock(&mutex);
    if (fd < 0)
        fail(error, ERR_NOT_FOUND, "File descriptor named '%s' not found", text);
    return fd;
}

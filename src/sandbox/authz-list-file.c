/*
 * authz-list-file: rules in a file, as JSON: { "policy": "deny", "rules": [ { "match": …, … } ] }.
 *
 * With refresh=on its folder is watched (inotify(7)), as a file is best replaced by rename.  Rules that
 * cannot be read leave those in force that there are: half a file must neither let anybody in nor lock
 * everybody out.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>
#include "src/base/options.h"
#include "src/base/trace.h"
#include "src/base/util.h"
#include "src/sandbox/authz-rules.h"
#include "src/sandbox/authz.h"

enum { FILE_BYTES_MAX = 4 << 20 };

typedef struct AuthzListFile {
    Object obj;
    char *filename;
    bool refresh;
    char *path;                            /* from realize on: the same in any working directory */
    AuthzRules rules;
    int inotify_fd;                        /* -1: not watched */
    LoopFd *watch;
} AuthzListFile;

/* ---- reading ---- */

/* Never waits for the other end of a pipe.  NULL: an error. */
static char *read_text(const char *path, size_t *ret_bytes, GError **error)
{
    auto_fd fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    g_autofree char *text = NULL;
    struct stat st;
    ssize_t n = 0;
    size_t got = 0;

    if (fd < 0 || fstat(fd, &st) < 0) {
        fail_errno(error, errno, "cannot read '%s'", path);
        return NULL;
    }
    if (!S_ISREG(st.st_mode) || st.st_size > FILE_BYTES_MAX) {
        fail(error, ERR_INVALID_PARAMETER, "'%s' is no regular file of at most %d MiB", path,
             FILE_BYTES_MAX >> 20);
        return NULL;
    }
    text = g_malloc(st.st_size + 1);
    while (got < (size_t)st.st_size && (n = read(fd, text + got, st.st_size - got)) > 0)
        got += n;
    if (n < 0) {
        fail_errno(error, errno, "cannot read '%s'", path);
        return NULL;
    }
    *ret_bytes = got;
    return g_steal_pointer(&text);
}

static bool load(AuthzListFile *file, GError **error)
{
    size_t bytes = 0;
    g_autofree char *text = read_text(file->path, &bytes, error);
    g_autoptr(json_object) object = text ? json_parse(text, bytes, error) : NULL;

    if (!text)
        return false;
    if (object && !json_object_is_type(object, json_type_object))
        return fail(error, ERR_WRONG_TYPE, "'%s' must contain a JSON object", file->path);
    if (!object || !authz_rules_parse(&file->rules, object, error))
        return error_prefix(error, "'%s': ", file->path);
    return true;
}

/* ---- reading again ---- */

/* @half: it may be in the middle of being written; the end of that is an event of its own. */
static void load_again(AuthzListFile *file, bool half)
{
    g_autoptr(GError) error = NULL;

    if (load(file, &error))
        TRACE(authz_reloaded, "%s: %s", file->obj.name, file->path);
    else if (!half)
        warn_report("%s '%s': %s; the rules that it had stay in force", file->obj.type->name,
                    file->obj.name, error->message);
}

static bool is_ours(const AuthzListFile *file, const struct inotify_event *event)
{
    g_autofree char *base = g_path_get_basename(file->path);

    return event->len && !strcmp(event->name, base);
}

/* All that has happened is answered by one look at the file. */
static void on_change(void *opaque, unsigned events)
{
    AuthzListFile *file = opaque;
    char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    uint32_t seen = 0;
    ssize_t n;

    while ((n = read(file->inotify_fd, buffer, sizeof(buffer))) > 0) {
        const struct inotify_event *event;

        for (char *at = buffer; at < buffer + n; at += sizeof(*event) + event->len) {
            event = (const struct inotify_event *)at;
            if (event->mask & (IN_Q_OVERFLOW | IN_IGNORED) || is_ours(file, event))
                seen |= event->mask;
        }
    }
    if (seen)
        load_again(file, seen == IN_CREATE);
    if (seen & IN_IGNORED)
        warn_report("%s '%s': the folder of '%s' has gone: changes are not noticed any more",
                    file->obj.type->name, file->obj.name, file->path);
}

static bool watch(AuthzListFile *file, GError **error)
{
    const uint32_t what = IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_MOVED_FROM;
    g_autofree char *folder = g_path_get_dirname(file->path);

    file->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (file->inotify_fd < 0 || inotify_add_watch(file->inotify_fd, folder, what | IN_ONLYDIR) < 0) {
        fail_errno(error, errno, "cannot watch '%s'", folder);
        return error_hint(error, "refresh=off does without");
    }
    file->watch = loop_add_fd(loop_main(), file->inotify_fd, G_IO_IN, on_change, file);
    return true;
}

/* ---- the object ---- */

static void file_init(Object *obj)
{
    ((AuthzListFile *)obj)->inotify_fd = -1;
}

/* Watched first: what changes while it is read is seen. */
static bool file_realize(Object *obj, GError **error)
{
    AuthzListFile *file = (AuthzListFile *)obj;

    if (!file->filename)
        return fail(error, ERR_MISSING_PARAMETER, "Parameter 'filename' is missing");
    file->path = g_canonicalize_filename(file->filename, NULL);
    return (!file->refresh || watch(file, error)) && load(file, error);
}

static void file_unrealize(Object *obj)
{
    AuthzListFile *file = (AuthzListFile *)obj;

    g_clear_pointer(&file->watch, loop_fd_remove);
    if (file->inotify_fd >= 0)
        close(file->inotify_fd);
    file->inotify_fd = -1;
    authz_rules_clear(&file->rules);
    file->rules.policy = AUTHZ_DENY;
    g_clear_pointer(&file->path, g_free);
}

static bool co_fn file_allows(Object *obj, const char *identity, GError **error)
{
    return authz_rules_allow(&((AuthzListFile *)obj)->rules, identity);
}

static const Property file_props[] = {
    PROP("filename", AuthzListFile, filename, .help = "file with the rules, as JSON"),
    PROP("refresh", AuthzListFile, refresh, .def.b = true, .help = "read it again when it changes"),
    {}
};

static const AuthzOps file_ops = { .allows = file_allows };

static const Type file_type = {
    .name = "authz-list-file",
    .parent = "authz",
    .help = "lets in whom the rules in a file allow",
    .size = sizeof(AuthzListFile),
    .user_creatable = true,
    .props = file_props,
    .init = file_init,
    .realize = file_realize,
    .unrealize = file_unrealize,
    .ops = &file_ops,
};
TYPE_REGISTER(file_type)

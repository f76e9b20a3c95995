/* QMP over a socket. */
#include "src/tools/ctl-qmp.h"
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "src/base/util.h"

enum { MESSAGE_MAX = 256 << 20 };

struct Qmp {
    int fd;
    int64_t timeout_us;            /* 0: none */
    GByteArray *in;
    size_t scanned;                /* of it, looked at for the end of a message */
    unsigned depth;
    bool in_string, escaped;
    QmpEventFn *on_event;
    void *opaque;
    json_object *reply;            /* the last one, not collected yet */
    bool failed;
    unsigned next_id;
};

static int connect_unix(const char *path, GError **error)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof(un.sun_path)) {
        fail(error, ERR_INVALID_PARAMETER, "socket path '%s' is too long", path);
        return -1;
    }
    strcpy(un.sun_path, path);
    auto_fd fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&un, sizeof(un))) {
        int err = errno;
        fail_errno(error, err, "cannot connect to '%s'", path);
        if (err == ENOENT || err == ECONNREFUSED)
            error_hint(error, "is the machine running, with -qmp unix:%s,server=on,wait=off?", path);
        return -1;
    }
    return steal_fd(&fd);
}

static int connect_tcp(const char *host, const char *port, GError **error)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list = NULL;
    int r = getaddrinfo(*host ? host : NULL, port, &hints, &list), err = 0, found = -1;
    if (r) {
        fail(error, ERR_NOT_FOUND, "'%s:%s': %s", host, port, gai_strerror(r));
        return -1;
    }
    for (struct addrinfo *a = list; a && found < 0; a = a->ai_next) {
        auto_fd fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, a->ai_addr, a->ai_addrlen))
            err = errno;
        else
            found = steal_fd(&fd);
    }
    freeaddrinfo(list);
    if (found < 0)
        fail_errno(error, err, "cannot connect to '%s:%s'", host, port);
    return found;
}

static int connect_address(const char *address, GError **error)
{
    const char *colon = strrchr(address, ':');
    if (g_str_has_prefix(address, "unix:"))
        return connect_unix(address + strlen("unix:"), error);
    if (!colon || strchr(address, '/'))
        return connect_unix(address, error);
    const char *start = g_str_has_prefix(address, "tcp:") ? address + strlen("tcp:") : address;
    g_autofree char *host = g_strndup(start, (gsize)MAX(colon - start, 0));
    return connect_tcp(host, colon + 1, error);
}

/* --- Messages --- */

/* The length of the first whole message in the buffer, or 0.  Messages are objects: they end where
 * the first brace is closed. */
static size_t whole_message(Qmp *q)
{
    for (; q->scanned < q->in->len; q->scanned++) {
        char c = (char)q->in->data[q->scanned];
        if (q->in_string) {
            q->in_string = q->escaped || c != '"';
            q->escaped = !q->escaped && c == '\\';
        } else if (c == '"') {
            q->in_string = true;
        } else if (c == '{' || c == '[') {
            q->depth++;
        } else if ((c == '}' || c == ']') && q->depth && --q->depth == 0) {
            return ++q->scanned;
        }
    }
    return 0;
}

static bool handle_message(Qmp *q, json_object *message)
{
    if (json_object_object_get_ex(message, "event", NULL)) {
        if (q->on_event)
            q->on_event(message, q->opaque);
        return false;
    }
    json_object_put(q->reply);
    q->reply = json_object_get(message);
    return true;
}

/* Handles the messages that are whole, up to and with a reply. */
static bool handle_messages(Qmp *q, GError **error)
{
    size_t length;
    while (!q->reply && (length = whole_message(q))) {
        g_autoptr(json_object) message = json_parse((char *)q->in->data, length, error);
        if (!message)
            return error_prefix(error, "the monitor sent: ");
        g_byte_array_remove_range(q->in, 0, (guint)length);
        q->scanned = 0;
        handle_message(q, message);
    }
    return true;
}

static bool read_more(Qmp *q, GError **error)
{
    uint8_t buffer[65536];
    ssize_t n = read(q->fd, buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR)
        return true;
    if (n < 0)
        return fail_errno(error, errno, "the connection failed");
    if (n == 0)
        return fail(error, ERR_IO, "the monitor closed the connection");
    if (q->in->len + (size_t)n > MESSAGE_MAX)
        return fail(error, ERR_LIMIT, "the monitor's message is too long");
    g_byte_array_append(q->in, buffer, (guint)n);
    return handle_messages(q, error);
}

/* @end_us: on g_get_monotonic_time's clock; 0: none. */
static bool wait_readable(Qmp *q, int64_t end_us, GError **error)
{
    for (;;) {
        struct pollfd fd = { .fd = q->fd, .events = POLLIN };
        int64_t left = end_us ? MAX(end_us - g_get_monotonic_time(), 0) : 0;
        int r = poll(&fd, 1, end_us ? (int)MIN((left + 999) / 1000, G_MAXINT) : -1);
        if (r > 0)
            return true;
        if (r == 0)
            return fail(error, ERR_TIMEOUT, "no answer in time");
        if (errno != EINTR)
            return fail_errno(error, errno, "cannot wait for the monitor");
    }
}

static int64_t deadline(const Qmp *q)
{
    return q->timeout_us ? g_get_monotonic_time() + q->timeout_us : 0;
}

/* What came together with a reply is still in the buffer. */
static bool handle_rest(Qmp *q, bool *any, GError **error)
{
    guint before = q->in->len;
    bool ok = handle_messages(q, error);
    *any = q->in->len != before;
    return ok;
}

bool qmp_wait(Qmp *q, GError **error)
{
    bool any;
    if (!handle_rest(q, &any, error))
        return false;
    return any || (wait_readable(q, deadline(q), error) && read_more(q, error));
}

bool qmp_poll(Qmp *q, GError **error)
{
    bool any;
    struct pollfd fd = { .fd = q->fd, .events = POLLIN };
    return handle_rest(q, &any, error) && (poll(&fd, 1, 0) <= 0 || read_more(q, error));
}

static json_object *wait_reply(Qmp *q, GError **error)
{
    int64_t end = deadline(q);
    if (!handle_messages(q, error))
        return NULL;
    while (!q->reply) {
        if (!wait_readable(q, end, error) || !read_more(q, error))
            return NULL;
    }
    return g_steal_pointer(&q->reply);
}

static bool send_all(Qmp *q, const char *data, size_t length, GError **error)
{
    while (length) {
        ssize_t n = send(q->fd, data, length, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_errno(error, errno, "the connection failed");
        data += n;
        length -= (size_t)n;
    }
    return true;
}

static const char *str_member(json_object *object, const char *key)
{
    json_object *value;
    return json_object_object_get_ex(object, key, &value) &&
                   json_object_is_type(value, json_type_string)
               ? json_object_get_string(value)
               : NULL;
}

/* The code that the monitor names, or what its class says. */
static ErrorCode code_of(json_object *error)
{
    const char *name = str_member(error, "code"), *class = str_member(error, "class");
    for (int code = 0; code < ERR__COUNT; code++) {
        if (!g_strcmp0(name, error_code_name(code)))
            return code;
    }
    for (int code = 0; !name && code < ERR__COUNT; code++) {
        if (!g_strcmp0(class, error_code_class(code)))
            return code;
    }
    return ERR_GENERIC;
}

static bool report_failure(Qmp *q, json_object *reply, GError **error)
{
    const char *desc = str_member(reply, "desc"), *hint = str_member(reply, "hint");
    q->failed = true;
    fail(error, code_of(reply), "%s", desc ? desc : "the command failed");
    if (str_member(reply, "object"))
        error_object(error, "%s", str_member(reply, "object"));
    return hint ? error_hint(error, "%s", hint) : false;
}

bool qmp_execute(Qmp *q, const char *command, json_object *arguments, json_object **ret,
                 GError **error)
{
    g_autoptr(json_object) request = json_object_new_object();
    json_object *result, *id = json_object_new_int64(++q->next_id);
    json_object_object_add(request, "execute", json_object_new_string(command));
    if (arguments)
        json_object_object_add(request, "arguments", arguments);
    json_object_object_add(request, "id", json_object_get(id));
    g_autoptr(json_object) own_id = id;
    q->failed = false;
    const char *text = json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN);
    if (!send_all(q, text, strlen(text), error) || !send_all(q, "\n", 1, error))
        return false;
    for (;;) {
        g_autoptr(json_object) reply = wait_reply(q, error);
        if (!reply)
            return false;
        if (json_object_object_get_ex(reply, "error", &result))
            return report_failure(q, result, error);
        json_object *reply_id = NULL;
        bool has_id = json_object_object_get_ex(reply, "id", &reply_id);
        if (has_id && !json_object_equal(reply_id, own_id))
            continue; /* of a request that was given up */
        if (!json_object_object_get_ex(reply, "return", &result))
            return fail(error, ERR_IO, "the monitor's answer has no result");
        *ret = json_object_get(result);
        return true;
    }
}

bool qmp_failed(const Qmp *q)
{
    return q->failed;
}

int qmp_fd(const Qmp *q)
{
    return q->fd;
}

void qmp_on_event(Qmp *q, QmpEventFn *fn, void *opaque)
{
    q->on_event = fn;
    q->opaque = opaque;
}

static bool negotiate(Qmp *q, GError **error)
{
    g_autoptr(json_object) greeting = wait_reply(q, error);
    g_autoptr(json_object) done = NULL;
    if (!greeting)
        return false;
    if (!json_object_object_get_ex(greeting, "QMP", NULL))
        return fail(error, ERR_INVALID_SYNTAX, "this is not a QMP monitor");
    return qmp_execute(q, "qmp_capabilities", NULL, &done, error);
}

Qmp *qmp_open(const char *address, double timeout_s, GError **error)
{
    int fd = connect_address(address, error);
    if (fd < 0)
        return NULL;
    Qmp *q = g_new0(Qmp, 1);
    q->fd = fd;
    q->timeout_us = (int64_t)(timeout_s * G_USEC_PER_SEC);
    q->in = g_byte_array_new();
    if (negotiate(q, error))
        return q;
    error_prefix(error, "%s: ", address);
    qmp_close(q);
    return NULL;
}

void qmp_close(Qmp *q)
{
    if (!q)
        return;
    close(q->fd);
    g_byte_array_unref(q->in);
    json_object_put(q->reply);
    g_free(q);
}

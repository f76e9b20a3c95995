/* Socket addresses: options, listening, connecting, words for them. */
#include "src/chardev/char-addr.h"
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "src/base/util.h"
#include "src/chardev/chardev-int.h"

static bool take_family(CharAddr *addr, json_object *options, GError **error)
{
    bool v4 = false, v6 = false;
    if (!take_bool(options, "ipv4", &v4, error) || !take_bool(options, "ipv6", &v6, error))
        return false;
    addr->family = v4 == v6 ? AF_UNSPEC : v4 ? AF_INET : AF_INET6;
    return true;
}

bool char_addr_take(CharAddr *addr, json_object *options, GError **error)
{
    *addr = (CharAddr){ .tight = true };
    if (!take_str(options, "path", &addr->path, error) ||
        !take_str(options, "host", &addr->host, error) ||
        !take_str(options, "port", &addr->port, error) ||
        !take_str(options, "fd", &addr->fd, error))
        return false;
    if (addr->path && !addr->host && !addr->fd) {
        addr->kind = CHAR_ADDR_UNIX;
        return take_bool(options, "abstract", &addr->abstract, error) &&
               take_bool(options, "tight", &addr->tight, error);
    }
    if (addr->fd && !addr->path && !addr->host) {
        addr->kind = CHAR_ADDR_FD;
        return true;
    }
    if (!addr->host || addr->path || addr->fd) {
        bool several = addr->host || addr->path || addr->fd;
        fail(error, ERR_INVALID_PARAMETER, "socket: %sone of 'path', 'host' and 'fd' %s",
             several ? "only " : "", several ? "can be given" : "required");
        return error_hint(error, "a unix socket has path=, a TCP socket host= and port=");
    }
    if (!addr->port)
        return fail(error, ERR_MISSING_PARAMETER, "socket: no port given");
    addr->kind = CHAR_ADDR_TCP;
    return take_family(addr, options, error);
}

void char_addr_copy(CharAddr *to, const CharAddr *from)
{
    *to = *from;
    to->path = g_strdup(from->path);
    to->host = g_strdup(from->host);
    to->port = g_strdup(from->port);
    to->fd = g_strdup(from->fd);
}

void char_addr_clear(CharAddr *addr)
{
    g_free(addr->path);
    g_free(addr->host);
    g_free(addr->port);
    g_free(addr->fd);
    *addr = (CharAddr){ 0 };
}

static bool unix_address(const CharAddr *addr, struct sockaddr_un *un, socklen_t *length,
                         GError **error)
{
    size_t n = strlen(addr->path), max = sizeof(un->sun_path) - 1;
    *un = (struct sockaddr_un){ .sun_family = AF_UNIX };
    if (n > max) {
        fail(error, ERR_INVALID_PARAMETER, "UNIX socket path '%s' is too long", addr->path);
        return error_hint(error, "a path must be less than %zu bytes", max + 1);
    }
    memcpy(un->sun_path + addr->abstract, addr->path, n);
    *length = addr->abstract && addr->tight ? (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n)
                                            : (socklen_t)sizeof(*un);
    return true;
}

/* Whether a process holds the socket at this path.  A stream socket does not notice that a datagram
 * socket has tried to connect to it, but the kernel tells us that it is of another kind. */
static bool is_held(const struct sockaddr_un *un, socklen_t length)
{
    auto_fd probe = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return probe >= 0 &&
           (connect(probe, (const struct sockaddr *)un, length) == 0 || errno == EPROTOTYPE);
}

/* What a former process left.  Another kind of file is not ours to remove. */
static bool remove_stale(const CharAddr *addr, const struct sockaddr_un *un, socklen_t length,
                         GError **error)
{
    struct stat st;
    if (addr->abstract || lstat(addr->path, &st) || !S_ISSOCK(st.st_mode))
        return true;
    if (is_held(un, length)) {
        fail(error, ERR_EXISTS, "Failed to bind socket to %s: another process is using it",
             addr->path);
        return error_hint(error, "end that process, or choose another path");
    }
    unlink(addr->path);
    return true;
}

static int listen_unix(const CharAddr *addr, GError **error)
{
    struct sockaddr_un un;
    socklen_t length = 0;
    if (!unix_address(addr, &un, &length, error))
        return -1;
    auto_fd fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (!remove_stale(addr, &un, length, error))
        return -1;
    if (fd < 0 || bind(fd, (struct sockaddr *)&un, length)) {
        fail_errno(error, errno, "Failed to bind socket to %s", addr->path);
        return -1;
    }
    if (listen(fd, SOMAXCONN)) {
        fail_errno(error, errno, "Failed to listen on socket %s", addr->path);
        return -1;
    }
    return steal_fd(&fd);
}

static struct addrinfo *resolve(const CharAddr *addr, bool passive, GError **error)
{
    struct addrinfo hints = { .ai_family = addr->family, .ai_socktype = SOCK_STREAM,
                              .ai_flags = passive ? AI_PASSIVE : 0 };
    struct addrinfo *list = NULL;
    if (strspn(addr->port, "0123456789") == strlen(addr->port) &&
        g_ascii_strtoull(addr->port, NULL, 10) > UINT16_MAX) {      /* glibc takes its low bits */
        fail(error, ERR_INVALID_PARAMETER, "'%s' is not a port: they go up to 65535", addr->port);
        return NULL;
    }
    int r = getaddrinfo(*addr->host ? addr->host : NULL, addr->port, &hints, &list);
    if (r)
        fail(error, ERR_NOT_FOUND, "address resolution failed for %s:%s: %s", addr->host,
             addr->port, gai_strerror(r));
    return r ? NULL : list;
}

static int listen_tcp(const CharAddr *addr, GError **error)
{
    struct addrinfo *list = resolve(addr, true, error);
    int err = 0, found = -1, on = 1;
    for (struct addrinfo *a = list; a && found < 0; a = a->ai_next) {
        auto_fd fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) ||
            bind(fd, a->ai_addr, a->ai_addrlen) || listen(fd, SOMAXCONN))
            err = errno;
        else
            found = steal_fd(&fd);
    }
    if (list)
        freeaddrinfo(list);
    if (list && found < 0)
        fail_errno(error, err, "Failed to find an available port on %s:%s", addr->host, addr->port);
    return found;
}

int char_addr_listen(const CharAddr *addr, GError **error)
{
    return addr->kind == CHAR_ADDR_UNIX ? listen_unix(addr, error) : listen_tcp(addr, error);
}

static int connect_to(int family, const struct sockaddr *to, socklen_t length, bool *in_progress)
{
    auto_fd fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    int r = connect(fd, to, length);
    *in_progress = r && errno == EINPROGRESS;
    return r && !*in_progress ? -1 : steal_fd(&fd);
}

int char_addr_connect(const CharAddr *addr, bool *in_progress, GError **error)
{
    int fd = -1;
    if (addr->kind == CHAR_ADDR_UNIX) {
        struct sockaddr_un un;
        socklen_t length = 0;
        if (!unix_address(addr, &un, &length, error))
            return -1;
        fd = connect_to(AF_UNIX, (struct sockaddr *)&un, length, in_progress);
        if (fd < 0)
            fail_errno(error, errno, "Failed to connect to '%s'", addr->path);
        return fd;
    }
    struct addrinfo *list = resolve(addr, false, error);
    int err = 0;
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = connect_to(a->ai_family, a->ai_addr, a->ai_addrlen, in_progress);
        err = errno;
    }
    if (list)
        freeaddrinfo(list);
    if (list && fd < 0)
        fail_errno(error, err, "Failed to connect to '%s:%s'", addr->host, addr->port);
    return fd;
}

static char *tcp_text(const struct sockaddr *sa, socklen_t length)
{
    char host[NI_MAXHOST], port[NI_MAXSERV];
    if (getnameinfo(sa, length, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV))
        return g_strdup("tcp:?");
    return sa->sa_family == AF_INET6 ? g_strdup_printf("tcp:[%s]:%s", host, port)
                                     : g_strdup_printf("tcp:%s:%s", host, port);
}

char *char_addr_of_socket(int fd, bool peer)
{
    struct sockaddr_storage storage = { 0 };
    struct sockaddr *sa = (struct sockaddr *)&storage;
    socklen_t length = sizeof(storage);
    if ((peer ? getpeername : getsockname)(fd, sa, &length))
        return g_strdup("unknown");
    if (sa->sa_family != AF_UNIX)
        return tcp_text(sa, length);
    struct sockaddr_un *un = (struct sockaddr_un *)sa;
    size_t head = offsetof(struct sockaddr_un, sun_path);
    if (length <= head)
        return g_strdup("unix:");
    size_t n = MIN(length - head, sizeof(un->sun_path));
    return un->sun_path[0] ? g_strdup_printf("unix:%.*s", (int)n, un->sun_path)
                           : g_strdup_printf("unix:%.*s", (int)n - 1, un->sun_path + 1);
}

char *char_addr_text(const CharAddr *addr)
{
    switch (addr->kind) {
    case CHAR_ADDR_UNIX:
        return g_strdup_printf("unix:%s", addr->path);
    case CHAR_ADDR_TCP:
        return g_strdup_printf("tcp:%s:%s", addr->host, addr->port);
    default:
        return g_strdup_printf("fd:%s", addr->fd);
    }
}

bool char_addr_is_listening(int fd)
{
    int on = 0;
    socklen_t length = sizeof(on);
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &length) == 0 && on;
}

bool char_addr_is_unix(int fd)
{
    int domain = 0;
    socklen_t length = sizeof(domain);
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_UNIX;
}

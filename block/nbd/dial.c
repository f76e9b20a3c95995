/* Connecting to a server, with an end to patience.  Blocking: not in a loop. */
#include <errno.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "block/nbd/tunnel.h"
#include "src/base/loop.h"
#include "src/base/util.h"

/* A socket's time limit for sending is one for connecting, too (socket(7)). */
static int connect_to(int family, const struct sockaddr *to, socklen_t length, int64_t end_ns)
{
    auto_fd fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int64_t us = MAX((end_ns - loop_clock_ns()) / 1000, 1000);
    struct timeval limit = { .tv_sec = us / 1000000, .tv_usec = us % 1000000 };

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0)
        return -1;
    if (connect(fd, to, length) < 0) {
        if (errno == EINPROGRESS || errno == EAGAIN)
            errno = ETIMEDOUT;
        return -1;
    }
    return steal_fd(&fd);
}

static int dial_unix(const char *path, int64_t end_ns, GError **error)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd;

    if (strlen(path) >= sizeof(addr.sun_path)) {
        fail(error, ERR_INVALID_PARAMETER, "UNIX socket path '%s' is too long", path);
        return -1;
    }
    strcpy(addr.sun_path, path);
    fd = connect_to(AF_UNIX, (struct sockaddr *)&addr, sizeof(addr), end_ns);
    if (fd < 0)
        fail_errno(error, errno, "connect to '%s'", path);
    return fd;
}

static int dial_tcp(const char *host, const char *port, int64_t end_ns, GError **error)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list = NULL;
    int ret = getaddrinfo(host, port, &hints, &list), fd = -1, err = 0;

    if (ret) {
        fail(error, ERR_NOT_FOUND, "address resolution failed for %s:%s: %s", host, port,
             gai_strerror(ret));
        return -1;
    }
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = connect_to(a->ai_family, a->ai_addr, a->ai_addrlen, end_ns);
        err = errno;
    }
    freeaddrinfo(list);
    if (fd < 0)
        fail_errno(error, err, "connect to %s:%s", host, port);
    return fd;
}

int nbd_dial(const char *path, const char *host, const char *port, int64_t end_ns, GError **error)
{
    return path ? dial_unix(path, end_ns, error) : dial_tcp(host, port, end_ns, error);
}

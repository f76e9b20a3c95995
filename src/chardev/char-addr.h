/* Where a socket chardev listens or connects. */
#pragma once
#include <json-c/json.h>
#include <sys/socket.h>
#include "src/base/error.h"

typedef enum CharAddrKind { CHAR_ADDR_UNIX, CHAR_ADDR_TCP, CHAR_ADDR_FD } CharAddrKind;

typedef struct CharAddr {
    CharAddrKind kind;
    char *path, *host, *port, *fd;         /* as given; those of its kind */
    bool abstract, tight;                  /* unix */
    int family;                            /* tcp: AF_UNSPEC, AF_INET or AF_INET6 */
} CharAddr;

/* Takes the address's options.  False: none, or not just one. */
bool char_addr_take(CharAddr *addr, json_object *options, GError **error);
void char_addr_copy(CharAddr *to, const CharAddr *from);
void char_addr_clear(CharAddr *addr);
int char_addr_listen(const CharAddr *addr, GError **error);       /* a listening socket, or -1 */
/* A socket; *in_progress: its connection is not complete yet.  Looks names up, and may wait for that:
 * not in the main loop, but for unix sockets. */
int char_addr_connect(const CharAddr *addr, bool *in_progress, GError **error);
/* "unix:/path", "tcp:host:port": of the socket's own end, or its peer's. */
char *char_addr_of_socket(int fd, bool peer);
char *char_addr_text(const CharAddr *addr);                       /* as given */
bool char_addr_is_listening(int fd);
bool char_addr_is_unix(int fd);

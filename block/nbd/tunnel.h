/*
 * TLS of our own for libnbd, where its own does not do what the credentials ask for: it checks a
 * certificate against the host's name in a TCP address only, and over a unix socket against nothing; and it
 * knows neither priorities nor keys with a password.
 *
 * A tunnel is a thread between the server and libnbd: it begins the conversation with the server until the
 * connection is secret and the certificate checked, then libnbd begins it anew, in the clear, on a socket of
 * this process, and all bytes are passed on.
 */
#pragma once
#include <stdint.h>
#include "src/sandbox/tls-creds.h"

typedef struct NbdTunnel NbdTunnel;
struct nbd_handle;

/* libnbd's own TLS, and nothing less, with these keys.  False: nbd_get_error. */
bool nbd_require_tls(struct nbd_handle *nbd, const TlsKeys *keys);

/* Whether libnbd's TLS would not do.  @host: of a TCP address, or NULL; @hostname: whom the certificate must
 * name (tls-hostname), or NULL for the host. */
bool nbd_tunnel_needed(const TlsKeys *keys, const char *host, const char *hostname);

/* A connected socket: to the unix socket @path, or to a TCP address.  -1: an error.  Waits, until @end_ns
 * (loop_clock_ns) at most beside the time that the name's look-up takes. */
int nbd_dial(const char *path, const char *host, const char *port, int64_t end_ns, GError **error);

/* Owns @server_fd in any case.  *ret_fd is for libnbd to connect to, and its own.  @hostname: NULL: the
 * certificate may have any name, as long as its authority has signed it.  NULL: an error.  Waits. */
NbdTunnel *nbd_tunnel_new(int server_fd, TlsKeys *keys, const char *hostname, int64_t end_ns, int *ret_fd,
                          GError **error);
/* From now on nothing reaches the server, so that nbd_tunnel_free does not wait.  NULL is fine. */
void nbd_tunnel_cut(NbdTunnel *tunnel);
/* After nbd_close of who was connected to it: what libnbd sent last still goes to the server, which has a
 * second for it.  NULL is fine. */
void nbd_tunnel_free(NbdTunnel *tunnel);

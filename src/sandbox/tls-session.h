/*
 * One TLS connection over a socket.  Nothing here waits: what cannot be done now gives -EAGAIN.  A
 * session is used by one thread at a time; reading and writing may be in the middle of their work
 * at once.
 */
#pragma once
#include <sys/types.h>
#include "src/sandbox/tls-creds.h"

typedef struct TlsSession TlsSession;

/* @fd stays the caller's and must outlive the session.  @hostname: client: whom the server's
 * certificate must name; NULL: nobody.  Takes a reference of @keys. */
TlsSession *tls_session_new(TlsKeys *keys, int fd, const char *hostname, GError **error);
void tls_session_free(TlsSession *session);              /* NULL is fine; the peer hears nothing */

/* 0: done.  -EAGAIN: call again when the socket can be read, or written if *ret_wants_write.
 * Another negative value: failed, with an error. */
int tls_session_handshake(TlsSession *session, bool *ret_wants_write, GError **error);
/* Server, after the handshake: who the client is: its certificate's distinguished name, as GnuTLS writes it
 * (RFC 4514, in the order in which the certificate has the parts), or the name of its shared key.  g_free;
 * NULL with an error: it has not shown who it is. */
char *tls_session_peer(TlsSession *session, GError **error);
/* Tells the peer that it may not come in, if that can be sent at once; nothing else may follow. */
void tls_session_refuse(TlsSession *session);
/* Bytes, 0 at the end, -EAGAIN, or another -errno. */
ssize_t tls_session_read(TlsSession *session, void *data, size_t bytes);
/* After -EAGAIN the same bytes must be given again. */
ssize_t tls_session_write(TlsSession *session, const void *data, size_t bytes);
/* Decrypted bytes that wait to be read, although the socket has none. */
size_t tls_session_pending(const TlsSession *session);

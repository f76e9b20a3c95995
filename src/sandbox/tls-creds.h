/*
 * TLS credentials: the objects "tls-creds-x509" (certificates) and "tls-creds-psk" (shared keys).
 * They name a folder whose files have QEMU's names: ca-cert.pem, ca-crl.pem, server-cert.pem,
 * server-key.pem, client-cert.pem, client-key.pem, dh-params.pem; keys.psk.
 *
 * Threads: objects belong to the main thread.  What a session takes from them (TlsKeys) is counted
 * and never changes, so that an object may be deleted while sessions go on.
 */
#pragma once
#include "src/object/object.h"

typedef enum TlsEndpoint { TLS_CLIENT, TLS_SERVER } TlsEndpoint;

typedef struct TlsKeys TlsKeys;
TlsKeys *tls_keys_ref(TlsKeys *keys);
void tls_keys_unref(TlsKeys *keys);        /* NULL is fine */

/* The credentials named @id, to be used on this side.  A new reference; NULL with an error: there
 * is no such object, it is of another type, or it is for the other side. */
TlsKeys *tls_creds_keys(Object *root, const char *id, TlsEndpoint side, GError **error);

/* What other TLS libraries need to know (libnbd).  Borrowed. */
bool tls_keys_is_psk(const TlsKeys *keys);
const char *tls_keys_dir(const TlsKeys *keys);
const char *tls_keys_username(const TlsKeys *keys);      /* psk, client */
const char *tls_keys_priority(const TlsKeys *keys);      /* NULL: the library's own */
bool tls_keys_verify_peer(const TlsKeys *keys);
bool tls_keys_has_password(const TlsKeys *keys);         /* the private key is locked by one */

/* TLS sessions, on GnuTLS. */
#include "src/sandbox/tls-session.h"
#include <errno.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include "src/sandbox/tls-keys.h"

struct TlsSession {
    gnutls_session_t tls;
    TlsKeys *keys;
    char *hostname;
    int fd;
};

/* The socket may be a blocking one, for those who read it through io_uring. */
static ssize_t push(gnutls_transport_ptr_t opaque, const void *data, size_t bytes)
{
    TlsSession *session = opaque;

    return send(session->fd, data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static ssize_t pull(gnutls_transport_ptr_t opaque, void *data, size_t bytes)
{
    TlsSession *session = opaque;

    return recv(session->fd, data, bytes, MSG_DONTWAIT);
}

static int set_priority(TlsSession *session)
{
    const TlsKeys *keys = session->keys;
    g_autofree char *text = g_strdup_printf("%s%s", keys->priority ? keys->priority : "NORMAL",
                                            keys->is_psk ? ":+ECDHE-PSK:+DHE-PSK:+PSK" : "");

    return gnutls_priority_set_direct(session->tls, text, NULL);
}

static int set_credentials(TlsSession *session)
{
    const TlsKeys *keys = session->keys;

    if (keys->psk_server)
        return gnutls_credentials_set(session->tls, GNUTLS_CRD_PSK, keys->psk_server);
    if (keys->psk_client)
        return gnutls_credentials_set(session->tls, GNUTLS_CRD_PSK, keys->psk_client);
    return gnutls_credentials_set(session->tls, GNUTLS_CRD_CERTIFICATE, keys->x509);
}

static void set_verification(TlsSession *session)
{
    const TlsKeys *keys = session->keys;

    if (keys->is_psk)
        return;
    if (keys->side == TLS_SERVER)
        gnutls_certificate_server_set_request(session->tls, keys->verify_peer ? GNUTLS_CERT_REQUIRE
                                                                              : GNUTLS_CERT_IGNORE);
    if (keys->verify_peer)
        gnutls_session_set_verify_cert(session->tls, session->hostname, 0);
    if (session->hostname)
        gnutls_server_name_set(session->tls, GNUTLS_NAME_DNS, session->hostname,
                               strlen(session->hostname));
}

TlsSession *tls_session_new(TlsKeys *keys, int fd, const char *hostname, GError **error)
{
    TlsSession *session = g_new0(TlsSession, 1);
    unsigned side = keys->side == TLS_SERVER ? GNUTLS_SERVER : GNUTLS_CLIENT;
    int ret = gnutls_init(&session->tls, side | GNUTLS_NO_SIGNAL);

    session->keys = tls_keys_ref(keys);
    session->hostname = g_strdup(hostname);
    session->fd = fd;
    if (ret >= 0)
        ret = set_priority(session);
    if (ret >= 0)
        ret = set_credentials(session);
    if (ret < 0) {
        fail(error, ERR_HOST, "cannot make a TLS session: %s", gnutls_strerror(ret));
        tls_session_free(session);
        return NULL;
    }
    set_verification(session);
    gnutls_transport_set_ptr(session->tls, session);
    gnutls_transport_set_push_function(session->tls, push);
    gnutls_transport_set_pull_function(session->tls, pull);
    return session;
}

void tls_session_free(TlsSession *session)
{
    if (!session)
        return;
    if (session->tls)
        gnutls_deinit(session->tls);
    tls_keys_unref(session->keys);
    g_free(session->hostname);
    g_free(session);
}

/* What is wrong with the peer's certificate, in words; g_free. */
static char *certificate_problem(TlsSession *session)
{
    unsigned status = gnutls_session_get_verify_cert_status(session->tls);
    gnutls_datum_t text = { NULL, 0 };
    char *copy = NULL;

    if (gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0) >= 0)
        copy = g_strndup((char *)text.data, text.size);
    free(text.data);                       /* what gnutls_free, a variable, is */
    return g_strchomp(copy ? copy : g_strdup("it could not be verified"));
}

int tls_session_handshake(TlsSession *session, bool *ret_wants_write, GError **error)
{
    int ret;

    do {
        ret = gnutls_handshake(session->tls);
    } while (ret < 0 && ret != GNUTLS_E_AGAIN && !gnutls_error_is_fatal(ret));
    if (ret >= 0)
        return 0;
    if (ret == GNUTLS_E_AGAIN) {
        *ret_wants_write = gnutls_record_get_direction(session->tls);
        return -EAGAIN;
    }
    if (ret == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR) {
        g_autofree char *why = certificate_problem(session);

        fail(error, ERR_PERMISSION, "TLS: the peer's certificate is refused: %s", why);
    } else {
        fail(error, ERR_HOST, "TLS handshake failed: %s", gnutls_strerror(ret));
    }
    return -EPROTO;
}

/* ---- who the client is ---- */

/* The name of a certificate; *ret_bytes without the zero at its end.  NULL: there is none. */
static char *certificate_name(gnutls_x509_crt_t cert, size_t *ret_bytes)
{
    char *name = NULL;
    int ret;

    *ret_bytes = 0;
    do {                                   /* a name that is too long says how long it is */
        name = g_realloc(name, *ret_bytes + 1);
        ret = gnutls_x509_crt_get_dn(cert, name, ret_bytes);
    } while (ret == GNUTLS_E_SHORT_MEMORY_BUFFER);
    if (ret >= 0)
        return name;
    g_free(name);
    return NULL;
}

static char *x509_peer(TlsSession *session)
{
    unsigned count = 0;
    const gnutls_datum_t *chain = gnutls_certificate_get_peers(session->tls, &count);
    gnutls_x509_crt_t cert;
    char *name = NULL;
    size_t bytes = 0;

    if (!chain || !count || gnutls_x509_crt_init(&cert) < 0)
        return NULL;
    if (gnutls_x509_crt_import(cert, &chain[0], GNUTLS_X509_FMT_DER) >= 0)
        name = certificate_name(cert, &bytes);
    gnutls_x509_crt_deinit(cert);
    if (name && strlen(name) != bytes)     /* a name that ends early would be another one's */
        g_clear_pointer(&name, g_free);
    return name;
}

char *tls_session_peer(TlsSession *session, GError **error)
{
    const TlsKeys *keys = session->keys;
    char *name;

    if (keys->is_psk)
        name = g_strdup(gnutls_psk_server_get_username(session->tls));
    else
        name = keys->verify_peer ? x509_peer(session) : NULL;
    if (!name)
        fail(error, ERR_PERMISSION, "TLS: the client has not shown who it is");
    return name;
}

void tls_session_refuse(TlsSession *session)
{
    gnutls_alert_send(session->tls, GNUTLS_AL_FATAL, GNUTLS_A_ACCESS_DENIED);
}

/* ---- records ---- */

static ssize_t to_errno(ssize_t ret)
{
    switch (ret) {
    case GNUTLS_E_AGAIN:
        return -EAGAIN;
    case GNUTLS_E_PREMATURE_TERMINATION:
    case GNUTLS_E_SESSION_EOF:
        return -ECONNRESET;
    default:
        return ret < 0 ? -EIO : ret;
    }
}

/* Alerts that are no errors, and requests for new keys, are no reason to stop; who sends nothing else would
 * keep the loop from its other work. */
static bool is_passing(ssize_t ret, unsigned *seen)
{
    enum { IN_A_ROW = 32 };

    return ret < 0 && ret != GNUTLS_E_AGAIN && ret != GNUTLS_E_REHANDSHAKE &&
           !gnutls_error_is_fatal((int)ret) && ++*seen < IN_A_ROW;
}

ssize_t tls_session_read(TlsSession *session, void *data, size_t bytes)
{
    unsigned seen = 0;
    ssize_t ret;

    do {
        ret = gnutls_record_recv(session->tls, data, bytes);
    } while (is_passing(ret, &seen));
    return to_errno(ret);
}

ssize_t tls_session_write(TlsSession *session, const void *data, size_t bytes)
{
    unsigned seen = 0;
    ssize_t ret;

    do {
        ret = gnutls_record_send(session->tls, data, bytes);
    } while (is_passing(ret, &seen));
    return to_errno(ret);
}

size_t tls_session_pending(const TlsSession *session)
{
    return gnutls_record_check_pending(session->tls);
}

/* TLS credential objects: their properties, and loading the files that they name. */
#include "src/sandbox/tls-creds.h"
#include <errno.h>
#include <gnutls/gnutls.h>
#include <string.h>
#include <unistd.h>
#include "src/object/secret.h"
#include "src/sandbox/gnutls-lazy.h"
#include "src/sandbox/tls-keys.h"

/* Both kinds begin so. */
typedef struct TlsCreds {
    Object obj;
    char *dir, *priority;
    int endpoint;                  /* TlsEndpoint */
    bool verify_peer;
    TlsKeys *keys;                 /* from realize on */
    /* x509 */
    bool sanity_check;
    char *passwordid;
    /* psk */
    char *username;
} TlsCreds;

static const char *const endpoint_words[] = { "client", "server", NULL };

static void free_keys(void *opaque)
{
    TlsKeys *keys = opaque;

    if (keys->x509)
        gnutls_certificate_free_credentials(keys->x509);
    if (keys->dh)
        gnutls_dh_params_deinit(keys->dh);
    if (keys->psk_server)
        gnutls_psk_free_server_credentials(keys->psk_server);
    if (keys->psk_client)
        gnutls_psk_free_client_credentials(keys->psk_client);
    g_free(keys->dir);
    g_free(keys->priority);
    g_free(keys->username);
}

TlsKeys *tls_keys_ref(TlsKeys *keys)
{
    return g_atomic_rc_box_acquire(keys);
}

void tls_keys_unref(TlsKeys *keys)
{
    if (keys)
        g_atomic_rc_box_release_full(keys, free_keys);
}

/* GnuTLS and libnbd read files again later, when a daemon is in another folder; g_free. */
static char *absolute_dir(const TlsCreds *creds)
{
    return g_canonicalize_filename(creds->dir, NULL);
}

static TlsKeys *keys_new(TlsCreds *creds, bool is_psk)
{
    TlsKeys *keys = g_atomic_rc_box_new0(TlsKeys);

    keys->side = creds->endpoint;
    keys->is_psk = is_psk;
    keys->verify_peer = creds->verify_peer;
    keys->has_password = creds->passwordid != NULL;
    keys->dir = absolute_dir(creds);
    keys->priority = g_strdup(creds->priority);
    keys->username = g_strdup(creds->username);
    return keys;
}

static bool check_common(TlsCreds *creds, GError **error)
{
    gnutls_priority_t cache = NULL;
    const char *at = NULL;

    if (!creds->dir)
        return fail(error, ERR_MISSING_PARAMETER, "%s '%s': dir= is needed", creds->obj.type->name,
                    creds->obj.name);
    if (creds->priority && gnutls_priority_init(&cache, creds->priority, &at) < 0)
        return fail(error, ERR_INVALID_PARAMETER, "%s '%s': priority: not understood from '%s' on",
                    creds->obj.type->name, creds->obj.name, at ? at : creds->priority);
    if (cache)
        gnutls_priority_deinit(cache);
    return true;
}

/* The path of a file in the folder.  Absent: NULL, with an error if it is needed. */
static char *find_file(TlsCreds *creds, const char *name, bool needed, GError **error)
{
    g_autofree char *dir = absolute_dir(creds);
    char *path = g_build_filename(dir, name, NULL);

    if (!access(path, R_OK))
        return path;
    if (needed)
        fail_errno(error, errno, "%s '%s': cannot read %s", creds->obj.type->name, creds->obj.name,
                   path);
    g_free(path);
    return NULL;
}

static bool fail_tls(TlsCreds *creds, const char *path, int code, GError **error)
{
    return fail(error, ERR_INVALID_PARAMETER, "%s '%s': %s: %s", creds->obj.type->name,
                creds->obj.name, path, gnutls_strerror(code));
}

/* ---- x509 ---- */

static bool load_authorities(TlsCreds *creds, gnutls_certificate_credentials_t x509, GError **error)
{
    g_autofree char *ca = find_file(creds, "ca-cert.pem", true, error);
    g_autofree char *crl = find_file(creds, "ca-crl.pem", false, NULL);
    int ret;

    if (!ca)
        return false;
    ret = gnutls_certificate_set_x509_trust_file(x509, ca, GNUTLS_X509_FMT_PEM);
    if (ret < 0)
        return fail_tls(creds, ca, ret, error);
    ret = crl ? gnutls_certificate_set_x509_crl_file(x509, crl, GNUTLS_X509_FMT_PEM) : 0;
    return ret >= 0 || fail_tls(creds, crl, ret, error);
}

/* *ret: the text of the secret that unlocks the key, or NULL; g_free. */
static bool key_password(TlsCreds *creds, char **ret, GError **error)
{
    Object *secret;
    gsize length;
    const char *data;

    *ret = NULL;
    if (!creds->passwordid)
        return true;
    secret = object_resolve(OBJECT(creds), creds->passwordid);
    if (!secret || !object_is_a(secret, "secret"))
        return fail(error, ERR_NOT_FOUND, "%s '%s': there is no secret '%s'", creds->obj.type->name,
                    creds->obj.name, creds->passwordid);
    data = g_bytes_get_data(secret_data(secret), &length);
    *ret = g_strndup(data, length);
    return true;
}

static bool load_own(TlsCreds *creds, gnutls_certificate_credentials_t x509, GError **error)
{
    bool server = creds->endpoint == TLS_SERVER;
    g_autofree char *cert = find_file(creds, server ? "server-cert.pem" : "client-cert.pem", server,
                                      error);
    g_autofree char *key = NULL, *password = NULL;
    int ret;

    if (!cert)
        return !server;                    /* a client without a certificate stays unknown */
    key = find_file(creds, server ? "server-key.pem" : "client-key.pem", true, error);
    if (!key || !key_password(creds, &password, error))
        return false;
    ret = gnutls_certificate_set_x509_key_file2(x509, cert, key, GNUTLS_X509_FMT_PEM, password, 0);
    if (password)
        explicit_bzero(password, strlen(password));
    return ret >= 0 || fail_tls(creds, key, ret, error);
}

static bool load_dh(TlsCreds *creds, gnutls_certificate_credentials_t x509, GError **error)
{
    g_autofree char *path = find_file(creds, "dh-params.pem", false, NULL);
    g_autofree char *text = NULL;
    gnutls_datum_t data;
    gsize length;
    int ret;

    if (creds->endpoint != TLS_SERVER)
        return true;
    if (!path) {
        gnutls_certificate_set_known_dh_params(x509, GNUTLS_SEC_PARAM_MEDIUM);
        return true;
    }
    if (!g_file_get_contents(path, &text, &length, NULL))
        return fail(error, ERR_IO, "%s '%s': cannot read %s", creds->obj.type->name,
                    creds->obj.name, path);
    data = (gnutls_datum_t){ (unsigned char *)text, length };
    ret = gnutls_dh_params_init(&creds->keys->dh);
    if (ret >= 0)
        ret = gnutls_dh_params_import_pkcs3(creds->keys->dh, &data, GNUTLS_X509_FMT_PEM);
    if (ret < 0)
        return fail_tls(creds, path, ret, error);
    gnutls_certificate_set_dh_params(x509, creds->keys->dh);
    return true;
}

static bool x509_realize(Object *obj, GError **error)
{
    TlsCreds *creds = (TlsCreds *)obj;

    if (!gnutls_load(error) || !check_common(creds, error))
        return false;
    creds->keys = keys_new(creds, false);
    if (gnutls_certificate_allocate_credentials(&creds->keys->x509) < 0)
        return fail(error, ERR_HOST, "tls-creds-x509 '%s': out of memory", obj->name);
    return load_authorities(creds, creds->keys->x509, error) &&
           load_own(creds, creds->keys->x509, error) && load_dh(creds, creds->keys->x509, error);
}

/* ---- psk ---- */

/* keys.psk: lines "name:hexadecimal key". */
static bool load_client_key(TlsCreds *creds, const char *path, GError **error)
{
    const char *name = creds->username ? creds->username : "qemu";
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL))
        return fail(error, ERR_IO, "tls-creds-psk '%s': cannot read %s", creds->obj.name, path);
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        char *colon = strchr(*line, ':');
        gnutls_datum_t key;
        int ret;

        if (!colon || strncmp(*line, name, MAX(strlen(name), (size_t)(colon - *line))))
            continue;
        g_strchomp(colon + 1);
        key = (gnutls_datum_t){ (unsigned char *)colon + 1, strlen(colon + 1) };
        ret = gnutls_psk_set_client_credentials(creds->keys->psk_client, name, &key,
                                                GNUTLS_PSK_KEY_HEX);
        return ret >= 0 || fail_tls(creds, path, ret, error);
    }
    return fail(error, ERR_NOT_FOUND, "tls-creds-psk '%s': %s has no key of '%s'", creds->obj.name,
                path, name);
}

static bool psk_realize(Object *obj, GError **error)
{
    TlsCreds *creds = (TlsCreds *)obj;
    g_autofree char *path = NULL;
    int ret;

    if (!gnutls_load(error) || !check_common(creds, error))
        return false;
    path = find_file(creds, "keys.psk", true, error);
    if (!path)
        return false;
    creds->keys = keys_new(creds, true);
    if (creds->endpoint == TLS_CLIENT) {
        ret = gnutls_psk_allocate_client_credentials(&creds->keys->psk_client);
        return ret >= 0 ? load_client_key(creds, path, error) : fail_tls(creds, path, ret, error);
    }
    ret = gnutls_psk_allocate_server_credentials(&creds->keys->psk_server);
    if (ret >= 0)
        ret = gnutls_psk_set_server_credentials_file(creds->keys->psk_server, path);
    return ret >= 0 || fail_tls(creds, path, ret, error);
}

/* ---- the objects ---- */

static void creds_unrealize(Object *obj)
{
    g_clear_pointer(&((TlsCreds *)obj)->keys, tls_keys_unref);
}

TlsKeys *tls_creds_keys(Object *root, const char *id, TlsEndpoint side, GError **error)
{
    Object *objects = object_child(root, "objects");
    Object *obj = objects ? object_child(objects, id) : NULL;
    TlsCreds *creds = (TlsCreds *)obj;

    if (!obj) {
        fail(error, ERR_NOT_FOUND, "No TLS credentials with id '%s'", id);
    } else if (!object_is_a(obj, "tls-creds")) {
        fail(error, ERR_WRONG_TYPE, "Object with id '%s' is not TLS credentials", id);
    } else if (creds->endpoint != (int)side) {
        fail(error, ERR_INVALID_PARAMETER, "Expecting TLS credentials with a %s endpoint",
             endpoint_words[side]);
        error_hint(error, "object '%s' needs endpoint=%s", id, endpoint_words[side]);
    } else {
        return tls_keys_ref(creds->keys);
    }
    error_object(error, "%s", id);
    return NULL;
}

bool tls_keys_is_psk(const TlsKeys *keys)
{
    return keys->is_psk;
}

const char *tls_keys_dir(const TlsKeys *keys)
{
    return keys->dir;
}

const char *tls_keys_username(const TlsKeys *keys)
{
    return keys->username ? keys->username : "qemu";
}

const char *tls_keys_priority(const TlsKeys *keys)
{
    return keys->priority;
}

bool tls_keys_verify_peer(const TlsKeys *keys)
{
    return keys->verify_peer;
}

bool tls_keys_has_password(const TlsKeys *keys)
{
    return keys->has_password;
}

static const Property common_props[] = {
    PROP("dir", TlsCreds, dir, .help = "folder with the credentials' files"),
    PROP_OF("endpoint", TlsCreds, endpoint, prop_enum, .words = endpoint_words,
            .help = "whose they are: client or server"),
    PROP("verify-peer", TlsCreds, verify_peer, .def.b = true,
         .help = "whether the other side must show who it is"),
    PROP("priority", TlsCreds, priority, .help = "ciphers and versions, as GnuTLS writes them"),
    {}
};

static const Property x509_props[] = {
    PROP("sanity-check", TlsCreds, sanity_check, .def.b = true,
         .help = "for QEMU's sake; the library checks certificates at each handshake"),
    PROP("passwordid", TlsCreds, passwordid, .help = "secret that unlocks the private key"),
    {}
};

static const Property psk_props[] = {
    PROP("username", TlsCreds, username, .help = "which line of keys.psk a client uses"),
    {}
};

static const Type tls_creds_type = {
    .name = "tls-creds",
    .parent = "user-object",
    .help = "TLS credentials",
    .size = sizeof(TlsCreds),
    .abstract = true,
    .props = common_props,
    .unrealize = creds_unrealize,
};

static const Type x509_type = {
    .name = "tls-creds-x509",
    .parent = "tls-creds",
    .help = "TLS credentials: certificates",
    .user_creatable = true,
    .props = x509_props,
    .realize = x509_realize,
};

static const Type psk_type = {
    .name = "tls-creds-psk",
    .parent = "tls-creds",
    .help = "TLS credentials: keys that both sides know",
    .user_creatable = true,
    .props = psk_props,
    .realize = psk_realize,
};
TYPE_REGISTER(tls_creds_type)
TYPE_REGISTER(x509_type)
TYPE_REGISTER(psk_type)

/* What TLS credentials are inside, for tls-creds.c and tls-session.c. */
#pragma once
#include "src/sandbox/tls-creds.h"

struct gnutls_certificate_credentials_st;
struct gnutls_dh_params_int;
struct gnutls_psk_server_credentials_st;
struct gnutls_psk_client_credentials_st;

/* Counted (g_atomic_rc_box); does not change once its object is realized. */
struct TlsKeys {
    TlsEndpoint side;
    bool is_psk, verify_peer, has_password;
    char *dir, *priority, *username;       /* priority, username: NULL: the default */
    /* One of them, by is_psk and side. */
    struct gnutls_certificate_credentials_st *x509;
    struct gnutls_dh_params_int *dh;       /* x509, server: of dh-params.pem; NULL: there is none */
    struct gnutls_psk_server_credentials_st *psk_server;
    struct gnutls_psk_client_credentials_st *psk_client;
};

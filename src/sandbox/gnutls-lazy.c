/* GnuTLS' functions, loaded with the first TLS credentials. */
#include "src/sandbox/gnutls-lazy.h"
#include "src/base/lazylib.h"

#define FUNCTIONS(F)                                                                               \
    F(gnutls_alert_send) F(gnutls_certificate_allocate_credentials)                                \
    F(gnutls_certificate_free_credentials) F(gnutls_certificate_get_peers)                         \
    F(gnutls_certificate_server_set_request) F(gnutls_certificate_set_dh_params)                   \
    F(gnutls_certificate_set_known_dh_params) F(gnutls_certificate_set_x509_crl_file)              \
    F(gnutls_certificate_set_x509_key_file2) F(gnutls_certificate_set_x509_trust_file)             \
    F(gnutls_certificate_verification_status_print) F(gnutls_credentials_set) F(gnutls_deinit)     \
    F(gnutls_dh_params_deinit) F(gnutls_dh_params_import_pkcs3) F(gnutls_dh_params_init)           \
    F(gnutls_error_is_fatal) F(gnutls_handshake) F(gnutls_init) F(gnutls_priority_deinit)          \
    F(gnutls_priority_init) F(gnutls_priority_set_direct)                                          \
    F(gnutls_psk_allocate_client_credentials) F(gnutls_psk_allocate_server_credentials)            \
    F(gnutls_psk_free_client_credentials) F(gnutls_psk_free_server_credentials)                    \
    F(gnutls_psk_server_get_username)                                                              \
    F(gnutls_psk_set_client_credentials) F(gnutls_psk_set_server_credentials_file)                 \
    F(gnutls_record_check_pending) F(gnutls_record_get_direction) F(gnutls_record_recv)            \
    F(gnutls_record_send) F(gnutls_server_name_set) F(gnutls_session_get_verify_cert_status)       \
    F(gnutls_session_set_verify_cert) F(gnutls_strerror) F(gnutls_transport_set_ptr)               \
    F(gnutls_transport_set_pull_function) F(gnutls_transport_set_push_function)                    \
    F(gnutls_x509_crt_deinit) F(gnutls_x509_crt_get_dn) F(gnutls_x509_crt_import)                  \
    F(gnutls_x509_crt_init)

FUNCTIONS(LAZY_FUNCTION)

static const LazyFunction functions[] = { FUNCTIONS(LAZY_ENTRY){ NULL, NULL } };

static LazyLibrary gnutls = { "libgnutls.so.30", "libgnutls30", functions, PTHREAD_MUTEX_INITIALIZER,
                              false };

bool gnutls_load(GError **error)
{
    return lazy_library_load(&gnutls, error);
}

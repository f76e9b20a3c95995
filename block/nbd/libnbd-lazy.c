/* libnbd's functions, loaded with the first connection of a client. */
#include "block/nbd/libnbd-lazy.h"
#include "src/base/lazylib.h"

#define FUNCTIONS(F)                                                                               \
    F(nbd_add_meta_context) F(nbd_aio_block_status) F(nbd_aio_connect_socket)                      \
    F(nbd_aio_connect_tcp) F(nbd_aio_connect_unix) F(nbd_aio_disconnect) F(nbd_aio_flush)          \
    F(nbd_aio_get_direction) F(nbd_aio_get_fd) F(nbd_aio_is_closed) F(nbd_aio_is_dead)             \
    F(nbd_aio_is_negotiating) F(nbd_aio_is_ready) F(nbd_aio_notify_read) F(nbd_aio_notify_write)   \
    F(nbd_aio_pread) F(nbd_aio_pwrite) F(nbd_aio_trim) F(nbd_aio_zero) F(nbd_can_cache)            \
    F(nbd_can_df) F(nbd_can_fast_zero) F(nbd_can_flush) F(nbd_can_fua) F(nbd_can_meta_context)     \
    F(nbd_can_multi_conn) F(nbd_can_trim) F(nbd_can_zero) F(nbd_clear_meta_contexts)               \
    F(nbd_close) F(nbd_connect_socket) F(nbd_connect_tcp) F(nbd_connect_unix) F(nbd_create)        \
    F(nbd_get_block_size) F(nbd_get_errno) F(nbd_get_error) F(nbd_get_export_description)          \
    F(nbd_get_size)                                                                                \
    F(nbd_is_read_only) F(nbd_is_rotational) F(nbd_opt_abort) F(nbd_opt_info) F(nbd_opt_list)      \
    F(nbd_opt_list_meta_context) F(nbd_set_export_name) F(nbd_set_full_info) F(nbd_set_opt_mode)   \
    F(nbd_set_pread_initialize) F(nbd_set_tls) F(nbd_set_tls_certificates)                         \
    F(nbd_set_tls_psk_file) F(nbd_set_tls_username) F(nbd_set_tls_verify_peer)

FUNCTIONS(LAZY_FUNCTION)

static const LazyFunction functions[] = { FUNCTIONS(LAZY_ENTRY){ NULL, NULL } };

static LazyLibrary libnbd = { "libnbd.so.0", "libnbd0", functions, PTHREAD_MUTEX_INITIALIZER, false };

bool libnbd_load(GError **error)
{
    return lazy_library_load(&libnbd, error);
}

/* vireo-nbd --list: asks another server what it offers, with libnbd. */
#include <inttypes.h>
#include <libnbd.h>
#include <stdio.h>
#include <stdlib.h>
#include "block/nbd/libnbd-lazy.h"
#include "block/nbd/tunnel.h"
#include "src/sandbox/tls-creds.h"
#include "src/tools/nbd.h"

static bool fail_nbd(GError **error, const char *what)
{
    return fail(error, ERR_HOST, "%s: %s", what, nbd_get_error());
}

static const char *host_of(const NbdOptions *o)
{
    return o->bind ? o->bind : "localhost";
}

static const char *port_of(const NbdOptions *o)
{
    return o->port ? o->port : "10809";
}

/* TLS of our own; *tunnel is to be freed after the handle, in any case. */
static bool connect_by_tunnel(struct nbd_handle *nbd, const NbdOptions *o, TlsKeys *keys, NbdTunnel **tunnel,
                              GError **error)
{
    int64_t end_ns = loop_clock_ns() + NBD_HANDSHAKE_SECONDS * INT64_C(1000000000);
    const char *name = o->tls_hostname ? o->tls_hostname : o->socket ? NULL : host_of(o);
    int server = nbd_dial(o->socket, host_of(o), port_of(o), end_ns, error), fd = -1;

    if (server >= 0)
        *tunnel = nbd_tunnel_new(server, keys, name, end_ns, &fd, error);
    return *tunnel ? nbd_connect_socket(nbd, fd) == 0 || fail_nbd(error, "libnbd") : false;
}

static bool connect_to_server(struct nbd_handle *nbd, const NbdOptions *o, TlsKeys *keys, NbdTunnel **tunnel,
                              GError **error)
{
    if (keys && nbd_tunnel_needed(keys, o->socket ? NULL : host_of(o), o->tls_hostname))
        return connect_by_tunnel(nbd, o, keys, tunnel, error) || error_prefix(error, "Failed to connect: ");
    return (!keys || nbd_require_tls(nbd, keys) || fail_nbd(error, "TLS")) &&
           ((o->socket ? nbd_connect_unix(nbd, o->socket)
                       : nbd_connect_tcp(nbd, host_of(o), port_of(o))) == 0 ||
            fail_nbd(error, "Failed to connect"));
}

static int collect(void *opaque, const char *name, const char *description)
{
    g_ptr_array_add(opaque, g_strdup(name));
    return 0;
}

static int show_context(void *opaque, const char *name)
{
    g_ptr_array_add(opaque, g_strdup(name));
    return 0;
}

static void show_flags(struct nbd_handle *nbd)
{
    const struct {
        const char *word;
        int value;
    } flags[] = {
        { "readonly", nbd_is_read_only(nbd) }, { "flush", nbd_can_flush(nbd) },
        { "fua", nbd_can_fua(nbd) },           { "rotational", nbd_is_rotational(nbd) },
        { "trim", nbd_can_trim(nbd) },         { "zeroes", nbd_can_zero(nbd) },
        { "df", nbd_can_df(nbd) },             { "multi", nbd_can_multi_conn(nbd) },
        { "cache", nbd_can_cache(nbd) },       { "fast-zero", nbd_can_fast_zero(nbd) },
    };

    printf("  flags: (");
    for (unsigned i = 0; i < G_N_ELEMENTS(flags); i++)
        printf("%s%s", flags[i].value > 0 ? " " : "", flags[i].value > 0 ? flags[i].word : "");
    printf(" )\n");
}

static void show_export(struct nbd_handle *nbd, const char *name)
{
    g_autoptr(GPtrArray) contexts = g_ptr_array_new_with_free_func(g_free);
    nbd_context_callback callback = { .callback = show_context, .user_data = contexts };
    char *description;

    printf(" export: '%s'\n", name);
    if (nbd_set_export_name(nbd, name) < 0 || nbd_opt_info(nbd) < 0) {
        printf("  error: %s\n", nbd_get_error());
        return;
    }
    description = nbd_get_export_description(nbd);
    if (description && *description)
        printf("  description: %s\n", description);
    free(description);
    printf("  size:  %" PRId64 "\n", nbd_get_size(nbd));
    show_flags(nbd);
    printf("  min block: %" PRId64 "\n  opt block: %" PRId64 "\n  max block: %" PRId64 "\n",
           nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM),
           nbd_get_block_size(nbd, LIBNBD_SIZE_PREFERRED),
           nbd_get_block_size(nbd, LIBNBD_SIZE_MAXIMUM));
    nbd_clear_meta_contexts(nbd);
    if (nbd_opt_list_meta_context(nbd, callback) < 0)
        return;
    printf("  available meta contexts: %u\n", contexts->len);
    for (unsigned i = 0; i < contexts->len; i++)
        printf("   %s\n", (char *)contexts->pdata[i]);
}

static bool list(struct nbd_handle *nbd, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    nbd_list_callback callback = { .callback = collect, .user_data = names };

    if (nbd_opt_list(nbd, callback) < 0)
        return fail_nbd(error, "Failed to list exports");
    printf("exports available: %u\n", names->len);
    for (unsigned i = 0; i < names->len; i++)
        show_export(nbd, names->pdata[i]);
    return true;
}

static bool list_with(const NbdOptions *o, TlsKeys *keys, GError **error)
{
    struct nbd_handle *nbd = nbd_create();
    NbdTunnel *tunnel = NULL;
    bool ok;

    if (!nbd)
        return fail_nbd(error, "libnbd");
    nbd_set_opt_mode(nbd, true);
    nbd_set_full_info(nbd, true);
    ok = connect_to_server(nbd, o, keys, &tunnel, error) && list(nbd, error);
    if (nbd_aio_is_negotiating(nbd) > 0)
        nbd_opt_abort(nbd);
    nbd_close(nbd);
    nbd_tunnel_free(tunnel);
    return ok;
}

bool nbd_list(Object *root, const NbdOptions *o, GError **error)
{
    TlsKeys *keys = NULL;
    bool ok;

    if (!libnbd_load(error))
        return false;
    if (o->tls_creds && !(keys = tls_creds_keys(root, o->tls_creds, TLS_CLIENT, error)))
        return false;
    ok = list_with(o, keys, error);
    tls_keys_unref(keys);
    return ok;
}

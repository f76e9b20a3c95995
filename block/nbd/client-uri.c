/*
 * Names of exports: NBD URIs (github.com/NetworkBlockDevice/nbd, doc/uri.md)
 *
 *     nbd://HOST[:PORT]/EXPORT     nbd+unix:///EXPORT?socket=PATH     nbds://…, nbds+unix://… with TLS
 *
 * and QEMU's older form: nbd:HOST:PORT[:exportname=EXPORT], nbd:unix:PATH[:exportname=EXPORT].
 */
#include <string.h>
#include "block/nbd/client-int.h"
#include "block/nbd/proto.h"

const char *const nbd_uri_schemes[] = { "nbd", "nbd+unix", "nbd+tcp", "nbds", "nbds+unix",
                                        "nbds+tcp", NULL };

static json_object *unix_server(const char *path)
{
    json_object *server = json_object_new_object();

    json_add_str(server, "type", "unix");
    json_add_str(server, "path", path);
    return server;
}

static json_object *tcp_server(const char *host, const char *port)
{
    json_object *server = json_object_new_object();

    json_add_str(server, "type", "inet");
    json_add_str(server, "host", host);
    json_add_str(server, "port", port);
    return server;
}

static json_object *options_of(json_object *server, const char *export)
{
    json_object *options = json_object_new_object();

    json_add_str(options, "driver", "nbd");
    json_object_object_add(options, "server", server);
    json_add_str(options, "export", export);
    return options;
}

/* ---- nbd:… ---- */

static json_object *parse_old(const char *text, GError **error)
{
    const char *mark = strstr(text, ":exportname=");
    const char *export = mark ? mark + strlen(":exportname=") : "";
    g_autofree char *where = mark ? g_strndup(text, mark - text) : g_strdup(text);
    char *colon;

    if (g_str_has_prefix(where, "unix:") && where[5])
        return options_of(unix_server(where + 5), export);
    colon = strrchr(where, ':');
    if (!colon || colon == where || !colon[1]) {
        fail(error, ERR_INVALID_PARAMETER, "'nbd:%s' is no address", text);
        error_hint(error, "write nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=PATH");
        return NULL;
    }
    *colon = 0;
    return options_of(tcp_server(where, colon + 1), export);
}

/* ---- URIs ---- */

/* What may follow the '?'.  Unknown names are refused: they may have been meant to protect. */
static bool take_parameters(const char *query, char **ret_socket, char **ret_creds, GError **error)
{
    g_autoptr(GError) cause = NULL;
    g_autoptr(GHashTable) table = NULL;
    GHashTableIter iter;
    void *key, *value;

    if (!query)
        return true;
    table = g_uri_parse_params(query, -1, "&", G_URI_PARAMS_NONE, &cause);
    if (!table)
        return fail(error, ERR_INVALID_PARAMETER, "%s", cause->message);
    g_hash_table_iter_init(&iter, table);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        if (!strcmp(key, "socket"))
            *ret_socket = g_strdup(value);
        else if (!strcmp(key, "tls-creds"))
            *ret_creds = g_strdup(value);
        else
            return fail(error, ERR_UNKNOWN_PARAMETER, "the URI's parameter '%s' is not known",
                        (char *)key);
    }
    return true;
}

static json_object *server_of(GUri *uri, const char *socket, GError **error)
{
    const char *host = g_uri_get_host(uri);
    bool is_unix = g_str_has_suffix(g_uri_get_scheme(uri), "+unix");
    g_autofree char *port = g_strdup_printf("%d", g_uri_get_port(uri) > 0 ? g_uri_get_port(uri)
                                                                           : NBD_DEFAULT_PORT);

    if (is_unix && socket && (!host || !*host))
        return unix_server(socket);
    if (!is_unix && !socket)
        return tcp_server(host && *host ? host : "localhost", port);
    fail(error, ERR_INVALID_PARAMETER, is_unix ? "a unix socket's URI needs ?socket=PATH, and no host"
                                               : "socket= goes with nbd+unix:// only");
    return NULL;
}

json_object *nbd_parse_uri(const char *text, GError **error)
{
    g_autoptr(GError) cause = NULL;
    g_autoptr(GUri) uri = NULL;
    g_autofree char *socket = NULL, *creds = NULL;
    json_object *server, *options;
    const char *path;

    if (g_str_has_prefix(text, "nbd:") && !g_str_has_prefix(text, "nbd://"))
        return parse_old(text + strlen("nbd:"), error);
    uri = g_uri_parse(text, G_URI_FLAGS_ENCODED_QUERY, &cause);
    if (!uri) {
        fail(error, ERR_INVALID_PARAMETER, "'%s': %s", text, cause->message);
        return NULL;
    }
    if (!take_parameters(g_uri_get_query(uri), &socket, &creds, error) ||
        !(server = server_of(uri, socket, error))) {
        error_prefix(error, "'%s': ", text);
        return NULL;
    }
    path = g_uri_get_path(uri);
    options = options_of(server, path[0] == '/' ? path + 1 : path);
    if (creds)
        json_add_str(options, "tls-creds", creds);
    else if (g_str_has_prefix(text, "nbds"))
        json_object_object_add(options, "tls-system", json_object_new_boolean(true));
    return options;
}

char *nbd_target_uri(const NbdTarget *t)
{
    const char *tls = t->keys || t->tls ? "s" : "";
    g_autofree char *export = g_uri_escape_string(t->export, "/", TRUE);
    bool v6 = t->host && strchr(t->host, ':');

    switch (t->kind) {
    case NBD_AT_UNIX:
        return g_strdup_printf("nbd%s+unix:///%s?socket=%s", tls, export, t->path);
    case NBD_AT_TCP:
        return g_strdup_printf("nbd%s://%s%s%s:%s%s%s", tls, v6 ? "[" : "", t->host, v6 ? "]" : "",
                               t->port, *export ? "/" : "", export);
    default:
        return g_strdup_printf("nbd%s:fd", tls);
    }
}

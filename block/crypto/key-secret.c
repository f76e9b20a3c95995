/* Secrets by their ids. */
#include "block/crypto/key-secret.h"
#include "src/object/secret.h"

GBytes *block_key_secret(BlockGraph *graph, const char *id, GError **error)
{
    g_autofree char *path = g_strdup_printf("/objects/%s", id);
    Object *secret = object_resolve(OBJECT(graph), path);

    if (secret && object_is_a(secret, "secret"))
        return g_bytes_ref(secret_data(secret));
    fail(error, ERR_NOT_FOUND, "No secret with id '%s'", id);
    error_object(error, "%s", id);
    error_hint(error, "make one with -object secret,id=%s,file=PATH", id);
    return NULL;
}

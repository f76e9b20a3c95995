/* Errors: a GError domain whose errors carry the object they are about and a hint. */
#include "src/base/error.h"
#include <errno.h>
#include <string.h>

typedef struct VireoErrorPrivate {
    char *object, *hint;
} VireoErrorPrivate;

static void vireo_error_private_init(VireoErrorPrivate *priv)
{
    priv->object = priv->hint = NULL;
}

static void vireo_error_private_copy(const VireoErrorPrivate *from, VireoErrorPrivate *to)
{
    to->object = g_strdup(from->object);
    to->hint = g_strdup(from->hint);
}

static void vireo_error_private_clear(VireoErrorPrivate *priv)
{
    g_free(priv->object);
    g_free(priv->hint);
}

G_DEFINE_EXTENDED_ERROR(VireoError, vireo_error)

static const char *const code_names[ERR__COUNT] = {
    [ERR_GENERIC] = "generic",
    [ERR_INVALID_PARAMETER] = "invalid-parameter",
    [ERR_UNKNOWN_PARAMETER] = "unknown-parameter",
    [ERR_MISSING_PARAMETER] = "missing-parameter",
    [ERR_WRONG_TYPE] = "wrong-type",
    [ERR_INVALID_SYNTAX] = "invalid-syntax",
    [ERR_NOT_FOUND] = "not-found",
    [ERR_DEVICE_NOT_FOUND] = "device-not-found",
    [ERR_COMMAND_NOT_FOUND] = "command-not-found",
    [ERR_DEVICE_NOT_ACTIVE] = "device-not-active",
    [ERR_EXISTS] = "exists",
    [ERR_IN_USE] = "in-use",
    [ERR_LOCKED] = "locked",
    [ERR_PERMISSION] = "permission",
    [ERR_NO_SPACE] = "no-space",
    [ERR_IO] = "io",
    [ERR_CORRUPT] = "corrupt",
    [ERR_UNSUPPORTED] = "unsupported",
    [ERR_BAD_STATE] = "bad-state",
    [ERR_LIMIT] = "limit",
    [ERR_HOST] = "host",
    [ERR_TIMEOUT] = "timeout",
};

static bool valid_code(int code)
{
    return code >= 0 && code < ERR__COUNT;
}

bool fail(GError **error, ErrorCode code, const char *format, ...)
{
    if (!error)
        return false;
    va_list args;
    va_start(args, format);
    *error = g_error_new_valist(VIREO_ERROR, code, format, args);
    va_end(args);
    return false;
}

static ErrorCode code_of_errno(int err)
{
    switch (err) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
        return ERR_NOT_FOUND;
    case EACCES:
    case EPERM:
    case EROFS:
        return ERR_PERMISSION;
    case ENOSPC:
    case EDQUOT:
    case ENOMEM:
        return ERR_NO_SPACE;
    case EBUSY:
    case EADDRINUSE:
    case ETXTBSY:
        return ERR_IN_USE;
    case EEXIST:
        return ERR_EXISTS;
    case EIO:
        return ERR_IO;
    case ENOTSUP:
    case ENOSYS:
        return ERR_UNSUPPORTED;
    case ETIMEDOUT:
        return ERR_TIMEOUT;
    case EMFILE:
    case ENFILE:
        return ERR_LIMIT;
    default:
        return ERR_HOST;
    }
}

bool fail_errno(GError **error, int err, const char *format, ...)
{
    if (!error)
        return false;
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    return fail(error, code_of_errno(err), "%s: %s", text, g_strerror(err));
}

static VireoErrorPrivate *private_of(GError **error)
{
    return error && *error && (*error)->domain == VIREO_ERROR ? vireo_error_get_private(*error)
                                                               : NULL;
}

bool error_hint(GError **error, const char *format, ...)
{
    VireoErrorPrivate *priv = private_of(error);
    if (!priv)
        return false;
    va_list args;
    va_start(args, format);
    g_free(priv->hint);
    priv->hint = g_strdup_vprintf(format, args);
    va_end(args);
    return false;
}

bool error_object(GError **error, const char *format, ...)
{
    VireoErrorPrivate *priv = private_of(error);
    if (!priv)
        return false;
    va_list args;
    va_start(args, format);
    g_free(priv->object);
    priv->object = g_strdup_vprintf(format, args);
    va_end(args);
    return false;
}

bool error_prefix(GError **error, const char *format, ...)
{
    if (!error || !*error)
        return false;
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    g_prefix_error(error, "%s", text);
    return false;
}

ErrorCode error_get_code(const GError *error)
{
    return error->domain == VIREO_ERROR && valid_code(error->code) ? (ErrorCode)error->code
                                                                   : ERR_GENERIC;
}

const char *error_get_object(const GError *error)
{
    return error->domain == VIREO_ERROR ? vireo_error_get_private(error)->object : NULL;
}

const char *error_get_hint(const GError *error)
{
    return error->domain == VIREO_ERROR ? vireo_error_get_private(error)->hint : NULL;
}

const char *error_code_name(ErrorCode code)
{
    return valid_code(code) ? code_names[code] : code_names[ERR_GENERIC];
}

const char *error_code_class(ErrorCode code)
{
    switch (code) {
    case ERR_DEVICE_NOT_FOUND:
        return "DeviceNotFound";
    case ERR_COMMAND_NOT_FOUND:
        return "CommandNotFound";
    case ERR_DEVICE_NOT_ACTIVE:
        return "DeviceNotActive";
    default:
        return "GenericError";
    }
}

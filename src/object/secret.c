/*
 * The "secret" object: given on the command line (data=) or in a file (file=), raw or in base64.
 * What it holds cannot be read back over the monitor.
 */
#include "src/object/secret.h"
#include <string.h>

typedef struct Secret {
    Object obj;
    char *data, *file;             /* one of them is given */
    int format;
    char *keyid;
    GBytes *bytes;                 /* from realize on */
} Secret;

enum { FORMAT_RAW, FORMAT_BASE64 };
static const char *const format_words[] = { "raw", "base64", NULL };

GBytes *secret_data(Object *secret)
{
    return ((Secret *)secret)->bytes;
}

/* Memory that held a secret is cleared before it is given back. */
static void wipe(void *data, size_t length)
{
    explicit_bzero(data, length);
    g_free(data);
}

typedef struct Wiped {
    void *data;
    size_t length;
} Wiped;

static void wipe_bytes(void *opaque)
{
    Wiped *wiped = opaque;
    wipe(wiped->data, wiped->length);
    g_free(wiped);
}

static GBytes *take_bytes(void *data, size_t length)
{
    Wiped *wiped = g_new(Wiped, 1);
    *wiped = (Wiped){ data, length };
    return g_bytes_new_with_free_func(data, length, wipe_bytes, wiped);
}

static bool read_input(Secret *s, char **ret, gsize *ret_length, GError **error)
{
    g_autoptr(GError) cause = NULL;
    if (!s->data == !s->file)
        return fail(error, ERR_INVALID_PARAMETER, "secret '%s' needs either data= or file=",
                    s->obj.name);
    if (s->data) {
        *ret = g_strdup(s->data);
        *ret_length = strlen(s->data);
        return true;
    }
    if (g_file_get_contents(s->file, ret, ret_length, &cause))
        return true;
    return fail(error, cause->code == G_FILE_ERROR_NOENT ? ERR_NOT_FOUND : ERR_IO, "secret '%s': %s",
                s->obj.name, cause->message);
}

/* GLib's decoder skips what is no base64: a secret is better refused. */
static bool decode(Secret *s, char *text, gsize length, GError **error)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\r\n";
    if (strspn(text, letters) != length) {
        wipe(text, length);
        return fail(error, ERR_INVALID_PARAMETER, "secret '%s' is not base64", s->obj.name);
    }
    gsize decoded;
    guchar *bytes = g_base64_decode(text, &decoded);
    wipe(text, length);
    s->bytes = take_bytes(bytes, decoded);
    return true;
}

static bool secret_realize(Object *obj, GError **error)
{
    Secret *s = (Secret *)obj;
    char *text;
    gsize length;
    if (s->keyid) {
        fail(error, ERR_UNSUPPORTED, "secret '%s': keyid=: encrypted secrets are not offered",
             obj->name);
        return error_hint(error, "give it in the clear, in a file that others cannot read");
    }
    if (!read_input(s, &text, &length, error))
        return false;
    if (s->format == FORMAT_BASE64)
        return decode(s, text, length, error);
    s->bytes = take_bytes(text, length);
    return true;
}

static void secret_unrealize(Object *obj)
{
    g_clear_pointer(&((Secret *)obj)->bytes, g_bytes_unref);
}

static void secret_finalize(Object *obj)
{
    Secret *s = (Secret *)obj;
    if (s->data)
        wipe(s->data, strlen(s->data));
    s->data = NULL;
    g_clear_pointer(&s->bytes, g_bytes_unref);
}

static json_object *get_data(Object *obj, const Property *prop)
{
    return NULL;
}

static bool set_data(Object *obj, const Property *prop, json_object *value, GError **error)
{
    const char *text;
    if (!property_str(obj, prop, value, &text, error))
        return false;
    g_free(((Secret *)obj)->data);
    ((Secret *)obj)->data = g_strdup(text);
    return true;
}

static const Property secret_props[] = {
    PROP_FN("data", get_data, set_data, .help = "the secret itself; cannot be read back"),
    PROP("file", Secret, file, .help = "a file that holds it"),
    PROP_OF("format", Secret, format, prop_enum, .words = format_words,
            .help = "how it is written: raw or base64"),
    PROP("keyid", Secret, keyid, .help = "secret that it is encrypted with: not offered"),
    {}
};

static const Type secret_type = {
    .name = "secret",
    .parent = "user-object",
    .help = "a key or a password",
    .size = sizeof(Secret),
    .user_creatable = true,
    .props = secret_props,
    .realize = secret_realize,
    .unrealize = secret_unrealize,
    .finalize = secret_finalize,
};
TYPE_REGISTER(secret_type)

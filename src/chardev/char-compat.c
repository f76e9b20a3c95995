/* Other ways to ask for a chardev: the short forms of -serial and friends, and QMP's chardev-add. */
#include <string.h>
#include "src/chardev/chardev-int.h"

static Chardev *create(Object *root, const char *id, const char *kind, json_object *options,
                       GError **error)
{
    json_add_str(options, "id", id);
    json_add_str(options, "backend", kind);
    return chardev_create(root, options, error);
}

/* "PATH" or "PATH,option=…": the first part is the path whatever it holds. */
static Chardev *create_with_path(Object *root, const char *id, const char *kind, const char *text,
                                 bool mux, GError **error)
{
    g_autoptr(json_object) options = options_parse(text, "path", error);
    if (!options)
        return NULL;
    if (mux)
        json_add_str(options, "mux", "on");
    return create(root, id, kind, options, error);
}

/* "HOST:PORT,option…"; an IPv6 address is in brackets. */
static Chardev *create_tcp(Object *root, const char *id, const char *text, bool mux, GError **error)
{
    g_autoptr(json_object) options = options_parse(text, "address", error);
    if (!options)
        return NULL;
    g_autoptr(json_object) address = options_take(options, "address");
    g_autofree char *host = g_strdup(address ? json_object_get_string(address) : "");
    char *colon = strrchr(host, ':');
    if (!colon || !colon[1]) {
        fail(error, ERR_INVALID_SYNTAX, "'tcp:%s' is not tcp:HOST:PORT", text);
        return NULL;
    }
    *colon = '\0';
    size_t length = strlen(host);
    bool brackets = length >= 2 && host[0] == '[' && host[length - 1] == ']';
    if (brackets)
        host[length - 1] = '\0';
    json_add_str(options, "host", brackets ? host + 1 : host);
    json_add_str(options, "port", colon + 1);
    if (mux)
        json_add_str(options, "mux", "on");
    return create(root, id, "socket", options, error);
}

/* Words that stand alone. */
static Chardev *create_word(Object *root, const char *id, const char *word, bool mux, GError **error)
{
    g_autoptr(json_object) options = json_object_new_object();
    if (mux)
        json_add_str(options, "mux", "on");
    if (mux && !strcmp(word, "stdio")) /* Ctrl-C is for the guest: Ctrl-A x quits */
        json_add_str(options, "signal", "off");
    return create(root, id, word, options, error);
}

static const char *after(const char *text, const char *prefix)
{
    return g_str_has_prefix(text, prefix) ? text + strlen(prefix) : NULL;
}

static void refuse(const char *text, GError **error)
{
    static const char *const unsupported[] = { "telnet:", "telnets:", "udp:", "websocket:", "tn3270:",
                                               "vc",      "con:",     "/dev/", "msmouse",   "braille",
                                               NULL };
    for (unsigned i = 0; unsupported[i]; i++) {
        if (after(text, unsupported[i])) {
            fail(error, ERR_UNSUPPORTED, "character device '%s' is not supported", text);
            error_hint(error, "use stdio, mon:stdio, pty, null, none, file:, pipe:, unix:, tcp: or "
                              "chardev:");
            return;
        }
    }
    fail(error, ERR_INVALID_PARAMETER, "'%s' is not a valid character device", text);
    error_hint(error, "one of stdio, mon:stdio, pty, null, none, file:PATH, pipe:PATH, "
                      "unix:PATH,server=on,wait=off, tcp:HOST:PORT and chardev:ID");
}

Chardev *chardev_create_compat(Object *root, const char *id, const char *text, GError **error)
{
    const char *rest;
    bool mux = (rest = after(text, "mon:")) != NULL;
    if (mux)
        text = rest;
    if (!strcmp(text, "none"))
        return NULL;
    if (!strcmp(text, "stdio") || !strcmp(text, "null") || !strcmp(text, "pty"))
        return create_word(root, id, text, mux, error);
    if ((rest = after(text, "unix:")))
        return create_with_path(root, id, "socket", rest, mux, error);
    if ((rest = after(text, "file:")))
        return create_with_path(root, id, "file", rest, mux, error);
    if ((rest = after(text, "pipe:")))
        return create_with_path(root, id, "pipe", rest, mux, error);
    if ((rest = after(text, "tcp:")))
        return create_tcp(root, id, rest, mux, error);
    if ((rest = after(text, "chardev:"))) {
        Chardev *cd = chardev_find(root, rest);
        if (!cd)
            fail(error, ERR_NOT_FOUND, "Chardev '%s' not found", rest);
        return cd;
    }
    refuse(text, error);
    return NULL;
}

/* --- chardev-add --- */

/* {"type": "unix", "data": {…}} of a socket becomes members of @options. */
static bool flatten_address(json_object *options, GError **error)
{
    g_autoptr(json_object) addr = options_take(options, "addr");
    json_object *data = NULL;
    const char *type = NULL;
    if (!addr || !json_object_is_type(addr, json_type_object))
        return fail(error, ERR_MISSING_PARAMETER, "Parameter 'backend.data.addr' is missing");
    if (!options_get_str(addr, "type", &type, error))
        return false;
    json_object_object_get_ex(addr, "data", &data);
    if (!type || !data || !json_object_is_type(data, json_type_object))
        return fail(error, ERR_MISSING_PARAMETER, "Parameter 'backend.data.addr.%s' is missing",
                    type ? "data" : "type");
    bool is_fd = !strcmp(type, "fd");
    if (strcmp(type, "unix") && strcmp(type, "inet") && !is_fd)
        return fail(error, ERR_UNSUPPORTED, "socket address type '%s' is not supported", type);
    json_object_object_foreach(data, key, value)
    {
        json_object_object_add(options, is_fd && !strcmp(key, "str") ? "fd" : key,
                               json_object_get(value));
    }
    return true;
}

static void rename_member(json_object *o, const char *from, const char *to)
{
    json_object *value = options_take(o, from);
    if (value)
        json_object_object_add(o, to, value);
}

/* QMP's names and defaults where they differ from -chardev's. */
static bool translate(const char *kind, json_object *options, GError **error)
{
    json_object *server, *wait;
    bool waits = false;
    if (!strcmp(kind, "file")) {
        rename_member(options, "out", "path");
        rename_member(options, "in", "input-path");
    } else if (!strcmp(kind, "pipe")) {
        rename_member(options, "device", "path");
    } else if (!strcmp(kind, "socket")) {
        if (!flatten_address(options, error) || !options_get_bool(options, "wait", &waits, error))
            return false;
        if (waits) {
            fail(error, ERR_UNSUPPORTED, "a running machine does not wait for a connection");
            return error_hint(error, "leave out 'wait'");
        }
        if (!json_object_object_get_ex(options, "server", &server))
            json_add_str(options, "server", "on");
        if (!json_object_object_get_ex(options, "wait", &wait))
            json_add_str(options, "wait", "off");
    }
    return true;
}

json_object *chardev_options_of_qmp(const char *id, json_object *backend, GError **error)
{
    const char *kind = NULL;
    json_object *data = NULL;
    if (!options_get_str(backend, "type", &kind, error))
        return NULL;
    if (!kind) {
        fail(error, ERR_MISSING_PARAMETER, "Parameter 'backend.type' is missing");
        return NULL;
    }
    g_autoptr(json_object) options = NULL;
    if (!json_object_object_get_ex(backend, "data", &data))
        options = json_object_new_object();
    else if (json_object_is_type(data, json_type_object))
        json_object_deep_copy(data, &options, NULL);
    else
        fail(error, ERR_WRONG_TYPE, "'backend.data' must be an object");
    if (!options || !translate(kind, options, error))
        return NULL;
    json_add_str(options, "id", id);
    json_add_str(options, "backend", kind);
    return g_steal_pointer(&options);
}

Chardev *chardev_create_qmp(Object *root, const char *id, json_object *backend, GError **error)
{
    g_autoptr(json_object) options = chardev_options_of_qmp(id, backend, error);
    return options ? chardev_create(root, options, error) : NULL;
}

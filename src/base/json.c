/*
 * JSON (RFC 8259) to json-c's values; strings may stand in single quotes, too, as people write them in a
 * shell and QEMU's clients know them, but nothing else is taken that is not JSON.  json-c's own reader
 * takes more than JSON, drops duplicate members and cannot say where it failed; what arrives here comes
 * from outside and must be refused exactly.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "src/base/options.h"

enum { DEPTH_MAX = 1024 };

typedef struct Reader {
    const char *start, *p, *end;
    unsigned depth;
    GError **error;
} Reader;

/* The place as people count: from line 1, column 1. */
static bool bad(Reader *r, ErrorCode code, const char *what)
{
    unsigned line = 1, column = 1;
    for (const char *p = r->start; p < r->p; p++) {
        column = *p == '\n' ? 1 : column + 1;
        line += *p == '\n';
    }
    if (line == 1)
        return fail(r->error, code, "JSON: %s at column %u", what, column);
    return fail(r->error, code, "JSON: %s at line %u, column %u", what, line, column);
}

static bool syntax(Reader *r, const char *what)
{
    return bad(r, ERR_INVALID_SYNTAX, r->p == r->end ? "text ends too early" : what);
}

static void skip_space(Reader *r)
{
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\t' || *r->p == '\n' || *r->p == '\r'))
        r->p++;
}

static bool take(Reader *r, char c)
{
    skip_space(r);
    if (r->p == r->end || *r->p != c)
        return false;
    r->p++;
    return true;
}

static bool read_hex4(Reader *r, unsigned *ret)
{
    unsigned value = 0;
    for (int i = 0; i < 4; i++, r->p++) {
        int digit = r->p < r->end ? g_ascii_xdigit_value(*r->p) : -1;
        if (digit < 0)
            return syntax(r, "\\u needs four hexadecimal digits");
        value = value << 4 | (unsigned)digit;
    }
    *ret = value;
    return true;
}

/* After "\u".  A character outside the basic plane is a pair of surrogates. */
static bool read_unicode(Reader *r, GString *out)
{
    unsigned c = 0, low = 0;
    if (!read_hex4(r, &c))
        return false;
    if (c >= 0xd800 && c < 0xdc00) {
        if (r->end - r->p < 2 || r->p[0] != '\\' || r->p[1] != 'u')
            return syntax(r, "half of a surrogate pair");
        r->p += 2;
        if (!read_hex4(r, &low))
            return false;
        if (low < 0xdc00 || low > 0xdfff)
            return syntax(r, "half of a surrogate pair");
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    } else if (c >= 0xdc00 && c < 0xe000) {
        return syntax(r, "half of a surrogate pair");
    }
    if (c == 0) /* C strings are what everybody here works with */
        return syntax(r, "a string with \\u0000");
    g_string_append_unichar(out, c);
    return true;
}

static bool read_escape(Reader *r, GString *out)
{
    static const char from[] = "\"'\\/bfnrt", to[] = "\"'\\/\b\f\n\r\t";
    if (r->p == r->end)
        return syntax(r, "");
    char c = *r->p;
    const char *found = c ? strchr(from, c) : NULL;
    if (found) {
        g_string_append_c(out, to[found - from]);
        r->p++;
        return true;
    }
    if (c != 'u')
        return syntax(r, "unknown escape");
    r->p++;
    return read_unicode(r, out);
}

/* From the opening quote on, which the closing one must match.  Returns NULL if ill-formed. */
static GString *read_string(Reader *r)
{
    const char quote = *r->p++;
    GString *out = g_string_new(NULL);
    for (;;) {
        const char *from = r->p;
        while (r->p < r->end && *r->p != quote && *r->p != '\\' && (unsigned char)*r->p >= 0x20)
            r->p++;
        const char *invalid;
        if (!g_utf8_validate_len(from, r->p - from, &invalid)) {
            r->p = invalid;
            syntax(r, "invalid UTF-8");
            break;
        }
        g_string_append_len(out, from, r->p - from);
        if (r->p == r->end || (unsigned char)*r->p < 0x20) {
            syntax(r, "control character in a string");
            break;
        }
        if (*r->p++ == quote)
            return out;
        if (!read_escape(r, out))
            break;
    }
    g_string_free(out, TRUE);
    return NULL;
}

static void skip_digits(Reader *r)
{
    while (r->p < r->end && g_ascii_isdigit(*r->p))
        r->p++;
}

/* The grammar of RFC 8259, section 6: no leading zero, plus sign or bare point. */
static bool scan_number(Reader *r, bool *integer)
{
    *integer = true;
    if (*r->p == '-')
        r->p++;
    const char *first = r->p;
    skip_digits(r);
    if (r->p == first)
        return syntax(r, "ill-formed number");
    if (*first == '0' && r->p - first > 1)
        return bad(r, ERR_INVALID_SYNTAX, "number with a leading zero");
    if (r->p < r->end && *r->p == '.') {
        *integer = false;
        const char *fraction = ++r->p;
        skip_digits(r);
        if (r->p == fraction)
            return syntax(r, "ill-formed number");
    }
    if (r->p < r->end && (*r->p == 'e' || *r->p == 'E')) {
        *integer = false;
        r->p++;
        if (r->p < r->end && (*r->p == '+' || *r->p == '-'))
            r->p++;
        const char *exponent = r->p;
        skip_digits(r);
        if (r->p == exponent)
            return syntax(r, "ill-formed number");
    }
    return true;
}

static bool read_number(Reader *r, json_object **ret)
{
    const char *from = r->p;
    bool integer;
    if (!scan_number(r, &integer))
        return false;
    g_autofree char *text = g_strndup(from, r->p - from);
    if (integer) {
        errno = 0;
        if (*text == '-') {
            gint64 value = g_ascii_strtoll(text, NULL, 10);
            if (errno == 0) {
                *ret = json_object_new_int64(value);
                return true;
            }
        } else {
            guint64 value = g_ascii_strtoull(text, NULL, 10);
            if (errno == 0) {
                *ret = value <= INT64_MAX ? json_object_new_int64(value)
                                          : json_object_new_uint64(value);
                return true;
            }
        }
    }
    double value = g_ascii_strtod(text, NULL);
    if (!isfinite(value))
        return bad(r, ERR_INVALID_SYNTAX, "number too large");
    *ret = json_object_new_double_s(value, text);
    return true;
}

static bool at_string(const Reader *r)
{
    return r->p < r->end && (*r->p == '"' || *r->p == '\'');
}

static bool read_value(Reader *r, json_object **ret);

static bool read_array(Reader *r, json_object **ret)
{
    g_autoptr(json_object) array = json_object_new_array();
    if (!take(r, ']')) {
        do {
            json_object *item = NULL;
            if (!read_value(r, &item))
                return false;
            json_object_array_add(array, item);
        } while (take(r, ','));
        if (!take(r, ']'))
            return syntax(r, "',' or ']' expected");
    }
    *ret = g_steal_pointer(&array);
    return true;
}

static bool read_member(Reader *r, json_object *object)
{
    skip_space(r);
    const char *at = r->p;
    if (!at_string(r))
        return syntax(r, "a member's name in quotes expected");
    GString *name = read_string(r);
    if (!name)
        return false;
    g_autofree char *key = g_string_free(name, FALSE);
    if (json_object_object_get_ex(object, key, NULL)) {
        r->p = at;
        g_autofree char *what = g_strdup_printf("member '%s' twice", key);
        return bad(r, ERR_INVALID_SYNTAX, what);
    }
    if (!take(r, ':'))
        return syntax(r, "':' expected");
    json_object *value = NULL;
    if (!read_value(r, &value))
        return false;
    json_object_object_add(object, key, value);
    return true;
}

static bool read_object(Reader *r, json_object **ret)
{
    g_autoptr(json_object) object = json_object_new_object();
    if (!take(r, '}')) {
        do {
            if (!read_member(r, object))
                return false;
        } while (take(r, ','));
        if (!take(r, '}'))
            return syntax(r, "',' or '}' expected");
    }
    *ret = g_steal_pointer(&object);
    return true;
}

static bool read_word(Reader *r, json_object **ret)
{
    const char *from = r->p;
    while (r->p < r->end && g_ascii_isalpha(*r->p))
        r->p++;
    size_t length = r->p - from;
    bool known = true;
    if (length == 4 && !memcmp(from, "true", 4))
        *ret = json_object_new_boolean(true);
    else if (length == 5 && !memcmp(from, "false", 5))
        *ret = json_object_new_boolean(false);
    else if (length == 4 && !memcmp(from, "null", 4))
        *ret = NULL;
    else
        known = false;
    if (known)
        return true;
    bool ends = r->p == r->end;
    r->p = from;
    return ends && length ? bad(r, ERR_INVALID_SYNTAX, "unknown word") : syntax(r, "a value expected");
}

static bool read_value(Reader *r, json_object **ret)
{
    skip_space(r);
    if (r->p == r->end)
        return syntax(r, "");
    if (*r->p == '-' || g_ascii_isdigit(*r->p))
        return read_number(r, ret);
    if (at_string(r)) {
        GString *text = read_string(r);
        if (!text)
            return false;
        *ret = json_object_new_string_len(text->str, text->len);
        g_string_free(text, TRUE);
        return true;
    }
    if (*r->p != '{' && *r->p != '[')
        return read_word(r, ret);
    if (++r->depth > DEPTH_MAX)
        return bad(r, ERR_LIMIT, "nested too deeply");
    bool ok = *r->p++ == '{' ? read_object(r, ret) : read_array(r, ret);
    r->depth--;
    return ok;
}

bool json_parse_value(const char *text, size_t length, json_object **ret, GError **error)
{
    Reader r = { text, text, text + length, 0, error };
    json_object *value = NULL;
    if (!read_value(&r, &value))
        return false;
    skip_space(&r);
    if (r.p < r.end) {
        json_object_put(value);
        return bad(&r, ERR_INVALID_SYNTAX, "text after the value");
    }
    *ret = value;
    return true;
}

json_object *json_parse(const char *text, size_t length, GError **error)
{
    json_object *value = NULL;
    if (json_parse_value(text, length, &value, error) && !value)
        fail(error, ERR_WRONG_TYPE, "JSON: null is not a value here");
    return value;
}

#include "monitor/jsonstream.h"
#include <glib.h>
#include <string.h>
#include "src/base/options.h"

#define RESYNC_BYTE 0xff                   /* never part of UTF-8: a client's way to start afresh */

struct JsonStream {
    enum { BETWEEN, INSIDE, IN_STRING, IN_ESCAPE, SKIP_LINE } state;
    uint8_t quote;                         /* that ends the string */
    size_t max_bytes;
    unsigned depth;
    uint8_t objects[JSON_STREAM_MAX_DEPTH / 8];   /* bit n: level n is an object, else an array */
    GByteArray *text;
};

JsonStream *json_stream_new(size_t max_bytes)
{
    JsonStream *s = g_new0(JsonStream, 1);
    s->max_bytes = max_bytes;
    s->text = g_byte_array_new();
    return s;
}

void json_stream_free(JsonStream *s)
{
    if (!s)
        return;
    g_byte_array_unref(s->text);
    g_free(s);
}

/* A large value's buffer is given back; a small one is used again. */
static void drop_text(JsonStream *s)
{
    if (s->text->len > 64 * 1024) {
        g_byte_array_unref(s->text);
        s->text = g_byte_array_new();
    }
    g_byte_array_set_size(s->text, 0);
    s->depth = 0;
}

void json_stream_reset(JsonStream *s)
{
    drop_text(s);
    s->state = BETWEEN;
}

size_t json_stream_pending(const JsonStream *s)
{
    return s->text->len;
}

static bool open_bracket(JsonStream *s, bool object, GError **error)
{
    if (s->depth == JSON_STREAM_MAX_DEPTH)
        return fail(error, ERR_LIMIT, "Invalid JSON: nested deeper than %d levels",
                    JSON_STREAM_MAX_DEPTH);
    uint8_t bit = 1u << (s->depth % 8);
    if (object)
        s->objects[s->depth / 8] |= bit;
    else
        s->objects[s->depth / 8] &= ~bit;
    s->depth++;
    return true;
}

static bool close_bracket(JsonStream *s, char c, GError **error)
{
    unsigned level = s->depth - 1;
    bool object = s->objects[level / 8] & (1u << (level % 8));
    if (object != (c == '}'))
        return fail(error, ERR_INVALID_SYNTAX, "Invalid JSON: '%c' where '%c' was expected", c,
                    object ? '}' : ']');
    s->depth--;
    return true;
}

static bool between(JsonStream *s, uint8_t c, GError **error)
{
    switch (c) {
    case ' ':
    case '\t':
    case '\r':
    case '\n':
        return true;
    case '{':
    case '[':
        s->state = INSIDE;
        return open_bracket(s, c == '{', error);
    }
    if (g_ascii_isprint(c))
        return fail(error, ERR_INVALID_SYNTAX, "Invalid JSON: expected an object, found '%c'", c);
    return fail(error, ERR_INVALID_SYNTAX, "Invalid JSON: expected an object, found byte 0x%02x", c);
}

static bool inside(JsonStream *s, uint8_t c, GError **error)
{
    if (s->state == IN_ESCAPE) {
        s->state = IN_STRING;
        c = c < 0x20 ? c : 'x';
    }
    if (s->state == IN_STRING) {
        if (c < 0x20)
            return fail(error, ERR_INVALID_SYNTAX,
                        "Invalid JSON: control character 0x%02x in a string", c);
        s->state = c == s->quote ? INSIDE : c == '\\' ? IN_ESCAPE : IN_STRING;
        return true;
    }
    switch (c) {
    case '"':
    case '\'':
        s->state = IN_STRING;
        s->quote = c;
        return true;
    case '{':
    case '[':
        return open_bracket(s, c == '{', error);
    case '}':
    case ']':
        return close_bracket(s, c, error);
    }
    return true;
}

static JsonStreamResult give_up(JsonStream *s, uint8_t c)
{
    drop_text(s);
    s->state = c == '\n' || c == RESYNC_BYTE ? BETWEEN : SKIP_LINE;
    return JSON_STREAM_ERROR;
}

static JsonStreamResult complete(JsonStream *s, json_object **ret, GError **error)
{
    *ret = json_parse((const char *)s->text->data, s->text->len, error);
    json_stream_reset(s);
    if (*ret)
        return JSON_STREAM_VALUE;
    error_prefix(error, "Invalid JSON: ");
    return JSON_STREAM_ERROR;
}

/* One byte.  MORE: go on. */
static JsonStreamResult take(JsonStream *s, uint8_t c, GError **error)
{
    if (s->state == SKIP_LINE) {
        if (c == '\n' || c == RESYNC_BYTE)
            s->state = BETWEEN;
        return JSON_STREAM_MORE;
    }
    if (c == RESYNC_BYTE) {
        if (s->state == BETWEEN)
            return JSON_STREAM_MORE;
        fail(error, ERR_INVALID_SYNTAX, "Invalid JSON: the value is not complete");
        return give_up(s, c);
    }
    bool ok = s->state == BETWEEN ? between(s, c, error) : inside(s, c, error);
    return ok ? JSON_STREAM_MORE : give_up(s, c);
}

JsonStreamResult json_stream_feed(JsonStream *s, const uint8_t *data, size_t length, size_t *used,
                                  json_object **ret, GError **error)
{
    size_t start = 0;                      /* of what belongs to the value and is not in text yet */
    for (size_t i = 0; i < length; i++) {
        bool was_open = s->depth > 0;
        JsonStreamResult result = take(s, data[i], error);
        if (result == JSON_STREAM_MORE && s->depth && !was_open)
            start = i;
        if (result == JSON_STREAM_MORE && s->depth &&
            s->text->len + (i + 1 - start) > s->max_bytes) {
            fail(error, ERR_LIMIT, "Invalid JSON: a message is longer than %zu bytes", s->max_bytes);
            result = give_up(s, data[i]);
        }
        *used = i + 1;
        if (result != JSON_STREAM_MORE)
            return result;
        if (was_open && !s->depth) {
            g_byte_array_append(s->text, data + start, i + 1 - start);
            return complete(s, ret, error);
        }
    }
    if (s->depth)
        g_byte_array_append(s->text, data + start, length - start);
    *used = length;
    return JSON_STREAM_MORE;
}

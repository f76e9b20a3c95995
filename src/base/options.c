/* Typed access to option values, whether they came as JSON or as text. */
#include "src/base/options.h"
#include <errno.h>
#include <math.h>
#include <string.h>

static bool wrong_type(const char *what, const char *wanted, GError **error)
{
    return fail(error, ERR_WRONG_TYPE, "%s must be a %s", what, wanted);
}

static bool expects(const char *what, const char *wanted, json_object *value, GError **error)
{
    return fail(error, ERR_INVALID_PARAMETER, "%s expects %s, not '%s'", what, wanted,
                json_object_get_string(value));
}

bool value_to_bool(json_object *value, const char *what, bool *ret, GError **error)
{
    static const char *const on[] = { "on", "true", "yes", "y", NULL };
    static const char *const off[] = { "off", "false", "no", "n", NULL };
    if (json_object_is_type(value, json_type_boolean)) {
        *ret = json_object_get_boolean(value);
        return true;
    }
    if (!json_object_is_type(value, json_type_string))
        return wrong_type(what, "boolean", error);
    const char *text = json_object_get_string(value);
    bool is_on = g_strv_contains(on, text);
    if (!is_on && !g_strv_contains(off, text))
        return expects(what, "'on' or 'off'", value, error);
    *ret = is_on;
    return true;
}

/* Decimal, or hexadecimal after 0x; all of the text. */
static bool text_to_u64(const char *text, uint64_t *ret)
{
    bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    const char *digits = hex ? text + 2 : text;
    if (!(hex ? g_ascii_isxdigit(*digits) : g_ascii_isdigit(*digits)))
        return false;
    char *end;
    errno = 0;
    uint64_t value = g_ascii_strtoull(digits, &end, hex ? 16 : 10);
    if (errno || *end)
        return false;
    *ret = value;
    return true;
}

bool value_to_u64(json_object *value, const char *what, uint64_t *ret, GError **error)
{
    if (json_object_is_type(value, json_type_int)) {
        if (json_object_get_int64(value) < 0)
            return expects(what, "a number that is not negative", value, error);
        *ret = json_object_get_uint64(value);
        return true;
    }
    if (!json_object_is_type(value, json_type_string))
        return wrong_type(what, "number", error);
    if (!text_to_u64(json_object_get_string(value), ret))
        return expects(what, "a number", value, error);
    return true;
}

bool value_to_i64(json_object *value, const char *what, int64_t *ret, GError **error)
{
    if (json_object_is_type(value, json_type_int)) {
        if (json_object_get_uint64(value) > INT64_MAX && json_object_get_int64(value) >= 0)
            return expects(what, "a number of 64 bits with sign", value, error);
        *ret = json_object_get_int64(value);
        return true;
    }
    if (!json_object_is_type(value, json_type_string))
        return wrong_type(what, "number", error);
    const char *text = json_object_get_string(value);
    bool negative = *text == '-';
    uint64_t magnitude;
    if (!text_to_u64(text + negative, &magnitude) || magnitude > (uint64_t)INT64_MAX + negative)
        return expects(what, "a number", value, error);
    *ret = negative ? (int64_t)(0 - magnitude) : (int64_t)magnitude;
    return true;
}

/* The power of 1024 that a suffix stands for, or -1. */
static int size_suffix(const char *text)
{
    static const char letters[] = "BKMGTPE";
    if (!*text)
        return 0;
    const char *found = strchr(letters, g_ascii_toupper(*text));
    return found && !text[1] ? (int)(found - letters) : -1;
}

static bool text_to_size(const char *text, uint64_t *ret)
{
    if (text_to_u64(text, ret))
        return true;
    if (!g_ascii_isdigit(*text))
        return false;
    char *end;
    errno = 0;
    uint64_t whole = g_ascii_strtoull(text, &end, 10);
    double fraction = 0;
    if (errno)
        return false;
    if (*end == '.') {
        double scale = 0.1;
        for (end++; g_ascii_isdigit(*end); end++, scale /= 10)
            fraction += (*end - '0') * scale;
    }
    int power = size_suffix(end);
    if (power < 0 || (power == 0 && fraction > 0))
        return false;
    unsigned shift = 10 * (unsigned)power;
    if (whole > UINT64_MAX >> shift)
        return false;
    *ret = (whole << shift) + (uint64_t)(fraction * (double)(1ull << shift) + 0.5);
    return *ret >= whole << shift;
}

bool value_to_size(json_object *value, const char *what, uint64_t *ret, GError **error)
{
    if (!json_object_is_type(value, json_type_string))
        return value_to_u64(value, what, ret, error);
    if (!text_to_size(json_object_get_string(value), ret)) {
        expects(what, "a size", value, error);
        return error_hint(error, "a size is a number of bytes, or of K, M, G, T, P or E of them, "
                                 "as in 64K or 1.5G");
    }
    return true;
}

bool value_to_str(json_object *value, const char *what, const char **ret, GError **error)
{
    if (!json_object_is_type(value, json_type_string))
        return wrong_type(what, "string", error);
    *ret = json_object_get_string(value);
    return true;
}

bool value_to_enum(json_object *value, const char *what, const char *const *words, int *ret,
                   GError **error)
{
    const char *text;
    if (!value_to_str(value, what, &text, error))
        return false;
    for (int i = 0; words[i]; i++) {
        if (!strcmp(words[i], text)) {
            *ret = i;
            return true;
        }
    }
    g_autofree char *list = g_strjoinv(", ", (char **)words);
    const char *near = nearest_word(text, words);
    fail(error, ERR_INVALID_PARAMETER, "%s cannot be '%s'", what, text);
    return near ? error_hint(error, "did you mean '%s'? (one of: %s)", near, list)
                : error_hint(error, "one of: %s", list);
}

/* options_get_X: the member, if it is there, through value_to_X. */
#define DEFINE_GET(name, type)                                                                     \
    bool options_get_##name(json_object *options, const char *key, type *ret, GError **error)      \
    {                                                                                              \
        json_object *value;                                                                        \
        if (!json_object_object_get_ex(options, key, &value))                                      \
            return true;                                                                           \
        g_autofree char *what = g_strdup_printf("Parameter '%s'", key);                            \
                                                                                       \
        return value_to_##name(value, what, ret, error);                                           \
    }
DEFINE_GET(bool, bool)
DEFINE_GET(u64, uint64_t)
DEFINE_GET(i64, int64_t)
DEFINE_GET(size, uint64_t)
DEFINE_GET(str, const char *)
#undef DEFINE_GET

bool options_get_enum(json_object *options, const char *key, const char *const *words, int *ret,
                      GError **error)
{
    json_object *value;
    if (!json_object_object_get_ex(options, key, &value))
        return true;
    g_autofree char *what = g_strdup_printf("Parameter '%s'", key);
    return value_to_enum(value, what, words, ret, error);
}

json_object *options_take(json_object *options, const char *key)
{
    json_object *value;
    if (!json_object_object_get_ex(options, key, &value))
        return NULL;
    json_object_get(value);
    json_object_object_del(options, key);
    return value;
}

bool options_check_empty(json_object *options, const char *what, const char *const *known,
                         GError **error)
{
    if (!json_object_object_length(options))
        return true;
    struct json_object_iterator it = json_object_iter_begin(options);
    const char *name = json_object_iter_peek_name(&it);
    fail(error, ERR_UNKNOWN_PARAMETER, "%s has no member '%s'", what, name);
    const char *near = known ? nearest_word(name, known) : NULL;
    return near ? error_hint(error, "did you mean '%s'?", near) : false;
}

/* Optimal string alignment distance, given up above @limit. */
static unsigned distance(const char *a, const char *b, unsigned limit)
{
    enum { WORD_MAX = 64 };
    size_t m = strlen(a), n = strlen(b);
    if (m >= WORD_MAX || n >= WORD_MAX || (m > n ? m - n : n - m) > limit)
        return limit + 1;
    unsigned rows[3][WORD_MAX];
    for (size_t j = 0; j <= n; j++)
        rows[0][j] = (unsigned)j;
    for (size_t i = 1; i <= m; i++) {
        unsigned *row = rows[i % 3], *above = rows[(i - 1) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= n; j++) {
            unsigned cost = g_ascii_tolower(a[i - 1]) != g_ascii_tolower(b[j - 1]);
            row[j] = MIN(MIN(above[j] + 1, row[j - 1] + 1), above[j - 1] + cost);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = MIN(row[j], above2[j - 2] + 1);
        }
    }
    return rows[m % 3][n];
}

const char *nearest_word(const char *word, const char *const *words)
{
    unsigned limit = (unsigned)MIN(strlen(word) / 3 + 1, 4), best = limit + 1;
    const char *nearest = NULL;
    for (; *words; words++) {
        unsigned d = distance(word, *words, limit);
        if (d < best && d < strlen(*words)) {
            best = d;
            nearest = *words;
        }
    }
    return nearest;
}

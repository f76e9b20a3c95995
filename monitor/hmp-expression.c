/*
 * Numbers that people write to the monitor: 0x10, 010, 'A', $rip, and sums of them.  Signs bind closest,
 * then * / %, then & | ^, then + and -; values have 64 bits and wrap.
 */
#include <errno.h>
#include <string.h>
#include "monitor/hmp.h"

enum { DEPTH_MAX = 64 };

typedef struct Reader {
    Hmp *h;
    const char *at;
    unsigned depth;                        /* of brackets and signs */
    GError **error;
} Reader;

static bool read_sum(Reader *r, uint64_t *ret);

static char next_char(Reader *r)
{
    while (g_ascii_isspace(*r->at))
        r->at++;
    return *r->at;
}

/* "'A'" */
static bool read_letter(Reader *r, uint64_t *ret)
{
    if (!r->at[1] || r->at[1] == '\'')
        return fail(r->error, ERR_INVALID_PARAMETER, "character constant expected");
    if (r->at[2] != '\'')
        return fail(r->error, ERR_INVALID_PARAMETER, "missing terminating ' character");
    *ret = (unsigned char)r->at[1];
    r->at += 3;
    return true;
}

static bool read_register(Reader *r, uint64_t *ret)
{
    Kvm *kvm = r->h->vm->kvm;
    size_t length = 1;
    while (g_ascii_isalnum(r->at[length]))
        length++;
    g_autofree char *name = g_strndup(r->at + 1, length - 1);
    r->at += length;
    if (!kvm || r->h->cpu >= (int)kvm_vcpu_count(kvm))
        return fail(r->error, ERR_UNSUPPORTED, "$%s: there is no CPU %d", name, r->h->cpu);
    if (vcpu_register(kvm_vcpu(kvm, r->h->cpu), name, ret))
        return true;
    fail(r->error, ERR_INVALID_PARAMETER, "unknown register '$%s'", name);
    return error_hint(r->error, "as in $rax, $eax, $rip, $pc, $rflags, $cs, $cr3, $efer");
}

static bool read_number(Reader *r, uint64_t *ret)
{
    char *end;
    errno = 0;
    *ret = g_ascii_strtoull(r->at, &end, 0);
    if (errno == ERANGE)
        return fail(r->error, ERR_INVALID_PARAMETER, "number too large");
    if (end == r->at)
        return fail(r->error, ERR_INVALID_PARAMETER, "invalid char '%.*s' in expression",
                    (int)(g_utf8_next_char(r->at) - r->at), r->at);
    r->at = end;
    return true;
}

static bool read_bracket(Reader *r, uint64_t *ret)
{
    r->at++;
    if (!read_sum(r, ret))
        return false;
    if (next_char(r) != ')')
        return fail(r->error, ERR_INVALID_PARAMETER, "')' expected");
    r->at++;
    return true;
}

static bool read_value(Reader *r, uint64_t *ret)
{
    char c = next_char(r);
    switch (c) {
    case '\0':
        return fail(r->error, ERR_INVALID_PARAMETER, "unexpected end of expression");
    case '\'':
        return read_letter(r, ret);
    case '$':
        return read_register(r, ret);
    }
    if (!strchr("+-~(", c))
        return read_number(r, ret);
    if (++r->depth > DEPTH_MAX)
        return fail(r->error, ERR_LIMIT, "too many brackets or signs in an expression");
    bool ok = c == '(' ? read_bracket(r, ret) : (r->at++, read_value(r, ret));
    r->depth--;
    *ret = c == '-' ? -*ret : c == '~' ? ~*ret : *ret;
    return ok;
}

/* By level, of which each binds closer than the one before it. */
static const char *const operators[] = { "+-", "&|^", "*/%" };

static bool apply(Reader *r, char operator, uint64_t *left, uint64_t right)
{
    if (strchr("/%", operator) && !right)
        return fail(r->error, ERR_INVALID_PARAMETER, "division by zero");
    switch (operator) {
    case '+': *left += right; break;
    case '-': *left -= right; break;
    case '&': *left &= right; break;
    case '|': *left |= right; break;
    case '^': *left ^= right; break;
    case '*': *left *= right; break;
    case '/': *left /= right; break;
    case '%': *left %= right; break;
    }
    return true;
}

static bool read_level(Reader *r, unsigned level, uint64_t *ret)
{
    uint64_t right;
    if (level == G_N_ELEMENTS(operators))
        return read_value(r, ret);
    if (!read_level(r, level + 1, ret))
        return false;
    for (char c; (c = next_char(r)) && strchr(operators[level], c);) {
        r->at++;
        if (!read_level(r, level + 1, &right) || !apply(r, c, ret, right))
            return false;
    }
    return true;
}

static bool read_sum(Reader *r, uint64_t *ret)
{
    return read_level(r, 0, ret);
}

bool hmp_expression(Hmp *h, const char *text, uint64_t *ret, GError **error)
{
    Reader r = { .h = h, .at = text, .error = error };
    *ret = 0;
    if (!read_sum(&r, ret))
        return false;
    return !next_char(&r) || fail(error, ERR_INVALID_PARAMETER,
                                  "extraneous characters at the end of line: '%s'", r.at);
}

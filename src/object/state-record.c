/* Records of the state stream: the only code that takes bytes from it. */
#include <string.h>
#include "src/base/error.h"
#include "src/base/util.h"
#include "src/object/state-priv.h"

static const struct {
    const char *name;
    uint8_t size;
    bool is_signed;
} kinds[] = {
    [STATE_BOOL] = { "bool", 1 },      [STATE_U8] = { "u8", 1 },   [STATE_U16] = { "u16", 2 },
    [STATE_U32] = { "u32", 4 },        [STATE_U64] = { "u64", 8 }, [STATE_I32] = { "i32", 4, true },
    [STATE_I64] = { "i64", 8, true },  [STATE_BYTES] = { "bytes" },
    [STATE_BUFFER] = { "bytes" },      [STATE_STRUCT] = { "struct" },
    [STATE_FN] = { "values" },
};

unsigned state_kind_size(StateKind kind)
{
    return kind < G_N_ELEMENTS(kinds) ? kinds[kind].size : 0;
}

const char *state_kind_name(StateKind kind)
{
    return kind < G_N_ELEMENTS(kinds) && kinds[kind].name ? kinds[kind].name : "unknown";
}

bool state_kind_signed(StateKind kind)
{
    return kind < G_N_ELEMENTS(kinds) && kinds[kind].is_signed;
}

uint64_t number_decode(const uint8_t *p, StateKind kind)
{
    switch (state_kind_size(kind)) {
    case 1: return *p;
    case 2: return ld_le16(p);
    case 4: return state_kind_signed(kind) ? (uint64_t)(int32_t)ld_le32(p) : ld_le32(p);
    default: return ld_le64(p);
    }
}

uint64_t number_from_memory(const void *p, StateKind kind)
{
    uint16_t n16;
    uint32_t n32;
    uint64_t n64;

    switch (state_kind_size(kind)) {
    case 1:
        return *(const uint8_t *)p;
    case 2:
        memcpy(&n16, p, 2);
        return n16;
    case 4:
        memcpy(&n32, p, 4);
        return state_kind_signed(kind) ? (uint64_t)(int32_t)n32 : n32;
    default:
        memcpy(&n64, p, 8);
        return n64;
    }
}

void number_to_memory(void *p, StateKind kind, uint64_t value)
{
    uint8_t n8 = value;
    uint16_t n16 = value;
    uint32_t n32 = value;

    switch (state_kind_size(kind)) {
    case 1: memcpy(p, &n8, 1); break;
    case 2: memcpy(p, &n16, 2); break;
    case 4: memcpy(p, &n32, 4); break;
    default: memcpy(p, &value, 8); break;
    }
}

bool cursor_u8(Cursor *c, uint8_t *ret)
{
    if (c->p == c->end)
        return false;
    *ret = *c->p++;
    return true;
}

bool cursor_u32(Cursor *c, uint32_t *ret)
{
    if (c->end - c->p < 4)
        return false;
    *ret = ld_le32(c->p);
    c->p += 4;
    return true;
}

static bool is_record_kind(uint8_t kind)
{
    return kind && memchr("OTNBSFZ", kind, 7);
}

bool record_next(Cursor *c, Record *ret, const char *where, GError **error)
{
    uint32_t length;
    uint8_t kind;

    if (!cursor_u8(c, &kind) || c->end - c->p < 2)
        return fail(error, ERR_CORRUPT, "%s: the state ends too early", where);
    if (!is_record_kind(kind))
        return fail(error, ERR_CORRUPT, "%s: 0x%02x is not a kind of state record", where, kind);
    ret->kind = kind;
    ret->name_length = ld_le16(c->p);
    c->p += 2;
    if ((size_t)(c->end - c->p) < ret->name_length)
        return fail(error, ERR_CORRUPT, "%s: the state ends inside a name", where);
    ret->name = (const char *)c->p;
    c->p += ret->name_length;
    if (memchr(ret->name, 0, ret->name_length) ||
        !g_utf8_validate(ret->name, ret->name_length, NULL))
        return fail(error, ERR_CORRUPT, "%s: a name in the state is not text", where);
    if (!cursor_u32(c, &length) || (size_t)(c->end - c->p) < length)
        return fail(error, ERR_CORRUPT, "%s: the state ends inside '%.*s'", where,
                    (int)ret->name_length, ret->name);
    ret->payload = (Cursor){ c->p, c->p + length };
    c->p += length;
    return true;
}

bool record_named(const Record *r, const char *name)
{
    return strlen(name) == r->name_length && !memcmp(name, r->name, r->name_length);
}

static void add_types(const Type *type, GPtrArray *out)
{
    if (!type)
        return;
    add_types(type_parent(type), out);
    if (type->state)
        g_ptr_array_add(out, (void *)type);
}

GPtrArray *state_types_of(const Type *type)
{
    GPtrArray *types = g_ptr_array_new();

    add_types(type, types);
    return types;
}

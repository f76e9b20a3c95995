/* Writing objects' state. */
#include <string.h>
#include "src/base/util.h"
#include "src/object/object.h"
#include "src/object/state-priv.h"

struct StateWriter {
    GByteArray *out;
};

static void put_u8(GByteArray *out, uint8_t n)
{
    g_byte_array_append(out, &n, 1);
}

static void put_u32(GByteArray *out, uint32_t n)
{
    uint8_t bytes[4];

    st_le32(bytes, n);
    g_byte_array_append(out, bytes, 4);
}

static void put_name(GByteArray *out, const char *name)
{
    uint8_t bytes[2];
    size_t length = MIN(strlen(name), UINT16_MAX);

    st_le16(bytes, length);
    g_byte_array_append(out, bytes, 2);
    g_byte_array_append(out, (const uint8_t *)name, length);
}

/* Begins a record; its payload is what is written until record_end. */
static guint record_begin(GByteArray *out, RecordKind kind, const char *name)
{
    put_u8(out, kind);
    put_name(out, name);
    put_u32(out, 0);
    return out->len;
}

static void record_end(GByteArray *out, guint start)
{
    st_le32(out->data + start - 4, out->len - start);
}

static void put_number(GByteArray *out, StateKind kind, uint64_t value)
{
    uint8_t bytes[8];

    st_le64(bytes, value);
    g_byte_array_append(out, bytes, state_kind_size(kind));
}

static void save_numbers(const StateField *f, const uint8_t *member, GByteArray *out)
{
    guint start = record_begin(out, RECORD_NUMBERS, f->name);

    put_u8(out, f->kind);
    for (uint32_t i = 0; i < f->count; i++)
        put_number(out, f->kind, number_from_memory(member + i * f->size, f->kind));
    record_end(out, start);
}

static void save_bytes(const char *name, const void *data, size_t length, GByteArray *out)
{
    guint start = record_begin(out, RECORD_BYTES, name);

    g_byte_array_append(out, data, length);
    record_end(out, start);
}

static void save_table(const StateTable *table, void *base, const char *name, GByteArray *out);

static void save_structs(const StateField *f, uint8_t *member, GByteArray *out)
{
    guint start = record_begin(out, RECORD_STRUCTS, f->name);

    for (uint32_t i = 0; i < f->count; i++)
        save_table(f->table, member + i * f->size, "", out);
    record_end(out, start);
}

static void save_fn(const StateField *f, void *base, GByteArray *out)
{
    guint start = record_begin(out, RECORD_FN, f->name);
    StateWriter w = { out };

    f->save(base, &w);
    record_end(out, start);
}

static void save_field(const StateField *f, void *base, GByteArray *out)
{
    uint8_t *member = (uint8_t *)base + f->offset;

    switch (f->kind) {
    case STATE_BYTES:
        save_bytes(f->name, member, f->size, out);
        break;
    case STATE_BUFFER:
        save_bytes(f->name, *(uint8_t **)member,
                   *(uint32_t *)((uint8_t *)base + f->length_offset), out);
        break;
    case STATE_STRUCT:
        save_structs(f, member, out);
        break;
    case STATE_FN:
        save_fn(f, base, out);
        break;
    default:
        save_numbers(f, member, out);
    }
}

static void save_table(const StateTable *table, void *base, const char *name, GByteArray *out)
{
    guint start = record_begin(out, RECORD_TABLE, name);

    put_u32(out, MAX(table->version, 1));
    if (table->pre_save)
        table->pre_save(base);
    for (const StateField *f = table->fields; f && f->name; f++) {
        if (!f->needed || f->needed(base))
            save_field(f, base, out);
    }
    record_end(out, start);
}

void object_save_state(Object *obj, const char *id, GByteArray *out)
{
    g_autoptr(GPtrArray) types = state_types_of(obj->type);
    guint start = record_begin(out, RECORD_OBJECT, id);

    put_name(out, obj->type->name);
    for (unsigned i = 0; i < types->len; i++) {
        const Type *type = types->pdata[i];

        save_table(type->state, obj, type->name, out);
    }
    record_end(out, start);
}

static bool save_if_stateful(Object *obj, void *out)
{
    g_autoptr(GPtrArray) types = state_types_of(obj->type);
    g_autofree char *path = NULL;

    if (obj->realized && types->len) {
        path = object_path(obj);
        object_save_state(obj, path, out);
    }
    return true;
}

void tree_save_state(Object *top, GByteArray *out)
{
    g_byte_array_append(out, (const uint8_t *)STATE_MAGIC, STATE_MAGIC_SIZE);
    object_walk(top, save_if_stateful, out);
    record_end(out, record_begin(out, RECORD_END, ""));
}

/* ---- for STATE_FN ---- */

void state_put_u64(StateWriter *w, const char *name, uint64_t value)
{
    guint start = record_begin(w->out, RECORD_NUMBERS, name);

    put_u8(w->out, STATE_U64);
    put_number(w->out, STATE_U64, value);
    record_end(w->out, start);
}

void state_put_bytes(StateWriter *w, const char *name, const void *data, size_t length)
{
    save_bytes(name, data, length, w->out);
}

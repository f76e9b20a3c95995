/*
 * Reading objects' state.
 *
 * Each stream is walked twice.  The first walk compares all of it with the tables and changes nothing:
 * names, kinds, counts, ranges.  The second stores the values.  What it overwrites goes to a journal
 * first, so that a load function or a post_load that refuses leaves the fields as they were.
 */
#include <inttypes.h>
#include <string.h>
#include "src/base/error.h"
#include "src/base/util.h"
#include "src/object/object.h"
#include "src/object/state-priv.h"

typedef struct Saved {
    void *where;
    size_t length;
    guint at;                              /* of the old bytes, in Load.old */
} Saved;

typedef struct Load {
    const char *id;                        /* of the object, for errors */
    GString *path;                         /* "channels[2]." while inside structs */
    bool apply;                            /* the second walk */
    GArray *journal;                       /* of Saved */
    GByteArray *old;
} Load;

struct StateReader {
    Load *load;
    const char *field;
    Cursor c;
};

static void load_init(Load *load)
{
    *load = (Load){
        .path = g_string_new(NULL),
        .journal = g_array_new(FALSE, FALSE, sizeof(Saved)),
        .old = g_byte_array_new(),
    };
}

static void load_clear(Load *load)
{
    g_string_free(load->path, TRUE);
    g_array_unref(load->journal);
    g_byte_array_unref(load->old);
}

static void overwrite(Load *load, void *where, const void *data, size_t length)
{
    Saved saved = { where, length, load->old->len };

    if (!length)
        return;
    g_byte_array_append(load->old, where, length);
    g_array_append_val(load->journal, saved);
    memcpy(where, data, length);
}

static void roll_back(Load *load)
{
    for (unsigned i = load->journal->len; i-- > 0;) {
        const Saved *saved = &g_array_index(load->journal, Saved, i);

        memcpy(saved->where, load->old->data + saved->at, saved->length);
    }
}

static bool G_GNUC_PRINTF(4, 5) refuse(Load *load, const char *field, GError **error,
                                       const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    fail(error, ERR_CORRUPT, "state of '%s', field '%s%s': %s", load->id, load->path->str, field,
         text);
    return error_object(error, "%s", load->id);
}

/* ---- fields ---- */

static RecordKind record_kind_of(StateKind kind)
{
    switch (kind) {
    case STATE_BYTES:
    case STATE_BUFFER: return RECORD_BYTES;
    case STATE_STRUCT: return RECORD_STRUCTS;
    case STATE_FN: return RECORD_FN;
    default: return RECORD_NUMBERS;
    }
}

static const char *record_kind_words(const Record *r)
{
    switch (r->kind) {
    case RECORD_BYTES: return "bytes";
    case RECORD_STRUCTS: return "struct";
    case RECORD_FN: return "values";
    case RECORD_NUMBERS: return r->payload.p < r->payload.end ? state_kind_name(*r->payload.p)
                                                              : "nothing";
    default: return "something else";
    }
}

static bool in_range(const StateField *f, uint64_t n)
{
    if (f->kind == STATE_BOOL && n > 1)
        return false;
    if (!f->min && !f->max)
        return true;
    if (state_kind_signed(f->kind))
        return (int64_t)n >= (int64_t)f->min && (int64_t)n <= (int64_t)f->max;
    return n >= f->min && n <= f->max;
}

static bool refuse_number(Load *load, const StateField *f, uint32_t i, uint64_t n, GError **error)
{
    g_autofree char *name = f->count > 1 ? g_strdup_printf("%s[%u]", f->name, i)
                                         : g_strdup(f->name);

    if (f->kind == STATE_BOOL)
        return refuse(load, name, error, "%" PRIu64 " is neither true nor false", n);
    if (state_kind_signed(f->kind))
        return refuse(load, name, error,
                      "%" PRId64 " is not between %" PRId64 " and %" PRId64, (int64_t)n,
                      (int64_t)f->min, (int64_t)f->max);
    return refuse(load, name, error, "%" PRIu64 " is not between %" PRIu64 " and %" PRIu64, n,
                  f->min, f->max);
}

static bool load_numbers(Load *load, const StateField *f, uint8_t *member, Cursor c, GError **error)
{
    unsigned size = state_kind_size(f->kind);
    uint8_t kind = 0;

    cursor_u8(&c, &kind);
    if (kind != f->kind)
        return refuse(load, f->name, error, "the source has %s, %s is expected",
                      state_kind_name(kind), state_kind_name(f->kind));
    if ((uint64_t)(c.end - c.p) != (uint64_t)size * f->count)
        return refuse(load, f->name, error, "the source has %zu bytes, %u values of %u are expected",
                      (size_t)(c.end - c.p), f->count, size);
    for (uint32_t i = 0; i < f->count; i++) {
        uint64_t n = number_decode(c.p + i * size, f->kind);
        uint8_t value[8];

        if (!in_range(f, n))
            return refuse_number(load, f, i, n, error);
        number_to_memory(value, f->kind, n);
        if (load->apply)
            overwrite(load, member + i * f->size, value, size);
    }
    return true;
}

static bool load_bytes(Load *load, const StateField *f, uint8_t *member, Cursor c, GError **error)
{
    size_t length = c.end - c.p;

    if (length != f->size)
        return refuse(load, f->name, error, "the source has %zu bytes, %zu are expected", length,
                      f->size);
    if (load->apply)
        overwrite(load, member, c.p, length);
    return true;
}

static bool load_buffer(Load *load, const StateField *f, uint8_t *base, Cursor c, GError **error)
{
    uint32_t length = c.end - c.p;
    uint8_t *buffer = *(uint8_t **)(base + f->offset);

    if (length > f->max || length < f->min)
        return refuse(load, f->name, error,
                      "its length %u is not between %" PRIu64 " and %" PRIu64, length, f->min,
                      f->max);
    if (!load->apply)
        return true;
    if (length && !buffer)
        return refuse(load, f->name, error, "there is no room for it");
    overwrite(load, buffer, c.p, length);
    overwrite(load, base + f->length_offset, &length, sizeof(length));
    return true;
}

static bool load_fn(Load *load, const StateField *f, void *base, Cursor c, GError **error)
{
    StateReader r = { load, f->name, c };

    if (!load->apply) {                    /* its shape can be checked, its meaning cannot */
        while (r.c.p < r.c.end) {
            Record record;

            if (!record_next(&r.c, &record, load->id, error))
                return false;
        }
        return true;
    }
    if (!f->load(base, &r, error)) {
        if (error && !*error)
            refuse(load, f->name, error, "it was refused");
        return false;
    }
    if (r.c.p != r.c.end)
        return refuse(load, f->name, error, "the source has more values than are expected");
    return true;
}

static bool load_table(Load *load, const StateTable *table, void *base, const char *name, Cursor *c,
                       GError **error);
static bool load_post(Load *load, const StateTable *table, void *base, Cursor c, GError **error);

static bool load_structs(Load *load, const StateField *f, uint8_t *member, Cursor c, GError **error)
{
    gsize length = load->path->len;

    for (uint32_t i = 0; i < f->count; i++) {
        Cursor element = c;
        bool ok;

        if (c.p == c.end)
            return refuse(load, f->name, error, "the source has %u structs, %u are expected", i,
                          f->count);
        if (f->count > 1)
            g_string_append_printf(load->path, "%s[%u].", f->name, i);
        else
            g_string_append_printf(load->path, "%s.", f->name);
        ok = load_table(load, f->table, member + i * f->size, "", &c, error) &&
             (!load->apply || load_post(load, f->table, member + i * f->size, element, error));
        g_string_truncate(load->path, length);
        if (!ok)
            return false;
    }
    if (c.p != c.end)
        return refuse(load, f->name, error, "the source has more than %u structs", f->count);
    return true;
}

static bool load_field(Load *load, const StateField *f, uint8_t *base, const Record *r,
                       GError **error)
{
    uint8_t *member = base + f->offset;

    if (r->kind != record_kind_of(f->kind))
        return refuse(load, f->name, error, "the source has %s, %s is expected",
                      record_kind_words(r), state_kind_name(f->kind));
    switch (f->kind) {
    case STATE_BYTES: return load_bytes(load, f, member, r->payload, error);
    case STATE_BUFFER: return load_buffer(load, f, base, r->payload, error);
    case STATE_STRUCT: return load_structs(load, f, member, r->payload, error);
    case STATE_FN: return load_fn(load, f, base, r->payload, error);
    default: return load_numbers(load, f, member, r->payload, error);
    }
}

/* ---- tables ---- */

static bool check_version(Load *load, const StateTable *table, const char *name, uint32_t version,
                          GError **error)
{
    uint32_t newest = MAX(table->version, 1), oldest = MAX(table->min_version, 1);

    if (version >= oldest && version <= newest)
        return true;
    fail(error, ERR_UNSUPPORTED,
         "state of '%s', part '%s%s': version %u is not between %u and %u", load->id,
         load->path->str, name, version, oldest, newest);
    if (version > newest)
        error_hint(error, "it was saved by a newer release");
    return error_object(error, "%s", load->id);
}

static bool load_fields(Load *load, const StateTable *table, void *base, Cursor c, uint32_t version,
                        GError **error)
{
    Record r = { 0 };
    bool have = false;

    for (const StateField *f = table->fields; f && f->name; f++) {
        if (!have && c.p < c.end) {
            if (!record_next(&c, &r, load->id, error))
                return false;
            have = true;
        }
        if (have && record_named(&r, f->name)) {
            if (!load_field(load, f, base, &r, error))
                return false;
            have = false;
        } else if (!f->needed && MAX(f->since, 1) <= version) {
            return refuse(load, f->name, error, "it is missing in the state");
        }
    }
    if (!have && c.p < c.end) {
        if (!record_next(&c, &r, load->id, error))
            return false;
        have = true;
    }
    if (have) {
        g_autofree char *name = g_strndup(r.name, r.name_length);

        return refuse(load, name, error, "there is no such field, or not in this place");
    }
    return true;
}

/* Takes one TABLE record from @c.  In the second walk all but post_load is done. */
static bool load_table(Load *load, const StateTable *table, void *base, const char *name, Cursor *c,
                       GError **error)
{
    uint32_t version;
    Record r;

    if (!record_next(c, &r, load->id, error))
        return false;
    if (r.kind != RECORD_TABLE || !record_named(&r, name))
        return fail(error, ERR_CORRUPT, "state of '%s': part '%s%s' is expected, not '%.*s'",
                    load->id, load->path->str, name, (int)r.name_length, r.name);
    if (!cursor_u32(&r.payload, &version))
        return fail(error, ERR_CORRUPT, "state of '%s': part '%s%s' has no version", load->id,
                    load->path->str, name);
    if (!check_version(load, table, name, version, error))
        return false;
    if (load->apply && table->pre_load && !table->pre_load(base, error))
        return error_prefix(error, "state of '%s': ", load->id);
    return load_fields(load, table, base, r.payload, version, error);
}

/* @c: at the TABLE record, which was read before. */
static bool load_post(Load *load, const StateTable *table, void *base, Cursor c, GError **error)
{
    uint32_t version = 1;
    Record r;

    if (!table->post_load)
        return true;
    if (!record_next(&c, &r, load->id, error))
        return false;
    cursor_u32(&r.payload, &version);
    if (table->post_load(base, version, error))
        return true;
    if (error && !*error)
        fail(error, ERR_CORRUPT, "it was refused");
    error_prefix(error, "state of '%s': ", load->id);
    return error_object(error, "%s", load->id);
}

/* ---- objects ---- */

static bool check_type(Load *load, Object *obj, Cursor *c, GError **error)
{
    uint16_t length;

    if (c->end - c->p < 2)
        return fail(error, ERR_CORRUPT, "state of '%s' has no type", load->id);
    length = ld_le16(c->p);
    if ((size_t)(c->end - c->p) < 2u + length)
        return fail(error, ERR_CORRUPT, "state of '%s' ends inside its type", load->id);
    if (length != strlen(obj->type->name) || memcmp(c->p + 2, obj->type->name, length))
        return fail(error, ERR_INVALID_PARAMETER, "state of '%s' is of a '%.*s', not of a '%s'",
                    load->id, g_utf8_validate((const char *)c->p + 2, length, NULL) ? length : 0,
                    (const char *)c->p + 2, obj->type->name);
    c->p += 2 + length;
    return true;
}

/* One walk over an object's payload. */
static bool walk_object(Load *load, Object *obj, Cursor c, GError **error)
{
    g_autoptr(GPtrArray) types = state_types_of(obj->type);
    g_autofree Cursor *tables = g_new0(Cursor, types->len + 1);

    if (!check_type(load, obj, &c, error))
        return false;
    for (unsigned i = 0; i < types->len; i++) {
        const Type *type = types->pdata[i];

        tables[i] = c;
        if (!load_table(load, type->state, obj, type->name, &c, error))
            return false;
    }
    if (c.p != c.end)
        return fail(error, ERR_CORRUPT, "state of '%s' has more parts than are expected", load->id);
    for (unsigned i = 0; load->apply && i < types->len; i++) {
        if (!load_post(load, ((const Type *)types->pdata[i])->state, obj, tables[i], error))
            return false;
    }
    return true;
}

bool object_load_state(Object *obj, const char *id, const uint8_t *data, size_t length,
                       size_t *ret_used, GError **error)
{
    Cursor c = { data, length ? data + length : data };
    Record r;
    Load load;
    bool ok;

    if (!record_next(&c, &r, id, error))
        return false;
    if (r.kind != RECORD_OBJECT || !record_named(&r, id))
        return fail(error, ERR_CORRUPT, "state of '%s' is expected, not of '%.*s'", id,
                    (int)r.name_length, r.name);
    load_init(&load);
    load.id = id;
    ok = walk_object(&load, obj, r.payload, error);
    if (ok) {
        load.apply = true;
        ok = walk_object(&load, obj, r.payload, error);
        if (!ok)
            roll_back(&load);
    }
    load_clear(&load);
    if (ok && ret_used)
        *ret_used = c.p - data;
    return ok;
}

/* ---- trees ---- */

typedef struct Target {
    char *path;
    Object *obj;
    Cursor payload;
    bool found;
} Target;

static void clear_target(void *opaque)
{
    g_free(((Target *)opaque)->path);
}

static bool collect_target(Object *obj, void *targets)
{
    g_autoptr(GPtrArray) types = state_types_of(obj->type);

    if (obj->realized && types->len) {
        Target target = { .path = object_path(obj), .obj = obj };

        g_array_append_val((GArray *)targets, target);
    }
    return true;
}

static Target *find_target(GArray *targets, const Record *r)
{
    for (unsigned i = 0; i < targets->len; i++) {
        Target *target = &g_array_index(targets, Target, i);

        if (record_named(r, target->path))
            return target;
    }
    return NULL;
}

static bool check_magic(Cursor *c, GError **error)
{
    if (c->end - c->p < STATE_MAGIC_SIZE || memcmp(c->p, STATE_MAGIC, STATE_MAGIC_SIZE))
        return fail(error, ERR_CORRUPT, "this is not a machine's state");
    c->p += STATE_MAGIC_SIZE;
    return true;
}

/* First walk: every object there once, and nothing else; all values acceptable. */
static bool check_tree(Load *load, GArray *targets, Cursor c, GError **error)
{
    Record r;

    if (!check_magic(&c, error))
        return false;
    for (;;) {
        Target *target;

        if (!record_next(&c, &r, "machine", error))
            return false;
        if (r.kind == RECORD_END)
            break;
        target = find_target(targets, &r);
        if (r.kind != RECORD_OBJECT || !target || target->found)
            return fail(error, ERR_INVALID_PARAMETER, "the state has %s '%.*s'%s",
                        r.kind == RECORD_OBJECT ? "an object" : "a stray part",
                        (int)r.name_length, r.name,
                        target ? " twice" : ", which this machine has not");
        target->found = true;
        target->payload = r.payload;
        load->id = target->path;
        if (!walk_object(load, target->obj, r.payload, error))
            return false;
    }
    if (c.p != c.end)
        return fail(error, ERR_CORRUPT, "there is something behind the end of the state");
    for (unsigned i = 0; i < targets->len; i++) {
        const Target *target = &g_array_index(targets, Target, i);

        if (!target->found)
            return fail(error, ERR_INVALID_PARAMETER, "the state has no '%s'", target->path);
    }
    return true;
}

static bool apply_tree(Load *load, GArray *targets, GError **error)
{
    load->apply = true;
    for (unsigned i = 0; i < targets->len; i++) {
        Target *target = &g_array_index(targets, Target, i);

        load->id = target->path;
        if (!walk_object(load, target->obj, target->payload, error)) {
            roll_back(load);
            return false;
        }
    }
    return true;
}

bool tree_load_state(Object *top, const uint8_t *data, size_t length, GError **error)
{
    g_autoptr(GArray) targets = g_array_new(FALSE, FALSE, sizeof(Target));
    Load load;
    bool ok;

    g_array_set_clear_func(targets, clear_target);
    object_walk(top, collect_target, targets);
    load_init(&load);
    ok = check_tree(&load, targets, (Cursor){ data, length ? data + length : data }, error) &&
         apply_tree(&load, targets, error);
    load_clear(&load);
    return ok;
}

/* ---- for STATE_FN ---- */

static bool next_value(StateReader *r, const char *name, RecordKind kind, Record *ret,
                       GError **error)
{
    if (r->c.p == r->c.end)
        return refuse(r->load, r->field, error, "value '%s' is missing", name);
    if (!record_next(&r->c, ret, r->load->id, error))
        return false;
    if (ret->kind != kind || !record_named(ret, name))
        return refuse(r->load, r->field, error, "value '%s' is expected, not '%.*s'", name,
                      (int)ret->name_length, ret->name);
    return true;
}

bool state_get_u64(StateReader *r, const char *name, uint64_t max, uint64_t *ret, GError **error)
{
    uint8_t kind;
    uint64_t n;
    Record record;

    if (!next_value(r, name, RECORD_NUMBERS, &record, error))
        return false;
    if (!cursor_u8(&record.payload, &kind) || kind != STATE_U64 ||
        record.payload.end - record.payload.p != 8)
        return refuse(r->load, r->field, error, "value '%s' is not a u64", name);
    n = ld_le64(record.payload.p);
    if (n > max)
        return refuse(r->load, r->field, error,
                      "value '%s': %" PRIu64 " is larger than %" PRIu64, name, n, max);
    *ret = n;
    return true;
}

bool state_get_bytes(StateReader *r, const char *name, void *data, size_t capacity,
                     size_t *ret_length, GError **error)
{
    size_t length;
    Record record;

    if (!next_value(r, name, RECORD_BYTES, &record, error))
        return false;
    length = record.payload.end - record.payload.p;
    if (length > capacity)
        return refuse(r->load, r->field, error, "value '%s' has %zu bytes, more than %zu", name,
                      length, capacity);
    if (length)
        memcpy(data, record.payload.p, length);
    if (ret_length)
        *ret_length = length;
    return true;
}

#include "monitor/schema/marshal.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include "src/base/options.h"

#define SIMPLE(id, kind_, bytes_)                                                                  \
    const QmpType qmp_type_##id = { .name = #id, .kind = QMP_KIND_##kind_, .bytes = bytes_ }
SIMPLE(str, STR, 0);
SIMPLE(bool, BOOL, 0);
SIMPLE(number, NUMBER, 0);
SIMPLE(null, NULL, 0);
SIMPLE(any, ANY, 0);
SIMPLE(size, UINT, 8);
SIMPLE(int, INT, 8);
SIMPLE(int8, INT, 1);
SIMPLE(int16, INT, 2);
SIMPLE(int32, INT, 4);
SIMPLE(int64, INT, 8);
SIMPLE(uint8, UINT, 1);
SIMPLE(uint16, UINT, 2);
SIMPLE(uint32, UINT, 4);
SIMPLE(uint64, UINT, 8);

/* Where in a value the parser is; printed as a.b[2].c. */
typedef struct Path {
    const struct Path *up;
    const char *name;                      /* NULL: an array's element */
    size_t index;
    const char *what;                      /* the word for a member */
} Path;

static bool parse_value(const QmpType *type, json_object *value, const Path *path, void *place,
                        GError **error);

static void path_print(const Path *path, GString *out)
{
    if (!path->up)
        return;
    path_print(path->up, out);
    if (!path->name)
        g_string_append_printf(out, "[%zu]", path->index);
    else
        g_string_append_printf(out, "%s%s", out->len ? "." : "", path->name);
}

/* "argument 'a.b[2]'", or "arguments" for the whole. */
static char *path_text(const Path *path)
{
    g_autoptr(GString) text = g_string_new(NULL);
    path_print(path, text);
    if (!text->len)
        return g_strdup_printf("%ss", path->what);
    return g_strdup_printf("%s '%s'", path->what, text->str);
}

const char *qmp_json_kind(json_object *value)
{
    switch (json_object_get_type(value)) {
    case json_type_null:
        return "null";
    case json_type_boolean:
        return "a boolean";
    case json_type_int:
        return "an integer";
    case json_type_double:
        return "a number with a fraction";
    case json_type_string:
        return "a string";
    case json_type_array:
        return "an array";
    case json_type_object:
        return "an object";
    }
    return "something else";
}

static bool wrong_type(const Path *path, const char *expected, json_object *value, GError **error)
{
    g_autofree char *text = path_text(path);
    return fail(error, ERR_WRONG_TYPE, "%s: expected %s, found %s", text, expected,
                qmp_json_kind(value));
}

bool qmp_type_is_pointer(const QmpType *type)
{
    switch (type->kind) {
    case QMP_KIND_BOOL:
    case QMP_KIND_NUMBER:
    case QMP_KIND_INT:
    case QMP_KIND_UINT:
    case QMP_KIND_ENUM:
        return false;
    default:
        return true;
    }
}

static size_t scalar_size(const QmpType *type)
{
    switch (type->kind) {
    case QMP_KIND_BOOL:
        return sizeof(bool);
    case QMP_KIND_NUMBER:
        return sizeof(double);
    case QMP_KIND_ENUM:
        return sizeof(int);
    default:
        return type->bytes;
    }
}

static void free_json(void *value)
{
    json_object_put(value);
}

static void free_array(void *array)
{
    g_ptr_array_unref(array);
}

void *qmp_array_new(const QmpType *element)
{
    if (!qmp_type_is_pointer(element))
        return g_array_new(FALSE, TRUE, scalar_size(element));
    switch (element->kind) {
    case QMP_KIND_STR:
        return g_ptr_array_new_with_free_func(g_free);
    case QMP_KIND_ANY:
    case QMP_KIND_NULL:
        return g_ptr_array_new_with_free_func(free_json);
    case QMP_KIND_ARRAY:
        return g_ptr_array_new_with_free_func(
            qmp_type_is_pointer(element->element) ? free_array : (GDestroyNotify)g_array_unref);
    default:
        return g_ptr_array_new_with_free_func(element->free);
    }
}

/* Parsing. */

static bool parse_str(json_object *value, const Path *path, char **place, GError **error)
{
    if (!json_object_is_type(value, json_type_string))
        return wrong_type(path, "a string", value, error);
    const char *text = json_object_get_string(value);
    if (strlen(text) != (size_t)json_object_get_string_len(value)) {
        g_autofree char *where = path_text(path);
        return fail(error, ERR_INVALID_PARAMETER, "%s: the string contains a NUL character", where);
    }
    *place = g_strdup(text);
    return true;
}

static void store_int(const QmpType *type, uint64_t value, void *place)
{
    switch (type->bytes) {
    case 1:
        *(uint8_t *)place = value;
        break;
    case 2:
        *(uint16_t *)place = value;
        break;
    case 4:
        *(uint32_t *)place = value;
        break;
    default:
        *(uint64_t *)place = value;
    }
}

static uint64_t load_uint(const QmpType *type, const void *place)
{
    switch (type->bytes) {
    case 1:
        return *(const uint8_t *)place;
    case 2:
        return *(const uint16_t *)place;
    case 4:
        return *(const uint32_t *)place;
    default:
        return *(const uint64_t *)place;
    }
}

static int64_t load_int(const QmpType *type, const void *place)
{
    switch (type->bytes) {
    case 1:
        return *(const int8_t *)place;
    case 2:
        return *(const int16_t *)place;
    case 4:
        return *(const int32_t *)place;
    default:
        return *(const int64_t *)place;
    }
}

static bool parse_int(const QmpType *type, json_object *value, const Path *path, void *place,
                      GError **error)
{
    if (!json_object_is_type(value, json_type_int))
        return wrong_type(path, "an integer", value, error);
    unsigned bits = type->bytes * 8;
    int64_t as_signed = json_object_get_int64(value);
    uint64_t as_unsigned = json_object_get_uint64(value);
    if (type->kind == QMP_KIND_UINT) {
        uint64_t max = UINT64_MAX >> (64 - bits);
        if (as_signed >= 0 && as_unsigned <= max) {
            store_int(type, as_unsigned, place);
            return true;
        }
        g_autofree char *where = path_text(path);
        return fail(error, ERR_INVALID_PARAMETER, "%s: %s is not in the range 0 to %" PRIu64, where,
                    json_object_get_string(value), max);
    }
    int64_t max = INT64_MAX >> (64 - bits);
    bool too_large = as_signed >= 0 && as_unsigned > (uint64_t)max;
    if (!too_large && as_signed >= -max - 1) {
        store_int(type, as_signed, place);
        return true;
    }
    g_autofree char *where = path_text(path);
    return fail(error, ERR_INVALID_PARAMETER, "%s: %s is not in the range %" PRId64 " to %" PRId64,
                where, json_object_get_string(value), -max - 1, max);
}

static bool parse_enum(const QmpType *type, json_object *value, const Path *path, int *place,
                       GError **error)
{
    if (!json_object_is_type(value, json_type_string))
        return wrong_type(path, "a string", value, error);
    const char *word = json_object_get_string(value);
    for (int i = 0; type->words[i]; i++) {
        if (!strcmp(type->words[i], word)) {
            *place = i;
            return true;
        }
    }
    g_autofree char *where = path_text(path);
    g_autofree char *all = g_strjoinv(", ", (char **)type->words);
    fail(error, ERR_INVALID_PARAMETER, "%s: '%s' is not one of: %s", where, word, all);
    const char *near = nearest_word(word, type->words);
    return near ? error_hint(error, "did you mean '%s'?", near) : false;
}

static bool parse_array(const QmpType *type, json_object *value, const Path *path, void **place,
                        GError **error)
{
    if (!json_object_is_type(value, json_type_array))
        return wrong_type(path, "an array", value, error);
    void *array = qmp_array_new(type->element);
    bool pointers = qmp_type_is_pointer(type->element);
    for (size_t i = 0; i < json_object_array_length(value); i++) {
        Path at = { .up = path, .index = i, .what = path->what };
        void *element = NULL;
        uint64_t scalar = 0;
        if (!parse_value(type->element, json_object_array_get_idx(value, i), &at,
                         pointers ? (void *)&element : (void *)&scalar, error)) {
            qmp_clear(type, &array);
            return false;
        }
        if (pointers)
            g_ptr_array_add(array, element);
        else
            g_array_append_vals(array, &scalar, 1);
    }
    *place = array;
    return true;
}

static bool parse_member(const QmpMember *member, json_object *object, const Path *path, void *data,
                         GError **error)
{
    json_object *value;
    Path at = { .up = path, .name = member->name, .what = path->what };
    if (!json_object_object_get_ex(object, member->name, &value)) {
        if (member->optional)
            return true;
        g_autofree char *where = path_text(&at);
        return fail(error, ERR_MISSING_PARAMETER, "%s is missing", where);
    }
    if (!parse_value(member->type, value, &at, (char *)data + member->offset, error))
        return false;
    if (member->has_offset)
        *(bool *)((char *)data + member->has_offset) = true;
    return true;
}

static const QmpType *union_branch(const QmpType *type, const void *data)
{
    if (!type->tag)
        return NULL;
    return type->branches[*(const int *)((const char *)data + type->tag->offset)];
}

static bool has_member(const QmpType *type, const char *name)
{
    for (const QmpMember *m = type ? type->members : NULL; m && m->name; m++) {
        if (!strcmp(m->name, name))
            return true;
    }
    return false;
}

/* Unions nest: a branch may be a union itself, whose members are in the same object. */
static bool knows_member(const QmpType *type, const void *data, const char *name)
{
    while (type) {
        if (type->open || has_member(type, name))
            return true;
        const QmpType *branch = union_branch(type, data);
        if (branch)
            data = *(void *const *)((const char *)data + type->u_offset);
        type = branch;
    }
    return false;
}

static bool unknown_member(const QmpType *type, const void *data, const char *name, const Path *path,
                           GError **error)
{
    Path at = { .up = path, .name = name, .what = path->what };
    g_autofree char *where = path_text(&at);
    g_autoptr(GPtrArray) known = g_ptr_array_new();
    while (type) {
        for (const QmpMember *m = type->members; m && m->name; m++)
            g_ptr_array_add(known, (char *)m->name);
        const QmpType *branch = union_branch(type, data);
        if (branch)
            data = *(void *const *)((const char *)data + type->u_offset);
        type = branch;
    }
    g_ptr_array_add(known, NULL);
    fail(error, ERR_UNKNOWN_PARAMETER, "unknown %s", where);
    const char *near = nearest_word(name, (const char *const *)known->pdata);
    return near ? error_hint(error, "did you mean '%s'?", near) : false;
}

/* The members of @type and of its branch, into zeroed @data.  What is there on failure is freed by
 * the caller. */
static bool parse_members(const QmpType *type, json_object *object, const Path *path, void *data,
                          GError **error)
{
    for (const QmpMember *m = type->members; m && m->name; m++) {
        if (!parse_member(m, object, path, data, error))
            return false;
    }
    const QmpType *branch = union_branch(type, data);
    if (!branch)
        return true;
    void **place = (void **)((char *)data + type->u_offset);
    *place = g_malloc0(branch->size);
    return parse_members(branch, object, path, *place, error);
}

static bool parse_struct(const QmpType *type, json_object *value, const Path *path, void *data,
                         GError **error)
{
    if (!json_object_is_type(value, json_type_object))
        return wrong_type(path, "an object", value, error);
    bool ok = parse_members(type, value, path, data, error);
    if (ok) {
        json_object_object_foreach(value, name, member)
        {
            (void)member;
            if (!knows_member(type, data, name)) {
                ok = unknown_member(type, data, name, path, error);
                break;
            }
        }
    }
    if (!ok)
        qmp_clear_struct(type, data);
    return ok;
}

static bool json_fits(const QmpType *type, json_object *value)
{
    switch (json_object_get_type(value)) {
    case json_type_null:
        return type->kind == QMP_KIND_NULL || type->kind == QMP_KIND_ANY;
    case json_type_boolean:
        return type->kind == QMP_KIND_BOOL || type->kind == QMP_KIND_ANY;
    case json_type_double:
        return type->kind == QMP_KIND_NUMBER || type->kind == QMP_KIND_ANY;
    case json_type_int:
        return type->kind == QMP_KIND_INT || type->kind == QMP_KIND_UINT ||
               type->kind == QMP_KIND_NUMBER || type->kind == QMP_KIND_ANY;
    case json_type_string:
        return type->kind == QMP_KIND_STR || type->kind == QMP_KIND_ENUM ||
               type->kind == QMP_KIND_ANY;
    case json_type_array:
        return type->kind == QMP_KIND_ARRAY || type->kind == QMP_KIND_ANY;
    case json_type_object:
        return type->kind == QMP_KIND_STRUCT || type->kind == QMP_KIND_ANY;
    }
    return false;
}

static const char *kind_words(const QmpType *type)
{
    switch (type->kind) {
    case QMP_KIND_STR:
    case QMP_KIND_ENUM:
        return "a string";
    case QMP_KIND_BOOL:
        return "a boolean";
    case QMP_KIND_NUMBER:
        return "a number";
    case QMP_KIND_NULL:
        return "null";
    case QMP_KIND_INT:
    case QMP_KIND_UINT:
        return "an integer";
    case QMP_KIND_ARRAY:
        return "an array";
    default:
        return "an object";
    }
}

static bool parse_alternate(const QmpType *type, json_object *value, const Path *path, void **place,
                            GError **error)
{
    g_autoptr(GString) expected = g_string_new(NULL);
    for (int i = 0; type->branches[i]; i++) {
        if (!json_fits(type->branches[i], value)) {
            g_string_append_printf(expected, "%s%s", i ? " or " : "", kind_words(type->branches[i]));
            continue;
        }
        char *data = g_malloc0(type->size);
        *(int *)data = i;
        if (!parse_value(type->branches[i], value, path, data + type->u_offset, error)) {
            g_free(data);
            return false;
        }
        *place = data;
        return true;
    }
    return wrong_type(path, expected->str, value, error);
}

static bool parse_value(const QmpType *type, json_object *value, const Path *path, void *place,
                        GError **error)
{
    switch (type->kind) {
    case QMP_KIND_STR:
        return parse_str(value, path, place, error);
    case QMP_KIND_BOOL:
        if (!json_object_is_type(value, json_type_boolean))
            return wrong_type(path, "a boolean", value, error);
        *(bool *)place = json_object_get_boolean(value);
        return true;
    case QMP_KIND_NUMBER:
        if (!json_fits(type, value))
            return wrong_type(path, "a number", value, error);
        *(double *)place = json_object_get_double(value);
        return true;
    case QMP_KIND_NULL:
        return value ? wrong_type(path, "null", value, error) : true;
    case QMP_KIND_ANY:
        *(json_object **)place = json_object_get(value);
        return true;
    case QMP_KIND_INT:
    case QMP_KIND_UINT:
        return parse_int(type, value, path, place, error);
    case QMP_KIND_ENUM:
        return parse_enum(type, value, path, place, error);
    case QMP_KIND_ARRAY:
        return parse_array(type, value, path, place, error);
    case QMP_KIND_ALTERNATE:
        return parse_alternate(type, value, path, place, error);
    case QMP_KIND_STRUCT:
        break;
    }
    void *data = g_malloc0(type->size);
    if (!parse_struct(type, value, path, data, error)) {
        g_free(data);
        return false;
    }
    *(void **)place = data;
    return true;
}

bool qmp_parse(const QmpType *type, json_object *value, const char *what, void *place,
               GError **error)
{
    return parse_value(type, value, &(Path){ .what = what }, place, error);
}

bool qmp_parse_struct(const QmpType *type, json_object *value, const char *what, void *data,
                      GError **error)
{
    return parse_struct(type, value, &(Path){ .what = what }, data, error);
}

/* Building. */

/* JSON text is UTF-8; names and paths of the host need not be. */
static json_object *build_str(const char *text)
{
    if (!text)
        return json_object_new_string("");
    if (g_utf8_validate(text, -1, NULL))
        return json_object_new_string(text);
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    return json_object_new_string(valid);
}

static json_object *build_array(const QmpType *type, const void *array)
{
    json_object *result = json_object_new_array();
    if (!array)
        return result;
    if (qmp_type_is_pointer(type->element)) {
        const GPtrArray *pointers = array;
        for (guint i = 0; i < pointers->len; i++)
            json_object_array_add(result, qmp_build(type->element, &pointers->pdata[i]));
        return result;
    }
    const GArray *scalars = array;
    size_t size = scalar_size(type->element);
    for (guint i = 0; i < scalars->len; i++)
        json_object_array_add(result, qmp_build(type->element, scalars->data + i * size));
    return result;
}

static bool member_present(const QmpMember *member, const void *data)
{
    if (member->has_offset)
        return *(const bool *)((const char *)data + member->has_offset);
    if (!member->optional)
        return true;
    return *(void *const *)((const char *)data + member->offset) != NULL;
}

static void build_members(const QmpType *type, const void *data, json_object *into)
{
    for (const QmpMember *m = type->members; m && m->name; m++) {
        if (member_present(m, data))
            json_object_object_add(into, m->name,
                                   qmp_build(m->type, (const char *)data + m->offset));
    }
    const QmpType *branch = union_branch(type, data);
    const void *inner = branch ? *(void *const *)((const char *)data + type->u_offset) : NULL;
    if (inner)
        build_members(branch, inner, into);
}

json_object *qmp_build_struct(const QmpType *type, const void *data)
{
    json_object *result = json_object_new_object();
    if (data)
        build_members(type, data, result);
    return result;
}

/* JSON has no infinities: a number that is none is null. */
static json_object *build_number(double number)
{
    return isfinite(number) ? json_object_new_double(number) : NULL;
}

json_object *qmp_build(const QmpType *type, const void *place)
{
    switch (type->kind) {
    case QMP_KIND_STR:
        return build_str(*(char *const *)place);
    case QMP_KIND_BOOL:
        return json_object_new_boolean(*(const bool *)place);
    case QMP_KIND_NUMBER:
        return build_number(*(const double *)place);
    case QMP_KIND_NULL:
        return NULL;
    case QMP_KIND_ANY:
        return json_object_get(*(json_object *const *)place);
    case QMP_KIND_INT:
        return json_object_new_int64(load_int(type, place));
    case QMP_KIND_UINT:
        return json_object_new_uint64(load_uint(type, place));
    case QMP_KIND_ENUM:
        return json_object_new_string(type->words[*(const int *)place]);
    case QMP_KIND_ARRAY:
        return build_array(type, *(void *const *)place);
    case QMP_KIND_ALTERNATE: {
        const char *data = *(void *const *)place;
        return data ? qmp_build(type->branches[*(const int *)data], data + type->u_offset) : NULL;
    }
    case QMP_KIND_STRUCT:
        break;
    }
    return qmp_build_struct(type, *(void *const *)place);
}

/* Freeing. */

void qmp_clear_struct(const QmpType *type, void *data)
{
    if (type->kind == QMP_KIND_ALTERNATE) {
        qmp_clear(type->branches[*(int *)data], (char *)data + type->u_offset);
        return;
    }
    const QmpType *branch = union_branch(type, data);
    if (branch) {
        void **inner = (void **)((char *)data + type->u_offset);
        if (*inner)
            qmp_clear_struct(branch, *inner);
        g_clear_pointer(inner, g_free);
    }
    for (const QmpMember *m = type->members; m && m->name; m++)
        qmp_clear(m->type, (char *)data + m->offset);
}

void qmp_clear(const QmpType *type, void *place)
{
    if (!qmp_type_is_pointer(type))
        return;
    void **pointer = place;
    if (!*pointer)
        return;
    switch (type->kind) {
    case QMP_KIND_STR:
        g_free(*pointer);
        break;
    case QMP_KIND_ANY:
    case QMP_KIND_NULL:
        json_object_put(*pointer);
        break;
    case QMP_KIND_ARRAY:
        if (qmp_type_is_pointer(type->element))
            g_ptr_array_unref(*pointer);
        else
            g_array_unref(*pointer);
        break;
    default:
        qmp_clear_struct(type, *pointer);
        g_free(*pointer);
    }
    *pointer = NULL;
}

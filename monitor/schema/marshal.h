/*
 * Values of the QMP schema's types in C, and their way from and to JSON.  The generator writes a
 * struct, an enum and a QmpType descriptor for each type (schema/types.h); what is here walks the
 * descriptors: parsing with exact errors, building JSON, freeing.  query-qmp-schema is read from
 * the same descriptors.
 *
 * In C a string is a `char *`; structs, unions and alternates are pointers; an array is a GPtrArray
 * of pointers, or a GArray of numbers, bools or enums.  An optional pointer is NULL when absent;
 * other optional members have a flag has_NAME.
 *
 * Thread: any; nothing here is shared.
 */
#pragma once
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>
#include "src/base/error.h"

typedef struct QmpType QmpType;

typedef enum QmpKind {
    QMP_KIND_STR, QMP_KIND_BOOL, QMP_KIND_NUMBER, QMP_KIND_NULL, QMP_KIND_ANY, QMP_KIND_INT,
    QMP_KIND_UINT, QMP_KIND_ENUM, QMP_KIND_ARRAY, QMP_KIND_STRUCT, QMP_KIND_ALTERNATE
} QmpKind;

typedef struct QmpMember {
    const char *name;                      /* NULL: end of the table */
    const QmpType *type;
    const char *const *features;           /* NULL-ended; NULL: none */
    uint16_t offset;
    uint16_t has_offset;                   /* of has_NAME; 0: a pointer, or mandatory */
    bool optional;
} QmpMember;

struct QmpType {
    const char *name;                      /* as in the schema */
    QmpKind kind;
    uint8_t bytes;                         /* integers: 1, 2, 4, 8 */
    bool open;                             /* structs: other members may be there, too */
    uint16_t size;                         /* structs, unions, alternates: sizeof */
    const QmpMember *members;              /* structs and unions */
    const char *const *words;              /* enums; NULL-ended */
    const QmpType *element;                /* arrays */
    /* Unions: the branch of each value of the tag, NULL where it has no members.  Alternates: the
     * branches in order, ended by NULL; the struct's first member is the int index of the one. */
    const QmpType *const *branches;
    const QmpMember *tag;                  /* unions */
    uint16_t u_offset;                     /* unions, alternates: where the branch is */
    const char *const *features;
    void (*free)(void *value);             /* structs, unions, alternates */
};

extern const QmpType qmp_type_str, qmp_type_bool, qmp_type_number, qmp_type_null, qmp_type_any,
    qmp_type_size, qmp_type_int, qmp_type_int8, qmp_type_int16, qmp_type_int32, qmp_type_int64,
    qmp_type_uint8, qmp_type_uint16, qmp_type_uint32, qmp_type_uint64;

/* Parses @value into the C variable at @place (a `char **`, a `QmpFoo **`, an `int64_t *`, …), which
 * is untouched on failure.  @what is the word for a member in errors: "argument". */
bool qmp_parse(const QmpType *type, json_object *value, const char *what, void *place,
               GError **error);
/* The same for a struct whose memory the caller has zeroed. */
bool qmp_parse_struct(const QmpType *type, json_object *value, const char *what, void *data,
                      GError **error);

/* The JSON of the C variable at @place; of a struct. */
json_object *qmp_build(const QmpType *type, const void *place);
json_object *qmp_build_struct(const QmpType *type, const void *data);

/* Frees what the variable at @place owns; what a struct owns, without the struct itself. */
void qmp_clear(const QmpType *type, void *place);
void qmp_clear_struct(const QmpType *type, void *data);

/* A new array for elements of @element: a GPtrArray that frees them, or a GArray. */
void *qmp_array_new(const QmpType *element);
bool qmp_type_is_pointer(const QmpType *type);

/* What kind of JSON value it is, for errors: "a string", "null". */
const char *qmp_json_kind(json_object *value);

/* An event of the schema. */
typedef struct QmpEventInfo {
    const char *name;                      /* NULL: end of the table */
    const QmpType *data;                   /* NULL: none */
    const char *const *features;
    unsigned rate_ms;                      /* at most one in this time; 0: no limit */
    const char *rate_key;                  /* … for each value of this member; NULL: one for all */
} QmpEventInfo;
extern const QmpEventInfo qmp_events[];    /* sorted by name */

/* The state stream's records (docs/state-format.md), for its writer, reader and dumper. */
#pragma once
#include "src/object/state.h"
#include "src/object/type.h"

#define STATE_MAGIC "VIREOST1"
#define STATE_MAGIC_SIZE 8

typedef enum RecordKind {
    RECORD_OBJECT = 'O',                   /* name: id; payload: the type's name, then TABLEs */
    RECORD_TABLE = 'T',                    /* name: the type's; payload: u32 version, fields */
    RECORD_NUMBERS = 'N',                  /* payload: u8 StateKind, values */
    RECORD_BYTES = 'B',                    /* payload: the bytes */
    RECORD_STRUCTS = 'S',                  /* payload: a TABLE without a name for each element */
    RECORD_FN = 'F',                       /* payload: NUMBERS and BYTES */
    RECORD_END = 'Z'                       /* of a tree; no payload */
} RecordKind;

typedef struct Cursor {
    const uint8_t *p, *end;
} Cursor;

typedef struct Record {
    RecordKind kind;
    const char *name;                      /* not ended by a NUL */
    unsigned name_length;
    Cursor payload;
} Record;

/* False with an error that begins with @where if the stream is cut off or not a record. */
bool record_next(Cursor *c, Record *ret, const char *where, GError **error);
bool record_named(const Record *r, const char *name);
bool cursor_u8(Cursor *c, uint8_t *ret);
bool cursor_u32(Cursor *c, uint32_t *ret);

/* Numbers are little-endian in the stream.  @size: 1, 2, 4, 8. */
unsigned state_kind_size(StateKind kind);              /* 0: not a number */
const char *state_kind_name(StateKind kind);
bool state_kind_signed(StateKind kind);
uint64_t number_decode(const uint8_t *p, StateKind kind);       /* sign-extended */
uint64_t number_from_memory(const void *p, StateKind kind);     /* sign-extended */
void number_to_memory(void *p, StateKind kind, uint64_t value);

/* The types of an object that have a state table, parents first. */
GPtrArray *state_types_of(const Type *type);

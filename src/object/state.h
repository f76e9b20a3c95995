/*
 * State tables: the fields of a device that the guest can see and a migration or a saved state
 * carries.  The engine (state.c) writes a self-describing stream: each field with its name and
 * kind, so that a mismatch is reported as "device X, field Y: source has …, expected …".
 *
 *     static const StateField pvpanic_fields[] = {
 *         FIELD(Pvpanic, last, .max = 3),
 *         FIELD(Pvpanic, count, .since = 2),
 *         FIELD_ARRAY(Foo, regs),             // a fixed C array of numbers
 *         FIELD_BYTES(Foo, cmos),             // uint8_t[N], sent as one block
 *         FIELD_BUFFER(Foo, fifo, fifo_len),  // uint8_t *: first fifo_len bytes (u32, capacity .max)
 *         FIELD_STRUCT(Foo, timer, timer_state),
 *         FIELD_STRUCTS(Foo, channels, channel_state),   // a fixed array of structs
 *         FIELD_FN(Foo, "ring", ring_save, ring_load),   // what no table can say
 *         {}
 *     };
 *     static const StateTable pvpanic_state = { .version = 2, .fields = pvpanic_fields };
 *
 * Numbers out of .min … .max are refused on load.  A field newer than the stream keeps its reset
 * value.  Nothing of the object is changed unless the whole table was read and checked: loading goes
 * to a copy of the fields first, then post_load validates what ranges cannot say.
 */
#pragma once
#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct StateField StateField;
typedef struct StateTable StateTable;
typedef struct StateWriter StateWriter;
typedef struct StateReader StateReader;

typedef enum StateKind {
    STATE_END, STATE_BOOL, STATE_U8, STATE_U16, STATE_U32, STATE_U64, STATE_I32, STATE_I64,
    STATE_BYTES, STATE_BUFFER, STATE_STRUCT, STATE_FN
} StateKind;

struct StateField {
    const char *name;
    StateKind kind;
    size_t offset, size;                   /* size: of one element */
    uint32_t count;                        /* elements; 1: a scalar */
    size_t length_offset;                  /* STATE_BUFFER: where its uint32_t length is */
    uint32_t since;                        /* first version that has it; 0 = 1 */
    uint64_t min, max;                     /* both 0: the kind's range.  Signed kinds: cast */
    const StateTable *table;               /* STATE_STRUCT */
    bool (*needed)(void *obj);             /* sent only if true; absent: reset value stays */
    void (*save)(void *obj, StateWriter *w);                    /* STATE_FN */
    bool (*load)(void *obj, StateReader *r, GError **error);
};

struct StateTable {
    uint32_t version;                      /* what this build writes; 0 = 1 */
    uint32_t min_version;                  /* oldest it reads; 0 = 1 */
    const StateField *fields;
    void (*pre_save)(void *obj);
    bool (*pre_load)(void *obj, GError **error);
    bool (*post_load)(void *obj, uint32_t version, GError **error);
};

#define STATE_KIND_OF(lvalue)                                                                      \
    _Generic((lvalue), bool: STATE_BOOL, uint8_t: STATE_U8, uint16_t: STATE_U16,                   \
             uint32_t: STATE_U32, uint64_t: STATE_U64, int32_t: STATE_I32, int64_t: STATE_I64)
#define FIELD(T, member, ...)                                                                      \
    { .name = #member, .kind = STATE_KIND_OF(((T *)0)->member), .offset = offsetof(T, member),     \
      .size = sizeof(((T *)0)->member), .count = 1, ##__VA_ARGS__ }
#define FIELD_ARRAY(T, member, ...)                                                                \
    { .name = #member, .kind = STATE_KIND_OF(((T *)0)->member[0]), .offset = offsetof(T, member),  \
      .size = sizeof(((T *)0)->member[0]), .count = G_N_ELEMENTS(((T *)0)->member), ##__VA_ARGS__ }
#define FIELD_BYTES(T, member, ...)                                                                \
    { .name = #member, .kind = STATE_BYTES, .offset = offsetof(T, member),                         \
      .size = sizeof(((T *)0)->member), .count = 1, ##__VA_ARGS__ }
#define FIELD_BUFFER(T, member, len_member, ...)                                                   \
    { .name = #member, .kind = STATE_BUFFER, .offset = offsetof(T, member), .count = 1,            \
      .length_offset = offsetof(T, len_member), ##__VA_ARGS__ }
#define FIELD_STRUCT(T, member, table_, ...)                                                       \
    { .name = #member, .kind = STATE_STRUCT, .offset = offsetof(T, member),                        \
      .size = sizeof(((T *)0)->member), .count = 1, .table = &(table_), ##__VA_ARGS__ }
#define FIELD_STRUCTS(T, member, table_, ...)                                                      \
    { .name = #member, .kind = STATE_STRUCT, .offset = offsetof(T, member),                        \
      .size = sizeof(((T *)0)->member[0]), .count = G_N_ELEMENTS(((T *)0)->member),                \
      .table = &(table_), ##__VA_ARGS__ }
#define FIELD_FN(T, name_, save_, load_, ...)                                                      \
    { .name = (name_), .kind = STATE_FN, .count = 1, .save = (save_), .load = (load_), ##__VA_ARGS__ }

/* For STATE_FN: values in a stream, each with a name of its own. */
void state_put_u64(StateWriter *w, const char *name, uint64_t value);
void state_put_bytes(StateWriter *w, const char *name, const void *data, size_t length);
bool state_get_u64(StateReader *r, const char *name, uint64_t max, uint64_t *ret, GError **error);
/* Into a buffer of @capacity; *ret_length is what was there. */
bool state_get_bytes(StateReader *r, const char *name, void *data, size_t capacity,
                     size_t *ret_length, GError **error);

typedef struct Object Object;
/* One object: its type's tables, parents first.  Under the VM lock.  The blob names @id. */
void object_save_state(Object *obj, const char *id, GByteArray *out);
bool object_load_state(Object *obj, const char *id, const uint8_t *data, size_t length,
                       size_t *ret_used, GError **error);
/* A subtree: every realized object with state, in tree order; load refuses missing and extra ones. */
void tree_save_state(Object *top, GByteArray *out);
bool tree_load_state(Object *top, const uint8_t *data, size_t length, GError **error);
/* For people and comparison: {"/machine/peripheral/x": {"field": value, …}, …}. */
json_object *state_dump(const uint8_t *data, size_t length, GError **error);

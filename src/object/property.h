/*
 * Property tables: what a user may set on an object and read back from it.
 *
 *     static const Property rng_props[] = {
 *         PROP("max-bytes", VirtioRng, max_bytes, .def.u = INT64_MAX, .help = "bytes in a period"),
 *         PROP_LINK("rng", VirtioRng, backend, "rng-backend", .help = "source of entropy"),
 *         {}
 *     };
 *
 * The kind follows from the member's C type; PROP_OF names one (a size, an enum, a kind that
 * another floor defines, such as a block node).  A kind is a struct of functions, so that a new kind
 * needs no change here.  Values come as json_object: typed, or a string still to be parsed.
 */
#pragma once
#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "src/base/error.h"

typedef struct Object Object;
typedef struct Property Property;
typedef struct PropertyKind PropertyKind;

struct PropertyKind {
    const char *name;                      /* as QOM and -device X,help show it: "bool", "uint32" */
    bool (*set)(Object *obj, const Property *prop, json_object *value, GError **error);
    json_object *(*get)(Object *obj, const Property *prop);        /* new reference; NULL: null */
    void (*release)(Object *obj, const Property *prop);            /* at finalize; may be NULL */
    void (*set_default)(Object *obj, const Property *prop);        /* may be NULL: memory is zero */
};

struct Property {
    const char *name;
    const PropertyKind *kind;
    size_t offset;
    const char *help;
    union {
        bool b;
        uint64_t u;
        int64_t i;
        const char *s;
    } def;
    uint64_t min, max;                     /* numbers; both 0: the kind's own range */
    const char *const *words;              /* enums: the word of each value; NULL-ended */
    const char *link_type;                 /* links: the type that is asked for */
    uint8_t bit;                           /* PROP_BIT: which */
    bool read_only;                        /* from outside; has no default */
    bool runtime;                          /* may be set after realize (others are refused then) */
    /* Computed properties (kind prop_fn): read and, unless NULL, write. */
    json_object *(*get)(Object *obj, const Property *prop);
    bool (*set)(Object *obj, const Property *prop, json_object *value, GError **error);
    void (*changed)(Object *obj);          /* after a set at run time; may be NULL */
};

extern const PropertyKind prop_bool, prop_u8, prop_u16, prop_u32, prop_u64, prop_i32, prop_i64;
extern const PropertyKind prop_size;       /* uint64_t; "64K", "1.5G" */
extern const PropertyKind prop_size32;     /* uint32_t */
extern const PropertyKind prop_str;        /* char *, owned by the object; NULL: unset */
extern const PropertyKind prop_enum;       /* int; .words */
extern const PropertyKind prop_on_off_auto;/* OnOffAuto */
extern const PropertyKind prop_bit32, prop_bit64; /* one bit of a uint32_t/uint64_t, shown as bool */
extern const PropertyKind prop_link;       /* Object *, counted; set by id or path; .link_type */
extern const PropertyKind prop_uuid;       /* uint8_t[16], big-endian as text reads; "auto" makes one */
extern const PropertyKind prop_mac;        /* uint8_t[6] */
extern const PropertyKind prop_fn;         /* no storage: get and set above */

typedef enum OnOffAuto { ON_OFF_AUTO, ON_OFF_ON, ON_OFF_OFF } OnOffAuto;

#define PROP_KIND_OF(lvalue)                                                                       \
    _Generic((lvalue), bool: &prop_bool, uint8_t: &prop_u8, uint16_t: &prop_u16,                   \
             uint32_t: &prop_u32, uint64_t: &prop_u64, int32_t: &prop_i32, int64_t: &prop_i64,     \
             char *: &prop_str)

#define PROP(name_, T, member, ...)                                                                \
    { .name = (name_), .kind = PROP_KIND_OF(((T *)0)->member), .offset = offsetof(T, member),      \
      ##__VA_ARGS__ }
#define PROP_OF(name_, T, member, kind_, ...)                                                      \
    { .name = (name_), .kind = &(kind_), .offset = offsetof(T, member), ##__VA_ARGS__ }
#define PROP_BIT(name_, T, member, bit_, on_, ...)                                                 \
    { .name = (name_),                                                                             \
      .kind = sizeof(((T *)0)->member) == 8 ? &prop_bit64 : &prop_bit32,                           \
      .offset = offsetof(T, member), .bit = (bit_), .def.b = (on_), ##__VA_ARGS__ }
#define PROP_LINK(name_, T, member, type_, ...)                                                    \
    { .name = (name_), .kind = &prop_link, .offset = offsetof(T, member), .link_type = (type_),    \
      ##__VA_ARGS__ }
#define PROP_FN(name_, get_, set_, ...)                                                            \
    { .name = (name_), .kind = &prop_fn, .get = (get_), .set = (set_), ##__VA_ARGS__ }

/* For a kind's set function.  property_what: "property 'queue-size' of 'virtio-blk-pci'", the type
 * as the user knows it; g_free.  (An error that does not begin so is given this prefix.)
 * property_fail: sets the error "WHAT: TEXT", returns false.
 * property_str: the value's text; false with an error if it is no string. */
char *property_what(const Object *obj, const Property *prop);
bool property_fail(const Object *obj, const Property *prop, GError **error, ErrorCode code,
                   const char *format, ...) G_GNUC_PRINTF(5, 6);
bool property_str(const Object *obj, const Property *prop, json_object *value, const char **ret,
                  GError **error);

/* "00112233-4455-6677-8899-aabbccddeeff", or "auto" for a random one. */
bool parse_uuid(const char *text, uint8_t uuid[16], GError **error);

static inline void *property_ptr(Object *obj, const Property *prop)
{
    return (char *)obj + prop->offset;
}

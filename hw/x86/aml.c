/* The builder of ACPI machine language. */
#include "hw/x86/aml.h"
#include <string.h>
#include "src/base/util.h"

enum {
    OP_ZERO = 0x00, OP_ONE = 0x01, OP_NAME = 0x08, OP_BYTE = 0x0a, OP_WORD = 0x0b, OP_DWORD = 0x0c,
    OP_STRING = 0x0d, OP_QWORD = 0x0e, OP_SCOPE = 0x10, OP_BUFFER = 0x11, OP_PACKAGE = 0x12,
    OP_METHOD = 0x14, OP_DUAL_NAME = 0x2e, OP_MULTI_NAME = 0x2f, OP_EXT = 0x5b, OP_LOCAL0 = 0x60,
    OP_ARG0 = 0x68, OP_IF = 0xa0, OP_ELSE = 0xa1, OP_ONES = 0xff,
};
enum { EXT_REGION = 0x80, EXT_FIELD = 0x81, EXT_DEVICE = 0x82 };
#define MAX_DEPTH 16

/* An open block: where its length goes; resource buffers also get their size there. */
typedef struct Block {
    guint at;
    bool resources;
} Block;

struct Aml {
    GByteArray *bytes;
    Block blocks[MAX_DEPTH];
    unsigned depth;
};

Aml *aml_new(void)
{
    Aml *a = g_new0(Aml, 1);

    a->bytes = g_byte_array_new();
    return a;
}

void aml_free(Aml *a)
{
    if (!a)
        return;
    g_byte_array_unref(a->bytes);
    g_free(a);
}

const GByteArray *aml_bytes(const Aml *a)
{
    g_return_val_if_fail(a->depth == 0, NULL);
    return a->bytes;
}

/* ---- bytes ---- */

static void put(Aml *a, const void *data, guint length)
{
    g_byte_array_append(a->bytes, data, length);
}

static void put8(Aml *a, uint8_t value)
{
    put(a, &value, 1);
}

static void put16(Aml *a, uint16_t value)
{
    uint8_t le[2];

    st_le16(le, value);
    put(a, le, sizeof(le));
}

static void put32(Aml *a, uint32_t value)
{
    uint8_t le[4];

    st_le32(le, value);
    put(a, le, sizeof(le));
}

static void put64(Aml *a, uint64_t value)
{
    uint8_t le[8];

    st_le64(le, value);
    put(a, le, sizeof(le));
}

static void insert(Aml *a, guint at, const uint8_t *data, guint length)
{
    guint tail = a->bytes->len - at;

    g_byte_array_set_size(a->bytes, a->bytes->len + length);
    memmove(a->bytes->data + at + length, a->bytes->data + at, tail);
    memcpy(a->bytes->data + at, data, length);
}

/* PkgLength (20.2.4) of @length bytes; they are counted with it when it @includes itself. */
static guint encode_length(uint8_t out[4], guint length, bool includes)
{
    guint n = 1;

    while (n < 4 && length + (includes ? n : 0) >= (n == 1 ? 1u << 6 : 1u << (8 * n - 4)))
        n++;
    length += includes ? n : 0;
    if (n == 1) {
        out[0] = length;
        return 1;
    }
    out[0] = (n - 1) << 6 | (length & 0x0f);
    for (guint i = 1; i < n; i++)
        out[i] = length >> (8 * i - 4);
    return n;
}

/* ---- blocks ---- */

static void begin(Aml *a, bool resources)
{
    g_return_if_fail(a->depth < MAX_DEPTH);
    a->blocks[a->depth++] = (Block){ .at = a->bytes->len, .resources = resources };
}

/* A resource buffer's size is known, and put in, when it ends (20.2.5.4, BufferSize). */
static void end_resources(Aml *a, guint at)
{
    put16(a, 0x0079);                       /* end tag, checksum not used (6.4.2.9) */
    guint size = a->bytes->len - at;
    uint8_t term[3] = { OP_BYTE, size };
    if (size > 0xff) {
        term[0] = OP_WORD;
        st_le16(term + 1, size);
    }
    insert(a, at, term, size > 0xff ? 3 : 2);
}

void aml_end(Aml *a)
{
    uint8_t length[4];

    g_return_if_fail(a->depth > 0);
    Block block = a->blocks[--a->depth];
    if (block.resources)
        end_resources(a, block.at);
    insert(a, block.at, length, encode_length(length, a->bytes->len - block.at, true));
}

/* One to four characters, padded with '_' (20.2.2, NameSeg). */
static void put_segment(Aml *a, const char *name, size_t length)
{
    char segment[4] = "____";

    g_return_if_fail(length && length <= 4);
    memcpy(segment, name, length);
    put(a, segment, 4);
}

static void put_path(Aml *a, const char *path)
{
    unsigned segments = 1;

    for (; *path == '\\' || *path == '^'; path++)
        put8(a, *path);
    if (!*path) {
        put8(a, 0);                         /* NullName: "\" itself */
        return;
    }
    for (const char *p = path; (p = strchr(p, '.')); p++)
        segments++;
    if (segments == 2) {
        put8(a, OP_DUAL_NAME);
    } else if (segments > 2) {
        put8(a, OP_MULTI_NAME);
        put8(a, segments);
    }
    for (const char *next = path; segments--; path = next + 1) {
        next = path + strcspn(path, ".");
        put_segment(a, path, next - path);
    }
}

void aml_scope(Aml *a, const char *path)
{
    put8(a, OP_SCOPE);
    begin(a, false);
    put_path(a, path);
}

void aml_device(Aml *a, const char *name)
{
    put8(a, OP_EXT);
    put8(a, EXT_DEVICE);
    begin(a, false);
    put_path(a, name);
}

void aml_method(Aml *a, const char *name, unsigned arguments, bool serialized)
{
    put8(a, OP_METHOD);
    begin(a, false);
    put_path(a, name);
    put8(a, arguments | serialized << 3);
}

void aml_package(Aml *a, uint8_t elements)
{
    put8(a, OP_PACKAGE);
    begin(a, false);
    put8(a, elements);
}

void aml_if(Aml *a)
{
    put8(a, OP_IF);
    begin(a, false);
}

void aml_else(Aml *a)
{
    put8(a, OP_ELSE);
    begin(a, false);
}

void aml_resources(Aml *a)
{
    put8(a, OP_BUFFER);
    begin(a, true);
}

/* ---- definitions ---- */

void aml_name(Aml *a, const char *name)
{
    put8(a, OP_NAME);
    put_path(a, name);
}

void aml_region(Aml *a, const char *name, AmlSpace space, uint64_t offset, uint64_t length)
{
    put8(a, OP_EXT);
    put8(a, EXT_REGION);
    put_path(a, name);
    put8(a, space);
    aml_int(a, offset);
    aml_int(a, length);
}

void aml_field(Aml *a, const char *region, AmlAccess access)
{
    put8(a, OP_EXT);
    put8(a, EXT_FIELD);
    begin(a, false);
    put_path(a, region);
    put8(a, access);                        /* NoLock, Preserve */
}

void aml_field_bits(Aml *a, const char *name, unsigned bits)
{
    uint8_t length[4];

    if (name)
        put_segment(a, name, strlen(name));
    else
        put8(a, 0);
    put(a, length, encode_length(length, bits, false));
}

/* ---- values ---- */

void aml_int(Aml *a, uint64_t value)
{
    if (value == 0) {
        put8(a, OP_ZERO);
    } else if (value == 1) {
        put8(a, OP_ONE);
    } else if (value == UINT64_MAX) {
        put8(a, OP_ONES);
    } else if (value <= UINT8_MAX) {
        put8(a, OP_BYTE);
        put8(a, value);
    } else if (value <= UINT16_MAX) {
        put8(a, OP_WORD);
        put16(a, value);
    } else if (value <= UINT32_MAX) {
        put8(a, OP_DWORD);
        put32(a, value);
    } else {
        put8(a, OP_QWORD);
        put64(a, value);
    }
}

void aml_string(Aml *a, const char *text)
{
    put8(a, OP_STRING);
    put(a, text, strlen(text) + 1);
}

/* Three letters of 5 bits, four hexadecimal digits, most significant byte first (19.3.4). */
void aml_eisaid(Aml *a, const char *id)
{
    uint32_t value = 0;

    g_return_if_fail(strlen(id) == 7);
    for (unsigned i = 0; i < 3; i++)
        value = value << 5 | (id[i] - '@');
    for (unsigned i = 3; i < 7; i++)
        value = value << 4 | g_ascii_xdigit_value(id[i]);
    put8(a, OP_DWORD);
    put32(a, GUINT32_SWAP_LE_BE(value));
}

/* The first three groups are little-endian numbers (19.6.142, ToUUID). */
void aml_uuid(Aml *a, const char *uuid)
{
    static const uint8_t order[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
    uint8_t text_order[16], n = 0;

    for (; *uuid && n < 16; uuid++) {
        if (*uuid == '-')
            continue;
        text_order[n++] = g_ascii_xdigit_value(uuid[0]) << 4 | g_ascii_xdigit_value(uuid[1]);
        uuid++;
    }
    g_return_if_fail(n == 16);
    put8(a, OP_BUFFER);
    begin(a, false);
    aml_int(a, 16);
    for (unsigned i = 0; i < 16; i++)
        put8(a, text_order[order[i]]);
    aml_end(a);
}

void aml_ref(Aml *a, const char *path)
{
    put_path(a, path);
}

void aml_local(Aml *a, unsigned n)
{
    put8(a, OP_LOCAL0 + n);
}

void aml_arg(Aml *a, unsigned n)
{
    put8(a, OP_ARG0 + n);
}

void aml_op(Aml *a, AmlOp op)
{
    put8(a, op);
}

/* ---- resource descriptors ---- */

void aml_io(Aml *a, uint16_t min, uint16_t max, uint8_t align, uint8_t length)
{
    put8(a, 0x47);                          /* I/O port descriptor (6.4.2.5) */
    put8(a, 1);                             /* decodes 16 bits */
    put16(a, min);
    put16(a, max);
    put8(a, align);
    put8(a, length);
}

void aml_irq(Aml *a, unsigned irq)
{
    put8(a, 0x22);                          /* IRQ descriptor without flags (6.4.2.1) */
    put16(a, 1 << irq);
}

void aml_interrupts(Aml *a, const uint32_t *list, unsigned count)
{
    put8(a, 0x89);
    put16(a, 2 + 4 * count);
    put8(a, 0x09);                          /* consumer, level, active high, shared */
    put8(a, count);
    for (unsigned i = 0; i < count; i++)
        put32(a, list[i]);
}

void aml_dma(Aml *a, unsigned channel)
{
    put8(a, 0x2a);                          /* DMA descriptor (6.4.2.2): compatibility, 8 bits */
    put8(a, 1 << channel);
    put8(a, 0);
}

void aml_memory32(Aml *a, bool writable, uint32_t base, uint32_t length)
{
    put8(a, 0x86);                          /* 32-bit fixed memory range (6.4.3.4) */
    put16(a, 9);
    put8(a, writable);
    put32(a, base);
    put32(a, length);
}

/* The head of an address space descriptor (6.4.3.5): fixed at both ends, positive decode. */
static void put_range_head(Aml *a, uint8_t tag, uint16_t length, AmlRange type)
{
    static const uint8_t resource_types[] = { 2, 1, 0, 0 };
    /* I/O: the entire range.  Memory: writable, not cacheable or cacheable. */
    static const uint8_t flags[] = { 0x00, 0x03, 0x01, 0x03 };

    put8(a, tag);
    put16(a, length);
    put8(a, resource_types[type]);
    put8(a, 0x0c);
    put8(a, flags[type]);
}

void aml_word_range(Aml *a, AmlRange type, uint16_t min, uint16_t max)
{
    put_range_head(a, 0x88, 0x0d, type);
    put16(a, 0);
    put16(a, min);
    put16(a, max);
    put16(a, 0);
    put16(a, max - min + 1);
}

void aml_dword_range(Aml *a, AmlRange type, uint32_t min, uint32_t max)
{
    put_range_head(a, 0x87, 0x17, type);
    put32(a, 0);
    put32(a, min);
    put32(a, max);
    put32(a, 0);
    put32(a, max - min + 1);
}

void aml_qword_range(Aml *a, AmlRange type, uint64_t min, uint64_t max)
{
    put_range_head(a, 0x8a, 0x2b, type);
    put64(a, 0);
    put64(a, min);
    put64(a, max);
    put64(a, 0);
    put64(a, max - min + 1);
}

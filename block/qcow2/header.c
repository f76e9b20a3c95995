/*
 * The header, in the image's first cluster: its fields, its extensions, the backing file's name.
 *
 * It is read and checked as a whole when an image is opened.  Unknown extensions, and unknown fields of a
 * longer header, are kept.  Single fields are written here, all of it in header-write.c.
 */
#include "block/qcow2/qcow2.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { FORMAT_NAME_MAX = 15, DATA_FILE_NAME_MAX = 1023, FEATURE_NAME_BYTES = 46 };

static void clear_extension(gpointer extension)
{
    g_free(((Qcow2Extension *)extension)->data);
}

void qcow2_header_clear(Qcow2Header *h)
{
    g_free(h->backing_file);
    g_free(h->backing_format);
    g_free(h->data_file);
    g_free(h->unknown_fields);
    if (h->extensions)
        g_array_free(h->extensions, TRUE);
    *h = (Qcow2Header){ 0 };
}

/* Extensions in memory. */

GArray *qcow2_extensions_new(void)
{
    GArray *array = g_array_new(FALSE, FALSE, sizeof(Qcow2Extension));

    g_array_set_clear_func(array, clear_extension);
    return array;
}

const Qcow2Extension *qcow2_extension(const Qcow2 *s, uint32_t type)
{
    for (unsigned i = 0; i < s->header.extensions->len; i++) {
        const Qcow2Extension *e = &g_array_index(s->header.extensions, Qcow2Extension, i);

        if (e->type == type)
            return e;
    }
    return NULL;
}

void qcow2_extension_set(Qcow2 *s, uint32_t type, const void *data, uint32_t length)
{
    const Qcow2Extension *old = qcow2_extension(s, type);
    Qcow2Extension new = { type, length, g_memdup2(data, length) };

    if (old)
        g_array_remove_index(s->header.extensions,
                             old - (const Qcow2Extension *)s->header.extensions->data);
    if (data)
        g_array_append_val(s->header.extensions, new);
}

/* Reading: fields. */

static bool bad(Qcow2 *s, GError **error, const char *text)
{
    fail(error, ERR_CORRUPT, "'%s': %s", block_node_filename(s->file), text);
    return error_object(error, "%s", block_node_filename(s->file));
}

static bool parse_v3(Qcow2 *s, const uint8_t *buffer, GError **error)
{
    Qcow2Header *h = &s->header;

    h->incompatible = ld_be64(buffer + 72);
    h->compatible = ld_be64(buffer + 80);
    h->autoclear = ld_be64(buffer + 88);
    h->refcount_order = ld_be32(buffer + 96);
    h->header_length = ld_be32(buffer + 100);
    if (h->header_length < QCOW2_V3_HEADER)
        return bad(s, error, "qcow2 header too short");
    if (h->header_length > 1ull << h->cluster_bits)
        return bad(s, error, "qcow2 header exceeds cluster size");
    if (h->header_length > 104)
        h->compression_type = buffer[104];
    return true;
}

static bool parse_fields(Qcow2 *s, const uint8_t *buffer, GError **error)
{
    Qcow2Header *h = &s->header;

    if (ld_be32(buffer) != QCOW2_MAGIC)
        return bad(s, error, "Image is not in qcow2 format");
    h->version = ld_be32(buffer + 4);
    if (h->version != 2 && h->version != 3)
        return fail(error, ERR_UNSUPPORTED, "'%s': Unsupported qcow2 version %" PRIu32,
                    block_node_filename(s->file), h->version);
    h->cluster_bits = ld_be32(buffer + 20);
    h->size = ld_be64(buffer + 24);
    h->crypt_method = ld_be32(buffer + 32);
    h->l1_size = ld_be32(buffer + 36);
    h->l1_table_offset = ld_be64(buffer + 40);
    h->refcount_table_offset = ld_be64(buffer + 48);
    h->refcount_table_clusters = ld_be32(buffer + 56);
    h->nb_snapshots = ld_be32(buffer + 60);
    h->snapshots_offset = ld_be64(buffer + 64);
    h->refcount_order = 4;
    h->header_length = QCOW2_V2_HEADER;
    if (h->cluster_bits < QCOW2_CLUSTER_BITS_MIN || h->cluster_bits > QCOW2_CLUSTER_BITS_MAX)
        return fail(error, ERR_CORRUPT, "'%s': Unsupported cluster size: 2^%" PRIu32,
                    block_node_filename(s->file), h->cluster_bits);
    return h->version == 2 || parse_v3(s, buffer, error);
}

/* Reading: extensions and names. */

static char *take_text(const uint8_t *data, uint32_t length)
{
    return g_strndup((const char *)data, length);
}

static bool take_extension(Qcow2 *s, uint32_t type, uint32_t length, const uint8_t *data,
                           GError **error)
{
    Qcow2Extension e = { type, length, NULL };

    switch (type) {
    case QCOW2_EXT_BACKING_FORMAT:
        if (length > FORMAT_NAME_MAX)
            return bad(s, error, "the backing file's format name is too long");
        g_free(s->header.backing_format);
        s->header.backing_format = take_text(data, length);
        return true;
    case QCOW2_EXT_DATA_FILE:
        if (length > DATA_FILE_NAME_MAX)
            return bad(s, error, "the data file's name is too long");
        g_free(s->header.data_file);
        s->header.data_file = take_text(data, length);
        return true;
    case QCOW2_EXT_FEATURE_NAMES:
    case QCOW2_EXT_GAP:
        return true;                       /* made anew */
    default:
        e.data = g_memdup2(data, length);
        g_array_append_val(s->header.extensions, e);
        return true;
    }
}

/* @end: where extensions must end.  @names: where the feature name table is, if there is one. */
static bool parse_extensions(Qcow2 *s, const uint8_t *buffer, uint64_t end, const uint8_t **names,
                             uint32_t *names_length, GError **error)
{
    uint64_t at = s->header.header_length;

    while (at + 8 <= end) {
        uint32_t type = ld_be32(buffer + at), length = ld_be32(buffer + at + 4);

        at += 8;
        if (type == QCOW2_EXT_END)
            return true;
        if (length > end - at)
            return fail(error, ERR_CORRUPT, "'%s': Header extension 0x%08" PRIx32 " too large",
                        block_node_filename(s->file), type);
        if (type == QCOW2_EXT_FEATURE_NAMES) {
            *names = buffer + at;
            *names_length = length;
        }
        if (!take_extension(s, type, length, buffer + at, error))
            return false;
        at += ALIGN_UP((uint64_t)length, 8);
    }
    return true;
}

static bool refuse_features(Qcow2 *s, const uint8_t *names, uint32_t length, GError **error)
{
    uint64_t unknown = s->header.incompatible & ~QCOW2_INCOMPAT_KNOWN;
    g_autoptr(GString) list = g_string_new(NULL);

    for (uint32_t at = 0; at + QCOW2_FEATURE_BYTES <= length; at += QCOW2_FEATURE_BYTES) {
        uint8_t bit = names[at + 1];

        if (names[at] != 0 || bit > 63 || !(unknown >> bit & 1))
            continue;
        g_string_append_printf(list, "%s%.*s", list->len ? ", " : "", FEATURE_NAME_BYTES,
                               (const char *)names + at + 2);
        unknown &= ~(1ull << bit);
    }
    if (unknown)
        g_string_append_printf(list, "%sUnknown incompatible feature: %" PRIx64,
                               list->len ? ", " : "", unknown);
    return fail(error, ERR_UNSUPPORTED, "'%s': Unsupported qcow2 feature(s): %s",
                block_node_filename(s->file), list->str);
}

static bool parse_backing_name(Qcow2 *s, const uint8_t *buffer, GError **error)
{
    uint64_t offset = ld_be64(buffer + 8);
    uint32_t length = ld_be32(buffer + 16);

    if (!offset || !length)
        return true;
    if (offset > 1ull << s->header.cluster_bits)
        return bad(s, error, "Invalid backing file offset");
    if (length > MIN(QCOW2_BACKING_NAME_MAX, (1ull << s->header.cluster_bits) - offset))
        return bad(s, error, "Backing file name too long");
    s->header.backing_file = take_text(buffer + offset, length);
    return true;
}

static bool parse_cluster(Qcow2 *s, const uint8_t *buffer, GError **error)
{
    uint64_t cluster_size = 1ull << s->header.cluster_bits, backing = ld_be64(buffer + 8);
    uint64_t end = backing && backing <= cluster_size ? backing : cluster_size;
    const uint8_t *names = NULL;
    uint32_t names_length = 0;
    Qcow2Header *h = &s->header;

    if (!parse_extensions(s, buffer, end, &names, &names_length, error))
        return false;
    if (h->incompatible & ~QCOW2_INCOMPAT_KNOWN)
        return refuse_features(s, names, names_length, error);
    if (h->header_length > QCOW2_HEADER_MAX) {
        h->unknown_fields_length = h->header_length - QCOW2_HEADER_MAX;
        h->unknown_fields = g_memdup2(buffer + QCOW2_HEADER_MAX, h->unknown_fields_length);
    }
    return parse_backing_name(s, buffer, error);
}

/* Checks. */

static bool check_features(Qcow2 *s, GError **error)
{
    const Qcow2Header *h = &s->header;
    bool bit = h->incompatible & QCOW2_INCOMPAT_COMPRESSION;

    if (h->compression_type > QCOW2_COMPRESSION_ZSTD)
        return fail(error, ERR_UNSUPPORTED, "'%s': Unknown compression type: %u",
                    block_node_filename(s->file), h->compression_type);
    if (bit != (h->compression_type != QCOW2_COMPRESSION_ZLIB))
        return bad(s, error, bit ? "Compression type incompatible feature bit must not be set"
                                 : "Compression type incompatible feature bit must be set");
    if (h->refcount_order > QCOW2_REFCOUNT_ORDER_MAX)
        return bad(s, error, "Reference count entry width too large; may not exceed 64 bits");
    if (h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2 && h->cluster_bits < 14)
        return bad(s, error, "Extended L2 entries need clusters of at least 16 KiB");
    if (h->crypt_method > QCOW2_CRYPT_LUKS)
        return fail(error, ERR_UNSUPPORTED, "'%s': Unsupported encryption method %" PRIu32,
                    block_node_filename(s->file), h->crypt_method);
    return true;
}

static bool table_fits(uint64_t offset, uint64_t bytes, uint64_t cluster_size)
{
    return !(offset & (cluster_size - 1)) && offset <= INT64_MAX - bytes;
}

static bool check_tables(Qcow2 *s, GError **error)
{
    const Qcow2Header *h = &s->header;
    unsigned l2_bits = h->cluster_bits - (h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2 ? 4 : 3);
    uint64_t size = 1ull << h->cluster_bits, cover = 1ull << (h->cluster_bits + l2_bits);
    uint64_t l1_needed = h->size / cover + (h->size % cover != 0);

    if (h->size > INT64_MAX)
        return bad(s, error, "the disk is too large");
    if (h->l1_size > QCOW2_L1_BYTES_MAX / 8 || l1_needed > QCOW2_L1_BYTES_MAX / 8)
        return bad(s, error, "Active L1 table too large");
    if (!table_fits(h->l1_table_offset, h->l1_size * 8ull, size))
        return bad(s, error, "Active L1 table offset invalid");
    if (h->l1_size < l1_needed)
        return bad(s, error, "L1 table is too small");
    if (!h->refcount_table_clusters)
        return bad(s, error, "Image does not contain a reference count table");
    if (h->refcount_table_clusters > QCOW2_REFTABLE_BYTES_MAX >> h->cluster_bits)
        return bad(s, error, "Reference count table too large");
    if (!table_fits(h->refcount_table_offset,
                    (uint64_t)h->refcount_table_clusters << h->cluster_bits, size) ||
        !h->refcount_table_offset)
        return bad(s, error, "Reference count table offset invalid");
    if (h->nb_snapshots > QCOW2_SNAPSHOTS_MAX)
        return bad(s, error, "Snapshot table too large");
    if (h->nb_snapshots && !table_fits(h->snapshots_offset, 0, size))
        return bad(s, error, "Snapshot table offset invalid");
    return true;
}

static int co_fn read_header(Qcow2 *s, uint8_t **buffer, GError **error)
{
    uint64_t size = block_node_size(s->file);
    int ret;

    *buffer = qcow2_memory(s, 512);
    if (!*buffer)
        return -ENOMEM;
    if (size < QCOW2_V2_HEADER) {
        bad(s, error, "Image is not in qcow2 format");
        return -EINVAL;
    }
    ret = qcow2_meta_read(s, 0, *buffer, 512, "header", error);
    if (ret < 0)
        return ret;
    if (!parse_fields(s, *buffer, error))
        return -EINVAL;
    free(*buffer);
    *buffer = qcow2_memory(s, 1ull << s->header.cluster_bits);
    if (!*buffer)
        return -ENOMEM;
    ret = qcow2_meta_read(s, 0, *buffer, 1ull << s->header.cluster_bits, "header", error);
    if (ret < 0)
        return ret;
    return parse_cluster(s, *buffer, error) && check_features(s, error) && check_tables(s, error)
               ? 0 : -EINVAL;
}

int co_fn qcow2_header_read(Qcow2 *s, GError **error)
{
    uint8_t *buffer = NULL;
    int ret;

    s->header = (Qcow2Header){ .extensions = qcow2_extensions_new() };
    ret = read_header(s, &buffer, error);
    free(buffer);
    if (ret == -ENOMEM && error && !*error)
        fail_errno(error, ENOMEM, "'%s': reading the header", block_node_filename(s->file));
    if (ret < 0)
        qcow2_header_clear(&s->header);
    return ret;
}

/* Writing parts of the first sector. */

/* A write, and the flush that makes sure of it. */
static int co_fn put(Qcow2 *s, uint64_t offset, const void *data, uint64_t bytes, GError **error)
{
    int ret = qcow2_meta_write(s, offset, data, bytes, "header", QCOW2_OL_MAIN_HEADER, error);

    return ret == 0 ? qcow2_flush_file(s, error) : ret;
}

void qcow2_header_give_up(Qcow2 *s)
{
    __atomic_store_n(&s->corrupt, 1, __ATOMIC_SEQ_CST);
    warn_report("'%s': the header could be written neither anew nor as it was; the image will not be "
                "written to any more", block_node_filename(s->file));
}

int co_fn qcow2_header_put(Qcow2 *s, uint64_t offset, const void *data, uint64_t bytes,
                           GError **error)
{
    void *old = qcow2_memory(s, bytes);
    int ret = -ENOMEM;

    if (old)
        ret = qcow2_meta_read(s, offset, old, bytes, "header", error);
    else
        fail_errno(error, ENOMEM, "'%s': writing the header", block_node_filename(s->file));
    if (ret == 0) {
        ret = put(s, offset, data, bytes, error);
        if (ret < 0 && put(s, offset, old, bytes, NULL) < 0)
            qcow2_header_give_up(s);
    }
    free(old);
    return ret;
}

/* One of the feature words, alone. */
static int co_fn write_features(Qcow2 *s, unsigned offset, uint64_t *word, uint64_t set,
                                uint64_t clear, GError **error)
{
    uint64_t value = (*word | set) & ~clear;
    uint8_t field[8];
    int ret;

    if (value == *word || s->header.version < 3)
        return 0;
    st_be64(field, value);
    ret = qcow2_header_put(s, offset, field, 8, error);
    if (ret == 0)
        *word = value;
    return ret;
}

int co_fn qcow2_set_incompatible(Qcow2 *s, uint64_t set, uint64_t clear, GError **error)
{
    return write_features(s, 72, &s->header.incompatible, set, clear, error);
}

int co_fn qcow2_set_autoclear(Qcow2 *s, uint64_t set, uint64_t clear, GError **error)
{
    return write_features(s, 88, &s->header.autoclear, set, clear, error);
}

/* The bitmap directory on disk. */
#include "block/qcow2/bitmap-dir.h"
#include "block/qcow2/checksums.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRY_FIXED = 24, EXTENSION_BYTES = 24 };

static void entry_clear(Qcow2BitmapEntry *entry)
{
    g_free(entry->name);
    g_free(entry->extra);
}

GArray *qcow2_bitmap_dir_new(void)
{
    GArray *directory = g_array_new(FALSE, TRUE, sizeof(Qcow2BitmapEntry));

    g_array_set_clear_func(directory, (GDestroyNotify)entry_clear);
    return directory;
}

void qcow2_bitmap_dir_append(GArray *directory, const Qcow2BitmapEntry *entry)
{
    Qcow2BitmapEntry copy = *entry;

    copy.name = g_strdup(entry->name);
    copy.extra = entry->extra ? g_memdup2(entry->extra, entry->extra_length) : NULL;
    g_array_append_val(directory, copy);
}

static uint64_t entry_bytes(const Qcow2BitmapEntry *entry)
{
    uint64_t bytes = ENTRY_FIXED + (uint64_t)entry->extra_length + entry->name_length;

    return ALIGN_UP(bytes, 8);
}

uint64_t qcow2_bitmap_dir_bytes(const GArray *directory)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < directory->len; i++)
        bytes += entry_bytes(&g_array_index(directory, Qcow2BitmapEntry, i));
    return bytes;
}

/* Reading. */

static bool ill_formed(Qcow2 *s, uint64_t at, const char *why, GError **error)
{
    return fail(error, ERR_CORRUPT, "the bitmap directory of '%s' at offset %#" PRIx64
                " is ill-formed: %s (entry at byte %" PRIu64 ")", block_node_filename(s->node),
                s->bitmaps_offset, why, at);
}

static bool parse_entry(Qcow2 *s, const uint8_t *data, uint64_t left, uint64_t at,
                        Qcow2BitmapEntry *entry, GError **error)
{
    if (left < ENTRY_FIXED)
        return ill_formed(s, at, "it ends in the middle of an entry", error);
    entry->table_offset = ld_be64(data);
    entry->table_size = ld_be32(data + 8);
    entry->flags = ld_be32(data + 12);
    entry->type = data[16];
    entry->granularity_bits = data[17];
    entry->name_length = ld_be16(data + 18);
    entry->extra_length = ld_be32(data + 20);
    if (entry_bytes(entry) > left)
        return ill_formed(s, at, "an entry is longer than the directory", error);
    if (!entry->name_length || entry->name_length > QCOW2_BITMAP_NAME_MAX)
        return ill_formed(s, at, "a name's length is invalid", error);
    if (entry->table_size > QCOW2_BITMAP_TABLE_MAX)
        return ill_formed(s, at, "a table is too large", error);
    entry->extra = entry->extra_length ? g_memdup2(data + ENTRY_FIXED, entry->extra_length) : NULL;
    entry->name = g_strndup((const char *)data + ENTRY_FIXED + entry->extra_length,
                            entry->name_length);
    return true;
}

static GArray *parse(Qcow2 *s, const uint8_t *data, GError **error)
{
    GArray *directory = qcow2_bitmap_dir_new();

    for (uint64_t at = 0; at < s->bitmaps_length;) {
        Qcow2BitmapEntry entry = { 0 };

        if (directory->len == QCOW2_BITMAPS_MAX ||
            !parse_entry(s, data + at, s->bitmaps_length - at, at, &entry, error)) {
            if (directory->len == QCOW2_BITMAPS_MAX)
                ill_formed(s, at, "there are too many bitmaps", error);
            g_array_unref(directory);
            return NULL;
        }
        g_array_append_val(directory, entry);
        at += entry_bytes(&entry);
    }
    return directory;
}

static int co_fn read_all(Qcow2 *s, uint8_t *data, GArray *found, GError **error)
{
    if (found)
        return qcow2_table_look(s, s->bitmaps_offset, data, s->bitmaps_length, "bitmap directory",
                                found, error);
    return qcow2_table_read(s, s->bitmaps_offset, data, s->bitmaps_length, "bitmap directory", error);
}

GArray *co_fn qcow2_bitmap_dir_look(Qcow2 *s, GArray *found, GError **error)
{
    GArray *directory;
    uint8_t *data;

    if (!s->bitmaps_offset)
        return qcow2_bitmap_dir_new();
    if (s->bitmaps_length > QCOW2_BITMAP_DIRECTORY_MAX ||
        qcow2_offset_in_cluster(s, s->bitmaps_offset)) {
        ill_formed(s, 0, "its place or length is invalid", error);
        return NULL;
    }
    data = qcow2_memory(s, MAX(s->bitmaps_length, 1));
    if (!data) {
        fail(error, ERR_LIMIT, "no memory for the bitmap directory");
        return NULL;
    }
    directory = read_all(s, data, found, error) == 0 ? parse(s, data, error) : NULL;
    free(data);
    return directory;
}

GArray *co_fn qcow2_bitmap_dir_read(Qcow2 *s, GError **error)
{
    return qcow2_bitmap_dir_look(s, NULL, error);
}

/* Writing. */

static void put_entry(const Qcow2BitmapEntry *entry, uint8_t *at)
{
    st_be64(at, entry->table_offset);
    st_be32(at + 8, entry->table_size);
    st_be32(at + 12, entry->flags);
    at[16] = entry->type;
    at[17] = entry->granularity_bits;
    st_be16(at + 18, entry->name_length);
    st_be32(at + 20, entry->extra_length);
    if (entry->extra_length)
        memcpy(at + ENTRY_FIXED, entry->extra, entry->extra_length);
    memcpy(at + ENTRY_FIXED + entry->extra_length, entry->name, entry->name_length);
}

static int co_fn write_at(Qcow2 *s, const GArray *directory, uint64_t offset, unsigned own,
                          GError **error)
{
    uint64_t bytes = qcow2_bitmap_dir_bytes(directory), at = 0;
    uint8_t *data = qcow2_memory(s, bytes);
    int ret;

    if (!data) {
        fail(error, ERR_LIMIT, "no memory for the bitmap directory");
        return -ENOMEM;
    }
    memset(data, 0, bytes);
    for (unsigned i = 0; i < directory->len; i++) {
        put_entry(&g_array_index(directory, Qcow2BitmapEntry, i), data + at);
        at += entry_bytes(&g_array_index(directory, Qcow2BitmapEntry, i));
    }
    ret = qcow2_table_write(s, offset, data, bytes, "bitmap directory", own, error);
    free(data);
    return ret;
}

int co_fn qcow2_bitmap_dir_rewrite(Qcow2 *s, const GArray *directory, GError **error)
{
    if (qcow2_bitmap_dir_bytes(directory) != s->bitmaps_length) {
        fail(error, ERR_GENERIC, "the bitmap directory of '%s' has another length than before",
             block_node_filename(s->node));
        return -EINVAL;
    }
    return directory->len ? write_at(s, directory, s->bitmaps_offset, QCOW2_OL_BITMAP_DIRECTORY, error)
                          : 0;
}

/* "Bitmaps extension" */
static void put_extension(Qcow2 *s, unsigned n, uint64_t offset, uint64_t bytes)
{
    uint8_t data[EXTENSION_BYTES] = { 0 };

    st_be32(data, n);
    st_be64(data + 8, bytes);
    st_be64(data + 16, offset);
    qcow2_extension_set(s, QCOW2_EXT_BITMAPS, n ? data : NULL, n ? sizeof(data) : 0);
    s->bitmaps_offset = n ? offset : 0;
    s->bitmaps_length = n ? bytes : 0;
    if (n)
        s->header.autoclear |= QCOW2_AUTOCLEAR_BITMAPS;
    else
        s->header.autoclear &= ~QCOW2_AUTOCLEAR_BITMAPS;
}

static int co_fn write_new(Qcow2 *s, const GArray *directory, uint64_t *ret_offset, GError **error)
{
    uint64_t bytes = qcow2_bitmap_dir_bytes(directory);
    int64_t offset;
    int ret;

    *ret_offset = 0;
    if (!directory->len)
        return 0;
    offset = qcow2_alloc_clusters(s, qcow2_clusters(s, bytes), error);
    if (offset < 0)
        return offset;
    ret = write_at(s, directory, offset, 0, error);
    if (ret < 0) {
        qcow2_free_now(s, offset, bytes);
        return ret;
    }
    *ret_offset = offset;
    return 0;
}

/* What the header is about to name is on stable storage; then the header is. */
static int co_fn switch_header(Qcow2 *s, const GArray *directory, uint64_t offset, GError **error)
{
    unsigned old_n = s->bitmaps_offset ? 1 : 0;
    uint64_t old_offset = s->bitmaps_offset, old_bytes = s->bitmaps_length;
    const Qcow2Extension *old = qcow2_extension(s, QCOW2_EXT_BITMAPS);
    const Qcow2Extension *journal = qcow2_extension(s, QCOW2_EXT_JOURNAL);
    g_autoptr(GBytes) old_journal = journal ? g_bytes_new(journal->data, journal->length) : NULL;
    int ret = qcow2_write_refcounts(s);

    if (old && old->length >= EXTENSION_BYTES)
        old_n = ld_be32(old->data);
    if (ret < 0)
        fail_errno(error, -ret, "writing the refcounts of '%s' failed", block_node_filename(s->node));
    if (ret == 0)
        ret = qcow2_flush_file(s, error);
    if (ret < 0)
        return ret;
    put_extension(s, directory->len, offset, qcow2_bitmap_dir_bytes(directory));
    if (!directory->len)                   /* a journal is for bitmaps only */
        qcow2_extension_set(s, QCOW2_EXT_JOURNAL, NULL, 0);
    ret = qcow2_header_write(s, error);
    if (ret < 0) {
        put_extension(s, old_n, old_offset, old_bytes);
        if (old_journal)
            qcow2_extension_set(s, QCOW2_EXT_JOURNAL, g_bytes_get_data(old_journal, NULL),
                                g_bytes_get_size(old_journal));
    }
    return ret;
}

int co_fn qcow2_bitmap_dir_replace(Qcow2 *s, const GArray *directory, GError **error)
{
    uint64_t old_offset = s->bitmaps_offset, old_bytes = s->bitmaps_length, offset;
    int ret;

    if (!directory->len && !old_offset)
        return 0;
    ret = write_new(s, directory, &offset, error);
    if (ret < 0)
        return ret;
    ret = switch_header(s, directory, offset, error);
    if (ret < 0) {
        if (offset)
            qcow2_free_now(s, offset, qcow2_bitmap_dir_bytes(directory));
        return ret;
    }
    if (old_offset) {
        qcow2_overlap_remove(s, QCOW2_OL_BITMAP_DIRECTORY, old_offset, old_bytes);
        qcow2_free_later(s, old_offset, old_bytes, QCOW2_DISCARD_OTHER);
    }
    if (offset)
        qcow2_overlap_add(s, QCOW2_OL_BITMAP_DIRECTORY, offset, s->bitmaps_length);
    return 0;
}

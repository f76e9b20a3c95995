/*
 * Bitmaps of the node from and to the image: qcow2 specification, "Bitmap table", "Bitmap data".  A
 * table entry stands for a cluster of bits; all zeroes and all ones need no cluster.
 */
#include "block/qcow2/bitmaps.h"
#include "block/bitmap.h"
#include "block/qcow2/checksums.h"
#include "block/qcow2/journal.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { GRANULARITY_BITS_MIN = 9, GRANULARITY_BITS_MAX = 31 };

/* Bytes of disk that a cluster of bits covers. */
static uint64_t cluster_cover(uint64_t cluster_size, unsigned granularity_bits)
{
    return cluster_size * 8 << granularity_bits;
}

static uint64_t table_entries(uint64_t cluster_size, uint64_t disk, unsigned granularity_bits)
{
    uint64_t cover = cluster_cover(cluster_size, granularity_bits);

    return disk / cover + (disk % cover != 0);
}

static uint64_t *co_fn read_table(Qcow2 *s, const Qcow2BitmapEntry *entry, GError **error)
{
    uint64_t bytes = entry->table_size * (uint64_t)sizeof(uint64_t);
    uint64_t *table = qcow2_memory(s, MAX(bytes, 1));

    if (!table) {
        fail(error, ERR_LIMIT, "no memory for the table of bitmap '%s'", entry->name);
        return NULL;
    }
    if (qcow2_table_read(s, entry->table_offset, table, bytes, "bitmap table", error) < 0) {
        free(table);
        return NULL;
    }
    for (uint64_t i = 0; i < entry->table_size; i++)
        table[i] = GUINT64_FROM_BE(table[i]);
    return table;
}

/* Loading. */

static int bad_table(Qcow2 *s, const Qcow2BitmapEntry *entry, uint64_t i, uint64_t value,
                     GError **error)
{
    fail(error, ERR_CORRUPT, "bitmap '%s' of '%s' has an invalid table entry %" PRIu64 ": %#" PRIx64,
         entry->name, block_node_filename(s->node), i, value);
    return -EINVAL;
}

static int co_fn load_bits(Qcow2 *s, const Qcow2BitmapEntry *entry, const uint64_t *table,
                           BlockBitmap *bitmap, uint8_t *bits, GError **error)
{
    uint64_t disk = block_bitmap_size(bitmap);
    uint64_t cover = cluster_cover(s->cluster_size, entry->granularity_bits);
    int ret = 0;

    for (uint64_t i = 0; ret == 0 && i < entry->table_size && i * cover < disk; i++) {
        uint64_t offset = table[i] & QCOW2_BITMAP_TABLE_OFFSET, part = MIN(cover, disk - i * cover);

        if (table[i] & QCOW2_BITMAP_TABLE_RESERVED || (offset && table[i] & QCOW2_BITMAP_TABLE_ONES) ||
            qcow2_offset_in_cluster(s, offset))
            return bad_table(s, entry, i, table[i], error);
        if (table[i] & QCOW2_BITMAP_TABLE_ONES)
            block_bitmap_mark(bitmap, i * cover, part);
        if (!offset)
            continue;
        ret = qcow2_table_read(s, offset, bits, s->cluster_size, "bitmap", error);
        if (ret == 0)
            block_bitmap_import_bits(bitmap, i * cover, part, bits);
    }
    return ret;
}

static int co_fn load_data(Qcow2 *s, const Qcow2BitmapEntry *entry, BlockBitmap *bitmap,
                           GError **error)
{
    uint8_t *bits = qcow2_memory(s, s->cluster_size);
    uint64_t *table = bits ? read_table(s, entry, error) : NULL;
    int ret = table ? load_bits(s, entry, table, bitmap, bits, error) : -EIO;

    if (!bits)
        fail(error, ERR_LIMIT, "no memory for bitmap '%s'", entry->name);
    free(table);
    free(bits);
    return ret;
}

/* Those in use were not stored since: the journal has what they lack. */
static bool is_complete(Qcow2 *s, const Qcow2BitmapEntry *entry, unsigned index)
{
    return !(entry->flags & QCOW2_BITMAP_IN_USE) || qcow2_journal_knows(s, index);
}

/* What this program does not know must not be touched: it is left where it is, and out of use. */
static bool is_usable(Qcow2 *s, const Qcow2BitmapEntry *entry)
{
    return !(entry->flags & ~(QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO |
                              QCOW2_BITMAP_EXTRA_COMPATIBLE)) &&
           (!entry->extra_length || entry->flags & QCOW2_BITMAP_EXTRA_COMPATIBLE) &&
           entry->table_size == table_entries(s->cluster_size, s->header.size,
                                              entry->granularity_bits);
}

static void mark_journal(Qcow2 *s, BlockBitmap *bitmap)
{
    uint64_t offset, bytes;

    for (uint64_t at = 0; qcow2_journal_next(s, at, &offset, &bytes); at = offset + bytes)
        block_bitmap_mark(bitmap, offset, bytes);
}

static int co_fn load_one(Qcow2 *s, const Qcow2BitmapEntry *entry, unsigned index, GError **error)
{
    BlockBitmap *bitmap;
    int ret;

    if (entry->type != QCOW2_BITMAP_DIRTY_TRACKING)
        return 0;                          /* of a kind that is not ours to show */
    if (entry->granularity_bits < GRANULARITY_BITS_MIN ||
        entry->granularity_bits > GRANULARITY_BITS_MAX) {
        fail(error, ERR_CORRUPT, "bitmap '%s' of '%s' has an invalid granularity (2^%u bytes)",
             entry->name, block_node_filename(s->node), entry->granularity_bits);
        return -EINVAL;
    }
    bitmap = block_bitmap_new(s->node, entry->name, 1u << entry->granularity_bits, error);
    if (!bitmap)
        return -EINVAL;
    block_bitmap_set_flags(bitmap, BLOCK_BITMAP_PERSISTENT, BLOCK_BITMAP_RECORDING);
    if (!is_usable(s, entry) || !is_complete(s, entry, index)) {
        block_bitmap_set_flags(bitmap, BLOCK_BITMAP_INCONSISTENT, 0);
        return 0;
    }
    if (entry->flags & QCOW2_BITMAP_AUTO)
        block_bitmap_set_flags(bitmap, BLOCK_BITMAP_RECORDING, 0);
    if (!s->writable)
        block_bitmap_set_flags(bitmap, BLOCK_BITMAP_READ_ONLY, 0);
    ret = load_data(s, entry, bitmap, error);
    if (ret == 0 && entry->flags & QCOW2_BITMAP_IN_USE)
        mark_journal(s, bitmap);
    return ret;
}

static int co_fn mark_in_use(Qcow2 *s, GArray *directory, GError **error)
{
    bool changed = false;
    int ret;

    for (unsigned i = 0; i < directory->len; i++) {
        Qcow2BitmapEntry *entry = &g_array_index(directory, Qcow2BitmapEntry, i);

        changed |= !(entry->flags & QCOW2_BITMAP_IN_USE);
        entry->flags |= QCOW2_BITMAP_IN_USE;
    }
    if (!changed)
        return 0;
    ret = qcow2_bitmap_dir_rewrite(s, directory, error);
    return ret == 0 ? qcow2_flush_file(s, error) : ret;
}

/* Whether the entry's bitmap in memory is what is stored, so that a journal can go on from there. */
static bool is_sound(Qcow2 *s, const Qcow2BitmapEntry *entry)
{
    BlockBitmap *bitmap = block_bitmap_find(s->node, entry->name);

    return entry->type == QCOW2_BITMAP_DIRTY_TRACKING && bitmap &&
           !(entry->flags & QCOW2_BITMAP_IN_USE) &&
           !(block_bitmap_flags(bitmap) & BLOCK_BITMAP_INCONSISTENT);
}

/* How many sound bitmaps come before others; *ret_mixed: there are some after others, too. */
static unsigned count_sound(Qcow2 *s, const GArray *directory, bool *ret_mixed)
{
    unsigned n = 0;

    *ret_mixed = false;
    for (unsigned i = 0; i < directory->len; i++) {
        bool sound = is_sound(s, &g_array_index(directory, Qcow2BitmapEntry, i));

        n += sound && n == i;
        *ret_mixed |= sound && n <= i;
    }
    return n;
}

static GArray *sound_first(Qcow2 *s, const GArray *directory)
{
    GArray *sorted = qcow2_bitmap_dir_new();

    for (int sound = 1; sound >= 0; sound--)
        for (unsigned i = 0; i < directory->len; i++) {
            const Qcow2BitmapEntry *entry = &g_array_index(directory, Qcow2BitmapEntry, i);

            if (is_sound(s, entry) == sound)
                qcow2_bitmap_dir_append(sorted, entry);
        }
    return sorted;
}

/* The journal first, then the flags: in between the bitmaps are what is stored. */
static int co_fn begin_use(Qcow2 *s, GArray *directory, GError **error)
{
    g_autoptr(GArray) sorted = NULL;
    bool mixed;
    unsigned sound = count_sound(s, directory, &mixed);
    int ret = 0;

    if (s->journal)
        return mark_in_use(s, directory, error);
    /* Where refcounts are not right yet, those after others do without a journal. */
    if (mixed && !(s->header.incompatible & QCOW2_INCOMPAT_DIRTY)) {
        directory = sorted = sound_first(s, directory);
        ret = qcow2_bitmap_dir_replace(s, directory, error);
        sound = count_sound(s, directory, &mixed);
    }
    if (ret == 0)
        ret = qcow2_journal_begin(s, sound, error);
    return ret == 0 ? mark_in_use(s, directory, error) : ret;
}

void qcow2_bitmaps_set_read_only(Qcow2 *s, bool read_only)
{
    for (BlockBitmap *b = block_bitmap_next(s->node, NULL); b; b = block_bitmap_next(s->node, b))
        if (block_bitmap_flags(b) & BLOCK_BITMAP_PERSISTENT)
            block_bitmap_set_flags(b, read_only ? BLOCK_BITMAP_READ_ONLY : 0,
                                   read_only ? 0 : BLOCK_BITMAP_READ_ONLY);
}

int co_fn qcow2_bitmaps_begin_use(Qcow2 *s, GError **error)
{
    g_autoptr(GArray) directory = qcow2_bitmap_dir_read(s, error);

    return directory ? begin_use(s, directory, error) : -EIO;
}

int co_fn qcow2_bitmaps_load(Qcow2 *s, GError **error)
{
    g_autoptr(GArray) directory = qcow2_bitmap_dir_read(s, error);
    int ret = directory ? 0 : -EINVAL;

    block_node_refresh_size(s->node);      /* which the bitmaps' own size comes from */
    for (unsigned i = 0; ret == 0 && i < directory->len; i++)
        ret = load_one(s, &g_array_index(directory, Qcow2BitmapEntry, i), i, error);
    if (ret == 0 && s->writable)
        ret = begin_use(s, directory, error);
    return ret;
}

/* Storing. */

static bool all_bytes(const uint8_t *data, uint64_t bytes, uint8_t value)
{
    return !bytes || (data[0] == value && !memcmp(data, data + 1, bytes - 1));
}

/* A cluster of bits: its table entry, or -errno in *ret. */
static uint64_t co_fn store_cluster(Qcow2 *s, const BlockBitmap *bitmap, uint64_t offset,
                                    uint64_t part, uint8_t *bits, int *ret, GError **error)
{
    uint64_t granules = part / block_bitmap_granularity(bitmap) +
                        (part % block_bitmap_granularity(bitmap) != 0);
    int64_t host;

    memset(bits, 0, s->cluster_size);
    block_bitmap_export_bits(bitmap, offset, part, bits);
    if (all_bytes(bits, s->cluster_size, 0))
        return 0;
    if (granules % 8 == 0 && all_bytes(bits, granules / 8, 0xff))
        return QCOW2_BITMAP_TABLE_ONES;
    host = qcow2_alloc_clusters(s, 1, error);
    *ret = host < 0 ? host : qcow2_table_write(s, host, bits, s->cluster_size, "bitmap", 0, error);
    return host < 0 ? 0 : host;
}

static void free_table(Qcow2 *s, const uint64_t *table, uint64_t n,
                       void (*give_back)(Qcow2 *s, uint64_t offset, uint64_t bytes))
{
    for (uint64_t i = 0; i < n; i++)
        if (table[i] & QCOW2_BITMAP_TABLE_OFFSET)
            give_back(s, table[i] & QCOW2_BITMAP_TABLE_OFFSET, s->cluster_size);
}

static int co_fn store_table(Qcow2 *s, Qcow2BitmapEntry *entry, const uint64_t *table, GError **error)
{
    uint64_t bytes = ALIGN_UP(entry->table_size * (uint64_t)sizeof(uint64_t), s->cluster_size);
    uint64_t *words = qcow2_memory(s, MAX(bytes, 1));
    int64_t offset;
    int ret;

    if (!words) {
        fail(error, ERR_LIMIT, "no memory for the table of bitmap '%s'", entry->name);
        return -ENOMEM;
    }
    memset(words, 0, bytes);
    for (uint64_t i = 0; i < entry->table_size; i++)
        words[i] = GUINT64_TO_BE(table[i]);
    offset = qcow2_alloc_clusters(s, bytes >> s->cluster_bits, error);
    ret = offset < 0 ? offset : qcow2_table_write(s, offset, words, bytes, "bitmap table", 0, error);
    free(words);
    if (ret < 0 && offset > 0)
        qcow2_free_now(s, offset, bytes);
    entry->table_offset = ret < 0 ? 0 : offset;
    return ret;
}

static int co_fn store_bits(Qcow2 *s, const BlockBitmap *bitmap, Qcow2BitmapEntry *entry,
                            uint64_t *table, GError **error)
{
    uint64_t disk = block_bitmap_size(bitmap);
    uint64_t cover = cluster_cover(s->cluster_size, entry->granularity_bits);
    uint8_t *bits = qcow2_memory(s, s->cluster_size);
    int ret = bits ? 0 : -ENOMEM;

    if (!bits)
        fail(error, ERR_LIMIT, "no memory for bitmap '%s'", entry->name);
    for (uint64_t i = 0; ret == 0 && i < entry->table_size; i++)
        table[i] = store_cluster(s, bitmap, i * cover, MIN(cover, disk - i * cover), bits, &ret,
                                 error);
    if (ret == 0)
        ret = store_table(s, entry, table, error);
    if (ret < 0)
        free_table(s, table, entry->table_size, qcow2_free_now);
    free(bits);
    return ret;
}

/* To new clusters; @entry then says where. */
static int co_fn store_one(Qcow2 *s, const BlockBitmap *bitmap, Qcow2BitmapEntry *entry,
                           GError **error)
{
    g_autofree uint64_t *table = NULL;

    *entry = (Qcow2BitmapEntry){ .type = QCOW2_BITMAP_DIRTY_TRACKING };
    entry->granularity_bits = __builtin_ctz(block_bitmap_granularity(bitmap));
    entry->name = (char *)block_bitmap_name(bitmap);
    entry->name_length = strlen(entry->name);
    entry->flags = block_bitmap_flags(bitmap) & BLOCK_BITMAP_RECORDING ? QCOW2_BITMAP_AUTO : 0;
    entry->table_size = table_entries(s->cluster_size, block_bitmap_size(bitmap),
                                      entry->granularity_bits);
    table = g_try_new0(uint64_t, MAX(entry->table_size, 1));
    if (table)
        return store_bits(s, bitmap, entry, table, error);
    fail(error, ERR_LIMIT, "no memory for the table of bitmap '%s'", entry->name);
    return -ENOMEM;
}

static void free_later(Qcow2 *s, uint64_t offset, uint64_t bytes)
{
    qcow2_free_later(s, offset, bytes, QCOW2_DISCARD_OTHER);
}

/* What an entry refers to; a table that cannot be read leaks its clusters, which a check finds. */
static void co_fn free_entry(Qcow2 *s, const Qcow2BitmapEntry *entry,
                             void (*give_back)(Qcow2 *s, uint64_t offset, uint64_t bytes))
{
    uint64_t *table = read_table(s, entry, NULL);

    if (!table)
        return;
    free_table(s, table, entry->table_size, give_back);
    if (entry->table_size)
        give_back(s, entry->table_offset, entry->table_size * (uint64_t)sizeof(uint64_t));
    free(table);
}

/* An entry stays as it is if its bitmap cannot be used, or is none of ours. */
static bool stays(Qcow2 *s, const Qcow2BitmapEntry *entry, const char *without)
{
    BlockBitmap *bitmap = block_bitmap_find(s->node, entry->name);

    if (without && !strcmp(entry->name, without))
        return false;
    if (entry->type != QCOW2_BITMAP_DIRTY_TRACKING)
        return true;
    return bitmap && block_bitmap_flags(bitmap) & BLOCK_BITMAP_INCONSISTENT;
}

static bool is_stored(const BlockBitmap *bitmap)
{
    return (block_bitmap_flags(bitmap) & (BLOCK_BITMAP_PERSISTENT | BLOCK_BITMAP_INCONSISTENT)) ==
           BLOCK_BITMAP_PERSISTENT;
}

static int co_fn store_all(Qcow2 *s, GArray *directory, const char *without, GError **error)
{
    BlockBitmap *bitmap = NULL;

    while ((bitmap = block_bitmap_next(s->node, bitmap))) {
        Qcow2BitmapEntry entry;
        int ret;

        if (!is_stored(bitmap) || !g_strcmp0(block_bitmap_name(bitmap), without))
            continue;
        ret = store_one(s, bitmap, &entry, error);
        if (ret < 0)
            return ret;
        qcow2_bitmap_dir_append(directory, &entry);
    }
    return 0;
}

/* All bitmaps, but that one, to a new directory; none of them is in use any more. */
static int co_fn store(Qcow2 *s, const char *without, GError **error)
{
    g_autoptr(GArray) old = qcow2_bitmap_dir_read(s, error), directory = qcow2_bitmap_dir_new();
    unsigned stored;
    int ret;

    if (!old)
        return -EIO;
    ret = store_all(s, directory, without, error);
    stored = directory->len;               /* first those that are sound: the journal is for them */
    for (unsigned i = 0; i < old->len; i++)
        if (stays(s, &g_array_index(old, Qcow2BitmapEntry, i), without))
            qcow2_bitmap_dir_append(directory, &g_array_index(old, Qcow2BitmapEntry, i));
    if (ret == 0)
        ret = qcow2_bitmap_dir_replace(s, directory, error);
    if (ret < 0) {
        for (unsigned i = 0; i < stored; i++)
            free_entry(s, &g_array_index(directory, Qcow2BitmapEntry, i), qcow2_free_now);
        return ret;
    }
    for (unsigned i = 0; i < old->len; i++)
        if (!stays(s, &g_array_index(old, Qcow2BitmapEntry, i), without))
            free_entry(s, &g_array_index(old, Qcow2BitmapEntry, i), free_later);
    return 0;
}

int co_fn qcow2_bitmaps_store(Qcow2 *s, GError **error)
{
    int ret = store(s, NULL, error);

    return ret == 0 ? qcow2_journal_end(s, error) : ret;
}

/* The disk first: what a bitmap is told to forget is not to come back after a crash.  Then the old
 * directory's journal has no purpose any more. */
static int co_fn store_and_go_on(Qcow2 *s, const char *without, GError **error)
{
    int ret = qcow2_settle(s);

    if (ret < 0)
        fail_errno(error, -ret, "'%s': writing metadata failed", block_node_filename(s->node));
    else
        ret = store(s, without, error);
    if (ret < 0)
        return ret;
    qcow2_journal_free(s);
    return qcow2_bitmaps_begin_use(s, error);
}

/* Should that fail, nobody is to believe what is stored, with whatever was written since. */
static int co_fn sync_bitmaps(BlockNode *node, const char *without, GError **error)
{
    Qcow2 *s = qcow2_of(node);
    int ret = qcow2_may_write(s);

    if (ret < 0) {
        fail_errno(error, -ret, "'%s' cannot be written", block_node_filename(node));
        return ret;
    }
    qcow2_exclusive_begin(s);
    ret = store_and_go_on(s, without, error);
    if (ret < 0)
        qcow2_journal_end(s, NULL);
    qcow2_exclusive_end(s);
    return ret;
}

int co_fn qcow2_co_sync_bitmaps(BlockNode *node, GError **error)
{
    return sync_bitmaps(node, NULL, error);
}

int co_fn qcow2_co_remove_bitmap(BlockNode *node, const char *name, GError **error)
{
    return sync_bitmaps(node, name, error);
}

/* Adding. */

static unsigned count_stored(BlockNode *node, uint64_t *ret_bytes)
{
    BlockBitmap *bitmap = NULL;
    unsigned n = 0;

    *ret_bytes = 0;
    while ((bitmap = block_bitmap_next(node, bitmap))) {
        if (!(block_bitmap_flags(bitmap) & BLOCK_BITMAP_PERSISTENT))
            continue;
        n++;
        *ret_bytes += ALIGN_UP(24 + strlen(block_bitmap_name(bitmap)), 8);
    }
    return n;
}

bool qcow2_can_store_bitmap(BlockNode *node, const char *name, uint32_t granularity, GError **error)
{
    Qcow2 *s = qcow2_of(node);
    uint64_t bytes;

    if (s->header.version < 3) {
        fail(error, ERR_UNSUPPORTED, "Cannot store dirty bitmaps in qcow2 v2 files");
        return error_hint(error, "amend the image to compat=1.1");
    }
    if (!s->writable)
        return fail(error, ERR_PERMISSION, "'%s' is not open for writing", block_node_filename(node));
    if (granularity < 1u << GRANULARITY_BITS_MIN)
        return fail(error, ERR_INVALID_PARAMETER, "Granularity is under minimum (%u bytes)",
                    1u << GRANULARITY_BITS_MIN);
    if (strlen(name) > QCOW2_BITMAP_NAME_MAX)
        return fail(error, ERR_LIMIT, "The bitmap's name is longer than %d bytes",
                    QCOW2_BITMAP_NAME_MAX);
    if (table_entries(s->cluster_size, s->header.size, __builtin_ctz(granularity)) >
        QCOW2_BITMAP_TABLE_MAX)
        return fail(error, ERR_LIMIT, "Too much space will be occupied by the bitmap. Use larger "
                                      "granularity");
    if (count_stored(node, &bytes) >= QCOW2_BITMAPS_MAX)
        return fail(error, ERR_LIMIT, "Maximum number of persistent bitmaps is already reached");
    if (bytes + ALIGN_UP(24 + strlen(name), 8) > QCOW2_BITMAP_DIRECTORY_MAX)
        return fail(error, ERR_LIMIT, "Not enough space in the bitmap directory");
    return true;
}

uint64_t qcow2_bitmaps_measure(BlockNode *node, uint64_t cluster_size)
{
    BlockBitmap *bitmap = NULL;
    uint64_t bytes, clusters = 0;

    while ((bitmap = block_bitmap_next(node, bitmap))) {
        uint64_t entries;

        if (!is_stored(bitmap))
            continue;
        entries = table_entries(cluster_size, block_bitmap_size(bitmap),
                                __builtin_ctz(block_bitmap_granularity(bitmap)));
        clusters += entries + ALIGN_UP(entries * sizeof(uint64_t), cluster_size) / cluster_size;
    }
    count_stored(node, &bytes);
    return clusters * cluster_size + ALIGN_UP(bytes, cluster_size);
}

#include "block/qcow2/journal.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <zlib.h>

enum { AT_CRC = 0, AT_REGION_BITS = 4, AT_OFFSET = 8, AT_LENGTH = 16, AT_SIZE = 24, AT_SOUND = 32,
       AT_MARK_BYTES = 36 };
enum { REGION_BITS_MIN = 16, MARK_BYTES_MAX = 4096, AHEAD_MAX = 64, SECTOR = 512 };

/* In memory. */

static void journal_new(Qcow2 *s, unsigned region_bits, uint32_t marks)
{
    Qcow2Journal *j = g_new0(Qcow2Journal, 1);
    uint64_t size = s->header.size;

    co_mutex_init(&j->lock);
    j->region_bits = region_bits;
    j->regions = (size >> region_bits) + !!(size & ((1ull << region_bits) - 1));
    j->words = j->regions / 64 + 1;
    j->wanted = g_new0(uint64_t, j->words);
    j->covered = g_new0(uint64_t, j->words);
    j->marks = g_malloc0(marks);
    j->mark_bytes = marks;
    j->next = UINT64_MAX;
    s->journal = j;
}

void qcow2_journal_free(Qcow2 *s)
{
    Qcow2Journal *j = g_steal_pointer(&s->journal);

    if (!j)
        return;
    g_free(j->wanted);
    g_free(j->covered);
    g_free(j->marks);
    g_free(j);
}

static bool is_marked(const uint64_t *words, uint64_t region)
{
    return __atomic_load_n(&words[region / 64], __ATOMIC_ACQUIRE) >> region % 64 & 1;
}

/* The extension. */

static uint32_t checksum(const uint8_t *data)
{
    return crc32(0, data + AT_REGION_BITS, QCOW2_JOURNAL_BYTES - AT_REGION_BITS);
}

uint64_t qcow2_journal_mark_bytes(const uint8_t *data, uint64_t length, uint64_t cluster_size)
{
    uint32_t bytes = length == QCOW2_JOURNAL_BYTES ? ld_be32(data + AT_MARK_BYTES) : 0;

    return bytes <= cluster_size / 2 ? bytes : 0;
}

uint64_t qcow2_journal_directory(const uint8_t *data)
{
    return ld_be64(data + AT_OFFSET);
}

static bool is_valid(const Qcow2 *s, const Qcow2Extension *e)
{
    uint64_t marks = e ? qcow2_journal_mark_bytes(e->data, e->length, s->cluster_size) : 0;
    unsigned bits;
    uint64_t regions;

    if (!(s->header.autoclear & QCOW2_AUTOCLEAR_JOURNAL) || !s->bitmaps_offset || !marks ||
        ld_be32(e->data) != checksum(e->data))
        return false;
    bits = ld_be32(e->data + AT_REGION_BITS);
    if (bits < REGION_BITS_MIN || bits > 62 || ld_be64(e->data + AT_OFFSET) != s->bitmaps_offset ||
        ld_be64(e->data + AT_LENGTH) != s->bitmaps_length ||
        ld_be64(e->data + AT_SIZE) != s->header.size)
        return false;
    regions = (s->header.size >> bits) + !!(s->header.size & ((1ull << bits) - 1));
    return regions <= marks * 8;
}

void co_fn qcow2_journal_open(Qcow2 *s)
{
    const Qcow2Extension *e = qcow2_extension(s, QCOW2_EXT_JOURNAL);
    Qcow2Journal *j;

    if (!is_valid(s, e))
        return;
    journal_new(s, ld_be32(e->data + AT_REGION_BITS), ld_be32(e->data + AT_MARK_BYTES));
    j = s->journal;
    if (qcow2_meta_read(s, s->cluster_size - j->mark_bytes, j->marks, j->mark_bytes,
                        "bitmap journal", NULL) < 0) {
        qcow2_journal_free(s);             /* the bitmaps are inconsistent, then */
        return;
    }
    for (uint64_t i = 0; i < j->regions; i++)
        if (j->marks[i / 8] >> i % 8 & 1)
            j->wanted[i / 64] |= 1ull << i % 64;
    memcpy(j->covered, j->wanted, j->words * sizeof(uint64_t));
}

bool qcow2_journal_knows(const Qcow2 *s, unsigned index)
{
    const Qcow2Extension *e = s->journal ? qcow2_extension(s, QCOW2_EXT_JOURNAL) : NULL;

    return e && index < ld_be32(e->data + AT_SOUND);
}

bool qcow2_journal_next(const Qcow2 *s, uint64_t from, uint64_t *ret_offset, uint64_t *ret_bytes)
{
    const Qcow2Journal *j = s->journal;

    /* Where the disk's last region ends is no region's start. */
    for (uint64_t i = ALIGN_UP(from, 1ull << j->region_bits) >> j->region_bits;
         i < j->regions && i << j->region_bits < s->header.size; i++) {
        if (!is_marked(j->covered, i))
            continue;
        *ret_offset = i << j->region_bits;
        *ret_bytes = MIN(1ull << j->region_bits, s->header.size - *ret_offset);
        return true;
    }
    return false;
}

/* Beginning and ending. */

/* Whole sectors where there is more than one: nobody else writes to those. */
static uint32_t mark_bytes(const Qcow2 *s)
{
    uint64_t bytes = MIN(MARK_BYTES_MAX, s->cluster_size / 4);

    return s->cluster_size > SECTOR ? MAX(bytes, SECTOR) : bytes;
}

static unsigned choose_region_bits(const Qcow2 *s)
{
    unsigned bits = REGION_BITS_MIN;

    while (s->header.size >> bits >= (uint64_t)mark_bytes(s) * 8)
        bits++;
    return bits;
}

static void fill_extension(Qcow2 *s, unsigned sound)
{
    uint8_t data[QCOW2_JOURNAL_BYTES] = { 0 };

    st_be32(data + AT_REGION_BITS, choose_region_bits(s));
    st_be64(data + AT_OFFSET, s->bitmaps_offset);
    st_be64(data + AT_LENGTH, s->bitmaps_length);
    st_be64(data + AT_SIZE, s->header.size);
    st_be32(data + AT_SOUND, sound);
    st_be32(data + AT_MARK_BYTES, mark_bytes(s));
    st_be32(data + AT_CRC, checksum(data));
    qcow2_extension_set(s, QCOW2_EXT_JOURNAL, data, sizeof(data));
}

/* It must be in the sector that has the autoclear bits, so that it changes with them; so are the bitmaps'
 * extension and that of checksums. */
static bool has_room(const Qcow2 *s)
{
    const Qcow2Extension *sums = qcow2_extension(s, QCOW2_EXT_CHECKSUMS);

    return qcow2_first_sector_has_room(s, sums ? 8 + sums->length : 0);
}

/*
 * The extension and the bit, in one sector, which is written when there are no marks.  Should the bit be
 * set before, the journal that it stands for is of a directory that is gone.  Wherever this is cut
 * off, the bitmaps are not in use yet: what is stored is believed, marks are not looked at.
 */
int co_fn qcow2_journal_begin(Qcow2 *s, unsigned sound, GError **error)
{
    uint64_t autoclear = s->header.autoclear;
    int ret;

    qcow2_journal_free(s);
    if (!sound || !has_room(s))
        return qcow2_journal_end(s, error);
    fill_extension(s, sound);
    s->header.autoclear |= QCOW2_AUTOCLEAR_JOURNAL;
    ret = qcow2_header_write(s, NULL);
    if (ret == 0) {
        journal_new(s, choose_region_bits(s), mark_bytes(s));
        return 0;
    }
    s->header.autoclear = autoclear;
    if (ret == -ENOSPC) {                  /* names leave no room */
        qcow2_extension_set(s, QCOW2_EXT_JOURNAL, NULL, 0);
        return qcow2_journal_end(s, error);
    }
    fail_errno(error, -ret, "'%s': writing the header failed", block_node_filename(s->file));
    return ret;
}

/* The extension stays where it is: the header's layout does not change each time. */
int co_fn qcow2_journal_end(Qcow2 *s, GError **error)
{
    int ret = qcow2_set_autoclear(s, 0, QCOW2_AUTOCLEAR_JOURNAL, error);

    if (ret == 0)
        qcow2_journal_free(s);
    return ret;
}

/* Marks. */

/* Who goes on where the last marks ended gets more of them in advance. */
static void look_ahead(Qcow2Journal *j, uint64_t first, uint64_t end)
{
    j->ahead = first == j->next ? MIN(MAX(j->ahead, 1) * 2, AHEAD_MAX) : 0;
    j->next = MIN(end + j->ahead, j->regions);
    for (uint64_t i = end; i < j->next; i++)
        __atomic_fetch_or(&j->wanted[i / 64], 1ull << i % 64, __ATOMIC_RELAXED);
}

/* All that is wanted becomes stable: one write, one flush, for all who wait. */
static int co_fn write_marks(Qcow2 *s)
{
    Qcow2Journal *j = s->journal;
    g_autofree uint64_t *taken = g_new(uint64_t, j->words);
    uint64_t first = UINT64_MAX, end = 0;
    int ret;

    for (uint64_t i = 0; i < j->words; i++) {
        uint64_t new;

        taken[i] = __atomic_load_n(&j->wanted[i], __ATOMIC_ACQUIRE);
        new = taken[i] & ~j->covered[i];
        for (; new; new &= new - 1) {
            uint64_t region = i * 64 + __builtin_ctzll(new);

            j->marks[region / 8] |= 1u << region % 8;
            first = MIN(first, region / 8);
            end = region / 8 + 1;
        }
    }
    if (first >= end)
        return 0;
    ret = qcow2_meta_write(s, s->cluster_size - j->mark_bytes + first, j->marks + first, end - first,
                           "bitmap journal", QCOW2_OL_MAIN_HEADER, NULL);
    if (ret == 0)
        ret = qcow2_flush_file(s, NULL);
    for (uint64_t i = 0; ret == 0 && i < j->words; i++)
        __atomic_fetch_or(&j->covered[i], taken[i], __ATOMIC_RELEASE);
    return ret;
}

int co_fn qcow2_journal_note(Qcow2 *s, uint64_t first, uint64_t end)
{
    Qcow2Journal *j = s->journal;
    bool wanting = false;
    int ret = 0;

    for (uint64_t i = first; i < end; i++)
        __atomic_fetch_or(&j->wanted[i / 64], 1ull << i % 64, __ATOMIC_RELEASE);
    co_mutex_lock(&j->lock);
    for (uint64_t i = first; i < end && !wanting; i++)
        wanting = !is_marked(j->covered, i);
    if (wanting) {
        look_ahead(j, first, end);
        ret = write_marks(s);
    }
    co_mutex_unlock(&j->lock);
    return ret;
}

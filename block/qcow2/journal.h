/*
 * What keeps stored bitmaps true after a kill or power cut: a coarse map of what was written since
 * they were stored.
 *
 * The disk is cut into regions.  Before the first write to a region its mark is on stable storage.
 * When the image is opened after a crash, a bitmap is what was stored and all marked regions: too
 * much, never too little.  What changes bitmaps but is no write (a merge, say) stores all of them
 * anew (qcow2_co_sync_bitmaps).
 *
 * The marks are the last bytes of the header's cluster, a bit for each region, the lowest first.  They
 * count only with a header extension and an autoclear bit of our own, which a program that does not
 * know it clears when it opens the image for writing.  The extension, in the header's first sector
 * like the bit, says for which bitmap directory it is (one that is replaced lies elsewhere) and how
 * many of its bitmaps were sound: those are its first ones.
 *
 *    0  CRC-32 of bytes 4 to 39           16  directory's length
 *    4  log2 of a region's bytes          24  size of the disk
 *    8  directory's offset                32  sound bitmaps
 *                                         36  bytes of marks
 */
#pragma once
#include "block/qcow2/bitmap-dir.h"

enum { QCOW2_JOURNAL_BYTES = 40 };          /* of its header extension */

struct Qcow2Journal {
    CoMutex lock;                          /* writing marks */
    unsigned region_bits;
    uint64_t regions, words;
    uint64_t *wanted, *covered;            /* atomic words: asked for; on stable storage */
    uint8_t *marks;                        /* lock: as they are, or are to be, on disk */
    uint32_t mark_bytes;
    uint64_t next, ahead;                  /* lock: where a writer in sequence would go on */
};

/* In open: s->journal becomes the one in the header, if it is valid for the directory there. */
void co_fn qcow2_journal_open(Qcow2 *s);
/* An extension's data: how many bytes of the cluster are marks (0: it is no journal), and the
 * offset of the directory that it is for. */
uint64_t qcow2_journal_mark_bytes(const uint8_t *data, uint64_t length, uint64_t cluster_size);
uint64_t qcow2_journal_directory(const uint8_t *data);
/* Whether entry @index of the directory was sound when the journal was begun. */
bool qcow2_journal_knows(const Qcow2 *s, unsigned index);
/* The first marked region that begins at or after disk offset @from; false: none. */
bool qcow2_journal_next(const Qcow2 *s, uint64_t from, uint64_t *ret_offset, uint64_t *ret_bytes);
void qcow2_journal_free(Qcow2 *s);         /* in memory only */

/* Under the exclusive gate (or in open).  A new journal without marks, for the directory that the
 * header names and of which no entry is in use; @sound: so many of its first bitmaps.  Without room
 * for it there is none: no failure. */
int co_fn qcow2_journal_begin(Qcow2 *s, unsigned sound, GError **error);
/* It does not count any more, on disk and in memory. */
int co_fn qcow2_journal_end(Qcow2 *s, GError **error);

/* In a request, before it writes: the regions' marks are stable. */
int co_fn qcow2_journal_note(Qcow2 *s, uint64_t first, uint64_t end);
static inline int co_fn qcow2_journal_cover(Qcow2 *s, uint64_t offset, uint64_t bytes)
{
    const Qcow2Journal *j = s->journal;
    uint64_t first, end;

    if (G_LIKELY(!j) || !bytes)
        return 0;
    first = offset >> j->region_bits;
    end = MIN(((offset + bytes - 1) >> j->region_bits) + 1, j->regions);
    for (uint64_t i = first; i < end; i++)
        if (G_UNLIKELY(!(__atomic_load_n(&j->covered[i / 64], __ATOMIC_ACQUIRE) >> i % 64 & 1)))
            return qcow2_journal_note(s, i, end);
    return 0;
}

/*
 * Checksums of the image's tables, for those who ask for them (the option `checksums`): refcount table and
 * blocks, L1 and L2 tables, those of snapshots, the snapshot table, the bitmaps' directory, tables and
 * bits.  So a table that the storage has changed is found when it is read, also where it still looks
 * like a table.
 *
 * A sum is the CRC-32C of a block of 4 KiB (of a cluster, if that is smaller); where a table ends within one, the
 * rest counts as zeroes.  In memory there are the sums of the blocks that were read or written since
 * the image was opened, and those that were stored.  A block of which none is known is taken as it is.
 *
 * They are stored when the image is closed, or is no longer writable: in free clusters behind the last one in
 * use, where nobody looks for leaks.  They count only with an autoclear bit of our own, which is in
 * force from then until the first table is written or cluster taken, or until a program opens the image for
 * writing that does not know the bit.  So what a crash leaves is an image without stored sums.  The header
 * extension, in the first sector like the bit, says that sums are wanted, bit or no bit:
 *
 *    0  CRC-32C of bytes 4 to 31          16  its bytes; 0: there is none
 *    4  version: 1                        24  its CRC-32C
 *    8  the stored table's offset         28  log2 of a block's bytes
 *
 * The table has runs of blocks, each: 8 bytes, the first one's offset in the file; 8 bytes, how many; then four
 * bytes for each.  All numbers are big-endian.
 */
#pragma once
#include "block/qcow2/qcow2.h"

struct Qcow2Sums {
    pthread_mutex_t mutex;
    unsigned block_bits;
    bool told;                             /* constant: what is read and differs is a corruption; else only
                                              those are told who look */
    bool sound;                            /* alone: refcounts are right: free clusters are free */
    CoMutex use_lock;                      /* after all others */
    gint stored;                           /* atomic; changes under use_lock: the bit is set */
    GHashTable *groups;                    /* mutex: 16 blocks in a row with sums */
    unsigned writing;                      /* mutex: writes to tables under way */
    uint64_t changes;                      /* mutex: such writes begun and ended */
};

typedef struct Qcow2Mismatch {             /* a block that is not what it was */
    const char *what;                      /* the table: "L2 table" */
    uint64_t table, offset;                /* where it is; the block */
    uint32_t stored, found;
} Qcow2Mismatch;

/* The option.  set_on changes the header in memory; the caller writes it, and has found room. */
bool qcow2_sums_on(const Qcow2 *s);
bool qcow2_sums_has_room(const Qcow2 *s);
void qcow2_sums_set_on(Qcow2 *s, bool on);

/* In open, with the header read: what is stored, if it counts.  @check: the image is opened to be
 * repaired. */
void co_fn qcow2_sums_open(Qcow2 *s, bool check);
/* In memory, without any that are known; and no more. */
void qcow2_sums_start(Qcow2 *s, bool told);
void qcow2_sums_free(Qcow2 *s);

/* Before tables are written or clusters taken: what is stored does not count any more, on stable storage. */
int co_fn qcow2_sums_end_stored(Qcow2 *s, GError **error);
static inline bool qcow2_sums_stored(const Qcow2 *s)
{
    return s->sums && __atomic_load_n(&s->sums->stored, __ATOMIC_ACQUIRE);
}
static inline int co_fn qcow2_sums_begin_use(Qcow2 *s, GError **error)
{
    return G_UNLIKELY(qcow2_sums_stored(s)) ? qcow2_sums_end_stored(s, error) : 0;
}
/* Alone, with nothing dirty: stores them.  Where that cannot be done there are none. */
void co_fn qcow2_sums_store(Qcow2 *s);

/* qcow2_meta_read and _write of tables.  Reading a table that is not what it was is a corruption. */
int co_fn qcow2_table_read(Qcow2 *s, uint64_t offset, void *buffer, uint64_t bytes, const char *what,
                           GError **error);
int co_fn qcow2_table_write(Qcow2 *s, uint64_t offset, const void *buffer, uint64_t bytes,
                            const char *what, unsigned own, GError **error);
int co_fn qcow2_table_writev(Qcow2 *s, uint64_t offset, const struct iovec *iov, int iovcnt,
                             uint64_t bytes, const char *what, unsigned own, GError **error);
/* Reads what is on disk now, and appends to @found what is not what it was: no corruption yet. */
int co_fn qcow2_table_look(Qcow2 *s, uint64_t offset, void *buffer, uint64_t bytes, const char *what,
                           GArray *found, GError **error);
/* "ERROR", "checksum …": a line for a person; g_free. */
char *qcow2_mismatch_text(const char *verb, const Qcow2Mismatch *m);

/* What is known of blocks.  Zeroed: new tables, that read as zeroes. */
void qcow2_sums_note_zeroed(Qcow2 *s, uint64_t offset, uint64_t bytes);
void qcow2_sums_note_gone(Qcow2 *s, uint64_t offset, uint64_t bytes);
static inline void qcow2_sums_zeroed(Qcow2 *s, uint64_t offset, uint64_t bytes)
{
    if (G_UNLIKELY(s->sums))
        qcow2_sums_note_zeroed(s, offset, bytes);
}
static inline void qcow2_sums_gone(Qcow2 *s, uint64_t offset, uint64_t bytes)
{
    if (G_UNLIKELY(s->sums))
        qcow2_sums_note_gone(s, offset, bytes);
}
void qcow2_sums_forget(Qcow2 *s);          /* all */
/* The block is right as it was found; false: it is not any more what it was then. */
bool qcow2_sums_accept(Qcow2 *s, const Qcow2Mismatch *m);

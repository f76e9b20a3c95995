/*
 * Checking an image: the parts of one run.  check-walk.c counts what refers to each host cluster,
 * check-refs.c compares that with the refcounts, check-sums.c tables with their checksums, check-repair.c
 * mends, check.c puts them together.  scrub.c uses the first three while the image is in use.
 */
#pragma once
#include "block/qcow2/qcow2.h"

/*
 * check.c.  For the image tool's check and repair, and for the repair that opening a dirty image
 * needs.  Not inside a request: waits until it is alone.  @fix needs an image open for writing; a corrupt
 * one may be.  0: checked, whatever was found.
 */
int co_fn qcow2_check(Qcow2 *s, BlockCheck *check, unsigned fix, GError **error);
int co_fn qcow2_co_check(BlockNode *node, BlockCheck *check, unsigned fix, GError **error);

/* Refcounts of 1 << @order bits: counts all references and makes new structures.  Alone, and nothing is
 * dirty.  On failure the image is as it was. */
int co_fn qcow2_change_refcount_width(Qcow2 *s, unsigned order, GError **error);

/* Alone, and nothing is dirty: the checksums of all tables, of which none were known.  An image with errors is
 * refused. */
int co_fn qcow2_check_take_sums(Qcow2 *s, GError **error);

/* In Qcow2Check.refs beside the count: what the active tables' entries for the cluster say. */
#define CHECK_COPIED (1u << 31)
#define CHECK_NOT_COPIED (1u << 30)
#define CHECK_COUNT (CHECK_NOT_COPIED - 1)

typedef struct Qcow2Live Qcow2Live;        /* scrub.h */

typedef struct Qcow2Check {
    Qcow2 *s;
    BlockCheck *result;
    unsigned fix;                          /* what will be mended after this run: BLOCK_FIX_ */
    bool mending;                          /* tell only what will be mended: a second run follows */
    uint32_t *refs;                        /* of each host cluster */
    uint64_t clusters;                     /* in refs */
    uint64_t file_bytes;
    uint64_t used_end;                     /* host cluster after the last one in use */
    uint64_t table, index;                 /* the L2 entry that is being looked at; table 0: none */
    /* The refcount table, in host byte order, and where it lies. */
    const uint64_t *reftable;
    uint64_t reftable_size, reftable_offset, reftable_bytes;
    Qcow2Live *live;                       /* a scrub; NULL: the image stands still */
    uint64_t mismatches;                   /* blocks of tables that are not what they were */
    bool wrong_refcounts, wrong_copied;    /* to be mended */
    bool rebuild;                          /* the refcount structures cannot be mended in place */
} Qcow2Check;

static inline uint32_t check_count(const Qcow2Check *c, uint64_t cluster)
{
    return c->refs[cluster] & CHECK_COUNT;
}

/* Tells a finding; @mended: it is one that will be mended. */
void check_say(Qcow2Check *c, bool mended, const char *format, ...) G_GNUC_PRINTF(3, 4);
/* The same for a corruption that cannot be mended; counts it. */
void check_corrupt(Qcow2Check *c, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* A table that cannot be read; counts it, frees @error. */
void check_unreadable(Qcow2Check *c, GError *error);

/* check-walk.c.  Fills in refs and what the result says of the disk.  0, or -errno. */
int co_fn qcow2_check_walk(Qcow2Check *c, GError **error);
/* A reference to each cluster that the host bytes touch.  False: they are no place in the file; said. */
bool check_reference(Qcow2Check *c, uint64_t offset, uint64_t bytes);

/* check-sums.c.  Reads a table, and tells where it is not what it was. */
int co_fn check_look(Qcow2Check *c, uint64_t offset, void *data, uint64_t bytes, const char *what,
                     GError **error);
void check_mismatches(Qcow2Check *c, const GArray *found);   /* of Qcow2Mismatch: tells them */
/* Those that a check takes from memory, as they are on disk; a bitmap's cluster of bits. */
void co_fn check_tables_in_memory(Qcow2Check *c);
void co_fn check_bits(Qcow2Check *c, uint64_t offset);

/* check-refs.c.  The refcount table and blocks themselves, then the refcounts. */
int co_fn qcow2_check_refcounts(Qcow2Check *c, GError **error);

/* check-repair.c.  What the run has found with c->fix set. */
int co_fn qcow2_check_repair(Qcow2Check *c, GError **error);
/* New refcount structures, of the width that s says now, for what the run has counted. */
int co_fn qcow2_check_rebuild(Qcow2Check *c, GError **error);

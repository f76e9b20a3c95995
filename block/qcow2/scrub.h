/*
 * Scrub: a check while the image is in use.
 *
 * It walks as a check does (check-walk.c, check-refs.c), in steps that each pass the gate like a
 * request: one table is read, as it is in memory where that is newer than the file.  Requests go on
 * meanwhile, and note what they touch (touched.c); what is found about a touched cluster is not
 * told.  The gate is closed twice, before the walk and after it, for as long as requests need that
 * are under way.  Where somebody else was alone in between (a snapshot, a change of size) all
 * begins anew.
 */
#pragma once
#include "block/qcow2/check.h"

/* A host cluster whose count, or whose entry's flag, is wrong. */
typedef struct Qcow2Found {
    uint64_t cluster, stored, counted;
    bool copied;                           /* it is the COPIED flag of the active entry */
    bool located;
    bool in_l1;                            /* where an entry for it is: */
    uint64_t table, index, guest, entry;
} Qcow2Found;

struct Qcow2Live {
    Qcow2 *s;
    BlockScrub *scrub;
    Qcow2Check *c;
    Qcow2Ticket ticket;                    /* of the step */
    int turns;                             /* of the exclusive gate, that were before the walk */
    GArray *found;                         /* of Qcow2Found, in order of their clusters */
    GArray *mismatches;                    /* of Qcow2Mismatch (checksums.h) */
    uint64_t mended;                       /* acts that were done, but for leaks */
};

/* Somebody else was alone since the walk began: what was found says nothing. */
static inline bool qcow2_live_disturbed(const Qcow2Live *live)
{
    return __atomic_load_n(&live->s->exclusive_turns, __ATOMIC_SEQ_CST) != live->turns;
}

/* scrub.c.  Hooks of the walk, all within a step. */
/* Ends a step that read so many bytes, waits, begins another.  -ECANCELED: the scrub is to end;
 * -EAGAIN: somebody was alone in between. */
int co_fn qcow2_live_step(Qcow2Live *live, uint64_t bytes);
uint64_t qcow2_live_end(Qcow2Live *live);  /* no reference points past it: host offset */
/* It came or went since the scrub began. */
bool qcow2_live_is_new(Qcow2Live *live, uint64_t offset);
/* The counts of a cluster of which all references are counted. */
void qcow2_live_compare(Qcow2Live *live, uint64_t cluster, uint64_t stored);
/* Blocks of tables that are not what they were (of Qcow2Mismatch). */
void qcow2_live_mismatches(Qcow2Live *live, const GArray *found);
/* A whole cluster of L2 entries or refcounts, each slice as it is at some moment from now on. */
int co_fn qcow2_read_current(Qcow2Cache *cache, uint64_t offset, uint8_t *data, GError **error);
/* The same, and what is on disk is compared with its checksums. */
int co_fn qcow2_live_read(Qcow2Live *live, Qcow2Cache *cache, uint64_t offset, uint8_t *data,
                          GError **error);

/* scrub-plan.c */
/* Looks for the entries that refer to what was found; as the walk. */
int co_fn qcow2_live_locate(Qcow2Live *live);
/* What was found, told in scrub->findings and scrub->plan. */
void qcow2_live_tell(Qcow2Live *live);
/* Does what scrub->apply says, where it is still what was found.  Outside steps. */
int co_fn qcow2_live_apply(Qcow2Live *live, GError **error);
int co_fn qcow2_co_scrub(BlockNode *node, BlockScrub *scrub, GError **error);
void qcow2_live_finding(BlockScrub *scrub, json_object *finding);   /* takes it over */

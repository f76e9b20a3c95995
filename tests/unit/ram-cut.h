/*
 * Power cuts from a log of ram-disk.h: at any place in it, what the disks may hold.  A sector that was
 * written and not flushed may have what it had, or anything that was written to it since; a request is
 * flushed when it had ended before the flush began.  From place to place the work is that of the entries in
 * between, so that one run of a test is good for many cuts.
 */
#pragma once
#include "tests/unit/ram-disk.h"

typedef struct RamReplay {
    unsigned at;                           /* entries of the log so far */
    struct RamStable {
        uint8_t *data;                     /* RAM_BYTES */
        uint32_t *version;                 /* by sector: entry + 1 that it is from */
        uint64_t size, latest_size;        /* flushed; as it was seen */
    } disks[RAM_DISKS];
    GArray *pending;                       /* of unsigned: entries that are not flushed */
} RamReplay;

/* To be called when the log begins: what the disks have then is stable. */
RamReplay *ram_replay_new(void);
void ram_replay_free(RamReplay *r);
/* The next entry, taken into account; NULL: there are no more. */
const RamEntry *ram_replay_step(RamReplay *r);
/* The power goes: the disks of `ram` are what is left.  The replay can go on. */
void ram_replay_cut(const RamReplay *r, GRand *rand);
/* The same, where of the sectors that were not flushed, in the order they were written, only those from
 * @first to @end - 1 are there.  Returns how many there were. */
unsigned ram_replay_tear(const RamReplay *r, unsigned first, unsigned end);

/* For those who cut where they are: all that happens from ram_watch on may be cut off by ram_power_cut, which
 * also ends all failures and begins to watch anew. */
void ram_watch(void);
void ram_power_cut(GRand *rand);

/*
 * Disks in memory, the driver `ram`: below the images of tests and of fuzz targets.  A disk takes its time
 * in an order that the seeded scheduler draws, spoils what is discarded, fails when told to, and writes
 * down what happens to it (ram-cut.h makes power cuts of that).
 *
 * Options: `disk` (0 … RAM_DISKS - 1).  Several nodes on one disk see the same bytes.
 */
#pragma once
#include "block/driver.h"

enum { RAM_DISKS = 3, RAM_BYTES = 16 << 20, RAM_SECTOR = 512 };

/* What happened, in this order. */
typedef enum RamWhat { RAM_WRITTEN, RAM_FLUSHED, RAM_RESIZED, RAM_NOTE } RamWhat;
typedef struct RamEntry {
    RamWhat what;
    unsigned disk;
    uint64_t offset, bytes;                /* RESIZED: bytes: the new size */
    uint8_t *data;                         /* WRITTEN: owned */
    unsigned request;                      /* WRITTEN: of which it is a part */
    unsigned begun;                        /* FLUSHED: requests that had ended before have a lower `ended` */
    int note[4];                           /* a test's own */
} RamEntry;

typedef struct RamDisk {
    uint8_t *data;                         /* RAM_BYTES, no part of the heap: leak checks pass it over */
    uint64_t size;
} RamDisk;

typedef struct Ram {
    RamDisk disks[RAM_DISKS];
    unsigned requests;                     /* so far, to all disks */
    unsigned fail_at;                      /* the request that fails; 0: none */
    bool dead;                             /* so do all after it */
    const char *fail_what;                 /* of these only those fail, as `before` names them; NULL: all */
    int fail_with;                         /* positive errno */
    void (*before)(const char *what);      /* a request ("read", "write", "zero", "discard", "flush",
                                              "resize") is about to be done: a coroutine, may wait */
    GArray *log;                           /* of RamEntry; NULL: nothing is written down */
    bool paused;                           /* neither is it now */
    GArray *ended;                         /* of unsigned, by request: when it had ended, in entries of
                                              the log; UINT_MAX: not */
} Ram;
extern Ram ram;

/* A disk's bytes, to begin with them again and again. */
typedef struct RamCopy {
    uint8_t *data;                         /* owned */
    uint64_t size;
} RamCopy;
RamCopy ram_copy(unsigned disk);
void ram_restore(const RamCopy *copy);     /* ram_clear, and @copy is disk 0 */

void ram_clear(void);                      /* all disks empty, no failures, no log */
void ram_log_start(void);
void ram_log_stop(void);                   /* forgets the log */
void ram_log_pause(void);                  /* what happens now is no part of it */
void ram_log_resume(void);
void ram_log_note(int a, int b, int c, int d);

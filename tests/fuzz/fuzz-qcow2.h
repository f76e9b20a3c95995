/* The qcow2 target: what its parts share. */
#pragma once
#include "block/bitmap.h"
#include "block/image.h"
#include "src/base/util.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/ram-disk.h"

enum { MODEL_BYTES = 256 << 10, LONGEST = 128 << 10, OPERATIONS_MAX = 48, SNAPSHOTS = 4, BITMAPS = 2,
       TAKEN_MAX = 16 };
enum { DISK_IMAGE, DISK_DATA, DISK_BACKING };
enum { WITH_BACKING = 1, WITH_CONTENT = 2, WITH_SNAPSHOTS = 4, WITH_BITMAPS = 8, WITH_ALL = 15 };

typedef struct Kind {                      /* of images */
    const char *create;                    /* options */
    uint64_t size, cluster;
    bool narrow;                           /* refcounts: a snapshot may not fit */
    bool data_file, luks, v2;
} Kind;

typedef struct Disk {                      /* the model */
    uint64_t size;
    uint8_t bytes[MODEL_BYTES];
} Disk;

typedef struct Models {
    Disk now;
    Disk *snapshots[SNAPSHOTS];            /* owned; NULL: not taken */
} Models;

typedef struct World {
    Object *root;
    BlockGraph *graph;
    BlockUser *user;                       /* NULL: the image does not open */
    const Kind *kind;                      /* NULL: the image is the input */
    unsigned with;
    Models models;
    bool sound;                            /* nobody damaged it */
    bool failed;                           /* a request failed on purpose: there may be leaks */
    unsigned taken;                        /* snapshots, whatever became of them: the disk has an end */
    bool verbose;                          /* FUZZ_VERBOSE: name operations, compare after each */
} World;

#define REQUIRE(world, condition, ...)                                                             \
    do {                                                                                           \
        if ((world)->sound && !(condition))                                                        \
            fuzz_fail(__VA_ARGS__);                                                                  \
    } while (0)

/* Changes up to 8 places of the image (fuzz-qcow2-damage.c): fields of the header, entries of tables,
 * anything.  @data has room for @max bytes.  Returns how many changes the input asked for. */
unsigned damage_image(Input *in, uint8_t *data, uint64_t *size, uint64_t max);

/* fuzz-qcow2-model.c */
uint8_t backing_byte(const World *w, uint64_t at);
void show_backing(World *w);               /* the model is what the backing file has */
void forget_snapshots(Models *m);
int co_fn read_disk(BlockUser *user, uint64_t offset, void *buffer, uint64_t bytes);
/* The range must read as the model has it. */
void co_fn compare(World *w, uint64_t offset, uint64_t bytes);
void co_fn compare_all(void *world);
/* After a request that failed on purpose: what is there now is right. */
void co_fn adopt(World *w);
/* Some work goes on without what failed: leaks are what it costs. */
void note_failure(World *w);
/* False: it failed.  @may_fail: also when no request was made to. */
bool co_fn succeeded(World *w, int ret, bool may_fail, const char *what);

/* fuzz-qcow2-open.c: opening (another @how: other options), closing, and the operations that are made of
 * these. */
void open_image(World *w, unsigned how);
void close_image(World *w);
void op_reopen(World *w, Input *in);
void op_read_only(World *w, Input *in);

/* fuzz-qcow2-operations.c: to the end of the input, and a check. */
void co_fn check_image(World *w, unsigned fix);
void op_bitmap(World *w, Input *in);
void run_operations(World *w, Input *in);

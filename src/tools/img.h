/*
 * vireo-img: what its commands share.  A command is an entry of the table in vireo-img.c, with a
 * table of its options; help, the manual page and parsing come from these tables.
 *
 * Everything runs in the main thread but for what img-convert.c says of its own.
 */
#pragma once
#include <stdio.h>
#include "block/chain.h"
#include "block/image.h"

typedef struct Img Img;

typedef struct ImgOption {
    int key;                               /* the letter, or one of IMG_… */
    const char *name;                      /* the long form; NULL: none */
    const char *value;                     /* how help shows the value; NULL: takes none */
    const char *help;
} ImgOption;

enum {                                     /* options without a letter */
    IMG_OBJECT = 256, IMG_IMAGE_OPTS, IMG_TARGET_IMAGE_OPTS, IMG_TARGET_IS_ZERO, IMG_OUTPUT,
    IMG_BACKING_CHAIN, IMG_BITMAPS, IMG_SKIP_BROKEN_BITMAPS, IMG_SALVAGE, IMG_SHRINK,
    IMG_PREALLOCATION, IMG_SIZE, IMG_FORCE, IMG_ADD, IMG_REMOVE, IMG_CLEAR, IMG_ENABLE,
    IMG_DISABLE, IMG_MERGE, IMG_FLUSH_INTERVAL, IMG_NO_DRAIN, IMG_PATTERN,
    IMG_PLAN, IMG_APPLY
};

/* Options that many commands take. */
#define IMG_COMMON                                                                                 \
    { IMG_OBJECT, "object", "OBJECT", "a user creatable object, as vireo's -object" },             \
    { 'q', "quiet", NULL, "print nothing but errors" }
#define IMG_SOURCE                                                                                 \
    { 'f', "format", "FMT", "the image's format; without it its first bytes tell" },               \
    { IMG_IMAGE_OPTS, "image-opts", NULL,                                                          \
      "FILENAME is a list of block options: driver=qcow2,file.filename=…" }
#define IMG_SHARE                                                                                  \
    { 'U', "force-share", NULL, "open an image that another process writes; what is read may be "  \
                                "in the middle of a change" }
#define IMG_CACHE                                                                                  \
    { 't', "cache", "CACHE",                                                                       \
      "none, writeback, writethrough, directsync or unsafe: how the image is written" }
#define IMG_SOURCE_CACHE { 'T', "source-cache", "CACHE", "the same for images that are read" }
#define IMG_PROGRESS { 'p', "progress", NULL, "show how far it is" }
#define IMG_JSON { IMG_OUTPUT, "output", "human|json", "how the result is written" }

typedef struct ImgCommand {
    const char *name, *operands, *help;
    int (*run)(Img *img, GError **error);  /* the exit status; with *error set: also its report */
    const ImgOption *options;              /* ended by a key 0 */
    unsigned min, max;                     /* operands */
    bool size_last;                        /* the last operand may be "-10M" */
    const char *details;                   /* for the manual page; paragraphs end with newlines */
} ImgCommand;

typedef struct ImgGiven {
    int key;
    const char *value;                     /* NULL: the option takes none */
} ImgGiven;

typedef struct ImgProgress {
    bool bar;
    uint64_t total, done;                  /* any unit; done: atomic */
    double shown;                          /* percent */
} ImgProgress;

struct Img {
    Object *root;
    BlockGraph *graph;
    const ImgCommand *command;
    GArray *given;                         /* of ImgGiven, as on the command line */
    char **operands;
    unsigned n_operands;
    bool quiet, json;
    ImgProgress progress;
};

/* What was given. */
bool img_has(const Img *img, int key);
const char *img_value(const Img *img, int key);   /* the last one; NULL: none */
/* All values of an option joined by commas (-o a -o b); NULL: none; g_free. */
char *img_values(const Img *img, int key);
/* A size or number of an option; absent: *ret stays.  The error names the option as it was written.
 */
bool img_size_value(const Img *img, int key, const char *what, uint64_t *ret, GError **error);
bool img_parse_size(const char *text, const char *what, uint64_t *ret, GError **error);
/* The wrong use of a command: an error to which --help is the remedy. */
int img_usage(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* printf, but for -q. */
void img_print(const Img *img, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* img-image.c: opening. */
enum {
    IMG_WRITE = 1, IMG_RESIZE = 2,
    IMG_NO_BACKING = 4,                    /* the backing file is not opened */
    IMG_IS_OPTIONS = 8,                    /* name is --image-opts' text */
    IMG_FORCE_SHARE = 16,
    IMG_SHARE_WRITES = 32,                 /* other nodes of ours write it, too */
    IMG_REPAIR = 64,                       /* it may be corrupt, and nothing is mended by itself */
    IMG_HEADER_ONLY = 128                  /* no data is read: no key is needed */
};
typedef struct ImgOpen {
    const char *name, *format, *cache;     /* format, cache: NULL: guessed; writeback */
    unsigned flags;
    json_object *more;                     /* further members for the format's node; NULL: none */
    const char *aio;                       /* of a file; NULL: its default */
} ImgOpen;
typedef struct ImgImage {
    BlockNode *node;
    BlockUser *user;
} ImgImage;
bool img_open(Img *img, const ImgOpen *how, ImgImage *image, GError **error);
/* @name with -f, --image-opts, -U, and -t (written) or -T as they were given. */
bool img_open_given(Img *img, const char *name, unsigned flags, ImgImage *image, GError **error);
void img_close(ImgImage *image);           /* flushes what was written; {0} is fine */
bool img_flush(ImgImage *image, GError **error);
/* Flushes; then closes.  False: data may not have reached the disk. */
bool img_finish(ImgImage *image, GError **error);

/* img-output.c */
char *img_size_text(uint64_t bytes);       /* "1.5 MiB"; g_free */
void img_print_json(json_object *value);
void img_print_snapshots(GPtrArray *snapshots);
/* -o help.  @filename: NULL: none was given, and what its protocol takes is left out. */
void img_print_create_options(const char *format, const char *filename);
void img_print_amend_options(const char *format);
void img_progress_begin(Img *img, uint64_t total);
void img_progress_add(Img *img, uint64_t n);
void img_progress_end(Img *img);

/* Commands. */
extern const ImgCommand img_amend, img_bench, img_bitmap, img_check, img_commit, img_compare,
    img_convert, img_create, img_dd, img_info, img_map, img_measure, img_rebase, img_resize,
    img_snapshot;

/* What several commands do. */
/* -o's words; "help" asks for the list.  NULL with *error, or with *ret_help. */
json_object *img_create_words(const Img *img, bool *ret_help, GError **error);
/* A snapshot named by -l of convert and measure: "NAME_OR_ID" or "snapshot.id=…,snapshot.name=…".
 */
bool img_load_snapshot(ImgImage *image, const char *param, GError **error);

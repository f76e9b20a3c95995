/*
 * The directory of the bitmaps that are stored in an image: qcow2 specification, "Bitmaps extension",
 * "Bitmap directory", "Bitmap table".
 */
#pragma once
#include "block/qcow2/qcow2.h"

/* Limits as QEMU has them, so that each reads what the other wrote. */
enum { QCOW2_BITMAPS_MAX = 65535, QCOW2_BITMAP_NAME_MAX = 1023 };
#define QCOW2_BITMAP_DIRECTORY_MAX ((uint64_t)QCOW2_BITMAPS_MAX * 1024)
#define QCOW2_BITMAP_TABLE_MAX 0x8000000u  /* entries */

enum { QCOW2_BITMAP_IN_USE = 1, QCOW2_BITMAP_AUTO = 2, QCOW2_BITMAP_EXTRA_COMPATIBLE = 4 };
enum { QCOW2_BITMAP_DIRTY_TRACKING = 1 };

#define QCOW2_BITMAP_TABLE_OFFSET 0x00fffffffffffe00ull
#define QCOW2_BITMAP_TABLE_RESERVED 0xff000000000001feull
#define QCOW2_BITMAP_TABLE_ONES 1ull       /* with offset 0: all bits are set */

typedef struct Qcow2BitmapEntry {
    uint64_t table_offset;
    uint32_t table_size;                   /* entries */
    uint32_t flags;
    uint8_t type, granularity_bits;
    uint16_t name_length;
    uint32_t extra_length;
    char *name;                            /* owned, NUL-terminated */
    uint8_t *extra;                        /* owned */
} Qcow2BitmapEntry;

/* All entries (of Qcow2BitmapEntry; freed with the array), or NULL: unreadable or ill-formed. */
GArray *co_fn qcow2_bitmap_dir_read(Qcow2 *s, GError **error);
/* The same; where it is not what it was, that is appended to @found (of Qcow2Mismatch) and no corruption. */
GArray *co_fn qcow2_bitmap_dir_look(Qcow2 *s, GArray *found, GError **error);
/* The entries' length on disk, bytes. */
uint64_t qcow2_bitmap_dir_bytes(const GArray *directory);
/* Writes the directory over the one that is there; it has the same length.  No flush. */
int co_fn qcow2_bitmap_dir_rewrite(Qcow2 *s, const GArray *directory, GError **error);
/*
 * A new directory, then the header with its place (none when it is empty) and the autoclear bit set or
 * cleared, then the old one is freed.  Flushes.  On failure the old directory is still in force.
 */
int co_fn qcow2_bitmap_dir_replace(Qcow2 *s, const GArray *directory, GError **error);
GArray *qcow2_bitmap_dir_new(void);
void qcow2_bitmap_dir_append(GArray *directory, const Qcow2BitmapEntry *entry);   /* a copy */

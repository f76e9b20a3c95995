/*
 * Damage to a sound image.  A change is a structure, a place in it and what becomes of the bytes there:
 * random bytes in a file of many clusters would nearly always fall on data.
 */
#include "block/qcow2/qcow2.h"
#include "tests/fuzz/fuzz-qcow2.h"

typedef struct Image {
    uint8_t *data;
    uint64_t size, max;
    uint64_t cluster;
} Image;

typedef struct Area {
    uint64_t offset, bytes;
} Area;

static uint64_t field(const Image *image, uint64_t at, unsigned bytes)
{
    if (at > image->max - bytes)
        return 0;
    return bytes == 4 ? ld_be32(image->data + at) : ld_be64(image->data + at);
}

/* The @n-th entry of a table that names something. */
static uint64_t named(const Image *image, Area table, uint64_t mask, unsigned n)
{
    uint64_t entries = MIN(table.bytes / 8, 4096), found = 0;

    for (uint64_t i = 0, left = n % 4; i < entries; i++) {
        uint64_t offset = field(image, table.offset + i * 8, 8) & mask;

        if (!offset)
            continue;
        found = offset;
        if (!left--)
            break;
    }
    return found;
}

static Area l1_table(const Image *image)
{
    return (Area){ field(image, 40, 8), field(image, 36, 4) * 8 };
}

static Area refcount_table(const Image *image)
{
    return (Area){ field(image, 48, 8), field(image, 56, 4) * image->cluster };
}

static Area snapshot_table(const Image *image)
{
    return (Area){ field(image, 64, 8), 128 };
}

/* The data of a header extension. */
static Area extension(const Image *image, uint32_t type)
{
    uint64_t at = field(image, 4, 4) > 2 ? field(image, 100, 4) : QCOW2_V2_HEADER;

    for (unsigned i = 0; i < 16 && at < image->cluster; i++) {
        uint64_t length = field(image, at + 4, 4);

        if (field(image, at, 4) == type)
            return (Area){ at + 8, length };
        at += 8 + ALIGN_UP(length, 8);
    }
    return (Area){ 0 };
}

static Area bitmap_directory(const Image *image)
{
    Area data = extension(image, QCOW2_EXT_BITMAPS);

    return data.bytes ? (Area){ field(image, data.offset + 16, 8), field(image, data.offset + 8, 8) }
                      : data;
}

static Area area_of(const Image *image, unsigned kind, unsigned n)
{
    switch (kind) {
    case 0:
        return (Area){ 0, QCOW2_HEADER_MAX };
    case 1:
        return (Area){ QCOW2_V2_HEADER, 512 };
    case 2:
        return l1_table(image);
    case 3:
        return (Area){ named(image, l1_table(image), QCOW2_OFFSET_MASK, n), image->cluster };
    case 4:
        return refcount_table(image);
    case 5:
        return (Area){ named(image, refcount_table(image), QCOW2_REFTABLE_OFFSET_MASK, n),
                       image->cluster };
    case 6:
        return snapshot_table(image);
    case 7:                                /* the first snapshot's L1 table */
        return (Area){ field(image, snapshot_table(image).offset, 8), 64 };
    case 8:
        return bitmap_directory(image);
    case 9:                                /* the first bitmap's table */
        return (Area){ field(image, bitmap_directory(image).offset, 8), 64 };
    default:
        return (Area){ 0, image->size };
    }
}

/* An offset of something, or a number at a limit. */
static uint64_t interesting(const Image *image, unsigned which)
{
    static const uint64_t numbers[] = { 0, 1, 511, 512, INT32_MAX, UINT32_MAX, 1ull << 40,
                                        1ull << 55, INT64_MAX, UINT64_MAX };
    unsigned n = G_N_ELEMENTS(numbers);

    if (which % 32 < n)
        return numbers[which % 32];
    if (which % 32 < n + 10)
        return area_of(image, which % 32 - n, which / 32).offset;
    return ALIGN_DOWN(image->size, image->cluster) + (which % 32 - n - 10) * image->cluster;
}

static void change(Input *in, Image *image)
{
    static const uint64_t flags[] = { 0, QCOW2_COPIED, QCOW2_COMPRESSED, QCOW2_ZERO,
                                      QCOW2_COPIED | QCOW2_ZERO, 8, 512, QCOW2_COPIED | 1ull << 56 };
    unsigned kind = take(in, 1), place = take(in, 2), how = take(in, 1), value = take(in, 1);
    Area area = area_of(image, kind % 12, kind / 12);
    uint64_t at = area.offset + (area.bytes ? place % area.bytes : 0);

    if (how % 8 >= 2)
        at = ALIGN_DOWN(at, how % 8 == 3 ? 4 : 8);
    if (at > image->max - 8)
        return;
    switch (how % 8) {
    case 0:
        image->data[at] = value;
        break;
    case 1:
        image->data[at] ^= 1 << value % 8;
        break;
    case 2:
        st_be64(image->data + at, interesting(image, value) | flags[how / 8 % 8]);
        break;
    case 3:
        st_be32(image->data + at, interesting(image, value));
        break;
    case 4:
        st_be64(image->data + at, ld_be64(image->data + at) ^ flags[value % 8]);
        break;
    case 5:
        st_be64(image->data + at, ld_be64(image->data + at) + image->cluster * (int8_t)value);
        break;
    case 6:
        if (at < image->size) {
            memset(image->data + at, 0, image->size - at);
            image->size = at;
        }
        return;
    case 7:
        st_be64(image->data + at, take(in, 8));
        break;
    }
    image->size = MAX(image->size, at + 8);
}

unsigned damage_image(Input *in, uint8_t *data, uint64_t *size, uint64_t max)
{
    unsigned n = take(in, 1) % 16;
    Image image = { data, *size, max, 512 };

    n = n < 8 ? 0 : n - 7;
    image.cluster = 1ull << CLAMP(field(&image, 20, 4), 9, 21);
    for (unsigned i = 0; i < n; i++)
        change(in, &image);
    *size = image.size;
    return n;
}

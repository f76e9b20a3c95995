/* Metadata contexts: their names, and what they say of an area ("Metadata querying"). */
#include <errno.h>
#include <string.h>
#include "block/chain.h"
#include "block/nbd/server-int.h"
#include "src/base/util.h"

enum { EXTENTS_MAX = 32768, MAPS_IN_A_TURN = 1024 };

/* ---- names ---- */

static uint32_t context_count(const BlockExport *export)
{
    return NBD_CONTEXT_ID_BITMAPS + export->bitmaps->len;
}

static bool is_offered(const BlockExport *export, uint32_t id)
{
    return id != NBD_CONTEXT_ID_DEPTH || export->depth_context;
}

static BlockBitmap *bitmap_of(const BlockExport *export, uint32_t id)
{
    return export->bitmaps->pdata[id - NBD_CONTEXT_ID_BITMAPS];
}

/* A name in two parts. */
static const char *name_parts(const BlockExport *export, uint32_t id, const char **ret_rest)
{
    *ret_rest = id < NBD_CONTEXT_ID_BITMAPS ? "" : block_bitmap_name(bitmap_of(export, id));
    return id == NBD_CONTEXT_ID_ALLOCATION ? NBD_CONTEXT_ALLOCATION
           : id == NBD_CONTEXT_ID_DEPTH    ? NBD_CONTEXT_DEPTH
                                           : NBD_CONTEXT_BITMAP;
}

char *nbd_context_name(const BlockExport *export, uint32_t id)
{
    const char *rest, *first = name_parts(export, id, &rest);

    return g_strconcat(first, rest, NULL);
}

/* A list may be asked for by the beginning of a name: "base:", "qemu:", "qemu:dirty-bitmap:".  Nothing is
 * allocated: a client may ask thousands of times. */
static bool name_matches(const BlockExport *export, uint32_t id, const char *query, bool list)
{
    const char *rest, *first = name_parts(export, id, &rest);
    size_t length = strlen(first);

    if (!strncmp(query, first, length) && !strcmp(query + length, rest))
        return true;
    if (!list || !g_str_has_prefix(first, query))
        return false;
    return !strcmp(query, "base:") || !strcmp(query, "qemu:") || !strcmp(query, NBD_CONTEXT_BITMAP);
}

static bool has_id(const GArray *ids, uint32_t id)
{
    for (unsigned i = 0; i < ids->len; i++) {
        if (g_array_index(ids, uint32_t, i) == id)
            return true;
    }
    return false;
}

void nbd_context_match(const BlockExport *export, const char *query, bool list, GArray *ids)
{
    for (uint32_t id = 0; id < context_count(export); id++) {
        if (((list && !*query) || name_matches(export, id, query, list)) && is_offered(export, id) &&
            !has_id(ids, id))
            g_array_append_val(ids, id);
    }
}

/* ---- extents ---- */

typedef struct Extents {
    GByteArray *bytes;
    unsigned count;
    bool wide;
    uint32_t flags;                        /* of the last one, whose length may still grow */
    uint64_t length;
} Extents;

static void put_last(Extents *extents)
{
    uint8_t pair[16];

    if (!extents->length)
        return;
    if (extents->wide) {
        st_be64(pair, extents->length);
        st_be64(pair + 8, extents->flags);
    } else {                               /* no longer than the request, which has 32 bits, too */
        st_be32(pair, extents->length);
        st_be32(pair + 4, extents->flags);
    }
    g_byte_array_append(extents->bytes, pair, extents->wide ? 16 : 8);
    extents->count++;
    extents->length = 0;
}

/* False: there are enough of them. */
static bool add(Extents *extents, uint64_t bytes, uint32_t flags, unsigned most)
{
    if (extents->length && extents->flags != flags) {
        put_last(extents);
        if (extents->count >= most)
            return false;
    }
    extents->flags = flags;
    extents->length += bytes;
    return true;
}

/* "base:allocation": what is not there is a hole; what reads as zeroes is told, too. */
static uint32_t allocation_flags(const BlockMap *map)
{
    return (map->flags & BLOCK_MAP_DATA ? 0 : NBD_STATE_HOLE) |
           (map->flags & BLOCK_MAP_ZERO ? NBD_STATE_ZERO : 0);
}

static int co_fn add_maps(BlockExport *export, uint32_t id, uint64_t offset, uint64_t bytes,
                          unsigned most, Extents *extents)
{
    for (unsigned i = 1; bytes; i++) {
        BlockMap map;
        unsigned depth;
        int ret = block_co_map(export->user, NULL, offset, bytes, &map, &depth);
        uint32_t flags;

        if (ret < 0)
            return ret;
        flags = id == NBD_CONTEXT_ID_ALLOCATION       ? allocation_flags(&map)
                : map.flags & BLOCK_MAP_ALLOCATED     ? depth + 1
                                                      : 0;
        if (!add(extents, MIN(map.bytes, bytes), flags, most))
            break;
        offset += MIN(map.bytes, bytes);
        bytes -= MIN(map.bytes, bytes);
        if (i % MAPS_IN_A_TURN == 0)
            co_pause();                    /* many pieces may make one extent of a large image */
    }
    return 0;
}

/* A bitmap may be shorter than the export: what is past its end was never written to it. */
static void add_bits(BlockBitmap *bitmap, uint64_t offset, uint64_t bytes, unsigned most,
                     Extents *extents)
{
    uint64_t size = block_bitmap_size(bitmap), end = offset + bytes;

    while (offset < end) {
        bool dirty = offset < size && block_bitmap_get(bitmap, offset);
        uint64_t next = end;

        if (offset < size && !(dirty ? block_bitmap_next_zero(bitmap, offset, MIN(end, size), &next)
                                     : block_bitmap_next_dirty(bitmap, offset, MIN(end, size),
                                                               &next)))
            next = dirty ? MIN(end, size) : end;
        if (!add(extents, next - offset, dirty ? NBD_STATE_DIRTY : 0, most))
            return;
        offset = next;
    }
}

int co_fn nbd_context_status(BlockExport *export, uint32_t id, uint64_t offset, uint64_t bytes,
                             bool one, bool wide, GByteArray *out)
{
    Extents extents = { .bytes = out, .wide = wide };
    unsigned most = one ? 1 : EXTENTS_MAX;
    int ret = 0;

    if (id < NBD_CONTEXT_ID_BITMAPS)
        ret = add_maps(export, id, offset, bytes, most, &extents);
    else
        add_bits(bitmap_of(export, id), offset, bytes, most, &extents);
    put_last(&extents);
    return ret < 0 ? ret : (int)extents.count;
}

/*
 * The refcounts against what was counted: first the structures that hold them, then each count, and
 * with it whether the active tables' entries say rightly that a cluster is theirs alone (COPIED).
 */
#include "block/qcow2/scrub.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/* The table and the blocks. */

/* What makes the structure itself unusable is mended by making a new one. */
static void structure_error(Qcow2Check *c, const char *format, ...) G_GNUC_PRINTF(2, 3);
static void structure_error(Qcow2Check *c, const char *format, ...)
{
    va_list args;
    g_autofree char *text = NULL;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    c->result->corruptions++;
    c->rebuild = true;
    check_say(c, c->fix & BLOCK_FIX_ERRORS, "%s%s", c->mending ? "Repairing " : "ERROR ", text);
}

static void count_block(Qcow2Check *c, uint64_t index)
{
    Qcow2 *s = c->s;
    uint64_t offset = c->reftable[index] & QCOW2_REFTABLE_OFFSET_MASK;

    if (c->reftable[index] & ~QCOW2_REFTABLE_OFFSET_MASK)
        structure_error(c, "refcount table entry %" PRIu64 " has reserved bits set", index);
    if (!offset)
        return;
    if (qcow2_offset_in_cluster(s, offset)) {
        structure_error(c, "refcount block %" PRIu64 " is not cluster aligned; refcount table entry "
                        "corrupted", index);
        return;
    }
    if (c->live && qcow2_live_is_new(c->live, offset))
        return;
    if (offset >= c->file_bytes) {
        structure_error(c, "refcount block %" PRIu64 " is outside image", index);
        return;
    }
    c->refs[offset >> s->cluster_bits]++;
    c->used_end = MAX(c->used_end, (offset >> s->cluster_bits) + 1);
    if (check_count(c, offset >> s->cluster_bits) != 1)
        structure_error(c, "refcount block %" PRIu64 " refcount=%" PRIu32, index,
                        check_count(c, offset >> s->cluster_bits));
}

static void count_structures(Qcow2Check *c)
{
    check_reference(c, c->reftable_offset, c->reftable_bytes);
    for (uint64_t i = 0; i < c->reftable_size; i++)
        if (c->reftable[i])
            count_block(c, i);
}

/* Counts. */

static bool is_mended(const Qcow2Check *c, uint64_t stored, uint64_t expected)
{
    return c->fix & (stored < expected ? BLOCK_FIX_ERRORS : BLOCK_FIX_LEAKS) &&
           expected <= c->s->refcount_max;
}

static void compare_count(Qcow2Check *c, uint64_t cluster, uint64_t stored, bool has_block)
{
    uint64_t expected = check_count(c, cluster);
    bool mended = is_mended(c, stored, expected);

    if (stored < expected)
        c->result->corruptions++;
    else
        c->result->leaks++;
    if (mended) {
        c->wrong_refcounts = true;
        if (!has_block)
            c->rebuild = true;
    }
    check_say(c, mended, "%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
              mended ? "Repairing" : stored < expected ? "ERROR" : "Leaked", cluster, stored,
              expected);
}

/* An entry that says COPIED where it is not so lets a write change a snapshot; the other way round it
 * costs a copy.  @refcount: as it will be when refcounts are mended. */
static void check_copied(Qcow2Check *c, uint64_t cluster, uint64_t refcount)
{
    bool alone = refcount == 1, mended = c->fix & BLOCK_FIX_ERRORS;

    if (!(c->refs[cluster] & (alone ? CHECK_NOT_COPIED : CHECK_COPIED)))
        return;
    c->result->corruptions++;
    c->wrong_copied = true;
    check_say(c, mended, "%s OFLAG_COPIED cluster: offset=%" PRIx64 " copied=%d refcount=%" PRIu64,
              mended ? "Repairing" : "ERROR", cluster << c->s->cluster_bits, !alone, refcount);
}

static void compare_block(Qcow2Check *c, uint64_t index, const uint8_t *block)
{
    Qcow2 *s = c->s;
    uint64_t first = index << s->refblock_bits;
    uint64_t n = MIN(1ull << s->refblock_bits, c->clusters - first);

    for (uint64_t i = 0; i < n; i++) {
        uint64_t expected = check_count(c, first + i);
        uint64_t stored = block ? qcow2_refcount_read(s, block, i) : 0;

        if (c->live) {
            qcow2_live_compare(c->live, first + i, stored);
            continue;
        }
        if (G_UNLIKELY(stored != expected)) {
            compare_count(c, first + i, stored, block != NULL);
            if (is_mended(c, stored, expected))
                stored = expected;
        }
        if (c->refs[first + i] & ~CHECK_COUNT)
            check_copied(c, first + i, stored);
    }
}

static bool block_is_readable(const Qcow2Check *c, uint64_t index, uint64_t *ret_offset)
{
    const Qcow2 *s = c->s;

    *ret_offset = index < c->reftable_size ? c->reftable[index] & QCOW2_REFTABLE_OFFSET_MASK : 0;
    return *ret_offset && !qcow2_offset_in_cluster(s, *ret_offset) && *ret_offset < c->file_bytes;
}

static int co_fn read_block(Qcow2Check *c, uint64_t offset, uint8_t *block, GError **error)
{
    if (c->live)
        return qcow2_live_read(c->live, &c->s->refcount_cache, offset, block, error);
    return check_look(c, offset, block, c->s->cluster_size, "refcount block", error);
}

int co_fn qcow2_check_refcounts(Qcow2Check *c, GError **error)
{
    Qcow2 *s = c->s;
    uint8_t *block = qcow2_memory(s, s->cluster_size);
    uint64_t offset;
    int ret = 0;

    if (!block) {
        fail(error, ERR_LIMIT, "no memory for a refcount block");
        return -ENOMEM;
    }
    count_structures(c);
    for (uint64_t i = 0; i << s->refblock_bits < c->clusters; i++) {
        g_autoptr(GError) cause = NULL;
        bool readable = block_is_readable(c, i, &offset);

        if (readable && c->live)
            ret = qcow2_live_step(c->live, s->cluster_size);
        if (ret < 0)
            break;
        if (readable && read_block(c, offset, block, &cause) < 0) {
            check_unreadable(c, g_steal_pointer(&cause));
            continue;
        }
        compare_block(c, i, readable ? block : NULL);
    }
    free(block);
    return ret;
}

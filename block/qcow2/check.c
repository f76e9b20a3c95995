/*
 * Check and repair.  A run counts all references to host clusters and compares; a repair is
 * a run that says what will be mended, the mending, and another run that says what is left.
 *
 * The image stands still meanwhile: the exclusive gate is held, caches are written and forgotten, and
 * tables are read straight from the file.
 */
#include "block/qcow2/check.h"
#include "block/qcow2/checksums.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

static void say(Qcow2Check *c, const char *line)
{
    if (c->result->report)
        c->result->report(line, c->result->opaque);
}

void check_say(Qcow2Check *c, bool mended, const char *format, ...)
{
    va_list args;
    g_autofree char *line = NULL;

    if (c->mending && !mended)
        return;                            /* the run that follows will say it */
    va_start(args, format);
    line = g_strdup_vprintf(format, args);
    va_end(args);
    say(c, line);
}

void check_corrupt(Qcow2Check *c, const char *format, ...)
{
    va_list args;
    g_autofree char *line = NULL;

    c->result->corruptions++;
    if (c->mending)
        return;
    va_start(args, format);
    line = g_strdup_vprintf(format, args);
    va_end(args);
    say(c, line);
}

void check_unreadable(Qcow2Check *c, GError *error)
{
    g_autofree char *line = g_strdup_printf("ERROR: %s", error->message);

    c->result->check_errors++;
    if (!c->mending)
        say(c, line);
    g_error_free(error);
}

static void run_free(Qcow2Check *c)
{
    free(c->refs);
    g_free(c);
}

static Qcow2Check *run_new(Qcow2 *s, BlockCheck *result, unsigned fix, GError **error)
{
    int64_t file_bytes = block_node_size(s->file);
    Qcow2Check *c;

    if (file_bytes < 0) {
        fail_errno(error, -file_bytes, "cannot find the size of '%s'", block_node_filename(s->file));
        return NULL;
    }
    c = g_new0(Qcow2Check, 1);
    c->s = s;
    c->result = result;
    c->fix = fix;
    c->mending = fix != 0;
    c->reftable = s->reftable;
    c->reftable_size = s->reftable_size;
    c->reftable_offset = s->header.refcount_table_offset;
    c->reftable_bytes = (uint64_t)s->header.refcount_table_clusters << s->cluster_bits;
    c->file_bytes = file_bytes;
    c->clusters = ((uint64_t)file_bytes >> s->cluster_bits) + 2;   /* the last may end past the file */
    c->refs = calloc(c->clusters, sizeof(*c->refs));
    if (c->refs)
        return c;
    fail(error, ERR_LIMIT, "no memory to count the references to %" G_GUINT64_FORMAT " clusters",
         c->clusters);
    run_free(c);
    return NULL;
}

/* One run.  NULL: it could not be made at all. */
static Qcow2Check *co_fn run(Qcow2 *s, BlockCheck *result, unsigned fix, GError **error)
{
    Qcow2Check *c = run_new(s, result, fix, error);

    if (!c)
        return NULL;
    if (qcow2_check_walk(c, error) < 0 || qcow2_check_refcounts(c, error) < 0) {
        run_free(c);
        return NULL;
    }
    result->image_end_offset = c->used_end << s->cluster_bits;
    return c;
}

/* What is left counts; what has gone was mended. */
static void sum_up(BlockCheck *result, const BlockCheck *before, const BlockCheck *after)
{
    *result = *after;
    if (before->corruptions > after->corruptions)
        result->corruptions_fixed = before->corruptions - after->corruptions;
    if (before->leaks > after->leaks)
        result->leaks_fixed = before->leaks - after->leaks;
}

static int co_fn look(Qcow2 *s, BlockCheck *result, GError **error)
{
    Qcow2Check *c = run(s, result, 0, error);

    if (!c)
        return -EIO;
    run_free(c);
    return 0;
}

/* The bits that made others careful go when their reason has gone. */
static int co_fn clear_marks(Qcow2 *s, const BlockCheck *result, unsigned fix, GError **error)
{
    uint64_t clear = 0;

    if (!result->check_errors && !result->corruptions) {
        if (s->header.incompatible & QCOW2_INCOMPAT_CORRUPT && fix & BLOCK_FIX_ERRORS)
            clear |= QCOW2_INCOMPAT_CORRUPT;
        if (s->header.incompatible & QCOW2_INCOMPAT_DIRTY)
            clear |= QCOW2_INCOMPAT_DIRTY;
    }
    if (!clear)
        return 0;
    if (clear & QCOW2_INCOMPAT_CORRUPT)
        __atomic_store_n(&s->corrupt, 0, __ATOMIC_RELEASE);
    return qcow2_set_incompatible(s, 0, clear, error);
}

/* Checksums that are wrong are those of the content that is there now. */
static int co_fn mend(Qcow2Check *c, GError **error)
{
    int ret = qcow2_sums_begin_use(c->s, error);

    if (ret == 0)
        ret = qcow2_check_repair(c, error);
    if (ret == 0 && c->mismatches)
        qcow2_sums_forget(c->s);
    return ret;
}

static int co_fn repair(Qcow2 *s, BlockCheck *result, unsigned fix, GError **error)
{
    BlockCheck before = *result, after = *result;
    Qcow2Check *c = run(s, &before, fix, error);
    int ret = 0;

    if (!c)
        return -EIO;
    /* What could not be read, or is not what it was, may refer to clusters that would be taken for free. */
    if (before.check_errors || (c->mismatches && !(fix & BLOCK_FIX_ERRORS))) {
        c->mending = false;
        check_say(c, false, before.check_errors
                                ? "Nothing is repaired: parts of the image could not be read"
                                : "Nothing is repaired: tables are not what they were; -r all takes "
                                  "them as they are");
    } else {
        ret = mend(c, error);
    }
    run_free(c);
    if (ret < 0)
        return ret;
    ret = look(s, &after, error);
    if (ret < 0)
        return ret;
    sum_up(result, &before, &after);
    return clear_marks(s, result, fix, error);
}

/* After a corruption nothing in memory is written any more: what is on disk is what counts.  A repair may
 * allow writing again, so that it all has to be forgotten then. */
static int co_fn stand_still(Qcow2 *s, unsigned fix, GError **error)
{
    int ret;

    if (__atomic_load_n(&s->corrupt, __ATOMIC_ACQUIRE)) {
        if (!fix)
            return 0;
        qcow2_frees_forget(s);
        return qcow2_tables_reread(s, error);
    }
    ret = qcow2_settle(s);
    if (ret < 0)
        fail_errno(error, -ret, "cannot write the metadata of '%s'", block_node_filename(s->node));
    return ret;
}

int co_fn qcow2_check(Qcow2 *s, BlockCheck *check, unsigned fix, GError **error)
{
    int ret = 0;

    if (fix && !s->writable) {
        fail(error, ERR_PERMISSION, "'%s' is not open for writing", block_node_filename(s->node));
        return -EPERM;
    }
    qcow2_exclusive_begin(s);
    if (s->writable)
        ret = stand_still(s, fix, error);
    if (ret == 0) {
        qcow2_caches_forget(s);
        ret = fix ? repair(s, check, fix, error) : look(s, check, error);
    }
    if (s->sums)
        s->sums->sound = ret == 0 && !check->corruptions && !check->check_errors;
    qcow2_exclusive_end(s);
    return ret;
}

int co_fn qcow2_co_check(BlockNode *node, BlockCheck *check, unsigned fix, GError **error)
{
    return qcow2_check(qcow2_of(node), check, fix, error);
}

/* Another width. */

static bool can_be_counted(Qcow2Check *c, unsigned order, GError **error)
{
    uint64_t most = order >= 5 ? UINT32_MAX : (1ull << (1u << order)) - 1;

    for (uint64_t i = 0; i < c->clusters; i++)
        if (check_count(c, i) > most)
            return fail(error, ERR_UNSUPPORTED, "Cannot decrease refcount entry width to %u bits: "
                        "Cluster at offset %#" PRIx64 " has a refcount of %u", 1u << order,
                        i << c->s->cluster_bits, check_count(c, i));
    return true;
}

int co_fn qcow2_change_refcount_width(Qcow2 *s, unsigned order, GError **error)
{
    BlockCheck result = { 0 };
    unsigned old = s->header.refcount_order;
    Qcow2Check *c;
    int ret = -ENOTSUP;

    qcow2_caches_forget(s);
    c = run(s, &result, 0, error);
    if (!c)
        return -EIO;
    if (result.corruptions || result.check_errors) {
        fail(error, ERR_CORRUPT, "'%s' has errors: the refcounts of a damaged image are not changed",
             block_node_filename(s->node));
        error_hint(error, "vireo-img check -r all");
    } else if (can_be_counted(c, order, error)) {
        qcow2_set_refcount_order(s, order);
        ret = qcow2_check_rebuild(c, error);
        if (ret < 0)
            qcow2_set_refcount_order(s, old);
        qcow2_caches_forget(s);
    }
    run_free(c);
    return ret;
}

/* Checksums. */

int co_fn qcow2_check_take_sums(Qcow2 *s, GError **error)
{
    BlockCheck result = { 0 };
    int ret;

    qcow2_caches_forget(s);
    ret = look(s, &result, error);
    if (ret < 0 || !(result.corruptions || result.check_errors))
        return ret;
    fail(error, ERR_CORRUPT, "'%s' has errors: checksums of a damaged image's tables are not taken",
         block_node_filename(s->node));
    error_hint(error, "vireo-img check -r all");
    return -EIO;
}

/* Opening, closing and reopening an image. */
#include "block/qcow2/bitmaps.h"
#include "block/qcow2/check.h"
#include "block/qcow2/checksums.h"
#include "block/qcow2/crypto.h"
#include "block/qcow2/journal.h"
#include "block/qcow2/options.h"
#include "block/qcow2/snapshot.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* What follows from the header. */
static void derive(Qcow2 *s)
{
    const Qcow2Header *h = &s->header;

    s->cluster_bits = h->cluster_bits;
    s->cluster_size = 1ull << h->cluster_bits;
    s->extended_l2 = h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2;
    s->has_data_file = h->incompatible & QCOW2_INCOMPAT_DATA_FILE;
    s->data_file_raw = s->has_data_file && h->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW;
    s->l2_entry_bytes = s->extended_l2 ? 16 : 8;
    s->l2_bits = s->cluster_bits - (s->extended_l2 ? 4 : 3);
    s->subcluster_bits = s->cluster_bits - (s->extended_l2 ? 5 : 0);
    qcow2_set_refcount_order(s, h->refcount_order);
}

static void init_locks(Qcow2 *s)
{
    pthread_mutex_t *mutexes[] = { &s->gate_mutex, &s->range_mutex, &s->table_mutex,
                                   &s->warn_mutex };
    CoMutex *locks[] = { &s->exclusive_lock, &s->l1_lock, &s->alloc_lock, &s->flush_lock,
                         &s->grow_lock };

    for (unsigned i = 0; i < G_N_ELEMENTS(mutexes); i++)
        pthread_mutex_init(mutexes[i], NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(locks); i++)
        co_mutex_init(locks[i]);
    s->l1_dirty = g_hash_table_new(NULL, NULL);
    s->reftable_dirty = g_hash_table_new(NULL, NULL);
    qcow2_frees_init(s);
}

/* Everything that open made, whether or not it got to its end. */
static void free_all(Qcow2 *s)
{
    pthread_mutex_t *mutexes[] = { &s->gate_mutex, &s->range_mutex, &s->table_mutex,
                                   &s->warn_mutex };

    if (s->l2_cache.s)
        qcow2_cache_free(&s->l2_cache);
    if (s->refcount_cache.s)
        qcow2_cache_free(&s->refcount_cache);
    qcow2_overlap_free(s);
    qcow2_frees_free(s);
    qcow2_journal_free(s);
    qcow2_sums_free(s);
    if (s->snapshots)
        g_array_free(s->snapshots, TRUE);
    g_hash_table_destroy(s->l1_dirty);
    g_hash_table_destroy(s->reftable_dirty);
    g_free(s->l1);
    g_free(s->reftable);
    json_object_put(s->crypto_info);
    if (s->crypto.free)
        s->crypto.free(s->crypto.opaque);
    block_cells_clear(&s->cells);
    qcow2_header_clear(&s->header);
    for (unsigned i = 0; i < G_N_ELEMENTS(mutexes); i++)
        pthread_mutex_destroy(mutexes[i]);
}

/* Tables. */

typedef int co_fn ReadFn(Qcow2 *s, uint64_t offset, void *buffer, uint64_t bytes, const char *what,
                         GError **error);

static uint64_t *co_fn read_table(Qcow2 *s, ReadFn *read, uint64_t offset, uint64_t entries,
                                  const char *what, GError **error)
{
    uint64_t *table = g_try_new0(uint64_t, MAX(entries, 1));
    uint8_t *buffer = qcow2_memory(s, entries * 8);
    bool ok = table && buffer;

    if (!ok)
        fail_errno(error, ENOMEM, "'%s': reading the %s", block_node_filename(s->file), what);
    ok = ok && (!entries || read(s, offset, buffer, entries * 8, what, error) == 0);
    for (uint64_t i = 0; ok && i < entries; i++)
        table[i] = ld_be64(buffer + i * 8);
    free(buffer);
    if (ok)
        return table;
    g_free(table);
    return NULL;
}

static bool co_fn read_tables(Qcow2 *s, GError **error)
{
    const Qcow2Header *h = &s->header;

    s->l1 = read_table(s, qcow2_table_read, h->l1_table_offset, h->l1_size, "L1 table", error);
    if (!s->l1)
        return false;
    block_debug_event(s->file, "reftable_load");
    s->reftable_size = (uint64_t)h->refcount_table_clusters << (s->cluster_bits - 3);
    s->reftable = read_table(s, qcow2_table_read, h->refcount_table_offset, s->reftable_size,
                             "refcount table", error);
    s->fresh = ALIGN_UP((uint64_t)block_node_size(s->file), s->cluster_size);
    return s->reftable != NULL;
}

/* Checksums are for the check that follows. */
int co_fn qcow2_tables_reread(Qcow2 *s, GError **error)
{
    const Qcow2Header *h = &s->header;
    uint64_t entries = (uint64_t)h->refcount_table_clusters << (s->cluster_bits - 3), *reftable;
    uint64_t *l1 = read_table(s, qcow2_meta_read, h->l1_table_offset, h->l1_size, "L1 table", error);

    if (!l1)
        return -EIO;
    reftable = read_table(s, qcow2_meta_read, h->refcount_table_offset, entries, "refcount table",
                          error);
    if (!reftable) {
        g_free(l1);
        return -EIO;
    }
    pthread_mutex_lock(&s->table_mutex);
    g_free(s->l1);
    g_free(s->reftable);
    s->l1 = l1;
    s->reftable = reftable;
    s->reftable_size = entries;
    g_hash_table_remove_all(s->l1_dirty);
    g_hash_table_remove_all(s->reftable_dirty);
    __atomic_store_n(&s->tables_dirty, 0, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&s->table_mutex);
    return 0;
}

/* "Bitmaps extension": without the autoclear bit it is out of date. */
static bool co_fn find_bitmaps(Qcow2 *s, GError **error)
{
    const Qcow2Extension *e = qcow2_extension(s, QCOW2_EXT_BITMAPS);

    if (!e || !(s->header.autoclear & QCOW2_AUTOCLEAR_BITMAPS))
        return true;
    if (e->length != 24)
        return fail(error, ERR_CORRUPT, "'%s': bitmaps_ext: Invalid extension length",
                    block_node_filename(s->file));
    s->bitmaps_length = ld_be64(e->data + 8);
    s->bitmaps_offset = ld_be64(e->data + 16);
    qcow2_journal_open(s);
    return true;
}

/* What an image must be like to be written. */

static bool refuse_corrupt(const Qcow2 *s, GError **error)
{
    if (!(s->header.incompatible & QCOW2_INCOMPAT_CORRUPT))
        return true;
    fail(error, ERR_CORRUPT, "'%s': Image is corrupt; cannot be opened read/write",
         block_node_filename(s->file));
    return error_hint(error, "check and repair it with vireo-img check -r all");
}

static bool check_writable(const Qcow2 *s, const Qcow2Options *o, GError **error)
{
    return !s->writable || o->check || refuse_corrupt(s, error);
}

/* Somebody postponed refcounts and did not come to write them. */
static bool co_fn repair_dirty(Qcow2 *s, const Qcow2Options *o, GError **error)
{
    BlockCheck result = { 0 };

    if (!s->writable || o->check || !(s->header.incompatible & QCOW2_INCOMPAT_DIRTY))
        return true;
    if (qcow2_check(s, &result, BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS, error) < 0)
        return error_prefix(error, "Could not repair dirty image: ");
    return !(result.check_errors || result.corruptions) ||
           fail(error, ERR_CORRUPT, "'%s' was not closed properly, and could not be repaired",
                block_node_filename(s->file));
}

static uint64_t autoclear_kept(const Qcow2 *s)
{
    return (s->data_file_raw ? QCOW2_AUTOCLEAR_DATA_FILE_RAW : 0) |
           (s->bitmaps_offset ? QCOW2_AUTOCLEAR_BITMAPS : 0) |
           (s->journal ? QCOW2_AUTOCLEAR_JOURNAL : 0) |
           (qcow2_sums_stored(s) ? QCOW2_AUTOCLEAR_CHECKSUMS : 0);
}

/* Unknown autoclear bits say that something depends on the image's contents that we do not keep up. */
static bool co_fn first_writes(Qcow2 *s, const Qcow2Options *o, GError **error)
{
    s->corrupt = s->writable && s->header.incompatible & QCOW2_INCOMPAT_CORRUPT;
    if (!s->writable)
        return true;
    qcow2_overlap_init(s);
    if (qcow2_overlap_snapshots(s, error) < 0)
        return error_hint(error, "open it with overlap-check=cached");
    return qcow2_set_autoclear(s, 0, s->header.autoclear & ~autoclear_kept(s), error) == 0;
}

/* Unused slices are forgotten after a while. */

static void clean(void *opaque)
{
    Qcow2 *s = opaque;

    qcow2_cache_clean(&s->l2_cache);
    qcow2_cache_clean(&s->refcount_cache);
    loop_timer_set(&s->clean_timer,
                   loop_clock_ns() + (int64_t)s->cache_clean_seconds * 1000000000);
}

static void start_cleaning(Qcow2 *s)
{
    loop_timer_init(&s->clean_timer, loop_main(), clean, s);
    if (s->cache_clean_seconds)
        loop_timer_set(&s->clean_timer,
                       loop_clock_ns() + (int64_t)s->cache_clean_seconds * 1000000000);
}

/* Open. */

static bool check_lazy(Qcow2 *s, const Qcow2Options *o, GError **error)
{
    return o->lazy_refcounts != 1 || s->header.version >= 3 ||
           fail(error, ERR_INVALID_PARAMETER, "Lazy refcounts require a qcow2 image with at least "
                "qemu 1.1 compatibility level");
}

static bool make_caches(Qcow2 *s, const Qcow2Options *o, GError **error)
{
    if (!qcow2_check_slice(s, o, error))
        return false;
    qcow2_make_caches(s, o);
    return true;
}

static bool co_fn open_image(Qcow2 *s, json_object *options, const Qcow2Options *o, GError **error)
{
    s->file_grows = block_node_grows(s->file);
    if (qcow2_header_read(s, error) < 0)
        return false;
    derive(s);
    if (!o->header_only)
        qcow2_sums_open(s, o->check);
    s->for_check = o->check;
    s->overlap_mask = o->overlap_mask;
    qcow2_options_apply(s, o);
    return check_writable(s, o, error) && check_lazy(s, o, error) &&
           qcow2_crypto_open(s, options, o->header_only, error) && read_tables(s, error) &&
           make_caches(s, o, error) && qcow2_open_data_file(s, options, error) &&
           qcow2_open_backing(s, options, error) &&
           qcow2_snapshots_read(s, error) == 0 && find_bitmaps(s, error) &&
           first_writes(s, o, error) &&
           (!s->bitmaps_offset || s->for_check || qcow2_bitmaps_load(s, error) == 0) &&
           repair_dirty(s, o, error);
}

bool co_fn qcow2_open(BlockNode *node, json_object *options, GError **error)
{
    Qcow2 *s = qcow2_of(node);
    Qcow2Options o;

    s->node = node;
    if (!qcow2_options_take(options, &o, error))
        return false;
    s->file = block_node_open_child(node, options, "file", true, error);
    if (!s->file)
        return false;
    if (block_node_read_only(s->file) && !block_node_read_only(node) &&
        !block_node_demote(node, EROFS, error))
        return false;
    s->writable = !block_node_read_only(node);
    init_locks(s);
    if (!open_image(s, options, &o, error)) {
        free_all(s);
        return false;
    }
    start_cleaning(s);
    return true;
}

/* Close. */

/* Programs that read the file by its length expect the last cluster to be whole. */
static int co_fn fill_last_cluster(Qcow2 *s)
{
    uint64_t size = block_node_size(s->file), whole = ALIGN_UP(size, s->cluster_size);

    return size == whole ? 0 : block_node_co_resize(s->file, whole, NULL);
}

/* Everything to the disk; nothing is in flight. */
static int co_fn put_to_rest(Qcow2 *s)
{
    g_autoptr(GError) error = NULL;
    int ret;

    if (!s->writable || __atomic_load_n(&s->corrupt, __ATOMIC_RELAXED))
        return 0;
    qcow2_exclusive_begin(s);
    if (!s->for_check && qcow2_bitmaps_store(s, &error) < 0)
        error_report(error);               /* they are marked as in use: nobody will trust them */
    ret = qcow2_settle(s);
    if (ret == 0)
        qcow2_sums_store(s);
    if (ret == 0 && s->file_grows)
        ret = fill_last_cluster(s);
    qcow2_exclusive_end(s);
    return ret;
}

void co_fn qcow2_close(BlockNode *node)
{
    Qcow2 *s = qcow2_of(node);
    int ret = put_to_rest(s);

    if (ret < 0)
        warn_report("'%s': writing metadata at closing failed: %s", block_node_filename(node),
                    g_strerror(-ret));
    loop_timer_cancel(&s->clean_timer);
    free_all(s);
}

/* Reopen: other options, read-only or not. */

/* What opening for writing would refuse, and what it would have to repair first. */
static bool may_become_writable(const Qcow2 *s, GError **error)
{
    if (!refuse_corrupt(s, error))
        return false;
    if (!(s->header.incompatible & QCOW2_INCOMPAT_DIRTY))
        return true;
    fail(error, ERR_BAD_STATE, "'%s' was not closed properly; it is repaired when it is opened for "
         "writing, not when it is reopened", block_node_filename(s->file));
    return error_hint(error, "delete the node and add it with read-only=off");
}

bool co_fn qcow2_reopen_prepare(BlockNode *node, BlockReopen *reopen, GError **error)
{
    Qcow2 *s = qcow2_of(node);
    g_autofree Qcow2Options *o = g_new0(Qcow2Options, 1);
    int ret;

    if (reopen->options) {
        if (!qcow2_options_take(reopen->options, o, error) || !check_lazy(s, o, error))
            return false;
        if (!qcow2_check_slice(s, o, error))
            return false;
    }
    if (!reopen->read_only && !s->writable && !may_become_writable(s, error))
        return false;
    ret = put_to_rest(s);
    if (ret < 0) {
        qcow2_reopen_abort(node, reopen);
        return fail_errno(error, -ret, "'%s': writing metadata failed", block_node_filename(node));
    }
    reopen->state = reopen->options ? g_steal_pointer(&o) : NULL;
    return true;
}

/* Nothing is dirty since prepare, and nothing in flight. */
void co_fn qcow2_reopen_commit(BlockNode *node, BlockReopen *reopen)
{
    Qcow2 *s = qcow2_of(node);
    g_autofree Qcow2Options *o = g_steal_pointer(&reopen->state);
    g_autoptr(GError) error = NULL;

    if (o) {
        loop_timer_cancel(&s->clean_timer);
        qcow2_options_apply(s, o);
        qcow2_cache_free(&s->l2_cache);
        qcow2_cache_free(&s->refcount_cache);
        qcow2_make_caches(s, o);
        start_cleaning(s);
        if (s->overlap_mask != o->overlap_mask) {
            qcow2_overlap_free(s);
            s->overlap = NULL;
            s->overlap_mask = o->overlap_mask;
        }
    }
    s->writable = !reopen->read_only;
    if (s->writable && !s->sums && qcow2_sums_on(s)) {
        qcow2_sums_start(s, true);
        qcow2_widen_slices(s);
    }
    qcow2_bitmaps_set_read_only(s, reopen->read_only);
    if (s->writable && !s->overlap) {
        qcow2_overlap_init(s);
        if (qcow2_overlap_snapshots(s, &error) < 0)
            error_report(error);
        g_clear_error(&error);
    }
    if (s->writable && (qcow2_set_autoclear(s, 0, s->header.autoclear & ~autoclear_kept(s),
                                            &error) < 0 ||
                        qcow2_bitmaps_begin_use(s, &error) < 0))
        error_report(error);
}

void co_fn qcow2_reopen_abort(BlockNode *node, BlockReopen *reopen)
{
    Qcow2 *s = qcow2_of(node);
    g_autoptr(GError) error = NULL;

    g_free(g_steal_pointer(&reopen->state));
    if (s->writable && qcow2_bitmaps_begin_use(s, &error) < 0)
        error_report(error);
}

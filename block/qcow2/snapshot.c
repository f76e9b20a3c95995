/* Internal snapshots: taking, going back, deleting, looking at one; see snapshot.h for how. */
#include "block/qcow2/snapshot.h"
#include "block/bitmap.h"
#include "block/qcow2/journal.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* The table in memory. */

GPtrArray *qcow2_snapshots(BlockNode *node)
{
    Qcow2 *s = qcow2_of(node);
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)block_snapshot_free);

    for (unsigned i = 0; s->snapshots && i < s->snapshots->len; i++) {
        const Qcow2Snapshot *sn = &g_array_index(s->snapshots, Qcow2Snapshot, i);
        BlockSnapshot *snapshot = g_new(BlockSnapshot, 1);

        *snapshot = (BlockSnapshot){ g_strdup(sn->id), g_strdup(sn->name), sn->vm_state_size,
                                     sn->disk_size, sn->date_sec, sn->date_nsec,
                                     sn->vm_clock_nsec, sn->icount };
        g_ptr_array_add(list, snapshot);
    }
    return list;
}

static int find_by(const Qcow2 *s, const char *text, size_t member)
{
    for (unsigned i = 0; i < s->snapshots->len; i++) {
        const char *sn = (const char *)&g_array_index(s->snapshots, Qcow2Snapshot, i);

        if (!strcmp(*(char *const *)(sn + member), text))
            return i;
    }
    return -1;
}

static int find(const Qcow2 *s, const char *id_or_name, GError **error)
{
    int i = find_by(s, id_or_name, offsetof(Qcow2Snapshot, id));

    if (i < 0)
        i = find_by(s, id_or_name, offsetof(Qcow2Snapshot, name));
    if (i >= 0)
        return i;
    fail(error, ERR_NOT_FOUND, "Snapshot '%s' does not exist in '%s'", id_or_name,
         block_node_filename(s->node));
    error_object(error, "%s", id_or_name);
    return -ENOENT;
}

/* Its number, and its L1 table, to be freed. */
static int co_fn find_with_l1(Qcow2 *s, const char *id_or_name, uint64_t **l1, GError **error)
{
    int i = find(s, id_or_name, error);
    const Qcow2Snapshot *sn;

    if (i < 0)
        return i;
    sn = &g_array_index(s->snapshots, Qcow2Snapshot, i);
    *l1 = qcow2_l1_read(s, sn->l1_table_offset, sn->l1_size, error);
    return *l1 ? i : -EIO;
}

static Qcow2Snapshot copy_of(const Qcow2Snapshot *sn)
{
    Qcow2Snapshot copy = *sn;

    copy.id = g_strdup(sn->id);
    copy.name = g_strdup(sn->name);
    copy.extra_data = sn->extra_data ? g_memdup2(sn->extra_data, sn->extra_data_length) : NULL;
    return copy;
}

/* All snapshots but number @without; -1: all. */
static GArray *copy_table(const Qcow2 *s, int without)
{
    GArray *copy = qcow2_snapshots_new();

    for (unsigned i = 0; i < s->snapshots->len; i++) {
        Qcow2Snapshot sn;

        if ((int)i == without)
            continue;
        sn = copy_of(&g_array_index(s->snapshots, Qcow2Snapshot, i));
        g_array_append_val(copy, sn);
    }
    return copy;
}

/* The change: what the header will say, and does say once it is made. */

typedef struct Change {
    Qcow2 *s;
    Qcow2NewActive active;                 /* l1 NULL: the active tables stay */
    GArray *snapshots;                     /* NULL: the snapshot table stays; owned until the change */
    uint64_t table_offset, table_bytes;    /* of the new snapshot table */
    uint64_t size;                         /* of the disk */
} Change;

static int co_fn write_table(Change *change, GError **error)
{
    int64_t offset;

    if (!change->snapshots)
        return 0;
    offset = qcow2_snapshots_write(change->s, change->snapshots, &change->table_bytes, error);
    if (offset < 0)
        return offset;
    change->table_offset = offset;
    return 0;
}

static void put_header(Change *change)
{
    Qcow2Header *header = &change->s->header;

    header->size = change->size;
    if (change->active.l1) {
        header->l1_table_offset = change->active.offset;
        header->l1_size = change->active.entries;
    }
    if (change->snapshots) {
        header->snapshots_offset = change->table_offset;
        header->nb_snapshots = change->snapshots->len;
    }
}

/* The members that put_header changes; strings and lists are not among them. */
static int co_fn write_header(Change *change, GError **error)
{
    Qcow2 *s = change->s;
    Qcow2Header old = s->header;
    int ret = qcow2_write_refcounts(s);

    if (ret < 0) {
        fail_errno(error, -ret, "writing the refcounts of '%s' failed", block_node_filename(s->node));
        return ret;
    }
    ret = qcow2_flush_file(s, error);      /* the new tables */
    if (ret < 0)
        return ret;
    put_header(change);
    ret = qcow2_header_write(s, error);
    if (ret < 0)
        s->header = old;
    return ret;
}

static void take_table(Change *change, uint64_t old_offset)
{
    Qcow2 *s = change->s;

    if (s->snapshot_table_bytes) {
        qcow2_overlap_remove(s, QCOW2_OL_SNAPSHOT_TABLE, old_offset, s->snapshot_table_bytes);
        qcow2_free_later(s, old_offset, s->snapshot_table_bytes, QCOW2_DISCARD_SNAPSHOT);
    }
    g_array_unref(s->snapshots);
    s->snapshots = g_steal_pointer(&change->snapshots);
    s->snapshot_table_bytes = change->table_bytes;
    if (change->table_bytes)
        qcow2_overlap_add(s, QCOW2_OL_SNAPSHOT_TABLE, change->table_offset, change->table_bytes);
}

static void mark_l2(Qcow2 *s, const uint64_t *l1, uint64_t entries,
                    void (*mark)(Qcow2 *s, unsigned kind, uint64_t offset, uint64_t bytes))
{
    for (uint64_t i = 0; i < entries; i++)
        if (l1[i] & QCOW2_OFFSET_MASK)
            mark(s, QCOW2_OL_ACTIVE_L2, l1[i] & QCOW2_OFFSET_MASK, s->cluster_size);
}

/* The old tables' clusters stay: the caller says whose they are now. */
static void take_active(Change *change, uint64_t old_offset, uint32_t old_size)
{
    Qcow2 *s = change->s;

    qcow2_overlap_remove(s, QCOW2_OL_ACTIVE_L1, old_offset, old_size * sizeof(uint64_t));
    mark_l2(s, s->l1, old_size, qcow2_overlap_remove);
    free(s->l1);
    s->l1 = g_steal_pointer(&change->active.l1);
    qcow2_overlap_add(s, QCOW2_OL_ACTIVE_L1, change->active.offset,
                      change->active.entries * sizeof(uint64_t));
    mark_l2(s, s->l1, change->active.entries, qcow2_overlap_add);
}

/* Makes the change, or undoes what it allocated. */
static int co_fn make_change(Change *change, GError **error)
{
    Qcow2 *s = change->s;
    uint64_t old_l1 = s->header.l1_table_offset, old_table = s->header.snapshots_offset;
    uint32_t old_size = s->header.l1_size;
    int ret = write_table(change, error);

    if (ret == 0)
        ret = write_header(change, error);
    if (ret < 0) {
        if (change->table_offset)
            qcow2_free_now(s, change->table_offset, change->table_bytes);
        qcow2_new_active_discard(s, &change->active);
        return ret;
    }
    if (change->snapshots)
        take_table(change, old_table);
    if (change->active.l1)
        take_active(change, old_l1, old_size);
    qcow2_caches_forget(s);
    return 0;
}

static void change_clear(Change *change)
{
    qcow2_new_active_clear(&change->active);
    if (change->snapshots)
        g_array_unref(change->snapshots);
}

/* Every verb that changes the image: alone, with all metadata on stable storage. */
static int co_fn alone(Qcow2 *s, int co_fn (*verb)(Qcow2 *s, void *arg, GError **error), void *arg,
                       GError **error)
{
    int ret = qcow2_may_write(s);

    if (ret == 0 && s->has_data_file) {
        fail(error, ERR_UNSUPPORTED, "'%s' has an external data file: internal snapshots are not "
             "possible", block_node_filename(s->node));
        return -ENOTSUP;
    }
    if (ret < 0) {
        fail_errno(error, -ret, "'%s' cannot be written", block_node_filename(s->node));
        return ret;
    }
    qcow2_exclusive_begin(s);
    ret = qcow2_settle(s);
    if (ret < 0) {
        fail_errno(error, -ret, "writing the metadata of '%s' failed", block_node_filename(s->node));
    } else {
        g_autoptr(GError) ignored = NULL;

        ret = verb(s, arg, error);
        if (ret == 0 && qcow2_overlap_snapshots(s, &ignored) < 0)
            warn_report("%s; its tables are not watched over", ignored->message);
        if (ret == 0 && qcow2_settle(s) < 0)
            warn_report("'%s': what is free now could not be written; it is leaked",
                        block_node_filename(s->node));
    }
    qcow2_exclusive_end(s);
    return ret;
}

/* Take. */

static char *next_id(const Qcow2 *s)
{
    uint64_t highest = 0;

    for (unsigned i = 0; i < s->snapshots->len; i++) {
        const Qcow2Snapshot *sn = &g_array_index(s->snapshots, Qcow2Snapshot, i);

        highest = MAX(highest, g_ascii_strtoull(sn->id, NULL, 10));
    }
    return g_strdup_printf("%" PRIu64, highest + 1);
}

static bool may_take(const Qcow2 *s, const BlockSnapshot *snapshot, GError **error)
{
    if (s->snapshots->len >= QCOW2_SNAPSHOTS_MAX)
        return fail(error, ERR_LIMIT, "'%s' has %u snapshots; there can be no more",
                    block_node_filename(s->node), s->snapshots->len);
    if (snapshot->id && find_by(s, snapshot->id, offsetof(Qcow2Snapshot, id)) >= 0)
        return fail(error, ERR_EXISTS, "there is a snapshot with the id '%s' already", snapshot->id);
    if (snapshot->name && strlen(snapshot->name) > UINT16_MAX)
        return fail(error, ERR_LIMIT, "the snapshot's name is too long");
    return true;
}

static Qcow2Snapshot new_entry(const Qcow2 *s, const BlockSnapshot *snapshot)
{
    return (Qcow2Snapshot){
        .l1_table_offset = s->header.l1_table_offset, .l1_size = s->header.l1_size,
        .id = snapshot->id ? g_strdup(snapshot->id) : next_id(s),
        .name = g_strdup(snapshot->name ? snapshot->name : ""), .disk_size = s->header.size,
        .vm_state_size = snapshot->vm_state_size, .date_sec = snapshot->date_sec,
        .date_nsec = snapshot->date_nsec, .vm_clock_nsec = snapshot->vm_clock_nsec,
        .icount = snapshot->icount };
}

static int co_fn take(Qcow2 *s, void *arg, GError **error)
{
    const BlockSnapshot *snapshot = arg;
    Change change = { .s = s, .size = s->header.size };
    g_autofree uint64_t *l1 = NULL;
    uint64_t entries = s->header.l1_size, old_l1 = s->header.l1_table_offset;
    Qcow2Snapshot entry;
    int ret;

    if (!may_take(s, snapshot, error))
        return -EINVAL;
    l1 = g_memdup2(s->l1, entries * sizeof(*l1));
    ret = qcow2_data_references_add(s, l1, entries, error);
    if (ret < 0)
        return ret;
    ret = qcow2_new_active_copy(s, l1, entries, &change.active, error);
    if (ret == 0) {
        change.snapshots = copy_table(s, -1);
        entry = new_entry(s, snapshot);
        g_array_append_val(change.snapshots, entry);
        ret = make_change(&change, error);
    }
    if (ret < 0) {
        qcow2_references_drop(s, l1, entries, false, NULL);
        change_clear(&change);
        return ret;
    }
    qcow2_overlap_add(s, QCOW2_OL_INACTIVE_L1, old_l1, entries * sizeof(uint64_t));
    if (snapshot->vm_state_size)           /* the snapshot has it: the disk needs no copy of it */
        qcow2_guest_discard(s, qcow2_vm_state_start(s), ALIGN_UP(snapshot->vm_state_size, s->cluster_size),
                            QCOW2_DISCARD_NEVER, true);
    change_clear(&change);
    return ret;
}

int co_fn qcow2_co_snapshot_create(BlockNode *node, BlockSnapshot *snapshot, GError **error)
{
    Qcow2 *s = qcow2_of(node);
    int ret = alone(s, take, snapshot, error);

    if (ret == 0 && !snapshot->id)
        snapshot->id = g_strdup(g_array_index(s->snapshots, Qcow2Snapshot, s->snapshots->len - 1).id);
    return ret;
}

/* Go back. */

/* What was read before and is not the same any more. */
static void mark_bitmaps(Qcow2 *s)
{
    for (BlockBitmap *b = block_bitmap_next(s->node, NULL); b; b = block_bitmap_next(s->node, b))
        if (block_bitmap_flags(b) & BLOCK_BITMAP_RECORDING)
            block_bitmap_mark(b, 0, block_bitmap_size(b));
}

static int co_fn go_back_to(Qcow2 *s, const Qcow2Snapshot *sn, uint64_t *l1, GError **error)
{
    Change change = { .s = s, .size = sn->disk_size };
    uint64_t old_offset = s->header.l1_table_offset, old_entries = s->header.l1_size;
    g_autofree uint64_t *old = g_memdup2(s->l1, old_entries * sizeof(*old));
    int ret = qcow2_data_references_add(s, l1, sn->l1_size, error);

    if (ret < 0)
        return ret;
    ret = qcow2_new_active_copy(s, l1, sn->l1_size, &change.active, error);
    if (ret == 0 && (ret = qcow2_journal_cover(s, 0, s->header.size)) < 0)
        fail_errno(error, -ret, "'%s': writing the bitmap journal failed",
                   block_node_filename(s->node));
    if (ret == 0)
        ret = make_change(&change, error);
    if (ret < 0) {
        qcow2_references_drop(s, l1, sn->l1_size, false, NULL);
    } else {
        mark_bitmaps(s);
        if (qcow2_references_drop(s, old, old_entries, true, NULL) == 0)
            qcow2_free_later(s, old_offset, old_entries * sizeof(uint64_t),
                             QCOW2_DISCARD_SNAPSHOT);
    }
    change_clear(&change);
    return ret;
}

static int co_fn go_back(Qcow2 *s, void *arg, GError **error)
{
    uint64_t *l1;
    int i = find_with_l1(s, arg, &l1, error), ret;

    if (i < 0)
        return i;
    ret = go_back_to(s, &g_array_index(s->snapshots, Qcow2Snapshot, i), l1, error);
    free(l1);
    return ret;
}

int co_fn qcow2_co_snapshot_goto(BlockNode *node, const char *id_or_name, GError **error)
{
    return alone(qcow2_of(node), go_back, (void *)id_or_name, error);
}

/* Delete. */

static int co_fn delete_with(Qcow2 *s, int i, const Qcow2Snapshot *sn, uint64_t *l1, GError **error)
{
    Change change = { .s = s, .size = s->header.size };
    uint64_t old_l1 = s->header.l1_table_offset, old_entries = s->header.l1_size;
    g_autoptr(GArray) replaced = NULL;
    int ret = qcow2_new_active_without(s, l1, sn->l1_size, &change.active, error);

    if (ret < 0)
        return ret;
    replaced = g_array_ref(change.active.replaced);
    change.snapshots = copy_table(s, i);
    ret = make_change(&change, error);
    change_clear(&change);
    if (ret < 0)
        return ret;
    qcow2_overlap_remove(s, QCOW2_OL_INACTIVE_L1, sn->l1_table_offset, sn->l1_size * sizeof(uint64_t));
    qcow2_free_later(s, old_l1, old_entries * sizeof(uint64_t), QCOW2_DISCARD_SNAPSHOT);
    for (unsigned k = 0; k < replaced->len; k++)
        qcow2_free_later(s, g_array_index(replaced, uint64_t, k), s->cluster_size,
                         QCOW2_DISCARD_SNAPSHOT);
    /* What cannot be read keeps its owner: a leak that a check finds. */
    if (qcow2_references_drop(s, l1, sn->l1_size, true, NULL) == 0)
        qcow2_free_later(s, sn->l1_table_offset, sn->l1_size * sizeof(uint64_t),
                         QCOW2_DISCARD_SNAPSHOT);
    return 0;
}

static int co_fn delete(Qcow2 *s, void *arg, GError **error)
{
    int i = find(s, arg, error), ret;
    Qcow2Snapshot sn;
    uint64_t *l1;

    if (i < 0)
        return i;
    sn = copy_of(&g_array_index(s->snapshots, Qcow2Snapshot, i));
    l1 = qcow2_l1_read(s, sn.l1_table_offset, sn.l1_size, error);
    ret = l1 ? delete_with(s, i, &sn, l1, error) : -EIO;
    free(l1);
    qcow2_snapshot_clear(&sn);
    return ret;
}

int co_fn qcow2_co_snapshot_delete(BlockNode *node, const char *id_or_name, GError **error)
{
    return alone(qcow2_of(node), delete, (void *)id_or_name, error);
}

/* Look at one: the node is read-only, only memory changes. */

int co_fn qcow2_co_snapshot_load(BlockNode *node, const char *id_or_name, GError **error)
{
    Qcow2 *s = qcow2_of(node);
    uint64_t *l1;
    int i = find_with_l1(s, id_or_name, &l1, error);
    const Qcow2Snapshot *sn;

    if (i < 0)
        return i;
    sn = &g_array_index(s->snapshots, Qcow2Snapshot, i);
    qcow2_exclusive_begin(s);
    free(s->l1);
    s->l1 = l1;
    s->header.l1_size = sn->l1_size;
    s->header.size = sn->disk_size;
    qcow2_caches_forget(s);
    qcow2_exclusive_end(s);
    return 0;
}

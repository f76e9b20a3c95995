/*
 * Internal snapshots.
 *
 * A snapshot is an L1 table with all that it refers to.  Taking one, going back to one and deleting one
 * each prepare new tables in free clusters and then write the header once: its first sector names the
 * active L1 table and the snapshot table, so the change happens as a whole or not at all.  Before
 * that, and after, a crash leaves clusters whose refcount is too high, nothing worse.
 *
 *   take    the active tables become the snapshot's as they are; the active disk gets copies of them
 *           whose entries do not say COPIED, as every data cluster now has two owners
 *   go back the active disk gets such copies of the snapshot's tables; what it had loses one owner
 *   delete  active L2 tables with clusters that now have one owner only are replaced by copies that say
 *           COPIED for them; what the snapshot had loses one owner
 */
#pragma once
#include "block/qcow2/qcow2.h"

/* snapshot-table.c */
GArray *qcow2_snapshots_new(void);         /* of Qcow2Snapshot, cleared with it */
void qcow2_snapshot_clear(Qcow2Snapshot *snapshot);
/* Sets s->snapshots, also on failure (to what could be read). */
int co_fn qcow2_snapshots_read(Qcow2 *s, GError **error);
/* Writes a table to new clusters: its host offset (0: an empty one), or -errno.  No flush. */
int64_t co_fn qcow2_snapshots_write(Qcow2 *s, const GArray *snapshots, uint64_t *ret_bytes,
                                    GError **error);

/* snapshot-refs.c: what a set of tables refers to. */
/* An L1 table from disk, host byte order; free(). */
uint64_t *co_fn qcow2_l1_read(Qcow2 *s, uint64_t offset, uint64_t entries, GError **error);
/* One owner more for each data cluster.  On failure nothing has changed. */
int co_fn qcow2_data_references_add(Qcow2 *s, const uint64_t *l1, uint64_t entries, GError **error);
/* One owner less for each data cluster and L2 table, as soon as that is safe. */
int co_fn qcow2_references_drop(Qcow2 *s, const uint64_t *l1, uint64_t entries, bool tables,
                                GError **error);

/* snapshot-active.c: new tables for the active disk. */
typedef struct Qcow2NewActive {
    uint64_t *l1;                          /* host byte order; owned */
    uint64_t entries, offset;
    GArray *fresh;                         /* of uint64_t: host offsets of new L2 tables */
    GArray *replaced;                      /* of uint64_t: active L2 tables they stand for */
} Qcow2NewActive;
void qcow2_new_active_clear(Qcow2NewActive *active);
/* Copies of all tables of @l1, no entry COPIED.  On failure what was allocated is free again. */
int co_fn qcow2_new_active_copy(Qcow2 *s, const uint64_t *l1, uint64_t entries,
                                Qcow2NewActive *active, GError **error);
/* The active tables, with COPIED for what is the active disk's alone once @gone has lost its references. */
int co_fn qcow2_new_active_without(Qcow2 *s, const uint64_t *gone, uint64_t gone_entries,
                                   Qcow2NewActive *active, GError **error);
void co_fn qcow2_new_active_discard(Qcow2 *s, Qcow2NewActive *active);

/* snapshot.c: the verbs. */
GPtrArray *qcow2_snapshots(BlockNode *node);
int co_fn qcow2_co_snapshot_create(BlockNode *node, BlockSnapshot *snapshot, GError **error);
int co_fn qcow2_co_snapshot_goto(BlockNode *node, const char *id_or_name, GError **error);
int co_fn qcow2_co_snapshot_delete(BlockNode *node, const char *id_or_name, GError **error);
int co_fn qcow2_co_snapshot_load(BlockNode *node, const char *id_or_name, GError **error);

/* vmstate.c.  Where VM state lies: past the end of the disk, in an L2 table of its own. */
static inline uint64_t qcow2_vm_state_start(const Qcow2 *s)
{
    return ALIGN_UP(s->header.size, 1ull << qcow2_l2_cover_bits(s));
}
int co_fn qcow2_co_read_vmstate(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                                uint64_t bytes);
int co_fn qcow2_co_write_vmstate(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                 int iovcnt, uint64_t bytes);

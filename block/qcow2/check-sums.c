/*
 * Tables against their checksums: each that a check or a scrub reads, and those that it takes from memory,
 * too.  What is found is told, and counts as an error; what can be made of the table's content all
 * the same is for the rest of the check to say.
 */
#include "block/qcow2/checksums.h"
#include "block/qcow2/scrub.h"
#include <errno.h>
#include <stdlib.h>

void check_mismatches(Qcow2Check *c, const GArray *found)
{
    bool mended = c->fix & BLOCK_FIX_ERRORS;

    c->mismatches += found->len;
    if (c->live) {
        qcow2_live_mismatches(c->live, found);
        return;
    }
    c->result->corruptions += found->len;
    for (unsigned i = 0; i < found->len; i++) {
        g_autofree char *text = qcow2_mismatch_text(mended ? "Repairing" : "ERROR",
                                                    &g_array_index(found, Qcow2Mismatch, i));

        check_say(c, mended, "%s", text);
    }
}

int co_fn check_look(Qcow2Check *c, uint64_t offset, void *data, uint64_t bytes, const char *what,
                     GError **error)
{
    g_autoptr(GArray) found = g_array_new(FALSE, FALSE, sizeof(Qcow2Mismatch));
    int ret = qcow2_table_look(c->s, offset, data, bytes, what, found, error);

    check_mismatches(c, found);
    return ret;
}

static void co_fn look_only(Qcow2Check *c, uint64_t offset, uint64_t bytes, const char *what)
{
    uint8_t *data = bytes ? qcow2_memory(c->s, bytes) : NULL;
    g_autoptr(GError) error = NULL;

    if (data && check_look(c, offset, data, bytes, what, &error) < 0)
        check_unreadable(c, g_steal_pointer(&error));
    free(data);
}

void co_fn check_tables_in_memory(Qcow2Check *c)
{
    const Qcow2Header *h = &c->s->header;

    if (!c->s->sums)
        return;
    look_only(c, h->l1_table_offset, h->l1_size * sizeof(uint64_t), "L1 table");
    look_only(c, h->refcount_table_offset, (uint64_t)h->refcount_table_clusters << h->cluster_bits,
              "refcount table");
    look_only(c, h->snapshots_offset, c->s->snapshot_table_bytes, "snapshot table");
}

void co_fn check_bits(Qcow2Check *c, uint64_t offset)
{
    if (c->s->sums)
        look_only(c, offset, c->s->cluster_size, "bitmap");
}

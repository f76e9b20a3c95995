/*
 * VM state: bytes past the end of the disk, which a snapshot takes along.  They are written as the disk's
 * are, but nobody has aligned them: in encrypted images, whose bytes come in whole sectors, that is done
 * here.
 */
#include "block/qcow2/snapshot.h"
#include "block/qcow2/io.h"
#include "block/iov.h"
#include <errno.h>
#include <stdlib.h>

enum { SECTOR = 512 };

/* A part of the VM state with what is around it, up to whole sectors. */
typedef struct Whole {
    uint64_t guest, bytes, before;         /* before: bytes ahead of the part */
    uint8_t *data;                         /* free(); NULL: no memory */
} Whole;

static bool needs_whole(const Qcow2 *s, uint64_t guest, uint64_t bytes)
{
    return s->crypto.encrypt && (guest | bytes) % SECTOR;
}

static Whole whole_of(Qcow2 *s, uint64_t guest, uint64_t bytes)
{
    Whole w = { .guest = ALIGN_DOWN(guest, SECTOR), .before = guest % SECTOR };

    w.bytes = ALIGN_UP(guest + bytes, SECTOR) - w.guest;
    w.data = qcow2_memory(s, w.bytes);
    return w;
}

static int co_fn read_whole(Qcow2 *s, const Whole *w)
{
    return w->data ? qcow2_guest_read(s, w->guest, &(struct iovec){ w->data, w->bytes }, 1, w->bytes)
                   : -ENOMEM;
}

static int co_fn read_inside(Qcow2 *s, uint64_t guest, const struct iovec *iov, int iovcnt,
                             uint64_t bytes)
{
    Whole w;
    int ret;

    if (!needs_whole(s, guest, bytes))
        return qcow2_guest_read(s, guest, iov, iovcnt, bytes);
    w = whole_of(s, guest, bytes);
    ret = read_whole(s, &w);
    if (ret == 0)
        iov_from_buffer(iov, iovcnt, 0, w.data + w.before, bytes);
    free(w.data);
    return ret;
}

static int co_fn write_inside(Qcow2 *s, uint64_t guest, const struct iovec *iov, int iovcnt,
                              uint64_t bytes)
{
    Whole w;
    int ret;

    if (!needs_whole(s, guest, bytes))
        return qcow2_guest_write(s, guest, iov, iovcnt, bytes);
    w = whole_of(s, guest, bytes);
    ret = read_whole(s, &w);
    if (ret == 0) {
        iov_to_buffer(iov, iovcnt, 0, w.data + w.before, bytes);
        ret = qcow2_guest_write(s, w.guest, &(struct iovec){ w.data, w.bytes }, 1, w.bytes);
    }
    free(w.data);
    return ret;
}

/* Whether the range, rounded up, can be addressed at all. */
static bool addressable(const Qcow2 *s, uint64_t offset, uint64_t bytes)
{
    uint64_t start = qcow2_vm_state_start(s);

    return start <= INT64_MAX && offset <= INT64_MAX - start &&
           bytes <= INT64_MAX - SECTOR - start - offset;
}

int co_fn qcow2_co_read_vmstate(BlockNode *node, uint64_t offset, const struct iovec *iov, int iovcnt,
                                uint64_t bytes)
{
    Qcow2 *s = qcow2_of(node);
    Qcow2Ticket ticket;
    int ret;

    if (!addressable(s, offset, bytes))
        return -EFBIG;
    block_debug_event(s->file, "vmstate_load");
    ticket = qcow2_enter(s);
    ret = read_inside(s, qcow2_vm_state_start(s) + offset, iov, iovcnt, bytes);
    qcow2_leave(s, &ticket);
    return ret;
}

static int co_fn reach(Qcow2 *s, uint64_t guest_end)
{
    unsigned bits = qcow2_l2_cover_bits(s);
    uint64_t entries = (guest_end + (1ull << bits) - 1) >> bits;
    int ret = 0;

    if (entries <= s->header.l1_size)
        return 0;
    qcow2_exclusive_begin(s);
    if (entries > s->header.l1_size)
        ret = qcow2_grow_l1(s, entries, NULL);
    qcow2_exclusive_end(s);
    return ret;
}

/* One request at a time, if they are not of whole sectors. */
int co_fn qcow2_co_write_vmstate(BlockNode *node, uint64_t offset, const struct iovec *iov,
                                 int iovcnt, uint64_t bytes)
{
    Qcow2 *s = qcow2_of(node);
    Qcow2Ticket ticket;
    int ret = qcow2_may_write(s);

    if (ret == 0 && !addressable(s, offset, bytes))
        ret = -EFBIG;
    if (ret == 0)
        ret = reach(s, qcow2_vm_state_start(s) + offset + bytes);
    if (ret < 0)
        return ret;
    block_debug_event(s->file, "vmstate_save");
    ticket = qcow2_enter(s);
    ret = write_inside(s, qcow2_vm_state_start(s) + offset, iov, iovcnt, bytes);
    qcow2_leave(s, &ticket);
    return ret;
}

/* Guest accesses: straight to RAM, or to a device's callbacks. */
#include <string.h>
#include <unistd.h>
#include "src/base/epoch.h"
#include "src/base/error.h"
#include "src/base/loop.h"
#include "src/base/util.h"
#include "src/memory/flatview.h"

static uint64_t ones(unsigned size)
{
    return UINT64_MAX >> (64 - 8 * size);
}

/* ---- one access of an I/O region ---- */

typedef struct Sizes {
    unsigned min, max;
    bool unaligned;
} Sizes;

static Sizes guest_sizes(const IoOps *ops)
{
    return (Sizes){ ops->guest.min ? ops->guest.min : 1, ops->guest.max ? ops->guest.max : 8,
                    ops->guest.unaligned };
}

static Sizes device_sizes(const IoOps *ops)
{
    return (Sizes){ ops->device.min ? ops->device.min : 1, ops->device.max ? ops->device.max : 4,
                    ops->device.unaligned };
}

static bool guest_may(const Region *r, uint64_t offset, unsigned size, const char *verb)
{
    Sizes guest = guest_sizes(r->ops);

    if (size >= guest.min && size <= guest.max && (guest.unaligned || offset % size == 0))
        return true;
    guest_error(r->name, "%s of %u bytes at offset 0x%" G_GINT64_MODIFIER "x", verb, size, offset);
    return false;
}

/*
 * The next piece of an access: what of it (@n bytes, from bit @shift) lies in the device's access of
 * @unit bytes at @at.
 */
typedef struct Piece {
    uint64_t at;
    unsigned unit, n, skip;                /* skip: bytes of the unit before ours */
} Piece;

static Piece next_piece(Sizes device, uint64_t offset, unsigned left)
{
    unsigned unit = device.max;
    Piece p;

    while (unit > device.min && (unit > left || (!device.unaligned && offset % unit)))
        unit /= 2;
    p.unit = unit;
    p.skip = unit > left || !device.unaligned ? offset % unit : 0;
    p.at = offset - p.skip;
    p.n = MIN(unit - p.skip, left);
    return p;
}

static uint64_t device_read(Region *r, uint64_t at, unsigned unit)
{
    if (!r->ops->read || at + unit > r->size)
        return ones(unit);
    return r->ops->read(r->opaque, at, unit) & ones(unit);
}

MemResult region_read(Region *r, uint64_t offset, unsigned size, uint64_t *ret)
{
    Sizes device = device_sizes(r->ops);

    *ret = ones(size);
    if (!guest_may(r, offset, size, "read"))
        return MEM_ERROR;
    *ret = 0;
    for (unsigned done = 0; done < size;) {
        Piece p = next_piece(device, offset + done, size - done);
        uint64_t value = device_read(r, p.at, p.unit) >> (8 * p.skip) & ones(p.n);

        *ret |= value << (8 * done);
        done += p.n;
    }
    return MEM_OK;
}

static void device_write_piece(Region *r, const Piece *p, uint64_t value)
{
    if (!r->ops->write || p->at + p->unit > r->size)
        return;
    if (p->n < p->unit) {
        uint64_t mask = ones(p->n) << (8 * p->skip);
        uint64_t old = device_read(r, p->at, p->unit);

        value = (old & ~mask) | (value << (8 * p->skip) & mask);
    }
    r->ops->write(r->opaque, p->at, value & ones(p->unit), p->unit);
}

/* True if an ioeventfd takes the write. */
static bool signal_ioeventfd(const Region *r, uint64_t offset, unsigned size, uint64_t value)
{
    for (unsigned i = 0; r->ioeventfds && i < r->ioeventfds->len; i++) {
        const FlatIoeventfd *e = &g_array_index(r->ioeventfds, FlatIoeventfd, i);
        uint64_t one = 1;

        if (e->addr != offset || (e->size && e->size != size) || (e->match && e->value != value))
            continue;
        /* A full counter (EAGAIN) is signalled already. */
        return write(e->fd, &one, sizeof(one)) == sizeof(one) || true;
    }
    return false;
}

MemResult region_write(Region *r, uint64_t offset, unsigned size, uint64_t value)
{
    Sizes device = device_sizes(r->ops);

    value &= ones(size);
    if (signal_ioeventfd(r, offset, size, value))
        return MEM_OK;
    if (!guest_may(r, offset, size, "write"))
        return MEM_ERROR;
    for (unsigned done = 0; done < size;) {
        Piece p = next_piece(device, offset + done, size - done);

        device_write_piece(r, &p, value >> (8 * done) & ones(p.n));
        done += p.n;
    }
    return MEM_OK;
}

/* ---- reaching a region: under the VM lock, which an iothread never takes ---- */

static bool enter_io(AddressSpace *as, bool *ret_locked)
{
    VmLock *lock = address_space_lock(as);
    Loop *loop;

    *ret_locked = false;
    if (!lock || vm_locked(lock))
        return true;
    loop = loop_current();
    if (loop && loop != loop_main())
        return false;
    vm_lock(lock);
    *ret_locked = true;
    return true;
}

static void leave_io(AddressSpace *as, bool locked)
{
    if (locked)
        vm_unlock(address_space_lock(as));
}

/* The view may have changed until the lock was ours: looks again.  NULL: it is no I/O any more. */
static Region *find_io(AddressSpace *as, Gpa addr, unsigned size, uint64_t *ret_offset)
{
    const Section *s = flatview_find(address_space_view(as), addr);

    if (!s || s->host || s->last - addr < size - 1)
        return NULL;
    *ret_offset = s->range.offset + (addr - s->range.addr);
    return s->range.region;
}

/* Loads to *value, or stores it. */
static MemResult io_access(AddressSpace *as, Gpa addr, unsigned size, bool store, uint64_t *value)
{
    MemResult result = MEM_UNMAPPED;
    uint64_t offset;
    Region *r;
    bool locked;

    if (!enter_io(as, &locked))
        return MEM_ERROR;
    r = find_io(as, addr, size, &offset);
    if (r)
        result = store ? region_write(r, offset, size, *value) : region_read(r, offset, size, value);
    leave_io(as, locked);
    return result;
}

/* ---- single accesses ---- */

MemResult address_space_load(AddressSpace *as, Gpa addr, unsigned size, uint64_t *ret)
{
    uint8_t bytes[8] = { 0 };
    const Section *s;
    bool whole, is_ram;
    MemResult result;

    epoch_enter();
    s = flatview_find(address_space_view(as), addr);
    whole = s && s->last - addr >= size - 1;
    is_ram = whole && s->host;
    if (is_ram) {
        const uint8_t *host = s->host + (addr - s->range.addr);

        switch (size) {                    /* one access each: the guest may count on it */
        case 1: *ret = *host; break;
        case 2: *ret = ld_le16(host); break;
        case 4: *ret = ld_le32(host); break;
        default: *ret = ld_le64(host); break;
        }
    }
    epoch_exit();
    if (is_ram)
        return MEM_OK;
    *ret = ones(size);
    if (whole)
        return io_access(as, addr, size, false, ret);
    result = address_space_read(as, addr, bytes, size);
    *ret = ld_le64(bytes);
    return result;
}

MemResult address_space_store(AddressSpace *as, Gpa addr, unsigned size, uint64_t value)
{
    uint8_t bytes[8];
    const Section *s;
    bool whole, is_ram;

    epoch_enter();
    s = flatview_find(address_space_view(as), addr);
    whole = s && s->last - addr >= size - 1;
    is_ram = whole && s->host;
    if (is_ram && !s->range.readonly) {
        uint64_t at = addr - s->range.addr;
        uint8_t *host = s->host + at;

        switch (size) {
        case 1: *host = value; break;
        case 2: st_le16(host, value); break;
        case 4: st_le32(host, value); break;
        default: st_le64(host, value); break;
        }
        ram_dirty_set(s->block, s->block_offset + at, size);
    }
    epoch_exit();
    if (is_ram)
        return MEM_OK;
    if (whole)
        return io_access(as, addr, size, true, &value);
    st_le64(bytes, value);
    return address_space_write(as, addr, bytes, size);
}

/* ---- buffers ---- */

/* The largest single access for what is left, that the region allows and that is aligned. */
static unsigned io_unit(const Section *s, Gpa addr, uint64_t left)
{
    uint64_t offset = s->range.offset + (addr - s->range.addr);
    uint64_t max = MIN(left, s->last - addr + 1);
    unsigned unit = guest_sizes(s->range.region->ops).max;

    while (unit > 1 && (unit > max || offset % unit))
        unit /= 2;
    return unit;
}

typedef struct Step {
    uint64_t length;                       /* bytes of the access that are done, or to be done */
    bool is_io, unmapped;
} Step;

/* The stretch at @addr: copied at once if it is RAM, else told to the caller. */
static Step copy_step(AddressSpace *as, Gpa addr, uint8_t *in, const uint8_t *out, uint64_t left)
{
    const FlatView *view;
    const Section *s;
    Step step = { 0 };

    epoch_enter();
    view = address_space_view(as);
    s = flatview_find(view, addr);
    if (!s) {
        step = (Step){ .length = MIN(left, flatview_gap(view, addr)), .unmapped = true };
    } else if (!s->host) {
        step.is_io = true;                 /* its region may be read under the VM lock only */
    } else {
        uint64_t at = addr - s->range.addr;

        step.length = MIN(left, s->last - addr + 1 ? s->last - addr + 1 : UINT64_MAX);
        if (in) {
            memcpy(in, s->host + at, step.length);
        } else if (!s->range.readonly) {
            memcpy(s->host + at, out, step.length);
            ram_dirty_set(s->block, s->block_offset + at, step.length);
        }
    }
    epoch_exit();
    return step;
}

/* One access of the I/O region at @addr.  Its size comes back in *ret_size. */
static MemResult io_step(AddressSpace *as, Gpa addr, uint8_t *in, const uint8_t *out, uint64_t left,
                         unsigned *ret_size)
{
    uint8_t bytes[8] = { 0 };
    MemResult result = MEM_UNMAPPED;
    const Section *s;
    uint64_t value;
    bool locked;

    *ret_size = 1;
    if (in)
        *in = 0xff;
    if (!enter_io(as, &locked))
        return MEM_ERROR;
    s = flatview_find(address_space_view(as), addr);
    if (s && !s->host) {
        uint64_t offset = s->range.offset + (addr - s->range.addr);
        Region *r = s->range.region;
        unsigned size = io_unit(s, addr, left);

        *ret_size = size;
        if (in) {
            result = region_read(r, offset, size, &value);
            st_le64(bytes, value);
            memcpy(in, bytes, size);
        } else {
            memcpy(bytes, out, size);
            result = region_write(r, offset, size, ld_le64(bytes));
        }
    }
    leave_io(as, locked);
    return result;
}

static MemResult access_buffer(AddressSpace *as, Gpa addr, uint8_t *in, const uint8_t *out,
                               uint64_t length)
{
    MemResult result = MEM_OK, one;

    while (length) {
        Step step = copy_step(as, addr, in, out, length);

        if (step.unmapped) {
            if (in)
                memset(in, 0xff, step.length);
            result = MAX(result, MEM_UNMAPPED);
        } else if (step.is_io) {
            unsigned size;

            one = io_step(as, addr, in, out, length, &size);
            result = MAX(result, one);
            step.length = size;
        }
        addr += step.length;
        length -= step.length;
        in = in ? in + step.length : NULL;
        out = out ? out + step.length : NULL;
    }
    return result;
}

MemResult address_space_read(AddressSpace *as, Gpa addr, void *buffer, uint64_t length)
{
    return access_buffer(as, addr, buffer, NULL, length);
}

MemResult address_space_write(AddressSpace *as, Gpa addr, const void *buffer, uint64_t length)
{
    return access_buffer(as, addr, NULL, buffer, length);
}

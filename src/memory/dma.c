/* Host pointers to guest RAM. */
#include "src/base/epoch.h"
#include "src/memory/flatview.h"

/* The RAM section at @addr that allows the access, or NULL. */
static const Section *find_ram(AddressSpace *as, Gpa addr, bool write)
{
    const Section *s = flatview_find(address_space_view(as), addr);

    return s && s->host && !(write && s->range.readonly) ? s : NULL;
}

void *dma_ptr(AddressSpace *as, Gpa addr, uint64_t *length, bool write)
{
    const Section *s = find_ram(as, addr, write);

    if (!s)
        return NULL;
    if (*length && *length - 1 > s->last - addr)
        *length = s->last - addr + 1;
    return s->host + (addr - s->range.addr);
}

int dma_map_iov(AddressSpace *as, Gpa addr, uint64_t length, bool write, struct iovec *iov, int max)
{
    int n = 0;

    while (length) {
        uint64_t part = length;
        void *host;

        if (n == max || addr + (length - 1) < addr)
            return -1;
        host = dma_ptr(as, addr, &part, write);
        if (!host)
            return -1;
        iov[n++] = (struct iovec){ host, part };
        addr += part;
        length -= part;
    }
    return n;
}

void dma_dirty(AddressSpace *as, Gpa addr, uint64_t length)
{
    epoch_enter();
    while (length) {
        const FlatView *view = address_space_view(as);
        const Section *s = flatview_find(view, addr);
        uint64_t part = s ? MIN(length - 1, s->last - addr) + 1
                          : MIN(length, flatview_gap(view, addr));

        if (s && s->host)
            ram_dirty_set(s->block, s->block_offset + (addr - s->range.addr), part);
        addr += part;
        length -= part;
    }
    epoch_exit();
}

/* ---- windows ---- */

void dma_window_init(DmaWindow *w, AddressSpace *as, Gpa addr, uint64_t length, bool write)
{
    *w = (DmaWindow){ .as = as, .addr = addr, .length = length, .write = write };
}

static void *window_find(DmaWindow *w, const FlatView *view)
{
    const Section *s = w->length ? flatview_find(view, w->addr) : NULL;

    w->generation = view->generation;
    w->host = NULL;
    w->block = NULL;
    if (s && s->host && !(w->write && s->range.readonly) && w->length - 1 <= s->last - w->addr) {
        w->host = s->host + (w->addr - s->range.addr);
        w->block = s->block;
        w->block_offset = s->block_offset + (w->addr - s->range.addr);
    }
    return w->host;
}

void *dma_window_ptr(DmaWindow *w)
{
    const FlatView *view;

    if (!w->as)
        return NULL;
    view = address_space_view(w->as);
    return G_LIKELY(w->generation == view->generation) ? w->host : window_find(w, view);
}

void dma_window_dirty(DmaWindow *w, uint64_t offset, uint64_t length)
{
    if (w->block)
        ram_dirty_set(w->block, w->block_offset + offset, length);
}

void dma_window_destroy(DmaWindow *w)
{
    *w = (DmaWindow){ 0 };
}

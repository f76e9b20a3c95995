/* Address spaces: publishing views and telling listeners what changed. */
#include "src/base/epoch.h"
#include "src/memory/flatview.h"

struct AddressSpace {
    char *name;
    Region *root;
    VmLock *lock;
    FlatView *view;                        /* atomic; replaced under the VM lock */
    GPtrArray *tops;                       /* of Region: the trees that the view came from */
    GPtrArray *listeners;
    bool pending;                          /* in the thread's list of spaces to rebuild */
    AddressSpace *next_pending;
};

const FlatView *address_space_view(const AddressSpace *as)
{
    return __atomic_load_n(&as->view, __ATOMIC_SEQ_CST);
}

VmLock *address_space_lock(const AddressSpace *as)
{
    return as->lock;
}

const char *address_space_name(const AddressSpace *as)
{
    return as->name;
}

Region *address_space_root(const AddressSpace *as)
{
    return as->root;
}

void memory_read_enter(void)
{
    epoch_enter();
}

void memory_read_exit(void)
{
    epoch_exit();
}

/* ---- differences ---- */

static int compare_places(const Section *a, const Section *b)
{
    return a->range.addr < b->range.addr ? -1 : a->range.addr > b->range.addr;
}

/* Calls fn for each section of @in that is not in @other. */
static void for_each_only_in(const FlatView *in, const FlatView *other, MemoryListener *l,
                             void (*fn)(MemoryListener *l, const FlatRange *range))
{
    unsigned j = 0;

    for (unsigned i = 0; fn && i < in->count; i++) {
        const Section *s = &in->sections[i];

        while (j < other->count && compare_places(&other->sections[j], s) < 0)
            j++;
        if (j == other->count || !section_same_place(s, &other->sections[j]))
            fn(l, &s->range);
    }
}

static void for_each_log_change(const FlatView *new, const FlatView *old, MemoryListener *l)
{
    unsigned j = 0;

    for (unsigned i = 0; l->log_change && i < new->count; i++) {
        const Section *s = &new->sections[i];

        while (j < old->count && compare_places(&old->sections[j], s) < 0)
            j++;
        if (j < old->count && section_same_place(s, &old->sections[j]) &&
            s->range.dirty_log != old->sections[j].range.dirty_log)
            l->log_change(l, &s->range);
    }
}

static bool has_ioeventfd(const FlatView *view, const FlatIoeventfd *e)
{
    for (unsigned i = 0; i < view->ioeventfds->len; i++) {
        if (ioeventfd_equal(&g_array_index(view->ioeventfds, FlatIoeventfd, i), e))
            return true;
    }
    return false;
}

static void for_each_ioeventfd_only_in(const FlatView *in, const FlatView *other,
                                       MemoryListener *l,
                                       void (*fn)(MemoryListener *l, const FlatIoeventfd *e))
{
    for (unsigned i = 0; fn && i < in->ioeventfds->len; i++) {
        const FlatIoeventfd *e = &g_array_index(in->ioeventfds, FlatIoeventfd, i);

        if (!has_ioeventfd(other, e))
            fn(l, e);
    }
}

static void tell_listener(MemoryListener *l, const FlatView *old, const FlatView *new)
{
    for_each_ioeventfd_only_in(old, new, l, l->ioeventfd_del);
    for_each_only_in(old, new, l, l->range_del);
    for_each_only_in(new, old, l, l->range_add);
    for_each_log_change(new, old, l);
    for_each_ioeventfd_only_in(new, old, l, l->ioeventfd_add);
    if (l->commit)
        l->commit(l);
}

/* ---- rebuilding ---- */

static void set_tops(AddressSpace *as, GPtrArray *tops)
{
    for (unsigned i = 0; as->tops && i < as->tops->len; i++)
        g_ptr_array_remove(((Region *)as->tops->pdata[i])->spaces, as);
    g_clear_pointer(&as->tops, g_ptr_array_unref);
    as->tops = tops;
    for (unsigned i = 0; tops && i < tops->len; i++) {
        Region *top = tops->pdata[i];

        if (!top->spaces)
            top->spaces = g_ptr_array_new();
        g_ptr_array_add(top->spaces, as);
    }
}

static void rebuild(AddressSpace *as)
{
    GPtrArray *tops = g_ptr_array_new();
    FlatView *old = as->view, *new = flatview_render(as->root, tops);

    set_tops(as, tops);
    if (flatview_equal(old, new)) {
        flatview_free(new);
        return;
    }
    __atomic_store_n(&as->view, new, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < as->listeners->len; i++)
        tell_listener(as->listeners->pdata[i], old, new);
    epoch_defer(flatview_free, old);
}

/* ---- transactions: of the thread that holds the VM lock ---- */

static __thread unsigned transaction_depth;
static __thread AddressSpace *pending;

void memory_settle(void)
{
    while (pending) {
        AddressSpace *as = pending;

        pending = as->next_pending;
        as->pending = false;
        rebuild(as);
    }
}

void memory_begin(void)
{
    transaction_depth++;
}

void memory_commit(void)
{
    if (--transaction_depth == 0)
        memory_settle();
}

static void mark_spaces(const Region *r)
{
    for (unsigned i = 0; r->spaces && i < r->spaces->len; i++) {
        AddressSpace *as = r->spaces->pdata[i];

        if (!as->pending) {
            as->pending = true;
            as->next_pending = pending;
            pending = as;
        }
    }
}

void region_changed(Region *r)
{
    Region *top = region_top(r);

    mark_spaces(top);
    if (top != r)
        mark_spaces(r);                    /* it was a top until now */
    if (transaction_depth == 0)
        memory_settle();
}

void region_forget_spaces(Region *r)
{
    for (unsigned i = 0; r->spaces && i < r->spaces->len; i++)
        g_ptr_array_remove(((AddressSpace *)r->spaces->pdata[i])->tops, r);
    g_clear_pointer(&r->spaces, g_ptr_array_unref);
}

/* ---- life ---- */

AddressSpace *address_space_new(const char *name, Region *root, VmLock *lock)
{
    AddressSpace *as = g_new0(AddressSpace, 1);
    GPtrArray *tops = g_ptr_array_new();

    as->name = g_strdup(name);
    as->root = root;
    as->lock = lock;
    as->listeners = g_ptr_array_new();
    as->view = flatview_render(root, tops);
    set_tops(as, tops);
    return as;
}

void address_space_free(AddressSpace *as)
{
    for (AddressSpace **link = &pending; *link; link = &(*link)->next_pending) {
        if (*link == as) {
            *link = as->next_pending;
            break;
        }
    }
    set_tops(as, NULL);
    epoch_defer(flatview_free, as->view);
    g_ptr_array_unref(as->listeners);
    g_free(as->name);
    g_free(as);
}

/* ---- listeners ---- */

static FlatView *empty_view(void)
{
    FlatView *view = g_new0(FlatView, 1);

    view->ioeventfds = g_array_new(FALSE, FALSE, sizeof(FlatIoeventfd));
    return view;
}

void memory_listener_add(AddressSpace *as, MemoryListener *l)
{
    FlatView *empty = empty_view();

    l->as = as;
    g_ptr_array_add(as->listeners, l);
    tell_listener(l, empty, as->view);
    flatview_free(empty);
}

void memory_listener_remove(MemoryListener *l)
{
    FlatView *empty;

    if (!l->as)
        return;
    empty = empty_view();
    tell_listener(l, l->as->view, empty);
    flatview_free(empty);
    g_ptr_array_remove(l->as->listeners, l);
    l->as = NULL;
}

void address_space_sync_dirty(AddressSpace *as)
{
    for (unsigned i = 0; i < as->listeners->len; i++) {
        MemoryListener *l = as->listeners->pdata[i];

        for (unsigned j = 0; l->log_sync && j < as->view->count; j++) {
            if (as->view->sections[j].range.dirty_log)
                l->log_sync(l, &as->view->sections[j].range);
        }
    }
}

bool address_space_has_ioeventfd_listener(const AddressSpace *as)
{
    for (unsigned i = 0; i < as->listeners->len; i++) {
        if (((MemoryListener *)as->listeners->pdata[i])->ioeventfd_add)
            return true;
    }
    return false;
}

void address_space_foreach(AddressSpace *as, void (*fn)(const FlatRange *range, void *opaque),
                           void *opaque)
{
    const FlatView *view;

    epoch_enter();
    view = address_space_view(as);
    for (unsigned i = 0; i < view->count; i++)
        fn(&view->sections[i].range, opaque);
    epoch_exit();
}

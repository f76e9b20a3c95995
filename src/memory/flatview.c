/* Rendering a tree of regions to a flat view, and looking up in it. */
#include "src/memory/flatview.h"
#include <string.h>

/*
 * Positions while rendering.  Regions may be 2^64 bytes large, and the base of an alias's target may
 * lie below zero, so neither fits 64 bits.
 */
typedef __int128 Wide;

#define RENDER_DEPTH_MAX 64                /* of aliases to containers; a cycle is our bug */

typedef struct Render {
    GArray *sections;                      /* of Section, sorted, without overlap */
    GPtrArray *tops;
    unsigned depth;
} Render;

static Wide region_wide_size(const Region *r)
{
    return r->size == UINT64_MAX ? (Wide)1 << 64 : (Wide)r->size;
}

static void fill_section(Section *s, Region *r, Wide base, Wide lo, Wide hi, bool readonly)
{
    *s = (Section){
        .range = {
            .addr = lo,
            .size = hi - lo > (Wide)UINT64_MAX ? UINT64_MAX : (uint64_t)(hi - lo),
            .region = r,
            .offset = lo - base,
            .readonly = readonly || r->kind == REGION_ROM,
            .dirty_log = r->dirty_log,
        },
        .last = hi - 1,
    };
    if (r->kind != REGION_IO) {
        s->block = r->ram;
        s->block_offset = r->ram_offset + s->range.offset;
        s->host = (uint8_t *)ram_block_host(r->ram) + s->block_offset;
    }
}

/* Puts @r into every gap of lo … hi: what is there already has a higher priority. */
static void fill_gaps(Render *render, Region *r, Wide base, Wide lo, Wide hi, bool readonly)
{
    unsigned i = 0, high = render->sections->len;

    while (i < high) {                     /* the first section that ends at lo or behind it */
        unsigned middle = (i + high) / 2;

        if (g_array_index(render->sections, Section, middle).last < lo)
            i = middle + 1;
        else
            high = middle;
    }
    while (lo < hi) {
        const Section *next = i < render->sections->len
                                  ? &g_array_index(render->sections, Section, i) : NULL;
        Wide gap_end = next && next->range.addr < hi ? (Wide)next->range.addr : hi;
        Wide behind = next ? (Wide)next->last + 1 : hi;

        if (lo < gap_end) {
            Section s;

            fill_section(&s, r, base, lo, gap_end, readonly);
            g_array_insert_val(render->sections, i, s);
            i++;
        }
        lo = behind;
        i++;
    }
}

static void note_top(Render *render, Region *r)
{
    Region *top = region_top(r);

    if (!g_ptr_array_find(render->tops, top, NULL))
        g_ptr_array_add(render->tops, top);
}

/* Renders @r, whose first byte is at @base, as far as it lies in lo … hi. */
static void render_region(Render *render, Region *r, Wide base, Wide lo, Wide hi, bool readonly)
{
    lo = MAX(lo, base);
    hi = MIN(hi, base + region_wide_size(r));
    if (!r->enabled || lo >= hi)
        return;
    if (render->depth++ == RENDER_DEPTH_MAX)
        g_error("memory region '%s' contains itself", r->name);
    if (r->kind == REGION_ALIAS) {
        note_top(render, r->alias);
        render_region(render, r->alias, base - r->alias_offset, lo, hi, readonly);
    }
    for (unsigned i = 0; r->children && i < r->children->len; i++) {
        Region *child = r->children->pdata[i];

        render_region(render, child, base + child->offset, lo, hi, readonly);
    }
    if (r->kind != REGION_ALIAS && r->kind != REGION_CONTAINER)
        fill_gaps(render, r, base, lo, hi, readonly);
    render->depth--;
}

/* Neighbours that continue each other become one. */
static void merge_sections(GArray *sections)
{
    unsigned kept = 0;

    for (unsigned i = 1; i < sections->len; i++) {
        Section *a = &g_array_index(sections, Section, kept);
        const Section *b = &g_array_index(sections, Section, i);

        if (a->last + 1 == b->range.addr && a->range.region == b->range.region &&
            a->range.offset + a->range.size == b->range.offset &&
            a->range.readonly == b->range.readonly) {
            a->last = b->last;
            a->range.size += b->range.size;
        } else {
            g_array_index(sections, Section, ++kept) = *b;
        }
    }
    if (sections->len)
        g_array_set_size(sections, kept + 1);
}

static int compare_ioeventfds(const void *a, const void *b)
{
    const FlatIoeventfd *x = a, *y = b;

    if (x->addr != y->addr)
        return x->addr < y->addr ? -1 : 1;
    if (x->size != y->size)
        return x->size < y->size ? -1 : 1;
    if (x->match != y->match)
        return x->match < y->match ? -1 : 1;
    if (x->value != y->value)
        return x->value < y->value ? -1 : 1;
    return x->fd < y->fd ? -1 : x->fd > y->fd;
}

/* A region's own list has offsets where a view has addresses. */
static void add_ioeventfds(const Section *s, GArray *out)
{
    const GArray *own = s->range.region->ioeventfds;

    for (unsigned i = 0; own && i < own->len; i++) {
        FlatIoeventfd e = g_array_index(own, FlatIoeventfd, i);

        if (e.addr < s->range.offset || e.addr - s->range.offset > s->last - s->range.addr)
            continue;
        e.addr = s->range.addr + (e.addr - s->range.offset);
        g_array_append_val(out, e);
    }
}

FlatView *flatview_render(Region *root, GPtrArray *tops)
{
    static uint64_t generations;           /* atomic */
    Render render = { .sections = g_array_new(FALSE, FALSE, sizeof(Section)), .tops = tops };
    FlatView *view = g_new0(FlatView, 1);

    note_top(&render, root);
    render_region(&render, root, 0, 0, (Wide)1 << 64, false);
    merge_sections(render.sections);
    view->generation = __atomic_add_fetch(&generations, 1, __ATOMIC_RELAXED);
    view->ioeventfds = g_array_new(FALSE, FALSE, sizeof(FlatIoeventfd));
    view->count = render.sections->len;
    view->sections = (Section *)g_array_free(render.sections, FALSE);
    for (unsigned i = 0; i < view->count; i++) {
        if (view->sections[i].block)
            ram_block_ref(view->sections[i].block);
        add_ioeventfds(&view->sections[i], view->ioeventfds);
    }
    g_array_sort(view->ioeventfds, compare_ioeventfds);
    return view;
}

void flatview_free(void *opaque)
{
    FlatView *view = opaque;

    for (unsigned i = 0; i < view->count; i++)
        ram_block_unref(view->sections[i].block);
    g_array_unref(view->ioeventfds);
    g_free(view->sections);
    g_free(view);
}

bool section_same_place(const Section *a, const Section *b)
{
    return a->range.addr == b->range.addr && a->last == b->last &&
           a->range.region == b->range.region && a->range.offset == b->range.offset &&
           a->range.readonly == b->range.readonly && a->block == b->block && a->host == b->host;
}

bool ioeventfd_equal(const FlatIoeventfd *a, const FlatIoeventfd *b)
{
    return !compare_ioeventfds(a, b);
}

bool flatview_equal(const FlatView *a, const FlatView *b)
{
    if (a->count != b->count || a->ioeventfds->len != b->ioeventfds->len)
        return false;
    for (unsigned i = 0; i < a->count; i++) {
        if (!section_same_place(&a->sections[i], &b->sections[i]) ||
            a->sections[i].range.dirty_log != b->sections[i].range.dirty_log)
            return false;
    }
    for (unsigned i = 0; i < a->ioeventfds->len; i++) {
        if (!ioeventfd_equal(&g_array_index(a->ioeventfds, FlatIoeventfd, i),
                             &g_array_index(b->ioeventfds, FlatIoeventfd, i)))
            return false;
    }
    return true;
}

/* The sections this thread found last, by generation: a generation names one view for ever. */
#define HITS 4
static __thread struct {
    uint64_t generation;
    const Section *section;
} hits[HITS];

/* The index of the first section that ends at @addr or behind it. */
static unsigned first_ending_at(const FlatView *view, Gpa addr)
{
    unsigned low = 0, high = view->count;

    while (low < high) {
        unsigned middle = (low + high) / 2;

        if (view->sections[middle].last < addr)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

uint64_t flatview_gap(const FlatView *view, Gpa addr)
{
    unsigned next = first_ending_at(view, addr);

    return next == view->count ? -addr ? -addr : UINT64_MAX
                               : MAX(view->sections[next].range.addr - addr, 1);
}

const Section *flatview_find(const FlatView *view, Gpa addr)
{
    unsigned slot = view->generation % HITS, low;
    const Section *s = hits[slot].section;

    if (hits[slot].generation == view->generation && addr >= s->range.addr && addr <= s->last)
        return s;
    low = first_ending_at(view, addr);
    if (low == view->count) /* also where the view is empty, and has no array */
        return NULL;
    s = &view->sections[low];
    if (s->range.addr > addr)
        return NULL;
    hits[slot].generation = view->generation;
    hits[slot].section = s;
    return s;
}

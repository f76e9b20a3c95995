/* The text of `info mtree`. */
#include "src/memory/flatview.h"

static const char *const kind_words[] = {
    [REGION_CONTAINER] = "container", [REGION_IO] = "i/o", [REGION_RAM] = "ram",
    [REGION_ROM] = "rom", [REGION_ALIAS] = "alias",
};

static void put_bounds(GString *text, unsigned indent, uint64_t first, uint64_t size)
{
    uint64_t last = size == UINT64_MAX ? UINT64_MAX : first + size - (size > 0);

    g_string_append_printf(text, "%*s%016" G_GINT64_MODIFIER "x-%016" G_GINT64_MODIFIER "x",
                           (int)indent, "", first, last);
}

static void describe_region(GString *text, const Region *r, uint64_t base, unsigned indent)
{
    put_bounds(text, indent, base, r->size);
    g_string_append_printf(text, " (prio %d, %s): ", r->priority, kind_words[r->kind]);
    if (r->kind == REGION_ALIAS)
        g_string_append_printf(text, "alias %s @%s %016" G_GINT64_MODIFIER "x", r->name,
                               r->alias->name, r->alias_offset);
    else
        g_string_append(text, r->name);
    g_string_append(text, r->enabled ? "\n" : " [disabled]\n");
    for (unsigned i = 0; r->children && i < r->children->len; i++) {
        const Region *child = r->children->pdata[i];

        describe_region(text, child, base + child->offset, indent + 2);
    }
}

static void describe_range(const FlatRange *range, void *opaque)
{
    GString *text = opaque;
    const Region *r = range->region;

    put_bounds(text, 2, range->addr, range->size);
    g_string_append_printf(text, " (prio %d, %s): %s", r->priority,
                           range->readonly ? "rom" : kind_words[r->kind], r->name);
    if (range->offset)
        g_string_append_printf(text, " @%016" G_GINT64_MODIFIER "x", range->offset);
    g_string_append_c(text, '\n');
}

char *address_space_describe(AddressSpace *as, bool flat)
{
    GString *text = g_string_new(NULL);

    g_string_append_printf(text, "address-space: %s\n", address_space_name(as));
    if (flat)
        address_space_foreach(as, describe_range, text);
    else
        describe_region(text, address_space_root(as), 0, 2);
    return g_string_free(text, FALSE);
}

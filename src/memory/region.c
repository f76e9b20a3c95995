/* Regions: making them, and putting them together to trees. */
#include <string.h>
#include "src/memory/flatview.h"

static void region_init(Region *r, Object *owner, const char *name, uint64_t size, int kind)
{
    memset(r, 0, sizeof(*r));
    r->name = name;
    r->owner = owner;
    r->size = size;
    r->kind = kind;
    r->enabled = true;
}

void region_init_container(Region *r, Object *owner, const char *name, uint64_t size)
{
    region_init(r, owner, name, size, REGION_CONTAINER);
}

void region_init_io(Region *r, Object *owner, const IoOps *ops, void *opaque, const char *name,
                    uint64_t size)
{
    region_init(r, owner, name, size, REGION_IO);
    r->ops = ops;
    r->opaque = opaque;
}

void region_init_ram(Region *r, Object *owner, const char *name, RamBlock *block, uint64_t offset,
                     uint64_t size)
{
    region_init(r, owner, name, size, REGION_RAM);
    r->ram = ram_block_ref(block);
    r->ram_offset = offset;
}

void region_init_rom(Region *r, Object *owner, const char *name, RamBlock *block, uint64_t offset,
                     uint64_t size)
{
    region_init_ram(r, owner, name, block, offset, size);
    r->kind = REGION_ROM;
}

void region_init_alias(Region *r, Object *owner, const char *name, Region *target,
                       uint64_t offset, uint64_t size)
{
    region_init(r, owner, name, size, REGION_ALIAS);
    r->alias = target;
    r->alias_offset = offset;
}

void region_destroy(Region *r)
{
    if (!r->name)
        return;                            /* never made: no view waits for it to go */
    memory_begin();
    region_del(r);
    while (r->children && r->children->len)
        region_del(r->children->pdata[r->children->len - 1]);
    memory_settle();                       /* no view may know it when this returns */
    memory_commit();
    region_forget_spaces(r);
    g_clear_pointer(&r->children, g_ptr_array_unref);
    g_clear_pointer(&r->ioeventfds, g_array_unref);
    g_clear_pointer(&r->ram, ram_block_unref);
}

/* ---- the tree ---- */

Region *region_top(Region *r)
{
    while (r->container)
        r = r->container;
    return r;
}

/* Before its equals: the one added last wins. */
static unsigned place_of(const GPtrArray *children, int priority)
{
    unsigned i = 0;

    while (i < children->len && ((Region *)children->pdata[i])->priority > priority)
        i++;
    return i;
}

void region_add_priority(Region *container, uint64_t offset, Region *r, int priority)
{
    g_return_if_fail(!r->container && r != container);
    if (!container->children)
        container->children = g_ptr_array_new();
    r->offset = offset;
    r->priority = priority;
    r->container = container;
    g_ptr_array_insert(container->children, place_of(container->children, priority), r);
    region_changed(r);
}

void region_add(Region *container, uint64_t offset, Region *r)
{
    region_add_priority(container, offset, r, 0);
}

void region_del(Region *r)
{
    Region *container = r->container;

    if (!container)
        return;
    g_ptr_array_remove(container->children, r);
    r->container = NULL;
    region_changed(container);
}

bool region_is_mapped(const Region *r)
{
    return r->container != NULL;
}

void region_set_enabled(Region *r, bool enabled)
{
    if (r->enabled != enabled) {
        r->enabled = enabled;
        region_changed(r);
    }
}

void region_set_offset(Region *r, uint64_t offset)
{
    if (r->offset != offset) {
        r->offset = offset;
        region_changed(r);
    }
}

void region_set_size(Region *r, uint64_t size)
{
    if (r->size != size) {
        r->size = size;
        region_changed(r);
    }
}

void region_set_dirty_log(Region *r, DirtyClient client, bool on)
{
    unsigned mask = on ? r->dirty_log | 1u << client : r->dirty_log & ~(1u << client);

    if (mask != r->dirty_log) {
        r->dirty_log = mask;
        region_changed(r);
    }
}

/* ---- ioeventfds ---- */

void region_add_ioeventfd(Region *r, uint64_t offset, unsigned size, bool match, uint64_t value,
                          int fd)
{
    FlatIoeventfd e = { offset, size, match, match ? value : 0, fd };

    if (!r->ioeventfds)
        r->ioeventfds = g_array_new(FALSE, FALSE, sizeof(e));
    g_array_append_val(r->ioeventfds, e);
    region_changed(r);
}

void region_del_ioeventfd(Region *r, uint64_t offset, unsigned size, bool match, uint64_t value,
                          int fd)
{
    FlatIoeventfd e = { offset, size, match, match ? value : 0, fd };

    for (unsigned i = 0; r->ioeventfds && i < r->ioeventfds->len; i++) {
        if (ioeventfd_equal(&g_array_index(r->ioeventfds, FlatIoeventfd, i), &e)) {
            g_array_remove_index(r->ioeventfds, i);
            region_changed(r);
            return;
        }
    }
}

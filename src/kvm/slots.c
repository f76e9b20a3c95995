/*
 * KVM's view of the memory map: memory slots for RAM and ROM, ioeventfds, coalesced MMIO, and the
 * fetching of dirty bits.  Follows the memory address space and the I/O address space as a listener
 * of each.
 *
 * Changes are collected.  They are applied at the commit while vCPUs run, and else when they start:
 * what a board does to its map while it is set up or reset costs one change, or none if it ends as
 * it was. While a slot is replaced no vCPU runs: a split of RAM would else look to the guest like a
 * hole in it.
 */
#include <errno.h>
#include "src/kvm/kvm-int.h"

#define PAGE ((uint64_t)RAM_PAGE_SIZE)

typedef struct Slot {
    uint32_t id;
    Gpa addr;
    uint64_t size;
    char *name;                             /* of the region; for messages */
    RamBlock *block;                        /* counted */
    uint64_t block_offset;
    uint32_t flags;
    unsigned long *dirty;                   /* one bit a page, while KVM_MEM_LOG_DIRTY_PAGES */
    bool stale;                             /* the map has it no longer */
} Slot;

struct KvmSlots {
    Kvm *kvm;
    MemoryListener memory, io;
    GPtrArray *slots;                       /* of Slot, by id; NULL: free */
    GArray *adds;                           /* of FlatRange: those that have no slot yet */
    unsigned max;
    bool manual_protect;
    bool changed;                           /* some are stale, or there are adds */
};

/* The whole pages of a range; false if there are none. */
static bool whole_pages(const FlatRange *range, Gpa *addr, uint64_t *size, uint64_t *region_offset)
{
    Gpa start = ALIGN_UP(range->addr, PAGE), end = ALIGN_DOWN(range->addr + range->size, PAGE);
    if (end <= start)
        return false;
    *addr = start;
    *size = end - start;
    *region_offset = range->offset + (start - range->addr);
    /* KVM maps host pages: RAM that lies askew in its block stays with our own dispatch. */
    return (range->region->ram_offset + *region_offset) % PAGE == 0;
}

static bool is_memory(const FlatRange *range)
{
    return range->region->kind == REGION_RAM || range->region->kind == REGION_ROM;
}

static bool set_slot(KvmSlots *s, const Slot *slot, uint64_t size)
{
    struct kvm_userspace_memory_region r = {
        .slot = slot->id,
        .flags = size ? slot->flags : 0,
        .guest_phys_addr = slot->addr,
        .memory_size = size,
        .userspace_addr = (uintptr_t)ram_block_host(slot->block) + slot->block_offset,
    };
    int err = kvm_ioctl(s->kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &r);
    TRACE(kvm_slot, "slot %u addr 0x%llx size 0x%llx flags %u '%s': %d", r.slot, r.guest_phys_addr,
          r.memory_size, r.flags, slot->name, err);
    if (err < 0)
        warn_report("KVM refuses the memory at 0x%" G_GINT64_MODIFIER "x, %" G_GINT64_MODIFIER
                    "u bytes of '%s': %s", slot->addr, slot->size, slot->name,
                    g_strerror(-err));
    return err >= 0;
}

static uint64_t dirty_bytes(const Slot *slot)
{
    return ALIGN_UP(slot->size / PAGE, 64) / 8;
}

static void set_logging(KvmSlots *s, Slot *slot, unsigned dirty_log)
{
    slot->flags &= ~KVM_MEM_LOG_DIRTY_PAGES;
    g_clear_pointer(&slot->dirty, g_free);
    if (dirty_log) {
        slot->flags |= KVM_MEM_LOG_DIRTY_PAGES;
        slot->dirty = g_malloc0(dirty_bytes(slot));
    }
}

static Slot *slot_find(KvmSlots *s, Gpa addr, uint64_t size, bool live)
{
    for (unsigned i = 0; i < s->slots->len; i++) {
        Slot *slot = s->slots->pdata[i];
        if (slot && !slot->stale == live && slot->addr == addr && slot->size == size)
            return slot;
    }
    return NULL;
}

static void slot_free(Slot *slot)
{
    ram_block_unref(slot->block);
    g_free(slot->name);
    g_free(slot->dirty);
    g_free(slot);
}

/* Every run of set bits becomes one call. */
static void report_dirty(const Slot *slot)
{
    uint64_t pages = slot->size / PAGE;
    for (uint64_t i = 0; i < pages;) {
        unsigned long word = slot->dirty[i / 64] >> (i % 64);
        if (!word) {
            i = ALIGN_DOWN(i, 64) + 64;
            continue;
        }
        i += __builtin_ctzl(word);
        uint64_t first = i;
        while (i < pages && (slot->dirty[i / 64] >> (i % 64) & 1))
            i++;
        ram_dirty_set(slot->block, slot->block_offset + first * PAGE, (i - first) * PAGE);
    }
}

/*
 * KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: the get leaves pages writable, and the clear protects those
 * whose bits were taken.  The clear comes before anyone reads the pages, so no write is missed.
 */
static void slot_sync(KvmSlots *s, Slot *slot)
{
    struct kvm_dirty_log log = { .slot = slot->id, .dirty_bitmap = slot->dirty };
    int r = kvm_ioctl(s->kvm->vm_fd, KVM_GET_DIRTY_LOG, &log);
    if (r < 0) {
        warn_report("KVM_GET_DIRTY_LOG of '%s': %s", slot->name, g_strerror(-r));
        memset(slot->dirty, 0xff, dirty_bytes(slot));
    }
    if (r >= 0 && s->manual_protect) {
        struct kvm_clear_dirty_log clear = {
            .slot = slot->id, .num_pages = slot->size / PAGE, .dirty_bitmap = slot->dirty,
        };
        r = kvm_ioctl(s->kvm->vm_fd, KVM_CLEAR_DIRTY_LOG, &clear);
        if (r < 0)
            warn_report("KVM_CLEAR_DIRTY_LOG of '%s': %s", slot->name, g_strerror(-r));
    }
    report_dirty(slot);
    TRACE(kvm_dirty_sync, "slot %u '%s'", slot->id, slot->name);
}

static void slot_remove(KvmSlots *s, Slot *slot)
{
    if (slot->dirty)
        slot_sync(s, slot);
    set_slot(s, slot, 0);
    s->slots->pdata[slot->id] = NULL;
    slot_free(slot);
}

static int free_id(KvmSlots *s)
{
    for (unsigned i = 0; i < s->slots->len; i++)
        if (!s->slots->pdata[i])
            return i;
    if (s->slots->len >= s->max)
        return -1;
    g_ptr_array_add(s->slots, NULL);
    return s->slots->len - 1;
}

static void slot_add(KvmSlots *s, const FlatRange *range)
{
    Gpa addr;
    uint64_t size, offset;
    if (!whole_pages(range, &addr, &size, &offset))
        return;
    int id = free_id(s);
    if (id < 0) {
        warn_report("KVM has no memory slot left for '%s' (it offers %u)", range->region->name,
                    s->max);
        return;
    }
    Slot *slot = g_new0(Slot, 1);
    *slot = (Slot){
        .id = id, .addr = addr, .size = size, .name = g_strdup(range->region->name),
        .block = ram_block_ref(range->region->ram),
        .block_offset = range->region->ram_offset + offset,
        .flags = range->readonly ? KVM_MEM_READONLY : 0,
    };
    set_logging(s, slot, range->dirty_log);
    if (set_slot(s, slot, slot->size))
        s->slots->pdata[id] = slot;
    else
        slot_free(slot);
}

static void apply(KvmSlots *s)
{
    for (unsigned i = 0; i < s->slots->len; i++) {
        Slot *slot = s->slots->pdata[i];
        if (slot && slot->stale)
            slot_remove(s, slot);
    }
    for (unsigned i = 0; i < s->adds->len; i++)
        slot_add(s, &g_array_index(s->adds, FlatRange, i));
    g_array_set_size(s->adds, 0);
    s->changed = false;
}

void kvm_slots_apply(KvmSlots *s)
{
    if (!s || !s->changed)
        return;
    kvm_block(s->kvm);
    apply(s);
    kvm_unblock(s->kvm);
}

static void set_coalesced(KvmSlots *s, const FlatRange *range, unsigned long request)
{
    struct kvm_coalesced_mmio_zone zone = { .addr = range->addr, .size = range->size };
    if (range->region->coalesced && s->kvm->coalesced_page)
        kvm_ioctl(s->kvm->vm_fd, request, &zone);
}

/* A slot that went and comes back the same was never away. */
static bool revive(KvmSlots *s, const FlatRange *range)
{
    Gpa addr;
    uint64_t size, offset;
    Slot *slot = whole_pages(range, &addr, &size, &offset) ? slot_find(s, addr, size, false) : NULL;
    if (!slot || slot->block != range->region->ram ||
        slot->block_offset != range->region->ram_offset + offset ||
        !(slot->flags & KVM_MEM_READONLY) != !range->readonly || !slot->dirty != !range->dirty_log)
        return false;
    slot->stale = false;
    return true;
}

static void memory_range_add(MemoryListener *l, const FlatRange *range)
{
    KvmSlots *s = container_of(l, KvmSlots, memory);
    if (!is_memory(range)) {
        set_coalesced(s, range, KVM_REGISTER_COALESCED_MMIO);
    } else if (!revive(s, range)) {
        g_array_append_val(s->adds, *range);
        s->changed = true;
    }
}

static bool forget_add(KvmSlots *s, const FlatRange *range)
{
    for (unsigned i = 0; i < s->adds->len; i++) {
        const FlatRange *add = &g_array_index(s->adds, FlatRange, i);
        if (add->addr == range->addr && add->size == range->size && add->region == range->region) {
            g_array_remove_index(s->adds, i);
            return true;
        }
    }
    return false;
}

static void memory_range_del(MemoryListener *l, const FlatRange *range)
{
    KvmSlots *s = container_of(l, KvmSlots, memory);
    Gpa addr;
    uint64_t size, offset;
    if (!is_memory(range)) {
        set_coalesced(s, range, KVM_UNREGISTER_COALESCED_MMIO);
        return;
    }
    if (forget_add(s, range) || !whole_pages(range, &addr, &size, &offset))
        return;
    Slot *slot = slot_find(s, addr, size, true);
    if (!slot)
        return;
    if (slot->dirty)                        /* the region may be gone by the time it is applied */
        slot_sync(s, slot);
    slot->stale = s->changed = true;
}

static void memory_commit_slots(MemoryListener *l)
{
    KvmSlots *s = container_of(l, KvmSlots, memory);
    if (__atomic_load_n(&s->kvm->running, __ATOMIC_RELAXED))
        kvm_slots_apply(s);
}

static Slot *slot_of(KvmSlots *s, const FlatRange *range)
{
    Gpa addr;
    uint64_t size, offset;
    return is_memory(range) && whole_pages(range, &addr, &size, &offset)
               ? slot_find(s, addr, size, true)
               : NULL;
}

static void memory_log_change(MemoryListener *l, const FlatRange *range)
{
    KvmSlots *s = container_of(l, KvmSlots, memory);
    for (unsigned i = 0; i < s->adds->len; i++) {
        FlatRange *add = &g_array_index(s->adds, FlatRange, i);
        if (add->addr == range->addr && add->size == range->size && add->region == range->region)
            add->dirty_log = range->dirty_log;
    }
    Slot *slot = slot_of(s, range);
    if (!slot || !!slot->dirty == !!range->dirty_log)
        return;
    if (slot->dirty)
        slot_sync(s, slot);
    set_logging(s, slot, range->dirty_log);
    set_slot(s, slot, slot->size);
}

static void memory_log_sync(MemoryListener *l, const FlatRange *range)
{
    KvmSlots *s = container_of(l, KvmSlots, memory);
    Slot *slot = slot_of(s, range);
    if (slot && slot->dirty)
        slot_sync(s, slot);
}

static void set_ioeventfd(KvmSlots *s, const FlatIoeventfd *e, unsigned flags)
{
    struct kvm_ioeventfd arg = {
        .datamatch = e->match ? e->value : 0,
        .addr = e->addr, .len = e->size, .fd = e->fd,
        .flags = flags | (e->match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0),
    };
    int r = kvm_ioctl(s->kvm->vm_fd, KVM_IOEVENTFD, &arg);
    TRACE(kvm_ioeventfd, "addr 0x%llx len %u fd %d flags %u: %d", arg.addr, arg.len, arg.fd,
          arg.flags, r);
    if (r < 0)
        warn_report("KVM_IOEVENTFD at 0x%" G_GINT64_MODIFIER "x: %s", e->addr, g_strerror(-r));
}

static void mmio_eventfd_add(MemoryListener *l, const FlatIoeventfd *e)
{
    set_ioeventfd(container_of(l, KvmSlots, memory), e, 0);
}

static void mmio_eventfd_del(MemoryListener *l, const FlatIoeventfd *e)
{
    set_ioeventfd(container_of(l, KvmSlots, memory), e, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

static void pio_eventfd_add(MemoryListener *l, const FlatIoeventfd *e)
{
    set_ioeventfd(container_of(l, KvmSlots, io), e, KVM_IOEVENTFD_FLAG_PIO);
}

static void pio_eventfd_del(MemoryListener *l, const FlatIoeventfd *e)
{
    set_ioeventfd(container_of(l, KvmSlots, io), e,
                  KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DEASSIGN);
}

KvmSlots *kvm_slots_new(Kvm *kvm)
{
    KvmSlots *s = g_new0(KvmSlots, 1);
    s->kvm = kvm;
    s->slots = g_ptr_array_new();
    s->adds = g_array_new(false, false, sizeof(FlatRange));
    s->memory = (MemoryListener){
        .range_add = memory_range_add, .range_del = memory_range_del,
        .log_change = memory_log_change, .log_sync = memory_log_sync,
        .ioeventfd_add = mmio_eventfd_add, .ioeventfd_del = mmio_eventfd_del,
        .commit = memory_commit_slots,
    };
    s->io = (MemoryListener){ .ioeventfd_add = pio_eventfd_add, .ioeventfd_del = pio_eventfd_del };
    int max = kvm_ioctl(kvm->vm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_NR_MEMSLOTS);
    s->max = max > 0 ? max : 32;            /* 32: what every KVM has (api.rst, 4.35) */
    struct kvm_enable_cap cap = {
        .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = { KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE },
    };
    s->manual_protect = kvm_ioctl(kvm->vm_fd, KVM_ENABLE_CAP, &cap) >= 0;
    return s;
}

void kvm_slots_attach(KvmSlots *s)
{
    memory_listener_add(s->kvm->memory, &s->memory);
    memory_listener_add(s->kvm->io, &s->io);
}

void kvm_slots_free(KvmSlots *s)
{
    if (!s)
        return;
    memory_listener_remove(&s->memory);
    memory_listener_remove(&s->io);
    for (unsigned i = 0; i < s->slots->len; i++)
        if (s->slots->pdata[i])
            slot_free(s->slots->pdata[i]);
    g_ptr_array_unref(s->slots);
    g_array_unref(s->adds);
    g_free(s);
}

/* Regions, flat views, dispatch and DMA, against a naive model and with readers in other threads. */
#include <sys/eventfd.h>
#include <unistd.h>
#include "src/base/error.h"
#include "src/base/util.h"
#include "src/memory/memory.h"
#include "tests/test.h"

/* ---- a tree that changes at random, and what a byte of it ought to be ---- */

#define REGIONS 24
#define SPACE 512

typedef struct Tree {
    Region r[REGIONS];                     /* children and alias targets have a lower index */
    RamBlock *ram;
    AddressSpace *as;
    GRand *rand;
} Tree;

static uint64_t tree_read(void *opaque, uint64_t offset, unsigned size)
{
    return (uintptr_t)opaque * 31 + offset;
}

static const IoOps tree_ops = { .read = tree_read, .device = { 1, 1 } };

/* The leaf and offset that the byte at @at of @r belongs to. */
static bool naive_find(Region *r, int64_t at, Region **ret, uint64_t *ret_offset)
{
    if (!r->enabled || at < 0 || (uint64_t)at >= r->size)
        return false;
    if (r->kind == REGION_ALIAS)
        return naive_find(r->alias, at + r->alias_offset, ret, ret_offset);
    for (unsigned i = 0; r->children && i < r->children->len; i++) {
        Region *child = r->children->pdata[i];

        if (naive_find(child, at - (int64_t)child->offset, ret, ret_offset))
            return true;
    }
    if (r->kind == REGION_CONTAINER)
        return false;
    *ret = r;
    *ret_offset = at;
    return true;
}

static uint8_t naive_byte(Tree *t, uint64_t at)
{
    uint64_t offset;
    Region *r;

    if (!naive_find(&t->r[REGIONS - 1], at, &r, &offset))
        return 0xff;
    if (r->kind == REGION_IO)
        return (uintptr_t)r->opaque * 31 + offset;
    return ((uint8_t *)ram_block_host(r->ram))[r->ram_offset + offset];
}

static uint64_t some(Tree *t, uint64_t limit)
{
    return g_rand_int_range(t->rand, 0, limit);
}

static void init_region(Tree *t, unsigned i)
{
    Region *r = &t->r[i];
    uint64_t size = 1 + some(t, 200);

    if (i == REGIONS - 1)
        region_init_container(r, NULL, "root", UINT64_MAX);
    else if (i > 2 && some(t, 3) == 0)
        region_init_alias(r, NULL, "alias", &t->r[some(t, i)], some(t, 50), size);
    else if (i > 2 && some(t, 2) == 0)
        region_init_container(r, NULL, "container", 2 * size);
    else if (some(t, 2))
        region_init_ram(r, NULL, "ram", t->ram, some(t, 1000), size);
    else
        region_init_io(r, NULL, &tree_ops, (void *)(uintptr_t)i, "io", size);
}

/* Into a container of a higher index; now and then into a leaf, which may have children, too. */
static void map_somewhere(Tree *t, unsigned i)
{
    for (unsigned tries = 0; tries < 10 && !t->r[i].container; tries++) {
        Region *c = &t->r[i + 1 + some(t, REGIONS - 1 - i)];

        if (c->kind != REGION_ALIAS)
            region_add_priority(c, some(t, 300), &t->r[i], (int)some(t, 3) - 1);
    }
}

static void change(Tree *t)
{
    unsigned i = some(t, REGIONS - 1);
    Region *r = &t->r[i];

    switch (some(t, 6)) {
    case 0: region_set_enabled(r, !r->enabled); break;
    case 1: region_set_offset(r, some(t, 300)); break;
    case 2: region_set_size(r, some(t, 200)); break;
    case 3: region_del(r); break;
    case 4:
        memory_begin();
        region_del(r);
        map_somewhere(t, i);
        change(t);
        memory_commit();
        break;
    default: map_somewhere(t, i);
    }
}

static void tree_init(Tree *t, unsigned seed)
{
    uint8_t *bytes;

    *t = (Tree){ .rand = g_rand_new_with_seed(seed), .ram = ram_block_new("ram", 4096, NULL) };
    bytes = ram_block_host(t->ram);
    for (unsigned i = 0; i < 4096; i++)
        bytes[i] = some(t, 256);
    for (unsigned i = 0; i < REGIONS; i++)
        init_region(t, i);
    t->as = address_space_new("test", &t->r[REGIONS - 1], NULL);
    for (unsigned i = 0; i < REGIONS - 1; i++)
        map_somewhere(t, i);
}

static void tree_clear(Tree *t)
{
    for (unsigned i = REGIONS; i-- > 0;)   /* aliases before their targets */
        region_destroy(&t->r[i]);
    address_space_free(t->as);
    ram_block_unref(t->ram);
    g_rand_free(t->rand);
}

/* ---- a listener's picture of the space ---- */

typedef struct Picture {
    MemoryListener l;
    GArray *ranges;                        /* of FlatRange */
    unsigned commits;
} Picture;

static void picture_add(MemoryListener *l, const FlatRange *range)
{
    g_array_append_val(((Picture *)l)->ranges, *range);
}

static void picture_del(MemoryListener *l, const FlatRange *range)
{
    GArray *ranges = ((Picture *)l)->ranges;

    for (unsigned i = 0; i < ranges->len; i++) {
        FlatRange *r = &g_array_index(ranges, FlatRange, i);

        if (r->addr == range->addr && r->size == range->size && r->region == range->region) {
            g_array_remove_index_fast(ranges, i);
            return;
        }
    }
    ck_abort_msg("a range was removed that was never added");
}

static void picture_commit(MemoryListener *l)
{
    ((Picture *)l)->commits++;
}

static void picture_init(Picture *p, AddressSpace *as)
{
    *p = (Picture){
        .l = { .range_add = picture_add, .range_del = picture_del, .commit = picture_commit },
        .ranges = g_array_new(FALSE, FALSE, sizeof(FlatRange)),
    };
    memory_listener_add(as, &p->l);
}

typedef struct Comparison {
    Picture *picture;
    unsigned count;
    uint64_t end;
} Comparison;

static void compare_range(const FlatRange *range, void *opaque)
{
    Comparison *c = opaque;
    bool found = false;

    ck_assert_uint_ge(range->addr, c->end);        /* sorted, without overlap */
    c->end = range->addr + range->size;
    c->count++;
    for (unsigned i = 0; i < c->picture->ranges->len; i++) {
        const FlatRange *r = &g_array_index(c->picture->ranges, FlatRange, i);

        found |= r->addr == range->addr && r->size == range->size && r->region == range->region &&
                 r->offset == range->offset;
    }
    ck_assert(found);
}

static void check_tree(Tree *t, Picture *p)
{
    Comparison c = { p };
    uint8_t got[SPACE];

    address_space_foreach(t->as, compare_range, &c);
    ck_assert_uint_eq(c.count, p->ranges->len);
    address_space_read(t->as, 0, got, SPACE);
    for (unsigned i = 0; i < SPACE; i++)
        ck_assert_msg(got[i] == naive_byte(t, i), "byte %u: %02x, not %02x", i, got[i],
                      naive_byte(t, i));
}

START_TEST(random_trees_match_a_naive_model)
{
    Picture p;
    Tree t;

    tree_init(&t, 1000 + _i);
    picture_init(&p, t.as);
    for (unsigned n = 0; n < 100; n++) {
        check_tree(&t, &p);
        change(&t);
    }
    check_tree(&t, &p);
    memory_listener_remove(&p.l);
    ck_assert_uint_eq(p.ranges->len, 0);
    g_array_unref(p.ranges);
    tree_clear(&t);
}
END_TEST

/* ---- fixed maps ---- */

typedef struct Log {
    Region root, io, ram;
    GString *text;
    AddressSpace *as;
    RamBlock *block;
    VmLock lock;
} Log;

static uint64_t log_read(void *opaque, uint64_t offset, unsigned size)
{
    g_string_append_printf(((Log *)opaque)->text, "r%u@%x ", size, (unsigned)offset);
    return 0x8877665544332211 >> (8 * (offset % 8));
}

static void log_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    g_string_append_printf(((Log *)opaque)->text, "w%u@%x=%" G_GINT64_MODIFIER "x ", size,
                           (unsigned)offset, value);
}

static void log_init(Log *log, const IoOps *ops)
{
    memset(log, 0, sizeof(*log));
    vm_lock_init(&log->lock);
    log->text = g_string_new(NULL);
    log->block = ram_block_new("ram", 0x2000, NULL);
    region_init_container(&log->root, NULL, "root", UINT64_MAX);
    region_init_io(&log->io, NULL, ops, log, "io", 8);
    region_init_ram(&log->ram, NULL, "ram", log->block, 0, 0x2000);
    log->as = address_space_new("test", &log->root, &log->lock);
    region_add(&log->root, 0x1000, &log->io);
    region_add(&log->root, 0x10000, &log->ram);
}

static void log_clear(Log *log)
{
    region_destroy(&log->io);
    region_destroy(&log->ram);
    region_destroy(&log->root);
    address_space_free(log->as);
    ram_block_unref(log->block);
    g_string_free(log->text, TRUE);
    vm_lock_clear(&log->lock);
}

static const struct {
    uint8_t guest_min, guest_max, device_min, device_max;
    bool guest_unaligned, device_unaligned, write;
    uint64_t offset;
    unsigned size;
    const char *calls;
    uint64_t value;
    MemResult result;
} accesses[] = {
    { 0, 0, 0, 0, 0, 0, false, 0, 4, "r4@0 ", 0x44332211, MEM_OK },
    { 0, 0, 0, 0, 0, 0, false, 0, 8, "r4@0 r4@4 ", 0x8877665544332211, MEM_OK },
    { 0, 0, 8, 8, 0, 0, false, 0, 8, "r8@0 ", 0x8877665544332211, MEM_OK },
    { 0, 0, 1, 1, 0, 0, false, 4, 4, "r1@4 r1@5 r1@6 r1@7 ", 0x88776655, MEM_OK },
    { 0, 0, 4, 4, 0, 0, false, 2, 1, "r4@0 ", 0x33, MEM_OK },
    { 0, 0, 4, 4, 0, 0, false, 6, 2, "r4@4 ", 0x8877, MEM_OK },
    { 4, 4, 4, 4, 0, 0, false, 2, 1, "", 0xff, MEM_ERROR },
    { 1, 2, 1, 2, 0, 0, false, 0, 4, "", 0xffffffff, MEM_ERROR },
    { 0, 0, 0, 0, 0, 0, false, 1, 2, "", 0xffff, MEM_ERROR },
    { 0, 0, 0, 0, 1, 0, false, 1, 2, "r1@1 r1@2 ", 0x3322, MEM_OK },
    { 0, 0, 0, 0, 1, 0, false, 2, 4, "r2@2 r2@4 ", 0x66554433, MEM_OK },
    { 0, 0, 0, 0, 1, 1, false, 1, 4, "r4@1 ", 0x55443322, MEM_OK },
    { 0, 0, 4, 4, 1, 0, false, 3, 2, "r4@0 r4@4 ", 0x5544, MEM_OK },
    { 0, 0, 0, 0, 0, 0, true, 0, 4, "w4@0=12345678 ", 0x12345678, MEM_OK },
    { 0, 0, 0, 2, 0, 0, true, 0, 4, "w2@0=5678 w2@2=1234 ", 0x12345678, MEM_OK },
    { 0, 0, 4, 4, 0, 0, true, 1, 1, "r4@0 w4@0=4433ab11 ", 0xab, MEM_OK },
    { 0, 2, 0, 0, 0, 0, true, 0, 4, "", 1, MEM_ERROR },
};

START_TEST(accesses_are_split_and_widened)
{
    IoOps ops = {
        .read = log_read, .write = log_write,
        .guest = { accesses[_i].guest_min, accesses[_i].guest_max, accesses[_i].guest_unaligned },
        .device = { accesses[_i].device_min, accesses[_i].device_max,
                    accesses[_i].device_unaligned },
    };
    uint64_t addr = 0x1000 + accesses[_i].offset, value = 0;
    MemResult result;
    Log log;

    log_init(&log, &ops);
    if (accesses[_i].write) {
        result = address_space_store(log.as, addr, accesses[_i].size, accesses[_i].value);
    } else {
        result = address_space_load(log.as, addr, accesses[_i].size, &value);
        ck_assert_uint_eq(value, accesses[_i].value);
    }
    ck_assert_int_eq(result, accesses[_i].result);
    ck_assert_str_eq(log.text->str, accesses[_i].calls);
    log_clear(&log);
}
END_TEST

static const IoOps log_ops = { .read = log_read, .write = log_write };

START_TEST(ram_is_read_and_written)
{
    uint8_t bytes[16];
    uint64_t value;
    Log log;

    log_init(&log, &log_ops);
    ck_assert_int_eq(address_space_store(log.as, 0x10ffe, 4, 0xcafe1234), MEM_OK);
    ck_assert_int_eq(address_space_load(log.as, 0x10ffe, 4, &value), MEM_OK);
    ck_assert_uint_eq(value, 0xcafe1234);
    ck_assert_uint_eq(ld_le32((uint8_t *)ram_block_host(log.block) + 0xffe), 0xcafe1234);
    ck_assert_int_eq(address_space_read(log.as, 0x11ff8, bytes, 16), MEM_UNMAPPED);
    ck_assert_uint_eq(ld_le64(bytes), 0);
    ck_assert_uint_eq(ld_le64(bytes + 8), UINT64_MAX);
    ck_assert_int_eq(address_space_load(log.as, UINT64_MAX - 1, 4, &value), MEM_UNMAPPED);
    ck_assert_int_eq(address_space_load(log.as, 0, 8, &value), MEM_UNMAPPED);
    ck_assert_uint_eq(value, UINT64_MAX);
    /* Half in RAM, half behind it: each byte for itself. */
    ck_assert_int_eq(address_space_load(log.as, 0x11ffe, 4, &value), MEM_UNMAPPED);
    ck_assert_uint_eq(value, 0xffff0000);
    log_clear(&log);
}
END_TEST

START_TEST(rom_ignores_writes)
{
    uint64_t length = 16;
    Region rom;
    Log log;

    log_init(&log, &log_ops);
    region_init_rom(&rom, NULL, "rom", log.block, 0, 0x1000);
    region_add_priority(&log.root, 0x10000, &rom, 1);
    ck_assert_int_eq(address_space_store(log.as, 0x10000, 4, 1), MEM_OK);
    ck_assert_int_eq(address_space_write(log.as, 0x10004, "abc", 3), MEM_OK);
    ck_assert_uint_eq(ld_le64(ram_block_host(log.block)), 0);
    memory_read_enter();
    ck_assert_ptr_null(dma_ptr(log.as, 0x10000, &length, true));
    ck_assert_ptr_nonnull(dma_ptr(log.as, 0x10000, &length, false));
    memory_read_exit();
    region_destroy(&rom);
    ck_assert_int_eq(address_space_store(log.as, 0x10000, 4, 1), MEM_OK);
    ck_assert_uint_eq(ld_le64(ram_block_host(log.block)), 1);
    log_clear(&log);
}
END_TEST

START_TEST(callbacks_hold_the_vm_lock_and_a_holder_may_call)
{
    uint64_t value;
    Log log;

    log_init(&log, &log_ops);
    ck_assert_int_eq(address_space_load(log.as, 0x1000, 4, &value), MEM_OK);
    ck_assert(!vm_locked(&log.lock));
    vm_lock(&log.lock);
    ck_assert_int_eq(address_space_load(log.as, 0x1000, 4, &value), MEM_OK);
    ck_assert(vm_locked(&log.lock));
    vm_unlock(&log.lock);
    log_clear(&log);
}
END_TEST

static bool signalled(int fd)
{
    uint64_t n;

    return read(fd, &n, sizeof(n)) == sizeof(n);
}

START_TEST(ioeventfds_take_matching_writes)
{
    int any = eventfd(0, EFD_NONBLOCK), seven = eventfd(0, EFD_NONBLOCK);
    Log log;

    log_init(&log, &log_ops);
    region_add_ioeventfd(&log.io, 0, 0, false, 0, any);
    region_add_ioeventfd(&log.io, 4, 2, true, 7, seven);
    address_space_store(log.as, 0x1000, 4, 99);
    ck_assert(signalled(any) && !signalled(seven));
    address_space_store(log.as, 0x1004, 2, 7);
    ck_assert(signalled(seven) && !signalled(any));
    ck_assert_str_eq(log.text->str, "");
    address_space_store(log.as, 0x1004, 2, 8);         /* another value: to the callback */
    address_space_store(log.as, 0x1004, 1, 7);         /* another size */
    ck_assert(!signalled(seven));
    ck_assert_str_eq(log.text->str, "w2@4=8 w1@4=7 ");
    region_del_ioeventfd(&log.io, 0, 0, false, 0, any);
    address_space_store(log.as, 0x1000, 1, 1);
    ck_assert(!signalled(any));
    log_clear(&log);
    close(any);
    close(seven);
}
END_TEST

typedef struct EventfdListener {
    MemoryListener l;
    GString *text;
} EventfdListener;

static void eventfd_added(MemoryListener *l, const FlatIoeventfd *e)
{
    g_string_append_printf(((EventfdListener *)l)->text, "+%x ", (unsigned)e->addr);
}

static void eventfd_removed(MemoryListener *l, const FlatIoeventfd *e)
{
    g_string_append_printf(((EventfdListener *)l)->text, "-%x ", (unsigned)e->addr);
}

START_TEST(listeners_hear_of_ioeventfds)
{
    EventfdListener listener = { .l = { .ioeventfd_add = eventfd_added,
                                        .ioeventfd_del = eventfd_removed } };
    Log log;

    log_init(&log, &log_ops);
    listener.text = g_string_new(NULL);
    region_add_ioeventfd(&log.io, 4, 2, false, 0, 1);
    ck_assert(!address_space_has_ioeventfd_listener(log.as));
    memory_listener_add(log.as, &listener.l);
    ck_assert(address_space_has_ioeventfd_listener(log.as));
    ck_assert_str_eq(listener.text->str, "+1004 ");
    region_set_offset(&log.io, 0x3000);
    ck_assert_str_eq(listener.text->str, "+1004 -1004 +3004 ");
    region_set_enabled(&log.io, false);
    ck_assert_str_eq(listener.text->str, "+1004 -1004 +3004 -3004 ");
    memory_listener_remove(&listener.l);
    g_string_free(listener.text, TRUE);
    log_clear(&log);
}
END_TEST

START_TEST(a_transaction_is_one_change)
{
    Picture p;
    Log log;

    log_init(&log, &log_ops);
    picture_init(&p, log.as);
    p.commits = 0;
    memory_begin();
    region_set_offset(&log.io, 0x2000);
    memory_begin();
    region_set_offset(&log.ram, 0x20000);
    memory_commit();
    ck_assert_uint_eq(p.commits, 0);
    memory_commit();
    ck_assert_uint_eq(p.commits, 1);
    memory_begin();
    region_set_offset(&log.io, 0x4000);
    region_set_offset(&log.io, 0x2000);    /* nothing changed in the end */
    memory_commit();
    ck_assert_uint_eq(p.commits, 1);
    memory_listener_remove(&p.l);
    g_array_unref(p.ranges);
    log_clear(&log);
}
END_TEST

START_TEST(dma_reaches_ram_only)
{
    struct iovec iov[4];
    uint64_t length = 0x10000;
    Region hole;
    Log log;

    log_init(&log, &log_ops);
    memory_read_enter();
    ck_assert_ptr_eq(dma_ptr(log.as, 0x10010, &length, true),
                     (uint8_t *)ram_block_host(log.block) + 0x10);
    ck_assert_uint_eq(length, 0x1ff0);
    ck_assert_ptr_null(dma_ptr(log.as, 0x1000, &length, false));
    ck_assert_int_eq(dma_map_iov(log.as, 0x10000, 0x2000, true, iov, 4), 1);
    ck_assert_int_eq(dma_map_iov(log.as, 0x10000, 0x2001, true, iov, 4), -1);
    ck_assert_int_eq(dma_map_iov(log.as, UINT64_MAX, 2, true, iov, 4), -1);
    memory_read_exit();

    region_init_alias(&hole, NULL, "swap", &log.ram, 0x1800, 0x100);
    region_add_priority(&log.root, 0x10800, &hole, 1);
    memory_read_enter();
    ck_assert_int_eq(dma_map_iov(log.as, 0x10000, 0x1000, true, iov, 4), 3);
    ck_assert_ptr_eq(iov[1].iov_base, (uint8_t *)ram_block_host(log.block) + 0x1800);
    ck_assert_int_eq(dma_map_iov(log.as, 0x10000, 0x1000, true, iov, 2), -1);
    memory_read_exit();
    region_destroy(&hole);
    log_clear(&log);
}
END_TEST

START_TEST(windows_follow_the_map)
{
    DmaWindow w, behind, off;
    unsigned long bits = 0;
    Log log;

    log_init(&log, &log_ops);
    dma_window_init(&w, log.as, 0x10100, 0x100, true);
    dma_window_init(&behind, log.as, 0x11fff, 2, false);
    dma_window_init(&off, NULL, 0x10000, 16, false);
    memory_read_enter();
    ck_assert_ptr_eq(dma_window_ptr(&w), (uint8_t *)ram_block_host(log.block) + 0x100);
    ck_assert_ptr_null(dma_window_ptr(&behind));
    ck_assert_ptr_null(dma_window_ptr(&off));
    memory_read_exit();
    region_set_offset(&log.ram, 0x10100);
    memory_read_enter();
    ck_assert_ptr_eq(dma_window_ptr(&w), ram_block_host(log.block));
    ram_dirty_enable(log.block, DIRTY_MIGRATION, true);
    dma_window_dirty(&w, 4, 4);
    ck_assert_uint_eq(ram_dirty_take(log.block, DIRTY_MIGRATION, 0, 0x2000, &bits), 1);
    memory_read_exit();
    region_del(&log.ram);
    memory_read_enter();
    ck_assert_ptr_null(dma_window_ptr(&w));
    memory_read_exit();
    log_clear(&log);
}
END_TEST

START_TEST(writes_mark_pages_dirty)
{
    unsigned long bits = 0;
    Log log;

    log_init(&log, &log_ops);
    ram_dirty_enable(log.block, DIRTY_MIGRATION, true);
    address_space_store(log.as, 0x10ffe, 4, 1);        /* across two pages */
    ck_assert_uint_eq(ram_dirty_take(log.block, DIRTY_MIGRATION, 0, 0x2000, &bits), 2);
    address_space_write(log.as, 0x11000, "x", 1);
    bits = 0;
    ck_assert_uint_eq(ram_dirty_take(log.block, DIRTY_MIGRATION, 0, 0x2000, &bits), 1);
    ck_assert_uint_eq(bits, 2);
    dma_dirty(log.as, 0, UINT64_MAX);                  /* whatever is there; soon done */
    ck_assert_uint_eq(ram_dirty_take(log.block, DIRTY_MIGRATION, 0, 0x2000, &bits), 2);
    log_clear(&log);
}
END_TEST

START_TEST(the_whole_space_may_be_one_region)
{
    Region all;
    AddressSpace *as;
    Log log;
    uint64_t value;

    log_init(&log, &log_ops);
    region_init_io(&all, NULL, &log_ops, &log, "all", UINT64_MAX);
    as = address_space_new("all", &all, NULL);
    ck_assert_int_eq(address_space_load(as, 0xfffffffffffffff0, 4, &value), MEM_OK);
    ck_assert_str_eq(log.text->str, "r4@fffffff0 ");
    address_space_free(as);
    region_destroy(&all);
    log_clear(&log);
}
END_TEST

START_TEST(descriptions)
{
    g_autofree char *tree = NULL, *flat = NULL;
    Log log;

    log_init(&log, &log_ops);
    tree = address_space_describe(log.as, false);
    flat = address_space_describe(log.as, true);
    ck_assert_str_eq(tree, "address-space: test\n"
                     "  0000000000000000-ffffffffffffffff (prio 0, container): root\n"
                     "    0000000000010000-0000000000011fff (prio 0, ram): ram\n"
                     "    0000000000001000-0000000000001007 (prio 0, i/o): io\n");
    ck_assert_str_eq(flat, "address-space: test\n"
                     "  0000000000001000-0000000000001007 (prio 0, i/o): io\n"
                     "  0000000000010000-0000000000011fff (prio 0, ram): ram\n");
    log_clear(&log);
}
END_TEST

/* ---- readers in other threads ---- */

typedef struct Race {
    AddressSpace *as;
    gint stop, wrong;
    gint reads;
} Race;

/* Sees one of the two blocks, or nothing; never memory that was given back. */
static void *race_reader(void *opaque)
{
    Race *race = opaque;
    DmaWindow w;

    dma_window_init(&w, race->as, 0x1000, 8, false);
    while (!g_atomic_int_get(&race->stop)) {
        uint64_t value;
        const uint8_t *p;

        address_space_load(race->as, 0x1000, 1, &value);
        if (value != 0xaa && value != 0xbb && value != 0xff)
            g_atomic_int_inc(&race->wrong);
        memory_read_enter();
        p = dma_window_ptr(&w);
        if (p && *p != 0xaa && *p != 0xbb)
            g_atomic_int_inc(&race->wrong);
        memory_read_exit();
        g_atomic_int_inc(&race->reads);
    }
    return NULL;
}

START_TEST(readers_run_while_the_map_changes)
{
    Race race = { 0 };
    GThread *threads[2];
    Region root;
    int before = 0;

    region_init_container(&root, NULL, "root", UINT64_MAX);
    race.as = address_space_new("race", &root, NULL);
    for (unsigned i = 0; i < 2; i++)
        threads[i] = g_thread_new("reader", race_reader, &race);
    for (unsigned n = 0; n < 1000; n++) {
        RamBlock *block = ram_block_new("block", 4096, NULL);
        Region ram;

        memset(ram_block_host(block), n & 1 ? 0xaa : 0xbb, 4096);
        region_init_ram(&ram, NULL, "ram", block, 0, 4096);
        ram_block_unref(block);
        region_add(&root, 0x1000, &ram);
        while (n % 100 == 0 && g_atomic_int_get(&race.reads) == before)
            g_thread_yield();
        before = g_atomic_int_get(&race.reads);
        region_destroy(&ram);
    }
    g_atomic_int_set(&race.stop, 1);
    for (unsigned i = 0; i < 2; i++)
        g_thread_join(threads[i]);
    ck_assert_int_eq(race.wrong, 0);
    address_space_free(race.as);
    region_destroy(&root);
}
END_TEST

static void add(TCase *tests)
{
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, random_trees_match_a_naive_model, 0, 40);
    tcase_add_loop_test(tests, accesses_are_split_and_widened, 0, G_N_ELEMENTS(accesses));
    tcase_add_test(tests, ram_is_read_and_written);
    tcase_add_test(tests, rom_ignores_writes);
    tcase_add_test(tests, callbacks_hold_the_vm_lock_and_a_holder_may_call);
    tcase_add_test(tests, ioeventfds_take_matching_writes);
    tcase_add_test(tests, listeners_hear_of_ioeventfds);
    tcase_add_test(tests, a_transaction_is_one_change);
    tcase_add_test(tests, dma_reaches_ram_only);
    tcase_add_test(tests, windows_follow_the_map);
    tcase_add_test(tests, writes_mark_pages_dirty);
    tcase_add_test(tests, the_whole_space_may_be_one_region);
    tcase_add_test(tests, descriptions);
    tcase_add_test(tests, readers_run_while_the_map_changes);
}

int main(void)
{
    return run_tests("memory", add);
}

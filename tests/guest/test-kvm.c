/* The accelerator from outside: test guests on the host's /dev/kvm. */
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include "src/base/options.h"
#include "src/base/util.h"
#include "src/kvm/kvm-int.h"
#include "src/object/state.h"
#include "tests/guest/harness.h"

START_TEST(ports_and_registers)
{
    Guest *g = guest_new(&(GuestConfig){ .irqchip = _i });
    guest_run(g, "io", 0);
    ck_assert_uint_eq(g->bytes[0], 0x12);
    ck_assert_uint_eq(ld_le64(g->mmio_bytes + 8), 0x1122334455667788);
    guest_free(g);
}
END_TEST

START_TEST(flat_32_bit_start)
{
    Guest *g = guest_new(&(GuestConfig){ 0 });
    guest_load_pvh(g, "io");
    guest_start(g);
    ck_assert_uint_eq(guest_wait(g), GOOD);
    guest_stop(g);
    guest_free(g);
}
END_TEST

/* ---- interrupts ---- */

typedef struct IrqTest {
    int route, fd;
} IrqTest;

/* The guest writes the vector that it wants at port 0; 0 at port 1 ends the level interrupt. */
static void raise_irq(Guest *g, uint64_t offset, uint32_t value)
{
    IntrController *ic = kvm_intr(g->kvm);
    IrqTest *t = g->opaque;
    uint64_t one = 1;
    if (offset == 1) {
        ic->ops->set_gsi(ic, 18, false);
    } else if (value == 64) {
        ic->ops->set_gsi(ic, 5, true);
        ic->ops->set_gsi(ic, 5, false);
    } else if (value == 65) {
        ic->ops->set_gsi(ic, 18, true);
    } else if (value == 66) {
        ic->ops->send_msi(ic, 0xfee00000, 66);
    } else if (write(t->fd, &one, 8) != 8) {
        ck_abort_msg("eventfd");
    }
}

START_TEST(interrupts)
{
    bool split = _i;
    g_autoptr(GError) error = NULL;
    Guest *g = guest_new(&(GuestConfig){ .irqchip = split ? KVM_IRQCHIP_SPLIT : KVM_IRQCHIP_ON });
    IntrController *ic = kvm_intr(g->kvm);
    IrqTest t = { .fd = eventfd(0, 0) };
    ck_assert(ic->ops->kernel_ioapic == !split);
    ic->ops->batch(ic, true);
    int other = ic->ops->route_add(ic, 0xfee00000, 0x99, &error);
    t.route = ic->ops->route_add(ic, 0xfee00000, 0x98, &error);
    ck_assert_int_ge(other, 24);
    ck_assert_int_gt(t.route, other);
    ck_assert(ic->ops->irqfd_add(ic, t.route, t.fd, &error));
    ic->ops->route_update(ic, t.route, 0xfee00000, 67);
    ic->ops->batch(ic, false);
    g->on_write = raise_irq;
    g->opaque = &t;
    guest_run(g, "irq", !split);
    ic->ops->irqfd_del(ic, t.route, t.fd);
    ic->ops->route_del(ic, t.route);
    ck_assert_int_eq(ic->ops->route_add(ic, 0xfee00000, 0x97, &error), t.route);
    close(t.fd);
    guest_free(g);
}
END_TEST

/* The harness raises the line by @fd and answers 0 until the guest's EOI has come back. */
typedef struct LevelTest {
    int fd, resample;
    uint8_t round;
    unsigned eois;
} LevelTest;

static void raise_level(Guest *g, uint64_t offset, uint32_t value)
{
    LevelTest *t = g->opaque;
    uint64_t one = 1;
    t->round = value;
    if (write(t->fd, &one, 8) != 8)
        ck_abort_msg("eventfd");
}

static uint32_t answer_after_resample(Guest *g, uint64_t offset, unsigned size)
{
    LevelTest *t = g->opaque;
    uint64_t n;
    if (read(t->resample, &n, 8) == 8)
        t->eois += n;
    return t->eois >= t->round ? t->round : 0;
}

START_TEST(level_irqfd_is_resampled)
{
    g_autoptr(GError) error = NULL;
    Guest *g = guest_new(&(GuestConfig){ 0 });
    LevelTest t = { .fd = eventfd(0, EFD_NONBLOCK), .resample = eventfd(0, EFD_NONBLOCK) };
    ck_assert(kvm_irqfd_resample(g->kvm, 18, t.fd, t.resample, &error));
    g->on_write = raise_level;
    g->on_read = answer_after_resample;
    g->opaque = &t;
    guest_run(g, "level", 0);
    ck_assert_uint_eq(t.eois, 3);
    guest_free(g);
    close(t.fd);
    close(t.resample);
}
END_TEST

static void send_level_message(Guest *g, uint64_t offset, uint32_t value)
{
    LevelTest *t = g->opaque;
    t->round = value;
    kvm_intr(g->kvm)->ops->send_msi(kvm_intr(g->kvm), 0xfee00000, 65 | 1 << 15 | 1 << 14);
}

static uint32_t answer_after_eoi(Guest *g, uint64_t offset, unsigned size)
{
    LevelTest *t = g->opaque;
    return t->eois >= t->round ? t->round : 0;
}

static void count_eoi(void *opaque, unsigned vector)
{
    LevelTest *t = opaque;
    ck_assert_uint_eq(vector, 65);
    t->eois++;
}

START_TEST(split_irqchip_reports_eois)
{
    Guest *g = guest_new(&(GuestConfig){ .irqchip = KVM_IRQCHIP_SPLIT });
    IntrController *ic = kvm_intr(g->kvm);
    LevelTest t = { 0 };
    ic->eoi = count_eoi;
    ic->eoi_opaque = &t;
    ic->ops->ioapic_route(ic, 18, false, 0xfee00000, 65 | 1 << 15);
    g->on_write = send_level_message;
    g->on_read = answer_after_eoi;
    g->opaque = &t;
    guest_run(g, "level", 1);
    ck_assert_uint_eq(t.eois, 3);
    guest_free(g);
}
END_TEST

/* Ports are handled in the vCPU's own thread, so the NMI comes from there, too: first masked. */
static void inject_nmi(Guest *g, uint64_t offset, uint32_t value)
{
    kvm_inject_nmi(g->kvm, 0);
    g->bytes[0] = value;
}

static uint32_t read_byte(Guest *g, uint64_t offset, unsigned size)
{
    return g->bytes[offset];
}

START_TEST(nmi_goes_by_lint1)
{
    Guest *g = guest_new(&(GuestConfig){ .irqchip = _i ? KVM_IRQCHIP_SPLIT : KVM_IRQCHIP_ON });
    g->on_write = inject_nmi;
    g->on_read = read_byte;
    guest_run(g, "nmi", 0);
    guest_free(g);
}
END_TEST

static uint32_t are_all_there(Guest *g, uint64_t offset, unsigned size)
{
    return g->mmio_writes == 300 && ld_le32(g->mmio_bytes + 4 * (299 % 8)) == 299;
}

START_TEST(late_writes_come_before_the_next_access)
{
    Guest *g = guest_new(&(GuestConfig){ .coalesced = true });
    g->on_read = are_all_there;
    guest_run(g, "coalesce", 0);
    ck_assert_uint_eq(g->mmio_writes, 301); /* none is left behind by a stop */
    ck_assert_uint_eq(ld_le32(g->mmio_bytes), 12345);
    guest_free(g);
}
END_TEST

START_TEST(two_cpus)
{
    Guest *g = guest_new(&(GuestConfig){ .cpus = 2 });
    guest_run(g, "smp", vcpu_apic_id(kvm_vcpu(g->kvm, 1)));
    /* And once more after a reset: the second CPU must wait for its SIPI again. */
    guest_run(g, "smp", vcpu_apic_id(kvm_vcpu(g->kvm, 1)));
    ck_assert_int_ne(vcpu_thread_id(kvm_vcpu(g->kvm, 0)), vcpu_thread_id(kvm_vcpu(g->kvm, 1)));
    guest_free(g);
}
END_TEST

START_TEST(threads_have_names)
{
    Guest *g = guest_new(&(GuestConfig){ .cpus = 2 });
    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *path = g_strdup_printf("/proc/self/task/%d/comm",
                                                vcpu_thread_id(kvm_vcpu(g->kvm, i)));
        g_autofree char *name = NULL, *want = g_strdup_printf("CPU %u/KVM\n", i);
        ck_assert(g_file_get_contents(path, &name, NULL, NULL));
        ck_assert_str_eq(name, want);
    }
    guest_free(g);
}
END_TEST

/* ---- state ---- */

typedef struct Progress {
    uint32_t step, stop_at;
} Progress;

static void note_progress(Guest *g, uint64_t offset, uint32_t value)
{
    Progress *p = g->opaque;
    g_mutex_lock(&g->mutex);
    p->step = value;
    g_cond_broadcast(&g->changed);
    g_mutex_unlock(&g->mutex);
}

static bool far_enough(Guest *g)
{
    Progress *p = g->opaque;
    return p->step >= p->stop_at;
}

static uint64_t expected_result(uint64_t x)
{
    for (unsigned i = 0; i < 200 * 500; i++)
        x = (x ^ x >> 7) * 6364136223846793005u + 1442695040888963407u;
    return x;
}

static Guest *state_guest(Progress *p)
{
    Guest *g = guest_new(&(GuestConfig){ .irqchip = KVM_IRQCHIP_ON });
    g->on_write = note_progress;
    g->opaque = p;
    return g;
}

/* Stops @a, loads what it is into @b, another VM in the same process, and lets that go on to its end. */
static void go_on_in(Guest *b, Guest *a)
{
    g_autoptr(GByteArray) saved = g_byte_array_new(), again = g_byte_array_new();
    g_autoptr(GError) error = NULL;

    guest_stop(a);
    tree_save_state(a->root, saved);
    memcpy(guest_ram(b, 0), guest_ram(a, 0), GUEST_RAM);
    memset(guest_ram(a, 0), 0, GUEST_RAM);
    ck_assert_msg(tree_load_state(b->root, saved->data, saved->len, &error), "%s",
                  error ? error->message : "?");
    tree_save_state(b->root, again);
    ck_assert_uint_eq(saved->len, again->len);
    guest_start(b);
    ck_assert_uint_eq(guest_wait(b), GOOD);
    guest_stop(b);
}

START_TEST(state_moves_to_another_vm)
{
    Progress p = { .stop_at = 20 }, q = { 0 };
    Guest *a = state_guest(&p), *b = state_guest(&q);
    guest_load(a, "compute", 42);
    guest_start(a);
    guest_wait_for(a, far_enough, "progress");
    go_on_in(b, a);
    ck_assert_uint_eq(a->result, 0);
    ck_assert_uint_lt(p.step, 199);
    ck_assert_uint_eq(*(uint64_t *)guest_ram(b, 0x200000), expected_result(42));
    guest_free(a);
    guest_free(b);
}
END_TEST

/* The same with a timer that ticks in the LAPIC, and each kind of irqchip. */
START_TEST(timer_goes_on_in_another_vm)
{
    GuestConfig config = { .irqchip = _i ? KVM_IRQCHIP_SPLIT : KVM_IRQCHIP_ON };
    Progress p = { .stop_at = 10 }, q = { 0 };
    Guest *a = guest_new(&config), *b = guest_new(&config);
    a->on_write = b->on_write = note_progress;
    a->opaque = &p;
    b->opaque = &q;
    guest_load(a, "timer", 0);
    guest_start(a);
    guest_wait_for(a, far_enough, "ticks");
    go_on_in(b, a);
    ck_assert_uint_eq(q.step, 39);
    guest_free(a);
    guest_free(b);
}
END_TEST

/* KVM's PIT comes with its first port access; it moves, and a reset takes its ticks away. */
START_TEST(pit_goes_on_in_another_vm)
{
    Progress p = { .stop_at = 5 }, q = { 0 };
    Guest *a = state_guest(&p), *b = state_guest(&q);
    guest_load(a, "pit", 0);
    guest_start(a);
    guest_wait_for(a, far_enough, "ticks");
    go_on_in(b, a);
    guest_run(b, "pit", 0);
    guest_free(a);
    guest_free(b);
}
END_TEST

START_TEST(reset_brings_back_the_first_state)
{
    Guest *g = guest_new(&(GuestConfig){ .cpus = 2 });
    g_autofree char *first = vcpu_describe(kvm_vcpu(g->kvm, 0)), *other =
        vcpu_describe(kvm_vcpu(g->kvm, 1));
    ck_assert_ptr_nonnull(strstr(first, "RIP=000000000000fff0"));
    ck_assert_ptr_null(strstr(first, "(halted)"));
    ck_assert_ptr_nonnull(strstr(other, "(halted)"));
    guest_run(g, "smp", vcpu_apic_id(kvm_vcpu(g->kvm, 1)));
    kvm_vcpus_reset(g->kvm);
    g_autofree char *again = vcpu_describe(kvm_vcpu(g->kvm, 0)), *other_again =
        vcpu_describe(kvm_vcpu(g->kvm, 1));
    ck_assert_str_eq(first, again);
    ck_assert_str_eq(other, other_again);
    guest_free(g);
}
END_TEST

/* A cut or changed stream is refused with an error, and the VM lives on. */
START_TEST(broken_state_is_refused)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GByteArray) saved = g_byte_array_new();
    Guest *g = guest_new(&(GuestConfig){ 0 });
    tree_save_state(g->root, saved);
    for (size_t cut = 0; cut < saved->len; cut += 97) {
        ck_assert(!tree_load_state(g->root, saved->data, cut, &error));
        g_clear_error(&error);
    }
    guest_run(g, "io", 0);
    guest_free(g);
}
END_TEST

START_TEST(stop_and_start_many_times)
{
    Progress p = { 0 };
    Guest *g = state_guest(&p);
    guest_load(g, "compute", 7);
    for (unsigned i = 0; i < 500 && !g->result; i++) {
        guest_start(g);
        if (i % 5 == 0)
            g_free(vcpu_describe(kvm_vcpu(g->kvm, 0)));
        guest_stop(g);
    }
    guest_start(g);
    ck_assert_uint_eq(guest_wait(g), GOOD);
    guest_stop(g);
    ck_assert_uint_eq(*(uint64_t *)guest_ram(g, 0x200000), expected_result(7));
    guest_free(g);
}
END_TEST

/* ---- dirty pages ---- */

typedef struct DirtyTest {
    const uint32_t *pages;
    unsigned n, next;
    bool drained;
} DirtyTest;

/* The guest asks for its next page; when none is left it ends, so it asks only when there is one.
 * */
static uint32_t next_page(Guest *g, uint64_t offset, unsigned size)
{
    DirtyTest *t = g->opaque;
    return t->next < t->n ? t->pages[t->next++] : ~0u;
}

static unsigned take_dirty(Guest *g, unsigned long *bits)
{
    memset(bits, 0, GUEST_RAM / 4096 / 8);
    address_space_sync_dirty(g->memory);
    return ram_dirty_take(g->ram_block, DIRTY_MIGRATION, 0, GUEST_RAM, bits);
}

static bool bit(const unsigned long *bits, unsigned n)
{
    return bits[n / 64] >> (n % 64) & 1;
}

START_TEST(dirty_pages_are_logged)
{
    static const uint32_t first[] = { 600, 601, 663, 664, 8191 }, second[] = { 601, 700 };
    g_autofree unsigned long *bits = g_malloc0(GUEST_RAM / 4096 / 8);
    DirtyTest t = { first, G_N_ELEMENTS(first) };
    Guest *g = guest_new(&(GuestConfig){ 0 });
    g->on_read = next_page;
    g->opaque = &t;
    guest_load(g, "dirty", 0);
    region_set_dirty_log(&g->ram, DIRTY_MIGRATION, true);
    ram_dirty_enable(g->ram_block, DIRTY_MIGRATION, true);
    guest_start(g);
    guest_wait(g);
    guest_stop(g);
    take_dirty(g, bits);
    for (unsigned i = 0; i < G_N_ELEMENTS(first); i++)
        ck_assert_msg(bit(bits, first[i]), "page %u", first[i]);
    ck_assert(!bit(bits, 602) && !bit(bits, 8190) && !bit(bits, 700));
    ck_assert_uint_eq(take_dirty(g, bits), 0);

    t = (DirtyTest){ second, G_N_ELEMENTS(second) };
    guest_load(g, "dirty", 0);
    guest_start(g);
    guest_wait(g);
    guest_stop(g);
    take_dirty(g, bits);
    ck_assert(bit(bits, 601) && bit(bits, 700) && !bit(bits, 600) && !bit(bits, 8191));

    /* What is dirty when the memory is unmapped is not lost. */
    guest_load(g, "dirty", 0);
    t = (DirtyTest){ second, 1 };
    guest_start(g);
    guest_wait(g);
    guest_stop(g);
    region_del(&g->ram);
    memset(bits, 0, GUEST_RAM / 4096 / 8);
    ram_dirty_take(g->ram_block, DIRTY_MIGRATION, 0, GUEST_RAM, bits);
    ck_assert(bit(bits, 601) && !bit(bits, 700));
    region_add(&g->memory_root, 0, &g->ram);
    ram_dirty_enable(g->ram_block, DIRTY_MIGRATION, false);
    guest_free(g);
}
END_TEST

/* The map changes under a running guest: RAM is split by a window again and again. */
START_TEST(memory_splits_while_the_guest_runs)
{
    Region window;
    Progress p = { 0 };
    Guest *g = state_guest(&p);
    region_init_rom(&window, g->root, "window", g->rom_block, 0, 4096);
    guest_load(g, "compute", 9);
    guest_start(g);
    for (unsigned i = 0; i < 200; i++) {
        region_add_priority(&g->memory_root, 0xa0000 + 4096 * (i % 8), &window, 1);
        region_del(&window);
    }
    ck_assert_uint_eq(guest_wait(g), GOOD);
    ck_assert_msg(g->event < 0, "event %d: %s", g->event, g->reason);
    guest_stop(g);
    ck_assert_uint_eq(*(uint64_t *)guest_ram(g, 0x200000), expected_result(9));
    region_destroy(&window);
    guest_free(g);
}
END_TEST

/* ---- failures ---- */

static void stop_within_reason(Guest *g)
{
    ck_assert_int_eq(guest_wait(g), 0);
    guest_stop(g);                          /* must return */
}

START_TEST(internal_error_stops_the_vm)
{
    Guest *g = guest_new(&(GuestConfig){ .cpus = _i + 1 });
    guest_load(g, "fault", 1);
    guest_start(g);
    stop_within_reason(g);
    ck_assert_int_eq(g->event, KVM_EVENT_INTERNAL_ERROR);
    ck_assert_ptr_nonnull(strstr(g->reason, "emulate"));
    g_autofree char *text = vcpu_describe(kvm_vcpu(g->kvm, 0));
    ck_assert_msg(strstr(text, "RIP=00000000e0000000") != NULL, "%s", text);
    guest_run(g, "io", 0);                  /* a reset mends it */
    guest_free(g);
}
END_TEST

START_TEST(triple_fault_asks_for_reset)
{
    Guest *g = guest_new(&(GuestConfig){ 0 });
    guest_load(g, "fault", 2);
    guest_start(g);
    stop_within_reason(g);
    ck_assert_int_eq(g->event, KVM_EVENT_RESET);
    guest_run(g, "io", 0);
    guest_free(g);
}
END_TEST

START_TEST(destroy_while_running)
{
    Guest *g = guest_new(&(GuestConfig){ .irqchip = _i, .cpus = _i == KVM_IRQCHIP_OFF ? 1 : 2 });
    guest_load(g, "fault", 3);
    guest_start(g);
    guest_free(g);
}
END_TEST

/* ---- eventfds ---- */

static uint64_t count_of(int fd)
{
    uint64_t n = 0;
    return read(fd, &n, 8) == 8 ? n : 0;
}

START_TEST(ioeventfds)
{
    Guest *g = guest_new(&(GuestConfig){ 0 });
    int pio = eventfd(0, EFD_NONBLOCK), mmio = eventfd(0, EFD_NONBLOCK);
    region_add_ioeventfd(&g->data_ports, 2, 2, true, 7, pio);
    region_add_ioeventfd(&g->mmio, 0x20, 0, false, 0, mmio);
    guest_run(g, "eventfd", 0);
    ck_assert_uint_eq(count_of(pio), 3);
    ck_assert_uint_eq(count_of(mmio), 2);
    ck_assert_uint_eq(g->bytes[2], 8);      /* the one that did not match */
    region_del_ioeventfd(&g->data_ports, 2, 2, true, 7, pio);
    region_del_ioeventfd(&g->mmio, 0x20, 0, false, 0, mmio);
    guest_run(g, "eventfd", 0);
    ck_assert_uint_eq(count_of(pio), 0);
    ck_assert_uint_eq(count_of(mmio), 0);
    ck_assert_uint_eq(g->mmio_bytes[0x20], 1);
    close(pio);
    close(mmio);
    guest_free(g);
}
END_TEST

/* ---- CPUID ---- */

typedef struct Leaf {
    uint32_t function, index, regs[4];
} Leaf;

static const char *const model_names[] = {
    "host", "max", "base", "qemu64", "kvm64", "x86-64-v3", "EPYC", "EPYC-Milan", "Skylake-Server",
    "host,-cx16,kvm=off,migratable=off", "qemu64,model-id=Test CPU,family=23,model=49,stepping=2",
};

static uint32_t json_u32(json_object *o, const char *key)
{
    json_object *v = NULL;
    json_object_object_get_ex(o, key, &v);
    return json_object_get_int64(v);
}

static unsigned register_of(json_object *word)
{
    static const char *const regs[] = { "eax", "ebx", "ecx", "edx" };
    json_object *v = NULL;
    unsigned i = 0;
    if (!json_object_object_get_ex(word, "register", &v))
        return 0;                           /* an MSR */
    while (i < 3 && strcmp(regs[i], json_object_get_string(v)))
        i++;
    return i;
}

/* PVM lets CPUID show the host's feature words whatever KVM_SET_CPUID2 said. */
static bool cpuid_is_the_hosts(void)
{
    Guest *g = guest_new(&(GuestConfig){ .cpu = "base" });
    Leaf *leaf = guest_ram(g, 0x200000);
    leaf[0] = (Leaf){ 1, 0 };
    guest_run(g, "cpuid", 1);
    bool shown = leaf[0].regs[3] & 1 << 26; /* SSE2: no 64-bit host is without */
    guest_free(g);
    return shown;
}

/* What CPUID says in the guest is the model's features, word by word. */
START_TEST(guest_sees_the_model)
{
    g_autofree char *text = g_strdup_printf("%s,check=off", model_names[_i]);
    if (cpuid_is_the_hosts())
        return;
    Guest *g = guest_new(&(GuestConfig){ .cpu = text });
    g_autoptr(json_object) words = cpu_model_cpuid(g->model);
    Leaf *leaf = guest_ram(g, 0x200000);
    unsigned n = json_object_array_length(words);
    for (unsigned i = 0; i < n; i++) {
        json_object *w = json_object_array_get_idx(words, i);
        leaf[i] = (Leaf){ json_u32(w, "leaf"), json_u32(w, "subleaf") };
    }
    guest_run(g, "cpuid", n);
    for (unsigned i = 0; i < n; i++) {
        json_object *w = json_object_array_get_idx(words, i);
        const uint32_t want = json_u32(w, "value"), got = leaf[i].regs[register_of(w)];
        if (leaf[i].function)               /* 0: an MSR */
            ck_assert_msg((got & want) == want, "leaf %x register %u: 0x%x, asked for 0x%x",
                          leaf[i].function, register_of(w), got, want);
    }
    if (!cpu_model_feature(g->model, "cx16"))
        for (unsigned i = 0; i < n; i++)
            ck_assert(leaf[i].function != 1 || !(leaf[i].regs[2] & 1 << 13));
    guest_free(g);
}
END_TEST

START_TEST(model_properties)
{
    Guest *g = guest_new(&(GuestConfig){
        .cpus = 4, .cpu = "qemu64,check=off,model-id=Test CPU,family=23,model=49,stepping=2" });
    Leaf *leaf = guest_ram(g, 0x200000);
    leaf[0] = (Leaf){ 1, 0 };
    leaf[1] = (Leaf){ 0x80000002, 0 };
    leaf[2] = (Leaf){ 0xb, 0 };
    leaf[3] = (Leaf){ 0xb, 1 };
    leaf[4] = (Leaf){ 0x40000000, 0 };
    guest_run(g, "cpuid", 5);
    ck_assert_uint_eq(leaf[0].regs[0], 0x00830f12);
    ck_assert_uint_eq(leaf[0].regs[1] >> 16 & 0xff, 4);
    ck_assert(!memcmp(leaf[1].regs, "Test CPU", 9));
    ck_assert_uint_eq(leaf[2].regs[1], 1);
    ck_assert_uint_eq(leaf[3].regs[0], 2);
    ck_assert_uint_eq(leaf[3].regs[1], 4);
    ck_assert(!memcmp(&leaf[4].regs[1], "KVMKVMKVM\0\0", 12));
    guest_free(g);
}
END_TEST

static struct kvm_cpuid_entry2 leaf_of(const struct kvm_cpuid2 *table, uint32_t function,
                                       uint32_t index)
{
    for (unsigned i = 0; i < table->nent; i++)
        if (table->entries[i].function == function && table->entries[i].index == index)
            return table->entries[i];
    return (struct kvm_cpuid_entry2){ 0 };
}

/* Two sockets of two dies.  Intel's: a model that ends before leaf 0x1F shows them nevertheless. */
START_TEST(dies_are_told)
{
    static const SmpTopology smp = { 16, 16, 2, 2, 2, 2 };
    Guest *intel = guest_new(&(GuestConfig){ .cpu = "Nehalem,check=off,vendor=GenuineIntel" });
    Guest *amd = guest_new(&(GuestConfig){ .cpu = "EPYC,check=off,vendor=AuthenticAMD" });
    bool topoext = cpu_model_feature(amd->model, "topoext");
    for (unsigned i = 0; i < smp.cpus; i++) {
        g_autofree struct kvm_cpuid2 *of_intel =
            cpu_model_table(intel->model, intel->kvm, i, &smp, NULL);
        ck_assert_ptr_nonnull(of_intel);
        ck_assert_uint_ge(leaf_of(of_intel, 0, 0).eax, 0x1f);
        struct kvm_cpuid_entry2 core = leaf_of(of_intel, 0x1f, 1), die = leaf_of(of_intel, 0x1f, 2);
        ck_assert_uint_eq(core.eax, 2);             /* shift to the die's number, CPUs of a die */
        ck_assert_uint_eq(core.ebx, 4);
        ck_assert_uint_eq(die.ecx, 2 | 5 << 8);     /* level 2 is dies */
        ck_assert_uint_eq(die.eax, 3);
        ck_assert_uint_eq(die.ebx, 8);
        ck_assert_uint_eq(die.edx, i);

        g_autofree struct kvm_cpuid2 *of_amd = cpu_model_table(amd->model, amd->kvm, i, &smp, NULL);
        ck_assert_ptr_nonnull(of_amd);
        if (topoext)                                /* nodes count through the whole machine */
            ck_assert_uint_eq(leaf_of(of_amd, 0x8000001e, 0).ecx, i / 4 | 1 << 8);
    }
    guest_free(intel);
    guest_free(amd);
}
END_TEST

static void add_tests(TCase *t)
{
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, ports_and_registers, KVM_IRQCHIP_ON, KVM_IRQCHIP_OFF + 1);
    tcase_add_test(t, flat_32_bit_start);
    tcase_add_loop_test(t, interrupts, 0, 2);
    tcase_add_test(t, level_irqfd_is_resampled);
    tcase_add_test(t, split_irqchip_reports_eois);
    tcase_add_loop_test(t, nmi_goes_by_lint1, 0, 2);
    tcase_add_test(t, late_writes_come_before_the_next_access);
    tcase_add_test(t, two_cpus);
    tcase_add_test(t, threads_have_names);
    tcase_add_test(t, state_moves_to_another_vm);
    tcase_add_loop_test(t, timer_goes_on_in_another_vm, 0, 2);
    tcase_add_test(t, pit_goes_on_in_another_vm);
    tcase_add_test(t, reset_brings_back_the_first_state);
    tcase_add_test(t, broken_state_is_refused);
    tcase_add_test(t, stop_and_start_many_times);
    tcase_add_test(t, dirty_pages_are_logged);
    tcase_add_test(t, memory_splits_while_the_guest_runs);
    tcase_add_loop_test(t, internal_error_stops_the_vm, 0, 2);
    tcase_add_test(t, triple_fault_asks_for_reset);
    tcase_add_loop_test(t, destroy_while_running, KVM_IRQCHIP_ON, KVM_IRQCHIP_OFF + 1);
    tcase_add_test(t, ioeventfds);
    tcase_add_loop_test(t, guest_sees_the_model, 0, G_N_ELEMENTS(model_names));
    tcase_add_test(t, model_properties);
    tcase_add_test(t, dies_are_told);
}

int main(void)
{
    guest_require_kvm();
    return run_tests("kvm", add_tests);
}

/*
 * Registers, config space, rings and DMA of every creatable device, and of every machine, with
 * resets, saving and loading, unplugging, and a clock that jumps.  The input's first byte picks the
 * type, or FUZZ_DEVICE=NAME does; "FUZZ_DEVICE=help" lists them.  The next two pick properties.
 */
#include <linux/pci_regs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include "tests/device/subjects.h"
#include "tests/fuzz/fuzz-virtio.h"

enum { OPS_MAX = 400, VIRTIO_MAX = 4 };

static GPtrArray *types;                   /* of const Type */
static const Type *only;

typedef struct Fuzz {
    SubjectMachine s;
    Input in;
    GPtrArray *pci;                        /* of PciDevice, counted: all there were at the last look */
    FuzzVirtio virtio[VIRTIO_MAX];
    unsigned virtio_count;
    int line;                              /* the other end of a serial line; -1: none */
    Object *top;                           /* s.top, counted: it may be unplugged */
    bool over;
} Fuzz;

static void print_type(void *type, void *unused)
{
    printf("%s\n", ((const Type *)type)->name);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *name = g_getenv("FUZZ_DEVICE");

    types = subject_types();
    if (!name)
        return 0;
    if (!strcmp(name, "help")) {
        g_ptr_array_foreach(types, print_type, NULL);
        exit(0);
    }
    only = type_find(name);
    if (!only || !g_ptr_array_find(types, only, NULL)) {
        fprintf(stderr, "fuzz-device: there is no type '%s'; FUZZ_DEVICE=help lists them\n", name);
        exit(1);
    }
    return 0;
}

/* ---- a machine with the type in it ---- */

typedef struct Choice {
    unsigned bit;
    const char *before, *props;
} Choice;

static const Choice virtio_choices[] = {
    { 0, "", ",packed=on" },
    { 1, "-device pcie-root-port,id=rp0", ",bus=rp0" },
    { 2, "", ",page-per-vq=on" },
    { 3, "", ",ioeventfd=off" },
    { 4, "", ",event_idx=off" },
    { 5, "", ",vectors=2" },
    {}
};
static const Choice blk_choices[] = {
    { 8, "", ",num-queues=3,queue-size=16" },
    { 9, "-object iothread,id=io0", ",iothread=io0" },
    { 10, "", ",werror=stop,rerror=stop" },
    { 11, "", ",write-cache=off" },
    { 12, "", ",logical_block_size=4096" },
    { 13, "", ",serial=fuzz" },
    {}
};
static const Choice rng_choices[] = {
    { 8, "", ",max-bytes=1000,period=1" },
    { 9, "-object rng-random,id=r0,filename=/dev/urandom", ",rng=r0" },
    {}
};
static const Choice q35_choices[] = {
    { 0, "-device pcie-root-port,id=rp0 -device virtio-rng-pci,bus=rp0,packed=on", "" },
    { 1, "-blockdev fuzz-disk,node-name=d1 -device virtio-blk-pci,drive=d1", "" },
    { 2, "-device pvpanic -device isa-debug-exit", "" },
    { 3, "-device virtio-rng-pci-transitional", "" },
    { 4, "-device pcie-root-port,id=rp1,chassis=1,multifunction=on,addr=5.0 "
         "-device pcie-root-port,id=rp2,chassis=2,addr=5.1 "
         "-device virtio-rng-pci,bus=rp2", "" },
    {}
};

static void choose(const Choice *c, unsigned bits, GString *before, GString *props)
{
    for (; c->before; c++) {
        if (!(bits >> c->bit & 1))
            continue;
        g_string_append_printf(before, " %s", c->before);
        g_string_append(props, c->props);
    }
}

/* A serial line to a socket, whose other end the input speaks for. */
static void add_line(Fuzz *f, GString *before, const char *device)
{
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
        g_error("socketpair: %m");
    f->line = fds[0];
    g_string_append_printf(before, " -chardev socket,id=c0,fd=%d%s", fds[1], device);
}

static void boot(Fuzz *f, const Type *type)
{
    unsigned bits = take(&f->in, 2);
    g_autoptr(GString) before = g_string_new(""), props = g_string_new("");

    f->line = -1;
    if (strstr(type->name, "virtio"))
        choose(virtio_choices, bits, before, props);
    if (strstr(type->name, "pci-transitional") && !(bits & 1) && bits & 64)
        g_string_append(props, ",disable-modern=on");
    if (strstr(type->name, "virtio-rng"))
        choose(rng_choices, bits, before, props);
    if (strstr(type->name, "virtio-blk")) {
        choose(blk_choices, bits, before, props);
        g_string_append(before, bits & 128 ? " -blockdev null-co,node-name=d0,size=1M,read-only=on"
                                           : " -blockdev fuzz-disk,node-name=d0");
        g_string_append(props, ",drive=d0");
    }
    if (!strcmp(type->name, "isa-serial") || !strcmp(type->name, "isa-debugcon")) {
        add_line(f, before, "");
        g_string_append(props, ",chardev=c0");
    }
    if (!strcmp(type->name, "pcie-root-port") && bits & 1)
        g_string_append(props, " -device virtio-rng-pci,bus=dut");
    if (!strcmp(type->name, "pc-q35-1.0")) {
        choose(q35_choices, bits, before, props);
        add_line(f, before, " -device isa-serial,chardev=c0");
        g_string_append(props, ",hpet=on");
    }
    g_string_append(before, " -blockdev fuzz-disk,node-name=d9");   /* for a card to come */
    f->s = subject_boot_with(type, "test-board", before->str, props->str);
    f->top = object_ref(f->s.top);
}

static void collect_pci(Fuzz *f, PciBus *bus)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(bus->devices); i++) {
        PciDevice *dev = bus->devices[i];

        if (!dev)
            continue;
        g_ptr_array_add(f->pci, object_ref(dev));
        if (pci_bridge_bus(dev))
            collect_pci(f, pci_bridge_bus(dev));
    }
}

/* What firmware does, and a driver's first look. */
static void set_up(Fuzz *f)
{
    Bus *bus = f->s.m->machine->main_bus;

    g_ptr_array_set_size(f->pci, 0);
    f->virtio_count = 0;
    if (bus && object_is_a(OBJECT(bus), "pci-bus")) {
        f->s.m->next_mem_bar = 0xe0000000;
        f->s.m->next_io_bar = 0xc000;
        collect_pci(f, PCI_BUS(bus));
        memory_begin();
        pci_set_up_bus(f->s.m, PCI_BUS(bus));
        memory_commit();
    }
    for (unsigned i = 0; i < f->pci->len && f->virtio_count < VIRTIO_MAX; i++)
        f->virtio_count += fuzz_virtio_find(&f->virtio[f->virtio_count], f->s.m, f->pci->pdata[i]);
    subject_find_ranges(&f->s);
}

/* ---- operations ---- */

/* Numbers that mean something to devices are short in the input. */
static uint64_t some_value(Input *in)
{
    uint8_t how = take(in, 1);

    if (how < 0x80)
        return how;
    if (how < 0xc0)
        return 1ull << (how & 0x3f);
    return how < 0xe0 ? take(in, 4) : take(in, 8);
}

static void access_register(Fuzz *f, bool write)
{
    Input *in = &f->in;
    unsigned which = take(in, 1), size = 1u << take(in, 1) % 4;
    const SubjectRange *r;
    uint64_t offset, value;

    if (!f->s.ranges->len)
        return;
    r = &g_array_index(f->s.ranges, SubjectRange, which % f->s.ranges->len);
    offset = take(in, 1);
    if (offset >= 0xe0)
        offset = take(in, 4);
    offset %= r->size;
    if (write)
        address_space_store(r->as, r->addr + offset, size, some_value(in));
    else
        address_space_load(r->as, r->addr + offset, size, &value);
}

static void access_config(Fuzz *f)
{
    Input *in = &f->in;
    unsigned which = take(in, 1), size = 1u << take(in, 1) % 3;
    unsigned offset = take(in, 2) % PCIE_CONFIG_SIZE / size * size;
    PciDevice *dev;

    if (!f->pci->len)
        return;
    dev = f->pci->pdata[which % f->pci->len];
    pci_config_write(dev, offset, some_value(in), size);
    pci_config_read(dev, offset, size);
}

static void write_ram(Fuzz *f)
{
    uint64_t at = take(&f->in, 3), length = take(&f->in, 1);

    length = MIN(length, (uint64_t)(f->in.end - f->in.p));
    if (!f->s.m->machine->ram)
        return;
    memcpy(dma_host(f->s.m, at, length), f->in.p, length);
    f->in.p += length;
}

/* What was saved loads again, in whatever state the device is. */
static void save_and_load(Fuzz *f)
{
    g_autoptr(GByteArray) state = NULL;
    GError *error = NULL;

    stop(f->s.m);
    settle(f->s.m);
    state = save_state(f->s.m);
    if (!load_state(f->s.m, state, &error)) {
        fprintf(stderr, "its own state does not load: %s\n", error->message);
        abort();
    }
    run(f->s.m);
}

/* A state that somebody has changed: refused, which ends this machine's life, or harmless. */
static void load_changed(Fuzz *f)
{
    g_autoptr(GByteArray) state = NULL;
    g_autoptr(GError) error = NULL;
    unsigned changes = 1 + take(&f->in, 1) % 4;

    stop(f->s.m);
    settle(f->s.m);
    state = save_state(f->s.m);
    while (changes--) {
        unsigned at = take(&f->in, 2) % state->len;

        state->data[at] ^= take(&f->in, 1);
    }
    f->over = !load_state(f->s.m, state, &error);
    if (!f->over)
        run(f->s.m);
}

static void speak(Fuzz *f)
{
    size_t length = take(&f->in, 1) % 40;

    length = MIN(length, (size_t)(f->in.end - f->in.p));
    if (f->line >= 0 && send(f->line, f->in.p, length, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        settle(f->s.m);
    f->in.p += length;
}

static void let_time_pass(Fuzz *f)
{
    uint64_t how = take(&f->in, 1);

    /* From nanoseconds to some days. */
    fuzz_clock_advance((how & 3) << (how >> 2) % 48);
    settle(f->s.m);
}

static void take_out(void *opaque)
{
    Fuzz *f = opaque;

    if (!f->over && f->top->realized)
        device_delete(DEVICE(f->top));
    f->over = true;
}

/* Taken out while it is at work: now, or by the loop, perhaps in the middle of a reset. */
static void unplug(Fuzz *f)
{
    if (object_is_a(f->top, "machine"))
        return;
    if (take(&f->in, 1) & 1)
        take_out(f);
    else
        loop_post(loop_main(), take_out, f);
}

/* What a user at the monitor does with slots, while the guest writes their registers. */
static void hotplug(Fuzz *f)
{
    static const char *const cards[] = {
        "virtio-rng-pci,bus=rp0,id=card", "virtio-rng-pci,bus=dut,id=card",
        "virtio-rng-pci,bus=dut,id=card,multifunction=on", "virtio-rng-pci,bus=dut,addr=0.1,id=other",
        "virtio-blk-pci,bus=rp0,drive=d9,id=card", "virtio-rng-pci,bus=rp2,id=card",
    };
    uint8_t how = take(&f->in, 1);
    g_autoptr(json_object) options = NULL;

    if (how & 128) {
        device_unplug(f->s.m->machine, how & 1 ? "card" : how & 2 ? "other" : "dut", NULL);
        return;
    }
    options = options_parse(cards[how % G_N_ELEMENTS(cards)], "driver", NULL);
    device_create(f->s.m->machine, options, true, NULL);
    if (how & 64)
        set_up(f);
}

/* The slot of a root port, as its driver uses it: mostly power and indicators. */
static void write_slot(Fuzz *f)
{
    uint8_t which = take(&f->in, 1), how = take(&f->in, 1);
    PciDevice *dev = f->pci->len ? f->pci->pdata[which % f->pci->len] : NULL;

    if (!dev || !dev->exp_cap)
        return;
    if (how & 1)
        pci_config_write(dev, dev->exp_cap + PCI_EXP_SLTSTA, UINT16_MAX, 2);
    else
        pci_config_write(dev, dev->exp_cap + PCI_EXP_SLTCTL,
                         (how & 2 ? PCI_EXP_SLTCTL_PCC : 0) | how << 4, 2);
    if (how & 4)
        settle(f->s.m);
}

static FuzzVirtio *some_virtio(Fuzz *f)
{
    static FuzzVirtio none;                /* has no interface */

    if (f->virtio_count < 2)
        return f->virtio_count ? &f->virtio[0] : &none;
    return &f->virtio[take(&f->in, 1) % f->virtio_count];
}

static void rarer_step(Fuzz *f)
{
    switch (take(&f->in, 1) % 9) {
    case 0: case 1: save_and_load(f); break;
    case 2: load_changed(f); break;
    case 3: machine_reset(f->s.m->machine); break;
    case 4: speak(f); break;
    case 5: stop(f->s.m); run(f->s.m); break;
    case 6: take(&f->in, 1) % 4 ? hotplug(f) : unplug(f); break;
    case 7: write_slot(f); break;
    default: set_up(f); break;
    }
}

static void step(Fuzz *f)
{
    FuzzVirtio *v;

    switch (take(&f->in, 1) % 16) {
    case 0: case 1: case 2: access_register(f, true); break;
    case 3: case 4: access_register(f, false); break;
    case 5: access_config(f); break;
    case 6: write_ram(f); break;
    case 7: settle(f->s.m); break;
    case 8: let_time_pass(f); break;
    case 9: if ((v = some_virtio(f))->m) fuzz_virtio_start(v, &f->in); break;
    case 10: case 11: case 12: if ((v = some_virtio(f))->m) fuzz_virtio_request(v, &f->in); break;
    case 13: case 14: if ((v = some_virtio(f))->m) fuzz_virtio_disturb(v, &f->in); break;
    default: rarer_step(f); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Fuzz f = { .in = { data, data + size } };
    unsigned pick = take(&f.in, 1);
    const Type *type = only ? only : types->pdata[pick % types->len];

    fuzz_limit_cpu();
    f.pci = g_ptr_array_new_with_free_func(object_unref);
    boot(&f, type);
    run(f.s.m);
    set_up(&f);
    for (unsigned i = 0; i < OPS_MAX && f.in.p < f.in.end && !f.over; i++)
        step(&f);
    settle(f.s.m);                         /* and what was posted is done */
    if (!f.over)
        save_and_load(&f);
    settle(f.s.m);
    g_ptr_array_unref(f.pci);
    object_unref(f.top);
    subject_free(&f.s);
    if (f.line >= 0)
        close(f.line);
    return 0;
}

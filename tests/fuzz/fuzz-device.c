/*
 * Registers, config space, rings and DMA of every creatable device, and of every machine.  The input's
 * first byte picks the type, or FUZZ_DEVICE=NAME does; "FUZZ_DEVICE=help" lists the names.
 */
#include <linux/pci_regs.h>
#include <stdio.h>
#include <stdlib.h>
#include "tests/device/subjects.h"
#include "tests/fuzz/fuzz-virtio.h"

enum { OPS_MAX = 400 };

static GPtrArray *types;                   /* of const Type */
static const Type *only;

typedef struct Fuzz {
    SubjectMachine s;
    Input in;
    FuzzVirtio virtio;
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
        fprintf(stderr, "fuzz-device: there is no type '%s'\n", name);
        exit(1);
    }
    return 0;
}

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

static void set_up(Fuzz *f)
{
    if (!f->s.pci)
        return;
    f->s.m->next_mem_bar = 0xe0000000;
    f->s.m->next_io_bar = 0xc000;
    pci_set_up(f->s.m, f->s.pci);
    fuzz_virtio_find(&f->virtio, f->s.m, f->s.pci);
}

static void access_config(Fuzz *f)
{
    Input *in = &f->in;
    unsigned size = 1u << take(in, 1) % 3, offset = take(in, 2) % PCIE_CONFIG_SIZE / size * size;

    if (!f->s.pci)
        return;
    pci_config_write(f->s.pci, offset, some_value(in), size);
    pci_config_read(f->s.pci, offset, size);
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

static void step(Fuzz *f)
{
    switch (take(&f->in, 1) % 16) {
    case 0: case 1: case 2: case 3: access_register(f, true); break;
    case 4: case 5: access_register(f, false); break;
    case 6: access_config(f); break;
    case 7: write_ram(f); break;
    case 8: settle(f->s.m); break;
    case 9: fuzz_virtio_start(&f->virtio, &f->in); break;
    case 10: case 11: case 12: fuzz_virtio_request(&f->virtio, &f->in); break;
    case 13: save_and_load(f); break;
    case 14: set_up(f); subject_find_ranges(&f->s); break;
    default: machine_reset(f->s.m->machine); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Fuzz f = { .in = { data, data + size } };
    unsigned pick = take(&f.in, 1);
    const Type *type = only ? only : types->pdata[pick % types->len];

    f.s = subject_boot(type, "test-board");
    run(f.s.m);
    set_up(&f);
    subject_find_ranges(&f.s);
    for (unsigned i = 0; i < OPS_MAX && f.in.p < f.in.end; i++)
        step(&f);
    settle(f.s.m);
    save_and_load(&f);
    settle(f.s.m);
    subject_free(&f.s);
    return 0;
}

/*
 * Every creatable device type, and every machine type, through one life: realize, scribbled registers,
 * save, load into a second machine, save again, reset, unrealize.  A new type is covered without a
 * line here, unless it cannot be made without a backend.
 *
 * VIREO_SEED=N starts with another seed, VIREO_TYPE=NAME picks one type.
 */
#include <linux/pci_regs.h>
#include "src/base/options.h"
#include "tests/device/subjects.h"

enum { STEPS = 1500, SEEDS = 3 };

typedef struct Subject {
    SubjectMachine s;
    GRand *rand;
} Subject;

static GPtrArray *subjects;                /* of const Type */

static Subject boot(const Type *type, unsigned seed)
{
    return (Subject){ subject_boot(type, "q35"), g_rand_new_with_seed(seed) };
}

static void leave(Subject *s)
{
    subject_free(&s->s);
    g_rand_free(s->rand);
}

/* ---- scribbling ---- */

static uint64_t some(Subject *s, uint64_t limit)
{
    return ((uint64_t)g_rand_int(s->rand) << 32 | g_rand_int(s->rand)) % limit;
}

/* Numbers that registers are likely to make something of. */
static uint64_t some_value(Subject *s)
{
    switch (some(s, 6)) {
    case 0: return some(s, 16);
    case 1: return 1ull << some(s, 64);
    case 2: return UINT64_MAX;
    case 3: return ALIGN_DOWN(some(s, TEST_RAM_SIZE), 16);
    case 4: return 0;
    default: return some(s, UINT64_MAX);
    }
}

static void scribble_register(Subject *s)
{
    const SubjectRange *range;
    unsigned size = 1u << some(s, 4);
    uint64_t offset, value;

    if (!s->s.ranges->len)
        return;
    range = &g_array_index(s->s.ranges, SubjectRange, some(s, s->s.ranges->len));
    /* Most registers are at the start, and aligned. */
    offset = some(s, some(s, 4) ? MIN(range->size, 64) : range->size);
    if (some(s, 8))
        offset = ALIGN_DOWN(offset, size);
    if (some(s, 3))
        address_space_store(range->as, range->addr + offset, size, some_value(s));
    else
        address_space_load(range->as, range->addr + offset, size, &value);
}

static void scribble_config(Subject *s)
{
    unsigned size = 1u << some(s, 3), offset = some(s, some(s, 4) ? 256 : 4096) / size * size;

    pci_config_write(s->s.pci, offset, some_value(s), size);
    pci_set_up(s->s.m, s->s.pci);              /* or nothing might be reached any more */
    s->s.m->next_mem_bar = 0xe0000000;
    s->s.m->next_io_bar = 0xc000;
    subject_find_ranges(&s->s);
}

static void fill_ram(Subject *s)
{
    uint8_t *ram;

    if (!s->s.m->machine->ram)
        return;
    ram = dma_host(s->s.m, 0, TEST_RAM_SIZE);
    for (unsigned i = 0; i < 256 * KiB; i += 2)
        ram[i] = some_value(s);
}

static void scribble(Subject *s)
{
    fill_ram(s);
    run(s->s.m);
    if (s->s.pci)
        pci_set_up(s->s.m, s->s.pci);
    subject_find_ranges(&s->s);
    for (unsigned i = 0; i < STEPS; i++) {
        if (s->s.pci && some(s, 16) == 0)
            scribble_config(s);
        else
            scribble_register(s);
        if (s->s.m->extint && some(s, 4) == 0)  /* the CPU takes what the PIC asks for */
            s->s.m->intr.acknowledge(s->s.m->intr.acknowledge_opaque);
        if (some(s, 8) == 0)
            settle(s->s.m);
        if (!s->s.pci && some(s, 64) == 0)   /* the map may have changed */
            subject_find_ranges(&s->s);
    }
    settle(s->s.m);
    stop(s->s.m);
    settle(s->s.m);
}

/* ---- comparing ---- */

static void copy_ram(TestMachine *from, TestMachine *to)
{
    if (from->machine->ram)
        memcpy(dma_host(to, 0, TEST_RAM_SIZE), dma_host(from, 0, TEST_RAM_SIZE), TEST_RAM_SIZE);
}

static json_object *dump(const GByteArray *state)
{
    GError *error = NULL;
    json_object *json = state_dump(state->data, state->len, &error);

    ck_no_error(error);
    return json;
}

/* Fails with the first field that differs. */
static void expect_same_fields(const char *what, json_object *a, json_object *b, const char *path)
{
    if (json_object_equal(a, b))
        return;
    if (json_object_is_type(a, json_type_object) && json_object_is_type(b, json_type_object)) {
        json_object_object_foreach(a, key, value)
        {
            g_autofree char *below = g_strdup_printf("%s %s", path, key);
            json_object *other = NULL;

            json_object_object_get_ex(b, key, &other);
            expect_same_fields(what, value, other, below);
        }
    }
    ck_abort_msg("%s:%s is %s, not %s", what, path, json_object_to_json_string(a),
                 json_object_to_json_string(b));
}

static void expect_same_state(const char *what, const GByteArray *a, const GByteArray *b)
{
    g_autoptr(json_object) x = NULL, y = NULL;

    if (a->len == b->len && !memcmp(a->data, b->data, a->len))
        return;
    x = dump(a);
    y = dump(b);
    expect_same_fields(what, x, y, "");
    ck_abort_msg("%s: the states differ in their records", what);
}

/* What a reset leaves alone: clocks, and memory with a battery. */
static void forget_lasting(json_object *dumped)
{
    static const struct {
        const char *path, *field;
    } lasting[] = {
        { "/machine", "clock_ns" },
        { "/machine/rtc", "cmos" },
        { "/machine/rtc", "offset_ns" },
        { "/machine/rtc", "seen_s" },
        { "/machine/rtc", "periodic_ns" },
    };
    json_object *fields;

    for (unsigned i = 0; i < G_N_ELEMENTS(lasting); i++) {
        if (json_object_object_get_ex(dumped, lasting[i].path, &fields))
            json_object_object_del(fields, lasting[i].field);
    }
}

static void expect_like_new(Subject *s, Subject *fresh)
{
    g_autoptr(GByteArray) a = g_byte_array_new(), b = g_byte_array_new();
    g_autoptr(json_object) x = NULL, y = NULL;

    tree_save_state(s->s.top, a);
    tree_save_state(fresh->s.top, b);
    x = dump(a);
    y = dump(b);
    forget_lasting(x);
    forget_lasting(y);
    expect_same_fields("after a reset", x, y, "");
}

/* ---- the life of a type ---- */

static void check_unplug(Subject *s)
{
    if (object_is_a(s->s.top, "machine"))
        return;
    s->s.top = NULL;
    device_delete(find_device(s->s.m, "dut"));
    settle(s->s.m);
    ck_assert_ptr_null(device_find(s->s.m->machine, "dut"));
}

static void live(const Type *type, unsigned seed)
{
    Subject a = boot(type, seed), b = boot(type, seed), fresh = boot(type, seed);
    g_autoptr(GByteArray) first = NULL, second = NULL;
    GError *error = NULL;

    scribble(&a);
    first = save_state(a.s.m);
    copy_ram(a.s.m, b.s.m);
    ck_assert_msg(load_state(b.s.m, first, &error), "load: %s", error ? error->message : "");
    second = save_state(b.s.m);
    expect_same_state("after a load", first, second);
    /* What was loaded works as what was saved: it can be run and stopped. */
    run(b.s.m);
    settle(b.s.m);
    stop(b.s.m);
    reset_machine(b.s.m);
    expect_like_new(&b, &fresh);
    check_unplug(&b);
    leave(&a);
    leave(&b);
    leave(&fresh);
}

START_TEST(every_type)
{
    const Type *type = subjects->pdata[_i];
    const char *seed_text = g_getenv("VIREO_SEED"), *only = g_getenv("VIREO_TYPE");
    unsigned seed = seed_text ? strtoul(seed_text, NULL, 10) : 1;

    if (only && strcmp(only, type->name))
        return;
    for (unsigned i = 0; i < SEEDS; i++) {
        g_printerr("%s, seed %u\n", type->name, seed + i);
        live(type, seed + i);
    }
}
END_TEST

/* Without what it needs, a type says so, and leaves nothing behind. */
START_TEST(every_type_with_no_options)
{
    const Type *type = subjects->pdata[_i];
    g_autofree char *options = g_strdup_printf("-device %s", type->name);
    GError *error = NULL;
    TestMachine *m;

    if (type_is_a(type, "machine"))
        return;
    m = test_machine_try(options, &error);
    ck_assert((m == NULL) == (error != NULL));
    g_clear_error(&error);
    if (m)
        test_machine_free(m);
}
END_TEST

static void add(TCase *tests)
{
    subjects = subject_types();
    tcase_set_timeout(tests, 240);
    tcase_add_loop_test(tests, every_type, 0, subjects->len);
    tcase_add_loop_test(tests, every_type_with_no_options, 0, subjects->len);
}

int main(void)
{
    return run_tests("all", add);
}

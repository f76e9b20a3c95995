/* Making a machine from command-line options, and reaching its ports, memory, events and state. */
#include "src/base/options.h"
#include "src/chardev/chardev.h"
#include "tests/device/harness-int.h"

/* One lock for all machines of the process: the main loop knows only one. */
static VmLock test_lock;

static void take_lock(void)
{
    static bool ready;

    if (ready)
        return;
    ready = true;
    vm_lock_init(&test_lock);
    vm_lock(&test_lock);
    loop_set_vm_lock(loop_main(), &test_lock);
}

/* ---- a small board of our own: RAM, a PCI Express bus, an ISA bus ---- */

typedef struct TestBoard {
    Machine m;
    Region ram;
} TestBoard;

static void board_set_intx(PciBus *bus, PciDevice *dev, unsigned pin, bool level)
{
    TestBoard *board = bus->opaque;

    irq_set(&board->m.gsi[16 + (pin + PCI_SLOT(dev->devfn)) % 4], level);
}

static bool board_build(Machine *m, GError **error)
{
    TestBoard *board = (TestBoard *)m;

    region_init_ram(&board->ram, OBJECT(m), "ram", m->ram, 0, m->ram_size);
    region_add(&m->memory_root, 0, &board->ram);
    m->main_bus = bus_new("pcie-bus", NULL, m, "pcie.0", error);
    m->isa_bus = bus_new("isa-bus", NULL, m, "isa.0", error);
    if (!m->main_bus || !m->isa_bus)
        return false;
    PCI_BUS(m->main_bus)->mem = &m->memory_root;
    PCI_BUS(m->main_bus)->io = &m->io_root;
    PCI_BUS(m->main_bus)->set_intx = board_set_intx;
    PCI_BUS(m->main_bus)->opaque = board;
    return true;
}

static void board_unrealize(Object *obj)
{
    region_destroy(&((TestBoard *)obj)->ram);
}

static const MachineOps board_ops = {
    .build = board_build, .max_cpus = 4, .default_ram_id = "ram",
};
static const Type board_type = {
    .name = "test-board", .parent = "machine", .help = "RAM, a PCI Express and an ISA bus",
    .size = sizeof(TestBoard), .ops = &board_ops, .unrealize = board_unrealize,
};
TYPE_REGISTER(board_type)

/* ---- the environment ---- */

static void env_request(Machine *machine, MachineRequest what, const char *reason)
{
    TestMachine *m = machine->env->opaque;

    g_mutex_lock(&m->request_lock);
    g_array_append_val(m->requests, what);
    g_mutex_unlock(&m->request_lock);
    loop_kick(loop_main());
}

static void ignore_boot_regs(Machine *machine, const BootRegs *regs)
{
}

static void ignore_nmi(Machine *machine, unsigned cpu)
{
}

static void ignore_quit(Machine *machine, int status)
{
}

static void record_event(const char *name, json_object *data, void *opaque)
{
    TestEvent event = { g_strdup(name), json_object_get(data) };

    g_array_append_val(((TestMachine *)opaque)->events, event);
}

static void clear_event(void *opaque)
{
    TestEvent *event = opaque;

    g_free(event->name);
    json_object_put(event->data);
}

/* ---- making one ---- */

typedef struct Option {
    const char *name, *implied_key;
    bool (*apply)(TestMachine *m, json_object *options, GError **error);
} Option;

static bool apply_object(TestMachine *m, json_object *options, GError **error)
{
    return object_create_user(m->root, options, error) != NULL;
}

static bool apply_blockdev(TestMachine *m, json_object *options, GError **error)
{
    return block_node_open(m->block, options, error) != NULL;
}

static bool apply_chardev(TestMachine *m, json_object *options, GError **error)
{
    return chardev_create(m->root, options, error) != NULL;
}

static bool apply_machine(TestMachine *m, json_object *options, GError **error)
{
    json_object_object_foreach(options, key, value)
    {
        if (strcmp(key, "type") && !object_set(OBJECT(m->machine), key, value, error))
            return false;
    }
    return true;
}

static bool apply_memory(TestMachine *m, json_object *options, GError **error)
{
    return options_get_size(options, "size", &m->machine->ram_size, error);
}

static bool apply_global(TestMachine *m, json_object *options, GError **error)
{
    return machine_add_global(m->machine, options, error);
}

static bool apply_device(TestMachine *m, json_object *options, GError **error)
{
    return device_create(m->machine, options, false, error) != NULL;
}

static const Option backend_options[] = {
    { "-object", "qom-type", apply_object },
    { "-chardev", "backend", apply_chardev },
    { "-blockdev", "driver", apply_blockdev },
    {}
};
static const Option machine_options[] = {
    { "-machine", "type", apply_machine },
    { "-m", "size", apply_memory },
    { "-global", NULL, apply_global },
    {}
};
static const Option device_options[] = { { "-device", "driver", apply_device }, {} };

static bool apply_all(TestMachine *m, char **argv, const Option *table, GError **error)
{
    for (unsigned i = 0; argv[i] && argv[i + 1]; i += 2) {
        for (const Option *o = table; o->name; o++) {
            g_autoptr(json_object) options = NULL;

            if (strcmp(o->name, argv[i]))
                continue;
            options = options_parse(argv[i + 1], o->implied_key, error);
            if (!options || !o->apply(m, options, error))
                return error_prefix(error, "%s %s: ", argv[i], argv[i + 1]);
        }
    }
    return true;
}

static char *machine_type_of(char **argv)
{
    for (unsigned i = 0; argv[i] && argv[i + 1]; i += 2) {
        if (!strcmp(argv[i], "-machine"))
            return g_strndup(argv[i + 1], strcspn(argv[i + 1], ","));
    }
    return g_strdup("q35");
}

static bool build(TestMachine *m, char **argv, GError **error)
{
    g_autofree char *type = machine_type_of(argv);

    m->block = block_graph_new(m->root, error);
    if (!m->block || !apply_all(m, argv, backend_options, error))
        return false;
    m->machine = machine_new(m->root, type, &test_lock, &m->env, &m->intr, error);
    if (!m->machine)
        return false;
    m->machine->ram_size = strcmp(type, "none") ? TEST_RAM_SIZE : 0;
    m->machine->smp = (SmpTopology){ 1, 1, 1, 1, 1, 1 };
    m->machine->rtc.utc = true;
    if (!apply_all(m, argv, machine_options, error) || !machine_build(m->machine, error) ||
        !apply_all(m, argv, device_options, error) || !machine_done(m->machine, error))
        return false;
    machine_reset(m->machine);
    return true;
}

TestMachine *test_machine_try(const char *args, GError **error)
{
    TestMachine *m = g_new0(TestMachine, 1);
    g_auto(GStrv) argv = NULL;

    take_lock();
    if (!*args || !g_shell_parse_argv(args, NULL, &argv, NULL))
        argv = g_new0(char *, 1);
    m->root = object_new_by_name("container", NULL);
    m->env = (MachineEnv){ .request = env_request, .set_boot_regs = ignore_boot_regs,
                           .inject_nmi = ignore_nmi, .quit = ignore_quit, .opaque = m };
    m->intr.ops = &test_intr_ops;
    m->messages = g_array_new(FALSE, FALSE, sizeof(TestMessage));
    m->routes = g_array_new(FALSE, FALSE, sizeof(TestRoute));
    m->events = g_array_new(FALSE, FALSE, sizeof(TestEvent));
    g_array_set_clear_func(m->events, clear_event);
    m->requests = g_array_new(FALSE, FALSE, sizeof(MachineRequest));
    m->next_dma = 1 * MiB;
    m->next_mem_bar = 0xe0000000;
    m->next_io_bar = 0xc000;
    event_sink_add(m->root, record_event, m);
    if (build(m, argv, error))
        return m;
    test_machine_free(m);
    return NULL;
}

TestMachine *test_machine_new(const char *args)
{
    GError *error = NULL;
    TestMachine *m = test_machine_try(args, &error);

    ck_no_error(error);
    return m;
}

/* As apply_all does with one of the table's options. */
static bool add_option(TestMachine *m, const Option *option, const char *text, GError **error)
{
    g_autoptr(json_object) options = options_parse(text, option->implied_key, error);

    return options && option->apply(m, options, error);
}

static void add_backend(TestMachine *m, const char *name, const char *options)
{
    const Option *option = backend_options;
    GError *error = NULL;

    while (strcmp(option->name, name))
        option++;
    add_option(m, option, options, &error);
    ck_no_error(error);
}

void add_object(TestMachine *m, const char *options)
{
    add_backend(m, "-object", options);
}

void add_blockdev(TestMachine *m, const char *options)
{
    add_backend(m, "-blockdev", options);
}

PciDevice *add_device(TestMachine *m, const char *text)
{
    GError *error = NULL;
    g_autoptr(json_object) options = options_parse(text, "driver", &error);
    Device *dev = options ? device_create(m->machine, options, false, &error) : NULL;

    ck_no_error(error);
    return PCI_DEVICE(dev);
}

char *device_error(TestMachine *m, const char *options)
{
    g_autoptr(GError) error = NULL;

    ck_assert(!add_option(m, device_options, options, &error));
    return g_strdup(error->message);
}

void test_machine_free(TestMachine *m)
{
    if (m->running)
        stop(m);
    if (m->machine)
        machine_delete(m->machine);
    settle(m);
    if (m->block)
        block_graph_close(m->block);
    object_unref(m->root);
    g_array_unref(m->messages);
    g_array_unref(m->routes);
    g_array_unref(m->events);
    g_array_unref(m->requests);
    g_free(m);
}

Machine *test_machine(TestMachine *m)
{
    return m->machine;
}

Object *test_root(TestMachine *m)
{
    return m->root;
}

void run(TestMachine *m)
{
    m->running = true;
    machine_run_hooks(m->machine, true);
}

void stop(TestMachine *m)
{
    m->running = false;
    machine_run_hooks(m->machine, false);
}

Device *find_device(TestMachine *m, const char *id)
{
    Device *dev = device_find(m->machine, id);

    ck_assert_msg(dev != NULL, "there is no device '%s'", id);
    return dev;
}

/* ---- ports and memory ---- */

static uint64_t load(AddressSpace *as, uint64_t addr, unsigned size)
{
    uint64_t value;

    address_space_load(as, addr, size, &value);
    return value;
}

#define DEFINE_IO(bits)                                                                            \
    uint##bits##_t io_read##bits(TestMachine *m, uint16_t port)                                    \
    {                                                                                              \
        return load(m->machine->io, port, bits / 8);                                               \
    }                                                                                              \
    void io_write##bits(TestMachine *m, uint16_t port, uint##bits##_t value)                       \
    {                                                                                              \
        address_space_store(m->machine->io, port, bits / 8, value);                                \
    }
DEFINE_IO(8)
DEFINE_IO(16)
DEFINE_IO(32)

uint64_t mem_read(TestMachine *m, uint64_t addr, unsigned size)
{
    return load(m->machine->memory, addr, size);
}

void mem_write(TestMachine *m, uint64_t addr, unsigned size, uint64_t value)
{
    address_space_store(m->machine->memory, addr, size, value);
}

uint64_t dma_alloc(TestMachine *m, uint64_t size)
{
    uint64_t align = size >= 4096 ? 4096 : 16, addr = ALIGN_UP(m->next_dma, align);

    m->next_dma = addr + size;
    memset(dma_host(m, addr, size), 0, size);
    return addr;
}

void *guest_ptr(TestMachine *m, uint64_t addr)
{
    return dma_host(m, addr, 1);
}

void *dma_host(TestMachine *m, uint64_t addr, uint64_t length)
{
    uint64_t size = ram_block_size(m->machine->ram);

    ck_assert(addr <= size && length <= size - addr);
    return (uint8_t *)ram_block_host(m->machine->ram) + addr;
}

/* ---- events, requests, waiting ---- */

typedef struct EventWait {
    TestMachine *m;
    const char *name;
    json_object *data;
} EventWait;

static bool event_came(void *opaque)
{
    EventWait *w = opaque;

    for (unsigned i = 0; i < w->m->events->len; i++) {
        TestEvent *event = &g_array_index(w->m->events, TestEvent, i);

        if (!strcmp(event->name, w->name) && (!w->data || json_object_equal(w->data, event->data))) {
            g_array_remove_index(w->m->events, i);
            return true;
        }
    }
    return false;
}

void expect_event(TestMachine *m, const char *name, const char *data_json)
{
    GError *error = NULL;
    g_autoptr(json_object) data =
        data_json ? json_parse(data_json, strlen(data_json), &error) : NULL;

    ck_no_error(error);
    wait_until(m, event_came, &(EventWait){ m, name, data });
}

bool took_request(TestMachine *m, MachineRequest what)
{
    bool found = false;

    g_mutex_lock(&m->request_lock);
    for (unsigned i = 0; i < m->requests->len && !found; i++) {
        found = g_array_index(m->requests, MachineRequest, i) == what;
        if (found)
            g_array_remove_index(m->requests, i);
    }
    g_mutex_unlock(&m->request_lock);
    return found;
}

typedef struct RequestWait {
    TestMachine *m;
    MachineRequest what;
} RequestWait;

static bool request_came(void *opaque)
{
    RequestWait *w = opaque;

    return took_request(w->m, w->what);
}

void expect_request(TestMachine *m, MachineRequest what)
{
    wait_until(m, request_came, &(RequestWait){ m, what });
}

/* The limit is for a test that fails: nothing that passes waits for it. */
void wait_until(TestMachine *m, bool (*done)(void *opaque), void *opaque)
{
    int64_t end = loop_clock_ns() + 120 * INT64_C(1000000000);

    while (!done(opaque)) {
        ck_assert_msg(loop_clock_ns() < end, "what was waited for did not come in two minutes");
        if (!loop_iterate(loop_main(), false))
            g_usleep(20);                  /* an iothread may be at work */
    }
}

void settle(TestMachine *m)
{
    while (loop_iterate(loop_main(), false))
        continue;
}

/* ---- state ---- */

GByteArray *save_object(Object *top)
{
    GByteArray *out = g_byte_array_new();

    tree_save_state(top, out);
    return out;
}

void load_exactly(Object *top, const GByteArray *state)
{
    g_autoptr(GByteArray) again = NULL;
    GError *error = NULL;

    tree_load_state(top, state->data, state->len, &error);
    ck_no_error(error);
    again = save_object(top);
    ck_assert(again->len == state->len && !memcmp(again->data, state->data, state->len));
}

GByteArray *save_state(TestMachine *m)
{
    return save_object(OBJECT(m->machine));
}

bool load_state(TestMachine *m, const GByteArray *state, GError **error)
{
    return tree_load_state(OBJECT(m->machine), state->data, state->len, error);
}

void reset_machine(TestMachine *m)
{
    machine_reset(m->machine);
    settle(m);
}

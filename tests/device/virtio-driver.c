#include "virtio-driver.h"
#include <poll.h>
#include <unistd.h>
#include "src/base/options.h"

/* ---- The machine ---- */

typedef struct TestMachine {
    Machine m;
    Region ram;
} TestMachine;

static bool test_machine_build(Machine *m, GError **error)
{
    Region *ram = &((TestMachine *)m)->ram;

    region_init_ram(ram, OBJECT(m), "ram", m->ram, 0, m->ram_size);
    region_add(&m->memory_root, 0, ram);
    m->main_bus = bus_new("pcie-bus", NULL, m, "pcie.0", error);
    if (!m->main_bus)
        return false;
    PCI_BUS(m->main_bus)->mem = &m->memory_root;
    PCI_BUS(m->main_bus)->io = &m->io_root;
    return true;
}

static void test_machine_unrealize(Object *obj)
{
    region_destroy(&((TestMachine *)obj)->ram);
}

static const MachineOps test_machine_ops = {
    .build = test_machine_build, .max_cpus = 4, .default_ram_id = "ram",
};
static const Type test_machine_type = {
    .name = "test-pci", .parent = "machine", .help = "RAM and a PCI Express bus",
    .size = sizeof(TestMachine), .unrealize = test_machine_unrealize, .ops = &test_machine_ops,
};
TYPE_REGISTER(test_machine_type)

/* ---- Interrupts ---- */

typedef struct TestRoute {
    TestMessage message;
    int fd;                                 /* -1: none */
    bool used;
} TestRoute;

static TestIntr *intr_of(IntrController *ic)
{
    return container_of(ic, TestIntr, ic);
}

static TestRoute *route_at(TestIntr *t, int i)
{
    return &g_array_index(t->routes, TestRoute, i);
}

static void record(TestIntr *t, TestMessage message)
{
    g_array_append_val(t->messages, message);
}

/* What KVM does at once: eventfds become messages. */
static void collect_irqfds(TestIntr *t)
{
    for (unsigned i = 0; i < t->routes->len; i++) {
        TestRoute *r = route_at(t, i);
        struct pollfd p = { .fd = r->fd, .events = POLLIN };
        uint64_t n;
        if (r->fd >= 0 && poll(&p, 1, 0) == 1 && read(r->fd, &n, sizeof(n)) == sizeof(n))
            record(t, r->message);
    }
}

static void set_gsi(IntrController *ic, unsigned gsi, bool level)
{
}

static void send_msi(IntrController *ic, uint64_t address, uint32_t data)
{
    record(intr_of(ic), (TestMessage){ address, data });
}

static int route_add(IntrController *ic, uint64_t address, uint32_t data, GError **error)
{
    TestIntr *t = intr_of(ic);
    TestRoute route = { { address, data }, -1, true };

    if (t->no_irqfds) {
        fail(error, ERR_UNSUPPORTED, "no routes");
        return -1;
    }
    g_array_append_val(t->routes, route);
    return t->routes->len - 1;
}

static void route_update(IntrController *ic, int route, uint64_t address, uint32_t data)
{
    collect_irqfds(intr_of(ic));
    route_at(intr_of(ic), route)->message = (TestMessage){ address, data };
}

static void route_del(IntrController *ic, int route)
{
    ck_assert_int_eq(route_at(intr_of(ic), route)->fd, -1);
    route_at(intr_of(ic), route)->used = false;
}

static bool irqfd_add(IntrController *ic, int route, int fd, GError **error)
{
    route_at(intr_of(ic), route)->fd = fd;
    return true;
}

static void irqfd_del(IntrController *ic, int route, int fd)
{
    collect_irqfds(intr_of(ic));
    ck_assert_int_eq(route_at(intr_of(ic), route)->fd, fd);
    route_at(intr_of(ic), route)->fd = -1;
}

static const IntrOps intr_ops = {
    .set_gsi = set_gsi, .send_msi = send_msi, .route_add = route_add,
    .route_update = route_update, .route_del = route_del, .irqfd_add = irqfd_add,
    .irqfd_del = irqfd_del,
};

static void set_intx(PciBus *bus, PciDevice *dev, unsigned pin, bool level)
{
    TestVm *vm = bus->opaque;
    vm->intx[(pin + PCI_SLOT(dev->devfn)) % 4] = level;
}

unsigned test_messages(TestVm *vm, uint32_t data)
{
    unsigned n = 0;

    collect_irqfds(&vm->intr);
    for (unsigned i = 0; i < vm->intr.messages->len; i++)
        n += g_array_index(vm->intr.messages, TestMessage, i).data == data;
    return n;
}

/* ---- A test's VM ---- */

static void env_request(Machine *m, MachineRequest what, const char *reason)
{
    TestVm *vm = container_of(m->env, TestVm, env);

    if (what == MACHINE_STOP)
        __atomic_add_fetch(&vm->stop_requests, 1, __ATOMIC_SEQ_CST);
    loop_kick(loop_main());
}

static void no_error(GError *error)
{
    if (error)
        ck_abort_msg("%s", error->message);
}

TestVm *test_vm_new(void)
{
    TestVm *vm = g_new0(TestVm, 1);
    GError *error = NULL;

    vm->root = object_new_by_name("container", &error);
    no_error(error);
    vm_lock_init(&vm->lock);
    vm_lock(&vm->lock);
    loop_set_vm_lock(loop_main(), &vm->lock);
    vm->env = (MachineEnv){ .request = env_request };
    vm->intr.ic.ops = &intr_ops;
    vm->intr.messages = g_array_new(FALSE, FALSE, sizeof(TestMessage));
    vm->intr.routes = g_array_new(FALSE, FALSE, sizeof(TestRoute));
    vm->block = block_graph_new(vm->root, &error);
    no_error(error);
    vm->m = machine_new(vm->root, "test-pci", &vm->lock, &vm->env, &vm->intr.ic, &error);
    no_error(error);
    vm->m->ram_size = TEST_RAM_SIZE;
    vm->m->smp = (SmpTopology){ .cpus = 2, .max_cpus = 2, .sockets = 1, .dies = 1, .cores = 2,
                                .threads = 1 };
    machine_build(vm->m, &error);
    no_error(error);
    vm->bus = PCI_BUS(vm->m->main_bus);
    vm->bus->set_intx = set_intx;
    vm->bus->opaque = vm;
    vm->next_page = 0x10000;
    vm->next_bar = 0xe0000000;
    return vm;
}

void test_vm_free(TestVm *vm)
{
    machine_delete(vm->m);
    block_graph_close(vm->block);
    object_unref(vm->root);
    loop_set_vm_lock(loop_main(), NULL);
    vm_unlock(&vm->lock);
    vm_lock_clear(&vm->lock);
    g_array_free(vm->intr.messages, TRUE);
    g_array_free(vm->intr.routes, TRUE);
    g_free(vm);
}

PciDevice *test_device(TestVm *vm, const char *options)
{
    GError *error = NULL;
    g_autoptr(json_object) o = options_parse(options, "driver", &error);
    no_error(error);
    Device *dev = device_create(vm->m, o, false, &error);
    no_error(error);
    return PCI_DEVICE(dev);
}

char *test_device_error(TestVm *vm, const char *options)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(json_object) o = options_parse(options, "driver", &error);

    ck_assert_ptr_null(device_create(vm->m, o, false, &error));
    ck_assert_ptr_nonnull(error);
    return g_strdup(error->message);
}

void test_object(TestVm *vm, const char *options)
{
    GError *error = NULL;
    g_autoptr(json_object) o = options_parse(options, "qom-type", &error);
    no_error(error);
    object_create_user(vm->root, o, &error);
    no_error(error);
}

void test_blockdev(TestVm *vm, const char *options)
{
    GError *error = NULL;
    g_autoptr(json_object) o = options_parse(options, "driver", &error);
    no_error(error);
    block_node_open(vm->block, o, &error);
    no_error(error);
}

void test_settle(TestVm *vm)
{
    while (loop_iterate(loop_main(), false))
        continue;
}

/* The limit is for a test that fails: nothing that passes waits for it. */
bool test_wait(TestVm *vm, bool (*done)(void *opaque), void *opaque)
{
    int64_t end = loop_clock_ns() + 20 * INT64_C(1000000000);

    while (!done(opaque)) {
        if (loop_clock_ns() > end)
            return false;
        if (!loop_iterate(loop_main(), false))
            g_usleep(20);                   /* an iothread may be at work */
    }
    return true;
}

/* ---- Guest memory ---- */

void *guest_ptr(TestVm *vm, uint64_t gpa)
{
    ck_assert_uint_lt(gpa, TEST_RAM_SIZE);
    return (char *)ram_block_host(vm->m->ram) + gpa;
}

uint64_t guest_alloc(TestVm *vm, uint64_t size)
{
    uint64_t gpa = vm->next_page;

    vm->next_page += ALIGN_UP(size, 4096);
    ck_assert_uint_le(vm->next_page, TEST_RAM_SIZE);
    memset(guest_ptr(vm, gpa), 0, size);
    return gpa;
}

uint64_t guest_load(TestVm *vm, uint64_t gpa, unsigned size)
{
    uint64_t value;

    ck_assert_int_eq(address_space_load(vm->m->memory, gpa, size, &value), MEM_OK);
    return value;
}

void guest_store(TestVm *vm, uint64_t gpa, unsigned size, uint64_t value)
{
    address_space_store(vm->m->memory, gpa, size, value);
}

/* ---- A virtio device ---- */

static uint32_t pci_load(TestVirtio *v, unsigned offset, unsigned size)
{
    return pci_bus_config_read(v->vm->bus, 0, v->pci->devfn, offset, size);
}

static void pci_store(TestVirtio *v, unsigned offset, unsigned size, uint32_t value)
{
    pci_bus_config_write(v->vm->bus, 0, v->pci->devfn, offset, value, size);
}

/* Sizes, places and maps the memory BARs, as firmware does (PCI 3.0, 6.2.5.1). */
static void map_bars(TestVirtio *v, uint64_t base[6])
{
    for (unsigned n = 0; n < 6; n++) {
        unsigned reg = PCI_BASE_ADDRESS_0 + 4 * n;
        uint32_t old = pci_load(v, reg, 4);
        pci_store(v, reg, 4, UINT32_MAX);
        uint32_t sized = pci_load(v, reg, 4);
        base[n] = 0;
        if (!sized)
            continue;
        if (old & PCI_BAR_IO) {
            pci_store(v, reg, 4, 0xc000 + 0x100 * v->pci->devfn);
            continue;
        }
        uint64_t size = (uint32_t)~(sized & ~15u) + 1ull;
        v->vm->next_bar = ALIGN_UP(v->vm->next_bar, size);
        base[n] = v->vm->next_bar;
        v->vm->next_bar += size;
        pci_store(v, reg, 4, base[n]);
        if (old & PCI_BAR_MEM64) {
            pci_store(v, reg + 4, 4, 0);
            n++;
        }
    }
    pci_store(v, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_IO | PCI_COMMAND_MASTER);
}

static void find_capabilities(TestVirtio *v, const uint64_t base[6])
{
    for (unsigned at = pci_load(v, PCI_CAPABILITY_LIST, 1); at;
         at = pci_load(v, at + PCI_CAP_LIST_NEXT, 1)) {
        unsigned id = pci_load(v, at, 1);
        if (id == PCI_CAP_ID_MSIX) {
            uint32_t table = pci_load(v, at + PCI_MSIX_TABLE, 4),
                     pba = pci_load(v, at + PCI_MSIX_PBA, 4);
            v->msix_table = base[table & 7] + (table & ~7u);
            v->pba = base[pba & 7] + (pba & ~7u);
            pci_store(v, at + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
        }
        if (id != PCI_CAP_ID_VNDR)
            continue;
        uint64_t addr = base[pci_load(v, at + VIRTIO_PCI_CAP_BAR, 1) % 6] +
                        pci_load(v, at + VIRTIO_PCI_CAP_OFFSET, 4);
        switch (pci_load(v, at + VIRTIO_PCI_CAP_CFG_TYPE, 1)) {
        case VIRTIO_PCI_CAP_COMMON_CFG: v->common = addr; break;
        case VIRTIO_PCI_CAP_ISR_CFG: v->isr = addr; break;
        case VIRTIO_PCI_CAP_DEVICE_CFG: v->config = addr; break;
        case VIRTIO_PCI_CAP_NOTIFY_CFG:
            v->notify = addr;
            v->notify_multiplier = pci_load(v, at + VIRTIO_PCI_NOTIFY_CAP_MULT, 4);
            break;
        }
    }
}

TestVirtio *test_virtio_new(TestVm *vm, PciDevice *pci)
{
    TestVirtio *v = g_new0(TestVirtio, 1);
    uint64_t base[6];

    v->vm = vm;
    v->pci = pci;
    map_bars(v, base);
    find_capabilities(v, base);
    ck_assert(v->common && v->notify && v->isr && v->config);
    return v;
}

void test_virtio_free(TestVirtio *v)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(v->queues); i++) {
        if (v->queues[i])
            g_free(v->queues[i]->chain_len);
        g_free(v->queues[i]);
    }
    g_free(v);
}

uint64_t common_load(TestVirtio *v, unsigned offset, unsigned size)
{
    return guest_load(v->vm, v->common + offset, size);
}

void common_store(TestVirtio *v, unsigned offset, unsigned size, uint64_t value)
{
    guest_store(v->vm, v->common + offset, size, value);
}

uint8_t test_status(TestVirtio *v)
{
    return common_load(v, VIRTIO_PCI_COMMON_STATUS, 1);
}

void test_msix_mask(TestVirtio *v, unsigned vector, bool mask)
{
    guest_store(v->vm, v->msix_table + 16 * vector + 12, 4, mask);
}

static void negotiate(TestVirtio *v, uint64_t wanted)
{
    v->offered = 0;
    for (unsigned i = 0; i < 2; i++) {
        common_store(v, VIRTIO_PCI_COMMON_DFSELECT, 4, i);
        v->offered |= common_load(v, VIRTIO_PCI_COMMON_DF, 4) << (32 * i);
    }
    v->features = v->offered & (wanted | 1ull << VIRTIO_F_VERSION_1);
    for (unsigned i = 0; i < 2; i++) {
        common_store(v, VIRTIO_PCI_COMMON_GFSELECT, 4, i);
        common_store(v, VIRTIO_PCI_COMMON_GF, 4, (uint32_t)(v->features >> (32 * i)));
    }
}

void test_virtio_start(TestVirtio *v, uint64_t wanted, unsigned queues, unsigned size)
{
    common_store(v, VIRTIO_PCI_COMMON_STATUS, 1, 0);
    ck_assert_uint_eq(test_status(v), 0);
    common_store(v, VIRTIO_PCI_COMMON_STATUS, 1, 1);
    common_store(v, VIRTIO_PCI_COMMON_STATUS, 1, 3);
    negotiate(v, wanted);
    common_store(v, VIRTIO_PCI_COMMON_STATUS, 1, 3 | 8);
    ck_assert_uint_eq(test_status(v), 3 | 8);
    common_store(v, VIRTIO_PCI_COMMON_MSIX, 2, 0);
    v->num_queues = common_load(v, VIRTIO_PCI_COMMON_NUMQ, 2);
    for (unsigned i = 0; v->msix_table && i <= queues; i++) {
        guest_store(v->vm, v->msix_table + 16 * i, 8, 0xfee00000);
        guest_store(v->vm, v->msix_table + 16 * i + 8, 4, TEST_MSI_BASE + i);
        test_msix_mask(v, i, false);
    }
    for (unsigned i = 0; i < queues; i++)
        test_queue_setup(v, i, size);
    common_store(v, VIRTIO_PCI_COMMON_STATUS, 1, 3 | 8 | 4);
}

/* ---- Rings ---- */

TestQueue *test_queue_setup(TestVirtio *v, unsigned index, unsigned size)
{
    TestQueue *q = v->queues[index];

    if (q) {
        g_free(q->chain_len);
        g_free(q);
    }
    q = v->queues[index] = g_new0(TestQueue, 1);
    q->v = v;
    q->index = index;
    q->packed = v->features >> VIRTIO_F_RING_PACKED & 1;
    q->event_idx = v->features >> VIRTIO_F_EVENT_IDX & 1;
    q->avail_wrap = q->used_wrap = true;
    common_store(v, VIRTIO_PCI_COMMON_Q_SELECT, 2, index);
    if (size)
        common_store(v, VIRTIO_PCI_COMMON_Q_SIZE, 2, size);
    q->size = common_load(v, VIRTIO_PCI_COMMON_Q_SIZE, 2);
    q->chain_len = g_new0(uint16_t, q->size);
    q->desc = guest_alloc(v->vm, 16 * q->size);
    q->driver = guest_alloc(v->vm, 6 + 2 * q->size);
    q->device = guest_alloc(v->vm, 6 + 8 * q->size);
    if (v->msix_table) {
        common_store(v, VIRTIO_PCI_COMMON_Q_MSIX, 2, index + 1);
        ck_assert_uint_eq(common_load(v, VIRTIO_PCI_COMMON_Q_MSIX, 2), index + 1);
    }
    common_store(v, VIRTIO_PCI_COMMON_Q_DESCLO, 4, q->desc);
    common_store(v, VIRTIO_PCI_COMMON_Q_DESCHI, 4, 0);
    common_store(v, VIRTIO_PCI_COMMON_Q_AVAILLO, 4, q->driver);
    common_store(v, VIRTIO_PCI_COMMON_Q_AVAILHI, 4, 0);
    common_store(v, VIRTIO_PCI_COMMON_Q_USEDLO, 4, q->device);
    common_store(v, VIRTIO_PCI_COMMON_Q_USEDHI, 4, 0);
    common_store(v, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
    return q;
}

static uint8_t *ring(TestQueue *q, uint64_t gpa)
{
    return guest_ptr(q->v->vm, gpa);
}

static void put_desc(uint8_t *d, uint64_t addr, uint32_t len, uint16_t w12, uint16_t w14)
{
    st_le64(d, addr);
    st_le32(d + 8, len);
    st_le16(d + 12, w12);
    st_le16(d + 14, w14);
}

static uint64_t indirect_table(TestQueue *q, const TestBuffer *b, unsigned n)
{
    uint64_t table = guest_alloc(q->v->vm, 16 * n);
    uint8_t *t = ring(q, table);

    for (unsigned i = 0; i < n; i++) {
        uint16_t flags = b[i].write ? VRING_DESC_F_WRITE : 0;
        if (q->packed)
            put_desc(t + 16 * i, b[i].gpa, b[i].len, 0, flags);
        else
            put_desc(t + 16 * i, b[i].gpa, b[i].len,
                     flags | (i + 1 < n ? VRING_DESC_F_NEXT : 0), i + 1);
    }
    return table;
}

static uint16_t add_split(TestQueue *q, const TestBuffer *b, unsigned n, uint16_t extra)
{
    uint16_t head = q->next_desc;
    uint8_t *avail = ring(q, q->driver);

    for (unsigned i = 0; i < n; i++) {
        uint16_t next = (q->next_desc + 1) % q->size;
        uint16_t flags =
            (b[i].write ? VRING_DESC_F_WRITE : 0) | (i + 1 < n ? VRING_DESC_F_NEXT : 0);
        put_desc(ring(q, q->desc) + 16 * q->next_desc, b[i].gpa, b[i].len, flags | extra, next);
        q->next_desc = next;
    }
    st_le16(avail + 4 + 2 * (q->avail % q->size), head);
    q->avail++;
    __atomic_store_n((uint16_t *)(avail + 2), q->avail, __ATOMIC_SEQ_CST);
    return head;
}

static uint16_t add_packed(TestQueue *q, const TestBuffer *b, unsigned n, uint16_t extra)
{
    uint16_t id = 0;
    uint8_t *first = ring(q, q->desc) + 16 * q->avail;
    uint16_t first_flags = 0;

    while (id < q->size - 1 && q->chain_len[id])
        id++;
    for (unsigned i = 0; i < n; i++) {
        uint16_t flags =
            (b[i].write ? VRING_DESC_F_WRITE : 0) | (i + 1 < n ? VRING_DESC_F_NEXT : 0) | extra |
            1u << (q->avail_wrap ? VRING_PACKED_DESC_F_AVAIL : VRING_PACKED_DESC_F_USED);
        uint8_t *d = ring(q, q->desc) + 16 * q->avail;
        put_desc(d, b[i].gpa, b[i].len, id, i ? flags : ld_le16(d + 14));
        if (!i)
            first_flags = flags;
        if (++q->avail == q->size) {
            q->avail = 0;
            q->avail_wrap = !q->avail_wrap;
        }
    }
    __atomic_store_n((uint16_t *)(first + 14), first_flags, __ATOMIC_SEQ_CST);
    q->chain_len[id] = n;
    return id;
}

uint16_t test_queue_add(TestQueue *q, const TestBuffer *b, unsigned n, bool indirect)
{
    TestBuffer one = { 0, 16 * n, false };

    if (indirect) {
        one.gpa = indirect_table(q, b, n);
        b = &one;
        n = 1;
    }
    uint16_t extra = indirect ? VRING_DESC_F_INDIRECT : 0;
    return q->packed ? add_packed(q, b, n, extra) : add_split(q, b, n, extra);
}

/* Both sides touch these at any time. */
static uint16_t shared16(const uint8_t *p)
{
    return __atomic_load_n((const uint16_t *)p, __ATOMIC_SEQ_CST);
}

static void set_shared16(uint8_t *p, uint16_t value)
{
    __atomic_store_n((uint16_t *)p, value, __ATOMIC_SEQ_CST);
}

static bool wants_kick(TestQueue *q)
{
    const uint8_t *device = ring(q, q->device);

    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (q->packed) {
        unsigned flags = shared16(device + 2) & 3;
        if (flags != VRING_PACKED_EVENT_FLAG_DESC)
            return flags == VRING_PACKED_EVENT_FLAG_ENABLE;
        uint16_t off = shared16(device) & 0x7fff, wrap = shared16(device) >> 15, now = q->avail;
        uint16_t old = q->kicked_at;
        if (wrap != q->avail_wrap)
            off -= q->size;
        if (old > now)
            old -= q->size;
        return (uint16_t)(now - off - 1) < (uint16_t)(now - old);
    }
    if (!q->event_idx)
        return !(shared16(device) & VRING_USED_F_NO_NOTIFY);
    uint16_t event = shared16(device + 4 + 8 * q->size);
    return (uint16_t)(q->avail - event - 1) < (uint16_t)(q->avail - q->kicked_at);
}

void test_queue_kick(TestQueue *q, bool force)
{
    if (force || wants_kick(q)) {
        q->kicks++;
        guest_store(q->v->vm, q->v->notify + q->index * q->v->notify_multiplier, 2, q->index);
    }
    q->kicked_at = q->avail;
}

bool test_queue_poll(TestQueue *q, uint16_t *id, uint32_t *len)
{
    const uint8_t *element;

    if (q->packed) {
        element = ring(q, q->desc) + 16 * q->used;
        uint16_t flags = __atomic_load_n((const uint16_t *)(element + 14), __ATOMIC_SEQ_CST);
        bool avail = flags >> VRING_PACKED_DESC_F_AVAIL & 1;
        bool used = flags >> VRING_PACKED_DESC_F_USED & 1;
        if (avail != used || used != q->used_wrap)
            return false;
        *id = ld_le16(element + 12);
        *len = ld_le32(element + 8);
        if (*id >= q->size)
            return true;                    /* only where a test writes noise into the ring */
        q->used += q->chain_len[*id];
        q->chain_len[*id] = 0;
        if (q->used >= q->size) {
            q->used -= q->size;
            q->used_wrap = !q->used_wrap;
        }
        return true;
    }
    const uint8_t *device = ring(q, q->device);
    if (__atomic_load_n((const uint16_t *)(device + 2), __ATOMIC_SEQ_CST) == q->used)
        return false;
    element = device + 4 + 8 * (q->used % q->size);
    *id = ld_le32(element);
    *len = ld_le32(element + 4);
    q->used++;
    if (q->event_idx)
        set_shared16(ring(q, q->driver) + 4 + 2 * q->size, q->used);
    return true;
}

void test_queue_set_used_event(TestQueue *q, unsigned n)
{
    uint8_t *driver = ring(q, q->driver);

    if (q->packed) {
        unsigned at = q->used + n;
        bool wrap = q->used_wrap;
        if (at >= q->size) {
            at -= q->size;
            wrap = !wrap;
        }
        set_shared16(driver, at | wrap << 15);
        set_shared16(driver + 2, VRING_PACKED_EVENT_FLAG_DESC);
    } else {
        set_shared16(driver + 4 + 2 * q->size, q->used + n);
    }
}

typedef struct Answer {
    TestQueue *q;
    uint16_t id;
    uint32_t len;
} Answer;

static bool answered(void *opaque)
{
    Answer *a = opaque;
    return test_queue_poll(a->q, &a->id, &a->len);
}

uint32_t test_queue_do(TestQueue *q, const TestBuffer *b, unsigned n, bool indirect)
{
    Answer a = { .q = q };
    uint16_t id = test_queue_add(q, b, n, indirect);

    test_queue_kick(q, false);
    ck_assert(test_wait(q->v->vm, answered, &a));
    ck_assert_uint_eq(a.id, id);
    return a.len;
}

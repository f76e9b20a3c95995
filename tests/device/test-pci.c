/* PCI: addresses, BARs behind bridges, capabilities, what query-pci says. */
#include "hw/virtio/virtio-pci.h"
#include "virtio-driver.h"

static uint32_t cfg(TestVm *vm, unsigned bus, unsigned devfn, unsigned offset, unsigned size)
{
    return pci_bus_config_read(vm->bus, bus, devfn, offset, size);
}

static void set(TestVm *vm, unsigned bus, unsigned devfn, unsigned offset, unsigned size,
                uint32_t v)
{
    pci_bus_config_write(vm->bus, bus, devfn, offset, v, size);
}

START_TEST(addresses)
{
    TestVm *vm = test_vm_new();

    ck_assert_int_eq(test_device(vm, "virtio-rng-pci")->devfn, PCI_DEVFN(0, 0));
    ck_assert_int_eq(test_device(vm, "virtio-rng-pci,addr=0x2.0x1")->devfn, PCI_DEVFN(2, 1));
    ck_assert_int_eq(test_device(vm, "virtio-rng-pci,addr=1f")->devfn, PCI_DEVFN(31, 0));
    ck_assert_int_eq(test_device(vm, "virtio-rng-pci")->devfn, PCI_DEVFN(1, 0));
    /* Slot 2 has function 1 only: it is not free for an automatic address. */
    ck_assert_int_eq(test_device(vm, "virtio-rng-pci")->devfn, PCI_DEVFN(3, 0));
    static const char *const bad[] = { "addr=20", "addr=1.8", "addr=x",
                                       "addr=1.", "addr=",    "addr=1.1.1" };
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *options = g_strconcat("virtio-rng-pci,", bad[i], NULL);
        g_autofree char *error = test_device_error(vm, options);
        ck_assert_msg(strstr(error, "addr"), "%s: %s", bad[i], error);
    }
    ck_assert_uint_eq(cfg(vm, 0, PCI_DEVFN(4, 0), PCI_VENDOR_ID, 4), UINT32_MAX);
    ck_assert_uint_eq(cfg(vm, 3, PCI_DEVFN(0, 0), PCI_VENDOR_ID, 2), 0xffff);
    test_vm_free(vm);
}
END_TEST

START_TEST(functions_of_a_slot)
{
    TestVm *vm = test_vm_new();

    test_device(vm, "virtio-rng-pci,addr=2.0,id=single");
    g_autofree char *one = test_device_error(vm, "virtio-rng-pci,addr=2.1");
    ck_assert_msg(strstr(one, "'single'"), "%s", one);
    test_device(vm, "virtio-rng-pci,addr=3.1,id=first");
    g_autofree char *two = test_device_error(vm, "virtio-rng-pci,addr=3.0");
    ck_assert_msg(strstr(two, "'first'"), "%s", two);
    test_device(vm, "virtio-rng-pci,addr=3.0,multifunction=on");
    test_device(vm, "virtio-rng-pci,addr=3.7");
    ck_assert_uint_eq(cfg(vm, 0, PCI_DEVFN(3, 0), PCI_HEADER_TYPE, 1), 0x80);
    ck_assert_uint_eq(cfg(vm, 0, PCI_DEVFN(2, 0), PCI_HEADER_TYPE, 1), 0);
    test_vm_free(vm);
}
END_TEST

START_TEST(identity_and_fixed_bits)
{
    TestVm *vm = test_vm_new();
    PciDevice *dev = test_device(vm, "virtio-rng-pci,addr=4");
    unsigned devfn = dev->devfn;

    ck_assert_uint_eq(cfg(vm, 0, devfn, PCI_VENDOR_ID, 4), 0x10441af4);
    ck_assert_uint_eq(cfg(vm, 0, devfn, PCI_REVISION_ID, 1), 1);
    ck_assert_uint_eq(cfg(vm, 0, devfn, PCI_SUBSYSTEM_VENDOR_ID, 4), 0x11001af4);
    for (unsigned offset = 0; offset < 0x10; offset += 4)
        set(vm, 0, devfn, offset, 4, offset == PCI_COMMAND ? 0 : UINT32_MAX);
    ck_assert_uint_eq(cfg(vm, 0, devfn, PCI_VENDOR_ID, 4), 0x10441af4);
    ck_assert_uint_eq(cfg(vm, 0, devfn, PCI_HEADER_TYPE, 1), 0);
    set(vm, 0, devfn, PCI_INTERRUPT_LINE, 2, 0xff0b);
    ck_assert_uint_eq(cfg(vm, 0, devfn, PCI_INTERRUPT_LINE, 2), 0x010b);
    machine_reset(vm->m);
    ck_assert_uint_eq(cfg(vm, 0, devfn, PCI_INTERRUPT_LINE, 2), 0x0100);
    test_vm_free(vm);
}
END_TEST

START_TEST(bars_follow_the_registers)
{
    TestVm *vm = test_vm_new();
    PciDevice *dev = test_device(vm, "virtio-rng-pci,addr=4");
    unsigned devfn = dev->devfn, bar4 = PCI_BASE_ADDRESS_4;
    uint64_t value;

    ck_assert_uint_eq(cfg(vm, 0, devfn, bar4, 4), PCI_BAR_MEM64 | PCI_BAR_PREFETCH);
    set(vm, 0, devfn, bar4, 4, UINT32_MAX);
    set(vm, 0, devfn, bar4 + 4, 4, UINT32_MAX);
    ck_assert_uint_eq(cfg(vm, 0, devfn, bar4, 4), 0xffffc00c);
    ck_assert_uint_eq(cfg(vm, 0, devfn, bar4 + 4, 4), UINT32_MAX);
    set(vm, 0, devfn, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    ck_assert_uint_eq(pci_bar_address(dev, 4), UINT64_MAX);   /* sized, not placed */
    set(vm, 0, devfn, bar4, 4, 0xc0000000);
    set(vm, 0, devfn, bar4 + 4, 4, 0x80);
    ck_assert_uint_eq(pci_bar_address(dev, 4), 0x80c0000000);
    ck_assert_uint_eq(guest_load(vm, 0x80c0000000 + VIRTIO_PCI_COMMON_NUMQ, 2), 1);
    set(vm, 0, devfn, bar4 + 4, 4, 0);
    ck_assert_uint_eq(guest_load(vm, 0xc0000000 + VIRTIO_PCI_COMMON_NUMQ, 2), 1);
    ck_assert_int_eq(address_space_load(vm->m->memory, 0x80c0000000, 2, &value), MEM_UNMAPPED);
    set(vm, 0, devfn, PCI_COMMAND, 2, 0);
    ck_assert_int_eq(address_space_load(vm->m->memory, 0xc0000000, 2, &value), MEM_UNMAPPED);
    /* A BAR on top of RAM does not hide it. */
    set(vm, 0, devfn, bar4, 4, 0x100000);
    set(vm, 0, devfn, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    guest_store(vm, 0x100000, 4, 0x12345678);
    ck_assert_uint_eq(ld_le32(guest_ptr(vm, 0x100000)), 0x12345678);
    test_vm_free(vm);
}
END_TEST

/* 4.1.4.9: the whole device through config space. */
START_TEST(configuration_access_capability)
{
    TestVm *vm = test_vm_new();
    PciDevice *dev = test_device(vm, "virtio-rng-pci,addr=4");
    unsigned devfn = dev->devfn, cap = cfg(vm, 0, devfn, PCI_CAPABILITY_LIST, 1);

    while (cap && !(cfg(vm, 0, devfn, cap, 1) == PCI_CAP_ID_VNDR &&
                    cfg(vm, 0, devfn, cap + VIRTIO_PCI_CAP_CFG_TYPE, 1) == VIRTIO_PCI_CAP_PCI_CFG))
        cap = cfg(vm, 0, devfn, cap + 1, 1);
    ck_assert_uint_ne(cap, 0);
    set(vm, 0, devfn, cap + VIRTIO_PCI_CAP_BAR, 1, 4);
    set(vm, 0, devfn, cap + VIRTIO_PCI_CAP_LENGTH, 4, 1);
    set(vm, 0, devfn, cap + VIRTIO_PCI_CAP_OFFSET, 4, VIRTIO_PCI_COMMON_STATUS);
    set(vm, 0, devfn, cap + 16, 1, 3);
    ck_assert_uint_eq(cfg(vm, 0, devfn, cap + 16, 1), 3);
    set(vm, 0, devfn, cap + VIRTIO_PCI_CAP_LENGTH, 4, 2);
    set(vm, 0, devfn, cap + VIRTIO_PCI_CAP_OFFSET, 4, VIRTIO_PCI_COMMON_NUMQ);
    ck_assert_uint_eq(cfg(vm, 0, devfn, cap + 16, 2), 1);
    /* Nonsense is ignored. */
    set(vm, 0, devfn, cap + VIRTIO_PCI_CAP_LENGTH, 4, 3);
    set(vm, 0, devfn, cap + VIRTIO_PCI_CAP_OFFSET, 4, UINT32_MAX);
    set(vm, 0, devfn, cap + 16, 4, UINT32_MAX);
    cfg(vm, 0, devfn, cap + 16, 4);
    test_vm_free(vm);
}
END_TEST

/* As libvirt lays out a q35: ports in the functions of one slot, a device behind one of them. */
START_TEST(root_ports)
{
    TestVm *vm = test_vm_new();
    const unsigned port = PCI_DEVFN(2, 1);

    test_device(vm, "{\"driver\":\"pcie-root-port\",\"port\":16,\"chassis\":1,\"id\":\"pci.1\","
                    "\"bus\":\"pcie.0\",\"multifunction\":true,\"addr\":\"0x2\"}");
    test_device(vm, "{\"driver\":\"pcie-root-port\",\"port\":17,\"chassis\":2,\"id\":\"pci.2\","
                    "\"bus\":\"pcie.0\",\"addr\":\"0x2.0x1\"}");
    PciDevice *rng = test_device(vm, "virtio-rng-pci,bus=pci.2,addr=0x0,id=rng0,vectors=0");
    g_autofree char *slot = test_device_error(vm, "virtio-rng-pci,bus=pci.1,addr=1");
    ck_assert_msg(strstr(slot, "pci.1"), "%s", slot);
    g_autofree char *full = test_device_error(vm, "virtio-rng-pci,bus=pci.2");
    ck_assert_msg(strstr(full, "pci.2"), "%s", full);

    ck_assert_uint_eq(cfg(vm, 0, port, PCI_HEADER_TYPE, 1), PCI_HEADER_TYPE_BRIDGE);
    ck_assert_uint_eq(cfg(vm, 1, 0, PCI_VENDOR_ID, 2), 0xffff);
    set(vm, 0, port, PCI_SECONDARY_BUS, 1, 5);
    set(vm, 0, port, PCI_SUBORDINATE_BUS, 1, 5);
    ck_assert_uint_eq(cfg(vm, 5, 0, PCI_VENDOR_ID, 4), 0x10441af4);
    ck_assert_uint_eq(cfg(vm, 5, 8, PCI_VENDOR_ID, 2), 0xffff);

    /* The BAR is reached only while the port's window covers it. */
    uint64_t value;
    set(vm, 5, 0, PCI_BASE_ADDRESS_4, 4, 0xc0100000);
    set(vm, 5, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    ck_assert_int_eq(address_space_load(vm->m->memory, 0xc0100012, 2, &value), MEM_UNMAPPED);
    set(vm, 0, port, PCI_MEMORY_BASE, 4, 0xc010c010);
    ck_assert_int_eq(address_space_load(vm->m->memory, 0xc0100012, 2, &value), MEM_UNMAPPED);
    set(vm, 0, port, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    ck_assert_uint_eq(guest_load(vm, 0xc0100012, 2), 1);
    set(vm, 0, port, PCI_MEMORY_BASE, 4, 0xc020c020);
    ck_assert_int_eq(address_space_load(vm->m->memory, 0xc0100012, 2, &value), MEM_UNMAPPED);
    set(vm, 0, port, PCI_PREF_MEMORY_BASE, 4, 0xc010c010);
    ck_assert_uint_eq(guest_load(vm, 0xc0100012, 2), 1);

    /* So is memory, by the device. */
    ck_assert(!pci_bus_master(rng));
    set(vm, 0, port, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    ck_assert(pci_bus_master(rng));

    /* INTA of slot 0 behind function 1 of slot 2 is that function's INTA. */
    pci_set_intx(rng, true);
    ck_assert(vm->intx[2]);
    pci_set_intx(rng, false);
    ck_assert(!vm->intx[2]);

    /* A secondary bus reset closes the device's BARs. */
    set(vm, 0, port, PCI_BRIDGE_CONTROL, 2, PCI_BRIDGE_CTL_BUS_RESET);
    ck_assert_uint_eq(cfg(vm, 5, 0, PCI_COMMAND, 2), 0);
    ck_assert_uint_eq(cfg(vm, 5, 0, PCI_BASE_ADDRESS_4, 4), PCI_BAR_MEM64 | PCI_BAR_PREFETCH);

    g_autoptr(json_object) info = pci_describe(vm->bus);
    const char *text = json_object_to_json_string(info);
    ck_assert_msg(strstr(text, "\"qdev_id\": \"rng0\""), "%s", text);
    ck_assert_msg(strstr(text, "\"secondary\": 5"), "%s", text);
    test_vm_free(vm);
}
END_TEST

START_TEST(state_of_ports_and_devices)
{
    TestVm *vm = test_vm_new();
    GError *error = NULL;

    PciDevice *port = test_device(vm, "pcie-root-port,id=p,addr=3");
    set(vm, 0, port->devfn, PCI_SECONDARY_BUS, 2, 0x0101);
    set(vm, 0, port->devfn, PCI_MEMORY_BASE, 4, 0xc010c010);
    set(vm, 0, port->devfn, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    test_device(vm, "virtio-rng-pci,bus=p");
    set(vm, 1, 0, PCI_BASE_ADDRESS_4, 4, 0xc0100000);
    set(vm, 1, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);

    g_autoptr(GByteArray) state = g_byte_array_new(), again = g_byte_array_new();
    tree_save_state(OBJECT(vm->m), state);
    machine_reset(vm->m);
    ck_assert_uint_eq(cfg(vm, 0, port->devfn, PCI_MEMORY_BASE, 4), 0);
    ck_assert_msg(tree_load_state(OBJECT(vm->m), state->data, state->len, &error), "%s",
                  error ? error->message : "");
    ck_assert_uint_eq(guest_load(vm, 0xc0100012, 2), 1);
    tree_save_state(OBJECT(vm->m), again);
    ck_assert_uint_eq(again->len, state->len);
    ck_assert_mem_eq(again->data, state->data, state->len);
    test_vm_free(vm);
}
END_TEST

/* A small generator: the same sequence everywhere. */
static uint32_t next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
    return *seed >> 33;
}

START_TEST(scribbled_registers)
{
    TestVm *vm = test_vm_new();
    uint64_t seed = _i;

    test_device(vm, "pcie-root-port,id=p,addr=3");
    test_device(vm, "virtio-rng-pci,bus=p");
    PciDevice *dev = test_device(vm, "virtio-rng-pci,addr=4");
    TestVirtio *v = test_virtio_new(vm, dev);
    test_virtio_start(v, ~0ull, 1, 0);
    for (unsigned i = 0; i < 20000; i++) {
        unsigned size = 1u << next_random(&seed) % 3;
        unsigned offset = next_random(&seed) % 0x140 & ~(size - 1);
        uint32_t value = next_random(&seed);
        switch (next_random(&seed) % 4) {
        case 0:
            set(vm, next_random(&seed) % 3, next_random(&seed) % 2 ? dev->devfn : PCI_DEVFN(3, 0),
                offset, size, value);
            break;
        case 1:
            guest_store(vm, v->common + offset % 64, size, value & 0xff);
            break;
        case 2:
            guest_store(vm, v->msix_table + offset, size < 4 ? 4 : size, value);
            break;
        default:
            cfg(vm, next_random(&seed) % 3, next_random(&seed), offset, size);
        }
        if (i % 64 == 0)
            test_settle(vm);
    }
    machine_reset(vm->m);
    test_virtio_free(v);
    v = test_virtio_new(vm, dev);
    test_virtio_start(v, ~0ull, 1, 0);
    ck_assert_uint_eq(test_status(v), 15);
    test_virtio_free(v);
    test_vm_free(vm);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, addresses);
    tcase_add_test(tc, functions_of_a_slot);
    tcase_add_test(tc, identity_and_fixed_bits);
    tcase_add_test(tc, bars_follow_the_registers);
    tcase_add_test(tc, configuration_access_capability);
    tcase_add_test(tc, root_ports);
    tcase_add_test(tc, state_of_ports_and_devices);
    tcase_add_loop_test(tc, scribbled_registers, 0, 8);
}

int main(void)
{
    return run_tests("pci", add_tests);
}

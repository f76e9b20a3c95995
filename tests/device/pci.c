/* PCI: addresses, BARs behind bridges, capabilities, what query-pci says. */
#include <linux/pci_regs.h>
#include "hw/virtio/virtio-pci.h"
#include "tests/device/virtio-driver.h"

static uint32_t cfg(TestMachine *m, unsigned bus, unsigned devfn, unsigned offset, unsigned size)
{
    return pci_bus_config_read(PCI_BUS(m->machine->main_bus), bus, devfn, offset, size);
}

static void set(TestMachine *m, unsigned bus, unsigned devfn, unsigned offset, unsigned size,
                uint32_t v)
{
    pci_bus_config_write(PCI_BUS(m->machine->main_bus), bus, devfn, offset, v, size);
}

DEVICE_TEST(addresses, BOARD)
{
    ck_assert_int_eq(add_device(m, "virtio-rng-pci")->devfn, PCI_DEVFN(0, 0));
    ck_assert_int_eq(add_device(m, "virtio-rng-pci,addr=0x2.0x1")->devfn, PCI_DEVFN(2, 1));
    ck_assert_int_eq(add_device(m, "virtio-rng-pci,addr=1f")->devfn, PCI_DEVFN(31, 0));
    ck_assert_int_eq(add_device(m, "virtio-rng-pci")->devfn, PCI_DEVFN(1, 0));
    /* Slot 2 has function 1 only: it is not free for an automatic address. */
    ck_assert_int_eq(add_device(m, "virtio-rng-pci")->devfn, PCI_DEVFN(3, 0));
    static const char *const bad[] = { "addr=20", "addr=1.8", "addr=x",
                                       "addr=1.", "addr=",    "addr=1.1.1" };
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *options = g_strconcat("virtio-rng-pci,", bad[i], NULL);
        g_autofree char *error = device_error(m, options);
        ck_assert_msg(strstr(error, "addr"), "%s: %s", bad[i], error);
    }
    ck_assert_uint_eq(cfg(m, 0, PCI_DEVFN(4, 0), PCI_VENDOR_ID, 4), UINT32_MAX);
    ck_assert_uint_eq(cfg(m, 3, PCI_DEVFN(0, 0), PCI_VENDOR_ID, 2), 0xffff);
}

DEVICE_TEST(functions_of_a_slot, BOARD)
{
    add_device(m, "virtio-rng-pci,addr=2.0,id=single");
    g_autofree char *one = device_error(m, "virtio-rng-pci,addr=2.1");
    ck_assert_msg(strstr(one, "'single'"), "%s", one);
    add_device(m, "virtio-rng-pci,addr=3.1,id=first");
    g_autofree char *two = device_error(m, "virtio-rng-pci,addr=3.0");
    ck_assert_msg(strstr(two, "'first'"), "%s", two);
    add_device(m, "virtio-rng-pci,addr=3.0,multifunction=on");
    add_device(m, "virtio-rng-pci,addr=3.7");
    ck_assert_uint_eq(cfg(m, 0, PCI_DEVFN(3, 0), PCI_HEADER_TYPE, 1), 0x80);
    ck_assert_uint_eq(cfg(m, 0, PCI_DEVFN(2, 0), PCI_HEADER_TYPE, 1), 0);
}

DEVICE_TEST(identity_and_fixed_bits, BOARD)
{
    PciDevice *dev = add_device(m, "virtio-rng-pci,addr=4");
    unsigned devfn = dev->devfn;

    ck_assert_uint_eq(cfg(m, 0, devfn, PCI_VENDOR_ID, 4), 0x10441af4);
    ck_assert_uint_eq(cfg(m, 0, devfn, PCI_REVISION_ID, 1), 1);
    ck_assert_uint_eq(cfg(m, 0, devfn, PCI_SUBSYSTEM_VENDOR_ID, 4), 0x11001af4);
    for (unsigned offset = 0; offset < 0x10; offset += 4)
        set(m, 0, devfn, offset, 4, offset == PCI_COMMAND ? 0 : UINT32_MAX);
    ck_assert_uint_eq(cfg(m, 0, devfn, PCI_VENDOR_ID, 4), 0x10441af4);
    ck_assert_uint_eq(cfg(m, 0, devfn, PCI_HEADER_TYPE, 1), 0);
    set(m, 0, devfn, PCI_INTERRUPT_LINE, 2, 0xff0b);
    ck_assert_uint_eq(cfg(m, 0, devfn, PCI_INTERRUPT_LINE, 2), 0x010b);
    reset_machine(m);
    ck_assert_uint_eq(cfg(m, 0, devfn, PCI_INTERRUPT_LINE, 2), 0x0100);
}

DEVICE_TEST(bars_follow_the_registers, BOARD)
{
    PciDevice *dev = add_device(m, "virtio-rng-pci,addr=4");
    unsigned devfn = dev->devfn, bar4 = PCI_BASE_ADDRESS_4;
    uint64_t value;

    ck_assert_uint_eq(cfg(m, 0, devfn, bar4, 4), PCI_BAR_MEM64 | PCI_BAR_PREFETCH);
    set(m, 0, devfn, bar4, 4, UINT32_MAX);
    set(m, 0, devfn, bar4 + 4, 4, UINT32_MAX);
    ck_assert_uint_eq(cfg(m, 0, devfn, bar4, 4), 0xffffc00c);
    ck_assert_uint_eq(cfg(m, 0, devfn, bar4 + 4, 4), UINT32_MAX);
    set(m, 0, devfn, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    ck_assert_uint_eq(pci_bar_address(dev, 4), UINT64_MAX);   /* sized, not placed */
    set(m, 0, devfn, bar4, 4, 0xc0000000);
    set(m, 0, devfn, bar4 + 4, 4, 0x80);
    ck_assert_uint_eq(pci_bar_address(dev, 4), 0x80c0000000);
    ck_assert_uint_eq(mem_read(m, 0x80c0000000 + VIRTIO_PCI_COMMON_NUMQ, 2), 1);
    set(m, 0, devfn, bar4 + 4, 4, 0);
    ck_assert_uint_eq(mem_read(m, 0xc0000000 + VIRTIO_PCI_COMMON_NUMQ, 2), 1);
    ck_assert_int_eq(address_space_load(m->machine->memory, 0x80c0000000, 2, &value), MEM_UNMAPPED);
    set(m, 0, devfn, PCI_COMMAND, 2, 0);
    ck_assert_int_eq(address_space_load(m->machine->memory, 0xc0000000, 2, &value), MEM_UNMAPPED);
    /* A BAR on top of RAM does not hide it. */
    set(m, 0, devfn, bar4, 4, 0x100000);
    set(m, 0, devfn, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    mem_write(m, 0x100000, 4, 0x12345678);
    ck_assert_uint_eq(ld_le32(guest_ptr(m, 0x100000)), 0x12345678);
}

/* 4.1.4.9: the whole device through config space. */
DEVICE_TEST(configuration_access_capability, BOARD)
{
    PciDevice *dev = add_device(m, "virtio-rng-pci,addr=4");
    unsigned devfn = dev->devfn, cap = cfg(m, 0, devfn, PCI_CAPABILITY_LIST, 1);

    while (cap && !(cfg(m, 0, devfn, cap, 1) == PCI_CAP_ID_VNDR &&
                    cfg(m, 0, devfn, cap + VIRTIO_PCI_CAP_CFG_TYPE, 1) == VIRTIO_PCI_CAP_PCI_CFG))
        cap = cfg(m, 0, devfn, cap + 1, 1);
    ck_assert_uint_ne(cap, 0);
    set(m, 0, devfn, cap + VIRTIO_PCI_CAP_BAR, 1, 4);
    set(m, 0, devfn, cap + VIRTIO_PCI_CAP_LENGTH, 4, 1);
    set(m, 0, devfn, cap + VIRTIO_PCI_CAP_OFFSET, 4, VIRTIO_PCI_COMMON_STATUS);
    set(m, 0, devfn, cap + 16, 1, 3);
    ck_assert_uint_eq(cfg(m, 0, devfn, cap + 16, 1), 3);
    set(m, 0, devfn, cap + VIRTIO_PCI_CAP_LENGTH, 4, 2);
    set(m, 0, devfn, cap + VIRTIO_PCI_CAP_OFFSET, 4, VIRTIO_PCI_COMMON_NUMQ);
    ck_assert_uint_eq(cfg(m, 0, devfn, cap + 16, 2), 1);
    /* Nonsense is ignored. */
    set(m, 0, devfn, cap + VIRTIO_PCI_CAP_LENGTH, 4, 3);
    set(m, 0, devfn, cap + VIRTIO_PCI_CAP_OFFSET, 4, UINT32_MAX);
    set(m, 0, devfn, cap + 16, 4, UINT32_MAX);
    cfg(m, 0, devfn, cap + 16, 4);
}

/* As libvirt lays out a q35: ports in the functions of one slot, a device behind one of them. */
DEVICE_TEST(root_ports, BOARD)
{
    const unsigned port = PCI_DEVFN(2, 1);

    add_device(m, "{\"driver\":\"pcie-root-port\",\"port\":16,\"chassis\":1,\"id\":\"pci.1\","
                    "\"bus\":\"pcie.0\",\"multifunction\":true,\"addr\":\"0x2\"}");
    add_device(m, "{\"driver\":\"pcie-root-port\",\"port\":17,\"chassis\":2,\"id\":\"pci.2\","
                    "\"bus\":\"pcie.0\",\"addr\":\"0x2.0x1\"}");
    PciDevice *rng = add_device(m, "virtio-rng-pci,bus=pci.2,addr=0x0,id=rng0,vectors=0");
    g_autofree char *slot = device_error(m, "virtio-rng-pci,bus=pci.1,addr=1");
    ck_assert_msg(strstr(slot, "pci.1"), "%s", slot);
    g_autofree char *full = device_error(m, "virtio-rng-pci,bus=pci.2");
    ck_assert_msg(strstr(full, "pci.2"), "%s", full);

    ck_assert_uint_eq(cfg(m, 0, port, PCI_HEADER_TYPE, 1), PCI_HEADER_TYPE_BRIDGE);
    ck_assert_uint_eq(cfg(m, 1, 0, PCI_VENDOR_ID, 2), 0xffff);
    set(m, 0, port, PCI_SECONDARY_BUS, 1, 5);
    set(m, 0, port, PCI_SUBORDINATE_BUS, 1, 5);
    ck_assert_uint_eq(cfg(m, 5, 0, PCI_VENDOR_ID, 4), 0x10441af4);
    ck_assert_uint_eq(cfg(m, 5, 8, PCI_VENDOR_ID, 2), 0xffff);

    /* The BAR is reached only while the port's window covers it. */
    uint64_t value;
    set(m, 5, 0, PCI_BASE_ADDRESS_4, 4, 0xc0100000);
    set(m, 5, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    ck_assert_int_eq(address_space_load(m->machine->memory, 0xc0100012, 2, &value), MEM_UNMAPPED);
    set(m, 0, port, PCI_MEMORY_BASE, 4, 0xc010c010);
    ck_assert_int_eq(address_space_load(m->machine->memory, 0xc0100012, 2, &value), MEM_UNMAPPED);
    set(m, 0, port, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    ck_assert_uint_eq(mem_read(m, 0xc0100012, 2), 1);
    set(m, 0, port, PCI_MEMORY_BASE, 4, 0xc020c020);
    ck_assert_int_eq(address_space_load(m->machine->memory, 0xc0100012, 2, &value), MEM_UNMAPPED);
    set(m, 0, port, PCI_PREF_MEMORY_BASE, 4, 0xc010c010);
    ck_assert_uint_eq(mem_read(m, 0xc0100012, 2), 1);

    /* So is memory, by the device. */
    ck_assert(!pci_bus_master(rng));
    set(m, 0, port, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    ck_assert(pci_bus_master(rng));

    /* INTA of slot 0 behind function 1 of slot 2 is that function's INTA. */
    pci_set_intx(rng, true);
    ck_assert(gsi_level(m, 16 + 2));
    pci_set_intx(rng, false);
    ck_assert(!gsi_level(m, 16 + 2));

    /* A secondary bus reset closes the device's BARs. */
    set(m, 0, port, PCI_BRIDGE_CONTROL, 2, PCI_BRIDGE_CTL_BUS_RESET);
    ck_assert_uint_eq(cfg(m, 5, 0, PCI_COMMAND, 2), 0);
    ck_assert_uint_eq(cfg(m, 5, 0, PCI_BASE_ADDRESS_4, 4), PCI_BAR_MEM64 | PCI_BAR_PREFETCH);

    g_autoptr(json_object) info = pci_describe(PCI_BUS(m->machine->main_bus));
    const char *text = json_object_to_json_string(info);
    ck_assert_msg(strstr(text, "\"qdev_id\": \"rng0\""), "%s", text);
    ck_assert_msg(strstr(text, "\"secondary\": 5"), "%s", text);
}

DEVICE_TEST(ports_have_places_of_their_own, BOARD)
{
    add_device(m, "pcie-root-port,chassis=1,slot=2");
    g_autofree char *twice = device_error(m, "pcie-root-port,chassis=1,slot=2,id=second");
    ck_assert_msg(strstr(twice, "chassis 1 has a slot 2 already"), "%s", twice);
    add_device(m, "pcie-root-port,chassis=1,slot=3");
    add_device(m, "pcie-root-port");
    g_autofree char *unset = device_error(m, "pcie-root-port,id=third");
    ck_assert_msg(strstr(unset, "chassis 0 has a slot 0"), "%s", unset);
}

/* What the registers have before anybody writes to them (PCIe, 7.5.3.4 and 7.5.3.8). */
DEVICE_TEST(express_defaults, BOARD "-device pcie-root-port,id=fixed,chassis=1,hotplug=off "
                                    "-device virtio-rng-pci,bus=fixed,id=card")
{
    PciDevice *port = find_pci(m, "fixed"), *card = find_pci(m, "card");
    unsigned control = card->exp_cap + PCI_EXP_DEVCTL, status = port->exp_cap + PCI_EXP_LNKSTA;
    uint16_t value = PCI_EXP_DEVCTL_RELAX_EN | PCI_EXP_DEVCTL_NOSNOOP_EN | PCI_EXP_DEVCTL_READRQ_512B;

    ck_assert_uint_eq(pci_config_read(card, control, 2), value);
    pci_config_write(card, control, 0, 2);
    ck_assert_uint_eq(pci_config_read(card, control, 2), 0);
    reset_machine(m);
    ck_assert_uint_eq(pci_config_read(card, control, 2), value);
    /* Link active is for ports that report it. */
    ck_assert_uint_eq(pci_config_read(port, status, 2) & PCI_EXP_LNKSTA_DLLLA, 0);
}

DEVICE_TEST(state_of_ports_and_devices, BOARD)
{
    PciDevice *port = add_device(m, "pcie-root-port,id=p,addr=3");
    set(m, 0, port->devfn, PCI_SECONDARY_BUS, 2, 0x0101);
    set(m, 0, port->devfn, PCI_MEMORY_BASE, 4, 0xc010c010);
    set(m, 0, port->devfn, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    add_device(m, "virtio-rng-pci,bus=p");
    set(m, 1, 0, PCI_BASE_ADDRESS_4, 4, 0xc0100000);
    set(m, 1, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);

    g_autoptr(GByteArray) state = save_state(m);
    reset_machine(m);
    ck_assert_uint_eq(cfg(m, 0, port->devfn, PCI_MEMORY_BASE, 4), 0);
    load_exactly(OBJECT(m->machine), state);
    ck_assert_uint_eq(mem_read(m, 0xc0100012, 2), 1);
}

/* ---- MSI, by a device of the test's own ---- */

enum { MSI_VECTORS = 4, MSI_DATA = 0x40 };

static bool msi_realize(Object *obj, GError **error)
{
    return pci_msi_init(PCI_DEVICE(obj), MSI_VECTORS, error);
}

static const PciDeviceOps msi_ops = { .vendor_id = 0x1234, .device_id = 1, .class_code = 0xff0000 };
static const Type msi_type = {
    .name = "test-msi", .parent = "pci-device", .help = "a device with MSI",
    .size = sizeof(PciDevice), .realize = msi_realize, .ops = &msi_ops, .user_creatable = true,
};
TYPE_REGISTER(msi_type)

/* A vector that is masked waits, also through save and load, and comes when it is unmasked. */
DEVICE_TEST(msi_mask_and_pending, BOARD)
{
    PciDevice *dev = add_device(m, "test-msi,addr=4");
    uint8_t cap = pci_find_cap(dev, PCI_CAP_ID_MSI);

    pci_config_write(dev, cap + PCI_MSI_ADDRESS_LO, 0xfee00000, 4);
    pci_config_write(dev, cap + PCI_MSI_DATA_64, MSI_DATA, 2);
    pci_config_write(dev, cap + PCI_MSI_FLAGS, PCI_MSI_FLAGS_ENABLE | 2 << 4, 2);
    pci_config_write(dev, PCI_COMMAND, PCI_COMMAND_MASTER, 2);
    pci_msi_notify(dev, 3);
    ck_assert_uint_eq(msi_take(m, MSI_DATA + 3), 1);
    pci_config_write(dev, cap + PCI_MSI_MASK_64, 1 << 2, 4);
    pci_msi_notify(dev, 2);
    ck_assert_uint_eq(pci_config_read(dev, cap + PCI_MSI_PENDING_64, 4), 1 << 2);
    ck_assert_uint_eq(msi_take(m, MSI_DATA + 2), 0);
    g_autoptr(GByteArray) state = save_object(OBJECT(dev));
    reset_machine(m);
    ck_assert_uint_eq(pci_config_read(dev, cap + PCI_MSI_PENDING_64, 4), 0);
    load_exactly(OBJECT(dev), state);
    pci_config_write(dev, cap + PCI_MSI_MASK_64, 0, 4);
    ck_assert_uint_eq(msi_take(m, MSI_DATA + 2), 1);
    ck_assert_uint_eq(pci_config_read(dev, cap + PCI_MSI_PENDING_64, 4), 0);
}

/* A small generator: the same sequence everywhere. */
static uint32_t next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
    return *seed >> 33;
}

DEVICE_TEST(scribbled_registers, BOARD)
{
    uint64_t seed = _i;

    add_device(m, "pcie-root-port,id=p,addr=3");
    add_device(m, "virtio-rng-pci,bus=p");
    PciDevice *dev = add_device(m, "virtio-rng-pci,addr=4");
    TestVirtio *v = test_virtio_new(m, dev);
    test_virtio_start(v, ~0ull, 1, 0);
    for (unsigned i = 0; i < 20000; i++) {
        unsigned size = 1u << next_random(&seed) % 3;
        unsigned offset = next_random(&seed) % 0x140 & ~(size - 1);
        uint32_t value = next_random(&seed);
        switch (next_random(&seed) % 4) {
        case 0:
            set(m, next_random(&seed) % 3, next_random(&seed) % 2 ? dev->devfn : PCI_DEVFN(3, 0),
                offset, size, value);
            break;
        case 1:
            mem_write(m, v->common + offset % 64, size, value & 0xff);
            break;
        case 2:
            mem_write(m, v->msix_table + offset, size < 4 ? 4 : size, value);
            break;
        default:
            cfg(m, next_random(&seed) % 3, next_random(&seed), offset, size);
        }
        if (i % 64 == 0)
            settle(m);
    }
    reset_machine(m);
    test_virtio_find(v);
    test_virtio_start(v, ~0ull, 1, 0);
    ck_assert_uint_eq(test_status(v), 15);
    test_virtio_free(v);
}

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, addresses);
    tcase_add_test(tc, functions_of_a_slot);
    tcase_add_test(tc, identity_and_fixed_bits);
    tcase_add_test(tc, bars_follow_the_registers);
    tcase_add_test(tc, configuration_access_capability);
    tcase_add_test(tc, root_ports);
    tcase_add_test(tc, ports_have_places_of_their_own);
    tcase_add_test(tc, express_defaults);
    tcase_add_test(tc, state_of_ports_and_devices);
    tcase_add_test(tc, msi_mask_and_pending);
    tcase_add_loop_test(tc, scribbled_registers, 0, 8);
}

int main(void)
{
    return run_tests("pci", add_tests);
}

/* Devices, buses and machines as such: where devices go, what is refused, and how they leave. */
#include "src/base/options.h"
#include "tests/device/harness.h"

static const struct {
    const char *options, *text, *hint;
} refused[] = {
    { "-device pvpanik", "there is no device type 'pvpanik'", "did you mean 'pvpanic'?" },
    { "-device id=x", "parameter 'driver' is missing", NULL },
    { "-device mch", "device 'mch' is part of a machine", NULL },
    { "-device pvpanic,id=1x", "'1x' is not a valid id", "an id is a letter followed by" },
    { "-device pvpanic,ioporrt=1", "'pvpanic.ioporrt' not found", "did you mean 'ioport'?" },
    { "-device pvpanic,ioport=zero", "property 'ioport' of 'pvpanic': 'zero' is not a number", NULL },
    { "-device pvpanic,bus=pcie.0", "cannot go on a 'pcie-bus' bus such as 'pcie.0'", NULL },
    { "-device virtio-rng-pci,bus=pcie.1", "there is no bus 'pcie.1' for device 'virtio-rng-pci'",
      "did you mean 'pcie.0'?" },
    { "-device virtio-rng-pci,addr=3 -device virtio-rng-pci,addr=3", "is taken by", NULL },
    { "-device virtio-rng-pci,id=a -device virtio-rng-pci,id=a", "already a device with id 'a'",
      NULL },
    { "-device virtio-rng-pci,vectors=-1", "-1 is not between 0 and", NULL },
    { "-device virtio-rng-pci,rng=nobody", "there is no object 'nobody'", NULL },
    { "-machine none -device pvpanic", "this machine has no 'isa-bus' bus for device 'pvpanic'",
      NULL },
    { "-machine q36", "unsupported machine type 'q36'", "did you mean 'q35'?" },
    { "-global driver=pvpanic,property=ioport,value=zero -device pvpanic", "'zero' is not a number", NULL },
    { "-m 16M -object memory-backend-ram,id=r,size=8M -machine q35,memory-backend=r",
      "machine memory size (16777216) does not match the size of memory backend 'r' (8388608)", NULL },
};

START_TEST(refused_with_a_reason)
{
    GError *error = NULL;
    TestMachine *m = test_machine_try(refused[_i].options, &error);

    ck_assert_msg(!m, "%s was accepted", refused[_i].options);
    if (refused[_i].hint) {
        ck_assert_ptr_nonnull(error_get_hint(error));
        ck_assert_ptr_nonnull(strstr(error_get_hint(error), refused[_i].hint));
    }
    ck_error(error, refused[_i].text);
}
END_TEST

static char *path_of(Device *dev)
{
    return object_path(OBJECT(dev));
}

DEVICE_TEST(paths_are_qemus, "-device virtio-rng-pci,id=rng0 -device virtio-rng-pci "
                             "-device pvpanic")
{
    Machine *machine = test_machine(m);
    g_autofree char *named = path_of(find_device(m, "rng0"));
    Object *anon = object_resolve(OBJECT(machine), "/machine/peripheral-anon/device[0]");

    ck_assert_str_eq(named, "/machine/peripheral/rng0");
    ck_assert_ptr_nonnull(anon);
    ck_assert_str_eq(anon->type->name, "virtio-rng-pci");
    ck_assert_ptr_nonnull(object_resolve(anon, "/machine/peripheral-anon/device[1]"));
    ck_assert_ptr_nonnull(object_resolve(anon, "/machine/rtc"));
    ck_assert_ptr_eq(machine_of(anon), machine);
    ck_assert_ptr_eq(device_find(machine, named), find_device(m, "rng0"));
    ck_assert_ptr_null(device_find(machine, "/machine"));
    ck_assert_ptr_null(device_find(machine, "rng1"));
}

typedef struct Walk {
    unsigned objects, properties;
} Walk;

typedef struct PropertyRead {
    Object *obj;
    Walk *walk;
} PropertyRead;

static void read_property(const Property *prop, void *opaque)
{
    PropertyRead *read = opaque;
    GError *error = NULL;
    json_object *value = object_get(read->obj, prop->name, &error);

    ck_no_error(error);
    json_object_put(value);
    read->walk->properties++;
}

static bool read_properties(Object *obj, void *opaque)
{
    Walk *walk = opaque;

    walk->objects++;
    type_foreach_property(obj->type, read_property, &(PropertyRead){ obj, walk });
    return true;
}

DEVICE_TEST(every_property_can_be_read, "-device virtio-rng-pci -device pvpanic "
                                        "-blockdev null-co,node-name=d0 "
                                        "-device virtio-blk-pci,drive=d0")
{
    Walk walk = { 0 };
    g_autofree char *tree = device_describe_tree(test_machine(m));

    object_walk(test_root(m), read_properties, &walk);
    ck_assert_uint_gt(walk.objects, 15);
    ck_assert_uint_gt(walk.properties, 100);
    ck_assert_ptr_nonnull(strstr(tree, "bus: pcie.0"));
    ck_assert_ptr_nonnull(strstr(tree, "dev: virtio-blk-pci, id \"\""));
}

DEVICE_TEST(globals_come_before_own_properties,
            "-global driver=pvpanic,property=ioport,value=0x600 -device pvpanic,id=a "
            "-device pvpanic,id=b,ioport=0x700")
{
    g_autoptr(json_object) a = object_get(OBJECT(find_device(m, "a")), "ioport", NULL);
    g_autoptr(json_object) b = object_get(OBJECT(find_device(m, "b")), "ioport", NULL);

    ck_assert_int_eq(json_object_get_int(a), 0x600);
    ck_assert_int_eq(json_object_get_int(b), 0x700);
}

DEVICE_TEST(hotplug_is_the_buss_decision, "-device pvpanic,id=p")
{
    g_autoptr(json_object) options = options_parse("pvpanic,id=q", "driver", NULL);
    GError *error = NULL;

    ck_assert_ptr_null(device_create(test_machine(m), options, true, &error));
    ck_error(error, "takes devices only before the machine starts");
    ck_assert(!device_unplug(test_machine(m), "p", &error));
    ck_error(error, "cannot be unplugged from a running machine");
    ck_assert(!device_unplug(test_machine(m), "nobody", &error));
    ck_assert_int_eq(error_get_code(error), ERR_DEVICE_NOT_FOUND);
    g_clear_error(&error);
}

DEVICE_TEST(deleting_frees_the_place_and_tells, "-device virtio-rng-pci,id=r,addr=5")
{
    g_autoptr(json_object) options = options_parse("virtio-rng-pci,id=r,addr=5", "driver", NULL);
    GError *error = NULL;

    device_delete(find_device(m, "r"));
    expect_event(m, "DEVICE_DELETED", "{\"device\": \"r\", \"path\": \"/machine/peripheral/r\"}");
    ck_assert_ptr_null(device_find(test_machine(m), "r"));
    ck_assert_ptr_nonnull(device_create(test_machine(m), options, false, &error));
    ck_no_error(error);
}

static void count_runs(void *opaque, bool running)
{
    *(int *)opaque += running ? 1 : 100;
}

DEVICE_TEST(the_clock_stands_still_while_stopped, "-machine none")
{
    Machine *machine = test_machine(m);
    int64_t before = machine_clock_ns(machine), after;
    int runs = 0;

    ck_assert_int_eq(machine_clock_ns(machine), before);
    machine_add_run_hook(machine, count_runs, &runs);
    run(m);
    while (machine_clock_ns(machine) == before)
        continue;
    stop(m);
    after = machine_clock_ns(machine);
    ck_assert_int_gt(after, before);
    ck_assert_int_eq(machine_clock_ns(machine), after);
    ck_assert_int_eq(runs, 101);
    machine_del_run_hook(machine, count_runs, &runs);
    run(m);
    ck_assert_int_eq(runs, 101);
}

DEVICE_TEST(a_saved_clock_out_of_range_is_refused, "-machine none")
{
    static const int64_t clocks[] = { -1, INT64_MIN, INT64_MAX, MACHINE_CLOCK_MAX_NS + 1 };
    Machine *machine = test_machine(m);
    int64_t before = machine_clock_ns(machine);

    for (unsigned i = 0; i < G_N_ELEMENTS(clocks); i++) {
        g_autoptr(GByteArray) state = NULL;
        GError *error = NULL;

        machine->clock_ns = clocks[i];
        state = save_state(m);
        machine->clock_ns = before;
        ck_assert(!load_state(m, state, &error));
        ck_assert_ptr_nonnull(strstr(error->message, "clock_ns"));
        g_error_free(error);
    }
    run(m);
}

DEVICE_TEST(a_backend_of_ones_own_is_the_ram,
            "-m 8M -object memory-backend-memfd,id=r,size=8M -machine q35,memory-backend=r")
{
    GError *error = NULL;

    ck_assert_int_ge(ram_block_fd(test_machine(m)->ram), 0);
    mem_write(m, 0x1000, 4, 0x12345678);
    ck_assert_uint_eq(ld_le32((uint8_t *)ram_block_host(test_machine(m)->ram) + 0x1000), 0x12345678);
    ck_assert(!object_delete_user(test_root(m), "r", &error));
    ck_error(error, "object 'r' is in use");
}

START_TEST(two_machines_know_nothing_of_each_other)
{
    TestMachine *a = test_machine_new("-device pvpanic"), *b = test_machine_new("");

    io_write8(a, 0x505, 1);
    ck_assert(took_request(a, MACHINE_PANICKED));
    ck_assert(!took_request(b, MACHINE_PANICKED));
    ck_assert_uint_eq(io_read8(b, 0x505), 0xff);
    mem_write(a, 0x2000, 1, 0x55);
    ck_assert_uint_eq(mem_read(b, 0x2000, 1), 0);
    test_machine_free(a);
    io_write8(b, 0x70, 0x0f);
    test_machine_free(b);
}
END_TEST

static void add(TCase *tests)
{
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, refused_with_a_reason, 0, G_N_ELEMENTS(refused));
    tcase_add_test(tests, paths_are_qemus);
    tcase_add_test(tests, every_property_can_be_read);
    tcase_add_test(tests, globals_come_before_own_properties);
    tcase_add_test(tests, hotplug_is_the_buss_decision);
    tcase_add_test(tests, deleting_frees_the_place_and_tells);
    tcase_add_test(tests, the_clock_stands_still_while_stopped);
    tcase_add_test(tests, a_saved_clock_out_of_range_is_refused);
    tcase_add_test(tests, a_backend_of_ones_own_is_the_ram);
    tcase_add_test(tests, two_machines_know_nothing_of_each_other);
}

int main(void)
{
    return run_tests("core", add);
}

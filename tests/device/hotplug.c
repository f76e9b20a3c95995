/* Native PCI Express hot-plug: the test is the guest's slot driver, and the user at the monitor. */
#include <linux/pci_regs.h>
#include "src/base/options.h"
#include "tests/device/harness-int.h"

enum { BUS = 1, ALL_EVENTS = 0x1039, POWER_OFF = PCI_EXP_SLTCTL_PCC, PORT_DATA = 0x50 };
#define PORT "-device pcie-root-port,id=p,chassis=1 "

/* ---- the monitor ---- */

static bool try_add(TestMachine *m, const char *text, GError **error)
{
    g_autoptr(json_object) options = options_parse(text, "driver", error);

    return options && device_create(m->machine, options, true, error);
}

static void add(TestMachine *m, const char *text)
{
    GError *error = NULL;

    ck_assert_msg(try_add(m, text, &error), "%s", error ? error->message : "");
}

static void del(TestMachine *m, const char *id)
{
    GError *error = NULL;

    ck_assert_msg(device_unplug(m->machine, id, &error), "%s", error ? error->message : "");
}

static bool there(TestMachine *m, const char *id)
{
    return device_find(m->machine, id);
}

static bool hotpluggable(TestMachine *m, const char *id)
{
    g_autoptr(json_object) value = object_get(OBJECT(find_device(m, id)), "hotpluggable", NULL);

    return json_object_get_boolean(value);
}

/* ---- the guest ---- */

static uint16_t reg(TestMachine *m, unsigned offset)
{
    PciDevice *port = find_pci(m, "p");

    return pci_config_read(port, pci_find_cap(port, PCI_CAP_ID_EXP) + offset, 2);
}

static void write_reg(TestMachine *m, unsigned offset, uint16_t value)
{
    PciDevice *port = find_pci(m, "p");

    pci_config_write(port, pci_find_cap(port, PCI_CAP_ID_EXP) + offset, value, 2);
}

static uint16_t status(TestMachine *m)
{
    return reg(m, PCI_EXP_SLTSTA);
}

/* Takes all events; which there were. */
static uint16_t take_events(TestMachine *m)
{
    uint16_t events = status(m) & (PCI_EXP_SLTSTA_ABP | PCI_EXP_SLTSTA_PDC | PCI_EXP_SLTSTA_CC |
                                   PCI_EXP_SLTSTA_DLLSC);

    write_reg(m, PCI_EXP_SLTSTA, events);
    ck_assert_uint_eq(status(m) & events, 0);
    return events;
}

static bool link_is_up(TestMachine *m)
{
    return reg(m, PCI_EXP_LNKSTA) & PCI_EXP_LNKSTA_DLLLA;
}

/* What a config cycle finds behind the port. */
static uint32_t id_behind(TestMachine *m, unsigned fn)
{
    return pci_bus_config_read(PCI_BUS(m->machine->main_bus), BUS, PCI_DEVFN(0, fn), 0, 4);
}

static PciDevice *set_up_port(TestMachine *m)
{
    PciDevice *port = find_pci(m, "p");

    pci_config_write(port, PCI_SECONDARY_BUS, BUS, 1);
    pci_config_write(port, PCI_SUBORDINATE_BUS, BUS, 1);
    pci_set_up(m, port);
    return port;
}

static void set_control(TestMachine *m, uint16_t power_and_indicator)
{
    write_reg(m, PCI_EXP_SLTCTL, PCI_EXP_SLTCTL_HPIE | PCI_EXP_SLTCTL_ABPE | PCI_EXP_SLTCTL_DLLSCE |
                                     PCI_EXP_SLTCTL_ATTN_IND_OFF | power_and_indicator);
}

static void power_on(TestMachine *m)
{
    set_control(m, PCI_EXP_SLTCTL_PWR_IND_ON);
}

static void power_off(TestMachine *m)
{
    set_control(m, PCI_EXP_SLTCTL_PWR_IND_OFF | POWER_OFF);
}

#define RNG_ID 0x10441af4u

DEVICE_TEST(the_slot_says_what_it_can, PORT "-device virtio-rng-pci,bus=p,id=r")
{
    uint32_t cap = reg(m, PCI_EXP_SLTCAP) | (uint32_t)reg(m, PCI_EXP_SLTCAP + 2) << 16;

    set_up_port(m);
    ck_assert_uint_eq(cap & 0x7f, 0x5b);    /* button, power, indicators, hot-plug capable */
    ck_assert_uint_eq(cap >> 19, 1);
    ck_assert(reg(m, PCI_EXP_LNKCAP + 2) & PCI_EXP_LNKCAP_DLLLARC >> 16);
    ck_assert_uint_eq(status(m), PCI_EXP_SLTSTA_PDS);   /* no event of what was there before */
    ck_assert_uint_eq(reg(m, PCI_EXP_SLTCTL) & (POWER_OFF | PCI_EXP_SLTCTL_PIC),
                      PCI_EXP_SLTCTL_PWR_IND_ON);
    ck_assert(link_is_up(m));
    ck_assert_uint_eq(id_behind(m, 0), RNG_ID);
    ck_assert(hotpluggable(m, "r"));
}

DEVICE_TEST(plug, PORT)
{
    PciDevice *port = set_up_port(m);

    pci_enable_msix(m, port, PORT_DATA);
    ck_assert_uint_eq(status(m), 0);
    ck_assert(reg(m, PCI_EXP_SLTCTL) & POWER_OFF);
    set_control(m, PCI_EXP_SLTCTL_PWR_IND_OFF | POWER_OFF);
    ck_assert_uint_eq(take_events(m), PCI_EXP_SLTSTA_CC);
    ck_assert_uint_eq(msi_take(m, PORT_DATA), 0);       /* completion is not enabled */

    add(m, "virtio-rng-pci,bus=p,id=r");
    ck_assert_uint_eq(msi_take(m, PORT_DATA), 1);
    ck_assert_uint_eq(take_events(m), PCI_EXP_SLTSTA_ABP | PCI_EXP_SLTSTA_PDC);
    ck_assert(status(m) & PCI_EXP_SLTSTA_PDS);
    ck_assert(!link_is_up(m));
    ck_assert_uint_eq(id_behind(m, 0), UINT32_MAX);     /* no power yet */
    power_on(m);
    ck_assert_uint_eq(msi_take(m, PORT_DATA), 1);
    ck_assert_uint_eq(take_events(m), PCI_EXP_SLTSTA_CC | PCI_EXP_SLTSTA_DLLSC);
    ck_assert(link_is_up(m));
    ck_assert_uint_eq(id_behind(m, 0), RNG_ID);
}

DEVICE_TEST(unplug, PORT "-blockdev null-co,node-name=n,size=1M "
                         "-device virtio-blk-pci,drive=n,bus=p,id=d")
{
    GError *error = NULL;

    run(m);
    pci_enable_msix(m, set_up_port(m), PORT_DATA);
    power_on(m);
    take_events(m);
    del(m, "d");
    ck_assert_uint_eq(msi_take(m, PORT_DATA), 1);
    ck_assert_uint_eq(take_events(m), PCI_EXP_SLTSTA_ABP);
    ck_assert(there(m, "d"));
    set_control(m, PCI_EXP_SLTCTL_PWR_IND_BLINK);       /* the guest lets go of it */
    ck_assert(!device_unplug(m->machine, "d", &error));
    ck_error(error, "the guest is busy with the slot of 'p'");
    settle(m);
    ck_assert(there(m, "d"));
    ck_assert(!block_node_delete(m->block, "n", NULL));
    take_events(m);
    msi_take(m, PORT_DATA);

    power_off(m);
    ck_assert_uint_eq(msi_take(m, PORT_DATA), 1);       /* the link is down */
    ck_assert_uint_eq(id_behind(m, 0), UINT32_MAX);
    take_events(m);
    expect_event(m, "DEVICE_DELETED", "{\"device\": \"d\", \"path\": \"/machine/peripheral/d\"}");
    ck_assert(!there(m, "d"));
    ck_assert_uint_eq(take_events(m), PCI_EXP_SLTSTA_PDC);
    ck_assert(!(status(m) & PCI_EXP_SLTSTA_PDS));
    ck_assert(block_node_delete(m->block, "n", NULL));

    add(m, "virtio-rng-pci,bus=p,id=d");                /* the place is free again */
    power_on(m);
    ck_assert_uint_eq(id_behind(m, 0), RNG_ID);
}

DEVICE_TEST(a_slot_that_the_guest_switches_off_keeps_its_card, PORT
            "-device virtio-rng-pci,bus=p,id=r")
{
    PciDevice *rng = find_pci(m, "r");

    set_up_port(m);
    pci_set_up(m, rng);
    ck_assert_uint_eq(pci_config_read(rng, PCI_COMMAND, 2), 7);
    power_off(m);
    settle(m);
    ck_assert(there(m, "r"));
    ck_assert(!link_is_up(m));
    ck_assert_uint_eq(id_behind(m, 0), UINT32_MAX);
    power_on(m);
    ck_assert_uint_eq(id_behind(m, 0), RNG_ID);
    ck_assert_uint_eq(pci_config_read(rng, PCI_COMMAND, 2), 0); /* as after a reset */
}

DEVICE_TEST(a_card_without_power_leaves_at_once, PORT)
{
    set_up_port(m);
    add(m, "virtio-rng-pci,bus=p,id=r");
    del(m, "r");
    expect_event(m, "DEVICE_DELETED", NULL);
    ck_assert(!there(m, "r"));
}

DEVICE_TEST(a_reset_forgets_what_was_asked, PORT "-device virtio-rng-pci,bus=p,id=r")
{
    set_up_port(m);
    power_on(m);
    del(m, "r");
    reset_machine(m);
    ck_assert_uint_eq(status(m), PCI_EXP_SLTSTA_PDS);
    set_up_port(m);
    power_off(m);
    settle(m);
    ck_assert(there(m, "r"));
}

static unsigned lines_up(TestMachine *m)
{
    unsigned n = 0;

    for (unsigned gsi = 16; gsi < TEST_GSIS; gsi++)
        n += m->machine->gsi[gsi].level;
    return n;
}

DEVICE_TEST(events_by_intx, PORT)
{
    set_up_port(m);
    power_off(m);
    take_events(m);
    ck_assert_uint_eq(lines_up(m), 0);
    add(m, "virtio-rng-pci,bus=p,id=r");
    ck_assert_uint_eq(lines_up(m), 1);
    write_reg(m, PCI_EXP_SLTSTA, PCI_EXP_SLTSTA_ABP);
    ck_assert_uint_eq(lines_up(m), 0);                  /* presence is not enabled */
    write_reg(m, PCI_EXP_SLTCTL, reg(m, PCI_EXP_SLTCTL) | PCI_EXP_SLTCTL_PDCE);
    ck_assert_uint_eq(lines_up(m), 1);
    write_reg(m, PCI_EXP_SLTCTL, reg(m, PCI_EXP_SLTCTL) & ~PCI_EXP_SLTCTL_HPIE);
    ck_assert_uint_eq(lines_up(m), 0);
}

DEVICE_TEST(functions_are_one_card, PORT)
{
    GError *error = NULL;

    set_up_port(m);
    power_off(m);
    take_events(m);
    add(m, "virtio-rng-pci,bus=p,id=r1,addr=0.1");
    ck_assert_uint_eq(status(m), 0);                    /* it is not to be seen yet */
    add(m, "virtio-rng-pci,bus=p,id=r0,addr=0.0,multifunction=on");
    ck_assert_uint_eq(take_events(m), PCI_EXP_SLTSTA_ABP | PCI_EXP_SLTSTA_PDC);
    power_on(m);
    ck_assert_uint_eq(id_behind(m, 0), RNG_ID);
    ck_assert_uint_eq(id_behind(m, 1), RNG_ID);
    ck_assert(!try_add(m, "virtio-rng-pci,bus=p,id=r2,addr=0.2", &error));
    ck_error(error, "function 0 of 'p' is there already");
    del(m, "r1");
    power_off(m);
    expect_event(m, "DEVICE_DELETED", "{\"device\": \"r1\", \"path\": \"/machine/peripheral/r1\"}");
    expect_event(m, "DEVICE_DELETED", "{\"device\": \"r0\", \"path\": \"/machine/peripheral/r0\"}");
}

DEVICE_TEST(refused_with_a_reason, PORT "-device pcie-root-port,id=fixed,hotplug=off,chassis=2 "
                                        "-device virtio-rng-pci,bus=fixed,id=f "
                                        "-device virtio-rng-pci,id=root")
{
    static const struct { const char *options, *text; } refused[] = {
        { "virtio-rng-pci", "devices of bus 'pcie.0' cannot come and go" },
        { "virtio-rng-pci,bus=fixed", "devices of bus 'fixed' cannot come and go" },
        { "pcie-root-port,bus=pcie.0,chassis=3", "devices of bus 'pcie.0' cannot come and go" },
        { "virtio-rng-pci,bus=p,addr=1", "bus 'p' has no slot 0x1" },
        { "virtio-blk-pci,bus=p", "property 'drive' is not set" },
    };
    GError *error = NULL;

    set_up_port(m);
    for (unsigned i = 0; i < G_N_ELEMENTS(refused); i++) {
        ck_assert(!try_add(m, refused[i].options, &error));
        ck_error(error, refused[i].text);
    }
    ck_assert_uint_eq(status(m) & (PCI_EXP_SLTSTA_PDS | PCI_EXP_SLTSTA_ABP), 0);
    ck_assert(!device_unplug(m->machine, "root", &error));
    ck_error(error, "devices of bus 'pcie.0' cannot come and go");
    ck_assert(!device_unplug(m->machine, "f", &error));
    ck_error(error, "devices of bus 'fixed' cannot come and go");
    ck_assert(!hotpluggable(m, "f") && !hotpluggable(m, "root"));
}

DEVICE_TEST(state_is_kept, PORT "-device virtio-rng-pci,bus=p,id=r")
{
    TestMachine *other = test_machine_new(PORT "-device virtio-rng-pci,bus=p,id=r");
    g_autoptr(GByteArray) state = NULL;
    GError *error = NULL;

    set_up_port(m);
    power_off(m);                           /* by the guest itself */
    state = save_state(m);
    ck_assert_msg(load_state(other, state, &error), "%s", error ? error->message : "");
    ck_assert_uint_eq(id_behind(other, 0), UINT32_MAX);
    power_on(m);
    del(m, "r");
    g_byte_array_unref(state);
    state = save_state(m);
    ck_assert_msg(load_state(other, state, &error), "%s", error ? error->message : "");
    ck_assert_uint_eq(id_behind(other, 0), RNG_ID);
    power_off(other);
    expect_event(other, "DEVICE_DELETED", NULL);
    test_machine_free(other);
}

static void add_tests(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, the_slot_says_what_it_can);
    tcase_add_test(tc, plug);
    tcase_add_test(tc, unplug);
    tcase_add_test(tc, a_slot_that_the_guest_switches_off_keeps_its_card);
    tcase_add_test(tc, a_card_without_power_leaves_at_once);
    tcase_add_test(tc, a_reset_forgets_what_was_asked);
    tcase_add_test(tc, events_by_intx);
    tcase_add_test(tc, functions_are_one_card);
    tcase_add_test(tc, refused_with_a_reason);
    tcase_add_test(tc, state_is_kept);
}

int main(void)
{
    return run_tests("hotplug", add_tests);
}

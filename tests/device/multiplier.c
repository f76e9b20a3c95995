/* The example device of docs/writing-a-device.md does what the page says. */
#include "tests/device/harness.h"

enum { FACTOR = 0x00, DMAADDR = 0x04, STATUS = 0x08 };
enum { DONE = 1, BAD_ADDRESS = 2 };

static uint64_t set_up(TestMachine *m)
{
    PciDevice *dev = find_pci(m, "x");

    pci_set_up(m, dev);
    return pci_bar(dev, 0);
}

/* The Interrupt Status bit of the Status register follows INTA (PCI 3.0, 6.2.3). */
static bool interrupted(TestMachine *m)
{
    return pci_config_read(find_pci(m, "x"), 6, 2) & 1 << 3;
}

DEVICE_TEST(multiplies_in_memory, "-device multiplier,id=x,factor=7")
{
    uint64_t regs = set_up(m), page = dma_alloc(m, 4096);

    ck_assert_uint_eq(mem_read(m, regs + FACTOR, 4), 7);
    mem_write(m, page + 8, 4, 6);
    ck_assert(!interrupted(m));
    mem_write(m, regs + DMAADDR, 4, page + 8);
    ck_assert_uint_eq(mem_read(m, page + 8, 4), 42);
    ck_assert_uint_eq(mem_read(m, regs + STATUS, 4), DONE);
    ck_assert(interrupted(m));
    mem_write(m, regs + STATUS, 4, DONE);
    ck_assert(!interrupted(m));
}

DEVICE_TEST(refuses_what_is_no_memory, "-device multiplier,id=x")
{
    uint64_t regs = set_up(m);

    mem_write(m, regs + DMAADDR, 4, 0xc0000000);
    ck_assert_uint_eq(mem_read(m, regs + STATUS, 4), BAD_ADDRESS);
    ck_assert(interrupted(m));
    reset_machine(m);
    ck_assert(!interrupted(m));
}

START_TEST(checks_its_property)
{
    GError *error = NULL;

    ck_assert_ptr_null(test_machine_try("-device multiplier,factor=0", &error));
    ck_error(error, "factor");
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, multiplies_in_memory);
    tcase_add_test(tc, refuses_what_is_no_memory);
    tcase_add_test(tc, checks_its_property);
}

int main(void)
{
    return run_tests("multiplier", add);
}

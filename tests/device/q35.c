/* The q35 board: configuration space, the memory map, resets, power management, interrupts, boot. */
#include <unistd.h>
#include "hw/x86/memmap.h"
#include "src/object/type.h"
#include "tests/device/harness-int.h"

static bool line(TestMachine *m, unsigned gsi)
{
    return m->machine->gsi[gsi].level;
}

static uint32_t cf8_read(TestMachine *m, unsigned devfn, unsigned reg)
{
    io_write32(m, 0xcf8, 0x80000000 | devfn << 8 | reg);
    return io_read32(m, 0xcfc);
}

static void cf8_write8(TestMachine *m, unsigned devfn, unsigned reg, uint8_t value)
{
    io_write32(m, 0xcf8, 0x80000000 | devfn << 8 | (reg & ~3));
    io_write8(m, 0xcfc + (reg & 3), value);
}

static void cf8_write32(TestMachine *m, unsigned devfn, unsigned reg, uint32_t value)
{
    io_write32(m, 0xcf8, 0x80000000 | devfn << 8 | reg);
    io_write32(m, 0xcfc, value);
}

#define MCH PCI_DEVFN(0, 0)
#define LPC PCI_DEVFN(0x1f, 0)
#define PMBASE 0x600
#define IOREGSEL 0xfec00000
#define IOWIN 0xfec00010

/* ---- configuration space ---- */

DEVICE_TEST(config_by_ports, "")
{
    ck_assert_uint_eq(cf8_read(m, MCH, 0), 0x29c08086);
    ck_assert_uint_eq(cf8_read(m, LPC, 0), 0x29188086);
    ck_assert_uint_eq(cf8_read(m, PCI_DEVFN(5, 0), 0), UINT32_MAX);
    ck_assert_uint_eq(io_read32(m, 0xcf8), 0x80002800);
    cf8_read(m, LPC, 8);
    ck_assert_uint_eq(io_read8(m, 0xcff), 0x06);    /* class: bridge */
    ck_assert_uint_eq(io_read16(m, 0xcfe), 0x0601);
    io_write8(m, 0xcf8, 0x12);                      /* a byte is not CONFIG_ADDRESS */
    ck_assert_uint_eq(io_read32(m, 0xcf8), 0x8000f808);
    io_write32(m, 0xcf8, 0x0000f800);               /* not enabled */
    ck_assert_uint_eq(io_read32(m, 0xcfc), UINT32_MAX);
}

DEVICE_TEST(config_by_ecam, "")
{
    uint64_t lpc = 0xb0000000 + ((uint64_t)LPC << 12);

    ck_assert_uint_eq(mem_read(m, 0xb0000000, 4), UINT32_MAX);
    cf8_write32(m, MCH, 0x60, 0xb0000001);          /* PCIEXBAR */
    ck_assert_uint_eq(mem_read(m, 0xb0000000, 4), 0x29c08086);
    ck_assert_uint_eq(mem_read(m, lpc + 2, 2), 0x2918);
    ck_assert_uint_eq(mem_read(m, lpc + 0x100, 4), UINT32_MAX);
    mem_write(m, lpc + 0x3c, 1, 0x5a);
    ck_assert_uint_eq(cf8_read(m, LPC, 0x3c) & 0xff, 0x5a);
    cf8_write32(m, MCH, 0x60, 0xe0000003);          /* elsewhere, 128 MiB */
    ck_assert_uint_eq(mem_read(m, 0xb0000000, 4), UINT32_MAX);
    ck_assert_uint_eq(mem_read(m, 0xe0000000, 4), 0x29c08086);
    reset_machine(m);
    ck_assert_uint_eq(mem_read(m, 0xe0000000, 4), UINT32_MAX);
}

/* ---- the memory map ---- */

DEVICE_TEST(pam_opens_and_protects, "")
{
    ck_assert_uint_eq(mem_read(m, 0xc8000, 4), UINT32_MAX);
    cf8_write8(m, MCH, 0x92, 0x03);                 /* PAM2: C8000-CBFFF read-write */
    mem_write(m, 0xc8000, 4, 0x12345678);
    ck_assert_uint_eq(mem_read(m, 0xc8000, 4), 0x12345678);
    ck_assert_uint_eq(mem_read(m, 0xcc000, 4), UINT32_MAX);
    cf8_write8(m, MCH, 0x92, 0x01);                 /* read-only */
    mem_write(m, 0xc8000, 4, 0xdead);
    ck_assert_uint_eq(mem_read(m, 0xc8000, 4), 0x12345678);
    cf8_write8(m, MCH, 0x92, 0x00);
    ck_assert_uint_eq(mem_read(m, 0xc8000, 4), UINT32_MAX);
    cf8_write8(m, MCH, 0x90, 0x30);                 /* PAM0: F0000-FFFFF */
    mem_write(m, 0xf0000, 4, 0xabcd);
    ck_assert_uint_eq(mem_read(m, 0xf0000, 4), 0xabcd);
}

DEVICE_TEST(smram_opens_closes_and_locks, "")
{
    ck_assert_uint_eq(mem_read(m, 0xa0000, 4), UINT32_MAX);
    cf8_write8(m, MCH, 0x9d, 0x48);                 /* G_SMRAME, D_OPEN */
    mem_write(m, 0xa0000, 4, 0x11223344);
    ck_assert_uint_eq(mem_read(m, 0xa0000, 4), 0x11223344);
    cf8_write8(m, MCH, 0x9d, 0x58);                 /* D_LCK closes it for good */
    ck_assert_uint_eq(mem_read(m, 0xa0000, 4), UINT32_MAX);
    cf8_write8(m, MCH, 0x9d, 0x48);
    ck_assert_uint_eq(mem_read(m, 0xa0000, 4), UINT32_MAX);
    g_autoptr(GByteArray) locked = save_state(m);
    reset_machine(m);
    cf8_write8(m, MCH, 0x9d, 0x48);
    ck_assert_uint_eq(mem_read(m, 0xa0000, 4), 0x11223344);
    ck_assert(load_state(m, locked, NULL));         /* and the lock lasts through a migration */
    cf8_write8(m, MCH, 0x9d, 0x48);
    ck_assert_uint_eq(mem_read(m, 0xa0000, 4), UINT32_MAX);
}

START_TEST(large_memory_is_split)
{
    TestMachine *m = test_machine_new("-m 3G");

    mem_write(m, 0x7ffffff8, 8, 1);
    ck_assert_uint_eq(mem_read(m, 0x7ffffff8, 8), 1);
    ck_assert_uint_eq(mem_read(m, 0x80000000, 4), UINT32_MAX);
    mem_write(m, 0x13ffffff8, 8, 2);
    ck_assert_uint_eq(mem_read(m, 0x13ffffff8, 8), 2);
    ck_assert_uint_eq(mem_read(m, 0x140000000, 4), UINT32_MAX);
    io_write8(m, 0x70, 0x5b);                       /* CMOS: 1 GiB above 4G, in 64 KiB */
    ck_assert_uint_eq(io_read8(m, 0x71), 0x00);
    io_write8(m, 0x70, 0x5c);
    ck_assert_uint_eq(io_read8(m, 0x71), 0x40);
    test_machine_free(m);
}
END_TEST

/* ---- resets ---- */

DEVICE_TEST(ways_to_reset, "")
{
    io_write8(m, 0xcf9, 0x02);
    ck_assert_uint_eq(io_read8(m, 0xcf9), 0x02);
    ck_assert(!took_request(m, MACHINE_RESET));
    io_write8(m, 0xcf9, 0x06);
    expect_request(m, MACHINE_RESET);
    io_write8(m, 0x92, 0x02);
    ck_assert(!took_request(m, MACHINE_RESET));
    io_write8(m, 0x92, 0x03);
    expect_request(m, MACHINE_RESET);
    io_write8(m, 0x92, 0x03);                       /* no edge */
    ck_assert(!took_request(m, MACHINE_RESET));
    io_write8(m, 0x64, 0xfe);
    expect_request(m, MACHINE_RESET);
    io_write8(m, 0x64, 0xd1);
    io_write8(m, 0x60, 0x02);                       /* output port, reset line low */
    expect_request(m, MACHINE_RESET);
}

/* ---- power management ---- */

static void set_up_pm(TestMachine *m)
{
    cf8_write32(m, LPC, 0x40, PMBASE | 1);
    cf8_write8(m, LPC, 0x44, 0x80);
}

static void press_power_button(TestMachine *m)
{
    const MachineOps *ops = type_ops(OBJECT(m->machine)->type);

    ops->powerdown(m->machine);
}

DEVICE_TEST(power_button_is_an_sci, "")
{
    ck_assert_uint_eq(io_read16(m, PMBASE), 0xffff);
    set_up_pm(m);
    io_write8(m, 0xb2, 2);                          /* ACPI mode */
    ck_assert_uint_eq(io_read16(m, PMBASE + 4), 1);
    press_power_button(m);
    ck_assert_uint_eq(io_read16(m, PMBASE), 0x100);
    ck_assert(!line(m, 9));                         /* not enabled */
    io_write16(m, PMBASE + 2, 0x100);
    ck_assert(line(m, 9));
    io_write16(m, PMBASE, 0x100);
    ck_assert(!line(m, 9));
    ck_assert_uint_eq(io_read16(m, PMBASE), 0);
    press_power_button(m);
    ck_assert(line(m, 9));
    io_write8(m, 0xb2, 3);                          /* legacy mode: no SCI */
    ck_assert(!line(m, 9));
    io_write8(m, 0xb2, 2);
    cf8_write8(m, LPC, 0x44, 0x81);                 /* SCI on IRQ 10 */
    ck_assert(!line(m, 9));
    ck_assert(line(m, 10));
    reset_machine(m);
    ck_assert(!line(m, 10));
}

DEVICE_TEST(soft_off, "")
{
    set_up_pm(m);
    io_write16(m, PMBASE + 4, 0x0001);
    ck_assert(!took_request(m, MACHINE_POWEROFF));
    io_write16(m, PMBASE + 4, 0x2401);              /* S1: not offered */
    ck_assert(!took_request(m, MACHINE_POWEROFF));
    io_write16(m, PMBASE + 4, 0x2001);
    expect_request(m, MACHINE_POWEROFF);
    ck_assert_uint_eq(io_read16(m, PMBASE + 4) & 0x2000, 0);
}

static bool timer_moved(void *opaque)
{
    static uint32_t first;
    uint32_t now = io_read32(opaque, PMBASE + 8);

    first = first ? first : now;
    return now != first;
}

DEVICE_TEST(acpi_timer_counts_while_running, "")
{
    set_up_pm(m);
    uint32_t before = io_read32(m, PMBASE + 8);
    ck_assert_uint_eq(before, io_read32(m, PMBASE + 8));
    run(m);
    wait_until(m, timer_moved, m);
    stop(m);
    before = io_read32(m, PMBASE + 8);
    ck_assert_uint_lt(before, 0x1000000);
    io_write32(m, PMBASE + 8, 0);
    ck_assert_uint_eq(before, io_read32(m, PMBASE + 8));
}

/* ---- interrupts ---- */

static void set_entry(TestMachine *m, unsigned pin, uint32_t low)
{
    mem_write(m, IOREGSEL, 4, 0x11 + 2 * pin);
    mem_write(m, IOWIN, 4, 3u << 24);
    mem_write(m, IOREGSEL, 4, 0x10 + 2 * pin);
    mem_write(m, IOWIN, 4, low);
}

static uint32_t entry(TestMachine *m, unsigned pin)
{
    mem_write(m, IOREGSEL, 4, 0x10 + 2 * pin);
    return mem_read(m, IOWIN, 4);
}

DEVICE_TEST(intx_reaches_the_ioapic, "-device virtio-rng-pci,id=a,addr=3 "
                                     "-device virtio-rng-pci,id=b,addr=7")
{
    PciDevice *a = find_pci(m, "a"), *b = find_pci(m, "b");

    cf8_write8(m, LPC, 0x6b, 11);                   /* PIRQH to IRQ 11 */
    set_entry(m, 23, 0x8055);                       /* level, vector 0x55 */
    pci_set_intx(a, true);                          /* INTA of slots 3 and 7: PIRQH */
    ck_assert_uint_eq(msi_take(m, 0xc055), 1);
    ck_assert(line(m, 23));
    ck_assert(line(m, 11));
    ck_assert_uint_eq(entry(m, 23) & 0x4000, 0x4000);   /* remote IRR */
    pci_set_intx(b, true);
    pci_set_intx(a, false);
    ck_assert(line(m, 23));                         /* the other still wants it */
    ck_assert_uint_eq(msi_take(m, 0xc055), 0);
    m->intr.eoi(m->intr.eoi_opaque, 0x55);
    ck_assert_uint_eq(msi_take(m, 0xc055), 1);      /* again, as the line is still high */
    pci_set_intx(b, false);
    ck_assert(!line(m, 23));
    ck_assert(!line(m, 11));
    mem_write(m, 0xfec00040, 4, 0x55);              /* the EOI register does the same */
    ck_assert_uint_eq(entry(m, 23) & 0x4000, 0);
    ck_assert_uint_eq(msi_take(m, 0xc055), 0);
}

DEVICE_TEST(masked_edges_wait, "")
{
    set_entry(m, 4, 0x10031);
    irq_pulse(&m->machine->gsi[4]);
    ck_assert_uint_eq(msi_take(m, 0x31), 0);
    set_entry(m, 4, 0x31);
    ck_assert_uint_eq(msi_take(m, 0x31), 1);
    irq_pulse(&m->machine->gsi[4]);
    irq_pulse(&m->machine->gsi[4]);
    ck_assert_uint_eq(msi_take(m, 0x31), 2);
    set_entry(m, 2, 0x30);                          /* ISA line 0 is input 2 */
    irq_pulse(&m->machine->gsi[0]);
    ck_assert_uint_eq(msi_take(m, 0x30), 1);
    mem_write(m, IOREGSEL, 4, 1);
    ck_assert_uint_eq(mem_read(m, IOWIN, 4), 0x170020);
}

/* ---- small devices ---- */

DEVICE_TEST(pvpanic_reports, "-device pvpanic")
{
    ck_assert_uint_eq(io_read8(m, 0x505), 3);
    io_write8(m, 0x505, 1);
    expect_request(m, MACHINE_PANICKED);
    io_write8(m, 0x505, 2);
    expect_request(m, MACHINE_CRASHLOADED);
    io_write8(m, 0x505, 4);
    ck_assert(!took_request(m, MACHINE_PANICKED));
}

DEVICE_TEST(pvpanic_takes_what_it_offers, "-device pvpanic,events=2,ioport=0x600")
{
    ck_assert_uint_eq(io_read8(m, 0x600), 2);
    io_write8(m, 0x600, 1);
    ck_assert(!took_request(m, MACHINE_PANICKED));
}

static int exit_status;

static void remember_exit(Machine *machine, int status)
{
    exit_status = status;
}

DEVICE_TEST(debug_exit_gives_a_status, "-device isa-debug-exit,iobase=0xf4,iosize=4")
{
    m->env.quit = remember_exit;
    io_write32(m, 0xf4, 0x10);
    ck_assert_int_eq(exit_status, 0x21);
}

static uint8_t kbd_read(TestMachine *m)
{
    ck_assert_uint_eq(io_read8(m, 0x64) & 1, 1);
    return io_read8(m, 0x60);
}

DEVICE_TEST(i8042_answers_a_driver, "")
{
    io_write8(m, 0x64, 0xaa);
    ck_assert_uint_eq(kbd_read(m), 0x55);
    io_write8(m, 0x64, 0x20);
    uint8_t mode = kbd_read(m);
    ck_assert_uint_eq(mode & 0x43, 0x43);           /* interrupts, translation */
    io_write8(m, 0x60, 0xf2);                       /* identify the keyboard */
    ck_assert(line(m, 1));
    ck_assert_uint_eq(kbd_read(m), 0xfa);
    ck_assert_uint_eq(kbd_read(m), 0xab);
    ck_assert_uint_eq(kbd_read(m), 0x41);           /* 0x83, translated */
    ck_assert(!line(m, 1));
    ck_assert_uint_eq(io_read8(m, 0x64) & 1, 0);
    io_write8(m, 0x60, 0xf0);                       /* which scan code set? */
    kbd_read(m);
    io_write8(m, 0x60, 0);
    kbd_read(m);
    ck_assert_uint_eq(kbd_read(m), 0x41);           /* 2, translated */
    io_write8(m, 0x64, 0x60);
    io_write8(m, 0x60, mode & ~0x40);
    io_write8(m, 0x60, 0xf2);
    kbd_read(m), kbd_read(m);
    ck_assert_uint_eq(kbd_read(m), 0x83);
    io_write8(m, 0x64, 0xd3);                       /* loop a byte through the AUX side */
    io_write8(m, 0x60, 0x5a);
    ck_assert_uint_eq(io_read8(m, 0x64) & 0x21, 0x21);
    ck_assert(line(m, 12));
    ck_assert_uint_eq(kbd_read(m), 0x5a);
}

static void to_mouse(TestMachine *m, uint8_t byte)
{
    io_write8(m, 0x64, 0xd4);
    io_write8(m, 0x60, byte);
    ck_assert_uint_eq(kbd_read(m), 0xfa);
}

DEVICE_TEST(mouse_takes_the_knock, "")
{
    static const uint8_t rates[] = { 200, 100, 80 };

    to_mouse(m, 0xff);
    ck_assert_uint_eq(kbd_read(m), 0xaa);
    ck_assert_uint_eq(kbd_read(m), 0x00);
    for (unsigned i = 0; i < G_N_ELEMENTS(rates); i++) {
        to_mouse(m, 0xf3);
        to_mouse(m, rates[i]);
    }
    to_mouse(m, 0xf2);
    ck_assert_uint_eq(kbd_read(m), 3);              /* a wheel */
}

DEVICE_TEST(dma_registers_read_back, "")
{
    io_write8(m, 0x0c, 0);                          /* byte pointer */
    io_write8(m, 0x02, 0x34);
    io_write8(m, 0x02, 0x12);
    ck_assert_uint_eq(io_read8(m, 0x02), 0x34);
    ck_assert_uint_eq(io_read8(m, 0x02), 0x12);
    io_write8(m, 0x83, 0x77);
    ck_assert_uint_eq(io_read8(m, 0x83), 0x77);
}

/* ---- booting ---- */

static char *write_file(const void *data, size_t size)
{
    char *path = g_strdup("/tmp/vireo-q35-XXXXXX");
    int fd = g_mkstemp(path);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, data, size), size);
    close(fd);
    return path;
}

/* The smallest bzImage: a header, and 4 KiB of code at 16 MiB. */
static char *write_kernel(void)
{
    uint8_t z[1024 + 4096] = { 0 };

    z[0x1f1] = 1;
    st_le16(z + 0x1fe, 0xaa55);
    memcpy(z + 0x202, "HdrS", 4);
    st_le16(z + 0x206, 0x020f);
    z[0x211] = 1;
    st_le16(z + 0x236, 1);
    st_le32(z + 0x22c, 0x7fffffff);
    st_le32(z + 0x238, 100);
    st_le64(z + 0x258, 0x1000000);
    st_le32(z + 0x260, 0x2000);
    memset(z + 1024, 0xf4, 4096);
    return write_file(z, sizeof(z));
}

static BootRegs boot_regs;

static void remember_regs(Machine *machine, const BootRegs *regs)
{
    boot_regs = *regs;
}

START_TEST(kernel_is_there_after_each_reset)
{
    g_autofree char *kernel = write_kernel();
    g_autofree char *args = g_strdup_printf(
        "-machine q35,kernel=%s,append=quiet -device virtio-rng-pci,id=rng", kernel);
    TestMachine *m = test_machine_new(args);

    m->env.set_boot_regs = remember_regs;
    for (unsigned i = 0; i < 2; i++) {
        reset_machine(m);
        ck_assert_uint_eq(boot_regs.rip, 0x1000200);
        ck_assert_uint_eq(mem_read(m, 0x1000000, 4), 0xf4f4f4f4);
        ck_assert_uint_eq(mem_read(m, 0xf0000, 8), 0x2052545020445352);     /* "RSD PTR " */
        ck_assert_uint_eq(mem_read(m, 0xb0000000, 4), 0x29c08086);          /* ECAM */
        ck_assert_uint_eq(io_read16(m, PMBASE + 2), 0);
        PciDevice *rng = find_pci(m, "rng");
        uint64_t bar = pci_bar_address(rng, 4);
        ck_assert(bar >= 0xc0000000 && bar < 0xfec00000);
        ck_assert_uint_ne(rng->config[PCI_INTERRUPT_LINE], 0);
        mem_write(m, 0x1000000, 8, 0);
        mem_write(m, 0xf0000, 8, 0);
        cf8_write32(m, MCH, 0x60, 0);
    }
    test_machine_free(m);
    unlink(kernel);
}
END_TEST

START_TEST(firmware_is_at_both_ends)
{
    g_autofree uint8_t *rom = g_malloc0(256 * KiB);
    for (unsigned i = 0; i < 256 * KiB; i += 4)
        st_le32(rom + i, i);
    g_autofree char *path = write_file(rom, 256 * KiB);
    g_autofree char *args = g_strdup_printf("-machine q35,firmware=%s", path);
    TestMachine *m = test_machine_new(args);

    ck_assert_uint_eq(mem_read(m, 0xfffc0000, 4), 0);
    ck_assert_uint_eq(mem_read(m, 0xfffffffc, 4), 256 * KiB - 4);
    ck_assert_uint_eq(mem_read(m, 0xffffc, 4), 256 * KiB - 4);
    ck_assert_uint_eq(mem_read(m, 0xe0000, 4), 128 * KiB);
    mem_write(m, 0xfffffffc, 4, 0);                 /* it is a ROM */
    ck_assert_uint_eq(mem_read(m, 0xfffffffc, 4), 256 * KiB - 4);
    test_machine_free(m);
    unlink(path);
}
END_TEST

START_TEST(options_that_cannot_be)
{
    static const struct { const char *args, *why; } cases[] = {
        { "-machine q35,kernel=/no/such/file", "-kernel /no/such/file: No such file" },
        { "-machine q35,kernel=/etc/passwd", "neither a bzImage nor" },
        { "-machine q35,firmware=/no/such/file", "cannot read the firmware" },
        { "-machine q35,initrd=/etc/passwd", "need -kernel" },
        { "-machine q35,usb=on", "no USB controller" },
        { "-machine q35,smm=on", "can only be 'off'" },
        { "-machine q35,sata=on", "can only be 'off'" },
        { "-machine q35,max-ram-below-4g=3G", "max-ram-below-4g" },
        { "-m 1M", "at least 2 MiB" },
        { "-global driver=ICH9-LPC,property=disable_s3,value=0", "disable_s3" },
        { "-device isa-debug-exit,iobase=0xffff", "not a range of I/O ports" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        GError *error = NULL;
        ck_assert_ptr_null(test_machine_try(cases[i].args, &error));
        ck_error(error, cases[i].why);
    }
}
END_TEST

static void add(TCase *tc)
{
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, config_by_ports);
    tcase_add_test(tc, config_by_ecam);
    tcase_add_test(tc, pam_opens_and_protects);
    tcase_add_test(tc, smram_opens_closes_and_locks);
    tcase_add_test(tc, large_memory_is_split);
    tcase_add_test(tc, ways_to_reset);
    tcase_add_test(tc, power_button_is_an_sci);
    tcase_add_test(tc, soft_off);
    tcase_add_test(tc, acpi_timer_counts_while_running);
    tcase_add_test(tc, intx_reaches_the_ioapic);
    tcase_add_test(tc, masked_edges_wait);
    tcase_add_test(tc, pvpanic_reports);
    tcase_add_test(tc, pvpanic_takes_what_it_offers);
    tcase_add_test(tc, debug_exit_gives_a_status);
    tcase_add_test(tc, i8042_answers_a_driver);
    tcase_add_test(tc, mouse_takes_the_knock);
    tcase_add_test(tc, dma_registers_read_back);
    tcase_add_test(tc, kernel_is_there_after_each_reset);
    tcase_add_test(tc, firmware_is_at_both_ends);
    tcase_add_test(tc, options_that_cannot_be);
}

int main(void)
{
    return run_tests("q35", add);
}

/*
 * multiplier: the example of docs/writing-a-device.md.  A PCI device that multiplies a number in guest
 * memory and interrupts when it is done.  BAR 0, 32-bit registers:
 *   0x00 FACTOR  read-only: what it multiplies by (property "factor")
 *   0x04 DMAADDR written: the 32-bit little-endian number at this guest address is multiplied
 *   0x08 STATUS  bit 0: done; bit 1: the address was bad.  INTA while not 0; write 1 to clear
 */
#include "hw/pci/pci.h"
#include "src/base/util.h"

enum { FACTOR = 0x00, DMAADDR = 0x04, STATUS = 0x08, REGS_SIZE = 0x1000 };
enum { STATUS_DONE = 1 << 0, STATUS_BAD_ADDRESS = 1 << 1 };

typedef struct Multiplier {
    PciDevice pci;                         /* first: a Multiplier * is a PciDevice * is an Object * */
    Region regs;
    uint32_t factor;                       /* property */
    uint32_t status;                       /* state; VM lock */
} Multiplier;

static void set_status(Multiplier *m, uint32_t status)
{
    m->status = status;
    pci_set_intx(&m->pci, status != 0);
}

/* What a guest says is checked: an address that is no RAM sets a bit, and nothing else happens. */
static void multiply(Multiplier *m, Gpa addr)
{
    AddressSpace *dma = pci_dma(&m->pci);  /* NULL while bus mastering is off */
    uint8_t number[4];

    if (!dma || address_space_read(dma, addr, number, 4) != MEM_OK) {
        guest_error("multiplier", "no memory at 0x%" PRIx64, addr);
        set_status(m, m->status | STATUS_BAD_ADDRESS);
        return;
    }
    st_le32(number, ld_le32(number) * m->factor);
    address_space_write(dma, addr, number, 4);
    set_status(m, m->status | STATUS_DONE);
}

static uint64_t multiplier_read(void *opaque, uint64_t offset, unsigned size)
{
    Multiplier *m = opaque;

    return offset == FACTOR ? m->factor : offset == STATUS ? m->status : 0;
}

static void multiplier_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    Multiplier *m = opaque;

    if (offset == DMAADDR)
        multiply(m, value);
    else if (offset == STATUS)
        set_status(m, m->status & ~value);
}

static const IoOps multiplier_ops = {
    .read = multiplier_read, .write = multiplier_write,
    .guest = { .min = 4, .max = 4 }, .device = { .min = 4, .max = 4 },
};

static void multiplier_reset(Object *obj)
{
    set_status((Multiplier *)obj, 0);
}

static bool multiplier_realize(Object *obj, GError **error)
{
    Multiplier *m = (Multiplier *)obj;

    m->pci.intx_pin = 1;
    region_init_io(&m->regs, obj, &multiplier_ops, m, "multiplier", REGS_SIZE);
    pci_register_bar(&m->pci, 0, PCI_BAR_MEM, &m->regs);
    return true;
}

static const Property multiplier_props[] = {
    PROP("factor", Multiplier, factor, .def.u = 2, .min = 1, .max = 1000, .help = "multiplies by it"),
    {}
};
static const StateField multiplier_fields[] = {
    FIELD(Multiplier, status, .max = STATUS_DONE | STATUS_BAD_ADDRESS), {}
};
static const StateTable multiplier_state = { .version = 1, .fields = multiplier_fields };
static const PciDeviceOps multiplier_pci = { .vendor_id = 0x1234, .device_id = 0x0042,
                                             .class_code = 0xff0000 };
static const Type multiplier_type = {
    .name = "multiplier", .parent = "pci-device", .help = "the example of the documentation",
    .size = sizeof(Multiplier), .user_creatable = true, .ops = &multiplier_pci,
    .props = multiplier_props, .state = &multiplier_state, .realize = multiplier_realize,
    .reset = multiplier_reset,
};
TYPE_REGISTER(multiplier_type)

/*
 * q35 memory controller hub, device 0 (Intel 3 Series Express Chipset data sheet, 316966, 5.1):
 * PCIEXBAR places the ECAM, PAM says what is at 0xc0000 to 0xfffff, SMRAM what is at 0xa0000.
 *
 * There is no system management mode: SMRAM can be opened (D_OPEN), closed and locked, no CPU ever
 * enters it.
 */
#include <string.h>
#include "hw/x86/memmap.h"
#include "hw/x86/q35-host.h"
#include "src/base/trace.h"

enum { MCH_PCIEXBAR = 0x60, MCH_PAM0 = 0x90, MCH_SMRAM = 0x9d, MCH_ESMRAMC = 0x9e };
enum { PAM_REGISTERS = 7, PAM_RE = 1, PAM_WE = 2 };
enum {
    SMRAM_G_SMRAME = 1 << 3, SMRAM_D_LCK = 1 << 4, SMRAM_D_CLS = 1 << 5, SMRAM_D_OPEN = 1 << 6,
    SMRAM_C_BASE_SEG = 2,                   /* hardwired: compatible SMRAM at 0xa0000 */
};
enum { ESMRAMC_SM_CACHE = 0x38 };           /* hardwired ones */
#define PCIEXBAR_EN 1u
#define PCIEXBAR_LENGTH 6u
#define PCIEXBAR_RESERVED_LENGTH 6u
#define PAM_PRIORITY 1                      /* over a ROM's copy below 1 MiB */

typedef struct Mch {
    PciDevice pci;                          /* first: an Mch * is a Device * */
    Region *ram, *ram_readonly;
    Region pam[MCH_PAM_SEGMENTS];           /* aliases of one of the two */
    uint8_t pam_mode[MCH_PAM_SEGMENTS];
    Region smram;
} Mch;

static Machine *mch_machine(const Mch *s)
{
    return s->pci.dev.machine;
}

void mch_set_ram(PciDevice *mch, Region *ram, Region *ram_readonly)
{
    ((Mch *)mch)->ram = ram;
    ((Mch *)mch)->ram_readonly = ram_readonly;
}

/* ---- PCIEXBAR (5.1.16) ---- */

static void update_ecam(Mch *s)
{
    uint64_t value = ld_le64(s->pci.config + MCH_PCIEXBAR);
    unsigned length = value & PCIEXBAR_LENGTH;
    uint64_t size = ECAM_SIZE >> (length >> 1);
    bool on = value & PCIEXBAR_EN;

    if (on && length == PCIEXBAR_RESERVED_LENGTH) {
        guest_error("mch", "PCIEXBAR has a reserved length");
        on = false;
    }
    q35_host_map_ecam((Q35Host *)s->pci.dev.bus->parent, on,
                      on ? value & 0xfffffffffull & ~(size - 1) : 0, on ? size : ECAM_SIZE);
}

/* ---- PAM (5.1.19): segment 0 is 64 KiB at 0xf0000, the others 16 KiB each from 0xc0000 on ---- */

static uint32_t pam_start(unsigned segment)
{
    return segment ? PAM_BASE + (segment - 1) * 16 * KiB : 0xf0000;
}

static uint32_t pam_size(unsigned segment)
{
    return segment ? 16 * KiB : 64 * KiB;
}

static uint8_t pam_attributes(const Mch *s, unsigned segment)
{
    uint8_t value = s->pci.config[MCH_PAM0 + (segment + 1) / 2];

    return (segment & 1 ? value : value >> 4) & (PAM_RE | PAM_WE);
}

/* Writes that go to RAM while reads go to the bus (WE alone) cannot be mapped: the bus has both. */
static void update_pam(Mch *s)
{
    memory_begin();
    for (unsigned n = 0; n < MCH_PAM_SEGMENTS; n++) {
        uint8_t mode = pam_attributes(s, n);
        Region *r = &s->pam[n];
        if (mode == s->pam_mode[n])
            continue;
        s->pam_mode[n] = mode;
        region_destroy(r);
        if (!(mode & PAM_RE) || !s->ram)
            continue;
        region_init_alias(r, OBJECT(s), "pam", mode & PAM_WE ? s->ram : s->ram_readonly,
                          pam_start(n), pam_size(n));
        region_add_priority(&mch_machine(s)->memory_root, pam_start(n), r, PAM_PRIORITY);
    }
    memory_commit();
}

/* ---- SMRAM (5.1.25) ---- */

static void update_smram(Mch *s)
{
    uint8_t value = s->pci.config[MCH_SMRAM];
    bool open = value & SMRAM_G_SMRAME && value & SMRAM_D_OPEN && !(value & SMRAM_D_CLS);

    if (s->ram)
        region_set_enabled(&s->smram, open);
}

static void smram_written(Mch *s)
{
    uint8_t *value = &s->pci.config[MCH_SMRAM];

    if (*value & SMRAM_D_LCK) {             /* "D_LCK": D_OPEN is cleared, and all is read-only */
        *value &= ~SMRAM_D_OPEN;
        s->pci.wmask[MCH_SMRAM] = SMRAM_D_CLS;
    }
    update_smram(s);
}

static void mch_config_written(PciDevice *dev, unsigned offset, unsigned size)
{
    Mch *s = (Mch *)dev;

    if (offset < MCH_PCIEXBAR + 8 && offset + size > MCH_PCIEXBAR)
        update_ecam(s);
    if (offset < MCH_PAM0 + PAM_REGISTERS && offset + size > MCH_PAM0)
        update_pam(s);
    if (offset <= MCH_SMRAM && offset + size > MCH_SMRAM)
        smram_written(s);
}

void mch_firmware_setup(PciDevice *mch)
{
    pci_config_write(mch, MCH_PCIEXBAR, ECAM_BASE | PCIEXBAR_EN, 4);
    memory_begin();
    pci_config_write(mch, MCH_PAM0, (PAM_RE | PAM_WE) << 4, 1);
    for (unsigned n = 1; n < PAM_REGISTERS; n++)
        pci_config_write(mch, MCH_PAM0 + n, (PAM_RE | PAM_WE) * 0x11, 1);
    memory_commit();
}

static void mch_set_registers(PciDevice *dev)
{
    st_le64(dev->config + MCH_PCIEXBAR, ECAM_BASE);
    st_le64(dev->wmask + MCH_PCIEXBAR, 0xffc000000ull | PCIEXBAR_LENGTH | PCIEXBAR_EN);
    memset(dev->config + MCH_PAM0, 0, PAM_REGISTERS);
    memset(dev->wmask + MCH_PAM0, (PAM_RE | PAM_WE) * 0x11, PAM_REGISTERS);
    dev->wmask[MCH_PAM0] = (PAM_RE | PAM_WE) << 4;
    dev->config[MCH_SMRAM] = SMRAM_C_BASE_SEG;
    dev->wmask[MCH_SMRAM] = SMRAM_G_SMRAME | SMRAM_D_LCK | SMRAM_D_CLS | SMRAM_D_OPEN;
    dev->config[MCH_ESMRAMC] = ESMRAMC_SM_CACHE;
}

static void mch_update(Mch *s)
{
    update_ecam(s);
    update_pam(s);
    update_smram(s);
}

static void mch_reset(Object *obj)
{
    mch_set_registers((PciDevice *)obj);
    mch_update((Mch *)obj);
}

static bool mch_realize(Object *obj, GError **error)
{
    Mch *s = (Mch *)obj;

    if (!s->pci.dev.bus->parent || !object_is_a(OBJECT(s->pci.dev.bus->parent), "q35-pcihost"))
        return fail(error, ERR_UNSUPPORTED, "mch is part of the q35 board");
    mch_set_registers(&s->pci);
    if (s->ram) {
        region_init_alias(&s->smram, obj, "smram-open", s->ram, VGA_BASE, VGA_SIZE);
        region_set_enabled(&s->smram, false);
        region_add_priority(&mch_machine(s)->memory_root, VGA_BASE, &s->smram, PAM_PRIORITY);
    }
    return true;
}

static void mch_unrealize(Object *obj)
{
    Mch *s = (Mch *)obj;

    for (unsigned n = 0; n < MCH_PAM_SEGMENTS; n++)
        region_destroy(&s->pam[n]);
    memset(s->pam_mode, 0, sizeof(s->pam_mode));
    region_destroy(&s->smram);
}

static bool mch_post_load(void *obj, uint32_t version, GError **error)
{
    smram_written(obj);
    mch_update(obj);
    return true;
}

static const StateField mch_fields[] = { {} };
static const StateTable mch_state = { .fields = mch_fields, .post_load = mch_post_load };

static const PciDeviceOps mch_ops = {
    .vendor_id = 0x8086,
    .device_id = 0x29c0,
    .subsystem_vendor_id = 0x1af4,
    .subsystem_id = 0x1100,
    .class_code = 0x060000,
    .no_hotplug = true,
    .config_written = mch_config_written,
};

static const Type mch_type = {
    .name = "mch",
    .parent = "pci-device",
    .help = "q35 memory controller hub",
    .size = sizeof(Mch),
    .ops = &mch_ops,
    .state = &mch_state,
    .realize = mch_realize,
    .unrealize = mch_unrealize,
    .reset = mch_reset,
};
TYPE_REGISTER(mch_type)

/*
 * PCI devices: config space, BARs and INTx (PCI Local Bus 3.0, chapter 6).
 *
 * config holds what the guest reads; a write changes the bits of wmask and clears the ones written
 * to bits of w1cmask.  What follows from a change (mappings, INTx, MSI) is derived from config
 * afterwards, so that a loaded state and a reset take the same way as a guest's write.
 */
#include <linux/pci_regs.h>
#include "hw/pci/pci-int.h"
#include "src/base/options.h"
#include "src/base/trace.h"
#include "src/base/util.h"

#define BAR_UNMAPPED UINT64_MAX
/* x86 CPUs have at most 52 address bits; a BAR beyond is being sized, not placed. */
#define PHYS_ADDRESS_END (1ull << 52)
#define STATUS_W1C                                                                                 \
    (PCI_STATUS_PARITY | PCI_STATUS_SIG_TARGET_ABORT | PCI_STATUS_REC_TARGET_ABORT |               \
     PCI_STATUS_REC_MASTER_ABORT | PCI_STATUS_SIG_SYSTEM_ERROR | PCI_STATUS_DETECTED_PARITY)

const PciDeviceOps *pci_ops(const PciDevice *dev)
{
    return type_ops(dev->dev.obj.type);
}

unsigned pci_config_size(const PciDevice *dev)
{
    return pci_ops(dev)->express && pci_bus_is_express(dev) ? PCIE_CONFIG_SIZE : PCI_CONFIG_SIZE;
}

/* ---- BARs (6.2.5) ---- */

static unsigned bar_offset(const PciDevice *dev, unsigned n)
{
    if (n < PCI_ROM_BAR)
        return PCI_BASE_ADDRESS_0 + 4 * n;
    return pci_ops(dev)->bridge ? PCI_ROM_ADDRESS1 : PCI_ROM_ADDRESS;
}

void pci_register_bar(PciDevice *dev, unsigned n, uint8_t flags, Region *region)
{
    unsigned offset = bar_offset(dev, n);
    bool is_64 = n != PCI_ROM_BAR && (flags & PCI_BAR_MEM64);
    uint64_t mask = ~(region->size - 1);

    g_return_if_fail(is_power_of_2(region->size) && n <= PCI_ROM_BAR);
    dev->bars[n] = (PciBar){ .region = region, .flags = flags, .address = BAR_UNMAPPED };
    st_le32(dev->config + offset, n == PCI_ROM_BAR ? 0 : flags);
    if (n == PCI_ROM_BAR)
        mask = (mask & PCI_ROM_ADDRESS_MASK) | PCI_ROM_ADDRESS_ENABLE;
    else
        mask &= ~(uint64_t)((flags & PCI_BAR_IO) ? 3 : 15);
    st_le32(dev->wmask + offset, mask);
    if (is_64)
        st_le32(dev->wmask + offset + 4, mask >> 32);
}

/* Where the registers place BAR @n; BAR_UNMAPPED if they do not. */
static uint64_t bar_wanted(const PciDevice *dev, unsigned n)
{
    const PciBar *bar = &dev->bars[n];
    const uint8_t *reg = dev->config + bar_offset(dev, n);
    uint16_t command = ld_le16(dev->config + PCI_COMMAND);
    uint64_t size = bar->region->size, address, end;

    if (!(command & ((bar->flags & PCI_BAR_IO) ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)))
        return BAR_UNMAPPED;
    if (n == PCI_ROM_BAR && !(ld_le32(reg) & PCI_ROM_ADDRESS_ENABLE))
        return BAR_UNMAPPED;

    if (n != PCI_ROM_BAR && (bar->flags & PCI_BAR_MEM64)) {
        address = ld_le64(reg);
        end = PHYS_ADDRESS_END;
    } else {
        address = ld_le32(reg);
        end = (bar->flags & PCI_BAR_IO) ? 0x10000 : UINT32_MAX;
    }
    address &= ~(size - 1);
    /* Address 0 is an unset BAR; the top of the range is one that is being sized. */
    if (!address || address >= end || size > end - address)
        return BAR_UNMAPPED;
    return address;
}

void pci_update_mappings(PciDevice *dev)
{
    PciBus *bus = PCI_BUS(dev->dev.bus);

    memory_begin();
    for (unsigned n = 0; n < G_N_ELEMENTS(dev->bars); n++) {
        PciBar *bar = &dev->bars[n];
        if (!bar->region)
            continue;
        uint64_t wanted = bar_wanted(dev, n);
        if (wanted == bar->address)
            continue;
        TRACE(pci_bar, "%s BAR %u at 0x%" PRIx64, dev->dev.obj.name, n, wanted);
        region_del(bar->region);
        bar->address = BAR_UNMAPPED;
        Region *space = (bar->flags & PCI_BAR_IO) ? bus->io : bus->mem;
        if (wanted != BAR_UNMAPPED && space) {
            /* Chipset registers and RAM have priority 0 and win over a BAR on top of them. */
            region_add_priority(space, wanted, bar->region, -1);
            bar->address = wanted;
        }
    }
    memory_commit();
}

static void unmap_bars(PciDevice *dev)
{
    memory_begin();
    for (unsigned n = 0; n < G_N_ELEMENTS(dev->bars); n++) {
        if (dev->bars[n].region)
            region_del(dev->bars[n].region);
        dev->bars[n].address = BAR_UNMAPPED;
    }
    memory_commit();
}

uint64_t pci_bar_address(const PciDevice *dev, unsigned n)
{
    return dev->bars[n].region ? dev->bars[n].address : BAR_UNMAPPED;
}

/* ---- Capabilities (6.7; PCIe 7.6) ---- */

uint8_t pci_add_capability(PciDevice *dev, uint8_t id, uint8_t size)
{
    uint16_t offset = dev->cap_end;

    g_return_val_if_fail(offset + size <= PCI_CONFIG_SIZE, 0);
    dev->cap_end = ALIGN_UP(offset + size, 4);
    dev->config[offset + PCI_CAP_LIST_ID] = id;
    dev->config[offset + PCI_CAP_LIST_NEXT] = dev->config[PCI_CAPABILITY_LIST];
    dev->config[PCI_CAPABILITY_LIST] = offset;
    dev->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
    return offset;
}

uint16_t pci_add_ext_capability(PciDevice *dev, uint16_t id, uint8_t version, uint16_t size)
{
    uint16_t offset = dev->ext_cap_end;

    g_return_val_if_fail(offset + size <= PCIE_CONFIG_SIZE, 0);
    st_le32(dev->config + offset, id | (uint32_t)version << 16);
    if (dev->ext_cap_last) {
        uint8_t *last = dev->config + dev->ext_cap_last;
        st_le32(last, (ld_le32(last) & 0xfffff) | (uint32_t)offset << 20);
    }
    dev->ext_cap_last = offset;
    dev->ext_cap_end = ALIGN_UP(offset + size, 4);
    return offset;
}

/* ---- INTx (6.2.2 Interrupt Disable, 6.2.3 Interrupt Status) ---- */

void pci_update_intx(PciDevice *dev)
{
    bool disabled = ld_le16(dev->config + PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE;
    bool level = dev->intx_level && !disabled;

    if (dev->intx_level)
        dev->config[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
    else
        dev->config[PCI_STATUS] &= ~PCI_STATUS_INTERRUPT;
    if (level == dev->intx_sent || !dev->intx_pin)
        return;
    dev->intx_sent = level;
    pci_bus_set_intx(PCI_BUS(dev->dev.bus), dev, dev->intx_pin - 1, level);
}

void pci_set_intx(PciDevice *dev, bool level)
{
    if (dev->intx_level == level)
        return;
    dev->intx_level = level;
    pci_update_intx(dev);
}

/* ---- Bus mastering ---- */

bool pci_bus_master(const PciDevice *dev)
{
    /* A bridge forwards requests upstream only while its own bit is set (PCIe, 7.5.1.1.3). */
    for (; dev; dev = pci_bus_bridge(PCI_BUS(dev->dev.bus)))
        if (!(dev->config[PCI_COMMAND] & PCI_COMMAND_MASTER))
            return false;
    return true;
}

AddressSpace *pci_dma(const PciDevice *dev)
{
    return pci_bus_master(dev) ? dev->dev.machine->memory : NULL;
}

static void notify_bus_master(PciDevice *dev)
{
    if (dev->bus_master_changed)
        dev->bus_master_changed(dev);
    PciBus *behind = pci_bridge_bus(dev);
    for (unsigned i = 0; behind && i < G_N_ELEMENTS(behind->devices); i++)
        if (behind->devices[i] && OBJECT(behind->devices[i])->realized)
            notify_bus_master(behind->devices[i]);
}

/* ---- Config space access ---- */

uint32_t pci_config_read(PciDevice *dev, unsigned offset, unsigned size)
{
    uint32_t value = 0;

    if (offset > pci_config_size(dev) - size)
        return UINT32_MAX >> (32 - 8 * size);
    if (pci_ops(dev)->config_reading)
        pci_ops(dev)->config_reading(dev, offset, size);
    for (unsigned i = 0; i < size; i++)
        value |= (uint32_t)dev->config[offset + i] << (8 * i);
    TRACE(pci_config_read, "%s +0x%x/%u = 0x%x", dev->dev.obj.name, offset, size, value);
    return value;
}

static void config_changed(PciDevice *dev)
{
    pci_update_mappings(dev);
    if (pci_bridge_bus(dev))
        pci_bridge_update_windows((PciBridge *)dev);
    pci_update_intx(dev);
    pci_msix_config_changed(dev);
}

void pci_config_write(PciDevice *dev, unsigned offset, uint32_t value, unsigned size)
{
    uint8_t command = dev->config[PCI_COMMAND];

    if (offset > pci_config_size(dev) - size || !OBJECT(dev)->realized)
        return;
    TRACE(pci_config_write, "%s +0x%x/%u = 0x%x", dev->dev.obj.name, offset, size, value);
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = value >> (8 * i), *reg = dev->config + offset + i;
        uint8_t wmask = dev->wmask[offset + i];
        *reg = (*reg & ~wmask) | (byte & wmask);
        *reg &= ~(byte & dev->w1cmask[offset + i]);
    }

    config_changed(dev);
    pci_msi_config_changed(dev, offset, size);
    if ((command ^ dev->config[PCI_COMMAND]) & PCI_COMMAND_MASTER)
        notify_bus_master(dev);
    if (pci_ops(dev)->config_written)
        pci_ops(dev)->config_written(dev, offset, size);
}

/* ---- The option ROM (6.3) ---- */

static bool load_rom(PciDevice *dev, GError **error)
{
    g_autofree char *data = NULL;
    gsize length;
    GError *cause = NULL;

    if (!dev->romfile || !*dev->romfile)
        return true;
    if (!g_file_get_contents(dev->romfile, &data, &length, &cause)) {
        fail(error, ERR_NOT_FOUND, "cannot read romfile: %s", cause->message);
        g_error_free(cause);
        return false;
    }
    if (length > 16 * MiB)
        return fail(error, ERR_LIMIT, "romfile '%s' is larger than 16 MiB", dev->romfile);

    uint64_t size = 2 * KiB;
    while (size < MAX(length, RAM_PAGE_SIZE))
        size *= 2;
    dev->rom_ram = ram_block_new("pci.rom", size, error);
    if (!dev->rom_ram)
        return error_prefix(error, "romfile '%s': ", dev->romfile);
    memcpy(ram_block_host(dev->rom_ram), data, length);
    region_init_rom(&dev->rom, OBJECT(dev), "pci.rom", dev->rom_ram, 0, size);
    if (dev->rombar)
        pci_register_bar(dev, PCI_ROM_BAR, PCI_BAR_MEM, &dev->rom);
    return true;
}

/* ---- Life ---- */

static size_t allocated_config(const PciDevice *dev)
{
    return pci_ops(dev)->express ? PCIE_CONFIG_SIZE : PCI_CONFIG_SIZE;
}

static void pci_device_init(Object *obj)
{
    PciDevice *dev = PCI_DEVICE(obj);

    size_t size = allocated_config(dev);

    dev->devfn = -1;
    dev->config = g_malloc0(4 * size);
    dev->wmask = dev->config + size;
    dev->w1cmask = dev->wmask + size;
    dev->initial = dev->w1cmask + size;
    dev->cap_end = 0x40;
    dev->ext_cap_end = 0x100;
    for (unsigned n = 0; n < G_N_ELEMENTS(dev->bars); n++)
        dev->bars[n].address = BAR_UNMAPPED;
}

static void pci_device_finalize(Object *obj)
{
    g_free(PCI_DEVICE(obj)->config);
}

static bool pci_device_realize(Object *obj, GError **error)
{
    PciDevice *dev = PCI_DEVICE(obj);
    const PciDeviceOps *ops = pci_ops(dev);
    uint8_t *c = dev->config;

    st_le16(c + PCI_VENDOR_ID, ops->vendor_id);
    st_le16(c + PCI_DEVICE_ID, ops->device_id);
    c[PCI_REVISION_ID] = ops->revision;
    c[PCI_CLASS_PROG] = ops->class_code;
    st_le16(c + PCI_CLASS_DEVICE, ops->class_code >> 8);
    c[PCI_HEADER_TYPE] = (ops->bridge ? PCI_HEADER_TYPE_BRIDGE : PCI_HEADER_TYPE_NORMAL) |
                         (dev->multifunction ? 0x80 : 0);
    if (!ops->bridge) {
        st_le16(c + PCI_SUBSYSTEM_VENDOR_ID, ops->subsystem_vendor_id);
        st_le16(c + PCI_SUBSYSTEM_ID, ops->subsystem_id);
    }

    st_le16(dev->wmask + PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
                                          PCI_COMMAND_PARITY | PCI_COMMAND_SERR |
                                          PCI_COMMAND_INTX_DISABLE);
    st_le16(dev->w1cmask + PCI_STATUS, STATUS_W1C);
    dev->wmask[PCI_CACHE_LINE_SIZE] = 0xff;
    dev->wmask[PCI_INTERRUPT_LINE] = 0xff;
    return true;
}

static bool pci_device_realize_done(Object *obj, GError **error)
{
    PciDevice *dev = PCI_DEVICE(obj);

    dev->config[PCI_INTERRUPT_PIN] = dev->intx_pin;
    if (!load_rom(dev, error))
        return false;
    memcpy(dev->initial, dev->config, allocated_config(dev));
    return true;
}

static void pci_device_unrealize(Object *obj)
{
    PciDevice *dev = PCI_DEVICE(obj);

    pci_set_intx(dev, false);
    unmap_bars(dev);
    pci_msix_uninit(dev);
    if (dev->rom_ram) {
        region_destroy(&dev->rom);
        ram_block_unref(dev->rom_ram);
        dev->rom_ram = NULL;
    }
    memset(dev->bars, 0, sizeof(dev->bars));
    memset(dev->config, 0, 4 * allocated_config(dev));
    dev->cap_end = 0x40;
    dev->ext_cap_end = 0x100;
    dev->ext_cap_last = 0;
    dev->msi_cap = dev->exp_cap = 0;
}

/* RST# (6.1): what the guest wrote is as after realize again.  A device's own reset follows. */
static void pci_device_reset(Object *obj)
{
    PciDevice *dev = PCI_DEVICE(obj);
    unsigned size = pci_config_size(dev);

    dev->intx_level = false;
    for (unsigned i = 0; i < size; i += 8) {
        uint64_t written = ld_le64(dev->wmask + i) | ld_le64(dev->w1cmask + i);
        st_le64(dev->config + i,
                (ld_le64(dev->config + i) & ~written) | (ld_le64(dev->initial + i) & written));
    }
    pci_msi_reset(dev);
    pci_msix_reset(dev);
    config_changed(dev);
    notify_bus_master(dev);
}

/* ---- State ---- */

static void save_config(void *obj, StateWriter *w)
{
    PciDevice *dev = obj;
    state_put_bytes(w, "config", dev->config, pci_config_size(dev));
}

static bool load_config(void *obj, StateReader *r, GError **error)
{
    PciDevice *dev = obj;
    unsigned size = pci_config_size(dev);
    g_autofree uint8_t *config = g_malloc0(size);
    size_t length;

    if (!state_get_bytes(r, "config", config, size, &length, error))
        return false;
    if (length != size)
        return fail(error, ERR_CORRUPT, "config space has %zu bytes, not %u", length, size);
    for (unsigned i = 0; i < size; i++) {
        if (config[i] == dev->config[i])
            continue;
        uint8_t fixed = ~(dev->wmask[i] | dev->w1cmask[i]);
        if (i == PCI_STATUS)
            fixed &= ~PCI_STATUS_INTERRUPT;
        if (dev->exp_cap && i == dev->exp_cap + PCI_EXP_LNKSTA + 1u)
            fixed &= ~(PCI_EXP_LNKSTA_DLLLA >> 8);      /* not while a slot is switched off */
        if (pci_msi_is_pending_byte(dev, i))
            continue;
        if ((config[i] ^ dev->config[i]) & fixed)
            return fail(error, ERR_CORRUPT,
                        "config space byte 0x%x: source has 0x%02x, this device 0x%02x", i,
                        config[i], dev->config[i]);
    }
    memcpy(dev->config, config, size);
    return true;
}

static bool has_msix(void *obj)
{
    return PCI_DEVICE(obj)->msix;
}

static bool pci_post_load(void *obj, uint32_t version, GError **error)
{
    PciDevice *dev = obj;

    if (dev->intx_level && !dev->intx_pin)
        return fail(error, ERR_CORRUPT, "an interrupt is asserted, but the device has no pin");
    config_changed(dev);
    if (dev->bus_master_changed)
        dev->bus_master_changed(dev);
    return true;
}

static const StateField pci_device_fields[] = {
    FIELD_FN(PciDevice, "config", save_config, load_config),
    FIELD(PciDevice, intx_level),
    FIELD_FN(PciDevice, "msix", pci_msix_save, pci_msix_load, .needed = has_msix),
    {}
};
static const StateTable pci_device_state = { .fields = pci_device_fields,
                                             .post_load = pci_post_load };

/* ---- Properties ---- */

/* "slot[.fn]" in hexadecimal with or without 0x, as QEMU and libvirt write it ("2", "0x2.0x1",
 * "1f.3"), or the number slot * 8 + fn. */
static bool set_addr(Object *obj, const Property *prop, json_object *value, GError **error)
{
    PciDevice *dev = PCI_DEVICE(obj);

    if (json_object_is_type(value, json_type_int)) {
        int64_t devfn;
        if (!value_to_i64(value, "property 'addr'", &devfn, error))
            return false;
        if (devfn < -1 || devfn > 255)
            return fail(error, ERR_INVALID_PARAMETER, "property 'addr' must be -1 to 255");
        dev->devfn = devfn;
        return true;
    }

    const char *text = json_object_get_string(value);
    char *end = NULL;
    unsigned long slot = 0, fn = 0;
    bool ok = json_object_is_type(value, json_type_string) && g_ascii_isxdigit(text[0]);
    if (ok) {
        slot = strtoul(text, &end, 16);
        if (*end == '.') {
            ok = g_ascii_isxdigit(end[1]);
            fn = strtoul(end + 1, &end, 16);
        }
    }
    if (!ok || *end || slot > 31 || fn > 7) {
        fail(error, ERR_INVALID_PARAMETER, "property 'addr': '%s' is not a PCI address",
             text ? text : "null");
        return error_hint(error, "slot[.function] in hexadecimal: 0 to 1f, 0 to 7, as in 2.1");
    }
    dev->devfn = PCI_DEVFN(slot, fn);
    return true;
}

static json_object *get_addr(Object *obj, const Property *prop)
{
    return json_object_new_int(PCI_DEVICE(obj)->devfn);
}

static const Property pci_device_props[] = {
    PROP_FN("addr", get_addr, set_addr,
            .help = "slot and function on the bus, in hexadecimal: 06.0 or 06"),
    PROP("multifunction", PciDevice, multifunction,
         .help = "function 0: more functions may be in the slot"),
    PROP("romfile", PciDevice, romfile, .help = "file with an option ROM"),
    PROP("rombar", PciDevice, rombar, .def.u = 1, .max = 1,
         .help = "1: the option ROM is in the ROM BAR; 0: it is hidden"),
    PROP("acpi-index", PciDevice, acpi_index,
         .help = "index that a stable interface name is made of"),
    {}
};

static const Type pci_device_type = {
    .name = "pci-device", .parent = "device", .help = "PCI device", .size = sizeof(PciDevice),
    .abstract = true, .bus_type = "pci-bus", .props = pci_device_props,
    .state = &pci_device_state, .init = pci_device_init, .finalize = pci_device_finalize,
    .realize = pci_device_realize, .realize_done = pci_device_realize_done,
    .unrealize = pci_device_unrealize, .reset = pci_device_reset,
};
TYPE_REGISTER(pci_device_type)

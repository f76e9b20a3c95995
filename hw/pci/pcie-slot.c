/*
 * Hot-plug as the guest sees it:
 *
 *     plug     the card is in (presence), the button was pressed; the guest turns the power on, the
 *              link comes up, and the card answers.
 *     unplug   the button was pressed; the guest lets the card go, and cuts the power: that is when
 *              it leaves.
 *
 * A card without power is reset and does not answer.  One that the guest switched off by itself
 * stays.
 */
#include "hw/pci/pcie-slot.h"
#include "src/base/trace.h"
#include "src/base/util.h"

#define EVENTS                                                                                     \
    (PCI_EXP_SLTSTA_ABP | PCI_EXP_SLTSTA_PDC | PCI_EXP_SLTSTA_CC | PCI_EXP_SLTSTA_DLLSC)
#define CONTROLS                                                                                   \
    (PCI_EXP_SLTCTL_ABPE | PCI_EXP_SLTCTL_PDCE | PCI_EXP_SLTCTL_CCIE | PCI_EXP_SLTCTL_HPIE |       \
     PCI_EXP_SLTCTL_AIC | PCI_EXP_SLTCTL_PIC | PCI_EXP_SLTCTL_PCC | PCI_EXP_SLTCTL_DLLSCE)
#define CAPABILITIES                                                                               \
    (PCI_EXP_SLTCAP_ABP | PCI_EXP_SLTCAP_PCP | PCI_EXP_SLTCAP_AIP | PCI_EXP_SLTCAP_PIP |           \
     PCI_EXP_SLTCAP_HPC)
enum { SLOT_NUMBER_SHIFT = 19, MSIX_VECTOR = 0 };

static uint8_t *reg(const PcieSlot *s, unsigned offset)
{
    return s->port->config + s->port->exp_cap + offset;
}

static uint16_t slot_status(const PcieSlot *s)
{
    return ld_le16(reg(s, PCI_EXP_SLTSTA));
}

static uint16_t slot_control(const PcieSlot *s)
{
    return ld_le16(reg(s, PCI_EXP_SLTCTL));
}

static void set_bits(uint8_t *r, uint16_t mask, uint16_t bits)
{
    st_le16(r, (ld_le16(r) & ~mask) | (bits & mask));
}

/* Function 0 is the card: the others are found by it (PCI 3.0, 6.2.1). */
static bool occupied(const PcieSlot *s)
{
    return s->bus->devices[0];
}

static bool powered(const PcieSlot *s)
{
    return !(slot_control(s) & PCI_EXP_SLTCTL_PCC);
}

static bool blinking(const PcieSlot *s)
{
    return (slot_control(s) & PCI_EXP_SLTCTL_PIC) == PCI_EXP_SLTCTL_PWR_IND_BLINK;
}

/* ---- events (6.7.3) ---- */

/* A message when an enabled event comes to none; or a level as long as there is one (6.7.3.4). */
static void notify(PcieSlot *s)
{
    uint16_t status = slot_status(s), control = slot_control(s);
    uint16_t enabled = status & control & EVENTS & ~PCI_EXP_SLTSTA_DLLSC;
    bool link = status & PCI_EXP_SLTSTA_DLLSC && control & PCI_EXP_SLTCTL_DLLSCE;
    bool due = control & PCI_EXP_SLTCTL_HPIE && (enabled || link), msix = pci_msix_enabled(s->port);

    if (msix && due && !s->due)
        pci_msix_notify(s->port, MSIX_VECTOR);
    s->due = due;
    pci_set_intx(s->port, due && !msix);
}

static void event(PcieSlot *s, uint16_t status)
{
    if (!s->hotplug)
        return;
    TRACE(pcie_slot_event, "%s status 0x%x control 0x%x", s->port->dev.obj.name, status,
          slot_control(s));
    set_bits(reg(s, PCI_EXP_SLTSTA), status, status);
    notify(s);
}

/* What is plugged and powered says what these bits are.  True: the link went up or down. */
static bool update_status(PcieSlot *s)
{
    uint8_t *link = reg(s, PCI_EXP_LNKSTA);
    uint16_t before = ld_le16(link);

    s->bus->off = !powered(s);
    set_bits(reg(s, PCI_EXP_SLTSTA), PCI_EXP_SLTSTA_PDS, occupied(s) ? PCI_EXP_SLTSTA_PDS : 0);
    if (s->hotplug)                         /* else it is not reported, and 0 (7.5.3.8) */
        set_bits(link, PCI_EXP_LNKSTA_DLLLA, occupied(s) && powered(s) ? PCI_EXP_LNKSTA_DLLLA : 0);
    return before != ld_le16(link);
}

/* ---- plugging ---- */

static bool slot_takes(PciBus *bus, PciDevice *dev, GError **error)
{
    PcieSlot *s = bus->slot;

    if (dev->devfn > 0 && occupied(s))
        return fail(error, ERR_IN_USE,
                    "function 0 of '%s' is there already: a further function would not be seen",
                    bus->bus.obj.name);
    return true;
}

/* The guest hears of the card with function 0, the last one. */
static void slot_plugged(PciBus *bus, PciDevice *dev)
{
    if (dev->devfn == 0)
        event(bus->slot, PCI_EXP_SLTSTA_PDC | PCI_EXP_SLTSTA_ABP);
}

static bool slot_unplug(PciBus *bus, PciDevice *dev, GError **error)
{
    PcieSlot *s = bus->slot;

    if (blinking(s)) {
        fail(error, ERR_IN_USE, "the guest is busy with the slot of '%s'", bus->bus.obj.name);
        return error_hint(error, "try again when its power indicator no longer blinks");
    }
    s->unplug_asked = true;
    if (occupied(s) && powered(s))
        event(s, PCI_EXP_SLTSTA_ABP);
    else                                    /* the guest does not use it */
        loop_bh_schedule(&s->eject);
    return true;
}

static const PciHotplugOps slot_ops = {
    .takes = slot_takes, .plugged = slot_plugged, .unplug = slot_unplug,
};

/* Main thread: all functions of the card. */
static void eject(void *opaque)
{
    PcieSlot *s = opaque;

    if (!s->unplug_asked)
        return;                             /* a reset came between */
    s->unplug_asked = false;
    for (unsigned fn = 8; fn-- > 0;)
        if (s->bus->devices[fn])
            device_delete(&s->bus->devices[fn]->dev);
}

static void devices_changed(PciBus *bus)
{
    PcieSlot *s = bus->slot;
    bool was_there = slot_status(s) & PCI_EXP_SLTSTA_PDS;
    bool link = update_status(s), left = was_there && !occupied(s);

    if (s->port->dev.machine->ready && left)
        event(s, PCI_EXP_SLTSTA_PDC | (link ? PCI_EXP_SLTSTA_DLLSC : 0));
}

/* ---- the guest's side ---- */

static void power_changed(PcieSlot *s)
{
    bool link = update_status(s);

    TRACE(pcie_slot_power, "%s %s", s->port->dev.obj.name, powered(s) ? "on" : "off");
    if (!powered(s)) {
        for (unsigned fn = 0; fn < 8; fn++)
            if (s->bus->devices[fn])
                pci_bus_reset_device(s->bus->devices[fn]);
        if (s->unplug_asked)
            loop_bh_schedule(&s->eject);
    }
    if (link)
        event(s, PCI_EXP_SLTSTA_DLLSC);
}

void pcie_slot_config_written(PcieSlot *s, unsigned offset, unsigned size)
{
    unsigned control = s->port->exp_cap + PCI_EXP_SLTCTL;

    if (!s->hotplug)
        return;
    if (s->bus->off == powered(s))
        power_changed(s);
    if (offset < control + 2 && control < offset + size)
        set_bits(reg(s, PCI_EXP_SLTSTA), PCI_EXP_SLTSTA_CC, PCI_EXP_SLTSTA_CC);   /* 6.7.3.2 */
    notify(s);
}

/* ---- life ---- */

void pcie_slot_init(PcieSlot *s, PciDevice *port, PciBus *bus, unsigned number, bool hotplug)
{
    uint8_t cap = port->exp_cap, *flags = port->config + cap + PCI_EXP_FLAGS;

    s->port = port;
    s->bus = bus;
    s->hotplug = hotplug;
    bus->slot = s;
    bus->devices_changed = devices_changed;
    loop_bh_init(&s->eject, loop_main(), eject, s);
    set_bits(flags, PCI_EXP_FLAGS_SLOT, PCI_EXP_FLAGS_SLOT);
    st_le32(port->config + cap + PCI_EXP_SLTCAP,
            (uint32_t)number << SLOT_NUMBER_SHIFT | (hotplug ? CAPABILITIES : 0));
    if (!hotplug)
        return;
    bus->hotplug = &slot_ops;
    st_le32(port->config + cap + PCI_EXP_LNKCAP,
            ld_le32(port->config + cap + PCI_EXP_LNKCAP) | PCI_EXP_LNKCAP_DLLLARC);
    st_le16(port->wmask + cap + PCI_EXP_SLTCTL, CONTROLS);
    st_le16(port->w1cmask + cap + PCI_EXP_SLTSTA, EVENTS);
}

void pcie_slot_fini(PcieSlot *s)
{
    if (s->eject.loop)
        loop_bh_cancel(&s->eject);
}

/* A card that is there has power then, as firmware and kernels expect; an empty slot has none. */
void pcie_slot_reset(PcieSlot *s)
{
    s->unplug_asked = false;
    if (s->hotplug)
        set_bits(reg(s, PCI_EXP_SLTCTL),
                 PCI_EXP_SLTCTL_AIC | PCI_EXP_SLTCTL_PIC | PCI_EXP_SLTCTL_PCC,
                 PCI_EXP_SLTCTL_ATTN_IND_OFF |
                     (occupied(s) ? PCI_EXP_SLTCTL_PWR_IND_ON
                                  : PCI_EXP_SLTCTL_PWR_IND_OFF | PCI_EXP_SLTCTL_PWR_OFF));
    update_status(s);
    s->due = false;
    pci_set_intx(s->port, false);
}

static const StateField slot_fields[] = {
    FIELD(PcieSlot, unplug_asked),
    FIELD(PcieSlot, due),
    {}
};
const StateTable pcie_slot_state = { .fields = slot_fields };

void pcie_slot_state_loaded(PcieSlot *s)
{
    update_status(s);
    if (s->unplug_asked && !powered(s))
        loop_bh_schedule(&s->eject);
}

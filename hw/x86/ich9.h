/*
 * The ICH9 south bridge (Intel I/O Controller Hub 9 data sheet, 316972): what its parts, the board
 * and the ACPI tables share.
 */
#pragma once
#include "hw/pci/pci.h"
#include "hw/timer/guest-timer.h"

#define ICH9_LPC_SLOT 0x1f

/* LPC bridge, D31:F0, configuration (chapter 13.1). */
enum {
    LPC_PMBASE = 0x40, LPC_ACPI_CNTL = 0x44, LPC_PIRQA_ROUT = 0x60, LPC_PIRQE_ROUT = 0x68,
    LPC_GEN_PMCON_1 = 0xa0, LPC_RCBA = 0xf0,
};
enum {
    ACPI_CNTL_ACPI_EN = 0x80, ACPI_CNTL_SCI_SEL = 0x07,
    PIRQ_OFF = 0x80,                        /* PIRQ[n]_ROUT: not routed to an ISA line */
};

/* Power management I/O registers, from PMBASE on (13.8.3). */
enum {
    PM1_STS = 0x00, PM1_EN = 0x02, PM1_CNT = 0x04, PM_TMR = 0x08, GPE0_STS = 0x20, GPE0_EN = 0x28,
    SMI_EN = 0x30, SMI_STS = 0x34, PM_REGS_SIZE = 0x40,
};
#define GPE0_LENGTH 16                      /* GPE0_STS and GPE0_EN together */

/* Reset control, port 0xcf9 (13.7.5). */
#define ICH9_RST_CNT_PORT 0xcf9
enum { RST_CNT_SYS_RST = 0x02, RST_CNT_RST_CPU = 0x04, RST_CNT_FULL_RST = 0x08 };

/* ACPI power management; part of the LPC bridge (ich9-pm.c).  VM lock. */
typedef struct Ich9Pm {
    Machine *machine;
    Region io, regs_io, timer_io;           /* at PMBASE; PM_TMR is apart */
    uint8_t regs[PM_REGS_SIZE];
    GuestTimer overflow;                    /* only while TMROF_EN asks for it */
    int64_t overflow_ns;                    /* guest clock of the next TMROF_STS; what was before is in */
    unsigned sci_gsi;
} Ich9Pm;
void ich9_pm_init(Ich9Pm *pm, Object *owner, Machine *machine);
void ich9_pm_destroy(Ich9Pm *pm);
void ich9_pm_reset(Ich9Pm *pm);
void ich9_pm_set_sci(Ich9Pm *pm, unsigned gsi);
void ich9_pm_set_acpi_mode(Ich9Pm *pm, bool on);    /* SCI_EN */
void ich9_pm_power_button(Ich9Pm *pm);
extern const StateTable ich9_pm_state;
void ich9_pm_state_loaded(Ich9Pm *pm);      /* from the bridge's post_load */

/* The power button of the machine's LPC bridge; what firmware would set up in it before an operating
 * system starts: PMBASE, RCBA, PIRQs.  After a reset. */
void ich9_lpc_power_button(PciDevice *lpc);
void ich9_lpc_firmware_setup(PciDevice *lpc);
/* Routing of INTx on the root bus, which is fixed: PIRQ 0 to 7 (A to H), on GSI 16 and up. */
uint8_t ich9_pirq(unsigned slot, unsigned pin);
uint8_t ich9_pirq_gsi(unsigned slot, unsigned pin);

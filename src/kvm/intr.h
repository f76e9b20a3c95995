/*
 * Where a machine's interrupts go: KVM's irqchip, or a recorder in tests.  GSIs 0-15 are the ISA
 * lines (PIC and IOAPIC), 16-23 the IOAPIC's PCI inputs.  MSI routes are for irqfds: a route is a
 * message that an eventfd sends.
 */
#pragma once
#include <stdint.h>
#include "src/base/error.h"

typedef struct IntrController IntrController;
typedef struct IntrOps {
    /* With a kernel IOAPIC only: the machine's own IOAPIC has the lines otherwise.  ISA line 0 is
     * the IOAPIC's input 2 (so a MADT needs that override), as on every PC. */
    void (*set_gsi)(IntrController *ic, unsigned gsi, bool level);              /* any thread */
    void (*send_msi)(IntrController *ic, uint64_t address, uint32_t data);      /* any thread */
    /* Returns a route number, or -1.  VM lock for these five. */
    int (*route_add)(IntrController *ic, uint64_t address, uint32_t data, GError **error);
    void (*route_update)(IntrController *ic, int route, uint64_t address, uint32_t data);
    void (*route_del)(IntrController *ic, int route);
    bool (*irqfd_add)(IntrController *ic, int route, int eventfd, GError **error);
    void (*irqfd_del)(IntrController *ic, int route, int eventfd);
    /* Optional (NULL: nothing to gain).  Between batch(true) and batch(false), which nest, changes
     * of routes are collected; irqfds added meanwhile work from the end on.  VM lock. */
    void (*batch)(IntrController *ic, bool begin);
    /* A userspace IOAPIC tells which message each pin sends (@data: with bit 15 for a level pin),
     * so that the LAPICs report its EOIs; NULL where that is not needed.  @masked: none.
     * VM lock. */
    void (*ioapic_route)(IntrController *ic, unsigned pin, bool masked, uint64_t address,
                         uint32_t data);
    /* The output of a userspace PIC, LINT0 of the boot CPU; NULL with a kernel PIC.  VM lock. */
    void (*set_extint)(IntrController *ic, bool level);
    bool kernel_ioapic;                     /* false: the machine has one of ours (split, tests) */
    bool kernel_pic;                        /* the same of the PICs, and of the PIT with port 0x61 */
} IntrOps;
struct IntrController {
    const IntrOps *ops;
    /* Set by a userspace IOAPIC: an EOI of @vector came from a LAPIC.  Called in a vCPU thread,
     * under the VM lock. */
    void (*eoi)(void *opaque, unsigned vector);
    void *eoi_opaque;
    /* Set by a userspace PIC: the CPU takes its interrupt; returns the vector.  Called in a vCPU
     * thread, under the VM lock. */
    uint8_t (*acknowledge)(void *opaque);
    void *acknowledge_opaque;
    bool pit;                               /* with a kernel PIC: the machine has a PIT, too */
};

/*
 * Where a machine's interrupts go: KVM's irqchip, or a recorder in tests.  GSIs 0-15 are the ISA lines (PIC and IOAPIC), 16-23 the IOAPIC's
 * PCI inputs.  MSI routes are for irqfds: a route is a message that an eventfd sends.
 */
#pragma once
#include <stdint.h>
#include "src/base/error.h"

typedef struct IntrController IntrController;
typedef struct IntrOps {
    void (*set_gsi)(IntrController *ic, unsigned gsi, bool level);              /* any thread */
    void (*send_msi)(IntrController *ic, uint64_t address, uint32_t data);      /* any thread */
    /* Returns a route number, or -1.  VM lock for these five. */
    int (*route_add)(IntrController *ic, uint64_t address, uint32_t data, GError **error);
    void (*route_update)(IntrController *ic, int route, uint64_t address, uint32_t data);
    void (*route_del)(IntrController *ic, int route);
    bool (*irqfd_add)(IntrController *ic, int route, int eventfd, GError **error);
    void (*irqfd_del)(IntrController *ic, int route, int eventfd);
    bool kernel_ioapic;                     /* false: the machine has an IOAPIC of ours (split, tests) */
    bool kernel_pic;
} IntrOps;
struct IntrController {
    const IntrOps *ops;
};

/*
 * The ISA bus behind the LPC bridge: I/O ports, and the 16 interrupt lines (GSIs 0-15).  A device
 * on it is_a "isa-device" and maps its own ports in realize.
 */
#pragma once
#include "hw/core/device.h"

typedef struct IsaDevice {
    Device dev;
} IsaDevice;
#define ISA_DEVICE(ptr) ((IsaDevice *)(ptr))

#define ISA_NUM_IRQS 16

/* Where ports are mapped. */
Region *isa_io(const IsaDevice *isa);
/* The line @irq; false if there is none of that number. */
bool isa_get_irq(const IsaDevice *isa, unsigned irq, IrqLine **ret, GError **error);

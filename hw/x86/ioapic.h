/* The machine's own IOAPIC, where KVM has none (split irqchip, tests). */
#pragma once
#include "hw/core/device.h"

/* An input of it; ISA line 0 is input 2. */
void ioapic_set_input(Device *ioapic, unsigned input, bool level);

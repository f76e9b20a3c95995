/* The machine's own pair of PICs, where KVM has none (split irqchip, tests). */
#pragma once
#include "hw/core/device.h"

#define PIC_LINES 16

/* ISA lines: 0 to 7 are the master's inputs, 8 to 15 the slave's; 2 is the cascade.  VM lock. */
void i8259_set_input(Device *pic, unsigned line, bool level);

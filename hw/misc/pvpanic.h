/* ISA pvpanic, as the ACPI tables describe it. */
#pragma once
#include "hw/core/device.h"

/* The I/O port of the machine's pvpanic device; 0: it has none. */
uint16_t pvpanic_port(Machine *m);

/*
 * Interrupt lines.  An IrqLine is an input of somebody: the device that drives it sets a level.  What
 * takes the machine's interrupts in the end is an IntrController (src/kvm/intr.h).
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "src/kvm/intr.h"

/* Embedded in the receiver; drivers hold a pointer.  VM lock. */
typedef struct IrqLine {
    void (*set)(void *opaque, unsigned n, bool level);
    void *opaque;
    unsigned n;
    bool level;                             /* as last set */
} IrqLine;

static inline void irq_line_init(IrqLine *line, void (*set)(void *, unsigned, bool), void *opaque,
                                 unsigned n)
{
    *line = (IrqLine){ .set = set, .opaque = opaque, .n = n };
}

static inline void irq_set(IrqLine *line, bool level)
{
    if (line) {
        line->level = level;
        line->set(line->opaque, line->n, level);
    }
}

static inline void irq_pulse(IrqLine *line)
{
    irq_set(line, true);
    irq_set(line, false);
}

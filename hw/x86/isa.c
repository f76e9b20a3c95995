/* What ISA devices need of their bus. */
#include "hw/x86/isa.h"

Region *isa_io(const IsaDevice *isa)
{
    return &isa->dev.machine->io_root;
}

bool isa_get_irq(const IsaDevice *isa, unsigned irq, IrqLine **ret, GError **error)
{
    if (irq >= ISA_NUM_IRQS)
        return fail(error, ERR_INVALID_PARAMETER, "there is no ISA interrupt %u, the last one is %d",
                    irq, ISA_NUM_IRQS - 1);
    *ret = &isa->dev.machine->gsi[irq];
    return true;
}

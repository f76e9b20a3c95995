/* The machine "none": no board at all.  For listings, and for tools that ask over QMP. */
#include "hw/core/machine.h"

static const MachineOps none_ops = {
    .max_cpus = 1, .default_ram_id = "ram",
};

static const Type none_type = {
    .name = "none", .parent = "machine", .help = "empty machine", .ops = &none_ops,
};
TYPE_REGISTER(none_type)

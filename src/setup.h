/* Builds a machine from a parsed command line, in the named phases of setup.c. */
#pragma once
#include "src/cli/config.h"
#include "src/vm.h"

/* Everything but starting the vCPUs.  Main thread; errors name the option. */
bool vm_setup(Vm *vm, const Config *config, GError **error);

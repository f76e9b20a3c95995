#include "src/vm.h"

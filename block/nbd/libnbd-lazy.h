/* libnbd is not linked: see src/base/lazylib.h. */
#pragma once
#include "src/base/error.h"

/* To be true before any function of libnbd is called.  Any thread. */
bool libnbd_load(GError **error);

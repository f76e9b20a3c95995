/* GnuTLS is not linked: see src/base/lazylib.h. */
#pragma once
#include "src/base/error.h"

/* To be true before any function of GnuTLS is called.  Any thread. */
bool gnutls_load(GError **error);

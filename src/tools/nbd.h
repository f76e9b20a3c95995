/* The parts of vireo-nbd. */
#pragma once
#include "src/object/object.h"

/* --list: what a server offers, on standard output.  NULL: not given. */
bool nbd_list(Object *root, const char *socket, const char *host, const char *port,
              const char *tls_creds, GError **error);

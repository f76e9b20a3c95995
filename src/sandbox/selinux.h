/* SELinux labels, through libselinux, which is loaded when a label is asked for. */
#pragma once
#include "src/base/error.h"

/* Whether this host's kernel knows labels; @what: the option that wants one, for the error. */
bool selinux_usable(const char *what, GError **error);
/* The label of sockets that the calling thread makes from now on; NULL: the process's, as ever.  Only after
 * selinux_usable.  Every label that was set must be taken back. */
bool selinux_label_sockets(const char *what, const char *label, GError **error);

/* SELinux labels of sockets. */
#include "src/sandbox/selinux.h"
#ifdef HAVE_SELINUX
#include <errno.h>
#include <selinux/selinux.h>
#include "src/base/lazylib.h"

#define FUNCTIONS(F) F(is_selinux_enabled) F(setsockcreatecon_raw)

FUNCTIONS(LAZY_FUNCTION)

static const LazyFunction functions[] = { FUNCTIONS(LAZY_ENTRY){ NULL, NULL } };

static LazyLibrary libselinux = { "libselinux.so.1", "libselinux1", functions, PTHREAD_MUTEX_INITIALIZER,
                                  false };

bool selinux_usable(const char *what, GError **error)
{
    if (!lazy_library_load(&libselinux, error))
        return error_prefix(error, "%s: ", what);
    if (is_selinux_enabled() == 1)
        return true;
    fail(error, ERR_UNSUPPORTED, "%s: SELinux is not enabled in this host's kernel", what);
    return error_hint(error, "without it sockets have no labels, and none is needed");
}

bool selinux_label_sockets(const char *what, const char *label, GError **error)
{
    if (setsockcreatecon_raw(label) == 0)
        return true;
    return label ? fail_errno(error, errno, "%s: cannot label sockets '%s'", what, label)
                 : fail_errno(error, errno, "%s: cannot take the label of sockets back", what);
}
#else
bool selinux_usable(const char *what, GError **error)
{
    return fail(error, ERR_UNSUPPORTED, "%s: this build has no SELinux", what);
}

bool selinux_label_sockets(const char *what, const char *label, GError **error)
{
    return selinux_usable(what, error);
}
#endif

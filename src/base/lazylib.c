/* Loading libraries late. */
#include "src/base/lazylib.h"
#include <dlfcn.h>

static bool load(LazyLibrary *library, GError **error)
{
    void *handle = dlopen(library->file, RTLD_NOW | RTLD_LOCAL);

    if (!handle) {
        fail(error, ERR_UNSUPPORTED, "cannot load %s: %s", library->file, dlerror());
        return error_hint(error, "install the package %s", library->package);
    }
    for (const LazyFunction *f = library->functions; f->name; f++) {
        *f->at = dlsym(handle, f->name);
        if (!*f->at)
            return fail(error, ERR_UNSUPPORTED, "%s has no function %s: it is of another version than "
                        "this program was built for", library->file, f->name);
    }
    return true;
}

bool lazy_library_load(LazyLibrary *library, GError **error)
{
    bool loaded;

    pthread_mutex_lock(&library->lock);
    loaded = library->loaded = library->loaded || load(library, error);
    pthread_mutex_unlock(&library->lock);
    return loaded;
}

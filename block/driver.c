/* The registry of block drivers, filled before main() and read-only afterwards. */
#include "block/driver.h"

static GPtrArray *drivers;

void block_driver_register(const BlockDriver *driver)
{
    if (!drivers)
        drivers = g_ptr_array_new();
    if (block_driver_find(driver->name))
        g_error("block driver '%s' is registered twice", driver->name);
    g_ptr_array_add(drivers, (gpointer)driver);
}

const BlockDriver *block_driver_find(const char *name)
{
    for (unsigned i = 0; drivers && i < drivers->len; i++) {
        const BlockDriver *driver = drivers->pdata[i];

        if (!strcmp(driver->name, name))
            return driver;
    }
    return NULL;
}

void block_driver_foreach(void (*fn)(const BlockDriver *driver, void *opaque), void *opaque)
{
    for (unsigned i = 0; drivers && i < drivers->len; i++)
        if (!((const BlockDriver *)drivers->pdata[i])->internal)
            fn(drivers->pdata[i], opaque);
}

#include "src/cli/config.h"

static void put_json(void *value)
{
    json_object_put(value);
}

Config *config_new(void)
{
    Config *c = g_new0(Config, 1);
    GPtrArray **lists[] = { &c->objects, &c->chardevs, &c->blockdevs, &c->drives,
                            &c->devices, &c->globals, &c->add_fds, &c->mons };
    GPtrArray **texts[] = { &c->serials, &c->monitors, &c->qmps, &c->qmps_pretty, &c->debugcons,
                            &c->traces };

    for (size_t i = 0; i < G_N_ELEMENTS(lists); i++)
        *lists[i] = g_ptr_array_new_with_free_func(put_json);
    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++)
        *texts[i] = g_ptr_array_new_with_free_func(g_free);
    c->origins = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    return c;
}

void config_set_origin(Config *c, json_object *opts, const char *origin)
{
    g_hash_table_insert(c->origins, opts, g_strdup(origin));
}

bool config_blame(const Config *c, json_object *opts, GError **error)
{
    const char *origin = g_hash_table_lookup(c->origins, opts);

    return origin ? error_prefix(error, "%s: ", origin) : false;
}

void config_free(Config *c)
{
    if (!c)
        return;

    GPtrArray *arrays[] = { c->objects, c->chardevs, c->blockdevs, c->drives,   c->devices,
                            c->globals, c->add_fds,  c->mons,      c->serials,  c->monitors,
                            c->qmps,    c->qmps_pretty, c->debugcons, c->traces };
    json_object *values[] = { c->machine, c->memory, c->rtc, c->boot, c->actions, c->overcommit };
    char *texts[] = { c->cpu,      c->name,    c->process_name, c->uuid,    c->kernel,   c->initrd,
                      c->append,   c->firmware, c->mem_path,    c->pidfile, c->log_file,
                      c->log_mask };

    for (size_t i = 0; i < G_N_ELEMENTS(arrays); i++)
        g_ptr_array_unref(arrays[i]);
    for (size_t i = 0; i < G_N_ELEMENTS(values); i++)
        json_object_put(values[i]);
    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++)
        g_free(texts[i]);
    g_hash_table_unref(c->origins);
    g_free(c);
}

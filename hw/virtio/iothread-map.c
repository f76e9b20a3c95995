/* Which iothreads serve a device's queues: the property, and what follows from it. */
#include "hw/virtio/iothread-map.h"
#include "src/base/options.h"

typedef struct Entry {
    Object *iothread;                       /* held */
    GArray *vqs;                            /* of uint64_t; NULL: not given */
} Entry;

struct IothreadMap {
    GArray *entries;                        /* of Entry */
    json_object *value;                     /* as given */
};

static void entry_clear(void *opaque)
{
    Entry *entry = opaque;

    object_unref(entry->iothread);
    if (entry->vqs)
        g_array_free(entry->vqs, TRUE);
}

static void map_free(IothreadMap *map)
{
    if (!map)
        return;
    g_array_free(map->entries, TRUE);
    json_object_put(map->value);
    g_free(map);
}

static IothreadMap **member(Object *obj, const Property *prop)
{
    return property_ptr(obj, prop);
}

/* ---- the property ---- */

static bool take_iothread(Object *obj, const IothreadMap *map, json_object *item, Entry *entry,
                          GError **error)
{
    g_autofree char *path = NULL;
    const char *id = NULL;
    Object *iothread;

    if (!options_get_str(item, "iothread", &id, error))
        return false;
    if (!id)
        return fail(error, ERR_MISSING_PARAMETER, "an entry has no 'iothread'");
    path = g_strconcat("/objects/", id, NULL);
    iothread = object_resolve(obj, path);
    if (!iothread || !object_is_a(iothread, "iothread")) {
        fail(error, ERR_NOT_FOUND, "IOThread \"%s\" object does not exist", id);
        return error_object(error, "%s", id);
    }
    for (unsigned i = 0; i < map->entries->len; i++)
        if (g_array_index(map->entries, Entry, i).iothread == iothread)
            return fail(error, ERR_INVALID_PARAMETER,
                        "duplicate iothread name \"%s\" in iothread-vq-mapping", id);
    entry->iothread = object_ref(iothread);
    return true;
}

static bool take_vqs(json_object *item, Entry *entry, GError **error)
{
    json_object *list = NULL;

    if (!json_object_object_get_ex(item, "vqs", &list))
        return true;
    if (!json_object_is_type(list, json_type_array))
        return fail(error, ERR_WRONG_TYPE, "'vqs' must be a list of numbers");
    entry->vqs = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        uint64_t vq;

        if (!value_to_u64(json_object_array_get_idx(list, i), "an index in 'vqs'", &vq, error))
            return false;
        g_array_append_val(entry->vqs, vq);
    }
    return true;
}

static bool take_item(Object *obj, IothreadMap *map, json_object *item, GError **error)
{
    static const char *const known[] = { "iothread", "vqs", NULL };
    g_autoptr(json_object) rest = NULL;
    Entry entry = { NULL };
    bool ok;

    if (!json_object_is_type(item, json_type_object))
        return fail(error, ERR_WRONG_TYPE, "each entry must be an object with 'iothread' and 'vqs'");
    ok = take_iothread(obj, map, item, &entry, error) && take_vqs(item, &entry, error);
    g_array_append_val(map->entries, entry);
    if (!ok || json_object_deep_copy(item, &rest, NULL) < 0)
        return false;
    json_object_object_del(rest, "iothread");
    json_object_object_del(rest, "vqs");
    return options_check_empty(rest, "an entry", known, error);
}

static bool take_all(Object *obj, IothreadMap *map, json_object *value, GError **error)
{
    size_t n = json_object_array_length(value);

    if (!n)
        return fail(error, ERR_INVALID_PARAMETER, "the list is empty");
    for (size_t i = 0; i < n; i++) {
        if (!take_item(obj, map, json_object_array_get_idx(value, i), error))
            return false;
        if (!g_array_index(map->entries, Entry, i).vqs != !g_array_index(map->entries, Entry, 0).vqs)
            return fail(error, ERR_INVALID_PARAMETER, "either all items in iothread-vq-mapping must "
                                                      "have vqs or none of them must have it");
    }
    return true;
}

static bool set_map(Object *obj, const Property *prop, json_object *value, GError **error)
{
    g_autofree char *what = property_what(obj, prop);
    IothreadMap *map;

    if (!json_object_is_type(value, json_type_array)) {
        property_fail(obj, prop, error, ERR_WRONG_TYPE, "it must be a list");
        return error_hint(error, "as in -device '{\"driver\": …, \"%s\": [{\"iothread\": \"io0\"}, "
                                 "{\"iothread\": \"io1\"}]}'", prop->name);
    }
    map = g_new0(IothreadMap, 1);
    map->entries = g_array_new(FALSE, FALSE, sizeof(Entry));
    g_array_set_clear_func(map->entries, entry_clear);
    map->value = json_object_get(value);
    if (!take_all(obj, map, value, error)) {
        map_free(map);
        return error_prefix(error, "%s: ", what);
    }
    map_free(*member(obj, prop));
    *member(obj, prop) = map;
    return true;
}

static json_object *get_map(Object *obj, const Property *prop)
{
    const IothreadMap *map = *member(obj, prop);

    return map ? json_object_get(map->value) : json_object_new_array();
}

static void release_map(Object *obj, const Property *prop)
{
    g_clear_pointer(member(obj, prop), map_free);
}

const PropertyKind prop_iothread_map = { "IOThreadVirtQueueMappingList", set_map, get_map, release_map,
                                         NULL };

/* ---- what follows from it ---- */

static bool assign_entry(const Entry *entry, unsigned num_queues, Object **ret, GError **error)
{
    const char *id = entry->iothread->name;

    for (unsigned i = 0; i < entry->vqs->len; i++) {
        uint64_t vq = g_array_index(entry->vqs, uint64_t, i);

        if (vq >= num_queues)
            return fail(error, ERR_INVALID_PARAMETER,
                        "vq index %" G_GUINT64_FORMAT " for IOThread \"%s\" must be less than "
                        "num_queues %u in iothread-vq-mapping", vq, id, num_queues);
        if (ret[vq])
            return fail(error, ERR_INVALID_PARAMETER,
                        "cannot assign vq %" G_GUINT64_FORMAT " to IOThread \"%s\" because it is already "
                        "assigned", vq, id);
        ret[vq] = entry->iothread;
    }
    return true;
}

bool iothread_map_assign(const IothreadMap *map, unsigned num_queues, Object **ret, GError **error)
{
    const Entry *entries = (const Entry *)map->entries->data;
    unsigned n = map->entries->len;

    for (unsigned i = 0; i < num_queues; i++)
        ret[i] = entries[0].vqs ? NULL : entries[i % n].iothread;
    for (unsigned i = 0; entries[0].vqs && i < n; i++)
        if (!assign_entry(&entries[i], num_queues, ret, error))
            return false;
    for (unsigned i = 0; i < num_queues; i++)
        if (!ret[i])
            return fail(error, ERR_INVALID_PARAMETER,
                        "missing vq %u IOThread assignment in iothread-vq-mapping", i);
    return true;
}
